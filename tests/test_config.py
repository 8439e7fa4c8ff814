from __future__ import annotations

import copy
from collections import UserDict, UserList, deque
from collections.abc import Iterator, Mapping
from dataclasses import FrozenInstanceError, dataclass
from types import MappingProxyType
from typing import Any

import pytest
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

import lightning_init
from lightning_init import (
    INITIALIZERS,
    InitConfigError,
    Initializer,
    KaimingInit,
    LawInitializer,
    NormalInit,
    PretrainedInit,
    init_weights,
)
from lightning_init.carried import carried_by
from lightning_init.config import parse, plain, read
from lightning_init.initializers.keep import KeepInit
from lightning_init.initializers.laws import ConstantLaw, Law
from lightning_init.registry import Registry
from lightning_init.rules import Rule
from tests.models import Holder, linear, value, values


def rule_of(init_cfg: Any) -> Rule:
    (rule,) = parse(init_cfg)
    return rule


def overrides_of(override: Any, **around: Any) -> tuple[Rule, ...]:
    return rule_of({"type": "Normal", "layer": "Linear", "std": 0.5, **around, "override": override}).overrides


class TestRules:
    def test_a_rule_holds_what_was_written(self) -> None:
        rule = rule_of({"type": "Normal", "std": 0.1, "layer": ["Linear"], "name": "a.*", "params": "w*"})
        assert rule.where == "init_cfg"
        assert rule.initializer == NormalInit(std=0.1)
        assert rule.scope.layer == ("Linear",)
        assert rule.scope.name is not None
        assert rule.scope.name.text == "a.*"
        assert rule.scope.params == ("w*",)
        assert (rule.overrides, rule.is_override, rule.is_keep, rule.is_pretrained) == ((), False, False, False)

    def test_a_rule_cannot_be_changed(self) -> None:
        rule = rule_of({"type": "Normal", "layer": "Linear"})
        with pytest.raises(FrozenInstanceError):
            rule.where = "elsewhere"  # type: ignore[misc]

    def test_rules_keep_their_order_and_know_their_place(self) -> None:
        rules = parse([{"type": "Normal", "layer": "A"}, {"type": "Uniform", "layer": "B"}], "Net.init_cfg")
        assert [(rule.where, type(rule.initializer).__name__) for rule in rules] == [
            ("Net.init_cfg[0]", "NormalInit"),
            ("Net.init_cfg[1]", "UniformInit"),
        ]

    @pytest.mark.parametrize("nothing", [None, [], ()])
    def test_there_may_be_none(self, nothing: Any) -> None:
        assert parse(nothing) == ()

    def test_kinds_with_a_meaning_of_their_own(self) -> None:
        assert rule_of({"type": "Keep", "name": "teacher"}).is_keep
        assert rule_of({"type": "Pretrained", "checkpoint": "w.pth"}).is_pretrained

    @pytest.mark.parametrize(
        "kind",
        [
            "Kaiming",
            KaimingInit,
            "lightning_init.KaimingInit",
            "lightning_init.initializers.variance.KaimingInit",
            KaimingInit(a=1),
        ],
    )
    def test_the_ways_to_name_an_initializer(self, kind: Any) -> None:
        arguments = {} if isinstance(kind, Initializer) else {"a": 1}
        assert rule_of({"type": kind, "layer": "Conv2d", **arguments}).initializer == KaimingInit(a=1)

    def test_an_initializer_itself_is_a_rule(self) -> None:
        rules = parse([NormalInit(std=0.1, layer=["Linear"]), KeepInit(layer="Conv2d")])
        assert [rule.scope.layer for rule in rules] == [("Linear",), ("Conv2d",)]
        assert rule_of(NormalInit(layer="Linear")).scope.layer == ("Linear",)

    def test_the_layer_of_a_rule_stands_above_that_of_its_object(self) -> None:
        assert rule_of({"type": NormalInit(layer="Linear"), "layer": "Conv2d"}).scope.layer == ("Conv2d",)

    def test_read_tells_faults_and_goes_on(self) -> None:
        rules, faults = read([{"type": "Normal", "std": -1, "layer": "A"}, {"type": "Normal", "layer": "B"}])
        assert [str(fault) for fault in faults] == ["init_cfg[0].std: must be >= 0, got -1"]
        assert [rule.scope.layer for rule in rules] == [("A",), ("B",)]
        with pytest.raises(InitConfigError, match="must be >= 0"):
            parse([{"type": "Normal", "std": -1, "layer": "A"}])


