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

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppfer import nets
from ppfer.base.device import single_thread_pool
from ppfer.protect import VideoProtector
from ppfer.run import fast
from ppfer.run.clips import twin_origin
from ppfer.run.run import Run
from ppfer.run.stage import Protector
from ppfer.study.protectors import landmarker, regressor
from ppfer.twin.acting import HARD, HARD_LIMIT, LIMIT
from ppfer.twin.head import draw, load_head
from ppfer.twin.people import DONOR, Actor, appearance, seeded
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
DONOR_FACE = (0.27, 0.23, 0.74, 0.88)  # a `Finder`'s box of the donor, shares of the picture
# The donor's face at rest looks cross: the corners of the mouth fall, the brows are low. In a video
# these actions are added, so that he is calm where nothing is done.
CALM = {"mouthSmile": 0.3, "browInnerUp": 0.4, "browOuterUp": -0.2}
REST = 0.2  # share of a clip's frames in which an action is weaker than what counts as rest
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
            offset hides; a reader without a spread gets none.
        find: where faces are in clips (B, T, 3, S, S) uint8, see `ppfer.video.faces.surest`; the
            reader is shown the `view_square` of them. None: heads are framed as those it learned
            from.
        neutral: show all clips the same face at `rest`, so that what is misread of a person
            throughout goes; every expression held through a clip goes with it. Of a video it must
            know the whole.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        offset: float = 0.0,
        neutral: bool = False,
        find: Callable[[Tensor], np.ndarray] | None = None,
    ):
        super().__init__()
        self.reader, self.offset, self.neutral, self.find = reader, offset, neutral, find

    def forward(self, clips: Tensor) -> Tensor:
        """Whole clips (B, T, 3, H, W) in [0, 1], redrawn."""
        return redrawn(self.numbers(clips), *clips.shape[-2:])

    def for_video(self, rate: float) -> VideoProtector:
        """As it protects a video of `rate` frames per second; neutral, it reads all of it first."""
        video = ReenactedVideo(self, smoothing_passes(rate))
        first_pass = video.first_pass if self.neutral else None
        return VideoProtector(
            video.apply, video.context, view_square, first_pass, figure_square=figure_square
        )

    def read(self, clips: Tensor, passes: tuple[int, int] = PASSES) -> Tensor:
        """What the reader says of clips, (B, T, 55), actions and pose smoothed `passes` times."""
        seen = clips
        if self.find:
            seen = face_crops(clips, self.find(clips.float().mul(255).round().byte()))
        read = self.reader(seen.flatten(0, 1)).float().to(clips.device)
        read = landmarker.bridged(read.unflatten(0, clips.shape[:2]))
        split = read.split((regressor.NUMBERS - 3, 3), -1)
        return torch.cat([smoothed(part, p) for part, p in zip(split, passes, strict=True)], -1)

    def numbers(self, clips: Tensor) -> Tensor:
        """All that is let through of whole clips: (B, T, 55).

        A clip's offset is drawn for its first frame, so that protecting it again gives the same.
        """
        read = self.read(clips)
        names = first_frame_names(clips[:, 0]) if self.offset else ()
        return self.let_through(read - rest(read) if self.neutral else read, names)

    def let_through(self, read: Tensor, names: Sequence[str]) -> Tensor:
        """Numbers (B, T, 55) with the offsets of B names, within what a face can do."""
        spread = getattr(self.reader, "spread", None)
        if self.offset and spread is not None:
            # standard normal numbers that a name stands for
            shift = np.stack([seeded(name).normal(size=read.shape[-1]) for name in names])
            read = read + self.offset * spread * torch.as_tensor(shift).to(read)[:, None]
        return clamped_to_a_face(read)


