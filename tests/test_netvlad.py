"""NetVLAD against loops, the limit of hard assignment, padding, gradients, k-means."""
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from sklearn.cluster import KMeans

from microvid_nb.classify.netvlad import NetVLAD, steepness


def layer_for(dim, clusters, seed=0, intra=False):
    torch.manual_seed(seed)
    return NetVLAD(dim, clusters, intra=intra).double()


def slow(layer, video):
    """Eq. 7 to 9 for the frames [M, N] of one video, number by number."""
    w, b, c = (tensor.detach().numpy() for tensor in (layer.assign.weight, layer.assign.bias, layer.centres))
    clusters, dim = c.shape
    y = np.zeros((dim, clusters))
    for frame in video.numpy():
        exponent = [math.exp(sum(w[k, j]*frame[j] for j in range(dim)) + b[k]) for k in range(clusters)]
        for k in range(clusters):
            for j in range(dim): y[j, k] += exponent[k]/sum(exponent)*(frame[j] - c[k, j])
    if layer.intra:
        y = y/np.linalg.norm(y, axis=0)
        y = y/np.linalg.norm(y)
    return y.reshape(-1)


@settings(max_examples=25, deadline=None)
@given(dim=st.integers(1, 6), clusters=st.integers(1, 5), lengths=st.lists(st.integers(1, 8), min_size=1, max_size=4), seed=st.integers(0, 99), intra=st.booleans())
def test_against_loops_with_padding_of_garbage(dim, clusters, lengths, seed, intra):
    layer = layer_for(dim, clusters, seed, intra)
    x = torch.randn(len(lengths), max(lengths), dim, dtype=torch.float64)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    found = layer(x.masked_fill(~mask[..., None], math.inf), mask)
    assert found.shape == (len(lengths), dim*clusters)
    for row, length in enumerate(lengths):
        assert np.allclose(found[row].detach().numpy(), slow(layer, x[row, :length]), atol=1e-9)
        assert torch.allclose(layer(x[row:row + 1, :length])[0], found[row], atol=1e-9)  # alone, without padding


@settings(max_examples=20, deadline=None)
@given(clusters=st.integers(2, 6), seed=st.integers(0, 999))
def test_hard_assignment_is_the_limit(clusters, seed):
    source = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 30, 3, generator=source, dtype=torch.float64)
    centres = torch.randn(clusters, 3, generator=source, dtype=torch.float64)
    distance = torch.cdist(x, centres.expand(2, -1, -1))
    nearest = distance.argmin(-1)
    expected = torch.zeros(2, clusters, 3, dtype=torch.float64)
    for b, i in np.ndindex(2, 30): expected[b, nearest[b, i]] += x[b, i] - centres[nearest[b, i]]
    two = distance.square().sort(-1).values
    alpha = 60/float((two[..., 1] - two[..., 0]).min())  # the closest decision of all is as good as made
    found = layer_for(3, clusters).set_centres(centres, alpha)(x)
    assert torch.allclose(found.unflatten(1, (3, clusters)).transpose(1, 2), expected, atol=1e-8)


def test_the_assignment_is_a_softmax_of_squared_distances():
    centres, x = torch.randn(4, 3, dtype=torch.float64), torch.randn(1, 9, 3, dtype=torch.float64)
    weight = layer_for(3, 4).set_centres(centres, .7).assignment(x, torch.ones(1, 9, dtype=torch.bool))
    assert torch.allclose(weight, (-.7*torch.cdist(x, centres[None]).square()).softmax(-1), atol=1e-12)


def test_kmeans_initialisation():
    """Centres are scikit-learn's; a typical frame's second centre has a hundredth of the weight of its first."""
    torch.manual_seed(3)
    features = torch.cat(
        [torch.randn(80, 4, dtype=torch.float64) * 0.3 + 3 * torch.randn(4, dtype=torch.float64) for _ in range(3)]
    )
    layer = layer_for(4, 3).start_from_kmeans(features, seed=1)
    theirs = KMeans(3, n_init=3, random_state=1).fit(features.numpy()).cluster_centers_
    assert np.allclose(layer.centres.detach().numpy(), theirs)
    squared = np.sort(((features.numpy()[:, None] - theirs)**2).sum(-1), axis=1)
    alpha = -math.log(.01)/(squared[:, 1] - squared[:, 0]).mean()
    assert steepness(features, layer.centres.detach()) == pytest.approx(alpha)
    assert np.allclose(layer.assign.weight.detach().numpy(), 2 * alpha * theirs) and np.allclose(
        layer.assign.bias.detach().numpy(), -alpha * (theirs**2).sum(1)
    )
    assert math.exp(-alpha*(squared[:, 1] - squared[:, 0]).mean()) == pytest.approx(.01)
    again = layer_for(4, 3, seed=9).start_from_kmeans(features, seed=1)
    assert torch.equal(again.centres, layer.centres)


@pytest.mark.parametrize('intra', [False, True])
def test_gradients(intra):
    """All parameters learn, and the gradients are those of finite differences; padding gets none."""
    layer = layer_for(3, 2, intra=intra)
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, False, False], [True]*4])
    assert torch.autograd.gradcheck(lambda x: layer(x, mask), x)
    layer(x, mask).square().sum().backward()
    if not intra: assert all(p.grad.abs().sum() > 0 for p in layer.parameters())
    assert not x.grad[0, 2:].any() and x.grad[0, :2].all()


def test_normalised_form_has_unit_clusters_and_forgets_length():
    layer, x = layer_for(5, 4, intra=True), torch.randn(3, 6, 5, dtype=torch.float64)
    y = layer(x)
    assert torch.allclose(y.unflatten(1, (5, 4)).norm(dim=1), torch.full((3, 4), .5, dtype=torch.float64))
    assert torch.allclose(layer(x.repeat(1, 3, 1)), y) and not torch.allclose(
        layer_for(5, 4)(x.repeat(1, 3, 1)), layer_for(5, 4)(x)
    )


@pytest.mark.parametrize('intra', [False, True])
def test_a_video_without_frames_is_zero_and_harmless(intra):
    layer, x = layer_for(3, 2, intra=intra), torch.randn(2, 4, 3, dtype=torch.float64)
    mask = torch.tensor([[False]*4, [True]*4])
    y = layer(x, mask)
    y.sum().backward()
    assert not y[0].any() and all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize('wrong, words', [
    (lambda layer, x: layer(x[0]), 'expected features [b, L, D], found [4, 3]'),
    (lambda layer, x: layer(x, torch.ones(2, 5, dtype=torch.bool)), 'expected a bool mask [2, 4], found torch.bool [2, 5]'),
    (lambda layer, x: layer(x, torch.ones(2, 4)), 'found torch.float32 [2, 4]'),
    (lambda layer, x: layer.start_from_kmeans(x), 'expected features [n, 3], found [2, 4, 3]'),
    (lambda layer, x: layer.start_from_kmeans(x[0, :1]), '2 clusters need as many different frames, found 1')])
def test_bad_input(wrong, words):
    with pytest.raises(ValueError) as caught: wrong(layer_for(3, 2), torch.randn(2, 4, 3, dtype=torch.float64))
    assert words in str(caught.value)
