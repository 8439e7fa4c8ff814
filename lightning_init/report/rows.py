"""The rows of a report: what one parameter started from, what one checkpoint filled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lightning_init.initializers.laws import Law
from lightning_init.report.histograms import Histogram

__all__ = ["Coverage", "Expected", "Row"]


@dataclass(frozen=True)
class Expected:
    """What the declared law says about a parameter.

    Attributes:
        mean: The mean of the law.
        std: Its standard deviation.
        low: No number lies below.
        high: No number lies above.
        kurtosis: Its kurtosis, 3 for the normal law; None where it is not known.
    """

    mean: float
    std: float
    low: float
    high: float
    kurtosis: float | None = None

    @classmethod
    def of(cls, law: Law | None) -> Expected | None:
        """The moments and bounds of a law."""
        if law is None:
            return None
        # An argument may be an int.
        return cls(float(law.mean), float(law.std), float(law.low), float(law.high), law.kurtosis)


@dataclass(frozen=True)
class Row:
    """One parameter.

    Attributes:
        name: Its qualified name, that of the first registration.
        aliases: The other names of a tied parameter.
        shape: Its shape.
        dtype: The type of its elements; brought up to date by `InitReport.measure`.
        device: Where it is, as torch writes it; brought up to date by `InitReport.measure`. Empty for a tensor of a
            file.
        trainable: It wants a gradient; brought up to date by `InitReport.measure`.
        layer: The class of the module that holds it; empty for a tensor of a file.
        initializer: The declared initializer with its arguments; None where a method or nothing wrote it.
        is_random: That initializer draws random numbers.
        source: Where it was declared (``"LitNet.init_cfg[0].override[0]"``), or the class and method that wrote it
            (``"ToyConv.init_weights"``); None for an untouched parameter.
        expected: What the law says; None for a checkpoint, a method or an untouched parameter.
        kept_by: What protects it: a ``Keep`` rule, or the library that has filled it already.
        overwrites: The rule whose checkpoint had loaded this parameter, or the library that had filled it, before what
            `source` names wrote over it.
        units: For a weight matrix, how many units of its layer see the same inputs through it; zero for all else.
        is_scale: It is the scale of a normalisation layer.
        padding: How many of its elements belong to the padding row of an embedding, which stays zero.
        statistics: The measured ones, by the names in `lightning_init.moments.STATISTICS`; None before `measure`.
        histogram: How its values are spread, if that was asked of `measure`.
        differs_on: The ranks that hold other values than rank zero, as `measure` found them.
    """

    name: str
    aliases: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: str = "cpu"
    trainable: bool = True
    layer: str = ""
    initializer: str | None = None
    is_random: bool = False
    source: str | None = None
    expected: Expected | None = None
    kept_by: str | None = None
    overwrites: str | None = None
    units: int = 0
    is_scale: bool = False
    padding: int = 0
    statistics: Mapping[str, float] | None = None
    histogram: Histogram | None = None
    differs_on: tuple[int, ...] = ()

    def named(self, name: str) -> Row:
        """The same row for another parameter, which costs less than to make it anew."""
        row = object.__new__(Row)
        vars(row).update(vars(self), name=name)
        return row

    @property
    def is_untouched(self) -> bool:
        """Nothing wrote it, and nothing protects it; it is the parameter of a module, not a tensor of a file."""
        return self.source is None and self.kept_by is None and bool(self.layer)

    @property
    def written_by(self) -> str:
        """What wrote it, in words."""
        if self.source is not None:
            return self.initializer or "init_weights"
        return "kept" if self.kept_by else "untouched" if self.is_untouched else "file"


@dataclass(frozen=True)
class Coverage:
    """What one checkpoint filled.

    Attributes:
        source: The place of its rule.
        checkpoint: The checkpoint's name.
        loaded: The qualified names of the parameters and buffers that it filled.
        missing: Those in the rule's scope that no key stands for, or whose key was skipped or dropped.
        unexpected: The keys that nothing took.
    """

    source: str
    checkpoint: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
