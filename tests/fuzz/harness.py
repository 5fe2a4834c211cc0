"""A small valid file for each reader, ways to damage it, and a process of its own that reads what comes of it."""
import faulthandler
import json
import os
import re
import select
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SECONDS, MEGABYTES = 10, 700  # of processor time, and of memory, that one file may take
PATIENCE = 20  # times as long by the clock, since the machine may be busy, or the reader may wait for ever

# ---------------------------------------------------------------- small valid files, and who reads them


def pictures(count=8, side=32):
    y, x = np.mgrid[:side, :side]
    return np.stack([np.stack([x * 8, y * 8, (x + y + 16 * i) % 256], -1) for i in range(count)]).astype(np.uint8)


def sound(count=4000):
    return (.3 * np.sin(np.arange(count) / 9)).astype(np.float32)


def make_video(path):
    from microvid_nb.media.render import write_gif, write_video
    if path.suffix == '.gif':
        write_gif(path, [pictures()], width=32)
    else:
        write_video(path, pictures(), 8, samples=sound(), sr=8000)


def read_video(path):
    from microvid_nb.media.video import probe, read_frames
    probe(path)
    read_frames(path, fps=2, short_side=32, end=30)


def make_program_stream(path):
    """MPEG-2 in a program or transport stream, or in FLV, as cameras and old sites write it."""
    import av
    with av.open(str(path), 'w') as container:
        stream = container.add_stream({'.flv': 'flv1'}.get(path.suffix, 'mpeg2video'), rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, 'yuv420p'
        for image in pictures():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, 'rgb24')))
        container.mux(stream.encode(None))


def make_still(path):
    """A photograph with Exif data: it lies on its side. It has a colour profile, too."""
    from PIL import Image, ImageCms
    exif = Image.Exif()
    exif[0x112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    Image.fromarray(pictures(1)[0]).save(path, **({} if path.suffix == '.bmp' else {'exif': exif, 'icc_profile': profile}))


def make_heic(path):
    """A photograph in parts: with transparency."""
    import pillow_heif
    rgba = np.concatenate([pictures(1, 64)[0], np.full((64, 64, 1), 90, np.uint8)], -1)
    pillow_heif.from_bytes('RGBA', (64, 64), rgba.tobytes()).save(path)


def make_pictures(path):
    from PIL import Image
    first, *rest = map(Image.fromarray, pictures())
    first.save(path, save_all=True, append_images=rest, duration=[100, 10] * 4)


def make_wav(path):
    from scipy.io import wavfile
    wavfile.write(path, 8000, (sound() * 32767).astype(np.int16))


def make_packed_sound(path):
    import av
    with av.open(str(path), 'w') as container:
        stream = container.add_stream(
            {'.flac': 'flac', '.m4a': 'aac', '.mp3': 'libmp3lame', '.ogg': 'libopus'}[path.suffix],
            rate=8000,
            layout='mono',
        )
        frame = av.AudioFrame.from_ndarray(sound()[None], format='fltp', layout='mono')
        frame.sample_rate = 8000
        resampler = av.AudioResampler(format=stream.codec_context.format, layout='mono', rate=8000, frame_size=1024)
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))


def read_sound(path):
    from microvid_nb.media.audio import read_audio
    read_audio(path, 8000)


@dataclass(frozen=True)
class Sizes:
    inputs: int = 3
    outputs: tuple[int, ...] = (4, 2)
    rate: float = .5


def models():
    from torch import nn

    class Small(nn.Module):
        def __init__(self, settings=Sizes()):
            super().__init__()
            self.settings = settings
            self.layers = nn.Sequential(
                *(nn.Linear(*pair) for pair in zip((settings.inputs, *settings.outputs), settings.outputs))
            )
    return {Small: Sizes}


def make_checkpoint(path):
    import torch

    from microvid_nb.training import save_checkpoint
    torch.manual_seed(0)
    for model in models():
        save_checkpoint(path, model(), Sizes(), note='for the tests')


