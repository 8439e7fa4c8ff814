"""What the console shows of a report."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from lightning_init import InitReport, init_weights
from lightning_init.loggers import show
from tests.loggers.runs import fit, numpy_statistics
from tests.models import Holder, constant


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


class TestConsole:
    def test_a_table_on_rank_zero(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        found, report = fit(tmp_path, log="table")
        printed = capsys.readouterr().out
        for name, tensor in found.items():
            (line,) = [line for line in printed.splitlines() if line.startswith(f"{name} ")]
            assert f"{numpy_statistics(tensor)['mean']:.4g}" in line.split()
        for source in ("Logging.init_cfg[0]", "Logging.init_cfg[1]"):
            assert source in printed
        assert report.is_measured

    @pytest.mark.parametrize("log", ["scalars", ()])
    def test_none_if_none_is_asked_for(self, tmp_path: Path, log: Any, capsys: pytest.CaptureFixture[str]) -> None:
        _, report = fit(tmp_path, log=log)
        assert "head.weight" not in capsys.readouterr().out
        assert report.is_measured

    def test_rich_in_a_terminal_takes_nothing_for_markup(self, monkeypatch: pytest.MonkeyPatch) -> None:
        net = Holder([constant(1, name="re:[a-z]+"), constant(2, name="re:[red]c.*")], ab=nn.Linear(1, 1))
        with pytest.warns(UserWarning, match="matches nothing"):
            report = init_weights(net)
        net.add_module("[red]c", nn.Linear(1, 1))
        report = InitReport(net, [*report, *init_weights(Holder(constant(2), **{"[red]c": nn.Linear(1, 1)}))], seed=1)
        terminal = Terminal()
        monkeypatch.setattr(sys, "stdout", terminal)
        show(report.measure())
        printed = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
        assert "[red]c.weight" in printed
        assert "Holder.init_cfg[0]" in printed
        assert "written by" in printed

    @pytest.mark.parametrize(("width", "left_out"), [(94, []), (93, ["dtype"]), (10, ["dtype", "shape"])])
    def test_a_narrow_terminal_goes_without_the_columns_that_matter_least(
        self, width: int, left_out: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        net = Holder(constant(2), a_name_that_is_long=nn.Linear(1, 1))
        report = init_weights(net).measure()
        terminal = Terminal()
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setenv("COLUMNS", str(width))
        show(report)
        lines = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()).splitlines()
        (header,) = [line for line in lines if line.startswith("parameter")]
        assert [name for name in ("dtype", "shape", "std") if name not in header] == left_out
        assert any(line.startswith("a_name_that_is_long.weight  ") for line in lines)
        told = [line for line in lines if line.startswith("left out")]
        assert told == ([f"left out, for want of room: {', '.join(left_out)}"] if left_out else [])
