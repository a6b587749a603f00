"""The store: one owner of a cell, results whole or absent, a log that proves it."""

from __future__ import annotations

import errno
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.files import read_json, write_json
from pipeline.store import Store, TakenOverError, find_store

CELL = {"key": "k", "kind": "sleep", "values": {}, "upstream": []}
HOLDER = {"submission": "s", "host": "here", "pid": 1, "job": "local-1"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cells")


def _claim(arguments: tuple[str, int]) -> bool:
    return Store(Path(arguments[0])).claim("k", f"submission {arguments[1]}")


def test_of_many_that_claim_at_once_one_gets_the_cell(store: Store) -> None:
    with multiprocessing.get_context("fork").Pool(8) as pool:
        claimed = pool.map(_claim, [(str(store.root), number) for number in range(64)])
    assert sum(claimed) == 1


def test_a_cell_goes_from_missing_to_done(store: Store) -> None:
    assert store.state("k") == "missing"
    store.claim("k", "s")
    assert store.state("k") == "queued"
    token = store.hold(CELL, HOLDER)
    assert token is not None
    assert store.state("k") == "running"
    (store.work("k") / "checkpoint.pt").write_text("x")
    done = store.publish("k", token, result={"state": "done"})
    assert store.state("k") == "done"
    assert sorted(path.name for path in done.iterdir()) == ["cell.json", "result.json"]
    assert [line["event"] for line in store.executions()] == ["start", "done"]


def test_a_held_cell_is_held_once(store: Store) -> None:
    store.claim("k", "s")
    assert store.hold(CELL, HOLDER) is not None
    assert store.hold(CELL, HOLDER | {"pid": 2}) is None


def test_a_published_cell_cannot_be_held_again(store: Store) -> None:
    store.claim("k", "s")
    token = store.hold(CELL, HOLDER)
    assert token is not None
    store.publish("k", token, result={"state": "done"})
    assert store.hold(CELL, HOLDER) is None
    assert not store.work("k").exists()


def test_what_a_killed_writer_left_is_no_part_of_a_result(store: Store) -> None:
    store.claim("k", "s")
    token = store.hold(CELL, HOLDER)
    assert token is not None
    (store.work("k") / ".checkpoint.pt.123").write_text("half")
    assert sorted(path.name for path in store.publish("k", token, result={"state": "done"}).iterdir()) == [
        "cell.json",
        "result.json",
    ]


def test_who_lost_a_cell_cannot_publish_it(store: Store) -> None:
    store.claim("k", "s")
    old = store.hold(CELL, HOLDER)
    assert old is not None
    store.drop("k", old)
    new = store.hold(CELL, HOLDER | {"pid": 2})
    assert new is not None
    with pytest.raises(TakenOverError, match="no longer this worker's"):
        store.publish("k", old, result={"state": "done"})
    store.publish("k", new, result={"state": "done"})


def test_a_full_disk_while_publishing_leaves_the_cell_unfinished(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.claim("k", "s")
    token = store.hold(CELL, HOLDER)
    assert token is not None

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            store.publish("k", token, result={"state": "done"})
    assert store.state("k") == "running"
    assert sorted(path.name for path in store.work("k").iterdir()) == ["cell.json", "holder.json", "reserve"]
    store.publish("k", token, result={"state": "done"})
    assert store.is_done("k")


def test_a_failure_is_kept_with_its_reason_until_it_is_retried(store: Store) -> None:
    store.claim("k", "s")
    token = store.hold(CELL, HOLDER)
    store.fail("k", token, reason={"reason": "no luck"})
    assert store.state("k") == "failed"
    assert (store.failure("k") or {})["reason"] == "no luck"
    store.retry("k")
    assert store.state("k") == "missing"


def test_a_retry_leaves_a_cell_to_the_worker_that_holds_it(store: Store) -> None:
    """As where a driver claimed it anew after the failure, and a second `retry` comes."""
    store.claim("k", "s")
    token = store.hold(CELL, HOLDER)
    store.retry("k")
    assert (store.owner("k"), store.state("k")) == ("s", "running")
    store.drop("k", str(token))
    store.retry("k")
    assert (store.owner("k"), store.state("k")) == (None, "missing")


def test_a_resumed_cell_says_so_in_the_log(store: Store) -> None:
    store.claim("k", "s")
    token = store.hold(CELL, HOLDER)
    assert token is not None
    (store.work("k") / "checkpoint.pt").write_text("x")
    store.drop("k", token)
    store.hold(CELL, HOLDER)
    assert [line["event"] for line in store.executions()] == ["start", "resume"]


def test_a_small_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_json(path, {"new": 2})
    assert read_json(path) == {"old": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("", ".dvc/cache/cells"),
        ("[cache]\n    type = copy\n    dir = ../shared\n", "shared/cells"),
        ("[cache]\n    dir = ~/shared\n", "home/shared/cells"),
        ('[cache]\n    dir = "../a, b # c"\n', "a, b # c/cells"),
        ("[cache]\n    dir = ../shared # ours\n", "shared/cells"),
    ],
)
def test_the_store_lies_beside_dvcs_cache(
    config: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nothing"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text(config)
    assert find_store(tmp_path) == tmp_path / expected


def test_the_store_is_where_dvc_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dvc.repo import Repo

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nothing"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "nothing"))
    with Repo.init(str(tmp_path), no_scm=True) as repo:
        assert find_store(tmp_path).parent == Path(str(repo.cache.local_cache_dir))


@pytest.mark.parametrize("name", ["DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR"])
def test_the_store_is_where_a_configuration_elsewhere_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "config").write_text(f"[cache]\n    dir = {tmp_path / 'group'}\n")
    (tmp_path / ".dvc").mkdir()
    assert find_store(tmp_path) == tmp_path / "group" / "cells"


def test_what_is_published_while_somebody_takes_or_cancels_it_is_done(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cell is asked about before the clock is, which may take long."""
    now = Store.now

    def publish_meanwhile(self: Store) -> float:
        monkeypatch.setattr(Store, "now", now)
        assert store.claim("k", "s")
        token = store.hold(CELL, HOLDER)
        assert token is not None
        store.publish("k", token, result={"state": "done"})
        return self.now()

    monkeypatch.setattr(Store, "now", publish_meanwhile)
    assert store.hold(CELL, HOLDER) is None
    store.cancel("k", {"reason": "-"})
    assert store.state("k") == "done"
    assert not (store.root / "cancelled" / "k.json").exists()


def test_a_claim_that_came_in_place_of_the_withdrawn_one_is_put_back_also_where_it_may_not_be_linked(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Path] = []
    rename, link = Path.rename, os.link

    def come_in_between(path: Path, target: Path) -> Path:
        write_json(path, {"submission": "a colleague's"})
        taken.append(target)
        return rename(path, target)

    def refuse(source: Path, target: Path) -> None:
        if source in taken:
            raise OSError(errno.EPERM, "the file is another user's")
        link(source, target)

    store.claim("k", "s")
    monkeypatch.setattr(Path, "rename", come_in_between)
    monkeypatch.setattr(os, "link", refuse)
    assert not store.unclaim("k", "s")
    assert store.owner("k") == "a colleague's"
    assert [path.name for path in (store.root / "claims").iterdir()] == ["k.json"]


def test_a_failure_is_forgotten_after_it_is_written_down_that_it_is(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off in between, `retry` would leave the losses before it counted: the next one would be one too many."""

    def die(self: Store, key: str, event: str, **_: Any) -> None:
        raise OSError(errno.ENOSPC, "no room for the line")

    store.fail("k", None, reason={"reason": "it was lost three times"})
    with monkeypatch.context() as patched:
        patched.setattr(Store, "log_execution", die)
        with pytest.raises(OSError, match="no room"):
            store.retry("k")
    assert store.state("k") == "failed"
    store.retry("k")
    assert store.state("k") == "missing"


def test_a_claim_whose_answer_was_lost_on_the_way_is_ones_own(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS asks again where it hears nothing, and is told that the link exists, which is its own."""
    link = os.link

    def link_twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", link_twice)
    assert store.claim("k", "s")
    assert not store.claim("k", "another")
    assert store.owner("k") == "s"
