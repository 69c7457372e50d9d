"""A receiver in a thread of its own, for code that brings its own event loop."""

from __future__ import annotations

import asyncio
import json
import threading
import wave
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from edge.receiver.config import ReceiverConfig
from edge.receiver.server import Receiver

TOKEN = "t0ken-of-these-tests"
_BOUND_S = 20.0
_T = TypeVar("_T")


class ThreadedReceiver:
    """A context manager; `stop` and `begin` end and begin it again in between, on the same port."""

    def __init__(self, out: Path, token: str = TOKEN, **options: Any) -> None:
        self.out = out
        self._token = token
        self.is_strict = options.get("strict") is not None
        self._options = options
        self.port = 0
        self._receiver: Receiver | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._is_ready = threading.Event()
        self._failure: BaseException | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> ThreadedReceiver:
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def begin(self) -> None:
        """Listen; from the second time on at the port of the first."""
        self._is_ready.clear()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="receiver")
        self._thread.start()
        assert self._is_ready.wait(_BOUND_S)
        if self._failure is not None:
            raise self._failure

    async def _main(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        config = ReceiverConfig(self.out, self._token, port=self.port, **self._options)
        try:
            async with Receiver(config) as self._receiver:
                self.port = self._receiver.port
                self._is_ready.set()
                await self._end.wait()
        except BaseException as error:
            self._failure = error
            raise
        finally:
            self._is_ready.set()

    def stop(self) -> None:
        """End it in order; everything is on disk afterwards."""
        if self._thread is not None and self._loop is not None and self._end is not None:
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join(_BOUND_S)
            assert not self._thread.is_alive()
            self._thread = None

    def accept(self, token: str) -> None:
        """From now on `token` is the one that is taken, as where the one before has expired."""

        def change(receiver: Receiver) -> None:
            receiver._face._token = token.encode()

        self.do(change)

    def do(self, what: Callable[[Receiver], _T]) -> _T:
        """Call `what` in the receiver's loop."""

        async def call() -> _T:
            assert self._receiver is not None
            return what(self._receiver)

        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(_BOUND_S)


def wav(out: Path, recording: str) -> tuple[bytes, int, int]:
    """Samples, rate and channels of a stored recording."""
    with wave.open(str(out / recording / "audio.wav"), "rb") as file:
        return file.readframes(file.getnframes()), file.getframerate(), file.getnchannels()


def account(out: Path, recording: str) -> dict[str, Any]:
    """The receiver's account of a recording."""
    found: dict[str, Any] = json.loads((out / recording / "account.json").read_text())
    return found
