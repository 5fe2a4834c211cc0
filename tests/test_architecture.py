"""Each module imports only from floors below its own, and the tasks never import one another."""
import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / 'microvid_nb'
TASKS = {'thumbnail', 'gif', 'classify', 'venue'}
FLOORS = [  # from the ground up
    {'extras'}, {'media'}, {'data'}, {'training'}, {'features'}, {'experiments'}, TASKS, {'tasks'}, {'claims'},
    {'reproduce', 'batch', 'papers', 'preview', 'own_clips'}, {'answers'}, {'card', 'real_data', 'rated_gifs'}, {'cli'},
]
MODULES = sorted(path for path in PACKAGE.rglob('*.py') if path.stem not in ('__init__', '_modidx'))


def room(name: str) -> str:
    """The part of a dotted module name that decides its floor."""
    return name.split('.')[1]


def floor(name: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if room(name) in rooms)


def imported(path: Path) -> set[str]:
    """Names of this package's modules that a module imports, wherever it does so."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            # nbdev exports imports of the package as relative ones
            base = named(path).split('.')[:-node.level] if node.level else []
            module = '.'.join([*base, *filter(None, [node.module])])
            found |= {module} if module != 'microvid_nb' else {f'microvid_nb.{alias.name}' for alias in node.names}
    return {name for name in found if name.split('.')[0] == 'microvid_nb'}


def named(path: Path) -> str:
    return 'microvid_nb.' + '.'.join(path.relative_to(PACKAGE).with_suffix('').parts)


@pytest.mark.parametrize('path', MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_from_below(path):
    own = named(path)
    for other in imported(path):
        if room(other) == room(own):
            continue
        assert floor(other) < floor(own), f'{own} must not import {other}'


def test_rooms_have_no_circles():
    """No module imports itself through others."""
    graph = {named(path): imported(path) for path in MODULES}
    done: set[str] = set()

    def visit(name, trail):
        assert name not in trail, f'a circle: {" -> ".join([*trail, name])}'
        if name not in done:
            for other in graph.get(name, ()):
                visit(other, (*trail, name))
            done.add(name)
    for name in graph:
        visit(name, ())


@pytest.mark.parametrize('module, absent', [
    ('microvid_nb.media.video', 'torch gensim librosa sklearn pandas matplotlib'),
    ('microvid_nb.thumbnail.select', 'torch gensim librosa matplotlib microvid_nb.gif'),
    ('microvid_nb.gif.select', 'torch gensim librosa matplotlib microvid_nb.thumbnail'),
    ('microvid_nb.cli', 'torch gensim librosa matplotlib av cv2 pandas'),
])
def test_importing_one_task_imports_only_what_it_needs(module, absent):
    code = f'import sys, {module}; print(*(set({absent.split()!r}) & set(sys.modules)))'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
