"""PURE: the URL of an MCP endpoint and the token for it, as text, and what is wrong with them.

Used by settings, by the servers file and by every command that talks to a node. The one rule: it imports next to
nothing, because such a command is over in a tenth of a second.
"""

from urllib.parse import urlsplit

HOST_LABEL_CHARS_MAX = 63  # RFC 1035, section 2.3.4.


def url_fault(url: str) -> str:
    """Say what is wrong with an MCP endpoint's URL; empty when nothing is. Credentials are not repeated."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is not a URL"
    if parts.scheme not in {"http", "https"}:
        return "must start with http:// or https://"
    if parts.username is not None or parts.password is not None:
        return "must not carry credentials; use a token or a header"
    if not parts.hostname or port == 0 or any(char.isspace() or not char.isprintable() for char in url):
        return "must name a host, like http://10.0.0.7:8000/mcp"
    if any(len(label) > HOST_LABEL_CHARS_MAX for label in parts.hostname.split(".")):
        return f"must name a host whose parts have at most {HOST_LABEL_CHARS_MAX} characters each"
    return "must not have a fragment (#…)" if parts.fragment else ""


def parse_token(text: str) -> str:
    """A bearer token: it travels in a header, so printable ASCII without blanks."""
    if not (text.isascii() and text.isprintable() and " " not in text):
        raise ValueError("must be printable ASCII without blanks")
    return text
