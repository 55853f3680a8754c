"""Interfaces of the guest that stand on a link of the host's itself (macvtap)."""

from __future__ import annotations

from collections.abc import Iterator

from kvmigd.checks.check import Check
from kvmigd.checks.rule import Scope, rule
from kvmigd.checks.view import Case
from kvmigd.model.devices import Nic
from kvmigd.model.finding import Finding, Severity
from kvmigd.model.links import LinkFact

MACVTAP = Check(
    id="network.macvtap",
    severity=Severity.BLOCK,
    title="The link below a macvtap of the guest is there on the destination, up, and free for it.",
    why="Without the link, or where a bridge has it, the migration fails; by one that is down it reaches nobody.",
    known="The kernel's links on both hosts, kept by rtnetlink events.",
    remedy="Give the link the same name there, set it up, and take it out of bridges.",
)


@rule(Scope.PAIR, reads="guest links", tells=(MACVTAP,))
def network_macvtap(case: Case) -> Iterator[Finding]:
    """The link below a macvtap exists there, is up, has a carrier and carries frames as large as here."""
    told: list[str] = []
    for nic in case.local.guest.nics:
        if nic.kind != "direct" or not nic.source or nic.source in told:
            continue
        told.append(nic.source)
        link, mine = case.destination.links.get(nic.source), case.source.links.get(nic.source)
        wrong = _wrong(case, nic, link, mine)
        if wrong is not None:
            yield wrong


def _wrong(case: Case, nic: Nic, link: LinkFact | None, mine: LinkFact | None) -> Finding | None:
    name, there = nic.source, case.there
    if link is None:
        return _finding(
            case,
            name,
            summary=f"There is no link {name} on {there}, which a macvtap of {case.guest.name} stands on.",
            expected=f"a link called {name}, as on {case.here}",
            found="no such link",
            remedy=f"On {there}: ip link show; a .link file (systemd.link) gives a link that name",
        )
    if link.master and not (mine is not None and mine.master):
        return _finding(
            case,
            name,
            summary=f"The link {name} on {there} is a port of {link.master}, so no macvtap can stand on it.",
            expected="a link of its own",
            found=f"a port of {link.master}",
            remedy=f"On {there}: ip link set {name} nomaster, and in its network configuration",
        )
    if not link.up or (not link.carrier and (mine is None or mine.carrier)):
        return _finding(
            case,
            name,
            summary=f"The link {name} on {there} {'has no carrier' if link.up else 'is down'}.",
            expected="up, with a carrier",
            found="no carrier" if link.up else "down",
            remedy=f"On {there}: ip link set {name} up, or look at its cable and switch",
        )
    if nic.mode == "passthrough" and (other := _taken(case, name)):
        return _finding(
            case,
            name,
            summary=f"The link {name} on {there} has a macvtap already, and {case.guest.name} wants it alone.",
            expected="a link without other macvtaps",
            found=other,
            remedy=f"On {there}: virsh domiflist of its guests shows who has {other}; move or stop that guest",
        )
    most = nic.mtu or (mine.mtu if mine is not None else 0)
    if 0 < link.mtu < most and not (mine is not None and link.mtu >= mine.mtu):
        return _finding(
            case,
            name,
            summary=f"The link {name} has a smaller MTU on {there}.",
            expected=str(most),
            found=str(link.mtu),
            remedy=f"On {there}: ip link set {name} mtu {most}, and in its network configuration",
            severity=None if nic.mtu else Severity.WARN,
        )
    return None


def _taken(case: Case, name: str) -> str:
    """A macvtap that stands on the link there; empty where there is none."""
    links = case.destination.state.links.links
    return next((link.name for link in links if link.parent == name and link.kind in ("macvtap", "macvlan")), "")


def _finding(
    case: Case, name: str, *, summary: str, expected: str, found: str, remedy: str, severity: Severity | None = None
) -> Finding:
    return MACVTAP.finding(
        summary, host=case.there, subject=name, expected=expected, found=found, remedy=remedy, severity=severity
    )
