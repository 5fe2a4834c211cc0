"""JupyterLab, as `make lab` starts it, in a real browser: the quick start runs, and a slider moves the choice."""
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

pytestmark = pytest.mark.check

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(('localhost', 0))
        return found.getsockname()[1]


def wait_for(address: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            return urllib.request.urlopen(f'{address}/api').close()
        except (urllib.error.URLError, ConnectionError):
            assert time.monotonic() < end, 'JupyterLab did not start'
            time.sleep(.5)


@pytest.fixture
def lab(tmp_path):
    """The address of JupyterLab in a folder with a copy of the quick start, so that running it changes nothing here."""
    command = re.search(r'jupyter (lab) nbs$', (ROOT / 'Makefile').read_text(), re.M)[1]
    notebooks = tmp_path / 'nbs'
    notebooks.mkdir()
    shutil.copy(ROOT / 'nbs/tutorials/00_quick_start.ipynb', notebooks)
    port = free_port()
    options = [
        '--no-browser',
        f'--port={port}',
        '--IdentityProvider.token=',
        '--allow-root',
        '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate',
        '--LabApp.news_url=None',
    ]
    server = subprocess.Popen(
        [Path(sys.executable).with_name('jupyter'), command, notebooks, *options],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(f'http://localhost:{port}', 90)
        yield f'http://localhost:{port}'
    finally:
        server.terminate()
        server.wait(30)


def test_a_slider_moves_the_choice(lab):
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        page = browser.new_page(viewport={'width': 1300, 'height': 2400})
        page.goto(f'{lab}/lab/tree/00_quick_start.ipynb?reset')
        page.get_by_text('| Idle').wait_for(timeout=120_000)
        page.get_by_role('menuitem', name='Run', exact=True).click()
        page.get_by_role('menuitem', name='Run All Cells', exact=True).click()
        handle = page.locator('.vega-bind input[type=range]').first
        handle.wait_for(timeout=300_000)
        figure = page.locator('.vega-embed').first
        before = figure.screenshot()
        handle.focus()
        handle.press('End')
        page.wait_for_timeout(2000)
        assert figure.screenshot() != before
        page.wait_for_function(
            "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].every(each => !each.textContent.includes('*'))",
            timeout=300_000,
        )
        errors = page.locator('.jp-RenderedText[data-mime-type="application/vnd.jupyter.stderr"]').all_inner_texts()
        assert not any('Traceback' in text for text in errors + page.locator('.jp-OutputArea-output').all_inner_texts())
        browser.close()