class TestOverrides:
    def test_with_a_type_it_is_a_rule_of_its_own(self) -> None:
        (override,) = overrides_of({"name": "head", "type": "Normal", "mean": 2})
        assert override.initializer == NormalInit(mean=2)
        assert override.where == "init_cfg.override"
        assert override.is_override

    def test_with_its_name_alone_it_takes_the_arguments_around_it(self) -> None:
        first, second = overrides_of([{"name": "a"}, {"name": "b"}], bias=3, params="gamma")
        for override, name in ((first, "a"), (second, "b")):
            assert override.initializer == NormalInit(std=0.5, bias=3)
            assert override.scope.name is not None
            assert override.scope.name.text == name
            assert override.scope.params == ("gamma",)
        assert [first.where, second.where] == ["init_cfg.override[0]", "init_cfg.override[1]"]

    def test_around_it_may_be_an_object(self) -> None:
        rule = rule_of({"type": NormalInit(std=7, layer="Linear"), "override": {"name": "a"}})
        assert rule.overrides[0].initializer == NormalInit(std=7, layer="Linear")

    def test_whatever_class_is_meant(self) -> None:
        own, inherited = overrides_of([{"name": "a", "type": "Normal", "layer": "Conv2d"}, {"name": "b"}])
        assert own.scope.layer == ()
        assert inherited.scope.layer == ()
        (of_object,) = overrides_of({"name": "a", "type": NormalInit(layer="Conv2d")})
        assert of_object.scope.layer == ()

    def test_one_in_another(self) -> None:
        (outer,) = overrides_of({"name": "a", "type": "Uniform", "override": {"name": "a.b"}})
        (inner,) = outer.overrides
        assert inner.where == "init_cfg.override.override"
        assert type(inner.initializer).__name__ == "UniformInit"

    @pytest.mark.parametrize("nothing", [None, [], ()])
    def test_there_may_be_none(self, nothing: Any) -> None:
        assert overrides_of(nothing) == ()

    def test_the_checkpoint_of_a_rule_goes_on_to_its_overrides(self) -> None:
        rule = rule_of({"type": "Pretrained", "checkpoint": "w.pth", "prefix": "a", "override": {"name": "b"}})
        assert rule.overrides[0].initializer == PretrainedInit("w.pth", prefix="a")


class TestBiases:
    @pytest.mark.parametrize(
        ("rule", "by_initializer"),
        [
            ({"type": "Normal", "layer": "Linear"}, False),
            ({"type": "Normal", "params": "bias"}, True),
            ({"type": "Normal", "params": ["bias"]}, True),
            ({"type": "Normal", "name": "head.bias"}, True),
            ({"type": "Normal", "params": ["weight", "bias"]}, False),
            ({"type": "Normal", "params": "b*"}, False),
            ({"type": "Normal", "params": "bias", "bias": 0}, False),
            ({"type": "Normal", "params": "bias", "bias_prob": 0.1}, False),
            ({"type": NormalInit(), "params": "bias"}, True),
            ({"type": NormalInit(bias=3), "params": "bias"}, False),
            ({"type": NormalInit(bias_prob=0.1), "params": "bias"}, False),
        ],
        ids=str,
    )
    def test_a_bias_alone_is_filled_by_the_initializer(self, rule: Any, by_initializer: bool) -> None:
        assert rule_of(rule).bias_by_initializer is by_initializer

    def test_so_it_happens(self) -> None:
        net = Holder(
            [
                {"type": "Constant", "val": 5, "name": "a.bias"},
                {"type": "Constant", "val": 6, "bias": 7, "name": "b.bias"},
            ]
        )
        net.a, net.b = linear(1), linear(2)
        init_weights(net)
        assert values(net) == {"a.weight": 1, "a.bias": 5, "b.weight": 2, "b.bias": 7}


WRITTEN = {"type": "Constant", "val": 3, "layer": ["Linear"], "override": [{"name": "b", "type": "Constant", "val": 4}]}


