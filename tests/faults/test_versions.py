"""A stage's version goes up when its objective says something else of the same input.

Keys do not cover code: without a new version, results of the old meaning would be used as if the
new code had made them. ``python tests/faults/test_versions.py`` writes what is compared.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # where it is run as a program

from conftest import SMALL, coloured_run
from test_house import VALUES

from ppfer.base.files import digest, write_json
from ppfer.config import load_config
from ppfer.data.store import ClipStore
from ppfer.nets import freeze
from ppfer.run.run import Run
from ppfer.run.stage import Stage, stage
from ppfer.run.training import Training, trainable
from ppfer.study import catalogue

VALUES = VALUES | {"protector": "enhanced"}
KEPT = Path(__file__).parent / "objectives.json"


class Untrained(Run):
    """A run in which every network has the weights its seed gives and protected clips are
    negatives: what an objective says depends on code alone.
    """

    def get(self, name: str):
        made = self.stage(name)
        if isinstance(made, Training):
            if name not in self._results:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(made.seed)
                    self._results[name] = freeze(made.net())
            return self._results[name]
        if name.startswith("protected/"):
            clips = super().get("clips")
            return ClipStore.in_memory(255 - clips.to("cpu"), clips.table)
        if name == "strangers":  # whom to draw and to read takes a minute
            g, who = torch.Generator().manual_seed(0), torch.arange(64) % 2
            numbers, donors = torch.rand(2, 64, 16, 55, generator=g)
            return {"numbers": numbers, "donors": donors, "who": who, "emotion": who}
        if name == "motions":  # nobody knows how a coloured bar's face moves
            return np.random.default_rng(0).random((len(super().get("clips").table), 4, 52))
        return super().get(name)


def objectives(folder: Path, only: str = "") -> dict[str, dict]:
    """Of every training stage, or one: its version, loss and gradient of its first batch."""
    made = coloured_run(load_config("smoke", SMALL | {"codebook_people": 2}), folder)
    run = Untrained(
        made.config, folder, "cpu",
        stages=made.stages.values(), protectors=made.protectors.values(),
    )  # fmt: skip
    for name in ("clips", "wild", "split"):
        run.make(name, load=False)
    said = {}
    for cls in catalogue.STAGES:
        if not issubclass(cls, Training) or only not in ("", cls.kind):
            continue
        name = f"{cls.kind}/{VALUES[cls.argument]}" if cls.argument else cls.kind
        one = run.stage(name)
        torch.manual_seed(one.seed)
        net = trainable(one.start(), run.device)
        objective = one.objective(net).train()
        loss = objective(*one.batches()(0))
        loss.backward()
        slopes = [p.grad.norm() for p in objective.parameters() if p.grad is not None]
        values = {"loss": float(loss.detach()), "gradient": float(torch.stack(slopes).norm())}
        said[cls.kind] = {"version": cls.version} | values
    return said


def check_versions(folder: Path, only: str = "") -> None:
    """Every stage, or one, either says what it said under its version, or has a new one."""
    now, kept = objectives(folder, only), json.loads(KEPT.read_text())
    assert now
    for name, said in now.items():
        write = "run: python tests/faults/test_versions.py"
        assert name in kept, f"stage {name} is new; {write}"
        same = said == pytest.approx(kept[name], rel=2e-3, abs=1e-6)
        raised = said["version"] > kept[name]["version"]
        assert same or raised, (
            f"stage {name} means something else now: {kept[name]} before, {said} now; raise the "
            f"version of its @stage and {write} (only that, where conftest.py's clips changed)"
        )
        assert same, f"stage {name} has a new version; {write}"


def test_a_stage_whose_objective_changed_has_a_new_version(tmp_path):
    check_versions(tmp_path)


def test_a_new_version_makes_the_stage_and_what_stands_on_it_again(tmp_path):
    @stage("one", notebook="00")
    class One(Stage):
        pass

    @stage("two", needs=("one",), notebook="00")
    class Two(Stage):
        pass

    @stage("one", notebook="00", version=2)
    class Newer(Stage):
        pass

    config = load_config("smoke")
    old = Run(config, tmp_path, "cpu", stages=(One, Two))
    new = Run(config, tmp_path, "cpu", stages=(Newer, Two))
    assert old.key("one") != new.key("one") and old.key("two") != new.key("two")


def test_keys_from_before_there_were_versions_hold(tmp_path):
    """The committed results' keys: the first version is not part of a key."""
    run = catalogue.open_run(load_config("demo"), tmp_path, "cpu")
    said = run.stage("wild")
    assert said.version == 1
    assert run.key("wild") == digest({"stage": "wild", "settings": said.settings(), "inputs": {}})


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_json(KEPT, objectives(Path(folder)))
