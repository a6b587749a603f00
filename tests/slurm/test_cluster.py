"""slurm/test_cluster/{up,down,daemon}: a real SLURM on one host, which behaves as SLURM does and leaves no trace."""

from __future__ import annotations

import operator
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import submitit

from tests.slurm.driving import PROJECT

if TYPE_CHECKING:
    from tests.slurm.conftest import Cluster

pytestmark = pytest.mark.slurm

Start = Callable[..., "AbstractContextManager[Cluster]"]
SENTINEL = "test_cluster"
"""The file by which `down` knows its folder."""

TRACE = re.compile("slurm|munge|maria|mysql|innodb")


@pytest.fixture(scope="module")
def bare_cluster(running_cluster: Start) -> Iterator[Cluster]:
    """One cluster with all that can be varied at once: no accounting, GPUs, preemption with requeue, short arrays."""
    with running_cluster("--no-accounting", "--gres=2", "--preempt=REQUEUE", "--max-array-size=4") as started:
        yield started


class Starts:
    """A job of four CPUs that notes the node of each of its starts in a file, then sleeps."""

    def __init__(self, folder: Path) -> None:
        self.notes = folder / "starts"
        self.command = f"echo $SLURMD_NODENAME >> {self.notes}; exec sleep 60"
        self.arguments = ("--cpus-per-task=4", "--output=/dev/null", f"--wrap={self.command}")

    @property
    def nodes(self) -> list[str]:
        return self.notes.read_text().split() if self.notes.exists() else []


def sacct(cluster: Cluster, job: str) -> dict[str, str]:
    rows = cluster.run("sacct", "-X", "-n", "-P", "-j", job, "-o", "JobID,State").splitlines()
    return dict(row.split("|") for row in rows)


def refusal(*command: str) -> str:
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert answer.returncode != 0
    return answer.stdout + answer.stderr


def test_up_gives_three_idle_nodes_of_four_cpus(cluster: Cluster) -> None:
    assert cluster.run("sinfo", "-h", "-N", "-o", "%N %T %c").splitlines() == [f"n{i} idle 4" for i in range(3)]


def test_the_tasks_of_an_array_run_on_all_nodes_at_once(cluster: Cluster, tmp_path: Path) -> None:
    command = f"echo $SLURMD_NODENAME > {tmp_path}/$SLURM_ARRAY_TASK_ID; sleep 2"
    job = cluster.submit("--array=0-5", "--cpus-per-task=2", "--output=/dev/null", f"--wrap={command}")
    cluster.wait_for(lambda: cluster.states(job) == ["RUNNING"] * 6)
    cluster.wait_for(lambda: cluster.states(job) == [])
    nodes = [(tmp_path / str(task)).read_text().strip() for task in range(6)]
    assert sorted(nodes) == ["n0", "n0", "n1", "n1", "n2", "n2"]


def test_accounting_tells_the_end_of_each_task(cluster: Cluster) -> None:
    job = cluster.submit("--array=0-2", "--output=/dev/null", "--wrap=exit $SLURM_ARRAY_TASK_ID")
    ends = {f"{job}_0": "COMPLETED", f"{job}_1": "FAILED", f"{job}_2": "FAILED"}
    cluster.wait_for(lambda: sacct(cluster, job) == ends)


def test_submitit_gets_the_results_of_an_array(cluster: Cluster, tmp_path: Path) -> None:
    executor = submitit.AutoExecutor(folder=tmp_path / "%j", cluster="slurm")
    executor.update_parameters(timeout_min=5, slurm_array_parallelism=6, slurm_job_name="round-trip")
    jobs = executor.map_array(operator.mul, range(6), range(6))
    cluster.wait_for(lambda: all(job.paths.result_pickle.exists() for job in jobs))
    assert [job.result() for job in jobs] == [0, 1, 4, 9, 16, 25]


def test_one_task_of_an_array_can_be_cancelled(cluster: Cluster) -> None:
    job = cluster.submit("--array=0-2", "--output=/dev/null", "--wrap=sleep 60")
    cluster.wait_for(lambda: cluster.states(job) == ["RUNNING"] * 3)
    cluster.run("scancel", f"{job}_1")
    cluster.wait_for(lambda: cluster.states(job) == ["RUNNING"] * 2)
    cluster.run("scancel", job)
    cluster.wait_for(lambda: cluster.states(job) == [])


def test_a_requeued_job_starts_again_when_told_to(cluster: Cluster, tmp_path: Path) -> None:
    starts = Starts(tmp_path)
    job = cluster.submit(*starts.arguments)
    cluster.wait_for(lambda: len(starts.nodes) == 1)
    cluster.run("scontrol", "requeue", job)
    cluster.restart_requeued(job)
    cluster.wait_for(lambda: len(starts.nodes) == 2, seconds=30)
    cluster.run("scancel", job)


def test_the_job_of_a_fallen_node_starts_again_on_another(cluster: Cluster, tmp_path: Path) -> None:
    starts = Starts(tmp_path)
    job = cluster.submit(*starts.arguments)
    cluster.wait_for(lambda: len(starts.nodes) == 1)
    fallen = starts.nodes[0]
    cluster.kill(fallen)
    cluster.wait_for(lambda: len(starts.nodes) == 2)
    cluster.run("scancel", job)
    cluster.start(fallen)
    cluster.wait_for(lambda: cluster.run("sinfo", "-h", "-n", fallen, "-o", "%T") == "idle")
    assert starts.nodes[1] != fallen


