"""Every row of the tables, as cells of batches: what ``figures/twin`` holds.

    python tests/bench/rows.py run --out DIR       make rows, on all GPUs of the machine; stopped
                                                   (Ctrl-C, ``timeout 9m``), the same goes on;
                                                   on another machine too, which is given DIR
    python tests/bench/rows.py collect --out DIR   tables of those rows
    python tests/bench/rows.py publish --out DIR   the same, kept in figures/<profile>

``run --only folds`` or ``--only across`` makes that part alone: five folds of people nobody has
trained on, and what was trained on the main set, attacked and read on the wild one.

A cell is an approach under some settings. `ppfer.cli.batch` makes the stages it stands on; then all
that the tables ask of it is measured while its clips are at hand, and written to ``DIR/<run>/``, so
that nothing but the cells in hand is lost with the machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import common
import torch

from figures import inside
from ppfer.base.errors import PpferError
from ppfer.base.files import read_json, write_json
from ppfer.cli.batch import Batch, lately_opened, run_batch
from ppfer.cli.compare import Result, over_seeds, side_by_side
from ppfer.cli.grid import Cell, cells_of
from ppfer.config import REPO, Config, load_config
from ppfer.measure import HELD, json_rows, pooled, write_table
from ppfer.run.clips import ACTOR_FOLDS, FOLDS
from ppfer.run.exported import write_export
from ppfer.run.names import made_in
from ppfer.run.run import Run
from ppfer.run.stage import stage
from ppfer.study import paper, tables
from ppfer.study.attacks import attributes, features, recovery
from ppfer.study.protectors import ablation
from ppfer.twin.clips import RenderedWild

# what rows stand on; F_u comes last, so that who is second makes clips meanwhile
STAGES = ("identity", "protected/{approach}", "recognizer/none")
ROWS = ("none", "enhanced", *tables.TABLE1[1:])  # the paper's
SEEDED = (*ROWS, "live", "reenactment", "codebook", "donor", "ppfer_long")  # three seeds
INSIDE = ("enhanced", "flow", "deface_blur", "reenactment", "reenactment_neutral")  # within, too
WEAK = ("ppfer", "live", "reenactment", "reenactment_neutral", "donor")  # attacked until it is flat
TASKS = {task.protector: task for task in (*ablation.TASKS, ablation.FULL)}
KNOBS = {  # where the knob of an approach stands
    "live": lambda config: f"weight {config.live_weight:g}",
    "codebook": lambda config: f"{config.codebook_symbols} symbols",
    "reenactment": lambda config: f"constant {config.reenactment_offset:g}",
    "reenactment_neutral": lambda config: "constant 0",
}
# F_u trains shorter than in the tables, so that five folds and another data set take minutes
SHORT = {"recognition.steps": (350,), "adaptation.steps": (200,)}
SHARES = ("plr", "plr_retrained", "acc", "acc_retrained", *inside.WORST)
Found = list[tuple[str, dict]]  # rows, each with the name of its table

# --- what is asked of an approach -------------------------------------------------


def whole(run: Run, name: str) -> Found:
    """All that there is to ask: its rows of every table."""
    found = seeded(run, name)
    if run.protector(name).missing(run):
        return found
    found += [("table1_attackers", row) for row in tables.leakage_table(run, (name,))]
    if name in tables.approaches(run):
        found += [("table1_attributes", attributes.attribute_table(run, (name,))[0])]
        found += [("table1_groups", row) for row in attributes.accuracy_table(run, (name,))]
        found += [("table1_features", row) for row in features.feature_table(run, (name,))[:-1]]
    if name == tables.MORE[-1]:  # rows of no approach: the commonest group, the mean image
        found += [("table1_attributes", attributes.attribute_table(run, ())[-1])]
        found += [("table1_features", features.feature_table(run, ())[-1])]
        found += [("table3", recovery.table3(run, ())[-1])]
    return found


def seeded(run: Run, name: str) -> Found:
    """What several seeds are asked."""
    if run.protector(name).missing(run):
        return [("table1", tables.left_out(run, name))]
    beyond, found = name in tables.beyond(run), []
    tables.prepare(run, (name,), ("recognizer", "attack"))
    if name in tables.MAIN:
        found += [("main", tables.table_row(run, name))]
        found += [("table2", row) for row in tables.table2(run, (name,))]
    if name in tables.approaches(run):
        found += [("table1", tables.whole_row(run, name, more=beyond))]
        if name in KNOBS:
            found += [("dials", found[-1][1] | {"setting": KNOBS[name](run.config)})]
    if name in (*tables.approaches(run, recovery.MORE), "enhanced"):
        run.ensure(f"recovery/{name}")
        found += [("table3", recovery.table3_row(run, name))]
    if beyond:
        found += [("live", row) for row in recovery.beyond_table(run, (name,))]
    return found + from_within(run, name, found[0][1])


def from_within(run: Run, name: str, row: dict) -> Found:
    """All attacks from within, beside what F_u reads by the approach's row."""
    if name in INSIDE:
        run.ensure(f"within/{name}")
    read = {key: row[key] for key in ("approach", *inside.RECOGNISED)}
    return [("within", tried | read) for tried in inside.rows_of(run, (name,))]


