"""Every key of the configuration, declared once: default, rule, unit and text.

The check (edge/config.py), `edge check-config` and the reference in README.md all read these declarations, so they
cannot disagree. To add a key, add a field.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from edge.rules import PIN as _PIN
from edge.rules import Rule, Setting, is_loopback
from edge.rules import above_zero as _above_zero
from edge.rules import between as _between
from edge.rules import command_fault as _command_fault
from edge.rules import key as _key
from edge.rules import one_of as _one_of
from edge.rules import path as _path
from edge.rules import proxy_fault as _proxy_fault
from edge.rules import switch as _switch
from edge.rules import text as _text
from edge.rules import timezone_fault as _timezone_fault
from edge.rules import url_fault as _url_fault

OVERLAP_MS = 500  # what an aia-v4 server keeps of a segment for the next one (PROTOCOL.md, "Segments")
# An aia-v4 server confirms whole segments only: a ring that cannot hold one, what may be unconfirmed behind it (2 s)
# and what is captured while that is polled would fill up and never be emptied.
BEHIND_CUT_S = 5.0
MAX_RING_BYTES = 1 << 30
SAMPLE_BYTES = 2


# --- the keys --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Server:
    """Where the audio goes, and under which names."""

    url: str = _key(
        "http://127.0.0.1:8765",
        "The transcription server. The default is an `edge receive` on the same machine. Empty: none; everything is "
        "kept on the card, and delivered once there is one.",
        Rule(
            "http(s)://HOST[:PORT] and nothing behind it, or empty; http only to this machine", _url_fault, private=True
        ),
        option="--server",
    )
    token_file: str = _key(
        "",
        "File with the server's token, one line; a relative path starts at the configuration file. "
        "Empty: the systemd credential `token`, or else no token.",
        _path(),
        option="--token-file",
    )
    token_command: str = _key(
        "",
        "Program that prints the token, run without a shell; its output serves until shortly before it expires. Only "
        "in a file below `/etc`, and on no file system that any computer can write, such as a boot partition.",
        Rule("an absolute path and arguments, or empty", _command_fault),
    )
    refresh_url: str = _key(
        "",
        "Supabase project that gives new tokens (`/auth/v1/token`); it needs the next two.",
        Rule("http(s)://HOST[:PORT] and nothing behind it, or empty", _url_fault, private=True),
    )
    refresh_key_file: str = _key("", "File with that project's public (`anon`) key, one line.", _path())
    refresh_token_file: str = _key(
        "",
        "File with the refresh token to begin with, one line. Each is used once, the next one is kept in the state "
        "directory; a file with another content takes over.",
        _path(),
    )
    ca_file: str = _key(
        "",
        "PEM file with the only certificates that are trusted: authorities, or the server's own. Empty: those that "
        "this machine trusts. This and the next two start at the configuration file, like `token_file`.",
        _path(),
    )
    client_cert: str = _key(
        "", "PEM file with the certificate, and its chain, that a server gets which asks for one.", _path()
    )
    client_key: str = _key("", "PEM file with its key, unencrypted. Empty: it stands in `client_cert`.", _path())
    agent: str = _key(
        "edge", "Agent that gets the transcript; the server must know it.", _text("1 to 200 characters", r".{1,200}"),
        option="--agent",
    )  # fmt: skip
    event: str = _key(
        "recording", "Event under which the recording is filed.", _text("1 to 200 characters", r".{1,200}"),
        option="--event",
    )  # fmt: skip
    language: str = _key(
        "",
        "Spoken language. Empty: the server decides.",
        _text('a language tag such as "de" or "en-GB", or empty', r"([A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*)?"),
    )
    timezone: str = _key(
        "",
        "Time zone of the place. Empty: the server decides.",
        Rule('an IANA name such as "Europe/Berlin", or empty', _timezone_fault),
    )
    allow_insecure: bool = _key(
        False, "Permit `http://` beyond this machine: token and audio then travel readable.", _switch()
    )


@dataclass(frozen=True, slots=True)
class Audio:
    """What is recorded and how it is cut into packets."""

    source: str = _key(
        "alsa:default",
        "Where sound comes from. Name the microphone (`edge devices` lists names that stay): "
        "behind `default` an unplugged one may go unnoticed for seconds.",
        _text(
            "alsa:DEVICE, wav:PATH, tone:HZ or tone:noise:SEED",
            r"(alsa|wav):.{1,4000}|tone:([1-9][0-9]{0,5}|noise:.{1,200})",
        ),
        option="--source",
    )
    fallback: str = _key(
        "",
        "Microphone that takes over when that of `source` is absent at the start, or gone for more than 3 s; until the "
        "next recording. Empty: none ever does.",
        _text("alsa:DEVICE, or empty", r"(alsa:.{1,4000})?"),
    )
    rate: int = _key(16000, "Sample rate.", _between(8000, 192000), "Hz")
    channels: int = _key(1, "Channels, interleaved.", _between(1, 8))
    packet_ms: int = _key(
        100, "Length of a packet; with `rate` it must give a whole number of frames.", _between(20, 250), "ms"
    )
    segment_target_ms: int = _key(
        15000,
        "Length of audio that the server hands to transcription at once; at least 500 ms and one packet.",
        _between(OVERLAP_MS, 600000),
        "ms",
    )


@dataclass(frozen=True, slots=True)
class Connection:
    """How patient the connection is."""

    max_reconnect_attempts: int = _key(
        10, "Attempts in a row until the state is `failed`; it then still probes once a minute.", _between(1, 100000)
    )
    initial_reconnect_delay: float = _key(
        1.0, "Wait before the second attempt; doubles each time.", _above_zero(3600), "s"
    )
    max_reconnect_delay: float = _key(
        30.0, "Longest wait between attempts; not below `initial_reconnect_delay`.", _above_zero(3600), "s"
    )
    grace_window: float = _key(
        120.0, "How long the server keeps a session without a connection.", _above_zero(86400), "s"
    )
    heartbeat_interval: float = _key(
        30.0,
        "Ping when nothing is unconfirmed; an aia-v4 server closes an idle connection after 180 s.",
        _above_zero(150),
        "s",
    )
    connection_timeout: float = _key(
        10.0, "Limit for one connection attempt and for one request.", _above_zero(300), "s"
    )
    barrier_interval: float = _key(
        0.25, "How often what was sent is confirmed; it bounds what a reset repeats.", _above_zero(5), "s"
    )
    proof_of_life_timeout: float = _key(
        25.0, "Without the server's `is_recording` for so long the session is checked.", _above_zero(600), "s"
    )
    proxy: str = _key(
        "",
        "HTTP proxy on the way to the server, by CONNECT. Empty: none, whatever the environment says. `environment`: "
        "what `https_proxy`, `http_proxy`, `all_proxy` and `no_proxy` say.",
        Rule("http://[USER:PASSWORD@]HOST[:PORT], or environment, or empty", _proxy_fault, private=True),
    )
    link_watch: bool = _key(
        True,
        "Follow the kernel's word on interfaces, addresses and routes: reconnect when the link is back, move to a "
        "better path. Off: by time-outs alone.",
        _switch(),
    )
    fleet_spread: float = _key(
        0.0,
        "Many devices on one site: when all lose their connection at once, or have their link back, each waits for a "
        "random part of this. 0: this one reconnects at once.",
        _between(0, 3600),
        "s",
    )
    shutdown_drain: float = _key(
        20.0, "After SIGTERM, deliver for so long at most; the rest is kept for the next start.", _between(0, 3600), "s"
    )


@dataclass(frozen=True, slots=True)
class Buffer:
    """The memory between microphone and network."""

    ring_seconds: float = _key(
        180.0,
        "Audio that fits into memory: at least a segment and 5 s, at most 1 GiB and half of the machine's memory.",
        _between(5, 86400),
        "s",
    )


@dataclass(frozen=True, slots=True)
class Spool:
    """What is kept on the card, beside the memory."""

    mode: str = _key(
        "always",
        "`always`: all audio is written to the card as it comes, so that neither a power cut nor an outage of any "
        "length costs more than a second or two. `ram`: no audio ever touches the card; `buffer` is then all there is.",
        _one_of("always", "ram"),
    )
    sync_interval: float = _key(
        1.0, "How often the card is made to hold what was written; it bounds what a power cut costs.",
        _between(0.1, 60), "s",
    )  # fmt: skip
    max_bytes: int = _key(
        0, "Space that the spool may take. 0: 80 % of what is free when the recorder starts.",
        _between(0, 1 << 50), "bytes",
    )  # fmt: skip
    when_full: str = _key(
        "stop-recording",
        "When neither card nor memory takes any more: end the recording in order, or give up the oldest audio that is "
        "not delivered. Either is counted, and shown.",
        _one_of("stop-recording", "drop-oldest"),
    )
    keep_days: float = _key(
        0.0, "Delivered audio stays on the card for so long, as far as there is room.", _between(0, 36500), "days"
    )
    max_recording_hours: float = _key(
        12.0, "A recording that was forgotten ends by itself after so long, and says so. 0: never.",
        _between(0, 87600), "h",
    )  # fmt: skip
    resume_within: float = _key(
        600.0,
        "After a crash or a power cut recording goes on by itself if it was away for so long at most, by clocks that "
        "are trusted.",
        _between(0, 86400),
        "s",
    )
    resume_after_power_loss: bool = _key(
        True, "Let recording go on by itself after a power cut; off: wait for a person.", _switch()
    )


@dataclass(frozen=True, slots=True)
class Panel:
    """Two buttons and two LEDs, by BCM number."""

    enabled: bool = _key(True, "Use buttons and LEDs where the machine has GPIO.", _switch())
    record_button: int = _key(17, "RECORD, closing to ground.", _PIN)
    retry_button: int = _key(27, "RETRY, closing to ground.", _PIN)
    record_led: int = _key(22, "LED: recording.", _PIN)
    safe_led: int = _key(23, "LED: everything is safe.", _PIN)


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration; every value has passed its rule."""

    server: Server = Server()
    audio: Audio = Audio()
    connection: Connection = Connection()
    buffer: Buffer = Buffer()
    spool: Spool = Spool()
    panel: Panel = Panel()


