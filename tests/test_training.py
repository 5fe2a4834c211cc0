"""The one training loop: exact resumption, several processes, checkpoints that are safe to open."""
import json
import math
import os
import random
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, TensorDataset

from microvid_nb import training
from microvid_nb.training import (
    check_weights, evaluating, fit, load_checkpoint, load_model, random_state, read_tensors, resumable, save_checkpoint,
    separate_randomness, write_tensors)


@dataclass(frozen=True)
class NetSettings:
    """Sizes of the network of these tests."""
    inputs: int = 5
    hidden: tuple[int, ...] = (8,)
    dropout: float = .3


class Net(nn.Module):
    def __init__(self, settings=NetSettings()):
        super().__init__()
        self.settings = settings
        widths = (settings.inputs, *settings.hidden)
        self.hidden = nn.Sequential(
            *(
                layer
                for a, b in zip(widths, widths[1:])
                for layer in (nn.Linear(a, b), nn.BatchNorm1d(b), nn.Tanh(), nn.Dropout(settings.dropout))
            )
        )
        self.out = nn.Linear(widths[-1], 1)

    def forward(self, x): return self.out(self.hidden(x))


X = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
Y = (X**2).sum(1, keepdim=True)


def squared(model, batch): return {'loss': (model(batch[0]) - batch[1]).square().mean(), 'size': model.out.weight.square().mean()}
def error(model): return {'error': (model(X) - Y).square().mean()}


def made(seed=0):
    torch.manual_seed(seed)
    return Net()


def shuffled(batch=16, seed=1): return DataLoader(TensorDataset(X, Y), batch_size=batch, shuffle=True, generator=torch.Generator().manual_seed(seed))


def train(epochs, checkpoint=None, seed=0, loss=squared, **more):
    """A history without its seconds, and the model."""
    model = made(seed)
    history = fit(
        model,
        shuffled(),
        loss,
        torch.optim.Adam(model.parameters(), 1e-2),
        epochs,
        error,
        checkpoint,
        progress=False,
        **more,
    )
    return history.drop(columns='seconds'), model


def same(a, b):
    """Equal to the last bit."""
    pd.testing.assert_frame_equal(a[0], b[0], check_exact=True)
    for name, tensor in a[1].state_dict().items():
        assert torch.equal(tensor, b[1].state_dict()[name]), name


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    """Sums in one order, as in the programs that these tests start; and faster at such sizes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --- going on


@pytest.mark.check
def test_killed_in_the_middle_of_an_epoch(tmp_path):
    """A program that SIGKILL ends in epoch 3 leaves the end of epoch 2.

    The next one gives what an undisturbed run gives.
    """
    done = subprocess.run(
        [sys.executable, __file__, 'killed', str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ['training.safetensors']
    same(train(5, tmp_path, seed=9), train(5))


def killed(folder):
    """What the program above runs: ends itself at the second batch of the third epoch."""
    torch.set_num_threads(1)
    calls = iter(range(100))

    def loss(model, batch):
        if next(calls) == 2*4 + 1: os.kill(os.getpid(), signal.SIGKILL)
        return squared(model, batch)
    train(5, folder, loss=loss)


OPTIMIZERS = {
    'adam': lambda p: torch.optim.Adam(p, 1e-2, weight_decay=0.01),
    'adagrad': lambda p: torch.optim.Adagrad(p, 1e-2),
    'momentum': lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9, nesterov=True),
    'rmsprop': lambda p: torch.optim.RMSprop(p, 1e-3, centered=True),
    'groups': lambda p: torch.optim.AdamW([{'params': p[:2]}, {'params': p[2:], 'lr': 1e-3}], 1e-2),
}
SCHEDULERS = {
    'none': lambda o: None,
    'milestones': lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [1, 3], 0.5),
    'cosine': lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 5),
    'warm up, then decay': lambda o: torch.optim.lr_scheduler.SequentialLR(
        o,
        [torch.optim.lr_scheduler.LinearLR(o, 0.1, total_iters=2), torch.optim.lr_scheduler.ExponentialLR(o, 0.9)],
        [2],
    ),
}


@pytest.mark.parametrize('optimizer, scheduler', [('adam', 'milestones'), ('adagrad', 'none'), ('momentum', 'cosine'), ('rmsprop', 'warm up, then decay'), ('groups', 'milestones')])
@pytest.mark.filterwarnings('ignore:The epoch parameter in `scheduler.step')  # PyTorch's own SequentialLR
def test_goes_on_to_the_same_bits(tmp_path, optimizer, scheduler):
    def run(epochs, checkpoint=None, seed=0):
        model = made(seed)
        chosen = OPTIMIZERS[optimizer](list(model.parameters()))
        history = fit(
            model,
            shuffled(),
            squared,
            chosen,
            epochs,
            error,
            checkpoint,
            SCHEDULERS[scheduler](chosen),
            clip=1.0,
            best=('error', min),
            progress=False,
        )
        return history.drop(columns='seconds'), model
    run(1, tmp_path)
    for epochs in (3, 4): run(epochs, tmp_path, seed=epochs)
    resumed = run(5, tmp_path, seed=7)
    same(resumed, run(5))
    same(resumed, run(5, tmp_path, seed=8))  # nothing is left to do: the history and the model are those of the file


class Noisy(Dataset):
    """Examples that global generators of three libraries disturb."""
    def __len__(self): return 20
    def __getitem__(self, i): return X[i] + torch.randn(5)*.1 + np.random.normal()*.1 + random.random()*.1, Y[i]


class Halves:
    """A batch sampler of one's own with a generator: two random halves."""
    batch_size, drop_last = 10, False
    def __init__(self): self.generator = torch.Generator().manual_seed(3)
    def __len__(self): return 2
    def __iter__(self): return iter(torch.randperm(20, generator=self.generator).split(10))


