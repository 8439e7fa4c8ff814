"""The metadata of a folder is a pickle, which torch runs. Here nothing in it does anything."""

from __future__ import annotations

import argparse
import copyreg
import functools
import io
import os
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed._shard.sharded_tensor import metadata as old
from torch.distributed.checkpoint import metadata as current
from torch.distributed.checkpoint.metadata import Metadata

from lightning_init.checkpoint.base import Entry
from lightning_init.checkpoint.formats import dcp_unpickling
from lightning_init.checkpoint.formats.recognise import open_checkpoint
from tests.checkpoint.folders_of_torch import change, faults, save, tensor

MODULE = b"torch.distributed.checkpoint.metadata"
METADATA = b"c" + MODULE + b"\nMetadata\n"


class Call:
    """Unpickling it calls something."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save({"w": torch.ones(2)}, tmp_path / "saved")


def refusal(folder: Path, pickled: bytes) -> str:
    (folder / ".metadata").write_bytes(pickled)
    (told,) = faults(folder)
    return told


def named(folder: Path, what: str) -> str:
    return (
        f"{str(folder / '.metadata')!r} asks for {what}, which torch.distributed.checkpoint does not write, and was "
        f"not run; do not trust the folder, or save it again with torch.distributed.checkpoint.save"
    )


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize(
    ("where", "call", "name"),
    [
        ("planner_data", lambda proof: Call(os.system, f"touch {proof}"), f"{os.system.__module__}.system"),
        ("storage_data", lambda proof: Call(exec, f"open({proof!r}, 'w')"), "builtins.exec"),
        ("storage_meta", lambda proof: Call(open, proof, "w"), f"{open.__module__}.open"),
        ("version", lambda proof: Call(functools.partial, open, proof, "w"), "functools.partial"),
        ("version", lambda proof: Call(getattr, Path(proof), "touch"), "builtins.getattr"),
        ("version", lambda proof: argparse.Namespace(), "argparse.Namespace"),
        ("version", lambda proof: OrderedDict(), "collections.OrderedDict"),
        ("version", lambda proof: Call(torch.load, proof), "torch.serialization.load"),
    ],
)
def test_only_the_classes_of_the_metadata(
    folder: Path, where: str, call: Callable[[str], object], name: str, protocol: int
) -> None:
    proof = folder.parent / "proof"
    metadata = Metadata({}, {}, {}, None, None)
    setattr(metadata, where, call(str(proof)))
    assert refusal(folder, pickle.dumps(metadata, protocol)) == named(folder, repr(name))
    assert not proof.exists()


def test_the_names_of_old_protocols(folder: Path) -> None:
    proof = folder.parent / "proof"
    text = f"touch {proof}".encode()
    told = refusal(folder, b"\x80\x02cposix\nsystem\nX" + len(text).to_bytes(4, "little") + text + b"\x85R.")
    assert told == named(folder, "'posix.system'")
    assert not proof.exists()
    # They number what they remember.
    told = refusal(folder, pickle.dumps(Metadata({}), 2))
    assert told == named(folder, "the pickle operation BINPUT")


@pytest.mark.parametrize(
    ("operations", "name"),
    [(b"\x82\xf0.", "EXT1"), (b"\x83\xf0\x00.", "EXT2"), (b"\x84\xf0\x00\x00\x00.", "EXT4")],
)
def test_extension_codes_are_not_looked_up(folder: Path, operations: bytes, name: str) -> None:
    copyreg.add_extension("posix", "system", 0xF0)
    try:
        # Now Python gives the function without asking for its name.
        assert pickle.loads(b"\x80\x04" + operations) is os.system  # noqa: S301
        assert refusal(folder, b"\x80\x04" + operations) == named(folder, f"the pickle operation {name}")
    finally:
        copyreg.remove_extension("posix", "system", 0xF0)


@pytest.mark.parametrize(
    ("operations", "name"),
    [
        (b"(iposix\nsystem\n.", "INST"),
        (b"(" + METADATA + b"o.", "OBJ"),
        (METADATA + b")}\x92.", "NEWOBJ_EX"),
        (b"Pposix\n.", "PERSID"),
        (b"\x88Q.", "BINPERSID"),
        # A few bytes that would have C's unpickler take 64 GiB, or Python's any number.
        (b"Nr\xff\xff\xff\xff.", "LONG_BINPUT"),
        (b"\x96\xff\xff\xff\xff\xff\x00\x00\x00.", "BYTEARRAY8"),
        (b"\x97.", "NEXT_BUFFER"),
        (b"\xff", "0xff"),
    ],
)
def test_no_operation_that_torch_has_no_need_of(folder: Path, operations: bytes, name: str) -> None:
    assert refusal(folder, b"\x80\x04" + operations) == named(folder, f"the pickle operation {name}")


def slots(key: str, value: bytes = b"K\x01") -> bytes:
    """The state by which BUILD sets an attribute of whatever is below it."""
    return b"N}\x8c" + bytes([len(key)]) + key.encode() + value + b"s\x86b"


@pytest.mark.parametrize(
    "operations",
    [
        METADATA + slots("__setstate__", METADATA),
        METADATA + slots("__new__", METADATA),
        METADATA + b"}\x8c\x05stateK\x01sb",
        METADATA + b")\x81" + slots("__class__", b"ctorch\nSize\n"),
        METADATA + b")\x81" + slots("__dict__"),
        b"ctorch\nSize\n" + slots("__new__", METADATA),
        b"ctorch.serialization\n_get_layout\n" + slots("__new__", METADATA),
        b"cbuiltins\ngetattr\n" + slots("__new__", METADATA),
        b"cpathlib\nPosixPath\n" + slots("__new__", METADATA),
        b"cpathlib\nPosixPath\n)\x81" + slots("__class__", METADATA),
        b"ctorch\nfloat32\n" + slots("itemsize"),
        b"ctorch\nfloat32\n)\x81",
        b"ctorch\nfloat32\n)R",
        b"cbuiltins\ngetattr\n" + METADATA + b"\x8c\x08__init__\x86R",
        b"}" + slots("x"),
        b"]}b",
        b"\x8c\x01x)R",
        b"\x8c\x01x)\x81",
    ],
)
def test_a_state_changes_nothing(folder: Path, operations: bytes) -> None:
    good = (folder / ".metadata").read_bytes()
    classes = {**vars(dcp_unpickling)}
    held = {key: dict(vars(known)) for key, known in dcp_unpickling._KNOWN.items()}
    real = dict(vars(Metadata))
    told = refusal(folder, b"\x80\x04" + operations + b".")
    assert " asks for " in told or " is no metadata " in told or " is not as " in told
    assert dict(vars(Metadata)) == real
    assert {key: dict(vars(known)) for key, known in dcp_unpickling._KNOWN.items()} == held
    assert {**vars(dcp_unpickling)} == classes
    (folder / ".metadata").write_bytes(good)
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.read("w").tolist() == [1, 1]


def test_names_import_nothing(folder: Path) -> None:
    assert refusal(folder, b"\x80\x04cthis\ns\n.") == named(folder, "'this.s'")
    assert "this" not in sys.modules
    # torch imports some of its parts when they are asked for.
    assert refusal(folder, b"\x80\x04ctorch\nload\n.") == named(folder, "'torch.load'")


@pytest.mark.timeout(30)
def test_keys_that_take_for_ever_to_hash(folder: Path) -> None:
    # Each tuple holds the one before it twice: 2**100 of them to a hash, and to a message.
    nested = b")\x94" + b"".join(b"h" + bytes([i]) + b"\x86\x94" for i in range(100))
    for target in (b"}", METADATA + b")\x81"):
        assert " is no metadata " in refusal(folder, b"\x80\x04" + target + nested + b"K\x01s.")
    assert " is not as " in refusal(folder, b"\x80\x04" + nested + b".")


def rewritten(metadata: Metadata, reduce: Callable[[object], Any]) -> bytes:
    class Pickler(pickle.Pickler):
        def reducer_override(self, value: object) -> Any:
            return reduce(value)

    buffer = io.BytesIO()
    Pickler(buffer, 4).dump(metadata)
    return buffer.getvalue()


def test_files_of_python_3_11_0(folder: Path) -> None:
    # Those of Python 3.11.0 to 3.11.4 get members of enums by getattr.
    def by_name(value: object) -> Any:
        if isinstance(value, current._MEM_FORMAT_ENCODING):
            return getattr, (type(value), value.name)
        return NotImplemented

    content = pickle.loads((folder / ".metadata").read_bytes())  # noqa: S301 - our own
    (folder / ".metadata").write_bytes(rewritten(content, by_name))
    assert b"getattr" in (folder / ".metadata").read_bytes()
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.read("w").tolist() == [1, 1]


def test_files_of_torch_2_2(folder: Path) -> None:
    properties = old.TensorProperties(torch.float32)
    change(folder, lambda metadata: setattr(metadata.state_dict_metadata["w"], "properties", properties))
    with open_checkpoint(folder) as checkpoint:
        assert dict(checkpoint.entries) == {"w": Entry((2,), torch.float32)}


def properties(**values: object) -> Callable[[Metadata], object]:
    return lambda metadata: vars(tensor(metadata, "w").properties).update(values)


def entry(**values: object) -> Callable[[Metadata], object]:
    return lambda metadata: vars(metadata.state_dict_metadata["w"]).update(values)


def whole(**values: object) -> Callable[[Metadata], object]:
    return lambda metadata: vars(metadata).update(values)


def info(**values: object) -> Callable[[Metadata], object]:
    return lambda metadata: vars(next(iter(metadata.storage_data.values()))).update(values)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (whole(state_dict_metadata=None), "state_dict_metadata is no dict"),
        (whole(storage_data=[]), "storage_data is no dict"),
        (whole(storage_data={"w": None}), "no MetadataIndex where there should be one"),
        (whole(planner_data={"w": ()}), "a path in planner_data is not made of names and numbers"),
        (whole(planner_data={"w": (("x",),)}), "a path in planner_data is not made of names and numbers"),
        (entry(size=(True,)), "a size, offset or length that is no natural number of 63 bits"),
        (entry(size=(2**63,)), "a size, offset or length that is no natural number of 63 bits"),
        (entry(size=2), "no sequence where there should be one"),
        (entry(chunks=[None]), "no ChunkStorageMetadata where there should be one"),
        (properties(dtype="float32"), "no TensorProperties where there should be one"),
        (info(offset=-1), "a size, offset or length that is no natural number of 63 bits"),
        (info(length=1.5), "a size, offset or length that is no natural number of 63 bits"),
        (info(relative_path=None), "no text where there should be one"),
    ],
)
def test_values_of_other_types(folder: Path, how: Callable[[Metadata], object], why: str) -> None:
    change(folder, how)
    (told,) = faults(folder)
    assert told == (
        f"{str(folder / '.metadata')!r} is not as torch.distributed.checkpoint writes it ({why}); fetch or save the "
        f"folder again"
    )


def test_tensors_that_are_not_dense(folder: Path) -> None:
    change(folder, properties(layout=torch.sparse_coo))
    assert faults(folder) == [
        f"{str(folder)!r} does not hold 'w' in full: the layout is 'torch.sparse_coo'; save them dense"
    ]


@pytest.mark.parametrize("cut", [0, 1, 2, 50, -1])
def test_a_file_that_is_cut_off(folder: Path, cut: int) -> None:
    told = refusal(folder, (folder / ".metadata").read_bytes()[:cut])
    assert "is no metadata of torch.distributed.checkpoint, or cut off or damaged (" in told
    assert told.endswith("; fetch or save the folder again")


def test_another_pickle(folder: Path) -> None:
    assert "(no Metadata where there should be one)" in refusal(folder, pickle.dumps({"w": 1}))
    assert "cut off or damaged" in refusal(folder, b"hello")
