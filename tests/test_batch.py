"""A grid of cells: what they share is made once, what fails stays apart, what is there is used."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import nbformat
import pytest
from filelock import FileLock
from papermill.translators import PythonTranslator

from ppfer import measure
from ppfer.base.errors import PpferError
from ppfer.base.files import write_json
from ppfer.base.processes import interruptible
from ppfer.cli import batch, compare, grid, main, notebooks
from ppfer.config import load_config
from ppfer.run.run import Run
from ppfer.run.stage import Stage, stage
from ppfer.show import notebook


@stage("shared", settings=("size",), notebook="00")
class Shared(Stage):
    """Stands below several cells; notes that it was made."""

    def make(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        with (self.run.dir.parent / "made.txt").open("a") as file:
            file.write(self.name + "\n")
        self.work(folder)
        return {"test": {"plr": {"k": self.config.seed, "n": 10}}}

    def work(self, folder):
        time.sleep(0.05)

    def load(self, folder):
        return None


@stage("own", needs=("shared",), settings=("seed", "frames", "val"), notebook="01")
class Own(Shared):
    """A cell's own; fails at 13 frames, waits to be interrupted at 99."""

    def work(self, folder):
        if self.config.frames == 13:
            raise ValueError("thirteen")
        if self.config.frames == 99:
            with interruptible() as stop:
                (folder / "waiting").touch()
                if stop.wait(60):
                    (folder / "kept").touch()
                    raise KeyboardInterrupt


def opener(config, runs_dir):
    return Run(config, runs_dir, "cpu", stages=(Shared, Own))


def batch_of(folder, **axes) -> batch.Batch:
    cells = grid.cells_of(axes, "smoke", {}, stages=["own"])
    return batch.Batch(cells, folder, folder / "batches" / "b", opener=opener)


def failures(outcomes) -> dict[int, str]:
    return {outcome.cell: outcome.error for outcome in outcomes if outcome.error}


def made(folder) -> list[str]:
    path = folder / "made.txt"
    return sorted(path.read_text().split()) if path.exists() else []


# --- before anything starts -----------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--grid sed=0,1", r"unknown parameter 'sed' \(did you mean 'seed'\?\)"),
        ("--grid seed=0,one", "parameter 'seed' takes int, got 'one'"),
        ("--grid seed=", "axis 'seed' has no values"),
        ("--grid seed=0,,1", "NAME=VALUE,VALUE without gaps"),
        ("", "there is no axis"),
        ("--grid seed=0,1 --grid seed=2", "--grid seed is given twice"),
        ("--grid seed=0 --stages attack/{who}", "names {who}, and no axis is called that"),
        ("--grid seed=-1,0", "seed takes a whole number from 0"),
        ("--grid size=32,36", "size=36 is no multiple of 8"),
        ("--grid seed=1,1.0", "two cells of the grid are the same run: seed=1"),
        ("--grid bands.wavelet=haar,db99", r"'db99' \(did you mean 'db9'\?\)"),
        ("--grid privacy_loss=paper,clampd", r"not 'clampd' \(did you mean 'clamped'\?\)"),
        ("--grid seed=0 --stages privcy", r"'privcy' \(did you mean 'privacy'\?\)"),
        ("--grid seed=0 --stages privacy --notebooks 03", "not both"),
        ("--grid seed=0 --workers 0", "--workers takes a whole number from 1"),
        ("--grid vidoe=a,b --notebooks 12", "of the notebooks alone: video"),
        ("nothing.toml", "nothing.toml is no grid that can be read"),
    ],
)
def test_a_wrong_grid_is_a_sentence_and_starts_nothing(tmp_path, capsys, options, says):
    command = ["batch", "--profile", "smoke", "--runs-dir", str(tmp_path), *options.split()]
    assert main(command) == 2
    assert re.search(says, said := capsys.readouterr().err), said
    assert not list(tmp_path.rglob("run.json"))


def test_a_grid_in_a_file_and_axes_that_win(tmp_path):
    file = tmp_path / "grid.toml"
    file.write_text("privacy.lr = [1e-5, 1e-4]\nseed = 3\n", "utf-8-sig")  # as Notepad saves it
    assert grid.read_axes([], file) == {"privacy.lr": [1e-5, 1e-4], "seed": [3]}
    axes = grid.read_axes(["seed=0,1"], file)
    values = [cell.values for cell in grid.cells_of(axes, "smoke", {})]
    assert values == [{"privacy.lr": lr, "seed": seed} for lr in (1e-5, 1e-4) for seed in (0, 1)]


def test_a_parameter_of_a_notebook_makes_cells_of_one_run_apart():
    books = notebooks.chosen("12")
    cells = grid.cells_of({"video": ["a.mp4", "b.mp4"]}, "smoke", {}, books)
    assert [cell.parameters for cell in cells] == [{"video": "a.mp4"}, {"video": "b.mp4"}]
    assert len({cell.config.name for cell in cells}) == 2


# --- cells that share -------------------------------------------------------------


