"""Who wins, what is protected, what is told: the contract of ``init_cfg``, shown with constants and checkpoints."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_init import (
    BaseModule,
    CheckpointError,
    InitConfigError,
    InitWarning,
    ModuleDict,
    ModuleList,
    Sequential,
    init_weights,
    initialize,
)
from lightning_init.checkpoint.base import Checkpoint
from lightning_init.checkpoint.matching.matched import Match
from lightning_init.checkpoint.pretrained import PretrainedInit
from lightning_init.engine import _log
from tests.models import CountingInit, Holder, as_before, constant, digests, linear, pretrained, value, values


class WithMethod(nn.Module):
    """A plain module whose own method writes 7."""

    def __init__(self, init_cfg: Any = None) -> None:
        super().__init__()
        self.fc = linear()
        if init_cfg is not None:
            self.init_cfg = init_cfg

    def init_weights(self) -> None:
        self.fc.weight.data.fill_(7)
        self.fc.bias.data.fill_(7)


class TestWhoWins:
    def test_a_later_rule_beats_an_earlier_one(self) -> None:
        net = Holder([constant(1), constant(2, name="b"), constant(3, name="c")], a=linear(), b=linear(), c=linear())
        report = init_weights(net)
        assert values(net) == {"a.weight": 1, "a.bias": 1, "b.weight": 2, "b.bias": 2, "c.weight": 3, "c.bias": 3}
        assert [row.source for row in report][::2] == [f"Holder.init_cfg[{i}]" for i in range(3)]

    def test_a_general_rule_behind_a_special_one_wins(self) -> None:
        net = Holder([constant(2, name="b"), constant(1)], a=linear(), b=linear())
        init_weights(net)
        assert set(values(net).values()) == {1}

    def test_overrides_follow_their_own_rule(self) -> None:
        first = constant(1, override=[constant(2, name="b"), constant(3, name="c")])
        net = Holder([first, constant(4, name="c")], a=linear(), b=linear(), c=linear())
        report = init_weights(net)
        assert [value(net.get_parameter(f"{name}.weight")) for name in "abc"] == [1, 2, 4]
        assert report["b.weight"].source == "Holder.init_cfg[0].override[0]"
        assert report["c.bias"].source == "Holder.init_cfg[1]"

    def test_an_override_with_a_name_alone_takes_the_arguments_around_it(self) -> None:
        net = Holder(constant(5, layer="Conv2d", override={"name": "fc"}), conv=nn.Conv2d(1, 1, 1), fc=linear())
        init_weights(net)
        assert values(net) == {"conv.weight": 5, "conv.bias": 5, "fc.weight": 5, "fc.bias": 5}

    def test_an_override_reaches_every_class_below_its_name(self) -> None:
        inner = Holder(conv=nn.Conv2d(1, 1, 1), norm=nn.BatchNorm2d(1), fc=linear())
        net = Holder(constant(1, override=constant(2, name="inner", layer="Linear")), inner=inner)
        init_weights(net)
        assert set(values(net).values()) == {2}

    def test_a_child_beats_its_parent(self) -> None:
        net = Holder(constant(1), a=linear(), child=Holder(constant(2, name="b"), b=linear(), c=linear()))
        init_weights(net)
        assert [value(net.get_parameter(f"{name}.bias")) for name in ("a", "child.b", "child.c")] == [1, 2, 1]

    def test_a_child_beats_even_an_override_that_names_it(self) -> None:
        net = Holder(constant(1, override=constant(3, name="child")), child=Holder(constant(2), fc=linear()))
        init_weights(net)
        assert set(values(net).values()) == {2}

    def test_the_deepest_config_wins(self) -> None:
        deepest = Holder(constant(3), fc=linear())
        net = Holder(constant(1), fc=linear(), x=Holder(constant(2), fc=linear(), y=deepest))
        init_weights(net)
        assert [value(net.get_parameter(f"{path}fc.weight")) for path in ("", "x.", "x.y.")] == [1, 2, 3]

    @pytest.mark.parametrize(
        "around",
        [
            lambda child: nn.Sequential(nn.ReLU(), child),
            lambda child: nn.ModuleList([nn.Identity(), nn.ModuleDict({"k": child})]),
            lambda child: Holder(inner=Holder(child=child)),
            Sequential,
            lambda child: ModuleList([child]),
            lambda child: ModuleDict({"k": child}),
        ],
    )
    def test_configs_are_found_inside_containers(self, around: Any) -> None:
        child = Holder(constant(2), fc=linear())
        init_weights(Holder(constant(1), inside=around(child)))
        assert value(child.get_parameter("fc.weight")) == 2

    def test_the_last_of_two_carriers_that_share_a_module_wins(self) -> None:
        shared = linear()
        net = Holder(x=Holder(constant(1), fc=shared), y=Holder(constant(2), fc=shared))
        report = init_weights(net)
        assert value(shared.weight) == 2
        assert report["x.fc.weight"].source == "Holder.y.init_cfg"
        assert report["y.fc.weight"] is report["x.fc.weight"]

    def test_a_shared_carrier_is_asked_once(self) -> None:
        class Once(Holder):
            calls = 0

            def init_weights(self) -> None:
                self.calls += 1

        shared = Once(constant(1), fc=linear())
        init_weights(Holder(x=shared, y=shared))
        assert shared.calls == 1

    def test_a_method_beats_rules(self) -> None:
        net = Holder(constant(1), child=WithMethod(constant(2)), fc=linear())
        report = init_weights(net)
        assert values(net) == {"child.fc.weight": 7, "child.fc.bias": 7, "fc.weight": 1, "fc.bias": 1}
        assert report["child.fc.weight"].source == "WithMethod.init_weights"
        assert report["child.fc.weight"].initializer is None

    def test_an_outer_method_beats_an_inner_one(self) -> None:
        class Outer(Holder):
            def init_weights(self) -> None:
                nn.init.constant_(self.get_parameter("child.fc.bias"), 8)

        net = Outer(child=WithMethod())
        report = init_weights(net)
        assert values(net) == {"child.fc.weight": 7, "child.fc.bias": 8}
        assert report["child.fc.bias"].source == "Outer.init_weights"

    def test_a_method_of_the_instance_counts(self) -> None:
        net = Holder(constant(1), fc=linear())
        net.init_weights = lambda: net.get_parameter("fc.weight").data.fill_(9)  # type: ignore[assignment]
        init_weights(net)
        assert values(net) == {"fc.weight": 9, "fc.bias": 1}

    def test_a_checkpoint_beats_rules_children_and_methods(self, tmp_path: Path) -> None:
        net = WithMethod([pretrained(tmp_path / "w.pth", {"fc.weight": 4}), constant(1)])
        # It stands first in the list, and the method runs after the rules.
        report = init_weights(net)
        assert values(net) == {"fc.weight": 4, "fc.bias": 7}
        assert report["fc.weight"].source == "WithMethod.init_cfg[0]"

    def test_an_outer_checkpoint_beats_an_inner_one(self, tmp_path: Path) -> None:
        inner = pretrained(tmp_path / "inner.pth", {"fc.weight": 2, "fc.bias": 2})
        outer = pretrained(tmp_path / "outer.pth", {"child.fc.weight": 5})
        net = Holder(outer, child=Holder(inner, fc=linear()))
        report = init_weights(net)
        assert values(net) == {"child.fc.weight": 5, "child.fc.bias": 2}
        assert report["child.fc.weight"].source == "Holder.init_cfg"
        assert any("Holder.init_cfg" in note and "Holder.child.init_cfg" in note for note in report.notes)
        assert report.warnings == ()

    def test_an_override_of_a_checkpoint_beats_it(self, tmp_path: Path) -> None:
        rule = pretrained(tmp_path / "w.pth", {"a.weight": 4, "b.weight": 4, "b.bias": 4})
        net = Holder({**rule, "override": constant(6, name="b")}, a=linear(), b=linear())
        report = init_weights(net)
        assert values(net) == {"a.weight": 4, "a.bias": 0, "b.weight": 6, "b.bias": 6}
        assert report.warnings == ()

    def test_a_checkpoint_in_an_override_loads_in_the_first_step(self, tmp_path: Path) -> None:
        override = pretrained(tmp_path / "w.pth", {"weight": 4, "bias": 4}, name="a")
        net = Holder([constant(1, override=override), constant(2, params="bias")], a=linear(), b=linear())
        with pytest.warns(
            InitWarning, match=r"Holder.init_cfg\[1\]: writes over weights .*init_cfg\[0\].override.*a.bias"
        ):
            init_weights(net)
        assert values(net) == {"a.weight": 4, "a.bias": 2, "b.weight": 1, "b.bias": 2}

    def test_a_config_given_replaces_that_of_the_root_alone(self) -> None:
        net = Holder(constant(1), fc=linear(), child=Holder(constant(2), fc=linear()))
        init_weights(net, constant(3))
        assert [value(net.get_parameter(name)) for name in ("fc.weight", "child.fc.weight")] == [3, 2]

    def test_initialize_is_this_config_alone(self) -> None:
        net = Holder(constant(1), child=WithMethod(constant(2)))
        net.is_init = True  # type: ignore[assignment]
        report = initialize(net, constant(3, params="weight"))
        assert values(net) == {"child.fc.weight": 3, "child.fc.bias": 0}
        assert report["child.fc.weight"].source == "init_cfg"

    def test_initialize_takes_a_checkpoint_at_its_place_in_the_list(self, tmp_path: Path) -> None:
        net = Holder(fc=linear())
        rules = [pretrained(tmp_path / "w.pth", {"fc.weight": 4, "fc.bias": 4}), constant(1, params="bias")]
        with pytest.warns(InitWarning, match="writes over weights that the checkpoint of"):
            initialize(net, rules)
        assert values(net) == {"fc.weight": 4, "fc.bias": 1}


class Initialised(Holder):
    is_init: bool = True


class Adapter(nn.Module):
    """A wrapper that hands out whatever the module inside has."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._modules["inner"], name)


