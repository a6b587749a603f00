from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.reporting.page import rich
from pipeline.reporting.rows import read_rows
from pipeline.reporting.tables import write_table
from tests.reporting.conftest import write_page

Row = dict[str, Any]
NUM_CELLS = 16 + 8 + 6 + 5 + 24


class Page(HTMLParser):
    """The page's ids, the attributes that point somewhere, and the text of each measured or published value."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: Counter[str] = Counter()
        self.pointers: list[tuple[str, str]] = []
        self.values: dict[str, str] = {}
        self.tags: Counter[str] = Counter()
        self._cell, self._is_value = "", False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags[tag] += 1
        if "id" in found:
            self.ids[found["id"]] += 1
        names = ("href", "src", "popovertarget", "aria-labelledby", "aria-describedby", "xlink:href")
        self.pointers += [(name, found[name]) for name in names if name in found]
        if tag == "td":
            self._cell = found.get("data-cell", f"{self._cell} paper" if "paper" in found.get("class", "") else "")
        self._is_value = found.get("class") == "value"

    def handle_data(self, data: str) -> None:
        if self._is_value and self._cell and self._cell not in self.values:
            self.values[self._cell] = data
        self._is_value = False


def pages_of(reports_dir: Path) -> Callable[..., str]:
    def page(**choices: Any) -> str:
        return write_page(reports_dir, **choices).read_text(encoding="utf-8")

    return page


def edit(path: Path, change: Callable[[list[Row]], Any]) -> None:
    rows = json.loads(path.read_text())
    change(rows)
    path.write_text(json.dumps(rows))


def test_every_number_of_the_page_is_the_one_of_the_csv(reports_dir: Path) -> None:
    values = Page(pages_of(reports_dir)()).values
    noise_rows = read_rows(reports_dir / "metrics" / "table_x3.json")
    seen = 0
    for path in (reports_dir / "metrics").glob("*.json"):
        write_table(path.stem, read_rows(path), reports_dir=reports_dir, noise_rows=noise_rows)
        frame = pd.read_csv(reports_dir / "tables" / f"{path.stem}.csv", dtype=str, keep_default_na=False)
        columns = [name for name in frame.columns if re.fullmatch(r"\S+ \(\d+\)", name)]
        for line, record in frame.iterrows():
            for index, column in enumerate(columns):
                cell = f"{path.stem}-{line}-{index}"
                assert values[cell] == (record[column] or "–")
                if f"{cell} paper" in values:
                    assert values[f"{cell} paper"] == (record[f"{column} published"] or "–")
                seen += 1
    assert seen == sum(" " not in cell for cell in values) > 150


def test_the_page_needs_nothing_outside_itself(page_of: Callable[..., str]) -> None:
    text = page_of()
    page = Page(text)
    assert page.tags["script"] == page.tags["link"] - 1 == 0  # the one link is the empty icon
    for name, target in page.pointers:
        assert target.startswith(("#", "data:", "tables/")) or name not in ("href", "src", "xlink:href"), target
    assert "@import" not in text
    assert not re.findall(r"url\((?!#|data:)", text)


def test_ids_are_unique_and_everything_that_points_finds_its_target(page_of: Callable[..., str]) -> None:
    page = Page(page_of())
    assert not [name for name, count in page.ids.items() if count > 1]
    for name, target in page.pointers:
        if name in ("href", "xlink:href", "src"):
            assert not target.startswith("#") or target[1:] in page.ids
        else:
            assert set(target.split()) <= set(page.ids), target


def test_links_to_files_are_made_only_where_the_files_are(few: Path, page_of: Callable[..., str]) -> None:
    assert "tables/table_7.csv" not in page_of()
    rows = read_rows(few / "metrics" / "table_2.json")
    write_table("table_2", rows, reports_dir=few)
    targets = [target for name, target in Page(page_of()).pointers if name == "href" and target.startswith("tables/")]
    assert sorted(targets) == ["tables/table_2.csv", "tables/table_2.md", "tables/table_2.tex"]


def test_the_banner_says_which_data_play_which_role(page_of: Callable[..., str]) -> None:
    text = " ".join(page_of().split())
    assert "Other data than the paper's" in text
    assert "<code>shapes</code> plays VOC blender;" in text
    assert "<code>streets</code> plays Cityscapes." in text
    assert 'class="difference"' not in text


def test_on_the_papers_data_each_number_stands_with_its_difference_to_the_papers(
    few: Path, page_of: Callable[..., str]
) -> None:
    names = {"shapes": "voc", "streets": "cityscapes"}
    for folder in ("cells", "metrics"):
        for path in (few / folder).glob("*.json"):
            edit(path, lambda rows: [row["data"].update(name=names[row["data"]["name"]]) for row in rows])
    text = page_of()
    page = Page(text)
    assert "Measured on the paper's data." in text
    assert "play" not in text.replace("display", "")
    differences = re.findall(r'class="difference">([^<]+)<', text)
    expected = f"{float(page.values['table_2-0-0']) - 67.87:+.2f}".replace("-", "−")
    assert differences[0] == expected


def test_holes_say_why_and_are_counted(few: Path, page_of: Callable[..., str]) -> None:
    text = page_of(reason=lambda cell: f"failed: node lost <{cell['partition']}>")
    assert "failed: node lost &lt;1-8&gt;: 40 at 1/8 (1323)" in text
    assert f"{NUM_CELLS - 1}<small> of {NUM_CELLS}</small>" in text


def test_a_cell_that_changed_since_is_out_of_date(few: Path, page_of: Callable[..., str]) -> None:
    edit(few / "cells" / "table_a6.json", lambda rows: rows[0]["training"].update(epochs=40))
    text = page_of()
    assert "measured under other values (training.epochs: 20 → 40)" in text
    assert re.search(r"out of date</dt><dd>1</dd>", text)


def test_labels_are_shown_as_text_whatever_they_hold(few: Path, make_row: Callable[..., Row]) -> None:
    row = make_row("table_x9", {"variant": "<script>alert(1)</script>"}, "1/8 (1323)", miou=60)
    for folder in ("cells", "metrics"):
        (few / folder / "table_x9.json").write_text(json.dumps([row]))
    page = Page(write_page(few).read_text())
    assert page.tags["script"] == 0


def test_pictures_in_the_folder_are_shown_with_their_captions(few: Path, page_of: Callable[..., str]) -> None:
    (few / "pictures").mkdir()
    (few / "pictures" / "fig_2.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (few / "pictures" / "fig_2.txt").write_text("Entropy of one image.\n")
    text = page_of()
    assert '<img src="data:image/png;base64,iVBORw0KGgo=" alt="Entropy of one image.">' in text
    assert "<figcaption>Entropy of one image.</figcaption>" in text


def test_curves_are_drawn_from_what_the_caller_reads_and_old_ones_go(few: Path, page_of: Callable[..., str]) -> None:
    keys = {row["train_key"] for row in read_rows(few / "metrics" / "table_x3.json")}
    asked = []

    def curves(train_key: str) -> dict[str, list[tuple[int, float]]]:
        asked.append(train_key)
        return {"loss/supervised": [(10, 2.0), (20, 1.0)], "val/student_miou": [(20, 40.0)]}

    assert 'id="figure-curves_loss"' in page_of(curves=curves)
    assert set(asked) <= keys
    assert 'id="figure-curves_loss"' not in page_of()
    assert not list((few / "figures").glob("curves_*"))


def test_runs_without_a_curve_are_counted_in_the_caption(few: Path, page_of: Callable[..., str]) -> None:
    lost = {row["train_key"] for row in read_rows(few / "metrics" / "table_x3.json") if row["seed"] == 2}

    def curves(train_key: str) -> dict[str, list[tuple[int, float]]] | None:
        return None if train_key in lost else {"loss/supervised": [(10, 2.0), (20, 1.0)]}

    assert "4 of 12 runs have no curve here." in page_of(curves=curves)
    assert "no curve here" not in page_of(curves=lambda train_key: {"loss/supervised": [(10, 2.0), (20, 1.0)]})


def test_every_table_has_its_figure_where_there_is_something_to_see(page_of: Callable[..., str]) -> None:
    ids = Page(page_of()).ids
    for name in ("table_2_gains", "table_2_classes", "table_x3_gains", "table_a2_ablation", "table_a6_ablation"):
        assert ids[f"figure-{name}"] == 1
    assert ids["figure-table_7_gains"] == 0


def test_a_table_that_separates_nothing_is_named_at_the_top_and_pairs_are_counted(
    few: Path, page_of: Callable[..., str]
) -> None:
    """All rows of the fixtures' Table A6 within a point, and seeds whose noise is several."""
    mious = iter([60.0, 60.1, 60.2, 60.3, 60.4])
    for row in (rows := read_rows(few / "metrics" / "table_a6.json")):
        row["metrics"]["teacher"]["best"]["padding_ignored"]["miou"] = next(mious)
    (few / "metrics" / "table_a6.json").write_text(json.dumps(rows))
    edit(few / "metrics" / "table_x3.json", lambda rows: [_shake(row, index) for index, row in enumerate(rows)])
    text = " ".join(page_of().split())
    assert re.search(r"<p>[^<]*Table A6: (its|their) rows cannot be told apart here;", text)
    assert '<td colspan="2">0 / 0 / 10</td>' in text
    assert '<th scope="colgroup" colspan="3" class="pairs">pairs of rows</th>' in text
    assert "not apart here, since chance makes as much" in text


