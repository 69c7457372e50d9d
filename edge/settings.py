"""Every key of the configuration, declared once: default, rule, unit and text.

The check (edge/config.py), `edge check-config` and the reference in README.md all read these declarations, so they
cannot disagree. To add a key, add a field.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, get_type_hints
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

OVERLAP_MS = 500  # what an aia-v4 server keeps of a segment for the next one (PROTOCOL.md, "Segments")
# An aia-v4 server confirms whole segments only: a ring that cannot hold one, what may be unconfirmed behind it (2 s)
# and what is captured while that is polled would fill up and never be emptied.
BEHIND_CUT_S = 5.0
MAX_RING_BYTES = 1 << 30
SAMPLE_BYTES = 2
_T = TypeVar("_T")


# --- how a key is declared -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rule:
    """`text` completes "must be ..."; `fault` says what is wrong, None: nothing. `private` hides possible secrets."""

    text: str
    fault: Callable[[Any], str | None]
    private: bool = False


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known of one key besides its name: for the check, the reference and `check-config`."""

    doc: str
    rule: Rule
    unit: str = ""
    option: str = ""


def _key(default: _T, doc: str, rule: Rule, unit: str = "", option: str = "") -> _T:
    return field(default=default, metadata={"setting": Setting(doc, rule, unit, option)})


def _between(low: float, high: float) -> Rule:
    return Rule(f"{low:g} to {high:g}", lambda value: None if low <= value <= high else "")


def _above_zero(high: float) -> Rule:
    return Rule(f"above 0, at most {high:g}", lambda value: None if 0 < value <= high else "")


_PIN = Rule("a BCM number, 0 to 27", _between(0, 27).fault)


def _text(rule: str, pattern: str) -> Rule:
    return Rule(rule, lambda value: None if re.fullmatch(pattern, value) and value.isprintable() else "")


def _one_of(*values: str) -> Rule:
    return Rule(" or ".join(values), lambda value: None if value in values else "")


def _switch() -> Rule:
    return Rule("true or false", lambda value: None)


_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
# One's own pattern: what urlsplit lets pass differs from one Python to the next.
_URL = re.compile(rf"https?://(\[[^][/]+\]|{_LABEL}(?:\.{_LABEL})*\.?)(?::([0-9]{{1,5}}))?/?", re.ASCII | re.IGNORECASE)


def _url_fault(url: str) -> str | None:
    if not url:
        return None  # none is wanted
    if not re.fullmatch(r"[\x21-\x7e]+", url):
        return "only visible ASCII characters; write an international name in its xn-- form"
    if "@" in url:
        return "no user name or password here; the token belongs into server.token_file"
    if url.lower().startswith(("ws://", "wss://")):
        return f"write http{url.partition(':')[0][2:]}:// here; the WebSocket address is derived from it"
    match = _URL.fullmatch(url)
    if match is None or not 0 < int(match[2] or 443) < 65536 or len(match[1]) > 253:
        return ""
    return "" if match[1].startswith("[") and _address(match[1][1:-1]) is None else None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_loopback(url: str) -> bool:
    """Whether `url` leads to this machine: by address or as `localhost`, never by asking a name server."""
    host = urlsplit(url).hostname or ""
    address = _address(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return host == "localhost" if address is None else address.is_loopback


def _timezone_fault(name: str) -> str | None:
    if name == "":
        return None
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        # A machine without a zone database cannot judge any name, so it lets a plausible one pass.
        return None if not _knows_zones() and re.fullmatch(r"[A-Za-z]\w*([/+-]\w+)*", name) else ""
    return None


def _knows_zones() -> bool:
    try:
        return bool(ZoneInfo("Europe/Berlin"))
    except (ZoneInfoNotFoundError, OSError):
        return False


def _token_file_fault(value: str) -> str | None:
    return None if value.isprintable() and len(value) < os.pathconf("/", "PC_PATH_MAX") else ""


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
        Rule("a path, or empty", _token_file_fault),
        option="--token-file",
    )
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
    if url.lower().startswith("http:") and not is_loopback(url) and not values["server.allow_insecure"]:
        rule = "token and audio would travel readable: write https://, or set server.allow_insecure = true"
        yield Clash("server.url", rule, ("server.allow_insecure",))
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


def _ring_limit() -> int:
    return min(MAX_RING_BYTES, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
