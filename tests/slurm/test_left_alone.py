"""A real cluster that the environment may point to is asked nothing by what cleans up after tests; no SLURM needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pretended `scancel` on a user's own cluster, and the file in which it notes which one it was to ask."""
    asked, scancel = tmp_path / "asked", tmp_path / "bin" / "scancel"
    scancel.parent.mkdir()
    scancel.write_text(f'#!/bin/sh\necho "$SLURM_CONF" >> {asked}\n')
    scancel.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scancel.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/slurm.conf")
    return asked


@pytest.fixture
def unasked(asked: Path) -> Iterator[None]:
    """Look after all fixtures that come later have cleaned up."""
    yield
    assert not asked.exists()


def test_a_test_cluster_cancels_its_own_jobs_wherever_the_environment_points(asked: Path, tmp_path: Path) -> None:
    from .conftest import Cluster

    Cluster(tmp_path).cancel_all()
    assert asked.read_text() == f"{tmp_path}/slurm.conf\n"


@pytest.mark.usefixtures("unasked")
def test_a_project_without_the_cluster_that_all_tests_share_cancels_nothing(make_site: Callable[..., Path]) -> None:
    make_site()
