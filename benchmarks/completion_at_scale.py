"""Time and peak memory of completing missing modalities, with random data in memory-mapped files.

The data have the size of DARE's.

python benchmarks/completion_at_scale.py                  270,145 x 4,396: 4.8 GB in the folder
python benchmarks/completion_at_scale.py --rows 20000     a smaller one"""
import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import Peak

from microvid_nb.features.completion import CompletionSettings, factorize

ROWS = 270_145
WIDTHS = {'visual': 4096, 'acoustic': 200, 'text': 100}
MISSING = {'visual': 0, 'acoustic': 169 / ROWS, 'text': 24707 / ROWS}  # DARE, section 3.1


def write_blocks(folder: Path, rows: int, rank: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A matrix of a given rank with as much noise, in a file for each modality, written a chunk at a time."""
    blocks = {
        name: np.lib.format.open_memmap(folder / f'{name}.npy', 'w+', np.float32, (rows, width))
        for name, width in WIDTHS.items()
    }
    columns = {name: rng.standard_normal((rank, width), dtype=np.float32) / rank**.5 for name, width in WIDTHS.items()}
    for start in range(0, rows, 4096):
        factors = rng.standard_normal((min(4096, rows - start), rank), dtype=np.float32)
        for name, block in blocks.items():
            block[start : start + 4096] = factors @ columns[name] + rng.standard_normal(
                (len(factors), WIDTHS[name]), dtype=np.float32
            )
    return blocks


def complete(rows: int, folder: Path, rank: int = 20, passes: int = 10) -> dict:
    """Seconds and megabytes of a completion in place, and how far from the truth it is."""
    rng = np.random.default_rng(0)
    blocks = write_blocks(folder, rows, rank, rng)
    masks = {name: rng.random(rows) >= MISSING[name] for name in WIDTHS}
    settings = CompletionSettings(ridge=.01, passes=passes, tolerance=1e-5)
    truth = blocks['text'][~masks['text']].copy()
    with Peak() as peak:
        started = time.perf_counter()
        fitted = factorize(blocks, masks, rank, settings)
        middle = time.perf_counter()
        fitted.complete(blocks, masks, out=blocks)  # in place: what is known stays as it is
        ended = time.perf_counter()
    error = np.square(blocks['text'][~masks['text']] - truth).mean() / truth.var()
    return {
        'seconds': ended - started,
        'fit_seconds': middle - started,
        'passes': len(fitted.history),
        'own_megabytes': peak.own,
        'whole_megabytes': peak.whole,
        'megabytes_before': peak.before,
        'data_megabytes': sum(block.nbytes for block in blocks.values()) / 2**20,
        'error': float(error),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rows', type=int, default=ROWS)
    parser.add_argument('--rank', type=int, default=20)
    parser.add_argument('--passes', type=int, default=10, help='at most')
    parser.add_argument(
        '--folder', type=Path, help='where the files go for the time of the run; a temporary folder if not given'
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        found = complete(args.rows, Path(folder), args.rank, args.passes)
    print(f'{args.rows:,} x {sum(WIDTHS.values()):,} ({found["data_megabytes"]:,.0f} MB), rank {args.rank}: '
          f'fit {found["fit_seconds"]:.0f} s ({found["passes"]} passes and 3 before them), '
          f'completion {found["seconds"] - found["fit_seconds"]:.0f} s, '
          f'peak memory {found["own_megabytes"]:.0f} MB ({found["megabytes_before"]:.0f} MB before); '
          f'error of the missing texts {found["error"]:.2f} of their variance (noise alone: 0.50)')


if __name__ == '__main__':
    main()
