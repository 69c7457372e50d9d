"""A microphone without hardware: a private PulseAudio whose null sink is heard through real libasound.

What is played into the sink comes out of the ALSA device `usbmic` (alsa-lib -> its pulse plugin -> the sink's monitor).
libasound reads its configuration from the environment at its first use in a process, so a program under test is a child
with `PulseMicrophone.environment`; it then opens `alsa:usbmic`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

DEVICE = "usbmic"
_SINK = "mic"
_START_TIMEOUT_S = 20.0
_PLUGINS = "/usr/lib/*/alsa-lib/libasound_module_pcm_pulse.so"


def missing() -> str:
    """Why this machine cannot run the rig, as the reason of a skip; empty if it can."""
    for program, package in (("pulseaudio", "pulseaudio"), ("pacat", "pulseaudio-utils")):
        if shutil.which(program) is None:
            return f"{program} is not installed (package {package})"
    if not any(Path("/").glob(_PLUGINS.lstrip("/"))):
        return "libasound's pulse plugin is not installed (package libasound2-plugins)"
    try:
        import alsaaudio  # noqa: F401
    except ImportError:
        return "pyalsaaudio is not installed (make env)"
    return ""


class PulseError(Exception):
    """PulseAudio did not come up, or does not play; the text carries the end of its log."""


class PulseMicrophone:
    """A running PulseAudio with one null sink of `rate` Hz and `channels`, signed 16-bit; a context manager.

    `environment` is the whole environment for programs that shall hear it. `play` speaks into it; several may play at
    once (PulseAudio mixes). `suspend` and `resume` freeze and thaw the server, `kill` ends it: microphones that hang,
    that come back, that are gone. `unplug` and `plug_in` do so to the microphone alone.
    """

    def __init__(self, rate: int = 16000, channels: int = 1, directory: Path | None = None) -> None:
        self.rate = rate
        self.channels = channels
        self._own_directory = directory is None
        self.directory = directory or Path(tempfile.mkdtemp(prefix="edge-pulse-"))
        self.device = DEVICE
        self._socket = self.directory / "native"
        self._plug = self.directory / "microphone"  # a socket of its own, which can be taken away alone
        self._log: deque[str] = deque(maxlen=40)
        self._server: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._players: list[subprocess.Popen[bytes]] = []
        configuration = self.directory / "asound.conf"
        self.environment: dict[str, str] = {
            **os.environ,
            "HOME": str(self.directory),
            "XDG_RUNTIME_DIR": str(self.directory),
            "XDG_CONFIG_HOME": str(self.directory),
            "XDG_STATE_HOME": str(self.directory / "state"),
            "PULSE_SERVER": f"unix:{self._socket}",
            "ALSA_CONFIG_PATH": str(configuration),
        }
        configuration.write_text(
            "</usr/share/alsa/alsa.conf>\n"
            f"pcm.{DEVICE} {{\n"
            "  type pulse\n"
            f'  server "unix:{self._plug}"\n'
            f'  device "{_SINK}.monitor"\n'
            '  hint { show on\n    description "Null sink of the test rig" }\n'
            "}\n",
            encoding="utf-8",
        )

    def __enter__(self) -> PulseMicrophone:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- the server --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the server and return when it is ready. Raises PulseError after 20 s or when it ends at once."""
        sink = f"sink_name={_SINK} format=s16le rate={self.rate} channels={self.channels}"
        for socket in (self._socket, self._plug):
            socket.unlink(missing_ok=True)
        self._server = subprocess.Popen(
            [
                "pulseaudio",
                "-n",
                "--system=false",
                "--daemonize=no",
                "--use-pid-file=false",
                "--exit-idle-time=-1",
                "--realtime=false",
                "--high-priority=false",
                "--disable-shm=true",
                "--log-target=stderr",
                "-v",
                f"--load=module-native-protocol-unix {self._at(self._socket)}",
                f"--load=module-native-protocol-unix {self._at(self._plug)}",
                f"--load=module-null-sink {sink}",
            ],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        ready = threading.Event()
        self._reader = threading.Thread(target=self._follow, args=(self._server, ready.set), daemon=True)
        self._reader.start()
        if not ready.wait(_START_TIMEOUT_S) or self._server.poll() is not None:
            self.stop()
            raise PulseError("PulseAudio did not start: " + " | ".join(self._log))

    def _follow(self, server: subprocess.Popen[str], ready: Callable[[], object]) -> None:
        assert server.stderr is not None
        for line in server.stderr:
            self._log.append(line.strip())
            if "Daemon startup complete" in line:
                ready()
        ready()  # it ended: nobody waits in vain

    @staticmethod
    def _at(socket: Path) -> str:
        return f"socket={socket} auth-anonymous=1"

    def unplug(self) -> None:
        """Take the microphone away; what plays goes on playing, so it tells how long."""
        modules = self._control("list", "short", "modules").splitlines()
        number = next(line.split()[0] for line in modules if str(self._plug) in line)
        self._control("unload-module", number)

    def plug_in(self) -> None:
        """Give it back."""
        self._control("load-module", "module-native-protocol-unix", *self._at(self._plug).split())

    def _control(self, *words: str) -> str:
        done = subprocess.run(["pactl", *words], env=self.environment, capture_output=True, text=True, timeout=10)
        if done.returncode:
            raise PulseError(f"pactl {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def suspend(self) -> None:
        """Freeze the server: its clients hear nothing and get no answer."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen server go on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the server without a goodbye; its socket breaks. `start` brings up another one in its place."""
        self._signal(signal.SIGKILL)
        if self._server is not None:
            self._server.wait(10)
        if self._reader is not None:
            self._reader.join(10)
        if self._server is not None and self._server.stderr is not None:
            self._server.stderr.close()
        self._server = self._reader = None

    def _signal(self, number: signal.Signals) -> None:
        if self._server is not None and self._server.poll() is None:
            self._server.send_signal(number)

    def stop(self) -> None:
        """End the players and the server and remove the directory; may be called twice."""
        for player in self._players:
            with contextlib.suppress(ProcessLookupError):
                player.kill()
            player.wait(10)
        self._players.clear()
        self.kill()
        if self._own_directory:
            shutil.rmtree(self.directory, ignore_errors=True)

    # --- the sound ---------------------------------------------------------------------------------------------------

    def play(
        self, path: Path, rate: int | None = None, channels: int | None = None, lead_s: float = 1.0
    ) -> subprocess.Popen[bytes]:
        """Start to play raw s16le frames from the file `path` (rate and channels of the sink, unless given).

        `lead_s` seconds of silence go before them: the first period or so of a player that joins is lost in PulseAudio,
        what follows arrives bit-exact. Returns the player; its `wait()` returns when the last frame was played.
        """
        rate, channels = rate or self.rate, channels or self.channels
        whole = self.directory / f"play-{len(self._players)}.raw"
        whole.write_bytes(bytes(round(lead_s * rate) * channels * 2) + path.read_bytes())
        player = subprocess.Popen(
            [
                "pacat",
                "--playback",
                "--raw",
                "--format=s16le",
                f"--rate={rate}",
                f"--channels={channels}",
                f"--device={_SINK}",
                str(whole),
            ],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._players.append(player)
        return player
