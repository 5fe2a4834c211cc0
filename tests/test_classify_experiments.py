"""Measures, training and the tables of the classification paper, very small."""
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import precision_score, recall_score

from microvid_nb.classify.conv3d import Conv2DClassifier, ConvSettings
from microvid_nb.classify.experiments import (
    DROPOUTS, FUSIONS, OTHER_EYES, PAPER_TABLE2, SPLITS, ClipFiles, WorldClips, keep_clip, prepare_ucf101, printed_tables, reproduce_microworld, reproduce_real,
    table1_beside_paper, table2_beside_paper, train_microworld_model, world_round)
from microvid_nb.classify.systems import (
    NETWORKS, SCALES, Clips, confusions, mean_precision, per_class, scores_of, train_network)
from microvid_nb.classify.video import load_classifier
from microvid_nb.data.world.motions import ACTIONS, action_clip
from microvid_nb.experiments import compare_rounds
from microvid_nb.media.render import write_video
from microvid_nb.training import save_checkpoint

TINY, ROOT = SCALES['tiny'], Path(__file__).resolve().parent.parent
labels = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


@given(labels)
def test_measures_against_counting(pairs):
    truth, said = np.array(pairs).T
    table, counts = (
        per_class(truth, said, 'abcd'),
        confusions(truth, said, 'abcd').pivot(index='true', columns='predicted', values='clips').to_numpy(),
    )
    for k in range(4):
        tp, fp, fn = (sum((truth == k) & (said == k)), sum((truth != k) & (said == k)), sum((truth == k) & (said != k)))
        assert table.precision[k] == pytest.approx(tp / (tp + fp) if tp + fp else 0) and table.recall[
            k
        ] == pytest.approx(tp / (tp + fn) if tp + fn else 0)
        assert table.clips[k] == tp + fn == counts[k].sum() and counts[k, k] == tp


@given(labels)
def test_mean_precision_against_sklearn(pairs):
    truth, said = np.array(pairs).T
    there = np.unique(truth)
    assert mean_precision(truth, said, 4) == pytest.approx(
        precision_score(truth, said, labels=there, average='macro', zero_division=0)
    )
    assert per_class(truth, said, 'abcd').recall[there].mean() == pytest.approx(
        recall_score(truth, said, labels=there, average='macro', zero_division=0)
    )


def random_clips(n=24, classes=12):
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, 4, 16, 16), generator=rng, dtype=torch.uint8), torch.arange(n) % classes


def test_training_is_the_same_for_the_same_seed():
    clips, truth = random_clips()
    train, other = Clips(clips[:16], truth[:16], torch.arange(12)), Clips(clips[16:], truth[16:])
    runs = [train_network('3D', TINY.network, train, other, TINY, 2, seed) for seed in (1, 1, 2)]
    losses = [history['validation loss'].tolist() for _, history in runs]
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(scores_of(runs[0][0], other)[0], scores_of(runs[1][0], other)[0])
    assert not runs[0][0].training                                    # so that dropout is off where it is judged


def test_flat_networks_cannot_see_the_order_of_frames():
    clips, truth = random_clips()
    model, _ = train_network('2D', TINY.network, Clips(clips, truth), Clips(clips, truth), TINY, 1, 0)
    assert isinstance(model, Conv2DClassifier)
    backwards, _ = scores_of(model, Clips(clips.flip(2), truth))
    assert torch.allclose(backwards, scores_of(model, Clips(clips, truth))[0], atol=1e-4)


@pytest.fixture(scope='module')
def tables():
    return reproduce_microworld(TINY, 0, progress=False)


