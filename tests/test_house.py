"""The shape of the package, counted from its source: floors, circles, lengths, nesting, and lists
that name all there is.
"""

from __future__ import annotations

import ast
import graphlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ppfer.config import REPO, load_config
from ppfer.run.stage import Protector, Stage
from ppfer.study import catalogue

# a module imports its own floor and those above it in this list
FLOORS = (
    "ppfer base config",
    "wavelets nets uvit measure",
    "protect",
    "data video",
    "run",
    "method",
    "twin",
    "study",
    "show",
    "cli __main__",
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms.split()}
LONGEST, IMPORTS_INSIDE, DEEPEST, ENTRIES, MOST_FLOORS = 400, 20, 1, 16, 11
CORE = {"config", "nets", "uvit", "protect", "measure", "wavelets", "method"}  # it is the paper
GROUND = {"ppfer", "base", "run"}  # what the core stands on
CORE_LINES, METHOD_LINES, ALL_LINES = 2_650, 6_800, 20_220  # limits that only fall
NOTEBOOK_LINES = dict.fromkeys((*(f"{n:02}" for n in range(8)), "12"), 8_000)
VALUES = {  # of the stages' arguments
    "protector": "none",
    "where": "frames",
    "variant": "task3",
    "target": "plr",
    "view": "hw-low-actor",
    "column": "sex",
}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
IMPORTS = (ast.Import, ast.ImportFrom)


def name_of(path: Path) -> str:
    parts = path.relative_to(REPO).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted((REPO / "ppfer").rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}


def room(module: str) -> str:
    """Its name below the package: "ppfer.study.protectors.blur" is in the room "study"."""
    return module.split(".")[1] if "." in module else module


def inside(node: ast.AST, kinds: tuple, depth: int = 0) -> list[tuple[ast.AST, int]]:
    """Nodes of the kinds below a node, each with the number of functions around it."""
    found = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, kinds):
            found.append((child, depth))
        found += inside(child, kinds, depth + isinstance(child, FUNCTIONS))
    return found


def imported(module: str) -> set[str]:
    """The package's modules that a module imports, anywhere in it; what is imported from another
    package than the module's own comes with that package's `__init__`.
    """
    found = set()
    for node, _ in inside(TREES[module], IMPORTS):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            assert not node.level, f"{module}, line {node.lineno}: imports are written in full"
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in FILES else node.module for name in below]
        for name in filter(FILES.__contains__, names):
            outside = room(name) != room(module) and "." in name
            found |= {name, f"ppfer.{room(name)}"} if outside else {name}
    return found - {module}


EDGES = {module: imported(module) for module in FILES}


LINES = {name: len(path.read_text().splitlines()) for name, path in FILES.items()}


def imports_in_functions() -> list[str]:
    found = [(name, node, d) for name in FILES for node, d in inside(TREES[name], IMPORTS)]
    return [f"{name}:{node.lineno}: {ast.unparse(node)}" for name, node, depth in found if depth]


def nested() -> dict[str, int]:
    """Functions in functions, and how deep."""
    found = [(name, node, d) for name in FILES for node, d in inside(TREES[name], FUNCTIONS)]
    return {f"{name}:{node.lineno}: {node.name}": depth for name, node, depth in found if depth}


# --- counts -------------------------------------------------------------------


def test_no_module_is_long():
    assert not {name: n for name, n in LINES.items() if n > LONGEST}


def test_nothing_imports_in_a_circle():
    graphlib.TopologicalSorter(EDGES).prepare()  # raises CycleError, naming the circle


def test_imports_only_point_up():
    unknown = {room(module) for module in FILES} - FLOOR.keys()
    assert not unknown, "a new room has a floor"
    downward = [
        f"{module} → {other}"
        for module, others in EDGES.items()
        for other in others
        if FLOOR[room(other)] > FLOOR[room(module)]
    ]
    assert not downward


def test_imports_inside_functions_are_few():
    """The command line's apart: a command imports what it needs as it begins."""
    found = [line for line in imports_in_functions() if not line.startswith("ppfer.cli.")]
    assert len(found) <= IMPORTS_INSIDE, "\n".join(found)


def test_functions_are_not_nested_twice():
    assert not {where: depth for where, depth in nested().items() if depth > DEEPEST}


def test_few_things_stand_at_the_door():
    here = {path.name for path in (REPO / "ppfer").iterdir()}
    assert len(here - {"__init__.py", "__main__.py", "__pycache__"}) <= ENTRIES
    assert len(FLOORS) <= MOST_FLOORS


# --- closures -----------------------------------------------------------------

LOADED = """
import json, sys

def ours():
    return [name for name in sys.modules if name.split(".")[0] == "ppfer"]

for statements in json.load(sys.stdin):
    for name in ours():  # as in a fresh process, but that other packages are there
        del sys.modules[name]
    for statement in statements:
        exec(statement, {})
    print(json.dumps([name for name in ours() if getattr(sys.modules[name], "__file__", "")]))
"""


def imports_of(number: str) -> list[str]:
    """All import statements of a notebook."""
    (path,) = (REPO / "notebooks").glob(f"{number}_*.ipynb")
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    trees = [ast.parse("".join(cell["source"])) for cell in cells]
    return [ast.unparse(node) for tree in trees for node, _ in inside(tree, IMPORTS)]


