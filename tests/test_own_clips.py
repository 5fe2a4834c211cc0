"""Models of the user's own labelled clips: pans over photographs, learned from a folder and asked through the commands."""
import json

import pytest

pytest.importorskip('torch')
pytest.importorskip('sentence_transformers')

from command import microvid

from microvid_nb.answers import classify, thumbnail, venue
from microvid_nb.data.splices import splice
from microvid_nb.own_clips import labelled_clips, train_on_clips
from microvid_nb.tasks import load


@pytest.fixture(scope='module')
def clips(tmp_path_factory):
    """Two kinds of clips, three of each: a folder for each, and further clips that no model has seen."""
    folder = tmp_path_factory.mktemp('own')
    for name in ('cat', 'coffee'):
        (folder/'labelled'/name).mkdir(parents=True)
        for seed in range(3): splice(folder/'labelled'/name/f'{seed}.mp4', {name: name}, 1., seed=seed)
        splice(folder/f'{name}.mp4', {name: name}, 1., seed=8)
    splice(folder/'both.mp4', {'cat': 'cat', 'coffee': 'coffee'}, 2., seed=9)
    return folder


def test_classes_of_ones_own(clips, tmp_path):
    code, out, errors = microvid('train', 'classify', '--data', clips/'labelled', '--out', tmp_path/'mine.safetensors')
    assert code == 0, errors
    model = load(tmp_path/'mine.safetensors')
    assert model.task.name == 'classify' and model.knows_photographs and '6 labelled clips of 2 classes' in model.note
    for name in ('cat', 'coffee'):
        answer = classify(clips/f'{name}.mp4', model)
        assert answer.things.thing[0] == name and name in answer.summary and answer.trained_on == model.note
    code, out, errors = microvid('classify', clips/'coffee.mp4', '--model', tmp_path/'mine.safetensors', '--json')
    assert code == 0 and json.loads(out)[0]['things'][0]['thing'] == 'coffee'
    code, _, errors = microvid('venue', clips/'coffee.mp4', '--model', tmp_path/'mine.safetensors')
    assert code == 2 and len(errors.splitlines()) == 1


def test_places_by_titles_of_a_table(clips, tmp_path):
    """The same pictures have two places; the titles tell which."""
    rows = ['path,label,title'] + [f'{name}/{k}.mp4,{place},{title}' for name in ('cat', 'coffee') for k in range(2)
                                   for place, title in [(('home', 'my sofa'), ('office', 'a meeting'))[k]]]
    table = clips/'labelled'/'labels.csv'
    table.write_text('\n'.join(rows) + '\n')
    try: model = load(train_on_clips('venue', clips/'labelled', tmp_path/'places.safetensors', progress=False))
    finally: table.unlink()
    assert model.task.name == 'venue'
    for title, place in (('on the sofa', 'home'), ('the meeting', 'office')):
        found = venue(clips/'cat.mp4', title, model)
        assert found.venues.venue[0] == place and found.missing == ()
    assert venue(clips/'cat.mp4', None, model).missing == ('text',)


def test_topics_of_ones_own(clips, tmp_path):
    path = train_on_clips('thumbnail', clips/'labelled', tmp_path/'topics.safetensors', progress=False)
    for topic, seconds in (('cat', (0, 2)), ('coffee', (2, 4))):
        found = thumbnail(clips/'both.mp4', topic, path, lam=0.)
        assert seconds[0] <= found.time < seconds[1], (topic, found.time)
    with pytest.raises(ValueError, match='zebra'): thumbnail(clips/'both.mp4', 'zebra', path)


@pytest.mark.parametrize('table, wrong', [
    ('path,label,mood\ncat/0.mp4,cat,good\n', 'unknown column mood'),
    ('path,label\ncat/7.mp4,cat\n', 'row 2: cat/7.mp4 is not there'),
    ('path,label\ncat/0.mp4,cat\ncat/1.mp4,cat\ncoffee/0.mp4,coffee\n', "class 'coffee' has one clip"),
    ('path,label\ncat/0.mp4,\n', 'row 2: label is empty'),
])
def test_bad_tables_are_one_line(clips, tmp_path, table, wrong):
    (tmp_path/'clips').symlink_to(clips/'labelled')
    (tmp_path/'labels.csv').write_text(table.replace('cat/', 'clips/cat/').replace('coffee/', 'clips/coffee/'))
    code, _, errors = microvid('train', 'classify', '--data', tmp_path, '--out', tmp_path/'no.safetensors')
    assert code == 2 and wrong in errors.replace('clips/', '') and len(errors.splitlines()) == 1
    assert not (tmp_path/'no.safetensors').exists()


def test_a_broken_clip_is_named(clips, tmp_path):
    for name in ('cat', 'coffee'):
        (tmp_path/name).mkdir()
        for k in range(2): (tmp_path/name/f'{k}.mp4').write_bytes(b'no video')
    assert len(labelled_clips(tmp_path)) == 4
    code, _, errors = microvid('train', 'venue', '--data', tmp_path, '--out', tmp_path/'no.safetensors')
    assert code == 2 and '0.mp4' in errors and len(errors.splitlines()) == 1


def test_shots_have_no_classes(clips, tmp_path):
    code, _, errors = microvid('train', 'gif', '--data', clips/'labelled', '--out', tmp_path/'no.safetensors')
    assert code == 2 and 'have no classes' in errors
