"""Write the labelled and unlabelled lists of one data set: `python -m stages.partitions SCALE DATASET`."""

import json
import sys
from pathlib import Path
from typing import Any

from pipeline.data.partition import write_partitions
from pipeline.guard import steady
from pipeline.own_images import check_own_images
from pipeline.params import load_params

NAMES = ("code", "download", "images", "layout", "lists", "partition", "published", "sources")
CODE = [Path("pipeline/data", f"{name}.py") for name in NAMES]


def main(scale: str, dataset: str) -> int:
    """Write `data/<scale>/partitions/<dataset>`."""
    root = Path("data") / scale
    try:
        data = read_data(scale, dataset)
        with steady(*CODE, root / data["source"], values=lambda: read_data(scale, dataset)):
            check_own_images(data, root / data["source"])
            write_partitions(data, dataset, root=root, out=root / "partitions" / dataset)
    except (OSError, ValueError) as error:
        print(f"partitions@{dataset}: {error}", file=sys.stderr)
        return 1
    summary = json.loads((root / "partitions" / dataset / "summary.json").read_text(encoding="utf-8"))
    for name, facts in summary["partitions"].items():
        fine = f"{facts['fine'] / facts['labelled']:.0%} of these with fine masks"
        counts = f"{facts['labelled']} labelled ({fine}), {facts['unlabelled']} unlabelled, {summary['val']} val"
        print(f"{dataset}/{name} ({summary['family']}): {counts}, none of val among the others")  # which is refused
    return 0


def read_data(scale: str, dataset: str) -> dict[str, Any]:
    """Return what params.yaml says of a data set and its source."""
    params = load_params(Path("params.yaml"))["scales"][scale]
    block = params[dataset]["data"]
    return params["sources"][block["source"]] | block


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
