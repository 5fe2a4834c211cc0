"""Descriptions of sounds against librosa and slow loops; a recogniser that names what it knows and is silent else."""
import librosa
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from typer.testing import CliRunner

from microvid_nb.cli import app
from microvid_nb.data.files import real_folder
from microvid_nb.data.sounds import read_labelled_sounds, sounds_by_class
from microvid_nb.features.acoustic import RATE, AutoencoderSettings
from microvid_nb.features.ears import (
    Ears, EarsSettings, drawn_noise, drawn_noises, drawn_others, ear_descriptors, is_loud, load_ears, packaged_ears,
    sounds_heard, train_ears, train_sounds, windows)
from microvid_nb.media.audio import read_audio
from microvid_nb.training import save_checkpoint

SMALL = EarsSettings(('click', 'tone'), AutoencoderSettings((501, 24, 12), layer_epochs=5, epochs=0), epochs=30, others=12)


def oracle(samples):
    """The 501 numbers by librosa, NumPy and loops over bands."""
    power = librosa.feature.melspectrogram(y=samples, sr=RATE, n_fft=1024, hop_length=512, n_mels=128)
    wide = librosa.power_to_db(power, top_db=None)
    narrow = librosa.power_to_db(np.maximum(power, 1e-10)[::2] + np.maximum(power, 1e-10)[1::2], top_db=None)
    loud = [t for t in range(narrow.shape[1]) if narrow[:, t].max() >= narrow.max() - 40]
    narrow = np.maximum(narrow, narrow.max() - 80)
    mfcc = librosa.feature.mfcc(S=np.maximum(wide, wide.max() - 80), n_mfcc=13)
    mode = 'interp' if mfcc.shape[1] >= 9 else 'nearest'
    mfcc = np.concatenate([mfcc, *(librosa.feature.delta(mfcc, order=order, mode=mode) for order in (1, 2))])
    change = np.array([[abs(band[t] - band[max(t - 1, 0)]) for t in loud] for band in narrow])
    bands, mfcc = narrow[:, loud], mfcc[:, loud]
    return np.concatenate([
        bands.mean(1), bands.std(1), np.quantile(bands, .1, axis=1), np.quantile(bands, .9, axis=1),
        change.mean(1), change.std(1), mfcc.mean(1), mfcc.std(1), mfcc.max(1),
    ])


