"""Which URLs a server may name for its tokens: what is refused is never dialled."""

import pytest

from agent.client.oauth.issuer_http import IssuerHttp
from agent.client.outbound import DIRECT
from agent.errors import CallNotSent, DialRefused, ProtocolBroken
from agent.model import HttpTarget

FAR = "https://crm.example/mcp"
HERE = "http://127.0.0.1:9/mcp"


@pytest.mark.parametrize(
    ("server", "url", "failure", "reason"),
    [
        (FAR, "http://id.example/token", ProtocolBroken, "is not https"),
        (FAR, "http://crm.example/token", ProtocolBroken, "is not https"),
        (FAR, "http://127.0.0.1:8500/v1/agent/self", ProtocolBroken, "is this machine, where the server is not"),
        (FAR, "https://localhost/token", ProtocolBroken, "is this machine, where the server is not"),
        (FAR, "https://[::1]/token", ProtocolBroken, "is this machine, where the server is not"),
        (FAR, "http://169.254.169.254/latest", DialRefused, "never dialled"),
        (FAR, "https://0x7f.1/token", DialRefused, "never dialled"),
        (FAR, "file:///etc/passwd", ProtocolBroken, "a URL that is none"),
        (FAR, "https://user:canary@id.example/", ProtocolBroken, "a URL that is none"),
        (HERE, "http://id.example/token", ProtocolBroken, "is not https"),
        (HERE, "http://127.0.0.1:9/token", CallNotSent, "cannot be reached for a token"),
        (HERE, "http://localhost:9/token", CallNotSent, "cannot be reached for a token"),
    ],
)
async def test_a_url_for_tokens_is_judged_before_it_is_dialled(
    server: str, url: str, failure: type[Exception], reason: str
) -> None:
    with pytest.raises(failure, match=reason) as caught:
        await IssuerHttp(HttpTarget(server), DIRECT).send("POST", url, {}, b"x=y")
    assert "canary" not in str(caught.value)
