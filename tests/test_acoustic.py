"""The acoustic descriptor against librosa's own calls, statistic by statistic.

Odd clips; the autoencoder learns and comes back from its file.
"""
import re
import subprocess
import sys
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from microvid_nb.data.files import real_folder
from microvid_nb.features.acoustic import (
    RATE, AutoencoderSettings, StackedDenoisingAutoencoder, acoustic_descriptor, acoustic_descriptors, layer_loss)
from microvid_nb.features.sound_experiment import esc10_table, other_sounds
from microvid_nb.media.audio import read_audio
from microvid_nb.training import load_model, save_checkpoint

# mean and maximum of the spectrum; MFCC, slopes and curvatures by mean, then by maximum
ENDS = [513, 1026, 1039, 1052, 1065, 1078, 1091]


def by_librosa(samples):
    """Eight statistics by a call for each, in double precision, so that the rounding that shows is ours."""
    samples = np.asarray(samples, float)
    spectrum = np.abs(librosa.stft(samples, n_fft=1024, hop_length=512))
    mfcc = librosa.feature.mfcc(y=samples, sr=22050, n_mfcc=13, n_fft=1024, hop_length=512)
    mode = 'interp' if mfcc.shape[1] >= 9 else 'nearest'
    values = [mfcc, librosa.feature.delta(mfcc, mode=mode), librosa.feature.delta(mfcc, order=2, mode=mode)]
    return [spectrum.mean(1), spectrum.max(1), *(v.mean(1) for v in values), *(v.max(1) for v in values)]


