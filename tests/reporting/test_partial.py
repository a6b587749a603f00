"""A table so far is marked as the committed one is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.commands import partial
from pipeline.reporting.rows import read_rows
from pipeline.store import Store


def test_what_is_noise_is_known_from_the_rows_in_the_tree_and_not_from_the_store(
    tmp_path: Path, make_reports: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_reports(tmp_path / "reports" / "embedded")
    (folder / "shown.json").write_text("{}")
    monkeypatch.setattr(partial, "rows_so_far", lambda _, cells: read_rows(folder / "metrics" / cells.name))
    (text,) = partial.tables_so_far(tmp_path, Store(tmp_path / "cells"), scale="embedded", tables=["table_a6"])
    assert "cannot be told apart from τ = 0.5" in text
    (folder / "metrics" / "table_x3.json").unlink()
    (text,) = partial.tables_so_far(tmp_path, Store(tmp_path / "cells"), scale="embedded", tables=["table_a6"])
    assert "not marked: how much seeds vary is not measured" in text
