"""Whatever stands in a file or in an option: a configuration that keeps every rule, or ConfigErrors of one line."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from edge.config import ConfigErrors, Loaded, load, shown, token
from edge.errors import ConfigError
from edge.settings import KEYS, SECTIONS

SECRET = "hunter2SECRET"

scalars: st.SearchStrategy[Any] = st.one_of(
    st.text(max_size=30),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.dates(),
    st.datetimes(),
    st.times(),
    st.sampled_from(
        ["https://host", "http://127.0.0.1:1", "alsa:x", "tone:440", "de", "Europe/Berlin", 16000, 100, 2.5]
    ),
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))
names = st.one_of(st.sampled_from([key.partition(".")[2] for key in KEYS]), st.text(max_size=10))
sections = st.one_of(st.sampled_from(list(SECTIONS)), st.text(max_size=10))


def quoted(text: str) -> str:
    """A TOML basic string."""
    return '"' + "".join(f"\\U{ord(c):08x}" if not c.isalnum() or ord(c) > 126 else c for c in text) + '"'


def toml(value: Any) -> str:
    """`value` in TOML."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return quoted(value)
        case int() | float():
            return repr(value)
        case list():
            return f"[{', '.join(map(toml, value))}]"
        case dict():
            return f"{{{', '.join(f'{quoted(name)} = {toml(inner)}' for name, inner in value.items())}}}"
        case _:
            return str(value.isoformat())


def keeps_every_rule(loaded: Loaded) -> None:
    for known in KEYS.values():
        section, _, name = known.key.partition(".")
        value = getattr(getattr(loaded.config, section), name)
        assert type(value) is known.type
        assert known.setting.rule.fault(value) is None
        assert shown(known.key, value).isprintable()
        assert loaded.origins[known.key]


def outcome(content: bytes) -> None:
    """Load `content`; nothing but a Loaded or ConfigErrors may come."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "edge.toml")
        path.write_bytes(content)
        try:
            keeps_every_rule(load(path))
        except ConfigErrors as errors:
            assert errors.problems
            assert str(errors).isprintable()
            assert SECRET not in str(errors)


@given(st.dictionaries(sections, st.dictionaries(names, values, max_size=4) | values, max_size=4))
@example({"server": {"url": 10**5000}})
@example({"connection": {"grace_window": 10**400, "barrier_interval": -(10**400)}})
@example({"": {"": {}}, "server": []})
def test_any_toml(tables: dict[str, Any]) -> None:
    try:
        content = "".join(f"{quoted(name)} = {toml(value)}\n" for name, value in tables.items()).encode()
    except (UnicodeEncodeError, ValueError):  # a lone surrogate, a number beyond all measure: no TOML can say it
        return
    outcome(content)


@given(
    st.binary(max_size=200)
    | st.text(alphabet="[]{}=\"'\n.,#audiorate_urlserv0123456789-:T ", max_size=120).map(str.encode)
)
def test_any_bytes(content: bytes) -> None:
    outcome(content)


@given(st.dictionaries(st.sampled_from(list(KEYS)) | st.text(max_size=20), values, max_size=6))
def test_any_options(overrides: dict[str, Any]) -> None:
    try:
        keeps_every_rule(load(overrides=overrides))
    except ConfigErrors as errors:
        assert str(errors).isprintable()


@given(
    st.sampled_from(["", "http", "https", "ws", "ftp"]),
    st.sampled_from([":", "://", ":///", ""]),
    st.text(alphabet="ab:/@?#[]%\\\t\n\0.é1", max_size=10),
    st.sampled_from(["@", "?", "#", "@@", "?@", "#@", "@?"]),
    st.text(alphabet="ab:/@?#[]%1.", max_size=10),
)
def test_no_url_lets_a_secret_out(scheme: str, colon: str, before: str, sign: str, after: str) -> None:
    for url in (f"{scheme}{colon}{before}{SECRET}{sign}{after}", f"{scheme}{colon}{before}{sign}{SECRET}{after}"):
        try:
            load(overrides={"server.url": url})
        except ConfigErrors as errors:
            assert SECRET not in str(errors)
        else:
            raise AssertionError(url)


@given(st.text(alphabet="abtoken._psk", min_size=1, max_size=15).filter(lambda name: f"server.{name}" not in KEYS))
def test_a_secret_under_an_unknown_key_stays_where_it_is(name: str) -> None:
    nearly = {"agent", "event"}  # a misspelt name of a harmless key is shown with its value, which helps to find it
    try:
        load(overrides={f"server.{name}": SECRET})
    except ConfigErrors as errors:
        if "token" in name or not any(set(name) >= set(key) for key in nearly):
            assert SECRET not in str(errors)


@given(st.binary(max_size=60))
def test_any_token_file(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "token")
        path.write_bytes(content)
        config = load(overrides={"server.token_file": str(path)}).config
        try:
            found = token(config, warn=lambda line: None)
        except ConfigError as error:
            assert str(error).isprintable()
            text = content.decode("latin-1").strip()
            assert len(text) < 8 or text not in str(error)
        else:
            assert found.encode() == content.strip()
            assert found.isascii()
            assert found.isprintable()
            assert " " not in found
