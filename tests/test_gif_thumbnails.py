"""The GIF thumbnail annotations: the real files say what is stated, look-alikes that are malformed are refused by
name.
"""
import copy
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microvid_nb.data.gif_thumbnails import (
    SHOT_COLUMNS, find_problems, flag_gifs, load_gif_thumbnails, load_unannotated_videos, read_annotations, split_videos)

ROOT = Path(__file__).resolve().parent.parent
REAL = Path(os.environ.get('MICROVID_DATA', ROOT.parent / 'shared' / 'data')) / 'gif_thumbnails'
ANNOTATED = {
    '11_101': {
        'gifs': {'a.gif': [4.0, 9.0, 2.0], 'b.gif': [7.0, 7.0, 1.0], 'c.gif': [4, 9, 2]},
        'video_url': 'https://example.org/av11',
        'height': 360,
        'width': 640,
        'fps': 25.0,
        'frames': 300,
    },
    '12_102': {
        'gifs': {'a.gif': [1.0, 3.0, 8.0]},
        'video_url': 'https://example.org/av12',
        'height': 640,
        'width': 360,
        'fps': 29.97,
        'frames': 450,
    },
}
COUNTS = {'12_102': [], '11_101': [0, 2, 5, 3, 8, 1, 0, 4, 2, 6, 1, 0, 2]}


def write(folder, annotated=ANNOTATED, counts=COUNTS):
    for name, content in (('annotated_data', annotated), ('annotated_dm_count', counts)):
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f'{name}.json').write_text(text, encoding='utf-8')
    return folder


@pytest.fixture(scope='module')
def real():
    if not REAL.is_dir():
        pytest.skip('no published GIF annotations here: name the data folder in MICROVID_DATA')
    return load_gif_thumbnails(REAL)


@pytest.fixture(scope='module')
def published():
    """The two files as the standard library reads them, for sums that share no code with the loader."""
    if not REAL.is_dir():
        pytest.skip('no published GIF annotations here: name the data folder in MICROVID_DATA')
    return [json.loads((REAL / f'{name}.json').read_text()) for name in ('annotated_data', 'annotated_dm_count')]


# ---- look-alikes ----

def test_a_look_alike_is_read_as_it_is(tmp_path):
    data = load_gif_thumbnails(write(tmp_path))
    assert data.videos.loc['12_102'].tolist() == [450 / 29.97, 29.97, 360, 640, 'https://example.org/av12']
    assert data.gifs[['key', 'gif', *SHOT_COLUMNS]].values.tolist() == [
        ['11_101', 'a.gif', 4, 9, 2],
        ['11_101', 'b.gif', 7, 7, 1],
        ['11_101', 'c.gif', 4, 9, 2],
        ['12_102', 'a.gif', 1, 3, 8],
    ]
    assert all(data.gifs[shot].dtype == np.int64 for shot in SHOT_COLUMNS)
    assert data.gifs.repeated.tolist() == [False, True, False, False] and data.gifs.out_of_range.tolist() == [
        False,
        False,
        False,
        True,
    ]
    assert list(data.counts) == ['11_101', '12_102'] and data.counts['11_101'].tolist() == COUNTS['11_101']
    assert set(map(tuple, data.problems.values.tolist())) == {
        ('11_101', 'b.gif', 'repeated second'), ('11_101', 'c.gif', 'same shots as an earlier GIF'),
        ('12_102', 'a.gif', 'second without a comment count'), ('12_102', '', 'empty comment list')}


def test_the_second_of_the_last_count_is_in_range_and_the_next_is_not(tmp_path):
    annotated = copy.deepcopy(ANNOTATED)
    annotated['11_101']['gifs'] = {'last.gif': [0, 1, 12], 'next.gif': [0, 13, 1]}
    data = load_gif_thumbnails(write(tmp_path, annotated))
    assert data.gifs.out_of_range.tolist() == [False, True, True]
    assert ('11_101', 'next.gif', 'starts after the end of the video') in set(map(tuple, data.problems.values.tolist()))


def test_a_short_list_and_a_video_without_gifs_are_flagged(tmp_path):
    annotated = copy.deepcopy(ANNOTATED)
    annotated['12_102']['gifs'] = {}
    data = load_gif_thumbnails(write(tmp_path, annotated, {'11_101': [1] * 11, '12_102': [1] * 15}))
    assert set(map(tuple, data.problems.values.tolist())) >= {
        ('11_101', '', 'comment list ends before the video'),
        ('12_102', '', 'no GIF'),
    }


