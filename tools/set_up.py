"""Makes the environment of this checkout, .venv, and shows how far it is: `python tools/set_up.py`."""
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / '.venv'
WHOLE = 8.2  # GB, measured on Linux; most of it is PyTorch's default build


def gigabytes(folder: Path) -> float:
    """What the files of a folder take."""
    total = 0
    for path in folder.rglob('*'):
        try:
            total += path.lstat().st_size
        except OSError:  # moved while it was looked at
            continue
    return total / 1e9


def show(text: str) -> None:
    """A line that the next one replaces where a person watches; else one line after another."""
    print(f'\r{text}\033[K' if sys.stderr.isatty() else text, end='' if sys.stderr.isatty() else '\n', file=sys.stderr)


def main() -> int:
    """Installs with pip, quietly; pip's own words are shown only where it fails."""
    print(f"Sets up .venv once: all that the notebooks need, {WHOLE:.0f} GB, a few minutes.", file=sys.stderr)
    venv.create(VENV, with_pip=True)
    pip = [VENV / 'bin' / 'python', '-m', 'pip', 'install', '-qq', '--disable-pip-version-check']
    command = [*pip, '-c', 'constraints.txt', '-e', '.[dev]']
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    started, pause = time.monotonic(), 2 if sys.stderr.isatty() else 30
    while True:
        try:
            output, _ = process.communicate(timeout=pause)
            break
        except subprocess.TimeoutExpired:
            show(f'  {time.monotonic() - started:4.0f} s  {gigabytes(VENV):.1f} of about {WHOLE:.1f} GB')
    if process.returncode:
        print(f'\n{output}\nerror: the environment could not be installed', file=sys.stderr)
    else:
        show(f'  {time.monotonic() - started:4.0f} s  {gigabytes(VENV):.1f} GB: ready')
        print(file=sys.stderr)
    return process.returncode


if __name__ == '__main__':
    sys.exit(main())
