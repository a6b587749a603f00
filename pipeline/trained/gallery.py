"""Which of the paper's figures can be drawn from the cells of a scale, from which rows, and with what words beneath."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from pipeline.data.layout import pairs, read_partition
from pipeline.data.open import open_validation
from pipeline.data.samples import Samples
from pipeline.reporting.classes import class_names
from pipeline.reporting.figures import save_figure
from pipeline.reporting.paper import data_phrase, name_of
from pipeline.reporting.rows import Row, data_of, read_rows
from pipeline.store import Store
from pipeline.trained.pictures import (
    NUM_CANDIDATES,
    NUM_LISTED,
    entropy_figure,
    feature_figure,
    listed_scenes,
    prediction_figure,
    ranked_scenes,
)
from pipeline.trained.predict import Trained, load_trained
from pipeline.training.entropy import unreliable_share


@dataclass(frozen=True)
class Wanted:
    """A row to find: the table it stands in, the method, and parameters it must have."""

    table: str
    method: str
    parameters: tuple[tuple[str, object], ...] = ()


SUPONLY, NO_FILTER, U2PL = "SupOnly", "contrast without entropy filter", "U2PL"
CHOSEN_BY = (
    f"Of {NUM_CANDIDATES} images spread over the list, by rank of U2PL's gain in pixel accuracy over SupOnly: the best "
    "first, the worst last."
)


def write_gallery(reports_dir: Path, *, store: Store, data_root: Path) -> Iterator[str]:
    """Write every figure whose cells are there into `<reports_dir>/pictures`; yield a line for each, drawn or not."""
    out = reports_dir / "pictures"
    out.mkdir(parents=True, exist_ok=True)
    voc = {SUPONLY: Wanted("table_2", "suponly"), U2PL: Wanted("table_2", "u2pl")}
    city = {SUPONLY: Wanted("table_3", "suponly"), U2PL: Wanted("table_3", "u2pl")}
    negatives = (("negatives", "all"),)
    sides = (
        ("figure_4", voc | {NO_FILTER: Wanted("table_4", "u2pl", negatives)}, "1-4"),
        ("figure_a1", city | {NO_FILTER: Wanted("table_a2", "u2pl", negatives)}, "1-2"),
        ("figure_a2", voc, "1-4"),
        ("figure_2", {U2PL: voc[U2PL]}, "1-4"),
    )
    for name, wanted, partition in sides:
        rows = {side: find_row(reports_dir, one, partition=partition) for side, one in wanted.items()}
        absent = [side for side, row in rows.items() if row is None or not store.is_done(row["train_key"])]
        if absent:
            yield f"{name}: not drawn, since no trained cell is at hand for {', '.join(absent)} at {partition}"
            continue
        found = {side: row for side, row in sorted(rows.items(), key=_order) if row is not None}
        figure, caption = _draw(name, found, store=store, data_root=data_root)
        _save(figure, out / f"{name}.png", caption=caption)
        yield f"{name}: drawn from " + ", ".join(f"{side} {row['train_key'][:8]}" for side, row in found.items())


def write_table_picture(reports_dir: Path, table: str, *, store: Store, data_root: Path) -> Iterator[str]:
    """Write `<reports_dir>/pictures/<table>_predictions.png`: validation images, masks, a column for each method.

    Of a table with several partitions the last is shown, of several seeds the first. Yields a line, drawn or not.
    """
    rows = [row for row in read_rows(reports_dir / "metrics" / f"{table}.json") if store.is_done(row["train_key"])]
    shown: dict[str, Row] = {}
    for row in rows:
        if row["column"] == rows[-1]["column"] and row["metrics"]:
            shown.setdefault(", ".join(map(str, row["row"].values())), row)
    if not shown:
        yield f"{table}: no predictions drawn, since no trained cell of it is at hand"
        return
    networks = [load_trained(store.done(row["train_key"])) for row in shown.values()]
    names, samples = list(shown), open_validation(rows[-1], data_root)
    figure = prediction_figure(names, listed_scenes(networks, samples))
    some = f"{NUM_LISTED} of {len(samples)} validation images" if len(samples) > NUM_LISTED else "The validation images"
    boxes = f" Boxes: where {names[0]} and {names[-1]} differ most." if len(names) > 1 else ""
    caption = f"{name_of(table)}. {some}, their masks (white: not counted), and what each method predicts, best epoch, "
    caption += f"{rows[-1]['column']}, seed {next(iter(shown.values()))['seed']}.{boxes}"
    out = reports_dir / "pictures"
    out.mkdir(parents=True, exist_ok=True)
    _save(figure, out / f"{table}_predictions.png", caption=caption)
    yield f"{table}: predictions drawn of " + ", ".join(f"{name} {row['train_key'][:8]}" for name, row in shown.items())


def _save(figure: Figure, path: Path, *, caption: str) -> None:
    """Write a figure and its caption as the page finds them."""
    save_figure(figure, path)
    path.with_suffix(".txt").write_text(f"{caption}\n", encoding="utf-8")


def find_row(reports_dir: Path, wanted: Wanted, *, partition: str) -> Row | None:
    """Return the first measured row that fits, or None."""
    path = reports_dir / "metrics" / f"{wanted.table}.json"
    for row in read_rows(path) if path.exists() else []:
        fits = row["method"] == wanted.method and row["partition"] == partition and row["state"] == "done"
        if fits and all(row["parameters"].get(key) == value for key, value in wanted.parameters):
            return row
    return None


def _order(item: tuple[str, Row | None]) -> int:
    return (SUPONLY, NO_FILTER, U2PL).index(item[0])


def _draw(name: str, rows: dict[str, Row], *, store: Store, data_root: Path) -> tuple[Figure, str]:
    networks = {side: load_trained(store.done(row["train_key"])) for side, row in rows.items()}
    row = rows[U2PL]
    where = f"{data_phrase(data_of(row), row['dataset'])}, {row['column']}, seed {row['seed']}, best epoch"
    number = name.removeprefix("figure_").upper()
    classes = class_names(row["data"], row["data"]["num_classes"])
    if name == "figure_2":
        share = row["parameters"]["alpha0"]
        return _entropy(networks[U2PL], data_root, share=share, classes=classes), (
            f"As the paper's Figure 2: entropy of an unlabelled image, its pseudo-labels where entropy is among the "
            f"lower {100 * (1 - share):g} %, and the class probabilities of a reliable and an unreliable pixel (dots). "
            f"U2PL, {where}. {_share_then(row)}"
        )
    samples = open_validation(row, data_root)
    if name == "figure_a2":
        return feature_figure(networks, samples, classes=classes), (
            f"As the paper's Figure {number}: the decoder's features of labelled validation pixels by t-SNE, "
            f"coloured by true class. On {where}."
        )
    return prediction_figure(list(networks), ranked_scenes(list(networks.values()), samples)), (
        f"As the paper's Figure {number}: predictions on {where}. Boxes: where SupOnly and U2PL differ most. "
        + CHOSEN_BY
    )


def _share_then(row: Row) -> str:
    """Say which share of pixels the training itself called unreliable when the network shown was reached (Eq. 7)."""
    alpha0, epochs, epoch = row["parameters"]["alpha0"], row["training"]["epochs"], row["best_epoch"]
    if not row["parameters"]["dpa"]:
        return f"Training kept to these {100 * alpha0:g} %."
    then = unreliable_share(alpha0, (epoch - 1) / epochs, dynamic=True)  # epochs count from 0 there
    return (
        f"The {100 * alpha0:g} % left out are α_0, with which training begins; in epoch {epoch} of {epochs}, which "
        f"this network comes from, α_t had come down to {100 * then:.2g} %."
    )


def _entropy(trained: Trained, data_root: Path, *, share: float, classes: list[str]) -> Figure:
    """Draw the figure for the unlabelled image in the middle of its list."""
    values = trained.values
    _, ids = read_partition(data_root / "partitions" / values["dataset"] / values["partition"])
    pair = pairs(data_root / values["data"]["source"], values["data"]["layout"], ids=[ids[len(ids) // 2]])
    image, _ = Samples(pair, num_classes=values["data"]["num_classes"], masks=False)[0]
    return entropy_figure(trained, image, share=share, classes=classes)
