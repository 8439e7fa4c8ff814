"""Every other scheme that fsspec knows (``s3://``, ``gs://``, ...), copied into a cache on this machine."""

from __future__ import annotations

import errno
import glob
import hashlib
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast

import fsspec
import torch

from lightning_init.checkpoint.confined import unsafe
from lightning_init.checkpoint.sources.addresses import redacted, scheme_of, scrub
from lightning_init.checkpoint.sources.cache import (
    digest,
    free_for,
    hash_of_folder,
    is_inside,
    locked,
    telling,
    wrong_hash,
)
from lightning_init.checkpoint.sources.progress import bar
from lightning_init.checkpoint.sources.shards import INDEX, check_names, shard_names
from lightning_init.errors import checkpoint_error

__all__ = ["fetch", "schemes"]

T = TypeVar("T")

_LOOK = "cannot be looked at"

_log = logging.getLogger(__name__)

# What file systems call their name for the content of a file.
_CONTENT = ("ETag", "etag", "md5Hash", "content_md5")

# Errors of the disk here; what a library raises for the remote has other numbers, or none.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}


def schemes() -> list[str]:
    """The schemes that fsspec knows, be their packages installed or not."""
    return sorted(fsspec.available_protocols())


def fetch(address: str, sha256: str | None) -> Path:
    """The file or folder of an address, copied unless it is in the cache.

    The remote is asked each time what it holds now. Each version of it has a folder of its own, below
    ``lightning_init`` in ``torch.hub.get_dir()``; older ones stay until they are removed by hand. With the index of a
    sharded checkpoint come the shards that it names.

    Args:
        address: An address of fsspec; a chain (``"zip://w.pth::s3://bucket/all.zip"``) as well.
        sha256: The SHA-256 of the file, or its first digits. If a file in the cache has it, the remote is not asked.

    Raises:
        CheckpointError: There is no such file, the remote cannot be asked, a package is missing, or the file cannot be
            kept.
    """
    return _Remote(address, sha256).fetch()


@dataclass(frozen=True)
class _File:
    """A file of the remote, as it is now.

    Attributes:
        path: Its name there.
        size: How many bytes it has, if that is known.
        version: What changes when its content does.
    """

    path: str
    size: int | None
    version: str

    @classmethod
    def of(cls, fs: Any, path: str, info: Mapping[str, Any]) -> _File:
        named = next((info[name] for name in _CONTENT if info.get(name)), None)
        return cls(path, info.get("size"), str(named or fs.ukey(path)))

    @classmethod
    def at(cls, fs: Any, path: str) -> _File:
        return cls.of(fs, path, fs.info(path))


