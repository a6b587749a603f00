"""`python -m pipeline ui` up to where MLflow's own program takes over."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.__main__ import main
from pipeline.tracking import sending
from pipeline.tracking.database import UnreachableError


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The programs that took this process's place, in a project without tables."""
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / ".dvc").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.store.find_store", lambda _root: tmp_path / "cells")
    programs: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda _path, command: programs.append(command))
    return programs


def test_a_run_that_mlflow_fails_on_is_said_and_the_ui_opens(
    started: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_ingester: sending.Ingester) -> None:
        raise UnreachableError("internal error")

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(sending.Ingester, "work", fail)
    assert main(["ui"]) == 0
    assert "internal error" in capsys.readouterr().err
    assert [command[1:4] for command in started] == [["-m", "mlflow", "ui"]]


@pytest.mark.parametrize("uri", ["http://mlflow:5000", "https://me:secret@mlflow.example.org/u2pl"])
def test_the_ui_of_a_server_is_where_the_server_is(
    uri: str, started: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(sending.Ingester, "work", lambda _ingester: {})
    monkeypatch.setattr(sending.Ingester, "database", SimpleNamespace(experiment="7"))
    assert main(["ui"]) == 0
    address = uri.replace("secret", "***")
    tables = f"{address}/#/experiments/7/runs?searchFilter=tags.kind%20%3D%20%27table%27"
    assert capsys.readouterr().out == f"the MLflow UI is at {address}\nthe tables are at {tables}\n"
    assert started == []
