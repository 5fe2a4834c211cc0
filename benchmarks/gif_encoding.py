"""Compares GIFs of this package with FFmpeg's two-pass palette on real clips: size, and similarity (SSIM) to the source.

    python benchmarks/gif_encoding.py FOLDER_OF_CLIPS
"""
import argparse
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pandas as pd
from PIL import Image
from skimage.metrics import structural_similarity

from microvid_nb.media.animation import read_shots
from microvid_nb.media.render import write_gif

# clip, second at which its shot begins
CLIPS = {'mdn_flower.mp4': 1, 'streamio_man_talking.mp4': 1, 'androidx_clock_square.mp4': 0, 'drew_ducks.mp4': 1,
         'tfjs_squats_portrait.mp4': 1}
FPS, SECONDS, WIDTH = 10, 3, 240
CLOCK = Fraction(1, 100)


def frames_of(images):
    for number, image in enumerate(images):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), 'rgb24')
        frame.pts, frame.time_base = round(100 * number / FPS), CLOCK
        yield frame


def pulled(graph):
    while True:
        try:
            yield graph.pull()
        except (BlockingIOError, EOFError):
            return


def two_passes(path: Path, images: np.ndarray, dither: str):
    """Writes a GIF as FFmpeg does with `palettegen` and `paletteuse`."""
    height, width = images.shape[1:3]
    size = dict(width=width, height=height, format='rgb24', time_base=CLOCK)
    graph = av.filter.Graph()
    source = graph.add_buffer(**size)
    graph.link_nodes(source, graph.add('palettegen'), graph.add('buffersink')).configure()
    for frame in [*frames_of(images), None]:
        source.push(frame)
    palette = graph.pull()
    graph = av.filter.Graph()
    source = graph.add_buffer(**size)
    colours = graph.add_buffer(width=16, height=16, format=palette.format.name, time_base=CLOCK)
    use, sink = graph.add('paletteuse', f'dither={dither}'), graph.add('buffersink')
    source.link_to(use, 0, 0)
    colours.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    palette.pts, palette.time_base = 0, CLOCK
    colours.push(palette)
    colours.push(None)
    with av.open(str(path), 'w', format='gif') as container:
        stream = container.add_stream('gif', rate=100)
        stream.height, stream.width, stream.pix_fmt = height, width, 'pal8'
        stream.codec_context.time_base = CLOCK
        for frame in [*frames_of(images), None]:
            source.push(frame)
            for ready in pulled(graph):
                container.mux(stream.encode(ready))
        container.mux(stream.encode(None))


def similarity(path: Path, images: np.ndarray) -> float:
    """Mean SSIM of every fourth frame, Gaussian window of 1.5 pixels."""
    with Image.open(path) as picture:
        assert picture.n_frames == len(images)
        found = []
        for number in range(1, len(images), 4):
            picture.seek(number)
            shown = np.asarray(picture.convert('RGB'))
            found.append(structural_similarity(
                images[number], shown, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
            ))
    return float(np.mean(found))


def compare(clip: Path, start: float, folder: Path) -> list[dict]:
    images = read_shots(clip, [start], SECONDS, FPS, WIDTH)[0]
    path, rows = folder / 'made.gif', []
    for dither in ('sierra2_4a', 'floyd_steinberg', 'bayer:bayer_scale=4', 'none'):
        two_passes(path, images, dither)
        rows.append({'writer': f'FFmpeg {dither}', 'kB': path.stat().st_size / 1000, 'SSIM': similarity(path, images)})
    for dither in ('floyd', 'bayer', 'none'):
        for quality in (100, 80):
            write_gif(path, [images], FPS, images.shape[2], dither=dither, quality=quality)
            size = path.stat().st_size / 1000
            rows.append({'writer': f'ours {dither} {quality}', 'kB': size, 'SSIM': similarity(path, images)})
    return [{'clip': clip.name} | row for row in rows]


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('clips', type=Path, help='folder of the real clips')
    parser.add_argument('--out', type=Path, default=Path('results/gif_encoding.csv'))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        table = pd.DataFrame([row for name, start in CLIPS.items()
                              for row in compare(given.clips / name, start, Path(place))])
    given.out.parent.mkdir(parents=True, exist_ok=True)
    table.round({'kB': 0, 'SSIM': 4}).to_csv(given.out, index=False)
    print(table.pivot(index='writer', columns='clip', values=['kB', 'SSIM']).round(3).to_string())
