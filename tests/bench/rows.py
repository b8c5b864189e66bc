"""Every row of the tables, one process a GPU, in parts that resume: what ``figures/twin`` holds.

    python tests/bench/rows.py run --out DIR [--minutes 9]   make rows until the time is up; the
                                                             same command goes on from there
    python tests/bench/rows.py collect --out DIR             tables and manifests of those rows
    python tests/bench/rows.py publish --out DIR             the same, kept in figures/<profile>

A row is a job: all that one approach is asked, while its clips are at hand. What a job found is
written to ``DIR/<process>.jsonl`` when it ends, so that nothing but the job in hand is lost with
the machine. Jobs wait for the stages they stand on; which jobs are done is known by files in the
runs folder.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ppfer.base.files import write_json
from ppfer.config import REPO, load_config
from ppfer.measure import over_seeds, plain, write_table
from ppfer.run.run import Run
from ppfer.study.attacks import attributes, recovery
from ppfer.study.catalogue import open_run, paper, tables
from ppfer.study.protectors import ablation, long_schedule

READERS = ("identity", "recognizer/none")
PPFER, LONG = ("pretrain", "compensation"), ("pretrain", "compensation/enhanced_long")
STANDS_ON = {  # rows that wait for more than the readers
    "ppfer": PPFER,
    "blur1": (*PPFER, "recognizer/ppfer"),
    "blur2": (*PPFER, "recognizer/ppfer"),
    "tradeoff": ("pretrain",),
    "ppfer_long": LONG,
    "live": ("live",),
    "enhanced": ("privacy",),
    "task1": ("protected/task3",),
    "task2": ("protected/task2_g",),
    "task4": PPFER,
}
SEEDED = ("none", "reenactment", "ppfer", "donor", "live", "ppfer_long", "swap")  # three seeds
SWEEPS = {  # rows under other settings: what privacy costs as its weight or noise moves
    "live": ({"live_weight": 0.5}, {"live_weight": 1.0}),
    "reenactment": ({"reenactment_offset": 0.0}, {"reenactment_offset": 1.0}),
    "reenactment_neutral": ({},),
}
KNOBS = {  # where the knob of an approach stands
    "live": lambda config: f"weight {config.live_weight:g}",
    "reenactment": lambda config: f"constant {config.reenactment_offset:g}",
    "reenactment_neutral": lambda config: "constant 0",
}
BEYOND = ("linkage", "actions_r2")
SHARES = ("plr", "plr_retrained", "acc", "acc_retrained", "plr_worst")
BUDGETS = (100, 300, 1200)  # attackers' steps, until the curve is flat
# rows whose attackers get those
WEAK = ("ppfer", "live", "reenactment", "reenactment_neutral", "donor")


@dataclass(frozen=True)
class Job:
    """A piece of work: its result is (table, row) pairs."""

    name: str
    settings: dict
    needs: tuple[str, ...]
    work: Callable[[Run], list[tuple[str, dict]]]


def made(*stages: str) -> Callable[[Run], list]:
    """Work that makes stages and finds nothing."""

    def work(run: Run) -> list:
        for name in stages:
            tables.ensure(run, name) if run.describe(name).origin()[0] else run.make(
                name, load=False
            )
        return []

    return work


def asked(name: str, *, whole: bool) -> Callable[[Run], list]:
    """All that is asked of an approach: its rows of every table, or what several seeds tell."""

    def work(run: Run) -> list:
        if run.protector(name).missing(run):
            return [("table1", tables.left_out(run, name))]
        beyond = name in tables.beyond(run)
        tables.prepare(run, (name,), ("recognizer", "attack"))
        found = []
        if name in tables.MAIN:
            found += [("main", tables.table_row(run, name))]
            found += [("table2", row) for row in tables.table2(run, (name,))]
        if name in tables.approaches(run):
            row = tables.whole_row(run, name, more=beyond)
            found += [("table1", row)]
            found += [("dials", row | turned(run, name))] * (name in KNOBS)
        if beyond:
            found += [("live", row) for row in recovery.beyond_table(run, (name,))]
        if not whole:
            return found
        found += [("table1_attackers", row) for row in tables.leakage_table(run, (name,))]
        if name in tables.approaches(run):
            found += [("table1_attributes", attributes.attribute_table(run, (name,))[0])]
            found += [("table1_groups", row) for row in attributes.accuracy_table(run, (name,))]
        if name in (*tables.approaches(run, recovery.MORE), "enhanced"):
            tables.ensure(run, f"recovery/{name}")
            found += [("table3", recovery.table3_row(run, name))]
        return found

    return work


def controls(run: Run) -> list[tuple[str, dict]]:
    """The rows of no approach: the commonest group, and the mean image."""
    return [
        ("table1_attributes", attributes.attribute_table(run, ())[-1]),
        ("table3", recovery.table3(run, ())[-1]),
    ]


def task(number: int) -> Callable[[Run], list]:
    """A row of the ablation."""
    tasks = {t.number: t for t in (*ablation.TASKS, ablation.FULL)}

    def work(run: Run) -> list:
        name = tasks[number].protector
        tables.prepare(run, (name,), ("recognizer", "attack"))
        row = tables.table_row(run, name)
        said = {"approach": tasks[number].title, "what_ran": tasks[number].description}
        return [("table4", row | said)]

    return work


def point(name: str) -> Callable[[Run], list]:
    """A point of the curve of schedules."""

    def work(run: Run) -> list:
        tables.prepare(run, (name,), ("recognizer", "attack", "recovery"))
        steps = run.manifest(run.protector(name).needs[0])["summary"]["best_step"]
        back = {f"recovery_{k}": v for k, v in recovery.recovery_cells(run, name).items()}
        return [("schedule", tables.table_row(run, name) | {"steps": steps} | back)]

    return work


def swept(name: str, settings: dict) -> Callable[[Run], list]:
    """A row under other settings."""

    def work(run: Run) -> list:
        tables.prepare(run, (name,), ())
        row, how = tables.whole_row(run, name, more=False), turned(run, name)
        named = ", ".join([row["approach"], *(how.values() if settings else ())])
        return [("dials", row | how | {"approach": named})]

    return work


def turned(run: Run, name: str) -> dict[str, str]:
    """Where the knob of an approach stands; of one without a knob nothing."""
    return {"setting": KNOBS[name](run.config)} if name in KNOBS else {}


def attacked(name: str) -> Callable[[Run], list]:
    """The suite's attackers with another number of steps."""

    def work(run: Run) -> list:
        row = {"approach": run.protector(name).title, "steps": run.config.attack.steps}
        for stage in tables.suite(run):
            tables.ensure(run, f"{stage}/{name}")
            rates = tables.named_by(run, f"{stage}/{name}", f"protected/{name}")
            row[stage] = max(rates.values(), key=lambda rate: rate.value)
        return [("budgets", row)]

    return work


