from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from pipeline.labels import METHOD_LABELS
from pipeline.reporting import figures
from pipeline.reporting.figures import (
    COLOURS,
    MAX_POINTS,
    Curves,
    ablation_figure,
    class_figure,
    colours_of,
    curve_figure,
    gain_figure,
    save_figure,
)
from pipeline.reporting.grid import Grid, Line, build_grid
from pipeline.reporting.paper import read_published
from pipeline.reporting.rows import Shown
from pipeline.reporting.wording import line_name

Row = dict[str, Any]


@pytest.fixture
def make_grid(published_dir: Path, make_table: Callable[..., list[Row]]) -> Callable[..., Grid]:
    def grid(table: str, *, rows: list[Row] | None = None, noise_rows: list[Row] | None = None) -> Grid:
        published = read_published(table, published_dir)
        rows = make_table(table) if rows is None else rows
        return build_grid(table, rows, published=published, noise_rows=noise_rows or [], shown=Shown())

    return grid


def heights(axes: Axes, name: str) -> list[float]:
    [line] = [line for line in axes.get_lines() if line.get_label() == name]
    return [float(value) for value in np.asarray(line.get_ydata())]


def test_an_ablation_shows_both_sides_as_differences_to_their_own_default(make_grid: Callable[..., Grid]) -> None:
    grid = make_grid("table_7")
    figure = ablation_figure(grid)
    assert figure is not None
    for axes, index in zip(figure.axes, range(2), strict=True):
        entries = [line.entries[index] for line in grid.lines]
        assert axes.get_title(loc="left") == grid.columns[index]
        assert axes.get_xlabel() == r"$\mathrm{α_{0}}$ (%)"
        assert heights(axes, "Measured on shapes") == [entry.gain or 0.0 for entry in entries]
        assert heights(axes, "In the paper, on VOC blender") == [entry.published_gain or 0.0 for entry in entries]


def test_panels_of_many_rows_that_do_not_fit_beside_each_other_stand_below(
    make_grid: Callable[..., Grid], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "WIDEST", 4.0)
    figure = ablation_figure(make_grid("table_7"))
    assert figure is not None
    above, below = [axes.get_position() for axes in figure.axes]
    assert above.y0 > below.y1
    assert figure.get_size_inches()[0] < 2 * 4.0


def test_the_band_of_an_ablation_is_the_noise_of_two_single_runs(
    make_grid: Callable[..., Grid], make_row: Callable[..., Row]
) -> None:
    values = {"MT": [60.5, 60.5, 62.0], "CutMix": [60.5, 62.5, 63.0]}  # see the tests of noise: sd √½, quantile 4.303
    seeds = [
        make_row("table_x3", {"method": method}, "1/8 (1323)", miou=miou, seed=seed)
        for method, mious in values.items()
        for seed, miou in enumerate(mious)
    ]
    figure = ablation_figure(make_grid("table_7", noise_rows=seeds))
    assert figure is not None
    [band] = [patch for patch in figure.axes[0].patches if patch.get_label() == "seeds' noise"]
    low, high = band.get_path().get_extents(band.get_patch_transform()).get_points()[:, 1]
    assert (low, high) == pytest.approx((-4.303, 4.303), rel=1e-3)
    without = ablation_figure(make_grid("table_7"))
    assert without is not None
    assert not without.axes[0].patches


def test_a_collapse_does_not_hide_the_other_learning_rates(make_grid: Callable[..., Grid]) -> None:
    figure = ablation_figure(make_grid("table_a5"))
    assert figure is not None
    assert figure.axes[0].get_yscale() == "symlog"
    assert min(heights(figure.axes[0], "In the paper, on VOC blender")) == -75.81
    assert figure.axes[0].get_ylim()[0] < -75.81


def test_an_ablation_without_a_measured_default_has_no_figure(
    make_grid: Callable[..., Grid], make_table: Callable[..., list[Row]]
) -> None:
    rows = [row for row in make_table("table_7") if row["row"]["alpha_0_percent"] != "20"]
    assert ablation_figure(make_grid("table_7", rows=rows)) is None


def test_gains_of_other_data_have_an_axis_of_their_own(
    make_grid: Callable[..., Grid], make_table: Callable[..., list[Row]]
) -> None:
    grid = make_grid("table_2")
    figure = gain_figure(grid)
    assert figure is not None
    measured, paper = figure.axes
    assert [axes.get_title(loc="left") for axes in (measured, paper)] == [
        "Measured on shapes",
        "In the paper, on VOC blender",
    ]
    assert not measured.get_shared_y_axes().joined(measured, paper)
    assert heights(paper, "U2PL (w/ CutMix)") == [9.34, 7.46, 3.50, 3.37]
    own = next(line for line in grid.lines if line.labels["method"] == "U2PL (w/ CutMix)")
    assert heights(measured, "U2PL (w/ CutMix)") == [entry.gain for entry in own.entries]
    same = [row | {"data": {"name": "voc"}} for row in make_table("table_2")]
    shared = gain_figure(make_grid("table_2", rows=same))
    assert shared is not None
    assert shared.axes[0].get_shared_y_axes().joined(*shared.axes)


