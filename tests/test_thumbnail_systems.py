"""The thumbnail experiments: training above frozen layers, choices and measures by loops, the whole at its smallest."""
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from microvid_nb.data.microworld import MicroWorld, reception
from microvid_nb.data.world.pictures import NAMES, SEEN
from microvid_nb.data.world.stories import shot_at
from microvid_nb.data.world.views import SHORT, Posts
from microvid_nb.experiments import compare_rounds, drawn_survey
from microvid_nb.features.text import SemanticSpace
from microvid_nb.features.visual import backbone, freeze
from microvid_nb.thumbnail import experiments
from microvid_nb.thumbnail.amuse import AMUSESettings, PairedPictures, amuse_loss, domain_gap, new_amuse
from microvid_nb.thumbnail.experiments import (
    AMUSE_TABLE2, LAMBDAS, SCALES, agreement, clip_choices, compare_over_posts, five_folds, searched, tables,
    thumbnail_table, train_microworld_model, transfer_study)
from microvid_nb.thumbnail.measures import item_outcomes, outcome, thumbnail_measures
from microvid_nb.thumbnail.pictures import FROZEN, above_frozen, frozen_maps, start_from
from microvid_nb.thumbnail.popularity import TopicModel
from microvid_nb.thumbnail.posts import JudgedPost, entity_topics, judged_post, named_concepts, split_posts
from microvid_nb.thumbnail.systems import TopicScores, choices, microworld_data
from microvid_nb.training import fit

TINY = replace(SCALES['tiny'], posts=6, other_posts=4, source=80, pretraining=80, gap_pictures=40)


@pytest.fixture(scope='module')
def world():
    return MicroWorld(0)


@pytest.fixture(scope='module')
def data(world):
    return microworld_data(world, TINY)


def made_up(n, seed, clicks=300):
    rng = np.random.default_rng(seed)
    likeness = rng.random(n)
    return JudgedPost(
        seed,
        torch.zeros(n, 3, 8, 8, dtype=torch.uint8),
        np.arange(n),
        rng.dirichlet(np.ones(n)),
        rng.random(n),
        int(likeness.argmax()),
        likeness,
        rng.random(n),
        rng.random((n, 32)) < 0.1,
        rng.random(32) < 0.1,
        clicks,
        rng.integers(n, size=10),
    )


@pytest.mark.parametrize('dropout', [0., .5])
def test_training_above_frozen_layers_is_the_same(dropout):
    """Maps instead of pictures: the same losses, weights, gap and similarities as when all layers run each time."""
    space = SemanticSpace(SEEN, torch.randn(len(SEEN), 8, generator=torch.Generator().manual_seed(0)))
    network = freeze(backbone('alexnet', width=1/16, classes=26), FROZEN)
    images, labels, frames = (
        torch.randint(256, (24, 3, 64, 64), dtype=torch.uint8),
        torch.rand(24, 26) < 0.2,
        torch.randint(256, (16, 3, 64, 64), dtype=torch.uint8),
    )
    settings, histories, models = AMUSESettings(tuple(SEEN), 8, 16, width=1/16, size=64, dropout=dropout), [], []
    for maps in (False, True):
        torch.manual_seed(1)
        model = start_from(new_amuse(settings, space), network)
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-3)
        inputs = [frozen_maps(network, x) if maps else x for x in (images, frames)]
        loader = DataLoader(
            PairedPictures(TensorDataset(inputs[0], labels), TensorDataset(inputs[1]), range(26)), 8, shuffle=True
        )
        if maps:
            with above_frozen(model):
                histories.append(fit(model, loader, amuse_loss, optimizer, 3, progress=False))
                gap = domain_gap(model, *inputs)
        else:
            histories.append(fit(model, loader, amuse_loss, optimizer, 3, progress=False))
        models.append(model)
    pd.testing.assert_frame_equal(*(history.drop(columns='seconds') for history in histories), rtol=1e-4)
    for name, tensor in models[0].state_dict().items():
        torch.testing.assert_close(models[1].state_dict()[name], tensor, rtol=1e-3, atol=1e-5)
    assert gap == pytest.approx(domain_gap(models[0], images, frames), abs=1e-4)
    torch.testing.assert_close(*(model.similarities(images, SEEN[:3], space) for model in models), rtol=1e-3, atol=1e-4)


