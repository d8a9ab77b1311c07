"""The route table of one caller, whose sessions with some servers offer other things than all others.

Called by `agent.server.caller_views`. The one rule: it is the table of all, built of the same contributions, but for
the offers of those servers; who holds which name is not decided anew.
"""

from collections.abc import Mapping
from dataclasses import replace

from agent.model import NodeIdentity, Offer
from agent.routing.build import build_routes
from agent.routing.table import RouteTable


def table_of_caller(
    table: RouteTable, offers: Mapping[str, Offer], own: NodeIdentity, *, for_clients: bool
) -> RouteTable:
    """`table` with these offers, by backend key, in place of what those backends offer all.

    `own`, `for_clients`: as `table` was built (`build_routes`).
    """
    # Names of servers that stay with an owner who is away stay so here, too.
    awaited = {table.roots[root]: until_s for root, until_s in table.kept.items() if root in table.roots}
    contributions = [
        replace(part.source, offer=offers[key]) if key in offers else part.source for key, part in table.parts.items()
    ]
    built = build_routes(contributions, own, table, known=table.parts, awaited=awaited, for_clients=for_clients)
    return replace(built, away=table.away, unlisted=table.unlisted, starting=table.starting)
