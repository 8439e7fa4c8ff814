"""What MMEngine's pages and docstrings say, sentence by sentence."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import lightning_init
from lightning_init import (
    INITIALIZERS,
    BaseModule,
    ConstantInit,
    InitConfigError,
    InitWarning,
    ModuleDict,
    ModuleList,
    Sequential,
    bias_init_with_prob,
    init_weights,
    initialize,
    kaiming_init,
    normal_init,
    xavier_init,
)
from tests.side_by_side import MMENGINE, OURS, both, differing, prepared, quiet, run, values

NAMES = ("Constant", "Xavier", "Normal", "TruncNormal", "Uniform", "Kaiming", "Caffe2Xavier", "Pretrained")
FUNCTIONS = (
    "constant_init",
    "xavier_init",
    "normal_init",
    "trunc_normal_init",
    "uniform_init",
    "kaiming_init",
    "caffe2_xavier_init",
    "bias_init_with_prob",
)


class ToyNet(BaseModule):
    def __init__(self, init_cfg: Any = None, **children: nn.Module) -> None:
        super().__init__(init_cfg)
        for name, child in children.items():
            setattr(self, name, child)


class ToyConv(nn.Module):
    """The guide's own, to the letter."""

    def __init__(self) -> None:
        super().__init__()
        self.custom_weight = nn.Parameter(torch.empty(1, 1, 1, 1))
        self.custom_bias = nn.Parameter(torch.empty(1))

    def init_weights(self) -> None:
        with torch.no_grad():
            self.custom_weight = self.custom_weight.fill_(1)  # type: ignore[assignment]  # in place, so still the parameter
            self.custom_bias = self.custom_bias.fill_(0)  # type: ignore[assignment]  # the same


def constant(val: float, **more: Any) -> dict[str, Any]:
    return {"type": "Constant", "val": val, **more}


def holds(tensor: object, value: float) -> bool:
    assert isinstance(tensor, Tensor)
    return bool((tensor == value).all())


# The guide, "Initialize the model from config".


def test_a_subclass_defines_its_init_cfg_in_its_constructor() -> None:
    """A class derived from BaseModule may set ``init_cfg`` in ``__init__``, and that chooses the initialisation."""

    class Net(BaseModule):
        def __init__(self) -> None:
            super().__init__(init_cfg=constant(3, layer="Linear"))
            self.fc = nn.Linear(2, 2)

    net = Net()
    net.init_weights()
    assert holds(net.fc.weight, 3)


@pytest.mark.parametrize("name", NAMES)
def test_the_registered_name_is_the_class_name_without_init(name: str) -> None:
    """Every initializer of the table is registered under its class's name without the ending ``Init``."""
    assert INITIALIZERS[name] is getattr(lightning_init, f"{name}Init")
    assert INITIALIZERS[name].__name__ == f"{name}Init"


DRAWN: list[dict[str, Any]] = [
    {"type": "Xavier"},
    {"type": "Xavier", "gain": 2.5, "distribution": "uniform"},
    {"type": "Normal"},
    {"type": "Normal", "mean": 0.5, "std": 0.02},
    {"type": "TruncNormal"},
    {"type": "TruncNormal", "mean": 0.01, "std": 0.02, "a": -0.03, "b": 0.04},
    {"type": "Uniform"},
    {"type": "Uniform", "a": -0.3, "b": 0.1},
    {"type": "Kaiming"},
    {"type": "Kaiming", "a": 0.3, "mode": "fan_in", "nonlinearity": "leaky_relu", "distribution": "uniform"},
    {"type": "Caffe2Xavier"},
]


