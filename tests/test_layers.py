"""The walls of DESIGN.md, checked on the imports that stand in the source (those inside functions, too)."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_LINES = 450

# Who may import whom inside edge, by layer. A name with two parts is that one module of a layer.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "core": {"core", "errors"},
    "runtime": {"runtime", "core", "errors"},
    # runtime.ports is no runtime: it has the ports' value types (Block, Closed ...), which whoever implements a port
    # gives back. Nothing else of the runtime is an adapter's business, and no other adapter is.
    # adapters.wire, and only its face, is the way to the server that http and websocket share, so that both call the
    # same trouble the same. It knows neither of them.
    "adapters": {"core", "errors", "runtime.ports", "adapters.wire"},
    "rules": set(),
    "settings": {"rules", "errors"},
    "config": {"rules", "settings", "errors"},
    # The receiver judges what the recorder sends, so it shares with it the packet's bytes and nothing more.
    "receiver": {"receiver", "core.packet", "errors"},
    # Composition roots: the only ones that know both runtime and adapters. `sources`, `links` are what they share.
    "sources": {"adapters", "runtime", "core", "errors"},
    "links": {"adapters", "runtime", "core"},
    "tokens": {"adapters", "runtime", "config", "core", "errors"},
    "legacy": {"adapters", "runtime", "core", "errors"},
    "app": {"sources", "links", "tokens", "legacy", "adapters", "runtime", "config", "settings", "core", "errors"},
    "client": {"sources", "links", "adapters", "runtime", "config", "settings", "core", "errors"},
    # The commands, the only ones who know the receiver.
    "cli": {
        "__init__", "cli", "app", "client", "sources", "tokens", "receiver", "adapters", "runtime", "config",
        "settings", "core", "errors",
    },
    "__main__": {"cli"},
    "__init__": {"client"},
}  # fmt: skip

# Value tools: no I/O, no clock, no threads, no logging.
CORE_STANDARD = {
    "__future__", "abc", "base64", "bisect", "collections", "dataclasses", "enum", "functools", "itertools", "json",
    "math", "operator", "statistics", "struct", "types", "typing", "uuid", "zlib",
}  # fmt: skip

# What each layer may have from elsewhere. The adapters are the place where libraries are touched.
LIBRARIES: dict[str, set[str]] = {
    "runtime": {"tenacity"},
    "adapters": {"aiohappyeyeballs", "alsaaudio", "gpiozero", "h11", "httpcore", "websockets"},
    "receiver": {"aiohttp"},
    "config": {"msgspec"},
    "cli": {"matplotlib", "numpy", "rich", "gpiozero"},
}


@dataclass(frozen=True)
class Import:
    """One imported module, as it is named, and where."""

    module: str
    target: str
    line: int

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


@cache
def modules() -> dict[str, Path]:
    """Every module of edge by its name below edge: "core.ring", "cli.__init__", "app". One dict for all tests."""
    found = {}
    for path in sorted((ROOT / "edge").rglob("*.py")):
        found[".".join(path.relative_to(ROOT / "edge").with_suffix("").parts)] = path
    return found


def imports(module: str) -> Iterator[Import]:
    """The modules that `module` imports. `from edge.core import ring` is an import of edge.core.ring."""
    for node in ast.walk(ast.parse(modules()[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (Import(module, name.name, node.lineno) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: relative imports hide the way"
            assert node.module is not None
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                inner = whole.removeprefix("edge.")
                is_module = whole.startswith("edge.") and (inner in modules() or f"{inner}.__init__" in modules())
                yield Import(module, whole if is_module else node.module, node.lineno)


def inner(item: Import) -> str | None:
    """The target's name below edge, or None where it is not ours."""
    first, _, rest = item.target.partition(".")
    return (rest or "__init__") if first == "edge" else None


def layer(module: str) -> str:
    """The first part of a dotted name."""
    return module.partition(".")[0]


def everything() -> Iterator[Import]:
    for module in modules():
        yield from imports(module)


def wrong_ways() -> list[str]:
    """Imports inside edge that a wall forbids."""
    wrong = []
    for item in everything():
        target, allowed = inner(item), ALLOWED[layer(item.module)]
        if target is None or layer(target) in allowed or target in allowed or is_one_adapter(item.module, target):
            continue
        wrong.append(str(item))
    return wrong


def is_one_adapter(module: str, target: str) -> bool:
    """Whether both are parts of one adapter that is a folder, for one outside thing."""
    folder = module.split(".")[:2]
    return folder[0] == "adapters" and ".".join((*folder, "__init__")) in modules() and target.split(".")[:2] == folder


def wrong_in_core() -> list[str]:
    """What core and errors take from outside edge, and should not."""
    outside = (item for item in everything() if layer(item.module) in ("core", "errors") and inner(item) is None)
    return [str(item) for item in outside if layer(item.target) not in CORE_STANDARD]


