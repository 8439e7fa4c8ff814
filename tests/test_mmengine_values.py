"""The same constants and checkpoints through MMEngine and through this library: equal values, but for a closed list."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_init import CheckpointError, InitConfigError, InitWarning, init_weights
from tests.side_by_side import MMENGINE, OURS, Library, both, differing, prepared, quiet, run, values

Cfg = dict[str, Any]
Build = Callable[[Library], nn.Module]


def constant(val: float, **more: Any) -> Cfg:
    return {"type": "Constant", "val": val, **more}


def net(library: Library, init_cfg: Any = None, **children: nn.Module) -> nn.Module:
    """A BaseModule of either library."""

    class Net(library.BaseModule):  # type: ignore[misc]  # it is known at run time only
        def __init__(self) -> None:
            super().__init__(init_cfg)
            for name, child in children.items():
                setattr(self, name, child)

    module: nn.Module = Net()
    return module


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Cfg]:
    """Saves something and gives the rule that loads it."""
    count = iter(range(1000))

    def save(content: dict[str, Any], **more: Any) -> Cfg:
        path = tmp_path / f"{next(count)}.pth"
        torch.save(content, path)
        return {"type": "Pretrained", "checkpoint": str(path), **more}

    return save


def full(*shape: int, value: float) -> Tensor:
    return torch.full(shape, float(value))


class Coded(nn.Module):
    """A plain module with a method of its own and a child that the method leaves to others."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value
        self.weight = nn.Parameter(torch.zeros(2))
        self.other = nn.Parameter(torch.zeros(2))
        self.inner = nn.Linear(2, 2)

    def init_weights(self) -> None:
        self.other.data.fill_(self.value)
        nn.init.constant_(self.inner.bias, self.value)


class SubLinear(nn.Linear):
    """A direct child of Linear."""


# By hand: every part of the language.


def pair(library: Library, init_cfg: Any) -> nn.Module:
    return net(library, init_cfg, a=nn.Linear(2, 2), b=nn.Conv2d(2, 2, 1), c=nn.BatchNorm2d(2))


def with_shared_config(library: Library, cfg: Cfg) -> nn.Module:
    return net(library, cfg, a=pair(library, cfg), b=pair(library, cfg))


def with_shared_child(library: Library, child: nn.Module) -> nn.Module:
    holders = [net(library, None, x=child), net(library, constant(3, layer="Linear"), x=child)]
    return library.ModuleList(holders)  # type: ignore[no-any-return]  # MMEngine's classes are not typed


