"""Clips from files, the 3D and the 2D network, what each can and cannot see, dropout, checkpoints, learning."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.utils.data import DataLoader

from microvid_nb.classify.conv3d import (
    C3DClassifier, ClipBatch, Conv2DClassifier, Conv3DClassifier, ConvSettings, ShiftedClassifier, clip_loss,
    continuous_actions, count_weights, even_subset, flat_settings, middle_square, read_actions, shift_channels,
    without_repetitions)
from microvid_nb.data.microworld import MicroWorld
from microvid_nb.data.world.motions import action_clip
from microvid_nb.data.world.views import ActionClips, as_tensor, draw_all
from microvid_nb.media.render import write_video
from microvid_nb.media.video import MediaError, iter_frames
from microvid_nb.training import fit, load_model, save_checkpoint

SMALL = ConvSettings(5, (4, 8), 16, dropout=.5)
KINDS = [Conv3DClassifier, Conv2DClassifier]


def network(kind, settings=SMALL, seed=0):
    torch.manual_seed(seed)
    return kind(settings)


def clip_of(n=2, frames=8, side=20, seed=0):
    return torch.randint(
        0, 256, (n, 3, frames, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


# --- files


@pytest.fixture(scope='module')
def scenes():
    """Two clips of different places, uint8 [24, 90, 120, 3] each."""
    return [
        action_clip(np.random.default_rng(seed), 24, 12, 90, 120, action=action).images
        for seed, action in ((3, 'walk left'), (4, 'hop'))
    ]


def test_actions_end_at_cuts_and_leave_out_repetitions(tmp_path, scenes):
    """2 s of motion, 2 s of standing still, a cut, 2 s of motion, at 12 frames a second, seen at 50."""
    first, second = scenes
    path = write_video(tmp_path/'video.mp4', np.concatenate([first, np.repeat(first[-1:], 24, 0), second]), fps=12)
    found = list(read_actions(path, frames=10, size=48))
    assert [tuple(action.clip.shape) for action in found] == [(3, 10, 48, 48)]*2 and found[0].clip.dtype == torch.uint8
    assert found[0].times[-1] < 2.1 and found[1].times[0] == pytest.approx(4, abs=.05)
    assert all((np.diff(action.times) > 0).all() for action in found)
    assert list(np.concatenate([action.times for action in found])) == sorted(
        np.concatenate([action.times for action in found])
    )


def test_frames_are_those_of_the_file(tmp_path, scenes):
    """Each frame is the middle square of what the file shows at its time."""
    path = write_video(tmp_path/'video.mp4', scenes[0], fps=12)
    action, = read_actions(path, frames=6, size=48)
    shown = dict(iter_frames(path, 50, 48))
    for image, time in zip(action.clip.permute(1, 2, 3, 0).numpy(), action.times):
        assert np.array_equal(image, shown[time][:, 8:56])


def test_long_actions_are_divided(tmp_path, scenes):
    path = write_video(tmp_path/'video.mp4', np.concatenate([scenes[1]]*3), fps=12)
    found = list(read_actions(path, frames=4, size=32, longest=1.5))
    assert 4 <= len(found) <= 8 and all(action.times[-1] - action.times[0] <= 1.5 for action in found)


def test_a_still_video_is_one_frame_again_and_again(tmp_path, scenes):
    path = write_video(tmp_path/'still.mp4', np.repeat(scenes[0][:1], 20, 0), fps=10)
    action, = read_actions(path, frames=5, size=32)
    assert (
        action.clip.shape == (3, 5, 32, 32) and set(action.times) == {0.0} and (action.clip == action.clip[:, :1]).all()
    )


def test_portrait_and_landscape_give_one_size(tmp_path, scenes):
    for name, images in {'wide': scenes[0], 'high': scenes[0].transpose(0, 2, 1, 3)}.items():
        path = write_video(tmp_path/f'{name}.mp4', np.ascontiguousarray(images), fps=12)
        assert {tuple(action.clip.shape) for action in read_actions(path, frames=4, size=40)} == {(3, 4, 40, 40)}


def test_real_clips(media):
    """Of every real clip some second gives clips of one size, with increasing times; none breaks."""
    paths = sorted((media/'videos').glob('*.mp4'))[:6]
    assert paths
    for path in paths:
        actions = list(read_actions(path, frames=8, size=64, longest=4.))
        assert actions and all(
            action.clip.shape == (3, 8, 64, 64) and (np.diff(action.times) >= 0).all() for action in actions
        )


def test_no_video(tmp_path):
    (tmp_path/'text.mp4').write_text('no video')
    with pytest.raises(MediaError, match='text.mp4'): list(read_actions(tmp_path/'text.mp4'))


@settings(max_examples=30, deadline=None)
@given(levels=st.lists(st.integers(0, 3), min_size=1, max_size=30), seed=st.integers(0, 99))
def test_no_two_neighbours_are_alike(levels, seed):
    pictures = np.random.default_rng(seed).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    kept = list(without_repetitions(enumerate(pictures[k] for k in levels)))
    assert [k for k, _ in kept] == [k for k in range(len(levels)) if k == 0 or levels[k] != levels[k - 1]]


def test_slow_changes_add_up():
    """Frames that each differ too little from the one before are passed on once they differ enough from the last that
    was.
    """
    frames = [(k, np.full((8, 8, 3), k, np.uint8)) for k in range(20)]
    assert [k for k, _ in without_repetitions(frames)] == [0, 9, 18]


def test_a_small_change_counts_and_noise_does_not():
    quiet = np.full((20, 20, 3), 100, np.uint8)
    noisy, moved = quiet + np.random.default_rng(0).integers(-7, 8, (20, 20, 1)).astype(np.int8), quiet.copy()
    moved[4:6, 4:6] = 200
    assert [k for k, _ in without_repetitions(enumerate([quiet, noisy.astype(np.uint8), moved]))] == [0, 2]


@settings(max_examples=30, deadline=None)
@given(have=st.integers(1, 60), want=st.integers(1, 40))
def test_subsets_are_even(have, want):
    action = [(float(k), np.full((2, 2, 3), k, np.uint8)) for k in range(have)]
    found = even_subset(action, want)
    assert found.clip.shape == (3, want, 2, 2) and found.times[0] == 0 and (want == 1 or found.times[-1] == have - 1)
    assert np.array_equal(found.clip[0, :, 0, 0], found.times)
    if 1 < want <= have: assert np.ptp(np.diff(found.times)) <= 1 and (np.diff(found.times) >= 1).all()


def test_groups_hold_all_frames_in_order():
    frames = [(k/10, np.full((32, 32, 3), 40*(k // 25 % 2), np.uint8)) for k in range(100)]
    groups = list(continuous_actions(frames, longest=2.))
    assert [time for group in groups for time, _ in group] == [time for time, _ in frames]
    assert all(group[-1][0] - group[0][0] <= 2. for group in groups)


@pytest.mark.parametrize('shape', [(4, 9, 3), (9, 4, 3), (5, 5, 3), (1, 2, 3)])
def test_middle_square(shape):
    image = np.arange(np.prod(shape)).reshape(shape)
    square, side = middle_square(image), min(shape[:2])
    assert square.shape == (side, side, 3)
    top, left = (shape[0] - side)//2, (shape[1] - side)//2
    assert np.array_equal(square, image[top:top + side, left:left + side])


# --- networks


def slow_block(x, convolution, norm, time):
    """Convolution, maximum, batch normalisation in evaluation and ReLU, by NumPy loops, for one clip [C, T, H, W]."""
    w, (c, t, h, v) = convolution.weight.detach().double().numpy(), x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (1, 1)))
    out = np.zeros((len(w), t, h, v))
    for a, b, d in np.ndindex(t, h, v): out[:, a, b, d] = np.tensordot(w, padded[:, a:a + 3, b:b + 3, d:d + 3], 4)
    pooled = np.stack(
        [
            out[:, i : i + time, j : j + 2, k : k + 2].max((1, 2, 3))
            for i in range(0, t, time)
            for j in range(0, h, 2)
            for k in range(0, v, 2)
        ],
        1,
    )
    mean, var, gain, bias = (
        tensor.detach().double().numpy()[:, None]
        for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    pooled = np.maximum((pooled - mean)/np.sqrt(var + norm.eps)*gain + bias, 0)
    return pooled.reshape(len(w), -(-t//time), -(-h//2), -(-v//2))


def test_the_3d_network_against_loops():
    model = network(Conv3DClassifier, ConvSettings(3, (2, 3), 4))
    with torch.no_grad():
        model.train()(clip_of(4, 5, 9))  # other running statistics than 0 and 1
        model.eval()
        x = torch.randn(1, 3, 5, 9, 7)
        found = model.features(x)[0].numpy()
    layers = model.convolutions
    y = slow_block(slow_block(x[0].double().numpy(), layers[0], layers[2], 1), layers[4], layers[6], 2)
    assert np.allclose(found, y.mean((1, 2, 3)), atol=1e-5)


def test_the_2d_network_is_the_3d_one_without_time():
    """Cubes with weights in the middle slice only and poolings that leave time alone see what squares see."""
    flat = network(Conv2DClassifier).eval()
    deep = network(Conv3DClassifier).eval()
    for a, b in zip(flat.convolutions, deep.convolutions):
        if isinstance(a, torch.nn.Conv2d):
            with torch.no_grad():
                b.weight.zero_()
                b.weight[:, :, 1] = a.weight
        if isinstance(a, torch.nn.MaxPool2d): b.kernel_size = b.stride = (1, 2, 2)
    deep.classify.load_state_dict(flat.classify.state_dict())
    with torch.no_grad(): assert torch.allclose(deep(clip_of()), flat(clip_of()), atol=1e-5)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('shape', [(1, 3, 1, 8, 8), (2, 3, 3, 17, 31), (2, 3, 16, 40, 40), (1, 3, 7, 1, 1)])
def test_any_length_and_size(kind, shape):
    with torch.no_grad(): scores = network(kind).eval()(torch.rand(shape))
    assert scores.shape == (shape[0], 5) and scores.isfinite().all()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999))
def test_order_matters_to_one_of_them(seed):
    clip, order = clip_of(seed=seed), torch.randperm(8, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        flat, deep = (network(kind).eval() for kind in (Conv2DClassifier, Conv3DClassifier))
        assert torch.allclose(flat(clip[:, :, order]), flat(clip), atol=1e-5)
        if order.tolist() != list(range(8)): assert not torch.allclose(deep(clip[:, :, order]), deep(clip), atol=1e-4)


@pytest.mark.parametrize('sizes', [ConvSettings(), ConvSettings(12, (8, 16, 32), 64), ConvSettings(5, (4, 8), 16), ConvSettings(2, (16,), 8)])
def test_equally_many_weights(sizes):
    flat = flat_settings(sizes)
    deep, shallow = count_weights(Conv3DClassifier, sizes), count_weights(Conv2DClassifier, flat)
    assert abs(shallow / deep - 1) < 0.05 and (flat.classes, flat.hidden, flat.dropout) == (
        sizes.classes,
        sizes.hidden,
        sizes.dropout,
    )


def test_weights_are_counted():
    assert count_weights(Conv3DClassifier, SMALL) == sum(p.numel() for p in network(Conv3DClassifier).parameters())
    assert count_weights(Conv3DClassifier, SMALL) == 3*4*27 + 2*4 + 4*8*27 + 2*8 + (8 + 1)*16 + (16 + 1)*5


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('dropout', [0., .25, .5, .75])
def test_dropout_is_off_in_eval(kind, dropout):
    """In evaluation scores are the same each time.

    In training the share of hidden units that is switched off is the one of the settings.
    """
    model = network(kind, ConvSettings(5, (4, 8), 400, dropout=dropout)).eval()
    with torch.no_grad():
        assert torch.equal(model(clip_of()), model(clip_of()))
        layer = model.train().classify[2]
        off = (layer(torch.ones(200, 400)) == 0).float().mean().item()
        assert off == pytest.approx(dropout, abs=.01)
        assert torch.equal(model.eval().classify[2](torch.ones(3, 400)), torch.ones(3, 400))


@pytest.mark.parametrize('kind', KINDS)
def test_saved_and_loaded(tmp_path, kind):
    model = network(kind).eval()
    path = save_checkpoint(tmp_path/'clip.safetensors', model, SMALL)
    again = load_model(path, {kind: ConvSettings for kind in KINDS})
    with torch.no_grad(): assert type(again) is kind and torch.equal(again(clip_of()), model(clip_of()))


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('x, words', [
    (torch.rand(3, 8, 20, 20), 'found [3, 8, 20, 20]'), (torch.rand(2, 1, 8, 20, 20), 'found [2, 1, 8, 20, 20]'),
    (torch.zeros(2, 3, 8, 20, 20, dtype=torch.int64), 'found torch.int64')])
def test_bad_clips(kind, x, words):
    with pytest.raises(ValueError) as caught: network(kind)(x)
    assert words in str(caught.value)


# --- MicroWorld


@pytest.mark.parametrize('frames, channels', [(1, 8), (2, 3), (5, 9)])
def test_shifted_channels_against_a_loop(frames, channels):
    x = torch.randn(2, frames, channels, 3, 4)
    found, part = shift_channels(x), channels//4
    for t in range(frames):
        for c in range(channels):
            source = t - 1 if c < part else t + 1 if c < 2*part else t
            expected = x[:, source, c] if 0 <= source < frames else torch.zeros(2, 3, 4)
            assert torch.equal(found[:, t, c], expected)


def test_shifted_channels_see_the_order_of_frames():
    """Unlike the flat network; a clip of one frame repeated is the same in any order."""
    torch.manual_seed(0)
    sizes, clip = ConvSettings(5, (8, 8), 16), torch.rand(1, 3, 6, 16, 16)
    model = ShiftedClassifier(sizes).eval()
    with torch.no_grad():
        assert (model(clip) - model(clip.flip(2))).abs().max() > 1e-4
        still = clip[:, :, :1].expand(-1, -1, 6, -1, -1)
        assert torch.allclose(model(still), model(still.flip(2)), atol=1e-5)
    assert count_weights(ShiftedClassifier, sizes) == count_weights(Conv2DClassifier, sizes)


def test_the_original_network_has_no_batch_normalisation():
    """Against the layers one by one."""
    model = network(C3DClassifier).eval()
    x = torch.rand(2, 3, 4, 16, 16)
    first, second = (layer for layer in model.convolutions if isinstance(layer, torch.nn.Conv3d))
    pool = torch.nn.functional.max_pool3d
    by_hand = pool(first(x).relu(), (1, 2, 2))
    by_hand = pool(second(by_hand).relu(), (2, 2, 2)).mean((2, 3, 4))
    with torch.no_grad(): assert torch.allclose(model.features(x), by_hand, atol=1e-5)
    assert not any(isinstance(layer, torch.nn.BatchNorm3d) for layer in model.modules())


def test_scores_are_the_last_layer_of_the_hidden_units():
    model = network(Conv3DClassifier).eval()
    with torch.no_grad():
        hidden, scores = model.feature_and_scores(torch.rand(2, 3, 4, 16, 16))
        assert hidden.shape == (2, 16) and torch.equal(scores, model.classify[-1](hidden))


def test_only_the_3d_network_learns_which_way_somebody_walks():
    """Walk left or right, 240 clips for training and 80 for the test.

    No frame tells, so the flat network stays near chance.
    """
    drawn = [
        action_clip(np.random.default_rng(seed), 6, 8, 20, 20, action=('walk left', 'walk right')[seed % 2]).images
        for seed in range(320)
    ]
    clips, labels = as_tensor(np.stack(drawn)).transpose(1, 2), torch.arange(320) % 2
    right = {}
    for kind in KINDS:
        sizes = ConvSettings(2, (8, 16), 16, dropout=0.)
        model = network(kind, sizes if kind is Conv3DClassifier else flat_settings(sizes))
        both = torch.cat([clips[:240], clips[:240].flip(-1)]), torch.cat([labels[:240], 1 - labels[:240]])
        loader = DataLoader([ClipBatch(*row) for row in zip(*both)], 20, shuffle=True)
        history = fit(model, loader, clip_loss, torch.optim.AdamW(model.parameters(), 3e-3), 12, progress=False)
        assert list(history.columns[:3]) == ['epoch', 'loss', 'right']
        with torch.no_grad(): right[kind] = (model(clips[240:]).argmax(1) == labels[240:]).float().mean().item()
    # eight seeds and two kinds of processors: .975 to 1 against .41 to .55
    assert right[Conv3DClassifier] > .9 and right[Conv2DClassifier] < .7


def test_the_view_fits_the_network():
    """Clips of the embedded data set go in as they are."""
    drawn = draw_all(ActionClips(MicroWorld(0), range(4), frames=6, size=24), workers=1, progress=False)
    batch = ClipBatch(torch.stack([item.clip for item in drawn]), torch.tensor([item.action for item in drawn]))
    parts = clip_loss(network(Conv3DClassifier, ConvSettings(12, (4, 8), 16)), batch)
    assert parts['loss'].isfinite() and 0 <= parts['right'] <= 1
