"""Writes README.md and its pictures from nbs/index.ipynb, without Quarto."""
import base64
import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
IMAGES = Path('docs/images')


def moving_pictures(text: str) -> tuple[str, dict[str, bytes]]:
    """Markdown whose figures are files in a table, since pages of code hosts show no pictures that are inside HTML."""
    pictures = {}

    def table(match):
        cells = re.findall(
            r'alt="([^"]*)" src="data:image/webp;base64,([^"]*)"><figcaption>(.*?)</figcaption>', match[0], re.S
        )
        for k, (_, data, _) in enumerate(cells): pictures[f'index_{k}.webp'] = base64.b64decode(data)
        rows = [cell[2] for cell in cells], [f'![{cell[0]}]({IMAGES}/index_{k}.webp)' for k, cell in enumerate(cells)]
        lines = ['| ' + ' | '.join(row) + ' |' for row in rows]
        return '\n'.join([lines[0], '|---' * len(cells) + '|', lines[1], '', ''])
    return re.sub(r'<div class="hero">.*?</div>', table, text, flags=re.S), pictures


def readme(notebook: Path) -> dict[Path, bytes]:
    """Contents by path, relative to the repository: README.md and the pictures that it shows."""
    nb = nbformat.read(notebook, as_version=4)
    nb.metadata['language_info'] = {'name': 'python'}  # so that code blocks are coloured
    nb.cells = [cell for cell in nb.cells if not cell.source.lstrip().startswith('#| hide')]
    for cell in nb.cells:  # what draws a figure is for readers of the notebook
        if re.search(r'^#\| (code-fold: true|echo: false)$', cell.source, re.M): cell.source = ''
    text, _ = MarkdownExporter().from_notebook_node(nb)
    text, pictures = moving_pictures(re.sub(r'^```python\s*```$', '', text, flags=re.M))
    # links of the site's first page start at nbs/
    text = re.sub(r'\]\((?!https?:)([^)]+\.ipynb)\)', r'](nbs/\1)', text)
    text = re.sub(r'\n(\s*\n)+', '\n\n', text)
    note = '<!-- made from nbs/index.ipynb by `make readme` -->\n'
    return {Path('README.md'): (note + text.strip() + '\n').encode()} | {
        IMAGES / name: data for name, data in pictures.items()
    }


if __name__ == '__main__':
    for path, content in readme(ROOT / 'nbs/index.ipynb').items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_bytes(content)
