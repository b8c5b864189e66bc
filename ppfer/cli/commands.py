"""The command line: what each command of `ppfer.cli.options` does."""

from __future__ import annotations

import argparse
import errno
import json
import sys
import time
from pathlib import Path

from ppfer import twin
from ppfer.base.device import out_of_memory
from ppfer.base.errors import PpferError, printable
from ppfer.base.files import digest
from ppfer.base.processes import end_with_the_others, is_main, world
from ppfer.base.progress import Progress
from ppfer.cli import audit
from ppfer.cli.options import parser
from ppfer.cli.terminal import closed_set, leaked, leaked_by, plain
from ppfer.config import Config, load_config
from ppfer.data.decoding import inspected
from ppfer.data.index import index
from ppfer.measure import as_rate, cell_text
from ppfer.method.networks import band_split
from ppfer.run import MissingInput, Run
from ppfer.run.fast import deployed
from ppfer.run.names import RUNS, known_runs
from ppfer.study import catalogue, cost, tables
from ppfer.video.heads import ProtectOptions
from ppfer.video.protect_files import protect_files

FOR_GPUS = ("twin", "paper")
TROUBLE = {  # of a machine, said in a sentence
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk's quota is used up",
    errno.EROFS: "the disk can only be read",
    errno.EACCES: "a file or folder may not be read or written",
    errno.EPERM: "a file or folder may not be changed",
    errno.EMFILE: "too many files are open",
}


