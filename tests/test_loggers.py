"""What reaches the loggers and the console, read back from the files and compared with NumPy's on the same weights."""

from __future__ import annotations

import csv
import io
import logging
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from lightning_init import InitReport, InitWeightsCallback, init_weights
from lightning_init.loggers import log_report, show
from lightning_init.moments import STATISTICS
from lightning_init.report import COLUMNS
from tests.models import Holder, constant
from tests.trainers import Net, Snapshots, trainer

RULES: list[dict[str, Any]] = [
    {"type": "Kaiming", "layer": "Linear", "bias": 0.25},
    {"type": "Normal", "name": "head", "mean": 1.0, "std": 0.125, "bias_prob": 0.01},
]
HISTOGRAMS = ("scalars", "table", "histograms")
ROUNDING = 2**-24
"""What rounding to float32 costs at most."""


def events_of(folder: Path) -> EventAccumulator:
    """Everything in the one event file below a folder."""
    (file,) = folder.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file), size_guidance={"scalars": 0, "tensors": 0, "histograms": 0})
    events.Reload()
    return events


def numpy_statistics(tensor: Tensor) -> dict[str, float]:
    """The statistics as NumPy gives them on the float64 values."""
    values = tensor.detach().double().numpy().ravel()
    return {
        "mean": float(values.mean()),
        "std": float(values.std(ddof=1)) if values.size > 1 else math.nan,
        "min": float(values.min()),
        "max": float(values.max()),
        "abs_mean": float(np.abs(values).mean()),
        "l2_norm": float(np.sqrt((values**2).sum())),
        "zero_fraction": float((values == 0).mean()),
        "nonfinite": float((~np.isfinite(values)).sum()),
    }


def fit(folder: Path, *loggers: Logger, log: str | Sequence[str] = HISTOGRAMS, **arguments: Any) -> Any:
    """A run with loggers.

    Returns:
        The weights at its start, and the callback.
    """
    seen, callback = Snapshots(), InitWeightsCallback(seed=5, log=log)
    module = arguments.pop("module", None) or Logging(RULES)
    trainer(folder, callback, seen, logger=list(loggers), **{"max_steps": 3, "log_every_n_steps": 1, **arguments}).fit(
        module
    )
    return seen.at_start[0], callback


class Logging(Net):
    """It logs a loss, as training does."""

    def training_step(self, batch: Tensor) -> Tensor:
        loss = super().training_step(batch)
        self.log("loss", loss)
        return loss


class Recorder(Logger):
    """Any other logger: it takes metrics, and nothing is known of what else."""

    def __init__(self) -> None:
        super().__init__()
        self.logged: list[tuple[dict[str, float], int | None]] = []

    @property
    def name(self) -> str:
        return "recorder"

    @property
    def version(self) -> int:
        return 0

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.logged.append((dict(metrics), step))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