class _Remote:
    def __init__(self, address: str, sha256: str | None) -> None:
        self.address = address
        self.shown = redacted(address)
        self.hash = sha256
        scheme = scheme_of(address) or ""
        self.home = Path(torch.hub.get_dir(), "lightning_init")
        self.folder = self.home / f"{scheme}-{hashlib.sha256(address.encode()).hexdigest()[:32]}"
        # Known from the address alone, since the remote may be out of reach.
        outer = next((part for part in address.split("::") if "://" in part), "")
        name = PurePosixPath(outer.partition("://")[2].partition("?")[0]).name
        self.name = "checkpoint" if unsafe(name) else name

    def fetch(self) -> Path:
        with telling(self.folder, self.shown):
            if found := self._by_hash():
                return found
        fs, path = self._ask("cannot be opened", lambda: fsspec.core.url_to_fs(self.address))
        files = self._files(fs, path)
        target = self.folder / _key(files) / self.name
        with telling(self.folder, self.shown):
            if found := self._here(target):
                return found
        with locked(self.folder, self.shown), telling(self.folder, self.shown):
            return self._here(target) or self._fetch(fs, path, files, target)

    def _by_hash(self) -> Path | None:
        if self.hash is None:
            return None
        copies = (self._here(path) for path in sorted(self.folder.glob(f"*/{glob.escape(self.name)}")))
        return next((path for path in copies if path and path.is_file() and digest(path).startswith(self.hash)), None)

    def _here(self, target: Path) -> Path | None:
        if target.exists() and not is_inside(target.parent, self.home):
            raise checkpoint_error(
                f"{self.shown!r}: in the cache, {str(target.parent)!r} holds a link that leads out of it; remove it"
            )
        return target if target.exists() else None

    def _files(self, fs: Any, path: str) -> dict[str, _File]:
        """What is to be copied, under the names that the files get here."""

        def look() -> Mapping[str, Any]:
            fs.invalidate_cache()
            return cast("Mapping[str, Any]", fs.info(path))

        info = self._ask(_LOOK, look)
        if info["type"] == "directory":
            return self._in_folder(fs, path)
        if info.get("size") == 0:
            raise checkpoint_error(f"{self.shown!r} is an empty file; it was not kept")
        files = {self.name: self._ask(_LOOK, partial(_File.of, fs, path, info))}
        if self.name.endswith(INDEX):
            for name in self._shards(fs, path):
                there = f"{path[: -len(self.name)]}{name}"
                absent = f"{self.shown!r} names the shard {name!r}, but there is no such file"
                files[name] = self._ask(_LOOK, partial(_File.at, fs, there), absent)
        return files

    def _in_folder(self, fs: Any, path: str) -> dict[str, _File]:
        if self.hash:
            raise hash_of_folder(self.shown)
        start = f"{path.rstrip('/')}/"
        found = self._ask(_LOOK, lambda: fs.find(path, detail=True))
        # Some file systems list the folder itself as an empty file.
        names = sorted(name for name in found if name.startswith(start) and not name.endswith("/"))
        if not names:
            raise checkpoint_error(f"{self.shown!r} is a folder without a file in it")
        check_names([name.removeprefix(start) for name in names], self.shown)
        return {
            f"{self.name}/{name.removeprefix(start)}": self._ask(_LOOK, partial(_File.of, fs, name, found[name]))
            for name in names
        }

    def _shards(self, fs: Any, path: str) -> list[str]:
        content = self._ask(_LOOK, lambda: fs.cat_file(path))
        with TemporaryDirectory() as folder:
            index = Path(folder, self.name)
            index.write_bytes(content)
            return shard_names(index, self.shown)

    def _fetch(self, fs: Any, path: str, files: Mapping[str, _File], target: Path) -> Path:
        temporary = self.folder / "temporary"
        # Of a process that was killed.
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        _log.info("copying %r to %r", self.shown, str(target))
        try:
            free_for(sum(file.size or 0 for file in files.values()), temporary, self.shown)
            for name, file in files.items():
                self._copy(fs, file, temporary / name)
            if self.hash and not (found := digest(temporary / self.name)).startswith(self.hash):
                raise wrong_hash(self.shown, "sha256", found, self.hash)
            if self._files(fs, path) != files:
                raise checkpoint_error(
                    f"{self.shown!r} was written to while it was copied; try again once that is done"
                )
            temporary.replace(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return target

    def _copy(self, fs: Any, file: _File, here: Path) -> None:
        here.parent.mkdir(parents=True, exist_ok=True)
        with bar(here.name) as progress:
            self._ask("cannot be copied", partial(fs.get_file, file.path, str(here), callback=progress))
        if file.size is not None and here.stat().st_size != file.size:
            raise checkpoint_error(
                f"{self.shown!r}: of {here.name!r}, {here.stat().st_size} bytes came, expected {file.size}"
            )

    def _ask(self, what: str, run: Callable[[], T], absent: str = "") -> T:
        """Runs something that asks the remote; what its library raises is told without the secrets of the address."""
        try:
            return run()
        except FileNotFoundError:
            reason = absent or f"no such file or folder: {self.shown!r}"
        except ImportError as failure:
            reason = self._missing(failure)
        except OSError as failure:
            if failure.errno in _DISK:
                raise
            reason = self._reason(what, failure)
        except Exception as failure:  # noqa: BLE001 - every library has errors of its own
            reason = self._reason(what, failure)
        # Not in an except clause: the errors of libraries hold the address, and would be shown as its context.
        raise checkpoint_error(reason)

    def _missing(self, failure: ImportError) -> str:
        scheme = scheme_of(self.address) or ""
        inner = {scheme_of(part) or part for part in self.address.split("::")}
        extra = next((_EXTRAS[name] for name in sorted(inner) if name in _EXTRAS), None)
        if extra:
            return f'{self.shown!r} needs a package that is not installed: pip install "lightning-init[{extra}]"'
        return f"{self.shown!r} needs a package for {scheme!r}: {scrub(str(failure), self.address)}"

    def _reason(self, what: str, failure: Exception) -> str:
        text = scrub(str(failure) or type(failure).__name__, self.address)
        message = f"{self.shown!r} {what}: {text}"
        if any(self.folder.glob(f"*/{glob.escape(self.name)}")):
            message += (
                f"; there is a copy in the cache {str(self.folder)!r}, but whether it is what the remote holds now "
                f"cannot be told without asking it; with sha256= it would be taken, and so it would as a path"
            )
        return message


def _key(files: Mapping[str, _File]) -> str:
    told = sorted((name, file.size, file.version) for name, file in files.items())
    return hashlib.sha256(repr(told).encode()).hexdigest()[:32]
