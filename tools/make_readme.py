"""Writes README.md and its pictures from nbs/index.ipynb, without Quarto."""
import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
IMAGES = Path('docs/images')


def readme(notebook: Path) -> dict[Path, bytes]:
    """Contents by path, relative to the repository: README.md and the pictures that it shows."""
    nb = nbformat.read(notebook, as_version=4)
    nb.metadata['language_info'] = {'name': 'python'}  # so that code blocks are coloured
    nb.cells = [cell for cell in nb.cells if not cell.source.lstrip().startswith('#| hide')]
    for cell in nb.cells:  # a picture's text form, such as <Figure size ...>, says nothing to a reader
        for output in cell.get('outputs', []):
            if 'image/jpeg' in output.get('data', {}):
                output.data.pop('text/plain', None)
                output.data.pop('text/html', None)  # a page of code hosts shows no pictures that are inside HTML
    exporter = MarkdownExporter(
        config=Config(
            {'ExtractOutputPreprocessor': {'output_filename_template': 'index_{cell_index}_{index}{extension}'}}
        )
    )
    text, resources = exporter.from_notebook_node(nb)
    pictures = resources['outputs']
    for name in pictures:
        text = text.replace(f'![jpeg]({name})', f'![What the example shows]({IMAGES / name})')
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
