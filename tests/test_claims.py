"""The ledger of claims: remade bit for bit, never from results that are missing, changed, or older than their code."""
import itertools
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from microvid_nb import claims
from microvid_nb.claims import (
    Claim, Contrast, adopt, age_of, compare, compare_all, count_verdicts, fingerprint, make_ledger, other_worlds, part_of, reached,
    read_ledger, say_counts, share, slope, stamp, state, verdict_of, write_ledger)
from microvid_nb.experiments import compare_items, corrected_t, holm
from microvid_nb.reproduce import reproduce

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT/'results'


@pytest.fixture
def copy(tmp_path):
    """The results, to be spoiled."""
    return Path(shutil.copytree(RESULTS, tmp_path/'results'))


@pytest.fixture(scope='module')
def ledger():
    return read_ledger(RESULTS)


# --- the ledger


def test_the_ledger_is_remade_bit_for_bit(copy):
    (copy/'claims.csv').unlink()
    assert reproduce('claims', out=copy) == [copy/'claims.csv']
    assert (copy/'claims.csv').read_bytes() == (RESULTS/'claims.csv').read_bytes()


def test_another_world_has_a_ledger_of_its_own(copy):
    """With the same figures, under the name of another world, the same effects are found for the claims that they test."""
    kept = 'venue_table3_microworld_small_seed0.csv'
    other = shutil.copy(copy/kept, copy/kept.replace('seed0', 'seed7'))
    claims.stamp(other, claims._NEEDED[kept])
    assert 7 in other_worlds(copy) and 0 not in other_worlds(copy)
    there, here = make_ledger(copy, seed=7).set_index('claim'), make_ledger(copy).set_index('claim')
    assert len(there) > 3 and set(there.files) == {other.name}
    pd.testing.assert_frame_equal(there[['text', 'effect', 'low', 'high']], here.loc[there.index, ['text', 'effect', 'low', 'high']])
    write_ledger(copy)
    assert read_ledger(copy, 7).claim.tolist() == there.index.tolist()


def test_verdicts_add_up(ledger):
    counts = count_verdicts(ledger)
    assert sum(counts.values()) == len(ledger) >= 60 and min(counts.values()) > 0
    by_paper = [count_verdicts(part_of(paper, RESULTS).rows) for paper in claims._PAPERS]
    assert pd.DataFrame(by_paper).sum().to_dict() == counts
    assert ledger.claim.is_unique and not ledger[['place', 'text', 'reason']].isna().any(axis=None)
    assert all(str(number) in say_counts(ledger) for number in (len(ledger), *counts.values()))


def test_verdicts_follow_from_what_is_shown(ledger):
    tested = ledger.dropna(subset='comparisons')
    assert set(ledger[ledger.comparisons.isna()].verdict) == {claims.OPEN}
    assert set(tested[tested.shown == tested.comparisons].verdict) == {claims.HOLDS}
    assert set(tested[tested.shown == 0].verdict) == {claims.FAILS}
    assert (tested.shown + tested.reversed <= tested.comparisons).all()
    assert (tested.low <= tested.effect).all() and (tested.effect <= tested.high).all()
    assert tested.data.notna().all() and tested[tested.data != 'figures of the paper'].command.str.startswith('microvid').all()


@pytest.mark.parametrize('paper', claims._PAPERS)
def test_a_part_shows_each_claim_once(paper):
    part = part_of(paper, RESULTS)
    lines = part._repr_markdown_().splitlines()
    assert lines[0] == f'**{say_counts(part.rows)}**' and len(lines) == len(part.rows) + 4
    assert {line.count('|') for line in lines[2:]} == {8}


def test_a_part_may_be_of_one_table():
    part = part_of('DARE', RESULTS, 'venue_table3_microworld')
    assert 1 < len(part.rows) < len(part_of('DARE', RESULTS).rows)
    assert part.rows.files.str.contains('venue_table3_microworld_small_seed0.csv', regex=False).all()
    assert part._repr_markdown_().startswith('| place |')  # it has no line that counts


def test_papers_that_there_are_not():
    with pytest.raises(ValueError, match="no paper 'BERT'; there are AMUSE"): part_of('BERT', RESULTS)