@dataclass(frozen=True)
class ReenactedVideo:
    """Re-enactment of one video, in parts; a face's parts have one name and get one offset."""

    reenactment: Reenactment
    passes: tuple[int, int]  # how often actions and pose are smoothed, see `smoothing_passes`
    # what was read of each name in the first pass, 110 bytes a frame
    first_read: dict[str, list[Tensor]] = field(default_factory=dict)

    @property
    def context(self) -> int:
        """Frames before and after those that are asked for, over which it smooths."""
        return max(self.passes)

    def first_pass(self, clips: Tensor, names: Sequence[str]) -> Tensor:
        """Reads clips (B, T, 3, H, W) and keeps what it read; they come back as they are."""
        for name, read in zip(names, self.reenactment.read(clips, self.passes), strict=True):
            self.first_read.setdefault(name, []).append(read.half().cpu())
        return clips

    @functools.cached_property
    def at_rest(self) -> dict[str, Tensor]:
        """What the numbers of each name are at rest, (1, 55), once all of the video was read."""
        whole = {name: torch.cat(parts).float() for name, parts in self.first_read.items()}
        return {name: rest(numbers) for name, numbers in whole.items()}

    def apply(self, clips: Tensor, names: Sequence[str]) -> Tensor:
        """Clips (B, T, 3, S, S) in [0, 1] to `figures`; their `context` comes back empty."""
        numbers = self.reenactment.read(clips, self.passes)
        if self.reenactment.neutral:
            still = rest(numbers)  # (B, 1, 55)
            for own, name in zip(still, names, strict=True):
                own[:] = self.at_rest.get(name, own)
            numbers = numbers - still
        asked = slice(self.context, clips.shape[1] - self.context)
        drawn = figures(self.reenactment.let_through(numbers, names)[:, asked], clips.shape[-1])
        return F.pad(drawn, (0,) * 6 + (self.context,) * 2)


# --- what is read -----------------------------------------------------------------


def smoothing_passes(rate: float) -> tuple[int, int]:
    """How often actions and pose of a video of `rate` frames per second are smoothed: as `PASSES`
    says of clips of a run, or more.

    Clips of a run have about six frames a second, between which a face can do anything; a video's
    thirty show a trembling that is the reader's. A pass has a standard deviation of √½ frames.
    """
    of_video = min(MOST, round(2 * (MOMENT * rate) ** 2))
    moves, pose = PASSES
    return max(moves, of_video), max(pose, of_video)


def view_square(box: np.ndarray) -> np.ndarray:
    """The square (4,) of a picture that the reader is shown for a face's box (4,)."""
    return head_square(box, NEAR, RISE)


def face_crops(clips: Tensor, faces: np.ndarray) -> Tensor:
    """The `view_square` of the faces of clips (B, T, 3, S, S) in [0, 1], as large as the regressor
    sees frames.

    Args:
        faces: (B, T, 5) as `ppfer.video.faces.surest` finds them. One that was missed is taken to
            be where the clip's others are; of a clip without any, the whole picture is shown.
    """
    squares = np.tile(np.float32([0, 0, 1, 1]), (*faces.shape[:2], 1))
    for square, found in zip(squares, faces[..., :4], strict=True):
        there = ~np.isnan(found[:, 0])
        if there.any():
            usual = np.median(found[there], axis=0)
            boxes = np.where(there[:, None], found, usual)
            square[:] = [view_square(box) for box in boxes]
    start, end = torch.as_tensor(squares, device=clips.device).flatten(0, 1).split(2, 1)
    frames = clips.flatten(0, 1).float()
    seen = regressor.cut_out(frames, end - start, start + end - 1)
    return seen.unflatten(0, clips.shape[:2])


def smoothed(numbers: Tensor, passes: int) -> Tensor:
    """Numbers (B, T, K) under (1 2 1) / 4 over time, `passes` times; the ends are repeated."""
    for _ in range(passes):
        padded = torch.cat([numbers[:, :1], numbers, numbers[:, -1:]], 1)
        numbers = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    return numbers


def rest(numbers: Tensor) -> Tensor:
    """Numbers (..., T, 55) at rest, (..., 1, 55): lowest actions, and the median of the pose."""
    ordered, last = numbers.sort(-2).values, numbers.shape[-2] - 1
    low, middle = (ordered[..., [int(share * last)], :] for share in (REST, 0.5))
    return torch.cat([low[..., :-3], middle[..., -3:]], -1)


def clamped_to_a_face(numbers: Tensor) -> Tensor:
    """Numbers (..., 55) within what a face can do."""
    limits = [HARD_LIMIT if name.startswith(HARD) else LIMIT for name in actions()]
    high = numbers.new_tensor([*limits, TURN, TURN, TURN])
    return numbers.clamp(high.new_tensor([0.0] * len(limits) + [-TURN] * 3), high)


# --- what is drawn ----------------------------------------------------------------


def redrawn(numbers: Tensor, height: int, width: int) -> Tensor:
    """The donor with numbers (B, T, 55): clips (B, T, 3, height, width) in [0, 1]."""
    side = max(height, width)
    drawn = _drawn(numbers, side)
    top, left = (side - height) // 2, (side - width) // 2
    return drawn[..., top : top + height, left : left + width]


def figures(numbers: Tensor, side: int) -> Tensor:
    """The donor with numbers (B, T, 55) and without a ground, as a video is to show him: (B, T, 4,
    side, side) in [0, 1], colour times coverage, and coverage.
    """
    return _drawn(numbers + calm().to(numbers), side, alone=True)


