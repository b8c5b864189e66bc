"""What a protector leaked when it was measured, and what that does not promise."""

from pathlib import Path

from ppfer.base.files import read_json
from ppfer.config import REPO
from ppfer.measure import as_rate, cell_text
from ppfer.run.run import Run
from ppfer.run.stage import Protector

NAMED = {  # columns of a table, in words
    "plr": "by a recogniser of these people trained on originals",
    "plr_retrained": "by one trained again on protected clips",
    "plr_worst": "by the worst attack of its table, which it names",
    "linkage": "strangers, matched with their originals by a network on pixels",
    "outside": "by another project's face recogniser",
}
BEYOND = NAMED | {
    f"plr_worst_{n}": f"by the worst attack from {n} clips of a person" for n in (4, 16)
}
MANY = 10_000  # people, for whom a bound is said
FIGURES = REPO / "figures"  # what was measured
PROMISE = (
    "How somebody moves is who he is. Not promised: that nobody is known by voice, body, clothes "
    "or surroundings; nor that what it shows is what was felt. More: figures/README.md"
)


def closed_set(run: Run, *, named: bool = True) -> str:
    """For whom a trained protector was made; `named`, with what run and data are called."""
    who, where = (run.dir.name, f" in {run.config.data}") if named else ("This protector", "")
    return (
        f"{who} was trained on {_people(run)}{where} and measured on "
        "those alone: nothing was measured for anybody else."
    )


def _people(run: Run) -> str:
    """How many people a run's clips are of; without a number where the clips were removed."""
    return f"{len(run.classes('actor'))} people" if run.has("clips") else "the people"


def leakage_rows(run: Run, name: str) -> list[dict]:
    """The rows of a protector in the run's tables: of leakage, else of what is beyond the paper."""
    title = run.protector(name).title
    tables = [read_json(run.dir / "tables" / f"{of}.json", []) for of in ("leakage", "live")]
    found = [[row for row in rows if row["approach"] == title] for rows in tables]
    return found[0] or found[1]


def leaked(run: Run, name: str) -> str:
    """What a protector leaked when it was measured, and what that does not promise."""
    title, rows = run.protector(name).title, leakage_rows(run, name)
    if not rows:
        return f"How much {title} leaks was not measured in this run: ppfer run --notebooks 07"
    lines = [f"What {title} leaked on this run's test clips ({_people(run)}, still named):"]
    for row in rows:
        if "validator" not in row:
            lines += _named(row, BEYOND)
            continue
        worst = max((k for k in row if as_rate(row[k])), key=lambda k: as_rate(row[k]).value)
        frames = f"{cell_text(row['random_frame'])} of random frames"
        worst = f"worst attacker ({worst}): {cell_text(row[worst])}"
        lines.append(f"  validator {row['validator']}: {frames}; {worst}")
    promise = "This is no promise for other people, other cameras, body, clothes or surroundings."
    return "\n".join([*lines, promise])


def at_length(protector: Protector, run: Run) -> str:
    """All that was measured of what a protector leaks, by this run or, of a donor, for all runs;
    and of a codebook the bound that no attacker passes.
    """
    measured = leaked_by(protector) if protector.size else leaked(run, protector.name)
    return "\n".join([measured, *_bound(protector, run)])


def around(outside: str) -> list[str]:
    """What a video gives away beside the face, by what becomes of the rest: a line, if measured."""
    rows = read_json(FIGURES / "real" / "videos.json", [])[outside == "black" :][:1]
    return [
        f"By {row['what is seen']}: {cell_text(row['1 clip'])} of ten real people's clips are "
        "named, with a codebook's donor for a face. --frame alone leaves that out."
        for row in rows
    ]


