"""The methods that DARE is compared with: sparse codes against scikit-learn, the tree against hand-worked values,
closed forms against gradients.
"""
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from sklearn.decomposition import sparse_encode
from torch.autograd import gradcheck

from microvid_nb.data.files import real_folder
from microvid_nb.data.vine import VenueTree, find_parents, read_venue_tree
from microvid_nb.venue.baselines import AlexNetFusion, DefaultVenue, FusionSettings
from microvid_nb.venue.dictionaries import (
    D3L, MDL, MTDL, DictionarySettings, joint_codes, shorten, slope_derivative, solve_codes)
from microvid_nb.venue.tree import (
    TRUMANN, TRUMANNSettings, best_space, best_tasks, group_affinity, group_norms, tree_penalty, weigh_tree, world_tree)
from microvid_nb.venue.videos import gather_videos, pick_rows

torch.set_num_threads(1)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def videos(n, seed=0, venues=4):
    source = torch.Generator().manual_seed(seed)
    centres = 1.5 * torch.randn(venues, 14, generator=torch.Generator().manual_seed(50))
    venue = torch.multinomial(torch.arange(venues, 0, -1.), n, replacement=True, generator=source)
    x = centres[venue] + torch.randn(n, 14, generator=source)
    return gather_videos(x[:, :7], x[:, 7:11], x[:, 11:], venue, torch.rand(n, 3, generator=source) < .9)


def a_tree(venues=4):
    groups = np.concatenate([[[True, True, False, False], [False, False, True, True]], np.eye(4, dtype=bool)])[
        :, :venues
    ]
    return VenueTree(groups, np.ones(6), find_parents(groups))


# ---- sparse codes

@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('sparsity', [.05, .3, 1.])
def test_codes_of_one_modality_are_scikit_learns(seed, sparsity):
    atoms = torch.nn.functional.normalize(numbers(9, 15, seed=seed), dim=0)
    x = numbers(5, 9, seed=seed + 10)
    ours = solve_codes((atoms.T @ atoms)[None], (x @ atoms)[:, None], torch.ones(5, 1), sparsity, 0.0, 1e-11, 20_000)[
        :, 0
    ]
    theirs = sparse_encode(x.numpy(), atoms.T.numpy(), algorithm='lasso_cd', alpha=sparsity, max_iter=1_000_000)
    def objective(codes): return .5 * (x - codes @ atoms.T).square().sum(1) + sparsity * codes.abs().sum(1)
    assert torch.allclose(objective(ours), objective(torch.from_numpy(theirs)), rtol=1e-4)
    assert (objective(ours) <= objective(torch.from_numpy(theirs)) * (1 + 1e-6)).all()


@pytest.mark.parametrize('seed', range(3))
def test_the_elastic_net_is_a_lasso_of_a_longer_dictionary(seed):
    atoms, x = numbers(6, 8, seed=seed), numbers(4, 6, seed=seed + 10)
    ours = joint_codes([x], [atoms], torch.ones(4, 1, dtype=bool), .4, .3, 1e-11)[:, 0]
    longer = torch.cat([atoms, .3 ** .5 * torch.eye(8, dtype=torch.float64)])
    theirs = sparse_encode(
        torch.cat([x, torch.zeros(4, 8)], 1).numpy(),
        longer.T.numpy(),
        algorithm='lasso_cd',
        alpha=0.4,
        max_iter=1_000_000,
    )
    assert np.abs(ours.numpy() - theirs).max() < 2e-3


@given(st.integers(0, 10_000), st.floats(.05, 2), st.floats(.01, 1))
@settings(max_examples=25, deadline=None)
def test_no_other_codes_are_better(seed, sparsity, ridge):
    dictionaries, blocks = (
        [numbers(5, 6, seed=seed), numbers(4, 6, seed=seed + 1)],
        [numbers(3, 5, seed=seed + 2), numbers(3, 4, seed=seed + 3)],
    )
    there = torch.tensor([[True, True], [True, False], [False, False]])
    codes = joint_codes(blocks, dictionaries, there, sparsity, ridge, 1e-9)

    def objective(codes):
        fit = sum(
            0.5 * there[:, m] * (x - codes[:, m] @ d.T).square().sum(1)
            for m, (x, d) in enumerate(zip(blocks, dictionaries))
        )
        return fit + sparsity * codes.norm(dim=1).sum(1) + ridge / 2 * codes.square().sum((1, 2))
    best = objective(codes)
    for scale in (1e-3, 1e-1):
        for k in range(10):
            assert (objective(codes + scale * numbers(3, 2, 6, seed=seed + k)) >= best - 1e-9).all()
    assert not codes[1, 1].any() and not codes[2].any()
    assert torch.equal(codes[0, 0] != 0, codes[0, 1] != 0)


