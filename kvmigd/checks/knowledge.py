"""What is not known: peers that do not answer, subjects of a picture, guests that nobody has looked at yet."""

from __future__ import annotations

from collections.abc import Iterator

from kvmigd.checks.check import Check
from kvmigd.checks.view import Case, HostView
from kvmigd.model.finding import Basis, Finding, Severity

ANSWERS = Check(
    id="peer.answers",
    severity=Severity.UNKNOWN,
    title="The daemon on the other host answers.",
    why="Without it nothing of what is true there is known, and nobody there would admit the guest.",
    known="The connection between the two daemons is up; a loss is known within two seconds.",
    remedy="Start kvmigd there, and see whether its port is reachable: kvmigctl status; systemctl status kvmigd.",
    fixed=True,
)
PICTURE = Check(
    id="picture.known",
    severity=Severity.UNKNOWN,
    title="Mounts, storage, links, firewall, software and hypervisor of both hosts are known.",
    why="Rules that need a subject which is not known are not asked, so nothing is promised.",
    known="Each subject of a host's picture says since when and why it is not known.",
    remedy="kvmigctl host shows what is missing and why; so does journalctl -u kvmigd.service.",
    fixed=True,
)
LOOKED = Check(
    id="guest.looked",
    severity=Severity.UNKNOWN,
    title="Both hosts have looked at the guest: its disks, its CPU, its machine type, its name.",
    why="Before that it is not known whether the other host has what the guest needs.",
    known="Each daemon keeps what it has seen, and looks again when something of it changes.",
    remedy="It is done in the background; kvmigctl check GUEST PEER does it at once.",
    fixed=True,
)


def unknown_subjects(host: HostView) -> Iterator[Finding]:
    """One finding for each subject that is not known, unless libvirt's absence explains it."""
    for name in host.unknown:
        if name == "hypervisor" and not host.facts.hypervisor_alive:
            continue  # hypervisor.alive says so, and why
        subject = host.state.subject(name)
        yield PICTURE.finding(
            f"The {name} of {host.name} {'is' if name in _SINGULAR else 'are'} not known.",
            host=host.name,
            subject=name,
            expected="a subject that is known",
            found=subject.problem,
            remedy=f"On {host.name}: kvmigctl host; journalctl -u kvmigd.service",
            basis=Basis.PROVED,
        )


_SINGULAR = ("firewall", "hypervisor", "storage", "system")


def unseen(case: Case) -> Iterator[Finding]:
    """Whoever has not looked at the guest yet, though it could."""
    for host, look in ((case.source, case.local.look), (case.destination, case.look)):
        if look is None and host.facts.hypervisor_alive:
            yield LOOKED.finding(
                f"{host.name} has not looked at {case.guest.name} yet.",
                host=host.name,
                subject=case.guest.name,
                expected=f"what {host.name} says of the guest's disks, CPU and machine type",
                found="not asked yet",
                remedy=f"kvmigctl check {case.guest.name} {case.there}",
            )
