"""The proofs between nodes on one exchange: put on a request, checked on its answer.

Used by `agent.client.http.pool` where the other side is a node (`agent.identity.association`). The one rule: an answer
without its proof is not read, whatever it says, but for one: that the other side has forgotten us.
"""

from agent.client.http.answer import ConnectionBroken
from agent.client.http.received import Response
from agent.identity.association import FORGOTTEN, PROOF_HEADER, Association


def proving(head: bytes, association: Association | None) -> tuple[bytes, int]:
    """The head of a request, complete and with a proof of its own, and the number of that, 0 for none.

    To be called when a connection is there: a number that waits for a dial may come too late for the other side.
    """
    if association is None:
        return head + b"\r\n", 0
    number = association.next_number()
    return head + f"{PROOF_HEADER}: {association.request_proof(number)}\r\n\r\n".encode(), number


def remembered(response: Response) -> Response:
    """The answer, unless it says that we are forgotten though we have just shaken hands. Raises `ConnectionBroken`."""
    if response.headers.get(PROOF_HEADER) == FORGOTTEN:
        response.close()
        raise ConnectionBroken("forgets the handshake that it has just made")
    return response


def proven(response: Response, association: Association | None, number: int) -> Response:
    """The answer, if it is of the node that the association is with. Raises `ConnectionBroken` for any other."""
    if association is None or association.is_answer(number, response.headers.get(PROOF_HEADER, "")):
        return response
    if not forgets_us(response):
        response.close()
        raise ConnectionBroken("answered without proving that it is the node of before")
    return response


def forgets_us(response: Response) -> bool:
    """Whether a node says that it knows no such association: it restarted. The request was not executed.

    Anybody can say so; what follows is another handshake, and the request is sent again to that same node alone.
    """
    return response.status == 401 and response.headers.get(PROOF_HEADER) == FORGOTTEN  # noqa: PLR2004 - Unauthorized
