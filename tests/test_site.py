"""The site, built as `make docs` builds it without Quarto, and looked at in a real browser."""
import ast
import functools
import gzip
import html
import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
import yaml

from microvid_nb.papers.code import OPEN

pytestmark = pytest.mark.check

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / '_docs'
NOTEBOOKS = sorted(path for path in ROOT.glob('nbs/**/*.ipynb') if '.ipynb_checkpoints' not in path.parts)
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
    notebooks = {str(path.relative_to(ROOT / 'nbs').with_suffix('.html')) for path in NOTEBOOKS}
    assert notebooks <= wanted, 'notebooks that the sidebar lacks'


def test_every_page_tells_others_what_it_is(site):
    """Icon, card, description, version; a missing page, and a list of all pages."""
    wrong = []
    for path in pages(site):
        text = path.read_text(encoding='utf-8')
        said = dict(re.findall(r'<meta property="(og:[a-z:]+)" content="([^"]+)"', text))
        there = {'og:title', 'og:description', 'og:image', 'og:url'} <= set(said)
        if not (there and 'favicon.svg' in text and 'what changed in each version' in text):
            wrong.append(str(path.relative_to(site)))
    assert not wrong, wrong[:10]
    assert (site / '_static/social.jpg').stat().st_size < 300_000 and (site / '404.html').exists()
    listed = re.findall(r'<loc>[^<]*?/microvid_nb/([^<]+)</loc>', (site / 'sitemap.xml').read_text(encoding='utf-8'))
    assert {'index.html', 'papers/01_amuse.html'} <= set(listed) and all((site / page).exists() for page in listed)


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


def test_pages_show_the_code_that_they_explain(site):
    """Internal steps are on every page, so that no example calls what is nowhere, and public names on those of papers."""
    absent = []
    for path in NOTEBOOKS:
        page = (site / path.relative_to(ROOT / 'nbs')).with_suffix('.html').read_text(encoding='utf-8')
        shown = set(re.findall(r'^ *(?:def|class) (\w+)', html.unescape(re.sub(r'<[^>]+>', '', page)), re.M))
        kinds = 'exporti?|exports' if path.parent.name in OPEN else 'exporti|exports'
        for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
            source = ''.join(cell['source'])
            if cell['cell_type'] == 'code' and re.match(rf'#\| *(?:{kinds})$', source, re.M):
                absent += [f'{path.name}: {node.name}' for node in ast.parse(source).body
                           if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name not in shown]
    assert not absent, absent[:20]


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


@pytest.mark.parametrize('words, first', [
    ('thumbnail', 'tutorials/01_first_thumbnail.html'),
    ('MK-MMD', 'thumbnail/00_mkmmd.html'),
    ('PME', 'gif/03_metrics.html'),
    ('NetVLAD', 'classify/01_netvlad.html'),
])
def test_search_finds_the_page_that_explains(address, browser, words, first):
    page = browser.new_page()
    page.goto(f'{address}/search.html?q={words}')
    page.wait_for_function("document.querySelector('.search-summary')?.innerText.includes('finished')", timeout=60_000)
    found = page.eval_on_selector_all('ul.search li > a', 'links => links.map(link => link.getAttribute("href"))')
    page.close()
    assert found[0].split('#')[0] == first, found[:8]


def with_figures(site):
    return [path for path in pages(site) if 'class="live"' in path.read_text(encoding='utf-8')]


def test_papers_and_tutorials_have_figures_to_move(site):
    found = {str(path.relative_to(site).with_suffix('')) for path in with_figures(site)}
    tutorials = {f'tutorials/{name}' for name in (
        '00_quick_start', '01_first_thumbnail', '02_topics', '03_gifs', '04_classify', '05_venue')}
    assert tutorials | {'papers/01_amuse', 'papers/03_gevaden', 'papers/04_classification', 'papers/05_dare'} <= found
    for path in with_figures(site):
        assert 'interactive(children' not in path.read_text(encoding='utf-8')


