"""Splices say truly what each frame of their files shows, to the frame, for photographs, clips and sound."""
import importlib.util
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microvid_nb.data import splices
from microvid_nb.data.splices import SPLICE_RATE, read_photograph, splice
from microvid_nb.media.audio import read_audio
from microvid_nb.media.video import MediaError, probe, read_frames

COLOURS = {'red': (200, 40, 40), 'green': (40, 180, 40), 'blue': (40, 40, 200), 'grey': (128, 128, 128)}
PLAIN = {name: np.full((60, 100, 3), colour, np.uint8) for name, colour in COLOURS.items()}


def colour_of(image) -> str:
    mean = image.mean((0, 1))
    return min(COLOURS, key=lambda name: np.abs(mean - COLOURS[name]).max())


@settings(max_examples=15, deadline=None)
@given(fps=st.sampled_from([10, 24, 30000/1001, 60]), frames=st.integers(2, 20),
       labels=st.lists(st.sampled_from(sorted(COLOURS)), min_size=1, max_size=5))
def test_cuts_are_exact_to_the_frame(tmp_path_factory, fps, frames, labels):
    path = tmp_path_factory.mktemp('cuts')/'cuts.mp4'
    made = splice(path, [(label, PLAIN[label]) for label in labels], seconds=frames/fps, fps=fps, size=(64, 36))
    decoded = read_frames(path)
    assert [colour_of(image) for image in decoded.images] == [label for label in labels for _ in range(frames)]
    assert [made.labels(time) for time in decoded.times] == [[label] for label in labels for _ in range(frames)]
    assert made.truth.end.iloc[-1] == pytest.approx(probe(path).duration, abs=1e-3)


def mixed(blue: float) -> np.ndarray:
    return (1 - blue)*np.array(COLOURS['red']) + blue*np.array(COLOURS['blue'])


def test_a_dissolve_shows_both_and_nothing_else(tmp_path):
    parts = {name: PLAIN[name] for name in ('red', 'blue')}
    made = splice(tmp_path/'a.mp4', parts, seconds=1, fps=20, size=(64, 36), join='dissolve', between=.5, crf=0)
    decoded = read_frames(made.path)
    assert len(decoded.images) == 30
    for t, (image, time) in enumerate(zip(decoded.images, decoded.times)):
        blue = np.clip((t - 9)/11, 0, 1)
        assert np.allclose(image.mean((0, 1)), mixed(blue), atol=4)
        assert made.labels(time) == ['red']*int(t < 20) + ['blue']*int(t > 9)


def test_a_fade_is_dark_in_the_middle_and_parts_there(tmp_path):
    parts = {name: PLAIN['grey'] for name in ('first', 'second')}
    made = splice(tmp_path/'a.mp4', parts, seconds=1, fps=20, size=(64, 36), join='fade', between=.45, crf=0)
    levels = read_frames(made.path).images.mean((1, 2, 3))
    assert len(levels) == 40
    assert np.allclose(levels[11:20], 128*np.arange(9, 0, -1)/10, atol=4)
    assert np.allclose(levels[20:], levels[19::-1], atol=4)
    assert made.truth.start.tolist() == [0, 1] and made.truth.end.tolist() == [1, 2]


def test_parts_of_clips_are_as_the_clip_has_them(tmp_path, sample):
    made = splice(tmp_path/'a.mp4', {'clip': sample, 'red': PLAIN['red']}, seconds=1, fps=12, size=(320, 180), seed=3)
    decoded, whole = read_frames(made.path), read_frames(sample, fps=12, short_side=180).images.astype(float)
    distance = [np.abs(whole - image).mean((1, 2, 3)) for image in decoded.images[:12]]
    nearest = [int(each.argmin()) for each in distance]
    assert max(each.min() for each in distance) < 8
    assert nearest[-1] - nearest[0] == pytest.approx(11, abs=1)
    assert colour_of(decoded.images[12]) == 'red'


def test_a_short_clip_is_shown_whole(tmp_path):
    short = splice(tmp_path/'short.mp4', {'blue': PLAIN['blue']}, seconds=.5, fps=24, size=(64, 36)).path
    made = splice(tmp_path/'a.mp4', {'blue': short, 'red': PLAIN['red']}, seconds=1, fps=24, size=(64, 36))
    assert made.truth.end.tolist() == [.5, 1.5]
    assert [colour_of(image) for image in read_frames(made.path).images] == ['blue']*12 + ['red']*24


def test_sound_changes_where_the_picture_does(tmp_path):
    tone = (.3*np.sin(2*np.pi*500*np.arange(SPLICE_RATE)/SPLICE_RATE)).astype(np.float32)
    made = splice(tmp_path/'a.mp4', {'red': PLAIN['red'], 'blue': PLAIN['blue']}, seconds=1, sounds={'blue': tone})
    samples = read_audio(made.path, SPLICE_RATE)
    level = np.array([np.abs(samples[i:i + 441]).mean() for i in range(0, 2*SPLICE_RATE - 441, 441)])
    assert level[:97].max() < .01 and level[103:197].min() > .1
    assert not probe(splice(tmp_path/'b.mp4', {'red': PLAIN['red']}, seconds=1).path).has_audio


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(splices, 'find_spec', lambda name: None)
    with pytest.raises(ModuleNotFoundError, match='pip install scikit-image'):
        read_photograph('cat')


def test_a_damaged_clip_is_named(tmp_path):
    (tmp_path/'bad.mp4').write_bytes(b'no clip'*100)
    with pytest.raises(MediaError, match='bad.mp4'):
        splice(tmp_path/'a.mp4', {'bad': tmp_path/'bad.mp4'})
    assert not (tmp_path/'a.mp4').exists()


def test_photographs_are_read_without_their_packages():
    """Only the files are read: scikit-image alone takes a second to import."""
    code = ("import sys; from microvid_nb.data.splices import read_photograph; "
            "assert read_photograph('cat').shape == (300, 451, 3); assert 'skimage.data' not in sys.modules")
    assert importlib.util.find_spec('skimage')
    subprocess.run([sys.executable, '-c', code], check=True)


@pytest.mark.parametrize('join', ['cut', 'dissolve', 'fade'])
def test_real_clips(tmp_path, media, join):
    clips = sorted((media/'videos').glob('*.mp4'))[:3]
    made = splice(tmp_path/'a.mp4', {clip.stem: clip for clip in clips}, seconds=1.5, join=join, between=.25)
    decoded = read_frames(made.path)
    assert decoded.times[-1] < made.truth.end.iloc[-1] <= decoded.times[-1] + 2/24
    assert all(made.labels(time) for time in decoded.times)
