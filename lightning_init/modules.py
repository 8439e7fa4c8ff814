"""Modules that carry an ``init_cfg`` of their own and can be asked to initialise themselves, as in MMEngine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from lightning_init.carried import carried_by
from lightning_init.config import plain
from lightning_init.engine import run_steps_of
from lightning_init.methods import runs_steps

__all__ = ["BaseModule", "ModuleDict", "ModuleList", "Sequential"]


class BaseModule(nn.Module):
    """A module with ``init_cfg`` and ``init_weights``.

    Everything works on plain modules as well; this class adds the argument, the method and the ``repr``.

    Args:
        init_cfg: A rule or a list of rules. It is copied. Without it, an ``init_cfg`` of the class stands.

    Attributes:
        init_cfg: The config.
        is_init: The weights are what they should be; `init_weights` does nothing then.

    >>> class Net(BaseModule):
    ...     def __init__(self, init_cfg=None):
    ...         super().__init__(init_cfg)
    ...         self.fc = nn.Linear(2, 1)
    >>> net = Net(dict(type="Constant", layer="Linear", val=3.0))
    >>> net.init_weights()
    >>> net.fc.weight.tolist()
    [[3.0, 3.0]]
    """

    init_cfg: Any = None
    is_init: bool = False

    def __init__(self, init_cfg: Any = None) -> None:
        super().__init__()
        _take(self, init_cfg)

    @runs_steps
    def init_weights(self) -> None:
        """Initialises this module and all below it; see `lightning_init.init_weights`.

        A class that overrides this method decides itself, and calls ``super().init_weights()`` for the rules.
        """
        run_steps_of(self)

    def __repr__(self) -> str:
        shown = super().__repr__()
        return shown if carried_by(self) is None else f"{shown}\ninit_cfg={self.init_cfg}"


class Sequential(BaseModule, nn.Sequential):
    """``nn.Sequential`` with an ``init_cfg``.

    Args:
        *args: Modules, or one ordered mapping of modules.
        init_cfg: A rule or a list of rules.
    """

    def __init__(self, *args: Any, init_cfg: Any = None) -> None:
        nn.Sequential.__init__(self, *args)
        _take(self, init_cfg)


class ModuleList(BaseModule, nn.ModuleList):
    """``nn.ModuleList`` with an ``init_cfg``.

    Args:
        modules: Modules to hold.
        init_cfg: A rule or a list of rules.
    """

    def __init__(self, modules: Iterable[nn.Module] | None = None, init_cfg: Any = None) -> None:
        nn.ModuleList.__init__(self, modules)
        _take(self, init_cfg)


class ModuleDict(BaseModule, nn.ModuleDict):
    """``nn.ModuleDict`` with an ``init_cfg``.

    Args:
        modules: Modules by name.
        init_cfg: A rule or a list of rules.
    """

    def __init__(self, modules: Mapping[str, nn.Module] | None = None, init_cfg: Any = None) -> None:
        nn.ModuleDict.__init__(self, modules)
        _take(self, init_cfg)


def _take(module: BaseModule, init_cfg: Any) -> None:
    """Keeps a config that was given; one of the class stands otherwise."""
    if init_cfg is not None:
        module.init_cfg = plain(init_cfg)
