"""Two runs that differ never share a folder, and what tells them apart can be read."""

import re

import pytest

from ppfer.base.errors import PpferError
from ppfer.base.files import write_json
from ppfer.cli import main
from ppfer.config import load_config
from ppfer.run.names import RUNS, data_path, differences, known_runs, run_json, run_name


def named(**changes: object) -> str:
    return run_name(load_config("demo", changes))


def test_run_names():
    assert named() == "demo"
    assert named(seed=2) == "demo-seed2"
    assert re.fullmatch("demo-folder-seed2-[0-9a-f]{6}", named(data="/some/folder", seed=2))
    assert named(name="mine", seed=2) == "mine"
    for bad in ("a/b", "..", ".hidden"):
        with pytest.raises(PpferError, match="a run's name is a plain folder name"):
            named(name=bad)


def test_every_difference_has_another_name():
    names = {
        named(),
        named(seed=1),
        named(data="/some/folder"),
        named(data="/other/folder"),
        named(wild="/some/folder"),
        named(size=32),
        named(**{"bands.wavelet": "db2"}),
        named(**{"bands.wavelet": "db2", "seed": 1}),
    }
    assert len(names) == 8
    assert named(size=32) == named(size="32") and named(size=64) == "demo"


def test_differences_are_those_from_the_profile():
    changed = {"name": "x", "seed": 3, "bands.wavelet": "db2", "size": 64}
    assert differences(load_config("demo", changed)) == {"seed": 3, "bands.wavelet": "db2"}
    assert differences(load_config("twin")) == {}


def test_data_is_found_as_given_or_in_the_repository(tmp_path):
    assert data_path(str(tmp_path)) == tmp_path and data_path("data/twin").is_absolute()
    assert data_path("data/twin").is_dir() and RUNS.is_absolute()


@pytest.mark.parametrize("about", ["", "[1]", '{"profile": "smoke", "differs": null}'])
def test_a_run_that_cannot_say_what_it_is_costs_only_itself(tmp_path, about):
    for name in ("broken", "whole"):
        write_json(tmp_path / name / "run.json", {"profile": "smoke", "differs": {"seed": 1}})
    (tmp_path / "broken" / "run.json").write_text(about)
    (tmp_path / "broken" / "gone.png").symlink_to(tmp_path / "nowhere")
    broken, whole = known_runs(tmp_path)
    assert broken["differs"] == "its run.json cannot be read" and whole["differs"] == "seed=1"
    with pytest.raises(PpferError, match="nobody knows what this run is"):
        run_json(tmp_path / "broken")


def test_runs_are_listed(tiny_run, capsys):
    rows = {row["run"]: row for row in known_runs(tiny_run.dir.parent)}  # other tests make some too
    row = rows[tiny_run.dir.name]
    assert row["profile"] == "smoke"
    assert "identity.steps=3" in row["differs"] and row["finished stages"] >= 17
    assert main(["runs", "--runs-dir", str(tiny_run.dir.parent)]) == 0
    assert tiny_run.dir.name in capsys.readouterr().out
    assert main(["runs", "--runs-dir", "/no/such"]) == 0
    assert "there are no runs in /no/such yet" in capsys.readouterr().out
