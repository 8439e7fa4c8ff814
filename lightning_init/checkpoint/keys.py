"""What the keys of a checkpoint are called once containers, wrappers and a prefix are taken off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from lightning_init.errors import CheckpointError, Fault

__all__ = ["WRAPPER_PARTS", "Keys", "some", "without_wrappers"]

WRAPPER_PARTS = frozenset({"_orig_mod", "module"})
"""Parts of a key that DDP and ``torch.compile`` put in."""


def without_wrappers(key: str) -> str:
    """A key without the parts that wrappers put in, wherever they stand.

    Whole parts only, and never the last one, which names the tensor.

    >>> without_wrappers("module.net._orig_mod.modules.weight")
    'net.modules.weight'
    """
    *path, last = key.split(".")
    return ".".join([*(part for part in path if part not in WRAPPER_PARTS), last])


def some(names: Iterable[str], limit: int = 8) -> str:
    """Names for a message: the first few, and how many more there are.

    >>> some(["a", "b", "c"], limit=2)
    "'a', 'b' and 1 more"
    """
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(repr, names[:limit])) + more


class Keys:
    """The keys of a checkpoint, to be found under the names of a model.

    A key stands for every name that is left when any of its wrapper parts are taken out: ``module.net._orig_mod.bias``
    for ``net.bias``, but as well for ``module.net.bias``, since a model may have a genuine ``module``. The name that
    leaves most of the key is the one that is meant.

    Args:
        keys: The keys as they stand in the checkpoint.
        prefix: The path to the part that is wanted, with or without the dot at its end. Names are relative to it.
        source: The checkpoint's name, for messages.

    Attributes:
        prefix: The prefix with its dot, or an empty string.
        below: The keys below the prefix, in the order of the checkpoint.

    Raises:
        CheckpointError: No key is below the prefix.
    """

    def __init__(self, keys: Iterable[str], prefix: str | None, source: str) -> None:
        self._all = tuple(keys)
        self.prefix = f"{prefix.removesuffix('.')}." if prefix and prefix != "." else ""
        head = self.prefix.split(".")[:-1]
        self.below = tuple(key for key in self._all if _rest(key.split("."), head))
        if not self.below:
            raise CheckpointError([Fault("prefix", self._absent(source))])
        self._known = frozenset(self.below)
        self._by_stripped: dict[str, list[str]] = {}
        for key in self.below:
            self._by_stripped.setdefault(without_wrappers(key), []).append(key)

    def candidates(self, name: str) -> tuple[str, ...]:
        """The keys that stand for a name: the one that is called so, else all that are without some wrapper parts.

        Args:
            name: A parameter's name, relative to the prefix.

        Returns:
            None of them, one, or several keys that cannot be told apart.
        """
        full = self.prefix + name
        if full in self._known:
            return (full,)
        wanted = full.split(".")
        alike = self._by_stripped.get(without_wrappers(full), [])
        return tuple(key for key in alike if _rest(key.split("."), wanted) == [])

    def removed(self, key: str, name: str) -> int:
        """How many parts of a key are taken out for a name."""
        return key.count(".") - (self.prefix + name).count(".")

    def relative(self, key: str) -> str:
        """A key below the prefix without it, and without wrapper parts."""
        return without_wrappers(key).removeprefix(without_wrappers(f"{self.prefix}x")[:-1])

    def hint(self, names: Sequence[str]) -> str:
        """What may be done when no key stands for any of these names; empty if nothing comes to mind."""
        wanted = frozenset(names)
        heads: Counter[str] = Counter()
        for key in map(without_wrappers, self._all):
            heads.update(head for head, tail in _splits(key) if tail in wanted)
        if heads:
            head, count = heads.most_common(1)[0]
            return f"{count} of its keys match with prefix={head + '.'!r}"
        known = frozenset(map(self.relative, self.below))
        heads.update(head for name in names for head, tail in _splits(name) if tail in known)
        if heads:
            head, count = heads.most_common(1)[0]
            return f"{count} of its keys match below {head!r} of the module: let that submodule carry the rule"
        return ""

    def _absent(self, source: str) -> str:
        if not self._all:
            return f"{source!r} has no tensors"
        stripped = [without_wrappers(key) for key in self._all]
        tops = Counter(f"{key.partition('.')[0]}." for key in stripped if "." in key)
        there = ", ".join(f"{top!r} ({count})" for top, count in tops.most_common(8)) or "none"
        told = (
            f"{source!r} has no key below {self.prefix!r}; the prefixes at its top (with numbers of keys) are {there}"
        )
        deeper = {f"{head}." for key in stripped for head, _ in _splits(key) if f".{head}.".endswith(f".{self.prefix}")}
        if deeper:
            told += f"; did you mean {some(sorted(deeper), 3)}?"
        return f"{told}; some keys: {some(self._all, 5)}"


def _rest(parts: list[str], head: list[str]) -> list[str] | None:
    """What follows a head in the parts of a key, wrapper parts before and inside the head passed over.

    Returns:
        The parts after it, or None where the key does not start so.
    """
    position = 0
    for wanted in head:
        while position < len(parts) and parts[position] != wanted and parts[position] in WRAPPER_PARTS:
            position += 1
        if position == len(parts) or parts[position] != wanted:
            return None
        position += 1
    return parts[position:]


def _splits(name: str) -> Iterable[tuple[str, str]]:
    """Every (head, tail) of a dotted name."""
    parts = name.split(".")
    return [(".".join(parts[:i]), ".".join(parts[i:])) for i in range(1, len(parts))]