def linear(run: Run, name: str) -> Found:
    """What a linear layer on thumbnails names, of rows made before it was asked: a table's worst
    attack is raised by it as by those from within.
    """
    run.ensure(f"attack_linear/{name}")
    said = run.logits(f"attack_linear/{name}", f"protected/{name}", "test").log_softmax(-1)
    whose, attack = run.labels("actor")[run.parts["test"]], inside.ON_PIXELS + tables.LINEAR
    about = {"approach": run.protector(name).title, "seed": run.config.seed, "attack": attack}
    named = {clips: pooled(said, whose, clips) for clips in HELD}
    return [("within", about | {"clips": n} | rate.to_dict()) for n, rate in named.items()]


def task(run: Run, name: str) -> Found:
    """A row of the ablation."""
    tables.prepare(run, (name,), ("recognizer", "attack"))
    about = {"approach": TASKS[name].title, "what_ran": TASKS[name].description}
    return [("table4", tables.table_row(run, name) | about)]


def schedule(run: Run, name: str) -> Found:
    """A point of the curve of schedules."""
    tables.prepare(run, (name,), ("recognizer", "attack", "recovery"))
    steps = run.summary(run.protector(name).needs[0])["best_step"]
    back = {f"recovery_{k}": v for k, v in recovery.recovery_cells(run, name).items()}
    return [("schedule", tables.table_row(run, name) | {"steps": steps} | back)]


def dial(run: Run, name: str) -> Found:
    """A row under other settings: what privacy costs as a weight or a constant moves. Live
    controllers, whom a linear layer on thumbnails names, are not attacked from within again.
    """
    tables.prepare(run, (name,), ())
    row, knob = tables.whole_row(run, name, more=False), KNOBS[name](run.config)
    if name != "reenactment_neutral":  # else an approach of its own
        row = row | {"approach": f"{row['approach']}, {knob}"}
    within = [] if name == "live" else from_within(run, name, row)
    return [("dials", row | {"setting": knob}), *within]


def budget(run: Run, name: str) -> Found:
    """The most that each of the suite's attackers names, trained for another number of steps."""
    row = {"approach": run.protector(name).title, "steps": run.config.attack.steps}
    for attack in tables.suite(run):
        run.ensure(f"{attack}/{name}")
        rates = tables.leak(run, f"{attack}/{name}", f"protected/{name}", "test")
        row[attack] = max(rates.values(), key=lambda rate: rate.value)
    return [("budgets", row)]


def fold(run: Run, name: str) -> Found:
    """What is read of people whom nobody has trained on, WAR and UAR, as DFEW's papers have it."""
    tables.prepare(run, (name,), ("recognizer",))
    row = {"fold": run.config.fold, "approach": run.protector(name).title}
    for again in (False, True):
        read, end = tables.measure_accuracy(run, name, retrained=again), "_retrained" * again
        row |= {f"acc{end}": read["average"], f"uar{end}": read["uar"]}
    return [("folds", row)]


