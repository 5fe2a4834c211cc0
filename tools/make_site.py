"""Builds the site into _docs/: by Quarto where it is installed, else by Sphinx from the same processed notebooks.

No notebook is run; nbdev executes imports and exported cells to write signatures, and pages show the outputs that
were saved. What did not change since the last build is not made again.
"""
import ast
import base64
import html
import io
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from urllib.parse import unquote

import nbformat
import vl_convert
import yaml
from nbformat.v4 import new_markdown_cell
from PIL import Image, ImageDraw, ImageFont, ImageSequence

ROOT = Path(__file__).resolve().parent.parent
PROCESSED, PAGES, BUILT, SITE = ROOT / '_proc', ROOT / '_proc' / '_pages', ROOT / '_proc' / '_built', ROOT / '_docs'
HOST = 'https://microvid-nb.github.io/microvid_nb/'  # what nbdev puts before links to documented names
COLAB = 'https://colab.research.google.com/github/microvid-nb/microvid_nb/blob/main/nbs/'
IMAGES = ('image/svg+xml', 'image/png', 'image/jpeg', 'image/gif')
CHART, WIDGET = 'application/vnd.vegalite.v5+json', 'application/vnd.jupyter.widget-view+json'
# where an argument is told, entries of functions fold away; pages of the API have them open, with headings
TOLD = 'tutorials', 'papers', 'thumbnail', 'gif', 'classify', 'venue'


def title_of(nb) -> tuple[str, str]:
    """The title of a processed notebook and the line below it, which nbdev moved to a raw cell."""
    about = yaml.safe_load(nb.cells[0].source.strip().strip('-'))
    return str(about['title']), str(about.get('description', ''))


def anchor(text: str) -> str:
    """A heading's anchor as MyST makes it."""
    return re.sub(r'[^\w\- ]', '', text.strip().lower()).replace(' ', '-')


def documented(nb) -> str:
    """All that nbdev says of the names that a processed notebook documents."""
    return '\n\n'.join(
        output.data['text/markdown']
        for cell in nb.cells
        if 'show_doc(' in cell.source
        for output in cell.get('outputs', [])
        if 'text/markdown' in output.get('data', {})
    )


def documented_names(nb) -> dict[str, str]:
    """The names that a processed notebook documents, with the first sentence about each."""
    entries = re.split(r'^#+ (\S+)$', documented(nb), flags=re.M)[1:]
    said = (re.search(r'^\*(.+?)\*$', text, re.M | re.S) for text in entries[1::2])
    return {name: ' '.join(found[1].split()) if found else '' for name, found in zip(entries[::2], said)}


def module_of(nb) -> str:
    """The module that a processed notebook documents, or nothing."""
    found = re.search(r'/blob/\w+/(microvid_nb/[\w/]+)\.py#L', documented(nb))
    return found[1].replace('/', '.') if found else ''


def entry_among(names, name: str) -> str:
    """The entry about a name, or else about its class; nothing where there is none."""
    return next((each for each in (name, name.split('.')[0]) if each in names), '')


def relink(text: str, page: str, places: dict[str, tuple[str, set[str]]]) -> str:
    """Markdown whose links to documented names, and to headings, lead to pages of this site.

    A method without an entry of its own is found at its class, a name without any at the top of its page.
    """
    entries = {target: names for target, names in places.values()}

    def to_name(match):
        place, _, name = match[1].partition('#')
        if place not in places: raise ValueError(f'{page} links to {match[0]}, which is no page')
        target, names = places[place]
        found = entry_among(names, name)
        return os.path.relpath(target, Path(page).parent) + (f'#{anchor(found)}' if found else '')

    def heading(match):
        code, place, name = match[1] or '', match[2], unquote(match[3])
        if code or re.fullmatch(r'\w+', name) and '_' in name or re.fullmatch(r'\w+(\.\w+)+', name):  # no heading
            target = os.path.normpath(os.path.join(os.path.dirname(page), place)) if place else page
            found = entry_among(entries.get(target, ()), name.lower())
            return f'{code}]({place}#{anchor(found)})' if found else f'{code}]({place})'
        return f'{code}]({place}#{anchor(name.replace("-", " "))})'
    text = re.sub(re.escape(HOST) + r'([\w./\-#]+)', to_name, text)
    return re.sub(r'(</code>)?\]\(((?!https?:)[^)\s#]*)#([^)\s]+)\)', heading, text)


