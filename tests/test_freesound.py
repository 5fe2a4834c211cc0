"""The Freesound client against a server on this machine that answers, refuses, breaks off and goes silent."""
import email.utils
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode, urlsplit

import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from microvid_nb.data import freesound as module
from microvid_nb.data.freesound import LIMITS, PAGE_SIZE, Freesound, FreesoundError, RequestLog

TOKEN = 'tok-3f9a-secret'
OGG = bytes(range(256)) * 700


class Clock:
    """Time that passes only while somebody sleeps."""
    def __init__(self, now=1.7e9):
        self.now, self.slept = now, []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


class Server(ThreadingHTTPServer):
    """Answers in Freesound's form.

    `plan` holds special answers for the next requests, each a function of the handler.
    """
    daemon_threads = True

    def __init__(self, clips=400):
        super().__init__(('127.0.0.1', 0), Handler)
        self.clips, self.asked, self.plan, self.headers_seen = clips, [], deque(), []
        self.released = threading.Event()
        threading.Thread(target=self.serve_forever, args=(.02,), daemon=True).start()

    @property
    def address(self):
        return f'http://127.0.0.1:{self.server_port}'

    def handle_error(self, request, client_address):
        pass  # clients that hang up are part of the tests


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        self.server.headers_seen.append(dict(self.headers))
        if self.server.plan:
            special = self.server.plan.popleft()
            if special is not None:
                return special(self)
        if self.path.startswith('/previews/'):
            return self.answer(200, OGG)
        if self.headers['Authorization'] != f'Token {TOKEN}':
            return self.answer(401, {'detail': f'Invalid token {self.headers["Authorization"]}'})
        options = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        page, size = int(options.get('page', 1)), min(int(options['page_size']), 150)
        results = [self.clip(i, options) for i in range((page - 1) * size, min(page * size, self.server.clips))]
        further = (
            f'{self.server.address}/apiv2/search/?{urlencode(options | {"page": page + 1})}'
            if page * size < self.server.clips
            else None
        )
        self.answer(200, {'count': self.server.clips, 'next': further, 'results': results, 'previous': None})

    def clip(self, i, options):
        clip = {
            'id': 1000 + i,
            'name': f'sound {i}',
            'tags': [options['query'], 'x'],
            'duration': i / 10,
            'username': 'ann',
            'license': 'http://creativecommons.org/licenses/by/4.0/',
            'description': 'never asked for',
            'previews': {
                'preview-hq-ogg': f'{self.server.address}/previews/{1000 + i}.ogg',
                'preview-lq-mp3': 'unused',
            },
        }
        return {name: clip[name] for name in options['fields'].split(',')}

    def answer(self, status, body, **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in ({'Content_Length': len(body)} | headers).items():
            self.send_header(name.replace('_', '-'), str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv('FREESOUND_TOKEN', TOKEN)
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    server = Server()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()


def client(server, folder, **options):
    clock = Clock()
    return Freesound(folder, server.address, **({'clock': clock, 'sleep': clock.sleep, 'timeout': 5} | options))


def status(code, detail='Request was throttled because of exceeding a request limit rate (60/minute)', **headers):
    return lambda handler: handler.answer(code, {'detail': detail}, **headers)


# ---------------------------------------------------------------------------------------------------------------- paging

def test_pages_are_followed_and_fields_are_named(server, tmp_path):
    clips = client(server, tmp_path).search('dog', 1000)
    assert [clip['id'] for clip in clips] == [str(1000 + i) for i in range(400)]
    assert set(clips[0]) == {'id', 'name', 'tags', 'duration', 'license', 'username', 'preview'}
    assert (
        clips[7]['license'].endswith('by/4.0/')
        and clips[7]['username'] == 'ann'
        and clips[7]['preview'].endswith('/previews/1007.ogg')
    )
    first = parse_qs(urlsplit(server.asked[0]).query)
    assert urlsplit(server.asked[0]).path == '/apiv2/search/' and len(server.asked) == 3
    assert first['page_size'] == ['150'] and PAGE_SIZE == 150
    assert set(first['fields'][0].split(',')) >= {'id', 'previews', 'tags', 'duration', 'license', 'username'}


@pytest.mark.parametrize('limit, requests', [(1, 1), (150, 1), (151, 2), (300, 2), (500, 3)])
def test_no_more_pages_than_needed(server, tmp_path, limit, requests):
    assert len(client(server, tmp_path).search('dog', limit)) == min(limit, 400)
    assert len(server.asked) == requests


def test_nothing_found(server, tmp_path):
    server.clips = 0
    assert client(server, tmp_path).search('unheard') == []


@pytest.mark.parametrize('concept, sent', [('clearing_throat', 'clearing throat'), ('-dog "cat"', 'dog cat'), ('über größe', 'über größe')])
def test_operators_of_the_query_language_are_taken_out(server, tmp_path, concept, sent):
    client(server, tmp_path).search(concept, 10)
    assert parse_qs(urlsplit(server.asked[0]).query)['query'] == [sent]


def test_two_concepts_never_share_a_file(server, tmp_path):
    freesound = client(server, tmp_path)
    assert freesound.search('a b', 1)[0]['tags'] != freesound.search('a/b', 1)[0]['tags']


def test_pages_in_a_circle_end(server, tmp_path):
    def circle(handler):
        handler.answer(200, {'count': 9, 'next': server.address + handler.path, 'previous': None, 'results': []})
    server.plan.append(circle)
    with pytest.raises(FreesoundError, match='circle'):
        client(server, tmp_path).search('dog')


# ---------------------------------------------------------------------------------------------------------------- refusals

def test_429_waits_as_long_as_it_is_told(server, tmp_path):
    freesound = client(server, tmp_path)
    server.plan.append(status(429, Retry_After=17))
    assert len(freesound.search('dog', 100)) == 100
    assert freesound.clock.slept == [17] and len(server.asked) == 2


def test_429_with_a_date(server, tmp_path):
    freesound = client(server, tmp_path)
    server.plan.append(status(429, Retry_After=email.utils.formatdate(freesound.clock() + 33, usegmt=True)))
    freesound.search('dog', 100)
    assert freesound.clock.slept == [33]


def test_429_without_a_time_waits_a_minute(server, tmp_path):
    freesound = client(server, tmp_path)
    server.plan.extend([status(429), status(429, Retry_After='soon')])
    freesound.search('dog', 100)
    assert freesound.clock.slept == [60, 60]


def test_429_for_hours_ends_with_the_time_to_come_back(server, tmp_path):
    freesound = client(server, tmp_path)
    server.plan.append(status(429, Retry_After=7200))
    with pytest.raises(FreesoundError, match='run this again after 2023-11-15 00:13 UTC'):
        freesound.search('dog')
    assert freesound.clock.slept == [] and len(server.asked) == 1


def test_429_for_ever_is_given_up(server, tmp_path):
    server.plan.extend([status(429)] * 50)
    with pytest.raises(FreesoundError, match=r'status 429, Request was throttled .*\(tried 5 times\)'):
        client(server, tmp_path).search('dog')
    assert len(server.asked) == 5


def test_server_errors_are_tried_again(server, tmp_path):
    freesound = client(server, tmp_path)
    server.plan.extend([status(500), status(502), status(503)])
    assert len(freesound.search('dog', 10)) == 10
    assert freesound.clock.slept == [1, 2, 4]


def test_wrong_token_is_final_and_never_shown(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('FREESOUND_TOKEN', 'wrong-but-private')
    freesound = client(server, tmp_path)
    with pytest.raises(FreesoundError, match=r'status 401, Invalid token Token \(token\)') as caught:
        freesound.search('dog')
    everything = ''.join([repr(caught.value), repr(freesound), repr(vars(freesound)), *capsys.readouterr(),
                          *(path.read_text() for path in tmp_path.rglob('*') if path.is_file())])
    assert 'wrong-but-private' not in everything and len(server.asked) == 1
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


@pytest.mark.parametrize('token', ['', '  ', 'line\nbreak', 'ünï'])
def test_a_token_that_cannot_be(server, tmp_path, monkeypatch, token):
    monkeypatch.setenv('FREESOUND_TOKEN', token)
    with pytest.raises(ValueError, match='FREESOUND_TOKEN') as caught:
        client(server, tmp_path).search('dog')
    assert server.asked == [] and (not token.strip() or token not in str(caught.value))


def test_the_token_goes_nowhere_else(server, tmp_path):
    """A `next` and a redirection to another server do not take the token along; an echo of it is not saved."""
    other = Server()
    try:
        def elsewhere(handler):
            handler.answer(
                200,
                {
                    'count': 9,
                    'previous': TOKEN,
                    'results': [],
                    'next': f'{other.address}/apiv2/search/?query=dog&fields=id&page_size=150&page=2',
                },
            )
        server.plan.append(elsewhere)
        with pytest.raises(FreesoundError, match='comes without name'):
            client(server, tmp_path).search('dog')
        assert other.asked == [] and len(server.asked) == 2
        server.plan.append(
            lambda handler: handler.answer(302, b'', Location=f'{other.address}/apiv2/search/?query=cat')
        )
        with pytest.raises(FreesoundError, match='status 401'):
            client(server, tmp_path).search('cat')
        assert len(other.asked) == 1 and 'Authorization' not in other.headers_seen[0]
        assert not any(TOKEN in path.read_text() for path in tmp_path.rglob('*') if path.is_file())
    finally:
        other.shutdown()
        other.server_close()


# ---------------------------------------------------------------------------------------------------------------- bad connections

def half(handler):
    handler.answer(200, b'{"count": 400, "next": nu', Content_Length=5000)


def half_a_chunk(handler):
    handler.send_response(200)
    handler.send_header('Transfer-Encoding', 'chunked')
    handler.end_headers()
    handler.wfile.write(b'fff\r\n{"count"')


def dropped(handler):
    handler.connection.close()


def not_json(handler):
    handler.answer(200, b'<html>Please log in</html>')


def not_a_page(handler):
    handler.answer(200, {'welcome': 1})


@pytest.mark.parametrize('trouble', [half, half_a_chunk, dropped, not_json, not_a_page], ids=lambda trouble: trouble.__name__)
def test_trouble_is_tried_again_and_not_kept(server, tmp_path, trouble):
    server.plan.append(trouble)
    freesound = client(server, tmp_path)
    assert len(freesound.search('dog', 400)) == 400
    assert len(server.asked) == 4 and freesound.clock.slept == [1]
    server.plan.extend([trouble] * 5)
    with pytest.raises(FreesoundError, match='tried 5 times'):
        freesound.search('cat')
    assert not list((tmp_path / 'pages').glob('cat*'))


def test_a_silent_server_is_given_up(server, tmp_path):
    def silent(handler):
        server.released.wait(20)
    server.plan.append(silent)
    freesound = client(server, tmp_path, timeout=.3)
    started = time.perf_counter()
    assert len(freesound.search('dog', 10)) == 10
    assert time.perf_counter() - started < 5 and freesound.clock.slept == [1]


def test_no_server_at_all(tmp_path, server):
    server.shutdown()
    server.server_close()
    with pytest.raises(FreesoundError, match='(?i)refused.*tried 5 times'):
        client(server, tmp_path).search('dog')


def test_a_clip_without_a_licence_is_refused(server, tmp_path):
    server.plan.append(lambda handler: handler.answer(200, {'count': 1, 'next': None, 'previous': None, 'results': [
        {'id': 5, 'name': 'a', 'tags': [], 'duration': 1, 'username': 'b', 'previews': {}}]}))
    with pytest.raises(FreesoundError, match='clip 5 comes without license'):
        client(server, tmp_path).search('dog')


# ---------------------------------------------------------------------------------------------------------------- resuming

def test_a_second_run_asks_for_nothing(server, tmp_path):
    first = client(server, tmp_path).search('dog', 400)
    asked = len(server.asked)
    assert client(server, tmp_path).search('dog', 400) == first
    assert len(server.asked) == asked


RUN = """
import sys
from microvid_nb.data.freesound import Freesound
client = Freesound(sys.argv[1], sys.argv[2])
for concept in ('dog', 'cat', 'rain'): client.search(concept, 400)
"""


def test_killed_half_way_and_resumed(server, tmp_path):
    """The fifth of nine requests hangs; the process is killed; another run asks for five, and no page twice."""
    hanging = threading.Event()

    def hang(handler):
        hanging.set()
        server.released.wait(20)
    server.plan.extend([None] * 4 + [hang])
    command = [sys.executable, '-c', RUN, str(tmp_path), server.address]
    process = subprocess.Popen(command)
    assert hanging.wait(60)
    process.send_signal(signal.SIGKILL)
    process.wait()
    answered = server.asked[:4]
    server.asked.clear()
    subprocess.run(command, check=True, timeout=60)
    assert len(server.asked) == 5 and not set(server.asked) & set(answered)
    assert len(list((tmp_path / 'pages').iterdir())) == 9
    assert not [path for path in tmp_path.rglob('.*') if path.is_file() and path.suffix == '.json']
    # the request that hung counts
    assert len(RequestLog(tmp_path / 'requests.log', time.time, time.sleep).times) == 10


# ---------------------------------------------------------------------------------------------------------------- limits

@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 40), min_size=100, max_size=300), st.integers(0, 299))
def test_never_more_than_sixty_in_any_minute(tmp_path_factory, gaps, restart):
    path, clock = tmp_path_factory.mktemp('log') / 'requests.log', Clock()
    log, times = RequestLog(path, clock, clock.sleep), []
    for i, gap in enumerate(gaps):
        if i == restart:
            log = RequestLog(path, clock, clock.sleep)
        clock.now += gap / 10
        log.wait(patience=100)
        times.append(clock())
    assert all(later - earlier >= 60 - 1e-6 for earlier, later in zip(times, times[60:]))  # seconds since 1970 as floats