@pytest.mark.parametrize('loader', [lambda: DataLoader(Noisy(), batch_size=5, shuffle=True), lambda: DataLoader(Noisy(), batch_sampler=Halves()),
                                    lambda: DataLoader(Noisy(), batch_sampler=BatchSampler(RandomSampler(range(20), generator=torch.Generator().manual_seed(2)), 5, False)),
                                    lambda: DataLoader(Noisy(), batch_size=5, shuffle=True, num_workers=2)], ids=['global', 'own sampler', 'nested', 'workers'])
def test_all_chance_goes_on(tmp_path, loader):
    def run(epochs, checkpoint=None):
        model = made()
        return fit(
            model,
            loader(),
            squared,
            torch.optim.SGD(model.parameters(), 1e-2),
            epochs,
            checkpoint=checkpoint,
            progress=False,
        ).drop(columns='seconds'), model
    run(1, tmp_path)
    same(run(3, tmp_path), run(3))


def test_another_seed_is_another_run():
    model = made()
    other = fit(
        model, shuffled(), squared, torch.optim.Adam(model.parameters(), 1e-2), 2, error, seed=1, progress=False
    )
    assert (other.loss != train(2)[0].loss).all()


def test_chance_outside_is_left_alone():
    with separate_randomness(): expected = torch.rand(1), np.random.rand(), random.random()
    train(2)
    assert (torch.rand(1), np.random.rand(), random.random()) == expected


def test_looking_does_not_train():
    """Validation that draws random numbers gives the losses that no validation gives."""
    model, watched = made(), made()
    plain = fit(model, shuffled(), squared, torch.optim.Adam(model.parameters(), 1e-2), 3, progress=False)
    modes = []

    def looks(model):
        modes.append((model.training, torch.is_grad_enabled()))
        return {'chance': torch.rand(()) + np.random.rand()}

    seen = fit(watched, shuffled(), squared, torch.optim.Adam(watched.parameters(), 1e-2), 3, looks, progress=False)
    assert seen.loss.tolist() == plain.loss.tolist() and modes == [(False, False)]*3 and not watched.training


