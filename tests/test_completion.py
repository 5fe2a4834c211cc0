"""Completion recovers planted matrices, agrees with alternating least squares written as loops, and works from memory
maps.
"""
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microvid_nb.features.completion import (
    CompletionSettings, Factorization, choose_rank, complete_modalities, factorize, hide)


def planted(rows, widths, rank, rng, noise=0.):
    factors = rng.normal(size=(rows, rank))
    return {
        name: 3**i
        * (factors @ rng.normal(size=(rank, width)) + rng.normal(size=width) + noise * rng.normal(size=(rows, width)))
        for i, (name, width) in enumerate(widths.items())
    }


def unknown_error(truth, found, masks):
    """Root mean square error of unknown entries as a share of their deviation."""
    wrong = size = 0
    for name, block in truth.items():
        unknown = ~np.broadcast_to(masks[name].reshape(len(block), -1), block.shape)
        wrong += np.square((found[name] - block)[unknown]).sum()
        size += np.square((block - block.mean(0))[unknown]).sum()
    return (wrong / size)**.5


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('given_settings', [CompletionSettings(), None], ids=['small ridge', 'ridge chosen'])
def test_planted_matrix_from_60_percent_of_its_entries(seed, given_settings):
    rng = np.random.default_rng(seed)
    truth = planted(300, {'visual': 50, 'acoustic': 30, 'text': 20}, 5, rng)
    masks = {name: rng.random(block.shape) < .6 for name, block in truth.items()}
    blocks = {name: np.where(masks[name], block, np.nan) for name, block in truth.items()}
    found = complete_modalities(blocks, masks, 5, given_settings, progress=False)
    assert unknown_error(truth, found, masks) < 1e-3
    for name, block in truth.items():
        assert (found[name][masks[name]] == block[masks[name]]).all()


def test_planted_modalities():
    rng = np.random.default_rng(0)
    truth = planted(400, {'visual': 40, 'acoustic': 20, 'text': 15}, 4, rng)
    masks = {'visual': np.ones(400, bool), 'acoustic': rng.random(400) < .8, 'text': rng.random(400) < .6}
    assert unknown_error(truth, complete_modalities(truth, masks, 4, progress=False), masks) < 1e-3


def loops(x, known, rank, ridge, rounds, seed):
    """Alternating ridge regressions of a row, then of a column with its mean, at a time.

    The matrix and the objective.
    """
    means, columns = np.zeros(x.shape[1]), np.random.default_rng(seed).normal(size=(x.shape[1], rank))
    for _ in range(rounds):
        rows = np.array(
            [
                np.linalg.solve(
                    columns[has].T @ columns[has] + ridge * np.eye(rank), columns[has].T @ (x[i, has] - means[has])
                )
                for i, has in enumerate(known)
            ]
        )
        constant, penalty = np.c_[rows, np.ones(len(rows))], len(x) * ridge * np.diag([1] * rank + [0])
        both = np.array(
            [
                np.linalg.solve(constant[has].T @ constant[has] + penalty, constant[has].T @ x[has, j])
                for j, has in enumerate(known.T)
            ]
        )
        columns, means = both[:, :rank], both[:, rank]
    found = rows @ columns.T + means
    return found, np.square((x - found)[known]).sum() + ridge * (
        np.square(rows).sum() + len(x) * np.square(columns).sum()
    )


@pytest.mark.parametrize('by_entry', [False, True])
@pytest.mark.parametrize('seed', range(3))
def test_agrees_with_loops(by_entry, seed):
    rng = np.random.default_rng(seed)
    blocks = planted(40, {'visual': 9, 'text': 6}, 2, rng, noise=.3)
    masks = {name: rng.random(block.shape if by_entry else 40) < .75 for name, block in blocks.items()}
    fitted = factorize(
        blocks, masks, 2, CompletionSettings(passes=200, tolerance=-1, ridge=0.05, chunk=17), progress=False
    )
    ours = np.concatenate(list(fitted.complete(blocks, masks).values()), 1)
    known = np.concatenate(
        [np.broadcast_to(masks[name].reshape(40, -1), block.shape) for name, block in blocks.items()], 1
    )
    stacked = np.concatenate(list(blocks.values()), 1)
    theirs, objective = min(
        (loops(stacked / fitted.scales, known, 2, 0.05, 300, start) for start in range(2)), key=lambda pair: pair[1]
    )
    assert np.isclose(fitted.history[-1] * fitted.size, objective, rtol=1e-6)
    np.testing.assert_allclose(ours[~known], (theirs * fitted.scales)[~known], atol=1e-4)
    assert (np.diff(fitted.history) < 1e-12).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.booleans())
