"""The README has the columns and codes that the code has."""

from __future__ import annotations

import re
from pathlib import Path

from lightning_init.report import COLUMNS
from lightning_init.report.findings import CODES
from lightning_init.report.law_findings import FALSE_ALARM

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
REPORT = README.partition("## The report\n")[2].partition("\n## ")[0]


def test_the_columns() -> None:
    table = REPORT.partition("| column | |")[2]
    assert re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE) == list(COLUMNS.items())


def test_the_codes() -> None:
    of_signal = {"dead-signal", "vanishing-signal", "exploding-signal", "probe-failed"}
    found = set(re.findall(r"^\| `([\w-]+)` \|", REPORT.partition("| column | |")[0], re.MULTILINE))
    assert set(CODES) - of_signal <= found <= set(CODES)


def test_the_false_alarms() -> None:
    assert "once in a million starts" in REPORT
    assert FALSE_ALARM == 1e-6
