"""The package as a wheel: complete, and of use where the tools of its development are absent."""
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.check

ROOT = Path(__file__).resolve().parent.parent
TOOLS = (
    'nbdev',
    'execnb',
    'ghapi',
    'jupytext',
    'nbclient',
    'pytest',
    'hypothesis',
    'cvxpy',
    'clarabel',
    'sphinx',
    'polars',
    'playwright',
    'open_clip',
)


@pytest.fixture(scope='module')
def installed(tmp_path_factory) -> Path:
    """A folder with what the wheel installs and its requirements.

    Neither the working tree nor a tool of development is in it.
    """
    folder = tmp_path_factory.mktemp('wheel')
    source = folder / 'source'
    shutil.copytree(
        ROOT,
        source,
        ignore=shutil.ignore_patterns('.*', '_docs', '_proc', 'out', 'build', '*.egg-info', '__pycache__', 'nbs'),
    )
    pip = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check']
    subprocess.run([*pip, 'wheel', '--no-deps', '--wheel-dir', folder, source], check=True)
    wheel, = folder.glob('*.whl')
    subprocess.run([*pip, 'install', '--no-deps', '--target', folder / 'installed', wheel], check=True)
    libraries, = (Path(path) for path in sys.path if path.endswith('site-packages'))
    for library in libraries.iterdir():
        if (
            library.name not in TOOLS
            and 'editable' not in library.name
            and not (folder / 'installed' / library.name).exists()
        ):
            (folder / 'installed' / library.name).symlink_to(library)
    return folder / 'installed'


def run(installed: Path, code: str) -> str:
    """What a program prints that sees these libraries alone."""
    code = f'import sys; sys.path.append({str(installed)!r})\nimport importlib.metadata, pkgutil, microvid_nb\n{code}'
    done = subprocess.run(
        [sys.executable, '-I', '-S', '-c', code], cwd=installed.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_every_module_imports(installed):
    code = "names = [found.name for found in pkgutil.walk_packages(microvid_nb.__path__, 'microvid_nb.')]\nfor name in names: importlib.import_module(name)\nprint(len(names))"
    modules = [path for path in (ROOT / 'microvid_nb').rglob('*.py') if path.name != '__init__.py']
    assert int(run(installed, code)) >= len(modules)


def test_checkpoints_come_with_it(installed):
    tasks = run(
        installed,
        "from microvid_nb.card import card_models\nfrom microvid_nb.tasks import shipped_topics\nassert shipped_topics().is_file()\nprint(*sorted(card_models()))",
    )
    assert tasks.split() == ['classify', 'gif', 'thumbnail', 'venue']


def test_command_line(installed):
    said = run(
        installed,
        "from typer.testing import CliRunner\nfrom microvid_nb.cli import app\nprint(CliRunner().invoke(app, ['--help']).output)",
    )
    assert all(
        command in said
        for command in ('thumbnail', 'gif', 'classify', 'venue', 'card', 'features', 'train', 'reproduce')
    )


def test_requirements_are_what_is_imported(installed):
    """Each library that the package imports is declared, so that it is there after an installation, and what is
    declared is used: nobody downloads what nothing needs.

    WordNet and Colab are used where they are; seaborn and JupyterLab are for readers.
    """
    code = """
import ast, pathlib, re
package = pathlib.Path(microvid_nb.__file__).parent
found = set()
for path in package.rglob('*.py'):
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import): found |= {alias.name.split('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level: found.add(node.module.split('.')[0])
from packaging.requirements import Requirement
def names(texts): return {Requirement(text).name.lower().replace('_', '-') for text in texts}
extra = {text: text.partition('extra ==')[2].strip(' "') for text in importlib.metadata.requires('microvid_nb')}
declared = names(text for text in extra if extra[text] != 'dev')
homes = importlib.metadata.packages_distributions()
for name in sorted(found - set(sys.stdlib_module_names) - {'microvid_nb', 'open_clip', 'google', 'nltk'}):
    assert {home.lower().replace('_', '-') for home in homes.get(name, [name])} & declared, f'{name} is imported and not declared'
code = ' '.join(path.read_text(encoding='utf-8') for path in package.rglob('*.py') if path.name != 'extras.py')
words = set(re.split(r'[^\\w-]+', code))
used = words | {home.lower().replace('_', '-') for name in words & homes.keys() for home in homes[name]}
for part in ('', 'models', 'sound', 'text', 'scale'):
    assert (idle := names(text for text in extra if extra[text] == part) - used) == set(), f'nothing uses {idle}'
"""
    run(installed, code)


def test_nothing_but_the_package_is_inside(installed):
    wheel, = installed.parent.glob('*.whl')
    with zipfile.ZipFile(wheel) as file:
        tops = {name.split('/')[0] for name in file.namelist()}
    assert {top for top in tops if not top.endswith('.dist-info')} == {'microvid_nb'}
