"""The tokens of a running node: read again when a file changes, and ended when they are revoked or expire.

Built by the wiring. The one rule: what a token opened ends with it (streams, sessions); calls under way are finished,
for their clients could not know whether they were executed.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Container, Mapping
from functools import partial
from typing import Final

from agent.audit.trail import Trail
from agent.authority.grant import Grant, NamedToken
from agent.config.load import Settings
from agent.config.oauth_rules import read_whole_file
from agent.errors import ConfigRefused
from agent.model import Json
from agent.rest.oauth import OAuthVerifier
from agent.rest.tokens import TokenTable
from discovery.patient_look import look_apart

log = logging.getLogger(__name__)

# How late the end of a token may be noticed for what is open already; a new request is refused at once.
LOOK_EVERY_S: Final = 1.0


class Access:
    """See the module. Sole writer of its table. `ended`: ends what callers opened whose binding is not given."""

    def __init__(self, settings: Settings, audit: Trail, ended: Callable[[Container[str]], None]) -> None:
        self._path = settings.tokens_file
        self._short = settings.tokens
        self._named = settings.named_tokens
        self._audit = audit
        self._ended = ended
        self._fault = ""
        self._changed = asyncio.Event()
        self._expired: frozenset[str] = frozenset()  # Realms.
        closed = self._path is not None
        self.table: Final = TokenTable(self._short, self._named, closed=closed, recorder=audit)
        self.oauth: Final = OAuthVerifier(settings.oauth_rules, audit)
        self._open = frozenset[str]()  # Bindings of access tokens.

    def __repr__(self) -> str:
        return f"<Access {self.table!r}{' with a fault' if self._fault else ''}>"

    def status(self) -> Json:
        """What status shows of the tokens: how many have names, and why the file is not used as it is now."""
        now_s = time.time()
        expired = sum(one.grant.has_ended(now_s) for one in self._named)
        return {"named": len(self._named), "expired": expired, "fault": self._fault or None}

    @property
    def valid(self) -> tuple[tuple[str, ...], tuple[NamedToken, ...]]:
        """The tokens of the short form, and those with names."""
        return self._short, self._named

    def replace_short(self, tokens: tuple[str, ...]) -> None:
        """Make these the tokens for all scopes. Raises ValueError."""
        self.table.replace(tokens, self._named)
        if tokens != self._short:
            self._short = tokens
            self._audit.note("tokens.read", "node", short_form=len(tokens))

    def file_changed(self) -> None:
        """The tokens file has changed: it is read soon, in a thread, for thousands of tokens take a while."""
        self._changed.set()

    async def keep(self) -> None:
        """Read the file again when it has changed, and end what expired tokens opened, until cancelled.

        Each by itself: neither a file that hangs nor an issuer that is slow delays the end of what is open.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_file(), name="tokens file")
            tasks.create_task(self._ask_issuers(), name="tokens of issuers")
            while True:
                await asyncio.sleep(LOOK_EVERY_S)
                self._look_for_ends()

    async def _follow_file(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._reread()

    async def _ask_issuers(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self.oauth.look_again()

    async def _reread(self) -> None:
        """With a fault, the tokens stay as they were, and status says so."""
        assert self._path is not None
        try:
            named, rules = await look_apart(partial(read_whole_file, self._path, self._short))
        except ConfigRefused as exc:
            if self._fault != str(exc):
                self._audit.note("tokens.refused", "node", why=str(exc))
            self._fault = str(exc)
            log.warning("tokens file refused, the tokens stay as they are", extra={"reason": self._fault})
            return
        self._fault = ""
        before, self._named = _by_name(self._named), named
        self.table.replace(self._short, named)
        self.oauth.replace(rules)
        after = _by_name(named)
        changed = sorted(name for name in before.keys() & after.keys() if before[name] != after[name])
        record = {"added": sorted(after.keys() - before.keys()), "removed": sorted(before.keys() - after.keys())}
        self._audit.note("tokens.read", "node", **record, changed=changed)
        log.info("tokens file read again", extra={"names": len(named), "changed": sum(map(len, record.values()))})
        self._end_revoked()

    def _look_for_ends(self) -> None:
        now_s = time.time()
        ended = {one.grant.realm: one.grant.name for one in self._named if one.grant.has_ended(now_s)}
        for realm in ended.keys() - self._expired:
            self._audit.note("token.expired", ended[realm])
        before, self._open = self._open, self.oauth.bindings()
        if ended.keys() - self._expired or before - self._open:
            self._end_revoked()
        self._expired = frozenset(ended)

    def _end_revoked(self) -> None:
        now_s = time.time()
        named = frozenset(one.grant.binding for one in self._named if not one.grant.has_ended(now_s))
        self._ended(named | self.oauth.bindings())


def _by_name(named: tuple[NamedToken, ...]) -> Mapping[str, tuple[Grant, tuple[bytes, ...]]]:
    return {one.grant.name: (one.grant, one.digests) for one in named}
