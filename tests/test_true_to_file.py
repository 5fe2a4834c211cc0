"""Colour, transparency, geometry, streams, sound and time come out as the best players show them."""
import math
import pickle
import subprocess
import sys
import warnings
from fractions import Fraction

import av
import numpy as np
import pillow_heif
import pytest
from PIL import Image

from microvid_nb.media.audio import read_audio
from microvid_nb.media.colour import TONE_MAPS
from microvid_nb.media.video import MediaError, MediaWarning, iter_frames, probe, read_frames


def video_stream(container, codec, size, pixel_format, fps=25, options=None, **tags):
    """A stream with colour tags, ready for `put`."""
    stream = container.add_stream(codec, rate=fps, options=options or {})
    stream.width, stream.height, stream.pix_fmt = *size, pixel_format
    for name, value in tags.items():
        setattr(stream.codec_context, name, value)
    return stream


def put(container, stream, frames, first=0):
    """Encodes frames one after the other."""
    for number, frame in enumerate(frames):
        frame.pts, frame.time_base = first + number, 1 / Fraction(stream.codec_context.framerate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def rgb_frames(images):
    return [av.VideoFrame.from_ndarray(np.ascontiguousarray(image), 'rgb24') for image in images]


def moving(width, height, count=20, colour=(200, 60, 30)):
    """A plain picture with a bright square that moves."""
    images = np.full((count, height, width, 3), colour, np.uint8)
    for number, image in enumerate(images):
        image[4:20, 2 * number:2 * number + 16] = 255
    return images


# ---- colour

WEIGHTS = {1: (.2126, .0722), 6: (.299, .114), 9: (.2627, .0593)}


def planes(rgb, matrix, full=False, bits=8):
    """Y, Cb and Cr of one colour in [0, 1], by the definition in H.273."""
    red, green, blue = rgb
    if matrix == 14:  # given as I, CT and CP
        numbers = np.asarray(rgb)
    elif matrix == 8:  # YCgCo
        numbers = np.array([[.25, .5, .25], [-.25, .5, -.25], [.5, 0, -.5]]) @ rgb
    else:
        kr, kb = WEIGHTS[matrix]
        y = kr * red + (1 - kr - kb) * green + kb * blue
        numbers = np.array([y, (blue - y) / 2 / (1 - kb), (red - y) / 2 / (1 - kr)])
    if full:
        return np.round(numbers * (2**bits - 1) + [0, 2**(bits - 1), 2**(bits - 1)]).astype(int)
    return np.round((numbers * [219, 224, 224] + [16, 128, 128]) * 2**(bits - 8)).astype(int)


def flat_file(path, patches, size=(320, 192), matrix=1, full=False, bits=8, tags=(1, 1, 1, 1)):
    """A lossless file with patches of known numbers side by side, tagged (primaries, transfer, matrix, range)."""
    width, height = size
    pixel_format = 'yuv444p' if bits == 8 else f'yuv444p{bits}le'
    numbers = [planes(patch, matrix, full, bits) for patch in patches]
    dtype = np.uint8 if bits == 8 else '<u2'
    with av.open(str(path), 'w') as container:
        stream = video_stream(
            container, 'ffv1', size, pixel_format, color_primaries=tags[0], color_trc=tags[1], colorspace=tags[2], color_range=tags[3]
        )
        pictures = []
        for _ in range(3):
            frame = av.VideoFrame(width, height, pixel_format)
            for part, plane in enumerate(frame.planes):
                row = np.repeat([number[part] for number in numbers], width // len(numbers)).astype(dtype)
                lines = np.zeros((height, plane.line_size // row.itemsize), dtype)
                lines[:, :len(row)] = row
                plane.update(lines.tobytes())
            frame.color_primaries, frame.color_trc, frame.colorspace, frame.color_range = tags
            pictures.append(frame)
        put(container, stream, pictures)
    return path


def shown(path, patches=1, **options):
    """The colour in the middle of each patch."""
    image = read_frames(path, **options).images[1].astype(int)
    step = image.shape[1] // patches
    return image[image.shape[0] // 2, step // 2::step][:patches]


@pytest.mark.parametrize('size, matrix', [((320, 192), 6), ((704, 576), 6), ((704, 578), 1), ((1280, 720), 1), ((1080, 1920), 1)])
@pytest.mark.parametrize('short_side', [None, 96])
def test_untagged_colour_is_taken_as_players_do(tmp_path, size, matrix, short_side):
    path = flat_file(tmp_path / 'a.mkv', [np.array([200, 60, 30]) / 255], size, matrix, tags=(2, 2, 2, 0))
    np.testing.assert_allclose(shown(path, short_side=short_side)[0], (200, 60, 30), atol=3)


@pytest.mark.parametrize('matrix', [1, 6, 8, 9])
@pytest.mark.parametrize('full', [False, True])
def test_matrix_and_range_by_tag(tmp_path, matrix, full):
    patches = np.array([[200, 60, 30], [20, 220, 90], [255, 255, 255], [0, 0, 0]])
    path = flat_file(tmp_path / 'a.mkv', patches / 255, matrix=matrix, full=full, tags=(1, 1, matrix, 1 + full))
    info = probe(path)
    assert (info.matrix, info.full_range) == ({1: 'bt709', 6: 'smpte170m', 8: 'ycgco', 9: 'bt2020nc'}[matrix], full) and not info.hdr
    np.testing.assert_allclose(shown(path, 4), patches, atol=2)


@pytest.mark.parametrize('primaries, code, meant', [(1, 12, 1), (9, 12, 9), (9, 13, 9), (5, 12, 6)])
def test_a_matrix_that_follows_from_the_primaries(tmp_path, primaries, code, meant):
    grey_and_red = np.array([[.5, .5, .5], [.6, .3, .3]])
    path = flat_file(tmp_path / 'a.mkv', grey_and_red, matrix=meant, tags=(primaries, 1, code, 1))
    plain = flat_file(tmp_path / 'b.mkv', grey_and_red, matrix=meant, tags=(primaries, 1, meant, 1))
    np.testing.assert_array_equal(shown(path, 2), shown(plain, 2))


def test_plain_colour_is_ffmpegs_own(tmp_path, pictures):
    with av.open(str(tmp_path / 'a.mp4'), 'w') as container:
        stream = video_stream(container, 'libx264', (128, 96), 'yuv420p', colorspace=1, color_primaries=1, color_trc=1, color_range=1)
        put(container, stream, [frame.reformat(format='yuv420p', dst_colorspace=1) for frame in rgb_frames(pictures)])
    with av.open(str(tmp_path / 'a.mp4')) as container:
        expected = [frame.to_ndarray(format='rgb24', src_colorspace=1, src_color_range=1) for frame in container.decode(video=0)]
    assert np.abs(read_frames(tmp_path / 'a.mp4').images.astype(int) - expected).max() <= 2


BT709_TO_2020 = np.array([[.6274, .3293, .0433], [.0691, .9195, .0114], [.0164, .0880, .8956]])


def pq(light):
    power = (np.asarray(light) * 203 / 10000) ** .1593017578125
    return ((.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def pq_light(signal):
    root = signal ** (1 / 78.84375)
    return (np.maximum(root - .8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / .1593017578125) * 10000 / 203


def hlg(light):
    """The signal of light on a screen, 1 is 203 cd/m2: the system gamma undone, then the camera's curve."""
    display = np.asarray(light) * .203
    luminance = display @ [.2627, .6780, .0593]
    scene = display * np.maximum(luminance, 1e-9)[..., None] ** (1 / 1.2 - 1)
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), .17883277 * np.log(np.maximum(12 * scene - .28466892, 1e-9)) + .55991073)


def hlg_by_component(light):
    """The same as zimg has it: the system gamma on each component."""
    scene = np.maximum(np.asarray(light) * .203, 0) ** (1 / 1.2)
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), .17883277 * np.log(np.maximum(12 * scene - .28466892, 1e-9)) + .55991073)


def srgb(light):
    light = np.clip(light, 0, 1)
    return 255 * np.where(light <= .0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - .055)


def bent(light, peak, name):
    """A tone mapping of the brightest component, by its formula."""
    if name == 'clip':
        return min(light, 1)
    if name == 'hable':
        def film(x):
            return (x * (.15 * x + .1 * .5) + .2 * .02) / (x * (.15 * x + .5) + .2 * .3) - .02 / .3
        return film(light) / film(peak)
    top = pq(peak)
    level, limit = pq(light) / top, pq(1) / top
    knee = 1.5 * limit - .5
    if level > knee:
        t = (level - knee) / (1 - knee)
        level = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * limit
    return pq_light(level * top)


CALM = np.array([[1, 1, 1], [1, 0, 0], [.18, .18, .18], [.05, .2, .6], [0, 1, 0], [0, 0, 1], [.6, .4, .3]])


@pytest.mark.parametrize('transfer, encode', [(16, pq), (18, hlg), (18, hlg_by_component)])
@pytest.mark.parametrize('name', TONE_MAPS)
@pytest.mark.parametrize('lamp', [0, 3.])
def test_hdr_is_tone_mapped(tmp_path, transfer, encode, name, lamp):
    light = np.vstack([CALM, [[lamp] * 3]]) if lamp else CALM
    patches = encode(light @ BT709_TO_2020.T)
    path = flat_file(tmp_path / 'a.mkv', patches, matrix=9, bits=12, tags=(9, transfer, 9, 1), size=(64 * len(light), 96))
    info = probe(path)
    assert info.hdr and info.primaries == 'bt2020' and info.transfer == {16: 'smpte2084', 18: 'arib-std-b67'}[transfer]
    peak = max(1, lamp)
    expected = srgb([patch * bent(patch.max(), peak, name) / patch.max() for patch in light])
    for options in ({}, {'short_side': 48}):
        found = shown(path, len(light), tone_map=name, **options)
        np.testing.assert_allclose(found, expected, atol=12)
        assert lamp or name == 'hable' or (found[0] >= 230).all()


@pytest.mark.parametrize('transfer, encode', [(16, pq), (18, hlg)])
@pytest.mark.parametrize('full', [False, True])
def test_ictcp_is_unpacked(tmp_path, transfer, encode, full):
    """The numbers of ITU-R BT.2100, tables 6 and 7, of colours of BT.709."""
    signals = encode(CALM @ BT709_TO_2020.T)
    to_eye = np.array([[1688, 2146, 262], [683, 2951, 462], [99, 309, 3688]]) / 4096
    if transfer == 16:
        eye = pq(pq_light(np.maximum(signals, 1e-9)) @ to_eye.T)
        mixed = np.array([[2048, 2048, 0], [6610, -13613, 7003], [17933, -17390, -543]]) / 4096
    else:
        scene = np.where(signals <= .5, signals**2 / 3, (np.exp((signals - .55991073) / .17883277) + .28466892) / 12) @ to_eye.T
        eye = np.where(scene <= 1 / 12, np.sqrt(3 * scene), .17883277 * np.log(np.maximum(12 * scene - .28466892, 1e-9)) + .55991073)
        mixed = np.array([[2048, 2048, 0], [3625, -7465, 3840], [9500, -9212, -288]]) / 4096
    size = 64 * len(CALM), 96
    packed = flat_file(tmp_path / 'packed.mkv', eye @ mixed.T, matrix=14, full=full, bits=12, tags=(9, transfer, 14, 1 + full), size=size)
    assert probe(packed).matrix == 'ictcp' and probe(packed).hdr
    np.testing.assert_allclose(shown(packed, len(CALM)), srgb(CALM), atol=12)


def test_sdr_of_a_wide_gamut_and_other_curves(tmp_path):
    red_2020 = BT709_TO_2020 @ [1, 0, 0]
    signal = 1.099 * red_2020 ** .45 - .099
    path = flat_file(tmp_path / 'wide.mkv', [signal], matrix=9, bits=10, tags=(9, 14, 9, 1))
    np.testing.assert_allclose(shown(path)[0], (255, 0, 0), atol=12)
    p3 = np.array([[.8225, .1774, 0], [.0332, .9669, 0], [.0171, .0724, .9108]]) @ [.5, .1, .05]
    path = flat_file(tmp_path / 'p3.mkv', [srgb(p3) / 255], bits=10, tags=(12, 13, 1, 1))
    np.testing.assert_allclose(shown(path)[0], srgb(np.array([.5, .1, .05])), atol=3)
    for transfer, power in ((8, 1), (4, 2.2), (5, 2.8)):
        light = np.array([.18, .5, .02])
        path = flat_file(tmp_path / f'{transfer}.mkv', [light ** (1 / power)], bits=10, tags=(1, transfer, 1, 1))
        np.testing.assert_allclose(shown(path)[0], srgb(light), atol=5)


# ---- transparency

def transparent(count=6):
    """Noise that must not be seen, and an opaque rectangle."""
    rng, images = np.random.default_rng(0), []
    for number in range(count):
        image = np.zeros((96, 128, 4), np.uint8)
        image[..., :3] = rng.integers(0, 256, (96, 128, 3))
        image[30:70, 20 + 4 * number:70 + 4 * number] = (220, 40, 40, 255)
        images.append(image)
    return images


@pytest.mark.parametrize('name, codec, pixel_format', [
    ('a.webm', 'libvpx-vp9', 'yuva420p'), ('a.mov', 'prores_ks', 'yuva444p10le'), ('b.mov', 'qtrle', 'argb'), ('a.apng', 'apng', 'rgba'),
    ('a.mkv', 'ffv1', 'bgra'),
])
@pytest.mark.parametrize('background', [(255, 255, 255), (0, 90, 200)])
def test_nothing_hidden_is_seen(tmp_path, name, codec, pixel_format, background):
    if codec not in av.codecs_available:
        pytest.skip(f'this FFmpeg has no {codec}')
    frames = [av.VideoFrame.from_ndarray(image, 'rgba').reformat(format=pixel_format) for image in transparent()]
    with av.open(str(tmp_path / name), 'w') as container:
        options = {'crf': '10', 'b': '0'} if codec == 'libvpx-vp9' else {}
        put(container, video_stream(container, codec, (128, 96), pixel_format, 10, options), frames)
    for options in ({}, {'short_side': 48}):
        image = read_frames(tmp_path / name, background=background, **options).images[3]
        scale = image.shape[0] / 96
        np.testing.assert_allclose(image[round(50 * scale), round(60 * scale)], (220, 40, 40), atol=12)
        np.testing.assert_allclose(image[:round(20 * scale)].reshape(-1, 3), np.tile(background, (image[:round(20 * scale)].size // 3, 1)), atol=3)


@pytest.mark.parametrize('suffix', ['webp', 'gif', 'png', 'avif'])
def test_animated_pictures(tmp_path, suffix):
    images = [Image.fromarray(image) for image in moving(64, 48, 4)]
    images[0].save(tmp_path / f'a.{suffix}', save_all=True, append_images=images[1:], duration=[200, 100, 300, 100], loop=0)
    frames = read_frames(tmp_path / f'a.{suffix}')
    np.testing.assert_allclose(frames.times, [0, .2, .3, .6], atol=2e-3)
    assert np.abs(frames.images.astype(int) - moving(64, 48, 4)).mean() < 12
    np.testing.assert_allclose([time for time, _ in iter_frames(tmp_path / f'a.{suffix}', start=.25, end=.5)], [.3], atol=2e-3)


@pytest.mark.parametrize('suffix', ['webp', 'gif', 'png'])
def test_animations_run_at_the_pace_of_browsers(tmp_path, suffix):
    images = [Image.fromarray(image) for image in moving(64, 48, 4)]
    images[0].save(tmp_path / f'a.{suffix}', save_all=True, append_images=images[1:], duration=10, loop=0)
    np.testing.assert_allclose(read_frames(tmp_path / f'a.{suffix}').times, [0, .1, .2, .3], atol=2e-3)


# ---- geometry

def disc(width, height, squeeze=1.):
    """A bright disc, narrower in stored pixels if those are wide."""
    y, x = np.mgrid[:height, :width]
    image = np.full((height, width, 3), 60, np.uint8)
    image[((x - width / 2) * squeeze) ** 2 + (y - height / 2) ** 2 < 40 ** 2] = (230, 200, 30)
    return image


def roundness(image):
    rows, columns = np.nonzero(image[..., 0] > 150)
    return (np.ptp(columns) + 1) / (np.ptp(rows) + 1)


def test_a_circle_stays_a_circle_when_the_size_changes(tmp_path):
    parts = []
    for number, (width, height) in enumerate([(96, 176), (176, 96), (192, 352)]):
        part = tmp_path / f'{number}.h264'
        with av.open(str(part), 'w') as container:
            put(container, video_stream(container, 'libx264', (width, height), 'yuv420p'), rgb_frames([disc(width, height)] * 10))
        parts.append(part.read_bytes())
    (tmp_path / 'a.h264').write_bytes(b''.join(parts))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        frames = read_frames(tmp_path / 'a.h264')
    assert [warning.category for warning in caught] == [MediaWarning] and 'shape' in str(caught[0].message)
    assert frames.images.shape == (30, 176, 96, 3)
    np.testing.assert_allclose([roundness(image) for image in frames.images], 1, atol=.05)


def test_pixel_shape(tmp_path):
    with av.open(str(tmp_path / 'a.mkv'), 'w') as container:
        stream = video_stream(container, 'libx264', (128, 96), 'yuv420p')
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        put(container, stream, rgb_frames([disc(128, 96, 2.)] * 3))
    frames = read_frames(tmp_path / 'a.mkv')
    assert frames.images.shape[1:3] == (96, 256)
    np.testing.assert_allclose(roundness(frames.images[1]), 1, atol=.05)


def test_clean_aperture_is_cut(tmp_path):
    """A box `clap` is put into the sample entry of an MP4, and all boxes around it are made longer."""
    image = np.zeros((96, 128, 3), np.uint8)
    image[8:80, 16:112] = (200, 180, 40)
    with av.open(str(tmp_path / 'whole.mp4'), 'w') as container:
        put(container, video_stream(container, 'libx264', (128, 96), 'yuv420p'), rgb_frames([image] * 5))
    data = bytearray((tmp_path / 'whole.mp4').read_bytes())
    clap = (40).to_bytes(4, 'big') + b'clap' + np.array([96, 1, 72, 1, 0, 1, -4, 1], '>i4').tobytes()
    entry = data.index(b'avc1', data.index(b'stsd')) - 4
    end = entry + int.from_bytes(data[entry:entry + 4], 'big')
    for name in (b'moov', b'trak', b'mdia', b'minf', b'stbl', b'stsd', b'avc1'):
        begin = entry if name == b'avc1' else data.index(name, data.index(b'moov')) - 4
        data[begin:begin + 4] = (int.from_bytes(data[begin:begin + 4], 'big') + 40).to_bytes(4, 'big')
    (tmp_path / 'a.mp4').write_bytes(data[:end] + clap + data[end:])
    assert data.index(b'mdat') < data.index(b'moov')  # so that no offset of a sample has moved
    frames = read_frames(tmp_path / 'a.mp4')
    assert frames.images.shape == (5, 72, 96, 3) and (frames.info.width, frames.info.height) == (96, 72)
    np.testing.assert_allclose(frames.images[2].reshape(-1, 3).mean(0), (200, 180, 40), atol=8)


# ---- streams

def two_tracks(path, sizes, counts, default):
    """Two pictures tracks, of which one is marked as default, or none."""
    with av.open(str(path), 'w', options={'default_mode': 'passthrough'} if path.suffix == '.mkv' else {}) as container:
        streams = [video_stream(container, 'libx264', size, 'yuv420p') for size in sizes]
        for number, stream in enumerate(streams):
            stream.disposition = av.stream.Disposition.default if number == default else av.stream.Disposition(0)
        packets = []
        for number, (stream, size, count) in enumerate(zip(streams, sizes, counts)):
            for index, frame in enumerate(rgb_frames(moving(*size, count, [(0, 0, 250), (250, 0, 0)][number]))):
                frame.pts, frame.time_base = index, Fraction(1, 25)
                packets += stream.encode(frame)
            packets += stream.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


@pytest.mark.parametrize('suffix', ['.mkv', '.mp4'])
@pytest.mark.parametrize('sizes, counts, default, chosen', [
    (((96, 64), (192, 128)), (30, 30), 1, 1),
    (((192, 128), (96, 64)), (30, 30), 0, 0),
    (((96, 64), (192, 128)), (30, 30), None, 1),
    (((192, 128), (96, 64)), (1, 30), None, 1),
    (((192, 128), (96, 64)), (1, 30), 0, 1),
])
def test_the_stream_that_a_player_takes(tmp_path, suffix, sizes, counts, default, chosen):
    if suffix == '.mp4' and default is None and min(counts) > 1:
        chosen = 0  # FFmpeg marks the first track of an MP4 if none is marked
    path = two_tracks(tmp_path / f'a{suffix}', sizes, counts, default)
    frames = read_frames(path)
    assert frames.images.shape[2:0:-1] == sizes[chosen] and len(frames) == counts[chosen] and frames.info.stream == chosen
    other = read_frames(path, stream=1 - chosen)
    assert other.images.shape[2:0:-1] == sizes[1 - chosen] and probe(path, stream=1 - chosen).stream == 1 - chosen
    with pytest.raises(MediaError, match=r'has no video stream 9 \(its video streams: 0, 1\)'):
        probe(path, stream=9)


# ---- sound

def sound_file(path, channels, layout='stereo', rate=44100, codec='flac', late=0., picture=False, gap=None):
    """A sound that begins `late` seconds after the picture, with a gap in its clock at a time."""
    with av.open(str(path), 'w') as container:
        video = video_stream(container, 'libx264', (64, 48), 'yuv420p') if picture else None
        stream = container.add_stream(codec, rate=rate, layout=layout)
        packets = []
        if video:
            for index, frame in enumerate(rgb_frames(moving(64, 48, 100))):
                frame.pts, frame.time_base = index, Fraction(1, 25)
                packets += video.encode(frame)
            packets += video.encode(None)
        samples = (np.clip(channels, -1, 1) * 32767).astype(np.int16)
        for begin in range(0, len(samples), 1024):
            piece = np.ascontiguousarray(samples[begin:begin + 1024]).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(piece, format='s16', layout=layout)
            jump = gap[1] if gap and begin >= gap[0] * rate else 0
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = begin + round((late + jump) * rate)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def tone(seconds=1., rate=44100):
    return .5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)


def loudness(samples):
    return float(np.sqrt(np.mean(np.square(samples))))


@pytest.mark.parametrize('layout, channel, share', [
    ('5.1', 2, math.sqrt(.5)), ('5.1', 0, .5), ('5.1', 4, math.sqrt(.125)), ('7.1', 2, math.sqrt(.5)), ('stereo', 1, .5), ('3.0', 2, math.sqrt(.5)),
])
def test_standard_downmix(tmp_path, layout, channel, share):
    channels = np.zeros((44100, av.AudioLayout(layout).nb_channels))
    channels[:, channel] = tone()
    samples = read_audio(sound_file(tmp_path / 'a.flac', channels, layout), 44100)
    assert loudness(samples) == pytest.approx(share * loudness(tone()), rel=.01)


def test_channels_that_cancel_are_heard_and_named(tmp_path):
    noise = np.random.default_rng(0).normal(0, .01, 44100)
    for number, other in enumerate((-tone(), -.8 * tone() + noise)):
        path = sound_file(tmp_path / f'{number}.flac', np.stack([tone(), other], 1))
        with pytest.warns(MediaWarning, match='cancel'):
            samples = read_audio(path, 44100)
        assert loudness(samples) == pytest.approx(loudness(tone()), rel=.01)
    for number, other in enumerate((0 * tone(), tone(), np.random.default_rng(1).normal(0, .3, 44100))):
        read_audio(sound_file(tmp_path / f'fine{number}.flac', np.stack([tone(), other], 1)))  # a warning would be an error


@pytest.mark.parametrize('name', ['a.mkv', 'a.mp4'])
def test_sound_and_picture_have_one_clock(tmp_path, name):
    path = sound_file(tmp_path / name, np.stack([tone(2)] * 2, 1), codec='aac', late=1.5, picture=True)
    samples = read_audio(path)
    assert np.argmax(np.abs(samples) > .1) / 22050 == pytest.approx(1.5, abs=.03) and not samples[:22050].any()
    assert loudness(read_audio(path, start=2., end=2.5)) > .3 and loudness(read_audio(path, start=.5, end=1.)) == 0
    np.testing.assert_array_equal(read_audio(path, start=2., end=2.5), samples[44100:55125])


def test_a_gap_is_silence(tmp_path):
    path = sound_file(tmp_path / 'a.mkv', np.stack([tone(2)] * 2, 1), codec='pcm_s16le', picture=True, gap=(1., .7))
    samples = read_audio(path, 44100)
    assert len(samples) == pytest.approx(2.7 * 44100, abs=200)
    quiet = np.nonzero(np.abs(samples) < 1e-6)[0]
    assert (np.diff(quiet) == 1).sum() == pytest.approx(.7 * 44100, abs=2500)


@pytest.mark.parametrize('count, rate', [(1, 48000), (48, 48000), (100, 8000), (7, 44100)])
def test_the_shortest_sound_is_whole(tmp_path, count, rate):
    samples = read_audio(sound_file(tmp_path / 'a.wav', np.full((count, 2), .5), rate=rate, codec='pcm_s16le'))
    assert len(samples) == round(count / rate * 22050)


# ---- limits and causes

@pytest.mark.parametrize('options', [
    {'fps': math.inf}, {'fps': math.nan}, {'fps': 0}, {'fps': -3}, {'fps': 1e12}, {'start': math.nan}, {'start': math.inf}, {'end': math.nan},
    {'short_side': 0}, {'short_side': 10**9}, {'short_side': math.nan}, {'tone_map': 'x'}, {'background': (1, 2)}, {'background': (1, 2, 999)},
])
def test_numbers_out_of_range_are_refused_in_one_line(sample, options):
    with pytest.raises(ValueError) as caught:
        next(iter_frames(sample, **options))
    assert '\n' not in str(caught.value) and next(iter(options)) in str(caught.value)


@pytest.mark.parametrize('times', [np.arange(20) - 10, np.r_[np.arange(10), np.arange(10)], np.r_[np.arange(10), 10**7 + np.arange(10)]])
def test_clocks_that_are_negative_or_wrap(tmp_path, times):
    with av.open(str(tmp_path / 'a.nut'), 'w') as container:
        stream = video_stream(container, 'ffv1', (64, 48), 'yuv420p', fps=5)
        packets = []
        for index, frame in enumerate(rgb_frames(moving(64, 48))):
            frame.pts, frame.time_base = index, Fraction(1, 5)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        if (np.diff(times) < 0).any():
            pytest.skip('no muxer here writes times that go back; the clock itself is tested in the notebook')
        for packet, time in zip(packets, times.tolist()):
            packet.pts = packet.dts = time
            container.mux(packet)
    found = read_frames(tmp_path / 'a.nut').times
    np.testing.assert_allclose(found, np.arange(20) / 5, atol=1e-3)


def test_the_cause_is_named(tmp_path):
    for name, content, words in (
        ('a.mp4', b'version https://git-lfs.github.com/spec/v1\n', 'Git LFS pointer'),
        ('b.mp4', b'<!DOCTYPE html><html></html>', 'web page'),
        ('c.mp4', pickle.dumps({'a': 1}), 'pickle'),
        ('d.mp4', b'PK\3\4' + bytes(60), 'ZIP'),
        ('e.mp4', b'\x89HDF\r\n\x1a\n' + bytes(99), 'HDF5'),
        ('f.mp4', b'', 'empty'),
        ('g.mp4', bytes(9000), 'zeros'),
        ('h.mp4', b'Dear reader\n', 'plain text'),
    ):
        (tmp_path / name).write_bytes(content)
        for read in (probe, read_frames, read_audio):
            with pytest.raises(MediaError, match=words) as caught:
                read(tmp_path / name)
            assert '\n' not in str(caught.value)


# ---- clocks of what is written, and odd pictures

@pytest.mark.parametrize('fps', [8, 12.5, 29, 30, 50])
@pytest.mark.parametrize('still', [False, True])
def test_a_gif_lasts_as_long_as_its_shots(tmp_path, fps, still):
    from microvid_nb.media.animation import write_animation
    images = np.full((96, 48, 64, 3), 90, np.uint8) if still else moving(64, 48, 96) // 2 + np.arange(96, dtype=np.uint8)[:, None, None, None]
    from microvid_nb.media.render import write_video
    clip = write_video(tmp_path / 'a.mp4', images, 24)
    write_animation(tmp_path / 'a.gif', clip, [0, 1, 2], 1., fps=fps, width=64)
    delays = []
    with Image.open(tmp_path / 'a.gif') as gif:
        for number in range(gif.n_frames):
            gif.seek(number)
            delays.append(gif.info['duration'])
        assert gif.info['loop'] == 0
    assert sum(delays) == pytest.approx(3000, abs=10) and min(delays) >= 20


def test_pixels_that_cannot_be_converted_are_named(tmp_path):
    with av.open(str(tmp_path / 'a.nut'), 'w') as container:
        stream = video_stream(container, 'rawvideo', (64, 48), 'rgb4')
        put(container, stream, [av.VideoFrame(64, 48, 'rgb4') for _ in range(3)])
    with pytest.raises(MediaError, match='has pictures that cannot be converted .rgb4'):
        read_frames(tmp_path / 'a.nut')


@pytest.mark.parametrize('pixel_format', ['gray', 'gray10le', 'rgb24', 'gbrp', 'gbrp10le', 'yuv410p', 'yuv411p', 'uyvy422', 'yuv440p', 'nv12', 'yuv444p12le', 'rgba64le'])
def test_every_way_to_store_a_colour(tmp_path, pixel_format):
    frames = [frame.reformat(format=pixel_format) for frame in rgb_frames([np.full((48, 64, 3), (200, 60, 30), np.uint8)] * 3)]
    with av.open(str(tmp_path / 'a.nut'), 'w') as container:
        put(container, video_stream(container, 'rawvideo', (64, 48), pixel_format), frames)
    wanted = [98.5] * 3 if pixel_format.startswith('gray') else (200, 60, 30)
    np.testing.assert_allclose(read_frames(tmp_path / 'a.nut').images[1].reshape(-1, 3).mean(0), wanted, atol=3)


@pytest.mark.parametrize('begin', [-2., 95_440.])
def test_clocks_that_begin_before_zero_or_near_their_end(tmp_path, begin):
    """A transport stream counts to 95,443.7 s and begins anew."""
    path = tmp_path / ('a.mkv' if begin < 0 else 'a.ts')
    options = {'avoid_negative_ts': 'disabled', 'output_ts_offset': str(begin), 'muxdelay': '0'}
    with av.open(str(path), 'w', options=options) as container:
        put(container, video_stream(container, 'libx264', (64, 48), 'yuv420p'), rgb_frames(moving(64, 48, 100)))
    for expected, found in ((np.arange(100) / 25, read_frames(path)), (np.arange(50, 60) / 25, read_frames(path, start=2, end=2.4))):
        np.testing.assert_allclose(found.times, expected, atol=2e-3)


@pytest.mark.parametrize('suffix', ['ts', 'mpg'])
def test_a_running_clock_begins_with_the_file(tmp_path, suffix):
    """Transport and program streams count on from somewhere: FFmpeg writes them from 1.4 or .5 s on."""
    path = sound_file(tmp_path / f'a.{suffix}', np.stack([tone(2)] * 2, 1), codec='mp2', late=1., picture=True)
    frames, samples = read_frames(path), read_audio(path)
    np.testing.assert_allclose(frames.times, np.arange(100) / 25, atol=2e-3)
    assert np.argmax(np.abs(samples) > .1) / 22050 == pytest.approx(1, abs=.04)


def test_a_time_is_found_in_a_stream_that_was_joined_from_two(tmp_path):
    for name, colour in (('a', (200, 60, 30)), ('b', (30, 60, 200))):
        with av.open(str(tmp_path / f'{name}.ts'), 'w') as container:
            put(container, video_stream(container, 'libx264', (64, 48), 'yuv420p'), rgb_frames(moving(64, 48, 50, colour)))
    path = tmp_path / 'joined.ts'
    path.write_bytes(b''.join((tmp_path / f'{name}.ts').read_bytes() for name in 'ab'))
    whole = read_frames(path)
    np.testing.assert_allclose(whole.times, np.arange(100) / 25, atol=2e-3)
    for start in (1., 3.):
        part = read_frames(path, start=start, end=start + .2)
        first = round(start * 25)
        np.testing.assert_allclose(part.times, whole.times[first:first + 5], atol=2e-3)
        np.testing.assert_array_equal(part.images, whole.images[first:first + 5])


def test_a_track_without_a_frame_is_not_taken(tmp_path):
    """The head of the file names a second track of which nothing was written."""
    with av.open(str(tmp_path / 'a.mkv'), 'w') as container:
        still = video_stream(container, 'mjpeg', (96, 64), 'yuvj420p')
        video_stream(container, 'libx264', (192, 128), 'yuv420p')
        put(container, still, [frame.reformat(format='yuvj420p') for frame in rgb_frames(moving(96, 64, 1))])
    frames = read_frames(tmp_path / 'a.mkv')
    assert frames.images.shape == (1, 64, 96, 3) and frames.info.stream == 0


# ---- photographs

@pytest.mark.parametrize('suffix', ['jpg', 'png', 'tiff', 'webp', 'avif'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_photographs_stand_upright(tmp_path, suffix, orientation):
    image = np.full((48, 64, 3), 90, np.uint8)
    image[:24, :32], image[24:, 32:] = (200, 60, 30), (20, 20, 220)
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.fromarray(image).save(tmp_path / f'a.{suffix}', exif=exif, quality=95)
    turn = [None, None, 'FLIP_LEFT_RIGHT', 'ROTATE_180', 'FLIP_TOP_BOTTOM', 'TRANSPOSE', 'ROTATE_270', 'TRANSVERSE', 'ROTATE_90'][orientation]
    upright = np.asarray(Image.fromarray(image).transpose(Image.Transpose[turn]) if turn else image)
    found = read_frames(tmp_path / f'a.{suffix}').images
    assert found.shape == (1, *upright.shape) and np.abs(found[0].astype(int) - upright).mean() < 6


def box(name, *content):
    """A box of an MP4 or HEIC file."""
    content = b''.join(content)
    return (len(content) + 8).to_bytes(4, 'big') + name + content


def heic_file(path, colours, grid=False, turned=0):
    """A HEIC file with a picture of 64 x 48 in each colour; the first is shown, or all side by side as tiles of one."""
    items, setup = [], b''
    for colour in colours:
        with av.open(str(path.with_suffix('.mp4')), 'w') as container:
            stream = video_stream(container, 'libx265', (64, 64), 'yuv420p', options={'x265-params': 'log-level=none:bframes=0'})
            put(container, stream, rgb_frames([np.full((64, 64, 3), colour, np.uint8)]))
        data = path.with_suffix('.mp4').read_bytes()
        at = data.index(b'hvcC') - 4
        setup = data[at:at + int.from_bytes(data[at:at + 4], 'big')]
        at = data.index(b'mdat')
        items.append((b'hvc1', data[at + 4:at - 4 + int.from_bytes(data[at - 4:at], 'big')]))
    if grid:
        items.append((b'grid', bytes([0, 0, 0, len(colours) - 1]) + np.array([64 * len(colours), 64], '>u2').tobytes()))
    numbers, version = range(1, len(items) + 1), bytes(4)
    sides = [64 * len(colours) if kind == b'grid' else 64 for kind, _ in items]
    properties = [setup, box(b'irot', bytes([turned])), *(box(b'ispe', version, np.array([side, 64], '>u4').tobytes()) for side in sides)]
    uses = [[1, 3 + k] if kind == b'hvc1' and (grid or k) else [*([1] if kind == b'hvc1' else []), 3 + k, 2] for k, (kind, _) in enumerate(items)]

    def meta(begin):
        """The description of the file, whose pictures begin at a byte."""
        begins = begin + np.r_[0, np.cumsum([len(data) for _, data in items])]
        places = b''.join(np.array([number, 0, 1], '>u2').tobytes() + np.array([at, len(data)], '>u4').tobytes() for number, at, (_, data) in zip(numbers, begins, items))
        names = (box(b'infe', b'\2\0\0\0', np.array([number, 0], '>u2').tobytes(), kind, b'\0') for number, (kind, _) in zip(numbers, items))
        used = (number.to_bytes(2, 'big') + bytes([len(use), *(each | 128 * (each < 3) for each in use)]) for number, use in zip(numbers, uses))
        parts = box(b'iref', version, box(b'dimg', np.array([len(items), len(colours), *numbers[:-1]], '>u2').tobytes())) if grid else b''
        return box(
            b'meta', version, box(b'hdlr', bytes(8), b'pict', bytes(13)), box(b'pitm', version, (len(items) if grid else 1).to_bytes(2, 'big')),
            box(b'iloc', version, b'\x44\0', len(items).to_bytes(2, 'big'), places), box(b'iinf', version, len(items).to_bytes(2, 'big'), *names),
            box(b'iprp', box(b'ipco', *properties), box(b'ipma', version, len(items).to_bytes(4, 'big'), *used)), parts,
        )

    kind = box(b'ftyp', b'heic', bytes(4), b'mif1heic')
    path.write_bytes(kind + meta(len(kind) + len(meta(0)) + 8) + box(b'mdat', *(data for _, data in items)))
    return path


@pytest.mark.parametrize('count', [1, 2])
def test_heic_in_one_piece_is_read(tmp_path, count):
    """A second picture, such as a small one for lists, is not shown."""
    found = read_frames(heic_file(tmp_path / 'a.heic', [(200, 60, 30), (30, 60, 200)][:count]))
    assert found.images.shape == (1, 64, 64, 3) and found.info.rotation == 0
    np.testing.assert_allclose(found.images[0].mean((0, 1)), (200, 60, 30), atol=5)
    assert probe(heic_file(tmp_path / 'b.heic', [(200, 60, 30)], turned=1)).rotation == 90


def test_heic_in_tiles_is_joined(tmp_path):
    found = read_frames(heic_file(tmp_path / 'a.heic', [(200, 60, 30), (30, 60, 200)], grid=True))
    assert found.images.shape == (1, 64, 128, 3) and found.info.codec == 'heic'
    for half, colour in zip(np.split(found.images[0], 2, axis=1), [(200, 60, 30), (30, 60, 200)]):
        np.testing.assert_allclose(half.mean((0, 1)), colour, atol=5)


def test_large_heic_of_a_phone(tmp_path):
    """Twelve million pixels in tiles of 512 x 512, as phones store them: the size is even, the tiles overhang."""
    tiles = heic_file(tmp_path / 'a.heic', [(40 * k, 60, 30) for k in range(6)], grid=True)
    found = read_frames(tiles, short_side=32)
    assert found.images.shape == (1, 32, 192, 3)
    np.testing.assert_allclose(found.images[0, 16, 16::32, 0], 40 * np.arange(6), atol=6)


def test_damaged_heic_in_tiles_is_named(tmp_path):
    """One tile alone is never shown as the picture."""
    data = bytearray(heic_file(tmp_path / 'a.heic', [(200, 60, 30), (30, 60, 200)], grid=True).read_bytes())
    at = data.index(b'hvcC') + 40
    data[at:at + 40] = bytes(40)
    (tmp_path / 'a.heic').write_bytes(data)
    for read in (probe, read_frames):
        with pytest.raises(MediaError) as caught:
            read(tmp_path / 'a.heic')
        assert '\n' not in str(caught.value)


@pytest.mark.parametrize('alpha, wanted', [(255, (200, 60, 30)), (0, (255, 255, 255)), (128, (227, 157, 142))])
def test_transparent_heic_is_composed(tmp_path, alpha, wanted):
    pixels = np.full((64, 64, 4), (200, 60, 30, alpha), np.uint8)
    pillow_heif.from_bytes('RGBA', (64, 64), pixels.tobytes()).save(tmp_path / 'a.heic', quality=100)
    np.testing.assert_allclose(read_frames(tmp_path / 'a.heic').images[0].mean((0, 1)), wanted, atol=5)


# the number of 203 cd/m2, paper white, by the formula of SMPTE ST 2084
PQ_WHITE = ((3424 / 4096 + 2413 / 128 * (203 / 10000)**(2610 / 16384)) / (1 + 2392 / 128 * (203 / 10000)**(2610 / 16384)))**(2523 / 32)


def white_heic(path, primaries, transfer):
    """A HEIC picture of ten bits that is white as paper."""
    number = round(65535 * (PQ_WHITE if transfer == 16 else 1))
    pillow_heif.from_bytes('RGB;16', (64, 64), np.full((64, 64, 3), number, '<u2').tobytes()).save(
        path, quality=100, color_primaries=primaries, transfer_characteristics=transfer, matrix_coefficients=9, full_range_flag=1)
    return path


def test_hdr_heic_is_tone_mapped(tmp_path):
    """Paper white, 203 cd/m2, is far below the middle of PQ's numbers, and white on a screen."""
    found = read_frames(white_heic(tmp_path / 'a.heic', 9, 16))
    assert found.info.hdr and found.images.min() >= 230
    assert read_frames(white_heic(tmp_path / 'b.heic', 1, 13)).images.min() >= 250


@pytest.mark.parametrize('tags, wanted', [
    (dict(color_primaries=9, color_trc=16, colorspace=9), 'smpte2084'),
    (dict(color_primaries=9, color_trc=18, colorspace=9), 'arib-std-b67'),
])
def test_hdr_avif_is_tone_mapped(tmp_path, tags, wanted):
    level = PQ_WHITE if wanted == 'smpte2084' else .75
    grey = np.full((64, 64), round((64 + 876 * level)), '<u2')
    path = tmp_path / 'a.avif'
    with av.open(str(path), 'w', format='avif') as container:
        stream = container.add_stream('libaom-av1' if 'libaom-av1' in av.codecs_available else 'libsvtav1', rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 64, 'yuv420p10le'
        for name, code in tags.items():
            setattr(stream.codec_context, name, code)
        frame = av.VideoFrame(64, 64, 'yuv420p10le')
        for plane, value in zip(frame.planes, (grey, np.full((32, 32), 512, '<u2'), np.full((32, 32), 512, '<u2'))):
            rows = np.zeros((plane.height, plane.line_size // 2), '<u2')
            rows[:, :plane.width] = value
            plane.update(rows.tobytes())
        for name, code in tags.items():
            setattr(frame, name, code)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    found = read_frames(path)
    assert found.info.transfer == wanted and found.images.min() >= 230


def colour_profile(red, green, blue):
    """An ICC profile of version 4 by hand: three colorants in XYZ and the curve of sRGB."""
    def fixed(*numbers):
        return (np.array(numbers) * 65536).round().astype('>i4').tobytes()

    curve = b'para' + bytes(4) + b'\0\3\0\0' + fixed(2.4, 1 / 1.055, .055 / 1.055, 1 / 12.92, .04045)
    name = b'mluc' + bytes(4) + np.array([1, 12], '>u4').tobytes() + b'enUS' + np.array([10, 28], '>u4').tobytes() + 'vivid'.encode('utf-16be')
    tags = {b'desc': name, b'cprt': name, b'wtpt': b'XYZ ' + bytes(4) + fixed(.9642, 1, .8249), b'rTRC': curve, b'gTRC': curve, b'bTRC': curve}
    tags |= {mark: b'XYZ ' + bytes(4) + fixed(*numbers) for mark, numbers in zip((b'rXYZ', b'gXYZ', b'bXYZ'), (red, green, blue))}
    table, data = len(tags).to_bytes(4, 'big'), b''
    for mark, content in tags.items():
        table += mark + np.array([132 + 12 * len(tags) + len(data), len(content)], '>u4').tobytes()
        data += content + bytes(-len(content) % 4)
    head = bytes(8) + b'\4\x30\0\0mntrRGB XYZ ' + bytes(12) + b'acsp' + bytes(28) + fixed(.9642, 1, .8249)
    head = head.ljust(128, b'\0')
    return (len(head + table + data)).to_bytes(4, 'big') + head[4:] + table + data


# Display P3, adapted to the white of profiles (D50)
DISPLAY_P3 = [(.51512, .24120, -.00105), (.29198, .69225, .04189), (.15710, .06657, .78407)]


@pytest.mark.parametrize('suffix, transparent', [
    ('jpg', False), *((suffix, whether) for suffix in ('png', 'tiff', 'webp', 'avif', 'heic') for whether in (False, True)),
])
def test_colour_profiles_count(tmp_path, suffix, transparent):
    """(185, 71, 44) of Display P3 is (200, 60, 30) of sRGB, worked out by the matrices and the curve."""
    curve = lambda v: np.where(v <= .04045, v / 12.92, ((v + .055) / 1.055)**2.4)  # noqa: E731
    srgb = np.array([(.43607, .22249, .01392), (.38515, .71687, .09708), (.14307, .06061, .71410)]).T
    light = np.linalg.solve(srgb, np.array(DISPLAY_P3).T @ curve(np.array([185, 71, 44]) / 255))
    wanted = 255 * np.where(light <= .0031308, 12.92 * light, 1.055 * np.abs(light)**(1 / 2.4) - .055)
    np.testing.assert_allclose(wanted, (200, 60, 30), atol=1)
    image = Image.new('RGBA' if transparent else 'RGB', (64, 64), (185, 71, 44, 128) if transparent else (185, 71, 44))
    path, profile = tmp_path / f'a.{suffix}', colour_profile(*DISPLAY_P3)
    if suffix == 'heic':
        pillow_heif.from_pillow(image).save(path, quality=100, icc_profile=profile)
    else:
        image.save(path, icc_profile=profile, **({} if suffix == 'tiff' else {'quality': 100}))
    found = read_frames(path)
    if transparent:
        wanted = (wanted * 128 + 255 * 127) / 255
    np.testing.assert_allclose(found.images[0].mean((0, 1)), wanted, atol=3)
    assert found.info.profile == 'vivid' and probe(path).profile == 'vivid'


@pytest.mark.parametrize('suffix', ['png', 'apng', 'mov'])
def test_profile_of_a_png_does_not_end_the_process(tmp_path, suffix):
    """PyAV frees the name of such a profile twice; the process ended when its memory was tidied."""
    image = Image.new('RGB', (64, 48), (200, 60, 30))
    path, profile = tmp_path / f'a.{suffix}', colour_profile(*DISPLAY_P3)
    if suffix == 'png':
        image.save(path, icc_profile=profile)
    elif suffix == 'apng':
        image.save(path, format='PNG', icc_profile=profile, save_all=True, append_images=[Image.new('RGB', (64, 48))], duration=100)
    else:
        image.save(tmp_path / 'a.png', icc_profile=profile)
        with av.open(str(tmp_path / 'a.png')) as source, av.open(str(path), 'w') as container:
            stream = container.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    container.mux(packet)
    program = (
        'import gc, sys\nfrom microvid_nb.media.video import read_frames\n'
        'for _ in range(30):\n    read_frames(sys.argv[1])\n    gc.collect()\nprint("read")'
    )
    done = subprocess.run([sys.executable, '-c', program, str(path)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == 'read\n', done.stderr
