from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from lightning_init import InitConfigError, InitWarning, build_plan, init_weights
from lightning_init.scope import NamePattern, Scope, is_layer, layer_names, strings
from tests.models import Holder, constant, linear, values


class Child(nn.Linear):
    pass


class Grandchild(Child):
    class Inner(nn.Linear):
        pass


class Linear(nn.Module):
    """Called like another class, and not related to it."""


class TestLayers:
    @pytest.mark.parametrize(
        ("layer", "module", "matches"),
        [
            ("Linear", nn.Linear(1, 1), True),
            ("Linear", Grandchild(1, 1), True),
            ("Child", Grandchild(1, 1), True),
            ("Grandchild", Child(1, 1), False),
            ("linear", nn.Linear(1, 1), False),
            ("Line", nn.Linear(1, 1), False),
            ("_ConvNd", nn.ConvTranspose2d(1, 1, 1), True),
            ("_BatchNorm", nn.SyncBatchNorm(1), True),
            ("Module", nn.ReLU(), True),
            # Dotted: this very class, by where it is defined or by where it is offered.
            ("torch.nn.Linear", Grandchild(1, 1), True),
            ("torch.nn.modules.linear.Linear", Grandchild(1, 1), True),
            ("torch.nn.Linear", Linear(), False),
            ("Linear", Linear(), True),
            (f"{__name__}.Linear", Linear(), True),
            (f"{__name__}.Linear", nn.Linear(1, 1), False),
            (f"{__name__}.Grandchild.Inner", Grandchild.Inner(1, 1), True),
            ("no.such.module.Linear", nn.Linear(1, 1), False),
            ("torch.nn.Linaer", nn.Linear(1, 1), False),
            # The class itself.
            (nn.Linear, Grandchild(1, 1), True),
            (nn.Linear, Linear(), False),
            (Grandchild, Child(1, 1), False),
            # What torch makes of a module, and what is not built yet.
            ("Linear", parametrizations.weight_norm(nn.Linear(1, 1)), True),
            ("Linear", nn.LazyLinear(1), True),
        ],
        ids=str,
    )
    @pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
    def test_a_class_is_known_by_its_mro(self, layer: str | type, module: nn.Module, matches: bool) -> None:
        assert is_layer(module, [layer]) is matches
        assert is_layer(module, ["Nowhere", layer]) is matches
        assert Scope((layer,)).has_layer(module) is matches

    def test_a_dotted_name_imports_nothing(self) -> None:
        name = "turtledemo.clock"
        assert name not in sys.modules
        assert not is_layer(nn.Linear(1, 1), [f"{name}.Linear"])
        assert name not in sys.modules

    def test_no_layer_is_any(self) -> None:
        assert Scope().has_layer(nn.ReLU())

    @pytest.mark.parametrize(
        ("given", "names"),
        [
            ("A", ("A",)),
            (["A", nn.Linear], ("A", nn.Linear)),
            (("A",), ("A",)),
            (nn.Linear, (nn.Linear,)),
            (None, ()),
            ([], ()),
        ],
    )
    def test_the_ways_to_write_them(self, given: Any, names: tuple[str | type, ...]) -> None:
        assert layer_names(given) == names

    @pytest.mark.parametrize(
        ("given", "places"),
        [
            (3, ["layer"]),
            ("", ["layer"]),
            (int, ["layer"]),
            ({"A"}, ["layer"]),
            (["A", 3, "", int], ["layer[1]", "layer[2]", "layer[3]"]),
        ],
    )
    def test_anything_else_is_a_fault(self, given: Any, places: list[str]) -> None:
        with pytest.raises(InitConfigError) as caught:
            layer_names(given)
        assert [fault.where for fault in caught.value.faults] == places