def test_no_video_at_all_gives_empty_tables(tmp_path):
    data = load_gif_thumbnails(write(tmp_path, {}, {}))
    assert (len(data.videos), len(data.gifs), len(data.counts), len(data.problems)) == (0, 0, 0, 0)
    assert list(data.gifs) == ['key', 'gif', *SHOT_COLUMNS, 'repeated', 'out_of_range']


def change(path, value):
    """Annotations with one entry changed; None as the value removes it."""
    annotated = copy.deepcopy(ANNOTATED)
    entry = annotated
    for step in path[:-1]:
        entry = entry[step]
    if value is None:
        del entry[path[-1]]
    else:
        entry[path[-1]] = value
    return annotated


GIF = ('11_101', 'gifs', 'b.gif')


@pytest.mark.parametrize('path, value, words', [
    (GIF, [1, 2, 3, 4], 'three shots, found 4'),
    (GIF, [1, 2], 'three shots, found 2'),
    (GIF, [1, -2, 3], 'found -2 at position 1'),
    (GIF, [1, 2.5, 3], 'found 2.5 at position 1'),
    (GIF, [1, 2, float('nan')], 'found nan at position 2'),
    (GIF, [float('inf'), 2, 3], 'found inf at position 0'),
    (GIF, [1, '2', 3], "found '2' at position 1"),
    (GIF, [1, True, 3], 'found True at position 1'),
    (GIF, [1, [2], 3], r'found \[2\] at position 1'),
    (GIF, [1, 10**400, 3], 'at position 1'),
    (GIF, 'abc', "expected a list of numbers, found 'abc'"),
    (GIF, {'shots': [1, 2, 3]}, 'expected a list of numbers'),
])
def test_a_malformed_gif_is_named(tmp_path, path, value, words):
    with pytest.raises(ValueError, match=f'annotated_data.json, video 11_101, GIF b.gif: .*{words}'):
        load_gif_thumbnails(write(tmp_path, change(path, value)))


@pytest.mark.parametrize('path, value, words', [
    *[(('12_102', field), None, f"found no '{field}'") for field in ('gifs', 'video_url', 'height', 'width', 'fps', 'frames')],
    (('12_102', 'fps'), 0, 'positive fps, found 0'),
    (('12_102', 'fps'), float('nan'), 'positive fps, found nan'),
    (('12_102', 'fps'), '25', "positive fps, found '25'"),
    (('12_102', 'frames'), 0, 'frames: expected whole numbers from 1 .*found 0'),
    (('12_102', 'frames'), 10.5, 'frames: .*found 10.5'),
    (('12_102', 'height'), -640, 'height: .*found -640'),
    (('12_102', 'width'), 'wide', "width: .*found 'wide'"),
    (('12_102', 'video_url'), 12, 'video_url in quotes, found 12'),
    (('12_102', 'gifs'), [[1, 2, 3]], 'gifs: expected an object in braces'),
    (('12_102',), [1, 2], 'expected an object in braces'),
])
def test_a_malformed_video_is_named(tmp_path, path, value, words):
    with pytest.raises(ValueError, match=f'annotated_data.json, video 12_102.*{words}'):
        load_gif_thumbnails(write(tmp_path, change(path, value)))


@pytest.mark.parametrize('counts, words', [
    ({**COUNTS, '12_102': [1, -1]}, 'annotated_dm_count.json, video 12_102: .*found -1 at position 1'),
    ({**COUNTS, '12_102': [1, float('nan')]}, 'annotated_dm_count.json, video 12_102: .*found nan at position 1'),
    ({**COUNTS, '12_102': [1, '1']}, "annotated_dm_count.json, video 12_102: .*found '1' at position 1"),
    ({**COUNTS, '12_102': 4}, 'annotated_dm_count.json, video 12_102: expected a list of numbers, found 4'),
    ({'11_101': [1]}, 'annotated_dm_count.json: expected comment counts for every video of annotated_data.json, found none for 12_102'),
    ({**COUNTS, '13_103': [1]}, 'annotated_data.json: expected annotations for every video of annotated_dm_count.json, found none for 13_103'),
    ('{"11_101": [1], "12_102": [], "11_101": [2]}', "expected each key once, found '11_101' twice"),
    ('[1, 2]', 'expected an object in braces'),
])
def test_malformed_counts_are_named(tmp_path, counts, words):
    with pytest.raises(ValueError, match=words):
        load_gif_thumbnails(write(tmp_path, counts=counts))


@pytest.mark.parametrize('text', ['', '{', '{"11_101": }', 'not JSON', '[' * 100_000, '{"a": ' * 100_000, '{} {}', '\x00', '1' * 5000])
def test_what_is_not_json_is_refused_with_the_file(tmp_path, text):
    with pytest.raises(ValueError, match='annotated_data.json: (expected JSON|holds only zeros)'):
        load_gif_thumbnails(write(tmp_path, text))


