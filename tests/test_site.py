"""The site, built as `make docs` builds it without Quarto, and looked at in a real browser."""
import functools
import http.server
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
import yaml

pytestmark = pytest.mark.check

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / '_docs'
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)


@pytest.fixture(scope='module')
def site():
    """The pages."""
    code = "import sys; sys.path.insert(0, 'tools'); import make_site; make_site.by_sphinx()"
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    said = [line for line in done.stderr.splitlines() if 'WARNING' in line and '_pages' in line]
    assert not said, said[:20]
    return SITE


class Links(HTMLParser):
    """The links, images, anchors and prose of a page."""
    def __init__(self, text):
        super().__init__()
        self.links, self.images, self.anchors, self.prose, self.code = [], [], set(), [], 0
        self.feed(text)

    def handle_endtag(self, tag):
        self.code -= tag in ('pre', 'code', 'script')

    def handle_data(self, data):
        self.prose += [] if self.code else [data]

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.code += tag in ('pre', 'code', 'script')
        self.links += [found['href']] if tag == 'a' and found.get('href') else []
        self.images += [found['src']] if tag == 'img' and found.get('src') else []
        self.anchors |= {found[name] for name in ('id', 'name') if found.get(name)}


def pages(site):
    return sorted(path for path in site.rglob('*.html') if '_static' not in path.parts)


def test_has_a_page_for_each_entry_of_the_sidebar(site):
    sidebar = yaml.safe_load((ROOT / '_quarto.yml').read_text(encoding='utf-8'))['website']['sidebar']['contents']

    def entries(items):
        for item in items:
            if isinstance(item, str):
                yield item
            elif 'href' in item:
                yield item['href']
            else:
                yield from entries(item['contents'])
    wanted = {entry.rsplit('.', 1)[0] + '.html' for entry in entries(sidebar) if not entry.startswith('http')}
    there = {str(path.relative_to(site)) for path in pages(site)}
    assert wanted <= there
    notebooks = {
        str(path.relative_to(ROOT / 'nbs').with_suffix('.html'))
        for path in ROOT.glob('nbs/**/*.ipynb')
        if '.ipynb_checkpoints' not in path.parts
    }
    assert notebooks <= wanted, 'notebooks that the sidebar lacks'


def test_has_no_broken_link_inside(site):
    read = {path: Links(path.read_text(encoding='utf-8')) for path in pages(site)}
    broken = []
    for path, page in read.items():
        for link in page.links + page.images:
            place, anchor = urldefrag(link)
            if '://' in place or place.startswith(('mailto:', 'data:', 'javascript:')):
                continue
            target = (path.parent / unquote(place)).resolve() if place else path
            if not target.exists() or (anchor and target in read and unquote(anchor) not in read[target].anchors):
                broken.append(f'{path.relative_to(site)}: {link}')
    assert not broken, broken[:20]
    unread = [
        f'{path.relative_to(site)}: {text.strip()[:80]}'
        for path, page in read.items()
        for text in page.prose
        if '](' in text
    ]
    assert not unread, unread[:20]


@pytest.fixture(scope='module')
def address(site):
    """Where the site is served."""
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments): pass

    server = http.server.ThreadingHTTPServer(('localhost', 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://localhost:{server.server_address[1]}'
    server.shutdown()


@pytest.fixture(scope='module')
def browser():
    if not CHROMIUM:
        pytest.skip('no Chromium on this machine')
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield started
        started.close()


@pytest.mark.parametrize('width', [1300, 390], ids=['desk', 'phone'])
def test_every_page_in_a_browser(site, address, browser, width):
    page, said, wrong = browser.new_page(viewport={'width': width, 'height': 800}), [], []
    page.on('console', lambda message: said.append(message.text) if message.type == 'error' else None)
    page.on('pageerror', lambda error: said.append(str(error)))
    # the next page aborts an icon that is still on its way
    page.on(
        'requestfailed',
        lambda request: (
            None
            if (request.failure, Path(request.url).name) == ('net::ERR_ABORTED', 'favicon.svg')
            else said.append(f'failed: {request.url}')
        ),
    )
    for path in pages(site):
        said.clear()
        page.goto(f'{address}/{path.relative_to(site)}')
        page.wait_for_function(
            '() => !window.MathJax || !MathJax.startup || !MathJax.startup.promise || MathJax.startup.promise.then(() => true)'
        )
        seen = page.evaluate('''() => ({wide: document.documentElement.scrollWidth, broken: [...document.images].filter(i => i.complete && !i.naturalWidth).length,
            bad: [...document.querySelectorAll('mjx-merror')].map(e => e.textContent), raw: [...document.querySelectorAll('.math')].filter(e => !e.querySelector('mjx-container')).length})''')
        if said or seen['broken'] or seen['bad'] or seen['raw'] or seen['wide'] > width:
            wrong.append((str(path.relative_to(site)), seen, list(said)))
    page.close()
    assert not wrong, wrong[:10]


def test_search_finds_mk_mmd(address, browser):
    page = browser.new_page()
    page.goto(f'{address}/search.html?q=MK-MMD')
    page.wait_for_selector('ul.search li a', timeout=20_000)
    found = page.eval_on_selector_all('ul.search li a', 'links => links.map(link => link.textContent)')
    page.close()
    assert any('MK-MMD' in text for text in found), found
