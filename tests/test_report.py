"""The report: one row for each parameter, what was declared beside what is there, as text and as files."""

from __future__ import annotations

import copy
import csv
import gc
import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lightning_init import InitError, InitWarning, init_weights, initialize
from lightning_init.report import COLUMNS, Expected, InitReport, Row
from tests.models import Holder, constant, linear, pretrained

STATISTICS = ("mean", "std", "min", "max", "abs_mean", "l2_norm", "zero_fraction", "nonfinite")


def net() -> Holder:
    rules = [
        {"type": "Normal", "layer": "Linear", "mean": 1, "std": 0.5, "bias_prob": 0.01},
        {"type": "Uniform", "layer": "Conv2d", "a": -1, "b": 3, "bias": 2},
    ]
    return Holder(rules, fc=nn.Linear(40, 30), conv=nn.Conv2d(3, 4, 5), norm=nn.BatchNorm2d(4))


class TestRows:
    def test_one_for_each_parameter_in_order(self) -> None:
        report = init_weights(module := net())
        assert [row.name for row in report] == [name for name, _ in module.named_parameters()]
        assert len(report) == 6
        assert [row.shape for row in report][:3] == [(30, 40), (30,), (4, 3, 5, 5)]

    def test_the_declared_initializer_and_its_place(self) -> None:
        report = init_weights(net())
        row = report["fc.weight"]
        assert (row.initializer, row.source, row.written_by) == (
            "Normal(mean=1, std=0.5)",
            "Holder.init_cfg[0]",
            "Normal(mean=1, std=0.5)",
        )
        assert report["fc.bias"].initializer == "Normal(bias=-4.59512, bias_prob=0.01)"
        assert report["conv.bias"].initializer == "Uniform(bias=2)"
        assert (report["norm.weight"].initializer, report["norm.weight"].source) == (None, None)
        assert report["norm.weight"].written_by == "untouched"

    def test_what_the_law_says(self) -> None:
        report = init_weights(net())
        assert report["fc.weight"].expected == Expected(1, 0.5, -math.inf, math.inf, 3)
        assert report["conv.weight"].expected == Expected(1, 4 / math.sqrt(12), -1, 3, 1.8)
        bias = report["fc.bias"].expected
        assert bias is not None
        assert (bias.mean, bias.std, bias.low, bias.high) == pytest.approx([-math.log(99), 0, *[-math.log(99)] * 2])
        assert report["norm.weight"].expected is None

    def test_a_checkpoint_has_no_law(self, tmp_path: Path) -> None:
        report = init_weights(Holder(pretrained(tmp_path / "w.pth", {"fc.weight": 3}), fc=linear()))
        row = report["fc.weight"]
        assert row.expected is None
        assert row.initializer == f"Pretrained(checkpoint={str(tmp_path / 'w.pth')!r})"
        (coverage,) = report.checkpoints
        assert (coverage.source, coverage.loaded) == ("Holder.init_cfg", ("fc.weight",))

    def test_by_any_name_of_a_tied_parameter(self) -> None:
        module = Holder(constant(1), a=linear(), b=linear())
        module.get_submodule("b").weight = module.get_submodule("a").weight
        report = init_weights(module)
        assert report["b.weight"] is report["a.weight"]
        assert report["a.weight"].aliases == ("b.weight",)
        assert "a.weight = b.weight" in str(report)
        assert len(report) == 3

    def test_they_tell_what_was_when_the_report_was_made(self) -> None:
        report = init_weights(module := net())
        module.requires_grad_(requires_grad=False).to(torch.float64)
        module.get_submodule("fc").register_parameter("weight", None)
        made = through_pickle(report)
        del module
        gc.collect()
        for rows in (report.rows, made.rows):
            assert {(row.dtype, row.trainable, row.device) for row in rows} == {(torch.float32, True, "cpu")}
            assert "fc.weight" in [row.name for row in rows]
        assert not report.is_of(net())
        with pytest.raises(InitError, match="give one"):
            report.measure()

    def test_an_unknown_name_tells_the_nearest(self) -> None:
        with pytest.raises(KeyError, match=r"no parameter 'fc.wieght'; did you mean 'fc.weight'"):
            _ = init_weights(net())["fc.wieght"]

    def test_buffers_have_none(self, tmp_path: Path) -> None:
        tensors = {"norm.running_mean": torch.ones(1)}
        report = init_weights(Holder(pretrained(tmp_path / "w.pth", tensors), norm=nn.BatchNorm1d(1)))
        assert [row.name for row in report] == ["norm.weight", "norm.bias"]

    def test_the_seed(self) -> None:
        assert init_weights(net(), seed=3).seed == 3
        assert isinstance(init_weights(net()).seed, int)

    def test_of_a_module_that_is_initialised_already(self) -> None:
        init_weights(module := net())
        with pytest.warns(InitWarning, match="is_init"):
            report = init_weights(module)
        assert report.seed is None
        assert len(report.untouched) == 6

    def test_its_repr_counts(self) -> None:
        assert repr(init_weights(net())) == "<InitReport of 6 parameters, 2 untouched>"


