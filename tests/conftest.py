"""A small project folder: two rows at tiny size, so that whole cells run in a second."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.params import params_text, project_params

PROJECT = Path(__file__).parents[1]


def forget_mlflow() -> None:
    """Take what is MLflow's out of the environment."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        del os.environ[name]


forget_mlflow()  # nor do tests write to a database of whoever runs them


@pytest.fixture(autouse=True)
def environment_without_what_mlflow_leaves() -> Iterator[None]:
    """MLflow notes its database in the environment, where processes that later tests start would take it for theirs."""
    yield
    forget_mlflow()


@pytest.fixture
def params() -> dict[str, Any]:
    """The project's own params.yaml at scale `smoke`."""
    return project_params()


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke scale's data and partitions, made once."""
    return make_data(tmp_path_factory.mktemp("data"))


def make_data(root: Path) -> Path:
    """Make the smoke scale's data and partitions below a folder, and return it."""
    from pipeline.data.partition import write_partitions
    from pipeline.data.sources import prepare

    scale = project_params()["scales"]["smoke"]
    for source, block in scale["sources"].items():
        prepare(block, root / source)
    for dataset in ("voc_classic", "voc_blender", "cityscapes"):
        block = scale[dataset]["data"]
        data = scale["sources"][block["source"]] | block
        write_partitions(data, dataset, root=root, out=root / "partitions" / dataset)
    return root


@pytest.fixture
def project(tmp_path: Path, data_root: Path) -> Path:
    """A folder that looks like the project to the launcher: DVC's marks, sites, code, data."""
    return make_project(tmp_path, data_root)


def make_project(folder: Path, data_root: Path) -> Path:
    """Make such a folder, and return it."""
    for name in ("slurm", "stages", "pipeline"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "test_cluster"))
    shutil.copy(PROJECT / "dvc.yaml", folder / "dvc.yaml")
    (folder / "params.yaml").write_text(params_text())
    (folder / ".dvc").mkdir()
    (folder / "data").mkdir()
    (folder / "data" / "smoke").symlink_to(data_root)
    return folder
