"""Files that ``torch.save`` wrote."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from lightning_init.checkpoint import pickles
from lightning_init.checkpoint.base import Checkpoint, Entry, Reading

__all__ = ["TorchCheckpoint"]


class TorchCheckpoint(Checkpoint):
    """A file of ``torch.save``.

    Args:
        path: The file.
        reading: What of it is wanted.
        zipped: It is a zip archive, whose values are memory-mapped; a legacy pickle is read as a whole.
    """

    def __init__(self, path: Path, reading: Reading, *, zipped: bool) -> None:
        if zipped:
            pickles.check_zip(path)
        self.source = os.fspath(path)
        self._tensors = pickles.state_dict(pickles.load(path, reading.safe_globals, mapped=zipped), path)
        self.entries = {
            # A quantized tensor is read as the numbers that it stands for.
            key: Entry(tuple(tensor.shape), torch.float32 if tensor.is_quantized else tensor.dtype)
            for key, tensor in self._tensors.items()
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
