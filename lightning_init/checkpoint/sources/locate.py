"""From what a user wrote to a file or folder on this machine."""

from __future__ import annotations

import os
import re
from pathlib import Path

from lightning_init.checkpoint.index import is_index
from lightning_init.checkpoint.sources import http, hub, remote, torchvision_weights
from lightning_init.checkpoint.sources.addresses import redacted, scheme_of
from lightning_init.checkpoint.sources.cache import digest, hash_of_folder
from lightning_init.checkpoint.sources.registry import SOURCES, Source
from lightning_init.errors import CheckpointError, Fault, checkpoint_error, did_you_mean

__all__ = ["locate"]

# They register themselves.
_BUILT_IN = (http, hub, torchvision_weights)

_SHA256 = re.compile(r"[0-9a-f]{8,64}")


def locate(source: str | os.PathLike[str], *, sha256: str | None = None) -> Path:
    """The file or folder on this machine that holds a checkpoint, fetched if need be.

    Args:
        source: A path (``~`` is the home folder), or an address with one of the schemes in
            :data:`lightning_init.checkpoint.sources.registry.SOURCES`, or with one that fsspec knows.
        sha256: The SHA-256 that the file must have, as 64 hexadecimal digits or the first of them, eight at least. The
            file is read and checked, wherever it comes from.

    Returns:
        The path of an existing, non-empty, regular file, or of a folder that is not empty. A path is as given: it is
        neither made absolute nor are links followed.

    Raises:
        CheckpointError: No such scheme, no such file (with the nearest names in that folder), an empty file or folder,
            something that is neither, another hash, a hash for a folder or an index of shards, or whatever the source
            told.
    """
    text = os.fspath(source)
    expected = _hash(sha256)
    scheme = scheme_of(text)
    shown = redacted(text)
    path = _expanded(text) if scheme is None else _fetched(_function(scheme, text), text, expected)
    _check(path, shown)
    if expected is not None:
        _verify(path, shown, expected)
    return path


def _hash(sha256: str | None) -> str | None:
    if sha256 is None:
        return None
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256.lower()):
        what = f"must be 64 hexadecimal digits, or at least the first 8 of them, got {sha256!r}"
        raise CheckpointError([Fault("sha256", what)])
    return sha256.lower()


def _expanded(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise checkpoint_error(f"no such file: {text!r}; nobody on this machine has that home folder") from None


def _fetched(function: Source, text: str, expected: str | None) -> Path:
    path = function(text, expected)
    # Registered functions are those of users.
    if not isinstance(path, str | os.PathLike):
        raise checkpoint_error(
            f"the source of {redacted(text)!r} must return the path of a file or folder, not {path!r}"
        )
    return Path(path)


def _function(scheme: str, text: str) -> Source:
    if scheme in SOURCES and "::" not in text:
        return SOURCES[scheme]
    known = remote.schemes()
    if scheme in known:
        return remote.fetch
    own = ", ".join(f"'{name}://'" for name in sorted(SOURCES))
    near = did_you_mean(scheme, {*SOURCES, *known})
    hint = f"; {near}" if near.startswith("did you mean") else ""
    raise checkpoint_error(
        f"no way to fetch {redacted(text)!r}: {scheme!r} is no known scheme{hint}; there are plain paths, {own}, and "
        f"the schemes of fsspec, such as 's3://'"
    )


def _check(path: Path, shown: str) -> None:
    try:
        if path.is_dir():
            if not any(path.iterdir()):
                raise checkpoint_error(f"{shown!r} is an empty folder")
        elif not path.exists():
            raise checkpoint_error(f"no such file: {shown!r}{_nearest(path)}")
        elif not path.is_file():
            raise checkpoint_error(f"{shown!r} is no regular file")
        elif path.stat().st_size == 0:
            raise checkpoint_error(f"{shown!r} is an empty file; the program that wrote it did not finish")
    except (OSError, ValueError) as failure:
        raise checkpoint_error(f"cannot look at {shown!r}: {failure}") from failure


def _verify(path: Path, shown: str, expected: str) -> None:
    if path.is_dir():
        raise hash_of_folder(shown)
    try:
        with path.open("rb") as file:
            names_shards = is_index(file.read(16))
        found = digest(path)
    except OSError as failure:
        raise checkpoint_error(f"{shown!r} cannot be read: {failure.strerror or failure}") from failure
    if not found.startswith(expected):
        more = "" if len(expected) == 64 else "..."
        raise CheckpointError([Fault("sha256", f"{shown!r} has the SHA-256 {found}, expected {expected}{more}")])
    if names_shards:
        what = f"{shown!r} is an index of shards, and a hash is that of one file: the shards would not be checked"
        raise CheckpointError([Fault("sha256", f"{what}; leave sha256 out, or load one file")])


def _nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return f"; the folder {str(path.parent)!r} does not exist"
    names = [entry.name for entry in path.parent.iterdir()]
    return f"; in {str(path.parent)!r}: {did_you_mean(path.name, names)}"
