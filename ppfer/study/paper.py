"""The paper's published numbers as data, and ours beside them: contradicted orderings, the page of
discrepancies.

Shares are in percent as printed, of 2,232 test clips. Keys are the approaches as our tables name
them.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ppfer.measure import Rate, as_rate, cell_text

CLIPS, ACTORS = 2232, 91
OURS = {"plr": "plr", "acc": "acc_retrained"}  # it freezes V_pl, and trains F_u on what it is shown


def _table(measures: str, rows: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    return {name: dict(zip(measures.split(), row, strict=True)) for name, row in rows.items()}


TABLE1 = _table(
    "plr acc",
    {
        "No privacy preservation": (100.0, 87.201),
        "Gaussian blur 1": (2.150, 20.968),
        "Gaussian blur 2": (88.978, 77.778),
        "Trade-off framework": (33.020, 71.827),
        "Optical flow": (1.030, 16.308),
        "Image swapping": (3.674, 64.964),
        "PPFER (C)": (2.016, 78.843),
    },
)
TABLE2 = _table(
    "angry disgust fear happy neutral sad average",
    {
        "No privacy preservation": (91.7, 98.8, 80.3, 98.3, 84.9, 80.8, 87.2),
        "PPFER (C)": (93.6, 81.2, 80.0, 96.7, 80.7, 40.9, 78.8),
    },
)
TABLE3 = _table(
    "ssim psnr plr",
    {
        "Gaussian blur 1": (0.94, 31.14, 72.45),
        "Gaussian blur 2": (0.96, 32.54, 94.58),
        "Trade-off framework": (0.57, 19.97, 46.19),
        "Optical flow": (0.40, 9.59, 5.91),
        "Image swapping": (0.50, 15.46, 41.91),
        "PPFER (C)": (0.41, 10.18, 5.65),
    },
)
TABLE4 = _table(
    "plr acc",
    {
        "Task 1": (12.993, 73.028),
        "Task 2": (32.975, 72.429),
        "Task 3": (12.903, 54.487),
        "Task 4": (2.106, 61.187),
        "Task 5": (2.061, 48.656),
        "Task 6": (31.989, 68.831),
        "Full method": (2.016, 78.843),
    },
)
TABLES = {"table1": TABLE1, "table2": TABLE2, "table3": TABLE3, "table4": TABLE4}


@dataclass(frozen=True)
class Reading:
    """What the paper may have measured where our order differs, so that it can be tested."""

    words: str
    stand_ins: Mapping[str, str] = field(default_factory=dict)  # ours for the one of that name
    as_trained: tuple[str, ...] = ()  # whose accuracy is that of F_u as trained on originals

    def of(self, rows: Sequence[dict]) -> list[dict]:
        """Rows as this has them; none where an approach was not measured."""
        found = {row["approach"]: row for row in rows if "plr" in row}
        if not found.keys() >= {*self.stand_ins.values(), *self.as_trained}:
            return []
        found |= {name: found[other] for name, other in self.stand_ins.items()}
        found |= {n: found[n] | {OURS["acc"]: found[n]["acc"]} for n in self.as_trained}
        return [row | {"approach": name} for name, row in found.items()]


DRAWN = ("Optical flow", "Image swapping")
SWAP = {"Image swapping": "Perfect swap (limit)"}
LONG = {"PPFER (C)": "PPFER run long (C)"}
READINGS = {
    "table1": (
        Reading("F_u not trained again on optical flow and swapped faces", as_trained=DRAWN),
        Reading("the same, and a swap that hides who it is", SWAP, DRAWN),
    ),
    "table3": (
        Reading("a swap that hides who it is", SWAP),
        Reading("Algorithm 1 run long", LONG),
        Reading("both", SWAP | LONG),
    ),
}
MARGIN = {"ssim": 0.02, "psnr": 1.0}  # differences that mean something, where there is no interval

INCONSISTENCIES = """\
- Table 1's and Table 4's leakage ratios are all whole numbers of 2,232 clips; {odd} of the {all}
  accuracies there are not.
- §4.6 says Task 4 left 46 identities; Table 4's 2.106 % is 47 of 2,232, and 46 is Task 5.
- Table 2's classes without protection average {average:.1f} %, or {weighted:.1f} % weighted by
  CREMA-D's class sizes; beside them stands 87.2 %.
- §4.2 says all pre-training uses CREMA-D, and that C_fc is pre-trained on DFEW.
- Table 3 has six approaches; §4.5 has two of them outperform "the other five".
- 45 of 2,232 has a 95 % interval of {low:.1f}–{high:.1f} %: above chance (1.10 %). 45, 46, 47 and
  48 cannot be told apart.
- Optical flow's accuracy of 16.31 % is close to 1/6 and its leakage of 1.03 % close to 1/91: what
  networks that only ever saw faces would say of flow pictures. `acc` and `acc_retrained` below
  show the difference.
