"""What a model started from: one row for each parameter."""

from __future__ import annotations

import csv
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_init.checkpoint.matching.matched import Match
from lightning_init.errors import InitError, did_you_mean
from lightning_init.initializers.laws import Law
from lightning_init.metrics import STATISTICS, is_measurable, moments_of_all, statistics
from lightning_init.text import Legend, columns, markdown
from lightning_init.tree import slots
from lightning_init.wrappers import unwrap

__all__ = ["Expected", "InitReport", "Row"]


@dataclass(frozen=True)
class Expected:
    """What the declared law says about a parameter.

    Attributes:
        mean: The mean of the law.
        std: Its standard deviation.
        low: No number lies below.
        high: No number lies above.
    """

    mean: float
    std: float
    low: float
    high: float

    @classmethod
    def of(cls, law: Law | None) -> Expected | None:
        """The moments and bounds of a law."""
        return None if law is None else cls(law.mean, law.std, law.low, law.high)


@dataclass(frozen=True)
class Row:
    """One parameter.

    Attributes:
        name: Its qualified name, that of the first registration.
        aliases: The other names of a tied parameter.
        shape: Its shape.
        dtype: The type of its elements; brought up to date by `InitReport.measure`.
        initializer: The declared initializer with its arguments; None where a method or nothing wrote it.
        source: Where it was declared (``"LitNet.init_cfg[0].override[0]"``), or the class and method that wrote it
            (``"ToyConv.init_weights"``); None for an untouched parameter.
        expected: What the law says; None for a checkpoint, a method or an untouched parameter.
        kept_by: What protects it: a ``Keep`` rule, or the library that has filled it already.
        statistics: The measured ones, by the names in `lightning_init.metrics.STATISTICS`; None before `measure`.
    """

    name: str
    aliases: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    initializer: str | None = None
    source: str | None = None
    expected: Expected | None = None
    kept_by: str | None = None
    statistics: Mapping[str, float] | None = None

    def cells(self) -> tuple[str, ...]:
        """The row as text, in the order of `InitReport.header`."""
        measured = [_number(self.statistics[name]) for name in STATISTICS] if self.statistics else []
        return (
            " = ".join((self.name, *self.aliases)),
            "x".join(map(str, self.shape)) or "scalar",
            str(self.dtype).removeprefix("torch."),
            self.written_by,
            self.source or self.kept_by or "",
            _number(self.expected.mean) if self.expected else "",
            _number(self.expected.std) if self.expected else "",
            *measured,
        )

    @property
    def written_by(self) -> str:
        """What wrote it, in words."""
        if self.source is None:
            return "kept" if self.kept_by else "untouched"
        return self.initializer or "init_weights"


