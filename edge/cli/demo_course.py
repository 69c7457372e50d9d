"""The course of events: what a demo does to the recorder, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass

from edge.cli.demo_stage import Stage
from edge.cli.demo_story import Actor
from edge.errors import EdgeError

_MACHINE_S = 2.5  # what an ordinary machine needs to start two receivers
_PATIENCE_S = 40.0  # for what must come, on a slow machine as well


@dataclass(frozen=True, slots=True)
class Course:
    """The times, in seconds. `outage_s` must exceed the grace window, `cut_s` stay well below it.

    The recorder tries again after `first_delay_s`, twice that, four times that and so on: the way back after the short
    cut has to come before the grace window ends.
    """

    grace_s: float
    first_delay_s: float
    speech_s: float
    before_s: float
    cut_s: float
    between_s: float
    receiver_down_s: float
    outage_s: float
    last_s: float

    @property
    def total_s(self) -> float:
        """About how long it takes, for a progress bar."""
        waits_s = 8 * self.first_delay_s + _MACHINE_S
        return self.before_s + self.cut_s + 2 * self.between_s + waits_s + self.outage_s + self.last_s

    @property
    def source_s(self) -> float:
        """How much source there has to be, whatever the machine makes of the times."""
        return self.total_s + 4 * _PATIENCE_S


FULL = Course(
    grace_s=8, first_delay_s=1, speech_s=30, before_s=8, cut_s=6, between_s=6, receiver_down_s=2, outage_s=13, last_s=6
)
QUICK = Course(
    grace_s=4, first_delay_s=0.25, speech_s=4, before_s=1.5, cut_s=1.5, between_s=1, receiver_down_s=0.5, outage_s=6,
    last_s=1,
)  # fmt: skip


class NotShownError(EdgeError):
    """Something that the demo waits for did not come."""


async def play(stage: Stage, course: Course) -> None:
    """Go through all of it. Raises EdgeError."""
    await _begin(stage, course)
    await _cut(stage, course)
    await _kill(stage, course)
    await _outage(stage, course)
    await _end(stage, course)


async def _begin(stage: Stage, course: Course) -> None:
    story = stage.story
    story.now = "A receiver starts on this machine. Between it and the recorder is a proxy that can cut the way."
    await stage.receiver.start()
    story.say(Actor.DEMO, f"receiver started; it keeps a lost session for {course.grace_s:g} s")
    if stage.withheld is not None:
        story.say(Actor.DEMO, f"SABOTAGE: of packet {stage.withheld} only one frame will be sent; the audit must fail")
    story.now = "RECORD is pressed. Real speech first, then quiet noise that shows its place."
    await stage.press_record()
    await _comes("the recording", stage.is_begun.wait())
    if stage.error is not None:
        raise stage.error
    await _comes("the connection", stage.connected())
    story.say(Actor.RECORDER, f"recording and sending: session {stage.sessions[-1]}")
    story.now = "All is well: what is captured is delivered at once. Both LEDs are lit."
    await asyncio.sleep(course.before_s)


async def _cut(stage: Stage, course: Course) -> None:
    story, known = stage.story, stage.sessions
    story.now = f"The network is cut for {course.cut_s:g} s. The recording goes on, into memory."
    story.say(Actor.DEMO, f"network cut for {course.cut_s:g} s; recorder and receiver live on")
    story.outage("network cut")
    stage.proxy.cut()
    await asyncio.sleep(course.cut_s)
    await stage.proxy.mend()
    story.outage_ends()
    story.say(Actor.DEMO, "network back")
    story.now = "The network is back. The recorder returns by itself to the session that it had."
    await _back(stage, known)
    story.now = "What waited in memory went out at once, and each packet counts once."
    await asyncio.sleep(course.between_s)


async def _kill(stage: Stage, course: Course) -> None:
    story, known = stage.story, stage.sessions
    story.now = "The receiver is killed (SIGKILL) and started again: it forgets its sessions, not the audio."
    story.say(Actor.DEMO, "receiver killed by SIGKILL")
    story.outage("receiver killed")
    await stage.receiver.kill()
    await asyncio.sleep(course.receiver_down_s)
    await stage.receiver.start()
    story.outage_ends()
    story.say(Actor.DEMO, "receiver started again, on the same port and folder")
    story.now = "The receiver runs again. The recorder's next attempt opens a follow-on session at the right packet."
    await _back(stage, known)
    story.now = "What waited in memory went out at once, and each packet counts once."
    await asyncio.sleep(course.between_s)


async def _outage(stage: Stage, course: Course) -> None:
    story, known = stage.story, stage.sessions
    story.now = (
        f"The network is cut for {course.outage_s:g} s: the session dies, its grace window is {course.grace_s:g} s."
    )
    story.say(Actor.DEMO, f"network cut for {course.outage_s:g} s, longer than the grace window")
    story.outage("network cut, longer than grace")
    stage.proxy.cut()
    await asyncio.sleep(course.outage_s)
    await stage.proxy.mend()
    story.outage_ends()
    story.say(Actor.DEMO, "network back")
    story.now = "The network is back. RETRY need not be pressed; it only ends the wait before the next attempt."
    await stage.press_retry()
    await _back(stage, known)
    story.now = "What waited in memory went out at once, in a session that follows on. Some more of the usual."
    await asyncio.sleep(course.last_s)


async def _end(stage: Stage, course: Course) -> None:
    story = stage.story
    story.now = "RECORD is pressed again: the recording ends, and the rest is delivered."
    await stage.press_record()
    await _comes("the end of the recording", stage.is_ended.wait())
    if stage.error is not None:
        raise stage.error
    await _comes("the delivery", stage.device.delivered())
    story.say(Actor.RECORDER, "the recording has ended, and all of it is delivered")
    story.now = "The receiver closes its files. Then the audit compares them with the source."
    await stage.receiver.end()


async def _back(stage: Stage, known: list[str]) -> None:
    """Wait until audio flows again, and say how; `known` are the sessions of before."""
    await _comes("the connection", stage.connected())
    how = "the same session" if stage.sessions == known else "a follow-on session"
    stage.story.say(Actor.RECORDER, f"connected again: {how}, {stage.sessions[-1]}")


async def _comes(what: str, waiting: Awaitable[object]) -> None:
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await waiting
    except TimeoutError:
        raise NotShownError(f"{what} did not come within {_PATIENCE_S:g} s") from None