@pytest.mark.parametrize("cfg", DRAWN, ids=str)
def test_weights_are_drawn_from_the_same_law_and_biases_get_the_constant(cfg: dict[str, Any]) -> None:
    """The table: each initializer sets the weight in its way and the bias to a constant."""
    found = []
    for library in (MMENGINE, OURS):
        torch.manual_seed(0)
        conv = nn.Conv2d(64, 96, 3)
        with quiet():
            library.initialize(conv, {**cfg, "layer": "Conv2d", "bias": 0.25})
        assert conv.bias is not None
        assert holds(conv.bias, 0.25)
        found.append(conv.weight.detach().flatten())
    theirs, ours = found
    assert not torch.equal(theirs, ours)
    assert stats.ks_2samp(theirs.numpy(), ours.numpy()).pvalue > 1e-3
    assert ours.std().item() == pytest.approx(theirs.std().item(), rel=7 / np.sqrt(2 * len(ours)))


def test_constant_sets_the_weight_and_the_bias() -> None:
    """The table: Constant sets both to constants."""
    conv = nn.Conv2d(1, 1, 1)
    initialize(conv, constant(3, bias=4, layer="Conv2d"))
    assert (conv.weight.item(), conv.bias is not None and conv.bias.item()) == (3, 4)


@pytest.mark.parametrize("address", ["{path}", "file://{path}"])
def test_pretrained_loads_what_was_saved(tmp_path: Path, address: str) -> None:
    """``Pretrained`` with ``checkpoint``, a local path or a URL, loads that file when ``init_weights()`` is called."""
    saved = prepared(ToyNet(conv1=nn.Linear(1, 1)))
    path = tmp_path / "pretrained.pth"
    torch.save(saved.state_dict(), path)
    net = ToyNet({"type": "Pretrained", "checkpoint": address.format(path=path)}, conv1=nn.Linear(1, 1))
    assert differing(values(net), values(saved))
    net.init_weights()
    assert not differing(values(net), values(saved))


def test_a_layer_names_all_modules_of_a_class() -> None:
    """``dict(type='Kaiming', layer='Conv2d')`` initialises every Conv2d, and nothing else."""
    net = prepared(ToyNet({"type": "Kaiming", "layer": "Conv2d"}, a=nn.Conv2d(1, 1, 1), b=nn.Linear(1, 1)))
    before = values(net)
    assert isinstance(net, ToyNet)
    net.init_weights()
    assert differing(values(net), before) == {"a.weight", "a.bias"}


@pytest.mark.parametrize(
    ("cfg", "of_linear"),
    [
        ([{"type": "Kaiming", "layer": "Conv2d"}, {"type": "Xavier", "layer": "Linear"}], "Xavier("),
        ([{"type": "Kaiming", "layer": ["Conv2d", "Linear"]}], "Kaiming("),
    ],
)
def test_several_rules_and_several_layers(cfg: Any, of_linear: str) -> None:
    """A list gives different modules different initializers; a list of layers gives several one, and the log says so.

    (Both examples of the guide, and the output printed below them.)
    """
    net = ToyNet(cfg, linear=nn.Linear(1, 1), conv=nn.Conv2d(1, 1, 1))
    report = init_weights(net)
    assert [(row.name, (row.initializer or "").partition("(")[0] + "(") for row in report] == [
        ("linear.weight", of_linear),
        ("linear.bias", of_linear),
        ("conv.weight", "Kaiming("),
        ("conv.bias", "Kaiming("),
    ]
    assert report["conv.weight"].initializer == (
        "Kaiming(a=0, mode='fan_out', nonlinearity='relu', distribution='normal')"
    )


def fine_grained() -> list[dict[str, Any]]:
    return [{"type": "Kaiming", "layer": ["Conv2d"], "override": {"name": "conv2", "type": "Xavier"}}]


def test_override_gives_one_submodule_another_initializer() -> None:
    """With ``override``, ``conv1`` gets Kaiming and ``conv2`` Xavier."""
    report = init_weights(ToyNet(fine_grained(), conv1=nn.Conv2d(1, 1, 1), conv2=nn.Conv2d(1, 1, 1)))
    assert (report["conv1.weight"].initializer or "").startswith("Kaiming(")
    assert (report["conv2.weight"].initializer or "").startswith("Xavier(")


