"""RankNet and re-SEQ2SEQ against slow loops, SciPy, finite differences and a planted truth."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import huber
from scipy.stats import spearmanr
from torch.func import functional_call

from microvid_nb.gif.gevaden import GIFGenerator
from microvid_nb.gif.matching import closest_disjoint_match
from microvid_nb.gif.ranknet import (
    RankBatch, RankNet, RankNetSettings, adaptive_huber, collate_rank, rank_gif, rank_loader, rank_loss, rank_pairs,
    times_shown)
from microvid_nb.gif.reseq2seq import ReSeq2Seq, ReSeq2SeqSettings, mismatch_penalty, reseq2seq_loss
from microvid_nb.gif.shots import ShotBatch, collate_shots, shot_loader, shot_video
from microvid_nb.training import fit, load_model, save_checkpoint

WIDTH = 5
SMALL = ReSeq2SeqSettings(features=WIDTH, video=12, gif=7)


def videos(seed, lengths):
    """Random videos, with one to four random GIFs each."""
    rng = np.random.default_rng(seed)
    return [
        shot_video(
            str(i),
            rng.standard_normal((n, WIDTH)),
            [rng.choice(n, 3, replace=False) for _ in range(rng.integers(1, 5))],
            np.ones(n),
        )
        for i, n in enumerate(lengths)
    ]


def rank_batch(parts):
    return collate_rank([(video.shots, times_shown(video)) for video in parts])


def rank_net(seed=0):
    torch.manual_seed(seed)
    return RankNet(RankNetSettings(features=WIDTH, hidden=(16, 8)))


def shot_batch(seed, lengths):
    return collate_shots([(video.shots, video.gifs[0]) for video in videos(seed, lengths)])


def reseq2seq(seed=0):
    torch.manual_seed(seed)
    return ReSeq2Seq(SMALL)


lengths_of_videos = st.lists(st.integers(3, 12), min_size=1, max_size=5)
seeds = st.integers(0, 10**6)


# --- RankNet

@given(st.floats(-5, 20), st.floats(.1, 5))
def test_huber_is_scipys_above_zero_and_zero_below(u, delta):
    found = adaptive_huber(torch.tensor(u, dtype=torch.float64), torch.tensor(delta, dtype=torch.float64)).item()
    assert found == pytest.approx(huber(delta, max(u, 0)), rel=1e-12)


def test_loss_worked_by_hand():
    """Scores are the features: 2 (shown twice), 0 (shown once), 1 and -3 (not shown)."""
    model = RankNet(RankNetSettings(features=1))
    model.layers = torch.nn.Identity()
    batch = RankBatch(torch.tensor([[[2.], [0.], [1.], [-3.]]]), torch.tensor([4]), torch.tensor([[2, 1, 0, 0]]))
    # u: 1 - 2 + 1 = 0, 1 - 2 - 3 < 0, 1 - 0 + 1 = 2 and 1 - 0 - 3 < 0; only the third costs something: .75*(2 - .75/2)
    loss = rank_loss(model, batch)
    assert loss['loss'].item() == pytest.approx(.75*(2 - .375)/4) and loss['swapped'].item() == 1/4
    # and were that shot shown twice: 1.5*(2 - 1.5/2)
    assert rank_loss(model, batch._replace(shown=torch.tensor([[2, 3, 0, 0]])))['loss'].item() == pytest.approx(
        1.5 * (2 - 0.75) / 4
    )


def slow_rank_loss(model, parts):
    """A Python loop over the pairs of each video."""
    losses = []
    for video in parts:
        scores, pairs = model(video.shots).tolist(), []
        gifs = [set(gif) for gif in video.gifs.tolist()]
        times = [sum(second in gif for gif in gifs) for second in range(len(video.shots))]
        for i in range(len(scores)):
            for j in range(len(scores)):
                if times[i] and not times[j]:
                    pairs.append(huber(1.5 if times[i] > 1 else .75, max(0, 1 - (scores[i] - scores[j]))))
        if pairs:
            losses.append(np.mean(pairs))
    return np.mean(losses) if losses else 0.


@settings(deadline=None, max_examples=40)
@given(seeds, lengths_of_videos)
def test_loss_is_that_of_a_double_loop(seed, lengths):
    model, parts = rank_net(seed % 7), videos(seed, lengths)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 2  # scores that differ by more than the margin
    assert rank_loss(model, rank_batch(parts))['loss'].item() == pytest.approx(
        slow_rank_loss(model, parts), rel=1e-5, abs=1e-6
    )


@settings(deadline=None, max_examples=40)
@given(seeds, lengths_of_videos)
def test_every_pair_once_and_only_within_a_video(seed, lengths):
    parts = videos(seed, lengths)
    video, second, weight = rank_pairs(rank_batch(parts))
    found = [
        (v, i, j)
        for row, (v, i) in enumerate(zip(video.tolist(), second.tolist()))
        for j in weight[row].nonzero()[:, 0].tolist()
    ]
    shown = [{int(s) for s in part.gifs.flatten()} for part in parts]
    assert sorted(found) == [
        (v, i, j)
        for v, part in enumerate(parts)
        for i in sorted(shown[v])
        for j in range(len(part.shots))
        if j not in shown[v]
    ]
    each = torch.zeros(len(parts)).index_add(0, video, weight.sum(1))
    assert (each[each > 0] - 1/max(1, (each > 0).sum())).abs().max().item() < 1e-6 if found else each.sum() == 0


def test_padding_and_company_change_nothing():
    model, parts = rank_net(), videos(3, (14, 20, 15))  # long enough for shots that no GIF shows
    batch = rank_batch(parts)
    longer = RankBatch(
        torch.cat([batch.shots, torch.zeros(3, 4, WIDTH)], 1),
        batch.lengths,
        torch.cat([batch.shown, torch.zeros(3, 4, dtype=torch.int64)], 1),
    )
    for row, n in enumerate(batch.lengths):
        longer.shots[row, n:] = 1e3
    alone = np.mean([rank_loss(model, rank_batch([part]))['loss'].item() for part in parts])
    assert rank_loss(model, longer)['loss'].item() == pytest.approx(rank_loss(model, batch)['loss'].item(), abs=1e-6)
    assert rank_loss(model, batch)['loss'].item() == pytest.approx(alone, abs=1e-6)


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_shuffled_shots_have_shuffled_scores_and_the_same_loss(seed):
    model, part = rank_net(), videos(seed, (9,))[0]
    order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
    shuffled = part._replace(shots=part.shots[order], gifs=order.argsort()[part.gifs])
    assert torch.allclose(model(shuffled.shots), model(part.shots)[order], atol=1e-6)
    assert rank_loss(model, rank_batch([shuffled]))['loss'].item() == pytest.approx(
        rank_loss(model, rank_batch([part]))['loss'].item(), abs=1e-6
    )
    assert {*order[rank_gif(model, shuffled.shots)].tolist()} == {*rank_gif(model, part.shots).tolist()}


def check_gradients(model, loss, batch):
    """All parameters' gradients against finite differences in float64."""
    names, values = zip(*model.double().named_parameters())
    values = [value.detach().clone().requires_grad_() for value in values]

    class Called(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self):
            return loss(self.model, batch)['loss']
    called = Called()
    assert torch.autograd.gradcheck(
        lambda *parts: functional_call(called, {f'model.{name}': part for name, part in zip(names, parts)}, ()),
        values,
        fast_mode=True,
    )


