"""How a key of the configuration is declared, and the rules for its value. The keys are in edge/settings.py."""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_T = TypeVar("_T")


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


def key(default: _T, doc: str, rule: Rule, unit: str = "", option: str = "") -> _T:
    """A field of a section, with what is known of it."""
    return field(default=default, metadata={"setting": Setting(doc, rule, unit, option)})


def between(low: float, high: float) -> Rule:
    """Both ends included."""
    return Rule(f"{low:g} to {high:g}", lambda value: None if low <= value <= high else "")


def above_zero(high: float) -> Rule:
    """Up to `high`, included."""
    return Rule(f"above 0, at most {high:g}", lambda value: None if 0 < value <= high else "")


PIN = Rule("a BCM number, 0 to 27", between(0, 27).fault)


def text(rule: str, pattern: str) -> Rule:
    """Printable text that matches `pattern` as a whole."""
    return Rule(rule, lambda value: None if re.fullmatch(pattern, value) and value.isprintable() else "")


def one_of(*values: str) -> Rule:
    """One of these words."""
    return Rule(" or ".join(values), lambda value: None if value in values else "")


def switch() -> Rule:
    """On or off."""
    return Rule("true or false", lambda value: None)


_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
# One's own pattern: what urlsplit lets pass differs from one Python to the next.
_URL = re.compile(rf"https?://(\[[^][/]+\]|{_LABEL}(?:\.{_LABEL})*\.?)(?::([0-9]{{1,5}}))?/?", re.ASCII | re.IGNORECASE)


def url_fault(url: str) -> str | None:
    """Of a server."""
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


def timezone_fault(name: str) -> str | None:
    """Of a name in the IANA database."""
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


def command_fault(value: str) -> str | None:
    """Of a program that is run without a shell."""
    if not value:
        return None
    try:
        words = shlex.split(value)
    except ValueError:
        return "a quotation mark is not closed"
    return None if value.isprintable() and len(value) <= 4000 and words and words[0].startswith("/") else ""


def path() -> Rule:
    """Of a file, which need not exist yet."""
    longest = os.pathconf("/", "PC_PATH_MAX")
    return Rule("a path, or empty", lambda value: None if value.isprintable() and len(value) < longest else "")


_PROXY = re.compile(
    rf"http://([^@/\s]+@)?(\[[^][/]+\]|{_LABEL}(?:\.{_LABEL})*)(?::([0-9]{{1,5}}))?/?", re.ASCII | re.IGNORECASE
)


def proxy_fault(value: str) -> str | None:
    """Of connection.proxy."""
    if value in ("", "environment"):
        return None
    match = _PROXY.fullmatch(value)
    if match is None or not value.isprintable() or not 0 < int(match[3] or 80) < 65536:
        return ""
    return "" if match[2].startswith("[") and _address(match[2][1:-1]) is None else None
