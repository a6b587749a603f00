"""Code as far as it decides a result: its syntax, without comments, docstrings and layout."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path


def read_code(path: Path) -> tuple[str, list[str]]:
    """Return the sha256 of a file's syntax tree, and the dotted names it imports from, which may be modules or not.

    The syntax tree is Python's own, so another minor version of Python may give another sha256.
    """
    facts = path.stat()
    return _parse(path, facts.st_mtime_ns, size=facts.st_size)


@cache
def _parse(path: Path, mtime_ns: int, *, size: int) -> tuple[str, list[str]]:
    """Do it; time and size say which edition of the file it is."""
    del mtime_ns, size
    tree, names = ast.parse(path.read_text(encoding="utf-8"), filename=str(path)), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [statement for statement in node.body if not _is_docstring(statement)]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), names


def _is_docstring(statement: ast.stmt) -> bool:
    """Tell whether a statement is a string alone: a docstring, or the words under a constant."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)
