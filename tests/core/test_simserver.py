"""The simulated servers do what PROTOCOL.md says that the real ones do, and refuse what no client may do."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.simserver import (
    FINALIZED,
    AckServer,
    Audio,
    Close,
    Faults,
    Json,
    Misuse,
    Network,
    Opened,
    PlainServer,
    Server,
    Timeline,
    Wire,
)

INIT = {"type": "init", "segment_target_ms": 15000, "acks": True}
PING = {"type": "ping"}
STOP = {"action": "stop_stream"}


class Client:
    """A client with no sense of its own."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.time = server.time
        self.heard: list[Any] = []
        self.session_id = self.http(kind="start", recording="r")["session_id"]

    def http(self, **request: Any) -> Json:
        answers: list[Json | None] = []
        self.server.http(request, answers.append, 5.0)
        self.time.run(self.time.now + 5.1)
        [answer] = answers
        return {"none": True} if answer is None else answer

    @property
    def status(self) -> Json:
        return self.http(kind="status", session_id=self.session_id)

    def dial(self) -> Wire:
        self.heard.clear()
        wire = self.server.connect(self.session_id, self.heard.append)
        self.time.run(self.time.now + 0.1)
        return wire

    def begin(self) -> Wire:
        wire = self.dial()
        self.say(wire, INIT)
        return wire

    def say(self, wire: Wire, *messages: Json | Audio) -> list[Any]:
        self.heard.clear()
        for message in messages:
            wire.send(message)
        self.time.run(self.time.now + 0.1)
        return self.heard


def audio(first: int, last: int, ms: int = 20) -> list[Json | Audio]:
    return [Audio(seq, ms, bytes([seq % 256])) for seq in range(first, last + 1)]


def network() -> Network:
    return Network(Timeline())


@pytest.fixture
def faults() -> Faults:
    return Faults(transcribe_s=0.0)


@pytest.fixture
def server(faults: Faults) -> PlainServer:
    return PlainServer(network(), faults)


@pytest.fixture
def client(server: PlainServer) -> Client:
    return Client(server)


def session_of(client: Client) -> Any:
    return client.server.sessions[client.session_id]


def test_cuts_fall_where_the_real_one_cuts(client: Client, server: PlainServer) -> None:
    client.say(client.begin(), *audio(1, 2300))
    assert [segment[-1] for segment in session_of(client).dispatched] == [750, 1475, 2200]
    assert [segment[0] for segment in session_of(client).dispatched] == [1, 726, 1451]
    assert server.kept(2200) is not None
    assert server.kept(2201) is None


def test_hello_is_first_and_pongs_come_behind_the_audio(client: Client, faults: Faults) -> None:
    wire = client.dial()
    assert [what if isinstance(what, Opened) else what["type"] for what in client.heard] == [Opened(), "hello"]
    assert client.say(wire, INIT, *audio(1, 3), PING) == [{"type": "pong"}]
    faults.says_resumed = True
    wire.reset()
    client.dial()
    assert [what.get("type") for what in client.heard[1:3]] == ["status", "hello"]


def test_a_takeover_orphans_the_new_socket(client: Client) -> None:
    old = client.begin()
    new = client.dial()
    assert not old.server_open
    client.time.run(client.time.now + 1.0)
    assert client.status["connected"] is False
    assert client.say(new, *audio(1, 3), PING) == [{"type": "pong"}]
    assert [packet.seq for packet in session_of(client).buffer] == [1, 2, 3]


def test_a_reset_socket_is_let_go_of(client: Client) -> None:
    wire = client.begin()
    assert client.status["connected"] is True
    wire.reset()
    assert client.heard[-1] == Close(1006)
    assert client.status["connected"] is False
    client.dial()
    assert client.status["connected"] is True


def test_an_abort_through_a_black_hole_is_never_noticed(client: Client, server: PlainServer) -> None:
    wire = client.begin()
    server.network.cut()
    wire.abort()
    server.network.heal()
    assert client.status["connected"] is True
    assert wire.is_half_open


