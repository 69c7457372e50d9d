"""Names to addresses: asked anew for each attempt, and never waited for by anybody who has something else to do."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading

from edge.errors import NameFailure, Unreachable

# What the system's resolver gives: family, type, protocol, canonical name, address.
Address = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int]]

# The system's resolver repeats a lost question after 5 s only. A question of our own each half second finds a name
# service that is back at once; ten of them are enough until the first one repeats itself.
REPEAT_S = 0.5
MAX_THREADS = 10
_NO_SUCH_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


class Resolver:
    """Asks the system (hosts file, DNS, mDNS) for the addresses of one host.

    Each question has a thread, because the system's resolver blocks for as long as it likes; there are `MAX_THREADS`
    at most, and none that the process would wait for at its end. An answer serves all who wait when it comes, a
    failure only the one whose question it was.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._threads = threading.Semaphore(MAX_THREADS)
        self._waiting: set[asyncio.Future[list[Address]]] = set()

    async def addresses(self, timeout_s: float) -> list[Address]:
        """All addresses, best first. Raises NameFailure."""
        if is_literal(self._host):
            return self._literal()
        answer: asyncio.Future[list[Address]] = asyncio.get_running_loop().create_future()
        self._waiting.add(answer)
        try:
            async with asyncio.timeout(timeout_s):
                while not answer.done():
                    self._question(answer)
                    await asyncio.wait([answer], timeout=REPEAT_S)
            return answer.result()
        except TimeoutError:
            raise self._failure("the name service does not answer", is_answer=False) from None
        except socket.gaierror as error:
            raise self._failure(error.strerror or "no reason given", is_answer=error.errno in _NO_SUCH_NAME) from None
        except (OSError, UnicodeError) as error:
            raise self._failure(type(error).__name__, is_answer=False) from None
        finally:
            self._waiting.discard(answer)
            answer.cancel()

    def _literal(self) -> list[Address]:
        try:
            return self._ask(socket.AI_NUMERICHOST)
        except OSError:  # an IPv6 zone that is no interface of this machine, now
            raise Unreachable(f"there is no way to {self._host}", "audio is kept", "check server.url") from None

    def _failure(self, why: str, *, is_answer: bool) -> NameFailure:
        return NameFailure(
            f"the name cannot be resolved ({self._host}: {why})",
            "audio is kept",
            "check server.url" if is_answer else "it goes on as soon as this network resolves names",
            is_answer=is_answer,
        )

    def _ask(self, flags: int = 0) -> list[Address]:
        return socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, flags=flags)  # type: ignore[return-value]

    def _question(self, answer: asyncio.Future[list[Address]]) -> None:
        if not self._threads.acquire(blocking=False):
            return
        loop = asyncio.get_running_loop()

        def ask() -> None:
            result: list[Address] | Exception
            try:
                result = self._ask()
            except Exception as error:  # noqa: BLE001  (whoever waits is to hear of it)
                result = error
            self._threads.release()
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._answered, answer, result)

        try:
            threading.Thread(target=ask, name="resolve", daemon=True).start()
        except RuntimeError:  # the machine has no more threads
            self._threads.release()

    def _answered(self, answer: asyncio.Future[list[Address]], result: list[Address] | Exception) -> None:
        if isinstance(result, Exception):
            if not answer.done():
                answer.set_exception(result)
            return
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(result)


def is_literal(host: str) -> bool:
    """Whether `host` is an address already. IPv6 stands without brackets, with its zone where it has one."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
