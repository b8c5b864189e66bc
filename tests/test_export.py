"""A protector leaves its run in one file: it does the same elsewhere, says what it leaked, and
holds nothing of anybody.
"""

import json
import re
from pathlib import Path

import pytest
import torch
from conftest import SMALL, coloured_clips, coloured_run
from safetensors import safe_open

from ppfer.base.errors import PpferError
from ppfer.base.files import write_json
from ppfer.cli import main
from ppfer.config import REPO, load_config
from ppfer.run.exported import ExportedRun
from ppfer.study import catalogue

VIDEO = min((REPO / "data" / "twin" / "VideoMP4").glob("*.mp4"))
LIVE = {"live.steps": 3, "live.batch": 4, "live.evals": 1, "name": "exporting"}
LIVE["tradeoff.steps"] = 2  # so that no other test has trained it
LEAKED = [
    {"approach": title, "validator": "retrained", "random_frame": frame, "clip": clip}
    for title, frame, clip in (
        ("PPFER (C)", {"k": 7, "n": 24}, {"k": 19, "n": 24}),
        ("another", {"k": 24, "n": 24}, {"k": 24, "n": 24}),
    )
]

BEYOND = {"approach": "Live controllers", "plr_worst": {"k": 9, "n": 24, "attack": "a"}}
BEYOND |= {"plr_worst_16": {"k": 3, "n": 3, "attack": "b"}}


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="module")
def run(tiny_run):
    """The same run under a name of its own, with live controllers and a table of leakage."""
    run = coloured_run(load_config("smoke", SMALL | LIVE), tiny_run.dir.parent)
    run.make("live")
    write_json(run.dir / "tables" / "leakage.json", LEAKED)
    write_json(run.dir / "tables" / "live.json", [BEYOND])
    return run


@pytest.fixture
def call(run, monkeypatch):
    """The command line where the run is, or where there is none."""

    def call(*words, here=True) -> int:
        monkeypatch.setattr(catalogue, "open_run", (lambda *_: run) if here else None)
        return main(list(map(str, words)))

    return call


@pytest.fixture
def file(call, tmp_path) -> Path:
    """PPFER (C), exported."""
    assert call("export", "--approach", "ppfer", "--out", tmp_path / "c.safetensors") == 0
    return tmp_path / "c.safetensors"


