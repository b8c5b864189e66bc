"""Private by default: whose faces lie where, who may read them, and that they can be removed."""

from __future__ import annotations

import base64
import json
import re
import shutil
import stat

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from counting import COUNTS

from ppfer.base.errors import PpferError
from ppfer.base.files import write_json
from ppfer.base.weights import save_weights
from ppfer.cli import audit, execute, main
from ppfer.config import REPO, load_config
from ppfer.data.store import ClipStore
from ppfer.run.names import introduce
from ppfer.study import catalogue

NAMES = [f"Müller Anna take {n}" for n in range(3)] + ['O"Neill 3', "1001_DFA_ANG_XX", "Łukasz-05"]


def picture() -> str:
    return base64.b64encode(np.random.default_rng(0).bytes(3000)).decode()


def notebook(path, names) -> None:
    """An executed notebook that shows pictures and says names."""
    cell = nbformat.v4.new_code_cell("show()")
    shown = [{"image/png": picture()}, {"image/svg+xml": "<svg/>"}, {"video/mp4": picture()},
             {"text/html": f"<video src='data:video/mp4;base64,{picture()}'>"}]  # fmt: skip
    said = [{"text/plain": f"worst clip: {name}"} for name in names]
    cell.outputs = [nbformat.v4.new_output("display_data", data) for data in [*shown, *said]]
    cell.outputs.append(nbformat.v4.new_output("stream", name="stdout", text="\n".join(names)))
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)


@pytest.fixture
def runs(tmp_path):
    """Two runs: of people, with all that a run leaves, and of drawn clips."""
    clips = torch.randint(0, 256, (6, 4, 3, 16, 16), dtype=torch.uint8)
    table = pd.DataFrame({"clip": NAMES, "path": "x", "actor": "1", "emotion": "sad"})
    for name, drawn in (("people", False), ("drawn", True)):
        run, data = tmp_path / "runs" / name, tmp_path / f"data-{name}"
        data.mkdir()
        if drawn:
            (data / "twin.json").write_text("{}")
        write_json(run / "run.json", {"profile": "smoke", "differs": {"data": str(data)}})
        for stage in ("clips", "protected/ppfer", "earlier/clips-1"):
            ClipStore.from_array(run / stage / "store", clips, table)
            write_json(run / stage / "started.json", {"key": "k"})
            write_json(run / stage / "manifest.json", {"stage": stage, "key": "k"})
        write_json(run / "split" / "split.json", {"train": NAMES})
        np.save(run / "clips" / "embeddings.npy", np.zeros((6, 9)))
        (run / "figures").mkdir()
        (run / "figures" / "faces.png").write_bytes(b"\x89PNG")
        notebook(run / "notebooks" / "00.ipynb", NAMES)
        save_weights(torch.nn.Linear(2, 2), run / "identity" / "weights.safetensors")
        write_json(run / "tables" / "main.json", [{"approach": "PPFER (C)"}])
    return tmp_path / "runs"


def test_a_clean_run_holds_no_name_and_no_pixel(runs, capsys):
    """Everything listed goes, the rest stays, and another data set's run is not touched."""
    people, drawn = runs / "people", runs / "drawn"
    signs = set(audit.traces(people))
    assert len(signs) == len(NAMES) + 6
    assert any(sign in p.read_bytes() for p in people.rglob("*") if p.is_file() for sign in signs)
    before = {p: p.read_bytes() for p in drawn.rglob("*") if p.is_file()}
    assert main(["audit", "--runs-dir", str(runs)]) == 0
    listed = capsys.readouterr().out
    for kind in ("clips", "names", "notebooks", "pictures", "other"):
        assert kind in listed
    assert "drawn" not in listed.replace("not drawn", "")
    assert main(["clean", "--runs-dir", str(runs)]) == 0
    left = [p for p in people.rglob("*") if p.is_file()]
    assert {p.name for p in left} >= {"weights.safetensors", "main.json", "run.json"}
    for path in left:
        found = [sign for sign in signs if sign in path.read_bytes()]
        assert not found, path
    assert not (people / "clips" / "manifest.json").exists()
    assert {p: p.read_bytes() for p in drawn.rglob("*") if p.is_file()} == before
    COUNTS["files searched for people"] += len(left)


def test_what_stays_behind_is_named(runs):
    log = runs / "people" / "identity" / "metrics.jsonl"
    log.write_text(json.dumps({"worst": NAMES[4]}))
    with pytest.raises(PpferError, match="metrics.jsonl still holds"):
        audit.remove(audit.runs_of(runs))


def test_nothing_to_clean_is_no_mistake(runs, tmp_path, capsys):
    for command in ("audit", "clean"):
        assert main([command, "--runs-dir", str(runs), "--data", str(tmp_path / "no")]) == 0
        assert "there is no run of" in capsys.readouterr().out
        shutil.rmtree(runs / "people", ignore_errors=True)
        assert main([command, "--runs-dir", str(runs)]) == 0
        assert "there is no run of people" in capsys.readouterr().out


