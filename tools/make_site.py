"""Builds the site into _docs/: by Quarto where it is installed, else by Sphinx from the same processed notebooks.

No notebook is run; nbdev executes imports and exported cells to write signatures, and pages show the outputs that
were saved.
"""
import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import nbformat
import yaml
from nbformat.v4 import new_markdown_cell

ROOT = Path(__file__).resolve().parent.parent
PROCESSED, PAGES, SITE = ROOT / '_proc', ROOT / '_proc' / '_pages', ROOT / '_docs'
HOST = 'https://microvid-nb.github.io/microvid_nb/'  # what nbdev puts before links to documented names
IMAGES = ('image/svg+xml', 'image/png', 'image/jpeg')


def title_of(nb) -> tuple[str, str]:
    """The title of a processed notebook and the line below it, which nbdev moved to a raw cell."""
    about = yaml.safe_load(nb.cells[0].source.strip().strip('-'))
    return str(about['title']), str(about.get('description', ''))


def anchor(text: str) -> str:
    """A heading's anchor as MyST makes it."""
    return re.sub(r'[^\w\- ]', '', text.strip().lower()).replace(' ', '-')


def documented_names(nb) -> set[str]:
    """The names that a processed notebook documents, in lower case as nbdev's links have them."""
    texts = (
        output.data['text/markdown']
        for cell in nb.cells
        for output in cell.get('outputs', [])
        if 'text/markdown' in output.get('data', {})
    )
    return {name.lower() for text in texts for name in re.findall(r'^#+ (\S+)$', text, re.M)}


def relink(text: str, page: str, places: dict[str, tuple[str, set[str]]]) -> str:
    """Markdown whose links to documented names, and to headings, lead to pages of this site.

    A method without an entry of its own is found at its class.
    """
    def documented(match):
        place, _, name = match[1].partition('#')
        if place not in places: raise ValueError(f'{page} links to {match[0]}, which is no page')
        target, names = places[place]
        found = next((each for each in (name, name.split('.')[0]) if each in names), '')
        return os.path.relpath(target, Path(page).parent) + (f'#{anchor(found)}' if found else '')

    def heading(match): return f']({match[1]}#{anchor(unquote(match[2]).replace("-", " "))})'
    text = re.sub(re.escape(HOST) + r'([\w./\-#]+)', documented, text)
    return re.sub(r'\]\(((?!https?:)[^)\s#]*)#([^)\s]+)\)', heading, text)


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
    lines = source.splitlines()[fields[0].lineno - 1:fields[-1].end_lineno]
    return markdown.replace(empty[0], '\n'.join([f'class {empty[1]}(NamedTuple):', *lines]))


def documented_name(markdown: str) -> str:
    """What nbdev says of a name, without what only Quarto understands; the link to its source stands last."""
    markdown = with_fields(re.sub(r'^---\s*\n', '', markdown))
    # links into comments
    markdown = re.sub(
        r'```python.*?```', lambda code: re.sub(r'\[(`[^`\]]*`)\]\([^)]*\)', r'\1', code[0]), markdown, flags=re.S
    )
    source = re.search(r'(\[source\]\([^)]*\))\{[^}]*\}', markdown)
    return markdown if source is None else f'{markdown.replace(source[0], "").strip()}\n\n{source[1]}'


def shown(cell, page: str, places: dict):
    """A cell as Sphinx shows it, or None where nothing is left of it."""
    if cell.cell_type == 'markdown':
        cell.source = relink(re.sub(r'<!-- WARNING.*?-->\n?', '', cell.source), page, places)
        return cell if cell.source.strip() else None
    if '#| echo: false' in cell.source:
        text = '\n\n'.join(
            output.data['text/markdown'] for output in cell.outputs if 'text/markdown' in output.get('data', {})
        )
        return new_markdown_cell(relink(documented_name(text), page, places)) if text else None
    cell.source = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M).strip('\n')
    cell.metadata = {}
    for output in cell.outputs:
        if set(IMAGES) & set(output.get('data', {})):
            output.data.pop('text/plain', None)
    for output in cell.outputs:
        if 'text/markdown' in output.get('data', {}):  # Sphinx takes its links as they are
            text = relink(output.data['text/markdown'], page, places)
            output.data['text/markdown'] = re.sub(r'(\]\((?!https?:)[^)]*)\.ipynb', r'\1.html', text)
    cell.outputs = [output for output in cell.outputs if output.get('data', True)]
    return cell if cell.source or cell.outputs else None


