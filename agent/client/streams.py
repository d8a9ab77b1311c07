"""The filter of one `subscriptions/listen` request, and what becomes of the messages on its stream.

Passed by links to clients, which send the parameters and hand back each message; a client to a server with sessions
sends the requests of that era. The one rule: nothing is reported before the acknowledgement, and only what it grants.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from agent.client import jsonrpc
from agent.client.server_info import ListenNotSupported
from agent.errors import RpcError
from agent.model import SESSIONS_MEMBER, Json
from agent.tasks.ids import TAKES_TASKS

LISTEN: Final = "subscriptions/listen"
ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"
UPDATED: Final = "notifications/resources/updated"

_LIST_KINDS: Final = ("toolsListChanged", "promptsListChanged", "resourcesListChanged")
_SUBSCRIPTION_ID_META_KEY: Final = "io.modelcontextprotocol/subscriptionId"


class Listening(Protocol):
    """One stream: its parameters, whether the other side has acknowledged it, and the receiver of its messages."""

    @property
    def params(self) -> Json:
        """The parameters of `subscriptions/listen`."""
        ...

    @property
    def acknowledged(self) -> bool:
        """Whether the other side has acknowledged the subscription."""
        ...

    @property
    def has_results(self) -> bool:
        """Whether a message may be as large as any answer."""
        ...

    def take(self, method: str, params: Json) -> None:
        """Take one message of the stream. Raises `ListenNotSupported` when nothing is granted."""
        ...


class ListChanges:
    """All three kinds of list change. `on_change` gets "listening", then "tools", "prompts" or "resources"."""

    __slots__ = ("_on_change", "acknowledged")
    has_results = False

    def __init__(self, on_change: Callable[[str], None]) -> None:
        self.acknowledged = False
        self._on_change = on_change

    @property
    def params(self) -> Json:
        """As `Listening.params`."""
        return {"notifications": dict.fromkeys(_LIST_KINDS, True)}

    def take(self, method: str, params: Json) -> None:
        """As `Listening.take`."""
        if method == ACKNOWLEDGED:
            granted = params.get("notifications")
            if not isinstance(granted, dict) or not any(granted.get(kind) is True for kind in _LIST_KINDS):
                raise ListenNotSupported("the server announces no list changes")
            self.acknowledged = True
            self._on_change("listening")
        elif method in jsonrpc.LIST_CHANGES:
            self._on_change(jsonrpc.LIST_CHANGES[method])


@dataclass(frozen=True, slots=True)
class Subject:
    """A kind of update: the filter's member with the names, the notification, the notification's parameter with a name.

    `has_results`: a notification may be as large as any answer. `meta`: what goes along with the request.
    """

    member: str
    notification: str
    parameter: str
    has_results: bool
    meta: Json


RESOURCES: Final = Subject("resourceSubscriptions", UPDATED, "uri", has_results=False, meta={})
# A task that has ended has its result in it. The stream is for callers that take tasks (MCP 2026-07-28, tasks).
TASKS: Final = Subject("taskIds", "notifications/tasks", "taskId", has_results=True, meta=TAKES_TASKS)


# What a server tells in the session that it has with one client of another node; the name is the client's affinity.
# Between nodes only.
SESSIONS: Final = Subject(SESSIONS_MEMBER, "notifications/mesh-agent/session", "session", has_results=False, meta={})


class Updates:
    """Updates of some resources or tasks, by the names that the other side knows them by.

    `on_granted` gets those of `names` that the other side grants, and its errors for others by name, where it gave any;
    once, before anything else. `on_updated` gets a name and the notification's params; a URI may be one below a granted
    one. `meta` goes along in the request's `_meta`.
    """

    def __init__(
        self,
        names: Collection[str],
        on_granted: Callable[[frozenset[str], Mapping[str, RpcError]], None],
        on_updated: Callable[[str, Json], None],
        meta: Json | None = None,
        subject: Subject = RESOURCES,
    ) -> None:
        self.names = frozenset(names)
        self.acknowledged = False
        self._on_granted = on_granted
        self._on_updated = on_updated
        self._meta = {**subject.meta, **(meta or {})}
        self._subject = subject

    @property
    def subject(self) -> Subject:
        """What kind of updates they are."""
        return self._subject

    @property
    def params(self) -> Json:
        """As `Listening.params`."""
        asked: Json = {"notifications": {self._subject.member: sorted(self.names)}}
        return {**asked, "_meta": self._meta} if self._meta else asked

    @property
    def has_results(self) -> bool:
        """As `Listening.has_results`."""
        return self._subject.has_results

    def grant(self, names: Iterable[str], refusals: Mapping[str, RpcError] | None = None) -> None:
        """The other side grants these. Raises `ListenNotSupported` when there are none."""
        granted = self.names.intersection(names)
        self.acknowledged = bool(granted)
        self._on_granted(granted, refusals or {})
        if not granted:
            raise ListenNotSupported(f"the server grants none of these {self._subject.member}")

    def updated(self, name: str, params: Json) -> None:
        """A resource or a task has changed."""
        if self.acknowledged:
            self._on_updated(name, params)

    def take(self, method: str, params: Json) -> None:
        """As `Listening.take`."""
        if method == ACKNOWLEDGED:
            notifications = params.get("notifications")
            granted = notifications.get(self._subject.member) if isinstance(notifications, dict) else None
            self.grant([name for name in granted if isinstance(name, str)] if isinstance(granted, list) else ())
        elif method == self._subject.notification and isinstance(name := params.get(self._subject.parameter), str):
            self.updated(name, params)


class Heard:
    """Takes messages in a callback, where nothing may be raised. `word` is set on the acknowledgement or refusal."""

    def __init__(self, listening: Listening) -> None:
        self.word = asyncio.Event()
        self.refusal: ListenNotSupported | None = None
        self._listening = listening

    def take(self, message: Json) -> None:
        """Take one message of the stream."""
        try:
            self._listening.take(message["method"], jsonrpc.params_of(message))
        except ListenNotSupported as exc:
            self.refusal = exc
        if self._listening.acknowledged or self.refusal is not None:
            self.word.set()


def subscription_of(params: Json) -> int | None:
    """The ID of our `subscriptions/listen` request that a notification belongs to, if it names one."""
    meta = params.get("_meta")
    found = meta.get(_SUBSCRIPTION_ID_META_KEY) if isinstance(meta, dict) else None
    return found if isinstance(found, int) else None