def jobs() -> Iterator[Job]:
    """All jobs, the most wanted first."""
    yield Job("clips", {}, (), made("clips", "split"))
    yield Job("wild", {}, (), made("wild"))
    yield from stages({}, "")
    for name in SEEDED:
        yield Job(f"row {name}", {}, needed(name), asked(name, whole=True))
    rest = [n for n in (*tables.TABLE1, *tables.MORE) if n not in SEEDED]
    for name in ("enhanced", *rest):
        yield Job(f"row {name}", {}, needed(name), asked(name, whole=True))
    yield Job("controls", {}, READERS, controls)
    yield Job("joint", {}, (*READERS, "pretrain"), made("protected/task2_g"))
    tasks = {t.number: t.protector for t in (*ablation.TASKS, ablation.FULL)}
    for number in (3, 6, 1, 4, 2, 5, 0):
        yield Job(f"task {number}", {}, needed(tasks[number], PPFER), task(number))
    for name in long_schedule.CURVE:
        yield Job(f"schedule {name}", {}, (*READERS, *LONG), point(name))
    for name in ("reenactment", "reenactment_neutral"):
        yield from sweep(name)
    for seed in ({"seed": 1}, {"seed": 2}):
        end = f" seed {seed['seed']}"
        yield from stages(seed, end)
        for name in SEEDED:
            yield Job(f"row {name}{end}", seed, needed(name), asked(name, whole=False))
    yield from sweep("live")
    for steps in BUDGETS:
        more = {"attack.steps": steps, "attack_clips.steps": steps}
        for name in WEAK:
            needs = (*READERS, f"recognizer/{name}")
            yield Job(f"budget {name} {steps}", more, needs, attacked(name))


