"""The model card: what it says is what the cell and the store say, and the code in it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.commands.export import export_as, find_figures
from pipeline.store import Store
from pipeline.trained.card import write_card
from pipeline.trained.predict import Trained, load_trained
from tests.pipeline.test_export import run_code_of
from tests.trained.test_predict import folder as trained_folder

folder = trained_folder
SIZE = (40, 48)


def adopted(store: Store, folder: Path) -> None:
    """Put an `evaluate` cell of the folder's network into the store, and one of another network."""
    key = json.loads((folder / "cell.json").read_text())["key"]
    figures = {"miou": 61.25, "iou": [90.0, 32.5, None]}
    for name, upstream, miou in (("mine", key, 61.25), ("other", "another", 1.5)):
        paddings = {"padding_ignored": figures | {"miou": miou}, "padding_background": {"miou": 2.5, "iou": []}}
        metrics = {"student": {}, "teacher": {"best": paddings, "last": {}}}
        cell = {"key": name, "kind": "evaluate", "values": {}, "upstream": [upstream]}
        assert store.adopt(cell, {"state": "done", "metrics": metrics}, files={})


def card_of(trained: Trained, out: Path, *, figures: Any = None, **data: Any) -> str:
    values = trained.values | {"data": trained.values["data"] | data}
    changed = Trained(trained.network, values, trained.name, trained.epoch)
    return write_card(changed, out, form="program", size=SIZE, facts={}, figures=figures).read_text()


def test_a_card_lies_beside_the_program_with_the_figures_of_its_own_evaluation(folder: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "cells")
    adopted(store, folder)
    out = tmp_path / "out"
    places = export_as("program", folder, out=out, choice=("best", "deployed"), size=SIZE, store=store)
    assert places == [str(out / "model.pt2"), str(out / "README.md")]
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "model.json", "model.pt2"]
    text = (out / "README.md").read_text()
    assert text.startswith("# U2PL (w/ CutMix), `shapes` data playing VOC blender, partition 1/4, seed 0\n")
    assert "mIoU **61.25 %**" in text
    assert "| class 1 | 32.50 |" in text
    assert "| class 2 | `null` |" in text
    values = json.loads((folder / "cell.json").read_text())["values"]
    for section in ("model", "training", "parameters", "evaluation"):
        assert all(f"| {section}.{key} |" in text for key in values[section])


def test_its_code_gives_the_networks_classes(folder: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "cells")
    out = tmp_path / "out"
    export_as("program", folder, out=out, choice=("best", "deployed"), size=SIZE, store=store)
    classes = run_code_of(out / "README.md")
    image = Image.open(out / "image.jpg").convert("RGB").resize(SIZE[::-1])
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        logits = torch.export.load(out / "model.pt2").module()(pixels)
    assert np.array_equal(classes, logits.argmax(1).numpy())


def test_figures_are_those_of_the_network_and_the_epoch(folder: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "cells")
    key = json.loads((folder / "cell.json").read_text())["key"]
    assert find_figures(store, key, trained=load_trained(folder)) is None
    adopted(store, folder)
    assert find_figures(store, key, trained=load_trained(folder)) == {"miou": 61.25, "iou": [90.0, 32.5, None]}
    assert find_figures(store, key, trained=load_trained(folder, epoch="last")) is None
    assert find_figures(store, key, trained=load_trained(folder, network="student")) is None


def test_it_says_what_is_not_known(folder: Path, tmp_path: Path) -> None:
    text = card_of(load_trained(folder), tmp_path)
    assert "It was not evaluated" in text
    assert "somewhat optimistic" not in text
    figures = {"miou": 50.0, "iou": [50.0]}
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
