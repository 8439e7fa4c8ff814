"""Files of reports: tables as CSV, and texts from a file or as they are."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from lightning_init.errors import InitError
from lightning_init.report.columns import COLUMNS, Cell

__all__ = ["read_text", "write_csv"]

_LONGEST = 200


def write_csv(path: str | Path, records: Iterable[Mapping[str, Cell]]) -> None:
    """Writes rows to a file with a header; it is written anew."""
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(records)


def read_text(text_or_path: str | Path) -> tuple[str, str]:
    """A text, and what it is called in messages.

    Args:
        text_or_path: The text itself, if it starts with a brace, or the file that holds it.

    Raises:
        InitError: There is no such file, or it holds no text.
    """
    if isinstance(text_or_path, str) and text_or_path.lstrip().startswith("{"):
        return text_or_path, "the text"
    name = repr(str(text_or_path))
    name = name if len(name) <= _LONGEST else f"{name[:_LONGEST]}..."
    if not str(text_or_path).strip():
        raise InitError("this is an empty text, and neither a report nor the path of one")
    try:
        return Path(text_or_path).read_text(encoding="utf-8"), name
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InitError(f"cannot read {name}: {reason}; a text starts with a brace") from error