def with_fields(markdown: str) -> str:
    """What nbdev says of a record with its fields, which nbdev doesn't find: it looks at `__init__`, and a named tuple
    has none.
    """
    empty, place = (
        re.search(r'def (\w+)\(\n    \*args, \*\*kwargs\n\):', markdown),
        re.search(r'/blob/\w+/(microvid_nb/[\w/]+\.py)#L', markdown),
    )
    if not (empty and place): return markdown
    source = (ROOT / place[1]).read_text(encoding='utf-8')
    fields = [
        field
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == empty[1]
        for field in node.body
        if isinstance(field, ast.AnnAssign)
    ]
    if not fields: return markdown
    written, first = source.splitlines(), fields[0].lineno - 1
    while written[first - 1].lstrip().startswith('# '): first -= 1  # what is said of the first field
    lines = written[first:fields[-1].end_lineno]
    return markdown.replace(empty[0], '\n'.join([f'class {empty[1]}(NamedTuple):', *lines]))


def documented_name(markdown: str, page: str) -> str:
    """What nbdev says of a name, without what only Quarto understands; the link to its source stands last."""
    markdown = with_fields(re.sub(r'^---\s*\n', '', markdown))
    # links into comments
    markdown = re.sub(
        r'```python.*?```', lambda code: re.sub(r'\[(`[^`\]]*`)\]\([^)]*\)', r'\1', code[0]), markdown, flags=re.S
    )
    source = re.search(r'(\[source\]\([^)]*\))\{[^}]*\}', markdown)
    markdown = markdown if source is None else f'{markdown.replace(source[0], "").strip()}\n\n{source[1]}'
    heading = re.search(r'^#+ (\S+)$', markdown, re.M)
    if heading is None or page.split('/')[0] not in TOLD: return markdown
    name = heading[1]
    return (
        f'<details class="entry" id="{anchor(name)}"><summary>Parameters of <code>{name}</code></summary>\n\n'
        f'{markdown.replace(heading[0], "", 1).strip()}\n\n</details>'
    )


def said_before(cells: list) -> str:
    """What a picture shows, in words: its caption, or the sentence that leads to it."""
    for cell in reversed(cells):
        caption = re.search(r'^#\| *fig-(?:alt|cap): *(.+)$', cell.source, re.M)
        if caption: return caption[1].strip('"\' ')
        if cell.cell_type != 'markdown': continue
        plain = re.sub(r'<[^>]*>|^#+ [^\n]*$|\$\$.*?\$\$|```.*?```', ' ', cell.source, flags=re.M | re.S)
        plain = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', plain)
        sentences = re.split(r'(?<=[.:?!])\s+', ' '.join(re.sub(r'[*`$|>\\{}]', '', plain).split()))
        last = 2 if len(sentences[-1].split()) < 3 else 1  # a word or two say too little
        if sentences[-1]: return ' '.join(sentences[-last:]).rstrip(':')[:200]
    return 'Output of the code above'


def only_imports(source: str) -> bool:
    """Whether a cell of several lines only brings names, and perhaps sets something up with them."""
    try: body = ast.parse(source).body
    except SyntaxError: return False
    kinds = [type(node) for node in body]
    return bool(body) and body[-1].end_lineno > body[0].lineno and kinds[0] in (ast.Import, ast.ImportFrom) and all(
        kind in (ast.Import, ast.ImportFrom, ast.Expr) for kind in kinds
    ) and sum(kind is ast.Expr for kind in kinds) <= 2


def of_what(outputs: list) -> str:
    """What folded code makes, for the words beside it."""
    made = [output['data'] for output in outputs if 'data' in output]
    if not made: return ''
    pictures = any({*IMAGES, CHART} & set(data) for data in made)
    tables = any('text/markdown' in data or '<table' in data.get('text/html', '') for data in made)
    return ' of this table' if tables and not pictures else ' of this figure'


def folded(cell) -> dict:
    """How a code cell is shown: imports, what draws a picture and long code are folded until a reader asks for them."""
    classes = re.findall(r'^#\| *classes: *(\S+)', cell.source, re.M)
    bar = re.search(r'^#\| *code-summary: *"Show (.*)"$', cell.source, re.M)
    if bar: what = bar[1]
    elif re.search(r'^#\| *code-fold: *true', cell.source, re.M): what = f'the code{of_what(cell.outputs)}'
    elif only_imports(cell.source) and not cell.outputs: what = 'imports'
    else: return {'tags': classes} if classes else {}
    prompts = {'code_prompt_show': f'Show {what}', 'code_prompt_hide': f'Hide {what}'}
    return {'tags': [*classes, 'hide-input'], 'mystnb': prompts}