def test_sliders_move_marks(site, address, browser):
    """Every control of every figure changes what is drawn, without a network."""
    page, still = browser.new_page(viewport={'width': 1300, 'height': 900}), []
    for path in with_figures(site):
        page.goto(f'{address}/{path.relative_to(site)}')
        page.wait_for_function("[...document.querySelectorAll('.live')].every(place => place.view)", timeout=60_000)
        figures = page.locator('.live')
        for k in range(figures.count()):
            figure = figures.nth(k)
            controls = figure.locator('.vega-bindings :is(input, select)')
            for i in range(controls.count()):
                before = figure.locator('svg').inner_html()
                controls.nth(i).evaluate("""control => {
                    if (control.type === 'checkbox') control.click();
                    else if (control.tagName === 'SELECT') control.selectedIndex = control.options.length - 1;
                    else control.value = control.value === control.max ? control.min : control.max;
                    for (const name of ['input', 'change']) control.dispatchEvent(new Event(name, {bubbles: true}));
                }""")
                page.wait_for_timeout(400)
                if figure.locator('svg').inner_html() == before: still.append((path.name, k, i))
    page.close()
    assert not still, still


def test_slider_chooses_what_the_package_chooses(address, browser):
    page = browser.new_page()
    page.goto(f'{address}/tutorials/01_first_thumbnail.html')
    page.wait_for_function("document.querySelector('.live').view", timeout=60_000)
    spec = json.loads(page.locator('.live script').first.text_content())
    rows = max(spec['datasets'].values(), key=len)
    for lam in (0, 3):
        page.locator('.live input[type=range]').first.evaluate(
            '(slider, value) => { slider.value = value; slider.dispatchEvent(new Event("input")); }', str(lam))
        page.wait_for_timeout(400)
        best = max(rows, key=lambda row: row['good'] + lam * row['typical'])['time']
        chosen = page.locator('.live svg .mark-rect path[fill="#d9480f"]').all()
        assert len(chosen) == 1 and best in chosen[0].get_attribute('aria-label')
    page.close()


def test_pointing_at_the_plane_moves_the_feature(address, browser):
    page = browser.new_page(viewport={'width': 1300, 'height': 900})
    page.goto(f'{address}/tutorials/03_gifs.html')
    page.wait_for_function("[...document.querySelectorAll('.live')].every(place => place.view)", timeout=60_000)
    plane = page.locator('.live').last.locator('svg')
    plane.scroll_into_view_if_needed()
    seen = set()
    for x, y in ((60, 60), (200, 330), (330, 120)):
        plane.hover(position={'x': x, 'y': y})
        page.wait_for_timeout(500)
        seen.add(plane.locator('.mark-text text').first.get_attribute('transform'))
    page.close()
    assert len(seen) == 3, seen


def test_entries_and_code_fold(address, browser):
    page = browser.new_page(viewport={'width': 1300, 'height': 900})
    page.goto(f'{address}/classify/01_netvlad.html')
    entry = page.locator('details.entry#netvlad')
    assert entry.get_attribute('open') is None
    entry.locator('summary').click()
    assert entry.get_attribute('open') is not None and entry.locator('pre').first.is_visible()
    page.goto(f'{address}/thumbnail/00_mkmmd.html#mk_mmd')
    page.wait_for_selector('details.entry#mk_mmd[open]', state='attached')
    page.goto(f'{address}/papers/01_amuse.html')
    code = page.locator('details:has-text("Show the code of this figure")').first
    assert not code.locator('pre').first.is_visible()
    code.locator('summary').first.click()
    assert code.locator('pre').first.is_visible()
    page.close()


@pytest.mark.parametrize('width', [1300, 390], ids=['desk', 'phone'])
def test_has_one_search_box_and_a_short_sidebar(address, browser, width):
    page = browser.new_page(viewport={'width': width, 'height': 900})
    for name in ('index', 'papers/01_amuse', 'media/00_video'):
        page.goto(f'{address}/{name}.html')
        boxes = page.locator('.search-button__button').all()
        assert sum(box.is_visible() and box.bounding_box()['x'] >= 0 for box in boxes) == 1, name
        links = page.locator('.bd-sidebar-primary nav a')
        assert sum(link.is_visible() for link in links.all()) <= 40, name
    page.close()


