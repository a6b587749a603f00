"""Figures that need networks: what is chosen, what is boxed, which pixels count, and which cells they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.cell import chain
from pipeline.data.images import IGNORED
from pipeline.files import write_json
from pipeline.models.build import ModelConfig, build_network
from pipeline.params import resolve_table
from pipeline.reporting.classes import class_names
from pipeline.store import Store
from pipeline.trained.gallery import write_gallery, write_table_picture
from pipeline.trained.pictures import (
    NUM_LISTED,
    POINTS_PER_CLASS,
    Scene,
    accuracy,
    difference_boxes,
    entropy_figure,
    listed_scenes,
    median_pixel,
    pixel_features,
    prediction_figure,
    ranked_scenes,
)
from pipeline.trained.predict import Trained, load_trained
from tests.params import project_params

PROJECT = Path(__file__).parents[2]
SIZE = 32
CLASSES = class_names({"name": "shapes"}, 21)


class Images:
    """Noise with masks of two classes and an ignored border, as `Samples` gives them."""

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.default_rng(index)
        mask = np.repeat([[0, 3]], SIZE, axis=0).repeat(SIZE // 2, axis=1).astype(np.uint8)
        mask[0] = IGNORED
        return generator.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8), mask


def smoke_rows(table: str) -> list[dict[str, Any]]:
    return resolve_table(project_params(), table)


@pytest.fixture(scope="module")
def networks() -> dict[str, Trained]:
    (row,) = smoke_rows("experiment")
    made = {}
    for seed, name in enumerate(("SupOnly", "U2PL")):
        torch.manual_seed(seed)
        network = build_network(ModelConfig(**row["model"]), num_classes=21).eval()
        made[name] = Trained(network, chain(row)[-2].values, "student", "best", "key")
    return made


def test_boxes_hold_the_largest_regions_of_difference_and_no_ignored_pixel() -> None:
    mask, first = np.zeros((10, 10), dtype=np.uint8), np.zeros((10, 10), dtype=np.uint8)
    last = first.copy()
    last[1:4, 2:6] = 1  # 12 pixels
    last[6:8, 6:8] = 2  # 4
    last[9, 0] = 3  # 1
    mask[9, 5:] = IGNORED
    last[9, 5:] = 4  # ignored
    assert difference_boxes(Scene(np.zeros((10, 10, 3)), mask, (first, first, last))) == [(1, 2, 3, 4), (6, 6, 2, 2)]
    assert difference_boxes(Scene(np.zeros((10, 10, 3)), mask, (first, first))) == []


def test_accuracy_is_over_labelled_pixels() -> None:
    scene = Scene(
        np.zeros((1, 4, 3)), np.array([[0, 1, 1, IGNORED]]), (np.array([[0, 1, 2, 2]]), np.array([[0, 1, 1, 1]]))
    )
    assert (accuracy(scene, 0), accuracy(scene, -1)) == (pytest.approx(2 / 3), 1.0)


def test_a_predictions_figure_has_a_panel_for_image_label_and_each_network(networks: dict[str, Trained]) -> None:
    samples: Any = Images()
    figure = prediction_figure(list(networks), ranked_scenes(list(networks.values()), samples))
    assert [axes.get_title(loc="center") for axes in figure.axes[:4]] == ["image", "label", "SupOnly", "U2PL"]
    assert len(figure.axes) == 16
    assert all(len(axes.get_images()) == 1 for axes in figure.axes)


def test_the_pixel_shown_is_the_median_of_its_part() -> None:
    uncertainty = np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 10.0]])
    assert median_pixel(uncertainty, uncertainty < 2.5) == (0, 1)
    assert median_pixel(uncertainty, uncertainty > 2.5) == (1, 1)


def test_pseudo_labels_are_shown_for_the_reliable_share_alone(networks: dict[str, Trained]) -> None:
    figure = entropy_figure(networks["U2PL"], Images()[0][0], share=0.25, classes=CLASSES)
    panels = {axes.get_title(loc="center"): axes for axes in figure.axes}
    labels = np.asarray(panels["reliable pseudo-labels"].get_images()[0].get_array())
    assert (labels == 255).all(axis=-1).mean() == pytest.approx(0.25, abs=0.01)
    bars = [axes for axes in figure.axes if axes.patches]
    assert [sum(bar.get_height() for bar in axes.patches) for axes in bars] == pytest.approx([1, 1], abs=1e-5)


def test_features_are_of_labelled_pixels_and_as_many_of_each_class(networks: dict[str, Trained]) -> None:
    samples: Any = Images()
    features, classes = pixel_features(networks["U2PL"], samples)
    assert sorted(set(classes.tolist())) == [0, 3]
    assert np.bincount(classes)[[0, 3]].tolist() == [POINTS_PER_CLASS] * 2
    assert features.shape == (2 * POINTS_PER_CLASS, networks["U2PL"].network.fused_channels)
    again, _ = pixel_features(networks["U2PL"], samples)
    assert np.array_equal(features, again)


def test_figures_are_drawn_from_the_cells_that_are_there_and_the_others_are_named(
    tmp_path: Path, data_root: Path
) -> None:
    """U2PL alone is trained: Figure 2 can be drawn; 4, A1 and A2 lack SupOnly."""
    store, reports = Store(tmp_path / "cells"), tmp_path / "reports" / "smoke"
    row = next(row for row in smoke_rows("table_2") if (row["method"], row["partition"]) == ("u2pl", "1-4"))
    train = chain(row)[-2]
    network = build_network(ModelConfig(**row["model"]), num_classes=21, representation=True)
    states = {name: network.state_dict() for name in ("student", "teacher")}
    torch.save({"best": states, "last": states}, tmp_path / "weights.pt")
    assert store.adopt(train.to_json(), {"state": "done"}, files={"weights.pt": tmp_path / "weights.pt"})
    measured = {"state": "done", "metrics": {"teacher": {}}, "train_s": 1.0, "provenance": {}, "key": "k"}
    measured |= {"best_epoch": row["training"]["epochs"]}
    write_json(reports / "metrics" / "table_2.json", [row | measured | {"train_key": train.key}])
    lines = list(write_gallery(reports, store=store, data_root=data_root))
    assert lines[0] == (
        "figure_4: not drawn, since no trained cell is at hand for SupOnly, contrast without entropy filter at 1-4"
    )
    assert lines[-1] == f"figure_2: drawn from U2PL {train.key[:8]}"
    assert sorted(path.name for path in (reports / "pictures").iterdir()) == ["figure_2.png", "figure_2.txt"]
    caption, epochs = (reports / "pictures" / "figure_2.txt").read_text(), row["training"]["epochs"]
    assert "`shapes` data playing VOC blender, 1/4 (2646)" in caption
    assert f"in epoch {epochs} of {epochs}" in caption
    assert f"α_t had come down to {100 * row['parameters']['alpha0'] / epochs:.2g} %" in caption
    assert load_trained(store.done(train.key)).name == "teacher"


def adopt_untrained(store: Store, reports: Path, tables: dict[str, list[dict[str, Any]]]) -> None:
    """Publish untrained networks as the train cells of rows, and write the rows as measured."""
    for table, rows in tables.items():
        measured = []
        for seed, row in enumerate(rows):
            torch.manual_seed(seed)
            train, config = chain(row)[-2], ModelConfig(**row["model"])
            classes, representation = row["data"]["num_classes"], row["representation"]
            state = build_network(config, num_classes=classes, representation=representation).state_dict()
            for name, values in state.items():
                if values.shape == (classes,) and name.endswith("bias"):
                    values[seed] += 100  # each sees a class of its own, so that there is something to box
            path = store.root.parent / f"{table}-{seed}.pt"  # the store links it: a shared cell keeps its first
            torch.save({"best": {"student": state}, "last": {"student": state}}, path)
            store.adopt(train.to_json(), {"state": "done"}, files={"weights.pt": path})
            facts = {"state": "done", "metrics": {"student": {}}, "train_s": 1.0, "provenance": {}, "key": "k"}
            measured.append(row | facts | {"train_key": train.key, "best_epoch": 1})
        write_json(reports / "metrics" / f"{table}.json", measured)


def test_the_papers_figures_are_drawn_from_cells_of_their_tables(
    tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, reports = Store(tmp_path / "cells"), tmp_path / "reports" / "smoke"
    wanted = {"table_2": "1-4", "table_3": "1-2", "table_4": "1-4", "table_a2": "1-2"}
    tables = {
        table: [row for row in smoke_rows(table) if row["partition"] == part and row["method"] in ("suponly", "u2pl")]
        for table, part in wanted.items()
    }
    adopt_untrained(store, reports, tables)
    figures = {}
    monkeypatch.setattr("pipeline.trained.pictures.POINTS_PER_CLASS", 6)  # t-SNE takes its time
    monkeypatch.setattr("pipeline.trained.gallery.save_figure", lambda drawn, path: figures.update({path.stem: drawn}))
    lines = list(write_gallery(reports, store=store, data_root=data_root))
    assert [line.split(" from ")[0] for line in lines] == [
        f"{name}: drawn" for name in ("figure_4", "figure_a1", "figure_a2", "figure_2")
    ]
    for line, places in ((lines[0], ("table_2", "table_4")), (lines[1], ("table_3", "table_a2"))):
        plain, all_negatives = (tables[table] for table in places)
        without = next(row for row in all_negatives if row["parameters"]["negatives"] == "all")
        for row in (*plain, without):
            assert chain(row)[-2].key[:8] in line
    for name in ("figure_4", "figure_a1"):
        top = [axes.get_title(loc="center") for axes in figures[name].axes[:5]]
        assert top == ["image", "label", "SupOnly", "contrast without\nentropy filter", "U2PL"]
        boxes = [len(axes.patches) for axes in figures[name].axes]
        assert 1 <= max(boxes) <= 2
        rows = [boxes[start : start + 5] for start in range(0, len(boxes), 5)]
        assert all(len(set(row)) == 1 for row in rows)  # the same boxes in every picture of an image
        assert "differ most" in (reports / "pictures" / f"{name}.txt").read_text()
    features = figures["figure_a2"]
    assert [axes.get_title(loc="center") for axes in features.axes] == ["SupOnly", "U2PL"]
    points = [np.asarray(axes.collections[0].get_offsets()) for axes in features.axes]
    assert points[0].shape == points[1].shape
    assert np.isfinite(points[0]).all()
    [legend] = features.legends
    named = [text.get_text() for text in legend.get_texts()]
    colours = [handle.get_color() for handle in legend.legend_handles]
    assert named == [name for name in CLASSES if name in named]
    drawn = {tuple(colour[:3]) for colour in features.axes[0].collections[0].get_facecolors()}
    assert drawn == {tuple(colour) for colour in colours}


def test_a_tables_picture_shows_validation_images_under_each_of_its_methods(
    tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last partition, the first seed; what is not trained is left out."""
    store, reports = Store(tmp_path / "cells"), tmp_path / "reports" / "smoke"
    rows = [row for row in smoke_rows("table_2") if row["method"] in ("suponly", "u2pl") and row["partition"] != "1-2"]
    adopt_untrained(store, reports, {"table_2": [row for row in rows if row["partition"] in ("1-8", "1-4")]})
    figures = {}
    monkeypatch.setattr("pipeline.trained.gallery.save_figure", lambda drawn, path: figures.update({path.stem: drawn}))
    (line,) = write_table_picture(reports, "table_2", store=store, data_root=data_root)
    assert line.startswith("table_2: predictions drawn of SupOnly ")
    figure = figures["table_2_predictions"]
    assert [axes.get_title(loc="center") for axes in figure.axes[:4]] == [
        "image",
        "label",
        "SupOnly",
        "U2PL (w/ CutMix)",
    ]
    val = (data_root / "partitions" / "voc_blender" / "val.txt").read_text().split()
    assert len(figure.axes) == 4 * min(NUM_LISTED, len(val))
    seen = [np.asarray(axes.get_images()[0].get_array()) for axes in figure.axes[:4]]
    assert (seen[2] != seen[3]).any()
    caption = (reports / "pictures" / "table_2_predictions.txt").read_text()
    assert "1/4 (2646), seed 0. Boxes: where SupOnly and U2PL (w/ CutMix) differ most." in caption
    (line,) = write_table_picture(reports, "table_2", store=Store(tmp_path / "empty"), data_root=data_root)
    assert line == "table_2: no predictions drawn, since no trained cell of it is at hand"


def test_a_large_photograph_is_drawn_small(networks: dict[str, Trained]) -> None:
    class Large(Images):
        def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            return np.zeros((40, 1100, 3), dtype=np.uint8), np.zeros((40, 1100), dtype=np.uint8)

    samples: Any = Large()
    scenes = listed_scenes([networks["U2PL"]], samples)
    assert len(scenes) == NUM_LISTED
    assert {(scene.image.shape, scene.mask.shape, scene.seen[0].shape) for scene in scenes} == {
        ((14, 367, 3), (14, 367), (14, 367))
    }
