"""The networks of a lab: three bridges in its own network namespace, one veth to each for every host.

A host's network namespace is made anew for each boot, as a reboot gives a real host fresh links.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from tests.lab.command import run

HOSTS = ("hosta", "hostb", "hostc")
STORE = "store"
BRIDGE = "br0"
"""The bridge on every host that guests are plugged into."""

_NUMBERS = {STORE: 10, "hosta": 11, "hostb": 12, "hostc": 13}


class Network(StrEnum):
    """One of the lab's networks."""

    MIGRATION = "mig"
    """Control connections and migration streams."""
    STORAGE = "sto"
    GUESTS = "gst"

    @property
    def bridge(self) -> str:
        """The bridge of this network in the lab's namespace."""
        return f"lab-{self}"

    @property
    def link(self) -> str:
        """The name of a host's link to this network, on that host."""
        return f"{self}0"

    @property
    def prefix(self) -> str:
        """The first three numbers of its addresses."""
        return {"mig": "10.77.1", "sto": "10.77.2", "gst": "10.77.3"}[self]


def mac(host: str, network: Network) -> str:
    """Return a link's hardware address: the same at each boot, as others remember it for a while."""
    return f"52:54:00:{77 + list(Network).index(network)}:01:{_NUMBERS[host]}"


def networks(host: str) -> tuple[Network, ...]:
    """Return the networks that a host is plugged into."""
    return (Network.STORAGE,) if host == STORE else tuple(Network)


def address(host: str, network: Network = Network.MIGRATION) -> str:
    """Return the address of a host in a network (in the guests' network: of its bridge)."""
    return f"{network.prefix}.{_NUMBERS[host]}"


def outer(host: str, network: Network) -> str:
    """Return the name of the link's other end, the one in the lab's namespace."""
    return f"{network}-{host}"


def hosts_file() -> str:
    """Return /etc/hosts, the same everywhere: to a peer whose name resolves to 127/8 libvirt does not migrate."""
    lines = ["127.0.0.1 localhost", f"{address(STORE, Network.STORAGE)} {STORE}"]
    return "\n".join(lines + [f"{address(host)} {host}" for host in HOSTS]) + "\n"


def networkd_files(host: str) -> dict[str, str]:
    """Return the files of systemd-networkd by which a host configures its links at every boot."""
    quiet = "LinkLocalAddressing=no\nIPv6AcceptRA=no\n"
    files = {}
    for network in networks(host):
        if network is Network.GUESTS:
            files[f"10-{network.link}.network"] = (
                f"[Match]\nName={network.link}\n[Link]\nRequiredForOnline=no\n[Network]\nBridge={BRIDGE}\n{quiet}"
            )
            files[f"10-{BRIDGE}.netdev"] = (
                f"[NetDev]\nName={BRIDGE}\nKind=bridge\nMACAddress={mac(host, network)}\n"
                "[Bridge]\nSTP=no\nForwardDelaySec=0\n"
            )
            files[f"10-{BRIDGE}.network"] = (
                f"[Match]\nName={BRIDGE}\n[Link]\nRequiredForOnline=no\n"
                f"[Network]\nAddress={address(host, network)}/24\nConfigureWithoutCarrier=yes\n{quiet}"
            )
        else:
            files[f"10-{network.link}.network"] = (
                f"[Match]\nName={network.link}\n[Network]\nAddress={address(host, network)}/24\n{quiet}"
            )
    return files


def make_bridges() -> None:
    """Make the bridges; called once, inside the lab's namespaces."""
    lines = ["link set lo up"]
    for network in Network:
        # without multicast snooping the bridge has no timers of its own that could eat a first frame
        lines += [
            f"link add {network.bridge} type bridge forward_delay 0 stp_state 0 mcast_snooping 0",
            f"link set {network.bridge} up",
        ]
    run("ip", "-batch", "-", input="\n".join(lines) + "\n")


def plug(host: str, namespace: Path) -> None:
    """Make a host's network namespace anew and plug it in; called inside the lab's namespaces before each boot.

    A namespace that is gone takes its links along only some time later, and their names with them until then.
    """
    for network in networks(host):
        run("ip", "link", "del", outer(host, network), check=False)
    run("umount", "--lazy", namespace, check=False)
    namespace.touch()
    run("unshare", f"--net={namespace}", "true")
    lines = []
    for network in networks(host):
        end = outer(host, network)
        lines += [
            f"link add {end} type veth peer name {network.link} address {mac(host, network)} netns {namespace}",
            f"link set {end} master {network.bridge} up",
        ]
    run("ip", "-batch", "-", input="\n".join(lines) + "\n")
