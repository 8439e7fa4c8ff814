"""The columns of a report, wherever a program reads it: CSV, JSON, the tables of loggers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from lightning_init.moments import STATISTICS
from lightning_init.report.rows import Row

__all__ = ["COLUMNS", "Cell", "cells", "dtype_text", "shape_text"]

Cell: TypeAlias = str | bool | float | None

COLUMNS: dict[str, str] = {
    "name": "qualified name of the parameter, that of the first registration",
    "aliases": "its other names, if it is tied",
    "shape": "its shape, `32x3x3x3`; `scalar` for none",
    "dtype": "the type of its elements, as torch names it",
    "device": "where it is, as torch writes it; empty for a tensor of a file",
    "trainable": "it wants a gradient; empty for a tensor of a file",
    "layer": "the class of the module that holds it; empty for a tensor of a file",
    "initializer": "the declared initializer with its arguments; empty where a method or nothing wrote it",
    "source": "where that was declared, or the method that wrote it; empty for an untouched parameter",
    "kept_by": "the Keep rule that protects it, or the library that has filled it",
    "expected_mean": "the mean of the declared law",
    "expected_std": "its standard deviation, truncation included",
    "mean": "the measured mean",
    "std": "the measured standard deviation, unbiased; NaN for one element",
    "min": "the smallest element",
    "max": "the largest element",
    "abs_mean": "the mean of the magnitudes",
    "l2_norm": "the root of the sum of squares",
    "zero_fraction": "the share of elements that are zero",
    "nonfinite": "how many elements are NaN or infinite",
    "findings": "the codes of what is remarkable about it",
}
"""The names of the columns, in their order, and what they mean. Names and order are stable."""


def cells(row: Row, codes: Iterable[str] = ()) -> dict[str, Cell]:
    """A row as text, numbers and flags by the names of `COLUMNS`; None for what is not there.

    Several names, and several codes, stand in one text, separated by ``"; "``.

    Args:
        row: The row.
        codes: Those of its findings.
    """
    expected, measured = row.expected, row.statistics or {}
    found: dict[str, Cell] = {
        "name": row.name,
        "aliases": "; ".join(row.aliases) or None,
        "shape": shape_text(row),
        "dtype": dtype_text(row),
        "device": row.device or None,
        "trainable": row.trainable if row.layer else None,
        "layer": row.layer or None,
        "initializer": row.initializer,
        "source": row.source,
        "kept_by": row.kept_by,
        "expected_mean": expected.mean if expected else None,
        "expected_std": expected.std if expected else None,
        **{name: measured.get(name) for name in STATISTICS},
        "findings": "; ".join(dict.fromkeys(codes)) or None,
    }
    return {name: found[name] for name in COLUMNS}


def shape_text(row: Row) -> str:
    """The shape as tables show it.

    >>> import torch
    >>> shape_text(Row("weight", (), (2, 3), torch.float32)), shape_text(Row("scale", (), (), torch.float32))
    ('2x3', 'scalar')
    """
    return "x".join(map(str, row.shape)) or "scalar"


def dtype_text(row: Row) -> str:
    """The type of the elements, without the name of torch."""
    return str(row.dtype).removeprefix("torch.")
