"""The counts behind Figure 1, calibration and risk-coverage, beside pixel-by-pixel NumPy on everything at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.cell import chain
from pipeline.data.open import open_validation
from pipeline.evaluation.cell import evaluate_cell
from pipeline.evaluation.reliability import (
    CONFIDENCE_BINS,
    ENTROPY_BINS,
    NO_MASKS,
    Counts,
    entropy_edges,
    figures,
    open_unlabelled,
    reliability_cell,
)
from pipeline.models.build import ModelConfig, build_network
from pipeline.params import resolve_table
from tests.params import project_params

CLASSES = 5
PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pixels() -> tuple[Tensor, Tensor]:
    """Labels (8, 16, 16), a tenth of them ignored, and logits that favour the label; classes 0-3 occur."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, CLASSES - 1, (8, 16, 16), generator=generator)
    logits = torch.randn(8, CLASSES, 16, 16, generator=generator) * 3
    logits.scatter_add_(1, label[:, None], torch.full_like(logits[:, :1], 2.0))
    label[torch.rand(label.shape, generator=generator) < 0.1] = 255
    return label, logits


@pytest.fixture(scope="module")
def counted(pixels: tuple[Tensor, Tensor]) -> Counts:
    counts = Counts(CLASSES, "cpu")
    for label, logits in zip(*(tensor.split(3) for tensor in pixels), strict=True):
        counts.add(label, logits)
    return counts


def naive(pixels: tuple[Tensor, Tensor]) -> tuple[np.ndarray, ...]:
    """Label, prediction, entropy and confidence of every labelled pixel, in float64."""
    label, logits = pixels[0].numpy(), pixels[1].double().numpy()
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    entropy = -(probability * np.log(probability)).sum(axis=1)
    kept = label != 255
    return label[kept], logits.argmax(axis=1)[kept], entropy[kept], probability.max(axis=1)[kept]


def iou(label: np.ndarray, prediction: np.ndarray) -> list[float | None]:
    found: list[float | None] = []
    for index in range(CLASSES):
        either = (label == index) | (prediction == index)
        found.append(100 * ((label == index) & (prediction == index)).sum() / either.sum() if either.any() else None)
    return found


def test_reliable_pixels_are_those_below_the_entropy_quantile(pixels: tuple[Tensor, Tensor], counted: Counts) -> None:
    label, prediction, entropy, _ = naive(pixels)
    found = figures(counted, share=0.2)
    assert found["num_pixels"] == len(label)
    assert found["threshold_nats"] == pytest.approx(np.quantile(entropy, 0.8), abs=0.02)  # to the width of a bin
    unreliable = entropy > found["threshold_nats"]
    assert found["unreliable_share"] == pytest.approx(unreliable.mean())
    assert abs(found["unreliable_share"] - 0.2) < 0.02
    for name, part in (("all", np.ones_like(unreliable)), ("reliable", ~unreliable)):
        assert found[name]["iou"] == [pytest.approx(each) for each in iou(label[part], prediction[part])]
        assert found[name]["accuracy"] == pytest.approx(100 * (label == prediction)[part].mean())
    shares = [unreliable[label == index].mean() if (label == index).any() else None for index in range(CLASSES)]
    assert found["class_unreliable_share"] == [pytest.approx(share) for share in shares]
    assert found["class_share"] == pytest.approx([(label == index).mean() for index in range(CLASSES)])


def test_right_and_wrong_are_counted_by_entropy_and_class(pixels: tuple[Tensor, Tensor], counted: Counts) -> None:
    label, prediction, entropy, _ = naive(pixels)
    found = figures(counted, share=0.2)
    bins = np.searchsorted(entropy_edges(CLASSES)[:-1].float().numpy(), entropy)
    for name, part in (("right", label == prediction), ("wrong", label != prediction)):
        assert found[f"entropy_{name}"] == np.bincount(bins[part], minlength=ENTROPY_BINS).tolist()
        by_class = [np.bincount(bins[part & (label == index)], minlength=ENTROPY_BINS) for index in range(CLASSES)]
        assert found[f"class_entropy_{name}"] == [each.tolist() for each in by_class]