@pytest.mark.parametrize("as_list", [False, True])
def test_override_is_an_init_cfg_itself(as_list: bool) -> None:
    """``override`` may be a dict or a list, and holds for all submodules of what it names."""
    override: Any = constant(7, name="stem")
    net = ToyNet(
        constant(1, layer="Linear", override=[override, constant(8, name="head")] if as_list else override),
        stem=nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.LayerNorm(1), nn.Conv1d(1, 1, 1))),
        head=nn.Linear(1, 1),
    )
    net.init_weights()
    expected = {"stem.0.weight": 7, "stem.1.0.weight": 7, "stem.1.1.weight": 7, "head.weight": 8 if as_list else 1}
    assert {name: net.get_parameter(name).item() for name in expected} == expected


@pytest.mark.parametrize(
    ("override", "error", "place"),
    [
        (constant(1), ValueError, "override: an override must have a `name`"),
        ({"name": "fc", "val": 1}, ValueError, "override: has 'val' but no `type`"),
        (constant(1, name="nope"), RuntimeError, "override.name: ToyNet has no 'nope'"),
        ("fc", TypeError, "override: must be a rule"),
    ],
)
def test_an_override_needs_a_name_that_exists_and_a_type(override: Any, error: type[Exception], place: str) -> None:
    """``name`` must be set, ``type`` as well; MMEngine's own kinds of errors are raised otherwise."""
    for library in (MMENGINE, OURS):
        cfg = constant(1, layer="Linear", override=override)
        with quiet(), pytest.raises(error) as caught:
            library.initialize(ToyNet(fc=nn.Linear(1, 1)), cfg)
        if library is OURS:
            assert isinstance(caught.value, InitConfigError)
            assert str(caught.value).startswith(f"init_cfg.{place}")


# The guide, "Customize the initialization method".


def test_a_submodule_initialises_itself() -> None:
    """``init_weights`` may be overridden instead of registering an initializer; the parent calls it (ToyConv)."""
    net = ToyNet(fine_grained(), conv1=nn.Conv2d(1, 1, 1), conv2=nn.Conv2d(1, 1, 1), custom_conv=ToyConv())
    report = init_weights(net)
    assert holds(net.get_parameter("custom_conv.custom_weight"), 1)
    assert holds(net.get_parameter("custom_conv.custom_bias"), 0)
    for name in ("custom_conv.custom_weight", "custom_conv.custom_bias"):
        assert report[name].source == "ToyConv.init_weights"


