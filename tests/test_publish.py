"""What runs leave for the repository: how each stage was made, seeds side by side, pages filled."""

import json
import re
import shutil

import matplotlib.pyplot as plt
import nbformat
import pytest
from matplotlib.figure import Figure

from figures import method_map, publish, thumbnails
from ppfer import measure
from ppfer.base.errors import PpferError
from ppfer.base.files import write_json
from ppfer.cli import compare, main, notebooks, terminal
from ppfer.method import PIPELINE
from ppfer.run.names import known_runs
from ppfer.show import diagram, plots


def test_finished_lists_what_was_made(tiny_run):
    listed = publish.made_in(tiny_run.dir)
    assert set(PIPELINE) <= set(listed) and listed["identity"]["device"].startswith("CPU")
    assert listed["identity"]["steps"] == 3 and listed["clips"]["seconds"] >= 0
    assert all(listed[name]["key"] == tiny_run.key(name) for name in PIPELINE)


def test_what_was_left_behind_is_not_listed(tiny_run, tmp_path):
    """Nor is a run passed over because a folder above it has that name."""
    folder = tmp_path / "earlier" / "run"
    for name in ("identity", "earlier/identity-0"):
        shutil.copytree(tiny_run.dir / "identity", folder / name)
    assert list(publish.made_in(folder)) == ["identity"]
    write_json(folder / "run.json", {"profile": "smoke", "differs": {}})
    (row,) = known_runs(folder.parent)
    assert row["finished stages"] == 1


def test_seeds_of_finished_runs_become_one_table(tmp_path, monkeypatch):
    folders = [tmp_path / name for name in ("smoke", "smoke-seed7")]
    for folder, differs, k in zip(folders, ({}, {"seed": 7}), (3, 5)):
        write_json(folder / "run.json", {"profile": "smoke", "differs": differs})
        rows = [{"approach": "PPFER (C)", "plr": measure.Rate(k, 10)}]
        measure.write_table(rows, folder / "tables", "main")
    monkeypatch.setattr(publish, "FIGURES", tmp_path / "figures")
    publish.keep_seeds(folders)
    kept = tmp_path / "figures" / "smoke"
    assert "40.0 ± 14.1 %" in (kept / "seeds.md").read_text()
    assert set(json.loads((kept / "seeds_manifest.json").read_text())) == {"smoke", "smoke-seed7"}


def test_a_notebook_keeps_outputs_of_its_own_text_alone(tmp_path):
    (path,) = notebooks.chosen("03")
    book, target, executed = nbformat.read(path, as_version=4), tmp_path / "03", tmp_path / "ran"
    nbformat.write(book, target)
    injected = nbformat.v4.new_code_cell("seed = 0", metadata={"tags": ["injected-parameters"]})
    book.cells[2].metadata["execution"] = {"duration": 1}
    book.cells.insert(2, injected)
    nbformat.write(book, executed)
    assert publish.keep_outputs(executed, target)
    assert target.read_text() == path.read_text()
    book.cells[0].source += "?"
    nbformat.write(book, executed)
    assert not publish.keep_outputs(executed, target)
    assert target.read_text() == path.read_text()


def test_pages_are_filled_from_files():
    table = (publish.REPO / "figures" / "demo" / "main.md").read_text()
    page = "a\n<!-- figures/demo/main.md -->\nold\n<!-- end -->\nb\n"
    page += "<!-- figures/no/such.md -->\nkept\n<!-- end -->\n"
    filled = publish.fill(page)
    assert table in filled and "old" not in filled and "kept" in filled
    assert publish.fill(filled) == filled


def test_numbers_in_sentences_are_cited_from_files(monkeypatch, tmp_path):
    rows = [
        {"approach": "A", "seed": seed, "acc": {"k": k, "n": 2000}, "ssim": k / 3000, "steps": 1500}
        for seed, k in enumerate((1000, 1001, 30))
    ]
    measure.write_table(rows, tmp_path, "one")
    measure.write_table(compare.over_seeds([[row] for row in rows]), tmp_path, "seeds")
    monkeypatch.setattr(publish, "FIGURES", tmp_path)
    cases = {
        "one | A | acc": "1,000, 1,001 and 30",
        "seeds | A | acc": "1,000, 1,001 and 30",
        "one | A | 2 | acc": "30",
        "one | acc | %": "50.0, 50.0 and 1.5 %",
        "one | acc | to %": "1.5 % to 50.0 %",
        "one | 0 | acc | to %": "50.0 %",
        "one | 1 | ssim": "0.33",
        "one | 1 | steps": "1,500",
    }
    for what, shown in cases.items():
        page = f"of\n<!--= {what} -->old\n<!--/--> and <!--= one | 0 | acc -->x<!--/-->."
        filled = f"of\n<!--= {what} -->{shown}<!--/--> and <!--= one | 0 | acc -->1,000<!--/-->."
        assert publish.fill(page) == publish.fill(filled) == filled
    for what in ("one | B | acc", "one | A | psnr"):
        with pytest.raises(PpferError, match="no number to cite"):
            publish.fill(f"<!--= {what} -->1<!--/-->")


