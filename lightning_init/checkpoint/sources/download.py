"""One file from an HTTP server to a file on disk, tried again and resumed where that is safe."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp
import fsspec

from lightning_init.checkpoint.sources.addresses import redacted, scrub
from lightning_init.checkpoint.sources.background import run_on
from lightning_init.checkpoint.sources.cache import free_for
from lightning_init.checkpoint.sources.http_answers import (
    FailedError,
    Part,
    begins,
    described,
    refused,
    stay_encrypted,
    told,
)
from lightning_init.checkpoint.sources.progress import Progress, bar
from lightning_init.errors import CheckpointError, checkpoint_error

__all__ = ["download"]

_log = logging.getLogger(__name__)

PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds before a download is tried again that brought nothing; a part that can be kept starts the count anew."""

_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
_CHUNK = 1 << 20


def download(url: str, partial: Path, *, hashed: bool) -> bool:
    """Downloads a file.

    What an earlier try left is continued if the server can do so and the content is provably the same: it has the same
    strong ETag and size, or the same size and a hash that the caller checks afterwards.

    Args:
        url: Where from. Headers, proxies and timeouts are those of fsspec's configuration for ``http``.
        partial: Where to. Beside it, a file ``<name>.json`` says what it is a part of. Of a try that failed, only what
            can be continued is kept.
        hashed: The caller knows the hash of the file, and checks it.

    Returns:
        Whether the file was put together from several answers of the server.

    Raises:
        CheckpointError: It cannot be downloaded; the message holds no secrets of the URL.
        OSError: It cannot be written.
    """
    try:
        task = _Download(url, partial, hashed=hashed)
    except ValueError as failure:
        reason = f"{redacted(url)!r} is no URL: {scrub(str(failure), url)}"
    else:
        reason = task.run()
        if not reason:
            return task.pieced
    # Not in an except clause: the errors of libraries hold the URL, and would be its context.
    raise checkpoint_error(reason)


class _Download:
    def __init__(self, url: str, partial: Path, *, hashed: bool) -> None:
        self.url = url
        self.shown = redacted(url)
        self.partial = partial
        self.about = partial.with_name(f"{partial.name}.json")
        self.hashed = hashed
        self.pieced = False
        self.fs: Any = fsspec.filesystem("http")
        self.target: Any = self.fs.encode_url(url)
        if not self.target.host:
            raise ValueError("it names no host")

    def run(self) -> str:
        """Tries until it is here, or cannot be had: gives the reason then, and nothing otherwise."""
        tries = 0
        while True:
            before = self._kept()
            try:
                with bar(self.target.name) as progress:
                    run_on(self.fs.loop, self._try(progress))
            except FailedError as failed:
                kept = self._kept()
                if not kept:
                    self._discard()
                tries = 0 if kept > before else tries + 1
                if not failed.again:
                    return f"cannot download {self.shown!r}: {failed}"
                if tries > len(PAUSES):
                    return f"cannot download {self.shown!r}: {failed}; tried {tries} times"
                pause = PAUSES[max(tries, 1) - 1]
                _log.info("downloading %r: %s; trying again in %g s", self.shown, failed, pause)
                time.sleep(pause)
            except (OSError, CheckpointError):
                self._discard()
                raise
            else:
                self.about.unlink(missing_ok=True)
                return ""

    async def _try(self, progress: Progress) -> None:
        options = {"trust_env": True, "timeout": _TIMEOUT, **self.fs.client_kwargs}
        guard = aiohttp.TraceConfig()
        guard.on_request_redirect.append(stay_encrypted)
        options["trace_configs"] = [*options.get("trace_configs", ()), guard]
        failed: FailedError
        try:
            async with await self.fs.get_client(loop=self.fs.loop, **options) as session:
                await self._get(session, progress)
        except (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError) as failure:
            failed = told(failure, self.url, self._so_far())
        else:
            return
        raise failed

    async def _get(self, session: aiohttp.ClientSession, progress: Progress) -> None:
        start, part = self._kept(), Part.read(self.about)
        options = dict(self.fs.kwargs)
        # A length, and a part of a file, mean something only for the bytes as they are.
        options["headers"] = {**options.get("headers", {}), "Accept-Encoding": "identity"}
        if start:
            options["headers"]["Range"] = f"bytes={start}-"
            if part and part.etag:
                options["headers"]["If-Range"] = part.etag
        async with session.get(self.target, **options) as response:
            if response.status not in (200, 206):
                if response.status == 416:
                    self._discard()
                raise refused(response)
            known = described(response)
            if response.status == 206 and not (start and known == part and begins(response) == start):
                self._discard()
                raise FailedError("the server continued another file than the one that was begun", again=True)
            if response.status == 200:
                start = 0
                self._begin(response, known)
            self.pieced = start > 0
            if known:
                free_for(known.size - start, self.partial.parent, self.shown)
                progress.set_size(known.size)
            progress.absolute_update(start)
            with self.partial.open("ab") as file:
                async for chunk in response.content.iter_chunked(_CHUNK):
                    file.write(chunk)
                    progress.relative_update(len(chunk))
            if known and self.partial.stat().st_size != known.size:
                raise FailedError(f"the connection ended before the file did; {self._so_far()}", again=True)

    def _begin(self, response: aiohttp.ClientResponse, known: Part | None) -> None:
        if known is None and response.headers.get("Transfer-Encoding", "").lower() != "chunked" and not self.hashed:
            raise FailedError(
                "the server does not say how long it is, so a part of it would pass for the whole; give its sha256",
                again=False,
            )
        self._discard()
        if known:
            self.about.write_text(json.dumps(asdict(known)), encoding="utf-8")

    def _kept(self) -> int:
        """How many bytes are here that a next try can continue."""
        part = Part.read(self.about)
        if part is None or not (part.etag or self.hashed) or not self.partial.is_file():
            return 0
        size = self.partial.stat().st_size
        return size if size < part.size else 0

    def _so_far(self) -> str:
        here = self.partial.stat().st_size if self.partial.is_file() else 0
        part = Part.read(self.about)
        return f"{here} of {part.size if part else 'an unknown number of'} bytes came"

    def _discard(self) -> None:
        self.about.unlink(missing_ok=True)
        self.partial.unlink(missing_ok=True)