def test_chunks_change_nothing(seed, chunk, by_entry):
    rng = np.random.default_rng(seed)
    blocks = planted(60, {'visual': 8, 'text': 5}, 2, rng, noise=.2)
    masks = {name: rng.random(block.shape if by_entry else 60) < .8 for name, block in blocks.items()}
    found = [
        complete_modalities(blocks, masks, 2, CompletionSettings(passes=3, ridge=0.01, chunk=size), progress=False)
        for size in (chunk, 1000)
    ]
    for name in blocks:
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=1e-6, atol=1e-6)


def test_memory_maps(tmp_path):
    rng = np.random.default_rng(0)
    truth = planted(500, {'visual': 20, 'text': 10}, 3, rng)
    masks = {'visual': np.ones(500, bool), 'text': rng.random(500) < .8}
    for name, block in truth.items():
        np.save(tmp_path / f'{name}.npy', block.astype(np.float32))
    blocks = {name: np.load(tmp_path / f'{name}.npy', mmap_mode='r') for name in truth}
    out = {
        name: np.lib.format.open_memmap(tmp_path / f'{name} out.npy', 'w+', np.float32, block.shape)
        for name, block in blocks.items()
    }
    complete_modalities(blocks, masks, 3, CompletionSettings(chunk=64), out=out, progress=False)
    assert unknown_error(truth, {name: np.load(tmp_path / f'{name} out.npy') for name in truth}, masks) < 2e-3
    in_place = {name: np.load(tmp_path / f'{name}.npy', mmap_mode='r+') for name in truth}
    complete_modalities(in_place, masks, 3, CompletionSettings(chunk=64), out=in_place, progress=False)
    for name in truth:
        np.testing.assert_array_equal(in_place[name], out[name])


def test_rank_is_found():
    rng = np.random.default_rng(0)
    blocks = planted(600, {'visual': 40, 'acoustic': 20, 'text': 15}, 4, rng, noise=.7)
    masks = {'visual': np.ones(600, bool), 'acoustic': rng.random(600) < .9, 'text': rng.random(600) < .8}
    rank, best, table = choose_rank(blocks, masks, [1, 2, 4, 8, 20], progress=False)
    assert rank == 4 and table['mean'].min() < .6
    assert list(table) == ['acoustic', 'text', 'mean']    # nothing of the pictures was hidden: none is missing


def test_nothing_in_common_is_hardly_worse_than_the_mean():
    rng = np.random.default_rng(0)
    blocks = {name: rng.normal(size=(300, width)) for name, width in {'visual': 30, 'text': 20}.items()}
    masks = {'visual': np.ones(300, bool), 'text': rng.random(300) < .8}
    assert unknown_error(blocks, complete_modalities(blocks, masks, 5, progress=False), masks) < 1.1


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(.05, .9))
def test_hiding_leaves_something_in_every_row(seed, share):
    rng = np.random.default_rng(seed)
    masks = {name: rng.random(80) < .7 for name in ('visual', 'acoustic', 'text')}
    fewer = hide(masks, share, rng)
    before, after = (np.stack(list(m.values()), 1) for m in (masks, fewer))
    assert not (after & ~before).any() and (before.sum(1) - after.sum(1)).max() <= 1
    assert (after.any(1) == before.any(1)).all()


def test_rows_of_which_nothing_is_known_get_the_means():
    rng = np.random.default_rng(0)
    truth = planted(100, {'visual': 10, 'text': 5}, 2, rng)
    masks = {'visual': np.arange(100) > 0, 'text': np.arange(100) > 0}
    fitted = factorize(truth, masks, 2, progress=False)
    found = fitted.complete(truth, masks)
    np.testing.assert_allclose(np.concatenate([found['visual'][0], found['text'][0]]), fitted.means)
    np.testing.assert_allclose(found['text'][0], truth['text'][1:].mean(0), atol=1e-3)