BY_HAND: dict[str, Build] = {
    "no config": lambda lib: pair(lib, None),
    "an empty list": lambda lib: pair(lib, []),
    "an empty dict": lambda lib: pair(lib, {}),
    "one rule": lambda lib: pair(lib, constant(1, bias=2, layer="Linear")),
    "rules in their order": lambda lib: pair(lib, [constant(1, layer="Linear"), constant(2, layer="Linear")]),
    "a list of layers": lambda lib: pair(lib, constant(1, layer=["Linear", "BatchNorm2d"])),
    "a direct base": lambda lib: pair(lib, constant(1, layer=["_ConvNd", "_BatchNorm"])),
    "no layer": lambda lib: pair(lib, constant(1)),
    "layer=None": lambda lib: pair(lib, constant(1, layer=None, override=constant(2, name="a"))),
    "bias_prob": lambda lib: pair(lib, constant(1, bias=7, bias_prob=0.02, layer="Linear")),
    "bias_prob=None": lambda lib: pair(lib, constant(1, bias=7, bias_prob=None, layer="Linear")),
    "a class as type": lambda lib: pair(lib, {"type": lib.ConstantInit, "val": 3, "layer": "Linear"}),
    "an override": lambda lib: pair(lib, constant(1, layer="Linear", override=constant(2, name="b"))),
    "an override with a layer": lambda lib: pair(lib, constant(1, override=constant(2, name="b", layer="Linear"))),
    "overrides in their order": lambda lib: pair(
        lib, constant(1, layer="Linear", override=[constant(2, name="a"), constant(3, name="a", bias=4)])
    ),
    "an override before the next rule": lambda lib: pair(
        lib, [constant(1, layer="Linear", override=constant(2, name="b")), constant(3, layer="Conv2d")]
    ),
    "an override with its name alone": lambda lib: pair(
        lib, constant(1, bias_prob=0.3, layer="Linear", override=[{"name": "b"}, {"name": "c"}])
    ),
    "an empty list of overrides": lambda lib: pair(lib, constant(1, layer="Linear", override=[])),
    "an override of a whole branch": lambda lib: net(
        lib, constant(1, layer="Linear", override=constant(2, name="x")), x=pair(lib, None), y=nn.Linear(2, 2)
    ),
    "an override of a module that codes": lambda lib: net(
        lib, constant(1, layer="Linear", override=constant(2, name="x")), x=Coded(9)
    ),
    "an inner config": lambda lib: net(
        lib, constant(1, layer="Linear", override=constant(2, name="x")), x=pair(lib, constant(3, layer="Linear"))
    ),
    "a shared config": lambda lib: with_shared_config(lib, constant(1, layer="Linear", override={"name": "a"})),
    "a plain child that codes": lambda lib: net(lib, constant(1, layer=["Linear", "Coded"]), x=Coded(9)),
    "a plain container": lambda lib: net(lib, constant(1, layer="Linear"), x=nn.Sequential(nn.Linear(2, 2))),
    "a shared BaseModule": lambda lib: with_shared_child(lib, pair(lib, constant(1, layer="Linear"))),
    "containers": lambda lib: net(
        lib,
        constant(1, layer="Linear"),
        x=lib.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), init_cfg=constant(2, override=constant(3, name="1"))),
        y=lib.ModuleList([nn.Linear(2, 2), Coded(4)], init_cfg=constant(5, layer="Linear")),
        z=lib.ModuleDict({"k": nn.Linear(2, 2)}, init_cfg=constant(6, override=constant(7, name="k"))),
    ),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_the_values_are_mmengines(case: str) -> None:
    theirs, ours = both(BY_HAND[case])
    assert not differing(theirs, ours)


def test_the_cases_by_hand_do_different_things() -> None:
    # Or else the comparison would hold if both libraries did nothing.
    written = {case: run(OURS, build) for case, build in BY_HAND.items()}
    idle = {case for case, build in BY_HAND.items() if not differing(written[case], values(prepared(build(OURS))))}
    assert idle == {"no config", "an empty list", "an empty dict", "no layer"}


@pytest.mark.parametrize("when", ["before super", "after super", "without super", "of the instance"])
def test_a_module_that_overrides_init_weights(when: str) -> None:
    def build(library: Library) -> nn.Module:
        base = type(pair(library, None))

        class Coding(base):  # type: ignore[misc, valid-type]  # it is known at run time only
            def init_weights(self) -> None:
                if when == "after super":
                    super().init_weights()
                for parameter in self.parameters():
                    parameter.data[0] = 9
                if when == "before super":
                    super().init_weights()

        inner: Any = Coding() if when != "of the instance" else pair(library, None)
        inner.init_cfg = constant(2, layer="Conv2d")
        if when == "of the instance":
            inner.init_weights = lambda: nn.init.constant_(inner.get_parameter("b.weight"), 8)
        return net(library, [constant(1, layer="Linear", override=constant(3, name="x"))], x=inner, y=nn.Linear(2, 2))

    theirs, ours = both(build)
    assert not differing(theirs, ours)


def test_a_method_that_initialises_its_parts_itself() -> None:
    def build(library: Library) -> nn.Module:
        class Coding(library.BaseModule):  # type: ignore[misc]  # it is known at run time only
            def __init__(self) -> None:
                super().__init__(constant(1, layer="Linear"))
                self.a = nn.Linear(2, 2)
                self.b: Any = pair(library, constant(2, layer="Conv2d"))
                self.c = nn.Linear(2, 2)

            def init_weights(self) -> None:
                self.b.init_weights()
                library.initialize(self.c, constant(3, layer="Linear"))

        return net(library, constant(4, layer="Linear"), x=Coding())

    theirs, ours = both(build)
    assert not differing(theirs, ours)


def test_a_method_may_change_the_config_before_it_is_used() -> None:
    def build(library: Library) -> nn.Module:
        class Coding(library.BaseModule):  # type: ignore[misc]  # it is known at run time only
            def __init__(self) -> None:
                super().__init__(constant(1, layer="Linear"))
                self.a = nn.Linear(2, 2)

            def init_weights(self) -> None:
                self.init_cfg = constant(2, layer="Linear")
                super().init_weights()

        module: nn.Module = Coding()
        return module

    theirs, ours = both(build)
    assert not differing(theirs, ours)
    assert ours["a.weight"].eq(2).all()