def test_rank_gradients():
    batch = rank_batch(videos(1, (6, 9)))
    check_gradients(rank_net(), rank_loss, batch._replace(shots=2*batch.shots.double()))


def test_a_second_that_a_gif_repeats_counts_once():
    part = shot_video('a', np.zeros((4, 1)), [[0, 0, 1], [0, 1, 2]], np.ones(4))
    assert times_shown(part).tolist() == [2, 2, 1, 0]


def test_loader_gives_each_video_with_gifs_once_an_epoch():
    parts = videos(0, (4, 9, 5, 7, 12, 6))
    parts[2] = parts[2]._replace(gifs=parts[2].gifs[:0])
    loader = rank_loader(parts, 2, seed=1)
    for _ in range(2):
        batches = list(loader)
        assert sorted(torch.cat([batch.lengths for batch in batches]).tolist()) == [4, 6, 7, 9, 12]
        for batch in batches:
            for shots, n, shown in zip(*batch):
                part = next(part for part in parts if len(part.shots) == n)
                assert (
                    torch.equal(shots[:n], part.shots)
                    and torch.equal(shown[:n], times_shown(part))
                    and not shown[n:].any()
                )
    assert len(loader) == 3


def test_gif_is_in_order_of_time_and_earliest_where_equal():
    model = RankNet(RankNetSettings(features=1))
    model.layers = torch.nn.Identity()
    assert rank_gif(model, torch.tensor([[0.], [5.], [1.], [9.], [7.]])).tolist() == [1, 3, 4]
    assert rank_gif(model, torch.tensor([[2.], [2.], [2.], [3.], [2.]])).tolist() == [0, 1, 3]
    with pytest.raises(ValueError, match='at least 3 shots, found 2'):
        rank_gif(model, torch.zeros(2, 1))


