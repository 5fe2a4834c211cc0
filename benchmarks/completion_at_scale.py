"""Time and peak memory of completing missing modalities at the size of DARE's data, with random data in memory-mapped files.

python benchmarks/completion_at_scale.py                  270,145 x 4,396: 4.8 GB in the folder
python benchmarks/completion_at_scale.py --rows 20000     a smaller one"""
import argparse
import re
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from microvid_nb.features.completion import CompletionSettings, factorize

WIDTHS = {'visual': 4096, 'acoustic': 200, 'text': 100}
MISSING = {'visual': 0, 'acoustic': 169 / 270145, 'text': 24707 / 270145}  # DARE, section 3.1


def anonymous_memory() -> float:
    """Memory that the process has of its own, in MB: without pages of mapped files, which the system takes back when it needs them."""
    return int(re.search(r'RssAnon:\s+(\d+)', Path('/proc/self/status').read_text())[1]) / 1024


class Peak:
    """The largest `anonymous_memory` while a block runs, looked at twenty times a second."""
    def __enter__(self):
        self.before, self.megabytes, self.done = anonymous_memory(), 0., threading.Event()
        self.watcher = threading.Thread(target=self.watch)
        self.watcher.start()
        return self

    def watch(self):
        while not self.done.wait(.05):
            self.megabytes = max(self.megabytes, anonymous_memory())

    def __exit__(self, *error):
        self.done.set()
        self.watcher.join()


def write_blocks(folder: Path, rows: int, rank: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A matrix of a given rank with as much noise, in a file for each modality, written a chunk at a time."""
    blocks = {name: np.lib.format.open_memmap(folder / f'{name}.npy', 'w+', np.float32, (rows, width)) for name, width in WIDTHS.items()}
    columns = {name: rng.standard_normal((rank, width), dtype=np.float32) / rank**.5 for name, width in WIDTHS.items()}
    for start in range(0, rows, 4096):
        factors = rng.standard_normal((min(4096, rows - start), rank), dtype=np.float32)
        for name, block in blocks.items():
            block[start:start + 4096] = factors @ columns[name] + rng.standard_normal((len(factors), WIDTHS[name]), dtype=np.float32)
    return blocks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rows', type=int, default=270145)
    parser.add_argument('--rank', type=int, default=20)
    parser.add_argument('--passes', type=int, default=10, help='at most')
    parser.add_argument('--folder', type=Path, help='where the files go for the time of the run; a temporary folder if not given')
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        blocks = write_blocks(Path(folder), args.rows, args.rank, rng)
        masks = {name: rng.random(args.rows) >= MISSING[name] for name in WIDTHS}
        settings = CompletionSettings(ridge=.01, passes=args.passes, tolerance=1e-5)
        truth = blocks['text'][~masks['text']].copy()
        with Peak() as peak:
            started = time.perf_counter()
            fitted = factorize(blocks, masks, args.rank, settings)
            middle = time.perf_counter()
            fitted.complete(blocks, masks, out=blocks)  # in place: what is known stays as it is
            ended = time.perf_counter()
        error = np.square(blocks['text'][~masks['text']] - truth).mean() / truth.var()
        size = sum(block.nbytes for block in blocks.values())
    print(f'{args.rows:,} x {sum(WIDTHS.values()):,} ({size / 1e9:.2f} GB), rank {args.rank}: fit {middle - started:.0f} s ({len(fitted.history)} passes and 3 before them), completion {ended - middle:.0f} s, '
          f'peak memory {peak.megabytes:.0f} MB ({peak.before:.0f} MB before); error of the missing texts {error:.2f} of their variance (noise alone: 0.50)')


if __name__ == '__main__':
    main()
