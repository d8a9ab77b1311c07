"""What Consul's agent is dialled with by https: authorities and our certificate, read again when a file changes.

Used by `discovery.consul.client` for every request, since certificates are renewed while a node runs. The one rule:
files that cannot be used at the start are refused; later the last ones that could stay in use.
"""

import os
import ssl
from typing import Final

from discovery.consul.environment import ConsulSettings
from discovery.model import SettingsRefused
from discovery.ordinary_file import open_to_read
from discovery.patient_look import PatientLook

PEM_BYTES_MAX: Final = 16 * 1024 * 1024  # All authorities of a system take under 1 MiB.
_NAMES: Final = "CONSUL_CACERT, CONSUL_CLIENT_CERT, CONSUL_CLIENT_KEY"


class TlsSource:
    """See the module. A connection keeps the context that it was made with."""

    def __init__(self, settings: ConsulSettings) -> None:
        """Raises `SettingsRefused`: a file is missing or is no PEM file."""
        self._settings = settings
        self._is_needed = settings.url.startswith("https:")
        named = (settings.ca_cert, settings.client_cert, settings.client_key)
        self._paths = [path for path in named if path] if self._is_needed else []
        self._stamp = self._stamps()
        self._look = PatientLook(self._read_again)
        try:
            self._context = _context(settings) if self._is_needed else None
        except (OSError, ssl.SSLError) as exc:
            why = f"{exc.filename}: {exc.strerror}" if exc.filename and exc.strerror else str(exc)
            raise SettingsRefused(f"{_NAMES}: a file cannot be used ({why}): name readable PEM files") from exc

    def __repr__(self) -> str:
        return f"<TlsSource {len(self._paths)} files>"

    def current(self) -> ssl.SSLContext | bool:
        """For the next request; True, aiohttp's value for its default, where none is needed."""
        if self._paths:
            self._look.take()
        return self._context or True

    def _read_again(self) -> None:
        """In a thread."""
        if (stamp := self._stamps()) != self._stamp:
            try:
                self._context, self._stamp = _context(self._settings), stamp
            except (OSError, ssl.SSLError):
                # Certificate and key are replaced one after the other: the next request looks again.
                self._stamp = None

    def _stamps(self) -> tuple[tuple[int, int, int], ...] | None:
        """Changes whenever a file does; None where one cannot be looked at."""
        try:
            found = [os.stat(path) for path in self._paths]  # noqa: PTH116 - on every request, kept as plain as it is
        except OSError:
            return None
        return tuple((status.st_ino, status.st_mtime_ns, status.st_size) for status in found)


def _context(settings: ConsulSettings) -> ssl.SSLContext:
    for path in filter(None, (settings.ca_cert, settings.client_cert, settings.client_key)):
        open_to_read(path, PEM_BYTES_MAX).close()  # OpenSSL would wait for a pipe, and read on without end.
    context = ssl.create_default_context(cafile=settings.ca_cert)
    if not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.client_cert:
        context.load_cert_chain(settings.client_cert, settings.client_key)
    return context
