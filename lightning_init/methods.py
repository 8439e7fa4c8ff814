"""Which modules have an ``init_weights`` of their own, and whether it may be called."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from lightning_init.elsewhere import LIBRARIES
from lightning_init.wrappers import class_name

__all__ = ["OwnMethod", "own_method", "runs_steps"]

_MARK = "lightning_init_runs_steps"

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class OwnMethod:
    """What a module's ``init_weights`` is to this library.

    Attributes:
        source: The class and method, as the report gives it; empty if there is none.
        replaces_steps: It overrides that of a `BaseModule`, so it stands for all steps of the module.
        refused: Why it is not called; empty if it is, or if there is none.
    """

    source: str = ""
    replaces_steps: bool = False
    refused: str = ""

    @property
    def is_called(self) -> bool:
        """There is one, and nothing speaks against calling it."""
        return bool(self.source) and not self.refused


_NONE = OwnMethod()


def runs_steps(method: F) -> F:
    """Decorator for the ``init_weights`` that runs the steps itself and so is not one of them."""
    setattr(method, _MARK, True)
    return method


def own_method(module: nn.Module) -> OwnMethod:
    """Looks at a module's ``init_weights``, of its instance or its class."""
    if "init_weights" not in vars(module) and not hasattr(type(module), "init_weights"):
        return _NONE
    owners = [cls for cls in type(module).__mro__ if "init_weights" in vars(cls)]
    of_instance = vars(module).get("init_weights")
    method = getattr(module, "init_weights", None) if owners or of_instance is not None else None
    if not callable(method) or (of_instance is None and getattr(vars(owners[0])["init_weights"], _MARK, False)):
        return _NONE
    source = f"{class_name(module)}.init_weights"
    replaces_steps = any(getattr(vars(cls)["init_weights"], _MARK, False) for cls in owners)
    if of_instance is None and owners[0].__module__.partition(".")[0] in LIBRARIES:
        library = owners[0].__module__.partition(".")[0]
        told = f"{source} is not run: it comes from {library}, whose models have initialised themselves"
        return OwnMethod(source, replaces_steps, told)
    try:
        inspect.signature(method).bind()
    except TypeError:
        return OwnMethod(source, replaces_steps, f"{source} needs arguments, so it is not called")
    except ValueError:
        return OwnMethod(source, replaces_steps)
    return OwnMethod(source, replaces_steps)
