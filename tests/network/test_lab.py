"""The laboratory does what its methods say: judged by connections through it, not by its own tables."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.network import netns
from tests.network.lab import CAFE, HOME2, SERVER4, SERVER6, SERVER_NAME, Lab
from tests.network.netns import inside
from tests.network.tap import Tap

pytestmark = [pytest.mark.root, pytest.mark.long]

ROOT = Path(__file__).resolve().parents[2]
PORT = 7000
BOUND_S = 30.0
BRIEF_S = 0.9  # long enough for any answer in here, short enough to wait for one that must not come
BOTH = pytest.mark.parametrize("address", [SERVER4, SERVER6])


class Echo:
    """A TCP server in the lab's server, and clients on its device."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        with inside(lab.server):
            self._listener = socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True)
        self._listener.settimeout(BOUND_S)

    def close(self) -> None:
        self._listener.close()

    def connect(self, address: str, timeout_s: float = BOUND_S) -> tuple[socket.socket, socket.socket, str]:
        """Client, server's end, and the uplink that the server sees. Raises OSError."""
        with inside(self._lab.device):
            client = socket.create_connection((address, PORT), timeout_s)
        try:
            while True:
                peer, seen = self._listener.accept()
                if seen[1] == client.getsockname()[1]:
                    break
                peer.close()  # a late one, of an attempt that was given up
        except BaseException:
            client.close()
            raise
        peer.settimeout(timeout_s)
        return client, peer, self._lab.uplink_of(seen[0].removeprefix("::ffff:"))

    def way(self, address: str, timeout_s: float = BOUND_S) -> str:
        """The uplink of a new connection, once it has carried something there and back."""
        client, peer, uplink = self.connect(address, timeout_s)
        with client, peer:
            talk(client, peer)
        return uplink

    def goes(self, address: str, uplink: str) -> bool:
        """Whether new connections come to go by `uplink`. The kernel notices a carrier a little after the event: one
        that began before keeps the wrong source address, and has to be given up."""
        ends_at = time.monotonic() + BOUND_S
        while time.monotonic() < ends_at:
            with contextlib.suppress(OSError):
                if self.way(address, BRIEF_S / 3) == uplink:
                    return True
        return False

    def is_reachable(self, address: str) -> bool:
        try:
            return bool(self.way(address, BRIEF_S))
        except OSError:
            return False


def talk(client: socket.socket, peer: socket.socket) -> float:
    """A byte there and back; seconds. Raises OSError."""
    begun_at = time.monotonic()
    client.sendall(b"?")
    assert peer.recv(1) == b"?"
    peer.sendall(b"!")
    assert client.recv(1) == b"!"
    return time.monotonic() - begun_at


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as built:
        yield built


@pytest.fixture
def echo(lab: Lab) -> Iterator[Echo]:
    with contextlib.closing(Echo(lab)) as built:
        yield built


def test_labs_stand_side_by_side_and_leave_nothing(lab: Lab, echo: Echo) -> None:
    with Lab(["wwan0"]) as other, contextlib.closing(Echo(other)) as second:
        assert {lab.device, lab.router, other.device, other.server} <= set(netns.ours())
        assert (echo.way(SERVER4), second.way(SERVER4)) == ("eth0", "wwan0")
        lab.pull("eth0")
        assert second.goes(SERVER4, "wwan0")
    assert other.device not in netns.ours()
    assert lab.device in netns.ours()


def test_what_a_killed_one_left_is_removed_by_the_next() -> None:
    program = "from tests.network.lab import Lab\nlab = Lab().__enter__()\nprint(lab.device, flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        left = process.stdout.readline().strip()
        with Lab(["eth0"]):
            assert left in netns.ours()  # its maker lives
        os.kill(process.pid, signal.SIGKILL)
        process.wait(BOUND_S)
        with Lab(["eth0"]):
            assert left not in netns.ours()


def test_a_failed_construction_leaves_nothing() -> None:
    before = netns.ours()
    with pytest.raises(KeyError), Lab(["nonsense"]):
        pass
    assert netns.ours() == before


