"""PURE: an entry of a servers file, written from the spec that `agent.config.server_entry` made of one.

Called by `agent.config.import_plan`. The one rule: what is read from the written entry is the spec again.
"""

from agent.config.oauth_entry import as_oauth_entry
from agent.config.start_time import default_start_timeout_s
from agent.model import HttpTarget, HttpTransport, Json, ServerScope, ServerSpec, Sessions, StdioTarget


def as_entry(spec: ServerSpec) -> Json:
    """Write a spec as this file has it: what `read_entry` makes of it is the spec again."""
    target = spec.target
    if isinstance(target, StdioTarget):
        entry: Json = {"command": target.command}
        optional: Json = {"args": list(target.args), "env": dict(target.env), "cwd": target.cwd}
        scope = ServerScope.NODE
    else:
        entry = {} if target.transport is HttpTransport.ANY else {"type": target.transport.value}
        entry["url"] = target.url
        optional = {"headers": dict(target.headers), "oauth": as_oauth_entry(target.oauth)}
        scope = ServerScope.SERVICE
    mesh = {
        "scope": spec.scope.value if spec.scope is not scope else None,
        "call_timeout_s": spec.call_timeout_s,
        "start_timeout_s": spec.start_timeout_s if spec.start_timeout_s != default_start_timeout_s(target) else None,
        "sticky": spec.sticky or None,
        "sessions": spec.sessions.value if spec.sessions is not Sessions.AUTO else None,
        "protocol": spec.protocol,
        "tags": list(spec.tags) or None,
        "tls": _tls_entry(target),
        "user": target.user if isinstance(target, StdioTarget) else None,
        "cgroup": target.cgroup if isinstance(target, StdioTarget) else None,
    }
    optional |= {"disabled": not spec.enabled, "mesh": {key: value for key, value in mesh.items() if value is not None}}
    return entry | {key: value for key, value in optional.items() if value}


def _tls_entry(target: StdioTarget | HttpTarget) -> Json | None:
    files = target.tls if isinstance(target, HttpTarget) else None
    return (
        None
        if files is None
        else {key: path for key in ("ca", "cert", "key") if (path := getattr(files, key)) is not None}
    )
