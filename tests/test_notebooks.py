"""Every notebook: kept as it should be in the repository, runs under profile smoke, and leaves results that add up."""

import ast
import base64
import itertools
import json
import re
import statistics

import nbformat
import numpy as np
import pytest

from ppfer import cli, paper, store, tables
from ppfer.config import PpferError, load_config
from ppfer.evaluate import Rate
from ppfer.run import Run

BOOKS = sorted(cli.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
PARAMETERS = {
    "profile": ("str", "demo"),
    "seed": ("int", 0),
    "runs_dir": ("str", "../runs"),
    "settings": ("dict", {}),
}
each_book = pytest.mark.parametrize("path", BOOKS, ids=lambda p: p.stem)


def cells(path, kind="code"):
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == kind]


def tags(cell):
    return cell.metadata.get("tags", [])


# -- as committed ----------------------------------------------------------------------------------------------------


def test_all_notebooks_are_there():
    assert sorted(p.name[:2] for p in BOOKS) == sorted(cli.MAIN + cli.TABLES)


def test_the_list_of_notebooks_is_complete():
    listed = (cli.NOTEBOOKS / "README.md").read_text()
    assert not [p.name for p in BOOKS if f"({p.name})" not in listed]


@each_book
def test_it_begins_with_a_question_and_has_a_readers_size(path):
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    title = book.cells[0].source.splitlines()[0]
    assert book.cells[0].cell_type == "markdown" and re.fullmatch(
        rf"# {path.name[:2]} · .*\?", title
    ), title
    assert 15 <= len(book.cells) <= 40
    assert path.stat().st_size <= 1_000_000
    lengths = [len(c.source.splitlines()) for c in cells(path)]
    assert max(lengths) <= 25 and statistics.median(lengths) <= 8


@each_book
def test_the_parameters_cell_is_typed_literals(path):
    (cell,) = [c for c in cells(path) if "parameters" in tags(c)]
    assert cell is cells(path)[0] or cell.source == cells(path)[0].source, (
        "parameters come before any other code"
    )
    found = {}
    for line in ast.parse(cell.source).body:
        assert isinstance(line, ast.AnnAssign), f"not a typed assignment: {ast.unparse(line)}"
        found[line.target.id] = (ast.unparse(line.annotation), ast.literal_eval(line.value))
    assert PARAMETERS.items() <= found.items()
    assert all("#" in line for line in cell.source.splitlines() if line), (
        "each parameter has a comment"
    )


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
    book = nbformat.read(path, as_version=4)
    assert "widgets" not in book.metadata
    for cell in cells(path):
        for output in cell.outputs:
            assert output.output_type != "error"
            text = json.dumps(
                output.get("text", "")
                or {k: v for k, v in output.get("data", {}).items() if k.startswith("text/")}
            )
            assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})
            text = re.sub(r"base64,[\w+/=]+", "", text)  # an embedded video
            assert not re.search(r"(?<![\w.])/(?:home|work|tmp|root|Users|mnt)/", text), text[:300]
    counts = [c.execution_count for c in cells(path)]
    assert counts in ([None] * len(counts), list(range(1, len(counts) + 1))), (
        "run top to bottom, in one go"
    )
    assert any(counts) or not any(c.outputs for c in cells(path))


@each_book
def test_links_lead_somewhere(path):
    text = "\n".join(c.source for c in cells(path, "markdown"))
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    local = [
        link
        for link in links
        if "://" not in link and not link.startswith(("attachment:", "mailto:"))
    ]
    assert not [link for link in local if not (path.parent / link).exists()]
    place = BOOKS.index(path)
    for neighbour in BOOKS[max(0, place - 1) : place] + BOOKS[place + 1 : place + 2]:
        assert neighbour.name in links, f"no link to {neighbour.name}"


# -- run under profile smoke -----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """Executes a notebook once and says where its copy is; what it reads is made first if it isn't there."""
    runs_dir = tmp_path_factory.mktemp("runs")
    run = Run(load_config("smoke", {"seed": 0}), runs_dir)
    done = {}

    def execute(path):
        if path.name in done:
            return run, done[path.name]
        for name in tables.PIPELINE:  # nothing to do when the notebooks before this one have run
            if run.describe(name).notebook < path.name and not run.has(name):
                run.make(name)
        done[path.name] = out = run.dir / "notebooks" / path.name
        for _ in BOOKS:
            try:
                cli.execute(path, out, profile="smoke", seed=0, runs_dir=runs_dir, settings={})
                return run, out
            except PpferError as error:  # an input that another notebook than the main ones makes
                missing = re.search(r"run notebook (\S+\.ipynb)", str(error))
                if not missing or missing[1] in done:
                    raise
                execute(cli.NOTEBOOKS / missing[1])
        raise AssertionError(f"{path.name} never had all its inputs")

    return execute


