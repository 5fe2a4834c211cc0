"""The way from a file to scene, behaviour and attention, on drawn and real files."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings as examples
from hypothesis import strategies as st

from microvid_nb.classify.conv3d import ConvSettings
from microvid_nb.classify.joint import SceneSettings, TwoStreamSettings
from microvid_nb.classify.video import (
    MIRRORED, LocalFeatures, MomentBatch, VideoToClass, VideoToClassSettings, VideoTraining,
    attention_strip, best_shares, classify_video, learn_shares, load_classifier, log_likelihoods, mirror, mixed,
    moments_of, read_moments, right_answers, shorten, story_moments, thinned, train_attention, train_networks,
    video_batch, video_outcomes)
from microvid_nb.data.microworld import MicroWorld, draw_file
from microvid_nb.data.world.motions import ACTIONS
from microvid_nb.features.flow import flow_stacks, optical_flow
from microvid_nb.media.render import write_video
from microvid_nb.media.video import MediaError
from microvid_nb.training import save_checkpoint

SETTINGS = VideoToClassSettings(
    scene=SceneSettings(width=1 / 64),
    streams=TwoStreamSettings(backbone='alexnet', width=1 / 64),
    clip=ConvSettings(12, (4, 8), 8),
    shares=(.2, .5, .3),
    fps=8.0,
    side=32,
    hop=4,
    moments=12,
)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    model = VideoToClass(SETTINGS)
    torch.nn.init.normal_(model.attention.w)
    return save_checkpoint(tmp_path_factory.mktemp('model')/'classify.safetensors', model, SETTINGS, note='untrained')


@pytest.fixture(scope='module')
def stories():
    return [story_moments(MicroWorld(0), i, SETTINGS) for i in range(5)]


def blob(path, frames, fps=8, size=(48, 64)):
    """A file in which a bright square moves over a gradient."""
    y, x = np.mgrid[:size[0], :size[1]]
    images = np.repeat(np.stack([2*x % 256, 3*y % 256, (x + y) % 256], -1)[None].astype(np.uint8), frames, 0)
    for i, image in enumerate(images): image[10:30, (2*i) % 40:(2*i) % 40 + 16] = 250
    return write_video(path, images, fps=fps)


@given(st.integers(0, 500), st.integers(1, 20))
def test_thinned_is_even_and_bounded(n, most):
    kept = thinned(range(n), most)
    assert len(kept) <= most and kept[:1] == [0][:n]
    if len(kept) > 1:
        step = kept[1]
        assert kept == list(range(0, n, step)) and step & (step - 1) == 0
        assert step == 1 or -(-n//(step//2)) > most                   # no thinner than it must be


@pytest.mark.parametrize('frames, fps', [(1, 8), (2, 8), (11, 8), (12, 8), (40, 8), (400, 25)])
def test_any_length_gives_moments(tmp_path, frames, fps):
    seen = read_moments(blob(tmp_path/'a.mp4', frames, fps), SETTINGS)
    n = len(seen.times)
    assert (
        1 <= n <= 12
        and seen.clips.shape == (n, 3, 11, 32, 32)
        and seen.stacks.shape == (n, 20, 32, 32)
        and len(seen.frames) == n
    )
    assert seen.clips.dtype == torch.uint8 and torch.equal(seen.pictures, seen.clips[:, :, 0]) and seen.stacks.abs().max() <= 1 and (np.diff(seen.times) > 0).all()


def test_no_flow_across_a_cut():
    rng = np.random.default_rng(0)
    shots = [rng.integers(0, 255, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1) for _ in range(2)]
    frames = [(i/8, shots[i >= 14]) for i in range(28)]
    seen = moments_of(frames, SETTINGS)
    assert seen.stacks.abs().max() == 0 and {0., 14/8} <= {*seen.times.tolist()}


def test_the_same_file_gives_the_same_answer(tmp_path, checkpoint):
    clip = blob(tmp_path/'a.mp4', 60)
    one, two = (classify_video(clip, load_classifier(checkpoint)) for _ in range(2))
    assert (
        one.scene.equals(two.scene) and one.behaviour.equals(two.behaviour) and (one.attention == two.attention).all()
    )
    for found, names in ((one.scene, SETTINGS.scenes), (one.behaviour, SETTINGS.behaviours)):
        assert (
            sorted(found.iloc[:, 0]) == sorted(names)
            and found.probability.sum() == pytest.approx(1, abs=1e-5)
            and found.probability.is_monotonic_decreasing
        )
    assert one.attention.sum() == pytest.approx(1, abs=1e-5) and len(one.joint) == 5
    best = one.joint.iloc[0]
    assert (best.behaviour, best.scene) == (one.behaviour.behaviour[0], one.scene.scene[0])
    assert best.share == pytest.approx(one.behaviour.probability[0]*one.scene.probability[0], rel=1e-4)
    by_hand = one.behaviour[['appearance', 'motion', '3D']].to_numpy()@np.array(SETTINGS.shares)
    assert one.behaviour.probability.to_numpy() == pytest.approx(by_hand, abs=1e-6)


def test_attention_against_numpy(checkpoint, stories):
    model, batch = load_classifier(checkpoint), None
    batch = video_batch(model, stories)
    with torch.no_grad(): whole, weights = model(batch.local, batch.mask)
    w = model.attention.w.detach().numpy()
    for k, story in enumerate(stories):
        n = len(story.scenes)
        local = model.local_features(MomentBatch(story.clips, story.stacks.float(), None, None))
        x, scene = (part.detach().numpy().astype(float) for part in local[:2])
        e = np.exp(x@w - (x@w).max())
        assert weights[k, :n].numpy() == pytest.approx(e/e.sum(), abs=1e-4) and (weights[k, n:] == 0).all()
        assert whole.scene[k].numpy() == pytest.approx(e@scene/e.sum(), rel=1e-3, abs=1e-3)
    with torch.no_grad():                                              # padding changes nothing, whatever stands there
        longer = LocalFeatures(*(torch.cat([part, torch.full_like(part[:, :3], 1e3)], 1) for part in batch.local))
        again, _ = model(longer, torch.cat([batch.mask, torch.zeros_like(batch.mask[:, :3])], 1))
    for ours, theirs in zip(again, whole): assert torch.allclose(ours, theirs, atol=1e-5)


def test_zero_weights_are_the_mean(checkpoint, stories):
    model = load_classifier(checkpoint)
    torch.nn.init.zeros_(model.attention.w)
    right = right_answers(model, stories)
    assert right.loc['mean'].equals(right.loc['attention'])


@examples(max_examples=10, deadline=None)
@given(st.integers(0, 2**16))
def test_mirrored_flow_is_the_flow_of_the_mirrored_clip(seed):
    """Nearly, since the search isn't symmetric."""
    import cv2
    noise = cv2.GaussianBlur(np.random.default_rng(seed).random((72, 72, 3)), (0, 0), 2)
    noise = (255*(noise - noise.min())/np.ptp(noise)).astype(np.uint8)
    images = np.stack([noise[8:-8, 8 - 2*i:64 - 2*i] for i in range(3)])
    clip = torch.from_numpy(images).permute(3, 0, 1, 2).contiguous()
    stack, turned = (flow_stacks(optical_flow(c), [0], 2, camera=None) for c in (clip, clip.flip(-1)))
    batch = mirror(MomentBatch(clip[None], stack, torch.tensor([3]), torch.tensor([1])), torch.tensor([True]))
    assert (batch.stacks - turned)[..., 8:-8, 8:-8].abs().median() < .05 and batch.scene.item() == 3
    assert torch.equal(batch.clips[0], clip.flip(-1))


