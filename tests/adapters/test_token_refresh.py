"""adapters.token.refresh against an endpoint that rotates and refuses reuse: what is kept, when, and what is said."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from edge.adapters.token import TokenRefresh, TokenStore, refresh
from edge.adapters.token.store import Held, fingerprint
from edge.adapters.wire import Connector
from edge.errors import ConfigError, EdgeError, TokenRefused, Unreachable
from edge.runtime.refresher import FIRST_RETRY_S
from tests.adapters.hostile import RawServer, Talk, answers
from tests.rig.supabase import KEY, REUSE_S, Supabase

BOUND_S = 60.0
KEPT = "refresh-token"


@pytest.fixture
async def supabase() -> AsyncIterator[Supabase]:
    async with asyncio.timeout(BOUND_S), Supabase() as made:
        yield made


class Box:
    """A recorder's files, and a TokenRefresh over them: each `boot` is a new process."""

    def __init__(self, folder: Path, url: str, seed: str) -> None:
        self.folder = folder
        self.url = url
        self.seed = folder / "seed"
        self.key = folder / "key"
        self.key.write_text(KEY)
        self.write_seed(seed)
        self.told: list[str] = []
        self.store = TokenStore(folder / KEPT)

    def write_seed(self, text: str) -> None:
        fresh = self.folder / "seed.new"
        fresh.write_text(text)
        fresh.replace(self.seed)

    def boot(self, utc: Callable[[], float | None] = lambda: None) -> TokenRefresh:
        return TokenRefresh(
            self.url,
            Connector(self.url),
            key=self.key.read_text,
            seed=self._read_seed,
            files=(self.key, self.seed),
            store=self.store,
            utc=utc,
            tell=lambda kind, text: self.told.append(text),
        )

    def _read_seed(self) -> str:
        try:
            return self.seed.read_text()
        except OSError:
            raise ConfigError("there is no seed") from None

    @property
    def kept(self) -> str:
        held = self.store.load()
        assert held is not None
        return held.text


@pytest.fixture
def box(tmp_path: Path, supabase: Supabase) -> Box:
    return Box(tmp_path, supabase.url, supabase.sign_in())


async def refused(source: TokenRefresh) -> str:
    with pytest.raises(TokenRefused) as caught:
        await source.fetch()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- as it should be -------------------------------------------------------------------------------------------------


async def test_each_exchange_uses_the_one_before_and_keeps_the_next(box: Box, supabase: Supabase) -> None:
    source = box.boot()
    for number in range(1, 4):
        token = await source.fetch()
        supabase.pass_time(3000)
        assert token.text == supabase.granted[-1]
        assert token.life_s == 3600
        assert len(supabase.granted) == number
        assert box.kept == supabase.refresh_tokens[number]
    assert supabase.refusals == box.told == []


async def test_another_process_goes_on_with_what_was_kept(box: Box, supabase: Supabase) -> None:
    for _ in range(4):
        await box.boot().fetch()
        supabase.pass_time(86400)
    box.seed.unlink()  # by somebody careful
    await box.boot().fetch()
    assert len(supabase.granted) == 5
    assert supabase.refusals == []


