"""Re-enactment by a codebook: symbols, their bound, videos in windows, what is refused."""

import math

import pytest
import torch

from ppfer.base.errors import PpferError
from ppfer.base.weights import load_weights, save_weights
from ppfer.cli.caveats import in_short
from ppfer.config import REPO, load_config
from ppfer.data.words import EMOTIONS
from ppfer.measure import Worst
from ppfer.study import catalogue, tables
from ppfer.study.protectors import codebook
from ppfer.study.protectors.codebook import FINEST, FRAMES, NUMBERS, Codebook, answered, bound
from ppfer.study.protectors.codebook_training import donors
from ppfer.twin.acting import actor_specs
from ppfer.twin.people import Actor

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def book():
    """The shipped codebook."""
    return load_weights(Codebook(), REPO / "data" / "codebook.safetensors").eval()


@pytest.fixture(scope="module")
def protector(tmp_path_factory):
    """The protector of a run of nobody's, with the shipped weights."""
    config = load_config("demo", {"codebook_symbols": 24})
    run = catalogue.open_run(config, tmp_path_factory.mktemp("runs"), "cpu")
    return run.protector("codebook").build(run)


def some_numbers(count: int = 12) -> torch.Tensor:
    """Numbers (count, FRAMES, 55) as a reader without an error would read them off strangers."""
    specs = actor_specs(Actor(20_001))[::7][:count]
    return torch.stack([torch.from_numpy(donors(spec)) for spec in specs])


@torch.inference_mode()
def test_a_clip_passes_one_symbol_and_nothing_else(protector):
    """Two clips of one symbol come out the same, pixel for pixel; other clips differ."""
    numbers = some_numbers()
    symbols = protector.book.symbols(numbers, protector.count)
    assert symbols.max() < 24 and len(symbols.unique()) > 2
    clips = torch.rand(4, 8, 3, 32, 32)
    shown, found = protector(clips), protector.symbols(clips)
    for a in range(4):
        for b in range(a):
            assert torch.equal(shown[a], shown[b]) == bool(found[a] == found[b])


def test_fewer_symbols_are_merged_ones(book):
    numbers = some_numbers()
    with torch.inference_mode():
        for count in (6, 24, 96, FINEST):
            centres, shown = book.reduced(count)
            assert centres.shape == (count, codebook.CODE) and shown.max() < FINEST
            assert book.symbols(numbers, count).max() < count
        # most of the donor's own acting falls to a symbol of its own expression
        named = book.expressions(book.symbols(some_numbers(12), 96), 96)
    assert named.min() >= 0 and named.max() < 6


def test_any_length_is_a_clip(book):
    numbers = some_numbers(2)
    with torch.inference_mode():
        assert book(numbers[:, :1].expand(-1, 3, -1)).shape == (2, codebook.CODE)
        assert book.performed(torch.tensor([0, 1]), 6, 5).shape == (2, 5, NUMBERS)
        exact = book.performed(torch.tensor([0]), FINEST, FRAMES)
    torch.testing.assert_close(exact[0], book.performances[0])


def test_no_attacker_passes_the_bound():
    """Any table of how often people show symbols: the best guess is right at most M times as often
    as guessing, and e^ε times with randomised answers.
    """
    g = torch.Generator().manual_seed(0)
    people, symbols, epsilon = 40, 6, 1.0
    for sharpness in (0.1, 1.0, 30.0):
        shows = (sharpness * torch.randn(people, symbols, generator=g)).softmax(1)
        best = float((shows / people).amax(0).sum())
        assert best <= bound(people, symbols) + 1e-6
        keep = math.exp(epsilon) / (math.exp(epsilon) + symbols - 1)
        answers = torch.full((symbols, symbols), (1 - keep) / (symbols - 1))
        answers.fill_diagonal_(keep)
        best = float((shows @ answers / people).amax(0).sum())
        assert best <= bound(people, symbols, epsilon) + 1e-6
    assert bound(91, 96) == 1 and bound(91, 6) == pytest.approx(6 / 91)
    assert bound(1000, 6, clips=2) == pytest.approx(36 / 1000)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    (
        ("codebook", {"codebook_symbols": 96}, "one of 96 symbols; from one of them nobody"),
        ("codebook", {"codebook_symbols": 96}, "more than 0.96 % of 10,000 people"),
        ("codebook", {"codebook_symbols": 24, "codebook_epsilon": 1.0}, "more than 0.027 %"),
        ("codebook_names", {}, "more than 0.06 %"),
    ),
)
def test_the_bound_is_said_beside_what_was_measured(name, given, said, tmp_path, monkeypatch):
    run = catalogue.open_run(load_config("smoke", given), tmp_path)
    monkeypatch.setattr(run, "classes", lambda column: EMOTIONS)
    assert said in in_short(run.protector(name), run)
    assert "bound" not in in_short(run.protector("reenactment"), run)


