"""The configuration: TOML in, frozen dataclasses out, every error at once.

A key that is not declared in edge/settings.py is an error. Values that may hold a secret (a URL with a password,
whatever stands under an unknown key) are never put into a text.
"""

from __future__ import annotations

import logging
import math
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import msgspec

from edge.errors import ConfigError
from edge.rules import is_loopback
from edge.settings import KEYS, SECTIONS, Audio, Buffer, Config, Connection, Panel, Server, clashes

__all__ = [
    "DEFAULT_PATH",
    "Audio",
    "Buffer",
    "Config",
    "ConfigErrors",
    "Connection",
    "Loaded",
    "Panel",
    "Problem",
    "Server",
    "default_path",
    "is_loopback",
    "load",
    "printable",
    "refresh_key",
    "refresh_token",
    "shown",
    "token",
    "token_path",
]

DEFAULT_PATH = Path("/etc/edge/edge.toml")
MAX_FILE_BYTES = 1 << 20
MAX_TOKEN_BYTES = 16 << 10
# What the files hold that nobody else may see.
_SECRETS = {
    "server.token_file": "the token file",
    "server.refresh_key_file": "the file with the project's key",
    "server.refresh_token_file": "the file with the refresh token",
}
_FILES = (*_SECRETS, "server.ca_file", "server.client_cert", "server.client_key")
RETENTION_S = 60.0  # what an aia-v4 server needs protected beyond the uncut segment (PROTOCOL.md, "Retention")

_log = logging.getLogger(__name__)


# --- errors ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Problem:
    """One error: the key, its value as far as it may be shown, the rule it breaks, and what to do about it."""

    key: str
    value: str
    rule: str
    hint: str = ""

    def __str__(self) -> str:
        head = f"{self.key} = {self.value}" if self.value else self.key
        return f"{head}: {self.rule}" + (f"; {self.hint}" if self.hint else "")


class ConfigErrors(ConfigError):
    """Everything that is wrong with a configuration. The text is one line; `problems` has them one by one."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        lines = [str(problem) for problem in problems]
        count = f"{len(lines)} errors in the configuration: " if len(lines) > 1 else ""
        super().__init__(count + " | ".join(lines))


def printable(text: str, limit: int = 100) -> str:
    """`text` in double quotes on one line, whatever is in it, cut to `limit` characters."""
    kept = text if len(text) <= limit else text[:limit] + "..."
    escaped = (c if c.isprintable() and c not in '"\\' else c.encode("unicode_escape").decode() for c in kept)
    return '"' + "".join(r"\"" if c == '"' else c for c in escaped) + '"'


def shown(key: str, value: object) -> str:
    """`value` as text for a person. Where a secret may be inside, `***` stands for it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        if key in KEYS and KEYS[key].setting.rule.private and re.search(r"[@?#]", value):
            scheme = re.match(r"(wss?|https?)://", value)
            return printable((scheme[0] if scheme else "") + "***")
        if key in _SECRETS and _looks_like_token(value):
            return '"***"'
        if key == "server.token_command" and len(value.split()) > 1:
            return printable(f"{value.split()[0]} ***")
        return printable(value)
    if isinstance(value, int):
        return str(value) if abs(value) < 10**18 else "a huge number"
    if isinstance(value, float):
        return str(value)
    return "a table" if isinstance(value, dict) else "an array" if isinstance(value, list) else "a date or time"


def _looks_like_token(path: str) -> bool:
    # Somebody put the token itself where its file belongs. No reason to write it into every log.
    is_random = len(path) >= 12 and all(re.search(kind, path) for kind in ("[a-z]", "[A-Z]", "[0-9]"))
    is_token = (len(path) >= 20 or is_random) and "/" not in path and "." not in path[-6:]
    return is_token and not Path(path).exists()


# --- reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Loaded:
    """A valid configuration. `origins` says of each key "default", the file's name, or the option that set it.

    `notes` are lines that a person should see although nothing is wrong.
    """

    config: Config
    origins: Mapping[str, str]
    notes: tuple[str, ...] = ()


