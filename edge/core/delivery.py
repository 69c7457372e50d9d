"""What one server session has confirmed, and what that is worth.

`PlainDelivery` applies PROTOCOL.md's rules of delivery to an unmodified aia-v4 server, whose confirmations are worth
little by themselves; `AckedDelivery` believes the acknowledgements of our extension. Both speak in packet numbers of
the recording and offer the session the same face, so that it need not ask which it has.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from edge.core.cuts import CutModel
from edge.core.flow import Flow

MAX_CUTS = 4  # rule 8: this many cuts at most are sent since the last "pending 0"
_RTT_GAIN = 1 / 8  # as TCP smooths its round-trip time (RFC 6298, section 2)
_ACKED_WINDOWS = 15  # with acks so many windows may be in flight, where two seconds of throughput are that much


@dataclass(frozen=True, slots=True)
class Poll:
    """What was known when a status poll was started: only that may be concluded from its answer (rule 2)."""

    surely_cut: int = 0
    handled: int = 0
    repeats: int = 0


class _Barriers:
    """Open barriers of the current socket, first in, first out: a pong carries no id (PROTOCOL.md, "Confirmation")."""

    def __init__(self) -> None:
        self._open: deque[tuple[int, float]] = deque()
        self.rtt_s = math.nan

    def __bool__(self) -> bool:
        return bool(self._open)

    def add(self, seq: int, now: float) -> None:
        self._open.append((seq, now))

    def answered(self, now: float) -> int | None:
        """The packet that the answered barrier stood behind; None for an answer that nobody asked for."""
        if not self._open:
            return None
        seq, since = self._open.popleft()
        self.took(now - since)
        return seq

    def took(self, seconds: float) -> None:
        """One more round-trip time."""
        self.rtt_s = seconds if math.isnan(self.rtt_s) else self.rtt_s + (seconds - self.rtt_s) * _RTT_GAIN

    def clear(self) -> None:
        """The next socket may go another way, so what was measured is worth nothing there."""
        self._open.clear()
        self.rtt_s = math.nan


class PlainDelivery:
    """A session of an aia-v4 server whose first packet is `first` and which began at `now`; times in seconds.

    The server counts what arrives and knows no numbers. So where lost packets were passed over, all that concerns its
    cuts is reckoned in places: the n-th packet that went out in this session, each counted once.
    """

    acks = False

    def __init__(self, first: int, cuts: CutModel, now: float) -> None:
        self.first = first
        self.cuts = cuts
        self.sent = self.resume = self.delivered = first - 1
        self.sockets = 0
        self.alive_at = now  # the last moment at which the server surely had not finalised the session
        self.proven = False
        self.clear = first - 1  # handled when the last poll that said "pending 0" was started
        self._proved = first - 1
        self._sure = first - 1  # confirmed before the last sign of life
        self._clear_repeats = 0
        self._hearsay = Poll(first - 1, first - 1)  # a "pending 0" between two sockets: counts once alive after it
        self._paced = first - 1  # as `clear`, whatever the session was worth by then
        self._paced_repeats = 0
        self._repeats = 0
        self._shorts = 0
        self._passed: list[tuple[int, int]] = []  # holes up to `sent`: their first and last packet
        self._barriers = _Barriers()
        self._flow = Flow(first - 1)

    @classmethod
    def restored(
        cls,
        first: int,
        cuts: CutModel,
        alive_at: float,
        *,
        delivered: int,
        handled: int,
        shorts: int = 0,
        passed: Sequence[tuple[int, int]] = (),
    ) -> PlainDelivery:
        """A session that an earlier process had opened, and last saw alive at `alive_at`.

        All that is not `delivered` may have been sent any number of times, and only what is `handled` surely was;
        `shorts` of it at most were short, and the holes `passed` at most were left out.
        """
        session = cls(first, cuts, alive_at)
        session.sockets = 1  # so the next one is not the first, and has to prove itself
        session.delivered = session.clear = session._proved = session._sure = delivered
        session.sent = session.resume = max(delivered, handled)
        session._hearsay = Poll(delivered, delivered)
        session._paced = delivered
        session._shorts = shorts
        session._passed = [(start, min(stop, session.sent)) for start, stop in passed if start <= session.sent]
        session._repeats = cuts.window + cuts.interval  # more make no difference (CutModel.surely_cut)
        return session

    @property
    def proved(self) -> int:
        """Rule 1: the highest packet whose pong stems from a session that was alive."""
        return self._proved

    @property
    def rtt_s(self) -> float:
        """Smoothed round-trip time of this socket's barriers; nan before the first was answered."""
        return self._barriers.rtt_s

    def attach(self) -> None:
        """A socket said hello. The first of a session just created needs no proof."""
        self._flow.begin(self.resume)
        self.sockets += 1
        self.proven = self.sockets == 1

    def detach(self) -> None:
        """The socket is gone: what it had not confirmed will be sent again and may then have arrived twice."""
        self._repeats += self._place(self.sent) - self._place(self.resume)
        self.sent = self.resume
        self._passed = [hole for hole in self._passed if hole[0] <= self.sent]
        self.proven = False  # of the socket: what is polled between two sockets proves nothing
        self._barriers.clear()

    def stalled(self) -> None:
        """The socket is given up for want of an answer."""
        self._flow.stalled()

    def sending(self, seq: int, now: float, *, short: bool) -> None:
        """Packet `seq` goes out; `short`: with fewer frames than the others."""
        self._flow.sending(now)
        self.sent = seq
        self._shorts += short

    def passing(self, first: int, last: int) -> None:
        """The packets `first` to `last`, which are next, are lost and left out."""
        self._passed.append((first, last))
        self.sent = last

    def limit(self, window: int, max_pending: int) -> int:
        """The highest packet that may be sent now: rule 7's bound on what is unconfirmed, which a slow link lowers to
        what it carries in two seconds, and rule 8's on open cuts."""
        window = self.window(window)
        repeated_since = self._repeats - self._paced_repeats
        cuts = min(MAX_CUTS, max(1, max_pending // 2))
        paced = self._place(self._paced) + cuts * self.cuts.interval - repeated_since
        return self.sent + min(self._place(self.resume) + window, paced) - self._place(self.sent)

    def window(self, window: int) -> int:
        """How many of `window` packets may be unconfirmed on this link."""
        return self._flow.limit(window, window)

    def barrier(self, now: float) -> None:
        """A JSON ping goes out behind what was sent so far."""
        self._barriers.add(self.sent, now)

    def pong(self, now: float) -> bool:
        """The oldest barrier was answered; True where that confirmed something new."""
        seq = self._barriers.answered(now)
        if seq is None:
            return False
        if self.sockets == 1:
            self.alive_at = now
        new, self.resume = seq > self.resume, max(seq, self.resume)
        if new:
            self._flow.handled(self.resume, now, is_idle=self.resume == self.sent)
        if self.proven:
            self._proved = self.resume
        return new

    def ack(self, seq: int, now: float) -> bool:
        """An aia-v4 server sends none."""
        return False

    def is_waiting(self) -> bool:
        """True while an answer is owed."""
        return bool(self._barriers)

    def prove(self, now: float) -> None:
        """A `t` ping with is_recording came on this socket: rule 1."""
        self.proven = True
        self.alive_at = now
        self._proved = self._sure = self.resume
        self._count(self._hearsay)

    def died(self) -> None:
        """Rule 3: the session was finalised, nobody knows when: pongs since the last sign of life may lie, those of
        the first socket too. It may have been stopped under our socket, and the close never have reached us."""
        self._proved = self._sure

    def complete(self) -> None:
        """Rule 9 holds: all is handled and proved, and since then a poll found the session there, nothing pending."""
        self._sure = self._proved

    def poll(self) -> Poll:
        """To be taken when a status poll is started."""
        arrived = self._place(self.resume)  # those of a proven socket, or to be proved before the answer counts
        cut = self.cuts.surely_cut(arrived, self._repeats, self._shorts)
        return Poll(self._packet_at(cut), self.resume, self._repeats)

    def pending_zero(self, poll: Poll, now: float, grace_s: float) -> None:
        """Rule 2: `poll` said that no segment was pending.

        It may pace us, but proves nothing of a session that may have been finalised: that drops what was pending.
        """
        self._paced, self._paced_repeats = max(self._paced, poll.handled), max(self._paced_repeats, poll.repeats)
        if self.proven and now < self.alive_at + grace_s:
            self._count(poll)

    def pending_zero_between(self, poll: Poll) -> None:
        """The same, while there is no socket. A session that was finalised meanwhile says so as well, its pending lines
        lost; so this counts only once the next socket proves that the session was alive all the time."""
        said = self._hearsay
        self._hearsay = Poll(
            max(said.surely_cut, poll.surely_cut), max(said.handled, poll.handled), max(said.repeats, poll.repeats)
        )

    def _count(self, poll: Poll) -> None:
        self.delivered = max(self.delivered, poll.surely_cut)
        self.clear = max(self.clear, poll.handled)
        self._clear_repeats = max(self._clear_repeats, poll.repeats)

    def may_have_cut(self) -> bool:
        """Rule 3: False where surely no cut fell since the last "pending 0"."""
        clear = self._place(self.clear)
        since, repeats = self._place(self.sent) - clear, self._repeats - self._clear_repeats
        if not since and not repeats:
            return False
        if self._shorts or not self.cuts.is_exact:
            return True
        extra = range(self._clear_repeats + 1)
        return any(self.cuts.reached(clear + d + since + repeats) > self.cuts.reached(clear + d) for d in extra)

    def flushed(self) -> None:
        """Rule 3: the session was finalised and its tail flushed."""
        if not self.may_have_cut():
            self.delivered = max(self.delivered, self._proved)

    def _place(self, seq: int) -> int:
        """How many packets went out up to packet `seq`, each counted once."""
        passed = sum(min(last, seq) - first + 1 for first, last in self._passed if first <= seq)
        return seq - self.first + 1 - passed

    def _packet_at(self, place: int) -> int:
        """The packet in that place, or the last one of a hole behind it."""
        seq = self.first - 1 + place
        for first, last in self._passed:
            if first <= seq + 1:
                seq += last - first + 1
        return seq


class AckedDelivery:
    """A session of a server with acknowledgements; `delivered` is what it had stored when it said hello."""

    acks = True

    def __init__(self, delivered: int) -> None:
        self.sent = self.resume = self.delivered = delivered
        self.sockets = 0
        self._barriers = _Barriers()
        self._flow = Flow(delivered)
        self._timed: tuple[int, float] | None = None  # a packet whose acknowledgement is timed, and when it went out

    @property
    def proved(self) -> int:
        """An acknowledgement proves itself."""
        return self.delivered

    @property
    def rtt_s(self) -> float:
        """Smoothed time from a packet, or a barrier, to its answer on this socket; nan before the first."""
        return self._barriers.rtt_s

    def store(self, seq: int) -> None:
        """A hello says that all up to `seq` is stored."""
        self.sent = self.resume = self.delivered = max(seq, self.delivered)

    def attach(self) -> None:
        """A socket said hello."""
        self.sockets += 1
        self._flow.begin(self.delivered)

    def detach(self) -> None:
        """The socket is gone; the throughput of the next one is measured afresh."""
        self.sent = self.resume = self.delivered
        self._barriers.clear()
        self._timed = None

    def stalled(self) -> None:
        """The socket is given up for want of an answer."""
        self._flow.stalled()

    def sending(self, seq: int, now: float, *, short: bool) -> None:
        """Packet `seq` goes out."""
        self._flow.sending(now)
        self._timed = self._timed or (seq, now)
        self.sent = seq

    def passing(self, first: int, last: int) -> None:
        """The packets `first` to `last`, which are next, are lost: a gap message stands for them."""
        self.sent = last

    def limit(self, window: int, max_pending: int) -> int:
        """The highest packet that may be sent now."""
        return self.delivered + self.window(window)

    def window(self, window: int) -> int:
        """How many packets may be in flight: two seconds of throughput, many times `window` where the link is fast."""
        return self._flow.limit(window, _ACKED_WINDOWS * window)

    def barrier(self, now: float) -> None:
        """A JSON ping goes out behind what was sent so far."""
        self._barriers.add(self.sent, now)

    def pong(self, now: float) -> bool:
        """Handled, though not yet stored: the way there and back is alive."""
        seq = self._barriers.answered(now)
        new = seq is not None and seq > self.resume
        if seq is not None:
            self.resume = max(seq, self.resume)
        return new

    def ack(self, seq: int, now: float) -> bool:
        """All up to `seq` is durably stored. An acknowledgement of what was never sent is not believed."""
        if not self.delivered < seq <= self.sent:
            return False
        self.delivered = seq
        self.resume = max(seq, self.resume)
        if self._timed is not None and seq >= self._timed[0]:
            self._barriers.took(now - self._timed[1])
            self._timed = None
        self._flow.handled(seq, now, is_idle=seq == self.sent)
        return True

    def is_waiting(self) -> bool:
        """True while an acknowledgement or an answer is owed."""
        return bool(self._barriers) or self.sent > self.delivered
