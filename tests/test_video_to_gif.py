"""The way from a file to a generated GIF, on drawn and real files."""
import itertools
import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from microvid_nb.gif.gevaden import (
    GEVADEN, GEVADENSettings, gaussian_kl, gevaden_loss, last_state, likely_gif, most_likely_gif, shot_likelihoods)
from microvid_nb.gif.select import select_gif
from microvid_nb.gif.shots import shot_loader, shot_video
from microvid_nb.gif.video_to_gif import ShotSettings, VideoToGIF, VideoToGIFSettings, load_gif_model, shot_clips
from microvid_nb.media.render import write_video
from microvid_nb.media.survey import survey_video
from microvid_nb.training import fit, save_checkpoint

SHOTS = ShotSettings('resnet3d10', 1/8, 4, 32, square=True)
SETTINGS = VideoToGIFSettings(SHOTS, GEVADENSettings(features=64, video=16, gif=8, latent=3), samples=50)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    return save_checkpoint(
        tmp_path_factory.mktemp('model') / 'gif.safetensors', VideoToGIF(SETTINGS), SETTINGS, note='untrained'
    )


def drawn(path, frames, fps=8, size=(48, 64), seed=0):
    """A file of coloured noise that changes every second."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 255, (-(-frames//fps), 6, 8, 3), np.uint8).repeat(size[0]//6, 1).repeat(size[1]//8, 2)
    return write_video(path, blocks.repeat(fps, 0)[:frames], fps=fps)


@pytest.mark.parametrize('frames, fps', [(1, 8), (2, 8), (20, 8), (40, 8), (41, 3), (90, 30)])
def test_every_shot_becomes_a_clip(tmp_path, frames, fps):
    survey = survey_video(drawn(tmp_path/'a.mp4', frames, fps))
    clips = list(shot_clips(survey, SHOTS))
    assert len(clips) == len(survey.shot_times) >= 3
    assert {tuple(clip.shape) for clip in clips} == {(3, 4, 32, 32)} and {clip.dtype for clip in clips} == {torch.uint8}


def test_clips_show_their_own_second(tmp_path):
    survey = survey_video(drawn(tmp_path/'a.mp4', 48, 8))
    clips = torch.stack(list(shot_clips(survey, SHOTS))).float()
    within = (clips[:, :, 0] - clips[:, :, -1]).abs().mean((1, 2, 3))
    between = (clips[1:, :, 0] - clips[:-1, :, -1]).abs().mean((1, 2, 3))
    assert within.max() < 5 < 20 < between.min()


def test_the_same_checkpoint_gives_the_same_gif(tmp_path, checkpoint):
    clip = drawn(tmp_path/'a.mp4', 80)
    first, again = (select_gif(clip, load_gif_model(checkpoint)) for _ in range(2))
    assert first.times.tolist() == again.times.tolist() and len({*first.times}) == 3
    assert first.scores.place.sum() == 6 and first.scores.filter(like='shot').sum().to_numpy() == pytest.approx(1)


def test_order_of_the_model_is_kept(tmp_path):
    class Backwards:
        def score(self, survey):
            import pandas as pd
            place = np.zeros(len(survey.shot_times), int); place[[7, 4, 1]] = 1, 2, 3
            return pd.DataFrame({'time': survey.shot_times, 'place': place})
    assert select_gif(drawn(tmp_path/'a.mp4', 80), Backwards()).times.tolist() == [7, 4, 1]


def test_real_clips(checkpoint, media):
    model, tried = load_gif_model(checkpoint), 0
    for path in sorted((media/'videos').iterdir())[:6]:
        chosen = select_gif(path, model)
        assert len(chosen.shots) == 3 and len({*chosen.times}) == 3
        tried += 1
    assert tried


def test_damaged_checkpoints_are_refused(tmp_path, checkpoint):
    (tmp_path/'cut').write_bytes(checkpoint.read_bytes()[:-1000])
    for path in (tmp_path/'cut', drawn(tmp_path/'a.mp4', 8)):
        with pytest.raises(ValueError, match=path.name): load_gif_model(path)
    with pytest.raises((ValueError, OSError), match='nowhere'): load_gif_model(tmp_path/'nowhere')


def test_last_state_is_that_of_packed_sequences():
    from torch.nn.utils.rnn import pack_padded_sequence
    torch.manual_seed(0)
    lstm, x, lengths = (
        torch.nn.LSTM(5, 7, 2, batch_first=True),
        torch.randn(6, 11, 5),
        torch.tensor([11, 3, 1, 7, 7, 2]),
    )
    packed = lstm(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))[1][0][-1]
    assert torch.allclose(last_state(lstm, x, lengths), packed, atol=1e-6)


@pytest.mark.parametrize('seed', range(5))
def test_divergence_against_torch(seed):
    torch.manual_seed(seed)
    (m, s), (n, t) = (
        (torch.randn(50, 10, dtype=torch.float64) * 3, torch.rand(50, 10, dtype=torch.float64) * 5 + 1e-3)
        for _ in range(2)
    )
    assert torch.allclose(gaussian_kl(m, s, n, t), kl_divergence(Normal(m, s), Normal(n, t)).sum(-1), rtol=1e-10)


@pytest.mark.parametrize('seed', range(10))
def test_most_likely_gif_against_all_triples(seed):
    torch.manual_seed(seed)
    n = 3 + seed
    generated, shots = torch.randn(20, 3, 4)*2, torch.randn(n, 4)*2
    p = shot_likelihoods(generated, shots)
    joint = torch.einsum('la,lb,lc->abc', *p)/20
    i = torch.arange(n)
    twice = (i[:, None, None] == i[None, :, None]) | (i[:, None, None] == i) | (i[None, :, None] == i)
    best = torch.unravel_index(joint.masked_fill(twice, -1).argmax(), joint.shape)
    assert likely_gif(generated, shots).tolist() == [int(second) for second in best]


def test_training_resumes_to_the_same_losses(tmp_path):
    rng = np.random.default_rng(0)
    videos = [
        shot_video(str(i), rng.standard_normal((n, 6)), [[0, 1, 2], [3, 1, 0]], np.ones(n))
        for i, n in enumerate(rng.integers(4, 12, 20))
    ]

    def run(epochs, folder):
        torch.manual_seed(0)
        model = GEVADEN(GEVADENSettings(features=6, video=16, gif=8, latent=3, warm_up=5))
        return fit(
            model,
            shot_loader(videos, 8),
            gevaden_loss,
            torch.optim.Adam(model.parameters(), 1e-3),
            epochs,
            checkpoint=folder,
            seed=1,
            progress=False,
        )
    whole = run(4, tmp_path/'whole')
    run(2, tmp_path/'parts')
    assert run(4, tmp_path/'parts').loss.tolist() == whole.loss.tolist()


@pytest.mark.parametrize('spread', [0, 1e-3, .1, .3, 1, 3])
@pytest.mark.parametrize('kind', ['apart', 'alike'])
def test_the_search_of_eq_10_misses_nothing(spread, kind):
    """Flat, peaked and tied likelihoods: no disjoint triple has a larger mean."""
    generator = torch.Generator().manual_seed(5)
    shots = spread*torch.randn(40, 16, generator=generator)
    if kind == 'alike':
        shots = shots[::4].repeat_interleave(4, 0) + 1e-6*shots
    generated = shots[torch.randint(40, (300, 3), generator=generator)]
    generated = generated + .5*spread*torch.randn(300, 3, 16, generator=generator)
    p = shot_likelihoods(generated, shots)
    means = torch.einsum('la,lb,lc->abc', *p)/300
    i = torch.arange(40)
    twice = (i[:, None, None] == i[None, :, None]) | (i[:, None, None] == i) | (i[None, :, None] == i)
    a, b, c = found = likely_gif(generated, shots).tolist()
    assert len(set(found)) == 3 and means[a, b, c] >= means.masked_fill(twice, 0).max()*(1 - 1e-11)


@pytest.mark.parametrize('k', [1, 2, 4])
def test_the_search_takes_gifs_of_other_lengths(k):
    generator = torch.Generator().manual_seed(k)
    p = torch.softmax(2*torch.randn(k, 50, 9, generator=generator).double(), -1)
    gifs = torch.tensor(list(itertools.permutations(range(9), k)))
    means = torch.stack([p[i][:, gifs[:, i]] for i in range(k)]).prod(0).mean(0)
    for at_once in (2**25, 60):
        assert torch.equal(most_likely_gif(p, gifs[:1], at_once), gifs[means.argmax()])


@pytest.mark.parametrize('noise', [.01, .2, .5, 2])
def test_the_search_misses_nothing_where_nothing_is_alike(noise):
    """Likelihoods of noise: no bound helps much, and the best of all triples is found from a poor start."""
    p = torch.softmax(noise*torch.randn(3, 200, 40, generator=torch.Generator().manual_seed(7)).double(), -1)
    means = torch.einsum('la,lb,lc->abc', *p)/200
    i = torch.arange(40)
    twice = (i[:, None, None] == i[None, :, None]) | (i[:, None, None] == i) | (i[None, :, None] == i)
    a, b, c = most_likely_gif(p, torch.tensor([[0, 1, 2]])).tolist()
    assert len({a, b, c}) == 3 and means[a, b, c] >= means.masked_fill(twice, 0).max()*(1 - 1e-11)


def test_a_learned_sharpness_is_kept_in_a_checkpoint(tmp_path):
    settings = VideoToGIFSettings(
        SHOTS, GEVADENSettings(features=64, video=16, gif=8, latent=3, by_likelihood=True), samples=50
    )
    model = VideoToGIF(settings)
    with torch.no_grad(): model.gevaden.log_sharpness += .2
    path = save_checkpoint(tmp_path/'gif.safetensors', model, settings, note='untrained')
    found = load_gif_model(path)
    assert found.gevaden.sharpness().item() == pytest.approx(np.exp(2), rel=1e-6)
    clip = drawn(tmp_path/'a.mp4', 40)
    scores = select_gif(clip, found).scores
    shots = found.network.features(shot_clips(survey_video(clip), SHOTS))
    generated = found.gevaden.sample(shots, 50, torch.Generator().manual_seed(0))
    assert scores['shot 2'].to_numpy() == pytest.approx(shot_likelihoods(generated, shots, np.exp(2)).mean(1)[1].numpy())