def default_path() -> Path | None:
    """The system's configuration file, or None where there is none."""
    try:
        DEFAULT_PATH.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        pass  # it may be there and closed to us: load() says so, rather than go on with defaults in silence
    return DEFAULT_PATH


def load(path: str | Path | None = None, overrides: Mapping[str, object] | None = None) -> Loaded:
    """The configuration from the file at `path` (None: defaults only), with `overrides` on top, None values left out.

    `overrides` maps keys ("server.url") to values. Raises ConfigErrors with everything that is wrong.
    """
    problems: list[Problem] = []
    given: dict[str, tuple[object, str]] = {}
    if path is not None:
        for key, value in _flat(_parse(Path(path)), problems):
            given[key] = (_beside(Path(path), value) if key in _FILES else value, str(path))
    for key, value in (overrides or {}).items():
        if value is not None:
            given[key] = (value, KEYS[key].setting.option if key in KEYS else "")
    values = {known.key: known.default for known in KEYS.values()}
    origins = dict.fromkeys(KEYS, "default")
    broken: set[str] = set()
    for key, (value, origin) in given.items():
        checked = _checked(key, value)
        if isinstance(checked, Problem):
            problems.append(checked)
            broken.add(key)
        else:
            values[key], origins[key] = checked[0], origin or "option"
    problems += (
        Problem(clash.key, shown(clash.key, values[clash.key]), clash.rule)
        for clash in clashes(values)
        if not broken & {clash.key, *clash.others}
    )
    if problems:
        raise ConfigErrors(tuple(problems))
    parts = {
        section: holder(**{item.name: values[f"{section}.{item.name}"] for item in fields(holder)})
        for section, holder in SECTIONS.items()
    }
    config = Config(**parts)
    return Loaded(config, origins, tuple(_notes(config, origins)))


