"""When a result may be used again: same key loads, another key makes again, a missing input names its notebook."""

import json
import os
import subprocess
import sys

import pytest
import torch

from ppfer import cli, evaluate
from ppfer import run as runs
from ppfer.config import REPO, PpferError, load_config, to_dict
from ppfer.run import MissingInput, Run, Stage, run_name


@pytest.fixture
def made(monkeypatch):
    """Two tiny stages: "second" stands on "first" and on the setting `seed`; returns the list of what was made."""
    log = []

    def first(config):
        def make(run, folder):
            log.append("first")
            (folder / "value").write_text(str(config.size))
            return {"size": config.size}

        return Stage(
            "first",
            "00_first.ipynb",
            (),
            {"size": config.size},
            make,
            lambda run, folder: int((folder / "value").read_text()),
        )

    def second(config, argument="x"):
        def make(run, folder):
            log.append(f"second/{argument}")
            (folder / "left").write_text(
                (folder / "left").read_text() + "+" if (folder / "left").exists() else "begun"
            )
            if config.frames == 13:
                raise KeyboardInterrupt
            return {"sum": run.get("first") + config.seed}

        return Stage(
            f"second/{argument}",
            "01_second.ipynb",
            ("first",),
            {"seed": config.seed},
            make,
            lambda run, folder: run.summary(f"second/{argument}"),
        )

    monkeypatch.setattr(runs, "STAGES", {"first": first, "second": second})
    return log


def at(tmp_path, **changes) -> Run:
    return Run(load_config("demo", changes), tmp_path, device="cpu")


def test_a_finished_stage_is_loaded(made, tmp_path):
    assert at(tmp_path).make("first") == 64
    assert at(tmp_path).make("first") == 64
    assert made == ["first"]


def test_changed_settings_make_it_and_what_stands_on_it_again(made, tmp_path):
    for size in (64, 32):
        run = at(tmp_path, size=size)
        run.make("first")
        run.make("second/a")
    assert made == ["first", "second/a"] * 2
    with pytest.raises(
        MissingInput, match="made with other settings or inputs; run notebook 00_first.ipynb"
    ):
        at(tmp_path, size=64).get("first")


def test_unrelated_settings_do_not(made, tmp_path):
    at(tmp_path).make("first")
    at(tmp_path, privacy_loss="uniform").make("first")
    assert made == ["first"]


def test_missing_input_names_its_notebook(made, tmp_path):
    with pytest.raises(
        MissingInput,
        match="first does not exist yet; run notebook 00_first.ipynb with profile demo first",
    ):
        at(tmp_path).make("second/a")
    assert not (tmp_path / "demo" / "second" / "a" / "manifest.json").exists()


def test_an_interrupted_attempt_is_kept_for_the_same_key_only(made, tmp_path):
    at(tmp_path).make("first")
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            at(tmp_path, frames=13).make("second/a")
    left = tmp_path / "demo" / "second" / "a" / "left"
    assert left.read_text() == "begun+"
    assert not at(tmp_path).has("second/a")
    at(tmp_path, **{"val": 0.2}).make("second/a")
    assert left.read_text() == "begun++"  # same key: val is not among its settings


def test_manifest_says_how(made, tmp_path):
    run = at(tmp_path)
    run.make("first")
    manifest = json.loads((run.dir / "first" / "manifest.json").read_text())
    assert {
        "key",
        "settings",
        "inputs",
        "seed",
        "seconds",
        "device",
        "versions",
        "summary",
    } <= manifest.keys()


def test_unknown_stage_is_a_sentence(made, tmp_path):
    with pytest.raises(PpferError, match="unknown stage 'third'; known: first, second"):
        at(tmp_path).make("third")


def test_run_names():
    assert run_name(load_config("demo")) == "demo"
    assert run_name(load_config("demo", {"seed": 2, "data": "/some/folder"})) == "demo-folder-seed2"


def test_loading_an_input_leaves_random_numbers_alone(made, tmp_path, monkeypatch):
    """A stage that builds a network after `get` must get the same one whether its input was in memory or on disk."""

    def noisy(config):
        return Stage(
            "noisy",
            "00_noisy.ipynb",
            (),
            {},
            lambda run, folder: {},
            lambda run, folder: float(torch.rand(())),
        )

    monkeypatch.setitem(runs.STAGES, "noisy", noisy)
    run, drawn = at(tmp_path), []
    run.make("noisy")
    for again in (run, at(tmp_path)):  # in memory, then on disk
        torch.manual_seed(3)
        again.get("noisy")
        drawn.append(float(torch.rand(())))
    assert drawn[0] == drawn[1]


