"""Scripts that make a page's rows and are run by nobody else: from their command to their table."""

import importlib
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SMALL, ColouredClips, ColouredWild, coloured_run

from ppfer.base.weights import save_tensors
from ppfer.config import REPO, load_config
from ppfer.data.words import EMOTIONS
from ppfer.run.run import Run
from ppfer.run.stage import stage
from ppfer.study.catalogue import PROTECTORS, STAGES
from ppfer.study.protectors.codebook_training import Strangers
from ppfer.twin import motion
from ppfer.twin.acting import actor_specs
from ppfer.twin.people import Actor


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


@stage("strangers", needs=(), settings=("codebook_people",), notebook="11")
class Acting(Strangers):
    """Two takes of each expression by each stranger, read without an error: nothing is drawn."""

    def make(self, folder) -> dict:
        specs = [
            spec
            for person in range(self.config.codebook_people)
            for spec in actor_specs(Actor(20_001 + person))[:12]
        ]
        moves = [motion(spec) for spec in specs]
        acted = [np.concatenate([m.actions[:16], m.pose[:16, :3]], 1) for m in moves]
        numbers = torch.from_numpy(np.stack(acted)).half()
        tensors = {"numbers": numbers, "donors": numbers.clone()}
        tensors["who"] = torch.tensor([spec.actor.id - 20_001 for spec in specs])
        tensors["emotion"] = torch.tensor([EMOTIONS.index(spec.emotion) for spec in specs])
        save_tensors(tensors, folder / "strangers.safetensors")
        return {}


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


@pytest.fixture
def symbols(monkeypatch):
    monkeypatch.syspath_prepend(str(REPO / "tests" / "bench"))
    return importlib.import_module("symbols")


def test_symbols_are_attacked_and_performed_however_they_were_made(symbols, monkeypatch, tmp_path):
    learns = {"codebook.steps": 60, "codebook.batch": 32}

    def opened(settings: dict, runs) -> Run:
        config = load_config("smoke", SMALL | learns | settings)
        stages = (*STAGES, Acting, ColouredClips, ColouredWild)
        return Run(config, runs, "cpu", stages=stages, protectors=PROTECTORS)

    few = {"SEEDS": (0, 1), "LEARNED": ((16, 1.0),), "COUNTS": (6,)}
    few |= {"load_config": lambda _, settings: {"codebook_people": 16} | settings}
    for name, value in (few | {"open_run": opened}).items():
        monkeypatch.setattr(symbols, name, value)
    words = ("--runs", tmp_path / "runs", "--out", tmp_path / "out")
    monkeypatch.setattr(sys, "argv", ["symbols.py", *map(str, words)])
    symbols.main()
    calibrated = rows_of(tmp_path / "out", "calibration_of_codes")
    assert [row["seed"] for row in calibrated] == [0] * 4 + [1] * 4
    assert all(row["1 clip"]["attack"] and row["expression named"]["n"] == 36 for row in calibrated)
    (learned,) = rows_of(tmp_path / "out", "codebook")
    assert learned["strangers"] == 16 and learned["strangers held out: expression named"]["n"] == 24
    performed = rows_of(tmp_path / "out", "performances")
    assert [len(row["expression read, F_u as trained"]["k"]) for row in performed] == [2] * 7
    made = json.loads((tmp_path / "out" / "symbols_manifest.json").read_text())
    assert any("codebook" in stages for stages in made.values())


def test_the_mean_of_few_clips_is_of_clips_that_are_known(symbols):
    people = torch.tensor([0, 1] * 20)
    codes = torch.arange(40.0)[:, None]
    known = torch.arange(4, 40)
    means = symbols.of_few(codes, people, known)
    assert means[:2, 0].tolist() == [4 + 7, 5 + 7]  # 4, 6 … 18 and 5, 7 … 19


def test_strangers_are_matched_by_what_tells_others_apart_and_by_nothing_else(monkeypatch):
    """Of 27 people, whose clips differ by noise ten times as large as what tells people apart, in
    other directions; protected, they are shifted and scaled.
    """
    monkeypatch.syspath_prepend(str(REPO / "tests" / "bench"))
    attacked = importlib.import_module("strangers")
    rng, people, clips = np.random.default_rng(0), 27, 24
    actors = np.repeat(np.arange(people), clips)
    parts = np.split(np.arange(people * clips).reshape(people, clips), [12, 16], axis=1)
    parts = dict(zip(("train", "val", "test"), map(np.ravel, parts), strict=True))
    run = SimpleNamespace(labels=lambda _: actors, parts=parts)
    own = rng.normal(size=(people, 6))[actors]

    def seen(own: np.ndarray) -> torch.Tensor:
        told = own + rng.normal(size=own.shape) / 10
        return torch.from_numpy(np.hstack([told, 10 * rng.normal(size=(len(own), 30))]))

    originals, protected = seen(own), 3 * seen(own) + 5
    nobody = seen(rng.normal(size=own.shape))

    def share(shown: torch.Tensor) -> float:
        rates = [attacked.against(run, [originals, shown], group)[1] for group in range(3)]
        return sum(rate.k for rate in rates) / len(parts["test"])

    assert share(protected) > 0.9
    assert share(nobody) < 2 / 9  # guessing is right once in nine


def test_strangers_are_counted_from_0_and_dealt_out(symbols):
    held = {"who": torch.tensor([7] * 80 + [15] * 80), "emotion": torch.arange(160) % 4}
    people, parts = symbols.of_strangers(held)
    assert people.unique().tolist() == [0, 1]
    assert people[parts["test"]].bincount().tolist() == [24, 24]
    assert sum(map(len, parts.values())) == 160
