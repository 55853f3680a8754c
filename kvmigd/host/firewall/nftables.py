"""nftables' ruleset as `nft -j` prints it, and what it does with a connection. Pure, and total.

Each base chain that the connection passes through has to accept it: an accept in one does not override a drop in
another. Where a rule may match or not, both ways are followed; the answer is unknown only if they end differently.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from kvmigd.host.firewall.nftmatch import Named, Subject, equal, matches
from kvmigd.host.firewall.packet import Packet, Verdict
from kvmigd.model.firewall import Answer

ACCEPT, DROP, NEXT, RETURN = "accept", "drop", "next", "return"
Outcomes = dict[str, str]
"""Every way it may end, with the first rule that may bring it there."""

_HOOKS = ("ingress", "prerouting", "input")
"""What a packet to the host itself passes through, in this order (nft(8), address families)."""
_EFFECTS: Outcomes = {ACCEPT: "", DROP: "", NEXT: "", RETURN: ""}
_PASSED = frozenset(
    (
        *("counter", "log", "comment", "set", "map", "add", "delete", "last", "notrack", "snat", "masquerade", "flow"),
        *("dup", "secmark", "ct helper", "ct timeout", "ct expectation"),
    )
)
"""Statements that neither decide nor change what is asked here."""
_UNPREDICTABLE = frozenset(("queue", "dnat", "redirect", "tproxy", "synproxy", "fwd"))
"""Statements that end the chain, and what comes of it is not told by the rules."""
_MARKS = ("meta", "ct")
_TARGETS = {"DROP": DROP, "REJECT": DROP, "ACCEPT": ACCEPT, "RETURN": RETURN}
_QUIET_TARGETS = ("LOG", "NFLOG", "TCPMSS", "MARK", "CONNMARK", "AUDIT", "TRACE", "CT", "NOTRACK", "TOS", "DSCP")
MAX_DEPTH = 32
"""The kernel itself takes 16 jumps (NFT_JUMP_STACK_SIZE)."""
_NUMBER = re.compile(rb"(?<![\w.:])\d{1,5}(?![\w.:])")

Chain = tuple[str, str, str]
"""Family, table and name."""


class BaseChain(msgspec.Struct, frozen=True):
    """A chain that the kernel itself enters."""

    name: Chain
    kind: str
    hook: str
    priority: int
    policy: str
    devices: tuple[str, ...] = ()

    @property
    def order(self) -> tuple[int, int]:
        """Its place on the packet's way."""
        return _HOOKS.index(self.hook), self.priority


class _Listing(msgspec.Struct):
    nftables: list[msgspec.Raw] = []


class NotARuleset(Exception):
    """What was printed is no ruleset."""


def split(text: bytes) -> list[msgspec.Raw]:
    """The objects of a listing, not decoded yet; raises NotARuleset."""
    try:
        return msgspec.json.decode(text, type=_Listing).nftables
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise NotARuleset(str(error)) from error


def boundaries(parts: Iterable[msgspec.Raw]) -> set[int]:
    """All numbers that may be ports in rules and sets: between two of them all ports are treated alike."""
    found: set[int] = set()
    for part in parts:
        raw = bytes(part)
        if b"port" in raw or b"inet_service" in raw:
            found.update(map(int, _NUMBER.findall(raw)))
    return found


