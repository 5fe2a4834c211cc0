"""The thumbnail data set: choosing posts, the nearest candidate, and the nouns that viewers name."""
import tracemalloc
from collections import Counter

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from microvid_nb.data import instagram as module
from microvid_nb.data.instagram import (
    CLASS_OF, WORD_CLASSES, ThumbnailSetSettings, WordCounts, choose_posts, choose_publishers, count_words,
    ground_truth, merge_plurals, nearest_candidate, nounness, popular_topics, read_topics, text_words, write_topics)
from microvid_nb.media.survey import full_frame, survey_video

# ---------------------------------------------------------------------------------------------------------------- 200 words labelled by hand
# Drawn at random from the words of at least three titles of text/youtube_trending_us_2017.csv; by what they are in most of those titles. Names are nouns.

NOUNS = """
acting adam aid alex anime anthony apartment awards baby beauty blake candy carpet castle catalonia challenge challenges charlie college color contest
control cup darius debut desi drive durant earthquake ex facts feeling field fight film floor foot foundation fox game gold grass grwm happiness haul
home hugh human internet interview introduction items james jeremy jessie jimmy jungle justin katy kevin kitchen kris kumail kuwtk kylie language
launch line lip lucie lyrics macklemore madison man mars men message mi michelle miley mind momtember morty mother nerdist news nfl nummies obama
outfits paramount parents park party peak pennywise performance petsch petty pizza postgame prank puppies puppy race ragnarok refinery29 rico roman
russell sarah saudi school science season snake son sound speed storm story stream supercut switch szechuan talent tang taylor theme tinder tmz
touchdown tour traffic trick twins vegas victoria view vol wedding wheel wwe
""".split()
OTHERS = """
addresses after around at away bad became between breaks come de doesn't drives early el ever exist fast faster featuring grand greatest hold hot how
hurts i've incredible international joins little making no once or out playing powerful quick read rich set sets slams some special stranger takes
that tonight top walk weird welcome who work you
""".split()


@pytest.fixture(scope='module')
def videos(media):
    """Titles and tags of trending videos, a row a title, and the tag lists of Video2GIF."""
    trending = pd.read_csv(media / 'text' / 'youtube_trending_us_2017.csv', dtype=str).drop_duplicates('title')
    lists = [
        line.partition(';')[2]
        for line in (media / 'text' / 'video2gif_video_tags.txt').read_text(encoding='utf-8').splitlines()[1:]
    ]
    return trending.title.tolist(), (trending.title + ' | ' + trending.tags.replace('[none]', '')).tolist() + lists


def precision_recall(counts):
    found = {word for word in NOUNS + OTHERS if nounness(word, counts) > .5}
    right = len(found & set(NOUNS))
    return round(right / len(found), 2), round(right / len(NOUNS), 2)


def test_labels():
    assert len(set(NOUNS) | set(OTHERS)) == 200 == len(NOUNS) + len(OTHERS)


def test_precision_and_recall_as_the_notebook_says(videos):
    titles, texts = videos
    counts = count_words(titles)
    assert all(sum(word in text_words(title) for title in titles) >= 3 for word in NOUNS[::20] + OTHERS[::10])
    assert precision_recall(WordCounts(texts=counts.texts)) == (.99, .95)   # the form of words alone
    assert precision_recall(counts) == (.99, .97)
    assert precision_recall(count_words(texts)) == (.95, .98)


def test_real_topics(videos):
    topics = popular_topics(videos[1])
    assert (
        len(topics) == 111
        and topics['count'].is_monotonic_decreasing
        and topics.word.is_unique
        and topics.word.iloc[0] == 'video'
    )
    every = popular_topics(videos[1], 10**6).set_index('word')['count']
    assert all(
        word in every
        for word in 'girl baby boy car dog gym family smoke beach cake guitar football child chocolate bike bag'.split()
    )
    for one, many in (('dog', 'dogs'), ('girl', 'girls'), ('child', 'children')):
        assert every[one] == sum(bool({one, many} & set(text_words(text))) for text in videos[1])


# ---------------------------------------------------------------------------------------------------------------- words

