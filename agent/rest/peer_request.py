"""The body of POST /api/v1/mcp/peers, checked by pydantic; its fields are a public contract (README).

Imported by `agent.rest.peers` with the first such request, because pydantic costs every node 0.1 s and 10 MB. The one
rule: a fault names the field and the fix, never the value.
"""

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from agent.model import PeerScope
from agent.peer_kind import PeerKind
from agent.routing.names import NAME_RULE, is_valid_name


class PeerRequest(BaseModel):
    """The body of POST /api/v1/mcp/peers. A command for a stdio server has no place here, by design."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    peer_name: str = Field(min_length=1, max_length=63)
    peer_url: str = Field(min_length=1, max_length=2048)
    auth_token: SecretStr | None = Field(default=None, max_length=4096)
    scope: PeerScope = PeerScope.LOCAL
    kind: PeerKind | None = None

    @model_validator(mode="after")
    def _server_is_no_gateway(self) -> "PeerRequest":
        if self.kind is PeerKind.SERVER and self.scope is PeerScope.MESH:
            raise ValueError("kind: a server is no gateway; leave out scope, or say kind node")
        return self

    @field_validator("peer_name")
    @classmethod
    def _name_is_legal(cls, name: str) -> str:
        if not is_valid_name(name):
            raise ValueError(NAME_RULE)
        return name

    @field_validator("auth_token")
    @classmethod
    def _token_is_sendable(cls, token: SecretStr | None) -> SecretStr | None:
        text = token.get_secret_value() if token is not None else None
        if text is not None and not (text.isascii() and text.isprintable() and " " not in text):
            raise ValueError("must be printable ASCII without spaces")
        return token if text else None
