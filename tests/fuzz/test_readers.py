"""Every reader of files against damaged ones: a documented error or a result, in bounded time and memory.

MICROVID_FUZZ sets the number of cases in all.
"""
import copy
import json
import os
from collections import Counter
from pathlib import Path

import pytest
from harness import READERS, check
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.check

REWRITTEN = [name for name in READERS if name.endswith('.json')]
CASES = -(-int(os.environ.get('MICROVID_FUZZ', 600)) // (len(READERS) + len(REWRITTEN)))  # of each test
# the same cases every time
SEEDED = settings(
    max_examples=CASES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)

TOKENS = [
    b'\xff' * 4,
    b'\x7f\xff\xff\xff',
    b'\xff\xff\xff\x7f',
    b'\0' * 8,
    b'\xef\xbb\xbf',
    b'-1',
    b'1e999',
    b'NaN',
    b'9' * 25,
    b'0.5',
    b'"',
    b',',
    b'\n',
    b'\r',
    b'[',
    b'{',
    b'}',
    b':',
    b' ',
    b'../../x',
    b'null',
    b'\xc3\x28',
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def damaged(draw, data: bytes) -> bytes:
    """A file with up to five edits: bytes set, inserted, left out, repeated, or the end cut off.

    Its beginning, where lengths and types stand, more often.
    """
    if draw(st.integers(0, 19)) == 0:
        return draw(st.binary(max_size=300))
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, min(len(data), 300)) | st.integers(0, len(data)))
        length = draw(st.integers(1, 8) | st.integers(1, max(1, len(data))))
        piece = draw(st.sampled_from(TOKENS) | st.binary(min_size=1, max_size=8))
        kind = draw(st.integers(0, 5))
        data = [
            data[:at] + piece + data[at + len(piece) :],
            data[:at] + piece + data[at:],
            data[:at] + data[at + length :],
            data[:at] + data[at : at + length] * 2 + data[at + length :],
            data[:at],
            data[:at] + bytes(b ^ piece[0] for b in data[at : at + 1]) + data[at + 1 :],
        ][kind]
    return data


def places(tree, trail=()):
    """Where in a JSON value its parts are."""
    yield trail
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from places(value, (*trail, key))


@st.composite
def rewritten(draw, data: bytes) -> bytes:
    """JSON in which some part is something else."""
    tree = json.loads(data)
    for _ in range(draw(st.integers(1, 3))):
        trail, value = draw(st.sampled_from(sorted(places(tree), key=str))), draw(JSON)
        if not trail:
            tree = copy.deepcopy(value)
            continue
        inner = tree
        for key in trail[:-1]:
            inner = inner[key]
        inner[trail[-1]] = copy.deepcopy(value)
    return json.dumps(tree).encode()


@pytest.fixture
def whole(request, tmp_path) -> Path:
    """A small valid file of the kind, in a folder where its reader finds what else it needs."""
    path = tmp_path / 'features' / request.param
    path.parent.mkdir()
    READERS[request.param][0](path)
    return path


@pytest.mark.parametrize('whole', READERS, indirect=True, ids=str)
def test_whole_files_are_read(whole, worker):
    answer = worker(whole.name, whole)
    check(whole.name, answer)
    assert (
        answer['said'] == 'read' or whole.suffix == '.pth' and 'not the weights of a 3D-ResNet-50' in answer['said']
    ), answer


@pytest.mark.parametrize('whole', READERS, indirect=True, ids=str)
def test_damaged_files(whole, worker, record_property):
    data, said = whole.read_bytes(), []

    @SEEDED
    @given(damaged(data))
    def one(content):
        whole.write_bytes(content)
        answer = worker(whole.name, whole)
        said.append(answer['said'].partition(':')[0])
        check(whole.name, answer)
    try: one()
    finally: record_property('fuzzed', dict(Counter(said)))


@pytest.mark.parametrize('whole', REWRITTEN, indirect=True, ids=str)
def test_other_json(whole, worker, record_property):
    data, said = whole.read_bytes(), []

    @SEEDED
    @given(rewritten(data))
    def one(content):
        whole.write_bytes(content)
        answer = worker(whole.name, whole)
        said.append(answer['said'].partition(':')[0])
        check(whole.name, answer)
    try: one()
    finally: record_property('fuzzed', dict(Counter(said)))