def test_gains_at_one_partition_alone_are_no_figure(
    make_table: Callable[..., list[Row]],
) -> None:
    rows = [row for row in make_table("table_2") if row["partition"] == "1-8"]
    assert gain_figure(build_grid("table_2", rows, published=None, noise_rows=[], shown=Shown())) is None


def test_a_table_of_our_own_has_no_points_of_the_paper(make_row: Callable[..., Row]) -> None:
    names = ("one_hot", "class_index", "labelled_negatives", "unlabelled_negatives")
    default = {"variant": "-"} | {f"defect_{name}": "-" for name in names}
    labels = [default, default | {"defect_unlabelled_negatives": "True"}]
    rows = [make_row("table_x1", each, "1/8 (1323)", miou=60 + index) for index, each in enumerate(labels)]
    figure = ablation_figure(build_grid("table_x1", rows, published=None, noise_rows=[], shown=Shown()))
    assert figure is not None
    (axes,) = figure.axes
    assert heights(axes, "Measured on shapes") == [0.0, 1.0]
    assert not [line for line in axes.get_lines() if "paper" in str(line.get_label())]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["default", "unlabelled\nnegatives"]


def test_methods_are_told_apart_without_colours(make_grid: Callable[..., Grid]) -> None:
    figure = gain_figure(make_grid("table_3"))
    assert figure is not None
    drawn = [line for line in figure.axes[1].get_lines() if not str(line.get_label()).startswith("_")]
    assert len({(line.get_marker(), line.get_linestyle()) for line in drawn}) == len(drawn) == 8


def test_a_method_has_one_colour_in_every_table(make_grid: Callable[..., Grid]) -> None:
    colours = []
    for table in ("table_1", "table_2", "table_3"):
        figure = gain_figure(make_grid(table))
        assert figure is not None
        lines = {str(line.get_label()): line.get_color() for line in figure.axes[1].get_lines()}
        colours.append([lines[name] for name in ("MT", "CutMix", "U2PL (w/ CutMix)")])
    assert colours[0] == colours[1] == colours[2]


def test_classes_stand_in_the_order_of_their_gain_and_absent_ones_are_left_out(make_row: Callable[..., Row]) -> None:
    labels, column = {"method": "SupOnly"}, "1/8 (1323)"
    rows = {"a": make_row("table_2", labels, column, miou=50), "b": make_row("table_2", labels, column, miou=60)}
    for name, iou in (("a", [50, 40, None, 30]), ("b", [55, 60, 70, 20])):
        rows[name]["metrics"] = {"student": {"best": {"padding_ignored": {"miou": 50, "iou": iou}}}}
    figure = class_figure(
        [rows["a"]], [rows["b"]], names=("A", "B"), shown=Shown(), classes=["sky", "car", "dog", "cow"]
    )
    assert figure is not None
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cow", "sky", "car"]
    assert [text.get_text() for text in axes.texts] == ["−10.0", "+5.0", "+20.0"]
    assert class_figure([], [rows["b"]], names=("A", "B"), shown=Shown()) is None
    some = class_figure([rows["a"]], [rows["b"]], names=("A", "B"), shown=Shown(classes=(1,)))
    assert some is not None
    assert [label.get_text() for label in some.axes[0].get_yticklabels()] == ["class 1"]


def test_seeds_become_a_mean_line_with_a_band_of_one_deviation() -> None:
    values = [[2.0, 1.0], [3.0, 1.4], [2.6, 0.9]]
    seeds: list[Curves] = [{"loss/supervised": list(zip((10, 20), seed, strict=True))} for seed in values]
    figure = curve_figure({"MT": seeds}, group="loss", ylabel="loss")
    assert figure is not None
    axes = figure.axes[0]
    assert heights(axes, "MT") == pytest.approx([mean(column) for column in zip(*values, strict=True)])
    corners = axes.collections[0].get_paths()[0].vertices
    for step, column in zip((10, 20), zip(*values, strict=True), strict=True):
        reached = [y for x, y in np.asarray(corners) if x == step]
        assert min(reached) == pytest.approx(mean(column) - stdev(column))
        assert max(reached) == pytest.approx(mean(column) + stdev(column))