def main(arguments: list[str] | None = None) -> int:
    """Parse, run, and turn the user's mistakes into one sentence and exit code 2."""
    args = parser().parse_args(arguments)
    end_with_the_others()
    try:
        return COMMANDS[args.command](args) or 0
    except PpferError as error:
        print(f"ppfer: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ppfer: stopped; the same command goes on from there", file=sys.stderr)
        return 130
    except (OSError, MemoryError, RuntimeError, ImportError) as error:
        why = TROUBLE.get(getattr(error, "errno", None))
        why = "the memory does not suffice" if out_of_memory(error) else why
        if world() > 1 and "by peer" in str(error):
            why = "another process of this run has ended"
        if not why:
            raise
        file = getattr(error, "filename", None)
        where = printable(f" ({file})") if file else ""
        print(
            f"ppfer: {why}{where}; change that and run the same command again: finished stages "
            "are kept",
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
    return catalogue.open_run(_config(args), args.runs_dir)


def _slow() -> tuple:
    """Modules that bring Jupyter and seaborn, which take seconds and memory."""
    from ppfer.cli import batch, execute, grid, publish

    return batch, execute, grid, publish


# --- run ----------------------------------------------------------------------


def _run(args: argparse.Namespace) -> None:
    _, execute, _, publish = _slow()

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
        parts += [catalogue.compare] if args.notebooks in ("tables", "all") else []
        for part in parts:
            part(run)
            if part is catalogue.compare and is_main():
                publish.tradeoff.save_figure1(run.dir / "tables")
            if (
                args.in_place and is_main()
            ):  # at once: the comparisons take longer, and may be stopped
                publish.publish(run)
    else:
        chosen = execute.notebooks(args.notebooks)
        hide = None if args.allow_real_faces else audit.to_hide(run)
        for number, path in enumerate(chosen, 1):
            print(f"[{number}/{len(chosen)}] {path.name}", flush=True)
            out = run.dir / "notebooks" / path.name
            parameters = {"profile": args.profile, "seed": args.seed, "settings": settings}
            execute.execute(path, out, hide, runs_dir=args.runs_dir.resolve(), **parameters)
            if args.in_place:
                execute.keep(out, path)
        if args.in_place:
            publish.publish(run)
            publish.index()
    if is_main():
        _report(run, time.monotonic() - began, executed=not args.no_notebooks)
        if (run.dir / "tables" / "main.json").exists():
            run.introduce()  # where all its stages are another run's, nobody has
            publish.write_side_by_side(publish.told_apart([run.dir]), run.dir / "tables", "results")
            print(f"Picture: {run.dir}/tables/results.png")


def _report(run: Run, seconds: float, *, executed: bool) -> None:
    """The results table and where to look next."""
    for name in ("main", "table2"):
        path = run.dir / "tables" / f"{name}.json"
        if path.exists():
            rows = json.loads(path.read_text())
            print("\n" + plain(rows))
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


def _batch(args: argparse.Namespace) -> int:
    batch, execute, grid, publish = _slow()

    if args.notebooks and args.stages:
        raise PpferError("a batch runs --notebooks or makes --stages, not both")
    if args.workers < 1:
        raise PpferError(f"--workers takes a whole number from 1, got {args.workers}")
    title, args.name = args.name, ""  # a cell's run is called after its settings
    axes = grid.read_axes(args.grid, args.grid_file)
    books = execute.notebooks(args.notebooks) if args.notebooks else []
    stages = [name.strip() for name in args.stages.split(",") if name.strip()]
    settings = {"seed": args.seed, **settings_of(args)}
    cells = grid.cells_of(axes, args.profile, settings, books)
    said = [args.profile, settings, axes, args.notebooks, args.stages]
    title, runs_dir = title or f"batch-{digest(said)[:6]}", args.runs_dir.resolve()
    folder = runs_dir / "batches" / title
    made = batch.Batch(cells, runs_dir, folder, books, stages)
    print(f"{made.summary()}; {folder}", flush=True)
    began = time.monotonic()
    batch.carry_out(made, args.workers, args.dask)
    minutes, failures, results = (time.monotonic() - began) / 60, made.failures(), made.results()
    if any(rows for *_, rows in results):  # stages below the networks measure nothing
        _show(publish.write_side_by_side(results, folder, "results"))
        print(f"\nWith every interval: {folder}/results.md; picture: {folder}/results.png")
    for number, error in failures.items():
        print(printable(f"failed: {cells[number]}: {error}"))
    print(
        f"{len(cells) - len(failures)} of {len(cells)} cells in {minutes:.1f} min, "
        f"{made.seconds() / 60:.1f} min of work"
    )
    return 1 if failures else 0


def _compare(args: argparse.Namespace) -> None:
    *_, publish = _slow()

    given = [Path(name) for name in args.names]
    folders = [path if path.is_dir() else args.runs_dir / path for path in given]
    name = "compared-" + digest(sorted(folder.name for folder in folders))[:6]
    tables = args.runs_dir / "tables"
    _show(publish.write_side_by_side(publish.told_apart(folders), tables, name))
    print(f"\nWith every interval: {tables / name}.md; picture: {tables / name}.png")


def _show(rows: list[dict]) -> None:
    """Runs side by side in a terminal: a table for each approach, a line for each run."""
    for approach in dict.fromkeys(row["approach"] for row in rows):
        lines = []
        for row in (row for row in rows if row["approach"] == approach):
            at = list(row).index("approach")
            told, seen = list(row)[1:at], list(row)[at + 1 :]
            label = " ".join(f"{k.split('.')[-1]}={cell_text(row[k])}" for k in told)
            short = {k: s.short if (s := as_rate(row[k])) else cell_text(row[k]) for k in seen}
            lines.append({"run": label or row["run"], **short})
        print(f"\n{approach}\n{plain(lines)}")


# --- other commands -----------------------------------------------------------


def _seeds(args: argparse.Namespace) -> None:
    *_, publish = _slow()

    settings, seeds = settings_of(args), args.seeds.split(",")
    if args.in_place and "data" in settings:
        raise PpferError("--in-place keeps results on the synthetic clips only")
    rows = publish.over_seeds(args.profile, settings, args.runs_dir, seeds)
    print(plain(rows))
    if args.in_place:
        publish.publish_seeds(args.profile, settings, args.runs_dir, seeds, rows)


def _runs(args: argparse.Namespace) -> None:
    rows = known_runs(args.runs_dir)
    print(plain(rows) if rows else f"there are no runs in {args.runs_dir} yet")


def _student(args: argparse.Namespace) -> None:
    _, execute, *_ = _slow()

    written = execute.student(args.folder, solutions=args.solutions)
    kept = len(execute.notebooks("all")) - len(written)
    print(
        f"{args.folder}: {len(written)} notebooks written, {kept} that were there are as they were"
    )


def _data(args: argparse.Namespace) -> None:
    found = index(args.folder)
    if not args.quick:
        progress = Progress("looking into files", len(found.table), "files")
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
    options = ProtectOptions(
        protector.size or config.size,
        run.device,
        batch=batch,
        precision=config.precision,
        overwrite=args.overwrite,
        protector=_key(run, args.approach),
        **{name: getattr(args, name) for name in chosen},
    )
    if not protector.size:
        print(closed_set(run), flush=True)
    outcomes = protect_files(
        apply,
        args.videos,
        args.out,
        options,
        named=protector.named,
        on_outcome=lambda outcome: print(printable(outcome), flush=True),
    )
    videos = [outcome for outcome in outcomes if outcome.state != "passed over"]
    good = sum(outcome.ok for outcome in videos)
    print(printable(f"{good} of {len(videos)} done; results are in {args.out.resolve()}"))
    if good:
        print(leaked_by(protector) if protector.size else leaked(run, args.approach))
    return 0 if good == len(videos) else 1


def _key(run: Run, name: str) -> str:
    """What tells a protector from others; without a run, there are no clips that belong to it."""
    protector = run.protector(name)
    if not protector.size:
        return run.key(f"protected/{name}")
    return digest([name, *map(run.key, protector.needs)])


def _said(args: argparse.Namespace) -> str:
    """The options that name a run, as they were given."""
    given = {name: getattr(args, name) for name in ("profile", "data", "wild", "seed", "name")}
    words = [f"--{name} {value}" for name, value in given.items() if value]
    words += [f"--set {pair}" for pair in args.set]
    words += [f"--runs-dir {args.runs_dir}"] * (args.runs_dir != RUNS)
    return " ".join(words)


# --- whose faces lie where ------------------------------------------------------


def _audit(args: argparse.Namespace) -> None:
    rows = audit.audit(args.runs_dir, args.data)
    print(plain(rows) if rows else "nothing there shows or names a person")
    print("Networks trained on these people are kept by `ppfer clean`, and not listed.")


def _clean(args: argparse.Namespace) -> None:
    removed = audit.clean(args.runs_dir, args.data)
    print(f"{removed} files removed; no clip's name and no piece of a frame was found in the rest")


COMMANDS = {
    "audit": _audit,
    "clean": _clean,
    "run": _run,
    "batch": _batch,
    "compare": _compare,
    "runs": _runs,
    "seeds": _seeds,
    "data": _data,
    "student": _student,
    "twin": _twin,
    "cost": _cost,
    "protect": _protect,
}
