"""What choosing needs: truth in place of a model, noise on it, what a model sees, and viewers who care more or less."""
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import pearsonr
from sklearn.metrics import roc_auc_score

from microvid_nb.data.microworld import MicroWorld, reception
from microvid_nb.data.world.pictures import NAMES, SEEN
from microvid_nb.data.world.viewers import crowd_of
from microvid_nb.thumbnail.diagnosis import (
    AUCS, Answers, Truth, beside_asbtv_by_folds, care_study, causes, mean_precision, noise_for, rates_if_cared, seen_in,
    sight_and_readout, within_clips)
from microvid_nb.thumbnail.measures import thumbnail_measures
from microvid_nb.thumbnail.posts import JudgedPost
from microvid_nb.thumbnail.pretrained import WEIGHTS, beside_asbtv
from microvid_nb.thumbnail.systems import TopicScores

TOPICS = pd.Series({'dog': 3., 'cat': 1., 'girl': 2.})


def made_up(number, n=5, times=None):
    rng = np.random.default_rng(number)
    likeness = rng.random(n)
    return JudgedPost(number, torch.zeros(n, 3, 8, 8, dtype=torch.uint8), np.arange(n) if times is None else times,
                      rng.dirichlet(np.ones(n)), rng.random(n), int(likeness.argmax()), likeness, rng.random(n),
                      rng.random((n, 32)) < .2, rng.random(32) < .1, 300, rng.integers(n, size=10))


@pytest.fixture
def clips():
    return [made_up(number, n) for number, n in enumerate((4, 6, 5, 7, 3))]


@pytest.fixture
def truth(clips):
    rng, count = np.random.default_rng(1), sum(len(clip.times) for clip in clips)
    return Truth(.2*rng.random((count, 32)), rng.random(count), np.concatenate([clip.labels for clip in clips]))


@pytest.mark.parametrize('auc', AUCS)
def test_noise_gives_the_auc(auc):
    rng = np.random.default_rng(2)
    labels = rng.random(40_000) < .3
    assert roc_auc_score(labels, labels + noise_for(auc)*rng.standard_normal(40_000)) == pytest.approx(auc, abs=.01)


def test_what_could_be_known_by_loops(clips, truth):
    """Each known thing, weighted by topics, moved to 0..1 within the clip, and a fifth of representativeness."""
    def chosen(values):
        at, picks = 0, []
        for clip in clips:
            P = [(3*row[NAMES.index('dog')] + row[NAMES.index('cat')] + 2*row[NAMES.index('girl')])/6
                 for row in values[at:at + len(clip.times)]]
            wide = (max(P) - min(P)) or 1
            picks.append(int(np.argmax([(p - min(P))/wide + .2*r/max(clip.representativeness)
                                        for p, r in zip(P, clip.representativeness)])))
            at += len(clip.times)
        return thumbnail_measures(np.array(picks), clips)
    size = np.array([row*clear for row, clear in zip(truth.visible, truth.quality)])
    expected = {'labels': truth.labels*1., 'visible size': truth.visible, 'visible size x quality': size,
                'amount visible x quality': np.outer(size.sum(1), np.ones(32)),
                'quality': np.outer(truth.quality, np.ones(32))}
    table = causes(truth, clips, TOPICS).set_index('known')
    for name, values in expected.items():
        assert table.loc[name, ['accuracy', 'similarity', 'clicks']].to_dict() == pytest.approx(chosen(values)), name
    assert table.loc['ASBTV', 'accuracy'] == np.mean([clip.asbtv.argmax() == clip.truth for clip in clips])
    assert table.loc['labels with noise', 'AUC'].tolist() == list(AUCS)
    assert causes(truth, clips, TOPICS, seed=1).iloc[-1].clicks != causes(truth, clips, TOPICS).iloc[-1].clicks


def test_mean_precision_by_loops():
    rng = np.random.default_rng(3)
    scores, labels = rng.random((12, 4)), rng.random((12, 4)) < .4
    labels[:, 2] = False
    found = []
    for c in (0, 1, 3):
        order = np.argsort(-scores[:, c])
        hits = [sum(labels[order[:k + 1], c])/(k + 1) for k in range(12) if labels[order[k], c]]
        found.append(np.mean(hits))
    assert mean_precision(scores, labels) == pytest.approx((np.mean(found), labels[:, [0, 1, 3]].mean()))