def wrong_libraries() -> list[str]:
    """Libraries outside the layer that may touch them."""
    foreign = (item for item in everything() if layer(item.target) not in {"edge", *sys.stdlib_module_names})
    return [str(item) for item in foreign if layer(item.target) not in LIBRARIES.get(layer(item.module), set())]


def test_every_module_belongs_to_a_layer() -> None:
    assert sorted({layer(module) for module in modules()} - ALLOWED.keys()) == []


def test_imports_go_one_way() -> None:
    assert wrong_ways() == []


def test_core_uses_only_value_tools_of_the_standard_library() -> None:
    assert wrong_in_core() == []


def test_libraries_stay_in_their_layers() -> None:
    assert wrong_libraries() == []


def test_no_cycles() -> None:
    graph = {module: {t for item in imports(module) if (t := inner(item)) in modules()} for module in modules()}
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"a cycle: {' -> '.join((*way, module))}"
        if module not in done:
            for target in sorted(graph[module]):
                visit(str(target), (*way, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_modules_stay_short() -> None:
    long = {
        module: lines
        for module, path in modules().items()
        if (lines := len(path.read_text().splitlines())) >= MAX_LINES
    }
    assert long == {}


def test_the_checks_see_a_break(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("from edge import receiver\ndef f():\n    import edge.core.ring, threading, aiohttp\n")
    monkeypatch.setitem(modules(), "core.bad", bad)
    monkeypatch.setitem(modules(), "adapters.bad", bad)
    monkeypatch.setitem(modules(), "receiver.bad", bad)
    # Whatever else may be wrong is the other tests' matter.
    ways, core, libraries = (
        [line for line in lines if ".bad:" in line] for lines in (wrong_ways(), wrong_in_core(), wrong_libraries())
    )
    assert ways == [
        "core.bad:1 imports edge.receiver",
        "adapters.bad:1 imports edge.receiver",
        "receiver.bad:3 imports edge.core.ring",
    ]
    assert core == ["core.bad:3 imports threading", "core.bad:3 imports aiohttp"]
    assert libraries == ["core.bad:3 imports aiohttp", "adapters.bad:3 imports aiohttp"]


@pytest.mark.parametrize("command", ["record", "devices", "check-config", "spool"])
def test_a_command_loads_no_library_of_another(command: str) -> None:
    """A recorder that carries a web server and a plotting library costs a Pi tens of megabytes."""
    program = (
        "import sys\nfrom edge.cli.main import main\n"
        f"assert main([{command!r}, '--help']) == 0\n"
        "print(*sorted({'aiohttp', 'rich', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, env=dict(os.environ), timeout=60
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == ""


# --- the folder ------------------------------------------------------------------------------------------------------

TOP_LEVEL = {
    "LICENSE", "Makefile", "README.md", "edge", "hardware", "image", "lock-pi.txt", "lock.txt", "pyproject.toml",
    "systemd", "tests",
}  # fmt: skip
MADE = {"build", "out"}  # ignored by git
UNSEEN = {".git", ".venv", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", "__pycache__", *MADE}


def test_top_level() -> None:
    assert {path.name for path in ROOT.iterdir() if not path.name.startswith(".")} - MADE == TOP_LEVEL


def files() -> Iterator[Path]:
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in UNSEEN]
        yield from (Path(folder, name) for name in names if not name.startswith(".coverage"))


def test_no_file_names_a_package_registry() -> None:
    """Locked by hashes, installed from whatever source a machine is set up for (DESIGN.md, decision 12)."""
    # Written in two halves, or this file would name them.
    hosts = [f"{name}.{rest}".encode() for name, rest in (
        ("pypi", "org"), ("pythonhosted", "org"), ("piwheels", "org"), ("npmjs", "org"), ("deb.debian", "org"),
        ("anaconda", "org"), ("archive.raspberrypi", "com"), ("raspbian", "org"),
    )]  # fmt: skip
    named = [
        f"{path.relative_to(ROOT)}: {host.decode()}" for path in files() for host in hosts if host in path.read_bytes()
    ]
    assert named == []


@pytest.mark.parametrize("name", ["lock.txt", "lock-pi.txt"])
def test_lock_files_are_pip_requirements_with_hashes_and_no_source(name: str) -> None:
    entries = (ROOT / name).read_text().replace("\\\n", " ").splitlines()
    entries = [entry for entry in entries if not entry.lstrip().startswith("#")]
    assert len(entries) > 10
    for entry in entries:
        assert "==" in entry and "--hash=sha256:" in entry, entry
        assert not entry.startswith("-") and "://" not in entry and " @ " not in entry, entry


def test_locks_are_at_least_what_pyproject_asks_for() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = {line.partition("==")[0] for line in (ROOT / "lock-pi.txt").read_text().splitlines() if "==" in line}
    wanted = {entry.partition(">=")[0].lower().replace(".", "-") for entry in project["dependencies"]}
    assert wanted | {"pyalsaaudio", "gpiozero", "lgpio", "rpi-gpio"} <= locked
