"""From what the libraries raise to the errors that people read (edge/errors.py), each with its name."""

from __future__ import annotations

import os
import ssl
import time
from urllib.parse import urlsplit

from edge.adapters.wire.tls import EXPIRED, NOT_YET_VALID, shown
from edge.errors import (
    CaptivePortal,
    CertificateExpired,
    CertificateNotYetValid,
    EdgeError,
    TlsRefused,
    Unreachable,
)

_KEPT = "audio is kept"
_TRUST = "update-ca-certificates, SSL_CERT_FILE or server.ca_file makes this machine trust it"
_CLIENT = "where it demands a client certificate, server.client_cert and server.client_key are it"
_PINNED = "server.ca_file names the only ones that are trusted"
# OpenSSL's X509_V_ERR_...
_OTHER_NAMES = (62, 64)
# How the versions of OpenSSL call an answer that is no TLS at all.
_NO_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"}
_CERTIFICATE_WANTED = ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE", "BAD_CERTIFICATE", "CERTIFICATE_UNKNOWN")


def unreachable(error: BaseException, host: str, *, is_pinned: bool = False) -> EdgeError:
    """What `error` means for the way to `host`. Only what the system and OpenSSL say is quoted: a library's text may
    hold a header or a URL, and with it the token."""
    if isinstance(error, EdgeError):
        return error
    if isinstance(error, TimeoutError) and not error.errno:
        return Unreachable("the server cannot be reached (no answer in time)")
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, EdgeError):
            return cause
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _distrusted(cause, host, is_pinned)
        if isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return Unreachable("the server cannot be reached (it hung up)")
        if isinstance(cause, ssl.SSLError):
            return _refused(cause)
        if isinstance(cause, OSError) and cause.errno:
            return Unreachable(f"the server cannot be reached ({os.strerror(cause.errno)})")
        if isinstance(cause, ConnectionError):
            return Unreachable("the server cannot be reached (it hung up)")
        cause = cause.__cause__ or cause.__context__
    return Unreachable(f"the server cannot be reached ({type(error).__name__})")


def explain(error: ssl.SSLCertVerificationError, why: str, date_s: float | None = None) -> None:
    """Let `error`, of a certificate's time, tell why the server's own date, or what else should have helped, did
    not."""
    said = "" if date_s is None else f"the server's own date, {_date(date_s)}, is of no use: "
    error.edge_why = f" ({said}{why})"  # type: ignore[attr-defined]


def _distrusted(error: ssl.SSLCertVerificationError, host: str, is_pinned: bool) -> Unreachable:
    certificate = shown(error)
    if error.verify_code in _OTHER_NAMES or (certificate is not None and not certificate.is_for(host)):
        names = ", ".join(certificate.names[:3]) if certificate else ""
        return _portal(f"a certificate for {_printable(names) or 'another name'}, not for {host}")
    now = getattr(error, "edge_utc_s", None)
    says = "this device's clock says" if now is None else "as far as this device knows it is"
    now = time.time() if now is None else now
    why = getattr(error, "edge_why", "")
    if error.verify_code == NOT_YET_VALID:
        begins = f"not valid before {_date(certificate.not_before)}" if certificate else "not valid yet"
        if certificate and certificate.not_before <= now:
            begins = "not valid yet, by its authority's"
        return CertificateNotYetValid(
            f"the server's certificate is {begins}, but {says} {_date(now)}{why}",
            _KEPT,
            "set that clock, or let it reach a time server (NTP)",
        )
    if error.verify_code == EXPIRED:
        is_own = certificate and certificate.not_after < now
        ended = f"expired on {_date(certificate.not_after)}" if certificate and is_own else "or its authority's expired"
        return CertificateExpired(
            f"the server's certificate {ended}, and {says} {_date(now)}{why}",
            _KEPT,
            "where that clock is right the server needs a new certificate",
        )
    return TlsRefused(
        f"the server's certificate is not trusted ({error.verify_message})", _KEPT, _PINNED if is_pinned else _TRUST
    )


def _refused(error: ssl.SSLError) -> Unreachable:
    reason = error.reason or type(error).__name__
    if reason in _NO_TLS:
        return TlsRefused(
            "the server cannot be reached (it does not speak TLS: is it http://?)", _KEPT, "check server.url"
        )
    what = reason.replace("_", " ").lower()
    if "ALERT" not in reason:
        return TlsRefused(f"TLS with the server failed ({what})", _KEPT, "check server.url")
    is_wanted = reason.endswith((*_CERTIFICATE_WANTED, "UNKNOWN_CA", "CERTIFICATE_EXPIRED"))
    return TlsRefused(f"the server refused TLS ({what})", _KEPT, _CLIENT if is_wanted else "ask its owner")


def stranger(code: int, content_type: str, location: str, body: bytes, *, is_plain: bool) -> Unreachable | None:
    """Who answered, where it was not the server: over plain HTTP a captive portal with a page for people; behind TLS
    a gateway that wants a client certificate (nginx)."""
    if is_plain:
        page = _page(code, content_type, location, body)
        return _portal(page) if page else None
    if code == 400 and b"SSL certificate" in body:
        return TlsRefused("the server wants another client certificate, or one at all", _KEPT, _CLIENT)
    return None


def _portal(what: str) -> CaptivePortal:
    return CaptivePortal(
        f"something on the way answers in the server's place ({what})",
        _KEPT,
        "log in to this network, or check server.url",
    )


def _page(code: int, content_type: str, location: str, body: bytes) -> str:
    """What shows that it is a page for people and no server's answer; "" where nothing does."""
    if 300 <= code < 400:
        try:
            parts = urlsplit(location)
            there = f"{parts.scheme}://{parts.hostname}" if parts.hostname else ""
        except ValueError:
            there = ""
        return f"a redirect to {_printable(there)}" if there else "a redirect"
    if code == 511:
        return "HTTP 511, network authentication required"
    is_html = content_type.lower().startswith("text/html") or body.lstrip()[:1] == b"<"
    return "a page instead of an answer" if code == 200 and is_html else ""


def _printable(text: str) -> str:
    return "".join(sign if sign.isprintable() else "?" for sign in text[:200])


def _date(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(unix_s))
