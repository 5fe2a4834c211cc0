"""Word spaces against gensim, what is said of missing words, paragraph vectors that are the same everywhere, files that
hold no pickle.
"""
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from gensim.models import KeyedVectors
from hypothesis import given
from hypothesis import strategies as st

from microvid_nb.data.files import real_folder
from microvid_nb.features.text import ParagraphEmbedder, ParagraphSettings, SemanticSpace, SkipGramSettings, split_words

TEXTS = [
    'my dog barks at the cat',
    'the cat sleeps',
    'a dog and a cat play',
    'guitar and piano music',
    'piano music at the concert',
    'guitar at the concert',
] * 5


@pytest.fixture(scope='module')
def space():
    rng = np.random.default_rng(0)
    return SemanticSpace(['dog', 'dogs', 'Cat', 'guitar', 'birthday'], rng.normal(size=(5, 8)))


@pytest.fixture(scope='module')
def glove():
    folder = real_folder('text', 'MICROVID_MEDIA')
    if folder is None:
        pytest.skip('no real texts here: name their folder in MICROVID_MEDIA')
    return folder / 'glove.6B.50d.5k.txt'


@pytest.fixture(scope='module')
def embedder():
    return ParagraphEmbedder(ParagraphSettings(epochs=20)).fit(TEXTS)


@given(st.text())
def test_words_are_lower_case_without_signs(text):
    for word in split_words(text):
        assert word and word == word.lower()
        assert not set(word) & set(' #_.,!?"\n')


def test_prototypes(space):
    found = space.prototype(['dog', 'DOG', 'birthday dog'])
    unit = torch.nn.functional.normalize(space.vectors, dim=1)
    assert torch.allclose(found[0], unit[0]) and torch.allclose(found[1], unit[0])
    assert torch.allclose(found[2], torch.nn.functional.normalize(unit[4] + unit[0], dim=0))
    assert torch.allclose(found.norm(dim=1), torch.ones(3))
    assert torch.equal(space.prototype('guitar', unit=False)[0], space.vectors[3])


@pytest.mark.parametrize('topic, words', [
    ('dgo', "no vector for 'dgo', similar spellings: dog"), ('gitar', "no vector for 'gitar', similar spellings: guitar"),
    ('birthday cake', "no vector for 'cake' of the topic 'birthday cake'"), ('zzzz', "no vector for 'zzzz', similar spellings: none"), ('', "expected a topic, found ''")])
def test_missing_words_are_named_with_similar_spellings(space, topic, words):
    with pytest.raises(ValueError, match=words):
        space.prototype(['dog', topic])


@pytest.mark.parametrize('words, vectors, said', [
    (['a', 'b'], [[1., 0], [0, 0]], "vector of 'b' is 0"), (['a', 'b'], [[1., 0], [0, np.nan]], "vector of 'b' is 0 or not finite"),
    (['a', 'a'], np.eye(2), "'a' is there more than once"), (['a'], np.eye(2), 'a vector for each of 1 words')])
def test_bad_spaces(words, vectors, said):
    with pytest.raises(ValueError, match=said):
        SemanticSpace(words, vectors)


def test_opposite_words_have_no_mean():
    space = SemanticSpace(['up', 'down'], [[1., 0], [-1., 0]])
    with pytest.raises(ValueError, match="'up down' point in opposite directions"):
        space.prototype('up down')


def test_real_glove_against_gensim(glove):
    space, gensim = SemanticSpace.from_file(glove), KeyedVectors.load_word2vec_format(glove, no_header=True)
    assert len(space) == 5050 and space.words == gensim.index_to_key
    np.testing.assert_array_equal(space.vectors.numpy(), gensim.vectors)
    for word in ('dog', 'beach', 'piano'):
        ours, theirs = space.nearest(word, 30), gensim.most_similar(word, topn=30)
        assert ours.index.tolist() == [other for other, _ in theirs]
        np.testing.assert_allclose(ours, [cosine for _, cosine in theirs], atol=1e-5)
    with pytest.raises(ValueError, match="no vector for 'chocolate', similar spellings: "):
        space.prototype('chocolate')
    few = SemanticSpace.from_file(glove, ['dog', 'beach', 'unicorns'])
    assert sorted(few.words) == ['beach', 'dog']


