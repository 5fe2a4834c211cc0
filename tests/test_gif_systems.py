"""Systems of the GIF paper in one form: measures by hand, tables from rows of videos, no global generators."""
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from microvid_nb.experiments import holm
from microvid_nb.gif.experiments import (
    GEVADEN_TABLE2, GIFSplit, compare_systems, divergence, gif_table2, mean_over_videos, measured_round, studied)
from microvid_nb.gif.metrics import gif_matching_error
from microvid_nb.gif.shots import shot_video
from microvid_nb.gif.systems import (
    GEVADENS, SCALES, chance_system, gevaden_system, learned_systems, matched, measured_videos, picked, train_gevaden)

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
    assert found.p[1] == pytest.approx(.0377, abs=1e-4)   # PS against BeautThumb; .013 if rounds were independent
    assert found['p (Holm)'].tolist() == holm(found.p).tolist()
