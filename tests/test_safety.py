"""What users have stays what it is: files, terminals and tables, whatever the names and whenever a run ends."""
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import microvid

MICROVID = Path(sys.executable).with_name('microvid')


@pytest.fixture(scope='module')
def short(tmp_path_factory) -> Path:
    """A clip of two seconds."""
    import numpy as np

    from microvid_nb.media.render import write_video
    y, x = np.mgrid[:48, :64]
    images = [np.stack([(x * 4 + 9 * i) % 256, (y * 5) % 256, (x * y + i) % 256], -1).astype(np.uint8) for i in range(48)]
    return write_video(tmp_path_factory.mktemp('short') / 'short.mp4', images, fps=24)


def bytes_of(folder: Path) -> dict:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# names

@pytest.fixture
def odd_names(tmp_path, short) -> Path:
    """A folder with clips whose names are no UTF-8, hold an escape sequence, and break the line."""
    folder = tmp_path / 'in'
    folder.mkdir()
    for name in (b'caf\xe9.mp4', b'e\x1b]0;title\x07.mp4', b'z\nerror: forged.mp4', 'Über 東京.mp4'.encode()):
        shutil.copy(short, os.fsencode(folder) + b'/' + name)
    return folder


@pytest.mark.parametrize('command, form', [
    *((command, form) for command in ('thumbnail', 'gif', 'candidates', 'probe', 'features') for form in ([], ['--json'])),
    pytest.param('card', [], marks=pytest.mark.check),
])
def test_every_name_is_one_harmless_line_and_every_file_is_done(command, form, odd_names, tmp_path):
    extra = ['--extractor', 'histogram'] if command == 'features' else []
    code, out, err = microvid(command, odd_names, *extra, *form, '--out', tmp_path / 'out', encoding='utf-8:strict')
    assert code == 0
    for text in (out, err):
        assert not set(text) & {'\x1b', '\x07', '\x9b'} and '\nerror: forged' not in '\n' + text
    if form:
        records = json.loads(out)
        assert len(records) == 4 and all('error' not in record for record in records)
        if command != 'features': assert all(Path(record['path']).exists() for record in records)
    if command == 'card':
        page = (tmp_path / 'out' / 'index.html').read_text(encoding='utf-8')
        assert 'caf\\xe9.mp4' in page and 'Über 東京.mp4' in page and '\x1b' not in page
        assert page.count('<section>') == 4


def test_no_locale_still_finishes_every_file(odd_names, tmp_path):
    code, out, _ = microvid('probe', odd_names, env={**os.environ, 'PYTHONIOENCODING': 'ascii:strict'})
    assert code == 0 and len(out.splitlines()) == 4 and '\\u6771' in out


@pytest.mark.check
def test_markup_in_titles_and_names_is_text(short, tmp_path):
    clip = Path(shutil.copy(short, tmp_path / '<img src=x onerror=alert(1)>.mp4'))
    clip.with_suffix('.txt').write_text('<script>alert(2)</script>\x1b[2J')
    assert microvid('card', clip, '--out', tmp_path / 'out')[0] == 0
    page = (tmp_path / 'out' / 'index.html').read_text(encoding='utf-8')
    assert '<img src=x' not in page and '<script>' not in page and '\x1b' not in page


def test_words_with_control_characters_are_shown_as_escapes(short, tmp_path):
    topics = tmp_path / 'topics.csv'
    topics.write_text('word,count\nd\x1b[31mog,3\n')
    code, out, err = microvid('thumbnail', short, '--topics', topics, '--out', tmp_path)
    assert code == 2 and len(err.splitlines()) == 1 and '\x1b' not in err and 'topics.csv' in err


@pytest.mark.check
def test_an_unknown_topic_is_refused_with_its_file(short, tmp_path):
    topics = tmp_path / 'new.csv'
    topics.write_text('word,count\ndogg,3\n')
    code, _, err = microvid('thumbnail', short, '--model', 'thumbnail', '--topics', topics, '--out', tmp_path / 'out')
    assert code == 2 and len(err.splitlines()) == 1 and 'new.csv' in err and 'dogg' in err


