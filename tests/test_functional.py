from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lightning_init import functional
from lightning_init.errors import InitConfigError
from lightning_init.functional import (
    bias_init_with_prob,
    caffe2_xavier_init,
    constant_init,
    kaiming_init,
    normal_init,
    trunc_normal_init,
    uniform_init,
    xavier_init,
)

OUT, IN = 300, 200
N = OUT * IN


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_signatures_and_defaults_are_those_of_mmengine() -> None:
    weight_init = pytest.importorskip("mmengine.model.weight_init")
    for name in functional.__all__:
        ours, theirs = (inspect.signature(getattr(module, name)).parameters for module in (functional, weight_init))
        assert [(p.name, p.kind, p.default) for p in ours.values()] == [
            (p.name, p.kind, p.default) for p in theirs.values()
        ]


@pytest.mark.parametrize(
    ("initialize", "mean", "std", "bound", "bias"),
    [
        (lambda m: constant_init(m, 2), 2, 0, 2, 0),
        (lambda m: constant_init(m, 2, 3), 2, 0, 2, 3),
        (lambda m: xavier_init(m, bias=0.5), 0, math.sqrt(2 / 500), math.inf, 0.5),
        (lambda m: xavier_init(m, 3, 0, "uniform"), 0, 3 * math.sqrt(2 / 500), 3 * math.sqrt(6 / 500), 0),
        (normal_init, 0, 1, math.inf, 0),
        (lambda m: normal_init(m, mean=0, std=0.01, bias=0.0), 0, 0.01, math.inf, 0),
        (trunc_normal_init, 0, 0.8796256610342398, 2, 0),
        (lambda m: trunc_normal_init(m, 0, 0.02, -0.04, 0.04, 1), 0, 0.8796256610342398 * 0.02, 0.04, 1),
        (uniform_init, 0.5, math.sqrt(1 / 12), 1, 0),
        (lambda m: uniform_init(m, -1, 1, -1), 0, math.sqrt(1 / 3), 1, -1),
        (kaiming_init, 0, math.sqrt(2 / OUT), math.inf, 0),
        (
            lambda m: kaiming_init(m, 1, "fan_in", "leaky_relu", 2, "uniform"),
            0,
            math.sqrt(1 / IN),
            math.sqrt(3 / IN),
            2,
        ),
        (lambda m: caffe2_xavier_init(m, bias=2), 0, math.sqrt(1 / IN), math.sqrt(3 / IN), 2),
    ],
)
def test_what_they_write(
    initialize: Callable[[nn.Module], None], mean: float, std: float, bound: float, bias: float
) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(IN, OUT)
    initialize(linear)
    weight = linear.weight.detach()
    assert weight.mean().item() == pytest.approx(mean, abs=5 * std / math.sqrt(N) + 1e-7)
    assert weight.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * N), abs=1e-7)
    assert weight.abs().max().item() <= bound * (1 + 1e-6)
    assert (linear.bias == bias).all()


def test_two_calls_differ() -> None:
    linear = nn.Linear(4, 4)
    normal_init(linear)
    first = linear.weight.detach().clone()
    normal_init(linear)
    assert not torch.equal(first, linear.weight)


def test_children_are_left_alone() -> None:
    linear = nn.Linear(2, 2)
    before = linear.weight.detach().clone()
    constant_init(nn.Sequential(linear), 7)
    assert torch.equal(linear.weight, before)


def test_what_a_module_does_not_have_is_left_out() -> None:
    constant_init(nn.ReLU(), 1)
    linear = nn.Linear(2, 2, bias=False)
    constant_init(linear, 1, 2)
    assert (linear.weight == 1).all()
    norm = nn.LayerNorm(2)
    norm.weight = None  # type: ignore[assignment]  # as MMEngine's users do
    constant_init(norm, 1, 2)
    assert (norm.bias == 2).all()


@pytest.mark.parametrize(
    ("initialize", "arguments", "message"),
    [
        (xavier_init, {"distribution": "gauss"}, "distribution: must be one of"),
        (kaiming_init, {"mode": "fan"}, "mode: must be one of"),
        (normal_init, {"std": -1}, "std: must be >= 0"),
        (trunc_normal_init, {"a": 3}, "a: must be < b"),
        (constant_init, {"val": "1"}, "val: must be a number"),
        (uniform_init, {"a": 1, "b": 0}, "a: must be <= b"),
        (constant_init, {"val": 1, "bias": None}, "bias: must be a number"),
        (caffe2_xavier_init, {"bias": True}, "bias: must be a number"),
    ],
)
def test_bad_arguments_change_nothing(initialize: Callable[..., None], arguments: dict[str, Any], message: str) -> None:
    linear = nn.Linear(2, 2)
    before = linear.weight.detach().clone()
    with pytest.raises(InitConfigError, match=message):
        initialize(linear, **arguments)
    assert torch.equal(linear.weight, before)


def test_a_weight_that_cannot_be_written_leaves_the_bias() -> None:
    norm = nn.LayerNorm(3)
    with pytest.raises(InitConfigError, match=r"^weight: cannot be written: fan_in and fan_out need at least two dim"):
        kaiming_init(norm, bias=5)
    assert not norm.bias.any()


def test_bias_from_a_probability() -> None:
    assert bias_init_with_prob(0.01) == pytest.approx(-math.log(0.99 / 0.01), rel=1e-15)
    assert torch.tensor(bias_init_with_prob(0.3)).sigmoid().item() == pytest.approx(0.3, rel=1e-6)
    for wrong in (0, 1, 0.0, 1.5, "0.1", None):
        with pytest.raises(InitConfigError, match="prior_prob"):
            bias_init_with_prob(wrong)  # type: ignore[arg-type]  # what is shown
