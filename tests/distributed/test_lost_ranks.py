"""A rank that is killed, or later than the process group allows, ends the others with an error that names it."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import nn

from lightning_init import InitWeightsCallback, init_weights
from lightning_init.checkpoint.sources.registry import register_source
from lightning_init.distributed import rank
from tests.distributed.harness import Outcome, run_ranks
from tests.distributed.models import LitNet, fit

PROMPTLY = 15.0
"""Seconds in which the others have to end; the timeout of the process group is half an hour."""

DEADLINE = 100.0


class Killed(nn.Module):
    """Its method kills one rank, as the operating system does where memory is short."""

    def __init__(self, victim: int) -> None:
        super().__init__()
        self.victim = victim

    def init_weights(self) -> None:
        dist.barrier()
        if rank() == self.victim:
            os.kill(os.getpid(), signal.SIGKILL)


def killed_in_a_fit() -> None:
    module = LitNet()
    module.more = Killed(1)
    fit(module, InitWeightsCallback(log=()), "ddp", 2)


def _kill_the_fetching_rank(address: str, _sha256: str | None) -> Path:
    os.kill(os.getpid(), signal.SIGKILL)
    return Path(address)


def killed_while_it_fetches() -> None:
    register_source("killing")(_kill_the_fetching_rank)
    dist.barrier()
    init_weights(LitNet({"type": "Pretrained", "checkpoint": "killing://w.pth"}))


class Late(nn.Module):
    """Its method takes longer on rank one than the process group waits."""

    def init_weights(self) -> None:
        time.sleep(8 * rank())


def late() -> str:
    dist.init_process_group("gloo", timeout=timedelta(seconds=2))
    module = LitNet()
    module.more = Late()
    init_weights(module)
    return "never reached"


def other_ranks(outcomes: list[Outcome[Any]], victim: int) -> list[str]:
    """The messages of the ranks that live on."""
    assert outcomes[victim].error == "Exit", outcomes[victim]
    others = [outcome for outcome in outcomes if outcome.rank != victim]
    for outcome in others:
        assert outcome.error == "RankError", outcome
        assert outcome.seconds < PROMPTLY
    return [outcome.message for outcome in others]


def test_a_rank_that_is_killed_in_a_method_of_the_user() -> None:
    outcomes = run_ranks(2, killed_in_a_fit, process_group=False, expect_errors=True, deadline=DEADLINE)
    (message,) = other_ranks(outcomes, 1)
    assert message.startswith("the ranks lost each other in 'the initialisation': no answer from rank 1, which ended")


def test_rank_zero_is_killed_while_it_fetches() -> None:
    outcomes = run_ranks(3, killed_while_it_fetches, expect_errors=True, deadline=DEADLINE)
    for message in other_ranks(outcomes, 0):
        assert "the ranks lost each other in 'opening killing://w.pth' of 'the plan': rank 0, or whoever" in message


def test_a_rank_that_is_later_than_the_group_allows() -> None:
    zero, one = run_ranks(2, late, process_group=False, expect_errors=True, deadline=DEADLINE)
    assert (zero.error, one.error) == ("RankError", "RankError"), (zero, one)
    assert zero.message.startswith("the ranks lost each other in 'the initialisation': no answer from rank 1, which")
    assert "all ranks answer by now; one was later than the timeout of the process group allows" in one.message
    assert max(zero.seconds, one.seconds) < PROMPTLY
