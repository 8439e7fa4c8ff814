"""What reaches Weights & Biases in offline mode, read back from its own files and compared with NumPy's."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from lightning_init import InitReport
from lightning_init.loggers import log_report
from lightning_init.report import COLUMNS
from tests.loggers.runs import NAMES, Odd, fit, numpy_statistics, report_of

wandb = pytest.importorskip("wandb")
wandb_internal_pb2 = pytest.importorskip("wandb.proto.wandb_internal_pb2")


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for everything that wandb keeps, and no process of its that outlives the test."""
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_DISABLE_GIT", "true")
    yield tmp_path
    written()


def written() -> None:
    """Ends the run, and the process that writes for it behind our back."""
    wandb.finish()
    wandb.teardown()


def records(folder: Path) -> Iterator[Any]:
    """What stands in the transaction log of the one run below a folder, a log of LevelDB's format behind 7 bytes."""
    (path,) = folder.rglob("run-*.wandb")
    data, position, record = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        if (left := -position % 32768) and left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        start = position + 7
        record = (record if kind in {3, 4} else b"") + data[start : start + length]
        position = start + length
        if kind in {1, 4}:  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(record)


def history(folder: Path) -> dict[str, Any]:
    """The last value of everything that was logged with a step."""
    found: dict[str, Any] = {}
    for record in records(folder):
        for item in record.history.item:
            keys = list(item.nested_key) or [item.key]
            here = found
            for key in keys[:-1]:
                here = here.setdefault(key, {})
            here[keys[-1]] = json.loads(item.value_json)
    return found


def summary(folder: Path) -> dict[str, Any]:
    """The summary, of what is not nested in it."""
    updates = (update for record in records(folder) for update in record.summary.update)
    return {update.key: json.loads(update.value_json) for update in updates if update.key}


def artifacts(folder: Path) -> dict[str, Any]:
    return {record.artifact.type: record.artifact for record in records(folder) if record.HasField("artifact")}


def media(folder: Path, entry: Any) -> Path:
    (path,) = folder.rglob(entry["path"] if "path" in entry else entry["filenames"][0])
    return path


def table(folder: Path, entry: Any) -> list[dict[str, Any]]:
    """The rows of a logged table; strict JSON is what a browser reads."""
    read = json.loads(media(folder, entry).read_text(encoding="utf-8"), parse_constant=pytest.fail)
    return [dict(zip(read["columns"], row, strict=True)) for row in read["data"]]


def test_everything(offline: Path) -> None:
    logger = WandbLogger(save_dir=offline, offline=True)
    found, report = fit(offline, logger, module=Odd())
    written()
    logged = history(offline)
    # One table instead of a panel for each parameter and statistic.
    assert {key for key in logged if key.startswith("init")} == {
        "init/table", "init/findings", "init/figure", "init/histograms",
    }  # fmt: skip
    assert "loss" in logged

    rows = table(offline, logged["init/table"])
    assert [list(row) for row in rows] == [list(COLUMNS)] * len(report)
    by_name = {row["name"]: row for row in rows}
    assert list(by_name) == [row.name for row in report]
    for name in ("body.weight", "body.bias", "head.weight", "head.bias", "brain"):
        wanted = numpy_statistics(found[name].float())
        for key, value in wanted.items():
            np.testing.assert_allclose(by_name[name][key], value, rtol=1e-13, atol=1e-15)
    assert by_name["head.weight"]["source"] == "Odd.init_cfg[1]"
    assert by_name["bad"]["mean"] is None
    assert by_name["bad"]["nonfinite"] == 2
    assert by_name["packed"]["mean"] is None

    told = table(offline, logged["init/findings"])
    assert [(row["severity"], row["code"], row["where"]) for row in told] == [
        (finding.severity, finding.code, finding.where) for finding in report.findings
    ]

    assert (told[0]["severity"], told[0]["where"]) == ("error", "bad")

    values = summary(offline)
    assert values["init/parameters"] == len(report)
    assert values["init/nonfinite"] == 3
    for severity in ("error", "warning", "info"):
        assert values[f"init/findings_{severity}"] == sum(row["severity"] == severity for row in told)

    for key in ("init/figure", "init/histograms"):
        with Image.open(media(offline, logged[key])) as picture:
            assert len(picture.convert("L").getcolors() or []) > 10

    artifact = artifacts(offline)["init-report"]
    (entry,) = artifact.manifest.contents
    assert entry.path == "init_report.json"
    again = InitReport.from_json(Path(entry.local_path))
    assert [row.name for row in again] == [row.name for row in report]
    assert math.isnan((again["bad"].statistics or {})["mean"])


def test_names_a_prefix_and_only_what_was_asked_for(offline: Path) -> None:
    logger = WandbLogger(save_dir=offline, offline=True, prefix="mine")
    found, report = report_of(*NAMES)
    log_report(report, [logger], ("table", "scalars"))
    written()
    logged = history(offline)
    assert {key for key in logged if "init" in key} == {"mine-init/table", "mine-init/findings"}
    assert [row["name"] for row in table(offline, logged["mine-init/table"])] == list(found)
    assert summary(offline)["mine-init/parameters"] == len(NAMES)
    assert "init-report" not in artifacts(offline)


def test_a_disabled_run_takes_nothing_and_says_nothing(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    logger = WandbLogger(save_dir=offline)
    log_report(report_of("a")[1], [logger], ("table", "scalars", "artifact"))
    written()
    assert not list(offline.rglob("*.wandb"))
