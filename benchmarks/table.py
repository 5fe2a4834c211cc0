"""Keeps what pytest-benchmark measured as a small JSON file, and prints it as the speed table.

python benchmarks/table.py RAW RAW, of pytest --benchmark-json, into latest.json; then as without RAW python
benchmarks/table.py the tables of latest.json and scale.json, which also go into README.md

A ratio is that of two medians of one run, for one problem where a call solves several. Its spread is from quartile to
quartile: the lower quartile of one side over the upper quartile of the other, and the reverse.
"""
import json
import sys
from pathlib import Path

import numpy as np
from machine import describe

HERE = Path(__file__).parent
BEGIN, END = '<!-- tables: written by table.py -->\n', '<!-- end of the tables -->\n'


def quartiles(run: dict) -> np.ndarray:
    """Lower quartile, median, upper quartile of the seconds for one problem."""
    return np.array([run['stats'][name] for name in ('q1', 'median', 'q3')]) / run['extra_info'].get('problems', 1)


def compared(runs: list[dict]) -> list[dict]:
    """A row for each work that both sides did: times and their ratio, each as lower end, middle, upper end."""
    sides = {(run['extra_info']['work'], run['extra_info']['side']): run for run in runs if 'work' in run['extra_info']}
    rows = []
    for (work, side), run in sides.items():
        if side != 'peer' or (work, 'ours') not in sides:
            continue
        info, peer, ours = run['extra_info'], quartiles(run), quartiles(sides[work, 'ours'])
        cost = 'at_most' in info  # of our time in units of the peer's; else how many times faster
        ratio = ours / peer[::-1] if cost else peer / ours[::-1]
        rows.append(
            {
                'work': work,
                'peer': info['peer'],
                'kind': 'cost' if cost else 'gain',
                'aim': info.get('at_most' if cost else 'at_least'),
                'ratio': ratio.tolist(),
                'peer_ms': (1e3 * peer).tolist(),
                'ours_ms': (1e3 * ours).tolist(),
                'rounds': [run['stats']['rounds'], sides[work, 'ours']['stats']['rounds']],
            }
        )
    return rows


def keep(raw: str) -> None:
    """latest.json from a run of pytest-benchmark."""
    runs = json.loads(Path(raw).read_text())['benchmarks']
    memory = [
        {name: run['extra_info'][name] for name in ('memory', 'megabytes', 'limit', 'series', 'n', 'unit')}
        for run in runs
        if 'memory' in run['extra_info']
    ]
    (HERE / 'latest.json').write_text(
        json.dumps({'machine': describe(), 'speed': compared(runs), 'memory': memory}, indent=1) + '\n'
    )


def number(value: float) -> str:
    return f'{value:,.0f}' if value >= 100 else f'{value:.3g}'


def speed_table(latest: dict) -> str:
    lines = [
        '| work | peer | peer, ms | ours, ms | ratio (quartiles) | aim | met |',
        '|---|---|---:|---:|---:|---:|---|',
    ]
    for row in latest['speed']:
        low, middle, high = map(number, row['ratio'])
        sign, met = ('≤', np.less_equal) if row['kind'] == 'cost' else ('≥', np.greater_equal)
        aim = (
            ('', '')
            if row['aim'] is None
            else (f'{sign} {number(row["aim"])}', 'yes' if met(row['ratio'][1], row['aim']) else '**no**')
        )
        lines.append(
            f'| {row["work"]} | {row["peer"]} | {number(row["peer_ms"][1])} | {number(row["ours_ms"][1])} '
            f'| {middle} ({low} to {high}) {"of its time" if sign == "≤" else "times faster"} | {aim[0]} | {aim[1]} |'
        )
    return '\n'.join(lines)


def memory_table(latest: dict) -> str:
    return '\n'.join(
        [
            '| most memory | MB | limit |',
            '|---|---:|---:|',
            *(f'| {row["memory"]} | {row["megabytes"]:,.0f} | {row["limit"]:,.0f} |' for row in latest['memory']),
        ]
    )


def scale_table(scale: dict) -> str:
    lines = [
        '| work | size | s | s for each doubling | MB of its own | MB with pages of mapped files |',
        '|---|---:|---:|---:|---:|---:|',
    ]
    for case in scale.values():
        before = None
        for row in case['rows']:
            growth = '' if before is None else f'x {row["seconds"] / before:.2f}'
            lines.append(
                f'| {case["work"]} | {row["n"]:,} {case["unit"]} | {row["seconds"]:.3g} | {growth} '
                f'| {row["own_megabytes"]:,.0f} | {row["whole_megabytes"]:,.0f} |'
            )
            before = row['seconds']
    return '\n'.join(lines)


def machine_line(machine: dict) -> str:
    gpu = machine['gpu'] or 'no GPU'
    versions = ', '.join(
        f'{name} {machine[name]}'
        for name in machine
        if name not in ('processor', 'cores', 'memory_gib', 'gpu', 'system', 'threads')
    )
    hardware = f'{machine["processor"]}, {machine["cores"]} cores, {machine["memory_gib"]} GiB, {gpu}'
    return f'{hardware}, {machine["system"]}, {machine["threads"]} threads; {versions}.'


def tables() -> str:
    """All tables in Markdown."""
    latest, parts = json.loads((HERE / 'latest.json').read_text()), []
    parts += ['## The speed table', machine_line(latest['machine']), speed_table(latest), memory_table(latest)]
    if (HERE / 'scale.json').exists():
        scale = json.loads((HERE / 'scale.json').read_text())
        machines = list(dict.fromkeys(machine_line(case['machine']) for case in scale.values()))
        parts += [
            '## At the sizes of the papers',
            *machines,
            scale_table(scale),
            *(skipped for case in scale.values() for skipped in case['skipped']),
        ]
    return '\n\n'.join(parts) + '\n'


def main() -> None:
    if sys.argv[1:]:
        keep(sys.argv[1])
    text, readme = tables(), HERE / 'README.md'
    before, _, rest = readme.read_text().partition(BEGIN)
    readme.write_text(f'{before}{BEGIN}{text}{END}{rest.partition(END)[2]}')
    print(text)


if __name__ == '__main__':
    main()
