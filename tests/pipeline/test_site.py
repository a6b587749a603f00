"""A site's file: what is wrong in it is named, with the place and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.launch import load_site


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wokers": 2}, r"unknown or missing keys \['wokers'\]"),
        ({"executor": "pbs"}, "executor 'pbs'; allowed: local, slurm, debug"),
    ],
)
def test_a_wrong_site_file_names_the_key(change: dict[str, Any], message: str, project: Path) -> None:
    path = project / "slurm" / "local.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        load_site(project)


def test_an_unknown_cluster_names_those_there_are(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTER", "mars")
    with pytest.raises(ValueError, match=r"CLUSTER=mars.*there are: .*local"):
        load_site(project)
