"""Who may do what: polkit is asked about every method, and anything but a clear yes is a no."""

from __future__ import annotations

import asyncio
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dbus_next.constants import MessageFlag
from dbus_next.signature import Variant

from kvmigd.bus import interface as xml
from kvmigd.bus import path
from kvmigd.bus.connection import CallFailed
from tests.bus.conftest import Caller, World, world

pytestmark = pytest.mark.usefixtures("bus")

DENIED = "org.kvmigd1.Error.NotAuthorised"
POLICY = Path(__file__).parents[2] / "data/polkit/org.kvmigd1.policy"
INTERACTIVE = int(MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION)

CALLS: dict[str, tuple[Any, ...]] = {
    "Check": ("ssa{sv}", "web1", "hostb", {}),
    "CheckAll": ("ssa{sv}", "web1", "hostb", {}),
    "Explain": ("sa{sv}", "guest.state", {}),
    "Migrate": ("ssa{sv}", "web1", "hostb", {}),
    "Evacuate": ("a{sv}", {}),
    "SetMaintenance": ("ba{sv}", True, {}),
    "Reload": ("",),
    "Cancel": ("a{sv}", {}),
    "Wait": ("",),
    "Describe": ("sa{sv}", "", {}),
}
"""A call of every method that changes or tells something."""


SAME = {"CheckAll": "Check", "Explain": "Describe"}
"""Methods that tell nothing but what another one does share its action."""


def action_of(method: str) -> str:
    """The polkit action of a method."""
    method = SAME.get(method, method)
    return "org.kvmigd1." + re.sub(r"(?<=[a-z])(?=[A-Z])", "-", method).lower()


def test_every_method_has_its_own_action_and_every_action_its_method() -> None:
    methods = {
        method
        for name in (path.MANAGER, path.JOB, path.MIGRATION, path.EVACUATION, path.PEER, path.HOST, path.GUEST)
        for method in xml.load(name).methods
        if not re.match(r"Can[A-Z]", method)
    }
    assert methods == CALLS.keys()
    actions = {action.attrib["id"]: action for action in ET.parse(POLICY).iter("action")}
    assert actions.keys() == {action_of(method) for method in methods}
    for name, action in actions.items():
        assert action.findtext("message", "").startswith("Authentication is required to "), name
        active, anyone = action.findtext("defaults/allow_active"), action.findtext("defaults/allow_any")
        harmless = ("org.kvmigd1.check", "org.kvmigd1.wait", "org.kvmigd1.describe")
        assert active == ("yes" if name in harmless else "auth_admin_keep"), name
        assert anyone == ("yes" if name == "org.kvmigd1.describe" else "auth_admin_keep"), name


async def attempt(here: World, method: str, *, flags: int = 0) -> list[Any]:
    """Call any method; those of jobs on job 1."""
    interface = next(name for name in (path.JOB, path.HOST, path.MANAGER) if method in xml.load(name).methods)
    place = path.job_path(1) if interface == path.JOB else path.ROOT
    return await here.caller.call(place, interface, method, *CALLS[method], flags=flags)


@pytest.mark.parametrize("method", CALLS)
async def test_every_method_asks_for_its_own_action_and_does_nothing_without(method: str) -> None:
    async with world(root_is_trusted=False) as here:
        await here.caller.migrate()
        before = list(here.operations.calls)
        here.polkit.questions.clear()
        here.polkit.answer = "no"
        with pytest.raises(CallFailed) as caught:
            await attempt(here, method)
        assert caught.value.name == DENIED
        assert action_of(method) in caught.value.text
        ((subject, action, details, flags, _cancellation),) = here.polkit.questions
        assert subject == ["system-bus-name", {"name": Variant("s", here.caller.connection.name)}]
        assert (action, flags) == (action_of(method), 0)
        if method in ("Check", "CheckAll", "Migrate"):
            assert details == {"guest": "web1", "destination": "hostb"}
        if method in ("Cancel", "Wait"):
            assert details == {"job": "1", "guest": "web1", "destination": "hostb"}
        assert here.operations.calls == before
        assert not next(iter(here.operations.jobs)).cancel_requested


async def test_yes_lets_the_call_through() -> None:
    async with world(root_is_trusted=False) as here:
        for method in CALLS:
            if method == "Wait":
                here.operations.go.set()
            await attempt(here, method)
        assert [question[1] for question in here.polkit.questions] == [action_of(method) for method in CALLS]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("challenge", "interactive authentication is required"),
        ("silent", "did not answer within"),
        ("error", "polkit answered with an error"),
        ("nonsense", "polkit answered with signature 's'"),
    ],
)
async def test_everything_but_yes_is_no(answer: str, words: str) -> None:
    # only the one who is silent is not waited for
    async with world(root_is_trusted=False, timeout=0.05 if answer == "silent" else 30.0) as here:
        here.polkit.answer = answer
        with pytest.raises(CallFailed, match=words) as caught:
            await here.caller.migrate()
        assert caught.value.name == DENIED
        assert "org.kvmigd1.migrate" in caught.value.text
        assert here.operations.calls == []


