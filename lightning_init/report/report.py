"""What a model started from: one row for each parameter."""

from __future__ import annotations

import csv
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_init.errors import InitError, did_you_mean
from lightning_init.moments import STATISTICS, is_measurable, moments_of_all, statistics
from lightning_init.report.examine import examine
from lightning_init.report.findings import Finding
from lightning_init.report.rows import Coverage, Row
from lightning_init.report.signal import LayerSignal
from lightning_init.text import Legend, columns, markdown
from lightning_init.tree import slots
from lightning_init.wrappers import unwrap

__all__ = ["InitReport"]


class InitReport:
    """What every parameter of a module started from.

    It iterates over its rows in the order of the parameters, and finds one by any of its names:
    ``report["head.weight"]``.

    Attributes:
        rows: The rows.
        checkpoints: What every checkpoint that was read filled.
        warnings: What was probably not meant, as it was warned about.
        notes: What was told besides.
        seed: The seed of the random streams; None if nothing was initialised.
        signal: What a batch became on its way through the model, layer by layer; empty without a probe.
    """

    def __init__(
        self,
        module: nn.Module | None,
        rows: Sequence[Row],
        *,
        checkpoints: Sequence[Coverage] = (),
        warnings: Sequence[str] = (),
        notes: Sequence[str] = (),
        seed: int | None = None,
        signal: Sequence[LayerSignal] = (),
    ) -> None:
        self.rows: tuple[Row, ...] = tuple(rows)
        self.checkpoints = tuple(checkpoints)
        self.warnings = tuple(warnings)
        self.notes = tuple(notes)
        self.seed = seed
        self.signal = tuple(signal)
        self._module: weakref.ref[nn.Module] | None = None if module is None else weakref.ref(module)

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
        return [f"{coverage.source}: {key}" for coverage in self.checkpoints for key in coverage.unexpected]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is remarkable, the worst first; what needs statistics only once they are measured."""
        return examine(self.rows, self.checkpoints, self.signal)

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
            replace(
                row,
                statistics=found.get(row.name),
                dtype=tensors[row.name].dtype,
                device=str(tensors[row.name].device),
                trainable=tensors[row.name].requires_grad,
            )
            if row.name in tensors
            else row
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
                markdown(self.header, [self._padded(_cells(row)) for row in self.rows]),
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
                writer.writerow(self._padded([*_cells(row)[:5], *expected, *measured]))

    def _padded(self, cells: Sequence[Any]) -> list[Any]:
        """A row as long as the header, also where the statistics could not be taken."""
        return [*cells, *[""] * (len(self.header) - len(cells))]

    def overview(self) -> tuple[list[tuple[str, ...]], Legend]:
        """The rows (the header first) as a narrow table, and the legend to the numbers in its "written by"."""
        legend = Legend()
        header = ("parameter", "shape", "dtype", "written by", "mean", "std", "expected mean", "expected std")
        rows: list[tuple[str, ...]] = [header]
        for row in self.rows:
            name, shape, dtype, _, _, *expected = _cells(row)[:7]
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


def _cells(row: Row) -> tuple[str, ...]:
    """A row as text, in the order of `InitReport.header`."""
    measured = [_number(row.statistics[name]) for name in STATISTICS] if row.statistics else []
    return (
        " = ".join((row.name, *row.aliases)),
        "x".join(map(str, row.shape)) or "scalar",
        str(row.dtype).removeprefix("torch."),
        row.written_by,
        row.source or row.kept_by or "",
        _number(row.expected.mean) if row.expected else "",
        _number(row.expected.std) if row.expected else "",
        *measured,
    )


def _number(value: float) -> str:
    return f"{value:.4g}"
