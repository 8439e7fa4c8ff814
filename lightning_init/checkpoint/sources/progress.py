"""A bar for downloads that a person watches."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from fsspec.callbacks import NoOpCallback, TqdmCallback

from lightning_init import distributed

__all__ = ["Progress", "bar"]


class Progress(Protocol):
    """What is told about a running download; it is the part of fsspec's callbacks that is used here."""

    def set_size(self, size: int | None) -> None:
        """How many bytes there are, once that is known."""

    def absolute_update(self, value: int) -> None:
        """How many bytes are here."""

    def relative_update(self, inc: int = 1) -> None:
        """How many more bytes are here."""


@contextmanager
def bar(name: str) -> Iterator[Progress]:
    """A bar on the terminal, on rank zero; where standard error is a file, or on another rank, nothing is shown."""
    if distributed.rank() or not sys.stderr.isatty():
        yield NoOpCallback()
        return
    shown = TqdmCallback(tqdm_kwargs={"desc": name, "unit": "B", "unit_scale": True, "unit_divisor": 1024})
    try:
        yield shown
    finally:
        shown.close()
