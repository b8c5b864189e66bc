"""Pages and pictures that are kept: links lead somewhere, one quantity has one number, and no words
in a drawing overlap or are cut.
"""

import functools
import itertools
import json
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
import words_in_svg
from PIL import ImageDraw

from figures import headline, inside, publish
from ppfer.cli import notebooks
from ppfer.config import REPO
from ppfer.measure import Rate, Spread, as_rate, json_rows, markdown
from ppfer.show import plots

SKIPPED = {".venv", "runs", "my_notebooks", "build", "node_modules"}
MARKDOWN = [
    path
    for path in sorted(REPO.rglob("*.md"))
    if not SKIPPED & {part.lower() for part in path.relative_to(REPO).parts}
    and not any(part.startswith(".") for part in path.relative_to(REPO).parts)
]
BOOKS = notebooks.chosen("all")
SCREEN = 60  # lines of the first page of results


def test_git_sees_nothing_that_commands_of_the_readme_make_of_peoples_videos():
    out = set(re.findall(r"--out ([a-z][a-z-]*)", (REPO / "README.md").read_text()))
    assert {"protected", "alone", "masked"} <= out
    rules = (REPO / ".gitignore").read_text().splitlines()
    assert out <= {rule.strip("/") for rule in rules}


# --- links ----------------------------------------------------------------------


@functools.cache
def text_of(path: Path) -> str:
    """A page's text, or a notebook's Markdown; without code blocks."""
    text = path.read_text()
    if path.suffix == ".ipynb":
        cells = nbformat.read(path, as_version=4).cells
        text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


@functools.cache
def anchors(path: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    found, count = set(), defaultdict(int)
    for line in re.findall(r"^#+ +(.+?)\s*$", text_of(path), re.MULTILINE):
        line = re.sub(r"\]\([^)]*\)", "", line)
        slug = re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-")
        found.add(f"{slug}-{count[slug]}" if count[slug] else slug)
        count[slug] += 1
    return found | set(re.findall(r'<a (?:id|name)="([^"]+)"', text_of(path)))


def broken(path: Path) -> list[str]:
    """Relative links of a page whose file or heading is not there."""
    links = re.findall(r"\]\(\s*([^)\s]+)[^)]*\)", text_of(path))
    found = []
    for link in links:
        name, _, anchor = link.partition("#")
        if "://" in link or link.startswith(("mailto:", "attachment:")):
            continue
        target = (path.parent / name).resolve() if name else path
        if not target.exists():
            found.append(link)
        elif anchor and target.suffix in (".md", ".ipynb") and anchor not in anchors(target):
            found.append(link)
    return found


@pytest.mark.parametrize("path", [*MARKDOWN, *BOOKS], ids=lambda p: str(p.relative_to(REPO)))
def test_relative_links_lead_to_a_file_and_its_heading(path):
    assert not broken(path)


def test_a_wrong_anchor_would_be_seen(tmp_path):
    (tmp_path / "a.md").write_text("# One thing\n\n## Two: of (it)\n\n## Two: of (it)\n")
    page = tmp_path / "b.md"
    page.write_text("[x](a.md#one-thing) [y](a.md#two-of-it-1) [z](a.md#three) [w](c.md)")
    assert broken(page) == ["a.md#three", "c.md"]


def test_what_a_command_says_of_a_page_is_there():
    page = r"(?:figures|data|notebooks)/[\w/.-]+\.(?:md|ipynb)"
    for path in (REPO / "ppfer").rglob("*.py"):
        for name in re.findall(page, path.read_text()):
            assert (REPO / name).exists(), (path.name, name)


# --- numbers --------------------------------------------------------------------


def test_the_first_page_of_results_is_one_screen():
    lines = (REPO / "figures" / "README.md").read_text().splitlines()
    assert len(lines) <= SCREEN


def test_the_first_page_is_read_from_its_tables(tmp_path):
    people = headline.of_people(publish.FIGURES / "twin")
    for folder in ("twin", "real"):
        (tmp_path / folder).mkdir()
        for file in (publish.FIGURES / folder).glob("*.json"):
            (tmp_path / folder / file.name).write_bytes(file.read_bytes())
    headline.publish(tmp_path)
    pages = [*tmp_path.glob("*/headline.md"), tmp_path / "meaning.md", tmp_path / "headline.svg"]
    for made in pages:
        assert made.read_text() == (publish.FIGURES / made.relative_to(tmp_path)).read_text()
    tried = json.loads((tmp_path / "twin" / "within.json").read_text())
    donor = next(row for row in people if row["approach"] == "Re-enactment")
    for clips, key in ((1, headline.ONE), (16, headline.SIXTEEN)):
        of = [r for r in tried if r["approach"] == "Re-enactment" and r["clips"] == clips]
        assert donor[key].value == max(r["k"] / r["n"] for r in of)


SAME = {  # headings of a column, in tables and in notebooks
    "plr": ("plr", "identity named: validator as trained"),
    "plr_retrained": ("plr_retrained", "identity named: validator retrained"),
    "acc": ("acc", "expression read: recognizer as trained"),
    "acc_retrained": ("acc_retrained", "expression read: recognizer retrained"),
}
HEADING = {heading: key for key, headings in SAME.items() for heading in headings}


def table_rows(text: str) -> list[dict]:
    """Rows of the first Markdown table in a text: heading → cell."""
    lines = [line for line in text.replace("<wbr>", "").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(cells[0], row)) for row in cells[2:]] if len(cells) > 2 else []