# --- across data sets ---------------------------------------------------------------


@stage("clips", settings=("size", "frames", "wild_clips"), notebook="00", alone=True)
class WildClips(RenderedWild):
    """The wild set where the main one is usually: other people, before any background."""


def open_wild(config: Config, runs_dir: Path) -> Run:
    """A run on the wild set, whose people have names here."""
    run = lately_opened(config, runs_dir)
    run.stages["clips"] = WildClips
    return run


def exported(runs_dir: Path) -> Path:
    return runs_dir / "enhanced.safetensors"


def leave(run: Run, name: str) -> Found:
    """Export a protector of the main set; how its own validator is fooled is the first row."""
    title, what = run.protector(name).title, run.protector(name).description(run)
    exported(run.dir.parent).unlink(missing_ok=True)
    write_export(run, name, exported(run.dir.parent), {"title": title, "what_ran": what})
    row = {"clips": "main, trained on main", "approach": title, "what_ran": what}
    named = tables.measure_leakage(run, name, remapped=False)["random_frame"]
    return [("across", row | {"plr": named})]


def across(run: Run, name: str) -> Found:
    """Its row on the wild set, whose attackers and readers are trained there."""
    tables.prepare(run, (name,), ("recognizer", "attack"))
    where = "main" if name == "imported" else "wild" if name == "enhanced" else "neither"
    return [("across", {"clips": f"wild, trained on {where}"} | tables.table_row(run, name))]


GRIDS = {  # what is asked of which cells, in the order of the tables' rows
    "row": (whole, {"approach": (*ROWS, *tables.MORE)}),
    "linear": (linear, {"approach": (*tables.TABLE1, "live", "reenactment", "codebook")}),
    "task": (task, {"approach": tuple(TASKS)}),
    "schedule": (schedule, {"approach": ablation.CURVE}),
    "dial neutral": (dial, {"seed": (0, 1, 2), "approach": ("reenactment_neutral",)}),
    "dial offset": (dial, {"approach": ("reenactment",), "reenactment_offset": (0.0, 1.0)}),
    "seed": (seeded, {"seed": (1, 2), "approach": SEEDED}),
    "seed task": (task, {"seed": (1, 2), "approach": tuple(TASKS)}),
    "dial weight": (dial, {"approach": ("live",), "live_weight": (0.5, 1.0)}),
    **{f"budget {steps}": (budget, {"approach": WEAK}) for steps in (100, 300, 1200)},
    "folds": (
        fold,
        {"split_by": (ACTOR_FOLDS,), **SHORT}
        | {"fold": range(1, FOLDS + 1), "approach": ("none", "codebook")},
    ),
    "across 1": (leave, SHORT | {"approach": ("enhanced",)}),
    "across 2": (across, SHORT | {"approach": ("none", "imported", "enhanced", "codebook")}),
}
STAND_ON = {  # where that is less than `STAGES`
    "linear": ("protected/{approach}",),
    "folds": ("recognizer/none", "protected/{approach}"),
    "across 1": ("identity", "protected/{approach}"),
}

# --- all of them ------------------------------------------------------------------


@dataclass
class Rows(Batch):
    """A grid whose cells end with what was measured of them."""

    grid: str = ""
    out: Path = Path()

    def __post_init__(self):
        """What is finished is known beside its rows: other grids ask other things of one cell."""
        super().__post_init__()
        names = (f"{self.grid} {cell.values['approach']}.json" for cell in self.cells)
        places = zip(self.runs, names, strict=True)
        self.marks = [self.out / run.dir.name / "finished" / name for run, name in places]

    def stages(self, cell: Cell, run: Run) -> list[str]:
        left_out = run.protector(cell.values["approach"]).missing(run)
        return [] if left_out else super().stages(cell, run)

    def end(self, cell: Cell, run: Run) -> None:
        name, folder = cell.values["approach"], self.out / run.dir.name
        rows = [(table, json_rows([row])[0]) for table, row in GRIDS[self.grid][0](run, name)]
        about = {"seed": run.config.seed, "rows": rows}
        before, made = read_json(folder / "manifest.json"), made_in(run.dir)
        for clips in ("clips", "wild"):  # another machine must have drawn the same
            is_now, was = (one.get(clips, {}).get("sha256") for one in (made, before))
            if is_now and was and is_now != was:
                raise PpferError(f"{clips} of {folder} were {was[:8]}, drawn here {is_now[:8]}")
        write_json(folder / "rows" / f"{self.grid} {name}.json", about)
        write_json(folder / "manifest.json", before | made)


