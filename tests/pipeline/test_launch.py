"""Workers and submissions, with cells that only sleep: nothing twice, nothing lost, failures kept apart."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError

import psutil
import pytest

from pipeline import attach, launch
from pipeline.cell import Cell, cells_of, digest
from pipeline.cluster import liveness, lost, pulse
from pipeline.files import read_json, write_json
from pipeline.launch import take_snapshot
from pipeline.launcher import Launcher
from pipeline.params import resolve_table
from pipeline.sbatch import num_cores
from pipeline.store import Store, find_store
from pipeline.worker import Stop, run_submission, take


def sleeper(number: int, seconds: float = 0.05, upstream: tuple[str, ...] = ()) -> Cell:
    values = {"seconds": seconds, "number": number, "dataset": "none", "partition": "-", "seed": 0}
    return Cell("sleep", values, upstream, digest([number, seconds, upstream]))


@pytest.fixture
def local_store(project: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(project)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(project / "nothing"))
    monkeypatch.setenv("CLUSTER", "local")
    monkeypatch.setenv("PYTHONPATH", "")
    return Store(find_store(project))


def finished(store: Store) -> list[str]:
    """The keys of the log's ends, which a worker writes just after its result appeared."""
    return sorted(line["key"] for line in store.executions() if line["event"] == "done")


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


SUBMIT = """
import json, sys
from pathlib import Path
from pipeline.cell import from_json
from pipeline.launch import submit
from pipeline.store import Store
store, root, cells = json.load(sys.stdin)
cells = [from_json(cell) for cell in cells]
submissions = submit(Store(Path(store)), cells, root=Path(root), data_root=Path(root))
Path(root, "submitted").write_text(json.dumps(submissions))
"""


def send(store: Store, cells: list[Cell], project: Path) -> list[str]:
    """Submit in a process of its own that ends, as a stage does; its jobs live on."""
    given = json.dumps([str(store.root), str(project), [cell.to_json() for cell in cells]])
    subprocess.run([sys.executable, "-c", SUBMIT], input=given, text=True, check=True, start_new_session=True)
    submissions: list[str] = json.loads((project / "submitted").read_text())
    return submissions


@pytest.mark.parametrize("encoding", ["euc_jp", "gbk"])
def test_the_code_is_copied_as_it_is_whatever_the_locale_writes_in(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io, "text_encoding", lambda given, *_: given or encoding)
    copy = take_snapshot(Store(tmp_path / "cells")) / "pipeline"
    names = [path.relative_to(copy) for path in copy.rglob("*.py")]
    assert Path("launch.py") in names
    assert all((copy / name).read_bytes() == (launch.PACKAGE / name).read_bytes() for name in names)


def test_every_cell_of_a_submission_runs_once(local_store: Store, project: Path) -> None:
    cells = [sleeper(number) for number in range(12)]
    send(local_store, cells, project)
    until(lambda: all(local_store.is_done(cell.key) for cell in cells))
    starts = [line["key"] for line in local_store.executions() if line["event"] == "start"]
    assert sorted(starts) == sorted(cell.key for cell in cells)
    assert len({line["pid"] for line in local_store.executions() if line["event"] == "start"}) <= num_cores()


def test_what_another_driver_submitted_is_not_submitted_again(local_store: Store, project: Path) -> None:
    cells = [sleeper(number, 0.3) for number in range(3)]
    send(local_store, cells, project)
    assert send(local_store, cells, project) == []
    until(lambda: all(local_store.is_done(cell.key) for cell in cells))
    assert send(local_store, cells, project) == []


def test_a_cell_waits_for_the_one_before_it(local_store: Store) -> None:
    first = sleeper(1)
    second = sleeper(2, upstream=(first.key,))
    for cell in (first, second):
        local_store.claim(cell.key, "s")
    holder = {"submission": "s", "host": "here", "pid": 1, "job": "local-1"}
    taken, _ = take(local_store, [second, first], me=holder)
    assert taken is not None
    assert taken[0] == first
    assert take(local_store, [second, first], me=holder) == (None, True)
    local_store.publish(first.key, taken[1], result={"state": "done"})
    taken, _ = take(local_store, [second, first], me=holder)
    assert taken is not None
    assert taken[0] == second


def test_a_crash_fails_its_cell_and_what_follows_and_nothing_else(local_store: Store, project: Path) -> None:
    broken = Cell("sleep", {"dataset": "none", "partition": "-", "seed": 0}, (), "broken")
    after, other = sleeper(1, upstream=("broken",)), sleeper(2)
    send(local_store, [broken, after, other], project)
    until(lambda: local_store.is_done(other.key) and local_store.state(after.key) == "failed")
    assert (local_store.failure("broken") or {})["reason"] == "KeyError: 'seconds'"
    assert "the cell before it failed: broken" in (local_store.failure(after.key) or {})["reason"]
    assert "Traceback" in (local_store.work("broken") / "log.txt").read_text()


