import pytest
from harness import Worker


@pytest.fixture(scope='session')
def worker():
    worker = Worker()
    yield worker
    worker.stop()