class TestNamePatterns:
    @pytest.mark.parametrize(
        ("pattern", "covered", "not_covered"),
        [
            ("head", ["head", "head.fc", "head.fc.weight"], ["", "heads", "header.fc", "neck.head", "hea"]),
            ("a.b", ["a.b", "a.b.c"], ["a", "b", "a.bc", "x.a.b", "a_b"]),
            (
                "blocks.*.attn",
                ["blocks.0.attn", "blocks.11.attn.qkv"],
                ["blocks.attn", "blocks.0.1.attn", "blocks.0.attn2"],
            ),
            ("*", ["a", "a.b.c"], [""]),
            ("*.bias", ["a.bias", "a.bias.b"], ["bias", "a.b.bias"]),
            ("layer?", ["layer1", "layer4.0.conv"], ["layer", "layer10", "layer."]),
            ("conv*", ["conv", "conv1", "conv1.weight"], ["a.conv1", "xconv"]),
            ("**", ["", "a", "a.b.c"], []),
            ("**.norm", ["norm", "a.norm", "a.b.norm.weight"], ["", "norms", "a.norms", "abnorm"]),
            ("enc.**.norm", ["enc.norm", "enc.0.norm", "enc.0.1.norm"], ["norm", "enc", "dec.enc.norm"]),
            ("a.**", ["a", "a.b", "a.b.c"], ["", "ab", "b.a"]),
            ("0", ["0", "0.weight"], ["10", "1.0"]),
            ("a+b[0]", ["a+b[0]"], ["aab0", "a+b"]),
            (r"re:blocks\.[0-3]", ["blocks.0", "blocks.3.attn"], ["blocks.4", "blocks.10", "blocks", "xblocks.1"]),
            (r"re:blocks\.\d+$", ["blocks.10", "blocks.10.attn"], ["blocks.x"]),
            (r"re:^head$", ["head", "head.fc.weight"], ["heads", "a.head"]),
            ("re:a|b", ["a", "b", "a.x", "b.y"], ["ab", "c"]),
            ("re:(?i)HEAD", ["head", "Head.fc"], ["neck"]),
            ("re:.*", ["", "a", "a.b"], []),
            (r"re:.*\.norm", ["a.norm", "a.norm.weight", "a.b.norm"], ["norm", "a.norms"]),
        ],
    )
    def test_what_is_covered(self, pattern: str, covered: list[str], not_covered: list[str]) -> None:
        name = NamePattern(pattern)
        assert [path for path in covered if not name.covers(path)] == []
        assert [path for path in not_covered if name.covers(path)] == []

    @pytest.mark.parametrize("wrong", ["", "re:(", "re:*", 3, None, ["a"]])
    def test_what_is_no_pattern(self, wrong: Any) -> None:
        with pytest.raises(InitConfigError) as caught:
            NamePattern(wrong)
        assert [fault.where for fault in caught.value.faults] == ["name"]

    @pytest.mark.parametrize(
        ("pattern", "literal", "parameter"),
        [
            ("head", True, "head"),
            ("head.weight", True, "weight"),
            ("blocks.*.in_proj_weight", False, "in_proj_weight"),
            ("**.gamma", False, "gamma"),
            ("head.w*", False, None),
            ("re:head.gamma", False, None),
        ],
    )
    def test_its_last_part_may_be_a_parameter(self, pattern: str, literal: bool, parameter: str | None) -> None:
        name = NamePattern(pattern)
        assert name.literal is literal
        known = ["head", "weight", "in_proj_weight", "gamma", "w"]
        assert [attribute for attribute in known if name.means_parameter(attribute)] == (
            [parameter] if parameter else []
        )


