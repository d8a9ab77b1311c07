"""The PEM files by which others are checked and by which this node shows who it is: read, or refused with the reason.

Called where a servers file and the settings are read, so that a fault shows at once, and for the contexts that are
dialled and listened with. The one rule: a fault names the field, the file and the fix, and never a key.
"""

import ssl
from typing import Final

from agent.model import TlsFiles
from discovery.ordinary_file import open_to_read

_NONE: Final = TlsFiles()
# OpenSSL reads a file to its end, whatever is in it. All authorities of a system take under 1 MiB.
PEM_BYTES_MAX: Final = 16 * 1024 * 1024


class TlsFault(ValueError):
    """A file cannot be used. `field`: `ca`, `cert` or `key`."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field


def tls_fault(files: TlsFiles) -> TlsFault | None:
    """Why these files cannot be used, if they cannot."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        load_authorities(context, files)
        load_certificate(context, files)
    except TlsFault as fault:
        return fault
    return None


def dialling_context(own: TlsFiles, common: TlsFiles = _NONE) -> ssl.SSLContext:
    """What is dialled with: by files of the target's own, and by common ones. Raises `TlsFault`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if own.ca is not None else ssl.create_default_context()
    if own.server_name:
        context.check_hostname = False
    if not own.is_checked:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    load_authorities(context, own if own.ca is not None else common)
    load_certificate(context, own if own.cert is not None or own.key is not None else common)
    context.set_alpn_protocols(("http/1.1",))
    return context


def listening_context(files: TlsFiles) -> ssl.SSLContext:
    """What is listened with. Clients are asked for a certificate where there is a `ca`. Raises `TlsFault`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load_certificate(context, files)
    load_authorities(context, files)
    if files.ca is not None:
        # Of Consul's CA nodes alone have one; their handshake asks for it.
        context.verify_mode = ssl.CERT_OPTIONAL if files.server_name else ssl.CERT_REQUIRED
    context.set_alpn_protocols(("http/1.1",))
    return context


def load_authorities(context: ssl.SSLContext, files: TlsFiles) -> None:
    """Trust the authorities in `ca`, besides those that are trusted already. Raises `TlsFault`."""
    if files.ca is None:
        return
    _refuse_unreadable("ca", files.ca)
    try:
        context.load_verify_locations(cafile=files.ca)
    except (ssl.SSLError, ValueError) as exc:
        raise TlsFault("ca", f"{files.ca} has no certificate in it; it must be PEM") from exc


def load_certificate(context: ssl.SSLContext, files: TlsFiles) -> None:
    """Show the certificate in `cert` to servers that ask for one. Raises `TlsFault`."""
    if files.cert is None:
        if files.key is not None:
            raise TlsFault("key", "needs its certificate; set cert too")
        return
    _refuse_unreadable("cert", files.cert)
    if files.key is not None:
        _refuse_unreadable("key", files.key)
    where, place = ("key", files.key) if files.key is not None else ("cert", files.cert)
    try:
        context.load_cert_chain(files.cert, files.key, password=_refuse_password)
    except _Encrypted:
        raise TlsFault(
            where, f"{place} has an encrypted key; write it without a password, readable by the node alone"
        ) from None
    except (ssl.SSLError, ValueError) as exc:
        reason = getattr(exc, "reason", "") or ""
        if "KEY_VALUES_MISMATCH" in reason:
            raise TlsFault(where, f"{place} is not the key of the certificate in {files.cert}") from exc
        missing = "; set key if it is in another file" if files.key is None else ""
        raise TlsFault(where, f"{place} or {files.cert} is not a certificate and its key in PEM{missing}") from exc


class _Encrypted(Exception):
    """OpenSSL wants a password; a node has no terminal to ask for it."""


def _refuse_password() -> str:
    raise _Encrypted


def _refuse_unreadable(field: str, path: str) -> None:
    try:
        with open_to_read(path, PEM_BYTES_MAX) as file:
            file.read(1)
    except OSError as exc:
        raise TlsFault(field, f"{path} cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise TlsFault(field, f"{path} is no path") from exc
