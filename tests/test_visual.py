"""Backbones against torchvision's networks, published weights without a network, frozen layers, features of clips."""
import hashlib
import os
import urllib.error
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings, strategies as st
from torch import nn
from torchvision.models.video import resnet as torchvision_video
from torchvision.transforms.v2 import functional as transforms

from microvid_nb.data.kinetics_weights import KINETICS_MEAN, KINETICS_STD, resnet3d50_shapes
from microvid_nb.features import visual
from microvid_nb.features.visual import (
    IMAGENET_MEAN, IMAGENET_STD, ResidualBlock3D, backbone, clip_features, freeze, he, normalise, xavier)

NAMES = ['alexnet', 'vgg16', 'vgg19', 'resnet3d10', 'resnet3d18', 'resnet3d50']


def small(name, **more):
    torch.manual_seed(0)
    return backbone(name, width=1/8, classes=6, **more).eval()


def picture_for(name, n=2, size=48, frames=16, seed=0):
    shape = (n, 3, frames, size, size) if '3d' in name else (n, 3, size, size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def scores(network, x):
    """Outputs of the last layer."""
    *_, (last, _) = network.stages()
    return network.forward_layers(x, (last,))[last]


# --- against torchvision


@pytest.mark.parametrize('name', ['alexnet', 'vgg16', 'vgg19'])
def test_flat_networks_are_torchvisions(name):
    """The same weights, names and order included, give the same outputs and the same penultimate features."""
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)(num_classes=10).eval()
    with torch.device('meta'): ours = backbone(name, classes=10).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict()) and ours.feature_dim == 4096
    ours.load_state_dict(theirs.state_dict(), assign=True)  # shared, since a VGG takes half a gigabyte
    x = torch.randint(0, 256, (2, 3, 64, 97), dtype=torch.uint8)
    with torch.no_grad():
        expected = theirs(transforms.normalize(x/255, IMAGENET_MEAN, IMAGENET_STD))
        assert torch.allclose(scores(ours, x), expected, rtol=1e-4, atol=1e-5*float(expected.abs().max()))
        assert torch.allclose(
            theirs.classifier[-1](ours(x / 255)), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max())
        )


@pytest.mark.parametrize('deep, flat', [('resnet3d18', 'resnet18'), ('resnet3d50', 'resnet50')])
def test_still_clips_are_pictures(deep, flat):
    """With weights in the middle slices only, a 3D ResNet sees one repeated picture as torchvision's 2D ResNet sees the
    picture.
    """
    torch.manual_seed(0)
    theirs, ours = getattr(torchvision.models, flat)(num_classes=10), backbone(deep, classes=10).eval()
    with torch.no_grad(): theirs.train()(torch.randn(4, 3, 64, 64))  # running means and variances other than 0 and 1
    theirs.eval()
    cubes = {name: torch.zeros_like(tensor) for name, tensor in ours.state_dict().items()}
    for name, tensor in theirs.state_dict().items():
        if tensor.ndim == 4: cubes[name][:, :, cubes[name].shape[2]//2] = tensor
        else: cubes[name] = tensor
    ours.load_state_dict(cubes)
    picture = torch.rand(2, 3, 72, 50)
    with torch.no_grad():
        expected = theirs(transforms.normalize(picture, KINETICS_MEAN, KINETICS_STD))
        assert torch.allclose(
            scores(ours, picture[:, :, None].expand(-1, -1, 5, -1, -1)),
            expected,
            atol=1e-3 * float(expected.abs().max()),
        )


@pytest.mark.parametrize('bottleneck, stride, inputs', [(False, 1, 8), (False, 2, 8), (True, 1, 8), (True, 2, 32), (True, 1, 32)])
def test_blocks_are_torchvisions(bottleneck, stride, inputs):
    """Outputs and gradients of a residual block with weights in all slices, in training and in evaluation."""
    torch.manual_seed(1)
    ours = ResidualBlock3D(inputs, 8, stride, bottleneck)
    kind = torchvision_video.Bottleneck if bottleneck else torchvision_video.BasicBlock
    shortcut = ours.downsample and nn.Sequential(
        nn.Conv3d(inputs, ours.outputs, 1, stride, bias=False), nn.BatchNorm3d(ours.outputs)
    )
    theirs = kind(inputs, 8, torchvision_video.Conv3DSimple, stride, shortcut)
    if bottleneck: assert theirs.conv2[0].in_channels == 8
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = torch.randn(2, inputs, 6, 9, 10)
    for mode in (True, False):
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        out, expected = ours.train(mode)(a), theirs.train(mode)(b)
        out.square().sum().backward(), expected.square().sum().backward()
        assert torch.allclose(out, expected, atol=1e-5) and torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-4)


