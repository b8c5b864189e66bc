"""Settings: from the command line to a config, so that a mistake is said before anything starts;
and what there is to set, what was set so far, and what it takes: ``ppfer settings, runs, cost``.
"""

import argparse
import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path

from ppfer import config
from ppfer.base.errors import PpferError
from ppfer.base.files import home
from ppfer.cli.terminal import WIDE, table
from ppfer.config import PATHS, Config, Train, dotted, load_config, to_dict
from ppfer.run.names import DATA, data_path, known_runs

PATHS_OF_FILES = tuple(name for name in PATHS if name not in DATA)
NO_FILE = ("", "DEFAULT")  # what a setting that takes a path may be instead
EMPTY = '""'  # how no text is shown


def config_of(args: argparse.Namespace) -> Config:
    """The config that the command line describes; raises as `settings_of` does."""
    return load_config(args.profile, {"seed": args.seed, **settings_of(args)})


def settings_of(args: argparse.Namespace, *, there: bool = True) -> dict[str, object]:
    """What the command line sets other than the profile and the seed, dotted names to values; a
    `PpferError` for an unknown setting, a wrong value, or a file or folder that is not there; of
    clips, if they have to be `there`.
    """
    settings: dict[str, object] = {}
    for pair in args.set:
        key, equals, value = pair.partition("=")
        if not equals:
            raise PpferError(f"--set takes KEY=VALUE, got '{pair}'")
        if key == "profile":
            raise PpferError(f"the profile has an option of its own: --profile {value}")
        settings[key] = value
    given = {name: getattr(args, name) for name in (*DATA, "name")}
    settings |= {name: str(value) for name, value in given.items() if value}
    settings = from_here(settings, there=there)
    load_config(args.profile, {"seed": args.seed, **settings})  # a mistake is said now
    return settings


def from_here(settings: Mapping[str, object], *, there: bool = True) -> dict[str, object]:
    """Settings whose paths count from where the command was given, since notebooks run in their own
    folder, and workers wherever their cluster starts them; what is not there stays as it is, and
    counts from the checkout. What is in neither place is a `PpferError`; see `settings_of`.
    """
    found = {key: here(value) if key in PATHS else value for key, value in settings.items()}
    for key in found.keys() & set(PATHS if there else PATHS_OF_FILES):
        if found[key] not in NO_FILE and not data_path(str(found[key])).exists():
            raise PpferError(f"{key}: there is no {found[key]}; paths count from {Path.cwd()}")
    return found


def here(value: object) -> object:
    """A path that exists, absolute; anything else as it is."""
    if not isinstance(value, (str, Path)) or value in NO_FILE:
        return value
    path = home(value)
    return str(path.resolve()) if path.exists() else value


def runs(args: argparse.Namespace) -> None:
    """List the runs there are."""
    rows = known_runs(args.runs_dir)
    print(table(rows) if rows else f"there are no runs in {args.runs_dir} yet")


def cost(args: argparse.Namespace) -> None:
    """Say what each stage takes."""
    from ppfer.study.cost import report  # seconds, which the others do without

    print(report(config_of(args)))


def settings(args: argparse.Namespace) -> None:
    """List all settings of a profile: name, value and meaning."""
    values, meaning = to_dict(load_config(args.profile)), meanings()
    print(f"Settings of profile {args.profile}; another value: --set NAME=VALUE\n")
    for name, value in dotted({k: v for k, v in values.items() if k not in _training()}).items():
        if name != "profile":
            _print(f"{name} = {str(value) or EMPTY}", meaning[name])
    print("\nTraining, e.g. --set privacy.steps=100; a stage has all of these:\n")
    for name in values["identity"]:
        _print(f"STAGE.{name}", meaning[f"Train.{name}"])
    print("\nStages, with what is not the same in all of them:\n")
    usual = {f.name: f.default for f in dataclasses.fields(Train)}
    for name in _training():
        own = {k: v for k, v in values[name].items() if v != usual[k]}
        said = ", ".join(f"{k}={str(v) or EMPTY}" for k, v in own.items())
        _print(f"{name}: {said}", meaning[name])


def meanings() -> dict[str, str]:
    """What each setting means, by its dotted name: the comments of `ppfer.config`, at the end of
    the field's line or, where they are longer, above it.
    """
    source = inspect.getsource(config)
    lines, found = source.splitlines(), {}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        group = {"Config": "", "Train": "Train."}.get(node.name, f"{node.name.lower()}.")
        for field in (part for part in node.body if isinstance(part, ast.AnnAssign)):
            first = field.lineno - 1
            while lines[first - 1].lstrip().startswith("#"):
                first -= 1
            own = lines[first : field.end_lineno]
            words = [match[1] for line in own if (match := re.search(r"# ?(.*)", line))]
            choices = re.findall(r'"([^"]+)"', ast.unparse(field.annotation).replace("'", '"'))
            named = all(choice in " ".join(words) for choice in choices)
            words = words if named else [" | ".join(choices) + ":", *words]
            found[group + field.target.id] = " ".join(words)
    return found


def _training() -> list[str]:
    """Names of the stages whose training has settings."""
    return [f.name for f in dataclasses.fields(Config) if isinstance(f.default, Train)]


def _print(head: str, meaning: str) -> None:
    line = f"{head}  # {meaning}" if meaning else head
    how = {"subsequent_indent": "    ", "break_long_words": False, "break_on_hyphens": False}
    print(textwrap.fill(line, WIDE, **how))
