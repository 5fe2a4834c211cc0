"""DARE: gradients of each loss against finite differences, sampled pairs against the double sum, loops for everything
that is vectorised.
"""
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from sklearn.metrics import roc_auc_score
from torch.autograd import gradcheck

from microvid_nb.training import load_model, save_checkpoint
from microvid_nb.venue.dare import (
    DARE, DAREBatch, DARESettings, dare_loader, dare_losses, embedding_loss, joint_loss, knowledge_loss,
    mapping_error, sample_pairs, similarity_loss, train_dare, transfer_error, venue_loss)
from microvid_nb.venue.fusion import VenueNetwork, squared_error
from microvid_nb.venue.similarity import sort_by_venue
from microvid_nb.venue.videos import (
    Scaler, gather_sounds, gather_videos, mean_and_deviation, missing_modalities, pick_rows)

torch.set_num_threads(1)
SMALL = DARESettings(
    visual=5, acoustic=4, text=3, concepts=6, text_concepts=2, venues=3, hidden=(7,), samples=2, dropout=0.0
)


def data(n=24, sounds=10, seed=0):
    rng = np.random.default_rng(seed)
    present = np.column_stack([np.ones((n, 2), bool), rng.random(n) < .7])
    videos = gather_videos(*(rng.normal(size=(n, width)) for width in (5, 4, 3)), np.arange(n) % 3, present)
    return videos, gather_sounds(rng.normal(size=(sounds, 4)), rng.random((sounds, 6)) < .3)


def a_batch(model, seed=0):
    videos, sounds = data(seed=seed)
    model.learn_scale(videos)
    return next(iter(dare_loader(videos, sounds, 2, 8, seed)))


def in_double(batch):
    """The batch with float64 features."""
    def whole(part): return part if part is None else type(part)(*(x.double() if x.is_floating_point() else x for x in part))
    return DAREBatch(
        whole(batch.videos),
        batch.index,
        whole(batch.partners),
        batch.partner_index,
        batch.sign.double(),
        whole(batch.sounds),
    )


# ---- gradients

@pytest.mark.parametrize('free', [0, 24])
@pytest.mark.parametrize('loss', [knowledge_loss, embedding_loss, venue_loss, joint_loss], ids=lambda loss: loss.__name__)
def test_gradients_of_each_loss_are_those_of_finite_differences(loss, free):
    torch.manual_seed(1)
    model = DARE(replace(SMALL, free=free))
    batch = in_double(a_batch(model))
    model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(.1 * torch.randn_like(parameter))
    names = [name for name, _ in model.named_parameters()]

    def value(*parameters):
        found = torch.func.functional_call(
            Calls(model, loss), {f'model.{name}': p for name, p in zip(names, parameters)}, (batch,)
        )
        return found['loss'] if isinstance(found, dict) else found
    assert gradcheck(value, tuple(p.detach().clone().requires_grad_() for p in model.parameters()))


class Calls(torch.nn.Module):
    """A loss as a module, so that its parameters can be replaced."""
    def __init__(self, model, loss):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch):
        return self.loss(self.model, batch)


def test_gradients_of_the_plain_functions():
    source = torch.Generator().manual_seed(0)
    def numbers(*shape): return torch.randn(*shape, generator=source, dtype=torch.float64, requires_grad=True)
    sign = torch.tensor([[1., 1, -1, -1]] * 3, dtype=torch.float64)
    assert gradcheck(lambda a, b: similarity_loss(a, b, sign), (numbers(3, 5), numbers(3, 4, 5)))
    assert gradcheck(lambda a, b: similarity_loss(a, b, sign, sign.abs() * 3), (numbers(3, 5), numbers(3, 4, 5)))
    assert gradcheck(lambda scores: squared_error(scores, torch.tensor([0, 2, 1])), (numbers(3, 4),))
    assert gradcheck(lambda heard: transfer_error(heard, torch.ones(3, 2, dtype=torch.float64)), (numbers(3, 4),))
    assert gradcheck(mapping_error, (numbers(3, 4), numbers(3, 4)))


# ---- against loops

def sigma(x):
    return 1 / (1 + math.exp(-x))