def test_the_init_weights_of_submodules_are_called_in_their_order() -> None:
    """The ``init_weights`` of a BaseModule calls those of all its submodules one after the other."""
    called: list[str] = []

    class Noted(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def init_weights(self) -> None:
            called.append(self.name)

    ToyNet(b=Noted("b"), a=Noted("a"), c=Noted("c")).init_weights()
    assert called == ["b", "a", "c"]


def test_init_weights_beats_init_cfg() -> None:
    """The note: ``init_weights`` has a higher priority than ``init_cfg``."""

    class Head(nn.Linear):
        def init_weights(self) -> None:
            self.weight.data.fill_(5)

    net = ToyNet(constant(3, layer="Linear", override=constant(4, name="head")), head=Head(1, 1))
    net.init_weights()
    assert holds(net.get_parameter("head.weight"), 5)


# The guide, "Initialize module with function".


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_functions_have_mmengines_signatures(name: str) -> None:
    """The table of functions: the same names, parameters and defaults."""
    theirs, ours = (inspect.signature(getattr(library, name)).parameters for library in (MMENGINE, OURS))
    if name != "bias_init_with_prob":
        assert list(ours) == list(theirs)
    assert [p.default for p in ours.values()] == [p.default for p in theirs.values()]


def test_a_function_takes_the_module_itself() -> None:
    """``normal_init(model, mean=0, std=0.01, bias=0)`` does what ``normal_`` and ``constant_`` do on its tensors."""
    model = nn.Conv2d(64, 96, 3)
    normal_init(model, mean=0, std=0.01, bias=0)
    by_torch = nn.init.normal_(torch.empty(model.weight.shape), 0, 0.01)
    assert stats.ks_2samp(model.weight.detach().flatten().numpy(), by_torch.flatten().numpy()).pvalue > 1e-3
    assert model.bias is not None
    assert holds(model.bias, 0)


@pytest.mark.parametrize("function", [kaiming_init, xavier_init])
def test_kaiming_and_xavier_take_the_module_alone(function: Callable[[nn.Module], None]) -> None:
    """``kaiming_init(model)`` and ``xavier_init(model)`` work without more arguments."""
    model = nn.Conv2d(1, 1, 1)
    before = model.weight.item()
    function(model)
    assert model.weight.item() != before
    assert model.bias is not None
    assert holds(model.bias, 0)


@pytest.mark.parametrize("probability", [0.01, 0.1, 1 / 3, 0.5, 0.99, 1e-6])
def test_bias_init_with_prob(probability: float) -> None:
    """``bias_init_with_prob`` gives the bias at which a sigmoid has that probability."""
    bias = bias_init_with_prob(probability)
    # The two formulas may differ in the last bit of a double, and so in none of a parameter's.
    assert bias == pytest.approx(MMENGINE.bias_init_with_prob(probability), rel=4e-16)
    assert 1 / (1 + np.exp(-bias)) == pytest.approx(probability)


# The docstrings of BaseModule and its containers.


def test_nothing_but_is_init_is_left_on_the_modules() -> None:
    """What records who wrote what exists only while ``init_weights`` runs."""
    net = ToyNet(constant(1, layer="Linear"), fc=nn.Linear(1, 1), conv=ToyConv())
    before = {name: set(vars(module)) for name, module in net.named_modules()}
    net.init_weights()
    assert {name: set(vars(module)) - before[name] - {"is_init"} for name, module in net.named_modules()} == {
        name: set() for name in before
    }


@pytest.mark.parametrize("position", [0, 1])
def test_pretrained_beats_every_other_initializer(tmp_path: Path, position: int) -> None:
    """PretrainedInit has the highest priority: loaded weights replace what was initialised before, in any order."""
    torch.save({"fc.weight": torch.full((1, 1), 9.0)}, tmp_path / "w.pth")
    cfg = [constant(1, layer="Linear")]
    cfg.insert(position, {"type": "Pretrained", "checkpoint": str(tmp_path / "w.pth")})

    def build(library: Any) -> nn.Module:
        net: nn.Module = library.ModuleDict({"fc": nn.Linear(1, 1)}, init_cfg=cfg)
        return net

    theirs, ours = both(build)
    assert not differing(theirs, ours)
    assert holds(ours["fc.weight"], 9)


def test_an_inner_config_beats_an_outer_one() -> None:
    """``init_cfg`` may be given at several levels, and a lower level has the higher priority."""
    net = ToyNet(constant(1, layer="Linear"), inner=ToyNet(constant(2, layer="Linear"), fc=nn.Linear(1, 1)))
    net.init_weights()
    assert holds(net.get_parameter("inner.fc.weight"), 2)


def test_init_cfg_is_a_dict_a_list_or_nothing() -> None:
    """``init_cfg`` is optional, a dict or a list of dicts."""
    for cfg, expected in ((None, 100), (constant(1, layer="Linear"), 1), ([constant(2, layer="Linear")], 2)):
        net = prepared(ToyNet(cfg, fc=nn.Linear(1, 1)))
        assert isinstance(net, ToyNet)
        net.init_weights()
        assert holds(net.get_parameter("fc.weight"), expected)


def test_a_second_call_is_told_and_changes_nothing() -> None:
    """``init_weights`` of an initialised module says that it has been called more than once."""
    net = ToyNet(constant(1, layer="Linear"), fc=nn.Linear(1, 1))
    assert net.is_init is False
    net.init_weights()
    assert net.is_init is True
    nn.init.constant_(net.get_parameter("fc.weight"), 5)
    with pytest.warns(InitWarning, match="ToyNet has run already"):
        net.init_weights()
    assert holds(net.get_parameter("fc.weight"), 5)


def test_the_repr_ends_with_the_config() -> None:
    """The ``repr`` of a module with an ``init_cfg`` shows it."""
    cfg = constant(1, layer="Linear")
    assert repr(ToyNet(cfg)) == f"ToyNet()\ninit_cfg={cfg}"
    assert repr(ToyNet()) == "ToyNet()"
    assert repr(Sequential(nn.ReLU(), init_cfg=cfg)).endswith(f")\ninit_cfg={cfg}")


@pytest.mark.parametrize(
    "container",
    [
        lambda fc, cfg: Sequential(fc, init_cfg=cfg),
        lambda fc, cfg: ModuleList([fc], init_cfg=cfg),
        lambda fc, cfg: ModuleDict({"fc": fc}, init_cfg=cfg),
    ],
    ids=["Sequential", "ModuleList", "ModuleDict"],
)
def test_a_container_is_initialised_apart_from_the_model_around_it(container: Callable[..., BaseModule]) -> None:
    """The modules in a container may have another initialisation than the model outside."""
    inside = nn.Linear(1, 1)
    net = ToyNet(constant(1, layer="Linear"), fc=nn.Linear(1, 1), box=container(inside, constant(2, layer="Linear")))
    net.init_weights()
    assert holds(net.get_parameter("fc.weight"), 1)
    assert holds(inside.weight, 2)


# The docstrings of initialize and of the initializers.


def test_initialize_one_module() -> None:
    """The first example of ``initialize``: a single Linear, weight 1 and bias 2."""
    module = nn.Linear(2, 3, bias=True)
    initialize(module, {"type": "Constant", "layer": "Linear", "val": 1, "bias": 2})
    assert holds(module.weight, 1)
    assert holds(module.bias, 2)


def test_initialize_layers_in_different_ways() -> None:
    """The second example: ``layer`` gives layers different configurations."""
    module = nn.Sequential(nn.Conv1d(3, 1, 3), nn.Linear(1, 2))
    initialize(module, [constant(1, layer="Conv1d"), constant(2, layer="Linear")])
    assert holds(module[0].weight, 1)
    assert holds(module[1].weight, 2)


def test_initialize_a_specific_part() -> None:
    """The third example: ``override`` initialises a specific part of a module."""

    class FooNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.feat = nn.Conv2d(3, 16, 3)
            self.reg = nn.Conv2d(16, 10, 3)
            self.cls = nn.Conv2d(16, 5, 3)

    model = FooNet()
    override = {"type": "Constant", "name": "reg", "val": 3, "bias": 4}
    initialize(model, {"type": "Constant", "val": 1, "bias": 2, "layer": "Conv2d", "override": override})
    for conv, (weight, bias) in {"feat": (1, 2), "reg": (3, 4), "cls": (1, 2)}.items():
        assert holds(model.get_parameter(f"{conv}.weight"), weight)
        assert holds(model.get_parameter(f"{conv}.bias"), bias)


@pytest.mark.parametrize("prefix", ["backbone.", "backbone"])
def test_initialize_from_a_part_of_a_checkpoint(tmp_path: Path, prefix: str) -> None:
    """The last examples: ``Pretrained`` loads the model, with ``prefix`` a part of the checkpoint into a submodule."""
    path = tmp_path / "detector.pth"
    torch.save({"state_dict": {"backbone.weight": torch.full((1, 1), 3.0), "head.weight": torch.zeros(1, 1)}}, path)
    found = []
    for library in (MMENGINE, OURS):
        module = prepared(nn.Linear(1, 1))
        with quiet():
            library.initialize(module, {"type": "Pretrained", "checkpoint": str(path), "prefix": prefix})
        found.append(values(module))
    assert not differing(*found)
    assert found[1] == {"weight": torch.tensor([[3.0]]), "bias": torch.tensor([101.0])}


@pytest.mark.parametrize("init_cfg", [3, "Constant", {1, 2}])
def test_initialize_takes_a_dict_or_a_list(init_cfg: Any) -> None:
    """Anything but a dict or a list of dicts is a TypeError."""
    for library in (MMENGINE, OURS):
        with pytest.raises(TypeError):
            library.initialize(nn.Linear(1, 1), init_cfg)


def test_a_config_shared_by_many_modules_is_not_changed() -> None:
    """A config is copied, because others may use the same object, such as the blocks of one network."""
    cfg = [constant(1, layer="Linear", override=[constant(2, name="fc2"), {"name": "fc3"}])]
    before = copy.deepcopy(cfg)
    blocks = [ToyNet(cfg, fc1=nn.Linear(1, 1), fc2=nn.Linear(1, 1), fc3=nn.Conv1d(1, 1, 1)) for _ in range(2)]
    ModuleList(blocks).init_weights()
    assert cfg == before
    for block in blocks:
        assert [block.get_parameter(f"fc{i}.weight").item() for i in (1, 2, 3)] == [1, 2, 1]


def test_an_override_with_a_name_alone_takes_the_arguments_around_it() -> None:
    """If an override has a name only, it uses the arguments of the config around it."""
    net = ToyNet(constant(3, bias=4, layer="Linear", override={"name": "conv"}), conv=nn.Conv2d(1, 1, 1))
    with quiet():
        net.init_weights()
    assert holds(net.get_parameter("conv.weight"), 3)
    assert holds(net.get_parameter("conv.bias"), 4)


@pytest.mark.parametrize("name", NAMES)
def test_the_initializers_have_mmengines_arguments_and_defaults(name: str) -> None:
    """The argument lists of the docstrings: names, order and defaults."""
    cls: Any = getattr(MMENGINE, f"{name}Init")
    theirs = {
        parameter.name: parameter.default
        for base in reversed(cls.__mro__[:-1])
        if "__init__" in vars(base) and (base is cls or name != "Caffe2Xavier" or base.__name__ == "BaseInit")
        for parameter in inspect.signature(vars(base)["__init__"]).parameters.values()
        if parameter.kind in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY} and parameter.name != "self"
    }
    ours = inspect.signature(getattr(OURS, f"{name}Init")).parameters
    assert set(theirs) <= set(ours)
    for argument, default in theirs.items():
        # `layer` is None there and empty here, for none.
        assert (ours[argument].default or None) == (default or None), argument
    positional = [p.name for p in inspect.signature(cls.__init__).parameters.values() if p.default is not p.empty]
    assert [f.name for f in fields(getattr(OURS, f"{name}Init")) if f.name in positional] == positional


