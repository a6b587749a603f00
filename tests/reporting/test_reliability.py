"""Figure 1, calibration, risk-coverage, and what changes class by class over a training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from pipeline.data import embedded_shapes, embedded_streets
from pipeline.reporting.classes import class_names
from pipeline.reporting.figures import Curves, curve_figure
from pipeline.reporting.heatmaps import balance_figure, class_grid, queue_figure
from pipeline.reporting.reliability import (
    calibration_figure,
    read_reliability,
    reliability_figure,
    risk_at,
    risk_coverage_figure,
)

NUM_CLASSES = 21
Record = dict[str, Any]


def counts(*, wrong: float = 0.5) -> Record:
    """Four entropy bins of 40, 30, 20 and 10 pixels, the first all right, the last wrong for a share `wrong`."""
    iou = [float(index) for index in range(NUM_CLASSES - 1)] + [None]
    summary = {"accuracy": 80.0, "miou": 40.0, "iou": iou}
    return {
        "num_images": 12,
        "num_pixels": 100,
        "threshold_nats": 0.5,
        "unreliable_share": 0.1,
        "all": summary,
        "reliable": summary | {"iou": [*(each + 5 for each in iou[:-1] if each is not None), None]},
        "class_share": [1 / NUM_CLASSES] * NUM_CLASSES,
        "class_unreliable_share": [index / 40 for index in range(NUM_CLASSES - 1)] + [None],
        "entropy_nats": [0.1, 0.2, 0.5, 3.0],
        "entropy_right": [40, 27, 15, 10 - round(10 * wrong)],
        "entropy_wrong": [0, 3, 5, round(10 * wrong)],
        "confidence_right": [0, 12, 80],
        "confidence_wrong": [0, 4, 4],
        "confidence_mean": [None, 0.6, 0.9],
        "ece": 5.4,
    }


def record(method: str = "suponly", **changes: Any) -> Record:
    sets = {"unlabelled": counts(), "val": counts(wrong=1.0)}
    known = {"method": method, "dataset": "voc_classic", "partition": "1-2", "seed": 0, "data": {"name": "shapes"}}
    return known | {"train_key": "nobody's", "sets": sets} | changes


def points(axes: Axes, name: str) -> tuple[list[float], list[float]]:
    [line] = [line for line in axes.get_lines() if line.get_label() == name]
    return tuple([float(value) for value in np.asarray(data)] for data in line.get_data())  # type: ignore[return-value]


def test_figure_1_has_each_class_that_occurs_by_its_iou_and_how_much_of_it_is_reliable() -> None:
    figure = reliability_figure(record())
    left, right = figure.axes
    names = [label.get_text() for label in left.get_yticklabels()]
    assert (
        names == class_names({"name": "shapes"}, NUM_CLASSES)[:-1]
    )  # IoU rises with the number; the last does not occur
    assert points(left, "all pixels")[0] == [float(index) for index in range(20)]
    assert points(left, "reliable pixels")[0] == [float(index + 5) for index in range(20)]
    reliable, unreliable = ([bar.get_width() for bar in bars] for bars in right.containers)
    assert reliable == pytest.approx([100 - 2.5 * index for index in range(20)])
    assert np.add(reliable, unreliable) == pytest.approx([100] * 20)


def test_calibration_leaves_out_bins_without_pixels_and_names_the_error_of_each_set() -> None:
    axes = calibration_figure([record()]).axes[0]
    confidence, accuracy = points(axes, "images of val")
    assert confidence == [60, 90]
    assert accuracy == pytest.approx([75, 100 * 80 / 84])
    assert axes.get_title(loc="left") == "SupOnly\nVOC classic 1/2\nerror: 5.4 on unlabelled, 5.4 on val"


def test_risk_is_that_of_the_pixels_kept_and_the_dot_is_where_alpha_0_cuts() -> None:
    coverage, risk = risk_at(counts())
    assert coverage.tolist() == [40, 70, 90, 100]
    assert risk == pytest.approx([0, 300 / 70, 800 / 90, 13])
    other = record("u2pl", sets={"val": counts()})
    unlabelled, val = risk_coverage_figure([record(), other]).axes
    assert (unlabelled.get_title(loc="left"), val.get_title(loc="left")) == (
        "images without labels in training",
        "images of val",
    )
    assert len(unlabelled.get_lines()) == 2  # one network's line and dot
    assert len(val.get_lines()) == 4
    x, y = (float(np.asarray(data)[0]) for data in unlabelled.get_lines()[1].get_data())
    assert (x, y) == pytest.approx((90, 800 / 90))


def test_records_are_read_once_a_network_and_a_torn_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "table_1.json").write_text(json.dumps([record(), record(seed=1), record("u2pl")]))
    assert [(each["method"], each["seed"]) for each in read_reliability(tmp_path)] == [("suponly", 0), ("u2pl", 0)]
    assert read_reliability(tmp_path / "nowhere") == []
    (tmp_path / "table_1.json").write_text("[{")
    with pytest.raises(ValueError, match=r"table_1\.json: torn .* `dvc repro -f reliability@table_1`"):
        read_reliability(tmp_path)


def test_what_no_row_of_today_has_trained_is_marked(few: Path, page_of: Callable[..., str]) -> None:
    rows = [row for path in sorted((few / "metrics").glob("*.json")) for row in json.loads(path.read_text())]
    (few / "reliability").mkdir()
    todays = record(sets={"val": counts()}, train_key=rows[0]["train_key"])
    (few / "reliability" / "table_1.json").write_text(json.dumps([todays, record("u2pl")]))
    text = page_of()
    assert "U2PL (w/ CutMix), VOC classic 1/2: measured under older code" in text
    assert "SupOnly, VOC classic 1/2: measured" not in text


def test_the_page_shows_reliability_with_its_captions(few: Path, page_of: Callable[..., str]) -> None:
    assert "reliability" not in page_of()
    (few / "reliability").mkdir()
    (few / "reliability" / "table_1.json").write_text(json.dumps([record(), record(sets={"val": counts()}, seed=1)]))
    text = page_of()
    for name in ("voc_classic_suponly_1_2", "calibration", "risk"):
        assert f'id="figure-reliability_{name}"' in text
    words = "on 12 images without labels in training of <code>shapes</code> data playing VOC classic"
    assert f"As the paper&#39;s Figure 1: SupOnly, VOC classic 1/2, {words}." in text
    assert "Unreliable are the 10.0 % of all pixels whose entropy is above 0.5 nats." in text


def test_where_only_val_was_measured_the_figure_says_so(few: Path, page_of: Callable[..., str]) -> None:
    (few / "reliability").mkdir()
    (few / "reliability" / "table_1.json").write_text(json.dumps([record(sets={"val": counts()})]))
    assert "SupOnly, VOC classic 1/2, on 12 val of" not in (text := page_of())
    assert "on 12 images of val of <code>shapes</code>" in text


def test_classes_are_called_as_the_data_draws_them() -> None:
    assert class_names({"name": "streets"}, 19) == list(embedded_streets.CLASSES)
    styles = [style["texture"] for style in embedded_shapes.TEXTURE_STYLES]
    shapes = class_names({"name": "shapes"}, embedded_shapes.NUM_CLASSES)
    assert [name.split()[-1] for name in shapes[1:]] == [
        each for each in styles for _ in range(embedded_shapes.NUM_HUES)
    ]
    assert class_names({"name": "photographs"}, 2) == ["class 0", "class 1"]
    assert class_names({"name": "own", "classes": ["sky", "tree"]}, 2) == ["sky", "tree"]
    assert len(set(class_names({"name": "voc"}, 21))) == 21
    assert len(set(class_names({"name": "cityscapes"}, 19))) == 19


def shares(values: dict[str, list[float]]) -> Curves:
    return {name: [(10 * (index + 1), value) for index, value in enumerate(each)] for name, each in values.items()}


def test_balance_is_in_doublings_of_the_true_share_and_absent_classes_are_blank() -> None:
    given = {"pseudo/class_0": [0.5, 0.25], "pseudo/class_1": [0.5, 0.75], "pseudo/class_2": [0.0, 0.0]}
    true = {"pseudo/true_0": [0.25, 0.25], "pseudo/true_1": [0.75, 0.75], "pseudo/true_2": [0.0, 0.0]}
    figure = balance_figure({"U2PL": [shares(given | true)]}, ["a", "b", "c"])
    assert figure is not None
    [mesh] = figure.axes[0].collections
    found = np.ma.filled(mesh.get_array(), np.nan).reshape(3, 2)
    assert found[0].tolist() == [1, 0]
    assert found[1] == pytest.approx([np.log2(2 / 3), 0])
    assert np.isnan(found[2]).all()
    assert balance_figure({"U2PL": [shares(given)]}, ["a", "b", "c"]) is None


def test_queues_are_shown_for_methods_that_have_them_as_the_mean_of_seeds() -> None:
    seeds = [shares({"queue/class_0": [0.0, first], "queue/class_1": [0.5, 1.0]}) for first in (0.5, 1.0)]
    assert class_grid(seeds, "queue/class_") == pytest.approx(np.array([[0, 0.75], [0.5, 1]]))
    figure = queue_figure({"SupOnly": [shares({"loss/a": [1.0]})], "U2PL": seeds}, ["a", "b"])
    assert figure is not None
    assert [axes.get_title(loc="left") for axes in figure.axes[:1]] == ["U2PL"]
    assert queue_figure({"SupOnly": [shares({"loss/a": [1.0]})]}, ["a", "b"]) is None


def test_metrics_of_each_class_have_no_panel_of_their_own() -> None:
    run = shares({"pseudo/accuracy": [0.5, 0.9], "pseudo/class_0": [1, 1], "pseudo/true_0": [1, 1]})
    figure = curve_figure({"U2PL": [run]}, group="pseudo", ylabel="share")
    assert figure is not None
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["accuracy"]
    assert curve_figure({"U2PL": [shares({"queue/class_0": [1.0]})]}, group="queue", ylabel="") is None


def test_the_page_shows_pseudo_labels_and_classes_over_time(few: Path, page_of: Callable[..., str]) -> None:
    names = ["pseudo/accuracy", "pseudo/accuracy_reliable", "pseudo/confidence", "method/reliable_share"]
    names += [
        f"{kind}_{index}" for kind in ("pseudo/class", "pseudo/true", "queue/class") for index in range(NUM_CLASSES)
    ]
    run = shares({name: [0.1, 0.2, 0.3] for name in names})
    text = page_of(curves=lambda train_key: run)
    for name in ("pseudo", "method", "balance", "queue"):
        assert f'id="figure-curves_{name}"' in text
    assert "photograph" in text
    assert "no curve here" not in text
