"""The command line: ``ppfer run``, ``seeds``, ``data``, ``twin``, ``cost`` and ``protect``."""

from __future__ import annotations

import argparse
import errno
import json
import sys
import time
from pathlib import Path

from ppfer import __version__, execute, publish, study, twin
from ppfer.config import PROFILES, PpferError, load_config
from ppfer.data import index
from ppfer.deploy import protect_videos
from ppfer.device import is_main
from ppfer.measure import cell_text
from ppfer.protect import deployed
from ppfer.run import Run
from ppfer.study import cost, tables

FOR_GPUS = ("twin", "paper")


def main(arguments: list[str] | None = None) -> int:
    """Parse, run, and turn the user's mistakes into one sentence and exit code 2."""
    args = _parser().parse_args(arguments)
    try:
        args.command(args)
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
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ppfer",
        description="Facial expression recognition with identity removed from the video.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="command")

    run = commands.add_parser(
        "run", help="run the notebooks, headless and in order; finished stages are reused"
    )
    _common(run)
    run.add_argument(
        "--notebooks",
        default="main",
        help="main (00–07, 12) | tables (08–10) | all | numbers, e.g. 03,04 (default: main)",
    )
    run.add_argument(
        "--no-notebooks",
        action="store_true",
        help="make the stages and tables (main, tables or all) without Jupyter",
    )
    run.add_argument(
        "--in-place",
        action="store_true",
        help="keep outputs in notebooks/, tables and pictures in figures/ and README (synthetic data only)",
    )
    run.set_defaults(command=_run)

    seeds = commands.add_parser(
        "seeds",
        help="the results of runs with several seeds as one table: mean, spread and every count",
    )
    _common(seeds)
    seeds.add_argument("--seeds", default="0,1,2", help="seeds of finished runs (default: 0,1,2)")
    seeds.add_argument(
        "--in-place",
        action="store_true",
        help="keep the table in figures/ and README (synthetic data only)",
    )
    seeds.set_defaults(command=_seeds)

    data = commands.add_parser(
        "data", help="say what is in a folder of clips: usable, rejected and why"
    )
    data.add_argument("folder", type=Path)
    data.set_defaults(command=_data)

    twin = commands.add_parser("twin", help="make more synthetic clips with CREMA-D's shape")
    twin.add_argument("--actors", type=int, default=12)
    twin.add_argument("--size", type=int, default=96, help="pixels, square")
    twin.add_argument("--frames", type=int, default=16)
    twin.add_argument("--wild", type=int, default=1400, help="in-the-wild clips of other actors")
    twin.add_argument("--seed", type=int, default=0)
    twin.add_argument("--device", default=None, help="cpu | cuda (default: cuda if there)")
    twin.add_argument("--out", type=Path, required=True)
    twin.set_defaults(command=_twin)

    cost = commands.add_parser(
        "cost", help="memory and time of a profile's stages, before anyone starts them"
    )
    _common(cost)
    cost.set_defaults(command=_cost)

    protect = commands.add_parser(
        "protect", help="protect a video or a folder of videos with a finished run"
    )
    _common(protect)
    protect.add_argument("videos", type=Path, help="a video file or a folder of them")
    protect.add_argument(
        "--out", type=Path, required=True, help="folder for the protected mp4 files"
    )
    protect.set_defaults(command=_protect)
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", default="demo", help=" | ".join(PROFILES))
    parser.add_argument(
        "--data",
        type=Path,
        help="your clips: a CREMA-D tree, a DFEW tree or a folder with metadata.csv",
    )
    parser.add_argument("--wild", type=Path, help="in-the-wild clips for the expression controller")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a setting, e.g. privacy.steps=50",
    )


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
    load_config(
        args.profile, {"seed": args.seed, **settings}
    )  # a mistake is said now, not in a kernel
    return settings


def _open(args: argparse.Namespace) -> Run:
    return study.open_run(
        load_config(args.profile, {"seed": args.seed, **settings_of(args)}), args.runs_dir
    )


# --- run ----------------------------------------------------------------------


def _run(args: argparse.Namespace) -> None:
    settings, began = settings_of(args), time.monotonic()
    if args.in_place and "data" in settings:
        raise PpferError(
            "--in-place keeps pictures of faces in the repository; it is for the synthetic clips only"
        )
    run = _open(args)
    if run.device.type == "cpu" and args.profile in FOR_GPUS and is_main():
        print(
            f"No GPU was found. Profile {args.profile} is made for one: on a CPU it takes days, and "
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
    if is_main():
        _report(run, time.monotonic() - began, executed=not args.no_notebooks)


def _report(run: Run, seconds: float, *, executed: bool) -> None:
    """The results table and where to look next."""
    for name in ("main", "table2"):
        path = run.dir / "tables" / f"{name}.json"
        if path.exists():
            print("\n" + _plain(json.loads(path.read_text())))
    books = f", notebooks with pictures: {run.dir}/notebooks" if executed else ""
    print(f"\nDone in {seconds / 60:.1f} min. Results: {run.dir}/tables{books}")
    print(
        "Next: `make lab` to step through them, `ppfer protect VIDEO --out DIR` for your own "
        "video, --data DIR for your own clips."
    )


def _plain(rows: list[dict]) -> str:
    """Rows as aligned columns for a terminal; the long "what_ran" column is left to the files."""
    columns = [c for c in dict.fromkeys(key for row in rows for key in row) if c != "what_ran"]
    table = [columns]
    for row in rows:
        cells = [cell_text(row.get(c, "")) for c in columns]
        table.append(
            [
                text.split(" (")[0] if c != "approach" else text
                for c, text in zip(columns, cells, strict=True)
            ]
        )
    widths = [max(len(line[i]) for line in table) for i in range(len(columns))]
    padded = ([v.ljust(w) for v, w in zip(line, widths, strict=True)] for line in table)
    return "\n".join("  ".join(line) for line in padded)


# --- other commands -----------------------------------------------------------


def _seeds(args: argparse.Namespace) -> None:
    settings, seeds = settings_of(args), args.seeds.split(",")
    if args.in_place and "data" in settings:
        raise PpferError("--in-place keeps results on the synthetic clips only")
    rows = publish.over_seeds(args.profile, settings, args.runs_dir, seeds)
    print(_plain(rows))
    if args.in_place:
        publish.publish_seeds(args.profile, settings, args.runs_dir, seeds, rows)


def _data(args: argparse.Namespace) -> None:
    found = index(args.folder)
    print(found.summary())
    for row in found.rejected.itertuples():
        print(f"rejected {row.path}: {row.reason}")


def _twin(args: argparse.Namespace) -> None:
    twin.generate(
        args.out,
        actors=args.actors,
        size=args.size,
        frames=args.frames,
        seed=args.seed,
        wild=args.wild,
        device=args.device,
    )


def _cost(args: argparse.Namespace) -> None:
    print(cost.report(load_config(args.profile, {"seed": args.seed, **settings_of(args)})))


def _protect(args: argparse.Namespace) -> None:
    run, batch = _open(args), 4
    config = run.config
    protector = deployed(
        run.protector("ppfer").build(run), batch, precision=config.precision, compile=config.compile
    )
    protect_videos(
        protector,
        args.videos,
        args.out,
        size=config.size,
        device=run.device,
        batch=batch,
        precision=config.precision,
    )
