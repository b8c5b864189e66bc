"""One page about a run: what came out, whether it should, what it took, on what, and pictures."""

import base64
import json
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path

import nbformat
import psutil
from nbconvert.filters import markdown2html

from ppfer import measure
from ppfer.base.device import device_name, versions
from ppfer.base.files import atomic, owner_only, read_json, read_lines
from ppfer.cli.compare import COLUMNS, guessing, in_short, short
from ppfer.cli.overview import WORDS, minutes
from ppfer.config import REPO
from ppfer.measure import as_rate
from ppfer.run.names import differences, made_in
from ppfer.run.run import Run

CALLS = "calls.jsonl"  # in a run's folder: each call of `ppfer run`, and how long it took
ROWS = {  # the main table's, short
    "No privacy preservation": "originals (V)",
    "Copies, before Algorithm 1": "copies",
    "PPFER without compensation (G)": "protected (G)",
    "PPFER (C)": "compensated (C)",
}
TELLING = "05"  # the notebook whose picture shows originals beside what leaves the system
STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse}td,th{border:1px solid #bbb;padding:.2em .6em}"
    "img{max-width:100%}"
)


# --- calls ----------------------------------------------------------------------


def note_call(run: Run, what: str, seconds: float, ended: str) -> None:
    """Keep that a command has worked on a run, on `what` notebooks, and whether it "finished"."""
    owner_only(run.dir)
    call = {"notebooks": what, "minutes": round(seconds / 60, 2), "ended": ended}
    with (run.dir / CALLS).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(call) + "\n")


def calls(folder: Path) -> list[dict]:
    """What `note_call` kept of a run."""
    return read_lines(folder / CALLS)


# --- results in words -----------------------------------------------------------


def main_in_words(rows: list[dict], guessing: Mapping[str, float]) -> list[dict]:
    """The main table on its side: a line for each measure, with what guessing is right about, the
    shares in [0, 1] of "actor" and "emotion".
    """
    lines = []
    for key in list(COLUMNS)[1:]:
        column = "actor" if key.startswith("plr") else "emotion"
        line = {"share of test clips": in_short(key)}
        for row in rows:
            line[ROWS.get(row["approach"], row["approach"])] = short(row.get(key, ""))
        lines.append(line | {"guessing": f"{100 * guessing[column]:.1f} %"})
    return lines


def judgement(run: Run, rows: list[dict]) -> str:
    """One sentence: whether the main table is what should come out."""
    profile, original, leaves = run.config.profile, rows[0], rows[-1]
    if profile == "smoke":
        return "Profile smoke only shows that everything works: its numbers mean nothing."
    if not (named := as_rate(original["plr"])).n:
        return "No identity is measured: training shows too few people, or not those of the test."
    if named.value < 0.5:
        return (
            f"The validator names {named} of the originals: too few for its word on protected "
            "clips to mean anything."
        )
    page = REPO / "figures" / profile / "main.json"
    if not set(differences(run.config)) - {"seed"} and page.exists():
        return _against(read_json(page, []), rows, page.parent)
    frozen, retrained = as_rate(leaves["plr"]), as_rate(leaves["plr_retrained"])
    hidden = frozen.value < named.value / 2
    return (
        f"{'As it should be' if hidden else 'Not as it should be'}: the validator as trained names "
        f"{named.short} of the originals and {frozen.short} of what leaves the system; retrained "
        f"it names {retrained.short}, and that is what an attacker can do."
    )


def _against(published: list[dict], rows: list[dict], folder: Path) -> str:
    """How a run's shares and those of the repository's page agree."""
    apart, count = [], 0
    for theirs, own in zip(published, rows):
        for key in [key for key in COLUMNS if as_rate(own.get(key)) and as_rate(theirs.get(key))]:
            by, low, high = measure.difference(as_rate(own[key]), as_rate(theirs[key]))
            count += 1
            if low > 0 or high < 0:
                which = f"{COLUMNS[key]}, {ROWS.get(own['approach'], own['approach'])}"
                apart.append(f"{which} ({100 * by:+.1f} points)")
    page = folder.relative_to(REPO).as_posix()
    if not apart:
        return (
            f"That is what should come out: all {count} shares agree with {page}/main.md, each "
            "within the 95 % interval of the difference."
        )
    return (
        f"Not quite what should come out: {len(apart)} of {count} shares differ from "
        f"{page}/main.md by more than chance explains: {'; '.join(apart)}."
    )


