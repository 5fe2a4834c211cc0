"""Time and peak memory of the models at the sizes of their papers, as the amount of random data doubles. Linux only.

python benchmarks/scale.py                  everything, into scale.json
python benchmarks/scale.py --small          the same with a 64th of the data, printed only: a check that everything runs
python benchmarks/scale.py --only dare      a part; the others in scale.json stay as they are

Each size is measured in a separate process. Data that do not fit into memory at the paper's sizes are in a temporary
folder (TMPDIR, 5 GB)."""
import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from completion_at_scale import ROWS, WIDTHS, complete, write_blocks
from machine import Peak, describe

from microvid_nb.gif.gevaden import GEVADEN, gevaden_loss
from microvid_nb.gif.shots import shot_loader, shot_video
from microvid_nb.thumbnail.amuse import AMUSE, AMUSEBatch, AMUSESettings, amuse_loss
from microvid_nb.training import fit
from microvid_nb.venue.dare import DARE, train_dare
from microvid_nb.venue.videos import gather_sounds, gather_videos

RESULT = Path(__file__).with_name('scale.json')


def dare(videos: int, folder: Path) -> dict:
    """An epoch of DARE at its default sizes, 188 venues, 43,868 external sounds; features on disk."""
    rng = np.random.default_rng(0)
    size = sum(block.nbytes for block in write_blocks(folder, videos, 20, rng).values())
    sounds = gather_sounds(
        rng.standard_normal((43_868, WIDTHS['acoustic']), dtype=np.float32), rng.random((43_868, 313)) < 0.02
    )
    venue = rng.integers(188, size=videos)
    with Peak() as peak:
        started = time.perf_counter()
        mapped = [np.load(folder / f'{name}.npy', mmap_mode='c') for name in WIDTHS]
        history = train_dare(DARE(), gather_videos(*mapped, venue, venues=188), sounds, epochs=1, progress=False)
        whole = time.perf_counter() - started
    seconds = float(history.seconds[0])
    return {
        'seconds': seconds,
        'seconds_before': whole - seconds,
        'own_megabytes': peak.own,
        'whole_megabytes': peak.whole,
        'data_megabytes': size / 2**20,
    }


# percentiles of the length of the published videos, which have a shot a second
SECONDS = (0, 1, 10, 25, 50, 75, 90, 95, 99, 100), (3, 31, 63, 101, 190, 289, 472, 605, 1047, 1602)


def gevaden(videos: int, folder: Path) -> dict:
    """An epoch of GEVADEN at its default sizes; videos of as many shots of 2048 features as the published ones."""
    rng = np.random.default_rng(0)
    made = []
    for i, shots in enumerate(np.interp(np.linspace(0, 100, videos), *SECONDS).astype(int)):
        gifs = [rng.choice(shots, 3, replace=False) for _ in range(3)]
        made.append(shot_video(str(i), rng.standard_normal((shots, 2048), dtype=np.float32), gifs, np.zeros(shots)))
    model, size = GEVADEN(), sum(video.shots.nbytes for video in made)
    with Peak() as peak:
        history = fit(
            model,
            shot_loader(made),
            gevaden_loss,
            torch.optim.Adam(model.parameters(), 1e-4),
            1,
            clip=5.0,
            progress=False,
        )
    return {
        'seconds': float(history.seconds[0]),
        'own_megabytes': peak.own,
        'whole_megabytes': peak.whole,
        'data_megabytes': size / 2**20,
    }