def test_shared_stages_are_made_once_and_a_failure_stays_apart(tmp_path):
    axes = {"size": [32, 64], "frames": [4, 13], "seed": [1, 2]}
    todo = batch_of(tmp_path, **axes)
    assert "8 cells of 16 stages, 10 of them different; 8 cells left" in todo.summary()
    failed = failures(batch.run_batch(todo, 1))
    assert made(tmp_path) == ["own"] * 8 + ["shared"] * 2
    assert sorted(failed) == [2, 3, 6, 7]
    assert "own: ValueError: thirteen" in failed[2]
    assert len(list(tmp_path.glob("*/failed.txt"))) == 4
    assert [result.settings["frames"] for result in todo.results()] == [4] * 4

    again = batch_of(tmp_path, **axes)  # what is done is done; what failed is tried again
    assert "4 cells left" in again.summary()
    batch.run_batch(again, 1)
    assert made(tmp_path) == ["own"] * 12 + ["shared"] * 2


def test_a_failed_shared_stage_fails_its_cells_alone(tmp_path, monkeypatch):
    work = Own.work
    monkeypatch.setattr(Shared, "work", lambda self, folder: 1 / (self.config.size - 64))
    monkeypatch.setattr(Own, "work", work)
    todo = batch_of(tmp_path, size=[32, 64], seed=[1, 2])
    failed = failures(batch.run_batch(todo, 1))
    assert sorted(failed) == [2, 3] and len(todo.results()) == 2
    assert all("shared: ZeroDivisionError" in sentence for sentence in failed.values())


def test_ctrl_c_and_the_same_command_again(tmp_path, monkeypatch):
    monkeypatch.setattr(Own, "work", lambda self, folder: signal.raise_signal(signal.SIGINT))
    todo = batch_of(tmp_path, seed=[1, 2])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's `&` ignores it
    with pytest.raises(KeyboardInterrupt):
        batch.run_batch(todo, 1)
    signal.signal(signal.SIGINT, before)
    assert made(tmp_path) == ["own", "shared"] and not list(tmp_path.rglob("failed.txt"))
    monkeypatch.undo()
    again = batch_of(tmp_path, seed=[1, 2])
    batch.run_batch(again, 1)
    assert made(tmp_path).count("shared") == 1 and len(again.results()) == 2


# --- several workers ----------------------------------------------------------------


@pytest.mark.parametrize("dask", ["", "local"])
def test_two_workers_make_nothing_twice(tmp_path, dask):
    if dask:
        pytest.importorskip("distributed")
    todo = batch_of(tmp_path, size=[32, 64], seed=[1, 2, 3])
    assert not failures(batch.run_batch(todo, 2, dask))
    assert made(tmp_path) == ["own"] * 6 + ["shared"] * 2
    assert len(todo.results()) == 6


def test_ctrl_c_reaches_the_workers_once(tmp_path):
    todo = batch_of(tmp_path, seed=[1, 2], frames=[99])

    def interrupt():
        while len(list(tmp_path.rglob("waiting"))) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        batch.run_batch(todo, 2)
    assert len(list(tmp_path.rglob("kept"))) == 2 and not list(tmp_path.rglob("failed.txt"))


def test_ctrl_c_twice_stops_at_once_and_no_thread_falls_over(tmp_path, monkeypatch):
    todo, fallen = batch_of(tmp_path, seed=list(range(20)), frames=[99]), []
    monkeypatch.setattr(threading, "excepthook", lambda about: fallen.append(about.exc_type))

    def interrupt():
        while len(list(tmp_path.rglob("waiting"))) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)
        while not todo.stop.exists():  # two signals at once would be one
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        batch.run_batch(todo, 2)
    assert not fallen and len(list(tmp_path.rglob("waiting"))) == 2


def test_a_small_grid_from_the_command_line(tmp_path, capsys):
    command = "batch --profile smoke --stages identity --grid identity.lr=1e-3,3e-3 --grid seed=0,1"
    command += f" --name few --set identity.steps=2 --runs-dir {tmp_path}"
    assert main(command.split()) == 0
    said = capsys.readouterr().out
    assert "4 cells of 12 stages, 7 of them different" in said and "4 of 4 cells" in said
    assert max(map(len, said.split("identity\n")[1].split("With every")[0].splitlines())) <= 100
    folder = tmp_path / "batches" / "few"
    rows = json.loads((folder / "results.json").read_text())
    assert [row["seed"] for row in rows] == [0, 1, "0, 1"] * 2
    assert rows[2]["clip"]["k"] == [rows[i]["clip"]["k"] for i in (0, 1)]
    assert (folder / "results.png").stat().st_size > 5000
    assert len(list(tmp_path.glob("*/cells/*.json"))) == 4


def test_a_grid_that_measures_nothing_has_no_table(tmp_path, capsys):
    command = f"batch --profile smoke --stages split --grid seed=0,1 --runs-dir {tmp_path}"
    assert main(command.split()) == 0
    assert "2 of 2 cells" in capsys.readouterr().out and not list(tmp_path.rglob("results.*"))