def check(descriptor, samples):
    for ours, theirs in zip(np.split(descriptor.numpy(), ENDS), by_librosa(samples), strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= 1e-5 * max(np.abs(theirs).max(), .1)


@pytest.mark.filterwarnings('ignore:n_fft')  # librosa's word on a clip that is shorter than a window
@settings(max_examples=25, deadline=None)
@given(st.integers(512, 40000), st.integers(0, 2**32 - 1), st.sampled_from([1e-3, .1, 1.]))
def test_noise_of_any_length(length, seed, loudness):
    rng = np.random.default_rng(seed)
    samples = (loudness * rng.standard_normal(length) * np.linspace(.1, 1, length)).astype(np.float32)
    check(acoustic_descriptor(samples), samples)


def test_batch_of_mixed_lengths_is_each_alone():
    rng = np.random.default_rng(0)
    clips = [rng.standard_normal(length).astype(np.float32) for length in (1, 70000, 4607, 512, 30000, 4608, 5000)]
    together = acoustic_descriptors(clips)
    assert together.shape == (7, 1104) and together.dtype == torch.float32
    for clip, row in zip(clips, together):
        alone = acoustic_descriptor(clip)
        for a, b in zip(alone.split([513, 513, 39, 39]), row.split([513, 513, 39, 39])):
            assert (a - b).abs().max() <= 1e-5 * max(b.abs().max(), 1)


@pytest.mark.filterwarnings('ignore:n_fft')
@pytest.mark.parametrize('samples', [np.full(1, .5, np.float32), np.zeros(1, np.float32), np.zeros(50000, np.float32), np.full(3000, -.25, np.float32)], ids=['one sample', 'one of silence', 'silence', 'constant'])
def test_odd_clips(samples):
    descriptor = acoustic_descriptor(samples)
    assert descriptor.isfinite().all()
    check(descriptor, samples)


@pytest.mark.parametrize('samples, words', [
    (None, 'the sound is missing'), (np.zeros(0, np.float32), 'the sound is empty'), (np.zeros((2, 9)), r'found torch.float64 \[2, 9\]'),
    (np.zeros(9, np.int16), 'found torch.int16'), (np.array([0, np.nan]), 'sample 1 is nan'), (np.array([np.inf, 0]), 'sample 0 is inf'), (np.array([0, 1e300]), 'sample 1 is inf')])
def test_refused(samples, words):
    with pytest.raises(ValueError, match=f'clip 1: .*{words}'):
        acoustic_descriptors([np.zeros(100, np.float32), samples])


def test_other_rates():
    time = np.arange(48000) / 48000
    tone = np.sin(2 * np.pi * 2000 * time).astype(np.float32)
    at_once = acoustic_descriptor(np.sin(2 * np.pi * 2000 * np.arange(22050) / 22050).astype(np.float32))
    assert (acoustic_descriptor(tone, 48000)[:513] - at_once[:513]).abs().max() < .01 * at_once[:513].max()
    with pytest.raises(ValueError, match='positive rate'):
        acoustic_descriptor(tone, 0)


CODE = r'''
import re, sys, numpy as np, torch
from microvid_nb.features.acoustic import acoustic_descriptor
torch.set_num_threads(1)
memory = lambda name: int(re.search(name + r':\s+(\d+)', open('/proc/self/status').read())[1])/1024
samples = np.random.default_rng(0).standard_normal(int(sys.argv[1])*60*22050, dtype=np.float32)
acoustic_descriptor(samples[:100*22050])
before = memory('VmRSS')
acoustic_descriptor(samples)
print(memory('VmHWM') - before)
'''


@pytest.mark.check
@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='peak memory is read from /proc')
def test_memory_of_ten_minutes():
    """The whole spectrum of ten minutes would take 53 MB and a transform at once several times that.

    Blocks take less than three times the samples' 53 MB.
    """
    done = subprocess.run([sys.executable, '-c', CODE, '10'], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 3 * 53


def test_long_clip_in_blocks():
    samples = np.random.default_rng(0).standard_normal(5000 * 512).astype(np.float32)   # more frames than a block has
    check(acoustic_descriptor(samples), samples)


# the autoencoder

@pytest.fixture(scope='module')
def rows():
    """Six hidden causes and some noise in 60 columns, 700 rows."""
    generator = torch.Generator().manual_seed(0)
    causes = torch.randn(700, 6, generator=generator)
    return (
        torch.tanh(causes @ torch.randn(6, 60, generator=generator)) * 3
        + 0.1 * torch.randn(700, 60, generator=generator)
        + 5
    )


SETTINGS = AutoencoderSettings(sizes=(60, 40, 20), layer_epochs=25, epochs=25)


def trained(rows, **changes):
    torch.manual_seed(0)
    sda = StackedDenoisingAutoencoder(AutoencoderSettings(**{**vars(SETTINGS), **changes}))
    return sda, sda.pretrain(rows, progress=False)


@pytest.fixture(scope='module')
def learned(rows):
    return trained(rows[:500])


def test_every_stage_lowers_its_error(rows, learned):
    _, history = learned
    assert list(dict.fromkeys(history.stage)) == ['layer 1', 'layer 2', 'whole']
    for _, stage in history.groupby('stage'):
        assert stage.loss.iloc[-1] < .9 * stage.loss.iloc[0]
    direct = trained(rows[:500], layer_epochs=0)[1]
    whole = history[history.stage == 'whole']
    assert whole.loss.iloc[0] < .7 * direct.loss.iloc[0]


def test_finds_clean_inputs_better_than_components_of_the_same_number(rows, learned):
    sda, _ = learned
    with torch.no_grad():
        clean = sda.standardise(rows[500:])
        kept = clean * (torch.rand(clean.shape, generator=torch.Generator().manual_seed(1)) >= .3)
        ours = (sda.decode(sda.encode_scaled(kept / .7)) - clean).square().mean()
        pca = PCA(20, random_state=0).fit(sda.standardise(rows[:500]).numpy())
        theirs = min(
            (torch.from_numpy(pca.inverse_transform(pca.transform(x.numpy()))) - clean).square().mean()
            for x in (kept, kept / 0.7)
        )
    assert ours < .9 * theirs


def test_targets_are_clean_and_codes_go_up_unmasked(rows):
    """Without masks, a layer's loss is the plain error; with them its target is the same, whatever was masked."""
    torch.manual_seed(0)
    sda = StackedDenoisingAutoencoder(AutoencoderSettings(sizes=(60, 40, 20), corruption=0.))
    sda.learn_scaling(rows)
    x = sda.standardise(rows)
    code = torch.nn.functional.elu(sda.encoders[0](x))
    assert torch.isclose(layer_loss(sda, 0, x), (sda.decoders[0](code) - x).square().mean())
    masked = StackedDenoisingAutoencoder(AutoencoderSettings(sizes=(60, 40, 20), corruption=.9))
    torch.nn.init.zeros_(masked.decoders[0].weight)
    torch.nn.init.zeros_(masked.decoders[0].bias)
    # nothing is predicted, so the error is the whole of the clean input
    assert torch.isclose(layer_loss(masked, 0, x), x.square().mean())
    calm = trained(rows[:200], epochs=0, layer_epochs=3)[0]
    # codes are the same each time: nothing is masked outside training
    assert torch.equal(calm.encode(rows), calm.encode(rows))


def test_scaling(rows):
    sda = StackedDenoisingAutoencoder(sizes=(60, 20))
    x = rows.clone()
    x[:, 3], x[:, 4], x[:, 5] = 7., -2., rows[:, 5].abs() * 100
    sda.learn_scaling(x)
    scaled = sda.standardise(x)
    assert scaled[:, 3:5].abs().max() < 1e-5          # constant columns don't explode
    rest = [i for i in range(60) if i not in (3, 4)]
    assert scaled[:, rest].mean(0).abs().max() < 1e-4 and (scaled[:, rest].std(0, correction=0) - 1).abs().max() < 1e-4
    assert sda.skewed[5] and not sda.skewed[4]
    assert {'shift', 'scale', 'skewed'} <= sda.state_dict().keys()


def test_same_seed_same_model(rows, learned):
    again, history = trained(rows[:500])
    assert history.loss.tolist() == learned[1].loss.tolist()
    assert torch.equal(again.encode(rows), learned[0].encode(rows))


def test_file(rows, learned, tmp_path):
    sda, _ = learned
    path = save_checkpoint(tmp_path / 'sda.safetensors', sda, sda.settings)
    again = load_model(path, {StackedDenoisingAutoencoder: AutoencoderSettings})
    assert again.settings == sda.settings
    assert torch.equal(again.encode(rows), sda.encode(rows)) and torch.equal(again(rows), sda(rows))


def test_sizes_of_the_paper():
    sda = StackedDenoisingAutoencoder(sizes=(1104, 512, 200))
    assert sda.encode(torch.rand(3, 1104)).shape == (3, 200) and sda(torch.rand(3, 1104)).shape == (3, 1104)


@pytest.mark.parametrize('bad, words', [
    (lambda sda, x: sda.encode(x[:, :5]), r'expected rows of 60 numbers, found \[700, 5\]'),
    (lambda sda, x: sda.encode(torch.where(torch.arange(700)[:, None] == 8, torch.nan, x)), 'row 8: holds NaN'),
    (lambda sda, x: sda.pretrain(x[:1]), 'two or more rows'),
    (lambda sda, x: StackedDenoisingAutoencoder(sizes=(5,)), 'sizes of input and code'),
    (lambda sda, x: StackedDenoisingAutoencoder(AutoencoderSettings(corruption=1.)), 'share of the inputs')])
def test_bad_input_is_named(learned, rows, bad, words):
    with pytest.raises(ValueError, match=words):
        bad(learned[0], rows)


# real sounds

@pytest.fixture(scope='module')
def sounds():
    folder = real_folder('sounds', 'MICROVID_MEDIA')
    if folder is None:
        pytest.skip('no real sounds here: name their folder in MICROVID_MEDIA')
    return folder


def test_real_sounds_agree_with_librosa(sounds):
    for path in sorted(sounds.glob('esc10/*/*.ogg'))[::40] + sorted(sounds.glob('ibm_max/*.ogg'))[::5]:
        samples = read_audio(path, RATE)
        check(acoustic_descriptor(samples), samples)


def test_other_sounds_leave_out_the_labelled(sounds):
    apart = sorted(sounds.glob('esc10/*/*.ogg'))
    pieces = other_sounds(sounds, apart)
    assert len(pieces) > 20 and max(map(len, pieces)) == 5 * RATE


@pytest.mark.check
def test_esc10_is_told_apart(sounds):
    table = esc10_table(sounds, AutoencoderSettings(layer_epochs=10, epochs=10), trees=50, progress=False).set_index(
        ['features', 'classifier']
    )
    assert np.isclose(table.accuracy['none', 'most frequent class'], .1)
    assert table.accuracy['descriptor', 'random forest'] > .65 and table.accuracy['SDA', 'softmax'] > .65


def test_missing_sounds_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape('esc10_labels.csv: the table of labelled clips')):
        esc10_table(tmp_path)
    (tmp_path / 'esc10_labels.csv').write_text('path,label,fold\nrain/1.ogg,rain,1\n')
    with pytest.raises(ValueError, match='1 clips of the table are missing, the first is rain/1.ogg'):
        esc10_table(tmp_path)
