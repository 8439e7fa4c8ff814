"""Folders of ``torch.distributed.checkpoint``, as Lightning's FSDP and ModelParallel strategies write them too."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor

from lightning_init.checkpoint.base import Checkpoint, Entry, Piece, Reading
from lightning_init.checkpoint.formats import containers
from lightning_init.checkpoint.formats.dcp_chunks import Chunk, StoredTensor, stored_tensors
from lightning_init.checkpoint.formats.dcp_metadata import METADATA, Metadata, read_metadata
from lightning_init.checkpoint.formats.layouts import Record, read_zip
from lightning_init.checkpoint.formats.mapped import MappedFile, misplaced
from lightning_init.checkpoint.formats.stand_ins import Inert, Stored, kind
from lightning_init.errors import checkpoint_error
from lightning_init.sharding import Share
from lightning_init.text import quoted

__all__ = ["DcpCheckpoint"]


class DcpCheckpoint(Checkpoint):
    """A folder of ``torch.distributed.checkpoint``.

    Every process opens it on its own, whatever number of processes wrote it. Opening it reads the metadata alone, and
    `pieces` only the chunks that a share overlaps, and of these what lies in it: the files are memory-mapped. Values
    that are no tensors are never read: they are pickles.

    Args:
        folder: The folder.
        reading: What of it is wanted.
    """

    def __init__(self, folder: Path, reading: Reading) -> None:
        self.source = os.fspath(folder)
        self._files: dict[Path, MappedFile] = {}
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
            stored, record = self._find(tensor, tensor.chunks[0])
            return self._file(tensor.chunks[0].path).tensor(stored, record)
        try:
            whole = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
        except RuntimeError as error:
            raise checkpoint_error(
                f"{self.source!r} has {tensor.name!r} in a shape that torch does not allow: {tensor.shape}"
            ) from error
        for here, values in self.pieces(key, Share.of_all(tensor.shape)):
            whole[here] = values
        return whole

    def pieces(self, key: str, mine: Share) -> Iterator[Piece]:
        """What of an entry is in a share; see `Checkpoint.pieces`. No other chunks are looked at."""
        tensor = self._tensors[key]
        for chunk in tensor.chunks:
            if mine.overlaps(chunk.box.offsets, chunk.box.sizes):
                stored, record = self._find(tensor, chunk)
                yield from self._file(chunk.path).pieces(stored, record, mine, chunk.box.offsets)

    def _find(self, tensor: StoredTensor, chunk: Chunk) -> tuple[Stored, Record]:
        """Where the values of a chunk are in its file."""
        where = f"{self.source!r} cannot give {tensor.name!r}: its chunk at {chunk.box.offsets} in {chunk.path.name!r}"
        try:
            layout = read_zip(chunk.path, chunk.start, chunk.length)
        except Exception as error:
            # Damaged bytes come out of a zip archive and of a pickle as nearly any exception.
            raise checkpoint_error(
                f"{where} is damaged ({type(error).__name__}); fetch or save the folder again"
            ) from error
        found = layout.content
        if not isinstance(found, Stored):
            raise checkpoint_error(f"{where} is no plain dense tensor, but a {kind(found)}; save the folder again")
        if (found.shape, found.dtype) != (chunk.box.sizes, tensor.dtype):
            raise checkpoint_error(
                f"{where} has {found.shape}, {found.dtype}, where the metadata has {chunk.box.sizes}, "
                f"{tensor.dtype}; fetch or save the folder again"
            )
        record = layout.records.get(found.storage.key)
        if reason := misplaced(tensor.name, found, record):
            raise checkpoint_error(f"{where} is damaged: {reason}; fetch or save the folder again")
        if record is None or record.packed is not None or layout.swapped:
            how = "in the byte order of another kind of machine" if layout.swapped else "compressed"
            raise checkpoint_error(f"{where} is {how}, which cannot be read here; save the folder again")
        return found, record

    def _file(self, path: Path) -> MappedFile:
        if path not in self._files:
            try:
                self._files[path] = MappedFile(path)
            except (OSError, RuntimeError) as error:
                raise checkpoint_error(f"{str(path)!r} cannot be read: {error}") from error
        return self._files[path]

    def close(self) -> None:
        """Lets the folder go, once no tensor is a view of its files."""
        self._tensors = {}
        self._files = {}


def _is_tensor(value: object) -> TypeGuard[StoredTensor]:
    return isinstance(value, StoredTensor)


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
