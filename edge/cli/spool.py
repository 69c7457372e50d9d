"""`edge spool`: what is kept on the card, for those who look after it."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from edge.adapters.spool import SpoolDirectory
from edge.adapters.state import StateDirectory
from edge.cli import output, spool_change, spool_find
from edge.cli.options import add_config_options, folder, load_config
from edge.cli.record import positive
from edge.cli.spool_audio import Walk
from edge.cli.spool_export import export
from edge.cli.spool_find import Facts
from edge.config import DEFAULT_PATH
from edge.errors import ConfigError, ExitCode, UnreadableError

HELP = "Show, save, check, deliver or remove what is kept on the card. ID: as much of a recording's id as no other has."
# What `edge spool --help` says of each.
_COMMANDS = {
    "ls": "list the recordings, oldest first, and what was set aside",
    "export": "write a recording into a file; gaps are silence, and marked",
    "verify": "read everything, and name what is damaged",
    "deliver": "send what is owed, then end",
    "resend": "let a kept recording be delivered once more, as a new one",
    "purge": "remove a recording from the card",
}
_FLASH = (
    "overwritten and removed; a flash card puts new data elsewhere, so who takes it apart may still find the old for a "
    "while: where that matters, destroy the card"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The commands below `edge spool`, and their options."""
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    made = {name: commands.add_parser(name, help=text, description=text) for name, text in _COMMANDS.items()}
    for command in made.values():
        command.add_argument("--state", type=folder, metavar="DIR", help="state directory")
    for name in ("export", "resend", "purge"):
        made[name].add_argument("id", metavar="ID")
    made["ls"].add_argument("--json", action="store_true", help="one object, times in seconds")
    kinds = made["export"].add_mutually_exclusive_group()
    kinds.add_argument("--wav", action="store_true", help="WAV, RF64 beyond 4 GiB (default)")
    kinds.add_argument("--flac", action="store_true", help="FLAC; needs the program flac (default for NAME.flac)")
    made["export"].add_argument("path", metavar="PATH", type=folder, help="the file; it must not exist")
    made["verify"].add_argument("id", metavar="ID", nargs="?", help="only this one")
    add_config_options(made["deliver"])
    made["deliver"].add_argument("--drain-timeout", type=positive, metavar="S", help="for S seconds at most (no limit)")
    made["resend"].add_argument("--config", metavar="FILE", help=f"configuration ({DEFAULT_PATH}, where it exists)")
    made["purge"].add_argument("--yes", action="store_true", help="do not ask")
    made["purge"].add_argument(
        "--yes-lose-it", action="store_true", help="do not ask, also where it is not delivered: it is lost then"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command below; returns its exit code."""
    match args.command:
        case "ls":
            return _ls(args)
        case "export":
            return _export(args)
        case "verify":
            return _verify(args)
        case "deliver":
            from edge.cli import spool_deliver  # the only one that needs the network's libraries

            return spool_deliver.run(args)
        case "resend":
            return _resend(args)
        case _:
            return _purge(args)


def _spool(args: argparse.Namespace) -> SpoolDirectory:
    return spool_find.spool_of(spool_find.state_path(args.state))


# --- ls --------------------------------------------------------------------------------------------------------------


def _ls(args: argparse.Namespace) -> int:
    path = spool_find.state_path(args.state)
    spool = spool_find.spool_of(path)
    found = list(spool_find.listed(spool, is_in_use=spool_find.is_in_use(path)))
    recordings = [item for item in found if isinstance(item, Facts)]
    bad = [(*item, "") for item in found if not isinstance(item, Facts)]
    aside = [(*item, "quarantine") for item in spool_find.quarantined(spool)]
    if args.json:
        damaged = [
            {
                "name": where.name,
                "reason": reason,
                "where": kind or "recordings",
                "card_bytes": spool_find.size_bytes(where),
            }
            for where, reason, kind in bad + aside
        ]
        print(json.dumps({"recordings": [asdict(facts) for facts in recordings], "damaged": damaged}))
        return ExitCode.WHOLE
    short = spool_find.short_ids(spool_find.folders(spool))
    for line in _table(recordings, short):
        print(line)
    if not found and not aside:
        print("nothing is on the card")
    for where, reason, _ in bad:
        print(f"{where.name}: {reason}")
    if aside:
        print(f"set aside as damaged, in {spool.quarantine}:")
        for where, reason, _ in aside:
            print(f"  {where.name}, {_size(spool_find.size_bytes(where))}: {reason}")
    return ExitCode.WHOLE


def _table(recordings: list[Facts], short: dict[str, str]) -> Iterator[str]:
    if not recordings:
        return
    rows = [("ID", "BEGAN", "STATE", "LENGTH", "OWED", "LOST", "ENDED BY", "AFTER", "ON CARD")]
    for facts in recordings:
        lost = ", ".join(f"{seconds:.1f} s {cause}" for cause, seconds in facts.lost_seconds.items())
        rows.append(
            (
                short.get(facts.recording, facts.recording[:8]),
                _moment(facts),
                facts.state,
                clock(facts.seconds),
                f"{facts.owed_seconds:.1f} s" if facts.owed_seconds else "-",
                lost or "-",
                facts.ended_by or "-",
                facts.predecessor[:8] or "-",
                _size(facts.card_bytes) if facts.has_audio else "no audio",
            )
        )
    yield from output.table(rows)
    if not all(facts.is_clock_trusted for facts in recordings):
        yield "?: by a clock that was not synchronised"


def _moment(facts: Facts) -> str:
    if facts.began_unix_s is None:
        return "unknown"
    try:
        text = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(facts.began_unix_s))
    except (OverflowError, ValueError, OSError):
        return "unknown"
    return text if facts.is_clock_trusted else f"{text}?"


def clock(seconds: float) -> str:
    """A length as H:MM:SS.mmm."""
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest / 1000:06.3f}"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


# --- export, verify --------------------------------------------------------------------------------------------------


def _export(args: argparse.Namespace) -> int:
    spool = _spool(args)
    where = spool_find.find(args.id, spool_find.folders(spool))
    is_flac = args.flac or (not args.wav and args.path.suffix.lower() == ".flac")
    try:
        card, found = spool_find.load(spool, where)
        walk = Walk(card, found)
        began, is_trusted = spool_find.began_unix_s(card, found)
    except OSError as error:
        raise _unreadable(where, error) from None
    meta = card.manifest
    if not card.segments:
        why = "no audio of it was ever written: spool.mode was ram" if not meta.has_audio else "it holds no audio"
        raise ConfigError(f"{meta.recording_id} cannot be exported ({why})", "no file was made")
    tags = {"RECORDING": meta.recording_id, "DEVICE": meta.device_id}
    seconds = meta.audio.seconds
    if began is not None and is_trusted:
        tags["DATE"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began + seconds(walk.begins_at)))
    if walk.begins_at:
        text = f"the first {seconds(walk.begins_at):.1f} s are not on the card any more: the file begins behind them"
        output.note(text)
        tags["BEGINS"] = f"{seconds(walk.begins_at):.3f} s after the beginning of the recording"
    written = export(walk, meta.audio, args.path, tags, is_flac=is_flac)
    gaps = "".join(f", {seconds(frames):.3f} s of it missing ({cause})" for cause, frames in written.missing.items())
    print(f"{args.path}: {seconds(written.frames):.3f} s{gaps}")
    return ExitCode.LOST if written.is_damaged else ExitCode.WHOLE


def _unreadable(where: Path, error: OSError) -> UnreadableError:
    return UnreadableError(f"the recording {where} cannot be read ({error.strerror})")


def _verify(args: argparse.Namespace) -> int:
    spool = _spool(args)
    everything = spool_find.folders(spool)
    chosen = [spool_find.find(args.id, everything)] if args.id is not None else everything
    short = spool_find.short_ids(everything)
    is_whole = True
    for where in chosen:
        for line, is_bad in _findings(spool, where):
            print(f"{short[where.name]}  {line}", flush=True)
            is_whole = is_whole and not is_bad
    aside = spool_find.quarantined(spool) if args.id is None else []
    if aside:
        output.note(f"{len(aside)} are set aside as damaged, and were not looked at; edge spool ls names them")
    if not chosen:
        print("nothing is on the card")
    return ExitCode.WHOLE if is_whole else ExitCode.LOST


def _findings(spool: SpoolDirectory, where: Path) -> Iterator[tuple[str, bool]]:
    """Lines about one recording; True with those that tell of damage."""
    try:
        card, found = spool_find.load(spool, where)
        walk = Walk(card, found)
    except UnreadableError as error:
        if where.exists():
            yield f"DAMAGED: {error.what}", True
        return
    except OSError as error:
        if where.exists():
            yield f"DAMAGED: {_unreadable(where, error).what}", True
        return
    seconds = card.manifest.audio.seconds
    is_whole, read = True, 0
    for stretch in walk.stretches():
        if stretch.data is not None:
            read += stretch.frames
        elif stretch.is_damage:
            is_whole = False
            at, until = clock(seconds(stretch.position)), clock(seconds(stretch.position + stretch.frames))
            yield f"DAMAGED: {at} to {until}, {_named(stretch.packets)}", True
    if found.torn and not walk.has_end:
        yield "its last record was cut off while it was written, and is not counted", False
    if found.damaged_lines:
        yield f"{found.damaged_lines} lines of its journal are torn, and are not counted", False
    what = "whole" if is_whole else "readable"
    yield f"{what}: {seconds(read):.3f} s in {walk.packets} packets", False


def _named(packets: tuple[int, int] | None) -> str:
    if packets is None:
        return "the end is missing"
    first, last = packets
    return f"packet {first} cannot be read" if first == last else f"packets {first} to {last} cannot be read"


# --- what changes the card -------------------------------------------------------------------------------------------


def _resend(args: argparse.Namespace) -> int:
    config = load_config(args).config
    with StateDirectory(spool_find.state_path(args.state)) as state:
        spool = spool_find.spool_of(state.path, config.spool.max_bytes)
        where = spool_find.find(args.id, spool_find.folders(spool))
        recording_id, seconds = spool_change.resend(spool, where)
    print(f"{recording_id}: {seconds:.1f} s are owed now; edge spool deliver, or the next edge record, sends them")
    return ExitCode.WHOLE


def _purge(args: argparse.Namespace) -> int:
    with StateDirectory(spool_find.state_path(args.state)) as state:
        spool = spool_find.spool_of(state.path)
        doomed = spool_change.doomed(spool, args.id)
        name, owed = doomed.folder.name, doomed.owed_seconds
        if owed != 0 and not args.yes_lose_it:
            what = f"{owed:.1f} s of {name} are not delivered" if owed is not None else f"{name} is damaged"
            raise ConfigError(
                what if owed is not None else f"{what}: nobody can tell what of it is delivered",
                "nothing was removed",
                "edge spool deliver sends it, --yes-lose-it gives it up"
                if owed is not None
                else "--yes-lose-it gives it up",
            )
        if not (args.yes or args.yes_lose_it) and not _agreed(name):
            raise ConfigError("not confirmed", "nothing was removed")
        size = spool_change.purge(spool, doomed.folder)
    print(f"{name}: {_size(size)} {_FLASH}")
    return ExitCode.WHOLE


def _agreed(name: str) -> bool:
    if sys.stdin is None or not sys.stdin.isatty():
        raise ConfigError(
            "there is no terminal to ask on", "nothing was removed", "--yes removes it without a question"
        )
    print(f"Remove {name} for good? Type yes: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() == "yes"