@pytest.mark.check
def test_all_tables_of_microworld(tables):
    assert set(tables) == {'table1', 'table2', 'tried', 'tuned', 'curves', 'classes', 'confusion', 'fusion', 'videos',
                           'items_videos'}
    assert (
        tables['table1'].groupby(['task', 'network'])['round'].nunique().eq(TINY.rounds).all()
        and len(tables['table1']) == 4 * TINY.rounds
    )
    assert tables['tuned'].groupby('network')['round'].nunique().to_dict() == dict.fromkeys(NETWORKS, TINY.rounds)
    chosen = tables['tried'][tables['tried'].chosen].set_index('network')[['dropout', 'rate']]
    used = tables['tuned'].groupby('network')[['dropout', 'rate']].agg(['min', 'max'])
    for setting in ('dropout', 'rate'):
        assert used[setting].eq(chosen[setting].reindex(used.index), axis=0).all(axis=None), setting
    assert sorted(tables['table2'].dropout.unique()) == sorted(DROPOUTS) and len(tables['table2']) == 4*TINY.rounds
    assert len(tables['fusion']) == TINY.rounds*(len(FUSIONS) + 3 + len(OTHER_EYES))
    assert tables['videos'].pooling.tolist() == ['mean', 'attention']
    assert len(tables['items_videos']) == 2*TINY.judged
    for table in tables.values(): assert table.notna().all(axis=None)
    for what in ('precision', 'recall', 'accuracy'): assert tables['fusion'][what].between(0, 1).all()
    weights = tables['table1'].groupby(['task', 'network']).weights.first().unstack()
    assert (weights['2D']/weights['3D']).between(.95, 1.05).all()
    weights = tables['tuned'].groupby('network').weights.first()
    assert weights['2D + shift'] == weights['2D'] and weights['C3D']/weights['3D'] == pytest.approx(1, abs=.05)


def saved(name):
    return pd.read_csv(ROOT/'results'/f'classify_{name}_microworld_small_seed0.csv')


def test_tables_beside_the_paper():
    shown = table1_beside_paper(saved('table1'), 'scene')
    assert shown.loc['training precision, paper (UCF101)', '3D'] == 0.952
    assert '±' in shown.loc['validation precision, MicroWorld', '3D']
    printed = table2_beside_paper(saved('table2'))['validation precision, paper (UCF101)']
    assert printed.tolist() == PAPER_TABLE2.loc['validation precision'].tolist()


@pytest.mark.check
def test_curves_and_confusions_agree_with_the_table(tables):
    keys = ['round', 'task', 'network', 'dropout', 'tuned']
    last = tables['curves'].groupby(keys).last()
    paper = pd.concat([tables['table1'], tables['table2']]).drop_duplicates(keys[:-1]).assign(tuned=False)
    rows = pd.concat([paper, tables['tuned'].assign(tuned=True)]).set_index(keys)
    assert len(last) == len(rows)
    assert last['validation precision'].loc[rows.index].to_numpy() == pytest.approx(
        rows['validation precision'].to_numpy()
    )
    counts = tables['confusion'][~tables['confusion'].tuned]
    accuracy = (
        counts[counts.true == counts.predicted].groupby(['task', 'network']).clips.sum()
        / counts.groupby(['task', 'network']).clips.sum()
    )
    by_table = tables['table1'].groupby(['task', 'network'])['validation accuracy'].mean()
    assert accuracy.reindex(by_table.index, fill_value=0).to_numpy() == pytest.approx(by_table.to_numpy())


def test_the_model_is_one_small_file(tmp_path):
    model = train_microworld_model(TINY, 0, progress=False)
    file = save_checkpoint(tmp_path/'classify.safetensors', model, model.settings, note='tiny')
    again = load_classifier(file)
    assert again.settings == model.settings and file.stat().st_size < 5e6
    with torch.device('meta'):
        from microvid_nb.classify.video import VideoToClass
        small = VideoToClass(SCALES['small'].video)
    assert 4*sum(p.numel() for p in small.parameters()) < 5e6


def test_the_saved_figures_say_what_the_page_says():
    """Five rounds: frames together beat single frames on actions, and not on scenes."""
    table = saved('table1')
    action, scene = (table[table.task == task] for task in ('action', 'scene'))
    assert action['round'].nunique() == 5
    def compare(rows): return compare_rounds(rows, '3D', '2D', 'validation precision', 600/2400, by='network')
    assert compare(action).difference > .3 and compare(action).p < .001
    assert abs(compare(scene).difference) < .03 and scene['validation precision'].min() > .9


