"""The failure dictionary: each message means exactly its entry, and no text breaks it or is guessed at."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmigd.checks.catalogue import CHECKS
from kvmigd.checks.failures import DICTIONARY, HostRole, Meaning, finding_of, meanings, understood
from kvmigd.checks.failures.entry import Entry, entry
from kvmigd.checks.failures.expected import EXPECTED
from kvmigd.checks.failures.meaning import FOUND_LENGTH
from kvmigd.model.finding import Basis, Finding, Severity
from tests.unit.failure_texts import NOT_UNDERSTOOD, TEXTS


def finding(text: str, number: int = 0) -> Finding:
    meaning = understood(text, number)
    assert meaning is not None, text
    return finding_of(meaning, here="hosta", there="hostb", raw=text, guest="web")


def ids(case: tuple[int, str, str, str]) -> str:
    return f"{case[2]}-{case[1][-48:]}"


def test_every_entry_is_of_a_check_in_the_catalogue() -> None:
    assert {entry.check for entry in DICTIONARY} <= CHECKS.keys()


@pytest.mark.parametrize("case", TEXTS, ids=ids)
def test_a_text_becomes_the_check_that_should_have_known(case: tuple[int, str, str, str]) -> None:
    number, text, check, subject = case
    found = finding(text, number)
    assert (found.check, found.subject) == (check, subject)
    assert found.severity is Severity.BLOCK
    assert found.basis is Basis.PROVED
    assert found.host in ("hosta", "hostb")
    assert found.summary.endswith(".")
    assert found.remedy
    assert found.expected


@pytest.mark.parametrize("case", TEXTS, ids=ids)
def test_without_libvirts_number_the_words_say_the_same(case: tuple[int, str, str, str]) -> None:
    number, text, check, _ = case
    meaning = understood(text)
    if meaning is None:
        assert understood("", number) is not None, "a number says it, in whatever language"
    else:
        assert meaning.check == check


def test_every_entry_is_what_some_text_means() -> None:
    meant = {id(next(meanings(text, number))[0]) for number, text, _, _ in TEXTS}
    missing = [one for one in DICTIONARY if id(one) not in meant]
    assert missing == []


def test_there_are_many_messages() -> None:
    assert sum(len(one.says) for one in DICTIONARY) >= 90


@pytest.mark.parametrize("case", TEXTS, ids=ids)
def test_a_text_that_fits_several_checks_means_the_one_that_stands_first(case: tuple[int, str, str, str]) -> None:
    number, text, check, _ = case
    positions = [DICTIONARY.index(one) for one, _ in meanings(text, number)]
    assert positions == sorted(positions)
    assert DICTIONARY[positions[0]].check == check


@pytest.mark.parametrize("one", DICTIONARY, ids=lambda one: f"{one.check}-{one.origin}"[:80])
def test_an_entry_is_whole(one: Entry) -> None:
    assert one.check in EXPECTED
    assert one.origin.startswith(("libvirt ", "qemu "))
    assert one.says or one.number
    known = {"here", "there", "guest"}
    for template in (one.summary, one.remedy, one.subject):
        names = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
        if not one.says:
            assert names <= known
        for says in one.says:
            assert names - known <= set(says.groupindex), says.pattern


def test_each_pattern_begins_with_constant_text_and_ends_soon() -> None:
    """Then no text takes long: the search looks for the constant part, and goes only so far from there."""
    for one in DICTIONARY:
        for says in one.says:
            constant = says.pattern.split("(?P<")[0].split("[^")[0]
            assert constant, says.pattern
            assert not set(says.pattern.replace("\\+", "").replace("\\*", "")) & {"+", "*"}, says.pattern


def test_each_expected_belongs_to_an_entry() -> None:
    assert set(EXPECTED) == {one.check for one in DICTIONARY}


@pytest.mark.parametrize(("number", "text"), NOT_UNDERSTOOD)
def test_what_nobody_has_entered_means_nothing(number: int, text: str) -> None:
    assert understood(text, number) is None


def test_the_cause_counts_and_not_the_warning_before_it() -> None:
    text = (
        "internal error: process exited while connecting to monitor: 2026-02-11T09:14:03.5Z qemu-kvm: warning: host "
        "doesn't support requested feature: MSR(48DH).vmx-posted-intr [bit 7]\n2026-02-11T09:14:03.6Z qemu-kvm: "
        "warning: Machine type received is 'a' and local is 'b'\n"
        "2026-02-11T09:14:03.6Z qemu-kvm: -blockdev {...}: Could not open '/srv/vm/a.qcow2': No such file or directory"
    )
    assert finding(text).check == "storage.path"


def test_the_end_of_a_long_log_is_read() -> None:
    text = "internal error: process exited while connecting to monitor: " + "x" * 65536
    assert finding(text).check == "migration.start"
    assert finding(f"{text}\nCould not open '/srv/vm/a.qcow2': No such file or directory").check == "storage.path"


def test_what_is_said_names_the_host_on_which_it_is_mended() -> None:
    there = finding("Cannot get interface MTU on 'br0': No such device", 38)
    assert there.host == "hostb"
    assert there.summary == "There is no bridge br0 on hostb."
    assert there.remedy.startswith("On hostb: ip link add br0 type bridge")
    here = finding("Requested operation is not valid: cannot migrate domain with 3 snapshots", 55)
    assert here.host == "hosta"
    assert "virsh snapshot-list web" in here.remedy


def test_the_certificate_of_the_client_is_the_sources() -> None:
    words = "internal error: unable to execute QEMU command 'object-add': Unable to access credentials /etc/pki/qemu/"
    assert finding(words + "client-cert.pem: No such file or directory").host == "hosta"
    assert finding(words + "server-cert.pem: No such file or directory").host == "hostb"


def test_a_remedy_is_safe_to_paste() -> None:
    """libvirt names what a definition names; a path may hold anything."""
    path = "/srv/$(touch x); {here} \x1b[31m"
    found = finding(f"Could not open '{path}': No such file or directory")
    assert "findmnt -T '/srv/$(touch x); {here} ?[31m'" in found.remedy
    assert found.subject == "/srv/$(touch x); {here} ?[31m"
    assert "\x1b" not in found.summary + found.found


def test_a_long_text_is_shown_by_its_beginning_and_its_end() -> None:
    text = f"internal error: {'x' * 3000}: Could not open '/srv/vm/a.qcow2': No such file or directory"
    found = finding(text)
    assert len(found.found) <= FOUND_LENGTH
    assert found.found.startswith("internal error: ")
    assert found.found.endswith("Could not open '/srv/vm/a.qcow2': No such file or directory")


def test_a_number_that_is_another_says_something_else() -> None:
    one = entry(
        "storage.path", "gone: {path}", number=38, origin="libvirt x", summary="{path}.", remedy="r", subject="{path}"
    )
    assert one.read("gone: /x", 9) is None
    for number in (0, 38):
        meaning = one.read("gone: /x", number)
        assert isinstance(meaning, Meaning)
        assert meaning.groups == {"path": "/x"}
        assert meaning.host_role is HostRole.DESTINATION


PIECES = st.sampled_from(
    [text for _, text, _, _ in TEXTS] + ["'", '"', "\n", "\0", "{", "}", ": ", "\udcff", "(as uid:"]
)


@given(
    text=st.one_of(
        st.text(), st.lists(PIECES, max_size=12).map("".join), st.binary().map(lambda raw: raw.decode("latin-1"))
    ),
    number=st.integers(-1, 120),
)
def test_no_text_breaks_it(text: str, number: int) -> None:
    meaning = understood(text, number)
    if meaning is not None:
        found = finding_of(meaning, here="hosta", there="hostb", raw=text)
        assert found.check in EXPECTED
        assert len(found.found) <= FOUND_LENGTH
        assert (found.found + found.subject + found.summary + found.remedy).isprintable()


@pytest.mark.parametrize(
    "piece", ["'", "a", "Could not open '", 'Failed to get "', "Target ", "Size mismatch: a: ", "{"]
)
def test_lines_without_end_are_read_too(piece: str) -> None:
    understood(piece * (65536 // len(piece)), 1)