def test_what_is_initialised_is_not_asked_but_written_over() -> None:
    def build(library: Library) -> nn.Module:
        inner: Any = pair(library, constant(2, layer="Linear"))
        inner.is_init = True
        coded: Any = Coded(9)
        coded.is_init = True
        return net(library, constant(1, layer="Conv2d"), x=inner, y=coded)

    theirs, ours = both(build)
    assert not differing(theirs, ours)
    assert differing(ours, values(prepared(build(OURS)))) == {"x.b.weight", "x.b.bias"}


def test_an_override_may_name_a_property() -> None:
    def build(library: Library) -> nn.Module:
        class Heads(library.BaseModule):  # type: ignore[misc]  # it is known at run time only
            def __init__(self) -> None:
                super().__init__(constant(1, override=constant(2, name="head")))
                self.branch = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))

            @property
            def head(self) -> nn.Module:
                return self.branch[1]

        module: nn.Module = Heads()
        return module

    theirs, ours = both(build)
    assert not differing(theirs, ours)
    assert ours["branch.1.weight"].eq(2).all()


def test_tied_parameters() -> None:
    def build(library: Library) -> nn.Module:
        module = net(
            library,
            [constant(3, layer="Linear"), constant(4, layer="Embedding")],
            a=nn.Linear(2, 3),
            b=nn.Embedding(3, 2),
        )
        module.b.weight = module.a.weight  # type: ignore[union-attr]  # children are there at run time only
        return module

    theirs, ours = both(build)
    assert not differing(theirs, ours)
    assert ours["a.weight"].eq(4).all()


# Checkpoints.


def test_a_tied_parameter_that_a_checkpoint_holds_twice(tmp_path: Path) -> None:
    path = tmp_path / "tied.pth"
    torch.save({"a.weight": full(3, 2, value=1), "b.weight": full(3, 2, value=2)}, path)

    def build(library: Library) -> nn.Module:
        rule = {"type": "Pretrained", "checkpoint": str(path)}
        module = net(library, rule, a=nn.Linear(2, 3, bias=False), b=nn.Embedding(3, 2))
        module.b.weight = module.a.weight  # type: ignore[union-attr]  # children are there at run time only
        return module

    theirs, ours = both(build)
    assert not differing(theirs, ours)
    assert ours["a.weight"].eq(2).all()


WEIGHTS = {"a.weight": full(2, 2, value=5), "a.bias": full(2, value=6), "c.running_mean": full(2, value=7)}


@pytest.mark.parametrize(
    ("content", "more"),
    [
        (WEIGHTS, {}),
        ({"state_dict": WEIGHTS, "meta": {"epoch": 3}}, {}),
        ({f"module.{key}": value for key, value in WEIGHTS.items()}, {}),
        ({**WEIGHTS, "z.weight": full(3, value=1)}, {}),
        ({f"backbone.{key}": value for key, value in WEIGHTS.items()}, {"prefix": "backbone."}),
        ({f"backbone.{key}": value for key, value in WEIGHTS.items()}, {"prefix": "backbone"}),
        (
            {f"m.n.{key}": value for key, value in WEIGHTS.items()} | {"m.nn.a.weight": full(2, 2, value=0)},
            {"prefix": "m.n"},
        ),
        (WEIGHTS, {"map_location": "cpu"}),
        ({key: value.half() for key, value in WEIGHTS.items()}, {}),
        ({key: value.double() for key, value in WEIGHTS.items()}, {}),
    ],
)
@pytest.mark.parametrize("kind", ["name", "class"])
def test_checkpoints(saved: Callable[..., Cfg], content: Cfg, more: Cfg, kind: str) -> None:
    rule = saved(content, **more)

    def build(library: Library) -> nn.Module:
        of_kind = rule if kind == "name" else {**rule, "type": library.PretrainedInit}
        return pair(library, [of_kind, constant(1, layer=["Linear", "Conv2d"])])

    theirs, ours = both(build)
    assert not differing(theirs, ours)
    assert [ours[name].flatten()[0].item() for name in WEIGHTS] == [5, 6, 7]


