"""Clip to thumbnail and GIF in one call, against the bare decode of the same file with PyAV."""
import av
import pytest
from conftest import DRAWN, MEDIA, REAL

from microvid_nb.media.video import probe
from microvid_nb.preview import make_preview

NAMES = [*DRAWN, *(name for name in REAL if (MEDIA / 'videos' / name).exists())]


def decode(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = 'AUTO'  # the fastest that PyAV can do
        for _ in container.decode(stream):
            pass


def aim(path) -> float | None:
    """Of the times that decoding takes: DESIGN names 340 x 256 and 1280 x 720 upwards, at frame rates of usual
    videos.
    """
    info = probe(path)
    pixels = info.width * info.height
    return None if info.fps < 15 else 6. if pixels <= 340 * 256 else 2.5 if pixels >= 1280 * 720 else None


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('side', ['peer', 'ours'])
def test_thumbnail_and_gif(benchmark, clips, tmp_path, name, side):
    benchmark.extra_info.update(
        work=f'thumbnail + GIF, {name}', peer='bare decode', side=side, at_most=aim(clips[name])
    )
    if side == 'peer':
        benchmark.pedantic(decode, (clips[name],), rounds=7, warmup_rounds=1)
    else:
        benchmark.pedantic(
            make_preview, (clips[name], tmp_path / 'a.jpg', tmp_path / 'a.gif'), rounds=7, warmup_rounds=1
        )
