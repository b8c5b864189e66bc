"""Every video found is used, or listed with its reason."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppfer.base.errors import PpferError
from ppfer.config import load_config
from ppfer.data import index as data
from ppfer.data import readers
from ppfer.data.words import EMOTIONS
from ppfer.run.clips import chosen_clips

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


# --- a CREMA-D tree -----------------------------------------------------------


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
            "VideoDemographics.csv": b'"ActorID","Age","Sex","Race","Ethnicity"\n'
            b'1001,51,"Male","Asian","Hispanic"\n',
        },
    )
    index = data.index(tmp_path)
    table = index.table.set_index("clip")
    assert list(table.index) == ["1001_DFA_ANG_XX", "1001_IEO_SAD_LO", "1003_WSI_DIS_XX"]
    first = table.loc["1001_DFA_ANG_XX"]
    said = (first.actor, first.emotion, first.sentence, first.level)
    assert said == ("1001", "angry", "DFA", "XX")
    assert (first.sex, first.age, first.race) == ("male", "51", "Asian")
    assert first.path == str(tmp_path / "VideoFlash/1001_DFA_ANG_XX.flv")
    assert table.loc["1003_WSI_DIS_XX"].race == ""

    why, flash, other = reasons(index), "VideoFlash", ", under other labels"
    for name, words in {
        "VideoFlash/1002_TIE_HAP_XX.flv": "is a Git-LFS pointer; run: git lfs pull",
        "VideoFlash/1002_TIE_NEU_XX.flv": "is empty",
        "VideoFlash/1002_TIE_BOR_XX.flv": "unknown emotion: BOR",
        "VideoFlash/1002_TIE_SAD.flv": "odd name",
        "VideoFlash/holiday.mp4": "odd name",
        "VideoFlash/1003_WSI_DIS_XX copy.flv": "odd name",
        "VideoMP4/1001_DFA_ANG_XX.mp4": "same name as VideoFlash/1001_DFA_ANG_XX.flv",
        "VideoMP4/1003_TSI_DIS_XX.mp4": "same content as VideoFlash/1003_WSI_DIS_XX.flv",
        "VideoFlash/1004_TSI_FEA_XX.flv": f"same content as {flash}/1005_TSI_SAD_XX.flv{other}",
        "VideoFlash/1005_TSI_SAD_XX.flv": f"same content as {flash}/1004_TSI_FEA_XX.flv{other}",
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
    put(tmp_path, {f"{clip}.mp4": None for clip in (*readers.KNOWN_FAULTS, "1001_DFA_ANG_XX")})
    assert len(data.index(tmp_path).table) == 1
    if how == "twin.json":
        put(tmp_path, {how: b"{}"})
    assert len(data.index(tmp_path, keep_faults=how == "keep_faults").table) == 5


PLACES = ("a", "a/b", "c")
STEMS = ("1001_DFA_ANG_XX", "1002_TIE_XXX_XX", "x")
NAMES = [f"{p}/{s}.{end}" for p in PLACES for s in STEMS for end in ("mp4", "flv")]


@given(
    st.lists(st.sampled_from(NAMES), unique=True),
    st.lists(st.sampled_from([POINTER, b"", b"same", None]), min_size=18, max_size=18),
)
@settings(max_examples=30, deadline=None)
def test_every_video_is_used_or_listed(tmp_path_factory, names, contents):
    names = ["1009_WSI_SAD_XX.mp4", *names]
    files = dict(zip(names, [b"sound", *contents], strict=False))
    root = put(tmp_path_factory.mktemp("tree"), files)
    index = data.index(root)
    used = [os.path.relpath(path, root) for path in index.table["path"]]
    assert sorted([*used, *index.rejected["path"]]) == sorted(names)
    assert index.table["clip"].is_unique


def test_other_data_sets_below_a_tree_are_not_its_own(tmp_path):
    split = "wild/EmoLabel_DataSplit/train(single-labeled)/set_1.csv"
    videos = ("VideoMP4/1001_DFA_ANG_XX.mp4", "wild/Clip/original/00001.mp4")
    put(tmp_path, {split: b"video_name,label\n", **dict.fromkeys(videos)})
    index = data.index(tmp_path)
    assert len(index.table) == 1 and not len(index.rejected)


# --- nothing there ------------------------------------------------------------


def test_nothing_to_index_is_a_sentence(tmp_path):
    with pytest.raises(PpferError, match="no/such does not exist"):
        data.index(tmp_path / "no/such")
    with pytest.raises(PpferError, match="is an empty folder"):
        data.index(tmp_path)
    put(tmp_path, {"notes.txt": b"hello"})
    with pytest.raises(PpferError, match="is a file, not a folder"):
        data.index(tmp_path / "notes.txt")
    says = "holds no video.*metadata.csv with the columns path, actor, emotion"
    with pytest.raises(PpferError, match=says):
        data.index(tmp_path)
    put(tmp_path, {"holiday.mp4": None})
    with pytest.raises(PpferError, match="has 1 videos, but none named as CREMA-D's"):
        data.index(tmp_path)


def test_all_pointers_says_what_to_run(tmp_path):
    put(tmp_path, {f"VideoFlash/1001_DFA_{code}_XX.flv": POINTER for code in CODES})
    says = "(?s)no video in .* can be used.*6 rejected.*run: git lfs pull"
    with pytest.raises(PpferError, match=says):
        data.index(tmp_path)


# --- a folder with metadata.csv, a DFEW tree ----------------------------------


def test_folder_with_metadata(tmp_path):
    csv = (
        "\ufeffPath, Actor ,emotion,Sex\n"
        "a/1.mp4,01,Anger,Female\na/1.flv,01,fear,\nb/1.mp4,02,happiness,\n"
        "a/2.mp4,01,SAD,\na/3.mp4,01,bored,\na/4.mp4,,sad,\na/5.mp4,02,fear,\n"
        "a/1.mp4,01,anger,\nb\\2.mp4,02,Surprised,\n"
    )
    names = "a/1.mp4 a/1.flv b/1.mp4 a/2.mp4 a/3.mp4 a/4.mp4 b/2.mp4 extra.mp4".split()
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
    sexes = index.table.set_index("clip")["sex"].to_dict()
    assert sexes.pop("a-1.mp4") == "female" and set(sexes.values()) == {""}
    why = reasons(index)
    assert "unknown emotion: bored" in why["a/3.mp4"]
    assert "has no actor" in why["a/4.mp4"]
    assert "does not exist" in why["a/5.mp4"]
    assert "listed twice" in why["a/1.mp4"]
    assert "not listed" in why["extra.mp4"]
    assert len(why) == 5


def test_emotion_words(tmp_path):
    others = ("anger", "disgusted", "fearful", "joy", "neutral", "sadness")
    words = dict(zip((*others, *CODES), EMOTIONS * 2, strict=True))
    rows = "".join(f"{word}.mp4,1,{word}\n" for word in words)
    videos = {f"{word}.mp4": None for word in words}
    put(tmp_path, videos | {"metadata.csv": f"path,actor,emotion\n{rows}".encode()})
    table = data.index(tmp_path).table
    assert dict(zip(table["clip"], table["emotion"], strict=True)) == words


def test_metadata_without_a_needed_column(tmp_path):
    put(tmp_path, {"metadata.csv": b"path,person,emotion\na.mp4,1,sad\n", "a.mp4": None})
    says = "metadata.csv has no column actor; it has path, person, emotion"
    with pytest.raises(PpferError, match=says):
        data.index(tmp_path)
    put(tmp_path, {"metadata.csv": b"path,Path,actor,emotion\na.mp4,a.mp4,1,sad\n"})
    with pytest.raises(PpferError, match="metadata.csv has two columns path; leave one of them"):
        data.index(tmp_path)
    put(tmp_path, {"metadata.csv": b""})
    with pytest.raises(PpferError, match="metadata.csv cannot be read as a comma-separated table"):
        data.index(tmp_path)


@pytest.mark.parametrize(
    ("name", "encoding", "changes"),
    [("metadata.csv", "utf-8", {",": ";"}), ("metadata.csv", "utf-16", {",": "\t"}),
     ("Metadata.CSV", "utf-8-sig", {"\n": "\r\n"}), ("metadata.csv", "utf-8", {"\n": ",\n"}),
     ("metadata.csv", "utf-8-sig", {"path": "sep=,\npath"}),
     ("metadata.csv", "utf-8", {"\nb": "\n,,\nb"}), ("metadata.csv", "utf-8", {".mp4": ".MP4"})],
    ids=str,
)  # fmt: skip
def test_tables_as_spreadsheets_and_other_systems_write_them(
    tmp_path, recwarn, name, encoding, changes
):
    text = "path,actor,emotion\na.mp4,é,sad\nb.mp4,2,happy\n"
    for old, new in changes.items():
        text = text.replace(old, new)
    index = data.index(put(tmp_path, {name: text.encode(encoding), "a.mp4": None, "b.mp4": None}))
    assert index.table["actor"].tolist() == ["é", "2"] and not len(index.rejected) and not recwarn


def test_a_table_in_an_unknown_encoding_says_what_to_do(tmp_path):
    put(tmp_path, {"metadata.csv": "path,actor,emotion\na.mp4,é,sad\n".encode("cp1252")})
    with pytest.raises(PpferError, match="metadata.csv is no UTF-8; .* save it as CSV UTF-8"):
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
    assert list(table.index) == ["00001", "00002", "00003", "00010"]
    assert list(table["emotion"]) == ["happy", "sad", "fear", "surprise"]
    assert list(table["split"]) == ["train", "train", "train", "test"]
    assert set(table["actor"]) == {""}
    assert table.loc["00010"].path == str(tmp_path / "Clip/clip_224x224/00010")
    said = sorted(reason.split(":")[0] for reason in index.rejected["reason"])
    odd = ["does not exist", "has an odd name", "has an unknown emotion", "is a duplicate"]
    assert said == odd
    assert set(data.index(tmp_path, fold=2).table["clip"]) == {"00001", "00010"}
    second = load_config("smoke", {"data": str(tmp_path), "fold": "2", "actors": 0})
    assert set(chosen_clips(second).table["clip"]) == {"00001", "00010"}
    with pytest.raises(PpferError, match="set_9.csv does not exist"):
        data.index(tmp_path, fold=9)


def test_fingerprint_follows_content_not_place(tmp_path):
    prints = []
    for place, content in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        first, second = (f"VideoFlash/1001_DFA_{code}_XX.flv" for code in ("ANG", "SAD"))
        put(tmp_path / place, {first: content, second: b"x" * 9000})
        os.utime(tmp_path / place / first, (1, 1))
        prints.append(data.index(tmp_path / place).fingerprint())
    assert prints[0] == prints[1] != prints[2]


# --- what a table's columns say ---------------------------------------------------


def listed(root: Path, rows: list[str], head: str = "path,actor,emotion,age") -> data.Index:
    """The index of a folder whose metadata.csv has these rows, a clip for each."""
    videos = {row.partition(",")[0].removeprefix(f"{root}/"): None for row in rows}
    return data.index(put(root, videos | {"metadata.csv": "\n".join([head, *rows]).encode()}))


@pytest.mark.parametrize("age", ["25-34", "40+", "n/a", "nan", "-3", "inf", "20s", "1e9"])
def test_an_age_that_is_no_number_is_not_known(tmp_path, age):
    index = listed(tmp_path, [f"a.mp4,1,sad,{age}", "b.mp4,2,sad,31.0"])
    assert index.table["age"].tolist() == ["", "31.0"]
    assert (("column age", f"'{age}': no number of years, taken as not known"),) == index.remarks


def test_absolute_and_relative_paths_name_one_file(tmp_path):
    root = tmp_path / "set"
    rows = [f"{root}/a.mp4,1,sad,", f"{root}/sub/b.mp4,2,sad,"]
    index = listed(root, rows)
    assert index.table["clip"].tolist() == ["a", "b"] and not len(index.rejected)
    (tmp_path / "link").symlink_to(root)
    assert len(data.index(tmp_path / "link").table) == 2
    index = listed(root, [*rows, "a.mp4,1,sad,", f"{tmp_path}/out.mp4,1,sad,"])
    assert index.table["clip"].tolist() == ["a", "b"]
    assert sorted(reasons(index)) == ["../out.mp4", "a.mp4"]


@pytest.mark.parametrize(
    ("names", "remarked"),
    [
        (("Ann", "ann", "ANN "), "'ANN', 'Ann', 'ann'"),
        (("7", "7.0", "07"), "'07', '7', '7.0'"),
        (("Ann  Lee", "Ann Lee", "Bo"), "'Ann  Lee', 'Ann Lee'"),
        (("1", "10", "100"), ""),
    ],
)
def test_one_person_spelled_in_two_ways_is_remarked(tmp_path, names, remarked):
    index = listed(tmp_path, [f"{i}.mp4,{name},sad," for i, name in enumerate(names)])
    said = "are taken as different people; write one in one way"
    assert index.remarks == ((("column actor", f"{remarked} {said}"),) if remarked else ())
    assert len(set(index.table["actor"])) == 3, "which spelling is right, the owner knows"


def test_a_tables_own_split_is_used_or_said_to_be_ignored(tmp_path):
    head = "path,actor,emotion,split"
    parts = ("train", "Test", "validation")
    index = listed(tmp_path / "a", [f"{p}.mp4,{i},sad,{p}" for i, p in enumerate(parts)], head)
    told = dict(zip(index.table["clip"], index.table["split"], strict=True))
    assert told == {"train": "train", "Test": "test", "validation": "val"} and not index.remarks
    index = listed(tmp_path / "b", ["a.mp4,1,sad,train", "b.mp4,2,sad,"], head)
    assert "split" not in index.table
    words = "'', 'train': not train, val or test throughout, so not used"
    assert index.remarks == (("column split", words),)
