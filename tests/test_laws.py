from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import integrate, stats
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_init.initializers import dispatch
from lightning_init.initializers.laws import ConstantLaw, Law, NormalLaw, UniformLaw, normal_law, uniform_law
from lightning_init.initializers.truncated import TruncNormalLaw
from lightning_init.rng import Stream

N = 200_000
# Draws are fixed by their seed; a wrong law of this size gives p-values of 1e-6 and less.
MIN_P = 1e-3

TRUNCATIONS = [
    pytest.param(0, 1, -2, 2, id="both sides"),
    pytest.param(0, 0.02, -0.04, 0.04, id="small"),
    pytest.param(0, 0.02, -2, 2, id="bounds out of reach"),
    pytest.param(3, 2, -3, 4, id="not centred"),
    pytest.param(0, 1, -math.inf, 0.5, id="one side"),
    pytest.param(0, 1, 0, 9, id="half"),
    pytest.param(0, 1, -0.1, 0.2, id="narrow around the mean"),
    pytest.param(0, 1, -0.6, 0.1, id="skew around the mean"),
    pytest.param(0, 1, 0, 0.3, id="narrow beside the mean"),
    pytest.param(0, 1e3, -2, 2, id="nearly uniform"),
    pytest.param(0, 1, 1, 1.2, id="narrow in the slope"),
    pytest.param(0, 1, 0.4, 9, id="slope"),
    pytest.param(0, 1, -1.5, -0.2, id="slope, below"),
    pytest.param(5, 2, -3, 0.5, id="scaled tail, below"),
    pytest.param(0, 1, 3, 5, id="tail"),
    pytest.param(0, 1, 4, 4.5, id="a piece of a tail"),
    pytest.param(0, 1, 40, 50, id="40 sigma out"),
    pytest.param(0, 1, 40, 40.05, id="40 sigma out, a piece"),
    pytest.param(0, 1, -41, -40, id="40 sigma out, below"),
    pytest.param(0, 1, 40, 1e9, id="40 sigma out, open"),
    pytest.param(0, 1, 40, 40.001, id="40 sigma out, narrow"),
]


