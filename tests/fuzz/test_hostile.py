"""Files made to do harm: programs inside checkpoints, sizes that nothing could hold, archives that point outside,
bombs. All are refused, quickly, in little memory, and leave no trace.
"""
import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from harness import READERS, check, make_checkpoint, make_hdf5, make_torch_file, make_video

pytestmark = pytest.mark.check


def refused(worker, reader, path, says=''):
    answer = worker(reader, path)
    check(reader, answer)
    assert answer['said'].startswith('refused: ') and says in answer['said'], answer['said']
    return answer


# --- checkpoints

class Program:
    """Whoever unpickles this runs a command."""
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f'touch {self.mark}',)


@pytest.mark.parametrize('layout', ['zip', 'old', 'bare pickle', 'tar'])
def test_programs_in_checkpoints_are_not_run(layout, worker, tmp_path):
    import torch
    mark, path = tmp_path / 'mark', tmp_path / 'weights.pth'
    content = {'state_dict': {'fc.weight': torch.ones(2), 'extra': Program(mark)}}
    if layout in ('zip', 'old'):
        torch.save(content, path, _use_new_zipfile_serialization=layout == 'zip')
    elif layout == 'bare pickle':
        path.write_bytes(pickle.dumps(Program(mark)))
    else:
        inner = pickle.dumps(Program(mark))
        with tarfile.open(path, 'w') as archive:
            for name in ('pickle', 'sys_info', 'tensors', 'storages', '../outside'):
                entry = tarfile.TarInfo(name)
                entry.size = len(inner)
                archive.addfile(entry, io.BytesIO(inner))
    refused(worker, 'weights.pth', path, 'nothing of it was executed')
    for reader in ('model.safetensors', 'titles.safetensors'):
        refused(worker, reader, path)
    assert not mark.exists() and not (tmp_path.parent / 'outside').exists()


def test_archives_write_nothing_outside(worker, tmp_path):
    inside = tmp_path / 'a' / 'b' / 'c'
    inside.mkdir(parents=True)
    path = inside / 'weights.pth'
    make_torch_file(path)
    with zipfile.ZipFile(path, 'a') as archive:
        for name in ('../../outside', '/tmp/outside_of_everything', 'weights/../../../outside'):
            archive.writestr(name, b'out')
    before = sorted(tmp_path.rglob('*'))
    refused(worker, 'weights.pth', path)
    assert sorted(tmp_path.rglob('*')) == before and not os.path.exists('/tmp/outside_of_everything')


def safetensors(header: dict | bytes, data: bytes = b'', length: int | None = None) -> bytes:
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack('<Q', len(header) if length is None else length) + header + data


ABOUT = {'__metadata__': {'microvid_nb': '{"kind": "model"}', 'sha256': '0' * 64}}


@pytest.mark.parametrize('content', [
    safetensors(b'{}', length=2**63), safetensors(b'{}', length=10**9), safetensors(b'{' * 10_000), safetensors(b'[' * 1_000_000),
    safetensors(ABOUT | {'w': {'dtype': 'F32', 'shape': [10**9, 10**9], 'data_offsets': [0, 4]}}, b'\0' * 4),
    safetensors(ABOUT | {'w': {'dtype': 'F32', 'shape': [10**12], 'data_offsets': [0, 4 * 10**12]}}, b'\0' * 4),
    safetensors(ABOUT | {'w': {'dtype': 'F32', 'shape': [2**62, 4], 'data_offsets': [0, 0]}}),
    safetensors(ABOUT | {'w': {'dtype': 'F32', 'shape': [-1], 'data_offsets': [0, 4]}}, b'\0' * 4),
    safetensors(ABOUT | {str(i): {'dtype': 'F32', 'shape': [1], 'data_offsets': [0, 4]} for i in range(2000)}, b'\0' * 4),
    safetensors(ABOUT | {'../../w': {'dtype': 'F32', 'shape': [1], 'data_offsets': [0, 4]}}, b'\0' * 4),
], ids=['header of 2^63 bytes', 'header of a gigabyte', 'braces', 'brackets', 'overflow', 'terabytes', 'no bytes', 'negative', 'overlapping', 'dots'])
def test_huge_claims_of_checkpoints(content, worker, tmp_path):
    path = tmp_path / 'model.safetensors'
    path.write_bytes(content)
    refused(worker, 'model.safetensors', path, str(path))


def rewrite(path, weights=(), settings=None):
    """A checkpoint with other weights or settings, and a checksum that fits: what somebody with bad intentions would
    make.
    """
    from microvid_nb.training import checksum, read_tensors
    from safetensors.torch import save_file
    tensors, about = read_tensors(path)
    tensors.update(weights)
    about['settings'].update(settings or {})
    text = json.dumps(about)
    save_file(tensors, path, metadata={'microvid_nb': text, 'sha256': checksum(tensors, text)})