class InitReport:
    """What every parameter of a module started from.

    It iterates over its rows in the order of the parameters, and finds one by any of its names:
    ``report["head.weight"]``.

    Attributes:
        rows: The rows.
        checkpoints: For every checkpoint that was read, the place of its rule and what it filled.
        warnings: What was probably not meant, as it was warned about.
        notes: What was told besides.
        seed: The seed of the random streams; None if nothing was initialised.
    """

    def __init__(
        self,
        module: nn.Module,
        rows: Sequence[Row],
        *,
        checkpoints: Sequence[tuple[str, Match]] = (),
        warnings: Sequence[str] = (),
        notes: Sequence[str] = (),
        seed: int | None = None,
    ) -> None:
        self.rows: tuple[Row, ...] = tuple(rows)
        self.checkpoints = tuple(checkpoints)
        self.warnings = tuple(warnings)
        self.notes = tuple(notes)
        self.seed = seed
        self._module: weakref.ref[nn.Module] | None = weakref.ref(module)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> Row:
        """The row of a parameter.

        Raises:
            KeyError: There is no such parameter; the message names the nearest.
        """
        for row in self.rows:
            if name == row.name or name in row.aliases:
                return row
        raise KeyError(f"no parameter {name!r}; {did_you_mean(name, (row.name for row in self.rows))}")

    def is_of(self, module: nn.Module) -> bool:
        """It is about this very module; a report that was pickled does not know any more."""
        return self._module is not None and self._module() is unwrap(module)

    @property
    def untouched(self) -> list[str]:
        """The parameters that still have their constructor's values, protected ones aside."""
        return [row.name for row in self.rows if row.source is None and not row.kept_by]

    @property
    def unexpected(self) -> list[str]:
        """The checkpoint keys that nothing took, each with the place of its rule."""
        return [f"{source}: {key}" for source, match in self.checkpoints for key in match.unexpected]

    def measure(self, module: nn.Module | None = None) -> InitReport:
        """Takes the statistics of all parameters as they are now.

        Those of a ``DTensor`` are of the whole tensor; every rank has to call this if there is one.

        Args:
            module: The module; by default that which was initialised.

        Returns:
            The report itself, with `Row.statistics` filled.

        Raises:
            InitError: The module that was initialised does not exist any more, and no other was given.
        """
        module = module or (self._module() if self._module else None)
        if module is None:
            raise InitError("the module of this report does not exist any more; give one: report.measure(module)")
        tensors = {slot.name: slot.tensor for slot in slots(module) if not slot.is_buffer}
        # Not of what is on `meta` or quantized.
        measured = moments_of_all({name: tensor for name, tensor in tensors.items() if is_measurable(tensor)})
        found = {name: statistics(known) for name, known in measured.items()}
        self.rows = tuple(
            replace(row, statistics=found.get(row.name), dtype=tensors[row.name].dtype) if row.name in tensors else row
            for row in self.rows
        )
        return self

    @property
    def is_measured(self) -> bool:
        """`measure` has been called."""
        return any(row.statistics is not None for row in self.rows)

    @property
    def header(self) -> tuple[str, ...]:
        """The names of the columns."""
        fixed = ("parameter", "shape", "dtype", "written by", "declared at", "expected mean", "expected std")
        return fixed + (STATISTICS if self.is_measured else ())

    def totals(self) -> dict[str, float]:
        """Sums over the model: parameters, elements, and how many parameters are untouched or hold NaN or infinity."""
        elements = sum(torch.Size(row.shape).numel() for row in self.rows)
        totals = {
            "parameters": float(len(self.rows)),
            "elements": float(elements),
            "untouched": float(len(self.untouched)),
        }
        if self.is_measured:
            measured = [row.statistics for row in self.rows if row.statistics is not None]
            totals["nonfinite"] = sum(statistics["nonfinite"] for statistics in measured)
            totals["l2_norm"] = sum(statistics["l2_norm"] ** 2 for statistics in measured) ** 0.5
        return totals

    def to_markdown(self) -> str:
        """The rows as a markdown table, then what was told."""
        told = [f"- {line}" for line in self._told()]
        return "\n\n".join(
            [
                markdown(self.header, [self._padded(row.cells()) for row in self.rows]),
                *(["\n".join(told)] if told else []),
            ]
        )

    def to_csv(self, path: str | Path) -> None:
        """Writes the rows to a file, all digits kept.

        Args:
            path: The file; it is written anew.
        """
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(self.header)
            for row in self.rows:
                measured = [row.statistics[name] for name in STATISTICS] if row.statistics else []
                expected = [row.expected.mean, row.expected.std] if row.expected else ["", ""]
                writer.writerow(self._padded([*row.cells()[:5], *expected, *measured]))

    def _padded(self, cells: Sequence[Any]) -> list[Any]:
        """A row as long as the header, also where the statistics could not be taken."""
        return [*cells, *[""] * (len(self.header) - len(cells))]

    def overview(self) -> tuple[list[tuple[str, ...]], Legend]:
        """The rows (the header first) as a narrow table, and the legend to the numbers in its "written by"."""
        legend = Legend()
        header = ("parameter", "shape", "dtype", "written by", "mean", "std", "expected mean", "expected std")
        rows: list[tuple[str, ...]] = [header]
        for row in self.rows:
            name, shape, dtype, _, _, *expected = row.cells()[:7]
            where = row.source or row.kept_by
            by = legend.number(where, row.written_by) if where else row.written_by
            measured = [_number(row.statistics[key]) for key in ("mean", "std")] if row.statistics else ["", ""]
            rows.append((name, shape, dtype, by, *measured, *expected))
        if not self.is_measured:
            rows = [row[:4] + row[6:] for row in rows]
        return rows, legend

    def __str__(self) -> str:
        rows, legend = self.overview()
        seed = [] if self.seed is None else [f"seed: {self.seed}"]
        return "\n".join([columns(rows), *filter(None, [str(legend)]), *seed, *self._told()])

    def __repr__(self) -> str:
        return f"<InitReport of {len(self.rows)} parameters, {len(self.untouched)} untouched>"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_module": None}

    def _told(self) -> list[str]:
        return [f"warning: {line}" for line in self.warnings] + [f"note: {line}" for line in self.notes]


def _number(value: float) -> str:
    return f"{value:.4g}"
