"""The literal commands on a copy of the project at toy size: repro, again, edit, experiment, kill, clone."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.store import Store, find_store
from tests.browser import Browser, complaints, needs_chromium
from tests.smoke import PROJECT, TABLES, copy_project

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent


class Copy:
    """A copy of the project and DVC's commands in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = copy_project(folder)
        self.environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "CLUSTER": "local"}
        self.environment |= {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@localhost"}
        self.environment |= {"GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@localhost"}

    def run(self, *command: str, status: int = 0) -> str:
        result = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False, timeout=580
        )
        assert result.returncode == status, result.stdout[-3000:] + result.stderr[-3000:]
        return result.stdout + result.stderr

    @property
    def store(self) -> Store:
        return Store(find_store(self.folder))

    def events(self) -> Counter[str]:
        return Counter(line["event"] for line in self.store.executions())


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    made = Copy(tmp_path_factory.mktemp("copy"))
    made.run("dvc", "repro", "tables@table_7", "tables@experiment")
    yield made
    subprocess.run(["pkill", "-f", str(made.folder)], check=False)


def test_a_table_stands_beside_the_papers(copy: Copy) -> None:
    text = (copy.folder / "reports" / "smoke" / "tables" / "table_7.md").read_text()
    assert "79.30" in text
    assert "scale `smoke`" in text
    rows = json.loads((copy.folder / "reports" / "smoke" / "metrics" / "table_7.json").read_text())
    assert len(rows) == 8
    assert all(row["provenance"]["commit"] for row in rows)


def test_every_cell_ran_once_and_nothing_runs_again(copy: Copy) -> None:
    keys = Counter(line["key"] for line in copy.store.executions() if line["event"] == "start")
    assert set(keys.values()) == {1}
    before = copy.events()
    assert "didn't change" in copy.run("dvc", "repro", "tables@table_7")
    assert copy.events() == before


def test_a_comment_in_the_launcher_makes_nothing_stale(copy: Copy) -> None:
    path = copy.folder / "pipeline" / "launch.py"
    path.write_text(path.read_text() + "# a comment\n")
    assert "Running stage" not in copy.run("dvc", "repro", "tables@table_7")


def test_a_comment_in_the_science_links_again_and_computes_nothing(copy: Copy) -> None:
    path = copy.folder / "pipeline" / "training" / "losses.py"
    path.write_text(path.read_text() + "# a comment\n")
    before = copy.events()
    assert "Running stage 'train@table_7'" in copy.run("dvc", "repro", "tables@table_7")
    assert copy.events() == before


def test_an_experiment_that_a_table_holds_computes_nothing_and_shows_its_miou(copy: Copy) -> None:
    copy.run("git", "add", "-A")
    copy.run("git", "commit", "-q", "-m", "as built")
    before = copy.events()
    copy.run("dvc", "exp", "run", "-S", "alpha0=0.3", "tables@experiment")
    assert copy.events() == before
    [baseline] = [each for each in json.loads(copy.run("dvc", "exp", "show", "--json")) if each["rev"] != "workspace"]
    [experiment] = [each["revs"][0]["data"] for each in baseline["experiments"]]
    metrics = experiment["metrics"]["reports/smoke/tables/experiment.json"]["data"]
    assert experiment["params"]["params.yaml"]["data"]["alpha0"] == 0.3
    assert list(metrics) == ["miou", "last_miou", "student_miou", "teacher_miou", "best_epoch"]
    rows = json.loads((copy.folder / "reports" / "smoke" / "metrics" / "table_7.json").read_text())
    [row] = [row for row in rows if row["parameters"]["alpha0"] == 0.3 and row["partition"] == "1-4"]
    assert metrics["miou"] == round(row["metrics"]["teacher"]["best"]["padding_ignored"]["miou"], 2)
    columns = (
        copy.run("dvc", "exp", "show", "--only-changed", "--drop", ".*(yaml|/).*", "--csv").splitlines()[0].split(",")
    )
    assert len(columns) < 12  # the hundreds of keys that are the same everywhere are left out
    assert {"alpha0", "miou"} <= set(columns)
    assert "alpha0" in copy.run("dvc", "params", "diff", "HEAD")


def test_dvc_tells_an_experiment_from_its_baseline_in_numbers_and_pictures(copy: Copy) -> None:
    changed = json.loads(copy.run("dvc", "metrics", "diff", "--json"))["reports/smoke/tables/experiment.json"]
    assert set(changed) >= {"miou", "teacher_miou"}
    of_a_table = copy.run("dvc", "metrics", "show", "--json", "reports/smoke/tables/table_7.json")
    assert len(json.loads(of_a_table)[""]["data"]["reports/smoke/tables/table_7.json"]["data"]["miou"]) == 4
    plots = "reports/smoke/plots"
    files = {f"{plots}/table_7/miou.csv", f"{plots}/experiment/curves.csv", f"{plots}/experiment/classes.csv"}
    shown = json.loads(copy.run("dvc", "plots", "show", "--json"))["data"]
    assert set(shown) == files
    compared = json.loads(copy.run("dvc", "plots", "diff", "HEAD", "workspace", "--json"))["data"]
    assert set(compared) == files
    assert all(set(plot["revisions"]) == {"HEAD", "workspace"} for [plot] in compared.values())
    curves = compared[f"{plots}/experiment/curves.csv"][0]["content"]
    assert curves["facet"]["field"] == "metric"
    assert {"loss/contrastive", "val/teacher_miou"} <= {value["metric"] for value in curves["data"]["values"]}
    bars = shown[f"{plots}/table_7/miou.csv"][0]["content"]["data"]["values"]
    assert [(bar["row"], bar["column"]) for bar in bars[:2]] == [("40", "1/8 (1323)"), ("40", "1/4 (2646)")]


