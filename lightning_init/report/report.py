"""What a model started from: one row for each parameter."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lightning_init.errors import InitError, did_you_mean
from lightning_init.report import json_format
from lightning_init.report.columns import Cell, cells
from lightning_init.report.diff import ReportDiff, difference
from lightning_init.report.examine import examine
from lightning_init.report.files import read_text, write_csv
from lightning_init.report.findings import Finding
from lightning_init.report.json_format import Parts
from lightning_init.report.measuring import measured
from lightning_init.report.plots import draw_histograms, draw_report
from lightning_init.report.rows import Coverage, Row
from lightning_init.report.signal import LayerSignal
from lightning_init.report.tables import finding_lines, markdown_table, overview
from lightning_init.text import Legend, columns
from lightning_init.units import unflattened
from lightning_init.wrappers import every_module, unwrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["InitReport"]


class InitReport:
    """What every parameter of a module started from.

    It iterates over its rows in the order of the parameters, and finds one by any of its names:
    ``report["head.weight"]``.

    Attributes:
        checkpoints: What every checkpoint that was read filled.
        warnings: What was probably not meant, as it was warned about.
        notes: What was told besides.
        seed: The seed of the random streams; None if nothing was initialised.
        signal: What a batch became on its way through the model, layer by layer; empty without a probe.
        probe_error: Why a probe that was asked for measured nothing; empty if it did not fail.
    """

    def __init__(
        self,
        module: nn.Module | None,
        rows: Iterable[Row] | Callable[[], Iterable[Row]],
        *,
        checkpoints: Sequence[Coverage] = (),
        warnings: Sequence[str] = (),
        notes: Sequence[str] = (),
        seed: int | None = None,
        signal: Sequence[LayerSignal] = (),
        probe_error: str = "",
    ) -> None:
        self._rows = rows if callable(rows) else tuple(rows)
        self.checkpoints = tuple(checkpoints)
        self.warnings = tuple(warnings)
        self.notes = tuple(notes)
        self.seed = seed
        self.signal = tuple(signal)
        self.probe_error = probe_error
        self._module: weakref.ref[nn.Module] | None = None if module is None else weakref.ref(module)
        # The rows by all of their names, and the rows that this is of.
        self._index: tuple[tuple[Row, ...], dict[str, Row]] = ((), {})

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows, made when they are first asked for."""
        if callable(self._rows):
            self._rows = tuple(self._rows())
        return self._rows

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> Row:
        """The row of a parameter.

        Raises:
            KeyError: There is no such parameter; the message names the nearest.
        """
        of, index = self._index
        if of is not self.rows:
            index = {each: row for row in reversed(self.rows) for each in (*row.aliases, row.name)}
            self._index = self.rows, index
        if name not in index:
            raise KeyError(f"no parameter {name!r}; {did_you_mean(name, (row.name for row in self.rows))}")
        return index[name]

    def is_of(self, module: nn.Module) -> bool:
        """It is about this very module; a report that was pickled does not know any more."""
        return self._module is not None and self._module() is unwrap(module)

    @property
    def untouched(self) -> list[str]:
        """The parameters that still have their constructor's values, protected ones aside."""
        return [row.name for row in self.rows if row.is_untouched]

    @property
    def unexpected(self) -> list[str]:
        """The checkpoint keys that nothing took, each with the place of its rule."""
        return [f"{coverage.source}: {key}" for coverage in self.checkpoints for key in coverage.unexpected]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is remarkable, the worst first; what needs statistics only once they are measured."""
        return examine(self.rows, self.checkpoints, self.signal, self.probe_error)

    def measure(
        self,
        module: nn.Module | None = None,
        *,
        histograms: bool = False,
        compare_ranks: bool = False,
        threads: int | None = None,
    ) -> InitReport:
        """Takes the statistics of all parameters as they are now.

        Those of what is spread over ranks are of the whole tensor; every rank has to call this if there is such a one.

        Args:
            module: The module, of FSDP1 with its wrapper; by default that which was initialised, without wrappers.
            histograms: Count how the values are spread as well, into `Row.histogram`; the weights are read once more.
            compare_ranks: Find the ranks that hold other bits than the first, into `Row.differs_on`; every rank has to
                call this then.
            threads: How many threads take the statistics on the CPU, by default as many as torch may use.

        Returns:
            The report itself, with `Row.statistics` filled.

        Raises:
            InitError: The module that was initialised does not exist any more, and no other was given.
        """
        module = module or (self._module() if self._module else None)
        if module is None:
            raise InitError("the module of this report does not exist any more; give one: report.measure(module)")
        with unflattened(every_module(module)):
            self._rows = measured(
                self.rows, module, histograms=histograms, compare_ranks=compare_ranks, threads=threads
            )
        return self

    @property
    def is_measured(self) -> bool:
        """`measure` has been called."""
        return any(row.statistics is not None for row in self.rows)

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

    def records(self) -> list[dict[str, Cell]]:
        """The rows as text, numbers and flags by the names of `lightning_init.report.COLUMNS`.

        None stands for an empty cell. This is what CSV files and the tables of loggers hold.
        """
        codes: dict[str, list[str]] = {}
        for finding in self.findings:
            codes.setdefault(finding.where, []).append(finding.code)
        return [cells(row, codes.get(row.name, ())) for row in self.rows]

    def to_table(self) -> str:
        """The rows as a table of aligned columns, then what was found and told; this is what ``print`` shows."""
        rows, legend = self.overview()
        seed = [] if self.seed is None else [f"seed: {self.seed}"]
        return "\n".join([columns(rows), *filter(None, [str(legend)]), *seed, *self._told()])

    def to_markdown(self) -> str:
        """The rows as a markdown table, then what was found and told; columns without any cell are left out."""
        told = [f"- {line}" for line in self._told()]
        return "\n\n".join([markdown_table(self.records()), *(["\n".join(told)] if told else [])])

    def to_csv(self, path: str | Path) -> None:
        """Writes the rows to a file: every column of `lightning_init.report.COLUMNS`, all digits kept.

        Args:
            path: The file; it is written anew.
        """
        write_csv(path, self.records())

    def to_json(self, path: str | Path | None = None) -> str:
        """The whole report as JSON, from which `from_json` makes an equal one.

        NaN and infinities are strings there; see `lightning_init.report.json_format`.

        Args:
            path: A file to write it to as well; it is written anew.
        """
        parts = Parts(self.rows, self.checkpoints, self.signal, self.probe_error, self.warnings, self.notes, self.seed)
        text = json_format.dumps(parts, self.findings)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    @classmethod
    def from_json(cls, text_or_path: str | Path) -> InitReport:
        """Reads a report.

        Args:
            text_or_path: What `to_json` returned, or the file it was written to; a text starts with a brace.

        Returns:
            The report, without a module: `measure` needs to be given one.

        Raises:
            InitError: There is no such file, or it is no report, a broken one, or one of another version.
        """
        return cls(None, **vars(json_format.loads(*read_text(text_or_path))))

    def plot(self) -> Figure:
        """Draws the std of every parameter, measured against expected, the signal if there is one, and the findings.

        Returns:
            A figure of matplotlib that belongs to no backend (``figure.savefig("init.png")`` writes it).

        Raises:
            InitError: Nothing is measured, or matplotlib (the extra ``plot``) is not installed.
        """
        return draw_report(self.rows, self.findings, self.signal, seed=self.seed)

    def plot_histograms(self) -> list[Figure]:
        """Draws how the values of every parameter are spread, as measured by ``measure(histograms=True)``.

        Returns:
            As many figures as it takes, with at most 40 histograms each.

        Raises:
            InitError: There are no histograms, or matplotlib (the extra ``plot``) is not installed.
        """
        return draw_histograms(self.rows)

    def diff(self, other: InitReport, *, tolerance: float = 1e-6) -> ReportDiff:
        """What is different in another report: another seed, another config, weights before and after.

        Parameters are compared column by column; where one of the two is a tensor of a file, by shape, type and
        statistics. Statistics are compared where both have them.

        Args:
            other: The report that comes after this one.
            tolerance: How far apart statistics may be, relative to the larger one; mean, std, min and max relative to
                the mean magnitude, if that is larger. Zero: not at all.

        Returns:
            The difference: false if there is none, and ``print`` shows it as a table.

        Raises:
            InitError: A tolerance below zero.
        """
        if not tolerance >= 0:
            raise InitError(f"tolerance: must be >= 0, got {tolerance!r}")
        before, after = (list(zip(report.rows, report.records(), strict=True)) for report in (self, other))
        return difference(before, after, tolerance)

    def overview(self) -> tuple[list[tuple[str, ...]], Legend]:
        """The rows (the header first) as a narrow table, and the legend to the numbers in its "written by"."""
        return overview(self.rows)

    def __str__(self) -> str:
        return self.to_table()

    def __repr__(self) -> str:
        return f"<InitReport of {len(self.rows)} parameters, {len(self.untouched)} untouched>"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rows": self.rows, "_module": None, "_index": ((), {})}

    def _told(self) -> list[str]:
        return [
            *finding_lines(self.findings),
            *(f"warning: {line}" for line in self.warnings),
            *(f"note: {line}" for line in self.notes),
        ]