@pytest.mark.parametrize(
    "wrong", [{"bias": "1"}, {"bias_prob": 1}, {"bias_prob": "0.1"}, {"layer": 3}, {"layer": {"Linear"}}], ids=str
)
def test_arguments_of_a_wrong_type_are_type_errors(wrong: dict[str, Any]) -> None:
    """``bias`` is a number, ``bias_prob`` a float, ``layer`` a string or a list of them; else a TypeError."""
    for library in (MMENGINE, OURS):
        with pytest.raises(TypeError):
            library.ConstantInit(**{"val": 1, "layer": "Linear", **wrong})


def test_bias_prob_sets_the_bias() -> None:
    """``bias_prob`` is a probability that the bias is computed from, in place of ``bias``."""
    found = []
    for library in (MMENGINE, OURS):
        linear = nn.Linear(1, 1)
        library.ConstantInit(val=1, bias=5, bias_prob=0.01, layer="Linear")(linear)
        found.append(linear.bias.item())
    assert found[0] == found[1] == pytest.approx(-4.59512)


def test_an_initializer_is_called_on_a_module() -> None:
    """An initializer object writes to the modules whose class is in ``layer``, below the one it is called on."""
    found = []
    for library in (MMENGINE, OURS):
        model = prepared(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Sequential(nn.Conv2d(1, 1, 1), nn.Linear(1, 1))))
        library.ConstantInit(val=1, layer=["Conv2d"])(model)
        found.append(values(model))
    assert not differing(*found)
    assert [holds(found[1][name], 1) for name in ("0.weight", "1.0.weight", "1.1.weight")] == [True, True, False]