@needs_chromium
def test_the_pictures_are_drawn_in_a_browser_without_complaint(copy: Copy, tmp_path: Path) -> None:
    """With the scripts that DVC's page takes from the network fetched as packages."""
    scripts = re.compile(r"https://cdn\.jsdelivr\.net/npm/([\w-]+)@([\d.]+)")
    copy.run("dvc", "plots", "diff", "HEAD", "workspace", "-o", str(tmp_path / "plots"))
    page = tmp_path / "plots" / "index.html"
    packages = [f"{name}@{version}" for name, version in scripts.findall(page.read_text())]
    install = ["npm", "install", "--no-audit", "--no-fund", "--legacy-peer-deps", "--prefix", str(tmp_path), *packages]
    if shutil.which("npm") is None or subprocess.run(install, capture_output=True, check=False).returncode:
        pytest.skip("no npm, or no registry to fetch Vega from")
    page.write_text(scripts.sub(r"../node_modules/\1/build/\1.min.js", page.read_text()))
    browser = Browser(tmp_path / "profile")
    browser.open(page)
    browser.wait("document.querySelectorAll('canvas').length == 3")
    said = [event["params"] for event in complaints(browser)]
    browser.close()
    assert [each for each in said if each.get("type") != "warning"] == []  # warnings: two versions of Vega-Lite 5


def test_a_new_value_computes_one_cell(copy: Copy) -> None:
    before = copy.events()
    copy.run("dvc", "exp", "run", "--temp", "-S", "alpha0=0.25", "tables@experiment")
    assert copy.events() - before == Counter({"start": 2, "done": 2})  # train and evaluate; the warm start is shared


def test_a_wrong_value_is_refused_before_anything_runs(copy: Copy) -> None:
    before, params = copy.events(), copy.folder / "params.yaml"
    text = params.read_text()
    output = copy.run("dvc", "exp", "run", "-S", "alpha0=1.5", "tables@experiment", status=255)
    assert "alpha0 is 1.5; allowed: at least 0 and below 1" in output
    assert copy.events() == before
    params.write_text(text)  # git may take the edit of the same second and size for no edit


def test_results_come_back_from_the_store_when_outputs_are_lost(copy: Copy) -> None:
    before = copy.events()
    subprocess.run(["rm", "-rf", "runs", "reports/smoke/metrics"], cwd=copy.folder, check=True)
    copy.run("dvc", "repro", "tables@table_7")
    assert copy.events() == before


def test_a_trained_cell_predicts_masks_and_two_commits_are_compared(copy: Copy) -> None:
    manifest = json.loads((copy.folder / "runs" / "smoke" / "train" / "table_7" / "manifest.json").read_text())
    key, images = min(manifest)[:16], copy.folder / "data" / "smoke" / "voc" / "JPEGImages"
    copy.run(sys.executable, "-m", "pipeline", "predict", key, str(images), "--out", "predicted")
    masks = {path.stem for path in (copy.folder / "predicted" / "masks").iterdir()}
    assert masks == {path.stem for path in images.iterdir()}
    subprocess.run(["rm", "-rf", "predicted"], cwd=copy.folder, check=True)
    compared = copy.run(sys.executable, "-m", "pipeline", "compare", "HEAD", "smoke", "table_7", "--json")
    records = json.loads(compared)
    assert len(records) == 8
    assert all(record["difference"] == 0 and record["changed"] == "" for record in records)
    assert "0 folders would go" in copy.run(sys.executable, "-m", "pipeline", "gc")


def test_an_empty_store_takes_over_what_git_and_the_dvc_cache_hold(copy: Copy) -> None:
    """As after `dvc pull` in a fresh clone; an edit then makes stages run, and no cell with them."""
    subprocess.run(["rm", "-rf", str(copy.store.root)], check=True)
    path = copy.folder / "pipeline" / "training" / "losses.py"
    path.write_text(path.read_text() + "# another comment\n")
    copy.run("dvc", "repro", "tables@table_7")
    assert set(copy.events()) == {"adopted"}
    assert all((copy.store.done(line["key"]) / "cell.json").exists() for line in copy.store.executions())


def test_the_smoke_run_ends_with_a_page_that_has_its_tables(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.smoke", str(tmp_path / "smoke")]
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "CLUSTER": "local"}
    result = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=400)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    page = (tmp_path / "smoke" / "reports" / "smoke" / "index.html").read_text()
    assert all(f'id="{table}"' in page for table in TABLES if table != "experiment")
    assert "figure_4: not drawn" in result.stdout  # Table 2 is no part of it


def test_killed_half_way_the_next_run_finishes_and_repeats_nothing(tmp_path: Path) -> None:
    copy = Copy(tmp_path / "killed")
    driver = subprocess.Popen(
        ["dvc", "repro", "tables@table_a5"],
        cwd=copy.folder,
        env=copy.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    end = time.monotonic() + 400
    while copy.events()["done"] < 3:
        assert time.monotonic() < end
        time.sleep(0.2)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    copy.run(sys.executable, "-m", "pipeline", "doctor")
    copy.run("dvc", "repro", "tables@table_a5")
    done = Counter(line["key"] for line in copy.store.executions() if line["event"] == "done")
    assert set(done.values()) == {1}
    assert len(done) == 15