async def test_it_is_on_the_card_before_anybody_gets_the_access_token(
    box: Box, supabase: Supabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(file: int) -> None:
        order.append("fsync folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "fsync file")
        real_fsync(file)

    def replace(path: Path, target: Path) -> Path:
        order.append("rename")
        assert json.loads(path.read_text())["refresh_token"] == supabase.refresh_tokens[-1]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        return real_replace(path, target)

    leftover = box.folder / f"{KEPT}.new"  # of a process that was killed
    leftover.write_text("x" * 1000)
    leftover.chmod(0o644)
    source = box.boot()
    fetching = asyncio.create_task(source.fetch())
    fetching.add_done_callback(lambda task: order.append("used"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        patch.setattr(Path, "replace", replace)
        await fetching
        await asyncio.sleep(0)
    assert order == ["fsync file", "rename", "fsync folder", "used"]
    assert stat.S_IMODE((box.folder / KEPT).stat().st_mode) == 0o600
    assert not leftover.exists()


async def test_the_life_of_a_token_is_that_of_its_answer_and_needs_no_clock(box: Box, supabase: Supabase) -> None:
    supabase.life_s = 77.0
    assert (await box.boot(lambda: None).fetch()).life_s == 77.0
    assert (await box.boot(lambda: 4e9).fetch()).life_s == 77.0  # a clock that is years off


# --- crashes ---------------------------------------------------------------------------------------------------------


async def test_a_lost_answer_is_made_good_by_asking_again_soon(box: Box, supabase: Supabase) -> None:
    async def lose() -> None:
        raise ConnectionResetError

    source = box.boot()
    supabase.answering = lose
    with pytest.raises(Unreachable, match=r"server\.refresh_url"):
        await source.fetch()
    assert box.store.load() is None
    supabase.answering = Supabase().answering
    supabase.pass_time(9.5)
    assert (await source.fetch()).text == supabase.granted[-1]
    supabase.pass_time(3000)
    await source.fetch()
    assert supabase.refusals == []


async def test_no_answer_is_given_up_while_there_is_time_to_ask_again(box: Box, supabase: Supabase) -> None:
    release = asyncio.Event()

    async def late() -> None:
        await release.wait()

    supabase.answering = late
    source = box.boot()
    with pytest.raises(Unreachable, match="no answer in time"):
        await source.fetch()
    release.set()
    supabase.answering = Supabase().answering
    assert refresh._ANSWER_S + FIRST_RETRY_S < REUSE_S / 2
    supabase.pass_time(2 * (refresh._ANSWER_S + FIRST_RETRY_S))
    await source.fetch()
    assert supabase.refusals == []


@pytest.mark.parametrize("away_s", [5.0, 15.0])
async def test_a_crash_between_answer_and_card(
    box: Box, supabase: Supabase, monkeypatch: pytest.MonkeyPatch, away_s: float
) -> None:
    class Crash(BaseException):
        pass

    await box.boot().fetch()
    supabase.pass_time(3000)
    before = box.kept

    def crash(file: int) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", crash)
        with pytest.raises(Crash):
            await box.boot().fetch()
    assert box.kept == before  # the old one, whole
    supabase.pass_time(away_s)
    if away_s < 10:
        await box.boot().fetch()
        supabase.pass_time(3000)
        await box.boot().fetch()
        assert supabase.refusals == []
    else:
        line = await refused(box.boot())
        assert "Invalid Refresh Token: Already Used" in line
        assert "audio is kept" in line
        assert line.endswith("write the new refresh token into server.refresh_token_file")
        assert before not in line and box.seed.read_text() not in line


async def test_an_exchange_that_has_begun_is_not_cut_short_by_the_end_of_the_recorder(
    box: Box, supabase: Supabase
) -> None:
    has_rotated, may_answer = asyncio.Event(), asyncio.Event()

    async def answering() -> None:
        has_rotated.set()
        await may_answer.wait()

    supabase.answering = answering
    fetching = asyncio.create_task(box.boot().fetch())
    await has_rotated.wait()
    fetching.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not fetching.done()
    may_answer.set()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    assert box.kept == supabase.refresh_tokens[-1]
    supabase.pass_time(3000)
    await box.boot().fetch()
    assert supabase.refusals == []


async def test_one_that_has_not_asked_yet_keeps_nobody_waiting_at_the_end(tmp_path: Path) -> None:
    box = Box(tmp_path, "http://127.0.0.1:9", "seed")
    source = box.boot()
    is_connecting = asyncio.Event()

    async def stream(timeout_s: float, protocol: Callable[[], asyncio.Protocol]) -> asyncio.Transport:
        is_connecting.set()
        await asyncio.Event().wait()  # a way that swallows everything
        raise AssertionError

    source._connector.stream = stream  # type: ignore[method-assign]
    fetching = asyncio.create_task(source.fetch())
    await is_connecting.wait()
    fetching.cancel()
    async with asyncio.timeout(BOUND_S):
        with pytest.raises(asyncio.CancelledError):
            await fetching
    assert len(asyncio.all_tasks()) == 1


# --- seeds -----------------------------------------------------------------------------------------------------------


async def test_a_revoked_family_ends_when_a_new_seed_is_written(box: Box, supabase: Supabase) -> None:
    source = box.boot()
    await source.fetch()
    box.store.save(Held(box.seed.read_text(), fingerprint(box.seed.read_text())))
    supabase.pass_time(60)
    other = box.boot()
    await refused(other)
    supabase.pass_time(60)
    await refused(source)  # all of that family
    assert not source.has_changed()
    box.write_seed(supabase.sign_in())
    assert source.has_changed()
    assert (await source.fetch()).text == supabase.granted[-1]
    assert not source.has_changed()
    supabase.pass_time(3000)
    assert (await box.boot().fetch()).text == supabase.granted[-1]
    assert box.kept == supabase.refresh_tokens[-1]


async def test_a_seed_that_was_only_touched_does_not_take_over(box: Box, supabase: Supabase) -> None:
    source = box.boot()
    await source.fetch()
    supabase.pass_time(3000)
    box.write_seed(box.seed.read_text())
    assert source.has_changed()
    await source.fetch()
    await box.boot().fetch()
    assert supabase.refusals == []


async def test_without_a_seed_there_is_nothing_to_begin_with(box: Box) -> None:
    box.seed.unlink()
    with pytest.raises(ConfigError, match="there is no seed"):
        await box.boot().fetch()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"7", b'{"version": 2, "refresh_token": "x", "seed": ""}', b'{"version": 1, "seed": ""}',
     b'{"version": 1, "refresh_token": 7, "seed": ""}', b'{"version": 1, "refresh_token": "", "seed": ""}',
     b"\xff\x00", b"[" * 60000],
)  # fmt: skip
async def test_a_damaged_file_is_none_and_the_seed_serves(box: Box, supabase: Supabase, content: bytes) -> None:
    (box.folder / KEPT).write_bytes(content)
    assert box.store.load() is None
    await box.boot().fetch()
    assert box.kept == supabase.refresh_tokens[-1]


# --- a card that takes nothing ---------------------------------------------------------------------------------------


async def test_a_full_card_costs_no_token_and_is_said_once(box: Box, supabase: Supabase) -> None:
    await box.boot().fetch()
    path = box.folder / f"{KEPT}.new"
    path.mkdir()  # so that nothing can be written there
    source = box.boot()
    for _ in range(3):
        supabase.pass_time(3000)
        token = await source.fetch()
        assert token.text == supabase.granted[-1]
        assert token.life_s == 60.0  # it is tried again soon
    (line,) = box.told
    assert "cannot be kept in the state directory (Is a directory)" in line
    path.rmdir()
    supabase.pass_time(60)
    assert (await source.fetch()).life_s == 3600
    assert box.kept == supabase.refresh_tokens[-1]
    assert supabase.refusals == []


# --- what else an endpoint may say -----------------------------------------------------------------------------------


def said(value: object, status: str = "200 OK") -> Talk:
    return answers(status, json.dumps(value).encode(), "Content-Type: application/json")


async def tried(folder: Path, talk: Talk) -> EdgeError:
    """What an exchange with that server raises."""
    async with asyncio.timeout(BOUND_S), RawServer(talk) as server:
        box = Box(folder, server.url, "s3cret-seed")
        with pytest.raises(EdgeError) as caught:
            await box.boot().fetch()
        assert server.requests[0].startswith(b"POST /auth/v1/token?grant_type=refresh_token HTTP/1.1\r\n")
        assert f"apikey: {KEY}\r\n".encode() in server.requests[0]
        assert b"s3cret-seed" not in server.requests[0]
    assert box.store.load() is None
    for text in (str(caught.value), repr(caught.value)):
        assert "s3cret" not in text and KEY not in text
        assert text.isprintable()
    return caught.value


async def test_a_key_that_is_refused_is_said_as_that(box: Box) -> None:
    box.key.write_text("another")
    assert (await refused(box.boot())).endswith("check server.refresh_key_file")


@pytest.mark.parametrize(
    "talk",
    [
        said({"error": "invalid_grant", "error_description": "Invalid Refresh Token: s3cret-seed\x1b[2J"}, "400 Bad"),
        said({"error_code": "refresh_token_already_used"}, "403 Forbidden"),
        said({"code": 403, "error_code": "user_banned", "msg": "User is banned"}, "403 Forbidden"),
        said({"error_code": "session_not_found", "msg": {"s": "x" * 9999}}, "422 No"),
    ],
)
async def test_other_words_for_a_refusal(tmp_path: Path, talk: Talk) -> None:
    error = await tried(tmp_path, talk)
    assert isinstance(error, TokenRefused)
    assert "server.refresh_token_file" in str(error)
    assert len(str(error)) < 400


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{")
    await writer.drain()


async def no_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x16\x03\x01\x00\r\n\r\n")
    await writer.drain()


async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Hangs up."""


@pytest.mark.parametrize(
    "talk",
    [
        said({}), said([]), said(None), said({"access_token": 7, "refresh_token": "r"}),
        said({"access_token": "two words", "refresh_token": "r"}), said({"access_token": "", "refresh_token": "r"}),
        said({"access_token": "a", "refresh_token": None}), said({"access_token": "a", "refresh_token": "r\n"}),
        said({"access_token": "a" * 20000, "refresh_token": "r"}), answers("200 OK", b"<html>log in</html>"),
        answers("200 OK", b"[" * 60000), answers("200 OK", b"x" * 200_000), answers("302 Found", b"", "Location: /x"),
        answers("404 Not Found"), answers("400 Bad Request", b"<html>"), answers("403 Forbidden", b"<html>"),
        answers("500 Oops"),
        said({"msg": "slow down"}, "429 Too Many Requests"), answers("503 Later"), silent, no_http, nothing,
    ],
)  # fmt: skip
async def test_anything_else_is_worth_another_try(tmp_path: Path, talk: Talk) -> None:
    error = await tried(tmp_path, talk)
    assert isinstance(error, Unreachable)
    assert "server.refresh_url" in str(error)


async def test_an_answer_without_a_new_refresh_token_leaves_the_old_one(tmp_path: Path) -> None:
    async with asyncio.timeout(BOUND_S), RawServer(said({"access_token": "a.b.c", "expires_in": 60})) as server:
        box = Box(tmp_path, server.url, "seed")
        assert (await box.boot().fetch()).text == "a.b.c"
        assert box.kept == "seed"


async def test_nobody_there(tmp_path: Path) -> None:
    box = Box(tmp_path, "http://127.0.0.1:9", "seed")
    with pytest.raises(Unreachable, match=r"server\.refresh_url: .*Connection refused"):
        await box.boot().fetch()
