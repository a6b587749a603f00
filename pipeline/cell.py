"""Cells and their keys: what is computed, and the name under which its result is found again.

A row of a table becomes a chain of cells: `warm_start` (one for each network the method trains, none where the
schedule has no warm start) -> `train` -> `evaluate`. A cell's key is the sha256 of what decides its result: the kind,
the values it reads, the code it runs, the input key of its partition, and the keys of the cells before it. Equal keys
are one computation. Resources, paths, worker counts and labels are no part of it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.data.code import read_code
from pipeline.data.partition import input_key

PACKAGE = Path(__file__).parent
KINDS = ("warm_start", "train", "evaluate", "reliability")
COUNTED = ("train", "sleep")
"""What the limit of a worker counts; the warm starts before and the evaluations after ride along."""

SCIENCE = ("data", "models", "methods", "training", "evaluation")
ENTRY = {
    "warm_start": ("training/engine.py", "models/backbones/{backbone}.py"),
    "train": ("training/engine.py", "models/backbones/{backbone}.py", "methods/{method}.py"),
    "evaluate": ("evaluation/cell.py", "models/backbones/{backbone}.py"),
    "reliability": ("evaluation/reliability.py", "models/backbones/{backbone}.py"),
}
"""Where the code of a kind begins; all it imports from the science folders decides the result."""

RELIABILITY_OF = (
    ("table_1", "suponly", "1-2"),  # the paper's Figure 1
    ("table_2", "suponly", "1-4"),
    ("table_2", "u2pl", "1-4"),
    ("table_3", "u2pl", "1-2"),
)
"""Table, method and partition of the rows whose networks' reliability is measured too."""

TABLE_A1_ALPHA0 = 0.2
"""The share of pixels called unreliable where the method itself calls none so."""

NO_CONTENT = ("path", "title", "classes", "partitions")
"""Keys of a data block that say where a folder is, how it and its classes are called, which other partitions it has."""

ROW_ERRORS = (OSError, ValueError, LookupError, TypeError, AttributeError)
"""What `cells_of` raises for a row that has no cells: of another version, or its method or own folder is not here."""

LATER_TRAINING_KEYS = ("evaluate_every_epochs",)
"""Training keys that a warm start does not read."""


@dataclass(frozen=True)
class Cell:
    """One computation: its kind, the resolved values it reads, and the keys of the cells before it."""

    kind: str
    values: dict[str, Any]
    upstream: tuple[str, ...]
    key: str

    def to_json(self) -> dict[str, Any]:
        """Return the cell as JSON-ready values (`cell.json` in the store)."""
        return asdict(self) | {"upstream": list(self.upstream)}

    @property
    def name(self) -> str:
        """Return a short name for people, e.g. `train u2pl voc_blender 1-4 seed 0 [3f2a9c1b]`."""
        values = self.values
        method = values.get("method", f"initialisation {values.get('initialisation')}")
        where = f"{values['dataset']} {values['partition']} seed {values['seed']}"
        return f"{self.kind} {method} {where} [{self.key[:8]}]"


def from_json(record: dict[str, Any]) -> Cell:
    """Make the cell that `to_json` described."""
    return Cell(record["kind"], record["values"], tuple(record["upstream"]), record["key"])


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the resolved rows of a table as the `cells` stage wrote them. Raises ValueError on a torn file."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: missing; `dvc repro cells` writes it") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: torn or edited ({error}); `dvc repro -f cells` writes it again") from None
    return rows


def folder_is_here(row: dict[str, Any], root: Path = Path()) -> bool:
    """Tell whether a row's folder of one's own is there, if it has one: without it its cells have no keys."""
    folder = row.get("data", {}).get("path")
    return folder is None or (root / folder).exists()


