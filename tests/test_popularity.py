"""Popularity and choice: Eq. 8 and 9, topic lists, what explains a score, and its files."""
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from microvid_nb.data.instagram import write_topics
from microvid_nb.features.text import SemanticSpace
from microvid_nb.media.survey import survey_video
from microvid_nb.thumbnail.amuse import AMUSESettings, new_amuse
from microvid_nb.thumbnail.popularity import (
    TopicScorer, explain, fused_score, heat_map, input_pictures, load_topic_scorer, popularity, top_topics,
    topic_counts, topic_model, topic_similarities)
from microvid_nb.thumbnail.select import select_thumbnail
from microvid_nb.training import save_checkpoint

WORDS = ('girl', 'beach', 'dog', 'cake')
TOPICS = {'girl': 292, 'beach': 24, 'dog': 72, 'gym': 70}


@pytest.fixture(scope='module')
def scorer():
    torch.manual_seed(0)
    space = SemanticSpace([*WORDS, 'gym', 'bike'], torch.randn(6, 8))
    return TopicScorer(
        new_amuse(AMUSESettings(WORDS, semantic=8, attention=16, width=1 / 16, size=64, frozen=()), space), space
    )


@pytest.fixture(scope='module')
def survey(sample):
    return survey_video(sample)


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 6), m=st.integers(1, 6), seed=st.integers(0, 10**6))
def test_popularity_by_loops(n, m, seed):
    rng = np.random.default_rng(seed)
    similarities, counts = rng.normal(size=(n, m)), rng.integers(1, 1000, m)
    expected = [sum(counts[k]*similarities[i, k] for k in range(m))/sum(counts) for i in range(n)]
    np.testing.assert_allclose(popularity(similarities, counts), expected)


numbers = st.lists(st.floats(-5, 5), min_size=2, max_size=8)


@settings(max_examples=80, deadline=None)
@given(values=numbers, lam=st.floats(0, 1), scale=st.floats(.1, 50), offset=st.floats(-9, 9), seed=st.integers(0, 10**6))
def test_scales(values, lam, scale, offset, seed):
    """Without a least range the unit of popularity doesn't matter; how many share representativeness never does."""
    P, R = np.array(values).round(3), np.random.default_rng(seed).dirichlet(np.ones(len(values)))
    score = fused_score(P, R, lam, 0.)
    np.testing.assert_allclose(fused_score(scale*P + offset, R, lam, 0.), score, atol=1e-6)
    np.testing.assert_allclose(fused_score(P, R/2, lam, 0.), score, atol=1e-9)
    assert (score >= 0).all() and (score <= 1 + lam + 1e-9).all()
    if np.ptp(P) == 0:
        np.testing.assert_allclose(score, lam*R/R.max(), atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(values=numbers, least=st.floats(.01, 20), lam=st.floats(0, 1), seed=st.integers(0, 10**6))
def test_noise_is_not_stretched(values, least, lam, seed):
    """By a loop: what differs by less than the least range keeps its share of it, more is as without."""
    P, R = np.array(values).round(3), np.random.default_rng(seed).dirichlet(np.ones(len(values)))
    wide = max(max(P) - min(P), least)
    expected = [(p - min(P))/wide + lam*r/max(R) for p, r in zip(P, R)]
    np.testing.assert_allclose(fused_score(P, R, lam, least), expected, atol=1e-9)


def test_score_of_a_clip(scorer, survey):
    scores = scorer.score(survey, lam=.3, topics=TOPICS)
    pictures = input_pictures(survey.candidates.images, 64)
    assert pictures.shape == (len(survey.candidates), 3, 64, 64) and pictures.dtype == torch.uint8
    expected = scorer.model.similarities(pictures, list(TOPICS), scorer.space).numpy()
    np.testing.assert_allclose(topic_similarities(scores), expected)
    weights = np.array(list(TOPICS.values()))/sum(TOPICS.values())
    np.testing.assert_allclose(scores.popularity, expected @ weights, rtol=1e-5)
    np.testing.assert_allclose(
        scores.score, fused_score(expected @ weights, survey.candidates.representativeness, 0.3), atol=1e-5
    )
    chosen = select_thumbnail(survey, topics=TOPICS, model=scorer, lam=.3)
    assert chosen.index == scores.score.argmax() and chosen.time == pytest.approx(
        survey.candidates.times[chosen.index], abs=0.2
    )


def test_new_words_without_training(scorer, survey):
    """A word that was in no training list gets a column; the others' similarities stay as they were."""
    before, after = scorer.score(survey, topics=TOPICS), scorer.score(survey, topics=TOPICS | {'bike': 500})
    np.testing.assert_allclose(
        topic_similarities(after)[list(TOPICS)], topic_similarities(before), rtol=1e-4, atol=1e-6
    )
    with pytest.raises(ValueError, match="no vector for 'unicorn'"):
        scorer.score(survey, topics={'unicorn': 1})


def test_topic_lists(tmp_path):
    table = pd.DataFrame({'word': ['girl', 'beach'], 'count': [3, 0]})
    path = write_topics(tmp_path/'topics.csv', table)
    for given_ in (table, path, str(path), {'girl': 3, 'beach': 0}):
        assert topic_counts(given_).to_dict() == {'girl': 3, 'beach': 0}
    for bad, words in (
        ({}, 'at least one is above 0'),
        ({'a': 0}, 'at least one is above 0'),
        ({'a': 1, 'b': float('nan')}, "topic 'b' should be 0 or more, found nan"),
    ):
        with pytest.raises(ValueError, match=words):
            topic_counts(bad)


def test_seen_and_unseen_topics(scorer, survey):
    for kind, expected in (('seen', ['girl', 'beach', 'dog']), ('unseen', ['gym'])):
        model = new_amuse(replace(scorer.model.settings, topics=kind), scorer.space)
        model.load_state_dict(scorer.model.state_dict())
        scores = TopicScorer(model, scorer.space).score(survey, topics=TOPICS)
        assert list(topic_similarities(scores)) == expected
    with pytest.raises(ValueError, match='only unseen ones count'):
        TopicScorer(model, scorer.space).score(survey, topics={'girl': 3})


def test_explanation_adds_up(scorer, survey):
    thumbnail = select_thumbnail(survey, topics=TOPICS, model=scorer)
    parts = top_topics(thumbnail.scores, TOPICS, thumbnail.index, n=10)
    assert parts.is_monotonic_decreasing and set(parts.index) == set(TOPICS)
    assert parts.sum() == pytest.approx(
        thumbnail.scores.popularity[thumbnail.index] - thumbnail.scores.popularity.mean(), abs=1e-6
    )
    assert len(top_topics(thumbnail.scores, TOPICS, 0, n=2)) == 2


def test_heat_map(scorer, survey):
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    thumbnail = select_thumbnail(survey, topics=TOPICS, model=scorer)
    ax = heat_map(thumbnail.scores, survey.candidates.images, thumbnail.index)
    np.testing.assert_allclose(ax.images[0].get_array(), topic_similarities(thumbnail.scores).T)
    assert [label.get_text() for label in ax.get_yticklabels()] == list(TOPICS)
    assert [label.get_text() for label in ax.get_xticklabels()] == [f'{time:.1f} s' for time in thumbnail.scores.time]
    assert {(label.get_weight(), label.get_style()) for label in ax.get_yticklabels()} == {('normal', 'normal')}
    first, *others = heat_map(thumbnail.scores, seen=list(TOPICS)[:1]).get_yticklabels()
    assert (first.get_weight(), first.get_style()) == ('bold', 'normal')
    assert {(label.get_weight(), label.get_style()) for label in others} == {('normal', 'italic')}
    plt.close('all')


def test_one_file(scorer, survey, tmp_path):
    """Model and words in one safetensors file; words that training never saw can be asked for, others are named."""
    model = topic_model(scorer.model, scorer.space)
    path = save_checkpoint(tmp_path/'model.safetensors', model, model.settings)
    assert [file.name for file in tmp_path.iterdir()] == ['model.safetensors']
    again = load_topic_scorer(path)
    assert again.space.words == scorer.space.words and not again.training
    for topics in (TOPICS, TOPICS | {'bike': 5}):
        pd.testing.assert_frame_equal(again.score(survey, topics=topics), scorer.score(survey, topics=topics))
    with pytest.raises(ValueError, match="no vector for 'unicorn'"):
        select_thumbnail(survey, topics={'unicorn': 1}, model=again)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match='refused'):
        load_topic_scorer(path)
    with pytest.raises(FileNotFoundError, match='no such checkpoint'):
        load_topic_scorer(tmp_path/'nowhere.safetensors')
    with pytest.raises(ValueError, match='holds a AMUSE, expected TopicModel'):
        load_topic_scorer(save_checkpoint(tmp_path/'amuse.safetensors', scorer.model, scorer.model.settings))


