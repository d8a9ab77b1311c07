"""The section `oauth` of the tokens file: which issuers' access tokens are taken, and what their claims allow.

Called where the tokens file is read. The one rule: as there, a section with any fault is not used at all, and every
fault is named with path, line and field.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from agent.authority.grant import NamedToken
from agent.authority.oauth import ClaimRule, IntrospectionClient, OAuthRules
from agent.config.endpoint import url_fault
from agent.config.relaxed_json import JsonPath, parse_relaxed
from agent.config.servers_file import read_text
from agent.config.tokens_file import EntryReader, read_tokens_file, sentences
from agent.errors import ConfigRefused

SECTION: Final = "oauth"
RULES_MAX: Final = 500
# More trust than that is nothing that a person has looked at.
ISSUERS_MAX: Final = 16
_FIELDS: Final = ("issuer", "audience", "name_claim", "rules", "introspection", "comment")
_INTROSPECTION_FIELDS: Final = ("client_id", "client_secret", "client_secret_file")
_RULE_FIELDS: Final = ("claim", "value", "scopes", "tools", "read_only", "calls_per_s", "concurrent_calls", "comment")


def read_whole_file(
    path: Path, for_all_scopes: Sequence[str] = ()
) -> tuple[tuple[NamedToken, ...], tuple[OAuthRules, ...]]:
    """The tokens of the file, as `read_tokens_file`, and this section. Raises `ConfigRefused`."""
    return read_tokens_file(path, for_all_scopes), read_oauth_rules(path)


def read_oauth_rules(path: Path) -> tuple[OAuthRules, ...]:
    """The issuers of the file, none without the section. Raises `ConfigRefused` with all of its faults."""
    return check_oauth_rules(read_text(path, called="tokens file"), path)


def check_oauth_rules(text: str, path: Path) -> tuple[OAuthRules, ...]:
    """The section of a file's text, an object or an array of one for each issuer; see `read_oauth_rules`."""
    root, plain = parse_relaxed(text, path)
    section: Any = root.get(SECTION) if isinstance(root, dict) else None
    if section is None:
        return ()
    several = isinstance(section, list)
    if several and not 0 < len(section) <= ISSUERS_MAX:
        fault = f"must be an object, or an array of 1 to {ISSUERS_MAX}, one for each issuer"
        raise ConfigRefused("; ".join(sentences(plain, path, [((SECTION,), fault)])))
    readers = [_SectionReader(value, (SECTION, n)) for n, value in enumerate(section)] if several else []
    readers = readers or [_SectionReader(section, (SECTION,))]
    found = tuple(reader.rules() for reader in readers)
    faults = [fault for reader in readers for fault in reader.faults] or list(_faults_between(found))
    if faults:
        raise ConfigRefused("; ".join(sentences(plain, path, faults)))
    return found


def _faults_between(found: Sequence[OAuthRules]) -> Iterator[tuple[JsonPath, str]]:
    """What is wrong with issuers beside each other that are right one by one."""
    asked = [number for number, rules in enumerate(found) if rules.introspection is not None]
    for number in asked[1:]:
        text = "may stand at one issuer alone: a token that is no JWT does not say whose it is"
        yield (SECTION, number, "introspection"), text
    issuers = [rules.issuer for rules in found]
    for number, rules in enumerate(found):
        if rules.issuer in issuers[:number]:
            yield (SECTION, number, "issuer"), "stands here for the second time; its rules belong into one list"
        if rules.audience != found[0].audience:
            text = "must be the same for all issuers: it is the one URL by which clients know the mesh"
            yield (SECTION, number, "audience"), text


class _SectionReader:
    def __init__(self, value: Any, at: JsonPath) -> None:
        self.at = at
        self.faults: list[tuple[JsonPath, str]] = []
        self.value: dict[str, Any] = value if isinstance(value, dict) else {}
        if not isinstance(value, dict):
            self.fault(text='must be an object like {"issuer": "https://id.example", "audience": "...", "rules": []}')

    def fault(self, *path: str | int, text: str) -> None:
        self.faults.append(((*self.at, *path), text))

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
        parts = urlsplit(value) if isinstance(value, str) and not url_fault(value) else None
        is_safe = parts is not None and (parts.scheme == "https" or parts.hostname in ("127.0.0.1", "::1", "localhost"))
        if not is_safe or parts is None or parts.query:
            self.fault(field, text="must be a URL with https:// and no query; http:// is for this machine only")
            return ""
        assert isinstance(value, str)
        return value

    def _rule(self, number: int, value: Any) -> ClaimRule:
        reader = EntryReader("rule", value, (*self.at, "rules", number))
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
