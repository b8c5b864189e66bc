"""Scripts that make a page's rows and are run by nobody else: from their command to their table."""

import importlib
import json
import sys

import pytest
from conftest import SMALL, ColouredClips, coloured_run

from ppfer.config import REPO, load_config
from ppfer.run.run import Run


@pytest.fixture
def script(monkeypatch, tmp_path):
    """``script(path, words)`` runs a script on coloured clips; (module, a folder of its own)."""

    def start(path: str, *words: object) -> None:
        place, name = (REPO / path).parent, (REPO / path).stem
        monkeypatch.syspath_prepend(str(REPO / "tests" / "bench"))
        monkeypatch.syspath_prepend(str(place))
        module = importlib.import_module(name)
        config = load_config("smoke", SMALL)
        if hasattr(module, "catalogue"):
            monkeypatch.setattr(
                module.catalogue, "open_run", lambda *_: coloured_run(config, tmp_path / "runs")
            )
        else:
            monkeypatch.setattr(
                module,
                "Run",
                lambda _, runs, stages, protectors: Run(
                    config, runs, "cpu", stages=(*stages, ColouredClips), protectors=protectors
                ),
            )
        monkeypatch.setattr(module, "REPO", tmp_path, raising=False)
        monkeypatch.setattr(sys, "argv", [path, *map(str, words)])
        module.main()

    return start


def rows_of(folder, name: str) -> list[dict]:
    assert (folder / f"{name}.md").exists()
    return json.loads((folder / f"{name}.json").read_text())


def test_calibrating_keeps_rows_of_other_difficulties(script, tmp_path):
    script("data/calibrate.py", 0, 1, "--profile", "smoke")
    script("data/calibrate.py", 1, "--profile", "smoke")
    rows = rows_of(tmp_path / "figures" / "smoke", "calibration")
    assert [row["difficulty"] for row in rows] == [0, 1]
    assert rows[0]["all"]["n"] and 0 <= rows[0]["uar"] <= 1


def test_a_compensator_taught_by_reenactment_is_attacked_and_read(script, tmp_path):
    script("tests/bench/composed.py", "--runs", tmp_path / "runs", "--out", tmp_path / "out")
    rows = rows_of(tmp_path / "out", "composed")
    assert [set(row) >= {"plr", "acc_retrained", "plr_worst"} for row in rows] == [True] * 2
    made = json.loads((tmp_path / "out" / "composed_manifest.json").read_text())
    assert made["taught/enhanced"]["steps"]


def test_algorithm_1_is_filmed(script, tmp_path):
    script("figures/film.py", "--profile", "smoke", "--runs", tmp_path / "runs")
    folder = tmp_path / "figures" / "smoke"
    frames = [row["frames"] for row in rows_of(folder, "algorithm1")]
    assert frames[:2] == ["original (V)", "step 0"]
    assert (folder / "algorithm1.jpg").stat().st_size > 1000