def test_a_planted_interest_is_found():
    rng = np.random.default_rng(0)
    direction = rng.standard_normal(WIDTH)

    def planted(n):
        shots = rng.standard_normal((n, WIDTH))
        best = np.argsort(-shots @ direction)[:6]
        return shot_video('a', shots, [best[:3], best[3:]], np.ones(n))
    model = rank_net()
    fit(
        model,
        rank_loader([planted(n) for n in rng.integers(15, 40, 64)]),
        rank_loss,
        torch.optim.Adam(model.parameters(), 3e-3),
        epochs=15,
        progress=False,
    )
    fresh = torch.randn(500, WIDTH, generator=torch.Generator().manual_seed(1))
    assert spearmanr(model(fresh).detach(), fresh.numpy() @ direction).statistic > .9


# --- re-SEQ2SEQ

def slow_mismatch(video, summary, margin):
    def distance(a, b):
        return np.sqrt(((a - b)**2).sum())
    terms = []
    for i in range(len(video)):
        for j in range(len(video)):
            if i != j:
                terms.append(max(0, margin + distance(video[i], summary[i]) - distance(video[j], summary[i])))
                terms.append(max(0, margin + distance(video[i], summary[i]) - distance(video[i], summary[j])))
    return 2*np.mean(terms) if terms else 0.


@settings(deadline=None)
@given(seeds, st.integers(1, 8), st.floats(0, 3))
def test_mismatch_is_that_of_a_double_loop(seed, count, margin):
    video, summary = np.random.default_rng(seed).standard_normal((2, count, 4))
    assert mismatch_penalty(torch.tensor(video), torch.tensor(summary), margin).item() == pytest.approx(
        slow_mismatch(video, summary, margin), abs=1e-12
    )