def test_finished_lists_what_was_made(made, tmp_path):
    run = at(tmp_path)
    run.make("first")
    run.make("second/a")
    listed = run.finished()
    assert set(listed) == {"first", "second/a"} and listed["first"]["device"].startswith("CPU")
    assert listed["second/a"]["key"] == run.key("second/a") and listed["first"]["seconds"] >= 0


def test_protected_clips_make_room_where_memory_is_short(tiny_run, monkeypatch):
    from types import SimpleNamespace

    run = type(tiny_run)(tiny_run.config, tiny_run.dir.parent, "cpu")
    first = run.tensor("protected/enhanced").clone()
    monkeypatch.setattr("ppfer.run.psutil.virtual_memory", lambda: SimpleNamespace(available=0))
    run.tensor("protected/ppfer")
    assert "protected/enhanced" not in run._tensors and "protected/enhanced" not in run._results
    assert torch.equal(run.tensor("protected/enhanced"), first)


def test_a_stage_that_does_not_fit_the_gpu_says_what_to_change(monkeypatch, tmp_path):
    def big(config):
        def make(run, folder):
            raise torch.OutOfMemoryError("CUDA out of memory")

        return Stage(
            "big",
            "00_first.ipynb",
            (),
            {"train": to_dict(config.adaptation)},
            make,
            lambda run, folder: None,
        )

    monkeypatch.setattr(runs, "STAGES", {"big": big})
    with pytest.raises(PpferError, match=r"big does not fit .* --set adaptation.batch=16"):
        at(tmp_path).make("big")
    assert not at(tmp_path).has("big")


def test_clips_that_do_not_fit_the_gpu_when_they_are_loaded_say_so(monkeypatch, tmp_path):
    def load(run, folder):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(
        runs,
        "STAGES",
        {
            "wide": lambda config: Stage(
                "wide", "00_first.ipynb", (), {}, lambda run, folder: {}, load
            )
        },
    )
    with pytest.raises(PpferError, match=r"wide does not fit .* --set size=SMALLER"):
        at(tmp_path).make("wide")


def test_several_processes_make_a_whole_run(tmp_path):
    """Every stage under two processes, as ``accelerate launch`` starts them."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(REPO),
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            "2",
            "-m",
            "ppfer",
            "run",
            "--profile",
            "smoke",
            "--no-notebooks",
            "--runs-dir",
            str(tmp_path),
        ],
        env=environment,
        timeout=300,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Grad strides do not match" not in done.stderr  # every gradient lies as its bucket does
    rows = json.loads((tmp_path / "smoke" / "tables" / "main.json").read_text())
    assert [row["plr"]["n"] for row in rows] == [21, 21, 21]


def test_seeds_of_finished_runs_become_one_table(tmp_path, capsys):
    for name, k in (("smoke", 3), ("smoke-seed7", 5)):
        evaluate.write_table(
            [{"approach": "PPFER (C)", "plr": evaluate.Rate(k, 10)}],
            tmp_path / name / "tables",
            "main",
        )
    assert (
        cli.main(["seeds", "--profile", "smoke", "--seeds", "0,7", "--runs-dir", str(tmp_path)])
        == 0
    )
    assert "40.0 ± 14.1 %" in capsys.readouterr().out
    assert (
        cli.main(["seeds", "--profile", "smoke", "--seeds", "0,8", "--runs-dir", str(tmp_path)])
        == 2
    )
    assert "run: ppfer run --profile smoke --seed 8" in capsys.readouterr().err


def test_clips_that_a_gpu_has_no_room_for_stay_in_main_memory(tiny_run, monkeypatch, capsys):
    monkeypatch.setattr(tiny_run, "device", torch.device("cuda"))
    monkeypatch.setattr(tiny_run, "_tensors", {})
    size = tiny_run.get("clips").clips.nbytes
    for name, value in {
        "mem_get_info": (2 * size, 9 * size),
        "memory_reserved": 5,
        "memory_allocated": 4,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert tiny_run._fits(size) and not tiny_run._fits(
        size + 1
    )  # a byte more is free than the driver says
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 5)
    assert tiny_run.tensor("clips").device.type == "cpu"
    assert "GiB of clips stay in main memory" in capsys.readouterr().out