def slow_losses(model, batch):
    """J1, J2 and J3 of a = D x, number by number, in NumPy."""
    weights = {name: tensor.detach().double().numpy() for name, tensor in model.state_dict().items()}

    def represent(videos, i):
        parts = []
        for m, name in enumerate(('visual', 'acoustic', 'text')):
            x = videos[m][i].double().numpy()
            x = (x - weights[f'scaler.{name}_mean']) / weights[f'scaler.{name}_deviation'] / math.sqrt(len(x))
            parts.append(x if videos.present[i, m] else 0 * x)
        return np.concatenate(
            [parts[0], weights['acoustic_map.weight'] @ parts[1], weights['text_map.weight'] @ parts[2]]
        )

    j1 = []
    for codes, concepts in zip(*batch.sounds):
        x = (codes.double().numpy() - weights['scaler.acoustic_mean']) / weights['scaler.acoustic_deviation'] / 2
        heard = weights['acoustic_map.weight'] @ x
        j1.append(sum((h - c) ** 2 for h, c in zip(heard, concepts.tolist())))
    j2, j3 = [], []
    for i, venue in enumerate(batch.videos.venue.tolist()):
        a = represent(batch.videos, i)
        for p in range(4):
            same = int(batch.partners.venue[4 * i + p]) == venue
            j2.append(-math.log(sigma((1 if same else -1) * float(a @ represent(batch.partners, 4 * i + p)))))
        e = np.maximum(weights['network.layers.1.weight'] @ a + weights['network.layers.1.bias'], 0)
        scores = np.exp(weights['network.out.weight'] @ e)
        j3.append(sum(((k == venue) - s) ** 2 for k, s in enumerate(scores / scores.sum())) / 2)
    return np.mean(j1), np.mean(j2), np.mean(j3)


@pytest.mark.parametrize('seed', range(3))
def test_losses_agree_with_loops(seed):
    torch.manual_seed(seed)
    model = DARE(SMALL)
    batch = a_batch(model, seed)
    model.eval()
    found = [loss(model, batch).item() for loss in (knowledge_loss, embedding_loss, venue_loss)]
    assert found == pytest.approx(slow_losses(model, batch), rel=1e-4)
    parts = joint_loss(model, batch)
    assert parts['loss'].item() == pytest.approx(sum(found), rel=1e-5)


def test_fewer_concepts_supervise_the_first_rows_only():
    torch.manual_seed(0)
    model = DARE(SMALL)
    batch = a_batch(model)
    few = batch._replace(sounds=batch.sounds._replace(concepts=batch.sounds.concepts[:, :2]))
    knowledge_loss(model, few).backward()
    gradient = model.acoustic_map.weight.grad
    assert gradient[:2].abs().sum() > 0 and not gradient[2:].any()


def test_first_term_vanishes_for_mapped_representations_and_not_for_free_ones():
    torch.manual_seed(0)
    model = DARE(SMALL)
    batch = a_batch(model)
    a = model.concepts(batch.videos)
    assert mapping_error(a, model.training_concepts(batch.videos, batch.index)).item() == 0
    free = DARE(replace(SMALL, free=24))
    batch = a_batch(free)
    with torch.no_grad():
        free.free_concepts.weight.add_(1)
    expected = (
        10 + 3.0 * batch.videos.present[:, 2].float().mean().item() - batch.videos.present[:, 2].float().mean().item()
    ) + 1
    assert mapping_error(
        free.concepts(batch.videos), free.training_concepts(batch.videos, batch.index)
    ).item() == pytest.approx(expected, rel=1e-4)


# ---- pairs

def double_sum(a, venue):
    return sum(
        -math.log(sigma((1 if venue[i] == venue[j] else -1) * float(a[i] @ a[j])))
        for i in range(len(a))
        for j in range(len(a))
    )


@pytest.mark.parametrize('seed', range(3))
def test_samples_converge_to_the_double_sum(seed):
    source = torch.Generator().manual_seed(seed)
    venue = torch.multinomial(torch.tensor([.6, .3, .1]), 30, replacement=True, generator=source)
    a = torch.randn(30, 4, generator=source)
    by_venue, whole = sort_by_venue(venue), double_sum(a, venue)

    def estimate(samples):
        pairs = sample_pairs(by_venue, torch.arange(30), samples, source)
        return 30 * similarity_loss(a, a[pairs.index], pairs.sign, pairs.weight).item()
    errors = {
        samples: np.mean([abs(estimate(samples) - whole) for _ in range(30)]) / whole for samples in (5, 500, 20_000)
    }
    assert errors[20_000] < .004 and errors[20_000] < errors[500] / 3 < errors[5] / 12


