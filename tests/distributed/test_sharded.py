"""Parameters that are spread over ranks get the bits that they have in a single process."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.profiler import ProfilerActivity, profile

from lightning_init import INITIALIZERS, KaimingInit, WeightStatistics, init_weights, skip_default_init
from lightning_init.engine import execute
from lightning_init.initializers.base import TensorInitializer
from lightning_init.initializers.fill import fill_
from lightning_init.initializers.laws import NormalLaw
from lightning_init.ledger import Ledger, Written
from lightning_init.moments import statistics_of
from lightning_init.rng import BLOCK, Stream
from lightning_init.settings import Settings, Sync
from lightning_init.tree import Tree
from tests.checkpoint.folders_of_torch import save
from tests.distributed.harness import run_ranks
from tests.distributed.models import Told, told
from tests.distributed.sharded import RULES, SHARDINGS, Net, Noisy, built, possible, whole


def initialised(sharding: str | None, on_meta: bool = False) -> tuple[dict[str, str], str]:
    """The bits of all parameters, and the report."""
    net = built(sharding, on_meta=on_meta)
    report = init_weights(net, RULES, seed=7)
    return whole(net), str(report)


def left_out(sharding: str | None) -> tuple[dict[str, str], str]:
    """The same of layers whose constructors left numbers out: some ranks hold no end of a weight, or nothing of it."""
    with skip_default_init():
        net = nn.Sequential(nn.Linear(3, 1), nn.Linear(3, 9))
    if sharding is not None:
        SHARDINGS[sharding](net)
    report = init_weights(net, {"type": "Constant", "name": "1", "params": "bias", "val": 2}, seed=7)
    return whole(net), str(report)


def of_every_sharding(ranks: int) -> dict[str, tuple[dict[str, str], str]]:
    found = {name: initialised(name, on_meta=i % 2 == 0) for i, name in enumerate(possible(ranks))}
    return {**found, "left out": left_out("fsdp")}


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_bits_of_a_single_process(ranks: int) -> None:
    alone = initialised(None)
    for found in run_ranks(ranks, of_every_sharding, ranks):
        assert found == {**dict.fromkeys(possible(ranks), alone), "left out": left_out(None)}


def drawn_and_largest() -> tuple[list[int], list[int], int]:
    mesh = init_device_mesh("cpu", (2,))
    rows, columns = (distribute_tensor(torch.zeros(1024, 4096), mesh, [Shard(dim)]) for dim in (0, 1))
    drawn: tuple[list[int], list[int]] = [], []
    for tensor, blocks in zip((rows, columns), drawn, strict=True):

        def generators(block: int, tensor: Tensor = tensor, blocks: list[int] = blocks) -> torch.Generator:
            blocks.append(block)
            return Stream(0, "w").generator(block)

        fill_(tensor, NormalLaw(0, 1), generators)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as told:
        fill_(columns, NormalLaw(0, 1), Stream(0, "w").generator)
    return *drawn, max(event.cpu_memory_usage for event in told.events())


def test_a_rank_draws_the_blocks_of_its_share_one_at_a_time() -> None:
    for rank, (rows, columns, largest) in enumerate(run_ranks(2, drawn_and_largest)):
        assert rows == list(range(8 * rank, 8 * rank + 8))
        assert columns == list(range(16))
        # What is allocated at once: the buffer of one block; the share has eight times that.
        assert largest < 1.1 * 4 * BLOCK


class Forked(nn.Module):
    """Its method writes other numbers on one rank, to one row."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 3))
        self.other = nn.Parameter(torch.zeros(4, 3))

    def init_weights(self) -> None:
        nn.init.ones_(self.other)
        nn.init.ones_(self.weight)
        if distributed.get_rank() == 3:
            self.weight.data[2] = 5


def of_a_fork(kind: str) -> Told:
    module = Forked()
    SHARDINGS[kind](module)
    return told(lambda: init_weights(module, seed=0))


def test_replicas_of_a_share_are_compared_and_no_others() -> None:
    for outcome in run_ranks(4, of_a_fork, "hybrid"):
        assert outcome.error == "RankError"
        assert "weight[2:4,0:3] (rank 3 against rank 1)" in outcome.message
        assert "other" not in outcome.message


def digested(kinds: list[str]) -> dict[str, list[str]]:
    """The names of what ranks compare, of shardings."""
    found = {}
    for kind in kinds:
        module = Forked()
        SHARDINGS[kind](module)
        ledger = Ledger(Settings(), written=dict.fromkeys(("weight", "other"), Written("a method")))
        whole, shares = ledger.digests(Tree(module))
        assert set(whole.values()) == {"spread over ranks"}
        found[kind] = sorted(shares)
    return found


def test_a_share_that_no_other_rank_holds_is_not_looked_at() -> None:
    for found in run_ranks(2, digested, ["fsdp", "columns", "replicated"]):
        assert found == {"fsdp": [], "columns": [], "replicated": ["other[0:4,0:3]", "weight[0:4,0:3]"]}