def test_randomised_answers_keep_the_truth_as_often_as_they_should():
    symbols, names = torch.zeros(4000, dtype=torch.long), [str(i) for i in range(4000)]
    assert torch.equal(answered(symbols, 6, 0.0, names), symbols)
    given = answered(symbols, 6, 1.0, names)
    keep = math.e / (math.e + 5)
    assert abs(float((given == 0).float().mean()) - keep) < 0.03
    counts = torch.bincount(given, minlength=6)[1:]
    assert counts.min() > 0.7 * counts.float().mean()
    assert torch.equal(given, answered(symbols, 6, 1.0, names))


@torch.inference_mode()
def test_a_video_is_performed_in_windows_whatever_its_parts(protector):
    """The same video in other parts is performed alike, and no frame is left without a donor."""
    clip, made = torch.rand(1, 50, 3, 32, 32), []
    for parts in ((16, 16, 16, 2), (25, 25)):
        video = protector.for_video(12.0)
        for part in clip.split(list(parts), 1):
            assert torch.equal(video.first_pass(part, ["v 1"]), part)
        shown = [video.apply(part, ["v 1"]) for part in clip.split(list(parts), 1)]
        made.append(torch.cat(shown, 1))
    assert made[0].shape == (1, 50, 4, 32, 32) and torch.equal(made[0], made[1])
    assert made[0].flatten(2).std(2).min() > 0.01
    short = protector.for_video(30.0)
    short.first_pass(clip[:, :1], ["v 2"])
    assert short.apply(clip[:, :1], ["v 2"]).shape == (1, 1, 4, 32, 32)


def test_a_codebook_of_another_reader_is_refused(tmp_path, book):
    other = Codebook()
    other.load_state_dict(book.state_dict())
    other.probe += 1
    path = save_weights(other, tmp_path / "other.safetensors")
    for setting, value, says in (
        ("weights", path, "learned with another reader"),
        ("symbols", FINEST + 1, f"takes 2 to {FINEST}, not {FINEST + 1}"),
        ("weights", tmp_path / "no", "are not there; fetch them"),
    ):
        config = load_config("demo", {f"codebook_{setting}": str(value)})
        run = catalogue.open_run(config, tmp_path / "runs", "cpu")
        with pytest.raises(PpferError, match=says):
            run.protector("codebook").build(run)


def test_the_worst_attack_says_from_where_with_how_many_clips_and_steps(tiny_run, monkeypatch):
    rows = [
        {"attack": "linear", "steps": 300, "clips": 1, "k": 9, "n": 9},
        {"attack": "symbols counted", "steps": 0, "clips": 16, "k": 2, "n": 2},
    ]
    tiny_run.ensure("attack_linear/none")
    held, got = tiny_run.has, tiny_run.get
    monkeypatch.setattr(tiny_run, "has", lambda n: n == "within/none" or held(n))
    monkeypatch.setattr(tiny_run, "get", lambda n: rows if n == "within/none" else got(n))
    monkeypatch.setattr(tables, "suite", lambda run: {})
    monkeypatch.setattr(tables, "measure_leakage", lambda *a, **b: {"clip": Worst(0, 9, "")})
    monkeypatch.setattr(tables, "leak", lambda *a: {"clip": Worst(0, 9, "")})
    assert tables.worst_leakage(tiny_run, "none").attack == "from within: linear, 300 steps"
    assert tables.worst_leakage(tiny_run, "none", 16).attack == "from within: symbols counted"
    rows.clear()
    assert tables.worst_leakage(tiny_run, "none", 16) is None  # nobody has as many clips
