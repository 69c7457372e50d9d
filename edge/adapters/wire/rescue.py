"""The last resort of a device whose clock is wrong: the server's own date, for the checks of certificates only."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from collections.abc import Callable
from contextlib import suppress

import h11

from edge.adapters.wire.tls import refuse_time
from edge.core.checktime import CheckTime, Validity
from edge.core.timebase import Anchor

_MOST_BYTES = 16 << 10
_DATE = re.compile(r"[A-Z][a-z]{2}, ([0-9]{2}) ([A-Z][a-z]{2}) ([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class ClockRescue:
    """By what time the connections of one process check certificates (see `edge.core.checktime`).

    `read` says how the system's clock stands; `floor_s` in Unix seconds is a moment that has passed for sure; `tell`
    gets the lines that people should see; `boot_clock` gives seconds of CLOCK_BOOTTIME.
    """

    def __init__(
        self,
        read: Callable[[], Anchor],
        floor_s: float,
        tell: Callable[[str], None],
        boot_clock: Callable[[], float],
    ) -> None:
        self._read = read
        self._tell = tell
        self._boot_clock = boot_clock
        self._time = CheckTime(floor_s, boot_clock())

    @property
    def is_needed(self) -> bool:
        """Whether the system's clock is worse than what is known here: certificates are to be checked by `check`."""
        return self._time.at(self._read(), self._boot_clock()) is not None

    @property
    def is_allowed(self) -> bool:
        """Whether a server may be asked for the date. Never where the clock is trusted: then what has expired has."""
        return not self._read().trusted

    def check(self, chain: Validity) -> None:
        """Raise SSLCertVerificationError where `chain` is not valid now; by the system's clock once that is trusted."""
        anchor, boot_s = self._read(), self._boot_clock()
        used_s = self._time.at(anchor, boot_s)
        refuse_time(chain, boot_s + anchor.utc_minus_boot_s if used_s is None else used_s)
        news = self._time.news(anchor, boot_s)
        if news:
            self._tell(news)

    def accept(self, date_s: float, chain: Validity) -> str:
        """Take the date that a server with `chain` said for the time; returns why that cannot be, or ""."""
        return self._time.fault(date_s, chain, self._read(), self._boot_clock())

    # --- the next start's floor ------------------------------------------------------------------------------------

    def agreed(self, chain: Validity) -> None:
        """A server's `chain` was found valid by the system's clock."""
        self._time.agreed(chain)

    def contradicted(self) -> None:
        """A server's chain was not, by its times."""
        self._time.contradicted()

    def to_keep(self) -> float | None:
        """The next start's floor in Unix seconds; None while there is nothing to go by."""
        return self._time.to_keep(self._read(), self._boot_clock())


async def date(host: str, transport: asyncio.Transport, reader: asyncio.StreamReader) -> float | None:
    """What the server at the other end says the date is, in Unix seconds; None where it says none. Nothing but its own
    name goes out. Raises OSError or h11.RemoteProtocolError."""
    http = h11.Connection(h11.CLIENT)
    headers = {"Host": host, "Accept": "*/*", "Connection": "close"}
    head = h11.Request(method="HEAD", target="/", headers=list(headers.items()))
    transport.write((http.send(head) or b"") + (http.send(h11.EndOfMessage()) or b""))
    received = 0
    while received <= _MOST_BYTES:
        event = http.next_event()
        if event is h11.NEED_DATA:
            data = await reader.read(1 << 12)
            received += len(data)
            http.receive_data(data)
        elif isinstance(event, h11.Response):
            said = [value.decode("latin-1") for name, value in event.headers if name == b"date"]
            return _unix_s(said[0]) if len(said) == 1 else None
        elif not isinstance(event, h11.InformationalResponse):
            break
    return None


def _unix_s(text: str) -> float | None:
    """A date as HTTP writes it (RFC 9110 5.6.7), the same in every locale."""
    match = _DATE.fullmatch(text)
    if match is None:
        return None
    day, month, year, hour, minute, second = match.groups()
    with suppress(ValueError):
        date = dt.date(int(year), _MONTHS.index(month) + 1, int(day))
        return dt.datetime.combine(date, dt.time(int(hour), int(minute), int(second), tzinfo=dt.UTC)).timestamp()
    return None