def test_a_network_that_diverged_is_counted_as_sure_of_nothing() -> None:
    counts = Counts(CLASSES, "cpu")
    counts.add(torch.zeros(1, 2, 3, dtype=torch.long), torch.full((1, CLASSES, 2, 3), torch.nan))
    found = figures(counts, share=0.2)
    assert found["num_pixels"] == sum(found["confidence_wrong"]) + sum(found["confidence_right"]) == 6
    assert found["confidence_mean"][0] == 0


def test_the_expected_calibration_error_is_guos(pixels: tuple[Tensor, Tensor], counted: Counts) -> None:
    label, prediction, _, confidence = naive(pixels)
    right, expected = label == prediction, 0.0
    for index in range(CONFIDENCE_BINS):
        inside = (confidence * CONFIDENCE_BINS).astype(int) == index
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    found = figures(counted, share=0.2)
    assert found["ece"] == pytest.approx(100 * expected, rel=1e-5)
    assert sum(found["confidence_right"]) == right.sum()
    assert sum(found["confidence_wrong"]) == (~right).sum()


def test_edges_end_at_the_largest_entropy_and_certain_pixels_fall_into_the_lowest_bin() -> None:
    edges = entropy_edges(CLASSES)
    assert edges[-1] == pytest.approx(np.log(CLASSES))
    assert (edges.diff() > 0).all()
    counts = Counts(CLASSES, "cpu")
    certain, uniform = torch.zeros(1, CLASSES, 1, 1), torch.zeros(1, CLASSES, 1, 1)
    certain[:, 2] = 1e4
    counts.add(torch.full((1, 1, 1), 2), certain)
    counts.add(torch.full((1, 1, 1), 2), uniform)
    assert counts.by_entropy.sum(dim=(1, 2)).nonzero().flatten().tolist() == [0, ENTROPY_BINS - 1]
    assert counts.by_confidence.sum(dim=1)[-1] == 1


def smoke_cell(tmp_path: Path, table: str, partition: str) -> dict[str, Any]:
    """Two untrained networks as `trained/weights.pt`, best and last epoch, and the values of their cell."""
    rows = resolve_table(project_params(), table)
    row = next(row for row in rows if (row["method"], row["partition"]) == ("suponly", partition))
    torch.manual_seed(0)
    networks = [
        build_network(ModelConfig(**row["model"]), num_classes=row["data"]["num_classes"]) for _ in ("best", "last")
    ]
    best, last = (network.state_dict() for network in networks)
    torch.save({"best": {"student": best}, "last": {"student": last}}, tmp_path / "weights.pt")
    return chain(row)[-1].values | {"unreliable_share": 0.2}


@pytest.mark.parametrize(("table", "partition"), [("table_1", "1-2"), ("table_3", "1-2")])
def test_a_cell_measures_the_other_training_images_and_val_as_evaluation_does(
    tmp_path: Path, data_root: Path, table: str, partition: str
) -> None:
    values = smoke_cell(tmp_path, table, partition)
    found = reliability_cell(values, data_root=data_root, trained=tmp_path)
    lists = data_root / "partitions" / values["dataset"] / partition
    assert found["sets"]["unlabelled"]["num_images"] == len((lists / "unlabelled.txt").read_text().split())
    assert found["sets"]["val"]["num_images"] == len(open_validation(values, data_root))
    evaluated = evaluate_cell(values, data_root=data_root, trained=tmp_path)
    expected = evaluated["metrics"]["student"]["best"]["padding_ignored"]
    assert expected["iou"] != evaluated["metrics"]["student"]["last"]["padding_ignored"]["iou"]
    assert found["sets"]["val"]["all"]["miou"] == pytest.approx(expected["miou"])
    assert found["sets"]["val"]["all"]["iou"] == expected["iou"]


def test_without_masks_of_unlabelled_images_val_alone_is_measured(
    tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = smoke_cell(tmp_path, "table_1", "1-2")
    full = values | {"partition": "full"}  # every image is labelled: there are no others
    lists = data_root / "partitions" / "voc_classic" / "full" / "unlabelled.txt"
    assert len(open_unlabelled(full, data_root)) == len(lists.read_text().split())
    monkeypatch.setattr("pipeline.evaluation.reliability.read_partition", lambda _: ([], []))
    found = reliability_cell(values, data_root=data_root, trained=tmp_path)
    assert list(found["sets"]) == ["val"]
    assert found["note"] == NO_MASKS
