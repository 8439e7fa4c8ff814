"""The ``.metadata`` of ``torch.distributed.checkpoint`` as plain data, every value of the type that it should have."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch

from lightning_init.checkpoint.formats import dcp_unpickling
from lightning_init.checkpoint.formats.dcp_unpickling import fields
from lightning_init.errors import checkpoint_error

__all__ = ["METADATA", "Box", "Index", "Metadata", "Place", "Shape", "TensorMetadata", "read_metadata"]

METADATA = ".metadata"
"""The file that makes a folder such a checkpoint."""

Shape: TypeAlias = tuple[int, ...]

Index: TypeAlias = tuple[str, Shape]
"""The full name of a value, and where a chunk of it starts."""


@dataclass(frozen=True)
class Box:
    """A part of a tensor.

    Attributes:
        offsets: Where it starts.
        sizes: Its shape.
    """

    offsets: Shape
    sizes: Shape


@dataclass(frozen=True)
class Place:
    """Where values are, as the metadata says.

    Attributes:
        file: A file, relative to the folder.
        start: The first byte in it.
        length: How many bytes there are.
        transforms: What was done to the bytes, such as compression.
    """

    file: str
    start: int
    length: int
    transforms: tuple[str, ...]


@dataclass(frozen=True)
class TensorMetadata:
    """A tensor, as the metadata says.

    Attributes:
        shape: Its shape.
        dtype: The type of its elements.
        layout: The name of its layout.
        boxes: Its chunks.
    """

    shape: Shape
    dtype: torch.dtype
    layout: str
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Metadata:
    """What a folder holds, as its metadata says.

    Attributes:
        tensors: Its tensors, by their full names.
        others: The full names of what is no tensor.
        places: Where each chunk is; one place, unless the file lies.
        paths: Where each value stood in the nested state dict that was saved, where this is told.
    """

    tensors: Mapping[str, TensorMetadata]
    others: tuple[str, ...]
    places: Mapping[Index, Sequence[Place]]
    paths: Mapping[str, tuple[str | int, ...]]


def read_metadata(folder: Path) -> Metadata:
    """Reads the ``.metadata`` of a folder without running what is in it.

    Args:
        folder: The folder.

    Raises:
        CheckpointError: It cannot be read, is damaged, names classes that do not belong there, or is something else.
    """
    path = folder / METADATA
    try:
        content = dcp_unpickling.load(path.read_bytes())
    except OSError as error:
        raise checkpoint_error(f"{str(path)!r} cannot be read: {error.strerror or error}") from error
    except dcp_unpickling.Refused as error:
        raise checkpoint_error(
            f"{str(path)!r} asks for {error.name}, which torch.distributed.checkpoint does not write, and was not "
            f"run; do not trust the folder, or save it again with torch.distributed.checkpoint.save"
        ) from None
    except Exception as error:
        # Bytes that are no such pickle come out as nearly any exception, whose text may quote them without end.
        raise checkpoint_error(
            f"{str(path)!r} is no metadata of torch.distributed.checkpoint, or cut off or damaged "
            f"({type(error).__name__}); fetch or save the folder again"
        ) from error
    try:
        return _metadata(content)
    except TypeError as error:
        raise checkpoint_error(
            f"{str(path)!r} is not as torch.distributed.checkpoint writes it ({error}); fetch or save the folder again"
        ) from error


def _metadata(content: object) -> Metadata:
    metadata = fields(content, "Metadata")
    tensors: dict[str, TensorMetadata] = {}
    others: list[str] = []
    for name, entry in _items(metadata.get("state_dict_metadata"), "state_dict_metadata"):
        if dcp_unpickling.is_bytes(entry):
            others.append(_text(name))
        else:
            tensors[_text(name)] = _tensor(entry)
    places: dict[Index, list[Place]] = defaultdict(list)
    for key, info in _items(metadata.get("storage_data"), "storage_data"):
        index = fields(key, "MetadataIndex")
        # What is no tensor has no offset.
        places[_text(index.get("fqn")), _numbers(index.get("offset") or ())].append(_place(info))
    # None where the state dict was saved as it is.
    told = metadata.get("planner_data")
    paths = {} if told is None else {_text(name): _path(path) for name, path in _items(told, "planner_data")}
    return Metadata(tensors, tuple(others), dict(places), paths)


def _tensor(record: object) -> TensorMetadata:
    tensor = fields(record, "TensorStorageMetadata")
    dtype, layout = dcp_unpickling.dtype_and_layout(tensor.get("properties"))
    boxes = [fields(chunk, "ChunkStorageMetadata") for chunk in _sequence(tensor.get("chunks"))]
    return TensorMetadata(
        _numbers(tensor.get("size")),
        dtype,
        _text(layout),
        tuple(Box(_numbers(box.get("offsets")), _numbers(box.get("sizes"))) for box in boxes),
    )


def _place(record: object) -> Place:
    info = fields(record, "_StorageInfo")
    start, length = _numbers((info.get("offset"), info.get("length")))
    transforms = tuple(map(_text, _sequence(info.get("transform_descriptors") or ())))
    return Place(_text(info.get("relative_path")), start, length, transforms)


def _path(path: object) -> tuple[str | int, ...]:
    steps = _sequence(path)
    if not steps or any(type(step) not in (str, int) for step in steps):
        raise TypeError("a path in planner_data is not made of names and numbers")
    return tuple(steps)


def _items(mapping: object, where: str) -> list[tuple[Any, Any]]:
    if type(mapping) is not dict:
        raise TypeError(f"{where} is no dict")
    return list(mapping.items())


def _sequence(values: object) -> Sequence[Any]:
    if not isinstance(values, list | tuple):
        raise TypeError("no sequence where there should be one")
    return values


def _numbers(values: object) -> Shape:
    numbers = tuple(_sequence(values))
    if any(type(number) is not int or not 0 <= number < 2**63 for number in numbers):
        raise TypeError("a size, offset or length that is no natural number of 63 bits")
    return numbers


def _text(value: object) -> str:
    if type(value) is not str:
        raise TypeError("no text where there should be one")
    return value
