"""What the answers of an HTTP server, and the lack of them, mean for a download."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from lightning_init.checkpoint.sources.addresses import redacted, scrub

__all__ = ["FailedError", "Part", "begins", "described", "refused", "stay_encrypted", "told"]

# More digits than any file needs are a burden to int.
_COUNT = re.compile(r"[0-9]{1,18}")

_HEADERS = '{"http": {"client_kwargs": {"headers": {"Authorization": "Bearer ..."}}}}'


class FailedError(Exception):
    """A try that failed; its text holds no secrets.

    Args:
        text: What happened.
        again: Another try may do better.
    """

    def __init__(self, text: str, *, again: bool) -> None:
        super().__init__(text)
        self.again = again


@dataclass(frozen=True)
class Part:
    """What is known of the whole file that a part on disk belongs to.

    Attributes:
        size: How many bytes it has.
        etag: The server's strong name for its content; empty if it gave none.
    """

    size: int
    etag: str

    @classmethod
    def read(cls, path: Path) -> Part | None:
        """What was written down; nothing if it was not, or not to the end."""
        with suppress(OSError, ValueError, TypeError):
            return cls(**json.loads(path.read_bytes()))
        return None


async def stay_encrypted(_: aiohttp.ClientSession, __: object, step: aiohttp.TraceRequestRedirectParams) -> None:
    """Refuses a redirect from https to http: whoever is in between could send other weights."""
    # aiohttp follows the second one too, which no standard knows.
    target = (step.response.headers.get("Location") or step.response.headers.get("URI") or "").strip()
    if step.url.scheme == "https" and target.lower().startswith("http:"):
        raise FailedError(
            f"the server redirects from https to {redacted(target)!r}, which is not encrypted", again=False
        )


def described(response: aiohttp.ClientResponse) -> Part | None:
    """The whole file that an answer, of all or a part of it, is about; nothing where it does not say how long it is."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        return None
    size = response.headers.get("Content-Length", "")
    if response.status == 206:
        size = response.headers.get("Content-Range", "").rpartition("/")[2]
    etag = response.headers.get("ETag", "")
    return Part(int(size), "" if etag.startswith("W/") else etag) if _COUNT.fullmatch(size) else None


def begins(response: aiohttp.ClientResponse) -> int:
    """At which byte of the file the answer begins that brings a part of it; -1 where it does not say."""
    found = re.match(r"bytes ([0-9]{1,18})-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else -1


def refused(response: aiohttp.ClientResponse) -> FailedError:
    """What an answer says that brings no file."""
    status = response.status
    text = f"the server answers {status} {scrub(response.reason or '', str(response.url))}".rstrip()
    if status in (401, 403, 407):
        text += f"; if it wants a token, give it in fsspec's configuration: {_HEADERS}"
    elif 300 <= status < 400:
        text += ", without a place to look for it"
    # 408 and 429: it has no time now. 416: what is here is no part of the file any more.
    return FailedError(text, again=status in (408, 416, 429) or status >= 500)


def told(failure: Exception, url: str, so_far: str) -> FailedError:
    """What an error of aiohttp says, without the secrets of the URL.

    Args:
        failure: The error.
        url: What was asked for.
        so_far: How much came, as a sentence.
    """
    # First, since some are errors of the connection as well.
    if isinstance(failure, asyncio.TimeoutError):
        return FailedError(f"the server does not answer any more; {so_far}", again=True)
    if isinstance(failure, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError):
        return FailedError(f"the connection ended before the file did; {so_far}", again=True)
    # One line: of an answer that is no HTTP, aiohttp shows the bytes in the next ones.
    text = scrub(str(failure).replace("\\n", "\n").partition("\n")[0], url)
    if isinstance(failure, aiohttp.TooManyRedirects):
        return FailedError("the server redirects in circles", again=False)
    if isinstance(failure, aiohttp.NonHttpUrlClientError):
        return FailedError(f"the server redirects to {text!r}; only http and https are followed", again=False)
    final = (aiohttp.ClientSSLError, aiohttp.ClientConnectorDNSError, aiohttp.InvalidURL)
    return FailedError(text or type(failure).__name__, again=not isinstance(failure, final))
