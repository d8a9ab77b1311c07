"""PURE: the text of one setting, turned into its value.

Called by `agent.config.load` through the table in `agent.config.table`, with text from a flag, a variable or the file.
The one rule: a parser either returns the value or raises `ValueError` whose message says what would be right.
"""

import ipaddress
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from agent.config.endpoint import url_fault
from agent.model import PUBLIC_NAME_LEN_MAX, PUBLIC_NAME_LEN_MIN, WEIGHT_MAX, ServerScope

# One grammar for nodes, peers and servers: they share a namespace, and `__` parts the words of a public tool name.
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_PATTERN = re.compile(r"[A-Za-z0-9_*?-]{1,128}")  # Of names of tools.
# A node that comes back from a restore needs a wait's end; ten minutes are the most that Consul waits.
CONSUL_WAIT_MIN_S, CONSUL_WAIT_MAX_S = 1.0, 600.0
CALL_TIMEOUT_MAX_S = 86_400.0  # A day: work that takes longer should be a task, not a call.
WORKERS_MAX = 64  # More than the cores of a machine help nothing.
COUNT_MAX = 1_000_000  # More than any operator means; a figure with too many zeros is a slip.
_HOST_PATTERN = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?"
)
_DNS_NAME_PATTERN = re.compile(r"_[A-Za-z0-9-]+(\._?[A-Za-z0-9-]+)+\.?|[A-Za-z0-9][A-Za-z0-9._-]*:[0-9]{1,5}")
_DATACENTER_PATTERN = re.compile(r"[a-z0-9_-]{1,64}")
_SERVICE_PATTERN = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # A DNS label: Consul answers DNS questions too.
_NODE_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_YES = frozenset({"1", "true", "yes", "on"})
_NO = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True, slots=True)
class StaticPeer:
    """A peer that the settings name; it cannot be removed over REST."""

    name: str
    url: str


def name_fault(name: str) -> str:
    """Say what is wrong with the name of a node, peer or server; empty when nothing is."""
    if not NAME_PATTERN.fullmatch(name):
        return "must start with a letter or digit and have at most 63 letters, digits, '.', '_' or '-'"
    if "__" in name:
        return "must not contain '__', which parts a server's name from its tool's"
    return ""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener on `host`. A name other than localhost counts as reachable."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def parse_name(text: str) -> str:
    """A node's name."""
    if fault := name_fault(text):
        raise ValueError(fault)
    return text


def parse_service_name(text: str) -> str:
    """A Consul service name."""
    if not _SERVICE_PATTERN.fullmatch(text):
        raise ValueError("must be a DNS label: lower-case letters, digits and inner '-', at most 63")
    return text


def parse_host(text: str) -> str:
    """An IP address or a host name, without scheme and port; brackets around IPv6 are dropped."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        if not _HOST_PATTERN.fullmatch(text):
            raise ValueError("must be an IP address or a host name, without a scheme or a port") from None
    return text


def parse_hosts(text: str) -> tuple[str, ...]:
    """Host names in lower case."""
    return tuple(parse_host(part).lower().rstrip(".") for part in _parts(text))


def parse_networks(text: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """Ranges of addresses, or single ones, parted by commas."""
    try:
        return tuple(ipaddress.ip_network(part) for part in _parts(text))
    except ValueError as exc:
        raise ValueError(f"must be ranges like 10.0.0.0/8, fd00::/8 or 192.0.2.7, parted by commas: {exc}") from None


def parse_port(text: str) -> int:
    """A TCP port, 1 to 65535."""
    port_max = 65_535
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= port_max):
        raise ValueError(f"must be a port, 1 to {port_max}")
    return int(text)


def parse_count(text: str) -> int:
    """A number of things, at least 1."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= COUNT_MAX):
        raise ValueError(f"must be a whole number, 1 to {COUNT_MAX}")
    return int(text)


def parse_weight(text: str) -> int:
    """What a node can take in comparison with others."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= WEIGHT_MAX):
        raise ValueError(f"must be a whole number, 1 to {WEIGHT_MAX}")
    return int(text)


def parse_workers(text: str) -> int:
    """How many processes serve calls."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= WORKERS_MAX):
        raise ValueError(f"must be a whole number, 1 to {WORKERS_MAX}")
    return int(text)


def parse_name_len(text: str) -> int:
    """How long a public name may be."""
    if not (text.isascii() and text.isdigit() and PUBLIC_NAME_LEN_MIN <= int(text) <= PUBLIC_NAME_LEN_MAX):
        raise ValueError(f"must be a whole number, {PUBLIC_NAME_LEN_MIN} to {PUBLIC_NAME_LEN_MAX}")
    return int(text)


def parse_scope(text: str) -> ServerScope:
    """What a server's name means on other nodes."""
    return ServerScope(one_of(*ServerScope)(text))


def parse_consul_wait(text: str) -> float:
    """How long a query waits at Consul: at most what Consul itself takes, at least what does not burden it."""
    seconds = parse_seconds(text)
    if not CONSUL_WAIT_MIN_S <= seconds <= CONSUL_WAIT_MAX_S:
        raise ValueError(f"must be seconds, {CONSUL_WAIT_MIN_S:g} to {CONSUL_WAIT_MAX_S:g}")
    return seconds