def shown(path: Path) -> list[tuple[str, str, str]]:
    """(approach, measure, "k/n") of the tables in a notebook's outputs."""
    found = []
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            for row in table_rows(output.get("data", {}).get("text/markdown", "")):
                if "approach" not in row or "ssim" in row:  # after an attack that undoes it
                    continue
                for heading, text in row.items():
                    count = re.search(r"\((\d+/\d+)", text)
                    if heading in HEADING and count:
                        found.append((row["approach"], HEADING[heading], count[1]))
    return found


def kept(path: Path) -> list[tuple[str, str, str]]:
    """The same of a table's file."""
    rows, found = json.loads(path.read_text()), []
    for row in rows if isinstance(rows, list) else ():
        if "approach" not in row or "ssim" in row:
            continue
        for heading, cell in row.items():
            share = as_rate(cell)
            if heading in HEADING and isinstance(share, Rate):
                found.append((row["approach"], HEADING[heading], f"{share.k}/{share.n}"))
    return found


def test_equal_rows_have_equal_counts_wherever_they_are_shown():
    """Of profile demo: in all notebooks and in all tables."""
    said = defaultdict(lambda: defaultdict(set))
    tables = sorted((publish.FIGURES / "demo").glob("*.json"))
    tables = [path for path in tables if "budget" not in path.name]
    for path in (*BOOKS, *tables):
        for approach, measure, count in (shown if path in BOOKS else kept)(path):
            said[approach, measure][count].add(path.name)
    assert said
    differ = {key: dict(counts) for key, counts in said.items() if len(counts) > 1}
    assert not differ, "\n".join(map(str, differ.items()))


def first_line(path: Path) -> str:
    """What a notebook says it was run on: profile, seed, processor, frames."""
    outputs = (o for c in nbformat.read(path, as_version=4).cells for o in c.get("outputs", []))
    said = (re.search(r"^profile .*", o.get("text", ""), re.MULTILINE) for o in outputs)
    return next((match[0] for match in said if match), "")


@pytest.mark.parametrize(
    "file",
    [
        file
        for file in sorted((REPO / "figures").rglob("*.json"))
        if file.with_suffix(".md").exists() and file.parent.name != "bench"  # has its own columns
    ],
    ids=lambda file: f"{file.parent.name}/{file.stem}",
)
def test_a_printed_table_is_its_rows(file):
    assert file.with_suffix(".md").read_text() == markdown(json.loads(file.read_text()))


def test_all_notebooks_were_run_on_one_processor():
    said = {first_line(path) for path in BOOKS} - {""}
    assert len(said) <= 1, said
    assert all("profile demo" in line for line in said)


# --- pictures -------------------------------------------------------------------

DRAWN = {str(path.relative_to(REPO)): path for path in sorted(publish.FIGURES.rglob("*.svg"))}


def drawings(path: Path) -> list[str]:
    """The SVG of a file, or of a notebook's outputs."""
    if path.suffix == ".svg":
        return [path.read_text()]
    outputs = (o for c in nbformat.read(path, as_version=4).cells for o in c.get("outputs", []))
    found = (o.get("data", {}).get("image/svg+xml") for o in outputs)
    return [svg for svg in found if svg]


@pytest.mark.parametrize("path", [*DRAWN.values(), *BOOKS], ids=lambda p: str(p.relative_to(REPO)))
def test_no_words_overlap_are_cut_or_lie_on_data(path):
    for svg in drawings(path):
        title = re.search(r'aria-label="([^"]*)"', svg)[1]
        assert not words_in_svg.overlapping(svg), title
        assert not words_in_svg.cut(svg), title
        assert not words_in_svg.under_legends(svg), title


