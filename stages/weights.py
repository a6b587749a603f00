"""Fetch the weights that a scale's encoders begin with: `python -m stages.weights SCALE`.

The stage `download` and every submission do the same: this is for a machine that has a network when those have none.
"""

import sys
from pathlib import Path

from pipeline.models.prepare import models_of, prepare_weights
from pipeline.params import choose, load_params


def main(scale: str) -> int:
    """Put them into torch's cache (TORCH_HOME) and print where."""
    try:
        scales = load_params(Path("params.yaml"))["scales"]
        found = prepare_weights(models_of(scales[choose(scale, scales, where="scale")]))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(map(str, found)) or f"scale {scale} begins with no published weights")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]) if len(sys.argv) == 2 else "usage: python -m stages.weights SCALE")
