"""The benchmarks' tables: made from what pytest-benchmark writes, in step with the README, and a measurement at a small
size.
"""
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / 'benchmarks'
sys.path.insert(0, str(FOLDER))
import table  # noqa: E402

sys.path.remove(str(FOLDER))


def test_readme_is_in_step_with_the_figures():
    written = (FOLDER / 'README.md').read_text(encoding='utf-8').partition(table.BEGIN)[2].partition(table.END)[0]
    assert written == table.tables(), 'run .venv/bin/python benchmarks/table.py'


def run(side, median, spread=.1, problems=1, **aim):
    stats = {'q1': median * (1 - spread), 'median': median, 'q3': median * (1 + spread), 'rounds': 5}
    return {
        'stats': stats,
        'extra_info': {'work': 'some work', 'peer': 'a peer', 'side': side, 'problems': problems, **aim},
    }


def test_ratios_and_their_spread():
    gain, = table.compared([run('peer', 30., at_least=100), run('ours', 2., problems=10, at_least=100)])
    assert gain['kind'] == 'gain' and gain['aim'] == 100
    assert gain['ratio'] == pytest.approx([27 / .22, 150, 33 / .18])
    cost, = table.compared([run('peer', 2., at_most=2.5), run('ours', 6., at_most=2.5)])
    assert cost['kind'] == 'cost' and cost['ratio'] == pytest.approx([5.4 / 2.2, 3, 6.6 / 1.8])
    assert table.compared([run('peer', 2., at_most=2.5)]) == []  # the other side failed
    said = table.speed_table({'speed': [gain, cost]}).splitlines()[2:]
    assert said[0].endswith('| 150 (123 to 183) times faster | ≥ 100 | yes |') and said[1].endswith(
        '| 3 (2.45 to 3.67) of its time | ≤ 2.5 | **no** |'
    )


@pytest.mark.check
@pytest.mark.skipif(not Path('/proc/self/clear_refs').exists(), reason='peak memory is read from /proc')
@pytest.mark.parametrize('case', ['dare', 'amuse', 'completion'])
def test_a_small_measurement(case):
    done = subprocess.run(
        [sys.executable, FOLDER / 'scale.py', '--measure', case, '64'], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert (
        found['seconds'] > 0 and found['whole_megabytes'] > found['data_megabytes'] > 0 and found['own_megabytes'] > 100
    )


@pytest.mark.check
@pytest.mark.skipif(not Path('/proc/self/clear_refs').exists(), reason='peak memory is read from /proc')
def test_peak_sees_what_was_taken_and_given_back():
    code = 'import time, numpy as np; from machine import Peak\nwith Peak() as peak:\n    block = np.ones(2**25); time.sleep(.5); del block\nprint(peak.own - peak.before)'
    done = subprocess.run([sys.executable, '-c', code], cwd=FOLDER, capture_output=True, text=True, timeout=120)
    assert 250 < float(done.stdout) < 300, done.stderr  # a quarter of a gigabyte
