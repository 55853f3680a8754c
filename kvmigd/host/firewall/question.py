"""What is asked of a packet filter: whether a peer reaches a range of ports."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from kvmigd.host.firewall.nftables import Ruleset, boundaries
from kvmigd.host.firewall.packet import Packet, Verdict, together
from kvmigd.model.firewall import Answer


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """Whether connections from an address reach all ports of a range."""

    source: str
    first: int
    last: int
    link: str = ""
    destination: str = ""

    def packets(self, cuts: Iterable[int]) -> list[tuple[Packet, str]]:
        """A connection for each part of the range whose ports no rule tells apart, with the part's name."""
        inside = {cut + more for cut in cuts for more in (0, 1) if self.first < cut + more <= self.last}
        starts = sorted({self.first, *inside})
        ends = [*(start - 1 for start in starts[1:]), self.last]
        return [
            (
                Packet(source=self.source, port=start, link=self.link, destination=self.destination),
                _name(start, end) if len(starts) > 1 else "",
            )
            for start, end in zip(starts, ends, strict=True)
        ]


def _name(first: int, last: int) -> str:
    return f"port {first}" if first == last else f"ports {first}-{last}"


def answer(question: Question, judge: Callable[[Packet], Verdict], cuts: Iterable[int]) -> Verdict:
    """Judge the whole range: it is open if all of it is."""
    parts = [(judge(packet), name) for packet, name in question.packets(cuts)]
    answers = {verdict.answer for verdict, _ in parts}
    if len(answers) == 1:
        return parts[0][0]
    return together(
        msgspec.structs.replace(verdict, by=f"{verdict.by} ({name})") if verdict.answer is not Answer.OPEN else verdict
        for verdict, name in parts
    )


def from_listing(parts: Sequence[msgspec.Raw], questions: Sequence[Question]) -> tuple[bool, list[Verdict]]:
    """Whether nftables has chains that matter at all, and the verdict of its rules on each question."""
    cuts = boundaries(parts)
    # several purposes may have the same ports
    packets = tuple({packet for question in questions for packet, _ in question.packets(cuts)})
    ruleset = Ruleset.read(parts, packets)
    judged = {packet: ruleset.judge(packet) for packet in packets}
    return bool(ruleset.bases), [answer(question, judged.__getitem__, cuts) for question in questions]
