"""Reading pickles without running them: a machine of our own, whose every object is plain data or inert.

Neither ``pickle.Unpickler`` nor torch's is at work here. The former looks up extensions, ``__setstate__`` and
attributes by itself, calls whatever it has made, and reserves the memory that a file asks for; here, every operation
does what stands below and nothing else.
"""

from __future__ import annotations

import pickle
import pickletools
import warnings
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any, TypeAlias, cast

from lightning_init.checkpoint.formats.constructors import called, named, storage_of
from lightning_init.checkpoint.formats.stand_ins import Inert, Storage, as_key, kind

__all__ = ["Unpickled", "unpickle"]

_LONGEST_NAME = 200


@dataclass(frozen=True)
class Unpickled:
    """What a pickle holds.

    Attributes:
        content: Plain data, tensors as `Stored` or `Unusual`, and `Inert` objects.
        names: The classes, functions and constants that the pickle names, in its order.
        storages: The storages that it refers to, each as it was first named.
    """

    content: object
    names: tuple[str, ...]
    storages: Mapping[str, Storage]


def unpickle(stream: IO[bytes]) -> Unpickled:
    """Reads one pickle. Nothing that it names is imported, looked up or called.

    Args:
        stream: Open at its start; it is left at its end. It must give no more than it has, whatever it is asked for,
            as files in memory and mapped files do.

    Raises:
        UnpicklingError: It is damaged, or makes what ``torch.save`` does not write.
    """
    machine = _Machine()
    try:
        # Of odd escapes in damaged text, Python warns.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for operation, argument, _ in pickletools.genops(stream):
                if operation.name != "STOP":
                    _OPERATIONS[operation.name](machine, argument)
        return Unpickled(machine.pop(), tuple(machine.names), machine.storages)
    except KeyError as error:
        raise pickle.UnpicklingError(f"there is no {error}") from error
    except (IndexError, OverflowError, ValueError) as error:
        raise pickle.UnpicklingError(str(error)) from error


