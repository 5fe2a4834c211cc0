"""Training at real size, as a dry run on look-alike data: published formats, workers, what can't be read, interruption,
and a file that chooses thumbnails.
"""
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix

from microvid_nb.data.microworld import MicroWorld, draw_file
from microvid_nb.data.open_images import OpenImages, read_class_descriptions, read_open_images
from microvid_nb.data.world.pictures import NAMES, SEEN
from microvid_nb.features.text import SemanticSpace
from microvid_nb.media.render import write_jpeg
from microvid_nb.media.video import MediaWarning
from microvid_nb.thumbnail import training_open_images
from microvid_nb.thumbnail.popularity import load_topic_scorer
from microvid_nb.thumbnail.select import select_thumbnail
from microvid_nb.thumbnail.training_open_images import (
    OpenImagesTraining, PictureFiles, Squeezed, extract_frames, find_open_images, label_words, open_images_pairs,
    target_pictures, train_open_images)

PLAN = OpenImagesTraining(
    width=1 / 16,
    size=64,
    attention=16,
    frozen=(),
    least=2,
    held_out=10,
    vocabulary=20,
    learning_rate=1e-3,
    batch=16,
    epochs=2,
    workers=0,
)
ADDRESS = 'https://example.org/a.jpg,https://example.org/a,https://creativecommons.org/licenses/by/2.0/,https://example.org/ana,Ana,"Up, and away",1,x==,'


@pytest.fixture(scope='module')
def here(tmp_path_factory):
    folder, world = tmp_path_factory.mktemp('real'), MicroWorld(0)
    ids, source = {name: f'/m/0{k:02d}' for k, name in enumerate(SEEN)}, folder/'source'
    source.mkdir()
    (source / 'oidv7-class-descriptions.csv').write_text(
        'LabelName,DisplayName\n/m/9,Unicorn\n'
        + ''.join(f'{label},{name.capitalize()}\n' for name, label in ids.items())
    )
    people, machines, images = ['ImageID,Source,LabelName,Confidence\n'] * 2 + [
        'ImageID,Subset,OriginalURL,OriginalLandingURL,License,AuthorProfileURL,Author,Title,OriginalSize,OriginalMD5,Thumbnail300KURL,Rotation\n'
    ]
    for i in range(40):
        picture, key = world.source_picture(i, tuple(SEEN), 64), f'{i:016x}'
        if i != 7:  # one picture is missing
            write_jpeg(
                source / 'train' / f'{key}.jpg',
                np.ascontiguousarray(np.rot90(picture.image, -1)) if i == 3 else picture.image,
            )
        people += ''.join(
            f'{key},verification,{ids[name]},{int(shown)}\n'
            for name, shown in zip(NAMES, picture.labels)
            if name in ids and (shown or i % 2)
        )
        machines += f'{key},machine,{ids["dog"]},0.9\n'
        images += f'{key},train,{ADDRESS},{90.0 if i == 3 else 0.0}\n'
    (source/'oidv7-train-annotations-human-imagelabels.csv').write_text(people)
    (source/'oidv7-train-annotations-machine-imagelabels.csv').write_text(machines)
    (source/'oidv6-train-images-with-labels-with-rotation.csv').write_text(images)
    for i in range(2):
        draw_file(world, i, folder/'target'/'deep'/f'{i}.mp4')
    write_jpeg(folder/'target'/'still.jpg', picture.image)
    generator = torch.Generator().manual_seed(0)
    (folder / 'vectors.txt').write_text(
        ''.join(
            f'{word} ' + ' '.join(f'{x:.4f}' for x in torch.randn(12, generator=generator).tolist()) + '\n'
            for word in [*NAMES, 'sky']
        )
    )
    return folder


def run(here, out, plan=PLAN):
    return train_open_images(
        here / 'source', here / 'target', here / 'vectors.txt', out, plan, pretrained=False, progress=False
    )


def test_files(here, tmp_path):
    files = find_open_images(here/'source')
    assert (
        files.classes.name.startswith('oidv7-class')
        and len(files.labels) == 2
        and files.images.name.startswith('oidv6')
        and files.pictures.name == 'train'
    )
    with pytest.raises(FileNotFoundError, match='no image labels .*no a folder of pictures.*published at'):
        (tmp_path/'class-descriptions.csv').write_text('/m/1,Dog\n')
        find_open_images(tmp_path)
    with pytest.raises(FileNotFoundError, match='published at'):
        find_open_images(tmp_path/'nowhere')


def test_words(here):
    files = find_open_images(here/'source')
    labels = read_open_images(files.labels, read_class_descriptions(files.classes))
    words = label_words(labels, SemanticSpace.from_file(here/'vectors.txt'), 2)
    counts = {name.lower(): int(labels.present[:, column].sum()) for column, name in enumerate(labels.class_names)}
    assert words.class_names == [name for name, count in counts.items() if count >= 2 and name != 'unicorn']
    for column, name in enumerate(words.class_names):
        assert words.present[:, column].sum() == counts[name]
    assert np.asarray(words.present.sum(1)).min() >= 1
    machines = label_words(
        read_open_images(files.labels, read_class_descriptions(files.classes), min_confidence=0.5),
        SemanticSpace.from_file(here / 'vectors.txt'),
        2,
    )
    assert machines.present[:, machines.class_names.index('dog')].sum() == 40
    same = OpenImages(
        pd.Index(['a', 'b']),
        ['/1', '/2', '/3'],
        ['Dog', 'dog', 'Sky'],
        csr_matrix([[True, False, True], [False, True, True]]),
        csr_matrix((2, 3), dtype=bool),
    )
    assert label_words(same, SemanticSpace.from_file(here/'vectors.txt'), 2).present.toarray().all()


