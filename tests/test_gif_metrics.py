"""PME against a cone solver and its own geometry, PS against the real counts, the CTR table against hand and
formula.
"""
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from microvid_nb.data.files import real_folder
from microvid_nb.data.gif_thumbnails import load_gif_thumbnails
from microvid_nb.gif.matching import closest_disjoint_match
from microvid_nb.gif.metrics import ctr_table, gif_matching_error, perceptual_matching_error, posterior_score
from microvid_nb.gif.projection import voronoi_projection

SHAPES = [(1, 3), (2, 2), (5, 2), (40, 2), (300, 3), (30, 30), (20, 60), (60, 20), (10, 200), (100, 100)]
KINDS = ['plain', 'whole numbers', 'flat', 'scales', 'repeated']


def drawn_problem(seed: int):
    """A problem of some shape, kind and scale: shots, a feature, its target."""
    rng = np.random.default_rng(seed)
    n, d = SHAPES[seed % len(SHAPES)]
    kind = KINDS[seed // len(SHAPES) % len(KINDS)]
    shots = rng.standard_normal((n, d))*2
    if kind == 'whole numbers':
        shots = np.round(shots)
    if kind == 'flat':
        shots[:, d//2:] = 1   # rank-deficient
    if kind == 'scales':
        shots *= 10**rng.uniform(-3, 3, (n, 1))
    if kind == 'repeated':
        shots = shots[rng.integers(n, size=n)]
    y = int(rng.integers(n))
    g = shots[rng.integers(n)] + rng.standard_normal(d)*10**rng.uniform(-2, 1)
    if kind == 'whole numbers':
        g = np.round(g)
    scale = [1, 1e6, 1e-6][seed % 3]
    return shots*scale, g*scale, y


def project(g, shots, y):
    return voronoi_projection(torch.tensor(g)[None], torch.tensor(shots), torch.tensor([y]))


def cone_program(cp, g, shots, y):
    """Eq. 8 as CVXPY takes it, its constraints squared (and so linear), in units of the distance from g to its
    target.
    """
    h, normal = g - shots[y], shots - shots[y]
    distance = np.linalg.norm(normal, axis=1)
    normal, distance = normal[distance > 0], distance[distance > 0]
    size = np.linalg.norm(h)
    if not len(normal) or not size:
        return 0.
    normal, v = normal/distance[:, None], cp.Variable(len(g))
    problem = cp.Problem(cp.Minimize(cp.norm(v)), [normal @ v <= distance/2/size - normal @ (h/size)])
    return problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)


@pytest.mark.parametrize('seed', range(30))
@pytest.mark.filterwarnings('ignore:Solution may be inaccurate')
def test_against_a_cone_solver(seed):
    cp = pytest.importorskip('cvxpy', reason='CVXPY, of the dev extra, is not installed')
    pytest.importorskip('clarabel', reason='Clarabel, of the dev extra, is not installed')
    shots, g, y = drawn_problem(seed)
    found = project(g, shots, y)
    assert found.error.item() == pytest.approx(cone_program(cp, g, shots, y), abs=1e-6)
    assert 0 <= found.gap.item() <= 1e-8 and found.active.item() <= min(len(shots) - 1, len(g))


@pytest.mark.parametrize('seed', range(30))
def test_the_landing_point_is_on_the_border_of_the_cell(seed):
    shots, g, y = drawn_problem(seed)
    found, size = project(g, shots, y), np.linalg.norm(g - shots[y])
    v = found.moves[0].numpy()
    assert found.error.item()*size == pytest.approx(np.linalg.norm(v), rel=1e-12, abs=1e-300)
    # how much nearer another shot is
    lead = lambda point: np.linalg.norm(point - shots[y]) - np.linalg.norm(point - shots, axis=1).min()
    assert lead(g + v) <= 1e-12*size + 1e-14*np.abs(shots).max()
    assert (found.error.item() == 0) == (lead(g) <= 1e-12*size)
    if found.error.item():
        assert lead(g + .999*v) > 0
        assert found.active.item() >= 1


def test_zero_exactly_where_the_matched_shot_is_the_target():
    generator = torch.Generator().manual_seed(0)
    shots, generated = torch.randn(30, 4, generator=generator), torch.randn(3000, 4, generator=generator)
    targets = torch.randint(30, (3000,), generator=generator)
    error = perceptual_matching_error(generated, shots, targets)
    matched = closest_disjoint_match(generated[:, None], shots)[:, 0] == targets
    assert matched.any() and torch.equal(error == 0, matched)
    assert error.max() <= 1
    right = closest_disjoint_match(generated[:, None], shots)[:, 0]
    assert not perceptual_matching_error(generated, shots, right).any()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 12), st.floats(-6, 6), st.floats(-20, 20))
