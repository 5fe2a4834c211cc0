"""The command as a user runs it: in a process of its own."""
import json
import os
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from command import microvid
from PIL import Image
from typer.testing import CliRunner

from microvid_nb.cli import app
from microvid_nb.features.pretrained import pretrained_encoders


def test_thumbnail_and_gif(sample, tmp_path):
    assert microvid('thumbnail', sample, '--out', tmp_path)[0] == 0
    assert Image.open(tmp_path / 'sample.jpg').size == (640, 360)
    code, out, _ = microvid('gif', sample, '--out', tmp_path, '--json', '--width', 200, '--fps', 5)
    record, = json.loads(out)
    gif = Image.open(record['gif'])
    assert (
        code == 0
        and gif.size == (200, 112)
        and gif.n_frames == 15
        and record['bytes'] == (tmp_path / 'sample.gif').stat().st_size
    )
    assert len(record['times']) == 3 and record['times'] == sorted(record['times'])


def test_time_takes_that_frame(sample, tmp_path):
    code, out, _ = microvid('thumbnail', sample, '--out', tmp_path, '--time', 5.5, '--json')
    record, = json.loads(out)
    assert code == 0 and record['time'] == pytest.approx(5.5, abs=1 / 24) and record['index'] == -1


def test_folder_with_good_and_bad(sample, tmp_path):
    (tmp_path / 'in' / 'deep').mkdir(parents=True)
    shutil.copy(sample, tmp_path / 'in' / 'deep' / 'a b.MP4')
    (tmp_path / 'in' / 'bad.mov').write_bytes(os.urandom(3000))
    (tmp_path / 'in' / 'empty.webm').touch()
    (tmp_path / 'in' / 'letter.txt').write_text('not looked at')
    code, out, err = microvid('thumbnail', tmp_path / 'in', '--out', tmp_path / 'out', '--json')
    records = {Path(record['path']).name: record for record in json.loads(out)}
    assert code == 1 and set(records) == {'a b.MP4', 'bad.mov', 'empty.webm'}
    assert records['empty.webm']['error'] == 'is empty (0 bytes)' and 'thumbnail' in records['a b.MP4']
    assert len([line for line in err.splitlines() if line.startswith('error: ')]) == 2
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['a b.jpg']


def test_same_names_do_not_overwrite_each_other(sample, tmp_path):
    paths = [tmp_path / 'x' / 'clip.mp4', tmp_path / 'y' / 'clip.mp4', tmp_path / 'y' / 'Clip.mov']
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        shutil.copy(sample, path)
    code, out, _ = microvid('thumbnail', *paths, '--out', tmp_path / 'out', '--json')
    names = [record['thumbnail'].lower() for record in json.loads(out)]
    assert code == 0 and len(set(names)) == 3 and len(list((tmp_path / 'out').iterdir())) == 3


@pytest.mark.parametrize('command', ['thumbnail', 'gif', 'candidates', 'probe', 'classify'])
def test_bad_input_is_one_line_and_status_2(command, tmp_path):
    (tmp_path / 'words.mp4').write_text('words')
    for path in ('words.mp4', 'nowhere.mp4'):
        code, _, err = microvid(command, path, cwd=tmp_path)
        assert code == 2 and len(err.strip().splitlines()) == 1 and path in err
    assert microvid(command, '*.avi', cwd=tmp_path)[0] == 2
    code, out, err = microvid(command, 'nowhere.mp4', '--lamb', cwd=tmp_path)
    assert code == 2 and not out and len(err.strip().splitlines()) == 1 and err.startswith('error: ')


def test_damaged_file_warns_once_and_succeeds(sample, tmp_path):
    cut = tmp_path / 'cut.mp4'
    cut.write_bytes(sample.read_bytes()[:int(sample.stat().st_size * .6)])
    code, out, err = microvid('thumbnail', cut, '--out', tmp_path, '--json')
    assert code == 0 and err.count('warning: ') == 1 and 's could not be decoded' in err
    assert json.loads(out)[0]['warnings'][0].startswith(str(cut))


@pytest.mark.check
def test_card_page(sample, tmp_path):
    code, out, _ = microvid('card', sample, '--world', '--out', tmp_path)
    page = (tmp_path / 'index.html').read_text(encoding='utf-8')
    assert code == 0 and out.splitlines()[-1] == f'page: {tmp_path}/index.html'
    assert page.count('data:image/gif;base64,') == 2 and 'http://' not in page and 'https://' not in page
    assert page.lower().count('<!doctype') == 1 and page.count('never seen a photograph') == 3
    assert {path.name for path in tmp_path.iterdir()} == {'index.html', 'sample.jpg', 'sample.gif', 'sample-generated.gif'}


