"""Figures, judged by what is drawn in them and where: data of the artists, labels, and boxes of text in pixels."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import nn

from lightning_init import InitError, WeightStatistics, init_weights
from lightning_init.report import Expected, Finding, Histogram, InitReport, LayerSignal, Row
from lightning_init.report.plots import draw_report
from lightning_init.report.plots.names import MOST, group
from lightning_init.report.plots.style import MARKS, looks
from lightning_init.report.signal_findings import signal_findings
from tests.models import Holder, constant


def row(name: str, std: float, mean: float = 0.0, *, nonfinite: float = 0, **given: Any) -> Row:
    """A measured parameter."""
    statistics = {"mean": mean, "std": std, "nonfinite": nonfinite}
    known = {"initializer": "Normal(std=1)", "source": "Net.init_cfg", "layer": "Linear"}
    return Row(name, (), (3, 4), torch.float32, statistics=statistics, **{**known, **given})


def law(std: float) -> Expected:
    return Expected(0.0, std, -math.inf, math.inf)


def layer(i: int, std: float = 1.0, gradient_std: float = 1.0, dead: float = 0.0) -> LayerSignal:
    return LayerSignal(f"layers.{i}", "Linear", i, 0.0, std, dead, gradient_std)


def dots(ax: Axes, label: str | None = None) -> list[tuple[float, float]]:
    """Where dots are."""
    found = [item for item in ax.collections if isinstance(item, PathCollection)]
    points = [np.asarray(item.get_offsets()) for item in found if label in (None, item.get_label())]
    return [(float(x), float(y)) for those in points for x, y in those]


def curve(line: Any) -> tuple[list[float], list[float]]:
    """The points of a line."""
    x, y = line.get_data()
    return list(map(float, x)), list(map(float, y))


def ticks(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_xticklabels()]


def legend(ax: Axes) -> list[str]:
    found = ax.get_legend()
    return [] if found is None else [text.get_text() for text in found.get_texts()]


def words(figure: Figure) -> str:
    """All that can be read."""
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def assert_legible(figure: Figure) -> None:
    """All text is inside of the figure, none touches another, and no legend covers a dot."""
    figure.draw_without_rendering()
    renderer: Any = figure._get_renderer()  # type: ignore[attr-defined]  # the only way to sizes in pixels
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    unseen = undrawn(figure)
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts if text not in unseen]
    width, height = figure.canvas.get_width_height()
    for name, box in boxes:
        assert box.x0 >= -1, name
        assert box.y0 >= -1, name
        assert box.x1 <= width + 1, name
        assert box.y1 <= height + 1, name
    for (name, box), (other, its) in itertools.combinations(boxes, 2):
        # A pixel less, since boxes are a little larger than their letters.
        apart = box.x1 - 1 <= its.x0 or its.x1 - 1 <= box.x0 or box.y1 - 1 <= its.y0 or its.y1 - 1 <= box.y0
        assert apart, (name, other)
    for ax in figure.axes:
        if (shown := ax.get_legend()) is not None:
            box = shown.get_window_extent(renderer)
            assert not any(box.contains(*ax.transData.transform(at)) for at in dots(ax))


def undrawn(figure: Figure) -> set[Text]:
    """The labels of ticks that are made and not drawn: those outside of the limits, and of axes that are off."""
    found = set()
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        drawn = set(axis._update_ticks()) if axis.axes.axison else set()  # type: ignore[union-attr]  # nobody else knows
        ticks = {*axis.get_major_ticks(), *axis.get_minor_ticks()} - drawn
        found |= {text for tick in ticks for text in (tick.label1, tick.label2)}
    return found


def resnet(blocks: int) -> nn.Module:
    def block() -> nn.Module:
        layers = [nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4)]
        return nn.Sequential(*layers)

    rules = [{"type": "Kaiming", "layer": "Conv2d"}, {"type": "Constant", "layer": "BatchNorm2d", "val": 1}]
    return Holder(rules, stem=nn.Linear(3, 4), layers=nn.ModuleList(block() for _ in range(blocks)))


class TestSpread:
    def test_a_dot_for_each_std_at_its_place(self) -> None:
        figure = draw_report([row("a.weight", 0.5), row("a.bias", 0.25), row("b.weight", 2.0)])
        assert dots(figure.axes[0]) == [(0, 0.5), (1, 0.25), (2, 2.0)]
        assert figure.axes[0].get_yscale() == "log"
        assert "std" in figure.axes[0].get_ylabel()

    def test_what_is_expected_is_a_line_behind_the_dot(self) -> None:
        rows = [row("a.w", 0.5, expected=law(0.4)), row("a.b", 0.5), row("b.w", 0.1, expected=law(0.2))]
        (lines,) = (item for item in draw_report(rows).axes[0].collections if isinstance(item, LineCollection))
        middles = [(segment[:, 0].mean(), segment[0, 1], segment[1, 1]) for segment in lines.get_segments()]
        assert middles == [pytest.approx((0, 0.4, 0.4)), pytest.approx((2, 0.2, 0.2))]

    def test_a_colour_for_each_initializer_and_grey_for_the_untouched(self) -> None:
        rows = [
            row("a.w", 1, initializer="Kaiming(a=0)"),
            row("b.w", 2, initializer="Kaiming(a=1)"),
            row("c.w", 3, initializer="Normal(std=3)"),
            row("d.w", 4, initializer=None, source=None),
            row("e.w", 5, initializer=None, source=None, kept_by="timm"),
        ]
        ax = draw_report(rows).axes[0]
        assert legend(ax) == ["Kaiming", "Normal", "untouched", "kept"]
        assert dots(ax, "Kaiming") == [(0, 1), (1, 2)]
        marks = [item for item in ax.collections if isinstance(item, PathCollection)]
        colours = {str(item.get_label()): to_hex(np.asarray(item.get_facecolor())[0]) for item in marks}
        assert len(set(colours.values())) == 4
        assert colours == {name: colour for name, (colour, _) in looks(colours).items()}

    def test_what_has_no_std_above_zero_has_rows_below(self) -> None:
        rows = [
            row("a.w", 0.5),
            row("a.zero", 0.0),
            row("a.one", 0.0, 1.0),
            row("a.single", math.nan, -1.4),
            row("a.nan", math.nan, math.nan, nonfinite=2),
            row("a.empty", math.nan, math.nan),
            Row("a.meta", (), (3,), torch.float32),
        ]
        body, strip = draw_report(rows).axes[:2]
        assert [text.get_text() for text in strip.get_yticklabels()] == [
            "all 0",
            "all 1",
            "one value",
            "NaN or inf",
            "empty",
            "not measured",
        ]
        assert dots(body) == [(0, 0.5)]
        assert sorted(dots(strip)) == [(i + 1, i) for i in range(6)]

    def test_constants_alone(self) -> None:
        figure = draw_report([row("a.w", 0.0, 1.0, expected=Expected(1, 0, 1, 1))])
        assert dots(figure.axes[0]) == []
        assert dots(figure.axes[1]) == [(0, 0)]
        assert_legible(figure)

    def test_findings_are_ringed_where_they_are_and_told_below(self) -> None:
        rows = [row("a.w", 0.5), row("a.b", 0.0), row("b.w", 0.1)]
        findings = [
            Finding("error", "symmetric", "a.b", "all 0", "draw it", "Net.init_cfg[1]"),
            Finding("warning", "off-expected", "b.w", "far off", "look"),
            Finding("info", "untouched", "a.w", "nobody wrote it", "give it a rule"),
        ]
        figure = draw_report(rows, findings)
        body, strip, told = figure.axes
        assert dots(body, "warning") == [(2, 0.1)]
        assert dots(strip, "error") == [(1, 0)]
        assert dots(body, "error") == dots(body, "info") == dots(strip, "warning") == []
        assert {"warning", "error"} < set(legend(body))
        lines = [text.get_text().replace("\n", " ") for text in told.texts]
        assert lines == [
            "symmetric (a.b): all 0 [Net.init_cfg[1]]. Remedy: draw it",
            "off-expected (b.w): far off. Remedy: look",
            "untouched (a.w): nobody wrote it. Remedy: give it a rule",
        ]
        assert "1 error, 1 warning, 1 remark" in words(figure)
        assert_legible(figure)

    def test_findings_that_are_alike_are_one_line_and_never_too_many(self) -> None:
        rows = [row(f"a{i}.w", 1.0) for i in range(40)]
        alike = [Finding("warning", "off-expected", f"a{i}.w", f"number {i}", "look") for i in range(30)]
        others = [
            Finding("info", "untouched", f"a{i}.w", "all is well, " * 30, "look", f"rule {i}") for i in range(30, 40)
        ]
        figure = draw_report(rows, [*others, *alike])
        lines = [text.get_text() for text in figure.axes[-1].texts]
        assert lines[0].startswith("30 x off-expected (a0.w, a1.w, a2.w and 27 more), the first: number 0")
        assert lines[-1] == "3 more: report.findings"
        assert len(dots(figure.axes[0], "warning")) == 30
        assert_legible(figure)

    def test_the_headline(self) -> None:
        found = words(draw_report([row("a.w", 1.0), row("a.b", 1.0)], seed=7))
        assert "2 parameters, 24 numbers, seed 7, no findings" in found


class TestSignal:
    def test_forward_backward_and_dead_units_by_depth(self) -> None:
        signal = [layer(0, 1.0, 0.01, 0.0), layer(1, 0.5, 0.1, 0.25), layer(2, 0.1, 1.0, 1.0)]
        forward, backward, dead = draw_report([], signal=signal).axes
        assert dots(forward) == [(0, 1.0), (1, 0.5), (2, 0.1)]
        assert dots(backward) == [(0, 0.01), (1, 0.1), (2, 1.0)]
        assert [bar.get_height() for bar in dead.containers[0]] == [0, 25, 100]
        assert ticks(dead) == ["0", "1", "2"]
        assert ticks(forward) == ticks(backward) == []

    def test_zeros_and_nan_have_rows_below(self) -> None:
        figure = draw_report([], signal=[layer(0, 1.0, 0.0), layer(1, 0.0, 1.0), layer(2, math.nan, math.nan)])
        forward, zeros, backward, backward_zeros = figure.axes
        assert (dots(forward), dots(zeros)) == ([(0, 1.0)], [(1, 0), (2, 1)])
        assert (dots(backward), dots(backward_zeros)) == ([(1, 1.0)], [(0, 0)])
        assert_legible(figure)

    def test_without_gradients_there_is_no_backward_panel(self) -> None:
        (forward,) = draw_report([], signal=[layer(i, 1.0, math.nan) for i in range(3)]).axes
        assert len(dots(forward)) == 3

    def test_findings_about_layers_are_ringed(self) -> None:
        found = [Finding("warning", "vanishing-signal", "layers.2", "shrinks", "raise std")]
        forward, backward, told = draw_report([], found, [layer(i, 0.1**i) for i in range(4)]).axes
        assert dots(forward, "warning") == [pytest.approx((2, 0.01))]
        assert dots(backward, "warning") == []
        assert "shrinks" in told.texts[0].get_text()

    def test_each_finding_is_ringed_in_the_panel_that_it_is_about(self) -> None:
        signal = [LayerSignal(str(i), "L", i, 0.0, 0.01**i, 0.0, 0.01 ** (7 - i), "weights", 4) for i in range(8)]
        found = signal_findings([], signal)
        forward, backward, told = draw_report([], found, signal).axes
        assert [[x for x, _ in dots(ax, "warning")] for ax in (forward, backward)] == [[2], [4]]
        assert [" of the activations " in text.get_text() for text in told.texts] == [True, False]

    def test_below_the_weights(self) -> None:
        figure = draw_report([row("a.w", 1.0)], signal=[layer(0)])
        assert [ax.get_title(loc="left").partition(":")[0].partition(",")[0] for ax in figure.axes] == [
            "Weights",
            "Forward",
            "Backward",
        ]


class TestLegible:
    @pytest.mark.parametrize(("blocks", "parameters"), [(1, 8), (10, 62), (66, 398)])
    def test_for_few_and_for_many_parameters(self, blocks: int, parameters: int) -> None:
        report = init_weights(module := resnet(blocks), seed=0).measure()
        names = [name for name, part in module.named_modules() if not list(part.children())]
        report.signal = tuple(
            LayerSignal(name, "", i, 0.0, 0.9**i, 0.1, 0.0 if i == 3 else 0.9 ** (len(names) - i))
            for i, name in enumerate(names)
        )
        figure = report.plot()
        assert len(report) == parameters
        body, strip = figure.axes[:2]
        assert len(dots(body)) + len(dots(strip)) >= parameters
        assert 3 <= len(ticks(strip)) <= MOST
        assert figure.get_figheight() <= 14
        assert_legible(figure)

    def test_long_names(self) -> None:
        rows = [row(f"model.encoder_with_a_long_name.layer_{i}.{'attention.' * 5}weight", 1.0 + i) for i in range(20)]
        figure = draw_report(rows)
        assert_legible(figure)
        assert len(ticks(figure.axes[0])) == 20

    def test_many_initializers(self) -> None:
        rows = [row(f"l{i}.weight", 1.0 + i, initializer=f"AnInitializerOfMine{i}()") for i in range(14)]
        figure = draw_report(rows)
        assert len(legend(figure.axes[0])) == 14
        assert len(set(looks(item.written_by for item in rows).values())) == 14
        assert_legible(figure)

    @pytest.mark.parametrize("std", [1e-300, 1e-45, 1e30])
    def test_extreme_numbers(self, std: float) -> None:
        figure = draw_report([row("a.w", std), row("b.w", 1.0)])
        low, high = figure.axes[0].get_ylim()
        assert low < min(std, 1)
        assert high > max(std, 1)
        assert_legible(figure)


class TestGroups:
    def test_on_the_deepest_level_that_fits(self) -> None:
        names = [f"net.layer.{i}.{part}" for i in range(30) for part in ("q", "k", "v")]
        found = group(names)
        assert found.common == "net.layer"
        assert [item.name for item in found.groups] == [str(i) for i in range(30)]
        assert [(item.start, item.stop) for item in found.groups[:2]] == [(0, 3), (3, 6)]

    def test_each_module_where_there_are_few(self) -> None:
        assert [item.name for item in group(["a.x", "a.x", "a.y", "b"]).groups] == ["a.x", "a.y", "b"]

    def test_not_one_group_for_everything(self) -> None:
        found = group([f"layers.{i}.conv" for i in range(100)])
        assert len(found.groups) == 100

    def test_all_are_in_one_group_each(self) -> None:
        names = ["", "a", "a", "b.c.d.e", "b.c", "a"]
        found = group(names).groups
        assert [found[0].start, *(item.stop for item in found)] == [0, *itertools.accumulate([1, 2, 1, 1, 1])]


class TestReport:
    def test_not_measured_is_an_error_that_says_what_to_do(self) -> None:
        report = init_weights(Holder(constant(1), fc=nn.Linear(2, 2)))
        with pytest.raises(InitError, match=r"call report\.measure\(\) before report\.plot\(\)"):
            report.plot()
        with pytest.raises(InitError, match=r"call report\.measure\(histograms=True\)"):
            report.plot_histograms()

    def test_of_nothing(self) -> None:
        report = InitReport(None, [])
        assert "no parameters" in words(report.plot())
        (page,) = report.plot_histograms()
        assert "no histograms" in words(page)

    def test_it_leaves_pyplot_and_the_choice_of_a_backend_alone(self, tmp_path: Path) -> None:
        def state() -> tuple[object, ...]:
            # Read past the property that would choose one.
            return plt.get_fignums(), dict.__getitem__(mpl.rcParams, "backend"), plt.rcParams.copy()

        before = state()
        figure = InitReport(None, [row("a.w", 1.0)]).plot()
        figure.savefig(tmp_path / "init.png")
        assert state() == before
        assert figure.canvas.manager is None
        assert (tmp_path / "init.png").read_bytes().startswith(b"\x89PNG")

    def test_a_dark_style_leaves_no_dark_marks_on_a_dark_ground(self) -> None:
        with mpl.rc_context({"axes.facecolor": "black", "text.color": "white", "axes.labelcolor": "white"}):
            figure = draw_report([row("a.w", 1.0)])
        assert to_hex(figure.axes[0].get_facecolor()) == "#ffffff"
        texts = [text for text in figure.findobj(Text) if text.get_text()]
        assert "#ffffff" not in {to_hex(text.get_color()) for text in texts}

    @pytest.mark.parametrize(
        "draw",
        [
            lambda: InitReport(None, []).plot(),
            lambda: InitReport(None, []).plot_histograms(),
            lambda: WeightStatistics().plot({}),
        ],
    )
    def test_without_matplotlib_the_extra_is_named(
        self, draw: Callable[[], object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(InitError, match=r'pip install "lightning-init\[plot\]"'):
            draw()


def histogram(counts: Sequence[int], low: float = -1.0, high: float = 1.0) -> Histogram:
    return Histogram(low, high, tuple(counts))


class TestHistograms:
    def test_one_for_each_parameter_that_is_no_constant(self) -> None:
        rows = [
            row("a.w", 1.0, histogram=histogram([1, 3])),
            row("a.b", 0.0, histogram=histogram([4], 0.0, 0.0)),
            row("b.w", math.nan),
        ]
        (page,) = InitReport(None, rows).plot_histograms()
        (ax,) = page.axes
        (stairs,) = ax.patches
        # A density: of all numbers, a quarter lies in [-1, 0] and three in [0, 1].
        assert [list(values) for values in stairs.get_data()[:2]] == [[0.25, 0.75], [-1, 0, 1]]  # type: ignore[attr-defined]
        assert "a.w  std 1" in ax.get_title(loc="left")
        assert "2 of one value or without finite ones left out" in words(page)

    def test_the_density_of_the_law_is_drawn_over_it(self) -> None:
        uniform = Expected(0.0, 2 / math.sqrt(12), -1.0, 1.0)
        rows = [
            row("a.w", 1.0, histogram=histogram([1, 3]), expected=law(0.5)),
            row("b.w", 1.0, histogram=histogram([1, 3]), expected=uniform),
            row("c.w", 1.0, histogram=histogram([1, 3]), expected=Expected(0.0, 0.4, -1.0, 1.0)),
        ]
        normal, flat, truncated = InitReport(None, rows).plot_histograms()[0].axes
        x, y = curve(normal.lines[0])
        assert y[50] == pytest.approx(1 / (0.5 * math.sqrt(2 * math.pi)))
        assert x[50] == pytest.approx(0)
        assert sum(y) * (x[1] - x[0]) == pytest.approx(1, abs=0.06)  # 4.6 % lie beyond two std
        assert curve(flat.lines[0])[1] == [0, 0.5, 0.5, 0]
        assert not truncated.lines

    def test_several_pages_that_can_be_read(self) -> None:
        name = "encoder.layer.{}.attention.output.dense.weight"
        rows = [row(name.format(i), 1e-3 * i, histogram=histogram([1, 2, 1])) for i in range(95)]
        pages = InitReport(None, rows).plot_histograms()
        assert [len(page.axes) for page in pages] == [40, 40, 15]
        assert "page 3 of 3" in words(pages[2])
        assert "encoder.layer.94." in words(pages[2])
        assert_legible(pages[0])
        assert_legible(pages[2])


class TestWeightStatistics:
    def test_what_it_has_measured(self) -> None:
        metric = WeightStatistics()
        metric.update({"a.weight": torch.tensor([1.0, 3.0]), "b.weight": torch.tensor([0.0, 4.0])})
        figure, ax = metric.plot()
        assert isinstance(figure, Figure)
        assert dots(ax) == [pytest.approx((0, 2**0.5)), pytest.approx((1, 8**0.5))]
        assert ax.get_ylabel() == "std"
        assert ticks(ax) == ["a.weight", "b.weight"]

    def test_a_value_or_several_of_them(self) -> None:
        measured = [{"a": {"mean": 1.0}, "b": {"mean": 2.0}}, {"a": {"mean": 3.0}}]
        _, ax = WeightStatistics().plot(measured[0], statistic="mean")
        assert dots(ax) == [(0, 1.0), (1, 2.0)]
        _, ax = WeightStatistics().plot(measured, statistic="mean")
        assert [(line.get_label(), curve(line)[1]) for line in ax.lines] == [("a", [1, 3]), ("b", [2])]

    def test_into_axes_of_the_user(self) -> None:
        mine = Figure()
        into = mine.add_subplot()
        figure, ax = WeightStatistics().plot({}, into)
        assert figure is mine
        assert ax is into

    def test_an_unknown_statistic(self) -> None:
        with pytest.raises(InitError, match=r"no statistic 'sdt'; did you mean 'std'"):
            WeightStatistics().plot({}, statistic="sdt")


def test_the_marks_of_findings_differ_in_more_than_colour() -> None:
    assert len({marker for marker, _ in MARKS.values()}) == 3
    assert not {colour for _, colour in MARKS.values()} & {colour for colour, _ in looks(map(str, range(20))).values()}
