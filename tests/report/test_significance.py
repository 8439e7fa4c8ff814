"""The probabilities that findings rest on: exact for normal numbers, and no alarm too many for others."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from lightning_init.report.significance import mean_chance, std_chance


@pytest.mark.parametrize("n", [2, 3, 10, 1000, 9999, 10_000, 10**6, 10**7])
@pytest.mark.parametrize("chance", [0.1, 1e-3, 1e-9])
def test_of_normal_numbers_it_is_exact(n: int, chance: float) -> None:
    for quantile in (stats.chi2.ppf(chance / 2, n - 1), stats.chi2.isf(chance / 2, n - 1)):
        # Beyond a million degrees of freedom Fisher's approximation stands for the law.
        assert std_chance(math.sqrt(quantile / (n - 1)), n, 3.0) == pytest.approx(chance, rel=1e-8 if n < 1e6 else 0.05)
    deviation = stats.norm.isf(chance / 2) / math.sqrt(n)
    assert mean_chance(0.3 * deviation, 0.3, n) == mean_chance(-0.3 * deviation, 0.3, n) == pytest.approx(chance)


@pytest.mark.parametrize(
    ("law", "kurtosis"),
    [
        (stats.norm(), 3.0),
        (stats.uniform(-1, 2), 1.8),
        (stats.truncnorm(-2, 2), float(3 + stats.truncnorm(-2, 2).stats(moments="k"))),
    ],
    ids=["normal", "uniform", "truncated"],
)
@pytest.mark.parametrize("n", [2, 5, 50, 20_000])
def test_numbers_that_follow_their_law_seldom_raise_an_alarm(law: stats.rv_frozen, kurtosis: float, n: int) -> None:
    level, draws = 0.01, 4000 if n < 100 else 100
    numbers = law.rvs((draws, n), random_state=np.random.default_rng(n))
    centre, spread = law.mean(), law.std()
    chances: list[Callable[[float, float], float]] = [
        lambda mean, std: mean_chance(mean - centre, spread, n),
        lambda mean, std: std_chance(std / spread, n, kurtosis),
    ]
    for chance in chances:
        pairs = zip(numbers.mean(1), numbers.std(1, ddof=1), strict=True)
        alarms = sum(chance(float(mean), float(std)) < level for mean, std in pairs)
        # Five standard errors of a binomial number above what is allowed.
        assert alarms <= draws * level + 5 * math.sqrt(draws * level)


def test_a_light_tail_makes_the_test_of_many_numbers_sharper() -> None:
    n = 20_000
    deviation = 3 / math.sqrt(2 * n)
    assert std_chance(1 + deviation, n, 3.0) == pytest.approx(2 * stats.norm.sf(3), rel=0.05)
    # The std of uniform numbers strays by the root of 0.4 times as much.
    assert std_chance(1 + deviation, n, 1.8) == pytest.approx(2 * stats.norm.sf(3 / math.sqrt(0.4)), rel=0.2)
