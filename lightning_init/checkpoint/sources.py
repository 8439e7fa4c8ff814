"""Where the bytes of a checkpoint come from: from what a user wrote to a file on this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lightning_init.errors import CheckpointError, Fault, did_you_mean

__all__ = ["SOURCES", "Source", "locate", "register_source"]

Source = Callable[[str], Path]
"""Turns a whole address (``"file:///w.pth"``) into the path of a file on this machine."""

SOURCES: dict[str, Source] = {}
"""The function of each scheme. A source without a scheme is a path and needs none."""

# Two characters at least, so that the drive of "C://" is none.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


def register_source(scheme: str) -> Callable[[Source], Source]:
    """Decorator: the function that fetches addresses of this scheme.

    Args:
        scheme: What stands before ``://``, in lower case.

    Raises:
        CheckpointError: The scheme is taken.
    """

    def add(function: Source) -> Source:
        if scheme in SOURCES:
            raise CheckpointError(f"the checkpoint source {scheme!r} is taken by {SOURCES[scheme]!r}")
        SOURCES[scheme] = function
        return function

    return add


def locate(source: str | os.PathLike[str]) -> Path:
    """The file on this machine that holds a checkpoint.

    Args:
        source: A path (``~`` is the home folder), or an address with one of the schemes in :data:`SOURCES`.

    Returns:
        The path of an existing, non-empty, regular file. The path is as given: it is neither made absolute nor are
        links followed.

    Raises:
        CheckpointError: No such scheme, no such file (with the nearest names in that folder), a folder, something
            that is no regular file, or a file without a byte in it.
    """
    text = os.fspath(source)
    scheme = _SCHEME.match(text)
    if scheme is None:
        return _checked(Path(text).expanduser(), text)
    name = scheme[1].lower()
    if name not in SOURCES:
        known = ", ".join(f"'{known}://'" for known in sorted(SOURCES))
        raise _error(f"no way to fetch {text!r}: {name!r} is no known scheme; there are plain paths and {known}")
    return _checked(SOURCES[name](text), text)


@register_source("file")
def _file(address: str) -> Path:
    parts = urlsplit(address)
    if parts.netloc not in ("", "localhost"):
        raise _error(
            f"{address!r} names the host {parts.netloc!r}; an address of a file on this machine has three "
            f"slashes, as in 'file:///folder/weights.pth'"
        )
    # Not parts.path: in the name of a file, "?" and "#" are letters like others.
    return Path(unquote(address[len("file://") + len(parts.netloc) :]))


def _checked(path: Path, text: str) -> Path:
    try:
        if path.is_dir():
            raise _error(f"{text!r} is a folder, not a file; name the file in it: {_names(path)}")
        if not path.exists():
            raise _error(f"no such file: {text!r}{_nearest(path)}")
        if not path.is_file():
            raise _error(f"{text!r} is no regular file")
        if path.stat().st_size == 0:
            raise _error(f"{text!r} is an empty file; the program that wrote it did not finish")
    except (OSError, ValueError) as error:
        raise _error(f"cannot look at {text!r}: {error}") from error
    return path


def _nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return f"; the folder {str(path.parent)!r} does not exist"
    names = [entry.name for entry in path.parent.iterdir()]
    return f"; in {str(path.parent)!r}: {did_you_mean(path.name, names)}"


def _names(folder: Path) -> str:
    return did_you_mean("", [entry.name for entry in folder.iterdir() if entry.is_file()])


def _error(what: str) -> CheckpointError:
    return CheckpointError([Fault("checkpoint", what)])