class TestAdapters:
    def test_the_config_inside_is_carried_once(self) -> None:
        adapter = Adapter(Holder(constant(1), fc=linear()))
        adapter.extra = linear()
        report = init_weights(net := Holder(adapter=adapter))
        assert values(net) == {
            "adapter.extra.weight": 0,
            "adapter.extra.bias": 0,
            "adapter.inner.fc.weight": 1,
            "adapter.inner.fc.bias": 1,
        }
        assert report["adapter.inner.fc.weight"].source == "Holder.adapter.inner.init_cfg"
        assert "is_init" not in vars(adapter)

    def test_what_is_initialised_inside_says_nothing_about_the_adapter(self) -> None:
        class Carrier(Adapter):
            init_cfg: Any = constant(2, name="extra")

        adapter = Carrier(Initialised(constant(1), fc=linear(5)))
        adapter.extra = linear()
        init_weights(net := Holder(adapter=adapter))
        assert values(net) == {
            "adapter.extra.weight": 2,
            "adapter.extra.bias": 2,
            "adapter.inner.fc.weight": 5,
            "adapter.inner.fc.bias": 5,
        }


class TestBaseModules:
    def test_an_override_stands_for_all_four_steps(self, tmp_path: Path) -> None:
        class Silent(BaseModule):
            def __init__(self, init_cfg: Any) -> None:
                super().__init__(init_cfg)
                self.fc, self.inner = linear(), WithMethod(constant(2))

            def init_weights(self) -> None:
                nn.init.constant_(self.fc.bias, 3)

        net = Silent([constant(1), pretrained(tmp_path / "w.pth", {"fc.weight": 4})])
        report = init_weights(net)
        assert values(net) == {"fc.weight": 0, "fc.bias": 3, "inner.fc.weight": 0, "inner.fc.bias": 0}
        assert [row.source for row in report] == [None, "Silent.init_weights", None, None]
        assert any("does not call super().init_weights()" in note for note in report.notes)

    @pytest.mark.parametrize("through_library", [True, False])
    def test_super_runs_them_in_the_middle(self, tmp_path: Path, *, through_library: bool) -> None:
        class Around(BaseModule):
            def __init__(self, init_cfg: Any) -> None:
                super().__init__(init_cfg)
                self.a, self.b, self.inner = linear(), linear(), WithMethod(constant(2))

            def init_weights(self) -> None:
                nn.init.constant_(self.a.weight, 8)
                super().init_weights()
                nn.init.constant_(self.b.weight, 9)

        net = Around([constant(1), pretrained(tmp_path / "w.pth", {"a.bias": 4, "inner.fc.bias": 4})])
        init_weights(net) if through_library else net.init_weights()
        assert values(net) == {
            "a.weight": 1,
            "a.bias": 4,
            "b.weight": 9,
            "b.bias": 1,
            "inner.fc.weight": 7,
            "inner.fc.bias": 4,
        }
        assert net.is_init

    def test_each_writer_gets_its_own_rows(self) -> None:
        class Around(BaseModule):
            def __init__(self) -> None:
                super().__init__(constant(1))
                self.a, self.b, self.c, self.inner = linear(), linear(), linear(), WithMethod()

            def init_weights(self) -> None:
                nn.init.constant_(self.a.weight, 8)
                super().init_weights()
                nn.init.constant_(self.b.weight, 9)

        report = init_weights(Holder(net=Around()))
        sources = {name: report[f"net.{name}.weight"].source for name in ("a", "b", "c", "inner.fc")}
        assert sources == {
            "a": "Holder.net.init_cfg",
            "b": "Around.init_weights",
            "c": "Holder.net.init_cfg",
            "inner.fc": "WithMethod.init_weights",
        }
        assert report["net.c.weight"].initializer == "Constant(val=1)"

    def test_an_override_in_the_middle_of_the_inheritance_counts(self) -> None:
        class Middle(BaseModule):
            def __init__(self) -> None:
                super().__init__(constant(1))
                self.fc = linear()

            def init_weights(self) -> None:
                super().init_weights()
                nn.init.constant_(self.fc.bias, 2)

        class Last(Middle):
            pass

        net = Last()
        init_weights(net)
        assert values(net) == {"fc.weight": 1, "fc.bias": 2}

    def test_children_of_containers_come_with_super(self) -> None:
        net = ModuleList([Sequential(linear(), init_cfg=constant(2)), linear()], init_cfg=constant(1))
        net.init_weights()
        assert [value(parameter) for parameter in net.parameters()] == [2, 2, 1, 1]

    @pytest.mark.parametrize("how", ["method", "function"])
    def test_a_second_time_is_a_warning_and_changes_nothing(self, how: str) -> None:
        net = Sequential(linear(), init_cfg=constant(1))
        net.init_weights()
        nn.init.constant_(net.get_parameter("0.weight"), 5)
        with pytest.warns(InitWarning, match="is_init is True.*nothing was changed"):
            net.init_weights() if how == "method" else init_weights(net)
        assert values(net) == {"0.weight": 5, "0.bias": 1}

    def test_a_plain_module_is_marked_as_well(self) -> None:
        net = Holder(child=Holder(constant(1), fc=linear()))
        init_weights(net)
        with pytest.warns(InitWarning, match="Holder is initialised already"):
            report = init_weights(net, constant(3))
        assert values(net) == {"child.fc.weight": 1, "child.fc.bias": 1}
        assert [row.source for row in report] == [None, None]

    def test_is_init_skips_the_own_steps_of_a_part_and_no_more(self) -> None:
        child = Sequential(linear(), WithMethod(), init_cfg=[constant(2)])
        child.is_init = True
        net = Holder(constant(1, params="bias"), child=child, fc=linear())
        init_weights(net)
        assert values(child) == {"0.weight": 0, "0.bias": 1, "1.fc.weight": 0, "1.fc.bias": 1}

    def test_what_an_override_has_initialised_is_not_initialised_again_by_super(self) -> None:
        class Counted(BaseModule):
            def __init__(self) -> None:
                super().__init__(constant(2))
                self.fc = linear()
                self.calls = 0

            def init_weights(self) -> None:
                self.calls += 1
                super().init_weights()

        class Eager(BaseModule):
            def __init__(self) -> None:
                super().__init__()
                self.rules, self.code = Sequential(linear(), init_cfg=constant(1)), Counted()

            def init_weights(self) -> None:
                self.rules.init_weights()
                self.code.init_weights()
                nn.init.constant_(self.get_parameter("rules.0.weight"), 5)
                nn.init.constant_(self.code.fc.weight, 5)
                super().init_weights()

        net = Eager()
        report = init_weights(net)
        assert values(net) == {"rules.0.weight": 5, "rules.0.bias": 1, "code.fc.weight": 5, "code.fc.bias": 2}
        assert net.code.calls == 1
        assert report["rules.0.weight"].source == "Eager.init_weights"
        assert report["code.fc.bias"].source == "Eager.code.init_cfg"