def test_a_terminal_shows_counts_in_a_hundred_columns():
    share = {"k": 0, "n": 1}
    columns = ("plr", "plr_retrained", "acc", "acc_retrained", "happy")
    rows = [
        {"approach": name, "what_ran": "x" * 90, **dict.fromkeys(columns, share)}
        for name in ("No privacy preservation", "PPFER without compensation (G)")
    ]
    rows[0]["happy"] = {"k": 0, "n": 0}
    text = terminal.table(rows, compare.short)
    assert max(map(len, text.splitlines())) <= 100
    assert "0.0 % (0/1)" in text and "no clip (0/0)" in text and "nan" not in text


def test_a_notebook_is_found_by_its_number():
    assert notebooks.chosen("3, 12") == notebooks.chosen("03,12")


def test_the_readmes_pictures_are_lines_and_grids_with_words(tiny_run):
    drawn = publish.overview_pictures(tiny_run, count=2)
    lines = {name for name, (figure, _) in drawn.items() if isinstance(figure, Figure)}
    plt.close("all")
    assert lines == {"curves_protection", "curves_readers"}
    assert set(drawn) - lines == {"bands", "protected"}
    assert all(len(words) > 20 for _, words in drawn.values())


def test_a_thumbnail_is_one_pair_and_what_is_missing_is_said(tiny_run, capsys, monkeypatch):
    monkeypatch.setitem(thumbnails.FRAMES, "11", {"a donor": "protected/nobody"})
    drawn = thumbnails.drawn(tiny_run)
    assert {"00", "01", "02", "03", "05"} <= set(drawn)
    heights = {picture.height for picture in drawn.values()}
    assert heights == {thumbnails.SIDE + thumbnails.WORDS}
    widest = max(picture.width for picture in drawn.values())
    assert widest <= 3 * (thumbnails.SIDE + thumbnails.GAP)
    said = capsys.readouterr().out
    every = {f"{n:02}" for n in range(13)}
    assert {n for n in every if f"{n}.png stays" in said} == every - set(drawn) >= {"11"}


def test_maps_are_what_the_code_draws():
    plots.theme()
    folder = publish.REPO / "figures" / "map"
    for name, today in {"method": (), **method_map.TODAY}.items():
        drawn = plots.svg(method_map.method(today), publish.MAP)
        plt.close("all")
        assert (folder / f"{name}.svg").read_text() == drawn, "publish.draw_maps() draws them again"
    yellow = (folder / "04.svg").read_text().count(diagram.FACES["today"])
    assert yellow == len(method_map.TODAY["04"])


def test_the_list_of_notebooks_says_what_they_say():
    assert publish.notebook_list() in (notebooks.NOTEBOOKS / "README.md").read_text()
    for path in notebooks.chosen("all"):
        assert (publish.REPO / "figures" / "thumbs" / f"{path.name[:2]}.png").exists()


def test_a_student_gets_exercises_without_solutions_and_links_that_lead_there(tmp_path, capsys):
    folder = tmp_path / "class" / "books"
    folder.mkdir(parents=True)
    (folder / "00_data.ipynb").write_text("mine")
    assert main(["student", str(folder)]) == 0
    assert (folder / "00_data.ipynb").read_text() == "mine" and "1 that" in capsys.readouterr().out
    for path in notebooks.chosen("all")[1:]:
        book = nbformat.read(folder / path.name, as_version=4)
        nbformat.validate(book)
        tags = [tag for cell in book.cells for tag in cell.metadata.get("tags", [])]
        assert "exercise" in tags and "solution" not in tags
        assert not [cell for cell in book.cells if cell.get("outputs")]
        text = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
        local = [x for x in re.findall(r"\]\(([^)#\s]+)\)", text) if "://" not in x]
        assert not [link for link in local if not (folder / link).exists()], path.name
