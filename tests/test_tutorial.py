"""The README's tutorial, word for word, on images that are drawn: forty of them, masks for ten."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.data.embedded_shapes import NUM_HUES, scene
from pipeline.data.images import IGNORED, read_mask, write_mask
from tests.smoke import PROJECT, copy_project

TITLE = "## Your own images, ten masks, a trained model, its report\n"
NUM_CLASSES = 6
NUM_IMAGES, NUM_MASKS = 40, 10
CHAPTER = (PROJECT / "README.md").read_text().split(TITLE)[1].split("\n## ")[0]
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", CHAPTER, re.DOTALL) for line in block.splitlines()]


def draw(photos: Path) -> None:
    """Fill a folder as a user would: images of two formats, masks of the first ten."""
    for index in range(NUM_IMAGES):
        image, mask = scene(np.random.default_rng(index), coarse=False)
        shapes = np.where(mask == 0, 0, 1 + (mask.astype(int) - 1) // NUM_HUES)  # a class for each texture
        name = f"{index:02}.{'png' if index % 2 else 'jpg'}"
        Image.fromarray(image).save(photos / "images" / name)
        if index < NUM_MASKS:
            ids = np.where(mask == IGNORED, IGNORED, shapes).astype(np.uint8)
            write_mask(photos / "masks" / f"{index:02}.png", ids)


@pytest.mark.slow
def test_every_command_of_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    folder = copy_project(tmp_path / "project")
    shutil.rmtree(folder / "own", ignore_errors=True)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "CLUSTER": "local"}
    environment |= {f"GIT_{who}_{what}": "t@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    assert len(COMMANDS) == 5
    for command in COMMANDS:
        result = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, command + result.stdout[-3000:] + result.stderr[-3000:]
        if command.startswith("mkdir"):
            draw(folder / "own" / "photos")
    lists = folder / "data" / "own" / "partitions" / "folder"
    sizes = [
        len((lists / name).read_text().split()) for name in ("val.txt", "full/labelled.txt", "full/unlabelled.txt")
    ]
    assert sizes == [3, 7, 30]
    rows = json.loads((folder / "reports" / "own" / "metrics" / "table_own.json").read_text())
    assert [row["method"] for row in rows] == ["suponly", "cutmix", "u2pl"]
    page = (folder / "reports" / "own" / "index.html").read_text()
    assert "Table Own" in page
    assert 'id="figure-table_own_classes"' in page
    assert "images kept for validation" in page
    assert 'id="figure-table_own_predictions"' in page
    assert "what each method predicts" in page
    for row in rows:
        paddings = row["metrics"][list(row["metrics"])[-1]]["best"]["padding_ignored"]
        assert f"{paddings['miou']:.2f}" in page
    masks = sorted((folder / "own" / "predicted" / "masks").iterdir())
    assert len(masks) == NUM_IMAGES
    assert all(read_mask(path, NUM_CLASSES).shape == (64, 64) for path in masks)
    card = (folder / "own" / "exported" / "README.md").read_text()
    u2pl = rows[-1]["metrics"]["teacher"]["best"]["padding_ignored"]["miou"]
    assert f"mIoU **{u2pl:.2f} %**" in card
    assert "ask who has them" in card
    with torch.no_grad():
        program = torch.export.load(folder / "own" / "exported" / "model.pt2").module()
        for height, width in ((64, 64), (50, 77)):
            assert program(torch.zeros(1, 3, height, width)).shape == (1, NUM_CLASSES, height, width)
