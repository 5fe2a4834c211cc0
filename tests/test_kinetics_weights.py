"""Checkpoints of Hara's form are read and checked.

Hostile, damaged and foreign files are refused with nothing executed.
"""
import io
import os
import pickle
import tarfile
import zipfile

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from microvid_nb.data.kinetics_weights import KINETICS_MEAN, KINETICS_STD, read_kinetics_weights, resnet3d50_shapes


class Bottleneck3d(nn.Module):
    """Written from the paper's Table 1 and Fig. 3, as an oracle of names and shapes."""
    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv3d(inputs, width, 1, bias=False), nn.BatchNorm3d(width)
        self.conv2, self.bn2 = nn.Conv3d(width, width, 3, stride, 1, bias=False), nn.BatchNorm3d(width)
        self.conv3, self.bn3 = nn.Conv3d(width, 4 * width, 1, bias=False), nn.BatchNorm3d(4 * width)
        if stride != 1 or inputs != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv3d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm3d(4 * width)
            )


class ResNet3d50(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv3d(3, 64, 7, (1, 2, 2), 3, bias=False), nn.BatchNorm3d(64)
        inputs = 64
        for number, (width, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)], 1):
            layer = nn.Sequential()
            for block in range(blocks):
                layer.append(Bottleneck3d(inputs, width, 2 if number > 1 and block == 0 else 1))
                inputs = 4 * width
            setattr(self, f'layer{number}', layer)
        self.fc = nn.Linear(inputs, classes)


def look_alike(classes=700, prefix='module.', counters=True, changes=None):
    """A checkpoint whose tensors repeat one number, so that the file stays small."""
    with torch.device('meta'):
        state = ResNet3d50(classes).state_dict()
    made = {name: torch.tensor(3) if name.endswith('tracked') else torch.tensor(.5).expand(tensor.shape)
            for name, tensor in state.items() if counters or not name.endswith('tracked')}
    made |= changes or {}
    return {
        'epoch': 200,
        'arch': 'resnet-50',
        'state_dict': {prefix + name: tensor for name, tensor in made.items() if tensor is not None},
        'optimizer': {'state': {}, 'param_groups': [{'lr': 0.1}]},
    }


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('weights')


def save(folder, checkpoint, name='weights.pth', **options):
    torch.save(checkpoint, folder / name, **options)
    return folder / name


def test_expected_shapes_are_those_of_the_network():
    with torch.device('meta'):
        state = ResNet3d50(400).state_dict()
    assert resnet3d50_shapes(400) == {
        name: tuple(tensor.shape) for name, tensor in state.items() if not name.endswith('tracked')
    }


@pytest.mark.parametrize('prefix, classes', [('', 400), ('module.', 1039)])
@pytest.mark.parametrize('counters', [True, False], ids=['2020', '2017'])
@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
def test_read(folder, prefix, counters, zipped, classes):
    weights = read_kinetics_weights(
        save(folder, look_alike(classes, prefix, counters), _use_new_zipfile_serialization=zipped)
    )
    assert {name: tuple(tensor.shape) for name, tensor in weights.classifier.items()} == {
        'fc.weight': (classes, 2048),
        'fc.bias': (classes,),
    }
    with torch.device('meta'):
        network = ResNet3d50(classes)
    network.load_state_dict(weights.backbone | weights.classifier, strict=True, assign=True)
    assert not any(name.startswith(('fc.', 'module.')) for name in weights.backbone)


def test_values_survive(folder):
    stem = torch.randn(64, 3, 7, 7, 7, generator=torch.Generator().manual_seed(0))
    weights = read_kinetics_weights(save(folder, look_alike(changes={'conv1.weight': stem})))
    assert torch.equal(weights.backbone['conv1.weight'], stem)


CHANGES = [
    ({'layer1.0.downsample.0.weight': None}, '1 missing: layer1.0.downsample.0.weight'),
    ({'fc.bias': None}, '1 missing: fc.bias'),
    ({'head.weight': torch.zeros(2)}, '1 unexpected: head.weight'),
    (
        {'conv1.weight': torch.zeros(1).expand(64, 3, 3, 7, 7)},
        r'1 of another shape: conv1.weight is \[64, 3, 3, 7, 7\], not \[64, 3, 7, 7, 7\]',
    ),
    ({'fc.weight': torch.zeros(1).expand(700, 512)}, r'fc.weight is \[700, 512\], not \[700, 2048\]'),
    ({'fc.bias': torch.zeros(1).expand(7, 100)}, r'fc.bias is \[7, 100\], not \[700\]'),
    ({'bn1.bias': torch.full((64,), float('nan'))}, 'bn1.bias holds NaN or infinity'),
    ({'bn1.weight': torch.full((64,), float('inf'))}, 'bn1.weight holds NaN or infinity'),
    (
        {'bn1.weight': torch.ones(64, dtype=torch.int64)},
        'bn1.weight: expected a tensor of real numbers, found torch.int64',
    ),
    ({'bn1.weight': [1.0] * 64}, 'bn1.weight: expected a tensor of real numbers, found list'),
]