def needed(name: str, others: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Stages that a row waits for."""
    return (*READERS, *STANDS_ON.get(name, others))


def stages(seed: dict, end: str) -> Iterator[Job]:
    """What the rows of a seed stand on, the longest chains first."""
    yield Job("identity" + end, seed, ("clips",), made("split", "identity", "pretrain"))
    yield Job("F_u" + end, seed, ("clips",), made("split", "protected/none", "recognizer/none"))
    before = ("wild", *READERS, "pretrain")
    short = made("privacy", "protected/enhanced", "expression", "compensation")
    yield Job("PPFER" + end, seed, before, short)
    yield Job("live" + end, seed, (*READERS, "pretrain"), made("live"))
    late = (*before, "expression")
    yield Job("long" + end, seed, late, made("privacy/long", "compensation/enhanced_long"))


def sweep(name: str) -> Iterator[Job]:
    """A row under other settings, each of which makes what it stands on itself."""
    for settings in SWEEPS[name]:
        said = f"sweep {name} {settings}"
        yield Job(said, settings, (*READERS, "pretrain"), swept(name, settings))


# --- one process ------------------------------------------------------------------


def work_off(profile: str, runs_dir: Path, out: Path, minutes: float, only: str) -> None:
    """Take jobs whose inputs are there, one after another, until the time is up or all are done."""
    began, marks = time.monotonic(), runs_dir / "jobs"
    marks.mkdir(parents=True, exist_ok=True)
    wanted = [job for job in jobs() if job.name.startswith(only)]
    opened, told, last = {}, {}, ""
    while (time.monotonic() - began) / 60 < minutes:
        left = [j for j in wanted if not (marks / f"{j.name}.done").exists()]
        job = next((j for j in left if claimed(j, opened, profile, runs_dir, marks)), None)
        if job is None:
            if not any((marks / f"{j.name}.claim").exists() for j in left):
                return  # nobody is making what the rest waits for
            time.sleep(1)
            continue
        key = json.dumps(job.settings)
        if last not in ("", key):  # clips of one run at a time
            kept = opened[last].room
            opened[last] = open_run(opened[last].config, runs_dir)
            for held in ("tensors", "stores"):
                if "clips" in getattr(kept, held):
                    getattr(opened[key].room, held)["clips"] = getattr(kept, held)["clips"]
            del kept
        gc.collect()  # what a job left, a failed one's traceback among it
        torch.cuda.empty_cache()
        last, at = key, time.monotonic()
        try:
            said = {"rows": plain_rows(job.work(opened[key]))}
        except Exception as error:  # the others go on; the mark says what is missing
            traceback.print_exc()
            said = {"failed": f"{type(error).__name__}: {error}"}
        said |= {"job": job.name, "run": opened[key].dir.name, "seed": opened[key].config.seed}
        said["seconds"] = round(time.monotonic() - at, 1)
        with (out / f"{os.environ.get('CUDA_VISIBLE_DEVICES', 'cpu')}.jsonl").open("a") as stream:
            known, made_by = told.get(key, {}), publish.finished(opened[key].dir)
            news = {stage: how for stage, how in made_by.items() if stage not in known}
            stream.write(json.dumps(said | {"manifest": news}) + "\n")
            told[key] = made_by
        (marks / f"{job.name}.done").write_text(said.get("failed", ""))
        print(f"{job.name}: {said.get('failed', 'done')} {said['seconds']} s", flush=True)


def plain_rows(found: list[tuple[str, dict]]) -> list:
    """(table, row) pairs as JSON has them."""
    return [[table, plain([row])[0]] for table, row in found]


def claimed(job: Job, opened: dict, profile: str, runs_dir: Path, marks: Path) -> bool:
    """Whether a job can start, and is now this process's."""
    key = json.dumps(job.settings)
    if key not in opened:
        opened[key] = open_run(load_config(profile, job.settings), runs_dir)
    if not all(opened[key].has(need) for need in job.needs):
        return False
    try:
        (marks / f"{job.name}.claim").mkdir()
    except FileExistsError:
        return False
    return True


def side_by_side(args: argparse.Namespace) -> None:
    """One process a GPU (or one without); what an earlier part claimed or failed is free again."""
    marks = args.runs / "jobs"
    for mark in marks.glob("*.claim"):
        mark.rmdir()
    for mark in marks.glob("*.done"):
        if mark.read_text():
            mark.unlink()
    args.out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, "work", *sys.argv[2:]]
    children = []
    for gpu in range(torch.cuda.device_count()) or [None]:
        env = os.environ | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": str(gpu)})
        children.append(subprocess.Popen(command, env=env))
    for child in children:
        child.wait()


