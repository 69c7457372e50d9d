"""A device whose clock is years off, at real TLS servers: who gets in by the floor or by the server's date, who never
does, and that nobody who does not gets to see more than a HEAD.

OpenSSL looks at this machine's clock. So the clock that is wrong is this one, and the certificates are of another year.
"""

from __future__ import annotations

import datetime as dt
import ssl
from pathlib import Path

import pytest

from edge.adapters.wire import ClockRescue, Connector, TlsFiles, tls
from edge.core.checktime import WINDOW_S, Validity
from edge.core.timebase import Anchor
from edge.errors import CaptivePortal, CertificateExpired, CertificateNotYetValid, EdgeError, TlsRefused, Unreachable
from tests.adapters.hostile import TOKEN, TokenWatch
from tests.adapters.wire.peers import BOTH, Dated, Half, Proxy, attempt, failure
from tests.adapters.wire.pki import DAY, LOCAL, NOW, Authority, serves

both = pytest.mark.parametrize("half", BOTH)
# What time it is where this clock is behind, or ahead; and floors below which this clock does not lie.
BEHIND, AHEAD = NOW + 430 * DAY, NOW - 430 * DAY
FLOOR = {BEHIND: NOW - DAY, AHEAD: AHEAD - DAY}


class Clock:
    """This machine's own, which nobody trusts; `wall` shows another time instead."""

    def __init__(self, wall: dt.datetime | None = None) -> None:
        self.boot_s = 100.0
        self.wall = wall
        self.trusted = False

    def read(self) -> Anchor:
        wall = self.wall or dt.datetime.now(dt.UTC)
        return Anchor("boot", wall.timestamp() - self.boot_s, self.trusted)


class Rescue(ClockRescue):
    """The real one, on `clock`; `told` are its lines for people."""

    def __init__(self, floor: dt.datetime, wall: dt.datetime | None = None) -> None:
        self.told: list[str] = []
        self.clock = clock = Clock(wall)
        super().__init__(clock.read, floor.timestamp(), self.told.append, lambda: clock.boot_s)


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


@pytest.fixture
def other(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "other")


def of(authority: Authority, day: dt.datetime, *names: str) -> ssl.SSLContext:
    """What a server uses whose certificate is good for a month around `day`."""
    return serves(authority.issue(*(names or LOCAL), begins=day - 15 * DAY, ends=day + 15 * DAY))


def connector(url: str, authority: Authority, rescue: ClockRescue | None, proxy: str = "") -> Connector:
    return Connector(url, files=TlsFiles(str(authority.path)), rescue=rescue, proxy=proxy)


async def refused(half: Half, peer: Dated, authority: Authority, rescue: Rescue, watch: TokenWatch) -> EdgeError:
    """Why nobody gets in; `peer` has heard nothing but harmless questions."""
    error = await failure(half, peer.url, connector(peer.url, authority, rescue), watch)
    assert peer.served == 0
    assert TOKEN.encode() not in b"".join(peer.received)
    assert rescue.told == []
    return error


# --- who gets in -----------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(("day", "off"), [(BEHIND, "1.2 years behind"), (AHEAD, "1.2 years ahead")])
async def test_by_the_servers_date(half: Half, day: dt.datetime, off: str, ours: Authority) -> None:
    rescue = Rescue(FLOOR[day])
    async with Dated(of(ours, day), day) as peer:
        for _ in range(2):  # asked once: what was learned serves all later connections
            await attempt(half, peer.url, connector(peer.url, ours, rescue))
        assert (peer.asked, peer.served) == (1, 2)
    [line] = rescue.told
    assert line == (
        f"the clock is {off} and no time server answers: certificates are checked by the server's own date; audio is "
        "delivered, its time stamps are marked as not trusted; set the clock, or let it reach a time server (NTP)"
    )


@both
async def test_by_the_floor_nobody_has_to_be_asked(half: Half, ours: Authority) -> None:
    rescue = Rescue(floor=BEHIND, wall=NOW)
    async with Dated(of(ours, BEHIND)) as peer:
        await attempt(half, peer.url, connector(peer.url, ours, rescue))
        assert (peer.asked, peer.served) == (0, 1)
    assert "at least 1.2 years behind" in rescue.told[0]


