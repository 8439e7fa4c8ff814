"""Checks of what a user gives to ``Pretrained``; configs carry values of any type, whatever annotations say."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch

from lightning_init.checkpoint.matching.adapters import check_adapters
from lightning_init.checkpoint.matching.match import OnMismatch
from lightning_init.checkpoint.matching.rules import KeyRules
from lightning_init.errors import InitConfigError
from lightning_init.initializers.checks import Checks

__all__ = ["check"]

_SHA256 = re.compile(r"[0-9a-fA-F]{8,64}")


def check(given: Mapping[str, Any], checks: Checks) -> None:
    """Adds every fault of the arguments to the checks.

    Args:
        given: The arguments by name.
        checks: Where to.
    """
    _checkpoint(given["checkpoint"], checks)
    _device(given["map_location"], checks)
    for name in ("strict", "ema"):
        if not isinstance(given[name], bool):
            checks.fault(name, f"must be True or False, got {given[name]!r}")
    _safe_globals(given["safe_globals"], checks)
    sha256, container = given["sha256"], given["container"]
    if sha256 is not None and not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
        checks.fault("sha256", f"must be the hash in hexadecimal, at least its first 8 digits, got {sha256!r}")
    if container is not None and not (isinstance(container, str) and container):
        checks.fault("container", f"must be a name such as 'state_dict', or a dotted path of names, got {container!r}")
    elif container is not None and given["ema"] is True:
        checks.fault("ema", f"says where the weights are, and so does container={container!r}; give one of them")
    try:
        KeyRules.parse(**{name: given[name] for name in ("prefix", "revise_keys", "include", "exclude", "into")})
    except InitConfigError as error:
        checks.faults.extend(error.faults)
    _matching(given, checks)


def _matching(given: Mapping[str, Any], checks: Checks) -> None:
    on_mismatch, adapters, min_match = given["on_mismatch"], given["adapters"], given["min_match"]
    checks.choice("on_mismatch", on_mismatch, get_args(OnMismatch))
    checks.faults.extend(check_adapters(adapters))
    if adapters is not None and on_mismatch in {"error", "skip"}:
        checks.fault("adapters", f"work with on_mismatch='adapt', not with {on_mismatch!r}")
    if min_match is not None and checks.number("min_match", min_match, above=0) and min_match > 1:
        checks.fault("min_match", f"is a fraction of the module's parameters, at most 1, got {min_match}")


def _checkpoint(checkpoint: Any, checks: Checks) -> None:
    if not isinstance(checkpoint, str | os.PathLike) or not isinstance(os.fspath(checkpoint), str):
        checks.fault("checkpoint", f"must be a path or an address, got {checkpoint!r}")
    elif not os.fspath(checkpoint):
        checks.fault("checkpoint", "must be a path or an address, got an empty string")


def _device(map_location: Any, checks: Checks) -> None:
    what = "must be a device such as 'cpu' or 'cuda:0'"
    if map_location is None:
        return
    if not isinstance(map_location, str | torch.device):
        checks.fault("map_location", f"{what}, got {map_location!r}")
        return
    try:
        device = torch.device(map_location)
    except RuntimeError as error:
        checks.fault("map_location", f"{what}, got {map_location!r} ({str(error).splitlines()[0]})")
        return
    if device.type == "meta":
        checks.fault("map_location", f"{what}; on 'meta' the values would be lost")


def _safe_globals(allowed: Any, checks: Checks) -> None:
    if isinstance(allowed, str) or not isinstance(allowed, Sequence):
        checks.fault("safe_globals", f"must be a list of classes or functions, got {allowed!r}")
    elif wrong := [item for item in allowed if not _is_safe_global(item)]:
        checks.fault("safe_globals", f"must hold classes, functions, or pairs of one and its path, got {wrong}")


def _is_safe_global(item: object) -> bool:
    if isinstance(item, tuple):
        return len(item) == 2 and callable(item[0]) and isinstance(item[1], str)
    # torch finds it in files by these two.
    return callable(item) and hasattr(item, "__module__") and hasattr(item, "__qualname__")
