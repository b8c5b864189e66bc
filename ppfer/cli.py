"""The command line: what each command of `ppfer.options` does."""

from __future__ import annotations

import argparse
import errno
import json
import sys
import time
from collections.abc import Sequence

from ppfer import study, twin
from ppfer.children import inspected
from ppfer.config import Config, PpferError, load_config, printable
from ppfer.data import index
from ppfer.deploy import protect_files
from ppfer.device import Progress, is_main
from ppfer.folders import RUNS, known_runs
from ppfer.frames import Options
from ppfer.measure import Rate, as_rate, cell_text
from ppfer.method.parts import band_split
from ppfer.options import parser
from ppfer.protect import deployed
from ppfer.run import MissingInput, Run
from ppfer.study import cost, tables

FOR_GPUS = ("twin", "paper")
WIDE = 100  # columns of a terminal


def main(arguments: list[str] | None = None) -> int:
    """Parse, run, and turn the user's mistakes into one sentence and exit code 2."""
    args = parser().parse_args(arguments)
    try:
        return COMMANDS[args.command](args) or 0
    except PpferError as error:
        print(f"ppfer: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ppfer: stopped; the same command goes on from there", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(
            "ppfer: the disk is full; free some space and run the same command again: finished "
            "stages are kept",
            file=sys.stderr,
        )
        return 2


def settings_of(args: argparse.Namespace) -> dict[str, object]:
    """Overrides from the command line; paths become absolute, since notebooks run in their own
    folder.
    """
    settings: dict[str, object] = {}
    for pair in args.set:
        key, equals, value = pair.partition("=")
        if not equals:
            raise PpferError(f"--set takes KEY=VALUE, got '{pair}'")
        settings[key] = value
    for name in ("data", "wild"):
        folder = getattr(args, name)
        if folder is not None:
            if not folder.exists():
                raise PpferError(f"there is no data at {folder}")
            settings[name] = str(folder.resolve())
    if args.name:
        settings["name"] = args.name
    # a mistake is said now, not in a kernel
    config = load_config(args.profile, {"seed": args.seed, **settings})
    band_split(config)  # knows which wavelets and modes there are
    return settings


def _config(args: argparse.Namespace) -> Config:
    return load_config(args.profile, {"seed": args.seed, **settings_of(args)})


def _open(args: argparse.Namespace) -> Run:
    return study.open_run(_config(args), args.runs_dir)


def _books() -> tuple:
    """The modules that execute and publish notebooks: Jupyter and seaborn take seconds and memory,
    which other commands are spared.
    """
    from ppfer import execute, publish

    return execute, publish


# --- run ----------------------------------------------------------------------


def _run(args: argparse.Namespace) -> None:
    execute, publish = _books()
    settings, began = settings_of(args), time.monotonic()
    if args.in_place and "data" in settings:
        raise PpferError(
            "--in-place keeps pictures of faces in the repository; it is for the synthetic clips "
            "only"
        )
    run = _open(args)
    if run.device.type == "cpu" and args.profile in FOR_GPUS and is_main():
        print(
            f"No GPU was found. Profile {args.profile} is made for one: on a CPU it takes days, "
            "and "
            "what is finished is kept; profile demo is made for a CPU.",
            flush=True,
        )
    if not run.config.generate:  # said before anything trains: how many clips, which were rejected
        store = run.make("clips")
        if is_main():
            print(store.summary(), flush=True)
    if args.no_notebooks:
        parts = [tables.run_all] if args.notebooks != "tables" else []
        parts += [study.compare] if args.notebooks in ("tables", "all") else []
        for part in parts:
            part(run)
            if (
                args.in_place and is_main()
            ):  # at once: the comparisons take longer, and may be stopped
                publish.publish(run)
    else:
        chosen = execute.notebooks(args.notebooks)
        for number, path in enumerate(chosen, 1):
            print(f"[{number}/{len(chosen)}] {path.name}", flush=True)
            out = run.dir / "notebooks" / path.name
            parameters = {"profile": args.profile, "seed": args.seed, "settings": settings}
            execute.execute(path, out, runs_dir=args.runs_dir.resolve(), **parameters)
            if args.in_place:
                execute.keep(out, path)
        if args.in_place:
            publish.publish(run)
            publish.index()
    if is_main():
        _report(run, time.monotonic() - began, executed=not args.no_notebooks)


def _report(run: Run, seconds: float, *, executed: bool) -> None:
    """The results table and where to look next."""
    for name in ("main", "table2"):
        path = run.dir / "tables" / f"{name}.json"
        if path.exists():
            rows = json.loads(path.read_text())
            print("\n" + _plain(rows))
            if name == "main" and (seen := as_rate(rows[0]["plr"])).value < 0.5:
                print(
                    f"The validator names {seen} of the originals: too few for its word on "
                    "protected clips to mean anything."
                )
    books = f", notebooks with pictures: {run.dir}/notebooks" if executed else ""
    print(f"\nDone in {seconds / 60:.1f} min. Results: {run.dir}/tables{books}")
    print(
        "Next: `make lab` to step through them, `ppfer protect VIDEO --out DIR` for your own "
        "video, --data DIR for your own clips."
    )


def _plain(rows: list[dict]) -> str:
    """Rows as aligned columns for a terminal; the long "what_ran" column is left to the files.

    A table that is wider than a terminal is turned on its side.
    """
    columns = [c for c in dict.fromkeys(key for row in rows for key in row) if c != "what_ran"]
    table = [columns, *([_short(row.get(c, "")) for c in columns] for row in rows)]
    lines = _aligned(table)
    if len(lines[0]) > WIDE:
        lines = _aligned(list(zip(*table, strict=True)))
    return "\n".join(lines)


def _short(cell: object) -> str:
    """A cell with its count, without its interval: "96.9 % (286/295)"."""
    share = as_rate(cell)
    return share.short if isinstance(share, Rate) else cell_text(cell)


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    padded = ([v.ljust(w) for v, w in zip(line, widths, strict=True)] for line in table)
    return ["  ".join(line) for line in padded]


# --- other commands -----------------------------------------------------------


def _seeds(args: argparse.Namespace) -> None:
    _, publish = _books()
    settings, seeds = settings_of(args), args.seeds.split(",")
    if args.in_place and "data" in settings:
        raise PpferError("--in-place keeps results on the synthetic clips only")
    rows = publish.over_seeds(args.profile, settings, args.runs_dir, seeds)
    print(_plain(rows))
    if args.in_place:
        publish.publish_seeds(args.profile, settings, args.runs_dir, seeds, rows)


def _runs(args: argparse.Namespace) -> None:
    rows = known_runs(args.runs_dir)
    print(_plain(rows) if rows else f"there are no runs in {args.runs_dir} yet")


def _student(args: argparse.Namespace) -> None:
    execute, _ = _books()
    written = execute.student(args.folder, solutions=args.solutions)
    kept = len(execute.notebooks("all")) - len(written)
    print(
        f"{args.folder}: {len(written)} notebooks written, {kept} that were there are as they were"
    )


def _data(args: argparse.Namespace) -> None:
    found = index(args.folder)
    if not args.quick:
        progress = Progress("looking into files", len(found.table))
        found = inspected(found, on_file=progress.update)
    print(found.summary())
    for row in found.rejected.itertuples():
        print(printable(f"rejected {row.path}: {row.reason}"))
    for path, remark in found.remarks:
        print(printable(f"remark {path}: {remark}"))


def _twin(args: argparse.Namespace) -> None:
    twin.generate(
        args.out,
        actors=args.actors,
        size=args.size,
        frames=args.frames,
        seed=args.seed,
        difficulty=args.difficulty,
        wild=args.wild,
        device=args.device,
    )


def _cost(args: argparse.Namespace) -> None:
    print(cost.report(_config(args)))


# --- protect --------------------------------------------------------------------


def _protect(args: argparse.Namespace) -> int:
    run, batch = _open(args), 4
    config, protector = run.config, run.protector(args.approach)
    try:
        built = protector.build(run)
    except MissingInput as error:
        every = "" if args.approach in ("ppfer", "enhanced") else " --notebooks all"
        raise PpferError(
            f"{protector.title} was not trained in {run.dir} yet; run first: ppfer run{every} "
            f"{_said(args)}\n({error})"
        ) from error
    apply = deployed(built, batch, precision=config.precision, compile=config.compile)
    chosen = ("frame", "outside", "start", "end", "quality", "exact", "preview", "keep_audio")
    options = Options(
        config.size,
        run.device,
        batch=batch,
        precision=config.precision,
        overwrite=args.overwrite,
        protector=run.key(f"protected/{args.approach}"),
        **{name: getattr(args, name) for name in chosen},
    )
    print(closed_set(run), flush=True)
    outcomes = protect_files(
        apply,
        args.videos,
        args.out,
        options,
        on_outcome=lambda outcome: print(printable(outcome), flush=True),
    )
    good = sum(outcome.ok for outcome in outcomes)
    print(printable(f"{good} of {len(outcomes)} done; results are in {args.out.resolve()}"))
    if good:
        print(leaked(run, args.approach))
    return 0 if good == len(outcomes) else 1


def _said(args: argparse.Namespace) -> str:
    """The options that name a run, as they were given."""
    given = {name: getattr(args, name) for name in ("profile", "data", "wild", "seed", "name")}
    words = [f"--{name} {value}" for name, value in given.items() if value]
    words += [f"--set {pair}" for pair in args.set]
    words += [f"--runs-dir {args.runs_dir}"] * (args.runs_dir != RUNS)
    return " ".join(words)


def closed_set(run: Run) -> str:
    """For whom a trained protector was made."""
    actors = len(run.classes("actor"))
    return (
        f"{run.dir.name} was trained on {actors} people in {run.config.data} and measured on "
        "those alone: nothing was measured for anybody else."
    )


def leaked(run: Run, name: str) -> str:
    """What a protector leaked when it was measured, and what that does not promise."""
    path, title = run.dir / "tables" / "leakage.json", run.protector(name).title
    rows = json.loads(path.read_text()) if path.exists() else []
    rows = [row for row in rows if row["approach"] == title]
    if not rows:
        return f"How much {title} leaks was not measured in this run: ppfer run --notebooks 07"
    people = len(run.classes("actor"))
    lines = [f"What {title} leaked on this run's test clips ({people} people, still named):"]
    for row in rows:
        worst = max((k for k in row if as_rate(row[k])), key=lambda k: as_rate(row[k]).value)
        said = f"{cell_text(row['random_frame'])} of random frames"
        worst = f"worst attacker ({worst}): {cell_text(row[worst])}"
        lines.append(f"  validator {row['validator']}: {said}; {worst}")
    promise = "This is no promise for other people, other cameras, body, clothes or surroundings."
    return "\n".join([*lines, promise])


COMMANDS = {
    "run": _run,
    "runs": _runs,
    "seeds": _seeds,
    "data": _data,
    "student": _student,
    "twin": _twin,
    "cost": _cost,
    "protect": _protect,
}
