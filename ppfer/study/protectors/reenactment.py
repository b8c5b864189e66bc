"""Re-enactment: what a face does, drawn on a donor's head. Nothing else of it gets through.

A reader takes 55 numbers off every frame; they are redrawn on one synthetic donor under constant
light, before a constant background, at a constant place. Whatever an attacker is to learn of the
person must pass through those numbers. A person can read the result, unlike clips that only a
network was left to read.

Any reader will do: a callable from frames (N, 3, H, W) in [0, 1] to numbers (N, 55), the 52 facial
actions in the head model's order (`actions()`: ARKit's blend shapes, 0 at rest, 1 fully there) and
the head's yaw, pitch and roll in rad. Yaw is positive towards the subject's left, pitch downwards,
roll counter-clockwise as one sees it. Where it finds no face it says NaN, and that is bridged. The
shipped `regressor` is one, MediaPipe's `landmarker` another.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppfer import nets
from ppfer.base.device import lone_threads
from ppfer.method.clips import twin_origin
from ppfer.run import Run, fast
from ppfer.run.stage import Protector
from ppfer.study.protectors import landmarker, regressor
from ppfer.twin.acting import HARD, HARD_LIMIT, LIMIT
from ppfer.twin.head import draw, load_head
from ppfer.twin.people import DONOR, Actor, appearance
from ppfer.video.faces import finder_missing, head_square, surest

Reader = Callable[[Tensor], Tensor]  # frames (N, 3, H, W) → numbers (N, 55)

SIDE = 256  # pixels at which `ppfer protect` draws heads
TURN = 0.8  # rad; a reader that says more is not believed
# A square round a face, as `head_square` takes it, in which heads are as large as the crowd's. Of
# real people's whole heads, with all their hair or scarf, a reader sees too little of the face.
NEAR, RISE = 0.68, 0.13
# Of the actions and the pose. What is misread of a pose changes from frame to frame, and a head
# that trembles seems to laugh; smoothing actions would take expression from them.
PASSES = (0, 1)
MOMENT, MOST = 0.03, 2  # s: in a video nothing changes faster; and so many passes are enough
SCALE = 1.0  # the donor is as large as people in front of a green screen
LAMP = (0.36, 0.34, 0.87, 0.80, 0.80, 0.80, 0.34, 0.34, 0.34)  # as `ppfer.twin.head.draw` takes it
GROUND = (0.06, 0.30, 0.11)  # linear light: a green screen, which anything can be put behind
REST = 0.2  # share of a clip's frames in which an action is weaker than what counts as rest
TYPICAL = 0.25  # root mean square of a lively clip's movements, for `even`
FINE = 1.25  # large pictures are drawn this much larger and shrunk; small ones with 2 × 2 samples
LARGE = 160  # pixels from which a picture is large
ROOM = 2**23  # pixels drawn at a time on a GPU


def actions() -> list[str]:
    """The 52 facial actions in the order of a reader's numbers."""
    return list(load_head(torch.device("cpu")).action)