def _parse(path: Path) -> dict[str, Any]:
    name = printable(str(path), 1000)[1:-1]
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a possible file name"
        raise ConfigErrors((Problem(name, "", f"cannot be read: {reason}"),)) from None
    if len(text) > MAX_FILE_BYTES:
        raise ConfigErrors((Problem(name, "", "larger than 1 MiB: this is no configuration"),))
    try:
        return tomllib.loads(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        fault = f"not UTF-8 (line {line})"
    except tomllib.TOMLDecodeError as error:
        # The parser quotes a key's name at most, never a value.
        last = len(text.splitlines())
        where = str(error).replace("end of document", f"line {last}, the end")
        fault = f"not TOML: {printable(where, 200)[1:-1]}"
    except (ValueError, RecursionError):
        fault = "not TOML: a number or a nesting beyond all measure"
    raise ConfigErrors((Problem(name, "", fault),))


def _flat(tables: Mapping[str, Any], problems: list[Problem]) -> Iterator[tuple[str, object]]:
    for section, content in tables.items():
        if section not in SECTIONS:
            below = content if isinstance(content, dict) else {}
            problems += (_unknown(f"{section}.{name}", value) for name, value in below.items())
            if not below:
                problems.append(_unknown(section, content))
        elif isinstance(content, dict):
            for name, value in content.items():
                yield f"{section}.{name}", value
        else:
            problems.append(Problem(section, "", f"must be a table: write [{section}] on a line of its own"))


def _beside(path: Path, value: object) -> object:
    """A file named in a configuration file lies relative to that, not to wherever the process was started."""
    if not isinstance(value, str) or not value or not value.isprintable() or _looks_like_token(value):
        return value
    return str(path.parent / os.path.expanduser(value))  # noqa: PTH111  (Path's raises where there is no home)


def _checked(key: str, value: object) -> tuple[Any] | Problem:
    """The value in the type of its key, in a tuple of one; or what is wrong with it."""
    if key not in KEYS:
        return _unknown(key, value)
    known = KEYS[key]
    rule = f"must be {known.setting.rule.text}" + (f" {known.setting.unit}" if known.setting.unit else "")
    try:
        typed = msgspec.convert(value, known.type, strict=True)
    except (msgspec.ValidationError, OverflowError):
        kind = {str: "a string in quotes", int: "a whole number", float: "a number", bool: "true or false"}[known.type]
        return Problem(key, shown(key, value), rule if kind in rule else f"{rule}, as {kind}")
    if isinstance(typed, float) and not math.isfinite(typed):
        return Problem(key, shown(key, value), rule)
    fault = known.setting.rule.fault(typed)
    if fault is not None:
        return Problem(key, shown(key, value), rule, fault)
    return (typed.removesuffix("/") if key == "server.url" else typed,)


def _unknown(key: str, value: object) -> Problem:
    nearest, likeness = _nearest(key)
    hint = f"the nearest one is {nearest}"
    if re.search(r"token|passw|secret|credential|api.?key|auth", key, re.IGNORECASE):
        likeness, hint = 0.0, f"{hint}; a secret stands in a file of its own, which server.token_file names"
    # Only the value of a misspelt key is known to be harmless: what else stands here may be anybody's secret.
    return Problem(printable(key)[1:-1], shown(nearest, value) if likeness > 0.8 else "***", "no such key", hint)


def _nearest(key: str) -> tuple[str, float]:
    """The declared key that is most like `key`, the last part counting most, and how alike they are (0 to 1)."""

    def likeness(candidate: str) -> tuple[float, float]:
        leaves = SequenceMatcher(None, key.rpartition(".")[2], candidate.rpartition(".")[2]).ratio()
        return (leaves, SequenceMatcher(None, key, candidate).ratio())

    best = max(KEYS, key=likeness)
    return best, min(likeness(best))


def _notes(config: Config, origins: Mapping[str, str]) -> Iterator[str]:
    if origins["server.url"] == "default":
        yield f"server.url is not set: only a receiver on this machine, {config.server.url}, would get the audio"
    elif not config.server.url:
        yield "server.url is empty: nothing is delivered, everything is kept on the card until a server is configured"
    elif config.server.url.lower().startswith("http:") and not is_loopback(config.server.url):
        yield "server.allow_insecure: token and audio travel readable to everyone on the way"
    needed = config.audio.segment_target_ms / 1000 + RETENTION_S
    if config.server.url and config.buffer.ring_seconds < needed:
        yield f"buffer.ring_seconds below {needed:g} is too little for an aia-v4 server: audio is lost in each outage"


# --- the secrets -----------------------------------------------------------------------------------------------------


def token(config: Config, warn: Callable[[str], None] = _log.warning) -> str:
    """The server's token from its file, or "" where none is configured. Its text goes into no message.

    Raises ConfigError. `warn` gets one line when everybody on the machine can read the file.
    """
    path = token_path(config)
    return _secret("server.token_file", path, warn) if path is not None else ""


def token_path(config: Config) -> Path | None:
    """Where the token stands: the configured file, or the systemd credential, as far as it exists."""
    if config.server.token_file:
        return Path(config.server.token_file)
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    credential = Path(folder, "token")
    return credential if folder and credential.exists() else None


def refresh_key(config: Config) -> str:
    """The key of the project that refreshes tokens. It is public, so anybody may read its file. Raises ConfigError."""
    return _secret("server.refresh_key_file", Path(config.server.refresh_key_file), lambda line: None)


def refresh_token(config: Config, warn: Callable[[str], None] = _log.warning) -> str:
    """The refresh token that a person gave. As `token`."""
    return _secret("server.refresh_token_file", Path(config.server.refresh_token_file), warn)


def _secret(key: str, path: Path, warn: Callable[[str], None]) -> str:
    name = f"{_SECRETS[key]} {shown(key, str(path))}"
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(MAX_TOKEN_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {error.strerror}", remedy=f"see {key}") from None
    if len(content) > MAX_TOKEN_BYTES:
        raise ConfigError(f"{name} is larger than 16 KiB: this is no token")
    text = content.strip()
    if not re.fullmatch(rb"[\x21-\x7e]+", text):
        raise ConfigError(f"{name} must hold one line of visible ASCII characters", remedy="write the token alone")
    if stat.S_ISREG(mode) and mode & stat.S_IROTH:
        warn(f"{name} can be read by everybody on this machine; chmod 600 it")
    return text.decode("ascii")
