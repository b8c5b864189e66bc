"""Re-enactment by a codebook: what passes is chosen from a list, and nobody's own way of moving is
on it.

How somebody moves is who he is, so a protector that passes movement on passes on who moves. Here
an encoder takes a clip's numbers (a reader's, see `ppfer.study.protectors.reenactment`) to a code,
and the code to the nearest of M symbols. A symbol stands for a performance of the *donor's*: what
is drawn is a clip that the donor acted, and nothing of the one who was filmed but which of the M it
was. With M symbols no attacker, whatever he knows, is right more than M times as often as by
guessing (`bound`); how often one really is, `ppfer.study.attacks.within` measures.

The encoder learns from synthetic strangers who act CREMA-D's clips: to name the expression, to tell
what the donor would have done in the same clip, and to hide from two adversaries whose clip it was.
`codebook_training` has the stages; `data/codebook.md` is the model card of the shipped weights.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppfer import nets
from ppfer.base.errors import PpferError
from ppfer.protect import VideoProtector
from ppfer.run.run import Run
from ppfer.run.stage import Protector
from ppfer.study.protectors import reenactment, regressor
from ppfer.twin.people import seeded

FRAMES = 16  # of a clip as the encoder sees it, and of a performance
WINDOW, HOP = 2.0, 1.0  # s of a video that one symbol stands for, and from one symbol to the next
READ = FRAMES / WINDOW  # frames a second that are read of a video
NUMBERS = regressor.NUMBERS
CODE, HIDDEN = 16, 384  # numbers of a code; width of the encoder
FINEST = 384  # symbols kept in the weights: fewer are made by merging them
REACH = 2.0  # a code lies within ± this
ROUNDS = 30  # of k-means
PROBES, ALIKE = 4, 0.1  # pictures of the donor; how far two readings of them may be apart


class Codebook(nn.Module):
    """Numbers (B, T, 55) of clips to symbols (B,), and symbols to the donor's numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Flatten(),
            nn.Linear(FRAMES * NUMBERS, HIDDEN), nn.ReLU(), nn.Dropout(0.2),
            nn.Linear(HIDDEN, HIDDEN), nn.ReLU(),
            nn.Linear(HIDDEN, CODE),
        )  # fmt: skip
        shapes = {
            "mean": (NUMBERS,),
            "std": (NUMBERS,),
            "centres": (FINEST, CODE),  # codes that symbols stand for
            "share": (FINEST,),  # of the strangers' clips that fell to each
            "performances": (FINEST, FRAMES, NUMBERS),  # the donor's own, in a clip near to each
            "named": (FINEST,),  # index of the expression that most of these clips show
            "probe": (PROBES, NUMBERS),  # what the reader it learned with says of him, see `probe`
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.full(shape, float(name == "std")))

    def forward(self, numbers: Tensor) -> Tensor:
        """Codes (B, CODE) of clips of any length, as numbers (B, T, 55)."""
        seen = resampled(numbers.float(), FRAMES)
        return REACH * self.encoder((seen - self.mean) / self.std).tanh()

    @functools.cache  # noqa: B019  a codebook lives as long as its run
    def reduced(self, symbols: int) -> tuple[Tensor, Tensor]:
        """The codebook cut down to so many symbols: their centres (M, CODE) and, of each, the one
        of the FINEST whose performance it shows (M,).
        """
        if symbols == FINEST:
            return self.centres, torch.arange(len(self.performances), device=self.centres.device)
        centres, _ = kmeans(self.centres, self.share, symbols)
        return centres, torch.cdist(centres, self.centres).argmin(1)

    def symbols(self, numbers: Tensor, count: int) -> Tensor:
        """Which of `count` symbols clips fall to: (B, T, 55) → (B,)."""
        return torch.cdist(self(numbers), self.reduced(count)[0]).argmin(1)

    def performed(self, symbols: Tensor, count: int, frames: int) -> Tensor:
        """What the donor does for symbols (B,) of `count`: numbers (B, frames, 55)."""
        return resampled(self.performances[self.reduced(count)[1][symbols]], frames)

    def expressions(self, symbols: Tensor, count: int) -> Tensor:
        """The expression each symbol (B,) of `count` is named after, indices of `EMOTIONS`."""
        return self.named[self.reduced(count)[1][symbols]].long()


def resampled(numbers: Tensor, frames: int) -> Tensor:
    """Numbers (B, T, 55) at so many moments, evenly spread over the same time."""
    if numbers.shape[1] == frames:
        return numbers
    return F.interpolate(numbers.mT, frames, mode="linear", align_corners=True).mT