def collect(args: argparse.Namespace) -> None:
    """Tables of each run, in their own order, and manifests: ``<out>/<run>/``; beside them
    ``seeds``, the rows of Table 1 that several seeds have, and what is asked of some approaches
    seed by seed (``beyond_seeds``) and under other settings (``dials``).
    """
    lines = [json.loads(x) for p in sorted(args.out.glob("*.jsonl")) for x in p.open()]
    rows = [f"row {name}" for name in ("none", "enhanced", *tables.TABLE1[1:], *tables.MORE)]
    tasks = [f"task {number}" for number in (1, 2, 3, 4, 5, 6, 0)]
    names = dict.fromkeys([*rows, *tasks, *(job.name for job in jobs())])
    order = {name: place for place, name in enumerate(names)}
    # jobs that today's list does not know come last
    lines.sort(key=lambda line: order.get(line["job"].partition(" seed ")[0], len(order)))
    for run in {line["run"] for line in lines}:
        found: dict[str, list[dict]] = {}
        of_run = [line for line in lines if line["run"] == run]
        for line in of_run:
            for table, row in line.get("rows", ()):
                found.setdefault(table, []).append(row)
        for table, rows in found.items():
            write_table(rows, args.out / run, table)
        whole = {k: v for line in of_run for k, v in line["manifest"].items()}
        (args.out / run).mkdir(exist_ok=True)
        (args.out / run / "manifest.json").write_text(json.dumps(whole, indent=1))
        failed = [f"{x['job']}: {x['failed']}" for x in of_run if "failed" in x]
        print(run, {table: len(rows) for table, rows in found.items()}, *failed, sep="\n  ")
    for name, merged in (
        ("seeds", several_seeds(lines)),
        ("beyond_seeds", across(lines, "live", ("plr_worst", "acc", "acc_retrained", *BEYOND))),
        ("dials", across(lines, "dials", ("setting", *SHARES))),
        ("budgets", across(lines, "budgets", ("steps", *tables.WHOLE_SUITE))),
    ):
        if merged:
            write_table(merged, args.out, name)


def across(lines: list[dict], table: str, keys: tuple[str, ...]) -> list[dict]:
    """A table's rows of all runs, by seed, those of one approach together."""
    found: dict[str, dict] = {}
    for line in sorted(lines, key=lambda line: line["seed"]):
        for name, row in line.get("rows", ()):
            if name == table:
                said = {"approach": row["approach"], "seed": line["seed"]}
                of = found.setdefault(row["approach"], {})
                of[line["run"]] = said | {key: row[key] for key in keys if key in row}
    return [row for of in found.values() for row in of.values()]


def keep(args: argparse.Namespace) -> None:
    """What `collect` finds, in figures/, and what is drawn of it."""
    collect(args)
    made, config = args.out / args.profile, load_config(args.profile)
    for path in args.out.glob("*.*"):
        if path.suffix in (".json", ".md"):
            shutil.copy(path, made)
    seeds = {path.parent.name: path for path in args.out.glob("*-seed*/manifest.json")}
    whole = {run: json.loads(seeds[run].read_text()) for run in sorted(seeds)}
    if whole:  # else what is kept stays
        write_json(made / "seeds_manifest.json", whole)
    (made / "discrepancies.md").write_text(paper.discrepancies(made))
    publish.keep_tables(made, args.profile, config.actors)
    publish.fill_pages()


def several_seeds(lines: list[dict]) -> list[dict]:
    """The rows of Table 1 that more than one seed has, as `measure.over_seeds` puts them."""
    found: dict[str, dict[int, dict]] = {}
    for line in lines:
        for table, row in line.get("rows", ()):
            if table == "table1" and line["job"].startswith("row "):
                row = {k: v for k, v in row.items() if k != "linkage"}  # splits differ in strangers
                found.setdefault(row["approach"], {})[line["seed"]] = row
    merged = []
    for of in found.values():
        if len(of) > 1:
            (row,) = over_seeds([[of[seed]] for seed in sorted(of)])
            merged.append(row | {"seeds": ", ".join(map(str, sorted(of)))})
    return merged


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["run", "work", "collect", "publish"])
    parser.add_argument("--profile", default="twin")
    parser.add_argument("--runs", type=Path, default=REPO / "runs")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="jobs whose names begin so, such as 'budget'")
    parser.add_argument("--minutes", type=float, default=1e9, help="no new job after")
    args = parser.parse_args()
    if args.what == "work":
        work_off(args.profile, args.runs, args.out, args.minutes, args.only)
    else:
        {"run": side_by_side, "collect": collect, "publish": keep}[args.what](args)


if __name__ == "__main__":
    main()
