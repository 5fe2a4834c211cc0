"""One case for each notebook: it runs from top to bottom by nbdev's own runner, which honours its flags."""
import ast
import atexit
import json
import re
import resource
import threading
from pathlib import Path

import pytest
from command import in_fork
from nbdev.test import nbdev_test

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(path for path in ROOT.glob('nbs/**/*.ipynb') if '.ipynb_checkpoints' not in path.parts)


CPU_SECONDS = 600  # other work on the machine does not count
IN_SHORT = 'media/00_video', 'data/01_files', 'data/world/00_drawing', 'features/05_flow', 'thumbnail/12_ranking'
IN_SHORT += 'gif/00_proposals', 'classify/07_results', 'venue/01_similarity', 'papers/00_equations', 'extras'


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT / 'nbs').with_suffix(''))


def run(path: str):
    """A notebook from top to bottom; a runaway one is stopped by its processor time."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 10))
    try:
        nbdev_test(path, n_workers=0)
    finally:  # a fork ends without what an interpreter does in the end
        threading._shutdown()
        atexit._run_exitfuncs()


def case(path: Path):
    """All tutorials and one notebook of each folder belong to `make test`, the rest to `make check`."""
    short = path.parent.name == 'tutorials' or name_of(path) in IN_SHORT
    return pytest.param(path, id=name_of(path), marks=[] if short else pytest.mark.check)


def test_a_notebook_of_each_folder_runs_in_short():
    folders = {path.parent for path in NOTEBOOKS} - {ROOT / 'nbs' / 'tutorials'}
    assert {(ROOT / 'nbs' / f'{name}.ipynb').parent for name in IN_SHORT} == folders
    assert all((ROOT / 'nbs' / f'{name}.ipynb').is_file() for name in IN_SHORT)


@pytest.mark.parametrize('path', [case(path) for path in NOTEBOOKS])
def test_runs(path):
    status, out, errors = in_fork(run, str(path), cwd=ROOT, seconds=3600)
    assert status == 0, (out + errors)[-6000:]


@pytest.mark.parametrize('path', NOTEBOOKS, ids=name_of)
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
    assert 'application/vnd.jupyter.widget-view+json' not in outputs, 'a slider is saved as a line of text'
    assert all(cell['execution_count'] is None for cell in code), 'run nbdev_clean'
    assert not any('[`' in ''.join(cell['source']) for cell in cells if cell['cell_type'] == 'markdown'), (
        'nbdev makes a link of a name in backticks, also inside a link'
    )


def parsed(cell) -> ast.Module:
    """The code of a cell, without its magics."""
    return ast.parse('\n'.join(line for line in ''.join(cell['source']).split('\n') if not line.startswith(('%', '!'))))


@pytest.mark.parametrize('path', NOTEBOOKS, ids=name_of)
def test_builds_pages_without_running(path):
    """nbdev runs every cell with an import when it builds the pages.

    So what imports does nothing else, but for the first of a notebook, which may also set up.
    """
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