async def test_no_polkit_is_no() -> None:
    async with world(root_is_trusted=False) as here:
        await here.polkit._connection.close()
        with pytest.raises(CallFailed, match=r"polkit answered with an error: .*ServiceUnknown") as caught:
            await here.caller.migrate()
        assert caught.value.name == DENIED
        assert await here.caller.manager("CanMigrate") == "no"


async def test_person_is_asked_only_if_the_caller_allows_it() -> None:
    async with world(root_is_trusted=False) as here:
        here.polkit.answer = "challenge"
        with pytest.raises(CallFailed, match="no authentication agent answered"):
            await here.caller.manager("Reload", flags=INTERACTIVE)
        assert here.polkit.questions[0][3] == 1


async def test_a_person_who_does_not_answer_is_asked_no_longer() -> None:
    async with world(root_is_trusted=False, timeout=0.05) as here:
        here.polkit.answer = "silent"
        with pytest.raises(CallFailed, match="did not answer within"):
            await here.caller.manager("Reload", flags=INTERACTIVE)
        # The dialog must not stay on the screen for a call that has failed.
        await until(lambda: bool(here.polkit.withdrawn))
        assert here.polkit.withdrawn == [here.polkit.questions[0][4]]
        assert here.polkit.withdrawn != [""]


async def until(met: Callable[[], bool]) -> None:
    """Wait until something holds."""
    while not met():
        await asyncio.sleep(0.01)


async def test_caller_that_leaves_while_polkit_is_asked_gets_nothing_done() -> None:
    async with world(root_is_trusted=False) as here:
        leaving = await Caller.start()
        here.polkit.answer = "silent"
        call = asyncio.create_task(leaving.migrate())
        await here.polkit.asked.wait()
        question = here.polkit.last
        await leaving.connection.close()
        await asyncio.gather(call, return_exceptions=True)
        here.polkit.answer = "yes"
        here.polkit.reply(question)
        for _ in range(5):  # its answer is dealt with before those of later calls
            await here.caller.manager("CanReload")
        assert here.operations.calls == []


async def test_arguments_are_those_that_polkit_was_asked_about() -> None:
    async with world(root_is_trusted=False) as here:
        here.polkit.answer = "silent"
        options = {"bandwidth": Variant("t", 1 << 20)}
        call = asyncio.create_task(here.caller.migrate(**options))
        await here.polkit.asked.wait()
        here.polkit.answer = "yes"
        here.polkit.reply(here.polkit.last)
        await call
        ((_, guest, destination, frozen),) = here.operations.calls
        assert (guest, destination, frozen.bandwidth) == ("web1", "hostb", 1 << 20)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("answer", "told"), [("yes", "yes"), ("no", "no"), ("challenge", "challenge")])
async def test_can_tells_what_would_be_answered_and_bothers_nobody(answer: str, told: str) -> None:
    async with world(root_is_trusted=False) as here:
        here.polkit.answer = answer
        for method in ("Check", "Migrate", "Evacuate", "SetMaintenance", "Reload"):
            assert await here.caller.manager("Can" + method, flags=INTERACTIVE) == told
        assert [question[1] for question in here.polkit.questions] == [
            action_of(method) for method in ("Check", "Migrate", "Evacuate", "SetMaintenance", "Reload")
        ]
        assert {question[3] for question in here.polkit.questions} == {0}


async def test_the_bus_is_asked_once_who_a_caller_is() -> None:
    async with world() as here:
        asked = []
        call_bus = here.face._connection.call_bus  # type: ignore[union-attr]

        async def counting(member: str, signature: str, *body: Any) -> Any:
            asked.append(member)
            return await call_bus(member, signature, *body)

        here.face._connection.call_bus = counting  # type: ignore[union-attr,method-assign]
        for _ in range(3):
            await here.caller.manager("Reload")
        assert asked == ["GetConnectionUnixUser"]
        others = [await Caller.start() for _ in range(3)]
        for other in others:
            await other.manager("Reload")
            await other.connection.close()
        assert asked == ["GetConnectionUnixUser"] * 4


async def test_trusted_uid_is_not_asked_about() -> None:
    async with world() as here:
        here.polkit.answer = "no"
        await here.caller.manager("Reload")
        assert await here.caller.manager("CanReload") == "yes"
        assert here.polkit.questions == []
