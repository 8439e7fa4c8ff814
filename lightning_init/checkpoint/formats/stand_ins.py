"""What stands for the things that a pickle names: descriptions of tensors, and inert objects for all else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

__all__ = ["Inert", "Storage", "Stored", "Unusual", "as_key", "kind"]

_MOST_BITS = 128


class Inert(Mapping[object, object]):
    """Stands for anything that a pickle names and that is not data: it has a name, and does nothing.

    As a mapping it has the items that the pickle put into it, since a state dict may be of any class derived from
    dict.

    Args:
        name: The class or function that the pickle names.
    """

    __slots__ = ("_items", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._items: dict[object, object] = {}

    def put(self, key: object, value: object) -> None:
        """Keeps an item."""
        self._items[as_key(key)] = value

    def __getitem__(self, key: object) -> object:
        return self._items[key]

    def __iter__(self) -> Iterator[object]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    # Mappings compare their items, which hostile ones could nest at will.
    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


@dataclass(frozen=True, eq=False)
class Storage:
    """A block of elements that lies beside the pickle.

    Attributes:
        key: Its name in the file.
        dtype: The type of its elements.
        numel: How many elements of it are meant.
        offset: The first of them.
    """

    key: str
    dtype: torch.dtype
    numel: int
    offset: int = 0

    @property
    def end(self) -> int:
        """How many bytes its record must have."""
        return (self.offset + self.numel) * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor whose values lie in a storage, not read yet.

    Attributes:
        storage: Where they are.
        dtype: The type of its elements.
        offset: Its first element, counted from the storage's.
        shape: Its shape.
        stride: Its strides, in elements.
    """

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def span(self) -> int:
        """How many bytes of the storage it reaches over, from its first element on."""
        if 0 in self.shape:
            return 0
        reach = sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        return (reach + 1) * self.dtype.itemsize

    @property
    def start(self) -> int:
        """The byte at which it begins, counted from the start of the storage's record."""
        return self.storage.offset * self.storage.dtype.itemsize + self.offset * self.dtype.itemsize

    @property
    def end(self) -> int:
        """The byte behind its last one, counted in the same way."""
        return self.start + self.span


@dataclass(frozen=True, eq=False)
class Unusual:
    """A tensor that is not plainly stored: quantized, sparse, nested, hollow or wrapped.

    Attributes:
        maker: The function of torch that would make it.
    """

    maker: str


def as_key(key: object) -> object:
    """A key that is safe to put into a dictionary and to show.

    Hashing nested tuples takes what time and stack a file wants, and Python does not write down numbers of thousands of
    digits.
    """
    if isinstance(key, int) and key.bit_length() > _MOST_BITS:
        return Inert("int")
    return key if isinstance(key, str | bytes | int | float | torch.dtype | Inert | None) else Inert(kind(key))


def kind(value: object) -> str:
    """What a value is, for messages: the name of its class in the program that saved it."""
    if isinstance(value, Stored | Unusual):
        return "Tensor"
    return value.name if isinstance(value, Inert) else type(value).__name__
