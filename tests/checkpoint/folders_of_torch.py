"""Folders of ``torch.distributed.checkpoint`` for the tests, good ones and ones with another ``.metadata``."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from lightning_init.checkpoint.base import Reading
from lightning_init.checkpoint.formats.recognise import open_checkpoint
from lightning_init.errors import CheckpointError

__all__ = ["DATA", "change", "faults", "in_chunks", "place", "save", "tensor"]

DATA = "__0_0.distcp"
"""The file with the values of the one process that saves here."""


def save(state: dict[str, Any], folder: Path) -> Path:
    with warnings.catch_warnings():
        # That this is a single process.
        warnings.simplefilter("ignore")
        dcp.save(state, checkpoint_id=folder, no_dist=True)
    return folder


def change(folder: Path, how: Callable[[Metadata], object]) -> None:
    """Writes another ``.metadata``: what a function makes of the one that is there."""
    path = folder / ".metadata"
    metadata = pickle.loads(path.read_bytes())  # noqa: S301 - our own
    how(metadata)
    path.write_bytes(pickle.dumps(metadata))


def in_chunks(folder: Path, *chunks: tuple[tuple[int, ...], torch.Tensor], shape: tuple[int, ...]) -> Path:
    """Saves a tensor ``w`` as the chunks that are given with their offsets, as several processes would."""
    save({str(i): values for i, (_, values) in enumerate(chunks)}, folder)

    def join(metadata: Metadata) -> None:
        info = {index.fqn: place for index, place in metadata.storage_data.items()}
        boxes = [ChunkStorageMetadata(torch.Size(start), values.shape) for start, values in chunks]
        properties = TensorProperties(chunks[0][1].dtype)
        metadata.state_dict_metadata = {"w": TensorStorageMetadata(properties, torch.Size(shape), boxes)}
        metadata.storage_data = {MetadataIndex("w", start): info[str(i)] for i, (start, _) in enumerate(chunks)}
        metadata.planner_data = {"w": ("w",)}

    change(folder, join)
    return folder


def place(metadata: Metadata, name: str) -> _StorageInfo:
    """Where the values under a name are."""
    (found,) = (info for index, info in metadata.storage_data.items() if index.fqn == name)
    assert isinstance(found, _StorageInfo)
    return found


def tensor(metadata: Metadata, name: str) -> TensorStorageMetadata:
    """What the metadata says of a tensor."""
    found = metadata.state_dict_metadata[name]
    assert isinstance(found, TensorStorageMetadata)
    return found


def faults(folder: Path, reading: Reading | None = None) -> list[str]:
    """What is wrong with a folder."""
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder, reading)
    assert all(str(folder) in fault.what for fault in caught.value.faults)
    return [fault.what for fault in caught.value.faults]
