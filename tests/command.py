"""Python and the command `microvid` in processes of their own, quickly: a server imports once and forks for each."""
import os
import resource
import subprocess
import sys
import tempfile
from multiprocessing import get_context
from pathlib import Path

SERVER = get_context('forkserver')
SERVER.set_forkserver_preload([
    'microvid_nb.cli', 'microvid_nb.media.survey', 'cv2', 'sklearn.cluster', 'sklearn.linear_model', 'torch',
    'torchvision', 'pandas', 'gensim.models', 'nbdev.test',
])
spent = 0.  # seconds of processor time of all calls, which the system does not count as those of children


def child(target, arguments: tuple, folder: str, cwd: str, environment: dict, encoding: str):
    """The child's part: output into files, then the call."""
    for number, name in ((1, 'out'), (2, 'err')):
        os.dup2(os.open(f'{folder}/{name}', os.O_WRONLY | os.O_CREAT), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    name, _, errors = encoding.partition(':')
    sys.stdout.reconfigure(encoding=name, errors=errors)
    sys.stderr.reconfigure(encoding=name)  # whatever cannot be encoded is escaped there, as Python always does
    try:
        target(*arguments)
    finally:
        used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        Path(folder, 'cpu').write_text(str(sum(use.ru_utime + use.ru_stime for use in used)))


def in_fork(target, *arguments, cwd=None, encoding='utf-8:strict', seconds=170) -> tuple[int, str, str]:
    """Exit status, output and errors of a function that is called in a fork of the server."""
    global spent
    with tempfile.TemporaryDirectory() as name:
        details = target, arguments, name, str(cwd or Path.cwd()), dict(os.environ), encoding
        process = SERVER.Process(target=child, args=details)
        process.start()
        process.join(seconds)
        assert process.exitcode is not None, process.kill()
        out, err = (Path(name, each).read_text(encoding='utf-8') for each in ('out', 'err'))
        if (used := Path(name, 'cpu')).exists():  # not where the system stopped the child
            spent += float(used.read_text())
    return process.exitcode, out, err


def call_app(*arguments):
    """What the script of the package does."""
    sys.argv = ['microvid', *arguments]
    from microvid_nb.cli import app
    app()


def microvid(*arguments, cwd=None, encoding='utf-8:strict', **options) -> tuple[int, str, str]:
    """Exit status, output and errors of a call, whose streams have an encoding in the form of PYTHONIOENCODING.

    With options of `subprocess.run` the installed script is started in a process of its own from the first import on.
    """
    arguments = [os.fsdecode(each) if isinstance(each, bytes) else str(each) for each in arguments]
    if options:
        command = [Path(sys.executable).with_name('microvid'), *arguments]
        done = subprocess.run(command, capture_output=True, timeout=170, cwd=cwd, **options)
        status, (out, err) = done.returncode, (each.decode('utf-8') for each in (done.stdout, done.stderr))
    else:
        status, out, err = in_fork(call_app, *arguments, cwd=cwd, encoding=encoding)
    assert 'Traceback' not in out + err, err
    return status, out, err
