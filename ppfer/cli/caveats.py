"""What a protector leaked when it was measured, and what that does not promise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ppfer.base.files import read_json
from ppfer.config import REPO
from ppfer.measure import as_rate, cell_text
from ppfer.run.run import Run
from ppfer.run.stage import Protector

NAMED = {  # columns of a table, in words
    "plr": "by a recogniser of these people trained on originals",
    "plr_retrained": "by one trained again on protected clips",
    "plr_worst": "by the worst of the attacks on pixels",
    "linkage": "strangers, matched with their originals",
    "outside": "by another project's face recogniser",
}
REAL = REPO / "figures" / "real" / "live.json"  # the same of real people
LIVE = tuple(REPO / "figures" / profile / "live.json" for profile in ("twin", "demo"))  # measured
PROMISE = (
    "Those attackers learn from pixels. Whoever reads the 55 numbers a frame back with the public "
    "regressor names, of 91 synthetic people, 6.0 % from one clip (135/2238; neutral 8.2 %, "
    "184/2238) and 41 % from sixteen clips of a person (37/91; neutral 62 %, 56/91), and of ten "
    "real people 81 % (194/240; neutral 67 %, 161/240): how somebody moves is who he is. Not "
    "promised either: that nobody is known by spectacles that are read as a movement, by voice, "
    "body, clothes or surroundings; nor that what it shows is what was felt."
)


def closed_set(run: Run) -> str:
    """For whom a trained protector was made."""
    return (
        f"{run.dir.name} was trained on {_people(run)} in {run.config.data} and measured on "
        "those alone: nothing was measured for anybody else."
    )


def _people(run: Run) -> str:
    """How many people a run's clips are of; without a number where the clips were removed."""
    return f"{len(run.classes('actor'))} people" if run.has("clips") else "the people"


def leaked(run: Run, name: str) -> str:
    """What a protector leaked when it was measured, and what that does not promise."""
    title, rows = run.protector(name).title, read_json(run.dir / "tables" / "leakage.json", [])
    rows = [row for row in rows if row["approach"] == title]
    if not rows:
        return f"How much {title} leaks was not measured in this run: ppfer run --notebooks 07"
    lines = [f"What {title} leaked on this run's test clips ({_people(run)}, still named):"]
    for row in rows:
        worst = max((k for k in row if as_rate(row[k])), key=lambda k: as_rate(row[k]).value)
        frames = f"{cell_text(row['random_frame'])} of random frames"
        worst = f"worst attacker ({worst}): {cell_text(row[worst])}"
        lines.append(f"  validator {row['validator']}: {frames}; {worst}")
    promise = "This is no promise for other people, other cameras, body, clothes or surroundings."
    return "\n".join([*lines, promise])


def in_short(protector: Protector, run: Run) -> str:
    """Two lines for the end of a call: the worst that was measured of a protector, and where the
    rest stands (`leaked`, `leaked_by`).
    """
    told = leaked_by(protector) if protector.size else leaked(run, protector.name)
    worst = [line.strip() for line in told.splitlines() if "worst" in line]
    measured = f"still named {worst[-1]}" if worst else "how much it leaks was not measured"
    return (
        f"{protector.title}: {measured}.\nNot promised: that nobody is known by a way of moving, "
        "voice, body, clothes or surroundings; all that was measured: figures/README.md"
    )


def leaked_by(protector: Protector, paths: Sequence[Path] = LIVE, real: Path = REAL) -> str:
    """What a protector of anybody leaked on the synthetic actors, by the first of the files that
    has it, and on real people, and what it does not promise.
    """
    lines = []
    if row := _row(protector, paths):
        lines.append("Synthetic people that it never saw:")
        lines += _named(row)
    if row := _row(protector, [real]):
        people, strangers = row["people"], row["strangers"]
        lines.append(f"{people} real people, of whom {strangers} are the strangers:")
        lines += _named(row)
    first = f"People still named behind {protector.title}, when it was measured"
    if not lines:
        first = f"How much {protector.title} leaks was not measured: {paths[0]} says nothing of it"
    return "\n".join([f"{first}.", *lines, PROMISE])


def _row(protector: Protector, paths: Sequence[Path]) -> dict:
    """A protector's row in the first of the files that has one; {} if none has."""
    tables = (read_json(path, []) for path in paths)
    rows = (row for table in tables for row in table if row["approach"] == protector.title)
    return next(rows, {})


def _named(row: dict) -> list[str]:
    """How many people are named in a row, a line for each way."""
    shares = {key: as_rate(cell) for key, cell in row.items() if key in NAMED}
    return [f"  {NAMED[key]}: {cell_text(share)}" for key, share in shares.items()]