@given(st.lists(st.integers(0, 5), min_size=2, max_size=40).filter(lambda x: len(set(x)) > 1), st.integers(1, 6), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_pairs_are_of_the_sign_that_they_say(venues, samples, seed):
    venue = torch.tensor(venues)
    pairs = sample_pairs(sort_by_venue(venue), torch.arange(len(venue)), samples, torch.Generator().manual_seed(seed))
    assert pairs.index.shape == (len(venue), 2 * samples)
    assert torch.equal(venue[pairs.index] == venue[:, None], pairs.sign > 0)
    assert (pairs.sign[:, :samples] > 0).all() and (pairs.sign[:, samples:] < 0).all()
    assert torch.allclose(pairs.weight.sum(1), torch.full((len(venue),), float(len(venue))))


def test_every_partner_is_as_likely():
    venue = torch.tensor([3, 0, 3, 1, 0, 3, 3])
    index = sample_pairs(sort_by_venue(venue), torch.tensor([2]), 40_000, torch.Generator().manual_seed(0)).index[0]
    for part, possible in ((index[:40_000], [0, 2, 5, 6]), (index[40_000:], [1, 3, 4])):
        counts = part.bincount(minlength=7)[possible]
        assert counts.sum() == 40_000
        expected = 40_000 / len(possible)
        # chi-square of three degrees of freedom, p = 0.001
        assert ((counts - expected) ** 2 / expected).sum() < 16.3


def test_sampling_costs_the_same_for_any_number_of_videos():
    """A draw touches B * 2 S numbers: a hundred thousand videos and forty give arrays of the same size, without a
    rejection.
    """
    few, many = (sort_by_venue(torch.arange(n) % 20) for n in (40, 100_000))
    for by_venue in (few, many):
        pairs = sample_pairs(by_venue, torch.arange(32), 5, torch.Generator().manual_seed(0))
        assert sum(x.numel() for x in pairs) == 3 * 32 * 10


# ---- the network

def test_gaussian_of_deviation_one_is_saturated_at_the_papers_sizes():
    torch.manual_seed(0)
    x, venue = torch.randn(32, 4609), torch.randint(188, (32,))
    share = {}
    for deviation in (1., None):
        network = VenueNetwork(4609, 188, deviation=deviation).eval()
        given_ = x.clone().requires_grad_()
        squared_error(network(given_), venue).backward()
        share[deviation] = (given_.grad == 0).all(1).float().mean().item()
    assert share[1.] > .5 and share[None] == 0


def test_dropout_acts_in_training_only_and_on_input_and_hidden_layers():
    torch.manual_seed(0)
    network = VenueNetwork(50, 4, (40, 40), dropout=.5)
    assert sum(isinstance(layer, torch.nn.Dropout) for layer in network.layers) == 3
    a = torch.randn(3, 50)
    assert not torch.equal(network(a), network(a))
    network.eval()
    assert torch.equal(network(a), network(a))


# ---- training and use

def separable(n, seed):
    source = torch.Generator().manual_seed(seed)
    centres, venue = (
        2 * torch.randn(3, 12, generator=torch.Generator().manual_seed(99)),
        torch.randint(3, (n,), generator=source),
    )
    x = centres[venue] + torch.randn(n, 12, generator=source)
    return gather_videos(x[:, :5], x[:, 5:9], x[:, 9:], venue, torch.rand(n, 3, generator=source) < .9)


@pytest.mark.parametrize('alternate', [True, False])
@pytest.mark.parametrize('free', [0, 120])
def test_training_learns_venues_and_concepts(alternate, free):
    codes = torch.randn(200, 4, generator=torch.Generator().manual_seed(5))
    sounds = gather_sounds(codes, torch.cat([codes > .3, codes[:, :2] < -.3], 1))
    torch.manual_seed(0)
    model = DARE(replace(SMALL, free=free))
    history = train_dare(model, separable(120, 0), sounds, 40, 20, rate=.1, alternate=alternate, progress=False)
    test = separable(150, 1)
    assert (model.predict(test).venue == test.venue).float().mean() > .8
    assert history.transfer.iloc[-1] < .9 * history.transfer.iloc[0]
    assert roc_auc_score(sounds.concepts, model.hear(codes).detach()) > .65


def test_losses_take_turns_as_far_as_there_is_something_to_learn():
    videos, sounds = data()
    assert list(dare_losses(SMALL, True)) == ['transfer', 'similarity', 'venue']
    assert list(dare_losses(SMALL, False)) == ['similarity', 'venue']
    assert list(dare_losses(replace(SMALL, samples=0), False)) == ['venue']
    columns = train_dare(DARE(SMALL), videos, sounds, 1, 8, progress=False).columns
    assert list(columns[:5]) == ['epoch', 'loss', 'transfer', 'similarity', 'venue']


def test_same_seed_same_model_and_resumed_run(tmp_path):
    videos, sounds = data()

    def trained(epochs, checkpoint=None):
        torch.manual_seed(3)
        model = DARE(replace(SMALL, dropout=.2))
        train_dare(model, videos, sounds, epochs, 8, seed=4, checkpoint=checkpoint, progress=False)
        return model.state_dict()
    whole = trained(4)
    trained(2, tmp_path)
    resumed = trained(4, tmp_path)
    for name in whole:
        assert torch.equal(whole[name], resumed[name]), name


def test_a_saved_model_says_the_same(tmp_path):
    videos, sounds = data()
    model = DARE(SMALL)
    train_dare(model, videos, sounds, 1, 8, progress=False)
    save_checkpoint(tmp_path / 'dare.safetensors', model, model.settings)
    again = load_model(tmp_path / 'dare.safetensors', {DARE: DARESettings})
    assert torch.equal(again.predict(videos).probabilities, model.predict(videos).probabilities)


def test_missing_modalities_are_told_and_change_nothing_else():
    videos, sounds = data()
    model = DARE(SMALL)
    train_dare(model, videos, sounds, 1, 8, progress=False)
    present = torch.tensor([[True, False, True], [False, True, False], [False, False, False], [True, True, True]])
    some = gather_videos(
        torch.full((4, 5), torch.nan).index_put((present[:, 0],), torch.ones(5)),
        torch.full((4, 4), torch.nan).index_put((present[:, 1],), torch.ones(4)),
        torch.full((4, 3), torch.nan).index_put((present[:, 2],), torch.ones(3)),
        [0, 1, 2, 0],
        present,
    )
    said = model.predict(some, batch=3)
    assert said.missing == [('acoustic',), ('visual', 'text'), ('visual', 'acoustic', 'text'), ()]
    assert said.probabilities.isfinite().all() and torch.allclose(said.probabilities.sum(1), torch.ones(4))
    assert said.concepts.isnan().all(1).tolist() == [True, False, True, False]
    whole = model.predict(pick_rows(some, slice(3, 4)))
    assert torch.allclose(said.probabilities[3], whole.probabilities[0], atol=1e-6)
    assert len(model.predict(pick_rows(videos, slice(0))).venue) == 0


def test_prediction_leaves_the_mode_of_the_model():
    model = DARE(SMALL).train()
    model.predict(data()[0])
    assert model.training


# ---- scaling and bad input

@given(st.integers(1, 60), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_mean_and_deviation_of_known_rows(n, seed):
    rng = np.random.default_rng(seed)
    x, known = torch.from_numpy(rng.normal(3, 2, (n, 4))).float(), torch.from_numpy(rng.random(n) < .7)
    mean, deviation = mean_and_deviation(x, known)
    if known.sum() == 0:
        assert torch.equal(mean, torch.zeros(4).double()) and torch.equal(deviation, torch.ones(4).double())
    else:
        assert np.allclose(mean, x[known].double().numpy().mean(0))
        assert known.sum() == 1 or np.allclose(deviation, x[known].double().numpy().std(0))


def test_scaled_modalities_have_length_one():
    videos, _ = data(200)
    for block, there in zip(Scaler(videos.widths).learn(videos)(videos), videos.present.T):
        assert block[there].square().sum(1).mean().item() == pytest.approx(1, rel=1e-4)
        assert not block[~there].any()


def test_bad_input_is_named():
    videos, sounds = data()
    bad = videos.acoustic.clone()
    bad[5, 1] = torch.inf
    with pytest.raises(ValueError, match='acoustic features, row 5: holds NaN or infinity'):
        gather_videos(videos.visual, bad, videos.text, videos.venue)
    with pytest.raises(ValueError, match='row 2: expected a venue from 0 to 2 - 1, found 2'):
        gather_videos(videos.visual, videos.acoustic, videos.text, videos.venue, venues=2)
    with pytest.raises(ValueError, match='expected 5 visual features, found 4'):
        DARE(SMALL).predict(videos._replace(visual=videos.visual[:, :4]))
    with pytest.raises(ValueError, match='expected 5 visual features, found 4'):
        train_dare(DARE(SMALL), videos._replace(visual=videos.visual[:, :4]), sounds, 1)
    with pytest.raises(ValueError, match='expected 4 acoustic features, found 3'):
        train_dare(DARE(SMALL), videos, sounds._replace(codes=sounds.codes[:, :3]), 1, progress=False)
    with pytest.raises(ValueError, match='expected 6 concepts at most, found 7'):
        train_dare(DARE(SMALL), videos, gather_sounds(sounds.codes, torch.ones(10, 7)), 1)
    with pytest.raises(ValueError, match='external sounds, row 0: expected concepts that are 0 or 1'):
        gather_sounds(sounds.codes, torch.full((10, 2), 2.))
    with pytest.raises(ValueError, match='two venues or more'):
        train_dare(DARE(SMALL), videos._replace(venue=torch.zeros(24, dtype=torch.int64)), sounds, 1)
    with pytest.raises(ValueError, match='a share to drop'):
        DARE(replace(SMALL, dropout=1.))
    with pytest.raises(ValueError, match='expected sizes from 1'):
        DARESettings(hidden=(0,))
    assert missing_modalities(pick_rows(videos, slice(0))) == []
