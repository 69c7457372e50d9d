"""TLS: always verified. Whom to trust, what to show, and what a certificate that was not accepted says."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edge.core.checktime import Validity, common
from edge.errors import ConfigError

# OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which Python has no name for, and X509_V_ERR_...
_NO_CHECK_TIME = 0x200000
NOT_YET_VALID, EXPIRED = 9, 10
_Looks = Callable[[Validity], None]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files, "" for none.

    ca    the only certificates that are trusted; none: those of this machine
    cert  shown to a server that asks for it, with its chain; `key` may stand in the same file
    """

    ca: str = ""
    cert: str = ""
    key: str = ""


def context(files: TlsFiles, looks: _Looks | None = None) -> ssl.SSLContext:
    """What a client uses; `looks` gets each chain that was verified. Raises ConfigError for files that are none."""
    made = _trusting(files.ca)
    made.sslobject_class = _telling(looks) if looks else _Telling
    if files.cert:
        try:
            made.load_cert_chain(files.cert, files.key or None, password=lambda: b"")  # never asks a terminal
        except (OSError, ValueError) as error:
            raise _unusable("server.client_cert or server.client_key", error) from None
    return made


def untimed(files: TlsFiles, looks: _Looks | None = None) -> ssl.SSLContext:
    """As `context`, but when certificates are valid is for `looks` to judge: all else is verified as ever (signatures
    up to what is trusted, purposes, the name). What it raises ends the handshake: then nothing was sent but that."""
    made = context(files, looks)
    made.verify_flags |= _NO_CHECK_TIME
    return made


def refuse_time(chain: Validity, utc_s: float) -> None:
    """Raise as OpenSSL does where `chain` is not valid at `utc_s`."""
    if chain.has(utc_s):
        return
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code = NOT_YET_VALID if utc_s < chain.begins_s else EXPIRED
    error.verify_message = "by another time than the system's"
    error.edge_utc_s = utc_s  # type: ignore[attr-defined]
    raise error


def validity(transport: asyncio.BaseTransport) -> Validity:
    """When all of the chain are valid that was verified for `transport`; never, where this Python cannot tell."""
    talk = transport.get_extra_info("ssl_object")
    return talk.validity() if isinstance(talk, _Telling) else common([])


def is_about_time(error: BaseException) -> bool:
    """Whether a certificate was refused for its time, which the device's clock may be to blame for."""
    code = getattr(error, "verify_code", None)
    return isinstance(error, ssl.SSLCertVerificationError) and code in (NOT_YET_VALID, EXPIRED)


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
    """Notes in the error which certificate it was that failed: that of the server, or that of somebody else. Lets
    `looks` have the chain of a handshake that has succeeded, before a byte of what is to be said is sent."""

    @staticmethod
    def looks(chain: Validity) -> None:
        """Nobody does."""

    def do_handshake(self) -> None:
        """As its parent."""
        try:
            super().do_handshake()
            self.looks(self.validity())
        except ssl.SSLCertVerificationError as error:
            # Public only from Python 3.13 on, and there without the parsed names. What is missing is not told.
            with contextlib.suppress(Exception):
                chain = self._sslobj.get_unverified_chain()  # type: ignore[attr-defined]
                error.edge_certificate = _read(chain[0].get_info())  # type: ignore[attr-defined]
            raise

    def validity(self) -> Validity:
        """When all of the verified chain are valid; never, where this Python cannot tell."""
        try:
            chain = self._sslobj.get_verified_chain()  # type: ignore[attr-defined]
            return common([_validity(certificate.get_info()) for certificate in chain])
        except Exception:  # noqa: BLE001  (not public: whatever it lacks, the answer is the safe one)
            return common([])


def _telling(looks: _Looks) -> type[ssl.SSLObject]:
    return type("_Telling", (_Telling,), {"looks": staticmethod(looks)})


def _validity(info: dict[str, Any]) -> Validity:
    return Validity(ssl.cert_time_to_seconds(info["notBefore"]), ssl.cert_time_to_seconds(info["notAfter"]))


def _read(info: dict[str, Any]) -> Certificate:
    names = tuple(_name(kind, text) for kind, text in info.get("subjectAltName", ()))
    if not names:
        pairs = (pair for part in info.get("subject", ()) for pair in part)
        names = tuple(text.lower() for kind, text in pairs if kind == "commonName")
    validity = _validity(info)
    return Certificate(names, validity.begins_s, validity.ends_s)


def _name(kind: str, text: str) -> str:
    return str(ipaddress.ip_address(text.strip())) if kind == "IP Address" else text.lower()
