"""Snapshots that come and go without an event of libvirt's."""

from __future__ import annotations

import asyncio
from pathlib import Path

from kvmigd.host.files import Files
from kvmigd.host.picture import Picture
from kvmigd.host.snapshots import FOLDERS, SnapshotFiles
from kvmigd.model.hypervisor import HypervisorState
from tests.unit.cases import GUEST, OTHER_UUID, UUID, changed


def test_guests_are_told_whose_snapshots_change(tmp_path: Path) -> None:
    other = changed(GUEST, name="db", uuid=OTHER_UUID)

    async def body() -> None:
        picture = Picture()
        picture.publish(HypervisorState(problem="", guests=(GUEST, other)))
        told: asyncio.Queue[str] = asyncio.Queue()
        snapshots, checkpoints = (tmp_path / folder for folder in FOLDERS)
        (snapshots / "db").mkdir(parents=True)
        async with Files() as files, asyncio.timeout(10):
            SnapshotFiles(picture, files, told.put_nowait, root=tmp_path).start()
            (snapshots / "web").mkdir()
            (snapshots / "web" / "one.xml").write_text("<domainsnapshot/>")
            assert await told.get() == f"guest:{UUID}"
            await asyncio.sleep(0.1)
            (snapshots / "db" / "one.xml").write_text("<domainsnapshot/>")
            assert await told.get() == f"guest:{OTHER_UUID}"
            (snapshots / "db" / "note.txt").write_text("no snapshot")
            (snapshots / "gone").mkdir()
            (snapshots / "web" / "one.xml").unlink()
            assert await told.get() == f"guest:{UUID}"
            (checkpoints / "db").mkdir(parents=True)
            (checkpoints / "db" / "one.xml").write_text("<domaincheckpoint/>")
            assert await told.get() == f"guest:{OTHER_UUID}"
            await asyncio.sleep(0.1)
            assert told.empty(), "nobody else is told"

    asyncio.run(body())
