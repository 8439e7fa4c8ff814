"""Threads for work that is cut into pieces, such as blocks of random numbers and chunks of statistics.

What a piece gives never depends on which thread does it, nor on how many there are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from numbers import Integral
from operator import itemgetter
from typing import Generic, TypeVar

import torch

from lightning_init.errors import InitError
from lightning_init.gradients import no_gradients

__all__ = ["Workers", "in_turn", "one_core"]

T = TypeVar("T")

_PATIENCE = 0.5
"""Seconds."""


class Workers:
    """A pool of threads, each of which computes on one core.

    It starts its threads when there is work for two, and ends them when it is closed. A forked process must not use the
    pool of its parent.

    Args:
        count: The number of threads; by default that of torch (`torch.get_num_threads`). One means the calling thread.

    Raises:
        InitError: That is no number of threads.
    """

    def __init__(self, count: int | None = None) -> None:
        if count is not None and (isinstance(count, bool) or not isinstance(count, Integral) or count < 1):
            raise InitError(f"threads: must be an integer from 1 on or None, got {count!r}")
        self.count = torch.get_num_threads() if count is None else int(count)
        self._pool: ThreadPoolExecutor | None = None

    def close(self) -> None:
        """Ends the threads; further work starts new ones."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def run(self, pieces: Sequence[Callable[[], T]]) -> list[T]:
        """Runs pieces side by side, without gradients.

        Args:
            pieces: They must not depend on each other. A single one runs in the calling thread.

        Returns:
            What they return, in their order. The first exception is raised, once none of them runs any more.
        """
        if self.count == 1 or len(pieces) < 2:
            return [_without_gradients(piece) for piece in pieces]
        pool = self._pool = self._pool or _started(self.count)
        queue = _Queue(pieces)
        # Threads do not inherit this mode either, and what was made in it can be written in no other.
        work_off = torch.inference_mode()(queue.work_off) if torch.is_inference_mode_enabled() else queue.work_off
        futures: list[Future[None]] = []
        try:
            # One task for a thread: each that is handed over costs more than a small piece.
            futures.extend(pool.submit(_without_gradients, work_off) for _ in range(min(self.count, len(pieces))))
            # A Ctrl-C that another thread gets does not end a wait without an end.
            while wait(futures, _PATIENCE).not_done:
                pass
        except BaseException:
            queue.is_stopped = True
            wait(futures)
            raise
        return queue.answers()


in_turn = Workers(1)
"""The calling thread alone, one piece after the other."""


class _Queue(Generic[T]):
    """Pieces that threads take one after the other, until one fails."""

    def __init__(self, pieces: Sequence[Callable[[], T]]) -> None:
        self.is_stopped = False
        self._lock = threading.Lock()
        self._waiting = iter(enumerate(pieces))
        self._answers: dict[int, T] = {}
        self._failures: dict[int, BaseException] = {}

    def work_off(self) -> None:
        """What each thread runs."""
        while (taken := self._next()) is not None:
            index, piece = taken
            try:
                self._answers[index] = piece()
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that asked
                self._failures[index] = error
                self.is_stopped = True

    def _next(self) -> tuple[int, Callable[[], T]] | None:
        with self._lock:
            return None if self.is_stopped else next(self._waiting, None)

    def answers(self) -> list[T]:
        """What the pieces returned, in their order."""
        if self._failures:
            raise self._failures[min(self._failures)]
        return [answer for _, answer in sorted(self._answers.items(), key=itemgetter(0))]


def _without_gradients(piece: Callable[[], T]) -> T:
    # Threads do not inherit this from the one that started them.
    with no_gradients():
        return piece()


@contextmanager
def one_core() -> Iterator[None]:
    """Within, torch computes on one core in this thread."""
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _started(count: int) -> ThreadPoolExecutor:
    """A pool whose threads do not share out what they compute to further threads of torch's own."""
    before = torch.get_num_threads()
    ready = threading.Barrier(count + 1)

    def be_one() -> None:
        # A thread that asks for the first time takes what was set last, even if it has set a number of its own before.
        torch.get_num_threads()
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(count, thread_name_prefix="lightning_init")
    try:
        for _ in range(count):
            pool.submit(be_one)
        ready.wait()
    except BaseException:
        # Those that have started would wait for the others for ever, and the interpreter for them at its end.
        ready.abort()
        pool.shutdown()
        raise
    finally:
        # torch keeps that number for each thread, but what new threads begin with is what was set last.
        torch.set_num_threads(before)
    return pool
