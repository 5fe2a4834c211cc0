"""Five different still scenes between a black, a blurred and a uniform one give exactly the five."""
import cv2
import numpy as np
import pytest

from microvid_nb.media.candidates import candidate_frames
from microvid_nb.media.render import write_video
from microvid_nb.media.survey import survey_video
from microvid_nb.media.video import read_frames

HEIGHT, WIDTH, FPS = 240, 320, 24
Y, X = np.mgrid[:HEIGHT, :WIDTH]


def colour(rng, low=0, high=256):
    return tuple(int(level) for level in rng.integers(low, high, 3))


def mosaic(rng):
    return cv2.resize(
        rng.integers(0, 256, (12, 16, 3)).astype(np.uint8), (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST
    )


def discs(rng):
    image = np.full((HEIGHT, WIDTH, 3), colour(rng, 30, 220), np.uint8)
    for x, y, radius in zip(rng.integers(0, WIDTH, 8), rng.integers(0, HEIGHT, 8), rng.integers(10, 60, 8)):
        cv2.circle(image, (int(x), int(y)), int(radius), colour(rng), -1)
    return image


def checkers(rng):
    side = int(rng.integers(10, 40))
    return np.where(((X // side + Y // side) % 2)[..., None], colour(rng), colour(rng)).astype(np.uint8)


def title(rng):
    image = np.full((HEIGHT, WIDTH, 3), colour(rng, 60), np.uint8)
    return cv2.putText(
        image, f'scene {rng.integers(99)}', (20, 140), cv2.FONT_HERSHEY_SIMPLEX, 2, colour(rng, 0, 120), 5, cv2.LINE_AA
    )


def sky(rng):
    image = np.ascontiguousarray(
        np.stack([X * 255 // WIDTH, Y * 255 // HEIGHT, (X + Y) % 256], -1).astype(np.uint8)[..., rng.permutation(3)]
    )
    return cv2.circle(image, (int(rng.integers(60, 260)), int(rng.integers(60, 180))), 40, colour(rng), -1)


def mixed(rng):
    return (mosaic, discs, checkers, title, sky)[rng.integers(5)](rng)


# seconds of a scene, camera noise, H.264 quality, blur in pixels, frames a second read (0: a survey)
CASES = [(1, 0, 20, 8, 0), (1, 3, 20, 10, 0), (2, 3, 30, 6, 8), (1, 6, 33, 15, 4), (.5, 0, 23, 8, 8), (1, 2, 23, 5, 2)]


@pytest.mark.parametrize('case', range(len(CASES)))
@pytest.mark.parametrize('scene', [mixed, *(pytest.param(scene, marks=pytest.mark.check)
                                            for scene in (mosaic, discs, checkers, title, sky))],
                         ids=lambda scene: scene.__name__)
def test_exactly_the_five(tmp_path, scene, case):
    seconds, noise, crf, blur, fps = CASES[case]
    rng = np.random.default_rng(case)
    a, b, c, d, e = (scene(rng) for _ in range(5))
    black, plain, soft = np.zeros_like(a), np.full_like(a, colour(rng, 40)), cv2.GaussianBlur(c, (0, 0), blur)
    frames = [np.clip(picture + rng.normal(0, noise, picture.shape), 0, 255).astype(np.uint8)
              for picture in (black, a, b, plain, c, soft, d, e) for _ in range(int(seconds * FPS))]
    path = write_video(tmp_path / 'stills.mp4', frames, FPS, crf=crf)
    found = candidate_frames(read_frames(path, fps=fps)) if fps else survey_video(path).candidates
    assert np.floor(found.times / seconds).astype(int).tolist() == [1, 2, 4, 6, 7] and not found.warning