def test_counts():
    """As torchvision documents or counts.

    46.2 million for the 3D-ResNet-50 without its classifier, 47.0 with one of 400 classes.
    """
    def count(name, **more):
        with torch.device('meta'): return sum(p.numel() for p in backbone(name, **more).parameters())
    for name in ('alexnet', 'vgg16', 'vgg19'): assert count(name) == visual.torchvision_model(name)[1].meta['num_params']
    stem = 3*64*7*7*7 - 3*64*3*7*7  # torchvision's stem looks at three frames, Hara's at seven
    for name, block, layers in (('resnet3d18', torchvision_video.BasicBlock, [2, 2, 2, 2]), ('resnet3d50', torchvision_video.Bottleneck, [3, 4, 6, 3])):
        with torch.device('meta'):
            theirs = torchvision_video.VideoResNet(
                block, [torchvision_video.Conv3DSimple] * 4, layers, torchvision_video.BasicStem
            )
        assert count(name) == sum(p.numel() for p in theirs.parameters()) + stem
    assert count('resnet3d50') - 2048*400 - 400 == 46_198_976


# --- what all have in common


@pytest.mark.parametrize('name', NAMES)
def test_small_pictures_and_any_width(name):
    network = small(name)
    with torch.no_grad():
        for size in (48, 9):
            features = network(picture_for(name, size=size, frames=16 if size == 48 else 3))
            assert features.shape == (2, network.feature_dim) and features.isfinite().all() and features.std() > 0
        tall = picture_for(name, size=120)[..., :48]
        assert network(tall).shape == (2, network.feature_dim)
    assert network.feature_dim == {'alexnet': 512, 'vgg16': 512, 'vgg19': 512, 'resnet3d50': 256}.get(name, 64)
    torch.manual_seed(0)
    with torch.no_grad(): assert backbone(name, width=.01, classes=2)(picture_for(name)).shape[0] == 2


@pytest.mark.parametrize('name', NAMES)
def test_the_same_in_evaluation_and_gradients_everywhere(name):
    network, x = small(name), picture_for(name, n=3)
    with torch.no_grad(): assert torch.equal(network(x), network(x))
    scores(network.train(), x).square().sum().backward()
    for parameter, tensor in network.named_parameters():
        assert tensor.grad is not None and tensor.grad.abs().sum() > 0, parameter
    if '3d' not in name:
        with torch.no_grad(): assert not torch.equal(scores(network, x), scores(network, x))  # dropout


@pytest.mark.parametrize('name', NAMES)
def test_bytes_are_floats(name):
    network, x = small(name), picture_for(name)
    with torch.no_grad(): assert torch.allclose(network(x), network(x.float()/255), atol=1e-5)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_normalise_is_torchvisions(seed):
    x = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(seed))
    expected = transforms.normalize(x, IMAGENET_MEAN, IMAGENET_STD)
    assert torch.allclose(normalise(x, IMAGENET_MEAN, IMAGENET_STD), expected, atol=1e-6)
    clip = normalise(x[:, :, None].expand(-1, -1, 3, -1, -1), IMAGENET_MEAN, IMAGENET_STD)
    assert all(torch.allclose(clip[:, :, t], expected, atol=1e-6) for t in range(3))


def test_layers_by_name():
    """Each named output feeds the next stage; nothing after the last wanted stage is computed."""
    network, x = small('vgg16'), picture_for('vgg16')
    assert network.names == (
        'conv1_1',
        'conv1_2',
        'conv2_1',
        'conv2_2',
        'conv3_1',
        'conv3_2',
        'conv3_3',
        'conv4_1',
        'conv4_2',
        'conv4_3',
        'conv5_1',
        'conv5_2',
        'conv5_3',
        'fc6',
        'fc7',
        'fc8',
    )
    assert small('alexnet').names == ('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7', 'fc8')
    with torch.no_grad():
        found = network.forward_layers(x, ('fc8', 'fc6', 'fc7'))
        assert list(found) == ['fc6', 'fc7', 'fc8'] and (found['fc6'] >= 0).all() and (found['fc8'] < 0).any()
        by_hand = network.classifier[3](found['fc6']).relu()
        assert torch.allclose(by_hand, found['fc7'], atol=1e-5) and torch.allclose(
            network.classifier[6](found['fc7']), found['fc8'], atol=1e-5
        )
        # would fail if it were reached
        network.classifier = nn.Sequential(nn.Identity(), nn.ReLU(), nn.ReLU(), nn.Linear(1, 1))
        assert network.forward_layers(x, ('conv5_3',))['conv5_3'].shape == (2, 64, 3, 3)
    with pytest.raises(ValueError, match="'fc9' is no layer of FlatNetwork, which has conv1_1"):
        network.forward_layers(x, ('conv1_1', 'fc9'))