def test_pictures_have_words_and_pages_are_small(site):
    wrong = []
    for path in pages(site):
        text = path.read_text(encoding='utf-8')
        alts = re.findall(r'<img[^>]* alt="([^"]*)"', text)
        if any(re.search(r'[0-9a-f]{32}', alt) for alt in alts) or re.search(r'<img(?![^>]* alt=)[^>]*>', text):
            wrong.append(f'{path.relative_to(site)}: a picture without words')
        own = [path.parent / unquote(src) for src in re.findall(r'<img[^>]* src="([^":]+)"', text)]
        size = path.stat().st_size + sum(each.stat().st_size for each in own if each.exists())
        if size > 1_500_000: wrong.append(f'{path.relative_to(site)}: {size / 1e6:.1f} MB')
    assert not wrong, wrong[:20]


def test_every_public_name_is_in_the_list_of_functions(site):
    page = Links((site / 'functions.html').read_text(encoding='utf-8'))
    text = (site / 'functions.html').read_text(encoding='utf-8')
    names = [name for path in ROOT.glob('microvid_nb/**/*.py') for node in ast.parse(path.read_text()).body
             if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == '__all__'
             for name in ast.literal_eval(node.value)]
    assert page.links and not [name for name in names if f'<code>{name}</code>' not in text]


# one of each kind: home, tutorial, paper, tables, how they are made, API, ledger
TYPICAL = ('index', 'tutorials/01_first_thumbnail', 'papers/03_gevaden', 'thumbnail/17_results', 'thumbnail/07_experiments',
           'media/00_video', 'papers/08_what_holds')

FAINT = '''() => {
  const parse = text => { const n = text.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const over = (top, below) => top.slice(0, 3).map((v, k) => v * top[3] + below[k] * (1 - top[3]));
  const light = rgb => {
    const [r, g, b] = rgb.map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ground = e => {
    const layers = [];
    for (let at = e; at; at = at.parentElement) layers.push(parse(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const found = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode.data.trim(), e = walk.currentNode.parentElement, style = getComputedStyle(e);
    if (!text || !e.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    if (e.closest('script, style, svg, mjx-container, .visually-hidden, .skip-link, .headerlink')) continue;
    const own = ground(e), colour = over(parse(style.color), own);
    const [a, b] = [light(colour), light(own)].sort((x, y) => y - x), ratio = (a + .05) / (b + .05);
    const size = parseFloat(style.fontSize), large = size >= 24 || size >= 18.66 && style.fontWeight >= 700;
    if (ratio < (large ? 3 : 4.5) - .01) found.push(`${ratio.toFixed(2)} ${text.slice(0, 40)}`);
  }
  return found;
}'''


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_text_stands_out(address, browser, scheme):
    """Contrast of WCAG AA: 4.5, or 3 for large letters. Pictures and figures keep light paper in the dark."""
    page, wrong = browser.new_page(viewport={'width': 1280, 'height': 900}, color_scheme=scheme), []
    for name in TYPICAL:
        page.goto(f'{address}/{name}.html')
        page.wait_for_timeout(500)
        wrong += [f'{name}: {text}' for text in page.evaluate(FAINT)]
        paper = page.evaluate("""[...document.querySelectorAll('.cell_output img:not(.photo), .live')].map(
            place => getComputedStyle(place).backgroundColor)""")
        if scheme == 'dark' and set(paper) - {'rgb(255, 255, 255)'}: wrong.append(f'{name}: {set(paper)}')
    page.evaluate("document.querySelector('.bd-article p').style.color = getComputedStyle(document.body).backgroundColor")
    assert page.evaluate(FAINT), 'the test itself sees faint text'
    page.close()
    assert not wrong, wrong[:20]


def test_keys_reach_everything_and_show_where_they_are(address, browser):
    page = browser.new_page(viewport={'width': 1280, 'height': 900})
    page.goto(f'{address}/papers/01_amuse.html')
    page.wait_for_function("[...document.querySelectorAll('.live')].every(place => place.view)", timeout=60_000)
    page.keyboard.press('Tab')
    page.wait_for_timeout(500)
    first = page.locator(':focus')
    assert first.inner_text() == 'Skip to main content' and first.bounding_box()['y'] >= 0
    page.keyboard.press('Enter')
    seen, unmarked = [], []
    for _ in range(40):
        page.keyboard.press('Tab')
        at = page.evaluate("""() => {
            const e = document.activeElement, style = getComputedStyle(e);
            const ring = style.outlineStyle !== 'none' || style.boxShadow !== 'none' || e.type === 'range';
            return [e.tagName, e.closest('.bd-article') !== null, ring, e.textContent.trim().slice(0, 30)];
        }""")
        seen.append(at[0])
        if not at[2]: unmarked.append(at)
    assert {'A', 'SUMMARY', 'INPUT', 'SELECT'} <= set(seen), seen
    page.close()
    assert not unmarked, unmarked[:5]


