"""Single files of safetensors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lightning_init.checkpoint.base import Checkpoint, Entry, Reading
from lightning_init.errors import CheckpointError, Fault, checkpoint_error

__all__ = ["SafetensorsCheckpoint"]


class SafetensorsCheckpoint(Checkpoint):
    """A single ``.safetensors`` file, memory-mapped.

    Args:
        path: The file.
        reading: What of it is wanted; it has no containers.
    """

    def __init__(self, path: Path, reading: Reading) -> None:
        self.source = os.fspath(path)
        if reading.container is not None or reading.ema:
            where = "ema" if reading.container is None else "container"
            advice = f"{self.source!r} is a safetensors file, whose tensors are in no container; choose among its keys"
            raise CheckpointError([Fault(where, f"{advice} with prefix=...")])
        try:
            # The package types its functions, but not this class.
            self._file = cast("Any", safe_open(self.source, framework="pt", device="cpu"))
            slices = {key: self._file.get_slice(key) for key in self._file.keys()}  # noqa: SIM118 - not a mapping
            self.entries = {
                key: Entry(tuple(part.get_shape()), _safetensors_dtype(part.get_dtype()))
                for key, part in slices.items()
            }
        except SafetensorError as error:
            raise checkpoint_error(
                f"{self.source!r} is a safetensors file that is cut off or damaged ({error}); fetch or save it again"
            ) from error
        except KeyError as error:
            raise checkpoint_error(
                f"{self.source!r} holds values of type {error}, which torch {torch.__version__} does not have"
            ) from error
        if not self.entries:
            raise checkpoint_error(f"{self.source!r} is a safetensors file with no tensors in it")

    def read(self, key: str) -> Tensor:
        """The values under one of the entries; see `Checkpoint.read`."""
        if key not in self.entries:
            raise KeyError(key)
        # A device context of the caller must not decide where the values go.
        with torch.device("cpu"):
            tensor: Tensor = self._file.get_tensor(key)
        return tensor

    def close(self) -> None:
        """Lets the file go."""
        self._file.__exit__(None, None, None)


# The names that the format gives to types; torch has some of them since recent versions only.
_DTYPES = {
    "BF16": "bfloat16",
    "BOOL": "bool",
    "C64": "complex64",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "I8": "int8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "U8": "uint8",
}


def _safetensors_dtype(name: str) -> torch.dtype:
    found = getattr(torch, _DTYPES[name], None)
    if not isinstance(found, torch.dtype):
        raise KeyError(name)
    return found