def test_people_that_a_run_held_once_are_found(runs, tmp_path):
    """In-the-wild clips, those of settings left behind, a run that can't say what it is."""
    wild, drawn = tmp_path / "wild", str(tmp_path / "data-drawn")
    wild.mkdir()
    about = {"profile": "smoke", "differs": {"data": drawn, "wild": str(wild)}}
    write_json(runs / "drawn" / "run.json", about)
    assert runs / "drawn" in audit.runs_of(runs)
    assert audit.runs_of(runs, wild) == [runs / "drawn"]
    changed = {"name": "drawn", "data": drawn, "wild": drawn}
    introduce(runs / "drawn", load_config("smoke", changed))  # now without them
    assert audit.runs_of(runs, wild) == [runs / "drawn"]
    (runs / "drawn" / "run.json").write_text("")
    assert runs / "drawn" in audit.runs_of(runs) and not audit.runs_of(runs, wild)
    table = pd.DataFrame({"clip": ["a"], "path": str(wild / "a.mp4"), "actor": "1"})
    ClipStore.from_array(runs / "drawn/wild/store", torch.zeros(1, 2, 3, 8, 8).byte(), table)
    assert audit.runs_of(runs, wild) == [runs / "drawn"]


def test_a_folder_above_the_runs_is_no_run_and_loses_nothing(runs, tmp_path, capsys):
    (tmp_path / "thesis.docx").write_text("years")
    other = tmp_path / "other"
    write_json(other / "run.json", {"command": "train.sh"})  # another program's
    (runs / "people" / "run.json").unlink()
    for above in (tmp_path, tmp_path.parent):
        assert main(["clean", "--runs-dir", str(above)]) == 0
        assert "there is no run of people" in capsys.readouterr().out
    assert (tmp_path / "thesis.docx").exists() and (other / "run.json").exists()
    assert (runs / "people" / "clips" / "store" / "clips.npy").exists()


def test_clips_of_nobody_are_shown_and_others_are_not(tmp_path):
    """The shipped clips, wild ones too, and those rendered in memory; not a folder of one's own."""
    for profile in ("demo", "smoke", "twin"):
        assert (
            execute.private_clip_names(catalogue.open_run(load_config(profile), tmp_path)) is None
        )
    folder = tmp_path / "mine"
    folder.mkdir()
    clip = next((REPO / "data" / "twin" / "VideoMP4").glob("*.mp4"))
    shutil.copy(clip, folder / "ann-1.mp4")
    (folder / "metadata.csv").write_text("path,actor,emotion\nann-1.mp4,ann,happy\n")
    own = catalogue.open_run(load_config("smoke", {"data": str(folder)}), tmp_path / "runs")
    assert execute.private_clip_names(own) == ["ann-1"]


def test_executed_notebooks_hold_no_picture_and_no_name(tmp_path):
    path = tmp_path / "00.ipynb"
    notebook(path, NAMES)
    execute.without_people(path, NAMES)
    text = path.read_text()
    assert picture()[:40] not in text and "image/" not in text and "data:" not in text
    for name in NAMES:
        assert name not in text and json.dumps(name)[1:-1] not in text, name
    book = nbformat.read(path, as_version=4)
    assert "clip 4" in text and "left out" in str(book.cells[0].outputs[0])


def test_stores_and_runs_are_their_owners_alone(tmp_path, tiny_run):
    open_to_all = tmp_path / "store"
    open_to_all.mkdir(mode=0o777)
    table = pd.DataFrame({"clip": ["a"], "path": "", "actor": "1", "emotion": "sad"})
    ClipStore.from_array(open_to_all, torch.zeros(1, 2, 3, 8, 8, dtype=torch.uint8), table)
    for folder in (open_to_all, tiny_run.dir):
        assert not stat.S_IMODE(folder.stat().st_mode) & 0o077


def test_jupyter_listens_on_localhost_with_its_token():
    said = (REPO / "Makefile").read_text()
    (line,) = [line for line in said.splitlines() if "jupyter lab" in line]
    assert "--ip localhost" in line
    assert not re.search(r"0\.0\.0\.0|token=|password=|disable_check_xsrf|--ip \*", said)


@pytest.mark.faults
@pytest.mark.parametrize("books", ["00", pytest.param("main", marks=pytest.mark.full)])
def test_a_run_on_people_keeps_no_face_in_its_notebooks(books, tmp_path, capfd):
    """End to end: the twin without its `twin.json` is taken for real people."""
    data, runs = tmp_path / "people", tmp_path / "runs"
    shutil.copytree(REPO / "data" / "twin", data, ignore=shutil.ignore_patterns("twin.json"))
    common = ["run", "--profile", "smoke", "--data", str(data), "--wild", str(data / "wild")]
    common += ["--runs-dir", str(runs), "--notebooks"]
    assert main([*common, books]) == 0
    said = capfd.readouterr()
    pages = {path.name: path.read_text() for path in runs.rglob("*.ipynb")}
    assert all("image/" not in text and "data:" not in text for text in pages.values())
    assert any("left out" in text for text in pages.values())
    pages |= {"the terminal": said.out + said.err}
    pages |= {str(p): p.read_text() for p in runs.rglob("tables/*") if p.suffix in (".json", ".md")}
    names = {p.stem for p in data.rglob("*.mp4") if len(p.stem) > 10}
    assert names
    for page, text in pages.items():
        assert not [name for name in names if name in text], page
    COUNTS["files searched for people"] += len(pages)
    assert main([*common, "00", "--allow-real-faces"]) == 0
    assert "image/png" in next(runs.rglob("00*.ipynb")).read_text()
    assert main(["clean", "--runs-dir", str(runs)]) == 0
