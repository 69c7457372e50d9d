"""TLS: always verified. Whom to trust, what to show, and what a certificate that was not accepted says."""

from __future__ import annotations

import contextlib
import ipaddress
import ssl
from dataclasses import dataclass
from typing import Any

from edge.errors import ConfigError


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files, "" for none.

    ca    the only certificates that are trusted; none: those of this machine
    cert  shown to a server that asks for it, with its chain; `key` may stand in the same file
    """

    ca: str = ""
    cert: str = ""
    key: str = ""


def context(files: TlsFiles) -> ssl.SSLContext:
    """What a client uses. Raises ConfigError for files that are none."""
    made = _trusting(files.ca)
    made.sslobject_class = _Telling
    if files.cert:
        try:
            made.load_cert_chain(files.cert, files.key or None, password=lambda: b"")  # never asks a terminal
        except (OSError, ValueError) as error:
            raise _unusable("server.client_cert or server.client_key", error) from None
    return made


def _trusting(ca: str) -> ssl.SSLContext:
    if not ca:
        return ssl.create_default_context()
    try:
        made = ssl.create_default_context(cafile=ca)
    except (OSError, ValueError) as error:
        raise _unusable("server.ca_file", error) from None
    # What somebody pinned is trusted as it is, on every Python: be it an authority, an intermediate one or the server's
    # own certificate, and with whatever formal flaws a private authority has.
    made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    made.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return made


def _unusable(key: str, error: OSError | ValueError) -> ConfigError:
    why = "it is no PEM file of the right kind, or the key is encrypted or another's"
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
        why = error.strerror or why
    return ConfigError(f"{key} cannot be used: {why}", "nothing is sent")


def peer_name(host: str) -> str:
    """What the certificate has to be for: without a zone and without the dot at the end of an absolute name."""
    return host.partition("%")[0].removesuffix(".")


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a peer showed, unverified: for a diagnosis only. Times are Unix seconds."""

    names: tuple[str, ...]
    not_before: float
    not_after: float

    def is_for(self, host: str) -> bool:
        """Whether one of its names is `host`'s (RFC 6125: a wildcard stands for one whole first label)."""
        host = host.lower()
        with contextlib.suppress(ValueError):
            return str(ipaddress.ip_address(host)) in self.names
        rest = host.partition(".")[2]
        return any(name == host or (rest and name == f"*.{rest}") for name in self.names)


def shown(error: ssl.SSLError) -> Certificate | None:
    """The certificate at which a handshake failed, where this Python can tell."""
    found = getattr(error, "edge_certificate", None)
    return found if isinstance(found, Certificate) else None


class _Telling(ssl.SSLObject):
    """Notes in the error which certificate it was that failed: that of the server, or that of somebody else."""

    def do_handshake(self) -> None:
        """As its parent."""
        try:
            super().do_handshake()
        except ssl.SSLCertVerificationError as error:
            # Public only from Python 3.13 on, and there without the parsed names. What is missing is not told.
            with contextlib.suppress(Exception):
                chain = self._sslobj.get_unverified_chain()  # type: ignore[attr-defined]
                error.edge_certificate = _read(chain[0].get_info())  # type: ignore[attr-defined]
            raise


def _read(info: dict[str, Any]) -> Certificate:
    names = tuple(_name(kind, text) for kind, text in info.get("subjectAltName", ()))
    if not names:
        pairs = (pair for part in info.get("subject", ()) for pair in part)
        names = tuple(text.lower() for kind, text in pairs if kind == "commonName")
    return Certificate(names, ssl.cert_time_to_seconds(info["notBefore"]), ssl.cert_time_to_seconds(info["notAfter"]))


def _name(kind: str, text: str) -> str:
    return str(ipaddress.ip_address(text.strip())) if kind == "IP Address" else text.lower()
