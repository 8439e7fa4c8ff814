"""The plan as data: who claims what, who wins, what it says in print; and that making it touches nothing."""

from __future__ import annotations

import functools
import operator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_init import BaseModule, CheckpointError, InitConfigError, build_plan, init_weights
from lightning_init.plan import PlannedClaim
from tests.models import Holder, constant, digests, linear, pretrained


class NoWrites(TorchDispatchMode):
    """Fails on every operator that writes to, or reads the values of, a tensor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it without annotations
        self.ran: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(isinstance(arg, Tensor) and arg.numel() for arg in args):
            self.ran.append(str(func))
        return func(*args, **(kwargs or {}))


def test_entries_are_the_parameters_and_persistent_buffers() -> None:
    net = Holder(fc=nn.Linear(3, 2), norm=nn.BatchNorm1d(2).double())
    net.register_buffer("scratch", torch.zeros(1), persistent=False)
    plan = build_plan(net)
    assert [(entry.name, entry.shape, entry.is_buffer) for entry in plan] == [
        ("fc.weight", (2, 3), False),
        ("fc.bias", (2,), False),
        ("norm.weight", (2,), False),
        ("norm.bias", (2,), False),
        ("norm.running_mean", (2,), True),
        ("norm.running_var", (2,), True),
        ("norm.num_batches_tracked", (), True),
    ]
    assert plan["norm.weight"].dtype is torch.float64
    assert plan["norm.num_batches_tracked"].dtype is torch.int64


def test_claims_stand_in_the_order_of_writing(tmp_path: Path) -> None:
    child = Holder([constant(3), pretrained(tmp_path / "w.pth", {"fc.weight": 1})], fc=linear())
    net = Holder([constant(1), constant(2, name="child", bias=9)], child=child)
    plan = build_plan(net)
    assert plan["child.fc.weight"].claims == (
        PlannedClaim("Holder.init_cfg[0]", "Constant(val=1)", certain=True, executed=False),
        PlannedClaim("Holder.init_cfg[1]", "Constant(val=2)", certain=True, executed=False),
        PlannedClaim("Holder.child.init_cfg[0]", "Constant(val=3)", certain=True, executed=False),
        PlannedClaim(
            "Holder.child.init_cfg[1]",
            f"Pretrained(checkpoint={str(tmp_path / 'w.pth')!r})",
            certain=True,
            executed=True,
            key="fc.weight (int64 -> float32)",
        ),
    )
    assert plan["child.fc.weight"].winner is plan["child.fc.weight"].claims[-1]
    assert [claim.what for claim in plan["child.fc.bias"].claims] == [f"Constant(bias={bias})" for bias in (1, 9, 3)]
    assert [claim.executed for claim in plan["child.fc.bias"].claims] == [False, False, True]


def test_a_method_is_a_claim_that_is_not_certain() -> None:
    class Own(Holder):
        def init_weights(self) -> None:
            raise AssertionError

    plan = build_plan(Holder(constant(1), own=Own(fc=linear()), fc=linear()))
    rule, method = plan["own.fc.weight"].claims
    assert method == PlannedClaim("Own.init_weights", "init_weights", certain=False, executed=True)
    assert plan["own.fc.weight"].winner is rule
    assert plan["fc.weight"].claims == (rule,)


def test_what_an_overriding_method_may_run_is_not_certain() -> None:
    class Own(BaseModule):
        def __init__(self) -> None:
            super().__init__(constant(1))
            self.fc = linear()

        def init_weights(self) -> None:
            super().init_weights()

    entry = build_plan(Own())["fc.weight"]
    assert [(claim.source, claim.certain) for claim in entry.claims] == [
        ("Own.init_cfg", False),
        ("Own.init_weights", False),
    ]
    assert entry.winner is None


def test_a_tied_parameter_stands_once_with_its_other_names() -> None:
    net = Holder([constant(1, name="a"), constant(2, name="b")], a=linear(), b=linear())
    net.get_submodule("b").weight = net.get_submodule("a").weight
    plan = build_plan(net)
    entry = plan["b.weight"]
    assert (entry.name, entry.aliases) == ("a.weight", ("b.weight",))
    assert [claim.source for claim in entry.claims] == ["Holder.init_cfg[0]", "Holder.init_cfg[1]"]
    assert [entry.name for entry in plan] == ["a.weight", "a.bias", "b.bias"]


def test_an_unknown_name_is_a_key_error() -> None:
    with pytest.raises(KeyError, match=r"fc\.wieght"):
        _ = build_plan(Holder(fc=linear()))["fc.wieght"]


def test_protected_ones_say_by_what() -> None:
    plan = build_plan(Holder([constant(1), {"type": "Keep", "name": "fc"}], fc=linear()))
    assert plan["fc.weight"].kept_by == "Holder.init_cfg[1]"
    assert plan["fc.weight"].claims == ()
    assert plan.untouched() == []


def test_untouched_and_unexpected(tmp_path: Path) -> None:
    rule = pretrained(tmp_path / "w.pth", {"fc.weight": 1, "head.weight": 1})
    plan = build_plan(Holder(rule, fc=linear(), norm=nn.BatchNorm1d(1)))
    assert plan.untouched() == ["fc.bias", "norm.weight", "norm.bias"]
    assert plan.unexpected() == ["Holder.init_cfg: head.weight"]


def test_warnings_carry_their_place() -> None:
    (fault,) = build_plan(Holder([constant(1, layer="Linaer")], fc=linear())).warnings
    assert fault.where == "Holder.init_cfg[0].layer"
    assert "'Linear'" in fault.what


def test_equal_declarations_make_equal_plans() -> None:
    def made(val: float) -> Holder:
        return Holder(constant(val), fc=linear(), child=Holder({"type": "Normal", "layer": "Linear"}, fc=linear()))

    assert build_plan(made(1)) == build_plan(made(1))
    assert build_plan(made(1)) != build_plan(made(2))
    assert build_plan(made(1)).signature() == build_plan(made(1)).signature() != build_plan(made(2)).signature()


class TestNothingIsTouched:
    def test_no_operator_runs_on_a_tensor(self) -> None:
        parts = {"fc": nn.Linear(3, 2), "norm": nn.BatchNorm2d(3), "embed": nn.Embedding(4, 2, padding_idx=0)}
        net = Holder([{"type": "Kaiming", "layer": ["Linear", "Embedding"]}, constant(1, layer="BatchNorm2d")], **parts)
        before, generator = digests(net), torch.get_rng_state()
        with NoWrites() as watch:
            build_plan(net)
        assert watch.ran == []
        assert digests(net) == before
        assert torch.equal(torch.get_rng_state(), generator)
        assert not hasattr(net, "is_init")

    def test_on_meta_the_plan_is_the_same(self, tmp_path: Path) -> None:
        rules = [constant(1), pretrained(tmp_path / "w.pth", {"fc.weight": 1})]

        def made() -> Holder:
            fc = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
            return Holder([*rules, {"type": "Normal", "name": "normed"}], fc=nn.Linear(1, 1), normed=fc)

        with torch.device("meta"):
            on_meta = made()
        assert all(parameter.is_meta for parameter in on_meta.parameters())
        assert build_plan(on_meta) == build_plan(made())

    def test_a_lazy_parameter_that_nothing_writes_is_no_matter(self) -> None:
        plan = build_plan(Holder(constant(1, name="fc"), fc=linear(), lazy=nn.LazyLinear(1)))
        assert plan["lazy.weight"].shape == ()
        assert plan.untouched() == ["lazy.weight", "lazy.bias"]

    def test_a_lazy_parameter_that_a_rule_would_write_is_an_error(self) -> None:
        with pytest.raises(
            InitConfigError, match=r"^Holder.init_cfg: 'lazy.bias' has no shape yet.*|'lazy.weight'"
        ) as info:
            build_plan(Holder(constant(1, name="lazy"), lazy=nn.LazyLinear(1)))
        assert len(info.value.faults) == 2

    def test_a_checkpoint_can_be_deleted_afterwards_and_is_looked_at(self, tmp_path: Path) -> None:
        net = Holder(pretrained(tmp_path / "w.pth", {"fc.weight": 1}), fc=linear())
        build_plan(net)
        (tmp_path / "w.pth").unlink()
        with pytest.raises(CheckpointError, match=r"Holder.init_cfg.checkpoint"):
            build_plan(net)


class TestInPrint:
    def test_winners_losers_and_what_is_told(self, tmp_path: Path) -> None:
        class Own(Holder):
            def init_weights(self) -> None:
                pass

        loading = pretrained(tmp_path / "w.pth", {"own.fc.weight": 1})
        rules = [{"type": "Normal", "layer": "Linear", "std": 0.1}, {"type": "Keep", "name": "t"}, loading]
        net = Holder([*rules, constant(1, name="nope")], own=Own(fc=linear()), t=linear(), norm=nn.BatchNorm1d(1))
        lines = [line.split() for line in str(build_plan(net)).splitlines()]
        described = f"Pretrained(checkpoint={str(tmp_path / 'w.pth')!r})"
        assert [" ".join(line) for line in lines[:11]] == [
            "parameter shape written by instead of",
            "own.fc.weight 1x1 [1] own.fc.weight (int64 -> float32) [2], [3] (run)",
            "own.fc.bias 1 [4] then perhaps [2]",
            "t.weight 1x1 kept by Holder.init_cfg[1]",
            "t.bias 1 kept by Holder.init_cfg[1]",
            "norm.weight 1 nobody, constructor's values",
            "norm.bias 1 nobody, constructor's values",
            f"[1] Holder.init_cfg[2] {described}",
            "[2] Own.init_weights init_weights",
            "[3] Holder.init_cfg[0] Normal(mean=0, std=0.1)",
            "[4] Holder.init_cfg[0] Normal(bias=0)",
        ]
        told = " ".join(functools.reduce(operator.iadd, lines[11:], []))
        assert "warning: Holder.init_cfg[3]: name='nope' matches nothing in Holder" in told
        assert "note: Holder.init_cfg[2]: " in told
        assert "1 loaded (1 converted int64 -> float32), 8 missing" in told

    def test_a_tied_parameter_shows_all_names(self) -> None:
        net = Holder(constant(1), a=linear(), b=linear())
        net.get_submodule("b").weight = net.get_submodule("a").weight
        assert "a.weight = b.weight" in str(build_plan(net))

    def test_a_scalar_has_a_shape_in_words(self) -> None:
        net = Holder(constant(1, params="scale"))
        net.scale = nn.Parameter(torch.tensor(3.0))
        assert str(build_plan(net)).splitlines()[1].split()[:2] == ["scale", "scalar"]


def test_the_plan_is_what_happens(tmp_path: Path) -> None:
    child = Holder([constant(3), pretrained(tmp_path / "w.pth", {"fc.weight": 1})], fc=linear())
    net = Holder([constant(1), constant(2, name="child.fc", override=constant(4, name="child.fc.bias"))], child=child)
    net.add_module("other", linear())
    plan, report = build_plan(net), init_weights(net)
    winners = {entry.name: entry.winner and (entry.winner.source, entry.winner.what) for entry in plan}
    assert winners == {row.name: (row.source, row.initializer) for row in report}
