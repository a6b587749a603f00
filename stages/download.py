"""Fetch or generate one data source: `python -m stages.download SCALE SOURCE`."""

import sys
from pathlib import Path

from pipeline.data.sources import prepare
from pipeline.params import load_params


def main(scale: str, source: str) -> int:
    """Write `data/<scale>/<source>`, whole or not at all."""
    params = load_params(Path("params.yaml"))
    prepare(params["scales"][scale]["sources"][source], Path("data") / scale / source)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
