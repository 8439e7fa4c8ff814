"""What a file or folder is, told by its content."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lightning_init.checkpoint.base import Checkpoint, Reading
from lightning_init.checkpoint.folders import checkpoint_in
from lightning_init.checkpoint.formats.dcp import DcpCheckpoint
from lightning_init.checkpoint.formats.safetensors_files import SafetensorsCheckpoint
from lightning_init.checkpoint.formats.sharded import ShardedCheckpoint
from lightning_init.checkpoint.formats.torch_files import open_torch_file
from lightning_init.checkpoint.index import is_index
from lightning_init.errors import checkpoint_error

__all__ = ["FORMATS", "Format", "open_checkpoint"]

_HEAD = 512


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        name: For messages.
        recognise: Says from the path (of a file or folder) and the first 512 bytes (none of a folder) whether it is of
            this kind.
        open: Opens one.
    """

    name: str
    recognise: Callable[[Path, bytes], bool]
    open: Callable[[Path, Reading], Checkpoint]


FORMATS: list[Format] = [
    Format("torch.save", lambda _, head: head.startswith(b"PK\x03\x04"), partial(open_torch_file, zipped=True)),
    # A pickle of protocol 2 to 5 starts with its number.
    Format(
        "legacy torch.save",
        lambda _, head: head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"),
        partial(open_torch_file, zipped=False),
    ),
    # Eight bytes of length, of which a header that is not absurd leaves the upper ones zero, then JSON.
    Format("safetensors", lambda _, head: head[5:9] == b"\0\0\0{", SafetensorsCheckpoint),
    Format(
        "sharded (*.index.json)",
        lambda _, head: is_index(head),
        lambda path, reading: ShardedCheckpoint(path, reading, open_shard=open_checkpoint),
    ),
    Format("torch.distributed.checkpoint folder", DcpCheckpoint.recognise, DcpCheckpoint),
]
"""The kinds of files that can be read, in the order in which they are tried."""

# What people hand over by mistake, and what they should do.
_STRANGERS: Sequence[tuple[bytes, int, str]] = [
    (b"version https://git-lfs", 0, "a Git LFS pointer, not the file itself; run 'git lfs pull'"),
    (b"\x1f\x8b", 0, "compressed with gzip; unpack it first"),
    (b"ustar", 257, "a tar archive; unpack it, or load and save it again with a current torch if torch < 0.2 wrote it"),
    (b"\x89HDF", 0, "an HDF5 file, perhaps of Keras; convert its weights to a state dict first"),
    (b"GGUF", 0, "a GGUF file; convert its weights to safetensors first"),
]


def open_checkpoint(path: Path, reading: Reading | None = None) -> Checkpoint:
    """Opens a checkpoint, whatever its name says: the content tells its format.

    No code from the file is run. Only names and shapes are read here, and the values when they are asked for.

    Args:
        path: A file or folder on this machine.
        reading: What of it is wanted.

    Raises:
        CheckpointError: It cannot be opened, is cut off, is no checkpoint, or holds no tensor where it is wanted.
    """
    if path.is_dir():
        path = checkpoint_in(path)
    head = b"" if path.is_dir() else _head(path)
    for known in FORMATS:
        if known.recognise(path, head):
            return known.open(path, reading or Reading())
    raise checkpoint_error(
        f"{str(path)!r} is {_stranger(head)}; known formats are {', '.join(known.name for known in FORMATS)}"
    )


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD)
    except OSError as error:
        raise checkpoint_error(f"{str(path)!r} cannot be opened: {error.strerror or error}") from error


def _stranger(head: bytes) -> str:
    for mark, offset, what in _STRANGERS:
        if head[offset:].startswith(mark):
            return what
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page (HTML), not a checkpoint; the download must name the file itself, not the page that shows it"
    try:
        # Incremental, since the last character may be cut.
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        text = ""
    if text and all(character >= " " or character.isspace() for character in text):
        return f"text, not a checkpoint: it starts with {text[:40]!r}"
    return f"no checkpoint: it starts with the bytes {head[:16].hex(' ')}"