def test_bytes_that_are_not_utf8_are_refused_with_the_file(tmp_path):
    (write(tmp_path) / 'annotated_data.json').write_bytes(b'{"\xff": 1}')
    with pytest.raises(ValueError, match='annotated_data.json: expected text in UTF-8'):
        load_gif_thumbnails(tmp_path)


def test_a_key_or_gif_given_twice_is_named(tmp_path):
    video = json.dumps(ANNOTATED['12_102'])
    with pytest.raises(ValueError, match="annotated_data.json: expected each key once, found '12_102' twice"):
        read_annotations(write(tmp_path, f'{{"12_102": {video}, "12_102": {video}}}'))
    video = video.replace('"a.gif": [1.0, 3.0, 8.0]', '"a.gif": [1, 3, 8], "a.gif": [2, 4, 6]')
    with pytest.raises(ValueError, match="video 12_102, gifs: expected each key once, found 'a.gif' twice"):
        read_annotations(write(tmp_path, f'{{"12_102": {video}}}'))


@pytest.mark.parametrize('name', ['annotated_data.json', 'annotated_dm_count.json'])
def test_a_missing_file_says_where_it_is_published(tmp_path, name):
    (write(tmp_path) / name).unlink()
    with pytest.raises(FileNotFoundError, match=f'{name}.*https://github.com/xyiyy/GIF-Thumbnails'):
        load_gif_thumbnails(tmp_path)


@pytest.mark.parametrize('text, words', [
    ('{"13_103": {"seconds": 60}}', "video 13_103: .*found no 'video_url'"),
    ('{"13_103": {"seconds": -1, "video_url": ""}}', 'video 13_103, seconds: .*found -1'),
    ('{"13_103": {"seconds": NaN, "video_url": ""}}', 'video 13_103, seconds: .*found nan'),
    ('{"13_103": {"seconds": 60, "video_url": null}}', 'video 13_103: .*video_url in quotes, found None'),
    ('{"13_103": 60}', 'video 13_103: expected an object in braces'),
    ('{"13\\n103": 60}', r"unannotated_data.json: expected keys that can be printed, found '13\\n103'"),
])
def test_malformed_pilot_videos_are_named(tmp_path, text, words):
    (tmp_path / 'unannotated_data.json').write_text(text)
    with pytest.raises(ValueError, match=words):
        load_unannotated_videos(tmp_path)


# ---- properties ----

KEYS = st.lists(st.text(max_size=12), unique=True, max_size=60)


@given(KEYS, st.integers(0, 2**32), st.randoms())
def test_a_split_holds_every_key_once_whatever_their_order(keys, seed, random):
    parts = split_videos(keys, seed)
    assert sorted(sum(parts, [])) == sorted(keys)
    assert all(abs(len(part) - len(keys) * share / 1070) <= 1 for part, share in zip(parts, (857, 106, 107)))
    random.shuffle(keys)
    assert split_videos(iter(keys), seed) == parts


def test_splits_have_the_papers_sizes_and_are_fair():
    """Over many seeds every video is in the test part as often as any other, within what chance allows."""
    keys = [f'{i}_{i}' for i in range(1070)]
    times = dict.fromkeys(keys, 0)
    for seed in range(300):
        parts = split_videos(keys, seed)
        assert [len(part) for part in parts] == [857, 106, 107]
        for key in parts[2]:
            times[key] += 1
    spread = np.var(list(times.values())) / (300 * .1 * .9)   # 1 for binomial draws
    assert .85 < spread < 1.15


SECONDS = st.integers(0, 12)


@given(st.lists(st.tuples(st.sampled_from('abc'), SECONDS, SECONDS, SECONDS), max_size=30), st.lists(st.integers(0, 12), min_size=3, max_size=3))
def test_flags_agree_with_a_slow_loop(rows, lengths):
    import pandas as pd
    counts = {key: np.ones(n, int) for key, n in zip('abc', lengths)}
    table = pd.DataFrame(
        [(key, f'{i}.gif', *shots) for i, (key, *shots) in enumerate(rows)], columns=['key', 'gif', *SHOT_COLUMNS]
    )
    videos = pd.DataFrame({'duration': [11.5] * 3}, index=pd.Index(list('abc'), name='key'))
    flagged = flag_gifs(table, counts)
    assert flagged.repeated.tolist() == [len(set(shots)) < 3 for _, *shots in rows]
    assert flagged.out_of_range.tolist() == [any(shot >= len(counts[key]) for shot in shots) for key, *shots in rows]
    expected = set()
    for i, (key, *shots) in enumerate(rows):
        expected |= {(key, f'{i}.gif', 'repeated second')} if len(set(shots)) < 3 else set()
        expected |= {(key, f'{i}.gif', 'second without a comment count')} if max(shots) >= len(counts[key]) else set()
        expected |= {(key, f'{i}.gif', 'starts after the end of the video')} if max(shots) >= 11.5 else set()
        expected |= {(key, f'{i}.gif', 'same shots as an earlier GIF')} if (key, *shots) in rows[:i] else set()
    for key in 'abc':
        expected |= {(key, '', 'no GIF')} if key not in {row[0] for row in rows} else set()
        expected |= {(key, '', 'empty comment list')} if not len(counts[key]) else set()
        expected |= {(key, '', 'comment list ends before the video')} if 0 < len(counts[key]) < 11 else set()
    problems = find_problems(videos, flagged, counts).values.tolist()
    assert len(problems) == len(expected) and set(map(tuple, problems)) == expected


