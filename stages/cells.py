"""Resolve every table of params.yaml into explicit rows: `python -m stages.cells`."""

import sys
from pathlib import Path

from pipeline.guard import steady
from pipeline.params import all_tables, load_params, resolve_table
from pipeline.reporting.rows import Shown
from pipeline.store import write_json
from pipeline.training.setting import check_row

READ = ("params.yaml", "pipeline/params.py", "pipeline/labels.py", "pipeline/training/setting.py")


def main() -> int:
    """Write `reports/<scale>/cells/<table>.json` for each table and `shown.json`, after all of it was found right."""
    try:
        with steady(*map(Path, READ)):
            write_cells()
    except (TypeError, ValueError) as error:
        print(f"params.yaml: {error}", file=sys.stderr)
        return 1
    return 0


def write_cells() -> None:
    """Resolve, check, write. Raises ValueError or TypeError, before anything is written, where params.yaml is wrong."""
    params = load_params(Path("params.yaml"))
    tables = {table: resolve_table(params, table) for table in all_tables(params)}
    for row in (row for rows in tables.values() for row in rows):
        check_row(row)
    shown = params["shown"] | params["scales"][params["scale"]].get("shown", {})
    Shown(**shown)
    folder = Path("reports") / params["scale"]
    for table, rows in tables.items():
        write_json(folder / "cells" / f"{table}.json", rows)
    write_json(folder / "shown.json", shown)


if __name__ == "__main__":
    sys.exit(main())
