"""UCF101's lists come back as they are written, and what contradicts itself is named with its line."""
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microvid_nb.data.files import real_folder
from microvid_nb.data.ucf101 import missing_videos, probe_audio, read_class_names, read_ucf101_split, shared_groups
from microvid_nb.media.render import write_video

CLASSES = ['Hammering', 'HammerThrow', 'HandstandPushups']
FILES = {'HandstandPushups': 'HandStandPushups'}


def put(folder, classes=CLASSES, train=(), test=(), end='\n', number=1):
    folder.mkdir(exist_ok=True)
    for name, lines in (
        ('classInd.txt', [f'{i} {name}' for i, name in enumerate(classes, 1)]),
        (f'trainlist{number:02}.txt', train),
        (f'testlist{number:02}.txt', test),
    ):
        (folder / name).write_bytes(''.join(line + end for line in lines).encode())
    return folder


def clip(name, group=1, number=1, label=None):
    return f'{name}/v_{FILES.get(name, name)}_g{group:02}_c{number:02}.avi' + (f' {label}' if label else '')


TRAIN = [clip('HandstandPushups', 8, 1, 3), clip('Hammering', 8, 2, 1), clip('HammerThrow', 25, 7, 2)]
TEST = [clip('HammerThrow', 1), clip('HandstandPushups', 7, 3)]


@pytest.mark.parametrize('end', ['\n', '\r\n', '\r'])
def test_read(tmp_path, end):
    clips = read_ucf101_split(put(tmp_path, train=TRAIN, test=TEST, end=end))
    expected = pd.DataFrame(
        {
            'path': [line.split()[0] for line in TRAIN + TEST],
            'class_name': ['HandstandPushups', 'Hammering', 'HammerThrow', 'HammerThrow', 'HandstandPushups'],
            'class_id': [2, 0, 1, 1, 2],
            'group': [8, 8, 25, 1, 7],
            'clip': [1, 2, 7, 1, 3],
            'split': ['train'] * 3 + ['test'] * 2,
        }
    )
    pd.testing.assert_frame_equal(clips, expected)


def test_other_splits_have_their_own_files(tmp_path):
    put(tmp_path, train=TRAIN, test=TEST)
    put(tmp_path, train=TRAIN[:1], test=TEST[:1], number=3)
    assert len(read_ucf101_split(tmp_path, 3)) == 2
    with pytest.raises(
        FileNotFoundError, match=r'trainlist02\.txt: .* published at https://www\.crcv\.ucf\.edu/data/UCF101\.php'
    ):
        read_ucf101_split(tmp_path, 2)


CLIPS = st.sets(st.tuples(st.sampled_from(CLASSES), st.integers(1, 4), st.integers(1, 3)), min_size=2, max_size=20).map(
    sorted
)


@settings(deadline=None)
@given(clips=CLIPS, data=st.data())
def test_a_split_is_read_exactly_where_no_group_is_on_both_sides(tmp_path_factory, clips, data):
    train = data.draw(st.sets(st.sampled_from(clips), min_size=1, max_size=len(clips) - 1))
    test = set(clips) - train
    folder = put(
        tmp_path_factory.mktemp('lists'),
        train=[clip(*row, label=CLASSES.index(row[0]) + 1) for row in sorted(train)],
        test=[clip(*row) for row in sorted(test)],
    )
    shared = {row[:2] for row in train} & {row[:2] for row in test}
    if shared:
        with pytest.raises(ValueError, match=r'trainlist01\.txt and testlist01\.txt both have clips of') as caught:
            read_ucf101_split(folder)
        assert '{} g{:02}'.format(*min(shared)) in str(caught.value)
    else:
        found = read_ucf101_split(folder)
        assert (
            set(found[found.split == 'train'][['class_name', 'group', 'clip']].itertuples(index=False, name=None))
            == train
        )
        assert (
            set(found[found.split == 'test'][['class_name', 'group', 'clip']].itertuples(index=False, name=None))
            == test
        )
        assert [CLASSES[number] for number in found.class_id] == found.class_name.tolist()


def test_shared_groups_counts_both_sides():
    clips = pd.DataFrame(
        {
            'class_name': list('aaaabb'),
            'group': [1, 1, 1, 2, 1, 2],
            'split': ['train', 'train', 'test', 'test', 'train', 'test'],
        }
    )
    assert shared_groups(clips).to_dict('records') == [{'class_name': 'a', 'group': 1, 'train': 2, 'test': 1}]
    assert len(shared_groups(clips[clips.split == 'train'])) == 0


