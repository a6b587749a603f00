from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.reporting.grid import build_grid
from pipeline.reporting.latex import escape, to_latex
from pipeline.reporting.paper import PAPER_TABLES, read_published
from pipeline.reporting.rows import Shown, read_rows
from pipeline.reporting.tables import to_markdown, write_table

Row = dict[str, Any]


@pytest.fixture
def written(reports_dir: Path) -> Callable[..., str]:
    """Write a table of `reports_dir` from its rows (or others) and return one of its files."""

    def write(table: str, suffix: str, *, rows: list[Row] | None = None, **choices: Any) -> str:
        found = read_rows(reports_dir / "metrics" / f"{table}.json") if rows is None else rows
        write_table(table, found, reports_dir=reports_dir, **choices)
        return (reports_dir / "tables" / f"{table}.{suffix}").read_text(encoding="utf-8")

    return write


def frame(reports_dir: Path, table: str) -> pd.DataFrame:
    return pd.read_csv(reports_dir / "tables" / f"{table}.csv")


@pytest.mark.parametrize("table", list(PAPER_TABLES))
def test_a_csv_begins_with_the_columns_of_the_published_one_and_holds_its_numbers_beside(
    table: str, written: Callable[..., str], reports_dir: Path, published_dir: Path
) -> None:
    written(table, "csv")
    published, ours = read_published(table, published_dir), frame(reports_dir, table)
    assert published is not None
    assert list(ours.columns[: len(published.frame.columns)]) == list(published.frame.columns)
    for column in published.columns:
        assert ours[f"{column} published"].tolist() == published.frame[column].astype(float).tolist()


def test_a_csv_says_which_scale_and_data_its_numbers_are_of(written: Callable[..., str], reports_dir: Path) -> None:
    written("table_3", "csv")
    assert set(frame(reports_dir, "table_3")["scale"]) == {"embedded"}
    assert set(frame(reports_dir, "table_3")["data"]) == {"streets"}


def test_seeds_stand_in_the_csv_and_in_markdown(written: Callable[..., str], reports_dir: Path) -> None:
    markdown = written("table_x3", "md")
    ours = frame(reports_dir, "table_x3")
    assert set(ours["1/8 (1323) n"]) == {3}
    for mean, deviation in zip(ours["1/8 (1323)"], ours["1/8 (1323) sd"], strict=True):
        assert re.search(rf"{mean:.2f}(\*\*)? ± {deviation:.2f}", markdown)
    assert "±: standard deviation over n = 3 seeds; two rows differ by up to " in markdown


def test_means_over_seeds_say_what_chance_does_also_to_a_row_of_fewer_steps_and_whose_seeds_tell(
    reports_dir: Path,
) -> None:
    rows = read_rows(reports_dir / "metrics" / "table_x3.json")
    short = [row | {"steps": 40 if row["method"] == "suponly" else 400} for row in rows]
    own = to_markdown(build_grid("table_x3", short, published=None, noise_rows=[], shown=Shown()))
    assert re.search(r"by up to \d+\.\d\d points by chance \(95 %\), by up to \d+\.\d\d where one of them trains", own)
    few = [row | {"table": "table_x2"} for row in rows if row["method"] != "u2pl"]
    other = to_markdown(build_grid("table_x2", few, published=None, noise_rows=rows, shown=Shown()))
    assert re.search(
        r"two rows differ by up to .*: what a seed does to all rows cancels; measured by the seeds of ", other
    )


def test_a_cell_with_fewer_seeds_than_the_others_says_how_many(reports_dir: Path) -> None:
    rows = read_rows(reports_dir / "metrics" / "table_x3.json")
    rows[1] |= {"state": "missing", "reason": "node lost"}
    markdown = to_markdown(build_grid("table_x3", rows, published=None, noise_rows=[], shown=Shown()))
    assert markdown.count("(n = 2)") == 1
    assert "seed 1: node lost: SupOnly at 1/8 (1323)" in markdown


