"""`init_weights` on what FSDP1 has flattened: the bits of a single process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy

from lightning_init import KaimingInit, constant_init, init_weights, normal_init
from lightning_init.digests import digest
from tests.distributed.harness import run_ranks
from tests.distributed.models import Told, told
from tests.distributed.sharded import RULES, Net, whole

CPU = torch.device("cpu")


class Strided(Net):
    """`Net` with weights that stand in another order in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.conv.weight.data = self.conv.weight.data.to(memory_format=torch.channels_last)
        self.words.weight.data = self.words.weight.data.t().contiguous().t()


def flattened(*, use_orig_params: bool = True, **arguments: Any) -> FullyShardedDataParallel:
    """A net of four units, with unlike values on every rank."""
    torch.manual_seed(distributed.get_rank())
    net, given = Strided(), {"device_id": CPU, "use_orig_params": use_orig_params, **arguments}
    for name in ("wide", "conv", "noisy"):
        setattr(net, name, FullyShardedDataParallel(getattr(net, name), **given))
    return FullyShardedDataParallel(net, **given)


def gathered(module: nn.Module) -> dict[str, str]:
    """The bits of all parameters, as FSDP puts them together."""
    with FullyShardedDataParallel.summon_full_params(module, writeback=False):
        found = {name: digest([parameter]) for name, parameter in module.named_parameters()}
    return {name.replace("_fsdp_wrapped_module.", ""): bits for name, bits in found.items()}


def initialised(module: nn.Module, cfg: Any = RULES) -> tuple[dict[str, str], str, dict[str, Any]]:
    """The bits, the report, and the statistics in it."""
    report = init_weights(module, cfg, seed=7)
    told = str(report)
    measured = {row.name: row.statistics for row in report.measure(module)}
    bits = gathered(module) if isinstance(module, FullyShardedDataParallel) else whole(module)
    return bits, told, measured


class Scale(nn.Module):
    """Its output is a weight that changes with the initialisation."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(5))

    def forward(self, batch: Tensor) -> Tensor:
        return batch * self.weight


def after_a_forward() -> float:
    module = FullyShardedDataParallel(Scale(), device_id=CPU)
    with torch.no_grad():
        module(torch.ones(5))
        init_weights(module, {"type": "Constant", "params": "weight", "val": 3})
        return float(module(torch.ones(5)).sum())


def while_summoned() -> Told:
    module = flattened()
    with FullyShardedDataParallel.summon_full_params(module):
        return told(lambda: init_weights(module, RULES, seed=7))


def untouched(module: nn.Module) -> bool:
    """A failure leaves the parameters of FSDP in their places."""
    before = dict(module.named_parameters())
    bad = {"type": "Constant", "layer": "Linear", "val": 1, "override": {"name": "nowhere"}}
    outcome = told(lambda: init_weights(module, bad))
    return outcome.error == "InitConfigError" and all(p is before[n] for n, p in module.named_parameters())


def by_hand(*, use_orig_params: bool) -> tuple[Told, Told, bool, Told]:
    """The functional API on a layer and an initializer on all, and again where FSDP has gathered the weights."""
    module = flattened(use_orig_params=use_orig_params)
    # Those inside have only weights that are flat.
    inner: Any = module.module.first
    before = gathered(module)
    outside = told(lambda: normal_init(inner)), told(lambda: KaimingInit(layer="Linear")(module))
    is_unchanged = gathered(module) == before
    with FullyShardedDataParallel.summon_full_params(module):
        inside = told(lambda: constant_init(inner, 2, bias=3))
        assert bool((inner.weight == 2).all())
        assert bool((inner.bias == 3).all())
    return *outside, is_unchanged, inside


def of_all(folder: Path) -> dict[str, Any]:
    inner = flattened()
    loaded = {"type": "Pretrained", "checkpoint": str(folder / "w.pth"), "on_mismatch": "adapt"}
    return {
        "same": [
            initialised(flattened()),
            initialised(flattened(use_orig_params=False)),
            initialised(flattened(sharding_strategy=ShardingStrategy.SHARD_GRAD_OP)),
            # Each rank holds all of it.
            initialised(flattened(sharding_strategy=ShardingStrategy.NO_SHARD)),
        ],
        "loaded": [initialised(flattened(use_orig_params=kind), loaded) for kind in (True, False)],
        "after a forward pass": after_a_forward(),
        "while summoned": while_summoned(),
        "untouched": [untouched(flattened(use_orig_params=kind)) for kind in (True, False)],
        "by hand": [by_hand(use_orig_params=kind) for kind in (True, False)],
        "of a part, without originals": told(
            lambda: init_weights(flattened(use_orig_params=False).module.get_submodule("first"), RULES[0])
        ),
        "of a part": told(lambda: init_weights(inner.module, RULES)),
        "report of a part": told(lambda: init_weights(inner, RULES).measure()),
    }


def test_the_bits_of_a_single_process(tmp_path: Path) -> None:
    torch.manual_seed(5)
    values = {name: torch.randn(parameter.shape) for name, parameter in Net().named_parameters()}
    torch.save({**values, "conv.weight": torch.randn(5, 1, 3, 3)}, tmp_path / "w.pth")
    cfg = {"type": "Pretrained", "checkpoint": str(tmp_path / "w.pth"), "on_mismatch": "adapt"}
    alone, loaded = initialised(Strided()), initialised(Strided(), cfg)
    for found in run_ranks(2, of_all, tmp_path):
        for one, expected in [*((it, alone) for it in found["same"]), *((it, loaded) for it in found["loaded"])]:
            bits, report, measured = one
            assert bits == expected[0]
            assert report == expected[1]
            for name, statistics in measured.items():
                assert statistics == pytest.approx(expected[2][name], rel=1e-9, abs=1e-9, nan_ok=True), name
        assert found["after a forward pass"] == 15
        assert "is gathered by FSDP; do this outside of summon_full_params" in found["while summoned"].message
        assert found["untouched"] == [True, True]
        for layer, everything, is_unchanged, inside in found["by hand"]:
            assert layer.error == everything.error == "InitConfigError"
            assert "weight: cannot be written: it is a part of a flat parameter of FSDP" in layer.message
            assert "wide.weight: cannot be written: it is a part of a flat parameter of FSDP" in everything.message
            assert is_unchanged
            assert not inside.error
        for case in ("of a part", "of a part, without originals", "report of a part"):
            assert found[case].error == "InitError"
            assert "out of reach: give the FSDP module itself" in found[case].message


class Forked(nn.Module):
    """Its method writes another number on one rank."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 3))
        self.other = nn.Parameter(torch.zeros(4, 3))

    def init_weights(self) -> None:
        nn.init.ones_(self.other)
        nn.init.ones_(self.weight)
        if distributed.get_rank() == 2:
            self.weight.data[0] = 5


def of_a_fork() -> Told:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("copies", "shards"))
    module = FullyShardedDataParallel(
        Forked(), device_id=CPU, device_mesh=mesh, sharding_strategy=ShardingStrategy.HYBRID_SHARD
    )
    return told(lambda: init_weights(module, seed=0))


def test_replicas_of_a_range_are_compared_and_no_others() -> None:
    for outcome in run_ranks(4, of_a_fork):
        assert outcome.error == "RankError"
        assert "weight[0:12] (rank 2 against rank 0)" in outcome.message
        assert "other" not in outcome.message
