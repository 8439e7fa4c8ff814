"""The contract of adapters: what they look at, what they answer, and how users add their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from lightning_init.checkpoint.base import Entry
from lightning_init.checkpoint.matching.target import Target
from lightning_init.errors import InitConfigError, InitError

__all__ = ["Adaptation", "Adapter", "Adapters", "Misfit", "at_least_fp32"]


@dataclass(frozen=True)
class Misfit:
    """A key and a target of the same name and of different shapes, before any value is read.

    Attributes:
        key: The key.
        entry: What is under it.
        target: What it should fill.
        position: Where the target stands among `targets`.
        targets: All of the module that is loaded into, in the order of registration.
        entries: What the checkpoint has for these, by their names, whether it fits or not.
    """

    key: str
    entry: Entry
    target: Target
    position: int
    targets: Sequence[Target] = field(repr=False)
    entries: Mapping[str, Entry] = field(repr=False)


@dataclass(frozen=True)
class Adaptation:
    """How a misfit is made to fit.

    Attributes:
        what: What is done, for the report: ``"3 -> 1 input channels: summed"``.
        apply: Makes values of the target's shape from those of the checkpoint, which it must not write to. Type and
            device are converted afterwards. It is left behind when the adaptation is pickled.
        drop: Nothing is loaded, the target is left to the other rules.

    Raises:
        InitError: Neither `apply` nor `drop` is given, or both are.
    """

    what: str
    apply: Callable[[Tensor], Tensor] | None = field(default=None, compare=False, repr=False)
    drop: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if (self.apply is None) != self.drop:
            raise InitError(f"the adaptation {self.what!r} must either apply something or drop, not both")

    def __reduce__(self) -> tuple[Callable[[str, bool], Adaptation], tuple[str, bool]]:
        return _told, (self.what, self.drop)


def _told(what: str, drop: bool) -> Adaptation:  # noqa: FBT001 - called by pickle alone
    return Adaptation(what, None if drop else _left_behind, drop=drop)


def _left_behind(_value: Tensor) -> Tensor:
    raise InitError("an adaptation that was pickled is a record and cannot be applied")


Adapter: TypeAlias = Callable[[Misfit], Adaptation | str]
"""Answers how a misfit is made to fit, or with the reason why this adapter is not for it."""


class Adapters(Mapping[str, Adapter]):
    """A table of adapters by name, in the order in which they are asked: those of users first.

    Args:
        built_in: The library's own.

    Example:
        A vocabulary that grew by tokens at its end: known rows are kept, new ones start from the mean of the known.
        ``lightning_init.checkpoint.register_adapter`` adds such a function to the table that is used.

        >>> from torch import nn
        >>> adapters = Adapters({})
        >>> @adapters.register("vocabulary")
        ... def vocabulary(misfit):
        ...     known, wanted = misfit.entry.shape, misfit.target.shape
        ...     if not any(issubclass(owner, nn.Embedding) for owner in misfit.target.owners):
        ...         return "it is not the weight of an embedding"
        ...     if known[1:] != wanted[1:] or known[0] > wanted[0]:
        ...         return "rows are not only added"
        ...     def grown(value):
        ...         mean = value.float().mean(dim=0, keepdim=True)
        ...         return torch.cat([value.float(), mean.expand(wanted[0] - known[0], *wanted[1:])])
        ...     return Adaptation(f"{known[0]} -> {wanted[0]} tokens: new ones are the mean of the known", grown)
        >>> list(adapters)
        ['vocabulary']
    """

    def __init__(self, built_in: Mapping[str, Adapter]) -> None:
        self._built_in = dict(built_in)
        self._users: dict[str, Adapter] = {}

    def register(self, name: str) -> Callable[[Adapter], Adapter]:
        """Decorator that adds an adapter under a name.

        Raises:
            InitConfigError: The name is taken or empty, or what is decorated cannot be called.
        """
        if not isinstance(name, str) or not name:
            raise InitConfigError(
                f"an adapter is registered by name, as in register_adapter('vocabulary'), got {name!r}"
            )

        def add(adapter: Adapter) -> Adapter:
            if not callable(adapter):
                raise InitConfigError(f"{adapter!r} cannot be registered as adapter {name!r}: it cannot be called")
            if name in self:
                raise InitConfigError(f"the adapter name {name!r} is taken; choose another one")
            self._users[name] = adapter
            return adapter

        return add

    def __getitem__(self, name: str) -> Adapter:
        """The adapter of that name.

        Raises:
            KeyError: No such name.
        """
        return self._users[name] if name in self._users else self._built_in[name]

    def __iter__(self) -> Iterator[str]:
        yield from self._users
        yield from self._built_in

    def __len__(self) -> int:
        return len(self._users) + len(self._built_in)


def at_least_fp32(value: Tensor) -> Tensor:
    """A value in a type that sums and interpolates without the losses of half precision.

    >>> at_least_fp32(torch.ones(1, dtype=torch.bfloat16)).dtype, at_least_fp32(torch.ones(1).double()).dtype
    (torch.float32, torch.float64)
    """
    return value if value.dtype in (torch.float64, torch.complex64, torch.complex128) else value.to(torch.float32)
