"""Every notebook: kept as it should be, run under profile smoke, with results that add up."""

import ast
import base64
import functools
import itertools
import json
import re
import statistics

import forked_kernels
import nbformat
import numpy as np
import pytest

from ppfer import video
from ppfer.base.errors import PpferError
from ppfer.cli import execute, notebooks
from ppfer.config import load_config
from ppfer.measure import Rate, as_rate
from ppfer.method import PIPELINE
from ppfer.show.notebook import WIDGET
from ppfer.study import catalogue, paper
from ppfer.study.protectors import reenactment
from ppfer.study.tables import MAIN

BOOKS = sorted(notebooks.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
PARAMETERS = {
    "profile": ("str", "demo"),
    "seed": ("int", 0),
    "runs_dir": ("str", "../runs"),
    "settings": ("dict", {}),
}
SMOKE = {"profile": "smoke", "seed": 0, "settings": {}}
each_book = pytest.mark.parametrize("path", BOOKS, ids=lambda p: p.stem)


@functools.cache
def read(path):
    return nbformat.read(path, as_version=4)


def cells(path, kind="code"):
    return [c for c in read(path).cells if c.cell_type == kind]


def tags(cell):
    return cell.metadata.get("tags", [])


# --- as committed -------------------------------------------------------------


def test_all_notebooks_are_there():
    assert sorted(p.name[:2] for p in BOOKS) == sorted(notebooks.MAIN + notebooks.TABLES)


@each_book
def test_it_begins_with_a_question_and_has_a_readers_size(path):
    book = read(path)
    nbformat.validate(book)
    title = book.cells[0].source.splitlines()[0]
    assert book.cells[0].cell_type == "markdown"
    assert re.fullmatch(rf"# {path.name[:2]} · .*\?", title), title
    assert 15 <= len(book.cells) <= 52
    assert path.stat().st_size <= 1_000_000
    begins = [c for c in cells(path) if "notebook.start(" in c.source]  # it imports
    assert max(len(c.source.splitlines()) for c in begins) <= 15
    lengths = [len(c.source.splitlines()) for c in cells(path) if c not in begins]
    assert max(lengths) <= 12 and statistics.median(lengths) <= 8
    assert max(len(line) for c in cells(path) for line in c.source.splitlines()) <= 100


@each_book
def test_the_parameters_cell_is_typed_literals(path):
    (cell,) = [c for c in cells(path) if "parameters" in tags(c)]
    assert cell.source == cells(path)[0].source, "parameters come before any other code"
    found = {}
    for line in ast.parse(cell.source).body:
        assert isinstance(line, ast.AnnAssign), f"not a typed assignment: {ast.unparse(line)}"
        found[line.target.id] = (ast.unparse(line.annotation), ast.literal_eval(line.value))
    assert PARAMETERS.items() <= found.items()
    lines = cell.source.splitlines()
    assert all("#" in line for line in lines if line), "each parameter has a comment"


@each_book
def test_exercises_have_solutions(path):
    order = [tag for c in cells(path) for tag in tags(c) if tag in ("exercise", "solution")]
    assert 2 <= order.count("exercise") <= 4
    assert order == ["exercise", "solution"] * order.count("exercise")


@each_book
def test_code_is_short_and_self_contained(path):
    for cell in cells(path):
        code = cell.source
        assert not re.search(r"^\s*[%!]|sys\.exit|pip install", code, re.MULTILINE), code
        assert not re.search(r"(?<![\w.])/(?:home|work|tmp|root|Users|mnt|data)/", code), code
        classes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ClassDef)]
        assert not classes or (path.name.startswith("01") and "haar-by-hand" in tags(cell)), code
    assert any("assert" in c.source for c in cells(path)), "a notebook checks what it claims"


@each_book
def test_outputs_are_clean_or_absent(path):
    book = read(path)
    assert "widgets" not in book.metadata
    for cell in cells(path):
        for output in cell.outputs:
            assert output.output_type != "error"
            shown = output.get("data", {})
            assert WIDGET not in shown
            words = {k: v for k, v in shown.items() if k.startswith("text/")}
            text = json.dumps(output.get("text", "") or words)
            text = re.sub(r"base64,[\w+/=]+", "", text)  # an embedded video
            assert not re.search(r"(?<![\w.])/(?:home|work|tmp|root|Users|mnt)/", text), text[:300]
    counts = [c.execution_count for c in cells(path)]
    in_one_go = [*range(1, len(counts) + 1)]
    assert counts in ([None] * len(counts), in_one_go), "run top to bottom, in one go"
    assert any(counts) or not any(c.outputs for c in cells(path))


