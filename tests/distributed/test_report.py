"""The report of two ranks: who holds other weights, and histograms of what is spread over both."""

from __future__ import annotations

import math

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from lightning_init import InitReport, InitWeightsCallback
from lightning_init.report import Histogram, Row
from lightning_init.sharding import local
from tests.distributed.harness import run_ranks
from tests.distributed.models import LitNet, fit


def differing(*, init_sync: bool) -> dict[str, tuple[int, ...]]:
    """Where the ranks differ in a fit whose layers were made with other numbers on every rank."""
    torch.manual_seed(torch.distributed.get_rank())
    callback = InitWeightsCallback(seed=0)
    fit(LitNet(), callback, DDPStrategy(process_group_backend="gloo", init_sync=init_sync), 2)
    assert callback.report is not None
    found = {finding.where: finding.severity for finding in callback.report.findings if finding.code == "ranks-differ"}
    assert found == {row.name: "error" for row in callback.report if row.differs_on}
    again = InitReport.from_json(callback.report.to_json())
    return {row.name: row.differs_on for row in again if row.differs_on}


def numbers() -> torch.Tensor:
    drawn = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    drawn[0, 0], drawn[4, 3] = math.nan, math.inf
    return drawn


def rows_of(module: nn.Module) -> list[Row]:
    return [Row(name, (), tuple(tensor.shape), tensor.dtype) for name, tensor in module.named_parameters()]


def spread() -> dict[str, tuple[Histogram | None, tuple[int, ...]]]:
    """The histograms of sharded and replicated tensors, and who holds other values."""
    mesh = init_device_mesh("cpu", (2,))
    module = nn.Module()
    for name, placement in (("rows", Shard(0)), ("columns", Shard(1)), ("replicas", Replicate())):
        module.register_parameter(name, nn.Parameter(distribute_tensor(numbers(), mesh, [placement])))
    module.register_parameter("own", nn.Parameter(torch.full((2,), float(torch.distributed.get_rank()))))
    with torch.no_grad():
        if torch.distributed.get_rank() == 1:
            local(module.get_parameter("replicas"))[2, 2] = 0.5
    report = InitReport(module, rows_of(module)).measure(histograms=True, compare_ranks=True)
    return {row.name: (row.histogram, row.differs_on) for row in report}


def on_each_rank() -> tuple[
    dict[str, tuple[int, ...]], dict[str, tuple[int, ...]], dict[str, tuple[Histogram | None, tuple[int, ...]]]
]:
    return differing(init_sync=False), differing(init_sync=True), spread()


def test_two_ranks() -> None:
    whole = nn.Module()
    whole.register_parameter("rows", nn.Parameter(numbers()))
    (row,) = InitReport(whole, rows_of(whole)).measure(histograms=True)
    assert row.histogram is not None
    assert sum(row.histogram.counts) == 33
    for apart, sent, found in run_ranks(2, on_each_rank):
        # What no rule writes is that of the constructor, unless DDP sends it.
        assert apart == {"plain.weight": (1,), "plain.bias": (1,)}
        assert sent == {}
        assert found["rows"] == found["columns"] == (row.histogram, ())
        assert found["replicas"][1] == (1,)
        assert found["own"][1] == (1,)
