"""Every finding, caused on purpose, and what looks like it but is none."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_init import InitReport, InitWarning, init_weights
from lightning_init.moments import statistics_of
from lightning_init.report import Expected, Finding, LayerSignal, Row
from lightning_init.report.tables import finding_lines
from tests.models import Holder, constant, linear, pretrained

NORMAL: dict[str, Any] = {"type": "Normal", "layer": "Linear", "std": 0.1}
BOTH = {**NORMAL, "layer": ["Linear", "Conv2d"]}
ONES = {"type": "Constant", "layer": "BatchNorm1d", "val": 1}


def found(module: nn.Module, code: str, change: Callable[[], object] = lambda: None) -> list[Finding]:
    """The findings of one kind after an initialisation and a change of the weights by other code."""
    report = init_weights(module, seed=0)
    with torch.no_grad():
        change()
    return [finding for finding in report.measure(module).findings if finding.code == code]


def fill(module: nn.Module, name: str, value: Any) -> Callable[[], object]:
    return lambda: module.get_parameter(name).copy_(torch.as_tensor(value))


def row_of(tensor: Tensor, expected: Expected | None = None, **fields: Any) -> Row:
    """A row of a tensor that a rule wrote."""
    row = Row("w", (), tuple(tensor.shape), tensor.dtype, source="init_cfg", initializer="X()", expected=expected)
    return replace(row, layer="Linear", statistics=statistics_of(tensor), **fields)


def codes(*rows: Row) -> list[tuple[str, str]]:
    return [(finding.severity, finding.code) for finding in InitReport(None, rows).findings]


class TestNonfinite:
    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_one_element_is_an_error(self, value: float) -> None:
        module = Holder(NORMAL, fc=nn.Linear(3, 2))
        (finding,) = found(module, "nonfinite", lambda: module.get_parameter("fc.weight")[0, 0].fill_(value))
        assert (finding.severity, finding.where, finding.source) == ("error", "fc.weight", "Holder.init_cfg")
        assert finding.message == "1 of its 6 elements are NaN or infinite"

    def test_a_mask_is_no_error(self) -> None:
        module = Holder(fc=nn.Linear(2, 2))
        module.mask = nn.Parameter(torch.full((2,), -math.inf), requires_grad=False)
        (finding,) = found(module, "nonfinite")
        assert finding.severity == "warning"
        asked = Expected(-math.inf, 0, -math.inf, -math.inf)
        assert codes(row_of(torch.full((2,), -math.inf), asked)) == []


class TestSymmetric:
    def test_a_model_of_nothing_but_constants_never_trains(self) -> None:
        module = Holder(constant(0.5), a=nn.Linear(4, 3), b=nn.Linear(3, 2), c=nn.Linear(2, 1))
        findings = found(module, "symmetric")
        # The units of the last layer are one.
        assert [(it.severity, it.where) for it in findings] == [("error", "a.weight"), ("error", "b.weight")]
        assert "its 3 units all start from 0.5, like those of every other layer: they stay equal" in findings[0].message
        assert findings[0].source == "Holder.init_cfg"

    def test_one_constant_among_random_ones(self) -> None:
        module = Holder([NORMAL, constant(2, name="b")], a=nn.Linear(4, 3), b=nn.Linear(3, 5), c=nn.Linear(5, 2))
        (finding,) = found(module, "symmetric")
        assert (finding.severity, finding.where, finding.source) == ("warning", "b.weight", "Holder.init_cfg[1]")
        assert "its 5 units all start from 2" in finding.message

    def test_zeros_may_be_meant_and_are_told(self) -> None:
        module = Holder([NORMAL, constant(0, name="c")], a=nn.Linear(4, 3), b=nn.Linear(3, 5), c=nn.Linear(5, 2))
        (finding,) = found(module, "symmetric")
        assert (finding.severity, finding.where) == ("info", "c.weight")

    def test_zeros_behind_zeros_get_no_gradient(self) -> None:
        module = Holder([BOTH, constant(0)], conv=nn.Conv2d(1, 2, 2), b=nn.Linear(3, 5), c=nn.Linear(5, 2))
        assert [(it.severity, it.where) for it in found(module, "symmetric")] == [
            ("warning", "b.weight"),
            ("warning", "c.weight"),
        ]

    def test_zeros_beside_zeros_are_two_heads(self) -> None:
        module = Holder([BOTH, constant(0)], conv=nn.Conv2d(1, 2, 2), b=nn.Linear(3, 5), c=nn.Linear(3, 2))
        assert [it.severity for it in found(module, "symmetric")] == ["info", "info"]

    def test_zero_convolutions_of_one_width_may_stand_side_by_side(self) -> None:
        # As in a ControlNet, which adds the output of each to a layer of the model that it steers.
        zeros = {f"zero_{i}": nn.Conv2d(8, 8, 1) for i in range(3)}
        module = Holder([{**NORMAL, "layer": "Conv2d"}, constant(0, name="zero_*")], a=nn.Conv2d(3, 8, 3), **zeros)
        assert [it.severity for it in found(module, "symmetric")] == ["info"] * 3

    def test_random_numbers_that_their_type_cannot_hold(self) -> None:
        module = Holder({**NORMAL, "std": 1e-7}, a=nn.Linear(4, 3), b=nn.Linear(3, 5)).to(torch.float8_e4m3fn)
        module.get_submodule("b").float()
        (finding,) = found(module, "symmetric")
        assert (finding.severity, finding.where) == ("warning", "a.weight")
        assert "so small that torch.float8_e4m3fn makes 0 of all of them" in finding.message

    @pytest.mark.parametrize(
        "layer",
        [
            nn.Linear(4, 1),
            nn.Embedding(3, 4),
            nn.Conv2d(4, 4, 3, groups=4),
            nn.ConvTranspose2d(4, 4, 3, groups=4),
            nn.LayerNorm((3, 3)),
            nn.PReLU(3),
            nn.ParameterDict({"pos_embed": torch.zeros(1, 5, 4), "cls_token": torch.ones(1, 1, 4)}),
            nn.LSTM(3, 1),
        ],
        ids=repr,
    )
    def test_what_is_no_symmetry(self, layer: nn.Module) -> None:
        module = Holder(NORMAL, a=nn.Linear(2, 2), layer=layer, z=nn.Linear(2, 2))
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.fill_(0.5)
        assert found(module, "symmetric", lambda: [parameter.fill_(0.5) for parameter in layer.parameters()]) == []

    @pytest.mark.parametrize(
        ("layer", "units"),
        [
            (nn.Conv2d(4, 6, 3, groups=2), 3),
            (nn.ConvTranspose2d(4, 6, 3), 6),
            (nn.Linear(1, 7), 7),
            (nn.GRUCell(2, 5), 5),
            (nn.MultiheadAttention(4, 2), 4),
            (nn.Bilinear(2, 3, 4), 4),
        ],
        ids=repr,
    )
    def test_how_many_units_are_alike(self, layer: nn.Module, units: int) -> None:
        row = init_weights(Holder(NORMAL, z=nn.Linear(2, 2), layer=layer), seed=0).rows[2]
        assert row.units == units

    def test_frozen_ones_need_no_gradient(self) -> None:
        module = Holder([NORMAL, constant(0.25, name="blur")], a=nn.Linear(2, 2), blur=nn.Conv2d(2, 2, 2))
        module.get_submodule("blur").requires_grad_(requires_grad=False)
        assert found(module, "symmetric") == []

    @pytest.mark.parametrize("fields", [{"name": "q.lora_B.default.weight"}, {"kept_by": "peft (an adapter)"}])
    def test_lora(self, fields: dict[str, Any]) -> None:
        zeros = row_of(torch.zeros(3, 2), units=3)
        assert codes(replace(zeros, **fields), row_of(torch.randn(3, 3), units=3)) == []


class TestOffExpected:
    def test_other_code_has_written_since(self) -> None:
        module = Holder({**NORMAL, "std": 0.02}, a=nn.Linear(64, 64))
        (finding,) = found(module, "off-expected", lambda: module.get_parameter("a.weight").mul_(1.2))
        assert (finding.severity, finding.where, finding.source) == ("warning", "a.weight", "Holder.init_cfg")
        assert finding.message.startswith("its std is 0.02")
        assert "and not 0.02" in finding.message
        assert "4096 numbers" in finding.message

    def test_a_mean_that_is_off(self) -> None:
        module = Holder(NORMAL, a=nn.Linear(64, 64))
        (finding,) = found(module, "off-expected", lambda: module.get_parameter("a.weight").add_(0.02))
        assert finding.message.startswith("its mean is 0.0181 and not 0, which")

    def test_a_constant_that_is_none(self) -> None:
        module = Holder([NORMAL, ONES], a=nn.Linear(3, 3), n=nn.BatchNorm1d(3))
        (finding,) = found(module, "off-expected", fill(module, "n.weight", [1.0, 1.0, 1.1]))
        assert finding.message.startswith("it is not 1 everywhere, but has a mean of 1.033 and a std of 0.0577")

    def test_beyond_the_bounds(self) -> None:
        module = Holder({"type": "TruncNormal", "layer": "Linear", "std": 0.02, "cutoff": 2}, a=nn.Linear(8, 8))
        (finding,) = found(module, "off-expected", lambda: module.get_parameter("a.weight")[0, 0].fill_(0.05))
        assert finding.message.startswith("it reaches from -0.0")
        assert "to 0.05, beyond the bounds -0.04 and 0.04" in finding.message

    def test_few_numbers_prove_little_and_many_much(self) -> None:
        law = Expected(0, 1, -math.inf, math.inf, 3)
        for n, deviation in ((4, 2.0), (100, 0.5), (10_000, 0.05), (1_000_000, 0.005)):
            # Two groups of equal numbers, of the mean and std that are wanted.
            values = torch.ones(n, dtype=torch.float64)
            values[: n // 2] = -1
            values *= math.sqrt((n - 1) / n)
            assert codes(row_of(values, law)) == []
            assert codes(row_of(values + deviation, law)) == []
            assert codes(row_of(values * (1 + deviation / 2), law)) == []
            assert codes(row_of(values + 2 * deviation, law)) == [("warning", "off-expected")]
            assert codes(row_of(values * (1 + 2.5 * deviation), law)) == [("warning", "off-expected")]

    def test_one_number_and_none(self) -> None:
        law = Expected(0, 1, -math.inf, math.inf, 3)
        assert codes(row_of(torch.tensor([4.5]), law), row_of(torch.empty(0), law)) == []
        assert codes(row_of(torch.tensor([6.0]), law)) == [("warning", "off-expected")]
        assert (
            codes(row_of(torch.tensor([1.0]), Expected(1, 0, 1, 1)), row_of(torch.empty(0), Expected(1, 0, 1, 1))) == []
        )
        assert codes(row_of(torch.tensor([2.0]), Expected(1, 0, 1, 1))) == [("warning", "off-expected")]

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2])
    def test_rounding_is_no_deviation(self, dtype: torch.dtype, seed: int) -> None:
        laws: list[dict[str, Any]] = [
            {"type": "Normal", "std": 0.02},
            {"type": "Uniform", "a": 0.1, "b": 0.7},
            {"type": "TruncNormal", "std": 0.02, "cutoff": 2},
            {"type": "Constant", "val": 0.3},
            {"type": "TruncNormal", "mean": 0, "std": 1, "a": 0, "b": 10},
        ]
        rules = [{**law, "name": f"{i}", "bias": 0.3} for i, law in enumerate(laws)]
        module = nn.Sequential(*(nn.Linear(600, 500) for _ in laws)).to(dtype)
        report = init_weights(module, rules, seed=seed).measure()
        assert [finding.where for finding in report.findings if finding.code == "off-expected"] == []
        with torch.no_grad():
            module.get_parameter("0.weight").copy_(module.get_parameter("0.weight").float() * 1.5)
        assert [it.where for it in report.measure().findings if it.code == "off-expected"] == ["0.weight"]

    def test_types_without_fractions_and_complex_ones(self) -> None:
        module = Holder({"type": "Constant", "params": "*", "val": 1})
        for name, dtype in (("i", torch.int8), ("b", torch.bool), ("c", torch.complex64), ("d", torch.float64)):
            module.register_parameter(name, nn.Parameter(torch.zeros(3, dtype=dtype), requires_grad=False))
        assert [it.where for it in found(module, "off-expected", fill(module, "i", 2))] == ["i"]

    def test_the_padding_row_is_no_deviation(self) -> None:
        module = Holder({"type": "Normal", "layer": "Embedding", "mean": 3}, e=nn.Embedding(4, 4096, padding_idx=1))
        report = init_weights(module, seed=0).measure()
        assert report.rows[0].padding == 4096
        assert report.findings == ()
        with torch.no_grad():
            module.get_parameter("e.weight").mul_(1.1)
        (finding,) = report.measure().findings
        assert finding.message.startswith("its mean is 3.29")
        assert "12288 numbers" in finding.message

    def test_laws_that_nobody_knows_are_judged_by_their_mean(self) -> None:
        unknown = Expected(0, 1, -math.inf, math.inf)
        numbers = torch.randn(5000, generator=torch.Generator().manual_seed(0))
        assert codes(row_of(numbers * 3, unknown)) == []
        assert codes(row_of(numbers + 0.2, unknown)) == [("warning", "off-expected")]
        assert codes(row_of(numbers[:10] + 9, unknown)) == []


class TestRandomScale:
    def test_by_a_rule(self) -> None:
        module = Holder(
            [NORMAL, {"type": "Normal", "layer": "BatchNorm1d", "std": 0.02}], a=nn.Linear(3, 3), n=nn.BatchNorm1d(5)
        )
        (finding,) = found(module, "random-scale")
        assert (finding.severity, finding.where, finding.source) == ("warning", "n.weight", "Holder.init_cfg[1]")
        assert "the scale of a BatchNorm1d starts from random numbers (mean 0, std 0.02)" in finding.message

    def test_by_a_method(self) -> None:
        class Net(Holder):
            def init_weights(self) -> None:
                for parameter in self.parameters():
                    nn.init.normal_(parameter, std=0.02)

        (finding,) = found(Net(a=nn.Linear(30, 3), n=nn.LayerNorm(30)), "random-scale")
        assert (finding.where, finding.source) == ("n.weight", "Net.init_weights")

    def test_by_the_name_of_its_class(self) -> None:
        class TinyRMSNorm(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.gamma = nn.Parameter(torch.ones(1, 4, 1, 1))

        class NormalHead(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.ones(4))

        rule = {"type": "Uniform", "params": ["gamma", "weight"]}
        findings = found(Holder(rule, n=TinyRMSNorm(), head=NormalHead()), "random-scale")
        assert [it.where for it in findings] == ["n.gamma"]

    def test_around_one_and_from_a_checkpoint(self, tmp_path: Path) -> None:
        slight = {"type": "Normal", "layer": "BatchNorm1d", "mean": 1, "std": 0.02}
        assert found(Holder(slight, n=nn.BatchNorm1d(9)), "random-scale") == []
        trained = pretrained(tmp_path / "w.pth", {"n.weight": torch.randn(9)})
        assert found(Holder(trained, n=nn.BatchNorm1d(9)), "random-scale") == []


class TestSources:
    def test_untouched(self) -> None:
        module = Holder(
            [NORMAL, {"type": "Keep", "name": "kept"}], a=nn.Linear(2, 2), n=nn.BatchNorm1d(2), kept=nn.PReLU()
        )
        findings = found(module, "untouched")
        assert [(it.severity, it.where) for it in findings] == [("info", "n.weight"), ("info", "n.bias")]

    def test_frozen_random(self) -> None:
        module = Holder([NORMAL, constant(1, name="b")], a=nn.Linear(2, 2), b=nn.Linear(2, 2))
        module.requires_grad_(requires_grad=False)
        (finding,) = found(module, "frozen-random")
        assert (finding.severity, finding.where, finding.source) == ("warning", "a.weight", "Holder.init_cfg[0]")

    def test_frozen_since(self) -> None:
        module = Holder(NORMAL, a=nn.Linear(2, 2))
        report = init_weights(module)
        assert not [it for it in report.findings if it.code == "frozen-random"]
        module.requires_grad_(requires_grad=False)
        assert [it.where for it in report.measure().findings if it.code == "frozen-random"] == ["a.weight"]

    def test_low_coverage(self, tmp_path: Path) -> None:
        rule = pretrained(tmp_path / "w.pth", {"a.weight": torch.ones(2, 2)})
        inner = Holder(rule, a=nn.Linear(2, 2), b=nn.Linear(2, 2))
        (finding,) = found(Holder(inner=inner), "low-coverage")
        assert (finding.severity, finding.where) == ("warning", "Holder.inner.init_cfg")
        assert "w.pth' filled 1 of the 4 parameters in its scope, without inner.a.bias" in finding.message

    def test_low_coverage_where_rules_write_the_rest(self, tmp_path: Path) -> None:
        rule = pretrained(tmp_path / "w.pth", {"a.weight": torch.ones(2, 2)})
        (finding,) = found(Holder([NORMAL, rule], a=nn.Linear(2, 2), b=nn.Linear(2, 2)), "low-coverage")
        assert finding.severity == "info"

    def test_half_of_it_is_enough(self, tmp_path: Path) -> None:
        linear: Any = nn.Linear(2, 2)
        linear.init_cfg = pretrained(tmp_path / "w.pth", {"weight": torch.ones(2, 2)})
        assert found(linear, "low-coverage") == []

    def test_overwritten_by_a_rule(self, tmp_path: Path) -> None:
        override = pretrained(tmp_path / "w.pth", {"weight": 4, "bias": 4}, name="a")
        net = Holder([constant(1, override=override), constant(2, params="bias")], a=linear(), b=linear())
        with pytest.warns(InitWarning, match="writes over weights"):
            report = init_weights(net, seed=0)
        (finding,) = [it for it in report.findings if it.code == "overwritten"]
        assert (finding.severity, finding.where, finding.source) == ("warning", "a.bias", "Holder.init_cfg[1]")
        assert finding.message == (
            "what the checkpoint of Holder.init_cfg[0].override loaded was written over by Constant(bias=2)"
        )
        assert report["a.bias"].overwrites == "Holder.init_cfg[0].override"
        assert report["a.weight"].overwrites is None

    def test_overwritten_by_code(self, tmp_path: Path) -> None:
        class Net(Holder):
            def init_weights(self) -> None:
                nn.init.ones_(self.get_parameter("child.fc.weight"))

        child = Holder(pretrained(tmp_path / "w.pth", {"fc.weight": 4, "fc.bias": 4}), fc=linear())
        with pytest.warns(InitWarning, match="over weights that the checkpoint"):
            report = init_weights(Net(child=child), seed=0)
        (finding,) = [it for it in report.findings if it.code == "overwritten"]
        assert (finding.severity, finding.where, finding.source) == ("warning", "child.fc.weight", "Net.init_weights")

    def test_a_checkpoint_over_a_checkpoint(self, tmp_path: Path) -> None:
        child = Holder(pretrained(tmp_path / "w.pth", {"fc.weight": 4, "fc.bias": 4}), fc=linear())
        net = Holder(pretrained(tmp_path / "o.pth", {"child.fc.weight": 5}), child=child)
        (finding,) = found(net, "overwritten")
        assert (finding.severity, finding.where) == ("info", "child.fc.weight")
        assert finding.message.startswith(
            "what the checkpoint of Holder.child.init_cfg loaded was written over by Pretr"
        )

    def test_over_what_a_library_has_filled(self) -> None:
        fc = linear()
        fc.weight._is_hf_initialized = True  # type: ignore[attr-defined]
        (finding,) = found(Holder(constant(2, name="fc"), fc=fc), "overwritten")
        assert (finding.severity, finding.where) == ("info", "fc.weight")
        assert "what transformers (from_pretrained) had filled" in finding.message
        fc = linear()
        fc.weight._is_hf_initialized = True  # type: ignore[attr-defined]
        with pytest.warns(InitWarning, match="has no effect"):
            assert found(Holder(constant(2, params="weight"), fc=fc), "overwritten") == []


class TestAsText:
    def test_the_worst_come_first_and_equal_ones_share_a_line(self) -> None:
        module = Holder(constant(0.5), a=nn.Linear(4, 3), b=nn.Linear(3, 2), n=nn.BatchNorm1d(2))
        report = init_weights(module).measure()
        severities = [finding.severity for finding in report.findings]
        assert severities == ["error", "error", "info", "info"]
        (line,) = [line for line in str(report).splitlines() if line.startswith("error")]
        assert line == (
            "error: 2 times a weight matrix that is all one value: a.weight, b.weight [Holder.init_cfg]; "
            "draw it at random (Kaiming, Xavier, Normal)"
        )
        assert f"- {line}" in report.to_markdown().splitlines()
        assert [record["findings"] for record in report.records()][:2] == ["symmetric", None]

    def test_each_trend_of_the_signal_keeps_its_numbers(self) -> None:
        layers = [
            LayerSignal(f"{i}", "Linear", i, 0, 0.1**i, 0, 0.1 ** (10 - i), kind="weights", units=8) for i in range(10)
        ]
        lines = finding_lines(InitReport(None, [], signal=layers).findings)
        assert [re.findall(r"std of the (\w+) shrinks from \S+ at '\d'", line) for line in lines] == [
            ["activations"],
            ["gradients"],
        ]

    def test_a_severity_is_known_before_measuring(self) -> None:
        report = init_weights(Holder(constant(0.5), a=nn.Linear(4, 3), b=nn.Linear(3, 2)))
        assert report.findings == ()


def test_every_law_is_measured_as_it_says() -> None:
    for name in ("Normal", "Uniform", "TruncNormal", "Xavier", "Kaiming", "Caffe2Xavier"):
        module = Holder({"type": name, "layer": "Linear"}, a=nn.Linear(300, 400))
        report = init_weights(module, seed=0).measure()
        expected = report["a.weight"].expected
        assert expected is not None
        assert expected.kurtosis is not None
        assert [it for it in report.findings if it.code == "off-expected"] == []
        with torch.no_grad():
            module.get_parameter("a.weight").mul_(1.03)
        assert [it.code for it in report.measure().findings] == ["off-expected"]
