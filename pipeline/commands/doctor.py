"""What a crash can leave behind, found and mended: torn or stale locks, dead claims, orphan jobs, foreign checkpoints,
runs that MLflow still takes for running.
"""

from __future__ import annotations

import errno
import glob
import shutil
from pathlib import Path

from pipeline.cluster import slurm
from pipeline.cluster.liveness import find_dead, release_dead
from pipeline.cluster.origin import user
from pipeline.cluster.waiting import STALE_S
from pipeline.files import modified, read_json
from pipeline.locks import NOT_MENDED, stale_locks, torn_locks
from pipeline.store import Store

OLD_S = 60.0
"""How old a temporary file is at least whose writer is called dead."""


def examine(root: Path, store: Store, *, mend: bool) -> list[str]:
    """Return what is wrong, one line each, and mend it if `mend`; what it cannot mend ends in NOT_MENDED."""
    findings = torn_locks(root, mend=mend)
    findings += stale_locks(root, mend=mend)
    dead, lines = _dead_cells(store, mend=mend)
    findings += lines
    findings += _orphan_jobs(store, dead, mend=mend)
    findings += _foreign_checkpoints(store, mend=mend)
    findings += _leftovers(store, mend=mend)
    findings += _lying_runs(root, store, dead=dead, mend=mend)
    return findings


def _dead_cells(store: Store, *, mend: bool) -> tuple[set[str], list[str]]:
    """Find cells whose worker or submission is gone; also return their keys."""
    found = release_dead(store) if mend else find_dead(store)
    verb = "released" if mend else "to be released"
    held = {key: f"its worker, job {holder['job']} on {holder['host']}, is gone" for key, holder in found.holders}
    claimed = {key: f"its submission {submission} is gone" for key, submission in found.claims}
    empty = dict.fromkeys(found.empty, "who has it is not written down, as after a power cut")
    lines = [
        f"cell {key[:12]}: {what}; {f'SLURM does not say yet why, {NOT_MENDED}' if key in found.postponed else verb}"
        for key, what in (claimed | empty | held).items()
    ]
    return {*held, *claimed}, lines


def _orphan_jobs(store: Store, dead: set[str], *, mend: bool) -> list[str]:
    """Find our jobs of this store that have no cell to run: those were cancelled, or the record is gone."""
    if shutil.which("squeue") is None:
        return []
    jobs = slurm.jobs(store) or []  # before the claims: squeue may take long, and somebody submits meanwhile
    claimed = [path.stem for path in (store.root / "claims").glob("*.json")]
    working = {store.owner(key) for key in claimed if key not in dead}
    holders = [store.holder(path.parent.name) for path in (store.root / "work").glob("*/holder.json")]
    working |= {holder["submission"] for holder in holders if holder}
    homes = tuple(f"{root}/snapshots/" for root in {store.root, store.root.resolve()})
    orphans = [
        job
        for job in jobs
        if not job.ended
        and job.user == user()
        and job.folder.startswith(homes)
        and job.name.removeprefix(slurm.JOB_PREFIX) not in working
    ]
    if mend:
        slurm.cancel_jobs([job.number for job in orphans])
    return [
        f"job {job.number} ({job.name}): no cell is its own; {'' if mend else 'to be '}cancelled" for job in orphans
    ]


def _foreign_checkpoints(store: Store, *, mend: bool) -> list[str]:
    """Find checkpoints that cannot be read or belong to another cell."""
    paths = [
        path for path in (store.root / "work").glob("*/checkpoint.pt") if not path.with_name("holder.json").exists()
    ]
    if not paths:
        return []
    from pipeline.training.checkpoint import load_checkpoint

    findings = []
    for path in paths:
        try:
            _read_through(path)
            load_checkpoint(path, path.parent.name)
        except (OSError, ValueError) as error:
            fault = error if isinstance(error, OSError) else error.__cause__
            if isinstance(fault, FileNotFoundError):  # published just now
                continue
            # Of a torn one torch says EINVAL: it seeks to before its beginning.
            if isinstance(fault, OSError) and fault.errno != errno.EINVAL:  # another day, another user may read it
                findings.append(f"{path}: cannot be read ({fault}); kept, {NOT_MENDED}")
                continue
            findings.append(f"{error}; {'dropped' if mend else 'to be dropped'}")
            if mend:
                path.unlink(missing_ok=True)
    return findings


def _read_through(path: Path) -> None:
    """Read a file to its end. Raises OSError."""
    with path.open("rb") as file:
        while file.read(2**24):
            pass


def _leftovers(store: Store, *, mend: bool) -> list[str]:
    """Find temporary files of killed writers, and what was left beside a published result."""
    now = store.now()
    folders = ("claims", "failed", "cancelled", "waiting", "work/*", "submissions/*", "done", "done/*")
    # Not that of paths, which fails where a folder goes while it looks.
    root = glob.escape(str(store.root))
    temporary = [Path(path) for folder in folders for path in glob.iglob(f"{root}/{folder}/.*")]  # noqa: PTH207
    temporary += [path for pattern in (".clock.*", ".*.json.*") for path in store.root.glob(pattern)]
    paths = [path for path in temporary if now - _written(path, now) > OLD_S]
    paths += [path for path in store.root.glob("waiting/*.json") if now - (modified(path) or now) > STALE_S]
    paths += [*(store.root / "done").glob("*/checkpoint.pt"), *(store.root / "done").glob("*/holder.json")]
    for path in paths if mend else []:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return [f"{path}: left behind by a killed process{'' if mend else '; to be removed'}" for path in paths]


def _written(path: Path, now: float) -> float:
    """Return when a file, or what is being written into a folder, was last written; `now` where it has gone."""
    written = modified(path) or now
    return max([written, *(modified(file) or now for file in path.glob("*"))])


def _lying_runs(root: Path, store: Store, *, dead: set[str], mend: bool) -> list[str]:
    """Find runs that MLflow was told to be running and that are not; with `mend` bring its database up to the store."""
    keys = []
    for path in sorted((store.root / "tracking").glob("*/[!.]*.json")):
        run, key = read_json(path) or {}, path.stem
        told_so = run.get("status") == "RUNNING" and run.get("kind") != "table"
        if told_so and (key in dead or store.state(key) != "running"):
            keys.append(key)
    fault = _ingestion_fault(root, store) if keys and mend else []
    verb = "told so" if mend and not fault else "to be told so"
    return [f"MLflow run of cell {key[:12]}: says RUNNING and is not; {verb}" for key in keys] + fault


def _ingestion_fault(root: Path, store: Store) -> list[str]:
    """Bring MLflow up to the store; return why it could not be, as a finding, since the others are mended already."""
    from pipeline import listings
    from pipeline.tracking import sending

    try:
        sending.ingest(store.root, listings.entries(root))
    except (RuntimeError, ValueError, OSError) as error:  # what `main` would say in place of all findings
        return [f"MLflow was not brought up to the store: {error}; {NOT_MENDED}"]
    return []