def test_what_was_sent_before_an_orderly_end_arrives(client: Client, server: PlainServer) -> None:
    wire = client.begin()
    server.network.cut()
    client.say(wire, *audio(1, 3))
    wire.close()
    assert session_of(client).buffer == []
    server.network.heal()
    client.time.run(client.time.now + 1.0)
    assert len(session_of(client).buffer) == 3
    assert session_of(client).registered is None


def test_a_session_without_a_socket_is_finalised_behind_grace_and_still_talks(
    client: Client, server: PlainServer
) -> None:
    wire = client.begin()
    client.say(wire, *audio(1, 3))
    wire.close()
    client.time.run(client.time.now + 80.0)
    assert server.kept(3) is not None  # flushed
    wire = client.dial()
    assert client.say(wire, *audio(4, 5), PING) == [{"type": "pong"}]
    client.time.run(client.time.now + 20.0)
    assert [what["is_recording"] for what in client.heard if "t" in what] == [False, False]
    assert server.kept(4) is None
    assert client.status["exists"] is True


def test_stopping_flushes_the_tail_and_loses_what_is_pending(
    client: Client, server: PlainServer, faults: Faults
) -> None:
    faults.transcribe_s = 50.0
    wire = client.begin()
    client.say(wire, *audio(1, 800))
    assert client.status["pending"] == 1
    client.say(wire, STOP)
    faults.transcribe_s = 0.0
    server.hurry()
    client.time.run(client.time.now + 1.0)
    assert client.heard[-1] == Close(1000, FINALIZED)
    assert server.kept(800) is not None
    assert server.kept(100) is None


def test_stop_says_success_to_anyone(client: Client) -> None:
    assert client.http(kind="stop", session_id="unknown") == {}
    assert client.http(kind="stop", session_id=client.session_id) == {}
    assert client.http(kind="stop", session_id=client.session_id) == {}
    assert client.status["exists"] is True


def test_a_killed_server_forgets_all_but_the_written_lines(client: Client, server: PlainServer) -> None:
    wire = client.begin()
    client.say(wire, *audio(1, 800))
    server.kill()
    client.time.run(client.time.now + 1.0)
    assert client.heard[-1] == Close(1006)
    assert client.status == {"none": True}
    server.restart()
    assert client.status == {"exists": False}
    client.dial()
    assert client.heard[-1] == Close(1011, "Session not found")
    assert server.kept(750) is not None
    assert server.kept(751) is None


def test_sigterm_leaves_the_socket_alive_for_30_s_and_http_dead(client: Client, server: PlainServer) -> None:
    wire = client.begin()
    client.say(wire, *audio(1, 3))
    server.terminate()
    assert client.status == {"none": True}
    assert client.say(wire, PING) == [{"type": "pong"}]
    client.say(wire, STOP)
    client.time.run(client.time.now + 1.0)
    assert server.kept(3) is not None
    client.time.run(client.time.now + 40.0)
    assert client.status == {"exists": False}


def test_backpressure_as_it_is_broken(client: Client, server: PlainServer, faults: Faults) -> None:
    faults.transcribe_s = 1000.0
    wire = client.begin()
    client.say(wire, *audio(1, 750 + 725 * 19))
    assert client.status["pending"] == 20
    for _ in range(4):
        client.say(wire, *audio(20000, 20000), PING)
        assert client.heard == [Close(1000)]
        wire = client.dial()
    client.say(wire, *audio(20000, 20000), PING)
    assert [what["type"] for what in client.heard] == ["event", "pong"]


def test_a_bad_token_completes_the_handshake_and_closes_without_a_word(client: Client, faults: Faults) -> None:
    faults.is_token_bad = True
    client.dial()
    assert client.heard == [Opened(), Close(1000)]
    assert client.http(kind="start", recording="r") == {"refused": True}


def test_an_idle_session_is_closed(client: Client, server: PlainServer) -> None:
    client.begin()
    client.time.run(client.time.now + 200.0)
    assert client.heard[-1] == Close(1000)


def test_what_no_client_may_do(client: Client, server: PlainServer) -> None:
    wire = client.dial()
    with pytest.raises(Misuse, match="before init"):
        client.say(wire, *audio(1, 1))
    wire = client.begin()
    client.say(wire, *audio(1, 3))
    with pytest.raises(Misuse, match="wipes"):
        client.say(wire, INIT)
    with pytest.raises(Misuse, match="does not know"):
        client.say(wire, {"action": "set_processing_state", "paused": True})


