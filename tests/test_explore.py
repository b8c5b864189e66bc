"""Explorers redraw in place for whoever moves a control, and leave pictures where nobody can."""

import base64
import io
import time
from datetime import UTC, datetime

import ipywidgets
import nbclient
import nbformat
import numpy as np
import pytest
import pywt
import torch
from jupyter_client.blocking import BlockingKernelClient
from PIL import Image

from ppfer.base.errors import PpferError
from ppfer.cli import audit
from ppfer.measure import Rate
from ppfer.measure import rate as share
from ppfer.show import canvas, explore, notebook, plots, sources, tradeoff_explorer
from ppfer.show.band_picture import Setting, analyse, band_picture, take_apart
from ppfer.show.explore import CLIP, OWN, BandPanel
from ppfer.video.writer import write_video

START = {"picture": "chirp", "expression": "angry", "frame": 1, "wavelet": "db2"}
START |= {"mode": "symmetric", "level": 2, "form": "subband", "axes": "hw", "noise": 0.0}
START |= {"threshold": 0.0, "gains": {"all details": 0.0}, "one_scale": False}
NOT_MOVED = {"path", "shown"}  # tested by themselves: a file, and what a split has


@pytest.fixture
def panel(tiny_run):
    return BandPanel(tiny_run, START | {"actor": tiny_run.classes("actor")[0]})


@pytest.fixture
def shown(monkeypatch):
    """What a cell displays: a list of (data, metadata)."""
    found = []
    monkeypatch.setattr(notebook, "display", lambda d, metadata, raw: found.append((d, metadata)))
    return found


# --- bands ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [{}, {"axes": "thw", "level": 2}, {"axes": "t"}, {"level": 3, "wavelet": "haar"},
     {"form": "image"}, {"frame": 3}, {"wavelet": "rbio6.8", "mode": "periodization"}],
    ids=str,
)  # fmt: skip
def test_gains_of_one_change_nothing_and_of_zero_leave_nothing(change):
    clip = sources.card("stripes", 4)
    found = analyse(clip, Setting(**change))
    torch.testing.assert_close(found.original, clip[0, change.get("frame", 0)])
    torch.testing.assert_close(found.changed, found.original, rtol=0, atol=1e-5)
    assert sum(found.energy.values()) == pytest.approx(100)
    nothing = {"all details": 0.0, "approximation": 0.0}
    gone = analyse(clip, Setting(**change, gains=nothing))
    torch.testing.assert_close(gone.changed, torch.zeros_like(gone.original), rtol=0, atol=1e-5)


def test_one_band_of_one_level_is_what_pywavelets_puts_together():
    """The oracle: PyWavelets with that band made stronger, and a soft threshold on all details."""
    clip = sources.card("edge", 2)
    how = {"wavelet": "bior2.2", "level": 2, "gains": {"vertical_2": 3.0, "diagonal": 0.0}}
    found = analyse(clip, Setting(**how, threshold=0.05))
    low, coarse, fine = pywt.wavedec2(clip[0, 0, 0].double(), "bior2.2", "symmetric", 2)
    coarse, fine = ([pywt.threshold(x, 0.05, "soft") for x in level] for level in (coarse, fine))
    wanted = [low, (coarse[0], 3 * coarse[1], 0 * coarse[2]), (*fine[:2], 0 * fine[2])]
    wanted = torch.from_numpy(pywt.waverec2(wanted, "bior2.2", "symmetric"))
    torch.testing.assert_close(found.changed[0].double(), wanted, rtol=0, atol=1e-5)


def test_a_threshold_takes_noise_away():
    clean = sources.card("edge", 1)
    how = {"wavelet": "db2", "level": 3, "noise": 0.1}
    noisy, better = (analyse(clip=clean, how=Setting(**how, threshold=t)) for t in (0.0, 0.25))
    error = [float((x.changed - clean[0, 0]).square().mean()) for x in (noisy, better)]
    assert error[1] < error[0] / 2


