"""Clip to thumbnail and GIF in one call, against the bare decode of the same file with PyAV."""
import av
import pytest
from conftest import DRAWN, MEDIA, REAL

from microvid_nb.preview import make_preview

NAMES = [*DRAWN, *(name for name in REAL if (MEDIA / 'videos' / name).exists())]


def decode(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = 'AUTO'  # the fastest that PyAV can do
        for _ in container.decode(stream):
            pass


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('side', ['peer', 'ours'])
def test_thumbnail_and_gif(benchmark, clips, tmp_path, name, side):
    benchmark.extra_info.update(work=f'thumbnail + GIF, {name}', peer='bare decode', side=side)
    if side == 'peer':
        benchmark.pedantic(decode, (clips[name],), rounds=7, warmup_rounds=1)
    else:
        benchmark.pedantic(make_preview, (clips[name], tmp_path / 'a.jpg', tmp_path / 'a.gif'), rounds=7, warmup_rounds=1)