def read_checkpoint(path):
    from microvid_nb.training import load_model
    load_model(path, models())


def small_training(folder, epochs):
    import torch

    from microvid_nb.training import fit
    torch.manual_seed(0)
    batches = [torch.ones(2, 3)] * 2
    for kind in models():
        model = kind()
        optimizer = torch.optim.Adam(model.parameters())
        fit(model, batches, lambda model, batch: model.layers(batch).square().mean(), optimizer, epochs,
            checkpoint=folder, progress=False)


def make_run(path):
    small_training(path.parent, 1)


def read_run(path):
    small_training(path.parent, 2)


def make_torch_file(path):
    import torch
    old = path.stem == 'old'
    torch.save(
        {'epoch': 3, 'state_dict': {'module.fc.weight': torch.ones(4, 3), 'module.fc.bias': torch.zeros(4)}},
        path,
        _use_new_zipfile_serialization=not old,
    )


def read_torch_file(path):
    from microvid_nb.data.kinetics_weights import load_tensors_only, read_kinetics_weights, unwrap_state_dict
    unwrap_state_dict(load_tensors_only(path), path)
    read_kinetics_weights(path)


def make_embedder(path):
    from microvid_nb.features.text import ParagraphEmbedder, ParagraphSettings
    ParagraphEmbedder(ParagraphSettings(dim=4, epochs=2)).fit(['a dog runs', 'a cat runs', 'the dog and the cat']).save(
        path
    )


def read_embedder(path):
    from microvid_nb.features.text import ParagraphEmbedder
    ParagraphEmbedder.load(path).embed(['a dog'], progress=False)


def make_annotations(path):
    video = {
        'gifs': {'0': [1.0, 2.0, 4.0], '1': [5.0, 3.0, 0.0]},
        'video_url': 'https://example.org/1',
        'height': 90,
        'width': 160,
        'fps': 25,
        'frames': 250,
    }
    path.write_text(json.dumps({'a': video, 'b': video | {'fps': 29.97}}))
    path.with_name('annotated_dm_count.json').write_text(
        json.dumps({'a': [0, 3, 1, 0, 2, 8, 1, 0, 0, 1], 'b': [1] * 9})
    )


def make_counts(path):
    make_annotations(path.with_name('annotated_data.json'))


def read_annotations(path):
    from microvid_nb.data.gif_thumbnails import load_gif_thumbnails
    load_gif_thumbnails(path.parent)


def make_unannotated(path):
    path.write_text(
        json.dumps(
            {
                'a': {'seconds': 61, 'video_url': 'https://example.org/1'},
                'b': {'seconds': 7, 'video_url': 'https://example.org/2'},
            }
        )
    )


def read_unannotated(path):
    from microvid_nb.data.gif_thumbnails import load_unannotated_videos
    load_unannotated_videos(path.parent)


def make_tree(path):
    path.write_text(json.dumps({'groups': [[1, 2, 3], [1, 2], [1], [2], [3]], 'weights': [1, .5, 0, .25, 2]}))


def read_tree(path):
    from microvid_nb.data.vine import read_venue_tree
    read_venue_tree(path, 3)


def make_venue_names(path):
    path.write_text('1::::Animal Shelter\n2::::Café\n3::::Zoo\n')


def read_names(path):
    from microvid_nb.data.vine import read_venue_names
    read_venue_names(path, 3)


def make_hdf5(path):
    import h5py
    rng = np.random.default_rng(0)
    with h5py.File(path, 'w') as file:
        for split in ('train', 'valid', 'test'):
            file[f'X_{split}'] = rng.normal(size=(2, 812)).astype(np.float32)
            file[f'y_{split}'] = np.array([0, 187])
            file[f'id_{split}'] = np.array([b'12', b'13'])


def read_hdf5(path):
    from microvid_nb.data.vine import VineSplit
    for split in ('train', 'valid', 'test'):
        with VineSplit(path, split) as part:
            part.read(range(len(part)) if len(part) < 1000 else [0, len(part) - 1])


