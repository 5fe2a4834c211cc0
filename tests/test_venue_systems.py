"""Measures, splits and rounds of the venue experiments."""
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from microvid_nb.features.acoustic import AutoencoderSettings, StackedDenoisingAutoencoder
from microvid_nb.experiments import corrected_t
from microvid_nb.venue.dare import DARE, DARESettings, VenuePrediction, train_dare
from microvid_nb.venue.experiments import (
    COMMON, PAPER_TABLE3, VenueRound, VenueStudy, compare_with_others, concept_venues,
    keep_modalities, one_round, read_vine,
    reproduce_sounds)
from microvid_nb.venue.scale import choose_settings, completed_round, tuned_methods, videos_for_choosing
from microvid_nb.venue.systems import (
    SCALES, baseline_makers, compare_features, rarest_concept, size_groups, split_videos, trained_baseline, trained_dare,
    venue_f1, venue_f1_of_groups)
from microvid_nb.venue.tree import world_tree
from microvid_nb.venue.videos import gather_sounds, gather_videos, pick_rows

TINY = replace(SCALES['tiny'], train=90, epochs=2)
LABELS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=60)


@pytest.fixture(scope='module')
def study():
    """Planted features of the world's forty venues, and external sounds with eight concepts."""
    torch.set_num_threads(1)
    source = torch.Generator().manual_seed(0)
    centres, venue = torch.randn(40, 20, generator=source), torch.randint(40, (150,), generator=source)
    x = centres[venue] + torch.randn(150, 20, generator=source)
    present = torch.rand(150, 3, generator=source) < torch.tensor([1., .9, .8])
    codes = torch.randn(60, 6, generator=source)
    return VenueStudy(
        gather_videos(x[:, :8], x[:, 8:14], x[:, 14:], venue, present),
        None,
        gather_sounds(codes, torch.rand(60, 8, generator=source) < 0.3),
        world_tree(),
    )


def by_hand(pairs):
    """Micro-F1 and Macro-F1 by counting."""
    scores = []
    for venue in {true for true, _ in pairs}:
        hit = sum(true == said == venue for true, said in pairs)
        scores.append(2*hit/(sum(true == venue for true, _ in pairs) + sum(said == venue for _, said in pairs)))
    return 100*sum(true == said for true, said in pairs)/len(pairs), 100*sum(scores)/len(scores)


@given(LABELS)
@settings(deadline=None)
def test_measures_are_those_counted_by_hand(pairs):
    truth, said = torch.tensor(pairs).T
    assert list(venue_f1(truth, said).values()) == pytest.approx(list(by_hand(pairs)))


@given(LABELS, st.integers(1, 4))
@settings(deadline=None)
def test_groups_add_up_to_the_whole(pairs, count):
    truth, said = torch.tensor(pairs).T
    groups = size_groups(truth, 6, count)
    assert sorted(np.concatenate(groups)) == list(range(6))
    sizes = Counter(truth.tolist())
    assert all(min(sizes[v] for v in a) >= max(sizes[v] for v in b) for a, b in zip(groups, groups[1:]))
    table = venue_f1_of_groups(truth, said, groups)
    assert table.videos.sum() == len(pairs)
    assert (table['Micro-F1'].fillna(0) * table.videos).sum() / len(pairs) == pytest.approx(
        venue_f1(truth, said)['Micro-F1']
    )


def test_rounds_split_all_videos_and_differ(study):
    first, again, other = (split_videos(study.videos, 90, seed) for seed in (0, 0, 1))
    assert torch.equal(first.train.visual, again.train.visual) and not torch.equal(
        first.train.visual, other.train.visual
    )
    rows = torch.cat([first.train.visual, first.test.visual])
    assert len(first.train.venue) == 90 and torch.equal(rows.sort(0).values, study.videos.visual.sort(0).values)


def test_no_concepts_is_no_external_sounds(study):
    trial, without = VenueRound(study, TINY, 3), VenueRound(study._replace(sounds=None), TINY, 3)
    torch.manual_seed(3)
    plain = DARE(DARESettings(8, 6, 6, 313, TINY.text_concepts, 40, (TINY.hidden,)))
    train_dare(plain, without.split.train, None, TINY.epochs, TINY.batch, TINY.rate, seed=3, progress=False)
    assert torch.equal(without.predictions(), plain.predict(without.split.test).venue)
    off, few, every = (trial.train(concepts=count)[0] for count in (0, 4, 8))
    assert torch.equal(every.acoustic_map.weight, trial.train()[0].acoustic_map.weight)
    assert len({tuple(model.acoustic_map.weight.flatten().tolist()) for model in (off, few, every)}) == 3