def said(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


@pytest.mark.parametrize("name", ["enhanced", "ppfer", "live"])
def test_a_file_gives_the_bytes_that_its_run_gives(name, call, tmp_path, capsys):
    file, made = tmp_path / "p.safetensors", []
    assert call("export", "--approach", name, "--out", file) == 0
    capsys.readouterr()
    for here, which in ((True, ("--approach", name)), (False, ("--weights", file))):
        out = tmp_path / f"here {here}"
        words = ("protect", VIDEO, "--out", out, "--frame", "whole", "--exact", *which)
        assert call(*words, here=here) == 0
        printed = capsys.readouterr().out
        assert json.loads(said(file)["caveat"]) in printed and "trained on 3 people" in printed
        made.append((out / VIDEO.name).read_bytes())
    assert made[0] == made[1]


def test_a_codebook_of_names_leaves_without_what_is_known_of_its_people(run, call, tmp_path):
    file = tmp_path / "n.safetensors"
    assert call("export", "--approach", "codebook_names", "--out", file) == 0
    theirs = ExportedRun(file, catalogue.STAGES, catalogue.PROTECTORS, {})
    ours, there = (r.protector("codebook_names").build(r) for r in (run, theirs))
    numbers, names = torch.rand(9, 16, 55), list("abcdefghi")
    assert torch.equal(ours.answer(numbers, names), there.answer(numbers, names))
    assert (ours.puppet.find is None) == (there.puppet.find is None)
    assert "own" in ours.learned and "own" not in there.learned


def test_the_file_says_what_leaked(file):
    about = {key: json.loads(value) for key, value in said(file).items() if key != "sha256"}
    assert about["leakage"] == LEAKED[:1]
    for text in (about["leakage_text"], about["card"], about["caveat"]):
        assert "worst attacker (clip): 79.2 % (19/24" in text
    assert about["versions"]["torch"] == torch.__version__


def test_what_leaked_beyond_the_papers_measure_is_said_too(call, tmp_path, capsys):
    assert call("export", "--approach", "live", "--out", tmp_path / "l.safetensors") == 0
    assert json.loads(said(tmp_path / "l.safetensors")["leakage"]) == [BEYOND]
    assert "by the worst attack from 16 clips of a person: 100.0 % (3/3" in capsys.readouterr().out


def test_the_file_holds_nothing_of_anybody(run, file):
    _, table = coloured_clips()
    text = json.dumps(said(file))
    words = set(re.findall(r"\w+", text))
    assert not words & {*table["actor"], *table["clip"], "exporting"}
    assert str(REPO) not in text and str(run.dir.parent) not in text
    with safe_open(file, "pt") as there:
        held = set(there.keys())
    needs = run.protector("ppfer").needs
    assert held == {f"{need}:{key}" for need in needs for key in run.get(need).state_dict()}


@pytest.mark.parametrize(
    "alter",
    [
        lambda made: made[:-1] + bytes([made[-1] ^ 1]),
        lambda made: made.replace(b"(19/24", b"(11/24"),
        lambda made: made.replace(b"privacy:low", b"privacy:lov"),
    ],
    ids=["a weight", "a number in its card", "a name of a tensor"],
)
def test_an_altered_file_is_refused(alter, file, call, tmp_path, capsys):
    before = file.read_bytes()
    file.write_bytes(alter(before))
    assert file.read_bytes() != before
    assert call("protect", VIDEO, "--out", tmp_path / "o", "--weights", file, here=False) == 2
    assert "was altered after it was written" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("export --approach reenactment --out NEW", "reenactment needs no export"),
        ("export --approach solid --out NEW", "solid needs no export"),
        ("export --approach none --out NEW", "none needs no export"),
        ("protect VIDEO --out NEW --approach none", "none hides nothing"),
        ("export --approach mean --out NEW", "stands on split, which is about a run's clips"),
        ("export --approach tradeoff --out NEW", "was not trained in"),
        ("export --approach pffer --out NEW", "did you mean 'ppfer'?"),
        ("export --approach ppfer --out FILE", "is there; give another name"),
        ("protect VIDEO --out NEW --weights PLAIN", "is no protector that `ppfer export`"),
        ("protect VIDEO --out NEW --weights NEW", "there is no weights file at"),
        ("protect VIDEO --out NEW --weights VIDEO", "cannot be read as weights"),
        ("protect VIDEO --out NEW --weights FILE --approach live", "leave out --approach"),
        ("protect VIDEO --out NEW --weights FILE --set size=32", "brings its approach"),
    ],
)
def test_what_cannot_be_is_a_sentence(words, sentence, run, call, file, tmp_path, capsys):
    plain = run.folder("privacy") / "weights.safetensors"
    places = {"NEW": tmp_path / "new", "FILE": file, "PLAIN": plain, "VIDEO": VIDEO}
    assert call(*(places.get(word, word) for word in words.split())) == 2
    error = capsys.readouterr().err
    assert error.startswith("ppfer: ") and sentence in error
    assert not places["NEW"].exists()


# --- on other data ----------------------------------------------------------------


def importing(file: Path | str, place: Path, **more: object):
    """A run whose rows have the protector of a file."""
    return coloured_run(load_config("smoke", SMALL | {"imported": str(file)} | more), place)


def test_a_protector_is_attacked_on_clips_it_was_not_trained_on(run, call, file, tmp_path):
    """Here the clips are the same, so that what it makes of them is known."""
    other = importing(file, tmp_path / "runs")
    for name in ("clips", "split", "identity"):
        other.make(name)
    for name in ("protected/imported", "attack/imported"):
        other.ensure(name)
    shown, meant = (r.tensor(f"protected/{n}") for r, n in ((other, "imported"), (run, "ppfer")))
    assert torch.equal(shown.cpu(), meant.cpu())
    assert "trained on other data: PPFER (C)" in other.protector("imported").description(other)
    # another file is another protector
    assert call("export", "--approach", "enhanced", "--out", tmp_path / "g.safetensors") == 0
    assert importing(tmp_path / "g.safetensors", tmp_path).key("imported") != other.key("imported")


def test_a_file_that_does_not_fit_these_clips_is_refused(file, call, tmp_path):
    other = importing(file, tmp_path / "runs", size=32)
    other.ensure("imported")
    with pytest.raises(PpferError, match="pictures of 16 pixels.*--set size=16"):
        other.protector("imported").build(other)
    nothing = importing("", tmp_path / "runs")
    assert not nothing.has("within/imported")
    with pytest.raises(PpferError, match="not said: --set imported=FILE, from ppfer export"):
        nothing.ensure("imported")
    names = tmp_path / "n.safetensors"
    assert call("export", "--approach", "codebook_names", "--out", names) == 0
    other = importing(names, tmp_path / "runs")
    other.ensure("imported")
    with pytest.raises(PpferError, match="has to know the clips it was trained on"):
        other.protector("imported").build(other)
