"""The shots of a GIF hold no cut and no black frame, keep apart where there is room, and are as many as asked."""
import csv
import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microvid_nb.data.splices import splice
from microvid_nb.gif.baselines import BeautThumb
from microvid_nb.gif.select import choose_starts, how_many_fit, select_gif
from microvid_nb.media.candidates import CutFinder, find_cuts
from microvid_nb.media.render import write_video
from microvid_nb.media.survey import shot_frames, shot_starts, survey_video
from microvid_nb.media.video import Frames, read_frames

# what TransNetV2 finds in the clips (seconds; a run of its results): independent of the finder under test
KNOWN = {
    'androidx_bbb_square_vp9.webm': [.18], 'androidx_clock_square.mp4': [.32], 'androidx_roadtrip_vp9_10bit.webm': [1.73],
    'streamio_man_talking.mp4': [.7], 'torchcodec_nasa.mp4': [5.47, 7.99],
}


class Adjacent:
    """A method that prefers shots back to back."""

    def score(self, survey):
        place = np.zeros(len(survey.shot_times), int)
        place[:3] = 1, 2, 3
        return pd.DataFrame({'time': survey.shot_times, 'place': place})


def clips(media):
    with open(media / 'MANIFEST.csv', newline='', encoding='utf-8') as file:
        return [media / row['path'] for row in csv.DictReader(file) if row['path'].startswith('videos/')]


@pytest.mark.check
def test_every_real_clip(media):
    wrong = []
    for path in clips(media):
        survey = survey_video(path)
        for model in (None, BeautThumb(), Adjacent()):
            gif, length = select_gif(survey, model), survey.end - survey.frames.times[0]
            name, times = f'{path.name} {model}', np.sort(gif.times)
            if len(times) != 3:
                wrong.append(f'{name}: {len(times)} shots')
            if np.diff(times).min() < gif.seconds - 1e-3:
                wrong.append(f'{name}: shots overlap')
            if length >= 6 and np.diff(times).min() < gif.seconds + .25 - 1e-3:
                wrong.append(f'{name}: back to back')
            if 'holds a cut' in gif.warning:
                if length >= 1.5:
                    wrong.append(f'{name}: {gif.warning}')
                continue
            if any(start + 1e-3 < cut < start + gif.seconds - 1e-3 for start in times for cut in KNOWN.get(path.name, [])):
                wrong.append(f'{name}: holds a cut, {times}')
            if any(image.mean() < 8 for shot in gif.shots for image in shot):
                wrong.append(f'{name}: black')
            if length >= 3 and gif.seconds == 1 and any(len(shot) < 7 for shot in gif.shots):
                wrong.append(f'{name}: short shots')
    assert not wrong, wrong


@pytest.mark.parametrize('join', ['cut', 'dissolve', 'fade'])
@pytest.mark.parametrize('seed', range(2))
def test_joins_are_found_and_kept_out(tmp_path, join, seed):
    pytest.importorskip('skimage')
    names = ['cat', 'coffee', 'rocket', 'temple', 'flower']
    between = 0. if join == 'cut' else .5
    made = splice(tmp_path / 'a.mp4', {name: name for name in names}, join=join, between=between, seed=seed)
    begin, end = made.truth.start.to_numpy()[1:], made.truth.end.to_numpy()[:-1]
    true = [(min(a, b) - between * (join == 'fade'), max(a, b) + between * (join == 'fade')) for a, b in zip(begin, end)]
    survey = survey_video(made.path)
    for first, last in true:
        assert any(a <= last + .13 and b >= first - .13 for a, b in survey.transitions), (first, last)
    for a, b in survey.transitions:
        assert any(a <= last + .13 and b >= first - .13 for first, last in true), (a, b)
    gif = select_gif(survey)
    assert len(gif.times) == 3 and not gif.warning
    for start in gif.times:
        # the last weights of a transition are too small to be seen
        assert not any(start < last - .13 and start + gif.seconds > first + .13 for first, last in true)
    candidates = survey.candidates
    for time in candidates.times:
        assert not any(first + .13 < time < last - .13 for first, last in true if last - first > .3)