def sample(law: Law, dtype: torch.dtype = torch.float64, n: int = N, seed: int = 0) -> torch.Tensor:
    block = torch.empty(n, dtype=dtype)
    law.fill(block, Stream(seed, "law").generator(0))
    return block


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("law", "reference"),
    [
        (NormalLaw(0, 1), stats.norm(0, 1)),
        (NormalLaw(-3, 0.02), stats.norm(-3, 0.02)),
        (UniformLaw(0, 1), stats.uniform(0, 1)),
        (UniformLaw(-0.3, 0.7), stats.uniform(-0.3, 1)),
    ],
)
def test_normal_and_uniform_follow_their_law(law: Law, reference: stats.rv_frozen, dtype: torch.dtype) -> None:
    assert stats.kstest(sample(law, dtype).numpy(), reference.cdf).pvalue > MIN_P
    assert (law.mean, law.std) == pytest.approx((reference.mean(), reference.std()), rel=1e-12)
    assert (law.low, law.high) == pytest.approx(reference.support())
    assert law.kurtosis == pytest.approx(3 + reference.stats(moments="k"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("loc", "scale", "a", "b"), TRUNCATIONS)
def test_truncated_normal_follows_its_law(loc: float, scale: float, a: float, b: float, dtype: torch.dtype) -> None:
    law = TruncNormalLaw(loc, scale, a, b)
    numbers = sample(law, dtype)
    reference = stats.truncnorm((a - loc) / scale, (b - loc) / scale, loc, scale)
    if dtype is torch.float32:
        # Rounding shifts a number by half a unit at most, which must not count as a wrong law.
        step = torch.nextafter(numbers.abs(), torch.tensor(math.inf)) - numbers.abs()
        noise = torch.rand(N, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5
        numbers = numbers.double() + noise * step
    assert stats.kstest(numbers.numpy(), reference.cdf).pvalue > MIN_P


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("loc", "scale", "a", "b"), TRUNCATIONS)
def test_truncated_normal_stays_within_its_bounds(
    loc: float, scale: float, a: float, b: float, dtype: torch.dtype
) -> None:
    numbers = sample(TruncNormalLaw(loc, scale, a, b), dtype)
    bounds = torch.tensor([a, b], dtype=dtype)
    assert bounds[0] <= numbers.min()
    assert numbers.max() <= bounds[1]


@pytest.mark.parametrize(("loc", "scale", "a", "b"), TRUNCATIONS)
def test_moments_of_the_truncated_normal(loc: float, scale: float, a: float, b: float) -> None:
    law = TruncNormalLaw(loc, scale, a, b)
    # In distances from a bound, in units in which the density falls there by a factor e, and relative to its peak.
    alpha, beta = (a - loc) / scale, (b - loc) / scale
    origin, slope, step = (b, -beta, -scale) if beta < 0 else (a, alpha, scale)
    if slope < 0:
        origin, slope, low, high = loc, 0.0, max(alpha, -12), min(beta, 12)
    else:
        low, high = 0.0, min(beta - alpha, 60 / max(slope, 4))

    def moment(power: int, centre: float = 0.0) -> float:
        value: float = integrate.quad(
            lambda y: (y - centre) ** power * math.exp(-y * (slope + y / 2)), low, high, epsabs=0, epsrel=1e-11
        )[0]
        return value

    total = moment(0)
    middle = moment(1) / total if low + high else 0.0
    assert law.mean == pytest.approx(origin + step * middle, rel=1e-12, abs=1e-12 * scale)
    assert law.std == pytest.approx(scale * math.sqrt(moment(2, middle) / total), rel=1e-8)
    assert law.kurtosis == pytest.approx(moment(4, middle) * total / moment(2, middle) ** 2, rel=1e-6)


@pytest.mark.parametrize(("loc", "scale", "a", "b"), TRUNCATIONS[:12])
def test_moments_of_the_truncated_normal_are_those_of_scipy(loc: float, scale: float, a: float, b: float) -> None:
    law = TruncNormalLaw(loc, scale, a, b)
    reference = stats.truncnorm((a - loc) / scale, (b - loc) / scale, loc, scale)
    assert law.mean == pytest.approx(reference.mean(), rel=1e-10, abs=1e-10 * scale)
    # In the nearly uniform one scipy's own closed form loses half of the digits.
    assert law.std == pytest.approx(reference.std(), rel=1e-7)


def test_moments_in_the_limits() -> None:
    narrow = TruncNormalLaw(0, 1, 40, 40 + 2**-40)
    assert narrow.std == pytest.approx(2**-40 / math.sqrt(12), rel=1e-9)
    far = TruncNormalLaw(0, 1, 1e8, math.inf)
    assert far.std == pytest.approx(1e-8, rel=1e-9)
    # An exponential law.
    assert far.kurtosis == pytest.approx(9, rel=1e-6)
    assert far.mean == pytest.approx(1e8 + 1e-8, rel=1e-15)
    assert TruncNormalLaw(0, 1, -math.inf, math.inf).std == pytest.approx(1, rel=1e-12)
    half = TruncNormalLaw(1, 3, 1, math.inf)
    assert half.mean == pytest.approx(1 + 3 * math.sqrt(2 / math.pi), rel=1e-12)
    assert half.std == pytest.approx(3 * math.sqrt(1 - 2 / math.pi), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("scale", "bound"), [(0.02, 0.04), (1, 2), (0.02, 0.06), (1, 0.3), (0.1, 0.01)])
def test_a_bound_takes_no_more_than_rounding_gives_it(dtype: torch.dtype, scale: float, bound: float) -> None:
    n = 2**20
    law = TruncNormalLaw(0, scale, -bound, bound)
    numbers = sample(law, torch.float32, n).to(dtype)
    edge = torch.tensor(bound, dtype=dtype)
    inner = torch.nextafter(edge, torch.zeros((), dtype=dtype))
    halfway = (edge.double() + inner.double()).item() / 2
    # What rounds to the edge, in the exact law; nothing at all if the bound itself is rounded inwards.
    share = 2 * stats.truncnorm(-bound / scale, bound / scale, 0, scale).sf(halfway)
    expected = n * share
    on_or_beyond = int((numbers.abs() >= edge).sum())
    assert on_or_beyond <= expected + 5 * math.sqrt(expected)
    assert on_or_beyond >= expected - 5 * math.sqrt(expected)


def test_the_same_holds_where_a_bound_is_few_units_away() -> None:
    # Between the bounds lie a handful of numbers of float32; every one takes the share of the law that rounds to it.
    unit = torch.finfo(torch.float32).eps
    law = TruncNormalLaw(1, unit, 1 - 1.7 * unit, 1 + 1.7 * unit)
    reference = stats.truncnorm(-1.7, 1.7)
    steps = (sample(law, torch.float32).double() - 1) / unit
    # Below 1 the numbers are twice as dense.
    cells = [(-1.5, -1.75, -1.25), (0, -0.25, 0.5), (1, 0.5, 1.5), (2, 1.5, 1.7)]
    for value, low, high in cells:
        expected = N * (reference.cdf(high) - reference.cdf(low))
        assert int((steps == value).sum()) == pytest.approx(expected, abs=5 * math.sqrt(expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("loc", "scale", "a", "b"),
    [
        (0, 1, 0.5, 0.5),
        (0, 1, 0.5, math.nextafter(0.5, 1)),
        (0, 1, -5e-324, 5e-324),
        (0, 1, 5e-324, 1e-300),
        (1, 1e-12, 1, 1 + 1e-12),
        (1e20, 1e-3, 1e20, 1e20 + 1e5),
        (0, 1e-320, 1, 2),
        (0, 5e-324, -1, 1),
        (0, 1e-300, 1e10, 2e10),
        (0, 1e30, 1, 1 + 1e-7),
        (0, 1, 1e15, 1e30),
        (-1e30, 1, 1e30, 2e30),
        (0, 1, 1e8, math.inf),
        (0, 1, -math.inf, -1e8),
        (0, 1, -math.inf, math.inf),
        (0, 1e-3, -1e30, 1e30),
    ],
)
def test_every_legal_truncation_ends_and_is_finite(
    loc: float, scale: float, a: float, b: float, dtype: torch.dtype
) -> None:
    law = TruncNormalLaw(loc, scale, a, b)
    start = time.process_time()
    numbers = sample(law, dtype, 10_000)
    assert time.process_time() - start < 5
    bounds = torch.tensor([a, b], dtype=dtype)
    assert bounds[0] <= numbers.min()
    assert numbers.max() <= bounds[1]
    assert numbers.isfinite().all()
    assert math.isfinite(law.mean)
    assert law.std >= 0


def test_bounds_out_of_reach_cost_nothing() -> None:
    cut = sample(TruncNormalLaw(0, 0.02, -2, 2), torch.float32)
    assert torch.equal(cut, sample(NormalLaw(0, 0.02), torch.float32))


class Extreme(torch.Tensor):
    """A tensor whose every draw is the largest number that can come: the one before `top`."""

    top = 1.0

    def uniform_(self, from_: float = 0, to: float = 1, *, generator: torch.Generator | None = None) -> torch.Tensor:
        return self.fill_(1 - 2**-24)

    def normal_(self, mean: float = 0, std: float = 1, *, generator: torch.Generator | None = None) -> torch.Tensor:
        return self.fill_(torch.nextafter(torch.tensor(self.top), torch.tensor(0.0)).item())


@pytest.mark.parametrize(("a", "b"), [(0.36, 0.42), (-0.59, -0.5), (1.0, 1 + 2**-23), (-0.7, 0.7)])
def test_uniform_numbers_do_not_step_over_a_bound_by_rounding(a: float, b: float) -> None:
    block = torch.empty(16).as_subclass(Extreme)
    UniformLaw(a, b).fill(block, None)
    assert (block <= b).all()


@pytest.mark.parametrize(("loc", "scale", "cutoff"), [(-0.65, 0.119, 2.51), (0.62, 0.003, 2.23), (0, 0.068, 1.69)])
def test_normal_numbers_do_not_step_over_a_bound_by_rounding(loc: float, scale: float, cutoff: float) -> None:
    block = torch.empty(16).as_subclass(Extreme)
    block.top = cutoff
    bound = loc + cutoff * scale
    TruncNormalLaw(loc, scale, loc - cutoff * scale, bound).fill(block, None)
    assert (block <= bound).all()


def test_laws_without_spread_are_constants() -> None:
    assert normal_law(2.0, 0.0) == ConstantLaw(2.0)
    assert uniform_law(-1.0, -1.0) == ConstantLaw(-1.0)
    assert normal_law(2.0, 1.0) == NormalLaw(2.0, 1.0)
    assert uniform_law(-1.0, 1.0) == UniformLaw(-1.0, 1.0)
    constant = ConstantLaw(2.0)
    assert (constant.mean, constant.std, constant.low, constant.high) == (2.0, 0.0, 2.0, 2.0)
    assert constant.kurtosis is None
    whole = torch.empty(3, dtype=torch.int64)
    constant.fill(whole)
    assert whole.tolist() == [2, 2, 2]


def test_a_uniform_law_as_wide_as_numbers_go_has_finite_moments() -> None:
    law = UniformLaw(-sys.float_info.max / 4, sys.float_info.max / 4)
    assert law.mean == 0
    assert math.isfinite(law.std)


@pytest.mark.parametrize("law", [TruncNormalLaw(0, 1, -2, 2), TruncNormalLaw(0, 1, 3, 4)])
def test_functions_are_called_once_before_many_threads_call_them(
    law: TruncNormalLaw, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OneMKL 2024.2 may give a thread a kernel of low precision, where several call a function for the first time."""
    sizes: dict[str, list[int]] = {}

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = func.overloadpacket.__name__.rstrip("_")
            if name in ("erfinv", "exp", "log1p"):
                sizes.setdefault(f"{name} {args[0].dtype}", []).append(args[0].numel())
            return func(*args, **(kwargs or {}))

    monkeypatch.setattr(dispatch, "_settled", False)
    with Watch():  # type: ignore[no-untyped-call]  # torch has not typed it
        law.fill(torch.empty(1000), None)
        law.fill(torch.empty(1000, dtype=torch.float64), None)
    assert any(len(found) > 1 for found in sizes.values())
    assert all(found[0] == 1 for found in sizes.values())


def test_uniform_numbers_of_hardly_any_width() -> None:
    for numel in (100, 8192):
        block = torch.empty(numel)
        UniformLaw(-1e-38, 1e-38).fill(block, Stream(0, "w").generator(0))
        assert float(block.abs().max()) <= 1e-38


def test_other_vector_units_give_other_last_bits_at_most(tmp_path: Path) -> None:
    code = (
        "import sys, torch; from lightning_init.initializers.truncated import TruncNormalLaw; "
        "block = torch.empty(10**5); "
        "TruncNormalLaw(0, 1, -2, 2).fill(block, torch.Generator().manual_seed(0)); torch.save(block, sys.argv[1])"
    )
    found = []
    for units in ("AVX2", "AVX512"):
        path = tmp_path / units
        command = [sys.executable, "-c", code, str(path)]
        subprocess.run(command, env={**os.environ, "MKL_ENABLE_INSTRUCTIONS": units}, check=True, timeout=120)
        found.append(torch.load(path, weights_only=True))
    torch.testing.assert_close(*found, rtol=2**-21, atol=0)
