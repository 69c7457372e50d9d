"""adapters.token.command: real programs that print a token, or misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from pathlib import Path

import pytest

from edge.adapters.token import TokenCommand, TokenFile, TokenFunction
from edge.core.token import Token
from edge.errors import ConfigError, EdgeError, Unreachable
from tests.rig.supabase import jwt

BOUND_S = 60.0
SECRET = "hunter2-s3cret"
NOW = 1_800_000_000.0


def program(folder: Path, text: str, *arguments: str) -> str:
    """A Python program as a command."""
    path = folder / "give token.py"  # a name that a shell would split
    path.write_text(text)
    return " ".join([sys.executable, f"'{path}'", *arguments])


def command(line: str, timeout_s: float = 30.0, utc: float | None = None) -> TokenCommand:
    return TokenCommand(line, lambda: utc, timeout_s)


async def run(line: str, **options: float) -> Token:
    async with asyncio.timeout(BOUND_S):
        return await command(line, **options).fetch()


async def failed(line: str, **options: float) -> EdgeError:
    with pytest.raises(EdgeError) as caught:
        await run(line, **options)
    assert SECRET not in str(caught.value) and SECRET not in repr(caught.value)
    assert str(caught.value).isprintable()
    return caught.value


def is_alive(pid: int) -> bool:
    """Whether a process is there that has not ended; one whose end nobody asked for yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def gone(pid: int) -> None:
    async with asyncio.timeout(BOUND_S):
        while is_alive(pid):
            await asyncio.sleep(0.01)


def read(path: Path) -> str:
    return path.read_text()


async def pids(path: Path, count: int = 1) -> list[int]:
    """What processes have written there, once they have."""
    async with asyncio.timeout(BOUND_S):
        while True:
            with contextlib.suppress(OSError):
                lines = read(path).splitlines()
                if len(lines) >= count:
                    return [int(line) for line in lines]
            await asyncio.sleep(0.01)


# --- as it should be -------------------------------------------------------------------------------------------------


async def test_what_it_prints_is_the_token_and_its_life_is_known(tmp_path: Path) -> None:
    text = jwt({"iat": NOW, "exp": NOW + 3600})
    line = program(tmp_path, f"print({text!r})")
    assert await run(line, utc=NOW + 600) == Token(text, 3000)
    assert await run(line) == Token(text, 3600)
    assert await run(program(tmp_path, "print('opaque')")) == Token("opaque", None)


async def test_it_is_run_without_a_shell(tmp_path: Path) -> None:
    show = "import sys\nprint('|'.join(sys.argv[1:]).replace(' ', '_'))"
    words = ["'two words'", "$HOME", "`id`", "a;b", "*", ">out", '"q"']
    assert (await run(program(tmp_path, show, *words))).text == "two_words|$HOME|`id`|a;b|*|>out|q"


async def test_it_reads_nothing_and_stands_nowhere(tmp_path: Path) -> None:
    show = "import os, sys\nassert sys.stdin.read() == ''\nprint(os.getcwd(), os.getsid(0) == os.getpid(), sep=',')"
    assert (await run(program(tmp_path, show))).text == "/,True"


# --- as it should not ------------------------------------------------------------------------------------------------


