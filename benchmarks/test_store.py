"""The feature store: two workers against one on the same drawn clips, and the memory of a run as the number of videos
grows.
"""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import draw_clip

from microvid_nb.features.extractors import VisualFeatures
from microvid_nb.features.store import extract_features, local_client, read_features

# DARE's AlexNet at full size, a picture a second; the time is the same with published weights
VISUAL = VisualFeatures('alexnet', 'random')
CLIPS = 16  # of twelve seconds
VIDEOS = 4_000, 8_000, 16_000  # for the memory

# VmHWM and not ru_maxrss, which a process inherits from the one that started it
MANY = r'''
import re, sys
from pathlib import Path
import numpy as np
from microvid_nb.features.extractors import Extractor
from microvid_nb.features.store import connect, extract_features

class Wide(Extractor):
    "As many numbers as AlexNet gives, at no cost."
    name, feature_dim = 'wide', 4096
    def __call__(self, path): return np.random.default_rng(int(Path(path).stem)).normal(size=4096).astype(np.float32)

if __name__ == '__main__':
    folder, out, workers = sys.argv[1:]
    with connect(int(workers)) as client:
        outcomes = extract_features(sorted(Path(folder).iterdir()), out, Wide(), client, progress=False)
    assert set(outcomes.outcome) == {'done'}
    print(int(re.search(r'VmHWM:\s+(\d+)', open('/proc/self/status').read())[1]) / 1024)
'''


@pytest.fixture(scope='module')
def copies(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp('store')
    first = draw_clip(folder / '00.mp4', 340, 256)
    return [first, *(Path(shutil.copy(first, folder / f'{i:02d}.mp4')) for i in range(1, CLIPS))]


@pytest.fixture(scope='module', params=[1, 2], ids=['one worker', 'two workers'])
def workers(request, copies, tmp_path_factory):
    with local_client(request.param) as client:
        # the network is made
        extract_features(copies[:4], tmp_path_factory.mktemp('warm'), VISUAL, client, progress=False)
        yield request.param, client


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason='two workers need two cores')
def test_two_workers(benchmark, workers, copies, tmp_path):
    count, client = workers
    benchmark.extra_info.update(
        work=f'feature extraction, {CLIPS} clips of 12 s, AlexNet',
        peer='one worker',
        side='peer' if count == 1 else 'ours',
        at_least=1.7,
    )
    rounds = iter(range(100))
    benchmark.pedantic(
        lambda out: extract_features(copies, out, VISUAL, client, progress=False),
        setup=lambda: ((tmp_path / str(next(rounds)),), {}),
        rounds=3,
    )
    assert len(read_features(tmp_path / '0')) == CLIPS


@pytest.fixture(scope='module')
def peaks(tmp_path_factory):
    folder = tmp_path_factory.mktemp('many')
    script, found = folder / 'many.py', {}
    script.write_text(MANY)
    for videos in VIDEOS:
        (folder / str(videos)).mkdir()
        for i in range(videos):
            (folder / str(videos) / f'{i}.mp4').write_bytes(b'a video')
        for count in (1, 2):
            done = subprocess.run(
                [sys.executable, script, folder / str(videos), folder / f'out{videos}_{count}', str(count)],
                capture_output=True,
                text=True,
                check=True,
            )
            found[videos, count] = float(done.stdout)
    return found


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='peak memory is read from /proc')
@pytest.mark.parametrize('count', [1, 2])
@pytest.mark.parametrize('videos', VIDEOS)
def test_memory_is_flat(benchmark, peaks, videos, count):
    limit = 1.1 * peaks[VIDEOS[0], count]
    who = f'feature store, {count} worker{"s"[:count - 1]}'
    benchmark.extra_info.update(
        memory=f'{who}, {videos:,} videos, the process that writes',
        megabytes=peaks[videos, count],
        limit=limit,
        series=who,
        n=videos,
        unit='videos',
    )
    benchmark.pedantic(lambda: None)
    assert peaks[videos, count] <= limit, peaks
