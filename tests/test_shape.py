"""The shape of the code, as facts: sizes, arguments, annotations, names of files, and which way imports point."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
FOLDERS = ("pipeline", "stages", "tests", "slurm")
SOURCES = sorted(path for folder in FOLDERS for path in (PROJECT / folder).rglob("*.py"))
PRODUCT = [path for path in SOURCES if path.relative_to(PROJECT).parts[0] != "tests"]
FORBIDDEN_FILES = {"utils", "util", "helpers", "helper", "common", "misc"}
WITHOUT_TORCH = (
    *("reporting", "cell", "params", "labels", "store", "plan"),
    *("launch", "launcher", "attach", "progress", "spool", "listings"),
)
ARROWS = {
    "data": {"data"},
    "models": {"models", "data"},
    "training": {"training", "models", "data", "evaluation", "spool"},
    "evaluation": {"evaluation", "models", "data"},
    "methods": {"training", "models", "data"},
    "reporting": {"reporting", "labels"},
    "cluster": {"cluster", "training", "cell", "store", "records", "files", "labels"},
    "tracking": {"tracking", "cluster", "trained", "listings", "cell", "store", "files", "spool", "labels"},
    "trained": {"trained", "reporting", "evaluation", "training", "models", "data", "files", "store", "labels"},
}
"""What each folder of the package may import of the package."""
DICTATED = {"__exit__", "__torch_dispatch__", "forward", "predict"}
"""Functions whose positional arguments are chosen by who calls them: Python, PyTorch, MLflow."""


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def size(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def imported(path: Path) -> set[str]:
    """The modules a file imports, as dotted names, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return names


def name(path: Path) -> str:
    return path.relative_to(PROJECT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_file_is_short_and_its_functions_are_shorter(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300
    assert path.stem not in FORBIDDEN_FILES
    for node in functions(path):
        assert size(node) <= 60, f"{node.name} has {size(node)} lines"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_function_has_few_arguments_and_all_are_annotated(path: Path) -> None:
    for node in functions(path):
        positional = [argument for argument in node.args.args if argument.arg not in ("self", "cls")]
        every = [*positional, *node.args.kwonlyargs]
        limit = 8 if node.name.startswith("test_") else 6  # fixtures and cases are arguments too
        assert len(every) <= limit, f"{node.name} has {len(every)} arguments"
        assert all(argument.annotation for argument in every), f"{node.name}: an argument without annotation"
        assert node.returns is not None, f"{node.name}: no annotation of what it returns"


@pytest.mark.parametrize("path", PRODUCT, ids=name)
def test_a_third_argument_is_given_by_its_name(path: Path) -> None:
    for node in functions(path):
        positional = [argument for argument in node.args.args if argument.arg not in ("self", "cls")]
        assert len(positional) <= 2 or node.name in DICTATED, f"{node.name}: keyword-only past the second"


def test_functions_are_small_on_the_whole() -> None:
    sizes = [size(node) for path in PRODUCT for node in functions(path)]
    assert statistics.median(sizes) <= 10


def test_stage_scripts_are_a_page() -> None:
    for path in (PROJECT / "stages").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 45, path.name


def test_the_package_lists_its_modules() -> None:
    lines = (ast.get_docstring(ast.parse((PROJECT / "pipeline" / "__init__.py").read_text())) or "").splitlines()
    listed = [module for line in lines if "  " in line for module in line.split("  ")[-1].split()]
    there = {path.stem for path in (PROJECT / "pipeline").glob("*.py")} - {"__init__"}
    assert sorted(listed) == sorted(there)


def test_imports_point_one_way() -> None:
    for folder, allowed in ARROWS.items():
        for path in (PROJECT / "pipeline" / folder).rglob("*.py"):
            inner = {module.split(".")[1] for module in imported(path) if module.startswith("pipeline.")}
            assert inner <= allowed, f"{name(path)} imports {sorted(inner - allowed)}"


def test_no_method_imports_another() -> None:
    for path in (PROJECT / "pipeline" / "methods").glob("*.py"):
        assert not any(module.startswith("pipeline.methods") for module in imported(path)), path.name
        assert len(path.read_text().splitlines()) <= (190 if path.stem == "u2pl" else 160), path.name


def test_orchestration_and_reports_import_no_torch() -> None:
    for part in WITHOUT_TORCH:
        found = PROJECT / "pipeline" / part
        for path in sorted(found.rglob("*.py")) if found.is_dir() else [found.with_suffix(".py")]:
            assert not any(module.split(".")[0] in ("torch", "torchvision") for module in imported(path)), name(path)


def test_no_device_is_named_and_nothing_is_read_back_in_the_hot_path() -> None:
    for folder in ("methods", "training", "models"):
        for path in (PROJECT / "pipeline" / folder).rglob("*.py"):
            text = path.read_text()
            assert ".cuda(" not in text, name(path)
            if path.name != "ranks.py":  # what ranks tell each other between log points lies on the host
                assert ".item()" not in text, name(path)


def test_the_project_names_no_machine() -> None:
    places = ("/ro" + "ot/", "/wo" + "rk/", "/fa" + "rm/")
    for path in PROJECT.rglob("*"):
        inside = path.relative_to(PROJECT).parts
        generated = inside[0] in ("data", "runs") or inside[0].startswith((".", "mlruns"))
        if generated or not path.is_file() or "__pycache__" in inside:
            continue
        if path.suffix in (".py", ".md", ".yaml", ".toml", ".lock", "") and path.stat().st_size < 1e6:
            text = path.read_text(encoding="utf-8", errors="ignore")
            assert not any(place in text for place in places), name(path)
