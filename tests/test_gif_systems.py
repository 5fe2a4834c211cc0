"""Systems of the GIF paper in one form: measures by hand, tables from rows of videos, no global generators."""
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from oracles import corrected_p

from microvid_nb.experiments import holm
from microvid_nb.data.gif_thumbnails import load_gif_thumbnails, read_shot_features
from microvid_nb.gif.experiments import (
    GEVADEN_TABLE2, GIFSplit, compare_systems, divergence, gif_table2, mean_over_videos, measured_round, studied)
from microvid_nb.gif.gevaden import generate_gif, seconds_penalty, shot_likelihoods
from microvid_nb.gif.metrics import gif_matching_error
from microvid_nb.gif.shots import collate_shots, real_shot_videos, shot_video
from microvid_nb.gif.systems import (
    GEVADENS, SCALES, chance_system, evenly_spaced, gevaden_system, learned_systems, like_one_gif, matched,
    measured_videos, picked, top_peaks, train_gevaden)
from microvid_nb.reproduce import reproduce

RESULTS = Path(__file__).resolve().parent.parent/'results'
TINY = replace(SCALES['tiny'], steps=6, samples=20)


def video(seed, shots=12):
    rng = np.random.default_rng(seed)
    gifs = [rng.choice(shots, 3, replace=False) for _ in range(3)]
    return shot_video(str(seed), rng.standard_normal((shots, 6)), gifs, rng.poisson(2, shots) + 1.)


@pytest.fixture(scope='module')
def videos():
    return [video(seed) for seed in range(20)]


@pytest.fixture(scope='module')
def gevaden(videos):
    return train_gevaden(videos[:12], TINY, 0)


def test_measures_of_a_video_by_loops(videos):
    system = chance_system(3, samples=8)
    table = measured_videos(system, videos[:4], samples=5).set_index('item')
    for one, again in zip(videos[:4], map(chance_system(3, samples=8), videos[:4])):
        error = gif_matching_error(again.generated[:5], one.shots, one.gifs).mean()
        away = [min(abs(int(s) - int(g)) for g in one.gifs.flatten()) for s in again.seconds.flatten()]
        row = table.loc[one.key]
        assert row.PME == pytest.approx(error.item())
        assert row['within 1 s'] == pytest.approx(np.mean(np.array(away) <= 1))
        assert row.PS == pytest.approx(np.mean([one.counts[gif].sum()/one.counts.max() for gif in again.seconds]))


def test_generated_shots_are_matched_and_picked_ones_keep_their_features(videos):
    one = videos[0]
    answer = picked(one, [4, 2, 9])
    assert torch.equal(answer.generated[0], one.shots[[4, 2, 9]])
    assert torch.equal(matched(one, answer.generated + 1e-3).seconds, answer.seconds)


def test_training_and_measures_draw_from_no_global_generator(videos, gevaden):
    torch.manual_seed(11)
    state = torch.get_rng_state()
    again = train_gevaden(videos[:12], TINY, 0)
    def figures(model):
        measures = measured_videos(gevaden_system(model, 9, 1), videos[12:], 4)
        return [divergence(model, videos[12:], 5), measures.PME.mean()]
    found = figures(again)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(12)
    assert found == figures(gevaden)
    assert divergence(gevaden, videos[12:], 6) != found[0]


def test_a_round_has_a_row_a_video(videos, gevaden):
    split = GIFSplit(videos[:12], videos[12:16], videos[16:])
    systems = learned_systems(split.train, {name: gevaden for name in GEVADENS}, TINY, 0)
    items = measured_round(7, split, systems, TINY)
    assert len(items) == 8*len(systems) and set(items['round']) == {7}
    table = mean_over_videos(items).set_index(['system', 'split'])
    part = items[(items.system == 'RankNet') & (items.split == 'test')]
    assert table.loc[('RankNet', 'test'), 'PS'] == pytest.approx(part.PS.mean()) and len(part) == 4
    rows = studied('beta', {('beta', value): gevaden for value in (.03, .1, .3, 1.)}, split.validation, TINY, 0)
    assert rows.beta.tolist() == [.03, .1, .3, 1.] and rows.KL.nunique() == 1


