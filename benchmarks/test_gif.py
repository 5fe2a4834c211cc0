"""Disjoint matching and PME at the paper's size, 300 shots of 2048 features, against general solvers one problem at a
time.

A side that solves several problems in a call, or a peer too slow for all of them, says how many it solves: ratios are
for one problem.
"""
import subprocess
import sys
from pathlib import Path

import cvxpy as cp
import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from microvid_nb.gif.gevaden import GEVADEN
from microvid_nb.gif.matching import CHUNK, closest_disjoint_match
from microvid_nb.gif.metrics import perceptual_matching_error
from microvid_nb.gif.projection import voronoi_projection

SHOTS, WIDTH, SAMPLES, BATCH = 300, 2048, 10_000, 64


@pytest.fixture(scope='module')
def video():
    """Features of a video's shots and of generated ones, float32."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(SHOTS, WIDTH, generator=generator), torch.randn(SAMPLES, 3, WIDTH, generator=generator)


def assign_by_differences(generated, shots):
    """Eq. 4 as it is written, a sample at a time, in float64."""
    return [linear_sum_assignment(np.linalg.norm(sample[:, None] - shots, axis=-1))[1] for sample in generated]


def assign_by_cdist(generated, shots):
    """The same with SciPy's compiled distances."""
    return [linear_sum_assignment(cdist(sample, shots))[1] for sample in generated]


def match_one_by_one(generated, shots):
    """Our own function, a call for each sample."""
    return [closest_disjoint_match(sample, shots) for sample in generated]


PEERS = {
    'linear_sum_assignment, NumPy differences': assign_by_differences,
    'linear_sum_assignment, SciPy cdist': assign_by_cdist,
    'a call for each sample': match_one_by_one,
}


@pytest.mark.parametrize('peer', PEERS)
@pytest.mark.parametrize('side', ['peer', 'ours'])
def test_matching(benchmark, video, peer, side):
    shots, generated = video
    few = 100
    benchmark.extra_info.update(
        work=f'disjoint matching of 10,000 samples, against {peer}',
        peer=peer,
        side=side,
        problems=few if side == 'peer' else SAMPLES,
        at_least=50 if peer.startswith('linear_sum_assignment') else None,
    )
    if side == 'ours':
        benchmark.pedantic(closest_disjoint_match, (generated, shots), rounds=5, warmup_rounds=1)
    elif peer == 'a call for each sample':
        benchmark.pedantic(match_one_by_one, (generated[:few], shots), rounds=5, warmup_rounds=1)
    else:
        found = benchmark.pedantic(
            PEERS[peer], (generated[:few].double().numpy(), shots.double().numpy()), rounds=5, warmup_rounds=1
        )
        assert torch.equal(torch.tensor(np.array(found)), closest_disjoint_match(generated[:few], shots))


def sample_and_match(model, shots, samples, at_once):
    """GIFs for samples of the prior, some at a time."""
    return torch.cat([closest_disjoint_match(model.sample(shots, at_once), shots) for _ in range(samples // at_once)])


@pytest.mark.parametrize('peer', ['a sample among 1,000', 'a call for each sample'])
@pytest.mark.parametrize('side', ['peer', 'ours'])
def test_sampling_and_matching(benchmark, video, peer, side):
    shots, model = video[0], GEVADEN().eval()
    samples, at_once = (SAMPLES, 1000) if side == 'ours' else (1000, 1000) if '1,000' in peer else (10, 1)
    benchmark.extra_info.update(
        work=f'GEVADEN, sampling and matching 10,000, against {peer}', peer=peer, side=side, problems=samples
    )
    benchmark.pedantic(sample_and_match, (model, shots, samples, at_once), rounds=3, warmup_rounds=1)


def solve_cone_program(generated, shots, target):
    """PME of one feature as a cone program (Eq. 8, its constraints squared and so linear)."""
    h, normal = generated - shots[target], np.delete(shots, target, 0) - shots[target]
    v = cp.Variable(len(h))
    problem = cp.Problem(cp.Minimize(cp.norm(v)/np.linalg.norm(h)), [normal @ v <= (normal**2).sum(1)/2 - normal @ h])
    return problem.solve(solver=cp.CLARABEL)


@pytest.mark.parametrize('side', ['peer', 'ours'])
def test_perceptual_matching_error(benchmark, video, side):
    shots, _ = video
    rng = np.random.default_rng(0)
    targets = torch.tensor(rng.integers(SHOTS, size=BATCH))
    generated = torch.stack([shots[rng.integers(SHOTS, size=4)].mean(0) for _ in range(BATCH)]) + 0.1 * torch.tensor(
        rng.standard_normal((BATCH, WIDTH)), dtype=torch.float32
    )
    benchmark.extra_info.update(
        work='PME, 300 shots of 2048 features, batch of 64',
        peer='CVXPY + Clarabel, one by one',
        side=side,
        problems=1 if side == 'peer' else BATCH,
        at_least=5000,
    )
    if side == 'ours':
        benchmark.pedantic(perceptual_matching_error, (generated, shots, targets), rounds=15, warmup_rounds=2)
    else:
        numbers = iter(range(3))
        solved = []
        benchmark.pedantic(
            lambda i: solved.append(
                solve_cone_program(generated[i].double().numpy(), shots.double().numpy(), targets[i].item())
            ),
            setup=lambda: ((next(numbers),), {}),
            rounds=3,
        )
        found = voronoi_projection(generated[:3], shots, targets[:3])
        np.testing.assert_allclose(solved, found.error, atol=1e-6)
        assert found.gap.max() <= 1e-8


CODE = r'''
import re, sys, torch
from microvid_nb.gif.matching import closest_disjoint_match
memory = lambda name: int(re.search(name + r':\s+(\d+)', open('/proc/self/status').read())[1])/1024
shots, generated = torch.randn(300, 2048), torch.randn(int(sys.argv[1]), 3, 2048)
closest_disjoint_match(generated[:2], shots)
before = memory('VmRSS')
closest_disjoint_match(generated, shots)
print(memory('VmHWM') - before)
'''


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='peak memory is read from /proc')
@pytest.mark.parametrize('samples', [1000, SAMPLES, 3*SAMPLES])
def test_memory_is_steady(benchmark, samples):
    """Beyond its input matching takes some copies of `CHUNK` numbers for each thread, however many samples there are:
    all distances of 30,000 are 108 MB.
    """
    taken = float(
        subprocess.run([sys.executable, '-c', CODE, str(samples)], capture_output=True, text=True, check=True).stdout
    )
    limit = 3*8*CHUNK*torch.get_num_threads()/2**20
    benchmark.extra_info.update(
        memory=f'disjoint matching beyond its input, {samples:,} samples',
        megabytes=taken,
        limit=limit,
        series='disjoint matching',
        n=samples,
        unit='samples',
    )
    benchmark.pedantic(lambda: None)
    assert taken < limit
