"""The LaTeX tables, set by LaTeX."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.reporting.latex import escape
from pipeline.reporting.rows import read_rows
from pipeline.reporting.tables import write_table

PROJECT = Path(__file__).parents[2]
TABLES = sorted(PROJECT.glob("reports/*/tables/*.tex"))


def test_what_latex_reads_as_the_length_after_a_line_s_end_is_set() -> None:
    assert escape("[0.7, 0.9]") == "{[}0.7, 0.9{]}"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex: apt-get install texlive-latex-recommended")
def test_every_table_is_set_with_the_packages_that_it_names(tmp_path: Path) -> None:
    assert len(TABLES) >= 14
    packages = {path.read_text().splitlines()[0].removeprefix("% ") for path in TABLES}
    inputs = [f"\\input{{{path}}}\n\\clearpage" for path in TABLES]
    lines = ["\\documentclass{article}", *packages, "\\begin{document}", *inputs, "\\end{document}", ""]
    (tmp_path / "all.tex").write_text("\n".join(lines))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert result.returncode == 0, result.stdout[-3000:]
    assert f"Output written on all.pdf ({len(TABLES)} pages" in result.stdout
    assert "Missing character" not in (tmp_path / "all.log").read_text(errors="replace")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex: apt-get install texlive-latex-recommended")
def test_no_table_is_wider_than_the_text(tmp_path: Path, make_reports: Callable[[Path], Path]) -> None:
    folder = make_reports(tmp_path / "embedded")
    for table in ("table_2", "table_6", "table_x3"):
        write_table(table, read_rows(folder / "metrics" / f"{table}.json"), reports_dir=folder)
    inputs = [f"\\input{{{path}}}\n\\clearpage" for path in sorted(folder.glob("tables/*.tex"))]
    packages = "\\usepackage{booktabs,amssymb,graphicx}"
    lines = ["\\documentclass{article}", packages, "\\begin{document}", *inputs, "\\end{document}", ""]
    (tmp_path / "all.tex").write_text("\n".join(lines))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert result.returncode == 0, result.stdout[-3000:]
    assert "Overfull" not in (tmp_path / "all.log").read_text(errors="replace")
