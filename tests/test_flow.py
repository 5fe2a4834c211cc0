"""Optical flow of shifted pictures gives the shift.

Stacks have the channels of two-stream networks; bad clips are refused.
"""
import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from microvid_nb.features.flow import (
    dis_flow, farneback_flow, flow_picture, flow_stacks, global_motion, optical_flow, two_stream_input)

METHODS = {'dis': dis_flow(), 'dis half': dis_flow(finest=1), 'farneback': farneback_flow()}


def texture(side, seed, blur=2.):
    """A smooth random picture, uint8 [side, side, 3]."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).random((side, side, 3)), (0, 0), blur)
    return cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX).round().astype(np.uint8)


def crops(corners, side=80, seed=0):
    """A clip of crops from one picture at whole pixels, so that the true displacement needs no interpolation."""
    picture = texture(side + 60, seed)
    images = np.stack([picture[y:y + side, x:x + side] for x, y in corners])
    return torch.from_numpy(images).permute(3, 0, 1, 2).contiguous()


@settings(max_examples=25, deadline=None)
@given(dx=st.integers(-5, 5), dy=st.integers(-5, 5), seed=st.integers(0, 10), method=st.sampled_from(list(METHODS)))
def test_flow_of_a_shift_is_the_shift(dx, dy, seed, method):
    clip = crops([(30, 30), (30 - dx, 30 - dy)], seed=seed)  # the window goes back, what is in it goes forth
    inner = optical_flow(clip, METHODS[method])[0, :, 14:-14, 14:-14]
    assert torch.allclose(inner.flatten(1).median(1).values, torch.tensor([float(dx), float(dy)]), atol=.08)
    if method == 'dis': assert (inner - torch.tensor([dx, dy]).view(2, 1, 1)).norm(dim=0).quantile(.9) < .25


def test_only_what_moves_has_flow():
    """A square that moves right by 2 and down by 1 pixel over a still background."""
    background, square = texture(96, 1), texture(40, 2, 1.5)
    images = np.repeat(background[None], 2, 0)
    for image, (x, y) in zip(images, ((20, 30), (22, 31))): image[y:y + 40, x:x + 40] = square
    flow = optical_flow(torch.from_numpy(images).permute(3, 0, 1, 2))[0]
    assert torch.allclose(flow[:, 38:62, 28:52].mean((1, 2)), torch.tensor([2., 1.]), atol=.1)
    assert flow[:, :16].norm(dim=0).max() < .2 and flow[:, :, 76:].norm(dim=0).max() < .2


def test_flow_brings_the_first_frame_to_the_second():
    """The second frame, read at u + dx and v + dy, is the first: the definition, for a rotation."""
    picture = texture(128, 3, 3.)
    turned = cv2.warpAffine(picture, cv2.getRotationMatrix2D((64, 64), 4, 1), (128, 128))
    flow = optical_flow(torch.from_numpy(np.stack([picture, turned])).permute(3, 0, 1, 2))[0].numpy()
    v, u = np.mgrid[:128, :128].astype(np.float32)
    back = cv2.remap(turned, u + flow[0], v + flow[1], cv2.INTER_LINEAR)
    inner = np.s_[30:-30, 30:-30]
    error = lambda image: np.abs(image[inner].astype(float) - picture[inner]).mean()
    assert error(back) < .15*error(turned)


def test_fields_are_between_successive_frames():
    clip = crops([(30, 30), (29, 30), (27, 30), (27, 33)])
    medians = optical_flow(clip)[:, :, 14:-14, 14:-14].flatten(2).median(2).values
    assert torch.allclose(medians, torch.tensor([[1., 0.], [2., 0.], [0., -3.]]), atol=.08)
    assert optical_flow(clip[:, :1]).shape == (0, 2, 80, 80)


def test_stacks_alternate_and_scale():
    """Against a slow loop over channels."""
    flow = torch.randn(14, 2, 20, 30)*3
    starts, length, limit = [0, 2, 9, 14], 10, .08*20
    stacks = flow_stacks(flow, starts, length, camera='mean')
    assert stacks.shape == (4, 20, 20, 30) and stacks.abs().max() <= 1
    for row, start in enumerate(starts):
        for k in range(length):
            for axis in range(2):
                field = flow[start + k, axis] if start + k < 14 else torch.zeros(20, 30)
                expected = (field - field.mean()).clamp(-limit, limit)/limit
                assert torch.allclose(stacks[row, 2*k + axis], expected, atol=1e-6)


def similarity_field(shift, zoom, turn, height=48, width=64):
    """The exact flow of a camera, float32 [2, H, W]: where each pixel goes under a similarity about the middle."""
    v, u = np.mgrid[:height, :width].astype(float)
    matrix = np.array([[zoom, -turn], [turn, zoom]])
    moved = np.einsum('ab,bhw->ahw', matrix, np.stack([u - width/2, v - height/2]))
    return torch.tensor(moved + np.array(shift)[:, None, None], dtype=torch.float32)


numbers = st.floats(-.08, .08)


@given(st.tuples(st.floats(-6, 6), st.floats(-6, 6)), numbers, numbers, st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_the_camera_is_found_behind_an_actor(shift, zoom, turn, seed):
    """Noise of 0.1 pixels, and an actor on 29 % of the picture, in a corner, who goes his own way."""
    camera, rng = similarity_field(shift, zoom, turn), np.random.default_rng(seed)
    field = camera + torch.tensor(rng.normal(0, .1, camera.shape), dtype=torch.float32)
    field[:, 20:, :32] += torch.tensor([5., -4.]).view(2, 1, 1)
    assert (global_motion(field[None])[0] - camera).abs().max() < .12
    assert (field.mean((1, 2), keepdim=True) - camera).abs().max() > .5     # the mean is not the camera


def test_the_camera_is_the_one_of_opencv():
    """Against RANSAC on the same points."""
    camera = similarity_field((2., -1.), .04, -.03)
    field = camera + torch.tensor(np.random.default_rng(0).normal(0, .1, camera.shape), dtype=torch.float32)
    field[:, 10:30, 20:50] += torch.tensor([-4., 3.]).view(2, 1, 1)
    v, u = np.mgrid[:48, :64].astype(np.float32)
    before = np.stack([u, v], -1).reshape(-1, 2)
    after = before + field.permute(1, 2, 0).reshape(-1, 2).numpy()
    matrix, _ = cv2.estimateAffinePartial2D(before, after, method=cv2.RANSAC, ransacReprojThreshold=.5)
    theirs = (before@matrix[:, :2].T + matrix[:, 2] - before).reshape(48, 64, 2)
    assert np.abs(global_motion(field[None])[0].permute(1, 2, 0).numpy() - theirs).max() < .1


def test_large_fields_are_fitted_on_some_of_their_pixels():
    camera = similarity_field((1., 2.), .02, .03, 200, 300)
    assert torch.allclose(global_motion(camera[None])[0], camera, atol=1e-3)


def test_an_actor_who_comes_nearer_is_seen_before_a_camera_that_zooms():
    """What is left points away from the middle of the actor, and nowhere else."""
    field = similarity_field((0., 0.), .06, 0.)
    v, u = torch.meshgrid(torch.arange(48.), torch.arange(64.), indexing='ij')
    out = torch.stack([u - 20, v - 24])
    there = out.norm(dim=0) < 12
    steady = flow_stacks((field + .1*out*there)[None], [0], 1, bound=1.)[0]*48
    assert (steady*out).sum(0)[there].min() > -1e-3 and steady[:, ~there].norm(dim=0).max() < .1
    assert torch.allclose(steady[:, there], .1*out[:, there], atol=.1)


def test_a_moving_camera_is_taken_off():
    flow = torch.randn(10, 2, 16, 16)
    moved = flow + torch.tensor([3., -1.]).view(2, 1, 1)
    for camera in ('mean', 'similarity'):
        assert torch.allclose(flow_stacks(flow, [0], camera=camera), flow_stacks(moved, [0], camera=camera), atol=1e-4)
    plain, shifted = (flow_stacks(x, [0], camera=None) for x in (flow, moved))
    assert not torch.allclose(plain, shifted, atol=.1)


@pytest.mark.parametrize('frames, moments', [(1, 1), (1, 3), (2, 2), (5, 1), (11, 4), (16, 3), (40, 25)])
def test_any_length_gives_the_input_of_two_streams(frames, moments):
    clip = crops([(k % 20, 30) for k in range(frames)])
    pictures, stacks = two_stream_input(clip, moments)
    assert pictures.shape == (moments, 3, 80, 80) and pictures.dtype == torch.uint8
    assert stacks.shape == (moments, 20, 80, 80) and stacks.isfinite().all()
    assert torch.equal(pictures[0], clip[:, 0])
    if frames < 12: assert torch.equal(stacks[:, 2*(frames - 1):], torch.zeros_like(stacks[:, 2*(frames - 1):]))  # past the end nothing moves
    else: assert torch.equal(pictures[-1], clip[:, frames - 11] if moments > 1 else clip[:, 0])


def test_picture_of_a_field():
    flow = torch.zeros(2, 3, 3)
    flow[0, 0, 0], flow[0, 1, 1], flow[0, 2, 2] = 2., -2., 1.
    picture = flow_picture(flow)
    assert (
        picture[0, 0].tolist() == [255, 0, 0]
        and picture[1, 1].tolist() == [0, 255, 255]
        and picture[2, 2].tolist() == [128, 0, 0]
    )
    assert not flow_picture(torch.zeros(2, 4, 4)).any()


@pytest.mark.parametrize('clip, words', [
    (torch.zeros(3, 2, 32, 32), 'expected a uint8 clip [3, T, H, W], found torch.float32 [3, 2, 32, 32]'),
    (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), 'found torch.uint8 [2, 3, 32, 32]'),
    (torch.zeros(1, 3, 2, 32, 32, dtype=torch.uint8), 'found torch.uint8 [1, 3, 2, 32, 32]'),
    (torch.zeros(3, 2, 15, 64, dtype=torch.uint8), 'at least 16 x 16 pixels, found 64 x 15')])
def test_bad_clips(clip, words):
    with pytest.raises(ValueError) as caught: optical_flow(clip)
    assert words in str(caught.value)


def test_bad_starts():
    with pytest.raises(ValueError, match='stacks begin at frames 0 to 4, not'):
        flow_stacks(torch.zeros(4, 2, 16, 16), [5])


def test_bad_cameras():
    with pytest.raises(ValueError, match="no camera 'tripod'; there are similarity and mean"):
        flow_stacks(torch.zeros(4, 2, 16, 16), [0], camera='tripod')
