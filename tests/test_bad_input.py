"""Configs that cannot be meant: what is told, where, and that not one bit has changed."""

from __future__ import annotations

import copy
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lightning_init import (
    BaseModule,
    CheckpointError,
    ConstantInit,
    InitConfigError,
    InitError,
    InitWarning,
    LawInitializer,
    NormalInit,
    build_plan,
    init_weights,
    initialize,
)
from lightning_init.settings import Settings
from tests.models import digests

GOOD = {"type": "Constant", "layer": "Conv2d", "val": 1}


class LitNet(nn.Module):
    def __init__(self, init_cfg: Any = None) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
        self.head = nn.Linear(2, 3)
        self.init_cfg = init_cfg


def normal(**more: Any) -> dict[str, Any]:
    return {"type": "Normal", "layer": "Linear", **more}


def refused(init_cfg: Any, error: type[InitError] = InitConfigError, **settings: Any) -> InitError:
    """The error that a config ends in, after a look at what it must leave alone."""
    model = LitNet(init_cfg)
    before, generator = digests(model), torch.get_rng_state()
    shown = repr(init_cfg)
    with pytest.raises(error) as caught:
        init_weights(model, **settings)
    assert digests(model) == before
    assert torch.equal(torch.get_rng_state(), generator)
    assert repr(init_cfg) == shown
    assert not hasattr(model, "is_init")
    assert type(caught.value) is error
    return caught.value


def places(error: InitError) -> list[str]:
    return [fault.where for fault in error.faults]


