"""The segment behind a bridge: that frames of the guest arrive where they do here, with its VLAN and its MTU."""

from __future__ import annotations

from collections.abc import Iterator

from kvmigd.checks.check import Check
from kvmigd.checks.plug import Plug, leads_out, narrowest, told
from kvmigd.checks.rule import Scope, rule
from kvmigd.checks.view import Case, Hosts, HostView
from kvmigd.model.finding import Basis, Finding, Severity
from kvmigd.model.links import BridgeFact
from kvmigd.model.proof import FrameProof

SEGMENT = Check(
    id="network.segment",
    severity=Severity.BLOCK,
    title="The bridges of one name are one network segment.",
    why="A guest that comes to another segment keeps its address there, and nobody reaches it.",
    known="A frame sent on the bridge here is caught on the bridge there, for each VLAN of a guest. Where that cannot "
    "be tried the untagged VLANs of the uplinks are compared.",
    remedy="Look at the VLAN of the switch ports of both uplinks; bridge vlan show.",
)
VLAN = Check(
    id="network.vlan",
    severity=Severity.BLOCK,
    title="The guest's VLAN leads out of the destination.",
    why="Frames of a VLAN that the bridge or its uplink there does not carry are dropped without a word.",
    known="A frame of that VLAN, else the VLANs that the ports of the bridges on both hosts let through.",
    remedy="bridge vlan add dev DEVICE vid N there, and in the network configuration.",
)
MTU = Check(
    id="network.mtu",
    severity=Severity.WARN,
    title="Frames as large as the guest sends them pass on the destination.",
    why="Where the MTU is smaller there, large frames of the guest are lost, and connections that stood hang. What is "
    "proved, or larger than the MTU in the guest's own definition allows, blocks.",
    known="A frame as large as the guest's MTU; and the MTUs of bridges and uplinks on both hosts are compared.",
    remedy="ip link set DEVICE mtu N of uplink and bridge, and in the network configuration.",
)


@rule(Scope.PAIR, reads="guest links hypervisor proofs", tells=(SEGMENT, VLAN, MTU))
def network_segment(case: Case) -> Iterator[Finding]:
    """The bridges of the guest are one segment on both hosts, for its VLANs and its MTU."""
    yield from told(case, _segment)


def _segment(hosts: Hosts, plug: Plug) -> Iterator[Finding]:
    mine, theirs = plug.mine, plug.usable
    if mine is None or theirs is None or not plug.is_in:
        return
    # A bridge of another name, by a network that is another one there, is not what was tried.
    same = plug.here == plug.there
    proofs = {vlan: hosts.frames.get((plug.here, vlan)) if same else None for vlan in plug.nic.vlans or (0,)}
    if mine.uplinks and theirs.uplinks:  # a bridge without uplinks is a segment of its own
        for vlan, proof in proofs.items():
            yield from _frames(hosts, plug, mine, theirs, vlan=vlan, proof=proof)
    yield from _mtu(hosts, plug, mine, theirs, tuple(filter(None, proofs.values())))


def _frames(
    hosts: Hosts, plug: Plug, mine: BridgeFact, theirs: BridgeFact, *, vlan: int, proof: FrameProof | None
) -> Iterator[Finding]:
    if proof is not None and proof.problem in ("", "too-large"):
        return  # a frame that arrives says all
    compared = _compared(hosts, mine, theirs, vlan)
    if proof is None or proof.problem != "lost":
        yield from compared
    elif leads_out(hosts.source, mine) and leads_out(hosts.destination, theirs):
        yield _lost(hosts, plug, proof, compared=next(compared, None))


def _lost(hosts: Hosts, plug: Plug, proof: FrameProof, *, compared: Finding | None) -> Finding:
    """Frames do not arrive; where the VLANs of the bridges tell why, that is said."""
    of_vlan = f" in VLAN {proof.vlan}" if proof.vlan else ""
    return SEGMENT.finding(
        f"The bridge {plug.there} on {hosts.there} is another network segment than on {hosts.here}{of_vlan}.",
        host=hosts.there,
        subject=plug.there,
        expected=f"frames sent on {plug.here} of {hosts.here}{of_vlan} to arrive",
        found=compared.found if compared is not None else proof.text or "none arrived",
        remedy=compared.remedy
        if compared is not None
        else f"Look at the switch ports of {_uplinks(plug.theirs)} of {hosts.there} and {_uplinks(plug.mine)} of "
        f"{hosts.here}: they must be in the same VLAN; bridge vlan show on both hosts",
        basis=Basis.PROVED,
        proved_usec=proof.taken_usec,
    )


def _compared(hosts: Hosts, mine: BridgeFact, theirs: BridgeFact, vlan: int) -> Iterator[Finding]:
    """What the VLANs of the bridges' uplinks say."""
    if not _tells(mine) and not _tells(theirs):
        return
    if vlan:
        if not _passes(hosts.destination, theirs, vlan) and _passes(hosts.source, mine, vlan):
            yield _no_vlan(hosts, mine, theirs, vlan)
    elif _tells(mine) and _tells(theirs):
        here, there = _untagged(hosts.source, mine), _untagged(hosts.destination, theirs)
        if here and there and here.isdisjoint(there):
            yield SEGMENT.finding(
                f"The uplink of bridge {theirs.name} on {hosts.there} is in another VLAN than on {hosts.here}.",
                host=hosts.there,
                subject=theirs.name,
                expected=f"VLAN {_list(here)} untagged, as on {hosts.here}",
                found=f"VLAN {_list(there)} untagged",
                remedy=f"On {hosts.there}: bridge vlan show; bridge vlan add dev {theirs.uplinks[0]} vid "
                f"{min(here, key=int)} pvid untagged, and in its network configuration",
                severity=Severity.WARN,
            )