def undescribed(path):
    """Pictures of a notebook's outputs that say nothing to those who can't see them."""
    outputs = [o for c in cells(path) for o in c.outputs if "data" in o]
    kinds = [(o, kind) for o in outputs for kind in o["data"] if kind.startswith("image/")]
    return [k for o, k in kinds if len(o.metadata.get(k, {}).get("alt", "")) < 20]


@each_book
def test_every_picture_is_described(path):
    assert not undescribed(path)


@each_book
def test_the_map_is_at_the_top_with_todays_boxes(path):
    assert f"](../figures/map/{path.name[:2]}.svg)" in cells(path, "markdown")[0].source


@each_book
def test_it_links_to_its_neighbours(path):
    text, place = "\n".join(c.source for c in cells(path, "markdown")), BOOKS.index(path)
    for neighbour in BOOKS[max(0, place - 1) : place] + BOOKS[place + 1 : place + 2]:
        assert f"]({neighbour.name})" in text, f"no link to {neighbour.name}"


# --- run under profile smoke --------------------------------------------------


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """Executes a notebook once and says where its copy is; what it reads is made before."""
    runs_dir = tmp_path_factory.mktemp("runs")
    run = catalogue.open_run(load_config("smoke", {"seed": 0}), runs_dir)
    done = {}

    def executed(path):
        if path.name in done:
            return run, done[path.name]
        for name in PIPELINE:  # nothing to do when the notebooks before this one have run
            if run.stage(name).origin() < path.name[:2] and not run.has(name):
                run.make(name)
        done[path.name] = out = run.dir / "notebooks" / path.name
        for _ in BOOKS:
            try:
                with forked_kernels.default():
                    execute.execute(path, out, runs_dir=runs_dir, **SMOKE)
                return run, out
            except PpferError as error:  # an input that another notebook than the main ones makes
                missing = re.search(r"run notebook (\d\d) ", str(error))
                (other,) = notebooks.chosen(missing[1]) if missing else (path,)
                if other.name in done:
                    raise
                executed(other)
        raise AssertionError(f"{path.name} never had all its inputs")

    return executed


@each_book
def test_runs_under_smoke(path, smoke):
    run, copy = smoke(path)
    executed = [c for c in cells(copy) if "injected-parameters" not in tags(c)]
    committed = [c.source for c in cells(path)]
    assert [c.source for c in executed] == committed, "executed is what is committed"
    assert all(c.execution_count for c in executed if c.source.strip())
    assert not [o for c in executed for o in c.outputs if o.output_type == "error"]
    outputs = [o.get("data", {}) for c in executed for o in c.outputs]
    pictures = [shown["image/png"] for shown in outputs if "image/png" in shown]
    assert not undescribed(copy)
    assert not [shown for shown in outputs if WIDGET in shown], "nobody can move a control here"
    drawn = [shown["image/svg+xml"] for shown in outputs if "image/svg+xml" in shown]
    assert all("<title>" in svg and 'role="img"' in svg for svg in drawn)
    assert len(pictures) >= 3, "one figure a section"
    assert len(set(pictures)) == len(pictures), "no figure is shown twice"
    assert min(len(base64.b64decode(p)) for p in pictures) > 500
    for table in (run.dir / "tables").glob("*.json"):
        rows = json.loads(table.read_text())
        rates = [as_rate(cell) for row in rows for cell in row.values()]
        assert all(0 <= r.k <= r.n for r in rates if isinstance(r, Rate)), table.name
    RESULTS.get(path.name[:2], lambda run: None)(run)


def read_table(run, name):
    return json.loads((run.dir / "tables" / f"{name}.json").read_text())


def data(run):
    """00: every clip is in one part, and all actors are on both sides of the closed set."""
    parts = run.get("split")
    assert sorted(itertools.chain.from_iterable(parts.values())) == list(range(len(run.table)))
    actors = run.labels("actor")
    assert set(actors[parts["train"]]) == set(actors[parts["test"]]) == set(actors)


