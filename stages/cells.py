"""Resolve every table of params.yaml into explicit rows: `python -m stages.cells`."""

import sys
from pathlib import Path

from pipeline.params import all_tables, load_params, resolve_table
from pipeline.store import write_json
from pipeline.training.setting import check_row


def main() -> int:
    """Write `reports/<scale>/cells/<table>.json` for each table, after all of them were found right."""
    try:
        params = load_params(Path("params.yaml"))
        tables = {table: resolve_table(params, table) for table in all_tables(params)}
        for row in (row for rows in tables.values() for row in rows):
            check_row(row)
    except ValueError as error:
        print(f"params.yaml: {error}", file=sys.stderr)
        return 1
    for table, rows in tables.items():
        write_json(Path("reports") / params["scale"] / "cells" / f"{table}.json", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