@pytest.mark.check
def test_gradients_through_codes_are_those_of_finite_differences():
    first, second = numbers(9, 7).requires_grad_(), numbers(5, 7, seed=1).requires_grad_()
    x, y = numbers(3, 9, seed=2).requires_grad_(), numbers(3, 5, seed=3).requires_grad_()
    there = torch.tensor([[True, True], [True, False], [True, True]])
    assert gradcheck(lambda *p: joint_codes(p[:2], p[2:], there, .8, .1, 1e-12), (x, y, first, second))
    assert gradcheck(lambda *p: joint_codes(p[:1], p[1:], there[:, :1], .5, .2, 1e-12), (x, first))


def test_the_derivative_of_the_slope_is_that_of_autograd():
    dictionaries = [numbers(5, 4), numbers(6, 4, seed=1)]
    gram = torch.stack([d.T @ d for d in dictionaries])
    codes, present = numbers(1, 2, 4, seed=2), torch.ones(1, 2, dtype=torch.float64)
    codes[:, :, 1] = 0

    def objective(used):
        whole = torch.stack(
            [torch.cat([row[:1], torch.zeros(1, dtype=torch.float64), row[1:]]) for row in used.view(2, 3)]
        )
        return (
            0.5 * torch.einsum('mp,mpq,mq->', whole, gram, whole)
            + 0.7 * used.view(2, 3).norm(dim=0).sum()
            + 0.1 / 2 * whole.square().sum()
        )
    kept = [0, 2, 3]
    expected = torch.autograd.functional.hessian(objective, codes[0][:, kept].flatten())
    rows = [m * 4 + p for m in range(2) for p in kept]
    found = slope_derivative(codes, gram, present, .7, .1)[0]
    assert torch.allclose(found[rows][:, rows], expected, atol=1e-10)
    assert torch.equal(found[[1, 5]], torch.eye(8, dtype=torch.float64)[[1, 5]])


def test_shortening_by_hand():
    codes = torch.tensor([[[3., 0.3], [4., 0.4]]])
    assert torch.allclose(shorten(codes, 1.), torch.tensor([[[2.4, 0.], [3.2, 0.]]]))      # lengths 5 and 0.5


# ---- the tree

def test_tree_penalty_by_hand():
    membership = torch.tensor([[True, True, False], [True, False, False], [False, True, False], [False, False, True]])
    importance = torch.tensor([.5, 1, 1, 2])
    weights = torch.tensor([[3., 4, 2], [0, 0, -1]])
    assert torch.allclose(group_norms(weights, membership), torch.tensor([[5., 3, 4, 2], [0, 0, 0, 1]]))
    assert tree_penalty(weights, membership, importance).item() == pytest.approx(.5 * 5 + 3 + 4 + 2 * 2 + 2 * 1)


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_tree_penalty_agrees_with_loops(seed):
    rng = np.random.default_rng(seed)
    weights, membership, importance = rng.normal(size=(3, 5)), rng.random((4, 5)) < .5, rng.random(4)
    slow = sum(
        importance[v] * np.sqrt(sum(weights[k, t] ** 2 for t in range(5) if membership[v, t]))
        for k in range(3)
        for v in range(4)
    )
    assert tree_penalty(
        torch.from_numpy(weights), torch.from_numpy(membership), torch.from_numpy(importance)
    ).item() == pytest.approx(slow)


def test_affinity_agrees_with_loops_and_leaves_have_one():
    data, tree = videos(80), a_tree()
    features = torch.cat(data[:3], 1)
    means = [features[data.venue == k].mean(0) for k in range(4)]
    distance = np.array([[float((a - b).norm()) for b in means] for a in means])
    theta = torch.tensor(distance[~np.eye(4, dtype=bool)]).median().item()
    found = group_affinity(features, data.venue, torch.from_numpy(tree.membership))
    for v, group in enumerate(tree.membership):
        inside = np.flatnonzero(group)
        slow = sum(np.exp(-distance[i, j] ** 2 / theta ** 2) for i in inside for j in inside) / len(inside) ** 2
        assert found[v].item() == pytest.approx(slow, rel=1e-4)
    assert torch.allclose(found[2:], torch.ones(4))


def test_affinity_of_venues_without_videos():
    found = group_affinity(
        numbers(5, 3).float(), torch.zeros(5, dtype=torch.int64), torch.from_numpy(a_tree().membership)
    )
    assert torch.equal(found, torch.tensor([.5, .5, 1, 1, 1, 1]))


def test_closed_forms_are_stationary():
    """The gradient of what each step minimises is 0 at its answer."""
    space, labels, weights = numbers(20, 3), numbers(20, 4, seed=1), numbers(3, 4, seed=2)
    membership, importance = torch.from_numpy(a_tree().membership), torch.ones(6, dtype=torch.float64)
    omega, lengths = tree_penalty(weights, membership, importance), group_norms(weights, membership)
    found = best_tasks(space, labels, weights, membership, importance, .3).requires_grad_()
    bound = (group_norms(found, membership).square() * importance ** 2 / (importance * lengths / omega)).sum()
    gradient, = torch.autograd.grad((labels - space @ found).square().sum() / 2 + .3 * bound / 2, found)
    assert gradient.abs().max() < 1e-9

    blocks = [numbers(20, 3, seed=5), numbers(20, 3, seed=6)]
    there = torch.rand(20, 2, generator=torch.Generator().manual_seed(0)) < .7
    said = sum(x * known[:, None] for x, known in zip(blocks, there.T))
    best = best_space(labels @ weights.T + .5 * said, weights, .5 * there.sum(1)).requires_grad_()
    rest = sum(((x - best) * known[:, None]).square().sum() for x, known in zip(blocks, there.T))
    gradient, = torch.autograd.grad((labels - best @ weights).square().sum() / 2 + .5 / 2 * rest, best)
    assert gradient[there.any(1)].abs().max() < 1e-9


