"""nftables' news and listings: netlink's messages, and an nft that is a script."""

from __future__ import annotations

import struct
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmigd.host.firewall import child, dump
from kvmigd.host.firewall.child import Children
from kvmigd.host.firewall.dump import DumpFailed, Reader
from kvmigd.host.firewall.generation import NFT_MSG_NEWGEN, generations
from kvmigd.host.firewall.question import Question
from kvmigd.model.firewall import Answer

NEWGEN = bytes.fromhex("2c0000000f0a0000010000007d410000000000030800010000000003080002000000417d080003006e667400")
"""As Linux 6.18 sends it after `nft add rule`."""
QUESTION = Question(source="10.77.1.12", first=16515, last=16515)
RULESETS = Path(__file__).parent / "rulesets"


def test_a_new_generation_is_heard() -> None:
    assert list(generations(NEWGEN)) == [3]
    other = struct.pack("=IHHII", 20, 0x0A06, 0, 0, 0) + bytes(4)
    assert list(generations(other + NEWGEN)) == [3]


@given(st.binary(max_size=120), st.integers(0, len(NEWGEN)))
def test_any_datagram_is_read(data: bytes, cut: int) -> None:
    for datagram in (data, NEWGEN[:cut] + data, struct.pack("=IHHII", 64, NFT_MSG_NEWGEN, 0, 0, 0) + data):
        assert all(number >= 0 for number in generations(datagram))


@pytest.fixture
def nft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script in nft's place."""
    monkeypatch.setattr(child, "ENVIRONMENT", {"PATH": f"{tmp_path}:/usr/bin:/bin"})
    return tmp_path / "nft"


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def read(*, seconds: float = 10.0, reader: Reader | None = None) -> dump.Rules:
    return (reader or Reader(seconds=seconds)).read([QUESTION], Children())


def test_rules_are_listed_and_judged(nft: Path) -> None:
    script(nft, f"cat {RULESETS / 'features.json'}")
    rules = read()
    assert rules.active
    assert rules.verdicts[0].answer is Answer.OPEN
    script(nft, f"""sed 's/"accept": null/"drop": null/' {RULESETS / "features.json"}""")
    assert read().verdicts[0].answer is Answer.CLOSED
    script(nft, """echo '{"nftables": []}'""")
    rules = read()
    assert not rules.active
    assert rules.verdicts[0].answer is Answer.OPEN


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("echo nonsense", "malformed"),
        ("echo 'Operation not permitted' >&2; exit 1", "Operation not permitted"),
        ("exit 3", "exit status 3"),
        ("exec sleep 60", "has not answered within 0.2 s"),
        ("exec >&- 2>&-; exec sleep 60", "has not answered within 0.2 s"),
    ],
)
def test_what_goes_wrong_is_said(nft: Path, text: str, problem: str) -> None:
    script(nft, text)
    with pytest.raises(DumpFailed, match=problem):
        read(seconds=0.2 if "sleep" in text else 10.0)


def test_nft_is_missing(nft: Path) -> None:
    with pytest.raises(DumpFailed, match="No such file"):
        read()


def test_a_cancelled_reading_ends_its_programs(nft: Path) -> None:
    script(nft, "exec sleep 60")
    children = Children()
    timer = threading.Timer(0.1, children.cancel)
    timer.start()
    began = time.monotonic()
    with pytest.raises(DumpFailed):
        Reader(seconds=30.0).read([QUESTION], children)
    assert time.monotonic() - began < 20.0
    timer.join()
    with pytest.raises(DumpFailed):
        Reader(seconds=30.0).read([QUESTION], children)


LISTS = """
case "$3" in
ruleset) head -c 300000 /dev/zero;;
chains) echo '{"nftables": [{"chain": {"family": "inet", "table": "small", "name": "in", "hook": "input", "prio": 0,
 "policy": "accept"}}, {"chain": {"family": "inet", "table": "huge", "name": "out", "hook": "output", "prio": 0}}]}';;
table) [ "$5" = small ] || exit 9
echo '{"nftables": [{"chain": {"family": "inet", "table": "small", "name": "in", "hook": "input", "prio": 0,
 "policy": "drop"}}]}' | tr -d '\\n';;
esac
"""


def test_of_many_rules_only_tables_that_matter_are_listed(nft: Path) -> None:
    script(nft, LISTS)
    rules = read()
    assert rules.verdicts[0].answer is Answer.CLOSED
    assert rules.verdicts[0].by == "inet small in: policy drop"