@pytest.mark.parametrize('text, words', [
    ('Ice-cream!', '| ice cream |'), ("DON'T", "| don't |"), ('kids’ toys', '| kids toys |'), ('#dogs#cats', '| dogs | cats |'), ('a 😍dog😍', '| a | dog |'),
    ('mail me@x.org @someone.else now', '| mail me | now |'), ('go https://a.b/c?d=e#f now', '| go | now |'), ('www.x.com', '|'), ('4k 2nd 10', '| 4k 2nd 10 |'),
    ('naïve CAFÉ', '| naïve café |'), ('cafe\u0301', '| café |'), ('приве́т мир', '| приве́т мир |'), ('犬が好き', '| 犬が好き |'), ('a - b — c', '| a | b | c |'), ("rock'n'roll", "| rock'n'roll |"),
    ('👨‍👩‍👧 family', '| family |'), ('snake_case', '| snake case |'), ('\n\t', '|'), ("'quoted' “words”", '| quoted | words |'), ('R&B', '| r and b |')])
def test_text_words(text, words):
    found = text_words(text)
    # breaks in a row as one
    assert [word for i, word in enumerate(found) if word != '|' or i == 0 or found[i - 1] != '|'] == words.split()


@given(st.text(max_size=80))
def test_any_text_has_words_or_breaks(text):
    words = text_words(text)
    assert words[0] == words[-1] == '|' and all(
        word == '|' or (word[0].isalnum() and not any(char.isspace() for char in word)) for word in words
    )


def test_classes_are_disjoint_and_lower_case():
    words = [word for row in WORD_CLASSES.values() for word in row.split()]
    assert len(words) == len(set(words)) == len(CLASS_OF) and all(
        word == word.lower() and text_words(word) == ['|', word, '|'] for word in words
    )


# ---------------------------------------------------------------------------------------------------------------- nouns

SUBJECTS, THINGS, ACTIONS, QUALITIES = (
    ['i', 'you', 'we'],
    ['blicket', 'wug', 'dax'],
    ['glorp', 'florb', 'zib'],
    ['snarfy', 'crunchy', 'mimsy'],
)


def invented(rng):
    """A comment with words that no list and no suffix knows: things, actions, qualities."""
    thing, action, quality, subject = (str(rng.choice(words)) for words in (THINGS, ACTIONS, QUALITIES, SUBJECTS))
    return str(
        rng.choice(
            [
                f'my {thing} is so {quality}',
                f'{subject} {action} the {thing}!',
                f"don't {action} your {thing}",
                f'the {thing} was {quality}',
                f'{subject} will {action} it',
                f'a {quality} {thing}',
                f'look at the {thing}',
                f'that is {quality} 😍',
            ]
        )
    )


def test_unknown_words_are_told_by_their_neighbours():
    rng = np.random.default_rng(0)
    counts = count_words(invented(rng) for _ in range(600))
    assert all(nounness(word, counts) > .8 for word in THINGS)
    assert all(nounness(word, counts) < .3 for word in ACTIONS + QUALITIES)
    assert set(popular_topics((invented(rng) for _ in range(600)), 111).word) == set(THINGS)


def test_form_gives_way_to_evidence():
    few, many = (count_words(['the wedding is on friday', 'my wedding dress', 'a wedding!'] * n) for n in (1, 10))
    assert nounness('wedding', few) <= .5 < nounness('wedding', many)
    assert nounness('unseen', count_words([])) == .75 and nounness('unseen', count_words(['so unseen'] * 20)) < .2


# ---------------------------------------------------------------------------------------------------------------- topics

@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from(['dog', 'dogs', 'cake', 'unicorns', 'new', '😍', 'box', 'boxes']), max_size=6).map(' '.join), max_size=25))
def test_each_text_counts_once(texts):
    topics = popular_topics(iter(texts)).set_index('word')['count']
    said = [set(text.split()) for text in texts]
    expected = {'cake': sum('cake' in words for words in said), 'unicorns': sum('unicorns' in words for words in said)}
    for one, many in (('dog', 'dogs'), ('box', 'boxes')):
        singles, plurals = (sum(word in words for words in said) for word in (one, many))
        joined = singles > 0 and singles >= .1 * plurals
        expected |= {one: sum(bool({one, many} & words) for words in said)} if joined else {one: singles, many: plurals}
    assert topics.to_dict() == {word: count for word, count in expected.items() if count}