def test_correlation_within_clips_by_scipy(clips):
    """A number added to a whole clip changes nothing, nor does a clip in which one of both is constant."""
    rng, lengths = np.random.default_rng(4), [len(clip.times) for clip in clips]
    one, other = rng.random(sum(lengths)), rng.random(sum(lengths))
    one[:lengths[0]] = 2.
    parts = list(zip(np.split(one, np.cumsum(lengths)[:-1]), np.split(other, np.cumsum(lengths)[:-1])))[1:]
    expected = np.average([pearsonr(a, b)[0] for a, b in parts], weights=lengths[1:])
    moved = one + np.repeat(rng.random(len(lengths)), lengths)
    assert within_clips(one, other, clips) == pytest.approx(expected)
    assert within_clips(moved, other, clips) == pytest.approx(expected) and np.isnan(within_clips(0*one, other, clips))


def test_knowing_the_scene_is_no_eyesight_within_clips():
    """Scores that are equal in a clip, and higher where words are shown often: above chance pooled, not within."""
    rng, seen = np.random.default_rng(5), [NAMES.index(name) for name in SEEN]
    often = [.8 if number % 2 else .1 for number in range(20)]
    clips = [made_up(i, 8)._replace(labels=rng.random((8, 32)) < share) for i, share in enumerate(often)]
    labels = np.concatenate([clip.labels for clip in clips])
    scene = np.repeat([float(clip.labels.mean()) for clip in clips], 8)
    truth = Truth(labels*.1, np.ones(len(labels)), labels)
    scores = TopicScores(np.outer(scene, [1.]), TOPICS[:1])
    answers = Answers(np.outer(scene, np.ones(len(SEEN))), labels[:, seen]*1., scores)
    found = sight_and_readout(answers, truth, clips, labels)
    assert found['AUC pooled'] > .8 and found['AUC within'] == .5 and found['mAP clean'] == 1
    assert found['mAP frames'] > found['chance, frames'] + .1 and found['dark'] == 0


def test_viewers_as_they_are():
    """With the weight 1 the posts' own click probabilities, and without it only clear pictures and new things count."""
    world, times = MicroWorld(0), np.array([.5, 1.3, 2.6, 3.9])
    clips = []
    for number in (3, 8):
        seen, post, _ = reception(world, number)
        rates = np.array([post.click_rate[np.abs(seen.times - time).argmin()] for time in times])
        clips.append(made_up(number, 4, times)._replace(click_rate=rates))
        np.testing.assert_allclose(rates_if_cared(seen_in(world, clips[-1]), crowd_of(0), 1.), rates)
    picks = np.array([2, 0])
    table = care_study(world, clips, {'these': picks}).set_index('care').clicks
    assert table[1.] == pytest.approx(thumbnail_measures(picks, clips)['clicks'])
    seen, crowd = seen_in(world, clips[0]), crowd_of(0)
    liked = np.outer(crowd.clear, seen.quality) + np.outer(crowd.new, seen.novelty)
    np.testing.assert_allclose(rates_if_cared(seen, crowd, 0.), (1/(1 + np.exp(3.4 - liked))).mean(0))


def test_a_fold_has_no_part_in_its_weight():
    clips = [made_up(number, 4) for number in range(40)]
    scores = TopicScores(np.random.default_rng(6).random((160, 1)), pd.Series({'dog': 1.}))
    picks, fold = beside_asbtv_by_folds(scores, clips), np.random.default_rng(0).permutation(40) % 5
    for k in range(5):
        inside = fold == k
        others = [clip._replace(truth=(clip.truth + 1) % 4) if his else clip for clip, his in zip(clips, inside)]
        assert (beside_asbtv_by_folds(scores, others)[inside] == picks[inside]).all()
        by_weight = [beside_asbtv(scores, clips, weight) for weight in WEIGHTS]
        truths = np.array([clip.truth for clip in clips])
        right = [(each == truths)[~inside].mean() for each in by_weight]
        assert (by_weight[int(np.argmax(right))][inside] == picks[inside]).all()
