"""nftables' rules: listings as nft 1.0.6 prints them, and what they do with connections."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmigd.host.firewall import nftables
from kvmigd.host.firewall.nftables import Ruleset
from kvmigd.host.firewall.packet import Packet, Verdict
from kvmigd.host.firewall.question import Question, from_listing
from kvmigd.model.firewall import Answer

OPEN, CLOSED, UNKNOWN = Answer.OPEN, Answer.CLOSED, Answer.UNKNOWN
RULESETS = Path(__file__).parent / "rulesets"
TCP_DPORT = {"payload": {"protocol": "tcp", "field": "dport"}}
SADDR = {"payload": {"protocol": "ip", "field": "saddr"}}


def chain(name: str, table: str = "filter", family: str = "inet", **hook: Any) -> dict[str, Any]:
    return {"chain": {"family": family, "table": table, "name": name, "handle": 1, **hook}}


def base(policy: str, table: str = "filter", family: str = "inet", **more: Any) -> dict[str, Any]:
    hook = {"type": "filter", "hook": "input", "prio": 0, "policy": policy, **more}
    return chain("input", table, family, **hook)


def rule(*statements: Any, at: str = "input", table: str = "filter", family: str = "inet") -> dict[str, Any]:
    return {"rule": {"family": family, "table": table, "chain": at, "handle": 7, "expr": list(statements)}}


def match(left: Any, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def say(name: str) -> dict[str, Any]:
    return {name: None}


def listing(*items: Any) -> bytes:
    return json.dumps({"nftables": [{"metainfo": {"version": "1.0.6"}}, *items]}).encode()


def judge(*items: Any, source: str = "10.77.1.12", port: int = 49152, link: str = "mig0") -> Verdict:
    packet = Packet(source=source, port=port, link=link, destination="10.77.1.11")
    return Ruleset.read(nftables.split(listing(*items))).judge(packet)


def answer(*statements: Any, policy: str = "drop", **packet: Any) -> Answer:
    """What one rule before a policy makes of a connection."""
    return judge(base(policy), rule(*statements), **packet).answer


def test_without_rules_everything_is_open() -> None:
    assert judge().answer is OPEN
    assert judge(base("accept")) == Verdict(answer=OPEN, by="inet filter input: policy accept")


def test_a_policy_closes() -> None:
    assert judge(base("drop")) == Verdict(answer=CLOSED, by="inet filter input: policy drop")


def test_an_accept_does_not_override_a_drop_elsewhere() -> None:
    for priority in (-10, 10):
        items = (base("accept"), rule(say("accept")), base("drop", "other", prio=priority))
        assert judge(*items) == Verdict(answer=CLOSED, by="inet other input: policy drop")


def test_only_chains_on_the_way_in_count() -> None:
    assert judge(base("drop", hook="forward"), base("drop", "x", hook="output")).answer is OPEN
    assert judge(base("drop", hook="prerouting", type="filter")).answer is CLOSED
    assert judge(base("drop", "four", "ip"), source="fd00::1").answer is OPEN
    assert judge(base("drop", "six", "ip6"), source="fd00::1").answer is CLOSED


def test_ingress_counts_for_its_own_link() -> None:
    ingress = base("drop", family="netdev", hook="ingress", dev="mig0")
    assert judge(ingress, link="mig0").answer is CLOSED
    assert judge(ingress, link="sto0").answer is OPEN
    assert judge(ingress, link="").answer is UNKNOWN


@pytest.mark.parametrize(
    ("left", "right", "op", "found"),
    [
        (TCP_DPORT, 49152, "==", True),
        (TCP_DPORT, 22, "==", False),
        (TCP_DPORT, {"range": [49152, 49215]}, "==", True),
        (TCP_DPORT, {"set": [22, {"range": [49152, 49215]}]}, "==", True),
        (TCP_DPORT, {"set": [22, 80]}, "!=", True),
        (TCP_DPORT, 1024, ">=", True),
        (TCP_DPORT, 1024, "<", False),
        (TCP_DPORT, "ssh", "==", None),
        (SADDR, "10.77.1.12", "==", True),
        (SADDR, {"prefix": {"addr": "10.77.1.0", "len": 24}}, "==", True),
        (SADDR, {"prefix": {"addr": "10.78.0.0", "len": 16}}, "!=", True),
        (SADDR, {"range": ["10.77.1.1", "10.77.1.9"]}, "==", False),
        ({"payload": {"protocol": "ip6", "field": "saddr"}}, "::1", "!=", False),
        ({"payload": {"protocol": "udp", "field": "dport"}}, 49152, "==", False),
        ({"payload": {"protocol": "th", "field": "dport"}}, 49152, "==", True),
        ({"payload": {"protocol": "ip", "field": "ttl"}}, 64, "==", None),
        ({"meta": {"key": "iifname"}}, "mig*", "==", True),
        ({"meta": {"key": "iif"}}, "lo", "==", False),
        ({"meta": {"key": "l4proto"}}, {"set": ["tcp", "udp"]}, "==", True),
        ({"meta": {"key": "l4proto"}}, 6, "==", True),
        ({"meta": {"key": "nfproto"}}, "ipv6", "==", False),
        ({"meta": {"key": "mark"}}, 1, "==", None),
        ({"ct": {"key": "state"}}, ["established", "related"], "in", False),
        ({"ct": {"key": "state"}}, {"set": ["new", "untracked"]}, "==", True),
        ({"ct": {"key": "state"}}, "new", "!=", False),
        ({"ct": {"key": "mark"}}, 1, "==", None),
        ({"&": [{"payload": {"protocol": "tcp", "field": "flags"}}, ["fin", "syn"]]}, "syn", "==", True),
        ({"&": [TCP_DPORT, 240]}, 16, "==", None),
        ({"fib": {"result": "type", "flags": ["daddr"]}}, "local", "==", True),
        ({"fib": {"result": "oif", "flags": ["saddr", "iif"]}}, False, "==", False),
        ({"concat": [SADDR, TCP_DPORT]}, {"set": [{"concat": ["10.77.1.12", 49152]}]}, "==", True),
        ({"something": "new"}, 1, "==", None),
    ],
)
def test_matches(left: Any, right: Any, op: str, found: bool | None) -> None:  # noqa: FBT001
    wanted = {True: OPEN, False: CLOSED, None: UNKNOWN}[found]
    assert answer(match(left, right, op), say("accept")) is wanted


def test_what_is_not_understood_matters_only_where_it_changes_the_end() -> None:
    odd = match({"meta": {"key": "mark"}}, 1)
    assert answer(odd, say("accept"), policy="accept") is OPEN
    assert answer(odd, say("drop"), policy="drop") is CLOSED
    assert answer(odd, say("drop"), policy="accept") is UNKNOWN
    assert answer(match(TCP_DPORT, 22), {"wonder": None}, policy="accept") is OPEN, "it does not come so far"
    assert judge(base("accept"), rule(odd, say("drop"))).by == "inet filter input: rule 7 may drop it"


def test_statements_that_decide_nothing_are_passed_over() -> None:
    quiet = ({"counter": {"packets": 1, "bytes": 2}}, {"limit": {"rate": 1, "per": "second"}}, {"log": None})
    assert answer(*quiet, say("accept")) is OPEN
    assert answer({"limit": {"rate": 1, "per": "second", "inv": True}}, say("drop"), policy="accept") is OPEN
    assert answer({"queue": {"num": 1}}, policy="accept") is UNKNOWN


def test_jumps_gotos_and_returns() -> None:
    sub = chain("sub")
    accepts, returns = rule(say("accept"), at="sub"), rule(say("return"), at="sub")
    jump, goto = rule({"jump": {"target": "sub"}}), rule({"goto": {"target": "sub"}})
    after = rule(say("accept"))
    assert judge(base("drop"), sub, jump, accepts).answer is OPEN
    assert judge(base("drop"), sub, jump, returns, after).answer is OPEN
    assert judge(base("drop"), sub, goto, returns, after).answer is CLOSED
    assert judge(base("drop"), sub, jump, rule({"jump": {"target": "sub"}}, at="sub")).answer is UNKNOWN, "a circle"


def test_named_sets_and_verdict_maps() -> None:
    peers = {"set": {"family": "inet", "name": "p", "table": "filter", "type": "ipv4_addr", "elem": ["10.77.1.12"]}}
    assert judge(peers, base("drop"), rule(match(SADDR, "@p"), say("accept"))).answer is OPEN
    del peers["set"]["elem"]
    assert judge(peers, base("drop"), rule(match(SADDR, "@p"), say("accept"))).answer is CLOSED
    peers["set"]["flags"] = ["dynamic"]
    assert judge(peers, base("drop"), rule(match(SADDR, "@p"), say("accept"))).answer is UNKNOWN
    assert answer(match(SADDR, "@missing"), say("accept")) is UNKNOWN
    entries = [[22, say("drop")], [{"range": [49000, 50000]}, say("accept")]]
    assert answer({"vmap": {"key": TCP_DPORT, "data": {"set": entries}}}) is OPEN
    assert answer({"vmap": {"key": TCP_DPORT, "data": {"set": entries[:1]}}}) is CLOSED, "it goes on to the policy"
    assert answer({"vmap": {"key": TCP_DPORT, "data": "@missing"}}) is UNKNOWN


def test_untracked_connections_have_no_known_state() -> None:
    raw = base("accept", "raw", "ip", hook="prerouting", prio=-300)
    state = rule(match({"ct": {"key": "state"}}, "new"), say("accept"))
    assert judge(raw, rule(say("notrack"), table="raw", family="ip"), base("drop"), state).answer is UNKNOWN


def ask(name: str, first: int, last: int | None = None, source: str = "10.77.1.12") -> Verdict:
    parts = nftables.split((RULESETS / f"{name}.json").read_bytes())
    question = Question(source=source, first=first, last=last or first, link="mig0", destination="10.77.1.11")
    return from_listing(parts, [question])[1][0]


def test_a_real_ruleset_of_many_features() -> None:
    assert ask("features", 16515) == Verdict(answer=OPEN, by='inet filter input: rule 18 "hello"')
    assert ask("features", 49152, 49215).answer is OPEN
    assert ask("features", 16514) == Verdict(answer=OPEN, by="inet filter tls: rule 9")
    assert ask("features", 16514, source="192.0.2.1") == Verdict(answer=CLOSED, by="inet filter input: rule 25")
    assert ask("features", 23) == Verdict(answer=CLOSED, by="ip raw pre: rule 2")


def test_a_range_is_judged_in_all_its_parts() -> None:
    parts = nftables.split(listing(base("accept"), rule(match(TCP_DPORT, 49200), say("drop"))))
    _, (verdict,) = from_listing(parts, [Question(source="10.77.1.12", first=49152, last=49215)])
    assert verdict == Verdict(answer=CLOSED, by="inet filter input: rule 7 (port 49200)")


def test_extensions_of_iptables_are_not_guessed() -> None:
    assert ask("iptables-nft", 16515).answer is OPEN
    assert ask("iptables-nft", 16514).answer is UNKNOWN


@pytest.mark.parametrize("text", [b"", b"nonsense\n", b"[]", b'{"nftables": 1}', b'{"nftables": [', b"[" * 200_000])
def test_what_is_no_listing_is_said_to_be_none(text: bytes) -> None:
    with pytest.raises(nftables.NotARuleset):
        nftables.split(text)


NAMES = [
    *("match", "accept", "drop", "jump", "goto", "return", "vmap", "set", "map", "elem", "range", "prefix", "left"),
    *("right", "op", "payload", "meta", "ct", "fib", "protocol", "field", "key", "tcp", "ip", "saddr", "dport", "@s"),
    *("state", "new", "limit", "xt", "type", "target", "==", "!=", "in", "concat", "&", "|", "name", "expr", "family"),
]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(NAMES)
    | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(statements=st.lists(JSON, max_size=4), elements=JSON, hook=JSON, rest=st.lists(JSON, max_size=3))
def test_nothing_that_is_json_raises(statements: list[Any], elements: Any, hook: Any, rest: list[Any]) -> None:
    named = {"set": {"family": "inet", "table": "filter", "name": "s", "elem": elements, "flags": hook}}
    parts = nftables.split(listing(named, base("drop", dev=hook), rule(*statements), *rest))
    nftables.relevant_tables(parts)
    _, (verdict,) = from_listing(parts, [Question(source="10.77.1.12", first=49152, last=49215)])
    assert verdict.answer in Answer


KEYS = st.sampled_from([TCP_DPORT, SADDR, {"meta": {"key": "iifname"}}, {"ct": {"key": "state"}}, {"fib": {}}])


@given(left=KEYS | JSON, right=JSON, op=st.sampled_from(["==", "!=", "in", "<", "&"]))
def test_a_rule_leaves_the_answer_in_its_bounds(left: Any, right: Any, op: str) -> None:
    assert answer(match(left, right, op), say("drop"), policy="drop") is CLOSED


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(text: bytes) -> None:
    try:
        Ruleset.read(nftables.split(text))
    except nftables.NotARuleset:
        return
