"""A codebook whose symbols are names of expressions, learned from a run's own labels.

The shipped codebook (`ppfer.study.protectors.codebook`) learned from synthetic strangers, and real
people move otherwise. Where clips have labels, a linear reader of a clip's statistics names the
expression, and the donor acts a performance of that name, drawn among several: which one tells
nothing. Whoever is read as angry whatever they do would be known by it, so the mean score of each
person's clips is taken off before the highest gives the name; no label goes into that. It needs
many clips: calibrated on few, the offset is a fingerprint itself. Stage: names.
"""

import copy
import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ppfer import nets
from ppfer.base.weights import save_tensors
from ppfer.data.words import DFEW_EMOTIONS, EMOTIONS, SENTENCES
from ppfer.measure import accuracy
from ppfer.run.clips import by_clip, counted
from ppfer.run.run import Run
from ppfer.run.stage import Protector, Stage, stage
from ppfer.study.protectors import codebook, reenactment
from ppfer.study.protectors.codebook_training import donors
from ppfer.twin.acting import ClipSpec
from ppfer.twin.people import DONOR, Actor

QUANTILES = (0.2, 0.5, 0.8)
FLAT = 3.0  # ridge's penalty, in mean eigenvalues of the features' covariance
LEAST = 1e-3  # added to every deviation: some of the landmarker's actions never move
WINDOWS = 8  # of a video, from which on its own mean score is taken off
VARIED = 8  # performances of a name that are drawn among, those most strangers' clips fell to
# what the donor performs: what the codebook's strangers, who act CREMA-D's clips, showed, and more
PERFORMED = tuple(dict.fromkeys((*EMOTIONS, *DFEW_EMOTIONS)))


def statistics(numbers: Tensor) -> Tensor:
    """Mean, deviation and quantiles of clips' numbers (N, T, K): (N, 5 K)."""
    at = torch.quantile(numbers, numbers.new_tensor(QUANTILES), 1)  # (3, N, K)
    return torch.cat([numbers.mean(1), numbers.std(1), *at], 1)


def ridge(numbers: Tensor, labels: Tensor, classes: int) -> dict[str, Tensor]:
    """Ridge regression of labels (n,) on `statistics` of numbers (n, T, 55), in its dual form for
    clips are few: "mean" and "scale" of the features (D,), and "weights" (D, classes).
    """
    given = statistics(numbers).double()
    mean, scale = given.mean(0), given.std(0, correction=0) + LEAST
    features = (given - mean) / scale
    wanted = torch.eye(classes, device=given.device).double()[labels] - 1 / classes
    gram = features @ features.T
    flat = FLAT * gram.diagonal().mean() * torch.eye(len(gram), device=given.device)
    weights = features.T @ torch.linalg.solve(gram + flat, wanted)
    learned = {"mean": mean, "scale": scale, "weights": weights}
    return {key: tensor.float() for key, tensor in learned.items()}


def scores(learned: dict[str, Tensor], numbers: Tensor) -> Tensor:
    """What `ridge` has learned says of clips' numbers (B, T, 55): (B, classes)."""
    return (statistics(numbers.float()) - learned["mean"]) / learned["scale"] @ learned["weights"]


def own_means(said: Tensor, people: Tensor) -> Tensor:
    """The mean score of each clip's person: (N, K) of scores (N, K) and people (N,), 0 to P − 1."""
    sums = said.new_zeros(int(people.max()) + 1, said.shape[1]).index_add_(0, people, said)
    return (sums / people.bincount()[:, None])[people]


# --- the stage --------------------------------------------------------------------


