"""A client's input to the embedded catalog: service definitions and durations in Consul's JSON. PURE.

Called by `discovery.embedded.http` for every body and query. The one rule: input that is not understood is refused with
the status that Consul would use, never half accepted.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SERVICES_MAX = 4096
_ID_CHARS_MAX = 256
_TAGS_MAX = 64
# Consul's own limits of service metadata.
_META_PAIRS_MAX = 64
_META_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}")
_META_VALUE_CHARS_MAX = 512
_PORT_MAX = 65_535
DEREGISTER_FLOOR_S = 60.0  # Consul raises anything shorter to a minute.

_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d*)?(?:ns|us|µs|ms|s|m|h))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?)(ns|us|µs|ms|s|m|h)")
_STATUSES = frozenset({"passing", "warning", "critical"})
_SERVICE_FIELDS = frozenset({"id", "name", "address", "port", "meta", "tags", "check", "enabletagoverride", "weights"})
_WEIGHT_FIELDS = frozenset({"passing", "warning"})
_WEIGHT_MAX = 65_535
_CHECK_FIELDS = frozenset(
    {
        "id",
        "checkid",
        "name",
        "notes",
        "status",
        "ttl",
        "http",
        "method",
        "interval",
        "timeout",
        "tlsskipverify",
        "deregistercriticalserviceafter",
    }
)


class Refused(Exception):
    """A request that Consul would refuse too; `status` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class CheckSpec:
    """One check: TTL when `ttl_s` is set, HTTP when `http_url` is. Times in seconds.

    `any_certificate`: of https, whether it is alive and not who it is.
    """

    check_id: str
    name: str
    status: str
    ttl_s: float | None = None
    http_url: str | None = None
    interval_s: float = 10.0
    timeout_s: float = 10.0
    deregister_after_s: float | None = None
    any_certificate: bool = False


@dataclass(frozen=True, slots=True)
class Definition:
    """One service as its owner defined it."""

    service_id: str
    name: str
    address: str = ""
    port: int = 0
    meta: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    check: CheckSpec | None = None
    weights: tuple[int, int] = (1, 1)  # Passing, warning.


def parse_definition(body: Any) -> Definition:
    """Read the JSON of `PUT /v1/agent/service/register`.

    Raises:
        Refused: 400, as Consul answers a definition that it cannot decode or accept.
    """
    fields = _fields(body, _SERVICE_FIELDS, "service")
    name = _text(fields, "name")
    if not name:
        raise Refused(400, "Missing service name")
    service_id = _text(fields, "id") or name
    port = fields.get("port", 0)
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= _PORT_MAX:
        raise Refused(400, "Request decode failed: Port must be an integer from 0 to 65535")
    return Definition(
        service_id=service_id,
        name=name,
        address=_text(fields, "address"),
        port=port,
        meta=_meta(fields.get("meta")),
        tags=_tags(fields.get("tags")),
        check=None if fields.get("check") is None else _check(fields["check"], service_id),
        weights=(1, 1) if fields.get("weights") is None else _weights(fields["weights"]),
    )


def parse_duration_s(text: str) -> float:
    """Read a Go duration such as `15s`, `1m30s` or `500ms` into seconds.

    Raises:
        Refused: 400; it is no duration.
    """
    if not _DURATION.fullmatch(text):
        raise Refused(400, f"Invalid duration {text[:40]!r}")
    return sum(float(number) * _UNITS_S[unit] for number, unit in _DURATION_PART.findall(text))


def _check(value: Any, service_id: str) -> CheckSpec:
    fields = _fields(value, _CHECK_FIELDS, "check")
    ttl, url = _text(fields, "ttl"), _text(fields, "http")
    if bool(ttl) == bool(url):
        raise Refused(400, "Invalid check: exactly one of TTL and HTTP is understood here")
    interval = _text(fields, "interval")
    if url and not interval:
        raise Refused(400, "Invalid check: Interval must be > 0 for HTTP checks")
    if url and not url.startswith(("http://", "https://")):
        raise Refused(400, "Invalid check: HTTP must be an http or https URL")
    if url and _text(fields, "method") not in {"", "GET"}:
        raise Refused(400, "Invalid check: only GET is understood here")
    status = _text(fields, "status") or "critical"
    if status not in _STATUSES:
        raise Refused(400, "Status for checks must 'passing', 'warning', 'critical'")
    after = _text(fields, "deregistercriticalserviceafter")
    timeout = _text(fields, "timeout")
    return CheckSpec(
        check_id=_text(fields, "checkid") or _text(fields, "id") or f"service:{service_id}",
        name=_text(fields, "name") or f"Service '{service_id}' check",
        status=status,
        ttl_s=_positive(ttl) if ttl else None,
        http_url=url or None,
        interval_s=max(0.1, _positive(interval)) if interval else 10.0,
        timeout_s=_positive(timeout) if timeout else 10.0,
        deregister_after_s=max(DEREGISTER_FLOOR_S, _positive(after)) if after else None,
        any_certificate=_flag(fields, "tlsskipverify"),
    )


def _weights(value: Any) -> tuple[int, int]:
    fields = _fields(value, _WEIGHT_FIELDS, "weights")
    passing, warning = fields.get("passing", 0), fields.get("warning", 0)
    if type(passing) is not int or type(warning) is not int:
        raise Refused(400, "Request decode failed: weights must be integers")
    if not (1 <= passing <= _WEIGHT_MAX and 0 <= warning <= _WEIGHT_MAX):
        raise Refused(400, f"Invalid Weights: Passing must be 1 to {_WEIGHT_MAX}, Warning 0 to {_WEIGHT_MAX}")
    return passing, warning


def _fields(value: Any, known: frozenset[str], what: str) -> dict[str, Any]:
    """Lower-case the keys, as Consul does, and refuse the ones we would have to ignore."""
    if not isinstance(value, dict):
        raise Refused(400, f"Request decode failed: the {what} must be an object")
    fields = {str(name).lower(): item for name, item in value.items()}
    unknown = sorted(fields.keys() - known)
    if unknown:
        raise Refused(400, f"Request decode failed: unknown {what} field {unknown[0][:40]!r}")
    return fields


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name)
    if not isinstance(value, bool | None):
        raise Refused(400, f"Request decode failed: {name} must be true or false")
    return value is True


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > _ID_CHARS_MAX:
        raise Refused(400, f"Request decode failed: {name} must be a string of at most {_ID_CHARS_MAX} characters")
    return value


def _positive(text: str) -> float:
    seconds = parse_duration_s(text)
    if seconds <= 0:
        raise Refused(400, f"Invalid duration {text[:40]!r}: must be > 0")
    return seconds


def _meta(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > _META_PAIRS_MAX:
        raise Refused(400, f"Invalid Service Meta: an object of at most {_META_PAIRS_MAX} pairs is needed")
    for key, text in value.items():
        if not _META_KEY.fullmatch(key) or not isinstance(text, str) or len(text) > _META_VALUE_CHARS_MAX:
            raise Refused(400, f"Invalid Service Meta: couldn't load metadata pair {key[:40]!r}")
    return dict(value)


def _tags(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if (
        not isinstance(value, list)
        or len(value) > _TAGS_MAX
        or not all(isinstance(tag, str) and len(tag) <= _ID_CHARS_MAX for tag in value)
    ):
        raise Refused(400, f"Request decode failed: Tags must be at most {_TAGS_MAX} strings")
    return tuple(value)