# which files

def test_hidden_files_are_no_clips(short, tmp_path):
    shutil.copy(short, tmp_path / 'ok.mp4')
    (tmp_path / '.ok-ab12cd34.gif').write_bytes(b'GIF89a')
    (tmp_path / '.cache').mkdir()
    shutil.copy(short, tmp_path / '.cache' / 'b.mp4')
    code, out, err = microvid('probe', tmp_path, '--json')
    assert code == 0 and [Path(record['path']).name for record in json.loads(out)] == ['ok.mp4']
    assert err.splitlines() == ['passed over: 2 hidden']


SUFFIXES = '.lrv .insv .m2t .mod .tod .mpe .webp .avif .xyz'.split()


def test_a_folder_is_searched_by_suffix_and_by_content(short, tmp_path):
    for suffix in (*SUFFIXES, ''): shutil.copy(short, tmp_path / f'clip{suffix}')
    (tmp_path / 'code.ts').write_text('export const x = 1\n')
    (tmp_path / 'notes.txt').write_text('text')
    (tmp_path / 'data.bin').write_bytes(bytes(500))
    code, out, err = microvid('probe', tmp_path, '--json')
    assert code == 0 and len(json.loads(out)) == len(SUFFIXES) + 1
    assert set(err.strip().removeprefix('passed over: ').split(', ')) == {'1 .ts', '1 .bin', '1 .txt'}


def test_stills_and_animations_are_told_apart(tmp_path):
    from PIL import Image

    from microvid_nb.batch import find_videos
    pictures = [Image.new('RGB', (32, 24), colour) for colour in ('red', 'green', 'blue')]
    pictures[0].save(tmp_path / 'still.webp')
    pictures[0].save(tmp_path / 'still.png')
    pictures[0].save(tmp_path / 'moves.webp', save_all=True, append_images=pictures[1:])
    pictures[0].save(tmp_path / 'moves.apng', format='PNG', save_all=True, append_images=pictures[1:])
    assert {path.name for path in find_videos([str(tmp_path)])} == {'moves.webp', 'moves.apng'}


# ends

def test_ctrl_c_is_one_line_and_130(short, tmp_path):
    for i in range(3000): (tmp_path / f'{i}.mp4').hardlink_to(short)  # enough that a busy machine is not done before
    def heed(): signal.signal(signal.SIGINT, signal.SIG_DFL)  # the tests may run where a shell ignores Ctrl-C
    for workers in ('1', '2'):
        process = subprocess.Popen([MICROVID, 'probe', tmp_path, '--workers', workers], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True, preexec_fn=heed)
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130 and err.splitlines()[-1:] == ['interrupted'] and 'Traceback' not in err


def test_a_reader_that_leaves_is_no_error(short, tmp_path):
    for i in range(50): shutil.copy(short, tmp_path / f'{i}.mp4')
    done = subprocess.run(f'{MICROVID} probe {tmp_path} | head -1', shell=True, capture_output=True, text=True)
    assert 'Traceback' not in done.stderr and len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize('command', ['thumbnail', 'gif', 'card', 'features', 'synth', 'train'])
def test_a_folder_that_cannot_be_written_is_one_line(command, short, tmp_path):
    (tmp_path / 'file').write_text('')
    arguments = {'synth': ['--videos', '1'], 'train': ['gif']}.get(command, [short])
    place = tmp_path / 'file' / 'below' if command == 'train' else tmp_path / 'file'
    extra = ['--extractor', 'histogram'] if command == 'features' else []
    code, _, err = microvid(command, *arguments, *extra, '--out', place)
    assert code == 2 and len(err.splitlines()) == 1 and err.startswith('error: ')


def test_training_looks_for_room_first(tmp_path):
    def little(): resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    code, _, err = microvid('train', 'gif', '--scale', 'tiny', '--out', tmp_path / 'gif.safetensors', preexec_fn=little)
    assert code == 2 and len(err.splitlines()) == 1 and 'no room' in err and not list(tmp_path.iterdir())


