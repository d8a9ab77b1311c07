"""PURE: where a reference in an answer leads, seen from the URL that was dialled.

Used by `agent.client.http.pool` for redirects and for the endpoint that a server of HTTP+SSE names, and by
`agent.client.http.response` for the text about a refused one. The one rule: nothing is ever sent to another
origin (scheme, host and port; RFC 6454) than that of the configured URL.
"""

import re
from typing import Final
from urllib.parse import SplitResult, urljoin, urlsplit

# Redirects that keep method and body: temporary and permanent (RFC 9110, sections 15.4.8 and 15.4.9).
SAME_REQUEST: Final = (307, 308)
# Printable ASCII; of a length that servers take in a request line (RFC 9112, section 3).
_TARGET: Final = re.compile(r"[!-~]{1,8000}")


def port_of(parts: SplitResult) -> int:
    """The port of a URL, its scheme's where it names none."""
    return parts.port or (443 if parts.scheme == "https" else 80)


def target_of(url: str, reference: str) -> str:
    """The path and query that `reference` means at the origin of `url`.

    Raises `ValueError` for one that leads elsewhere, or that no request line can carry; the text reads on after it.
    """
    if not _TARGET.fullmatch(reference):
        raise ValueError("is no URL")
    base, parts = urlsplit(url), urlsplit(urljoin(url, reference))
    same = (parts.scheme, parts.hostname, port_of(parts)) == (base.scheme, base.hostname, port_of(base))
    if not same or parts.username is not None:
        raise ValueError(f"is another origin than {base.scheme}://{base.netloc}")
    path = parts.path or "/"
    return f"{path}?{parts.query}" if parts.query else path


def slash_only(url: str, asked: str, location: str) -> str | None:
    """The target that a redirect of `asked` leads to, if all it does is to add or drop a slash behind the path.

    Frameworks answer so where a URL's path lacks the slash of theirs (Starlette's `redirect_slashes`).
    """
    path, _, query = asked.partition("?")
    other = path.removesuffix("/") if path.endswith("/") else f"{path}/"
    try:
        moved = target_of(urljoin(url, asked), location)
    except ValueError:
        return None
    return moved if moved == (f"{other}?{query}" if query else other) else None


def redirect_detail(url: str, location: str | None) -> str:
    """Where a redirect leads that is not followed, and what to configure; no query, which may be a secret."""
    try:
        parts = urlsplit(urljoin(url, location or ""))
        host, port = parts.hostname or "", f":{parts.port}" if parts.port is not None else ""
    except ValueError:
        host = port = ""
    if not host or not location:
        return "that does not say where to"
    named = f"[{host}]" if ":" in host else host
    return f"to {parts.scheme}://{named}{port}{parts.path}, not followed; if that is the server, configure this URL"
