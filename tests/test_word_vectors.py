"""Word vector files come back as they were written, and damage is named.

Gensim's readers are the oracle where they can read.
"""
import io
import os
import tracemalloc

import numpy as np
import pytest
from gensim.models import KeyedVectors
from hypothesis import example, given
from hypothesis import strategies as st

from microvid_nb.data.files import real_folder
from microvid_nb.data.word_vectors import is_number, read_word_vectors

# no ASCII white space inside a piece; a piece that reads as a number would be one number too many
PIECE = st.text(st.characters(codec='utf-8', exclude_characters=' \n\r\t\x0b\x0c'), min_size=1, max_size=6).filter(
    lambda text: not is_number(text.encode())
)
WORD = st.lists(PIECE, min_size=1, max_size=3).map(' '.join)
NUMBER = st.floats(width=32, allow_nan=False, allow_infinity=False)


def tables(words):
    return st.integers(1, 5).flatmap(
        lambda dim: st.dictionaries(words, st.lists(NUMBER, min_size=dim, max_size=dim), min_size=1, max_size=6)
    )


def glove_text(table) -> bytes:
    return b''.join(f'{word} {" ".join(map(repr, numbers))}\n'.encode() for word, numbers in table.items())


def word2vec_binary(table, end=b'\n') -> bytes:
    dim = len(next(iter(table.values())))
    return f'{len(table)} {dim}\n'.encode() + b''.join(
        word.encode() + b' ' + np.array(numbers, '<f4').tobytes() + end for word, numbers in table.items()
    )


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('vectors')


def put(folder, name, content):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / name


@given(table=tables(WORD))
@example(table={';': [0.], ',': [1.], 'a;': [2.]})
@example(table={'. . .': [1., 2.], 'at name@domain.com': [3., 4.], '\x85': [5., 6.], '\xa0': [7., 8.]})
def test_glove_text_comes_back(folder, table):
    dim = len(next(iter(table.values())))
    vectors = read_word_vectors(put(folder, 'glove.txt', glove_text(table)), dim=dim)
    assert vectors.index_to_key == list(table)
    assert vectors.vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors.vectors, np.array(list(table.values()), np.float32))


@given(table=tables(PIECE), chosen=st.sets(PIECE))
def test_wanted_words_only(folder, table, chosen):
    some = chosen | set(list(table)[::2])
    for path in (
        put(folder, 'some.txt', f'{len(table)} {len(next(iter(table.values())))}\n'.encode() + glove_text(table)),
        put(folder, 'some.bin', word2vec_binary(table)),
    ):
        vectors = read_word_vectors(path, some)
        assert vectors.index_to_key == [word for word in table if word in some]
        for word in vectors.index_to_key:
            np.testing.assert_array_equal(vectors[word], np.array(table[word], np.float32))


@given(table=tables(PIECE), end=st.sampled_from([b'', b'\n']))
def test_as_gensim_reads_word2vec(folder, table, end):
    path = put(folder, 'w.bin', word2vec_binary(table, end))
    ours, theirs = read_word_vectors(path), KeyedVectors.load_word2vec_format(str(path), binary=True)
    assert ours.index_to_key == theirs.index_to_key and np.array_equal(ours.vectors, theirs.vectors)
    theirs.save_word2vec_format(str(folder / 'w.txt'))
    again = read_word_vectors(folder / 'w.txt')
    assert again.index_to_key == ours.index_to_key and np.array_equal(again.vectors, ours.vectors)


@given(table=tables(PIECE), share=st.floats(0, 1, exclude_max=True))
def test_a_binary_that_is_cut_off_is_refused(folder, table, share):
    whole = word2vec_binary(table, b'')
    with pytest.raises(ValueError, match=r'cut\.bin: (is empty|cut off at word \d+|expected a word2vec binary)'):
        read_word_vectors(put(folder, 'cut.bin', whole[:int(share * len(whole))]))