class TestOnlyWinnersAreExecuted:
    @pytest.fixture(autouse=True)
    def _start_at_zero(self) -> None:
        CountingInit.filled.clear()

    @staticmethod
    def counting(label: str, **rest: Any) -> dict[str, Any]:
        return {"type": "CountingForTests", "label": label, "layer": "Linear", "bias": 0.25, **rest}

    def test_a_rule_that_loses_does_not_run(self) -> None:
        net = Holder([self.counting("first"), self.counting("second", name="a")], a=linear(), b=linear())
        init_weights(net)
        assert CountingInit.filled == {"first": 1, "second": 1}

    def test_what_a_checkpoint_fills_is_never_drawn(self, tmp_path: Path) -> None:
        checkpoint = pretrained(tmp_path / "w.pth", {"a.weight": 4, "b.weight": 4})
        net = Holder([self.counting("rule"), checkpoint], a=linear(), b=linear(), c=linear())
        init_weights(net)
        assert CountingInit.filled == {"rule": 1}
        assert values(net) == {
            "a.weight": 4,
            "a.bias": 0.25,
            "b.weight": 4,
            "b.bias": 0.25,
            "c.weight": 0.5,
            "c.bias": 0.25,
        }

    def test_a_checkpoint_that_loses_is_not_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        rule = pretrained(tmp_path / "w.pth", {"x.weight": 3, "x.bias": 3}, override=self.counting("over", name="x"))
        net = Holder(rule, x=linear())
        read = []
        write = PretrainedInit.write

        def count(initializer: PretrainedInit, checkpoint: Checkpoint, found: Match, name: str, *rest: Any) -> None:
            read.append(name)
            write(initializer, checkpoint, found, name, *rest)

        monkeypatch.setattr(PretrainedInit, "write", count)
        init_weights(net)
        assert values(net) == {"x.weight": 0.5, "x.bias": 0.25}
        assert read == []
        initialize(net, {**rule, "override": None})
        assert read == ["x.weight", "x.bias"]

    def test_a_method_in_between_may_read_what_is_overwritten_later(self, tmp_path: Path) -> None:
        class Reads(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.fc = linear()
                self.seen: list[float] = []

            def init_weights(self) -> None:
                self.seen = [value(self.fc.weight), value(self.fc.bias)]

        checkpoint = pretrained(tmp_path / "w.pth", {"reads.fc.weight": 4, "fc.weight": 4})
        net = Holder([self.counting("rule"), checkpoint], reads=(reads := Reads()), fc=linear())
        init_weights(net)
        assert reads.seen == [0.5, 0.25]
        assert CountingInit.filled == {"rule": 1}, "fc.weight is out of the method's reach"
        assert value(net.get_parameter("reads.fc.weight")) == 4

    def test_only_the_last_of_those_before_a_method_runs(self) -> None:
        class Reads(WithMethod):
            pass

        init_weights(Holder([self.counting("first"), self.counting("second")], reads=Reads()))
        assert CountingInit.filled == {"second": 1}

    def test_inside_an_override_as_well(self, tmp_path: Path) -> None:
        class Around(BaseModule):
            def __init__(self, init_cfg: Any) -> None:
                super().__init__(init_cfg)
                self.fc = linear()

            def init_weights(self) -> None:
                super().init_weights()

        net = Around(
            [self.counting("first"), self.counting("second"), pretrained(tmp_path / "w.pth", {"fc.weight": 4})]
        )
        init_weights(net)
        assert CountingInit.filled == {}
        assert values(net) == {"fc.weight": 4, "fc.bias": 0.25}


@pytest.mark.parametrize("buffer_first", [True, False])
def test_rules_write_what_is_a_parameter_of_the_module_they_mean(buffer_first: bool) -> None:
    fc, other = nn.Linear(1, 1, bias=False), nn.Embedding(1, 1)
    del other.weight
    other.register_buffer("weight", fc.weight)
    parts = {"other": other, "fc": fc} if buffer_first else {"fc": fc, "other": other}
    with pytest.warns(InitWarning, match="matches nothing"):
        init_weights(Holder([constant(7), constant(9, layer="Embedding")], **parts))
    assert fc.weight.item() == 7


class TestKeep:
    def test_no_rule_writes_it(self) -> None:
        inner = Holder(constant(3), fc=linear(5))
        net = Holder([constant(1), {"type": "Keep", "name": "t"}, constant(2)], t=inner, fc=linear())
        report = init_weights(net)
        assert values(net) == {"t.fc.weight": 5, "t.fc.bias": 5, "fc.weight": 2, "fc.bias": 2}
        assert report["t.fc.weight"].kept_by == "Holder.init_cfg[1]"
        assert report["t.fc.weight"].source is None
        assert report.untouched == []

    def test_no_checkpoint_writes_it_and_its_keys_are_not_unexpected(self, tmp_path: Path) -> None:
        checkpoint = pretrained(tmp_path / "w.pth", {"t.weight": 4, "fc.weight": 4})
        net = Holder([checkpoint, {"type": "Keep", "name": "t"}], t=linear(5), fc=linear())
        report = init_weights(net)
        assert values(net) == {"t.weight": 5, "t.bias": 5, "fc.weight": 4, "fc.bias": 0}
        assert report.unexpected == []

    def test_methods_inside_do_not_run(self) -> None:
        class Loud(BaseModule):
            def __init__(self) -> None:
                super().__init__()
                self.fc = linear(5)

            def init_weights(self) -> None:
                raise AssertionError

        net = Holder({"type": "Keep", "name": "t"}, t=Holder(a=WithMethod(), b=Loud()))
        init_weights(net)
        assert values(net) == {"t.a.fc.weight": 0, "t.a.fc.bias": 0, "t.b.fc.weight": 5, "t.b.fc.bias": 5}

    @pytest.mark.parametrize("scope", [{"layer": "BatchNorm1d"}, {"name": "*.norm"}, {"name": "re:.*norm"}])
    def test_by_every_kind_of_scope(self, scope: dict[str, Any]) -> None:
        inner = Holder(norm=nn.BatchNorm1d(1), fc=linear())
        rules = [constant(0.25, name="inner"), dict(type="Keep", **scope)]
        init_weights(net := Holder(rules, inner=inner))
        assert values(net) == {
            "inner.norm.weight": 1,
            "inner.norm.bias": 0,
            "inner.fc.weight": 0.25,
            "inner.fc.bias": 0.25,
        }

    @pytest.mark.parametrize("scope", [{"name": "a", "params": "weight"}, {"name": "a.weight"}])
    def test_single_parameters(self, scope: dict[str, Any]) -> None:
        net = Holder([dict(type="Keep", **scope), constant(1)], a=linear(5))
        init_weights(net)
        assert values(net) == {"a.weight": 5, "a.bias": 1}

    def test_params_keep_no_method_from_running(self) -> None:
        net = Holder([{"type": "Keep", "params": "weight"}], a=WithMethod())
        with pytest.warns(
            InitWarning, match=r"WithMethod.init_weights writes what Holder.init_cfg\[0\] keeps .*: a.fc.weight$"
        ):
            init_weights(net)
        assert values(net) == {"a.fc.weight": 7, "a.fc.bias": 7}

    def test_a_tied_parameter_is_kept_under_all_its_names(self, tmp_path: Path) -> None:
        net = Holder([{"type": "Keep", "name": "b"}, constant(1)], a=linear(5), b=linear(5))
        net.get_submodule("a").weight = net.get_submodule("b").weight
        net.init_cfg.append(pretrained(tmp_path / "w.pth", {"a.weight": 4, "a.bias": 4}))
        init_weights(net)
        assert values(net) == {"a.weight": 5, "a.bias": 4, "b.bias": 5}

    def test_an_inner_one_holds_against_outer_rules(self) -> None:
        net = Holder(constant(1), child=Holder({"type": "Keep", "name": "fc"}, fc=linear(5), other=linear()))
        init_weights(net)
        assert values(net) == {
            "child.fc.weight": 5,
            "child.fc.bias": 5,
            "child.other.weight": 1,
            "child.other.bias": 1,
        }

    def test_one_inside_what_is_initialised_already_holds(self, tmp_path: Path) -> None:
        below = Holder({"type": "Keep", "layer": "Linear"}, fc=linear(5))
        done = Sequential(
            linear(5), linear(5), below, init_cfg=[constant(2), constant(3, override={"type": "Keep", "name": "0"})]
        )
        done.is_init = True
        net = Holder([constant(1), pretrained(tmp_path / "w.pth", {"done.2.fc.weight": 4, "fc.weight": 4})])
        net.done, net.fc = done, linear()
        report = init_weights(net)
        assert values(done) == {"0.weight": 5, "0.bias": 5, "1.weight": 1, "1.bias": 1} | {
            "2.fc.weight": 5,
            "2.fc.bias": 5,
        }
        assert values(net)["fc.weight"] == 4
        assert report["done.0.weight"].kept_by == "Holder.done.init_cfg[1].override"
        assert report["done.2.fc.weight"].kept_by == "Holder.done.2.init_cfg"

    @pytest.mark.parametrize(
        "idle",
        [
            constant(1, bais=2),
            {"type": "no.such.Init"},
            "no config",
            {"type": "Keep", "name": "teachr"},
            {"type": "Keep"},
            constant(1, override={"type": "Keep", "name": "teachr"}),
        ],
    )
    def test_what_is_initialised_already_is_not_asked_for_its_faults(self, idle: Any) -> None:
        done = Initialised(idle, inner=Holder(idle, fc=linear(5)))
        init_weights(net := Holder(constant(1, name="fc"), done=done, fc=linear()), strict=True)
        assert values(net) == {"done.inner.fc.weight": 5, "done.inner.fc.bias": 5, "fc.weight": 1, "fc.bias": 1}

    def test_what_is_shared_with_a_part_that_is_not_initialised_is_asked(self) -> None:
        shared = Holder(constant(1, bais=2), fc=linear(5))
        done = Initialised(shared=shared)
        with pytest.raises(InitConfigError, match=r"^Holder\.done\.shared\.init_cfg\.bais: unknown argument"):
            init_weights(Holder(done=done, other=Holder(shared=shared)))

    def test_what_is_shared_with_a_part_that_is_initialised_is_written(self) -> None:
        shared = Holder(constant(1), fc=linear(5))
        init_weights(Holder(done=Initialised(shared=shared), other=Holder(inner=Holder(shared=shared))))
        assert values(shared) == {"fc.weight": 1, "fc.bias": 1}

    def test_buffers_are_kept_from_checkpoints(self, tmp_path: Path) -> None:
        norm = nn.BatchNorm1d(1)
        mean = {"norm.running_mean": torch.tensor([3.0]), "norm.running_var": torch.tensor([4.0])}
        rule = pretrained(tmp_path / "w.pth", mean)
        init_weights(Holder([rule, {"type": "Keep", "name": "norm", "params": "running_mean"}], norm=norm))
        assert isinstance(norm.running_mean, torch.Tensor)
        assert isinstance(norm.running_var, torch.Tensor)
        assert (norm.running_mean.item(), norm.running_var.item()) == (0, 4)

    def test_a_match_of_nothing_is_a_warning(self) -> None:
        with pytest.warns(InitWarning, match=r"init_cfg\[0\]: name='teachr' matches nothing.*'teacher'"):
            init_weights(Holder([{"type": "Keep", "name": "teachr"}, constant(1)], teacher=linear()))


class TestWhatIsTold:
    def test_one_warning_lists_everything(self) -> None:
        net = Holder([constant(1), constant(1, layer="Linaer"), constant(1, name="bacbone")], backbone=linear())
        with pytest.warns(InitWarning) as caught:
            report = init_weights(net)
        assert len(caught) == 1
        told = str(caught[0].message)
        assert "Holder.init_cfg[1].layer" in told
        assert "'Linear'" in told
        assert "Holder.init_cfg[2]: name='bacbone' matches nothing in Holder; did you mean 'backbone" in told
        assert len(report.warnings) == 2
        assert values(net) == {"backbone.weight": 1, "backbone.bias": 1}

    def test_strict_makes_errors_of_them_all(self) -> None:
        net = Holder([constant(1), constant(1, layer="Linaer"), constant(1, name="bacbone")], backbone=linear())
        with as_before(net, InitConfigError, "bacbone") as info:
            init_weights(net, strict=True)
        assert isinstance(info.value, InitConfigError)
        assert [fault.where for fault in info.value.faults] == ["Holder.init_cfg[1].layer", "Holder.init_cfg[2]"]

    def test_a_rule_over_a_checkpoint(self, tmp_path: Path) -> None:
        child = Holder(pretrained(tmp_path / "w.pth", {"fc.weight": 4, "fc.bias": 4}), fc=linear())
        override = [pretrained(tmp_path / "o.pth", {"weight": 3}, name="child.fc"), constant(1, name="child")]
        net = Holder(constant(0, layer="Conv2d", override=override), child=child, conv=nn.Conv2d(1, 1, 1))
        with pytest.warns(
            InitWarning, match=r"override\[1\]: writes over weights .*override\[0\] loaded: child.fc.weight$"
        ):
            init_weights(net)
        with as_before(net, InitConfigError, "writes over weights"):
            initialize(net, net.init_cfg, strict=True)

    def test_a_method_over_a_checkpoint(self, tmp_path: Path) -> None:
        override = pretrained(tmp_path / "w.pth", {"fc.weight": 4, "fc.bias": 4}, name="child")
        net = Holder(constant(1, override=override), child=WithMethod())
        with pytest.warns(InitWarning, match="WithMethod.init_weights writes over weights .*child.fc") as caught:
            report = init_weights(net)
        (told,) = (str(warning.message) for warning in caught)
        assert told.endswith("loaded: child.fc.weight, child.fc.bias")
        assert report.warnings == (told,)

    def test_a_method_over_a_rule_over_a_checkpoint_is_told_once(self, tmp_path: Path) -> None:
        class Outer(Holder):
            def init_weights(self) -> None:
                initialize(self, constant(1))
                nn.init.constant_(self.get_parameter("child.fc.weight"), 2)

        child = Holder(pretrained(tmp_path / "w.pth", {"fc.weight": 4, "fc.bias": 4}), fc=linear())
        with pytest.warns(InitWarning) as caught:
            init_weights(net := Outer(child=child))
        assert [str(warning.message).partition(":")[0] for warning in caught] == ["init_cfg"]
        assert values(net) == {"child.fc.weight": 2, "child.fc.bias": 1}

    def test_a_rule_inside_a_method_over_a_checkpoint(self, tmp_path: Path) -> None:
        class Outer(Holder):
            def init_weights(self) -> None:
                initialize(self.get_submodule("child"), constant(1, params="bias"))

        rule = pretrained(tmp_path / "w.pth", {"fc.weight": 4, "fc.bias": 4})
        net = Outer(child=Holder(rule, fc=linear()))
        with pytest.warns(InitWarning, match=r"writes over weights .*Outer.child.init_cfg loaded: child.fc.bias$"):
            init_weights(net)
        assert values(net) == {"child.fc.weight": 4, "child.fc.bias": 1}

    def test_strict_refuses_a_method_over_a_checkpoint(self, tmp_path: Path) -> None:
        override = pretrained(tmp_path / "w.pth", {"fc.weight": 4}, name="child")
        with pytest.raises(
            InitConfigError, match=r"WithMethod.init_weights writes over weights .* loaded: child.fc.weight"
        ):
            init_weights(Holder(constant(1, override=override), child=WithMethod()), strict=True)

    def test_untouched_parameters_are_a_note(self, caplog: pytest.LogCaptureFixture) -> None:
        net = Holder(constant(1), fc=linear(), norm=nn.BatchNorm1d(1))
        with caplog.at_level(logging.INFO, logger=_log.name):
            report = init_weights(net)
        told = "2 parameters keep their constructor's values, no rule writes them: norm.weight, norm.bias"
        assert told in report.notes
        assert told in caplog.messages
        assert report.untouched == ["norm.weight", "norm.bias"]

    def test_unexpected_keys_are_a_note_and_stand_in_the_report(self, tmp_path: Path) -> None:
        net = Holder(pretrained(tmp_path / "w.pth", {"fc.weight": 4, "fc.bias": 4, "head.weight": 1}), fc=linear())
        report = init_weights(net)
        assert report.unexpected == ["Holder.init_cfg: head.weight"]
        assert any("head.weight" in note for note in report.notes)

    def test_require_all_refuses_both(self, tmp_path: Path) -> None:
        rule = pretrained(tmp_path / "w.pth", {"fc.weight": 4, "head.weight": 1})
        net = Holder(rule, fc=linear())
        with as_before(net, InitConfigError, "require_all") as info:
            init_weights(net, require_all=True)
        assert isinstance(info.value, InitConfigError)
        assert [fault.where for fault in info.value.faults] == ["fc.bias", "Holder.init_cfg: head.weight"]

    def test_require_all_is_content_with_methods_and_keep(self) -> None:
        net = Holder([constant(1, name="a"), {"type": "Keep", "name": "b"}], a=linear(), b=linear(), c=WithMethod())
        init_weights(net, require_all=True)
        assert values(net)["c.fc.weight"] == 7

    def test_require_all_notices_a_method_that_leaves_something_out(self) -> None:
        class Half(Holder):
            def init_weights(self) -> None:
                nn.init.zeros_(self.get_parameter("fc.weight"))

        with pytest.raises(InitConfigError, match=r"fc.bias: nothing wrote it \(require_all\)"):
            init_weights(Half(fc=linear()), require_all=True)

    @pytest.mark.parametrize("how", ["initialize", "super"])
    def test_require_all_judges_the_whole_and_not_a_part(self, how: str) -> None:
        class Parts(BaseModule):
            def __init__(self) -> None:
                super().__init__(constant(1, name="b"))
                self.a, self.b = linear(), linear()

            def init_weights(self) -> None:
                if how == "initialize":
                    initialize(self.a, constant(2))
                    initialize(self.b, constant(1))
                else:
                    super().init_weights()
                    nn.init.constant_(self.a.weight, 2)
                    nn.init.constant_(self.a.bias, 2)

        net = Holder(net=Parts())
        init_weights(net, require_all=True)
        assert values(net) == {"net.a.weight": 2, "net.a.bias": 2, "net.b.weight": 1, "net.b.bias": 1}


class TestNothingIsWrittenBeforeEverythingIsRight:
    """One fault, behind rules that are right: every weight keeps its bits."""

    @pytest.mark.parametrize(
        ("bad", "match"),
        [
            ({"type": "Constnat", "val": 1, "layer": "Linear"}, r"\[1\].type.*'Constant'"),
            ({"type": "Normal", "sdt": 1, "layer": "Linear"}, r"\[1\].sdt.*'std'"),
            ({"type": "Normal", "std": "1", "layer": "Linear"}, r"\[1\].std"),
            ({"type": "Normal", "std": -1, "layer": "Linear"}, r"\[1\].std"),
            ({"type": "Normal", "layer": 3}, r"\[1\].layer"),
            ({"type": "Normal", "layer": "Linear", "bias": "0"}, r"\[1\].bias"),
            ({"type": "Normal", "layer": "Linear", "bias_prob": 1.5}, r"\[1\].bias_prob"),
            ({"type": "Normal", "layer": "Linear", "override": 3}, r"\[1\].override"),
            ({"type": "Normal", "layer": "Linear", "override": {"type": "Normal"}}, r"\[1\].override.*`name`"),
            ({"type": "Normal", "layer": "Linear", "override": {"name": "fc", "std": 2}}, r"\[1\].override.*`type`"),
            ({"type": "Normal", "layer": "Linear", "override": {"name": "fd"}}, r"\[1\].override.name.*'fc"),
            ({"type": "Kaiming", "layer": "BatchNorm1d"}, r"\[1\]: cannot fill 'norm.weight'"),
            ({"type": "Normal", "name": "lazy"}, r"'lazy.weight' has no shape yet"),
            ({"type": "Normal", "name": "meta"}, r"'meta.weight' is on the meta device"),
            ({"type": "Normal", "name": "fp16", "bias": 1e6}, r"'fp16.bias'.*too large"),
            ("Normal", r"\[1\]: must be a rule"),
            ({"layer": "Linear"}, r"\[1\]: a rule must have a `type`"),
        ],
    )
    def test_faults_of_a_config(self, bad: Any, match: str) -> None:
        parts = {"norm": nn.BatchNorm1d(1), "lazy": nn.LazyLinear(1), "meta": nn.Linear(1, 1, device="meta")}
        net = Holder(fc=linear(), fp16=linear().half(), **parts)
        rules = [{"type": "Normal", "name": "fc"}, bad]
        touchable = Holder(fc=net.get_submodule("fc"), fp16=net.get_submodule("fp16"), norm=parts["norm"])
        with as_before(touchable, InitConfigError, match):
            init_weights(net, rules, seed=0)
        with as_before(touchable, InitConfigError, match):
            initialize(net, rules)
        assert getattr(net, "is_init", False) is False

    @pytest.mark.parametrize("init_cfg", [3, "Normal", {"type", "layer"}, b"x", 1.5, object()])
    def test_a_config_that_is_neither_rule_nor_list(self, init_cfg: Any) -> None:
        net = Holder(a=Holder(constant(1), fc=linear()), b=Holder(init_cfg, fc=linear()))
        with as_before(net, InitConfigError, r"Holder\.b\.init_cfg: must be a rule"):
            init_weights(net)

    def test_all_faults_of_all_configs_at_once(self, tmp_path: Path) -> None:
        child = Holder([constant(1), {"type": "Normal", "std": "x", "mean": "y", "layer": "Linear"}], fc=linear())
        rules = [{"type": "Constnat"}, constant(1, override={"name": "nope"}), pretrained(tmp_path / "w", {"x": 1})]
        net = Holder(rules, child=child)
        with as_before(net, InitConfigError, "5 faults in the init config") as info:
            init_weights(net)
        assert isinstance(info.value, InitConfigError)
        assert [fault.where for fault in info.value.faults] == [
            "Holder.init_cfg[0].type",
            "Holder.child.init_cfg[1].mean",
            "Holder.child.init_cfg[1].std",
            "Holder.init_cfg[1].override.name",
            "Holder.init_cfg[2].checkpoint",
        ]

    @pytest.mark.parametrize(
        ("tensors", "rest", "match"),
        [
            ({"nothing.fits": 1}, {}, "no key of"),
            ({"fc.weight": torch.ones(2, 2)}, {}, r"on_mismatch.*\(2, 2\)"),
            ({"fc.weight": 1}, {"strict": True}, "one to one"),
            ({"fc.weight": 1}, {"prefix": "net."}, "prefix"),
        ],
    )
    def test_faults_of_a_checkpoint(self, tmp_path: Path, tensors: Any, rest: Any, match: str) -> None:
        net = Holder([constant(1), pretrained(tmp_path / "w.pth", tensors, **rest)], fc=linear())
        with as_before(net, CheckpointError, f"(?s)Holder.init_cfg.*{match}"):
            init_weights(net)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        net = Holder([constant(1), {"type": "Pretrained", "checkpoint": str(tmp_path / "gone.pth")}], fc=linear())
        with as_before(net, CheckpointError, r"Holder.init_cfg\[1\].checkpoint.*gone.pth"):
            init_weights(net)

    def test_arguments_of_the_call(self) -> None:
        net = Holder(constant(1), fc=linear())
        with as_before(net, InitConfigError, "4 faults"):
            init_weights(net, seed="0", rng_device="gpu", strict=1, require_all=None)  # type: ignore[arg-type]

    def test_the_config_of_the_user_is_not_changed(self) -> None:
        rule = constant(1, override=[{"name": "a"}, constant(2, name="b")])
        rules = [rule]
        text = repr(rules)
        init_weights(net := Holder(rules, a=linear(), b=linear()))
        assert repr(rules) == text
        assert net.init_cfg is rules
        assert digests(net)
