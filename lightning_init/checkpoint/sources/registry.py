"""The schemes that a source may have, and the function that fetches the addresses of each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote

from lightning_init.checkpoint.sources.addresses import redacted, scheme_of
from lightning_init.errors import CheckpointError, Fault

__all__ = ["SOURCES", "Source", "register_source"]

Source: TypeAlias = Callable[[str, str | None], Path]
"""Turns a whole address (``"file:///w.pth"``) into the path of a file or folder on this machine.

The second argument is the SHA-256 that the user expects of the file, or its first digits, in lower case; ``None`` where
nothing is said. Whatever the function returns is checked against it afterwards; it is given so that a copy in a cache
can be told from others.
"""

SOURCES: dict[str, Source] = {}
"""The function of each scheme. A source without a scheme is a path and needs none."""


def register_source(scheme: str) -> Callable[[Source], Source]:
    """Decorator: the function that fetches addresses of this scheme.

    Args:
        scheme: What stands before ``://``, in lower case.

    Raises:
        CheckpointError: The scheme is none or is taken, or what is decorated cannot be called.

    Example:
        A `Pretrained` rule with ``checkpoint="lab://resnet/best.pth"`` then reads the file that this function returns.
        It is called on one rank of each node before the others. What it raises as `CheckpointError` is told as it is.

        >>> @register_source("lab")
        ... def fetch(address: str, sha256: str | None) -> Path:
        ...     return Path("/mnt/lab/weights", address.removeprefix("lab://"))
        >>> SOURCES["lab"]("lab://resnet/best.pth", None).as_posix()
        '/mnt/lab/weights/resnet/best.pth'
        >>> del SOURCES["lab"]
    """
    if not isinstance(scheme, str) or scheme_of(f"{scheme}://") != scheme:
        raise CheckpointError(f"a source is registered by its scheme, such as 'lab', in lower case, got {scheme!r}")

    def add(function: Source) -> Source:
        if not callable(function):
            raise CheckpointError(f"{function!r} cannot fetch the addresses of {scheme!r}: it cannot be called")
        if scheme in SOURCES:
            raise CheckpointError(f"the checkpoint source {scheme!r} is taken by {SOURCES[scheme]!r}")
        SOURCES[scheme] = function
        return function

    return add


@register_source("file")
def _file(address: str, _: str | None) -> Path:
    host = address[len("file://") :].partition("/")[0]
    if host not in ("", "localhost"):
        raise CheckpointError(
            [
                Fault(
                    "checkpoint",
                    f"{redacted(address)!r} names the host {host.rpartition('@')[2]!r}; an address of a file on this "
                    f"machine has three slashes, as in 'file:///folder/weights.pth'",
                )
            ]
        )
    # Unlike urlsplit: in the name of a file, "?" and "#" are letters like others.
    return Path(unquote(address[len("file://") + len(host) :]))
