"""Every loss and model of the thumbnail and GIF papers under bfloat16 autocast, forward and backward."""
import numpy as np
import pytest
import torch
from autocast import check_under_autocast
from torch import nn

from microvid_nb.features.text import SemanticSpace
from microvid_nb.gif.gevaden import GEVADEN, GEVADENSettings, gevaden_loss, generate_gif, likely_gif
from microvid_nb.gif.matching import closest_disjoint_match
from microvid_nb.gif.metrics import perceptual_matching_error
from microvid_nb.gif.ranknet import RankNet, RankNetSettings, rank_loader, rank_loss
from microvid_nb.gif.reseq2seq import ReSeq2Seq, ReSeq2SeqSettings, reseq2seq_loss
from microvid_nb.gif.shots import shot_loader, shot_video
from microvid_nb.gif.video_to_gif import ShotNetwork, ShotSettings
from microvid_nb.thumbnail.amuse import AMUSEBatch, AMUSESettings, amuse_loss, domain_gap, layer_gap, new_amuse
from microvid_nb.thumbnail.learned_baselines import (
    C2AE, MTLVSEM, BaselineSettings, DeViSE, TwoTaskBatch, c2ae_loss, devise_loss, mtl_vsem_loss)
from microvid_nb.thumbnail.mkmmd import linear_mk_mmd, mk_mmd, optimal_kernel_weights, squared_distances

WORDS = ('dog', 'cat', 'car')


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def space():
    return SemanticSpace(WORDS, torch.randn(3, 16, generator=seeded()))


def pictures():
    generator = seeded(1)
    images, frames = torch.rand(2, 12, 3, 64, 64, generator=generator)
    labels, words = torch.rand(2, 12, 3, generator=generator) < .5
    labels[0], labels[1] = torch.tensor([True, False, False]), torch.tensor([False, True, True])
    return images, labels, frames, words


def amuse(**changes):
    settings = AMUSESettings(WORDS, 16, 32, width=1/16, size=64, frozen=(), dropout=0., **changes)
    images, labels, frames, _ = pictures()
    return new_amuse(settings, space()), amuse_loss, AMUSEBatch(images, labels, frames)


def baseline(kind, loss):
    settings = BaselineSettings(WORDS, 16, 32, width=1/16, size=64, frozen=(), latent=8)
    return kind(settings, space().prototype(WORDS)), loss, TwoTaskBatch(*pictures())


def shots():
    rng = np.random.default_rng(0)
    return [
        shot_video(str(n), rng.standard_normal((n, 8)), [[0, 3, 2], [1, 2, 4]], np.ones(n)) for n in (6, 9, 7, 8)
    ]


def gif_model(model, loss, loader=shot_loader):
    return model, loss, next(iter(loader(shots(), 4)))


def shot_network():
    batch = torch.randint(256, (4, 3, 4, 32, 32), dtype=torch.uint8, generator=seeded()), torch.ones(4, 32)
    def loss(model, batch): return nn.functional.binary_cross_entropy_with_logits(model(batch[0]), batch[1])
    return ShotNetwork(ShotSettings('resnet3d10', 1/8, 4, 32, True)), loss, batch


SYSTEMS = {
    'AMUSE': amuse,
    'AMUSE, Variant-I': lambda: amuse(mu=0.),
    'AMUSE, Variant-III': lambda: amuse(attended=False),
    'AMUSE, Variant-IV': lambda: amuse(common_space=True),
    'AMUSE, Eq. 6 as printed': lambda: amuse(same_attention=True),
    'AMUSE, ranked both ways': lambda: amuse(across=1.),
    'AMUSE, optimal weights': lambda: amuse(optimal_weights=True),
    'DeViSE': lambda: baseline(DeViSE, devise_loss),
    'MTL-VSEM': lambda: baseline(MTLVSEM, mtl_vsem_loss),
    'C2AE': lambda: baseline(C2AE, c2ae_loss),
    'GEVADEN': lambda: gif_model(GEVADEN(GEVADENSettings(features=8, video=16, gif=8, latent=4)), gevaden_loss),
    'GEVADEN, fixed prior': lambda: gif_model(
        GEVADEN(GEVADENSettings(features=8, video=16, gif=8, latent=4, fixed_prior=True)), gevaden_loss
    ),
    're-SEQ2SEQ': lambda: gif_model(ReSeq2Seq(ReSeq2SeqSettings(features=8, video=16, gif=8)), reseq2seq_loss),
    'RankNet': lambda: gif_model(RankNet(RankNetSettings(features=8, hidden=(16, 8))), rank_loss, rank_loader),
    'shot network': shot_network,
}


@pytest.mark.parametrize('name', SYSTEMS)
def test_loss_and_gradient(name):
    check_under_autocast(SYSTEMS[name])


@pytest.mark.parametrize('distance', [.02, .1, 1.])
def test_mk_mmd_is_exact_whatever_surrounds_it(distance):
    source = torch.randn(100, 64, generator=seeded(2)) + 3
    target = torch.randn(80, 64, generator=seeded(3)) + 3 + distance
    def found():
        x, y = source.clone().requires_grad_(), target.clone().requires_grad_()
        value = mk_mmd(x, y)
        return value, *torch.autograd.grad(value, (x, y)), linear_mk_mmd(x, y), squared_distances(x, y), \
            squared_distances(x, x), optimal_kernel_weights(x, y, [10., 50, 200])
    expected = found()
    with torch.autocast('cpu', dtype=torch.bfloat16): mixed = found()
    for one, other in zip(mixed, expected): torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def test_gap_of_half_precision_features():
    """Features in bfloat16 are compared in float32: the gap is theirs, not that of rounded squares."""
    source, target = (torch.randn(60, 32, generator=seeded(k)).add(k).bfloat16() for k in (4, 5))
    assert mk_mmd(source, target).item() == pytest.approx(mk_mmd(source.float(), target.float()).item(), rel=1e-6)
    assert layer_gap(source, target).dtype == torch.float32
    assert mk_mmd(source[:30], source[30:]).abs() < .1*mk_mmd(source, target)


def test_matching_errors_and_answers_stay_exact():
    video, model = shots()[1], GEVADEN(GEVADENSettings(features=8, video=16, gif=8, latent=4)).eval()
    generated = torch.randn(50, 3, 8, generator=seeded())
    def found():
        flat, targets = generated.flatten(0, 1), torch.arange(150) % 9
        return (closest_disjoint_match(generated, video.shots), likely_gif(generated, video.shots),
                perceptual_matching_error(flat, video.shots, targets))
    expected = found()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        for one, other in zip(found(), expected): assert torch.equal(one, other)
        assert len(set(generate_gif(model, video.shots, 20, seeded()).tolist())) == 3


@pytest.mark.parametrize('training', [True, False])
def test_models_are_left_in_their_mode(training):
    images, _, frames, _ = pictures()
    models = [amuse()[0], *(baseline(kind, None)[0] for kind in (DeViSE, MTLVSEM, C2AE))]
    for model in models:
        model.train(training)
        model.similarities(images, WORDS, space())
        with pytest.raises((ValueError, RuntimeError)): model.similarities(images[:, :1], ['zebra'], space())
        assert model.training == training and model.network.training == training
    domain_gap(models[0], images, frames)
    assert models[0].training == training