def chain(row: dict[str, Any]) -> list[Cell]:
    """Return the cells of a resolved row, upstream first: warm starts, train, evaluate."""
    warm = [_warm_start(row, initialisation) for initialisation in range(_num_warm_starts(row))]
    shared = {name: row[name] for name in ("dataset", "partition", "seed", "data", "model")}
    trained = shared | {name: row[name] for name in ("method", "representation", "parameters", "training")}
    trained["evaluation"] = row["evaluation"]  # the best epoch is chosen by it
    train = _cell("train", trained, upstream=tuple(cell.key for cell in warm))
    evaluated = shared | {name: row[name] for name in ("method", "representation", "evaluation")}
    return [*warm, train, _cell("evaluate", evaluated, upstream=(train.key,))]


def cells_of(row: dict[str, Any]) -> list[Cell]:
    """Return the chain of a resolved row, and for a few rows the `reliability` cell behind their training."""
    cells = chain(row)
    if (row["table"], row["method"], row["partition"]) not in RELIABILITY_OF:
        return cells
    train, evaluate = cells[-2:]
    share = row["parameters"].get("alpha0", TABLE_A1_ALPHA0)
    return [*cells, _cell("reliability", evaluate.values | {"unreliable_share": share}, upstream=(train.key,))]


def _num_warm_starts(row: dict[str, Any]) -> int:
    return row["networks"] if row["training"]["warm_start_epochs"] > 0 else 0


def _warm_start(row: dict[str, Any], initialisation: int) -> Cell:
    """Describe the supervised first epochs of one network. The schedule is the whole run's, so it is a part."""
    training = {key: value for key, value in row["training"].items() if key not in LATER_TRAINING_KEYS}
    values = {name: row[name] for name in ("dataset", "partition", "seed", "data", "model", "representation")}
    return _cell("warm_start", values | {"training": training, "initialisation": initialisation}, upstream=())


def _cell(kind: str, values: dict[str, Any], *, upstream: tuple[str, ...]) -> Cell:
    data = content(values["data"])
    model = values["model"] | {"weights": weights_identity(values["model"]["weights"])}
    decides = {
        "kind": kind,
        "values": values | {"data": data, "model": model},
        "upstream": upstream,
        "code": code_hash(kind, values.get("method", ""), backbone=values["model"]["backbone"]),
        "input": input_key(
            data | {"path": values["data"].get("path")}, values["dataset"], partition=values["partition"]
        ),
    }
    return Cell(kind, values, upstream, digest(decides))


def content(data: dict[str, Any]) -> dict[str, Any]:
    """Return what of a data block may change a result."""
    return {name: value for name, value in data.items() if name not in NO_CONTENT}


@cache
def weights_identity(weights: str | None) -> str | None:
    """Return the name of packaged weights, the sha256 of the file where `weights` is a path."""
    path = Path(weights or "")
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else weights


def digest(value: Any) -> str:
    """Return the sha256 of a JSON-ready value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@cache
def code_hash(kind: str, method: str, *, backbone: str) -> str:
    """Return the sha256 of the code that decides the result of a cell of this kind: its entry and all that imports.

    Comments, docstrings and layout are not hashed: they change no number.
    """
    pending = [PACKAGE / entry.format(method=method, backbone=backbone) for entry in ENTRY.get(kind, ())]
    found: dict[Path, str] = {}
    while pending:
        path = pending.pop()
        if path not in found:
            found[path], names = read_code(path)
            pending += _science_files(names)
    hashed = hashlib.sha256()
    for path in sorted(found):
        hashed.update(f"{path.relative_to(PACKAGE)}\0{found[path]}\0".encode())
    return hashed.hexdigest()


def _science_files(names: list[str]) -> list[Path]:
    """Return the files of the science folders among dotted names."""
    parts = [name.split(".") for name in names]
    files = [PACKAGE.joinpath(*inside).with_suffix(".py") for package, *inside in parts if package == PACKAGE.name]
    return [path for path in files if path.relative_to(PACKAGE).parts[0] in SCIENCE and path.is_file()]


def forget_code() -> None:
    """Look at source files and weights again at the next key: they may have been edited."""
    code_hash.cache_clear()
    weights_identity.cache_clear()
