"""Threads for pieces of work: order, cores, gradients, errors."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch

from lightning_init.workers import Workers, in_turn, one_core


@pytest.fixture(autouse=True)
def two_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers(3)
    yield made
    made.close()


def meet(barrier: threading.Barrier) -> int:
    """Returns only if as many pieces run at the same time as the barrier wants."""
    barrier.wait(10)
    return threading.get_ident()


def test_as_many_threads_as_torch_has_cores() -> None:
    assert Workers().count == 2


def test_pieces_run_side_by_side(workers: Workers) -> None:
    threads = workers.run([partial(meet, threading.Barrier(3))] * 3)
    assert len(set(threads)) == 3
    assert threading.get_ident() not in threads


def test_results_stand_in_the_order_of_the_pieces(workers: Workers) -> None:
    def late(i: int) -> int:
        time.sleep(0.02 * (3 - i))
        return i

    assert workers.run([partial(late, i) for i in range(3)]) == [0, 1, 2]
    assert workers.run(list[partial[int]]()) == []


def test_a_single_piece_stays_in_the_calling_thread(workers: Workers) -> None:
    assert workers.run([threading.get_ident]) == [threading.get_ident()]
    assert in_turn.run([threading.get_ident] * 2) == [threading.get_ident()] * 2


def test_no_gradient_is_recorded(workers: Workers) -> None:
    assert workers.run([torch.is_grad_enabled] * 2) == [False, False]
    assert in_turn.run([torch.is_grad_enabled] * 2) == [False, False]
    assert torch.is_grad_enabled()


def test_each_computes_on_one_core_and_nobody_else_is_bound_to_that(workers: Workers) -> None:
    assert workers.run([torch.get_num_threads] * 3) == [1, 1, 1]
    seen = [torch.get_num_threads()]
    other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert seen == [2, 2]
    assert workers.run([torch.get_num_threads] * 3) == [1, 1, 1]


def test_an_error_is_raised_when_nothing_runs_any_more(workers: Workers) -> None:
    begun, ended, never = threading.Barrier(3), [], []

    def fail() -> None:
        begun.wait()
        raise ValueError("of this piece")

    def slow() -> None:
        begun.wait()
        time.sleep(0.1)
        ended.append(True)

    with pytest.raises(ValueError, match="of this piece"):
        workers.run([fail, slow, slow, *[lambda: never.append(True)] * 3])
    assert ended == [True, True]
    assert not never
    assert workers.run([lambda: 1, lambda: 2]) == [1, 2]


def test_ctrl_c_ends_what_has_not_begun(workers: Workers) -> None:
    begun, ended = [], []

    def piece() -> None:
        begun.append(True)
        if len(begun) == 1:
            signal.raise_signal(signal.SIGINT)
        time.sleep(0.05)
        ended.append(True)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            workers.run([piece] * 60)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(begun) == len(ended) < 60
    assert workers.run([lambda: 1, lambda: 2]) == [1, 2]


def test_ctrl_c_while_work_is_handed_over(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []

    def piece() -> None:
        begun.append(True)
        time.sleep(0.05)

    workers.run([lambda: None] * 3)
    submit = ThreadPoolExecutor.submit
    calls = itertools.count()

    def interrupted(self: ThreadPoolExecutor, work: Callable[..., Any], *args: Any) -> Future[Any]:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return submit(self, work, *args)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        workers.run([piece] * 40)
    workers.close()
    assert len(begun) < 40


def test_a_closed_pool_leaves_no_thread_and_can_be_used_again(workers: Workers) -> None:
    def ours() -> int:
        return sum(thread.name.startswith("lightning_init") for thread in threading.enumerate())

    before = ours()
    workers.run([lambda: None] * 2)
    assert ours() == before + 3
    workers.close()
    assert ours() == before
    assert workers.run([lambda: 1] * 2) == [1, 1]


def test_threads_that_cannot_all_start_do_not_wait_for_ever(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under a limit on the number of threads, or a Ctrl-C at this moment."""
    start = threading.Thread.start
    left = [True]

    def limited(self: threading.Thread) -> None:
        if not left:
            raise RuntimeError("can't start new thread")
        left.pop()
        start(self)

    before = set(threading.enumerate())
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", limited)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            workers.run([lambda: None] * 2)
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive()
    assert torch.get_num_threads() == 2
    assert workers.run([lambda: 1] * 2) == [1, 1]


def test_one_core_is_given_back_after_an_error() -> None:
    def fail() -> None:
        with one_core():
            assert torch.get_num_threads() == 1
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    assert torch.get_num_threads() == 2
