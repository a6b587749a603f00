"""What the paper prints: its tables, what each shows, and which gains it names.

The numbers stand in `reports/published/<table>.csv`; here is only what a CSV cannot say.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

REPRODUCED = "reproduced_by_authors"
"""The CSV column of the paper's † marks; `yes`: the authors ran that method themselves."""

ROLES = {
    "voc_classic": "VOC classic",
    "voc_blender": "VOC blender",
    "cityscapes": "Cityscapes",
    "coco": "COCO",
    "folder": "a folder of images",
}
"""How captions call the roles of the paper's data sets."""

PAPER_DATA = {
    "voc_classic": "voc",
    "voc_blender": "voc",
    "cityscapes": "cityscapes",
    "coco": "coco",
}
"""The name of the data that are the paper's own; anything else only plays the role."""

HEADINGS = {
    "method": "method",
    "variant": "variant",
    "negative_candidates_from": "negatives from",
    "alpha_0_percent": "α_0 (%)",
    "tau": "τ",
    "lr_base": "base lr",
}
"""Label columns as people read them; `x_y` is x with a subscript; what is not listed stands for itself."""

CHECK_MARKS = ("L_c", "Q_c", "DPA", "PRT", "Unreliable")
"""Label columns of 0 and 1, printed as check-marks (Table 6)."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a table shows.

    `reference` holds the labels of the row that differences are taken to: the baseline, or in an ablation the
    default. `gains` are the labels in the first column whose gains over the reference the paper prints or names in its
    prose; they go in brackets. `words` explain a table that the paper does not.
    """

    title: str
    reference: dict[str, str] | None = None
    gains: tuple[str, ...] = ()
    words: str = ""


_SUPONLY = {"method": "SupOnly"}
_UNRELIABLE = {"negative_candidates_from": "Unreliable"}
_RANKS = {"r_l": "3", "r_h": "20"}
_ALPHA = {"alpha_0_percent": "20"}
_NO_COMPONENT = dict.fromkeys(CHECK_MARKS, "0")
_U2PL = ("U2PL (w/ CutMix)", "U2PL (w/ AEL)")
_CONTRASTS = ("U2PL (w/ L_c)", "U2PL (w/ L_b)")


def _methods(title: str, *, gains: tuple[str, ...]) -> Facts:
    return Facts(title=title, reference=_SUPONLY, gains=gains)


PAPER_TABLES = {
    "table_1": _methods("Methods on VOC classic", gains=_U2PL),
    "table_2": _methods("Methods on VOC blender", gains=_U2PL),
    "table_3": _methods("Methods on Cityscapes", gains=_U2PL),
    "table_4": Facts(title="Which pixels give negatives", reference=_UNRELIABLE),
    "table_5": Facts(title="Rank thresholds of the negatives", reference=_RANKS),
    "table_6": Facts(title="Components of U2PL", reference=_NO_COMPONENT, gains=("1",)),
    "table_7": Facts(title="Initial share of unreliable pixels", reference=_ALPHA),
    "table_a2": Facts(title="Which pixels give negatives", reference=_UNRELIABLE),
    "table_a3": _methods("Contrastive against binary loss", gains=_CONTRASTS),
    "table_a4": _methods("Contrastive against binary loss", gains=_CONTRASTS),
    "table_a5": Facts(title="Base learning rate", reference={"lr_base": "1e-3"}),
    "table_a6": Facts(title="Temperature of the contrastive loss", reference={"tau": "0.5"}),
    "table_a7": Facts(title="Rank thresholds of the negatives", reference=_RANKS),
    "table_a8": Facts(title="Initial share of unreliable pixels", reference=_ALPHA),
}

_EQUAL_STEPS = {"method": "SupOnly", "variant": "equal_steps"}
_PHOTOGRAPHS = (
    "Photographs, and an encoder that was trained on ImageNet. Labelled are the images of the paper's list that this "
    "data set has. SupOnly trains as many steps as the others; “released” is U2PL with all that its released code does."
)