async def test_what_one_half_learned_serves_the_other(ours: Authority) -> None:
    rescue = Rescue(FLOOR[BEHIND])
    async with Dated(of(ours, BEHIND), BEHIND) as peer:
        for half in BOTH:
            await attempt(half, peer.url, connector(peer.url, ours, rescue))
        assert (peer.asked, peer.served) == (1, 2)


@both
async def test_the_rescued_time_runs_on_and_is_asked_for_again_where_it_does_not_serve(
    half: Half, ours: Authority
) -> None:
    rescue, later = Rescue(FLOOR[BEHIND]), BEHIND + 40 * DAY
    async with Dated(of(ours, BEHIND), BEHIND) as old, Dated(of(ours, later), later) as new:
        await attempt(half, old.url, connector(old.url, ours, rescue))
        rescue.clock.boot_s += 40 * 86400
        await attempt(half, new.url, connector(new.url, ours, rescue))
        assert (new.asked, new.served) == (0, 1)
        await attempt(half, old.url, connector(old.url, ours, rescue))  # it has been away as well, and back
        assert (old.asked, old.served) == (2, 2)
        await attempt(half, new.url, connector(new.url, ours, rescue))
        assert (new.asked, new.served) == (1, 2)
    assert len(rescue.told) == 1


@both
async def test_with_a_client_certificate(half: Half, ours: Authority) -> None:
    context = serves(ours.issue(*LOCAL, begins=AHEAD - DAY, ends=AHEAD + DAY), wants=ours)
    files = TlsFiles(str(ours.path), str(ours.issue("a recorder")))
    async with Dated(context, AHEAD) as peer:
        await attempt(half, peer.url, Connector(peer.url, files=files, rescue=Rescue(floor=AHEAD - DAY)))
        assert (peer.asked, peer.served) == (1, 1)


@both
async def test_through_a_proxy(half: Half, ours: Authority) -> None:
    async with Proxy() as proxy, Dated(of(ours, AHEAD), AHEAD) as peer:
        await attempt(half, peer.url, connector(peer.url, ours, Rescue(floor=AHEAD - DAY), proxy.url))
        assert (peer.asked, peer.served, len(proxy.requests)) == (1, 1, 3)


# --- a clock that is trusted is right --------------------------------------------------------------------------------


@both
async def test_a_trusted_clock_asks_nobody(half: Half, ours: Authority, watch: TokenWatch) -> None:
    rescue = Rescue(floor=AHEAD - DAY)
    rescue.clock.trusted = True
    assert rescue.to_keep() is not None
    async with Dated(of(ours, AHEAD), AHEAD) as peer:
        error = await refused(half, peer, ours, rescue, watch)
        assert peer.asked == 0
    assert isinstance(error, CertificateExpired)
    assert "this device's clock says" in str(error)
    assert rescue.to_keep() is None, "a clock that the server's certificates contradict makes no floor"
    async with Dated(of(ours, NOW)) as peer:
        await attempt(half, peer.url, connector(peer.url, ours, rescue))
    assert rescue.to_keep() is not None
    rescue.clock.wall = NOW + 100 * DAY
    assert rescue.to_keep() is None, "nor one that has left what was agreed"


@both
async def test_once_it_is_trusted_the_ordinary_check_returns(half: Half, ours: Authority, watch: TokenWatch) -> None:
    rescue = Rescue(floor=AHEAD - DAY)
    async with Dated(of(ours, AHEAD), AHEAD) as old, Dated(of(ours, NOW)) as new:
        await attempt(half, old.url, connector(old.url, ours, rescue))
        rescue.clock.trusted = True
        error = await failure(half, old.url, connector(old.url, ours, rescue), watch)
        assert isinstance(error, CertificateExpired)
        assert (old.asked, old.served) == (1, 1)
        await attempt(half, new.url, connector(new.url, ours, rescue))


