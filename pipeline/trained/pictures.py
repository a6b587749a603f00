"""The paper's figures that show what networks see: predictions side by side (Figs. 4, A1), entropy (2), features (A2).

Each function returns a matplotlib `Figure`. Images are chosen by a rule, never by eye: of a few candidates spread
evenly over the list, those at even ranks of U2PL's gain in pixel accuracy over SupOnly, its losses among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from scipy import ndimage
from sklearn.manifold import TSNE

from pipeline.data.images import IGNORED, voc_palette
from pipeline.data.normalise import Normalise
from pipeline.data.samples import Samples
from pipeline.evaluation.predict import whole_logits
from pipeline.reporting.figures import INK, MEASURED, PAPER, STYLE
from pipeline.trained.predict import Trained, class_ids
from pipeline.training.entropy import entropy

NUM_CANDIDATES = 12
NUM_SHOWN = 4
NUM_LISTED = 12
NUM_BOXES = 2
POINTS_PER_CLASS = 40
FEATURE_IMAGES = 24
MAX_SIDE_INCHES = 1.5
MAX_SIDE = 512
"""Pixels of a listed scene: photographs of one's own may have any number."""


@dataclass(frozen=True)
class Scene:
    """An image (H, W, 3) uint8, its mask (H, W) uint8, and the class ids (H, W) that each network sees."""

    image: np.ndarray
    mask: np.ndarray
    seen: tuple[np.ndarray, ...]


@rc_context(STYLE)
def prediction_figure(names: Sequence[str], scenes: Sequence[Scene]) -> Figure:
    """Show image, label and what each named network predicts; boxes hold where the first and the last differ most."""
    heads = ["image", "label", *names]
    height, width = scenes[0].mask.shape
    side = MAX_SIDE_INCHES * max(1, width / height)
    figure = Figure(figsize=(side * len(heads), side * height / width * len(scenes) + 0.3), layout="constrained")
    panels = figure.subplots(len(scenes), len(heads), squeeze=False)
    for row, scene in zip(panels, scenes, strict=True):
        pictures = [scene.image, coloured(scene.mask), *map(coloured, scene.seen)]
        boxes = difference_boxes(scene)
        for axes, picture in zip(row, pictures, strict=True):
            _show(axes, picture)
            for top, left, box_height, box_width in boxes:
                corner = (left - 0.5, top - 0.5)
                axes.add_patch(Rectangle(corner, box_width, box_height, fill=False, edgecolor="#ffd23f", linewidth=1.2))
    for axes, head in zip(panels[0], heads, strict=True):
        axes.set_title(head.replace("without ", "without\n"), loc="center")
    return figure


def difference_boxes(scene: Scene) -> list[tuple[int, int, int, int]]:
    """Return (top, left, height, width) of the largest connected regions where the first and last prediction differ."""
    regions, _ = ndimage.label((scene.seen[0] != scene.seen[-1]) & (scene.mask != IGNORED))
    sizes = np.bincount(regions.ravel())[1:]
    boxes = ndimage.find_objects(regions)
    chosen = np.argsort(sizes)[::-1][:NUM_BOXES]
    return [(rows.start, columns.start, *_lengths(rows, columns)) for rows, columns in (boxes[i] for i in chosen)]


def _lengths(rows: slice, columns: slice) -> tuple[int, int]:
    return rows.stop - rows.start, columns.stop - columns.start


def ranked_scenes(networks: Sequence[Trained], samples: Samples) -> list[Scene]:
    """Return the scenes of a few images, chosen by rank of the last network's gain over the first, best first."""
    scenes = [_scene(networks, samples, index=index) for index in spread(len(samples), NUM_CANDIDATES)]
    ranked = sorted(scenes, key=lambda scene: accuracy(scene, -1) - accuracy(scene, 0), reverse=True)
    return [ranked[rank] for rank in spread(len(ranked), NUM_SHOWN)]


def listed_scenes(networks: Sequence[Trained], samples: Samples) -> list[Scene]:
    """Return the scenes of up to `NUM_LISTED` images spread over the list, in its order, large ones made smaller."""
    return [_smaller(_scene(networks, samples, index=index)) for index in spread(len(samples), NUM_LISTED)]


def spread(length: int, number: int) -> list[int]:
    """Return up to `number` places spread evenly over a list, its first and last among them."""
    return np.unique(np.linspace(0, length - 1, number).astype(int)).tolist()


def _scene(networks: Sequence[Trained], samples: Samples, *, index: int) -> Scene:
    image, mask = samples[index]
    if mask is None:
        raise ValueError(f"validation image {samples.pairs[index].image} has no mask")
    return Scene(image, mask, tuple(class_ids(trained, _normalised(trained, image)) for trained in networks))


