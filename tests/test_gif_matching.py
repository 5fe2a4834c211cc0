"""Closest disjoint matching against SciPy's assignment, brute force in higher precision, and its own promises."""
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from microvid_nb.gif import matching
from microvid_nb.gif.matching import (
    closest_disjoint_match, exact_precisions, match_with_bounds, near_shots, round_places, shot_places)


def drawn_problem(seed: int):
    """Features on a small grid of whole numbers, so that distances tie and shots repeat.

    Sometimes shifted far from the origin.
    """
    rng = np.random.default_rng(seed)
    k = int(rng.integers(1, 6))
    n, d = k + int(rng.integers(0, 30)), int(rng.integers(1, 5))
    side, shift = int(rng.integers(1, 5)), float(rng.choice([0, 1000]))
    return (
        rng.integers(0, side + 1, (3, k, d)) + shift,
        rng.integers(0, side + 1, (n, d)) + shift,
        [torch.float32, torch.float64][seed % 2],
    )


@pytest.mark.parametrize('seed', range(60))
def test_sums_equal_those_of_linear_sum_assignment(seed):
    generated, shots, dtype = drawn_problem(seed)
    found = closest_disjoint_match(torch.tensor(generated, dtype=dtype), torch.tensor(shots, dtype=dtype)).numpy()
    for sample, seconds in zip(generated, found):
        cost = cdist(sample, shots)
        assert len(set(seconds)) == len(seconds)
        assert cost[range(len(seconds)), seconds].sum() == pytest.approx(
            cost[linear_sum_assignment(cost)].sum(), abs=1e-11
        )


@pytest.mark.parametrize('seed', range(60))
def test_the_first_in_order_among_equals(seed):
    """On a line of whole numbers sums are exact, so brute force knows which tuples tie."""
    rng = np.random.default_rng(seed)
    k, n = int(rng.integers(1, 4)), int(rng.integers(4, 9))
    generated, shots = rng.integers(0, 6, (5, k, 1)), rng.integers(0, 6, (n, 1))
    tuples = list(itertools.permutations(range(n), k))   # in order
    expected = [min(tuples, key=lambda y: np.abs(sample - shots[list(y)]).sum()) for sample in generated]
    assert closest_disjoint_match(torch.tensor(generated).double(), torch.tensor(shots).double()).tolist() == [
        list(y) for y in expected
    ]


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('difference', [1e-2, 1e-5, 1e-8])
def test_near_ties_far_from_the_origin(dtype, difference):
    """Shots that differ by less than a matrix product can tell; what is right is known from extended precision."""
    rng = np.random.default_rng(0)
    base, d = rng.standard_normal((4, 64)), 64
    shots = torch.tensor(np.repeat(base, 5, 0) + difference*rng.standard_normal((20, d)) + 1e3, dtype=dtype)
    generated = torch.tensor(
        base[rng.integers(4, size=(30, 3))] + 0.1 * rng.standard_normal((30, 3, d)) + 1e3, dtype=dtype
    )
    exact_shots, exact = shots.numpy().astype(np.longdouble), generated.numpy().astype(np.longdouble)
    tuples = np.array(list(itertools.permutations(range(20), 3)))
    distance = np.sqrt(((exact[:, :, None] - exact_shots)**2).sum(-1))
    sums = distance[:, 0][:, tuples[:, 0]] + distance[:, 1][:, tuples[:, 1]] + distance[:, 2][:, tuples[:, 2]]
    found = closest_disjoint_match(generated, shots).numpy()
    chosen = np.take_along_axis(distance, found[..., None], -1)[..., 0].sum(-1)
    assert (chosen <= sums.min(1)*(1 + 2*matching.TIE)).all()


def choose(generated, shots, dtype):
    """The choice of products in some precision and whether it is certain."""
    return match_with_bounds(near_shots(generated, round_places(shot_places(shots, generated.shape[1]), dtype)))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 700), st.floats(-30, 30), st.floats(0, 3), st.sampled_from([torch.float32, torch.float64]), st.booleans())
def test_bounds_hold(seed, d, exponent, offset, dtype, single):
    """The true distance, known from extended precision, lies between the bounds, at any scale and far from the
    origin.
    """
    rng = np.random.default_rng(seed)
    given_type = np.float32 if single else np.float64
    shots = (rng.standard_normal((12, d))*rng.choice([.01, 1], (12, 1)) + 10**offset)*10**exponent
    generated = shots[rng.integers(12, size=(4, 2))] + rng.standard_normal((4, 2, d)) * 10 ** (
        exponent + rng.uniform(-5, 1)
    )
    shots, generated = shots.astype(given_type), generated.astype(given_type)
    places = round_places(shot_places(torch.tensor(shots), 2), dtype)
    near = near_shots(torch.tensor(generated), places)
    exact = np.sqrt(((generated[:, :, None].astype(np.longdouble) - shots.astype(np.longdouble))**2).sum(-1))
    distance = np.take_along_axis(exact, near.second.numpy(), -1)*np.longdouble(places.scale)
    shown = near.second.numpy() >= 0
    assert (near.low.numpy() <= distance)[shown].all() and (distance <= near.high.numpy())[shown].all()


