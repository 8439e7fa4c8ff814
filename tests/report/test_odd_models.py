"""Models that are hardly any: every parameter has a row, and every format holds it."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_init import InitReport, init_weights
from lightning_init.report import COLUMNS

NAMES = ["a/b", "c[0]", "d|e", 'f"g', "h, i; j", "k'l", "[red]m", "ünï", "n" * 300, "o\np", "  q ", "<r>", "s\x1b[31m"]

TENSORS = {
    "empty": torch.empty(0, 3),
    "scalar": torch.tensor(2.0),
    "integers": torch.arange(4),
    "flags": torch.tensor([True, False]),
    "complex": torch.tensor([3 + 4j, 0]),
    "float8": torch.ones(2, 2).to(torch.float8_e5m2),
    "sixteen": torch.ones(3, dtype=torch.float16),
    "sparse": torch.eye(3).to_sparse(),
    "meta": torch.empty(2, 2, device="meta"),
}


class Odd(nn.Module):
    """Parameters of every type and of every name, some of them below a module of such a name."""

    init_cfg = {"type": "Normal", "layer": "Linear"}  # noqa: RUF012  # as users write it

    def __init__(self) -> None:
        super().__init__()
        for name, tensor in TENSORS.items():
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=tensor.is_floating_point()))
        self.named = nn.ModuleDict({name: nn.Linear(1, 2) for name in NAMES})


@pytest.fixture(scope="module")
def report() -> InitReport:
    module = Odd()
    return init_weights(module, seed=0).measure(module, histograms=True, compare_ranks=True)


def test_what_has_values_is_measured(report: InitReport) -> None:
    measured = {name for name in TENSORS if report[name].statistics is not None}
    assert measured == set(TENSORS) - {"sparse", "meta"}
    statistics = report["complex"].statistics or {}
    assert (statistics["mean"], statistics["max"]) == (2.5, 5.0)
    assert (report["empty"].statistics or {})["l2_norm"] == 0
    assert {row.name for row in report if row.histogram is None} == {"sparse", "meta", "empty"}
    assert [str(finding) for finding in report.findings if finding.severity != "info"] == []


def test_json_holds_them(report: InitReport) -> None:
    again = InitReport.from_json(report.to_json())
    assert [row.name for row in again] == [row.name for row in report]
    assert again.to_json() == report.to_json()
    assert not report.diff(again, tolerance=0)


def test_csv_holds_them(report: InitReport, tmp_path: Path) -> None:
    report.to_csv(tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [row.name for row in report]
    assert all(list(row) == list(COLUMNS) for row in rows)


def test_tables_keep_their_lines(report: InitReport) -> None:
    table, _, _ = report.to_markdown().partition("\n\n")
    assert len(table.splitlines()) == len(report) + 2
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    rows = str(report).splitlines()[1 : len(report) + 1]
    assert all(row.name.split("\n")[0].split("\x1b")[0] in line for row, line in zip(report, rows, strict=True))
    # Whoever looks at the weights of others does not let these write to the terminal.
    assert "\x1b" not in str(report)


def test_ten_thousand_parameters() -> None:
    module = nn.Module()
    module.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(5000))
    report = init_weights(module, {"type": "Normal", "layer": "Linear"}, seed=0).measure(module)
    assert len(report) == 10_000
    assert report.findings == ()
    assert all(report[row.name] is row for row in report)
    assert len(str(report).splitlines()) == 10_000 + 1 + 2 + 1
    assert len(report.to_markdown().splitlines()) == 10_000 + 2
