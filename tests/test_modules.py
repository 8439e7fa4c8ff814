from __future__ import annotations

import copy
import pickle
import warnings
from collections import OrderedDict
from types import MappingProxyType
from typing import Any

import lightning as L
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

import lightning_init
from lightning_init import BaseModule, InitConfigError, InitWarning, ModuleDict, ModuleList, Sequential, init_weights
from tests.models import Holder, constant, linear, values


class Net(BaseModule):
    def __init__(self, init_cfg: Any = None, **children: nn.Module) -> None:
        super().__init__(init_cfg)
        for name, child in (children or {"fc": linear()}).items():
            self.add_module(name, child)


class ClassConfig(BaseModule):
    init_cfg: Any = MappingProxyType(constant(3))

    def __init__(self, init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        self.fc = linear()


EVERY_KIND: dict[str, Any] = {
    "BaseModule": Net,
    "Sequential": lambda cfg: Sequential(linear(), init_cfg=cfg),
    "ModuleList": lambda cfg: ModuleList([linear()], init_cfg=cfg),
    "ModuleDict": lambda cfg: ModuleDict({"fc": linear()}, init_cfg=cfg),
}
every_kind = pytest.mark.parametrize("make", EVERY_KIND.values(), ids=EVERY_KIND.keys())


@every_kind
class TestInitCfg:
    def test_it_is_kept_and_run(self, make: Any) -> None:
        module = make(constant(2))
        assert module.init_cfg == constant(2)
        module.init_weights()
        assert set(values(module).values()) == {2}

    def test_it_is_a_copy(self, make: Any) -> None:
        cfg = [constant(2, layer=["Linear"], override=[{"name": "0"}])]
        module = make(cfg)
        cfg[0]["val"] = 5
        cfg[0]["layer"].append("Conv2d")
        cfg[0]["override"].clear()
        cfg.append(constant(6))
        assert module.init_cfg == [constant(2, layer=["Linear"], override=[{"name": "0"}])]

    def test_two_modules_share_nothing(self, make: Any) -> None:
        cfg = constant(2)
        one, other = make(cfg), make(cfg)
        one.init_cfg["val"] = 5
        assert other.init_cfg["val"] == 2
        assert cfg["val"] == 2

    @pytest.mark.parametrize(
        "wrap", [OmegaConf.create, MappingProxyType, lambda cfg: (cfg,), lambda cfg: OmegaConf.create([cfg])]
    )
    def test_other_containers_become_plain(self, make: Any, wrap: Any) -> None:
        module = make(wrap(constant(2)))
        assert module.init_cfg in (constant(2), [constant(2)])
        assert type(module.init_cfg) in (dict, list)
        module.init_weights()
        assert set(values(module).values()) == {2}

    def test_without_one_there_is_none(self, make: Any) -> None:
        module = make(None)
        assert module.init_cfg is None
        assert "init_cfg" not in vars(module)
        module.init_weights()
        assert set(values(module).values()) == {0}

    def test_it_may_be_set_later(self, make: Any) -> None:
        module = make(None)
        module.init_cfg = constant(4)
        module.init_weights()
        assert set(values(module).values()) == {4}

    def test_it_is_shown(self, make: Any) -> None:
        bare = repr(make(None))
        assert "init_cfg" not in bare
        assert repr(make([])) == bare
        assert repr(make(constant(2))) == f"{bare}\ninit_cfg={constant(2)}"

    def test_it_is_no_part_of_the_state(self, make: Any) -> None:
        assert make(constant(2)).state_dict().keys() == make(None).state_dict().keys()

    def test_copies_and_pickles_keep_it(self, make: Any) -> None:
        module = make(constant(2))
        for again in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):  # noqa: S301  # just written
            assert again.init_cfg == constant(2)
            assert again.is_init is False
            again.init_weights()
            assert set(values(again).values()) == {2}
        assert set(values(module).values()) == {0}

    def test_a_faulty_one_is_told_when_it_is_run(self, make: Any) -> None:
        module = make({"type": "Normla"})
        with pytest.raises(
            InitConfigError, match=rf"^{type(module).__name__}.init_cfg.type: unknown initializer 'Normla'"
        ):
            module.init_weights()
        assert module.is_init is False


class TestClassConfig:
    def test_that_of_the_class_stands_without_another(self) -> None:
        module = ClassConfig()
        assert "init_cfg" not in vars(module)
        module.init_weights()
        assert set(values(module).values()) == {3}

    def test_that_of_the_instance_stands_above_it(self) -> None:
        module = ClassConfig(constant(5))
        module.init_weights()
        assert set(values(module).values()) == {5}
        assert ClassConfig.init_cfg == constant(3)

    def test_an_empty_one_of_the_instance_switches_it_off(self) -> None:
        module = ClassConfig([])
        module.init_weights()
        assert set(values(module).values()) == {0}

    def test_it_is_shown(self) -> None:
        assert repr(ClassConfig()).endswith(f"\ninit_cfg={ClassConfig.init_cfg}")