@pytest.mark.check
def test_card_asks_models_only_about_what_they_know(sample, tmp_path):
    code, out, _ = microvid('card', sample, '--out', tmp_path, '--json')
    page, record = (tmp_path / 'index.html').read_text(encoding='utf-8'), json.loads(out)[0]
    assert code == 0 and page.count('Answered by') == 2 and 'MicroWorld' not in page
    assert len(record['classify']['things']) == 5 and set(record['venue']['venues'][0]) >= {'venue', 'categories'}
    assert {path.name for path in tmp_path.iterdir()} == {'index.html', 'sample.jpg', 'sample.gif'}


@pytest.mark.check
def test_card_without_a_path_makes_its_clips(tmp_path):
    code, out, _ = microvid('card', '--out', tmp_path)
    assert code == 0 and len(list(tmp_path.glob('*.mp4'))) == 3 == len(list(tmp_path.glob('*.jpg')))
    page = (tmp_path / 'index.html').read_text(encoding='utf-8')
    assert page.count('<section>') == 3 and page.count('never seen a photograph') == 3 and page.count('Answered by') == 8
    assert len(page) < 3e6
    assert len(page) < 3e6


@pytest.mark.parametrize('arguments', [
    ['gif', '--fps', 'nan'], ['gif', '--fps', 'inf'], ['gif', '--fps', '0'], ['gif', '--width', '-3'],
    ['thumbnail', '--lam', 'nan'], ['thumbnail', '--lam', 'inf'], ['thumbnail', '--time', '-1'],
    ['probe', '--workers', '0'], ['candidates', '--start', 'nan'], ['candidates', '--end', '-1'],
    ['candidates', '--start', '5', '--end', '4'], ['classify', '--stream', '-1'], ['features', '--workers', '1e9'],
], ids=' '.join)
def test_numbers_have_bounds(arguments, sample):
    code, out, err = microvid(arguments[0], sample, *arguments[1:])
    assert code == 2 and not out and len(err.splitlines()) == 1 and err.startswith('error: ')


def test_part_of_a_clip(sample, tmp_path):
    code, out, _ = microvid('candidates', sample, '--start', 4, '--end', 8, '--json')
    times = [row['time'] for row in json.loads(out)[0]['candidates']]
    assert code == 0 and times and all(4 <= time < 8 for time in times)


@pytest.mark.check
def test_several_workers_give_the_same(sample, tmp_path):
    for name in 'abc':
        shutil.copy(sample, tmp_path / f'{name}.mp4')
    (tmp_path / 'b.mp4').write_bytes(b'no video at all')
    one, three = (microvid('candidates', tmp_path, '--json', '--workers', workers) for workers in (1, 3))
    assert one == three and one[0] == 1 and len(json.loads(one[1])) == 3


def test_version_models_and_completion():
    assert microvid('--version')[1].startswith('microvid_nb ')
    code, out, _ = microvid('models', '--json')
    records = {record['name']: record for record in json.loads(out)}
    assert code == 0 and set(records) == {'thumbnail', 'gif', 'classify', 'venue', *pretrained_encoders()}
    for name, encoder in pretrained_encoders().items():
        assert records[name]['licence'] == encoder.licence and records[name]['installed'] == encoder.version
    lines = microvid('models')[1]
    assert all(encoder.trained_on in lines and encoder.source in lines for encoder in pretrained_encoders().values())
    assert '--install-completion' in microvid('--help')[1]


def test_unwritable_out(sample, tmp_path):
    (tmp_path / 'file').touch()
    code, _, err = microvid('thumbnail', sample, '--out', tmp_path / 'file')
    assert code == 2 and err.startswith('error: ')


@pytest.fixture
def base(tmp_path) -> dict:
    """An environment in which the libraries of the extras are absent."""
    (tmp_path / 'absent').mkdir()
    (tmp_path / 'absent' / 'sitecustomize.py').write_text('''
import sys
class Absent:
    names = "torch torchvision librosa gensim numba dask distributed pyarrow matplotlib seaborn h5py safetensors".split()
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names: raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
''')
    paths = [str(tmp_path / 'absent'), *filter(None, [os.environ.get('PYTHONPATH')])]
    return {**os.environ, 'PYTHONPATH': os.pathsep.join(paths)}


@pytest.mark.parametrize('command', ['thumbnail', 'gif', 'candidates', 'probe', 'card'])
def test_base_commands_need_no_extra(command, sample, tmp_path, base):
    code, out, err = microvid(command, sample, '--out', tmp_path / 'out', env=base)
    assert code == 0 and err == '' and 'sample.mp4' in out
    if command == 'card': assert 'microvid_nb[models]' in (tmp_path / 'out' / 'index.html').read_text(encoding='utf-8')


