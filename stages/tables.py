"""Write one table, measured beside published: `python -m stages.tables SCALE TABLE`."""

import sys
from pathlib import Path

from pipeline.reporting.rows import NOISE_TABLE, figures_of, read_rows, read_shown
from pipeline.reporting.tables import write_table
from pipeline.store import write_json


def main(scale: str, table: str) -> int:
    """Write `reports/<scale>/tables/<table>.csv`, `.md`, `.tex`, and `.json` for `dvc metrics`."""
    folder = Path("reports") / scale
    shown = read_shown(folder)
    rows = read_rows(folder / "metrics" / f"{table}.json")
    noise = folder / "metrics" / f"{NOISE_TABLE}.json"
    write_table(table, rows, reports_dir=folder, noise_rows=read_rows(noise) if noise.exists() else (), shown=shown)
    miou: dict[str, dict[str, float]] = {}
    for row in rows:
        label = " ".join([*row["row"].values(), f"seed {row['seed']}"])
        miou.setdefault(label, {})[row["column"]] = round((figures_of(row, shown) or {"miou": float("nan")})["miou"], 2)
    single = {"miou": next(iter(miou[next(iter(miou))].values()))} if len(rows) == 1 else {"miou": miou}
    write_json(folder / "tables" / f"{table}.json", single)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