def test_choices_by_loops():
    clips, topics = [made_up(n, n) for n in (3, 5, 1, 7)], pd.Series({'dog': 3., 'cat': 1.})
    rng = np.random.default_rng(0)
    similarities = rng.normal(size=(16, 2))
    for lam in (0., .2, 1.):
        at, expected = 0, []
        for clip in clips:
            popular = [(3*a + b)/4 for a, b in similarities[at:at + len(clip.times)]]
            span = (max(popular) - min(popular)) or 1
            score = [
                (p - min(popular)) / span + lam * r / max(clip.representativeness)
                for p, r in zip(popular, clip.representativeness)
            ]
            expected.append(int(np.argmax(score)))
            at += len(clip.times)
        assert choices(TopicScores(similarities, topics), clips, lam).tolist() == expected


def test_measures_by_hand():
    clips = [made_up(4, seed) for seed in range(5)]
    best, first = np.array([clip.click_rate.argmax() for clip in clips]), np.zeros(5, int)
    assert (
        thumbnail_measures(best, clips)['clicks'] == pytest.approx(1)
        and thumbnail_measures(np.array([c.truth for c in clips]), clips)['accuracy'] == 1
    )
    found = thumbnail_measures(first, clips)
    assert found['accuracy'] == np.mean([clip.truth == 0 for clip in clips])
    assert found['similarity'] == pytest.approx(np.mean([clip.likeness[0] for clip in clips]))
    assert found['clicks'] == pytest.approx(
        sum(c.click_rate[0] - c.click_rate.mean() for c in clips)
        / sum(c.click_rate.max() - c.click_rate.mean() for c in clips)
    )


def test_a_clip_is_the_post(world):
    """Hidden rates are those of the moments; the ground truth is in the shot of the posted thumbnail."""
    clip, survey = judged_post(world, 5, 48), drawn_survey(world, 5, SHORT, 4.)
    seen, post, _ = reception(world, 5)
    np.testing.assert_allclose(survey.candidates.times, clip.times)
    for time, rate in zip(clip.times, clip.click_rate):
        assert rate == post.click_rate[min(range(len(seen.times)), key=lambda k: abs(seen.times[k] - time))]
    view = Posts(world, [5], size=48)[0]
    shots = {shot_at(world.story(5), t) for t in (post.posted, clip.times[clip.truth], view.times[view.truth])}
    assert len(shots) == 1 and clip.truth == clip.likeness.argmax()
    assert clip.representativeness.sum() == pytest.approx(1) and clip.labels.shape == (len(clip.times), 32)
    assert clip.clicks == post.clicks and set(clip.votes) <= set(range(len(clip.times)))


def test_posts_that_count(world):
    counting, others = split_posts(world, 4, 7)
    for i in range(max(counting + others) + 1):
        post = reception(world, i).post
        usable = 300 <= post.followers <= 1000 and post.clicks > 200
        assert (i in counting) <= usable and (i in others) <= (not usable)
    assert len(counting) == 4 and len(others) == 7


def test_posts_that_never_come_end_the_search(world):
    with pytest.raises(ValueError, match='expected 2 posts that count and 1 that do not, found 0 that count'):
        split_posts(world, 2, 1, followers=(10**8, 10**9), most=20)


def test_words():
    found = np.flatnonzero(named_concepts('My dog and the CAKE! #bike dogs'))
    assert [NAMES[k] for k in found] == ['dog', 'cake', 'bike']
    topics = entity_topics(
        ['my dog is so fluffy', 'look at this dog', 'the dog and the cake', 'a cake today', 'mood'] * 4
    )
    assert set(topics.index) <= set(NAMES) and topics['dog'] > topics['cake']


def test_folds():
    """What is best on four fifths is found by hand, and no fold is judged by what it chose."""
    clips = [made_up(4, seed) for seed in range(20)]
    rng, topics = np.random.default_rng(1), pd.Series({'dog': 1.})
    found = {(d, a): TopicScores(rng.normal(size=(80, 1)), topics) for d in (50, 100) for a in (.5, 1.)}
    table, fold = five_folds(found, clips, 3), np.random.default_rng(3).permutation(20) % 5
    for _, row in table.iterrows():
        inside = {
            (d, a, lam): outcome(choices(scores, clips, lam), clips).accuracy
            for (d, a), scores in found.items()
            for lam in LAMBDAS
        }
        assert row['accuracy where chosen'] == max(right[fold != row.fold].mean() for right in inside.values())
        assert row.accuracy == inside[row.d, row.alpha, row['lambda']][fold == row.fold].mean()


