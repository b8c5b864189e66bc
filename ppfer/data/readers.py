"""How data sets are recognised and read: a CREMA-D tree, a DFEW tree, a folder with `metadata.csv`.

A reader gives a row per usable clip and the reason for every video it leaves out; `READERS` lists
them. What their columns say is checked in `ppfer.data.index`, for all of them alike.
"""

import io
import os
import re
import warnings
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ppfer.base.errors import PpferError
from ppfer.base.files import normal
from ppfer.data.words import DFEW_EMOTIONS, EMOTION_CODES, LEVELS, SENTENCES
from ppfer.video.file import file_fault, is_video

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
VOTES = {code[0]: emotion for code, emotion in EMOTION_CODES.items()}  # A, D, F, H, N, S
VOTED = {"face": "facevote", "voice": "voicevote", "both": "multimodalvote"}  # setting: column
UTF16 = (BOM_UTF16_LE, BOM_UTF16_BE)  # how a file begins that Excel saved as "Unicode text"
KNOWN_FAULTS = {  # what the data set's own notes and its users report
    "1064_IEO_DIS_MD": "a minute long, with every emotion in it",
    "1064_TIE_SAD_XX": "cut short",
    "1076_MTI_NEU_XX": "nearly empty",
    "1076_MTI_SAD_XX": "nearly empty",
}


# --- CREMA-D ------------------------------------------------------------------


def read_cremad(root: Path, keep_faults: bool, labels: str, **_: object) -> Found:
    """Clips whose names say what they show, 1001_DFA_ANG_XX, in any folder."""
    keep_faults = keep_faults or (root / "twin.json").exists()
    votes = None if labels == "intended" else voted(root, labels)
    files = [at / "VideoDemographics.csv" for at in (root, root.parent)]
    people = next((demographics(file) for file in files if file.exists()), {})
    rows, rejected = [], []

    # every video is a row, or has a fault: its name, its file, or what is known of the clip
    for name in _videos(root):
        row = cremad_labels(Path(name).stem, people)
        if isinstance(row, dict):
            stem, fault = row["clip"], file_fault(root / name)
            if votes is not None:
                row["emotion"] = votes.get(stem, "the clip is not in the table")
            if not fault and row["emotion"] not in EMOTION_WORDS:
                fault = f"has no voted label: {row['emotion']}"
            if not fault and stem in KNOWN_FAULTS and not keep_faults:
                fault = f"is a known CREMA-D fault: {KNOWN_FAULTS[stem]}"
            row = fault or row | {"path": str(root / name)}
        rejected.append((name, row)) if isinstance(row, str) else rows.append(row)

    # nothing is named as CREMA-D's: more likely another data set than a broken one
    if not rows and not any("odd name" not in reason for _, reason in rejected):
        some = f"has {len(rejected)} videos, but none named as CREMA-D's"
        found = some if rejected else "holds no video"
        raise PpferError(
            f"{root} {found} (1001_DFA_ANG_XX.flv), no DFEW tree (EmoLabel_DataSplit/) and no "
            "metadata.csv; for your own videos write a metadata.csv with the columns path, actor, "
            "emotion"
        )
    return rows, rejected


def cremad_labels(stem: str, people: dict[str, dict]) -> dict | str:
    """The row of a clip from its name, or the reason why there is none."""
    match = re.fullmatch(r"(\d{4})_([A-Z]{3})_([A-Z]{3})_([A-Z]{2})", stem)
    if not match or match[2] not in SENTENCES or match[4] not in LEVELS:
        return "has an odd name: not ActorID_Sentence_Emotion_Level, such as 1001_DFA_ANG_XX"
    actor, sentence, code, level = match.groups()
    emotion = EMOTION_OF.get(code.lower())
    if not emotion:
        return f"has an unknown emotion: {code}"
    said = {"emotion": emotion, "sentence": sentence, "level": level}
    return {"clip": stem, "actor": actor} | said | people.get(actor, {})