class Reenactment(nn.Module):
    """Clips (B, T, 3, H, W) in [0, 1] to the donor moving alike, of the same shape.

    Args:
        reader: see the module's docstring.
        offset: strength of a constant added to all numbers of a clip, drawn with the deviation
            ``reader.spread``: that of the reader's mean error from person to person, which such an
            offset hides; 0 adds nothing, and a reader without a spread gets none. Runs say
            ``config.reenactment_offset``.
        find: where faces are in clips (B, T, 3, S, S) uint8, see `ppfer.video.faces.surest`; the reader
            is shown the `sight` of them. None: heads are framed as those it learned from.
        neutral: show all clips the same face at `rest`, so that what is misread of a person
            throughout goes; every expression held through a clip goes with it. It needs whole
            clips; of those that it was shown while `listening` it knows the rest by name.
        even: give all clips the same strength of movement, so that how lively somebody is does not
            show; it needs whole clips.
        passes: how often the actions, and how often the pose, are smoothed over time, see
            `smoothed`.
        donor: number of the twin's actor who is shown.

    Attributes:
        rate: frames per second of a video, see `ppfer.video.heads`; 0 for clips of a run.
        faceless: how many clips it was shown in which its reader found no face at all; the donor
            rests in them.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        offset: float = 0.0,
        neutral: bool = False,
        even: bool = False,
        find: Callable[[Tensor], np.ndarray] | None = None,
        passes: tuple[int, int] = PASSES,
        donor: int = DONOR,
    ):
        super().__init__()
        self.passes, self.rate, self.faceless = passes, 0.0, 0
        self.reader, self.offset, self.find, self.donor = reader, offset, find, Actor(donor)
        self.neutral, self.even = neutral, even
        # numbers by name while listening, 110 bytes a frame; what they are at rest (55,) afterwards
        self.heard: dict[str, list[Tensor]] | None = None
        self.at_rest: dict[str, Tensor] = {}

    def forward(self, clips: Tensor, names: Sequence[str] | None = None) -> Tensor:
        """The clips redrawn.

        Args:
            clips: (B, T, 3, H, W) in [0, 1].
            names: of the B clips; those of one name get the same offset, as the parts of a video
                must. None: each is named by its first frame, so that protecting it again gives the
                same.
        """
        if self.heard is not None:
            for name, part in zip(names, self.read(clips), strict=True):
                self.heard.setdefault(name, []).append(part.half().cpu())
            return clips
        numbers = self.numbers(clips, names)
        aside = self.context if self.rate else 0
        wanted = numbers[:, aside : len(numbers[0]) - aside]
        height, width = clips.shape[-2:]
        side = max(height, width)
        drawn = self.drawn(wanted.flatten(0, 1), side)  # (B·wanted, 3, side, side)
        top, left = (side - height) // 2, (side - width) // 2
        drawn = drawn[..., top : top + height, left : left + width]
        return F.pad(drawn.unflatten(0, wanted.shape[:2]), (0,) * 6 + (aside,) * 2)

    @property
    def steadying(self) -> tuple[int, int]:
        """How often actions and pose are smoothed: `passes`, or more in a video.

        Clips of a run have about six frames a second, between which a face can do anything; a
        video's thirty show a trembling that is the reader's. A pass has a standard deviation of √½
        frames.
        """
        of_video = min(MOST, round(2 * (MOMENT * self.rate) ** 2))
        moves, pose = self.passes
        return max(moves, of_video), max(pose, of_video)

    @property
    def context(self) -> int:
        """Frames that it wants to see before and after those it is asked for; in a video they come
        back black.
        """
        return max(self.steadying)

    @staticmethod
    def sight(box: np.ndarray) -> np.ndarray:
        """The square (4,) of a picture that the reader is shown for a face's box (4,)."""
        return head_square(box, NEAR, RISE)

    @property
    def whole(self) -> bool:
        """Whether it wants to be shown a whole video, while `listening`, before it begins."""
        return self.neutral

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Within it clips come back as they are; afterwards it knows how those of a name are at
        rest, and of earlier ones no more.
        """
        self.heard = {}
        try:
            yield
            heard = {name: torch.cat(parts).float() for name, parts in self.heard.items()}
            self.at_rest = {name: rest(numbers)[0] for name, numbers in heard.items()}
        finally:
            self.heard = None

    def read(self, clips: Tensor) -> Tensor:
        """What the reader says of clips, steadied: (B, T, 55)."""
        seen = clips
        if self.find:
            seen = framed(clips, self.find(clips.float().mul(255).round().byte()))
        read = self.reader(seen.flatten(0, 1)).float().to(clips.device)
        read, faceless = landmarker.bridged(read.unflatten(0, clips.shape[:2]))
        self.faceless += faceless
        moves, pose = read.split((regressor.NUMBERS - 3, 3), -1)
        often, oftener = self.steadying
        return torch.cat([smoothed(moves, often), smoothed(pose, oftener)], -1)

    def numbers(self, clips: Tensor, names: Sequence[str] | None = None) -> Tensor:
        """All that is let through of clips: (B, T, 55)."""
        numbers = self.read(clips)
        if self.neutral:
            still = rest(numbers)
            for own, name in zip(still, names or (), strict=False):
                own[:] = self.at_rest.get(name, own)
            numbers = numbers - still
        if self.even:
            numbers = evened(numbers)
        spread = getattr(self.reader, "spread", None)
        if self.offset and spread is not None:
            names = _named(clips[:, 0]) if names is None else names
            shift = torch.stack([_normal(name) for name in names]).to(numbers)  # (B, 55)
            numbers = numbers + self.offset * spread * shift[:, None]
        return believed(numbers)

    def drawn(self, numbers: Tensor, side: int) -> Tensor:
        """The donor with numbers (N, 55): frames (N, 3, side, side) in [0, 1]."""
        each = functools.partial(draw_donor, self.donor, side=side)
        if numbers.device.type != "cpu":
            return torch.cat([each(part) for part in numbers.split(max(1, ROOM // side**2))])
        # as many as when rows were published: another number rounds otherwise
        at_once = 4 if side >= LARGE else 2
        with lone_threads() as pool:
            return torch.cat(list(pool.map(each, numbers.split(at_once))))


def framed(clips: Tensor, faces: np.ndarray) -> Tensor:
    """The `Reenactment.sight` of the faces of clips.

    Args:
        clips: (B, T, 3, S, S) in [0, 1].
        faces: (B, T, 5) as `ppfer.video.faces.surest` finds them. One that was missed is taken to be
            where the clip's others are; of a clip without any, the whole picture is shown.

    Returns:
        (B, T, 3, SIDE, SIDE) in [0, 1], with the regressor's SIDE.
    """
    squares = np.tile(np.float32([0, 0, 1, 1]), (*faces.shape[:2], 1))
    for square, found in zip(squares, faces[..., :4], strict=True):
        there = ~np.isnan(found[:, 0])
        if there.any():
            usual = np.median(found[there], axis=0)
            boxes = np.where(there[:, None], found, usual)
            square[:] = [Reenactment.sight(box) for box in boxes]
    left, top, right, bottom = torch.as_tensor(squares, device=clips.device).flatten(0, 1).T
    zero = torch.zeros_like(left)
    rows = [right - left, zero, left + right - 1, zero, bottom - top, top + bottom - 1]
    theta = torch.stack(rows, 1).view(-1, 2, 3)
    size = [len(theta), 3, regressor.SIDE, regressor.SIDE]
    grid = F.affine_grid(theta, size, align_corners=False)
    frames = clips.flatten(0, 1).float()
    seen = F.grid_sample(frames, grid, padding_mode="border", align_corners=False)
    return seen.unflatten(0, clips.shape[:2])


def smoothed(numbers: Tensor, passes: int) -> Tensor:
    """Numbers (B, T, K) under (1 2 1) / 4 over time, `passes` times; the ends are repeated."""
    for _ in range(passes):
        padded = torch.cat([numbers[:, :1], numbers, numbers[:, -1:]], 1)
        numbers = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    return numbers


def rest(numbers: Tensor) -> Tensor:
    """What numbers (..., T, 55) are at rest, (..., 1, 55): actions in their lowest frames, the pose
    at its median.
    """
    ordered, last = numbers.sort(-2).values, numbers.shape[-2] - 1
    low, middle = (ordered[..., [int(share * last)], :] for share in (REST, 0.5))
    return torch.cat([low[..., :-3], middle[..., -3:]], -1)


def evened(numbers: Tensor) -> Tensor:
    """Numbers (B, T, 55) whose 52 actions move as strongly in every clip; its mean stays."""
    moves, rest = numbers[..., :-3], numbers[..., -3:]
    mean = moves.mean(1, keepdim=True)
    strength = (moves - mean).square().sum(-1).mean(1).sqrt()[:, None, None]
    moves = mean + (moves - mean) * TYPICAL / strength.clamp(min=TYPICAL / 4)
    return torch.cat([moves, rest], -1)


def believed(numbers: Tensor) -> Tensor:
    """Numbers (..., 55) within what a face can do."""
    limits = [HARD_LIMIT if name.startswith(HARD) else LIMIT for name in actions()]
    high = numbers.new_tensor([*limits, TURN, TURN, TURN])
    return numbers.clamp(high.new_tensor([0.0] * len(limits) + [-TURN] * 3), high)


@torch.inference_mode()
def draw_donor(donor: Actor, numbers: Tensor, side: int) -> Tensor:
    """The donor with numbers (N, 55): (N, 3, side, side) in [0, 1]."""
    device, count, large = numbers.device, len(numbers), side >= LARGE
    shape, lamp, ground = _stage(donor, device)
    still = numbers.new_tensor([0, 0, SCALE]).expand(count, -1)
    fine = round(FINE * side) if large else side
    drawn = draw(
        load_head(device),
        *shape,
        torch.zeros(count, dtype=torch.long, device=device),
        numbers[:, :-3],
        torch.cat([numbers[:, -3:], still], 1),
        lamp,
        ground.expand(count, -1, fine, fine),
        fine,
        1 if large else 2,
    )[:, :3].float()
    if large:
        drawn = F.interpolate(drawn, (side, side), mode="bilinear", antialias=True)
    return drawn / 255


@functools.cache
def _stage(donor: Actor, device: torch.device) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    """The donor's head as `draw` takes it, the lamp (1, 9) and the background (1, 3, 1, 1)."""
    shape = tuple(torch.as_tensor(part[None], device=device) for part in appearance(donor))
    lamp = torch.tensor([LAMP], device=device)
    lamp[:, :3] = F.normalize(lamp[:, :3])
    return shape, lamp, torch.tensor(GROUND, device=device).view(1, 3, 1, 1)


