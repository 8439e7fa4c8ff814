"""Folders of ``torch.distributed.checkpoint``, as Lightning's FSDP and ModelParallel strategies write them too."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeGuard, cast

import torch
from torch import Tensor

from lightning_init.checkpoint.base import Checkpoint, Entry, Reading
from lightning_init.checkpoint.formats import containers
from lightning_init.checkpoint.formats.dcp_chunks import Chunk, StoredTensor, stored_tensors
from lightning_init.checkpoint.formats.dcp_metadata import METADATA, Metadata, read_metadata
from lightning_init.checkpoint.formats.stand_ins import Inert
from lightning_init.errors import checkpoint_error
from lightning_init.text import quoted

if TYPE_CHECKING:
    # torch needs the package, but this one does not.
    from typing_extensions import Buffer

__all__ = ["DcpCheckpoint"]


class DcpCheckpoint(Checkpoint):
    """A folder of ``torch.distributed.checkpoint``.

    Every process opens it on its own, whatever number of processes wrote it. Opening it reads the metadata alone, and
    `read` the chunks of one tensor, one at a time. Values that are no tensors are never read: they are pickles.

    Args:
        folder: The folder.
        reading: What of it is wanted.
    """

    def __init__(self, folder: Path, reading: Reading) -> None:
        self.source = os.fspath(folder)
        metadata = read_metadata(folder)
        tensors = stored_tensors(folder, metadata)
        content = _nested(metadata, tensors, self.source)
        self._tensors, self.notes = containers.find(content, reading, self.source, _is_tensor)
        self.entries = {key: Entry(tensor.shape, tensor.dtype) for key, tensor in self._tensors.items()}
        if metadata.others:
            names = quoted(metadata.others)
            self.notes += (f"values that are no tensors were not read: {names}",)

    @staticmethod
    def recognise(path: Path, _: bytes) -> bool:
        """Whether a path is such a folder."""
        return (path / METADATA).is_file()

    def read(self, key: str) -> Tensor:
        """The values under one of the entries; see `Checkpoint.read`."""
        tensor = self._tensors[key]
        if len(tensor.chunks) == 1:
            return self._read(tensor, tensor.chunks[0])
        try:
            whole = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
        except RuntimeError as error:
            raise checkpoint_error(
                f"{self.source!r} has {tensor.name!r} in a shape that torch does not allow: {tensor.shape}"
            ) from error
        for chunk in tensor.chunks:
            start = chunk.box.offsets
            part = tuple(slice(o, o + n) for o, n in zip(start, chunk.box.sizes, strict=True))
            whole[part] = self._read(tensor, chunk)
        return whole

    def _read(self, tensor: StoredTensor, chunk: Chunk) -> Tensor:
        where = f"{self.source!r} cannot give {tensor.name!r}: its chunk at {chunk.box.offsets} in {chunk.path.name!r}"
        try:
            with chunk.path.open("rb", buffering=0) as file:
                part: object = torch.load(cast("IO[bytes]", _Slice(file, chunk)), map_location="cpu", weights_only=True)
        except Exception as error:
            # Damaged bytes come out of torch as nearly any exception.
            raise checkpoint_error(
                f"{where} is damaged ({type(error).__name__}); fetch or save the folder again"
            ) from error
        if not _is_plain(part):
            raise checkpoint_error(
                f"{where} is no plain dense tensor, but a {type(part).__name__}; save the folder again"
            )
        if (tuple(part.shape), part.dtype) != (chunk.box.sizes, tensor.dtype):
            raise checkpoint_error(
                f"{where} has {tuple(part.shape)}, {part.dtype}, where the metadata has {chunk.box.sizes}, "
                f"{tensor.dtype}; fetch or save the folder again"
            )
        return part.detach()

    def close(self) -> None:
        """Lets the folder go."""
        self._tensors = {}


def _is_tensor(value: object) -> TypeGuard[StoredTensor]:
    return isinstance(value, StoredTensor)


def _is_plain(value: object) -> TypeGuard[Tensor]:
    return type(value) is Tensor and value.device.type == "cpu" and value.layout == torch.strided


def _nested(metadata: Metadata, tensors: Mapping[str, StoredTensor], source: str) -> dict[object, object]:
    """What was saved: torch flattens it and notes the paths."""
    content: dict[object, object] = {}
    for name, value in {**dict.fromkeys(metadata.others, Inert("pickle")), **tensors}.items():
        *parts, last = metadata.paths.get(name, (name,))
        inner: object = content
        for part in parts:
            inner = inner.setdefault(part, {}) if isinstance(inner, dict) else None
        if not isinstance(inner, dict) or last in inner:
            raise checkpoint_error(
                f"{source!r} has {name!r} at a place where something else is too; fetch or save it again"
            )
        inner[last] = value
    return content


class _Slice(io.RawIOBase):
    """The bytes of a chunk as a file of its own, read into the memory of the one that asks."""

    def __init__(self, file: io.FileIO, chunk: Chunk) -> None:
        self._file, self._start, self._length, self._at = file, chunk.start, chunk.length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length}[whence] + offset
        return self._at

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer)[: max(self._length - self._at, 0)]
        self._file.seek(self._start + self._at)
        count = self._file.readinto(view)
        self._at += count
        return count
