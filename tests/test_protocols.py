"""The field's own protocols: DFEW's five folds, CREMA-D's votes, people nobody has trained on."""

import csv
import json
import math
import re
import statistics
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import SMALL, coloured_run
from making_videos import encode
from test_data import put, reasons

from ppfer.base.errors import PpferError
from ppfer.cli import compare, main
from ppfer.cli.report import judgement
from ppfer.config import REPO, load_config
from ppfer.data import index as data
from ppfer.measure import Rate, as_rate, json_rows, markdown
from ppfer.method import PIPELINE, open_run
from ppfer.run.clips import chosen_clips
from ppfer.show import notebook
from ppfer.study import catalogue
from ppfer.study.attacks.attributes import accuracy_table
from ppfer.study.tables import run_all

TWIN = REPO / "data" / "twin"
LABELS = "EmoLabel_DataSplit/{}(single-labeled)/set_{}.csv"


def batch(folder: Path, tree: Path, *grid: str, stages: str = "recognizer/none", **settings) -> int:
    """A small batch at profile smoke, named "b"."""
    words = f"batch --profile smoke --data {tree} --workers 1 --name b --runs-dir {folder}".split()
    words += [word for axis in grid for word in ("--grid", axis)]
    settings = {"clips_per_actor": 0, "recognition.steps": 2} | settings
    words += [word for k, v in settings.items() for word in ("--set", f"{k}={v}")]
    return main([*words, *(["--stages", stages] if stages else [])])


def results(folder: Path, name: str = "results") -> list[dict]:
    return json.loads((folder / "batches" / "b" / f"{name}.json").read_text())


# --- DFEW -----------------------------------------------------------------------


def dfew(root: Path, folds: int) -> Path:
    """A DFEW tree: six clips of each of the wild twin's expressions, of which each fold tests every
    fifth.
    """
    by_label: dict[str, list[str]] = {}
    for file in (TWIN / "wild" / "EmoLabel_DataSplit").rglob("set_1.csv"):
        for row in csv.DictReader(file.open()):
            by_label.setdefault(row["label"], []).append(row["video_name"])
    rows = [(i, f"{name},{k}") for k, names in by_label.items() for i, name in enumerate(names[:6])]
    tables = {}
    for fold in range(1, folds + 1):
        for part in ("train", "test"):
            tested = [row for i, row in rows if (i % 5 == fold - 1) == (part == "test")]
            text = "\n".join(["video_name,label", *tested])
            tables[LABELS.format(part, fold)] = text.encode()
    put(root, tables)
    (root / "Clip").symlink_to(TWIN / "wild" / "Clip")
    return root


def test_five_folds_are_one_row_by_one_batch(tmp_path):
    assert batch(tmp_path / "runs", dfew(tmp_path / "dfew", 5), "fold=1,2,3,4,5") == 0
    *folds, whole, interval = results(tmp_path / "runs")
    assert [row["fold"] for row in folds] == [1, 2, 3, 4, 5]
    assert [row["acc"]["n"] for row in folds] == [14, 7, 7, 7, 7], "each clip is tested once"
    assert (whole["run"], whole["fold"]) == ("5 folds", "1, 2, 3, 4, 5")
    assert whole["acc"] == {key: [row["acc"][key] for row in folds] for key in "kn"}
    uar = [row["uar"] for row in folds]
    assert whole["uar"] == f"{statistics.mean(uar):.3f} ± {statistics.stdev(uar):.3f}"
    half = compare.STUDENT[5] * statistics.stdev(uar) / math.sqrt(5)
    low, high = max(0, statistics.mean(uar) - half), statistics.mean(uar) + half
    assert interval["fold"] == "95 % interval" and interval["uar"] == f"{low:.3f}–{high:.3f}"
    assert interval["acc"].endswith(" %")


