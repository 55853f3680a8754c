"""The segment behind a bridge: that frames of the guest arrive where they do here, with its VLAN and its MTU."""

from __future__ import annotations

from collections.abc import Iterator

from kvmigd.checks.check import Check
from kvmigd.checks.plug import Plug, leads_out, narrowest, plugs
from kvmigd.checks.rule import Scope, rule
from kvmigd.checks.view import Case, HostView
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
    told: set[tuple[object, ...]] = set()
    for plug in plugs(case):
        nic, mine, theirs = plug.nic, plug.mine, plug.usable
        if mine is None or theirs is None or not plug.is_in:
            continue
        key = plug.here, plug.there, nic.vlans, nic.mtu
        if key in told:
            continue
        told.add(key)
        vlans = nic.vlans or (0,)
        leads = bool(mine.uplinks and theirs.uplinks)
        large: FrameProof | None = None
        for vlan in vlans:
            # A bridge of another name, by a network that is another one there, is not what was tried.
            proof = case.hosts.frames.get((plug.here, vlan)) if plug.here == plug.there else None
            large = proof if proof is not None and (large is None or proof.problem == "too-large") else large
            if not leads or (proof is not None and proof.problem in ("", "too-large")):
                continue  # a bridge without uplinks is a segment of its own, and a frame that arrives says all
            if proof is not None and proof.problem == "lost":
                if leads_out(case.source, mine) and leads_out(case.destination, theirs):
                    yield _lost(case, plug, proof, compared=next(_compared(case, plug, mine, theirs, vlan), None))
            else:
                yield from _compared(case, plug, mine, theirs, vlan)
        yield from _mtu(case, plug, mine, theirs, large)


def _lost(case: Case, plug: Plug, proof: FrameProof, *, compared: Finding | None) -> Finding:
    """Frames do not arrive; where the VLANs of the bridges tell why, that is said."""
    of_vlan = f" in VLAN {proof.vlan}" if proof.vlan else ""
    return SEGMENT.finding(
        f"The bridge {plug.there} on {case.there} is another network segment than on {case.here}{of_vlan}.",
        host=case.there,
        subject=plug.there,
        expected=f"frames sent on {plug.here} of {case.here}{of_vlan} to arrive",
        found=compared.found if compared is not None else proof.text or "none arrived",
        remedy=compared.remedy
        if compared is not None
        else f"Look at the switch ports of {', '.join(plug.theirs.uplinks if plug.theirs else ())} of {case.there} and "
        f"{', '.join(plug.mine.uplinks if plug.mine else ())} of {case.here}: they must be in the same VLAN; "
        "bridge vlan show on both hosts",
        basis=Basis.PROVED,
        proved_usec=proof.taken_usec,
    )


def _compared(case: Case, plug: Plug, mine: BridgeFact, theirs: BridgeFact, vlan: int) -> Iterator[Finding]:
    """What the VLANs of the bridges' uplinks say."""
    if not _tells(mine) and not _tells(theirs):
        return
    if vlan:
        if not _passes(case.destination, theirs, vlan) and _passes(case.source, mine, vlan):
            yield _no_vlan(case, plug, theirs, vlan)
    elif _tells(mine) and _tells(theirs):
        here, there = _untagged(case.source, mine), _untagged(case.destination, theirs)
        if here and there and here.isdisjoint(there):
            yield SEGMENT.finding(
                f"The uplink of bridge {theirs.name} on {case.there} is in another VLAN than on {case.here}.",
                host=case.there,
                subject=theirs.name,
                expected=f"VLAN {_list(here)} untagged, as on {case.here}",
                found=f"VLAN {_list(there)} untagged",
                remedy=f"On {case.there}: bridge vlan show; bridge vlan add dev {theirs.uplinks[0]} vid "
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


def _no_vlan(case: Case, plug: Plug, bridge: BridgeFact, vlan: int) -> Finding:
    name = bridge.name
    if not _tells(bridge):
        found, mend = "a bridge that does not filter VLANs", f"ip link set {name} type bridge vlan_filtering 1"
    else:
        vlans = {text for port in case.destination.uplinks.get(name, ()) for text in port.vlans}
        found = f"{', '.join(bridge.uplinks)} with VLANs {', '.join(sorted(vlans)) or 'none'}"
        mend = (
            f"ovs-vsctl add port {bridge.uplinks[0]} trunks {vlan}"
            if bridge.kind == "openvswitch"
            else f"bridge vlan add dev {bridge.uplinks[0]} vid {vlan}"
        )
    return VLAN.finding(
        f"VLAN {vlan} of {case.guest.name} does not leave {case.there} by the bridge {name}.",
        host=case.there,
        subject=f"{name}, VLAN {vlan}",
        expected=f"an uplink that carries VLAN {vlan}, as {', '.join(plug.mine.uplinks if plug.mine else ())} on "
        f"{case.here}",
        found=found,
        remedy=f"On {case.there}: {mend}, and in its network configuration",
    )


def _mtu(case: Case, plug: Plug, mine: BridgeFact, theirs: BridgeFact, proof: FrameProof | None) -> Iterator[Finding]:
    """A larger MTU there does no harm: the guest does not use it."""
    asked = plug.nic.mtu
    most = asked or mine.mtu  # what the guest may send
    passed = proof is not None and not proof.problem and proof.mtu >= most
    if not most or not theirs.mtu or (passed and theirs.mtu >= most):
        return
    here, _ = narrowest(case.source, mine)
    there, where = narrowest(case.destination, theirs)
    most = min(most, here or most)  # more does not leave the host here either
    if proof is not None and proof.problem == "too-large" and proof.mtu <= most:
        yield _lost_large(case, plug, proof, device=where if there < most else "", mtu=there)
    elif there < most:
        at = "bridge" if where == theirs.name else f"uplink {where} of bridge"
        yield MTU.finding(
            f"The {at} {theirs.name} has a smaller MTU on {case.there}.",
            host=case.there,
            subject=where,
            expected=str(most),
            found=str(there),
            remedy=f"On {case.there}: ip link set {where} mtu {most}, and in its network configuration",
            # QEMU's tap there gets the MTU of the definition, and what does not fit through the bridge is dropped.
            severity=Severity.BLOCK if asked and theirs.mtu < most else Severity.WARN,
        )


def _lost_large(case: Case, plug: Plug, proof: FrameProof, *, device: str, mtu: int) -> Finding:
    """Large frames were sent, and did not arrive; `device` is the link there whose MTU is too small for them."""
    uplinks = ", ".join(plug.theirs.uplinks if plug.theirs else ())
    return MTU.finding(
        f"Frames of {proof.mtu} bytes do not pass {plug.there} on {case.there}.",
        host=case.there,
        subject=device or plug.there,
        expected=f"frames of {proof.mtu} bytes, which {case.guest.name} may send, to arrive",
        found=f"MTU {mtu} of {device}" if device else proof.text or "none arrived",
        remedy=f"On {case.there}: ip link set {device} mtu {proof.mtu}, and in its network configuration"
        if device
        else f"Look at the switches between {case.here} and {uplinks} of {case.there}: they must let frames of "
        f"{proof.mtu} bytes pass",
        basis=Basis.PROVED,
        severity=Severity.BLOCK,
        proved_usec=proof.taken_usec,
    )