def test_a_class_is_a_type() -> None:
    """``type`` may be the class as well as its registered name."""

    def build(library: Any) -> nn.Module:
        cfg = {"type": library.ConstantInit, "val": 3, "layer": "Linear"}
        net: nn.Module = library.Sequential(nn.Linear(1, 1), init_cfg=cfg)
        return net

    theirs, ours = both(build)
    assert not differing(theirs, ours)
    assert ConstantInit(3) == ConstantInit(val=3)


def test_nothing_is_left_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the guide: neither library writes a file of its own."""
    monkeypatch.chdir(tmp_path)
    for library in (MMENGINE, OURS):
        run(library, lambda given: given.Sequential(nn.Linear(1, 1), init_cfg=constant(1, layer="Linear")))
    assert not list(tmp_path.iterdir())


# A config that uses all of this, as a user would write it.


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(3))

    def init_weights(self) -> None:
        self.scale.data.fill_(1)


class MyToy(BaseModule):
    def __init__(self, init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        self.conv = nn.Conv2d(1, 8, 3)


class MyToy2(BaseModule):
    def __init__(self, init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        self.conv1 = nn.Conv2d(1, 8, 3)
        self.conv2 = nn.Conv2d(8, 8, 3)
        self.custom = Custom()


def test_a_rule_without_a_match_is_no_failure() -> None:
    toy = MyToy(init_cfg=[{"type": "Kaiming", "layer": "Conv2d"}, {"type": "Xavier", "layer": "Linear"}])
    before = values(toy)
    with pytest.warns(InitWarning, match=r"MyToy.init_cfg\[1\].layer: MyToy has no 'Linear'"):
        toy.init_weights()
    assert differing(values(toy), before) == {"conv.weight", "conv.bias"}
    assert holds(toy.get_parameter("conv.bias"), 0)


def test_a_layer_list_of_which_one_is_there() -> None:
    toy = MyToy(init_cfg={"type": "Kaiming", "layer": ["Conv2d", "Linear"]})
    with pytest.warns(InitWarning, match="MyToy has no 'Linear'"):
        toy.init_weights()
    assert holds(toy.get_parameter("conv.bias"), 0)


@pytest.mark.parametrize("layers", [["Conv2d"], "Conv2d"])
def test_override_and_a_plain_child_whose_own_method_wins(layers: str | Sequence[str]) -> None:
    cfg = {"type": "Kaiming", "layer": layers, "override": {"name": "conv2", "type": "Xavier"}}
    toy = MyToy2(init_cfg=cfg)
    report = init_weights(toy, seed=0)
    assert (report["conv1.weight"].initializer or "").startswith("Kaiming")
    assert (report["conv2.weight"].initializer or "").startswith("Xavier")
    assert holds(toy.custom.scale, 1)
    assert report["custom.scale"].source == "Custom.init_weights"


def test_a_checkpoint_of_the_same_model(tmp_path: Path) -> None:
    saved = MyToy2()
    torch.save(saved.state_dict(), tmp_path / "toy.pth")
    toy = MyToy2(init_cfg={"type": "Pretrained", "checkpoint": str(tmp_path / "toy.pth")})
    assert differing(values(toy), values(saved)) >= {"conv1.weight", "conv2.weight"}
    toy.init_weights()
    assert not differing(values(toy), values(saved))


def test_normal_init_of_a_convolution() -> None:
    conv = nn.Conv2d(16, 64, 3)
    normal_init(conv, mean=0, std=0.01, bias=0.0)
    n = conv.weight.numel()
    assert conv.weight.std().item() == pytest.approx(0.01, rel=5 / np.sqrt(2 * n))
    assert abs(conv.weight.mean().item()) < 5 * 0.01 / np.sqrt(n)
    assert conv.bias is not None
    assert holds(conv.bias, 0)
