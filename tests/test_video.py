"""Files that trouble readers: formats, rotation, times, seeking, size."""
import subprocess
import sys
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microvid_nb.media import video
from microvid_nb.media.audio import read_audio
from microvid_nb.media.render import write_video
from microvid_nb.media.survey import survey_video
from microvid_nb.media.video import MediaError, iter_frames, probe, read_frames, sample_on_screen


def encode(path, images, codec, pix_fmt, fps=20, options=None, frame_options=None):
    """Writes a file with any codec that this FFmpeg has."""
    with av.open(str(path), 'w') as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pix_fmt
        for i, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, 'rgb24')
            frame.pts, frame.time_base = i, Fraction(1, fps)
            container.mux(stream.encode(frame.reformat(format=pix_fmt) if pix_fmt != 'rgb24' else frame))
        container.mux(stream.encode(None))
    return path


FORMATS = [
    ('a.mp4', 'libx264', 'yuv420p'),
    ('a.mov', 'libx264', 'yuv422p'),
    ('a.mkv', 'libx264', 'yuv420p10le'),
    ('a.mp4', 'libx265', 'yuv420p10le'),
    ('a.webm', 'libvpx-vp9', 'yuv420p'),
    ('a.webm', 'libvpx', 'yuv420p'),
    ('a.avi', 'mpeg4', 'yuv420p'),
    ('a.avi', 'mjpeg', 'yuvj420p'),
    ('a.mpg', 'mpeg1video', 'yuv420p'),
    ('a.ts', 'libx264', 'yuv420p'),
    ('a.mkv', 'ffv1', 'yuv444p'),
    ('a.mkv', 'libx264', 'yuv444p'),
    ('a.flv', 'flv', 'yuv420p'),
]


@pytest.mark.parametrize('name, codec, pix_fmt', FORMATS)
def test_formats(tmp_path, pictures, name, codec, pix_fmt):
    if codec not in av.codecs_available:
        pytest.skip(f'this FFmpeg has no {codec}')
    fps = 25 if name.endswith('.mpg') else 20
    path = encode(
        tmp_path / name,
        pictures,
        codec,
        pix_fmt,
        fps,
        {'b': '4000000'} if codec in ('mpeg4', 'mpeg1video', 'flv', 'libvpx') else {},
    )
    frames = read_frames(path)
    assert len(frames) == 40 and (frames.info.width, frames.info.height) == (128, 96)
    np.testing.assert_allclose(np.diff(frames.times), 1 / fps, atol=2e-3)
    assert np.abs(frames.images.astype(int) - pictures).mean() < 12


@pytest.mark.parametrize('said, threads', [('', 0), ('1', 1), ('4,2', 4), ('all', 0)])
def test_decoder_takes_the_threads_that_it_may(tmp_path, pictures, monkeypatch, said, threads):
    monkeypatch.setenv('OMP_NUM_THREADS', said)
    with av.open(str(encode(tmp_path / 'a.mp4', pictures, 'libx264', 'yuv420p'))) as container:
        assert video.first_picture_stream(container, 'a.mp4').codec_context.thread_count == threads


def test_gif_and_odd_size(tmp_path):
    from PIL import Image
    images = [Image.fromarray(np.full((33, 51, 3), 40 * i, np.uint8)) for i in range(5)]
    images[0].save(tmp_path / 'a.gif', save_all=True, append_images=images[1:], duration=[100, 200, 300, 100, 100])
    frames = read_frames(tmp_path / 'a.gif')
    assert frames.images.shape == (5, 33, 51, 3)
    np.testing.assert_allclose(frames.times, [0, .1, .3, .6, .7], atol=1e-6)
    np.testing.assert_allclose(frames.images.mean((1, 2, 3)), [0, 40, 80, 120, 160], atol=2)


def test_interlaced_has_no_combs(tmp_path):
    """A bright bar moves between the two half-pictures of a frame; woven, its edge is a comb."""
    images = []
    for i in range(12):
        image = np.zeros((96, 128, 3), np.uint8)
        image[::2, 8 * i:8 * i + 30] = 255
        image[1::2, 8 * i + 4:8 * i + 34] = 255
        images.append(image)
    path = encode(
        tmp_path / 'a.mkv', images, 'libx264', 'yuv420p', options={'x264-params': 'interlaced=1:tff=1', 'crf': '5'}
    )
    with av.open(str(path)) as container:
        woven = [frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)]
        assert all(frame.interlaced_frame for frame in av.open(str(path)).decode(video=0))
    frames = read_frames(path)

    def comb(picture):
        grey = picture.mean(-1)
        return np.abs(grey[1:-1] - (grey[:-2] + grey[2:]) / 2).mean()
    assert len(frames) == 12
    np.testing.assert_allclose(frames.times, np.arange(12) / 20, atol=2e-3)
    assert np.mean([comb(image) for image in frames.images[1:-1]]) < 0.2 * np.mean(
        [comb(image) for image in woven[1:-1]]
    )


def test_first_time_is_kept(tmp_path, pictures):
    path = write_video(tmp_path / 'late.mkv', pictures, times=10 + np.arange(40) / 20)
    frames, survey = read_frames(path, fps=4), survey_video(path)
    np.testing.assert_allclose(frames.times, 10 + np.arange(8) / 4, atol=2e-3)
    assert survey.frames.times[0] == pytest.approx(10, abs=2e-3) and survey.shot_times[0] == pytest.approx(10, abs=2e-3)