def test_one_claim_from_the_file_itself(ledger):
    """DARE's lead over AlexNet_2 in Macro-F1, reckoned without this package."""
    rows = pd.read_csv(RESULTS/'venue_table3_microworld_small_seed0.csv').pivot(
        index='round', columns='method', values='Macro-F1')
    d = (rows['DARE'] - rows['AlexNet_2']).to_numpy()
    error = math.sqrt((1/5 + 1200/1800)*d.var(ddof=1))
    test = next(test for test in claims._VENUE[3].tests if test.other == 'AlexNet_2')
    found = compare_all([test], RESULTS)[test][0]
    assert found.difference == pytest.approx(d.mean())
    assert found.high - found.low == pytest.approx(2*2.776445*error, rel=1e-5)   # t of 4 degrees of freedom, tables


def test_ratios_are_those_of_the_experiments():
    from microvid_nb.classify.experiments import SCALES as classes
    from microvid_nb.venue.systems import SCALES as venues
    small = venues['small']
    assert claims._VENUES['test_to_train'] == small.test/small.train
    assert claims._NETS['test_to_train'] == claims._DROP['test_to_train'] == classes['small'].other/classes['small'].train
    assert claims._FUSED['test_to_train'] == classes['small'].other_posts/classes['small'].posts


def test_a_reason_for_another_verdict_says_so(copy):
    test = claims._VENUE[3].tests[0]                                # DARE above Default
    papers = {'DARE': (Claim('here', 'this', (test,), claims.FAILS, 'why'), Claim('here', 'this', (test,), claims.HOLDS, 'why'))}
    table = make_ledger(copy, papers)
    assert table.verdict.tolist() == [claims.HOLDS]*2
    assert table.reason.tolist() == ['(found for the verdict "does not hold here") why', 'why']


# --- results and their code


def test_a_missing_result_fails(copy):
    (copy/'venue_table3_microworld_small_seed0.csv').unlink()
    with pytest.raises(FileNotFoundError, match='venue_table3_microworld_small_seed0.csv is missing'): make_ledger(copy)


def test_a_result_of_other_code_fails(copy):
    codes = pd.read_csv(copy/'code.csv', dtype=str, keep_default_na=False).set_index('file')
    name = 'venue_table3_microworld_small_seed0.csv'
    codes.loc[name, 'code'] = '0'*16
    codes.to_csv(copy/'code.csv')
    with pytest.raises(ValueError, match='older than the code.*reproduce venue --data microworld'): make_ledger(copy)
    adopt(copy, 'nothing that counts was changed')
    assert age_of(copy, name) == '' and claims.read_codes(copy).note[name] == 'nothing that counts was changed'


def test_a_result_that_somebody_changed_fails(copy):
    path = copy/'gif_table1_gif_thumbnails_small_seed0.csv'
    path.write_text(path.read_text().replace('5394', '5401'))
    with pytest.raises(ValueError, match='is not the file whose code was written down'): make_ledger(copy)


def test_ends_of_lines_do_not_count(copy):
    path = copy/'gif_table1_gif_thumbnails_small_seed0.csv'
    path.write_bytes(path.read_bytes().replace(b'\n', b'\r\n'))
    assert age_of(copy, path.name) == ''


TOY = {
    'a.py': 'from .b import double\nSCALES = {1: 2}\ndef make(x:int):\n    "Makes."\n    return double(x) + SIZE\nSIZE = 3\n',
    'b.py': 'def double(x): return 2*x\ndef triple(x): return 3*x\n',
}


@pytest.mark.parametrize('file, old, new, same', [
    ('a.py', '"Makes."', '"Makes a thing."', True),
    ('a.py', 'x:int', 'x:float', True),
    ('b.py', '3*x', '4*x', True), # not reached
    ('b.py', '2*x', '2*x + 1', False),
    ('a.py', 'SIZE = 3', 'SIZE = 4', False),
    ('a.py', '{1: 2}', '{1: 3}', False),
    ('b.py', 'def triple', 'from fastcore.basics import patch\ndef triple', True),
])
def test_what_counts_as_other_code(tmp_path, file, old, new, same):
    found = []
    for name, changes in (('before', ('', '')), ('after', (old, new))):
        (tmp_path/name).mkdir()
        for each, text in TOY.items():
            assert each != file or old in text
            (tmp_path/name/each).write_text(text.replace(*changes) if each == file and name == 'after' else text)
        found.append(fingerprint('microvid_nb.a.make', tmp_path/name))
    assert (found[0] == found[1]) is same


def test_patched_methods_and_local_imports_are_reached():
    within = reached('microvid_nb.venue.experiments.table3')
    assert 'microvid_nb.venue.experiments.VenueRound' in within
    assert 'trained_dare' in within['microvid_nb.venue.experiments.VenueRound']          # a method that `@patch` added
    assert {'microvid_nb.venue.dare.DARE', 'microvid_nb.training.fit'} <= set(within)
    assert 'microvid_nb.features.store.read_features' not in within


