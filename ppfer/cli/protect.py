"""``ppfer protect``: videos, protected by anything in the catalogue."""

import argparse
import contextlib
import ctypes
import functools
from collections.abc import Callable

import torch

from ppfer.base.errors import PpferError, printable
from ppfer.base.files import digest
from ppfer.cli.caveats import around, closed_set, in_short
from ppfer.cli.options import APPROACHES
from ppfer.cli.settings import settings_of
from ppfer.config import Config, load_config
from ppfer.run.exported import THEIRS, ExportedRun
from ppfer.run.fast import deployed
from ppfer.run.names import RUNS, run_json
from ppfer.run.run import MissingInput, Run
from ppfer.run.stage import Protector
from ppfer.study import catalogue
from ppfer.video.heads import ProtectOptions
from ppfer.video.protect_files import protect_files
from ppfer.video.scene import COVERS, SIDE

BATCH = 4  # clips at a time
USUAL = "reenactment"  # approach
# of malloc.h: M_ARENA_MAX, M_MMAP_THRESHOLD and M_TRIM_THRESHOLD, bytes
MALLOC = {-8: 1, -3: 2**22, -1: 2**22}
PASSED_ON = (
    *("frame", "outside", "start", "end", "quality", "exact", "preview", "keep_audio"),
    *("overwrite", "mask_scale", "threshold"),
)
COVERED = (
    "Such covers hide faces from a look; a network that was trained on covered faces still names "
    "people.\nWhat is promised and what is not: figures/README.md"
)


def protect(args: argparse.Namespace) -> int:
    """Protect videos and photos; 1 if one could not be."""
    give_memory_back()
    given = {name: getattr(args, name) for name in PASSED_ON} | {"batch": BATCH, "report": True}
    exported = _exported(args) if args.weights else None
    approach = exported.about["approach"] if exported else args.approach or USUAL
    if approach in COVERS:
        options = ProtectOptions(SIDE, torch.device("cpu"), protector=approach, **given)
        return _protected(args, COVERS[approach], options, False, COVERED)
    run = exported or run_of(args)
    config, protector = run.config, run.protector(approach)
    if approach == "none":
        raise PpferError("--approach none hides nothing; of what does, see: ppfer protect --help")
    built = built_in(run, protector, args)
    if protector.for_anybody:  # no clips of a run belong to it
        key = digest([approach, *map(run.key, protector.needs)])
    else:
        key = run.key(f"protected/{approach}")
    how = {"precision": config.precision, "protector": key}
    options = ProtectOptions(protector.size or config.size, run.device, **how, **given)
    # what is known before the first video is said before it, what was done after the last
    if not protector.for_anybody:
        print(exported.about["closed_set"] if exported else closed_set(run), flush=True)
    built = deployed(built, BATCH, precision=config.precision, compile=config.compile)
    caveat = exported.about["caveat"] if exported else in_short(protector, run)
    return _protected(args, built, options, protector.named, caveat)


def give_memory_back() -> None:
    """Tell glibc to keep less of what was freed, a tenth of all memory for a twentieth of the time:
    one heap for all threads, and blocks of a few pictures go back at once.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # no glibc here
        for option, value in MALLOC.items():
            ctypes.CDLL(None).mallopt(option, value)


def run_of(args: argparse.Namespace) -> Run:
    """The run that the command line names."""
    return catalogue.open_run(_config(args), args.runs_dir)


def built_in(run: Run, protector: Protector, args: argparse.Namespace) -> Callable:
    """A protector of a run.

    Raises:
        PpferError: saying what to run first where it was not trained yet.
    """
    try:
        return protector.build(run)
    except MissingInput as error:
        every = "" if protector.name in APPROACHES["ppfer run"] else " --notebooks all"
        raise PpferError(
            f"{protector.title} was not trained in {run.dir} yet; run first: ppfer run{every} "
            f"{_as_given(args)}\n({error})"
        ) from error


def _exported(args: argparse.Namespace) -> ExportedRun:
    """What --weights names, which brings its approach and settings."""
    given = settings_of(args, there=False)
    if args.approach or args.seed or args.profile != "demo" or given.keys() - set(THEIRS):
        raise PpferError(
            f"{args.weights} brings its approach and its settings: leave out --approach and what "
            "names a run"
        )
    return ExportedRun(args.weights, catalogue.STAGES, catalogue.PROTECTORS, given)


def _protected(
    args: argparse.Namespace, built: Callable, options: ProtectOptions, named: bool, caveat: str
) -> int:
    """Protect what was given; says what is not promised where something was made."""
    said = functools.partial(print, flush=True)
    outcomes = protect_files(built, args.videos, args.out, options, named=named, on_outcome=said)
    videos = [outcome for outcome in outcomes if outcome.state != "passed over"]
    good = sum(outcome.ok for outcome in videos)
    print(printable(f"{good} of {len(videos)} done; results are in {args.out.resolve()}"))
    if any(outcome.state == "written" for outcome in videos):
        print(caveat, *(around(args.outside) if args.frame == "face" else ()), sep="\n")
    return 0 if good == len(videos) else 1


def _config(args: argparse.Namespace) -> Config:
    """A run that --name names says itself what it is; what it was trained on need not be there."""
    profile, settings = args.profile, {"seed": args.seed, **settings_of(args, there=False)}
    if args.name and (args.runs_dir / args.name / "run.json").exists():
        about = run_json(args.runs_dir / args.name)
        given = {key: value for key, value in settings.items() if key != "seed" or value}
        profile, settings = about["profile"], about["differs"] | given
    return load_config(profile, settings)


def _as_given(args: argparse.Namespace) -> str:
    """The options that name a run, as they were given."""
    given = {name: getattr(args, name) for name in ("profile", "data", "wild", "seed", "name")}
    words = [f"--{name} {value}" for name, value in given.items() if value]
    words += [f"--set {pair}" for pair in args.set]
    words += [f"--runs-dir {args.runs_dir}"] * (args.runs_dir != RUNS)
    return " ".join(words)