class TestContainers:
    @pytest.mark.parametrize(
        "wrap",
        [
            lambda cfg: cfg,
            lambda cfg: [cfg],
            lambda cfg: (cfg,),
            lambda cfg: {**cfg, "layer": ("Linear",), "override": tuple(cfg["override"])},
            OmegaConf.create,
            lambda cfg: OmegaConf.create([cfg]),
            lambda cfg: [OmegaConf.create(cfg)],
            lambda cfg: {**cfg, "layer": OmegaConf.create(["Linear"])},
            MappingProxyType,
            UserDict,
            lambda cfg: UserList([UserDict(cfg)]),
            lambda cfg: deque([cfg]),
        ],
    )
    def test_any_mapping_and_any_sequence(self, wrap: Any) -> None:
        cfg = wrap(copy.deepcopy(WRITTEN))
        shown, kind = repr(cfg), type(cfg)
        net = Holder(cfg, a=linear(), b=linear())
        init_weights(net)
        assert values(net) == {"a.weight": 3, "a.bias": 0, "b.weight": 4, "b.bias": 0}
        assert type(net.init_cfg) is kind
        assert repr(net.init_cfg) == shown

    def test_hydras_containers_with_references(self) -> None:
        given = OmegaConf.create({"std": 0.5, "init_cfg": [{"type": "Normal", "std": "${std}", "layer": ["Linear"]}]})
        assert isinstance(given.init_cfg, ListConfig)
        assert isinstance(given.init_cfg[0], DictConfig)
        (rule,) = parse(given.init_cfg)
        assert rule.initializer == NormalInit(std=0.5)
        assert OmegaConf.to_container(given)["init_cfg"][0]["std"] == "${std}"  # type: ignore[index, call-overload]

    def test_plain_copies_everything(self) -> None:
        inside = ["Linear"]
        other = {1}
        given = MappingProxyType({"layer": inside, "rest": ({"a": inside},), "class": nn.Linear, "other": other})
        copied = plain(given)
        assert copied == {"layer": ["Linear"], "rest": [{"a": ["Linear"]}], "class": nn.Linear, "other": {1}}
        assert copied["other"] is not other
        assert copied["layer"] is not inside
        assert copied["rest"][0]["a"] is not inside

    def test_plain_keeps_what_cannot_be_copied(self) -> None:
        class Refuses:
            def __deepcopy__(self, memo: Any) -> Any:
                raise RuntimeError

        for kept in ((i for i in [1]), Refuses()):
            assert plain({"values": [kept]})["values"][0] is kept


class TestCarriers:
    def test_a_config_of_the_instance_or_the_class(self) -> None:
        class Carrier(nn.Module):
            init_cfg: Any = WRITTEN

        carrier = Carrier()
        assert carried_by(carrier) is WRITTEN
        carrier.init_cfg = [WRITTEN]
        assert carried_by(carrier) == [WRITTEN]
        assert carried_by(nn.Linear(1, 1)) is None

    def test_a_property_counts(self) -> None:
        class Carrier(nn.Module):
            @property
            def init_cfg(self) -> Any:
                return [WRITTEN]

        assert carried_by(Carrier()) == [WRITTEN]

    def test_what_getattr_hands_out_is_another_modules(self) -> None:
        class Forwarding(Holder):
            def __getattr__(self, name: str) -> Any:
                return [WRITTEN] if name == "init_cfg" else super().__getattr__(name)

        assert Forwarding().init_cfg == [WRITTEN]
        assert carried_by(Forwarding()) is None

    @pytest.mark.parametrize("empty", [None, [], (), {}, OmegaConf.create([]), OmegaConf.create({})])
    def test_an_empty_one_is_none(self, empty: Any) -> None:
        assert carried_by(Holder(empty)) is None

    @pytest.mark.parametrize("wrong", ["", b"", 0, False])
    def test_what_is_no_config_is_not_an_empty_one(self, wrong: Any) -> None:
        assert carried_by(Holder(wrong)) == wrong

    def test_a_config_of_the_class_is_run(self) -> None:
        class Carrier(Holder):
            init_cfg: Any = WRITTEN | {"override": None}

        net = Carrier(fc=linear())
        init_weights(net)
        assert value(net.get_parameter("fc.weight")) == 3


@pytest.fixture
def own_names() -> Iterator[None]:
    """Takes away what a test registers."""
    before = dict(INITIALIZERS._classes)
    yield
    INITIALIZERS._classes.clear()
    INITIALIZERS._classes.update(before)