def test_a_missing_cell_is_refused_by_name_and_shown_as_a_hole(written: Callable[..., str], make_table: Any) -> None:
    rows = make_table("table_7")
    rows[0] |= {"state": "missing", "reason": "out of memory"}
    with pytest.raises(
        ValueError, match=r"1 of 8 cells are missing \(40 at 1/8 \(1323\), seed 0: out of memory\)"
    ) as told:
        written("table_7", "md", rows=rows)
    assert str(told.value).endswith("; `python -m pipeline tables table_7` shows the table with holes")
    markdown = to_markdown(build_grid("table_7", rows, published=None, noise_rows=[], shown=Shown()))
    assert "* –: out of memory: 40 at 1/8 (1323)" in markdown


def test_rows_of_the_paper_alone_are_holes_beside_their_published_numbers(written: Callable[..., str]) -> None:
    markdown = written("table_2", "md")
    [line] = [line for line in markdown.splitlines() if line.startswith("| CPS ")]
    assert [cell.strip() for cell in line.strip("|").split("|")][1:5] == ["–", "74.48", "–", "76.44"]
    assert "* –: not run at this scale: CCT, GCT, CPS, AEL" in markdown


def test_the_papers_gains_and_daggers_stand_where_the_paper_has_them(written: Callable[..., str]) -> None:
    markdown = written("table_1", "md")
    [own] = [line for line in markdown.splitlines() if line.startswith("| U2PL (w/ CutMix) ")]
    for gain in ("67.98** (+22.21)", "69.15** (+14.23)", "73.66** (+7.78)", "76.16** (+4.47)", "79.49** (+6.99)"):
        assert gain in own
    assert "| MT† " in markdown
    assert "| CutMix† " in markdown
    assert "| SupOnly " in markdown


def test_small_differences_are_marked_with_noise_rows_and_the_legend_says_why(
    written: Callable[..., str], reports_dir: Path
) -> None:
    noise_rows = read_rows(reports_dir / "metrics" / "table_x3.json")
    silent = written("table_2", "md")
    assert "≈" not in "".join(line for line in silent.splitlines() if line.startswith("|"))
    assert "* ≈: not marked: how much seeds vary is not measured, so small differences may be chance" in silent
    markdown = written("table_2", "md", noise_rows=noise_rows)
    assert "≈" in markdown
    noted = sum(frame(reports_dir, "table_2").filter(regex=" note$").eq("gain within noise").sum())
    assert noted == sum(line.count("≈") for line in markdown.splitlines() if line.startswith("|"))
    assert "cannot be told apart from SupOnly: two rows of one and the same seed differ by up to " in markdown
    assert (
        "by the seeds of Table X3 (on `shapes` data playing VOC blender at 1/8 and 1/4); "
        "borrowed from there for 1/16 and 1/2"
    ) in markdown
    assert "; borrowed from there: Cityscapes was not measured with several seeds" in written(
        "table_3", "md", noise_rows=noise_rows
    )


def test_a_diverged_cell_is_marked_and_its_step_told(written: Callable[..., str], reports_dir: Path) -> None:
    markdown = written("table_a5", "md")
    assert re.search(r"\| 1e-1 \(here 0\.6\) +\| +\d+\.\d\d × ", markdown)
    assert "×: diverged, last finite figures: 1e-1 at 1/4 (2646), step 41" in markdown
    assert frame(reports_dir, "table_a5")["1/4 (2646) note"].tolist()[0] == "diverged at step 41"


def test_learning_rates_relative_to_the_scales_default_are_told(written: Callable[..., str], reports_dir: Path) -> None:
    markdown = written("table_a5", "md")
    assert "this scale runs them relative to its own default" in markdown
    assert frame(reports_dir, "table_a5")["ran as"].tolist() == [0.6, 0.06, 0.006, 0.0006, 6e-5]