def _shake(row: Row, index: int) -> None:
    row["metrics"][list(row["metrics"])[-1]]["best"]["padding_ignored"]["miou"] = 50.0 + 7 * (index * index % 5)


def test_sentences_of_the_footer_do_not_run_together(page_of: Callable[..., str]) -> None:
    assert re.search(r"cells\)\.\s+Machines: n001\.", page_of())


def test_equal_rows_give_equal_pages(page_of: Callable[..., str]) -> None:
    assert page_of() == page_of()


def test_a_page_without_a_table_of_the_paper_says_so_and_explains_its_own(few: Path) -> None:
    for path in [*few.glob("cells/*.json"), *few.glob("metrics/*.json")]:
        if path.stem == "table_x3":
            rows = json.loads(path.read_text())
            for row in rows:
                row["table"], row["row"]["variant"] = "table_x6", "-"
                row["row"] |= {"variant": "equal_steps"} if row["row"]["method"] == "SupOnly" else {}
            path.with_stem("table_x6").write_text(json.dumps(rows))
        path.unlink()
    text = " ".join(html.unescape(write_page(few).read_text(encoding="utf-8")).split())
    assert "<h1>U2PL and its rivals, measured</h1>" in text
    assert "Methods in tables that the paper does not have, built from single runs." in text
    assert "pairs of" not in text.partition("<main>")[2].lower()
    assert "Labelled are the images of the paper's list that this data set has." in text
    assert '<th scope="row" class="label">equal steps</th>' in text
    assert "points against “SupOnly, equal steps”" in text
    assert 'id="figure-table_x6_gains"' in text


