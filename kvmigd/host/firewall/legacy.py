"""Has iptables-legacy print its rules, where its tables are in use at all, and judges them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from kvmigd.host.firewall import iptables, question
from kvmigd.host.firewall.child import ChildFailed, Children, TooLarge
from kvmigd.host.firewall.packet import Packet, Verdict, address
from kvmigd.host.firewall.question import Question
from kvmigd.model.firewall import Answer

LIMIT_BYTES = 4 << 20
SECONDS = 5.0


class Legacy(msgspec.Struct, frozen=True, kw_only=True):
    """What was read, and when."""

    active: bool = False
    problem: str = ""
    problem_since_usec: int = 0
    rules: dict[str, iptables.Rules] = {}
    """By the command that printed them."""
    read_usec: int = 0

    def answers(self, questions: Sequence[Question]) -> list[Verdict]:
        """The verdicts, one for each question."""
        cuts = iptables.boundaries(self.rules.values())
        return [question.answer(one, self._judge, cuts) for one in questions]

    def _judge(self, packet: Packet) -> Verdict:
        source = address(packet.source)
        command = "ip6tables-legacy-save" if source is not None and source.version == 6 else "iptables-legacy-save"
        rules = self.rules.get(command)
        if rules is None:
            return Verdict(answer=Answer.OPEN)
        verdict = iptables.judge(rules, packet)
        moment = datetime.fromtimestamp(self.read_usec / 1e6, UTC)
        by = f"iptables-legacy {verdict.by} (read at {moment:%Y-%m-%d %H:%M:%S} UTC)"
        return msgspec.structs.replace(verdict, by=by)


def read(root: Path, children: Children, *, before: Legacy | None = None, seconds: float = SECONDS) -> Legacy:
    """The rules of both families, where their tables are in use; `before` is what was read the last time. Blocks."""
    commands = iptables.tables(root)
    rules: dict[str, iptables.Rules] = {}
    problem = ""
    try:
        for command in commands:
            text = children.output((command,), limit=LIMIT_BYTES, seconds=seconds)
            rules[command] = iptables.parse(text.decode("utf-8", "replace"))
    except ChildFailed as error:
        problem = f"the rules of iptables-legacy are not known: {error}"
    except TooLarge:
        problem = "iptables-legacy has more rules than kvmigd reads"
    now = time.time_ns() // 1000
    if problem:
        since = before.problem_since_usec if before is not None and before.problem else now
        return Legacy(active=True, problem=problem, problem_since_usec=since)
    return Legacy(active=any(not one.is_empty for one in rules.values()), rules=rules, read_usec=now)