def test_another_plan_is_refused_and_nothing_changed(tmp_path):
    train(2, tmp_path)
    written = (tmp_path/'training.safetensors').read_bytes()
    for change, words in {'clip': 'clip was None, now 2.0', 'seed': 'seed was 0, now 4'}.items():
        model = made(5)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(ValueError, match=f'is of another run .*{words}'):
            fit(
                model,
                shuffled(),
                squared,
                torch.optim.Adam(model.parameters(), 1e-2),
                3,
                error,
                tmp_path,
                progress=False,
                **{change: 2.0 if change == 'clip' else 4},
            )
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    model = Net(NetSettings(hidden=(9,)))
    with pytest.raises(ValueError, match=r"settings was .*'hidden': \[8\].*now .*'hidden': \[9\]"):
        fit(model, shuffled(), squared, torch.optim.Adam(model.parameters(), 1e-2), 3, error, tmp_path, progress=False)
    with pytest.raises(ValueError, match='2 epochs already, more than the 1 asked for'): train(1, tmp_path)
    assert (tmp_path/'training.safetensors').read_bytes() == written
    save_checkpoint(tmp_path/'training.safetensors', made(), NetSettings())
    with pytest.raises(ValueError, match='not the checkpoint of a training run'): train(3, tmp_path)


# --- the loop itself


def by_hand(model, loader, losses, optimizer, epochs):
    torch.manual_seed(0)
    for _ in range(epochs):
        for batch in loader:
            for loss in losses:
                optimizer.zero_grad()
                loss(model, batch)['loss'].backward()
                optimizer.step()


def sizes(model, batch): return {'loss': model.out.weight.square().sum(), 'batch': torch.tensor(float(len(batch[0])))}


@pytest.mark.parametrize('losses', [[squared], [squared, sizes], [sizes, squared]])
def test_equals_a_loop_by_hand(losses):
    """With momentum and weight decay, which would move parameters that a loss doesn't touch if their gradients were
    zero rather than absent.
    """
    ours, plain = made(), made()
    sgd = [torch.optim.SGD(model.parameters(), 1e-2, momentum=.9, weight_decay=.1) for model in (ours, plain)]
    fit(ours, shuffled(), losses, sgd[0], 3, progress=False)
    by_hand(plain, shuffled(), losses, sgd[1], 3)
    for name, tensor in plain.state_dict().items(): assert torch.equal(ours.state_dict()[name], tensor), name


def test_clip_bounds_a_step():
    model = nn.Linear(5, 1)
    before = model.weight.detach().clone(), model.bias.detach().clone()
    fit(
        model,
        [(X, 100 * Y)],
        lambda model, batch: (model(batch[0]) - batch[1]).square().mean(),
        torch.optim.SGD(model.parameters(), 1.0),
        1,
        clip=0.5,
        progress=False,
    )
    moved = torch.cat([(model.weight - before[0]).flatten(), model.bias - before[1]]).detach().norm()
    assert float(moved) == pytest.approx(.5, rel=1e-4)


def test_nested_batches_and_lists_of_batches():
    class Batch(NamedTuple):
        x: torch.Tensor
        names: list
    batches = [{'first': Batch(X[:8], ['a', 'b']), 'rest': [Y[:8], None]}]*3

    def loss(model, batch):
        assert isinstance(batch['first'], Batch) and batch['first'].names == ['a', 'b'] and batch['rest'][1] is None
        return (model(batch['first'].x) - batch['rest'][0]).square().mean()
    model = made()
    history = fit(model, batches, loss, torch.optim.Adam(model.parameters()), 2, progress=False)
    assert history.columns.tolist() == ['epoch', 'loss', 'learning_rate', 'seconds'] and history.epoch.tolist() == [
        1,
        2,
    ]


def test_best_epoch():
    """The model ends as it was after the best epoch, NaN is never best, and the first of equals is kept."""
    kept, figures = [], iter([3., 1., math.nan, 1., 2.])

    def judge(model):
        kept.append(model.out.weight.detach().clone())
        return {'error': next(figures)}
    model = made()
    fit(model, shuffled(), squared, torch.optim.Adam(model.parameters()), 5, judge, best=('error', min), progress=False)
    assert torch.equal(model.out.weight, kept[1])


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
def test_stops_before_a_bad_step(bad, tmp_path):
    calls = iter(range(100))

    def loss(model, batch): return squared(model, batch) | ({'kl': torch.tensor(bad)} if next(calls) == 4 + 2 else {'kl': torch.tensor(0.)})
    with pytest.raises(
        FloatingPointError, match=rf'epoch 2, batch 3: the loss is not finite: loss [\d.]+, size [\d.e-]+, kl {bad}'
    ):
        train(3, tmp_path, loss=loss)
    assert all(
        tensor.isfinite().all()
        for tensor in load_file(tmp_path / 'training.safetensors').values()
        if tensor.is_floating_point()
    )