@pytest.mark.parametrize('seed', range(3))
def test_a_moving_camera_is_no_cut(tmp_path, seed):
    """A window moves over one photograph, as fast as one picture's width in a second, and shakes."""
    pytest.importorskip('skimage')
    from microvid_nb.data.splices import read_photograph
    image, rng = read_photograph('motorcycle')[::2, ::2], np.random.default_rng(seed)
    high, wide = 120, 160
    free = np.array(image.shape[:2]) - (high, wide)
    way = free / 2 * (1 + .9 * np.sin(np.arange(60)[:, None] / 8 * rng.uniform(1, 2, 2) + rng.uniform(0, 6, 2)))
    way = np.clip(way + rng.normal(0, 2, way.shape), 0, free).astype(int)
    images = np.stack([image[y:y + high, x:x + wide] for y, x in way])
    assert not len(find_cuts(Frames(images, np.arange(60) / 8, None)))


def test_a_flash_is_no_cut_and_another_picture_is_one():
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((15, 20, 1))).astype(np.uint8)
    images = np.repeat(image[None], 40, 0)
    images[20] = 255
    assert not len(find_cuts(Frames(images, np.arange(40) / 8, None)))
    images[25:] = np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((15, 20, 1)))
    assert find_cuts(Frames(images, np.arange(40) / 8, None)).tolist() == [24.5 / 8]


def test_shapes_that_change_and_tiny_pictures():
    finder, rng = CutFinder(), np.random.default_rng(0)
    for number, (high, wide) in enumerate([(1, 1), (2, 3), (500, 4), (4, 500), (90, 160)] * 5):
        finder.see(number / 8, rng.integers(0, 256, (high, wide, 3), np.uint8))
    assert finder.finish().shape[1] == 2 and CutFinder().finish().shape == (0, 2)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 24), unique=True, max_size=9), st.lists(st.integers(0, 24), unique=True, max_size=2),
       st.integers(1, 9))
def test_room_by_trying_all_sets(free, taken, apart):
    taken = [] if len(taken) == 2 and abs(taken[0] - taken[1]) < apart else taken
    def allowed(chosen): return all(abs(a - b) >= apart for a, b in itertools.combinations(chosen, 2))
    best = max(len(extra) for size in range(len(free) + 1) for extra in itertools.combinations(free, size)
               if allowed([*taken, *extra]))
    assert how_many_fit(np.sort(np.array(free, float)), taken, apart, 99) == best + len(taken)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(0, 4))
def test_as_many_as_fit_are_chosen(seed, apart, more):
    rng = np.random.default_rng(seed)
    times = np.sort(rng.choice(30, 12, replace=False)).astype(float)
    starts = pd.DataFrame({'time': times, 'level': 0, 'row': times.astype(int) // 3})
    room = how_many_fit(times, [], apart, 3)
    chosen = choose_starts(starts, rng.permutation(10), rng.integers(0, 3, 10), room, apart, apart + more)
    assert len(chosen) == room and all(abs(a - b) >= apart for a, b in itertools.combinations(chosen, 2))


def test_a_black_beginning_is_skipped(tmp_path, sample):
    images = read_frames(sample, fps=12, start=7., end=9.).images
    path = write_video(tmp_path / 'a.mp4', [*np.zeros_like(images[:8]), *np.concatenate([images] * 3)], fps=12)
    survey = survey_video(path)
    gif = select_gif(survey)
    assert gif.times.min() >= 8 / 12 - .01 and (shot_starts(survey).level[:4] >= 2).all()
    assert all(image.mean() > 20 for shot in gif.shots for image in shot)


def test_frames_of_a_shot_are_sampled_at_the_rate_asked(tmp_path):
    """Each frame of the file has its own grey level, so a repeated one shows."""
    levels = np.arange(20, 140, 2)
    path = write_video(tmp_path / 'a.mp4', [np.full((180, 400, 3), level, np.uint8) for level in levels], fps=30, crf=5)
    survey = survey_video(path)
    shot = shot_frames(survey, .5, seconds=1., fps=30, width=400)
    assert shot.shape == (30, 180, 400, 3)
    assert shot.mean((1, 2, 3)) == pytest.approx(levels[15:45], abs=2)
    assert shot_frames(survey, .5, seconds=1., width=200).shape[2] == 200
    assert shot_frames(survey, .5, width=4000).shape[2] == 400