def demographics(path: Path) -> dict[str, dict]:
    """Actor → sex, age and race."""
    table = _read_csv(path, ("actorid", "age", "sex", "race"))
    return {
        row.actorid: {"sex": row.sex.lower(), "age": row.age, "race": row.race}
        for row in table.itertuples()
    }


def voted(root: Path, labels: str) -> dict[str, str]:
    """Clip → the expression that most viewers chose, or why there is none (Cao et al., 2014).

    `summaryTable.csv` lies in `root`, in its `processedResults` or in the folder above, in any
    case; else a `PpferError` says what is to be fetched.
    """
    tops = (root, root.parent)
    inside = [at for top in tops for at in top.glob("*/") if at.name.lower() == "processedresults"]
    files = filter(None, (_table(at, "summarytable") for at in (*tops, *inside)))
    if not (file := next(files, None)):
        raise PpferError(
            f"labels={labels} takes CREMA-D's votes, which are not in {root}: fetch "
            "processedResults/summaryTable.csv of its repository and put it there"
        )
    table, found = _read_csv(file, ("filename", VOTED[labels])), {}
    for name, vote in zip(table["filename"], table[VOTED[labels]], strict=True):
        tie = " and ".join(VOTES.get(letter, letter) for letter in vote.split(":"))
        why = f"{labels} is a tie of {tie}" if ":" in vote else f"{labels} has the vote '{vote}'"
        found[name.partition(".")[0]] = VOTES.get(vote, why)
    return found


# --- DFEW ---------------------------------------------------------------------


def read_dfew(root: Path, fold: int, **_: object) -> Found:
    """Clips that one of five folds deals out to train and test."""
    media: dict[int, Path] = {}  # faces cut out at 224 first, then whole videos, then anything else
    folders = sorted(p for p in (root / "Clip").glob("*") if p.is_dir())
    for folder in sorted(folders, key=lambda p: ("clip_224x224", "original", p.name).index(p.name)):
        for entry in sorted(folder.iterdir()):
            if entry.stem.isdecimal() and (entry.is_dir() or is_video(entry)):
                media.setdefault(int(entry.stem), entry)

    # what the split lists is a row, or has a fault
    rows, rejected, seen = [], [], set()
    for part in ("train", "test"):
        file = root / "EmoLabel_DataSplit" / f"{part}(single-labeled)" / f"set_{fold}.csv"
        if not file.exists():
            there = ", ".join(sorted(other.name for other in file.parent.glob("set_*.csv")))
            raise PpferError(
                f"{file} does not exist, so there is no fold {fold}; there are {there}"
            )
        table = _read_csv(file, ("video_name", "label"))
        for name, label in zip(table["video_name"], table["label"], strict=True):
            number = int(name) if name.isdecimal() else -1
            path, clip = media.get(number), f"{number:05d}"
            if number < 0:
                fault = "has an odd name: not a number"
            elif label not in ("1", "2", "3", "4", "5", "6", "7"):
                fault = f"has an unknown emotion: label {label or 'none'}, not 1 to 7"
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


# --- a folder with metadata.csv -----------------------------------------------


def read_metadata(root: Path, **_: object) -> Found:
    """Clips as `metadata.csv` lists them, by paths from its folder or absolute ones."""
    file, videos = _table(root, "metadata"), _videos(root)
    table = _read_csv(file, ("path", "actor", "emotion"))
    names = _as_on_disk(root, table["path"], videos)
    records = table.to_dict("records")
    labels_of = defaultdict(set)
    for name, labels in zip(names, records, strict=True):
        labels_of[name].add((labels["actor"], labels["emotion"].lower()))

    # clips are called by their file's stem; by their whole path where two share one
    stems = [normal(Path(name).stem) for name in names]
    unique = len(set(stems)) == len({normal(name) for name in names})
    rows, rejected, seen = [], [], set()
    for name, stem, labels in zip(names, stems, records, strict=True):
        emotion = EMOTION_OF.get(labels["emotion"].lower())
        if Path(os.path.relpath(root / name, root)).parts[:1] == ("..",):
            fault = "lies outside the folder; put it there, or a link to its folder"
        elif len(labels_of[name]) > 1:
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
            known = {key: labels[key] for key in (*COLUMNS, "split") if key in labels}
            known["sex"] = labels.get("sex", "").lower()
            rows.append(known | {"clip": clip, "path": str(root / name), "emotion": emotion})
    rejected += [(name, "is not listed in metadata.csv") for name in videos if name not in seen]
    return rows, rejected


