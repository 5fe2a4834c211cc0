"""The external sound data set against a slow loop over drawn worlds, and the readers of labelled clips."""
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings, strategies as st

from microvid_nb.data import sounds as module
from microvid_nb.data.sounds import (
    PAPER_FUNNEL, SYNONYMS, SoundSetSettings, funnel_beside_paper, build_sound_set, choose_concepts, concept_labels,
    find_wordnet, gather_clips, merge_synonyms, normal_tag, read_esc50, read_labelled_sounds, singular,
    sound_statistics, table_meanings, tag_counts, wordnet_meanings)
from microvid_nb.media.audio import read_audio

WORDS = ['dog', 'Dogs', 'hound', 'kids', 'child', 'rain', 'field recording', 'field-recording', 'bell', 'zither']


def clip(id, tags, **other):
    return {
        'id': id,
        'name': f'clip {id}',
        'tags': tags,
        'duration': 1.0 + int(id) % 7,
        'license': 'CC0',
        'username': 'ann',
        **other,
    }


def searcher(world):
    """Finds clips by their tags as written, hyphens and case aside."""
    def search(concept, limit):
        return [
            one for one in world if concept.replace('-', ' ') in {tag.lower().replace('-', ' ') for tag in one['tags']}
        ][:limit]
    return search