# files that users have

def test_an_output_never_replaces_an_input(short, tmp_path):
    from microvid_nb.media.render import write_gif
    import numpy as np
    clip = write_gif(tmp_path / 'c.gif', [np.random.default_rng(0).integers(0, 255, (8, 40, 60, 3)).astype(np.uint8)], width=60)
    shutil.copy(short, tmp_path / 's.jpg')
    (tmp_path / 'link.mp4').symlink_to(clip)
    before = bytes_of(tmp_path)
    for force in ([], ['--force']):
        for command, path in (('gif', 'c.gif'), ('thumbnail', 's.jpg'), ('candidates', 'c.gif')):
            code, _, err = microvid(command, path, '--out', '.', *force, cwd=tmp_path)
            if command != 'candidates': assert code == 2 and 'is an input' in err and len(err.splitlines()) == 1
        assert microvid('gif', 'link.mp4', 'c.gif', '--out', '.', *force, cwd=tmp_path)[0] == 1
    after = bytes_of(tmp_path)
    assert {name: after[name] for name in ('c.gif', 's.jpg')} == {name: before[name] for name in ('c.gif', 's.jpg')}


def test_outputs_are_not_taken_for_inputs(short, tmp_path):
    for name in 'ab': shutil.copy(short, tmp_path / f'{name}.mp4')
    for _ in range(3):
        code, out, _ = microvid('gif', tmp_path, '--out', tmp_path, '--json')
        assert code == 0 and len(json.loads(out)) == 2
    assert {path.name for path in tmp_path.iterdir()} == {'a.mp4', 'b.mp4', 'a.gif', 'b.gif'}


@pytest.mark.check
def test_what_others_wrote_stays_without_force(short, tmp_path):
    clip = Path(shutil.copy(short, tmp_path / 'clip.mp4'))
    (tmp_path / 'clip.gif').write_bytes(b'mine')
    (tmp_path / 'clip.jpg').write_bytes(b'mine')
    for command, name in (('gif', 'clip.gif'), ('thumbnail', 'clip.jpg')):
        code, _, err = microvid(command, clip, '--out', tmp_path)
        assert code == 2 and (tmp_path / name).read_bytes() == b'mine' and '--force' in err
        assert microvid(command, clip, '--out', tmp_path, '--force')[0] == 0
        assert microvid(command, clip, '--out', tmp_path)[0] == 0  # now it is this tool's


def test_another_clip_of_the_same_name_is_another_source(short, tmp_path):
    for folder in 'xy':
        (tmp_path / folder).mkdir()
        shutil.copy(short, tmp_path / folder / 'clip.mp4')
    assert microvid('thumbnail', tmp_path / 'x' / 'clip.mp4', '--out', tmp_path)[0] == 0
    code, _, err = microvid('thumbnail', tmp_path / 'y' / 'clip.mp4', '--out', tmp_path)
    assert code == 2 and 'not made of this source' in err


@pytest.mark.check
def test_derived_names_never_meet(short, tmp_path):
    for name in ('x.mp4', 'x-generated.mp4'): shutil.copy(short, tmp_path / name)
    clips = [tmp_path / 'x.mp4', tmp_path / 'x-generated.mp4']
    code, out, _ = microvid('card', *clips, '--world', '--out', tmp_path / 'out', '--json')
    files = [file for record in json.loads(out) for file in record['files'].values()]
    assert code == 0 and len(files) == len(set(files)) == 6 and all(Path(file).exists() for file in files)


def test_a_page_of_somebody_else_stays(short, tmp_path):
    (tmp_path / 'index.html').write_text('my home page')
    code, _, err = microvid('card', short, '--out', tmp_path)
    assert code == 2 and len(err.splitlines()) == 1 and (tmp_path / 'index.html').read_text() == 'my home page'


def test_a_model_of_somebody_else_stays(tmp_path):
    (tmp_path / 'gif.safetensors').write_bytes(b'mine')
    code, _, err = microvid('train', 'gif', '--out', tmp_path / 'gif.safetensors')
    assert code == 2 and '--force' in err and (tmp_path / 'gif.safetensors').read_bytes() == b'mine'