def test_a_torn_file_stops_the_report_by_name(few: Path, page_of: Callable[..., str]) -> None:
    path = few / "metrics" / "table_a6.json"
    path.write_text(path.read_text()[:-40])
    with pytest.raises(ValueError, match=r"table_a6\.json: torn or edited .* `dvc repro -f evaluate@table_a6`"):
        page_of()


def test_a_report_of_nothing_names_the_stage_to_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no cells; `dvc repro cells` writes them"):
        write_page(tmp_path)


def test_nothing_measured_yet_is_a_page_of_holes(few: Path, page_of: Callable[..., str]) -> None:
    for path in (few / "metrics").glob("*.json"):
        path.unlink()
    text = page_of()
    assert f">0<small> of {NUM_CELLS}</small>" in text
    assert "not measured yet: 40, 30, 20, 10" in text
    assert {value for cell, value in Page(text).values.items() if " " not in cell} == {"–"}


def test_subscripts_and_code_are_set_and_the_rest_escaped() -> None:
    assert rich("L_c < α_0, `a_b` & table_1") == "L<sub>c</sub> &lt; α<sub>0</sub>, <code>a_b</code> &amp; table_1"


def test_reporting_never_imports_torch() -> None:
    code = "import pipeline.reporting.page, pipeline.reporting.compare, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