class TestScopes:
    def test_an_empty_scope_is_false(self) -> None:
        assert not Scope()
        for scope in (Scope(("A",)), Scope(name=NamePattern("a")), Scope(params=("w",))):
            assert scope

    @pytest.mark.parametrize(
        ("scope", "taken"),
        [
            (Scope(), ["weight", "bias"]),
            (Scope(("Linear",)), ["weight", "bias"]),
            (Scope(params=("weight_ih_l*",)), ["weight_ih_l0", "weight_ih_l1_reverse"]),
            (Scope(params=("bias", "gamma")), ["bias", "gamma"]),
            (Scope(params=("[bg]*",)), ["bias", "gamma"]),
            (Scope(params=("*",)), ["weight", "bias", "gamma", "weight_ih_l0", "weight_ih_l1_reverse"]),
            (Scope(params=("WEIGHT",)), []),
            (Scope(name=NamePattern("a.gamma")), ["weight", "bias", "gamma"]),
            (Scope(name=NamePattern("a.gamma"), params=("bias",)), ["bias"]),
        ],
        ids=str,
    )
    def test_which_parameters_are_taken(self, scope: Scope, taken: list[str]) -> None:
        known = ["weight", "bias", "gamma", "weight_ih_l0", "weight_ih_l1_reverse"]
        assert [attribute for attribute in known if scope.takes(attribute, ("weight", "bias"))] == taken

    @pytest.mark.parametrize(
        ("scope", "only"),
        [
            (Scope(params=("bias",)), True),
            (Scope(params=("bias", "weight")), False),
            (Scope(params=("bia*",)), False),
            (Scope(name=NamePattern("head.bias")), True),
            (Scope(name=NamePattern("head.bias"), params=("weight", "bias")), False),
            (Scope(name=NamePattern("head")), False),
            (Scope(), False),
        ],
        ids=str,
    )
    def test_a_bias_alone(self, scope: Scope, only: bool) -> None:
        assert scope.only_bias is only

    @pytest.mark.parametrize(("given", "found"), [("a", ("a",)), (["a", "b"], ("a", "b")), (("a",), ("a",)), ([], ())])
    def test_names_of_parameters(self, given: Any, found: tuple[str, ...]) -> None:
        assert strings(given, "params") == found

    @pytest.mark.parametrize("wrong", [3, "", ["a", ""], ["a", 3], {"a"}, None, b"a"])
    def test_what_are_no_names_of_parameters(self, wrong: Any) -> None:
        with pytest.raises(InitConfigError) as caught:
            strings(wrong, "params")
        assert [fault.where for fault in caught.value.faults] == ["params"]


def model() -> Holder:
    """Everything is 0; what a rule writes is told by `written`."""
    return Holder(
        stem=linear(),
        blocks=nn.Sequential(
            Holder(attn=linear(), norm=nn.LayerNorm(1)), Holder(attn=linear(), mlp=Holder(norm=nn.LayerNorm(1)))
        ),
        head=linear(),
    )


def written(net: nn.Module, **rule: Any) -> set[str]:
    """The parameters that a rule of ones writes."""
    return {
        entry.name
        for entry in build_plan(net, {"type": "Constant", "val": 1, "bias": 1, **rule})
        if entry.winner is not None
    }


def both_of(*modules: str) -> set[str]:
    return {f"{module}.{parameter}" for module in modules for parameter in ("weight", "bias")}


