"""The whole tree of errors that reach a person, and who is at fault in each.

    EdgeError                    name     exit  fault
    |-- InternalError                        1  local        our bug
    |-- ConfigError                          2  local        a setting, an option, a file of ours
    |-- StateDirectoryInUse                  7  environment  another process owns the state directory
    |-- MicrophoneError                      6  environment  absent, gone, or not what was asked for
    |-- Unreachable                          3  environment  no way to the server just now: worth another try
    |   |-- NameFailure          dns         3  environment  its name cannot be resolved
    |   |-- CaptivePortal        portal      3  environment  something on the way answers in its place
    |   |-- CertificateNotYetValid clock     3  environment  its certificate begins after this device's now
    |   |-- CertificateExpired   expired     3  environment  its certificate has ended, by this device's clock
    |   |-- TlsRefused           tls         3  environment  no TLS that both sides accept
    |   `-- ProxyFailure         proxy       3  environment  the proxy does not lead there
    |-- ServerRefused                        5  remote       the server said no: a person has to change something
    |   |-- StartRefused                     5  remote       it does not take the agent or the event
    |   `-- TokenRefused         token       5  remote       it does not take the token: a new one may help
    |-- PacketError                          5  remote       bytes that are no PCM1 packet
    `-- UnreadableError                      3  environment  audio kept on disk that cannot be read back

A `name` is stable and short, and stands at the head of the text.

An error's text is one line for a person: what happened, what it means for the audio, what to do.
The command line prints exactly that and leaves with `exit_code`; it never prints a traceback.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import ClassVar


class Fault(Enum):
    """Who has to act (DESIGN.md, rule 8)."""

    LOCAL = "local"
    REMOTE = "remote"
    ENVIRONMENT = "environment"


class ExitCode(IntEnum):
    """Exit codes of every command (DESIGN.md, decision 7)."""

    WHOLE = 0
    INTERNAL = 1
    USAGE = 2
    PENDING = 3
    LOST = 4
    REFUSED = 5
    NO_MICROPHONE = 6
    IN_USE = 7


class EdgeError(Exception):
    """Base of all errors that are meant for a person.

    `what` happened, what it `means` for the audio and the `remedy`: joined to one line.
    """

    name: ClassVar[str] = ""
    exit_code = ExitCode.INTERNAL
    fault = Fault.LOCAL

    def __init__(self, what: str, means: str = "", remedy: str = "") -> None:
        self.what = what
        self.means = means
        self.remedy = remedy
        line = "; ".join(part for part in (what, means, remedy) if part)
        super().__init__(" ".join((f"{self.name}: {line}" if self.name else line).split()))


class InternalError(EdgeError):
    """A bug of ours: an illegal event, a broken invariant."""


class ConfigError(EdgeError):
    """A setting, an option or a file of ours is wrong."""

    exit_code = ExitCode.USAGE


class StateDirectoryInUse(EdgeError):
    """Another process owns the state directory (DESIGN.md, decision 6)."""

    exit_code = ExitCode.IN_USE
    fault = Fault.ENVIRONMENT


class MicrophoneError(EdgeError):
    """The microphone is absent, went away, or gives something other than was asked for."""

    exit_code = ExitCode.NO_MICROPHONE
    fault = Fault.ENVIRONMENT


class Unreachable(EdgeError):
    """No way to the server just now; the same attempt may succeed later."""

    exit_code = ExitCode.PENDING
    fault = Fault.ENVIRONMENT


class NameFailure(Unreachable):
    """The name of the server, or of the proxy, cannot be resolved. `is_answer`: DNS works, and knows no such name."""

    name = "dns"

    def __init__(self, what: str, means: str = "", remedy: str = "", *, is_answer: bool = False) -> None:
        self.is_answer = is_answer
        super().__init__(what, means, remedy)


class CaptivePortal(Unreachable):
    """Something on the way answers in the server's place: a login page, most often."""

    name = "portal"


class CertificateNotYetValid(Unreachable):
    """The server's certificate begins in the future of this device's clock: that clock is wrong."""

    name = "clock"


class CertificateExpired(Unreachable):
    """The server's certificate has ended, by this device's clock."""

    name = "expired"


class TlsRefused(Unreachable):
    """No TLS that both sides accept: a certificate that nobody vouches for, an alert, a peer that speaks none."""

    name = "tls"


class ProxyFailure(Unreachable):
    """The proxy cannot be reached, or does not lead to the server."""

    name = "proxy"


class ServerRefused(EdgeError):
    """The server answered and said no: trying again changes nothing until a person acts."""

    exit_code = ExitCode.REFUSED
    fault = Fault.REMOTE


class StartRefused(ServerRefused):
    """The server let us in, but opens no session for what the start request says: the agent, the event."""


class TokenRefused(ServerRefused):
    """The server does not take the token: it has expired, or was never the right one."""

    name = "token"

    def __init__(self, what: str, means: str = "audio is kept", remedy: str = "check server.token_file") -> None:
        super().__init__(what, means, remedy)


class PacketError(EdgeError):
    """Bytes that are not a well-formed PCM1 packet (PROTOCOL.md, "PCM1 packet")."""

    exit_code = ExitCode.REFUSED
    fault = Fault.REMOTE


class UnreadableError(EdgeError):
    """Audio that was kept on disk cannot be read back; it is left as it is."""

    exit_code = ExitCode.PENDING
    fault = Fault.ENVIRONMENT