@both
async def test_trusted_in_the_middle_of_a_handshake(
    half: Half, ours: Authority, watch: TokenWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    rescue = Rescue(floor=AHEAD, wall=NOW - 900 * DAY)
    async with Dated(of(ours, AHEAD), AHEAD) as peer:
        to = connector(peer.url, ours, rescue)
        check = rescue.check

        def set_right(chain: Validity) -> None:
            rescue.clock.wall, rescue.clock.trusted = NOW, True
            check(chain)

        monkeypatch.setattr(rescue, "check", set_right)
        assert isinstance(await failure(half, peer.url, to, watch), CertificateExpired)
        assert peer.received == []


# --- who never gets in -----------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("day", [BEHIND, AHEAD])
async def test_a_forged_chain(
    half: Half, day: dt.datetime, ours: Authority, other: Authority, tmp_path: Path, watch: TokenWatch
) -> None:
    (tmp_path / "forger").mkdir()
    forger = Authority(tmp_path / "forger", "ours")  # who calls himself ours
    with_our_key_id = forger.issue(*LOCAL, claims=ours, begins=day - 15 * DAY, ends=day + 15 * DAY)
    for context in (of(other, day), of(forger, day), serves(with_our_key_id)):
        async with Dated(context, day) as peer:
            for rescue in (Rescue(FLOOR[day]), Rescue(floor=day, wall=NOW - 2000 * DAY)):
                error = await refused(half, peer, ours, rescue, watch)
                assert isinstance(error, TlsRefused)
            assert peer.received == []


@both
async def test_a_forged_signature_below_an_authority_that_has_ended_by_this_clock(
    half: Half, other: Authority, tmp_path: Path, watch: TokenWatch
) -> None:
    old = Authority(tmp_path, "old", ends=AHEAD + 30 * DAY)  # OpenSSL sees that first, and the signature not at all
    forged = other.issue(*LOCAL, claims=old, begins=AHEAD - DAY, ends=AHEAD + DAY)
    async with Dated(serves(forged), AHEAD) as peer:
        without = await failure(half, peer.url, connector(peer.url, old, None), watch)
        assert isinstance(without, CertificateExpired)
        error = await refused(half, peer, old, Rescue(floor=AHEAD - DAY), watch)
        assert isinstance(error, TlsRefused)
        assert "certificate signature failure" in str(error)
        assert peer.received == []


@both
@pytest.mark.parametrize("day", [BEHIND, AHEAD])
async def test_a_foreign_name(half: Half, day: dt.datetime, ours: Authority, watch: TokenWatch) -> None:
    async with Dated(of(ours, day, "wifi.example"), day) as peer:
        for rescue in (Rescue(FLOOR[day]), Rescue(floor=day, wall=NOW - 2000 * DAY)):
            error = await refused(half, peer, ours, rescue, watch)
            assert isinstance(error, CaptivePortal)
        assert peer.received == []


@both
@pytest.mark.parametrize(
    ("floor", "dates", "why"),
    [
        (AHEAD + 3 * DAY, (AHEAD,), "it lies before what this device has seen"),
        (AHEAD - dt.timedelta(seconds=WINDOW_S) - DAY, (AHEAD,), "it lies too far in the future"),
        (AHEAD - 50 * DAY, (AHEAD - 20 * DAY,), "the certificates are not valid then, either"),
        (AHEAD - 50 * DAY, (AHEAD + 20 * DAY,), "the certificates are not valid then, either"),
        (AHEAD - DAY, (), "the server says no date"),
        (AHEAD - DAY, (AHEAD, AHEAD), "the server says no date"),
        (AHEAD - DAY, ("yesterday",), "the server says no date"),
        (AHEAD - DAY, ("Sun, 31 Feb 2026 10:00:00 GMT",), "the server says no date"),
        (AHEAD - DAY, (f"{AHEAD:%A, %d-%b-%y %H:%M:%S} GMT",), "the server says no date"),
    ],
)
async def test_a_date_of_no_use(
    half: Half, floor: dt.datetime, dates: tuple[dt.datetime | str, ...], why: str, ours: Authority, watch: TokenWatch
) -> None:
    async with Dated(of(ours, AHEAD), *dates) as peer:
        error = await refused(half, peer, ours, Rescue(floor), watch)
        assert isinstance(error, CertificateExpired)
        assert why in str(error)
        assert peer.asked == 1


@both
async def test_an_authority_that_is_not_valid_at_the_date(half: Half, tmp_path: Path, watch: TokenWatch) -> None:
    old = Authority(tmp_path, "old", ends=AHEAD - DAY)
    async with Dated(of(old, AHEAD), AHEAD) as peer:
        error = await refused(half, peer, old, Rescue(floor=AHEAD - 50 * DAY), watch)
        assert isinstance(error, CertificateExpired)
        assert "the certificates are not valid then, either" in str(error)
        assert peer.asked == 1


@both
async def test_what_had_ended_before_the_floor_also_where_this_clock_would_let_it_in(
    half: Half, ours: Authority, watch: TokenWatch
) -> None:
    async with Dated(of(ours, NOW), NOW) as peer:  # good by the system's clock, which is behind what is known
        rescue = Rescue(floor=BEHIND, wall=NOW)
        error = await refused(half, peer, ours, rescue, watch)
        assert isinstance(error, CertificateExpired)
        assert f"as far as this device knows it is {BEHIND:%Y-%m-%d}" in str(error)
        assert (peer.asked, len(peer.received)) == (1, 1)


@both
async def test_a_certificate_that_begins_behind_the_date(half: Half, ours: Authority, watch: TokenWatch) -> None:
    async with Dated(of(ours, BEHIND), NOW) as peer:
        error = await refused(half, peer, ours, Rescue(floor=NOW - DAY), watch)
        assert isinstance(error, CertificateNotYetValid)
        assert f"the server's own date, {NOW:%Y-%m-%d}, is of no use: the certificates are not valid" in str(error)


@both
async def test_a_server_that_does_not_answer_the_question(half: Half, ours: Authority, watch: TokenWatch) -> None:
    async with Dated(of(ours, AHEAD), mute=True) as peer:
        to = connector(peer.url, ours, Rescue(floor=AHEAD - DAY))
        error = await failure(half, peer.url, to, watch, timeout_s=2.0)
        assert isinstance(error, CertificateExpired)
        assert "the server could not be asked for the date" in str(error)
        assert (peer.asked, peer.served) == (1, 0)


@both
async def test_a_python_that_does_not_show_the_chain_gets_nobody_in(
    half: Half, ours: Authority, watch: TokenWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(info: object) -> Validity:
        raise AttributeError("get_verified_chain")

    monkeypatch.setattr(tls, "_validity", unknown)
    async with Dated(of(ours, AHEAD), AHEAD) as peer:
        for rescue in (Rescue(floor=AHEAD - DAY), Rescue(floor=AHEAD, wall=NOW - 2000 * DAY)):
            error = await refused(half, peer, ours, rescue, watch)
            assert isinstance(error, Unreachable)
        assert peer.served == 0
    async with Dated(of(ours, NOW)) as peer:  # the ordinary check is OpenSSL's own
        await attempt(half, peer.url, connector(peer.url, ours, Rescue(floor=NOW - DAY)))


@both
async def test_files_that_are_gone_meanwhile_are_no_way_in(half: Half, ours: Authority, watch: TokenWatch) -> None:
    async with Dated(of(ours, AHEAD), AHEAD) as peer:
        for rescue in (Rescue(FLOOR[AHEAD]), Rescue(floor=AHEAD, wall=NOW - 2000 * DAY)):
            to = connector(peer.url, ours, rescue)
            there = ours.path.rename(ours.path.with_suffix(".gone"))
            assert isinstance(await failure(half, peer.url, to, watch), CertificateExpired)
            assert peer.received == []
            there.rename(ours.path)
            await attempt(half, peer.url, to)
            peer.received.clear()


def test_all_but_the_time_is_verified_as_ever(ours: Authority) -> None:
    for files in (TlsFiles(), TlsFiles(str(ours.path))):
        ordinary, untimed = tls.context(files), tls.untimed(files)
        assert untimed.verify_mode is ssl.CERT_REQUIRED
        assert untimed.check_hostname is True
        assert int(untimed.verify_flags) == int(ordinary.verify_flags) | 0x200000
        assert untimed.minimum_version == ordinary.minimum_version
