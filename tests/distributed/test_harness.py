"""The harness tells what every rank did, and ends what hangs."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from torch import distributed

from tests.distributed import harness
from tests.distributed.harness import run_ranks, run_script


def add_up(first: int) -> tuple[int, float, int, str | None, int]:
    total = torch.tensor([float(first + distributed.get_rank())])
    distributed.all_reduce(total)
    world = distributed.get_world_size()
    return distributed.get_rank(), total.item(), world, os.environ.get("LOCAL_RANK"), torch.get_num_threads()


def fail_on_one() -> torch.Tensor:
    if distributed.get_rank() == 1:
        message = "rank one cannot"
        raise ValueError(message)
    return torch.arange(3)


def wait_for_the_failed() -> None:
    fail_on_one()
    distributed.barrier()


HOLD = "import fcntl, sys, time; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX); time.sleep(600)"
"""A script that keeps a lock for as long as its process lives."""


def hang_on_one(lock: Path) -> str:
    if distributed.get_rank() == 1:
        subprocess.Popen([sys.executable, "-c", HOLD, str(lock)])
        time.sleep(600)
    return "done"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def return_what_cannot_be_sent() -> object:
    return lambda: None


def no_group() -> bool:
    return distributed.is_initialized()


def test_values_come_back_in_the_order_of_ranks() -> None:
    assert run_ranks(2, add_up, 10) == [(0, 21.0, 2, "0", 1), (1, 21.0, 2, "1", 1)]


def test_a_rank_that_raises_is_told_with_its_traceback() -> None:
    with pytest.raises(AssertionError, match="1 of 2 ranks failed") as failure:
        run_ranks(2, fail_on_one)
    assert "rank 1: ValueError rank one cannot" in str(failure.value)
    assert "in fail_on_one" in str(failure.value)


def test_errors_that_are_expected_are_returned() -> None:
    zero, one = run_ranks(2, fail_on_one, expect_errors=True)
    assert (zero.error, one.error, one.message) == ("", "ValueError", "rank one cannot")
    assert zero.value is not None
    assert zero.value.tolist() == [0, 1, 2]


def test_a_failure_does_not_wait_for_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "GRACE", 1.0)
    start = time.monotonic()
    with pytest.raises(AssertionError, match="2 of 2 ranks failed") as failure:
        run_ranks(2, wait_for_the_failed, deadline=100)
    assert time.monotonic() - start < 60
    assert "rank 0: Hang" in str(failure.value)


def test_a_rank_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    start = time.monotonic()
    zero, one = run_ranks(2, hang_on_one, tmp_path / "lock", deadline=5, expect_errors=True)
    assert time.monotonic() - start < 60
    assert (zero.value, one.error) == ("done", "Hang")
    assert "in hang_on_one" in one.traceback
    assert_released(tmp_path / "lock")


def test_a_rank_that_dies_is_told() -> None:
    (outcome,) = run_ranks(1, die, expect_errors=True)
    assert (outcome.error, outcome.message) == ("Exit", "the process died with code -9")


def test_a_value_that_cannot_be_pickled_is_an_error_of_its_rank() -> None:
    (outcome,) = run_ranks(1, return_what_cannot_be_sent, expect_errors=True)
    assert "pickle" in outcome.message


def test_the_group_is_optional() -> None:
    assert run_ranks(1, no_group, process_group=False) == [False]


def made_up() -> tuple[int, int, float, float]:
    return rank_zero_only.rank, torch.initial_seed(), float(np.random.rand()), random.random()  # type: ignore[attr-defined]  # noqa: NPY002, S311


def test_ranks_share_nothing_that_a_new_process_makes_up() -> None:
    """Their parent has generators and a rank, too."""
    ranks = [*run_ranks(2, made_up), *run_ranks(2, made_up)]
    assert [rank for rank, *_ in ranks] == [0, 1, 0, 1]
    for drawn in zip(*(drawn for _, *drawn in ranks), strict=True):
        assert len(set(drawn)) == 4


def variables() -> dict[str, str]:
    return dict(os.environ)


def test_ranks_have_the_environment_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever their parent was started with."""
    monkeypatch.setenv("OF_THE_FIRST", "here")
    (first,) = run_ranks(1, variables)
    monkeypatch.delenv("OF_THE_FIRST")
    monkeypatch.setenv("OF_THE_SECOND", "here")
    (second,) = run_ranks(1, variables)
    assert (first.get("OF_THE_FIRST"), first.get("OF_THE_SECOND")) == ("here", None)
    assert (second.get("OF_THE_FIRST"), second.get("OF_THE_SECOND")) == (None, "here")
    assert {key: value for key, value in second.items() if os.environ.get(key) != value}.keys() == {
        *("GLOO_SOCKET_IFNAME", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
        *("NODE_RANK", "OMP_NUM_THREADS", "RANK", "WORLD_SIZE"),
    }


def of_the_parent() -> tuple[bool, int]:
    return torch.cuda._is_in_bad_fork(), len(list(Path(f"/proc/{os.getppid()}/task").iterdir()))


@pytest.mark.skipif(sys.platform != "linux", reason="ranks are forked on Linux only")
def test_ranks_are_forked_from_a_process_that_has_done_nothing() -> None:
    assert run_ranks(1, of_the_parent) == [(False, 1)]


def test_a_script_is_run_to_its_end() -> None:
    assert run_script(["-c", "import sys; print('out'); print('err', file=sys.stderr)"]).split() == ["out", "err"]


def test_a_script_that_fails_is_told_with_its_output() -> None:
    with pytest.raises(AssertionError, match=r"ended with 3\nlast words"):
        run_script(["-c", "import sys; print('last words'); sys.exit(3)"])


def test_a_script_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    lock = str(tmp_path / "lock")
    command = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLD!r}, {lock!r}])"
    with pytest.raises(AssertionError, match="did not end within 3 s"):
        run_script(["-c", command], deadline=3)
    assert_released(tmp_path / "lock")


def assert_released(lock: Path) -> None:
    """Show that the process that took the lock has ended; it took it, or the file would not be there."""
    with lock.open("r+") as file:
        for _ in range(100):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.05)
            else:
                return
    raise AssertionError(f"{lock} is still held")
