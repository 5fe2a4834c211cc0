"""`import microvid_nb as mv`: quick, lazy, and the same from every side."""
import inspect
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import microvid_nb as mv

CALLS = 'survey thumbnail gif classify venue card features load open_world'.split()


def python(code: str) -> str:
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_import_reads_the_standard_library_only():
    code = '''
import sys
before = set(sys.modules)
import microvid_nb
print(*sorted({name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))
'''
    assert python(code).split() == ['microvid_nb']


@pytest.mark.parametrize('call', CALLS)
def test_every_call_is_listed_and_described(call):
    function = getattr(mv, call)
    assert callable(function) and call in dir(mv)
    assert inspect.signature(function).parameters
    described = function if inspect.isfunction(function) else None
    if described: assert described.__doc__


@pytest.mark.parametrize('order', ['import microvid_nb.gif.select, microvid_nb as mv', 'import microvid_nb as mv; mv.gif; import microvid_nb.gif.select'])
def test_a_folder_stays_a_folder_and_can_be_called(order, sample):
    code = f'''
{order}
from microvid_nb import gif
import microvid_nb.gif.select as select
assert mv.gif is gif and gif.select is select and callable(gif)
print(len(mv.gif({str(sample)!r}).times))
'''
    assert python(code).strip() == '3'


def test_no_other_name():
    with pytest.raises(AttributeError, match='soup'): mv.soup


def test_thumbnail_and_gif_need_no_pytorch(sample, tmp_path):
    """Neither PyTorch nor any library of the extras is imported, or needed."""
    code = f'''
import sys
class Absent:
    names = 'torch torchvision librosa gensim numba dask distributed pyarrow matplotlib seaborn ipywidgets h5py'.split()
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in self.names: raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Absent())
import microvid_nb as mv
survey = mv.survey({str(sample)!r})
mv.thumbnail(survey).save({str(tmp_path / "a.jpg")!r})
mv.gif(survey).save({str(tmp_path / "a.gif")!r})
survey._repr_html_(), mv.thumbnail(survey)._repr_html_(), mv.gif(survey)._repr_html_()
card = mv.card(survey)
card.save({str(tmp_path / "a.html")!r})
print(card.lacking)
try: mv.classify(survey)
except ImportError as error: print(error)
'''
    card, answer = python(code).strip().splitlines()
    assert card == answer and 'pip install' in card and 'microvid_nb[models]' in card
    assert Image.open(tmp_path / 'a.gif').n_frames == 24


@pytest.fixture(scope='module')
def answers(sample):
    survey = mv.survey(sample)
    return {call: getattr(mv, call)(survey) for call in ('thumbnail', 'gif', 'classify', 'venue', 'card')} | {'survey': survey}


@pytest.mark.parametrize('call', ['survey', 'thumbnail', 'gif', 'classify', 'venue', 'card'])
def test_answers_show_themselves_and_are_plain_data(answers, call, sample):
    answer = answers[call]
    html, data = answer._repr_html_(), answer.to_dict()
    assert 'sample.mp4' in html and html.count('class="microvid"') == 1 and '<script' not in html
    assert json.loads(answer.to_json()) == data and data['path'] == str(sample)


def test_answers_are_those_of_the_modules(answers, sample):
    from microvid_nb.gif.select import select_gif
    from microvid_nb.thumbnail.select import select_thumbnail
    assert answers['thumbnail'].time == select_thumbnail(sample).time == answers['card'].thumbnail.time
    np.testing.assert_array_equal(answers['gif'].times, select_gif(sample).times)


def test_every_answer_names_what_its_model_was_trained_on(answers):
    assert answers['thumbnail'].trained_on == answers['gif'].trained_on == ''
    asked = mv.card(answers['survey'], world=True).answers
    assert len(asked) == 4 and [answer.name for answer in answers['card'].answers] == ['classify', 'venue']
    for answer in asked: assert 'MicroWorld' in answer.trained_on and answer.trained_on in answer._repr_html_()
    for answer in (answers['classify'], answers['venue'], *answers['card'].answers):
        assert answer.trained_on.startswith('photographs') and 'MicroWorld' not in answer._repr_html_()


def test_a_model_without_opinion_cannot_tell():
    import pandas as pd

    from microvid_nb.answers import undecided
    names = [f'scene {i}' for i in range(12)]
    flat = pd.DataFrame({'scene': names, 'probability': np.r_[.1, np.full(11, .9 / 11)]})
    certain = pd.DataFrame({'scene': names, 'probability': np.r_[.6, np.full(11, .4 / 11)]})
    assert '12 names' in undecided(flat) and undecided(certain) == ''


def test_wrong_requests_name_the_cause(sample, tmp_path):
    with pytest.raises(ValueError, match='topics'): mv.thumbnail(sample, model='thumbnail')
    with pytest.raises(ValueError, match='no extractor'): mv.features(sample, 'soup')
    with pytest.raises(ValueError, match='holds a VideoToVenue'): mv.gif(sample, model=mv.load('venue').path)
    with pytest.raises(FileNotFoundError, match='nowhere'): mv.load(tmp_path / 'nowhere.safetensors')
    with pytest.raises(ValueError, match='.json or .html'): mv.gif(sample).save(tmp_path / 'a.doc')


def test_features_are_a_row_for_each_clip(sample):
    table = mv.features([sample, str(sample)], 'quality')
    assert list(table.index) == [str(sample)] * 2 and table.iloc[0].equals(table.iloc[1])
    assert mv.features(mv.survey(sample), 'quality').iloc[0].equals(table.iloc[0])


def test_every_answer_is_about_the_part_that_was_asked_for(sample):
    survey = mv.survey(sample, start=4., end=8.)
    assert 4 <= mv.thumbnail(survey).time < 8 and 4 <= mv.thumbnail(sample, start=4., end=8.).time < 8
    for gif in (mv.gif(survey), mv.gif(survey, 'gif')):
        assert len(gif.scores) == 4 and all(4 <= time < 8 for time in gif.times)
    assert all(4 <= time < 8 for time in mv.classify(survey).times)
    assert len(mv.venue(survey, model='venue').context.sound) == pytest.approx(4 * 22050, abs=1500)
    assert len(mv.venue(sample, model='venue').context.sound) == pytest.approx(12 * 22050, abs=1500)
