"""Every clip is dealt to exactly one part; all actors are on both sides, or none is."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppfer.base.errors import PpferError
from ppfer.data.readers import cremad_labels, demographics
from ppfer.data.split import actor_folds, split
from ppfer.data.words import EMOTION_CODES, EMOTIONS, SENTENCES

CODES = tuple(EMOTION_CODES)


def cremad_names() -> list[str]:
    """The real list's counts: 82 names an actor, less a sentence for three and a name for two."""
    names = []
    for actor in range(1001, 1092):
        for sentence in SENTENCES:
            for code in CODES:
                levels = ("LO", "MD", "HI") if sentence == "IEO" and code != "NEU" else ("XX",)
                names += [f"{actor}_{sentence}_{code}_{level}" for level in levels]
    gone = [f"{actor}_WSI_{code}_XX" for actor in (1008, 1009, 1019) for code in CODES]
    gone += ["1002_TIE_NEU_XX", "1076_TIE_NEU_XX"]
    return [name for name in names if name not in gone]


def cremad_table(names: list[str], people: dict | None = None) -> pd.DataFrame:
    """What the names alone say, in their order."""
    return pd.DataFrame([cremad_labels(name, people or {}) for name in sorted(names)])


def check_closed_set(table: pd.DataFrame) -> None:
    parts = split(table)
    assert (len(table), table["actor"].nunique(), len(parts["test"])) == (7442, 91, 2232)
    assert (len(parts["val"]), len(parts["train"])) == (521, 4689)
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(7442))
    sizes = table.iloc[parts["test"]].groupby(["actor", "emotion"]).size()
    assert len(sizes) == 91 * 6 and sizes.min() >= 3 and sizes.max() <= 5
    assert table.iloc[parts["train"]].groupby(["actor", "emotion"]).ngroups == 91 * 6
    assert table.iloc[parts["val"]]["actor"].nunique() == 91
    per_emotion = table.iloc[parts["test"]]["emotion"].value_counts()
    assert np.abs(per_emotion - 0.29992 * table["emotion"].value_counts()).max() < 2


def test_closed_set_of_the_paper():
    table = cremad_table(cremad_names())
    counts = {e: 1087 if e == "neutral" else 1271 for e in EMOTIONS}
    assert dict(table["emotion"].value_counts()) == counts
    check_closed_set(table)


@pytest.mark.skipif(
    "CREMAD_METADATA" not in os.environ, reason="CREMAD_METADATA: a folder with CREMA-D's file list"
)
def test_closed_set_on_the_real_list():
    folder = Path(os.environ["CREMAD_METADATA"])
    names = pd.read_csv(folder / "SentenceFilenames.csv")["Filename"]
    table = cremad_table(list(names), demographics(folder / "VideoDemographics.csv"))
    check_closed_set(table)
    people = table.drop_duplicates("actor")
    assert dict(people["sex"].value_counts()) == {"male": 48, "female": 43}
    races = {"Caucasian": 61, "African American": 22, "Asian": 7, "Unknown": 1}
    assert dict(people["race"].value_counts()) == races


def make_table(cells: list[tuple[int, int]]) -> pd.DataFrame:
    rows = [(f"{i:03d}", str(a), CODES[e], str(i % 4)) for i, (a, e) in enumerate(cells)]
    return pd.DataFrame(rows, columns=["clip", "actor", "emotion", "sentence"])


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=4, max_size=80),
    st.floats(0.05, 0.6),
    st.floats(0, 0.4),
    st.integers(0, 99),
)
@settings(max_examples=150, deadline=None)
def test_split_is_a_partition_with_exact_size_and_all_actors(cells, test, val, seed):
    table = make_table(cells)
    try:
        parts = split(table, test=test, val=val, seed=seed)
    except PpferError as error:
        assert "at least two are needed" in str(error) or "no training clip shows" in str(error)
        return
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(len(table)))
    assert all(rows.dtype == np.int64 for rows in parts.values())
    total = max(1, int(test * len(table) + 1e-9))
    assert len(parts["test"]) == total
    assert len(parts["val"]) == (max(1, int(val * (len(table) - total) + 1e-9)) if val else 0)
    sizes = table["actor"].value_counts()
    assert set(table["actor"].iloc[parts["train"]]) == set(sizes.index)
    if total >= (sizes > 1).sum() and total <= (sizes - 1).sum():
        assert set(table["actor"].iloc[parts["test"]]) == set(sizes.index[sizes > 1])
    assert set(table["emotion"].iloc[parts["train"]]) == set(table["emotion"])


