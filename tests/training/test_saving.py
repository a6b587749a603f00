"""When a run saves itself, and which of several ranks does."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.training import engine
from tests.training.test_loop_record import cells_of, train


@pytest.mark.parametrize(("seconds", "steps"), [(-1.0, [2, 3, 5, 6]), (math.inf, [])])
def test_a_checkpoint_is_kept_after_so_many_seconds_where_losses_are_logged(
    seconds: float, steps: list[int], tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, cell, _ = cells_of("suponly", 0, steps_per_epoch=3, epochs=3, evaluate_every_epochs=9)
    monkeypatch.setattr(engine, "CHECKPOINT_S", seconds)
    monkeypatch.setattr(engine, "SAVING_SHARE", math.inf)
    monkeypatch.setattr(engine, "LOG_EVERY_STEPS", 2)
    kept = []
    monkeypatch.setattr(
        engine, "save_checkpoint", lambda path, state: kept.append((path.name, state.get("step"), state.get("key")))
    )
    train(cell, tmp_path, data_root=data_root)
    assert kept[:-1] == [("checkpoint.pt", step, cell.key) for step in [*steps, *([8] if steps else [])]]
    assert kept[-1] == ("weights.pt", None, None)


@pytest.mark.parametrize(("save_s", "steps"), [(0.0, [2, 3, 5, 6, 8]), (0.6, [2, 5, 8])])
def test_saving_takes_no_more_than_its_share_of_the_time(
    save_s: float, steps: list[int], tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that each step puts forward by a second; a save of 0.6 s keeps the next away for 2.4."""
    *_, cell, _ = cells_of("suponly", 0, steps_per_epoch=3, epochs=3, evaluate_every_epochs=9)
    monkeypatch.setattr(engine, "CHECKPOINT_S", 0.5)
    monkeypatch.setattr(engine, "SAVING_SHARE", 0.25)
    monkeypatch.setattr(engine, "LOG_EVERY_STEPS", 2)
    now_s, kept, step = [0.0], [], engine.train_step

    def slow_step(run: Any) -> Any:
        now_s[0] += 1
        return step(run)

    def slow_save(path: Path, state: dict[str, Any]) -> None:
        now_s[0] += save_s
        kept.append(state.get("step"))

    monkeypatch.setattr(engine, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    monkeypatch.setattr(engine, "train_step", slow_step)
    monkeypatch.setattr(engine, "save_checkpoint", slow_save)
    train(cell, tmp_path, data_root=data_root)
    assert kept[:-1] == steps


def test_of_several_ranks_the_first_alone_writes_weights_and_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank in (1, 0):
        monkeypatch.setattr(engine.ranks, "rank", lambda rank=rank: rank)
        engine._save(tmp_path / f"{rank}.pt", {"step": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["0.pt"]