def through_pickle(report: InitReport) -> Any:
    return pickle.loads(pickle.dumps(report))  # noqa: S301  # its own


class TestRowsOfAKind:
    """Layers that everybody uses have rows that are made for many of them at once."""

    def test_they_are_those_that_any_other_class_has(self) -> None:
        class Linear(nn.Linear):
            """Of the same name, and a class of its own."""

        class LayerNorm(nn.LayerNorm):
            """Likewise."""

        def rows(linear: type[nn.Linear], norm: type[nn.LayerNorm]) -> list[Row]:
            parts = {name: nn.Sequential(linear(3, 3), norm(3), linear(3, 3)) for name in "abcd"}
            parts["b"][0].weight.requires_grad = False
            parts["b"][2].bfloat16()
            parts["c"][2].weight = parts["c"][0].weight
            net = nn.ModuleDict(parts)
            rules = [
                {"type": "Normal", "layer": "Linear", "override": {"name": "d", "type": "Constant", "val": 1}},
                {"type": "Keep", "name": "a.2"},
                {"type": "Uniform", "name": "c.0.bias"},
            ]
            return list(init_weights(net, rules, seed=0))

        found = rows(nn.Linear, nn.LayerNorm)
        assert found == rows(Linear, LayerNorm)
        assert len({replace(row, name="") for row in found if row.name.endswith("0.weight")}) == 4

    @pytest.mark.parametrize("order", ["alone again shared", "again alone shared", "again shared alone"])
    def test_a_module_with_two_names_is_none_of_them(self, order: str) -> None:
        shared = nn.Linear(3, 3)
        parts = {"alone": nn.Linear(3, 3), "again": shared, "shared": shared}
        report = init_weights(nn.ModuleDict({name: parts[name] for name in order.split()}), constant(1))
        first, second = [name for name in order.split() if name != "alone"]
        assert report[f"{first}.weight"].aliases == (f"{second}.weight",)
        assert report["alone.weight"].aliases == ()


