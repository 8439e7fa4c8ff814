"""The weights of one seed in every way to start a run, as one table of hashes.

Run it from the root of the repository: ``python -m tests.same_weights``. It prints the table in Markdown and ends with
status 1 if a hash differs from those of the first row (or, of bfloat16, from the rounded ones of that row).
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

from tests.distributed.ways import FIRST, HALF, ROUNDED, Rows, in_one_process, of_launchers, of_ranks
from tests.everything import PARTS, write_checkpoint

__all__ = ["differing", "main", "table"]


def differing(rows: Rows) -> list[str]:
    """The ways whose weights are not those that they have to be."""
    return [way for way in rows if rows[way] != rows[ROUNDED if way in (ROUNDED, HALF) else FIRST]]


def table(rows: Rows) -> str:
    """The table in Markdown."""
    lines = [["seed 0", *PARTS], ["---"] * (1 + len(PARTS))]
    lines += [[way, *hashed.values()] for way, hashed in rows.items()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> int:
    """Prints the table.

    Returns:
        The status of the process: 1 if a way differs.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        write_checkpoint(folder)
        rows = {**in_one_process(folder), **of_ranks(2, folder), **of_ranks(4, folder), **of_launchers(folder)}
    print(table(rows))
    wrong = differing(rows)
    if wrong:
        print(f"\nDifferent: {', '.join(wrong)}", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
