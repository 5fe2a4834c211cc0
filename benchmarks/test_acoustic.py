"""The acoustic descriptor of a ten-second clip against the same numbers by librosa's calls, one for each statistic."""
import librosa
import numpy as np
import pytest
import torch

from microvid_nb.data.world.synthesis import SoundLibrary
from microvid_nb.features.acoustic import HOP, RATE, WINDOW, acoustic_descriptor


@pytest.fixture(scope='module')
def sound() -> np.ndarray:
    """Ten seconds of a dog."""
    library = SoundLibrary(200)
    return np.resize(library.listen(library.search('dog')[0]['id'], 10.), 10 * RATE)


def spectrum(samples):
    return np.abs(librosa.stft(samples, n_fft=WINDOW, hop_length=HOP))


def mfcc(samples):
    values = librosa.feature.mfcc(y=samples, sr=RATE, n_mfcc=13, n_fft=WINDOW, hop_length=HOP)
    return np.concatenate([values, librosa.feature.delta(values), librosa.feature.delta(values, order=2)])


def statistic_by_statistic(samples):
    return np.concatenate(
        [spectrum(samples).mean(1), spectrum(samples).max(1), mfcc(samples).mean(1), mfcc(samples).max(1)]
    )


@pytest.mark.parametrize('side', ['peer', 'ours'])
def test_acoustic_descriptor(benchmark, sound, side):
    benchmark.extra_info.update(
        work='acoustic descriptor of 10 s', peer='librosa, a call for each statistic', side=side, at_least=3
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # librosa's transform uses one, too
    found = benchmark.pedantic(
        acoustic_descriptor if side == 'ours' else statistic_by_statistic, (sound,), rounds=15, warmup_rounds=2
    )
    torch.set_num_threads(threads)
    ends = [513, 1026, 1039, 1052, 1065, 1078, 1091]
    for ours, theirs in zip(
        np.split(np.asarray(found), ends), np.split(statistic_by_statistic(sound.astype(float)), ends)
    ):
        assert np.abs(ours - theirs).max() <= 1e-5 * max(np.abs(theirs).max(), 0.1)
