"""The README's words are true: its commands exist, its paths are there, its tables hold the methods there are."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from pipeline.labels import METHOD_LABELS

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text()


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 300


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`make ([a-z-]+)`", README))))
def test_a_make_target_exists(target: str) -> None:
    result = subprocess.run(["make", "-n", target], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`python -m pipeline ([a-z]+)", README))))
def test_a_command_of_the_pipeline_exists(command: str) -> None:
    from pipeline.__main__ import main

    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:pipeline|slurm|tests|reports)/[\w./-]+\.\w+)`", README))))
def test_a_named_file_is_there(path: str) -> None:
    assert (PROJECT / path).exists()


def test_every_method_has_its_row() -> None:
    methods = {path.stem for path in (PROJECT / "pipeline" / "methods").glob("*.py")}
    assert set(METHOD_LABELS) <= methods  # and one of somebody's own goes by its own name
    assert all(f"`{method}`" in README for method in METHOD_LABELS)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"(?:repro|evaluate|tables)@(\w+)", README))))
def test_a_named_table_is_there(target: str) -> None:
    assert f"{target}:" in (PROJECT / "dvc.yaml").read_text()


def test_the_citation_has_what_its_format_asks_for_and_names_the_paper() -> None:
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    paper = citation["preferred-citation"]
    assert {"type", "title", "authors"} <= set(paper)
    assert (paper["type"], paper["year"]) == ("conference-paper", 2022)
    assert paper["title"] == "Semi-Supervised Semantic Segmentation Using Unreliable Pseudo-Labels"
    assert [author["family-names"] for author in paper["authors"]][::8] == ["Wang", "Le"]
    assert "CVPR" in paper["conference"]["name"]


@pytest.mark.parametrize("picture", re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README))
def test_a_picture_is_there_and_small(picture: str) -> None:
    assert (PROJECT / picture).stat().st_size < 300_000
