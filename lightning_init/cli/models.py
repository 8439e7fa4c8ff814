"""Builds the model of a target without numbers in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from lightning_init.cli.troubles import FAULT, CommandError, told_short
from lightning_init.wrappers import class_name

__all__ = ["build"]

_LIGHTNING = ("lightning.", "pytorch_lightning.")


def build(
    target: Callable[..., Any], arguments: Callable[[], Mapping[str, Any]], *, device: str, setup: bool
) -> tuple[nn.Module, list[str]]:
    """Calls a target on a device; of a LightningModule, makes the layers of ``configure_model`` as well.

    Args:
        target: A class of modules, or a function that returns one.
        arguments: Gives its arguments; called on that device too, since it may make modules.
        device: Where its tensors are made; ``"meta"`` makes none.
        setup: Whether ``LightningModule.setup("fit")`` is run.

    Returns:
        The module, and what is to be said about it.

    Raises:
        CommandError: The code raised, or gave no module.
    """
    name = getattr(target, "__name__", repr(target))
    with torch.device(device):
        module = _run(lambda: target(**arguments()), name, device)
        if not isinstance(module, nn.Module):
            raise CommandError(f"{name} returned an object of class {type(module).__name__}, not a module", FAULT)
        return module, _make_layers(module, device, setup=setup)


def _make_layers(module: nn.Module, device: str, *, setup: bool) -> list[str]:
    """Runs the hooks in which a LightningModule may make layers, in the order of a Trainer."""
    notes = []
    name = class_name(module)
    if _overrides(module, "setup"):
        if setup:
            notes += _hook(module, "setup", device, "fit")
        else:
            notes.append(f"{name}.setup is not run, and layers that it makes are not in the plan; --setup runs it")
    if _overrides(module, "configure_model"):
        notes += _hook(module, "configure_model", device)
    return notes


def _overrides(module: nn.Module, hook: str) -> bool:
    """The module is a LightningModule with a hook of its own."""
    if not any(cls.__name__ == "LightningModule" for cls in type(module).__mro__):
        return False
    return not str(getattr(type(module), hook).__module__).startswith(_LIGHTNING)


def _hook(module: nn.Module, hook: str, device: str, *arguments: Any) -> list[str]:
    name = f"{class_name(module)}.{hook}"
    try:
        getattr(module, hook)(*arguments)
    except RuntimeError as error:
        # Lightning's word for `self.trainer` outside of a fit.
        if "not attached to a `Trainer`" not in str(error):
            raise _failed(error, name, device) from error
        return [f"{name} asks for its Trainer, which a plan does not have; layers that it makes are not in the plan"]
    except Exception as error:
        raise _failed(error, name, device) from error
    return []


def _run(call: Callable[[], Any], name: str, device: str) -> Any:
    try:
        return call()
    except CommandError:
        raise
    except Exception as error:
        raise _failed(error, name, device) from error


def _failed(error: Exception, name: str, device: str) -> CommandError:
    told = told_short(error, skip=("importlib", "jsonargparse", "lightning_init", "torch"))
    if device == "meta" and "meta" in str(error).lower() and isinstance(error, (NotImplementedError, RuntimeError)):
        return CommandError(
            f"{name} cannot be built on the meta device, on which a plan costs no memory: it asks for the numbers in a "
            f"tensor. --device cpu builds it with numbers; or make that tensor with device='cpu' in the code\n{told}",
            FAULT,
        )
    return CommandError(f"{name} raised {type(error).__name__}: {error}\n{told}", FAULT)