def test_the_narrowest_gain_counts():
    how = Setting(gains={"all details": 0.0, "vertical": 2.0, "vertical_1": 3.0})
    names = ("approximation", "horizontal_1", "vertical_2", "vertical_1")
    assert [how.gain(name) for name in names] == [1.0, 0.0, 2.0, 3.0]


@pytest.mark.parametrize("wavelet", pywt.wavelist(kind="discrete"))
def test_every_wavelet_has_its_shape_and_its_filters(wavelet):
    """The low filter passes what stands still, and the shapes are there to be drawn."""
    low, high = canvas.responses(wavelet)
    assert low[1][0] == pytest.approx(2**0.5, rel=1e-3) and high[1][0] == pytest.approx(0, abs=2e-3)
    assert all(p.shape[0] == 2 and np.isfinite(p).all() for p in canvas.shapes(wavelet))


def test_pictures_of_all_settings_have_one_size_and_are_read_on_any_paper():
    sizes = set()
    for change in ({}, {"level": 3, "wavelet": "db4", "axes": "thw"}, {"form": "image"},
                   {"shown": "vertical"}):  # fmt: skip
        image, words = band_picture(sources.card("chirp", 4), "chirp", Setting(**change))
        sizes.add(image.size)
        assert image.mode == "RGBA" and image.getpixel((0, image.height - 1))[3] == 0
        assert words.startswith("chirp, frame 0")
    assert len(sizes) == 1
    width, height = sizes.pop()  # in JupyterLab at 1280 × 800, beside 280 pixels of controls
    assert width / 1.5 <= 610 and height / 1.5 <= 650


# --- controls -----------------------------------------------------------------------


def other(control):
    """A value that a control does not have."""
    if isinstance(control, ipywidgets.Dropdown):
        return next(x for x in reversed(control.options) if x not in (control.value, OWN))
    if isinstance(control, ipywidgets.Checkbox):
        return not control.value
    return control.max if control.value != control.max else control.min


@pytest.mark.parametrize(
    "start",
    [{}, {"form": "image"}, {"axes": "thw", "wavelet": "haar"}, {"picture": CLIP, "level": 1}],
    ids=str,
)
def test_no_control_silently_does_nothing(tiny_run, start):
    """Each control either changes the picture, or is disabled and says why."""
    actor = tiny_run.classes("actor")[0]
    for name in BandPanel(tiny_run, START | {"actor": actor} | start).controls.keys() - NOT_MOVED:
        panel = BandPanel(tiny_run, START | {"actor": actor} | start)
        control = panel.controls[name]
        if control.disabled:
            assert control.tooltip in panel.reasons.value
            continue
        before = bytes(panel.image.value)
        control.value = other(control)
        if name == "band":  # chooses what the gain is of
            before = bytes(panel.image.value)
            panel.controls["gain"].value = other(panel.controls["gain"])
        assert bytes(panel.image.value) != before, name


def test_each_band_of_a_split_can_be_shown_and_has_a_gain_that_is_remembered(panel):
    is_at, seen = panel.controls, set()
    for name in is_at["shown"].options:
        is_at["shown"].value = name
        seen.add(bytes(panel.image.value))
    assert len(seen) == len(is_at["shown"].options) == 8
    is_at["band"].value = "vertical_2"
    assert is_at["gain"].value == 0  # as all details have
    is_at["gain"].value = 2.0
    is_at["band"].value = "horizontal"
    assert is_at["gain"].value == 0
    is_at["band"].value = "vertical_2"
    assert is_at["gain"].value == 2 and "vertical_2 × 2" in panel.words.value
    is_at["form"].value = "image"
    assert is_at["band"].options == ("all details", "approximation")
    panel.reset.click()
    assert is_at["gain"].value == 1 and "no band changed" in panel.words.value