def test_single_precision_is_right_or_in_doubt():
    """Samples of which float32 is certain are right, also where it often can't tell, and whatever PyTorch is told about
    precision.
    """
    rng = np.random.default_rng(0)
    for difference in (1, 1e-2, 1e-3, 1e-4):
        shots = torch.tensor(
            np.repeat(rng.standard_normal((10, 256)), 4, 0) + difference * rng.standard_normal((40, 256)),
            dtype=torch.float32,
        )
        generated = torch.tensor(rng.standard_normal((300, 3, 256)), dtype=torch.float32)
        right = matching.match_directly(generated, shots.double())
        chosen, certain = choose(generated, shots, torch.float32)
        assert torch.equal(chosen[certain], right[certain])
        with torch.autocast('cpu', dtype=torch.bfloat16):
            assert torch.equal(closest_disjoint_match(generated, shots), right)
            assert torch.equal(closest_disjoint_match(generated[0], shots), right[0])
    assert not certain.all()


def test_products_are_not_rounded_to_fewer_digits():
    generator = torch.Generator().manual_seed(1)
    shots, generated = torch.randn(40, 512, generator=generator), torch.randn(200, 3, 512, generator=generator)
    expected = closest_disjoint_match(generated, shots)
    try:
        for precision in ('high', 'medium'):
            torch.set_float32_matmul_precision(precision)
            assert exact_precisions() == [torch.float64]
            assert torch.equal(closest_disjoint_match(generated, shots), expected)
    finally:
        torch.set_float32_matmul_precision('highest')
    assert exact_precisions() == [torch.float32, torch.float64]


def test_threads_are_left_as_they_were():
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            closest_disjoint_match(torch.zeros(4, 3, 2), torch.zeros(9, 2))
            assert torch.get_num_threads() == threads
            with pytest.raises(ValueError):
                closest_disjoint_match(torch.zeros(4, 3, 2), torch.zeros(2, 2))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize('scale', [1e-30, 1e-6, 1e6, 1e30])
def test_scales(scale):
    generator = torch.Generator().manual_seed(2)
    shots, generated = torch.randn(30, 64, generator=generator), torch.randn(50, 3, 64, generator=generator)
    expected = closest_disjoint_match(generated, shots)
    assert torch.equal(
        closest_disjoint_match(generated * 2.0 ** round(np.log2(scale)), shots * 2.0 ** round(np.log2(scale))), expected
    )
    assert choose(generated*scale, shots*scale, torch.float32)[1].double().mean() > .9
    # shots far nearer to one another than to the features
    far = closest_disjoint_match((generated*scale).double(), shots.double()*1e-9*scale)
    assert torch.equal(far, matching.match_directly(generated.double(), shots.double()*1e-9))


def test_what_single_precision_cannot_hold_is_in_doubt():
    shots, generated = torch.randn(9, 4).double(), torch.full((2, 3, 4), 1e60, dtype=torch.float64)
    assert not choose(generated, shots, torch.float32)[1].any()
    assert len(closest_disjoint_match(generated, shots)[0].unique()) == 3


def test_doubtful_samples_go_the_slow_way_and_only_those():
    generator = torch.Generator().manual_seed(0)
    shots = torch.randn(50, 32, generator=generator).double()
    generated = torch.randn(400, 3, 32, generator=generator).double()
    _, certain = choose(generated, shots, torch.float64)
    assert certain.all()
    shots[7] = shots[3] + 1e-13   # now two shots can't be told apart by a product
    generated[5, 1] = shots[3]
    _, certain = choose(generated, shots, torch.float64)
    assert not certain[5] and certain.float().mean() > .5


def test_identical_shots_leave_no_doubt():
    """A still picture: all seconds of a part are the same, and the first of them are taken."""
    generator = torch.Generator().manual_seed(0)
    shots = torch.randn(5, 16, generator=generator).repeat_interleave(torch.tensor([1, 10, 2, 1, 6]), 0)
    generated = shots[[3, 3, 3]] + .01*torch.randn(100, 3, 16, generator=generator)
    assert choose(generated, shots, torch.float32)[1].all()
    assert (closest_disjoint_match(generated, shots).sort(-1).values == torch.tensor([1, 2, 3])).all()
    assert closest_disjoint_match(shots[[4, 0, 4]], shots).tolist() == [1, 0, 2]


