"""What stands beside a CSVLogger's metrics, read back and compared with NumPy's on the same weights."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from lightning_init import InitReport
from lightning_init.loggers import log_report
from lightning_init.moments import STATISTICS
from lightning_init.report import COLUMNS
from tests.loggers.runs import NAMES, RULES, Logging, Odd, fit, numpy_statistics, report_of, wide
from tests.mounts import mounted

FILES = {
    "table": "init_stats.csv",
    "artifact": "init_report.json",
    "figure": "init.png",
    "histograms": "init_histograms_1.png",
}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_row_for_every_parameter_with_all_digits(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    found, report = fit(tmp_path, logger, log="table")
    rows = rows_of(Path(logger.log_dir) / "init_stats.csv")
    assert list(rows[0]) == list(COLUMNS)
    assert [row["name"] for row in rows] == list(found)
    for row in rows:
        wanted = numpy_statistics(found[row["name"]])
        measured = report[row["name"]].statistics
        assert measured is not None
        for key in STATISTICS:
            assert float(row[key]) == measured[key] or key not in wanted
            np.testing.assert_allclose(float(row[key]), wanted.get(key, math.nan), rtol=1e-13, atol=1e-15)
    head = rows[2]
    assert (head["name"], head["shape"], head["dtype"]) == ("head.weight", "1x3", "float32")
    assert head["initializer"].startswith("Normal(mean=1.0, std=0.125")
    assert head["source"] == "Logging.init_cfg[1]"
    assert (float(head["expected_mean"]), float(head["expected_std"])) == (1.0, 0.125)


def test_metrics_carry_the_totals_only(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    found, _ = fit(tmp_path, logger, log="scalars")
    rows = rows_of(Path(logger.log_dir) / "metrics.csv")
    totals = {"parameters", "elements", "untouched", "nonfinite", "l2_norm"}
    totals |= {"findings_error", "findings_warning", "findings_info"}
    assert set(rows[0]) == {"step", "epoch", "loss", *(f"init/{name}" for name in totals)}
    (first,) = [row for row in rows if row["init/elements"]]
    assert first["step"] == "0"
    wanted = math.sqrt(sum(float(tensor.double().square().sum()) for tensor in found.values()))
    assert float(first["init/l2_norm"]) == pytest.approx(wanted, rel=1e-14)
    assert (float(first["init/parameters"]), float(first["init/elements"])) == (4, 13)
    assert (float(first["init/untouched"]), float(first["init/nonfinite"])) == (0, 0)
    assert len([row for row in rows if row["loss"]]) == 3


@pytest.mark.parametrize("log", ["table", "scalars", "figure", "histograms", "artifact", ()])
def test_only_what_was_asked_for(tmp_path: Path, log: Any) -> None:
    logger = CSVLogger(tmp_path)
    fit(tmp_path, logger, log=log)
    folder = Path(logger.log_dir)
    assert {path.name for path in folder.glob("init*")} == ({FILES[log]} if log in FILES else set())
    assert any(name.startswith("init/") for name in rows_of(folder / "metrics.csv")[0]) is (log == "scalars")


def test_the_report_and_the_pictures_can_be_read(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    _, report = fit(tmp_path, logger, log=("artifact", "figure", "histograms"))
    folder = Path(logger.log_dir)
    again = InitReport.from_json(folder / "init_report.json")
    assert again.to_json() == report.to_json()
    assert again["body.weight"].histogram is not None
    for name in ("init.png", "init_histograms_1.png"):
        with Image.open(folder / name) as picture:
            assert len(picture.convert("L").getcolors() or []) > 10


def test_odd_values_types_and_names(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    fit(tmp_path, logger, log="table", module=Odd())
    rows = {row["name"]: row for row in rows_of(Path(logger.log_dir) / "init_stats.csv")}
    assert math.isnan(float(rows["bad"]["mean"]))
    assert (rows["bad"]["nonfinite"], rows["packed"]["mean"]) == ("2.0", "")
    assert (rows["brain"]["dtype"], rows["tiny"]["dtype"], rows["tiny"]["mean"]) == (
        "bfloat16",
        "float8_e4m3fn",
        "0.75",
    )
    logger = CSVLogger(tmp_path, "names")
    found, report = report_of(*NAMES, 'comma, "quoted"\nline')
    log_report(report, [logger], ("table",))
    assert [row["name"] for row in rows_of(Path(logger.log_dir) / "init_stats.csv")] == list(found)


def test_a_full_disk_takes_training_s_own_metrics(tmp_path: Path) -> None:
    with mounted(tmp_path / "csv", "-t", "tmpfs", "-o", "size=32k", "tmpfs") as folder:
        module = Logging(RULES)
        module.many = wide(1000)
        logger = CSVLogger(folder)
        with pytest.warns(UserWarning, match=r"CSVLogger did not take .*: table \(OSError.*No space left"):
            fit(tmp_path, logger, module=module, log=("table", "scalars"))
        assert not (Path(logger.log_dir) / "init_stats.csv").exists()
        rows = rows_of(Path(logger.log_dir) / "metrics.csv")
        assert len([row for row in rows if row["loss"]]) == 3
        # The totals still fitted.
        assert [row["init/parameters"] for row in rows if row["init/parameters"]] == ["1004.0"]


def test_a_folder_in_another_file_system(tmp_path: Path) -> None:
    import fsspec  # noqa: PLC0415

    logger = CSVLogger("memory://runs")
    log_report(report_of("a")[1], [logger], ("table",))
    (path,) = fsspec.filesystem("memory").glob("/runs/**/init_stats.csv")
    assert b"a.weight" in fsspec.filesystem("memory").cat(path)
