"""Real people, attacked from outside and from within: what ``figures/real`` holds.

    python tests/bench/real.py DIR --out figures/real [--readers regressor,mediapipe] [--within]
    python tests/bench/real.py DIR --out figures/real --videos

DIR holds clips, as `ppfer data` takes them, with the columns actor, sentence and emotion. No
picture is kept.

``within.json``: attackers who read numbers off what is shown (`within`), on every clip. Known
people are named by holding out each sentence in turn. Expressions are also read of unknown people,
by what was learned from the other half of them, both ways. Of a codebook the attacker holds the
symbols, so no attacker on its pictures can know more. Where its encoder has not seen the people,
naming them is linkage, too: anyone can turn originals of theirs into symbols. `CODEBOOKS` are the
codebooks beside the shipped one; their symbols are names of expressions, learned from the data.

``live.json``: the attackers of Table 1, who learn from pixels, and dlib's face recogniser (extra
``landmarks``) where it is installed: it knows everybody's other clips, and is shown what ``ppfer
protect`` writes of the test clips. ``--within`` leaves this out, which takes longest.

``videos.json``: attackers on the videos that ``ppfer protect --approach codebook`` writes of all
clips, with each sentence held out in turn. They see more than a codebook passes: where the head was
and the scene. The last row is what ``--frame alone`` leaves, and stands in ``within.json``, too.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import common
import numpy as np
import pandas as pd
import torch
from within import ATTACKERS, SOLVED, Names, by_numbers, by_symbols, folds, held_out

from ppfer import nets
from ppfer.base.files import read_json, write_json
from ppfer.base.progress import Progress
from ppfer.cli import main as ppfer
from ppfer.config import load_config
from ppfer.data.index import index
from ppfer.data.words import EMOTIONS
from ppfer.measure import HELD, Rate, Worst, pooled, write_table
from ppfer.run.run import Run
from ppfer.study.attacks.features import Moments, chosen
from ppfer.study.attacks.linkage import strangers
from ppfer.study.attacks.within import TOGETHER, by_clips, counted
from ppfer.study.catalogue import open_run, tables
from ppfer.study.protectors import codebook, names, reenactment
from ppfer.study.protectors.regressor import shipped
from ppfer.study.tables import LINEAR
from ppfer.video import decode_clip, read_video
from ppfer.video.faces import FaceLog
from ppfer.video.heads import ProtectOptions
from ppfer.video.plan import fingerprint
from ppfer.video.protect_files import protect_files

BASE = ("clips", "split", "identity", "protected/none", "recognizer/none")
ROWS = ("none", "reenactment", "reenactment_neutral", "codebook")
LOOKS = 4  # frames of a clip that dlib is shown
FRAMES = 16  # of a clip, whose numbers are read
BACK = 48  # of a clip, whose numbers are read back off the donor: with 16 an attacker names fewer
PLACE = "where the head is and how large"
MOVES = "how it moves about, its mean place and size taken off"
PERFORMED, LENGTH = "the performances, one a second", "its length, and how often no face was found"
ALONE, OF_VIDEO = "these two together", "what its video shows, and its length"
NAMED, READ = "names acted, read by", "the expression named most often, read by"
IN_VIDEOS = f"{names.PROTECTOR.title}, in videos"
BY_LENGTH = "a linear layer on its length"
SYMBOLS = 96  # of the shipped codebook
CODEBOOKS = {"Codebook of names": Names(), "Codebook of names, clip by clip": Names(own=False)}

# --- from within --------------------------------------------------------------------


def within(table: pd.DataFrame, runs: dict[str, Run]) -> Iterator[dict]:
    """Rows of ``within.json``.

    Args:
        table: of the n clips: path, actor, sentence, emotion.
        runs: one for each reader, by its name.
    """
    people, said, felt = (pd.factorize(table[c])[0] for c in ("actor", "sentence", "emotion"))
    halves = people % 2
    for reader, run in runs.items():
        numbers = read(run, table["path"], f"originals by {reader}")
        shown = {"No privacy preservation": numbers}
        # what MediaPipe says of strengths is no good for drawing a donor
        for name in ROWS[1:3] if reader == "regressor" else ():
            protector, title = run.protector(name).build(run), run.protector(name).title
            shown[title] = read_back(protector, table["path"], f"{title} by {reader}")
        for title, seen in shown.items():
            together = torch.zeros(())
            for attack in (SOLVED, *ATTACKERS):
                named = held_out(by_numbers(attack, seen, people), people, said)
                together = together + named
                yield from rows(title, reader, attack, named, people)
                for split, by in (("known", said), ("unknown", halves)):
                    named = held_out(by_numbers(attack, seen, felt), felt, by).argmax(1).numpy()
                    yield cell(title, reader, split, "expression", attack, 1, named == felt)
            yield from rows(title, reader, TOGETHER, together, people)

        # the shipped codebook, which learned from no person and with the regressor alone
        if reader == "regressor":
            yield from shipped_rows(run, numbers, table, people, said)
        for title, learner in CODEBOOKS.items():
            for split, by in (("known", said), ("unknown", halves)):
                names = np.empty(len(table), int)
                for learned, held in folds(by):
                    names[held] = learner.learn(numbers, people, felt, learned)[held]
                named = held_out(by_symbols(names, people), people, said)
                yield from rows(title, reader, "symbols counted", named, people, split)
                yield cell(title, reader, split, "expression", "as named", 1, names == felt)


def shipped_rows(
    run: Run, numbers: np.ndarray, table: pd.DataFrame, people: np.ndarray, said: np.ndarray
) -> Iterator[dict]:
    """Rows of the shipped codebook, clip by clip."""
    protector = run.protector("codebook").build(run)
    for count in (6, protector.count):
        with torch.inference_mode():
            symbols = protector.book.symbols(torch.as_tensor(numbers), count)
            named = protector.book.expressions(symbols, count).numpy()
        title = f"{run.protector('codebook').title}, {count} symbols"
        guessed = held_out(by_symbols(symbols.numpy(), people), people, said)
        yield from rows(title, "regressor", "symbols counted", guessed, people, "unknown")
        right = np.array(EMOTIONS)[named] == table["emotion"].to_numpy()
        yield cell(title, "regressor", "unknown", "expression", "as named", 1, right)


def rows(
    title: str, reader: str, attack: str, named: torch.Tensor, people: np.ndarray, split="known"
) -> Iterator[dict]:
    """Who is named, by log-probabilities (n, K), from several numbers of clips."""
    for clips in HELD:
        share = pooled(named, people, clips)
        if share.n:
            hits = np.arange(share.n) < share.k
            yield cell(title, reader, split, "identity", attack, clips, hits)


def cell(
    approach: str, reader: str, split: str, measure: str, attack: str, clips: int, hits: np.ndarray
) -> dict:
    """A row: `split` says whether what names or reads has learned from these people."""
    made = {"approach": approach, "reader": reader, "split": split, "measure": measure}
    made |= {"attack": attack, "clips": clips, "k": int(hits.sum()), "n": len(hits)}
    print(*made.values(), flush=True)
    return made


@torch.inference_mode()
def read(run: Run, paths: pd.Series, what: str) -> np.ndarray:
    """What a run's reader says of originals, (n, FRAMES, 55)."""
    protector = reenactment.build(run)
    return _over(what, paths, FRAMES, lambda clip: protector.read(clip)[0])