def test_comparisons_over_posts():
    """Posts are the items, each with its mean over rounds; Holm is taken over all of them."""
    clips = [made_up(4, seed) for seed in range(30)]
    good, bad = np.array([clip.truth for clip in clips]), np.array([(clip.truth + 1) % 4 for clip in clips])
    parts = []
    for number, right in enumerate((10, 12)):
        chosen = {'AMUSE': good, 'other': np.where(np.arange(30) < right, good, bad)}
        parts += [item_outcomes(picks, clips).assign(round=number, method=name) for name, picks in chosen.items()]
    table = compare_over_posts(pd.concat(parts), ['AMUSE']).set_index('measure')
    assert table.difference['accuracy'] == pytest.approx(1 - 11/30) and table.p['accuracy'] < 1e-4
    assert table.low['accuracy'] < 1 - 11/30 < table.high['accuracy'] and set(table.pairs) == {30}
    assert (table['p (Holm)'] >= table.p).all()


@pytest.mark.check
def test_whole_at_its_smallest(world, data):
    made = tables(data, TINY, progress=False)
    for name in ('accuracy', 'similarity', 'clicks'):
        assert made['table2'][name].notna().all()
    assert (
        made['table2'].accuracy.between(0, 1).all() and (made['table2'].groupby('method').size() == TINY.rounds).all()
    )
    unseen = made['table2'].set_index('method')['unseen words']
    assert unseen[['C2AE', 'Variant-IV']].isna().all() and unseen[['AMUSE', 'DeViSE']].notna().all()
    table = thumbnail_table(made['table2'], AMUSE_TABLE2, ['oracle: knows click rates', 'CLIP, zero-shot'])
    assert list(table.index) == [*AMUSE_TABLE2, 'oracle: knows click rates']
    assert table.iloc[-1]['clicks, MicroWorld, %'] == '100.0 ± 0.0'
    assert table.loc['AMUSE', 'accuracy, paper (Instagram), %'] == '30.10 ± 0.29'
    assert compare_rounds(made['table2'], 'oracle: knows click rates', 'AMUSE', 'clicks', 0).difference > 0
    assert len(made['items']) == TINY.rounds*TINY.posts*made['table2'].method.nunique()
    means = made['items'].groupby(['round', 'method']).accuracy.mean()
    pd.testing.assert_series_equal(means, made['table2'].set_index(['round', 'method']).accuracy.sort_index())
    assert set(made['convergence'].epoch) == set(range(1, TINY.epochs + 1)) and {'gap', 'ranking', 'accuracy'} <= set(
        made['convergence']
    )
    assert set(agreement(data).columns) == {'clicks', 'votes', 'majority', 'chance', 'posts'}


@pytest.mark.check
def test_studies_at_their_smallest(world, data):
    study = transfer_study(world, data, replace(TINY, rounds=1), mus=(0., 1.), progress=False)
    assert study.mu.tolist() == [0, 1, 0, 1] and study['target: words of a picture'].between(0, 1).all()
    found = searched(data, TINY, progress=False, dimensions=(16,), margins=(1.,))
    assert len(found['search']) == 5 and found['study_parameters'].d.tolist() == [16]


@pytest.mark.check
def test_model(world):
    model = train_microworld_model(TINY, 0, progress=False)
    assert (
        isinstance(model, TopicModel)
        and model.settings.amuse.words == tuple(SEEN)
        and set(NAMES) <= set(model.settings.words)
    )


def test_clip_where_there_are_weights(data, monkeypatch):
    monkeypatch.delenv('MICROVID_CLIP', raising=False)
    assert clip_choices(data, .2) == {}

    class Reader:
        def similarities(self, images, words):
            assert images.shape[0] == len(data.candidates) and images.dtype == torch.uint8
            return torch.zeros(len(images), len(words))
    monkeypatch.setenv('MICROVID_CLIP', 'weights.safetensors')
    monkeypatch.setattr(
        experiments, 'load_clip', lambda settings: Reader() if settings.pretrained == 'weights.safetensors' else None
    )
    chosen = clip_choices(data, .2)['CLIP, zero-shot']
    assert chosen.tolist() == [int(clip.representativeness.argmax()) for clip in data.clips]
