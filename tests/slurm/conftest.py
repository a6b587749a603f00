"""A real SLURM cluster for the tests of this folder; they skip, saying why, where SLURM is not installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline import attach
from pipeline.cluster import slurm
from pipeline.cluster.origin import user
from pipeline.store import Store, find_store
from tests.conftest import make_project
from tests.slurm.driving import send, u2pl_cells, write_site

TOOLS = Path(__file__).parents[2] / "slurm" / "test_cluster"


@dataclass(frozen=True)
class Cluster:
    """A running test cluster. SLURM's commands, and submitit, reach it through the environment."""

    folder: Path

    def run(self, *command: str) -> str:
        """Output of a command, stripped; a command that fails raises CalledProcessError."""
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()

    def submit(self, *arguments: str) -> str:
        """Id of the job that sbatch makes of these arguments."""
        return self.run("sbatch", "--parsable", *arguments)

    def states(self, job: str) -> list[str]:
        """States that squeue gives the tasks of a job, in their order; none once it ended or was forgotten."""
        shown = subprocess.run(["squeue", "-h", "-r", "-j", job, "-S", "i", "-o", "%T"], capture_output=True, text=True)
        return shown.stdout.split()

    def idle(self) -> bool:
        """Whether the controller answers and nothing waits or runs."""
        listed = subprocess.run(["squeue", "-h"], capture_output=True, text=True, timeout=60)
        return listed.returncode == 0 and not listed.stdout

    def wait_for(self, condition: Callable[[], bool], *, seconds: float = 60) -> None:
        """Return once the condition holds; TimeoutError, with squeue's output, if it does not in time."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"not within {seconds} s; squeue:\n{self.run('squeue', '-r')}\n{self.run('sinfo', '-N')}"
                )
            time.sleep(0.2)

    def restart_requeued(self, job: str) -> None:
        """Start a job that is being requeued at once, which SLURM would do after two minutes.

        Not before its nodes have let go of it: one that still ends a job refuses the same job, which then fails.
        """
        self.wait_for(lambda: self.states(job) == ["PENDING"])
        self.wait_for(lambda: set(self.run("sinfo", "-h", "-N", "-o", "%T").split()) == {"idle"})
        time.sleep(1.0)  # idle to sinfo is not yet done to slurmd
        self.run("scontrol", "update", f"JobId={job}", "StartTime=now")

    def kill(self, daemon: str) -> None:
        """Let slurmctld, a node (n0, n1, …) with all that runs on it, or another daemon crash."""
        self.run(str(TOOLS / "daemon"), "kill", daemon, str(self.folder))

    def stop(self, daemon: str) -> None:
        """Stop a daemon in order: slurmctld saves its state, jobs of a node run on."""
        self.run(str(TOOLS / "daemon"), "stop", daemon, str(self.folder))

    def start(self, daemon: str) -> None:
        """Start a daemon again."""
        self.run(str(TOOLS / "daemon"), "start", daemon, str(self.folder))

    def cancel_all(self) -> None:
        """Cancel every job of this cluster: its own, whatever the environment points to by now."""
        environment = {"PATH": os.environ["PATH"], "SLURM_CONF": str(self.folder / "slurm.conf")}
        subprocess.run(["scancel", "-u", user()], env=environment, check=False, capture_output=True)

    def down(self) -> None:
        """End every process of the cluster and remove its folder."""
        self.run(str(TOOLS / "down"), str(self.folder))


@contextmanager
def _running_cluster(*flags: str) -> Iterator[Cluster]:
    """A cluster of its own, to which the environment points meanwhile; `flags` are those of slurm/test_cluster/up."""
    if shutil.which("slurmctld", path="/usr/local/sbin:/usr/sbin") is None or shutil.which("sbatch") is None:
        pytest.skip(f"SLURM is not installed here; {TOOLS / 'install'} installs it")
    up = subprocess.run([TOOLS / "up", *flags], capture_output=True, text=True, timeout=300)
    assert up.returncode == 0, up.stderr
    environment = dict(re.findall(r"export (\w+)=(.*)", up.stdout))
    cluster = Cluster(Path(environment["TEST_CLUSTER"]))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        try:
            yield cluster
        finally:
            if cluster.folder.exists():
                cluster.down()


@pytest.fixture(scope="session")
def running_cluster() -> Callable[..., AbstractContextManager[Cluster]]:
    """Start a variant: `with running_cluster("--preempt", "CANCEL") as cluster`."""
    return _running_cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Three nodes of four CPUs with accounting, shared by all tests: leave it idle, and ask about jobs by their ids."""
    with _running_cluster() as started:
        yield started


@pytest.fixture
def make_site(
    project: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Path]]:
    """A project on whatever cluster is up, asked about every two seconds; keywords as `write_site` has them.

    The cluster that all tests share is left without jobs; one of a test's own goes with all that it has.
    """
    shared = request.getfixturevalue("cluster") if "cluster" in request.fixturenames else None
    monkeypatch.chdir(project)
    monkeypatch.setenv("CLUSTER", "test")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(project / "nothing"))
    monkeypatch.setattr(slurm, "SQUEUE_S", 2.0)
    monkeypatch.setattr(slurm, "GRACE_S", 4.0)
    monkeypatch.setattr(attach, "LIVENESS_S", 2.0)
    monkeypatch.setattr(attach, "RETRY_S", 2.0)
    yield lambda parameters=None, **site: write_site(project, parameters or {}, **site)
    if shared is not None:
        shared.cancel_all()


@pytest.fixture
def site(cluster: Cluster, make_site: Callable[..., Path]) -> Path:
    """A project on the cluster that all tests share: one training a job."""
    assert cluster
    return make_site()


@pytest.fixture(scope="session")
def calm(cluster: Cluster, data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store in which the cells of `u2pl_cells()` ran undisturbed, on the cluster that all tests share."""
    project = write_site(make_project(tmp_path_factory.mktemp("calm"), data_root), {})
    cells, store = u2pl_cells(), Store(find_store(project))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLUSTER", "test")
        send(project, cells)
        cluster.wait_for(lambda: store.is_done(cells[-1].key), seconds=300)
    return store