@pytest.fixture
def ucf101(tmp_path):
    """Two classes of six groups, each split tests on two of them; the look of the published folders."""
    lists = tmp_path/'ucfTrainTestlist'
    lists.mkdir()
    (lists/'classInd.txt').write_text('1 Hammering\n2 HammerThrow\n')
    files = {
        (name, group): f'{name}/v_{name}_g{group:02}_c01.avi'
        for name in ('Hammering', 'HammerThrow')
        for group in range(1, 7)
    }
    for (name, group), path in files.items():
        images = action_clip(
            np.random.default_rng(group), 12, 8, 36, 48, action='hop' if name == 'Hammering' else 'walk left'
        ).images
        write_video(tmp_path/'UCF-101'/path, images, fps=8)
    for number in SPLITS:
        held = {2*number - 1, 2*number}
        (lists / f'trainlist0{number}.txt').write_text(
            '\r\n'.join(
                f'{path} {1 + (name == "HammerThrow")}' for (name, group), path in files.items() if group not in held
            )
        )
        (lists / f'testlist0{number}.txt').write_text(
            '\n'.join(path for (name, group), path in files.items() if group in held)
        )
    return tmp_path


SMALLEST = replace(TINY, network=ConvSettings(2, (4,), 8), batch=4, epochs=1)


def test_the_protocol_of_ucf101(ucf101):
    tables = reproduce_real(ucf101, SMALLEST, 0, progress=False)
    assert set(tables) == {'table1', 'table2', 'tried', 'tuned', 'curves', 'classes', 'confusion', 'left_out'}
    assert not len(tables['left_out'])
    assert tables['table1']['round'].tolist() == [1]*2 + [2]*2 + [3]*2 and len(tables['table2']) == 12
    assert tables['tuned']['round'].tolist() == [1]*4 + [2]*4 + [3]*4
    assert tables['classes']['class'].unique().tolist() == ['Hammering', 'HammerThrow']
    assert tables['classes'].groupby(['round', 'network', 'dropout', 'tuned']).clips.sum().eq(4).all()


def test_clips_are_made_once_and_damage_is_told(ucf101):
    (ucf101/'UCF-101/Hammering/v_Hammering_g03_c01.avi').write_bytes(b'RIFF')
    clips = prepare_ucf101(ucf101, SMALLEST, progress=False)
    assert len(clips) == 12 and clips[clips.problem != ''].index.tolist() == ['Hammering/v_Hammering_g03_c01.avi']
    good = clips[clips.problem == ''].kept
    assert {tuple(clip.shape) for clip in ClipFiles(good)} == {(3, SMALLEST.frames, SMALLEST.side, SMALLEST.side)}
    times = [path.stat().st_mtime_ns for path in good]
    prepare_ucf101(ucf101, SMALLEST, progress=False)
    assert [path.stat().st_mtime_ns for path in good] == times
    assert not list(ucf101.rglob('.*.npy'))                           # nothing half-written


def test_missing_videos_are_named(ucf101):
    (ucf101/'UCF-101/Hammering/v_Hammering_g03_c01.avi').unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r'1 of 12 videos are missing, such as Hammering/v_Hammering_g03_c01.avi; .*crcv.ucf.edu',
    ):
        reproduce_real(ucf101, SMALLEST, progress=False)


def test_a_clip_is_of_the_longest_action(tmp_path):
    rng = np.random.default_rng(0)
    shots = [rng.integers(0, 255, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1) for _ in range(2)]
    images = np.concatenate([np.stack([np.roll(shot, 2*i, 1) for i in range(n)]) for shot, n in zip(shots, (6, 18))])
    assert keep_clip(write_video(tmp_path/'a.mp4', images, fps=8), tmp_path/'a.npy', 4, 24) == ''
    clip = np.load(tmp_path/'a.npy')
    assert clip.shape == (3, 4, 24, 24)
    colours = [shot.mean((0, 1)) for shot in shots]
    assert np.abs(clip.mean((1, 2, 3)) - colours[1]).sum() < np.abs(clip.mean((1, 2, 3)) - colours[0]).sum()


def test_labels_of_microworld_are_in_order():
    from microvid_nb.classify.experiments import draw_clips
    from microvid_nb.data.microworld import MicroWorld
    from microvid_nb.data.world.views import ActionClips
    made = draw_clips(MicroWorld(0), TINY, range(TINY.train + TINY.other), progress=False)
    assert isinstance(made, WorldClips) and len(made.clips) == TINY.train + TINY.other
    one = ActionClips(MicroWorld(0), [7], TINY.frames, TINY.fps, TINY.side)[0]
    assert (
        torch.equal(made.clips[7], one.clip)
        and made.action[7] == one.action
        and made.scene[7] == one.scene
        and len(ACTIONS) == 12
    )