class Refusing(Recorder):
    """It takes everything but the statistics of an initialisation."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if any(name.startswith("init/") for name in metrics):
            raise OSError("disk full")
        super().log_metrics(metrics, step)


class TestTensorBoard:
    def test_scalars_are_numpy_s(self, tmp_path: Path) -> None:
        found, _ = fit(tmp_path, TensorBoardLogger(tmp_path))
        events = events_of(tmp_path)
        wanted = {
            f"init/{name}/{key}": value
            for name, tensor in found.items()
            for key, value in numpy_statistics(tensor).items()
            if not math.isnan(value)
        }
        tags = [tag for tag in events.Tags()["scalars"] if tag.startswith("init/")]
        assert set(tags) == set(wanted)
        # The bias of the head has one element, and no standard deviation.
        assert "init/head.bias/mean" in tags
        assert "init/head.bias/std" not in tags
        for tag in tags:
            (event,) = events.Scalars(tag)
            assert event.step == 0
            np.testing.assert_allclose(event.value, wanted[tag], rtol=ROUNDING, atol=0)

    def test_the_text_tab_has_a_row_for_every_parameter(self, tmp_path: Path) -> None:
        found, callback = fit(tmp_path, TensorBoardLogger(tmp_path))
        (event,) = events_of(tmp_path).Tensors("init/text_summary")
        text = event.tensor_proto.string_val[0].decode()
        assert text == callback.report.to_markdown()
        table, _, told = text.partition("\n\n")
        assert not told
        header, ruler, *lines = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines())
        assert set(ruler) == {"---"}
        rows = [dict(zip(header, line, strict=True)) for line in lines]
        assert [row["name"] for row in rows] == list(found)
        by_name = {row["name"]: row for row in rows}
        assert by_name["head.weight"]["source"] == "Logging.init_cfg[1]"
        assert by_name["head.weight"]["shape"] == "1x3"
        assert by_name["head.weight"]["expected_std"] == "0.125"
        assert float(by_name["body.weight"]["mean"]) == pytest.approx(
            numpy_statistics(found["body.weight"])["mean"], rel=1e-3
        )

    def test_histograms_count_every_element(self, tmp_path: Path) -> None:
        found, _ = fit(tmp_path, TensorBoardLogger(tmp_path))
        events = events_of(tmp_path)
        assert set(events.Tags()["histograms"]) == {f"init/{name}" for name in found}
        for name, tensor in found.items():
            (event,) = events.Histograms(f"init/{name}")
            histogram = event.histogram_value
            assert histogram.num == tensor.numel() == sum(histogram.bucket)
            np.testing.assert_allclose(histogram.sum, tensor.double().sum(), rtol=1e-6)
            assert (histogram.min, histogram.max) == (tensor.min(), tensor.max())

    @pytest.mark.parametrize(
        ("log", "kinds"),
        [("scalars", {"scalars"}), ("table", {"tensors"}), (["histograms"], {"histograms"}), ((), set())],
    )
    def test_only_what_was_asked_for(self, tmp_path: Path, log: Any, kinds: set[str]) -> None:
        fit(tmp_path, TensorBoardLogger(tmp_path), log=log)
        tags = events_of(tmp_path).Tags()
        found = {
            kind for kind in ("scalars", "tensors", "histograms") if any(tag.startswith("init") for tag in tags[kind])
        }
        assert found == kinds

    def test_half_precision_nan_infinity_and_emptiness(self, tmp_path: Path) -> None:
        class Odd(Logging):
            def __init__(self) -> None:
                super().__init__(constant(0.5))
                self.bad = nn.Parameter(torch.tensor([1.0, math.nan, math.inf, 2.0]))
                self.lone = nn.Parameter(torch.tensor([math.nan]))
                self.empty = nn.Parameter(torch.empty(0))

        found, _ = fit(tmp_path, TensorBoardLogger(tmp_path), module=Odd(), precision="bf16-true")
        events = events_of(tmp_path)
        scalars = {
            tag.removeprefix("init/"): events.Scalars(tag)[0].value
            for tag in events.Tags()["scalars"]
            if tag.startswith("init/")
        }
        assert found["bad"].dtype is torch.bfloat16
        assert scalars["bad/nonfinite"] == 2
        # A NaN that weights hold is shown; one of a statistic that has too few of them is not sent.
        assert math.isnan(scalars["bad/std"])
        assert math.isnan(scalars["lone/mean"])
        assert "lone/std" not in scalars
        assert {name for name in scalars if name.startswith("empty/")} == {"empty/l2_norm", "empty/nonfinite"}
        (event,) = events.Histograms("init/bad")
        assert (event.histogram_value.num, event.histogram_value.max) == (2, 2.0)
        assert "init/empty" not in events.Tags()["histograms"]

    def test_tied_parameters_are_one(self, tmp_path: Path) -> None:
        module = Logging(RULES)
        module.twin = nn.Linear(2, 3, bias=False)
        module.twin.weight = module.body.weight
        fit(tmp_path, TensorBoardLogger(tmp_path), module=module)
        events = events_of(tmp_path)
        assert not [tag for tag in events.Tags()["scalars"] if "twin" in tag]
        text = events.Tensors("init/text_summary")[0].tensor_proto.string_val[0].decode()
        assert "| body.weight | twin.weight | 3x2 |" in text


class TestCSV:
    def rows(self, path: Path) -> list[dict[str, str]]:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def test_a_row_for_every_parameter_with_all_digits(self, tmp_path: Path) -> None:
        logger = CSVLogger(tmp_path)
        found, callback = fit(tmp_path, logger)
        rows = self.rows(Path(logger.log_dir) / "init_stats.csv")
        assert [row["name"] for row in rows] == list(found)
        for row in rows:
            wanted = numpy_statistics(found[row["name"]])
            for key in STATISTICS:
                assert float(row[key]) == callback.report[row["name"]].statistics[key] or math.isnan(wanted[key])
                np.testing.assert_allclose(float(row[key]), wanted[key], rtol=1e-13, atol=1e-15)
        head = rows[2]
        assert (head["name"], head["shape"], head["dtype"]) == ("head.weight", "1x3", "float32")
        assert head["initializer"].startswith("Normal(mean=1.0, std=0.125")
        assert head["source"] == "Logging.init_cfg[1]"
        assert (float(head["expected_mean"]), float(head["expected_std"])) == (1.0, 0.125)

    def test_metrics_carry_the_totals_only(self, tmp_path: Path) -> None:
        logger = CSVLogger(tmp_path)
        found, callback = fit(tmp_path, logger)
        rows = self.rows(Path(logger.log_dir) / "metrics.csv")
        totals = {"parameters", "elements", "untouched", "nonfinite", "l2_norm"}
        assert set(rows[0]) == {"step", "epoch", "loss", *(f"init/{name}" for name in totals)}
        (first,) = [row for row in rows if row["init/elements"]]
        assert first["step"] == "0"
        wanted = math.sqrt(sum(float(tensor.double().square().sum()) for tensor in found.values()))
        assert float(first["init/l2_norm"]) == pytest.approx(wanted, rel=1e-14)
        assert (float(first["init/parameters"]), float(first["init/elements"])) == (4, 13)
        assert (float(first["init/untouched"]), float(first["init/nonfinite"])) == (0, 0)
        assert len([row for row in rows if row["loss"]]) == 3
        assert callback.report.totals()["elements"] == 13

    @pytest.mark.parametrize(
        ("log", "file", "columns"),
        [("scalars", True, True), ("table", True, False), ("histograms", False, False), ((), False, False)],
    )
    def test_only_what_was_asked_for(self, tmp_path: Path, log: Any, file: bool, columns: bool) -> None:
        logger = CSVLogger(tmp_path)
        fit(tmp_path, logger, log=log)
        assert (Path(logger.log_dir) / "init_stats.csv").exists() is file
        assert any(name.startswith("init/") for name in self.rows(Path(logger.log_dir) / "metrics.csv")[0]) is columns

    def test_beside_tensorboard(self, tmp_path: Path) -> None:
        table, board = CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path / "board")
        found, _ = fit(tmp_path, board, table)
        rows = {row["name"]: row for row in self.rows(Path(table.log_dir) / "init_stats.csv")}
        events = events_of(tmp_path / "board")
        for name in found:
            (event,) = events.Scalars(f"init/{name}/abs_mean")
            np.testing.assert_allclose(event.value, float(rows[name]["abs_mean"]), rtol=ROUNDING, atol=0)


class TestOtherLoggers:
    def test_they_get_the_scalars(self, tmp_path: Path) -> None:
        recorder = Recorder()
        found, _ = fit(tmp_path, recorder)
        (metrics, step), *rest = recorder.logged
        assert step == 0
        assert not any(name.startswith("init/") for later, _ in rest for name in later)
        wanted = {name: numpy_statistics(tensor) for name, tensor in found.items()}
        assert metrics == {
            f"init/{name}/{key}": pytest.approx(value, rel=1e-13, abs=1e-15)
            for name, statistics in wanted.items()
            for key, value in statistics.items()
            if not math.isnan(value)
        }
        assert all(type(value) is float for value in metrics.values())

    @pytest.mark.parametrize("log", ["table", "histograms", ()])
    def test_and_nothing_if_none_are_asked_for(self, tmp_path: Path, log: Any) -> None:
        recorder = Recorder()
        fit(tmp_path, recorder, log=log)
        assert not any(name.startswith("init/") for metrics, _ in recorder.logged for name in metrics)

    def test_one_that_fails_is_told_and_stops_nobody(self, tmp_path: Path) -> None:
        refusing, recorder = Refusing(), Recorder()
        with pytest.warns(
            UserWarning, match=r"Refusing did not take the initialisation's report: OSError\('disk full'\)"
        ):
            fit(tmp_path, refusing, recorder)
        assert "init/head.weight/mean" in recorder.logged[0][0]
        # Training went on, and its own metrics arrived.
        assert len([metrics for metrics, _ in refusing.logged if "loss" in metrics]) == 3

    def test_without_a_logger(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        _, callback = fit(tmp_path)
        assert callback.report.is_measured
        assert "head.weight" in capsys.readouterr().out

    def test_the_logger_of_a_fast_dev_run_takes_nothing(self, tmp_path: Path) -> None:
        board = TensorBoardLogger(tmp_path / "board")
        fit(tmp_path, board, fast_dev_run=True)
        assert not list(tmp_path.rglob("events*"))

    def test_hyperparameters_and_a_report_by_hand(self, tmp_path: Path) -> None:
        recorder, net = Recorder(), Holder(constant(2), fc=nn.Linear(2, 2))
        report = init_weights(net)
        log_report(report, [recorder], ("scalars",), net)
        assert recorder.logged == [({}, 0)]
        log_report(report.measure(), [recorder], ("scalars",), net)
        assert recorder.logged[1][0]["init/fc.weight/l2_norm"] == 4


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


class TestConsole:
    def test_a_table_on_rank_zero(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        found, callback = fit(tmp_path, log="table")
        printed = capsys.readouterr().out
        for name, tensor in found.items():
            (line,) = [line for line in printed.splitlines() if line.startswith(f"{name} ")]
            assert f"{numpy_statistics(tensor)['mean']:.4g}" in line.split()
        for source in ("Logging.init_cfg[0]", "Logging.init_cfg[1]"):
            assert source in printed
        assert callback.report.is_measured

    @pytest.mark.parametrize("log", ["scalars", ()])
    def test_none_if_none_is_asked_for(self, tmp_path: Path, log: Any, capsys: pytest.CaptureFixture[str]) -> None:
        _, callback = fit(tmp_path, log=log)
        assert "head.weight" not in capsys.readouterr().out
        assert callback.report.is_measured

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


class TestResumedRuns:
    def test_nothing_is_logged_and_that_is_said(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        run = trainer(tmp_path)
        run.fit(Logging(RULES))
        run.save_checkpoint(tmp_path / "run.ckpt")
        board, table, recorder = TensorBoardLogger(tmp_path / "b"), CSVLogger(tmp_path / "c"), Recorder()
        with caplog.at_level(logging.INFO):
            trainer(tmp_path, InitWeightsCallback(log=HISTOGRAMS), logger=[board, table, recorder], max_steps=2).fit(
                Logging(RULES), ckpt_path=tmp_path / "run.ckpt"
            )
        assert "The run is resumed: the restored weights stand" in caplog.text
        assert "head.weight" not in capsys.readouterr().out
        assert not (Path(table.log_dir) / "init_stats.csv").exists()
        tags = events_of(tmp_path / "b").Tags()
        assert not [tag for kind in ("scalars", "tensors", "histograms") for tag in tags[kind] if "init" in tag]
        assert not [name for metrics, _ in recorder.logged for name in metrics if name.startswith("init/")]

    def test_a_second_fit_logs_nothing_more(self, tmp_path: Path) -> None:
        recorder, callback, module = Recorder(), InitWeightsCallback(), Logging(RULES)
        for _ in range(2):
            trainer(tmp_path, callback, logger=recorder, log_every_n_steps=1).fit(module)
        assert len([metrics for metrics, _ in recorder.logged if "init/head.weight/mean" in metrics]) == 1


class TestReports:
    def test_a_row_that_could_not_be_measured_keeps_the_columns(self, tmp_path: Path) -> None:
        net = Holder(constant(2), a=nn.Linear(1, 1), b=nn.Linear(1, 1))
        report = init_weights(net)
        del net.b
        report.measure(net)
        report.to_csv(tmp_path / "rows.csv")
        with (tmp_path / "rows.csv").open(newline="", encoding="utf-8") as file:
            assert {len(row) for row in csv.reader(file)} == {len(COLUMNS)}
        table = report.to_markdown().partition("\n\n")[0]
        assert len({line.count("|") for line in table.splitlines()}) == 1
        assert "b.weight" in str(report)

    def test_a_pattern_s_bar_does_not_break_the_markdown(self) -> None:
        net = Holder(constant(2, name="re:(a|b)"), a=nn.Linear(1, 1))
        net.add_module("c|d", nn.Linear(1, 1))
        table = init_weights(net).to_markdown().partition("\n\n")[0]
        assert "c\\|d.weight" in table
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