class _Machine:
    """The state that operations work on."""

    def __init__(self) -> None:
        self.stack: list[object] = []
        self.marked: list[list[object]] = []
        self.memo: dict[int, object] = {}
        self.names: dict[str, None] = {}
        self.storages: dict[str, Storage] = {}

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self) -> object:
        return self.stack.pop()

    def pop_several(self, count: int) -> tuple[object, ...]:
        if len(self.stack) < count:
            raise IndexError("its stack is empty")
        taken = tuple(self.stack[-count:])
        del self.stack[-count:]
        return taken

    def mark(self) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def pop_marked(self) -> list[object]:
        taken, self.stack = self.stack, self.marked.pop()
        return taken

    def name(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise pickle.UnpicklingError("a name in it is no text")
        # Up to protocol 2, which torch writes, pickles have the names of Python 2.
        module, name = NAME_MAPPING.get((module, name)) or (IMPORT_MAPPING.get(module, module), name)
        full = f"{module}.{name}"[:_LONGEST_NAME]
        # It goes into messages as it is.
        full = "".join(character if character.isprintable() else "?" for character in full)
        self.names[full] = None
        self.push(named(full))

    def call(self, arguments: object) -> None:
        if not isinstance(arguments, tuple):
            raise pickle.UnpicklingError(f"the arguments of a call are a {kind(arguments)}")
        self.push(called(self.pop(), arguments))

    def create(self, arguments: object) -> None:
        # What is made by its class alone gets its content later, but for the plain containers.
        if not isinstance(arguments, tuple):
            raise pickle.UnpicklingError(f"the arguments of a class are a {kind(arguments)}")
        self.push(called(Inert("copyreg.__newobj__"), (self.pop(), *arguments)))

    def create_with_names(self) -> None:
        arguments, _ = self.pop_several(2)
        self.create(arguments)

    def create_marked(self) -> None:
        klass, *arguments = self.pop_marked()
        self.push(called(klass, arguments))

    def create_named(self, module: str, name: str) -> None:
        arguments = self.pop_marked()
        self.name(module, name)
        self.push(called(self.pop(), arguments))

    def persistent(self, identity: object) -> None:
        found = storage_of(identity)
        if isinstance(found, Storage):
            self.storages.setdefault(found.key, found)
        self.push(found)

    def append(self, values: list[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, Inert):
            raise pickle.UnpicklingError(f"it appends to a {kind(target)}")

    def put(self, items: list[object]) -> None:
        target = self.stack[-1]
        if len(items) % 2:
            raise pickle.UnpicklingError("a key in it has no value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(target, Inert):
                target.put(key, value)
            elif isinstance(target, dict):
                target[as_key(key)] = value
            else:
                raise pickle.UnpicklingError(f"it puts items into a {kind(target)}")

    def mapping(self, items: list[object]) -> None:
        self.push({})
        self.put(items)

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]


_Operation: TypeAlias = Callable[[_Machine, Any], object]


def _constant(value: object) -> _Operation:
    return lambda machine, _: machine.push(value)


def _refused(_machine: _Machine, _argument: object) -> None:
    raise pickle.UnpicklingError("it keeps data outside itself")


# Operations whose argument is a value.
_PUSHED = (
    *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)

_OPERATIONS: dict[str, _Operation] = {
    **dict.fromkeys(_PUSHED, _Machine.push),
    **dict.fromkeys(("PROTO", "FRAME"), cast("_Operation", lambda _machine, _number: None)),
    **dict.fromkeys(("NEXT_BUFFER", "READONLY_BUFFER"), _refused),
    # What numbers stand for is known to the program that registered them.
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), lambda machine, code: machine.name("copyreg", f"extension {code}")),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.remember),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda machine, index: machine.push(machine.memo[index])),
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    "NONE": _constant(None),
    "NEWTRUE": _constant(value=True),
    "NEWFALSE": _constant(value=False),
    "EMPTY_TUPLE": _constant(()),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    # Sets hash what is put into them, and no tensor is ever in one.
    "EMPTY_SET": lambda machine, _: machine.push([]),
    "TUPLE1": lambda machine, _: machine.push(machine.pop_several(1)),
    "TUPLE2": lambda machine, _: machine.push(machine.pop_several(2)),
    "TUPLE3": lambda machine, _: machine.push(machine.pop_several(3)),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_marked())),
    "LIST": lambda machine, _: machine.push(machine.pop_marked()),
    "FROZENSET": lambda machine, _: machine.push(machine.pop_marked()),
    "DICT": lambda machine, _: machine.mapping(machine.pop_marked()),
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.pop_marked()),
    "ADDITEMS": lambda machine, _: machine.append(machine.pop_marked()),
    "SETITEM": lambda machine, _: machine.put(list(machine.pop_several(2))),
    "SETITEMS": lambda machine, _: machine.put(machine.pop_marked()),
    "MARK": lambda machine, _: machine.mark(),
    "POP": lambda machine, _: machine.pop() if machine.stack else machine.pop_marked(),
    "POP_MARK": lambda machine, _: machine.pop_marked(),
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    "GLOBAL": lambda machine, full: machine.name(*str(full).split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name(*machine.pop_several(2)),
    "REDUCE": lambda machine, _: machine.call(machine.pop()),
    "NEWOBJ": lambda machine, _: machine.create(machine.pop()),
    "NEWOBJ_EX": lambda machine, _: machine.create_with_names(),
    "INST": lambda machine, full: machine.create_named(*str(full).split(" ", 1)),
    "OBJ": lambda machine, _: machine.create_marked(),
    # State is for code, of which none is run.
    "BUILD": lambda machine, _: machine.pop(),
    "PERSID": lambda machine, identity: machine.persistent(identity),
    "BINPERSID": lambda machine, _: machine.persistent(machine.pop()),
}