def test_checkpoints_at_several_levels(saved: Callable[..., Cfg]) -> None:
    outer = saved({"x.a.weight": full(2, 2, value=5), "y.bias": full(2, value=6)})
    inner = saved({"a.weight": full(2, 2, value=7), "b.bias": full(2, value=8)})
    theirs, ours = both(
        lambda library: net(
            library, [outer, constant(1, layer="Linear")], x=pair(library, [inner]), y=nn.Linear(2, 2), z=Coded(3)
        )
    )
    assert not differing(theirs, ours)
    assert ours["x.a.weight"].eq(5).all()
    assert ours["x.b.bias"].eq(8).all()


@pytest.mark.parametrize(
    "override", [constant(9, name="a"), {"name": "a"}, [constant(9, name="a"), constant(8, name="b")]]
)
def test_the_overrides_of_a_checkpoint(saved: Callable[..., Cfg], override: Any) -> None:
    # With its name alone, an override loads the same file below that name, by names relative to it.
    rule = saved({"a.weight": full(2, 2, value=5), "weight": full(2, 2, value=6), "b.bias": full(2, value=7)})
    theirs, ours = both(lambda library: pair(library, [{**rule, "override": override}, constant(1, layer="Linear")]))
    assert not differing(theirs, ours)


@pytest.mark.parametrize("later", [[], [constant(2, layer="Linear")]])
def test_a_checkpoint_in_the_override_of_a_rule(saved: Callable[..., Cfg], later: list[Cfg]) -> None:
    override = saved({"weight": full(2, 2, value=5)}, name="a")
    theirs, ours = both(lambda library: pair(library, [constant(1, layer="Linear", override=override), *later]))
    assert not differing(theirs, ours)
    assert ours["a.weight"].eq(2 if later else 5).all()


# At random: whole trees.

LEAVES: dict[str, Callable[[], nn.Module]] = {
    "Linear": lambda: nn.Linear(2, 3),
    "Conv2d": lambda: nn.Conv2d(2, 2, 1),
    "BatchNorm2d": lambda: nn.BatchNorm2d(2),
    "LayerNorm": lambda: nn.LayerNorm(3),
    "Embedding": lambda: nn.Embedding(3, 2),
    "SubLinear": lambda: SubLinear(2, 2),
    "without bias": lambda: nn.Linear(2, 2, bias=False),
}
LAYERS = ("Linear", "Conv2d", "BatchNorm2d", "LayerNorm", "Embedding", "SubLinear", "_BatchNorm", "Coded", "Nowhere")
CONTAINERS = ("Sequential", "ModuleList", "ModuleDict", "BaseModule", "BaseModule", "coding")


@dataclass
class Spec:
    """A module to be built: a leaf, or a container with its children and config."""

    kind: str
    value: int
    children: dict[str, Spec] = field(default_factory=dict)
    rules: list[Cfg] | None = None
    is_init: bool = False
    loads: str = ""


