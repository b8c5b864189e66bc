"""The explorers in a real browser: JupyterLab in a headless Chromium opens a notebook as `make lab`
does, runs all of it, controls are moved, the picture changes, in time and within the page.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from ppfer.cli import notebooks
from ppfer.config import REPO, load_config
from ppfer.method import PIPELINE
from ppfer.study import catalogue

wanted = "playwright is not installed; run: make test-browser"
sync_api = pytest.importorskip("playwright.sync_api", reason=wanted)
NAMES = "chromium chromium-browser chromium-headless-shell google-chrome chrome".split()
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
wanted = "there is no Chromium on this machine; on Debian: apt-get install chromium"
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=wanted)
MOVED = {"01": "wavelet", "02": "axes", "08": "attacker"}  # notebook: the control that is moved
READY, REDRAW = 5, 0.1  # seconds
SETTINGS = """{
"@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
"@jupyterlab/apputils-extension:notification": {"fetchNews": "false"}
}"""  # every output stays in the page, seen or not

# --- asked in the page --------------------------------------------------------------

IDLE = "() => jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
CODE = "jupyterapp.shell.currentWidget.content.widgets.filter(cell => cell.model.type === 'code')"
RAN = (
    f"() => {CODE}.every(cell => cell.model.executionCount && cell.model.executionState == 'idle')"
)
EXPLORER = """() => { const book = jupyterapp.shell.currentWidget.content
    book.activeCellIndex = book.widgets.findIndex(cell => cell.model.type === 'code' &&
        /^explore[.]/m.test(cell.model.sharedModel.getSource())) }"""
WIDER = """() => [...document.querySelectorAll('html, .jp-NotebookPanel *')]
    .filter(e => e.scrollWidth > e.clientWidth + 1)
    .filter(e => e.tagName === 'HTML' || /auto|scroll/.test(getComputedStyle(e).overflowX))
    .map(e => `${e.className}: ${e.scrollWidth} > ${e.clientWidth} ${e.innerText.slice(0, 60)}`)"""
WATCH = """image => { window.redrawn = []
    const moved = () => { window.moved = performance.now() }
    for (const kind of ['change', 'keydown']) document.addEventListener(kind, moved, true)
    const seen = () => window.redrawn.push(performance.now() - window.moved)
    new MutationObserver(() => image.decode().then(() => requestAnimationFrame(seen)))
        .observe(image, {attributeFilter: ['src']}) }"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab's address, on copies of the notebooks that run under profile smoke."""
    folder = tmp_path_factory.mktemp("lab")
    books = REPO / "my_notebooks" / folder.name
    run = catalogue.open_run(load_config("smoke", {"seed": 0}), folder / "runs")
    for name in (*PIPELINE, "recognizer/none", "attack/none"):
        run.make(name)
    for path in notebooks.copies(books, solutions=True):
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
    command = [sys.executable, "-m", "jupyterlab", *options, str(REPO)]
    env = {k: v for k, v in os.environ.items() if k != "PPFER_HEADLESS"}
    env |= {"JUPYTER_CONFIG_DIR": str(folder / "config"), "OMP_NUM_THREADS": "1"}
    settings = folder / "config" / "labconfig" / "default_setting_overrides.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(SETTINGS)
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    for _ in range(120):
        try:
            urllib.request.urlopen(f"{address}/api", timeout=2)
            break
        except OSError:
            time.sleep(0.5)
    yield books, address
    server.terminate()
    server.wait()
    shutil.rmtree(books)


@pytest.fixture(scope="module")
def page():
    with sync_api.sync_playwright() as driver:
        options = {"executable_path": CHROMIUM, "args": ["--no-sandbox"]}
        browser = driver.chromium.launch(**options)
        yield browser.new_page(viewport={"width": 1280, "height": 800})
        browser.close()


def git_status() -> str:
    """What git sees as changed; nothing where this is no clone."""
    return subprocess.run(["git", "status", "-s"], cwd=REPO, capture_output=True, text=True).stdout


def command(page, name: str) -> float:
    """Do what a menu of JupyterLab does; when that was."""
    page.evaluate(f"void jupyterapp.commands.execute('{name}')")
    return time.monotonic()


def explorer(page):
    """The explorer's picture, once it is seen."""
    picture = page.locator(".jp-OutputArea .widget-image").first
    picture.wait_for(timeout=480_000, state="attached")
    page.wait_for_function("i => i.complete && i.naturalWidth", arg=picture.element_handle())
    return picture


def redrawn(page, act) -> float:
    """Seconds from the moved control until the new picture is in the page; it comes once."""
    page.evaluate("redrawn = []")
    act()
    page.wait_for_function("redrawn.length", timeout=20_000, polling=20)
    page.wait_for_timeout(200)
    (took,) = page.evaluate("redrawn")
    return took / 1000


@pytest.mark.parametrize(("number", "control"), MOVED.items())
def test_a_moved_control_changes_the_picture(lab, page, number, control, capsys):
    books, address = lab
    (path,) = books.glob(f"{number}_*.ipynb")
    before = git_status()
    page.goto(f"{address}/lab/tree/{path.relative_to(REPO).as_posix()}?reset", timeout=120_000)
    page.locator(".jp-Notebook").wait_for(timeout=120_000)
    page.wait_for_function(IDLE, timeout=120_000)

    began = command(page, "notebook:run-all-cells")
    explorer(page)
    first = time.monotonic() - began
    page.wait_for_function(RAN, timeout=480_000)
    wrong = page.locator('[data-mime-type$="error"], [data-mime-type$="stderr"]')
    assert not wrong.all_inner_texts()
    wider = page.evaluate(WIDER)

    old = page.locator(".jp-OutputArea .widget-image").first.element_handle()
    page.evaluate(EXPLORER)
    began = command(page, "notebook:run-cell")
    page.wait_for_function("old => !old.isConnected", arg=old, polling=20)
    picture = explorer(page)
    ready = time.monotonic() - began

    page.evaluate(WATCH, picture.element_handle())
    box = page.locator(".widget-dropdown", has_text=control).locator("select")
    names, seconds = box.locator("option").all_inner_texts(), []
    shown = box.evaluate("select => select.selectedOptions[0].text")
    for name in [name for name in names if name != shown] + [shown]:
        looked = picture.screenshot()
        seconds.append(redrawn(page, lambda name=name: box.select_option(label=name)))
        assert picture.screenshot() != looked, f"{path.name}: {name} changed nothing"
    for handle in page.locator(".noUi-handle").all():  # as far as they go, what is widest among it
        handle.focus()
        page.keyboard.press("End")
    page.wait_for_timeout(1_000)
    wider += page.evaluate(WIDER)
    command(page, "docmanager:save")
    with capsys.disabled():
        print(
            f"\n{path.name}: explorer {first:.1f} s after run all, {ready:.2f} s alone; redrawn in "
            f"{1000 * min(seconds):.0f} to {1000 * max(seconds):.0f} ms"
        )
    assert not wider, f"{path.name} scrolls sideways at 1280 pixels"
    assert ready < READY and min(seconds) < REDRAW
    assert git_status() == before
