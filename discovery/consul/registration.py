"""Keeps our own registration true: register, heartbeat, compare, register again, deregister.

Opened by `discovery.consul.session`. Theory: `wanted` is the desired registration, `sent` the one that the agent last
accepted. Each turn takes the first step that is due, none of the first three while the agent is leaving its cluster:
    wanted differs from sent                 -> register (at most once per 250 ms)
    the ACL token is another than then       -> register: the agent acts with the token of the registration
    the catalog lacks us, the agent does not -> register with changed Notes
    the comparison is due, or requested      -> read the agent's own list; register when it differs
    otherwise                                -> heartbeat; register at once when the agent lost us
After any of them, a maintenance that may have changed is asked for (`discovery.consul.maintenance`); beside each of
them, heartbeats go on (`discovery.consul.heartbeats`).
The one rule: a registration that the agent has lost is made again, and nothing is sent twice without need.
"""

import asyncio
import logging
import random
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from discovery import clock
from discovery.consul import blocking_query
from discovery.consul.client import ConsulClient
from discovery.consul.environment import POLL_S
from discovery.consul.heartbeats import Heartbeats, heartbeats
from discovery.consul.leaving import Leaving
from discovery.consul.maintenance import KeptMaintenance
from discovery.consul.rivals import Rival
from discovery.model import (
    FORGETFUL,
    AccessRefused,
    AgentSlow,
    CatalogUnavailable,
    MaintenanceRecord,
    RegistrarStatus,
    Registration,
    RegistrationLost,
)

log = logging.getLogger(__name__)

CHANGE_SPACING_S = 0.25  # Leading edge at once, then at most one registration per 250 ms while changes keep coming.
COMPARE_S = 30.0  # Repairs a registration that another process changed; heartbeats show a lost one sooner.
LEAVE_TIMEOUT_S = 2.0  # Of the drain's 30 s; a Consul that is away times us out by the TTL.
# A registration that is under way when the node leaves: an agent that takes it later would list a node that is gone.
ARRIVE_TIMEOUT_S = 5.0
_HEARTBEAT_JITTER = 0.1  # Nodes that were started together need not send heartbeats together.
_DEFAULT_WEIGHTS = {"Passing": 1, "Warning": 1}  # Consul's own; an embedded catalog of an earlier version shows none.