def test_mixed_precision_is_of_one_run_only():
    """bfloat16 covers the loss function, gives about the same losses, and does not stay on for the next run."""
    kinds = []

    def loss(model, batch):
        out = model(batch[0])
        kinds.append(out.dtype)
        return (out.float() - batch[1]).square().mean()
    histories = []
    for precision in ('bf16', None):
        model = made()
        histories.append(
            fit(
                model,
                shuffled(),
                loss,
                torch.optim.Adam(model.parameters(), 1e-2),
                3,
                mixed_precision=precision,
                progress=False,
            )
        )
        assert model.out.weight.dtype == torch.float32
    assert kinds == [torch.bfloat16]*12 + [torch.float32]*12
    assert (
        histories[0].loss.to_numpy() == pytest.approx(histories[1].loss.to_numpy(), rel=0.03)
        and (histories[0].loss != histories[1].loss).any()
    )


@pytest.mark.check
def test_two_processes(tmp_path):
    """Two processes with batches of 8 train as one does with batches of 16, losses in turn included, and go on to the
    same bits.
    """
    command = [
        sys.executable,
        '-m',
        'torch.distributed.run',
        '--nproc_per_node',
        '2',
        '--master_port',
        str(20000 + os.getpid() % 20000),
        __file__,
        'share',
        str(tmp_path),
    ]
    done = subprocess.run(
        command,
        env={**os.environ, 'ACCELERATE_USE_CPU': 'true', 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    whole, resumed = (pd.read_json(tmp_path/name, precise_float=True) for name in ('whole.json', 'resumed.json'))
    pd.testing.assert_frame_equal(whole, share(4, batch=16), rtol=1e-5)
    pd.testing.assert_frame_equal(resumed, whole, check_exact=True)
    with pytest.raises(ValueError, match='processes was 2, now 1'): share(5, tmp_path)


def share(epochs, folder=None, batch=8):
    """A run that several processes can share: without batch statistics and dropout, which would differ from those of
    one process.
    """
    model = made()
    model.hidden[1], model.hidden[3] = nn.Identity(), nn.Dropout(0)
    return fit(
        model,
        shuffled(batch),
        [squared, sizes_only],
        torch.optim.Adam(model.parameters(), 1e-2),
        epochs,
        error,
        folder,
        progress=False,
    ).drop(columns='seconds')


def shared(folder):
    """What each of the two processes runs."""
    whole, _, resumed = share(4), share(2, folder), share(4, folder)
    if os.environ['RANK'] == '0':
        for name, history in {'whole.json': whole, 'resumed.json': resumed}.items():
            history.to_json(Path(folder) / name, double_precision=15)


def sizes_only(model, batch): return model.out.weight.square().sum()


# --- files


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    return save_checkpoint(
        tmp_path_factory.mktemp('saved') / 'net.safetensors', made(), NetSettings(), note='seed 0 – tëst'
    ).read_bytes()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_noticed(saved, tmp_path, data):
    """One changed byte, a cut or an appended byte: a ValueError with the file's name, never another exception and never
    weights.
    """
    kind, at = data.draw(st.sampled_from(['change', 'cut', 'append'])), data.draw(st.integers(0, len(saved) - 1))
    damaged = {
        'change': saved[:at] + bytes([saved[at] ^ data.draw(st.integers(1, 255))]) + saved[at + 1 :],
        'cut': saved[:at],
        'append': saved + saved[at : at + 1],
    }[kind]
    (tmp_path/'net.safetensors').write_bytes(damaged)
    with pytest.raises(ValueError, match='net.safetensors: '):
        load_model(tmp_path / 'net.safetensors', {Net: NetSettings})


def test_round_trip(saved, tmp_path):
    (tmp_path/'net.safetensors').write_bytes(saved)
    weights, info = load_checkpoint(tmp_path/'net.safetensors')
    assert (
        info.model == 'Net'
        and info.settings == {'inputs': 5, 'hidden': [8], 'dropout': 0.3}
        and info.note == 'seed 0 – tëst'
    )
    model = load_model(tmp_path/'net.safetensors', {Net: NetSettings})
    assert not model.training and model.settings == NetSettings() and torch.equal(model(X), made().eval()(X))
    assert json.loads(json.dumps(info.settings)) == info.settings
    with pytest.raises(FileNotFoundError, match='nowhere.safetensors: no such checkpoint'):
        load_checkpoint(tmp_path / 'nowhere.safetensors')


def test_other_weights_are_refused(tmp_path):
    file, weights = tmp_path/'net.safetensors', made().state_dict()
    about = {
        'kind': 'model',
        'model': 'Net',
        'settings': {'inputs': 5, 'hidden': [8], 'dropout': 0.3},
        'version': '1',
        'note': '',
    }
    cases = [
        ({name: tensor for name, tensor in weights.items() if name != 'out.bias'}, '1 missing: out.bias'),
        ({**weights, 'more': torch.zeros(1)}, '1 unexpected: more'),
        ({**weights, 'out.bias': torch.zeros(2)}, r'1 of another shape: out.bias is \[2\], not \[1\]'),
        ({**weights, 'out.bias': torch.zeros(1, dtype=torch.float64)}, '1 of another type: out.bias is torch.float64'),
    ]
    for tensors, words in cases:
        write_tensors(file, tensors, about)
        with pytest.raises(ValueError, match=f'net.safetensors: these are not the weights of this Net: {words}'):
            load_model(file, {Net: NetSettings})
    for change, words in [
        ({'hidden': 8}, 'hidden of NetSettings should be'),
        ({'more': 1}, 'NetSettings has the fields'),
        ({'inputs': -1}, 'NetSettings: inputs should be 0 to'),
        ({'inputs': 10**9}, 'NetSettings: inputs should be 0 to'),
        ({'hidden': [8, -2]}, 'NetSettings: hidden should be 0 to'),
        ({'dropout': math.inf}, 'NetSettings: dropout should be 0 to 1'),
        ({'hidden': [10**7]}, 'of another shape'),
        ({'inputs': True}, 'inputs of NetSettings'),
    ]:
        write_tensors(file, weights, about | {'settings': about['settings'] | change})
        with pytest.raises(ValueError, match=words):
            load_model(file, {Net: NetSettings})
    bad = made()
    bad.out.bias.data[0] = math.nan
    with pytest.raises(ValueError, match='out.bias holds NaN'):
        save_checkpoint(tmp_path / 'bad.safetensors', bad, NetSettings())
    assert not (tmp_path/'bad.safetensors').exists()
    check_weights(weights, made(1), file)


def test_foreign_safetensors_are_refused(tmp_path):
    save_file({'weight': torch.zeros(3)}, tmp_path/'foreign.safetensors', metadata={'format': 'pt'})
    with pytest.raises(ValueError, match='no checkpoint of microvid_nb'):
        load_checkpoint(tmp_path / 'foreign.safetensors')
    (tmp_path/'folder').mkdir()
    with pytest.raises(FileNotFoundError): load_checkpoint(tmp_path/'folder')


@pytest.mark.parametrize('content, words', [
    (b'version https://git-lfs.github.com/spec/v1\noid sha256:0\n', 'git lfs pull'), (b'<!DOCTYPE html><html>', 'web page'),
    (b'', 'empty'), (b'\x80\x02}q\x00.', 'Python pickle'), (b'PK\3\4' + bytes(60), 'ZIP archive'), (bytes(5000), 'only zeros'),
])
def test_what_a_file_is_instead_is_named(tmp_path, content, words):
    (tmp_path / 'net.safetensors').write_bytes(content)
    with pytest.raises(ValueError, match=f'net.safetensors: refused, it .*{words}'):
        load_checkpoint(tmp_path / 'net.safetensors')


def test_several_trainings_go_on_where_they_were_stopped(tmp_path, monkeypatch):
    """Stopped in the second of two trainings; the next time the first is loaded and the second goes on, bit by bit."""
    monkeypatch.setattr(training, '_WRITE_EVERY', 0)
    steps = []

    def two(stop_at=math.inf):
        def loss(model, batch):
            steps.append(1)
            if len(steps) == stop_at: raise KeyboardInterrupt
            return squared(model, batch)
        return [train(4, seed=seed, loss=loss)[1] for seed in (0, 1)]
    whole = two()
    count, folder = len(steps), tmp_path / 'states'
    steps.clear()
    with pytest.raises(KeyboardInterrupt), resumable(folder): two(stop_at=int(.8 * count))
    assert sorted(path.name for path in folder.iterdir()) == ['001', '002']
    steps.clear()
    with resumable(folder): again = two()
    assert len(steps) < .4 * count and not folder.exists()
    for model, other in zip(whole, again):
        assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values()))
    steps.clear()
    two()
    assert len(steps) == count and not folder.exists()  # outside of the block nothing is kept


