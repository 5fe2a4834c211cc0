"""The tutorials as a stranger runs them: a clean environment of each Python that is here, with only what their first
cell installs. It takes a quarter of an hour for each Python: `make fresh`.
"""
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = sorted(ROOT.glob('nbs/tutorials/*.ipynb'))
VERSIONS = '3.10', '3.11', '3.12', '3.13'
RUNNER = """
import json, os, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for cell in json.load(open(sys.argv[1], encoding='utf-8'))['cells']:
    if cell['cell_type'] == 'code': shell.run_cell(''.join(cell['source'])).raise_error()
"""

pytestmark = pytest.mark.skipif(
    'MICROVID_FRESH' not in os.environ, reason='installs everything anew for each Python: make fresh'
)


def interpreter(version: str) -> Path | None:
    """A Python of that version, on the path or kept by pyenv."""
    kept = Path(os.environ.get('PYENV_ROOT', Path.home() / '.pyenv')) / 'versions'
    for path in [shutil.which(f'python{version}'), *sorted(kept.glob(f'{version}.*/bin/python'))]:
        if path and subprocess.run([path, '--version'], capture_output=True).returncode == 0:
            return Path(path)
    return None


@pytest.fixture(scope='module', params=VERSIONS)
def environment(request, tmp_path_factory):
    """The interpreter of a clean environment after the install cell."""
    python = interpreter(request.param)
    if python is None:
        pytest.skip(f'no Python {request.param} here')
    folder = tmp_path_factory.mktemp(f'python{request.param}')
    subprocess.run([python, '-m', 'venv', folder], check=True)
    subprocess.run([folder / 'bin/python', '-m', 'pip', 'install', '-q', f'microvid_nb[all] @ git+file://{ROOT}'], check=True)
    yield folder / 'bin/python'
    shutil.rmtree(folder)


@pytest.mark.parametrize('tutorial', TUTORIALS, ids=lambda path: path.stem)
def test_tutorial(environment, tutorial, tmp_path):
    installs = ''.join(
        next(
            cell['source']
            for cell in json.loads(tutorial.read_text(encoding='utf-8'))['cells']
            if cell['cell_type'] == 'code'
        )
    )
    assert "'git': 'microvid_nb[all] @ git+https://" in installs, 'the first cell installs'
    done = subprocess.run(
        [environment, '-c', RUNNER, tutorial],
        cwd=tmp_path,
        env={**os.environ, 'MPLBACKEND': 'agg'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
