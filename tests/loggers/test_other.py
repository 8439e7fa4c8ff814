"""Other loggers, several at once, those that fail, and none."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from torch import nn

from lightning_init import InitConfigError, InitWeightsCallback, init_weights
from lightning_init.loggers import CONTENTS, log_report
from lightning_init.report import COLUMNS
from tests.loggers.runs import NAMES, RULES, Logging, fit, numpy_statistics, report_of
from tests.loggers.test_csv import rows_of
from tests.loggers.test_tensorboard import ROUNDING, events_of, scalars_of
from tests.models import Holder, constant
from tests.mounts import mounted
from tests.trainers import Net, trainer


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


class Showing(Recorder):
    """It has the methods for tables and images that Lightning's WandbLogger has."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[str, list[dict[str, Any]]] = {}
        self.images: dict[str, list[Any]] = {}

    def log_table(self, key: str, columns: list[str], data: list[list[Any]], step: int | None = None) -> None:
        self.tables[key] = [dict(zip(columns, row, strict=True)) for row in data]

    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        self.images[key] = images


def test_they_get_the_scalars(tmp_path: Path) -> None:
    recorder = Recorder()
    found, _ = fit(tmp_path, recorder)
    (metrics, step), *rest = recorder.logged
    assert step == 0
    assert not any(name.startswith("init/") for later, _ in rest for name in later)
    wanted = {f"init/{name}/{key}": x for name, tensor in found.items() for key, x in numpy_statistics(tensor).items()}
    assert {name: value for name, value in metrics.items() if name.count("/") == 2} == {
        name: pytest.approx(value, rel=1e-13, abs=1e-15) for name, value in wanted.items()
    }
    assert (metrics["init/parameters"], metrics["init/findings_error"]) == (4, 0)
    assert all(type(value) is float for value in metrics.values())


def test_tables_and_images_where_there_are_methods_for_them(tmp_path: Path) -> None:
    showing = Showing()
    found, report = fit(tmp_path, showing)
    rows = showing.tables["init/table"]
    assert list(rows[0]) == list(COLUMNS)
    assert [row["mean"] for row in rows] == [(row.statistics or {})["mean"] for row in report]
    assert list(showing.tables) == ["init/table", "init/findings"]
    assert set(showing.images) == {"init/figure", "init/histograms"}
    assert all(image.getcolors(2**24) for images in showing.images.values() for image in images)
    del found


@pytest.mark.parametrize("log", ["table", "figure", "histograms", "artifact", ()])
def test_and_nothing_if_none_are_asked_for(tmp_path: Path, log: Any) -> None:
    recorder = Recorder()
    fit(tmp_path, recorder, log=log)
    assert not any(name.startswith("init/") for metrics, _ in recorder.logged for name in metrics)


def test_one_that_fails_is_told_once_and_stops_nobody(tmp_path: Path) -> None:
    refusing, recorder, table = Refusing(), Recorder(), CSVLogger(tmp_path)
    with pytest.warns(UserWarning, match="Refusing") as warned:
        fit(tmp_path, refusing, recorder, table, log=("table", "scalars"))
    (message,) = [str(warning.message) for warning in warned if "report" in str(warning.message)]
    assert message == "Refusing did not take all of the initialisation's report: scalars (OSError('disk full'))"
    assert "init/head.weight/mean" in recorder.logged[0][0]
    assert (Path(table.log_dir) / "init_stats.csv").exists()
    # Training went on, and its own metrics arrived.
    assert len([metrics for metrics, _ in refusing.logged if "loss" in metrics]) == 3


def test_a_file_in_the_way_is_told_and_the_rest_is_written(tmp_path: Path) -> None:
    table, board = CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path / "board")
    _ = table.experiment
    (Path(table.log_dir) / "init_report.json").mkdir(parents=True)
    with pytest.warns(UserWarning, match=r"CSVLogger did not take all .*: artifact \(IsADirectoryError"):
        log_report(report_of("a")[1], [table, board], CONTENTS)
    assert {path.name for path in Path(table.log_dir).iterdir()} > {
        "init_stats.csv",
        "init.png",
        "init_histograms_1.png",
    }
    board.finalize("success")
    assert "a.weight/mean" in scalars_of(events_of(tmp_path / "board"))


def test_several_show_the_same(tmp_path: Path) -> None:
    table, board = CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path / "board")
    found, _ = fit(tmp_path, board, table, log=("table", "scalars"))
    rows = {row["name"]: row for row in rows_of(Path(table.log_dir) / "init_stats.csv")}
    written = scalars_of(events_of(tmp_path / "board"))
    for name in found:
        np.testing.assert_allclose(written[f"{name}/abs_mean"], float(rows[name]["abs_mean"]), rtol=ROUNDING, atol=0)


