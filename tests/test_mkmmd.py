"""MK-MMD against loops, closed forms and a general solver, and its limits."""
import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist, pdist

from microvid_nb.thumbnail.mkmmd import (
    gaussian_kernels, heuristic_bandwidths, linear_mk_mmd, mean_distance, median_distance, mk_mmd,
    optimal_kernel_weights, quadruple_terms, squared_distances)


def samples(n, m, d, seed, shift=.5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=dtype), shift + 1.2 * torch.randn(
        m, d, generator=generator, dtype=dtype
    )


def by_loops(source, target, bandwidths, weights, unbiased):
    """Eq. 1 and 2 as sums over kernels and pairs."""
    total = 0.
    for gamma, beta in zip(bandwidths, weights):
        for x, y, sign, same in ((source, source, 1, True), (target, target, 1, True), (source, target, -2, False)):
            values = [
                np.exp(-((x[i] - y[j]) ** 2).sum() / gamma)
                for i in range(len(x))
                for j in range(len(y))
                if not (same and unbiased and i == j)
            ]
            total += beta*sign*sum(values)/len(values)
    return total


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 9), m=st.integers(2, 9), d=st.integers(1, 6), u=st.integers(1, 4), unbiased=st.booleans(), seed=st.integers(0, 10**6))
def test_triple_loop(n, m, d, u, unbiased, seed):
    source, target = samples(n, m, d, seed)
    rng = np.random.default_rng(seed)
    bandwidths, weights = rng.uniform(.5, 20, u), rng.dirichlet(np.ones(u))
    found = mk_mmd(source, target, bandwidths, weights, unbiased).item()
    assert found == pytest.approx(by_loops(source.numpy(), target.numpy(), bandwidths, weights, unbiased), abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 30), d=st.integers(1, 40), offset=st.floats(-100, 100), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 10**6))
def test_biased_is_a_squared_distance(n, d, offset, scale, seed):
    """0 from a sample to itself, never negative, symmetric, blind to a common move and, with heuristic bandwidths, to
    the unit.
    """
    source, target = samples(n, n + 3, d, seed)
    assert mk_mmd(source, source, unbiased=False).item() == pytest.approx(0, abs=1e-12)
    value = mk_mmd(source, target, unbiased=False).item()
    assert value >= -1e-12
    assert mk_mmd(target, source, unbiased=False).item() == pytest.approx(value, abs=1e-10)
    assert mk_mmd(scale*source + offset, scale*target + offset, unbiased=False).item() == pytest.approx(value, abs=1e-6)


def test_closed_form_for_gaussians():
    d, gammas, (mean, sigma) = 4, (3., 9.), (.6, 1.4)

    def expected(distance, variance, gamma):
        return (1 + 2*variance/gamma)**(-d/2)*np.exp(-distance/(gamma + 2*variance))
    truth = np.mean(
        [expected(0, 2, g) + expected(0, 2 * sigma**2, g) - 2 * expected(d * mean**2, 1 + sigma**2, g) for g in gammas]
    )
    generator = torch.Generator().manual_seed(0)
    for estimate in (mk_mmd, linear_mk_mmd):
        values = [
            estimate(
                torch.randn(50, d, generator=generator, dtype=torch.float64),
                mean + sigma * torch.randn(71, d, generator=generator, dtype=torch.float64),
                gammas,
            ).item()
            for _ in range(600)
        ]
        assert np.mean(values) == pytest.approx(truth, abs=4*np.std(values)/600**.5)


@pytest.mark.parametrize('estimate', [mk_mmd, linear_mk_mmd])
def test_unbiased_under_the_null(estimate):
    generator = torch.Generator().manual_seed(0)
    values = np.array(
        [
            estimate(torch.randn(20, 5, generator=generator), torch.randn(27, 5, generator=generator)).item()
            for _ in range(1000)
        ]
    )
    assert abs(values.mean()) < 4*values.std()/1000**.5
    assert .2 < (values < 0).mean() < .8


