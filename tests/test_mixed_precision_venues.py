"""Every loss and model of classification and of venues under bfloat16 autocast, forward and backward, against float32."""
import pytest
import torch
import torch.nn.functional as F
from autocast import check_under_autocast

from microvid_nb.classify.conv3d import ClipBatch, Conv2DClassifier, Conv3DClassifier, ConvSettings, clip_loss
from microvid_nb.classify.fusion import (
    MultimodalClassifier, MultimodalItem, MultimodalSettings, multimodal_batch, multimodal_loss)
from microvid_nb.classify.joint import (
    Moments, SceneNetwork, SceneSettings, TwoStream, TwoStreamSettings, scene_loss, two_stream_loss)
from microvid_nb.classify.video import VideoToClassSettings
from microvid_nb.features.acoustic import (
    AutoencoderSettings, StackedDenoisingAutoencoder, layer_loss, reconstruction_loss)
from microvid_nb.features.ears import Ears, EarsSettings
from microvid_nb.venue.baselines import AlexNetFusion, FusionSettings, fusion_loss
from microvid_nb.venue.dare import (
    DARE, DARESettings, dare_loader, embedding_loss, joint_loss, knowledge_loss, venue_loss)
from microvid_nb.venue.dictionaries import D3L, MTDL, DictionarySettings, joint_codes, task_loss
from microvid_nb.venue.similarity import similarity_loss
from microvid_nb.venue.video_to_venue import PictureNetwork, PictureSettings
from microvid_nb.venue.videos import Sounds, Videos

VENUES = 3


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def clips(kind):
    batch = ClipBatch(torch.randint(256, (8, 3, 4, 32, 32), dtype=torch.uint8, generator=seeded()), torch.arange(8) % 3)
    return kind(ConvSettings(3, (8, 16), 16, 0.)), clip_loss, batch


def moments():
    pictures = torch.randint(256, (6, 3, 64, 64), dtype=torch.uint8, generator=seeded(1))
    stacks = torch.rand(6, 6, 64, 64, generator=seeded(2))*2 - 1
    return Moments(pictures, stacks, torch.arange(6) % 3, torch.arange(6) % 4)


def posts(pooling, intra=False):
    settings = MultimodalSettings(('visual', 'audio'), (8, 5), 3, clusters=2, hidden=16, pooling=pooling, dropout=0.,
                                  intra=intra)
    made = [torch.randn(4, width, generator=seeded(width + k)) for k in range(6) for width in (8, 5)]
    items = [MultimodalItem({'visual': made[2*k], 'audio': made[2*k + 1] if k else None}, k % 3) for k in range(6)]
    return MultimodalClassifier(settings), multimodal_loss, multimodal_batch(items, {'visual': 8, 'audio': 5})


def videos(count=12):
    blocks = [torch.randn(count, width, generator=seeded(width)) for width in (16, 8, 6)]
    present = torch.ones(count, 3, dtype=torch.bool)
    present[0, 1] = present[1, 2] = False
    blocks = [x*present[:, m, None] for m, x in enumerate(blocks)]
    return Videos(*blocks, present, torch.arange(count) % VENUES)


def sounds():
    return Sounds(torch.randn(20, 8, generator=seeded(7)), (torch.rand(20, 4, generator=seeded(8)) < .4).float())


def dare(loss, free=0):
    settings = DARESettings(16, 8, 6, 4, 5, VENUES, (12,), 0., 3, free=free)
    model, data = DARE(settings), videos()
    model.learn_scale(data)
    return model, loss, next(iter(dare_loader(data, sounds(), 3, 12)))


def dictionary(kind):
    model, data = kind(DictionarySettings(16, 8, 6, VENUES, atoms=6, sparsity=.02)), videos()
    model.scaler.learn(data)
    with torch.no_grad():
        for classifier in model.classifiers: classifier.weight.normal_(generator=seeded(3))
    return model, task_loss, data


def alexnet():
    model, data = AlexNetFusion(FusionSettings(16, 8, 6, VENUES, (12,), 0.)), videos()
    model.scaler.learn(data)
    return model, fusion_loss, data


def picture_network():
    network = PictureNetwork(PictureSettings(width=1/16, side=64))
    images = torch.randint(256, (6, 3, 64, 64), dtype=torch.uint8, generator=seeded(4))
    def loss(model, images):
        scores = model(images)
        labels = (torch.rand(scores.shape, generator=seeded(5)) < .3).float()
        return F.binary_cross_entropy_with_logits(scores, labels)
    return network, loss, images


SIZES = AutoencoderSettings((16, 8, 4), corruption=0.)


def autoencoder(loss):
    return StackedDenoisingAutoencoder(SIZES), loss, torch.randn(12, 16, generator=seeded(9))


def ears():
    def loss(model, batch): return F.cross_entropy(model(batch[0]), batch[1], label_smoothing=.1)
    batch = torch.randn(12, 16, generator=seeded(9)), torch.arange(12) % 3
    return Ears(EarsSettings(('bark', 'rain'), SIZES, dropout=0.)), loss, batch