class TestMeasuring:
    def test_initialising_measures_nothing(self) -> None:
        report = init_weights(net())
        assert all(row.statistics is None for row in report)
        assert not report.is_measured
        assert set(report.totals()) == {"parameters", "elements", "untouched"}

    def test_the_numbers_are_those_of_numpy(self) -> None:
        report = init_weights(module := net(), seed=0)
        assert report.measure() is report
        for name, parameter in module.named_parameters():
            array = parameter.detach().numpy().astype(np.float64)
            statistics = report[name].statistics
            assert statistics is not None
            assert tuple(statistics) == STATISTICS
            wanted = {
                "mean": array.mean(),
                "std": array.std(ddof=1),
                "min": array.min(),
                "max": array.max(),
                "abs_mean": np.abs(array).mean(),
                "l2_norm": np.sqrt((array**2).sum()),
                "zero_fraction": (array == 0).mean(),
                "nonfinite": 0,
            }
            assert dict(statistics) == pytest.approx(wanted, rel=1e-6, abs=1e-7)

    def test_they_agree_with_what_the_law_says(self) -> None:
        row = init_weights(module := net(), seed=0).measure(module)["fc.weight"]
        assert row.statistics is not None
        assert row.expected is not None
        # Five standard errors of 1200 numbers.
        assert abs(row.statistics["mean"] - row.expected.mean) < 5 * row.expected.std / 1200**0.5
        assert abs(row.statistics["std"] - row.expected.std) < 5 * row.expected.std / 2400**0.5

    def test_as_they_are_now(self) -> None:
        report = init_weights(module := net()).measure()
        nn.init.constant_(module.get_parameter("fc.weight"), 7)
        assert report["fc.weight"].statistics != report.measure()["fc.weight"].statistics
        assert (report["fc.weight"].statistics or {})["mean"] == 7

    def test_the_type_is_brought_up_to_date(self) -> None:
        report = init_weights(module := net())
        assert report["fc.weight"].dtype is torch.float32
        assert report.measure(module.bfloat16())["fc.weight"].dtype is torch.bfloat16

    def test_another_module_may_be_given(self) -> None:
        report = init_weights(net())
        nn.init.constant_((other := net()).get_parameter("fc.weight"), 7)
        assert (report.measure(nn.DataParallel(other))["fc.weight"].statistics or {})["max"] == 7

    def test_what_does_not_exist_any_more_is_told(self) -> None:
        report = init_weights(net())
        with pytest.raises(InitError, match="give one"):
            report.measure()

    @pytest.mark.parametrize("copied", [copy.deepcopy, through_pickle])
    def test_a_copy_has_the_rows_and_no_module(self, copied: Any) -> None:
        report = init_weights(module := net(), seed=4)
        other = copied(report)
        assert other.rows == report.rows
        assert other.seed == 4
        with pytest.raises(InitError, match="give one"):
            other.measure()
        assert other.measure(module).is_measured
        assert not report.is_measured
        assert report.is_of(module)
        assert not other.is_of(module)

    def test_one_element_and_nonfinite_ones(self) -> None:
        module = Holder(fc=linear(), norm=nn.BatchNorm1d(3))
        module.get_parameter("norm.weight").data.copy_(torch.tensor([math.nan, math.inf, 3]))
        report = initialize(module, constant(2, name="fc")).measure()
        assert math.isnan((report["fc.weight"].statistics or {})["std"])
        assert (report["norm.weight"].statistics or {})["nonfinite"] == 2
        assert report.totals()["nonfinite"] == 2

    def test_a_parametrized_weight_is_measured_as_it_is_used(self) -> None:
        fc = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
        report = initialize(fc, {"type": "Normal", "layer": "Linear"}).measure()
        assert isinstance(fc.weight, torch.Tensor)
        assert (report["weight"].statistics or {})["max"] == pytest.approx(fc.weight.max().item())

    def test_what_is_on_meta_has_no_statistics(self) -> None:
        module = Holder(constant(1, name="fc"), fc=linear(), meta=nn.Linear(1, 1, device="meta"))
        report = init_weights(module).measure()
        assert report["meta.weight"].statistics is None
        assert "meta.weight" in str(report)
        assert "meta.weight" in report.to_markdown()


class TestTotals:
    def test_sums_over_the_model(self) -> None:
        report = init_weights(module := net()).measure()
        flat = torch.cat([parameter.detach().double().flatten() for parameter in module.parameters()])
        totals = report.totals()
        assert totals.pop("l2_norm") == pytest.approx(flat.norm().item())
        assert totals == {"parameters": 6, "elements": len(flat), "untouched": 2, "nonfinite": 0}

    def test_kept_is_not_untouched(self) -> None:
        report = init_weights(Holder([{"type": "Keep", "name": "fc"}], fc=linear(), other=linear()))
        assert report.totals()["untouched"] == 2
        assert report["fc.weight"].written_by == "kept"


