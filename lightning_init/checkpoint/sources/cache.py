"""Folders of files that were fetched: made once, by one process at a time, and never seen half."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lightning_init.errors import CheckpointError, Fault, checkpoint_error

__all__ = ["digest", "free_for", "hash_of_folder", "is_inside", "locked", "publish", "telling", "wrong_hash"]

_log = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)
_ROOM = "free some, or let TORCH_HOME name a folder on another disk"
_CHUNK = 1 << 22

_digests: dict[tuple[int, ...], str] = {}


def wrong_hash(source: str, said: str, found: str, expected: str) -> CheckpointError:
    """A file that was fetched has another SHA-256 than something said; it may be the first digits."""
    more = "" if len(expected) == 64 else "..."
    return checkpoint_error(
        f"{source!r} is not what {said} says: its SHA-256 is {found}, expected {expected}{more}; it was not kept"
    )


def hash_of_folder(source: str) -> CheckpointError:
    """A SHA-256 was given for a folder."""
    what = f"{source!r} is a folder, and a hash is that of one file; leave sha256 out, or name a file in it"
    return CheckpointError([Fault("sha256", what)])


@contextmanager
def telling(folder: Path, source: str) -> Iterator[None]:
    """Says of a failure to write what it means for the user.

    Args:
        folder: The cache that is written to.
        source: What is fetched, as it may be shown.

    Raises:
        CheckpointError: For any error of the operating system inside.
    """
    try:
        yield
    except OSError as failure:
        raise checkpoint_error(_meaning(failure, folder, source)) from failure


def _meaning(failure: OSError, folder: Path, source: str) -> str:
    if failure.errno in _FULL:
        return f"no space left in the cache {str(folder)!r} for {source!r}; {_ROOM}"
    if failure.errno in _CLOSED:
        return (
            f"{source!r} is not in the cache {str(folder)!r}, and cannot be put there: {failure.strerror}; let "
            f"TORCH_HOME name a folder that can be written to, or give the path of a copy of the file"
        )
    return f"{source!r} cannot be kept in the cache {str(folder)!r}: {failure.strerror or failure}"


@contextmanager
def locked(folder: Path, source: str) -> Iterator[None]:
    """Makes a folder of the cache and keeps other processes and threads out of it.

    A process that is killed inside holds nobody up. What it left is found by the next one.

    Args:
        folder: The folder, which may not exist yet.
        source: What is fetched, as it may be shown.

    Raises:
        CheckpointError: The folder cannot be made or locked.
    """
    with telling(folder, source):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _log.info("another process fetches %r; waiting for it", source)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def free_for(size: int, folder: Path, source: str) -> None:
    """Looks whether so many bytes fit, before they are fetched.

    Raises:
        CheckpointError: They do not.
    """
    free = shutil.disk_usage(folder).free
    if size > free:
        raise checkpoint_error(
            f"no space left in the cache {str(folder)!r} for {source!r}: it has {size} bytes, and {free} are "
            f"free; {_ROOM}"
        )


def publish(temporary: Path, final: Path) -> bool:
    """Gives a finished file its name, unless there is one of that name.

    Args:
        temporary: The file, in a folder of its own on the same file system; gone afterwards, if the answer is yes.
        final: Its name.

    Returns:
        Whether it has the name now. A file that was there before is left as it is.
    """
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    try:
        os.link(temporary, final, follow_symlinks=False)
    except FileExistsError:
        return False
    except OSError:
        # A file system without hard links, on which looking and renaming are two steps. Files of several sources may
        # want the same name.
        with FileLock(temporary.parents[1] / ".lock"):
            if os.path.lexists(final):
                return False
            temporary.replace(final)
        return True
    temporary.unlink()
    return True


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a path, with all links followed, is in the folder, and so is everything below it."""
    home = folder.resolve()
    below = (Path(root, name) for root, folders, files in os.walk(path) for name in (*folders, *files))
    return all(found.resolve().is_relative_to(home) for found in (path, *below))


def digest(path: Path) -> str:
    """The SHA-256 of a file as 64 digits; read once, until the file is another one or was written to."""
    stat = path.stat()
    state = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if state not in _digests:
        made = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                made.update(chunk)
        _digests[state] = made.hexdigest()
    return _digests[state]