def test_own_pictures_and_clips_by_path_and_upload(panel, tmp_path):
    is_at, path = panel.controls, tmp_path / "own.png"
    Image.effect_noise((400, 300), 50).save(path)
    is_at["picture"].value = OWN
    assert "give a path" in panel.words.value and is_at["picture"].value == "chirp"
    is_at["path"].value = str(path)
    assert is_at["picture"].value == OWN and panel.clip.shape == (1, 1, 3, 144, 192)
    assert is_at["frame"].disabled and is_at["axes"].disabled and is_at["actor"].disabled
    assert "a still picture" in panel.reasons.value

    before = bytes(panel.image.value)
    is_at["path"].value = str(tmp_path / "none.png")
    assert "does not exist" in panel.words.value and bytes(panel.image.value) == before
    write_video(tmp_path / "own.mp4", torch.randint(0, 255, (9, 3, 48, 64), dtype=torch.uint8), 25)
    is_at["path"].value = str(tmp_path / "own.mp4")
    assert panel.clip.shape == (1, 4, 3, 128, 128) and not is_at["axes"].disabled

    file = {"name": "me.png", "type": "image/png", "size": 1, "content": path.read_bytes()}
    panel.upload.value = (file | {"last_modified": datetime.now(UTC)},)
    assert panel.clip.shape[1] == 1 and panel.upload.value == ()
    broken = file | {"content": b"no picture", "last_modified": datetime.now(UTC)}
    panel.upload.value = (broken,)
    assert "me.png cannot be decoded" in panel.words.value and panel.clip.shape[1] == 1


def on_white(file) -> Image.Image:
    """The picture in a file, pixel by pixel as it is seen."""
    return canvas.on_white(Image.open(file).convert("RGBA"))


def test_a_saved_picture_lies_in_the_run(panel):
    panel.save.click()
    (path,) = (panel.run.dir / "pictures").iterdir()
    assert on_white(path) == on_white(io.BytesIO(panel.image.value))
    assert str(path) in panel.words.value


def test_a_saved_own_picture_is_found_by_audit_and_removed_by_clean(panel, tmp_path):
    """Also beside a run of drawn clips, which nobody has to look through."""
    Image.effect_noise((160, 120), 50).save(tmp_path / "own.png")
    panel.controls["path"].value = str(tmp_path / "own.png")
    panel.save.click()
    runs_dir = panel.run.dir.parent
    (folder,) = (run for run in audit.runs_of(runs_dir) if run != panel.run.dir)
    (path,) = folder.iterdir()
    assert on_white(path) == on_white(io.BytesIO(panel.image.value))
    assert str(path) in panel.words.value
    (row,) = audit.listing([folder])
    assert (row["kind"], row["files"], row["first"]) == ("pictures", 1, path.name)
    assert audit.remove([folder]) == 1 and folder not in audit.runs_of(runs_dir)


def test_only_what_changes_a_split_splits_again(panel):
    panel.controls["axes"].value = "thw"
    before = take_apart.cache_info().misses
    for name in ("gain", "threshold", "frame", "one_scale", "shown"):
        panel.controls[name].value = other(panel.controls[name])
    assert take_apart.cache_info().misses == before
    panel.controls["wavelet"].value = "db4"
    assert take_apart.cache_info().misses == before + 1


def test_a_redraw_is_quick_and_in_place(panel):
    image, seconds = panel.image, []
    for value in (1.0, 2.0, 4.0):
        before, began = bytes(image.value), time.process_time()
        panel.controls["gain"].value = value
        seconds.append(time.process_time() - began)
        assert panel.image is image and bytes(image.value) != before
    assert min(seconds) < 0.1


# --- where it is shown --------------------------------------------------------------


def test_a_kernel_knows_whether_somebody_can_move_controls(monkeypatch):
    """Papermill and nbconvert execute through nbclient, which can't be asked; JupyterLab can."""
    monkeypatch.delenv("PPFER_HEADLESS", raising=False)
    code = "from ppfer.show import notebook; print(notebook.interactive())"
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    headless, said = nbclient.NotebookClient(book, kernel_name="python3"), []
    with headless.setup_kernel():
        headless.execute_cell(book.cells[0], 0)
        client = BlockingKernelClient(connection_file=headless.km.connection_file)
        client.load_connection_file()
        client.start_channels()
        client.execute_interactive(code, allow_stdin=True, output_hook=said.append, timeout=60)
        client.stop_channels()
    assert book.cells[0].outputs[-1].text.strip() == "False"
    printed = [m["content"]["text"] for m in said if m["msg_type"] == "stream"]
    assert "True" in "".join(printed)


