"""Write one table, measured beside published: `python -m stages.tables SCALE TABLE`."""

import sys
from pathlib import Path

from pipeline.files import write_json
from pipeline.guard import steady
from pipeline.reporting.rows import figures_of, read_noise_rows, read_rows, read_shown
from pipeline.reporting.tables import write_table
from pipeline.reporting.tidy import cell_figures, label, write_plot_data
from pipeline.spool import curves

READ = ("reports/published", "pipeline/reporting")


def main(scale: str, table: str) -> int:
    """Write `reports/<scale>/tables/<table>.csv`, `.md`, `.tex`, and `.json` and `plots/<table>` for DVC to show."""
    folder = Path("reports") / scale
    read = (folder / "shown.json", folder / "metrics" / f"{table}.json", *map(Path, READ))
    try:
        with steady(*read):
            write(folder, scale, table=table)
    except (OSError, ValueError) as error:
        print(f"tables@{table}: {error}", file=sys.stderr)
        return 1
    return 0


def write(folder: Path, scale: str, *, table: str) -> None:
    """Write the table's files into the scale's folder of reports. Raises ValueError where what is read is torn."""
    shown = read_shown(folder)
    rows = read_rows(folder / "metrics" / f"{table}.json")
    write_table(table, rows, reports_dir=folder, noise_rows=read_noise_rows(folder), shown=shown)
    miou: dict[str, dict[str, float | None]] = {}
    for row in rows:
        name = f"{label(row)} seed {row['seed']}"
        miou.setdefault(name, {})[row["column"]] = round(own["miou"], 2) if (own := figures_of(row, shown)) else None
    write_json(folder / "tables" / f"{table}.json", cell_figures(rows[0], shown) if len(rows) == 1 else {"miou": miou})
    spool = Path("runs") / scale / "train" / table / f"{rows[0]['train_key'][:16]}.jsonl"
    write_plot_data(rows, folder / "plots" / table, shown=shown, curves=curves(spool) if spool.exists() else None)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