def live_figure(spec: dict, words: str) -> str:
    """A chart that the script of the site draws in the reader's browser."""
    data = json.dumps(spec, separators=(',', ':')).replace('</', '<\\/')
    return (
        f'<div class="live" role="group" aria-label="{html.escape(spec.get("description", words))}">'
        f'<script type="application/json">{data}</script></div>'
    )


def shown(cell, page: str, places: dict, before: list):
    """A cell as Sphinx shows it, or None where nothing is left of it."""
    if cell.cell_type == 'markdown':
        cell.source = relink(re.sub(r'<!-- WARNING.*?-->\n?', '', cell.source), page, places)
        return cell if cell.source.strip() else None
    silent = '#| echo: false' in cell.source
    if silent and not any('text/html' in output.get('data', {}) for output in cell.outputs):
        text = '\n\n'.join(
            output.data['text/markdown'] for output in cell.outputs if 'text/markdown' in output.get('data', {})
        )
        text = documented_name(text, page) if 'show_doc(' in cell.source else text
        return new_markdown_cell(relink(text, page, places)) if text else None
    words = said_before([*before, cell])
    cell.outputs = [output for output in cell.outputs if WIDGET not in output.get('data', {})]
    cell.metadata = {'tags': ['remove-input']} if silent else folded(cell)
    cell.source = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M).strip('\n')
    for output in cell.outputs:
        if 'data' not in output: continue
        if CHART in output.data: output.data = {'text/html': live_figure(output.data[CHART], words)}
        if set(IMAGES) & set(output.data):
            output.data.pop('text/plain', None)
            cell.metadata.setdefault('mystnb', {})['image'] = {'alt': words}
        if 'text/markdown' in output.data:  # Sphinx takes its links as they are
            text = relink(output.data['text/markdown'], page, places)
            output.data['text/markdown'] = re.sub(r'(\]\((?!https?:)[^)]*)\.ipynb', r'\1.html', text)
    if any(set(IMAGES) & set(output.get('data', {})) for output in cell.outputs):  # the picture says it, not its repr
        cell.outputs = [output for output in cell.outputs if set(output.get('data', {})) != {'text/plain'}]
    cell.outputs = [output for output in cell.outputs if output.get('data', True)]
    return cell if cell.source or cell.outputs else None


def first_cell(nb, page: str):
    """Title, description, how to open the page in Colab and how to import what it documents."""
    title, about = title_of(nb)
    lines = [f'# {title}'] + ([f'*{about}*'] if about else [])
    names = [name for name in documented_names(nb) if '.' not in name]
    if page != 'index.ipynb': lines.append(f'<a class="colab" href="{COLAB}{page}">Open in Colab</a>')
    if names:
        code = f'from {module_of(nb)} import {", ".join(names)}'
        lines.append(f'<div class="import"><code>{code}</code></div>')
    return new_markdown_cell('\n\n'.join(lines))