"""
NOTE = """\
The paper's clips are of CREMA-D's 91 actors. "Reproduced" means that its number lies within our
95 % interval (for SSIM and PSNR: within 0.02 and 1 dB); on other data that is not to be expected,
and the order of approaches says more.
"""


def count_of(percent: float) -> int | None:
    """The whole number of clips behind a percentage of three decimals; None where none fits."""
    k = round(percent * CLIPS / 100)
    return k if abs(100 * k / CLIPS - percent) <= 1.1e-3 else None


def orderings(
    rows: Sequence[dict], published: Mapping[str, Mapping[str, float]]
) -> tuple[list[str], list[str]]:
    """Pairs of approaches that the paper puts in a clear order, compared with ours.

    Clear means that 95 % intervals do not overlap (theirs over 2,232 clips), or for SSIM and PSNR a
    difference of `MARGIN`.

    Returns:
        (kept, contradicted), a sentence for each; pairs that are not clear on both sides are in
        neither.
    """
    # of each measure, every pair of approaches that both have
    found = {row["approach"]: row for row in rows}
    kept, contradicted = [], []
    for measure in next(iter(published.values())):
        column = OURS.get(measure, measure)
        both = [
            (name, cells[measure], found[name][column])
            for name, cells in published.items()
            if column in found.get(name, {})
        ]
        for (a, their_a, our_a), (b, their_b, our_b) in itertools.combinations(both, 2):
            theirs, ours = _order(measure, their_a, their_b), _order(measure, our_a, our_b)
            if theirs and ours:
                sign = "below" if theirs < 0 else "above"
                sentence = (
                    f"{measure.upper()}: the paper has {a} ({their_a:g}) {sign} {b} ({their_b:g}); "
                    f"here {cell_text(our_a)} against {cell_text(our_b)}"
                )
                (kept if theirs == ours else contradicted).append(sentence)
    return kept, contradicted


def _order(measure: str, a: object, b: object) -> int:
    """-1 when a is clearly below b, 1 when above, 0 when they cannot be told apart."""
    if measure in MARGIN:
        return 0 if abs(a - b) < MARGIN[measure] else -1 if a < b else 1
    a, b = (as_rate(x) or Rate(round(x * CLIPS / 100), CLIPS) for x in (a, b))
    return -1 if a.interval[1] < b.interval[0] else 1 if a.interval[0] > b.interval[1] else 0


def discrepancies(folder: Path) -> str:
    """A page in Markdown: the paper's own inconsistencies, and beside each published number ours,
    from ``table1.json`` … ``table4.json`` in a folder; a missing one is said to be missing.
    """
    # within the paper: the last row of Table 4, the full method, stands in Table 1 already
    accuracies = [cells["acc"] for table in (TABLE1, TABLE4) for cells in table.values()][:-1]
    unprotected = {k: v for k, v in TABLE2["No privacy preservation"].items() if k != "average"}
    weighted = sum(v * (1087 if k == "neutral" else 1271) for k, v in unprotected.items()) / 7442
    low, high = (100 * v for v in Rate(45, CLIPS).interval)
    within = INCONSISTENCIES.format(
        odd=sum(count_of(a) is None for a in accuracies),
        all=len(accuracies),
        average=sum(unprotected.values()) / 6,
        weighted=weighted,
        low=low,
        high=high,
    )
    parts = ["# Where the numbers differ\n\n## Within the paper\n", within]
    parts += ["\n## Between the paper and this run\n", NOTE]
    # beside the run: cell by cell, then the order of rows, which a small twin can keep
    for name, published in TABLES.items():
        path = folder / f"{name}.json"
        parts.append(f"\n### Table {name[-1]}\n")
        if not path.exists():
            parts.append("Not made yet.\n")
            continue
        rows = json.loads(path.read_text("utf-8"))
        parts += ["| approach | measure | paper | clips | ours | reproduced |", "|" + " --- |" * 6]
        parts += _compared(rows, published, counts=name in ("table1", "table4"))
        kept, contradicted = orderings(rows, published)
        parts.append(
            f"\nOf {len(kept) + len(contradicted)} pairs of numbers with a clear order in both, "
            f"{len(kept)} are in the same order"
            + (" and these are not:\n" if contradicted else ".\n")
        )
        parts += [f"- {sentence}" for sentence in contradicted]
        parts += _tested(name, rows)
    return "\n".join(parts).rstrip() + "\n"


def _tested(name: str, rows: Sequence[dict]) -> list[str]:
    """Lines of Markdown: orders of a table under each of its readings, and what is left."""
    lines = []
    for reading in READINGS.get(name, ()):
        if read := reading.of(rows):
            kept, left = orderings(read, TABLES[name])
            lines.append(f"- {reading.words}: {len(kept)} of {len(kept) + len(left)}")
    if not lines:
        return []
    rest = ["\nLeft by the last:\n", *(f"- {sentence}" for sentence in left)] if left else []
    return ["\nIn the same order if the paper had:\n", *lines, *rest]


def _compared(
    rows: Sequence[dict], published: Mapping[str, Mapping[str, float]], *, counts: bool
) -> list[str]:
    """Lines of Markdown; with `counts`, where three decimals tell them, the clips of a share."""
    found = {row["approach"]: row for row in rows}
    lines = []
    for name, cells in published.items():
        for measure, theirs in cells.items():
            cell = found.get(name, {}).get(OURS.get(measure, measure))
            count = "" if not counts else "none" if count_of(theirs) is None else count_of(theirs)
            ours, same = f" {cell_text(cell)}", "no"
            if cell is None:
                ours, same = "", "not run"
            elif rate := as_rate(cell):
                low, high = (100 * edge for edge in rate.interval)
                same = "yes" if low - 1e-6 <= theirs <= high + 1e-6 else "no"
            elif abs(cell - theirs) <= MARGIN[measure]:
                same = "yes"
            lines.append(f"| {name} | {measure} | {theirs:g} | {count} |{ours} | {same} |")
    return lines