# --- pictures -------------------------------------------------------------------


def keep_pictures(folder: Path) -> dict[Path, str]:
    """One picture of each executed notebook, of the cell tagged "thumbnail" or else the largest
    there is, as ``pictures/NN.png`` → what it shows.
    """
    kept = {}
    for book in sorted((folder / "notebooks").glob("[0-9]*.ipynb")):
        found = []
        for cell in nbformat.read(book, as_version=4).cells:
            chosen = "thumbnail" in cell.metadata.get("tags", [])
            for data in (output.get("data", {}) for output in cell.get("outputs", [])):
                if coded := data.get("image/png"):
                    found.append((chosen, len(coded), coded, data.get("text/plain", "")))
        if found:
            path = folder / "pictures" / f"{book.name[:2]}.png"
            *_, coded, kept[path] = max(found)
            with atomic(path) as partial:
                partial.write_bytes(base64.b64decode(coded))
    return kept


# --- the page -------------------------------------------------------------------


def write_report(run: Run) -> Path:
    """Write a run's ``report.md`` and, with its pictures inside, ``report.html``; returns that."""
    text = report(run, keep_pictures(run.dir))
    with atomic(run.dir / "report.md") as partial:
        partial.write_text(text, encoding="utf-8")

    def inside(found: re.Match) -> str:
        png = (run.dir / found[1]).read_bytes()
        return f'src="data:image/png;base64,{base64.b64encode(png).decode()}"'

    body = re.sub(r'src="(\w+/[\w.]+\.png)"', inside, markdown2html(text))
    head = f"<meta charset=utf-8><title>{run.dir.name}</title><style>{STYLE}</style>"
    path = run.dir / "report.html"
    with atomic(path) as partial:
        partial.write_text(f"<!doctype html>{head}{body}", encoding="utf-8")
    return path


def report(run: Run, pictures: Mapping[Path, str]) -> str:
    """The page as Markdown."""
    tables, parts = run.dir / "tables", [f"# Run {run.dir.name}"]
    changed = ", ".join(f"{key}={value}" for key, value in differences(run.config).items())
    parts.append(f"Profile {run.config.profile}{f', with {changed}' if changed else ''}.")
    if main := read_json(tables / "main.json", []):
        shown = measure.markdown(main_in_words(main, guessing(run)))
        parts += ["## What came out", judgement(run, main), shown]
    for path in sorted(tables.glob("*.md")):
        if path.stem not in ("main", "results", "discrepancies"):
            parts += [f"### {path.stem}", path.read_text(encoding="utf-8")]
    if pictures:
        parts.append("## Pictures")
        for path, words in pictures.items():
            parts += [f"![{words}](pictures/{path.name})", f"Notebook {path.stem}: {words}"]

    made, begun = made_in(run.dir), calls(run.dir)
    total = minutes(60 * sum(call["minutes"] for call in begun))
    each = ", ".join(f"{c['notebooks']} {minutes(60 * c['minutes'])} ({c['ended']})" for c in begun)
    took = f"{len(begun)} call{'s' * (len(begun) > 1)} of `ppfer run`, {total} in all: {each}."
    parts += ["## What it took", took if begun else "Nobody kept how long the calls took."]
    if made:
        rows = []
        for name, about in sorted(made.items(), key=lambda pair: -pair[1]["seconds"]):
            row = {"stage": name, "what it does": WORDS.get(name.split("/")[0], "")}
            rows.append(row | {"minutes": f"{about['seconds'] / 60:.2f}", "on": about["device"]})
        parts.append(measure.markdown(rows))
    memory = psutil.virtual_memory().total / 2**30
    machine = f"{os.cpu_count()} processors, {memory:.0f} GiB of memory, {platform.platform()}."
    parts += ["## On what", f"{device_name(run.device)}; {machine}"]
    parts.append(", ".join(f"{name} {version}" for name, version in versions().items()) + ".")
    return "\n\n".join(part.strip() for part in parts) + "\n"
