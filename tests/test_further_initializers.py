"""Orthogonal, Dirac, variance scaling and residual branches: exact where exact values exist, else against the law."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from lightning_init import InitConfigError, init_weights
from lightning_init.config import parse
from lightning_init.initializers.base import LawInitializer, WeightInitializer, fans_of
from lightning_init.initializers.dirac import DiracInit
from lightning_init.initializers.laws import ConstantLaw, Law, NormalLaw
from lightning_init.initializers.orthogonal import OrthogonalInit
from lightning_init.initializers.residual import DepthScaledInit, ZeroLastInit
from lightning_init.initializers.scaling import HeInit, LeCunInit, VarianceScalingInit
from lightning_init.rng import Stream
from tests.models import threads

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

CHANCE = 1e-6
"""How often a test of a law may fail for another seed."""


def drawn(initializer: WeightInitializer, *shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    tensor = torch.empty(shape, dtype=dtype)
    initializer.write_(tensor, Stream(seed, "w").generator)
    return tensor


class TestOrthogonal:
    # Square, wide, tall, so tall that it is factorised otherwise, a kernel, single rows and columns.
    @pytest.mark.parametrize(
        "shape", [(64, 64), (16, 100), (100, 64), (600, 70), (8, 4, 3, 3), (12, 40, 5), (1, 9), (9, 1), (1, 1), (2, 16)]
    )
    @pytest.mark.parametrize("gain", [1, 1.5])
    def test_rows_or_columns_are_orthogonal_to_round_off(self, shape: tuple[int, ...], gain: float) -> None:
        for dtype, steps in ((torch.float32, 2**-23), (torch.float64, 2**-52)):
            matrix = drawn(OrthogonalInit(gain), *shape, dtype=dtype).flatten(1).double()
            if matrix.shape[0] > matrix.shape[1]:
                matrix = matrix.T
            error = (matrix @ matrix.T / gain**2 - torch.eye(len(matrix), dtype=torch.float64)).abs().max()
            assert error <= 16 * steps

    def test_half_precision_is_the_rounded_one(self) -> None:
        for dtype in DTYPES[2:]:
            assert torch.equal(drawn(OrthogonalInit(), 40, 30, dtype=dtype), drawn(OrthogonalInit(), 40, 30).to(dtype))

    @pytest.mark.parametrize("shape", [(3, 3), (2, 3), (16, 2)])
    def test_it_is_uniform(self, shape: tuple[int, int]) -> None:
        """A coordinate of a uniform unit vector of dimension n has the law of 2 Beta((n - 1) / 2, (n - 1) / 2) - 1."""
        draws = torch.stack([drawn(OrthogonalInit(), *shape, seed=seed) for seed in range(2000)]).double()
        n = max(shape)
        law = stats.beta((n - 1) / 2, (n - 1) / 2, loc=-1, scale=2)
        for row, column in ((0, 0), (shape[0] - 1, shape[1] - 1)):
            assert stats.kstest(draws[:, row, column].numpy(), law.cdf).pvalue > CHANCE
        if shape[0] == shape[1]:
            # Both signs of the determinant are as likely.
            positive = int((torch.linalg.det(draws) > 0).sum())
            assert stats.binomtest(positive, len(draws)).pvalue > CHANCE

    @pytest.mark.parametrize("shape", [(300, 300), (900, 100)])
    def test_the_bits_do_not_depend_on_the_number_of_threads(self, shape: tuple[int, int]) -> None:
        found: dict[int, list[Tensor]] = {1: [], 2: []}
        for count, weights in found.items():
            # A single weight is made in the calling thread, several side by side.
            for size in (1, 2):
                net = nn.ModuleList(nn.Linear(*shape, bias=False) for _ in range(size))
                with threads(count):
                    init_weights(net, {"type": "Orthogonal", "layer": "Linear"}, seed=0)
                weights += [parameter.detach() for parameter in net.parameters()]
        assert all(map(torch.equal, found[1], found[2]))
        assert not torch.equal(*found[1][1:])

    def test_memory_format_and_empty_weights(self) -> None:
        strided = torch.empty(6, 5, 3, 3).to(memory_format=torch.channels_last)
        OrthogonalInit().write_(strided, Stream(0, "w").generator)
        assert torch.equal(strided, drawn(OrthogonalInit(), 6, 5, 3, 3))
        assert drawn(OrthogonalInit(), 0, 3).shape == (0, 3)
        assert drawn(OrthogonalInit(0), 2, 3).eq(0).all()


class TestDirac:
    @pytest.mark.parametrize("groups", [1, 2])
    @pytest.mark.parametrize("shape", [(4, 2, 3), (4, 6, 3, 5), (6, 2, 1, 3, 3), (2, 1, 4, 4)])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_it_is_that_of_torch(self, shape: tuple[int, ...], groups: int, dtype: torch.dtype) -> None:
        wanted = nn.init.dirac_(torch.empty(shape, dtype=dtype), groups)
        assert torch.equal(drawn(DiracInit(groups=groups), *shape, dtype=dtype), wanted)

    def test_nothing_is_random_about_it(self) -> None:
        net = nn.Conv2d(2, 2, 3).requires_grad_(requires_grad=False)
        report = init_weights(net, {"type": "Dirac", "layer": "Conv2d"}, seed=0)
        assert not report["weight"].is_random
        assert [finding.code for finding in report.measure().findings] == []


class TestVarianceScaling:
    @pytest.mark.parametrize("distribution", ["normal", "uniform", "truncated_normal"])
    @pytest.mark.parametrize(("mode", "fan"), [("fan_in", 27 * 4), ("fan_out", 27 * 50), ("fan_avg", 27 * 27)])
    def test_the_law(self, mode: Any, fan: int, distribution: Any) -> None:
        initializer = VarianceScalingInit(1.5, mode, distribution)
        law = initializer.expected((50, 4, 3, 9))
        assert abs(law.mean) <= 1e-15 * law.std
        assert law.std == pytest.approx(math.sqrt(1.5 / fan), rel=1e-9)
        for dtype in DTYPES:
            follows(law, distribution, drawn(initializer, 50, 4, 3, 9, dtype=dtype), math.sqrt(1.5 / fan))

    @pytest.mark.parametrize("distribution", ["normal", "uniform", "truncated_normal"])
    def test_names(self, distribution: Any) -> None:
        for named, scale in ((LeCunInit, 1), (HeInit, 2)):
            general = VarianceScalingInit(scale, "fan_in", distribution)
            assert named(distribution).expected((8, 5, 3)) == general.expected((8, 5, 3))
        assert LeCunInit().describe() == "LeCun(distribution='truncated_normal')"

    def test_without_variance_or_inputs(self) -> None:
        assert VarianceScalingInit(0, "fan_in", "truncated_normal").expected((3, 3)) == ConstantLaw(0.0)
        assert drawn(HeInit(), 3, 0).shape == (3, 0)


def follows(law: Law, distribution: str, weights: Tensor, std: float) -> None:
    """A Kolmogorov-Smirnov test against scipy's law, which knows the rounding of half precision."""
    cut = stats.truncnorm(-2, 2).std()
    wanted = {
        "normal": stats.norm(scale=std),
        "uniform": stats.uniform(-math.sqrt(3) * std, 2 * math.sqrt(3) * std),
        "truncated_normal": stats.truncnorm(-2, 2, scale=std / cut),
    }[distribution]
    found = weights.double().flatten()
    assert float(found.abs().max()) <= law.high * (1 + torch.finfo(weights.dtype).eps)
    # Rounding moves a number x by eps / 2 * |x| at most, and the distribution function by its density times that. The
    # densities fall from zero on, so x times the density at x is less than the half that lies above zero.
    blur = torch.finfo(weights.dtype).eps / 4
    n = found.numel()
    allowed = math.sqrt(math.log(2 / CHANCE) / (2 * n))  # Massart's bound
    assert stats.kstest(found.numpy(), wanted.cdf).statistic <= allowed + blur


