"""``MODULE:CLASS``: the class, or the function, that makes a model."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from torch import nn

from lightning_init.cli.files import near_in_folder
from lightning_init.cli.troubles import FAULT, CommandError, told_short
from lightning_init.errors import did_you_mean

__all__ = ["FORM", "load_target"]

T = TypeVar("T")

FORM = "MODULE:CLASS, such as package.module:LitNet or train.py:LitNet"
"""What a target looks like, for messages."""


def load_target(text: str) -> Callable[..., Any]:
    """Imports what a target names. This runs the code of its module.

    Args:
        text: ``MODULE:CLASS``, where MODULE is a dotted name or the path of a ``.py`` file, and CLASS a class of
            modules or a function that returns a module.

    Raises:
        CommandError: There is no such thing, or its module cannot be imported.
    """
    origin, colon, name = text.rpartition(":")
    if not (colon and origin and name):
        dotted, _, last = text.rpartition(".")
        meant = f"; did you mean {dotted}:{last}?" if dotted and last != "py" else ""
        raise CommandError(f"a target is {FORM}; got {text!r}{meant}")
    is_path = origin.endswith(".py") or "/" in origin
    module = _from_file(origin) if is_path else _from_name(origin)
    return _checked(_attribute(module, name, origin), text)


def _from_file(path: str) -> ModuleType:
    file = Path(path).resolve()
    if not file.is_file():
        raise CommandError(f"there is no file {path!r}{near_in_folder(path)}")
    # As for `python train.py`: what lies beside it can be imported.
    sys.path.insert(0, str(file.parent))
    name = file.stem
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) != str(file):
        name = f"{name}_of_the_target"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise CommandError(f"{path!r} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # Under its own name, so that what it imports, or a `class_path`, finds it and does not make it a second time.
    sys.modules[name] = module
    loader = spec.loader
    _running(lambda: loader.exec_module(module), path)
    return module


def _from_name(name: str) -> ModuleType:
    # As for `python -m`.
    sys.path.insert(0, str(Path.cwd()))
    try:
        return _running(lambda: importlib.import_module(name), name)
    except ModuleNotFoundError as error:
        parent, _, last = (error.name or name).rpartition(".")
        raise CommandError(f"there is no module {error.name!r}{_near_module(parent, last)}") from None


def _running(run: Callable[[], T], origin: str) -> T:
    """What running a module's code gives; a module that the target names and that does not exist is let through."""
    try:
        return run()
    except ModuleNotFoundError as error:
        if error.name and f"{origin}.".startswith(f"{error.name}."):
            raise
        raise _broken(origin, error) from error
    except SystemExit as error:
        raise CommandError(
            f"importing {origin!r} ends the process (SystemExit: {error.code}); what it does as a script belongs "
            f'below `if __name__ == "__main__":`',
            FAULT,
        ) from None
    except Exception as error:
        raise _broken(origin, error) from error


def _broken(origin: str, error: Exception) -> CommandError:
    return CommandError(f"importing {origin!r} failed\n{told_short(error)}", FAULT)


def _near_module(parent: str, name: str) -> str:
    """A suffix for a message about a module that is not there; first of all, what the working directory has."""
    places = [list(getattr(sys.modules.get(parent), "__path__", []))] if parent else [[str(Path.cwd())], None]
    for paths in places:
        near = did_you_mean(name, (module.name for module in pkgutil.iter_modules(paths)))
        if near.startswith("did"):
            return f"; {near}"
    return f"; in {parent!r}, {near}" if parent else "; is its folder the working directory, or installed?"


def _attribute(module: ModuleType, name: str, origin: str) -> Any:
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            known = [known for known, value in vars(found).items() if _makes_models(value) and _is_own(value, module)]
            near = did_you_mean(part, known)
            of_models = "of models, " if near.startswith("there") else ""
            raise CommandError(f"{origin!r} has no {name!r}; {of_models}{near}")
        found = getattr(found, part)
    return found


def _makes_models(value: Any) -> bool:
    return inspect.isfunction(value) or (isinstance(value, type) and issubclass(value, nn.Module))


def _is_own(value: Any, module: ModuleType) -> bool:
    return getattr(value, "__module__", None) == module.__name__


def _checked(found: Any, text: str) -> Callable[..., Any]:
    if isinstance(found, type):
        if not issubclass(found, nn.Module):
            raise CommandError(f"{text!r} is a class, but not one of modules (derived from torch.nn.Module)")
        if inspect.isabstract(found):
            raise CommandError(f"{text!r} is abstract, and cannot be built")
        return found
    if isinstance(found, nn.Module) or not callable(found):
        raise CommandError(f"{text!r} is neither a class of modules nor a function that returns one, but {_a(found)}")
    made: Callable[..., Any] = found
    return made


def _a(value: Any) -> str:
    return f"an object of class {type(value).__name__}"
