"""Attention against NumPy, its special case, padding and missing modalities, fusion of modalities, checkpoints, bad
input.
"""
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from microvid_nb.classify.fusion import (
    AttentionPooling, GlobalPooling, MultimodalClassifier, MultimodalItem, MultimodalSettings, multimodal_batch,
    multimodal_loss)
from microvid_nb.training import load_model, save_checkpoint

DIMS = {'visual': 6, 'audio': 4, 'title': 3}
POOLINGS = ['netvlad', 'attention', 'mean']


def classifier(pooling='netvlad', seed=0, learned=True, **more):
    """A small classifier; `learned` gives attention other weights than its zeros."""
    torch.manual_seed(seed)
    model = MultimodalClassifier(
        MultimodalSettings(dims=tuple(DIMS.values()), classes=5, pooling=pooling, clusters=3, hidden=8, **more)
    ).eval()
    if learned:
        for layer in model.modules():
            if isinstance(layer, AttentionPooling): torch.nn.init.normal_(layer.w)
        torch.nn.init.normal_(model.attention.b)
    return model


def video(lengths, label=0, seed=0):
    """Random features; a length of None is a missing modality."""
    source = torch.Generator().manual_seed(seed)
    return MultimodalItem(
        {
            name: None if n is None else torch.randn(n, dim, generator=source)
            for (name, dim), n in zip(DIMS.items(), lengths)
        },
        label,
    )


VIDEOS = [
    video(lengths, k % 5, k)
    for k, lengths in enumerate(
        [(4, 2, 3), (1, 1, 1), (9, None, 2), (None, 3, None), (2, 7, None), (3, 0, 5), (None, None, 1)]
    )
]


# --- pooling


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(0, 7), min_size=1, max_size=4), dim=st.integers(1, 5), seed=st.integers(0, 999))
def test_attention_is_what_numpy_says_and_padding_changes_nothing(lengths, dim, seed):
    torch.manual_seed(seed)
    longest = max(lengths) + 1
    x, mask = (
        torch.randn(len(lengths), longest, dim, dtype=torch.float64),
        torch.arange(longest) < torch.tensor(lengths)[:, None],
    )
    pool = AttentionPooling(dim, longest).double()
    torch.nn.init.normal_(pool.w), torch.nn.init.normal_(pool.b)
    found, weights = (
        pool(x.masked_fill(~mask[..., None], float('nan')), mask).detach().numpy(),
        pool.weights(x, mask).detach().numpy(),
    )
    for row, n in enumerate(lengths):
        e = np.exp(x[row, :n].numpy()@pool.w.detach().numpy() + pool.b.detach().numpy()[:n])
        expected = e@x[row, :n].numpy()/e.sum() if n else np.zeros(dim)
        assert np.allclose(found[row], expected, atol=1e-9)
        assert np.allclose(weights[row, :n], e/e.sum()) and not weights[row, n:].any()


@pytest.mark.parametrize('length', [None, 6])
def test_zero_weights_are_global_pooling(length):
    x, mask = torch.randn(3, 6, 4), torch.arange(6) < torch.tensor([[6], [2], [1]])
    attention, mean = AttentionPooling(4, length), GlobalPooling()
    assert torch.allclose(attention(x, mask), mean(x, mask), atol=1e-6) and torch.allclose(
        attention(x), x.mean(1), atol=1e-6
    )
    for row, n in enumerate((6, 2, 1)): assert torch.allclose(mean(x, mask)[row], x[row, :n].mean(0), atol=1e-6)


def test_a_common_bias_changes_nothing():
    """Why attention over any number of rows has none."""
    pool, x = AttentionPooling(4, 6), torch.randn(2, 6, 4)
    torch.nn.init.normal_(pool.w)
    before = pool(x)
    torch.nn.init.constant_(pool.b, 3.7)
    assert torch.allclose(pool(x), before, atol=1e-6)


def test_gradients_of_attention():
    pool = AttentionPooling(3, 4).double()
    torch.nn.init.normal_(pool.w)
    x = torch.randn(3, 4, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True]*4, [True, False, False, True], [False]*4])
    assert torch.autograd.gradcheck(lambda x: pool(x, mask), x)
    pool(x, mask).square().sum().backward()
    assert pool.w.grad.isfinite().all() and pool.w.grad.any() and not x.grad[2].any() and not x.grad[1, 1:3].any()


# --- fusion


@pytest.mark.parametrize('pooling', POOLINGS)
def test_a_video_alone_and_in_a_batch(pooling):
    model = classifier(pooling)
    with torch.no_grad():
        together = model(multimodal_batch(VIDEOS, DIMS))
        for k, one in enumerate(VIDEOS):
            assert torch.allclose(model(multimodal_batch([one], DIMS))[0], together[k], atol=1e-6)


@pytest.mark.parametrize('pooling', POOLINGS)
@pytest.mark.parametrize('garbage', [1e6, float('nan'), float('inf')])
def test_what_stands_in_the_padding_does_not_matter(pooling, garbage):
    model, batch = classifier(pooling), multimodal_batch(VIDEOS, DIMS)
    bad = batch._replace(
        features={name: x.masked_fill(~batch.masks[name][..., None], garbage) for name, x in batch.features.items()}
    )
    with torch.no_grad(): assert torch.allclose(model(bad), model(batch), atol=1e-6)