def _smaller(scene: Scene) -> Scene:
    stride = -(-max(scene.mask.shape) // MAX_SIDE)
    image, mask, *seen = (part[::stride, ::stride] for part in (scene.image, scene.mask, *scene.seen))
    return Scene(image, mask, tuple(seen))


def accuracy(scene: Scene, network: int) -> float:
    """Return the share of labelled pixels that a network gets right, 0-1."""
    labelled = scene.mask != IGNORED
    return float((scene.seen[network] == scene.mask)[labelled].mean()) if labelled.any() else 0.0


@rc_context(STYLE)
def entropy_figure(trained: Trained, image: np.ndarray, *, share: float, classes: Sequence[str]) -> Figure:
    """Show an unlabelled image's entropy, its reliable pseudo-labels, and what two of its pixels are held for.

    Unreliable are the `share` (0-1) of pixels with the highest entropy. The pixels are those whose entropy is nearest
    to the median of either part.
    """
    with torch.inference_mode():
        logits = whole_logits(trained.network, _normalised(trained, image)).float()
    uncertainty = entropy(logits)[0].cpu().numpy()
    probability = logits.softmax(dim=1)[0].cpu().numpy()
    reliable = uncertainty <= np.quantile(uncertainty, 1 - share)
    labels = np.where(reliable, probability.argmax(0), IGNORED).astype(np.uint8)
    figure = Figure(figsize=(9.2, 3.0), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.35, 1), squeeze=False)[0]
    panels = left.subplots(1, 3)
    pictures = ((image, "image"), (uncertainty, "entropy"), (coloured(labels), "reliable pseudo-labels"))
    for axes, (picture, title) in zip(panels, pictures, strict=True):
        _show(axes, picture)
        axes.set_title(title, loc="center")
    bars = right.subplots(2, 1, sharex=True)
    for axes, part, name, colour in (
        (bars[0], reliable, "reliable", MEASURED),
        (bars[1], ~reliable, "unreliable", PAPER),
    ):
        row, column = median_pixel(uncertainty, part)
        axes.bar(range(len(probability)), probability[:, row, column], color=colour)
        axes.set_title(f"a pixel that is {name}, entropy {uncertainty[row, column]:.2f} nats")
        for picture in panels:
            picture.plot(column, row, "o", color=colour, markeredgecolor="white", markersize=5)
    bars[1].set_xticks(range(len(classes)), classes, rotation=90, fontsize=6.5)
    right.supylabel("probability", fontsize=8.5)
    return figure


def median_pixel(uncertainty: np.ndarray, part: np.ndarray) -> tuple[int, int]:
    """Return (row, column) of the pixel of `part` (H, W) whose entropy is nearest to the part's median."""
    distance = np.where(part, np.abs(uncertainty - np.median(uncertainty[part])), np.inf)
    row, column = np.unravel_index(distance.argmin(), distance.shape)
    return int(row), int(column)


@rc_context(STYLE)
def feature_figure(networks: dict[str, Trained], samples: Samples, *, classes: Sequence[str]) -> Figure:
    """Show the decoder's features of the same labelled pixels under each network, in two dimensions by t-SNE."""
    figure = Figure(figsize=(3.6 * len(networks) + 1.3, 3.6), layout="constrained")
    palette, seen = np.array(voc_palette()).reshape(256, 3) / 255, set[int]()
    for axes, (name, trained) in zip(
        figure.subplots(1, len(networks), squeeze=False)[0], networks.items(), strict=True
    ):
        features, ids = pixel_features(trained, samples)
        seen |= set(ids.tolist())
        perplexity = min(30, (len(features) - 1) / 3)
        placed = TSNE(random_state=0, perplexity=perplexity, init="pca").fit_transform(features)
        axes.scatter(*placed.T, c=palette[ids], s=5, linewidths=0.2, edgecolors=INK)
        axes.set_title(name, loc="center")
        axes.set_xticks([])
        axes.set_yticks([])
    marks = {
        classes[index]: Line2D([], [], color=palette[index], marker="o", markersize=4, linestyle="")
        for index in sorted(seen)
    }
    figure.legend(marks.values(), marks.keys(), loc="outside right center", fontsize=7, handletextpad=0.1)
    return figure


def pixel_features(trained: Trained, samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """Return features (N, D) float32 of up to `POINTS_PER_CLASS` pixels of each class, and their classes (N,)."""
    found: dict[int, list[np.ndarray]] = {}
    for index in np.unique(np.linspace(0, len(samples) - 1, FEATURE_IMAGES).astype(int)):
        image, mask = samples[int(index)]
        assert mask is not None
        with torch.inference_mode():
            network = trained.network
            fused = network.fuse(network.features(_normalised(trained, image)))[0].float().cpu().numpy()  # (D, h, w)
        rows, columns = (
            np.arange(small) * large // small for small, large in zip(fused.shape[1:], mask.shape, strict=True)
        )
        ids = mask[np.ix_(rows, columns)]
        for class_index in np.setdiff1d(ids, [IGNORED]):
            found.setdefault(int(class_index), []).append(fused[:, ids == class_index].T)
    generator = np.random.default_rng(0)
    features, classes = [], []
    for class_index, parts in sorted(found.items()):
        points = np.concatenate(parts)
        chosen = generator.permutation(len(points))[:POINTS_PER_CLASS]
        features.append(points[chosen])
        classes += [class_index] * len(chosen)
    return np.concatenate(features), np.array(classes)


def coloured(ids: np.ndarray) -> np.ndarray:
    """Return class ids (H, W) uint8 in the colours of PASCAL VOC, ignored pixels white."""
    palette = np.array(voc_palette(), dtype=np.uint8).reshape(256, 3)
    palette[IGNORED] = 255
    return palette[ids]


def _normalised(trained: Trained, image: np.ndarray) -> torch.Tensor:
    return Normalise(trained.device)(torch.from_numpy(image)[None])


def _show(axes: Axes, picture: np.ndarray) -> None:
    axes.imshow(picture, interpolation="nearest", cmap="viridis")
    axes.set_xticks([])
    axes.set_yticks([])