def test_a_variant_is_trained_once(study, monkeypatch):
    trial, trained = VenueRound(study, TINY, 0), []
    monkeypatch.setattr(
        VenueRound,
        'train',
        lambda self, modalities=None, **changes: trained.append(changes) or (lambda model: (model, None))(Saying()),
    )
    for changes in ({}, {'concepts': 8}, {'dropout': 0.1}, {'dropout': 0.3}, {'concepts': 0}, {'concepts': 0}):
        trial.predictions(**changes)
    assert trained == [{}, {'dropout': .3}, {'concepts': 0}]


class Saying:
    """A model that says venue 0 of everything."""
    def predict(self, videos): return VenuePrediction(torch.eye(40)[[0]*len(videos.venue)], None, [])


@pytest.mark.check
def test_a_round_holds_every_method_once(study, monkeypatch):
    monkeypatch.setitem(COMMON, 'tuned', partial(tuned_methods, methods=('TRUMANN', 'DARE', 'neither')))
    tables = one_round(study, replace(TINY, hidden=16, text_concepts=8), 2)
    assert set(tables) > set(COMMON) and all(
        table.notna().all(axis=None) for name, table in tables.items() if name != 'table5'
    )
    assert set(one_round(study._replace(sounds=None, test=study.videos), replace(TINY, epochs=1), 0)) == set(COMMON)
    methods = tables['table3'].method.tolist()
    assert methods.pop(1) == 'linear' and methods == list(PAPER_TABLE3.index) and set(tables['table3']['round']) == {2}
    assert len({tables[name].query('method == "DARE"')['Micro-F1'].iloc[0] for name in ('table3', 'parts')}) == 1
    assert (
        tables['table4']['Micro-F1'].iloc[0]
        == tables['table3'].set_index('method')['Micro-F1']['DARE']
        == tables['fig5d'].set_index('dropout')['Micro-F1'][0.1]
    )
    assert tables['table5'].groupby('method').videos.sum().tolist() == [60, 60, 60]


def test_modalities_that_are_taken_away_change_nothing(study):
    less = keep_modalities(study.videos, 'acoustic')
    assert not less.visual.any() and not less.text.any() and torch.equal(less.acoustic, study.videos.acoustic)
    assert torch.equal(less.present, study.videos.present & torch.tensor([False, True, False]))


def test_concepts_of_venues_are_means_over_their_videos(study):
    torch.manual_seed(0)
    model = VenueRound(study, TINY, 0).train()[0]
    names, venues = [f'concept {k}' for k in range(8)], [f'venue {k}' for k in range(40)]
    table = concept_venues(model, study.videos, names, venues)
    heard = model.hear(study.videos.acoustic).detach()
    for _, row in table.sample(20, random_state=0).iterrows():
        inside = (study.videos.venue == venues.index(row.venue)) & study.videos.present[:, 1]
        expected = heard[inside, names.index(row.concept)].mean().item()
        assert row.strength == pytest.approx(expected, abs=1e-5, nan_ok=True)


def test_a_method_is_compared_with_every_other():
    rounds = pd.DataFrame(
        {
            'round': [0, 1, 2] * 2,
            'method': ['DARE'] * 3 + ['MDL'] * 3,
            'Micro-F1': [5.0, 6, 7, 4, 4, 4],
            'Macro-F1': [1.0, 2, 2, 1, 2, 2],
        }
    )
    table = compare_with_others(rounds, 'DARE', 0.5)
    assert table.methods.tolist() == ['DARE - MDL'] * 2 and table.measure.tolist() == ['Micro-F1', 'Macro-F1']
    expected = corrected_t([1.0, 2, 3], 0.5)
    assert table.loc[0, 'difference'] == 2 and table.loc[0, 'p'] == pytest.approx(expected.p)
    assert table.loc[0, 'low'] == pytest.approx(expected.low) and np.isnan(table.loc[1, 'p'])


def test_a_sound_is_named_by_its_rarest_concept():
    assert rarest_concept(torch.tensor([[1., 1, 0], [1, 0, 1], [1, 1, 0], [1, 0, 0]])).tolist() == [1, 2, 1, 0]


def test_features_that_tell_concepts_apart_win():
    rng, label = np.random.default_rng(0), torch.arange(120) % 3
    descriptors = torch.from_numpy(rng.normal(size=(120, 1104)).astype(np.float32))
    descriptors[:, 1026:1065] += 4*label[:, None]                       # only the mean MFCC know
    torch.manual_seed(0)
    encoder = StackedDenoisingAutoencoder(AutoencoderSettings((1104, 16, 8), layer_epochs=1, epochs=1))
    encoder.pretrain(descriptors, progress=False)
    table = (
        compare_features(descriptors, torch.nn.functional.one_hot(label), encoder, folds=4, progress=False)
        .groupby('features')['Micro-F1']
        .mean()
    )
    assert table['MFCC (mean)'] > 95 and table['MFCC (max)'] < 60 and table['spectrum (mean)'] < 60