def test_jobs_outlive_a_restart_of_slurmctld(cluster: Cluster, tmp_path: Path) -> None:
    starts = Starts(tmp_path)
    job = cluster.submit(*starts.arguments)
    cluster.wait_for(lambda: len(starts.nodes) == 1)
    cluster.stop("slurmctld")
    cluster.start("slurmctld")
    cluster.wait_for(lambda: cluster.states(job) == ["RUNNING"])
    cluster.run("scancel", job)
    assert len(starts.nodes) == 1


def test_without_accounting_squeue_answers_and_sacct_refuses(bare_cluster: Cluster) -> None:
    job = bare_cluster.submit("--output=/dev/null", "--wrap=sleep 60")
    bare_cluster.wait_for(lambda: bare_cluster.states(job) == ["RUNNING"])
    bare_cluster.run("scancel", job)
    assert "accounting storage is disabled" in refusal("sacct", "-j", job)


def test_an_array_beyond_the_maximum_is_refused(bare_cluster: Cluster) -> None:
    bare_cluster.submit("--array=0-3", "--output=/dev/null", "--wrap=true")
    assert "Invalid job array specification" in refusal("sbatch", "--array=0-4", "--wrap=true")


def test_gpus_are_counted(bare_cluster: Cluster) -> None:
    assert bare_cluster.run("srun", "--gpus-per-node=2", "printenv", "SLURM_GPUS_ON_NODE") == "2"
    assert "not available" in refusal("srun", "--gpus-per-node=3", "true")


def test_an_urgent_job_sends_another_back_to_the_queue(bare_cluster: Cluster, tmp_path: Path) -> None:
    starts = Starts(tmp_path)
    job = bare_cluster.submit("--nodelist=n1", *starts.arguments)
    bare_cluster.wait_for(lambda: len(starts.nodes) == 1)
    bare_cluster.run("srun", "--partition=urgent", "--nodelist=n1", "--cpus-per-task=4", "true")
    assert bare_cluster.states(job) == ["PENDING"]
    bare_cluster.run("scancel", job)


def test_an_urgent_job_cancels_another_where_the_site_says_so(running_cluster: Start, tmp_path: Path) -> None:
    starts = Starts(tmp_path)
    with running_cluster("--no-accounting", "--preempt=CANCEL", "--nodes=1") as cancelling:
        job = cancelling.submit(*starts.arguments)
        cancelling.wait_for(lambda: len(starts.nodes) == 1)
        cancelling.run("srun", "--partition=urgent", "--cpus-per-task=4", "true")
        assert "JobState=PREEMPTED" in cancelling.run("scontrol", "show", "job", job)


def test_down_leaves_no_process_and_no_file(running_cluster: Start, tmp_path: Path) -> None:
    escape = f"setsid sleep 600 & echo $! > {tmp_path}/escaped; exec sleep 601"
    with running_cluster("--nodes=1") as falling:
        pids = [int(path.read_text()) for path in (falling.folder / "run").glob("*.pid")]
        falling.submit("--output=/dev/null", f"--wrap={escape}")
        falling.wait_for((tmp_path / "escaped").exists)
        falling.down()
        assert not falling.folder.exists()
    assert not any(alive(pid) for pid in [*pids, int((tmp_path / "escaped").read_text())])


def traces(own: Path | None = None) -> set[str]:
    """What bears the daemons' names where their packages put things, less test clusters other than one's own."""
    places = (["/tmp", "-maxdepth", "1"], ["/run", "/var/log", "/var/lib", "/var/spool", "-maxdepth", "4"])
    listed = [subprocess.run(["find", *place], capture_output=True, text=True).stdout for place in places]
    named = {path for path in "".join(listed).splitlines() if TRACE.search(path)}
    return {path for path in named if path == str(own) or not (Path(path) / SENTINEL).exists()}


def test_down_leaves_nothing_where_the_packages_of_its_daemons_put_theirs(running_cluster: Start) -> None:
    before = traces()
    with running_cluster("--nodes=1") as falling:
        job = falling.submit("--output=/dev/null", "--wrap=true")
        falling.wait_for(lambda: falling.states(job) == [])
        assert str(falling.folder) in traces(falling.folder)
        falling.down()
    assert traces(falling.folder) == before


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


@pytest.mark.parametrize("installed", [True, False])
def test_continuous_integration_fails_where_slurm_cannot_be_installed(installed: bool, tmp_path: Path) -> None:
    """Otherwise it would be green with these tests skipped. Here neither apt-get nor the real `make` is found."""
    scripts = {".ci/run": (PROJECT / ".ci" / "run").read_text(), "bin/make": "#!/bin/sh\necho tested\n"}
    scripts["slurm/test_cluster/install"] = f"#!/bin/sh\nexit {0 if installed else 100}\n"
    for name, text in scripts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    for name in ("bash", "dirname", "id"):
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    ran = subprocess.run([tmp_path / ".ci" / "run"], env={"PATH": f"{tmp_path}/bin"}, capture_output=True, text=True)
    assert ran.returncode == (0 if installed else 1)
    assert ran.stdout == ("tested\n" if installed else "")
    assert ("SLURM could not be installed" in ran.stderr) is not installed