SECTIONS: dict[str, type[Any]] = {
    "server": Server,
    "audio": Audio,
    "connection": Connection,
    "buffer": Buffer,
    "spool": Spool,
    "panel": Panel,
}


@dataclass(frozen=True, slots=True)
class Known:
    """One declared key: `audio.rate`, its type, its default and its Setting."""

    key: str
    type: type[Any]
    default: Any
    setting: Setting


def _declared() -> Iterator[Known]:
    for section, holder in SECTIONS.items():
        types = get_type_hints(holder)
        for item in fields(holder):
            yield Known(f"{section}.{item.name}", types[item.name], item.default, item.metadata["setting"])


KEYS: dict[str, Known] = {known.key: known for known in _declared()}


# --- what has to fit together -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Clash:
    """`key` has a value that by itself is right; `rule` says what it must do beside those of `others`."""

    key: str
    rule: str
    others: tuple[str, ...]


def clashes(values: Mapping[str, Any]) -> Iterator[Clash]:
    """What is wrong between keys; `values` has all of them."""
    url, rate, packet_ms = values["server.url"], values["audio.rate"], values["audio.packet_ms"]
    yield from _clashes_of_server(values)
    yield from _token_clashes(values)
    if not url and values["spool.mode"] == "ram":
        rule = 'without a server nothing would be kept at all: set server.url, or spool.mode = "always"'
        yield Clash("spool.mode", rule, ("server.url",))
    if rate * packet_ms % 1000:
        yield Clash("audio.packet_ms", f"must give a whole number of frames at audio.rate = {rate}", ("audio.rate",))
    if values["audio.fallback"] and not values["audio.source"].startswith("alsa:"):
        yield Clash("audio.fallback", "needs a microphone as audio.source", ("audio.source",))
    target_ms = values["audio.segment_target_ms"]
    if target_ms < OVERLAP_MS + packet_ms:
        rule = f"must be at least {OVERLAP_MS} ms and one packet, {OVERLAP_MS + packet_ms} ms"
        yield Clash("audio.segment_target_ms", rule, ("audio.packet_ms",))
    initial = "connection.initial_reconnect_delay"
    if values["connection.max_reconnect_delay"] < values[initial]:
        yield Clash("connection.max_reconnect_delay", f"must not be below {initial} = {values[initial]:g}", (initial,))
    needed = target_ms / 1000 + BEHIND_CUT_S
    if values["buffer.ring_seconds"] < needed:
        rule = f"must be at least {needed:g} s: audio.segment_target_ms = {target_ms}, and {BEHIND_CUT_S:g} s behind it"
        yield Clash("buffer.ring_seconds", rule, ("audio.segment_target_ms",))
    frames = values["buffer.ring_seconds"] * rate
    ring_bytes, limit = int(frames * values["audio.channels"] * SAMPLE_BYTES), _ring_limit()
    if ring_bytes > limit:
        size = f"{ring_bytes >> 20} MiB at this rate; at most {limit >> 20} MiB fit on this machine"
        yield Clash("buffer.ring_seconds", f"takes {size}", ("audio.rate", "audio.channels"))
    pins: dict[int, str] = {}
    for item in fields(Panel)[1:] if values["panel.enabled"] else ():
        key = f"panel.{item.name}"
        first = pins.setdefault(values[key], key)
        if first != key:
            yield Clash(key, f"must differ from {first}", (first, "panel.enabled"))