def test_ties_by_alphabet_and_a_limit():
    topics = popular_topics(['zebra cake', 'apple cake'], 2)
    assert (
        topics.word.tolist() == ['cake', 'apple']
        and topics['count'].tolist() == [2, 1]
        and topics['count'].dtype == np.int64
    )
    assert len(popular_topics([])) == 0 and len(popular_topics(['the of and'])) == 0


def test_order_of_texts_does_not_matter():
    rng = np.random.default_rng(1)
    texts = [invented(rng) for _ in range(300)]
    pd.testing.assert_frame_equal(popular_topics(texts), popular_topics(texts[::-1]))


@pytest.mark.parametrize('texts, message', [('a dog', 'expected many texts, found one'), (['a', float('nan')], 'text 1 should be a string, found nan'), (['a', b'b'], 'text 1 should be')])
def test_texts_that_cannot_be(texts, message):
    with pytest.raises(ValueError, match=message):
        popular_topics(texts)


def zipf_texts(number, seed=0):
    """Comments of a few hundred topics, and in each a typing mistake that nobody else makes."""
    rng = np.random.default_rng(seed)
    words = np.array([f'{chr(97 + i % 26)}opic{chr(97 + i // 26)}' for i in range(300)])
    share = 1 / np.arange(1, 301)
    for start in range(0, number, 1000):
        for i, row in enumerate(rng.choice(words, (1000, 8), p=share / share.sum())):
            yield f'{" ".join(row)} mistake{start + i}'


def test_pruning_keeps_the_topics(monkeypatch):
    exact = popular_topics(zipf_texts(20_000), 100)
    monkeypatch.setattr(module.count_words, '__defaults__', (2000,))
    pruned = popular_topics(zipf_texts(20_000), 100)
    assert set(exact.word[:80]) <= set(pruned.word) and len(count_words(zipf_texts(20_000), 2000).texts) <= 2000
    both = exact.merge(pruned, on='word')
    # at most one a pruning, and there were at most 20
    assert (both.count_y <= both.count_x).all() and (both.count_y >= both.count_x - 20).all()


@pytest.mark.check
def test_memory_does_not_grow_with_the_number_of_texts():
    def peak(number):
        tracemalloc.start()
        count_words(zipf_texts(number), 2000)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used
    assert peak(24_000) < 1.3 * peak(6_000)


def test_merging_loses_nothing():
    rng = np.random.default_rng(0)
    nouns = Counter(
        {word: int(rng.integers(1, 99)) for word in 'dog dogs city cities vegas vega man men lass news new'.split()}
    )
    merged = merge_plurals(nouns, {})
    assert (
        sum(merged.values()) == sum(nouns.values())
        and merged['city'] == nouns['city'] + nouns['cities']
        and merged['lass'] == nouns['lass']
    )


# ---------------------------------------------------------------------------------------------------------------- topics as a file

@given(st.dictionaries(st.text(st.characters(exclude_categories=['Cs', 'Cc']), min_size=1).filter(lambda word: word.strip()), st.integers(0, 10**9 - 1)))
def test_topics_survive_a_file(tmp_path_factory, topics):
    path = tmp_path_factory.mktemp('topics') / 'topics.csv'
    table = pd.DataFrame({'word': list(topics), 'count': list(topics.values())}).astype(
        {'word': 'str', 'count': 'int64'}
    )
    if table.word.str.casefold().str.strip().duplicated().any():
        with pytest.raises(ValueError, match='is listed twice'):
            write_topics(path, table)
        return
    again = read_topics(write_topics(path, table))
    assert (
        again.word.tolist() == table.word.tolist()
        and again['count'].tolist() == table['count'].tolist()
        and again['count'].dtype == np.int64
    )


@pytest.mark.parametrize('text, message', [
    ('word,times\ngirl,3\n', 'topics.csv: no column count; found word, times'), ('word,count\ngirl,3\ncar,x\n', "row 3: count should be 0 to 999999999, found 'x'"),
    ('word,count\ngirl,-1\n', "row 2: count should be .*, found '-1'"), ('word,count\ngirl,2.5\n', "row 2: count should be .*, found '2.5'"), ('word,count\ngirl,\n', 'row 2: count is empty'),
    ('word,count\n ,3\n', 'row 2: word is empty'), ('word,count\ngirl,3\nboy,2\n GIRL,1\n', "row 4: word ' GIRL' is listed twice")])
