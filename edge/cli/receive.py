"""`edge receive`: a server for recorders, on this machine or in the network, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import logging
import os
import secrets
import signal
import sys
from pathlib import Path

from edge.cli.options import folder
from edge.errors import ConfigError, ExitCode
from edge.receiver.config import ReceiverConfig, StrictConfig, Timing
from edge.receiver.server import Receiver

HELP = "store what recorders send; with --strict-aia, behave like an unmodified aia-v4 server, faults included"
DEFAULT_PORT = 8765
_TOKEN_BYTES = 24


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="listen there (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help=f"0: a free one (default: {DEFAULT_PORT})")
    parser.add_argument(
        "--out", type=folder, default=Path("received"), metavar="DIR", help="store there (default: ./received)"
    )
    parser.add_argument(
        "--token-file", metavar="FILE", help="what clients have to show (default: DIR/token, generated)"
    )
    parser.add_argument(
        "--grace", type=float, default=120.0, metavar="S", help="seconds a session survives without socket"
    )
    parser.add_argument("--cert", metavar="FILE", help="TLS certificate chain, PEM")
    parser.add_argument("--key", metavar="FILE", help="its key, PEM")
    parser.add_argument("--strict-aia", action="store_true", help="no extension, and the real server's faults")
    parser.add_argument("--transcribe-seconds", metavar="LO:HI", help="strict: time for a segment (default: 0:7)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="strict: seed of its chances")


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop."""
    logging.basicConfig(stream=sys.stderr, format="edge: %(message)s", level=logging.INFO)
    for name in ("aiohttp", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
    config, note = configure(args)
    return asyncio.run(_serve(config, note))


def configure(args: argparse.Namespace) -> tuple[ReceiverConfig, str]:
    """The configuration that the options ask for, and what a person should be told. Raises ConfigError."""
    if not 0 <= args.port <= 65535:
        raise ConfigError(f"--port {args.port} is no port", "", "give 0 to 65535")
    if not 0.1 <= args.grace <= 86400:
        raise ConfigError(f"--grace {args.grace:g} makes no sense", "", "give 0.1 to 86400 seconds")
    if (args.cert is None) != (args.key is None):
        raise ConfigError("--cert and --key come together")
    if args.transcribe_seconds is not None and not args.strict_aia:
        raise ConfigError("--transcribe-seconds needs --strict-aia")
    out: Path = args.out
    token, note = _token(args, out)
    strict = None
    if args.strict_aia:
        strict = StrictConfig(transcribe=_span(args.transcribe_seconds or "0:7"), seed=args.seed)
    config = ReceiverConfig(
        out,
        token,
        host=args.host,
        port=args.port,
        cert=Path(args.cert) if args.cert else None,
        key=Path(args.key) if args.key else None,
        strict=strict,
        timing=Timing.for_grace(args.grace),
    )
    return config, note


def _token(args: argparse.Namespace, out: Path) -> tuple[str, str]:
    path = out / "token" if args.token_file is None else Path(args.token_file)
    remedy = "check --out" if args.token_file is None else "check --token-file"
    if args.token_file is None and not _is_loopback(args.host):
        raise ConfigError(f"{args.host} can be reached from outside, so a token is needed", "", "give --token-file")
    try:
        if args.token_file is None and not path.exists():
            out.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(descriptor, secrets.token_urlsafe(_TOKEN_BYTES).encode() + b"\n")
            os.close(descriptor)
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no text"
        raise ConfigError(f"the token file {path} cannot be used ({why})", "", remedy) from None
    if not token or "\n" in token:
        raise ConfigError(f"the token file {path} does not hold one token", "", remedy)
    return token, f"clients need the token in {path}"


def _span(text: str) -> tuple[float, float]:
    low, _, high = text.partition(":")
    try:
        span = float(low), float(high or low)
    except ValueError:
        span = 1.0, 0.0
    if not 0 <= span[0] <= span[1] <= 3600:
        raise ConfigError(f"--transcribe-seconds {text} makes no sense", "", "give LO:HI in seconds, such as 0:7")
    return span


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _serve(config: ReceiverConfig, note: str) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Receiver(config) as receiver:
        print(f"listening on {receiver.url}", flush=True)
        print(note, flush=True)
        if config.cert is None and not _is_loopback(config.host):
            print("edge: note: without --cert, audio and token cross the network readable", file=sys.stderr, flush=True)
        await stop.wait()
        await receiver.terminate()
    return ExitCode.WHOLE
