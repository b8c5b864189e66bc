"""A wrong key or value is refused in a sentence; a right one changes exactly one field."""

import dataclasses
import tomllib

import pytest

from ppfer.config import PROFILES, REPO, PpferError, digest, load_config, to_dict


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
    ],
)
def test_mistakes_are_sentences(profile, overrides, says):
    with pytest.raises(PpferError, match=says):
        load_config(profile, overrides)


@pytest.mark.parametrize(("key", "value", "read"), [("privacy.lr", "1e-4", 1e-4), ("seed", "3", 3), ("compile", "true", True), ("test", 1, 1.0)])
def test_strings_are_read_as_the_field(key, value, read):
    node = to_dict(load_config("demo", {key: value}))
    for part in key.split("."):
        node = node[part]
    assert node == read and type(node) is type(read)


def test_override_changes_one_field_only():
    plain, changed = to_dict(load_config("demo")), to_dict(load_config("demo", {"bands.wavelet": "db4"}))
    assert changed.pop("bands")["wavelet"] == "db4" and plain.pop("bands")["wavelet"] == "haar"
    assert plain == changed


def test_profiles_are_frozen_and_distinct():
    assert len({digest(to_dict(c)) for c in PROFILES.values()}) == 4
    with pytest.raises(dataclasses.FrozenInstanceError):
        PROFILES["demo"].seed = 1


def test_conda_file_repeats_pyproject():
    """environment.yml is a second front door: its pip section must be pyproject's pins, word for word."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    lines = [line.strip()[2:].strip('"') for line in (REPO / "environment.yml").read_text().splitlines() if line.startswith("      - ")]
    pins = [line for line in lines if not line.startswith("-e") and not line.startswith("--")]
    assert pins == project["dependencies"]
