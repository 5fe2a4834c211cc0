"""The command as a user runs it: in a process of its own."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from microvid_nb.data.microworld import SHOWN, key_of


def microvid(*arguments, cwd=None):
    command = [Path(sys.executable).with_name('microvid'), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd)
    assert 'Traceback' not in done.stderr + done.stdout
    return done.returncode, done.stdout, done.stderr


def test_thumbnail_and_gif(sample, tmp_path):
    assert microvid('thumbnail', sample, '--out', tmp_path)[0] == 0
    assert Image.open(tmp_path / 'sample.jpg').size == (640, 360)
    code, out, _ = microvid('gif', sample, '--out', tmp_path, '--json', '--width', 200, '--fps', 5)
    record, = json.loads(out)
    gif = Image.open(record['gif'])
    assert (
        code == 0
        and gif.size == (200, 112)
        and gif.n_frames == 24
        and record['bytes'] == (tmp_path / 'sample.gif').stat().st_size
    )
    assert len(record['times']) == 3 and record['times'] == sorted(record['times'])


def test_force_takes_that_frame(sample, tmp_path):
    code, out, _ = microvid('thumbnail', sample, '--out', tmp_path, '--force', 5.5, '--json')
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


@pytest.mark.parametrize('command', ['thumbnail', 'gif', 'candidates', 'probe', 'preview'])
def test_bad_input_is_one_line_and_status_2(command, tmp_path):
    (tmp_path / 'words.mp4').write_text('words')
    for path in ('words.mp4', 'nowhere.mp4'):
        code, _, err = microvid(command, path, cwd=tmp_path)
        assert code == 2 and len(err.strip().splitlines()) == 1 and path in err
    assert microvid(command, '*.avi', cwd=tmp_path)[0] == 2
    assert microvid(command, 'nowhere.mp4', '--lamb', cwd=tmp_path)[0] == 2


def test_damaged_file_warns_once_and_succeeds(sample, tmp_path):
    cut = tmp_path / 'cut.mp4'
    cut.write_bytes(sample.read_bytes()[:int(sample.stat().st_size * .6)])
    code, out, err = microvid('thumbnail', cut, '--out', tmp_path, '--json')
    assert code == 0 and err.count('warning: ') == 1 and 's could not be decoded' in err
    assert json.loads(out)[0]['warnings'][0].startswith(str(cut))


def test_preview_page(sample, tmp_path):
    code, out, _ = microvid('preview', sample, '--out', tmp_path)
    page = (tmp_path / 'index.html').read_text(encoding='utf-8')
    assert code == 0 and out.splitlines()[-1] == f'page: {tmp_path}/index.html'
    assert page.count('data:image/gif;base64,') == 1 and 'http://' not in page and 'https://' not in page


def test_preview_without_a_path_shows_microworld(tmp_path):
    code, out, _ = microvid('preview', '--out', tmp_path)
    names = {f'microworld-{key_of(i)}{suffix}' for i in SHOWN for suffix in ('.mp4', '.jpg', '.gif')}
    assert code == 0 and names | {'index.html'} == {path.name for path in tmp_path.iterdir()}


def test_unwritable_out(sample, tmp_path):
    (tmp_path / 'file').touch()
    code, _, err = microvid('thumbnail', sample, '--out', tmp_path / 'file')
    assert code == 2 and err.startswith('error: ')
