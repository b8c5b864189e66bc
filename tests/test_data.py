"""Every video found is used or listed with its reason; every clip is dealt to exactly one part."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppfer import data
from ppfer.config import PpferError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
CODES = ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")


def put(root: Path, files: dict[str, bytes | None]) -> Path:
    """Files below a folder; None: some bytes no other file has."""
    for number, (name, content) in enumerate(files.items()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"video {number:04d}".encode() if content is None else content)
    return root


def reasons(index: data.Index) -> dict[str, str]:
    return dict(zip(index.rejected["path"], index.rejected["reason"], strict=True))


# --- index: a CREMA-D tree -----------------------------------------------------------------------------------------


def test_cremad_tree_is_audited(tmp_path):
    put(
        tmp_path,
        {
            "VideoFlash/1001_DFA_ANG_XX.flv": None,
            "VideoFlash/1001_IEO_SAD_LO.FLV": None,
            "VideoFlash/1002_TIE_HAP_XX.flv": POINTER,
            "VideoFlash/1002_TIE_NEU_XX.flv": b"",
            "VideoFlash/1002_TIE_BOR_XX.flv": None,
            "VideoFlash/1002_TIE_SAD.flv": None,
            "VideoFlash/holiday.mp4": None,
            "VideoFlash/1003_WSI_DIS_XX.flv": b"copied",
            "VideoFlash/1003_WSI_DIS_XX copy.flv": b"copied",
            "VideoMP4/1001_DFA_ANG_XX.mp4": None,
            "VideoMP4/1003_TSI_DIS_XX.mp4": b"copied",
            "VideoFlash/1004_TSI_FEA_XX.flv": b"one take",
            "VideoFlash/1005_TSI_SAD_XX.flv": b"one take",
            "VideoFlash/1064_TIE_SAD_XX.flv": None,
            "AudioWAV/1001_DFA_ANG_XX.wav": None,
            "VideoDemographics.csv": b'"ActorID","Age","Sex","Race","Ethnicity"\n1001,51,"Male","Asian","Hispanic"\n',
        },
    )
    index = data.index(tmp_path)
    table = index.table.set_index("clip")
    assert list(table.index) == ["1001_DFA_ANG_XX", "1001_IEO_SAD_LO", "1003_WSI_DIS_XX"]
    first = table.loc["1001_DFA_ANG_XX"]
    assert (first.actor, first.emotion, first.sentence, first.level) == (
        "1001",
        "angry",
        "DFA",
        "XX",
    )
    assert (first.sex, first.age, first.race) == ("male", "51", "Asian")
    assert first.path == str(tmp_path / "VideoFlash/1001_DFA_ANG_XX.flv")
    assert table.loc["1003_WSI_DIS_XX"].race == ""

    why = reasons(index)
    for name, words in {
        "VideoFlash/1002_TIE_HAP_XX.flv": "is a Git-LFS pointer; run: git lfs pull",
        "VideoFlash/1002_TIE_NEU_XX.flv": "is empty",
        "VideoFlash/1002_TIE_BOR_XX.flv": "unknown emotion: BOR",
        "VideoFlash/1002_TIE_SAD.flv": "odd name",
        "VideoFlash/holiday.mp4": "odd name",
        "VideoFlash/1003_WSI_DIS_XX copy.flv": "odd name",
        "VideoMP4/1001_DFA_ANG_XX.mp4": "same name as VideoFlash/1001_DFA_ANG_XX.flv",
        "VideoMP4/1003_TSI_DIS_XX.mp4": "same content as VideoFlash/1003_WSI_DIS_XX.flv",
        "VideoFlash/1004_TSI_FEA_XX.flv": "same content as VideoFlash/1005_TSI_SAD_XX.flv, under other labels",
        "VideoFlash/1005_TSI_SAD_XX.flv": "same content as VideoFlash/1004_TSI_FEA_XX.flv, under other labels",
        "VideoFlash/1064_TIE_SAD_XX.flv": "known CREMA-D fault",
    }.items():
        assert words in why.pop(name)
    assert not why
    summary = index.summary()
    assert "14 videos found, 3 usable, 11 rejected" in summary
    assert "run: git lfs pull" in summary


def test_a_sound_copy_replaces_a_pointer(tmp_path):
    put(tmp_path, {"VideoFlash/1001_DFA_ANG_XX.flv": POINTER, "VideoMP4/1001_DFA_ANG_XX.mp4": None})
    index = data.index(tmp_path)
    assert index.table.path.tolist() == [str(tmp_path / "VideoMP4/1001_DFA_ANG_XX.mp4")]
    assert list(reasons(index)) == ["VideoFlash/1001_DFA_ANG_XX.flv"]


@pytest.mark.parametrize("how", ["keep_faults", "twin.json"])
def test_known_faults_can_be_kept(tmp_path, how):
    put(
        tmp_path,
        {f"{clip}.mp4": None for clip in data.KNOWN_FAULTS} | {"1001_DFA_ANG_XX.mp4": None},
    )
    assert len(data.index(tmp_path).table) == 1
    if how == "twin.json":
        put(tmp_path, {how: b"{}"})
    assert len(data.index(tmp_path, keep_faults=how == "keep_faults").table) == 5


@given(
    st.lists(
        st.sampled_from(
            [
                f"{d}/{n}{s}"
                for d in ("a", "a/b", "c")
                for n in ("1001_DFA_ANG_XX", "1002_TIE_XXX_XX", "x")
                for s in (".mp4", ".flv")
            ]
        ),
        unique=True,
    ),
    st.lists(st.sampled_from([POINTER, b"", b"same", None]), min_size=18, max_size=18),
)
@settings(max_examples=30, deadline=None)
def test_every_video_is_used_or_listed(tmp_path_factory, names, contents):
    names = ["1009_WSI_SAD_XX.mp4", *names]
    root = put(
        tmp_path_factory.mktemp("tree"), dict(zip(names, [b"sound", *contents], strict=False))
    )
    index = data.index(root)
    listed = [os.path.relpath(path, root) for path in index.table["path"]] + list(
        index.rejected["path"]
    )
    assert sorted(listed) == sorted(names)
    assert index.table["clip"].is_unique


def test_other_data_sets_below_a_tree_are_not_its_own(tmp_path):
    put(
        tmp_path,
        {
            "VideoMP4/1001_DFA_ANG_XX.mp4": None,
            "wild/EmoLabel_DataSplit/train(single-labeled)/set_1.csv": b"video_name,label\n",
            "wild/Clip/original/00001.mp4": None,
        },
    )
    index = data.index(tmp_path)
    assert len(index.table) == 1 and not len(index.rejected)


# --- index: nothing there --------------------------------------------------------------------------------------------


def test_nothing_to_index_is_a_sentence(tmp_path):
    with pytest.raises(PpferError, match="no/such does not exist"):
        data.index(tmp_path / "no/such")
    with pytest.raises(PpferError, match="is an empty folder"):
        data.index(tmp_path)
    put(tmp_path, {"notes.txt": b"hello"})
    with pytest.raises(PpferError, match="is a file, not a folder"):
        data.index(tmp_path / "notes.txt")
    with pytest.raises(
        PpferError, match="holds no video.*metadata.csv with the columns path, actor, emotion"
    ):
        data.index(tmp_path)
    put(tmp_path, {"holiday.mp4": None})
    with pytest.raises(PpferError, match="has 1 videos, but none named as CREMA-D's"):
        data.index(tmp_path)


def test_all_pointers_says_what_to_run(tmp_path):
    put(tmp_path, {f"VideoFlash/1001_DFA_{code}_XX.flv": POINTER for code in CODES})
    with pytest.raises(
        PpferError, match="(?s)no video in .* can be used.*6 rejected.*run: git lfs pull"
    ):
        data.index(tmp_path)


# --- index: a folder with metadata.csv, a DFEW tree -------------------------------------------------------------------


def test_folder_with_metadata(tmp_path):
    csv = (
        "\ufeffPath, Actor ,emotion,Sex\n"
        "a/1.mp4,01,Anger,Female\na/1.flv,01,fear,\nb/1.mp4,02,happiness,\na/2.mp4,01,SAD,\na/3.mp4,01,bored,\na/4.mp4,,sad,\n"
        "a/5.mp4,02,fear,\na/1.mp4,01,anger,\nb\\2.mp4,02,Surprised,\n"
    )
    names = [
        "a/1.mp4",
        "a/1.flv",
        "b/1.mp4",
        "a/2.mp4",
        "a/3.mp4",
        "a/4.mp4",
        "b/2.mp4",
        "extra.mp4",
    ]
    put(tmp_path, {"metadata.csv": csv.encode(), **dict.fromkeys(names)})
    index = data.index(tmp_path)
    assert index.table["clip"].is_unique
    assert dict(zip(index.table["path"], index.table["emotion"], strict=True)) == {
        str(tmp_path / "a/1.mp4"): "angry",
        str(tmp_path / "a/1.flv"): "fear",
        str(tmp_path / "a/2.mp4"): "sad",
        str(tmp_path / "b/1.mp4"): "happy",
        str(tmp_path / "b/2.mp4"): "surprise",
    }
    assert set(index.table["actor"]) == {"01", "02"}
    assert index.table.set_index("clip")["sex"].to_dict() == dict.fromkeys(
        index.table["clip"], ""
    ) | {"a-1.mp4": "female"}
    why = reasons(index)
    assert "unknown emotion: bored" in why["a/3.mp4"]
    assert "has no actor" in why["a/4.mp4"]
    assert "does not exist" in why["a/5.mp4"]
    assert "listed twice" in why["a/1.mp4"]
    assert "not listed" in why["extra.mp4"]
    assert len(why) == 5


def test_emotion_words(tmp_path):
    words = {
        "anger": "angry",
        "disgusted": "disgust",
        "fearful": "fear",
        "joy": "happy",
        "neutral": "neutral",
        "sadness": "sad",
    }
    words |= {
        "ANG": "angry",
        "DIS": "disgust",
        "FEA": "fear",
        "HAP": "happy",
        "NEU": "neutral",
        "SAD": "sad",
    }
    rows = "".join(f"{word}.mp4,1,{word}\n" for word in words)
    put(
        tmp_path,
        {"metadata.csv": f"path,actor,emotion\n{rows}".encode()}
        | {f"{word}.mp4": None for word in words},
    )
    table = data.index(tmp_path).table
    assert dict(zip(table["clip"], table["emotion"], strict=True)) == words


def test_metadata_without_a_needed_column(tmp_path):
    put(tmp_path, {"metadata.csv": b"path,person,emotion\na.mp4,1,sad\n", "a.mp4": None})
    with pytest.raises(
        PpferError, match=r"metadata.csv has no column actor; it has path, person, emotion"
    ):
        data.index(tmp_path)
    put(tmp_path, {"metadata.csv": b""})
    with pytest.raises(PpferError, match="metadata.csv cannot be read as a comma-separated table"):
        data.index(tmp_path)


def test_dfew_tree(tmp_path):
    labels = "EmoLabel_DataSplit/{}(single-labeled)/set_{}.csv"
    put(
        tmp_path,
        {
            labels.format("train", 1): b"video_name,label\n1,1\n00002,2\n3,7\n4,9\n5,3\n1,1\n",
            labels.format("test", 1): b"video_name,label\n10,5\nx,1\n",
            labels.format("train", 2): b"video_name,label\n10,5\n",
            labels.format("test", 2): b"video_name,label\n1,1\n",
            "Clip/original/00001.mp4": None,
            "Clip/original/2.mp4": None,
            "Clip/original/4.mp4": None,
            "Clip/original/00010.mp4": POINTER,
            "Clip/clip_224x224/00010/1.jpg": None,
            "Clip/clip_224x224/00003/1.jpg": None,
        },
    )
    index = data.index(tmp_path)
    table = index.table.set_index("clip")
    assert dict(table["emotion"]) == {
        "00001": "happy",
        "00002": "sad",
        "00003": "fear",
        "00010": "surprise",
    }
    assert dict(table["split"]) == {
        "00001": "train",
        "00002": "train",
        "00003": "train",
        "00010": "test",
    }
    assert set(table["actor"]) == {""}
    assert table.loc["00010"].path == str(tmp_path / "Clip/clip_224x224/00010")
    assert sorted(reason.split(":")[0] for reason in index.rejected["reason"]) == [
        "does not exist",
        "has an odd name",
        "has an unknown emotion",
        "is a duplicate",
    ]
    assert set(data.index(tmp_path, fold=2).table["clip"]) == {"00001", "00010"}
    with pytest.raises(PpferError, match="set_9.csv does not exist"):
        data.index(tmp_path, fold=9)


def test_fingerprint_follows_content_not_place(tmp_path):
    prints = []
    for place, content in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        put(
            tmp_path / place,
            {
                "VideoFlash/1001_DFA_ANG_XX.flv": content,
                "VideoFlash/1001_DFA_SAD_XX.flv": b"x" * 9000,
            },
        )
        os.utime(tmp_path / place / "VideoFlash/1001_DFA_ANG_XX.flv", (1, 1))
        prints.append(data.index(tmp_path / place).fingerprint())
    assert prints[0] == prints[1] != prints[2]


# --- split ------------------------------------------------------------------------------------------------------------


def cremad_names() -> list[str]:
    """A list with the real one's counts: 82 names per actor, less a sentence for three actors and a name for two."""
    names = []
    for actor in range(1001, 1092):
        for sentence in data.SENTENCES:
            for code in CODES:
                levels = ("LO", "MD", "HI") if sentence == "IEO" and code != "NEU" else ("XX",)
                names += [f"{actor}_{sentence}_{code}_{level}" for level in levels]
    gone = [f"{actor}_WSI_{code}_XX" for actor in (1008, 1009, 1019) for code in CODES]
    gone += ["1002_TIE_NEU_XX", "1076_TIE_NEU_XX"]
    return [name for name in names if name not in gone]


