"""Draw the paper's figures that need trained networks: `python -m stages.pictures SCALE`."""

import sys
from pathlib import Path

from pipeline.store import Store, find_store
from pipeline.trained.gallery import write_gallery


def main(scale: str) -> int:
    """Write `reports/<scale>/pictures/*.png`, each with its caption in a `.txt` beside it."""
    store = Store(find_store())
    for line in write_gallery(Path("reports") / scale, store=store, data_root=Path("data") / scale):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
