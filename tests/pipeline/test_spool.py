from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.spool import Spool, curves, read


def test_each_append_is_one_json_line_with_step_time_and_metrics(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.jsonl")
    spool.append(1, {"loss/supervised": 2.5})
    spool.append(2, {"loss/supervised": 2.0, "lr": 0.01})
    lines = [json.loads(line) for line in (tmp_path / "spool.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert lines[1]["metrics"] == {"loss/supervised": 2.0, "lr": 0.01}
    assert all(isinstance(line["time_ms"], int) for line in lines)


def test_an_appended_line_is_readable_at_once_and_outlives_a_killed_process(tmp_path: Path) -> None:
    code = "import os, sys; from pathlib import Path; from pipeline.spool import Spool\n"
    code += "Spool(Path(sys.argv[1])).append(7, {'a': 1.0}); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "s.jsonl")], check=False)
    assert [record.step for record in read(tmp_path / "s.jsonl")] == [7]


def test_steps_repeated_after_a_resume_are_left_out_and_keep_their_first_time(tmp_path: Path) -> None:
    path = tmp_path / "spool.jsonl"
    first = Spool(path)
    for step in range(1, 11):
        first.append(step, {"loss": float(step)})
    before = path.read_bytes()
    resumed = Spool(path)  # from a checkpoint at step 4
    for step in range(5, 13):
        resumed.append(step, {"loss": float(step)})
    assert path.read_bytes().startswith(before)
    assert [record.step for record in read(path)] == list(range(1, 13))


def test_a_metric_missing_at_a_repeated_step_is_still_taken(tmp_path: Path) -> None:
    path = tmp_path / "spool.jsonl"
    Spool(path).append(5, {"loss": 1.0})  # killed between the losses and the validation of step 5
    resumed = Spool(path)
    resumed.append(5, {"loss": 1.0})
    resumed.append(5, {"val/student_miou": 40.0})
    assert curves(path) == {"loss": [(5, 1.0)], "val/student_miou": [(5, 40.0)]}


@pytest.mark.parametrize("torn", [b'{"step": 2, "time_ms": 1, "met', b'{"step": 2}', b"\0" * 100_000])
def test_a_torn_last_line_is_not_read_and_is_cut_before_writing_goes_on(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "spool.jsonl"
    Spool(path).append(1, {"loss": 1.0})
    with path.open("ab") as file:
        file.write(torn)
    assert [record.step for record in read(path)] == [1]
    Spool(path).append(2, {"loss": 2.0})
    assert curves(path) == {"loss": [(1, 1.0), (2, 2.0)]}


def test_a_line_that_is_no_record_is_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "spool.jsonl"
    path.write_bytes(
        b'{"step": 1, "time_ms": 1, "metrics": {"a": 1.0}}\n\0\0\0\n{"step": 2, "time_ms": 2, "metrics": {}}\n'
    )
    assert [record.step for record in read(path)] == [1, 2]
    assert str(path) in caplog.text


def test_reading_goes_on_where_it_ended_and_anew_where_no_line_begins(tmp_path: Path) -> None:
    path = tmp_path / "spool.jsonl"
    spool = Spool(path)
    spool.append(1, {"a": 1.0})
    (record,) = read(path)
    assert record.end == spool.sync() == path.stat().st_size
    spool.append(2, {"a": 2.0})
    assert [found.step for found in read(path, start=record.end)] == [2]
    assert [found.step for found in read(path, start=record.end - 1)] == [1, 2]
    assert [found.step for found in read(path, start=10**6)] == [1, 2]


def test_non_finite_values_survive(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.jsonl")
    spool.append(1, {"a": math.inf, "b": -math.inf, "c": math.nan})
    (record,) = read(tmp_path / "spool.jsonl")
    assert record.metrics["a"] == math.inf
    assert record.metrics["b"] == -math.inf
    assert math.isnan(record.metrics["c"])


@pytest.mark.parametrize("name", ["loss@x", "", "/loss", "a//b", "loss/", "größe"])
def test_a_name_that_mlflow_would_refuse_is_refused_at_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"step 3: allowed"):
        Spool(tmp_path / "spool.jsonl").append(3, {name: 1.0})


def test_a_full_disk_raises_and_leaves_no_half_line(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.jsonl")
    spool.append(1, {"a": 1.0})
    length = spool.sync()
    code = "import resource, signal, sys; from pathlib import Path; from pipeline.spool import Spool\n"
    code += "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); spool = Spool(Path(sys.argv[1]))\n"
    code += f"resource.setrlimit(resource.RLIMIT_FSIZE, ({length + 20}, {length + 20})); spool.append(2, {{'a': 2.0}})"
    process = subprocess.run([sys.executable, "-c", code, str(spool.path)], capture_output=True, text=True, check=False)
    assert "is the disk full" in process.stderr
    assert spool.sync() == length
    spool.append(2, {"a": 2.0})
    assert curves(spool.path) == {"a": [(1, 1.0), (2, 2.0)]}


def test_only_sync_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    spool = Spool(tmp_path / "spool.jsonl")
    spool.append(1, {"a": 1.0})
    assert synced == []
    spool.sync()
    assert len(synced) == 1


def test_the_spool_imports_neither_torch_nor_mlflow() -> None:
    code = "import sys, pipeline.tracking.sending; print({'torch', 'mlflow', 'numpy', 'pandas'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
