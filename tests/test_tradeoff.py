"""What privacy costs: the area that approaches dominate, and its picture."""

import pytest

from ppfer.measure import Rate, Worst, json_rows, write_table
from ppfer.show import tradeoff


def row(name: str, named: int, read: int, **more) -> dict:
    return {"approach": name, "plr_worst": Worst(named, 100, "any"), "acc": Rate(read, 100)} | more


def test_the_area_grows_only_by_rows_that_no_other_beats():
    open_, closed, both = row("open", 100, 90), row("closed", 0, 20), row("both", 10, 80)
    assert tradeoff.hypervolume([open_], "acc") == 0
    assert tradeoff.hypervolume([closed], "acc") == pytest.approx(0.2)
    three = tradeoff.hypervolume([both, open_, closed], "acc")
    assert three == pytest.approx(0.2 * 1 + 0.6 * 0.9)
    assert tradeoff.hypervolume([both, open_, closed, row("worse", 20, 70)], "acc") == three


def test_two_tables_of_a_folder_become_one(tmp_path):
    first = [row("a", 5, 50), row("b", 6, 60)]
    write_table(first, tmp_path, "table1")
    write_table([row("b", 6, 60, actions_r2=0.4), row("b", 1, 1)], tmp_path, "live")
    a, b = tradeoff.rows_of(tmp_path)
    assert a == json_rows(first)[0] and b == {**json_rows(first)[1], "actions_r2": 0.4}


def test_a_row_without_a_number_has_no_point():
    rows = [row("a", 5, 50), row("b", 6, 60, actions_r2=0.4), {"approach": "left out"}]
    assert [name for name, *_ in tradeoff.points(rows, "actions_r2")] == ["b"]
    assert tradeoff.points(rows, "acc") == [("a", 0.05, 0.5), ("b", 0.06, 0.6)]
    drawn = tradeoff.figure(rows, chance=0.1)
    assert len(drawn.axes) == 2  # nobody was retrained
    said = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert said == ["1 a", "2 b", "chance, 10.0 %"]


def test_figure1_has_the_papers_points_and_those_of_the_frozen_validator(tmp_path):
    named = {"plr": Rate(90, 100), "acc_retrained": Rate(80, 100)}
    rows = [row("Gaussian blur 2", 95, 0, **named), row("PPFER (C)", 25, 0, **named)]
    drawn = tradeoff.figure1([*rows, row("ours alone", 3, 0, **named), {"approach": "left out"}])
    labels = [text.get_text() for text in drawn.legends[0].get_texts()]
    kinds = ["ours, V_pl as trained", "the paper's, on CREMA-D"]
    assert labels == ["1 Gaussian blur 2", "2 PPFER (C)", "3 ours alone", *kinds]
    marks = [line.get_marker() for line in drawn.axes[0].get_lines()]
    assert marks.count("x") == 2  # theirs, of approaches that they have
    write_table(rows, tmp_path, "table1")
    tradeoff.save_figure1(tmp_path)
    assert "<svg" in (tmp_path / "figure1.svg").read_text()


def test_without_the_worst_attack_the_next_is_drawn_and_some_may_be_hidden():
    numbers = {"plr_retrained": Rate(50, 100), "acc": Rate(80, 100)}
    rows = [{"approach": name} | numbers for name in "ab"]
    drawn = tradeoff.figure(rows, shown=("a",))
    assert drawn.axes[0].get_xlabel() == tradeoff.ATTACKERS["plr_retrained"]
    assert len(drawn.axes[0].get_lines()) == 1 and len(drawn.legends[0].get_texts()) == 2


def test_numbers_that_follow_each_other_are_printed_as_a_range():
    assert tradeoff.numbered([1, 3, 4, 15, 16, 17, 20]) == "1, 3, 4, 15–17, 20"