@pytest.mark.parametrize('line, message', [
    (clip('Juggling', 9, 1, 1), 'the class Juggling is not in classInd.txt'),
    ('HammerThrow/v_Hammering_g09_c01.avi 2', 'folder and file name disagree about the class: HammerThrow and Hammering'),
    (clip('Hammering', 9, 1, 2), 'the label is 2, but classInd.txt gives Hammering the number 1'),
    (clip('Hammering', 9, 1), r'expected "Class/v_Class_gXX_cYY.avi label", found'),
    ('v_Hammering_g09_c01.avi 1', 'expected "Class/v_Class_gXX_cYY.avi label", found'),
    ('Hammering/v_Hammering_c01.avi 1', 'expected "Class/v_Class_gXX_cYY.avi label", found'),
    ('../Hammering/v_Hammering_g09_c01.avi 1', 'expected "Class/v_Class_gXX_cYY.avi label", found'),
    (TRAIN[0], 'was there before, in line 1'),
])
def test_wrong_lines_are_named(tmp_path, line, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_ucf101_split(put(tmp_path, train=[*TRAIN, line], test=TEST))
    assert 'trainlist01.txt, line 4: ' in str(caught.value)


def test_a_test_list_has_no_labels_but_wrong_ones_are_named(tmp_path):
    assert len(read_ucf101_split(put(tmp_path, train=TRAIN, test=[clip('Hammering', 1, 1, 1)]))) == 4
    with pytest.raises(ValueError, match=r'testlist01\.txt, line 1: the label is 3'):
        read_ucf101_split(put(tmp_path, train=TRAIN, test=[clip('Hammering', 1, 1, 3)]))


@pytest.mark.parametrize('text, message', [
    ('1 A\n3 B\n', r"classInd\.txt, line 2: expected \"2 ClassName\", found '3 B'"), ('0 A\n', 'line 1: expected "1 ClassName"'), ('1 A\n\n2 A\n', 'line 3: the class A is there twice'),
    ('A\n', 'line 1: expected "1 ClassName"'), ('1 A B\n', 'line 1: expected "1 ClassName"'), ('', 'found none')])
def test_wrong_class_lists_are_named(tmp_path, text, message):
    (tmp_path / 'classInd.txt').write_text(text)
    with pytest.raises(ValueError, match=message):
        read_class_names(tmp_path / 'classInd.txt')


def test_empty_list(tmp_path):
    with pytest.raises(ValueError, match=r'testlist01\.txt: expected a line for each clip'):
        read_ucf101_split(put(tmp_path, train=TRAIN))


def test_videos(tmp_path):
    clips, videos = read_ucf101_split(put(tmp_path / 'lists', train=TRAIN, test=TEST)), tmp_path / 'videos'
    picture, noise = (
        np.full((8, 48, 64, 3), 90, np.uint8),
        np.random.default_rng(0).normal(size=8000).astype(np.float32) / 10,
    )
    write_video(videos / clips.path[0], picture, fps=8)
    write_video(videos / clips.path[1], picture, fps=8, samples=noise, sr=8000)
    (videos / 'HammerThrow').mkdir()
    (videos / clips.path[2]).write_bytes(b'not a video')
    assert missing_videos(clips, videos).path.tolist() == clips.path.tolist()[3:]
    heard = probe_audio(clips, videos)
    assert heard.has_audio.fillna(False).tolist() == [
        False,
        True,
        False,
        False,
        False,
    ] and heard.has_audio.isna().tolist() == [False, False, True, True, True]
    assert (heard.problem == '').tolist() == [True, True, False, False, False] and heard.problem[3] == 'no such file'
    pd.testing.assert_frame_equal(heard[clips.columns], clips)
    assert len(probe_audio(clips[:0], videos)) == 0
    with pytest.raises(FileNotFoundError, match='the folder of UCF101 videos'):
        missing_videos(clips, tmp_path / 'nowhere')


def test_real_lists():
    folder = real_folder('ucf101')
    if folder is None:
        pytest.skip('no real UCF101 lists here: put ucfTrainTestlist into the folder ucf101 of MICROVID_DATA')
    for number, sizes in enumerate([(9537, 3783), (9586, 3734), (9624, 3696)], 1):
        clips = read_ucf101_split(next(folder.rglob('classInd.txt')).parent, number)
        assert tuple(clips.split.value_counts()[['train', 'test']]) == sizes
        assert clips.class_id.nunique() == 101 and len(clips) == 13320
