"""What a file is, told by its content, and reading names, shapes and values out of it."""

from __future__ import annotations

import codecs
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lightning_init.checkpoint import pickles
from lightning_init.errors import CheckpointError, Fault

if TYPE_CHECKING:
    # torch needs the package, but this one does not.
    from typing_extensions import Self

__all__ = ["FORMATS", "Checkpoint", "Entry", "Format", "SafeGlobal", "open_checkpoint"]

SafeGlobal = pickles.SafeGlobal

_HEAD = 512


@dataclass(frozen=True)
class Entry:
    """One named tensor of a checkpoint, before it is read.

    Attributes:
        shape: Its shape.
        dtype: The type of its elements in the file.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype


class Checkpoint(ABC):
    """An open checkpoint: names and shapes at once, values one at a time. A context manager that closes it.

    Attributes:
        source: Where it comes from, for messages.
        entries: Every tensor in it, in the order of the file.
    """

    source: str
    entries: Mapping[str, Entry]

    @abstractmethod
    def read(self, key: str) -> Tensor:
        """The values under one of the entries.

        Returns:
            A dense CPU tensor. It may be a view of the file: never write to it, and clone what must outlive the
            checkpoint.

        Raises:
            CheckpointError: The values cannot be read.
            KeyError: There is no such entry.
        """

    def close(self) -> None:  # noqa: B027 - most formats hold nothing open
        """Lets the file go. Nothing can be read afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TorchCheckpoint(Checkpoint):
    """A file of ``torch.save``.

    Args:
        path: The file.
        safe_globals: Classes that it may hold besides tensors.
        zipped: It is a zip archive, whose values are memory-mapped; a legacy pickle is read as a whole.
    """

    def __init__(self, path: Path, safe_globals: Sequence[SafeGlobal], *, zipped: bool) -> None:
        if zipped:
            pickles.check_zip(path)
        self.source = os.fspath(path)
        self._tensors = pickles.state_dict(pickles.load(path, safe_globals, mapped=zipped), path)
        self.entries = {
            # A quantized tensor is read as the numbers that it stands for.
            key: Entry(tuple(tensor.shape), torch.float32 if tensor.is_quantized else tensor.dtype)
            for key, tensor in self._tensors.items()
        }

    def read(self, key: str) -> Tensor:
        tensor = self._tensors[key].detach()
        if tensor.is_quantized:
            return tensor.dequantize()
        return tensor if tensor.layout == torch.strided else tensor.to_dense()

    def close(self) -> None:
        self._tensors = {}


class SafetensorsCheckpoint(Checkpoint):
    """A single ``.safetensors`` file, memory-mapped.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.source = os.fspath(path)
        try:
            # The package types its functions, but not this class.
            self._file = cast("Any", safe_open(self.source, framework="pt", device="cpu"))
            slices = {key: self._file.get_slice(key) for key in self._file.keys()}  # noqa: SIM118 - not a mapping
            self.entries = {
                key: Entry(tuple(part.get_shape()), _safetensors_dtype(part.get_dtype()))
                for key, part in slices.items()
            }
        except SafetensorError as error:
            raise _error(
                f"{self.source!r} is a safetensors file that is cut off or damaged ({error}); fetch or save it again"
            ) from error
        except KeyError as error:
            raise _error(
                f"{self.source!r} holds values of type {error}, which torch {torch.__version__} does not have"
            ) from error
        if not self.entries:
            raise _error(f"{self.source!r} is a safetensors file with no tensors in it")

    def read(self, key: str) -> Tensor:
        if key not in self.entries:
            raise KeyError(key)
        # A device context of the caller must not decide where the values go.
        with torch.device("cpu"):
            tensor: Tensor = self._file.get_tensor(key)
        return tensor

    def close(self) -> None:
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


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        name: For messages.
        recognise: Says from the first 512 bytes whether a file is of this kind.
        open: Opens one, given the classes that it may hold.
    """

    name: str
    recognise: Callable[[bytes], bool]
    open: Callable[[Path, Sequence[SafeGlobal]], Checkpoint]


FORMATS: list[Format] = [
    Format("torch.save", lambda head: head.startswith(b"PK\x03\x04"), partial(TorchCheckpoint, zipped=True)),
    # A pickle of protocol 2 to 5 starts with its number.
    Format(
        "legacy torch.save",
        lambda head: head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"),
        partial(TorchCheckpoint, zipped=False),
    ),
    # Eight bytes of length, of which a header that is not absurd leaves the upper ones zero, then JSON.
    Format("safetensors", lambda head: head[5:9] == b"\0\0\0{", lambda path, _: SafetensorsCheckpoint(path)),
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


def open_checkpoint(path: Path, *, safe_globals: Sequence[SafeGlobal] = ()) -> Checkpoint:
    """Opens a checkpoint, whatever its name says: the content tells its format.

    No code from the file is run. Of a zip archive and a safetensors file only names and shapes are read here, and the
    values when they are asked for; a legacy pickle is read as a whole.

    Args:
        path: A file on this machine.
        safe_globals: Classes that a file of ``torch.save`` may hold besides tensors.

    Raises:
        CheckpointError: It cannot be opened, is cut off, is no checkpoint, holds other classes, or holds no tensor.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise _error(f"{str(path)!r} cannot be opened: {error.strerror or error}") from error
    for known in FORMATS:
        if known.recognise(head):
            return known.open(path, safe_globals)
    raise _error(f"{str(path)!r} is {_stranger(head)}; known formats are {', '.join(known.name for known in FORMATS)}")


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


def _error(what: str) -> CheckpointError:
    return CheckpointError([Fault("checkpoint", what)])
