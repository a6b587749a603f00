"""Write the page of a scale: `python -m stages.report SCALE`."""

import sys
from functools import partial
from pathlib import Path

from pipeline.adopt import adopt
from pipeline.commands.partial import key_today, why_missing
from pipeline.guard import steady
from pipeline.reporting.page import write_report
from pipeline.reporting.rows import read_shown
from pipeline.spool import curves
from pipeline.store import open_store
from pipeline.tracking.ingester import wait_for_ingester

READ = ("shown.json", "metrics", "tables", "reliability", "pictures")


def main(scale: str) -> int:
    """Write `reports/<scale>/index.html` and `figures/`, after MLflow has seen every cell that ended."""
    store, folder = open_store(Path.cwd()), Path("reports") / scale

    def curves_of(train_key: str) -> dict[str, list[tuple[int, float]]] | None:
        spool = store.done(train_key) / "spool.jsonl"
        return curves(spool) if spool.exists() else None

    try:
        adopt(store, Path.cwd(), scale=scale)  # after `dvc pull` in a fresh clone the store is empty
        with steady(*(folder / name for name in READ), Path("reports/published"), Path("pipeline/reporting")):
            why = partial(why_missing, store)
            write_report(folder, shown=read_shown(folder), curves=curves_of, reason=why, key_of=key_today)
        wait_for_ingester(store, Path.cwd())
    except (OSError, ValueError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
