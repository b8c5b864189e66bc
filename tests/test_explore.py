"""Explorers redraw in place for whoever moves a control, and leave pictures where nobody can."""

import base64
import io
import time

import ipywidgets
import nbclient
import nbformat
import pytest
import torch
from jupyter_client.manager import start_new_kernel
from PIL import Image

from ppfer.measure import Rate
from ppfer.show import explore, notebook, plots

SETTING = {"expression": "angry", "frame": 0, "wavelet": "db2", "level": 1, "form": "subband"}
SETTING |= {"axes": "hw", "band": "all details", "gain": 0.0}


@pytest.fixture
def setting(tiny_run):
    return SETTING | {"actor": tiny_run.classes("actor")[0]}


@pytest.fixture
def shown(monkeypatch):
    """What a cell displays: a list of (data, metadata)."""
    found = []
    monkeypatch.setattr(notebook, "display", lambda d, metadata, raw: found.append((d, metadata)))
    return found


@pytest.mark.parametrize(
    "change",
    [{}, {"axes": "thw"}, {"axes": "t", "band": "temporal"}, {"level": 3, "wavelet": "haar"},
     {"form": "image"}, {"form": "image", "band": "approximation"}, {"frame": 1}],
    ids=str,
)  # fmt: skip
def test_a_band_can_be_left_alone_or_taken_away(tiny_run, setting, change):
    picture, words = explore.band_picture(tiny_run, **(setting | change | {"gain": 1.0}))
    other, _ = explore.band_picture(tiny_run, **(setting | change | {"gain": 3.0}))
    assert picture.size == other.size and picture.tobytes() != other.tobytes()
    assert sum(float(x.split()[-2]) for x in words.split("energy ")[1].split(", ")) == (
        pytest.approx(100, abs=0.1)
    )


def test_a_moved_control_redraws_the_picture_in_place_and_quickly(tiny_run, setting):
    panel = notebook.control_panel(
        lambda **values: explore.band_picture(tiny_run, **values),
        setting,
        **{key: [value] for key, value in setting.items() if key != "gain"},
        gain=(0.0, 4.0, 0.25),
    )
    box, image, words = panel.children
    (gain,) = [control for control in box.children if control.description == "gain"]
    before, said = image.value, words.value
    seconds = []
    for value in (1.0, 2.0, 4.0):
        began = time.perf_counter()
        gain.value = value
        seconds.append(time.perf_counter() - began)
    assert image is panel.children[1] and isinstance(image, ipywidgets.Image)
    assert (
        image.value != before and bytes(image.value).startswith(b"\x89PNG") and words.value == said
    )
    assert min(seconds) < 0.1


def test_a_kernel_knows_whether_somebody_can_move_controls(monkeypatch):
    """Papermill and nbconvert execute through nbclient, which can't be asked; JupyterLab can."""
    monkeypatch.delenv("PPFER_HEADLESS", raising=False)
    code = "from ppfer.show import notebook; print(notebook.interactive())"
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbclient.NotebookClient(book, kernel_name="python3").execute()
    assert book.cells[0].outputs[-1].text.strip() == "False"
    manager, client = start_new_kernel()
    said = []
    client.execute_interactive(code, allow_stdin=True, output_hook=said.append)
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    printed = [m["content"]["text"] for m in said if m["msg_type"] == "stream"]
    assert "True" in "".join(printed)


def test_without_a_person_cases_are_drawn_and_no_control(tiny_run, shown):
    explore.bands(tiny_run, [{"gain": 1.0}, {"wavelet": "db4"}])
    assert len(shown) == 2
    for data, metadata in shown:
        assert notebook.WIDGET not in data and "text/html" not in data
        assert metadata["image/png"]["alt"] == data["text/plain"]
    assert shown[0][0]["image/png"] != shown[1][0]["image/png"]


def test_with_a_person_controls_come_with_a_picture_for_whoever_has_no_kernel(
    tiny_run, shown, monkeypatch
):
    monkeypatch.setattr(notebook, "interactive", lambda: True)
    explore.bands(tiny_run)
    ((data, _),) = shown
    assert data[notebook.WIDGET]["model_id"] and base64.b64decode(data["image/png"])


def test_a_point_of_the_trade_off_shows_its_clip(tiny_run, shown):
    rows = [
        {"approach": title, "plr": Rate(k, 10), "plr_retrained": Rate(9, 10), "acc": Rate(2, 10),
         "acc_retrained": Rate(k, 10)}
        for title, k in (("No privacy preservation", 9), ("PPFER (C)", 1))
    ]  # fmt: skip
    explore.tradeoff(tiny_run, rows, ["none", "ppfer"])
    (first, _), (second, _) = shown
    assert "PPFER (C): identity named 90.0 %" in first["text/plain"]
    assert first["image/png"] != second["image/png"]


def test_lines_are_svg_and_grids_are_png_each_with_words(shown):
    plots.theme()
    notebook.picture(
        plots.rates({"a": {"b": Rate(1, 2)}}, xlabel="%"), "one <point> & its interval"
    )
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