def test_mismatch_gradients_and_one_video():
    source = torch.Generator().manual_seed(0)
    video, summary = (torch.randn(5, 3, generator=source, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda a, b: mismatch_penalty(a, b, 1.), (video, summary))
    alone = mismatch_penalty(video[:1], summary[:1], 1.)
    alone.backward()
    assert alone.item() == 0 and not video.grad.any() and not summary.grad.any()


def test_one_video_is_a_batch():
    loss = reseq2seq_loss(reseq2seq(), shot_batch(0, (6,)))
    assert loss['mismatch'].item() == 0 and loss['match'].item() > 0 and loss['loss'].isfinite()


def test_parts_make_up_the_loss():
    model, batch = reseq2seq(), shot_batch(0, (6, 9, 4))
    loss = reseq2seq_loss(model, batch)
    generated = [model.generate(shots[:n]) for shots, n in zip(batch.shots, batch.lengths)]
    regression = np.mean(
        [sum(torch.dist(g, x).item() for g, x in zip(one, target)) for one, target in zip(generated, batch.target)]
    )
    assert loss['regression'].item() == pytest.approx(regression, rel=1e-5)
    assert loss['loss'].item() == pytest.approx(
        loss['regression'].item() + 0.1 * loss['match'].item() + 0.1 * loss['mismatch'].item(), rel=1e-6
    )
    code = model.encode(batch.shots, batch.lengths)
    video, summary = (part.detach().numpy() for part in model.look_back(code, model.decode(code)))
    assert loss['match'].item() == pytest.approx(np.linalg.norm(video - summary, axis=1).mean(), rel=1e-5)
    assert loss['mismatch'].item() == pytest.approx(slow_mismatch(video, summary, 1.), rel=1e-5)


def test_what_lies_in_the_padding_changes_nothing():
    model, batch = reseq2seq(), shot_batch(2, (6, 9, 4))
    longer = batch._replace(shots=torch.cat([batch.shots, torch.zeros(3, 5, WIDTH)], 1))
    for row, n in enumerate(batch.lengths):
        longer.shots[row, n:] = 1e3
    for name, value in reseq2seq_loss(model, longer).items():
        assert value.item() == pytest.approx(reseq2seq_loss(model, batch)[name].item(), abs=1e-6)


def test_reseq2seq_gradients():
    batch = shot_batch(4, (5, 7, 6))
    check_gradients(reseq2seq(), reseq2seq_loss, ShotBatch(batch.shots.double(), batch.lengths, batch.gif))


def test_the_retrospective_terms_teach_the_generator_too():
    model, batch = reseq2seq(), shot_batch(0, (6, 9, 4))
    (reseq2seq_loss(model, batch)['match'] + reseq2seq_loss(model, batch)['mismatch']).backward()
    for part in (model.encoder, model.generator, model.projection, model.retrospective):
        assert any(parameter.grad.abs().sum() > 0 for parameter in part.parameters())


def test_generated_shots_are_matched_to_disjoint_seconds():
    model, part = reseq2seq(), videos(0, (8,))[0]
    generated = model.generate(part.shots)
    assert generated.shape == (3, WIDTH) and not generated.requires_grad
    assert len(set(closest_disjoint_match(generated, part.shots).tolist())) == 3


def test_its_generator_is_gevadens_without_a_pattern():
    found, expected = reseq2seq().generator, GIFGenerator(WIDTH, 12, 4)
    extra = 4*4*12  # the weights of a pattern of four dimensions into the four gates of the first layer
    assert sum(p.numel() for p in expected.parameters()) - sum(p.numel() for p in found.parameters()) == extra


def test_one_right_gif_is_learned():
    """The right GIF shows three marked shots in a fixed order, wherever they are."""
    def marked(seed):
        rng = np.random.default_rng(seed)
        kind = rng.permutation(np.repeat([0, 1, 2], 2))
        shots = 4*np.eye(3, WIDTH)[kind] + .1*rng.standard_normal((6, WIDTH))
        return shot_video(
            str(seed), shots, [[rng.choice(np.flatnonzero(kind == which)) for which in (2, 0, 1)]], np.ones(6)
        ), kind
    model = reseq2seq()
    fit(
        model,
        shot_loader([marked(seed)[0] for seed in range(32)], 16),
        reseq2seq_loss,
        torch.optim.Adam(model.parameters(), 1e-2),
        epochs=60,
        progress=False,
    )
    for seed in range(100, 110):
        video, kind = marked(seed)
        assert kind[closest_disjoint_match(model.generate(video.shots), video.shots)].tolist() == [2, 0, 1]


# --- both

@pytest.mark.parametrize('make, kind', [(rank_net, RankNetSettings), (reseq2seq, ReSeq2SeqSettings)])
def test_a_saved_model_comes_back(tmp_path, make, kind):
    model = make()
    path = save_checkpoint(tmp_path/'model.safetensors', model, model.settings)
    again = load_model(path, {type(model): kind})
    assert again.settings == model.settings
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