def write_page(path: Path, places: dict) -> tuple[str, str]:
    """Writes the page of a processed notebook; returns its title and description."""
    nb, page = nbformat.read(path, as_version=4), str(path.relative_to(PROCESSED))
    title, about = title_of(nb)
    cells = [shown(cell, page, places) for cell in nb.cells if cell.cell_type != 'raw']
    nb.cells = [new_markdown_cell(f'# {title}\n\n*{about}*' if about else f'# {title}')] + [
        cell for cell in cells if cell is not None
    ]
    nb.metadata = {
        'kernelspec': {'name': 'python3', 'display_name': 'Python 3', 'language': 'python'},
        'language_info': {'name': 'python'},
    }
    (PAGES / page).parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, PAGES / page)
    return title, about


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
    (PAGES / f'{name}.md').write_text(
        '\n'.join([f'# {item["section"]}', '', *rows, '', tree(inside)]) + '\n', encoding='utf-8'
    )
    return '', f'/{name}'


def write_contents(titles: dict):
    """Puts the navigation of the sidebar, the one that Quarto uses, on the first page."""
    sidebar = yaml.safe_load((ROOT / '_quarto.yml').read_text(encoding='utf-8'))['website']['sidebar']['contents']
    nb = nbformat.read(PAGES / 'index.ipynb', as_version=4)
    sections = [
        tree(
            [
                entry_of(each, titles)
                for each in item['contents']
                if each != {'text': 'What this is', 'href': 'index.ipynb'}
            ],
            item['section'],
        )
        for item in sidebar
    ]
    nb.cells.append(new_markdown_cell('\n\n'.join(sections)))
    nbformat.write(nb, PAGES / 'index.ipynb')


def by_sphinx():
    """Processed notebooks -> pages that Sphinx understands -> _docs/."""
    # not by the command nbdev_proc_nbs: without Quarto it would install the package into the Python of the path
    process = 'from nbdev.serve import proc_nbs; proc_nbs()'
    subprocess.run([sys.executable, '-c', process], cwd=ROOT, check=True, env=os.environ | {'PYTHONWARNINGS': 'ignore'})
    shutil.rmtree(PAGES, ignore_errors=True)
    built = PROCESSED / '_built'  # MyST-NB leaves a folder beside the pages
    shutil.rmtree(built, ignore_errors=True)
    found = sorted(path for path in PROCESSED.rglob('*.ipynb'))
    names = {path: str(path.relative_to(PROCESSED)) for path in found}
    places = {
        re.sub(r'(^|/)\d+[a-z]*_', r'\1', name).replace('.ipynb', '.html'): (
            name,
            documented_names(nbformat.read(path, as_version=4)),
        )
        for path, name in names.items()
    }
    titles = {names[path].removesuffix('.ipynb'): write_page(path, places) for path in found}
    write_contents(titles)
    shutil.rmtree(SITE, ignore_errors=True)
    subprocess.run(
        [sys.executable, '-m', 'sphinx', '-q', '-b', 'html', '-c', ROOT / 'docs', PAGES, built / 'html'],
        cwd=ROOT,
        check=True,
    )
    (built / 'html').rename(SITE)
    print(f'site: {SITE / "index.html"}')


if __name__ == '__main__':
    if shutil.which('quarto'): subprocess.run([Path(sys.executable).with_name('nbdev_docs')], cwd=ROOT, check=True)
    else: by_sphinx()