# What is wrong, by the place in a list of rules that has a good one before it, and what the message says of it.
FAULTS: list[tuple[Any, str, str]] = [
    # type
    ({"type": "Kaimin", "layer": "Linear"}, ".type", "unknown initializer 'Kaimin'; did you mean 'Kaiming'?"),
    ({"type": "kaiming", "layer": "Linear"}, ".type", "did you mean 'Kaiming'?"),
    ({"type": "KaimingInit", "layer": "Linear"}, ".type", "did you mean 'Kaiming'?"),
    ({"type": "zzz", "layer": "Linear"}, ".type", "there are 'Caffe2Xavier', 'Constant', "),
    ({"type": "", "layer": "Linear"}, ".type", "unknown initializer ''"),
    ({"type": 3, "layer": "Linear"}, ".type", "got 3 (int)"),
    ({"type": nn.Linear, "layer": "Linear"}, ".type", "must name an initializer"),
    ({"type": LawInitializer, "layer": "Linear"}, ".type", "must name an initializer"),
    ({"type": "torch.nn.Linear", "layer": "Linear"}, ".type", "got 'torch.nn.Linear' (str)"),
    ({"type": "no.such.Init", "layer": "Linear"}, ".type", "unknown initializer 'no.such.Init'"),
    ({"type": "..", "layer": "Linear"}, ".type", "unknown initializer '..'"),
    ({"layer": "Linear"}, "", "a rule must have a `type`"),
    # arguments
    (normal(sdt=1), ".sdt", "unknown argument of Normal; did you mean 'std'?"),
    (normal(layers="Linear"), ".layers", "did you mean 'layer'?"),
    ({**normal(), 3: 4}, ".3", "unknown argument of Normal"),
    (normal(std="0.1"), ".std", "must be a number, got '0.1' (str)"),
    (normal(std=None), ".std", "must be a number, got None"),
    (normal(std=True), ".std", "must be a number, got True"),
    (normal(std=[1]), ".std", "must be a number, got [1]"),
    (normal(std=-1), ".std", "must be >= 0, got -1"),
    (normal(mean=float("nan")), ".mean", "must be a finite number, got nan"),
    ({"type": "Constant", "layer": "Linear"}, ".val", "Constant cannot do without it"),
    ({"type": "Kaiming", "layer": "Linear", "mode": "fanin"}, ".mode", "did you mean 'fan_in'?"),
    (
        {"type": "Xavier", "layer": "Linear", "distribution": "gauss"},
        ".distribution",
        "must be one of 'normal', 'uniform'",
    ),
    ({"type": "Uniform", "layer": "Linear", "a": 2, "b": 1}, ".a", "must be <= b, got a=2 and b=1"),
    ({"type": "Keep", "name": "head", "val": 1}, ".val", "unknown argument of Keep"),
    ({"type": "Pretrained"}, ".checkpoint", "Pretrained cannot do without it"),
    ({"type": "Pretrained", "checkpoint": 3}, ".checkpoint", "must be a path or an address, got 3"),
    ({"type": "Pretrained", "checkpoint": "w.pth", "prefix": 3}, ".prefix", "must be a string"),
    ({"type": "Pretrained", "checkpoint": "w.pth", "map_location": "gpux"}, ".map_location", "got 'gpux'"),
    (
        {"type": NormalInit(std=1), "layer": "Linear", "std": 2},
        ".std",
        "stands beside an initializer that is built already",
    ),
    # a rule that is none
    (3, "", "must be a rule, a mapping such as dict(type='Normal', layer='Linear'), got 3 (int)"),
    ("Normal", "", "got 'Normal' (str)"),
    ([normal()], "", "must be a rule, a mapping"),
    (None, "", "got None"),
    # bias, bias_prob
    (normal(bias="1"), ".bias", "must be a number, got '1' (str)"),
    (normal(bias=None), ".bias", "must be a number, got None"),
    (normal(bias=float("inf")), ".bias", "must be a finite number"),
    (normal(bias_prob=1), ".bias_prob", "must be a float between 0 and 1, got 1 (int)"),
    (normal(bias_prob="0.1"), ".bias_prob", "must be a float between 0 and 1, got '0.1' (str)"),
    (normal(bias_prob=1.5), ".bias_prob", "must lie between 0 and 1, both excluded, got 1.5"),
    (normal(bias_prob=0.0), ".bias_prob", "must lie between 0 and 1, both excluded, got 0.0"),
    # layer, name, params
    (normal(layer=3), ".layer", "must be a class name, a class or a list of them, got 3"),
    (normal(layer={"Linear"}), ".layer", "must be a class name, a class or a list of them"),
    (normal(layer={"Linear": 1}), ".layer", "must be a class name, a class or a list of them"),
    (normal(layer=["Linear", 3]), ".layer[1]", "must be a class name or a module class, got 3"),
    (normal(layer=["Linear", ""]), ".layer[1]", "must be a class name or a module class, got ''"),
    (normal(layer=int), ".layer", "must be a class name or a module class"),
    (normal(name=3), ".name", "must be a name or a pattern, got 3"),
    (normal(name=""), ".name", "must be a name or a pattern, got ''"),
    (normal(name="re:("), ".name", "is no regular expression"),
    (normal(params=3), ".params", "must be a name or a list of names, got 3"),
    (normal(params=["weight", 3]), ".params", "must be a name or a list of names"),
    # override
    (normal(override=3), ".override", "must be a rule (a mapping) or a list of rules, got 3 (int)"),
    (normal(override="head"), ".override", "must be a rule (a mapping) or a list of rules, got 'head' (str)"),
    (normal(override=[3]), ".override[0]", "must be a rule, a mapping"),
    (normal(override={"type": "Normal"}), ".override", "an override must have a `name`"),
    (normal(override={}), ".override", "an override must have a `name`"),
    (normal(override={"name": None, "type": "Normal"}), ".override", "an override must have a `name`"),
    (normal(override={"name": "head", "std": 3}), ".override", "has 'std' but no `type`"),
    (normal(override={"name": "head", "layer": "Linear"}), ".override", "has 'layer' but no `type`"),
    (normal(override={"name": "head", "std": 3, 1: 2}), ".override", "has 1, 'std' but no `type`"),
    (
        normal(override=[{"name": "head"}, {"name": "hed"}]),
        ".override[1].name",
        "LitNet has no 'hed'; did you mean 'head'?",
    ),
    (normal(override={"name": "hed", "type": "Keep"}), ".override.name", "LitNet has no 'hed'"),
    (normal(override={"name": "training", "type": "Normal"}), ".override.name", "LitNet has no 'training'"),
    (normal(override={"name": "backbone.7"}), ".override.name", "did you mean 'backbone.1' or 'backbone.0'"),
    (normal(override={"name": 3}), ".override.name", "must be a name or a pattern, got 3"),
    (normal(override={"name": "head", "type": "Normal", "std": -1}), ".override.std", "must be >= 0, got -1"),
    (normal(override={"name": "head", "override": {"name": "had"}}), ".override.override.name", "LitNet has no 'had'"),
    # fans
    (
        {"type": "Xavier", "layer": "BatchNorm2d"},
        "",
        "cannot fill 'backbone.1.weight': fan_in and fan_out need at least",
    ),
    (normal(override={"name": "backbone", "type": "Kaiming"}), ".override", "cannot fill 'backbone.1.weight'"),
]


