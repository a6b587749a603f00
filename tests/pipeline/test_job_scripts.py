"""What sbatch is given beside the cells: words of the job's script, an environment, and another try."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from submitit.core.utils import FailedJobError

from pipeline import sbatch
from pipeline.sbatch import LaterError
from tests.pipeline import test_sbatch
from tests.pipeline.test_sbatch import Cluster, sleepers

cluster = test_sbatch.cluster


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"cpus_per_task": 8}, "--cpus-per-task=8 "),
        ({"slurm_cpus_per_task": 4}, "--cpus-per-task=4 "),
        ({"cpus_per_task": 8, "slurm_srun_args": ["--mpi=none"]}, "--cpus-per-task=8 --mpi=none "),
        ({"slurm_srun_args": ["--mpi=none"]}, "_log.err --export=ALL --mpi=none "),
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


def test_jobs_import_from_the_snapshot_and_then_from_where_the_driver_does(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster's modules may give torch by PYTHONPATH; what is relative would be another folder there."""
    monkeypatch.setenv("PYTHONPATH", f".{os.pathsep}/opt/modules/torch")
    cluster.send(sleepers(2))
    first, *others = json.loads((cluster.project / "environment").read_text())["PYTHONPATH"].split(os.pathsep)
    assert first.startswith(str(cluster.store.root / "snapshots"))
    assert others == ["/opt/modules/torch"]


def test_jobs_inherit_nothing_of_a_job_in_which_the_driver_runs(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in `srun --pty` or Jupyter; but how the cluster is reached, and a user's own habits."""
    job = ("SLURM_JOB_ID", "SLURM_MEM_PER_CPU", "SLURM_CPU_BIND", "SLURM_TRES_PER_TASK", "SLURM_CLUSTER_NAME")
    hidden = {*job, "SLURMD_NODENAME", "SRUN_DEBUG", "SBATCH_JOB_NAME", "MASTER_ADDR", "MASTER_PORT", "RANK"}
    hidden |= {"WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"}
    kept = {"SLURM_CONF", "SLURM_JWT", "SLURM_CLUSTERS", "SLURM_SACK_KEY", "SBATCH_ACCOUNT", "NCCL_DEBUG"}
    for name in hidden | kept:
        monkeypatch.setenv(name, "7")
    cluster.send(sleepers(2))
    given = json.loads((cluster.project / "environment").read_text())
    assert given.keys() & (hidden | kept) == kept
    assert all(os.environ[name] == "7" for name in hidden | kept)


def test_what_a_busy_or_restarting_controller_lets_sbatch_say_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sbatch, "ATTEMPTS", 1)
    refused: list[str] = []

    class Executor:
        def batch(self) -> Executor:
            raise FailedJobError(f"sbatch: error: Batch job submission failed: {refused[-1]}")

    for words in (
        *("Zero Bytes were transmitted or received", "Communication connection failure", "Message receive failure"),
        *("Message send failure", "I/O error writing script/environment to file", "Protocol authentication error"),
        *("Slurm backup controller in standby mode", "Socket timed out on send/recv operation"),
    ):
        refused.append(words)
        with pytest.raises(LaterError, match=words):
            sbatch._patiently(Executor(), [])
