"""A request to a server that may want OAuth: sent with its token, and once more with another one where that is refused.

Used by `agent.client.http.pool` where the target has an authorizer. The one rule: only a 401 has a request sent again,
which says that it was not executed.
"""

from collections.abc import Awaitable, Callable, Mapping

from agent.client.http.connection import Response
from agent.client.outbound import AuthorizerLike

_UNAUTHORIZED = 401


async def authorized(
    authorizer: AuthorizerLike | None,
    headers: Mapping[str, str],
    exchange: Callable[[Mapping[str, str]], Awaitable[Response]],
) -> Response:
    """The answer to a request. Raises what `exchange` and the authorizer raise."""
    if authorizer is None:
        return await exchange(headers)
    token = await authorizer.token()
    response = await exchange(_with(headers, token))
    if response.status != _UNAUTHORIZED:
        return response
    try:
        another = await authorizer.renewed(token, response.headers.get("WWW-Authenticate", ""))
    except BaseException:
        response.close()
        raise
    if another is None:
        return response
    response.close()
    return await exchange(_with(headers, another))


def _with(headers: Mapping[str, str], token: str | None) -> Mapping[str, str]:
    return headers if token is None else {**headers, "Authorization": f"Bearer {token}"}
