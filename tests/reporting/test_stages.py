"""The stages that show results say in a line what is in their way."""

from __future__ import annotations

import errno
import importlib
from pathlib import Path
from typing import Any, NoReturn

import pytest


def full(*_: Any, **__: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device", "a file")


@pytest.mark.parametrize(
    ("stage", "writes", "given"),
    [
        ("tables", "write", ["table_7"]),
        ("pictures", "write_gallery", []),
        ("report", "write_report", []),
        ("report", "wait_for_ingester", []),
    ],
)
def test_a_full_disk_is_told_in_one_line(
    stage: str,
    writes: str,
    given: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nothing"))
    monkeypatch.chdir(tmp_path)
    for folder in (".dvc", "reports/smoke"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "reports" / "smoke" / "shown.json").write_text("{}")
    module = importlib.import_module(f"stages.{stage}")
    for name in {"write_report", writes} & set(vars(module)):
        monkeypatch.setattr(module, name, full if name == writes else lambda *_, **__: None)
    assert module.main("smoke", *given) == 1
    name = "@".join([stage, *given])
    assert capsys.readouterr().err == f"{name}: [Errno 28] No space left on device: 'a file'\n"