def test_without_a_logger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, report = fit(tmp_path)
    assert report.is_measured
    assert "head.weight" in capsys.readouterr().out


def test_a_bare_trainer(tmp_path: Path) -> None:
    callback = InitWeightsCallback(log=CONTENTS)
    trainer(tmp_path, callback, barebones=True, num_sanity_val_steps=0).fit(Net())
    assert callback.report is not None
    assert callback.report.is_measured
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kept", [True, False])
def test_a_read_only_folder(tmp_path: Path, kept: bool) -> None:
    logger = CSVLogger(tmp_path / "csv")
    Path(logger.log_dir).mkdir(parents=True)
    with mounted(tmp_path / "csv", "--bind", str(tmp_path / "csv")) as folder:
        if not kept:
            subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
            with pytest.warns(UserWarning, match=r"CSVLogger did not take all .*: table \(OSError.*Read-only"):
                log_report(report_of("a")[1], [logger], ("table",))
        else:
            log_report(report_of("a")[1], [logger], ("table",))
        assert (Path(logger.log_dir) / "init_stats.csv").exists() is kept


def test_a_figure_without_matplotlib_is_told_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InitConfigError, match=r'InitWeightsCallback\.log: .*pip install "lightning-init\[plot\]"'):
        InitWeightsCallback(log="figure")
    InitWeightsCallback(log=("table", "histograms"))


def test_the_logger_of_a_fast_dev_run_takes_nothing(tmp_path: Path) -> None:
    fit(tmp_path, TensorBoardLogger(tmp_path / "board"), CSVLogger(tmp_path / "csv"), fast_dev_run=True)
    assert not list(tmp_path.rglob("events*"))
    assert not list(tmp_path.rglob("init*"))


def test_a_report_by_hand() -> None:
    recorder, net = Recorder(), Holder(constant(2), fc=nn.Linear(2, 2))
    report = init_weights(net)
    log_report(report, [recorder], ("scalars",))
    assert recorder.logged[0][0]["init/parameters"] == 2
    log_report(report.measure(), [recorder], ("scalars",))
    assert recorder.logged[1][0]["init/fc.weight/l2_norm"] == 4


def test_names_of_any_kind() -> None:
    recorder = Recorder()
    found, report = report_of(*NAMES)
    log_report(report, [recorder], ("scalars",))
    assert {name for name in recorder.logged[0][0] if name.endswith("/mean")} == {f"init/{name}/mean" for name in found}


@pytest.mark.parametrize("log", [["scalar"], "pictures", ("table", 3), 4, {"table": True}])
def test_what_cannot_be_logged(log: Any) -> None:
    with pytest.raises(InitConfigError, match=r"InitWeightsCallback\.log"):
        InitWeightsCallback(log=log)


class TestResumedRuns:
    def test_nothing_is_logged_and_that_is_said(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        run = trainer(tmp_path)
        run.fit(Logging(RULES))
        run.save_checkpoint(tmp_path / "run.ckpt")
        board, table, recorder = TensorBoardLogger(tmp_path / "b"), CSVLogger(tmp_path / "c"), Recorder()
        with caplog.at_level(logging.INFO):
            trainer(tmp_path, InitWeightsCallback(log=CONTENTS), logger=[board, table, recorder], max_steps=2).fit(
                Logging(RULES), ckpt_path=tmp_path / "run.ckpt"
            )
        assert "The run is resumed: the restored weights stand" in caplog.text
        assert "head.weight" not in capsys.readouterr().out
        assert not list(Path(table.log_dir).glob("init*"))
        tags = events_of(tmp_path / "b").Tags()
        kinds: Sequence[str] = ("scalars", "tensors", "histograms", "images")
        assert not [tag for kind in kinds for tag in tags[kind] if "init" in tag]
        assert not [name for metrics, _ in recorder.logged for name in metrics if name.startswith("init/")]

    def test_a_second_fit_logs_nothing_more(self, tmp_path: Path) -> None:
        recorder, callback, module = Recorder(), InitWeightsCallback(), Logging(RULES)
        for _ in range(2):
            trainer(tmp_path, callback, logger=recorder, log_every_n_steps=1).fit(module)
        assert len([metrics for metrics, _ in recorder.logged if "init/head.weight/mean" in metrics]) == 1
