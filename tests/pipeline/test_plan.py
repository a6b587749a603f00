"""The plan: what DVC will run, in its order, with staleness carried downstream; and what a command line asks for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.plan import parse_command, stale_stages

DVC_YAML = """
stages:
  first:
    cmd: cp a b
    deps: [a]
    outs: [b]
  second:
    cmd: cp b c
    deps: [b]
    outs: [c]
  other:
    cmd: cp d e
    deps: [d]
    outs: [e]
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    (folder / "dvc.yaml").write_text(DVC_YAML)
    for name in "ad":
        (folder / name).write_text(name)
    for command in (["init", "-q", "--no-scm"], ["repro", "-q"]):
        subprocess.run([sys.executable, "-m", "dvc", *command], cwd=folder, check=True, capture_output=True)
    return folder


def test_nothing_is_stale_after_a_run(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    assert stale_stages(repository, ["dvc", "repro"]) == {}


def test_staleness_goes_downstream_and_says_why(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    (repository / "a").write_text("changed")
    assert stale_stages(repository, ["dvc", "repro"]) == {"first": ["a modified"], "second": ["after first"]}
    assert stale_stages(repository, ["dvc", "repro", "-s", "second"]) == {}
    assert list(stale_stages(repository, ["dvc", "repro", "second"])) == ["first", "second"]
    assert stale_stages(repository, ["dvc", "repro", "other"]) == {}
    (repository / "a").write_text("a")


def test_a_frozen_stage_is_as_dvc_takes_it(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it depends on does not matter: called stale, all behind it would wait for what never runs."""
    monkeypatch.chdir(repository)
    (repository / "a").write_text("changed")
    (repository / "dvc.yaml").write_text(DVC_YAML.replace("cmd: cp a b", "cmd: cp a b\n    frozen: true"))
    assert stale_stages(repository, ["dvc", "repro"]) == {}
    (repository / "dvc.yaml").write_text(DVC_YAML)
    (repository / "a").write_text("a")


def test_in_a_queue_the_stage_is_known_by_its_file_too(repository: Path) -> None:
    """Which calls no `dvc repro`; stages of another dvc.yaml are not found by their names alone."""
    inner = repository / "inner"
    inner.mkdir()
    (inner / "dvc.yaml").write_text("stages:\n  third: {cmd: echo, deps: [../c], outs: [out]}\n")
    environment = os.environ | {"DVC_STAGE": "inner/dvc.yaml:third", "PYTHONPATH": str(Path(__file__).parents[2])}
    code = (
        "import sys; from pipeline import plan\nplan.dvc_command = lambda: (['dvc', 'exp', 'exec-run'], sys.argv[1])\n"
    )
    command = [sys.executable, "-c", f"{code}plan.main(sys.argv[1:])", str(repository), "third"]
    answer = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=True)
    assert list(json.loads(answer.stdout)) == ["inner/dvc.yaml:third"]
    shutil.rmtree(inner)


def test_without_a_readable_command_the_stage_itself_is_the_plan(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    (repository / "a").write_text("changed")
    (repository / "d").write_text("changed")
    assert list(stale_stages(repository, ["dvc", "queue", "start"], fallback="second")) == ["first", "second"]
    (repository / "a").write_text("a")
    (repository / "d").write_text("d")


def test_what_is_only_missing_is_no_reason_where_dvc_does_without(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    (repository / "b").rename(repository / "elsewhere")
    assert list(stale_stages(repository, ["dvc", "repro"])) == ["first", "second"]
    assert stale_stages(repository, ["dvc", "repro", "--allow-missing"]) == {}
    (repository / "elsewhere").rename(repository / "b")


def test_the_plan_is_of_the_folder_that_dvc_runs_in(repository: Path) -> None:
    inner, out = repository / "inner", repository / "plan.json"
    inner.mkdir()
    asked = f"PYTHONPATH={Path(__file__).parents[2]} {sys.executable} -m pipeline.plan {repository} > {out}"
    stages = {"ask": {"cmd": asked, "outs": ["../plan.json"]}, "later": {"cmd": "touch x", "outs": ["x"]}}
    stages["later"]["deps"] = ["../plan.json"]
    (inner / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    dvc = Path(sys.executable).with_name("dvc")
    subprocess.run([dvc, "repro", "-q"], cwd=inner, check=True, capture_output=True)
    assert set(json.loads(out.read_text())) == {"ask", "later"}


@pytest.mark.parametrize(
    ("command", "targets"),
    [
        (["/usr/bin/python", "/opt/bin/dvc", "repro", "tables@table_7"], ["tables@table_7"]),
        (["dvc", "exp", "run", "-S", "alpha0=0.3", "evaluate@experiment"], ["evaluate@experiment"]),
        (["dvc", "--wait-for-lock", "repro"], []),
    ],
)
def test_a_command_line_is_read_as_dvc_reads_it(command: list[str], targets: list[str]) -> None:
    options = parse_command(command)
    assert options is not None
    assert options.targets == targets


@pytest.mark.parametrize("command", [["dvc", "exp", "exec-run"], ["bash", "-c", "x"], ["dvc", "status"]])
def test_what_asks_for_no_stages_is_no_request(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_command(command) is None
    capsys.readouterr()
