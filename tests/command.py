"""The command `microvid` in a process of its own, quickly: a server imports once and forks for each call."""
import os
import resource
import subprocess
import sys
import tempfile
from multiprocessing import get_context
from pathlib import Path

SERVER = get_context('forkserver')
SERVER.set_forkserver_preload(['microvid_nb.cli', 'microvid_nb.media.survey', 'cv2', 'sklearn.cluster', 'torch'])
spent = 0.  # seconds of processor time of all calls, which the system does not count as those of children


def called(arguments: list, folder: str, cwd: str, environment: dict, encoding: str):
    """The child's part: output into files, then what the script of the package does."""
    for number, name in ((1, 'out'), (2, 'err')):
        os.dup2(os.open(f'{folder}/{name}', os.O_WRONLY | os.O_CREAT), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    name, _, errors = encoding.partition(':')
    sys.stdout.reconfigure(encoding=name, errors=errors)
    sys.stderr.reconfigure(encoding=name)  # whatever cannot be encoded is escaped there, as Python always does
    sys.argv = ['microvid', *arguments]
    from microvid_nb.cli import app
    try:
        app()
    finally:
        used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        Path(folder, 'cpu').write_text(str(sum(use.ru_utime + use.ru_stime for use in used)))


def microvid(*arguments, cwd=None, encoding='utf-8:strict', **options) -> tuple[int, str, str]:
    """Exit status, output and errors of a call, whose streams have an encoding in the form of PYTHONIOENCODING.

    With options of `subprocess.run` the installed script is started in a process of its own from the first import on.
    """
    global spent
    arguments = [os.fsdecode(each) if isinstance(each, bytes) else str(each) for each in arguments]
    if options:
        command = [Path(sys.executable).with_name('microvid'), *arguments]
        done = subprocess.run(command, capture_output=True, timeout=170, cwd=cwd, **options)
        status, (out, err) = done.returncode, (each.decode('utf-8') for each in (done.stdout, done.stderr))
    else:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            details = arguments, name, str(cwd or Path.cwd()), dict(os.environ), encoding
            process = SERVER.Process(target=called, args=details)
            process.start()
            process.join(170)
            assert process.exitcode is not None, process.kill()
            status = process.exitcode
            out, err = ((folder / each).read_text(encoding='utf-8') for each in ('out', 'err'))
            spent += float((folder / 'cpu').read_text())
    assert 'Traceback' not in out + err, err
    return status, out, err