def test_distances_and_heuristics():
    source, target = samples(40, 31, 7, 0)
    both = torch.cat([source, target])
    np.testing.assert_allclose(squared_distances(source, target), cdist(source, target, 'sqeuclidean'), atol=1e-10)
    np.testing.assert_allclose(squared_distances(both, both), cdist(both, both, 'sqeuclidean'), atol=1e-10)
    pairs = pdist(both, 'sqeuclidean')
    assert mean_distance(source, target).item() == pytest.approx(pairs.mean())
    assert median_distance(source, target).item() in pairs[np.abs(pairs - np.median(pairs)).argsort()[:2]].round(
        12
    ).tolist() + [pytest.approx(np.median(pairs), rel=1e-3)]
    assert heuristic_bandwidths(source, target, median_distance, (2.0,)).item() == pytest.approx(
        2 * median_distance(source, target).item()
    )


def test_far_from_the_origin_in_single_precision():
    """Points a thousand away from 0 keep their distances."""
    source, target = samples(20, 20, 50, 0)
    near, far = mk_mmd(source, target), mk_mmd((source + 1000).float(), (target + 1000).float())
    assert far.item() == pytest.approx(near.item(), abs=1e-4)


def test_gradient():
    source, target = (x.requires_grad_() for x in samples(6, 4, 3, 0))
    for unbiased in (True, False):
        assert torch.autograd.gradcheck(lambda s, t: mk_mmd(s, t, [1., 5.], [.3, .7], unbiased), (source, target))
    assert torch.autograd.gradcheck(lambda s, t: linear_mk_mmd(s, t, [1., 5.]), (source, target))
    bandwidths = heuristic_bandwidths(source, target)
    assert not bandwidths.requires_grad
    with_heuristic, with_constant = (
        torch.autograd.grad(mk_mmd(source, target, given), source)[0] for given in (None, bandwidths.tolist())
    )
    torch.testing.assert_close(with_heuristic, with_constant)


@pytest.mark.parametrize('seed', range(8))
def test_weights_against_cvxpy(seed):
    source, target = samples(2000, 1700, 2, seed, shift=[.3, .5, .8, 1.2][seed % 4])
    bandwidths = heuristic_bandwidths(source, target, factors=[2.**e for e in range(-4, 5)])
    beta = optimal_kernel_weights(source, target, bandwidths).numpy()
    terms = quadruple_terms(source, target, bandwidths).numpy()
    d, Q = terms.mean(1), np.cov(terms)
    Q = Q + 1e-3*np.trace(Q)/len(d)*np.eye(len(d))
    assert (beta >= 0).all() and beta.sum() == pytest.approx(1)
    assert (d > 0).any()
    solved = cp.Variable(len(d), nonneg=True)
    cp.Problem(
        cp.Minimize(cp.quad_form(solved, cp.psd_wrap(Q / np.trace(Q)))), [(d / np.abs(d).max()) @ solved == 1]
    ).solve(solver=cp.CLARABEL)
    np.testing.assert_allclose(beta, solved.value/solved.value.sum(), atol=2e-3)

    def sureness(b): return (d @ b)/np.sqrt(b @ Q @ b)
    assert (
        sureness(beta) >= sureness(solved.value) - 1e-6
        and sureness(beta) >= max(sureness(e) for e in np.eye(len(d))) - 1e-9
    )


def test_weights_where_nothing_is_seen():
    """Two samples whose every quadruple says 'nearer than by chance': one kernel is taken, and no error."""
    source = torch.tensor([[0.], [5.]]).repeat(4, 1)
    target = torch.tensor([[5.], [0.]]).repeat(4, 1)
    bandwidths = [1., 10.]
    assert (quadruple_terms(source, target, bandwidths).mean(1) < 0).all()
    beta = optimal_kernel_weights(source, target, bandwidths)
    assert sorted(beta.tolist()) == [0., 1.]


def test_degenerate_and_bad_input():
    assert mk_mmd(torch.ones(4, 3), torch.ones(5, 3)).item() == 0
    for source, target in (
        (torch.zeros(1, 3), torch.zeros(4, 3)),
        (torch.zeros(4, 3), torch.zeros(4, 2)),
        (torch.zeros(4), torch.zeros(4)),
    ):
        with pytest.raises(ValueError, match='expected samples'):
            mk_mmd(source, target)
    with pytest.raises(ValueError, match='positive bandwidths'):
        gaussian_kernels(torch.zeros(4, 3), torch.zeros(4, 3), [0.])
    with pytest.raises(ValueError, match='2 weights >= 0 that sum to 1'):
        mk_mmd(torch.zeros(4, 3), torch.ones(4, 3), [1., 2.], [1.5, -.5])
