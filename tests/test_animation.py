"""Animations, sprites and pictures as other libraries read them; still areas stay still."""
import re
from io import BytesIO

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from microvid_nb.media.animation import read_shots, write_animation
from microvid_nb.media.crop import crop_box
from microvid_nb.media.render import dither_images, gif_palette, write_gif, write_picture, write_video
from microvid_nb.media.sprites import cover_picture, diverse_frames, write_sprites
from microvid_nb.media.video import MediaError


@pytest.fixture(scope='module')
def counted(tmp_path_factory):
    """Four seconds at 24 frames a second, in which each frame says its number by the height of a bar."""
    images = np.full((96, 90, 160, 3), 40, np.uint8)
    for number, image in enumerate(images):
        image[:, 40:120] = 90
        image[90 - number * 90 // 96:, 60:100] = (250, 220, 60)
    return write_video(tmp_path_factory.mktemp('counted') / 'counted.mp4', images, 24, crf=8)


def frames_of(path) -> list[np.ndarray]:
    with Image.open(path) as picture:
        found = []
        for number in range(picture.n_frames):
            picture.seek(number)
            found.append(np.array(picture.convert('RGB')))
        return found


def bar(image: np.ndarray) -> float:
    """The height of the bar, as a share of the picture."""
    middle = image[:, image.shape[1] // 2].astype(int)
    return float(np.mean(middle[:, 0] - middle[:, 2] > 80))


@pytest.mark.parametrize('fps', [4, 12, 24])
def test_frames_are_sampled_from_the_source(counted, tmp_path, fps):
    write_animation(tmp_path / 'a.gif', counted, [1], seconds=2, fps=fps, width=160)
    heights = [bar(image) for image in frames_of(tmp_path / 'a.gif')]
    wanted = [(24 + 24 * k / fps) / 96 for k in range(2 * fps)]
    assert len(heights) == len(wanted) and np.abs(np.subtract(heights, wanted)).max() < .03


@pytest.mark.parametrize('suffix', ['gif', 'webp', 'apng', 'png', 'mp4'])
def test_formats_are_read_by_opencv_and_pyav(counted, tmp_path, suffix):
    path = write_animation(tmp_path / f'a.{suffix}', counted, [0, 2], fps=8, width=100, crop='1:1').path
    if suffix == 'mp4':
        video, shown = cv2.VideoCapture(str(path)), []
        while (read := video.read())[0]:
            shown.append(read[1][..., ::-1])
    else:
        shown = frames_of(path)
    assert len(shown) == 16 and all(abs(side - 90) <= 1 for side in shown[0].shape[:2])
    assert [bar(image) for image in shown] == pytest.approx([*np.arange(8) / 32, *(.5 + np.arange(8) / 32)], abs=.04)
    if suffix in ('gif', 'mp4'):
        with av.open(str(path)) as container:
            assert sum(1 for _ in container.decode(video=0)) == 16


@pytest.mark.parametrize('suffix', ['gif', 'webp', 'mp4', 'apng'])
def test_a_limit_in_kilobytes_is_kept_and_named(sample, tmp_path, suffix):
    free = write_animation(tmp_path / f'a.{suffix}', sample, [1, 7.5], fps=8, width=160)
    tight = write_animation(tmp_path / f'b.{suffix}', sample, [1, 7.5], fps=8, width=160, max_kb=free.bytes / 2500)
    assert tight.bytes == (tmp_path / f'b.{suffix}').stat().st_size <= free.bytes / 2.5
    assert not free.gave_way and tight.gave_way[0].startswith('quality 80 -> ')
    order = [next(i for i, word in enumerate(('quality', 'colours', 'frames', 'width')) if text.startswith(word))
             for text in tight.gave_way]
    assert order == sorted(order)


def test_equal_shots_give_equal_bytes(counted, tmp_path):
    for suffix in ('gif', 'webp', 'mp4', 'apng'):
        files = [write_animation(tmp_path / f'{k}.{suffix}', counted, [1], width=80).path for k in range(2)]
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize('dither', ['none', 'bayer', 'floyd'])
def test_still_areas_do_not_flicker(tmp_path, dither):
    """Noise of a camera over a still scene, with one thing that moves; without the rule the same pixels do flicker."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:80, :120]
    still = np.stack([80 + x, 60 + y, 200 - x], -1)
    scene = np.clip(still + random.normal(0, 1.2, (12, 80, 120, 3)), 0, 255).astype(np.uint8)
    for number, image in enumerate(scene):
        image[5:20, 8 * number:8 * number + 15] = 255
    shares = {}
    for quality in (100, 80):
        shown = frames_of(write_gif(tmp_path / 'a.gif', [scene], width=120, dither=dither, quality=quality))
        shares[quality] = np.mean(np.any(np.diff(shown, axis=0)[:, 25:] != 0, -1))
    assert shares[80] < .02 and shares[100] > 5 * shares[80]
    assert np.all(shown[6][8:17, 51:60] > 240)  # what moves is shown where it is


def test_a_slow_change_is_not_held_for_ever(tmp_path):
    fade = np.repeat(np.arange(40, 200, 4, dtype=np.uint8)[:, None, None, None], 3, -1) * np.ones((1, 24, 24, 1), np.uint8)
    shown = frames_of(write_gif(tmp_path / 'a.gif', [fade], width=24))
    assert max(np.abs(a.astype(int) - b).max() for a, b in zip(shown, fade)) <= 8


@pytest.mark.parametrize('colours', [1, 15, 64, 255])
def test_dithered_colours_keep_their_mean(colours):
    y, x = np.mgrid[:64, :64]
    ramp = np.stack([4 * x, 4 * y, 2 * (x + y)], -1)[None].astype(np.uint8)
    palette = gif_palette(ramp, colours)
    shown = palette[dither_images(ramp, palette, 'floyd')]
    assert len(palette) <= colours and len(np.unique(shown.reshape(-1, 3), axis=0)) <= colours
    assert np.abs(shown.mean((0, 1, 2)) - ramp.mean((0, 1, 2))).max() < 6


@pytest.mark.parametrize('suffix', ['jpg', 'png', 'webp', 'avif'])
def test_pictures_are_read_by_another_library(pictures, tmp_path, suffix):
    path = write_picture(tmp_path / f'a.{suffix}', pictures[5])
    if suffix == 'avif':
        with av.open(str(path)) as container:
            shown = next(container.decode(video=0)).to_ndarray(format='rgb24')
    else:
        shown = cv2.imread(str(path))[..., ::-1]
    assert shown.shape == pictures[5].shape and np.abs(shown.astype(float) - pictures[5]).mean() < 10


def test_sprites_hold_the_frame_of_their_seconds(counted, tmp_path):
    vtt, *sheets = write_sprites(tmp_path / 'a.vtt', counted, seconds=.5, width=80, columns=3, rows=2, suffix='.png')
    cues = re.findall(r'([\d:.]+) --> ([\d:.]+)\n(.+)#xywh=(\d+),(\d+),(\d+),(\d+)', vtt.read_text())
    assert len(cues) == 8 and len(sheets) == 2 and cues[3][:2] == ('00:00:01.500', '00:00:02.000')
    for number, (_, _, name, *place) in enumerate(cues):
        x, y, width, height = map(int, place)
        sprite = cv2.imread(str(tmp_path / name))[y:y + height, x:x + width, ::-1]
        assert bar(sprite) == pytest.approx(number / 8, abs=.04)


def test_a_cover_of_a_sound_file_is_read(tmp_path):
    """An ID3 tag written by hand before a second of MP3."""
    image = np.full((32, 48, 3), (200, 40, 40), np.uint8)
    buffer, sound = BytesIO(), BytesIO()
    Image.fromarray(image).save(buffer, 'PNG')
    body = b'\0image/png\0\x03\0' + buffer.getvalue()
    frame = b'APIC' + len(body).to_bytes(4, 'big') + b'\0\0' + body
    size = bytes((len(frame) >> shift) & 127 for shift in (21, 14, 7, 0))
    with av.open(sound, 'w', format='mp3') as container:
        stream = container.add_stream('mp3', rate=44100, layout='mono')
        quiet = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), 'fltp', 'mono')
        quiet.sample_rate = 44100
        fifo = av.AudioFifo()
        fifo.write(quiet)
        while (piece := fifo.read(1152)) is not None:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    (tmp_path / 'a.mp3').write_bytes(b'ID3\x03\0\0' + size + frame + sound.getvalue())
    assert np.array_equal(cover_picture(tmp_path / 'a.mp3'), image)


def test_chosen_frames_differ():
    random = np.random.default_rng(0)
    centres = 10 * np.eye(6)
    vectors = np.repeat(centres, 20, 0) + random.normal(0, .1, (120, 6))
    scores = np.repeat([1, .9, .8, .7, .6, .5], 20) + random.uniform(0, .05, 120)
    chosen = diverse_frames(vectors, scores, 6)
    assert sorted(chosen // 20) == list(range(6)) and chosen[0] == scores.argmax()


@pytest.mark.parametrize('seed', range(20))
def test_crops_hold_a_face_that_fits(seed):
    random = np.random.default_rng(seed)
    width, height = random.integers(50, 2000, 2)
    side = random.uniform(.05, .3) * min(width, height)
    left, top = random.uniform(0, width - side), random.uniform(0, height - side)
    face = left / width, top / height, (left + side) / width, (top + side) / height
    for aspect, ratio in (('1:1', 1), ('4:5', .8), ('16:9', 16 / 9)):
        box = crop_box((width, height), aspect, random.uniform(size=(9, 16)), [face])
        fits = (box[2] - box[0]) * width / ((box[3] - box[1]) * height)
        assert fits == pytest.approx(ratio) and np.all(np.subtract(face[:2], box[:2]) > -.01)
        assert np.all(np.subtract(box[2:], face[2:]) > -.01)


def test_a_place_that_cannot_be_written_is_named(counted, tmp_path):
    (tmp_path / 'file').write_text('in the way')
    for name in ('a.gif', 'a.mp4', 'a.webp'):
        with pytest.raises(OSError, match='file'):
            write_animation(tmp_path / 'file' / name, counted, [1], width=40)


def test_a_shot_after_the_end_is_an_error(counted):
    with pytest.raises(MediaError, match='shows no frame between 9 s and 10 s'):
        read_shots(counted, [9])


def test_commands_write_animations_and_sprites(sample, tmp_path, capsys):
    import json
    import sys
    from unittest.mock import patch

    from microvid_nb.cli import app

    def microvid(*arguments) -> list[dict]:
        with patch.object(sys, 'argv', ['microvid', *map(str, arguments), '--json', '--out', str(tmp_path)]):
            with pytest.raises(SystemExit) as end:
                app()
        assert end.value.code in (0, None)
        return json.loads(capsys.readouterr().out)
    for _ in range(2):  # a second run replaces its own outputs
        made, = microvid('gif', sample, '--format', 'webp', '--fps', 10, '--width', 96, '--seconds', '.5', '--shots', 2,
                         '--order', 'time', '--crop', '1:1', '--max-kb', 12)
        assert made['bytes'] <= 12_000 and made['times'] == sorted(made['times'])
        with Image.open(made['gif']) as picture:
            assert picture.format == 'WEBP' and picture.size[0] == picture.size[1] <= 96
        made, = microvid('sprites', sample, '--seconds', 2, '--width', 64, '--rows', 1, '--columns', 6)
        assert cv2.imread(made['sheets'][0]).shape == (36, 384, 3)