def make_classes(path):
    path.write_text('LabelName,DisplayName\n/m/01,Dog\n/m/02,"Cat, tabby"\n')


def read_classes(path):
    from microvid_nb.data.open_images import read_class_descriptions
    read_class_descriptions(path)


def make_labels(path):
    path.write_text(
        'ImageID,Source,LabelName,Confidence\n000000000000000a,verification,/m/01,1\n000000000000000b,machine,/m/02,0.7\n000000000000000b,verification,/m/01,0\n'
    )


def read_labels(path):
    import pandas as pd

    from microvid_nb.data.open_images import read_open_images
    read_open_images(path, pd.Series({'/m/01': 'Dog', '/m/02': 'Cat'}, dtype='str'))


def make_images(path):
    path.write_text('ImageID,Subset,OriginalURL,OriginalLandingURL,License,AuthorProfileURL,Author,Title,OriginalSize,OriginalMD5,Thumbnail300KURL,Rotation\n'
                    '000000000000000a,train,https://a/1,https://a,https://l,https://b,Ann,"A, dog",12345,abc,https://t,90.0\n'
                    '000000000000000b,train,https://a/2,https://a,https://l,https://b,Bob,Cat,12345,abd,,\n')


def read_images(path):
    from microvid_nb.data.open_images import read_image_list
    read_image_list(path)


def make_split(path):
    path.with_name('classInd.txt').write_text('1 ApplyEyeMakeup\n2 HandstandPushups\n')
    path.with_name('testlist01.txt').write_text('ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\n')
    path.with_name('trainlist01.txt').write_text(
        'ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\nHandstandPushups/v_HandStandPushups_g09_c02.avi 2\n'
    )


def read_split(path):
    from microvid_nb.data.ucf101 import read_ucf101_split
    read_ucf101_split(path.parent)


def make_sounds(path):
    path.write_text('path,label,fold\na.wav,dog,1\nb/c.wav,rain,2\n')


def read_sounds(path):
    from microvid_nb.data.sounds import read_labelled_sounds
    read_labelled_sounds(path)


def make_esc50(path):
    path.write_text('filename,fold,target,category,esc10,src_file,take\n1-1-A-0.wav,1,0,dog,True,1,A\n2-2-A-1.wav,2,1,rooster,False,2,A\n')


def read_esc50_table(path):
    from microvid_nb.data.sounds import read_esc50
    (path.parent / 'meta').mkdir(exist_ok=True)
    (path.parent / 'meta' / 'esc50.csv').write_bytes(path.read_bytes())
    read_esc50(path.parent)


def make_own_sounds(path):
    path.write_text('path,label\na.wav,dog\nc.wav,rain\n')
    for name in 'ac':
        path.with_name(f'{name}.wav').touch()


def read_own_sounds(path):
    from microvid_nb.data.sounds import files_by_table
    files_by_table(path)


def make_ratings(path):
    path.write_text('clip,time,score,things\na.mp4,0.5,1,dog;beach\na.mp4,2,5,\n')


def read_viewers(path):
    from microvid_nb.real_data import visible_things
    from microvid_nb.thumbnail.ratings import read_ratings
    read_ratings(path.parent)
    visible_things(path.parent)


def make_world(path):
    from microvid_nb.data.microworld import MicroWorld, claim_folder
    claim_folder(MicroWorld(), path.parent)


def read_world(path):
    make_world(path)


def make_page(path):
    path.write_text(json.dumps({'results': [{'id': 1, 'name': 'dog', 'tags': ['bark'], 'previews': {}}], 'next': None}))


def read_saved_page(path):
    from microvid_nb.data.freesound import read_page
    read_page(path)


def make_topics(path):
    path.write_text('word,count\ndog,12\ncat,7\n')


def read_topic_list(path):
    from microvid_nb.data.instagram import read_topics
    read_topics(path)


