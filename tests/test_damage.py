"""Two hundred seeded corruptions of three small files: never a crash, a hang or a traceback."""
import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from microvid_nb.media.render import write_video

SEEDS, SECONDS = range(34), 10  # of four files: 136 corruptions; seconds that one may take

WORKER = textwrap.dedent('''
    import json, sys, time, warnings
    from pathlib import Path
    from microvid_nb.media.audio import read_audio
    from microvid_nb.media.video import MediaError, MediaWarning
    from microvid_nb.preview import make_preview
    for line in sys.stdin:
        path, started, said = Path(line.strip()), time.perf_counter(), 'made'
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always', MediaWarning)
            try:
                made = make_preview(path, path.with_suffix('.jpg'), path.with_suffix('.gif'))
                assert made.jpeg_path.stat().st_size and made.gif_path.stat().st_size and len(made.gif.times) == 3
                read_audio(path)
            except MediaError as error: said = str(error)
        ours = [str(warning.message) for warning in caught if warning.category is MediaWarning]
        print(json.dumps([said, ours, time.perf_counter() - started]), flush=True)
''')


def corrupt(data: bytes, seed: int) -> bytes:
    """A file with flipped bits, a cut-off end, a damaged header or a hole, by turns."""
    rng, damaged = np.random.default_rng(seed), np.frombuffer(data, np.uint8).copy()
    kind = seed % 5
    if kind == 0:
        at = rng.integers(0, len(damaged), rng.integers(1, 40))
        damaged[at] ^= (1 << rng.integers(0, 8, len(at))).astype(np.uint8)
    elif kind == 1:
        damaged = damaged[:rng.integers(1, len(damaged))]
    elif kind == 2:
        at = rng.integers(0, min(1500, len(damaged)), rng.integers(1, 20))
        damaged[at] = rng.integers(0, 256, len(at))
    elif kind == 3:
        start = rng.integers(0, len(damaged))
        damaged[start:start + rng.integers(1, 4000)] = rng.integers(0, 256)
    else:
        start, end = sorted(rng.integers(0, len(damaged), 2))
        damaged = np.concatenate([damaged[:start], damaged[end:]])
    return damaged.tobytes()


@pytest.mark.parametrize('suffix, threads', [('.mp4', '1'), ('.mp4', '2'), ('.mkv', '2'), ('.avi', '1')])
def test_corrupted_files(tmp_path, pictures, monkeypatch, suffix, threads):
    monkeypatch.setenv('OMP_NUM_THREADS', threads)  # a decoder of several threads tells of damage later
    sound = (np.sin(np.arange(44100) / 20) * .3).astype(np.float32)
    whole = write_video(tmp_path / f'whole{suffix}', pictures, fps=20, samples=sound).read_bytes()
    paths = []
    for seed in SEEDS:
        paths.append(tmp_path / f'{seed}{suffix}')
        paths[-1].write_bytes(corrupt(whole, seed))
    # all in one process of their own: a crash of the interpreter shows as an early end, and names its file
    done = subprocess.run(
        [sys.executable, '-c', WORKER],
        input='\n'.join(map(str, paths)),
        capture_output=True,
        text=True,
        timeout=len(paths) * SECONDS,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f'{paths[len(answers)].name} ended the process:\n{done.stderr[-3000:]}'
    assert 'Traceback' not in done.stderr
    for path, (said, warned, seconds) in zip(paths, answers, strict=True):
        assert seconds < SECONDS, f'{path.name} took {seconds:.1f} s'
        assert said == 'made' or (said.startswith(f'{path}: ') and '\n' not in said), said
        assert len(warned) <= 1, warned
    made = sum(said == 'made' for said, _, _ in answers)
    # some survive, some do not: the corruptions are neither harmless nor hopeless
    assert .3 * len(paths) < made < len(paths)