def _clashes_of_server(values: Mapping[str, Any]) -> Iterator[Clash]:
    url = values["server.url"]
    is_plain = url.lower().startswith("http:")
    if is_plain and not is_loopback(url) and not values["server.allow_insecure"]:
        rule = "token and audio would travel readable: write https://, or set server.allow_insecure = true"
        yield Clash("server.url", rule, ("server.allow_insecure",))
    for key in ("server.ca_file", "server.client_cert"):
        if values[key] and is_plain:
            yield Clash(key, "has no use without TLS: write https:// in server.url", ("server.url",))
    if values["server.client_key"] and not values["server.client_cert"]:
        yield Clash("server.client_key", "needs its certificate, server.client_cert", ("server.client_cert",))


def _token_clashes(values: Mapping[str, Any]) -> Iterator[Clash]:
    url, files = values["server.refresh_url"], ("server.refresh_key_file", "server.refresh_token_file")
    if url.lower().startswith("http:") and not is_loopback(url) and not values["server.allow_insecure"]:
        rule = "the tokens would travel readable: write https://, or set server.allow_insecure = true"
        yield Clash("server.refresh_url", rule, ("server.allow_insecure",))
    for key in files:
        if bool(url) != bool(values[key]):
            yield Clash(key, "is needed beside server.refresh_url, and only there", ("server.refresh_url",))
    ways = [key for key in ("server.token_file", "server.token_command", "server.refresh_url") if values[key]]
    for key in ways[1:]:
        yield Clash(key, f"cannot be used beside {ways[0]}: a token comes from one place", (ways[0],))


def _ring_limit() -> int:
    return min(MAX_RING_BYTES, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
