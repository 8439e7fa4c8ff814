"""Python's cyclic garbage collector, held back where a lot is made and little is thrown away."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["collected", "uncollected"]

# Whether the collector ran before it was held back, once for every time.
_before: list[bool] = []


@contextmanager
def uncollected() -> Iterator[None]:
    """Within, the collector does not run by itself.

    A plan is made of many small objects that live on and hold no cycles; looking through all of them again and again
    takes as long as making them.
    """
    _before.append(gc.isenabled())
    gc.disable()
    try:
        yield
    finally:
        if _before.pop():
            gc.enable()


@contextmanager
def collected() -> Iterator[None]:
    """Within `uncollected`, the collector runs as it did outside, for code that may throw away what it likes."""
    was_enabled = gc.isenabled()
    if any(_before):
        gc.enable()
    try:
        yield
    finally:
        if not was_enabled:
            gc.disable()
