"""Configs from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from lightning_init.cli.troubles import FAULT, CommandError
from lightning_init.errors import did_you_mean

__all__ = ["near_in_folder", "read_yaml"]


def read_yaml(path: str) -> Any:
    """What a YAML or JSON file holds, read as LightningCLI reads it: ``1e-3`` is a number.

    Raises:
        CommandError: There is no such file, or it is no YAML; with the line and the column.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CommandError(f"there is no file {path!r}{near_in_folder(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise CommandError(f"{path!r} cannot be read: {reason}") from None
    try:
        content = get_loader("yaml")(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else path
        raise CommandError(f"{place}: this is no YAML: {error.problem or error.context}", FAULT) from None
    except yaml.YAMLError as error:
        raise CommandError(f"{path}: this is no YAML: {error}", FAULT) from None
    if content is None:
        raise CommandError(f"{path} is empty", FAULT)
    return content


def near_in_folder(path: str) -> str:
    """A suffix for a message about a file that is not there: what its folder has instead."""
    folder, suffix = Path(path).parent, Path(path).suffix
    if not folder.is_dir():
        return f"; there is no folder {str(folder)!r}"
    near = did_you_mean(Path(path).name, (it.name for it in folder.iterdir() if it.suffix == suffix))
    return f"; of its kind, {near}" if near.startswith("there") else f"; {near}"
