"""Files that are listed twice: by one name, or by one content."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from pathlib import Path


def normal(text: str) -> str:
    """The one Unicode form of a name (NFC): a Mac writes é as two letters, others as one."""
    return unicodedata.normalize("NFC", text)


def without_duplicates(
    root: Path, rows: list[dict], rejected: list[tuple[str, str]]
) -> tuple[list[dict], list[tuple[str, str]]]:
    """Keeps the first of files of one name or of one content; of equal content under contradicting
    labels, none.
    """
    first: dict[str, str] = {}
    sizes: dict[int, list[dict]] = {}
    drop: dict[str, str] = {}  # path: reason
    for row in rows:
        name = normal(row["clip"])
        if name in first:
            drop[row["path"]] = f"is a duplicate: same name as {os.path.relpath(first[name], root)}"
        else:
            first[name] = row["path"]
            if os.path.isfile(row["path"]):
                sizes.setdefault(os.path.getsize(row["path"]), []).append(row)
    contents: dict[str, list[dict]] = {}
    for same_size in sizes.values():
        for row in same_size if len(same_size) > 1 else []:
            with open(row["path"], "rb") as file:
                contents.setdefault(hashlib.file_digest(file, "sha256").hexdigest(), []).append(row)
    for same in contents.values():
        agree = len({(row.get("actor"), row["emotion"]) for row in same}) == 1
        for row in same[1:] if agree else same:
            other = next(r for r in same if r is not row)
            note = "" if agree else ", under other labels: neither can be trusted"
            drop[row["path"]] = (
                f"is a duplicate: same content as {os.path.relpath(other['path'], root)}{note}"
            )
    rejected = rejected + [(os.path.relpath(path, root), reason) for path, reason in drop.items()]
    return [row for row in rows if row["path"] not in drop], rejected
