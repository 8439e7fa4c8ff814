"""Coroutines on another thread, for a caller that Ctrl-C may interrupt at any time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future, wait
from typing import Any, Generic, TypeVar

__all__ = ["run_on"]

T = TypeVar("T")

_ATTENTION = 0.5
"""Seconds after which a waiting thread looks around. A signal that comes just before it sleeps does not wake it."""

_PATIENCE = 5.0
"""Seconds that a coroutine has to end once it is cancelled."""


def run_on(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine on the thread of an event loop, which works inside a running loop (a notebook) as well.

    Args:
        loop: A running loop of another thread.
        coroutine: What to run. After Ctrl-C it is cancelled, and has ended when this raises.

    Returns:
        What it returns.

    Raises:
        KeyboardInterrupt: After Ctrl-C; also if that came while the thread was about to sleep.
    """
    running = _Running(coroutine)
    try:
        future: Future[T] = asyncio.run_coroutine_threadsafe(running.run(), loop)
        while not wait([future], timeout=_ATTENTION).done:
            pass
        return future.result()
    finally:
        # Without the future, which Ctrl-C may have come before.
        loop.call_soon_threadsafe(running.stop)
        running.ended.wait(_PATIENCE)


class _Running(Generic[T]):
    """A coroutine that can be stopped before it is known to have started; all but ``ended`` is the loop's alone."""

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self.coroutine = coroutine
        self.task: asyncio.Task[Any] | None = None
        self.ended = threading.Event()

    async def run(self) -> T:
        self.task = asyncio.current_task()
        try:
            return await self.coroutine
        finally:
            self.ended.set()

    def stop(self) -> None:
        if self.task is None:
            # Should `run` be called yet, there is nothing left for it to run.
            self.coroutine.close()
            self.ended.set()
        else:
            self.task.cancel()
