"""What loggers show, and a report in the forms in which they take it."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

from lightning.pytorch.loggers import Logger

from lightning_init.loggers.page import page
from lightning_init.report import COLUMNS, Finding, InitReport
from lightning_init.report.columns import Cell
from lightning_init.report.findings import SEVERITIES

__all__ = ["CONTENTS", "Content", "Material", "Writers", "picture", "tagged"]

Content: TypeAlias = Literal["table", "scalars", "figure", "histograms", "artifact"]
CONTENTS: tuple[Content, ...] = ("table", "scalars", "figure", "histograms", "artifact")
"""What can be logged."""

MOST_HISTOGRAMS = 200
"""How many histograms are drawn: five pages. TensorBoard draws its own, of all parameters."""


class Material:
    """A measured report in the forms that loggers take; each is made once, when the first logger asks for it."""

    def __init__(self, report: InitReport) -> None:
        self.report = report

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """The findings, the worst first."""
        return self.report.findings

    @cached_property
    def totals(self) -> dict[str, float]:
        """``init/<total>``: the sums over the model, and how many findings of each severity there are."""
        found = Counter(finding.severity for finding in self.findings)
        counted = {f"findings_{severity}": float(found[severity]) for severity in SEVERITIES}
        return {f"init/{name}": value for name, value in {**self.report.totals(), **counted}.items()}

    @cached_property
    def scalars(self) -> dict[tuple[str, str], float]:
        """The statistics by parameter and name, without the NaN of one that a tensor is too small for."""
        return {
            (row.name, name): value
            for row in self.report
            for name, value in (row.statistics or {}).items()
            if not math.isnan(value) or math.prod(row.shape) >= (2 if name == "std" else 1)
        }

    @cached_property
    def metrics(self) -> dict[str, float]:
        """The totals, and ``init/<parameter>/<statistic>``."""
        return {**self.totals, **{f"init/{name}/{key}": value for (name, key), value in self.scalars.items()}}

    @cached_property
    def page(self) -> str:
        """The findings and the rows in markdown."""
        return page(self.report, self.findings)

    @cached_property
    def figure(self) -> bytes:
        """The report's figure as a PNG."""
        return _png(self.report.plot())

    @cached_property
    def histograms(self) -> list[bytes]:
        """The pages of histograms as PNGs, of the first `MOST_HISTOGRAMS` parameters."""
        shown = [row for row in self.report if row.histogram is not None][:MOST_HISTOGRAMS]
        return list(map(_png, InitReport(None, shown).plot_histograms())) if shown else []

    @cached_property
    def tables(self) -> dict[str, tuple[list[str], list[list[Cell]]]]:
        """The rows and the findings by the names of their tables: columns, and cells in JSON's values.

        None stands for what is no finite number: JSON has no NaN, and a browser refuses it.
        """
        records = self.report.records()
        told = [field.name for field in fields(Finding)]
        return {
            "init/table": (list(COLUMNS), [[_finite(record[name]) for name in COLUMNS] for record in records]),
            "init/findings": (told, [[getattr(finding, name) for name in told] for finding in self.findings]),
        }

    def write(self, content: Content, folder: Path) -> list[Path]:
        """Writes the files that show a content into a folder."""
        made = _files(self, content)
        for name, write in made.items():
            write(folder / name)
        return [folder / name for name in made]


def tagged(logger: Logger, name: str) -> str:
    """A name behind the prefix that a logger was given, for what does not go through its ``log_metrics``."""
    prefix = getattr(logger, "_prefix", "")
    return f"{prefix}{logger.LOGGER_JOIN_CHAR}{name}" if prefix else name  # type: ignore[attr-defined]  # goes with it


def picture(png: bytes) -> Any:
    """A picture of Pillow, which loggers take."""
    from PIL import Image  # noqa: PLC0415 - it comes with matplotlib

    return Image.open(io.BytesIO(png)).convert("RGB")


def _finite(cell: Cell) -> Cell:
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell


def _png(figure: Any) -> bytes:
    """A figure of matplotlib as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _files(material: Material, content: Content) -> dict[str, Callable[[Path], object]]:
    """What writes each file of a content."""
    pages = material.histograms if content == "histograms" else []
    files: dict[Content, dict[str, Callable[[Path], object]]] = {
        "table": {"init_stats.csv": material.report.to_csv},
        "artifact": {"init_report.json": material.report.to_json},
        "figure": {"init.png": lambda path: path.write_bytes(material.figure)},
        "histograms": {
            f"init_histograms_{number}.png": partial(Path.write_bytes, data=page)
            for number, page in enumerate(pages, start=1)
        },
    }
    return files[content]


Writers: TypeAlias = Mapping[Content, Callable[[Any, Material], None]]
"""How one kind of logger shows each content; it shows nothing of those that are missing."""