def test_invariances(seed, n, d, exponent, shift):
    """Shifting, turning and scaling everything leaves PME as it is, and turns the moves along."""
    generator = torch.Generator().manual_seed(seed)
    shots, generated = (
        torch.randn(n, d, generator=generator).double(),
        torch.randn(5, d, generator=generator).double() * 2,
    )
    targets, scale = torch.randint(n, (5,), generator=generator), 10**exponent
    turn = torch.linalg.qr(torch.randn(d, d, generator=generator).double())[0]
    found = voronoi_projection(generated, shots, targets)
    changed = voronoi_projection((generated @ turn + shift)*scale, (shots @ turn + shift)*scale, targets)
    torch.testing.assert_close(changed.error, found.error, rtol=0, atol=1e-11)
    torch.testing.assert_close(changed.moves/scale, found.moves @ turn, rtol=0, atol=1e-10)
    assert max(found.gap.max(), changed.gap.max()) < 1e-11 and found.error.max() <= 1


@pytest.mark.parametrize('difference', [1e-3, 1e-5, 1e-7, 1e-9, 1e-11, 1e-13])
@pytest.mark.parametrize('offset', [0, 100])
def test_shots_that_are_almost_the_same(difference, offset):
    """Also far from the origin, where products of features say nothing about their differences."""
    rng = np.random.default_rng(0)
    shots = np.repeat(rng.standard_normal((10, 64)), 6, 0) + difference*rng.standard_normal((60, 64)) + offset
    targets, generated = torch.tensor(rng.integers(60, size=40)), torch.tensor(rng.standard_normal((40, 64)) + offset)
    found = voronoi_projection(generated, torch.tensor(shots), targets)
    assert found.gap.max() < 1e-8
    landed = generated + found.moves
    away = torch.linalg.vector_norm(landed[:, None] - torch.tensor(shots), dim=-1)
    assert (away[range(40), targets] - away.min(1).values <= 1e-12*(1 + offset)).all()


def test_many_active_constraints():
    """From the far side of a sphere, the constraints of nearly all other shots are active."""
    rng = np.random.default_rng(0)
    shots = rng.standard_normal((80, 200))
    shots /= np.linalg.norm(shots, axis=1, keepdims=True)
    found = voronoi_projection(torch.tensor(-3*shots[:4]), torch.tensor(shots), torch.arange(4))
    assert found.active.min() > 60 and found.gap.max() < 1e-12


@pytest.mark.parametrize('d', [1, 2, 3])
def test_more_shots_than_dimensions(d):
    rng = np.random.default_rng(d)
    shots, generated = torch.tensor(rng.standard_normal((500, d))), torch.tensor(rng.standard_normal((200, d))*3)
    found = voronoi_projection(generated, shots, torch.tensor(rng.integers(500, size=200)))
    assert found.active.max() <= d and found.gap.max() < 1e-12 and found.error.min() >= 0


def test_degenerate_cases():
    shots = torch.tensor([[0., 0], [4, 0], [0, 0], [0, 0]])
    error = perceptual_matching_error(
        torch.tensor([[1.0, 5], [0, 0], [4, 0], [4, 0]]), shots, torch.tensor([2, 3, 1, 0])
    )
    assert error.tolist() == [0, 0, 0, .5]   # in the cell of three identical shots; g = x_y twice; straight across
    assert error.dtype == torch.float64
    assert perceptual_matching_error(torch.ones(2, 2), torch.zeros(1, 2), torch.tensor([0, 0])).tolist() == [0, 0]
    assert perceptual_matching_error(torch.ones(2, 2), torch.zeros(5, 2), torch.tensor([0, 4])).tolist() == [0, 0]
    empty = voronoi_projection(torch.zeros(0, 3), torch.zeros(4, 3), torch.zeros(0, dtype=torch.int64))
    assert [tuple(part.shape) for part in empty] == [(0, 3), (0,), (0,), (0,)]
    on_the_border = perceptual_matching_error(torch.tensor([[2., 7]]), shots[:2], torch.tensor([0]))
    assert on_the_border.tolist() == [0]
    for scale in (1e-300, 1e-30, 1e30, 1e300):
        assert perceptual_matching_error(
            torch.tensor([[3.0, 4]]).double() * scale, shots[:2].double() * scale, torch.tensor([0])
        ).item() == pytest.approx(0.2)