def test_who_comes_in_place_of_a_worker_gets_its_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    code = f"""if True:
        import pathlib, sys
        from ppfer.cli.batch import _own_gpu
        for _ in range(2):  # a second cell has it, too
            gpu, lock = _own_gpu(pathlib.Path({str(tmp_path / "new")!r}))
        print(gpu["CUDA_VISIBLE_DEVICES"], flush=True)
        sys.stdin.read()"""

    def start() -> tuple[subprocess.Popen, str]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        worker = subprocess.Popen([sys.executable, "-c", code], **pipes)
        return worker, worker.stdout.readline().strip()

    workers = [start(), start()]
    assert [gpu for _, gpu in workers] == ["4", "7"]
    workers[0][0].kill()
    workers[0][0].wait()
    workers += [start(), start()]  # then more than there are GPUs
    assert [gpu for _, gpu in workers[2:]] == ["4", "4"]
    for worker, _ in workers:
        worker.communicate()


def test_a_stage_that_another_program_makes_is_waited_for(tmp_path, capsys):
    run = opener(load_config("smoke"), tmp_path)
    (tmp_path / ".making").mkdir()
    lock = FileLock(tmp_path / ".making" / f"{run.key('shared')}.lock")
    with lock:
        waits = threading.Thread(target=run.make, args=("shared",))
        waits.start()
        time.sleep(0.2)
        assert not run.has("shared")
    waits.join(10)
    assert run.has("shared") and "is being made by another program" in capsys.readouterr().out


# --- runs side by side ----------------------------------------------------------------


def test_titles_of_compared_measures_lie_apart():
    """As `ppfer compare` names them: long, side by side, and one row of panels above the other."""
    measures = [title for key, title in compare.COLUMNS.items() if key != "approach"]
    row = {"run": "demo", "approach": "PPFER (C)"} | dict.fromkeys(measures, measure.Rate(22, 295))
    figure = compare.pictured([row], {"demo": {"actor": 1 / 12, "emotion": 1 / 6}})
    figure.canvas.draw()
    boxes = [axis.get_tightbbox() for axis in figure.axes]  # with titles and labels of ticks
    assert len(boxes) == len(measures) == 4
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_guessing_is_drawn_through_each_run_that_knows_its_classes():
    row = {"approach": "PPFER (C)", "flicker": 2.5}
    row |= {compare.COLUMNS[key]: measure.Rate(3, 10) for key in ("plr", "acc")}
    rows = [{"run": run, "fold": i, **row} for i, run in enumerate("abc")]
    known = {"a": {"actor": 0.25, "emotion": 0.2}, "b": {"actor": 0.5, "emotion": 0.2}, "c": {}}
    flicker, named, read = compare.pictured(rows, known).axes
    assert named.get_xlabel() == "dashed: guessing, 25.0 % to 50.0 %"
    assert read.get_xlabel() == "dashed: guessing, 20.0 %" and flicker.get_xlabel() == ""
    said = compare.by_guessing([compare.Result(run, {}, [], known[run]) for run in "abc"])
    assert said.strip() == "guessing: identity 25.0 % to 50.0 %, expression 20.0 %"
    (dashed,) = [c for c in named.collections if c.get_label() == compare.GUESSING]
    assert [line.tolist() for line in dashed.get_segments()] == [
        [[25, -0.5], [25, 0.5]],
        [[50, 0.5], [50, 1.5]],
    ]


def test_runs_are_compared(tmp_path, capsys):
    for name, differs, k in (("a", {}, 3), ("b", {"seed": 1}, 5), ("c", {"privacy.lr": 0.1}, 9)):
        write_json(tmp_path / name / "run.json", {"profile": "smoke", "differs": differs})
        rows = [{"approach": "PPFER (C)", "what_ran": "it", "plr": measure.Rate(k, 10)}]
        measure.write_table(rows, tmp_path / name / "tables", "main")
    assert main(["compare", "a", "b", "c", "--runs-dir", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "seed=0, 1 lr=0.0005" in said and "40.0 ± 14.1 %" in said and "90.0 % (9/10)" in said
    (table,) = (tmp_path / "tables").glob("compared-*.md")
    assert "30.0 % (3/10; 10.8–60.3)" in table.read_text() and table.with_suffix(".png").exists()
    assert main(["compare", "aa", "b", "--runs-dir", str(tmp_path)]) == 2
    assert "there is no run" in capsys.readouterr().err


# --- papermill alone ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"sed": 1}, r"no parameter sed \(did you mean 'seed'\?\); it has profile, seed"),
        ({"video": 3}, "'video' takes str, got 3"),
        ({"seed": 1, "settings": {"size": 32}}, None),
    ],
)
def test_papermill_alone_is_held_to_the_parameters(monkeypatch, given, says):
    (path,) = notebooks.chosen("12")
    cells = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    history = ["", cells[0], PythonTranslator.codify(given), cells[1]]
    shell = SimpleNamespace(user_ns={"In": history, **given})
    monkeypatch.setattr(notebook, "get_ipython", lambda: shell)
    if not says:
        return notebook._refuse_unknown()
    with pytest.raises(PpferError, match=says):
        notebook.start()
