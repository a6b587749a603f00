"""params.yaml explains every key that it has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.params import load_params, resolve_table
from tests.params import project_params

PROJECT = Path(__file__).parents[2]


@pytest.mark.parametrize("section", ["data", "model", "training", "evaluation"])
def test_every_key_that_methods_share_is_explained_at_scale_paper(section: str) -> None:
    text = (PROJECT / "params.yaml").read_text().partition("\n  paper:\n")[2]
    (row,) = resolve_table(project_params() | {"scale": "paper"}, "experiment")
    keys = set(row[section]) - {"name", "layout", "num_classes"} | set(row["model"]["encoder"])  # less those of sources
    assert [key for key in keys if not re.search(rf"^ +{key}:.*# ", text, re.MULTILINE)] == []


def test_every_parameter_is_explained_at_the_first_method_that_has_it() -> None:
    params = load_params(PROJECT / "params.yaml")
    text = (PROJECT / "params.yaml").read_text().partition("\nmethods:\n")[2].partition("\nscales:\n")[0]
    for name, method in params["methods"].items():
        block = re.search(rf"((?:^  # .*\n)*)^  {name}:\n(.*?)(?=^  \S|\Z)", text, re.MULTILINE | re.DOTALL)
        assert block
        keys = [key for key in method["parameters"] if not re.search(rf"^ +{key}:.*# ", block[2], re.MULTILINE)]
        silent = [key for key in keys if f"{key}:" not in block[1]]
        assert not silent or re.search(r"\bas [a-z0-9_]+'s", block[1] + block[2]), f"{name}: {silent}"