def test_a_3d_network_sees_time():
    network, x = small('resnet3d18'), picture_for('resnet3d18')
    with torch.no_grad(): assert not torch.allclose(network(x), network(x.flip(2)), rtol=1e-3)


@pytest.mark.parametrize('name, layers', [('alexnet', ('conv1', 'conv2', 'conv3')), ('resnet3d18', ('conv1', 'layer1', 'layer2'))])
def test_frozen_layers(name, layers):
    """They don't change in training, batch statistics included; all others do."""
    network, x = freeze(small(name).train(), layers), picture_for(name, n=4)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], .01, weight_decay=.1)
    for _ in range(2):
        optimizer.zero_grad()
        scores(network.train(), x).square().sum().backward()
        optimizer.step()
    inside = {
        id(tensor)
        for stage, modules in network.stages()
        if stage in layers
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
    }
    for key, tensor in network.state_dict(keep_vars=True).items():
        assert torch.equal(tensor, before[key]) == (id(tensor) in inside), key
    assert inside and all(p.grad is None for p in network.parameters() if not p.requires_grad)
    with pytest.raises(ValueError, match="'conv9' is no layer"): freeze(network, ('conv9',))


def test_initial_weights():
    torch.manual_seed(0)
    layer = nn.Linear(300, 500)
    he(layer)
    assert layer.weight.std().item() == pytest.approx((2/300)**.5, rel=.02) and not layer.bias.any()
    xavier(nn.Sequential(layer, nn.Conv2d(3, 4, 5)))
    limit = (6/800)**.5
    assert layer.weight.abs().max().item() == pytest.approx(
        limit, rel=0.01
    ) and layer.weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.02)


# --- published weights


def published(monkeypatch, folder, state, name='alexnet'):
    """A stand-in for a published file: its name ends with the start of its sum, as torchvision's do."""
    torch.save(state, folder/'made.pth')
    data = (folder/'made.pth').read_bytes()
    url = f'https://example.org/models/{name}-{hashlib.sha256(data).hexdigest()[:8]}.pth'
    monkeypatch.setenv('TORCH_HOME', str(folder/'home'))
    make, weights = visual.torchvision_model(name)
    found = make, SimpleNamespace(url=url, meta=weights.meta)
    monkeypatch.setattr(visual, 'torchvision_model', lambda name: found)
    return data, url, folder/'home'/'hub'/'checkpoints'/Path(url).name


def alexnet_state():
    """Tensors that repeat one number each, so that the file is small."""
    with torch.device('meta'): shapes = torchvision.models.alexnet().state_dict()
    return {name: torch.tensor(.001*(i + 1)).expand(tensor.shape) for i, (name, tensor) in enumerate(shapes.items())}


def test_downloaded_once(monkeypatch, tmp_path):
    data, url, path = published(monkeypatch, tmp_path, alexnet_state())
    asked = []

    def download(address, file):
        asked.append(address)
        Path(file).write_bytes(data)
    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    for _ in range(2): network = backbone('alexnet', pretrained=True)
    assert asked == [url] and path.is_file()
    assert all((tensor == .001*(i + 1)).all() for i, tensor in enumerate(network.state_dict().values()))
    torch.manual_seed(0)
    flow = backbone('alexnet', pretrained=True, classes=7, channels=20)
    assert (
        flow.classifier[6].weight.shape == (7, 4096)
        and flow.classifier[6].weight.std() > 0
        and not flow.classifier[6].bias.any()
    )
    assert flow.features[0].weight.shape == (64, 20, 11, 11) and (flow.features[0].weight - .001).abs().max() < 1e-8
    assert (flow.features[3].weight == .003).all()


def test_no_network(monkeypatch, tmp_path):
    _, url, path = published(monkeypatch, tmp_path, {})

    def download(*_): raise urllib.error.URLError('Name or service not known')
    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    with pytest.raises(FileNotFoundError) as error: backbone('alexnet', pretrained=True)
    for words in (str(path), url, 'ImageNet weights of alexnet', 'Name or service not known', 'put them at this path'):
        assert words in str(error.value)
    assert not path.exists()


def test_a_file_put_there_is_checked(monkeypatch, tmp_path):
    class Hostile:
        def __reduce__(self): return os.mkdir, (str(tmp_path/'executed'),)
    data, url, path = published(monkeypatch, tmp_path, {'features.0.weight': Hostile()})
    path.parent.mkdir(parents=True)
    path.write_bytes(data[:-1])
    with pytest.raises(ValueError, match='is not the file published at .*its SHA-256 sum should start with'):
        backbone('alexnet', pretrained=True)
    path.write_bytes(data)
    with pytest.raises(ValueError, match='refused, and nothing of it was executed'):
        backbone('alexnet', pretrained=True)
    assert not (tmp_path/'executed').exists()


