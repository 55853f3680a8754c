"""The old packet filter of the kernel (xtables, iptables-legacy): what `iptables-legacy-save` prints, judged.

The kernel tells nobody of changes there, so it is read when something else changes, and its verdicts say when that was.
iptables-nft is no concern of this module: its rules are nftables' and seen there.
"""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Iterable
from pathlib import Path

import msgspec

from kvmigd.host.firewall.packet import Packet, Verdict, address
from kvmigd.model.firewall import Answer

COMMANDS = {"ip_tables_names": "iptables-legacy-save", "ip6_tables_names": "ip6tables-legacy-save"}
"""By the file in /proc/net that tells the tables of each family (its lines are missing where there are none)."""
_TARGETS = {"ACCEPT": Answer.OPEN, "DROP": Answer.CLOSED, "REJECT": Answer.CLOSED}
_QUIET = frozenset(("LOG", "NFLOG", "ULOG", "MARK", "CONNMARK", "AUDIT", "TRACE", "CT", "NOTRACK", "SECMARK", "TCPMSS"))
_EXTENSIONS = frozenset(("comment", "tcp", "multiport", "conntrack", "state", "limit"))
"""Those whose options are understood; all others make a match uncertain."""
MAX_DEPTH = 32


class Rule(msgspec.Struct, frozen=True):
    """One rule: its words after the chain's name."""

    words: tuple[str, ...]
    text: str


class Rules(msgspec.Struct):
    """The filter table of one family."""

    policies: dict[str, str] = {}
    chains: dict[str, list[Rule]] = {}

    @property
    def is_empty(self) -> bool:
        """Nothing in it stops anything."""
        return self.policies.get("INPUT", "ACCEPT") == "ACCEPT" and not self.chains.get("INPUT")


def tables(root: Path) -> tuple[str, ...]:
    """Commands that print tables which are in use."""
    found = []
    for name, command in COMMANDS.items():
        try:
            text = (root / "proc/net" / name).read_text(encoding="ascii", errors="replace")
        except OSError:
            continue
        if text.strip():
            found.append(command)
    return tuple(found)


def parse(text: str) -> Rules:
    """The filter table, as it is saved. Lines that are not understood are rules that may do anything."""
    rules = Rules()
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif table != "filter":
            continue
        elif line.startswith(":"):
            name, _, rest = line[1:].partition(" ")
            rules.policies[name] = rest.split(" ")[0]
            rules.chains.setdefault(name, [])
        elif line.startswith("-A "):
            try:
                words = shlex.split(line)
            except ValueError:
                words = [*line.split()[:2], "?"]
            if len(words) >= 2:
                rules.chains.setdefault(words[1], []).append(Rule(tuple(words[2:]), line))
    return rules


def judge(rules: Rules, packet: Packet) -> Verdict:
    """What becomes of a connection of that family."""
    ways = _Walk(rules, packet).chain("INPUT")
    if None in ways:
        policy = rules.policies.get("INPUT", "ACCEPT")
        del ways[None]
        ways.setdefault(Answer.CLOSED if policy == "DROP" else Answer.OPEN, f"INPUT: policy {policy}")
    if len(ways) == 1:
        ((answer, by),) = ways.items()
        return Verdict(answer=answer or Answer.UNKNOWN, by=by)
    return Verdict(answer=Answer.UNKNOWN, by=f"{ways[Answer.CLOSED]} may drop it" if Answer.CLOSED in ways else "")


Ways = dict[Answer | None, str]
"""How it may end; None: the chain is left without a verdict."""


