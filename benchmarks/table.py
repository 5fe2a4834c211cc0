"""Prints the speed table from pytest-benchmark's JSON: each work as a ratio to its peer's median in the same run, for one problem where a call solves several."""
import json
import sys


def main(path: str) -> None:
    runs = [(run['extra_info'], run['stats']['median'] / run['extra_info'].get('problems', 1)) for run in json.load(open(path))['benchmarks']]
    times = {(info['work'], info['side']): median for info, median in runs if 'work' in info}
    peers = {info['work']: info['peer'] for info, _ in runs if 'work' in info}
    print('| work | peer | peer, ms | ours, ms | ours / peer | peer / ours |\n|---|---|---:|---:|---:|---:|')
    for work, peer in peers.items():
        slow, fast = times[work, 'peer'], times[work, 'ours']
        print(f'| {work} | {peer} | {1e3 * slow:.3g} | {1e3 * fast:.3g} | {fast / slow:.2g} | {slow / fast:.2g} |')
    print('\n| peak memory of the process | MB |\n|---|---:|')
    for info, _ in runs:
        if 'memory' in info:
            print(f'| thumbnail + GIF, {info["memory"]} | {info["megabytes"]} |')


if __name__ == '__main__':
    main(sys.argv[1])
