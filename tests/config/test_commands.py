"""The command line: dispatch, one line for each way to fail, exit codes, and `edge check-config`."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge.cli import main as module
from edge.cli.main import COMMANDS, main
from edge.cli.output import table
from edge.config import load
from edge.errors import MicrophoneError, ServerRefused, StateDirectoryInUse
from edge.settings import KEYS

ROOT = Path(__file__).parents[2]
Capture = pytest.CaptureFixture[str]
Fail = Callable[[BaseException | int], None]


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Fail:
    """Make `edge record` end with an error or an exit code."""

    def arrange(how: BaseException | int) -> None:
        def run(args: object) -> int:
            if isinstance(how, BaseException):
                raise how
            return how

        command = SimpleNamespace(add_arguments=lambda parser: parser.add_argument("--token-file"), run=run)
        monkeypatch.setattr(module, "_module", lambda name: command)

    monkeypatch.delenv("EDGE_DEBUG", raising=False)
    return arrange


def edge(
    *words: str, stdin: int | None = subprocess.DEVNULL, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The real thing, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "edge", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        stdin=stdin,
        env={**os.environ, **(environment or {})},
    )


def test_help_is_short_and_names_every_command(capsys: Capture) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) < 15
    for command in COMMANDS:
        assert f"  {command} " in text


def test_no_command_shows_the_help_and_is_a_usage_error(capsys: Capture) -> None:
    assert main([]) == 2
    assert capsys.readouterr().out.startswith("usage: edge")


def test_version(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("edge ")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["recrd"], "edge: no such command: recrd; see edge --help"),
        (["--frob=hunter2"], "edge: no such option: --frob; see edge --help"),
        (["check-config", "a", "hunter2"], "edge: check-config: too many arguments; see edge check-config --help"),
        (["check-config", "--tok=hunter2"], "edge: check-config: no such option: --tok; see edge check-config --help"),
        (
            ["check-config", "--tok", "hunter2", "x"],
            "edge: check-config: no such option: --tok; see edge check-config --help",
        ),
    ],
)
def test_a_usage_error_is_one_line(capsys: Capture, words: list[str], line: str) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.err == line + "\n"
    assert captured.out == ""


def test_options_are_not_guessed_from_their_beginning(capsys: Capture, fail: Fail) -> None:
    fail(0)
    assert main(["record", "--token", "hunter2"]) == 2
    assert "hunter2" not in capsys.readouterr().err
    assert main(["record", "--token-file"]) == 2
    assert (
        capsys.readouterr().err
        == "edge: record: argument --token-file: expected one argument; see edge record --help\n"
    )


@pytest.mark.parametrize(
    ("how", "code", "line"),
    [
        (0, 0, ""),
        (3, 3, ""),
        (
            MicrophoneError("gone", "nothing is recorded", "plug it in"),
            6,
            "edge: gone; nothing is recorded; plug it in\n",
        ),
        (StateDirectoryInUse("in\nuse"), 7, "edge: in use\n"),
        (
            ExceptionGroup("", [ServerRefused("no"), ExceptionGroup("", [MicrophoneError("gone")])]),
            6,
            "edge: no\nedge: gone\n",
        ),
        (KeyboardInterrupt(), 130, ""),
        (BaseExceptionGroup("", [KeyboardInterrupt(), ServerRefused("no")]), 130, ""),
        (BrokenPipeError(), 141, ""),
        (
            ModuleNotFoundError("x", name="aiohttp.web"),
            2,
            "edge: this needs aiohttp, which is not installed; pip install 'edge-recorder[receive]'\n",
        ),
        (
            ModuleNotFoundError("x", name="alsaaudio"),
            2,
            "edge: this needs alsaaudio, which is not installed; pip install 'edge-recorder[pi]'\n",
        ),
    ],
)
def test_each_end_has_its_exit_code(
    capsys: Capture, fail: Fail, how: BaseException | int, code: int, line: str
) -> None:
    fail(how)
    assert main(["record"]) == code
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    "how", [ValueError("hunter2"), ExceptionGroup("hunter2", [ServerRefused("no"), KeyError("hunter2")])]
)
def test_our_bugs_are_one_line_without_the_text_that_may_hold_a_token(
    capsys: Capture, fail: Fail, how: BaseException
) -> None:
    fail(how)
    assert main(["record"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"edge: internal error: {'ValueError' if isinstance(how, ValueError) else 'KeyError'} at ")
    assert "EDGE_DEBUG=1" in error
    assert "hunter2" not in error


def test_an_os_error_says_which(capsys: Capture, fail: Fail) -> None:
    fail(OSError(28, "No space left on device", "/secret"))
    assert main(["record"]) == 1
    assert "OSError (No space left on device) at test_commands.py:" in capsys.readouterr().err


def test_debug_shows_the_traceback(capsys: Capture, fail: Fail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_DEBUG", "1")
    fail(ValueError("details"))
    assert main(["record"]) == 1
    assert "ValueError: details" in capsys.readouterr().err


def test_a_command_that_is_not_there(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.COMMANDS, "missing", "")
    assert main(["missing"]) == 2
    assert capsys.readouterr().err == "edge: this build has no command missing\n"


def test_a_command_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setitem(sys.modules, "edge.cli.check_config", None)
    assert main(["check-config"]) in (1, 2)
    assert "Traceback" not in capsys.readouterr().err


def test_a_closed_pipe_is_no_matter() -> None:
    shell = f"{sys.executable} -m edge check-config | true; echo ${{PIPESTATUS[0]}}"
    run = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert run.stdout.strip() in ("0", "141")
    assert "Error" not in run.stderr


@pytest.mark.parametrize(
    ("command", "code", "out", "err"),
    [
        (
            "check-config >/dev/full",
            2,
            "",
            "edge: stdout cannot be written (No space left on device); send it somewhere else",
        ),
        ("--version >&-", 0, "", ""),
        ("nonsense 2>&-", 2, "", ""),  # and no complaint among what programs read
        ("nonsense 2>/dev/full", 2, "", ""),
        ("check-config >/dev/full 2>/dev/full", 2, "", ""),
        ("check-config /nonexistent 2>/dev/full", 2, "", ""),
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_where_nothing_can_be_written_the_exit_code_is_right(
    unbuffered: str, command: str, code: int, out: str, err: str
) -> None:
    shell = f"PYTHONUNBUFFERED={unbuffered} {sys.executable} -m edge {command}"
    run = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (run.returncode, run.stdout) == (code, out), run.stderr
    assert "Traceback" not in run.stderr
    assert "Exception ignored" not in run.stderr
    assert "".join(run.stderr.splitlines()[-1:]) == err


def test_table() -> None:
    assert table([("a", "b"), ("ccc", "")]) == ["a    b", "ccc"]


# --- check-config ----------------------------------------------------------------------------------------------------


def test_check_config_shows_the_effective_configuration_with_origins(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "edge.toml"
    path.write_text('[server]\nurl = "https://host/"\nagent = "Müller \\"x\\""\n[buffer]\nring_seconds = 700\n')
    assert main(["check-config", str(path)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert any(line.split("#")[0].strip() == 'url = "https://host"' and line.endswith(f"# {path}") for line in lines)
    assert any(line.split("#")[0].strip() == "rate = 16000" and line.endswith("# default") for line in lines)
    # What it prints is itself a configuration, and the same one.
    again = tmp_path / "again.toml"
    again.write_text(captured.out)
    assert load(again).config == load(path).config
    assert sum(len(section) for section in tomllib.loads(captured.out).values()) == len(KEYS)


def test_check_config_shows_all_errors_one_on_each_line(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "edge.toml"
    path.write_text('[server]\nurl = "https://u:hunter2@host"\nagnet = "x"\n[audio]\nrate = 1\n')
    assert main(["check-config", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 3
    assert all(line.startswith("edge: ") for line in captured.err.splitlines())
    assert "hunter2" not in captured.err


def test_check_config_looks_at_the_token_too(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "edge.toml"
    path.write_text('[server]\nurl = "https://host"\ntoken_file = "token"\n')
    assert main(["check-config", str(path)]) == 2
    assert str(tmp_path / "token") in capsys.readouterr().err
    (tmp_path / "token").write_text("hunter2")
    (tmp_path / "token").chmod(0o600)
    assert main(["check-config", str(path)]) == 0
    captured = capsys.readouterr()
    assert "hunter2" not in captured.out + captured.err


def test_check_config_looks_at_the_way_to_new_tokens(tmp_path: Path, capsys: Capture) -> None:
    path, files = tmp_path / "edge.toml", ("key", "seed")
    text = '[server]\nurl = "https://host"\nrefresh_url = "https://p.example"\n'
    path.write_text(f'{text}refresh_key_file = "key"\nrefresh_token_file = "seed"\n')
    for missing in files:
        assert main(["check-config", str(path)]) == 2
        assert str(tmp_path / missing) in capsys.readouterr().err
        (tmp_path / missing).write_text("hunter2")
        (tmp_path / missing).chmod(0o644)
    assert main(["check-config", str(path)]) == 0
    captured = capsys.readouterr()
    assert "hunter2" not in captured.out + captured.err
    assert captured.err.count("can be read by everybody") == 1  # the key is public
    assert "the file with the refresh token" in captured.err
    path.write_text('[server]\nurl = "https://host"\ntoken_command = "/bin/echo hunter2"\n')
    assert main(["check-config", str(path)]) == 2
    captured = capsys.readouterr()
    assert "server.token_command is refused: " in captured.err
    assert "hunter2" not in captured.out + captured.err


def test_a_token_that_only_the_service_may_read_is_a_note(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge.cli import check_config

    path = tmp_path / "edge.toml"
    path.write_text('[server]\nurl = "https://host"\ntoken_file = "token"\n')
    (tmp_path / "token").touch()

    def denied(*args: object, **kwargs: object) -> object:
        raise PermissionError(13, "Permission denied")

    real = Path.open
    monkeypatch.setattr(Path, "open", lambda p, *a: denied() if p.name == "token" else real(p, *a))
    assert check_config.run(SimpleNamespace(file=str(path))) == 0  # type: ignore[arg-type]
    assert "note: the token file" in capsys.readouterr().err


def test_check_config_looks_at_the_tls_files_and_the_proxy_too(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "edge.toml"
    path.write_text('[server]\nurl = "https://host"\nca_file = "ca.pem"\n')
    assert main(["check-config", str(path)]) == 2
    assert "server.ca_file cannot be used: No such file or directory" in capsys.readouterr().err
    path.write_text('[server]\nurl = "https://host"\n[connection]\nproxy = "environment"\n')
    monkeypatch.setenv("https_proxy", "socks5://me:hunter2@proxy:1080")
    assert main(["check-config", str(path)]) == 2
    captured = capsys.readouterr()
    assert "names no proxy of the kind http://HOST:PORT" in captured.err
    assert "hunter2" not in captured.out + captured.err
    path.write_text('[server]\nurl = "https://host"\n[connection]\nproxy = "http://me:hunter2@proxy:3128"\n')
    assert main(["check-config", str(path)]) == 0
    captured = capsys.readouterr()
    assert 'proxy = "http://***"' in captured.out
    assert "hunter2" not in captured.out + captured.err


def test_check_config_without_a_file_shows_the_defaults(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge import config

    monkeypatch.setattr(config, "DEFAULT_PATH", tmp_path / "none.toml")
    assert main(["check-config"]) == 0
    captured = capsys.readouterr()
    assert 'url = "http://127.0.0.1:8765"' in captured.out
    assert "these are the defaults" in captured.err
    assert "server.url is not set" in captured.err


def test_the_whole_command_in_a_process_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    path.write_text("[audio]\nrate = 48000\n")
    run = edge("check-config", str(path), environment={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"})
    assert run.returncode == 0
    assert "rate = 48000" in run.stdout
    odd = tmp_path / "odd\udcff\u202e.toml"
    run = edge("check-config", str(odd), environment={"PYTHONIOENCODING": "ascii"})
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert "cannot be read" in run.stderr


def test_options_reach_the_configuration() -> None:
    from edge.cli.main import Parser
    from edge.cli.options import add_config_options, load_config

    parser = Parser("edge x", "")
    add_config_options(parser)
    args = parser.parse_all(
        [
            "--config",
            str(ROOT / "tests/config/empty.toml"),
            "--server",
            "https://h",
            "--token-file",
            "t",
            "--agent",
            "a",
            "--event",
            "e",
            "--source",
            "tone:440",
        ]
    )
    loaded = load_config(args)
    server = loaded.config.server
    assert (server.url, server.token_file, server.agent, server.event) == ("https://h", "t", "a", "e")
    assert loaded.config.audio.source == "tone:440"
    assert {loaded.origins[key] for key in ("server.url", "audio.source")} == {"--server", "--source"}
    assert "%" not in parser.format_help()
