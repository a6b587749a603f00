"""What the commands of `python -m pipeline` do; which there are, and what they take, says `command_line`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline import listings
from pipeline.cell import cells_of
from pipeline.cluster.liveness import release_dead
from pipeline.commands import doctor, steering
from pipeline.commands.command_line import make_parser
from pipeline.commands.garbage import find_garbage, remove, size_of
from pipeline.commands.project import enter_project
from pipeline.locks import NOT_MENDED
from pipeline.store import Store, open_store
from pipeline.tracking.ingester import follow_until_idle

LOOKING = ("plan", "status", "tables", "logs", "why")
"""Commands before which recorded results are taken over: of a fresh clone the store is still empty."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit status."""
    options = make_parser().parse_args(arguments)
    if options.command == "completion":  # which a shell asks for as it starts, wherever that is
        print_completion(options.shell)
        return 0
    try:
        root = enter_project(options)
        store = open_store(root)
        if options.command in LOOKING:
            listings.take_over(root, store)
        exit_status = _runs()[options.command](root, store, options=options) or 0
        sys.stdout.flush()
        return exit_status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more as it ends
        return 0
    except (ValueError, RuntimeError, OSError) as error:
        print(f"{options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _runs() -> dict[str, Callable[..., int | None]]:
    """Return what runs each command, by its name."""
    return {
        "plan": _plan,
        "status": _status,
        "tables": _tables,
        "logs": _logs,
        "why": _why,
        "cancel": _cancel,
        "retry": _retry,
        "gc": _gc,
        "doctor": _doctor,
        "track": _track,
        "compare": _compare,
        "predict": _predict,
        "export": _export,
        "ui": _ui,
    }


def print_completion(shell: str) -> None:
    """Print what makes `pipeline` a command of the shell and completes its words."""
    import shtab

    parser = make_parser()
    parser.prog = "pipeline"
    # A function: zsh looks through an alias, and would complete `python`.
    print('pipeline() { python -m pipeline "$@"; }', shtab.complete(parser, shell), sep="\n")


def _plan(root: Path, store: Store, *, options: argparse.Namespace) -> None:
    from pipeline.commands import outlook

    if options.out and not options.scale:
        raise ValueError("--out requires --scale: it is what a scale would cost, written as Markdown")
    if options.scale:
        choice = {"tflops": options.tflops, "out": options.out, "as_json": options.json}
        outlook.show_scale(root, options.scale, tables=options.targets, **choice)
    else:
        outlook.show_plan(root, store, targets=options.targets, tflops=options.tflops, as_json=options.json)


def _status(root: Path, store: Store, *, options: argparse.Namespace) -> None:
    from pipeline.commands.live import show_status

    show_status(root, store, watch=options.watch, as_json=options.json)


def _tables(root: Path, store: Store, *, options: argparse.Namespace) -> None:
    from pipeline.commands.partial import rows_so_far, tables_so_far
    from pipeline.params import load_params

    scale = options.scale or load_params(root / "params.yaml")["scale"]
    texts = tables_so_far(root, store, scale=scale, tables=options.tables)
    if not options.json:
        print(*texts, sep="\n")
        return
    paths = sorted((root / "reports" / scale / "cells").glob("*.json"))
    wanted = [path for path in paths if not options.tables or path.stem in options.tables]
    print(json.dumps({path.stem: rows_so_far(store, path) for path in wanted}, indent=1))


def _logs(root: Path, store: Store, *, options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps(steering.log_lines(root, store, prefix=options.cell), indent=1))
    else:
        steering.show_log(root, store, prefix=options.cell, follow=options.follow)


def _why(root: Path, store: Store, *, options: argparse.Namespace) -> None:
    print(json.dumps(steering.explain(root, store, prefix=options.cell), indent=1))


def _cancel(root: Path, store: Store, *, options: argparse.Namespace) -> None:
    print(steering.cancel(root, store, targets=options.targets))


def _retry(root: Path, store: Store, *, options: argparse.Namespace) -> None:
    print(steering.retry(root, store, target=options.target))


def _doctor(root: Path, store: Store, *, options: argparse.Namespace) -> int:
    findings = doctor.examine(root, store, mend=not options.dry_run)
    if options.json:
        print(json.dumps({"findings": findings, "mended": not options.dry_run}, indent=1))
    else:
        print(*findings, f"{len(findings)} findings" if findings else "nothing to mend", sep="\n")
    left = findings if options.dry_run else [line for line in findings if line.endswith(NOT_MENDED)]
    return 1 if left else 0


def _gc(root: Path, store: Store, *, options: argparse.Namespace) -> None:
    if not options.days >= 0:
        raise ValueError(f"--days is {options.days:g}; allowed: 0 and above")
    tables, faults = listings.listings(root)
    if faults:
        raise ValueError(f"cannot tell which cells are needed: {'; '.join(faults)}")
    needed = {cell.key for rows in tables.values() for row in rows for cell in cells_of(row)}
    garbage = find_garbage(store, needed, root=root, days=options.days, done=options.done)
    freed = remove(garbage, days=options.days) if options.force else sum(map(size_of, garbage))
    names = [str(folder.relative_to(store.root)) for folder in garbage]
    if options.json:
        print(json.dumps({"folders": names, "bytes": freed, "removed": options.force}, indent=1))
        return
    verb = "removed" if options.force else "would go (--force removes them)"
    print(*names, f"{len(garbage)} folders {verb}, {freed / 2**20:.1f} MiB", sep="\n")


def _compare(root: Path, store: Store, *, options: argparse.Namespace) -> None:
    from pipeline.params import load_params
    from pipeline.reporting.compare import compare, comparison_markdown
    from pipeline.reporting.sides import read_side

    scale = load_params(root / "params.yaml")["scale"]
    a, b = (read_side(root, name, scale=scale, tables=options.tables) for name in (options.a, options.b))
    frame = compare(a, b)
    if a.shown != b.shown:
        print(f"{a.name} shows: {a.shown}\n{b.name} shows: {b.shown}", file=sys.stderr)
    if options.json:
        print(frame.to_json(orient="records", indent=1))
        return
    differs = (frame["difference"] != 0) | (frame["changed"] != "")  # no difference, nan, is none of zero
    shown = frame if options.all else frame[differs]
    if len(shown):
        print(comparison_markdown(shown, name_a=options.a, name_b=options.b))
    if len(shown) < len(frame):
        print(f"{len(frame) - len(shown)} of {len(frame)} rows are equal on both sides (--all shows them)")


def _predict(root: Path, store: Store, *, options: argparse.Namespace) -> int:
    folder = listings.find_trained(root, store, name=options.cell)  # before torch is imported, which takes seconds
    from pipeline.data.open import open_validation
    from pipeline.progress import follow
    from pipeline.trained.predict import find_images, load_trained, predict_folder, predict_validation

    trained = load_trained(folder, epoch=options.epoch, network=options.network)
    if options.val:
        samples = open_validation(trained.values, root / "data" / listings.scale_of(root, folder))
        done = predict_validation(trained, samples, out=options.out)
        num = sum(1 for _ in follow(done, total=len(samples), title="predicting"))
        print(f"{num} masks in {options.out}")
        return 0
    paths = find_images(options.images, options.out)
    made = predict_folder(trained, paths, images=options.images, out=options.out)
    left_out = [
        (path, reason) for path, reason in follow(made, total=len(paths), title="predicting") if reason is not None
    ]
    for path, reason in left_out:
        print(f"{path}: left out: {reason}", file=sys.stderr)
    print(f"masks and overlays in {options.out}; {len(left_out)} images left out")
    return 1 if left_out else 0


def _export(root: Path, store: Store, *, options: argparse.Namespace) -> None:
    folder = listings.find_trained(root, store, name=options.cell)
    from pipeline.commands.export import export_as
    from pipeline.trained.predict import load_trained
    from pipeline.trained.program import measured_size

    trained = load_trained(folder, epoch=options.epoch, network=options.network)
    size = None if options.any_size else options.size or measured_size(trained.values)
    print(*export_as(options.form, trained, out=options.out, size=size, store=store), sep="\n")


def _track(root: Path, store: Store, *, options: argparse.Namespace) -> None:
    from pipeline.tracking import artifacts, sending

    if options.follow:
        follow_until_idle(store, root)
        return
    if options.rebuild:
        sending.rebuild(store.root, listings.entries(root))
    print(artifacts.bring_up(root, store))


def _ui(root: Path, store: Store, *, options: argparse.Namespace) -> None:
    from pipeline.tracking.artifacts import bring_up, tables_link
    from pipeline.tracking.database import UnreachableError, tracking_uri, without_password

    release_dead(store)
    uri = tracking_uri(store.root)
    has_server = uri.startswith(("http://", "https://"))
    address = without_password(uri).rstrip("/") if has_server else f"http://127.0.0.1:{options.port}"
    print(f"the MLflow UI is at {address}")
    try:
        bring_up(root, store)
        print(f"the tables are at {address}/{tables_link(store)}", flush=True)
    except UnreachableError as error:
        print(f"ui: MLflow is behind the store: {error}", file=sys.stderr)
    if has_server:
        return
    artifacts = str(store.root.parent / "mlflow-artifacts")
    database = ["--backend-store-uri", uri, "--default-artifact-root", artifacts]
    one = ["--workers", "1"]  # for one person: four, and a runner of jobs, take a busy machine a minute to start
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", *database, *one, "--port", options.port])


if __name__ == "__main__":
    sys.exit(main())
