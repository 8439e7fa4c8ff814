from __future__ import annotations

from collections.abc import Sequence

import pytest

from lightning_init.checkpoint.matching.keys import Keys
from lightning_init.checkpoint.matching.naming import without_wrappers
from lightning_init.checkpoint.matching.rules import KeyRules
from lightning_init.errors import CheckpointError


def keys(*names: str, prefix: str | None = None) -> Keys:
    return Keys(names, KeyRules.parse(prefix=prefix), "w.pth")


def absent(names: Sequence[str], prefix: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        Keys(names, KeyRules.parse(prefix=prefix), "w.pth")
    assert [fault.where for fault in caught.value.faults] == ["prefix"]
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "stripped"),
    [
        ("a.weight", "a.weight"),
        ("module.a.weight", "a.weight"),
        ("module._orig_mod.a._orig_mod.b.module.weight", "a.b.weight"),
        ("_fsdp_wrapped_module.a._checkpoint_wrapped_module.weight", "a.weight"),
        ("_forward_module.a.weight", "a.weight"),
        ("modules.a_module.weight", "modules.a_module.weight"),
        ("a.module", "a.module"),
        ("module", "module"),
    ],
)
def test_wrapper_parts(key: str, stripped: str) -> None:
    assert without_wrappers(key) == stripped


@pytest.mark.parametrize(
    ("there", "name", "found"),
    [
        (["a.weight"], "a.weight", ["a.weight"]),
        (["module.a.weight"], "a.weight", ["module.a.weight"]),
        (["a._orig_mod.weight"], "a.weight", ["a._orig_mod.weight"]),
        (["a.weight"], "b.weight", []),
        (["_fsdp_wrapped_module.a._fsdp_wrapped_module.w"], "a.w", ["_fsdp_wrapped_module.a._fsdp_wrapped_module.w"]),
        (["_forward_module.module.a.w"], "a.w", ["_forward_module.module.a.w"]),
        # the key as it is wins
        (["module.a.weight", "a.weight"], "a.weight", ["a.weight"]),
        # two that cannot be told apart
        (["module.a.w", "_orig_mod.a.w"], "a.w", ["module.a.w", "_orig_mod.a.w"]),
        # a genuine submodule called module, with and without DDP
        (["module.a.weight"], "module.a.weight", ["module.a.weight"]),
        (["module.module.a.weight"], "module.a.weight", ["module.module.a.weight"]),
        (["module.b.module.a"], "b.module.a", ["module.b.module.a"]),
        # nothing is ever put in
        (["a.weight"], "module.a.weight", []),
        (["a.modules.weight"], "a.weight", []),
    ],
)
def test_the_keys_that_stand_for_a_name(there: list[str], name: str, found: list[str]) -> None:
    assert list(keys(*there).candidates(name)) == found


@pytest.mark.parametrize("prefix", ["backbone", "backbone."])
def test_a_prefix_with_and_without_its_dot(prefix: str) -> None:
    found = keys("backbone.a", "backbonex.a", "head.a", "module.backbone.b", "backbone._orig_mod.c", prefix=prefix)
    assert found.prefix == "backbone."
    assert found.below == ("backbone.a", "module.backbone.b", "backbone._orig_mod.c")
    assert [found.candidates(name) for name in "abcd"] == [
        ("backbone.a",),
        ("module.backbone.b",),
        ("backbone._orig_mod.c",),
        (),
    ]
    assert [found.relative(key) for key in found.below] == ["a", "b", "c"]


def test_a_prefix_below_a_wrapper_and_one_that_names_it() -> None:
    there = ("model._orig_mod.net.0.weight", "model._orig_mod.net.1.weight")
    assert keys(*there, prefix="model.net").candidates("0.weight") == there[:1]
    assert keys(*there, prefix="model._orig_mod.net.").candidates("1.weight") == there[1:]
    assert keys("module.a", "module.b", prefix="module.").candidates("a") == ("module.a",)


@pytest.mark.parametrize("prefix", [None, "", "."])
def test_no_prefix(prefix: str | None) -> None:
    found = keys("a", "b.c", prefix=prefix)
    assert found.prefix == ""
    assert found.below == ("a", "b.c")


@pytest.mark.parametrize("prefix", ["back", "bone", "backbone.conv.weight", "backbone.co", "backbone.conv.weight.x"])
def test_a_prefix_ends_at_the_boundary_of_a_module(prefix: str) -> None:
    told = absent(["backbone.conv.weight", "backbone.conv.bias", "module.head.bias"], prefix)
    assert f"'w.pth' has no key below '{prefix}.'" in told
    assert "the prefixes at its top (with numbers of keys) are 'backbone.' (2), 'head.' (1)" in told
    assert "some keys: 'backbone.conv.weight'" in told


def test_an_absent_prefix_that_stands_deeper() -> None:
    told = absent(["model.backbone.w", "model.head.w"], "backbone")
    assert "did you mean 'model.backbone.'?" in told
    assert "none" in absent(["w"], "backbone")


def test_a_hint_at_the_prefix_that_is_needed() -> None:
    found = keys("module.backbone.a.w", "backbone.b.w", "head.a.w", "step")
    assert found.hint(["a.w", "b.w", "c.w"]) == "2 of its keys match with prefix='backbone.'"


def test_a_hint_at_the_submodule_that_is_meant() -> None:
    found = keys("x.conv.w", "x.conv.b", "y.w", prefix="x")
    told = found.hint(["net.conv.w", "net.conv.b", "head.w"])
    assert told == "2 of its keys match below 'net' of the module: into='net' loads them there"
    assert found.hint(["other"]) == ""


def test_a_key_below_the_prefix_itself_is_meant_before_one_below_a_wrapper() -> None:
    for there in (["net.a", "module.net.a"], ["module.net.a", "net.a"]):
        assert keys(*there, prefix="net").candidates("a") == ("net.a",)
    both = ("module.net.a", "_orig_mod.net.a")
    assert keys(*both, prefix="net").candidates("a") == both


def test_parts_that_are_taken_out_above_the_prefix_count() -> None:
    found = keys("module.net._orig_mod.a", "net.b", prefix="net")
    assert found.removed("module.net._orig_mod.a", "a") == 2
    assert found.removed("module.net._orig_mod.a", "_orig_mod.a") == 1
    assert found.removed("net.b", "b") == 0
