"""Who may do what: polkit is asked about the caller of every method of ours.

The caller is named to polkit by its unique name on the bus, never by its process id, which can be reused by another
program meanwhile (CVE-2025-67859). Anything but a clear yes is a no.
"""

from __future__ import annotations

import itertools

import structlog
from dbus_next.signature import Variant

from kvmigd.bus.connection import BusUnavailable, CallFailed, Connection
from kvmigd.bus.publisher import Call
from kvmigd.errors import NotAuthorised

log = structlog.get_logger(__name__)

POLKIT = "org.freedesktop.PolicyKit1"
_PATH = "/org/freedesktop/PolicyKit1/Authority"
_INTERFACE = POLKIT + ".Authority"

_ALLOW_USER_INTERACTION = 1

TIMEOUT = 10.0
"""Seconds for an answer that needs no person."""

INTERACTIVE_TIMEOUT = 120.0
"""Seconds for a person to type a password."""


CALLERS_KNOWN = 256
"""Callers whose user is remembered; the oldest is forgotten first."""


class _Unanswered(Exception):
    """Polkit or the bus gave no usable answer; the text says why."""


class Authority:
    """Asks polkit. Callers whose uid is in `trusted_uids` are not asked about: polkit may be gone at shutdown."""

    def __init__(
        self,
        connection: Connection,
        *,
        trusted_uids: frozenset[int] = frozenset({0}),
        timeout: float = TIMEOUT,
        interactive_timeout: float = INTERACTIVE_TIMEOUT,
    ) -> None:
        self._connection = connection
        self._trusted_uids = trusted_uids
        self._timeout = timeout
        self._interactive_timeout = interactive_timeout
        self._uids: dict[str, int] = {}
        self._questions = itertools.count(1)

    async def require(self, action: str, call: Call, **details: str) -> None:
        """Raise NotAuthorised unless the caller may do `action`. `details` are shown to who is asked, and to rules."""
        try:
            if await self._is_trusted(call.sender):
                return
            allowed, challenge = await self._ask(action, call, details)
            # Polkit's answer can be about a caller that has left while a person was asked (CVE-2021-3560).
            if allowed and not await self._is_here(call.sender):
                raise _Unanswered("the caller has left the bus")
        except _Unanswered as error:
            log.warning("caller not authorised", action=action, sender=call.sender, reason=str(error))
            raise NotAuthorised(f"Not authorised for {action}: {error}.") from error
        if allowed:
            return
        log.info("caller not authorised", action=action, sender=call.sender, challenge=challenge)
        if challenge and call.interactive:
            raise NotAuthorised(
                f"Not authorised for {action}: authentication is required, and no authentication agent answered.",
                hint="Run it as root, or where an agent is running (pkttyagent(1)).",
            )
        if challenge:
            raise NotAuthorised(
                f"Not authorised for {action}: interactive authentication is required, and the call did not allow it.",
                hint="Run it as root, or allow interactive authorisation in the call.",
            )
        raise NotAuthorised(f"Not authorised for {action}: polkit does not allow it.")

    async def may(self, action: str, call: Call) -> str:
        """Would `require` pass? yes, no, or challenge: after authentication. Nobody is bothered by asking."""
        quiet = Call(sender=call.sender, path=call.path, interface=call.interface, member=call.member)
        try:
            if await self._is_trusted(call.sender):
                return "yes"
            allowed, challenge = await self._ask(action, quiet, {})
        except _Unanswered as error:
            log.info("polkit did not answer", action=action, sender=call.sender, reason=str(error))
            return "no"
        return "yes" if allowed else "challenge" if challenge else "no"

    async def _is_trusted(self, sender: str) -> bool:
        """The bus never gives a unique name twice, and a connection's user never changes: it is asked once."""
        if sender in self._uids:
            return self._uids[sender] in self._trusted_uids
        try:
            reply = await self._connection.call_bus("GetConnectionUnixUser", "s", sender)
        except (CallFailed, BusUnavailable, TimeoutError) as error:
            raise _Unanswered("the bus does not say who the caller is") from error
        uid = reply.body[0] if reply.body else None
        # A bool or a string would compare or convert to something (CVE-2026-78422).
        if type(uid) is not int:
            return False
        if len(self._uids) >= CALLERS_KNOWN:
            del self._uids[next(iter(self._uids))]
        self._uids[sender] = uid
        return uid in self._trusted_uids

    async def _is_here(self, sender: str) -> bool:
        try:
            reply = await self._connection.call_bus("NameHasOwner", "s", sender)
        except (CallFailed, BusUnavailable, TimeoutError):
            return False
        return reply.body == [True]

    async def _ask(self, action: str, call: Call, details: dict[str, str]) -> tuple[bool, bool]:
        """Polkit's answer: allowed, and if not whether it would be after authentication."""
        question = f"kvmigd-{next(self._questions)}" if call.interactive else ""
        timeout = self._interactive_timeout if call.interactive else self._timeout
        subject = ["system-bus-name", {"name": Variant("s", call.sender)}]
        flags = _ALLOW_USER_INTERACTION if call.interactive else 0
        try:
            reply = await self._connection.call(
                POLKIT,
                _PATH,
                _INTERFACE,
                "CheckAuthorization",
                "(sa{sv})sa{ss}us",
                [subject, action, details, flags, question],
                timeout=timeout,
            )
        except TimeoutError as error:
            await self._withdraw(question)
            raise _Unanswered(f"polkit did not answer within {timeout:g} s") from error
        except CallFailed as error:
            raise _Unanswered(f"polkit answered with an error: {error}") from error
        except BusUnavailable as error:
            raise _Unanswered("the connection to the bus was lost") from error
        if reply.signature != "(bba{ss})":
            raise _Unanswered(f"polkit answered with signature {reply.signature!r}")
        allowed, challenge, _ = reply.body[0]
        return allowed is True, challenge is True

    async def _withdraw(self, question: str) -> None:
        """Take the dialog off the person's screen."""
        if not question:
            return
        try:
            await self._connection.call(
                POLKIT, _PATH, _INTERFACE, "CancelCheckAuthorization", "s", [question], timeout=self._timeout
            )
        except (CallFailed, BusUnavailable, TimeoutError) as error:
            log.debug("question not withdrawn", reason=str(error))
