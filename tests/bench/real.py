"""Re-enactment of real people, attacked and recognised: what ``figures/real`` holds.

    python tests/bench/real.py DIR --out figures/real

DIR holds clips, as `ppfer data` takes them. Rows: the originals, and two ways of re-enacting them.
Beside the suite of Table 1 stands dlib's face recogniser (extra ``landmarks``): it knows
everybody's other clips, and is shown what ``ppfer protect`` writes of the test clips. No picture is
kept.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import common
import dlib
import face_recognition_models as models
import numpy as np

from ppfer.base.files import write_json
from ppfer.base.progress import Progress
from ppfer.cli import main as ppfer
from ppfer.config import load_config
from ppfer.data.index import index
from ppfer.measure import Rate, write_table
from ppfer.run.run import Run
from ppfer.study.attacks.linkage import strangers
from ppfer.study.catalogue import open_run, tables
from ppfer.video import read_video

BASE = ("clips", "split", "identity", "protected/none", "recognizer/none")
ROWS = ("none", "reenactment", "reenactment_neutral")
LOOKS = 4  # frames of a clip that dlib is shown


class Recogniser:
    """dlib's: a video → the mean of what it says of the faces it finds, and how many those are."""

    def __init__(self):
        self.find = dlib.get_frontal_face_detector()
        self.align = dlib.shape_predictor(models.pose_predictor_five_point_model_location())
        self.net = dlib.face_recognition_model_v1(models.face_recognition_model_location())

    def look(self, video: Path) -> tuple[np.ndarray, int]:
        """Its 128 numbers, NaN where no face is found."""
        frames, _ = read_video(video)
        said = []
        for i in np.linspace(0, len(frames) - 1, LOOKS).round().astype(int):
            picture = np.ascontiguousarray(frames[i].permute(1, 2, 0).numpy())
            if faces := self.find(picture, 1):
                face = max(faces, key=lambda found: found.area())
                said.append(self.net.compute_face_descriptor(picture, self.align(picture, face)))
        return np.mean(said, 0) if said else np.full(128, np.nan), len(said)


def looked(recogniser: Recogniser, what: str, paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """What is said of each video, (n, 128), and the number of faces found, (n,)."""
    progress, said = Progress(what, len(paths), "videos"), []
    for path in paths:
        said.append(recogniser.look(path))
        progress.update(len(said))
    return np.stack([one for one, _ in said]), np.array([count for _, count in said])


def named(probes: np.ndarray, known: np.ndarray, test: np.ndarray, actors: np.ndarray) -> Rate:
    """Test clips whose nearest known clip, their own left out, is of the same person."""
    apart = np.linalg.norm(probes[:, None] - known, axis=-1)  # (test clips, all clips)
    apart[np.arange(len(test)), test] = np.inf
    nearest = np.where(np.isnan(apart), np.inf, apart).argmin(1)
    hits = (actors[nearest] == actors[test]) & ~np.isnan(probes[:, 0])
    return Rate(int(hits.sum()), len(test))


def protected(paths: list[Path], folder: Path, approach: str) -> list[Path]:
    """A second of each video, as ``ppfer protect`` writes it."""
    (folder / "in").mkdir()
    for path in paths:
        shutil.copy(path, folder / "in")
    given = ["protect", str(folder / "in"), "--out", str(folder / "out"), "--approach", approach]
    assert ppfer([*given, "--start", "0.5", "--end", "1.5"]) == 0
    return [folder / "out" / path.name for path in paths]


def row(run: Run, name: str) -> dict:
    """An approach under the attackers of Table 1."""
    tables.prepare(run, (name,), ())
    found = tables.whole_row(run, name, more=True)
    return {key: cell for key, cell in found.items() if key != "what_ran"}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    args = parser.parse_args()
    run = open_run(load_config("demo", {"data": args.data, "test": 0.25}), args.runs)
    for name in BASE:
        run.make(name, load=False)
    rows = [row(run, name) for name in ROWS]

    where = index(args.data).table.set_index("clip")["path"]
    paths, test = [Path(where[clip]) for clip in run.table["clip"]], run.parts["test"]
    recogniser, actors = Recogniser(), run.labels("actor")
    known, faces = looked(recogniser, "originals", paths)
    shown = [(known[test], faces[test])]
    for name in ROWS[1:]:
        with tempfile.TemporaryDirectory() as folder:
            made = protected([paths[i] for i in test], Path(folder), name)
            shown.append(looked(recogniser, name, made))
    for cells, (probes, seen) in zip(rows, shown, strict=True):
        cells["outside"] = named(probes, known, test, actors)
        cells["faces_found"] = Rate(int(seen.sum()), LOOKS * len(test))
    for cells in rows:
        cells |= {"people": len(run.classes("actor")), "strangers": len(strangers(run))}
        cells["seeds"] = [run.config.seed]
    write_table(rows, args.out, "live")
    write_json(args.out / "manifest.json", common.publish.made_in(run.dir))


if __name__ == "__main__":
    main()
