"""Whether entropy and confidence can be believed: the paper's Figure 1, calibration, and risk against coverage.

Drawn from `reports/<scale>/reliability/<table>.json`, which the stage `reliability` writes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.labels import method_label
from pipeline.reporting.classes import class_names
from pipeline.reporting.figures import INK, MEASURED, PAPER, STYLE
from pipeline.reporting.paper import data_phrase, role_of
from pipeline.reporting.rows import data_of

Record = dict[str, Any]
CALIBRATION = (
    "Calibration: of the pixels of each confidence, how many are right. Below the dotted line a network trusts itself "
    "too much. The error is the expected calibration error in points."
)
RISK = (
    "Risk against coverage: what share of the pixels is wrong if only those of lowest entropy are kept. Dots: where "
    "α_0 divides reliable from unreliable pixels."
)
SETS = {"unlabelled": "images without labels in training", "val": "images of val"}
LINES = (MEASURED, "#c9722a", "#3f9a6b", "#a066b8", "#c4516c", PAPER)


def read_reliability(folder: Path) -> list[Record]:
    """Read what the stage wrote, `<folder>/*.json`; of several seeds the first. Raises ValueError on a torn file."""
    found: dict[str, Record] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            records = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"{path}: torn ({error}); `dvc repro -f reliability@{path.stem}` writes it again"
            ) from None
        for record in records:
            found.setdefault(name_of_record(record), record)
    return list(found.values())


def name_of_record(record: Record) -> str:
    """Return how a measured network is called, e.g. `SupOnly, VOC classic 1/2`."""
    partition = record["partition"].replace("-", "/")
    return f"{method_label(record['method'])}, {role_of(record['dataset'])} {partition}"


def caption_of(record: Record) -> str:
    """Return the words beneath `reliability_figure`."""
    images, found = widest_set(record)
    on = data_phrase(data_of(record), record["dataset"])
    return (
        f"As the paper's Figure 1: {name_of_record(record)}, on {found['num_images']} {images} of {on}. Left: IoU of "
        "each class over all pixels and over the reliable ones; right: what share of the class's pixels is reliable. "
        f"Unreliable are the {100 * found['unreliable_share']:.1f} % of all pixels whose entropy is above "
        f"{found['threshold_nats']:.3g} nats. mIoU {found['all']['miou']:.2f}, of reliable pixels alone "
        f"{found['reliable']['miou']:.2f}."
    )


def widest_set(record: Record) -> tuple[str, dict[str, Any]]:
    """Return the name and the counts of the images without labels, or of val where those have no masks."""
    name = "unlabelled" if "unlabelled" in record["sets"] else "val"
    return SETS[name], record["sets"][name]


@rc_context(STYLE)
def reliability_figure(record: Record) -> Figure:
    """Show each class's IoU over all and over the reliable pixels, beside how much of the class is reliable.

    As the paper's Figure 1; classes by their IoU, those that do not occur left out. Reliable pixels are those of lower
    entropy, so classes that are seen badly should have few of them.
    """
    _, found = widest_set(record)
    iou, only = (np.array(found[part]["iou"], dtype=float) for part in ("all", "reliable"))  # None becomes nan
    share = 100 * np.array(found["class_unreliable_share"], dtype=float)
    names = class_names(record["data"], len(iou))
    order = [index for index in np.argsort(iou) if np.isfinite(iou[index]) and np.isfinite(share[index])]
    places = np.arange(len(order))
    figure = Figure(figsize=(6.6, 0.9 + 0.19 * len(order)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.2, 1))
    left.hlines(places, iou[order], only[order], color=PAPER, linewidth=1.2)
    left.plot(iou[order], places, "o", color=INK, markersize=4.5, label="all pixels")
    left.plot(only[order], places, "o", color=MEASURED, markersize=4.5, label="reliable pixels")
    left.set_yticks(places, [names[index] for index in order])
    left.set_ylim(-0.7, len(order) - 0.3)
    left.set_xlabel("IoU (%)")
    right.barh(places, 100 - share[order], color=MEASURED, height=0.7, label="reliable")
    right.barh(places, share[order], left=100 - share[order], color=PAPER, height=0.7, label="unreliable")
    right.set_xlim(0, 100)
    right.set_xlabel("share of the class's pixels (%)")
    for axes in (left, right):
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2, handletextpad=0.4)
    return figure


@rc_context(STYLE)
def calibration_figure(records: Sequence[Record]) -> Figure:
    """Show how often pixels of a confidence are right, a panel for each network; the diagonal would be honest."""
    panels = _panels(len(records))
    for axes, record in zip(panels, records, strict=True):
        axes.plot([0, 100], [0, 100], color=INK, linewidth=0.6, linestyle=":")
        titles = []
        for (name, called), colour in zip(SETS.items(), (MEASURED, PAPER), strict=True):
            if name in record["sets"]:
                found = record["sets"][name]
                right, wrong = (np.array(found[f"confidence_{part}"], dtype=float) for part in ("right", "wrong"))
                kept = right + wrong > 0
                confidence = 100 * np.array(found["confidence_mean"], dtype=float)[kept]
                accuracy = 100 * right[kept] / (right + wrong)[kept]
                axes.plot(confidence, accuracy, "o-", color=colour, markersize=3, label=called)
                titles.append(f"{found['ece']:.1f} on {name}")
        axes.set_title(f"{name_of_record(record).replace(', ', chr(10))}\nerror: {', '.join(titles)}")
        axes.set_xlabel("confidence (%)")
    panels[0].set_ylabel("pixels that are right (%)")
    _legend(panels)
    return _of(panels)


@rc_context(STYLE)
def risk_coverage_figure(records: Sequence[Record]) -> Figure:
    """Show what share of the pixels is wrong if only those of lowest entropy are kept, and where α_0 cuts (dots)."""
    names = [name for name in SETS if any(name in record["sets"] for record in records)]
    panels = _panels(len(names), width=3.2)
    for axes, name in zip(panels, names, strict=True):
        for record, colour in zip(records, LINES, strict=False):
            if name not in record["sets"]:
                continue
            found = record["sets"][name]
            coverage, risk = risk_at(found)
            axes.plot(coverage, risk, color=colour, label=name_of_record(record))
            cut = 100 * (1 - found["unreliable_share"])
            axes.plot(cut, np.interp(cut, coverage, risk), "o", color=colour, markersize=5)
        axes.set_title(SETS[name])
        axes.set_xlabel("pixels kept, lowest entropy first (%)")
        axes.set_ylim(bottom=0)
    panels[0].set_ylabel("kept pixels that are wrong (%)")
    _legend(panels)
    return _of(panels)


def risk_at(found: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return coverage and risk in percent, a point for each upper edge of an entropy bin that holds a pixel."""
    right, wrong = (np.cumsum(found[f"entropy_{part}"], dtype=float) for part in ("right", "wrong"))
    kept = np.flatnonzero(np.diff(right + wrong, prepend=0))
    return 100 * (right + wrong)[kept] / found["num_pixels"], 100 * wrong[kept] / (right + wrong)[kept]


def _panels(num: int, *, width: float = 2.5) -> list[Axes]:
    figure = Figure(figsize=(max(3.6, width * num + 0.6), 3.0), layout="constrained")
    return list(figure.subplots(1, num, sharey=True, squeeze=False)[0])


def _legend(panels: Sequence[Axes]) -> None:
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    _of(panels).legend(handles.values(), handles.keys(), loc="outside lower left", ncols=2)


def _of(panels: Sequence[Axes]) -> Figure:
    figure = panels[0].get_figure()
    assert isinstance(figure, Figure)
    return figure
