"""VENUE-188: published names and tree; features read lazily, in any order, and refused by row where they are broken."""
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microvid_nb.data.vine import (
    VineSplit, find_parents, modality_columns, read_venue_names, read_venue_tree, tree_problems, tree_table)

ROOT = Path(__file__).resolve().parent.parent
REAL = Path(os.environ.get('MICROVID_DATA', ROOT.parent / 'shared' / 'data')) / 'vine'
FIRST_ID = 1_000_000_000_000_000_000


def write(path, width=812, labels=None, ids=None, dtype='f4', split='train', rows=20, seed=0, **options):
    """One part of a look-alike feature file; returns the path and the features."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, width)).astype(dtype)
    with h5py.File(path, 'a') as file:
        file.create_dataset(f'X_{split}', data=features, **options)
        file[f'y_{split}'] = rng.integers(0, 188, rows) if labels is None else labels
        file[f'id_{split}'] = (FIRST_ID + np.arange(rows)).astype('S') if ids is None else ids
    return path, features


@pytest.fixture(scope='module')
def real():
    if not REAL.is_dir():
        pytest.skip('no published venue names and tree here: name the data folder in MICROVID_DATA')
    return read_venue_names(REAL / 'leaf_venue_name.txt'), read_venue_tree(REAL / 'tree.json')


# ---- names ----

def names_file(folder, text):
    (folder / 'names.txt').write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / 'names.txt'


@pytest.mark.parametrize('text', ['1::::A b\n2::::C / D\n', '1::::A b\r\n2::::C / D', '2::::C / D\n\n1::::A b\n', '\ufeff1::::A b\n2::::C / D\n'])
def test_names_are_read_in_the_order_of_their_numbers(tmp_path, text):
    assert read_venue_names(names_file(tmp_path, text), 2) == ['A b', 'C / D']


@pytest.mark.parametrize('text, words', [
    ('1::::A\n3::::B\n', 'line 2: expected a number from 1 to 2'),
    ('0::::A\n1::::B\n', 'line 1: expected a number from 1 to 2'),
    ('1::::A\nB\n', "line 2: .*found 'B'"),
    ('1::::A\n2:::B\n', "line 2: .*found '2:::B'"),
    ('1::::A\n2::::\n', 'line 2: .*a name'),
    ('1::::A\n1::::B\n', 'line 2: expected every number and every name once'),
    ('1::::A\n2::::A\n', 'line 2: expected every number and every name once'),
    ('1::::A\n', 'expected 2 categories, found 1; the first that is missing is 2'),
    ('', 'expected 2 categories, found 0'),
])
def test_malformed_names_are_refused_by_line(tmp_path, text, words):
    with pytest.raises(ValueError, match=f'names.txt.*{words}'):
        read_venue_names(names_file(tmp_path, text), 2)


# ---- the tree ----

def tree_file(folder, groups, weights=None):
    (folder / 'tree.json').write_text(
        json.dumps({'groups': groups, 'weights': [1.0] * len(groups) if weights is None else weights})
    )
    return folder / 'tree.json'


@pytest.mark.parametrize('groups, weights, words', [
    ([[1, 2], [2, 3]], None, 'groups 0 and 1 overlap'),
    ([[1, 2], []], None, 'group 1: expected different categories'),
    ([[1, 1]], None, r'group 0: .*found \[1, 1\]'),
    ([[1, 5]], None, r'group 0: expected different categories from 1 to 4, found \[1, 5\]'),
    ([[0, 1]], None, 'group 0: expected whole numbers from 1'),
    ([[1, 1.5]], None, 'group 0: .*found 1.5 at position 1'),
    ([[1], 2], None, 'group 1: expected a list of numbers, found 2'),
    ([[1], [2]], [1.0], 'a weight for each of 2 groups, found 1'),
    ([[1]], [float('nan')], 'group 0: expected a weight from 0 up, found nan'),
    ([[1]], [-1.0], 'group 0: expected a weight from 0 up, found -1.0'),
    ([[1]], ['1'], "group 0: expected a weight from 0 up, found '1'"),
    ([[1]], 3, 'expected weights to be a list, found 3'),
])
def test_malformed_trees_are_refused_by_group(tmp_path, groups, weights, words):
    with pytest.raises(ValueError, match=f'tree.json.*{words}'):
        read_venue_tree(tree_file(tmp_path, groups, weights), 4)


def test_a_tree_without_weights_or_file_says_so(tmp_path):
    (tmp_path / 'tree.json').write_text('{"groups": [[1]]}')
    with pytest.raises(ValueError, match="tree.json: .*found no 'weights'"):
        read_venue_tree(tmp_path / 'tree.json')
    with pytest.raises(FileNotFoundError, match='https://github.com/lengyuexiang'):
        read_venue_tree(tmp_path / 'nowhere.json')


@st.composite
def nested_groups(draw):
    """Random nested groups over ten categories, in random order, some of them twice."""
    groups, todo = [], [list(draw(st.permutations(range(10))))]
    while todo:
        group = todo.pop()
        groups.append(group)
        if len(group) > 1 and draw(st.booleans()):
            cut = draw(st.integers(1, len(group) - 1))
            todo += [group[:cut], group[cut:]]
    return draw(st.permutations(groups + draw(st.lists(st.sampled_from(groups), max_size=2))))


@given(nested_groups())
def test_parents_agree_with_sets(groups):
    membership = np.zeros((len(groups), 10), bool)
    for i, group in enumerate(groups):
        membership[i, group] = True
    sets = [frozenset(group) for group in groups]
    for group, parent in zip(sets, find_parents(membership)):
        around = [other for other in sets if group < other]
        assert (sets[parent] == min(around, key=len)) if around else parent == -1


def test_the_published_names(real):
    names = real[0]
    assert len(names) == len(set(names)) == 188
    assert (
        (names[0], names[187]) == ('Animal Shelter', 'Beer Garden')
        and 'Café' in names
        and all(name == name.strip() for name in names)
    )


def test_the_published_tree(real):
    names, tree = real
    raw = json.loads((REAL / 'tree.json').read_text())
    assert [(np.flatnonzero(row) + 1).tolist() for row in tree.membership] == [sorted(group) for group in raw['groups']]
    assert tree.weights.tolist() == raw['weights']
    assert (tree.membership.shape, tree.internal.sum(), (~tree.internal).sum()) == ((214, 188), 26, 188)
    assert np.bincount(tree.level[tree.internal]).tolist() == [0, 10, 15, 1]
    assert (
        tree.membership[:10].sum(1).tolist() == [5, 3, 32, 15, 27, 14, 34, 22, 16, 20]
        and (tree.membership[:10].sum(0) == 1).all()
    )
    inner = [group for group in np.flatnonzero(tree.internal) if tree.level[group] > 1]
    assert sorted(tree.membership[inner].sum(1).tolist()) == [2] * 10 + [3, 3, 3, 4, 5, 8]
    for group, parent in enumerate(tree.parent):
        if parent >= 0:
            assert (
                tree.membership[parent][tree.membership[group]].all()
                and tree.membership[parent].sum() > tree.membership[group].sum()
            )


def test_the_published_tree_lacks_nine_leaves_and_has_nine_twice(real):
    names, tree = real
    problems = tree_problems(tree, names)
    assert problems.what.value_counts().to_dict() == {'2 groups of its own': 9, 'no group of its own': 9}
    assert {'Church', 'Train', 'Resort'} < set(problems.venue[problems.what == '2 groups of its own'])
    assert {'Japanese Restaurant', 'Travel & Transport'} < set(problems.venue[problems.what == 'no group of its own'])


def test_the_table_of_the_published_tree_is_readable(real):
    names, tree = real
    table = tree_table(tree, names)
    assert table.venues[178] == 'Sushi Restaurant, Japanese Restaurant' and table.venues[table.parent[178]].startswith(
        'Chinese Restaurant'
    )
    assert table['size'].sum() == tree.membership.sum()


# ---- features ----

@pytest.mark.parametrize('width, visual', [(4396, 4096), (2348, 2048), (812, 512)])
def test_modalities_follow_from_the_width(tmp_path, width, visual):
    path, features = write(tmp_path / 'v.h5', width)
    batch = VineSplit(path, 'train').read(slice(None))
    assert [block.shape[1] for block in batch[:3]] == [visual, 200, 100]
    assert (
        (batch.visual == features[:, :visual]).all()
        and (batch.acoustic == features[:, visual : visual + 200]).all()
        and (batch.text == features[:, -100:]).all()
    )


@pytest.mark.parametrize('width', [0, 100, 300, 811, 4096, 4397])
def test_other_widths_are_refused_with_expected_and_found(tmp_path, width):
    with pytest.raises(ValueError, match=f'4396, 2348 or 812 features.*found {width}'):
        modality_columns(width)
    with pytest.raises(ValueError, match=f'v.h5.*4396, 2348 or 812 features.*found {width}'):
        VineSplit(write(tmp_path / 'v.h5', width)[0], 'train')


@pytest.mark.parametrize('options', [{}, {'chunks': (3, 100)}, {'chunks': (8, 812), 'compression': 'gzip'}])
@pytest.mark.parametrize('dtype', ['f2', 'f4', 'f8'])
def test_rows_come_in_any_order_with_repeats(tmp_path, options, dtype):
    path, features = write(tmp_path / 'v.h5', dtype=dtype, **options)
    part = VineSplit(path, 'train')

    @given(st.lists(st.integers(0, 19), max_size=40))
    def reads(rows):
        batch = part.read(rows)
        assert np.array_equal(np.hstack(batch[:3]), features.astype('f4')[rows]) and batch.visual.dtype == np.float32
        assert batch.label.tolist() == part.labels[rows].tolist() and batch.id.tolist() == [
            str(FIRST_ID + row) for row in rows
        ]
    reads()


def test_batches_hold_every_row_once(tmp_path):
    path, features = write(tmp_path / 'v.h5', rows=53)
    part = VineSplit(path, 'train')
    in_order = list(part.batches(10))
    assert [len(batch.label) for batch in in_order] == [10] * 5 + [3] and np.array_equal(
        np.vstack([batch.text for batch in in_order]), features[:, -100:]
    )
    ids = [
        np.concatenate([batch.id for batch in part.batches(10, np.random.default_rng(seed))]).tolist()
        for seed in (1, 1, 2)
    ]
    assert ids[0] == ids[1] != ids[2] and sorted(ids[0]) == sorted(ids[2]) == [str(FIRST_ID + row) for row in range(53)]
    assert list(VineSplit(write(tmp_path / 'none.h5', rows=0)[0], 'train').batches()) == []


@pytest.mark.parametrize('rows', [[20], [-1], [0, 25]])
def test_rows_that_are_not_there_are_named(tmp_path, rows):
    with pytest.raises(ValueError, match=f'expected rows from 0 to 19, found {rows[-1]}'):
        VineSplit(write(tmp_path / 'v.h5')[0], 'train').read(rows)


@pytest.mark.parametrize('rows', [[0.5], ['1'], [[1, 2]], [True, False], 3])
def test_row_numbers_are_whole_numbers_in_a_list(tmp_path, rows):
    with pytest.raises(ValueError, match='expected a list of row numbers'):
        VineSplit(write(tmp_path / 'v.h5')[0], 'train').read(rows)


@pytest.mark.parametrize('column, modality', [(0, 'visual'), (511, 'visual'), (512, 'acoustic'), (711, 'acoustic'), (712, 'text'), (811, 'text')])
@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_named(tmp_path, column, modality, value):
    path, _ = write(tmp_path / 'v.h5')
    with h5py.File(path, 'r+') as file:
        file['X_train'][13, column] = value
    part = VineSplit(path, 'train')
    assert len(part.read([12, 14]).label) == 2
    with pytest.raises(
        ValueError,
        match=rf'v.h5, X_train: expected finite features, found {value} in column {column} \({modality}\); rows: 13 \(1 in all\)',
    ):
        list(part.batches(5))


@pytest.mark.parametrize('label, found', [(188, '188'), (-1, '-1'), (3.5, '3.5'), (np.nan, 'nan')])
def test_labels_out_of_range_are_named(tmp_path, label, found):
    labels = np.zeros(20, type(label) if label is not np.nan else float)
    labels[[4, 9]] = label
    with pytest.raises(
        ValueError,
        match=rf'v.h5, train: y_train: expected labels from 0 to 187, found {found} in row 4 \(2 such rows\)',
    ):
        VineSplit(write(tmp_path / 'v.h5', labels=labels)[0], 'train')


@pytest.mark.parametrize('options, words', [
    ({'labels': np.zeros(19, int)}, r'found \(20, 812\), \(19,\), \(20,\)'),
    ({'ids': np.arange(21)}, r'found \(20, 812\), \(20,\), \(21,\)'),
    ({'labels': np.zeros((20, 188))}, r'found \(20, 812\), \(20, 188\), \(20,\)'),
    ({'labels': np.array([b'Pub'] * 20)}, 'y_train: expected whole numbers, found'),
    ({'dtype': 'S3'}, 'expected numbers in X_train, found'),
])
def test_arrays_that_do_not_fit_are_refused(tmp_path, options, words):
    with pytest.raises(ValueError, match=f'v.h5, train: .*{words}'):
        VineSplit(write(tmp_path / 'v.h5', **options)[0], 'train')


def test_a_missing_part_or_array_is_named(tmp_path):
    path, _ = write(tmp_path / 'v.h5')
    with pytest.raises(
        ValueError, match='expected the arrays X_test, y_test, id_test at the root, found X_train, id_train, y_train'
    ):
        VineSplit(path, 'test')
    with h5py.File(path, 'r+') as file:
        del file['id_train']
    with pytest.raises(ValueError, match='expected the arrays X_train, y_train, id_train at the root'):
        VineSplit(path, 'train')
    path.unlink()   # nothing holds the refused file open
    with pytest.raises(
        FileNotFoundError, match='v.h5: a feature file of VENUE-188 is not here.*https://github.com/lengyuexiang'
    ):
        VineSplit(path, 'train')


@pytest.mark.parametrize('keep', [0, 7, 100, .5, .95])
def test_a_file_cut_off_is_refused(tmp_path, keep):
    path, _ = write(tmp_path / 'v.h5', rows=200)
    content = path.read_bytes()
    path.write_bytes(content[:keep if keep >= 1 or keep == 0 else int(keep * len(content))])
    with pytest.raises(ValueError, match='v.h5: (expected a whole HDF5 file|is empty)'):
        VineSplit(path, 'train')


def test_a_file_that_is_being_written_is_named_as_locked(tmp_path):
    path, _ = write(tmp_path / 'v.h5', rows=20)
    code = "import h5py, sys; file = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, '-c', code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline().strip() == b'open'
        with pytest.raises(ValueError, match='v.h5: is locked by a program that is writing it'):
            VineSplit(path, 'train')
    finally:
        process.communicate()
    VineSplit(path, 'train').close()


def test_a_damaged_row_is_named_and_the_others_are_read(tmp_path):
    path, features = write(tmp_path / 'v.h5', rows=64, chunks=(8, 812), compression='gzip', fletcher32=True)
    with h5py.File(path) as file:
        chunk = file['X_train'].id.get_chunk_info(3)   # rows 24 to 31
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 0xff
    path.write_bytes(content)
    part = VineSplit(path, 'train')
    assert np.array_equal(part.read([23, 32]).text, features[[23, 32], -100:])
    with pytest.raises(ValueError, match=r'v.h5, X_train: rows \[25\] cannot be read'):
        part.read([25])


@pytest.mark.parametrize('ids', [FIRST_ID + np.arange(20), [str(FIRST_ID + i) for i in range(20)], np.array([str(FIRST_ID + i).encode() for i in range(20)])],
                         ids=['numbers', 'texts', 'bytes'])
def test_ids_are_read_as_text(tmp_path, ids):
    assert VineSplit(write(tmp_path / 'v.h5', ids=ids)[0], 'train').read([17, 0]).id.tolist() == [
        str(FIRST_ID + 17),
        str(FIRST_ID),
    ]


@pytest.mark.parametrize('ids, words', [(np.arange(20) + 1e18, 'expected ids as text or whole numbers, found float64'), (np.array([b'\xff\xfe'] * 20), 'expected ids in UTF-8')])
def test_ids_that_lost_digits_or_are_no_text_are_refused(tmp_path, ids, words):
    with pytest.raises(ValueError, match=f'v.h5, id_train: {words}'):
        VineSplit(write(tmp_path / 'v.h5', ids=ids)[0], 'train').read([0])


def read_texts(part):
    return part.read([3, 1]).text


@pytest.mark.parametrize('method', ['spawn', 'fork'])
def test_other_processes_read_a_part(tmp_path, method):
    path, features = write(tmp_path / 'v.h5')
    part = VineSplit(path, 'train')
    assert np.array_equal(pickle.loads(pickle.dumps(part)).read([3, 1]).text, features[[3, 1], -100:])
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f'this system cannot {method}')
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert all(np.array_equal(text, features[[3, 1], -100:]) for text in pool.map(read_texts, [part] * 4))


PEAK = '''
import re, sys
import numpy as np
from microvid_nb.data.vine import VineSplit
def peak(): return int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024
before = peak()
with VineSplit(sys.argv[1], 'train') as part:
    rows = total = 0
    for generator in (None, np.random.default_rng(0)):
        for batch in part.batches(128, generator):
            rows, total = rows + len(batch.label), total + float(batch.text.sum(dtype=float))
print(rows, total, peak() - before)
'''


@pytest.mark.check
@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='peak memory is read from /proc')
@pytest.mark.parametrize('options', [{}, {'chunks': (64, 4396)}], ids=['one block', 'chunks'])
def test_reading_all_rows_takes_the_memory_of_a_batch(tmp_path, options):
    """A file of 211 MB is read twice, in order and shuffled, within 40 MB."""
    path, rows = tmp_path / 'large.h5', 12_000
    rng, total = np.random.default_rng(0), 0.
    with h5py.File(path, 'w') as file:
        features = file.create_dataset('X_train', (rows, 4396), 'f4', **options)
        for start in range(0, rows, 1000):
            block = rng.random((1000, 4396), np.float32)
            features[start:start + 1000], total = block, total + block[:, -100:].sum(dtype=float)
        file['y_train'], file['id_train'] = np.zeros(rows, int), FIRST_ID + np.arange(rows)
    assert path.stat().st_size > 200e6
    done = subprocess.run([sys.executable, '-c', PEAK, path], capture_output=True, text=True, check=True)
    path.unlink()
    read, found, grown = map(float, done.stdout.split())
    assert read == 2 * rows and found == pytest.approx(2 * total)
    assert grown < 40, f'{grown:.0f} MB'
