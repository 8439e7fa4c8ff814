"""What a user says about the keys of a checkpoint: which of them are meant, and what they are called here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lightning_init.errors import Fault, InitConfigError
from lightning_init.scope import NamePattern, strings

__all__ = ["KeyRules", "Revision"]


class Revision(NamedTuple):
    """A regular expression, and what stands in the place of what it finds (``re.sub``)."""

    pattern: re.Pattern[str]
    replacement: str

    def __str__(self) -> str:
        return f"({self.pattern.pattern!r}, {self.replacement!r})"


@dataclass(frozen=True)
class KeyRules:
    """What becomes of the keys of a checkpoint, in this order.

    Attributes:
        prefix: Only keys below it are meant, and names are relative to it; with its dot, or empty.
        revise: What is replaced in a key relative to the prefix, one after the other.
        include: Patterns of the names after revision that are meant; empty for all.
        exclude: Patterns of the names after revision that are not.
        into: The submodule below which the names go; without a dot at its end, or empty.
    """

    prefix: str = ""
    revise: tuple[Revision, ...] = ()
    include: tuple[NamePattern, ...] = ()
    exclude: tuple[NamePattern, ...] = ()
    into: str = ""

    @classmethod
    def parse(
        cls, *, prefix: Any = None, revise_keys: Any = None, include: Any = None, exclude: Any = None, into: Any = None
    ) -> KeyRules:
        r"""The rules from what a config says, which may be of any type.

        Args:
            prefix: A path in the checkpoint, with or without the dot at its end.
            revise_keys: A list of pairs (regular expression, replacement).
            include: A name pattern or a list of them; it covers what it matches and all that is below.
            exclude: The same.
            into: The path of a submodule, with or without the dot at its end.

        Raises:
            InitConfigError: With every fault, and the argument at fault as its place.

        >>> KeyRules.parse(prefix="encoder", revise_keys=[(r"\.gamma$", ".weight")]).prefix
        'encoder.'
        """
        faults: list[Fault] = []
        for where, value in (("prefix", prefix), ("into", into)):
            if not isinstance(value, str | None):
                faults.append(Fault(where, f"must be a string such as 'backbone.', or None, got {value!r}"))
        revise = _revisions(revise_keys, faults)
        patterns = {
            where: _patterns(where, value, faults) for where, value in (("include", include), ("exclude", exclude))
        }
        if faults:
            raise InitConfigError(faults)
        path = (prefix or "").removesuffix(".")
        return cls(f"{path}." if path else "", revise, **patterns, into=(into or "").removesuffix("."))

    def admits(self, *names: str) -> bool:
        """Whether `include` and `exclude` let something pass that may be called by any of these names.

        >>> rules = KeyRules.parse(include="net", exclude="net.head")
        >>> rules.admits("net.conv.weight"), rules.admits("net.head.weight"), rules.admits("step")
        (True, False, False)
        """
        if any(pattern.covers(name) for pattern in self.exclude for name in names):
            return False
        return not self.include or any(pattern.covers(name) for pattern in self.include for name in names)


def _revisions(value: Any, faults: list[Fault]) -> tuple[Revision, ...]:
    if value is None:
        return ()
    if isinstance(value, str) or not isinstance(value, Sequence):
        faults.append(Fault("revise_keys", f"must be a list of pairs (regular expression, replacement), got {value!r}"))
        return ()
    found = []
    for i, item in enumerate(value):
        revision = _revision(item)
        if isinstance(revision, Revision):
            found.append(revision)
        else:
            faults.append(Fault(f"revise_keys[{i}]", revision))
    return tuple(found)


def _revision(item: Any) -> Revision | str:
    """A pair, or what is wrong with it."""
    is_pair = isinstance(item, Sequence) and not isinstance(item, str) and len(item) == 2
    if not is_pair or not all(isinstance(part, str) for part in item):
        return f"must be a pair of strings (regular expression, replacement), got {item!r}"
    text, replacement = item
    try:
        pattern = re.compile(text)
    except re.error as error:
        return f"{text!r} is no regular expression: {error}"
    try:
        # The replacement is read before anything is looked for.
        pattern.sub(replacement, "")
    except (re.error, IndexError) as error:
        return f"{replacement!r} is no replacement for {text!r}, which has {pattern.groups} groups: {error}"
    return Revision(pattern, replacement)


def _patterns(where: str, value: Any, faults: list[Fault]) -> tuple[NamePattern, ...]:
    found = []
    try:
        texts = strings(() if value is None else value, where)
    except InitConfigError as error:
        faults.extend(error.faults)
        return ()
    for i, text in enumerate(texts):
        try:
            found.append(NamePattern(text))
        except InitConfigError as error:
            faults.extend(Fault(f"{where}[{i}]", fault.what) for fault in error.faults)
    return tuple(found)