@pytest.mark.parametrize("renamed", [False, True])
def test_a_killed_worker_loses_nothing(
    renamed: bool, local_store: Store, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [sleeper(number, 1.0) for number in range(4)]
    (submission,) = send(local_store, cells, project)
    until(lambda: any(local_store.state(cell.key) == "running" for cell in cells))
    for path in (local_store.root / "work").glob("*/holder.json"):
        os.kill((read_json(path) or {})["pid"], signal.SIGKILL)
    if renamed:  # a container that was killed and begun again
        for job in (read_json(local_store.submissions / submission / "jobs.json") or {})["jobs"]:
            with suppress(psutil.NoSuchProcess):
                for process in [*psutil.Process(int(job)).children(recursive=True), psutil.Process(int(job))]:
                    process.kill()
        monkeypatch.setattr(socket, "gethostname", lambda: "another-name")
        liveness.release_dead(local_store)
        assert any(local_store.state(cell.key) == "running" for cell in cells)
        ago = time.time() - pulse.SILENT_S - 1
        os.utime(local_store.submissions / submission / "pulse", (ago, ago))

    def everything_done() -> bool:
        liveness.release_dead(local_store)
        send(local_store, cells, project)
        return all(local_store.is_done(cell.key) for cell in cells)

    until(everything_done)
    until(lambda: len(finished(local_store)) >= len(cells))
    assert finished(local_store) == sorted(cell.key for cell in cells)
    assert any(line["event"] == "lost" for line in local_store.executions())


def test_a_worker_that_keeps_dying_fails_its_cell_with_a_reason(local_store: Store) -> None:
    cell = sleeper(1)
    for _ in range(lost.MAX_LOST):
        local_store.claim(cell.key, "s")
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        holder = {"submission": "s", "host": socket.gethostname(), "pid": gone.pid, "job": f"local-{gone.pid}"}
        assert local_store.hold(cell.to_json(), holder) is not None
        liveness.release_dead(local_store)
    assert "died 3 times at the same step" in (local_store.failure(cell.key) or {})["reason"]


def test_jobs_run_from_a_copy_of_the_code(local_store: Store) -> None:
    snapshot = take_snapshot(local_store)
    assert (snapshot / "pipeline" / "worker.py").exists()
    assert take_snapshot(local_store) == snapshot


def test_a_worker_without_its_submission_says_so(local_store: Store) -> None:
    with pytest.raises(ValueError, match="no such submission"):
        run_submission(local_store, "nothing", limit=None, stop=Stop())


@pytest.mark.parametrize(
    "error", [RuntimeError("sbatch refused the jobs: no such partition"), URLError("no network for the weights")]
)
def test_what_a_user_can_mend_is_said_without_a_traceback(
    error: Exception, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(launch, "launch", refuse)
    assert launch.main([str(project), "smoke", "train@table_7", "keys"]) == 1
    assert capsys.readouterr().out == f"{error}\n"


def test_a_submission_that_a_signal_ended_is_told_once_and_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Login nodes kill what is long or large; what is under way goes on, and the driver with it."""
    launcher = Launcher(tmp_path, "smoke", stage="train@table_7", keys=[])
    kill = "import os, signal; print('fetching weights', flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    launcher.command = [sys.executable, "-c", kill]
    for _ in range(2):
        launcher()
    said = capsys.readouterr().err
    assert said == "fetching weights\nsignal 9 ended the submission; it is tried again every 30 s\n"


@pytest.mark.parametrize("edited", ["partitions@voc_blender", "download@voc"])
def test_a_stage_whose_own_data_changed_meanwhile_ends_instead_of_waiting_for_it(
    edited: str, local_store: Store, project: Path, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = resolve_table(params, "experiment")
    write_json(project / "reports" / "smoke" / "cells" / "experiment.json", rows)
    keys = digest(sorted(cell.key for row in rows for cell in cells_of(row)))
    monkeypatch.setattr(launch, "start_plan", lambda *_: None)
    monkeypatch.setattr(launch, "read_plan", lambda *_: [edited, "train@experiment"])
    with pytest.raises(RuntimeError, match=f"^{edited}: changed while `dvc repro` ran; run it again"):
        launch.launch(project, "smoke", stage="train@experiment", waited_for=keys)
    assert not local_store.submissions.exists()


def test_a_stage_whose_data_nobody_made_says_which_stages_make_it(
    local_store: Store, project: Path, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = resolve_table(params | {"dataset": "cityscapes"}, "experiment")
    for row in rows:
        row["data"]["source"] = "streets"
    write_json(project / "reports" / "smoke" / "cells" / "experiment.json", rows)
    keys = digest(sorted(cell.key for row in rows for cell in cells_of(row)))
    monkeypatch.setattr(launch, "start_plan", lambda *_: None)
    monkeypatch.setattr(launch, "read_plan", lambda *_: ["train@experiment"])
    with pytest.raises(RuntimeError, match=r"the data is not there: `dvc repro download@streets.*` first"):
        launch.launch(project, "smoke", stage="train@experiment", waited_for=keys)
    assert not local_store.submissions.exists()


def test_a_waiting_stage_sees_now_and_then_that_an_ingester_runs(
    local_store: Store, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[Path] = []
    monkeypatch.setattr(attach, "start_ingester", lambda _, root: began.append(root))
    monkeypatch.setattr(attach, "POLL_S", 0.01)

    def started_within(seconds: float, *, number: int) -> int:
        monkeypatch.setattr(attach, "INGESTER_S", seconds)
        began.clear()
        key = sleeper(number).key
        timer = threading.Timer(0.5, lambda: local_store.fail(key, None, reason={"reason": "enough"}))
        timer.start()
        attach.wait(local_store, {key: sleeper(number)}, start=lambda: None, title="test", root=project)
        timer.join()
        return len(began)

    assert started_within(60.0, number=0) == 1
    assert started_within(0.05, number=1) > 2


def test_a_stage_waits_on_where_no_ingester_can_be_started(
    local_store: Store, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        local_store.fail(cell.key, None, reason={"reason": "enough"})
        raise BlockingIOError("Resource temporarily unavailable")

    cell = sleeper(0)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    failed = attach.wait(local_store, {cell.key: cell}, start=lambda: None, title="test", root=project)
    assert failed[cell.key]["reason"] == "enough"


def test_a_waiting_stage_is_small() -> None:
    code = "import psutil, pipeline.attach, pipeline.progress; print(psutil.Process().memory_info().rss)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 60e6
    assert psutil.Process().is_running()