def _as_on_disk(root: Path, paths: pd.Series, videos: list[str]) -> list[str]:
    """A table's paths from the folder on, with the slashes, Unicode form and case of the disk."""
    there, names = {normal(name).casefold(): name for name in videos}, []
    for path in paths:
        name = os.path.normpath(path.replace("\\", "/"))
        if os.path.isabs(name):
            name = os.path.relpath(name, root.absolute())
            if name.startswith(".."):  # perhaps by way of a link
                name = os.path.relpath(os.path.realpath(path), os.path.realpath(root))
        found = os.path.exists(root / name)
        names.append(name if found else there.get(normal(name).casefold(), name))
    return names


# --- the list -----------------------------------------------------------------


class DatasetReader(NamedTuple):
    """How one kind of data set is read."""

    kind: str  # as printed
    recognises: Callable[[Path], bool]  # whether a folder is such a data set
    # takes the folder and the options of `ppfer.data.index.index` as keywords (``**_``: those of
    # other kinds); gives the rows of usable clips (of `COLUMNS`, `clip`, `path` and `emotion` must
    # be there; `split` may be), and the videos left out, (path relative to the folder, reason)
    read: Callable[..., Found]


READERS = (  # tried in this order; the last one takes whatever is left
    DatasetReader(
        "folder with metadata.csv", lambda at: _table(at, "metadata") is not None, read_metadata
    ),
    DatasetReader("DFEW tree", lambda at: (at / "EmoLabel_DataSplit").is_dir(), read_dfew),
    DatasetReader("CREMA-D tree", lambda at: True, read_cremad),
)


def _videos(root: Path) -> list[str]:
    """Videos below a folder, links followed; without hidden folders and other data sets."""
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


def _table(folder: Path, stem: str) -> Path | None:
    """A folder's CSV of this name in any case, if it has one."""
    return next((at for at in folder.glob("*.[cC][sS][vV]") if at.stem.lower() == stem), None)


def _read_csv(path: Path, needed: tuple[str, ...]) -> pd.DataFrame:
    """A CSV as text, as spreadsheets write it: with commas, semicolons or tabs, in UTF-8 or UTF-16;
    columns in lower case, cells stripped, no empty rows. A `PpferError` where it cannot be read, or
    a needed column is missing.
    """
    how = {"dtype": str, "keep_default_na": False, "index_col": False}
    try:
        data = path.read_bytes()
        text = data.decode("utf-16" if data[:2] in UTF16 else "utf-8-sig")
        text = re.sub(r"\Asep=.*\n", "", text)  # Excel's line for itself
        first = text.partition("\n")[0]
        with warnings.catch_warnings(action="ignore"):  # of a comma at each line's end
            table = pd.read_csv(io.StringIO(text), sep=max(",;\t", key=first.count), **how)
    except FileNotFoundError as error:
        raise PpferError(f"{path} does not exist") from error
    except UnicodeDecodeError as error:
        raise PpferError(f"{path} is no UTF-8; in a spreadsheet save it as CSV UTF-8") from error
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        raise PpferError(f"{path} cannot be read as a comma-separated table: {error}") from error
    table.columns = [str(column).strip().lower() for column in table.columns]
    if missing := [column for column in needed if column not in table.columns]:
        raise PpferError(
            f"{path} has no column {', '.join(missing)}; it has {', '.join(table.columns)}"
        )
    if twice := sorted(set(table.columns[table.columns.duplicated()])):
        raise PpferError(f"{path} has two columns {', '.join(twice)}; leave one of them")
    table = table.fillna("").apply(lambda column: column.str.strip())
    return table[(table != "").any(axis=1)]
