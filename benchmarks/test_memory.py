"""Peak memory of a whole process that makes thumbnail and GIF, for two and for ten minutes of 720p."""
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import repeat_clip

# VmHWM and not ru_maxrss, which a process inherits from the one that started it
CODE = r'''
import re, sys
from microvid_nb.preview import make_preview
make_preview(sys.argv[1], sys.argv[2] + '/a.jpg', sys.argv[2] + '/a.gif')
print(int(re.search(r'VmHWM:\s+(\d+)', open('/proc/self/status').read())[1]) / 1024)
'''


def peak(path, folder) -> float:
    done = subprocess.run([sys.executable, '-c', CODE, path, folder], capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.fixture(scope='module')
def peaks(clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp('long')
    return {
        minutes: peak(repeat_clip(folder / f'{minutes}.mp4', clips['drawn 1280 x 720'], 5 * minutes), folder)
        for minutes in (2, 10)
    }


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='peak memory is read from /proc')
@pytest.mark.parametrize('minutes', [2, 10])
def test_peak_memory(benchmark, peaks, minutes):
    benchmark.extra_info.update(
        memory=f'thumbnail + GIF, {minutes} min of 1280 x 720, the process',
        megabytes=peaks[minutes],
        limit=400,
        series='thumbnail + GIF',
        n=minutes,
        unit='minutes',
    )
    benchmark.pedantic(lambda: None)
    assert peaks[minutes] < 400
    assert peaks[10] < 1.1 * peaks[2]
