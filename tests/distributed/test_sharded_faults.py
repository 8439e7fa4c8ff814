"""What a rank does wrong under ``ModelParallelStrategy`` ends all of them, promptly, with cause and rank."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn

from lightning_init import InitWeightsCallback
from lightning_init.checkpoint.sources.registry import register_source
from lightning_init.distributed import rank
from tests.distributed.harness import run_ranks
from tests.distributed.models import Told, loader, told, trainer
from tests.distributed.sharded import whole
from tests.distributed.test_lost_ranks import DEADLINE, PROMPTLY, Killed, Late, other_ranks
from tests.distributed.test_model_parallel import ShardedNet
from tests.distributed.test_rank_faults import NanOnRankInit, normal, pretrained

MESHES = {"fsdp2": (2, 1), "tensor": (1, 2)}


def fit(kind: str, module: ShardedNet, **arguments: Any) -> dict[str, str]:
    data, tensor = MESHES[kind]
    strategy = ModelParallelStrategy(data_parallel_size=data, tensor_parallel_size=tensor, **arguments)
    trainer(strategy=strategy, devices=2, callbacks=[InitWeightsCallback(seed=5, log=())]).fit(module, loader())
    return whole(module)


class Raises(nn.Module):
    """Its method fails on one rank, behind the gathering of its weights and before that of others."""

    def __init__(self, failing: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 3))
        self.failing = failing

    def init_weights(self) -> None:
        nn.init.ones_(self.weight)
        if rank() == self.failing:
            raise ZeroDivisionError("by zero")


def with_more(more: nn.Module) -> ShardedNet:
    module = ShardedNet([normal()])
    # Sharded with the root.
    module.more = more
    return module


def code_that_fails(kind: str, failing: int, folder: Path) -> object:
    return fit(kind, with_more(Raises(failing)))


def another_config(kind: str, folder: Path) -> object:
    return fit(kind, ShardedNet([normal(std=(0.1, 0.2)[rank()])]))


def another_checkpoint(kind: str, folder: Path) -> object:
    return fit(kind, ShardedNet([normal(), pretrained(f"of-rank://{folder}")]))


def left_out(kind: str, on: int) -> object:
    """One rank has made its layers without numbers."""
    return fit(kind, ShardedNet([normal()], left_out=rank() == on))


def a_nan(kind: str, folder: Path) -> object:
    assert NanOnRankInit.__name__ == "NanOnRankInit"
    return fit(kind, ShardedNet([{"type": "NanOnRankForTests", "name": "plain", "ranks": [1]}]))


def nothing(kind: str, folder: Path) -> object:
    return fit(kind, ShardedNet([normal()]))


CASES: dict[str, Callable[..., object]] = {
    "code on 0": lambda kind, folder: code_that_fails(kind, 0, folder),
    "code on 1": lambda kind, folder: code_that_fails(kind, 1, folder),
    "config": another_config,
    "checkpoint": another_checkpoint,
    "left out on 0": lambda kind, folder: left_out(kind, 0),
    "left out on 1": lambda kind, folder: left_out(kind, 1),
    "nan": a_nan,
    "afterwards": nothing,
}


def _of_rank(address: str, _sha256: str | None) -> Path:
    return Path(address.removeprefix("of-rank://")) / f"{rank()}.pth"


def run_cases(folder: Path) -> dict[str, Told]:
    register_source("of-rank")(_of_rank)
    return {f"{kind}: {case}": told(partial(run, kind, folder)) for kind in MESHES for case, run in CASES.items()}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Told]]:
    folder = tmp_path_factory.mktemp("checkpoints")
    for i in range(2):
        # Under FSDP2 no two ranks hold the same element of `plain`, under tensor parallel each holds all.
        torch.save({"plain.bias": torch.full((2,), float(i)), "noisy.noise": torch.ones(7)}, folder / f"{i}.pth")
    return run_ranks(2, run_cases, folder, process_group=False, deadline=110)


def failed(ranks: list[dict[str, Told]], case: str) -> list[tuple[str, str]]:
    found = [outcomes[case] for outcomes in ranks]
    assert all(outcome.seconds < PROMPTLY for outcome in found), found
    return [(outcome.error, outcome.message) for outcome in found]


@pytest.mark.parametrize("kind", MESHES)
class TestFaults:
    @pytest.mark.parametrize("failing", [0, 1])
    def test_code_of_the_user_that_fails_on_one_rank(
        self, ranks: list[dict[str, Told]], kind: str, failing: int
    ) -> None:
        found = failed(ranks, f"{kind}: code on {failing}")
        assert found[failing] == ("ZeroDivisionError", "by zero")
        error, message = found[1 - failing]
        assert error == "RankError"
        assert message.startswith(f"rank {failing} failed in ")
        assert "ZeroDivisionError: by zero" in message

    def test_another_config(self, ranks: list[dict[str, Told]], kind: str) -> None:
        zero, one = failed(ranks, f"{kind}: config")
        assert zero == one
        assert zero[0] == "RankError"
        assert "the plan of the initialisation differs between ranks" in zero[1]
        assert "head.weight (rank 1 against rank 0)" in zero[1]

    def test_another_checkpoint_shows_though_each_rank_reads_its_share(
        self, ranks: list[dict[str, Told]], kind: str
    ) -> None:
        zero, one = failed(ranks, f"{kind}: checkpoint")
        assert zero == one
        assert zero[0] == "RankError"
        assert "different weights after the initialisation: plain.bias (rank 1 against rank 0)" in zero[1]
        assert "noise" not in zero[1]

    @pytest.mark.parametrize("on", [0, 1])
    def test_one_rank_whose_constructors_left_numbers_out(
        self, ranks: list[dict[str, Told]], kind: str, on: int
    ) -> None:
        for error, message in failed(ranks, f"{kind}: left out on {on}"):
            assert error == "RankError"
            assert "of 'the plan'" in message, message

    def test_a_nan_is_told_with_its_rule_and_rank(self, ranks: list[dict[str, Told]], kind: str) -> None:
        for error, message in failed(ranks, f"{kind}: nan"):
            assert error == "InitConfigError"
            assert "NaN" in message
            assert "plain.weight" in message

    def test_the_ranks_are_in_step_afterwards(self, ranks: list[dict[str, Told]], kind: str) -> None:
        zero, one = (outcomes[f"{kind}: afterwards"] for outcomes in ranks)
        assert zero.error == one.error == ""
        assert zero.value["head.weight"] == one.value["head.weight"]


def killed() -> None:
    fit("fsdp2", with_more(Killed(1)))


def late() -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=2))
    fit("fsdp2", with_more(Late()), timeout=timedelta(seconds=2))


def test_a_rank_that_is_killed() -> None:
    outcomes = run_ranks(2, killed, process_group=False, expect_errors=True, deadline=DEADLINE)
    (message,) = other_ranks(outcomes, 1)
    assert message.startswith("the ranks lost each other in ")
    assert "no answer from rank 1, which ended" in message


def test_a_rank_that_is_later_than_the_group_allows() -> None:
    zero, one = run_ranks(2, late, process_group=False, expect_errors=True, deadline=DEADLINE)
    assert (zero.error, one.error) == ("RankError", "RankError"), (zero, one)
    assert "no answer from rank 1, which" in zero.message
    assert max(zero.seconds, one.seconds) < PROMPTLY