@pytest.mark.parametrize('weights, settings, says', [
    (lambda torch: {'layers.0.weight': torch.full((4, 3), torch.nan)}, {}, 'layers.0.weight holds NaN or infinity'),
    (lambda torch: {'layers.0.bias': torch.full((4,), -torch.inf)}, {}, 'layers.0.bias holds NaN or infinity'),
    (lambda torch: {'layers.0.weight': torch.ones(3, 4)}, {}, 'layers.0.weight is [3, 4], not [4, 3]'),
    (lambda torch: {'layers.0.weight': torch.ones(4, 3, dtype=torch.float64)}, {}, 'layers.0.weight is torch.float64, not torch.float32'),
    (lambda torch: {'layers.7.weight': torch.ones(1)}, {}, '1 unexpected: layers.7.weight'),
    (lambda torch: {}, {'outputs': [10**6, 10**6]}, 'layers.0.weight is [4, 3], not'),
    (lambda torch: {}, {'outputs': [-4]}, 'outputs should be 0 to'),
    (lambda torch: {}, {'outputs': 'os.system'}, 'outputs of Sizes should be'),
    (lambda torch: {}, {'surprise': 1}, 'Sizes has the fields'),
])
def test_checkpoints_that_do_not_fit(weights, settings, says, worker, tmp_path):
    import torch
    path = tmp_path / 'model.safetensors'
    make_checkpoint(path)
    rewrite(path, weights(torch), settings)
    refused(worker, 'model.safetensors', path, says)


# --- videos

def box(kind: bytes, *parts: bytes) -> bytes:
    content = b''.join(parts)
    return struct.pack('>I', 8 + len(content)) + kind + content


def patched(data: bytes, kind: bytes, at: int, value: bytes) -> bytes:
    """An MP4 in which a field of the first box of some kind is another."""
    start = data.index(kind) + 4 + at
    return data[:start] + value + data[start + len(value):]


def large_y4m(width, height): return f'YUV4MPEG2 W{width} H{height} F25:1 Ip A1:1 C420jpeg\nFRAME\n'.encode() + b'\x80' * 1000
def large_gif(side): return b'GIF89a' + struct.pack('<HH', side, side) + b'\xf0\0\0' + b'\0' * 6 + b',' + struct.pack('<HHHHB', 0, 0, side, side, 0) + b'\2\3D\1\5\0;'


def large_png(side):
    import zlib
    def chunk(kind, content): return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))
    return (
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0))
        + chunk(b'IDAT', zlib.compress(b'\0' * 10_000))
        + chunk(b'IEND', b'')
    )


def large_bmp(side): return b'BM' + struct.pack('<IHHIIiiHHIIiiII', 1000, 0, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0) + b'\0' * 900