def make_vectors(path):
    if path.suffix == '.bin':
        path.write_bytes(
            b'2 3\n'
            + b'dog '
            + np.array([1, 2, 3], np.float32).tobytes()
            + b'\ncat '
            + np.array([3, 2, 1], np.float32).tobytes()
            + b'\n'
        )
    else:
        path.write_text('dog 1 2 3\ncat 3 2 1e-2\nnew york 0.5 -1 2\n')


def read_vectors(path):
    from microvid_nb.data.word_vectors import read_word_vectors
    read_word_vectors(path)


def make_store(path):
    from microvid_nb.features.extractors import QualityFeatures
    from microvid_nb.features.store import Fingerprint, Parts, Row, as_table, identity, store_schema
    schema = store_schema(identity(QualityFeatures()))
    rows = [Row(f'/{name}.mp4', Fingerprint(7, 8, None), np.arange(20, dtype=np.float32), '') for name in 'abc']
    Parts(path.parent, schema).write(as_table(rows, schema))


def read_store(path):
    from microvid_nb.features.store import read_features
    read_features(path.parent.parent)


def make_failures(path):
    from microvid_nb.features.extractors import QualityFeatures
    from microvid_nb.features.store import Fingerprint, Parts, Row, as_table, identity, store_schema
    schema = store_schema(identity(QualityFeatures()), failures=True)
    rows = [Row(f'/{name}.mp4', Fingerprint(7, 8, None), None, 'is empty') for name in 'abc']
    Parts(path.parent, schema).write(as_table(rows, schema))
    path.with_name('part-000000.parquet').rename(path)


def read_reasons(path):
    from microvid_nb.features.store import read_failures
    folder = path.parent.parent / 'failures'
    folder.mkdir(exist_ok=True)
    (folder / path.name).write_bytes(path.read_bytes())
    read_failures(folder.parent)


def make_title(path):
    path.write_text(json.dumps({'title': 'My dog', 'description': 'at the beach', 'tags': ['a']}))


def make_text_title(path):
    path.write_text('My dog at the beach')


def read_title(path):
    from microvid_nb.features.extractors import read_title
    read_title(path)


READERS: dict[str, tuple[Callable, Callable]] = {
    **{f'clip{suffix}': (make_video, read_video) for suffix in ('.mp4', '.mkv', '.avi', '.gif', '.mov', '.ts')},
    **{f'clip{suffix}': (make_program_stream, read_video) for suffix in ('.mpg', '.flv')},
    **{f'still{suffix}': (make_still, read_video) for suffix in ('.jpg', '.png', '.webp', '.avif', '.bmp', '.tiff')},
    'still.heic': (make_heic, read_video),
    **{f'moves{suffix}': (make_pictures, read_video) for suffix in ('.webp', '.png', '.avif')},
    'sound.wav': (make_wav, read_sound), **{f'sound{suffix}': (make_packed_sound, read_sound) for suffix in ('.flac', '.m4a', '.mp3', '.ogg')},
    'model.safetensors': (make_checkpoint, read_checkpoint), 'weights.pth': (make_torch_file, read_torch_file), 'old.pth': (make_torch_file, read_torch_file),
    'titles.safetensors': (make_embedder, read_embedder), 'training.safetensors': (make_run, read_run),
    'annotated_data.json': (make_annotations, read_annotations), 'annotated_dm_count.json': (make_counts, read_annotations),
    'unannotated_data.json': (make_unannotated, read_unannotated), 'tree.json': (make_tree, read_tree), 'title.json': (make_title, read_title),
    'leaf_venue_name.txt': (make_venue_names, read_names), 'venues.h5': (make_hdf5, read_hdf5),
    'class-descriptions.csv': (make_classes, read_classes), 'labels.csv': (make_labels, read_labels), 'images.csv': (make_images, read_images),
    'trainlist01.txt': (make_split, read_split), 'sounds.csv': (make_sounds, read_sounds), 'topics.csv': (make_topics, read_topic_list),
    'esc50.csv': (make_esc50, read_esc50_table), 'own.csv': (make_own_sounds, read_own_sounds), 'frame_ratings.csv': (make_ratings, read_viewers),
    'world.json': (make_world, read_world), 'page.answer': (make_page, read_saved_page), 'title.txt': (make_text_title, read_title),
    'vectors.txt': (make_vectors, read_vectors), 'vectors.bin': (make_vectors, read_vectors), 'part-000000.parquet': (make_store, read_store),
    'part-000001.parquet': (make_failures, read_reasons),
}