@pytest.fixture(scope="module")
def closures() -> dict[str, int]:
    """Lines of all of the package's modules that are there after what the method, or a notebook,
    imports.
    """
    given = {"method": ["import ppfer.method"]}
    given |= {n: ["import ppfer.show.notebook", *imports_of(n)] for n in NOTEBOOK_LINES}
    command, asked = [sys.executable, "-c", LOADED], json.dumps(list(given.values()))
    done = subprocess.run(command, input=asked, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = map(json.loads, done.stdout.splitlines())
    return {what: sum(map(LINES.get, names)) for what, names in zip(given, told, strict=True)}


def test_the_core_is_thin_and_imports_no_wing():
    core = [name for name in FILES if room(name) in CORE]
    assert sum(LINES[name] for name in core) <= CORE_LINES
    assert sum(LINES.values()) <= ALL_LINES
    wings = {other for name in core for other in EDGES[name] if room(other) not in CORE | GROUND}
    assert not wings


def test_the_method_pulls_in_little(closures):
    assert 0 < closures["method"] <= METHOD_LINES


@pytest.mark.parametrize("number", NOTEBOOK_LINES)
def test_a_notebook_pulls_in_little(number, closures):
    assert "ppfer.show" in "".join(imports_of(number))
    assert closures[number] <= NOTEBOOK_LINES[number]


def test_every_text_is_utf8_on_every_system():
    """Windows would take an encoding that lacks ² and −, and not read what others wrote."""
    least = {"read_text": 1, "write_text": 2}  # arguments, with the encoding
    wrong = []
    for name, tree in TREES.items():
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            method, given = getattr(call.func, "attr", ""), len(call.args) + len(call.keywords)
            of_text = method == "open" and getattr(call.func.value, "id", "") != "av"
            text = of_text and {getattr(a, "value", "") for a in call.args} & {"a", "w"}
            encoded = any(word.arg == "encoding" for word in call.keywords)
            if given < least.get(method, 0) or text and not encoded:
                wrong.append(f"{name}: {ast.unparse(call)}")
    assert not wrong


# --- lists --------------------------------------------------------------------


def subclasses(cls: type) -> set[type]:
    return {cls}.union(*map(subclasses, cls.__subclasses__()))


def test_every_stage_is_listed_once_and_found_by_name(tmp_path):
    described = {cls for cls in subclasses(Stage) if "kind" in vars(cls)}
    ours = {cls for cls in described if cls.__module__.startswith("ppfer.")}
    kinds = [cls.kind for cls in catalogue.STAGES]
    assert ours == set(catalogue.STAGES) and len(kinds) == len(set(kinds))
    run = catalogue.open_run(load_config("smoke"), tmp_path, "cpu")
    for cls in catalogue.STAGES:
        name = f"{cls.kind}/{VALUES[cls.argument]}" if cls.argument else cls.kind
        stage = run.stage(name)
        assert type(stage) is cls and stage.name == name
        assert all(run.stage(need) for need in stage.needs())


def test_every_protector_is_listed_once_and_found_by_name(tmp_path):
    names = [protector.name for protector in catalogue.PROTECTORS]
    assert len(names) == len(set(names))
    run = catalogue.open_run(load_config("smoke"), tmp_path, "cpu")
    for name in names:
        assert run.protector(name) in catalogue.PROTECTORS
        assert run.stage(f"protected/{name}").what.name == name
        assert all(run.stage(need) for need in run.protector(name).needs)
    loaded = [module for name, module in sys.modules.items() if name.startswith("ppfer.")]
    found = [x for m in loaded for v in vars(m).values() for x in (v if type(v) is tuple else [v])]
    assert {x.name for x in found if isinstance(x, Protector)} == set(names)


IMPORTING = """
import importlib, sys

def state():
    found = {}
    for name, module in sorted(sys.modules.items()):
        if not name.startswith("ppfer") or name.startswith("ppfer.study"):
            continue
        for key, value in vars(module).items():
            if key.startswith("__") or getattr(value, "__name__", "").startswith("ppfer."):
                continue
            found[name, key] = id(value)
            if isinstance(value, (dict, list, set)):
                found[name, key, "holds"] = repr(value)
            if isinstance(value, type) and value.__module__.startswith("ppfer."):
                found[name, key, "class"] = repr(sorted(vars(value).items(), key=str))
    return found

studies = [name for name in sys.argv[1:] if name.startswith("ppfer.study")]
for name in sys.argv[1:]:
    if name not in studies:
        importlib.import_module(name)
before = state()
assert before and not any(name.startswith("ppfer.study") for name in sys.modules)
for name in studies:
    importlib.import_module(name)
after = state()
changed = [str(key) for key in before | after if before.get(key) != after.get(key)]
sys.exit("changed by importing: " + ", ".join(changed) if changed else 0)
"""


def test_importing_the_study_changes_nothing():
    """Nothing is registered by being imported: no global of any other room is another after."""
    above = [name for name in FILES if FLOOR[room(name)] <= FLOOR["study"]]
    command = [sys.executable, "-c", IMPORTING, *above]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_what_is_counted_would_be_seen():
    """The counts can fail."""
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(EDGES | {"ppfer.config": {"ppfer.cli.run"}}).prepare()
    tree = ast.parse("def a():\n class B:\n  def c(self):\n   def d(): import os")
    assert {node.name: n for node, n in inside(tree, FUNCTIONS)} == {"a": 0, "c": 1, "d": 2}
    assert [n for _, n in inside(tree, IMPORTS)] == [3]
    assert {"ppfer.method", "ppfer.run", "ppfer.run.run"} <= EDGES["ppfer.show.notebook"]
