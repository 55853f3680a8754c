"""Options: strict types, known keys only, and messages that say what would be right."""

from __future__ import annotations

import msgspec
import pytest
from dbus_next.signature import Variant
from hypothesis import given
from hypothesis import strategies as some

from kvmigd.bus import interface, path
from kvmigd.bus.options import key_of, known, parse
from kvmigd.errors import InvalidArguments
from kvmigd.model.job import CheckOptions, EvacuateOptions, MigrateOptions, NoOptions

NO = Variant(signature="b", value=False)


def test_keys_are_camel_case_and_usec_keeps_its_capitals() -> None:
    assert [key_of(field) for field in ("bandwidth", "deadline_usec", "max_pause_usec", "on_error")] == [
        "bandwidth",
        "deadlineUSec",
        "maxPauseUSec",
        "onError",
    ]


def test_all_options_of_the_model_can_be_given() -> None:
    assert known(EvacuateOptions) == {"shutdown": ("shutdown", "b"), "deadlineUSec": ("deadline_usec", "t")}
    assert known(MigrateOptions) == {"bandwidth": ("bandwidth", "t")}
    assert known(CheckOptions) == {
        "prove": ("prove", "b"),
        "strict": ("strict", "b"),
        "copyDisks": ("copy_disks", "b"),
        "offline": ("offline", "b"),
    }
    assert known(NoOptions) == {}


@pytest.mark.parametrize(
    ("method", "shape"), [("Check", CheckOptions), ("Migrate", MigrateOptions), ("Evacuate", EvacuateOptions)]
)
def test_all_options_are_documented(method: str, shape: type[msgspec.Struct]) -> None:
    text = interface.path_of(path.MANAGER).read_text(encoding="utf-8")
    documentation = text.split(f"{method}: ")[1].split("-->")[0]
    for key, (_, signature) in known(shape).items():
        assert f"        {key} {signature} " in documentation


def test_defaults_are_the_models() -> None:
    assert parse({}, CheckOptions, method="Check") == CheckOptions()
    assert parse({"prove": NO}, CheckOptions, method="Check") == CheckOptions(prove=False)


@given(key=some.text(), signature=some.sampled_from(["b", "s", "t", "u", "x", "v", "as"]))
def test_whatever_is_given_is_taken_or_refused_with_its_name(key: str, signature: str) -> None:
    values = {"b": True, "s": "text", "t": 1, "u": 1, "x": 1, "v": NO, "as": ["text"]}
    for name in (key, "deadlineUSec"):
        given_option = {name: Variant(signature, values[signature])}
        if (name, signature) in (("deadlineUSec", "t"), ("shutdown", "b")):
            assert isinstance(parse(given_option, EvacuateOptions, method="Evacuate"), EvacuateOptions)
            continue
        with pytest.raises(InvalidArguments) as caught:
            parse(given_option, EvacuateOptions, method="Evacuate")
        assert "Evacuate" in str(caught.value)
        assert repr(name[:64]) in str(caught.value) or name in str(caught.value)
