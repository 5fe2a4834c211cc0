"""From a file to its venue, on drawn and real clips and sounds, with any part missing."""
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import soundfile
import torch

from microvid_nb.features.acoustic import RATE, AutoencoderSettings, acoustic_descriptors
from microvid_nb.media.render import write_video
from microvid_nb.media.survey import survey_video
from microvid_nb.media.video import MediaError
from microvid_nb.training import read_tensors, save_checkpoint, write_tensors
from microvid_nb.venue.dare import DARESettings
from microvid_nb.venue.experiments import train_microworld_model
from microvid_nb.venue.systems import SCALES
from microvid_nb.venue.video_to_venue import (
    ClipParts, PictureSettings, VideoToVenue, VideoToVenueSettings, estimate_venue, even_frames, load_venue_model,
    read_parts)

QUICK = replace(SCALES['tiny'], train=60, test=20, elsewhere=40, clips=200, epochs=2)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    torch.set_num_threads(1)
    model = train_microworld_model(QUICK, progress=False)
    return save_checkpoint(
        tmp_path_factory.mktemp('model') / 'venue.safetensors', model, model.settings, note='test'
    ), model


def ramp(path, frames, fps=8):
    """A file whose frames grow brighter by a known step."""
    grey = (20 + 200*np.arange(frames)/max(1, frames - 1)).astype(np.uint8)
    return write_video(path, np.broadcast_to(grey[:, None, None, None], (frames, 48, 64, 3)).copy(), fps=fps)


@pytest.mark.parametrize('frames, wanted', [(48, 3), (48, 2), (9, 3), (1, 3)])
def test_frames_are_the_middles_of_equal_parts(tmp_path, frames, wanted):
    found = even_frames(survey_video(ramp(tmp_path/'a.mp4', frames)), PictureSettings(frames=wanted, side=16))
    assert found.shape == (wanted, 3, 16, 16) and found.dtype == torch.uint8
    middles = 20 + 200*np.minimum(((np.arange(wanted) + .5)/wanted*frames).astype(int), frames - 1)/max(1, frames - 1)
    assert found.float().mean((1, 2, 3)).numpy() == pytest.approx(middles, abs=200/max(1, frames - 1) + 6)


def test_missing_parts_are_named_and_the_rest_is_used(tmp_path, checkpoint, sample):
    model = load_venue_model(checkpoint[0])
    whole = estimate_venue(sample, model, 'beach with friends')
    assert (
        whole.missing == () and len(whole.venues) == 40 and whole.venues.probability.sum() == pytest.approx(1, abs=1e-5)
    )
    assert whole.venues.probability.is_monotonic_decreasing and whole.concepts.strength.is_monotonic_decreasing
    assert whole.venue == whole.venues.venue[0]
    muted = estimate_venue(ramp(tmp_path/'muted.mp4', 20), model)
    assert muted.missing == ('acoustic', 'text') and not len(muted.concepts)
    soundfile.write(tmp_path/'tone.wav', np.sin(np.arange(3*RATE)/7).astype(np.float32), RATE)
    heard = estimate_venue(tmp_path/'tone.wav', model, '  ')
    assert heard.missing == ('visual', 'text') and list(heard.concepts) == ['concept', 'strength']


def test_nothing_to_see_and_nothing_to_hear(tmp_path, checkpoint):
    soundfile.write(tmp_path/'silence.wav', np.zeros(RATE, np.float32), RATE)
    (tmp_path/'note.txt').write_text('no media')
    for name in ('silence.wav', 'note.txt', 'absent.mp4'):
        with pytest.raises(MediaError, match=name):
            estimate_venue(tmp_path/name, checkpoint[1])


@pytest.mark.parametrize('name', ['silence.wav', 'empty.wav'])
def test_real_sounds_without_sound(media, checkpoint, name):
    with pytest.raises(MediaError, match=f'{name}.*(silent|no media|empty)'):
        estimate_venue(media/'sounds'/'odd'/name, checkpoint[1])


def test_a_sound_of_48_samples_is_a_sound(media, checkpoint):
    """The end of what a resampler holds is flushed, so that nothing is too short to be heard."""
    found = estimate_venue(media/'sounds'/'odd'/'short.wav', checkpoint[1])
    assert found.venues.iloc[:, -1].between(0, 1).all() and 'acoustic' not in found.missing


