"""What CONTRIBUTING.md shows works; commands, files and links named in the pages exist."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from figures import publish
from ppfer.cli.options import parser
from ppfer.config import REPO

PAGES = [REPO / name for name in ("CONTRIBUTING.md", *publish.PAGES)]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))

TRIED = """
import json
from pathlib import Path

import nbformat
import papermill
import torch

from ppfer.data.index import index
from ppfer.cli import notebooks
from ppfer.study import catalogue
from ppfer.config import load_config
from ppfer.protect import protect
from ppfer.study import tables

torch.set_num_threads(1)
torch.manual_seed(0)
runs, raw = Path("runs").resolve(), Path("raw")
few = {f"{stage}.{key}": 2 for stage in ("identity", "privacy") for key in ("steps", "batch")}
settings = {"actors": 2, "clips_per_actor": 12, "size": 16, **few}
run = catalogue.open_run(load_config("smoke", settings), runs, "cpu")
for name in ("clips", "split", "protected/none", "identity"):
    run.make(name)

clips = (255 * torch.rand(2, 4, 3, 16, 16)).byte()
box = protect(run.protector("box").build(run), clips)
ready = tables.prepare(run, ["box", "veil"], ())
moved = run.tensor("protected/veil").int() - run.tensor("clips").int()

names = {"01-01-03-01-01-01-01": 1, "02-01-03-01-01-01-01": 1, "01-01-02-01-01-01-02": 2, "x": 2,
         "01-01-08-02-02-01-02": 2, "03-02-05-01-02-02-03": 3}
for name, actor in names.items():
    path = raw / f"Actor_{actor:02d}" / f"{name}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name)
found = index(raw)

(book,) = notebooks.chosen("13")
given = {"profile": "smoke", "settings": settings, "runs_dir": runs, "approaches": ["none", "veil"]}
assert given.keys() <= papermill.inspect_notebook(book).keys()
space = {}
for cell in nbformat.read(book, as_version=4).cells:  # as papermill does, without a kernel
    if cell.cell_type == "code":
        exec(cell.source, space)
        space |= given if "parameters" in cell.metadata.get("tags", []) else {}
print(json.dumps({
    "box": {"shape": box.shape, "spread": [float(x.float().std()) for x in (clips, box)]},
    "table1": [name for name in tables.TABLE1 if name in ready],
    "veil": {"shape": moved.shape, "most": int(moved.abs().max())},
    "stage": [run.stage("jitter/veil").needs(), run.stage("jitter/veil").origin()],
    "jitter": {name: run.get(f"jitter/{name}") for name in given["approaches"]},
    "shown": json.loads((run.dir / "tables" / "jitter.json").read_text()),
    "data": {"kind": found.kind, "rows": found.table[["clip", "actor", "emotion"]].values.tolist(),
             "rejected": dict(found.rejected.values.tolist())},
    "tables": [path.name for path in notebooks.chosen("tables")],
}))
"""


def diffs() -> list[str]:
    """The unified diffs of CONTRIBUTING.md, in order."""
    return re.findall(r"^```diff\n(.*?)^```", PAGES[0].read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """A copy of the repository with every diff applied, in which `TRIED` was run: what it found."""
    copy = tmp_path_factory.mktemp("copy")
    for folder in ("ppfer", "notebooks"):
        ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(REPO / folder, copy / folder, ignore=ignored)
    (copy / "data").symlink_to(REPO / "data")
    environment = {
        **os.environ,
        "PYTHONPATH": str(copy),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "GIT_CEILING_DIRECTORIES": str(copy.parent),  # whatever repository may lie above
    }
    call = {"cwd": copy, "env": environment, "capture_output": True, "text": True}
    for diff in diffs():
        applied = subprocess.run(["git", "apply", "-"], input=diff, **call)
        assert applied.returncode == 0, applied.stderr + diff
    done = subprocess.run([sys.executable, "-c", TRIED], **call)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_new_blur_is_a_protector_and_a_row(tried):
    assert tried["box"]["shape"] == [2, 4, 3, 16, 16]
    before, after = tried["box"]["spread"]
    assert after < before / 4
    assert tried["table1"] == ["box"]


def test_a_trained_protector_is_trained_and_protects(tried):
    assert tried["veil"]["shape"] == [24, 4, 3, 16, 16]
    assert 0 < tried["veil"]["most"] <= 0.2 * 255 + 1


def test_a_stage_says_what_it_needs_and_is_made(tried):
    assert tried["stage"] == [["split", "protected/veil"], "13"]
    assert all(0 < levels < 255 for levels in tried["jitter"].values())


def test_a_data_set_is_read_and_nothing_left_out_unsaid(tried):
    assert tried["data"]["kind"] == "RAVDESS"
    assert tried["data"]["rows"] == [
        ["01-01-03-01-01-01-01", "01", "happy"],
        ["01-01-08-02-02-01-02", "02", "surprise"],
    ]
    why = tried["data"]["rejected"]
    assert "copy without sound" in why["Actor_01/02-01-03-01-01-01-01.mp4"]
    assert "odd name" in why["Actor_02/x.mp4"] and len(why) == 4


def test_a_notebook_is_found_and_runs(tried):
    assert tried["tables"][-1] == "13_jitter.ipynb"
    assert tried["shown"] == [
        {"approach": name, "levels": levels} for name, levels in tried["jitter"].items()
    ]


# --- the pages ----------------------------------------------------------------


def commands(text: str, program: str) -> list[list[str]]:
    """What follows a program's name in code of a page, comment left out, as words."""
    code = re.findall(r"```sh\n(.*?)```|(?<!`)`([^`\n]+)`(?!`)", text, re.DOTALL)
    lines = [line for block in code for line in "\n".join(block).splitlines()]
    found = [re.search(rf"(?:^|\s|/){program} ([a-z].*)", line.split("  #")[0]) for line in lines]
    return [match[1].split() for match in found if match]


@each_page
def test_commands_exist(page):
    text = page.read_text()
    targets = set(re.findall(r"^([\w-]+):", (REPO / "Makefile").read_text(), re.MULTILINE))
    assert {words[0] for words in commands(text, "make")} <= targets
    (subs,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    for name, *words in commands(text, "ppfer"):
        assert name in subs.choices, name
        known = subs.choices[name].format_help()
        unknown = [w for w in words if w.startswith("--") and not re.search(rf"{w}\b", known)]
        assert not unknown, (name, unknown)


@each_page
def test_files_exist(page):
    text = re.sub(r"^```diff.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    named = r"`((?:ppfer|tests|notebooks|figures)/[\w./]*|[\w/]+\.(?:py|yml|cff))`"
    roots = REPO, REPO / "ppfer", page.parent
    files = re.findall(named, text)
    assert not [name for name in files if not any((root / name).exists() for root in roots)]


@each_page
def test_tables_are_those_of_their_files(page):
    text = page.read_text()
    assert text == publish.fill(text)


def test_the_readme_is_short_and_says_what_ran():
    text = (REPO / "README.md").read_text()
    assert len(text.splitlines()) <= 160
    rows = json.loads((REPO / "figures" / "demo" / "main.json").read_text())
    plain = json.loads((REPO / "figures" / "demo" / "readme.json").read_text())
    assert plain == publish.readme_rows(rows)
    assert not [row["what_ran"] for row in rows if row["what_ran"] not in text]
