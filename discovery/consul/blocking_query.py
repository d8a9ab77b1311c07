"""The rules of Consul's blocking queries, and how far an answer may be believed. PURE.

Called by the watch loop after every answer. Theory: an answer is a whole snapshot, so presence is always believed at
once; absence is not, because an outage, a wiped agent or a token without rights look exactly like all instances
leaving. The one rule: the shown catalog is never shortened without a second, confirming answer, except by a lone
departure of what no longer answers.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from enum import Enum

from discovery.backoff import Backoff
from discovery.model import Catalog, Health, Instance, InstanceKey

# A quarter of a second hides a lost packet; an outage of hours costs Consul one question of each node in 30 s.
ASK_AGAIN = Backoff(first_s=0.25, last_s=30.0)
# A restarted agent is back within seconds, and a refused connection costs nearly nothing: while an outage is young,
# steps stop growing here, so that a node is back in the mesh within 2 s of its agent.
ASK_YOUNG_OUTAGE = Backoff(first_s=0.25, last_s=2.0)
YOUNG_OUTAGE_S = 60.0

# A 200 to a wait proves no server: Consul's agent may answer it from a cache of its own (1.10 and later, streaming). A
# read without an index goes to a server; one every other wait costs less than waits that all do (docs/reliability.md).
CONFIRM_EVERY_S = 50.0
# Consul's own anti-entropy takes up to two minutes to repair a restored state, and agents that lag a little longer.
RESTORED_S = 180.0
# How often a catalog is read anew that may hide instances from our ACL token: rights that are given back wake no wait.
HIDDEN_AGAIN_S = 10.0
# How soon we register again while the catalog lacks us though the agent does not. Where a token without rights is the
# cause it never helps, and each time wakes every watch.
REPAIR_AGAIN = Backoff(first_s=5.0, last_s=600.0)
UPDATE_SPACING_S = 0.1  # At most one update per 100 ms while changes keep coming; the first one is never delayed.
# How long others may need to register again after an outage: a heartbeat interval.
SETTLE_S = 5.0
_FREE_RETURNS = 3  # Returns without news that cost nothing: unrelated registrations wake a query now and then.
# The last step keeps a lying index to one request a second, and real news within the promised 2 s.
_IDLE = Backoff(first_s=0.1, last_s=1.0)
_ANSWER_GRACE_S = 5.0
_STRETCH = 17.0 / 16.0


# The trouble of an instance that a catalog lacks which went back or forgot, for a finding. It may have left since: this
# is judged anew with the next answer, not when its link ends.
FORGOTTEN = "the catalog has lost it, or it has left: a link to it that is up stays, and no other one is made"
# The same of one that may be hidden.
HIDDEN = "the catalog's answer lacks it, it answers, and access control may be hiding it; its link stays"


class Trust(Enum):
    """How far an answer is believed."""

    BELIEVED = "believed"
    DISTRUSTED = "distrusted"  # the canary is missing: nothing in it counts
    SETTLING = "settling"  # absence is not believed yet
    DOUBTED = "doubted"  # absence is believed of those alone that do not answer: it went back, or forgot them
    HIDDEN = "hidden"  # absence is believed of those alone that do not answer: access control may hide the others
    CONFIRM = "confirm"  # too many vanished, some that answer, or after the index went back: query a second time


@dataclass(frozen=True, slots=True)
class Verdict:
    """The catalog to show now, and the instances in it that the answer lacks."""

    trust: Trust
    catalog: Catalog | None
    suspects: frozenset[InstanceKey] = frozenset()


def backoff_of(*, unreachable: bool, outage_s: float) -> Backoff:
    """How steps grow: little while an agent that cannot be reached at all may just be restarting."""
    return ASK_YOUNG_OUTAGE if unreachable and outage_s < YOUNG_OUTAGE_S else ASK_AGAIN


def next_index(previous: int, answered: int) -> int:
    """The index for the next query; 0 means without one.

    A lower index means that Consul's state was restored: start again from 0 (Consul, blocking queries). An index of 0
    would turn the wait off, so the least one is 1.
    """
    return 0 if answered < previous else max(1, answered)


def request_timeout_s(wait_s: float) -> float:
    """The total time-out of a query: Consul stretches the wait by up to a sixteenth, and an answer takes time too."""
    return wait_s * _STRETCH + _ANSWER_GRACE_S


def waited_s(timeout_s: float) -> float:
    """The wait of the query that has this time-out; an answer that comes sooner was not waited for."""
    return (timeout_s - _ANSWER_GRACE_S) / _STRETCH


def pause_s(*, now_s: float, last_update_at_s: float | None, idle_returns: int) -> float:
    """How long to pause before the next query: behind an update, and behind answers that had no news."""
    spacing_s = 0.0
    if last_update_at_s is not None:
        spacing_s = max(0.0, last_update_at_s + UPDATE_SPACING_S - now_s)
    return max(spacing_s, _IDLE.step_s(idle_returns - _FREE_RETURNS))


# The table of `weigh`:
#
#   answer                                   | shown                    | next
#   -----------------------------------------+--------------------------+------------------------------------
#   lacks our own registration (the canary)  | the catalog shown before | wait for a better answer
#   none vanished, or a lone one             | the answer               |
#   nodes vanished that answer               | the same, as critical    | query again in a moment, consistent
#   some vanished, the state may be young    | the answer + the missing | query again when it has settled
#   some vanished, the index went back       | the answer + the missing | query now, index-less, consistent
#   that answer lacks them too, some linked  | those, as critical       | query again when that is long ago
#   that answer lacks them too, none linked  | the answer               |
#   vanished ones answer, and may be hidden  | the answer + the missing | query now, index-less, consistent
#   that answer does not prove them gone     | the same, as critical    | query again in HIDDEN_AGAIN_S
#   more than half or all others vanished,   | the answer + the missing | query now, index-less, consistent
#   nodes that answer among them, with news  |                          |
#   the same ones vanished in that answer    | the answer               |
def weigh(
    shown: Catalog | None,
    answer: Catalog,
    *,
    canary: str | None,
    settling: bool,
    suspects: AbstractSet[InstanceKey],
    confirming: bool,
    restored: bool = False,
    answering: AbstractSet[InstanceKey] = frozenset(),
    forgotten: AbstractSet[InstanceKey] = frozenset(),
    linked: AbstractSet[InstanceKey] = frozenset(),
    holder: str = "",
) -> Verdict:
    """Compare one answer with the shown catalog.

    Args:
        shown: the last catalog shown, None when there is none yet.
        answer: Consul's present catalog.
        canary: our own service ID when the catalog must hold it, else None.
        settling: an outage or a restored state was so recent that others may not be registered again.
        suspects: instances that the previous answer lacked but that are still shown.
        confirming: this answer came from an index-less, consistent read.
        restored: the index went back lately. Critical instances keep a link that is up and get no new one, so those
            that answer stay, and those that left do not.
        linked: instances that this answer lacks and whose links are up: what else the leader lacks after a restore has
            no link to keep, and is new when it is back.
        answering: instances whose links are up, where this answer does not prove that what it lacks is gone
            (`proves_absence`); else empty.
        forgotten: nodes that are gone from the catalog, but not from us (`discovery.consul.forgotten`).
        holder: the Consul node that our entry is under, where that is known.
    """
    if canary is not None and not any(is_canary(instance, canary, holder) for instance in answer.instances):
        return Verdict(Trust.DISTRUSTED, shown, frozenset(suspects))
    vanished = frozenset() if shown is None else vanished_from(shown, answer)
    if shown is None or not vanished:
        return Verdict(Trust.BELIEVED, answer)
    if settling:
        return Verdict(Trust.SETTLING, _with_missing(shown, answer, vanished), vanished)
    if restored:
        # Another entry of our own has no link that could be lost: one that the operator took out is gone.
        others = frozenset(one for one in vanished if one.service_id != canary)
        return _doubted(shown, answer, others, linked, confirming=confirming)
    hidden = vanished & answering
    if hidden and confirming:
        return Verdict(Trust.HIDDEN, _with_missing(shown, answer, hidden, trouble=HIDDEN), hidden)
    # Suspects stay until a confirming answer lacks them too, even where newcomers have made a minority of them.
    held = vanished & forgotten
    rest = vanished - held
    # Those that answer count as well: an answer with news that lacks most is doubted in all that it says.
    is_mass = not vanished <= _doubted_of(shown) and _is_mass(shown, vanished, canary)
    in_doubt = bool(hidden) or is_mass or not rest.isdisjoint(suspects)
    if in_doubt and not (confirming and rest <= suspects):
        return Verdict(Trust.CONFIRM, _with_missing(shown, answer, vanished), vanished)
    return _holding(shown, answer, held)


def _doubted(
    shown: Catalog,
    answer: Catalog,
    vanished: frozenset[InstanceKey],
    linked: AbstractSet[InstanceKey],
    *,
    confirming: bool,
) -> Verdict:
    """The index went back: a server that is behind says the same of an older state as one whose state was restored.

    A read of the leader tells them apart; what it lacked once is not read again for each answer that lacks it.
    """
    if not (confirming or vanished <= _doubted_of(shown)):
        return Verdict(Trust.CONFIRM, _with_missing(shown, answer, vanished), vanished)
    return _holding(shown, answer, vanished & linked)


def _holding(shown: Catalog, answer: Catalog, held: frozenset[InstanceKey]) -> Verdict:
    """The answer is believed, but for these that it lacks."""
    if not held:
        return Verdict(Trust.BELIEVED, answer)
    return Verdict(Trust.DOUBTED, _with_missing(shown, answer, held, trouble=FORGOTTEN), held)


def _doubted_of(shown: Catalog) -> AbstractSet[InstanceKey]:
    """What a catalog has lacked before."""
    return {one.key for one in shown.instances if one.trouble == FORGOTTEN}


def is_canary(instance: Instance, service_id: str, holder: str) -> bool:
    """Whether it is our own entry, and none that an agent left behind which was renamed."""
    return instance.key.service_id == service_id and holder in ("", instance.key.node)


def proves_absence(answer: Catalog, *, canary: str | None, filtered: bool, tells: bool, waited: bool) -> bool:
    """Whether what an answer lacks is surely not hidden from us by access control.

    Args:
        answer: Consul's present catalog.
        canary: our own service ID, when the answer was checked for it: then our token may see one Consul node at least.
        filtered: Consul said, of this answer or of the last one without an index, that it left rows out.
        tells: this Consul would say so: it does from 1.11 on, and only to requests with a token.
        waited: the query had an index. Answers of the agent's own cache do not say it.
    """
    if filtered or (tells and waited):
        return False
    return tells or canary is not None or bool(answer.instances)


def vanished_from(shown: Catalog, answer: Catalog) -> frozenset[InstanceKey]:
    """The keys that the answer lacks. Most instances are the same objects in both, which need no look at their keys."""
    before, after = set(map(id, shown.instances)), set(map(id, answer.instances))
    gone = frozenset(instance.key for instance in shown.instances if id(instance) not in after)
    return gone - {instance.key for instance in answer.instances if id(instance) not in before} if gone else gone


def _is_mass(shown: Catalog, vanished: AbstractSet[InstanceKey], canary: str | None) -> bool:
    """More than half of the others; all of them when there are few."""
    others = sum(1 for instance in shown.instances if instance.key.service_id != canary)
    return 2 * len(vanished) > others


def _with_missing(shown: Catalog, answer: Catalog, missing: AbstractSet[InstanceKey], *, trouble: str = "") -> Catalog:
    """With a `trouble` what is missing counts as critical."""
    kept = [instance for instance in shown.instances if instance.key in missing]
    if trouble:
        kept = [
            # What was so before stays the same object: nothing of it is read again.
            one
            if (one.health, one.trouble) == (Health.CRITICAL, trouble)
            else replace(one, health=Health.CRITICAL, trouble=trouble)
            for one in kept
        ]
    return Catalog(tuple(sorted((*answer.instances, *kept), key=lambda instance: instance.key)))
