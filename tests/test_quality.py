"""The random numbers in large numbers: ten million of each law and type, against the exact law and against each other.

Seeds are fixed. Each threshold follows from how many numbers there are: five standard errors for one statistic, which
a right law exceeds once in two million times.
"""

from __future__ import annotations

import math
from functools import lru_cache

import pytest
import torch
from scipy import stats
from torch import Tensor

from lightning_init.initializers.base import Fans
from lightning_init.initializers.fill import fill_
from lightning_init.initializers.laws import Law, NormalLaw, UniformLaw
from lightning_init.initializers.orthogonal import OrthogonalInit
from lightning_init.initializers.scaling import HeInit, LeCunInit, VarianceScalingInit
from lightning_init.initializers.truncated import TruncNormalLaw
from lightning_init.rng import BLOCK, Stream

BLOCKS = 40
N = BLOCKS * BLOCK
BINS = 1000
ERRORS = 5.0

# What the std of a normal law has to be for a std of one behind a cut at two deviations.
_TRUNCATED = 1 / float(stats.truncnorm(-2, 2).std())

LAWS: dict[str, tuple[Law, stats.rv_frozen]] = {
    "normal": (NormalLaw(0.5, 0.02), stats.norm(0.5, 0.02)),
    "uniform": (UniformLaw(-0.3, 0.1), stats.uniform(-0.3, 0.4)),
    "truncated": (TruncNormalLaw(0, 0.02, -0.04, 0.04), stats.truncnorm(-2, 2, 0, 0.02)),
    # At the border of inverting the distribution function, behind it, and from one side.
    "three deviations": (TruncNormalLaw(0.1, 0.02, 0.04, 0.16), stats.truncnorm(-3, 3, 0.1, 0.02)),
    "four deviations": (TruncNormalLaw(0, 0.02, -0.08, 0.08), stats.truncnorm(-4, 4, 0, 0.02)),
    "one-sided": (TruncNormalLaw(0, 2, -2, 6), stats.truncnorm(-1, 3, 0, 2)),
    "tail": (TruncNormalLaw(0, 1, 3, 4), stats.truncnorm(3, 4)),
    "lecun": (LeCunInit().law((8, 50), Fans(50, 8)), stats.truncnorm(-2, 2, 0, _TRUNCATED / math.sqrt(50))),
    "he": (HeInit("uniform").law((8, 50), Fans(50, 8)), stats.uniform(-math.sqrt(6 / 50), 2 * math.sqrt(6 / 50))),
    "scaled": (
        VarianceScalingInit(3, "fan_avg", "normal").law((8, 50), Fans(50, 8)),
        stats.norm(0, math.sqrt(3 / 29)),
    ),
}
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def test_there_are_ten_million() -> None:
    assert N >= 10**7


@lru_cache(maxsize=4)
def filled(law: str, dtype: torch.dtype = torch.float32) -> Tensor:
    numbers = torch.empty(N, dtype=dtype)
    fill_(numbers, LAWS[law][0], Stream(0, "w").generator)
    return numbers