def test_folders_of_vine_that_are_not_right(tmp_path):
    with pytest.raises(FileNotFoundError, match='a feature file of VENUE-188'):
        read_vine(tmp_path, TINY)
    for name in ('a.h5', 'b.h5'): (tmp_path/name).write_bytes(b'')
    with pytest.raises(ValueError, match='expected one feature file, found a.h5, b.h5'):
        read_vine(tmp_path, TINY)
    (tmp_path/'b.h5').unlink()
    with pytest.raises(FileNotFoundError, match='names of the venue categories'):
        read_vine(tmp_path, TINY)


def test_sounds_need_their_table(tmp_path):
    with pytest.raises(FileNotFoundError, match='esc10_labels.csv'):
        reproduce_sounds(tmp_path, TINY, progress=False)


def test_dare_of_vine_has_the_papers_width(study):
    model = VenueRound(study._replace(sounds=None), replace(TINY, epochs=1), 0).train()[0]
    assert isinstance(model, DARE) and model.settings.concepts == 313


def test_the_model_for_files_has_not_seen_the_videos_that_are_shown(monkeypatch):
    """Demonstrations draw videos with small numbers, so training takes others."""
    from microvid_nb.data.microworld import SHOWN_VIDEOS
    from microvid_nb.venue import experiments, systems
    asked = []
    monkeypatch.setattr(systems, 'described_videos', lambda world, numbers, *_: asked.extend(numbers) or 1/0)
    monkeypatch.setattr(systems, 'draw_videos', lambda world, numbers, *_: asked.extend(numbers) or [])
    monkeypatch.setattr(systems, 'train_picture_network', lambda *_: None)
    with pytest.raises(ZeroDivisionError): experiments.train_microworld_model(SCALES['small'], progress=False)
    assert len(asked) == SCALES['small'].elsewhere + SCALES['small'].train + SCALES['small'].test
    assert max(SHOWN_VIDEOS) < 100_000 <= min(asked)


def test_weights_of_modalities_multiply_them_for_every_method(study):
    """With a title of no weight its words change nothing that a network says."""
    train = study.videos
    other = train._replace(text=train.text.roll(1, 0))
    makers = baseline_makers(train.widths, study.tree, TINY)
    for method in ('AlexNet_1', 'TRUMANN', 'MDL'):
        deaf = trained_baseline(makers[method], train, 0, (1., 1., 1e-9))
        assert torch.equal(deaf.predict(train), deaf.predict(other)), method
    model, _ = trained_dare(train, None, 8, 40, TINY, 0, weights=(1., 1., 1e-9))
    assert torch.equal(model.predict(train).venue, model.predict(other).venue)


def test_weights_are_chosen_on_videos_that_are_not_judged_by(study):
    """The choice is the same whatever the test videos are."""
    trial, other = VenueRound(study, TINY, 0), VenueRound(study, TINY, 0)
    other.split = other.split._replace(test=pick_rows(other.split.test, slice(3)))
    assert choose_settings(trial, 'AlexNet_1') == choose_settings(other, 'AlexNet_1')
    learned, validation = videos_for_choosing(trial)
    assert learned + len(validation.venue) == TINY.train


def test_completion_never_sees_test_videos_or_venues(study):
    trial, other = VenueRound(study, TINY, 0), VenueRound(study, TINY, 0)
    few = pick_rows(other.split.test, slice(5))
    other.split = other.split._replace(test=few._replace(venue=few.venue.flip(0)))
    ours, theirs = completed_round(trial).split, completed_round(other).split
    assert torch.equal(ours.train.text, theirs.train.text)
    torch.testing.assert_close(ours.test.text[:5], theirs.test.text)


def test_validation_videos_of_a_data_set_are_used(study):
    published = study._replace(test=pick_rows(study.videos, slice(20)), validation=pick_rows(study.videos, slice(20, 50)))
    learned, validation = videos_for_choosing(VenueRound(published, TINY, 0))
    assert learned is None and torch.equal(validation.venue, study.videos.venue[20:50])


def test_the_model_for_files_learns_from_videos_that_no_demonstration_shows(monkeypatch):
    from microvid_nb.data.microworld import SHOWN_VIDEOS
    from microvid_nb.venue import experiments, systems
    drawn = []

    class Enough(Exception):
        pass

    def draw(world, numbers, *_):
        drawn.append(numbers)
        return []

    def describe(world, numbers, *_):
        drawn.append(numbers)
        raise Enough
    monkeypatch.setattr(systems, 'draw_videos', draw)
    monkeypatch.setattr(systems, 'described_videos', describe)
    monkeypatch.setattr(systems, 'train_picture_network', lambda *_: None)
    with pytest.raises(Enough): experiments.train_microworld_model(SCALES['small'], progress=False)
    elsewhere, learned = drawn
    shown = {*SHOWN_VIDEOS, *range(10_000)}  # the tutorials and the experiments have numbers below 10,000
    assert not shown & set(elsewhere) and not shown & set(learned) and not set(elsewhere) & set(learned)