def in_short(protector: Protector, run: Run) -> str:
    """A few lines for the end of a call: the worst that was measured of a protector, of a codebook
    the bound that no attacker passes, and where the rest stands (`leaked`, `leaked_by`).
    """
    lines = [line.strip() for line in at_length(protector, run).splitlines()]
    worst = []
    for held in (", from one clip:", ", from 16 clips"):  # one clip is not all that he may hold
        worst += [f"read back, of {line}" for line in lines if held in line][-1:]
    worst += [line for line in lines if "worst" in line and ":" in line][-1:]
    measured = f"still named: {'; '.join(worst)}" if worst else "how much it leaks was not measured"
    lines = [f"{protector.title}: {measured}.", *_bound(protector, run)]
    lines += [
        "Not promised: that nobody is known by a way of moving or a voice; nor, but for --frame "
        "alone, by body, clothes, surroundings or where the head is. More: figures/README.md"
    ]
    return "\n".join(lines)


def _bound(protector: Protector, run: Run) -> list[str]:
    """What one symbol can tell at most of who shows it, where symbols are all that passes."""
    symbols, epsilon = protector.symbols(run)
    if not symbols:
        return []
    from ppfer.study.protectors.codebook import bound

    answers = f", answers randomised with ε = {epsilon:g}" if epsilon else ""
    but, most = " but the key" * bool(epsilon), 100 * bound(MANY, symbols, epsilon)
    return [
        f"The bound: the donor's face shows one of {symbols} symbols{answers}; from one of them "
        f"nobody, whatever he knows{but}, names more than {most:.2g} % "
        f"of {MANY:,} people. A new one comes every second, and each says more."
    ]


def leaked_by(protector: Protector, figures: Path = FIGURES) -> str:
    """What a protector of anybody leaked on synthetic actors and on real people; what whoever reads
    it back got; and what it does not promise.
    """
    lines, twin = [], figures / "twin" / "live.json"
    if row := _row(protector, twin, figures / "demo" / "live.json"):
        lines += ["Synthetic people that it never saw:", *_named(row)]
    if row := _row(protector, figures / "real" / "live.json"):
        whose = f"{row['people']} real people, of whom {row['strangers']} are the strangers:"
        lines += [whose, *_named(row)]
    lines += _read_back(protector, figures)
    first = f"People still named behind {protector.title}, when it was measured"
    if not lines:
        first = f"How much {protector.title} leaks was not measured: {twin} says nothing of it"
    return "\n".join([f"{first}.", *lines, PROMISE])


def _read_back(protector: Protector, figures: Path) -> list[str]:
    """The most that attackers from within named, a line for each number of clips they held."""
    from ppfer.study.catalogue import PROTECTORS

    lines, others = [], {other.title for other in PROTECTORS}
    for of, people in (("twin", "synthetic people"), ("real", "ten real people")):
        rows = read_json(figures / of / "within.json", [])
        rows = [r for r in rows if r.get("measure", "identity") == "identity"]
        rows = [r for r in rows if f"{r['approach']},".startswith(f"{protector.title},")]
        rows = [r for r in rows if r["approach"] == protector.title or r["approach"] not in others]
        for clips in dict.fromkeys(r["clips"] for r in rows):
            tried = [r for r in rows if r["clips"] == clips]
            most = max(tried, key=lambda r: r["k"] / r["n"])
            held = "from one clip" if clips == 1 else f"from {clips} clips of a person"
            share = cell_text({"k": most["k"], "n": most["n"]})
            lines.append(f"  {people}, {held}: {share} ({most['attack']})")
    if not lines:
        return []
    return ["By who reads what passes back off the video, the most that was tried:", *lines]


def _row(protector: Protector, *paths: Path) -> dict:
    """A protector's row in the first of the files that has one; {} if none has."""
    tables = (read_json(path, []) for path in paths)
    rows = (row for table in tables for row in table if row["approach"] == protector.title)
    return next(rows, {})


def _named(row: dict, ways: dict[str, str] = NAMED) -> list[str]:
    """How many people are named in a row, a line for each way."""
    shares = {key: as_rate(cell) for key, cell in row.items() if key in ways}
    return [f"  {ways[key]}: {cell_text(share)}" for key, share in shares.items()]
