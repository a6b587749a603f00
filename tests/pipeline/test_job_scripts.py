"""What sbatch is given beside the cells: words of the job's script."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pipeline import test_sbatch
from tests.pipeline.test_sbatch import Cluster, sleepers

cluster = test_sbatch.cluster


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"cpus_per_task": 8}, "--cpus-per-task=8 "),
        ({"slurm_cpus_per_task": 4}, "--cpus-per-task=4 "),
        ({"cpus_per_task": 8, "slurm_srun_args": ["--mpi=none"]}, "--cpus-per-task=8 --mpi=none "),
        ({"slurm_srun_args": ["--mpi=none"]}, "_log.err --mpi=none "),
    ],
)
def test_srun_is_told_the_cpus_of_a_task_before_what_the_site_tells_it(
    cluster: Cluster, parameters: dict[str, Any], words: str
) -> None:
    """It takes them from no sbatch since SLURM 22.05: a worker and its loaders would share one."""
    cluster.be(room=100, parameters={"timeout_min": 5} | parameters)
    cluster.send(sleepers(2))
    scripts = [path for path in cluster.store.submissions.glob("*/jobs/**/*.sh") if not path.is_symlink()]
    (line,) = [line for path in scripts for line in path.read_text().splitlines() if line.startswith("srun ")]
    assert words in line
    assert line.count("--cpus-per-task") == ("--cpus-per-task" in words)