# ---------------------------------------------------------------- the process that reads


def megabytes(name: str) -> float:
    return int(re.search(name + r':\s+(\d+)', Path('/proc/self/status').read_text())[1]) / 1024


def attempt(reader: str, path: Path) -> dict:
    """What a reader said about a file, and what that cost; an exception that is not documented is an answer, too."""
    from microvid_nb.media.video import MediaError
    Path('/proc/self/clear_refs').write_text('5')  # VmHWM starts anew
    before, started = megabytes('VmRSS'), time.process_time()
    faulthandler.dump_traceback_later(2 * SECONDS)  # where it hangs, if it does
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            READERS[reader][1](path)
        said = 'read'
    except (MediaError, ValueError, OSError) as error:
        said = f'refused: {type(error).__name__}: {error}'
    except BaseException as error:
        said = f'{type(error).__name__}: {error}'
    finally:
        faulthandler.cancel_dump_traceback_later()
    return {
        'said': said,
        'name': path.name,
        'seconds': time.process_time() - started,
        'megabytes': megabytes('VmHWM') - before,
    }


class Worker:
    """A process that reads files one after the other; a crash or a hang shows, and costs only the process."""
    def __init__(self):
        self.process, self.errors = None, tempfile.TemporaryFile()

    def start(self):
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            cwd='/',
        )

    def __call__(self, reader: str, path: Path, seconds: float = 3 * SECONDS) -> dict:
        if self.process is None:
            self.start()
            answer = self.ask(reader, path, 120)  # imports count for no file
            if self.process is None:
                return answer
        return self.ask(reader, path, seconds)

    def ask(self, reader: str, path: Path, seconds: float) -> dict:
        print(reader, path, sep='\t', file=self.process.stdin, flush=True)
        begun, waited = self.spent(), 0
        while not select.select([self.process.stdout], [], [], 1)[0]:
            waited += 1
            if self.spent() - begun > seconds or waited > PATIENCE * seconds:
                self.stop()
                return {'said': f'nothing: it hangs\n{self.last_words()}', 'seconds': seconds, 'megabytes': 0}
        answer = self.process.stdout.readline()
        if not answer:
            code = self.process.wait()
            self.process = None
            return {
                'said': f'nothing: the process ended with {code}\n{self.last_words()}',
                'seconds': 0,
                'megabytes': 0,
            }
        return json.loads(answer)

    def spent(self) -> float:
        """Seconds of processor time; 0 for a process that has ended."""
        stat = Path(f'/proc/{self.process.pid}/stat')
        try:
            return sum(map(int, stat.read_text().rpartition(')')[2].split()[11:13])) / os.sysconf('SC_CLK_TCK')
        except OSError:
            return 0.

    def last_words(self) -> str:
        self.errors.seek(max(0, self.errors.seek(0, os.SEEK_END) - 3000))
        return self.errors.read().decode(errors='replace')

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def check(reader: str, answer: dict):
    """Read, or refused with a documented error of one line that names the file, within bounds."""
    said = answer['said']
    assert said == 'read' or said.startswith('refused: ') and answer['name'] in said and '\n' not in said, (
        f'{reader}: {said}'
    )
    assert answer['seconds'] < SECONDS, f'{reader}: {answer}'
    assert answer['megabytes'] < MEGABYTES, f'{reader}: {answer}'


if __name__ == '__main__':
    faulthandler.enable()
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # what a library prints is no answer
    for line in sys.stdin:
        name, file = line.rstrip('\n').split('\t')
        print(json.dumps(attempt(name, Path(file))), file=answers, flush=True)
