"""Ctrl-C while a coroutine runs on another thread."""

from __future__ import annotations

import _thread
import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fsspec.asyn import get_loop

from lightning_init.checkpoint.sources import background
from lightning_init.checkpoint.sources.background import run_on


class Work:
    """A coroutine that takes long, and what became of it."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.tidied = False

    async def run(self) -> str:
        self.begun.set()
        try:
            await asyncio.sleep(60)
            return "done"
        finally:
            await asyncio.sleep(0.1)
            self.tidied = True


@pytest.fixture(autouse=True)
def _heed_ctrl_c() -> Iterator[None]:
    """A shell lets what it starts in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_what_a_coroutine_returns_or_raises() -> None:
    async def value() -> str:
        return "done"

    async def error() -> None:
        raise KeyError("of the coroutine")

    assert run_on(get_loop(), value()) == "done"
    with pytest.raises(KeyError, match="of the coroutine"):
        run_on(get_loop(), error())


def test_ctrl_c_that_does_not_wake_the_thread() -> None:
    """It is noted, and no more: so it is where it comes between the last look for signals and the sleep."""
    work = Work()

    def note() -> None:
        work.begun.wait()
        time.sleep(0.1)
        _thread.interrupt_main()

    thread = threading.Thread(target=note)
    thread.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_on(get_loop(), work.run())
    assert time.monotonic() - start < 30
    assert work.tidied
    thread.join()


@pytest.mark.parametrize("begun", [True, False])
def test_ctrl_c_while_it_is_started(monkeypatch: pytest.MonkeyPatch, begun: bool) -> None:
    work = Work()
    start = asyncio.run_coroutine_threadsafe

    def interrupted(*arguments: Any) -> None:
        start(*arguments)
        if begun:
            work.begun.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_on(get_loop(), work.run())
    assert work.tidied == work.begun.is_set()


def test_ctrl_c_before_it_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(coroutine: Any, loop: object) -> None:
        coroutine.close()
        raise KeyboardInterrupt

    work = Work()
    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", interrupted)
    monkeypatch.setattr(background, "_PATIENCE", 60.0)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_on(get_loop(), work.run())
    assert time.monotonic() - start < 30
    assert not work.begun.is_set()