def test_mirrored_actions():
    names = list(ACTIONS)
    assert all(MIRRORED[MIRRORED[k]] == k for k in range(12))
    assert {names[k]: names[MIRRORED[k]] for k in range(12) if MIRRORED[k] != k} == {
        'walk left': 'walk right',
        'walk right': 'walk left',
        'circle left': 'circle right',
        'circle right': 'circle left',
    }


def test_stories_are_drawn_as_their_files_are_read(tmp_path):
    world = MicroWorld(0)
    drawn, read = story_moments(world, 3, SETTINGS), read_moments(draw_file(world, 3, tmp_path/'a.mp4'), SETTINGS)
    n = min(len(drawn.scenes), len(read.times))
    assert abs(len(drawn.scenes) - len(read.times)) <= 2
    assert (drawn.pictures[0].float() - read.pictures[0].float()).abs().mean() < 12 and n > 3


def test_short_windows_stand_still():
    """Against a loop: after the last field nothing moves, and the frame after it stays."""
    rng = torch.Generator().manual_seed(0)
    clips = torch.randint(0, 256, (3, 3, 11, 8, 8), generator=rng, dtype=torch.uint8)
    batch = MomentBatch(clips, torch.rand(3, 20, 8, 8, generator=rng), torch.arange(3), torch.arange(3))
    for fields in ([10, 10, 10], [1, 4, 9]):
        found = shorten(batch, torch.tensor(fields))
        for k, n in enumerate(fields):
            for t in range(11): assert torch.equal(found.clips[k, :, t], clips[k, :, min(t, n)])
            for t in range(10):
                expected = batch.stacks[k, 2*t:2*t + 2]
                assert torch.equal(found.stacks[k, 2*t:2*t + 2], expected if t < n else 0*expected)