@pytest.mark.parametrize('content, message', [
    ('dog 1 2\nbeach 3 4\ndog 5 6\n', r"line 3: the word 'dog' was there before, at 1"),
    ('dog 1 2\nbeach 3\ncar 5 6\n', r'line 2: expected a word and 2 numbers, found 1'),
    ('dog 1\nbeach 3 4\ncar 5 6\n', r'line 1: expected a word and 2 numbers, found 1'),
    ('dog 1 2\nbeach 3 4 5\ncar 5 6\n', r'line 2: expected a word and 2 numbers, found 3'),
    ('dog 1 2\nbeach x 4\n', r"line 2: could not convert string to float: b'x'"),
    ('dog 1 2\nbeach nan 4\n', r"line 2: the vector of 'beach' holds NaN"),
    ('dog 1 2\nbeach 1e60 4\n', r"line 2: the vector of 'beach' holds NaN or infinity"),
    ('dog 1 2\n 3 4\n', r'line 2: expected a word and 2 numbers, found no word and 2'),
    ('dog 1 2\n\n', r'line 2: expected a word and 2 numbers, found no word and 0'),
    (b'dog 1 2\nb\xff 3 4\n', r'line 2: the word .* is not UTF-8'),
    ('', r'is empty \(0 bytes\)'),
    ('dog\t1\t2\ncat\t3\t4\n', r'separated by tabs, expected spaces'),
    ('version https://git-lfs.github.com/spec/v1\n', r'is a Git LFS pointer'),
    (b'\x89HDF\r\n\x1a\n', r'is an HDF5 file, expected word vectors'),
    ('dog\ncat\n', r'found other text'),
    ('3 2\ndog 1 2\n', r'promises 3 words, found 1'),
    ('1 2\ndog 1 2\ncat 1 2\n', r'promises 1 words, found 2'),
    (b'\x1f\x8bxx', r'packed file'),
])
def test_damaged_text_is_named(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_word_vectors(put(tmp_path, 'bad.txt', content))
    assert 'bad.txt' in str(caught.value)


@pytest.mark.parametrize('content, message', [
    (word2vec_binary({'a': [1, 2], 'b': [np.nan, 1]}), r"word 2: the vector of 'b' holds NaN"),
    (b'2 1\n' + 2 * (b'a ' + b'\0\0\0\0'), r"word 2: the word 'a' was there before, at 1"),
    (b'1 1\n' + 2 * (b'a ' + b'\0\0\0\0'), r'promises 1 words, but there is more'),
    (b'', r'is empty'),
    (b'1 0\na ', r'expected a word2vec binary'),
    (b'the 0.1 0.2\n', r'expected a word2vec binary'),
    (b'99999999999 300\nthe 0.1 0.2\n', r'cut off at word 1'),
])
def test_damaged_binary_is_named(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_word_vectors(put(tmp_path, 'bad.bin', content))


def test_unwanted_words_are_not_converted_but_their_width_is_checked(tmp_path):
    path = put(tmp_path, 'some.txt', 'dog 1 2\nbeach x y\ncar 5 6\n')
    assert read_word_vectors(path, ['dog', 'car']).index_to_key == ['dog', 'car']
    with pytest.raises(ValueError, match='line 2: expected a word and 2 numbers'):
        read_word_vectors(put(tmp_path, 'short.txt', 'dog 1 2\nbeach 1\ncar 5 6\n'), ['dog', 'car'])


def test_wrong_arguments(tmp_path):
    path = put(tmp_path, 'a.bin', word2vec_binary({'a': [1, 2]}))
    with pytest.raises(ValueError, match='expected 3 numbers per word, its header says 2'):
        read_word_vectors(path, dim=3)
    with pytest.raises(ValueError, match='a list of words'):
        read_word_vectors(path, 'a')
    with pytest.raises(FileNotFoundError, match=r'nowhere\.txt: .* published at https://nlp.stanford.edu'):
        read_word_vectors(tmp_path / 'nowhere.txt')


def test_the_result_is_a_whole_keyed_vectors(tmp_path):
    vectors = read_word_vectors(put(tmp_path, 'a.txt', 'dog 1 0\ncat .9 .1\ncar 0 1\n'))
    assert [word for word, _ in vectors.most_similar('dog')] == ['cat', 'car']
    vectors.add_vectors(['truck'], np.array([[.1, 1]], np.float32))
    vectors.fill_norms(force=True)  # gensim keeps the old norms otherwise
    assert vectors.most_similar('car', topn=1)[0][0] == 'truck'
    vectors.save(str(tmp_path / 'kept'))
    np.testing.assert_array_equal(KeyedVectors.load(str(tmp_path / 'kept'))['truck'], np.float32([.1, 1]))


@pytest.mark.parametrize('suffix', ['.txt', '.bin'])
def test_memory_follows_the_wanted_words(tmp_path, suffix):
    rng = np.random.default_rng(0)
    table = {f'word{i}': row for i, row in enumerate(rng.normal(size=(20_000, 50)).astype(np.float32))}
    path = put(
        tmp_path,
        f'many{suffix}',
        word2vec_binary(table)
        if suffix == '.bin'
        else f'{len(table)} 50\n'.encode() + glove_text({w: row.tolist() for w, row in table.items()}),
    )
    tracemalloc.start()
    vectors = read_word_vectors(path, ['word7', 'word19999'])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(vectors) == 2 and peak < 500_000 < os.path.getsize(path) / 5


def test_nothing_is_printed_for_a_short_file(tmp_path, capsys):
    read_word_vectors(put(tmp_path, 'a.txt', 'dog 1 0\ncat .9 .1\n'))
    assert ''.join(capsys.readouterr()).strip() == ''


@pytest.fixture
def real():
    folder = real_folder('text', 'MICROVID_MEDIA')
    if folder is None:
        pytest.skip('no real texts here: name their folder in MICROVID_MEDIA')
    return folder


def test_real_glove(real):
    path = real / 'glove.6B.50d.5k.txt'
    vectors = read_word_vectors(path)
    assert vectors.vectors.shape == (5050, 50)
    lines = path.read_text(encoding='utf-8').splitlines()
    np.testing.assert_array_equal(
        vectors.vectors,
        np.loadtxt(io.StringIO('\n'.join(line.partition(' ')[2] for line in lines)), np.float32, comments=None),
    )
    topics = 'girl baby boy car dog gym family smoke beach cake guitar football child chocolate bike bag'.split()
    assert [topic for topic in topics if topic not in vectors] == ['gym', 'cake', 'chocolate', 'bike']
    assert vectors.most_similar('dog', topn=1)[0][0] == 'cat'
    assert read_word_vectors(path, topics).index_to_key == sorted(
        set(topics) & set(vectors.key_to_index), key=vectors.key_to_index.get
    )


@pytest.mark.check
def test_real_word2vec_binary(real):
    path = real / 'word2vec_euclidean_vectors.bin'
    ours, theirs = read_word_vectors(path), KeyedVectors.load_word2vec_format(str(path), binary=True)
    assert ours.vectors.shape == (2747, 10)
    assert ours.index_to_key == theirs.index_to_key and np.array_equal(ours.vectors, theirs.vectors)