def test_picture_that_explains(scorer, survey):
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    thumbnail = select_thumbnail(survey, topics=TOPICS, model=scorer)
    figure = explain(thumbnail, TOPICS, survey, most=2)
    axes = [ax for part in figure.subfigs for ax in part.axes]
    shown = next(ax for ax in axes if ax.images and ax.get_xlim()[1] > 1)
    assert [label.get_text() for label in shown.get_yticklabels()] == ['girl', 'dog']      # the most frequent
    bars = {
        label.get_text(): bar.get_width()
        for label, bar in zip(figure.subfigs[1].axes[0].get_yticklabels(), figure.subfigs[1].axes[0].patches)
    }
    expected = top_topics(thumbnail.scores, TOPICS, thumbnail.index, 4)
    assert set(bars) == set(TOPICS) and all(bars[word] == pytest.approx(expected[word], abs=1e-9) for word in bars)
    plt.close('all')
    with pytest.raises(ValueError, match='asked for by its time'):
        explain(select_thumbnail(survey, topics=TOPICS, model=scorer, force=1.), TOPICS, survey)


@pytest.mark.parametrize('text, message', [
    ('word,count\ndog,3\nDog,4\n', "row 3: word 'Dog' is listed twice"), ('word,count\ndog,-3\n', "row 2: count .*found '-3'"), ('word,count\ndog,2.5\n', "row 2: count .*found '2.5'"),
    ('topic,times\ndog,3\n', 'no column word, count; found topic, times'), ('word,count\n', 'topics.csv: expected topics with counts'), ('', 'topics.csv: is no CSV table')])
def test_wrong_topic_files_are_named(scorer, survey, tmp_path, text, message):
    (tmp_path/'topics.csv').write_text(text)
    with pytest.raises(ValueError, match=message):
        select_thumbnail(survey, topics=tmp_path/'topics.csv', model=topic_model(scorer.model, scorer.space))
