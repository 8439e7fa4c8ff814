"""What every kind of checkpoint offers: names and shapes at once, values one at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from lightning_init.sharding import Share, Slices

if TYPE_CHECKING:
    # torch needs the package, but this one does not.
    from typing_extensions import Self

__all__ = ["Checkpoint", "Entry", "Piece", "Reading", "SafeGlobal"]

Piece: TypeAlias = tuple[Slices, Tensor]
"""Where values belong in a local tensor, and the values."""

SafeGlobal: TypeAlias = Callable[..., object] | tuple[Callable[..., object], str]
"""A class or function, or one with the path under which files name it, as ``torch.serialization`` takes them."""


@dataclass(frozen=True)
class Reading:
    """What of a file is wanted, and what it may hold.

    Attributes:
        container: Under which name (or dotted path of names) it keeps the state dict; None to look for the usual ones.
        ema: The averaged weights are wanted.
        safe_globals: Classes that a file of ``torch.save`` may make besides tensors.
    """

    container: str | None = None
    ema: bool = False
    safe_globals: tuple[SafeGlobal, ...] = ()


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
        notes: What the user may want to know about the file, such as what was left unread.
    """

    source: str
    entries: Mapping[str, Entry]
    notes: tuple[str, ...] = ()

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

    def pieces(self, key: str, mine: Share) -> Iterator[Piece]:
        """The values under one of the entries as far as they are in a share, one piece at a time.

        Of a format that cannot do better, the whole tensor is read first.

        Args:
            key: The entry.
            mine: The share, of a tensor of its shape.

        Yields:
            Where a piece belongs in the local tensor, and its values, which are those of `read`. Let go of one before
            the next.

        Raises:
            CheckpointError: The values cannot be read.
            KeyError: There is no such entry.
        """
        whole = self.read(key)
        for here, there in mine.cut((0,) * whole.dim(), whole.shape):
            yield here, whole[there]

    def load(self, key: str, into: Iterable[tuple[Tensor, Share]], device: torch.device) -> None:
        """Copies the values under one of the entries to where they belong.

        Args:
            key: The entry.
            into: Local tensors, and which parts of a tensor of its shape they are; their type and device count.
            device: Over which device the values go there.

        Raises:
            CheckpointError: The values cannot be read.
            KeyError: There is no such entry.
        """
        with torch.no_grad():
            for tensor, mine in into:
                for here, values in self.pieces(key, mine):
                    tensor[here].copy_(values.to(device))

    def close(self) -> None:  # noqa: B027 - most formats hold nothing open
        """Lets the file go. Nothing can be read afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