@pytest.mark.parametrize(("rule", "place", "said"), FAULTS, ids=[f"{rule}"[:80] for rule, _, _ in FAULTS])
def test_a_fault_is_told_with_its_place_and_leaves_the_weights(rule: Any, place: str, said: str) -> None:
    error = refused([GOOD, rule])
    assert places(error) == [f"LitNet.init_cfg[1]{place}"]
    assert said in error.faults[0].what
    # The same fault of a config that is no list, and of one that is handed over.
    if rule is not None and not isinstance(rule, list | str | int):
        assert places(refused(rule)) == [f"LitNet.init_cfg{place}"]
        with pytest.raises(InitConfigError) as caught:
            initialize(LitNet(), [GOOD, rule])
        assert places(caught.value) == [f"init_cfg[1]{place}"]
        with pytest.raises(InitConfigError) as caught:
            build_plan(LitNet([GOOD, rule]))
        assert caught.value.faults == error.faults


@pytest.mark.parametrize("init_cfg", [3, 0, True, "Normal", "", b"Normal", b"", {1, 2}, object(), (x for x in [GOOD])])
def test_a_config_is_a_rule_or_a_list_of_rules(init_cfg: Any) -> None:
    model = LitNet()
    model.init_cfg = init_cfg
    before = digests(model)
    for carrier, given in ((model, None), (LitNet(), init_cfg)):
        with pytest.raises(InitConfigError, match=r"init_cfg: must be a rule \(a mapping\) or a list of rules, got "):
            init_weights(carrier, given)
    assert digests(model) == before


def test_the_error_is_of_every_kind_that_mmengine_raises() -> None:
    error = refused([GOOD, normal(std=-1)])
    for kind in (InitError, TypeError, ValueError, RuntimeError):
        assert isinstance(error, kind)
    assert str(error) == "LitNet.init_cfg[1].std: must be >= 0, got -1"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301  # just written


def test_all_faults_are_told_at_once() -> None:
    inner: Any = nn.Linear(2, 2)
    inner.init_cfg = [normal(), normal(bias="x")]
    model = LitNet(
        [
            {"type": "Kaimin", "layer": 3, "override": {"name": "hed"}},
            normal(
                std=-1, mean="x", foo=1, override=[{"name": "head"}, {"name": "had", "type": "Normal"}, {"name": 3}]
            ),
            {"type": "Xavier", "layer": "BatchNorm2d"},
            {"type": "Pretrained", "checkpoint": "/no/such/folder/w.pth"},
            "Normal",
        ]
    )
    model.head = inner
    last: Any = nn.Linear(2, 2)
    last.init_cfg = {"type": "Unifrom", "layer": "Linear"}
    model.last = last
    before = digests(model)
    with pytest.raises(InitConfigError) as caught:
        init_weights(model)
    assert sorted(places(caught.value)) == sorted(
        [
            "LitNet.init_cfg[0].layer",
            "LitNet.init_cfg[0].type",
            "LitNet.init_cfg[0].override.name",
            "LitNet.init_cfg[1].foo",
            "LitNet.init_cfg[1].mean",
            "LitNet.init_cfg[1].std",
            "LitNet.init_cfg[1].override[1].name",
            "LitNet.init_cfg[1].override[2].name",
            "LitNet.init_cfg[2]",
            "LitNet.init_cfg[3].checkpoint",
            "LitNet.init_cfg[4]",
            "LitNet.head.init_cfg[1].bias",
            "LitNet.last.init_cfg.type",
        ]
    )
    assert str(caught.value).startswith("13 faults in the init config:\n  - LitNet.init_cfg[0].layer: ")
    assert digests(model) == before


