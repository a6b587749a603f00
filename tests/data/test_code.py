"""What of a file counts as its code, and which files' code a partition's key has."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.data import partition, sources
from pipeline.data.code import read_code
from tests.params import project_params

PLAIN = "import os\nfrom pipeline.data import images\n\n\ndef one() -> int:\n    return 1\n"


def code(folder: Path, text: str) -> str:
    path = folder / "code.py"
    path.write_text(text)
    return read_code(path)[0]


def test_words_and_layout_are_no_code_and_statements_are(tmp_path: Path) -> None:
    before = code(tmp_path, PLAIN)
    assert code(tmp_path, '"""Words."""\n' + PLAIN.replace(":\n", ':\n    """One."""  # One.\n\n')) == before
    assert code(tmp_path, PLAIN.replace("return 1", "return 2")) != before


def test_the_names_it_imports_from_are_told(tmp_path: Path) -> None:
    path = tmp_path / "code.py"
    path.write_text(PLAIN)
    assert read_code(path)[1] == ["pipeline.data", "pipeline.data.images"]


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        ("smoke", {"embedded.py", "embedded_paint.py", "embedded_shapes.py", "embedded_streets.py"}),
        ("paper", {"voc.py"}),
    ],
)
def test_a_partitions_key_has_the_code_that_makes_its_images_and_lists(
    scale: str, expected: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = project_params()["scales"][scale]
    block = data["voc_blender"]["data"] | data["sources"]["voc"]
    keys, read = [], []
    for digest in ("one", "other"):
        for module in (partition, sources):
            monkeypatch.setattr(module, "read_code", lambda path, digest=digest: read.append(path.name) or (digest, []))
        keys.append(partition.input_key(block, "voc_blender", partition="1-8"))
    assert set(read) == expected | {"layout.py", "lists.py", "partition.py"}
    assert keys[0] != keys[1]