def check_closed_set(table: pd.DataFrame) -> None:
    parts = data.split(table)
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
    table = data.index_names(cremad_names())
    assert dict(table["emotion"].value_counts()) == {
        e: 1087 if e == "neutral" else 1271 for e in table["emotion"].unique()
    }
    check_closed_set(table)


@pytest.mark.skipif(
    "CREMAD_METADATA" not in os.environ, reason="CREMAD_METADATA: a folder with CREMA-D's file list"
)
def test_closed_set_on_the_real_list():
    folder = Path(os.environ["CREMAD_METADATA"])
    names = pd.read_csv(folder / "SentenceFilenames.csv")["Filename"]
    table = data.index_names(names, folder / "VideoDemographics.csv")
    check_closed_set(table)
    people = table.drop_duplicates("actor")
    assert dict(people["sex"].value_counts()) == {"male": 48, "female": 43}
    assert dict(people["race"].value_counts()) == {
        "Caucasian": 61,
        "African American": 22,
        "Asian": 7,
        "Unknown": 1,
    }


def test_index_names_refuses_other_names():
    with pytest.raises(PpferError, match="1001-a has an odd name"):
        data.index_names(["1001_DFA_ANG_XX.flv", "1001-a"])


def make_table(cells: list[tuple[int, int]]) -> pd.DataFrame:
    rows = [
        {"clip": f"{i:03d}", "actor": str(a), "emotion": CODES[e], "sentence": str(i % 4)}
        for i, (a, e) in enumerate(cells)
    ]
    return pd.DataFrame(rows)


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
        parts = data.split(table, test=test, val=val, seed=seed)
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
    table = data.index_names(cremad_names()[:400])
    shuffled = table.sample(frac=1, random_state=3)
    manifest = data.split_manifest(table, data.split(table))
    assert data.split_manifest(shuffled, data.split(shuffled)) == manifest
    assert data.split_manifest(table, data.split(table, seed=1))["sha256"] != manifest["sha256"]
    assert manifest["counts"] == {"train": 252, "val": 28, "test": 120} and manifest["actors"] == 5
    assert sorted(sum(manifest["clips"].values(), [])) == sorted(table["clip"])


