"""The feature store: whatever ends a run, one more run gives the rows of a run that nothing disturbed."""
import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from scipy.io import wavfile

from microvid_nb.features import store as store_module
from microvid_nb.features.extractors import Extractor, VisualFeatures, make_extractor
from microvid_nb.features.store import (
    connect, extract_features, extract_files, local_client, one_card_each, read_failures, read_features, sole_writer,
    summary)
from microvid_nb.media.video import MediaError, MediaWarning

VIDEOS, BAD = 40, 7  # files, of which every seventh cannot be read


@dataclass(frozen=True)
class Cheap(Extractor):
    """Eight sums over the bytes of a file; what begins with b'bad' fails."""
    name: ClassVar[str] = 'cheap'
    feature_dim: ClassVar[int] = 8

    def __call__(self, path):
        data = Path(path).read_bytes()
        if data.startswith(b'bad'):
            raise MediaError(path, 'is bad')
        return np.add.reduceat(np.frombuffer(data, np.uint8).astype(np.float32), np.arange(8) * (len(data) // 8))


class Slow(Cheap):
    """The same in ten milliseconds, with a byte in a log for each file begun."""
    def __call__(self, path):
        with open(Path(path).parent / 'log', 'ab') as log:
            log.write(b'.')
        time.sleep(.01)
        return super().__call__(path)


class Deadly(Slow):
    """Files that begin with b'kill' end the process that reads them, as a crash of a decoder would."""
    def __call__(self, path):
        if Path(path).read_bytes().startswith(b'kill'):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(path)


class Touching(Cheap):
    """Somebody else goes on writing the file while it is read."""
    def __call__(self, path):
        vector = super().__call__(path)
        with open(path, 'ab') as file:
            file.write(b'more')
        return vector


class Flaky(Cheap):
    """A decoder that isn't there today."""
    def __call__(self, path):
        raise MediaError(path, 'needs a decoder that is missing')


class Unprepared(Cheap):
    def prepare(self):
        raise FileNotFoundError('the weights are not here')


class Damaged(Cheap):
    def __call__(self, path):
        import warnings
        warnings.warn(MediaWarning(f'{path}: damaged or cut short, 3.0 of 12.0 s could not be decoded'))
        return super().__call__(path)


def run(paths, out):
    """What is killed: a run that writes after every few videos."""
    extract_features(paths, out, Slow(), every=.03, progress=False)


def rows(out) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Everything in a store as a plain reader sees it, sorted by path: duplicates would show."""
    features, failures = (
        pd.read_parquet(out / kind).sort_values('path', ignore_index=True) for kind in ('features', 'failures')
    )
    return features.assign(feature=features.feature.map(tuple)), failures


def assert_same(out, expected):
    for found, right in zip(rows(out), expected, strict=True):
        pd.testing.assert_frame_equal(found, right)


@pytest.fixture(scope='module')
def paths(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp('clips'), np.random.default_rng(0)
    made = []
    for i in range(VIDEOS):
        made.append(folder / f'clip{i:02d}.mp4')
        made[-1].write_bytes(b'bad' if i % BAD == 3 else rng.bytes(int(rng.integers(100, 4000))))
    return made


@pytest.fixture(scope='module')
def undisturbed(paths, tmp_path_factory):
    """The rows of a run from beginning to end."""
    out = tmp_path_factory.mktemp('undisturbed')
    extract_features(paths, out, Cheap(), progress=False)
    return rows(out)


@pytest.fixture(scope='module')
def server():
    """A server that forks processes with everything imported: kill -9 is then a matter of the run, not of its start."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['test_store'])
    return context


@pytest.fixture(scope='module')
def client():
    pytest.importorskip('distributed')
    with local_client(2) as client:
        yield client


def begun(paths) -> int:
    """How many files all runs so far have begun to read."""
    log = paths[0].parent / 'log'
    return log.stat().st_size if log.exists() else 0


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, 'waited in vain'
        time.sleep(.001)


# --- what ends a run

@pytest.mark.parametrize('seed', range(20))
def test_killed_at_a_random_moment(seed, paths, undisturbed, server, tmp_path):
    rng = np.random.default_rng(seed)
    count, delay, before = rng.integers(0, VIDEOS - 2), rng.uniform(0, .02), begun(paths)
    process = server.Process(target=run, args=(paths, tmp_path))
    process.start()
    wait_for(lambda: begun(paths) > before + count)
    time.sleep(delay)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    # every part is whole
    kept, refused = (
        sum(len(pq.read_table(file)) for file in tmp_path.glob(f'{kind}/part-*.parquet'))
        for kind in ('features', 'failures')
    )
    assert kept + refused <= begun(paths) - before
    outcomes = extract_features(paths, tmp_path, Cheap(), progress=False)
    assert outcomes.outcome.value_counts().get('kept', 0) == kept  # what was done is not done again, and the rest is
    assert (outcomes.outcome == 'failed').sum() == len(range(3, VIDEOS, BAD))
    assert_same(tmp_path, undisturbed)
    assert not (tmp_path / '.writing').exists()
    assert not list(tmp_path.rglob('.part*'))


def test_what_was_written_before_a_kill_is_not_done_again(paths, server, tmp_path):
    before = begun(paths)
    process = server.Process(target=run, args=(paths, tmp_path))
    process.start()
    wait_for(lambda: begun(paths) > before + 25)
    process.kill()
    process.join()
    kept = sum(len(pq.read_table(file)) for file in tmp_path.glob('f*/part-*.parquet'))
    before = begun(paths)
    outcomes = extract_features(paths, tmp_path, Slow(), progress=False)
    assert kept > 5
    assert begun(paths) - before == VIDEOS - kept
    assert (outcomes.outcome == 'kept').sum() > 0


def test_full_disk(paths, undisturbed, tmp_path, monkeypatch):
    """The third part finds no room: the error says so, two parts are whole, and with room again the rest is done."""
    write_table, calls = pq.write_table, []

    def no_room(table, sink, **options):
        calls.append(len(table))
        if len(calls) == 3:
            sink.write(b'PAR1 the beginning')
            raise OSError(errno.ENOSPC, 'No space left on device')
        write_table(table, sink, **options)

    monkeypatch.setattr(store_module.pq, 'write_table', no_room)
    with pytest.raises(
        OSError, match='No space left on device; 1 rows could not be written, all rows before them are kept'
    ) as caught:
        extract_features(paths, tmp_path, Cheap(), every=0, progress=False)
    assert caught.value.errno == errno.ENOSPC
    assert len(read_features(tmp_path)) == 2
    assert [file.name for file in sorted(tmp_path.rglob('*.parquet'))] == ['part-000000.parquet', 'part-000001.parquet']
    outcomes = extract_features(paths, tmp_path, Cheap(), progress=False)
    assert (outcomes.outcome == 'kept').sum() == 2
    assert_same(tmp_path, undisturbed)


def test_full_tmpfs(paths, undisturbed, tmp_path):
    """The same with a true file system of 64 kB, where this process may mount one."""
    small = tmp_path / 'small'
    small.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', small], capture_output=True).returncode:
        pytest.skip('no right to mount a small file system')
    try:
        with pytest.raises(OSError, match='No space left on device'):
            extract_features(paths, small / 'out', Cheap(), every=0, progress=False)
        done = len(read_features(small / 'out'))
        assert 0 < done < VIDEOS
        subprocess.run(['mount', '-o', 'remount,size=8m', small], check=True)
        outcomes = extract_features(paths, small / 'out', Cheap(), progress=False)
        assert (outcomes.outcome == 'kept').sum() == done
        assert_same(small / 'out', undisturbed)
    finally:
        subprocess.run(['umount', small], check=True)


def test_two_runs_at_once(paths, undisturbed, server, tmp_path):
    before = begun(paths)
    process = server.Process(target=run, args=(paths, tmp_path))
    process.start()
    wait_for(lambda: begun(paths) > before)
    with pytest.raises(BlockingIOError, match='another run is writing into this folder'):
        extract_features(paths, tmp_path, Cheap(), progress=False)
    process.kill()
    process.join()
    extract_features(paths, tmp_path, Cheap(), progress=False)  # the lock of a killed process holds nobody up
    assert_same(tmp_path, undisturbed)


# --- files that change

def copies(paths, folder) -> list[Path]:
    made = [folder / path.name for path in paths]
    folder.mkdir()
    for path, copy in zip(paths, made):
        copy.write_bytes(path.read_bytes())
    return made


def test_a_file_that_changes_while_it_is_read(paths, tmp_path):
    own = copies(paths[:3], tmp_path / 'clips')
    outcomes = extract_features(own, tmp_path / 'out', Touching(), progress=False)
    assert set(outcomes.outcome) == {'failed'} and set(outcomes.reason) == {'changed while it was read'}
    assert not (tmp_path / 'out' / 'features').exists()
    # it is another file now, and so tried again
    outcomes = extract_features(own, tmp_path / 'out', Cheap(), progress=False)
    assert set(outcomes.outcome) == {'done'}
    assert len(read_failures(tmp_path / 'out')) == 0


def test_only_what_changed_is_done_again(paths, tmp_path):
    own, out = copies(paths[:10], tmp_path / 'clips'), tmp_path / 'out'
    extract_features(own, out, Cheap(), every=0, progress=False)
    before = read_features(out)
    own[0].write_bytes(own[1].read_bytes())  # another content
    own[3].write_bytes(own[1].read_bytes())  # a bad one is mended
    own[4].write_bytes(b'bad')               # a good one breaks
    own[5].unlink()                          # one is gone
    outcomes = extract_features(own, out, Cheap(), progress=False)
    assert outcomes.outcome.tolist() == [
        'done',
        'kept',
        'kept',
        'done',
        'failed',
        'failed',
        'kept',
        'kept',
        'kept',
        'kept',
    ]
    assert outcomes.reason[5] == 'No such file or directory'
    after = read_features(out)
    assert after.index.is_unique and len(after) == 8
    assert (after.loc[[str(own[0]), str(own[3])]].to_numpy() == before.loc[str(own[1])].to_numpy()).all()
    pd.testing.assert_frame_equal(after.loc[list(map(str, own[6:]))], before.loc[list(map(str, own[6:]))])
    assert read_failures(out).path.tolist() == [str(own[4]), str(own[5])]


def test_checksums_instead_of_times(paths, tmp_path):
    own, out = copies(paths[:3], tmp_path / 'clips'), tmp_path / 'out'
    extract_features(own, out, Cheap(), by_hash=True, progress=False)
    facts = own[0].stat()
    own[0].write_bytes(own[0].read_bytes()[::-1])  # other bytes, the same size and time
    os.utime(own[0], ns=(facts.st_atime_ns, facts.st_mtime_ns))
    os.utime(own[1])                               # the same bytes, another time
    assert extract_features(own, out, Cheap(), by_hash=True, progress=False).outcome.tolist() == [
        'done',
        'kept',
        'kept',
    ]
    assert extract_features(own, out, Cheap(), progress=False).outcome.tolist() == ['kept', 'done', 'kept']


def test_failures_are_tried_again_on_request_only(paths, tmp_path):
    assert set(extract_features(paths[:3], tmp_path, Flaky(), progress=False).outcome) == {'failed'}
    again = extract_features(paths[:3], tmp_path, Cheap(), progress=False)
    assert set(again.outcome) == {'failed'} and set(again.reason) == {'needs a decoder that is missing'}
    assert set(extract_features(paths[:3], tmp_path, Cheap(), retry=True, progress=False).outcome) == {'done'}
    assert len(read_failures(tmp_path)) == 0


# --- many workers

def test_workers_give_the_same_rows(paths, undisturbed, client, tmp_path):
    outcomes = extract_features(paths, tmp_path, Cheap(), client, every=.03, progress=False)
    assert outcomes.outcome.value_counts().to_dict() == {'done': 34, 'failed': 6}
    assert_same(tmp_path, undisturbed)


def test_a_killed_worker(paths, undisturbed, client, tmp_path, monkeypatch):
    before, killed = begun(paths), []
    victim = next(iter(client.scheduler_info(n_workers=-1)['workers']))
    pid = client.run(os.getpid, workers=[victim])[victim]

    def end_worker():
        if not killed and begun(paths) > before + 10:
            killed.append(os.kill(pid, signal.SIGKILL))

    submit = client.submit
    monkeypatch.setattr(
        client, 'submit', lambda *arguments, **options: (end_worker(), submit(*arguments, **options))[1]
    )
    extract_features(paths, tmp_path, Slow(), client, every=.03, progress=False)
    assert killed == [None]
    assert_same(tmp_path, undisturbed)


@pytest.mark.check
def test_a_file_that_kills_its_worker_is_found_out(paths, undisturbed, client, tmp_path):
    own = copies(paths, tmp_path / 'clips')
    own[11].write_bytes(b'kill')
    outcomes = extract_features(own, tmp_path / 'out', Deadly(), client, progress=False)
    assert outcomes.outcome[11] == 'failed' and outcomes.reason[11].startswith('ends the process that reads it')
    assert outcomes.outcome.value_counts().to_dict() == {'done': 33, 'failed': 7}
    expected = undisturbed[0].drop(index=undisturbed[0].index[undisturbed[0].path == str(paths[11])])
    assert rows(tmp_path / 'out')[0].feature.tolist() == expected.feature.tolist()


def test_few_tasks_at_a_time(paths, client, tmp_path, monkeypatch):
    """Back-pressure: of many tasks only as many are submitted as keep the workers busy until their rows are taken."""
    monkeypatch.setattr(store_module, 'BATCH_BYTES', 1)  # a task for each file
    submit, add, waiting = client.submit, store_module.Store.add, [0]

    def counted(*arguments, **options):
        waiting.append(waiting[-1] + 1)
        return submit(*arguments, **options)

    def taken(store, rows, every):
        waiting.append(waiting[-1] - 1)
        add(store, rows, every)

    monkeypatch.setattr(client, 'submit', counted)
    monkeypatch.setattr(store_module.Store, 'add', taken)
    extract_features(paths, tmp_path, Cheap(), client, progress=False)
    assert len(waiting) == 1 + 2 * VIDEOS and waiting[-1] == 0
    assert max(waiting) <= 2 * 2 + 1


def test_what_a_worker_lacks_is_no_fault_of_the_files(paths, client, tmp_path):
    for workers in (None, client):
        with pytest.raises(FileNotFoundError, match='the weights are not here'):
            extract_features(paths, tmp_path, Unprepared(), workers, progress=False)
    assert not list(tmp_path.rglob('*.parquet'))


def test_a_lost_scheduler(paths, undisturbed, tmp_path):
    distributed = pytest.importorskip('distributed')
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=':0', silence_logs='CRITICAL'
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        submit, count = client.submit, iter(range(10**6))

        def closing(*arguments, **options):
            if next(count) == 6:
                cluster.close()
            return submit(*arguments, **options)

        client.submit = closing
        with pytest.raises(ConnectionError, match='the Dask scheduler was lost'):
            extract_features(paths, tmp_path, Slow(), client, progress=False)
    kept = len(read_features(tmp_path))
    assert kept > 3
    assert (extract_features(paths, tmp_path, Cheap(), progress=False).outcome == 'kept').sum() == kept
    assert_same(tmp_path, undisturbed)


def test_each_worker_sees_one_gpu(monkeypatch):
    pytest.importorskip('distributed')
    monkeypatch.setattr(store_module, 'graphics_cards', lambda: ['4', '6'])
    with local_client(5, VisualFeatures('alexnet', 'random')) as client:
        seen = client.run(lambda: os.environ['CUDA_VISIBLE_DEVICES'])
    assert sorted(seen.values()) == ['4', '6']
    assert one_card_each(['4', '6']) is not None


def test_addresses(paths, tmp_path):
    distributed = pytest.importorskip('distributed')
    with distributed.LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        dashboard_address=':0',
        silence_logs='CRITICAL',
        protocol='tcp',
    ) as cluster:
        with connect(scheduler=cluster.scheduler_address) as client:
            assert set(extract_features(paths[:2], tmp_path, Cheap(), client, progress=False).outcome) == {'done'}
    with pytest.raises(ConnectionError, match='no Dask scheduler answers there'), connect(scheduler='nonsense'):
        pass


# --- readers and schema

def test_readers(paths, undisturbed, tmp_path):
    extract_features(paths, tmp_path, Cheap(), every=0, progress=False)  # a part for each video
    expected = np.stack(undisturbed[0].feature)
    matrix = read_features(tmp_path)
    assert matrix.to_numpy().dtype == np.float32 and (matrix.to_numpy() == expected).all()
    assert matrix.attrs['extractor'] == 'cheap'
    table = ds.dataset(tmp_path / 'features').to_table().sort_by('path')
    assert table['feature'].to_pylist() == expected.tolist()
    assert (
        table.schema.field('feature').type.list_size == 8
        and str(table.schema.field('feature').type.value_type) == 'float'
    )
    assert b'"extractor": "cheap"' in table.schema.metadata[b'microvid_nb']
    assert len(read_failures(tmp_path)) == len(undisturbed[1])


def test_dask_reads_it(paths, undisturbed, tmp_path):
    frames = pytest.importorskip('dask.dataframe')
    extract_features(paths, tmp_path, Cheap(), every=0, progress=False)
    table = frames.read_parquet(tmp_path / 'features').compute().sort_values('path')
    assert (np.stack(table.feature) == np.stack(undisturbed[0].feature)).all()


def test_polars_reads_it(paths, undisturbed, tmp_path):
    polars = pytest.importorskip('polars')
    extract_features(paths, tmp_path, Cheap(), every=0, progress=False)
    table = polars.read_parquet(tmp_path / 'features').sort('path')
    assert (table['feature'].to_numpy() == np.stack(undisturbed[0].feature)).all()


def test_other_features_are_refused(paths, tmp_path):
    extract_features(paths[:2], tmp_path, Cheap(), progress=False)

    class Newer(Cheap):
        version = 2
    with pytest.raises(ValueError, match=r'holds features of another kind \(version 1, now 2\): name another folder'):
        extract_features(paths, tmp_path, Newer(), progress=False)
    assert len(read_features(tmp_path)) == 2


def test_extractors_that_do_not_keep_their_promise(paths, tmp_path):
    class Wide(Cheap):
        def __call__(self, path): return np.zeros(9)

    class Undefined(Cheap):
        def __call__(self, path): return np.full(8, np.nan)
    for kind, reason in (
        (Wide, 'numbers of shape [9], expected [8]'),
        (Undefined, 'feature 0 is nan (8 of 8 are not finite)'),
    ):
        outcomes = extract_features(paths[:2], tmp_path / kind.__name__, kind(), progress=False)
        assert set(outcomes.outcome) == {'failed'} and reason in outcomes.reason[0]


# --- names, progress, summary

def test_any_name_and_each_once(paths, tmp_path, monkeypatch):
    odd = os.fsencode(tmp_path) + b'/caf\xe9 \xf0\x9f\x90\xb6.mp4'
    with open(odd, 'wb') as file:
        file.write(paths[0].read_bytes())
    monkeypatch.chdir(tmp_path)
    plain = tmp_path / 'a b.mp4'
    plain.write_bytes(paths[0].read_bytes())
    given = [os.fsdecode(odd), 'a b.mp4', plain, './a b.mp4']
    assert extract_features(given, tmp_path / 'out', Cheap(), progress=False).outcome.tolist() == ['done', 'done']
    assert extract_features(given, tmp_path / 'out', Cheap(), progress=False).outcome.tolist() == ['kept', 'kept']
    assert sorted(read_features(tmp_path / 'out').index) == [str(plain), f'{tmp_path}/caf\\xe9 🐶.mp4']


def test_warnings_are_kept(paths, tmp_path):
    outcomes = extract_features(paths[:2], tmp_path, Damaged(), progress=False)
    assert set(outcomes.reason) == {'damaged or cut short, 3.0 of 12.0 s could not be decoded'}
    assert set(pd.read_parquet(tmp_path / 'features').warning) == set(outcomes.reason)


def test_the_bar_begins_where_the_last_run_ended(paths, tmp_path, capsys):
    extract_features(paths[:30], tmp_path, Cheap(), progress=False)
    outcomes = extract_features(paths, tmp_path, Cheap())
    shown = capsys.readouterr().err
    assert '30/40' in shown and '40/40' in shown and 'failed=6' in shown
    assert summary(outcomes) == '8 done, 26 skipped (done before), 6 failed'


def test_by_name(tmp_path):
    sound = tmp_path / 'sound.wav'
    wavfile.write(sound, 22050, np.random.default_rng(0).integers(-9000, 9000, 22050).astype(np.int16))
    outcomes = extract_files([sound, tmp_path / 'nothing.mp4'], tmp_path / 'out', 'audio', progress=False)
    assert outcomes.outcome.tolist() == ['done', 'failed']
    assert read_features(tmp_path / 'out').shape == (1, 1104)
    with pytest.raises(ValueError, match="'smell' is no extractor"):
        extract_files([sound], tmp_path, 'smell')


def test_importing_the_store_is_light():
    code = 'import sys, microvid_nb.features.store; print(*({"torch", "librosa", "gensim", "dask", "distributed", "cv2"} & set(sys.modules)))'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.split() == []


def listening() -> set[str]:
    """Addresses on which some process of this machine waits for connections, in the kernel's hexadecimal form."""
    tables = [Path(f'/proc/net/{name}') for name in ('tcp', 'tcp6')]
    rows = [line.split() for table in tables if table.exists() for line in table.read_text().splitlines()[1:]]
    return {row[1] for row in rows if row[3] == '0A'}


@pytest.mark.check
@pytest.mark.skipif(not Path('/proc/net/tcp').exists(), reason='reads the table of sockets of Linux')
def test_workers_listen_on_loopback_only():
    before = listening()
    with connect(2) as client:
        client.wait_for_workers(2)
        opened = listening() - before
    assert opened, 'the scheduler and the workers wait for connections somewhere'
    assert {address.split(':')[0] for address in opened} == {'0100007F'}  # 127.0.0.1


def test_titles_are_learned_by_the_writer_alone(tmp_path):
    clips = [tmp_path / f'{k}.mp4' for k in range(3)]
    for path in clips:
        path.write_bytes(b'bad')
        path.with_suffix('.txt').write_text('a dog runs')
    with sole_writer(tmp_path / 'store'), pytest.raises(BlockingIOError, match='another run is writing'):
        extract_files(clips, tmp_path / 'store', 'text', progress=False)
    assert not (tmp_path / 'store' / 'titles.safetensors').exists()


def test_functions_are_compiled_before_workers_start(monkeypatch):
    import distributed

    from microvid_nb.features import acoustic
    order = []
    monkeypatch.setattr(acoustic, 'acoustic_descriptor', lambda *sound: order.append('compiled'))
    monkeypatch.setattr(distributed, 'LocalCluster', lambda **options: order.append('started') or 1 / 0)
    for name in ('acoustic', 'histogram'):
        with pytest.raises(ZeroDivisionError), local_client(2, make_extractor(name)):
            pass
    assert order == ['compiled', 'started', 'started']


def test_the_default_network_needs_no_download(sample):
    torch = pytest.importorskip('torch')
    from microvid_nb.features.visual import backbone
    from microvid_nb.media.video import read_frames
    extract = make_extractor('visual', {})
    pictures = torch.from_numpy(read_frames(sample, 1, 224).images).permute(0, 3, 1, 2)
    with torch.no_grad(): expected = backbone('efficientnet_lite0', True).eval()(pictures).mean(0)
    np.testing.assert_allclose(extract(sample), expected.numpy(), rtol=1e-3, atol=1e-4)
