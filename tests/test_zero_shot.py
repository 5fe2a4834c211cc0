"""Topics, places and labels of filmed clips, without training: an independent ridge regression, real clips, and faces."""
import csv
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('sentence_transformers')

from sklearn.kernel_ridge import KernelRidge

from microvid_nb.answers import thumbnail, venue
from microvid_nb.data.splices import splice
from microvid_nb.features.ears import packaged_ears
from microvid_nb.features.eyes import face_score
from microvid_nb.features.words import (
    LabelTopics, label_scores, packaged_label_points, packaged_text_points, sentence_network, topic_classifiers)
from microvid_nb.media.survey import survey_video
from microvid_nb.media.video import read_frames
from microvid_nb.thumbnail.zero_shot import zero_shot_topics
from microvid_nb.venue.zero_shot import _PLACES, photo_texts, place_words, sound_texts


def test_classifiers_of_topics_are_kernel_ridge_regression():
    """Scikit-learn regresses label scores on label points; the prediction for a topic is the score of our classifier."""
    labels, generator = packaged_label_points().double(), torch.Generator().manual_seed(0)
    topics = torch.nn.functional.normalize(labels[[3, 200]] + labels[[700, 20]], dim=1)
    scores = torch.randn(5, 1000, generator=generator).double()
    kernel = KernelRidge(alpha=.1, kernel='rbf', gamma=1/(2*.2))  # exp(-|x - y|^2 / 2 tau) = exp((x.y - 1) / tau)
    expected = kernel.fit(labels.numpy(), scores.T.numpy()).predict(topics.numpy())
    assert np.allclose(scores @ topic_classifiers(topics, labels).T, expected.T, atol=1e-6)


def test_scores_do_not_depend_on_other_pictures_or_topics():
    generator, scorer = torch.Generator().manual_seed(1), LabelTopics()
    probabilities = torch.randn(4, 1000, generator=generator).mul(3).softmax(1)
    whole = scorer(probabilities, ['dog', 'beach', 'a red car'])
    assert torch.allclose(whole[1:2, 1:2], scorer(probabilities[1:2], ['beach']), atol=1e-4)
    assert torch.allclose(label_scores(probabilities).sum(1), torch.zeros(4), atol=1e-2)


@pytest.mark.parametrize('word, part', [('kitten', 'cat'), ('drink', 'coffee'), ('selfie', 'astronaut'), ('daisy', 'flower'),
                                        ('spaceship', 'rocket'), ('motorbike', 'motorcycle')])
def test_topics_find_their_photograph(photographs, word, part):
    made, survey = photographs
    found = thumbnail(survey, word)
    assert made.labels(found.time) == [part]
    assert found.labels[word] and found.to_dict()['labels'][word]


@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
    parts = ('cat', 'coffee', 'astronaut', 'flower', 'rocket', 'motorcycle')
    made = splice(tmp_path_factory.mktemp('topics')/'all.mp4', {part: part for part in parts}, seconds=2, seed=5)
    return made, survey_video(made.path)


def test_faces_on_their_side_are_found(photographs):
    made, survey = photographs
    image = next(image for time, image in zip(survey.frames.times, survey.frames.images)
                 if made.labels(time) == ['astronaut'])
    upright = face_score(image)
    assert upright > .5
    assert face_score(np.ascontiguousarray(np.rot90(image))) == pytest.approx(upright, abs=.25)


def named_things(media) -> dict[str, dict[str, set]]:
    """Viewer -> clip -> the things that are visible in at least half of its rated frames."""
    found = {}
    for viewer in ('frame_ratings', 'frame_ratings_b'):
        with open(media/f'{viewer}.csv', newline='') as file: rows = list(csv.DictReader(file))
        clips = {row['clip']: [] for row in rows}
        for row in rows: clips[row['clip']].append(set(filter(None, row['things'].split(';'))))
        found[viewer] = {clip: {thing for thing in set().union(*frames)
                                if sum(thing in frame for frame in frames) >= len(frames)/2}
                         for clip, frames in clips.items()}
    return found


@pytest.mark.check
def test_topics_of_real_clips(media):
    """Of two clips, the one that shows a thing scores higher for it, for things that both viewers named."""
    first, second = named_things(media).values()
    things = {clip: first[clip] & second[clip] for clip in set(first) & set(second)}
    all_things = {clip: first.get(clip, set()) | second.get(clip, set()) for clip in things}
    scorer, topics = zero_shot_topics(), sorted(set().union(*things.values()))
    best = {}
    for clip in things:
        images = read_frames(media/clip, fps=1, short_side=224).images[:8]
        faces = torch.tensor([face_score(image) for image in images])
        best[clip] = scorer.topics(scorer.eyes(images).probabilities, topics, faces).amax(0)
    won = [bool(best[clip][i] > best[other][i]) for i, topic in enumerate(topics) for clip in things
           for other in things if topic in things[clip] and topic not in all_things[other]]
    assert len(won) > 500 and np.mean(won) > .9


@pytest.mark.check
def test_places_of_real_clips(media):
    """An acceptable word, by eye, is among the first three groups of places of most clips."""
    with open(media/'clip_places.csv', newline='') as file: rows = list(csv.DictReader(file))
    clips = {row['clip']: set(row['place'].split(';')) for row in rows if 'asl_gestures' not in row['clip']}
    words = {group: {group, *group.replace(', ', ' or ').split(' or '), *scenes.split(';')}
             for group, (scenes, _) in _PLACES.items()}
    found = [
        any(words[group] & places for group in venue(media/clip).found.venues.venue[:3]) for clip, places in clips.items()
    ]
    assert len(found) >= 15 and np.mean(found) >= .6


def test_packaged_points_of_texts_are_those_of_the_network():
    known = packaged_text_points()
    sounds = [name.replace('_', ' ') for name in packaged_ears().settings.classes]
    assert known.keys() == {*place_words(), *photo_texts(), *sound_texts(sounds)}
    exact = sentence_network().encode([*known], normalize_embeddings=True, convert_to_tensor=True)
    torch.testing.assert_close(torch.stack([*known.values()]), exact, atol=1e-5, rtol=0)


def test_places_of_pictures_and_sounds_need_no_network_for_sentences():
    program = (
        'import sys, torch\nfrom microvid_nb.venue.zero_shot import zero_shot_venues\n'
        'chances = torch.full((2, 1000), .001)\n'
        'print(zero_shot_venues().estimate(chances, None, {"rain": .9}).venue, "sentence_transformers" in sys.modules)\n'
        'zero_shot_venues().estimate(chances, "a day at the beach")\nprint("sentence_transformers" in sys.modules)'
    )
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-2:] == ['False', 'True']
