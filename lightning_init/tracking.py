"""Which parameters a piece of foreign code writes, seen at the writing itself and not by comparing values.

Caught are in-place operations on a parameter, its ``.data``, views of it, ``torch._foreach_*`` and ``out=``, a
replaced ``.data``, a replaced or new parameter, and memory that was handed to NumPy or DLPack and changed there. Not
caught: NumPy writing the very bits that were there, what another thread writes, and writes to memory that was handed
out before the context began, or by the old ``torch.utils.dlpack.to_dlpack``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    # torch needs the package, but this one does not.
    from typing_extensions import Self

__all__ = ["Tracker"]

_HANDS_OUT_MEMORY = frozenset({"__array__", "__dlpack__", "data_ptr", "numpy", "untyped_storage", "storage"})

Snapshot = Callable[[], Mapping[str, Sequence[Tensor]]]


class Tracker:
    """A context in which writes to tensors are noticed.

    Args:
        snapshot: Gives the tensors that count, by name, as they are at the moment; a name may stand for several.

    Attributes:
        active: Whether writes count; they do from the start.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.active = True
        self._snapshot = snapshot
        self._written: dict[str, None] = {}
        self._before: dict[str, list[_Memory]] = {}
        self._by_storage: dict[int, list[tuple[str, _Memory]]] = {}
        self._copies: dict[str, list[Tensor]] = {}
        self._handed_out: dict[str, None] = {}
        self._modes = ExitStack()

    def __enter__(self) -> Self:
        self._look()
        self._modes.enter_context(_HandOuts(self))
        self._modes.enter_context(_Writes(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._modes.close()

    def take(self) -> list[str]:
        """The names written since the start or the last call, in the order of the first write; forgets them."""
        with torch.utils._python_dispatch._disable_current_modes(), torch._C.DisableTorchFunction():
            before = self._before
            for name, copies in self._copies.items():
                if not _same_bits(copies, [memory.tensor for memory in before[name]]):
                    self._written.setdefault(name)
            self._look()
            for name, memories in self._before.items():
                if name not in before or not _same_places(before[name], memories):
                    self._written.setdefault(name)
        written, self._written = list(self._written), {}
        return written

    def take_part(self, tensors: Mapping[str, Sequence[Tensor]]) -> list[str]:
        """Like `take`, for a part of the names: only there it looks for what was replaced, and looks anew.

        Args:
            tensors: The tensors of the part as they are now, by name.
        """
        with torch.utils._python_dispatch._disable_current_modes():
            for name, now in tensors.items():
                before, after = self._before.get(name), [_Memory(tensor) for tensor in now]
                changed = name in self._copies and not _same_bits(self._copies[name], now)
                if changed or before is None or not _same_places(before, after):
                    self._written.setdefault(name)
                self._before[name] = after
                self._index(name)
                if name in self._handed_out:
                    self._copies[name] = self._copy(name)
        written, self._written = list(self._written), {}
        return written

    def _index(self, name: str) -> None:
        for memory in self._before[name]:
            if memory.storage is not None:
                self._by_storage.setdefault(memory.storage._cdata, []).append((name, memory))

    def _look(self) -> None:
        self._before = {name: [_Memory(tensor) for tensor in tensors] for name, tensors in self._snapshot().items()}
        self._by_storage = {}
        for name in self._before:
            self._index(name)
        # Whoever got the memory still has it.
        self._copies = {name: self._copy(name) for name in self._handed_out if name in self._before}

    def wrote(self, tensor: Tensor) -> None:
        """Notes a write to a tensor."""
        for name in self._sharing(tensor):
            self._written.setdefault(name)

    def handed_out(self, tensor: Tensor) -> None:
        """Keeps the bits of what leaves torch's sight."""
        if tensor.is_meta:
            return
        for name in self._sharing(tensor):
            if name not in self._copies:
                self._handed_out[name] = None
                self._copies[name] = self._copy(name)

    def _copy(self, name: str) -> list[Tensor]:
        return [memory.tensor.detach().clone() for memory in self._before[name]]

    def _sharing(self, tensor: Tensor) -> Iterator[str]:
        if not self.active:
            return
        # What is done here to look at memory hands nothing out.
        with torch._C.DisableTorchFunction():
            memory = _Memory(tensor)
        if memory.storage is None:
            return
        for name, other in self._by_storage.get(memory.storage._cdata, ()):
            if memory.first < other.last and other.first < memory.last:
                yield name


class _Memory:
    """The bytes that a tensor stands on. It keeps them alive, so that an address is never mistaken for another."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        local = getattr(tensor, "_local_tensor", tensor)
        self.storage = None if is_lazy(local) or local.layout is not torch.strided else local.untyped_storage()
        self.first = self.last = 0
        if self.storage is not None and local.numel():
            spans = ((size - 1) * stride for size, stride in zip(local.shape, local.stride(), strict=True))
            self.first = int(local.storage_offset()) * local.element_size()
            self.last = self.first + (sum(spans) + 1) * local.element_size()


class _Writes(TorchDispatchMode):
    """Sees every operator and asks its schema which arguments it writes."""

    def __init__(self, tracker: Tracker) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it without annotations
        self.tracker = tracker

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            for i, argument in enumerate(func._schema.arguments):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    given = args[i] if i < len(args) else kwargs.get(argument.name)
                    for tensor in given if isinstance(given, list | tuple) else [given]:
                        if isinstance(tensor, Tensor):
                            self.tracker.wrote(tensor)
        return func(*args, **kwargs)


class _HandOuts(TorchFunctionMode):
    """Sees a tensor's memory leave for NumPy, DLPack or a bare pointer."""

    def __init__(self, tracker: Tracker) -> None:
        super().__init__()
        self.tracker = tracker

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in _HANDS_OUT_MEMORY and args and isinstance(args[0], Tensor):
            self.tracker.handed_out(args[0])
        return func(*args, **(kwargs or {}))


def _same_places(before: Sequence[_Memory], after: Sequence[_Memory]) -> bool:
    return len(before) == len(after) and all(
        old.tensor is new.tensor
        and (old.storage and old.storage._cdata) == (new.storage and new.storage._cdata)
        and (old.first, old.last) == (new.first, new.last)
        for old, new in zip(before, after, strict=True)
    )


def _same_bits(before: Sequence[Tensor], after: Sequence[Tensor]) -> bool:
    return all(
        old.contiguous().view(-1).view(torch.uint8).equal(new.detach().contiguous().view(-1).view(torch.uint8))
        for old, new in zip(before, after, strict=True)
    )
