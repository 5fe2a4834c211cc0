"""Writes constraints.txt, the set of packages to install and try together, from settings.ini; needs uv."""
import configparser
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = """\
# The set that was installed and tried together: a line for each Python generation where they differ.
# Refresh with `python tools/pin.py`, which needs uv.
"""
COMMAND = 'uv pip compile --universal --upgrade --python-version 3.10 --no-header --no-annotate --quiet -'.split()

if __name__ == '__main__':
    settings = configparser.ConfigParser(delimiters=['='])
    settings.read(ROOT / 'settings.ini', encoding='utf-8')
    own = settings['DEFAULT']
    wanted = '\n'.join(own[key] for key in own if key.endswith('requirements'))
    pinned = subprocess.run(COMMAND, input=wanted, capture_output=True, text=True, check=True).stdout
    (ROOT / 'constraints.txt').write_text(HEADER + pinned, encoding='utf-8')