def test_split_depends_on_names_and_seed_alone():
    table = cremad_table(cremad_names()[:400])
    shuffled = table.sample(frac=1, random_state=3)

    def members(table: pd.DataFrame, seed: int = 0) -> dict[str, set]:
        parts = split(table, seed=seed).items()
        return {part: set(table["clip"].iloc[rows]) for part, rows in parts}

    names = members(table)
    assert members(shuffled) == names and members(table, seed=1) != names
    sizes = {part: len(clips) for part, clips in names.items()}
    assert sizes == {"train": 252, "val": 28, "test": 120}


def test_split_by_sentence_holds_out_whole_sentences():
    table = make_table([(a, e) for a in range(5) for _ in range(4) for e in range(3)])
    table["sentence"] = [s for _ in range(5) for s in "wxyz" for _ in range(3)]
    held = set()
    for seed in range(40):
        parts = split(table, by="sentence", seed=seed)
        said = {name: set(table["sentence"].iloc[rows]) for name, rows in parts.items()}
        train, val, test = (said[name] for name in ("train", "val", "test"))
        assert len(test) == 1 and test.isdisjoint(train | val)
        assert len(parts["test"]) == 15 and len(parts["val"]) == 4
        held |= test
    assert held == set("wxyz")


def test_split_keeps_the_official_test():
    table = make_table([(0, i % 3) for i in range(60)])
    parts = split(table.assign(actor="", split=["test"] * 12 + ["train"] * 48))
    assert parts["test"].tolist() == list(range(12)) and len(parts["val"]) == 4
    whole = split(table.assign(actor="", split=["test"] * 12 + ["val"] * 9 + ["train"] * 39))
    assert whole["val"].tolist() == list(range(12, 21)) and len(whole["train"]) == 39


ONE_ACTOR = [(0, i % 3) for i in range(12)]
ONE_EMOTION = [(i % 2, 0) for i in range(12)]
TWO_OF_EACH = [(i % 2, i // 6) for i in range(12)]


@pytest.mark.parametrize(
    ("cells", "options", "message"),
    [
        (ONE_ACTOR, {}, "show 1 actor.*at least two"),
        (ONE_EMOTION, {"by": "take"}, "no column take to split by; there are clip, actor"),
        (ONE_EMOTION, {"by": "emotion"}, "every clip has the same emotion"),
        (TWO_OF_EACH, {"by": "emotion"}, "no training clip shows the emotion"),
        (ONE_EMOTION, {"test": 1.0}, "test must lie within"),
    ],
)
def test_split_refuses(cells, options, message):
    with pytest.raises(PpferError, match=message):
        split(make_table(cells), **options)


@given(st.integers(3, 12), st.integers(2, 6), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_actor_folds_share_no_actor(actors, k, seed):
    table = make_table([(a, e) for a in range(actors) for e in range(3)])
    if k > actors or actors - -(-actors // k) < 2:  # no one left to train on, or to validate on
        with pytest.raises(PpferError, match="too few"):
            actor_folds(table, k, seed)
        return
    folds = actor_folds(table, k, seed)
    tested = np.concatenate([fold["test"] for fold in folds])
    assert np.array_equal(np.sort(tested), np.arange(len(table)))
    for fold in folds:
        assert np.array_equal(np.sort(np.concatenate(list(fold.values()))), np.arange(len(table)))
        people = [set(table["actor"].iloc[rows]) for rows in fold.values()]
        assert all(people) and sum(map(len, people)) == actors
