import os
import time
import warnings
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage

import command
import hypothesis
import numpy as np
import pytest

from microvid_nb.media.sample_clip import render_sample_clip

hypothesis.settings.register_profile('any machine', deadline=None)
hypothesis.settings.load_profile('any machine')  # no test depends on speed

ROOT = Path(__file__).resolve().parent.parent
MEDIA = Path(os.environ.get('MICROVID_MEDIA', ROOT.parent / 'shared' / 'media'))


@pytest.fixture(scope='session')
def media() -> Path:
    """The folder of real clips; tests that need it are skipped where it is absent."""
    if not MEDIA.is_dir():
        pytest.skip('no real clips here: name their folder in MICROVID_MEDIA')
    return MEDIA


@pytest.fixture(scope='session')
def sample(tmp_path_factory) -> Path:
    """The sample clip: 12 s, 640 x 360, with sound."""
    return render_sample_clip(tmp_path_factory.mktemp('sample') / 'sample.mp4')


@pytest.fixture
def pictures() -> np.ndarray:
    """Forty frames of a square that moves over a gradient, uint8 [40, 96, 128, 3]."""
    y, x = np.mgrid[:96, :128]
    images = np.repeat(np.stack([2 * x % 256, 2 * y % 256, (x + y) % 256], -1)[None].astype(np.uint8), 40, 0)
    for i, image in enumerate(images):
        image[30:60, 2 * i:2 * i + 30] = (250, 240, 60)
    return images


@pytest.fixture(autouse=True)
def strict_warnings():
    """A warning from this package that a test does not expect is a failure."""
    from microvid_nb.media.video import MediaWarning
    with warnings.catch_warnings():
        warnings.simplefilter('error', MediaWarning)
        yield


def pytest_configure(config):
    """Names the marker of the long tests, and compiles librosa once.

    librosa compiles at its first import, and two processes at once spoil each other's cache, so that later calls crash.
    """
    config.addinivalue_line('markers', 'check: takes long, so it is part of `make check` and not of `make test`')
    if not hasattr(config, 'workerinput'):
        import librosa.core.pitch  # noqa: F401


def cpu_seconds() -> float:
    """Processor time of this process, of the children that it waited for and of commands."""
    return command.spent + sum(use.ru_utime + use.ru_stime for use in map(getrusage, (RUSAGE_SELF, RUSAGE_CHILDREN)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Long tests are left out, and say so, when the time that a run may take is used up (MICROVID_UNTIL, seconds since
    1970): a machine that is four times slower than usual then still tells about all others.
    """
    until = float(os.environ.get('MICROVID_UNTIL', 'inf'))
    if item.get_closest_marker('check') and time.time() > until:
        pytest.skip('the time that this run may take is used up')


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Notes the processor time of each test, which other work on the machine hardly changes."""
    started = cpu_seconds()
    item.user_properties.append(('cpu', lambda: cpu_seconds() - started))
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Turns the note into a number when the test is over."""
    report = yield
    report.user_properties = [(name, value() if callable(value) else value) for name, value in report.user_properties]
    return report


def pytest_terminal_summary(terminalreporter):
    """Prints what took the most processor time."""
    used = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, 'when', '') == 'teardown':
                used[report.nodeid] = dict(report.user_properties).get('cpu', 0.0)
    slowest = sorted(used.items(), key=lambda each: -each[1])[:15]
    terminalreporter.section(f'processor time: {sum(used.values()):.0f} s in all')
    for name, seconds in slowest:
        if seconds >= 1:
            terminalreporter.write_line(f'{seconds:7.1f} s  {name}')


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With several processes a file's tests stay in one, which makes its fixtures once.

    Notebooks go wherever there is room.
    """
    from xdist.scheduler import LoadScopeScheduling
    if config.getvalue('dist') != 'loadscope':
        return None

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.split('::')[0]
            return nodeid if file.endswith('test_notebooks.py') else file
    return ByFile(config, log)