@BOTH
def test_pull_and_plug(lab: Lab, echo: Echo, address: str) -> None:
    client, peer, uplink = echo.connect(address)
    with client, peer:
        assert uplink == "eth0"
        lab.pull("eth0")
        assert echo.goes(address, "wlan0")
        lab.plug("eth0")
        assert talk(client, peer) < BOUND_S  # the address never went: the connection is the same
        assert echo.goes(address, "eth0")


@BOTH
def test_default_routes_come_and_go(lab: Lab, echo: Echo, address: str) -> None:
    lab.withdraw_default("eth0", "wlan0")
    assert echo.goes(address, "wwan0")
    lab.restore_default("wlan0")
    assert echo.goes(address, "wlan0")
    lab.withdraw_default("wlan0", "wwan0")
    with pytest.raises(OSError, match="unreachable"):
        echo.way(address)
    lab.restore_default("eth0")
    assert echo.goes(address, "eth0")


@BOTH
def test_another_address(lab: Lab, echo: Echo, address: str) -> None:
    client, peer, _ = echo.connect(address)
    with client, peer:
        old = client.getsockname()[0]
        lab.readdress("eth0")
        client.settimeout(BRIEF_S)
        client.sendall(b"?")
        with pytest.raises(TimeoutError):
            client.recv(1)  # the kernel says nothing to the socket
    client, peer, uplink = echo.connect(address)
    with client, peer:
        assert (uplink, client.getsockname()[0] == old) == ("eth0", False)
    lab.readdress("eth0")
    client, peer, _ = echo.connect(address)
    with client, peer:
        assert client.getsockname()[0] == old


@BOTH
def test_airplane_mode(lab: Lab, echo: Echo, address: str) -> None:
    lab.airplane()
    with pytest.raises(OSError, match="unreachable"):
        echo.way(address)
    lab.land()
    assert echo.goes(address, "eth0")
    lab.pull("eth0")
    assert echo.goes(address, "wlan0")


@BOTH
def test_roaming(address: str) -> None:
    with Lab(["wlan0"]) as lab, contextlib.closing(Echo(lab)) as echo:
        client, peer, uplink = echo.connect(address)
        with client, peer:
            assert uplink == "wlan0"
            lab.roam(HOME2)
            assert talk(client, peer) < BOUND_S  # one network: the connection moves along
        before = lab.uplinks["wlan0"].addresses
        lab.roam(CAFE)
        assert echo.goes(address, "wlan0")
        assert lab.uplinks["wlan0"].addresses != before


@BOTH
def test_vpn(lab: Lab, echo: Echo, address: str) -> None:
    lab.vpn_up("eth0")
    assert echo.goes(address, "tun0")
    lab.vpn_down()
    assert echo.goes(address, "eth0")
    lab.vpn_up("wlan0")
    lab.pull("eth0")
    assert echo.goes(address, "tun0")


@BOTH
def test_a_blackhole_says_nothing(lab: Lab, echo: Echo, address: str) -> None:
    client, peer, _ = echo.connect(address)
    with client, peer:
        lab.blackhole("eth0")
        client.settimeout(BRIEF_S)
        client.sendall(b"?")
        with pytest.raises(TimeoutError):
            client.recv(1)
        assert not echo.is_reachable(address)
        lab.withdraw_default("eth0")
        assert echo.goes(address, "wlan0")
        lab.blackhole()
        assert not echo.is_reachable(address)
        lab.heal()
        lab.restore_default("eth0")
        assert peer.recv(1) == b"?"


@BOTH
def test_reset(lab: Lab, echo: Echo, address: str) -> None:
    client, peer, _ = echo.connect(address)
    with client, peer:
        lab.reset()
        client.sendall(b"?")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        with pytest.raises(ConnectionRefusedError):
            echo.connect(address)
        lab.heal()
        assert echo.goes(address, "eth0")