@pytest.fixture(autouse=True, scope='module')
def by_table():
    """The procedure takes synonyms from the table, whatever is installed here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, 'find_wordnet', lambda: None)
        yield


# ---------------------------------------------------------------------------------------------------------------- the procedure

def slow(seeds, search, s):
    """The six steps with dictionaries and loops; concept -> ids."""
    def norm(tag):
        return tag.lower().replace(' ', '-')
    found = {}
    for seed in seeds:
        for one in search(seed, s.seed_limit):
            found[one['id']] = one
    size = {}
    for one in found.values():
        for tag in {norm(tag) for tag in one['tags']}:
            size[tag] = size.get(tag, 0) + 1
    size = {tag: n for tag, n in size.items() if n >= s.least_first}
    meaning = {tag: {'dogs': 'dog', 'hound': 'dog', 'kids': 'child'}.get(tag, tag) for tag in size}
    groups = {}
    for tag in size:
        groups.setdefault(meaning[tag], []).append(tag)
    named = {sorted(group, key=lambda tag: (-size[tag], tag))[0]: set(group) for group in groups.values()}
    again = {}
    for concept in named:
        for one in search(concept, s.concept_limit):
            again[one['id']] = one
    result = {}
    for concept, group in named.items():
        ids = {one['id'] for one in again.values() if group & {norm(tag) for tag in one['tags']}}
        if len(ids) >= s.least_final:
            result[concept] = ids
    return result


@settings(deadline=None, max_examples=150)
@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=5), min_size=5, max_size=60), st.lists(st.sampled_from(['dog', 'child', 'rain', 'field-recording']), min_size=1),
       st.builds(SoundSetSettings, st.integers(1, 40), st.integers(1, 6), st.integers(1, 40), st.integers(1, 8)))
def test_like_the_slow_loop(tag_lists, seeds, chosen):
    world = [clip(str(i), tags) for i, tags in enumerate(tag_lists)]
    search = searcher(world)
    assume(any(search(seed, 1) for seed in seeds))
    expected = slow(seeds, search, chosen)
    if not expected:
        with pytest.raises(ValueError, match='no (tag|concept) has'):
            build_sound_set(seeds, search, chosen)
        return
    result = build_sound_set(seeds, search, chosen)
    assert (
        result.concepts == sorted(expected)
        and result.labels.dtype == bool
        and result.labels.shape == (len(result.clips), len(expected))
    )
    for concept, column in zip(result.concepts, result.labels.T):
        assert set(result.clips.index[column]) == expected[concept]
    assert (
        set(result.clips.index) == set().union(*expected.values())
        and result.clips.index.is_unique
        and result.labels.any(1).all()
    )
    assert result.funnel.index.tolist() == [
        'seeds searched',
        'different tags',
        'frequent tags',
        'synonyms merged',
        'searched again',
        'frequent concepts',
    ]
    assert result.funnel.loc['frequent concepts'].tolist() == [len(expected), len(result.clips)]
    assert result.funnel.loc['searched again', 'clips'] >= len(result.clips)


def test_paper_settings():
    assert SoundSetSettings() == SoundSetSettings(seed_limit=150, least_first=50, concept_limit=500, least_final=100)
    with pytest.raises(Exception):
        SoundSetSettings().least_first = 3


@pytest.mark.parametrize('count, stays', [(49, False), (50, True)])
def test_fewer_than_fifty_go(count, stays):
    world = [clip(str(i), ['dog', *(['bone'] if i < count else [])]) for i in range(120)]
    merged, _, _ = choose_concepts(['dog'], searcher(world))
    assert ('bone' in merged) == stays


@pytest.mark.parametrize('count, stays', [(99, False), (100, True)])
def test_at_least_a_hundred_stay(count, stays):
    world = [clip(str(i), ['dog', *(['bone'] if i < count else [])]) for i in range(120)]
    assert ('bone' in build_sound_set(['dog'], searcher(world)).concepts) == stays


def test_at_most_five_hundred_each():
    world = [clip(str(i), ['dog']) for i in range(900)]
    asked = []

    def search(concept, limit):
        asked.append((concept, limit))
        return world  # gives more than it was asked for
    assert len(build_sound_set(['dog'], search).clips) == 500 and asked == [('dog', 150), ('dog', 500)]


def test_rare_synonyms_do_not_help_each_other():
    """Drop, then merge, as in the text: 40 kids and 40 child are both dropped, although they are 80 of a kind."""
    world = [clip(str(i), ['play', 'kids' if i < 40 else 'child']) for i in range(80)]
    assert set(choose_concepts(['play'], searcher(world))[0]) == {'play'}
    world = [clip(str(i), ['play', 'kids' if i < 60 else 'child']) for i in range(110)]
    assert choose_concepts(['play'], searcher(world))[0] == {'play': 'play', 'kids': 'kids', 'child': 'kids'}


def test_synonyms_share_a_column():
    world = [clip(str(i), ['play', 'kids' if i < 60 else 'child']) for i in range(120)]

    def search(concept, limit):
        return world[:limit]
    result = build_sound_set(['play'], search)
    assert (
        result.concepts == ['child', 'play']
        and result.labels.all()
        and result.merged == {'play': 'play', 'child': 'child', 'kids': 'child'}
    )


# ---------------------------------------------------------------------------------------------------------------- pieces

def test_a_clip_is_kept_once_with_all_it_came_with():
    world = [clip(str(i), ['dog', 'bark'], preview=f'http://x/{i}.ogg') for i in range(5)]
    clips = gather_clips(['dog', 'bark'], searcher(world), 9)
    assert (
        len(clips) == 5
        and list(clips.columns) == ['name', 'tags', 'duration', 'license', 'username', 'preview']
        and clips.index.tolist() == list('01234')
    )


@pytest.mark.parametrize('change, message', [
    ({'license': None}, None), ({'tags': 'dog bark'}, "tags should be a list of words, found the text 'dog bark'"),
    ({'duration': float('nan')}, 'duration should be seconds, found nan'), ({'duration': -1}, 'duration should be seconds, found -1')])
def test_records_that_cannot_be(change, message):
    record = clip('7', ['dog']) | change
    if message is None:
        del record['license']
        message = "clip 7 found for 'dog' has no license"
    with pytest.raises(ValueError, match=message):
        gather_clips(['dog'], lambda concept, limit: [record], 5)


@given(st.text(max_size=30))
def test_normal_tags_stay_as_they_are(tag):
    once = normal_tag(tag)
    assert normal_tag(once) == once and '_' not in once and ' ' not in once and once == once.lower()


@given(st.lists(st.lists(st.sampled_from('abcdefgh'), max_size=4), max_size=30))
def test_tag_counts(tag_lists):
    clips = pd.DataFrame({'tags': [tuple(dict.fromkeys(tags)) for tags in tag_lists]}, dtype=object)
    counts = tag_counts(clips)
    assert counts.to_dict() == {
        tag: sum(tag in tags for tags in tag_lists) for tag in set().union(*map(set, tag_lists))
    }
    assert list(counts.index) == sorted(counts.index, key=lambda tag: (-counts[tag], tag))


@given(st.dictionaries(st.sampled_from([word for line in SYNONYMS for word in line] + ['zither', 'kids', 'dogs', 'waves']), st.integers(1, 9), min_size=1))
def test_merging_is_an_equivalence(counts):
    counts, merged = pd.Series(counts), merge_synonyms(pd.Series(counts), table_meanings(list(counts)))
    assert set(merged) == set(counts.index)
    for tag, concept in merged.items():
        assert (
            merged[concept] == concept
            and (counts[concept], tag) >= (counts[tag], '')
            and counts[concept] >= counts[tag]
        )


def test_paper_example():
    assert (
        len(
            {
                table_meanings(['kids', 'child', 'kid', 'children'])[word]
                for word in ('kids', 'child', 'kid', 'children')
            }
        )
        == 1
    )
    assert table_meanings(['cats', 'dog']) == {'cats': 'cat', 'dog': 'dog'} and table_meanings(
        ['glass', 'bus', 'gas', 'swings']
    ) == {word: word for word in ('glass', 'bus', 'gas', 'swings')}


def test_every_word_has_one_line():
    words = [word for line in SYNONYMS for word in line]
    assert len(words) == len(set(words)) and all(len(line) > 1 for line in SYNONYMS)


@pytest.mark.parametrize('word, known, expected', [('boxes', ['box'], 'box'), ('parties', ['party'], 'party'), ('movies', ['movie'], 'movie'), ('women', [], 'woman'),
                                                   ('vegas', [], 'vegas'), ('class', ['clas', 'cla'], 'class'), ('is', ['i'], 'is'), ('dogs', [], 'dogs'), ('james', ['jam'], 'james')])
def test_singular(word, known, expected):
    assert singular(word, set(known)) == expected


def test_labels_like_a_double_loop():
    rng = np.random.default_rng(0)
    tags = [tuple(rng.choice(list('abcdef'), rng.integers(0, 5), replace=False)) for _ in range(50)]
    merged, concepts = {'a': 'a', 'b': 'a', 'c': 'c', 'f': 'f'}, ['a', 'c', 'f']
    expected = [[any(merged.get(tag) == concept for tag in words) for concept in concepts] for words in tags]
    assert (concept_labels(iter(tags), merged, concepts) == expected).all()
    assert concept_labels([], merged, concepts).shape == (0, 3)


def test_beside_paper():
    world = [clip(str(i), ['dog']) for i in range(120)]
    result = build_sound_set(['dog'], searcher(world))
    table = funnel_beside_paper(result.funnel, 'a world of dogs')
    ours, theirs = (table[table['data set'].str.contains(name)].set_index('step') for name in ('dogs', 'Freesound'))
    assert (
        ours.clips.tolist() == [120] * 6
        and theirs.clips.dropna().tolist() == [16363, 45948, 43868]
        and theirs.concepts.tolist() == [131, 465, 465, 313]
    )
    assert set(PAPER_FUNNEL.index) <= set(result.funnel.index)
    figures = sound_statistics(result, 'a world of dogs').iloc[0]
    assert (
        figures['clips / concepts'] == 120
        and figures['concepts of a clip, mean'] == 1
        and figures['duration, mean s'] == pytest.approx(np.mean([1 + i % 7 for i in range(120)]))
    )


# ---------------------------------------------------------------------------------------------------------------- WordNet

def test_wordnet_where_it_is_installed():
    wordnet = find_wordnet()
    if wordnet is None:
        pytest.skip('NLTK or its WordNet corpus is not installed')
    senses = wordnet_meanings(
        ['kids', 'child', 'children', 'dog', 'hound', 'car', 'automobile', 'applause', 'clapping', 'field-recording'],
        wordnet,
    )
    assert (
        senses['kids'] == senses['child'] == senses['children']
        and senses['car'] == senses['automobile']
        and senses['applause'] == senses['clapping']
    )
    assert senses['dog'] != senses['hound'] and senses['field-recording'] == 'field-recording'


@pytest.mark.parametrize('package', ['', 'raise ImportError("none")', 'class wordnet:\n    def ensure_loaded(): raise LookupError("no corpus")',
                                     'class wordnet:\n    def ensure_loaded(): raise OSError("half a corpus")'], ids=['empty', 'broken', 'no corpus', 'half a corpus'])
def test_without_wordnet_there_is_the_table(tmp_path, package):
    """An NLTK that is there but of no use is as good as none."""
    (tmp_path / 'nltk').mkdir()
    (tmp_path / 'nltk' / '__init__.py').write_text('')
    (tmp_path / 'nltk' / 'corpus.py').write_text(package)
    code = 'from microvid_nb.data.sounds import find_wordnet; print(find_wordnet())'
    done = subprocess.run(
        [sys.executable, '-c', code], env=os.environ | {'PYTHONPATH': str(tmp_path)}, capture_output=True, text=True
    )
    assert done.stdout.strip() == 'None', done.stderr


# ---------------------------------------------------------------------------------------------------------------- labelled clips

HEADER = 'filename,fold,target,category,esc10,src_file,take'
ROWS = [
    '1-100032-A-0.wav,1,0,dog,True,100032,A',
    '2-5-A-3.wav,2,3,cow,False,5,A',
    '5-9032-B-0.wav,5,0,dog,True,009032,B',
]


def esc50(folder, *rows, header=HEADER, newline='\n', mark=''):
    (folder / 'meta').mkdir(exist_ok=True)
    (folder / 'audio').mkdir(exist_ok=True)
    (folder / 'meta' / 'esc50.csv').write_bytes((mark + newline.join([header, *rows]) + newline).encode())
    return folder


@pytest.mark.parametrize('form', [{}, {'newline': '\r\n'}, {'mark': '\ufeff'}], ids=['plain', 'windows', 'byte order mark'])
def test_esc50(tmp_path, form):
    folder = esc50(tmp_path, *ROWS, **form)
    (folder / 'audio' / '2-5-A-3.wav').write_bytes(b'RIFF')
    clips = read_esc50(folder)
    assert clips.index.tolist() == [row.split(',')[0] for row in ROWS] and clips.present.tolist() == [
        False,
        True,
        False,
    ]
    assert (
        clips.fold.tolist() == [1, 2, 5]
        and clips.target.tolist() == [0, 3, 0]
        and clips.esc10.tolist() == [True, False, True]
    )
    assert clips.src_file.iloc[2] == '009032' and clips.path.iloc[1] == folder / 'audio' / '2-5-A-3.wav'


@pytest.mark.parametrize('row, message', [
    ('2-7-A-1.wav,0,1,rooster,True,7,A', "row 5: fold should be 1 to 5, found '0'"), ('2-7-A-1.wav,two,1,rooster,True,7,A', "row 5: fold should be 1 to 5, found 'two'"),
    ('2-7-A-1.wav,2,50,rooster,True,7,A', "row 5: target should be 0 to 49, found '50'"), ('2-7-A-1.wav,2,-1,rooster,True,7,A', "row 5: target should be 0 to 49, found '-1'"),
    ('2-7-A-1.wav,2,1.5,rooster,True,7,A', 'row 5: target'), ('2-7-A-1.wav,2,,rooster,True,7,A', 'row 5: target is empty'), ('2-7-A-1.wav,2,1', 'row 5: category is empty'),
    ('2-7-A-1.wav,2,0,rooster,True,7,A', 'target 0 goes with dog and rooster, expected one category'), ('2-7-A-1.wav,2,9,cow,True,7,A', 'category cow goes with 3 and 9'),
    (ROWS[1], '2-5-A-3.wav is listed twice')])
def test_esc50_rows_that_cannot_be(tmp_path, row, message):
    with pytest.raises(ValueError, match=f'esc50.csv.*{message}'):
        read_esc50(esc50(tmp_path, *ROWS, row))


def test_esc50_without_a_column_or_a_file(tmp_path):
    with pytest.raises(ValueError, match='esc50.csv: no column fold; found filename, folds'):
        read_esc50(esc50(tmp_path, *ROWS, header=HEADER.replace('fold', 'folds')))
    with pytest.raises(FileNotFoundError, match='published at https://github.com/karolpiczak/ESC-50'):
        read_esc50(tmp_path / 'nowhere')


def test_labelled_sounds(tmp_path):
    table = tmp_path / 'mine.csv'
    table.write_text('path,label,fold,author\na/1.wav,dog,3,ann\n"b, c.wav",cat,0,\n')
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / '1.wav').write_bytes(b'RIFF')
    clips = read_labelled_sounds(table)
    assert (
        clips.present.tolist() == [True, False]
        and clips.fold.tolist() == [3, 0]
        and clips.author.tolist() == ['ann', '']
        and clips.path.iloc[1] == tmp_path / 'b, c.wav'
    )
    table.write_text('path,label,fold\n1.wav,dog,1\n1.wav,cat,2\n')
    with pytest.raises(ValueError, match='mine.csv: 1.wav is listed twice'):
        read_labelled_sounds(table)


def test_real_sounds(media):
    sounds = read_labelled_sounds(media / 'sounds' / 'esc10_labels.csv')
    assert (
        len(sounds) == 320
        and sounds.present.all()
        and (sounds.groupby(['label', 'fold']).size() == 8).all()
        and sounds.label.nunique() == 10
    )
    assert (sounds.clip_licence != '').all() and (sounds.freesound_author != '').all()
    for clip in sounds.groupby('label').first().itertuples():
        samples = read_audio(clip.path)
        assert abs(len(samples) / 22050 - 5) < .1 and samples.std() > 0
