"""Which modules and parameters a rule means by ``layer``, ``name`` and ``params``."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import takewhile
from typing import Any, TypeAlias

from torch import nn

from lightning_init.errors import Fault, InitConfigError

__all__ = ["LayerSpec", "NamePattern", "Scope", "is_class", "is_layer", "layer_names", "strings"]

LayerSpec: TypeAlias = "str | type | Sequence[str | type]"


def layer_names(spec: Any) -> tuple[str | type, ...]:
    """The value of ``layer`` as a tuple.

    Args:
        spec: A class name, a class, a sequence of these, or None for none.

    Raises:
        InitConfigError: It is something else, with ``layer`` as the place.

    >>> layer_names("Conv2d")
    ('Conv2d',)
    """
    if spec is None:
        return ()
    items = [spec] if isinstance(spec, str | type) else spec
    if not isinstance(items, Sequence):
        raise InitConfigError([Fault("layer", f"must be a class name, a class or a list of them, got {spec!r}")])
    faults = [
        Fault("layer" if items[0] is spec else f"layer[{i}]", f"must be a class name or a module class, got {item!r}")
        for i, item in enumerate(items)
        if not (item if isinstance(item, str) else isinstance(item, type) and issubclass(item, nn.Module))
    ]
    if faults:
        raise InitConfigError(faults)
    return tuple(items)


def is_layer(module: nn.Module, names: Sequence[str | type]) -> bool:
    """Whether a class of the module's MRO is one of those named.

    >>> is_layer(nn.Conv2d(1, 1, 1), ["_ConvNd"]), is_layer(nn.Conv2d(1, 1, 1), ["torch.nn.Conv1d"])
    (True, False)
    """
    return any(is_class(type(module), name) for name in names)


def is_class(cls: type, name: str | type) -> bool:
    """Whether a class is, or is derived from, the one of that name."""
    if isinstance(name, type):
        return issubclass(cls, name)
    if "." not in name:
        return any(base.__name__ == name for base in cls.__mro__)
    # "torch.nn.Linear" lives in torch.nn.modules.linear: look where the name points, in what is imported already.
    module, _, attribute = name.rpartition(".")
    target = getattr(sys.modules.get(module), attribute, None)
    return any(base is target or f"{base.__module__}.{base.__qualname__}" == name for base in cls.__mro__)


@dataclass(frozen=True)
class NamePattern:
    """A pattern for qualified names; it covers what it matches and all that is below.

    ``*`` and ``?`` stay between dots, ``**`` stands for any number of parts (none included), ``re:`` starts a regular
    expression for the whole name.

    Raises:
        InitConfigError: The pattern is empty or no regular expression, with ``name`` as the place.

    >>> NamePattern("blocks.*.attn").covers("blocks.0.attn.qkv")
    True
    >>> NamePattern("blocks.*").covers("blocks"), NamePattern("**.conv").covers("conv")
    (False, True)
    """

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text:
            raise InitConfigError([Fault("name", f"must be a name or a pattern, got {self.text!r}")])
        try:
            _ = self._regex
        except re.error as error:
            raise InitConfigError([Fault("name", f"{self.text!r} is no regular expression: {error}")]) from None

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        if self.text.startswith("re:"):
            return re.compile(self.text[3:])
        pieces = [r"(?:[^.]+\.)*" if part == "**" else _part(part) + r"\." for part in self.text.split(".")]
        # Every piece ends with a dot; so does the name that is matched against.
        return re.compile("".join(pieces) + r"(?:.+\.)?")

    @cached_property
    def _last(self) -> re.Pattern[str] | None:
        last = self.text.rpartition(".")[2]
        return None if self.text.startswith("re:") or last == "**" else re.compile(_part(last))

    @cached_property
    def head(self) -> str:
        """The plain parts before the first with a wildcard; what the pattern matches lies there or below."""
        return "" if self.text.startswith("re:") else ".".join(takewhile(_is_plain, self.text.split(".")))

    def may_end_with(self, part: str) -> bool:
        """Whether a name that the pattern matches, and not only covers, can end with this part."""
        return self._last is None or self._last.fullmatch(part) is not None

    @cached_property
    def literal(self) -> bool:
        """It is a plain name, without wildcards."""
        return not self.text.startswith("re:") and _is_plain(self.text)

    def covers(self, path: str) -> bool:
        """Whether the name, or one above it, matches."""
        if self.text.startswith("re:"):
            # Name by name, so that a `$` in it does not keep out what is below.
            parts = path.split(".")
            return any(self.matches(".".join(parts[: i + 1])) for i in range(len(parts)))
        return self.matches(path)

    def matches(self, path: str) -> bool:
        """Whether the name matches; True also for what `covers` where the pattern is no regular expression."""
        ended = path if not path or self.text.startswith("re:") else f"{path}."
        return self._regex.fullmatch(ended) is not None

    def means_parameter(self, attribute: str) -> bool:
        """Whether the pattern ends with this very parameter (``head.weight``, ``blocks.*.attn.in_proj_weight``)."""
        return not self.text.startswith("re:") and self.text.rpartition(".")[2] == attribute


def _is_plain(text: str) -> bool:
    return not set("*?") & set(text)


def _part(text: str) -> str:
    """What stands between two dots, as a regular expression."""
    return "".join({"*": "[^.]*", "?": "[^.]"}.get(char, re.escape(char)) for char in text)


def strings(value: Any, where: str) -> tuple[str, ...]:
    """A string or a sequence of strings as a tuple.

    Raises:
        InitConfigError: It is something else, with ``where`` as the place.
    """
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, Sequence) or not all(isinstance(item, str) and item for item in items):
        raise InitConfigError([Fault(where, f"must be a name or a list of names, got {value!r}")])
    return tuple(items)


@dataclass(frozen=True)
class Scope:
    """The part of a module tree that a rule writes, relative to the module that carries the rule.

    Attributes:
        layer: Classes, by name or as such; empty for any.
        name: Paths; None for any.
        params: Parameters of a matched module, as names or globs; empty for ``weight`` and ``bias``.
    """

    layer: tuple[str | type, ...] = ()
    name: NamePattern | None = None
    params: tuple[str, ...] = ()
    _classes: dict[type, bool] = field(default_factory=dict, init=False, repr=False, compare=False, hash=False)

    def __bool__(self) -> bool:
        return bool(self.layer or self.name or self.params)

    def has_layer(self, module: nn.Module) -> bool:
        """Whether the class of a module is one of ``layer``, or there is no ``layer``."""
        cls = type(module)
        if cls not in self._classes:
            self._classes[cls] = not self.layer or is_layer(module, self.layer)
        return self._classes[cls]

    def covers(self, path: str) -> bool:
        """Whether ``name`` covers a path, or there is no ``name``."""
        return self.name is None or self.name.covers(path)

    def takes(self, attribute: str, default: Sequence[str]) -> bool:
        """Whether a parameter of a module of the scope is meant.

        Args:
            attribute: The parameter's own name.
            default: What is meant where neither ``params`` nor ``name`` says.
        """
        if self.params:
            return any(fnmatchcase(attribute, pattern) for pattern in self.params)
        return attribute in default or (self.name is not None and self.name.means_parameter(attribute))

    @property
    def only_bias(self) -> bool:
        """The rule names ``bias`` and nothing else."""
        if self.params:
            return set(self.params) == {"bias"}
        return self.name is not None and self.name.means_parameter("bias")
