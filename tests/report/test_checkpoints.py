"""A report of the weights in a file, read one tensor at a time."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lightning_init import CheckpointError, InitReport, PretrainedInit, init_weights
from lightning_init.moments import statistics_of
from lightning_init.report import report_of_checkpoint
from tests.models import Holder


def net() -> Holder:
    layers = {"fc": nn.Linear(3, 4), "norm": nn.BatchNorm1d(4), "head": nn.Linear(2, 2)}
    return Holder({"type": "Normal", "layer": "Linear"}, **layers)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w.ckpt"])
def test_every_tensor_has_a_row(tmp_path: Path, name: str) -> None:
    module = net()
    module.get_submodule("head").half()
    report = init_weights(module, seed=0).measure()
    state = module.state_dict()
    if name == "w.safetensors":
        save_file(state, tmp_path / name)
    else:
        torch.save({"state_dict": state} if name == "w.ckpt" else state, tmp_path / name)
    found = report_of_checkpoint(PretrainedInit(tmp_path / name), histograms=True)
    assert sorted(row.name for row in found) == sorted(state)
    for row in found:
        assert (row.shape, row.dtype) == (tuple(state[row.name].shape), state[row.name].dtype)
        assert repr(row.statistics) == repr(statistics_of(state[row.name]))
        assert row.histogram is not None
        assert (row.source, row.kept_by, row.layer, row.written_by) == (None, None, "", "file")
    assert found.findings == ()
    assert found.untouched == []
    assert report.diff(found).changed == ()
    assert InitReport.from_json(found.to_json()).to_json() == found.to_json()
    assert "untouched" not in str(found)


def test_findings_that_statistics_alone_give(tmp_path: Path) -> None:
    tensors = {
        "a.weight": torch.randn(3, 3),
        "b.weight": torch.full((3, 3), 2.0),
        "c.weight": torch.tensor([[math.nan, 1], [2, 3]]),
        "pos_embed": torch.zeros(1, 4, 3),
        "d.weight": torch.ones(4),
    }
    torch.save(tensors, tmp_path / "w.pth")
    report = report_of_checkpoint(PretrainedInit(tmp_path / "w.pth"))
    found = [(finding.severity, finding.code, finding.where) for finding in report.findings]
    assert found == [("error", "nonfinite", "c.weight"), ("warning", "symmetric", "b.weight")]


def test_what_cannot_be_measured_is_listed(tmp_path: Path) -> None:
    torch.save({"q": torch.zeros(3, dtype=torch.uint8).view(torch.bits8)}, tmp_path / "w.pth")
    (row,) = report_of_checkpoint(PretrainedInit(tmp_path / "w.pth"), histograms=True)
    assert (row.dtype, row.statistics, row.histogram) == (torch.bits8, None, None)


def test_which_keys_are_meant(tmp_path: Path) -> None:
    tensors = {"model.net.fc.weight": torch.ones(2), "model.net.fc.bias": torch.ones(1), "other": torch.ones(1)}
    torch.save({"ema": tensors, "state_dict": {}}, tmp_path / "w.pth")
    rule = PretrainedInit(tmp_path / "w.pth", container="ema", prefix="model", exclude="**.bias", into="it")
    found = report_of_checkpoint(rule)
    assert [row.name for row in found] == ["it.net.fc.weight"]


def test_two_files(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(3), "gone": torch.ones(1)}, tmp_path / "a.pth")
    torch.save({"w": torch.tensor([1, 1, 2.0]), "new": torch.ones(1)}, tmp_path / "b.pth")
    found = report_of_checkpoint(PretrainedInit(tmp_path / "a.pth")).diff(
        report_of_checkpoint(PretrainedInit(tmp_path / "b.pth"))
    )
    assert (found.added, found.removed, [change.name for change in found.changed]) == (("new",), ("gone",), ["w"])


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        report_of_checkpoint(PretrainedInit(tmp_path / "nowhere.pth"))
