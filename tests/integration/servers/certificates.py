"""Certificates as an organisation issues them: an authority of its own, servers and clients that it vouches for.

Used by the tests of TLS. The one rule: every file is made anew for a test, and is good for an hour.
"""

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PASSWORD = b"canary"


@dataclass(frozen=True)
class Issued:
    """A certificate and its key; `both`: in one file; `locked`: the key with a password."""

    cert: Path
    key: Path
    both: Path
    locked: Path


class Authority:
    """A certificate authority in a folder; `ca` is its own certificate."""

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        own = self._builder(self._name, self._key.public_key())
        own = own.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(own.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, *more: str) -> Issued:
        """For a host or an address, or for a client of that name; `more`: further hosts, addresses and URIs."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = self._builder(subject, key.public_key())
        made = made.add_extension(x509.SubjectAlternativeName([_named(one) for one in (name, *more)]), critical=False)
        cert = made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        plain = _pem(key, serialization.NoEncryption())
        locked = _pem(key, serialization.BestAvailableEncryption(PASSWORD))
        contents = {"crt": cert, "key": plain, "pem": plain + cert, "locked": locked}
        paths = [self._folder / f"{name}.{ending}" for ending in contents]
        for path, content in zip(paths, contents.values(), strict=True):
            path.write_bytes(content)
        return Issued(*paths)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
        )


def _named(text: str) -> x509.GeneralName:
    if ":" in text:
        return x509.UniformResourceIdentifier(text)
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _pem(key: ec.EllipticCurvePrivateKey, lock: serialization.KeySerializationEncryption) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