def test_without_a_person_cases_are_drawn_and_no_control(tiny_run, shown):
    explore.bands(tiny_run, [{"gains": {}}, {"wavelet": "db4"}])
    assert len(shown) == 2
    for data, metadata in shown:
        assert notebook.WIDGET not in data and "text/html" not in data
        assert metadata["image/png"]["alt"] == data["text/plain"]
    assert shown[0][0]["image/png"] != shown[1][0]["image/png"]


def test_what_a_notebook_saves_shows_nobody(tiny_run, monkeypatch):
    monkeypatch.setattr(explore, "synthetic", lambda *folders: False)
    real = explore.static_bands(tiny_run, START | {"picture": CLIP, "actor": "1001"})
    card = explore.static_bands(tiny_run, START | {"actor": "1001"})
    assert real == card


def test_with_a_person_controls_come_with_a_picture_for_whoever_has_no_kernel(
    tiny_run, shown, monkeypatch
):
    monkeypatch.setattr(notebook, "interactive", lambda: True)
    explore.bands(tiny_run)
    ((data, _),) = shown
    assert data[notebook.WIDGET]["model_id"] and base64.b64decode(data["image/png"])


def test_controls_that_cannot_draw_say_why_and_keep_their_picture():
    def draw(number: int) -> tuple:
        if number > 1:
            raise PpferError(f"there is no <{number}>")
        return Image.new("RGB", (8, 8)), "a square"

    control, image, words = notebook.control_panel(draw, {"number": 1}, number=(0, 3)).children
    before = image.value
    control.children[0].value = 2
    assert words.value == "<b>there is no &lt;2&gt;</b>" and image.value == before
    control.children[0].value = 0
    assert words.value == "a square"


def test_an_approach_that_is_chosen_is_drawn_and_said_so_where_it_is_not_compared(
    tiny_run, monkeypatch
):
    said = []
    monkeypatch.setattr(notebook, "explore", lambda draw, cases, **_: said.append((draw, cases[0])))
    numbers = dict.fromkeys(("plr_retrained", "acc_retrained"), Rate(1, 10))
    rows = [{"approach": name} | numbers for name in ("originals", "ours")]
    tradeoff_explorer.explore_tradeoff(tiny_run, rows, ["none", "ppfer"])
    ((draw, start),) = said
    assert draw(**start)[1].endswith("2 approaches compared")
    one = draw(**start | {"compared": ("originals",)})[1]
    assert one.endswith("2 approaches compared; the chosen one always is")


def test_a_point_of_the_trade_off_shows_its_clip(tiny_run, shown):
    rows = [
        {"approach": title, "plr": Rate(k, 10), "plr_retrained": Rate(9, 10), "acc": Rate(2, 10),
         "acc_retrained": Rate(k, 10)}
        for title, k in (("No privacy preservation", 9), ("PPFER (C)", 1))
    ]  # fmt: skip
    tradeoff_explorer.explore_tradeoff(tiny_run, rows, ["none", "ppfer"])
    (first, _), (second, _) = shown
    assert "PPFER (C): identity named 90.0 %" in first["text/plain"]
    assert first["image/png"] != second["image/png"]


def test_a_wide_table_is_shown_in_parts_that_keep_every_cell_and_their_order(monkeypatch):
    found = []
    monkeypatch.setattr(notebook, "display", lambda text: found.append(text.data.splitlines()))
    keys = [f"number{i}" for i in range(2 * notebook.WIDEST)]
    rows = [{"approach": name} | {k: f"{name} {k}" for k in keys} for name in "ab"]
    del rows[1][keys[3]]  # which was not measured
    notebook.show(rows)
    parts = [[line.strip("| ").split(" | ") for line in lines] for lines in found]
    assert len(parts) == 3 and max(len(header) for header, *_ in parts) <= notebook.WIDEST
    assert all([line[0] for line in part] == ["approach", "---", "a", "b"] for part in parts)
    assert [key for header, *_ in parts for key in header[1:]] == keys
    cells = [cell for part in parts for cell in part[2][1:]]
    assert cells == [f"a {key}" for key in keys] and "b number3 " not in str(found)
    notebook.show([dict.fromkeys(keys[: notebook.WIDEST], 1)])
    notebook.show([])
    assert len(found) == len(parts) + 2  # those fit


