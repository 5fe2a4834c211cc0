"""How pages are made of notebooks, without building the site."""
import re
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output
from PIL import Image

from microvid_nb.papers.equations import _PAGES

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'tools'))
import make_site  # noqa: E402

PLACES = {'gif/metrics.html': ('gif/03_metrics.ipynb', {'posterior_score', 'gevaden'})}


def shown(cell, before=()):
    return make_site.shown(cell, 'papers/x.ipynb', PLACES, list(before))


def test_imports_and_drawing_code_fold():
    imports = shown(new_code_cell('import torch\nfrom x import y\n\ntorch.set_num_threads(1)'))
    assert imports.metadata['tags'] == ['hide-input'] and 'imports' in imports.metadata['mystnb']['code_prompt_show']
    drawing = shown(new_code_cell('#| code-fold: true\nx = 1'))
    assert drawing.metadata['tags'] == ['hide-input'] and drawing.source == 'x = 1'
    table = new_output('execute_result', {'text/html': '<table></table>', 'text/plain': 'a'})
    picture = new_output('display_data', {'image/png': 'x'})
    for outputs, words in (([], 'the code'), ([table], 'the code of this table'),
                           ([picture, table], 'the code of this figure')):
        cell = shown(new_code_cell('#| code-fold: true\nx', outputs=outputs))
        assert cell.metadata['mystnb']['code_prompt_show'] == f'Show {words}'
    long = shown(new_code_cell('#| code-fold: true\n#| code-summary: "Show the code of f"\n#| classes: package-code\nf'))
    assert long.metadata['mystnb'] == {'code_prompt_show': 'Show the code of f', 'code_prompt_hide': 'Hide the code of f'}
    assert long.metadata['tags'] == ['package-code', 'hide-input'] and long.source == 'f'
    assert shown(new_code_cell('#| classes: package-code\nf')).metadata['tags'] == ['package-code']
    for source in ('x = 1', 'import a\nx = a.b()', 'def f(): import a', 'import microvid_nb as mv'):
        assert 'tags' not in shown(new_code_cell(source)).metadata


def test_a_widget_leaves_nothing_and_a_chart_becomes_a_figure():
    widget = new_output('display_data', {make_site.WIDGET: {}, 'text/plain': 'interactive(children=())'})
    assert shown(new_code_cell('interact(f)', outputs=[widget])).outputs == []
    chart = new_output('execute_result', {make_site.CHART: {'mark': 'bar', 'note': '</script>'}, 'text/plain': 'a chart'})
    text = shown(new_code_cell('c', outputs=[chart])).outputs[0].data['text/html']
    assert 'class="live"' in text and text.count('</script>') == 1


def test_a_picture_is_described_by_the_sentence_before_it():
    picture = new_output('display_data', {'image/png': 'x', 'text/plain': '<Figure>'})
    before = [new_markdown_cell('## Loss\n\nTraining goes on. The loss falls, as [here](a.ipynb):')]
    cell = shown(new_code_cell('plot()', outputs=[picture]), before)
    assert cell.metadata['mystnb']['image']['alt'] == 'The loss falls, as here'
    short = [new_markdown_cell('Above is learning. Below: choosing.')]
    assert shown(new_code_cell('plot()', outputs=[picture]), short).metadata['mystnb']['image']['alt'] == 'Below: choosing.'
    named = shown(new_code_cell('#| fig-alt: A curve\nplot()', outputs=[picture]), before)
    assert named.metadata['mystnb']['image']['alt'] == 'A curve'


def test_code_beside_an_equation_is_shown_as_it_is():
    """It is no entry of a name, and a comment in it is no heading."""
    said = new_output('execute_result', {'text/markdown': '```python\n# gif.metrics\ndef f(x): ...\n```'})
    cell = new_code_cell('#| echo: false\nMarkdown(code_of(f))', outputs=[said])
    assert make_site.documented_names(nbformat.v4.new_notebook(cells=[cell])) == {}
    assert shown(cell).source == said.data['text/markdown']


def test_a_figure_may_stand_without_its_code():
    seen = new_output('execute_result', {'text/html': '<div class="hero"></div>', 'text/plain': 'x'})
    cell = shown(new_code_cell('#| echo: false\nHTML(hero)', outputs=[seen]))
    assert cell.metadata['tags'] == ['remove-input'] and cell.outputs == [seen]


