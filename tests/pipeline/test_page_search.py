"""What the page says finds a run in MLflow does find it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pytest

from pipeline.reporting.provenance import mlflow_search
from pipeline.tracking.sending import ingest


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, of SQLAlchemy
def test_the_search_string_of_a_number_finds_the_run_of_its_training(lab: Any, tmp_path: Path) -> None:
    for key in ("a" * 64, "b" * 64):
        lab.finish(key)
    ingest(lab.store.root, [lab.entry("a" * 64), lab.entry("b" * 64)])
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    [run] = client.search_runs(experiments, filter_string=mlflow_search("a" * 64))
    assert run.info.run_id == lab.runs()["a" * 64]["id"]
    assert run.data.metrics["final/teacher_best_padding_ignored_miou"] == pytest.approx(61.5)
