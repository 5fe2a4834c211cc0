"""Every real file gives a thumbnail and a GIF, or the error that its manifest leads one to expect."""
import csv
import warnings

import av
import numpy as np
import pytest
from PIL import Image

from microvid_nb.media.audio import read_audio
from microvid_nb.media.video import MediaError, MediaWarning, probe, read_frames
from microvid_nb.preview import make_preview

# files of which nothing can be shown: no picture stream, no decodable packet, or no video at all
UNUSABLE = {
    'androidx_sample_fragmented_uuid.mp4',
    'androidx_subsample_encrypted_noaltref.webm',
    'dali_lfs_pointer.mp4',
    'exiftool_Pentax_headeronly.avi',
    'exiftool_QuickTime_headeronly.mov',
    'mp4parse_bipbop_nonfragment_header.mp4',
    'mp4parse_zero_empty_stsc.mp4',
    'mp4parser_amf0_truncated.mp4',
    'rails_video_without_video_stream.mp4',
    'streamio_broken.mp4',
    'streamio_empty.flv',
}
DAMAGED = {'decord_corrupted.mp4', 'mediabunny_annex_b_truncated.mp4', 'mp4parse_no_timescale.mp4'}


def rows(media, *folders):
    with open(media / 'MANIFEST.csv', newline='', encoding='utf-8') as file:
        return [row for row in csv.DictReader(file) if row['path'].startswith(folders)]


@pytest.mark.check
@pytest.mark.parametrize('threads', ['1', '2'])
def test_every_video_gives_thumbnail_and_gif_or_a_clear_error(media, tmp_path, monkeypatch, threads):
    monkeypatch.setenv('OMP_NUM_THREADS', threads)
    failed, damaged, wrong = set(), set(), []
    for row in rows(media, 'videos/', 'odd_videos/'):
        path = media / row['path']
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            try:
                made = make_preview(path, tmp_path / 'a.jpg', tmp_path / 'a.gif')
            except MediaError as error:
                failed.add(path.name)
                if str(path) not in str(error) or '\n' in str(error):
                    wrong.append(f'{path.name}: {error}')
                continue
        damaged |= {path.name for warning in caught if warning.category is MediaWarning}
        gif, info = Image.open(tmp_path / 'a.gif'), probe(path)
        lasts = 0
        for i in range(gif.n_frames):
            gif.seek(i)
            lasts += gif.info['duration']
        if Image.open(tmp_path / 'a.jpg').size != (info.width, info.height):
            wrong.append(f'{path.name}: thumbnail is not as large as the clip')
        # a shot is one frame of 125 ms at least
        wanted = 1000 * len(made.gif.times) * made.gif.seconds
        if not (10 <= lasts <= 3000 and (lasts == 3000 or made.gif.seconds < 1) and abs(lasts - wanted) <= 3 * 130):
            wrong.append(f'{path.name}: GIF lasts {lasts} ms')
    assert not wrong
    assert failed == UNUSABLE
    assert damaged == DAMAGED


def test_whatever_is_no_video_is_refused_in_one_line(media):
    for row in rows(media, 'sounds/', 'text/', 'summaries/'):
        with pytest.raises(MediaError) as caught:
            make_preview(media / row['path'], media / 'never.jpg', media / 'never.gif')
        assert str(media / row['path']) in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.check
def test_times_and_sizes_are_pyavs_own(media):
    for row in rows(media, 'videos/'):
        path = media / row['path']
        frames = read_frames(path, short_side=16)
        with av.open(str(path)) as container:
            several = len(container.streams.video) > 1
            expected = [frame.time for frame in container.decode(container.streams[frames.info.stream])]
            assert frames.info.stream == container.streams.best('video').index  # FFmpeg's own choice
        np.testing.assert_array_equal(frames.times, expected, err_msg=row['path'])
        if several:  # the manifest describes the first
            continue
        width, height = map(int, row['resolution'].split('x'))
        turned = abs(int(row['rotation'] or 0)) == 90
        assert (frames.info.width, frames.info.height) == ((height, width) if turned else (width, height)), row['path']
        assert frames.info.rotation == int(row['rotation'] or 0), row['path']
        assert frames.info.has_audio == (row['has_audio'] == 'yes'), row['path']
        assert abs(frames.info.duration - (frames.times[-1] + 1 / float(row['fps']))) < .6, row['path']


def test_the_same_stream_turned_is_the_same_picture_turned(media):
    upright = read_frames(media / 'videos/androidx_man_dog_bed_0.mp4', fps=2)
    turned = read_frames(media / 'videos/androidx_man_dog_bed_270_rotated.mp4', fps=2)
    np.testing.assert_array_equal(turned.images, np.rot90(upright.images, 1, axes=(1, 2)))


def test_sounds(media):
    librosa = pytest.importorskip('librosa')
    for row in rows(media, 'sounds/')[::40] + rows(media, 'sounds/odd', 'sounds/mdn', 'sounds/librosa'):
        if row['path'].endswith('.csv'):
            continue
        samples = read_audio(media / row['path'], 22050)
        assert samples.dtype == np.float32 and samples.ndim == 1 and np.isfinite(samples).all()
        if row['duration']:
            assert abs(len(samples) / 22050 - float(row['duration'])) < .1, row['path']
        if row['path'].endswith('.ogg'):  # an independent decoder at the file's own rate
            own, rate = librosa.load(media / row['path'], sr=None, mono=True)
            ours = read_audio(media / row['path'], rate)
            assert abs(len(own) - len(ours)) < .06 * rate
            n = min(len(own), len(ours))
            assert np.abs(own[:n] - ours[:n]).max() < 2e-3, row['path']
