"""MK-MMD forward and backward, 128 + 128 points of 4096 numbers, 5 kernels, against the form that keeps all pairwise
differences.

That form is the one of public transfer-learning libraries: the differences of all pairs of the joint sample, [256,
256, 4096].
"""
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from microvid_nb.thumbnail.mkmmd import heuristic_bandwidths, mk_mmd

POINTS, WIDTH = 128, 4096


@pytest.fixture(scope='module')
def samples():
    """Source and target, float32, and five bandwidths."""
    generator = torch.Generator().manual_seed(0)
    source, target = (
        torch.randn(POINTS, WIDTH, generator=generator),
        torch.randn(POINTS, WIDTH, generator=generator) + 0.05,
    )
    return source.requires_grad_(), target.requires_grad_(), heuristic_bandwidths(source, target)


def by_differences(source, target, bandwidths):
    """The biased estimate with all differences at once."""
    points, n = torch.cat([source, target]), len(source)
    distances = (points[None] - points[:, None]).square().sum(2)
    kernel = sum(torch.exp(-distances/bandwidth) for bandwidth in bandwidths)/len(bandwidths)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2*kernel[:n, n:].mean()


def by_products(source, target, bandwidths):
    return mk_mmd(source, target, bandwidths, unbiased=False)


def value_and_gradients(function, source, target, bandwidths):
    value = function(source, target, bandwidths)
    return value.detach(), *torch.autograd.grad(value, (source, target))


@pytest.mark.parametrize('side', ['peer', 'ours'])
def test_mk_mmd(benchmark, samples, side):
    benchmark.extra_info.update(
        work='MK-MMD forward and backward, 128 + 128 points of 4096, 5 kernels',
        peer='all differences, [256, 256, 4096]',
        side=side,
        at_least=500,
    )
    if side == 'ours':
        benchmark.pedantic(value_and_gradients, (by_products, *samples), rounds=30, warmup_rounds=3)
    else:
        expected = benchmark.pedantic(value_and_gradients, (by_differences, *samples), rounds=3, warmup_rounds=1)
        for found, wanted in zip(value_and_gradients(by_products, *samples), expected):
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6)


CODE = r'''
import re, sys, torch
from microvid_nb.thumbnail.mkmmd import mk_mmd
memory = lambda name: int(re.search(name + r':\s+(\d+)', open('/proc/self/status').read())[1])/1024
n, width = int(sys.argv[1]), int(sys.argv[2])
source, target = torch.randn(n, width, requires_grad=True), torch.randn(n, width, requires_grad=True)
mk_mmd(source[:4, :8], target[:4, :8]).backward()
before = memory('VmRSS')
mk_mmd(source, target).backward()
print(memory('VmHWM') - before)
'''


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='peak memory is read from /proc')
@pytest.mark.parametrize('points', [256, 512, 1024, 2048])
def test_memory(benchmark, points):
    """Beyond its input it takes O(n^2 + nd): some copies of the samples and of the kernels, never n*n*d."""
    taken = float(
        subprocess.run(
            [sys.executable, '-c', CODE, str(points), str(WIDTH)], capture_output=True, text=True, check=True
        ).stdout
    )
    samples, kernels = 2*points*WIDTH*4/2**20, 5*(2*points)**2*4/2**20
    differences = (2 * points) ** 2 * WIDTH * 4 / 2**20
    benchmark.extra_info.update(
        memory=f'MK-MMD and gradients beyond its input, {points} + {points} points of {WIDTH} '
               f'(all differences: {differences:,.0f} MB)',
        megabytes=taken,
        limit=12 * (samples + kernels),
        series='MK-MMD',
        n=points,
        unit='points',
    )
    benchmark.pedantic(lambda: None)
    assert taken < 12*(samples + kernels)