class Failing(nn.Module):
    """Its method fails on one rank, while the others go on to gather the next module."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 3))

    def init_weights(self) -> None:
        if distributed.get_rank() == 1:
            raise KeyError("of the user")


def of_a_failure() -> Told:
    module = nn.Sequential(Failing(), Noisy())
    SHARDINGS["fsdp"](module)
    before = dict(module.named_parameters())
    outcome = told(lambda: init_weights(module, seed=0))
    assert all(parameter is before[name] for name, parameter in module.named_parameters())
    return outcome


def test_a_method_that_fails_on_one_rank_ends_all() -> None:
    first, second = run_ranks(2, of_a_failure)
    assert first.error == "RankError"
    assert "KeyError: 'of the user'" in first.message
    assert second.error == "KeyError"


@INITIALIZERS.register("WholeAloneForTests")
@dataclass(frozen=True)
class AloneInit(TensorInitializer):
    """Counts how many whole tensors are there at once."""

    concurrent: ClassVar[bool] = True
    now: ClassVar[list[None]] = []
    most: ClassVar[int] = 0

    def fill(self, tensor: Tensor, fans: Any, generator: torch.Generator | None) -> None:
        self.now.append(None)
        type(self).most = max(self.most, len(self.now))
        time.sleep(0.05)
        tensor.zero_()
        self.now.pop()


def of_whole_tensors() -> int:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    SHARDINGS["fsdp"](net)
    torch.set_num_threads(2)
    init_weights(net, {"type": "WholeAloneForTests", "layer": "Linear"}, seed=0)
    return AloneInit.most


def test_what_needs_a_whole_tensor_makes_one_at_a_time() -> None:
    assert run_ranks(1, of_whole_tensors) == [1]


def of_functional() -> Told:
    net = built("fsdp")
    return told(lambda: KaimingInit(layer="Linear")(net))


def test_what_draws_from_the_generators_of_ranks_is_refused() -> None:
    (outcome,) = run_ranks(1, of_functional)
    assert outcome.error == "InitConfigError"
    assert "wide.weight: cannot be written: it is spread over ranks" in outcome.message


def of_a_parametrized_one() -> Told:
    module = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
    SHARDINGS["fsdp"](module)
    return told(lambda: init_weights(module, {"type": "Normal", "layer": "Linear"}, seed=0))


def test_a_parametrized_one_is_refused() -> None:
    (outcome,) = run_ranks(1, of_a_parametrized_one)
    assert outcome.error == "InitConfigError"
    assert "cannot write '0.weight': it is parametrized" in outcome.message


def fill_the_file(path: Path, kind: str) -> Path:
    torch.manual_seed(5)
    values = {name: torch.randn(parameter.shape) for name, parameter in Net().named_parameters()}
    # Another shape, for an adapter; and a padding row that is not zero, which counts.
    values["conv.weight"] = torch.randn(5, 1, 3, 3)
    if kind == "folder":
        save(values, path)
    elif kind == "safetensors":
        save_file(values, path)
    else:
        torch.save(values, path)
    return path


def loaded(sharding: str | None, path: Path, sync: Sync) -> tuple[dict[str, str], str]:
    net = built(sharding)
    cfg = {"type": "Pretrained", "checkpoint": path, "on_mismatch": "adapt"}
    report = execute(net, Settings(seed=0, sync=sync), init_cfg=cfg)
    return whole(net), str(report)


def loaded_everywhere(ranks: int, paths: list[Path]) -> dict[str, tuple[dict[str, str], str]]:
    # Every sharding with one kind of file and one way to read it.
    return {
        name: loaded(name, paths[i % 3], "broadcast" if i in (1, 2) else "rank_zero_first")
        for i, name in enumerate(possible(ranks))
    }


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_checkpoint_gives_every_rank_its_share(tmp_path: Path, ranks: int) -> None:
    paths = [fill_the_file(tmp_path / f"w.{kind}", kind) for kind in ("folder", "safetensors", "pth")]
    alone = [loaded(None, path, "rank_zero_first") for path in paths]
    for found in run_ranks(ranks, loaded_everywhere, ranks, paths):
        assert found == {name: alone[i % 3] for i, name in enumerate(possible(ranks))}


def measured_by_a_metric() -> dict[str, dict[str, float]]:
    net = built("fsdp")
    init_weights(net, RULES, seed=7)
    metric = WeightStatistics()
    metric.update(dict(net.named_parameters()))
    found: dict[str, dict[str, float]] = metric.compute()
    return found


def test_a_metric_measures_the_whole() -> None:
    net = built(None)
    init_weights(net, RULES, seed=7)
    expected = {name: statistics_of(parameter) for name, parameter in net.named_parameters()}
    for found in run_ranks(2, measured_by_a_metric):
        assert found.keys() == expected.keys()
        for name, values in found.items():
            assert values == pytest.approx(expected[name], rel=1e-9, abs=1e-9), name
