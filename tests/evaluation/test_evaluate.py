from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.images import read_mask, write_mask
from pipeline.data.layout import Pair
from pipeline.data.samples import Samples
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.predict import Evaluation
from pipeline.trained.predict import Trained, predict_validation

CLASSES = 4
SIZES = [(20, 30), (30, 20), (20, 30), (40, 40), (20, 30), (26, 30), (30, 20)]
EVALUATIONS = [
    Evaluation(mode="whole", size=None),
    Evaluation(mode="centre", size=28),
    Evaluation(mode="slide", size=16),
]


class Network(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, CLASSES, 5, stride=4, padding=2)
        self.norm = nn.BatchNorm2d(CLASSES, affine=False)
        self.drop = nn.Dropout(0.5)

    def predict(self, images: Tensor) -> Tensor:
        return self.drop(self.norm(self.conv(images)))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    root, random = tmp_path_factory.mktemp("val"), np.random.default_rng(0)
    pairs = []
    for number, size in enumerate(SIZES):
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(root / f"{number}.png")
        ids = random.integers(0, CLASSES, size, dtype=np.uint8)
        ids[random.random(size) < 0.1] = 255
        write_mask(root / f"{number}_mask.png", ids)
        pairs.append(Pair(f"town/{number}.png", root / f"{number}.png", root / f"{number}_mask.png"))
    return Samples(pairs, num_classes=CLASSES)


def naive_centre(network: nn.Module, samples: Samples, crop: int, pad_label: int) -> float:
    """mIoU in percent of centre crops with padding, by pixel counts per class."""
    network.eval()
    intersection, union = np.zeros(CLASSES), np.zeros(CLASSES)
    for index in range(len(samples)):
        image, mask = samples[index]
        assert mask is not None
        canvas, label = np.zeros((crop, crop, 3)), np.full((crop, crop), pad_label)
        for row in range(crop):
            for column in range(crop):
                y = row - (crop - mask.shape[0]) // 2 if mask.shape[0] < crop else row + (mask.shape[0] - crop) // 2
                x = (
                    column - (crop - mask.shape[1]) // 2
                    if mask.shape[1] < crop
                    else column + (mask.shape[1] - crop) // 2
                )
                if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1]:
                    colour = (image[y, x] - np.array([123.675, 116.28, 103.53])) / np.array([58.395, 57.12, 57.375])
                    canvas[row, column], label[row, column] = colour, mask[y, x]
        with torch.no_grad():
            logits = network.predict(torch.from_numpy(canvas).float().permute(2, 0, 1)[None])
        resized = functional.interpolate(logits, (crop, crop), mode="bilinear", align_corners=True)
        prediction = resized[0].argmax(0).numpy()
        for kind in range(CLASSES):
            labelled, predicted = (label == kind), (prediction == kind) & (label != 255)
            intersection[kind] += (labelled & predicted).sum()
            union[kind] += (labelled | predicted).sum()
    return 100 * float(np.mean(intersection / (union + 1e-10)))


def test_centre_crops_count_padding_both_ways_in_one_pass(samples: Samples) -> None:
    network = Network()
    got = evaluate({"student": network}, samples, evaluation=EVALUATIONS[1], device="cpu", batch_images=3)["student"]
    assert got["padding_ignored"]["miou"] == pytest.approx(naive_centre(network, samples, 28, 255))
    assert got["padding_background"]["miou"] == pytest.approx(naive_centre(network, samples, 28, 0))
    assert got["padding_ignored"] != got["padding_background"]


@pytest.mark.parametrize("evaluation", [EVALUATIONS[0], EVALUATIONS[2]])
def test_modes_without_padding_give_one_figure(samples: Samples, evaluation: Evaluation) -> None:
    got = evaluate({"student": Network()}, samples, evaluation=evaluation, device="cpu", batch_images=4)["student"]
    assert got["padding_ignored"] == got["padding_background"]
    assert isinstance(got["padding_ignored"]["iou"], list)
    assert len(got["padding_ignored"]["iou"]) == CLASSES


@pytest.mark.parametrize("evaluation", EVALUATIONS)
def test_figures_do_not_depend_on_the_batch_size(samples: Samples, evaluation: Evaluation) -> None:
    figures = [
        evaluate({"a": Network()}, samples, evaluation=evaluation, device="cpu", batch_images=size)
        for size in (1, 2, 5, 64)
    ]
    assert figures[1:] == figures[:1] * 3