def test_file(tmp_path):
    rng = np.random.default_rng(0)
    truth = planted(100, {'visual': 10, 'text': 5}, 2, rng)
    masks = {'visual': np.ones(100, bool), 'text': rng.random(100) < .5}
    fitted = factorize(truth, masks, 2, progress=False)
    again = Factorization.load(fitted.save(tmp_path / 'completion.safetensors'))
    for name, block in fitted.complete(truth, masks).items():
        np.testing.assert_array_equal(again.complete(truth, masks)[name], block)
    assert again.history == fitted.history
    with pytest.raises(ValueError, match='refused'):
        pd.Series([1]).to_pickle(tmp_path / 'other.safetensors')
        Factorization.load(tmp_path / 'other.safetensors')


ROWS = {'visual': np.zeros((5, 3)), 'text': np.ones((5, 2))}
KNOWN = {'visual': np.ones(5, bool), 'text': np.ones(5, bool)}


@pytest.mark.parametrize('blocks, masks, rank, words', [
    (ROWS, {'visual': KNOWN['visual']}, 1, 'expected a mask for each block'),
    ({**ROWS, 'text': np.ones((4, 2))}, KNOWN, 1, "block 'text': expected 5 rows"),
    ({**ROWS, 'text': np.ones((5, 2), int)}, KNOWN, 1, "block 'text': expected a matrix of floats"),
    (ROWS, {**KNOWN, 'text': np.ones(5)}, 1, "block 'text': expected a mask of bool"),
    ({**ROWS, 'text': np.full((5, 2), np.nan)}, KNOWN, 1, "block 'text', row 0: holds NaN"),
    (ROWS, {**KNOWN, 'text': np.zeros(5, bool)}, 1, "block 'text': nothing is known of column 0"),
    (ROWS, KNOWN, 6, 'expected a rank from 1 to 5')])
def test_bad_input_is_named(blocks, masks, rank, words):
    with pytest.raises(ValueError, match=words):
        complete_modalities(blocks, masks, rank, CompletionSettings(), progress=False)


def sparse_masks(seed):
    """Masks that know little, and something of each column."""
    rng = np.random.default_rng(seed)
    masks = {'a': rng.random((60, 6)) < .05, 'b': rng.random((60, 5)) < .5}
    masks['a'][rng.integers(0, 60, 6), np.arange(6)] = True
    return masks


@pytest.mark.parametrize('settings', [None, CompletionSettings(ridge=0.)])
@pytest.mark.parametrize('masks', [
    *map(sparse_masks, range(4)),
    {'a': np.ones(60, bool), 'b': np.arange(60) == 3},
    {'a': np.arange(60) % 3 > 0, 'b': np.arange(60) % 4 > 0},
    {'a': np.ones(60, bool), 'b': np.ones(60, bool)},
])
@pytest.mark.parametrize('constant', [False, True])
def test_valid_masks_are_completed(masks, settings, constant):
    rng = np.random.default_rng(1)
    blocks = {'a': rng.normal(size=(60, 6)), 'b': np.full((60, 5), 2.) if constant else rng.normal(size=(60, 5))}
    found = complete_modalities(blocks, masks, 2, settings, progress=False)
    for name, block in blocks.items():
        known = np.broadcast_to(masks[name].reshape(60, -1), block.shape)
        assert np.isfinite(found[name]).all() and (found[name][known] == block[known]).all()
    if constant: assert np.allclose(found['b'], 2)


@pytest.mark.parametrize('seed', range(5))
def test_hiding_leaves_something_of_each_column(seed):
    masks = sparse_masks(seed) | {'c': np.arange(60) == 7}
    left = hide(masks, .9, np.random.default_rng(seed))
    for name, mask in masks.items():
        assert not (left[name] & ~mask).any() and (left[name].any(0) == mask.any(0)).all()
