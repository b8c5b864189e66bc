"""Where the faces of a video were, frame by frame: for a second pass, and for whoever checks."""

import json
import math
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ppfer.base.files import atomic
from ppfer.video.faces import Head

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
