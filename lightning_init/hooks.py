"""Hooks of a LightningModule that are replaced on the instance for one call.

No hook of a callback lies between ``configure_model`` and the strategy's set-up; this is how code gets there. What
stands in for a hook is a partial of a function of this module: it can be pickled and deep-copied, which a closure
cannot, and Lightning looks through it to tell whether a hook is overridden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import lightning.pytorch as pl

from lightning_init.materialize import has_meta
from lightning_init.tree import Tree

__all__ = ["arm", "configured", "disarm", "spare_meta"]


def arm(pl_module: pl.LightningModule, hook: str, function: Callable[..., None]) -> None:
    """Puts a function in place of a hook for one call.

    Args:
        pl_module: The module.
        hook: The name of the hook.
        function: Of the top level of a module; called with ``pl_module`` and what the hook is called with. By then the
            hook itself is back in its place.
    """
    setattr(pl_module, hook, partial(_once, pl_module, hook, function, pl_module.__dict__.get(hook)))


def disarm(pl_module: pl.LightningModule) -> None:
    """Puts back all hooks that are armed."""
    for hook, armed in list(pl_module.__dict__.items()):
        if isinstance(armed, partial) and armed.func is _once:
            _put_back(pl_module, hook, armed.args[-1])


@contextmanager
def configured(pl_module: pl.LightningModule) -> Iterator[None]:
    """Within, ``configure_model`` does nothing: called again, it may make the layers anew."""
    original = pl_module.__dict__.get("configure_model")
    pl_module.configure_model = partial(pl.LightningModule.configure_model, pl_module)  # type: ignore[method-assign]
    try:
        yield
    finally:
        _put_back(pl_module, "configure_model", original)


def spare_meta(pl_module: pl.LightningModule) -> None:
    """Lets the next call of ``cpu`` pass over a module that has no storage, which could not be moved."""
    pl_module.cpu = partial(_cpu, pl_module)  # type: ignore[method-assign]


def _once(
    pl_module: pl.LightningModule,
    hook: str,
    function: Callable[..., None],
    original: Callable[..., Any] | None,
    *args: Any,
    **kwargs: Any,
) -> None:
    _put_back(pl_module, hook, original)
    function(pl_module, *args, **kwargs)


def _put_back(pl_module: pl.LightningModule, hook: str, original: Callable[..., Any] | None) -> None:
    delattr(pl_module, hook)
    if original is not None:
        setattr(pl_module, hook, original)


def _cpu(pl_module: pl.LightningModule) -> pl.LightningModule:
    del pl_module.cpu
    return pl_module if has_meta(Tree(pl_module)) else pl_module.cpu()
