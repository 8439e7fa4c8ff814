from __future__ import annotations

from dataclasses import replace

import torch

from lightning_init.checkpoint.matching.match import match
from lightning_init.checkpoint.matching.rules import KeyRules
from lightning_init.checkpoint.matching.target import Target
from lightning_init.scope import NamePattern
from tests.checkpoint.shapes import NET, Shapes, target, told


def test_prefix_wrappers_and_revision_in_their_order() -> None:
    there = Shapes(module_enc_body_w=(2,), enc_body_b=(2,), dec_body_w=(2,))
    found = match(
        there, [target("a.w", 2), target("a.b", 2)], KeyRules.parse(prefix="enc", revise_keys=[("^body", "a")])
    )
    assert found.loaded == {"a.w": "module.enc.body.w", "a.b": "enc.body.b"}
    assert found.unexpected == ()
    assert found.names == {"module.enc.body.w": "a.w", "enc.body.b": "a.b"}
    assert found.complete


def test_a_pair_in_vain_is_a_warning() -> None:
    found = match(Shapes(a=(2,)), [target("a", 2)], KeyRules.parse(revise_keys=[("x", "y")]))
    assert list(map(str, found.warnings)) == ["revise_keys[0]: ('x', 'y') changes no key of 'w.pth'; some of them: 'a'"]
    assert not found.complete
    assert found.told() == "w.pth: 1 loaded"


def test_keys_that_fall_together() -> None:
    two = Shapes(a_w=(2,), b_w=(2,))
    found = told(two, target("w", 2), rules=KeyRules.parse(revise_keys=[(r"^[ab]\.", "")], into="x"))
    assert list(found) == ["revise_keys[0]", "into"]


def test_into_a_submodule() -> None:
    there = Shapes(a_w=(2,), head_w=(3,), extra=(1,))
    rules = KeyRules.parse(into="net")
    found = match(there, [*NET, target("other", 1)], rules)
    assert found.loaded == {"net.a.w": "a.w", "net.head.w": "head.w"}
    assert found.missing == ("net.a.b", "net.step")
    assert found.unexpected == ("extra",)
    assert found.summary() == "w.pth into 'net': 2 loaded, 2 missing, 1 unexpected"
    assert match(Shapes(a_w=(2,), a_b=(2,), head_w=(3,)), [*NET, target("other", 1)], rules, strict=True).loaded
    everything = match(Shapes(a_w=(2,), a_b=(2,), head_w=(3,)), [*NET, target("other", 1)], rules, min_match=1)
    assert len(everything.loaded) == 3


def test_into_takes_names_and_not_beginnings_of_names() -> None:
    found = match(Shapes(w=(2,)), [target("net.w", 2), target("network.w", 2)], KeyRules.parse(into="net"))
    assert (found.loaded, found.missing) == ({"net.w": "w"}, ())


def test_into_something_that_is_not_there() -> None:
    for into in ("nte", "net.a.w"):
        found = told(Shapes(a_w=(2,)), *NET, rules=KeyRules.parse(into=into))
        assert list(found) == ["into"]
        assert f"the module has no submodule {into!r}" in found["into"]
        assert "did you mean 'net" in found["into"]
    assert "no parameter" in told(Shapes(a=(2,)), rules=KeyRules())["checkpoint"]


def test_a_tied_parameter_below_into() -> None:
    tied = target("emb.w", 2, aliases=("net.out.w",))
    found = match(Shapes(out_w=(2,)), [tied], KeyRules.parse(into="net"))
    assert found.loaded == {"emb.w": "out.w"}


def test_nothing_fits_below_into() -> None:
    found = told(Shapes(w=(2,)), *NET, rules=KeyRules.parse(into="net"))["checkpoint"]
    assert "'net' has 'net.a.w', 'net.a.b', 'net.head.w', 'net.step'" in found
    assert found.endswith("1 of its keys match below 'net.a' of the module: into='net.a' loads them there")


def test_what_is_excluded_is_neither_missing_nor_unexpected() -> None:
    there = Shapes(net_a_w=(2,), net_a_b=(2,), module_net_head_w=(7,), head_x=(1,))
    rules = KeyRules.parse(exclude=["net.head", "head", "**.step"])
    found = match(there, NET, rules, strict=True, min_match=1.0)
    assert found.loaded == {"net.a.w": "net.a.w", "net.a.b": "net.a.b"}
    assert [found.missing, found.unexpected, found.mismatched] == [(), (), ()]
    assert found.excluded == ("module.net.head.w", "head.x")
    assert found.summary() == "w.pth: 2 loaded, 2 excluded"
    assert found.complete


def test_only_what_is_included_counts() -> None:
    there = Shapes(net_a_w=(2,), net_head_w=(3,), opt_lr=())
    found = match(there, NET, KeyRules.parse(include="net.*.w"), strict=True)
    assert found.loaded == {"net.a.w": "net.a.w", "net.head.w": "net.head.w"}
    assert found.excluded == ("opt.lr",)
    assert match(there, NET, KeyRules.parse(include="net.a")).missing == ("net.a.b",)


