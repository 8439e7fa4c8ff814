"""An outline finds what looking at every name finds, and how much that takes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from torch import nn

import lightning_init
from lightning_init import build_plan, init_weights
from lightning_init.outline import Outline
from lightning_init.scope import NamePattern, Scope
from lightning_init.selection import Selection
from lightning_init.slot import Slot, join, parameter_names
from lightning_init.tree import Tree
from tests.models import Holder


def net() -> nn.Module:
    """Shared and nested modules, parameters of the root, and names that begin or end alike."""
    shared = nn.Linear(2, 2)
    blocks = nn.ModuleList(Holder(fc=nn.Linear(2, 2), fc1=nn.Linear(2, 2), norm=nn.LayerNorm(2)) for _ in range(11))
    found = Holder(blocks=blocks, blocks1=nn.Sequential(shared, nn.ReLU()), head=shared, a=Holder(a=Holder(a=shared)))
    found.register_parameter("weight", nn.Parameter(shared.weight.detach().clone()))
    found.get_submodule("blocks.3").register_parameter("head", nn.Parameter(shared.bias.detach().clone()))
    return found


PARTS = ["**", "*", "?", "blocks", "blocks?", "1*", "3", "fc", "f*1", "head", "a", "weight", "b*s"]
PATTERNS = [".".join(parts) for n in (1, 2) for parts in product(PARTS, repeat=n)]
PATTERNS += [f"{pattern}.{last}" for pattern in PATTERNS[::9] for last in PARTS]
REGULAR = [r"re:.*", r"re:(blocks\.1)?", r"re:blocks\.\d$", r"re:.*\.fc\d", r"re:.*weight", r"re:a", r"re:head\.weight"]
ODD = [".head", "head.", "blocks..fc", "nothing", "blocks.fc", "head.weight.x"]


def by_every_name(tree: Tree, scope: Scope) -> dict[Slot, str]:
    return {
        tree.slot_of[node.module, name]: name
        for path, node in tree.below(tree.root)
        if scope.has_layer(node.module)
        for name in parameter_names(node.module)
        if scope.takes(name, ("weight", "bias")) and scope.covers(join(path, name))
    }


@pytest.mark.parametrize("layer", [(), ("LayerNorm", "Linear")])
@pytest.mark.parametrize("params", [(), ("head", "w*")])
def test_it_finds_what_looking_at_every_name_finds(layer: tuple[str, ...], params: tuple[str, ...]) -> None:
    tree = Tree(net())
    outline, selection = Outline(tree, tree.root), Selection(tree, tree.root)
    names = list(selection.names())
    for text in [*PATTERNS, *REGULAR, *ODD]:
        scope = Scope(layer, NamePattern(text), params)
        assert [*outline.parameters(scope).items()] == [*by_every_name(tree, scope).items()], text
        assert outline.covers_any(NamePattern(text)) == any(map(scope.covers, names)), text
        assert [node.path for node in selection.modules(scope)] == [*modules_by_every_name(tree, scope)], text


def modules_by_every_name(tree: Tree, scope: Scope) -> dict[str, None]:
    """The modules that a scope means, without those below such a one."""
    found: dict[str, None] = {}
    tops: list[str] = []
    for path, node in tree.below(tree.root):
        below = any(not top or path.startswith(f"{top}.") for top in tops)
        if not below and scope.has_layer(node.module) and scope.covers(path):
            tops.append(path)
            found.setdefault(node.path)
    return found


PACKAGE = str(Path(lightning_init.__file__).parent)


def calls(run: Callable[[], object]) -> int:
    """How many functions this library calls, its own and others."""
    count = 0

    def hook(frame: FrameType, event: str, _: Any) -> None:
        nonlocal count
        # Not what others call: they keep what they have compiled or looked up before.
        count += event in ("call", "c_call") and frame.f_code.co_filename.startswith(PACKAGE)

    sys.setprofile(hook)
    try:
        run()
    finally:
        sys.setprofile(None)
    return count


def tower(blocks: int) -> nn.Module:
    return nn.Sequential(*(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)) for _ in range(blocks)))


def planning(blocks: int, rules: list[dict[str, Any]]) -> int:
    model = tower(blocks)
    return calls(lambda: build_plan(model, rules))


NAMES: dict[str, Callable[[int], str]] = {
    "a module": lambda i: f"{i}.0",
    "a parameter": lambda i: f"{i}.0.weight",
    "all in a module": lambda i: f"{i}.**",
    "some in a module": lambda i: f"{i}.?.weight",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rest", [{"type": "Normal"}, {"type": "Keep"}])
def test_a_rule_for_one_module_costs_the_same_in_a_larger_model(name: str, rest: dict[str, Any]) -> None:
    def of_rules(blocks: int) -> int:
        few, many = ([{**rest, "name": NAMES[name](i)} for i in range(n)] for n in (5, 30))
        return planning(blocks, many) - planning(blocks, few)

    assert of_rules(150) < 1.1 * of_rules(50)


def test_rules_and_modules_cost_what_they_are_together() -> None:
    """Rules that all write everything: as many claims as rules times modules, and no more for each."""

    def each(blocks: int, rules: int) -> float:
        return planning(blocks, [{"type": "Normal", "layer": "Linear"}] * rules) / (blocks * rules)

    assert each(60, 30) < 1.1 * each(30, 15)


def test_an_initialisation_grows_with_the_model_alone() -> None:
    def each(blocks: int) -> float:
        model = tower(blocks)
        rules = [{"type": "Normal", "layer": "Linear"}, {"type": "Constant", "layer": "LayerNorm", "val": 1}]
        return calls(lambda: init_weights(model, rules, seed=0)) / blocks

    first = each(50)
    assert each(200) < first
    # Four parameters: what is planned, checked, drawn, taken down and reported of each.
    assert first < 4 * 250