@BOTH
def test_a_slow_line(lab: Lab, echo: Echo, address: str) -> None:
    client, peer, _ = echo.connect(address)
    with client, peer:
        lab.slow(400)
        client.sendall(bytes(100_000))
        begun_at, rest = time.monotonic(), 100_000
        while rest:
            rest -= len(peer.recv(rest))
        assert time.monotonic() - begun_at > 1.0  # 2 s at that rate
        lab.heal()
        assert talk(client, peer) < BOUND_S


def test_loss(lab: Lab) -> None:
    with inside(lab.server):
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with inside(lab.device):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with receiver, sender:
        receiver.setsockopt(socket.SOL_SOCKET, 33, 1 << 22)  # SO_RCVBUFFORCE
        receiver.bind((SERVER4, PORT))
        lab.lose(30)
        for _ in range(2000):
            sender.sendto(b"x", (SERVER4, PORT))
        lab.heal()
        sender.sendto(b"end", (SERVER4, PORT))
        receiver.settimeout(BOUND_S)
        came = 0
        while receiver.recv(10) != b"end":
            came += 1
        assert 1300 < came < 1500


@BOTH
def test_delay_and_jitter_keep_the_order(lab: Lab, echo: Echo, address: str) -> None:
    lab.delay(0.02, 0.1)
    client, peer, _ = echo.connect(address)
    with client, peer:
        times = [talk(client, peer) for _ in range(20)]
        assert min(times) > 0.04
        assert max(times) - min(times) > 0.02
        assert statistics.mean(times) > 0.1  # twice 20 ms and 50 ms
        client.sendall(bytes(range(256)) * 100)
        got = b""
        while len(got) < 25600:
            got += peer.recv(25600)
        assert got == bytes(range(256)) * 100
        lab.heal()
        assert talk(client, peer) < BOUND_S


def resolve(lab: Lab) -> str:
    """What the C library on the device says of the server's name."""
    program = f"import socket\nprint(*{{one[4][0] for one in socket.getaddrinfo({SERVER_NAME!r}, 1)}})"
    run = subprocess.run(netns.command_in(lab.device, [sys.executable, "-c", program]), capture_output=True, text=True)
    return run.stdout.strip() or run.stderr.strip().splitlines()[-1]


def test_the_name_server_can_die(lab: Lab) -> None:
    assert set(resolve(lab).split()) == {SERVER4, "fd07::2"}
    lab.names.names[SERVER_NAME] = [SERVER4]
    assert resolve(lab) == SERVER4
    lab.names.names.clear()
    assert "gaierror" in resolve(lab)
    asked = lab.names.asked
    lab.names.is_dead = True
    assert "Temporary failure" in resolve(lab)
    assert lab.names.asked > asked


@BOTH
async def test_the_tap_reads_what_passed_whatever_the_network_does_to_it(lab: Lab, address: str) -> None:
    """A WebSocket through loss: segments come twice and out of order at the card, and once and in order in the wire."""
    with contextlib.closing(Echo(lab)) as echo:
        async with Tap(lab.server, PORT) as tap:
            client, peer, _ = await asyncio.to_thread(echo.connect, address)
            with client, peer:
                lab.lose(10)
                client.sendall(b"GET /ws/audio_stream/abc?resume=1 HTTP/1.1\r\n\r\n")
                await tap.wait(lambda: len(tap.wire.connections) == 1, BOUND_S)
                peer.sendall(b"HTTP/1.1 101 Switching\r\n\r\n")
                said = [f'{{"type":"pong","n":{number}}}' for number in range(300)]
                for text in said:
                    peer.sendall(bytes([0x81, len(text)]) + text.encode())
                messages = tap.wire.connections[0].messages
                await tap.wait(lambda: len(messages) == len(said), BOUND_S)
                assert [message["n"] for _, message in messages] == list(range(300))
                assert abs(messages[-1][0] - time.monotonic()) < BOUND_S
                assert tap.wire.connections[0].closed_at is None
                lab.heal()
            await tap.wait(lambda: tap.wire.connections[0].closed_at is not None, BOUND_S)
            assert tap.missed() == 0
