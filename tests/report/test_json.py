"""A report through JSON: the same report again, and a clear error for what is none."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_init import InitError, InitReport, InitWarning, init_weights
from lightning_init.report import COLUMNS, LayerSignal
from lightning_init.report.json_format import FORMAT, VERSION
from tests.models import Holder, constant, pretrained


def full(tmp_path: Path) -> InitReport:
    """A report with something in every field: NaN, infinities, ties, a checkpoint, a signal, other types, a warning."""
    module = Holder(
        [
            {"type": "Uniform", "layer": "Linear", "a": 1e-17, "b": 1 / 3},
            constant(1, name="nope"),
            {"type": "Keep", "name": "norm"},
            {"type": "TruncNormal", "name": "conv", "cutoff": 2},
            pretrained(tmp_path / "w.pth", {"fc.weight": torch.ones(4, 3), "extra": 1}, params="weight"),
        ],
        fc=nn.Linear(3, 4),
        twin=nn.Linear(3, 4),
        norm=nn.LayerNorm(2),
        conv=nn.Conv2d(1, 2, 3, dtype=torch.bfloat16),
        one=nn.Linear(1, 1),
        meta=nn.Embedding(2, 2, device="meta"),
    )
    module.get_submodule("twin").weight = module.get_submodule("fc").weight
    module.get_submodule("norm").register_parameter("bias", nn.Parameter(torch.tensor([math.nan, -math.inf])))
    with pytest.warns(InitWarning):
        report = init_weights(module, seed=3).measure(histograms=True)
    signal = [LayerSignal("fc", "Linear", 0, 0.5, math.inf, 0.0, math.nan)]
    rows = [replace(report.rows[0], differs_on=(1, 2), overwrites="x"), *report.rows[1:]]
    return InitReport(
        None,
        rows,
        checkpoints=report.checkpoints,
        warnings=report.warnings,
        notes=report.notes,
        seed=report.seed,
        signal=signal,
    )


def test_the_way_there_and_back_loses_nothing(tmp_path: Path) -> None:
    report = full(tmp_path)
    again = InitReport.from_json(report.to_json())
    # NaN differs from itself, but its text does not.
    for name, value in vars(report).items():
        assert repr(vars(again)[name]) == repr(value)
    assert again.findings == report.findings
    assert str(again) == str(report)
    assert again.to_json() == report.to_json()


def test_before_measuring(tmp_path: Path) -> None:
    report = init_weights(Holder(constant(2), fc=nn.Linear(2, 2)))
    again = InitReport.from_json(report.to_json())
    assert again.rows == report.rows
    assert not again.is_measured


def test_any_reader_of_json_understands_it(tmp_path: Path) -> None:
    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    document = json.loads(full(tmp_path).to_json(), parse_constant=refuse)
    assert (document["format"], document["version"], document["seed"]) == (FORMAT, VERSION, 3)
    rows = {row["name"]: row for row in document["rows"]}
    assert all(set(COLUMNS) <= set(row) for row in rows.values())
    assert rows["fc.weight"]["aliases"] == ["twin.weight"]
    assert rows["fc.weight"]["shape"] == [4, 3]
    assert rows["norm.bias"]["min"] == "NaN"
    assert rows["norm.bias"]["l2_norm"] == "NaN"
    assert rows["conv.weight"]["dtype"] == "bfloat16"
    assert rows["meta.weight"]["mean"] is None
    assert document["signal"][0]["std"] == "Infinity"
    assert {finding["code"] for finding in document["findings"]} >= {"untouched"}


def test_a_file(tmp_path: Path) -> None:
    report = full(tmp_path)
    text = report.to_json(tmp_path / "report.json")
    assert (tmp_path / "report.json").read_text(encoding="utf-8") == text
    for path in (tmp_path / "report.json", str(tmp_path / "report.json")):
        assert InitReport.from_json(path).to_json() == text


def test_a_report_of_a_file_needs_a_module_to_measure() -> None:
    module = Holder(constant(2), fc=nn.Linear(2, 2))
    again = InitReport.from_json(init_weights(module).to_json())
    with pytest.raises(InitError, match="give one"):
        again.measure()
    assert (again.measure(module)["fc.weight"].statistics or {})["mean"] == 2


MISSING = object()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, r"the text is of version 2 of lightning_init.report, and this release reads version 1"),
        ({"format": "other"}, "the text is no report"),
        ({"rows": MISSING}, "the text is broken: rows is missing"),
        ({"rows": {}}, r"rows is \{\}, and not list"),
        ({"rows": [3]}, r"rows\[0\] is 3, and not an object"),
        ({"rows.name": 3}, r"rows\[0\].name is 3, and not str"),
        ({"rows.trainable": 1}, r"rows\[0\].trainable is 1, and not bool"),
        ({"rows.shape": [True]}, r"rows\[0\].shape is \[True\], and not a list of whole numbers"),
        ({"rows.dtype": "nn"}, r"rows\[0\].dtype is 'nn', and not a type that torch .* knows"),
        ({"rows.mean": "nan"}, r"rows\[0\].mean is 'nan', and not a number"),
        ({"rows.std": None}, r"rows\[0\].std is None"),
        ({"rows.std": 10**400}, r"rows\[0\].std is a int, and not a number of double precision"),
        ({"rows.histogram": {}}, r"rows\[0\].histogram.low is missing"),
        ({"notes": [1]}, r"notes is \[1\], and not a list of strings"),
        ({"signal": [{}]}, r"signal\[0\].name is missing"),
        ({"checkpoints": [{"loaded": []}]}, r"checkpoints\[0\].missing is missing"),
        ({"seed": "0"}, "seed is '0', and not int or NoneType"),
    ],
)
def test_what_is_broken_is_told_with_its_place(change: dict[str, Any], message: str) -> None:
    report = init_weights(module := Holder(constant(2), fc=nn.Linear(2, 2)))
    document = json.loads(report.measure(module).to_json())
    for place, value in change.items():
        part, _, name = place.partition(".")
        target = document[part][0] if name else document
        if value is MISSING:
            del target[name or part]
        else:
            target[name or part] = value
    with pytest.raises(InitError, match=message):
        InitReport.from_json(json.dumps(document))


@pytest.mark.parametrize("text", ["{", '{"a": 1}', "{" * 100_000])
def test_what_is_no_report(text: str) -> None:
    with pytest.raises(InitError, match="the text is no"):
        InitReport.from_json(text)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InitError, match=r"cannot read .*nowhere.json"):
        InitReport.from_json(tmp_path / "nowhere.json")
    (tmp_path / "bits").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InitError, match=r"cannot read .*bits"):
        InitReport.from_json(str(tmp_path / "bits"))
    (tmp_path / "list.json").write_text("[]", encoding="utf-8")
    with pytest.raises(InitError, match=r"list.json' is no report"):
        InitReport.from_json(tmp_path / "list.json")


def test_a_text_that_is_neither_is_not_told_as_a_whole() -> None:
    with pytest.raises(
        InitError, match=r"^cannot read 'xxx.*\.\.\.: File name too long; a text starts with a brace$"
    ) as info:
        InitReport.from_json("x" * 100_000)
    assert len(str(info.value)) < 300
    with pytest.raises(InitError, match="this is an empty text"):
        InitReport.from_json(" ")