def write(path: Path, text: str):
    """Writes a page if it is another one than the last time, so that Sphinx knows what to make anew."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding='utf-8') != text: path.write_text(text, encoding='utf-8')


def write_page(path: Path, places: dict, contents: str = '') -> Path:
    """Writes the page of a processed notebook, with a table of contents after it."""
    nb, page = nbformat.read(path, as_version=4), str(path.relative_to(PROCESSED))
    cells = [first_cell(nb, page)]
    for cell in nb.cells:
        made = None if cell.cell_type == 'raw' else shown(cell, page, places, cells)
        cells += [] if made is None else [made]
    nb.cells = cells + ([new_markdown_cell(contents)] if contents else [])
    for k, cell in enumerate(nb.cells): cell.id = f'cell-{k}'  # the same each time
    nb.metadata = {
        'kernelspec': {'name': 'python3', 'display_name': 'Python 3', 'language': 'python'},
        'language_info': {'name': 'python'},
    }
    write(PAGES / page, nbformat.writes(nb))
    return PAGES / page


def public_names() -> list[tuple[str, list[str]]]:
    """Each module of the package with the names that it offers."""
    found = []
    for path in sorted(ROOT.glob('microvid_nb/**/*.py')):
        names = re.search(r'^__all__ = (\[.*?\])', path.read_text(encoding='utf-8'), re.M | re.S)
        if names: found.append(('.'.join(path.relative_to(ROOT).with_suffix('').parts), ast.literal_eval(names[1])))
    return found


def write_functions(notebooks: dict) -> Path:
    """Writes the list of all public names: how to import each, where it is explained, what it returns."""
    lines = [
        '# All functions',
        '*Find a function or class by its name, with the line that imports it.*',
    ]
    modules = sorted((module_of(nb), page, documented_names(nb)) for page, nb in notebooks.items())
    for module, page, names in modules:
        rows = [(name, said) for name, said in names.items() if '.' not in name]
        if not rows: continue
        lines += [f'## {module}', f'`from {module} import {", ".join(name for name, _ in rows)}`']
        lines.append('\n'.join(f'- [<code>{name}</code>]({page}#{anchor(name)}): {said}' for name, said in rows))
    listed = {name for *_, names in modules for name in names}
    again = [f'- <code>{name}</code>: `from {module} import {name}`' for module, names in public_names()
             for name in names if name not in listed]
    if again: lines += ['## Names of other modules', '*Names that a module passes on.*', '\n'.join(again)]
    write(PAGES / 'functions.md', '\n\n'.join(lines) + '\n')
    return PAGES / 'functions.md'


def tree(entries: list, caption: str = '') -> str:
    """A table of contents of pages."""
    lines = [f'{text} <{page}>' if text else page for text, page in entries]
    return '\n'.join(['```{toctree}', ':hidden:', *([f':caption: {caption}'] if caption else []), '', *lines, '```'])


def entry_of(item, titles: dict) -> tuple[str, str]:
    """Text and page of one entry of the sidebar; a section inside a section becomes a page that lists what is in it."""
    if isinstance(item, str): return '', '/' + item.removesuffix('.ipynb')
    if item.get('href', '').startswith('http'): return item['text'], item['href']
    if 'href' in item: return item['text'], '/' + re.sub(r'\.(ipynb|md)$', '', item['href'])
    name = anchor(item['section'])
    inside = [entry_of(each, titles) for each in item['contents']]
    rows = [f'- [{text or titles[page[1:]][0]}]({page}.ipynb): {titles[page[1:]][1]}' for text, page in inside]
    write(PAGES / f'{name}.md', '\n'.join([f'# {item["section"]}', '', *rows, '', tree(inside)]) + '\n')
    return '', f'/{name}'


def contents(titles: dict) -> str:
    """The navigation of the sidebar, the one that Quarto uses, with the list of all functions."""
    sidebar = yaml.safe_load((ROOT / '_quarto.yml').read_text(encoding='utf-8'))['website']['sidebar']['contents']
    first = {'text': 'What this is', 'href': 'index.ipynb'}
    return '\n\n'.join(
        tree(
            [('All functions', '/functions')] * (section['section'] == 'API')
            + [entry_of(each, titles) for each in section['contents'] if each != first],
            section['section'],
        )
        for section in sidebar
    )


def write_pages() -> None:
    """Processed notebooks -> pages that Sphinx understands."""
    found = {
        str(path.relative_to(PROCESSED)): nbformat.read(path, as_version=4)
        for path in sorted(PROCESSED.rglob('*.ipynb'))
        if not path.is_relative_to(PAGES) and not path.is_relative_to(BUILT)
    }
    places = {
        re.sub(r'(^|/)\d+[a-z]*_', r'\1', page).replace('.ipynb', '.html'): (
            page,
            {name.lower() for name in documented_names(nb)},
        )
        for page, nb in found.items()
    }
    titles = {page.removesuffix('.ipynb'): title_of(nb) for page, nb in found.items()}
    made = {write_functions(found), write_missing(), *PAGES.glob('*.md')}
    sidebar = contents(titles)
    made |= {write_page(PROCESSED / page, places, sidebar if page == 'index.ipynb' else '') for page in found}
    for path in set(PAGES.rglob('*.ipynb')) - made: path.unlink()  # its notebook is gone


def social_card() -> Image.Image:
    """What messengers show of a link: the sentence of the first page, its thumbnail and three shots of its GIF."""
    index = nbformat.read(ROOT / 'nbs/index.ipynb', as_version=4).cells[0].source
    promise = re.search(r'^> ([^;]+)', index, re.M)[1]
    card = Image.new('RGB', (1200, 630), '#10243d')
    draw, large, small = ImageDraw.Draw(card), ImageFont.load_default(84), ImageFont.load_default(38)
    draw.text((60, 50), 'microvid_nb', '#ffffff', large)
    draw.text((60, 160), '\n'.join(textwrap.wrap(f'{promise}.', 58)), '#cfe0f5', small)
    thumbnail, gif = (Image.open(ROOT / f'docs/images/index_{k}.webp') for k in (1, 2))
    frames = [frame.convert('RGB') for frame in ImageSequence.Iterator(gif)]
    shots = [frames[k * len(frames) // 3] for k in range(3)]
    card.paste(thumbnail.convert('RGB').resize((520, 292)), (60, 280))
    for k, (shot, x) in enumerate(zip(shots, (610, 880, 610))):
        card.paste(shot.resize((255, 143)), (x, 280 + 149 * (k // 2)))
    draw.rectangle((880, 429, 1135, 572), '#1d4e89')
    draw.polygon([(985, 465), (985, 536), (1045, 500)], '#ffffff')
    return card


def write_card() -> None:
    """Puts the picture for messengers where both builders look for it."""
    social_card().save(ROOT / 'nbs/static/social.jpg', quality=88)


def write_missing() -> Path:
    """The page that stands for all that are not there."""
    text = (ROOT / 'nbs/404.qmd').read_text(encoding='utf-8')
    _, front, body = text.split('---\n', 2)
    about = yaml.safe_load(front)
    write(PAGES / '404.md', f'---\norphan: true\n---\n\n# {about["title"]}\n\n*{about["description"]}*\n{body}')
    return PAGES / '404.md'


def sitemap(folder: Path) -> str:
    """The addresses of all pages, for search engines."""
    pages = sorted(str(path.relative_to(folder)) for path in folder.rglob('*.html') if '_static' not in path.parts)
    shown = [page for page in pages if page not in ('search.html', 'genindex.html', '404.html')]
    rows = [f'<url><loc>{HOST}{html.escape(page)}</loc></url>' for page in shown]
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">'
    return '\n'.join([head, *rows, '</urlset>', ''])


def sized(tag: str, folder: Path) -> str:
    """The tag of a picture with its width and height, so that a page doesn't jump when it comes."""
    source = re.search(r' src="([^"]+)"', tag)[1]
    if ' width=' in tag or '://' in source or source.endswith('.svg'): return tag
    inside = source.startswith('data:')
    where = io.BytesIO(base64.b64decode(source.split(',')[1])) if inside else folder / unquote(source)
    with Image.open(where) as picture: width, height = picture.size
    return tag.replace('<img ', f'<img width="{width}" height="{height}" ', 1)


