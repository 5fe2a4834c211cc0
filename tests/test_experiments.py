"""The floor under the four tasks: rounds that do not depend on processes, tests against SciPy and worked by hand."""
import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from oracles import corrected_p
from scipy import stats
from torch import nn

from microvid_nb.experiments import (
    beside_paper, bootstrap_means, compare_items, compare_rounds, comparison_table, corrected_t, fit_scheduled, holm,
    limit_threads, mean_sd, new_model, run_rounds, write_items)

RESULTS = Path(__file__).resolve().parent.parent/'results'


@pytest.fixture
def rows():
    return pd.DataFrame(
        {
            'round': [0, 1, 2] * 2,
            'method': ['ours'] * 3 + ['theirs'] * 3,
            'accuracy': [30.0, 31, 32, 20, 20, 20],
            'error': [0.5, 0.5, 0.5, 0.0, 0.1, 0.2],
        }
    )


# --- rounds


def random_round(offset, seed):
    """A round with a model and training; it says how many threads it had."""
    network = new_model(lambda: nn.Linear(2, 1), seed)
    loss = lambda model, batch: model(batch).square().mean()
    history = fit_scheduled(network, [torch.ones(3, 2)], loss, 2, 0.1, seed=seed, progress=False)
    row = {'round': seed, 'loss': history.loss.iloc[-1] + offset, 'threads': torch.get_num_threads()}
    return {'table': pd.DataFrame([row])}


def test_rounds_are_the_same_on_any_number_of_processes():
    before = torch.get_num_threads()
    one, two = (run_rounds(random_round, (5.,), [3, 1, 2], workers, progress=False)['table'] for workers in (1, 2))
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert one['round'].tolist() == [3, 1, 2] and set(one.threads) == {1} and (one.loss > 5).all()
    assert torch.get_num_threads() == before


def test_threads_come_back_after_an_error_and_from_a_decorator():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(KeyError):
            with limit_threads(1): raise KeyError
        assert torch.get_num_threads() == 2

        @limit_threads(1)
        def inside(): return torch.get_num_threads()
        assert inside() == 1 and torch.get_num_threads() == 2
    finally: torch.set_num_threads(before)


def test_new_models_leave_the_generators_alone():
    torch.manual_seed(7)
    state = torch.get_rng_state()
    one, two, other = (new_model(lambda: nn.Linear(3, 3), seed).weight for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(one, two) and not torch.equal(one, other)
    torch.manual_seed(1)
    assert torch.equal(nn.Linear(3, 3).weight, one)


def test_parameters_without_gradient_are_left_alone():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    network[0].requires_grad_(False)
    before = network[0].weight.clone()
    for name in ('Adam', 'AdamW', 'Adagrad'):
        fit_scheduled(
            network, [torch.ones(3, 2)], lambda model, batch: model(batch).square().mean(), 2, 0.1, name, 'one cycle',
            weight_decay=0.1, progress=False,
        )
    assert torch.equal(network[0].weight, before)


# --- tables


def test_mean_and_standard_deviation(rows):
    shown = mean_sd(rows.set_index(['round', 'method']), 1)
    assert shown.to_dict('index') == {
        'ours': {'accuracy': '31.0 ± 1.0', 'error': '0.5 ± 0.0'},
        'theirs': {'accuracy': '20.0 ± 0.0', 'error': '0.1 ± 0.1'},
    }
    assert mean_sd(rows[rows['round'] == 1].set_index('method')[['accuracy']], 0).accuracy.tolist() == ['31', '20']


def test_tables_beside_the_papers_name_their_data(rows):
    paper = pd.DataFrame({'accuracy': {'theirs': '19.1 ± 0.2', 'nobody': '7'}})
    table = beside_paper(rows, {'accuracy': 1, 'error': 2}, paper, 'MicroWorld', 'Vine', methods=['theirs', 'nobody'])
    assert table.to_dict('index') == {
        'theirs': {
            'accuracy, MicroWorld': '20.0 ± 0.0',
            'error, MicroWorld': '0.10 ± 0.10',
            'accuracy, paper (Vine)': '19.1 ± 0.2',
        },
        'nobody': {'accuracy, MicroWorld': '', 'error, MicroWorld': '', 'accuracy, paper (Vine)': '7'},
    }
    assert beside_paper(rows, ['error'], None, 'MicroWorld').index.tolist() == ['ours', 'theirs']


def test_outcomes_of_items_come_back(tmp_path):
    items = pd.DataFrame({'round': [0, 1], 'method': ['a', 'b'], 'item': [5, 6], 'right': [True, False], 'x': [.1, .2]})
    back = pd.read_parquet(write_items(tmp_path/'items.parquet', items))
    assert back.astype({'method': str, 'x': float}).round(6).to_dict() == items.to_dict()
    assert back.dtypes.astype(str).to_dict() == {
        'round': 'int64', 'method': 'category', 'item': 'int64', 'right': 'bool', 'x': 'float32'}


# --- comparisons


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=3, max_size=8), st.floats(0, 2))
def test_corrected_t_is_scipys_with_a_larger_error(differences, ratio):
    d = np.array(differences)
    if d.std() < 1e-3: return
    plain = stats.ttest_1samp(d, 0)
    assert corrected_t(d, 0).p == pytest.approx(plain.pvalue, rel=1e-6)
    assert corrected_t(d, 0)[1:3] == pytest.approx(tuple(plain.confidence_interval()), rel=1e-6, abs=1e-9)
    found = corrected_t(d, ratio)
    assert found.p == pytest.approx(corrected_p(d, ratio), rel=1e-6)
    # an interval without 0 and p below .05 are the same thing
    if abs(found.p - .05) > 1e-9: assert (found.low > 0 or found.high < 0) == (found.p < .05)


