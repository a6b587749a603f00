"""Fetch or generate one data source, and its scale's weights: `python -m stages.download SCALE SOURCE`."""

import sys
from pathlib import Path
from typing import Any

from pipeline.data.sources import prepare
from pipeline.guard import steady
from pipeline.models.prepare import models_of, prepare_weights
from pipeline.params import load_params

PUBLISHED = ("archives", "cityscapes", "coco", "download", "exif", "images", "published", "voc")
OTHERS = ("code", "embedded", "embedded_paint", "embedded_shapes", "embedded_streets", "layout", "sources")
CODE = [Path("pipeline/data", f"{name}.py") for name in (*PUBLISHED, *OTHERS)]
"""What makes data, as in dvc.yaml: an edit of other files, as of the loader, makes none again under running cells."""


def main(scale: str, source: str) -> int:
    """Write `data/<scale>/<source>`, whole or not at all; published weights go to torch's cache."""
    try:
        block = read_scale(scale)
        with steady(*CODE, values=lambda: read_scale(scale)["sources"][source]):
            prepare_weights(models_of(block))
            prepare(block["sources"][source], Path("data") / scale / source)
    except (OSError, ValueError) as error:
        print(f"download@{source}: {error}", file=sys.stderr)
        return 1
    return 0


def read_scale(scale: str) -> dict[str, Any]:
    """Return the scale's block of params.yaml."""
    return load_params(Path("params.yaml"))["scales"][scale]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