def test_a_whole_run_of_two_folds_has_table_2_and_names_nobody(tmp_path):
    tree, runs = dfew(tmp_path / "dfew", 2), tmp_path / "runs"
    assert batch(runs, tree, "fold=1,2", stages="") == 0
    rows = [row for row in results(runs) if row["approach"] == "PPFER (C)"]
    assert [row["fold"] for row in rows] == [1, 2, "1, 2", "95 % interval"]
    measured = {"acc", "acc_retrained", "uar_retrained"}
    assert all(row.keys() == {"run", "fold", "approach"} | measured for row in rows)
    by_class = [row for row in results(runs, "table2") if row["approach"] == "PPFER (C)"]
    assert by_class[2]["average"] == rows[2]["acc_retrained"]
    assert by_class[2]["uar"] == rows[2]["uar_retrained"] and "happy" in by_class[2]
    assert not list(runs.glob("*/tables/leakage.json"))


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        ("fold=1,7", r"set_7.csv does not exist, so there is no fold 7; there are set_1.csv, set"),
        ("labels=intended,face", "labels=face is for a CREMA-D tree, and .* is a DFEW tree"),
    ],
)
def test_a_fold_that_is_not_there_is_a_sentence_before_anything_is_made(
    tmp_path, capsys, grid, says
):
    runs = tmp_path / "runs"
    assert batch(runs, dfew(tmp_path / "dfew", 2), grid) == 2
    error = capsys.readouterr().err
    assert re.search(says, error), error
    assert not list(runs.rglob("run.json"))


def test_an_unlabelled_row_is_left_out_with_its_reason(tmp_path):
    tree = dfew(tmp_path / "dfew", 1)
    file = tree / LABELS.format("train", 1)
    file.write_text(file.read_text() + "\n99,\n")
    why = "has an unknown emotion: label none, not 1 to 7"
    assert reasons(data.index(tree)) == {"Clip/original/00099.mp4": why}


def test_wild_clips_that_are_the_data_are_cut_to_what_is_trained_on(tmp_path):
    """Else C_fc would have seen what F_u is tested on."""
    tree = dfew(tmp_path / "dfew", 2)
    config = load_config("smoke", {"data": str(tree), "wild": str(tree), "fold": 2})
    assert set(chosen_clips(config, wild=True).table["split"]) == {"train"}
    config = load_config("smoke", {"data": str(tree), "fold": 2})  # the shipped ones have one fold
    assert len(chosen_clips(config, wild=True).table) == config.wild_clips


# --- runs put together ------------------------------------------------------------


def run_of(k: int, n: int = 0, **settings) -> compare.Result:
    rows = [{"approach": "C", "what_ran": "it", "acc": Rate(k, n or 10 + k), "uar": k / 10}]
    return compare.Result(f"run{k}", settings, rows)


def test_folds_and_seeds_are_never_mixed():
    both = [(fold, seed) for fold in (1, 2) for seed in (0, 1)]
    grid = [run_of(2 * fold + seed, 20, fold=fold, seed=seed) for fold, seed in both]
    rows = [row for row in compare.side_by_side(grid) if not row["run"].startswith("run")]
    together = {(row["fold"], row["seed"]): row for row in rows}
    seeds = [(1, "0, 1"), (2, "0, 1")]
    assert list(together) == [*seeds, *((f, s) for s in (0, 1) for f in ("1, 2", "95 % interval"))]
    assert [rate.k for rate in together["1, 2", 0]["acc"].rates] == [2, 4]
    ragged = [run_of(1, fold=1, seed=0), run_of(2, fold=2, seed=1)]
    assert [row["run"] for row in compare.side_by_side(ragged)] == ["run1", "run2"]


def test_folds_have_test_parts_of_other_sizes_and_seeds_have_not():
    for axis, extra in (("fold", 2), ("seed", 0)):
        rows = compare.side_by_side([run_of(k, **{axis: k}) for k in (2, 4)])
        assert len(rows) == 2 + extra
    both = compare.side_by_side([run_of(k, fold=k) for k in (2, 4)])[2]
    assert str(both["acc"]) == "22.6 ± 8.4 % (2/12, 4/14)"


