"""One case for each notebook: it runs from top to bottom by nbdev's own runner, which honours its flags."""
import json
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
    cells = json.loads(text)['cells']
    code = [cell for cell in cells if cell['cell_type'] == 'code']
    first = ''.join(cells[0]['source'])
    assert first.startswith('# ') and '\n> ' in first, 'the first cell is "# Title" and "> what the reader will be able to do"'
    assert len(text) < 300_000, f'{len(text) / 1000:.0f} kB: outputs should be small'
    assert not any(output['output_type'] == 'error' for cell in code for output in cell['outputs']), 'a saved traceback'
    outputs = json.dumps([cell['outputs'] for cell in code])
    assert str(Path.home()) not in outputs and str(ROOT) not in outputs and '/tmp/' not in outputs, 'outputs name a path of a machine'
    assert all(cell['execution_count'] is None for cell in code), 'run nbdev_clean'