def test_saved_tables_are_read_beside_the_paper():
    rounds = pd.read_csv(RESULTS/'gif_table2_microworld_small_seed0.csv')
    table = gif_table2(rounds)
    assert table.loc['GEVADEN', 'PS test, paper (Bilibili)'] == GEVADEN_TABLE2.loc['GEVADEN', 'PS test'] == 1.061
    assert table.loc['chance', 'PS test, paper (Bilibili)'] == ''
    part = rounds[(rounds.system == 'GEVADEN') & (rounds.split == 'test')]
    assert table.loc['GEVADEN', 'PME test, MicroWorld'] == f'{part.PME.mean():.3f} ± {part.PME.std():.3f}'
    found = compare_systems(rounds, [('GEVADEN', 'BeautThumb'), ('GEVADEN', 'chance')], 100/532)
    test = rounds[rounds.split == 'test'].sort_values('round')
    one, other = (test[test.system == name].PS.to_numpy() for name in ('GEVADEN', 'BeautThumb'))
    assert found.p[1] == pytest.approx(corrected_p(one - other, 100/532), rel=1e-6)   # PS against BeautThumb
    assert found['p (Holm)'].tolist() == holm(found.p).tolist()


def test_triples_and_order_by_loops(videos):
    rng = np.random.default_rng(4)
    for one in videos[:6]:
        seconds = np.stack([rng.choice(12, 3, replace=False) for _ in range(40)])
        anywhere = [max(len({*gif} & {*other})/3 for other in one.gifs.tolist()) for gif in seconds.tolist()]
        in_place = [max(np.mean(gif == other) for other in one.gifs.numpy()) for gif in seconds]
        found = like_one_gif(torch.tensor(seconds), one)
        assert found == pytest.approx({'of one GIF': np.mean(anywhere), 'at its place': np.mean(in_place)})
        assert found['at its place'] <= found['of one GIF']
    shown = like_one_gif(one.gifs[:1], one)
    assert set(shown.values()) == {1.} and like_one_gif(one.gifs[:1].flip(1), one)['at its place'] < 1


def test_the_rules_that_people_try_first(videos):
    for one in videos:
        found, n = top_peaks(one).seconds[0].tolist(), len(one.shots)
        counts = one.counts.numpy()
        peaks = [i for i in range(1, n - 1) if .05*n <= i < .95*n and counts[i] > max(counts[i - 1], counts[i + 1])]
        best = sorted(peaks, key=lambda i: -counts[i])[:3]
        assert found == sorted(found) and len({*found}) == 3
        assert min(counts[list({*found} & {*peaks})], default=0) >= min(counts[best], default=0)
        assert len({*found} & {*peaks}) == min(3, len(peaks))
    assert evenly_spaced(video(0, shots=3)).seconds.tolist() == [[0, 1, 2]]
    assert evenly_spaced(video(0, shots=60)).seconds.tolist() == [[10, 30, 50]]


def test_the_likelihood_of_seconds_by_loops(videos):
    batch = collate_shots([(one.shots, one.gifs[0]) for one in (video(1, 5), video(2, 9))])
    generated = torch.randn(2, 4, 3, 6, generator=torch.Generator().manual_seed(0))
    found = seconds_penalty(generated, batch, torch.tensor(1.7))
    for b, n in enumerate((5, 9)):
        for sample in range(4):
            total = 0
            for place, second in enumerate(batch.gif[b].tolist()):
                away = np.linalg.norm(generated[b, sample, place].numpy() - batch.shots[b, :n].numpy(), axis=1)
                likely = np.exp(-1.7*away)
                total -= np.log(likely[second]/likely.sum())
            assert found[b, sample].item() == pytest.approx(total, rel=1e-4)
    # the likelihood of Eq. 10 is the same
    eq10 = shot_likelihoods(generated[1], batch.shots[1], 1.7)
    second = batch.gif[1]
    joint = torch.stack([eq10[i, :, second[i]] for i in range(3)]).log().sum(0)
    assert torch.allclose(found[1].double(), -joint, rtol=1e-4)


