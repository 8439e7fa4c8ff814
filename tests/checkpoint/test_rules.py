from __future__ import annotations

from typing import Any

import pytest

from lightning_init.checkpoint.matching.rules import KeyRules
from lightning_init.errors import InitConfigError


def faults(**arguments: Any) -> list[str]:
    with pytest.raises(InitConfigError) as caught:
        KeyRules.parse(**arguments)
    return [str(fault) for fault in caught.value.faults]


def test_nothing_said_is_no_rule() -> None:
    assert KeyRules.parse() == KeyRules() == KeyRules.parse(prefix="", revise_keys=[], include=(), exclude=[], into="")
    assert KeyRules.parse(prefix="net", into="a.b.") == KeyRules(prefix="net.", into="a.b")


def test_rules_are_values() -> None:
    arguments: dict[str, Any] = {"revise_keys": [("a", "b")], "include": "x.*", "exclude": ["y"]}
    assert KeyRules.parse(**arguments) == KeyRules.parse(**arguments)
    assert len({KeyRules.parse(**arguments), KeyRules.parse(**arguments), KeyRules.parse(include="x")}) == 2


@pytest.mark.parametrize(
    ("pair", "told"),
    [
        (("(", ""), "'(' is no regular expression: missing ), unterminated subpattern at position 0"),
        (("(a)", r"\2"), r"'\\2' is no replacement for '(a)', which has 1 groups: invalid group reference 2"),
        (("a", r"\g<x>"), r"'\\g<x>' is no replacement for 'a', which has 0 groups: unknown group name 'x'"),
        (("a", r"\q"), r"'\\q' is no replacement for 'a', which has 0 groups: bad escape \q"),
        ("ab", "must be a pair of strings (regular expression, replacement), got 'ab'"),
        (("a",), "must be a pair of strings"),
        (("a", "b", "c"), "must be a pair of strings"),
        (("a", None), "must be a pair of strings"),
        ({"a": "b"}, "must be a pair of strings"),
    ],
)
def test_a_pair_that_cannot_be_meant(pair: Any, told: str) -> None:
    # The replacement is judged although the pattern is found nowhere.
    assert [fault.startswith(f"revise_keys[1]: {told}") for fault in faults(revise_keys=[("a", "b"), pair])] == [True]


def test_every_fault_with_its_place() -> None:
    found = faults(prefix=1, revise_keys="a", include=["a", "re:("], exclude=3, into=["x"])
    assert [fault.partition(":")[0] for fault in found] == ["prefix", "into", "revise_keys", "include[1]", "exclude"]
    assert found[0] == "prefix: must be a string such as 'backbone.', or None, got 1"
    assert found[2] == "revise_keys: must be a list of pairs (regular expression, replacement), got 'a'"


@pytest.mark.parametrize(
    ("name", "admitted"),
    [
        ("net.conv.weight", True),
        ("net", True),
        ("network.weight", False),
        ("net.head.weight", False),
        ("net.heads.weight", True),
        ("net.conv.bias", False),
        ("step", False),
    ],
)
def test_include_and_exclude(name: str, admitted: bool) -> None:
    assert KeyRules.parse(include=["net"], exclude=["net.head", "**.bias"]).admits(name) is admitted


def test_one_name_of_several_is_enough() -> None:
    rules = KeyRules.parse(include="net", exclude="net.head")
    assert rules.admits("module.net.x", "net.x")
    assert not rules.admits("module.net.head", "net.head")
