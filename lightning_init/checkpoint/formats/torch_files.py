"""Files that ``torch.save`` wrote."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from lightning_init.checkpoint.base import Checkpoint, Entry, Piece, Reading
from lightning_init.checkpoint.formats import pickles
from lightning_init.checkpoint.formats.containers import find
from lightning_init.checkpoint.formats.layouts import Layout, Record, read_legacy, read_zip
from lightning_init.checkpoint.formats.mapped import MappedFile, misplaced
from lightning_init.checkpoint.formats.stand_ins import Stored, Unusual
from lightning_init.errors import CheckpointError, checkpoint_error
from lightning_init.sharding import Share
from lightning_init.text import some

__all__ = ["LoadedCheckpoint", "TorchCheckpoint", "open_torch_file"]


def open_torch_file(path: Path, reading: Reading, *, zipped: bool) -> Checkpoint:
    """Opens a file of ``torch.save``.

    Args:
        path: The file.
        reading: What of it is wanted. Without ``safe_globals``, other classes in it are left unread.
        zipped: It is a zip archive, and no legacy file.

    Raises:
        CheckpointError: It is damaged, something else wrote it, or there are no tensors where they are wanted.
    """
    try:
        layout = read_zip(path) if zipped else read_legacy(path)
    except CheckpointError:
        raise
    except Exception as error:
        raise pickles.damaged(path, error) from error
    if not reading.safe_globals and not layout.swapped:
        found, notes = find(layout.content, reading, os.fspath(path), _is_described)
        plain = {key: tensor for key, tensor in found.items() if isinstance(tensor, Stored)}
        if len(plain) == len(found):
            return TorchCheckpoint(path, plain, layout.records, (*notes, *_unread(layout)))
    content = pickles.load(path, reading.safe_globals, layout.names, mapped=zipped)
    loaded, notes = find(content, reading, os.fspath(path), _is_dense)
    return LoadedCheckpoint(path, loaded, notes)


def _is_described(value: object) -> TypeGuard[Stored | Unusual]:
    return isinstance(value, Stored | Unusual)


def _is_dense(value: object) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and not is_lazy(value) and not value.is_nested


def _unread(layout: Layout) -> tuple[str, ...]:
    foreign = layout.foreign
    if not foreign:
        return ()
    return (f"other things than tensors were left unread: {some(foreign, 8)}{pickles.caution(foreign)}",)


class TorchCheckpoint(Checkpoint):
    """A file of ``torch.save``, memory-mapped.

    Args:
        path: The file.
        tensors: Where its tensors lie in their storages.
        records: Where the storages lie in the file.
        notes: What the user may want to know.
    """

    def __init__(
        self, path: Path, tensors: Mapping[str, Stored], records: Mapping[str, Record], notes: tuple[str, ...]
    ) -> None:
        self.source = os.fspath(path)
        self.notes = notes
        self.entries = {key: Entry(tensor.shape, tensor.dtype) for key, tensor in tensors.items()}
        self._tensors = dict(tensors)
        self._records = records
        for key, tensor in tensors.items():
            if reason := misplaced(key, tensor, records.get(tensor.storage.key)):
                raise checkpoint_error(f"{self.source!r} is cut off or damaged: {reason}")
        try:
            self._file = MappedFile(path)
        except (OSError, RuntimeError, ValueError) as error:
            raise pickles.damaged(path, error) from error

    def read(self, key: str) -> Tensor:
        """The values under one of the entries; see `Checkpoint.read`."""
        tensor = self._tensors[key]
        if not tensor.span:
            return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
        record = self._records[tensor.storage.key]
        if record.packed is not None:
            return self._unpacked(key, tensor, record.packed)
        try:
            return self._file.tensor(tensor, record)
        except RuntimeError as error:
            # The file is no more what it was, or torch has no tensors of this type.
            raise pickles.damaged(Path(self.source), error) from error

    def pieces(self, key: str, mine: Share) -> Iterator[Piece]:
        """What of an entry is in a share; see `Checkpoint.pieces`."""
        tensor = self._tensors[key]
        record = self._records.get(tensor.storage.key)
        if not tensor.span or record is None or record.packed is not None:
            yield from super().pieces(key, mine)
            return
        try:
            yield from self._file.pieces(tensor, record, mine, (0,) * len(tensor.shape))
        except RuntimeError as error:
            raise pickles.damaged(Path(self.source), error) from error

    def _unpacked(self, key: str, tensor: Stored, record: str) -> Tensor:
        try:
            with zipfile.ZipFile(self.source) as archive, archive.open(record) as file:
                file.seek(tensor.start)
                raw = bytearray(file.read(tensor.span))
        except Exception as error:
            raise pickles.damaged(Path(self.source), error) from error
        if len(raw) < tensor.span:
            raise checkpoint_error(f"{self.source!r} is cut off or damaged: {key!r} ends after {len(raw)} bytes")
        return torch.frombuffer(raw, dtype=tensor.dtype).as_strided(tensor.shape, tensor.stride)

    def close(self) -> None:
        """Lets the file go, once no tensor is a view of it."""
        self._tensors = {}
        del self._file


class LoadedCheckpoint(Checkpoint):
    """A file of ``torch.save`` that torch has loaded.

    Args:
        path: The file.
        tensors: What is in it.
        notes: What the user may want to know.
    """

    def __init__(self, path: Path, tensors: Mapping[str, Tensor], notes: tuple[str, ...]) -> None:
        self.source = os.fspath(path)
        self.notes = notes
        self._tensors = dict(tensors)
        hollow = [key for key, tensor in tensors.items() if tensor.is_meta or hasattr(tensor, "__tensor_flatten__")]
        if hollow:
            first = tensors[hollow[0]]
            raise checkpoint_error(
                f"{self.source!r} has tensors without values of their own, such as {hollow[0]!r} "
                f"({type(first).__name__} on {first.device}), {len(hollow)} in all; save the full tensors"
            )
        self.entries = {
            # A quantized tensor is read as the numbers that it stands for.
            key: Entry(tuple(tensor.shape), torch.float32 if tensor.is_quantized else tensor.dtype)
            for key, tensor in tensors.items()
        }

    def read(self, key: str) -> Tensor:
        """The values under one of the entries; see `Checkpoint.read`."""
        tensor = self._tensors[key].detach()
        if tensor.is_quantized:
            return tensor.dequantize()
        return tensor if tensor.layout == torch.strided else tensor.to_dense()

    def close(self) -> None:
        """Lets the file go."""
        self._tensors = {}
