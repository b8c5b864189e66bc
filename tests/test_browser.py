"""The explorers in a real browser: JupyterLab in a headless Chromium opens a notebook, runs all of
it, a control is moved, the picture changes.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from ppfer import execute, study
from ppfer.config import load_config
from ppfer.method import PIPELINE

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
MOVED = {"01": "wavelet", "02": "axes", "08": "attacker"}  # notebook: the control that is moved


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab's address, on copies of the notebooks that run under profile smoke."""
    folder = tmp_path_factory.mktemp("lab")
    run = study.open_run(load_config("smoke", {"seed": 0}), folder / "runs")
    for name in (*PIPELINE, "recognizer/none", "attack/none"):
        run.make(name)
    for path in execute.student(folder / "books", solutions=True):
        text = path.read_text().replace('profile: str = \\"demo\\"', 'profile: str = \\"smoke\\"')
        start = text.index("runs_dir: str = ")
        end = text.index("  #", start)
        path.write_text(f'{text[:start]}runs_dir: str = \\"{folder / "runs"}\\"{text[end:]}')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [f"--port={port}", "--no-browser", "--ip=127.0.0.1", "--allow-root"]
    options += [
        "--LabApp.expose_app_in_browser=True",
        "--IdentityProvider.token=",
        "--ServerApp.disable_check_xsrf=True",
    ]
    command = [sys.executable, "-m", "jupyterlab", *options, str(folder / "books")]
    env = {k: v for k, v in os.environ.items() if k != "PPFER_HEADLESS"}
    env |= {"JUPYTER_CONFIG_DIR": str(folder / "config"), "OMP_NUM_THREADS": "1"}
    settings = folder / "config" / "labconfig" / "default_setting_overrides.json"
    settings.parent.mkdir(parents=True)  # every output stays in the page, seen or not
    settings.write_text('{"@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"}}')
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    for _ in range(120):
        try:
            urllib.request.urlopen(f"{address}/api", timeout=2)
            break
        except OSError:
            time.sleep(0.5)
    yield folder / "books", address
    server.terminate()
    server.wait()


@pytest.fixture(scope="module")
def page():
    with sync_api.sync_playwright() as driver:
        options = {"executable_path": CHROMIUM, "args": ["--no-sandbox"]}
        browser = driver.chromium.launch(**options)
        yield browser.new_page(viewport={"width": 1400, "height": 3000})
        browser.close()


@pytest.mark.parametrize(("number", "control"), MOVED.items())
def test_a_moved_control_changes_the_picture(lab, page, number, control):
    books, address = lab
    (path,) = books.glob(f"{number}_*.ipynb")
    page.goto(f"{address}/lab/tree/{path.name}?reset", timeout=120_000)
    page.locator(".jp-Notebook").wait_for(timeout=120_000)
    page.wait_for_timeout(5_000)  # what is run before the kernel is there waits for it
    page.evaluate("void jupyterapp.commands.execute('notebook:run-all-cells')")
    picture = page.locator(".jp-OutputArea .widget-image").first
    picture.wait_for(timeout=480_000, state="attached")
    picture.scroll_into_view_if_needed()
    before = picture.screenshot()
    box = page.locator(".widget-dropdown", has_text=control).locator("select")
    options = box.locator("option").all_inner_texts()
    shown = box.input_value()
    box.select_option(next(option for option in options if option != shown))
    for _ in range(60):
        if picture.screenshot() != before:
            break
        page.wait_for_timeout(250)
    else:
        raise AssertionError(f"{path.name}: the picture stayed as it was")
