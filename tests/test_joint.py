"""The joint feature against einsum.

Probabilities of scenes and behaviours against their definition; branches, checkpoints, bad input.
"""
import urllib.error

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from microvid_nb.classify.joint import (
    Moments, SceneNetwork, SceneSettings, TwoStream, TwoStreamSettings, joint_feature, scene_loss,
    start_from_imagenet, top_joint, two_stream_loss)
from microvid_nb.features.visual import backbone
from microvid_nb.training import load_model, save_checkpoint


def scene_network(**more):
    torch.manual_seed(0)
    return SceneNetwork(SceneSettings(scenes=5, width=1/16, **more)).eval()


def two_stream():
    torch.manual_seed(0)
    return TwoStream(TwoStreamSettings(actions=4, backbone='alexnet', length=3, width=1/16)).eval()


def pictures(n=6, side=40, seed=0):
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(b=st.integers(1, 5), scenes=st.integers(1, 9), behaviours=st.integers(1, 9), seed=st.integers(0, 999))
def test_joint_feature_is_the_outer_product(b, scenes, behaviours, seed):
    rng = np.random.default_rng(seed)
    s, a = rng.dirichlet(np.ones(scenes), b), rng.dirichlet(np.ones(behaviours), b)*2
    joint = joint_feature(torch.from_numpy(s), torch.from_numpy(a))
    assert joint.shape == (b, behaviours*scenes)
    assert np.array_equal(joint.numpy(), np.einsum('bk,bj->bkj', a, s).reshape(b, -1))
    table = joint.unflatten(1, (behaviours, scenes)).numpy()
    assert np.allclose(table.sum(1), 2*s) and np.allclose(table.sum(2), a)  # its margins are what it was made from
    for row in range(b): assert table[row].argmax() == a[row].argmax()*scenes + s[row].argmax()