@pytest.mark.parametrize('arguments, extra', [
    (['classify'], 'models'), (['venue'], 'models'), (['gif', '--model', 'gif'], 'models'), (['thumbnail', '--topics', 'x'], 'models'),
    (['features', '--extractor', 'visual'], ''),
])
def test_what_is_missing_is_named_with_its_extra(arguments, extra, sample, tmp_path, base):
    code, out, err = microvid(arguments[0], sample, *arguments[1:], env=base, cwd=tmp_path)
    assert code == 2 and not out and len(err.splitlines()) == 1 and f'pip install "microvid_nb[{extra}' in err

# ---- pictures and animations, opened by another library

def inside(*arguments):
    """The same in this process, which is quicker."""
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert 'Traceback' not in done.stderr + done.stdout
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture(scope='module')
def boxed(tmp_path_factory) -> Path:
    """Three seconds, three scenes, bars above and below, and a red cover picture."""
    from microvid_nb.media.sprites import write_with_cover
    y, x = np.mgrid[:96, :256]
    images = np.zeros((30, 144, 256, 3), np.uint8)
    for number, image in enumerate(images):
        scene = number // 10
        view = np.stack([(x * (2 + scene)) % 256, (y * 5 + 80 * scene) % 256, (x + y + 9 * number) % 256], -1)
        image[24:120] = np.roll(view, scene, -1) // 2 + 90
    path = tmp_path_factory.mktemp('boxed') / 'boxed.mp4'
    return write_with_cover(path, images, np.full((60, 80, 3), (220, 30, 30), np.uint8))


@pytest.mark.parametrize('format', ['jpg', 'png', 'webp', 'avif'])
def test_thumbnails_in_all_formats(boxed, tmp_path, format):
    code, out, _ = inside(
        'thumbnail', boxed, '--out', tmp_path, '--json', '--format', format, '--crop', '1:1', '--size', 64, '--trim'
    )
    record, = json.loads(out)
    with Image.open(record['thumbnail']) as picture:
        assert code == 0 and picture.size == (64, 64)
        assert picture.format == {'jpg': 'JPEG'}.get(format, format.upper())
        assert np.asarray(picture.convert('L')).min(1).min() > 50  # no bar is left
    assert inside('thumbnail', boxed, '--out', tmp_path, '--format', format)[0] == 0  # the file is known again


def test_bars_stay_without_trim(boxed, tmp_path):
    sizes = {}
    for trim in ([], ['--trim']):
        assert inside('thumbnail', boxed, '--out', tmp_path, '--format', 'png', *trim)[0] == 0
        picture = np.asarray(Image.open(tmp_path / 'boxed.png').convert('L'))
        sizes[len(trim)] = picture.shape
        assert (picture[:20].max() < 30) == (not trim)
    assert sizes[0] == (144, 256) and sizes[1][1] == 256 and 92 <= sizes[1][0] <= 96


@pytest.mark.parametrize('shape, ratio', [('4:5', 4 / 5), ('16:9', 16 / 9), ('2:1', 2), ('auto', None)])
def test_shapes_of_thumbnails(sample, tmp_path, shape, ratio):
    assert inside('thumbnail', sample, '--out', tmp_path, '--crop', shape)[0] == 0
    width, height = Image.open(tmp_path / 'sample.jpg').size
    if ratio: assert width / height == pytest.approx(ratio, rel=.01) and (width == 640 or height == 360)
    else: assert width <= 640 and height <= 360


def test_several_frames_that_differ(boxed, tmp_path):
    code, out, _ = inside('thumbnail', boxed, '--out', tmp_path, '--count', 3, '--json', '--format', 'png')
    record, = json.loads(out)
    names = [Path(row['file']).name for row in record['pictures']]
    assert code == 0 and names == ['boxed.png', 'boxed-2.png', 'boxed-3.png']
    assert len({row['time'] for row in record['pictures']}) == 3 and record['pictures'][0]['time'] == record['time']
    shown = [np.asarray(Image.open(row['file']).convert('RGB')).astype(int) for row in record['pictures']]
    assert min(np.abs(a - b).mean() for a, b in ((shown[0], shown[1]), (shown[1], shown[2]), (shown[0], shown[2]))) > 10


def test_more_frames_than_candidates(boxed, tmp_path):
    code, out, _ = inside('thumbnail', boxed, '--out', tmp_path, '--count', 15, '--json', '--size', 40)
    rows = json.loads(out)[0]['pictures']
    assert code == 0 and len({row['time'] for row in rows}) == 15 == len(list(tmp_path.iterdir()))


