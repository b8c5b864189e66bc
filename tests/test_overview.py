"""One look says how far a command is."""

from __future__ import annotations

import os
import time

import pytest

from ppfer import cli
from ppfer.base import progress
from ppfer.base.progress import FILE, Progress
from ppfer.cli import notebooks, overview
from ppfer.config import load_config
from ppfer.study import catalogue


class Clock:
    """Time that passes only when a test says so."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        for module in (overview, progress):
            monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


class Made:
    """A run of which a test says what is finished."""

    def __init__(self, profile: str = "demo"):
        self.config, self.finished = load_config(profile), {}
        self.stages = dict.fromkeys(("identity", "attack"))

    def has(self, name: str) -> bool:
        return name in self.finished

    def manifest(self, name: str) -> dict:
        return {"seconds": self.finished[name]}


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


def test_a_line_says_which_stage_of_how_many_and_the_minutes_left_at_this_machines_speed(
    clock, capsys
):
    run = Made()
    shown = overview.Overview(run, {"identity": 60.0, "attack/none": 120.0, "attack/ppfer": 120.0})
    assert shown.position() == "[0 of 3 stages, about 5 min left]"  # as it was measured
    run.finished["identity"] = clock.now = 180.0  # three times as long as where it was measured
    shown(["attack/none 0/100 steps 0 s"])
    line = capsys.readouterr().out.strip()
    said = "[1 of 3 stages, about 12 min left] learn who it is from protected clips"
    assert line.startswith(said)
    shown(["attack/none 50/100 steps loss 1.0 90 s, 90 s left"])  # half a stage counts by half
    assert shown.seconds_left() == pytest.approx(3 * 180)


def test_where_nothing_was_measured_no_minutes_are_made_up(clock):
    shown = overview.Overview(Made("smoke"), {"identity": 60.0, "attack/none": 120.0})
    assert shown.position() == "[0 of 2 stages]"


def test_what_notebooks_take_besides_their_stages_is_expected_of_those_to_come(clock):
    run = Made("smoke")
    shown = overview.Overview(run, {"identity": 60.0, "attack/none": 120.0}, notebooks=5)
    shown.notebook, run.finished["identity"], clock.now = 2, 1.0, 41.0
    shown([])
    assert shown.seconds_left() == pytest.approx(120 / 60 + 3 * 40 / 2)


def test_a_silence_is_broken(clock, capsys):
    shown = overview.Overview(Made(), {"identity": 60.0})
    shown([])
    assert not capsys.readouterr().out
    clock.now = overview.QUIET + 1
    shown([])
    assert "at work" in capsys.readouterr().out


def test_a_slow_start_is_no_silence(monkeypatch, capsys):
    monkeypatch.setattr(cli, "PATIENCE", 0.0)
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: time.sleep(0.5))
    cli._imported("ppfer.cli.cost")
    assert "loading PyTorch" in capsys.readouterr().err


def test_lines_written_by_another_process_are_shown_and_the_environment_is_as_before(
    monkeypatch, capsys, tmp_path
):
    monkeypatch.delenv(FILE, raising=False)
    run = catalogue.open_run(load_config("smoke"), tmp_path)
    shown = overview.Overview(run, overview.planned(run, ["03"]), 1)
    with progress.relayed(shown):
        with open(os.environ[FILE], "a") as stream:
            stream.write("identity 1/2 steps 3 s\n")
    assert FILE not in os.environ
    assert "[0 of 1 stages] learn who is who (identity) 1/2 steps 3 s" in capsys.readouterr().out


def test_every_stage_of_the_page_is_planned_and_every_kind_has_words(tmp_path):
    run = catalogue.open_run(load_config("demo"), tmp_path)
    main, tables = (overview.planned(run, n) for n in (notebooks.MAIN, notebooks.TABLES))
    assert {"clips", "privacy", "attack/ppfer"} <= main.keys() and "live" in tables
    assert not main.keys() & tables.keys()
    assert {"attribute/sex", "attack_clips/live", "within/codebook", "joint/bands"} <= tables.keys()
    others = {"features/none", "within/flow", "deface_faces", "privacy/long", "recovery/enhanced"}
    assert not others & tables.keys()  # shown on the page, and made by no notebook
    assert run.stages.keys() == overview.WORDS.keys()


def test_a_stage_is_waited_for_in_the_notebook_that_makes_what_it_stands_on(tmp_path):
    run = catalogue.open_run(load_config("demo"), tmp_path)
    assert overview.made_in(run, "attack_clips/ppfer") == "08"
    assert overview.made_in(run, "attack_clips/live") == "11"


def test_stages_that_a_profile_does_not_have_are_not_waited_for(tmp_path):
    run = catalogue.open_run(load_config("smoke"), tmp_path)
    shown = overview.Overview(run, {"probe/hw-low-actor": 9.0, "identity": 9.0}, notebooks=3)
    shown.begin(3, "03")
    assert shown.position() == "[0 of 1 stages]"


def test_after_resuming_only_this_calls_steps_tell_what_is_left(clock, monkeypatch, tmp_path):
    file = tmp_path / "lines"
    monkeypatch.setenv(FILE, str(file))
    shown = Progress("probe", 80, "steps", done=40)
    clock.now = 10.0
    shown.update(50)
    assert file.read_text() == "probe 50/80 steps 10 s, 30 s left\n"