def test_the_objective_falls_and_the_tree_shrinks_its_penalty():
    data = videos(120)
    penalties = []
    for strength in (1e-3, .1):
        model = TRUMANN(
            TRUMANNSettings(7, 4, 3, 4, space=6, tree=strength, tolerance=0.0), weigh_tree(a_tree(), data)
        ).fit(data)
        assert all(b <= a * (1 + 1e-4) for a, b in zip(model.history, model.history[1:]))
        penalties.append(tree_penalty(model.weights, model.membership, model.importance).item())
    assert penalties[1] < penalties[0]


def test_the_trees_of_microworld_and_vine():
    tree = world_tree()
    assert tree.membership.shape == (49, 40) and tree.internal.sum() == 9 and (tree.parent[9:] >= 0).all()
    folder = real_folder('vine')
    if folder is None:
        pytest.skip('the published tree is not here')
    published = read_venue_tree(folder / 'tree.json')
    model = TRUMANN(TRUMANNSettings(7, 4, 3, space=5, rounds=2), published).fit(videos(60))
    assert model.weights.shape == (5, 188) and model.predict(videos(10)).shape == (10,)


# ---- all methods

SIZES = dict(visual=7, acoustic=4, text=3, venues=4)
METHODS = {
    'Default': DefaultVenue,
    'MDL': lambda: MDL(DictionarySettings(**SIZES, atoms=10)),
    'D3L': lambda: D3L(DictionarySettings(**SIZES, atoms=10, epochs=8, batch=32, rate=0.03)),
    'MTDL': lambda: MTDL(DictionarySettings(**SIZES, atoms=10, epochs=8, batch=32, rate=0.03)),
    'TRUMANN': lambda: TRUMANN(TRUMANNSettings(**SIZES, space=6), a_tree()),
    **{
        f'AlexNet_{n}': lambda n=n: AlexNetFusion(FusionSettings(**SIZES, hidden=(16,) * n, batch=32)) for n in range(4)
    },
}


def trained(name, data, seed=0):
    torch.manual_seed(seed)
    method = METHODS[name]()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        return method.fit(data, seed=seed, **({'progress': False} if isinstance(method, torch.nn.Module) else {}))


@pytest.mark.parametrize('name', METHODS)
def test_each_method_learns_and_gives_the_same_again(name):
    train, test = videos(200), videos(150, seed=1)
    found = trained(name, train).predict(test)
    assert found.dtype == torch.int64 and found.shape == (150,)
    assert torch.equal(found, trained(name, train).predict(test))
    default = DefaultVenue().fit(train).predict(test)
    right, chance = (found == test.venue).float().mean(), (default == test.venue).float().mean()
    assert right == chance if name == 'Default' else right > chance + .25


@pytest.mark.parametrize('name', [name for name in METHODS if name != 'Default'])
def test_bad_videos_are_named(name):
    data = videos(60)
    with pytest.raises(ValueError, match='expected a venue from 0 to 4 - 1, found 4'):
        trained(name, data._replace(venue=data.venue + 1))
    with pytest.raises(ValueError, match='expected 3 text features, found 2'):
        trained(name, data._replace(text=data.text[:, :2]))


def test_a_video_with_nothing_gets_a_venue():
    train = videos(100)
    empty = gather_videos(*(np.full((2, width), np.nan) for width in (7, 4, 3)), [0, 1], np.zeros((2, 3), bool))
    for name in METHODS:
        assert ((trained(name, train).predict(empty) >= 0)).all(), name


def test_atoms_are_never_longer_than_one_and_learning_lowers_the_loss():
    model = trained('MTDL', videos(150))
    assert all((d.norm(dim=0) <= 1 + 1e-6).all() for d in model.dictionaries())
    assert model.history.loss.iloc[-1] < model.history.loss.iloc[0]


def test_untrained_methods_and_wrong_trees_say_so():
    with pytest.raises(ValueError, match='this MDL has learned nothing yet'):
        METHODS['MDL']().predict(videos(3))
    with pytest.raises(ValueError, match='this TRUMANN has learned nothing yet'):
        METHODS['TRUMANN']().predict(videos(3))
    with pytest.raises(ValueError, match='expected a tree over 188 venues, found 4'):
        TRUMANN(TRUMANNSettings(), a_tree())


def test_predictions_do_not_depend_on_the_company():
    train, test = videos(120), videos(20, seed=3)
    for name in METHODS:
        method = trained(name, train)
        alone = torch.cat([method.predict(pick_rows(test, slice(k, k + 1))) for k in range(20)])
        assert (alone == method.predict(test)).float().mean() >= .95, name
