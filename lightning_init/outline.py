"""All that is below a module as a list with indices, so that a rule goes straight to what it means.

With many rules on a large model nearly all that a rule could look at is not meant; what is looked up here is found
once for all rules of a module.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from functools import cached_property
from operator import itemgetter

from torch import Tensor, nn

from lightning_init.scope import NamePattern, Scope
from lightning_init.slot import Slot, join
from lightning_init.tree import Node, Tree

__all__ = ["Outline"]


class Outline:
    """A module and all below it, in the order of registration; a shared module once for every path that leads to it.

    Args:
        tree: The module tree.
        top: The module that paths are relative to.

    Attributes:
        places: (relative path, module) in that order. A position is an index of this list.
    """

    def __init__(self, tree: Tree, top: Node) -> None:
        self.places = tree.below(top)
        self._tree = tree

    def names_at(self, position: int) -> list[str]:
        """The own names of the parameters of a module."""
        return list(self._tree.parameters(self.places[position][1]))

    @cached_property
    def classes(self) -> dict[type, list[int]]:
        """The classes of the modules, and where these are."""
        found: dict[type, list[int]] = {}
        for position, (_, node) in enumerate(self.places):
            found.setdefault(type(node.module), []).append(position)
        return found

    def of_layer(self, scope: Scope) -> Iterable[int]:
        """Where the modules are whose class a scope means."""
        if not scope.layer:
            return range(len(self.places))
        found = [at for at in self.classes.values() if scope.has_layer(self.places[at[0]][1].module)]
        return found[0] if len(found) == 1 else sorted(position for at in found for position in at)

    def parameters(self, scope: Scope) -> dict[Slot, str]:
        """The parameters that a scope means, each with its own name in the module where it is met last."""
        found: dict[Slot, str] = {}
        taken: dict[str, bool] = {}
        places, parameters = self.places, self._tree.parameters
        for position, only in self._of_layer_and_name(scope):
            for name, slot in parameters(places[position][1]).items():
                if name not in taken:
                    taken[name] = scope.takes(name, ("weight", "bias"))
                if taken[name] and (only is None or name in only):
                    found[slot] = name
        return found

    def _of_layer_and_name(self, scope: Scope) -> Iterator[tuple[int, set[str] | None]]:
        """Where a scope means parameters, and which of a module's own its name covers; None for all of them."""
        if scope.name is None:
            for position in self.of_layer(scope):
                yield position, None
            return
        single: dict[int, set[str]] = {}
        for position, name in self.single(scope.name):
            single.setdefault(position, set()).add(name)
        whole = (position for start in self.tops(scope.name) for position in range(start, self.ends[start]))
        for position, only in sorted({**single, **dict.fromkeys(whole)}.items(), key=itemgetter(0)):
            if scope.has_layer(self.places[position][1].module):
                yield position, only

    @cached_property
    def ends(self) -> list[int]:
        """Where what is below a module ends, for every position."""
        found = [len(self.places)] * len(self.places)
        open_: list[int] = []
        for position, (path, _) in enumerate(self.places):
            while open_ and not _is_below(path, self.places[open_[-1]][0]):
                found[open_.pop()] = position
            open_.append(position)
        return found

    def covers_any(self, name: NamePattern) -> bool:
        """Whether a name covers a module or a parameter."""
        return any(True for _ in self.tops(name)) or any(True for _ in self.single(name))

    def tops(self, name: NamePattern) -> Iterator[int]:
        """Where the modules are that a name covers, without those below such a one, and without the top itself."""
        end = 0
        for position in self._candidates(name):
            if position >= end and name.matches(self.places[position][0]):
                yield position
                end = self.ends[position]

    def single(self, name: NamePattern) -> Iterator[tuple[int, str]]:
        """(position of the module, own name) of the parameters that a name matches; it may cover their modules too."""
        if name.literal:
            parent, _, own = name.text.rpartition(".")
            position = self._position.get(parent)
            if position is not None and own in self.names_at(position) and join(parent, own) == name.text:
                yield position, own
            return
        within = self._within(name)
        for own, positions in self._with_parameter.items():
            if name.may_end_with(own):
                yield from ((at, own) for at in _between(positions, within) if name.matches(self._full_name(at, own)))

    def _full_name(self, position: int, own: str) -> str:
        path = self.places[position][0]
        return f"{path}.{own}" if path else own

    def _within(self, name: NamePattern) -> range:
        """Where a name can match, by the plain parts that it starts with."""
        if not name.head:
            return range(len(self.places))
        start = self._position.get(name.head)
        if start is not None:
            return range(start, self.ends[start])
        # It may be a parameter, which `weight.**` matches as well.
        holder = self._position.get(name.head.rpartition(".")[0])
        return range(0) if holder is None else range(holder, holder + 1)

    def _candidates(self, name: NamePattern) -> Iterable[int]:
        """Where a name can match the path of a module, in order; without the top."""
        if name.literal:
            return [self._position[name.text]] if name.text in self._position else []
        within = self._within(name)
        if len(within) <= len(self._with_last_part):
            return within if within.start else within[1:]
        ends = [positions for part, positions in self._with_last_part.items() if name.may_end_with(part)]
        return sorted(position for positions in ends for position in _between(positions, within))

    @cached_property
    def _position(self) -> dict[str, int]:
        return {path: position for position, (path, _) in enumerate(self.places)}

    @cached_property
    def _with_last_part(self) -> dict[str, list[int]]:
        """Where the modules are whose path ends with a part."""
        found: dict[str, list[int]] = {}
        for position, (path, _) in enumerate(self.places):
            if path:
                found.setdefault(path.rpartition(".")[2], []).append(position)
        return found

    @cached_property
    def _with_parameter(self) -> dict[str, list[int]]:
        """Where the modules are that have a parameter of a name."""
        found: dict[str, list[int]] = {}
        for position in range(len(self.places)):
            for name in self.names_at(position):
                found.setdefault(name, []).append(position)
        return found

    @cached_property
    def hooked(self) -> list[tuple[int, str]]:
        """Where the modules are whose weight an old hook computes, and the name of what it is computed from."""
        # The hooks leave what they computed last as a plain attribute.
        found = [position for position, (_, node) in enumerate(self.places) if "weight" in vars(node.module)]
        return [(position, name) for position in found if (name := _hooked(self.places[position][1].module))]


def _between(positions: list[int], within: range) -> list[int]:
    """Those of some positions, in order, that lie in a range."""
    return positions[bisect_left(positions, within.start) : bisect_left(positions, within.stop)]


def _is_below(path: str, other: str) -> bool:
    return not other or path.startswith(f"{other}.")


def _hooked(module: nn.Module) -> str | None:
    if not isinstance(vars(module)["weight"], Tensor):
        return None
    return next((name for name in ("weight_v", "weight_orig") if name in module._parameters), None)
