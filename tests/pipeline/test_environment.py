"""What is said where stages and commands run with a Python that has none of the project's packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


@pytest.mark.parametrize("words", [["stages.cells"], ["stages.train", "smoke", "table_7"], ["pipeline", "status"]])
def test_a_python_without_the_packages_says_which_it_is_and_what_to_do(words: list[str]) -> None:
    command = [sys.executable, "-S", "-m", *words]  # without site-packages, as the system's Python is
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    hint = "lacks this project's packages: `source .venv/bin/activate` first, or use `make repro`"
    assert (result.returncode, result.stderr) == (1, f"{sys.executable} {hint}\n")
