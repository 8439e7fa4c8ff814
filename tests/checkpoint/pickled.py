"""Files that torch.save would not write, and classes that would show that they were made."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from lightning_init.checkpoint.base import Reading
from lightning_init.checkpoint.formats.recognise import open_checkpoint
from lightning_init.errors import CheckpointError

__all__ = ["Attack", "Foreign", "Opened", "legacy", "refusal", "tensor", "write_zip"]


class Foreign:
    """What a training script might keep in its checkpoints."""

    def __init__(self) -> None:
        self.epoch = 3


class Attack:
    """Makes a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (f"touch '{self.proof}'",)


class Opened:
    """A class whose making can be seen."""

    def __init__(self) -> None:
        self.epoch = 3

    def __setstate__(self, state: Mapping[str, object]) -> None:
        raise AssertionError("it was made")


def refusal(path: Path, *, where: str = "checkpoint", **arguments: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path, Reading(**arguments))
    assert [fault.where for fault in caught.value.faults] == [where]
    assert str(path) in str(caught.value)
    return str(caught.value)


def write_zip(path: Path, data: bytes, records: Mapping[str, bytes] | None = None, **arguments: Any) -> Path:
    with zipfile.ZipFile(path, "w", **arguments) as archive:
        archive.writestr("net/data.pkl", data)
        for name, content in (records or {}).items():
            archive.writestr(f"net/{name}", content)
    return path


def legacy(data: bytes, storages: Mapping[str, tuple[int, bytes]]) -> bytes:
    """A legacy file around a pickle, with elements and bytes of each storage."""
    heads = [pickle.dumps(value, protocol=2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    keys = pickle.dumps(list(storages), protocol=2)
    blocks = [struct.pack("<q", numel) + content for numel, content in storages.values()]
    return b"".join([*heads, data, keys, *blocks])


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return pickle.dumps(value, protocol=2)[2:-1]


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(
    key: str = "0",
    numel: int = 4,
    *,
    offset: int = 0,
    shape: tuple[int, ...] = (4,),
    stride: tuple[int, ...] = (1,),
    storage: str = "torch\nFloatStorage",
    legacy: bool = False,
) -> bytes:
    """The operations that make a tensor, with any numbers in them."""
    view = b"N" if legacy else b""
    identity = (
        b"(" + text("storage") + f"c{storage}\n".encode() + text(key) + text("cpu") + number(numel) + view + b"tQ"
    )
    rest = b"\x89ccollections\nOrderedDict\n)R"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + identity
        + number(offset)
        + numbers(shape)
        + numbers(stride)
        + rest
        + b"tR"
    )
