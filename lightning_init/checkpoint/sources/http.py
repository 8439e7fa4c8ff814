"""``http://`` and ``https://``: files of a web server, in the cache that ``torch.hub`` has."""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import re
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

import torch

from lightning_init.checkpoint.sources.addresses import redacted
from lightning_init.checkpoint.sources.cache import digest, is_inside, locked, publish, telling, wrong_hash
from lightning_init.checkpoint.sources.halves import is_cut_off
from lightning_init.checkpoint.sources.registry import register_source
from lightning_init.checkpoint.sources.shards import INDEX, shard_names
from lightning_init.errors import checkpoint_error

__all__ = ["fetch"]

_log = logging.getLogger(__name__)

# The convention of torch.hub, but for a date of eight digits, which nobody means as a hash.
_HASH = re.compile(r"-(?!(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\.)([a-f0-9]{8,64})\.")

_PAGES = (b"<!doctype html", b"<html")


@register_source("https")
@register_source("http")
def fetch(url: str, sha256: str | None) -> Path:
    """The file of a URL, downloaded unless it is in the cache.

    It is kept where ``torch.hub`` keeps it: under the last part of its path, in the folder ``checkpoints`` below
    ``torch.hub.get_dir()``. A file of that name that is there already is taken only if it is known to be the same: by
    its hash, or because it was downloaded from this URL. Otherwise it is left as it is, and the one of this URL is kept
    in a folder of its own, hidden in the same one. A file of which no hash is known is not asked for again: remove it
    to have it downloaded anew.

    With the index of a sharded checkpoint come the shards that it names.

    Args:
        url: The URL.
        sha256: The SHA-256 of the file, or its first digits; else those count that its name ends with, as in
            ``resnet18-f37072fd.pth``.

    Raises:
        CheckpointError: It cannot be downloaded or kept, or is not what its hash says.
    """
    return _Url(url, sha256).fetch()


class _Url:
    def __init__(self, url: str, sha256: str | None) -> None:
        self.url = url
        self.shown = redacted(url)
        try:
            parts = urlsplit(url)
        except ValueError:
            parts = urlsplit("")
        self.name = parts.path.rpartition("/")[2]
        if self.name in ("", ".", ".."):
            raise checkpoint_error(f"{self.shown!r} names no file: its path must end with the name of one")
        in_name = _HASH.search(self.name)
        self.hash = sha256 or (in_name[1] if in_name else None)
        self.said = "sha256" if sha256 else "its name"
        self.checkpoints = Path(torch.hub.get_dir(), "checkpoints")
        self.shared = self.checkpoints / self.name
        # Whoever asks, it is the same file, so that a token that changes is not part of the key.
        same = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, parts.query, ""))
        key = hashlib.sha256(same.encode()).hexdigest()[:32]
        self.folder = self.checkpoints / ".lightning_init" / key
        # Below, where no name that a URL may end with is that of a file of ours.
        self.own = self.folder / "whole" / self.name
        self.origin = self.folder / "origin.json"

    def fetch(self) -> Path:
        with telling(self.folder, self.shown):
            if not is_inside(self.folder, self.checkpoints):
                raise checkpoint_error(
                    f"{self.shown!r}: in the cache, {str(self.folder)!r} holds a link that leads out of it; remove it"
                )
            here = self._shards_here() if self.name.endswith(INDEX) else self._here()
        if here is not None:
            return here
        with locked(self.folder, self.shown), telling(self.folder, self.shown):
            return self._fetch_shards() if self.name.endswith(INDEX) else self._here() or self._fetch()

    def _here(self) -> Path | None:
        """The file, if it is in the cache."""
        for path in (self.shared, self.own):
            if os.path.lexists(path) and not is_inside(path, self.checkpoints):
                raise checkpoint_error(
                    f"{self.shown!r}: in the cache, {str(path)!r} is a link that leads out of it, to "
                    f"{str(path.resolve())!r}; remove it, or give that path in place of the URL"
                )
            if path.is_file() and self._is_this(path):
                return path
        return None

    def _is_this(self, path: Path) -> bool:
        if self.hash:
            return digest(path).startswith(self.hash)
        if path == self.own:
            return True
        try:
            return bool(json.loads(self.origin.read_bytes()) == _state(path))
        except (OSError, ValueError):
            return False

    def _fetch(self) -> Path:
        partial = self._download(self.url, self.hash)
        if publish(partial, self.shared):
            self._remember()
            return self.shared
        if self.shared.is_file() and digest(self.shared) == digest(partial):
            partial.unlink()
            self._remember()
            return self.shared
        # It may be somebody's whom nothing tells us about.
        _log.warning(
            "%r is kept as %r, since %r is another file of that name, which torch.hub would have taken for it",
            self.shown,
            str(self.own),
            str(self.shared),
        )
        self.own.parent.mkdir(exist_ok=True)
        partial.replace(self.own)
        return self.own

    def _download(self, url: str, expected: str | None) -> Path:
        """A file in the folder of this URL that holds what a URL does, checked as far as it can be."""
        from lightning_init.checkpoint.sources.download import download  # noqa: PLC0415 - aiohttp takes time

        partial = self.folder / "partial"
        _log.info("downloading %r to %r", redacted(url), str(self.checkpoints))
        pieced = download(url, partial, hashed=expected is not None)
        if expected and pieced and not digest(partial).startswith(expected):
            # The pieces may be of two files.
            partial.unlink()
            download(url, partial, hashed=True)
        found = digest(partial)
        if expected and not found.startswith(expected):
            partial.unlink()
            raise wrong_hash(redacted(url), self.said, found, expected)
        if wrong := _wrong(partial):
            partial.unlink()
            raise checkpoint_error(f"{redacted(url)!r} is {wrong}; it was not kept")
        return partial

    def _remember(self) -> None:
        """Notes that the file in torch.hub's place is the one of this URL."""
        self.origin.write_text(json.dumps(_state(self.shared)), encoding="utf-8")

    def _shards_here(self) -> Path | None:
        for index in sorted(self.folder.glob(f"*/{glob.escape(self.name)}")):
            complete = all((index.parent / name).is_file() for name in shard_names(index, self.shown))
            if complete and (not self.hash or digest(index).startswith(self.hash)):
                return index
        return None

    def _fetch_shards(self) -> Path:
        if here := self._shards_here():
            return here
        index = self._download(self.url, self.hash).replace(self.folder / "index.json")
        # Shards that another index named, under the same names, are other files.
        folder = self.folder / digest(index)[:32]
        for name in shard_names(index, self.shown):
            if not (folder / name).is_file():
                partial = self._download(urljoin(self.url, quote(name)), None)
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                partial.replace(folder / name)
        # The index has its name once all that it names is there.
        return index.replace(folder / self.name)


def _wrong(path: Path) -> str:
    """What a file is that is no checkpoint, however it was downloaded; empty if it may be one."""
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return "an empty file"
    if head.lstrip().lower().startswith(_PAGES):
        return (
            "a web page (HTML), not a checkpoint; give the URL of the file itself, not of the page that shows it or "
            "asks for a login"
        )
    return "cut off: the server sent less than the file says of itself" if is_cut_off(path) else ""


def _state(path: Path) -> list[int]:
    """What changes when a file does; whole seconds, which archives keep."""
    stat = path.stat()
    return [stat.st_size, int(stat.st_mtime)]