@torch.inference_mode()
def read_back(protector: reenactment.Reenactment, paths: pd.Series, what: str) -> np.ndarray:
    """What its reader says of the donor whom a protector shows instead, (n, BACK, 55)."""

    def back(clip: torch.Tensor) -> torch.Tensor:
        side = reenactment.SIDE
        shown = reenactment.redrawn(protector.numbers(clip), side, side)[0]
        said = protector.reader(shown.mul(255).round() / 255)
        return reenactment.landmarker.bridged(said[None])[0]

    return _over(what, paths, BACK, back)


def _over(
    what: str, paths: pd.Series, frames: int, numbers: Callable[[torch.Tensor], torch.Tensor]
) -> np.ndarray:
    progress, said = Progress(what, len(paths), "clips"), []
    for path in paths:
        clip = torch.from_numpy(decode_clip(path, frames, reenactment.SIDE)).float() / 255
        said.append(numbers(clip[None]))
        progress.update(len(said))
    return torch.stack(said).numpy()


# --- from what ``ppfer protect`` writes ---------------------------------------------


class Told(codebook.CodebookReenactment):
    """The codebook, which keeps what it reads: of each name the numbers of its windows."""

    def __init__(self, puppet: reenactment.Reenactment, book: codebook.Codebook):
        super().__init__(puppet, book, SYMBOLS)
        self.windows: dict[str, list[torch.Tensor]] = {}

    def answer(self, numbers: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
        for name, window in zip(names, numbers.cpu(), strict=True):
            self.windows.setdefault(name.rpartition(" ")[0], []).append(window)
        return super().answer(numbers, names)


@dataclass
class Watched:
    """What videos that `Told` has protected show, in their order."""

    seen: list[torch.Tensor] = field(default_factory=list)  # `Moments` of each
    boxes: list[torch.Tensor] = field(default_factory=list)  # (BACK, 3), see `places`
    windows: list[torch.Tensor] = field(default_factory=list)  # (W, T, 55) read of each
    long: list[torch.Tensor] = field(default_factory=list)  # length, its square, faceless frames


def watched(told: Told, paths: pd.Series, what: str) -> Watched:
    """Protect videos, and look at what comes of it."""
    found, options = Watched(), ProtectOptions(reenactment.SIDE, torch.device("cpu"))
    progress = Progress(what, len(paths), "clips")
    with tempfile.TemporaryDirectory() as folder:
        for path in map(Path, paths):
            (made,) = protect_files(told, path, Path(folder), options)
            assert made.state == "written", made
            frames, _ = read_video(made.result)
            found.boxes.append(places(made.tally, frames.shape[-2:]))
            found.seen.append(Moments()(spread(frames)[None].float() / 255)[0])
            own = [f"{fingerprint(path)} {track}" for track in made.tally.tracks]
            found.windows.append(torch.stack(max((told.windows[name] for name in own), key=len)))
            count, without = float(made.tally.frames), made.tally.faceless
            found.long.append(torch.tensor([count, count**2, without]))
            made.result.unlink()
            progress.update(len(found.long))
    return found


def videos(runs: dict[str, Run], table: pd.DataFrame) -> Iterator[dict]:
    """Rows of ``videos.json``: most named by what one sees of a protected video."""
    people, said, felt = (pd.factorize(table[c])[0] for c in ("actor", "sentence", "emotion"))
    for reader, run in runs.items():
        book = nets.freeze(shipped(codebook.Codebook(), run.config, "codebook"))
        found = watched(Told(reenactment.build(run), book), table["path"], f"videos by {reader}")
        given: dict[str, dict[str, Callable]] = {}
        length = {BY_LENGTH: on_features(torch.stack(found.long), people)}
        if reader == "regressor":
            where = torch.stack(found.boxes)  # (n, BACK, 3)
            moves = where - where.mean(1, keepdim=True)
            given["the whole picture"] = {LINEAR: on_features(torch.stack(found.seen), people)}
            for what, numbers in ((PLACE, where), (MOVES, moves)):
                given[what] = on_moments(standing(numbers), people)
            symbols = [book.symbols(windows, SYMBOLS) for windows in found.windows]
            done = [book.performed(s, SYMBOLS, codebook.FRAMES).flatten(0, 1) for s in symbols]
            donor = torch.stack([spread(numbers) for numbers in done])
            shown = {"counted": by_windows([s.tolist() for s in symbols], people)}
            given[PERFORMED] = shown | on_moments(donor.numpy(), people)
            given[LENGTH], given[ALONE] = length, given[PERFORMED] | length
        called = names_of(
            found.windows, read(run, table["path"], f"clips by {reader}"), people, felt
        )
        given[f"{NAMED} {reader}"] = {"counted": by_windows(called, people)}
        given[f"{NAMED} {reader}, and the length"] = given[f"{NAMED} {reader}"] | length
        for what, attacks in given.items():
            tried = {name: held_out(attack, people, said) for name, attack in attacks.items()}
            if len(tried) > 1:
                tried[TOGETHER] = sum(tried.values())
            if {"counted", BY_LENGTH} < tried.keys():
                tried[f"counted, and {BY_LENGTH}"] = tried["counted"] + tried[BY_LENGTH]
            named = [
                {"attack": attack, "clips": clips} | pooled(one, people, clips).to_dict()
                for attack, one in tried.items()
                for clips in HELD
            ]
            yield {"what is seen": what} | by_clips([row for row in named if row["n"]])
        most = np.array([np.bincount(acted).argmax() for acted in called])
        right = int((most == felt).sum())
        yield {"what is seen": f"{READ} {reader}", "1 clip": Worst(right, len(felt), "as shown")}


def names_of(
    windows: list[torch.Tensor], numbers: np.ndarray, people: np.ndarray, felt: np.ndarray
) -> list[list[int]]:
    """What the donor of `names` acts in each video, by what the other half of the people taught,
    whose clips' numbers are (n, T, 55).
    """
    given, wanted, found = torch.as_tensor(numbers), torch.as_tensor(felt), {}
    for known, held in folds(people % 2):
        learned = names.ridge(given[known], wanted[known], int(felt.max()) + 1)
        for row in np.flatnonzero(held):
            said = names.scores(learned, windows[row])
            found[row] = (said - said.mean(0) * (len(said) >= names.WINDOWS)).argmax(1).tolist()
    return [found[row] for row in range(len(windows))]


def of_videos(out: Path) -> list[dict]:
    """Rows of ``within.json``: what ``videos.json`` says of a codebook's symbols, and of names."""
    found = {row["what is seen"]: row for row in read_json(out / "videos.json", [])}
    places = {ALONE: (f"{codebook.PROTECTOR.title}, {SYMBOLS} symbols", "regressor", "identity")}
    for reader in ("regressor", "mediapipe"):
        places[f"{NAMED} {reader}, and the length"] = IN_VIDEOS, reader, "identity"
        places[f"{READ} {reader}"] = IN_VIDEOS, reader, "expression"
    made = []
    for what, (approach, reader, measure) in places.items():
        about = {"approach": approach, "reader": reader, "split": "unknown", "measure": measure}
        for held, cell in found.get(what, {}).items():
            if isinstance(cell, dict):
                tried = {"attack": OF_VIDEO, "clips": int(held.split()[0])}
                made.append(about | tried | {"k": cell["k"], "n": cell["n"]})
    return made


def spread(frames: torch.Tensor) -> torch.Tensor:
    """BACK of frames (T, ...), evenly."""
    return frames[torch.linspace(0, len(frames) - 1, BACK).round().long()]


def places(tally: FaceLog, shape: tuple[int, int]) -> torch.Tensor:
    """Of BACK frames where the largest head's figure is: its middle, shares of the picture's height
    (BACK, 2), and the logarithm of its size (BACK, 1).
    """
    rows = np.full((tally.frames, 3), np.nan)
    for row, heads in zip(rows, tally, strict=True):
        squares = [reenactment.figure_square(head.box) for head in heads if head.sure]
        if squares:
            left, top, right, bottom = max(squares, key=lambda s: s[2] - s[0]) / shape[0]
            row[:] = (left + right) / 2, (top + bottom) / 2, np.log(right - left)
    filled = pd.DataFrame(rows).interpolate(limit_direction="both").to_numpy(np.float32, copy=True)
    return spread(torch.from_numpy(filled))


def on_moments(numbers: np.ndarray, people: np.ndarray) -> dict[str, Callable]:
    """All attackers on numbers over time (n, T, K), for `held_out`."""
    return {name: by_numbers(name, numbers, people) for name in (SOLVED, *ATTACKERS)}


def standing(numbers: torch.Tensor) -> np.ndarray:
    """Numbers (n, T, K), each at mean 0 and deviation 1."""
    return ((numbers - numbers.mean((0, 1))) / numbers.std((0, 1))).numpy()


def on_features(features: torch.Tensor, people: np.ndarray) -> Callable:
    """A linear layer on features (n, D), solved, for `held_out`."""

    def attack(parts: dict[str, torch.Tensor]) -> torch.Tensor:
        rows = {part: index.numpy() for part, index in parts.items()}
        layer = chosen(features, rows, people, torch.ones(int(people.max()) + 1))
        with torch.no_grad():
            return layer(features[parts["test"]]).log_softmax(-1)

    return attack


def by_windows(symbols: list[list[int]], people: np.ndarray) -> Callable:
    """One who counts the symbols of all windows and adds up what each says, for `held_out`."""
    own = torch.tensor([i for i, some in enumerate(symbols) for _ in some])
    shown = torch.tensor([symbol for some in symbols for symbol in some])
    whose = torch.as_tensor(people)[own]

    def attack(parts: dict[str, torch.Tensor]) -> torch.Tensor:
        rows = {k: torch.isin(own, index).nonzero()[:, 0] for k, index in parts.items()}
        said = counted(shown, whose, rows, int(shown.max()) + 1)
        found = torch.zeros(len(symbols), said.shape[1])
        return found.index_add_(0, own[rows["test"]], said)[parts["test"]]

    return attack


# --- from outside -------------------------------------------------------------------


class Recogniser:
    """dlib's: a video → the mean of what it says of the faces it finds, and how many those are."""

    def __init__(self):
        import dlib
        import face_recognition_models as models

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


def protected(paths: list[Path], folder: Path, approach: str, reader: str) -> list[Path]:
    """A second of each video, as ``ppfer protect`` writes it."""
    (folder / "in").mkdir()
    for path in paths:
        shutil.copy(path, folder / "in")
    given = ["protect", str(folder / "in"), "--out", str(folder / "out"), "--approach", approach]
    given += ["--start", "0.5", "--end", "1.5", "--set", f"reader={reader}"]
    assert ppfer(given) == 0
    return [folder / "out" / path.name for path in paths]


def row(run: Run, name: str) -> dict:
    """An approach under the attackers of Table 1."""
    tables.prepare(run, (name,), ())
    found = tables.whole_row(run, name, more=True)
    made = {key: one for key, one in found.items() if key != "what_ran"}
    return made | {"reader": run.config.reader}


def outside(run: Run, table: pd.DataFrame, names: tuple[str, ...]) -> list[dict]:
    """Rows of ``live.json``: approaches under the attackers of Table 1 and dlib's recogniser."""
    for name in BASE:
        run.make(name, load=False)
    made = [row(run, name) for name in names]
    if importlib.util.find_spec("dlib"):
        where = table.set_index("clip")["path"]
        paths, test = [Path(where[clip]) for clip in run.table["clip"]], run.parts["test"]
        recogniser, actors = Recogniser(), run.labels("actor")
        known, faces = looked(recogniser, "originals", paths)
        for cells, name in zip(made, names, strict=True):
            probes, seen = known[test], faces[test]
            if name != "none":
                with tempfile.TemporaryDirectory() as folder:
                    shown = [paths[i] for i in test]
                    shown = protected(shown, Path(folder), name, run.config.reader)
                    probes, seen = looked(recogniser, name, shown)
            cells["outside"] = named(probes, known, test, actors)
            cells["faces_found"] = Rate(int(seen.sum()), LOOKS * len(test))
    for cells in made:
        cells |= {"people": len(run.classes("actor")), "strangers": len(strangers(run))}
        cells["seeds"] = [run.config.seed]
    return made


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--readers", default="regressor,mediapipe")
    parser.add_argument("--within", action="store_true", help="within.json alone")
    parser.add_argument("--videos", action="store_true", help="videos.json alone")
    args = parser.parse_args()
    runs = {}
    for reader in args.readers.split(","):
        given = {"data": args.data, "test": 0.25, "reader": reader}
        runs[reader] = open_run(load_config("demo", given), args.runs)
    table = index(args.data).table
    if args.videos:
        before = read_json(args.out / "videos.json", [])  # of readers that are not asked today
        made = {row["what is seen"]: row for row in (*before, *videos(runs, table))}
        write_table(list(made.values()), args.out, "videos")
        others = [r for r in read_json(args.out / "within.json", []) if r["attack"] != OF_VIDEO]
        write_json(args.out / "within.json", [*others, *of_videos(args.out)])
        return
    write_json(args.out / "within.json", [*within(table, runs), *of_videos(args.out)])
    if args.within:
        return
    made = []
    for number, run in enumerate(runs.values()):
        made += outside(run, table, ROWS[1:] if number else ROWS)
    write_table(made, args.out, "live")
    write_json(args.out / "manifest.json", common.publish.made_in(next(iter(runs.values())).dir))


if __name__ == "__main__":
    main()