class ConsulRegistrar:
    """A `Registrar` over Consul's agent API. `keep` is the one writer of the state; `change` only sets `wanted`.

    Long because each turn of the loop acts on one state of the registration.
    """

    def __init__(
        self,
        client: ConsulClient,
        registration: Registration,
        *,
        compare_s: float = COMPARE_S,
        maintenance: MaintenanceRecord = FORGETFUL,
    ) -> None:
        self._client = client
        self._wanted = registration
        self._maintenance = KeptMaintenance(client, registration.service_id, check_id(registration), maintenance)
        self._sent: Registration | None = None
        self._compare_s, self._compare_at_s = compare_s, 0.0
        self._heartbeats: Heartbeats | None = None
        self._sent_at_s: float | None = None
        self._wake = asyncio.Event()
        self._sending: asyncio.Task[CatalogUnavailable | None] | None = None  # While one is under way.
        self._verify = self._repair = False
        self._token: str | None = None  # The one that the last registration was sent with ...
        self._held_token: str | None = None  # ... and that of the last one that the agent took, which it acts with.
        self._notes_total = 0
        self._failures = 0
        self._down_since_s: float | None = None
        self._registered = False
        self._presence_expected = False
        self._last_error = ""
        self._registrations_total = 0
        self._holder, self._holder_is_due, self._rival = "", False, Rival(compare_s)

    def __repr__(self) -> str:
        return f"<ConsulRegistrar {self.service_id} registered={self._registered} error={self._last_error!r}>"

    @property
    def service_id(self) -> str:
        """The service ID that is kept registered."""
        return self._wanted.service_id

    @property
    def status(self) -> RegistrarStatus:
        """A frozen view of the present state."""
        return RegistrarStatus(
            registered=self._registered,
            presence_expected=self._presence_expected,
            last_error=self._last_error,
            registrations_total=self._registrations_total,
            holder=self._holder,
            rival=self._rival.place,
            resumed=self._maintenance.resumed,
            unkept=self._maintenance.fault,
        )

    def change(self, registration: Registration) -> None:
        """Register other contents under the same service ID, soon."""
        assert registration.service_id == self.service_id, "a registrar keeps one service ID"
        self._wanted = registration
        if registration != self._sent:
            self._wake.set()

    def verify(self) -> None:
        """Compare with the agent's own list at once, also in the middle of a wait."""
        self._verify = True
        self._wake.set()

    def repair(self) -> None:
        """Register again though the agent's list has us: the catalog has not."""
        self._repair = True
        self._wake.set()

    def maintained(self, reason: str) -> None:
        """Take what the catalog says of our entry's maintenance (`Registrar`)."""
        if self._maintenance.shown(reason):
            self._wake.set()

    async def keep(self) -> None:
        """Keep the registration true until cancelled (`Registrar`)."""
        ours = check_id(self._wanted), self._wanted.heartbeat_s
        async with heartbeats(self._client, *ours, self._has_check, self.verify) as self._heartbeats:
            while True:
                began_s = clock.now_s()
                try:
                    await self._turn()
                except AccessRefused as exc:
                    delay_s = self._refused(exc)
                except CatalogUnavailable as exc:
                    delay_s = self._failed(exc)
                except Exception as exc:
                    log.exception("registering failed in an unforeseen way")
                    delay_s = self._failed(exc)
                else:
                    self._recovered()
                    delay_s = self._until_next_turn_s(began_s)
                await self._wait(delay_s)

    async def leave(self) -> None:
        """Deregister once, within 2 s, or 4 s where our token is new; failure is logged, not raised."""
        self._presence_expected = False
        if self._sent_at_s is None:
            return  # Nothing was ever sent; a registration that was cut short may have arrived.
        await self._let_arrive()
        names = self._wanted.service_name, self.service_id, check_id(self._wanted)
        leaving = Leaving(self._client, *names, last_look=self._maintenance.take)
        try:
            if self._held_token != self._client.token:
                with suppress(AgentSlow, TimeoutError):  # It may have arrived.
                    async with asyncio.timeout(LEAVE_TIMEOUT_S):
                        await self._send(self._wanted)  # With the old token the agent could no longer deregister us.
            async with asyncio.timeout(LEAVE_TIMEOUT_S):
                await leaving.run()
        except (CatalogUnavailable, TimeoutError) as exc:
            level, self._last_error = leaving.why_still_there(exc)
            log.log(level, self._last_error, extra={"service_id": self.service_id, "reason": str(exc) or "time-out"})
        else:
            log.info("deregistered", extra={"service_id": self.service_id})
            if leaving.holders:
                self._last_error = leaving.ghosts()
                log.warning(self._last_error, extra={"service_id": self.service_id})
        self._sent, self._registered = None, False

    async def _turn(self) -> None:
        """Take the one step that is due."""
        verify, self._verify = self._verify, False
        repair, self._repair = self._repair, False
        if self._sent is not None and self._held_token != self._client.token:
            await self._refuse_while_leaving()
            self._say_why_anew()
            await self._register(changed_notes=True)
        elif self._sent != self._wanted:
            await self._refuse_while_leaving()
            await self._register()
        elif repair:
            try:
                await self._repair_catalog()
            except CatalogUnavailable:
                self._repair = True
                raise
        elif self._wanted.http_check_url is not None or verify or clock.now_s() >= self._compare_at_s:
            await self._compare()
        else:
            await self._heartbeat()
        if self._holder_is_due:
            await self._find_holder()
        if self._maintenance.is_to_be_asked and await self._maintenance.ask():
            await self._refuse_while_leaving()
            await self._register(changed_notes=True)

    async def _refuse_while_leaving(self) -> None:
        """Raises `CatalogUnavailable` where a registration would outlive its agent, passing for ever."""
        if self._sent is not None and self._holder and await self._client.is_leaving(self._holder):
            raise CatalogUnavailable("Consul's agent is leaving its cluster; what has changed waits until it is back")

    async def _send(self, wanted: Registration, also: Mapping[str, Any] | None = None) -> None:
        if self._sent_at_s is not None and self._token != self._client.token:
            self._notes_total += 1  # The agent's lists name no tokens; the Notes show which one's arrived.
        self._sent_at_s = clock.now_s()
        self._token = self._client.token
        payload = register_payload(wanted, self._notes_total, also)
        # Its end is waited for by `leave`, whatever cancels this.
        self._sending = asyncio.get_running_loop().create_task(self._outcome(payload), name="registration under way")
        try:
            if (failure := await asyncio.shield(self._sending)) is not None:
                raise failure
        except AgentSlow:
            if not await self._has_arrived(wanted):
                raise
        self._held_token = self._token
        self._registrations_total += 1
        self._sent = wanted

    async def _outcome(self, payload: dict[str, Any]) -> CatalogUnavailable | None:
        try:
            await self._client.register(payload)
        except CatalogUnavailable as exc:
            return exc
        return None

    async def _let_arrive(self) -> None:
        """Wait for a registration under way: taken after our deregistration, it would list a node that is gone."""
        sending, self._sending = self._sending, None
        if sending is None or sending.done():
            return
        await asyncio.wait([sending], timeout=ARRIVE_TIMEOUT_S)
        if not sending.done():
            sending.cancel()
        elif not sending.cancelled() and sending.exception() is None and sending.result() is None:
            self._held_token = self._token

    async def _has_arrived(self, wanted: Registration) -> bool:
        """Look up whether the agent took a registration whose answer timed out.

        To send it again and again would keep a slow agent slow.
        """
        if not agrees((await self._client.agent_services()).get(wanted.service_id), wanted):
            return False
        check = await self._client.held_check(check_id(wanted))
        return check is None or (check.get("Notes") or "") == notes(self._notes_total)

    async def _register(self, *, changed_notes: bool = False) -> None:
        """Register, and be passing at once. With `changed_notes` the agent sends it on whatever it believes."""
        wanted = self._wanted
        self._notes_total += changed_notes
        also = await self._maintenance.check_to_register(renewed=changed_notes or self._sent is None)
        await self._send(wanted, also)
        self._maintenance.registered()
        self._compare_at_s = clock.now_s() + self._compare_s
        if not self._registered:
            log.info("registered", extra={"service_id": wanted.service_id, "service": wanted.service_name})
        self._registered = self._presence_expected = True
        if wanted.http_check_url is None:
            # The agent ignores `Status` for a check that it holds already: one that had run out stays critical.
            with suppress(RegistrationLost):  # The next heartbeat finds the same, and registers again.
                await self._pass_check()
        self._holder_is_due |= changed_notes or not self._holder

    async def _find_holder(self) -> None:
        self._holder_is_due = False
        with suppress(CatalogUnavailable):  # Then any entry with our ID counts as ours.
            self._holder = str((await self._client.held_check(check_id(self._wanted)) or {}).get("Node") or "")

    async def _heartbeat(self) -> None:
        try:
            await self._pass_check()
        except RegistrationLost as exc:
            await self._register_again(str(exc))

    def _has_check(self) -> bool:
        """Whether the agent has a check of ours that runs out, as far as we know."""
        return self._registered and self._sent is not None and self._wanted.http_check_url is None

    async def _pass_check(self) -> None:
        assert self._heartbeats is not None, "heartbeats are sent while the registration is kept"
        try:
            await self._heartbeats.beat()
        except AgentSlow:
            check = await self._client.held_check(check_id(self._wanted))
            if check == {}:
                raise RegistrationLost("the agent lacks our check") from None
            if check is None or check.get("Status") != "passing":
                raise

    async def _compare(self) -> None:
        """Compare with the agent's own list, which also shows a second process under our ID."""
        held = (await self._client.agent_services()).get(self.service_id)
        self._compare_at_s = clock.now_s() + self._compare_s
        assert self._sent is not None
        differs = held is not None and not agrees(held, self._sent)
        if self._rival.compared(held if differs else None, self._sent.meta, clock.now_s()):
            extra = {"service_id": self.service_id, "rival": self._rival.place}
            log.error("another process registers under our service ID", extra=extra)
        if held is None:
            await self._register_again("the agent's list lacks us")
        elif differs:
            await self._register_again("the agent's list differs from what we sent")
        elif self._wanted.http_check_url is None:
            await self._heartbeat()
        self._maintenance.compared()

    async def _repair_catalog(self) -> None:
        """Make the agent send us to the catalog once more; its own list says that we are there."""
        if self._client.is_embedded:
            await self._compare()  # Its list is the catalog.
        elif await self._client.is_member(check_id(self._wanted)):
            log.warning("the catalog has lost us, registering again", extra={"service_id": self.service_id})
            await self._register(changed_notes=True)
        else:
            # A registration now would outlive the agent, passing and without an agent that could take it back.
            log.info("the catalog lacks us: Consul's agent is leaving, or our ACL token may not see its node")
            await self._compare()

    def _say_why_anew(self) -> None:
        if not self._client.is_embedded:
            log.info("the ACL token was replaced, registering with the new one")
        elif self._client.token is not None:  # Each run of an embedded catalog has its own; none: it is awaited.
            log.info("the embedded catalog has started anew, registering again")

    async def _register_again(self, reason: str) -> None:
        log.warning("registration lost, registering again", extra={"reason": reason})
        self._sent, self._registered, self._holder = None, False, ""
        await self._register()

    def _until_next_turn_s(self, began_s: float) -> float:
        """Counted from the beginning of the last turn: the agent had its heartbeat then, whenever it answered."""
        heartbeat_s = self._wanted.heartbeat_s * (1.0 - _HEARTBEAT_JITTER * random.random())  # noqa: S311 - jitter
        return max(0.0, min(began_s + heartbeat_s, self._compare_at_s) - clock.now_s())

    def _refused(self, exc: AccessRefused) -> float:
        """A refusal ends slowly or with a new token; until then no watch may expect us in the catalog."""
        self._registered = self._presence_expected = False
        self._sent = None
        self._failed(exc)
        return blocking_query.ASK_AGAIN.last_s * random.random()  # noqa: S311 - jitter

    def _failed(self, exc: Exception) -> float:
        """Note a failure; return the delay before the next try, never longer than a heartbeat."""
        self._failures += 1
        if self._down_since_s is None:
            self._down_since_s = clock.now_s()
        level = logging.WARNING if self._failures == 1 else logging.DEBUG
        log.log(level, "the registration cannot be kept", extra={"reason": str(exc), "attempt": self._failures})
        self._last_error = str(exc)
        backoff = replace(blocking_query.ASK_AGAIN, last_s=self._wanted.heartbeat_s)
        return backoff.jittered_s(self._failures, random.random())  # noqa: S311 - jitter

    def _recovered(self) -> None:
        if self._down_since_s is not None:
            downtime_s = round(clock.now_s() - self._down_since_s, 3)
            log.info("the registration is kept again", extra={"downtime_s": downtime_s})
        self._failures, self._down_since_s, self._last_error = 0, None, ""

    async def _wait(self, delay_s: float) -> None:
        """Wait for the delay, a change or a new token; then keep the spacing to the last registration."""
        used = self._token
        while self._client.token_rotates and delay_s > POLL_S and not self._wake.is_set():
            if self._client.token != used:
                delay_s = 0.0
                break
            await self._doze(POLL_S)
            delay_s -= POLL_S
        await self._doze(delay_s)
        self._wake.clear()
        if self._sent_at_s is not None and self._sent != self._wanted:
            await asyncio.sleep(max(0.0, self._sent_at_s + CHANGE_SPACING_S - clock.now_s()))

    async def _doze(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()


def check_id(registration: Registration) -> str:
    """The ID of the one check that we register; Consul's own default for it."""
    return f"service:{registration.service_id}"


def notes(notes_total: int) -> str:
    """The Notes of our check; empty at first."""
    return f"sent again, {notes_total}" if notes_total else ""


def register_payload(
    registration: Registration, notes_total: int = 0, also: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Consul's JSON for a registration. The check starts as passing, or every start would flap.

    `notes_total`: another number makes other Notes. Consul's agent passes on only what differs from what it believes
    the catalog to hold; a check with other Notes always does, and takes its service along. `also`: one more check.
    """
    check: dict[str, Any] = {
        "CheckID": check_id(registration),
        "Name": "mesh node",
        "Status": "passing",
        "DeregisterCriticalServiceAfter": f"{registration.deregister_after_s:g}s",
    }
    if notes_total:
        check["Notes"] = notes(notes_total)
    if registration.http_check_url is None:
        check["TTL"] = f"{registration.ttl_s:g}s"
    else:
        check |= {"HTTP": registration.http_check_url, "Method": "GET", "Timeout": "2s"}
        check["Interval"] = f"{registration.heartbeat_s:g}s"
        if registration.http_check_url.startswith("https:"):
            # The agent asks whether we answer; who we are, our peers find out for themselves.
            check["TLSSkipVerify"] = True
    return {
        "ID": registration.service_id,
        "Name": registration.service_name,
        "Address": registration.address,
        "Port": registration.port,
        "Meta": dict(registration.meta),
        "Tags": list(registration.tags),
        # The default is left out: an embedded catalog of an earlier version does not know weights.
        **({} if registration.weight == 1 else {"Weights": _weights(registration)}),
        "Check": check,
        **({} if also is None else {"Checks": [also]}),
    }


def agrees(held: Any, sent: Registration) -> bool:
    """Whether an entry of the agent's own list equals what we sent."""
    if not isinstance(held, dict):
        return False
    return (
        held.get("Service") == sent.service_name
        and held.get("Port") == sent.port
        and (held.get("Address") or "") == sent.address
        and (held.get("Meta") or {}) == dict(sent.meta)
        and sorted(held.get("Tags") or ()) == sorted(sent.tags)
        and (held.get("Weights") or _DEFAULT_WEIGHTS) == _weights(sent)
    )


def _weights(registration: Registration) -> dict[str, int]:
    return _DEFAULT_WEIGHTS | {"Passing": registration.weight}