@pytest.mark.parametrize('method, name', _PAGES.items())
def test_every_equation_stands_beside_its_code(method, name):
    """Each numbered equation has its symbols, the lines that compute it, and a test that there is."""
    from microvid_nb.tasks import all_tasks
    nb = nbformat.read(ROOT / f'nbs/papers/{name}.ipynb', as_version=4)
    text = '\n'.join(cell.source for cell in nb.cells if cell.cell_type == 'markdown')
    numbers = sorted(int(k) for k in re.findall(r'<b id="eq-(\d+)">', text))
    assert numbers == list(range(1, next(task.equations for task in all_tasks() if task.method == method) + 1))
    blocks = [k for k, cell in enumerate(nb.cells) if '<div class="beside">' in cell.source]
    for k in blocks:
        told, code = nb.cells[k].source.split('<div class="beside">')[1], nb.cells[k + 1]
        assert 'where $' in told and 'Checked by [' in told and '$$' in told
        assert 'code_of(' in code.source and '```python' in code.outputs[0].data['text/markdown']
        for test, file in re.findall(r'\[(test_\w+)\]\(\S*/(tests/\w+\.py)\)', told):
            assert f'def {test}(' in (ROOT / file).read_text(encoding='utf-8'), test
    assert text.count('<div') == text.count('</div>')


def test_pictures_of_a_page_have_a_size(tmp_path):
    Image.new('RGB', (40, 30)).save(tmp_path / 'a b.png')
    page = '<script defer src="_static/scripts/fontawesome.js?digest=1"></script><img alt="x" src="a%20b.png" />'
    assert make_site.finished(page, tmp_path) == '<img width="40" height="30" alt="x" src="a%20b.png" />'
    for kept in ('<img width="4" src="a b.png">', '<img src="https://x.org/a.png">'):
        assert make_site.finished(kept, tmp_path) == kept


def test_links_to_names_have_anchors_where_the_page_documents_them():
    def link(name): return make_site.relink(f'[x](../gif/03_metrics.ipynb#{name})', 'papers/x.ipynb', PLACES)
    assert link('posterior_score').endswith('#posterior_score)')
    assert link('GEVADEN.forward_pass').endswith('#gevaden)')
    assert link('no_such_name') == '[x](../gif/03_metrics.ipynb)'
    assert link('A-heading').endswith('#a-heading)')


def test_entries_fold_where_an_argument_is_told():
    markdown = '---\n\n### f\n\n```python\ndef f(x): ...\n```\n\n*Half of x.*\n'
    told, listed = (make_site.documented_name(markdown, page) for page in ('gif/a.ipynb', 'media/a.ipynb'))
    assert '<details class="entry" id="f">' in told and '### f' not in told and '*Half of x.*' in told
    assert '### f' in listed and '<details' not in listed


def test_a_link_shows_a_card_of_the_size_that_messengers_want():
    assert make_site.social_card().size == (1200, 630)


def test_a_missing_page_leads_on(tmp_path, monkeypatch):
    monkeypatch.setattr(make_site, 'PAGES', tmp_path)
    text = make_site.write_missing().read_text(encoding='utf-8')
    assert text.startswith('---\norphan: true') and '# There is no such page' in text
    links = re.findall(r'\]\(([^)]+)\)', text)
    assert len(links) >= 3 and all((ROOT / 'nbs' / link).exists() for link in links)


def test_the_sitemap_lists_pages_that_are_worth_finding(tmp_path):
    for name in ('index', 'gif/a', 'search', '404', '_static/x'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f'{name}.html').touch()
    found = re.findall(r'<loc>(.*?)</loc>', make_site.sitemap(tmp_path))
    assert found == [f'{make_site.HOST}gif/a.html', f'{make_site.HOST}index.html']


def test_quarto_is_told_the_same():
    """Icon, card, styles and version of the other builder."""
    told = yaml.safe_load((ROOT / '_quarto.yml').read_text(encoding='utf-8'))
    own = told['website']
    for path in (own['favicon'], told['format']['html']['css']): assert (ROOT / 'nbs' / path).exists()
    assert own['image'] == 'static/social.jpg' and own['open-graph'] and own['twitter-card'] and own['site-url']
    version = re.search(r'^version = (.+)$', (ROOT / 'settings.ini').read_text(encoding='utf-8'), re.M)[1]
    assert f'Version {version} ' in own['page-footer']['left']


def notebooks():
    return sorted((ROOT / 'nbs/tutorials').glob('*.ipynb')) + [ROOT / 'nbs/index.ipynb']


@pytest.mark.parametrize('path', notebooks(), ids=lambda path: path.stem)
def test_shell_lines_use_commands_and_options_that_there_are(path):
    """What a page tells a reader to type is understood by the program."""
    typer = pytest.importorskip('typer')
    from microvid_nb.cli import app
    known = {name: {option for part in command.params for option in getattr(part, 'opts', [])}
             for name, command in typer.main.get_command(app).commands.items()}
    texts = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == 'markdown']
    blocks = [block for text in texts for block in re.findall(r'```sh\n(.*?)```', text, re.S)]
    lines = [line.split('#')[0] for block in blocks for line in block.splitlines() if line.startswith('microvid ')]
    for line in lines + re.findall(r'`(microvid [^`]*)`', '\n'.join(texts)):
        command, options = line.split()[1], re.findall(r'--[a-z-]+', line)
        if command in known: assert set(options) <= known[command] | {'--help'}, line
        else: assert command == 'train' or command in ('extract', 'preview'), line