@pytest.mark.parametrize('name, content', [
    ('wide.y4m', large_y4m(100_000, 100_000)), ('flat.y4m', large_y4m(2**31 - 1, 1)), ('screen.gif', large_gif(65_535)), ('large.png', large_png(100_000)), ('large.bmp', large_bmp(100_000)),
])
def test_pictures_of_ten_billion_pixels(name, content, worker, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    answer = refused(worker, 'clip.mp4', path, 'MediaError')
    assert answer['megabytes'] < 200


@pytest.mark.parametrize('kind, at, value', [
    (b'avc1', 24, struct.pack('>HH', 65_535, 65_535)), (b'tkhd', 76, struct.pack('>II', 100_000 << 15, 100_000 << 15)),
    (b'stsz', 4, struct.pack('>II', 1, 10**9)), (b'stsz', 4, struct.pack('>II', 1, 10**8)), (b'stsz', 8, struct.pack('>I', 10**9)),
    (b'stts', 8, struct.pack('>II', 10**9, 1)), (b'stsc', 4, struct.pack('>I', 10**9)), (b'stco', 4, struct.pack('>I', 10**9)),
    (b'mdhd', 16, struct.pack('>I', 2**32 - 1)), (b'mvhd', 16, struct.pack('>I', 2**32 - 1)), (b'mdhd', 12, struct.pack('>I', 1)), (b'stsd', 4, struct.pack('>I', 10**9)),
], ids=lambda value: value.decode() if isinstance(value, bytes) and value.isalpha() else '')
def test_a_billion_frames(kind, at, value, worker, tmp_path):
    path = tmp_path / 'clip.mp4'
    make_video(path)
    path.write_bytes(patched(path.read_bytes(), kind, at, value))
    answer = worker('clip.mp4', path)
    check('clip.mp4', answer)


def test_a_second_long_clip_that_claims_forty_hours(worker, tmp_path):
    path = tmp_path / 'clip.mkv'
    make_video(path)
    data = path.read_bytes()
    at = data.index(b'\x44\x89')  # Duration, a float of eight bytes
    path.write_bytes(data[:at + 3] + struct.pack('>d', 144e6) + data[at + 11:])
    answer = worker('clip.mkv', path)
    check('clip.mkv', answer)
    assert answer['said'] == 'read'


@pytest.mark.parametrize('channels', [7, 8, 9, 16, 64, 300])
def test_many_channels(channels, worker, tmp_path):
    from scipy.io import wavfile
    path = tmp_path / 'sound.wav'
    wavfile.write(path, 8000, np.zeros((400, channels), np.int16))
    check('sound.wav', worker('sound.wav', path))


@pytest.mark.parametrize('rate', [0, 1, 774_843_950, 2**31, 2**32 - 1])
def test_impossible_rates(rate, worker, tmp_path):
    from scipy.io import wavfile
    path = tmp_path / 'sound.wav'
    wavfile.write(path, 8000, np.zeros(4000, np.int16))
    data = path.read_bytes()
    path.write_bytes(data[:24] + struct.pack('<I', rate) + data[28:])
    check('sound.wav', worker('sound.wav', path))


def test_ten_hours_of_sound(worker, tmp_path):
    from scipy.io import wavfile
    path, size = tmp_path / 'sound.wav', 10 * 3600 * 8000
    wavfile.write(path, 8000, np.zeros(0, np.uint8))
    with open(path, 'r+b') as file:
        for at, value in ((4, 36 + size), (40, size)):
            file.seek(at)
            file.write(struct.pack('<I', value))
        file.truncate(44 + size)  # silence takes no place on the disk
    answer = worker('sound.wav', path, seconds=120)  # as much sound is decoded as one call may read
    assert (
        answer['said'].startswith('refused: MediaError: ')
        and 'has more than 140 minutes of sound at 8000 Hz: read it in parts, by start and end' in answer['said']
    ), answer
    assert answer['megabytes'] < 400


# --- tables

def test_a_packed_table_that_unpacks_to_much(worker, tmp_path):
    path = tmp_path / 'labels.csv.gz'
    with gzip.open(path, 'wb') as file:
        file.write(b'ImageID,Source,LabelName,Confidence\n')
        for _ in range(16):
            file.write(b'0' * 2**24)
    refused(worker, 'labels.csv', path)


@pytest.mark.parametrize('name', [name for name in READERS if name.endswith('.json')])
def test_deep_and_long_json(name, worker, tmp_path):
    (tmp_path / 'features').mkdir()
    path = tmp_path / 'features' / name
    for content in (
        b'[' * 200_000,
        b'{"a":' * 50_000,
        b'9' * 1_000_000,
        b'{"a": ' + b'9' * 6000 + b'}',
        b'"' + b'\\ud800' * 1000 + b'"',
        b'\xff\xfe{\0}\0',
    ):
        path.unlink(missing_ok=True)
        READERS[name][0](path)
        path.write_bytes(content)
        refused(worker, name, path)


def hdf5(path, **arrays):
    import h5py
    make_hdf5(path)
    with h5py.File(path, 'a') as file:
        for name, make in arrays.items():
            del file[name]
            make(file, name)


@pytest.mark.parametrize('arrays', [
    {'y_train': lambda file, name: file.create_dataset(name, (10**9,), 'int64', chunks=(1000,))},
    {name: (lambda shape: lambda file, name: file.create_dataset(name, shape, 'f4', chunks=True))(shape) for name, shape in {'X_train': (10**9, 812), 'y_train': (10**9,), 'id_train': (10**9,)}.items()},
    {'X_train': lambda file, name: file.__setitem__(name, np.full((2, 812), np.nan, np.float32))},
    {'X_train': lambda file, name: file.create_dataset(name, (2, 812), 'S4')},
    {'y_train': lambda file, name: file.create_dataset(name, (2, 10**6), 'int64', chunks=(1, 1000))},
    {'X_train': lambda file, name: file.create_group(name)},
], ids=['a billion labels', 'a billion rows', 'NaN', 'text', 'another shape', 'a group'])
def test_hostile_hdf5(arrays, worker, tmp_path):
    path = tmp_path / 'venues.h5'
    hdf5(path, **arrays)
    refused(worker, 'venues.h5', path, str(path))


def test_links_out_of_an_hdf5_file(worker, tmp_path):
    import h5py
    make_hdf5(tmp_path / 'other.h5')
    path = tmp_path / 'venues.h5'
    make_hdf5(path)
    with h5py.File(path, 'a') as file:
        del file['y_train']
        file['y_train'] = h5py.ExternalLink('/etc/passwd', '/')
    refused(worker, 'venues.h5', path)


def test_word_vectors_that_claim_a_billion_words(worker, tmp_path):
    for name, content in (
        ('vectors.bin', b'1000000000 1000000000\ndog '),
        ('vectors.bin', b'1000000000 3\ndog ' + bytes(12)),
        ('vectors.txt', b'1000000000 300\ndog 1 2\n'),
        ('vectors.txt', b'dog' + b' 1' * 1_000_000 + b'\n'),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        check(name, worker(name, path))


