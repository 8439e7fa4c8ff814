from __future__ import annotations

import pytest

from lightning_init.checkpoint.matching.revise import revise
from lightning_init.checkpoint.matching.rules import KeyRules
from lightning_init.errors import CheckpointError, Fault


def revised(names: list[str], *pairs: tuple[str, str], exclude: str | None = None) -> list[str]:
    rules = KeyRules.parse(revise_keys=pairs, exclude=exclude)
    return list(revise({name: name for name in names}, rules, "w.pth").names.values())


def clash(names: list[str], *pairs: tuple[str, str]) -> Fault:
    with pytest.raises(CheckpointError) as caught:
        revised(names, *pairs)
    (fault,) = caught.value.faults
    return fault


@pytest.mark.parametrize(
    ("name", "pairs", "expected"),
    [
        ("a.gamma", [(r"\.gamma$", ".weight")], "a.weight"),
        ("layer1.0.conv", [(r"layer(\d)\.(\d)", r"stages.\1.blocks.\2")], "stages.1.blocks.0.conv"),
        # one after the other, each on what the one before left
        ("a", [("a", "b"), ("b", "c"), ("a", "x")], "c"),
        ("a.a", [("a", "b")], "b.b"),
        # as it is first, then without what wrappers put in
        ("module.net.w", [("^net", "x")], "x.w"),
        ("net._orig_mod.block.w", [(r"net\.block", "y")], "y.w"),
        ("module.net.w", [("^module", "x")], "x.net.w"),
        ("module.net.w", [("^", "x.")], "x.module.net.w"),
        # wrapper parts stay where nothing is found or changed
        ("module.net.w", [("^head", "x")], "module.net.w"),
        ("module.net.w", [("^net", "net")], "module.net.w"),
    ],
)
def test_pairs_are_substituted_in_order(name: str, pairs: list[tuple[str, str]], expected: str) -> None:
    assert revised([name], *pairs) == [expected]


def test_a_pair_that_changes_nothing_is_told() -> None:
    rules = KeyRules.parse(revise_keys=[("^a", "b"), ("^a", "c"), ("b", "b")])
    found = revise({"a.x": "a.x", "d": "d"}, rules, "w.pth")
    assert [str(warning) for warning in found.warnings] == [
        "revise_keys[1]: ('^a', 'c') changes no key of 'w.pth'; some of them: 'b.x', 'd'",
        "revise_keys[2]: ('b', 'b') changes no key of 'w.pth'; some of them: 'b.x', 'd'",
    ]


def test_two_keys_with_one_name_afterwards() -> None:
    fault = clash(["q.w", "k.w", "v.b"], ("x", "y"), (r"^[qk]\.", "p."))
    assert fault.where == "revise_keys[1]"
    assert "several keys of 'w.pth' have one name after revision" in fault.what
    assert fault.what.endswith("\n      'p.w' from 'q.w', 'k.w' by revise_keys[1] ('^[qk]\\\\.', 'p.')")


def test_a_revised_key_and_one_that_was_called_so_before() -> None:
    fault = clash(["net.w", "w"], (r"^net\.", ""))
    assert fault.where == "revise_keys[0]"
    assert "'w' from 'net.w', 'w' by revise_keys[0]" in fault.what


def test_names_that_fall_together_by_several_pairs() -> None:
    fault = clash([f"{kind}.{i}" for kind in "abc" for i in range(10)], ("a", "x"), ("b", "x"))
    assert fault.where == "revise_keys"
    assert "'x.0' from 'a.0', 'b.0' by revise_keys[0] ('a', 'x') and revise_keys[1] ('b', 'x')" in fault.what
    assert fault.what.endswith("and 2 more names")
    assert fault.what.count("\n") == 9


def test_what_is_excluded_may_fall_together() -> None:
    assert revised(["head.0", "head.1", "a"], ("head.*", "gone"), exclude="gone") == ["gone", "gone", "a"]


def test_keys_that_no_pair_changes_may_be_called_alike() -> None:
    # Two keys below one prefix, one of them below a wrapper too: which of them is meant is not for pairs to say.
    rules = KeyRules.parse(revise_keys=[("^b", "c")])
    found = revise({"net.a": "a", "module.net.a": "a", "net.b": "b"}, rules, "w.pth")
    assert found.names == {"net.a": "a", "module.net.a": "a", "net.b": "c"}
