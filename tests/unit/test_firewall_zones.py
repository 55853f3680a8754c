"""firewalld's zones."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmigd.host.firewall import zones
from kvmigd.host.firewall.packet import Packet
from kvmigd.host.firewall.zones import Zone, Zones
from kvmigd.model.firewall import Answer

SOURCE = "10.77.1.12"


def packet(port: int = 49152, link: str = "mig0") -> Packet:
    return Packet(source=SOURCE, port=port, link=link)


def test_the_narrowest_source_wins_over_the_link_and_that_over_the_default() -> None:
    public = Zone(name="public")
    internal = Zone(name="internal", interfaces=("mig0",))
    wide = Zone(name="wide", sources=("10.0.0.0/8", "ipset:x"))
    narrow = Zone(name="narrow", sources=("10.77.1.12",))
    assert Zones(default="public", zones=(public, internal, wide, narrow)).of(packet()) is narrow
    assert Zones(default="public", zones=(public, internal, wide)).of(packet()) is wide
    assert Zones(default="public", zones=(public, internal)).of(packet()) is internal
    assert Zones(default="public", zones=(public, internal)).of(packet(link="eth0")) is public
    assert Zones(default="gone", zones=(internal,)).of(packet(link="")) is None


def test_ports_and_services() -> None:
    settings = {
        "ports": [["49152-49215", "tcp"], ["53", "udp"], ["x", "tcp"]],
        "services": ["ssh"],
        "target": "default",
    }
    zone = zones.zone("public", settings, {"ssh": ((22, 22),)})
    assert zone.ports == ((49152, 49215), (22, 22))
    assert zone.judge(packet()) is Answer.OPEN
    assert zone.judge(packet(53)) is Answer.CLOSED
    uncertain = zones.zone("public", settings, {})
    assert uncertain.judge(packet()) is Answer.OPEN
    assert uncertain.judge(packet(22)) is Answer.UNKNOWN


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ('rule family="ipv4" source address="10.77.1.0/24" port port="49152-49215" protocol="tcp" accept', Answer.OPEN),
        ('rule family="ipv6" port port="49152" protocol="tcp" accept', Answer.CLOSED),
        ('rule family="ipv4" source address="10.78.0.0/16" accept', Answer.CLOSED),
        ('rule family="ipv4" source NOT address="10.78.0.0/16" accept', Answer.UNKNOWN),
        ('rule family="ipv4" source address="10.77.1.12" accept', Answer.OPEN),
        ('rule port port="49152" protocol="udp" accept', Answer.CLOSED),
        ('rule service name="libvirt" accept', Answer.UNKNOWN),
        ('rule priority="-1" port port="49152" protocol="tcp" accept', Answer.UNKNOWN),
        ('rule port port="49152" protocol="tcp" log prefix="x" accept', Answer.OPEN),
        ('rule broken="', Answer.UNKNOWN),
    ],
)
def test_rich_rules(rule: str, wanted: Answer) -> None:
    assert Zone(name="z", rich_rules=(rule,)).judge(packet()) is wanted


@pytest.mark.parametrize("action", ["drop", 'reject type="tcp-reset"'])
def test_a_rich_rule_that_closes_comes_first(action: str) -> None:
    rule = f'rule family="ipv4" source address="{SOURCE}" {action}'
    assert Zone(name="z", target="ACCEPT", rich_rules=(rule,)).judge(packet()) is Answer.CLOSED


VALUES = st.recursive(st.none() | st.integers() | st.text(max_size=6), lambda inner: st.lists(inner, max_size=3))
WORDS = st.sampled_from(["rule", "family=ipv4", "source", "address=10.0.0.0/8", "port", "port=1-9", "accept", "drop"])


@given(
    settings=st.dictionaries(
        st.sampled_from(["ports", "services", "rules_str", "interfaces", "sources", "target", "protocols"]), VALUES
    ),
    words=st.lists(WORDS | st.text(max_size=5), max_size=8),
)
def test_any_settings_are_read(settings: dict[str, Any], words: list[str]) -> None:
    zone = zones.zone("z", {**settings, "rules_str": [" ".join(words)]}, {})
    assert zone.judge(packet()) in Answer
    Zones(default="z", zones=(zone,)).of(packet())
