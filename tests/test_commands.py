"""The commands of the README, run by a shell in a copy of the project at scale `smoke`; which are not, and why."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.smoke import PROJECT
from tests.test_end_to_end import Copy

README = (PROJECT / "README.md").read_text().replace("\\|", "|")
WRITTEN = r"`((?:make|dvc|pip|source|eval|CLUSTER=\S+ dvc|mlflow|python -m|slurm/\S+ &&)\s[^`]+)`"
FOUND = {" ".join(command.split()) for command in re.findall(WRITTEN, README)}

RUN = {
    "make repro": None,
    "dvc repro": None,
    "make repro-extra": None,
    "source .venv/bin/activate": None,
    "make check": "make check MAKE=true",  # its last line is `make test`, of which this is a part
    "make test-fast": "make -n test-fast",  # a part of `make test` too
    "make bench": "make bench BENCHMARKS=floor",
    "dvc repro tables@table_7": None,
    "dvc repro -f -s download@voc": None,
    "dvc repro --dry": None,
    "dvc --wait-for-lock repro …": "dvc --wait-for-lock repro tables@table_7",
    "git": "git add -A && git commit -q -m 'as built'",
    "dvc exp run -S alpha0=0.3 tables@experiment": None,
    "dvc exp run --queue -S alpha0=0.1,0.2,0.3,0.4 tables@experiment": None,
    "dvc exp run --run-all": None,
    "dvc exp show --only-changed --drop '.*(yaml|/).*'": None,
    "dvc metrics diff": None,
    "dvc params diff": None,
    "dvc metrics show reports/embedded/tables/table_7.json": "dvc metrics show reports/smoke/tables/table_7.json",
    "dvc plots show": None,
    "dvc plots diff HEAD workspace": None,
    "dvc cache dir": None,
    "dvc config cache.shared group": None,
    "python -m pipeline plan": None,
    "python -m pipeline plan [TABLE|STAGE …]": "python -m pipeline plan table_7",
    "python -m pipeline plan --scale paper": "python -m pipeline plan --scale smoke table_7 --out plan.md",
    "python -m pipeline plan --scale paper [TABLE …]": "python -m pipeline plan --scale smoke table_7",
    "python -m pipeline status [--watch]": "python -m pipeline status",
    "python -m pipeline tables [--scale S] [TABLE …]": "python -m pipeline tables --scale smoke table_7",
    "python -m pipeline logs [-f] KEY": "python -m pipeline logs $KEY",
    "python -m pipeline why KEY": "python -m pipeline why $KEY",
    "python -m pipeline cancel TABLE|KEY …": "python -m pipeline cancel table_7",
    "python -m pipeline retry [TABLE|KEY]": "python -m pipeline retry table_7",
    "python -m pipeline retry": None,
    "python -m pipeline doctor": None,
    "python -m pipeline compare A B [TABLE …]": "python -m pipeline compare HEAD smoke table_7",
    "python -m pipeline predict KEY IMAGES --out DIR": "python -m pipeline predict $KEY $IMAGES --out predicted",
    "--val": "python -m pipeline predict $KEY --val --out val && test $(ls val | wc -l) = $NUM_VAL",
    "python -m pipeline export KEY DIR --size H W [--as onnx|mlflow]": (
        "python -m pipeline export $KEY exported --size 48 64 && test -s exported/README.md"
    ),
    "python -m pipeline gc [--done] [--force]": "python -m pipeline gc --done --force",
    "python -m pipeline track [--rebuild]": "python -m pipeline track",
    "python -m pipeline track --rebuild": None,
    'eval "$(python -m pipeline completion bash)"': 'eval "$(python -m pipeline completion bash)" && pipeline status',
    "python -m stages.weights SCALE": "python -m stages.weights smoke",
}
"""As written, and as run where placeholders are filled or the scale is another. In this order."""

ELSEWHERE = {
    "make smoke": ("tests/test_end_to_end.py", '"-m", "tests.smoke"'),
    "make test": (".ci/run", "make test"),
    "make ui": ("tests/pipeline/test_mlflow_ui.py", '"-m", "pipeline", "ui"'),
    "dvc exp run -S scale=laptop reports/laptop/dvc.yaml": ("tests/test_laptop.py", '"scale=laptop", "reports/laptop'),
    "dvc exp run -S scale=paper": ("tests/test_laptop.py", '"exp", "run", "-S", "scale=paper"'),
    "dvc exp run --temp": ("tests/test_end_to_end.py", '"--temp"'),
    "dvc plots": ("tests/test_end_to_end.py", '"plots", "diff"'),
    "mlflow models serve": ("tests/pipeline/test_export.py", '"mlflow", "models", "serve"'),
    "CLUSTER=<site> dvc repro": ("tests/slurm/test_repro.py", 'environment["CLUSTER"] = "test"'),
    'slurm/test_cluster/install && eval "$(slurm/test_cluster/up)"': (".ci/run", "slurm/test_cluster/install"),
}
"""What another test runs: the file, and the words in it."""

NOT_RUN = {
    "pip install -e '.[cityscapes]'": "it would change the environment that the tests run in",
    "dvc pull": "there is no remote; the store's taking over of a pulled cache is in tests/test_end_to_end.py",
}


def test_no_command_of_the_readme_is_left_out() -> None:
    assert FOUND - set(RUN) - set(ELSEWHERE) - set(NOT_RUN) == set()
    assert {*ELSEWHERE, *NOT_RUN} <= FOUND
    assert set(RUN) - FOUND == {"git", "--val"}


@pytest.mark.parametrize("command", sorted(ELSEWHERE))
def test_what_is_run_elsewhere_is_run_there(command: str) -> None:
    file, words = ELSEWHERE[command]
    assert words in (PROJECT / file).read_text()


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    """A copy that takes this environment for its own, as `make` left it."""
    if not (Path(sys.prefix) / ".ready").exists():
        pytest.skip("this environment was not made by `make`")
    made = Copy(tmp_path_factory.mktemp("commands"))
    (made.folder / ".venv").symlink_to(sys.prefix)
    os.utime(made.folder / "requirements.lock", (0, 0))
    images = made.folder / "data" / "smoke" / "voc" / "JPEGImages"
    made.environment |= {"IMAGES": str(images), "PYTHONWARNINGS": "default"}
    yield made
    subprocess.run(["pkill", "-f", str(made.folder)], check=False)


def name_a_cell(copy: Copy) -> None:
    """Let $KEY be a trained cell and $NUM_VAL the number of validation images, as soon as there are any."""
    manifest = copy.folder / "runs" / "smoke" / "train" / "table_7" / "manifest.json"
    if manifest.exists():
        copy.environment["KEY"] = min(json.loads(manifest.read_text()))[:16]
        val = copy.folder / "data" / "smoke" / "partitions" / "voc_blender" / "val.txt"
        copy.environment["NUM_VAL"] = str(len(val.read_text().split()))


@pytest.mark.slow
@pytest.mark.timeout(1600)
@pytest.mark.parametrize("command", list(RUN))
def test_it_runs(copy: Copy, command: str) -> None:
    name_a_cell(copy)
    result = subprocess.run(
        ["bash", "-c", RUN[command] or command],
        cwd=copy.folder,
        env=copy.environment,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]


@pytest.mark.slow
def test_all_tables_stand_on_one_page(copy: Copy) -> None:
    """Of the paper's and our own; the sweep's four experiments have their values."""
    page = (copy.folder / "reports" / "smoke" / "index.html").read_text()
    names = {path.stem for path in (copy.folder / "reports" / "smoke" / "tables").glob("table_*.md")}
    assert {"table_1", "table_a8", "table_x1", "table_x4"} <= names
    assert all(f'id="{name}"' in page for name in names)
    shown = copy.run("dvc", "exp", "show", "--json")
    assert {0.1, 0.2, 0.3, 0.4} <= set(map(float, re.findall(r'"alpha0": ([\d.]+)', shown)))
