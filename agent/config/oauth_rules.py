"""The section `oauth` of the tokens file: which issuer's access tokens are taken, and what their claims allow.

Called where the tokens file is read. The one rule: as there, a section with any fault is not used at all, and every
fault is named with path, line and field.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from agent.authority.grant import NamedToken
from agent.authority.oauth import ClaimRule, IntrospectionClient, OAuthRules
from agent.config.relaxed_json import JsonPath, parse_relaxed
from agent.config.servers_file import read_text
from agent.config.tokens_file import EntryReader, read_tokens_file, sentences
from agent.errors import ConfigRefused

SECTION: Final = "oauth"
RULES_MAX: Final = 500
_FIELDS: Final = ("issuer", "audience", "name_claim", "rules", "introspection", "comment")
_INTROSPECTION_FIELDS: Final = ("client_id", "client_secret", "client_secret_file")
_RULE_FIELDS: Final = ("claim", "value", "scopes", "tools", "read_only", "calls_per_s", "concurrent_calls", "comment")


def read_whole_file(path: Path, for_all_scopes: Sequence[str] = ()) -> tuple[tuple[NamedToken, ...], OAuthRules | None]:
    """The tokens of the file, as `read_tokens_file`, and this section. Raises `ConfigRefused`."""
    return read_tokens_file(path, for_all_scopes), read_oauth_rules(path)


def read_oauth_rules(path: Path) -> OAuthRules | None:
    """The section of the file; None where it has none. Raises `ConfigRefused` with all of its faults."""
    return check_oauth_rules(read_text(path, called="tokens file"), path)


def check_oauth_rules(text: str, path: Path) -> OAuthRules | None:
    """The section of a file's text; see `read_oauth_rules`."""
    root, plain = parse_relaxed(text, path)
    section: Any = root.get(SECTION) if isinstance(root, dict) else None
    if section is None:
        return None
    reader = _SectionReader(section)
    rules = reader.rules()
    if reader.faults:
        raise ConfigRefused("; ".join(sentences(plain, path, reader.faults)))
    return rules


class _SectionReader:
    def __init__(self, value: Any) -> None:
        self.faults: list[tuple[JsonPath, str]] = []
        self.value: dict[str, Any] = value if isinstance(value, dict) else {}
        if not isinstance(value, dict):
            self.fault(text='must be an object like {"issuer": "https://id.example", "audience": "...", "rules": []}')

    def fault(self, *path: str | int, text: str) -> None:
        self.faults.append(((SECTION, *path), text))

    def rules(self) -> OAuthRules:
        for field in self.value:
            if field not in _FIELDS:
                self.fault(field, text=f"is not known; oauth has {', '.join(_FIELDS)}")
        listed = self.value.get("rules")
        if not isinstance(listed, list) or not 0 < len(listed) <= RULES_MAX:
            self.fault("rules", text=f"must be an array of 1 to {RULES_MAX} objects; a token that none fits is refused")
            listed = []
        name_claim = self.value.get("name_claim", "sub")
        if not isinstance(name_claim, str) or not name_claim:
            self.fault("name_claim", text="must be the name of a claim, like sub or email")
            name_claim = "sub"
        rules = tuple(self._rule(number, value) for number, value in enumerate(listed))
        return OAuthRules(self._url("issuer"), self._url("audience"), rules, name_claim, self._introspection())

    def _introspection(self) -> IntrospectionClient | None:
        value = self.value.get("introspection")
        if value is None:
            return None
        fields = value if isinstance(value, dict) else {}
        known = all(name in _INTROSPECTION_FIELDS and isinstance(part, str) and part for name, part in fields.items())
        if not known or "client_id" not in fields or len(fields) != len(_INTROSPECTION_FIELDS) - 1:
            text = "must be an object with client_id and one of client_secret and client_secret_file, all of them texts"
            self.fault("introspection", text=text)
            return None
        return IntrospectionClient(
            fields["client_id"], fields.get("client_secret", ""), fields.get("client_secret_file", "")
        )

    def _url(self, field: str) -> str:
        value = self.value.get(field)
        parts = urlsplit(value) if isinstance(value, str) else None
        is_safe = parts is not None and (parts.scheme == "https" or parts.hostname in ("127.0.0.1", "::1", "localhost"))
        if not is_safe or parts is None or not parts.hostname or parts.query or parts.fragment:
            self.fault(field, text="must be a URL with https:// and no query; http:// is for this machine only")
            return ""
        assert isinstance(value, str)
        return value

    def _rule(self, number: int, value: Any) -> ClaimRule:
        reader = EntryReader("rule", value, (SECTION, "rules", number))
        fields = reader.value
        for field in fields:
            if field not in _RULE_FIELDS:
                reader.fault(field, text=f"is not known; a rule has {', '.join(_RULE_FIELDS)}")
        claim, wanted = fields.get("claim", ""), fields.get("value", "")
        if not isinstance(claim, str) or not isinstance(wanted, str) or bool(claim) != bool(wanted):
            reader.fault("claim", text="and value are two texts, or both are left out in a rule for every token")
            claim = wanted = ""
        grant = reader.grant()
        self.faults += reader.faults
        return ClaimRule(claim, wanted, grant)