class TestResidualBranches:
    def test_depth_scaled(self) -> None:
        assert DepthScaledInit(12).expected((4, 4)) == NormalLaw(0.0, 0.02 / math.sqrt(24))
        assert DepthScaledInit(9, std=0.3, branches=1).expected(()) == NormalLaw(0.0, 0.3 / 3)
        follows(DepthScaledInit(8).expected((1,)), "normal", drawn(DepthScaledInit(8), 300, 100), 0.02 / 4)

    def test_zero_last(self) -> None:
        block = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
        report = init_weights(block, {"type": "ZeroLast", "name": "1"}, seed=0)
        norm = block[1]
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.weight.eq(0).all()
        assert norm.bias.eq(0).all()
        assert report["1.weight"].initializer == "ZeroLast()"
        assert report["0.weight"].source is None
        assert ZeroLastInit().expected((3,)) == ConstantLaw(0.0)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"type": "Orthogonal", "gain": -1}, "gain: must be >= 0, got -1"),
        ({"type": "Dirac", "groups": 0}, "groups: must be >= 1, got 0"),
        ({"type": "Dirac", "groups": 1.5}, "groups: must be a whole number, got 1.5"),
        ({"type": "VarianceScaling", "scale": -1}, "scale: must be >= 0, got -1"),
        ({"type": "VarianceScaling", "mode": "fan_avgs"}, "did you mean 'fan_avg'?"),
        ({"type": "LeCun", "distribution": "trunc_normal"}, "did you mean 'truncated_normal'"),
        ({"type": "DepthScaled"}, "depth: DepthScaled cannot do without it"),
        ({"type": "DepthScaled", "depth": 0}, "depth: must be >= 1, got 0"),
        ({"type": "DepthScaled", "depth": 2, "branches": 1.5}, "branches: must be a whole number, got 1.5"),
    ],
)
def test_bad_arguments(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(InitConfigError) as raised:
        parse(rule)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("initializer", "shape", "message"),
    [
        (OrthogonalInit(), (3,), "need at least two dimensions"),
        (DiracInit(), (3, 3), "one to three dimensions, and its shape is (3, 3)"),
        (DiracInit(groups=2), (3, 3, 3), "its 3 outputs are no multiple of groups=2"),
        (HeInit(), (3,), "fan_in and fan_out need at least two dimensions"),
    ],
)
def test_weights_that_cannot_be_initialised(
    initializer: WeightInitializer, shape: tuple[int, ...], message: str
) -> None:
    assert message in str(initializer.obstacle(shape, torch.float32))
    assert not isinstance(initializer, LawInitializer) or fans_of(shape) is None
