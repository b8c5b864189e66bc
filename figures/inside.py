"""The most that attackers from within name: ``within_worst`` of what ``within.json`` holds of every
attack, and ``within_all`` of a run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ppfer.measure import Rate, Spread, Worst, as_rate, write_table
from ppfer.run.run import Run
from ppfer.study.attacks.features import feature_table
from ppfer.study.attacks.within import by_clips, pooled_row, worst
from ppfer.study.protectors import codebook


def grouped(rows: Iterable[Mapping], *keys: str) -> dict[tuple, list[Mapping]]:
    """Rows by what they have under some keys, in the order in which those first come."""
    groups: dict[tuple, list[Mapping]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def of_people(rows: Sequence[Mapping]) -> list[dict]:
    """From within, seed by seed; with it what is read of the expression from the same numbers and
    by F_u.
    """
    made = []
    rows = [row for row in rows if not row["attack"].startswith(ON_PIXELS)]
    for (approach, seed), tried in grouped(rows, "approach", "seed").items():
        read = {"expression": "expression read from numbers"} | {k: k for k in RECOGNISED}
        kept = {title: as_rate(tried[0][key]) for key, title in read.items() if key in tried[0]}
        made.append({"approach": approach, "seed": seed} | by_clips(tried) | kept)
    return made


def of_real_people(rows: Sequence[Mapping]) -> list[dict]:
    """Reader by reader, known and unknown people; an attacker who does not learn from codes is the
    same for both.
    """
    made = []
    for (approach, reader), tried in grouped(rows, "approach", "reader").items():
        of = grouped(tried, "measure", "split")
        splits = [split for measure, split in of if measure == "identity"]
        for split in splits:
            row = {"approach": approach, "reader": reader, "people": split}
            row |= by_clips(of["identity", split])
            for s in ("known", "unknown"):
                if ("expression", s) in of and (len(splits) == 1 or s == split):
                    row[f"expression, {s} people"] = worst(of["expression", s])
            made.append(row)
    return made


def raised(rows: Sequence[Mapping], tried: Sequence[Mapping]) -> list[dict]:
    """A table whose worst attacks are the worst of those from within, too, approach by approach and
    seed by seed.

    Args:
        rows: of a table with columns of `WORST`; a row without seeds is of seed 0.
        tried: of ``within.json``.
    """
    inside = grouped(tried, "approach", "seed", "clips")

    def worse(cell: Rate | None, approach: str, seed: int, clips: int) -> Rate | None:
        if best := worst(inside.get((approach, seed, clips), ())):
            attack = best.attack.removeprefix(ON_PIXELS)
            decided = ", clip" if clips == 1 else ", added up"  # as `tables.worst_leakage` has it
            named = f"from within: {attack}" if attack == best.attack else attack + decided
            best = Worst(best.k, best.n, named)
        return max(filter(None, (cell, best)), key=lambda rate: rate.value, default=None)

    made = []
    for row in rows:
        said = row.get("seed", row.get("seeds", 0))
        seeds = list(map(int, said.split(","))) if isinstance(said, str) else np.atleast_1d(said)
        cells = {key: as_rate(row.get(key)) for key in WORST}
        for key, clips in WORST.items():
            held = getattr(cells[key], "rates", [cells[key]] * len(seeds))
            places = [(row["approach"], int(seed), clips) for seed in seeds]
            found = [worse(cell, *place) for cell, place in zip(held, places, strict=True)]
            if all(found):
                cells[key] = Spread(tuple(found)) if len(found) > 1 else found[0]
        made.append(dict(row) | {key: cell for key, cell in cells.items() if cell})
    return made


ON_PIXELS = "on pixels: "  # begins attacks of ``within.json`` that are not from within
RECOGNISED = ("acc", "acc_retrained")
WORST = {"plr_worst": 1, "plr_worst_4": 4, "plr_worst_16": 16}  # columns, and clips held
WITH_WORST = ("table1", "live", "seeds", "beyond_seeds", "dials")
TABLES: dict[str, Callable[[Sequence[Mapping]], list[dict]]] = {
    "twin": of_people,
    "real": of_real_people,
}


def rows_of(run: Run, names: Iterable[str]) -> Iterator[dict]:
    """Rows of ``within.json``: every attack from within that a run has made on these protectors."""
    people = len(run.classes("actor"))
    for name in filter(lambda name: run.has(f"within/{name}"), names):
        protector = run.protector(name)
        about = {"approach": protector.title, "seed": run.config.seed}
        more = {"expression": run.summary(f"within/{name}")["expression"]}
        symbols, epsilon = protector.symbols(run)
        if symbols:
            more["bound"] = codebook.bound(people, symbols, epsilon)
        for row in run.get(f"within/{name}"):
            yield about | row | more


def keep_all(run: Run, folder: Path) -> None:
    """Write ``within_all`` and ``table1_features``: every protector that was attacked from within
    in a run, and every one whose clips' features were probed.
    """
    asked, probed = (
        [name for name in run.protectors if run.has(f"{attack}/{name}")]
        for attack in ("within", "features")
    )
    if asked:
        write_table([pooled_row(run, name) for name in asked], folder, "within_all")
    if probed:
        write_table(feature_table(run, probed), folder, "table1_features")


def publish(folder: Path) -> None:
    """Write both below a folder that has ``twin`` and ``real``."""
    for name, table in TABLES.items():
        rows = json.loads((folder / name / "within.json").read_text())
        write_table(table(rows), folder / name, "within_worst")
    tried = json.loads((folder / "twin" / "within.json").read_text())
    for name in WITH_WORST:
        rows = json.loads((folder / "twin" / f"{name}.json").read_text())
        write_table(raised(rows, tried), folder / "twin", name)
