"""What MLflow's runs carry beside numbers, and the README's search strings, on a small database of Table 7."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest

from pipeline import listings
from pipeline.__main__ import main
from pipeline.cell import chain
from pipeline.tracking import artifacts
from pipeline.tracking.database import Database, UnreachableError
from pipeline.tracking.sending import Ingester, rebuild

if TYPE_CHECKING:
    from tests.pipeline.conftest import Lab

PROJECT = Path(__file__).parents[2]
TABLE = "table_7@embedded"
PICTURE = "image_label_prediction.png"
SECTION = (PROJECT / "README.md").read_text().split("| search string |")[1].split("\n## ")[0]
SEARCHES = re.findall(r"^\| `([^`]+)` \|", SECTION, re.MULTILINE)

pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy is deprecated:sqlalchemy.exc.SADeprecationWarning"  # MLflow's own use of it
)


@pytest.fixture
def project(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's reports of Table 7 alone, whose cells are done; pictures are drawn by a stand-in."""
    root = tmp_path / "project"
    for name in ("cells/table_7.json", "tables/table_7.md", "tables/table_7.csv", "figures/table_7_ablation.svg"):
        (root / "reports" / "embedded" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / "reports" / "embedded" / name, root / "reports" / "embedded" / name)
    for row in rows(root):
        *_, train, evaluate = chain(row)
        monkeypatch.setattr(lab, "VALUES", train.values)
        token = lab.begin(train.key)
        lab.spool(train.key, range(1, 4))
        (lab.store.work(train.key) / "weights.pt").write_bytes(b"w")
        lab.store.publish(train.key, token, result=lab.TRAINED)
        lab.store.publish(evaluate.key, lab.begin(evaluate.key, "evaluate", (train.key,)), result=lab.RESULT)

    def draw(_folder: Path, _row: dict[str, Any], *, data_root: Path, out: Path) -> None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(b"a picture")

    monkeypatch.setattr("pipeline.trained.samples.draw_samples", draw)
    return root


def rows(root: Path) -> list[dict[str, Any]]:
    return json.loads((root / "reports" / "embedded" / "cells" / "table_7.json").read_text())


def bring_up(lab: Lab, root: Path) -> tuple[Ingester, int]:
    ingester = Ingester(lab.store.root, listings.entries(root), uri=None)
    ingester.work()
    return ingester, artifacts.log_artifacts(root, lab.store, ingester=ingester)


def names(ingester: Ingester, run_id: str) -> set[str]:
    return {each.path for each in ingester.database.client.list_artifacts(run_id)}


def test_a_table_has_its_files_and_each_training_its_picture_once(lab: Lab, project: Path) -> None:
    ingester, sent = bring_up(lab, project)
    runs = lab.runs()
    files = {"table_7.md", "table_7.csv", "table_7_ablation.svg"}
    assert names(ingester, runs[TABLE]["id"]) == files
    trained = [chain(row)[-2].key for row in rows(project)]
    assert all(names(ingester, runs[key]["id"]) == {PICTURE} for key in trained)
    assert sent == len(files) + len(trained)
    assert bring_up(lab, project)[1] == 0
    (project / "reports" / "embedded" / "tables" / "table_7.csv").write_text("another")
    assert bring_up(lab, project)[1] == 1


def test_a_note_compares_the_runs_of_each_column_and_shows_the_table(lab: Lab, project: Path) -> None:
    bring_up(lab, project)
    runs = lab.runs()
    note = runs[TABLE]["tags"]["mlflow.note.content"]
    assert "79.30" in note
    links = dict(re.findall(r"\[([^\]]+)\]\(#/compare-runs\?runs=([^&]+)&", note))
    assert list(links) == ["all", "1/8 (1323)", "1/4 (2646)"]
    names_by_id = {run["id"]: run["tags"].get("alpha0") for run in runs.values()}
    assert [names_by_id[run] for run in json.loads(unquote(links["1/4 (2646)"]))] == ["0.4", "0.3", "0.2", "0.1"]


def test_a_rebuilt_database_has_them_again(lab: Lab, project: Path) -> None:
    ingester, sent = bring_up(lab, project)
    for run in lab.runs().values():
        ingester.database.client.delete_run(run["id"])
    rebuild(lab.store.root, listings.entries(project))
    assert bring_up(lab, project)[1] == sent


def test_where_mlflow_fails_on_one_run_the_others_have_them_before_it_is_said(
    lab: Lab, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "dvc.yaml").touch()
    (project / ".dvc").mkdir()
    monkeypatch.chdir(project)
    monkeypatch.setattr("pipeline.store.find_store", lambda _root: lab.store.root)
    faulty, log = chain(rows(project)[0])[-1].key, Database.log

    def failing(database: Database, run_id: str, **what: Any) -> None:
        if (what.get("tags") or {}).get("evaluate_key") == faulty:
            raise UnreachableError("internal error")
        log(database, run_id, **what)

    monkeypatch.setattr(Database, "log", failing)
    assert main(["track"]) == 1
    assert "track: internal error" in capsys.readouterr().err
    noted = [json.loads(path.read_text())["files"] for path in lab.store.root.glob("tracking/*/artifacts/*.json")]
    assert {"table_7.md", "table_7.csv", "table_7_ablation.svg"} in [set(files) for files in noted]


def test_a_network_that_cannot_be_drawn_stops_nothing(
    lab: Lab, project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("no data here")

    monkeypatch.setattr("pipeline.trained.samples.draw_samples", refuse)
    assert bring_up(lab, project)[1] == 3
    assert "no data here" in caplog.text


def test_every_search_string_of_the_readme_is_understood_and_finds_what_it_says(lab: Lab, project: Path) -> None:
    ingester, _ = bring_up(lab, project)
    client, experiment = ingester.database.client, ingester.database.experiment
    key = chain(rows(project)[0])[-2].key
    found = {search: len(client.search_runs([experiment], search.replace("4825da", key[:6]))) for search in SEARCHES}
    assert found == {
        "tags.kind = 'table'": 1,
        "tags.table.table_7 = 'true'": 8,
        "tags.alpha0 = '0.3'": 2,
        "params.method = 'u2pl' and params.partition = '1-4'": 4,
        'metrics."final/teacher_best_padding_ignored_miou" > 60': 8,
        "attributes.status = 'FAILED'": 0,
        "tags.diverged = 'true'": 0,
        "tags.cell_key LIKE '4825da%'": 1,
    }