def test_a_stamp_says_what_made_a_file(tmp_path):
    path = tmp_path/'table.csv'
    path.write_text('a\n1\n')
    stamp(path, 'microvid_nb.experiments.holm')
    assert age_of(tmp_path, 'table.csv') == ''
    with pytest.raises(ValueError, match='no function'): stamp(path, 'microvid_nb.experiments.hulk')


# --- statistics, without SciPy


def student_tail(t, degrees):
    """P(T > t), by Simpson's rule on the density."""
    scale = math.gamma((degrees + 1)/2)/(math.sqrt(degrees*math.pi)*math.gamma(degrees/2))
    x = np.linspace(0, t, 20_001)
    y = scale*(1 + x*x/degrees)**(-(degrees + 1)/2)
    return .5 - (t/20_000)/3*float(y[0] + y[-1] + 4*y[1:-1:2].sum() + 2*y[2:-1:2].sum())


@pytest.mark.parametrize('ratio', [0, .25, 2/3])
def test_corrected_t_by_numerical_integration(ratio):
    d = np.array([.8, 2.1, -.4, 1.5, 1.9])
    found, error = corrected_t(d, ratio), math.sqrt((1/5 + ratio)*sum((d - d.mean())**2)/4)
    assert found.p == pytest.approx(2*student_tail(d.mean()/error, 4), abs=1e-9)
    assert student_tail((found.high - found.difference)/error, 4) == pytest.approx(.025, abs=1e-9)


def test_wilcoxon_by_counting_signs():
    d = np.array([.5, -.2, .9, 1.4, -.1, .7, .3])
    items = pd.DataFrame({'item': [*range(7)]*2, 'method': ['a']*7 + ['b']*7, 'x': [*d, *[0.]*7]})
    ranks = np.abs(d).argsort().argsort() + 1
    plus = ranks[d > 0].sum()
    sums = [sum(rank for rank, sign in zip(ranks, signs) if sign) for signs in itertools.product((0, 1), repeat=7)]
    extreme = np.mean([abs(each - 14) >= abs(plus - 14) for each in sums])
    assert compare_items(items, 'a', 'b', 'x').p == pytest.approx(extreme)


def test_holm_by_its_definition():
    """The smallest level at which a hypothesis is rejected when they are gone through from the smallest p on."""
    p = np.random.default_rng(1).uniform(0, .2, 6)
    def rejected(level):
        found = set()
        for rank, k in enumerate(np.argsort(p)):
            if p[k] > level/(6 - rank): break
            found.add(k)
        return found
    levels = np.linspace(0, 1, 20_001)
    sets = [rejected(level) for level in levels]
    for k, value in enumerate(holm(p)):
        least = next((level for level, found in zip(levels, sets) if k in found), 1.)
        assert value == pytest.approx(least, abs=1e-4)


def test_shares_and_slopes_by_hand():
    rows = pd.DataFrame({'hit': [1]*8 + [0]*2})
    found = share(rows, 'hit', .5)
    centre, half = (.8 + 1.959964**2/20)/(1 + 1.959964**2/10), None
    half = 1.959964*math.sqrt(.8*.2/10 + 1.959964**2/400)/(1 + 1.959964**2/10)
    assert found[:3] == pytest.approx((.3, centre - half - .5, centre + half - .5), abs=1e-6)
    assert found.p == pytest.approx(2*sum(math.comb(10, k) for k in (8, 9, 10))/1024)
    y = np.array([1., 2.5, 2., 4.])
    line = slope(y)
    residual = y - y.mean() - line.difference*(np.arange(4) - 1.5)
    error = math.sqrt((residual**2).sum()/2/5)
    assert line.difference == pytest.approx(((np.arange(4) - 1.5)*y).sum()/5)
    assert line.p == pytest.approx(2*student_tail(line.difference/error, 2), abs=1e-8)


def test_states():
    up = compare(Contrast('', 'x', 5., 3., kind='printed'), None)
    assert state(Contrast('', 'x', 5., 3.), up, math.nan) == 'shown'
    assert state(Contrast('', 'x', 5., 3., 'below'), up, math.nan) == 'reversed'
    assert state(Contrast('', 'x', 5., 3., 'equal', margin=2.), up, math.nan) == 'shown'
    assert verdict_of(['open', 'shown']) == claims.PART
