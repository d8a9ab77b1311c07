"""Who wants to be told of which resources: public URIs in front, the backends' behind.

One for the node: the endpoints subscribe, links follow. The one rule: an update of something below a followed URI is
told to whoever follows that, under its own public URI, and whatever may have been missed as one update.
"""

from collections.abc import Iterator
from typing import Final

from agent.core.route_table import Route
from agent.errors import RpcError
from agent.links.listening import RESOURCES
from agent.model import Json
from agent.subscriptions import Subscriptions
from agent.wishes import INVALID_PARAMS, Tables, Way, Wish

URI_LEN_MAX: Final = 2_048
# An update of something deeper below what is followed is not recognised; each level costs a look.
PARENTS_MAX: Final = 32
# What may follow a URI when another one is below it.
_SEPARATORS: Final = "/?#"


class ResourceUpdates(Subscriptions[str]):
    """Wishes for resources; the news is a public URI."""

    subject = RESOURCES
    name_len_max = URI_LEN_MAX

    def route(self, tables: Tables, name: str) -> Route | None:
        """As `Subscriptions.route`: who reads the URI."""
        return tables().resolve_uri(name)

    def nobody_tells(self, name: str) -> RpcError:
        """As `Subscriptions.nobody_tells`."""
        return RpcError(INVALID_PARAMS, f"Unknown resource, or one without updates: {name!r}", {"uri": name})

    def may_have_missed(self, wish: Wish[str], way: Way[str]) -> None:  # noqa: ARG002 - an update says no more
        """As `Subscriptions.may_have_missed`: one update."""
        self._tell(wish, wish.name)

    def updated(self, backend_key: str, name: str, params: Json) -> None:  # noqa: ARG002 - they say no more
        """A backend says that a resource has changed; one whose URI is too long counts as what it is below."""
        for followed in with_parents(name):
            if (way := self._way(backend_key, followed)) is not None:
                # What is told waits for clients that do not read: it has to be bounded in number and length.
                below = name[len(followed) :] if len(name) <= URI_LEN_MAX else ""
                for wish in tuple(way.wishes):
                    self._tell(wish, wish.name + below)


def with_parents(uri: str) -> Iterator[str]:
    """The URI itself and those above it, with and without the separator in between."""
    yield uri
    places = [place for place, letter in enumerate(uri[:URI_LEN_MAX]) if letter in _SEPARATORS]
    for place in places[-PARENTS_MAX:]:
        if place + 1 < len(uri):
            yield uri[: place + 1]
        yield uri[:place]
