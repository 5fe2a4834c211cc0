"""Rules that keep the house small and its words plain: few public names, each once, one definition a cell, lines that
fit.
"""
import ast
import io
import json
import re
import tokenize
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(path for path in ROOT.glob('microvid_nb/**/*.py') if path.stem not in ('__init__', '_modidx'))
NOTEBOOKS = sorted(path for path in ROOT.glob('nbs/**/*.ipynb') if '.ipynb_checkpoints' not in path.parts)
# names of all modules; characters of a line, and of one that pages show; lines of a cell, and of a twin
PUBLIC_NAMES, LINE, SHOWN, CELL, TWIN = 250, 120, 100, 60, 6
COY = set('at said there own sure why fewer settle ask made surprise wall walls touch let_go looks'.split())
EXPORTED = re.compile(r'^#\| *exports?i? *$', re.M)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT).with_suffix(''))


def public(path: Path) -> list[str]:
    for node in ast.parse(path.read_text(encoding='utf-8')).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == '__all__':
            return ast.literal_eval(node.value)
    return []


def exported_cells(path: Path) -> list[str]:
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    sources = [''.join(cell['source']) for cell in cells if cell['cell_type'] == 'code']
    return [source for source in sources if EXPORTED.search(source)]


def test_public_names_are_few():
    count = {name_of(path): len(public(path)) for path in MODULES}
    assert sum(count.values()) < PUBLIC_NAMES, Counter(count).most_common(12)


def test_no_name_is_public_twice():
    count = Counter(name for path in MODULES for name in public(path))
    assert not [name for name, times in count.items() if times > 1]


def test_constants_are_private():
    """What a module assigns is no public name; classes such as AMUSE are."""
    found = []
    for path in MODULES:
        assigned = [node for node in ast.parse(path.read_text(encoding='utf-8')).body if isinstance(node, ast.Assign)]
        names = {ast.unparse(target) for node in assigned for target in node.targets}
        found += [f'{name_of(path)}.{name}' for name in public(path) if name in names]
    assert not found


@pytest.mark.parametrize('path', MODULES, ids=name_of)
def test_functions_and_fields_have_plain_names(path):
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found += [node.name]
        if isinstance(node, ast.FunctionDef):
            found += [each.arg for each in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]]
        if isinstance(node, ast.ClassDef):
            found += [ast.unparse(each.target) for each in node.body if isinstance(each, ast.AnnAssign)]
    assert not sorted(COY & set(found))


def shown_lines(path: Path) -> list[str]:
    """The lines of code that a page shows, without directives."""
    cells = [''.join(cell['source']) for cell in json.loads(path.read_text(encoding='utf-8'))['cells']
             if cell['cell_type'] == 'code']
    seen = [source for source in cells if not re.search(r'^#\| *(hide|exporti|export) *$', source, re.M)]
    return [line for source in seen for line in source.split('\n') if not line.startswith('#|')]


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: str(path.relative_to(ROOT / 'nbs')))
def test_shown_code_fits_the_column(path):
    assert not [line for line in shown_lines(path) if len(line) > SHOWN]


def unbreakable(source: str) -> set[int]:
    """The lines of a table that is one string, or of a long word such as a hash."""
    found = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        (first, _), (last, _) = token.start, token.end
        if token.type == tokenize.STRING and (first < last or ' ' not in token.string and len(token.string) > 50):
            found |= set(range(first, last + 1))
    for node in ast.walk(ast.parse(source)):  # docstrings can be broken
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node) is not None:
            found -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return found


@pytest.mark.parametrize('path', NOTEBOOKS, ids=name_of)
def test_exported_code_fits_the_column(path):
    wide = [line for source in exported_cells(path) for number, line in enumerate(source.splitlines(), 1)
            if len(line) > SHOWN and number not in unbreakable(source)]
    assert not wide, wide[:5]


@pytest.mark.parametrize('path', NOTEBOOKS, ids=name_of)
def test_cells_hold_one_definition_of_readable_length(path):
    """Twins, two or three short definitions that are read together, may share a cell."""
    for source in exported_cells(path):
        kinds = ast.FunctionDef, ast.ClassDef
        sizes = [node.end_lineno - node.lineno + 1 for node in ast.parse(source).body if isinstance(node, kinds)]
        twins = len(sizes) <= 3 and max(sizes, default=0) <= TWIN
        assert len(sizes) <= 1 or twins, f'{len(sizes)} definitions of {sizes} lines in one cell:\n{source[:300]}'
        assert len(source.splitlines()) <= CELL, f'{len(source.splitlines())} lines:\n{source[:300]}'


@pytest.mark.parametrize('path', NOTEBOOKS, ids=name_of)
def test_code_fits_its_column(path):
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    lines = [line for cell in cells if cell['cell_type'] == 'code' for line in ''.join(cell['source']).splitlines()]
    assert not [line for line in lines if len(line) > LINE]


@pytest.mark.parametrize('folder', ['tools', 'docs'])
def test_programs_fit_their_column(folder):
    wide = [(path.name, number) for path in sorted((ROOT / folder).rglob('*.py'))
            for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1) if len(line) > LINE]
    assert not wide


def test_the_path_calls_pages_by_their_names():
    folder = ROOT / 'nbs' / 'tutorials'
    cells = json.loads((folder / '11_path.ipynb').read_text(encoding='utf-8'))['cells']
    text = '\n\n'.join(''.join(cell['source']) for cell in cells)
    steps = re.findall(r'^## \d+\. (.*)\n\n\[(.*)\]\((.*)\)', text, re.M)
    assert len(steps) == 12
    for heading, name, link in steps:
        title = ''.join(json.loads((folder / link).read_text(encoding='utf-8'))['cells'][0]['source']).split('\n')[0]
        assert heading == name and title.startswith(f'# {name}'), (heading, name, title)