OWN_TABLES = {
    "experiment": Facts(title="One cell of the top-level parameters"),
    "table_x1": Facts(
        title="Semantics of U2PL: the paper's, the released code's, parts of it, each defect alone",
        reference={"variant": "-"}
        | {f"defect_{name}": "-" for name in ("one_hot", "class_index", "labelled_negatives", "unlabelled_negatives")},
        words="Where U2PL's paper and released code disagree, the default is the paper's reading and “released” the "
        "code's in all. Of that, a tick is one of its defects alone; padding: what lies outside an image is learnt as "
        "background (no crop of the embedded data has any); teacher: it is the student for one more epoch, and its "
        "batch-norm statistics begin as an untrained network's (the released code moves them in the warm start, under "
        "weights that it discards; that is not brought back); contrast: its numbers, anchors and positives.",
    ),
    "table_x2": Facts(
        title="SupOnly as published against equal steps",
        reference={"method": "SupOnly", "variant": "-"},
        words="As published, an epoch of SupOnly is one pass over the labelled images: fewer steps than the other "
        "methods train. With equal steps it trains as many as they do, with “ema” it also averages its weights.",
    ),
    "table_x3": Facts(
        title="All methods over several seeds",
        reference=_EQUAL_STEPS,
        words="What seeds do to these rows is the noise of the tables that have one seed.",
    ),
    "table_x4": Facts(
        title="PseudoSeg as its own paper studies it",
        words="Image labels: which classes an unlabelled image holds is given. Fusion: whose opinion the pseudo-labels "
        "are, the decoder's, the attention's, or both (fused). τ sharpens them. Strong: the student learns a strongly "
        "changed view of the image, not the weak one.",
    ),
    "table_x5": Facts(
        title="PseudoSeg on COCO", words="PseudoSeg's own fractions of COCO; SupOnly trains as many steps."
    ),
    "table_x6": Facts(
        title="Real photographs and an ImageNet encoder, blender lists", reference=_EQUAL_STEPS, words=_PHOTOGRAPHS
    ),
    "table_x7": Facts(
        title="Real photographs and an ImageNet encoder, classic lists", reference=_EQUAL_STEPS, words=_PHOTOGRAPHS
    ),
    "table_own": Facts(title="Methods on a folder of one's own"),
}
"""Tables that the paper does not have."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A table as printed: `frame` holds text, one row per printed row; `labels` and `columns` are its columns."""

    frame: pd.DataFrame
    labels: list[str]
    columns: list[str]


def read_published(table: str, folder: Path) -> Published | None:
    """Read `<folder>/<table>.csv`, or return None where the paper has no such table.

    Value columns are those headed by a count in brackets, e.g. `1/8 (1323)`. Raises ValueError on a torn file.
    """
    path = folder / f"{table}.csv"
    if not path.exists():
        return None
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        columns = [column for column in frame.columns if column.endswith(")")]
        frame[columns].astype(float)
    except ValueError as error:
        raise ValueError(f"{path}: not a table of numbers ({error}); restore it with `git checkout`") from None
    labels = [column for column in frame.columns if column not in (*columns, REPRODUCED)]
    if not columns or not labels:
        raise ValueError(f"{path}: no label or no value column among {', '.join(frame.columns)}")
    return Published(frame=frame, labels=labels, columns=columns)


def facts_of(table: str) -> Facts:
    """Return what a table shows."""
    return PAPER_TABLES.get(table) or OWN_TABLES.get(table) or Facts(title="A table of one's own")


def is_paper_data(data: str, dataset: str) -> bool:
    """Tell whether numbers measured on `data` may be compared with the paper's in level."""
    return PAPER_DATA.get(dataset) == data


def role_of(dataset: str) -> str:
    """Return how captions call a role; one that nobody has named goes by its own name."""
    return ROLES.get(dataset, dataset)


def data_phrase(data: str, dataset: str) -> str:
    """Return how prose calls what numbers were measured on: `VOC blender`, or other data playing it."""
    if dataset == "folder":
        return f"`{data}`"
    called = role_of(dataset)
    return called if is_paper_data(data, dataset) else f"`{data}` data playing {called}"


def name_of(table: str) -> str:
    """Return how prose calls a table: `Table 1`, `Table A2`, `Table X3`, `Table Own`, `Experiment`."""
    stem, _, number = table.partition("_")
    return f"{stem.capitalize()} {number.capitalize()}".strip()


def reference_of(table: str, labels: list[str]) -> dict[str, str] | None:
    """Return the labels of the row that differences are taken to, or None where there is none.

    A table of our own that compares methods and nothing else takes SupOnly, as the paper's do.
    """
    known = facts_of(table).reference
    if known is not None and set(known) == set(labels):
        return known
    return _SUPONLY if labels == ["method"] else None