class TestInAModel:
    @pytest.mark.parametrize(
        ("rule", "expected"),
        [
            ({"layer": "Linear"}, both_of("stem", "blocks.0.attn", "blocks.1.attn", "head")),
            ({"name": "head"}, both_of("head")),
            ({"name": "head.bias"}, {"head.bias"}),
            ({"name": "blocks"}, both_of("blocks.0.attn", "blocks.0.norm", "blocks.1.attn", "blocks.1.mlp.norm")),
            ({"name": "blocks.*.norm"}, both_of("blocks.0.norm")),
            ({"name": "**.norm"}, both_of("blocks.0.norm", "blocks.1.mlp.norm")),
            ({"name": "**.bias", "layer": "LayerNorm"}, {"blocks.0.norm.bias", "blocks.1.mlp.norm.bias"}),
            ({"layer": "Linear", "name": "blocks"}, both_of("blocks.0.attn", "blocks.1.attn")),
            ({"layer": ["Linear"], "name": "re:blocks.1"}, both_of("blocks.1.attn")),
            ({"params": "weight", "name": "blocks.1"}, {"blocks.1.attn.weight", "blocks.1.mlp.norm.weight"}),
            ({"params": "weight", "layer": nn.LayerNorm}, {"blocks.0.norm.weight", "blocks.1.mlp.norm.weight"}),
            ({"layer": "Holder", "params": "*"}, {"scale"}),
            ({"params": "scale"}, {"scale"}),
            ({"name": "scale"}, {"scale"}),
            ({"name": "*", "layer": "Linear"}, both_of("stem", "blocks.0.attn", "blocks.1.attn", "head")),
            ({"override": {"name": "head"}}, both_of("head")),
            ({"override": {"name": "scale"}}, {"scale"}),
            ({"override": {"name": "blocks.*.norm"}}, both_of("blocks.0.norm")),
            (
                {"override": {"name": "blocks.1", "type": "Constant", "val": 1, "layer": "Conv2d"}},
                both_of("blocks.1.attn", "blocks.1.mlp.norm"),
            ),
        ],
        ids=lambda value: str(sorted(value) if isinstance(value, set) else value),
    )
    def test_what_a_rule_writes(self, rule: dict[str, Any], expected: set[str]) -> None:
        net = model()
        net.scale = nn.Parameter(torch.zeros(1))
        assert written(net, **rule) == expected

    def test_names_count_from_the_module_that_carries_the_rule(self) -> None:
        net = model()
        net.get_submodule("blocks.1").init_cfg = constant(1, name="attn")  # type: ignore[assignment]  # a plain attribute
        init_weights(net)
        ones = {name for name, value in values(net).items() if value == 1}
        assert ones == both_of("blocks.1.attn") | {"blocks.0.norm.weight", "blocks.1.mlp.norm.weight"}

    def test_a_name_that_counts_from_elsewhere_is_told(self) -> None:
        net = model()
        net.get_submodule("blocks.0").init_cfg = constant(1, name="blocks.0.attn")  # type: ignore[assignment]  # as above
        with pytest.warns(
            InitWarning, match=r"name='blocks.0.attn' matches nothing in Holder.blocks.0; there are .attn"
        ):
            init_weights(net)

    def test_the_carrier_itself_counts(self) -> None:
        fc = linear()
        assert written(fc, layer="Linear") == {"weight", "bias"}
        assert written(fc, name="weight") == {"weight"}
        assert written(fc, name="**") == {"weight", "bias"}

    @pytest.mark.parametrize("name", ["encoder", "decoder", "encoder.weight", "decoder.weight"])
    def test_a_tied_parameter_is_reached_by_each_of_its_names(self, name: str) -> None:
        net = Holder(encoder=nn.Embedding(3, 2), decoder=nn.Linear(2, 3, bias=False))
        net.decoder.weight = net.encoder.weight  # type: ignore[union-attr]  # children are there at run time only
        assert written(net, name=name) == {"encoder.weight"}
        assert written(net, layer="Linear") == written(net, layer="Embedding") == {"encoder.weight"}

    @pytest.mark.parametrize("name", ["a", "b", "b.fc", "a.fc.bias", "*.fc"])
    def test_a_shared_module_is_reached_by_each_of_its_paths(self, name: str) -> None:
        shared = linear()
        net = Holder(a=Holder(fc=shared), b=Holder(fc=shared))
        assert written(net, name=name) == ({"a.fc.bias"} if name.endswith("bias") else both_of("a.fc"))

    @pytest.mark.parametrize(
        "wrap", [torch.compile, nn.DataParallel, lambda module: torch.compile(nn.DataParallel(module))]
    )
    @pytest.mark.parametrize("which", ["whole", "part", "both"])
    @pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
    def test_wrappers_do_not_count(self, wrap: Callable[[nn.Module], nn.Module], which: str) -> None:
        net: nn.Module = model()
        if which != "whole":
            net.blocks = wrap(net.get_submodule("blocks"))
        if which != "part":
            net = wrap(net)
        for rule in ({"name": "blocks.*.attn"}, {"name": "blocks", "layer": "Linear"}):
            assert written(net, **rule) == both_of("blocks.0.attn", "blocks.1.attn")
        for pattern in ("_orig_mod", "module", "**._orig_mod", "**.module"):
            assert written(net, name=pattern) == set()
        init_weights(net, constant(1, name="blocks.1.attn"))
        unwrapped = {
            name.replace("_orig_mod.", "").replace("module.", ""): value for name, value in values(net).items()
        }
        assert {name for name, value in unwrapped.items() if value == 1} - {
            "blocks.0.norm.weight",
            "blocks.1.mlp.norm.weight",
        } == (both_of("blocks.1.attn"))