@pytest.mark.parametrize("folds", compare.STUDENT)
def test_students_t(folds):
    """Between −t and t lies 95 % of the distribution, whose density is integrated here."""
    nu, t = folds - 1, compare.STUDENT[folds]
    x = np.linspace(-t, t, 200_001)
    head = math.gamma((nu + 1) / 2) / math.sqrt(nu * math.pi) / math.gamma(nu / 2)
    share = np.trapezoid(head * (1 + x**2 / nu) ** (-(nu + 1) / 2), x)
    assert share == pytest.approx(0.95, abs=1e-4)
    assert compare.interval([Rate(0, 1), *[Rate(1, 1)] * (folds - 1)]).endswith("–100.0 %")


# --- CREMA-D ----------------------------------------------------------------------

COLUMNS = "FileName VoiceVote VoiceLevel FaceVote FaceLevel MultiModalVote MultiModalLevel"
HEAD = ",".join(f'"{name}"' for name in ["", *COLUMNS.split()]) + "\n"


def votes(*rows: str) -> bytes:
    """A table of the published shape: clip, then the votes for voice, face and both."""
    lines = []
    for number, row in enumerate(rows, 1):
        clip, *three = row.split()
        levels = [":".join(["66.5"] * len(vote.split(":"))) for vote in three]
        cells = [number, clip, *(cell for pair in zip(three, levels) for cell in pair)]
        lines.append(",".join(f'"{cell}"' for cell in cells))
    return (HEAD + "\n".join(lines)).encode()


@pytest.mark.parametrize("place", ["processedResults/summaryTable.csv", "summarytable.CSV"])
def test_votes_are_labels_and_a_tie_is_left_out(tmp_path, place):
    clips = [f"VideoFlash/1001_DFA_{code}_XX.flv" for code in ("ANG", "SAD", "HAP", "NEU")]
    table = votes("1001_DFA_ANG_XX A D A", "1001_DFA_SAD_XX N S:N F", "1001_DFA_HAP_XX H H X")
    tree = put(tmp_path, dict.fromkeys(clips) | {place: table})
    said = {"ANG": "angry", "SAD": "neutral", "HAP": "happy"}
    lost = "has no voted label: the clip is not in the table"
    for labels, ours, left in (
        ("voice", said, {}),
        ("face", {"ANG": "disgust", "HAP": "happy"}, {"SAD": "face is a tie of sad and neutral"}),
        ("both", {"ANG": "angry", "SAD": "fear"}, {"HAP": "both has the vote 'X'"}),
    ):
        for root in (tree, tree / "VideoFlash"):
            index = data.index(root, labels=labels)
            names = index.table["clip"].str[9:12]
            assert dict(zip(names, index.table["emotion"], strict=True)) == ours
            why = {Path(path).stem[9:12]: reason for path, reason in reasons(index).items()}
            assert why.pop("NEU") == lost
            assert why == {code: f"has no voted label: {what}" for code, what in left.items()}
    assert len(data.index(tree).table) == 4


def test_without_the_table_of_votes_it_says_what_to_fetch(tmp_path, capsys):
    put(tmp_path, {"VideoFlash/1001_DFA_ANG_XX.flv": None})
    with pytest.raises(PpferError, match="fetch processedResults/summaryTable.csv of its repos"):
        data.index(tmp_path, labels="face")
    assert main(["data", str(tmp_path), "--quick", "--labels", "both"]) == 2
    assert "labels=both takes CREMA-D's votes" in capsys.readouterr().err
    with pytest.raises(PpferError, match="fold=2 is for a DFEW tree, and .* is a CREMA-D tree"):
        data.index(tmp_path, fold=2)


def test_voted_and_intended_labels_stand_side_by_side(tmp_path):
    tree, clips = tmp_path / "tree", sorted((TWIN / "VideoMP4").glob("*.mp4"))
    rows = [f"{clip.stem} {clip.stem[9]} {clip.stem[9]} A:D" for clip in clips]
    rows[0] = f"{clips[0].stem} A A:H A"
    put(tree, {"processedResults/summaryTable.csv": votes(*rows)})
    (tree / "VideoMP4").symlink_to(TWIN / "VideoMP4")
    how = {"actors": 2, "clips_per_actor": 24}
    assert batch(tmp_path / "runs", tree, "labels=intended,face", **how) == 0
    acted, seen = results(tmp_path / "runs")
    assert (acted["labels"], seen["labels"]) == ("intended", "face")
    columns = {"run", "labels", "approach", "val loss", "val accuracy", "acc", "uar"}
    assert {**acted, **seen}.keys() == columns
    left = (tmp_path / "runs" / seen["run"] / "clips" / "store" / "rejected.csv").read_text()
    assert f"{clips[0].stem}.mp4,has no voted label: face is a tie of angry and happy" in left