class _Walk:
    def __init__(self, rules: Rules, packet: Packet) -> None:
        self._rules = rules
        self._packet = packet
        self._known: dict[str, Ways] = {}
        self._depth = 0

    def chain(self, name: str) -> Ways:
        if name in self._known:
            return dict(self._known[name])
        anything: Ways = {Answer.OPEN: "", Answer.CLOSED: name, None: ""}
        if self._depth >= MAX_DEPTH:
            return anything
        self._known[name] = anything
        self._depth += 1
        found: Ways = {}
        for rule in self._rules.chains.get(name, ()):
            ways, goes_on = self._rule(rule)
            for way, by in ways.items():
                found.setdefault(way, by)
            if not goes_on:
                break
        else:
            found.setdefault(None, "")
        self._depth -= 1
        self._known[name] = found
        return dict(found)

    def _rule(self, rule: Rule) -> tuple[Ways, bool]:
        """How it may end at this rule, and whether it may go on to the next."""
        matched, target, is_goto = _match(rule.words, self._packet)
        if matched is False or target == "" or target in _QUIET:
            return {}, True
        if target in _TARGETS:
            ways: Ways = {_TARGETS[target]: rule.text}
        elif target == "RETURN":
            ways = {None: ""}
        elif target in self._rules.chains:
            ways = self.chain(target)
            if not is_goto and None in ways:
                del ways[None]
                return ways, True
        else:
            return {Answer.OPEN: rule.text, Answer.CLOSED: rule.text}, True
        return ways, matched is not True


def _match(words: tuple[str, ...], packet: Packet) -> tuple[bool | None, str, bool]:
    """Whether a rule matches (None: perhaps), its target, and whether that is a goto."""
    matched: bool | None = True
    target, is_goto = "", False
    rest = list(words)
    while rest:
        negated = rest[0] == "!"
        if negated:
            rest.pop(0)
            if not rest:
                return None, "?", False
        option = rest.pop(0)
        values = []
        while rest and not rest[0].startswith("-") and rest[0] != "!":
            values.append(rest.pop(0))
        value = values[0] if values else ""
        if option in ("-j", "-g", "--jump", "--goto"):
            # what follows the target are its own options
            target, is_goto = value or "?", option in ("-g", "--goto")
            break
        answer = _option(option, value, packet) if option != "--tcp-flags" else _flags(values)
        if negated and answer is not None:
            answer = not answer
        if answer is False:
            matched = False
        elif answer is None and matched:
            matched = None
    return matched, target, is_goto


def _option(option: str, value: str, packet: Packet) -> bool | None:
    if option in ("-s", "--source"):
        return _within(packet.source, value)
    if option in ("-d", "--destination"):
        return _within(packet.destination, value) if packet.destination else None
    if option in ("-p", "--protocol"):
        return value in ("tcp", "6", "all", "0")
    if option in ("-i", "--in-interface"):
        if not packet.link:
            return None
        return packet.link.startswith(value[:-1]) if value.endswith("+") else packet.link == value
    if option in ("--dport", "--dports", "--destination-port", "--destination-ports"):
        return _ports(value, packet.port)
    if option in ("--ctstate", "--state"):
        return "NEW" in value.split(",")
    if option in ("--syn", "--comment", "--limit", "--limit-burst"):
        return True
    if option in ("-m", "--match"):
        # an extension's options follow; one whose options are not known has said nothing yet
        return True if value in _EXTENSIONS else None
    return None


def _flags(values: list[str]) -> bool | None:
    """Mask and what of it has to be set: the packet has SYN only."""
    if len(values) != 2:
        return None
    mask = {"SYN"} if values[0] == "ALL" else {"SYN"} & set(values[0].split(","))
    return mask == set(values[1].split(",")) - {"NONE"}


def _within(text: str, network: str) -> bool | None:
    one = address(text)
    try:
        return one is not None and one in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return None


def _ports(value: str, port: int) -> bool | None:
    found = False
    for part in value.split(","):
        first, colon, last = part.partition(":")
        ends = (first or "0", (last or "65535") if colon else first)
        if not all(end.isascii() and end.isdigit() and len(end) <= 5 for end in ends):
            return None
        found = found or int(ends[0]) <= port <= int(ends[1])
    return found


def boundaries(all_rules: Iterable[Rules]) -> set[int]:
    """Numbers in rules that may be ports."""
    found: set[int] = set()
    for rules in all_rules:
        for chain in rules.chains.values():
            for rule in chain:
                for word in rule.words:
                    for part in word.replace(":", ",").split(","):
                        if part.isascii() and part.isdigit() and len(part) <= 5:
                            found.update((int(part) - 1, int(part)))
    return found