@pytest.mark.usefixtures("own_names")
class TestInitializersOfOnesOwn:
    def test_under_the_name_of_the_class(self) -> None:
        @INITIALIZERS.register
        @dataclass(frozen=True)
        class HalfInit(LawInitializer):
            scale: float = 1.0

            def law(self, shape: tuple[int, ...], fans: Any) -> Law:
                return ConstantLaw(self.scale / 2)

        assert INITIALIZERS["Half"] is HalfInit
        net = Holder({"type": "Half", "scale": 3.0, "bias": 2, "layer": "Linear"}, fc=linear())
        report = init_weights(net)
        assert values(net) == {"fc.weight": 1.5, "fc.bias": 2}
        assert report["fc.weight"].initializer == "Half(scale=3.0)"

    def test_under_a_name_that_is_given(self) -> None:
        @INITIALIZERS.register("three")
        class Anything(LawInitializer):
            def law(self, shape: tuple[int, ...], fans: Any) -> Law:
                return ConstantLaw(3)

        net = Holder({"type": "three", "layer": "Linear"}, fc=linear())
        report = init_weights(net)
        assert value(net.get_parameter("fc.weight")) == 3
        assert report["fc.weight"].initializer == "three()"

    def test_without_a_name_the_class_and_its_path_will_do(self) -> None:
        assert rule_of({"type": Unregistered, "layer": "Linear"}).initializer == Unregistered()
        assert rule_of({"type": f"{__name__}.Unregistered", "layer": "Linear"}).initializer == Unregistered()
        assert Unregistered().describe() == "Unregistered()"

    def test_a_name_that_is_taken(self) -> None:
        taken = dict(INITIALIZERS)
        with pytest.raises(
            InitConfigError, match="the initializer name 'Normal' is taken by NormalInit; choose another"
        ):
            INITIALIZERS.register("Normal")(Unregistered)

        class KaimingInit(Unregistered):  # its short name is taken
            pass

        with pytest.raises(InitConfigError, match="'Kaiming' is taken by KaimingInit"):
            INITIALIZERS.register(KaimingInit)
        assert dict(INITIALIZERS) == taken

    def test_an_unknown_name_lists_the_nearest_own_ones_included(self) -> None:
        INITIALIZERS.register("Spectral")(Unregistered)
        with pytest.raises(InitConfigError, match=r"unknown initializer 'Spectrl'; did you mean 'Spectral'\?"):
            parse({"type": "Spectrl", "layer": "Linear"})

    def test_what_is_no_initializer_is_refused(self) -> None:
        for wrong in (nn.Linear, len):
            with pytest.raises(InitConfigError, match="it must be a class derived from Initializer"):
                INITIALIZERS.register("Wrong")(wrong)  # type: ignore[type-var]
        assert "Wrong" not in INITIALIZERS

    def test_its_own_errors_are_faults_with_a_place(self) -> None:
        @INITIALIZERS.register
        @dataclass(frozen=True)
        class PickyInit(LawInitializer):
            level: int

            def __post_init__(self) -> None:
                if self.level > 3:
                    raise ValueError("no level above 3")

            def law(self, shape: tuple[int, ...], fans: Any) -> Law:
                return ConstantLaw(self.level)

        with pytest.raises(InitConfigError, match=r"^init_cfg: no level above 3$"):
            parse({"type": "Picky", "layer": "Linear", "level": 4})
        with pytest.raises(InitConfigError, match=r"^init_cfg.level: Picky cannot do without it$"):
            parse({"type": "Picky", "layer": "Linear"})

    def test_it_may_take_any_arguments(self) -> None:
        @INITIALIZERS.register
        class OpenInit(Unregistered):
            def __init__(self, **rest: float) -> None:
                super().__init__()
                object.__setattr__(self, "rest", rest)

        rule = rule_of({"type": "Open", "layer": "Linear", "whatever": 3})
        assert vars(rule.initializer)["rest"] == {"whatever": 3}


@dataclass(frozen=True)
class Unregistered(LawInitializer):
    """Known by its path alone."""

    def law(self, shape: tuple[int, ...], fans: Any) -> Law:
        return ConstantLaw(3)


def test_a_registry_is_a_mapping() -> None:
    registry: Registry[object] = Registry("thing", object)
    assert not registry
    registry.register(Unregistered)
    assert dict(registry) == {"Unregistered": Unregistered}
    assert isinstance(registry, Mapping)
    assert registry.name_of(Unregistered) == "Unregistered"
    with pytest.raises(KeyError):
        registry["Missing"]


def test_the_public_names_are_those_of_the_registry() -> None:
    for name in ("Constant", "Xavier", "Normal", "TruncNormal", "Uniform", "Kaiming", "Caffe2Xavier", "Pretrained"):
        assert getattr(lightning_init, f"{name}Init") is INITIALIZERS[name]
