"""PURE: what `mesh-agent doctor` judges, each check from what was seen to a finding with its cause and its fix.

Called by `agent.cli.doctor`, which looks. The one rule: a finding that is no fault needs no fix, and what could not be
looked at is skipped with its reason, never taken for good.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final

# Tokens that end, certificates and proofs between nodes all compare clocks; they allow for 30 s and more.
CLOCK_FAULT_S: Final = 30.0
CLOCK_WARNING_S: Final = 5.0
CERTIFICATE_WARNING_DAYS: Final = 14
# States of a link that was tried and is down.
_AWAY: Final = frozenset({"backoff", "parked"})
_OUR_NAME: Final = frozenset({"name_taken", "own_entry_twice", "own_id_elsewhere"})


class Status(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check. `cause`: what was seen; `fix`: what to do, for faults and warnings."""

    check: str
    status: Status
    cause: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came from the node. `unreachable`: why nothing did; `clock_s`: its clock ahead of ours."""

    status: int = 0
    unreachable: str = ""
    clock_s: float | None = None


def skipped(check: str, why: str) -> Finding:
    """The check could not be made."""
    return Finding(check, Status.SKIPPED, why)


def settings(refused: str, warnings: Sequence[str]) -> Finding:
    """Whether a node would start with the settings of this environment."""
    if refused:
        return Finding("settings", Status.FAULT, refused, "change what the message names")
    if warnings:
        return Finding("settings", Status.WARNING, "; ".join(warnings), "change or remove what is named")
    return Finding("settings", Status.OK, "can be used")


def port(url: str, answer: Answer, *, port_is_free: bool | None) -> Finding:
    """Whether the node answers. `port_is_free`: of the URL's port; None on another machine."""
    if not answer.unreachable:
        return Finding("port", Status.OK, f"a node answers at {url}")
    if port_is_free is None:
        fix = "start it there, check the URL, and the firewalls between"
        return Finding("port", Status.FAULT, f"{url}: {answer.unreachable}", fix)
    if port_is_free:
        cause = f"no program listens at {url}"
        return Finding("port", Status.FAULT, cause, "start a node with `mesh-agent run`, or give its --url")
    cause = f"a program listens at {url} and does not answer as a node: {answer.unreachable}"
    return Finding("port", Status.FAULT, cause, "stop it, or give the node another PORT")


def host(name: str, answer: Answer) -> Finding:
    """Whether the node takes the name that it is called by."""
    if answer.status == HTTPStatus.MISDIRECTED_REQUEST:
        fix = f"add {name} to MESH_ALLOWED_HOSTS of the node, or use its IP address"
        return Finding("host", Status.FAULT, f"the node takes no requests for the host {name}", fix)
    return Finding("host", Status.OK, f"the node answers for the host {name}")


def token(answer: Answer, *, given: bool) -> Finding:
    """Whether the node takes the token, for an operator's reading at least."""
    match answer.status:
        case HTTPStatus.UNAUTHORIZED if given:
            return Finding(
                "token", Status.FAULT, "the node does not know the token", "compare it with MESH_TOKEN there"
            )
        case HTTPStatus.UNAUTHORIZED:
            return Finding("token", Status.FAULT, "the node wants a token", "give --token-file or MESH_TOKEN")
        case HTTPStatus.FORBIDDEN:
            fix = "`mesh-agent token new NAME --scope read` on the node's machine makes one that does"
            return Finding("token", Status.FAULT, "the token does not allow to read the status", fix)
        case HTTPStatus.OK:
            return Finding("token", Status.OK, "the node takes the token" if given else "the node wants none")
        case status:
            return skipped("token", f"the node answered {status}")


def clock(answer: Answer) -> Finding:
    """Whether both clocks agree."""
    if answer.clock_s is None:
        return skipped("clock", "the node does not tell its time")
    apart_s = abs(answer.clock_s)
    cause = f"the node's clock is {apart_s:.0f} s {'ahead of' if answer.clock_s > 0 else 'behind'} this machine's"
    if apart_s > CLOCK_WARNING_S:
        status = Status.FAULT if apart_s > CLOCK_FAULT_S else Status.WARNING
        return Finding("clock", status, cause, "have NTP set the clocks of both machines")
    return Finding("clock", Status.OK, "both clocks agree")


def dns(faults: Mapping[str, str]) -> Finding:
    """Whether each host resolves. `faults`: by host, empty where it does."""
    bad = [f"{name}: {fault}" for name, fault in faults.items() if fault]
    if bad:
        return Finding("dns", Status.FAULT, "; ".join(bad), "correct the name, or the name server of this machine")
    if not faults:
        return Finding("dns", Status.OK, "nothing is named by a host name")
    return Finding("dns", Status.OK, f"{', '.join(faults)} can be resolved")


def tls(seen: Iterable[tuple[str, str, float | None]]) -> Finding:
    """Whether certificates can be used: of each what it is, the fault, and the days until it ends."""
    seen = list(seen)
    if bad := [f"{what}: {fault}" for what, fault, _ in seen if fault]:
        return Finding("tls", Status.FAULT, "; ".join(bad), "change the file, or trust its authority with MESH_TLS_CA")
    days = [(left, what) for what, _, left in seen if left is not None]
    if days and min(days)[0] < CERTIFICATE_WARNING_DAYS:
        left, what = min(days)
        status = Status.FAULT if left <= 0 else Status.WARNING
        cause = f"{what}: the certificate {'has ended' if left <= 0 else f'ends in {left:.0f} days'}"
        return Finding("tls", status, cause, "renew it; a node reads the new file by itself")
    return Finding("tls", Status.OK, "certificates can be used" if seen else "plain HTTP, no certificates")