def test_the_papers_parts_and_actor_disjoint_ones_stand_side_by_side(tmp_path):
    how = {"clips_per_actor": 24}
    assert batch(tmp_path, TWIN, "split_by=auto,actor", **how) == 0
    closed, apart = results(tmp_path)
    assert (closed["split_by"], apart["split_by"]) == ("auto", "actor")
    people = {}
    for row in (closed, apart):
        parts = json.loads((tmp_path / row["run"] / "split" / "split.json").read_text())
        people[row["split_by"]] = [{name[:4] for name in parts[p]} for p in ("train", "test")]
    assert people["auto"][0] == people["auto"][1] and not set.intersection(*people["actor"])


def test_five_folds_of_people_test_everybody_once(tmp_path, capsys):
    how = {"split_by": "actor_folds", "clips_per_actor": 6}
    assert batch(tmp_path, TWIN, "fold=1,2,3,4,5", **how, actors=6) == 0
    *folds, whole, _ = results(tmp_path)
    tested = []
    for row in folds:
        parts = json.loads((tmp_path / row["run"] / "split" / "split.json").read_text())
        people = [{name[:4] for name in parts[part]} for part in ("train", "val", "test")]
        assert all(people) and sum(map(len, people)) == len(set.union(*people)) == 6
        tested += parts["test"]
    assert len(tested) == len(set(tested)) == sum(whole["acc"]["n"]) == 36
    assert len(list(tmp_path.glob("*/clips/manifest.json"))) == 1, "decoded once"
    assert batch(tmp_path / "other", TWIN, "fold=1,6", **how) == 2
    assert "fold=6: split_by=actor_folds makes 5, from 1" in capsys.readouterr().err
    assert not list((tmp_path / "other").rglob("run.json"))


def test_no_identity_is_measured_of_people_training_does_not_show(tmp_path, monkeypatch, capsys):
    run = coloured_run(load_config("smoke", SMALL | {"split_by": "actor"}), tmp_path)
    run_all(run, PIPELINE)
    rows = json.loads((run.dir / "tables" / "main.json").read_text())
    assert {row["plr"]["n"] for row in rows} == {0} and rows[0]["acc"]["n"] == 12
    demo = SimpleNamespace(config=load_config("demo", {"split_by": "actor"}))
    assert judgement(demo, rows).startswith("No identity is measured")
    shown = compare.main_rows(run.dir)
    assert not any("plr" in row for row in shown) and "uar_retrained" in shown[-1]
    assert not (run.dir / "tables" / "leakage.json").exists()

    monkeypatch.setattr(notebook, "_open", lambda *_: run)
    notebook.start("smoke", 0, str(tmp_path))
    assert notebook.NOBODY in capsys.readouterr().out
    row = {"approach": "C", "plr": Rate(1, 2), "clip": Rate(1, 2), "acc": Rate(1, 2)}
    notebook.show([row], name="shown", context=run)
    (kept,) = json.loads((run.dir / "tables" / "shown.json").read_text())
    assert [kept[key]["n"] for key in ("plr", "clip", "acc")] == [0, 0, 2]


def test_what_is_read_is_grouped_by_any_column(tiny_run):
    (row,) = accuracy_table(tiny_run, ("none",), by=("sentence",))
    assert list(row) == ["approach", "sentence: 0", "sentence: 1"]
    assert sum(row[f"sentence: {i}"].n for i in (0, 1)) == len(tiny_run.parts["test"])


