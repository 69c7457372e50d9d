"""Authorities and certificates, made for one test."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)
LOCAL = ("localhost", "127.0.0.1", "::1")


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class Authority:
    """Issues certificates into `folder`; `path` is its own, in PEM."""

    def __init__(self, folder: Path, name: str, ends: dt.datetime = NOW + 900 * DAY) -> None:
        self._folder = folder
        self._subject = _name(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._issued = 0
        self._identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        builder = (
            x509.CertificateBuilder()
            .subject_name(self._subject)
            .issuer_name(self._subject)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - 900 * DAY)
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True)
            .add_extension(self._identifier, critical=False)
        )
        self.path = folder / f"{name}.pem"
        self.path.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        *names: str,
        begins: dt.datetime = NOW - DAY,
        ends: dt.datetime = NOW + 90 * DAY,
        password: bytes = b"",
        claims: Authority | None = None,
    ) -> Path:
        """A file with a key and its certificate for `names` (of hosts, or addresses). `claims`: it says that it is from
        that authority, though its signature is this one's."""
        issuer = claims or self
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_name("edge tests"))
            .issuer_name(issuer._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
            .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer._identifier), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        self._issued += 1
        path = self._folder / f"{self.path.stem}-{self._issued}.pem"
        secrecy = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        path.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secrecy)
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        return path


def serves(certificate: Path, *, wants: Authority | None = None) -> ssl.SSLContext:
    """What a server uses that has this certificate, and `wants` one of its clients."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if wants is not None:
        context.load_verify_locations(wants.path)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