class Maker:
    """Makes models at random, the same one from one seed."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.random = random.Random(seed)  # noqa: S311  # reproducible, not secret
        self.folder = folder
        self.spec = self.container(2)
        self.spec.is_init = False
        self.add_checkpoints(self.spec, self.build(OURS), "root")

    def often(self, probability: float) -> bool:
        return self.random.random() < probability

    def number(self) -> int:
        return self.random.randrange(1000)

    def container(self, depth: int) -> Spec:
        kind = self.random.choice(CONTAINERS)
        names = [
            f"m{i}" if kind in {"ModuleDict", "BaseModule", "coding"} else str(i)
            for i in range(self.random.randrange(1, 4))
        ]
        children = {name: self.child(depth) for name in names}
        rules = [self.rule(names) for _ in range(self.random.randrange(1, 3))] if self.often(0.7) else None
        loads = self.random.choice(["first", "last", "", "", ""])
        return Spec(kind, self.number(), children, rules, self.often(0.1), loads)

    def child(self, depth: int) -> Spec:
        if depth and self.often(0.45):
            return self.container(depth - 1)
        if self.often(0.25):
            return Spec("Coded", self.number())
        if self.often(0.2):
            return Spec("plain", 0, {str(i): Spec(self.random.choice(list(LEAVES)), 0) for i in range(2)})
        return Spec(self.random.choice(list(LEAVES)), 0)

    def rule(self, names: Sequence[str]) -> Cfg:
        rule = constant(self.number())
        if self.often(0.4):
            rule["bias"] = self.number()
        elif self.often(0.4):
            rule["bias_prob"] = self.random.uniform(0.01, 0.99)
        if self.often(0.85):
            several = self.random.sample(LAYERS, self.random.randrange(4))
            rule["layer"] = self.random.choice([*LAYERS, several, several, several])
        if self.often(0.5):
            overrides = [self.override(names) for _ in range(self.random.randrange(1, 4))]
            rule["override"] = self.random.choice([overrides, overrides[0]])
        return rule

    def override(self, names: Sequence[str]) -> Cfg:
        name = {"name": self.random.choice(names)}
        if self.often(0.4):
            return name
        more = {"bias": self.number()} if self.often(0.5) else {"layer": "Conv2d"}
        return {**name, **constant(self.number()), **more}

    def add_checkpoints(self, spec: Spec, module: nn.Module, path: str) -> None:
        for name, child in spec.children.items():
            self.add_checkpoints(child, module.get_submodule(name), f"{path}.{name}")
        if not spec.loads:
            return
        keys = [key for key in module.state_dict() if self.often(0.7)] or list(module.state_dict())
        content: Cfg = {key: torch.full_like(module.state_dict()[key], self.number()) for key in keys}
        rule: Cfg = {"type": "Pretrained", "checkpoint": str(self.folder / f"{path}.pth")}
        form = self.random.choice(["bare", "contained", "below a prefix", "wrapped"])
        if form == "contained":
            content = {"state_dict": content}
        elif form == "below a prefix":
            content = {f"m.{key}": value for key, value in content.items()}
            rule["prefix"] = self.random.choice(["m", "m."])
        elif form == "wrapped":
            content = {f"module.{key}": value for key, value in content.items()}
        torch.save(content, rule["checkpoint"])
        spec.rules = [rule, *(spec.rules or [])] if spec.loads == "first" else [*(spec.rules or []), rule]

    def build(self, library: Library) -> nn.Module:
        return build_spec(self.spec, library)


def build_spec(spec: Spec, library: Library) -> nn.Module:
    if spec.kind in LEAVES:
        return LEAVES[spec.kind]()
    if spec.kind == "Coded":
        return Coded(spec.value)
    children = {name: build_spec(child, library) for name, child in spec.children.items()}
    if spec.kind == "plain":
        return nn.Sequential(*children.values())
    cfg = spec.rules[0] if spec.rules and len(spec.rules) == 1 else spec.rules
    if spec.kind == "Sequential":
        module: Any = library.Sequential(*children.values(), init_cfg=cfg)
    elif spec.kind == "ModuleList":
        module = library.ModuleList(children.values(), init_cfg=cfg)
    elif spec.kind == "ModuleDict":
        module = library.ModuleDict(children, init_cfg=cfg)
    elif spec.kind == "BaseModule":
        module = net(library, cfg, **children)
    else:
        module = coding(net(library, cfg, **children), spec.value)
    module.is_init = spec.is_init
    return module  # type: ignore[no-any-return]  # MMEngine's classes are not typed


def coding(module: nn.Module, value: int) -> nn.Module:
    """The module with an ``init_weights`` of its own: before its rules, after them, or in their place."""

    class Coding(type(module)):  # type: ignore[misc]  # it is known at run time only
        def init_weights(self) -> None:
            if value % 3 == 0:
                super().init_weights()
            for parameter in list(self.parameters())[::2]:
                parameter.data.fill_(value)
            if value % 3 == 1:
                super().init_weights()

    module.__class__ = Coding
    return module


@pytest.mark.parametrize("chunk", range(8))
def test_models_at_random_get_mmengines_values(tmp_path: Path, chunk: int) -> None:
    written = loaded = 0
    for seed in range(25 * chunk, 25 * (chunk + 1)):
        maker = Maker(seed, tmp_path)
        theirs, ours = both(maker.build)
        assert not differing(theirs, ours), f"{maker.spec} (seed {seed})"
        written += bool(differing(ours, values(prepared(maker.build(OURS)))))
        files = list(tmp_path.iterdir())
        loaded += bool(files)
        for file in files:
            file.unlink()
    # Most models are really written, and many from checkpoints.
    assert written >= 20
    assert loaded >= 8


# The closed list: where the two differ on purpose.


def test_layer_looks_at_the_whole_mro() -> None:
    class Grandchild(SubLinear):
        pass

    theirs, ours = both(
        lambda library: net(library, constant(1, layer="Linear"), a=Grandchild(2, 2), b=SubLinear(2, 2))
    )
    assert differing(theirs, ours) == {"a.weight", "a.bias"}
    assert theirs["a.weight"][0, 0] == 100
    assert ours["a.weight"].eq(1).all()


def test_recursion_goes_through_plain_modules() -> None:
    theirs, ours = both(
        lambda library: net(library, None, plain=nn.Sequential(pair(library, constant(1, layer="Linear")), Coded(5)))
    )
    assert differing(theirs, ours) == {
        "plain.0.a.weight",
        "plain.0.a.bias",
        "plain.1.other",
        "plain.1.inner.bias",
    }
    assert ours["plain.0.a.weight"].eq(1).all()
    assert ours["plain.1.other"].eq(5).all()


def test_a_plain_module_may_carry_a_config() -> None:
    # The same entry of the list, seen from the module itself.
    def build(library: Library) -> nn.Module:
        plain: Any = nn.Sequential(nn.Linear(2, 2))
        plain.init_cfg = constant(1, layer="Linear")
        return net(library, None, plain=plain)

    theirs, ours = both(build)
    assert differing(theirs, ours) == {"plain.0.weight", "plain.0.bias"}


def test_a_shape_mismatch_is_an_error(saved: Callable[..., Cfg]) -> None:
    rule = saved({"a.weight": full(3, 3, value=5), "a.bias": full(2, value=6)})
    theirs = run(MMENGINE, lambda library: pair(library, rule))
    assert theirs["a.bias"].eq(6).all()
    assert theirs["a.weight"][0, 0] == 100
    with pytest.raises(CheckpointError, match=r"Net.init_cfg.on_mismatch: .*another shape[\s\S]*'a.weight': \(3, 3\)"):
        run(OURS, lambda library: pair(library, rule))
    # Told to, it does as MMEngine does.
    assert not differing(theirs, run(OURS, lambda library: pair(library, {**rule, "on_mismatch": "skip"})))


def test_a_checkpoint_of_which_no_key_matches_is_an_error(saved: Callable[..., Cfg]) -> None:
    rule = saved({"encoder.a.weight": full(2, 2, value=5)})
    theirs = run(MMENGINE, lambda library: pair(library, rule))
    assert not differing(theirs, values(prepared(pair(MMENGINE, None))))
    with pytest.raises(CheckpointError, match=r"Net.init_cfg.checkpoint: no key of .*'encoder.a.weight'"):
        run(OURS, lambda library: pair(library, rule))


def test_the_padding_row_stays_zero() -> None:
    theirs, ours = both(
        lambda library: net(library, constant(3, layer="Embedding"), e=nn.Embedding(4, 2, padding_idx=1))
    )
    assert differing(theirs, ours) == {"e.weight"}
    assert theirs["e.weight"].eq(3).all()
    assert ours["e.weight"].eq(3).all(1).tolist() == [True, False, True, True]
    assert ours["e.weight"][1].eq(0).all()


@pytest.mark.parametrize("library", [MMENGINE, OURS], ids=["mmengine", "ours"])
def test_each_parameter_has_a_stream_of_its_own(library: Library) -> None:
    def drawn(*names: str) -> Tensor:
        model: Any = net(library, {"type": "Normal", "layer": "Linear"}, **{name: nn.Linear(3, 3) for name in names})
        torch.manual_seed(0)
        with quiet():
            model.init_weights()
        return values(model)["head.weight"]

    alone, behind = drawn("head"), drawn("stem", "head")
    assert torch.equal(alone, behind) is (library is OURS)


def test_what_can_be_meant_is_told_where_mmengine_is_silent() -> None:
    # No other values, so not on the list: the misspelt layer of one is a warning here, and an error on demand.
    theirs, ours = both(lambda library: pair(library, constant(1, layer="Linaer")))
    assert not differing(theirs, ours)
    with pytest.warns(InitWarning, match="did you mean 'Linear'"):
        init_weights(pair(OURS, constant(1, layer="Linaer")))
    with pytest.raises(InitConfigError, match="did you mean 'Linear'"):
        init_weights(pair(OURS, constant(1, layer="Linaer")), strict=True)
