"""Whether the chunks of a folder of ``torch.distributed.checkpoint`` cover its tensors and are in its files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from lightning_init.checkpoint.confined import leads_out, unsafe
from lightning_init.checkpoint.formats.dcp_metadata import METADATA, Box, Metadata, Place, Shape, TensorMetadata
from lightning_init.errors import CheckpointError, Fault
from lightning_init.text import quoted

__all__ = ["Chunk", "StoredTensor", "stored_tensors"]

_QUANTIZED = {torch.qint8, torch.qint32, torch.quint8, torch.quint4x2, torch.quint2x4}

_MOST = 20


@dataclass(frozen=True)
class Chunk:
    """A part of a tensor, and where its values are.

    Attributes:
        box: Which part.
        path: The file, inside the folder.
        start: The first byte in it.
        length: How many bytes there are.
    """

    box: Box
    path: Path
    start: int
    length: int


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor whose chunks are all there.

    Attributes:
        name: Its full name, for messages.
        shape: Its shape.
        dtype: The type of its elements.
        chunks: What covers it, each element once. Chunks without an element are left out.
    """

    name: str
    shape: Shape
    dtype: torch.dtype
    chunks: tuple[Chunk, ...]


def stored_tensors(folder: Path, metadata: Metadata) -> dict[str, StoredTensor]:
    """The tensors of a folder, by their full names.

    Args:
        folder: The folder.
        metadata: What it should hold.

    Raises:
        CheckpointError: A file is missing, cut off, or outside the folder; chunks are missing, overlap or leave their
            tensor, or were written in a way that is not known here. All of it is told at once.
    """
    files = _Files(folder, metadata)
    faults: dict[str, list[str]] = defaultdict(list)
    # Those of other values too: a folder that names files outside is not to be trusted.
    for (name, _), places in metadata.places.items():
        for reason in filter(None, map(files.fault, places)):
            faults[reason].append(name)
    for name, tensor in metadata.tensors.items():
        for reason in _tensor_faults(name, tensor, metadata):
            faults[reason].append(name)
    if faults:
        raise CheckpointError(list(_told(folder, faults)))
    return {
        name: StoredTensor(name, tensor.shape, tensor.dtype, tuple(_chunks(folder, name, tensor, metadata)))
        for name, tensor in metadata.tensors.items()
    }


def _chunks(folder: Path, name: str, tensor: TensorMetadata, metadata: Metadata) -> Iterator[Chunk]:
    for box in tensor.boxes:
        if prod(box.sizes):
            (place,) = metadata.places[name, box.offsets]
            yield Chunk(box, folder / place.file, place.start, place.length)


class _Files:
    """The files that the metadata names: what keeps values in them from being read."""

    def __init__(self, folder: Path, metadata: Metadata) -> None:
        self._ends: dict[str, int] = defaultdict(int)
        for places in metadata.places.values():
            for place in places:
                self._ends[place.file] = max(self._ends[place.file], place.start + place.length)
        self._found = {file: _size(folder, file) for file in self._ends}

    def fault(self, place: Place) -> str:
        """Why nothing can be read there; empty if it can."""
        file, found = place.file, self._found[place.file]
        if isinstance(found, str):
            return found
        if place.start + place.length <= found:
            return ""
        return f"the file {file!r} is cut off: it has {found} bytes instead of {self._ends[file]} or more"


def _size(folder: Path, file: str) -> int | str:
    """How many bytes a file has, or why it cannot be read."""
    if reason := unsafe(file):
        return f"the name of the file {file!r} {reason}"
    path = folder / file
    try:
        if not path.is_file():
            return f"the file {file!r} is missing"
        if leads_out(path, folder / METADATA):
            return f"the file {file!r} is a link that leads out of the folder"
        return path.stat().st_size
    except (OSError, RuntimeError) as error:
        return f"the file {file!r} cannot be looked at: {error}"


def _tensor_faults(name: str, tensor: TensorMetadata, metadata: Metadata) -> Iterator[str]:
    if reason := _uncovered(tensor):
        yield reason
        return
    for box in tensor.boxes:
        size = prod(box.sizes) * tensor.dtype.itemsize
        reason = _unreadable(metadata.places.get((name, box.offsets), ()), size) if size else ""
        if reason:
            yield f"the chunk at {box.offsets} {reason}"


def _uncovered(tensor: TensorMetadata) -> str:
    """Why the chunks of a tensor are not all of it, each element once; empty if they are."""
    if tensor.layout != "torch.strided":
        return f"the layout is {tensor.layout!r}; save them dense"
    if tensor.dtype in _QUANTIZED:
        return f"it is quantized ({tensor.dtype}); save it dequantized"
    ends = tensor.shape
    for box in tensor.boxes:
        steps = (len(box.offsets), len(box.sizes))
        inside = all(o + s <= end for o, s, end in zip(box.offsets, box.sizes, ends, strict=False))
        if steps != (len(ends), len(ends)) or not inside:
            return f"the chunk of {box.sizes} at {box.offsets} is not inside the shape {tensor.shape}"
    boxes = [box for box in tensor.boxes if prod(box.sizes)]
    if both := _overlap(boxes):
        return f"the chunks at {both[0].offsets} and {both[1].offsets} overlap"
    covered, whole = sum(prod(box.sizes) for box in boxes), prod(tensor.shape)
    return "" if covered == whole else f"chunks are missing: there are {covered} of {whole} elements"


def _overlap(boxes: Sequence[Box]) -> tuple[Box, Box] | None:
    """Two boxes that share an element, if there are any."""
    if len(boxes) < 2:
        return None
    # Along the dimension that is cut most often, a box meets few others.
    dimensions = range(len(boxes[0].offsets))
    cuts = [len({box.offsets[dimension] for box in boxes}) for dimension in dimensions]
    along = max(dimensions, key=cuts.__getitem__, default=None)
    if along is None:
        return boxes[0], boxes[1]
    met: list[Box] = []
    for box in sorted(boxes, key=lambda box: box.offsets[along]):
        met = [other for other in met if other.offsets[along] + other.sizes[along] > box.offsets[along]]
        for other in met:
            if all(
                a < b + n and b < a + m
                for a, m, b, n in zip(box.offsets, box.sizes, other.offsets, other.sizes, strict=True)
            ):
                return other, box
        met.append(box)
    return None


def _unreadable(places: Sequence[Place], needed: int) -> str:
    """Why a chunk cannot be read, given where it is told to be; empty if it can."""
    if len(places) != 1:
        return f"is stored {len(places)} times instead of once"
    if places[0].transforms:
        return f"is stored as {', '.join(places[0].transforms)}, which cannot be read here; save it without extensions"
    if places[0].length < needed:
        return f"is stored in {places[0].length} bytes, but its values take {needed}"
    return ""


def _told(folder: Path, faults: dict[str, list[str]]) -> Iterator[Fault]:
    for reason, names in list(faults.items())[:_MOST]:
        keys = quoted(dict.fromkeys(names))
        yield Fault("checkpoint", f"{str(folder)!r} does not hold {keys} in full: {reason}")
    if len(faults) > _MOST:
        yield Fault("checkpoint", f"{str(folder)!r} has {len(faults) - _MOST} more faults of this kind")