def test_cover_of_the_file(boxed, sample, tmp_path):
    code, out, _ = inside('thumbnail', boxed, sample, '--out', tmp_path, '--cover', '--json')
    with_cover, without = json.loads(out)
    picture = np.asarray(Image.open(with_cover['thumbnail']).convert('RGB')).astype(int)
    assert code == 0 and with_cover['cover'] and not without['cover'] and without['pictures'][0]['time'] is not None
    assert picture.shape == (60, 80, 3) and np.abs(picture.reshape(-1, 3).mean(0) - (220, 30, 30)).max() < 6


def test_the_frame_at_a_second(sample, tmp_path):
    from microvid_nb.media.video import iter_frames
    code, out, _ = inside('thumbnail', sample, '--out', tmp_path, '--at', 7.25, '--format', 'png', '--json')
    time, wanted = next(iter_frames(sample, fps=1, start=7.25))
    assert code == 0 and json.loads(out)[0]['time'] == pytest.approx(time)
    assert (np.asarray(Image.open(tmp_path / 'sample.png')) == wanted).all()


@pytest.mark.parametrize('options', [
    ['--format', 'bmp'], ['--crop', 'round'], ['--crop', '0:1'], ['--size', '0'], ['--count', '0'], ['--at', '1', '--count', '2'],
    ['--at', '1', '--cover'], ['--model', 'thumbnail'], ['--explain'],
], ids=' '.join)
def test_wishes_for_thumbnails_that_cannot_be(options, sample, tmp_path):
    code, out, err = inside('thumbnail', sample, '--out', tmp_path / 'out', *options)
    assert code == 2 and not out and len(err.splitlines()) == 1 and not (tmp_path / 'out').exists()


def length_of(path: Path) -> tuple:
    """Seconds, frames and size of an animation, by PyAV or Pillow."""
    if path.suffix == '.mp4':
        with av.open(str(path)) as container:
            frames = [frame for frame in container.decode(video=0)]
            rate = float(container.streams.video[0].average_rate)
        return len(frames) / rate, len(frames), (frames[0].width, frames[0].height)
    with Image.open(path) as picture:
        seconds = 0
        for number in range(picture.n_frames):
            picture.seek(number)
            picture.load()  # a WebP says how long a frame is shown when it is decoded
            seconds += picture.info['duration'] / 1000
        return seconds, picture.n_frames, picture.size


@pytest.mark.parametrize('format', ['gif', 'webp', 'mp4', 'apng'])
def test_more_shots_in_all_formats(sample, tmp_path, format):
    code, out, _ = inside(
        'gif', sample, '--out', tmp_path, '--format', format, '--shots', 5, '--seconds', .5, '--fps', 12, '--width', 96,
        '--crop', '1:1', '--order', 'time', '--dither', 'bayer', '--json',
    )
    record, = json.loads(out)
    seconds, _, size = length_of(Path(record['gif']))
    assert code == 0 and record['times'] == sorted(record['times']) and len(set(record['times'])) == 5
    assert seconds == pytest.approx(2.5, abs=.06) and size == (96, 96) and not record['warnings']


def test_shots_that_a_clip_has_no_room_for(boxed, tmp_path):
    code, out, err = inside('gif', boxed, '--out', tmp_path, '--shots', 9, '--json')
    record, = json.loads(out)
    few = f'the clip has room for {len(record["times"])} shots'
    assert code == 0 and 3 <= len(record['times']) < 9 and err.count(few) == 1 and len(err.splitlines()) == 1
    assert min(b - a for a, b in zip(sorted(record['times']), sorted(record['times'])[1:])) > .05


def test_loop_crossfade_and_limit(sample, tmp_path):
    wishes = ['--width', 160, '--loop', 4, '--json']
    first, = json.loads(inside('gif', sample, '--out', tmp_path, *wishes)[1])
    assert Image.open(first['gif']).info['loop'] == 3  # a GIF counts what comes after the first showing
    assert length_of(Path(first['gif']))[0] == pytest.approx(3, abs=.02)
    faded, = json.loads(inside('gif', sample, '--out', tmp_path, '--crossfade', .5, *wishes)[1])
    assert length_of(Path(faded['gif']))[0] == pytest.approx(2, abs=.02)
    limit = first['bytes'] / 3000
    small, = json.loads(inside('gif', sample, '--out', tmp_path, '--max-kb', limit, *wishes)[1])
    assert Path(small['gif']).stat().st_size <= 1000 * limit and small['gave_way'][0].startswith('quality')