def test_words_that_overlap_or_are_cut_would_be_seen():
    plots.theme()
    figure, axis = plt.subplots(figsize=(3, 2))
    axis.plot([i / 20 for i in range(21)], [i / 20 for i in range(21)], "o", label="points")
    axis.text(0.5, 0.5, "one label")
    axis.text(0.52, 0.5, "another")
    axis.set_xlabel("a label that is much longer than the drawing is wide, and so is cut")
    axis.legend(loc="upper right")
    svg = plots.svg(figure, "a test")
    plt.close(figure)
    assert ("one label", "another") in words_in_svg.overlapping(svg)
    assert words_in_svg.cut(svg) and words_in_svg.under_legends(svg) > 1


@pytest.mark.parametrize("cell", [0.4, 0.8, 1.4])
def test_titles_of_picture_grids_have_room(cell, monkeypatch):
    boxes, write = [], ImageDraw.ImageDraw.multiline_text

    def noted(pen, at, text, fill, font, **how):
        anchor = {"font": font, "anchor": how["anchor"], "align": how["align"]}
        boxes.append(pen.multiline_textbbox(at, text, **anchor))
        write(pen, at, text, fill, font, **how)

    monkeypatch.setattr(ImageDraw.ImageDraw, "multiline_text", noted)
    rows = ["as filmed", "re-enactment by a codebook", "PPFER without compensation (G)"]
    columns = ["1001 angry", "validator as trained", "compensated (C)", "0.2 s"]
    pictures = [[torch.zeros(3, 64, 64)] * len(columns)] * len(rows)
    grid = plots.image_grid(pictures, rows, columns, cell=cell)
    assert len(boxes) == len(rows) + len(columns)
    for left, top, right, bottom in boxes:
        assert left >= 0 and top >= 0 and right <= grid.width and bottom <= grid.height
    for a, b in itertools.combinations(boxes, 2):
        assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1]), (a, b)


# --- the worst attack is the worst ------------------------------------------------


def rows_in(folder: str, name: str) -> list[dict]:
    return json.loads((REPO / "figures" / folder / f"{name}.json").read_text())


@pytest.mark.parametrize("name", inside.WITH_WORST)
def test_no_table_knows_a_weaker_worst_attack_than_was_tried(name):
    rows = rows_in("twin", name)
    assert json_rows(inside.raised(rows, rows_in("twin", "within"))) == rows


def test_tables_of_91_people_come_back_from_their_rows(tmp_path):
    rows = shutil.copytree(REPO / "figures" / "twin" / "rows", tmp_path / "rows")
    call = [sys.executable, "tests/bench/rows.py", "collect", "--out", str(rows)]
    subprocess.run(call, cwd=REPO, check=True)
    made = {path.stem: path for folder in (rows / "twin", rows) for path in folder.glob("*.json")}
    made.pop("manifest")
    assert {"table1", "table3", "table4", "seeds", "orders", "dials", "within"} <= made.keys()
    tried = rows_in("twin", "within")
    for name, path in made.items():
        found = json.loads(path.read_text())
        if name in inside.WITH_WORST:
            found = json_rows(inside.raised(found, tried))
        assert found == rows_in("twin", name), name


@pytest.mark.parametrize("folder", inside.TABLES)
def test_worst_rows_are_those_of_every_attack(folder):
    made = json_rows(inside.TABLES[folder](rows_in(folder, "within")))
    for row, old in zip(made, rows_in(folder, "within_worst"), strict=True):
        assert row == {key: cell for key, cell in old.items() if cell != ""}


def test_an_attack_from_within_raises_what_it_beats():
    tried = [{"approach": "A", "seed": seed, "clips": clips, "k": k, "n": 9}
             | {"attack": "linear", "steps": 9}
             for seed, clips, k in ((0, 1, 5), (1, 1, 2), (0, 16, 7))]  # fmt: skip
    one = {"plr_worst": {"k": 3, "n": 9, "attack": "x"}}
    rows = [{"approach": "A"} | one, {"approach": "A", "seed": 1} | one]
    rows += [{"approach": "A", "seeds": "0, 1", "plr_worst": {"k": [3, 3], "n": 9}}]
    rows += [{"approach": "B"} | one]
    first, second, both, other = inside.raised(rows, tried)
    assert first["plr_worst"].k == 5 and first["plr_worst_16"].k == 7
    assert first["plr_worst"].attack == "from within: linear, 9 steps"
    assert second["plr_worst"].k == 3 and "plr_worst_16" not in second
    assert isinstance(both["plr_worst"], Spread) and "plr_worst_16" not in both
    assert [rate.k for rate in both["plr_worst"].rates] == [5, 3]
    assert other["plr_worst"].attack == "x"
    seen = [tried[0] | {"approach": "B", "attack": f"{inside.ON_PIXELS}linear", "steps": 0}]
    assert inside.raised(rows, tried + seen)[-1]["plr_worst"].attack == "linear, clip"
    assert [row["approach"] for row in inside.of_people(tried + seen)] == ["A", "A"]