def make(args: argparse.Namespace) -> None:
    """Make the rows of every grid, one process a GPU; one that fails is tried by the next call."""
    runs = args.runs.resolve()
    for grid, (_, axes) in GRIDS.items():
        if args.only not in grid:
            continue
        steps = grid.partition("budget ")[2]
        fixed = {f"{stage}.steps": steps for stage in ("attack", "attack_clips") if steps}
        fixed |= {"imported": str(exported(runs))} if grid == "across 2" else {}
        opener = open_wild if grid == "across 2" else lately_opened
        cells = cells_of(axes, args.profile, fixed, (), STAND_ON.get(grid, STAGES))
        cells.sort(key=lambda cell: (cell.config.seed, *turn(cell.values["approach"])))
        about = {"grid": grid, "out": args.out.resolve(), "opener": opener}
        batch = Rows(cells, runs, runs / "batches" / grid, **about)
        for outcome in run_batch(batch, args.workers):
            print(f"{grid}, {cells[outcome.cell]}: {outcome.error or 'done'}", flush=True)


def turn(name: str) -> tuple[bool, bool]:
    """The order of rows: while one process makes what all stand on, another trains live
    controllers, which stand on clips alone; then come those that several seeds have.
    """
    return name not in ("none", "live"), name not in SEEDED


def made_rows(args: argparse.Namespace) -> list[tuple[str, int, str, dict]]:
    """(run, seed, table, row) of all rows there are, in the tables' order."""
    files = [
        file
        for grid, (_, axes) in GRIDS.items()
        for name in axes["approach"]
        for file in sorted(args.out.glob(f"*/rows/{grid} {name}.json"))
    ]
    return [
        (file.parent.parent.name, about["seed"], table, row)
        for file, about in ((file, json.loads(file.read_text())) for file in files)
        for table, row in about["rows"]
    ]


def collect(args: argparse.Namespace, to: Path | None = None) -> None:
    """Tables of each run, ``<to>/<run>/``, beside the rows where nothing else is said; with them
    the rows of Tables 1, 3 and 4 that several seeds have (``seeds``, ``seeds_table3``,
    ``seeds_table4``), in how many pairs each seed has the paper's order (``orders``), and what is
    asked seed by seed (``seeds_table2``, ``beyond_seeds``), under other settings (``dials``) and
    for other budgets, and every attack from within (``within.json``).
    """
    every, to = made_rows(args), to or args.out
    for run, table in dict.fromkeys((x[0], x[2]) for x in every if x[2] != "within"):
        write_table([x[3] for x in every if (x[0], x[2]) == (run, table)], to / run, table)
    beyond = (*inside.WORST, "acc", "acc_retrained", "linkage", "actions_r2")
    seeds = {f"seeds_{table}": of_seeds(every, table) for table in ("table1", "table3", "table4")}
    found = {
        "beyond_seeds": flat(by_approach(every, "live", beyond)),
        "dials": flat(by_approach(every, "dials", ("setting", *SHARES))),
        "budgets": flat(by_approach(every, "budgets", ("steps", *tables.WHOLE_SUITE))),
        "seeds": seeds.pop("seeds_table1"),
        "seeds_table2": flat(by_approach(every, "table2", ())),
        **seeds,
        "orders": orders(every),
        "folds": over_folds([row for _, _, table, row in every if table == "folds"]),
        "across": [row for _, _, table, row in every if table == "across"],
    }
    for name, rows in found.items():
        if rows:
            write_table(rows, to, name)
    if within := attacks(every):
        write_json(to / "within.json", within)