def test_several_networks_are_measured_as_if_alone_and_keep_their_mode(samples: Samples) -> None:
    networks = {"student": Network(0), "teacher": Network(1)}
    networks["teacher"].eval()
    networks["student"].norm.eval()
    together = evaluate(networks, samples, evaluation=EVALUATIONS[0], device="cpu", batch_images=4)
    assert networks["student"].training
    assert networks["student"].drop.training
    assert not networks["student"].norm.training
    assert not networks["teacher"].training
    for name, network in networks.items():
        alone = evaluate({name: network}, samples, evaluation=EVALUATIONS[0], device="cpu", batch_images=4)
        assert alone[name] == together[name]
    assert together["student"] != together["teacher"]


def test_evaluation_changes_no_statistic_of_the_network(samples: Samples) -> None:
    network = Network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    evaluate({"a": network}, samples, evaluation=EVALUATIONS[0], device="cpu", batch_images=4)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("evaluation", EVALUATIONS)
def test_ranks_share_the_images_and_sum_to_the_same_figures(
    samples: Samples, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stand-ins for the process group: each rank counts its share, the sum of both is what one rank counts."""
    whole = counted(samples, evaluation, monkeypatch, rank=0, ranks=1)
    shares = [counted(samples, evaluation, monkeypatch, rank=rank, ranks=2) for rank in range(2)]
    assert torch.equal(shares[0] + shares[1], whole)
    assert shares[0].sum() > 0
    assert shares[1].sum() > 0


def counted(
    samples: Samples, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch, *, rank: int, ranks: int
) -> Tensor:
    reduced: list[Tensor] = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: ranks)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda counts: reduced.append(counts.clone()))
    evaluate({"a": Network()}, samples, evaluation=evaluation, device="cpu", batch_images=3)
    return torch.stack(reduced)


def test_a_validation_image_without_mask_is_named(samples: Samples) -> None:
    bare = Samples([Pair("a", samples.pairs[0].image, None)], num_classes=CLASSES)
    with pytest.raises(ValueError, match=r"validation image .*0\.png has no mask"):
        evaluate({"a": Network()}, bare, evaluation=EVALUATIONS[0], device="cpu", batch_images=1)


def write(network: Any, samples: Samples, *, folder: Path, evaluation: Evaluation) -> None:
    block = {"mode": evaluation.mode, "size": evaluation.size, "precision": "float32"}
    trained = Trained(network.eval(), {"evaluation": block}, "student", "best", "key")
    assert len(list(predict_validation(trained, samples, out=folder))) == len(samples)


@pytest.mark.parametrize("evaluation", EVALUATIONS)
def test_predictions_are_written_as_palette_files_of_the_images_size(
    samples: Samples, evaluation: Evaluation, tmp_path: Path
) -> None:
    write(Network(), samples, folder=tmp_path, evaluation=evaluation)
    for pair, (height, width) in zip(samples.pairs, SIZES, strict=True):
        path = (tmp_path / pair.id).with_suffix(".png")
        with Image.open(path) as file:
            assert file.mode == "P"
        ids = read_mask(path, CLASSES)
        assert ids.shape == (height, width)
        crop = 28 if evaluation.mode == "centre" else 99
        assert (ids == 255).sum() == height * width - min(height, crop) * min(width, crop)


def test_written_predictions_score_what_evaluation_says(samples: Samples, tmp_path: Path) -> None:
    network = Network()
    write(network, samples, folder=tmp_path, evaluation=EVALUATIONS[2])
    right = labelled = 0
    for index, pair in enumerate(samples.pairs):
        _, mask = samples[index]
        prediction = read_mask((tmp_path / pair.id).with_suffix(".png"), CLASSES)
        right += int(((prediction == mask) & (mask == 2)).sum())
        labelled += int((((prediction == 2) | (mask == 2)) & (mask != 255)).sum())
    got = evaluate({"a": network}, samples, evaluation=EVALUATIONS[2], device="cpu", batch_images=3)["a"]
    iou = got["padding_ignored"]["iou"]
    assert isinstance(iou, list)
    assert iou[2] == pytest.approx(100 * right / labelled)