def test_split_by_sentence_holds_out_whole_sentences():
    table = make_table([(a, e) for a in range(5) for _ in range(4) for e in range(3)]).assign(
        sentence=[s for _ in range(5) for s in "wxyz" for _ in range(3)]
    )
    held = set()
    for seed in range(40):
        parts = data.split(table, by="sentence", seed=seed)
        train, val, test = (
            set(table["sentence"].iloc[parts[name]]) for name in ("train", "val", "test")
        )
        assert len(test) == 1 and test.isdisjoint(train | val)
        assert len(parts["test"]) == 15 and len(parts["val"]) == 4
        held |= test
    assert held == set("wxyz")


def test_split_keeps_the_official_test():
    table = make_table([(0, i % 3) for i in range(60)]).assign(
        actor="", split=["test"] * 12 + ["train"] * 48
    )
    parts = data.split(table)
    assert parts["test"].tolist() == list(range(12)) and len(parts["val"]) == 4


@pytest.mark.parametrize(
    "cells, options, message",
    [
        ([(0, i % 3) for i in range(12)], {}, "show 1 actor.*at least two"),
        (
            [(i % 2, 0) for i in range(12)],
            {"by": "take"},
            "no column take to split by; there are clip, actor",
        ),
        ([(i % 2, 0) for i in range(12)], {"by": "emotion"}, "every clip has the same emotion"),
        (
            [(i % 2, i // 6) for i in range(12)],
            {"by": "emotion"},
            "no training clip shows the emotion",
        ),
        ([(i % 2, 0) for i in range(12)], {"test": 1.0}, "test must lie within"),
    ],
)
def test_split_refuses(cells, options, message):
    with pytest.raises(PpferError, match=message):
        data.split(make_table(cells), **options)


@given(st.integers(3, 12), st.integers(2, 6), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_actor_folds_share_no_actor(actors, k, seed):
    table = make_table([(a, e) for a in range(actors) for e in range(3)])
    if k > actors or actors - -(-actors // k) < 2:  # no one left to train on, or to validate on
        with pytest.raises(PpferError, match="too few"):
            data.actor_folds(table, k, seed)
        return
    folds = data.actor_folds(table, k, seed)
    assert np.array_equal(
        np.sort(np.concatenate([fold["test"] for fold in folds])), np.arange(len(table))
    )
    for fold in folds:
        assert np.array_equal(np.sort(np.concatenate(list(fold.values()))), np.arange(len(table)))
        people = [set(table["actor"].iloc[rows]) for rows in fold.values()]
        assert all(people) and sum(map(len, people)) == actors
