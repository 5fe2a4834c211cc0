from collections import Counter

import pytest
from harness import Worker


@pytest.fixture(scope='session')
def worker():
    worker = Worker()
    yield worker
    worker.stop()


def pytest_terminal_summary(terminalreporter):
    """Prints how many files were read, and what came of it."""
    count = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, 'when', '') == 'call':
                count.update(dict(report.user_properties).get('fuzzed', {}))
    if count:
        parts = ', '.join(f'{number} {kind}' for kind, number in count.most_common())
        terminalreporter.write_line(f'corrupted files: {count.total()} ({parts})')
