"""A report as JSON, and back.

The text is an object with ``"format": "lightning_init.report"``, a ``"version"``, ``"seed"``, ``"rows"``,
``"checkpoints"``, ``"signal"``, ``"probe_error"``, ``"warnings"``, ``"notes"`` and, for readers, ``"findings"``, which
are derived from the rest when it is read back. A row has the names of `lightning_init.report.columns.COLUMNS` and some
more. Numbers keep all their digits; those that JSON lacks are the strings ``"NaN"``, ``"Infinity"`` and
``"-Infinity"``, which ``float()`` of Python and ``Number()`` of JavaScript understand. What is not there is ``null``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from lightning_init.errors import InitError
from lightning_init.moments import STATISTICS
from lightning_init.report.columns import cells
from lightning_init.report.findings import Finding
from lightning_init.report.histograms import Histogram
from lightning_init.report.rows import Coverage, Expected, Row
from lightning_init.report.signal import LayerSignal

__all__ = ["FORMAT", "VERSION", "Parts", "dumps", "loads"]

FORMAT = "lightning_init.report"
VERSION = 1
"""It changes when a reader of the version before would misunderstand what is written."""


@dataclass(frozen=True)
class Parts:
    """What a report is made of."""

    rows: Sequence[Row]
    checkpoints: Sequence[Coverage]
    signal: Sequence[LayerSignal]
    probe_error: str
    warnings: Sequence[str]
    notes: Sequence[str]
    seed: int | None


def dumps(parts: Parts, findings: Iterable[Finding]) -> str:
    """The text of a report."""
    found = list(findings)
    codes: dict[str, list[str]] = {}
    for finding in found:
        codes.setdefault(finding.where, []).append(finding.code)
    document = {
        "format": FORMAT,
        "version": VERSION,
        "seed": parts.seed,
        "rows": [_of_row(row, codes.get(row.name, ())) for row in parts.rows],
        "checkpoints": [asdict(coverage) for coverage in parts.checkpoints],
        "signal": [asdict(layer) for layer in parts.signal],
        "probe_error": parts.probe_error,
        "warnings": parts.warnings,
        "notes": parts.notes,
        "findings": [asdict(finding) for finding in found],
    }
    return json.dumps(_plain(document), indent=1, allow_nan=False, ensure_ascii=False)


def loads(text: str, source: str) -> Parts:
    """Reads the text of a report.

    Args:
        text: What `dumps` made.
        source: What it is called in messages.

    Raises:
        InitError: It is no report, a broken one, or one of another version.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InitError(f"{source} is no JSON: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InitError(f"{source} is no report: it has no {{'format': {FORMAT!r}}}")
    version = document.get("version")
    if version != VERSION:
        raise InitError(f"{source} is of version {version!r} of {FORMAT}, and this release reads version {VERSION}")
    whole = _Node(source, document, "")
    return Parts(
        [_row(node) for node in whole.nodes("rows")],
        [_coverage(node) for node in whole.nodes("checkpoints")],
        [_layer(node) for node in whole.nodes("signal")],
        whole.get("probe_error", str),
        whole.texts("warnings"),
        whole.texts("notes"),
        whole.get("seed", int, type(None)),
    )


def _of_row(row: Row, codes: Iterable[str]) -> dict[str, Any]:
    expected = row.expected
    return {
        **cells(row),
        "aliases": row.aliases,
        "shape": row.shape,
        "findings": list(dict.fromkeys(codes)),
        "is_random": row.is_random,
        "overwrites": row.overwrites,
        "expected_low": expected.low if expected else None,
        "expected_high": expected.high if expected else None,
        "expected_kurtosis": expected.kurtosis if expected else None,
        "units": row.units,
        "is_scale": row.is_scale,
        "padding": row.padding,
        "histogram": asdict(row.histogram) if row.histogram else None,
        "differs_on": row.differs_on,
    }


def _row(node: _Node) -> Row:
    expected = None
    if node.get("expected_mean", object) is not None:
        kurtosis = node.get("expected_kurtosis", object)
        expected = Expected(
            mean=node.number("expected_mean"),
            std=node.number("expected_std"),
            low=node.number("expected_low"),
            high=node.number("expected_high"),
            kurtosis=None if kurtosis is None else node.number("expected_kurtosis"),
        )
    is_measured = node.get("mean", object) is not None
    spread = node.get("histogram", dict, type(None))
    return Row(
        name=node.get("name", str),
        aliases=node.texts("aliases"),
        shape=node.counts("shape"),
        dtype=node.dtype("dtype"),
        device=node.get("device", str, type(None)) or "",
        trainable=node.get("trainable", bool, type(None)) is not False,
        layer=node.get("layer", str, type(None)) or "",
        initializer=node.get("initializer", str, type(None)),
        is_random=node.get("is_random", bool),
        source=node.get("source", str, type(None)),
        expected=expected,
        kept_by=node.get("kept_by", str, type(None)),
        overwrites=node.get("overwrites", str, type(None)),
        units=node.get("units", int),
        is_scale=node.get("is_scale", bool),
        padding=node.get("padding", int),
        statistics={name: node.number(name) for name in STATISTICS} if is_measured else None,
        histogram=_histogram(node.node("histogram")) if spread is not None else None,
        differs_on=node.counts("differs_on"),
    )


def _histogram(node: _Node) -> Histogram:
    return Histogram(node.number("low"), node.number("high"), node.counts("counts"))


def _coverage(node: _Node) -> Coverage:
    lists = {name: node.texts(name) for name in ("loaded", "missing", "unexpected")}
    return Coverage(node.get("source", str), node.get("checkpoint", str), **lists)


def _layer(node: _Node) -> LayerSignal:
    kinds = {"str": lambda name: node.get(name, str), "int": lambda name: node.get(name, int), "float": node.number}
    return LayerSignal(**{field.name: kinds[str(field.type)](field.name) for field in fields(LayerSignal)})


@dataclass(frozen=True)
class _Node:
    """An object of the document, with its place; what it lacks or has of another type is refused."""

    source: str
    value: Mapping[str, Any]
    place: str

    def _at(self, name: str) -> str:
        return f"{self.place}.{name}" if self.place else name

    def _refused(self, place: str, value: object, wanted: str) -> InitError:
        shown = repr(value) if len(repr(value)) < 80 else f"a {type(value).__name__}"
        return InitError(f"{self.source} is broken: {place} is {shown}, and not {wanted}")

    def get(self, name: str, *kinds: type) -> Any:
        """A value of one of some types; a flag is no number."""
        if name not in self.value:
            raise InitError(f"{self.source} is broken: {self._at(name)} is missing")
        value = self.value[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and not {bool, object} & set(kinds)):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise self._refused(self._at(name), value, wanted)
        return value

    def number(self, name: str) -> float:
        value = self.get(name, int, float, str)
        if isinstance(value, str) and value not in _SPECIAL.values():
            raise self._refused(self._at(name), value, "a number")
        try:
            return float(value)
        except OverflowError as error:
            raise self._refused(self._at(name), value, "a number of double precision") from error

    def texts(self, name: str) -> tuple[str, ...]:
        return self._items(name, str, "a list of strings")

    def counts(self, name: str) -> tuple[int, ...]:
        return self._items(name, int, "a list of whole numbers")

    def _items(self, name: str, kind: type, wanted: str) -> tuple[Any, ...]:
        value = self.get(name, list)
        if not all(isinstance(item, kind) and not isinstance(item, bool) for item in value):
            raise self._refused(self._at(name), value, wanted)
        return tuple(value)

    def node(self, name: str) -> _Node:
        return _Node(self.source, self.get(name, dict), self._at(name))

    def nodes(self, name: str) -> list[_Node]:
        found = []
        for i, item in enumerate(self.get(name, list)):
            if not isinstance(item, dict):
                raise self._refused(f"{self._at(name)}[{i}]", item, "an object")
            found.append(_Node(self.source, item, f"{self._at(name)}[{i}]"))
        return found

    def dtype(self, name: str) -> torch.dtype:
        value = self.get(name, str)
        found = getattr(torch, value, None)
        if not isinstance(found, torch.dtype):
            raise self._refused(self._at(name), value, f"a type that torch {torch.__version__} knows")
        return found


_SPECIAL = {math.inf: "Infinity", -math.inf: "-Infinity", math.nan: "NaN"}


def _plain(value: Any) -> Any:
    """The same with strings in place of the numbers that JSON lacks."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return _SPECIAL[math.nan if math.isnan(value) else value]
    return value
