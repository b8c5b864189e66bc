"""When a result may be used again: the same key loads, another makes again, a missing input names
its notebook.
"""

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import coloured_run

from ppfer.base.errors import PpferError
from ppfer.config import REPO, load_config
from ppfer.protect import no_privacy
from ppfer.run.names import CLEANED, config_of, introduce, known_runs
from ppfer.run.run import MissingInput, Run
from ppfer.run.stage import Protector, Stage, stage
from ppfer.run.training import Training

MADE = []  # names of the stages made since the test began


@pytest.fixture(autouse=True)
def nothing_made():
    MADE.clear()


@stage("first", settings=("size",), notebook="00")
class First(Stage):
    """Leaves a number."""

    def make(self, folder):
        MADE.append(self.name)
        (folder / "sub").mkdir(parents=True, exist_ok=True)
        (folder / "sub" / "value").write_text(str(self.config.size))
        return {"size": self.config.size}

    def load(self, folder):
        return int((folder / "sub" / "value").read_text())


@stage("second/{letter}", needs=("first",), settings=("seed",), notebook="01")
class Second(Stage):
    """Stands on the number; stops half-way at 13 frames."""

    def make(self, folder):
        MADE.append(self.name)
        left = folder / "left"
        left.write_text(left.read_text() + "+" if left.exists() else "begun")
        if self.config.frames == 13:
            raise KeyboardInterrupt
        return {"sum": self.run.get("first") + self.config.seed}

    def load(self, folder):
        return self.run.summary(self.name)


@stage("third/{letter}", needs=("second/{letter}",), notebook="02")
class Third(Second):
    """Its argument has a value and may be left out."""

    letter = "a"


def at(folder, *more: type[Stage], name: str = "one", **changes) -> Run:
    """A run in one folder whatever its settings."""
    config = load_config("demo", {"name": name, **changes})
    return Run(config, folder, "cpu", stages=(First, Second, Third, *more))


def test_a_finished_stage_is_loaded(tmp_path):
    assert at(tmp_path).make("first") == 64
    assert at(tmp_path).make("first") == 64
    assert MADE == ["first"]


def test_changed_settings_make_it_and_what_stands_on_it_again(tmp_path):
    for size in (64, 32):
        run = at(tmp_path, size=size)
        run.make("first")
        run.make("second/a")
    assert MADE == ["first", "second/a"] * 2
    says = "made with other settings or inputs; run notebook 00 with profile demo first"
    with pytest.raises(MissingInput, match=says):
        at(tmp_path, size=64).get("first")


def test_results_left_behind_are_put_aside(tmp_path):
    keys = []
    for size in (64, 32, 64, 32):  # each is left behind twice
        run = at(tmp_path, size=size)
        run.make("first")
        keys.append(run.key("first"))
    assert MADE == ["first"] * 4 and len(set(keys)) == 2
    aside = {path.name for path in (run.dir / "earlier").iterdir()}
    assert aside == {f"first-{key}" for key in keys}


def test_what_another_run_has_made_is_used_from_there(tmp_path):
    made = at(tmp_path, name="made")
    made.make("first")
    other = at(tmp_path, name="other", seed=1)
    assert other.make("first") == 64 and other.make("second/a") == {"sum": 65}
    assert MADE == ["first", "second/a"]
    assert other.folder("first") == made.dir / "first"
    assert not (other.dir / "first").exists() and (other.dir / "second" / "a").exists()
    assert not at(tmp_path, name="other", size=32).has("first")


def test_making_a_stage_leaves_those_in_its_folder_alone(tmp_path):
    """ "privacy/frames" lies in the folder of "privacy"."""
    inside = tmp_path / "one" / "third" / "x" / "left"
    for size, more in ((64, ("second/x", "third/x")), (32, ())):
        run = at(tmp_path, size=size)
        for name in ("first", "second/a", "third", *more):
            run.make(name)
        assert inside.read_text() == "begun"
    assert not (run.dir / "earlier" / "third" / "x").exists()


def test_a_result_that_came_in_part_says_what_to_remove(tmp_path):
    """A run's folder that was copied until the disk was full."""
    at(tmp_path).make("first")
    (tmp_path / "one" / "first" / "sub" / "value").unlink()
    with pytest.raises(MissingInput, match="remove .*first and run notebook 00 again"):
        at(tmp_path).get("first")


def test_unrelated_settings_do_not(tmp_path):
    at(tmp_path).make("first")
    at(tmp_path, privacy_loss="uniform").make("first")
    assert MADE == ["first"]


def test_missing_input_names_its_notebook(tmp_path):
    says = "first does not exist yet; run notebook 00 with profile demo first"
    with pytest.raises(MissingInput, match=says):
        at(tmp_path).make("second/a")
    assert not (tmp_path / "one" / "second" / "a" / "manifest.json").exists()


def test_an_interrupted_attempt_is_kept_for_the_same_key_only(tmp_path):
    at(tmp_path).make("first")
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            at(tmp_path, frames=13).make("second/a")
    left = tmp_path / "one" / "second" / "a" / "left"
    assert left.read_text() == "begun+"
    assert not at(tmp_path).has("second/a")
    at(tmp_path, val=0.2).make("second/a")
    assert left.read_text() == "begun++"  # same key: val is not among its settings
    with pytest.raises(KeyboardInterrupt):
        at(tmp_path, frames=13, seed=1).make("second/b")
    at(tmp_path, seed=2).make("second/b")
    assert (tmp_path / "one" / "second" / "b" / "left").read_text() == "begun"


