"""What is looked at in MLflow beside numbers: each table with its figures, what networks predict, links that compare.

Made by `python -m pipeline track` and `ui`, and so by the report stage, when the runs are up to the store: no worker
waits for it. All of it comes from the store and from `reports/`, so a rebuilt database has it again. A file is sent
once for each of its contents: what a run has is noted beside the ingester's own notes.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipeline.cell import chain
from pipeline.files import read_json, write_json
from pipeline.labels import VALUE_LABELS
from pipeline.listings import entries, tables_of
from pipeline.store import Store
from pipeline.tracking.database import UnreachableError
from pipeline.tracking.sending import Ingester

LOG = logging.getLogger(__name__)
MAX_NOTE = 8000
"""Characters that MLflow takes of a note."""
KEYS = {header: key for key, (header, _) in VALUE_LABELS.items()}
"""Header of a table -> the key of params.yaml that its rows vary."""

Row = dict[str, Any]


def bring_up(root: Path, store: Store) -> dict[str, int]:
    """Bring runs and what hangs on them up to the store; return how many runs there are of each status.

    Raises UnreachableError where MLflow took nothing of a run, once it has what hangs on the others.
    """
    ingester = Ingester(store.root, entries(root), uri=None)
    try:
        counts = ingester.work()
    except UnreachableError:
        log_artifacts(root, store, ingester=ingester)
        raise
    log_artifacts(root, store, ingester=ingester)
    return counts


def log_artifacts(root: Path, store: Store, *, ingester: Ingester) -> int:
    """Send what the runs of the ingester's last pass lack; return how many files were sent."""
    sent = 0
    for (scale, table), rows in tables_of(root).items():
        parent = ingester.runs.get(f"{table}@{scale}")
        trained = [(row, ingester.runs[chain(row)[-2].key]) for row in rows if chain(row)[-2].key in ingester.runs]
        for row, run in trained:
            key = chain(row)[-2].key
            sent += _bring(
                ingester, key, run_id=run["run_id"], tags=varied(row), files=_samples(root, store, key=key, row=row)
            )
        if parent is not None:
            folder = root / "reports" / scale
            note = note_of(ingester.database.experiment, trained, table=folder / "tables" / f"{table}.md")
            files = {path.name: path for path in _files(folder, table)}
            sent += _bring(
                ingester, f"{table}@{scale}", run_id=parent["run_id"], tags={"mlflow.note.content": note}, files=files
            )
    return sent


def varied(row: Row) -> dict[str, str]:
    """Return what the table varies as tags under the keys of params.yaml, e.g. `alpha0` = `0.3`."""
    places = (row["parameters"], row["training"], row["evaluation"])
    tags = {}
    for header, label in row["row"].items():
        key = KEYS.get(header, header)
        value = row[key] if key in ("method", "seed") else next((each[key] for each in places if key in each), label)
        tags[key] = str(value)
    return tags


def note_of(experiment: str, trained: Sequence[tuple[Row, Mapping[str, Any]]], *, table: Path) -> str:
    """Return a table's note in Markdown: links to MLflow's page that compares its runs, and the table itself."""
    by_column: dict[str, list[str]] = defaultdict(list)
    for row, run in trained:
        by_column[row["column"]].append(run["run_id"])
    sides = {"all": [run["run_id"] for _, run in trained]} | (by_column if len(by_column) > 1 else {})
    links = [f"[{name}]({compare_link(experiment, runs)})" for name, runs in sides.items() if len(runs) > 1]
    text = "\n\n".join([f"Compare the runs: {' · '.join(links)}"] * bool(links))
    whole = "\n\n".join([text, table.read_text(encoding="utf-8")]) if table.exists() else text
    return whole if len(whole) <= MAX_NOTE else text


def compare_link(experiment: str, run_ids: list[str]) -> str:
    """Return the address of MLflow's page that compares runs, relative to its first page."""
    runs, experiments = (quote(json.dumps(ids, separators=(",", ":"))) for ids in (run_ids, [experiment]))
    return f"#/compare-runs?runs={runs}&experiments={experiments}"


def tables_link(store: Store) -> str:
    """Return the address of the list of the tables' runs, relative to MLflow's first page. Raises UnreachableError."""
    experiment = Ingester(store.root, (), uri=None).database.experiment
    return f"#/experiments/{experiment}/runs?searchFilter=" + quote("tags.kind = 'table'")


def _files(folder: Path, table: str) -> Iterator[Path]:
    yield from sorted((folder / "tables").glob(f"{table}.*"))
    yield from sorted((folder / "figures").glob(f"{table}_*.*"))


def _samples(root: Path, store: Store, *, key: str, row: Row) -> dict[str, Path]:
    """Return the picture of a cell's predictions, drawn if it was not yet, or nothing where that cannot be."""
    out = store.root / "tracking" / "pictures" / f"{key}.png"
    if not out.exists():
        if not (store.done(key) / "weights.pt").exists():
            return {}
        from pipeline.trained.samples import draw_samples

        try:
            draw_samples(store.done(key), row, data_root=root / "data" / row["scale"], out=out)
        except (OSError, ValueError) as error:
            LOG.warning("no sample predictions of %s: %s", key[:12], error)
            return {}
    return {"image_label_prediction.png": out}


def _bring(ingester: Ingester, key: str, *, run_id: str, tags: Mapping[str, str], files: Mapping[str, Path]) -> int:
    """Send the tags and files of a run that it has not yet; return how many files."""
    notes = ingester.folder / "artifacts" / f"{key}.json"
    known = read_json(notes) or {}
    known = known if known.get("run_id") == run_id else {"run_id": run_id, "tags": {}, "files": {}}
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    new = [name for name, digest in digests.items() if known["files"].get(name) != digest]
    tags = {name: value for name, value in tags.items() if known["tags"].get(name) != value}
    if not new and not tags:
        return 0
    with ingester.kept_apart(key):
        ingester.database.log(run_id, tags=tags)
        for name in new:
            ingester.database.attach(run_id, files[name], name=name)
        write_json(notes, {"run_id": run_id, "tags": known["tags"] | tags, "files": known["files"] | digests})
    return len(new)
