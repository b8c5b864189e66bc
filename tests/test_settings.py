"""Settings from the command line: paths, the list of them, and what approaches stand on."""

import pytest

from ppfer.base.errors import PpferError
from ppfer.base.files import write_json
from ppfer.cli import grid, main
from ppfer.cli.options import APPROACHES, parser
from ppfer.cli.protect import _config
from ppfer.cli.settings import meanings, settings_of
from ppfer.config import PATHS, dotted, load_config, pick, to_dict
from ppfer.study import catalogue, tables
from ppfer.video.scene import COVERS


def test_paths_count_from_where_the_command_is_given(tmp_path, monkeypatch):
    """A folder may have a name that the checkout has, too."""
    (tmp_path / "data" / "twin").mkdir(parents=True)
    (tmp_path / "w.pth").touch()
    monkeypatch.chdir(tmp_path)
    words = "run --set data=data/twin --set nets.classifier_weights=w.pth"
    settings = settings_of(parser().parse_args([*words.split(), "--set", "flow_weights=DEFAULT"]))
    assert settings == {
        "data": str(tmp_path / "data" / "twin"),
        "nets.classifier_weights": str(tmp_path / "w.pth"),
        "flow_weights": "DEFAULT",
    }
    assert (
        settings_of(parser().parse_args("run --data data/twin".split()))["data"] == settings["data"]
    )
    (cell,) = grid.cells_of({"data": ["data/twin"]}, "smoke", {})
    assert cell.config.data == settings["data"]


@pytest.mark.parametrize(
    ("words", "says"),
    [("--set wild=none", "wild: there is no none"), ("--data none", "data: there is no none"),
     ("--set nets.classifier_weights=w.pth", "nets.classifier_weights: there is no w.pth"),
     ("--data ~none/clips", "data: there is no ~none/clips"),
     ("--set profile=twin", "--profile twin")],
)  # fmt: skip
def test_what_is_not_there_is_said_before_anything_is_made(tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PpferError, match=says):
        settings_of(parser().parse_args(["run", *words.split()]))
    if "none" in words:  # what was trained outlives its clips
        assert settings_of(parser().parse_args(["run", *words.split()]), there=False)


def test_where_no_shell_knows_the_home_folder_it_is_known_here(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))  # Windows
    args = parser().parse_args(["protect", "~/v.mp4", "--out=~/protected"])
    assert args.out == tmp_path / "protected" and args.videos == [tmp_path / "v.mp4"]


def test_settings_that_are_paths_are_settings():
    pick(load_config(), *PATHS)


def test_every_setting_has_a_meaning(capsys):
    names = set(dotted(to_dict(load_config()))) - {"profile"}
    said = meanings()
    fields = {f"Train.{name}" for name in to_dict(load_config().identity)}
    groups = {name.split(".")[0] for name in names} - {"bands", "nets"}
    wanted = {name for name in names if name.startswith(("bands.", "nets."))} | groups | fields
    assert not [name for name in wanted if len(said.get(name, "")) < 5]
    assert main(["settings", "--profile", "smoke"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "size = 32  # pixels, square" in lines and max(map(len, lines)) <= 100
    assert any(line.startswith("nets.classifier = resnet_small  # resnet50 | ") for line in lines)


def test_help_says_what_each_approach_stands_on():
    anybody, run, every = map(set, APPROACHES.values())
    assert anybody == set(COVERS) | {p.name for p in catalogue.PROTECTORS if p.for_anybody}
    here = {p.name for p in catalogue.PROTECTORS if p.notebook < "08" or p.learned_here}
    assert run == here - {"none", "copies"}
    assert every == {*tables.TABLE1, *tables.MORE} - anybody - run - {"none"}


def test_a_run_is_known_by_its_name_alone(tmp_path):
    differs = {"data": str(tmp_path / "unplugged"), "size": 64}
    write_json(tmp_path / "mine" / "run.json", {"profile": "smoke", "differs": differs})
    words = ["protect", "v.mp4", "--out", "o", "--name", "mine", "--runs-dir", str(tmp_path)]
    config = _config(parser().parse_args(words))
    assert (config.profile, config.data, config.size) == ("smoke", differs["data"], 64)


@pytest.mark.parametrize("words", ["--notebooks 42", "--no-notebooks --notebooks 03"])
def test_a_notebook_that_is_none_is_refused_before_anything_is_made(words, tmp_path, capsys):
    command = ["run", "--profile", "smoke", "--runs-dir", str(tmp_path / "runs"), *words.split()]
    assert main(command) == 2 and not (tmp_path / "runs").exists()
    error = capsys.readouterr().err
    assert "there is no notebook 42" in error or "--no-notebooks makes main" in error
