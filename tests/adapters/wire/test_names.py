"""The name service that is dead, slow, or back: in memory where a fault cannot be made otherwise, and in a network
namespace with a real one that a test switches on."""

from __future__ import annotations

import asyncio
import json
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.adapters.wire import Connector, names
from edge.adapters.wire.names import MAX_THREADS, Resolver, is_literal
from edge.errors import NameFailure
from tests.adapters.hostile import BOUND_S

ROOT = Path(__file__).parents[3]
ANSWER = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", 80))]


class Hanging:
    """Stands for the system's resolver: each call comes back when the test says so, and with what."""

    def __init__(self) -> None:
        self.calls: list[queue.SimpleQueue[object]] = []
        self.default: object = None  # what further calls give at once

    def __call__(self, *arguments: object, **named: object) -> Any:
        call: queue.SimpleQueue[object] = queue.SimpleQueue()
        if self.default is not None:
            call.put(self.default)
        self.calls.append(call)
        outcome = call.get(timeout=BOUND_S)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def asked(self, times: int) -> None:
        while len(self.calls) < times:
            await asyncio.sleep(0.001)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "resolve"]


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    hanging = Hanging()
    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    monkeypatch.setattr(names, "REPEAT_S", 0.01)
    yield hanging
    hanging.default = ANSWER
    for call in hanging.calls:
        call.put(ANSWER)
    for thread in threads():
        thread.join(BOUND_S)
    assert threads() == []


@pytest.mark.parametrize(
    ("text", "is_one"),
    [("127.0.0.1", True), ("::1", True), ("fe80::1%eth0", True), ("127.1", False), ("aia.example", False), ("", False)],
)
def test_what_is_an_address_already(text: str, is_one: bool) -> None:
    assert is_literal(text) is is_one


async def test_an_address_needs_nobody(system: Hanging, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for host, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
        [address] = await Resolver(host, 80).addresses(BOUND_S)
        assert (address[0], address[4][:2]) == (family, (host, 80))
    assert threads() == []


async def test_each_attempt_asks_anew(system: Hanging) -> None:
    resolver = Resolver("aia.example", 80)
    other = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.8", 80))]
    for wanted in (ANSWER, other):
        system.default = wanted
        assert await resolver.addresses(BOUND_S) == wanted


async def test_a_resolver_that_hangs_costs_ten_threads_and_never_the_loop(system: Hanging) -> None:
    resolver = Resolver("aia.example", 80)
    for _ in range(3):
        with pytest.raises(NameFailure, match=r"aia.example: the name service does not answer") as caught:
            await resolver.addresses(0.3)
        assert caught.value.is_answer is False
        assert "as soon as this network resolves names" in str(caught.value)
    assert len(threads()) <= MAX_THREADS
    asking = asyncio.create_task(resolver.addresses(BOUND_S))
    await system.asked(MAX_THREADS)
    await asyncio.sleep(10 * names.REPEAT_S)
    assert len(system.calls) == MAX_THREADS == len(threads())
    system.calls[0].put(ANSWER)  # to a question of an attempt that was given up
    assert await asking == ANSWER


async def test_a_late_failure_is_only_its_own_attempts(system: Hanging, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "REPEAT_S", BOUND_S)
    resolver = Resolver("aia.example", 80)
    first = asyncio.create_task(resolver.addresses(BOUND_S))
    await system.asked(1)
    first.cancel()
    await asyncio.wait([first])
    second = asyncio.create_task(resolver.addresses(BOUND_S))
    await system.asked(2)
    system.calls[0].put(socket.gaierror(socket.EAI_AGAIN, "of the first attempt"))
    while len(threads()) > 1:
        await asyncio.sleep(0.001)
    system.calls[1].put(ANSWER)
    assert await second == ANSWER


@pytest.mark.parametrize(
    ("error", "is_answer", "text"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), True, "check server.url"),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), False, "as soon as"),
        (socket.gaierror(socket.EAI_FAIL, "Non-recoverable failure"), False, "as soon as"),
        (OSError(12, "Cannot allocate memory"), False, "as soon as"),
        (UnicodeError("label too long"), False, "as soon as"),
    ],
)
async def test_what_dns_says_is_told_apart_from_dns_that_says_nothing(
    system: Hanging, error: Exception, is_answer: bool, text: str
) -> None:
    system.default = error
    with pytest.raises(NameFailure) as caught:
        await Resolver("aia.example", 80).addresses(BOUND_S)
    assert caught.value.is_answer is is_answer
    assert text in str(caught.value)
    assert str(caught.value).startswith("dns: the name cannot be resolved (aia.example: ")


async def test_where_the_attempt_leads_is_told(system: Hanging) -> None:
    told: list[object] = []
    six = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::7", 80, 0, 0))
    connector = Connector("http://aia.example", on_resolved=told.append)
    system.default = [six, *ANSWER]
    connecting = asyncio.create_task(connector.connect(BOUND_S))
    while not told:
        await asyncio.sleep(0.001)
    connecting.cancel()
    await asyncio.wait([connecting])
    assert told == [["2001:db8::7", "192.0.2.7"]]


def test_a_question_without_an_answer_does_not_keep_the_process() -> None:
    program = (
        "import asyncio, socket, time\n"
        "from edge.adapters.wire.names import Resolver\n"
        "from edge.errors import NameFailure\n"
        "socket.getaddrinfo = lambda *a, **k: time.sleep(3600)\n"
        "try:\n"
        "    asyncio.run(Resolver('aia.example', 80).addresses(0.1))\n"
        "except NameFailure as error:\n"
        "    print(error.name)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (run.stdout, run.stderr, run.returncode) == ("dns\n", "", 0)


@pytest.mark.root
@pytest.mark.parametrize("outage", ["silent", "refusing", "failing"])
def test_a_real_name_service_that_is_dead_for_a_while(outage: str, tmp_path: Path) -> None:
    """The recorder is back with the first question that is answered, and does not wait for the system to repeat its."""
    command = [
        "unshare",
        "--net",
        "--mount",
        sys.executable,
        "-m",
        "tests.adapters.wire.nameless",
        outage,
        str(tmp_path),
    ]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=110)
    assert run.returncode == 0, run.stderr
    seen = json.loads(run.stdout.splitlines()[-1])
    assert seen["exit"] == 0, seen
    account = seen["account"]
    assert account["delivered"] == account["expected"] > 0, seen
    assert account["lost"] == {}
    assert any("dns: the name cannot be resolved (aia.example: " in line for line in seen["lines"]), seen
    if outage != "refusing":
        # In six dead seconds the system itself asks a few times; two questions (A, AAAA) each half second are ours.
        assert seen["questions_in_vain"] >= 20, seen
    assert seen["back_after_s"] < 30.0, seen