def correlations(rows: Tensor, others: Tensor) -> Tensor:
    """Of every row with every other one, in standard errors of what independent numbers have."""
    centred = [(each - each.mean(1, keepdim=True)) / each.std(1, keepdim=True) for each in (rows, others)]
    return centred[0] @ centred[1].T / math.sqrt(rows.shape[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("law", LAWS)
def test_moments_and_bounds(law: str, dtype: torch.dtype) -> None:
    numbers, (ours, exact) = filled(law, dtype), LAWS[law]
    mean, variance, _, excess = map(float, exact.stats(moments="mvsk"))
    assert ours.kurtosis is not None
    assert (ours.mean, ours.std, ours.kurtosis) == pytest.approx((mean, math.sqrt(variance), 3 + excess), rel=1e-6)
    centred = (numbers.double() - mean) / math.sqrt(variance)
    # Rounding to the nearest is at most half a unit of the largest number, and does not lean to one side.
    step = torch.finfo(dtype).eps * max(abs(mean), math.sqrt(variance)) / math.sqrt(variance)
    squares = centred.square()
    fourth = float(squares.square().mean())
    assert abs(float(centred.mean())) < ERRORS / math.sqrt(N) + step * step
    assert abs(float(squares.mean()) - 1) < ERRORS * math.sqrt((excess + 2) / N) + step * step
    # The variance of fourth powers, from the exact law's eighth moment.
    eighth = float(exact.expect(lambda x: ((x - mean) / math.sqrt(variance)) ** 8))
    assert abs(fourth - (excess + 3)) < ERRORS * math.sqrt((eighth - (excess + 3) ** 2) / N) + 20 * step * step
    low, high = exact.support()
    assert torch.tensor(low).to(dtype) <= numbers.min()
    assert numbers.max() <= torch.tensor(high).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("law", LAWS)
def test_the_exact_law(law: str, dtype: torch.dtype) -> None:
    """Pearson's chi-square over bins that the exact law fills equally."""
    exact = LAWS[law][1]
    edges = torch.from_numpy(exact.ppf([i / BINS for i in range(1, BINS)]))
    counts = torch.bincount(torch.bucketize(filled(law, dtype), edges.to(dtype)), minlength=BINS).double()
    chi_square = float((counts - N / BINS).square().sum() / (N / BINS))
    # The chi-square law of so many degrees of freedom is close to a normal one; too good a fit is as wrong.
    assert abs(chi_square - (BINS - 1)) < ERRORS * math.sqrt(2 * (BINS - 1))


@pytest.mark.parametrize("law", ["normal", "uniform", "truncated"])
def test_blocks_have_nothing_in_common(law: str) -> None:
    blocks = filled(law).view(BLOCKS, BLOCK)
    found = correlations(blocks, blocks).fill_diagonal_(0)
    assert float(found.abs().max()) < ERRORS + 1  # of 780 pairs
    shifted = correlations(blocks[:, 1:], blocks[:, :-1])
    assert float(shifted.abs().max()) < ERRORS + 1
    # A block that repeats another one, from wherever on, would share its runs of successive numbers.
    runs = blocks[:, :-1].double() * 1e9 + blocks[:, 1:].double() * math.pi
    assert runs.reshape(-1)[: 10 * BLOCK].unique().numel() > 0.999 * 10 * BLOCK


@pytest.mark.parametrize("law", ["normal", "uniform", "truncated"])
def test_similar_names_and_seeds_have_nothing_in_common(law: str) -> None:
    names = ["w", "a.weight", "b.weight", "layers.1.weight", "layers.11.weight", "layers.1.weigh"]
    streams = [Stream(0, name) for name in names] + [Stream(seed, "w") for seed in (1, 2, 10, 2**32)]
    rows = torch.empty(len(streams), 4 * BLOCK)
    for row, stream in zip(rows, streams, strict=True):
        fill_(row, LAWS[law][0], stream.generator)
    assert float(correlations(rows, rows).fill_diagonal_(0).abs().max()) < ERRORS
    assert float(correlations(rows[:, 1:], rows[:, :-1]).abs().max()) < ERRORS


def test_ten_million_numbers_of_orthogonal_matrices() -> None:
    """A coordinate of a uniform unit vector of dimension n has the law of 2 Beta((n - 1) / 2, (n - 1) / 2) - 1."""
    n, count = 320, 98
    matrices = torch.empty(count, n, n)
    for index, matrix in enumerate(matrices):
        OrthogonalInit().write_(matrix, Stream(0, f"blocks.{index}.weight").generator)
    assert matrices.numel() > 10**7
    exact = stats.beta((n - 1) / 2, (n - 1) / 2, loc=-1, scale=2)
    edges = torch.from_numpy(exact.ppf([i / BINS for i in range(1, BINS)])).float()
    counts = torch.bincount(torch.bucketize(matrices.flatten(), edges), minlength=BINS).double()
    expected = matrices.numel() / BINS
    # Numbers of one matrix depend on each other a little, so that they fit somewhat better than independent ones.
    assert (counts - expected).square().sum() / expected < BINS - 1 + ERRORS * math.sqrt(2 * (BINS - 1))
    assert abs(float(matrices.double().mean())) < ERRORS / math.sqrt(n * matrices.numel())
    rows = matrices.flatten(1) * math.sqrt(n)
    found = (rows @ rows.T / n).fill_diagonal_(0)
    # Of two independent ones, n ** 2 products of numbers with the variance 1 / n each: their sum has the variance 1.
    assert float(found.abs().max()) < ERRORS + 1


def test_the_statistics_would_notice() -> None:
    """What is a little wrong is far outside of the thresholds."""
    blocks = filled("normal").view(BLOCKS, BLOCK)[:2].clone()
    blocks[1, BLOCK // 2 :] = blocks[0, BLOCK // 2 :]
    assert float(correlations(blocks, blocks)[0, 1]) > 100
    off = filled("normal").double() + 1e-4
    assert abs(float(((off - 0.5) / 0.02).mean())) > 2 * ERRORS / math.sqrt(N)
