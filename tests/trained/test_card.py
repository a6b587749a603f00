"""The model card: what it says is what the cell and the store say, and the code in it runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.commands.export import export_as, find_figures
from pipeline.data.images import read_mask, write_mask
from pipeline.data.layout import Pair
from pipeline.data.open import open_validation
from pipeline.data.samples import Samples
from pipeline.store import Store
from pipeline.trained.card import write_card
from pipeline.trained.predict import Trained, load_trained, predict_validation
from pipeline.trained.program import measured_size
from tests.pipeline.test_export import run_code_of
from tests.trained.test_predict import folder as trained_folder

folder = trained_folder
SIZE = (40, 48)
IOU = [90.0, 32.5, None, *[50.0] * 18]


def adopted(store: Store, folder: Path) -> None:
    """Put an `evaluate` cell of the folder's network into the store, and one of another network."""
    key = json.loads((folder / "cell.json").read_text())["key"]
    figures = {"miou": 61.25, "iou": IOU}
    for name, upstream, miou in (("mine", key, 61.25), ("other", "another", 1.5)):
        paddings = {"padding_ignored": figures | {"miou": miou}, "padding_background": {"miou": 2.5, "iou": []}}
        metrics = {"student": {}, "teacher": {"best": paddings, "last": {}}}
        cell = {"key": name, "kind": "evaluate", "values": {}, "upstream": [upstream]}
        assert store.adopt(cell, {"state": "done", "metrics": metrics}, files={})


def card_of(trained: Trained, out: Path, *, figures: Any = None, **data: Any) -> str:
    values = trained.values | {"data": trained.values["data"] | data}
    changed = replace(trained, values=values)
    return write_card(changed, out, form="program", size=SIZE, facts={}, figures=figures).read_text()


def test_a_card_lies_beside_the_program_with_the_figures_of_its_own_evaluation(folder: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "cells")
    adopted(store, folder)
    out = tmp_path / "out"
    places = export_as("program", load_trained(folder), out=out, size=SIZE, store=store)
    assert places == [str(out / "model.pt2"), str(out / "README.md")]
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "model.json", "model.pt2"]
    text = (out / "README.md").read_text()
    assert text.startswith("# U2PL (w/ CutMix), `shapes` data playing VOC blender, partition 1/4, seed 0\n")
    assert "mIoU **61.25 %**" in text
    assert "| 0 | photograph | 90.00 |" in text
    assert "| 1 | red plain | 32.50 |" in text
    assert "| 2 | green plain | does not occur |" in text
    values = json.loads((folder / "cell.json").read_text())["values"]
    for section in ("model", "training", "parameters", "evaluation"):
        assert all(f"| {section}.{key} |" in text for key in values[section])


@pytest.mark.parametrize(("mode", "size"), [("whole", None), ("centre", 64), ("centre", 48)])
def test_its_code_gives_the_classes_that_its_figures_are_of(
    folder: Path, tmp_path: Path, data_root: Path, mode: str, size: int | None
) -> None:
    """The centre of a larger image, and a smaller one padded with the mean colour."""
    trained = load_trained(folder)
    block = trained.values["evaluation"] | {"mode": mode, "size": size, "precision": "float32"}
    trained = replace(trained, values=trained.values | {"evaluation": block})
    samples = open_validation(trained.values, data_root)
    image = tmp_path / "image.png"
    Image.fromarray(samples[0][0][:50, :60]).save(image)
    write_mask(tmp_path / "mask.png", np.zeros((50, 60), dtype=np.uint8))
    one = Samples([Pair("image", image, tmp_path / "mask.png")], num_classes=21)
    list(predict_validation(trained, one, out=tmp_path / "val"))
    expected = read_mask(tmp_path / "val" / "image.png", 21)
    out, taken = tmp_path / "out", measured_size(trained.values)
    export_as("program", trained, out=out, size=taken, store=Store(tmp_path / "cells"))
    assert "as this code gives them to the network" in (out / "README.md").read_text()
    classes = run_code_of(out / "README.md", image)[0]
    if size:
        expected = expected[max(0, 50 - size) // 2 :, max(0, 60 - size) // 2 :][:size, :size]
        classes = classes[max(0, size - 50) // 2 :, max(0, size - 60) // 2 :][:50, :60]
    assert (classes == expected).mean() > 0.999  # ties in float32 may fall either way


@pytest.mark.parametrize(
    ("changes", "size", "words"),
    [
        ({"mode": "whole", "size": None}, SIZE, "this code takes the centre 40 x 48 pixels of each image, so"),
        ({"mode": "centre", "size": 64}, None, "this code takes whole images at their own size, so"),
        ({"mode": "slide", "size": 32}, (32, 32), "by windows of 32 pixels, whose logits are averaged where they"),
        ({"precision": "bfloat16"}, SIZE, "They were measured in bfloat16, and what is exported computes in float32"),
    ],
)
def test_it_says_what_differs_from_how_the_figures_were_measured(
    folder: Path, tmp_path: Path, changes: dict[str, Any], size: tuple[int, int] | None, words: str
) -> None:
    trained = load_trained(folder)
    values = trained.values | {"evaluation": trained.values["evaluation"] | changes}
    card = write_card(replace(trained, values=values), tmp_path, form="program", size=size, facts={}, figures=None)
    assert words in card.read_text()
    assert ("so its own may differ" in card.read_text()) == ("precision" not in changes or size != (64, 64))


def test_figures_are_those_of_the_network_and_the_epoch(folder: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "cells")
    assert find_figures(store, load_trained(folder)) is None
    adopted(store, folder)
    assert find_figures(store, load_trained(folder)) == {"miou": 61.25, "iou": IOU}
    assert find_figures(store, load_trained(folder, epoch="last")) is None
    assert find_figures(store, load_trained(folder, network="student")) is None


def test_it_says_what_is_not_known(folder: Path, tmp_path: Path) -> None:
    text = card_of(load_trained(folder), tmp_path)
    assert "It was not evaluated" in text
    assert "somewhat optimistic" not in text
    figures = {"miou": 50.0, "iou": IOU}
    assert "somewhat optimistic" in card_of(load_trained(folder), tmp_path, figures=figures)
    assert "somewhat optimistic" not in card_of(load_trained(folder, epoch="last"), tmp_path, figures=figures)


@pytest.mark.parametrize(
    ("name", "words"),
    [("shapes", "On photographs it is of no use"), ("cityscapes", "not to be passed on"), ("own", "ask who has them")],
)
def test_it_names_the_terms_of_the_data(folder: Path, tmp_path: Path, name: str, words: str) -> None:
    text = card_of(load_trained(folder), tmp_path, name=name)
    assert words in text
    assert ("is of no use" in text) == (name == "shapes")
