"""What is different between two reports."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from lightning_init import InitError, InitReport, init_weights
from lightning_init.report import ReportDiff, RowChange
from tests.models import Holder, constant


def report(init_cfg: Any = None, seed: int = 0, **layers: nn.Module) -> InitReport:
    made = Holder(init_cfg or {"type": "Normal", "layer": "Linear"}, **(layers or {"fc": nn.Linear(3, 4)}))
    return init_weights(made, seed=seed).measure(made)


def test_equal_reports_have_none() -> None:
    found = report().diff(report())
    assert found == ReportDiff()
    assert not found
    assert len(found) == 0
    assert str(found) == "no difference"


def test_another_config() -> None:
    before = report({"type": "Normal", "layer": "Linear"})
    after = report({"type": "Constant", "layer": "Linear", "val": 2, "bias": 3})
    found = before.diff(after)
    assert (found.added, found.removed) == ((), ())
    weight, bias = found.changed
    assert (weight.name, bias.name) == ("fc.weight", "fc.bias")
    assert weight.cells["initializer"] == ("Normal(mean=0, std=1)", "Constant(val=2)")
    assert weight.cells["expected_mean"] == (0.0, 2.0)
    assert weight.cells["max"][1] == 2.0
    assert weight.cells["findings"] == (None, "symmetric")
    assert set(weight.cells).isdisjoint({"name", "shape", "dtype", "source", "nonfinite", "zero_fraction"})
    assert bias.cells["expected_mean"] == (0.0, 3.0)
    lines = [" ".join(line.split()) for line in str(found).splitlines()]
    assert lines[0] == "name column before after"
    assert "fc.weight initializer Normal(mean=0, std=1) Constant(val=2)" in lines
    assert "fc.bias mean 0 3" in lines


def test_another_seed_changes_numbers_only() -> None:
    (change,) = report(seed=0).diff(report(seed=1)).changed
    assert set(change.cells) == {"mean", "std", "min", "max", "abs_mean", "l2_norm"}


def test_parameters_that_come_and_go() -> None:
    found = report(constant(1), a=nn.Linear(2, 2), b=nn.Linear(2, 2)).diff(
        report(constant(1), a=nn.Linear(2, 2), c=nn.Linear(2, 2, bias=False))
    )
    assert found == ReportDiff(added=("c.weight",), removed=("b.weight", "b.bias"))
    assert len(found) == 3
    assert [line.split() for line in str(found).splitlines()[1:]] == [
        ["b.weight", "there", "-"],
        ["b.bias", "there", "-"],
        ["c.weight", "-", "there"],
    ]


def test_shape_and_type() -> None:
    (weight, *_) = report(fc=nn.Linear(2, 3)).diff(report(fc=nn.Linear(3, 3).half())).changed
    assert weight.cells["shape"] == ("3x2", "3x3")
    assert weight.cells["dtype"] == ("float32", "float16")


def test_a_tie_is_found_under_any_name() -> None:
    tied = Holder(constant(1), b=nn.Linear(2, 2), a=nn.Linear(2, 2))
    tied.get_submodule("a").weight = tied.get_submodule("b").weight
    swapped = Holder(constant(1), a=tied.get_submodule("a"), b=tied.get_submodule("b"))
    first, second = init_weights(tied, seed=0).measure(), init_weights(swapped, seed=0).measure()
    assert first["a.weight"].name != second["a.weight"].name
    assert not first.diff(second)


@pytest.mark.parametrize(
    ("statistic", "factor", "tolerance", "differs"),
    [
        ("std", 1 + 1e-7, 1e-6, False),
        ("std", 1 + 1e-5, 1e-6, True),
        ("l2_norm", 1.05, 0.1, False),
        ("l2_norm", 1.2, 0.1, True),
        ("l2_norm", 1 + 1e-12, 0.0, True),
        ("mean", -1, 1e-6, True),
        ("nonfinite", 5, 1e-6, False),
    ],
)
def test_statistics_within_a_tolerance(statistic: str, factor: float, tolerance: float, differs: bool) -> None:
    before = report()
    row = before["fc.weight"]
    assert row.statistics is not None
    changed = replace(row, statistics={**row.statistics, statistic: row.statistics[statistic] * factor})
    found = before.diff(InitReport(None, [changed, *before.rows[1:]]), tolerance=tolerance)
    assert [list(change.cells) for change in found.changed] == ([[statistic]] if differs else [])


def test_a_mean_of_nearly_nothing_is_compared_with_the_size_of_the_numbers() -> None:
    before = report(constant(1))
    ones = before["fc.weight"].statistics or {}
    rows = [replace(before["fc.weight"], statistics={**ones, "mean": mean}) for mean in (1e-18, -1e-18)]
    first, second = (InitReport(None, [row, *before.rows[1:]]) for row in rows)
    assert not first.diff(second)
    assert first.diff(second, tolerance=0)


def test_nan_is_like_nan_and_unlike_numbers() -> None:
    def of(value: float) -> InitReport:
        module = Holder(constant(1), fc=nn.Linear(1, 2))
        made = init_weights(module)
        with torch.no_grad():
            module.get_parameter("fc.weight")[0] = value
        return made.measure()

    nan, inf = float("nan"), float("inf")
    assert not of(nan).diff(of(nan))
    assert not of(inf).diff(of(inf))
    assert of(inf).diff(of(-inf))
    assert of(1).diff(of(nan)).changed[0].cells["nonfinite"] == (0.0, 1.0)


def test_what_is_not_measured_is_not_compared() -> None:
    module = Holder(constant(1), fc=nn.Linear(3, 4))
    plain = init_weights(module)
    assert not plain.diff(report(constant(1)))
    assert not report(constant(1)).diff(plain)


def test_through_json() -> None:
    before = report()
    assert not before.diff(InitReport.from_json(before.to_json()), tolerance=0)


def test_digits_that_tell_numbers_apart() -> None:
    before = report()
    row = before["fc.weight"]
    changed = replace(row, statistics={**(row.statistics or {}), "max": (row.statistics or {})["max"] + 1e-6})
    line = str(before.diff(InitReport(None, [changed, *before.rows[1:]]), tolerance=0)).splitlines()[1]
    _, _, one, two = line.split()
    assert float(two) - float(one) == pytest.approx(1e-6, rel=1e-6)


@pytest.mark.parametrize("tolerance", [-1, float("nan")])
def test_a_tolerance_that_is_none(tolerance: float) -> None:
    with pytest.raises(InitError, match="tolerance: must be >= 0"):
        report().diff(report(), tolerance=tolerance)


def test_it_is_plain_data() -> None:
    change = RowChange("w", {"dtype": ("float32", "float16")})
    assert ReportDiff(changed=(change,)) == ReportDiff(changed=(RowChange("w", {"dtype": ("float32", "float16")}),))