def test_target(here, tmp_path):
    (here/'target'/'broken.mp4').write_bytes(b'no video')
    frames, bad = target_pictures(here/'target', tmp_path, 1, False)
    assert (
        [path.name for path in bad] == ['broken.mp4']
        and frames[0].name == 'still.jpg'
        and len({path.parent for path in frames}) == 3
    )
    stamps = {path: path.stat().st_mtime_ns for path in frames}
    lost = frames[-1].parent                       # as if it had been interrupted before this video
    for path in lost.iterdir():
        path.unlink()
    lost.rmdir()
    assert target_pictures(here/'target', tmp_path, 1, False)[0] == frames
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items() if path.parent != lost) and not list(
        tmp_path.glob('unfinished-*')
    )
    assert extract_frames(here/'target'/'broken.mp4', tmp_path)
    (here/'target'/'broken.mp4').unlink()
    with pytest.raises(ValueError, match='found 1 files and none that can be read'):
        (tmp_path/'empty').mkdir()
        (tmp_path/'empty'/'a.txt').write_text('a')
        target_pictures(tmp_path/'empty', tmp_path/'frames', 1, False)


def test_what_is_read(here, tmp_path):
    pairs, held_out, words, space = open_images_pairs(
        here / 'source', here / 'target', here / 'vectors.txt', tmp_path, PLAN, False
    )
    dataset = pairs.source.dataset
    assert len(held_out) == 10 and not set(held_out.indices) & set(pairs.source.indices) and len(dataset.missing) == 1
    upright = dataset[[path.endswith('03.jpg') for path in dataset.paths].index(True)][0]
    expected = torch.from_numpy(MicroWorld(0).source_picture(3, tuple(SEEN), 64).image).permute(2, 0, 1)
    assert (upright.float() - expected).abs().mean() < 8
    batch = pairs[0]
    assert (
        batch.images.dtype == torch.uint8 and batch.labels.shape == (len(words),) and batch.frames.shape == (3, 64, 64)
    )
    assert PictureFiles([here/'target'/'still.jpg'], Squeezed(32))[0][0].shape == (3, 32, 32)
    raw = SemanticSpace.from_file(here/'vectors.txt')
    np.testing.assert_allclose(space.vectors, raw.vectors - raw.vectors.mean(0), atol=1e-6)
    # of every second picture only what is shown was checked
    whole = [bool(pair.known.all()) for pair in pairs]
    assert any(whole) and not all(whole) and all((pair.labels <= pair.known).all() for pair in pairs)
    with pytest.raises(ValueError, match='more than the 50 pictures held out, found 39 of 40'):
        open_images_pairs(here/'source', here/'target', here/'vectors.txt', tmp_path, replace(PLAN, held_out=50), False)


def test_settings_reach_the_model(here, tmp_path, monkeypatch):
    """Each setting that a training and a model share."""
    asked = dict(across=.5, objective='probabilities', layers=('fc7', 'fc8'), attention_penalty=.25,
                 semantic_penalty=.5, margin=.75, mu=0.)
    trained = []

    def fit(model, *arguments, **options):
        trained.append(model)
        return pd.DataFrame({'accuracy': [.5]})
    monkeypatch.setattr(training_open_images, 'fit_scheduled', fit)
    run(here, tmp_path, replace(PLAN, **asked))
    found = trained[0].settings
    assert {name: getattr(found, name) for name in asked} == asked
    assert (found.width, found.size, found.attention, found.frozen) == (1/16, 64, 16, ())


@pytest.mark.check
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_dry_run_interrupted_and_whole(here, tmp_path, monkeypatch):
    """Two workers.

    A run that is stopped in its second epoch goes on to the same weights; what is written chooses by any word.
    """
    plan = replace(PLAN, workers=2)
    model, history = run(here, tmp_path/'whole', plan)
    real = training_open_images.held_out_accuracy

    def stop(*arguments):
        if (tmp_path/'cut'/'training.safetensors').exists():
            raise KeyboardInterrupt
        return real(*arguments)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(training_open_images, 'held_out_accuracy', stop)
        run(here, tmp_path/'cut', plan)
    assert not (tmp_path/'cut'/'amuse.safetensors').exists()
    again, gone_on = run(here, tmp_path/'cut', plan)
    pd.testing.assert_frame_equal(gone_on.drop(columns='seconds'), history.drop(columns='seconds'))
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor)
    ready = load_topic_scorer(tmp_path/'cut'/'amuse.safetensors')
    assert ready.settings.words == tuple(NAMES[:20])                       # the vocabulary
    chosen = select_thumbnail(here/'target'/'deep'/'0.mp4', topics={'girl': 3, NAMES[5]: 1}, model=ready)
    assert list(chosen.scores.filter(like='topic ')) == ['topic girl', f'topic {NAMES[5]}']
    with pytest.raises(ValueError, match='of another run'):
        run(here, tmp_path/'cut', replace(plan, learning_rate=1e-2))


def test_bad_videos_are_told(here, tmp_path):
    (here/'target'/'bad.mp4').write_bytes(b'')
    with pytest.warns(MediaWarning, match='bad.mp4: left out of the target'):
        open_images_pairs(here/'source', here/'target', here/'vectors.txt', tmp_path, PLAN, False)
    (here/'target'/'bad.mp4').unlink()
