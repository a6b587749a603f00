"""Resolve every table of params.yaml into explicit rows: `python -m stages.cells`."""

import sys
from pathlib import Path

from pipeline.check import UNDO, check_blocks, check_labels, check_shown, check_table
from pipeline.files import write_json
from pipeline.guard import steady
from pipeline.params import all_tables, load_params, resolve_table
from pipeline.reporting.paper import read_published

PUBLISHED = Path("reports/published")
CODE = ("pipeline/params.py", "pipeline/labels.py", "pipeline/check.py", "pipeline/training/setting.py")


def main() -> int:
    """Write `reports/<scale>/cells/<table>.json` for each table and `shown.json`, after all of it was found right."""
    try:
        with steady(Path("params.yaml"), PUBLISHED, *map(Path, CODE)):
            write_cells()
    except (KeyError, TypeError, ValueError) as error:
        fault = f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
        print(f"params.yaml: {fault.removeprefix('params.yaml: ')}", file=sys.stderr)
        print(f"It is still there: correct it, or undo every edit of params.yaml by\n  {UNDO}", file=sys.stderr)
        return 1
    return 0


def write_cells() -> None:
    """Resolve, check, write. Raises ValueError or TypeError, before anything is written, where params.yaml is wrong."""
    params = load_params(Path("params.yaml"))
    check_blocks(params)
    tables = {table: resolve_table(params, table) for table in all_tables(params)}
    for table, rows in tables.items():
        check_table(rows)
        check_labels(rows, read_published(table, PUBLISHED))
    shown = params["shown"] | params["scales"][params["scale"]].get("shown", {})
    check_shown(shown, [row for rows in tables.values() for row in rows])
    for table, rows in tables.items():
        write_json(Path("reports") / params["scale"] / "cells" / f"{table}.json", rows)
    write_json(Path("reports") / params["scale"] / "shown.json", shown)


if __name__ == "__main__":
    sys.exit(main())
