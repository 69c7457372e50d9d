"""What a person reads on stderr: each fact once, what it means for the audio, and how long it took."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edge.cli.screen import Screen
from edge.runtime.happening import Happening

LOST = "eth0 lost its carrier"
FOUND = "there is a way to the server: eth0 from 192.0.2.1 through 192.0.2.254"
MOVED = "wlan0 lost its carrier; the path is wwan0 from 10.64.0.4 now"
BETTER = "the path moved from wwan0 to wlan0 from 198.51.100.3"
DNS = "dns: the name cannot be resolved; audio is kept; check server.url"

Read = Callable[..., list[str]]


@pytest.fixture
def read(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Read:
    """What is read of these events, of which each takes five seconds."""

    def read(*told: Happening, is_verbose: bool = False) -> list[str]:
        times = [0.0]
        monkeypatch.setattr("time.monotonic", lambda: times[0])
        screen = Screen(is_verbose=is_verbose)
        for happening in told:
            screen.tell(happening)
            times[0] += 5.0
        return [line.partition(" ")[2] for line in capsys.readouterr().err.splitlines()]

    return read


def state(old: str, new: str) -> Happening:
    return Happening("state", f"{old} -> {new}", {"old": old, "new": new})


def link(change: str, reason: str) -> Happening:
    return Happening("link", f"network: {reason}", {"change": change})


def lost(text: str) -> Happening:
    return Happening("lost", text)


def woken(reason: str) -> Happening:
    return Happening("woken", f"trying now: {reason}")


AWAY, BACK = state("connected", "reconnecting"), state("reconnecting", "connected")
ATTEMPT = Happening("attempt", f"attempt 1: {FOUND}", {"attempt": 1})
WAITING = Happening("waiting", "attempt 2 in 1.0 s", {"attempt": 2, "delay_s": 1.0})


def test_a_failure_is_said_once_and_its_end_once(read: Read) -> None:
    assert read(
        state("connecting", "connected"),
        lost("reset"), AWAY, *[lost("unreachable")] * 7, lost("no answer"), lost("unreachable"),
        woken("RETRY was pressed"), lost("unreachable"),
        BACK, AWAY, lost("unreachable"),
    ) == [
        "connecting -> connected",
        "reset", "connected -> reconnecting; audio is kept", "unreachable", "no answer", "unreachable",
        "trying now: RETRY was pressed", "unreachable",
        "reconnecting -> connected, after 65 s",
        "connected -> reconnecting; audio is kept", "unreachable",
    ]  # fmt: skip


def test_a_cable_that_is_pulled_and_back(read: Read) -> None:
    told = link("lost", LOST), lost(LOST), AWAY, WAITING, lost(DNS), WAITING, link("found", FOUND), woken(FOUND)
    assert read(*told, ATTEMPT, BACK) == [
        f"network: {LOST}",
        "connected -> reconnecting; audio is kept",
        f"network: {FOUND}",
        "reconnecting -> connected, after 40 s",
    ]


def test_a_held_connection_that_returns(read: Read) -> None:
    held = Happening("held", "the connection is held until the link is back")
    returned = Happening("returned", "the connection is back, as it was")
    assert read(link("lost", LOST), held, AWAY, link("found", FOUND), returned, BACK) == [
        f"network: {LOST}",
        held.text,
        "connected -> reconnecting; audio is kept",
        f"network: {FOUND}",
        returned.text,
        "reconnecting -> connected, after 15 s",
    ]


def test_from_one_path_to_another(read: Read) -> None:
    assert read(link("moved", MOVED), lost(MOVED), AWAY, BACK) == [
        f"network: {MOVED}",
        "connected -> reconnecting; audio is kept",
        "reconnecting -> connected, after 10 s",
    ]


def test_to_a_better_path(read: Read) -> None:
    moved = Happening("moved", "reconnecting on the better path")
    assert read(link("better path", BETTER), Happening("moving", BETTER), moved, AWAY, BACK) == [
        f"network: {BETTER}",
        moved.text,
        "connected -> reconnecting; audio is kept",
        "reconnecting -> connected, after 5.0 s",
    ]


def test_a_move_that_nobody_announced_is_said(read: Read) -> None:
    assert read(Happening("moving", BETTER)) == [BETTER]


def test_a_failure_with_the_link_up_is_said_and_that_audio_is_kept_only_once(read: Read) -> None:
    assert read(lost(DNS), lost("reset"), AWAY, lost(DNS), BACK) == [
        DNS,
        "reset",
        "connected -> reconnecting; audio is kept",
        "dns: the name cannot be resolved; check server.url",
        "reconnecting -> connected, after 20 s",
    ]


def test_a_failure_after_the_link_is_back_is_said(read: Read) -> None:
    told = read(link("lost", LOST), AWAY, lost("unreachable"), link("found", FOUND), lost("no answer"))
    assert told[-2:] == [f"network: {FOUND}", "no answer"]


def test_old_news_of_the_link_hides_nothing(read: Read) -> None:
    assert read(link("moved", MOVED), AWAY, BACK, lost(MOVED))[-1] == MOVED


def test_verbose_says_each_attempt_and_each_wake_with_its_reason(read: Read) -> None:
    told = link("lost", LOST), lost(LOST), AWAY, WAITING, lost(DNS), WAITING, link("found", FOUND), woken(FOUND)
    assert read(*told, ATTEMPT, BACK, Happening("message", "hidden"), is_verbose=True) == [
        f"network: {LOST}",
        "connected -> reconnecting; audio is kept",
        WAITING.text,
        "dns: the name cannot be resolved; check server.url",
        WAITING.text,
        f"network: {FOUND}",
        f"trying now: {FOUND}",
        ATTEMPT.text,
        "reconnecting -> connected, after 40 s",
    ]


def test_without_verbose_no_attempt_is_a_line(read: Read) -> None:
    assert read(ATTEMPT, WAITING) == []