def _tells(bridge: BridgeFact) -> bool:
    """The bridge tells VLANs apart."""
    return bridge.vlan_filtering or bridge.kind == "openvswitch"


def _passes(host: HostView, bridge: BridgeFact, vlan: int) -> bool:
    """Whether a frame of a VLAN that the guest's port has leaves the host by the bridge."""
    if not _tells(bridge):
        return False  # it knows no VLANs, so the guest's port has none
    for port in host.uplinks.get(bridge.name, ()):
        trunk = not port.vlans and bridge.kind == "openvswitch"  # without a list a port carries all
        if trunk or any(_holds(text, vlan) for text in port.vlans):
            return True
    return False


def _holds(text: str, vlan: int) -> bool:
    first, dash, last = text.rstrip("*").partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        return False
    return int(first) <= vlan <= int(last if dash else first)


def _untagged(host: HostView, bridge: BridgeFact) -> set[str]:
    """VLANs that the uplinks carry without a tag."""
    ports = host.uplinks.get(bridge.name, ())
    found = {text[:-1] for port in ports for text in port.vlans if text.endswith("*")}
    return {text for text in found if text.isdecimal()}


def _list(vlans: set[str]) -> str:
    return ", ".join(sorted(vlans, key=int))


def _no_vlan(hosts: Hosts, mine: BridgeFact, bridge: BridgeFact, vlan: int) -> Finding:
    name = bridge.name
    if not _tells(bridge):
        found, mend = "a bridge that does not filter VLANs", f"ip link set {name} type bridge vlan_filtering 1"
    else:
        vlans = {text for port in hosts.destination.uplinks.get(name, ()) for text in port.vlans}
        found = f"{', '.join(bridge.uplinks)} with VLANs {', '.join(sorted(vlans)) or 'none'}"
        mend = (
            f"ovs-vsctl add port {bridge.uplinks[0]} trunks {vlan}"
            if bridge.kind == "openvswitch"
            else f"bridge vlan add dev {bridge.uplinks[0]} vid {vlan}"
        )
    return VLAN.finding(
        f"VLAN {vlan} does not leave {hosts.there} by the bridge {name}.",
        host=hosts.there,
        subject=f"{name}, VLAN {vlan}",
        expected=f"an uplink that carries VLAN {vlan}, as {', '.join(mine.uplinks)} on {hosts.here}",
        found=found,
        remedy=f"On {hosts.there}: {mend}, and in its network configuration",
    )


def _mtu(
    hosts: Hosts, plug: Plug, mine: BridgeFact, theirs: BridgeFact, proofs: tuple[FrameProof, ...]
) -> Iterator[Finding]:
    """A larger MTU there does no harm: the guest does not use it."""
    asked = plug.nic.mtu
    most = asked or mine.mtu  # what the guest may send
    passed = bool(proofs) and all(not proof.problem and proof.mtu >= most for proof in proofs)
    if not most or not theirs.mtu or (passed and theirs.mtu >= most):
        return
    here, _ = narrowest(hosts.source, mine)
    there, where = narrowest(hosts.destination, theirs)
    most = min(most, here or most)  # more does not leave the host here either
    lost = next((proof for proof in proofs if proof.problem == "too-large" and proof.mtu <= most), None)
    if lost is not None:
        yield _lost_large(hosts, plug, lost, device=where if there < most else "", mtu=there)
    elif there < most and not (passed and theirs.mtu >= most):
        at = "bridge" if where == theirs.name else f"uplink {where} of bridge"
        yield MTU.finding(
            f"The {at} {theirs.name} has a smaller MTU on {hosts.there}.",
            host=hosts.there,
            subject=where,
            expected=str(most),
            found=str(there),
            remedy=f"On {hosts.there}: ip link set {where} mtu {most}, and in its network configuration",
            # QEMU's tap there gets the MTU of the definition, and what does not fit through the bridge is dropped.
            severity=Severity.BLOCK if asked and theirs.mtu < most else Severity.WARN,
        )


def _lost_large(hosts: Hosts, plug: Plug, proof: FrameProof, *, device: str, mtu: int) -> Finding:
    """Large frames were sent, and did not arrive; `device` is the link there whose MTU is too small for them."""
    return MTU.finding(
        f"Frames of {proof.mtu} bytes do not pass {plug.there} on {hosts.there}.",
        host=hosts.there,
        subject=device or plug.there,
        expected=f"frames of {proof.mtu} bytes, as large as the guest may send them, to arrive",
        found=f"MTU {mtu} of {device}" if device else proof.text or "none arrived",
        remedy=f"On {hosts.there}: ip link set {device} mtu {proof.mtu}, and in its network configuration"
        if device
        else f"Look at the switches between {hosts.here} and {_uplinks(plug.theirs)} of {hosts.there}: they must let "
        f"frames of {proof.mtu} bytes pass",
        basis=Basis.PROVED,
        severity=Severity.BLOCK,
        proved_usec=proof.taken_usec,
    )


def _uplinks(bridge: BridgeFact | None) -> str:
    return ", ".join(bridge.uplinks if bridge is not None else ())