def test_seeking_does_not_decode_from_zero(tmp_path, pictures, monkeypatch):
    # 100 s, a key frame every 250 frames
    path = write_video(tmp_path / 'long.mp4', (image for _ in range(50) for image in pictures), fps=20)
    whole = read_frames(path, start=90)
    decoded = []
    original = video.decode
    monkeypatch.setattr(
        video, 'decode', lambda *arguments: (decoded.append(1) or frame for frame in original(*arguments))
    )
    part = read_frames(path, start=90, end=91)
    assert len(part) == 20 and len(decoded) < 320
    np.testing.assert_array_equal(part.images, whole.images[:20])
    np.testing.assert_allclose(part.times, 90 + np.arange(20) / 20, atol=1e-3)


def test_file_that_cannot_seek_is_decoded_from_zero(tmp_path, pictures):
    path = encode(tmp_path / 'raw.h264', pictures, 'libx264', 'yuv420p')
    whole, part = read_frames(path), read_frames(path, start=1.)
    assert len(whole) == 40 and 0 < len(part) < 40
    np.testing.assert_array_equal(part.images, whole.images[-len(part):])


def test_iterating_takes_constant_memory(tmp_path, pictures):
    def peak(seconds):
        path = write_video(tmp_path / f'{seconds}.mp4', (pictures[i % 40] for i in range(seconds * 20)), fps=20)
        tracemalloc.start()
        for _ in iter_frames(path, fps=5):
            pass
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size
    peak(2)
    assert peak(60) < 1.3 * peak(6) + 100_000


def test_name_with_colon_and_percent(tmp_path, pictures):
    path = write_video(tmp_path / 'plain.mp4', pictures[:3])
    for name in ('a:b.mp4', 'http:x.mp4', '50%d.mp4', "it's.mp4", '-dash.mp4', 'concat:a|b.mp4', 'ü 影.mp4'):
        (tmp_path / name).write_bytes(path.read_bytes())
        assert len(read_frames(tmp_path / name)) == 3


def test_not_a_video(tmp_path):
    for name, content in {
        'a.txt': b'words\n' * 100,
        'a.mp4': b'\0' * 4000,
        'a.m3u8': b'#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/x.ts\n',
        'a.json': b'{}',
        'a.py': b'print()',
        'a.ffconcat': b"ffconcat version 1.0\nfile 'b.mp4'\n",
    }.items():
        (tmp_path / name).write_bytes(content)
        for read in (probe, read_frames, survey_video):
            with pytest.raises(MediaError, match=name):
                read(tmp_path / name)


def test_sound_without_picture_and_cover_picture(tmp_path):
    from PIL import Image
    sound = (np.sin(np.arange(8000) / 10) * .3).astype(np.float32)
    with av.open(str(tmp_path / 'tone.m4a'), 'w') as container:
        from microvid_nb.media.render import encode_sound
        encode_sound(container, container.add_stream('aac', rate=8000, layout='mono'), sound, 8000)
    with pytest.raises(MediaError, match='has no video stream'):
        probe(tmp_path / 'tone.m4a')
    assert len(read_audio(tmp_path / 'tone.m4a', 8000)) == pytest.approx(8000, abs=2100)
    Image.new('RGB', (40, 30), (200, 10, 10)).save(tmp_path / 'one.png')
    assert read_frames(tmp_path / 'one.png').images.shape == (1, 30, 40, 3)


@pytest.mark.skipif(sys.platform != 'linux', reason='peak memory is read from /proc')
def test_declared_giant_is_refused_in_little_memory(tmp_path):
    """An AVI header that claims a picture of 60,000 x 60,000, in a codec that believes its container."""
    path = encode(tmp_path / 'a.avi', [np.zeros((96, 128, 3), np.uint8)] * 3, 'huffyuv', 'yuv422p')
    data = bytearray(path.read_bytes())
    at = data.index(b'strf') + 8
    data[at + 4:at + 12] = np.array([60000, 60000], '<u4').tobytes()
    path.write_bytes(data)
    code = (f'from microvid_nb.media.video import *\n'
            f'try: print(read_frames({str(path)!r}).images.shape)\nexcept MediaError as error: print(error)\n'
            f'print([int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")][0])')
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, timeout=60, check=True
    )
    said, peak = done.stdout.splitlines()
    assert said.startswith(f'{path}: ') and int(peak) < 300, done


@settings(max_examples=200, deadline=None)
@given(gaps=st.lists(st.floats(1e-3, 2), min_size=1, max_size=40), fps=st.floats(.3, 60), start=st.floats(0, 5))
def test_sampling_shows_what_is_on_screen(gaps, fps, start):
    times = np.cumsum(gaps)
    due = times[-1] + .04
    on_screen = max(0, np.searchsorted(times, start, side='right') - 1)  # a seek lands there
    begin = max(start, times[on_screen])
    looks = begin + np.arange(int(due * fps) + 2) / fps
    expected = np.searchsorted(times, looks[looks < due - 1e-6] + 1e-6, side='right') - 1
    fed = ((time, time + .04, i) for i, time in enumerate(times.tolist()) if i >= on_screen)
    shown = [i for _, i in sample_on_screen(fed, fps, start, np.inf)]
    np.testing.assert_array_equal(shown, expected)
