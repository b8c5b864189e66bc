"""``ppfer run``: the notebooks, or the stages and tables without Jupyter, and what came out."""

from __future__ import annotations

import argparse
import json
import time

from ppfer.base.errors import PpferError
from ppfer.base.processes import is_main
from ppfer.cli import audit, execute, notebooks
from ppfer.cli.compare import results_of, short, write_side_by_side
from ppfer.cli.settings import config_of, settings_of
from ppfer.cli.terminal import table
from ppfer.measure import as_rate
from ppfer.method.networks import band_split
from ppfer.run.run import Run
from ppfer.show import tradeoff
from ppfer.study import catalogue, tables

FOR_GPUS = ("twin", "paper")
GROUPS = ("main", "tables", "all")  # of notebooks, and of what is made without them


def run(args: argparse.Namespace) -> None:
    """Run what is asked for and say what came out."""
    config, began = config_of(args), time.monotonic()
    books = notebooks.chosen(args.notebooks)  # a number that is none is said before anything runs
    if args.no_notebooks and args.notebooks not in GROUPS:
        raise PpferError(f"--no-notebooks makes {', '.join(GROUPS)}, not '{args.notebooks}'")
    band_split(config)  # knows which wavelets and modes there are
    run = catalogue.open_run(config, args.runs_dir)
    if run.device.type == "cpu" and config.profile in FOR_GPUS and is_main():
        print(
            f"No GPU was found. Profile {config.profile} is made for one: on a CPU it takes days, "
            "and what is finished is kept; profile demo is made for a CPU.",
            flush=True,
        )
    if not config.generate:  # before anything trains: how many clips, which were rejected
        store = run.make("clips")
        if is_main():
            print(store.summary(), flush=True)

    if args.no_notebooks:
        if args.notebooks != "tables":
            tables.run_all(run)
        if args.notebooks != "main":
            catalogue.compare(run)
            if is_main():
                tradeoff.save_figure1(run.dir / "tables")
    else:
        hide = None if args.allow_real_faces else audit.private_clip_names(run)
        parameters = {"profile": args.profile, "seed": args.seed, "settings": settings_of(args)}
        parameters["runs_dir"] = args.runs_dir.resolve()
        for number, path in enumerate(books, 1):
            print(f"[{number}/{len(books)}] {path.name}", flush=True)
            out = run.dir / "notebooks" / path.name
            execute.execute(path, out, hide, **parameters)
    if is_main():
        _report(run, time.monotonic() - began, executed=not args.no_notebooks)
        if (run.dir / "tables" / "main.json").exists():
            run.introduce()  # where all its stages are another run's, nobody has
            write_side_by_side(results_of([run.dir]), run.dir / "tables", "results")
            print(f"Picture: {run.dir}/tables/results.png")
        print(
            "Next: `make lab` to step through them, `ppfer protect VIDEO --out DIR` for your own "
            "video, --data DIR for your own clips."
        )


def _report(run: Run, seconds: float, *, executed: bool) -> None:
    """The results table, and where everything lies."""
    made = run.dir / "tables"
    for name in ("main", "table2"):
        path = made / f"{name}.json"
        if path.exists():
            rows = json.loads(path.read_text())
            print("\n" + table(rows, short))
            if name == "main" and (named := as_rate(rows[0]["plr"])).value < 0.5:
                print(
                    f"The validator names {named} of the originals: too few for its word on "
                    "protected clips to mean anything."
                )
    books = f", notebooks with pictures: {run.dir}/notebooks" if executed else ""
    print(f"\nDone in {seconds / 60:.1f} min. Results: {made}{books}")