def test_pages_keep_their_place_and_are_light(site, address, browser):
    """Pictures have a size, and all that a first visit loads is below 1.5 MB as a host sends it.

    Equations are typeset after the text is there, so that a page with many moves a little; 0.25 and more is called poor.
    """
    wrong = []
    for name in TYPICAL:
        page = browser.new_context(viewport={'width': 1280, 'height': 900}).new_page()
        page.goto(f'{address}/{name}.html')
        page.wait_for_timeout(2500)
        sizes = "[...document.images].filter(image => !(image.getAttribute('width') && image.getAttribute('height')))"
        moved = """new Promise(tell => {
            let sum = 0;
            new PerformanceObserver(list => list.getEntries().forEach(one => { sum += one.value; }))
                .observe({type: 'layout-shift', buffered: true});
            setTimeout(() => tell(sum), 300);
        })"""
        loaded = page.evaluate("performance.getEntriesByType('resource').map(one => new URL(one.name).pathname)")
        files = [site / unquote(path).lstrip('/') for path in {*loaded, f'/{name}.html'} if path != '/']
        packed = sum(len(gzip.compress(path.read_bytes(), 6)) for path in files if path.is_file())
        found = page.evaluate(f'{sizes}.length'), page.evaluate(moved), packed
        if found[0] or found[1] > .25 or found[2] > 1_500_000: wrong.append((name, found))
        page.context.close()
    assert not wrong, wrong


def test_a_line_of_a_hundred_characters_fits(address, browser):
    page = browser.new_page(viewport={'width': 1280, 'height': 900})
    for name in ('index', 'tutorials/01_first_thumbnail', 'media/00_video'):
        page.goto(f'{address}/{name}.html')
        over = page.evaluate("""() => {
            const code = [...document.querySelectorAll('.bd-article pre')].find(each => each.checkVisibility());
            code.textContent = 'x'.repeat(100);
            return code.scrollWidth - code.clientWidth;
        }""")
        assert over <= 0 and page.locator('.bd-article p').first.bounding_box()['width'] >= 815, name
    page.goto(f'{address}/index.html')
    cut = """[...document.querySelectorAll('.bd-article pre')].filter(
        each => each.checkVisibility() && each.scrollWidth > each.clientWidth).map(each => each.textContent)"""
    assert not page.evaluate(cut)
    page.close()


@pytest.mark.parametrize('width, side_by_side', [(1280, True), (800, False), (390, False)])
def test_equations_stand_beside_or_above_their_code(address, browser, width, side_by_side):
    page = browser.new_page(viewport={'width': width, 'height': 900})
    for name in ('01_amuse', '03_gevaden', '04_classification', '05_dare'):
        page.goto(f'{address}/papers/{name}.html')
        for row in page.locator('.beside').all():
            formula, code = (part.bounding_box() for part in row.locator('> div').all())
            if side_by_side: assert formula['x'] + formula['width'] <= code['x'] and formula['y'] == code['y'], name
            else: assert formula['y'] + formula['height'] <= code['y'], name
    page.close()


def test_a_paper_can_be_printed(address, browser):
    """On paper nothing of the site's frame is left, equations stand above their code, and no line of it is cut."""
    page = browser.new_page(viewport={'width': 794, 'height': 1123})
    page.goto(f'{address}/papers/03_gevaden.html')
    page.emulate_media(media='print')
    assert not page.locator('.bd-sidebar-primary').is_visible()
    cut = "[...document.querySelectorAll('.beside pre')].filter(code => code.scrollWidth > code.clientWidth + 1).length"
    assert page.evaluate(cut) == 0
    formula, code = (part.bounding_box() for part in page.locator('.beside').first.locator('> div').all())
    assert formula['y'] + formula['height'] <= code['y']
    assert page.pdf()[:5] == b'%PDF-'
    page.close()
