"""A request to a server that may want OAuth: sent with its token, and once more with another one where that is refused.

Used by `agent.client.http.pool` where the target has an authorizer. The one rule: only a 401, and a 403 that asks for
more scopes, has a request sent again, for these say that it was not executed.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeAlias

from agent.client.http.received import Response
from agent.client.outbound import AuthorizerLike

_UNAUTHORIZED, _FORBIDDEN = 401, 403
REFUSED: Final = frozenset({_UNAUTHORIZED, _FORBIDDEN})
Exchange: TypeAlias = Callable[[Mapping[str, str]], Awaitable[Response]]


async def authorized(authorizer: AuthorizerLike | None, headers: Mapping[str, str], exchange: Exchange) -> Response:
    """The answer to a request. Raises what `exchange` and the authorizer raise."""
    if authorizer is None:
        return await exchange(headers)
    token = await authorizer.token()
    response = await exchange(_with(headers, token))
    return await refused(authorizer, headers, exchange, response, token)


async def refused(
    authorizer: AuthorizerLike, headers: Mapping[str, str], exchange: Exchange, response: Response, token: str | None
) -> Response:
    """The answer to a request whose first one, sent with `token`, was `response`. Raises as `authorized`."""
    # A token that has ended may be followed by one whose scopes are too few, so each refusal counts once.
    for status, get_another in ((_UNAUTHORIZED, authorizer.renewed), (_FORBIDDEN, authorizer.widened)):
        if response.status != status:
            continue
        try:
            another = await get_another(token, response.headers.get("WWW-Authenticate", ""))
        except BaseException:
            response.close()
            raise
        if another is None:
            return response
        response.close()
        token = another
        response = await exchange(_with(headers, token))
    return response


def _with(headers: Mapping[str, str], token: str | None) -> Mapping[str, str]:
    return headers if token is None else {**headers, "Authorization": f"Bearer {token}"}
