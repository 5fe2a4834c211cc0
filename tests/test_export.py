"""The package is what the notebooks export, and nothing else."""
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def sources(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text(encoding='utf-8') for path in folder.rglob('*.py')}


def export(root: Path) -> None:
    done = subprocess.run([Path(sys.executable).with_name('nbdev_export')], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_package_is_in_step_with_notebooks(tmp_path):
    for name in ('settings.ini', 'pyproject.toml', 'setup.py', 'README.md'):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / 'nbs', tmp_path / 'nbs', ignore=shutil.ignore_patterns('.ipynb_checkpoints'))
    (tmp_path / 'microvid_nb').mkdir()
    (tmp_path / 'microvid_nb' / '__init__.py').write_text((ROOT / 'microvid_nb' / '__init__.py').read_text())
    export(tmp_path)
    exported, kept = sources(tmp_path / 'microvid_nb'), sources(ROOT / 'microvid_nb')
    assert set(exported) == set(kept), 'modules without a notebook, or the other way round: run nbdev_export'
    for name in exported:
        assert exported[name] == kept[name], f'{name} is out of step with its notebook: run nbdev_export'
    assert (tmp_path / 'pyproject.toml').read_text() == (ROOT / 'pyproject.toml').read_text()
