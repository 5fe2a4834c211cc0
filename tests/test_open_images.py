"""Open Images files are read as published; a slow dictionary is the oracle for the table, NumPy for turned pictures."""
import csv
import gzip
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from microvid_nb.data.open_images import (
    OpenImagesDataset, find_classes, open_image, read_class_descriptions, read_image_list, read_open_images)

CLASSES = pd.Series(
    {
        '/m/0bt9lr': 'Dog',
        '/m/0b3yr': 'Beach',
        '/m/018w8': 'Basketball',
        '/m/0frqg3': 'Basketball',
        '/g/1': 'Bag, "tote"',
        '/m/05': 'None',
        '/m/01g317': 'Person',
    },
    name='class_name',
)
IMAGES = ['0000000000000010', '000026e7ee790996', '1e00000000000005', 'ffffffffffffffff', '0000000000000001']
HEADER = ['ImageID', 'Source', 'LabelName', 'Confidence']


def write(path, rows, header=HEADER):
    with (gzip.open if path.suffix == '.gz' else open)(path, 'wt', encoding='utf-8', newline='') as file:
        csv.writer(file, lineterminator='\n').writerows([header, *rows] if header else rows)
    return path


@pytest.mark.parametrize('header', [None, ['LabelName', 'DisplayName']])
def test_class_descriptions(tmp_path, header):
    found = read_class_descriptions(write(tmp_path / 'classes.csv', CLASSES.items(), header))
    assert found.to_dict() == CLASSES.to_dict() and list(found.index) == list(CLASSES.index)


@pytest.mark.parametrize('text, message', [
    ('/m/1,Dog\n/m/2\n', 'line 2: expected a class id and a name'), ('/m/1,Dog\n/m/2,a,b\n', 'line 2: expected a class id and a name'), ('/m/1,Dog\nCat,/m/2\n', 'line 2: expected a class id'),
    ('/m/1,\n', 'line 1: expected a class id'), ('/m/1,Dog\n/m/1,Dog\n', r"line 2: the class /m/1 was there before, as 'Dog'"), ('', 'found none'), ('LabelName,DisplayName\n', 'found none')])
def test_wrong_class_descriptions_are_named(tmp_path, text, message):
    (tmp_path / 'classes.csv').write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_class_descriptions(tmp_path / 'classes.csv')
    assert 'classes.csv' in str(caught.value)


def test_find_classes():
    found, unseen = find_classes(['dog', ' BEACH ', 'basketball', 'bag', 'none', 'dog', 'gym', 'bag, "tote"'], CLASSES)
    assert unseen == ['bag', 'gym']
    assert list(found[['word', 'class_id']].itertuples(index=False, name=None)) == [
        ('dog', '/m/0bt9lr'),
        (' BEACH ', '/m/0b3yr'),
        ('basketball', '/m/018w8'),
        ('basketball', '/m/0frqg3'),
        ('none', '/m/05'),
        ('bag, "tote"', '/g/1'),
    ]
    assert find_classes([], CLASSES)[1] == []
    assert find_classes(['gym'], CLASSES)[1] == ['gym']


