"""What reaches TensorBoard, read back from its event files and compared with NumPy's on the same weights."""

from __future__ import annotations

import html
import io
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from lightning_init import InitReport
from lightning_init.loggers import CONTENTS, log_report
from lightning_init.loggers.page import MOST_ROWS
from tests.loggers.runs import NAMES, RULES, Logging, Odd, fit, numpy_statistics, report_of, wide
from tests.mounts import mounted

ROUNDING = 2**-24
"""What rounding to float32 costs at most."""

TOTALS = (
    "parameters",
    "elements",
    "untouched",
    "nonfinite",
    "l2_norm",
    *(f"findings_{x}" for x in ("error", "warning", "info")),
)


def events_of(folder: Path) -> EventAccumulator:
    """Everything in the one event file below a folder."""
    (file,) = folder.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file), size_guidance={"scalars": 0, "tensors": 0, "histograms": 0, "images": 0})
    events.Reload()
    return events


def scalars_of(events: EventAccumulator) -> dict[str, float]:
    """What stands under ``init/``, all at step 0."""
    found = {}
    for tag in events.Tags()["scalars"]:
        if tag.startswith("init/"):
            (event,) = events.Scalars(tag)
            assert event.step == 0
            found[tag.removeprefix("init/")] = event.value
    return found


def text_of(events: EventAccumulator) -> str:
    (event,) = events.Tensors("init/text_summary")
    text: str = event.tensor_proto.string_val[0].decode()
    return text


def table_of(text: str) -> list[dict[str, str]]:
    """The rows of the table of parameters in a page."""
    table = text.partition("#### Parameters\n\n")[2].partition("\n\n")[0]
    header, ruler, *lines = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines())
    assert set(ruler) == {"---"}
    return [dict(zip(header, line, strict=True)) for line in lines]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], Any, EventAccumulator]:
    """One fit with everything: the weights, the report, what was written."""
    folder = tmp_path_factory.mktemp("board")
    found, report = fit(folder, TensorBoardLogger(folder))
    return found, report, events_of(folder)


def test_scalars_are_numpy_s(run: Any) -> None:
    found, report, events = run
    written = scalars_of(events)
    wanted = {f"{name}/{key}": x for name, tensor in found.items() for key, x in numpy_statistics(tensor).items()}
    assert set(written) == {*wanted, *TOTALS}
    # The bias of the head has one element, and no standard deviation.
    assert "head.bias/mean" in written
    assert "head.bias/std" not in written
    for tag, value in wanted.items():
        np.testing.assert_allclose(written[tag], value, rtol=ROUNDING, atol=0)
    assert (written["parameters"], written["elements"]) == (len(found), sum(map(Tensor.numel, found.values())))
    assert written["findings_info"] == sum(finding.severity == "info" for finding in report.findings)


def test_the_text_has_a_row_for_every_parameter(run: Any) -> None:
    found, _, events = run
    text = text_of(events)
    rows = {row["parameter"]: row for row in table_of(text)}
    assert list(rows) == [f"`{name}`" for name in found]
    head = rows["`head.weight`"]
    assert (head["shape"], head["expected std"]) == ("1x3", "0.125")
    assert float(rows["`body.weight`"]["mean"]) == pytest.approx(
        numpy_statistics(found["body.weight"])["mean"], rel=1e-3
    )
    # The line of the config stands in the legend.
    assert f"{head['written by']}  Logging.init_cfg[1]" in text


def test_histograms_count_every_element(run: Any) -> None:
    found, _, events = run
    assert set(events.Tags()["histograms"]) == {f"init/{name}" for name in found}
    for name, tensor in found.items():
        (event,) = events.Histograms(f"init/{name}")
        written = event.histogram_value
        values = tensor.double().numpy().ravel()
        low, high = float(values.min()), float(values.max())
        counts = np.histogram(values, len(written.bucket), (low, high))[0] if low < high else [values.size]
        assert list(written.bucket) == list(counts)
        assert (written.num, written.min, written.max) == (values.size, low, high)
        np.testing.assert_allclose(written.sum, values.sum(), rtol=1e-12)
        np.testing.assert_allclose(written.sum_squares, (values**2).sum(), rtol=1e-12)


def test_the_figure_is_a_picture(run: Any) -> None:
    (event,) = run[2].Images("init")
    picture = Image.open(io.BytesIO(event.encoded_image_string))
    assert picture.format == "PNG"
    assert (event.width, event.height) == picture.size
    # There is something on it.
    assert len(picture.convert("L").getcolors() or []) > 10


@pytest.mark.parametrize(
    ("log", "kinds"),
    [
        ("scalars", {"scalars"}),
        ("table", {"tensors"}),
        ("figure", {"images"}),
        (["histograms"], {"histograms"}),
        ("artifact", set()),
        ((), set()),
    ],
)
def test_only_what_was_asked_for(tmp_path: Path, log: Any, kinds: set[str]) -> None:
    fit(tmp_path, TensorBoardLogger(tmp_path), log=log)
    tags = events_of(tmp_path).Tags()
    assert {
        kind
        for kind in tags
        if kind not in {"run_metadata", "distributions"} and any("init" in tag for tag in tags[kind] or ())
    } == kinds