def _drawn(numbers: Tensor, side: int, **how: bool) -> Tensor:
    """The donor with numbers (B, T, 55) as `draw_donor` draws him: (B, T, C, side, side)."""
    flat = numbers.flatten(0, 1)  # (B·T, 55)
    each = functools.partial(draw_donor, side=side, **how)
    if flat.device.type != "cpu":
        drawn = torch.cat([each(part) for part in flat.split(max(1, ROOM // side**2))])
    else:
        at_once = 4 if side >= LARGE else 2  # as when rows were published: another rounds otherwise
        with single_thread_pool() as pool:
            drawn = torch.cat(list(pool.map(each, flat.split(at_once))))
    return drawn.unflatten(0, numbers.shape[:2])


def figure_square(box: np.ndarray) -> np.ndarray:
    """The square (4,) that a figure fills, for a face's box (4,) that the donor's is to equal."""
    left, top, right, bottom = box[:4]
    side = max(right - left, bottom - top) / (DONOR_FACE[3] - DONOR_FACE[1])
    x = (left + right) / 2 - (DONOR_FACE[0] + DONOR_FACE[2]) / 2 * side
    y = (top + bottom) / 2 - (DONOR_FACE[1] + DONOR_FACE[3]) / 2 * side
    return np.array([x, y, x + side, y + side], np.float32)


@functools.cache
def calm() -> Tensor:
    """What is added to the numbers of a figure, (55,), see `CALM`."""
    plain = [name.removesuffix("Left").removesuffix("Right") for name in actions()]
    return torch.tensor([*(CALM.get(name, 0.0) for name in plain), 0.0, 0.0, 0.0])


@torch.inference_mode()
def draw_donor(numbers: Tensor, side: int, alone: bool = False) -> Tensor:
    """The donor with numbers (N, 55): (N, 3, side, side) in [0, 1]; `alone`, without a ground: (N,
    4, side, side), colour times coverage and coverage.
    """
    device, count, large = numbers.device, len(numbers), side >= LARGE
    shape, lamp, ground = _stage(device)
    ground = ground * (not alone)  # before black, colour comes times coverage
    still = numbers.new_tensor([0, 0, SCALE]).expand(count, -1)
    fine = round(FINE * side) if large else side
    drawn = draw(
        load_head(device),
        *shape,
        torch.zeros(count, dtype=torch.long, device=device),
        numbers[:, :-3],
        torch.cat([numbers[:, -3:], still], 1),
        lamp,
        ground,
        fine,
        1 if large else 2,
    )
    if large:
        drawn = drawn if device.type == "cpu" else drawn.float()  # a GPU shrinks no bytes
        drawn = F.interpolate(drawn, (side, side), mode="bilinear", antialias=True)
    return drawn[:, : 3 + alone].float() / 255


@functools.cache
def _stage(device: torch.device) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    """The donor's head as `draw` takes it, the lamp (1, 9) and the background (1, 3, 1, 1)."""
    shape = tuple(torch.as_tensor(part[None], device=device) for part in appearance(Actor(DONOR)))
    lamp = torch.tensor([LAMP], device=device)
    lamp[:, :3] = F.normalize(lamp[:, :3])
    return shape, lamp, torch.tensor(GROUND, device=device).view(1, 3, 1, 1)


def first_frame_names(frames: Tensor) -> list[str]:
    """Names of frames (B, 3, H, W) by their pixels, the same at any precision."""
    pixels = frames.float().mul(255).round().to(torch.uint8).cpu()
    return [hashlib.sha256(frame.numpy().tobytes()).hexdigest() for frame in pixels]


# --- the protector ----------------------------------------------------------------


def reader_of(run: Run) -> Reader:
    """Who reads faces in a run: the landmarker if its config says so, the regressor that it made,
    or the one whose weights its config names; a `PpferError` when those are not there.
    """
    if run.config.reader == "mediapipe":
        return landmarker.Landmarker(landmarker.task_path(run.config))
    if run.has("regressor"):
        return run.get("regressor")
    net = nets.freeze(regressor.shipped(regressor.Regressor(), run.config).to(run.device))
    return fast.prepare(net, run.device)


def finds(run: Run) -> bool:
    """Whether faces are looked for before the run's reader is shown them: the twin's are framed as
    the crowd is, and the landmarker looks for itself.
    """
    return not twin_origin(run.config) and run.config.reader == "regressor"


def build(run: Run, *, neutral: bool = False) -> Reenactment:
    """The re-enactment of a run; raises as `reader_of` does."""
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
    size=SIDE,
    version=4,
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