class TestIsInit:
    @every_kind
    def test_it_tells_whether_init_weights_has_run(self, make: Any) -> None:
        module = make(constant(2))
        assert module.is_init is False
        module.init_weights()
        assert module.is_init is True

    def test_inner_modules_are_marked_too(self) -> None:
        net = Net(constant(1), inner=Net(constant(2)), plain=nn.Sequential(linear()), bare=Net())
        net.init_weights()
        assert [net.get_submodule(name).is_init for name in ("", "inner", "bare")] == [True, True, True]
        assert not hasattr(net.get_submodule("plain"), "is_init")

    @pytest.mark.parametrize("how", ["method", "function"])
    def test_twice_is_a_warning_and_changes_nothing(self, how: str) -> None:
        net = Net(constant(2))
        run = net.init_weights if how == "method" else lambda: init_weights(net)
        run()
        nn.init.constant_(net.get_parameter("fc.weight"), 7)
        with pytest.warns(InitWarning, match=r"Net .*already.*nothing was changed") as caught:
            run()
        assert len(caught) == 1
        assert values(net) == {"fc.weight": 7, "fc.bias": 2}
        net.is_init = False
        run()
        assert values(net) == {"fc.weight": 2, "fc.bias": 2}

    def test_what_is_initialised_is_left_out(self) -> None:
        net = Net(None, a=Net(constant(2)), b=Net(constant(3)))
        net.get_submodule("a").is_init = True  # type: ignore[assignment]  # a plain attribute
        net.init_weights()
        assert values(net) == {"a.fc.weight": 0, "a.fc.bias": 0, "b.fc.weight": 3, "b.fc.bias": 3}

    def test_a_part_first_and_the_whole_then(self) -> None:
        net = Net(constant(1), inner=Net(constant(2)))
        inner: Any = net.get_submodule("inner")
        inner.init_weights()
        nn.init.constant_(inner.fc.bias, 9)
        net.init_weights()
        # The outer rules still write into it; its own are not run again.
        assert values(net) == {"inner.fc.weight": 1, "inner.fc.bias": 1}

    def test_nothing_is_marked_when_it_fails(self) -> None:
        net = Net(constant(1), inner=Net({"type": "Constant"}), other=Net(constant(3)))
        with pytest.raises(InitConfigError):
            net.init_weights()
        assert [net.get_submodule(name).is_init for name in ("", "inner", "other")] == [False, False, False]


class Coding(Net):
    order = "super first"

    def init_weights(self) -> None:
        if self.order == "super first":
            super().init_weights()
        nn.init.constant_(self.get_parameter("fc.weight"), 8)
        if self.order == "super last":
            super().init_weights()


class TestOverridingInitWeights:
    @pytest.mark.parametrize(
        ("order", "weight", "bias"), [("super first", 8, 2), ("super last", 2, 2), ("no super", 8, 0)]
    )
    @pytest.mark.parametrize("how", ["method", "function", "inner"])
    def test_the_method_decides_what_is_run_and_when(self, order: str, weight: float, bias: float, how: str) -> None:
        net = Coding(constant(2))
        net.order = order
        if how == "method":
            net.init_weights()
        else:
            init_weights(net if how == "function" else Net(None, inner=net))
        assert values(net) == {"fc.weight": weight, "fc.bias": bias}
        assert net.is_init is (how != "method" or order != "no super")

    def test_super_through_several_classes(self) -> None:
        class Further(Coding):
            def init_weights(self) -> None:
                super().init_weights()
                nn.init.constant_(self.get_parameter("fc.bias"), 9)

        net = Further(constant(2))
        net.init_weights()
        assert values(net) == {"fc.weight": 8, "fc.bias": 9}

    def test_an_attribute_of_the_instance_is_a_method_as_well(self) -> None:
        net = Net(constant(2))
        net.init_weights = lambda: nn.init.constant_(net.get_parameter("fc.weight"), 6)  # type: ignore[assignment, method-assign]
        init_weights(Net(None, inner=net))
        assert values(net) == {"fc.weight": 6, "fc.bias": 0}

    def test_a_checkpoint_comes_with_super(self, tmp_path: Any) -> None:
        torch.save({"fc.weight": torch.full((1, 1), 5.0)}, tmp_path / "w.pth")
        rule = {"type": "Pretrained", "checkpoint": str(tmp_path / "w.pth")}
        first, last = Coding([rule]), Coding([rule])
        last.order = "super last"
        with pytest.warns(InitWarning, match=r"Coding.init_weights writes over weights .* loaded: fc.weight$"):
            init_weights(first)
        init_weights(last)
        assert [net.get_parameter("fc.weight").item() for net in (first, last)] == [8, 5]

    def test_the_report_tells_method_and_rule_apart(self) -> None:
        report = init_weights(Net(None, inner=Coding(constant(2))))
        assert [(row.name, row.source) for row in report] == [
            ("inner.fc.weight", "Coding.init_weights"),
            ("inner.fc.bias", "Net.inner.init_cfg"),
        ]

    def test_super_twice_is_a_warning(self) -> None:
        class Twice(Net):
            def init_weights(self) -> None:
                super().init_weights()
                super().init_weights()

        with pytest.warns(InitWarning, match="nothing was changed"):
            init_weights(Twice(constant(2)))


