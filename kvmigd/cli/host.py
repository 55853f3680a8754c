"""kvmigctl host: this host at a glance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from kvmigd.bus import path
from kvmigd.bus.rows import version
from kvmigd.cli.client import Client
from kvmigd.cli.failure import finish
from kvmigd.cli.output import print_table, say, size
from kvmigd.cli.picture import decode, since, speed, yes
from kvmigd.errors import Exit
from kvmigd.model.firewall import Answer, Firewall
from kvmigd.model.hypervisor import HypervisorState
from kvmigd.model.links import BridgeFact, Links
from kvmigd.model.mounts import MountFact, Mounts, Persistence
from kvmigd.model.state import SUBJECTS, HostState
from kvmigd.model.storage import Storage
from kvmigd.model.system import System

_BAD = "red"
_UNSURE = "yellow"
_SURVIVES = {Persistence.HAND: "no", Persistence.UNKNOWN: "unknown"}
_ANSWERS = {Answer.CLOSED: _BAD, Answer.UNKNOWN: _UNSURE}


@click.command()
@click.argument("subject", metavar="[SUBJECT]...", nargs=-1, type=click.Choice(SUBJECTS))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with everything that is known.")
def host(subject: tuple[str, ...], *, as_json: bool) -> None:
    """Show what this host has for migrations: storage, network, firewall, software.

    SUBJECT is one of mounts, storage, links, firewall, system, hypervisor; all are shown if none is named.
    """
    finish(_host(subject, as_json=as_json), as_json=as_json)


async def _host(subjects: tuple[str, ...], *, as_json: bool) -> int:
    async with Client() as client:
        generation, text = await client.describe(subjects[0] if len(subjects) == 1 else "")
        name = "" if as_json else (await client.properties(path.ROOT, path.MANAGER))["HostName"]
    if len(subjects) == 1:
        text = f'{{"generation":{generation},"{subjects[0]}":{text}}}'
    if as_json:
        click.echo(chosen(text, subjects) if len(subjects) > 1 else text)
    else:
        show(decode(text), subjects, name=name)
    return Exit.OK


def chosen(text: str, subjects: Sequence[str]) -> str:
    """Some subjects of the whole picture, as they are."""
    import msgspec

    found: dict[str, msgspec.Raw] = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    return msgspec.json.encode({key: found[key] for key in ("generation", *subjects) if key in found}).decode()


def show(state: HostState, subjects: Sequence[str], *, name: str) -> None:
    """Print the subjects, or all."""
    wanted = subjects or SUBJECTS
    release = state.system.release.pretty_name
    say(f"{name}: {release}" if release else name, bold=True)
    # What a person looks for first comes first, and who looks at one subject sees only that.
    parts: dict[str, Callable[[], None]] = {
        "system": lambda: _system(state.system),
        "hypervisor": lambda: _hypervisor(state.hypervisor),
        "mounts": lambda: _mounts(state.mounts),
        "storage": lambda: _storage(state.storage),
        "links": lambda: _links(state.links),
        "firewall": lambda: _firewall(state.firewall),
    }
    for subject, part in parts.items():
        if subject in wanted and state.subject(subject).is_known:
            part()
    unknown = [subject for subject in wanted if not state.subject(subject).is_known]
    if unknown:
        _heading("Not known")
    for subject in unknown:
        why = state.subject(subject)
        say(f"  {subject}{since(why.since_usec)}: {why.problem}", fg=_UNSURE)


def _heading(text: str) -> None:
    say()
    say(text, bold=True)


def _line(name: str, text: str, *, colour: str | None = None) -> None:
    if text:
        say(f"{name + ':':<15}{text}", fg=colour)


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _system(system: System) -> None:
    cpu = system.cpu
    _line("Kernel", system.kernel)
    _line(
        "CPU",
        _joined(
            cpu.model_name or cpu.arch,
            f"{cpu.threads} threads" if cpu.threads else "",
            f"TSC {cpu.tsc_khz / 1000:.0f} MHz" if cpu.tsc_khz else "",
            f"microcode {cpu.microcode}" if cpu.microcode else "",
        ),
    )
    pools = [
        f"{pool.free} of {pool.total} pages of {size(pool.size)} free on node {pool.node}"
        for pool in system.hugepages
        if pool.total
    ]
    nodes = f"{len(system.numa)} NUMA nodes" if len(system.numa) > 1 else ""
    _line("Memory", _joined(size(system.memory_total) if system.memory_total else "", nodes, *pools))
    if not system.kvm.device:
        _line("KVM", "there is no /dev/kvm", colour=_BAD)
    synchronised = system.clock.synchronised
    _line(
        "Clock",
        {True: "synchronised", False: "not synchronised", None: ""}[synchronised],
        colour=_bad_if(not synchronised),
    )
    _line("Security", _joined(system.security, f"post-copy allowed: {yes(system.userfaultfd)}"))
    _line("Packages", "  ".join(f"{package.name} {package.version}" for package in system.packages))
    _line("Packages", f"not known: {system.packages_problem}" if system.packages_problem else "", colour=_UNSURE)


def _hypervisor(state: HypervisorState) -> None:
    active = sum(guest.state.is_active for guest in state.guests)
    _line(
        "Hypervisor",
        _joined(
            f"libvirt {version(state.libvirt)}" if state.libvirt else "",
            f"QEMU {version(state.qemu)}" if state.qemu else "",
            state.daemon,
            state.uri,
        ),
    )
    _line("Guests", f"{len(state.guests)}, {active} of them active")
    networks = [
        f"{net.name} ({net.bridge or 'no bridge'}{'' if net.active else ', not started'})" for net in state.networks
    ]
    _line("Networks", "  ".join(networks))
    _line("Pools", "  ".join(f"{pool.name}{'' if pool.active else ' (not started)'}" for pool in state.pools))


def _mounts(mounts: Mounts) -> None:
    shown = [mount for mount in mounts.mounts if mount.is_storage]
    _heading(f"Storage that is mounted ({len(mounts.mounts) - len(shown)} other mounts)")
    print_table(
        ("MOUNT POINT", "TYPE", "SOURCE", "SHARED", "AFTER BOOT", "FREE", "PROBLEM"),
        [_mount_row(mount) for mount in shown],
        colours=[_mount_colour(mount) for mount in shown],
    )


def _mount_row(mount: MountFact) -> list[str]:
    free = f"{size(mount.space.free)} of {size(mount.space.total)}" if mount.space else ""
    problem = _joined(
        f"{mount.problem}{since(mount.problem_since_usec)}" if mount.problem else "",
        "another mount lies over it" if mount.covered else "",
        "its mount point was removed" if mount.deleted else "",
    )
    survives = _SURVIVES.get(mount.persistence, f"yes ({mount.persistence})")
    return [mount.point, mount.fs_type, mount.source, yes(mount.shared), survives, free, problem]


def _mount_colour(mount: MountFact) -> str | None:
    if mount.problem or mount.deleted:
        return _BAD
    return _UNSURE if mount.covered or (mount.shared and mount.persistence is Persistence.HAND) else None


def _storage(storage: Storage) -> None:
    lines: list[tuple[str, str, str | None]] = []
    for path_ in storage.multipaths:
        bad = len(path_.active) < len(path_.paths)
        text = f"{path_.name} ({path_.device}): {len(path_.active)} of {len(path_.paths)} paths work"
        lines.append(("Multipath", text, _bad_if(bad)))
    for session in storage.iscsi:
        text = _joined(f"{session.target} at {session.portal}", session.state, " ".join(session.luns))
        lines.append(("iSCSI", text, _bad_if(session.state not in ("LOGGED_IN", ""))))
    for port in storage.fibre_channel:
        text = _joined(f"{port.name} {port.wwpn}", port.state, port.speed, f"{len(port.targets)} targets")
        lines.append(("Fibre Channel", text, _bad_if(port.state not in ("Online", ""))))
    for group in storage.volume_groups:
        lines.append(("Volume group", _joined(group.name, f"locks: {group.lock_type or 'none'}"), None))
    for space in storage.lockspaces:
        lines.append(("Lockspace", _joined(space.name, space.control), _bad_if(bool(space.control))))
    if storage.quorate is not None:
        lines.append(("Cluster", "quorate" if storage.quorate else "has no quorum", _bad_if(not storage.quorate)))
    for system in storage.filesystems:
        if system.problem:
            lines.append(("File system", f"{system.point}: {system.problem}", _BAD))
    if lines:
        _heading("Storage below")
    for name, text, colour in lines:
        _line(name, text, colour=colour)


def _links(links: Links) -> None:
    if links.bridges or links.openvswitch:
        _heading("Bridges")
        print_table(
            ("BRIDGE", "KIND", "STATE", "UPLINKS", "MTU", "VLANS", "PORTS"),
            [_bridge_row(bridge) for bridge in links.bridges],
            colours=[_bad_if(not (bridge.up and bridge.carrier)) for bridge in links.bridges],
        )
        _line("Open vSwitch", f"not known: {links.openvswitch}" if links.openvswitch else "", colour=_UNSURE)
    for bond in links.bonds:
        text = f"{bond.name}: {bond.mode}, {len(bond.active)} of {len(bond.members)} members active"
        _line("Bond", text, colour=_bad_if(len(bond.active) < len(bond.members) and bond.mode != "active-backup"))
    if links.routes:
        _heading("Routes to peers")
        print_table(
            ("PEER", "ADDRESS", "LINK", "GATEWAY", "MTU", "SPEED", "PROBLEM"),
            [
                (
                    route.peer,
                    route.address,
                    route.link,
                    route.gateway,
                    _count(route.mtu),
                    speed(route.speed),
                    route.problem,
                )
                for route in links.routes
            ],
            colours=[_bad_if(bool(route.problem)) for route in links.routes],
        )


def _bridge_row(bridge: BridgeFact) -> list[str]:
    state = "no bridge" if not bridge.exists else "down" if not bridge.up else "up" if bridge.carrier else "no carrier"
    vlans = sorted({vlan for port in bridge.ports if port.uplink for vlan in port.vlans})
    kept_apart = " ".join(vlans) if bridge.vlan_filtering else ""
    return [
        bridge.name,
        bridge.kind,
        state,
        " ".join(bridge.uplinks),
        _count(bridge.mtu),
        kept_apart,
        str(len(bridge.ports)),
    ]


def _firewall(firewall: Firewall) -> None:
    _heading("Ports that migrations need")
    print_table(
        ("PURPOSE", "PORTS", "FROM"),
        [(port.purpose, _range(port.first, port.last), port.origin) for port in firewall.ports],
    )
    active = [backend.name for backend in firewall.backends if backend.active]
    _line("Firewall", " ".join(active) or "none is active")
    for backend in firewall.backends:
        if backend.problem:
            text = f"{backend.name} is not known{since(backend.problem_since_usec)}: {backend.problem}"
            _line("Firewall", text, colour=_UNSURE)
    if firewall.hints:
        _heading("What its rules say of them (hints: only a connection proves a port, see kvmigctl check)")
        print_table(
            ("PEER", "ADDRESS", "PURPOSE", "HINT", "LASTS", "BY"),
            [(hint.peer, hint.address, hint.purpose, hint.answer, hint.duration, hint.by) for hint in firewall.hints],
            colours=[_ANSWERS.get(hint.answer) for hint in firewall.hints],
        )


def _bad_if(bad: bool) -> str | None:  # noqa: FBT001 - it is what it is about
    return _BAD if bad else None


def _count(number: int) -> str:
    return str(number) if number else ""


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"