def test_a_full_disk_is_named_and_the_state_before_stays(tmp_path, monkeypatch):
    from safetensors import SafetensorError
    train(2, tmp_path)
    before = (tmp_path / 'training.safetensors').read_bytes()

    def full(*arguments, **options): raise SafetensorError('I/O error: No space left on device (os error 28)')
    monkeypatch.setattr(training, 'save_file', full)
    with pytest.raises(OSError, match='training.safetensors: cannot be written .*No space left'):
        train(3, tmp_path)
    assert (tmp_path / 'training.safetensors').read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_half_precision_of_16_bits_scales_gradients(tmp_path):
    history, model = train(3, tmp_path, mixed_precision='fp16', clip=1.)
    plain, _ = train(3, clip=1.)
    assert history.loss.to_numpy() == pytest.approx(plain.loss.to_numpy(), rel=.05) and model.out.weight.dtype == torch.float32
    longer, _ = train(4, tmp_path, mixed_precision='fp16', clip=1.)
    assert len(longer) == 4
    with pytest.raises(ValueError, match='mixed_precision should be bf16 or fp16'):
        train(1, mixed_precision='int8')


def test_random_state_is_plain_data():
    """It survives JSON but for its tensors."""
    state = random_state()
    assert {name for name, value in state.items() if isinstance(value, torch.Tensor)} <= {
        'torch',
        'device',
    } and json.dumps([state['python'], state['numpy']])