@pytest.mark.parametrize("table", list(PAPER_TABLES))
def test_a_caption_names_scale_data_and_role_and_forbids_comparing_levels(
    table: str, written: Callable[..., str]
) -> None:
    role = {"table_1": "VOC classic"}.get(table, "Cityscapes" if table in ("table_3", "table_a2", "table_a3") else None)
    role = role or ("Cityscapes" if table in ("table_a7", "table_a8") else "VOC blender")
    data = "streets" if role == "Cityscapes" else "shapes"
    caption = written(table, "md").split("\n\n")[0]
    assert f"Measured at scale `embedded` on `{data}` data playing {role}." in caption
    assert f"The paper's columns are {role} itself: compare rankings and gains, never absolute values." in caption
    assert "deployed network, best epoch, padding ignored" in caption


def test_on_the_papers_own_data_levels_may_be_compared(written: Callable[..., str], make_table: Any) -> None:
    rows = [row | {"scale": "paper", "data": {"name": "voc"}} for row in make_table("table_2")]
    caption = written("table_2", "md", rows=rows).split("\n\n")[0]
    assert "Measured at scale `paper` on VOC blender." in caption
    assert "absolute values" not in caption
    assert "playing" not in caption


def test_which_figure_is_shown_is_chosen_by_name(written: Callable[..., str], reports_dir: Path) -> None:
    rows = read_rows(reports_dir / "metrics" / "table_2.json")
    own = next(row for row in rows if row["row"]["method"] == "MT" and row["partition"] == "1-8")
    for shown in (Shown(network="student"), Shown(epoch="last"), Shown(padding="padding_background")):
        assert str(shown) in written("table_2", "md", shown=shown)
        network = {"deployed": "teacher"}.get(shown.network, shown.network)
        expected = own["metrics"][network][shown.epoch][shown.padding]["miou"]
        ours = frame(reports_dir, "table_2")
        assert ours.loc[ours["method"] == "MT", "1/8 (1323)"].item() == round(expected, 2)


def test_the_teacher_of_a_method_without_one_is_a_hole_that_says_so(written: Callable[..., str]) -> None:
    assert "suponly has no teacher: SupOnly" in written("table_2", "md", shown=Shown(network="teacher"))


def test_components_are_check_marks_for_people_and_numbers_in_the_csv(
    written: Callable[..., str], reports_dir: Path
) -> None:
    markdown = written("table_6", "md")
    [line] = [line for line in markdown.splitlines() if "78.49" in line]
    assert [cell.strip() for cell in line.strip("|").split("|")][:5] == ["✓", "✓", "", "✓", "✓"]
    assert frame(reports_dir, "table_6")[["L_c", "Q_c", "DPA", "PRT", "Unreliable"]].iloc[2].tolist() == [1, 1, 0, 1, 1]


def test_labels_that_say_yes_or_no_are_marks_under_short_heads(make_row: Callable[..., Row]) -> None:
    labels = [{"variant": "-", "defect_one_hot": value} for value in ("-", "True")]
    rows = [make_row("table_ent", each, "1/8 (1323)", miou=60) for each in labels]
    drawn = {"num_fine": 128, "num_coarse": 384, "fine": "train", "labelled_from": "train_aug"}
    rows = [row | {"data": row["data"] | drawn} for row in rows]
    markdown = to_markdown(build_grid("table_ent", rows, published=None, noise_rows=[], shown=Shown()))
    assert markdown.startswith("Table Ent. A table of one's own. mIoU in percent")
    assert "the paper's numbers of labelled images; used here: 64 at 1/8." in markdown
    lines = [[cell.strip() for cell in line.split("|")[1:3]] for line in markdown.splitlines() if line.startswith("|")]
    assert [lines[index] for index in (0, 2, 3)] == [["variant", "one hot"], ["default", "–"], ["default", "✓"]]


