"""A wrong key or value is refused in a sentence; a right one changes exactly one field."""

import ast
import dataclasses
import re
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest

from ppfer.base.errors import PpferError
from ppfer.base.files import digest
from ppfer.config import PROFILES, REPO, load_config, to_dict


@pytest.mark.parametrize(
    ("profile", "overrides", "says"),
    [
        ("fast", {}, "unknown profile 'fast'"),
        ("demo", {"sed": 1}, "unknown parameter 'sed'"),
        ("demo", {"privacy.step": 1}, "unknown parameter 'privacy.step'"),
        ("demo", {"privacy": 1}, "is a group"),
        ("demo", {"seed": "one"}, "takes int"),
        ("demo", {"seed": 1.5}, "takes int"),
        ("demo", {"compile": "maybe"}, "takes bool"),
        # what the last network would say, after hours
        ("demo", {"size": 36}, "size=36 is no multiple of 8"),
        ("demo", {"size": 72, "nets.compensator": "latent"}, "no multiple of 16, the latent"),
        ("demo", {"nets.heads": 3}, "no multiple of 2 and of nets.heads=3"),
        ("demo", {"seed": -1}, "seed takes a whole number from 0"),
        ("demo", {"seed": 2**32}, "seed takes a whole number from 0"),
        ("demo", {"test": 0.9}, "leave no clip to train on"),
        ("demo", {"privacy.steps": 0}, "privacy.steps and privacy.batch take whole numbers"),
        ("demo", {"frames": 0}, "frames takes a whole number from 1"),
        ("demo", {"clips_per_actor": -1}, "clips_per_actor takes a whole number from 0"),
        ("demo", {"privacy.lr": 0.0}, "privacy.lr a number above 0"),
        ("demo", {"test": "nan"}, "'test' takes float, got nan"),
    ],
)
def test_mistakes_are_sentences(profile, overrides, says):
    with pytest.raises(PpferError, match=says):
        load_config(profile, overrides)


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        ("privacy.lr", "1e-4", 1e-4),
        ("seed", "3", 3),
        ("compile", "true", True),
        ("fidelity", 1, 1.0),
    ],
)
def test_strings_are_read_as_the_field(key, value, read):
    node = to_dict(load_config("demo", {key: value}))
    for part in key.split("."):
        node = node[part]
    assert node == read and type(node) is type(read)


def test_override_changes_one_field_only():
    plain = to_dict(load_config("demo"))
    changed = to_dict(load_config("demo", {"bands.wavelet": "db4"}))
    assert changed.pop("bands")["wavelet"] == "db4" and plain.pop("bands")["wavelet"] == "haar"
    assert plain == changed


def test_profiles_are_frozen_and_distinct():
    configs = [load_config(name) for name in PROFILES]
    assert len({digest(to_dict(c) | {"profile": ""}) for c in configs}) == len(PROFILES) == 4
    with pytest.raises(dataclasses.FrozenInstanceError):
        configs[0].seed = 1


def test_conda_file_repeats_pyproject():
    """environment.yml is a second front door: its pip section is pyproject's pins."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    lines = (REPO / "environment.yml").read_text().splitlines()
    pins = [line.strip()[2:].strip('"') for line in lines if line.startswith("      - ")]
    assert [pin for pin in pins if not pin.startswith("-")] == project["dependencies"]


def test_every_package_that_is_imported_is_pinned():
    """What only another package asks for would be any version in a year."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    pins = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    pinned = {re.match(r"[\w-]+", pin)[0].lower().replace("_", "-") for pin in pins}
    trees = [ast.parse(path.read_text()) for path in (REPO / "ppfer").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    names = {name.partition(".")[0] for name in names} - {"ppfer", *sys.stdlib_module_names}
    homes = packages_distributions()  # of what is installed; extras may be absent
    for name in names & homes.keys():
        assert pinned & {home.lower().replace("_", "-") for home in homes[name]}, name


def test_demo_stands_on_the_paper_where_it_speaks():
    demo, paper = load_config("demo"), load_config("paper")
    assert demo.privacy_loss == paper.privacy_loss == "paper" and paper.fidelity == 0.0
    assert (paper.bands.wavelet, paper.bands.level) == ("haar", 1)
    assert (paper.frames, paper.size) == (16, 224)