def finished(text: str, folder: Path) -> str:
    """A page of the site: pictures have a size; the theme's 1.6 MB of drawn icons go, since its font has the same."""
    text = re.sub(r'<script[^>]*/fontawesome\.js[^>]*></script>\n?', '', text)
    return re.sub(r'<img\b[^>]* src="[^"]+"[^>]*>', lambda tag: sized(tag[0], folder), text)


def by_sphinx():
    """Notebooks -> processed notebooks -> pages -> _docs/."""
    # not by the command nbdev_proc_nbs: without Quarto it would install the package into the Python of the path
    process = 'from nbdev.serve import proc_nbs; proc_nbs()'
    subprocess.run([sys.executable, '-c', process], cwd=ROOT, check=True, env=os.environ | {'PYTHONWARNINGS': 'ignore'})
    write_card()
    write_pages()
    command = [sys.executable, '-m', 'sphinx', '-q', '-j', 'auto', '-b', 'html', '-c', ROOT / 'docs']
    subprocess.run([*command, '-d', BUILT / 'doctrees', PAGES, BUILT / 'html'], cwd=ROOT, check=True)
    library = BUILT / 'html' / '_static' / 'vega.js'
    if not library.exists():  # draws charts without a network
        # in a function of its own, since its names are short and those of the theme are, too
        library.write_text(f'(() => {{{vl_convert.javascript_bundle()}}})();', encoding='utf-8')
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.copytree(BUILT / 'html', SITE)
    for path in SITE.rglob('*.html'):
        path.write_text(finished(path.read_text(encoding='utf-8'), path.parent), encoding='utf-8')
    (SITE / 'sitemap.xml').write_text(sitemap(SITE), encoding='utf-8')
    print(f'site: {SITE / "index.html"}')


if __name__ == '__main__':
    if shutil.which('quarto'):
        write_card()
        subprocess.run([Path(sys.executable).with_name('nbdev_docs')], cwd=ROOT, check=True)
    else: by_sphinx()