def test_large_batches_go_in_pieces():
    generator = torch.Generator().manual_seed(0)
    shots, generated = torch.randn(10, 3, generator=generator), torch.randn(9000, 3, generator=generator)
    targets = torch.randint(10, (9000,), generator=generator, dtype=torch.int32)
    error = perceptual_matching_error(generated, shots, targets)
    assert torch.equal(error[-5:], perceptual_matching_error(generated[-5:], shots, targets[-5:]))


@pytest.mark.parametrize('change, message', [
    (dict(targets=torch.tensor([0, 5])), 'targets from 0 to 3, found 5 in row 1'),
    (dict(targets=torch.tensor([-1, 0])), 'targets from 0 to 3, found -1 in row 0'),
    (dict(targets=torch.tensor([0])), r'each of 2 features, found torch.int64 \[1\]'),
    (dict(targets=torch.tensor([True, False])), 'found torch.bool'),
    (dict(generated=torch.tensor([[0., 0], [torch.nan, 0]])), r'generated features, found nan in row \[1\]'),
    (dict(shots=torch.tensor([[0., 0], [0, 0], [0, torch.inf], [0, 0]])), r'shots, found inf in row \[2\]'),
    (dict(shots=torch.zeros(0, 2)), r'found \[2, 2\] and \[0, 2\]'),
])
def test_bad_input_of_pme(change, message):
    given_input = dict(generated=torch.ones(2, 2), shots=torch.zeros(4, 2), targets=torch.tensor([0, 1])) | change
    for metric in (perceptual_matching_error, voronoi_projection):
        with pytest.raises(ValueError, match=message):
            metric(**given_input)


def test_best_of_the_annotated_gifs():
    generator = torch.Generator().manual_seed(3)
    shots, generated = torch.randn(25, 6, generator=generator), torch.randn(2, 4, 3, 6, generator=generator)
    gifs = torch.tensor([[1, 2, 3], [20, 4, 4], [0, 24, 7]])
    slow = [
        [
            min(
                np.mean([perceptual_matching_error(g[None], shots, y[None]).item() for g, y in zip(sample, gif)])
                for gif in gifs
            )
            for sample in row
        ]
        for row in generated
    ]
    np.testing.assert_allclose(gif_matching_error(generated, shots, gifs), slow, atol=1e-14)
    with pytest.raises(ValueError, match=r'annotated GIF of 3 shots, found \[3, 2\]'):
        gif_matching_error(generated, shots, gifs[:, :2])
    with pytest.raises(ValueError, match=r'found \[0, 3\]'):
        gif_matching_error(generated, shots, gifs[:0])


def test_posterior_score_by_hand():
    assert posterior_score([0, 1, 2], [2, 4, 1, 8]).item() == pytest.approx(7/8)
    assert posterior_score(torch.tensor([[[3, 3, 3]]]), np.array([2, 4, 1, 8])).tolist() == [[3]]
    # beyond the list there are no comments
    assert posterior_score([[0, 1, 9], [4, 5, 6]], [2, 4, 1, 8]).tolist() == [.75, 0]
    assert posterior_score([0, 1, 2], [0, 0, 0]).item() == posterior_score([0, 1, 2], []).item() == 0
    assert posterior_score([[0, 1, 2], [0, 3, 1]], [2, 4, 1, 8]).max() == 14/8


@pytest.mark.parametrize('gif, counts, message', [
    ([0, 1, -2], [1, 2], 'seconds from 0, found -2'),
    ([0, 1.5, 2], [1, 2], 'whole seconds'),
    ([0, 1, 2], [[1, 2]], r'counts \[n\]'),
    ([0, 1, 2], [1, np.nan, 2], 'found nan at second 1'),
    ([0, 1, 2], [1, 2, -1], 'found -1.0 at second 2'),
])
def test_bad_input_of_ps(gif, counts, message):
    with pytest.raises(ValueError, match=message):
        posterior_score(gif, counts)


def test_posterior_scores_of_the_real_annotations():
    folder = real_folder('gif_thumbnails')
    if folder is None:
        pytest.skip('the real annotations are not here: name their folder in MICROVID_DATA')
    real, rng = load_gif_thumbnails(folder), np.random.default_rng(0)
    random, best = [], []
    for key, gifs in real.gifs.groupby('key'):
        counts = real.counts[key]
        if counts.any():
            triples = rng.permuted(np.tile(np.arange(len(counts)), (50, 1)), axis=1)[:, :3]
            random.append(posterior_score(triples, counts).mean().item())
            best.append(posterior_score(gifs[['shot1', 'shot2', 'shot3']].to_numpy(), counts).max().item())
    assert np.mean(random) == pytest.approx(.90, abs=.01)
    assert np.mean(best) == pytest.approx(1.75, abs=.01)