@pytest.mark.filterwarnings('ignore:n_fft')
@settings(deadline=None, max_examples=20)
@given(st.integers(1, 30000), st.integers(0, 1000), st.floats(1e-4, 1))
def test_statistics_agree_with_librosa(length, seed, level):
    rng = np.random.default_rng(seed)
    loudness = np.repeat(10.0**rng.uniform(-3, 0, length // 3000 + 1), 3000)[:length]
    samples = (level*loudness*rng.normal(size=length)).astype(np.float32)
    found = ear_descriptors([samples])[0].numpy()
    assert found == pytest.approx(oracle(samples.astype(float)), abs=5e-3)


def test_silence_has_a_finite_description():
    found = ear_descriptors([np.zeros(5000, np.float32), np.zeros(1, np.float32)])
    assert found.isfinite().all() and found.shape == (2, 501)


def test_silence_around_a_sound_does_not_count():
    rng = np.random.default_rng(0)
    sound = rng.normal(0, .1, 2*RATE).astype(np.float32)
    padded = np.concatenate([np.zeros(RATE, np.float32), sound, np.zeros(2*RATE, np.float32)])
    alone, within = ear_descriptors([sound, padded])
    assert (alone - within)[:64].abs().mean() < .5
    bands = torch.tensor([[-41.], [-39.], [0.], [-100.]])
    assert is_loud(bands).tolist() == [False, True, True, False]


def test_bad_sounds_are_named():
    with pytest.raises(ValueError, match='clip 1: the sound is missing'):
        ear_descriptors([np.ones(10, np.float32), None])


@given(st.integers(1, 40*RATE), st.floats(.5, 10), st.floats(.5, 5))
def test_windows_cover_a_sound(length, size, step):
    found = windows(np.zeros(length, np.float32), size, step)
    assert found[0][0] == 0 and found[-1][1] == length
    assert all(0 < end - start <= round(size*RATE) for start, end in found)
    assert all(0 <= later[0] - earlier[0] <= round(step*RATE) for earlier, later in zip(found, found[1:]))


def made(kind, k):
    rng = np.random.default_rng([k, kind == 'tone'])
    if kind == 'tone':
        return (.3*np.sin(2*np.pi*rng.uniform(300, 3000)*np.arange(RATE)/RATE)).astype(np.float32)
    sound = np.zeros(RATE, np.float32)
    sound[rng.integers(0, RATE, 6)] = .9
    return sound


@pytest.fixture(scope='module')
def learned():
    labels = ['click', 'tone']*12
    sounds = ear_descriptors([made(label, k) for k, label in enumerate(labels)])
    return train_ears(sounds, labels, SMALL, drawn_others(SMALL.classes, 12))


def test_recogniser_names_what_it_has_learned(learned):
    for name in SMALL.classes:
        found = learned.probabilities(ear_descriptors([made(name, k) for k in range(100, 110)]))
        assert found.shape == (10, 2) and (found.sum(1) < 1).all()
        assert (np.array(SMALL.classes)[found.argmax(1)] == name).mean() >= .8


def test_silence_is_nothing(learned):
    heard = learned.hear(np.zeros(12*RATE, np.float32))
    assert set(heard['sound']) == {'nothing that I know'} and heard.end.iloc[-1] == 12
    assert sounds_heard(None, learned).empty and sounds_heard(np.zeros(RATE, np.float32), learned).empty
    assert list(sounds_heard(made('tone', 3), learned).columns) == ['sound', 'confidence']


def test_file_keeps_the_recogniser(learned, tmp_path):
    again = load_ears(save_checkpoint(tmp_path/'ears.safetensors', learned, learned.settings))
    x = ear_descriptors([made('tone', 7)])
    assert again.settings == learned.settings and np.array_equal(again.probabilities(x), learned.probabilities(x))


def test_others_are_none_of_the_classes():
    assert torch.equal(drawn_others(('dog', 'rain'), 3), drawn_others(('dog', 'rain'), 3))
    assert drawn_others((), 0).shape == (0, 501)


@pytest.mark.parametrize('seed', range(5))
def test_noise_is_drawn_within_its_levels(seed):
    sound = drawn_noise(np.random.default_rng(seed))
    level = 20*np.log10(np.sqrt((sound.astype(float)**2).mean()))
    assert sound.shape == (5*RATE,) and np.abs(sound).max() <= 1 and -61 < level < -9
    assert np.array_equal(sound*32768, np.round(sound*32768))


def test_no_noise_is_drawn_where_a_class_is_noise():
    assert torch.equal(drawn_noises(('dog',), 2), drawn_noises(('dog',), 2))
    assert len(drawn_noises(('dog',), 2)) == 2 and len(drawn_noises(('White_Noise', 'dog'), 2)) == 0


def test_package_is_silent_about_noise():
    noise = drawn_noises((), 20, seed=2)
    assert (packaged_ears().probabilities(noise).max(1) >= packaged_ears().settings.threshold).mean() <= .1


def write_sounds(folder):
    from scipy.io import wavfile
    for name in SMALL.classes:
        (folder/name).mkdir(parents=True)
        for k in range(4):
            wavfile.write(folder/name/f'{k}.wav', RATE, made(name, k))
    return folder


def test_trains_on_a_folder(tmp_path):
    data = write_sounds(tmp_path/'sounds')
    path = train_sounds(data, tmp_path/'ears.safetensors', progress=False, epochs=2, others=4)
    assert load_ears(path).settings.classes == ('click', 'tone')


@pytest.mark.parametrize('make, words', [
    (lambda folder: folder/'nowhere', 'no such folder'),
    (lambda folder: folder/'click', 'two classes or more'),
    (lambda folder: (folder/'tone'/'3.wav').unlink() or folder, 'class tone has 3 sounds'),
    (lambda folder: (folder/'tone'/'3.wav').write_text('no sound') and folder, '3.wav'),
    (lambda folder: (folder/'labels.csv').write_text('path,label\ntone/9.wav,tone\n') and folder, '9.wav is not there'),
    (lambda folder: (folder/'labels.csv').write_text('path,name\ntone/1.wav,tone\n') and folder, 'no column label'),
])
def test_bad_data_is_one_line(tmp_path, make, words):
    data = make(write_sounds(tmp_path/'sounds'))
    found = CliRunner().invoke(app, ['train', 'sounds', '--data', str(data), '--out', str(tmp_path/'ears.safetensors')])
    assert found.exit_code == 2 and words in found.stderr and found.stderr.count('\n') == 1
    assert not (tmp_path/'ears.safetensors').exists()


def test_folds_of_a_table_are_kept(tmp_path):
    folder = write_sounds(tmp_path/'sounds')
    rows = [f'{name}/{k}.wav,{name},{k % 2 + 5}' for name in SMALL.classes for k in range(4)]
    (folder/'labels.csv').write_text('\n'.join(['path,label,fold', *rows]))
    assert sorted(set(sounds_by_class(folder).fold)) == [5, 6]
    assert sounds_by_class(folder).equals(sounds_by_class(folder/'labels.csv'))


# real sounds

@pytest.fixture(scope='module')
def real():
    folder = real_folder('sounds', 'MICROVID_MEDIA')
    if folder is None:
        pytest.skip('no real sounds here: name their folder in MICROVID_MEDIA')
    return folder


def test_package_names_sounds_that_it_learned(real):
    assert isinstance(packaged_ears(), Ears) and len(packaged_ears().settings.classes) == 10
    clips = read_labelled_sounds(real/'esc10_labels.csv')[::16]
    heard = [sounds_heard(read_audio(path, RATE)) for path in clips.path]
    named = [(found['sound'].iloc[0], label.replace('_', ' ')) for found, label in zip(heard, clips.label) if len(found)]
    assert len(named) >= .6*len(clips) and np.mean([one == other for one, other in named]) >= .9


def test_package_is_silent_about_others(real):
    files = [*sorted(real.glob('librosa/*.ogg')), *sorted(real.glob('ibm_max/*.ogg'))]
    heard = pd.concat([packaged_ears().hear(read_audio(path, RATE)) for path in files if path.stem != 'rain'])
    assert (heard['sound'] == 'nothing that I know').mean() >= .8