if __name__ == '__main__':
    {'killed': killed, 'share': shared}[sys.argv[1]](sys.argv[2])


def test_a_schedule_that_watches_the_loss():
    """`ReduceLROnPlateau` gets the loss of each epoch, and halves the rate where it does not fall."""
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), .5)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=.5, patience=0)
    history = fit(model, [torch.ones(4, 2)], lambda model, batch: 0*model(batch).sum() + 1, optimizer, 4,
                  scheduler=schedule, progress=False)
    assert history.learning_rate.tolist() == [.5, .5, .25, .125]


def test_equal_models_have_equal_bytes(tmp_path):
    """The header is in the order of the alphabet, whatever the order of the tensors."""
    tensors = {name: torch.full((3,), float(i)) for i, name in enumerate('cabd')}
    write_tensors(tmp_path / 'one', tensors, {'kind': 'test'})
    write_tensors(tmp_path / 'two', dict(reversed(tensors.items())), {'kind': 'test'})
    assert (tmp_path / 'one').read_bytes() == (tmp_path / 'two').read_bytes()
    found, about = read_tensors(tmp_path / 'one')
    assert about == {'kind': 'test'} and all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_mode_is_restored_after_an_error():
    model = torch.nn.Dropout().train()
    with pytest.raises(ZeroDivisionError), evaluating(model) as still:
        assert not still.training
        1/0
    assert model.training


def test_foreign_file_is_refused_before_its_tensors_are_read(tmp_path, monkeypatch):
    from safetensors.torch import save_file
    save_file({'weight': torch.ones(3)}, tmp_path/'foreign.safetensors')
    read = []
    real = training.safe_open

    class Watched:
        def __init__(self, *arguments, **more): self.file = real(*arguments, **more)
        def __enter__(self): self.open = self.file.__enter__(); return self
        def __exit__(self, *error): return self.file.__exit__(*error)
        def metadata(self): return self.open.metadata()
        def keys(self): return self.open.keys()
        def get_tensor(self, name): read.append(name); return self.open.get_tensor(name)

    monkeypatch.setattr(training, 'safe_open', Watched)
    with pytest.raises(ValueError, match='no checkpoint of microvid_nb'):
        training.read_tensors(tmp_path/'foreign.safetensors')
    assert not read
    training.write_tensors(tmp_path/'ours.safetensors', {'weight': torch.ones(3)}, {})
    training.read_tensors(tmp_path/'ours.safetensors')
    assert read == ['weight']