def test_a_long_sound_is_the_mean_of_its_pieces(checkpoint):
    model, rng = checkpoint[1], np.random.default_rng(0)
    sound = rng.normal(size=5*RATE).astype(np.float32)/10
    alone = [model.describe(ClipParts(None, piece, None)).acoustic for piece in np.array_split(sound, 5)]
    assert torch.allclose(
        model.describe(ClipParts(None, sound, None)).acoustic, torch.cat(alone).mean(0, keepdim=True), atol=1e-5
    )
    short = model.describe(ClipParts(None, sound[:RATE//10], None)).acoustic
    assert torch.allclose(short, model.encoder.encode(acoustic_descriptors([sound[:RATE//10]])).detach())


def test_tracks_hear_each_second_as_if_alone(checkpoint):
    model, rng = checkpoint[1], np.random.default_rng(1)
    sound = rng.normal(size=3*RATE).astype(np.float32)/10
    tracks = model.listen(sound, window=1., step=1.)
    assert tracks.index.tolist() == pytest.approx([.5, 1.5, 2.5]) and list(tracks) == list(model.settings.concepts)
    for second in range(3):
        alone = (
            model.estimate(ClipParts(None, sound[second * RATE : (second + 1) * RATE], None))
            .concepts.set_index('concept')
            .strength
        )
        assert tracks.iloc[second].to_numpy() == pytest.approx(alone[list(tracks)].to_numpy(), abs=1e-4)


def test_one_small_file_holds_everything(checkpoint, sample):
    path, model = checkpoint
    again = load_venue_model(path)
    assert again.settings == model.settings
    clip = read_parts(sample, model.settings.pictures, 'a walk on the beach')
    assert again.estimate(clip).venues.equals(model.estimate(clip).venues)
    assert not any('decoder' in name for name in again.state_dict())


def test_the_small_scale_fits_into_five_megabytes(tmp_path):
    scale = SCALES['small']
    dare = DARESettings(256, 200, 100, 80, scale.text_concepts, 40, (scale.hidden,))
    words = tuple(f'word{i}' for i in range(1000))
    settings = VideoToVenueSettings(
        tuple(map(str, range(40))),
        tuple(map(str, range(80))),
        words,
        (3,) * 1000,
        dare,
        scale.pictures,
        scale.autoencoder,
        seconds=scale.seconds,
    )
    assert save_checkpoint(tmp_path/'a.safetensors', VideoToVenue(settings), settings).stat().st_size < 5e6


@pytest.mark.parametrize('change, said', [
    ({'venues': ['Home']}, 'expected 40 venues, found 1'),
    ({'counts': [1.5]}, 'counts'),
    ({'seconds': 'long'}, 'seconds'),
    ({'words': None}, 'words'),
])
def test_other_settings_in_the_file_are_refused(tmp_path, checkpoint, change, said):
    tensors, about = read_tensors(checkpoint[0])
    about['settings'].update(change)
    write_tensors(tmp_path/'changed.safetensors', tensors, about)
    with pytest.raises(ValueError, match=said):
        load_venue_model(tmp_path/'changed.safetensors')
    assert json.loads(json.dumps(asdict(checkpoint[1].settings)))['seconds'] == QUICK.seconds


def test_another_model_is_refused(tmp_path, checkpoint):
    dare = checkpoint[1].dare
    with pytest.raises(ValueError, match='holds a DARE, expected VideoToVenue'):
        load_venue_model(save_checkpoint(tmp_path/'dare.safetensors', dare, dare.settings))


@pytest.mark.parametrize('name, missing', [
    ('videos/mdn_friday.mp4', ('text',)), ('videos/gradio_earth_5s_muted.mp4', ('acoustic', 'text')), ('videos/androidx_rooftop_rot90_hevc.mp4', ('text',)),
    ('sounds/esc10/sea_waves', ('visual', 'text')), ('sounds/mdn/t-rex-roar.mp3', ('visual', 'text')), ('odd_videos/rails_video_without_video_stream.mp4', ('visual', 'text')),
])
def test_real_files(media, checkpoint, name, missing):
    path = media/name
    path = path if path.is_file() else sorted(path.iterdir())[0]
    found = estimate_venue(path, checkpoint[1])
    assert found.missing == missing and np.isfinite(found.venues.probability).all()
    assert found.concepts.strength.notna().all() and len(found.concepts) == (
        0 if 'acoustic' in missing else len(checkpoint[1].settings.concepts)
    )