def test_files_that_cannot_be(tmp_path, text, message):
    path = tmp_path / 'topics.csv'
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_topics(path)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = write_topics(tmp_path / 'topics.csv', pd.DataFrame({'word': ['a'], 'count': [1]}))
    with pytest.raises(ValueError, match="topics.csv, row 3: count should be 0 to 999999999, found '-2'"):
        write_topics(path, pd.DataFrame({'word': ['a', 'b'], 'count': [1, -2]}))
    with pytest.raises(ValueError, match="row 2: word ' ' is empty"):
        write_topics(path, pd.DataFrame({'word': [' '], 'count': [1]}))
    assert read_topics(path).word.tolist() == ['a'] and [file.name for file in tmp_path.iterdir()] == ['topics.csv']
    with pytest.raises(FileNotFoundError, match='nowhere.csv'):
        read_topics(tmp_path / 'nowhere.csv')


# ---------------------------------------------------------------------------------------------------------------- posts

@given(st.lists(st.integers(0, 1500), min_size=1, max_size=20), st.lists(st.tuples(st.integers(0, 19), st.integers(0, 400)), max_size=60))
def test_posts_like_a_loop(followers, posts):
    publishers = pd.DataFrame({'publisher': range(len(followers)), 'followers': followers})
    table = pd.DataFrame(posts, columns=['publisher', 'clicks']).astype('int64')
    chosen = choose_posts(table, choose_publishers(publishers))
    expected = [
        i
        for i, (publisher, clicks) in enumerate(posts)
        if publisher < len(followers) and 300 <= followers[publisher] <= 1000 and clicks > 200
    ]
    assert chosen.index.tolist() == expected


def test_other_thresholds_and_missing_numbers():
    publishers = pd.DataFrame({'publisher': ['a', 'b'], 'followers': [5, 50]})
    assert choose_publishers(publishers, ThumbnailSetSettings(0, 10)).publisher.tolist() == ['a']
    for bad in (np.nan, -1, 'many'):
        with pytest.raises(ValueError, match='publishers, row 1: followers should be a number'):
            choose_publishers(publishers.astype({'followers': object}).assign(followers=[5, bad]))
    with pytest.raises(ValueError, match='posts: no column clicks; found publisher'):
        choose_posts(publishers[['publisher']], publishers)


# ---------------------------------------------------------------------------------------------------------------- ground truth

def test_the_nearest_is_the_same_scene(sample):
    survey = survey_video(sample)
    cuts = (2.25, 4.75, 6.75, 9.5)
    times = [time for time in np.arange(1, 12, .5) if not (4.2 < time < 4.8 or 6.2 < time < 6.8 or 9.4 < time < 10.3)]
    thumbnails = [cv2.resize(full_frame(survey, time)[1], (200, 112), interpolation=cv2.INTER_AREA) for time in times]
    truth = ground_truth((time, thumbnail, survey.candidates.images) for time, thumbnail in zip(times, thumbnails))
    assert (np.searchsorted(cuts, survey.candidates.times[truth.candidate]) == np.searchsorted(cuts, times)).all()
    assert truth.index.tolist() == times and truth.similarity.between(.9, 1).all()


def test_similarity_goes_from_0_to_1():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (60, 80, 3), np.uint8) for _ in range(4)] + [np.zeros((50, 50, 3), np.uint8)]
    for i, image in enumerate(images):
        index, similarity = nearest_candidate(image, iter(images))
        assert index == i and similarity == pytest.approx(1, abs=1e-6) and similarity <= 1
    assert nearest_candidate(images[0], images[4:])[1] < .35
    with pytest.raises(ValueError, match='no candidates'):
        nearest_candidate(images[0], [])
    assert len(ground_truth([])) == 0


@pytest.mark.parametrize('content, says', [
    (b'', 'is no CSV table'), (b'\n\n', 'is no CSV table'), (b'word,count\ncaf\xe9,1\n', 'expected text in UTF-8'),
    (b'word,count\nsea,3,9\n', 'row 2: has more values than there are columns'), (b'word,count\nsea,3\nlake,3,9\n', 'is no CSV table')])
def test_files_that_are_no_list_of_topics(tmp_path, content, says):
    (tmp_path / 'topics.csv').write_bytes(content)
    with pytest.raises(ValueError, match='topics.csv.*' + says):
        read_topics(tmp_path / 'topics.csv')