def test_haras_file(tmp_path):
    """Each tensor arrives at its place, strictly; the classifier's size is the file's."""
    shapes = resnet3d50_shapes(700)
    values = {name: .5 + .001*i for i, name in enumerate(shapes)}
    torch.save(
        {'state_dict': {f'module.{name}': torch.tensor(values[name]).expand(shape) for name, shape in shapes.items()}},
        tmp_path / 'r3d50_K_200ep.pth',
    )
    network = backbone('resnet3d50', pretrained=tmp_path/'r3d50_K_200ep.pth')
    assert network.fc.out_features == 700 and network.feature_dim == 2048
    state = {name: tensor for name, tensor in network.state_dict().items() if not name.endswith('num_batches_tracked')}
    assert list(state) == list(shapes) and all(
        torch.equal(tensor, torch.tensor(values[name]).expand(shapes[name])) for name, tensor in state.items()
    )
    assert backbone('resnet3d50', pretrained=tmp_path/'r3d50_K_200ep.pth', classes=5).fc.weight.shape == (5, 2048)


@pytest.mark.parametrize('arguments, words', [
    (('resnet5000',), "'resnet5000' is no backbone; there are alexnet"), (('vgg16', True, .5), 'published weights are of width 1, not 0.5'), (('vgg16', False, -1), 'width should be positive, not -1'),
    (('resnet3d50', True), 'get r3d50_K_200ep.pth by way of https://github.com/kenshohara/3D-ResNets-PyTorch'), (('resnet3d10', True), 'there are weights for'), (('alexnet', 'my.pth'), 'there are weights for')])
def test_what_cannot_be_built(arguments, words):
    with pytest.raises(ValueError, match=words): backbone(*arguments)


@pytest.mark.parametrize('x', [torch.zeros(2, 4, 8, 8), torch.zeros(3, 8, 8), torch.zeros(2, 3, 8, 8, dtype=torch.int64)])
def test_what_is_no_picture(x):
    with pytest.raises(ValueError, match='expected .*found'): small('alexnet')(x)


# --- features of many


@pytest.mark.parametrize('name', ['alexnet', 'resnet3d10'])
def test_features_of_many(name):
    """From an array, an iterator or NumPy, in batches of any size.

    Afterwards the network trains on, and features can be learned from.
    """
    network, x = small(name).train(), picture_for(name, n=7)
    with torch.no_grad(): expected = network.eval()(x)
    network.train()
    for source, batch in ((x, 3), (x, 100), (iter(x), 2), (x.numpy(), 4)):
        features = clip_features(source, network, batch, progress=False)
        assert features.dtype == torch.float32 and torch.allclose(features, expected, atol=1e-4) and network.training
    nn.Linear(network.feature_dim, 2)(features).sum().backward()
    scores(network, x).sum().backward()
    with pytest.raises(ValueError, match=r'the features of clip 4 are not finite \(1 of 7\)'):
        broken = x.float()/255
        broken[4] = float('nan')
        clip_features(broken, network, 2, progress=False)
    assert network.training


def test_an_iterator_is_read_as_needed():
    network, read = small('resnet3d10'), []

    class Stop(Exception):
        """From the middle of a long video."""

    def frames():
        for i in range(1000):
            read.append(i)
            if i == 10: raise Stop
            yield torch.from_numpy(np.zeros((3, 4, 16, 16), np.uint8))
    seen = []
    network.register_forward_pre_hook(lambda module, inputs: seen.append((len(inputs[0]), len(read))))
    with pytest.raises(Stop): clip_features(frames(), network, 4, progress=False)
    assert seen == [(4, 4), (4, 8)] and not network.training


@pytest.mark.parametrize('name', ['mobilenetv3_small_050', 'convnext_atto', 'resnet10t'])
def test_weights_of_timm_in_any_order_and_with_any_number_of_classes(name, tmp_path):
    timm, safetensors = pytest.importorskip('timm'), pytest.importorskip('safetensors.torch')
    theirs = timm.create_model(name, num_classes=7).eval()
    path = tmp_path / 'weights.safetensors'
    safetensors.save_file(theirs.state_dict(), path)  # the file is in alphabetical order
    ours, x = backbone(name, path).eval(), picture_for('flat', size=64)
    seen = normalise(x, theirs.default_cfg['mean'], theirs.default_cfg['std'])
    with torch.no_grad(): torch.testing.assert_close(scores(ours, x), theirs(seen), rtol=1e-4, atol=1e-5)
    assert scores(ours, x).shape == (2, 7)
