"""Public names of modules that take long to import, found when they are first asked for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["lazily"]


def lazily(package: str, origins: Mapping[str, tuple[str, str]]) -> Callable[[str], Any]:
    """A ``__getattr__`` for a package (PEP 562).

    What costs nothing is imported at once: LightningCLI finds a callback by its class name only if it exists.

    Args:
        package: The package, which is being imported.
        origins: Of each name the module, and what that takes long to import.

    Returns:
        A function that imports the module of a name, and keeps what it found in the package.
    """

    def find(name: str) -> Any:
        if name not in origins:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = getattr(importlib.import_module(origins[name][0]), name)
        setattr(sys.modules[package], name, found)
        return found

    for name, (_, heavy) in origins.items():
        if heavy in sys.modules:
            find(name)
    return find