def by_approach(every: list, table: str, keys: Sequence[str]) -> Iterable[tuple[str, list[dict]]]:
    """A table's rows of all runs, those of one approach together, by seed.

    Without keys all that is measured but linkage: splits differ in who the strangers are.
    """
    found: dict[str, list[dict]] = {}
    for _, seed, _, row in sorted((x for x in every if x[2] == table), key=lambda x: x[1]):
        chosen = {k: row[k] for k in keys or row if k in row and (keys or k != "linkage")}
        about = {"approach": row["approach"], "seed": seed}
        found.setdefault(row["approach"], []).append(about | chosen)
    return found.items()


def of_seeds(every: list, table: str) -> list[dict]:
    """The rows of a table that several seeds have."""
    seeds = [rows for _, rows in by_approach(every, table, ()) if len(rows) > 1]
    return [
        over_seeds([[row] for row in rows])[0]
        | {"seeds": ", ".join(str(row["seed"]) for row in rows)}
        for rows in seeds
    ]


def orders(every: list) -> list[dict]:
    """Seed by seed and table by table, of how many pairs that have an order in both the paper's
    order is ours.
    """
    found = []
    for seed in sorted({x[1] for x in every}):
        row = {"seed": seed}
        for table, published in paper.TABLES.items():
            kept, left = paper.orderings(
                [x[3] for x in every if x[1:3] == (seed, table)], published
            )
            row |= {f"Table {table[-1]}": f"{len(kept)} of {len(kept) + len(left)}"} if kept else {}
        found += [row] * (len(row) > 1)
    return found


def over_folds(rows: list[dict]) -> list[dict]:
    """Each fold's rows, then their mean and its interval, as `ppfer batch` has them."""
    folds: dict[int, list[dict]] = {}
    for row in rows:
        own = {key: cell for key, cell in row.items() if key != "fold"}
        folds.setdefault(row["fold"], []).append(own)
    results = [Result("", {"fold": fold}, own) for fold, own in sorted(folds.items())]
    return [{k: v for k, v in row.items() if k != "run"} for row in side_by_side(results)]


def attacks(every: list) -> list[dict]:
    """Rows of ``within.json``: every attack, those on an approach together, by seed."""
    rows = [row for _, _, table, row in every if table == "within"]
    order = list(dict.fromkeys(row["approach"] for row in rows))

    def place(row: dict) -> tuple[int, int, bool]:
        on_pixels = row["attack"].startswith(inside.ON_PIXELS)
        return order.index(row["approach"]), row["seed"], on_pixels

    return sorted(rows, key=place)


def flat(groups: Iterable[tuple[str, list[dict]]]) -> list[dict]:
    return [row for _, rows in groups for row in rows]


def keep(args: argparse.Namespace) -> None:
    """What `collect` finds, in figures/, how the first seed was made, and what is drawn of both.
    Where the rows lie nothing is added.
    """
    with TemporaryDirectory() as folder:
        to = Path(folder)
        collect(args, to)
        made = to / args.profile  # tables of the first seed; those of all grids go beside them
        first = args.out / args.profile / "manifest.json"
        for path in (first, *to.glob("*.json"), *to.glob("*.md")):
            shutil.copy(path, made)
        (made / "discrepancies.md").write_text(paper.discrepancies(made))
        common.publish.keep_tables(made, args.profile, load_config(args.profile).actors)
    common.publish.refresh()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = {"run": make, "collect": collect, "publish": keep}
    parser.add_argument("what", choices=what)
    parser.add_argument("--profile", default="twin")
    parser.add_argument("--runs", type=Path, default=REPO / "runs")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="run grids whose names hold this, e.g. budget")
    gpus = torch.cuda.device_count() or 1
    parser.add_argument("--workers", type=int, default=gpus, help="processes; two share a GPU well")
    given = parser.parse_args()
    what[given.what](given)