async def test_what_it_says_beside_is_nowhere(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    asyncio.get_running_loop().set_debug(True)
    text = f"import sys\nprint({SECRET!r}, file=sys.stderr)\nprint({SECRET!r}, flush=True)\nsys.exit(int(sys.argv[1]))"
    assert isinstance(await failed(program(tmp_path, text, "3")), Unreachable)
    assert (await run(program(tmp_path, text, "0"))).text == SECRET
    out, err = capfd.readouterr()
    assert SECRET not in out + err + caplog.text
    assert SECRET not in repr(Token(SECRET))


async def test_how_it_ended_is_said(tmp_path: Path) -> None:
    assert "ended with 7;" in str(await failed(program(tmp_path, f"print('{SECRET}')\nraise SystemExit(7)")))
    kill = f"import os\nprint('{SECRET}', flush=True)\nos.kill(os.getpid(), 15)"
    assert "ended by signal 15;" in str(await failed(program(tmp_path, kill)))


@pytest.mark.parametrize(
    "printed",
    ["''", "'\\n'", f"'two {SECRET}'", f"'two\\n{SECRET}'", f"'{SECRET}\\0'", f"'{SECRET}\\u00e9'",
     f"'{SECRET}' * 9999"],
)  # fmt: skip
async def test_what_is_no_token_is_refused_and_not_shown(tmp_path: Path, printed: str) -> None:
    error = await failed(program(tmp_path, f"import sys\nsys.stdout.reconfigure(encoding='utf-8')\nprint({printed})"))
    assert "must print one line" in str(error)


async def test_a_program_that_is_not_there_or_none(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("no program")
    for line, why in ((str(tmp_path / "none"), "No such file"), (str(tmp_path / "plain"), "Permission denied")):
        error = await failed(line)
        assert isinstance(error, ConfigError)
        assert why in str(error)
    assert isinstance(await failed("/bin/sh \0"), ConfigError)


async def test_one_that_does_not_end_is_ended_with_all_that_it_has_started(tmp_path: Path) -> None:
    path = tmp_path / "pids"
    text = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nos.fork()\n"
        f"with open({str(path)!r}, 'a') as file: file.write(f'{{os.getpid()}}\\n')\n"
        "time.sleep(1000)"
    )
    fetching = asyncio.create_task(failed(program(tmp_path, text), timeout_s=8.0))
    found = await pids(path, 2)
    assert "not through within 8 s" in str(await fetching)
    for pid in found:
        await gone(pid)


async def test_a_child_that_holds_its_output_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pids"
    text = (
        f"import os, time\nif os.fork():\n    print('{SECRET}', flush=True)\n    os._exit(0)\n"
        f"with open({str(path)!r}, 'a') as file: file.write(f'{{os.getpid()}}\\n')\ntime.sleep(1000)"
    )
    assert "not through" in str(await failed(program(tmp_path, text), timeout_s=5.0))
    for pid in await pids(path):
        await gone(pid)


async def test_endless_output_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "pids"
    text = (
        f"import os\nwith open({str(path)!r}, 'a') as file: file.write(f'{{os.getpid()}}\\n')\n"
        f"while True: print('{SECRET}' * 1000)"
    )
    await failed(program(tmp_path, text))
    (pid,) = await pids(path)
    assert not is_alive(pid)


async def test_nothing_stays_behind_when_the_recorder_ends(tmp_path: Path) -> None:
    path = tmp_path / "pids"
    text = f"import os, time\nwith open({str(path)!r}, 'a') as file: file.write(f'{{os.getpid()}}\\n')\ntime.sleep(999)"
    fetching = asyncio.create_task(command(program(tmp_path, text)).fetch())
    (pid,) = await pids(path)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    assert not is_alive(pid)
    assert not command("/bin/true").has_changed()


# --- a file ----------------------------------------------------------------------------------------------------------


async def test_a_file_is_read_anew_and_its_change_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "token"
    source = TokenFile(lambda: path.read_text(), path)
    assert not source.has_changed()  # there is none, as before
    path.write_text("one")
    assert source.has_changed()
    assert await source.fetch() == Token("one", None)
    assert not source.has_changed()
    fresh = tmp_path / "fresh"
    fresh.write_text("two")
    os.utime(fresh, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    fresh.replace(path)  # same size, same time: it is another file all the same
    assert source.has_changed()
    assert await source.fetch() == Token("two", None)
    path.unlink()
    assert source.has_changed()
    nowhere = TokenFile(lambda: "", None)
    assert await nowhere.fetch() == Token("", None)
    assert not nowhere.has_changed()


# --- a function ------------------------------------------------------------------------------------------------------


async def test_a_function_may_be_async_or_a_string() -> None:
    async def later() -> str:
        await asyncio.sleep(0)
        return "later"

    class Callable:
        async def __call__(self) -> str:
            return "object"

    assert (await TokenFunction("text", 1.0).fetch()).text == "text"
    assert (await TokenFunction(lambda: "now", 1.0).fetch()).text == "now"
    assert (await TokenFunction(later, 1.0).fetch()).text == "later"
    assert (await TokenFunction(Callable(), 1.0).fetch()).text == "object"
    assert not TokenFunction("text", 1.0).has_changed()


async def test_a_function_that_gives_nothing() -> None:
    async def never() -> str:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(Unreachable, match=r"within 0\.05 s"):
        await TokenFunction(never, 0.05).fetch()
    with pytest.raises(ConfigError, match="NoneType"):
        await TokenFunction(lambda: None, 1.0).fetch()  # type: ignore[arg-type]