@pytest.mark.parametrize('part', [0, .0006, .00049, .9996])
def test_a_run_that_starts_in_the_same_millisecond_counts_all_requests(tmp_path, part):
    clock = Clock(1.7e9 + part)  # rounded up in the file, a time would lie in the future and be left out
    for _ in range(60):
        RequestLog(tmp_path / 'requests.log', clock, clock.sleep).wait(100)
    assert clock.slept == [] and len(RequestLog(tmp_path / 'requests.log', clock, clock.sleep).times) == 60
    RequestLog(tmp_path / 'requests.log', clock, clock.sleep).wait(100)
    assert sum(clock.slept) == pytest.approx(60)


def test_two_thousand_a_day(tmp_path):
    clock = Clock()
    log = RequestLog(tmp_path / 'requests.log', clock, clock.sleep)
    for _ in range(2000):
        log.wait(100)
    assert LIMITS == ((60, 60), (2000, 86400)) and clock.now - 1.7e9 == 33 * 60
    with pytest.raises(FreesoundError, match='run this again after'):
        log.wait(100)
    clock.now += 86400
    log.wait(100)
    assert len(RequestLog(tmp_path / 'requests.log', clock, clock.sleep).times) == 2000


def test_the_client_keeps_to_the_limit(server, tmp_path):
    freesound = client(server, tmp_path)
    for i in range(61):
        freesound.search(f'concept {i}', 1)
    assert [round(pause) for pause in freesound.clock.slept] == [60] and len(server.asked) == 61