def test_trained_space_depends_on_the_seed_only():
    first, again, other = (
        SemanticSpace.train(TEXTS, SkipGramSettings(dim=10, epochs=5, seed=seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first.vectors, again.vectors) and not torch.equal(first.vectors, other.vectors)


def test_space_in_a_file(space, tmp_path):
    again = SemanticSpace.load(space.save(tmp_path / 'space.safetensors'))
    assert again.words == space.words and torch.equal(again.vectors, space.vectors)


def test_no_text_is_marked(embedder):
    vectors, present = embedder.embed(['my dog', None, '', '!!!', 'unheard', 'dog'], progress=False)
    assert vectors.shape == (6, 100) and vectors.dtype == torch.float32
    assert present.dtype == torch.bool and present.tolist() == [True, False, False, False, False, True]
    assert not vectors[~present].any() and vectors[present].abs().sum(1).min() > 0


def test_a_text_does_not_depend_on_its_company(embedder):
    together = embedder.embed(TEXTS[:6], progress=False)[0]
    alone = torch.cat([embedder.embed([text], progress=False)[0] for text in TEXTS[:6]])
    assert torch.equal(together, alone)
    assert torch.equal(embedder.embed(['DOG, unheard!'])[0], embedder.embed(['dog'])[0])


def test_texts_on_one_subject_lie_together():
    embedder = ParagraphEmbedder(ParagraphSettings(dim=20, sample=0.)).fit(TEXTS)  # none of so few words is left out
    vectors = torch.nn.functional.normalize(
        embedder.embed(['dog and cat', 'the cat and my dog', 'piano music'], progress=False)[0], dim=1
    )
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + .1


CODE = '''
import sys
from microvid_nb.features.text import ParagraphEmbedder, ParagraphSettings, SemanticSpace
texts = ['my dog', 'my cat', 'a dog', 'a cat']
print(ParagraphEmbedder.load(sys.argv[1]).embed(['my dog'])[0].tolist())
print(ParagraphEmbedder(ParagraphSettings(epochs=5)).fit(texts).embed(['dog'])[0].tolist(), SemanticSpace.train(texts).vectors.tolist())
'''


@pytest.mark.check
def test_every_process_finds_the_same(embedder, tmp_path):
    path = embedder.save(tmp_path / 'texts.safetensors')
    found = {
        subprocess.run(
            [sys.executable, '-c', CODE, path],
            env=os.environ | {'PYTHONHASHSEED': salt},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for salt in ('1', '2')
    }
    assert len(found) == 1
    assert found.pop().splitlines()[0] == str(embedder.embed(['my dog'])[0].tolist())


def test_embedder_in_a_file(embedder, tmp_path):
    again = ParagraphEmbedder.load(embedder.save(tmp_path / 'texts.safetensors'))
    assert again.settings == embedder.settings
    assert torch.equal(again.embed(TEXTS)[0], embedder.embed(TEXTS)[0])


class Hostile:
    def __reduce__(self):
        return os.mkdir, ('executed',)


@pytest.mark.parametrize('kind', [SemanticSpace, ParagraphEmbedder])
def test_pickles_and_other_files_are_refused(kind, space, embedder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'pickle').write_bytes(pickle.dumps(Hostile()))
    other = (embedder if kind is SemanticSpace else space).save(tmp_path / 'other')
    for path in (tmp_path / 'pickle', other):
        with pytest.raises(ValueError, match='refused'):
            kind.load(path)
    assert not (tmp_path / 'executed').exists()
    with pytest.raises(FileNotFoundError):
        kind.load(tmp_path / 'nowhere')


def test_an_embedder_that_learned_nothing(tmp_path):
    with pytest.raises(ValueError, match='has learned no words yet'):
        ParagraphEmbedder().embed(['dog'])
    with pytest.raises(ValueError, match='has learned no words yet'):
        ParagraphEmbedder().save(tmp_path / 'nothing')
    with pytest.raises(ValueError, match='no word occurs 2 times in the 1 texts'):
        ParagraphEmbedder().fit(['each word once', None])