def test_corrected_t_by_hand():
    # mean 3, variance 2.5, t = 3/sqrt(1.2*2.5) = sqrt 3; for 4 degrees of freedom the tail has a closed form
    found, x = corrected_t([1, 2, 3, 4, 5], 1), math.sqrt(3)/math.sqrt(4 + 3)
    assert found.p == pytest.approx(1 - x*(3 - x**2)/2, rel=1e-9) and found.pairs == 5
    assert found[:3] == pytest.approx((3, 3 - 2.776445*math.sqrt(3), 3 + 2.776445*math.sqrt(3)), rel=1e-6)


def test_rounds_of_two_methods(rows):
    found = compare_rounds(rows, 'ours', 'theirs', 'accuracy', 0)
    # t = 11/(1/sqrt 3) = 19.05 with 2 degrees of freedom
    assert found.difference == 11 and found.p == pytest.approx(.0027, abs=1e-4)
    assert compare_rounds(rows, 'ours', 'theirs', 'accuracy', .5).p > found.p
    with pytest.raises(ValueError, match='error: not in every round for theirs'):
        compare_rounds(rows[:-1], 'ours', 'theirs', 'error', 0)


def test_a_published_figure_of_this_repository():
    """GEVADEN against BeautThumb on MicroWorld: 600 of 800 videos for training, 100 for testing."""
    rows = pd.read_csv(RESULTS/'gif_table2_microworld_small_seed0.csv').query('split == "test"')
    one, other = (rows[rows.system == name].sort_values('round').PS.to_numpy() for name in ('GEVADEN', 'BeautThumb'))
    plain, corrected = (compare_rounds(rows, 'GEVADEN', 'BeautThumb', 'PS', ratio, 'system').p for ratio in (0, 1/6))
    assert len(one) == 5 and plain == pytest.approx(stats.ttest_rel(one, other).pvalue, rel=1e-6)
    assert corrected == pytest.approx(corrected_p(one - other, 1/6), rel=1e-6) and corrected > 2*plain


def test_items_of_two_methods():
    rng = np.random.default_rng(3)
    wide = pd.DataFrame({'a': rng.normal(.3, 1, 200), 'b': rng.normal(0, 1, 200)})
    items = pd.concat([pd.DataFrame({'item': range(200), 'method': name, 'x': wide[name]}) for name in wide])
    found, d = compare_items(items.sample(frac=1, random_state=0), 'a', 'b', 'x'), wide.a - wide.b
    assert found.difference == pytest.approx(d.mean()) and found.pairs == 200
    assert found.p == stats.wilcoxon(wide.a, wide.b).pvalue
    reference = stats.bootstrap((d,), np.mean, method='percentile', n_resamples=9999).confidence_interval
    assert found[1:3] == pytest.approx(tuple(reference), abs=.03)
    # rounds of an item are averaged, and items of one method alone count for nothing
    twice = pd.concat([items.assign(x=items.x + 1), items.assign(x=items.x - 1), items[:1].assign(item=-1)])
    assert compare_items(twice, 'a', 'b', 'x')[:4] == pytest.approx(found[:4])
    with pytest.raises(ValueError, match='a and c share 0 items'): compare_items(items, 'a', 'c', 'x')


def test_bootstrap_over_all_samples_of_three():
    """Three values have 27 equally likely samples."""
    values = np.array([0., 1., 5.])
    exact = np.mean([np.mean(sample) < 2 for sample in itertools.product(values, repeat=3)])
    means = bootstrap_means(values, 20_050, 0)
    assert len(means) == 20_050 and np.mean(means < 2) == pytest.approx(exact, abs=.015)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_by_its_definition(p):
    """Adjusted p is the smallest level at which the step-down procedure rejects."""
    adjusted = holm(p)
    for level in (.01, .05, .3, .9):
        rejected, left = set(), sorted(range(len(p)), key=lambda i: p[i])
        for place, i in enumerate(left):
            if p[i]*(len(p) - place) > level: break
            rejected.add(i)
        assert rejected == {i for i in range(len(p)) if adjusted[i] <= level}


def test_a_table_is_one_family(rows):
    figures = ('accuracy', 'error')
    pairs = {('ours', 'theirs', name): compare_rounds(rows, 'ours', 'theirs', name, .5) for name in figures}
    table = comparison_table(pairs, ['method', 'against', 'figure'])
    assert table.columns.tolist() == [
        'method', 'against', 'figure', 'difference', 'low', 'high', 'p', 'p (Holm)', 'pairs']
    assert table['p (Holm)'].min() == pytest.approx(2*table.p.min()) and len(table) == 2
