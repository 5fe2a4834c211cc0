"""Clips for the benchmarks: drawn ones of fixed sizes, and real ones where their folder is given."""
import os
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from microvid_nb.media.render import write_video
from microvid_nb.media.sample_clip import FPS, sample_pictures

ROOT = Path(__file__).resolve().parent.parent
MEDIA = Path(os.environ.get('MICROVID_MEDIA', ROOT.parent / 'shared' / 'media'))
DRAWN = {'drawn 340 x 256': (340, 256), 'drawn 1280 x 720': (1280, 720), 'drawn 1920 x 1080': (1920, 1080)}
REAL = [
    'drew_ducks.mp4',
    'androidx_man_dog_bed_0.mp4',
    'androidx_rooftop_rot90_hevc.mp4',
    'torchcodec_nasa.mp4',
    'mdn_toy_frog.mp4',
]


def draw_clip(path: Path, width: int, height: int) -> Path:
    """The sample clip at another size, with camera noise, so that it is as hard to decode as a real one."""
    noise = np.random.default_rng(0).normal(0, 5, (height, width, 1)).astype(np.float32)

    def frames():
        for i, image in enumerate(sample_pictures()):
            large = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
            yield np.clip(large + np.roll(noise, (13 * i, 29 * i), (0, 1)), 0, 255).astype(np.uint8)
    return write_video(path, frames(), FPS, crf=24)


def repeat_clip(path: Path, source: Path, times: int) -> Path:
    """A clip end to end many times, by copying its packets."""
    with av.open(str(source)) as given, av.open(str(path), 'w') as made:
        stream = given.streams.video[0]
        copy = made.add_stream_from_template(stream)
        packets = [
            (bytes(packet), packet.pts, packet.dts, packet.is_keyframe)
            for packet in given.demux(stream)
            if packet.dts is not None
        ]
        length = stream.duration
        for i in range(times):
            for data, pts, dts, key in packets:
                packet = av.Packet(data)
                packet.pts, packet.dts, packet.time_base, packet.stream, packet.is_keyframe = (
                    pts + i * length,
                    dts + i * length,
                    stream.time_base,
                    copy,
                    key,
                )
                made.mux(packet)
    return path


@pytest.fixture(scope='session')
def clips(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp('clips')
    return {name: draw_clip(folder / f'{width}.mp4', width, height) for name, (width, height) in DRAWN.items()} | \
        {name: MEDIA / 'videos' / name for name in REAL if (MEDIA / 'videos' / name).exists()}