ROWS = st.lists(
    st.tuples(
        st.sampled_from(IMAGES),
        st.sampled_from(['verification', 'crowdsource-verification', 'machine']),
        st.sampled_from(list(CLASSES.index)),
        st.sampled_from(['0', '1', '0.0', '1.0', '0.5', '0.7', '0.90']),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=60)
@given(rows=ROWS, wanted=st.lists(st.sampled_from(list(CLASSES.index)), unique=True) | st.none(), sure=st.sampled_from([.5, .6, .9, 1]), cut=st.integers(0, 40))
def test_table(tmp_path_factory, rows, wanted, sure, cut):
    folder = tmp_path_factory.mktemp('labels')
    labels = read_open_images(
        [write(folder / 'people.csv', rows[:cut]), write(folder / 'machines.csv.gz', rows[cut:])], CLASSES, wanted, sure
    )
    columns = list(CLASSES.index) if wanted is None else wanted
    present = {(image, name) for image, _, name, confidence in rows if name in columns and float(confidence) >= sure}
    absent = {
        (image, name)
        for image, source, name, confidence in rows
        if name in columns and float(confidence) == 0 and source != 'machine'
    }
    assert list(labels.image_ids) == sorted({image for image, _ in present | absent})
    assert labels.class_ids == columns and labels.class_names == [CLASSES[name] for name in columns]
    for matrix, expected in ((labels.present, present), (labels.absent, absent), (labels.known, present ^ absent)):
        assert matrix.shape == (len(labels.image_ids), len(columns)) and matrix.dtype == bool
        assert {(labels.image_ids[row], columns[column]) for row, column in zip(*matrix.nonzero())} == expected
        assert matrix.nnz == len(expected)
    assert set(labels.conflicts()[['image_id', 'class_id']].itertuples(index=False, name=None)) == present & absent


GOOD = ('0000000000000010', 'verification', '/m/0bt9lr', '1')


@pytest.mark.parametrize('row, message', [
    (('0000000000000010', 'verification', '/m/none', '1'), r"expected a LabelName of the class descriptions, found '/m/none'"),
    (('0000000000000010', 'verification', '', '1'), r"expected a LabelName of the class descriptions, found ''"),
    *[(('0000000000000010', 'verification', '/m/0bt9lr', text), f"expected a Confidence from 0 to 1, found '{text}'") for text in ('1.5', '-1', 'nan', '', 'yes')],
    *[((text, 'verification', '/m/0bt9lr', '1'), f"expected an ImageID of 16 hexadecimal digits, found '{text}'") for text in ('10', '000000000000001g', '00000000000000010', '', '0x00000000000010', '000000000000001\n')],
])
@pytest.mark.parametrize('before', [1, 50_000])
def test_wrong_rows_are_named(tmp_path, row, message, before):
    path = write(tmp_path / 'labels.csv', [GOOD] * before + [row, GOOD])
    with pytest.raises(ValueError, match=message.replace('\n', r'\\n')) as caught:
        read_open_images(path, CLASSES, ['/m/0b3yr'])
    assert f'labels.csv, row {before + 2}: ' in str(caught.value)


@pytest.mark.parametrize('text, message', [
    ('ImageID,LabelName,Confidence\na,b,1\n', r'labels\.csv: lacks the columns Source; found ImageID, LabelName, Confidence'), ('', r'labels\.csv: Empty CSV file'),
    (','.join(HEADER) + '\n' + ','.join(GOOD) + '\nx,y\n', r'labels\.csv: CSV parse error: Row #3: Expected 4 columns, got 2'),
])
def test_files_of_another_form_are_named(tmp_path, text, message):
    (tmp_path / 'labels.csv').write_text(text)
    with pytest.raises(ValueError, match=message):
        read_open_images(tmp_path / 'labels.csv', CLASSES)


def test_other_columns_do_not_disturb(tmp_path):
    labels = read_open_images(write(tmp_path / 'boxes.csv', [('1', *GOOD[::-1])], ['XMin', *HEADER[::-1]]), CLASSES)
    assert labels.present.nnz == 1 and list(labels.image_ids) == ['0000000000000010']
    assert read_open_images(write(tmp_path / 'empty.csv', []), CLASSES).present.shape == (0, len(CLASSES))


def test_wrong_arguments(tmp_path):
    path = write(tmp_path / 'labels.csv', [GOOD])
    for sure in (0, -1, 1.1):
        with pytest.raises(ValueError, match='min_confidence must be above 0'):
            read_open_images(path, CLASSES, min_confidence=sure)
    with pytest.raises(ValueError, match='the class /m/none is not in the class descriptions'):
        read_open_images(path, CLASSES, ['/m/none'])
    with pytest.raises(
        FileNotFoundError,
        match=r'nowhere\.csv: image labels of Open Images is not here; it is published at https://storage.googleapis.com/openimages',
    ):
        read_open_images(tmp_path / 'nowhere.csv', CLASSES)


PEAK = '''
import resource, sys, pandas as pd
from microvid_nb.data.open_images import read_open_images
classes = pd.Series({f'/m/{i:x}': f'class {i}' for i in range(100)})
labels = read_open_images(sys.argv[1], classes, ['/m/7'])
print(labels.present.shape[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == 'linux' else 1024**2))
'''


@pytest.mark.check
@pytest.mark.skipif(sys.platform == 'win32', reason='the peak of a process is asked for in the Unix way')
def test_memory_stays_flat(tmp_path):
    block = ''.join(f'{i:016x},verification,/m/{i % 100:x},1\n' for i in range(100_000))
    peaks = {}
    for times in (5, 25):
        with open(tmp_path / 'labels.csv', 'w') as file:
            file.write(','.join(HEADER) + '\n')
            file.writelines([block] * times)
        done = subprocess.run(
            [sys.executable, '-c', PEAK, tmp_path / 'labels.csv'], capture_output=True, text=True, check=True
        )
        images, peaks[times] = done.stdout.split()
        assert int(images) == 1000
    assert float(peaks[25]) - float(peaks[5]) < 25  # MB, where the file grew by 80


LIST = [
    'ImageID',
    'Subset',
    'OriginalURL',
    'OriginalLandingURL',
    'License',
    'AuthorProfileURL',
    'Author',
    'Title',
    'OriginalSize',
    'OriginalMD5',
    'Thumbnail300KURL',
    'Rotation',
]


def listed(name, rotation='0.0', title='a title'):
    return [
        name,
        'train',
        f'https://e.org/{name}.jpg',
        'https://e.org',
        'https://creativecommons.org/licenses/by/2.0/',
        'https://e.org/a',
        'Ana "A." Diaz',
        title,
        '1',
        'm==',
        '',
        rotation,
    ]


def test_image_list(tmp_path):
    rows = [
        listed(name, rotation, title)
        for name, rotation, title in zip(
            IMAGES, ['0.0', '90.0', '270', 'nan', ''], ['plain', 'comma, and "quotes"', 'two\nlines', 'NA', '']
        )
    ]
    table = read_image_list(write(tmp_path / 'images.csv', rows, LIST))
    assert list(table.index) == IMAGES and table.title.tolist() == [row[7] for row in rows]
    np.testing.assert_array_equal(table.rotation, [0, 90, 270, np.nan, np.nan])
    assert (
        set(table.author) == {'Ana "A." Diaz'}
        and set(table.subset) == {'train'}
        and table.url[IMAGES[0]] == f'https://e.org/{IMAGES[0]}.jpg'
    )
    pd.testing.assert_frame_equal(
        read_image_list(tmp_path / 'images.csv', [IMAGES[3], IMAGES[1], 'not there']), table.loc[[IMAGES[1], IMAGES[3]]]
    )
    old = read_image_list(write(tmp_path / 'v3.csv', [row[:-1] for row in rows], LIST[:-1]))
    assert old.rotation.isna().all()
    pd.testing.assert_frame_equal(old.drop(columns='rotation'), table.drop(columns='rotation'))


def test_wrong_image_lists_are_named(tmp_path):
    with pytest.raises(
        ValueError, match=r"images\.csv, row 3: expected a Rotation of 0, 90, 180, 270 or nan, found '45'"
    ):
        read_image_list(write(tmp_path / 'images.csv', [listed(IMAGES[0]), listed(IMAGES[1], '45')], LIST))
    with pytest.raises(ValueError, match=f'the image {IMAGES[0]} is there more than once'):
        read_image_list(write(tmp_path / 'images.csv', [listed(IMAGES[0]), listed(IMAGES[0])], LIST))
    with pytest.raises(
        ValueError, match=r'images\.csv: lacks the columns Subset, OriginalURL, License, Author; found ImageID, Title'
    ):
        read_image_list(write(tmp_path / 'images.csv', [['a', 'b']], ['ImageID', 'Title']))


@pytest.fixture
def pictures(tmp_path):
    """Five images with labels, four of them with a picture whose corners tell how it is turned."""
    labels = read_open_images(
        write(
            tmp_path / 'labels.csv',
            [(name, 'verification', '/m/0bt9lr', str(i % 2)) for i, name in enumerate(IMAGES)]
            + [(IMAGES[0], 'verification', '/m/0bt9lr', '1')],
        ),
        CLASSES,
    )
    (tmp_path / 'train').mkdir()
    for i, name in enumerate(IMAGES[:4]):
        Image.fromarray(corners(i)).save(tmp_path / 'train' / f'{name}.jpg', quality=100, subsampling=0)
    return labels, tmp_path / 'train'


def corners(i):
    image = np.full((24, 32, 3), 40 * i, np.uint8)
    image[:8, :8], image[-8:, -8:] = 255, 128
    return image


def test_dataset(pictures):
    labels, folder = pictures
    files = labels.image_paths(folder)
    assert files.index[~files.exists].tolist() == [IMAGES[4]]
    turns = pd.Series({IMAGES[0]: 0, IMAGES[1]: 90, IMAGES[2]: 180, IMAGES[3]: np.nan, IMAGES[4]: 270})
    dataset = OpenImagesDataset(labels, folder, turns)
    assert dataset.missing == [IMAGES[4]] and len(dataset) == 4
    for position, name in enumerate(sorted(IMAGES[:4])):
        i = IMAGES.index(name)
        image, present, known = dataset[position]
        expected = np.rot90(corners(i), {1: 1, 2: 2}.get(i, 0)).astype(int)  # NumPy turns counter-clockwise, too
        assert np.abs(np.asarray(image).astype(int) - expected).mean() < 3
        row, column = labels.image_ids.get_loc(name), labels.class_ids.index('/m/0bt9lr')
        assert present.dtype == np.float32 and known.dtype == bool and present.shape == known.shape == (len(CLASSES),)
        assert present[column] == labels.present[row, column] and known.sum() == (i != 0)  # the first image is disputed
    assert OpenImagesDataset(labels, folder)[1][0].size == (32, 24)


@pytest.mark.parametrize('workers', [0, 2])
def test_dataset_in_a_loader(pictures, workers):
    labels, folder = pictures
    images, present, known = next(
        iter(DataLoader(OpenImagesDataset(labels, folder, transform=np.array), batch_size=4, num_workers=workers))
    )
    assert images.shape == (4, 24, 32, 3) and present.shape == known.shape == (4, len(CLASSES))
    (folder / f'{IMAGES[1]}.jpg').write_bytes(b'no picture')
    with pytest.raises(ValueError, match=rf'train/{IMAGES[1]}\.jpg: damaged, or not a picture'):
        list(DataLoader(OpenImagesDataset(labels, folder, transform=np.array), batch_size=4, num_workers=workers))


@settings(deadline=None, max_examples=50)
@given(share=st.floats(0, 1, exclude_max=True), suffix=st.sampled_from(['.jpg', '.png', '.gif', '.webp']))
def test_damaged_pictures_are_named(tmp_path_factory, share, suffix):
    path = tmp_path_factory.mktemp('cut') / f'picture{suffix}'
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[:int(share * len(data))])
    try:
        assert open_image(path).size == (32, 24)  # an end marker may be missing
    except ValueError as error:
        assert f'picture{suffix}: damaged, or not a picture' in str(error)


def test_pictures_of_other_kinds(tmp_path):
    for mode in ('L', 'CMYK', 'P'):
        Image.new(mode, (4, 3)).save(tmp_path / 'a.tiff')
        assert (open_image(tmp_path / 'a.tiff').mode, open_image(tmp_path / 'a.tiff', 90).size) == ('RGB', (3, 4))
    turned = Image.new('RGB', (4, 3))
    turned.getexif()[0x112] = 6  # what the camera says is not looked at
    turned.save(tmp_path / 'exif.jpg', exif=turned.getexif())
    assert open_image(tmp_path / 'exif.jpg').size == (4, 3)
    with pytest.raises(FileNotFoundError):
        open_image(tmp_path / 'nowhere.jpg')
