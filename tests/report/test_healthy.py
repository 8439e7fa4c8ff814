"""No false alarm: models that start well have no errors and no warnings, and nothing is told that is not so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lightning_init import init_weights
from tests.report.healthy import HEALTHY


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", HEALTHY.values(), ids=HEALTHY)
def test_healthy_models_raise_no_alarm(make: Callable[[], Any], dtype: torch.dtype) -> None:
    for seed in range(4):
        model = make().to(dtype)
        report = init_weights(model, seed=seed).measure()
        alarms = [str(finding) for finding in report.findings if finding.severity != "info"]
        assert alarms == []
        # What is told besides is true.
        for finding in report.findings:
            assert finding.code in {"untouched", "symmetric"}
            weight = dict(model.named_parameters())[finding.where]
            assert finding.code == "untouched" or not weight.any()


def test_what_zeros_are_told_of() -> None:
    zeros = {"resnet": ["adapter.1.weight", "boxes.weight"], "vit": ["head.weight"]}
    for name, make in HEALTHY.items():
        findings = init_weights(model := make(), seed=0).measure(model).findings
        assert [finding.where for finding in findings if finding.code == "symmetric"] == zeros.get(name, [])


def test_models_without_weights() -> None:
    buffers = nn.BatchNorm2d(3, affine=False)
    for model in (nn.Identity(), buffers):
        with pytest.warns(UserWarning, match="Linear"):
            report = init_weights(model, {"type": "Normal", "layer": "Linear"}).measure()
        assert report.findings == ()
        assert len(report) == 0
        assert report.to_json()
        assert report.to_markdown().startswith("| name |")
