"""DVC killed in the middle of writing dvc.lock: `doctor` mends it, and the next `dvc repro` computes nothing again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from pipeline.adopt import adopt
from pipeline.locks import lock_is_whole
from pipeline.store import Store, find_store

PROJECT = Path(__file__).parents[2]
STAGE = """
import sys
from pathlib import Path
from pipeline.locks import keep_lock
from pipeline.store import Store, find_store
root, name = Path.cwd(), sys.argv[1]
keep_lock(root)
store = Store(find_store(root))
if store.claim(name, "s"):
    if not store.is_done(name):
        cell = {"key": name, "kind": "sleep", "values": {}, "upstream": []}
        token = store.hold(cell, {"submission": "s", "host": "h", "pid": 1, "job": "local-1"})
        store.publish(name, token, result={"state": "done"})
    store.unclaim(name, "s")
Path(name).write_text(name)
"""
DVC_YAML = """
stages:
  one: {cmd: python stage.py first, outs: [first]}
  two: {cmd: python stage.py second, deps: [first], outs: [second]}
  three: {cmd: python stage.py third, deps: [second], outs: [third]}
"""
TEAR = """
import os, sys
import dvc.utils.serialize._yaml as serialize
dump = serialize.dumps_yaml

def tear(data, stream):
    text = dump_whole(data)
    whole = "three:" not in text
    stream.write(text if whole else text[: len(text) * 3 // 4])
    stream.flush()
    if not whole:
        os._exit(137)

def dump_whole(data):
    import io
    out = io.StringIO()
    serialize._get_yaml().dump(data, out)
    return out.getvalue()

serialize._dump = tear
from dvc.cli import main
sys.exit(main(["repro"]))
"""


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "XDG_CONFIG_HOME": str(folder / "nothing")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    command = (sys.executable, *command)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


LOCK = """schema: '2.0'
stages:
  train@table_7:
    cmd: python train.py
    deps:
    - path: a
      hash: md5
      md5: 0cc175b9c0f1b6a831c399e269772661
    outs:
    - path: runs/smoke/train/table_7
      hash: md5
      md5: 0cc175b9c0f1b6a831c399e269772661.dir
"""


def test_a_lock_cut_at_the_end_of_a_line_is_torn_too(tmp_path: Path) -> None:
    """DVC takes some such files and refuses others; results are taken over from none."""
    lines, whole = LOCK.splitlines(keepends=True), []
    for number in range(len(lines) + 1):
        (tmp_path / "dvc.lock").write_text("".join(lines[:number]))
        if lock_is_whole(tmp_path / "dvc.lock"):
            whole.append(number)
        adopt(Store(tmp_path / "cells"), tmp_path, scale="smoke")
    assert whole == [1, 2, len(lines)]


@pytest.mark.slow
def test_a_lock_torn_by_a_kill_is_mended_and_nothing_is_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nothing"))
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / "dvc.yaml").write_text(DVC_YAML)
    run(tmp_path, "-m", "dvc", "init", "-q", "--no-scm")
    killed = run(tmp_path, "-c", TEAR)
    assert killed.returncode == 137, killed.stderr
    assert not lock_is_whole(tmp_path / "dvc.lock")
    assert run(tmp_path, "-m", "dvc", "repro").returncode != 0  # DVC itself is at a loss
    mended = run(tmp_path, "-m", "pipeline", "doctor")
    assert mended.returncode == 0, mended.stderr
    assert "torn; restored from the last whole copy" in mended.stdout
    assert run(tmp_path, "-m", "pipeline", "doctor").stdout == "nothing to mend\n"
    repeated = run(tmp_path, "-m", "dvc", "repro")
    assert repeated.returncode == 0, repeated.stderr
    assert "Stage 'one' didn't change, skipping" in repeated.stdout
    store = Store(find_store(tmp_path))
    started = Counter(line["key"] for line in store.executions() if line["event"] == "start")
    assert started == {"first": 1, "second": 1, "third": 1}
