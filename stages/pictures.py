"""Draw what needs trained networks: `python -m stages.pictures SCALE`, the paper's figures; with TABLE, predictions."""

import sys
from pathlib import Path

from pipeline.adopt import adopt
from pipeline.guard import steady
from pipeline.store import open_store
from pipeline.trained.gallery import write_gallery, write_table_picture


def main(scale: str, table: str = "") -> int:
    """Write `reports/<scale>/pictures/*.png`, each with its caption in a `.txt` beside it."""
    folder, store, data = Path("reports") / scale, open_store(Path.cwd()), Path("data") / scale
    try:
        adopt(store, Path.cwd(), scale=scale)  # after `dvc pull` in a fresh clone the store is empty
        with steady(folder / "metrics", Path("pipeline/trained"), Path("pipeline/reporting")):
            if table:
                print(*write_table_picture(folder, table, store=store, data_root=data), sep="\n")
            else:
                for line in write_gallery(folder, store=store, data_root=data):
                    print(line)
    except (OSError, ValueError) as error:
        print(f"pictures: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