class Ruleset:
    """The base chains that matter, the rules below them, and the sets that they look into."""

    def __init__(self) -> None:
        self.bases: list[BaseChain] = []
        self.rules: dict[Chain, list[dict[str, Any]]] = {}
        self.sets: dict[tuple[str, str], dict[str, Any]] = {}

    @classmethod
    def read(cls, parts: Iterable[msgspec.Raw], packets: Sequence[Packet] = ()) -> Ruleset:
        """Take a listing. With `packets`, rules that match none of them are left out at once: there may be many."""
        ruleset = cls()
        subjects = [Subject(packet) for packet in packets]
        for subject in subjects:
            subject.is_tracked = False  # a rule that asks for its state may match or not, which judge() finds out
        for part in parts:
            try:
                item = msgspec.json.decode(part)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                continue
            if isinstance(item, dict) and len(item) == 1:
                ((kind, body),) = item.items()
                if isinstance(body, dict):
                    ruleset._take(str(kind), body, subjects)
        ruleset.bases.sort(key=lambda base: base.order)
        return ruleset

    def _take(self, kind: str, body: dict[str, Any], subjects: Sequence[Subject]) -> None:
        family, table = str(body.get("family", "")), str(body.get("table", ""))
        name = str(body.get("name", ""))
        if kind in ("set", "map"):
            # Without `elem` it is empty. What packets themselves fill changes without any event: not known.
            flags = body.get("flags", [])
            is_dynamic = flags == "dynamic" or (isinstance(flags, list) and "dynamic" in flags)
            elements = None if is_dynamic else body.get("elem", [])
            self.sets.setdefault((family, table), {})[name] = elements
        elif kind == "chain":
            base = _base((family, table, name), body)
            if base is not None:
                self.bases.append(base)
        elif kind == "rule":
            known = self.sets.get((family, table), {})
            if not subjects or any(_may_match(subject, body.get("expr"), known) for subject in subjects):
                self.rules.setdefault((family, table, str(body.get("chain", ""))), []).append(body)

    def judge(self, packet: Packet) -> Verdict:
        """What becomes of a connection."""
        subject = Subject(packet)
        if subject.source is None:
            return Verdict(answer=Answer.UNKNOWN, by=f"{packet.source} is no address")
        by, doubt = "", ""
        for base in self.bases:
            ways = _Walk(self, subject).base(base)
            if set(ways) == {DROP}:
                return Verdict(answer=Answer.CLOSED, by=ways[DROP])
            if DROP in ways:
                doubt = doubt or ways[DROP]
            elif ACCEPT in ways:
                by = ways[ACCEPT]
        if doubt:
            return Verdict(answer=Answer.UNKNOWN, by=f"{doubt} may drop it")
        return Verdict(answer=Answer.OPEN, by=by)


def _base(name: Chain, body: dict[str, Any]) -> BaseChain | None:
    """The base chain, if connections to the host itself come through it."""
    hook, priority = body.get("hook"), body.get("prio", 0)
    if hook not in _HOOKS or name[0] not in ("ip", "ip6", "inet", "bridge", "netdev"):
        return None
    devices = body.get("dev", [])
    return BaseChain(
        name=name,
        kind=str(body.get("type", "")),
        hook=str(hook),
        priority=priority if isinstance(priority, int) else 0,
        policy=str(body.get("policy", "accept")),
        devices=tuple(map(str, devices)) if isinstance(devices, list) else (str(devices),),
    )


def relevant_tables(parts: Iterable[msgspec.Raw]) -> tuple[tuple[str, str], ...]:
    """Family and name of the tables that have such chains, of a listing of chains."""
    return tuple(dict.fromkeys(base.name[:2] for base in Ruleset.read(parts).bases))


def _may_match(subject: Subject, statements: Any, sets: Named) -> bool:
    if not isinstance(statements, list):
        return True
    for statement in statements:
        if isinstance(statement, dict) and "match" in statement and matches(subject, statement["match"], sets) is False:
            return False
    return True