def test_a_short_shot_is_a_shortened_one():
    """A window of a file that ends early is what training shows."""
    rng = np.random.default_rng(0)
    frames = [(i/8, np.roll(rng.integers(0, 255, (8, 8, 3), np.uint8).repeat(6, 0).repeat(6, 1), i, 1)) for i in range(6)]
    seen, n = moments_of(frames, SETTINGS), 5
    batch = MomentBatch(seen.clips, seen.stacks, None, None)
    again = shorten(batch, torch.tensor([n]))
    assert len(seen.times) == 1 and torch.equal(again.clips, seen.clips) and torch.equal(again.stacks, seen.stacks)


@given(st.integers(0, 2**16), st.integers(2, 4))
@examples(max_examples=25, deadline=None)
def test_shares_have_the_largest_likelihood(seed, streams):
    """Against SciPy's constrained optimiser."""
    from scipy.optimize import minimize
    truth = np.random.default_rng(seed).beta(.7, .9, (60, streams)).clip(1e-6)
    ours = best_shares(torch.tensor(truth), 4000).numpy()
    def loss(s): return -np.log(truth@s).mean()
    theirs = minimize(loss, np.full(streams, 1/streams), bounds=[(1e-9, 1)]*streams,
                      constraints={'type': 'eq', 'fun': lambda s: s.sum() - 1})
    assert ours.sum() == pytest.approx(1) and (ours >= 0).all() and loss(ours) <= theirs.fun + 1e-4


def test_shares_are_learned_from_what_streams_know(checkpoint, stories):
    """A stream that says the truth gets nearly all, one that doesn't, nothing."""
    model = load_classifier(checkpoint)
    batch = video_batch(model, stories)
    behaviour = torch.zeros_like(batch.local.behaviour)
    behaviour[torch.arange(len(stories)), :, 1, batch.action] = 8.
    shares = learn_shares(model, batch._replace(local=batch.local._replace(behaviour=behaviour)))
    assert model.settings.shares == shares and shares[1] > .99 and sum(shares) == pytest.approx(1, abs=1e-3)


