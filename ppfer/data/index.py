"""Which clips there are and which of them can be used.

`index` finds and audits the clips of a folder that one of `ppfer.data.readers` reads: files that
are there twice are left out, and every column of the table is checked.
"""

import hashlib
import math
import os
from collections import Counter, defaultdict
from pathlib import Path

import pandas as pd

from ppfer.base.errors import PpferError, some
from ppfer.base.files import normal
from ppfer.data.listing import REASONS, Index, count_reasons
from ppfer.data.readers import COLUMNS, READERS, Found

OLDEST = 120  # years
PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
PARTS |= dict.fromkeys(("val", "valid", "validation", "dev"), "val")


def index(
    root: str | Path, *, fold: int = 1, keep_faults: bool = False, labels: str = "intended"
) -> Index:
    """Finds and audits the clips at a path; decoding, later, may reject more (`ClipStore.build`).

    Args:
        root: a folder that one of `READERS` recognises.
        fold: which of DFEW's five splits.
        keep_faults: keep the four clips CREMA-D is known to have got wrong (the paper's 7,442 count
            them). Clips of a generated twin (a `twin.json` lies at the root) are never taken for
            them.
        labels: of CREMA-D, "intended" or as voted for the "face", the "voice" or "both".

    Raises:
        PpferError: nothing at the path, no data set recognised, one that has no folds or votes
            where those are asked for, a table without a needed column, or no usable clip.
    """
    root = Path(root)
    if not root.is_dir():
        fault = "is a file, not a folder" if root.exists() else "does not exist"
        raise PpferError(f"{root} {fault}; give a folder of videos")
    if not any(root.iterdir()):
        raise PpferError(f"{root} is an empty folder; put videos there or give another path")

    # the first reader that knows the folder lists what is there
    reader = next(reader for reader in READERS if reader.recognises(root))
    if fold != 1 and reader.kind != "DFEW tree":
        raise PpferError(f"fold={fold} is for a DFEW tree, and {root} is a {reader.kind}")
    if labels != "intended" and reader.kind != "CREMA-D tree":
        raise PpferError(f"labels={labels} is for a CREMA-D tree, and {root} is a {reader.kind}")
    rows, rejected = reader.read(root, fold=fold, keep_faults=keep_faults, labels=labels)
    rows, rejected = without_duplicates(root, rows, rejected)
    # names have one Unicode form (é is one letter), paths the one that the disk has
    rows = [{key: v if key == "path" else normal(v) for key, v in row.items()} for row in rows]
    rows, remarks = checked(rows)

    # one table, in an order that does not depend on the disk
    columns = [*COLUMNS, "split"] if any("split" in row for row in rows) else list(COLUMNS)
    table = pd.DataFrame(rows, columns=columns, dtype=str).fillna("")
    table = table.sort_values("clip", ignore_index=True)
    left_out = pd.DataFrame(sorted(rejected), columns=REASONS, dtype=str)
    if not len(table):
        raise PpferError(f"no video in {root} can be used\n{count_reasons(left_out)}".rstrip())
    return Index(reader.kind, root, table, left_out, tuple(remarks))


def without_duplicates(root: Path, rows: list[dict], rejected: list[tuple[str, str]]) -> Found:
    """Keeps the first of files of one name or content; none of equal ones under other labels."""
    first: dict[str, dict] = {}  # by name
    drop: dict[str, str] = {}  # path: reason
    for row in rows:
        other = first.setdefault(normal(row["clip"]), row)
        if other is not row:
            name = os.path.relpath(other["path"], root)
            drop[row["path"]] = f"is a duplicate: same name as {name}"

    # only files of one size can have one content, so only those are read
    sized = [(os.path.getsize(p), r) for r in first.values() if os.path.isfile(p := r["path"])]
    count = Counter(size for size, _ in sized)
    contents = defaultdict(list)
    for _, row in filter(lambda item: count[item[0]] > 1, sized):
        with open(row["path"], "rb") as file:
            contents[hashlib.file_digest(file, "sha256").digest()].append(row)
    for same in contents.values():
        agree = len({(row.get("actor"), row["emotion"]) for row in same}) == 1
        for row in same[1:] if agree else same:
            name = os.path.relpath(next(r for r in same if r is not row)["path"], root)
            note = "" if agree else ", under other labels: neither can be trusted"
            drop[row["path"]] = f"is a duplicate: same content as {name}{note}"
    rejected = rejected + [(os.path.relpath(path, root), reason) for path, reason in drop.items()]
    return [row for row in rows if row["path"] not in drop], rejected


def checked(rows: list[dict]) -> tuple[list[dict], list[tuple[str, str]]]:
    """Rows whose ages are numbers and whose `split` names parts, and remarks on what was odd.

    An age that is none is not known. A `split` that does not deal every clip to train, val or test
    is left out. One person, sentence, level, sex or race that is written in two ways stays two:
    which is right, the data's owner knows.
    """
    remarks = []

    # an age: a number of years, or not known
    ages = {row["age"] for row in rows if row.get("age") and years(row["age"]) is None}
    if ages:
        remarks.append(("column age", f"{_some(ages)}: no number of years, taken as not known"))

    # parts: used only where they deal out every clip, with something to train and to test on
    parts = {row.get("split", "") for row in rows}
    official = {PARTS.get(part.lower()) for part in parts}
    kept = official <= {"train", "val", "test"} and {"train", "test"} <= official
    if not kept and parts - {""}:
        odd = f"{_some(parts)}: not train, val or test throughout, so not used"
        remarks.append(("column split", odd))

    # names: two spellings of one may be two people, so this only tells
    for column in ("actor", "sentence", "level", "sex", "race"):
        spelled = defaultdict(set)
        for row in rows:
            spelled[_spelling(row.get(column, ""))].add(row.get(column, ""))
        odd = f"are taken as different {'people' if column == 'actor' else 'values'}"
        for words in (words for words in spelled.values() if len(words) > 1):
            remarks.append((f"column {column}", f"{_some(words)} {odd}; write one in one way"))
    for row in rows:
        row["age"] = "" if row.get("age") in ages else row.get("age", "")
        if part := row.pop("split", ""):
            row |= {"split": PARTS[part.lower()]} if kept else {}
    return rows, remarks


def years(age: str) -> float | None:
    """An age in years; None where the text is no number of them ("25-34", "40+", "nan")."""
    try:
        value = float(age)
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 <= value <= OLDEST else None


def _spelling(text: str) -> str:
    """What is the same of a name however it is written: Ann and ANN, 7 and 7.0 and 07."""
    text = " ".join(text.casefold().split())
    try:
        return f"{float(text):g}"
    except ValueError:
        return text


def _some(words: set[str]) -> str:
    """Words as a remark lists them."""
    return some([f"'{word}'" for word in sorted(words)], 5)