def test_trained_by_likelihood_the_right_seconds_come_first():
    """Shots of three kinds, shown in the order 2, 0, 1: only the right kind at the right place has low distance."""
    def told(seed):
        rng = np.random.default_rng(seed)
        kind = rng.permutation(np.repeat([0, 1, 2], 3))
        gif = [[int(rng.choice(np.flatnonzero(kind == which))) for which in (2, 0, 1)]]
        return kind, shot_video(str(seed), 2*np.eye(3, 6)[kind] + .1*rng.standard_normal((9, 6)), gif, np.ones(9))
    model = train_gevaden([told(seed)[1] for seed in range(40)], replace(TINY, steps=200), 0, by_likelihood=True)
    kind, fresh = told(99)
    found = generate_gif(model, fresh.shots, 20, torch.Generator().manual_seed(0))
    assert kind[found].tolist() == [2, 0, 1] and model.sharpness() > 1
    plain = train_gevaden([told(seed)[1] for seed in range(4)], TINY, 0)
    assert plain.sharpness() == 1 and 'log_sharpness' not in plain.state_dict()


@pytest.fixture
def published(tmp_path):
    """A look-alike of the published annotations, and of features of most of its videos."""
    rng, annotated, comments = np.random.default_rng(0), {}, {}
    (tmp_path/'features'/'part1').mkdir(parents=True)
    for i in range(40):
        key, seconds = f'{i}_{i + 7}', int(rng.integers(20, 40))
        gifs = {str(j): rng.choice(seconds - 2, 3, replace=False).astype(float).tolist() for j in range(2)}
        annotated[key] = {
            'gifs': gifs, 'video_url': 'https://example.org', 'height': 9, 'width': 16, 'fps': 25., 'frames': 25*seconds
        }
        comments[key] = rng.poisson(2, seconds + 1).tolist()
        if i: np.save(tmp_path/'features'/('part1' if i % 2 else '')/f'{key}.npy', rng.random((seconds, 8, 1, 1)))
    for name, content in (('annotated_data', annotated), ('annotated_dm_count', comments)):
        (tmp_path/f'{name}.json').write_text(json.dumps(content))
    return tmp_path


def test_published_features_describe_the_shots(published):
    dataset = load_gif_thumbnails(published)
    features = read_shot_features(published/'features', dataset.videos.index)
    assert '0_7' not in features and len(features) == 39 and features.width == 8
    found = real_shot_videos(dataset, dataset.videos.index, features)
    assert [one.key for one in found] == [key for key in dataset.videos.index if key != '0_7']
    for one in found:
        stored = next((published/'features').rglob(f'{one.key}.npy'))
        assert one.shots.numpy() == pytest.approx(np.load(stored)[:, :, 0, 0])
        assert one.counts.tolist() == dataset.counts[one.key][:len(one.shots)].tolist()


def test_the_tables_are_made_from_features(published, monkeypatch):
    monkeypatch.setitem(SCALES, 'tiny', replace(SCALES['tiny'], steps=2, rounds=1, samples=5))
    made = reproduce('gif', 'gif_thumbnails', 'tiny', 3, published/'out', published, False, published/'features')
    names = {path.name for path in made}
    assert 'gif_table2_features_gif_thumbnails_tiny_seed3.csv' in names and len(names) == 4
    table = pd.read_csv(published/'out'/'gif_table2_features_gif_thumbnails_tiny_seed3.csv')
    assert table.command[0].endswith('--folder FOLDER --scale tiny --seed 3 --features FEATURES')
    assert {'GEVADEN, likelihood', 'boosted trees', 'top peaks', 'evenly spaced'} < set(table.system)
    study = pd.read_csv(published/'out'/'gif_study_by_likelihood_features_gif_thumbnails_tiny_seed3.csv')
    assert study.by_likelihood.tolist() == [False, True] and (study.KL > 0).all()
