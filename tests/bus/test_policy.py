"""The bus policy that is installed: only root is kvmigd, everybody may call it and then answers to polkit."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmigd.bus import path
from kvmigd.errors import Exit
from tests.bus.conftest import Bus, kvmigctl, run, world

DATA = Path(__file__).parents[2] / "data/dbus"
NOBODY = 65534

# As the system bus of a distribution: nobody may own or call anything but what is allowed.
_CLOSED = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus"/>
  </policy>
  <policy user="root">
    <allow own="org.freedesktop.PolicyKit1"/>
    <allow send_destination="org.freedesktop.PolicyKit1"/>
  </policy>
  <include>{policy}</include>
</busconfig>
"""

as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can call as somebody else")


@pytest.fixture
def closed_bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bus]:
    """A bus that allows nothing but what our policy says."""
    with tempfile.TemporaryDirectory(prefix="bus-") as folder:
        Path(folder).chmod(0o755)
        bus = Bus(Path(folder), _CLOSED.replace("{policy}", str(DATA / "org.kvmigd1.conf")))
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.address)
        try:
            yield bus
        finally:
            bus.kill()


@as_root
async def test_everybody_may_call_and_polkit_decides(closed_bus: Bus) -> None:
    async with world() as here:
        call = ["busctl", f"--address={closed_bus.address}", "call", path.NAME, path.ROOT, path.MANAGER]
        here.polkit.answer = "no"
        ran = await run(*call, "Migrate", "ssa{sv}", "web1", "hostb", "0", user=NOBODY)
        assert ran.status != 0
        assert [question[1] for question in here.polkit.questions] == ["org.kvmigd1.migrate"]
        assert here.operations.calls == []
        here.polkit.answer = "yes"
        ran = await run(*call, "Migrate", "ssa{sv}", "web1", "hostb", "0", user=NOBODY)
        assert (ran.status, ran.out) == (0, f'o "{path.job_path(1)}"\n'), ran.err
        ran = await run(*call[:-1], "org.kvmigd1.Else", "Migrate", user=NOBODY)
        assert ran.status != 0
        assert len(here.polkit.questions) == 2
        ran = await run(*call[:-1], path.HOST, "Describe", "sa{sv}", "", "0", user=NOBODY)
        assert ran.out.startswith('ts 0 "{'), ran.err
        assert here.polkit.questions.pop()[1] == "org.kvmigd1.describe"
        # Root is not asked about, and reads properties like everybody.
        assert (await kvmigctl("status")).status == Exit.OK
        assert len(here.polkit.questions) == 2


@as_root
async def test_only_root_may_be_kvmigd(closed_bus: Bus) -> None:
    own = f"--address={closed_bus.address}", "call", "org.freedesktop.DBus", "/", "org.freedesktop.DBus"
    ran = await run("busctl", *own, "RequestName", "su", path.NAME, "4", user=NOBODY)
    assert ran.status != 0
    assert "Access denied" in ran.err
    assert (await run("busctl", *own, "RequestName", "su", path.NAME, "4")).status == 0


def test_activation_is_systemds() -> None:
    text = (DATA / "org.kvmigd1.service").read_text(encoding="utf-8")
    assert f"Name={path.NAME}\n" in text
    assert "SystemdService=kvmigd.service\n" in text


@pytest.mark.parametrize("file", sorted(DATA.glob("*.xml")), ids=lambda file: str(file.name))
def test_every_member_is_documented(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    for line in text.splitlines():
        for tag in ("method", "property", "signal"):
            if line.strip().startswith(f'<{tag} name="'):
                name = line.split('"')[1]
                before = text[: text.index(line)].rstrip()
                assert before.endswith("-->"), f"{name} has no comment"
                assert before.rpartition("<!--")[2].strip().startswith(f"{name}: "), name