# ---- the published files ----

def test_the_published_files_hold_what_the_files_hold(real, published):
    annotated, counts = published
    assert real.videos.index.tolist() == list(annotated)
    assert real.gifs[['key', 'gif', *SHOT_COLUMNS]].values.tolist() == [
        [key, gif, *map(int, shots)] for key, video in annotated.items() for gif, shots in video['gifs'].items()
    ]
    assert all(real.counts[key].tolist() == seconds for key, seconds in counts.items()) and len(real.counts) == len(
        counts
    )
    for column in ('fps', 'width', 'height'):
        assert real.videos[column].tolist() == [video[column] for video in annotated.values()]


def test_published_sizes(real):
    per_video = real.gifs.groupby('key').size()
    assert (len(real.videos), len(real.gifs), per_video.min(), per_video.max()) == (1070, 5394, 1, 21)
    assert real.videos.duration.sum() / 3600 == pytest.approx(69.248, abs=1e-3)
    assert round(real.videos.duration.sum() / 3600, 1) == 69.2
    assert (real.videos.duration.min(), real.videos.duration.max()) == (pytest.approx(20.033), pytest.approx(1600.44))
    assert (real.videos.height > real.videos.width).sum() == 63


def test_published_quirks(real):
    assert real.problems.what.value_counts().to_dict() == {
        'repeated second': 129, 'same shots as an earlier GIF': 46, 'comment list ends before the video': 7,
        'second without a comment count': 4, 'empty comment list': 1}
    assert (real.gifs.repeated.sum(), real.gifs.out_of_range.sum()) == (129, 4)
    lengths = np.array([len(real.counts[key]) for key in real.videos.index])
    excess = lengths - np.floor(real.videos.duration).to_numpy()
    assert ((excess >= 1) & (excess <= 3)).sum() == 1051 and excess.min() == -314
    chronological = real.gifs.shot1.le(real.gifs.shot2) & real.gifs.shot2.le(real.gifs.shot3)
    assert (chronological.sum(), (chronological & ~real.gifs.repeated).sum()) == (1719, 1652)


def test_four_gifs_name_nine_seconds_beyond_their_lists(published):
    """Three seconds in two GIFs of one video, and all six of the two GIFs of the video whose list is empty."""
    annotated, counts = published
    beyond = [
        (key, gif)
        for key, video in annotated.items()
        for gif, shots in video['gifs'].items()
        for shot in shots
        if shot >= len(counts[key])
    ]
    assert (len(beyond), len(set(beyond)), sum(len(counts[key]) == 0 for key, _ in beyond)) == (9, 4, 6)


def test_published_posterior_scores(published):
    """Over videos with comments: chance 0.90, the mean annotated GIF 1.44, the best 1.75."""
    annotated, counts = published
    chance, mean, best = [], [], []
    for key, seconds in counts.items():
        if not seconds:
            continue
        scores = [
            sum(seconds[int(shot)] for shot in shots if shot < len(seconds)) / max(seconds)
            for shots in annotated[key]['gifs'].values()
        ]
        chance.append(3 * sum(seconds) / len(seconds) / max(seconds))
        mean.append(sum(scores) / len(scores))
        best.append(max(scores))
    assert len(chance) == 1069
    assert [round(float(np.mean(scores)), 2) for scores in (chance, mean, best)] == [.90, 1.44, 1.75]


def test_published_split_and_pilot_videos(real):
    parts = split_videos(real.videos.index)
    assert [len(part) for part in parts] == [857, 106, 107] and set(sum(parts, [])) == set(real.videos.index)
    pilot = load_unannotated_videos(REAL)
    assert len(pilot) == 9814 and pilot.duration.sum() / 3600 == pytest.approx(1231.73, abs=.01)
    assert not set(pilot.index) & set(real.videos.index)