def test_lines_are_svg_and_grids_are_png_each_with_words(shown):
    plots.theme()
    drawn = plots.rates({"a": {"b": Rate(1, 2)}}, xlabel="%")
    notebook.picture(drawn, "one <point> & its interval")
    notebook.picture(plots.image_row([torch.rand(3, 8, 8)]), "noise in eight by eight pixels")
    (lines, spoken), (grid, said) = shown
    assert "<title>one &lt;point&gt; &amp; its interval</title>" in lines["image/svg+xml"]
    assert spoken["image/svg+xml"]["alt"] == "one <point> & its interval"
    assert said["image/png"]["alt"] == grid["text/plain"] and "image/svg+xml" not in grid


def test_titles_never_overlap_and_pixels_stay_squares():
    """A title longer than its picture becomes lines, or a smaller font."""
    red = torch.zeros(3, 4, 4)
    red[0, ::2] = 1
    titles = ["a title much longer than its picture", "x" * 12]
    image = plots.image_grid([[red, red]], ["row"], titles, cell=1.0)
    for title in titles:
        text, font = plots.fitted(title, 140)
        assert max(map(font.getlength, text.split("\n"))) <= 140
    rows = [image.getpixel((image.width - 2, y)) for y in range(image.height - 144, image.height)]
    assert [rows[y] for y in (10, 46, 82, 118)] == [(255, 0, 0), (0, 0, 0)] * 2


def test_a_moving_picture_has_every_frame(shown):
    clips = {"a": torch.rand(5, 3, 8, 8), "b": torch.rand(5, 3, 8, 8)}
    notebook.play(clips, "two clips of noise beside each other")
    file = io.BytesIO(base64.b64decode(shown[0][0]["image/png"]))
    assert Image.open(file).n_frames == 5


@pytest.mark.parametrize(
    ("rate", "against", "found"),
    [(Rate(90, 100), 0.5, "above"), (Rate(5, 100), 0.5, "below"), (Rate(5, 10), 0.5, "like"),
     (Rate(90, 100), Rate(50, 100), "above"), (Rate(9, 10), Rate(8, 10), "like")],
)  # fmt: skip
def test_a_verdict_says_what_the_interval_allows(rate, against, found, capsys):
    assert notebook.verdict(rate, against=against, name="C") == found
    said = capsys.readouterr().out
    assert said.startswith(f"C: {rate} is ")
    assert ("clearly " + found in said) == (found != "like")
    assert ("points, 95 % interval" in said) == isinstance(against, Rate)


@pytest.mark.parametrize(
    ("gained", "lost", "found"), [(44, 23, "above"), (23, 44, "below"), (7, 5, "like")]
)
def test_a_verdict_on_the_same_clips_is_decided_by_those_that_differ(gained, lost, found, capsys):
    """Two independent intervals of 200 and 179 of 295 clips would overlap."""
    here = np.repeat([True, False, True, False], [150, 70, gained, lost])
    there = np.repeat([True, False, False, True], [150, 70, gained, lost])
    assert notebook.verdict(here, against=there, name="C", than="G") == found
    said = capsys.readouterr().out
    assert said.startswith(f"C: {share(here)} is ") and f"G, {share(there)}" in said
    assert f"right here alone {gained}, there alone {lost}" in said


def test_some_clips_of_a_sorted_part_are_of_all_its_people():
    """Not its first ones, which are one or two people's."""
    actors = np.repeat(np.arange(12), 25)
    picked = notebook.some(np.arange(300), 48)
    assert len(set(picked)) == 48 and set(actors[picked]) == set(range(12))
    assert list(notebook.some([7, 9], 48)) == [7, 9]
