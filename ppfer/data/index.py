"""Which clips there are and which of them can be used.

`index` finds and audits the clips of a CREMA-D tree, a DFEW tree or any folder with a
`metadata.csv`; the list `READERS` says how each of these is recognised and read.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ppfer.base.errors import PpferError, printable
from ppfer.data.duplicates import normal, without_duplicates
from ppfer.data.words import DFEW_EMOTIONS, EMOTION_CODES, LEVELS, SENTENCES
from ppfer.video import file_fault, is_video

COLUMNS = ("clip", "path", "actor", "emotion", "sentence", "level", "sex", "age", "race")
Found = tuple[list[dict], list[tuple[str, str]]]  # rows of usable clips; (path, reason) of others
EMOTION_WORDS = {
    "angry": ("anger",),
    "disgust": ("disgusted",),
    "fear": ("fearful", "afraid"),
    "happy": ("happiness", "joy"),
    "neutral": (),
    "sad": ("sadness",),
    "surprise": ("surprised", "sur"),
}
EMOTION_OF = {word: e for e, words in EMOTION_WORDS.items() for word in (e, *words)}
EMOTION_OF |= {code.lower(): emotion for code, emotion in EMOTION_CODES.items()}
KNOWN_FAULTS = {  # what the data set's own notes and its users report
    "1064_IEO_DIS_MD": "a minute long, with every emotion in it",
    "1064_TIE_SAD_XX": "cut short",
    "1076_MTI_NEU_XX": "nearly empty",
    "1076_MTI_SAD_XX": "nearly empty",
}


@dataclass(frozen=True)
class Index:
    """What was found at a path.

    Attributes:
        kind: of data set, see `READERS`.
        root: the path.
        table: one row per usable clip, sorted by `clip`, every column text, "" where nothing is
            known. `clip` is unique; `path` can be opened; `emotion` is a lower-case word. DFEW adds
            a column `split` (train, test).
        rejected: DataFrame (path relative to the root, reason). A reason completes the sentence
            "<path> ...".
        remarks: (path, what is odd about it and what is done with it), of usable clips; see
            `ppfer.data.decoding.inspected`.
        looked_into: whether any file was opened yet.
    """

    kind: str
    root: Path
    table: pd.DataFrame
    rejected: pd.DataFrame
    remarks: tuple[tuple[str, str], ...] = ()
    looked_into: bool = False

    def summary(self) -> str:
        """How many videos were found, are usable, are rejected and why, in a few lines."""
        said = describe(f"{self.root} ({self.kind})", self.table, self.rejected)
        return said if self.looked_into else f"{said}\n  by name and size alone: not decoded yet"

    def fingerprint(self) -> str:
        """sha256 over labels, file sizes and both ends of every file: quick, and the same after a
        copy of the data.
        """
        labels = self.table.drop(columns="path").to_csv(index=False)
        digest = hashlib.sha256(labels.encode("utf-8", "surrogateescape"))
        for path in map(Path, self.table["path"]):
            if path.is_dir():
                digest.update(
                    "\n".join(sorted(os.listdir(path))).encode("utf-8", "surrogateescape")
                )
            elif path.is_file():
                with path.open("rb") as file:
                    size = file.seek(0, os.SEEK_END)
                    file.seek(0)
                    digest.update(str(size).encode() + file.read(4096))
                    file.seek(max(0, size - 4096))
                    digest.update(file.read())
        return digest.hexdigest()


def describe(head: str, table: pd.DataFrame, rejected: pd.DataFrame) -> str:
    """Counts of what was found, kept and rejected, and the kept clips' actors and emotions, as
    lines of text.
    """
    counts = table["emotion"].value_counts().sort_index()
    emotions = ", ".join(f"{emotion} {count}" for emotion, count in counts.items())
    actors = table["actor"].nunique() if table["actor"].any() else "unknown"
    found = len(table) + len(rejected)
    lines = [
        f"{head}: {found} videos found, {len(table)} usable, {len(rejected)} rejected",
        *([count_reasons(rejected)] if len(rejected) else []),
        f"  actors: {actors}; {emotions}",
    ]
    return printable("\n".join(lines))


def count_reasons(rejected: pd.DataFrame) -> str:
    """One line per kind of reason: how often, and for which file first."""
    kinds = rejected.assign(kind=rejected["reason"].str.split(r"[:;]", regex=True).str[0]).groupby(
        "kind", sort=False
    )
    lines = []
    for _, group in sorted(kinds, key=lambda item: -len(item[1])):
        more = f" and {len(group) - 1} more" if len(group) > 1 else ""
        lines.append(
            f"  {len(group)} rejected: {group['path'].iloc[0]}{more}: {group['reason'].iloc[0]}"
        )
    return "\n".join(lines)


# --- index --------------------------------------------------------------------


def index(root: str | Path, *, fold: int = 1, keep_faults: bool = False) -> Index:
    """Finds and audits the clips at a path; decoding, later, may reject more (`ClipStore.build`).

    The first of `READERS` that recognises the folder reads it: a folder with `metadata.csv`
    (columns path, actor, emotion; optionally sentence, level, sex, age, race), a DFEW tree
    (`EmoLabel_DataSplit/`, `Clip/`), else a CREMA-D tree (videos named `1001_DFA_ANG_XX`, in any
    folder; `VideoDemographics.csv` beside them).

    Args:
        root: the folder.
        fold: which of DFEW's five splits.
        keep_faults: keep the four clips CREMA-D is known to have got wrong (the paper's 7,442 count
            them). Clips of a generated twin (a `twin.json` lies at the root) are never taken for
            them.

    Raises:
        PpferError: nothing at the path, no data set recognised, a table without a needed column, or
            no usable clip.
    """
    root = Path(root)
    if not root.is_dir():
        fault = "is a file, not a folder" if root.exists() else "does not exist"
        raise PpferError(f"{root} {fault}; give a folder of videos")
    if not any(root.iterdir()):
        raise PpferError(f"{root} is an empty folder; put videos there or give another path")
    reader = next(reader for reader in READERS if reader.recognises(root))
    rows, rejected = reader.read(root, fold=fold, keep_faults=keep_faults)
    rows, rejected = without_duplicates(root, rows, rejected)
    columns = [*COLUMNS, "split"] if any("split" in row for row in rows) else list(COLUMNS)
    table = (
        pd.DataFrame([_one_form(row) for row in rows], columns=columns, dtype=str)
        .fillna("")
        .sort_values("clip", ignore_index=True)
    )
    left_out = pd.DataFrame(sorted(rejected), columns=["path", "reason"], dtype=str)
    result = Index(reader.kind, root, table, left_out)
    if not len(table):
        raise PpferError(
            f"no video in {root} can be used\n{count_reasons(result.rejected)}".rstrip()
        )
    return result


def _one_form(row: dict[str, str]) -> dict[str, str]:
    """A row whose names have one Unicode form (é is one letter), its path as the disk has it."""
    return {key: text if key == "path" else normal(text) for key, text in row.items()}


def index_names(names: Iterable[str], demographics: str | Path | None = None) -> pd.DataFrame:
    """The table of a bare list of CREMA-D file names, without media (column `path` is empty).

    Args:
        names: "1001_DFA_ANG_XX", with or without a suffix.
        demographics: a VideoDemographics.csv.

    Raises:
        PpferError: a name that is none of CREMA-D's.
    """
    people = _demographics(Path(demographics)) if demographics else {}
    rows = []
    for name in names:
        row = _cremad_labels(Path(name).stem, people)
        if isinstance(row, str):
            raise PpferError(f"{name} {row}")
        rows.append(row)
    return (
        pd.DataFrame(rows, columns=list(COLUMNS), dtype=str)
        .fillna("")
        .sort_values("clip", ignore_index=True)
    )


def _index_cremad(root: Path, keep_faults: bool, **_: object) -> Found:
    keep_faults = keep_faults or (root / "twin.json").exists()
    files = [root / "VideoDemographics.csv", root.parent / "VideoDemographics.csv"]
    people = next((_demographics(file) for file in files if file.exists()), {})
    rows, rejected = [], []
    for name in _videos(root):
        row = _cremad_labels(Path(name).stem, people)
        if isinstance(row, dict):
            stem, fault = row["clip"], file_fault(root / name)
            if not fault and stem in KNOWN_FAULTS and not keep_faults:
                fault = f"is a known CREMA-D fault: {KNOWN_FAULTS[stem]}"
            row = fault or row | {"path": str(root / name)}
        rejected.append((name, row)) if isinstance(row, str) else rows.append(row)
    if not rows and not any("odd name" not in reason for _, reason in rejected):
        found = (
            f"has {len(rejected)} videos, but none named as CREMA-D's"
            if rejected
            else "holds no video"
        )
        raise PpferError(
            f"{root} {found} (1001_DFA_ANG_XX.flv), no DFEW tree (EmoLabel_DataSplit/) and no "
            "metadata.csv; for your own videos write a metadata.csv with the columns path, actor, "
            "emotion"
        )
    return rows, rejected


def _cremad_labels(stem: str, people: dict[str, dict]) -> dict | str:
    """The row of a clip from its name, or the reason why there is none."""
    match = re.fullmatch(r"(\d{4})_([A-Z]{3})_([A-Z]{3})_([A-Z]{2})", stem)
    if not match or match[2] not in SENTENCES or match[4] not in LEVELS:
        return "has an odd name: not ActorID_Sentence_Emotion_Level, such as 1001_DFA_ANG_XX"
    emotion = EMOTION_OF.get(match[3].lower())
    if not emotion:
        return f"has an unknown emotion: {match[3]}"
    labels = {
        "clip": stem,
        "actor": match[1],
        "emotion": emotion,
        "sentence": match[2],
        "level": match[4],
    }
    return labels | people.get(match[1], {})


def _demographics(path: Path) -> dict[str, dict]:
    table = _read_csv(path, ("actorid", "age", "sex", "race"))
    return {
        row.actorid: {"sex": row.sex.lower(), "age": row.age, "race": row.race}
        for row in table.itertuples()
    }


def _index_dfew(root: Path, fold: int, **_: object) -> Found:
    media: dict[int, Path] = {}  # faces cut out at 224 first, then whole videos, then anything else
    folders = sorted(p for p in (root / "Clip").glob("*") if p.is_dir())
    for folder in sorted(folders, key=lambda p: ("clip_224x224", "original", p.name).index(p.name)):
        for entry in sorted(folder.iterdir()):
            if entry.stem.isdecimal() and (entry.is_dir() or is_video(entry)):
                media.setdefault(int(entry.stem), entry)
    rows, rejected, seen = [], [], set()
    for part in ("train", "test"):
        file = root / "EmoLabel_DataSplit" / f"{part}(single-labeled)" / f"set_{fold}.csv"
        table = _read_csv(file, ("video_name", "label"))
        for name, label in zip(table["video_name"], table["label"], strict=True):
            number = int(name) if name.isdecimal() else -1
            path, clip = media.get(number), f"{number:05d}"
            if number < 0:
                fault = "has an odd name: not a number"
            elif label not in ("1", "2", "3", "4", "5", "6", "7"):
                fault = f"has an unknown emotion: label {label}, not 1 to 7"
            elif clip in seen:
                fault = "is a duplicate: listed twice in the split"
            elif path is None:
                fault = "does not exist: it is in the split, but in no folder of Clip/"
            else:
                fault = None if path.is_dir() else file_fault(path)
            seen.add(clip)
            if fault:
                rejected.append((str(path.relative_to(root)) if path else name, fault))
            else:
                emotion = DFEW_EMOTIONS[int(label) - 1]
                rows.append({"clip": clip, "path": str(path), "emotion": emotion, "split": part})
    return rows, rejected


def _index_folder(root: Path, **_: object) -> Found:
    table = _read_csv(root / "metadata.csv", ("path", "actor", "emotion"))
    videos = _videos(root)
    there = {normal(name): name for name in videos}
    names = [os.path.normpath(name.replace("\\", "/")) for name in table["path"]]
    names = [n if os.path.exists(root / n) else there.get(normal(n), n) for n in names]
    stems = [normal(Path(name).stem) for name in names]
    records = table.to_dict("records")
    said: dict[str, set[tuple[str, str]]] = {}
    for name, labels in zip(names, records, strict=True):
        said.setdefault(name, set()).add((labels["actor"], labels["emotion"].lower()))
    # else a clip is called by its whole path
    unique = len(set(stems)) == len({normal(name) for name in names})
    rows, rejected, seen = [], [], set()
    for name, stem, labels in zip(names, stems, records, strict=True):
        emotion = EMOTION_OF.get(labels["emotion"].lower())
        if Path(os.path.relpath(root / name, root)).parts[:1] == ("..",):
            fault = "lies outside the folder; put it there, or a link to its folder"
        elif len(said[name]) > 1:
            fault = "has labels in metadata.csv that disagree"
        elif name in seen:
            fault = "is a duplicate: listed twice in metadata.csv"
        elif not emotion:
            fault = f"has an unknown emotion: {labels['emotion'] or 'none'}"
        elif not labels["actor"]:
            fault = "has no actor in metadata.csv"
        else:
            fault = file_fault(root / name)
        seen.add(name)
        if fault:
            rejected.append((name, fault))
        else:
            clip = stem if unique else name.replace(os.sep, "-")
            known = {column: labels[column] for column in COLUMNS if column in labels}
            known["sex"] = labels.get("sex", "").lower()
            rows.append(known | {"clip": clip, "path": str(root / name), "emotion": emotion})
    rejected += [(name, "is not listed in metadata.csv") for name in videos if name not in seen]
    return rows, rejected


class Reader(NamedTuple):
    """How one kind of data set is read.

    Attributes:
        kind: as printed.
        recognises: whether a folder is such a data set.
        read: takes the folder and the options of `index` as keywords; returns the rows of usable
            clips (of `COLUMNS`, `clip`, `path` and `emotion` must be there) and the videos left
            out, (path relative to the folder, reason). ``**_`` stands for options of other kinds.
    """

    kind: str
    recognises: Callable[[Path], bool]
    read: Callable[..., Found]


READERS = (  # tried in this order; the last one takes whatever is left
    Reader("folder with metadata.csv", lambda at: (at / "metadata.csv").exists(), _index_folder),
    Reader("DFEW tree", lambda at: (at / "EmoLabel_DataSplit").is_dir(), _index_dfew),
    Reader("CREMA-D tree", lambda at: True, _index_cremad),
)


def _videos(root: Path) -> list[str]:
    """Video files below a folder, relative and sorted; follows links, leaves out hidden folders and
    other data sets.
    """
    found, visited = [], set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real, here = os.path.realpath(folder), Path(folder)
        other = here != root and any(reader.recognises(here) for reader in READERS[:-1])
        if real in visited or other:
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [os.path.relpath(here / name, root) for name in files if is_video(name)]
    return sorted(found)


def _read_csv(path: Path, needed: tuple[str, ...]) -> pd.DataFrame:
    """A CSV as text, columns in lower case, cells stripped; PpferError when it or a needed column
    is missing.
    """
    try:
        table = pd.read_csv(
            path, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False
        )
    except FileNotFoundError as error:
        raise PpferError(f"{path} does not exist") from error
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        raise PpferError(f"{path} cannot be read as a comma-separated table: {error}") from error
    table.columns = [str(column).strip().lower() for column in table.columns]
    if missing := [column for column in needed if column not in table.columns]:
        raise PpferError(
            f"{path} has no column {', '.join(missing)}; it has {', '.join(table.columns)}"
        )
    return table.fillna("").apply(lambda column: column.str.strip())
