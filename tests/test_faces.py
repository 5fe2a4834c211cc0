"""Faces of real clips, against what a viewer saw; pictures of every shape."""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from skimage import data

from microvid_nb.features.faces import find_faces
from microvid_nb.media.survey import survey_video

MEDIA = Path(__file__).resolve().parents[2] / 'shared' / 'media'


@pytest.mark.check
@pytest.mark.skipif(not MEDIA.exists(), reason='the real clips are not here')
def test_finds_what_a_viewer_calls_a_clear_face():
    parts = [pd.read_csv(MEDIA / name, keep_default_na=False) for name in ('frame_ratings.csv', 'frame_ratings_b.csv')]
    ratings = pd.concat(parts, ignore_index=True)
    found = []
    for clip, rows in ratings.groupby('clip'):
        frames = survey_video(MEDIA / clip).frames
        found += [
            (clip, row.face, bool(find_faces(frames.images[np.abs(frames.times - row.time).argmin()])))
            for row in rows.itertuples()
        ]
    found = pd.DataFrame(found, columns=['clip', 'clear', 'found'])
    assert found.found[found.clear == 1].mean() >= .7
    # small and dark faces are found as well, but nothing in clips without people
    people = found.groupby('clip').clear.transform('max') == 1
    others = set(found['clip'][found['found'] & ~people])
    assert others <= {'videos/tfjs_pose_square.mp4', 'videos/tfjs_squats_portrait.mp4', 'videos/streamio_man_talking.mp4'}


@pytest.mark.parametrize('shape', [(1, 1), (1, 4000), (4000, 1), (20, 20), (23, 900), (900, 23), (37, 41)])
@pytest.mark.parametrize('seed', range(3))
def test_pictures_of_every_shape(shape, seed):
    noise = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert find_faces(noise) == []


def test_a_row_of_faces_the_largest_first():
    person = data.astronaut()[:300, 100:400]
    small = np.pad(person[::2, ::2], ((75, 75), (0, 0), (0, 0)))
    faces = find_faces(np.hstack([small, person, person]))
    assert len(faces) == 3 and faces[0].height > 1.6*faces[2].height and faces[2].x < faces[0].x


def test_needs_no_torch():
    code = 'import sys; sys.modules["torch"] = None; from microvid_nb.features.faces import find_faces'
    code += '; import numpy; print(find_faces(numpy.zeros((90, 90, 3), "uint8")))'
    done = subprocess.run([sys.executable, '-W', 'error', '-c', code], capture_output=True, text=True, env=os.environ)
    assert done.stdout.strip() == '[]', done.stderr