def test_every_metric_of_a_group_has_a_panel_and_only_methods_that_have_it() -> None:
    runs: dict[str, list[Curves]] = {
        "SupOnly": [{"loss/supervised": [(1, 1.0)], "lr": [(1, 0.1)]}],
        "U2PL": [{"loss/supervised": [(1, 1.0)], "loss/contrastive": [(1, 2.0)]}],
    }
    figure = curve_figure(runs, group="loss", ylabel="loss")
    assert figure is not None
    shown = {axes.get_title(loc="left"): [line.get_label() for line in axes.get_lines()] for axes in figure.axes}
    assert shown == {"supervised": ["SupOnly", "U2PL"], "contrastive": ["U2PL"]}
    assert curve_figure(runs, group="val", ylabel="mIoU") is None


def test_panels_that_hold_nothing_are_not_drawn() -> None:
    runs: dict[str, list[Curves]] = {"MT": [{f"loss/{name}": [(1, 1.0), (2, 2.0)] for name in "abcd"}]}
    figure = curve_figure(runs, group="loss", ylabel="loss")
    assert figure is not None
    assert [axes.axison for axes in figure.axes] == [True] * 4 + [False] * 2


def test_a_method_has_the_colour_of_its_gains_in_its_curves(make_grid: Callable[..., Grid]) -> None:
    grid = make_grid("table_2")
    gains = gain_figure(grid)
    names = [line.labels["method"] for line in grid.lines]
    curves = curve_figure({name: [{"loss/a": [(1, 1.0)]}] for name in names}, group="loss", ylabel="loss")
    assert gains is not None
    assert curves is not None
    of_gains = {str(line.get_label()): line.get_color() for line in gains.axes[1].get_lines()}
    of_curves = {str(line.get_label()): line.get_color() for line in curves.axes[0].get_lines()}
    assert {name: of_curves[name] for name in names[1:]} == {name: of_gains[name] for name in names[1:]}
    assert len(set(of_curves.values())) == len(names)


def test_a_variant_has_its_methods_colour_dashed_and_no_label_that_says_nothing() -> None:
    def line(**labels: str) -> Line:
        return Line(labels=labels, is_reproduced=False, ran_as="", entries=())

    lines = [
        line(method="SupOnly", variant="-"),
        line(method="SupOnly", variant="equal_steps"),
        line(method="MT", variant="-"),
    ]
    names = [line_name(each) for each in lines]
    assert names == ["SupOnly", "SupOnly, equal steps", "MT"]
    assert line_name(line(variant="-", defect_one_hot="True")) == "one hot"
    assert line_name(line(variant="-", defect_one_hot="-")) == "default"
    figure = curve_figure({name: [{"loss/a": [(1, 1.0)]}] for name in names}, group="loss", ylabel="loss")
    assert figure is not None
    drawn = figure.axes[0].get_lines()
    assert [each.get_linestyle() for each in drawn] == ["-", "--", "-"]
    assert drawn[0].get_color() == drawn[1].get_color() == COLOURS[0]
    assert drawn[2].get_color() == COLOURS[1]


def test_long_curves_are_thinned_and_keep_both_ends() -> None:
    curves: Curves = {"loss/supervised": [(step, float(step)) for step in range(10_000)]}
    figure = curve_figure({"MT": [curves]}, group="loss", ylabel="loss")
    assert figure is not None
    shown = heights(figure.axes[0], "MT")
    assert len(shown) == MAX_POINTS
    assert (shown[0], shown[-1]) == (0.0, 9999.0)


def test_a_seed_that_ended_early_shortens_the_mean_and_not_the_figure() -> None:
    seeds: list[Curves] = [{"loss/a": [(1, 1.0), (2, 2.0), (3, 3.0)]}, {"loss/a": [(1, 3.0), (2, 4.0)]}]
    figure = curve_figure({"MT": seeds}, group="loss", ylabel="loss")
    assert figure is not None
    assert heights(figure.axes[0], "MT") == [2.0, 3.0]


def test_equal_figures_are_equal_files_whose_text_is_text(tmp_path: Path, make_grid: Callable[..., Grid]) -> None:
    for name in ("a.svg", "b.svg"):
        figure = ablation_figure(make_grid("table_7"))
        assert figure is not None
        save_figure(figure, tmp_path / name)
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    assert re.search(r"<text[^>]*>Measured on shapes</text>", text)


def test_a_method_of_ones_own_has_a_colour_that_no_other_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a label or without; the baseline's grey is the baseline's alone."""
    monkeypatch.setitem(METHOD_LABELS, "mine", "Mine")
    found = colours_of(["SupOnly", "U2PL (w/ CutMix)", "Mine", "another", "U2PL (w/ L_c)"])
    assert len(set(found.values())) == 5
    assert [name for name, colour in found.items() if colour == COLOURS[0]] == ["SupOnly"]