def test_missing_modalities_leave_their_weight_to_the_others():
    """Removing a modality gives the same as a softmax over the others, by hand."""
    model, whole = classifier(), VIDEOS[0]
    less = whole._replace(features=whole.features | {'audio': None})
    with torch.no_grad():
        rows, _ = model.encode(multimodal_batch([whole], DIMS))
        scores = (rows[0]@model.attention.w + model.attention.b)[[0, 2]]
        v = scores.softmax(0)@rows[0, [0, 2]]
        assert torch.allclose(model(multimodal_batch([less], DIMS))[0], model.classify(v), atol=1e-6)
        weights = model.attended(multimodal_batch(VIDEOS, DIMS)).modalities
    there = torch.tensor(
        [[bool(one.features[name] is not None and len(one.features[name])) for name in DIMS] for one in VIDEOS]
    )
    assert torch.equal(weights > 0, there) and torch.allclose(weights.sum(1), torch.ones(len(VIDEOS)), atol=1e-6)


@pytest.mark.parametrize('pooling', POOLINGS)
def test_attended_elements(pooling):
    batch = multimodal_batch(VIDEOS, DIMS)
    elements = classifier(pooling).attended(batch).elements
    assert list(elements) == ([] if pooling == 'netvlad' else list(DIMS))
    for name, weight in elements.items():
        assert torch.equal(weight > 0, batch.masks[name]) and torch.allclose(
            weight.sum(1), batch.masks[name].any(1).float(), atol=1e-6
        )
        if pooling == 'mean':
            assert torch.allclose(weight, batch.masks[name] / batch.masks[name].sum(1, keepdim=True).clamp(min=1))


def test_concatenation_is_a_sum_of_projections():
    """Without attention's learning, and layers up to there linear, fusion is a linear layer on what would stand side by
    side.
    """
    pooled, layers = (
        [torch.randn(2, dim) for dim in DIMS.values()],
        [torch.nn.Linear(dim, 8, bias=False) for dim in DIMS.values()],
    )
    side_by_side = torch.cat(pooled, 1)@torch.cat([layer.weight for layer in layers], 1).T
    rows = torch.stack([layer(x) for layer, x in zip(layers, pooled)], 1)
    assert torch.allclose(3*AttentionPooling(8, 3)(rows), side_by_side, atol=1e-5)


@pytest.mark.parametrize('pooling', POOLINGS)
def test_learns_and_is_saved(tmp_path, pooling):
    model, batch = classifier(pooling, learned=False, intra=True), multimodal_batch(VIDEOS, DIMS)
    model.start_from_kmeans(batch, seed=1).train()
    optimizer, losses = torch.optim.Adam(model.parameters(), 2e-2), []
    for _ in range(40):
        optimizer.zero_grad()
        losses.append(multimodal_loss(model, batch))
        losses[-1].backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
    assert losses[-1] < .6*losses[0]
    path = save_checkpoint(tmp_path/'fusion.safetensors', model.eval(), model.settings)
    again = load_model(path, {MultimodalClassifier: MultimodalSettings})
    with torch.no_grad(): assert torch.equal(again(batch), model(batch))


def test_kmeans_sees_real_rows_only():
    model, batch = classifier(learned=False), multimodal_batch(VIDEOS, DIMS)
    far = batch._replace(
        features={name: x.masked_fill(~batch.masks[name][..., None], 1e6) for name, x in batch.features.items()}
    )
    model.start_from_kmeans(far)
    assert all(encoder.pool.centres.abs().max() < 10 for encoder in model.encoders.values())


def test_dropout_is_off_in_eval():
    model, batch = classifier(), multimodal_batch(VIDEOS, DIMS)
    with torch.no_grad():
        assert torch.equal(model(batch), model(batch))
        model.train()
        assert not torch.equal(model(batch), model(batch))


def test_modalities_of_ones_own():
    """Two modalities under other names."""
    model = MultimodalClassifier(
        MultimodalSettings(('flow', 'objects'), (4, 2), classes=3, clusters=2, hidden=8)
    ).eval()
    batch = multimodal_batch(
        [MultimodalItem({'flow': torch.randn(3, 4)}, 1), MultimodalItem({'objects': torch.randn(2, 2)}, 0)],
        {'flow': 4, 'objects': 2},
    )
    assert model(batch).shape == (2, 3) and model.attended(batch).modalities.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize('wrong, words', [
    (lambda: multimodal_batch([VIDEOS[0], video((None, 0, None))], DIMS), 'video 1 has no visual, no audio, no title'),
    (lambda: multimodal_batch([MultimodalItem({'audio': torch.zeros(2, 6)}, 0)], DIMS), 'video 0: expected audio features [L, 4], found [2, 6]'),
    (lambda: multimodal_batch([MultimodalItem({'audio': torch.zeros(4)}, 0)], DIMS), 'expected audio features [L, 4], found [4]'),
    (lambda: multimodal_batch([MultimodalItem({'smell': torch.zeros(2, 4)}, 0)], DIMS), "video 0 has a modality 'smell', expected visual, audio, title"),
    (lambda: multimodal_batch([VIDEOS[0], MultimodalItem({'title': torch.full((1, 3), float('nan'))}, 0)], DIMS), 'video 1: its title features are not all finite'),
    (lambda: classifier('max'), "'max' is no pooling; there are netvlad, attention, mean"),
    (lambda: MultimodalClassifier(MultimodalSettings(dims=(3,))), '3 modalities need as many widths, found 1'),
    (lambda: AttentionPooling(4, 3)(torch.zeros(2, 5, 4)), 'this attention weighs 3 rows, found 5'),
    (lambda: GlobalPooling()(torch.zeros(2, 5, 4), torch.ones(2, 4, dtype=torch.bool)), 'expected a bool mask [2, 5]')])
def test_bad_input(wrong, words):
    with pytest.raises(ValueError) as caught: wrong()
    assert words in str(caught.value)
