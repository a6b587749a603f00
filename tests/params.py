"""The project's params.yaml for tests: whatever its user has just run, with its top-level keys as they were committed.

`dvc exp run -S alpha0=0.3` leaves that value in the file, and no test is to depend on it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pipeline.params import BLOCKS, DEFAULT, load_params

FILE = Path(__file__).parents[1] / "params.yaml"
EXPERIMENT = {"dataset": "voc_blender", "partition": "1-4", "method": "u2pl", "variant": DEFAULT, "seed": 0}
SEEDS = [0]
SHOWN = {"network": "deployed", "epoch": "best", "padding": "padding_ignored"}


def project_params(scale: str = "smoke", **changes: Any) -> dict[str, Any]:
    """Return what the file says at a scale, of the experiment that is committed but for `changes`."""
    loaded = load_params(FILE)
    return loaded | _top(loaded) | {"scale": scale, "seeds": list(SEEDS), "shown": dict(SHOWN)} | changes


def params_text(scale: str = "embedded", *, text: str | None = None) -> str:
    """Return the file, or a `text` of it, as `project_params` has it, for a copy of the project; comments stay."""
    text = FILE.read_text() if text is None else text
    known = dict.fromkeys(re.findall(r"^(\w+):", text, flags=re.MULTILINE))
    for key, value in (_top(known) | {"scale": scale}).items():
        written = re.compile(rf"^{key}:[^#\n]*?(?: *(#.*))?$", flags=re.MULTILINE)
        text = written.sub(lambda line, to=f"{key}: {value}": f"{to}  {line[1]}" if line[1] else to, text, count=1)
    blocks = {"seeds": [f"- {seed}" for seed in SEEDS], "shown": [f"  {key}: {value}" for key, value in SHOWN.items()]}
    for key, lines in blocks.items():
        block = "\n".join([f"{key}:", *lines, ""])
        text = re.sub(rf"^{key}:.*\n(?:[ -].*\n)*", block, text, count=1, flags=re.MULTILINE)
    return text


def _top(known: dict[str, Any]) -> dict[str, Any]:
    return {key: EXPERIMENT.get(key, DEFAULT) for key in known if key not in BLOCKS}
