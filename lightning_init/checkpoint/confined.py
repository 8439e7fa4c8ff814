"""Names and links that stay in the folder they belong to."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["leads_out", "unsafe"]

_DRIVE = re.compile(r"[A-Za-z]:")


def unsafe(name: str) -> str:
    r"""Why a name from a file is no plain path below that file's folder; empty if it is one.

    >>> unsafe("unet/model.safetensors")
    ''
    >>> unsafe("../model.safetensors")
    "leaves the folder by '..'"
    >>> unsafe("C:\\model.safetensors")
    'has a backslash in it'
    """
    parts = name.split("/")
    if not name:
        return "is empty"
    if not name.isprintable():
        return "has characters in it that cannot be printed"
    if "\\" in name:
        return "has a backslash in it"
    if name.startswith("/") or _DRIVE.match(name):
        return "is an absolute path"
    if ".." in parts:
        return "leaves the folder by '..'"
    return "has an empty part or '.' in it" if {"", "."} & set(parts) else ""


def leads_out(path: Path, beside: Path) -> Path | None:
    """Where a file really lies, if links lead it out of the folder that it was found in.

    Links may lead below the folder, below the one in which the file that named this one really lies, and, from a
    snapshot of a Hugging Face cache, into the blobs of that cache.

    Args:
        path: The file.
        beside: The file in whose folder it belongs; perhaps the same.

    Returns:
        The real path, or None if it is in one of these folders.

    Raises:
        OSError: The links go round in a circle.
        RuntimeError: The same, in Pythons before 3.13.
    """
    real = path.resolve()
    named = beside.absolute()
    roots = [named.parent, named.resolve().parent] if path != beside else [named.parent]
    for folder in named.parents:
        if folder.name == "snapshots" and folder.parent.name.startswith("models--"):
            roots += [folder.parent / "blobs", folder.parents[1] / "blobs"]
    return None if any(real.is_relative_to(root.resolve()) for root in roots) else real