def test_odd_values_and_types(tmp_path: Path) -> None:
    _, report = fit(tmp_path, TensorBoardLogger(tmp_path), log=("table", "scalars", "histograms"), module=Odd())
    events = events_of(tmp_path)
    written = scalars_of(events)
    assert written["bad/nonfinite"] == written["nonfinite"] - 1 == 2
    # A NaN that weights hold is shown; one of a statistic that has too few of them is not sent.
    assert math.isnan(written["bad/std"])
    assert math.isnan(written["lone/mean"])
    assert "lone/std" not in written
    assert {name for name in written if name.startswith("empty/")} == {"empty/l2_norm", "empty/nonfinite"}
    assert (written["brain/mean"], written["tiny/mean"]) == (0.125, 0.75)
    assert not [name for name in written if name.startswith("packed/")]
    (event,) = events.Histograms("init/bad")
    assert (event.histogram_value.num, event.histogram_value.max) == (2, 2.0)
    assert {"init/empty", "init/lone", "init/packed"}.isdisjoint(events.Tags()["histograms"])
    assert [row["parameter"].strip("`") for row in table_of(text_of(events))] == [row.name for row in report]
    # The worst comes first.
    assert text_of(events).index("- **error** `bad`, `lone`: ") < text_of(events).index("- **info** ")
    assert text_of(events).index("- **info** ") < text_of(events).index("#### Parameters")


def test_half_precision(tmp_path: Path) -> None:
    found, _ = fit(tmp_path, TensorBoardLogger(tmp_path), log="scalars", precision="bf16-true")
    assert found["body.weight"].dtype is torch.bfloat16
    written = scalars_of(events_of(tmp_path))
    for key, value in numpy_statistics(found["body.weight"]).items():
        np.testing.assert_allclose(written[f"body.weight/{key}"], value, rtol=ROUNDING, atol=0)


@pytest.mark.filterwarnings("ignore:html5lib's sanitizer is deprecated:DeprecationWarning")
def test_names_of_any_kind(tmp_path: Path) -> None:
    found, report = report_of(*NAMES)
    logger = TensorBoardLogger(tmp_path)
    log_report(report, [logger], ("table", "scalars", "histograms"))
    logger.finalize("success")
    events = events_of(tmp_path)
    written = scalars_of(events)
    for name, tensor in found.items():
        np.testing.assert_allclose(written[f"{name}/mean"], numpy_statistics(tensor)["mean"], rtol=ROUNDING)
    assert set(events.Tags()["histograms"]) == {f"init/{name}" for name in found}
    # As TensorBoard's page shows them; a bar keeps the backslash that a table needs.
    from tensorboard.plugin_util import markdown_to_safe_html  # noqa: PLC0415 - it warns

    cells = re.findall("<td><code>(.*?)</code></td>", markdown_to_safe_html(text_of(events)))
    assert [html.unescape(cell).replace("\\|", "|") for cell in cells] == list(found)


def test_a_prefix_stands_before_every_tag(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, prefix="mine")
    log_report(report_of("a")[1], [logger], CONTENTS)
    logger.finalize("success")
    tags = events_of(tmp_path).Tags()
    assert {tag for kind in ("scalars", "tensors", "images", "histograms") for tag in tags[kind]} >= {
        "mine-init/a.weight/mean", "mine-init/text_summary", "mine-init", "mine-init/a.weight",
    }  # fmt: skip
    assert all(tag.startswith("mine-") for kind in ("scalars", "tensors", "images", "histograms") for tag in tags[kind])


def test_tied_parameters_are_one(tmp_path: Path) -> None:
    module = Logging(RULES)
    module.twin = nn.Linear(2, 3, bias=False)
    module.twin.weight = module.body.weight
    fit(tmp_path, TensorBoardLogger(tmp_path), module=module, log=("table", "scalars"))
    events = events_of(tmp_path)
    assert not [name for name in scalars_of(events) if "twin" in name]
    assert "`body.weight = twin.weight`" in [row["parameter"] for row in table_of(text_of(events))]


def test_ten_thousand_parameters(tmp_path: Path) -> None:
    found, one = report_of("a")
    report = InitReport(None, [replace(one["a.weight"], name=f"layers.{i}.weight") for i in range(10_000)])
    logger = TensorBoardLogger(tmp_path)
    log_report(report, [logger], ("table", "scalars"))
    logger.finalize("success")
    events = events_of(tmp_path)
    written = scalars_of(events)
    assert len(written) == 10_000 * 8 + len(TOTALS)
    mean = numpy_statistics(found["a.weight"])["mean"]
    np.testing.assert_allclose(written["layers.9999.weight/mean"], mean, rtol=ROUNDING)
    assert len(table_of(text_of(events))) == MOST_ROWS
    assert f"... and {10_000 - MOST_ROWS} more parameters" in text_of(events)
    # What a browser and TensorBoard have to read: the sizes that the README states, with room for longer names.
    assert len(text_of(events)) < 200_000


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_takes_training_s_own_metrics(tmp_path: Path) -> None:
    with mounted(tmp_path / "board", "-t", "tmpfs", "-o", "size=64k", "tmpfs") as folder:
        module = Logging(RULES)
        module.many = wide(1000)
        with pytest.warns(UserWarning, match=r"TensorBoardLogger did not take .*: scalars \(OSError.*No space left"):
            fit(tmp_path, TensorBoardLogger(folder), module=module, log="scalars")
        written = {}
        for file in folder.rglob("events.out.tfevents.*"):
            events = EventAccumulator(str(file))
            events.Reload()
            written.update({tag: len(events.Scalars(tag)) for tag in events.Tags()["scalars"]})
        assert written["loss"] == 3
        assert not [tag for tag in written if tag.startswith("init/")]
