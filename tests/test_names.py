"""A codebook of names of expressions: what it learns, what passes, what is refused."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SMALL, coloured_run

from ppfer.base.errors import PpferError
from ppfer.base.weights import load_weights
from ppfer.config import REPO, load_config
from ppfer.data.words import EMOTIONS
from ppfer.study.protectors import codebook, names
from ppfer.study.protectors.codebook import FINEST, NUMBERS, Codebook
from ppfer.twin.head import load_head

K = len(EMOTIONS)


def moving(people: int = 8, takes: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Numbers (N, 8, 55) of people who show each expression in their own way, who and which."""
    g = torch.Generator().manual_seed(0)
    means, own = torch.randn(K, NUMBERS, generator=g), torch.randn(people, NUMBERS, generator=g)
    who, which = (
        x.flatten().repeat(takes)
        for x in torch.meshgrid(torch.arange(people), torch.arange(K), indexing="ij")
    )
    noise = torch.randn(len(who), 8, NUMBERS, generator=g)
    return 0.6 * means[which][:, None] + 4.0 * own[who][:, None] + noise, who, which


def test_own_means_take_off_what_is_read_of_a_person_throughout():
    numbers, who, which = moving()
    known = who < 4
    said = names.scores(names.ridge(numbers[known], which[known], K), numbers)
    own = names.own_means(said, who)
    assert torch.equal(own[who == 5], own[who == 5][:1].expand(3 * K, -1))
    torch.testing.assert_close((said - own)[who == 5].mean(0), torch.zeros(K), atol=1e-5, rtol=0)
    new = ~known
    raw, calibrated = ((s.argmax(1) == which)[new].float().mean() for s in (said, said - own))
    assert calibrated > 0.9 > raw + 0.1


@pytest.fixture(scope="module")
def protector():
    """On the shipped performances, reading names off the first six numbers."""
    weights = torch.zeros(5 * NUMBERS, K)
    weights[:K] = torch.eye(K)
    learned = {"mean": torch.zeros(5 * NUMBERS), "scale": torch.ones(5 * NUMBERS)}
    book = load_weights(Codebook(), REPO / "data" / "codebook.safetensors").eval()
    puppet = SimpleNamespace(read=lambda clips, passes: clips[..., 0, 0, :NUMBERS])
    own = {"a": torch.zeros(K), "b": torch.eye(K)[2]}
    return names.NamesReenactment(puppet, book, learned | {"weights": weights}, EMOTIONS, own.get)


def showing(expression: int, count: int = 1) -> torch.Tensor:
    """Clips (count, 4, 1, 1, 64) whose numbers speak for an expression."""
    clips = torch.zeros(count, 4, 1, 1, 64)
    clips[..., expression] = 0.8
    return clips


@torch.inference_mode()
def test_a_name_passes_and_nothing_else(protector):
    for expression in range(K):
        (named,) = protector.symbols(showing(expression), ["a"]).tolist()
        (row,) = protector._drawn_of(torch.tensor([named]), ["a"])
        assert named == expression and protector.book.named[row] == expression
    # what is there in all clips of a person does not count
    assert protector.symbols(showing(2), ["b"]).tolist() == [0]
    # a name of a clip draws the same performance, and several are drawn
    some = protector._drawn_of(torch.full((40,), 3), [str(i) for i in range(40)])
    assert some == protector._drawn_of(torch.full((40,), 3), [str(i) for i in range(40)])
    assert len(set(some)) > 3
    shown = protector(showing(3, 2).expand(-1, -1, 3, 8, -1), ["a", "a"])
    assert shown.shape == (2, 4, 3, 8, 64) and torch.equal(shown[0], shown[1])


def test_a_long_video_is_read_beside_its_own_mean(protector):
    windows = torch.zeros(names.WINDOWS, 4, NUMBERS)
    windows[:, :, 1], windows[0, :, 4] = 0.9, 0.5  # throughout, and once
    names_of = [f"v 1 {i}" for i in range(len(windows))]
    rows = protector.answer(windows, names_of)
    assert protector.book.named[rows[0]] == 4
    # of a shorter one, nothing is known of what is usual
    rows = protector.answer(windows[:3], names_of[:3])
    assert protector.book.named[rows].tolist() == [1, 1, 1]


@pytest.fixture
def run(tmp_path):
    """One of coloured clips, whose faces the shipped reader reads badly."""
    return coloured_run(load_config("demo", SMALL), tmp_path)


def test_a_run_learns_its_names(run, monkeypatch):
    protector = run.protector("codebook_names")
    with pytest.raises(PpferError, match="clips"):
        protector.build(run)  # nothing is there to learn from
    for name in ("clips", "split", "regressor", "codebook"):
        run.ensure(name)
    built = protector.build(run)
    assert isinstance(built, codebook.CodebookReenactment) and built.count == FINEST
    symbols, count = names.protected_symbols(run, "codebook_names")
    assert count == K and len(symbols) == len(run.table) and symbols.max() < K
    run.ensure("protected/codebook_names")
    clips = np.asarray(run.tensor("protected/codebook_names"))
    told = [run.table["clip"][i] for i in (0, 20)]
    rows = built._drawn_of(symbols[[0, 20]], told)
    again = torch.stack([built.drawn(row, *clips.shape[1:2], *clips.shape[-2:]) for row in rows])
    assert np.array_equal(clips[[0, 20]], again.mul(255).round().byte().numpy())


@torch.inference_mode()
def test_what_no_stranger_of_the_codebook_showed_is_performed_too(protector):
    """DFEW's surprise; the codebook it is added to stays as it is."""
    assert names.with_more(protector.book, EMOTIONS) is protector.book
    book = names.with_more(protector.book, (*EMOTIONS, "surprise"))
    learned = protector.learned | {"weights": torch.eye(5 * NUMBERS)[:, : K + 1]}
    seven, own = (*EMOTIONS, "surprise"), torch.zeros(K + 1)
    wide = names.NamesReenactment(protector.puppet, book, learned, seven, lambda name: own)
    assert wide.symbols(showing(K), ["a"]).tolist() == [K] and wide.kinds == len(seven)
    rows = wide._drawn_of(torch.full((40,), K), [str(i) for i in range(40)])
    assert len(set(rows)) > 3 and min(rows) >= FINEST == len(protector.book.performances)
    brows = list(load_head("cpu").model["action_names"]).index("browInnerUp")
    shown, others = (
        book.performances[r].amax(1)[:, brows].mean() for r in (rows, wide.performances[3])
    )
    assert shown > others + 0.3
    assert wide(showing(K).expand(-1, -1, 3, 8, -1), ["a"]).shape == (1, 4, 3, 8, 64)
