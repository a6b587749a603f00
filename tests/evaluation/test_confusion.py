from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix

from pipeline.evaluation.confusion import ConfusionMatrix


def naive(label: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    counts = np.zeros((classes, classes), dtype=int)
    for row in range(label.shape[0]):
        for column in range(label.shape[1]):
            if label[row, column] != 255:
                counts[label[row, column], prediction[row, column]] += 1
    return counts


def maps(classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    label, prediction = random.integers(0, classes, (2, 30, 40))
    label[random.random(label.shape) < 0.2] = 255
    return label, prediction


@pytest.mark.parametrize("classes", [2, 19, 21])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_counts_equal_those_of_a_double_loop_and_of_scikit_learn(classes: int, dtype: torch.dtype) -> None:
    matrix, expected, seen = ConfusionMatrix(classes, "cpu"), np.zeros((classes, classes), dtype=int), []
    for seed in range(3):
        label, prediction = maps(classes, seed)
        matrix.add(torch.from_numpy(label).to(dtype), torch.from_numpy(prediction).to(dtype))
        expected += naive(label, prediction, classes)
        seen.append((label, prediction))
    np.testing.assert_array_equal(matrix.counts.numpy(), expected)
    labels, predictions = (np.concatenate([pair[i].ravel() for pair in seen]) for i in (0, 1))
    kept = labels != 255
    reference = confusion_matrix(labels[kept], predictions[kept], labels=range(classes))
    np.testing.assert_array_equal(matrix.counts.numpy(), reference)


def test_iou_is_intersection_over_union_in_percent() -> None:
    matrix = ConfusionMatrix(3, "cpu")
    matrix.add(torch.tensor([[0, 0, 1, 1, 2, 255]]), torch.tensor([[0, 1, 1, 1, 0, 2]]))
    summary = matrix.summary()
    assert summary["iou"] == pytest.approx([100 / 3, 200 / 3, 0.0])
    assert summary["miou"] == pytest.approx(100 / 3)


def test_a_class_that_never_occurs_counts_zero_in_the_mean_as_released_and_is_told_apart() -> None:
    matrix = ConfusionMatrix(4, "cpu")
    matrix.add(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 1]))
    summary = matrix.summary()
    assert summary["miou"] == pytest.approx(50.0)
    iou = summary["iou"]
    assert isinstance(iou, list)
    assert iou[:2] == pytest.approx([100.0, 100.0])
    assert iou[2:] == [None, None]


def test_a_class_that_is_only_predicted_is_not_absent() -> None:
    matrix = ConfusionMatrix(3, "cpu")
    matrix.add(torch.tensor([0, 0]), torch.tensor([0, 2]))
    assert matrix.summary()["iou"] == [pytest.approx(50.0), None, pytest.approx(0.0)]


def test_nothing_but_ignored_pixels_is_zero_not_an_error() -> None:
    matrix = ConfusionMatrix(3, "cpu")
    matrix.add(torch.full((4, 4), 255), torch.zeros(4, 4, dtype=torch.int64))
    assert matrix.summary() == {"miou": 0.0, "iou": [None, None, None]}


@pytest.mark.parametrize("unlisted", [-1, 3, 254, 255])
def test_labels_outside_the_classes_are_not_counted(unlisted: int) -> None:
    matrix = ConfusionMatrix(3, "cpu")
    matrix.add(torch.tensor([0, unlisted]), torch.tensor([0, 1]))
    assert matrix.counts.sum() == 1


def test_counts_of_parts_may_be_summed() -> None:
    whole, parts = ConfusionMatrix(5, "cpu"), [ConfusionMatrix(5, "cpu") for _ in range(3)]
    for seed, part in enumerate(parts):
        label, prediction = (torch.from_numpy(each) for each in maps(5, seed))
        whole.add(label, prediction)
        part.add(label, prediction)
    assert torch.equal(torch.stack([part.counts for part in parts]).sum(0), whole.counts)
