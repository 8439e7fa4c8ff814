"""Histograms against NumPy's, on the float64 values, for every type and layout that can be measured."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_init import init_weights
from lightning_init.moments import moments_of_all
from lightning_init.report.histograms import BINS, Histogram, histograms_of_all
from tests.models import Holder, constant

CHUNK = 2**18


def histogram(tensor: Tensor) -> Histogram | None:
    return histograms_of_all({"t": tensor}, moments_of_all({"t": tensor})).get("t")


def reference(tensor: Tensor) -> Histogram:
    values = (tensor.to(torch.complex128).abs() if tensor.is_complex() else tensor.double()).numpy().ravel()
    values = values[np.isfinite(values)]
    counts, _ = np.histogram(values, BINS, (values.min(), values.max()))
    return Histogram(float(values.min()), float(values.max()), tuple(counts.tolist()))


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "tensor",
    [
        pytest.param(normal(1000).to(dtype), id=str(dtype))
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int8)
    ]
    + [
        pytest.param(normal(100) > 0, id="bool"),
        pytest.param(torch.view_as_complex(normal(500, 2)), id="complex"),
        pytest.param(torch.arange(65), id="on the edges"),
        pytest.param(normal(CHUNK + 5), id="two chunks"),
        pytest.param(normal(300, 7).t()[::2, 3:], id="strided"),
        pytest.param(torch.cat([normal(CHUNK), torch.tensor([math.nan, math.inf, -math.inf, 9.0])]), id="nonfinite"),
    ],
)
def test_counts_are_numpys(tensor: Tensor) -> None:
    assert histogram(tensor) == reference(tensor)


def test_the_edges_are_numpys() -> None:
    found = histogram(tensor := normal(100))
    assert found is not None
    np.testing.assert_allclose(found.edges, np.histogram_bin_edges(tensor.numpy(), BINS), rtol=1e-14, atol=1e-16)
    assert (found.edges[0], found.edges[-1]) == (found.low, found.high)


def test_a_constant_has_one_bin() -> None:
    found = histogram(torch.tensor([0.1, 0.1, math.nan], dtype=torch.float64))
    assert found == Histogram(0.1, 0.1, (2,))
    assert found.edges == (0.1, 0.1)


@pytest.mark.parametrize("numbers", [[-1.7e308, 0.0, 1.7e308], [-1e-323, 0.0, 1e-323]])
def test_ranges_that_cannot_be_divided(numbers: list[float]) -> None:
    found = histogram(torch.tensor(numbers, dtype=torch.float64))
    assert found is not None
    assert {i: count for i, count in enumerate(found.counts) if count} == {0: 1, BINS // 2: 1, BINS - 1: 1}
    assert all(math.isfinite(edge) for edge in found.edges)


@pytest.mark.parametrize("tensor", [torch.empty(0, 3), torch.tensor([math.nan, math.inf])])
def test_without_a_finite_value_there_is_none(tensor: Tensor) -> None:
    assert histogram(tensor) is None


def test_a_report_has_them_if_they_are_asked_for() -> None:
    module = Holder(constant(2, name="fc"), fc=nn.Linear(2, 3), meta=nn.Linear(1, 1, device="meta"))
    report = init_weights(module)
    assert report.measure()["fc.weight"].histogram is None
    assert report.measure(histograms=True)["fc.weight"].histogram == Histogram(2, 2, (6,))
    assert report["meta.weight"].histogram is None
    assert report.measure()["fc.weight"].histogram is None