@each_book
def test_runs_under_smoke(path, smoke):
    run, copy = smoke(path)
    executed = [c for c in cells(copy) if "injected-parameters" not in tags(c)]
    assert [c.source for c in executed] == [c.source for c in cells(path)], (
        "executed is what is committed"
    )
    assert all(c.execution_count for c in executed if c.source.strip())
    assert not [o for c in executed for o in c.outputs if o.output_type == "error"]
    pictures = [
        o["data"]["image/png"]
        for c in executed
        for o in c.outputs
        if "image/png" in o.get("data", {})
    ]
    assert len(pictures) >= 3, "one figure a section"
    assert len(set(pictures)) == len(pictures), "no figure is shown twice"
    assert min(len(base64.b64decode(p)) for p in pictures) > 500
    for table in (run.dir / "tables").glob("*.json"):
        rates = [
            Rate(**v)
            for row in json.loads(table.read_text())
            for v in row.values()
            if isinstance(v, dict) and set(v) == {"k", "n"}
        ]
        assert all(0 <= r.k <= r.n for r in rates), table.name
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
    assert seen["masked"] == (wild == "surprise").sum() > 0 and seen["clips"] + seen[
        "masked"
    ] == len(wild)
    c, g = run.get("protected/ppfer").clips, run.get("protected/enhanced").clips
    assert c.shape == g.shape and not np.array_equal(c, g)


def recognition(run):
    """06: in Table 2 the expressions' counts add up to the average's."""
    rows = read_table(run, "table2")
    assert [row["approach"] for row in rows] == [
        tables.PROTECTORS[n].title for n in ("none", "enhanced", "ppfer")
    ]
    assert set(paper.TABLE2) < {row["approach"] for row in rows}
    for row in rows:
        parts = [v for k, v in row.items() if k not in ("approach", "average")]
        assert len(parts) == len(run.classes("emotion"))
        assert {key: sum(v[key] for v in parts) for key in "kn"} == row["average"]
        assert row["average"]["n"] == len(run.parts["test"])


def leakage(run):
    """07: six rows of attackers, and the table a run ends with agrees with them and with Table 2."""
    attackers, main = read_table(run, "leakage"), read_table(run, "main")
    assert [row["validator"] for row in attackers] == ["frozen", "retrained"] * 3
    assert all(
        row["all_frames"]["n"] == len(run.parts["test"]) * run.config.frames for row in attackers
    )
    for i, row in enumerate(main):
        assert (
            row["plr"] == attackers[2 * i]["random_frame"]
            and row["plr_retrained"] == attackers[2 * i + 1]["random_frame"]
        )
        if (run.dir / "tables" / "table2.json").exists():
            assert row["acc_retrained"] == read_table(run, "table2")[i]["average"]


def own_video(run):
    """12: one protected file, of the length of the one it was made from."""
    (result,) = (run.dir / "protected_video").glob("1*.mp4")
    source = next(p for p in run.table["path"] if result.stem in p)
    (before, fps), (after, same) = store.read_video(source), store.read_video(result)
    assert (
        len(after) == len(before)
        and fps == pytest.approx(same, abs=0.01)
        and after.shape[-1] == run.config.size
    )


RESULTS = {
    "00": data,
    "03": identity,
    "04": privacy,
    "05": compensation,
    "06": recognition,
    "07": leakage,
    "12": own_video,
}


# -- mistakes --------------------------------------------------------------------------------------------------------


def test_an_unknown_parameter_is_refused(tmp_path):
    with pytest.raises(PpferError, match="00_.* has no parameter sede; it has profile, seed"):
        cli.execute(BOOKS[0], tmp_path / "out.ipynb", profile="smoke", sede=1)
    assert not (tmp_path / "out.ipynb").exists()


def test_a_missing_input_names_its_notebook(tmp_path):
    path = next(p for p in BOOKS if p.name.startswith("04"))
    with pytest.raises(PpferError, match=r"run notebook 0[03]_\w+\.ipynb with profile smoke first"):
        cli.execute(
            path, tmp_path / "out.ipynb", profile="smoke", seed=0, runs_dir=tmp_path, settings={}
        )
    assert not list(tmp_path.rglob("weights.safetensors"))