@settings(max_examples=25, deadline=None)
@given(scenes=st.integers(1, 6), behaviours=st.integers(1, 6), count=st.integers(1, 40), seed=st.integers(0, 999))
def test_top_joint_are_the_largest_cells(scenes, behaviours, count, seed):
    joint = np.random.default_rng(seed).random(behaviours*scenes)
    a, s = [f'a{k}' for k in range(behaviours)], [f's{k}' for k in range(scenes)]
    table = top_joint(torch.from_numpy(joint), a, s, count)
    every = sorted(
        ((value / joint.sum(), a[k // scenes], s[k % scenes]) for k, value in enumerate(joint)), reverse=True
    )[:count]
    assert list(zip(table.behaviour, table.scene)) == [(x, y) for _, x, y in every] and np.allclose(
        table.share, [value for value, *_ in every]
    )


def test_scenes_are_one_layer_on_both_features():
    """The sum of two complete networks is a linear layer on their fc7 side by side."""
    network, x = scene_network(), pictures()
    with torch.no_grad():
        both = torch.cat([branch.forward_layers(x, ('fc7',))['fc7'] for branch in network.branches.values()], 1)
        layers = [branch.classifier[-1] for branch in network.branches.values()]
        expected = both@torch.cat([layer.weight for layer in layers], 1).T + sum(layer.bias for layer in layers)
        assert torch.allclose(network(x), expected, atol=1e-5)
    assert list(network.branches) == ['vgg16', 'vgg19'] and both.shape == (6, 2*256)


def test_probabilities_are_means_over_frames():
    network, x = scene_network(), pictures()
    with torch.no_grad(): f, single = network.probabilities(x.unflatten(0, (2, 3))), F.softmax(network(x), 1)
    assert torch.allclose(f[1], single[3:].mean(0), atol=1e-6) and torch.allclose(f.sum(1), torch.ones(2), atol=1e-5)


def test_two_streams_add_their_probabilities():
    network, x = two_stream(), pictures()
    stacks = torch.rand(6, 6, 40, 40)*2 - 1
    with torch.no_grad():
        f = network.probabilities(x.unflatten(0, (3, 2)), stacks.unflatten(0, (3, 2)))
        rgb = F.softmax(network.branches['rgb'].forward_layers(x, ('fc8',))['fc8'], 1)
        flow = F.softmax(network.branches['flow'].forward_layers(stacks, ('fc8',))['fc8'], 1)
    assert torch.allclose(f, (rgb + flow).unflatten(0, (3, 2)).mean(1), atol=1e-6)
    assert torch.allclose(f.sum(1), torch.full((3,), 2.), atol=1e-5)


def test_streams_are_trained_as_if_alone():
    """The gradient of the summed loss is, for each stream, that of its own cross-entropy."""
    network, x = two_stream(), pictures()
    batch = Moments(
        x, torch.rand(6, 6, 40, 40) * 2 - 1, torch.zeros(6, dtype=torch.int64), torch.tensor([0, 1, 2, 3, 0, 1])
    )
    parts = two_stream_loss(network, batch)
    assert torch.allclose(parts['loss'], parts['rgb'] + parts['flow'])
    parts['loss'].backward()
    together = [p.grad.clone() for p in network.branches['flow'].parameters()]
    network.zero_grad()
    F.cross_entropy(network(batch.pictures, batch.stacks)[1], batch.action).backward()
    assert all(torch.allclose(a, p.grad, atol=1e-7) for a, p in zip(together, network.branches['flow'].parameters()))
    assert all(p.grad is None or not p.grad.any() for p in network.branches['rgb'].parameters())


def test_scene_loss_goes_down():
    network, x = scene_network(), pictures()
    batch = Moments(x, None, torch.tensor([0, 1, 2, 3, 4, 0]), None)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        losses.append(scene_loss(network, batch))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < .5*losses[0]


@pytest.mark.parametrize('make, kind, settings_kind', [(scene_network, SceneNetwork, SceneSettings), (two_stream, TwoStream, TwoStreamSettings)])
def test_saved_and_loaded(tmp_path, make, kind, settings_kind):
    model = make()
    path = save_checkpoint(tmp_path/'model.safetensors', model, model.settings)
    again = load_model(path, {kind: settings_kind})
    assert again.settings == model.settings
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))


def test_published_weights_go_into_all_but_the_last_layers(monkeypatch):
    """Stand-ins for ImageNet's weights, of a width that fits memory."""
    narrow = {name: backbone(name, width=1/32) for name in ('vgg16', 'vgg19', 'alexnet')}
    monkeypatch.setattr('microvid_nb.classify.joint.imagenet_weights', lambda name: narrow[name].state_dict())
    monkeypatch.setattr(
        'microvid_nb.classify.joint.backbone', lambda name, width, **more: backbone(name, width=1 / 32, **more)
    )
    scenes = start_from_imagenet(SceneNetwork(SceneSettings(scenes=5)))
    for name, branch in scenes.branches.items():
        assert (
            torch.equal(branch.features[0].weight, narrow[name].features[0].weight)
            and branch.classifier[-1].out_features == 5
        )
    streams = start_from_imagenet(TwoStream(TwoStreamSettings(actions=4, backbone='alexnet')))
    first = narrow['alexnet'].features[0].weight
    assert torch.equal(streams.branches['rgb'].features[0].weight, first)
    assert torch.equal(streams.branches['flow'].features[0].weight, first.mean(1, keepdim=True).expand(-1, 20, -1, -1))


def test_without_a_network_the_error_says_what_to_download(monkeypatch, tmp_path):
    def no_network(*_): raise urllib.error.URLError('no network')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr('torch.hub.download_url_to_file', no_network)
    with torch.device('meta'): network = TwoStream(TwoStreamSettings(backbone='alexnet'))
    with pytest.raises(FileNotFoundError, match='ImageNet weights of alexnet .* download them'):
        start_from_imagenet(network)


@pytest.mark.parametrize('wrong, words', [
    (lambda: joint_feature(torch.rand(2, 3), torch.rand(3, 4)), 'found [2, 3] and [3, 4]'),
    (lambda: joint_feature(torch.rand(3), torch.rand(4)), 'expected scenes [b, Ns]'),
    (lambda: top_joint(torch.rand(6), ['a'], ['b', 'c']), '1 behaviours in 2 scenes need a feature of 2 numbers, found [6]'),
    (lambda: start_from_imagenet(scene_network()), 'published weights are of width 1, not 0.0625'),
    (lambda: scene_network()(torch.zeros(2, 4, 40, 40)), 'found [2, 4, 40, 40]')])
def test_bad_input(wrong, words):
    with pytest.raises(ValueError) as caught: wrong()
    assert words in str(caught.value)