# ---------------------------------------------------------------------------------------------------------------- previews

def test_previews_whole_or_not_at_all(server, tmp_path):
    freesound = client(server, tmp_path)
    clips = pd.DataFrame(freesound.search('dog', 4))
    clips.loc[3, 'preview'] = None
    asked = len(server.asked)
    server.plan.extend(
        [
            None,
            lambda handler: handler.answer(200, OGG[:9000], Content_Length=len(OGG)),
            None,
            status(404, 'Not found.'),
        ]
    )
    files = freesound.download_previews(clips)
    assert [path and path.read_bytes() == OGG for path in files.path] == [True, True, None, None]
    assert (
        files.problem.tolist()[:2] == ['', '']
        and 'status 404, Not found.' in files.problem[2]
        and 'no preview' in files.problem[3]
    )
    assert len(server.asked) - asked == 4 and sorted(path.name for path in (tmp_path / 'previews').iterdir()) == [
        '1000.ogg',
        '1001.ogg',
    ]
    assert all('Authorization' not in headers for headers in server.headers_seen[asked:])
    again = freesound.download_previews(clips)
    assert len(server.asked) - asked == 5 and again.problem[2] == ''   # only the one that failed


def test_previews_wait_too(server, tmp_path):
    freesound = client(server, tmp_path)
    clips = pd.DataFrame(freesound.search('dog', 1))
    server.plan.append(status(429, Retry_After=email.utils.formatdate(freesound.clock() + 33, usegmt=True)))
    assert freesound.download_previews(clips).problem[0] == '' and freesound.clock.slept == [33]


@pytest.mark.parametrize('url', ['file:///etc/hostname', 'ftp://127.0.0.1/x.ogg', '/etc/hostname'])
def test_previews_come_from_the_web_only(server, tmp_path, url):
    files = client(server, tmp_path).download_previews(pd.DataFrame({'id': ['1'], 'preview': [url]}))
    assert 'not a web address' in files.problem[0] and not list((tmp_path / 'previews').glob('*'))


def test_a_full_disk_ends_the_download(server, tmp_path):
    """The stand-in for a disk without space: a device that refuses every byte."""
    if not os.path.exists('/dev/full'):
        pytest.skip('no /dev/full here')
    freesound = client(server, tmp_path)
    clips = pd.DataFrame(freesound.search('dog', 2))
    asked = len(server.asked)

    class Full(type(tmp_path)):
        def open(self, *args):
            return open('/dev/full', *args)

    @contextmanager
    def full(path):
        yield Full(path)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match='No space'):
        patch.setattr(module, 'atomic_path', full)
        freesound.download_previews(clips)
    assert len(server.asked) == asked + 1
