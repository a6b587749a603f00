"""Resolve every table of params.yaml into explicit rows: `python -m stages.cells`."""

import sys
from pathlib import Path

from pipeline.check import check_shown, check_table
from pipeline.guard import steady
from pipeline.params import all_tables, load_params, resolve_table
from pipeline.store import write_json

READ = ("params.yaml", "pipeline/params.py", "pipeline/labels.py", "pipeline/check.py", "pipeline/training/setting.py")


def main() -> int:
    """Write `reports/<scale>/cells/<table>.json` for each table and `shown.json`, after all of it was found right."""
    try:
        with steady(*map(Path, READ)):
            write_cells()
    except KeyError as error:
        print(f"params.yaml: the key {error} is missing", file=sys.stderr)
        return 1
    except (TypeError, ValueError) as error:
        print(f"params.yaml: {str(error).removeprefix('params.yaml: ')}", file=sys.stderr)
        return 1
    return 0


def write_cells() -> None:
    """Resolve, check, write. Raises ValueError or TypeError, before anything is written, where params.yaml is wrong."""
    params = load_params(Path("params.yaml"))
    tables = {table: resolve_table(params, table) for table in all_tables(params)}
    for rows in tables.values():
        check_table(rows)
    shown = params["shown"] | params["scales"][params["scale"]].get("shown", {})
    check_shown(shown, [row for rows in tables.values() for row in rows])
    folder = Path("reports") / params["scale"]
    for table, rows in tables.items():
        write_json(folder / "cells" / f"{table}.json", rows)
    write_json(folder / "shown.json", shown)


if __name__ == "__main__":
    sys.exit(main())