@pytest.mark.parametrize('k', range(1, 7))
def test_every_length_of_gif(k):
    generator = torch.Generator().manual_seed(k)
    shots, generated = (
        torch.rand(k + 3, 2, generator=generator).double(),
        torch.rand(20, k, 2, generator=generator).double(),
    )
    found = closest_disjoint_match(generated, shots)
    for sample, seconds in zip(generated.numpy(), found.numpy()):
        assert seconds.tolist() == linear_sum_assignment(cdist(sample, shots))[1].tolist()


def test_batches_pieces_and_types(monkeypatch):
    generator = torch.Generator().manual_seed(1)
    shots, generated = (
        torch.randn(30, 8, generator=generator),
        torch.randn(4, 5, 3, 8, generator=generator, requires_grad=True),
    )
    found = closest_disjoint_match(generated, shots)
    assert found.shape == (4, 5, 3) and found.dtype == torch.int64
    assert torch.equal(found[2, 3], closest_disjoint_match(generated[2, 3], shots))
    monkeypatch.setattr(matching, 'CHUNK', 1)   # a sample at a time
    assert torch.equal(found, closest_disjoint_match(generated, shots))
    assert closest_disjoint_match(generated[:0], shots).shape == (0, 5, 3)
    assert closest_disjoint_match(generated.half(), shots.half()).shape == (4, 5, 3)
    whole = closest_disjoint_match(generated[..., :3, :].transpose(0, 1), shots)
    assert torch.equal(whole, found.transpose(0, 1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here')
def test_the_same_on_a_gpu():
    generator = torch.Generator().manual_seed(1)
    shots, generated = torch.randn(300, 128, generator=generator), torch.randn(2000, 3, 128, generator=generator)
    found = closest_disjoint_match(generated.cuda(), shots.cuda())
    assert found.is_cuda and torch.equal(found.cpu(), closest_disjoint_match(generated, shots))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(0, 12), st.floats(-3, 3), st.floats(-50, 50))
def test_invariances(seed, k, more, exponent, shift):
    """Shifting, turning and scaling all features changes nothing; nor does the order of rows, but for their order."""
    generator = torch.Generator().manual_seed(seed)
    shots, generated = (torch.randn(*shape, 6, generator=generator).double() for shape in ((k + more,), (7, k)))
    turn = torch.linalg.qr(torch.randn(6, 6, generator=generator).double())[0]*10**exponent
    found = closest_disjoint_match(generated, shots)
    assert torch.equal(found, closest_disjoint_match(generated @ turn + shift, shots @ turn + shift))
    assert torch.equal(found.flip(1), closest_disjoint_match(generated.flip(1), shots))
    cost = torch.cdist(generated, shots)
    other = torch.stack([torch.randperm(k + more, generator=generator)[:k] for _ in range(7)])
    of = lambda seconds: cost.gather(-1, seconds[..., None]).sum((-1, -2))
    assert (of(found) <= of(other) + 1e-12).all()


@pytest.mark.parametrize('generated, shots, message', [
    (torch.zeros(3, 4), torch.zeros(2, 4), 'at least 3 shots for 3 disjoint ones, found 2'),
    (torch.zeros(3, 4), torch.zeros(9, 5), r'found \[3, 4\] and \[9, 5\]'),
    (torch.zeros(4), torch.zeros(9, 4), r'found \[4\] and \[9, 4\]'),
    (torch.zeros(3, 0), torch.zeros(9, 0), r'found \[3, 0\] and \[9, 0\]'),
    (torch.zeros(7, 4), torch.zeros(9, 4), '1 to 6 shots .* found 7'),
    (torch.zeros(0, 4), torch.zeros(9, 4), '1 to 6 shots .* found 0'),
    (torch.tensor([[[0., 0], [1, 1]], [[2, 2], [3, torch.nan]]]), torch.zeros(9, 2), r'generated features, found nan in row \[1, 1\]'),
    (torch.zeros(1, 2), torch.tensor([[0, 0], [-torch.inf, torch.inf]]), r'shots, found -inf in row \[1\]'),
])
def test_bad_input(generated, shots, message):
    with pytest.raises(ValueError, match=message):
        closest_disjoint_match(generated, shots)


def test_large_finite_values_are_not_mistaken_for_infinite_ones():
    big = torch.full((3, 1000), 3e38)
    assert closest_disjoint_match(big, big).tolist() == [0, 1, 2]
