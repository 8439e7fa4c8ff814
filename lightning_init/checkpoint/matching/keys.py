"""What the keys of a checkpoint are called once containers, wrappers and a prefix are taken off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from lightning_init.checkpoint.matching.naming import WRAPPER_PARTS, splits, without_wrappers
from lightning_init.checkpoint.matching.revise import revise
from lightning_init.checkpoint.matching.rules import KeyRules
from lightning_init.errors import CheckpointError, Fault
from lightning_init.text import quoted

__all__ = ["Keys"]


class Keys:
    """The keys of a checkpoint, to be found under the names of a model.

    A key stands for every name that is left when any of its wrapper parts are taken out: ``module.net._orig_mod.bias``
    for ``net.bias``, but as well for ``module.net.bias``, since a model may have a genuine ``module``. The name that
    leaves most of the key is the one that is meant.

    Args:
        keys: The keys as they stand in the checkpoint.
        rules: Which part of it is wanted, and what is replaced in its keys. Names are relative to the prefix.
        source: The checkpoint's name, for messages.

    Attributes:
        prefix: The prefix with its dot, or an empty string.
        below: The keys below the prefix, in the order of the checkpoint.
        names: What each of them is called without the prefix and after revision; wrapper parts still stand in it.
        warnings: Pairs of ``revise_keys`` that change no key.

    Raises:
        CheckpointError: No key is below the prefix, or several have one name after revision.
    """

    def __init__(self, keys: Iterable[str], rules: KeyRules, source: str) -> None:
        self._all = tuple(keys)
        self.prefix = rules.prefix
        head = self.prefix.split(".")[:-1]
        rests = {key: rest for key in self._all if (rest := _rest(key.split("."), head))}
        if not rests:
            raise CheckpointError([Fault("prefix", self._absent(source))])
        self.below = tuple(rests)
        revised = revise({key: ".".join(rest) for key, rest in rests.items()}, rules, source)
        self.names, self.warnings = revised.names, revised.warnings
        # A wrapper above the end of the prefix is taken out as well.
        self._above = {key: key.count(".") + 1 - len(head) - len(rest) for key, rest in rests.items()}
        self._exact = {self.names[key]: key for key, above in self._above.items() if not above}
        self._by_stripped: dict[str, list[str]] = {}
        for key, name in self.names.items():
            self._by_stripped.setdefault(without_wrappers(name), []).append(key)

    def candidates(self, name: str) -> tuple[str, ...]:
        """The keys that stand for a name: the one that is called so, else all that are without some wrapper parts.

        Args:
            name: A parameter's name, as the keys are called without the prefix and after revision.

        Returns:
            None of them, one, or several keys that cannot be told apart.
        """
        if name in self._exact:
            return (self._exact[name],)
        wanted = name.split(".")
        alike = self._by_stripped.get(without_wrappers(name), [])
        return tuple(key for key in alike if _rest(self.names[key].split("."), wanted) == [])

    @property
    def called(self) -> set[str]:
        """What the keys below the prefix are called after revision, with wrapper parts and without."""
        return {name for key in self.below for name in (self.names[key], self.relative(key))}

    def removed(self, key: str, name: str) -> int:
        """How many parts of a key are taken out for a name, the prefix and revision aside."""
        return self._above[key] + self.names[key].count(".") - name.count(".")

    def relative(self, key: str) -> str:
        """What a key below the prefix is called without it, after revision and without wrapper parts."""
        return without_wrappers(self.names[key])

    def hint(self, names: Sequence[str], into: str = "") -> str:
        """What may be done when no key stands for any of these names; empty if nothing comes to mind.

        Args:
            names: Names of parameters.
            into: The submodule that they are relative to.
        """
        wanted = frozenset(names)
        heads: Counter[str] = Counter()
        for key in map(without_wrappers, self._all):
            heads.update(head for head, tail in splits(key) if tail in wanted)
        if heads:
            head, count = heads.most_common(1)[0]
            return f"{count} of its keys match with prefix={head + '.'!r}"
        known = frozenset(map(self.relative, self.below))
        heads.update(head for name in names for head, tail in splits(name) if tail in known)
        if heads:
            head, count = heads.most_common(1)[0]
            path = f"{into}.{head}" if into else head
            return f"{count} of its keys match below {path!r} of the module: into={path!r} loads them there"
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
        deeper = {f"{head}." for key in stripped for head, _ in splits(key) if f".{head}.".endswith(f".{self.prefix}")}
        if deeper:
            told += f"; did you mean {quoted(sorted(deeper), 3)}?"
        return f"{told}; some keys: {quoted(self._all, 5)}"


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