def amuse(pictures: int, folder: Path) -> dict:
    """A step of AMUSE with this number of pictures and frames: AlexNet at full width on a GPU, else an eighth of it."""
    width, steps, gpu = (1., 10, True) if torch.cuda.is_available() else (1 / 8, 3, False)
    model = AMUSE(AMUSESettings(words=tuple(f'topic {i}' for i in range(50)), width=width))
    draw = torch.Generator().manual_seed(0)
    images, frames = (torch.randint(256, (pictures, 3, 224, 224), dtype=torch.uint8, generator=draw) for _ in range(2))
    batch = AMUSEBatch(images, torch.rand(pictures, 50, generator=draw) < .05, frames)
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    with Peak() as peak:
        history = fit(model, [batch] * steps, amuse_loss, optimizer, 2, progress=False)  # the first epoch is a warm-up
    found = {
        'seconds': float(history.seconds[1]) / steps,
        'own_megabytes': peak.own,
        'whole_megabytes': peak.whole,
        'data_megabytes': (images.nbytes + frames.nbytes) / 2**20,
        'width': width,
    }
    return found | ({'gpu_megabytes': torch.cuda.max_memory_allocated() / 2**20} if gpu else {})


class Case(NamedTuple):
    work: str  # what is measured
    unit: str  # what there is twice as much of
    sizes: tuple[int, ...]  # how many
    measure: Callable  # size, folder -> figures
    limit: float = float('inf')  # of MB at any size, with pages of mapped files


def halves(whole: int) -> tuple[int, ...]:
    return tuple(round(whole / part) for part in (8, 4, 2, 1))


CASES = {
    'dare': Case('DARE, an epoch, 4,396 features from disk', 'videos', halves(ROWS), dare, 8000),
    'gevaden': Case('GEVADEN, an epoch, shots of 2,048 features', 'videos', halves(1070), gevaden),
    'amuse': Case('AMUSE, a step', 'pictures in a batch', halves(512), amuse),
    'completion': Case('completion, rank 20, 4,396 features from disk', 'videos', halves(ROWS), complete),
}


def run_case(name: str, share: int) -> dict:
    """A case at all its sizes, each in a process of its own."""
    case, rows = CASES[name], []
    for size in case.sizes:
        size = max(16, size // share)
        done = subprocess.run([sys.executable, __file__, '--measure', name, str(size)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(
                f'{case.work}, {size:,} {case.unit}: ended with {done.returncode}\n{done.stderr[-2000:]}'
            )
        rows.append({'n': size, **json.loads(done.stdout.splitlines()[-1])})
        print(
            f'{case.work}, {size:,} {case.unit}: {rows[-1]["seconds"]:.3g} s, {rows[-1]["own_megabytes"]:,.0f} MB '
            f'({rows[-1]["whole_megabytes"]:,.0f} MB with pages of mapped files)',
            flush=True,
        )
    skipped = (
        [f'{case.work}: no GPU here, so AlexNet has an eighth of its width']
        if name == 'amuse' and not torch.cuda.is_available()
        else []
    )
    return {'work': case.work, 'unit': case.unit, 'skipped': skipped, 'machine': describe(), 'rows': rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', nargs='+', choices=CASES, default=list(CASES))
    parser.add_argument('--small', action='store_true')
    parser.add_argument('--measure', nargs=2, metavar=('CASE', 'SIZE'), help='one size, in this process; prints JSON')
    args = parser.parse_args()
    if not Path('/proc/self/clear_refs').exists():
        sys.exit('peak memory is read from /proc, which Linux has')
    if args.measure:
        with tempfile.TemporaryDirectory() as folder:
            found = CASES[args.measure[0]].measure(int(args.measure[1]), Path(folder))
        print(json.dumps({key: round(value, 4) for key, value in found.items()}))
        return
    failed = 0
    for name in args.only:
        try:
            found = run_case(name, 64 if args.small else 1)
        except RuntimeError as error:  # the others can still be measured
            print(error, file=sys.stderr, flush=True)
            failed += 1
            continue
        if not args.small:  # after each case, so that what was measured stays
            known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
            RESULT.write_text(
                json.dumps(
                    {key: {**known, name: found}[key] for key in CASES if key in {**known, name: found}}, indent=1
                )
                + '\n'
            )
        if max(row['whole_megabytes'] for row in found['rows']) > CASES[name].limit:
            print(f'{found["work"]}: takes more than {CASES[name].limit:,.0f} MB', file=sys.stderr, flush=True)
            failed += 1
    sys.exit(bool(failed))


if __name__ == '__main__':
    main()