def test_compare_groups_what_is_read_and_who_is_named(tiny_run, tmp_path, monkeypatch, capsys):
    run_all(tiny_run, ())
    monkeypatch.setattr(catalogue, "open_run", lambda *_: tiny_run)
    words = ["compare", str(tiny_run.dir), "--runs-dir", str(tmp_path), "--by"]
    assert main([*words, "sentence, sex"]) == 0
    assert re.search(r"sex: female .*\(\d+/\d+\).*\(\d+/\d+\)", capsys.readouterr().out)
    (file,) = (tmp_path / "tables").glob("*-groups.json")
    rows = json.loads(file.read_text())
    approaches = {row["approach"] for row in rows}
    assert len(rows) == len(approaches) * 4 >= 12, "two sentences, two sexes"
    test = len(tiny_run.parts["test"])
    for column in ("sentence", "sex"):
        own = [row for row in rows[:4] if row["group"].startswith(column)]
        assert sum(row["read"]["n"] for row in own) == sum(row["named"]["n"] for row in own) == test
    assert main([*words, "mood"]) == 2
    assert "has no column mood; it has age_group, clip" in capsys.readouterr().err


# --- a table's own split ------------------------------------------------------------


@pytest.mark.parametrize("official", [True, False])
def test_a_run_says_when_the_tables_own_split_is_not_used(tmp_path, capsys, official):
    rows, folder = ["path,actor,emotion,sentence,split"], tmp_path / "set"
    folder.mkdir()
    for number in range(8):
        part = ("train", "test" if official else "later")[number % 2]
        rows.append(f"{number}.mp4,{number // 4},sad,{number // 2 % 2},{part}")
        encode(folder / f"{number}.mp4", count=6, first=number)
    (folder / "metadata.csv").write_text("\n".join(rows))
    given = {"data": str(folder), "split_by": "sentence" if official else "auto"}
    run = open_run(load_config("smoke", SMALL | given | {"clips_per_actor": 0}), tmp_path / "runs")
    said = run.make("clips").summary()
    run.make("split")
    told = capsys.readouterr().out
    kept = "sentence is held out (split_by), so the data's own column split is not used"
    assert (kept in told) == official
    odd = "column split: 'later', 'train': not train, val or test throughout, so not used"
    assert (odd in said) == (not official)


# --- committed rows -----------------------------------------------------------------


def committed(name: str) -> list[dict]:
    folder = REPO / "figures" / "twin"
    rows = json.loads((folder / f"{name}.json").read_text())
    assert (folder / f"{name}.md").read_text() == markdown(rows)
    assert markdown(rows) in (folder / "README.md").read_text()
    return rows


def test_five_folds_of_91_people_test_every_clip_once():
    rows = committed("folds")
    for approach in ("No privacy preservation", "Re-enactment by a codebook"):
        *folds, whole, interval = [row for row in rows if row["approach"] == approach]
        assert [row["fold"] for row in folds] == [1, 2, 3, 4, 5]
        assert sum(row["acc"]["n"] for row in folds) == 91 * 82
        results = [compare.Result("", {"fold": row["fold"]}, [row]) for row in folds]
        mean, over = json_rows(compare.side_by_side(results)[5:])
        for key in ("acc", "acc_retrained"):
            assert mean[key] == whole[key] and over[key] == interval[key]
            assert {k: [row[key][k] for row in folds] for k in "kn"} == whole[key]
        for key in ("uar", "uar_retrained"):
            assert (mean[key], over[key]) == (whole[key], interval[key])


def test_rows_across_data_sets_say_where_they_learned_and_count_one_test_part():
    first, *wild = committed("across")
    assert first["clips"] == "main, trained on main" and first["plr"]["n"] == 2238
    where = {row["approach"]: row["clips"].removeprefix("wild, trained on ") for row in wild}
    assert where["Imported"] == "main" and where["PPFER without compensation (G)"] == "wild"
    assert {row[key]["n"] for row in wild for key in row if as_rate(row[key])} == {1080}
    (imported,) = (row for row in wild if row["approach"] == "Imported")
    assert (
        imported["what_ran"] == f"trained on other data: {first['approach']}, {first['what_ran']}"
    )
