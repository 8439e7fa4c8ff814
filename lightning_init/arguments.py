"""The arguments of `InitWeightsCallback`, checked before anything runs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lightning_init.config import InitCfg, parse
from lightning_init.errors import Fault, InitConfigError, did_you_mean
from lightning_init.loggers import CONTENTS
from lightning_init.probing import check_probe
from lightning_init.settings import Settings

__all__ = ["LABEL", "checked"]

_CALLBACK = "InitWeightsCallback"

LABEL = f"{_CALLBACK}.init_cfg"
"""What the config that is given to the callback is called in messages."""


def checked(
    settings: Callable[[], Settings], init_cfg: InitCfg, log: str | Sequence[str], probe: Any
) -> tuple[Settings, tuple[str, ...]]:
    """Checks all arguments.

    Args:
        settings: Makes those that every initialisation has.
        init_cfg: The rules.
        log: What is logged, as one name or several.
        probe: What is probed with.

    Returns:
        The settings, and what is logged.

    Raises:
        InitConfigError: Some of them cannot be meant; it lists all faults.
    """
    faults: list[Fault] = []
    with _collected(faults, _CALLBACK):
        made = settings()
    with _collected(faults, _CALLBACK):
        contents = _contents(log)
    with _collected(faults):
        parse(init_cfg, LABEL)
    with _collected(faults, _CALLBACK):
        check_probe(probe)
    if faults:
        raise InitConfigError(faults)
    return made, contents


@contextmanager
def _collected(faults: list[Fault], where: str = "") -> Iterator[None]:
    """Keeps what is wrong for one error that names it all."""
    try:
        yield
    except InitConfigError as error:
        faults.extend(fault.below(where) if where else fault for fault in error.faults)


def _contents(log: str | Sequence[str]) -> tuple[str, ...]:
    if not isinstance(log, Sequence):
        raise InitConfigError([Fault("log", f"must be some of {CONTENTS}, got {log!r}")])
    given = (log,) if isinstance(log, str) else tuple(log)
    faults = [
        Fault("log", f"cannot hold {item!r}; {did_you_mean(str(item), CONTENTS)}")
        for item in given
        if item not in CONTENTS
    ]
    if "figure" in given and not importlib.util.find_spec("matplotlib"):
        faults.append(Fault("log", 'a figure needs matplotlib: pip install "lightning-init[plot]"'))
    if faults:
        raise InitConfigError(faults)
    return given