def kmeans(points: Tensor, weights: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Weighted k-means (Lloyd 1982) of points (N, D) with weights (N,), which begins with some that
    are drawn with one seed: centres (count, D), and of each point its nearest (N,).
    """
    g = torch.Generator().manual_seed(0)
    chances, few = weights.float().cpu().clamp(min=1e-9), len(points) < count
    start = torch.multinomial(chances, count, replacement=few, generator=g)
    centres = points[start.to(points.device)].clone()
    for _ in range(ROUNDS):
        own = torch.cdist(points, centres).argmin(1)
        sums = torch.zeros_like(centres).index_add_(0, own, points * weights[:, None])
        mass = torch.zeros_like(centres[:, 0]).index_add_(0, own, weights)
        centres = torch.where(mass[:, None] > 0, sums / mass[:, None].clamp(min=1e-9), centres)
    return centres, torch.cdist(points, centres).argmin(1)


# --- what no attacker passes ------------------------------------------------------


def answered(symbols: Tensor, count: int, epsilon: float, names: list[str]) -> Tensor:
    """k-ary randomised response (Kairouz et al. 2016): each symbol (B,) is kept with probability
    e^ε / (e^ε + M − 1), else replaced by any other; the same name draws the same answer.
    """
    if not epsilon:
        return symbols
    keep = 1 / (1 + (count - 1) * math.exp(-epsilon))
    given = []
    for symbol, name in zip(symbols.tolist(), names, strict=True):
        rng = seeded(f"answer {name}")
        other = (symbol + int(rng.integers(1, count))) % count
        given.append(symbol if rng.random() < keep else other)
    return symbols.new_tensor(given)


def bound(people: int, symbols: int, epsilon: float = 0.0, clips: int = 1) -> float:
    """The share of clips that no attacker names more of, among equally likely people.

    Of M symbols one is seen: min-entropy leakage is at most log M (Smith 2009), so whoever sees it
    is right at most M times as often as by guessing; with randomised answers at most e^ε times. Of
    n clips: the n-th power of either.
    """
    once = min(symbols, math.exp(epsilon)) if epsilon else symbols
    return min(1.0, once**clips / people)


# --- the protector ------------------------------------------------------------------


class CodebookReenactment(nn.Module):
    """Clips (B, T, 3, H, W) in [0, 1] to the donor's performances, of the same shape: the puppet
    reads faces, so many symbols of the book pass, with answers that `epsilon` randomises, see
    `answered`.
    """

    def __init__(
        self, puppet: reenactment.Reenactment, book: Codebook, symbols: int, epsilon: float = 0.0
    ):
        super().__init__()
        if not 2 <= symbols <= FINEST:
            raise PpferError(f"codebook_symbols takes 2 to {FINEST}, not {symbols}")
        self.puppet, self.book, self.count, self.epsilon = puppet, book, symbols, epsilon
        self.kinds = symbols  # how many there are to tell apart

    def forward(self, clips: Tensor) -> Tensor:
        symbols = self.symbols(clips).tolist()
        return torch.stack([self.drawn(s, clips.shape[1], *clips.shape[-2:]) for s in symbols])

    @functools.cache  # noqa: B019  there are few symbols, and drawing takes longest
    def drawn(self, symbol: int, frames: int, height: int, width: int) -> Tensor:
        """A symbol's performance: (frames, 3, height, width) in [0, 1]."""
        symbols = torch.tensor([symbol], device=self.book.centres.device)
        done = self.book.performed(symbols, self.count, frames)
        return reenactment.redrawn(done, height, width)[0]

    def symbols(self, clips: Tensor, names: Sequence[str] = ()) -> Tensor:
        """All that is let through of whole clips (B, T, 3, H, W): one symbol each, (B,)."""
        names = reenactment.first_frame_names(clips[:, 0]) if self.epsilon else ()
        return self.answer(self.puppet.read(clips, (0, 0)), names)

    def answer(self, numbers: Tensor, names: Sequence[str]) -> Tensor:
        """The symbols (B,) of numbers (B, T, 55); `names` draw the randomised answers."""
        found = self.book.symbols(numbers, self.count)
        return answered(found, self.count, self.epsilon, names)

    def for_video(self, rate: float) -> VideoProtector:
        """As it protects a video of `rate` frames per second, all of which it reads first."""
        video = PerformedVideo(self, rate)
        return VideoProtector(
            video.apply,
            0,
            reenactment.view_square,
            video.first_pass,
            figure_square=reenactment.figure_square,
        )


@dataclass(frozen=True)
class PerformedVideo:
    """One video: a symbol for every `WINDOW`, a new one every `HOP`, blended into each other."""

    protector: CodebookReenactment
    rate: float  # frames per second
    # of each name: what was read of every `every`-th frame in the first pass, and how many frames
    # went by in the first and in the second
    read: dict[str, list[Tensor]] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    shown: dict[str, int] = field(default_factory=dict)

    @property
    def every(self) -> int:
        """Of so many frames one is read."""
        return max(1, round(self.rate / READ))

    def first_pass(self, clips: Tensor, names: Sequence[str]) -> Tensor:
        """Reads clips (B, T, 3, H, W), parts in their order; they come back as they are."""
        for clip, name in zip(clips, names, strict=True):
            before = self.seen.get(name, 0)
            wanted = clip[-before % self.every :: self.every]  # (t, 3, H, W)
            self.seen[name] = before + len(clip)
            if len(wanted):
                numbers = self.protector.puppet.read(wanted[None], (0, 0))[0]
                self.read.setdefault(name, []).append(numbers.cpu())
        return clips

    @functools.cached_property
    def performances(self) -> dict[str, Tensor]:
        """What the donor does for each name, all the way through: numbers (frames, 55)."""
        return {name: self._performed(name, torch.cat(parts)) for name, parts in self.read.items()}

    def _performed(self, name: str, numbers: Tensor) -> Tensor:
        frames, rate = self.seen[name], self.rate / self.every
        # a window that begins every HOP, the last one where the video ends
        size = min(len(numbers), max(2, round(WINDOW * rate)))
        step = max(1, round(HOP * rate))
        starts = sorted({*range(0, len(numbers) - size, step), len(numbers) - size})
        windows = torch.stack([numbers[at : at + size] for at in starts])  # (W, size, 55)
        symbols = self.protector.answer(windows, [f"{name} {at}" for at in starts])
        length = min(frames, size * self.every)
        done = self.protector.book.performed(symbols, self.protector.count, length)
        # windows fade into each other; where one stands alone it counts whole
        fade = torch.hann_window(length + 2, periodic=False)[1:-1, None].clamp(min=1e-3)
        total, weight = torch.zeros(frames, NUMBERS), torch.zeros(frames, 1)
        for at, performance in zip(starts, done.cpu(), strict=True):
            begin = min(at * self.every, frames - length)
            total[begin : begin + length] += fade * performance
            weight[begin : begin + length] += fade
        # after the last window the donor stays as he is
        last = int(weight.squeeze(1).nonzero().max())
        total[last + 1 :], weight[last + 1 :] = total[last], weight[last]
        return total / weight

    def apply(self, clips: Tensor, names: Sequence[str]) -> Tensor:
        """Clips (B, T, 3, S, S) in [0, 1], parts in their order, performed by figures."""
        parts = []
        for clip, name in zip(clips, names, strict=True):
            begin = self.shown.get(name, 0)
            self.shown[name] = begin + len(clip)
            whole = self.performances[name]
            rows = torch.arange(begin, begin + len(clip)).clamp(max=len(whole) - 1)
            parts.append(whole[rows])
        return reenactment.figures(torch.stack(parts).to(clips), clips.shape[-1])


def probe(reader: reenactment.Reader, device: torch.device) -> Tensor:
    """What a reader says of the donor, (PROBES, 55): another reader, or donor, gives another."""
    numbers = torch.zeros(PROBES, NUMBERS, device=device)
    for row in range(PROBES):
        numbers[row, row:-3:PROBES] = 0.5
    drawn = reenactment.redrawn(numbers[None], regressor.SIDE, regressor.SIDE)[0]
    with torch.inference_mode():
        return reader(drawn).float()


def build(run: Run) -> CodebookReenactment:
    """The codebook of a run that has made one, else with the weights its config names; a
    `PpferError` when they are not there, or learned with another reader or donor.
    """
    made = run.has("codebook")
    config, puppet = run.config, reenactment.build(run)
    book = run.get("codebook") if made else regressor.shipped(Codebook(), config, "codebook")
    book = book.to(run.device)
    if (probe(puppet.reader, run.device) - book.probe).abs().max() > ALIKE:
        raise PpferError(
            f"the codebook {config.codebook_weights or run.dir / 'codebook'} learned with another "
            "reader, or for another donor: its symbols would mean something else; train it for "
            "this one with --set codebook_weights="
        )
    return CodebookReenactment(
        puppet, nets.freeze(book), config.codebook_symbols, config.codebook_epsilon
    )


PROTECTOR = Protector(
    "codebook",
    "Re-enactment by a codebook",
    build,
    lambda run: (
        f"one of {run.config.codebook_symbols} performances of the donor, the nearest in a code "
        "that was learned from synthetic strangers"
    ),
    needs=("regressor", "codebook"),
    settings=("codebook_symbols", "codebook_epsilon"),
    notebook="11",
    size=reenactment.SIDE,
    version=2,
    symbols=lambda run: (run.config.codebook_symbols, run.config.codebook_epsilon),
    missing=reenactment.PROTECTOR.missing,
)
