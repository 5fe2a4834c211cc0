"""The way from a file to scene, behaviour and attention, on drawn and real files."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings as examples
from hypothesis import strategies as st

from microvid_nb.classify.joint import Moments, SceneSettings, TwoStreamSettings
from microvid_nb.classify.video import (
    MIRRORED, LocalFeatures, VideoToClass, VideoToClassSettings, VideoTraining, attention_strip, classify_video,
    load_classifier, mirror, moments_of, read_moments, right_answers, story_moments, thinned, train_attention,
    train_networks, video_batch)
from microvid_nb.data.microworld import MicroWorld, draw_file
from microvid_nb.data.world.motions import ACTIONS
from microvid_nb.features.flow import flow_stacks, optical_flow
from microvid_nb.media.render import write_video
from microvid_nb.media.video import MediaError
from microvid_nb.training import save_checkpoint

SETTINGS = VideoToClassSettings(
    scene=SceneSettings(width=1 / 64),
    streams=TwoStreamSettings(backbone='alexnet', width=1 / 64),
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
        and seen.pictures.shape == (n, 3, 32, 32)
        and seen.stacks.shape == (n, 20, 32, 32)
        and len(seen.frames) == n
    )
    assert seen.pictures.dtype == torch.uint8 and seen.stacks.abs().max() <= 1 and (np.diff(seen.times) > 0).all()


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
    assert one.behaviour.probability.to_numpy() == pytest.approx(
        (one.behaviour.appearance + one.behaviour.motion).to_numpy() / 2, abs=1e-6
    )


def test_attention_against_numpy(checkpoint, stories):
    model, batch = load_classifier(checkpoint), None
    batch = video_batch(model, stories)
    with torch.no_grad(): whole, weights = model(batch.local, batch.mask)
    w = model.attention.w.detach().numpy()
    for k, story in enumerate(stories):
        n = len(story.scenes)
        local = model.local_features(Moments(story.pictures, story.stacks.float(), None, None))
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
    stack, turned = (flow_stacks(optical_flow(c), [0], 2, centred=False) for c in (clip, clip.flip(-1)))
    batch = mirror(Moments(clip[None, :, 0], stack, torch.tensor([3]), torch.tensor([1])), torch.tensor([True]))
    assert (batch.stacks - turned)[..., 8:-8, 8:-8].abs().median() < .05 and batch.scene.item() == 3
    assert torch.equal(batch.pictures[0], clip[:, 0].flip(-1))


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


def test_training_changes_only_what_it_should(stories):
    torch.manual_seed(0)
    model, training = (
        VideoToClass(SETTINGS),
        VideoTraining(scene_epochs=1, stream_epochs=1, attention_epochs=2, batch=4),
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
        ('in', 'out'), ('sit',), SceneSettings(2, width=1 / 64), TwoStreamSettings(1, width=1 / 64), 8.0, 32, 4, 8
    )
    again = load_classifier(save_checkpoint(tmp_path/'m', VideoToClass(named), named))
    assert again.settings == named
    with pytest.raises(ValueError, match='1 names for 2 scenes'):
        VideoToClass(VideoToClassSettings(('in',), ('sit',), named.scene, named.streams))


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