SYSTEMS = {
    'autoencoder': lambda: autoencoder(reconstruction_loss),
    'autoencoder, one layer': lambda: autoencoder(lambda model, x: layer_loss(model, 0, x)),
    'ears': ears,
    '3D network': lambda: clips(Conv3DClassifier),
    '2D network': lambda: clips(Conv2DClassifier),
    'scene network': lambda: (SceneNetwork(SceneSettings(3, width=1/16)), scene_loss, moments()),
    'two streams': lambda: (TwoStream(TwoStreamSettings(4, length=3, width=1/16)), two_stream_loss, moments()),
    **{f'fusion, {pooling}': lambda pooling=pooling: posts(pooling) for pooling in ('mean', 'attention', 'netvlad')},
    'fusion, netvlad normalised': lambda: posts('netvlad', True),
    'DARE, J1': lambda: dare(knowledge_loss),
    'DARE, J2': lambda: dare(embedding_loss),
    'DARE, J3': lambda: dare(venue_loss),
    'DARE, J': lambda: dare(joint_loss),
    'DARE, J of free representations': lambda: dare(joint_loss, 12),
    'D3L': lambda: dictionary(D3L),
    'MTDL': lambda: dictionary(MTDL),
    'AlexNet': alexnet,
    'picture network': picture_network,
}


@pytest.mark.parametrize('name', SYSTEMS)
def test_loss_and_gradient(name):
    check_under_autocast(SYSTEMS[name])


def test_joint_codes_are_exact_whatever_surrounds_them():
    blocks = [torch.randn(5, width, generator=seeded(width)) for width in (8, 6)]
    atoms = [F.normalize(torch.randn(width, 4, generator=seeded(width + 1)), dim=0) for width in (8, 6)]
    present = torch.tensor([[True, True]]*4 + [[True, False]])
    def found(mixed):
        leaves = [x.clone().requires_grad_() for x in (*blocks, *atoms)]
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=mixed):
            codes = joint_codes(leaves[:2], leaves[2:], present, .05, .01)
        return codes, *torch.autograd.grad(codes.square().sum(), leaves)
    for one, other in zip(found(True), found(False)): torch.testing.assert_close(one, other)


def test_similarity_of_half_precision_concepts():
    """Inner products are added up in float32: what a layer gives in bfloat16 is compared as it is."""
    a, partners = (torch.randn(*size, generator=seeded(k)).bfloat16() for k, size in enumerate([(6, 200), (6, 8, 200)]))
    sign = torch.ones(6, 8)
    with torch.autocast('cpu', dtype=torch.bfloat16): found = similarity_loss(a, partners, sign)
    assert found.item() == pytest.approx(similarity_loss(a.float(), partners.float(), sign).item(), rel=1e-5)


@pytest.mark.parametrize('training', [True, False])
def test_models_are_left_in_their_mode(training):
    """Whether a model answers or fails, training goes on with the dropout that it had."""
    data, (model, *_), (network, *_) = videos(), dare(venue_loss), alexnet()
    pictures, *_ = picture_network()
    for each in (model, network, pictures): each.train(training)
    frames = torch.randint(256, (2, 3, 3, 64, 64), dtype=torch.uint8, generator=seeded())
    bad = data._replace(text=torch.zeros(12, 9))
    for call, wrong in ((lambda: model.predict(data), lambda: model.predict(bad)),
                        (lambda: network.predict(data), lambda: network.predict(bad)),
                        (lambda: pictures.features(frames), lambda: pictures.features(frames[:, :, :2]))):
        call()
        with pytest.raises((ValueError, RuntimeError)): wrong()
    for each in (model, network, pictures): assert all(layer.training == training for layer in each.modules())


def test_answers_have_no_dropout():
    """A model that is being trained answers as it would after training, and the same each time."""
    data = videos()
    model = DARE(DARESettings(16, 8, 6, 4, 5, VENUES, (12,), .5))
    model.learn_scale(data)
    network = AlexNetFusion(FusionSettings(16, 8, 6, VENUES, (12,), .9))
    network.scaler.learn(data)
    expected = model.eval().predict(data).probabilities, network.eval().predict(data)
    for _ in range(3):
        assert torch.equal(model.train().predict(data).probabilities, expected[0])
        assert torch.equal(network.train().predict(data), expected[1])


@pytest.mark.parametrize(('kind', 'changes'), [
    (DARESettings, {'samples': -1}), (DARESettings, {'samples': 10**9}), (DARESettings, {'visual': 0}),
    (DARESettings, {'concepts': 10**9}), (DARESettings, {'deviation': 0.}),
    (DARESettings, {'deviation': float('nan')}), (PictureSettings, {'frames': 0}), (PictureSettings, {'frames': 10**9}),
    (PictureSettings, {'side': 10**6}), (PictureSettings, {'width': float('inf')}), (PictureSettings, {'width': 0.}),
    (VideoToClassSettings, {'fps': float('inf')}), (VideoToClassSettings, {'fps': 0.}),
    (VideoToClassSettings, {'side': -1}), (VideoToClassSettings, {'hop': 0}), (VideoToClassSettings, {'moments': 10**9}),
    (TwoStreamSettings, {'length': 0}), (TwoStreamSettings, {'length': 10**9}), (TwoStreamSettings, {'width': -1.}),
    (SceneSettings, {'width': float('nan')}), (SceneSettings, {'scenes': 0}),
])
def test_settings_have_bounds(kind, changes):
    (name, value), = changes.items()
    with pytest.raises(ValueError, match='expected') as error: kind(**changes)
    assert name in str(error.value)


def test_ears_answer_within_autocast():
    model, _, (x, _) = ears()
    expected = model.eval().probabilities(x)
    with torch.autocast('cpu', dtype=torch.bfloat16): found = model.probabilities(x)
    assert found.dtype == expected.dtype and abs(found - expected).max() < .02