def test_patterns_are_for_names_after_revision_and_before_into() -> None:
    there = Shapes(enc_body_w=(2,), enc_top_w=(3,))
    rules = KeyRules.parse(prefix="enc", revise_keys=[("^body", "a"), ("^top", "head")], include="a", into="net")
    found = match(there, NET, rules)
    assert found.loaded == {"net.a.w": "enc.body.w"}
    assert (found.missing, found.excluded) == (("net.a.b",), ("enc.top.w",))
    for wrong in ("body", "net.a", "enc.body"):
        assert list(told(there, *NET, rules=replace(rules, include=(NamePattern(wrong),)))) == ["include[0]"]


def test_a_genuine_module_is_not_taken_for_a_wrapper_by_patterns() -> None:
    there = Shapes(module_a=(2,), a=(2,))
    found = match(there, [target("module.a", 2), target("a", 2)], KeyRules.parse(exclude="module"))
    assert found.loaded == {"a": "a"}
    assert found.excluded == ("module.a",)


def test_patterns_that_match_nothing() -> None:
    found = told(
        Shapes(net_a_w=(2,), net_a_b=(2,)),
        *NET,
        rules=KeyRules.parse(include=["net", "nett.a"], exclude=["bdoy", "net.hedd"]),
    )
    assert found == {
        "include[1]": "'nett.a' matches no name in 'w.pth'; did you mean 'net.a' or 'net.a.w' or 'net.a.b'?",
        "exclude[0]": (
            "'bdoy' matches no name in 'w.pth'; there are 'net', 'net.a', 'net.a.b', 'net.a.w', 'net.head', "
            "'net.head.w', 'net.step'"
        ),
        "exclude[1]": "'net.hedd' matches no name in 'w.pth'; did you mean 'net.head' or 'net.head.w' or 'net.step'?",
    }
    # the module has it, so there is something to exclude
    assert match(Shapes(net_a_w=(2,)), NET, KeyRules.parse(exclude="net.head")).missing == ("net.a.b", "net.step")
    # but nothing to include
    assert list(told(Shapes(net_a_w=(2,)), *NET, rules=KeyRules.parse(include=["net.a", "net.head"]))) == ["include[1]"]


def test_everything_is_excluded() -> None:
    found = told(Shapes(net_a_w=(2,)), *NET, rules=KeyRules.parse(exclude="**"))["checkpoint"]
    assert "it has 'net.a.w', the module has 'net.a.w', 'net.a.b', 'net.head.w', 'net.step'" in found
    assert found.endswith("of which scope, include and exclude leave none")


def test_nothing_fits_after_revision() -> None:
    found = told(Shapes(a_w=(2,)), *NET, rules=KeyRules.parse(revise_keys=[("^a", "b")]))["checkpoint"]
    assert "it has 'a.w' (after revision 'b.w'), the module has" in found


def test_a_tied_parameter_of_which_one_name_is_excluded() -> None:
    tied = target("emb.w", 3, aliases=("head.w",))
    there = Shapes(head_w=(3,), emb_w=(3,))
    assert match(there, [tied], KeyRules.parse(exclude="head")).loaded == {"emb.w": "emb.w"}
    found = match(Shapes(head_w=(3,), x=(1,)), [tied, target("x", 1)], KeyRules.parse(exclude="head"))
    assert (found.missing, found.excluded) == (("emb.w",), ("head.w",))


def test_patterns_and_the_parts_of_a_parametrized_tensor() -> None:
    parts = (target("p.parametrizations.w.original0", 3, 1), target("p.parametrizations.w.original1", 3, 2))
    whole = Target("p.w", (), (3, 2), torch.float32, is_buffer=False, parts=parts)
    there = Shapes(p_parametrizations_w_original0=(3, 1), p_parametrizations_w_original1=(3, 2), b=(1,))
    all_ = [whole, target("b", 1)]
    assert len(match(there, all_, KeyRules.parse(include="p.w"), min_match=1).loaded) == 2
    assert match(there, all_, KeyRules.parse(exclude="p.w")).loaded == {"b": "b"}
    below = [replace(whole, name="m.p.w", parts=tuple(replace(part, name=f"m.{part.name}") for part in parts))]
    assert list(match(there, below, KeyRules.parse(into="m")).loaded) == [f"m.{part.name}" for part in parts]


def test_a_key_of_no_target_is_left_out_with_and_without_wrapper_parts() -> None:
    there = Shapes(a=(2,), module_extra_w=(1,), extra_b=(1,), other=(1,))
    found = match(there, [target("a", 2)], KeyRules.parse(exclude="extra"))
    assert found.excluded == ("module.extra.w", "extra.b")
    assert found.unexpected == ("other",)
