"""The options that every command with a configuration has, and their way into it."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge.config import DEFAULT_PATH, Loaded, default_path, load
from edge.settings import KEYS


def _server(text: str) -> str:
    """No address is what a shell makes of a variable that is not set; who wants no server writes it down."""
    if not text:
        raise argparse.ArgumentTypeError(
            'it is empty; for no server at all write server.url = "" into the configuration'
        )
    return text


_TYPE = {"server.url": _server}
_METAVAR = {
    "server.url": "URL",
    "server.token_file": "FILE",
    "server.agent": "NAME",
    "server.event": "NAME",
    "audio.source": "SOURCE",
}


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """`--config`, and one option for each key that has one."""
    parser.add_argument("--config", metavar="FILE", help=f"configuration ({DEFAULT_PATH}, where it exists)")
    for known in KEYS.values():
        if known.setting.option:
            text = known.setting.doc.split(". ")[0].rstrip(".").replace("%", "%%")
            parser.add_argument(
                known.setting.option,
                metavar=_METAVAR[known.key],
                dest=known.key,
                help=text,
                type=_TYPE.get(known.key, str),
            )


def folder(text: str) -> Path:
    """An option's folder. Empty is what a shell makes of a variable that is not set: nobody means this folder by it."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return Path(text)


def load_config(args: argparse.Namespace) -> Loaded:
    """The configuration that the parsed options ask for. Raises ConfigErrors."""
    path = default_path() if args.config is None else Path(args.config)
    return load(path, {known.key: getattr(args, known.key, None) for known in KEYS.values()})