def test_leftovers_of_a_killed_run_are_cleared(short, tmp_path):
    from microvid_nb.media.render import atomic_path
    code = f'''
import os, sys
from microvid_nb.media.render import atomic_path
with atomic_path({str(tmp_path / "short.gif")!r}) as path:
    path.write_bytes(b"GIF89a half")
    os.kill(os.getpid(), 9)
'''
    subprocess.run([sys.executable, '-c', code])
    left, = tmp_path.iterdir()
    assert left.name.startswith('.short-')
    os.utime(left, (1, 1))
    with atomic_path(tmp_path / 'short.gif') as path:
        path.write_bytes(b'other')
        os.utime(path, (1, 1))
        assert microvid('gif', short, '--out', tmp_path)[0] == 0  # a second run does not take away what the first writes now
        assert path.exists() and not left.exists()
    assert [path.name for path in tmp_path.iterdir()] == ['short.gif']


# causes

@pytest.mark.check
def test_what_lies_beside_a_clip_is_named_and_not_the_clip(short, tmp_path):
    clip = Path(shutil.copy(short, tmp_path / 'clip.mp4'))
    (tmp_path / 'clip.json').write_text('{')
    code, out, err = microvid('venue', clip, '--json')
    assert code == 2 and len(err.splitlines()) == 1 and 'clip.json: is not JSON' in err
    assert 'clip.json' in json.loads(out)[0]['error']


@pytest.mark.parametrize('content, words', [
    (b'', 'is empty'), (b'version https://git-lfs.github.com/spec/v1\n', 'git lfs pull'), (b'PAR1 and no more PAR1', 'is damaged'),
    (b'<!doctype html>', 'web page'), (bytes(400), 'only zeros'),
])
def test_damaged_stores_are_one_line(short, tmp_path, content, words):
    command = ['features', short, '--extractor', 'histogram', '--out', tmp_path / 'store']
    (tmp_path / 'store' / 'features').mkdir(parents=True)
    part = tmp_path / 'store' / 'features' / 'part-000000.parquet'
    part.write_bytes(content)
    code, out, err = microvid(*command)
    assert code == 2 and not out and len(err.splitlines()) == 1 and words in err and str(part) in err and 'delete it' in err
    assert part.read_bytes() == content


# doors

def listening(root: int) -> set[str]:
    """The addresses at which a process and its descendants listen, as Linux writes them: hexadecimal, a byte at a time."""
    tree, parents = {root}, {}
    for stat in Path('/proc').glob('[0-9]*/stat'):
        try: parents[int(stat.parent.name)] = int(stat.read_text().rpartition(')')[2].split()[1])
        except OSError: continue
    while more := {pid for pid, parent in parents.items() if parent in tree} - tree: tree |= more
    inodes = set()
    for pid in tree:
        for handle in Path(f'/proc/{pid}/fd').glob('*'):
            try: inodes.add(os.readlink(handle))
            except OSError: continue
    rows = [line.split() for name in ('tcp', 'tcp6') for line in Path(f'/proc/net/{name}').read_text().splitlines()[1:]]
    return {row[1].partition(':')[0] for row in rows if row[3] == '0A' and f'socket:[{row[9]}]' in inodes}


@pytest.mark.check
@pytest.mark.skipif(not Path('/proc/net/tcp').exists(), reason='looks at sockets as Linux lists them')
def test_workers_listen_on_loopback_only(short, tmp_path):
    for number in range(40): shutil.copy(short, tmp_path / f'{number}.mp4')
    command = [MICROVID, 'features', tmp_path, '--extractor', 'quality', '--workers', '2', '--out', tmp_path / 'store']
    process, seen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE), set()
    while process.poll() is None:
        seen |= listening(process.pid)
        time.sleep(.1)
    assert process.wait() == 0 and seen == {'0100007F'}  # 127.0.0.1; something did listen