def test_a_fault_is_told_once_and_not_again_where_it_is_inherited() -> None:
    error = refused([GOOD, {"type": "Kaimin", "layer": "Linear", "override": [{"name": "head"}, {"name": "backbone"}]}])
    assert places(error) == ["LitNet.init_cfg[1].type"]


def test_a_faulty_rule_does_not_bring_forth_others() -> None:
    # Alone, the first rule could not fill the batch norm; the second, once it is put right, will.
    error = refused(
        [{"type": "Xavier", "layer": ["Conv2d", "BatchNorm2d"]}, {"type": "Constant", "layer": "BatchNorm2d"}]
    )
    assert places(error) == ["LitNet.init_cfg[1].val"]


def test_a_fan_based_rule_that_another_one_replaces_is_none() -> None:
    model = LitNet(
        [{"type": "Xavier", "layer": ["Conv2d", "BatchNorm2d"]}, {"type": "Constant", "name": "backbone.1", "val": 2}]
    )
    init_weights(model)
    assert model.get_parameter("backbone.1.weight").tolist() == [2, 2]


def test_a_package_that_cannot_be_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inits_of_mine.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    error = refused([GOOD, {"type": "inits_of_mine.MyInit", "layer": "Linear"}])
    assert places(error) == ["LitNet.init_cfg[1].type"]
    assert "a_package_that_is_not_there" in str(error)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise RuntimeError('no display')", "RuntimeError: no display"),
        ("raise ValueError('no level')", "ValueError: no level"),
        ("raise TypeError('no type')", "TypeError: no type"),
        ("class MyInit(:", "SyntaxError: invalid syntax"),
        ("def __getattr__(name):\n    raise LookupError(name)", "LookupError: MyInit"),
    ],
)
def test_a_module_that_raises_anything_at_import_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str
) -> None:
    (tmp_path / "faulty_inits_of_mine.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "faulty_inits_of_mine", raising=False)
    error = refused([GOOD, {"type": "faulty_inits_of_mine.MyInit", "layer": "Linear"}])
    assert places(error) == ["LitNet.init_cfg[1].type"]
    assert f"'faulty_inits_of_mine.MyInit' cannot be imported: {said}" in str(error)


def test_what_cannot_be_copied_is_told_at_its_place() -> None:
    class Net(BaseModule):
        def __init__(self, init_cfg: Any) -> None:
            super().__init__(init_cfg)
            self.head = nn.Linear(2, 3)

    for init_cfg, place in (
        ((rule for rule in [GOOD]), ""),
        ([GOOD, normal(std=(number for number in [1]))], "[1].std"),
        (normal(layer=(name for name in ["Linear"])), ".layer"),
    ):
        with pytest.raises(InitConfigError, match="generator") as caught:
            Net(init_cfg).init_weights()
        assert places(caught.value) == [f"Net.init_cfg{place}"]


# Checkpoints.


class Touches:
    """Unpickled with code allowed, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


def state() -> dict[str, Tensor]:
    return {name: torch.full_like(tensor, 9) for name, tensor in LitNet().state_dict().items()}


def missing(path: Path) -> None:
    path.with_name("w.pht").touch()


def folder(path: Path) -> None:
    path.mkdir()


def empty(path: Path) -> None:
    path.touch()


def truncated(path: Path) -> None:
    torch.save(state(), path)
    path.write_bytes(path.read_bytes()[:-100])


def truncated_safetensors(path: Path) -> None:
    save_file(state(), path)
    path.write_bytes(path.read_bytes()[:-10])


def text(path: Path) -> None:
    path.write_text("Sorry, this file is not available.")


def code(path: Path) -> None:
    torch.save({**state(), "evil": Touches(path.with_name("ran"))}, path)


def bare_code(path: Path) -> None:
    path.write_bytes(pickle.dumps(Touches(path.with_name("ran"))))


def no_tensors(path: Path) -> None:
    torch.save({"epoch": 3}, path)


def other_names(path: Path) -> None:
    torch.save({f"net.{name}": tensor for name, tensor in state().items()}, path)


def other_shape(path: Path) -> None:
    torch.save({**state(), "head.weight": torch.zeros(3, 3)}, path)


BAD_FILES: list[tuple[Callable[[Path], None], str]] = [
    (missing, r"no such file: .*did you mean 'w.pht'\?"),
    (folder, "is an empty folder"),
    (empty, "is an empty file"),
    (truncated, "cut off|truncated|damaged"),
    (truncated_safetensors, "cut off or damaged"),
    (text, "text, not a checkpoint: it starts with 'Sorry"),
    (bare_code, r"mkdir"),
    (no_tensors, "no tensor"),
    (other_names, "no key of .* fits; it has 'net.backbone.0.weight'.*match with prefix='net.'"),
    (other_shape, r"another shape than the module's: 1[\s\S]*'head.weight': \(3, 3\)"),
]


@pytest.mark.parametrize(("make", "said"), BAD_FILES, ids=[make.__name__ for make, _ in BAD_FILES])
@pytest.mark.parametrize("where", ["rule", "override"])
def test_a_bad_checkpoint_is_told_with_its_place(
    tmp_path: Path, make: Callable[[Path], None], said: str, where: str
) -> None:
    path = tmp_path / "w.pth"
    make(path)
    rule: dict[str, Any] = {"type": "Pretrained", "checkpoint": str(path)}
    if where == "override":
        rule = normal(override={**rule, "name": "**"})
    error = refused([GOOD, rule], CheckpointError)
    place = "LitNet.init_cfg[1]" + (".override" if where == "override" else "")
    assert [fault.where.rpartition(".")[0] for fault in error.faults] == [place]
    with pytest.raises(CheckpointError, match=said):
        init_weights(LitNet(rule))
    assert not path.with_name("ran").exists()


def test_code_beside_the_weights_is_left_unread_and_told(tmp_path: Path) -> None:
    code(tmp_path / "w.pth")
    net = LitNet({"type": "Pretrained", "checkpoint": str(tmp_path / "w.pth")})
    report = init_weights(net)
    assert all(bool((tensor == 9).all()) for tensor in net.state_dict().values())
    assert any("mkdir" in note for note in report.notes)
    assert not (tmp_path / "ran").exists()


def test_the_code_in_these_files_is_real(tmp_path: Path) -> None:
    bare_code(tmp_path / "w.pth")
    pickle.loads((tmp_path / "w.pth").read_bytes())  # noqa: S301  # it makes an empty folder
    assert (tmp_path / "ran").is_dir()


def test_a_prefix_that_is_not_there(tmp_path: Path) -> None:
    torch.save({f"net.{name}": tensor for name, tensor in state().items()}, tmp_path / "w.pth")
    rule = {"type": "Pretrained", "checkpoint": str(tmp_path / "w.pth"), "prefix": "ent"}
    error = refused([GOOD, rule], CheckpointError)
    assert places(error) == ["LitNet.init_cfg[1].prefix"]
    assert "the prefixes at its top (with numbers of keys) are 'net.'" in str(error)


def test_a_device_that_is_not_here_is_told_for_a_file_that_is_open_already(tmp_path: Path) -> None:
    rule = {"type": "Pretrained", "checkpoint": str(tmp_path / "w.pth"), "name": "head"}
    torch.save({"head.weight": torch.zeros(3, 2)}, tmp_path / "w.pth")
    error = refused([rule, {**rule, "map_location": "cuda:77"}, {**rule, "map_location": "cuda:78"}], CheckpointError)
    assert places(error) == ["LitNet.init_cfg[1].map_location", "LitNet.init_cfg[2].map_location"]
    assert "no device 'cuda:77' here" in str(error)


def test_checkpoints_and_rules_are_told_together(tmp_path: Path) -> None:
    empty(tmp_path / "w.pth")
    error = refused([{"type": "Pretrained", "checkpoint": str(tmp_path / "w.pth")}, normal(std=-1)])
    assert places(error) == ["LitNet.init_cfg[1].std", "LitNet.init_cfg[0].checkpoint"]


# What can be meant, but probably is not.

NOTHING: list[tuple[Any, str, str]] = [
    (normal(layer="Linera"), ".layer", "LitNet has no 'Linera'; did you mean 'Linear'"),
    (normal(layer=["Linear", "Conv3d"]), ".layer", "LitNet has no 'Conv3d'; did you mean 'Conv2d'?"),
    (normal(layer="torch.nn.Linaer"), ".layer", "LitNet has no 'torch.nn.Linaer'; did you mean 'Linear'"),
    (normal(layer=nn.ReLU), ".layer", "LitNet has no 'ReLU'; there are 'BatchNorm2d', 'Conv2d'"),
    (normal(layer="Sequential"), "", "layer='Sequential' matches nothing in LitNet that has a weight or a bias"),
    ({"type": "Normal", "name": "haed"}, "", "name='haed' matches nothing in LitNet; did you mean 'head'?"),
    ({"type": "Normal", "name": "head.wieght"}, "", "did you mean 'head.weight'"),
    ({"type": "Normal", "name": "re:.*gamma"}, "", "name='re:.*gamma' matches nothing in LitNet; there are 'backbone'"),
    (normal(name="backbone"), "", "layer='Linear', name='backbone' matches nothing in LitNet"),
    (normal(params="wieght"), "", "layer='Linear', params='wieght' matches nothing in LitNet; did you mean 'weight'?"),
    ({"type": "Normal", "name": "head", "params": "wait"}, "", "did you mean 'weight'?"),
    (
        normal(override={"name": "head", "type": "Normal", "params": "in_proj"}),
        ".override",
        "there are 'bias', 'weight'",
    ),
    ({"type": "Normal"}, "", "has no layer, name, params or override, so it matches nothing"),
    ({"type": "Keep"}, "", "has no layer, name, params or override, so it matches nothing"),
    ({"type": "Keep", "name": "haed"}, "", "did you mean 'head'?"),
    ({"type": "Keep", "layer": "Linera"}, ".layer", "LitNet has no 'Linera'; did you mean 'Linear'"),
]


@pytest.mark.parametrize(("rule", "place", "said"), NOTHING, ids=[f"{rule}"[:80] for rule, _, _ in NOTHING])
def test_a_rule_that_matches_nothing_is_a_warning_and_under_strict_an_error(rule: Any, place: str, said: str) -> None:
    with pytest.warns(InitWarning) as caught:
        report = init_weights(LitNet([GOOD, rule]))
    assert [str(warning.message) for warning in caught] == list(report.warnings)
    assert len(report.warnings) == 1
    assert report.warnings[0].startswith(f"LitNet.init_cfg[1]{place}: ")
    assert said in report.warnings[0]
    assert [str(fault) for fault in build_plan(LitNet([GOOD, rule])).warnings] == list(report.warnings)
    error = refused([GOOD, rule], strict=True)
    assert [str(fault) for fault in error.faults] == list(report.warnings)


def test_a_pattern_that_only_matches_parameters_of_other_names() -> None:
    model = LitNet({"type": "Normal", "name": "re:.*gamma"})
    model.head.gamma = nn.Parameter(torch.ones(2))
    with pytest.warns(InitWarning, match="matches nothing in LitNet but single parameters; name these with `params`"):
        init_weights(model)


def test_one_warning_lists_everything() -> None:
    cfg = [GOOD, normal(layer=["Linera", "Conv3d"]), {"type": "Normal", "name": "haed"}]
    with pytest.warns(InitWarning) as caught:
        init_weights(LitNet(cfg))
    assert len(caught) == 1
    lines = str(caught[0].message).splitlines()
    assert lines[0] == "3 things that are probably not meant:"
    assert [line.strip(" -").partition(": ")[0] for line in lines[1:]] == [
        "LitNet.init_cfg[1].layer",
        "LitNet.init_cfg[1].layer",
        "LitNet.init_cfg[2]",
    ]


def test_a_rule_that_only_has_overrides_is_no_mistake() -> None:
    model = LitNet({"type": "Constant", "val": 1, "override": {"name": "head"}})
    init_weights(model, strict=True)
    assert model.head.weight.eq(1).all()


def test_writing_over_what_a_checkpoint_loaded_is_a_warning(tmp_path: Path) -> None:
    torch.save({"weight": torch.full((3, 2), 5.0)}, tmp_path / "w.pth")
    override = {"type": "Pretrained", "checkpoint": str(tmp_path / "w.pth"), "name": "head"}
    cfg = [{**GOOD, "override": override}, {"type": "Constant", "layer": "Linear", "val": 7}]
    with pytest.warns(
        InitWarning, match=r"init_cfg\[1\]: writes over weights that the checkpoint of .*override loaded"
    ):
        init_weights(LitNet(cfg))
    refused(cfg, strict=True)


def test_require_all_refuses_what_nothing_writes(tmp_path: Path) -> None:
    cfg = [GOOD, normal()]
    report = init_weights(LitNet(cfg))
    assert report.untouched == ["backbone.1.weight", "backbone.1.bias"]
    assert any("2 parameters keep their constructor's values" in note for note in report.notes)
    assert places(refused(cfg, require_all=True)) == ["backbone.1.weight", "backbone.1.bias"]
    init_weights(LitNet([*cfg, {"type": "Keep", "name": "backbone.1"}]), require_all=True)
    everything = [*cfg, {"type": "Constant", "layer": "BatchNorm2d", "val": 1}]
    init_weights(LitNet(everything), require_all=True)
    torch.save({"head.weight": torch.zeros(3, 2), "neck.weight": torch.zeros(2)}, tmp_path / "w.pth")
    everything.append({"type": "Pretrained", "checkpoint": str(tmp_path / "w.pth")})
    assert init_weights(LitNet(everything)).unexpected == ["LitNet.init_cfg[3]: neck.weight"]
    error = refused(everything, require_all=True)
    assert "neck.weight" in str(error)
    assert "LitNet.init_cfg[3]" in str(error)


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"seed": "1"}, "seed"),
        ({"seed": True}, "seed"),
        ({"seed": np.True_}, "seed"),
        ({"seed": 1.0}, "seed"),
        ({"seed": np.float64(1)}, "seed"),
        ({"rng_device": "gpu"}, "rng_device"),
        ({"strict": 1}, "strict"),
        ({"require_all": "yes"}, "require_all"),
    ],
)
def test_settings_of_a_wrong_type(settings: dict[str, Any], place: str) -> None:
    assert places(refused(GOOD, **settings)) == [place]


@pytest.mark.parametrize("kind", [np.int64, np.uint8])
def test_an_integer_of_numpy_is_a_seed(kind: type[np.integer[Any]]) -> None:
    seed: Any = kind(7)
    assert type(Settings(seed).seed) is int
    models = [LitNet(normal()), LitNet(normal())]
    for model, given in zip(models, (seed, 7), strict=True):
        assert init_weights(model, seed=given).seed == 7
    assert torch.equal(models[0].head.weight, models[1].head.weight)


# The config belongs to the user.


@pytest.fixture(params=["kept", "refused"])
def cfg(request: pytest.FixtureRequest) -> Iterator[list[Any]]:
    """A config with all there is in it, which must be the same afterwards, down to the objects that it holds."""
    rule: dict[str, Any] = normal(
        layer=["Linear"], std=0.1 if request.param == "kept" else -1, override=[{"name": "head"}, {"name": "backbone"}]
    )
    config = [rule, GOOD, ConstantInit(2, layer=["BatchNorm2d"])]
    before, ids = copy.deepcopy(config), [id(rule), id(rule["layer"]), id(rule["override"]), id(rule["override"][0])]
    yield config
    assert config == before
    assert [id(rule), id(rule["layer"]), id(rule["override"]), id(rule["override"][0])] == ids


@pytest.mark.parametrize("how", ["carried", "given", "alone", "planned", "base module"])
def test_the_users_config_is_never_changed(cfg: list[Any], how: str) -> None:
    class Net(BaseModule):
        def __init__(self) -> None:
            super().__init__(cfg)
            self.backbone = nn.Conv2d(1, 1, 1)
            self.head = nn.Linear(1, 1)
            self.norm = nn.BatchNorm2d(1)

    runs: dict[str, Callable[[], Any]] = {
        "carried": lambda: init_weights(LitNet(cfg)),
        "given": lambda: init_weights(LitNet(), cfg),
        "alone": lambda: initialize(LitNet(), cfg),
        "planned": lambda: build_plan(LitNet(cfg)),
        "base module": lambda: Net().init_weights(),
    }
    if cfg[0]["std"] < 0:
        with pytest.raises(InitConfigError):
            runs[how]()
    else:
        runs[how]()