def test_every_line_of_a_markdown_table_has_as_many_cells(written: Callable[..., str]) -> None:
    for table in PAPER_TABLES:
        lines = [line for line in written(table, "md").splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) == 1
        assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize("table", [*PAPER_TABLES, "table_x3"])
def test_latex_is_balanced_escaped_and_has_one_cell_for_each_column(table: str, written: Callable[..., str]) -> None:
    text = written(table, "tex")
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    plain = re.sub(r"\\[{}$%&#_]", "", body)
    assert plain.count("{") == plain.count("}")
    depth = 0
    for character in plain:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert plain.count("$") % 2 == 0
    outside = re.sub(r"\$[^$]*\$", "", plain)
    assert not re.findall(r"[#^~_%]", re.sub(r"\\label\{[^}]*\}", "", outside))
    assert text.isascii()
    opened = re.findall(r"\\begin\{(\w+)\}", body)
    assert sorted(opened) == sorted(re.findall(r"\\end\{(\w+)\}", body)) == ["minipage", "table", "tabular"]
    [alignment] = re.findall(r"\\begin\{tabular\}\{([lr]+)\}", body)
    for line in body.splitlines():
        if line.endswith(r"\\"):
            spanned = sum(int(width) - 1 for width in re.findall(r"\\multicolumn\{(\d)\}", line))
            assert len(re.findall(r"(?<!\\)&", line)) + 1 + spanned == len(alignment)


def test_latex_numbers_its_tables_itself_and_lists_them_by_their_titles(written: Callable[..., str]) -> None:
    lines = written("table_x3", "tex").splitlines()
    assert (
        r"\caption[All methods over several seeds]{All methods over several seeds. Scale \texttt{embedded}.}" in lines
    )
    assert lines.index(r"\end{tabular}}") < next(i for i, line in enumerate(lines) if "mIoU in percent" in line)


def test_the_number_of_seeds_stands_where_it_is_unusual_in_markdown_and_latex(reports_dir: Path) -> None:
    rows = read_rows(reports_dir / "metrics" / "table_x3.json")
    rows[1] |= {"state": "missing", "reason": "node lost"}
    grid = build_grid("table_x3", rows, published=None, noise_rows=[], shown=Shown())
    for text in (to_markdown(grid), to_latex(grid)):
        assert len(re.findall(r"(?<!over )\(n = \d\)", text)) == text.count("(n = 2)") == 1


def test_latex_escapes_whatever_text_holds() -> None:
    assert escape("50 % & #1 a_long_name {x} $5 ~ ^ \\") == (
        r"50 \% \& \#1 a\_long\_name \{x\} \$5 \textasciitilde{} \textasciicircum{} \textbackslash{}"
    )
    assert escape("U2PL (w/ L_c), `table_1`, τ, α_0, −0.5 ± 1 ≈ †") == (
        r"U2PL (w/ $L_{c}$), \texttt{table\_1}, $\tau$, $\alpha_{0}$, $-$0.5 $\pm$ 1 $\approx$ \dag{}"
    )


def test_numbers_of_csv_markdown_and_latex_agree(written: Callable[..., str], reports_dir: Path) -> None:
    for table in PAPER_TABLES:
        markdown, latex = written(table, "md"), written(table, "tex")
        ours = frame(reports_dir, table)
        for column in (name for name in ours.columns if re.fullmatch(r"\S+ \(\d+\)", name)):
            for value in ours[column].dropna():
                assert f"{value:.2f}" in markdown
                assert f"{value:.2f}" in latex


def test_a_torn_published_file_is_named(reports_dir: Path, make_table: Any) -> None:
    path = reports_dir.parent / "published" / "table_7.csv"
    path.write_text(path.read_text().replace("79.01", "79.O1"))
    with pytest.raises(ValueError, match=r"table_7\.csv: not a table of numbers"):
        write_table("table_7", make_table("table_7"), reports_dir=reports_dir)
