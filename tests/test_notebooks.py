"""One case for each notebook: it runs from top to bottom by nbdev's own runner, which honours its flags."""
import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(path for path in ROOT.glob('nbs/**/*.ipynb') if '.ipynb_checkpoints' not in path.parts)


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: str(path.relative_to(ROOT / 'nbs')))
def test_runs(path):
    command = [Path(sys.executable).with_name('nbdev_test'), '--path', path, '--n_workers', '0']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: str(path.relative_to(ROOT / 'nbs')))
def test_is_fit_to_commit(path):
    text = path.read_text(encoding='utf-8')
    notebook = json.loads(text)
    cells = notebook['cells']
    assert notebook['metadata'].keys() == {'kernelspec'} and notebook['metadata']['kernelspec']['name'] == 'python3', (
        'JupyterLab would ask for a kernel'
    )
    code = [cell for cell in cells if cell['cell_type'] == 'code']
    first = ''.join(cells[0]['source'])
    assert first.startswith('# ') and '\n> ' in first, (
        'the first cell is "# Title" and "> what the reader will be able to do"'
    )
    assert len(text) < 300_000, f'{len(text) / 1000:.0f} kB: outputs should be small'
    assert not any(output['output_type'] == 'error' for cell in code for output in cell['outputs']), 'a saved traceback'
    outputs = json.dumps([cell['outputs'] for cell in code])
    assert 'is not saved here; it is made by' not in outputs, (
        'a table is missing: run the page again where results/ has it'
    )
    assert str(Path.home()) not in outputs and str(ROOT) not in outputs and '/tmp/' not in outputs, (
        'outputs name a path of a machine'
    )
    assert all(cell['execution_count'] is None for cell in code), 'run nbdev_clean'
    assert not any('[`' in ''.join(cell['source']) for cell in cells if cell['cell_type'] == 'markdown'), (
        'nbdev makes a link of a name in backticks, also inside a link'
    )


def parsed(cell) -> ast.Module:
    """The code of a cell, without its magics."""
    return ast.parse('\n'.join(line for line in ''.join(cell['source']).split('\n') if not line.startswith(('%', '!'))))


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: str(path.relative_to(ROOT / 'nbs')))
def test_builds_pages_without_running(path):
    """nbdev runs every cell with an import when it builds the pages; so what imports does nothing else, but for the first of a notebook, which may also set up."""
    code = [cell for cell in json.loads(path.read_text(encoding='utf-8'))['cells'] if cell['cell_type'] == 'code']
    source = [''.join(cell['source']) for cell in code]
    own = [
        parsed(cell)
        for cell, text in zip(code, source)
        if not re.search(r'^#\| *(export|default_exp)', text, re.M)
        and 'google.colab' not in text
        and 'matplotlib_inline' not in text
    ]
    importing = [tree for tree in own if any(isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.walk(tree))]
    if path.name == 'index.ipynb':  # it exports nothing, so no cell of it is run
        return
    for tree in importing[1:]:
        assert all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in tree.body), ast.unparse(tree)[:200]
