"""The ``.metadata`` of ``torch.distributed.checkpoint``, unpickled into records that do nothing.

torch reads that file with a bare ``pickle.load``, which runs whatever is in it. Here the names that torch itself writes
stand for small frozen classes of this module, and every other name is refused before anything is imported.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable
from typing import Any, NoReturn

import torch

__all__ = ["Refused", "dtype_and_layout", "fields", "is_bytes", "load"]


class Refused(Exception):  # noqa: N818 - a reason for the caller's error, not an error of its own
    """The file asks for something that no such metadata needs.

    Args:
        name: What it is, for messages.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class _Frozen(type):
    """Classes that a pickle cannot change: the opcode BUILD can set attributes of whatever lies on the stack."""

    def __setattr__(cls, name: str, value: object) -> NoReturn:
        raise TypeError(f"a pickle tried to change {cls.__name__}")

    __delattr__ = __setattr__  # type: ignore[assignment]


class _Record(metaclass=_Frozen):
    """An instance of one of torch's classes: its state, whatever that is. Its hash is that of its identity."""

    __slots__ = ("state",)

    state: object

    def __new__(cls, *_: object) -> Any:
        record = super().__new__(cls)
        # A class without fields is pickled without a state.
        record.state = {}
        return record

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Size(tuple[Any, ...], metaclass=_Frozen):
    """A ``torch.Size``."""

    __slots__ = ()


class _Layout(metaclass=_Frozen):
    """torch's function that turns the name of a layout into the layout: gives the name."""

    __slots__ = ()

    def __new__(cls, name: object) -> Any:
        return name


class _Unused(metaclass=_Frozen):
    """What the metadata holds and no reader needs: paths of the writing machine, memory formats."""

    __slots__ = ()

    def __new__(cls, *_: object) -> Any:
        return super().__new__(cls)


class _Member(metaclass=_Frozen):
    """``getattr``, by which Python 3.11.0 to 3.11.4 pickled the members of enums; nothing is looked up."""

    __slots__ = ()

    def __new__(cls, owner: object, name: object) -> Any:
        if owner is not _Unused or type(name) is not str:
            raise Refused("'builtins.getattr'")
        return _Unused()


def _record(name: str) -> _Frozen:
    return _Frozen(name, (_Record,), {"__slots__": ()})


_TORCH = "torch.distributed.checkpoint.metadata"
# Where these two were until torch 2.2.
_OLD = "torch.distributed._shard.sharded_tensor.metadata"
_PROPERTIES = _record("TensorProperties")

_KNOWN: dict[tuple[str, str], _Frozen] = {
    **{
        (_TORCH, name): _record(name)
        for name in (
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorStorageMetadata",
        )
    },
    (_TORCH, "TensorProperties"): _PROPERTIES,
    (_OLD, "TensorProperties"): _PROPERTIES,
    (_TORCH, "_MEM_FORMAT_ENCODING"): _Unused,
    (_OLD, "MEM_FORMAT_ENCODING"): _Unused,
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): _record("_StorageInfo"),
    ("torch", "Size"): _Size,
    ("torch.serialization", "_get_layout"): _Layout,
    ("builtins", "getattr"): _Member,
    **{
        (module, name): _Unused
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath")
    },
}


class _Operations(dict[int, Callable[[Any], None]]):
    """What the unpickler does for each code in the file; all that torch's metadata needs, and no more."""

    def __missing__(self, code: int) -> NoReturn:
        raise Refused(f"the pickle operation {_NAMES.get(code, hex(code))}")


_NAMES = {ord(operation.code): operation.name for operation in pickletools.opcodes}

_TAKEN = (
    *("PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINGET", "LONG_BINGET"),
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("SHORT_BINUNICODE", "BINUNICODE", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT"),
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD"),
)


def _put(unpickler: Any, items: list[object]) -> None:
    target = unpickler.stack[-1]
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Hashing nested tuples takes what time and stack the file wants.
        if type(target) is not dict or not isinstance(key, str | _Record):
            raise TypeError("something other than a name or an index is a key")
        target[key] = value


def _put_one(unpickler: Any) -> None:
    items = unpickler.stack[-2:]
    del unpickler.stack[-2:]
    _put(unpickler, items)


# The one written in Python (0.05 s for a thousand tensors): that in C knows every operation, such as the looking up of
# extension codes, and takes as much memory as the file asks for.
class _Unpickler(pickle._Unpickler):  # noqa: SLF001 - it has no public name
    dispatch = _Operations(
        {
            **{code: pickle._Unpickler.dispatch[code] for code, name in _NAMES.items() if name in _TAKEN},  # noqa: SLF001
            ord(pickle.SETITEM): _put_one,
            ord(pickle.SETITEMS): lambda unpickler: _put(unpickler, unpickler.pop_mark()),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        known = _KNOWN.get((module, name))
        if known is not None:
            return known
        # Not getattr: for some names torch imports a module then.
        dtype = vars(torch).get(name) if module == "torch" else None
        if isinstance(dtype, torch.dtype):
            return dtype
        raise Refused(repr(f"{module}.{name}"))


def load(content: bytes) -> object:
    """Unpickles the metadata without running or importing anything.

    Args:
        content: The whole file.

    Returns:
        What is in it: numbers, texts, tuples, lists, dicts, dtypes, and records for the instances of torch's classes,
        to be taken apart with :func:`fields`.

    Raises:
        Refused: It names a class or function that is not known here, or needs more of a pickle than torch does.
        Exception: Of nearly any kind, if it is no pickle or a damaged one.
    """
    return _Unpickler(io.BytesIO(content)).load()


def fields(record: object, name: str) -> dict[str, object]:
    """The attributes of an instance of one of torch's classes.

    Args:
        record: What should be one.
        name: The name of the class.

    Raises:
        TypeError: It is something else.
    """
    if isinstance(record, _Record) and type(record).__name__ == name and isinstance(record.state, dict):
        return record.state
    raise TypeError(f"no {name} where there should be one")


def is_bytes(record: object) -> bool:
    """Whether it stands for a value that is no tensor."""
    return isinstance(record, _KNOWN[_TORCH, "BytesStorageMetadata"])


def dtype_and_layout(record: object) -> tuple[torch.dtype, object]:
    """What a ``TensorProperties`` says of the elements of a tensor, and by name of how they lie.

    Raises:
        TypeError: It is something else.
    """
    state = record.state if isinstance(record, _PROPERTIES) else None
    if isinstance(state, tuple) and len(state) == 5 and isinstance(state[0], torch.dtype):
        return state[0], state[1]
    raise TypeError("no TensorProperties where there should be one")