def test_likelihoods_against_numpy(checkpoint, stories):
    model = load_classifier(checkpoint)
    batch, shares = video_batch(model, stories), (.1, .6, .3)
    with torch.no_grad(): whole, _ = model(batch.local, batch.mask)
    scene, streams = (part.softmax(-1).numpy().astype(float) for part in whole[1:])
    for k in range(len(stories)):
        by_hand = np.log(scene[k, batch.scene[k]]) + np.log(np.dot(shares, streams[k, :, batch.action[k]]))
        assert log_likelihoods(whole, batch, shares)[k].item() == pytest.approx(by_hand, abs=1e-4)
    assert torch.allclose(mixed(whole.behaviour, (.5, .5, 0.)), whole.behaviour[:, :2].mean(1), atol=1e-6)


def test_outcomes_and_their_means(checkpoint, stories):
    model = load_classifier(checkpoint)
    items, right = video_outcomes(model, stories), right_answers(model, stories)
    assert len(items) == 2*len(stories) and items.drop(columns=['item', 'pooling', 'nats']).isin([0, 1]).all(axis=None)
    batch = video_batch(model, stories)
    with torch.no_grad(): whole, _ = model(batch.local, batch.mask)
    found = (whole.behaviour[:, 2].argmax(1) == batch.action).float().mean().item()
    assert right.loc['attention', '3D'] == pytest.approx(found)
    assert right.loc['attention', 'nats'] == pytest.approx(items[items.pooling == 'attention'].nats.mean())


def test_training_changes_only_what_it_should(stories):
    torch.manual_seed(0)
    model, training = (
        VideoToClass(SETTINGS),
        VideoTraining(scene_epochs=1, stream_epochs=1, clip_epochs=1, attention_epochs=2, batch=4),
    )
    train_networks(model, stories, training, progress=False)
    assert (model.attention.w == 0).all()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train_attention(model, stories, training, progress=False)
    assert [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])] == [
        'attention.w'
    ]


def test_settings_survive_the_file(tmp_path):
    named = VideoToClassSettings(
        ('in', 'out'), ('sit',), SceneSettings(2, width=1 / 64), TwoStreamSettings(1, width=1 / 64),
        ConvSettings(1, (4,), 4), (0., .25, .75), 'mean', 8.0, 32, 4, 8,
    )
    again = load_classifier(save_checkpoint(tmp_path/'m', VideoToClass(named), named))
    assert again.settings == named
    with pytest.raises(ValueError, match='1 names for 2 scenes'):
        VideoToClass(VideoToClassSettings(('in',), ('sit',), named.scene, named.streams, named.clip))
    with pytest.raises(ValueError, match='shares of appearance, motion, 3D that sum to 1'):
        VideoToClassSettings(shares=(.5, .5, .5))


def test_damaged_checkpoints_are_refused(tmp_path, checkpoint):
    (tmp_path/'cut').write_bytes(checkpoint.read_bytes()[:-1000])
    for path in (tmp_path/'cut', blob(tmp_path/'a.mp4', 8)):
        with pytest.raises(ValueError, match=path.name): load_classifier(path)
    with pytest.raises(FileNotFoundError, match='nowhere'): load_classifier(tmp_path/'nowhere')


def test_what_is_no_video_is_refused(tmp_path, checkpoint):
    (tmp_path/'text.mp4').write_text('no video')
    with pytest.raises(MediaError, match='text.mp4'): classify_video(tmp_path/'text.mp4', load_classifier(checkpoint))


def test_real_clips(checkpoint, media):
    import matplotlib
    matplotlib.use('Agg')
    model = load_classifier(checkpoint)
    for name in (
        'openl3_dog_portrait.mp4',
        'tfjs_squats_portrait.mp4',
        'intel_people-detection.gif',
        'streamio_sideways_rot90.mov',
    ):
        found = classify_video(media / 'videos' / name, model)
        assert np.isfinite(found.attention).all() and found.joint.share.between(0, 1).all()
        axes = attention_strip(found, 4)
        assert axes.size == min(4, len(found.times))
        matplotlib.pyplot.close('all')
