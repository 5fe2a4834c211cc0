"""The wheel without extras, as someone installs it who wants a thumbnail: small, without PyTorch, with the newest of
what it requires.
"""
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from microvid_nb.media.sample_clip import render_sample_clip

ROOT = Path(__file__).resolve().parent.parent
ABSENT = 'torch', 'torchvision', 'timm', 'librosa', 'numba', 'gensim', 'dask', 'pyarrow', 'h5py', 'matplotlib', 'IPython'
LIMIT = 700  # MB that the package and all that it requires may add to an empty environment

pytestmark = pytest.mark.check


def megabytes(folder: Path) -> float:
    return sum(path.lstat().st_size for path in folder.rglob('*')) / 1e6


@pytest.fixture(scope='module')
def base(tmp_path_factory) -> Path:
    """A clean environment with the wheel alone."""
    folder = tmp_path_factory.mktemp('base')
    pip = [sys.executable, '-m', 'pip', '-qq', '--disable-pip-version-check']
    subprocess.run([*pip, 'wheel', '--no-deps', '--wheel-dir', folder, ROOT], check=True)
    venv.create(folder / 'venv', with_pip=True)
    wheel, = folder.glob('microvid_nb-*.whl')
    python, empty = folder / 'venv' / 'bin' / 'python', megabytes(folder / 'venv')
    install = [python, '-m', 'pip', 'install', '-qq', '--disable-pip-version-check', wheel]
    subprocess.run(install, check=True, env=clean_environment())
    (folder / 'added').write_text(str(megabytes(folder / 'venv') - empty))
    return folder / 'venv'


@pytest.fixture(scope='module')
def clip(tmp_path_factory) -> Path:
    return render_sample_clip(tmp_path_factory.mktemp('clip') / 'clip.mp4')


def clean_environment() -> dict[str, str]:
    """Without folders in which other packages would be found."""
    return {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}


def run(base: Path, *command: str, status: int = 0) -> str:
    """What a command of the environment prints, both streams together."""
    done = subprocess.run(
        [base / 'bin' / command[0], *command[1:]],
        cwd=base.parent, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    assert done.returncode == status, done.stdout[-3000:]
    return done.stdout


def test_is_small(base):
    assert float((base.parent / 'added').read_text()) <= LIMIT


def test_holds_nothing_of_the_extras(base):
    code = f'from importlib.util import find_spec; print(*[name for name in {ABSENT!r} if find_spec(name)])'
    assert run(base, 'python', '-c', code).strip() == ''


@pytest.mark.parametrize('command', ['thumbnail', 'gif', 'probe', 'candidates'])
def test_commands_work(base, clip, tmp_path, command):
    out = [] if command == 'probe' else ['--out', str(tmp_path)]
    assert 'clip.mp4' in run(base, 'microvid', command, str(clip), *out)
    assert len(list(tmp_path.iterdir())) >= (command != 'probe')


def test_three_lines_of_the_readme(base, clip):
    code = f"import microvid_nb as mv; print(mv.thumbnail({str(clip)!r}).to_dict()['time'], len(mv.gif({str(clip)!r}).times))"
    time, shots = run(base, 'python', '-W', 'error::UserWarning', '-c', code).split()[-2:]
    assert 0 <= float(time) < 12 and shots == '3'


@pytest.mark.parametrize('command, extra', [('classify', 'models'), ('venue', 'models')])
def test_what_is_missing_is_named_with_its_extra(base, clip, command, extra):
    printed = run(base, 'microvid', command, str(clip), status=2)
    assert f'microvid_nb[{extra}]' in printed and 'Traceback' not in printed
    assert len(printed.strip().splitlines()) == 1


def test_fastcore_is_the_newest(base):
    """The tools of the notebooks hold fastcore below 2, a user's environment does not."""
    assert int(run(base, 'python', '-c', "from importlib.metadata import version; print(version('fastcore'))").split('.')[0]) >= 2
