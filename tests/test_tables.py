"""A table is a loop over protectors: a function and a line make a row, a broken one stops it."""

import argparse
import importlib
import json
from collections.abc import Callable

import numpy as np
import pytest
import torch

from ppfer.base.errors import PpferError
from ppfer.base.files import write_json
from ppfer.config import REPO
from ppfer.run.stage import Protector
from ppfer.study import tables
from ppfer.study.protectors.ablation import FULL, TASKS
from ppfer.study.tables import TABLE1, prepare, suite, table1, worst_leakage


def protector(name: str, function: Callable) -> Protector:
    """One function and one line."""
    return Protector(name, name.title(), lambda run: function, "of clips", needs=("clips",))


def test_table1_has_both_protocols_for_every_approach(tiny_run):
    pytest.importorskip("cv2")
    of_faces = ("swap", "landmarks", "donor", "deface_blur")  # and here is none
    names = tuple(n for n in TABLE1 if n not in of_faces)
    rows = table1(tiny_run, names)
    test = len(tiny_run.parts["test"])
    assert [row["approach"] for row in rows] == [tiny_run.protector(n).title for n in names]
    for row in rows:
        cells = [row[column] for column in ("plr", "plr_retrained", "acc", "acc_retrained")]
        assert row["what_ran"] and [cell.n for cell in cells] == [test] * 4
        assert row["plr_worst"].attack and row["plr_worst"].value >= row["plr_retrained"].value
    assert rows[0]["acc"] == rows[0]["acc_retrained"]


def test_one_function_and_one_line_make_a_row(tiny_run, monkeypatch):
    mirror = protector("mirror", lambda clips: clips.flip(-1))
    monkeypatch.setitem(tiny_run.protectors, "mirror", mirror)
    (row,) = table1(tiny_run, ("mirror",))
    assert row["approach"] == "Mirror" and row["plr"].n == row["acc"].n


def test_a_broken_protector_stops_the_table_before_any_training(tiny_run, monkeypatch):
    nowhere = protector("broken", lambda x: x * float("nan"))
    monkeypatch.setitem(tiny_run.protectors, "broken", nowhere)
    with pytest.raises(PpferError, match="broken returned NaN"):
        table1(tiny_run, ("none", "broken"))
    assert not (tiny_run.dir / "attack" / "broken").exists()
    assert not (tiny_run.dir / "protected" / "broken" / "manifest.json").exists()


def test_renaming_people_is_no_privacy(tiny_run, monkeypatch):
    actors = torch.as_tensor(tiny_run.labels("actor"))

    def neighbour(net, store, part, **_):  # everyone is taken for the next one, with certainty
        named = (actors[tiny_run.parts[part]] + 1) % int(actors.max() + 1)
        return 9.0 * torch.nn.functional.one_hot(named)[:, None].expand(-1, 4, -1).float()

    monkeypatch.setattr(tiny_run, "logits", neighbour)
    assert tables.measure_leakage(tiny_run, "ppfer")["all_frames"].k == 0
    worst = worst_leakage(tiny_run, "ppfer")
    assert worst.value == 1 and worst.attack == "validator as trained, remapped"


def test_one_picture_for_everybody_is_chance_to_every_attacker(tiny_run):
    prepare(tiny_run, ("mean",), ("attack_linear", *suite(tiny_run)))
    shown = tiny_run.tensor("protected/mean")
    assert (shown == shown[:1, :1]).all() and tiny_run.make("steadiness/mean") == 0
    test = tiny_run.parts["test"]
    commonest = max(np.bincount(tiny_run.labels("actor")[test])) / len(test)
    assert worst_leakage(tiny_run, "mean").value <= commonest


def test_rows_made_side_by_side_are_those_of_the_tables(tiny_run, monkeypatch):
    monkeypatch.syspath_prepend(str(REPO / "tests" / "bench"))
    rows = importlib.import_module("rows")
    asked = rows.GRIDS["row"][1]["approach"]
    assert {*tables.approaches(tiny_run), "enhanced"} <= set(asked) and len(set(asked)) == len(
        asked
    )
    assert {task.protector for task in (*TASKS, FULL)} <= set(rows.GRIDS["task"][1]["approach"])
    for _, axes in rows.GRIDS.values():  # each is a protector there is, and no typing mistake
        assert all(tiny_run.protector(name) for name in axes["approach"])


def test_whom_thumbnails_name_is_told_as_attacks_from_within_are(tiny_run, monkeypatch):
    monkeypatch.syspath_prepend(str(REPO / "tests" / "bench"))
    found = importlib.import_module("rows").linear(tiny_run, "none")
    assert {table for table, _ in found} == {"within"}
    one = next(row for _, row in found if row["clips"] == 1)
    assert one["attack"].startswith("on pixels: ") and one["k"] == one["n"] > 0  # a colour each


def test_rows_of_several_seeds_and_settings_become_tables(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(REPO / "tests" / "bench"))
    rows = importlib.import_module("rows")
    for seed, run, k in ((1, "smoke-seed1", 3), (0, "smoke", 4), (0, "smoke-x", 5)):
        title = "Live controllers" + (", weight 1" if run == "smoke-x" else "")
        row = {"approach": title, "setting": "weight", "acc": {"k": k, "n": 21}, "linkage": 0}
        found = [[table, row] for table in (("dials",) if run == "smoke-x" else ("live", "table1"))]
        grid = "dial weight" if run == "smoke-x" else "row"
        write_json(tmp_path / run / "rows" / f"{grid} live.json", {"seed": seed, "rows": found})
    rows.collect(argparse.Namespace(out=tmp_path, only=""))
    read = {p.stem: json.loads(p.read_text()) for p in tmp_path.glob("*.json")}
    found = [(row["approach"], row["seed"], row["acc"]["k"]) for row in read["dials"]]
    assert found == [("Live controllers, weight 1", 0, 5)]
    assert [row["linkage"] for row in read["beyond_seeds"]] == [0, 0]
    assert read["seeds"][0]["acc"] == {"k": [4, 3], "n": 21} and read["seeds"][0]["seeds"] == "0, 1"