def _named(frames: Tensor) -> list[str]:
    """Names of frames (B, 3, H, W) by their pixels, the same at any precision."""
    pixels = frames.float().mul(255).round().to(torch.uint8).cpu()
    return [hashlib.sha256(frame.numpy().tobytes()).hexdigest() for frame in pixels]


def _normal(name: str) -> Tensor:
    """Standard normal numbers (55,) that a name stands for."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    drawn = np.random.default_rng(seed).normal(size=regressor.NUMBERS)
    return torch.as_tensor(drawn, dtype=torch.float32)


# --- the protector ----------------------------------------------------------------


def reader_of(run: Run) -> Reader:
    """Who reads faces in a run: the landmarker if its config says so, the regressor that it made,
    or the one whose weights its config names.

    Raises:
        PpferError: when they are not there.
    """
    if run.config.reader == "mediapipe":
        return landmarker.Landmarker(landmarker.task_path(run.config))
    if run.has("regressor"):
        return run.get("regressor")
    net = nets.freeze(regressor.shipped(run.config).to(run.device))
    return fast.prepare(net, run.device)


def finds(run: Run) -> bool:
    """Whether faces are looked for before the run's reader is shown them: the twin's are framed as
    the crowd is, and the landmarker looks for itself.
    """
    return not twin_origin(run.config) and run.config.reader == "regressor"


def build(run: Run, *, neutral: bool = False) -> Reenactment:
    """The re-enactment of a run.

    Raises:
        PpferError: see `reader_of`.
    """
    offset = 0.0 if neutral else run.config.reenactment_offset  # neutral, nothing is left to hide
    find = surest if finds(run) else None
    return Reenactment(reader_of(run), offset=offset, find=find, neutral=neutral)


def missing(run: Run) -> str:
    """What a run's reader cannot do without."""
    if run.config.reader == "mediapipe":
        return landmarker.missing(run.config)
    return finder_missing() if finds(run) else ""


PROTECTOR = Protector(
    "reenactment",
    "Re-enactment",
    build,
    "52 facial actions and the pose, read by a network trained on synthetic strangers, redrawn on "
    "one donor",
    needs=("regressor",),
    settings=("reenactment_offset", "reader"),
    notebook="11",
    side=SIDE,
    version=3,
    missing=missing,
)

NEUTRAL = replace(
    PROTECTOR,
    name="reenactment_neutral",
    title="Re-enactment, neutral",
    build=functools.partial(build, neutral=True),
    what_ran="the same, and what is done all through a clip is not shown",
    settings=("reader",),
)