def test_a_fourth_socket_hangs_the_server(faults: Faults) -> None:
    faults.cleanup_s = 100.0
    server = PlainServer(network(), faults)
    clients = [Client(server) for _ in range(4)]
    for client in clients[:3]:
        client.dial()
    with pytest.raises(Misuse, match="trap 5"):
        clients[3].dial()


def test_a_lost_answer_and_a_hanging_one(client: Client, faults: Faults, server: PlainServer) -> None:
    faults.loses_next_answer = True
    assert client.status == {"none": True}
    assert client.status["exists"] is True
    faults.is_http_dead = True
    assert client.status == {"none": True}
    faults.is_http_dead = False
    faults.loses_next_answer = True
    client.dial()
    assert client.heard == []
    assert client.status["connected"] is True
    server.kill()
    client.dial()
    assert client.heard == [Close(1006)]


# --- acks ---


@pytest.fixture
def acked() -> Client:
    return Client(AckServer(network(), Faults()))


def store_of(client: Client) -> AckServer:
    assert isinstance(client.server, AckServer)
    return client.server


def test_acks_come_once_it_is_durable(acked: Client) -> None:
    wire = acked.dial()
    assert acked.heard[-1] == {"type": "hello", "session_id": "s1", "acks": True, "next_seq": 1}
    acked.say(wire, INIT, *audio(1, 3))
    acked.time.run(acked.time.now + 0.1)
    assert acked.heard[-1] == {"type": "ack", "seq": 3}
    assert store_of(acked).kept(3) == b"\x03"
    assert store_of(acked).kept(4) is None
    acked.say(wire, *audio(2, 4))
    assert store_of(acked).duplicates == 2


def test_what_was_not_synced_is_lost_with_the_process(acked: Client) -> None:
    wire = acked.begin()
    acked.say(wire, *audio(1, 3))
    acked.time.run(acked.time.now + 1.0)
    store_of(acked).is_disk_full = True
    acked.say(wire, *audio(4, 6), {"type": "gap", "before_seq": 7, "frames": 5, "cause": "xrun"})
    acked.time.run(acked.time.now + 1.0)
    assert acked.heard == []
    store_of(acked).kill()
    store_of(acked).is_disk_full = False
    store_of(acked).restart()
    acked.session_id = acked.http(kind="start", recording="r")["session_id"]
    acked.dial()
    assert acked.heard[-1]["next_seq"] == 4
    assert store_of(acked).stores["r"].gaps == {}


def test_gaps_are_stored_once_each(acked: Client) -> None:
    gap = {"type": "gap", "before_seq": 2, "frames": 5, "cause": "xrun"}
    wire = acked.begin()
    acked.say(wire, *audio(1, 1), gap, gap, STOP)
    assert acked.heard[-1] == Close(1000, FINALIZED)
    assert store_of(acked).stores["r"].gaps == {(2, "xrun"): 5}


@pytest.mark.parametrize(
    "what",
    [
        Audio(3, 20, b""),
        {"type": "gap", "before_seq": 3, "frames": 5, "cause": "xrun"},
        {"type": "gap", "before_seq": 1, "frames": 6, "cause": "xrun"},
        INIT,
        {"type": "nonsense"},
    ],
)
def test_what_no_client_with_acks_may_do(acked: Client, what: Json | Audio) -> None:
    wire = acked.begin()
    acked.say(wire, {"type": "gap", "before_seq": 1, "frames": 5, "cause": "xrun"}, *audio(1, 1))
    with pytest.raises(Misuse):
        acked.say(wire, what)


def test_a_new_socket_replaces_the_old_one_in_order(acked: Client) -> None:
    wire = acked.begin()
    acked.say(wire, *audio(1, 2))
    heard = list(acked.heard)
    new = acked.server.connect(acked.session_id, heard.append)
    acked.time.run(acked.time.now + 1.0)
    assert acked.heard[-1] == Close(1012, "replaced")
    assert heard[-1]["next_seq"] == 3
    acked.say(new, *audio(3, 3))
    acked.time.run(acked.time.now + 1.0)
    assert store_of(acked).kept(3) is not None