def drawn_log(rng, videos=300, lift=1.2):
    appeal = rng.beta(2, 20, videos)
    rows = []
    for method, factor in (('raw', 1), ('GIF', lift)):
        impressions = rng.integers(500, 3000, videos)
        rows.append(
            pd.DataFrame(
                {
                    'method': method,
                    'video': np.arange(videos),
                    'impressions': impressions,
                    'clicks': rng.binomial(impressions, np.minimum(1, appeal * factor)),
                }
            )
        )
    return pd.concat(rows, ignore_index=True)


def test_ctr_table_by_hand():
    log = pd.DataFrame(
        {
            'method': ['raw', 'raw', 'GIF', 'raw', 'GIF'],
            'video': ['a', 'b', 'a', 'a', 'b'],
            'impressions': [10, 20, 40, 10, 10],
            'clicks': [1, 4, 8, 3, 3],
        }
    )
    table = ctr_table(log)
    assert list(table.index) == ['raw', 'GIF'] and list(table.columns) == [
        'mPV',
        'mClick',
        'mCTR',
        'improvement',
        'low',
        'high',
    ]
    np.testing.assert_allclose(table.loc['raw'], [20, 4, .2, 0, 0, 0])
    np.testing.assert_allclose(table.loc['GIF', :'improvement'], [25, 5.5, .25, 25])
    # video a twice: 4/20 to 8/40; b twice: 4/20 to 3/10
    np.testing.assert_allclose(table.loc['GIF', ['low', 'high']], [0, 50], atol=1e-12)


def test_ctr_interval_covers_and_is_that_of_the_delta_method():
    covered = []
    for seed in range(40):
        log = drawn_log(np.random.default_rng(seed))
        gif = ctr_table(log, rounds=400, seed=seed).loc['GIF']
        covered.append(gif.low <= 20 <= gif.high)
    assert np.mean(covered) >= .85
    rates = (log.clicks/log.impressions).to_numpy().reshape(2, -1)
    ratio = rates[1].mean()/rates[0].mean()
    deviation = 100*np.std(rates[1] - ratio*rates[0])/rates[0].mean()/len(rates[0])**.5
    gif = ctr_table(log).loc['GIF']
    assert (gif.high - gif.low)/(2*1.96*deviation) == pytest.approx(1, abs=.1)


def test_ctr_is_seeded_and_pairs_videos():
    log = drawn_log(np.random.default_rng(0))
    pd.testing.assert_frame_equal(
        ctr_table(log, seed=1),
        ctr_table(log.sample(frac=1, random_state=0).sort_values('method', ascending=False), seed=1),
    )
    assert not ctr_table(log, seed=1).equals(ctr_table(log, seed=2))
    apart = log.assign(video=[f'{method} {video}' for method, video in zip(log.method, log.video)])
    width = lambda table: table.loc['GIF', 'high'] - table.loc['GIF', 'low']
    assert 3*width(ctr_table(log)) < width(ctr_table(apart))
    np.testing.assert_allclose(ctr_table(apart).improvement, ctr_table(log).improvement)


@pytest.mark.parametrize('change, message', [
    (dict(clicks=[5, 1]), 'found 5 clicks of 4 impressions in row 0'),
    (dict(clicks=[1, -1]), 'found -1 clicks'),
    (dict(impressions=[4, 0], clicks=[0, 0]), 'found 0 clicks of 0 impressions in row 1'),
    (dict(impressions=[4, np.nan]), 'missing value in row 1'),
    (dict(video=[None, 1]), 'missing value in row 0'),
    (dict(impressions=[4, np.inf]), 'inf impressions in row 1'),
])
def test_bad_logs(change, message):
    log = pd.DataFrame({'method': ['a', 'b'], 'video': [1, 1], 'impressions': [4, 5], 'clicks': [1, 1]})
    with pytest.raises(ValueError, match=message):
        ctr_table(log.assign(**change))
    with pytest.raises(ValueError, match='expected a column impressions, found method, video, clicks'):
        ctr_table(log.drop(columns='impressions'))
    with pytest.raises(ValueError, match='found none'):
        ctr_table(log[:0])
