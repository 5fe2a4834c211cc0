import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'tools'))
from make_readme import readme  # noqa: E402


def test_readme_is_in_step_with_index_notebook():
    for path, content in readme(ROOT / 'nbs/index.ipynb').items():
        assert (ROOT / path).read_bytes() == content, f'{path} is stale: run make readme'


def test_first_screen_has_commands_example_and_picture():
    lines = (ROOT / 'README.md').read_text(encoding='utf-8').splitlines()
    screen = '\n'.join(lines[:45])
    assert 'make demo' in screen and 'make test' in screen and 'import microvid_nb as mv' in screen and 'mv.thumbnail(' in screen and '![' in screen
    for line in lines:
        for target in (part.split(')')[0] for part in line.split('](')[1:]):
            if '://' not in target:
                assert (ROOT / target).exists(), f'README links to {target}, which is not there'


def test_first_example_is_three_lines():
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    example = text.split('```python\n')[1].split('\n```')[0]
    assert len(example.splitlines()) == 3 and example.startswith('import microvid_nb as mv')