def parse_seconds(text: str) -> float:
    """A time-out in seconds, more than 0 and at most a day."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= CALL_TIMEOUT_MAX_S:
        raise ValueError(f"must be seconds, more than 0 and at most {CALL_TIMEOUT_MAX_S:.0f}")
    return seconds


def parse_flag(text: str) -> bool:
    """A switch."""
    if text.lower() in _YES:
        return True
    if text.lower() in _NO:
        return False
    raise ValueError("must be 1 or 0 (true, false, yes, no, on and off are understood too)")


def parse_path(text: str) -> Path:
    """A file or folder; a leading `~` is the user's home."""
    if "\0" in text:
        raise ValueError("must be a path")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError("names the home folder of a user that this machine does not have") from None


def parse_public_url(text: str) -> str:
    """A URL in front of `/mcp`, without a slash at its end."""
    url = text.rstrip("/")
    if fault := url_fault(url):
        raise ValueError(fault)
    if "?" in url or "#" in url:
        raise ValueError("must have no query and no fragment, like https://mesh.example.com")
    return url


def parse_origins(text: str) -> tuple[str, ...]:
    """Origins of browsers and desktop programs: scheme, host and port, nothing after them; or null."""
    return tuple(_parse_origin(part) for part in _parts(text))


def parse_patterns(text: str) -> tuple[str, ...]:
    """Names of tools, in which `*` and `?` may stand, parted by commas."""
    patterns = tuple(_parts(text))
    for pattern in patterns:
        if not _PATTERN.fullmatch(pattern):
            raise ValueError(f"has {pattern!r}, which is no name of a tool; * stands for any characters")
    return patterns


def parse_datacenters(text: str) -> tuple[str, ...]:
    """Names of Consul's datacentres, parted by commas."""
    names = tuple(dict.fromkeys(_parts(text)))
    for name in names:
        if not _DATACENTER_PATTERN.fullmatch(name):
            raise ValueError(f"has {name!r}, which is no datacentre: lower-case letters, digits, '-' and '_'")
    return names


def parse_globs(text: str) -> tuple[str, ...]:
    """Files, by absolute or relative globs, parted by commas."""
    return tuple(_parts(text))


def parse_dns_names(text: str) -> tuple[str, ...]:
    """Names of DNS, parted by commas: `_service._proto.domain`, or `host:port`."""
    names = tuple(dict.fromkeys(_parts(text)))
    for name in names:
        if not _DNS_NAME_PATTERN.fullmatch(name):
            raise ValueError(f"has {name!r}, neither host:port nor a name of SRV records (_mcp._tcp.example)")
    return names


def parse_dns_servers(text: str) -> tuple[str, ...]:
    """Name servers, parted by commas: an IP address each, with `:port` after those of IPv4."""
    servers = tuple(_parts(text))
    for server in servers:
        host, _, port = server.partition(":") if server.count(":") == 1 else (server, "", "53")
        try:
            ipaddress.ip_address(host)
            parse_port(port)
        except ValueError:
            raise ValueError(f"has {server!r}, which is no IP address, or one with a port") from None
    return servers


def parse_peers(text: str) -> tuple[StaticPeer, ...]:
    """Peers as `name=url`, parted by commas."""
    peers: dict[str, StaticPeer] = {}
    for part in _parts(text):
        name, equals, url = (word.strip() for word in part.partition("="))
        if not equals:
            raise ValueError("must be name=url, parted by commas, like node-2=http://10.0.0.7:8000/mcp")
        if fault := name_fault(name):
            raise ValueError(f"the name of a peer {fault}")
        if fault := url_fault(url):
            raise ValueError(f"the URL of {name} {fault}")
        if name in peers:
            raise ValueError(f"names {name} twice")
        peers[name] = StaticPeer(name, url)
    return tuple(peers.values())


def parse_service_nodes(text: str) -> dict[str, frozenset[str]]:
    """Names of services, and the IDs of the nodes that may serve each of them."""
    pins: dict[str, frozenset[str]] = {}
    for part in _parts(text):
        name, equals, ids = (word.strip() for word in part.partition("="))
        nodes = frozenset(one.strip().lower() for one in ids.split("+"))
        if not equals or name_fault(name) or not all(_NODE_ID.fullmatch(one) for one in nodes):
            raise ValueError("must be name=ID or name=ID+ID, parted by commas, with node IDs as `status` shows them")
        if name in pins:
            raise ValueError(f"names {name} twice")
        pins[name] = nodes
    return pins


def one_of(*words: str) -> Callable[[str], str]:
    """Make a parser that accepts these words, in any case."""

    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return text.lower()

    return parse


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _parse_origin(text: str) -> str:
    if text == "*":
        raise ValueError("must list the origins; '*' would let every web page use this node")
    if text == "null":
        return text
    parts = urlsplit(text)
    # Desktop programs and extensions have schemes of their own; the host may be another one at each start.
    own_scheme = parts.scheme not in ("", "http", "https") and parts.netloc
    if (not own_scheme and url_fault(text)) or parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(
            "must list origins like https://app.example, tauri://localhost, chrome-extension://<id>, "
            "vscode-webview://* or null, without a path"
        )
    return text.lower()
