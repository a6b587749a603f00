"""A network outside the project: its logits for one size or any, and a file that appears whole or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.files import written_whole
from pipeline.models.build import ModelConfig, build_network
from pipeline.trained.predict import load_trained
from pipeline.trained.program import Exported, examples, export, measured_size
from tests.trained.test_predict import folder as trained_folder

folder = trained_folder


def write_a_part(path: Path) -> None:
    path.write_text("a part")
    raise OSError("the disk is full")


def test_a_file_that_two_write_at_once_is_whole_and_a_failure_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "made" / "model.pt2"
    with written_whole(path) as first, written_whole(path) as second:
        first.write_text("first")
        second.write_text("second")
        assert first != second
        assert first.suffix == path.suffix
        assert not path.exists()
    assert path.read_text() == "first"
    with pytest.raises(OSError, match="full"), written_whole(path) as third:
        write_a_part(third)
    assert [(each.name, each.read_text()) for each in path.parent.iterdir()] == [("model.pt2", "first")]


def test_an_exported_program_gives_the_networks_logits_for_any_batch(folder: Path, tmp_path: Path) -> None:
    trained = load_trained(folder)
    path = export(trained, tmp_path / "exported", size=(40, 48))
    program = torch.export.load(path).module()
    model = Exported(load_trained(folder).network.float()).eval()
    for num in (1, 3):
        images = 255 * torch.rand(num, 3, 40, 48)
        with torch.no_grad():
            expected, found = model(images), program(images)
        assert found.shape == (num, 21, 40, 48)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    facts = json.loads((path.parent / "model.json").read_text())
    assert facts["largest_difference"] < 1e-4
    assert (facts["network"], facts["height"], facts["width"]) == ("teacher", 40, 48)


def test_a_network_without_finite_logits_is_not_exported(folder: Path, tmp_path: Path) -> None:
    trained = load_trained(folder)
    with torch.no_grad():
        next(trained.network.parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match="differ from the network's by up to nan"):
        export(trained, tmp_path / "exported", size=(40, 48))
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize("output_stride", [8, 16])
def test_a_program_of_any_size_takes_images_that_are_no_multiples_of_anything(
    folder: Path, tmp_path: Path, output_stride: int
) -> None:
    trained = load_trained(folder)
    values = trained.values | {"model": trained.values["model"] | {"output_stride": output_stride}}
    network = build_network(ModelConfig(**values["model"]), num_classes=21, representation=True).eval()
    trained = replace(trained, network=network, values=values)
    program = torch.export.load(export(trained, tmp_path, size=None)).module()
    least = output_stride + 1
    for size in ((least, 90), (130, least), (33, 51), (64, 64), (101, 67)):
        images = 255 * torch.rand(3, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(program(images), Exported(network)(images), rtol=0, atol=1e-4)
    facts = json.loads((tmp_path / "model.json").read_text())
    assert (facts["height"], facts["width"], facts["smallest_side"]) == (None, None, least)


def test_a_network_that_answers_by_the_size_is_not_exported_for_any(folder: Path, tmp_path: Path) -> None:
    """The size that such a program would be bound to is asked for."""
    trained = load_trained(folder)
    forward = trained.network.predict

    def predict(images: torch.Tensor) -> torch.Tensor:
        return forward(images.reshape(-1, 3, *examples(trained, None)[0].shape[-2:]))

    trained.network.predict = predict  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"of any size \(.*; give one size: --size 48 48"):
        export(trained, tmp_path / "exported", size=None)
    assert not (tmp_path / "exported").exists()


def test_the_size_of_a_program_is_that_of_the_cells_evaluation() -> None:
    assert measured_size({"evaluation": {"mode": "whole", "size": None}}) is None
    assert measured_size({"evaluation": {"mode": "centre", "size": 64}}) == (64, 64)
    assert measured_size({"evaluation": {"mode": "slide", "size": 769}}) == (769, 769)