class TestMixins:
    @pytest.mark.parametrize("order", ["LightningModule first", "BaseModule first"])
    def test_with_a_lightning_module(self, order: str) -> None:
        bases: tuple[type, ...] = (L.LightningModule, BaseModule)
        bases = bases if order == "LightningModule first" else bases[::-1]

        class LitNet(*bases):  # type: ignore[misc]  # either order
            def __init__(self, init_cfg: Any = None) -> None:
                super().__init__()
                if init_cfg is not None:
                    self.init_cfg = init_cfg
                self.save_hyperparameters()
                self.fc = linear()

        net = LitNet(constant(2))
        assert net.hparams == {"init_cfg": constant(2)}
        assert repr(net).endswith(f"\ninit_cfg={constant(2)}")
        net.init_weights()
        assert values(net) == {"fc.weight": 2, "fc.bias": 2}
        assert net.is_init is True
        assert LitNet().init_cfg is None

    def test_a_lightning_module_may_hand_on_its_config(self) -> None:
        class LitNet(BaseModule, L.LightningModule):
            def __init__(self, init_cfg: Any = None) -> None:
                super().__init__(init_cfg)
                self.fc = linear()

        net = LitNet(constant(2))
        assert net.automatic_optimization is True
        init_weights(net)
        assert values(net) == {"fc.weight": 2, "fc.bias": 2}

    def test_a_lightning_module_alone_needs_nothing(self) -> None:
        class LitNet(L.LightningModule):
            init_cfg: Any = MappingProxyType(constant(2))

            def __init__(self) -> None:
                super().__init__()
                self.inner = Net(constant(3))
                self.fc = linear()

        net = LitNet()
        init_weights(net)
        assert values(net) == {"inner.fc.weight": 3, "inner.fc.bias": 3, "fc.weight": 2, "fc.bias": 2}

    def test_with_another_module_class(self) -> None:
        class Conv(BaseModule, nn.Conv2d):
            def __init__(self, *args: Any, init_cfg: Any = None) -> None:
                nn.Conv2d.__init__(self, *args)
                self.init_cfg = init_cfg

        conv = Conv(1, 1, 1, init_cfg=constant(4, layer="Conv2d"))
        conv.init_weights()
        assert values(conv) == {"weight": 4, "bias": 4}


class TestContainers:
    def test_sequential_is_torchs(self) -> None:
        box = Sequential(linear(1), linear(2), init_cfg=constant(3))
        assert isinstance(box, nn.Sequential)
        assert box(torch.ones(1, 1)).item() == 6
        assert len(Sequential(OrderedDict(a=linear(), b=linear()))) == 2
        assert [name for name, _ in Sequential(OrderedDict(a=linear())).named_children()] == ["a"]

    @pytest.mark.parametrize("part", [slice(0, 1), slice(None)])
    def test_a_slice_is_another_module_without_a_config(self, part: slice) -> None:
        for box in (
            Sequential(linear(), linear(), init_cfg=constant(3)),
            ModuleList([linear(), linear()], init_cfg=constant(3)),
        ):
            piece: Any = box[part]
            assert type(piece) is type(box)
            assert piece.init_cfg is None

    def test_module_list_is_torchs(self) -> None:
        box = ModuleList(init_cfg=constant(3))
        assert isinstance(box, nn.ModuleList)
        assert len(box) == 0
        box.append(linear())
        box.init_weights()
        assert values(box) == {"0.weight": 3, "0.bias": 3}

    def test_module_dict_is_torchs(self) -> None:
        box = ModuleDict(init_cfg=constant(3))
        assert isinstance(box, nn.ModuleDict)
        assert len(box) == 0
        box["a"] = linear()
        box.init_weights()
        assert values(box) == {"a.weight": 3, "a.bias": 3}

    def test_a_container_beats_what_is_around_it_and_is_beaten_by_what_is_in_it(self) -> None:
        box = Sequential(linear(), Net(constant(3)), init_cfg=constant(2))
        net = Holder(constant(1), box=box, fc=linear())
        init_weights(net)
        assert {name: value for name, value in values(net).items() if name.endswith("weight")} == {
            "box.0.weight": 2,
            "box.1.fc.weight": 3,
            "fc.weight": 1,
        }

    def test_the_repr_of_an_inner_container_shows_its_config(self) -> None:
        shown = repr(Net(constant(1), box=Sequential(linear(), init_cfg=constant(2))))
        assert shown.count("init_cfg=") == 2


def test_forward_and_training_know_nothing_of_it() -> None:
    class Model(Net):
        def forward(self, given: Tensor) -> Tensor:
            result: Tensor = self.get_submodule("fc")(given)
            return result

    model = Model(constant(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.init_weights()
    assert model(torch.ones(1, 1)).item() == 4
    copied = copy.deepcopy(model).double()
    assert copied.get_parameter("fc.weight").dtype == torch.float64
    assert copied.is_init is True


def test_they_are_public() -> None:
    for name in ("BaseModule", "Sequential", "ModuleList", "ModuleDict"):
        assert name in lightning_init.__all__