def commands(faults: Sequence[str], count: int) -> Finding:
    """Whether the servers of the servers file can be started."""
    if faults:
        return Finding(
            "servers", Status.FAULT, "; ".join(faults), "change the servers file; a running node reads it again"
        )
    return Finding("servers", Status.OK, f"{count} servers can be started or dialled")


def consul(url: str, unreachable: str, leader: bool, rights: Mapping[str, bool] | str) -> Finding:
    """Whether Consul answers, has a leader, and lets this node do what it must. `rights`: text for a refused token."""
    if unreachable:
        fix = "start Consul's agent, or correct CONSUL_HTTP_ADDR; without it, links to known peers stay"
        return Finding("consul", Status.FAULT, f"{url}: {unreachable}", fix)
    if not leader:
        return Finding("consul", Status.FAULT, f"{url} has no leader", "look at Consul's servers: `consul members`")
    policy = "give its token the policy of consul/policies/mesh-node.hcl"
    if isinstance(rights, str):
        return Finding("consul", Status.FAULT, f"{url} refuses CONSUL_HTTP_TOKEN: {rights}", policy)
    if lacking := [right for right, allowed in rights.items() if not allowed]:
        return Finding("consul", Status.FAULT, f"the token for {url} lacks {', '.join(lacking)}", policy)
    return Finding("consul", Status.OK, f"{url} has a leader and lets the node register and look")


def discovery(seen: Mapping[str, Any]) -> Finding:
    """What the node itself says of its catalog."""
    mode = seen.get("mode")
    if mode == "off":
        return Finding("discovery", Status.OK, "off, as set")
    fault = str(seen.get("last_error") or "it gives no reason yet")
    if not seen.get("up"):
        return Finding("discovery", Status.FAULT, f"the catalog ({mode}) is down: {fault}", "see the check of consul")
    if not seen.get("registered"):
        fix = "see the check of consul; the token needs service:write"
        return Finding("discovery", Status.FAULT, f"the node is not registered: {fault}", fix)
    if seen.get("filtered_by_acls"):
        cause = "Consul leaves nodes out, for the token lacks node:read"
        return Finding("discovery", Status.FAULT, cause, "give it the policy of consul/policies/mesh-node.hcl")
    faults = [text for source in seen.get("sources") or () if (text := _source_fault(source))]
    if faults:
        return Finding(
            "discovery", Status.WARNING, "; ".join(faults), "see `mesh-agent status`; what they said last stays"
        )
    return Finding("discovery", Status.OK, f"{mode} is up, and the node is registered")


def _source_fault(source: Mapping[str, Any]) -> str:
    """What is wrong with a source of peers beside the catalog; empty where nothing is."""
    if not source.get("up"):
        return f"{source.get('name')} is down: {source.get('last_error') or 'it gives no reason yet'}"
    hides = "lists none that the token may not see, it lacks node:read or service:read there"
    return f"{source.get('name')} {hides}" if source.get("filtered_by_acls") else ""


def advertised(url: str, seen: Mapping[str, str], silent: Mapping[str, str] = MappingProxyType({})) -> Finding:
    """Whether peers reach this node at the address that it tells them. `seen`: by peer, empty where it is linked.

    `silent`: peers that did not say, with the reason; a busy one answers the first question of its life late.
    """
    if not seen:
        why = "; ".join(f"{peer} does not say ({reason})" for peer, reason in silent.items())
        return skipped("advertised", why or "there is no connected peer to ask")
    bad = [f"{peer}: {why}" for peer, why in seen.items() if why]
    if bad:
        fix = "set MESH_ADVERTISE_ADDRESS and MESH_ADVERTISE_PORT to what peers can dial, and open the firewall"
        return Finding("advertised", Status.FAULT, f"{url} is not reached by {'; '.join(bad)}", fix)
    return Finding("advertised", Status.OK, f"{', '.join(seen)} {'reaches' if len(seen) == 1 else 'reach'} this node")


def links(rows: Sequence[Mapping[str, Any]]) -> Finding:
    """Whether servers and peers are connected. One that is away is tried again, and may be no fault of this node."""
    away = [
        f"{row.get('name')}: {row.get('last_error') or row.get('state')}"
        for row in rows
        if not row.get("connected") and row.get("state") in _AWAY
    ]
    if away:
        fix = "look at what is named; the node tries again by itself (`mesh-agent status` says when)"
        return Finding("links", Status.WARNING, "; ".join(away), fix)
    return Finding("links", Status.OK, f"no server or peer is away, of {len(rows)}")


def name(own: str, findings: Iterable[Mapping[str, Any]]) -> Finding:
    """Whether no other node of the mesh has this node's name or ID."""
    bad = [one for one in findings if one.get("kind") in _OUR_NAME and one.get("name") == own]
    bad += [one for one in findings if one.get("kind") == "own_id_elsewhere" and one not in bad]
    if bad:
        cause = "; ".join(f"{one.get('name')}: {one.get('kind')} ({one.get('detail')})" for one in bad)
        fix = (
            "give one of them another MESH_NODE_NAME; of a copied machine, remove the copy's state folder. If this node"
        )
        fix += " has just got another name, wait: half a minute after its end, its earlier entry is no fault any more"
        return Finding("name", Status.FAULT, cause, fix)
    return Finding("name", Status.OK, f"{own} is the only node of that name")
