"""What reaches MLflow on sqlite, read back with its client and compared with NumPy's on the same weights."""

from __future__ import annotations

import csv
import logging
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch.loggers import MLFlowLogger
from PIL import Image

from lightning_init import InitReport
from lightning_init.loggers import log_report
from lightning_init.loggers.mlflow import LONGEST, allowed
from tests.loggers.runs import NAMES, RULES, Logging, Odd, fit, numpy_statistics, report_of, wide

mlflow = pytest.importorskip("mlflow")

# MLflow asks SQLAlchemy for what it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without a run; MLflow takes seconds to make its tables."""
    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def logger(empty: Path, tmp_path: Path) -> MLFlowLogger:
    shutil.copy(empty, tmp_path / "mlflow.db")
    return MLFlowLogger(
        tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}", artifact_location=str(tmp_path / "artifacts")
    )


def metrics_of(logger: MLFlowLogger) -> dict[str, float]:
    """What stands under ``init/``, read by a client of its own."""
    client = mlflow.MlflowClient(logger._tracking_uri)
    found: dict[str, float] = client.get_run(logger.run_id).data.metrics
    return {name.removeprefix("init/"): value for name, value in found.items() if name.startswith("init/")}


def file_of(logger: MLFlowLogger, name: str, folder: Path) -> Path:
    return Path(
        mlflow.MlflowClient(logger._tracking_uri).download_artifacts(logger.run_id, f"init/{name}", str(folder))
    )


def test_everything(logger: MLFlowLogger, tmp_path: Path) -> None:
    found, report = fit(tmp_path, logger)
    written = metrics_of(logger)
    wanted = {
        f"{name}/{key}": value
        for name, tensor in found.items()
        for key, value in numpy_statistics(tensor).items()
        if key in {"mean", "std"}
    }
    assert {name for name in written if "/" in name} == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_allclose(written[name], value, rtol=1e-13, atol=1e-15)
    assert (written["parameters"], written["elements"]) == (4, 13)

    folder = tmp_path / "read"
    folder.mkdir()
    with file_of(logger, "init_stats.csv", folder).open(newline="", encoding="utf-8") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert list(rows) == list(found)
    for name, tensor in found.items():
        for key, value in numpy_statistics(tensor).items():
            np.testing.assert_allclose(float(rows[name][key]), value, rtol=1e-13, atol=1e-15)
    assert "`head.weight`" in file_of(logger, "init.md", folder).read_text(encoding="utf-8")
    assert InitReport.from_json(file_of(logger, "init_report.json", folder)).to_json() == report.to_json()
    for name in ("init.png", "init_histograms_1.png"):
        with Image.open(file_of(logger, name, folder)) as picture:
            assert len(picture.convert("L").getcolors() or []) > 10


def test_only_what_was_asked_for_and_odd_values(logger: MLFlowLogger, tmp_path: Path) -> None:
    fit(tmp_path, logger, log="scalars", module=Odd())
    written = metrics_of(logger)
    assert math.isnan(written["bad/mean"])
    assert "lone/std" not in written
    assert "packed/mean" not in written
    assert (written["nonfinite"], written["brain/mean"], written["tiny/mean"]) == (3, 0.125, 0.75)
    assert not (tmp_path / "artifacts").exists()


def test_names_that_mlflow_does_not_allow(
    logger: MLFlowLogger, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    found, report = report_of(*NAMES)
    with caplog.at_level(logging.INFO):
        log_report(report, [logger], ("table", "scalars"))
    written = metrics_of(logger)
    names = allowed(found, LONGEST - len("init//mean"))
    assert len(set(names.values())) == len(NAMES)
    for name, tensor in found.items():
        np.testing.assert_allclose(written[f"{names[name]}/mean"], numpy_statistics(tensor)["mean"], rtol=1e-13)
    (told,) = [message for message in caplog.messages if "does not allow" in message]
    assert "'a/b.weight' is 'a_b.weight_2'" in told
    # In the table they are what they are.
    with file_of(logger, "init_stats.csv", tmp_path).open(newline="", encoding="utf-8") as file:
        assert [row["name"] for row in csv.DictReader(file)] == list(found)


def test_allowed_names_are_kept_and_stay_distinct() -> None:
    assert allowed(["a.b", "a_b"], 10) == {"a.b": "a.b", "a_b": "a_b"}
    assert allowed(["[a]", "_a_", "{a}"], 10) == {"[a]": "_a__2", "_a_": "_a_", "{a}": "_a__3"}
    assert allowed(["x" * 9 + "end", "y" * 9 + "end", "z" * 10 + "end"], 8) == {
        "x" * 9 + "end": "_xxxxend",
        "y" * 9 + "end": "_yyyyend",
        "z" * 10 + "end": "_zzzzend",
    }
    assert allowed(["a" * 9, "a" * 10], 8) == {"a" * 9: "_aaaaaaa", "a" * 10: "_aaaaa_2"}


def test_a_store_that_is_gone_stops_nothing(logger: MLFlowLogger, tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_text("a file is in the way")
    with pytest.warns(UserWarning, match=r"MLFlowLogger did not take all .*: table and artifact \("):
        fit(tmp_path, logger, log=("table", "scalars", "artifact"))
    client = mlflow.MlflowClient(logger._tracking_uri)
    assert len(client.get_metric_history(logger.run_id, "loss")) == 3
    assert metrics_of(logger)["parameters"] == 4


def test_more_metrics_than_mlflow_takes_at_once(logger: MLFlowLogger, tmp_path: Path) -> None:
    module = Logging(RULES)
    module.many = wide(600)
    found, _ = fit(tmp_path, logger, log="scalars", module=module)
    written = metrics_of(logger)
    assert len([name for name in written if "/" in name]) == 2 * len(found) - 1
    np.testing.assert_allclose(written["many.599.weight/mean"], found["many.599.weight"].double().mean(), rtol=1e-13)