@pytest.mark.parametrize("left", ["", "[]", '{"key": ', "null"])
def test_a_broken_file_costs_only_what_it_is_about(tmp_path, left):
    """As a power cut, a full disk or a synchronised folder leaves them."""
    for file in ("old/run.json", "old/first/manifest.json", "one/first/started.json"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(left)
    assert at(tmp_path).make("first") == 64 and MADE == ["first"]
    (tmp_path / "one" / "first" / "manifest.json").write_text(left)
    assert at(tmp_path).make("first") == 64 and MADE == ["first", "first"]
    rows = {row["run"]: row for row in known_runs(tmp_path)}
    assert rows["one"]["finished stages"] == 1
    assert rows["old"]["differs"] == "its run.json cannot be read"
    (tmp_path / "one" / "run.json").write_text(left)
    introduce(tmp_path / "one", at(tmp_path).config)
    assert config_of(tmp_path / "one") == at(tmp_path).config


@stage("files", settings=("size",), notebook="00")
class Files(First):
    """Its settings can only be said while its data are there."""

    lost = False

    def settings(self):
        if Files.lost:
            raise PpferError("there is no data")
        return super().settings() | {"files": "digest"}


@stage("trained", needs=("files",), notebook="01")
class Trained(First):
    """What outlives its data."""


def test_what_was_trained_outlives_its_data(tmp_path, monkeypatch):
    for name in ("files", "trained"):
        at(tmp_path, Files, Trained).make(name)
    manifest = tmp_path / "one" / "files" / "manifest.json"
    monkeypatch.setattr(Files, "lost", True)
    for cleaned in (False, True):  # `ppfer clean` keeps a stage's manifest under another name
        if cleaned:
            manifest.rename(manifest.with_name(CLEANED))
        run = at(tmp_path, Files, Trained)
        assert run.get("trained") == 64 and run.has("files") != cleaned
        with pytest.raises(PpferError, match="there is no data"):
            at(tmp_path, Files, Trained, size=32).get("trained")


def test_manifest_says_how(tmp_path):
    run = at(tmp_path)
    run.make("first")
    manifest = json.loads((run.dir / "first" / "manifest.json").read_text())
    said = "key settings inputs seed seconds device versions summary".split()
    assert set(said) <= manifest.keys() and run.manifest("first") == manifest


def test_names_that_are_no_stage_or_protector_are_sentences(tmp_path):
    run = at(tmp_path)
    for name, says in {
        "fourth": "unknown stage 'fourth'; known: first, second, third",
        "first/a": "stage first takes no '/a'",
        "second": "stage second needs a letter: second/NAME",
    }.items():
        with pytest.raises(PpferError, match=says):
            run.make(name)
    assert run.stage("third").needs() == run.stage("third/a").needs() == ("second/a",)
    run.protectors["none"] = Protector("none", "None", lambda run: no_privacy, "nothing")
    assert run.protector("none").description(run) == "nothing"
    with pytest.raises(PpferError, match="unknown protector 'nun'; known: none"):
        run.protector("nun")


def test_making_and_loading_leave_random_numbers_alone(tmp_path):
    """What a notebook draws after a stage is the same whether the stage was made there, was on disk
    or in memory.
    """

    @stage("noisy", notebook="00")
    class Noisy(First):
        def make(self, folder):
            torch.manual_seed(5)
            return super().make(folder) | {"drawn": float(torch.rand(()))}

        def load(self, folder):
            return float(torch.rand(()))

    run, drawn = at(tmp_path, Noisy), []
    for again in (run, at(tmp_path, Noisy), run):  # made, on disk, in memory
        torch.manual_seed(3)
        again.make("noisy")
        drawn.append(float(torch.rand(())))
    assert len(set(drawn)) == 1


def test_a_stage_that_does_not_fit_the_gpu_says_what_to_change(tmp_path):
    @stage("big", notebook="00")
    class Big(Training):
        trains = "adaptation"

        def make(self, folder):
            raise torch.OutOfMemoryError("CUDA out of memory")

    run = at(tmp_path, Big)
    with pytest.raises(PpferError, match=r"big does not fit .* --set adaptation.batch=16"):
        run.make("big")
    assert not run.has("big")


def test_clips_that_do_not_fit_the_gpu_when_they_are_loaded_say_so(tmp_path):
    @stage("wide", notebook="00")
    class Wide(First):
        def load(self, folder):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(PpferError, match=r"wide does not fit .* --set size=SMALLER"):
        at(tmp_path, Wide).make("wide")


def test_answers_of_named_networks_are_kept(tiny_run):
    said = tiny_run.logits("identity", "protected/none", "test")
    other = coloured_run(tiny_run.config, tiny_run.dir.parent)  # another command, later
    other.tensor = lambda name: pytest.fail(f"{name} is not looked at again")
    assert torch.equal(other.logits("identity", "protected/none", "test"), said)
    net, clips, index = tiny_run.get("identity"), tiny_run.tensor("clips"), tiny_run.parts["test"]
    again = tiny_run.logits(net, clips, index)
    assert torch.equal(again, said)
    assert said.shape == (len(index), 4, 3)  # of every frame; F_u sees whole clips
    assert tiny_run.logits("recognizer/none", "protected/none", "test").shape == (len(index), 6)


def test_several_processes_make_a_whole_run(tmp_path):
    """Every stage under two processes, as ``accelerate launch`` starts them."""
    settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO), "CUDA_VISIBLE_DEVICES": ""}
    launch = "-m torch.distributed.run --standalone --nproc_per_node 2".split()
    ppfer = "-m ppfer run --profile smoke --no-notebooks --runs-dir".split()
    done = subprocess.run(
        [sys.executable, *launch, *ppfer, str(tmp_path)],
        env=os.environ | settings,
        timeout=300,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Grad strides do not match" not in done.stderr  # every gradient lies as its bucket does
    rows = json.loads((tmp_path / "smoke" / "tables" / "main.json").read_text())
    assert [row["plr"]["n"] for row in rows] == [21] * 4