@stage("names", needs=("clips", "split", "regressor"), settings=("reader",), notebook="11")
class Names(Stage):
    """What names expressions in a run's clips, learned from its training part, and the mean score
    of each clip's person.
    """

    of_people = ("own",)  # serves the run's clips alone, and leaves it in no export

    def make(self, folder: Path) -> dict:
        run, classes = self.run, self.run.classes("emotion")
        puppet, clips = reenactment.build(run), run.tensor("clips")
        pixels = (part.to(run.device).float() / 255 for part in clips.split(16))
        with torch.inference_mode():
            read = (puppet.read(part, (0, 0)).cpu() for part in pixels)
            parts = [*counted(read, self.name, len(clips))]
        numbers, truth = torch.cat(parts), torch.as_tensor(run.labels("emotion"))
        train, val = (torch.as_tensor(run.parts[key]) for key in ("train", "val"))
        learned = ridge(numbers[train], truth[train], len(classes))
        said = scores(learned, numbers)
        own = own_means(said, torch.as_tensor(run.labels("actor")))
        save_tensors({**learned, "own": own}, folder / "names.safetensors")
        right = accuracy((said - own)[val], truth[val])
        return {"classes": list(classes), "val_named": right.to_dict()}

    def load(self, folder: Path) -> dict[str, Tensor]:
        """What `ridge` learned, and "own" (N, K), the mean score of each clip's person."""
        return self.loaded(load_file(folder / "names.safetensors"))

    def loaded(self, learned: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same on the run's device."""
        return {key: tensor.to(self.run.device) for key, tensor in learned.items()}


# --- the protector ----------------------------------------------------------------


def with_more(book: codebook.Codebook, classes: Sequence[str]) -> codebook.Codebook:
    """A codebook whose donor performs all of these names: a copy with clearly acted performances,
    which no symbol means, of those that none of its strangers showed; itself where there are none.
    """
    others = [name for name in classes if name not in EMOTIONS]
    if not others:
        return book
    specs = [
        ClipSpec(f"{name} {s}", Actor(DONOR), s, name, "HI", codebook.FRAMES, difficulty=0.0)
        for name in others
        for s in list(SENTENCES)[:VARIED]
    ]
    added = {
        "performances": torch.stack([torch.from_numpy(donors(spec)) for spec in specs]),
        "named": torch.tensor([PERFORMED.index(spec.emotion) for spec in specs]),
        "share": torch.zeros(len(specs)),
    }
    book = copy.deepcopy(book)
    for key, more in added.items():
        old = getattr(book, key)
        setattr(book, key, torch.cat([old, more.to(old)]))
    return book


class NamesReenactment(codebook.CodebookReenactment):
    """Clips (B, T, 3, H, W) in [0, 1] and their names to the donor's performances of what they
    express, of the same shape, by what the stage `Names` has learned; `own` gives the mean score
    (K,) of the person in a clip, by the clip's name.
    """

    def __init__(
        self,
        puppet: reenactment.Reenactment,
        book: codebook.Codebook,
        learned: dict[str, Tensor],
        classes: Sequence[str],
        own: Callable[[str], Tensor],
    ):
        super().__init__(puppet, book, codebook.FINEST)
        self.learned, self.own = learned, own
        # of each name the performances that may be drawn, those of most clips first
        ordered = book.share.argsort(descending=True)
        meant = [ordered[book.named[ordered] == PERFORMED.index(name)] for name in classes]
        self.performances = [rows[:VARIED].tolist() for rows in meant]
        self.kinds = len(classes)

    def forward(self, clips: Tensor, names: Sequence[str]) -> Tensor:
        rows = self._drawn_of(self.symbols(clips, names), names)
        return torch.stack([self.drawn(row, clips.shape[1], *clips.shape[-2:]) for row in rows])

    def symbols(self, clips: Tensor, names: Sequence[str] = ()) -> Tensor:
        """All that is let through of whole clips of the run: an expression's index each, (B,)."""
        said = scores(self.learned, self.puppet.read(clips, (0, 0)))
        return (said - torch.stack([self.own(name) for name in names])).argmax(1)

    def answer(self, numbers: Tensor, names: Sequence[str]) -> Tensor:
        """Performances (B,) for numbers (B, T, 55) of all the windows of one face of a video."""
        said = scores(self.learned, numbers.to(self.learned["mean"].device))
        if len(said) >= WINDOWS:
            said = said - said.mean(0)
        return torch.tensor(self._drawn_of(said.argmax(1), names), device=said.device)

    def _drawn_of(self, named: Tensor, names: Sequence[str]) -> list[int]:
        """A performance of each expression (B,); the same clip's name draws the same."""
        rows = []
        for expression, name in zip(named.tolist(), names, strict=True):
            digest = hashlib.sha256(f"performance {name}".encode()).digest()
            choice = self.performances[expression]
            rows.append(choice[int.from_bytes(digest[:8], "little") % len(choice)])
        return rows


def build(run: Run) -> NamesReenactment:
    """The protector of a run, which learns the names first; raises as `codebook.build` does."""
    run.ensure("names")
    shown, learned = codebook.build(run), run.get("names")
    classes = run.summary("names")["classes"]

    @functools.cache
    def by_name() -> dict[str, Tensor]:
        return by_clip(run, learned["own"])

    return NamesReenactment(
        shown.puppet,
        nets.freeze(with_more(shown.book, classes)),
        learned,
        classes,
        lambda name: by_name()[name],
    )


def protected_symbols(run: Run, name: str) -> tuple[Tensor, int] | None:
    """Every clip's symbol (N,) and how many there are; None of a protector without symbols."""
    if name not in (codebook.PROTECTOR.name, PROTECTOR.name):
        return None
    protector, clips, whose = run.protector(name).build(run), run.tensor("clips"), run.table["clip"]
    parts = []
    with torch.inference_mode():
        for at in range(0, len(clips), 32):
            seen = clips[at : at + 32].to(run.device).float() / 255
            parts.append(protector.symbols(seen, list(whose[at : at + 32])))
    return torch.cat(parts).clone(), protector.kinds


PROTECTOR = Protector(
    "codebook_names",
    "Codebook of names",
    build,
    lambda run: (
        "a performance of the expression that a linear reader names, learned from the training "
        "clips' labels, each person's own mean score taken off"
    ),
    needs=("regressor", "codebook", "names"),
    settings=("reader",),
    notebook="11",
    size=reenactment.SIDE,
    version=2,
    learned_here=True,
    named=True,
    # a name; which of its performances tells nothing
    symbols=lambda run: (len(run.classes("emotion")), 0.0),
    missing=reenactment.PROTECTOR.missing,
)
