"""What goes where: the result of a match, and how it is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_init.checkpoint.matching.adapters.base import Adaptation
from lightning_init.checkpoint.matching.conversion import type_name
from lightning_init.errors import CheckpointError, Fault
from lightning_init.text import columns

__all__ = ["Adapted", "Match", "Mismatch"]


class Mismatch(NamedTuple):
    """A key and a target of the same name and of different shapes."""

    name: str
    key: str
    found: tuple[int, ...]
    wanted: tuple[int, ...]


@dataclass(frozen=True)
class Adapted:
    """A mismatch that an adapter took.

    Attributes:
        adapter: The adapter's name.
        mismatch: What did not fit.
        adaptation: What is done about it.
    """

    adapter: str
    mismatch: Mismatch
    adaptation: Adaptation

    def __str__(self) -> str:
        return f"{self.mismatch.key} {self.mismatch.found}, {self.adapter}: {self.adaptation.what}"


@dataclass(frozen=True)
class Match:
    """What a checkpoint fills in a module.

    Attributes:
        source: The checkpoint's name.
        prefix: The prefix that was asked for, with its dot, or an empty string.
        loaded: The key of each target (or part of a parametrized one) that is filled, by its name.
        missing: Names of the targets that no key stands for.
        unexpected: Keys (below the prefix) that nothing takes.
        mismatched: Pairs that are skipped because their shapes differ.
        into: The submodule that was asked for, or an empty string.
        adapted: What of `loaded` is made to fit first, by name.
        dropped: What an adapter leaves to the other rules, by name.
        converted: The types in the checkpoint and in the module where they differ, by the names in `loaded`.
        excluded: Keys (below the prefix) that ``include`` and ``exclude`` leave out.
        names: What keys are called relative to the prefix and after revision, where that differs from the key.
        warnings: What was probably not meant.
    """

    source: str
    prefix: str
    loaded: Mapping[str, str]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[Mismatch, ...]
    into: str = ""
    adapted: Mapping[str, Adapted] = field(default_factory=dict)
    dropped: Mapping[str, Adapted] = field(default_factory=dict)
    converted: Mapping[str, tuple[torch.dtype, torch.dtype]] = field(default_factory=dict)
    excluded: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[Fault, ...] = ()

    @property
    def complete(self) -> bool:
        """All that is asked for is filled, every key is taken or left out on purpose, and there is no warning."""
        return not (self.missing or self.unexpected or self.mismatched or self.dropped or self.warnings)

    def adapt(self, name: str, value: Tensor) -> Tensor:
        """The values for a target, from those under its key.

        Args:
            name: A name in `loaded`.
            value: As it was read; it is not written to.

        Returns:
            The value itself, or what an adapter makes of it. Type and device are still to be converted.

        Raises:
            CheckpointError: The adapter fails, or makes no tensor of the target's shape.
        """
        adapted = self.adapted.get(name)
        if adapted is None or adapted.adaptation.apply is None:
            return value
        where = f"the adapter {adapted.adapter!r} cannot fit {adapted.mismatch.key!r} of {self.source!r} to {name!r}"
        try:
            with torch.no_grad():
                made = adapted.adaptation.apply(value)
        except Exception as error:
            raise _failed(f"{where}: {type(error).__name__}: {error}") from error
        if not isinstance(made, Tensor):
            raise _failed(f"{where}: it made no tensor, but {type(made).__name__}")
        wanted = adapted.mismatch.wanted
        if tuple(made.shape) != wanted:
            raise _failed(f"{where}: it made a tensor of shape {tuple(made.shape)}, not {wanted}")
        return made

    def detail(self, name: str) -> str:
        """What is done to the values of a name in `loaded`: converted, adapted; empty where they are taken as is."""
        told = [self.adapted[name].adaptation.what] if name in self.adapted else []
        if name in self.converted:
            told.append(_conversion(*self.converted[name]))
        return ", ".join(told)

    def summary(self) -> str:
        """How many there are of each, in one line."""
        below = f" below {self.prefix!r}" if self.prefix else ""
        into = f" into {self.into!r}" if self.into else ""
        pairs = Counter(self.converted.values())
        notes = [f"{len(self.adapted)} adapted"] if self.adapted else []
        notes += [f"{count} converted {_conversion(*pair)}" for pair, count in pairs.items()]
        of_these = f" ({', '.join(notes)})" if notes else ""
        others = {
            "dropped": self.dropped,
            "missing": self.missing,
            "unexpected": self.unexpected,
            "mismatched": self.mismatched,
            "excluded": self.excluded,
        }
        counts = [
            f"{len(self.loaded)} loaded{of_these}",
            *(f"{len(names)} {kind}" for kind, names in others.items() if names),
        ]
        return f"{self.source}{below}{into}: {', '.join(counts)}"

    def told(self) -> str:
        """The summary; with the table where something did not fit, or was made to fit."""
        has_more = self.missing or self.unexpected or self.mismatched or self.dropped or self.adapted
        return self.table() if has_more else self.summary()

    def table(self, limit: int = 20) -> str:
        """What did not fit, and what was loaded from a key of another name, in aligned plain text under the summary.

        Args:
            limit: How many lines each of the kinds gets at most; the rest is counted.
        """
        kinds: dict[str, list[tuple[str, str]]] = {
            "mismatched": [(m.name, f"{m.key} {m.found}, wanted {m.wanted}") for m in self.mismatched],
            "dropped": [(name, str(adapted)) for name, adapted in self.dropped.items()],
            "adapted": [(name, str(adapted)) for name, adapted in self.adapted.items()],
            "missing": [(name, "") for name in self.missing],
            "unexpected": [("", key) for key in self.unexpected],
            "excluded": [("", key) for key in self.excluded],
            "loaded": [
                (name, self._told(name, key))
                for name, key in self.loaded.items()
                if name not in self.adapted and (name != key or name in self.converted)
            ],
        }
        rows = [("state", "parameter", "key")]
        for kind, pairs in kinds.items():
            rows += [(kind, name or "-", key or "-") for name, key in pairs[:limit]]
            if len(pairs) > limit:
                rows.append((kind, f"... and {len(pairs) - limit} more", ""))
        return f"{self.summary()}\n{columns(rows)}"

    def _told(self, name: str, key: str) -> str:
        if name not in self.converted:
            return key
        return f"{key} ({_conversion(*self.converted[name])})"


def _conversion(old: torch.dtype, new: torch.dtype) -> str:
    return f"{type_name(old)} -> {type_name(new)}"


def _failed(what: str) -> CheckpointError:
    return CheckpointError([Fault("adapters", what)])