class TestInPrint:
    def test_a_number_stands_for_each_rule_and_the_legend_explains_it(self) -> None:
        text = str(init_weights(net(), seed=5))
        lines = [" ".join(line.split()) for line in text.splitlines()]
        assert lines[:7] == [
            "parameter shape dtype written by expected mean expected std",
            "fc.weight 30x40 float32 [1] 1 0.5",
            "fc.bias 30 float32 [2] -4.595 0",
            "conv.weight 4x3x5x5 float32 [3] 1 1.155",
            "conv.bias 4 float32 [4] 2 0",
            "norm.weight 4 float32 untouched",
            "norm.bias 4 float32 untouched",
        ]
        assert lines[7] == "[1] Holder.init_cfg[0] Normal(mean=1, std=0.5)"
        assert "seed: 5" in lines
        assert lines[-1].startswith("note: 2 parameters keep their constructor's values")

    def test_what_was_measured_stands_beside_what_is_expected(self) -> None:
        module = Holder(constant(3), fc=nn.Linear(2, 2))
        report = init_weights(module, seed=5).measure()
        lines = [" ".join(line.split()) for line in str(report).splitlines()]
        assert lines[:2] == [
            "parameter shape dtype written by mean std expected mean expected std",
            "fc.weight 2x2 float32 [1] 3 0 3 0",
        ]

    def test_warnings_are_in_it(self) -> None:
        with pytest.warns(InitWarning):
            report = init_weights(Holder([constant(1), constant(1, name="nope")], fc=linear()))
        assert f"warning: {report.warnings[0]}" in str(report).splitlines()
        assert f"- warning: {report.warnings[0]}" in report.to_markdown().splitlines()

    def test_markdown_has_the_columns_with_something_in_them(self) -> None:
        module = net()
        report = init_weights(module).measure()
        lines = report.to_markdown().splitlines()
        empty = {"aliases", "kept_by"}
        assert lines[0] == f"| {' | '.join(name for name in COLUMNS if name not in empty)} |"
        assert len({line.count("|") for line in lines[:8]}) == 1
        assert lines[2].startswith(
            "| fc.weight | 30x40 | float32 | cpu | yes | Linear | Normal(mean=1, std=0.5) | Holder.init_cfg[0] | 1 |"
        )
        assert lines[6].endswith("| 0 | 0 | untouched |")

    def test_csv_keeps_all_digits(self, tmp_path: Path) -> None:
        module = net()
        report = init_weights(module, seed=0).measure()
        report.to_csv(tmp_path / "stats.csv")
        with (tmp_path / "stats.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == list(COLUMNS)
        assert [row["name"] for row in rows] == [row.name for row in report]
        for read, row in zip(rows, report, strict=True):
            assert {name: float(read[name]) for name in STATISTICS} == row.statistics
            assert read["expected_std"] == ("" if row.expected is None else str(row.expected.std))

    def test_csv_before_measuring(self, tmp_path: Path) -> None:
        report = init_weights(net())
        report.to_csv(path := tmp_path / "stats.csv")
        report.to_csv(path)
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) == 7
        assert lines[0] == (
            "name,aliases,shape,dtype,device,trainable,layer,initializer,source,kept_by,expected_mean,expected_std,"
            "mean,std,min,max,abs_mean,l2_norm,zero_fraction,nonfinite,findings"
        )

    def test_a_report_of_nothing(self) -> None:
        report = InitReport(nn.Identity(), [])
        assert str(report).splitlines() == ["parameter  shape  dtype  written by  expected mean  expected std"]
        assert report.totals() == {"parameters": 0, "elements": 0, "untouched": 0}
        assert report.measure(nn.Identity()).rows == ()

    def test_a_scalar(self) -> None:
        assert "scalar" in str(InitReport(None, [Row("scale", (), (), torch.float32)]))
