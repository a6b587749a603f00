"""Arrays as sbatch sees them: limits on jobs undo nothing that was taken, and throttles hold in total."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import launch, sbatch
from pipeline.cell import Cell, digest
from pipeline.cluster.liveness import release_dead
from pipeline.files import read_json
from pipeline.launcher import Launcher
from pipeline.sbatch import JobsRefusedError, LaterError, is_limit
from pipeline.store import Store, find_store

SBATCH = """#!{python}
import json, os, pathlib, re, sys
folder, script = pathlib.Path({folder!r}), pathlib.Path(sys.argv[-1]).read_text()
array = re.search(r"--array=0-(\\d+)%(\\d+)", script)
tasks, throttle = (int(array[1]) + 1, int(array[2])) if array else (1, 1)
after = re.search(r"--dependency=afterany:(\\S+)", script)
taken = sorted(folder.glob("*.json"))
sent = sum(json.loads(path.read_text())["tasks"] for path in taken)
(folder.parent / "environment").write_text(json.dumps(dict(os.environ)))
(folder.parent / "asked").open("a").write(f"{{tasks}}\\n")
if ({large} and f"--mem={large}GB" in script) or sent + tasks > {room}:
    sys.exit({refusal!r})
line = dict(tasks=tasks, throttle=min(tasks, throttle), after=after and after[1].split(":"))
(folder / f"{{len(taken)}}.json").write_text(json.dumps(line))
print("Submitted batch job", 100 + len(taken))
"""
TEN_GB: dict[str, Any] = {"parameters": {"timeout_min": 5, "mem_gb": 10}}
LIMIT = """sbatch: error: QOSMaxSubmitJobPerUserLimit
sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or \
time limits)"""


class Cluster:
    """What a pretended sbatch took, in a project that believes in it."""

    def __init__(self, project: Path, patch: pytest.MonkeyPatch) -> None:
        self.project, self.patch, self.taken = project, patch, project / "taken"
        self.taken.mkdir()
        patch.setenv("CLUSTER", "test")
        patch.setenv("PATH", f"{project / 'bin'}:{os.environ['PATH']}")
        patch.setenv("XDG_CONFIG_HOME", str(project / "nothing"))
        patch.setenv("PYTHONPATH", "")
        self.store = Store(find_store(project))
        (project / "bin").mkdir()
        self.be(room=10**6)

    def be(self, *, room: int, refusal: str = LIMIT, array_size: int = 1001, large: int = 0, **site: Any) -> None:
        """Take so many tasks in all, in arrays no larger than that, and none of so many gigabytes."""
        self.patch.setattr(sbatch, "max_array_size", lambda: array_size)
        local = yaml.safe_load((self.project / "slurm" / "local.yaml").read_text())
        given = local | {"executor": "slurm", "workers": 6, "pack": 1, "parameters": {"timeout_min": 5}} | site
        (self.project / "slurm" / "test.yaml").write_text(yaml.safe_dump(given))
        text = SBATCH.format(python=sys.executable, folder=str(self.taken), room=room, refusal=refusal, large=large)
        for name in ("sbatch", "srun"):
            (self.project / "bin" / name).write_text(text)
            (self.project / "bin" / name).chmod(0o755)

    @property
    def arrays(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.taken.iterdir(), key=lambda path: int(path.stem))]

    def send(self, cells: list[Cell]) -> list[str]:
        return launch.submit(self.store, cells, root=self.project, data_root=self.project)

    def states(self, cells: list[Cell]) -> list[str]:
        return [self.store.state(cell.key) for cell in cells]


@pytest.fixture
def cluster(project: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(project, monkeypatch)


def cell(kind: str, number: int, *upstream: Cell, dataset: str = "none") -> Cell:
    values = {"number": number, "dataset": dataset, "partition": "-", "seed": 0, "model": {"weights": None}}
    return Cell(kind, values, tuple(one.key for one in upstream), digest([kind, number]))


def sleepers(count: int) -> list[Cell]:
    return [cell("sleep", number) for number in range(count)]


@pytest.mark.parametrize(("allowed", "num"), [({3, 5}, 2), (None, 128)])
def test_a_machine_starts_as_many_workers_as_the_cores_it_may_use(
    allowed: set[int] | None, num: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # macOS has none
    if allowed:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: allowed, raising=False)
    site = {"executor": "local", "workers": None}
    assert sbatch.num_workers(site, ["train"] * 200) == num


def test_a_limit_on_jobs_keeps_what_was_taken_and_releases_only_the_rest(cluster: Cluster) -> None:
    cells = sleepers(16)
    cluster.be(room=10)
    with pytest.raises(LaterError, match="the cluster takes no more jobs for now"):
        cluster.send(cells)
    assert sum(array["tasks"] for array in cluster.arrays) == 10
    assert sorted(cluster.states(cells)) == ["missing"] * 6 + ["queued"] * 10
    cluster.be(room=20)  # some have ended: the next try sends the rest and nothing else
    (submission,) = cluster.send(cells)
    assert sum(array["tasks"] for array in cluster.arrays) == 16
    assert {cluster.store.owner(one.key) for one in cells} >= {submission}
    assert set(cluster.states(cells)) == {"queued"}


def test_a_limit_that_takes_nothing_leaves_nothing_behind(cluster: Cluster) -> None:
    cells = sleepers(3)
    cluster.be(room=0)
    with pytest.raises(LaterError):
        cluster.send(cells)
    assert set(cluster.states(cells)) == {"missing"}
    assert list(cluster.store.submissions.iterdir()) == []


def test_a_later_array_that_is_refused_for_good_does_not_undo_the_first(cluster: Cluster) -> None:
    cells = sleepers(8)
    cluster.be(room=4, refusal="sbatch: error: Invalid account", array_size=4)
    with pytest.raises(RuntimeError, match="Invalid account"):
        cluster.send(cells)
    assert sorted(cluster.states(cells)) == ["missing"] * 4 + ["queued"] * 4
    (jobs,) = [read_json(path) or {} for path in cluster.store.submissions.glob("*/jobs.json")]
    assert len(jobs["jobs"]) == 4


def die_of_memory(store: Store, one: Cell) -> None:
    store.log_execution(one.key, "lost", facts={"memory": True, "checkpoint": None})


def test_a_class_that_is_refused_for_good_fails_its_cells_alone(cluster: Cluster) -> None:
    """One cell's memory was doubled above what a node has: the others' jobs run, and it can be retried."""
    cells = sleepers(4)
    die_of_memory(cluster.store, cells[0])
    cluster.be(room=100, refusal="sbatch: error: Memory specification can not be satisfied", large=20, **TEN_GB)
    (submission,) = cluster.send(cells)
    assert cluster.states(cells) == ["failed", *["queued"] * 3]
    assert {cluster.store.owner(one.key) for one in cells[1:]} == {submission}
    assert "Memory specification can not be satisfied" in (cluster.store.failure(cells[0].key) or {})["reason"]
    assert cluster.send(cells) == []
    cluster.store.retry(cells[0].key)  # its losses are forgotten too: it is asked for with as much as at first
    assert len(cluster.send(cells)) == 1


def test_a_cell_that_alone_is_left_and_has_grown_too_large_fails(cluster: Cluster) -> None:
    (one,) = sleepers(1)
    die_of_memory(cluster.store, one)
    cluster.be(room=100, refusal="sbatch: error: Memory specification can not be satisfied", large=20, **TEN_GB)
    assert cluster.send([one]) == []
    assert cluster.states([one]) == ["failed"]


def test_where_the_cluster_refuses_everything_no_cell_is_blamed(cluster: Cluster) -> None:
    cells = [*sleepers(2), cell("sleep", 9, dataset="cityscapes")]
    cluster.be(room=0, refusal="sbatch: error: invalid partition specified", datasets={"cityscapes": {"mem_gb": 9}})
    with pytest.raises(RuntimeError, match="invalid partition"):
        cluster.send(cells)
    assert set(cluster.states(cells)) == {"missing"}


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"slurm_partitoin": "gpu"}, "'slurm_partitoin'"),
        ({"mem_gb": "48"}, '"mem_gb" expected type'),
        ({"timeout_min": 1.5}, '"timeout_min" expected type'),
    ],
)
def test_a_keyword_that_submitit_refuses_is_named_with_the_sites_file(
    cluster: Cluster, parameters: dict[str, Any], named: str
) -> None:
    cluster.be(room=100, parameters={"timeout_min": 5} | parameters)
    with pytest.raises(JobsRefusedError, match=rf"^slurm/test\.yaml: [^\n]*{named}"):
        cluster.send(sleepers(2))
    assert cluster.states(sleepers(2)) == ["missing", "missing"]


def test_more_memory_is_said_once_and_shown_by_the_driver(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cells = [cell("train", number) for number in range(2)]
    die_of_memory(cluster.store, cells[0])
    cluster.be(room=100, **TEN_GB)
    cluster.send(cells)
    said = capsys.readouterr().out
    assert said == f"more memory: {cells[0].name} died for want of it: mem_gb 10 -> 20\n"
    launcher = Launcher(cluster.project, "smoke", stage="train@table_7", keys=[])
    launcher.command = [sys.executable, "-c", f"print('downloading'); print({said.strip()!r})"]
    launcher()
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(("refusal", "tries"), [("sbatch: error: Unable to contact slurm controller", 1), (LIMIT, 4)])
def test_only_a_limit_is_tried_with_fewer_jobs(
    cluster: Cluster, refusal: str, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sbatch, "ATTEMPTS", 1)  # of each array
    cluster.be(room=0, refusal=refusal)
    with pytest.raises(LaterError):
        cluster.send(sleepers(8))
    assert len((cluster.project / "asked").read_text().splitlines()) == tries


@pytest.mark.parametrize(
    ("refusal", "limit"),
    [
        (LIMIT, True),
        ("sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Job violates accounting/QOS policy", True),
        (LIMIT.partition("\n")[2], True),  # a site that hides which limit it was
        (LIMIT.replace("QOSMaxSubmitJobPerUserLimit", "QOSMaxWallDurationPerJobLimit"), False),
        ("sbatch: error: Invalid account or account/partition combination", False),
        ("sbatch: error: Batch job submission failed: Requested node configuration is not available", False),
    ],
)
def test_limits_on_jobs_pass_and_others_do_not(refusal: str, limit: bool) -> None:
    assert is_limit(refusal) is limit


@pytest.mark.parametrize(("count", "size"), [(12, 4), (20, 5), (30, 3), (9, 2), (40, 1)])
def test_the_throttle_holds_for_all_arrays_together(count: int, size: int, cluster: Cluster) -> None:
    """Those that wait for no other run at once; those of a lane one after another."""
    cluster.be(room=10**6, array_size=size)
    cluster.send(sleepers(count))
    arrays = {str(100 + number): array for number, array in enumerate(cluster.arrays)}
    assert sum(array["tasks"] for array in arrays.values()) == count
    lanes: dict[str, int] = {}
    for name, array in arrays.items():
        first = name if not array["after"] else array["after"][0]
        lanes[first] = max(lanes.get(first, 0), array["throttle"])
    assert sum(lanes.values()) <= 6
    assert all(set(array["after"] or []) <= set(arrays) for array in arrays.values())


def test_a_chain_is_one_submission_of_its_trainings_class(cluster: Cluster) -> None:
    """`kinds` is for what has no training to go with."""
    cluster.be(room=100, kinds={"evaluate": {"timeout_min": 1}}, datasets={"cityscapes": {"mem_gb": 9}})
    chains = [[cell("train", 0), cell("train", 1, dataset="cityscapes")]]
    evaluations = [cell("evaluate", number, train) for number, train in enumerate(chains[0])]
    late = cell("evaluate", 5, cell("train", 5))
    write_done(cluster.store, late.upstream[0])
    assert len(cluster.send([*chains[0], *evaluations, late])) == 3
    records = [read_json(path) or {} for path in cluster.store.submissions.glob("*/submission.json")]
    classes = {tuple(sorted(one["kind"] for one in record["cells"])): record["parameters"] for record in records}
    assert classes["evaluate",] == {"timeout_min": 1}
    assert sorted(len(record["cells"]) for record in records) == [1, 2, 2]


def write_done(store: Store, key: str) -> None:
    store.done(key).mkdir(parents=True)


def test_what_waits_for_another_submission_is_left_for_later(cluster: Cluster) -> None:
    train = cell("train", 0)
    evaluate = cell("evaluate", 0, train)
    cluster.send([train])
    assert cluster.send([train, evaluate]) == []
    assert cluster.states([train, evaluate]) == ["queued", "missing"]
    write_done(cluster.store, train.key)
    assert len(cluster.send([train, evaluate])) == 1


def test_what_follows_a_failed_cell_fails_without_a_job(cluster: Cluster) -> None:
    train = cell("train", 0)
    cluster.store.fail(train.key, None, reason={"reason": "no luck"})
    assert cluster.send([train, cell("evaluate", 0, train)]) == []
    assert cluster.states([cell("evaluate", 0, train)]) == ["failed"]
    assert cluster.arrays == []


def test_the_intent_is_written_before_the_first_claim(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another driver that looks in between finds the submission alive, and leaves its claims."""
    claim = Store.claim

    def claim_and_look(store: Store, key: str, submission: str) -> bool:
        made = claim(store, key, submission)
        release_dead(store)
        assert store.owner(key) == submission
        return made

    monkeypatch.setattr(Store, "claim", claim_and_look)
    cluster.send(sleepers(2))


def test_memory_is_doubled_three_times_at_most() -> None:
    site: dict[str, Any] = {"parameters": {"mem_gb": 10}, "kinds": {}, "datasets": {}}
    asked = [launch.resources(site, cell("sleep", 0), doublings=count)["mem_gb"] for count in range(6)]
    assert asked == [10, 20, 40, 80, 80, 80]