def identity(run):
    """03: the test score is over the test clips, and was written by the stage."""
    test, scores = run.parts["test"], run.summary("identity")["test"]
    assert scores["clip"]["n"] == scores["random_frame"]["n"] == len(test)
    assert scores["all_frames"]["n"] == len(test) * run.config.frames


def privacy(run):
    """04: G has the clips' shape and is not the clips."""
    changed = run.get("protected/enhanced").clips
    assert changed.shape == run.get("clips").clips.shape
    assert np.abs(changed.astype(int) - run.get("clips").clips).mean() > 1
    assert 0 <= run.summary("privacy")["best"]["val_plr"] <= 1


def compensation(run):
    """05: Surprise was masked, all else used; C is G with something added."""
    seen, wild = run.summary("expression"), run.get("wild").table.emotion
    assert seen["masked"] == (wild == "surprise").sum() > 0
    assert seen["clips"] + seen["masked"] == len(wild)
    c, g = run.get("protected/ppfer").clips, run.get("protected/enhanced").clips
    assert c.shape == g.shape and not np.array_equal(c, g)


def recognition(run):
    """06: in Table 2 the expressions' counts add up to the average's."""
    rows = read_table(run, "table2")
    assert [row["approach"] for row in rows] == [run.protector(name).title for name in MAIN]
    assert set(paper.TABLE2) < {row["approach"] for row in rows}
    for row in rows:
        parts = [v for k, v in row.items() if k not in ("approach", "average", "uar")]
        assert len(parts) == len(run.classes("emotion"))
        assert {key: sum(v[key] for v in parts) for key in "kn"} == row["average"]
        assert row["average"]["n"] == len(run.parts["test"])


def leakage(run):
    """07: six rows of attackers, with which the table a run ends with and Table 2 agree."""
    attackers, (first, copies, *others) = (read_table(run, name) for name in ("leakage", "main"))
    assert "plr_retrained" not in copies, "copies are asked about by networks as trained alone"
    main = [first, *others]
    assert [row["validator"] for row in attackers] == ["frozen", "retrained"] * 3
    every = len(run.parts["test"]) * run.config.frames
    assert all(row["all_frames"]["n"] == every for row in attackers)
    for i, row in enumerate(main):
        assert row["plr"] == attackers[2 * i]["random_frame"]
        assert row["plr_retrained"] == attackers[2 * i + 1]["random_frame"]
        if (run.dir / "tables" / "table2.json").exists():
            assert row["acc_retrained"] == read_table(run, "table2")[i]["average"]


def own_video(run):
    """12: a protected file by each protector, of the length of the one it was made from."""
    folder, paths = run.dir / "protected_video", run.table["path"]
    for name, side in (("codebook", reenactment.SIDE), ("ppfer", run.config.size)):
        (result,) = (folder / name).glob("1*.mp4")
        source = next(path for path in paths if result.stem in path)
        (before, fps), (after, same) = video.read_video(source), video.read_video(result)
        assert len(after) == len(before) and fps == pytest.approx(same, abs=0.01)
        assert after.shape[-1] == side


RESULTS = {
    "00": data,
    "03": identity,
    "04": privacy,
    "05": compensation,
    "06": recognition,
    "07": leakage,
    "12": own_video,
}


# --- mistakes -----------------------------------------------------------------


def test_an_unknown_parameter_is_refused(tmp_path):
    with pytest.raises(
        PpferError, match="00_.* has no parameter sede .did you mean .seed.*; it has profile, seed"
    ):
        execute.execute(BOOKS[0], tmp_path / "out.ipynb", profile="smoke", sede=1)
    assert not (tmp_path / "out.ipynb").exists()


def test_a_missing_input_names_its_notebook(tmp_path):
    path = next(p for p in BOOKS if p.name.startswith("04"))
    with pytest.raises(PpferError, match=r"run notebook 0[03] with profile smoke first"):
        execute.execute(path, tmp_path / "out.ipynb", runs_dir=tmp_path, **SMOKE)
    assert not list(tmp_path.rglob("weights.safetensors"))