class _Walk:
    """One packet's way through one base chain."""

    def __init__(self, ruleset: Ruleset, subject: Subject) -> None:
        self._ruleset = ruleset
        self._subject = subject
        self._known: dict[Chain, Outcomes] = {}
        self._depth = 0

    def base(self, base: BaseChain) -> Outcomes:
        """How it may end there: accept, drop or both."""
        family = base.name[0]
        if family in ("ip", "ip6") and family != self._subject.family:
            return {ACCEPT: ""}
        ways = dict(self.chain(base.name))
        if RETURN in ways:
            del ways[RETURN]
            ways.setdefault(DROP if base.policy == "drop" else ACCEPT, f"{_place(base.name)}: policy {base.policy}")
        link = self._subject.packet.link
        if base.devices and link and link not in base.devices:
            return {ACCEPT: ""}
        if (base.devices and not link) or family == "bridge":
            ways.setdefault(ACCEPT, "")  # it may not come this way
        return ways

    def chain(self, name: Chain) -> Outcomes:
        """How it may leave a chain: accept, drop, return."""
        if name in self._known:
            return self._known[name]
        if self._depth >= MAX_DEPTH:
            return {ACCEPT: "", DROP: _place(name), RETURN: ""}
        self._known[name] = {ACCEPT: "", DROP: _place(name), RETURN: ""}  # for a circle, which the kernel would refuse
        self._depth += 1
        found: Outcomes = {}
        for rule in self._ruleset.rules.get(name, ()):
            ways = self._rule(name, rule)
            for way, by in ways.items():
                if way != NEXT:
                    found.setdefault(way, by)
            if NEXT not in ways:
                break
        else:
            found.setdefault(RETURN, "")
        self._depth -= 1
        self._known[name] = found
        return found

    def _rule(self, chain: Chain, rule: dict[str, Any]) -> Outcomes:
        """What a rule may do with it."""
        statements = rule.get("expr", [])
        label = _label(chain, rule)
        if not isinstance(statements, list):
            return dict.fromkeys(_EFFECTS, label)
        sets = self._ruleset.sets.get(chain[:2], {})
        certain = True
        obscure = False
        for statement in statements:
            if not isinstance(statement, dict) or len(statement) != 1:
                return dict.fromkeys(_EFFECTS, label)
            ((kind, body),) = statement.items()
            if kind == "match":
                answer = matches(self._subject, body, sets)
            elif kind in ("limit", "ct count", "connlimit"):
                # `over` is what one connection is not
                answer = not (isinstance(body, dict) and body.get("inv"))
            elif kind == "quota":
                answer = None
            elif kind in (ACCEPT, DROP, "reject", RETURN, "continue", "jump", "goto", "vmap", *_UNPREDICTABLE):
                ways = self._verdict(chain, kind, body, label)
                if obscure:
                    ways = {**dict.fromkeys(_EFFECTS, label), **ways}
                return ways if certain else {**ways, NEXT: ""}
            elif kind == "xt":
                ways, answer = _extension(body, label)
                if ways:
                    return ways if certain else {**ways, NEXT: ""}
                obscure = obscure or (answer is None and statement is statements[-1])
            elif kind == "mangle":
                answer = True if _mangles_marks(body) else None
                obscure = obscure or answer is None
            elif kind in _PASSED:
                answer = True
                if kind == "notrack":
                    self._subject.is_tracked = False
            else:
                answer = None
                obscure = True
            if answer is False:
                return {NEXT: ""}
            certain = certain and answer is True
        return dict.fromkeys(_EFFECTS, label) if obscure else {NEXT: ""}

    def _verdict(self, chain: Chain, kind: str, body: Any, label: str) -> Outcomes:
        if kind in (ACCEPT, RETURN):
            return {kind: label}
        if kind in (DROP, "reject"):
            return {DROP: label}
        if kind == "continue":
            return {NEXT: ""}
        if kind in ("jump", "goto"):
            target = body.get("target") if isinstance(body, dict) else None
            if not isinstance(target, str):
                return dict.fromkeys(_EFFECTS, label)
            ways = dict(self.chain((chain[0], chain[1], target)))
            if kind == "jump" and RETURN in ways:
                del ways[RETURN]
                ways[NEXT] = ""
            return ways
        if kind == "vmap":
            return self._verdict_map(chain, body, label)
        return {ACCEPT: label, DROP: label}

    def _verdict_map(self, chain: Chain, body: Any, label: str) -> Outcomes:
        """Look the verdict up; what is not in the map goes on with the next rule."""
        everything = dict.fromkeys(_EFFECTS, label)
        if not isinstance(body, dict):
            return everything
        sets = self._ruleset.sets.get(chain[:2], {})
        value = self._subject.field(body.get("key"))
        data = body.get("data")
        if isinstance(data, str) and data.startswith("@"):
            entries = sets.get(data[1:])
        else:
            entries = data.get("set") if isinstance(data, dict) else None
        if not isinstance(entries, list):
            return everything
        found: Outcomes = {}
        for entry in entries:
            if not isinstance(entry, list) or len(entry) != 2:
                return everything
            answer = equal(value, entry[0], sets)
            if answer is False:
                continue
            if not isinstance(entry[1], dict) or len(entry[1]) != 1:
                return everything
            ((kind, target),) = entry[1].items()
            for way, by in self._verdict(chain, str(kind), target, label).items():
                found.setdefault(way, by)
            if answer:
                return found
        found.setdefault(NEXT, "")
        return found


def _extension(body: Any, label: str) -> tuple[Outcomes, bool | None]:
    """An extension of iptables-nft; older nft (1.0.6) prints `null` for it."""
    if not isinstance(body, dict) or body.get("type") != "target":
        return {}, None
    name = str(body.get("name"))
    if name in _TARGETS:
        return {_TARGETS[name]: label}, None
    return ({}, True) if name in _QUIET_TARGETS else (dict.fromkeys(_EFFECTS, label), None)


def _mangles_marks(body: Any) -> bool:
    key = body.get("key") if isinstance(body, dict) else None
    return isinstance(key, dict) and any(name in key for name in _MARKS)


def _place(chain: Chain) -> str:
    return " ".join(chain)


def _label(chain: Chain, rule: dict[str, Any]) -> str:
    comment = rule.get("comment")
    return f"{_place(chain)}: rule {rule.get('handle', '?')}" + (f' "{comment}"' if comment else "")
