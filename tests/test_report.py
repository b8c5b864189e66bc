"""A run's report: results in words, with what guessing is right about, and whether they should."""

from __future__ import annotations

import base64
import io
import json
import shutil
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from ppfer.cli import report, terminal
from ppfer.config import REPO, load_config
from ppfer.measure import write_table

PAGE = json.loads((REPO / "figures" / "demo" / "main.json").read_text())
GUESSING = {"actor": 1 / 12, "emotion": 1 / 6}


def run_of(profile: str, **settings) -> SimpleNamespace:
    return SimpleNamespace(config=load_config(profile, settings))


def test_a_table_in_words_has_chance_beside_each_number_and_fits_a_terminal():
    rows = report.main_in_words(PAGE, GUESSING)
    assert [row["guessing"] for row in rows] == ["8.3 %", "8.3 %", "16.7 %", "16.7 %"]
    text = terminal.table(rows)
    assert max(map(len, text.splitlines())) <= 100
    assert "identity: validator as trained" in text and "plr" not in text
    assert "copies" in text and "compensated (C)" in text
    assert f"({PAGE[0]['acc']['k']}/295)" in text


def test_it_says_whether_that_is_what_should_come_out():
    assert report.judgement(run_of("demo"), PAGE).startswith("That is what should come out: all 14")
    other = json.loads(json.dumps(PAGE))
    other[-1]["plr"] = {"k": 200, "n": 295}
    said = report.judgement(run_of("demo"), other)
    assert said.startswith("Not quite") and "1 of 14" in said
    more = 100 * (200 - PAGE[-1]["plr"]["k"]) / 295
    assert f"identity named: validator as trained, compensated (C) ({more:+.1f} points)" in said

    assert "mean nothing" in report.judgement(run_of("smoke"), PAGE)
    assert report.judgement(run_of("demo", size=32), PAGE).startswith("As it should be")
    assert report.judgement(run_of("demo", size=32), other).startswith("Not as it should be")
    other[0]["plr"] = {"k": 100, "n": 295}
    assert "too few" in report.judgement(run_of("demo"), other)


@pytest.fixture
def finished(tiny_run, monkeypatch):
    """A run with a table, an executed notebook with a picture, and two calls."""
    monkeypatch.setattr(tiny_run, "dir", tiny_run.dir.with_name("reported"))
    write_table(PAGE, tiny_run.dir / "tables", "main")
    file = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(file, "PNG")
    data = {"image/png": base64.b64encode(file.getvalue()).decode(), "text/plain": "faces"}
    cell = new_code_cell("1", outputs=[new_output("display_data", data)])
    (tiny_run.dir / "notebooks").mkdir()
    nbformat.write(new_notebook(cells=[cell]), tiny_run.dir / "notebooks" / "05_x.ipynb")
    report.note_call(tiny_run, "main", 120.0, "stopped")
    with (tiny_run.dir / report.CALLS).open("a") as stream:
        stream.write('{"notebooks": "ma\n')  # the power went
    report.note_call(tiny_run, "main", 300.0, "finished")
    yield tiny_run, file.getvalue()
    shutil.rmtree(tiny_run.dir)


def test_one_page_has_results_pictures_what_it_took_and_on_what(finished):
    run, png = finished
    page = report.write_report(run)
    assert page == run.dir / "report.html"
    text, shown = (run.dir / "report.md").read_text(), page.read_text()
    assert "2 calls of `ppfer run`, 7 min in all" in text and "torch" in text
    assert "| identity: validator as trained |" in text and "GiB of memory" in text
    assert (run.dir / "pictures" / "05.png").read_bytes() == png
    assert "![faces](pictures/05.png)" in text and 'alt="faces"' in shown
    assert f"base64,{base64.b64encode(png).decode()}" in shown and "<table>" in shown
