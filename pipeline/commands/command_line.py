"""`python -m pipeline COMMAND`: see what would run, what runs, and why; stop it, take it up again, mend it.

Exit status: 0 done; 1 failed, or something is wrong, as stderr says; 2 invalid command line; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.commands.garbage import KEPT_DAYS

KEY = "the first characters of its key, or a table of one row (`experiment`)"
TRAINED = "a train cell: the first characters of its key, a table of one row (`experiment`), or a copy of its folder"


class Commands:
    """A parser that learns one command after the other; its first and last words are this module's own."""

    def __init__(self) -> None:
        description, _, self.epilog = (__doc__ or "").strip().partition("\n\n")
        self.parser = argparse.ArgumentParser(prog="python -m pipeline", description=description, epilog=self.epilog)
        self.commands = self.parser.add_subparsers(dest="command", required=True)

    def add(self, name: str, help_: str) -> argparse.ArgumentParser:
        """Add a command and return it, for its arguments."""
        return self.commands.add_parser(name, help=help_, description=help_, epilog=self.epilog)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of every command."""
    commands = Commands()
    _add_looking(commands)
    _add_steering(commands)
    _add_results(commands)
    added = commands.add("ui", "open the MLflow UI")
    added.add_argument("--port", default="5000", help="local port (default: %(default)s)")
    added = commands.add("completion", "shell code that makes `pipeline` this program and completes its words")
    added.add_argument("shell", choices=("bash", "zsh"), help="the shell that is to read it")
    return commands.parser


def _add_looking(commands: Commands) -> None:
    added = commands.add("plan", "what `dvc repro TARGET …` would run, and why")
    added.add_argument(
        "targets", nargs="*", default=[], help="tables or DVC's stages (default: all); with --scale: tables"
    )
    _as_json(added)
    added.add_argument("--scale", help="instead: what all tables of a scale would cost, counted; takes minutes")
    added.add_argument("--tflops", type=float, default=50.0, help="sustained TFLOP/s of a GPU (assumed: %(default)g)")
    added.add_argument("--out", type=Path, help="with --scale: write it as Markdown to this file")
    added = commands.add("status", "the cells of every table by state, and what runs now")
    _as_json(added).add_argument("--watch", action="store_true", help="refresh every two seconds")
    added = commands.add("tables", "tables from the cells that are done so far, with holes and their reasons")
    added.add_argument("tables", nargs="*", default=[], help="which (default: all)")
    added.add_argument("--scale", help="default: that of params.yaml")
    _as_json(added)
    added = commands.add("logs", "the log of a cell")
    added.add_argument("cell", metavar="KEY", help=KEY)
    _as_json(added).add_argument("-f", "--follow", action="store_true", help="until the cell ends")
    added = commands.add("why", "where a cell's result comes from, as JSON")
    added.add_argument("cell", metavar="KEY", help=KEY)


def _as_json(added: argparse.ArgumentParser) -> argparse._MutuallyExclusiveGroup:
    """Let a command answer in JSON; what is added to the group returned cannot be asked for together with it."""
    shown = added.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="print JSON")
    return shown


def _add_steering(commands: Commands) -> None:
    added = commands.add("cancel", "stop the cells of tables, or single cells; checkpoints stay")
    added.add_argument("targets", nargs="+", help="tables, or cells by the first characters of their keys")
    added = commands.add("retry", "forget failures and cancellings, all or of a table or cell: they run again")
    added.add_argument("target", nargs="?", help="a table, or a cell by the first characters of its key (default: all)")
    added = commands.add("gc", "remove what the store keeps for no current table; without --force only list it")
    _as_json(added)
    added.add_argument("--force", action="store_true", help="remove it")
    help_ = "also finished cells that no current table of this clone needs"
    added.add_argument("--done", action="store_true", help=help_)
    help_ = "keep what changed in so many days (default: %(default)g)"
    added.add_argument("--days", type=float, default=KEPT_DAYS, help=help_)
    added = commands.add("doctor", "find what a crash left behind, and mend it")
    _as_json(added)
    added.add_argument("--dry-run", action="store_true", help="report only, change nothing")
    added = commands.add("track", "bring MLflow up to the store")
    which = added.add_mutually_exclusive_group()
    which.add_argument("--follow", action="store_true", help="keep updating until no cell is running")
    which.add_argument("--rebuild", action="store_true", help="make the database again from the store")


def _add_results(commands: Commands) -> None:
    added = commands.add("compare", "two commits, or two scales, cell by cell")
    for side in ("a", "b"):
        added.add_argument(side, help="a commit (HEAD~1, HEAD:smoke) or a scale under reports/")
    added.add_argument("tables", nargs="*", default=[], help="which (default: all but `experiment`)")
    _as_json(added).add_argument("--all", action="store_true", help="rows that are equal on both sides, too")
    added = commands.add("predict", "masks and overlays for a folder of images, or the masks of val")
    added.add_argument("cell", metavar="KEY", help=TRAINED)
    which = added.add_mutually_exclusive_group(required=True)
    which.add_argument("images", type=Path, nargs="?", help="a folder of images")
    which.add_argument("--val", action="store_true", help="the images the cell is measured on, as it is measured")
    added.add_argument("--out", type=Path, required=True, help="the folder to write them to")
    _choice_of_network(added)
    added = commands.add("export", "a trained network as a program that needs torch alone, ONNX, or MLflow model")
    help_ = "program (the default; torch.export), onnx, or mlflow"
    added.add_argument("--as", dest="form", choices=("program", "onnx", "mlflow"), default="program", help=help_)
    added.add_argument("cell", metavar="KEY", help=TRAINED)
    added.add_argument("out", type=Path, help="the folder to write it to, with its model card")
    which = added.add_mutually_exclusive_group()
    help_ = "of the images it will take, pixels (default: what it is measured on: its crop or window, or any image)"
    which.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help=help_)
    help_ = "take images of any size, each side of more pixels than the output stride; some timm encoders cannot"
    which.add_argument("--any-size", action="store_true", help=help_)
    _choice_of_network(added)


def _choice_of_network(added: argparse.ArgumentParser) -> None:
    added.add_argument("--epoch", choices=("best", "last"), default="best", help="whose weights (default: %(default)s)")
    help_ = "deployed, student or teacher (default: %(default)s)"
    added.add_argument("--network", default="deployed", help=help_)