@pytest.mark.parametrize('changes, message', CHANGES, ids=[message[:24] for _, message in CHANGES])
def test_another_network_is_named(folder, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_kinetics_weights(save(folder, look_alike(changes=changes)))
    assert 'weights.pth' in str(caught.value)


@pytest.mark.parametrize('checkpoint, message', [
    (torch.zeros(3), 'found a Tensor'), ({'model': {}}, r"found keys \['model'\]"), ({'state_dict': 3}, r"found keys \['state_dict'\]"),
    ({'state_dict': {}}, '267 missing: conv1.weight, bn1.weight'),
    ({'state_dict': {'module.a': torch.zeros(1), 'a': torch.zeros(1)}}, 'a is there twice'),
])
def test_other_contents_are_named(folder, checkpoint, message):
    with pytest.raises(ValueError, match=message):
        read_kinetics_weights(save(folder, checkpoint))


def test_missing_file(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r'nowhere\.pth: .* published at https://github.com/kenshohara/3D-ResNets-PyTorch'
    ):
        read_kinetics_weights(tmp_path / 'nowhere.pth')


class Call:
    """Pickles to a call of a function."""
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def as_pickle(protocol):
    return lambda thing, path: path.write_bytes(pickle.dumps(thing, protocol=protocol))


def as_tar(thing, path):
    data = pickle.dumps(thing, protocol=2)
    with tarfile.open(path, 'w') as archive:
        for name in ('storages', 'tensors', 'pickle'):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


WRITERS = {
    'zip': torch.save,
    'legacy': lambda thing, path: torch.save(thing, path, _use_new_zipfile_serialization=False),
    'pickle 2': as_pickle(2),
    'pickle 4': as_pickle(4),
    'tar': as_tar,
}
FUNCTIONS = {'mkdir': os.mkdir, 'system': os.system, 'exec': exec}


@pytest.mark.parametrize('writer', WRITERS)
@pytest.mark.parametrize('function', FUNCTIONS)
@pytest.mark.parametrize('place', ['alone', 'in the weights'])
def test_a_hostile_pickle_is_refused_before_anything_runs(tmp_path, writer, function, place):
    mark, path = tmp_path / 'executed', tmp_path / 'hostile.pth'
    arguments = {'mkdir': str(mark), 'system': f'mkdir "{mark}"', 'exec': f'import os; os.mkdir({str(mark)!r})'}
    hostile = Call(FUNCTIONS[function], arguments[function])
    thing = (
        hostile
        if place == 'alone'
        else {
            'state_dict': {'conv1.weight': torch.zeros(2) if writer in ('zip', 'legacy') else 0, 'bn1.weight': hostile}
        }
    )
    WRITERS[writer](thing, path)
    if writer != 'tar':  # the payload works where it is let
        torch.load(path, weights_only=False) if writer in ('zip', 'legacy') else pickle.loads(path.read_bytes())
        assert mark.exists()
        mark.rmdir()
    with pytest.raises(ValueError, match=r'hostile\.pth: refused') as caught:
        read_kinetics_weights(path)
    assert not mark.exists()
    # no advice to switch the protection off
    assert 'weights_only' not in str(caught.value) and caught.value.__cause__ is None


def test_a_torchscript_program_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / 'program.pth', 'w') as archive:
        for name in ('data.pkl', 'constants.pkl', 'version', 'code/__torch__.py'):
            archive.writestr(f'program/{name}', b'')
    with pytest.raises(ValueError, match=r'program\.pth: refused, .* it is a TorchScript program'):
        read_kinetics_weights(tmp_path / 'program.pth')


@pytest.fixture(scope='module')
def whole(folder):
    return [
        save(folder, look_alike(), f'whole{zipped}.pth', _use_new_zipfile_serialization=zipped)
        for zipped in (False, True)
    ]


@settings(deadline=None, max_examples=50)
@given(share=st.floats(0, 1, exclude_max=True), zipped=st.booleans())
@example(share=0., zipped=True)
def test_a_file_that_is_cut_off_is_refused(folder, whole, share, zipped):
    data = whole[zipped].read_bytes()
    (folder / 'cut.pth').write_bytes(data[:int(share * len(data))])
    with pytest.raises(ValueError, match=r'cut\.pth: refused, and nothing of it was executed'):
        read_kinetics_weights(folder / 'cut.pth')


@settings(deadline=None, max_examples=25)
@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=20), zipped=st.booleans())
@example(flips=[(.875, 1)], zipped=True)
def test_a_damaged_file_is_refused_or_still_of_the_right_form(folder, whole, flips, zipped):
    data = bytearray(whole[zipped].read_bytes())
    for share, change in flips:
        data[int(share * len(data))] ^= change
    (folder / 'damaged.pth').write_bytes(data)
    try:
        weights = read_kinetics_weights(folder / 'damaged.pth')
    except ValueError as error:
        assert 'damaged.pth' in str(error)
    else:
        found = weights.backbone | weights.classifier
        assert {name: tuple(tensor.shape) for name, tensor in found.items()} == resnet3d50_shapes(len(found['fc.bias']))
        assert all(tensor.isfinite().all() for tensor in found.values())


def test_normalisation_constants_are_in_the_unit_interval_and_near_those_of_imagenet():
    assert KINETICS_MEAN == (.4345, .4051, .3775) and KINETICS_STD == (.2768, .2713, .2737)
    assert all(
        abs(ours - imagenet) < 0.06
        for ours, imagenet in zip(KINETICS_MEAN + KINETICS_STD, (0.485, 0.456, 0.406, 0.229, 0.224, 0.225))
    )
