# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: python3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Video
#
# > Read any video file as upright RGB frames with their true presentation times, in constant memory. If the file is damaged, a warning says what was lost.
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/microvid-nb/microvid_nb/blob/main/nbs/media/00_video.ipynb)

# %%
#| hide
import sys
if 'google.colab' in sys.modules:
    import subprocess
    package = 'microvid_nb[all] @ git+https://github.com/microvid-nb/microvid_nb'
    subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', package], check=True)

# %%
#| hide
from matplotlib_inline.backend_inline import set_matplotlib_formats
# photographs as PNG would make the notebook ten times larger
set_matplotlib_formats('jpeg', pil_kwargs={'quality': 70})

# %%
#| default_exp media.video

# %%
#| export
import math
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import av
import numpy as np

from microvid_nb.media.colour import UNPACK, Colour, check_tone_map, frame_colour, stated_peak, to_sdr
from microvid_nb.media.geometry import Margins, add_bars, fit_within, stored_margins
from microvid_nb.media.sniff import sniff, wrong_file

# %%
import tempfile
from dataclasses import replace

import matplotlib.pyplot as plt
from fastcore.test import test_close, test_eq, test_fail

from microvid_nb.media.render import filmstrip, write_video
from microvid_nb.media.sample_clip import render_sample_clip

# %% [markdown]
# Every method of the five papers starts from the same three things: pictures, the seconds at which they are
# shown, and a few facts about the file. Real files make this difficult. A phone stores portrait clips sideways,
# with a note to turn them. It drops frames when it is dark, and it may write ten bits a channel. An upload may be
# cut short. This notebook handles all of these cases. The notebooks after it work with upright `uint8` RGB pictures
# and with seconds.
#
# | symbol | in code | meaning |
# |---|---|---|
# | $T$ | `len(frames)` | number of frames |
# | $H, W$ | `info.height`, `info.width` | picture size in pixels, as displayed |
# | $t_i$ | `frames.times[i]` | presentation time of frame $i$, in seconds |
#
# FFmpeg decodes the files, through [PyAV](https://pyav.basswood-io.com). The clip below is drawn by the project itself.

# %%
folder = Path(tempfile.mkdtemp())
clip = render_sample_clip(folder / 'sample.mp4')


# %% [markdown]
# ## Errors and warnings of one line
#
# A file that holds no readable video raises `MediaError` with its path and the reason. A damaged file gives the
# frames that can be decoded, and one `MediaWarning` that says how many seconds are missing.

# %%
#| export
class MediaError(Exception):
    "A file that cannot be used as a video or sound, with its path and the reason in one line"
    def __init__(self,
                 path, # the file
                 reason:str): # why it cannot be used, as a clause without a full stop
        self.path, self.reason = str(path), reason
        super().__init__(f'{path}: {reason}')


# %%
#| export
class MediaWarning(UserWarning):
    "A file was used, but not all of it, or not as it is stored"


# %%
#| exporti
NOT_PICTURES = {'tty', 'hls', 'dash', 'concat'}  # demuxers of text art and of playlists that name other files
PLAYABLE = (
    'mp4', 'matroska', 'avi', 'wave', 'ogg', 'flac', 'mp3', 'png', 'jpeg', 'gif', 'webp', 'avif', 'heic', 'bmp', 'tiff'
)

def check_file(
    path # a file that should hold video or sound
) -> str: # the URL under which FFmpeg opens exactly this local file
    "The `file:` URL of `path`; raises `MediaError` for what is visibly not a media file"
    reason = wrong_file(path)
    if reason: raise MediaError(path, reason)
    return f'file:{os.fspath(path)}'


# %% [markdown]
# The `file:` prefix keeps FFmpeg from reading a name such as `a:b.mp4` as a network protocol.

# %%
#| exporti
# replaces the bytes of titles that cannot be decoded; PyAV 19 does so by itself
TOLERANT = {'metadata_errors': 'replace'} if int(av.__version__.split('.')[0]) < 19 else {}

def open_media(
    path # a video or sound file
) -> av.container.InputContainer: # an open container; use it in a `with` statement
    "An open PyAV container of a local file, or `MediaError`"
    url = check_file(path)
    try: container = av.open(url, **TOLERANT)
    except (av.error.FFmpegError, ValueError, OSError) as error:
        cause = wrong_file(path, *PLAYABLE)
        cause = f': it {cause}' if cause else f' ({describe_error(error)})'
        raise MediaError(path, f'is not a readable video or sound file{cause}') from None
    if container.format.name in NOT_PICTURES:
        container.close()
        raise MediaError(path, f'is a {container.format.long_name or container.format.name} file, not a video')
    return container


# %%
#| exporti
def describe_error(
    error:Exception # what FFmpeg or the operating system raised
) -> str: # its message without error numbers and addresses
    "The plain words of an FFmpeg error"
    return getattr(error, 'strerror', None) or str(error) or type(error).__name__


# %%
empty, text, pointer = folder / 'empty.mp4', folder / 'letter.mp4', folder / 'pointer.mp4'
empty.touch(); text.write_text('Dear reader'); pointer.write_text('version https://git-lfs.github.com/spec/v1')
test_fail(lambda: open_media(folder / 'nowhere.mp4'), exc=MediaError, contains='nowhere.mp4: no such file')
test_fail(lambda: open_media(folder), contains='is a folder')
test_fail(lambda: open_media(empty), contains='is empty')
test_fail(lambda: open_media(text), contains='is not a readable video or sound file: it is plain text')
test_fail(lambda: open_media(pointer), contains='Git LFS pointer')


# %% [markdown]
# ## Upright pictures
#
# A phone does not turn the pixels. It stores a matrix that says how to show them. FFmpeg gives the nine numbers
# $(a, b, u, c, d, v, x, y, w)$ of this matrix in fixed point. A stored pixel $(p, q)$, with $p$ to the right and
# $q$ down, is shown at
#
# $$p' = a\,p + c\,q + x, \qquad q' = b\,p + d\,q + y .$$
#
# For the eight ways to hold a phone (mirrored or not) the matrix is a signed permutation. The picture is transposed
# if $b$ and $c$ are larger than $a$ and $d$. Then each axis whose sign is negative is flipped.

# %%
#| exporti
@dataclass(frozen=True)
class Orientation:
    "How stored pixels become the upright picture: transpose first, then flip"
    transpose:bool = False # swap rows and columns
    flip_x:bool = False # mirror left and right
    flip_y:bool = False # mirror top and bottom
    degrees:int = 0 # the same as counter-clockwise degrees, the way FFmpeg reports it (mirroring left out)

    def __call__(self,
                 image:np.ndarray # stored pixels [H, W, ...]
    ) -> np.ndarray: # the picture as displayed, contiguous
        "The upright picture"
        if self.transpose: image = image.swapaxes(0, 1)
        if self.flip_x: image = image[:, ::-1]
        if self.flip_y: image = image[::-1]
        return np.ascontiguousarray(image)


# %%
#| exporti
def read_orientation(
    matrix:np.ndarray # display matrix, 9 fixed-point integers [3, 3]
) -> Orientation: # the nearest of the eight orientations; upright for a matrix of zeros
    "The orientation that a display matrix asks for"
    (a, b), (c, d) = matrix[0, :2].tolist(), matrix[1, :2].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d): return Orientation(True, c < 0, b < 0, 90 if b < 0 else -90)
    return Orientation(False, a < 0, d < 0, -180 if a < 0 and d < 0 else 0)


# %% [markdown]
# A letter F shows all eight orientations. The matrices are those that `ffprobe` reports for a phone held in each way.

# %%
F = np.array([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 0, 0]])
cases = {(1, 0, 0, 1): F, (0, 1, -1, 0): np.rot90(F, -1), (-1, 0, 0, -1): np.rot90(F, 2), (0, -1, 1, 0): np.rot90(F, 1),
         (-1, 0, 0, 1): F[:, ::-1], (1, 0, 0, -1): F[::-1], (0, 1, 1, 0): F.T, (0, -1, -1, 0): np.rot90(F, 2).T}
fig, axes = plt.subplots(1, 8, figsize=(9, 1.6))
for ax, ((a, b, c, d), expected) in zip(axes, cases.items()):
    shown = read_orientation(np.array([[a, b, 0], [c, d, 0], [0, 0, 1]]))(F)
    test_eq(shown, expected)
    ax.imshow(shown, cmap='Greys', vmin=0, vmax=1)
    ax.axis('off')
    ax.set_title(f'a={a} b={b}\nc={c} d={d}', fontsize=8)


# %% [markdown]
# ## Facts about a file

# %%
#| export
@dataclass(frozen=True)
class VideoInfo:
    "What a file says about the video stream that is shown, as displayed"
    path:str # the file
    duration:float # seconds by the header if they are plausible, else 0
    fps:float # average frames a second; 0 where unknown
    width:int # pixels, after cropping, rotation and pixel shape are applied
    height:int # pixels, likewise
    rotation:int # counter-clockwise degrees that were applied to make it upright: 0, 90, -90 or -180
    codec:str # FFmpeg's name of the video codec
    has_audio:bool # whether there is a sound track
    orientation:Orientation = field(default=Orientation(), repr=False) # rotation and mirroring together
    stream:int = 0 # number of the stream in the file
    primaries:str = 'bt709' # which red, green and blue, by FFmpeg's name
    transfer:str = 'bt709' # how numbers become light, likewise; 'smpte2084' is PQ, 'arib-std-b67' is HLG
    matrix:str = 'bt709' # how red, green and blue are packed, likewise
    full_range:bool = False # whether 0 is black and the largest number white
    hdr:bool = False # whether it is PQ or HLG, and so was tone-mapped


# %% [markdown]
# A header can be wrong. The header of a fragmented file may say forty hours, and a screen recorder writes no
# duration. A duration is rejected if the file has less than eight bytes for each second of it, since no codec
# stores moving pictures in so few bytes.
#
# FFmpeg decodes on all cores, or on as many as `OMP_NUM_THREADS` allows. PyTorch reads the same variable. Dask sets
# it to 1 in its workers, because there is one worker for each core.

# %%
#| exporti
MIN_BYTES_PER_SECOND = 8
MAX_PIXELS = 2**27  # a frame declared larger (16,384 x 8,192) is refused before memory is taken for it
MAX_PIXEL_STRETCH = 4  # anamorphic pixels that are wider or taller than this count as damage

def decoder_threads() -> int: # for one stream; 0 leaves it to FFmpeg
    "How many threads may decode: the first number of `OMP_NUM_THREADS`"
    return int(re.match(r'\d{0,3}', os.environ.get('OMP_NUM_THREADS', ''))[0] or 0)


# %%
#| exporti
def first_picture_stream(
    container:av.container.InputContainer, # an open file
    path, # its path
    wanted:int|None=None # number of the stream in the file; None chooses
) -> av.video.stream.VideoStream: # the stream that a player shows
    "The video stream to decode, with FFmpeg's threads on; `MediaError` if there is none"
    stream = choose_stream(container, path, 'video', wanted)
    if stream is None: raise MediaError(path, 'has no video stream')
    if stream.codec_context is None: raise MediaError(path, 'needs a video decoder that this FFmpeg lacks')
    stream.thread_type, stream.codec_context.thread_count = 'AUTO', decoder_threads()
    stream.codec_context.options = {'max_pixels': str(MAX_PIXELS)}
    return stream


# %% [markdown]
# ## Which stream
#
# A file may hold several streams: a preview, a cover picture, a director's comment. A player takes the stream that
# is marked as default. A cover picture is never taken, and another still only if the file has no moving pictures.
# If several streams are left, the one with the most pixels in all its frames is taken. For sound it is
# the one with the most channels in all its packets. Some headers do not count frames; then the packets at the beginning
# of the file are counted. A user can name another stream by its number.

# %%
#| exporti
COUNTED_PACKETS = 400 # at the beginning of a file
NOT_MAIN = (
    'attached_pic', 'timed_thumbnails', 'still_image', 'dependent', 'comment', 'visual_impaired', 'hearing_impaired'
)

def count_packets(
    path # a media file
) -> dict[int, int]: # stream number -> packets among the first `COUNTED_PACKETS`
    "How often each stream comes at the beginning of a file"
    counts = {}
    with open_media(path) as container:
        try:
            for number, packet in enumerate(container.demux()):
                if number >= COUNTED_PACKETS: break
                counts[packet.stream.index] = counts.get(packet.stream.index, 0) + (packet.size > 0)
        except (av.error.FFmpegError, ValueError): pass  # what was counted so far is used
    return counts


# %%
#| exporti
def choose_stream(
    container:av.container.InputContainer, # an open file
    path, # its path
    kind:str, # 'video' or 'audio'
    wanted:int|None=None # number of the stream in the file; None chooses
) -> av.stream.Stream|None: # None where no stream of the kind is fit
    "The stream that a player would take; `MediaError` for a number that is no such stream"
    streams = list(getattr(container.streams, kind))
    if wanted is not None:
        for stream in streams:
            if stream.index == wanted: return stream
        numbers = ', '.join(str(stream.index) for stream in streams) or 'none'
        raise MediaError(path, f'has no {kind} stream {wanted} (its {kind} streams: {numbers})')
    covers = av.stream.Disposition.attached_pic
    streams = [stream for stream in streams if not stream.disposition & covers]
    if len(streams) < 2: return streams[0] if streams else None
    counts = {} if all(stream.frames for stream in streams) else count_packets(path)
    return max(streams, key=lambda stream: stream_rank(stream, counts))


# %%
#| exporti
def stream_rank(
    stream:av.stream.Stream, # of video or sound
    counts:dict[int, int] # packets at the beginning of the file, where the header does not count frames
) -> tuple: # larger is better; among equal ones the first in the file is taken
    "The rank of a stream among those of its kind"
    context, marks = stream.codec_context, av.stream.Disposition
    frames = counts.get(stream.index, 0) if counts else stream.frames
    side = any(stream.disposition & marks[name] for name in NOT_MAIN if name in marks.__members__)
    size = 0 if context is None else context.width * context.height if stream.type == 'video' else context.channels
    usual = not side and frames != 1
    return context is not None and frames > 0, usual, bool(stream.disposition & marks.default), frames * size


# %% [markdown]
# The length and the size as a player shows them:

# %%
#| exporti
def believable_duration(
    container:av.container.InputContainer, # an open file
    stream:av.video.stream.VideoStream # its video stream
) -> float: # seconds; 0 if the header has none or it is not plausible
    "How long the header says that the video lasts"
    # Matroska notes the length of a stream among its titles
    noted = re.fullmatch(r'(\d{1,4}):(\d\d):(\d\d(?:\.\d+)?)', stream.metadata.get('DURATION', ''))
    if noted: seconds = 3600 * int(noted[1]) + 60 * int(noted[2]) + float(noted[3])
    elif stream.duration and stream.time_base: seconds = float(stream.duration * stream.time_base)
    else: seconds = (container.duration or 0) / av.time_base
    return seconds if 0 < seconds * MIN_BYTES_PER_SECOND <= container.size else 0.


# %%
#| exporti
def display_size(
    width:int, # stored columns
    height:int, # stored rows
    pixel_aspect, # width of a pixel over its height, or None
    orientation:Orientation # how the picture is turned
) -> tuple[int, int]: # (width, height) as displayed
    "The size at which a player shows a picture: square pixels, upright"
    aspect = float(pixel_aspect or 1)
    if 1 / MAX_PIXEL_STRETCH <= aspect <= MAX_PIXEL_STRETCH: width = max(1, round(width * aspect))
    return (height, width) if orientation.transpose else (width, height)


# %% [markdown]
# The matrix is among the side data of a frame. PyAV 18 raises an error for all side data of a frame if one is of a kind
# that it does not know, such as the Exif data of photographs and the notes of spatial video. Here such kinds get a name.

# %%
#| exporti
def unknown_side_data(
    kinds:type, # PyAV's kinds of side data
    number:int # FFmpeg's number of a kind that is not among them
): # one more member of `kinds`
    "A kind of side data that PyAV does not know"
    kind = object.__new__(kinds)
    kind._name_, kind._value_ = f'UNKNOWN_{number}', number
    return kind

av.sidedata.sidedata.Type._missing_ = classmethod(unknown_side_data)


# %%
test_eq(av.sidedata.sidedata.Type(31).value, 31)
test_eq(av.sidedata.sidedata.Type.DISPLAYMATRIX.name, 'DISPLAYMATRIX')

# %%
#| exporti
def frame_orientation(
    frame:av.VideoFrame # a decoded frame
) -> Orientation: # upright where the frame has no matrix
    "How a frame must be turned"
    matrix = frame.side_data.get('DISPLAYMATRIX')
    return Orientation() if matrix is None else read_orientation(np.frombuffer(bytes(matrix), np.int32).reshape(3, 3))


# %%
test_eq(display_size(640, 360, 2, Orientation()), (1280, 360))
test_eq(display_size(640, 360, None, Orientation(transpose=True)), (360, 640))

# %% [markdown]
# ## Decoding, packet by packet
#
# One damaged packet must not make the rest of the file unreadable. So packets are decoded one at a time, and those
# that fail are counted. The demuxer itself may also fail. It is called again, up to `MAX_DEMUX_ERRORS` times.

# %%
#| exporti
MAX_DEMUX_ERRORS = 50

@dataclass
class Damage:
    "What went wrong while decoding"
    packets:int = 0 # packets that could not be decoded
    last_error:str = '' # FFmpeg's words for the newest failure


# %%
#| exporti
@dataclass
class Source:
    "A file while it is read"
    path:object # the file
    wanted:int|None = None # number of the stream that the user named
    damage:Damage = field(default_factory=Damage) # what went wrong so far
    margins:Margins = Margins() # what the container says must be cut off
    pixel_aspect:object = None # width over height of the pixels of the newest frame, None where square
    changed_aspect:bool = False # whether the stream has changed it; then the container's value no longer holds


# %%
#| exporti
def demux(
    container:av.container.InputContainer, # an open file
    stream:av.stream.Stream, # the stream to read
    damage:Damage # counts what fails
) -> Iterator[av.Packet]: # packets of the stream, the empty one that flushes the decoder last
    "The packets of one stream; reading goes on after up to `MAX_DEMUX_ERRORS` errors"
    for _ in range(MAX_DEMUX_ERRORS):
        try:
            yield from container.demux(stream)
            return
        except av.error.FFmpegError as error:
            damage.packets, damage.last_error = damage.packets + 1, describe_error(error)


# %%
#| exporti
def decode(
    container:av.container.InputContainer, # an open file
    stream:av.stream.Stream, # the stream to decode
    damage:Damage, # counts what fails
    decoder:av.CodecContext|None=None # to use instead of the stream's decoder
) -> Iterator[av.frame.Frame]: # whatever decodes, in presentation order
    "The frames of one stream; a packet that fails is counted and skipped"
    for packet in demux(container, stream, damage):
        try: yield from packet.decode() if decoder is None else decoder.decode(packet)
        except (av.error.FFmpegError, ValueError) as error:
            damage.packets, damage.last_error = damage.packets + 1, describe_error(error)


# %%
#| exporti
def alpha_decoder(
    stream:av.video.stream.VideoStream # the stream to decode
) -> av.CodecContext|None: # None where the stream's decoder is right
    "A decoder that gives the transparency of VP8 and VP9, which FFmpeg's native decoders leave out"
    name = {'vp8': 'libvpx', 'vp9': 'libvpx-vp9'}.get(stream.codec_context.name)
    marked = any(key.lower() == 'alpha_mode' and value == '1' for key, value in stream.metadata.items())
    if not (name and marked and name in av.codecs_available): return None
    decoder = av.CodecContext.create(name, 'r')
    decoder.thread_count, decoder.options = max(1, decoder_threads()), {'max_pixels': str(MAX_PIXELS)}
    return decoder


# %% [markdown]
# Some frames have no time (raw H.264, some MPEG program streams). Such a frame gets the time of the frame before
# plus the duration of that frame. A clock may also be damaged: it jumps hours ahead, or it starts again from zero in
# the middle, as counters of few bits do. Then the next frame follows the one before without a gap. A clock that
# begins below zero is moved so that the first picture is at zero. So is one that begins hours after zero. Transport
# and program streams (`.ts`, `.mpg`) have a clock that runs on from broadcast to broadcast: its zero means nothing, so
# time begins where the file begins, with a picture or with sound. Any other beginning is kept.

# %%
#| exporti
MAX_GAP = 60. # seconds: a longer wait between frames, beyond what the header promises, is a damaged clock
MAX_BACK = 1. # seconds: a frame that is earlier than the one before by more than this begins a new clock
MAX_START = 60. # seconds: a clock that begins later is moved to zero

def has_running_clock(
    container:av.container.InputContainer # an open file
) -> bool: # True for transport and program streams
    "Whether the clock of a format has no zero of its own, and may begin anew within a file"
    return bool(container.format.flags & av.format.Flags.ts_discont.value)

def clock_origin(
    container:av.container.InputContainer, # an open file
    stream:av.stream.Stream|None # its video stream, or None for a sound without pictures
) -> float: # seconds on the file's clock at which the clock of the presentation times is zero
    "Where time begins, for pictures and sound alike"
    if stream is None: return (container.start_time or 0) / av.time_base
    start = float((stream.start_time or 0) * (stream.time_base or 0))
    if start < 0: return start
    moved = start > MAX_START or has_running_clock(container)
    return min(start, (container.start_time or 0) / av.time_base) if moved else 0.


# %%
#| exporti
def presentation_times(
    frames:Iterator[av.VideoFrame], # decoded frames
    info:VideoInfo, # nominal rate and length, for frames without a time or with an impossible one
    origin:float=0. # seconds on the file's clock that become zero
) -> Iterator[tuple[float, float, av.VideoFrame]]: # (time, time at which the next is due, frame), in seconds
    "Each frame with its presentation time, filled in where the file has none or an impossible one"
    due = latest = before = None
    for frame in frames:
        time = None if frame.time is None else frame.time - origin
        if due is None:
            before = time = time or 0.
            due, latest = time, time + info.duration
        elif time is None: time = due
        elif time > max(due + MAX_GAP, latest) or time < before - MAX_BACK:
            origin, time = origin + time - due, due
        length = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 0.
        before = time = max(time, before)
        due = time + (length if 0 < length < MAX_GAP else 1 / (info.fps or 25))
        yield time, due, frame


# %%
class Stamp:
    def __init__(self, time): self.time, self.duration, self.time_base = time, None, None
nominal = VideoInfo('a.mp4', 4, 2, 4, 4, 0, 'none', False)
def clock(*times, origin=0.): return [time for time, _, _ in presentation_times(map(Stamp, times), nominal, origin)]
test_eq(clock(0, .5, None, 1.5), [0, .5, 1, 1.5])
test_eq(clock(0, .5, 90_000., 90_001., 1.), [0, .5, 1, 2, 2.5])
test_eq(clock(95443., 95443.5, 0., .5, origin=95443.), [0, .5, 1, 1.5])
test_eq(clock(0, .5, .25, 1), [0, .5, .5, 1])

# %% [markdown]
# If an animated GIF, PNG or WebP gives a picture a hundredth of a second or less, browsers show it for a tenth of a
# second. FFmpeg does so for GIF. Here it is done for all three.

# %%
#| exporti
ANIMATIONS = {'gif', 'apng'} # FFmpeg's names of their containers
SHORTEST_DELAY, USUAL_DELAY = .0105, .1 # seconds

def browser_pace(
    frames:Iterator[tuple] # (time, due, frame) of an animation
) -> Iterator[tuple]: # the same at the pace of a browser
    "An animation with no frame too short to be seen"
    shift = 0.  # seconds by which the frames so far were too short
    for time, due, frame in frames:
        longer = USUAL_DELAY - (due - time) if due - time <= SHORTEST_DELAY else 0.
        yield time + shift, due + shift + longer, frame
        shift += longer


# %%
test_close([time for time, _, _ in browser_pace([(0, .01, 0), (.01, .05, 0), (.05, .06, 0)])], [0, .1, .14])


# %% [markdown]
# An interlaced frame holds two half-pictures, line by line. Things that move then have edges like a comb. FFmpeg's
# deinterlacer `bwdif` rebuilds such frames.

# %%
#| exporti
def deinterlace(
    frames:Iterator[av.VideoFrame], # decoded frames of one size
) -> Iterator[av.VideoFrame]: # progressive frames with the same times
    "Progressive frames: interlaced ones are rebuilt by FFmpeg's `bwdif`, others stay as they are"
    graph = shape = None
    for frame in frames:
        if graph and shape != (frame.width, frame.height, frame.format.name):
            yield from filtered(graph, None)
            graph = None
        if graph is None:
            if not frame.interlaced_frame:
                yield frame
                continue
            shape = (frame.width, frame.height, frame.format.name)
            graph = av.filter.Graph()
            source = graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
            )
            graph.link_nodes(
                source, graph.add('bwdif', 'mode=send_frame:deint=interlaced'), graph.add('buffersink')
            ).configure()
        yield from filtered(graph, frame)
    if graph: yield from filtered(graph, None)


# %%
#| exporti
def filtered(
    graph:av.filter.Graph, # a configured filter graph
    frame:av.VideoFrame|None # the next frame, or None for the end
) -> Iterator[av.VideoFrame]: # the frames that are ready
    "What a filter graph has finished after one more frame"
    graph.push(frame)
    while True:
        try: yield graph.pull()
        except (BlockingIOError, EOFError): return


# %%
#| exporti
ROUNDING = 1e-6 # seconds: container clocks round presentation times


# %% [markdown]
# ## Opening a file from a given time on
#
# To start later than zero, FFmpeg seeks the key frame before that time. In some files it cannot seek, or the key
# frame that it finds is too late. Only such files are decoded from the beginning. So are transport streams that were
# joined from several, whose clock begins anew: a search for a time would end in any of the parts.

# %%
#| exporti
def seek_before(
    container:av.container.InputContainer, # an open file
    stream:av.video.stream.VideoStream, # its video stream
    start:float # seconds
) -> bool: # whether the container could
    "Moves an open file to the key frame at or before `start`"
    try: container.seek(max(0, math.floor(start / stream.time_base)), stream=stream)
    except (av.error.FFmpegError, OverflowError, ValueError): return False
    return True


# %%
#| exporti
SEARCHED_BYTES = 2**28 # of a transport stream; the clock of a larger one is trusted

def has_one_clock(
    path, # a media file
    stream:av.stream.Stream # the stream that is read
) -> bool: # True for formats that have a single clock anyway
    "Whether the clock of a stream runs on from the beginning of a file to its end"
    before = None
    with open_media(path) as container:
        if not has_running_clock(container) or container.size > SEARCHED_BYTES: return True
        for packet in demux(container, container.streams[stream.index], Damage()):
            if packet.dts is None: continue
            time = float(packet.dts * packet.time_base)
            if before is not None and not -MAX_BACK <= time - before <= MAX_GAP: return False
            before = time
    return True


# %%
#| exporti
def timed_frames(
    source:Source, # the file
    start:float # seconds
) -> Iterator[tuple]: # first the `VideoInfo`, then (time, due, frame)
    "Opens a file and decodes it from the frame on screen at `start`"
    if wrong_file(source.path) is None and sniff(source.path) in ('webp', 'avif'):
        try: pictures = open_pictures(source.path)
        except MediaError: raise
        except Exception: pass  # Pillow raises many kinds; FFmpeg may still be able to read the file
        else:
            yield from still_frames(source, pictures)
            return
    for may_seek in ((True, False) if start > 0 else (False,)):
        with open_media(source.path) as container:
            frames = streamed_frames(source, container, start if may_seek else None)
            info = next(frames, None)
            if info is None: continue
            yield info
            yield from frames
            return


# %% [markdown]
# FFmpeg reads HEIC pictures that are stored in one piece. Those of many phones are stored in tiles; FFmpeg marks each
# tile as part of something, and leaves it to its users to join them.

# %%
#| exporti
def in_tiles(
    container:av.container.InputContainer # an open HEIC file
) -> bool: # whether it has no picture in one piece
    "Whether the picture of a HEIC file is stored in tiles"
    main = av.stream.Disposition.default
    return len(container.streams.video) > 1 and not any(each.disposition & main for each in container.streams.video)


# %%
#| exporti
def streamed_frames(
    source:Source, # the file
    container:av.container.InputContainer, # the same, open
    start:float|None # seconds to go to first; None begins at the beginning
) -> Iterator[tuple]: # first the `VideoInfo`, then (time, due, frame); nothing if the file cannot go to `start`
    "Decodes the stream that is shown"
    path, damage, animation = source.path, source.damage, container.format.name in ANIMATIONS
    if sniff(path) == 'heic' and in_tiles(container):
        raise MediaError(path, 'is a HEIC picture of several tiles, which cannot be joined here (convert it to JPEG)')
    stream = first_picture_stream(container, path, source.wanted)
    codec, origin = stream.codec_context.name, clock_origin(container, stream)
    if start is not None and (animation or not has_one_clock(path, stream)): return
    if start is not None and not seek_before(container, stream, start + origin): return
    frames = decode(container, stream, damage, alpha_decoder(stream))
    first = next(frames, None)
    if start is not None and (first is None or first.time is None or first.time - origin > start + ROUNDING): return
    if first is None: raise no_picture(path, codec, damage)
    margins = stored_margins(path, container.format.name, stream.index, len(container.streams))
    source.margins = margins if margins.fits(first.width, first.height) else Margins()
    source.pixel_aspect = stream.sample_aspect_ratio
    info = video_info(source, container, stream, first)
    yield info
    frames = watch_aspect(deinterlace(chain([first], frames)), source, stream.codec_context)
    timed = presentation_times(frames, info, origin)
    yield from browser_pace(timed) if animation else timed


# %%
#| exporti
def watch_aspect(
    frames:Iterator[av.VideoFrame], # decoded frames
    source:Source, # learns the shape of the pixels when it changes
    context:av.CodecContext # the decoder
) -> Iterator[av.VideoFrame]: # the same
    "Passes frames on, without holding one back, and notes the shape of their pixels"
    first = context.sample_aspect_ratio
    def note(frame):
        if first != context.sample_aspect_ratio or source.changed_aspect:
            source.pixel_aspect, source.changed_aspect = context.sample_aspect_ratio, True
        return frame
    return map(note, frames)


# %% [markdown]
# Animated WebP and AVIF pictures are read by Pillow.

# %%
#| exporti
def open_pictures(
    path # a picture file
): # a `PIL.Image.Image`
    "The file, opened by Pillow; `OSError` if it cannot be"
    from PIL import Image
    pictures = Image.open(path)
    if pictures.width * pictures.height > MAX_PIXELS:
        pictures.close()
        size = f'{pictures.width} x {pictures.height}'
        raise MediaError(path, f'says that it is {size} pixels large, which is not believed')
    return pictures


# %%
#| exporti
def still_frames(
    source:Source, # the file
    pictures # the same, opened by Pillow
) -> Iterator[tuple]: # first the `VideoInfo`, then (time, due, frame)
    "The frames of a still or animated picture file"
    from PIL import ImageOps, ImageSequence
    info, clock = None, 0.
    with pictures:
        try:
            for number, picture in enumerate(ImageSequence.Iterator(pictures)):
                picture = ImageOps.exif_transpose(picture.convert('RGBA'))
                frame = av.VideoFrame.from_ndarray(np.array(picture), 'rgba')
                if info is None:
                    info = frame_info(source, frame, 0., 0., (pictures.format or 'picture').lower())
                    yield info
                length = pictures.info.get('duration', 0) / 1000
                ends = clock + (USUAL_DELAY if length <= SHORTEST_DELAY else length)
                yield clock, ends, frame
                clock = ends
        except Exception as error:  # Pillow raises many kinds for damaged files
            if isinstance(error, MediaError): raise
            words = ' '.join(describe_error(error).split())
            if info is None: raise MediaError(source.path, f'is a picture that cannot be decoded ({words})') from None
            source.damage.packets, source.damage.last_error = source.damage.packets + 1, words


# %% [markdown]
# ## `probe`

# %%
#| export
def probe(
    path, # a video file
    stream:int|None=None # number of the video stream in the file; None takes what a player would show
) -> VideoInfo: # its facts, as displayed
    "The facts of a video file, from its header and first frame; `MediaError` if there is no picture in it"
    frames = timed_frames(Source(path, stream), 0.)
    info = next(frames)
    frames.close()
    return info


# %%
#| exporti
def no_picture(
    path, # the file
    codec:str, # name of its video codec
    damage:Damage # what was counted
) -> MediaError: # to be raised
    "The error for a video stream that gives no frame at all"
    reason = f': {damage.last_error}' if damage.last_error else ''
    return MediaError(path, f'has a {codec} stream of which no frame can be decoded (damaged or encrypted{reason})')


# %%
#| exporti
def video_info(
    source:Source, # the file
    container:av.container.InputContainer, # the open file
    stream:av.video.stream.VideoStream, # its video stream
    frame:av.VideoFrame # a decoded frame of it
) -> VideoInfo: # what is known
    "The facts of an open file, given one decoded frame"
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    return frame_info(
        source, frame, believable_duration(container, stream), rate, stream.codec_context.name,
        bool(container.streams.audio), stream.index,
    )


# %%
#| exporti
def frame_info(
    source:Source, # the file
    frame:av.VideoFrame, # its first frame
    duration:float, # seconds
    fps:float, # frames a second
    codec:str, # name of the codec
    has_audio:bool=False, # whether there is sound
    stream:int=0 # number of the stream
) -> VideoInfo: # what is known
    "The facts of a file by its first frame"
    orientation, colour, cut = frame_orientation(frame), frame_colour(frame), source.margins
    width, height = frame.width - cut.left - cut.right, frame.height - cut.top - cut.bottom
    return VideoInfo(
        str(source.path), duration, fps, *display_size(width, height, source.pixel_aspect, orientation),
        orientation.degrees, codec, has_audio, orientation, stream,
        colour.primaries, colour.transfer, colour.matrix, colour.full_range, colour.hdr,
    )


# %%
info = probe(clip)
replace(info, path=clip.name)

# %%
test_eq((info.width, info.height, info.fps, info.codec, info.has_audio), (640, 360, 24, 'h264', True))
test_fail(lambda: probe(text), contains='letter.mp4')


# %% [markdown]
# ## `iter_frames`: one frame at a time
#
# Without `fps`, every stored frame comes once. With `fps`, the clip is sampled at the times
# $t_k = t_0 + k / \text{fps}$. Each sample is the frame that a player shows at that time: the last frame whose
# presentation time is not after $t_k$. This is sampling by time, so it is right for variable frame rates. Where the clip
# has fewer frames a second than `fps`, a frame comes more than once. A sample that is at most a microsecond before
# a frame takes that frame, since container clocks round.

# %%
#| exporti
def sample_on_screen(
    frames:Iterator[tuple[float, float, av.VideoFrame]], # (time, due, frame)
    fps:float|None, # samples a second, or None for every frame
    start:float, # seconds: time of the first sample
    end:float # seconds: samples are before this
) -> Iterator[tuple[float, av.VideoFrame]]: # (presentation time, frame); a frame may repeat
    "The frames on screen at `start`, `start + 1/fps`, ... before `end`, or all frames in between"
    if fps is None:
        for time, _, frame in frames:
            if time >= end - ROUNDING: return
            if time >= start - ROUNDING: yield time, frame
        return
    shown = first = None
    k = 0
    for time, due, frame in frames:
        if first is None: first = max(start, time)
        while shown and first + k / fps < min(time, end) - ROUNDING:
            yield shown
            k += 1
        if time >= end - ROUNDING: return
        shown, last = (time, frame), due
    while shown and first + k / fps < min(last, end) - ROUNDING:
        yield shown
        k += 1


# %% [markdown]
# A slow reference searches all times for each sample. It gives the same frames, for irregular times and any rate:

# %%
def slow_samples(times, due, fps, start, end):
    samples, k = [], 0
    while (wanted := max(start, times[0]) + k / fps) < min(end, due) - 1e-6:
        samples.append(max(t for t in times if t <= wanted + 1e-6)); k += 1
    return samples

rng = np.random.default_rng(0)
for fps in (0.7, 3, 8, 24, 50):
    times = np.cumsum(rng.choice([.02, .033, .04, .5], 60)).round(3).tolist()
    stream = [(t, t + .04, t) for t in times]
    for start, end in [(0, math.inf), (1.3, 4.0)]:
        # a seek lands on the frame that is on screen at `start`
        fed = stream[max(0, sum(t <= start for t in times) - 1):]
        test_eq(
            [t for t, _ in sample_on_screen(iter(fed), fps, start, end)],
            slow_samples([t for t, _, _ in fed], times[-1] + 0.04, fps, start, end),
        )

# %% [markdown]
# ## From a frame to a picture
#
# The first frame sets the size. So a stream that changes its resolution midway still gives one stack of pictures.
# FFmpeg's scaler resizes each frame and converts it to RGB in one pass. Only some frames need further steps: `to_sdr`
# converts HDR and wide gamuts, `compose` puts transparent frames on one colour, and `Margins.cut` cuts frames that
# have a clean aperture.

# %%
#| exporti
MAX_SIDE = 16_384 # pixels of a side of a picture that is asked for

def output_size(
    info:VideoInfo, # size as displayed
    short_side:int|None # wanted length of the shorter side in pixels, or None for the displayed size
) -> tuple[int, int]: # (width, height) as displayed
    "The displayed size, scaled so that the shorter side has `short_side` pixels"
    if short_side is None: return info.width, info.height
    if not 1 <= short_side <= MAX_SIDE:
        raise ValueError(f'short_side must be from 1 to {MAX_SIDE} pixels, not {short_side}')
    scale = short_side / min(info.width, info.height)
    return max(1, round(info.width * scale)), max(1, round(info.height * scale))


# %%
#| exporti
WHITE = (255, 255, 255)
SCALER_MATRICES = {
    'bt709': 1, 'ycgco': 1, 'ictcp': 9, 'fcc': 4, 'bt470bg': 5, 'smpte170m': 5, 'smpte240m': 7, 'bt2020nc': 9, 'bt2020c': 9
}

def has_alpha(
    pixel_format:av.VideoFormat # of a frame
) -> bool: # palettes may hold transparent colours
    "Whether a frame can be transparent"
    return pixel_format.has_palette or any(component.is_alpha for component in pixel_format.components)


# %%
#| exporti
def compose(
    rgba:np.ndarray, # uint8 [H, W, 4]
    background # red, green and blue, 0 to 255
) -> np.ndarray: # uint8 [H, W, 3]
    "A transparent picture on one colour, so that colours stored under its transparent parts are not seen"
    alpha = rgba[..., 3:]
    if alpha.min() == 255: return np.ascontiguousarray(rgba[..., :3])
    mixed = rgba[..., :3].astype(np.uint32) * alpha + np.array(background, np.uint32) * (255 - alpha.astype(np.uint32))
    return ((mixed + 127) // 255).astype(np.uint8)


# %%
#| exporti
def check_background(
    colour # red, green and blue
) -> tuple: # three whole numbers
    "The colour as whole numbers; `ValueError` if it is none"
    colour = tuple(colour)
    if len(colour) != 3 or not all(0 <= part <= 255 for part in colour):
        raise ValueError(f'background must be red, green and blue from 0 to 255, not {colour}')
    return tuple(int(part) for part in colour)


# %%
#| exporti
@dataclass(frozen=True)
class Development:
    "How the frames of one kind become pictures"
    orientation:Orientation # how they are turned
    size:tuple[int, int] # (width, height) to scale to, before they are turned
    colour:Colour # what their numbers mean
    alpha:bool # whether they can be transparent
    margins:Margins # what is cut off
    framed:bool # whether bars are added
    peak:float # the brightest light that the file states, 1 is paper white

    def scaled(self,
               frame:av.VideoFrame, # a frame
               scaler:av.video.reformatter.VideoReformatter, # for this kind of frame
               pixel_format:str, # of the result
               size:tuple[int, int] # (width, height) of the result
    ) -> np.ndarray: # [H, W, channels]
        "The frame as RGB of another size, in one pass"
        method = None if size == (frame.width, frame.height) else 'AREA'
        matrix = SCALER_MATRICES.get(self.colour.matrix)
        levels = 2 if self.colour.full_range else 1
        return scaler.reformat(
            frame, *size, pixel_format, src_colorspace=matrix, src_color_range=levels, interpolation=method
        ).to_ndarray()

    def deep(self,
             frame:av.VideoFrame, # a frame
             scaler:av.video.reformatter.VideoReformatter, # for this kind of frame
             size:tuple[int, int] # (width, height) of the result
    ) -> np.ndarray: # uint16 [H, W, 3]
        "The frame as RGB of 16 bits"
        if self.colour.matrix not in UNPACK: return self.scaled(frame, scaler, 'rgb48le', size)
        levels = 2 if self.colour.full_range else 1  # equal on both sides, so that the numbers stay
        planes = scaler.reformat(
            frame, *size, 'yuv444p16le', src_colorspace=1, dst_colorspace=1, src_color_range=levels,
            dst_color_range=levels, interpolation='AREA'
        ).to_ndarray(channel_last=True)
        return UNPACK[self.colour.matrix](planes, self.colour)


# %%
#| exporti
def opaque(
    frame:av.VideoFrame, # without transparency
    plan:Development, # how it is treated
    scaler:av.video.reformatter.VideoReformatter, # for frames of this kind
    tone_map:str, # operator for HDR
    size:tuple[int, int] # (width, height) to scale to
) -> np.ndarray: # uint8 [H, W, 3]
    "A frame as sRGB"
    if plan.colour.plain: return plan.scaled(frame, scaler, 'rgb24', size)
    return to_sdr(plan.deep(frame, scaler, size), plan.colour, tone_map, plan.peak)


# %%
#| exporti
def flattened(
    frame:av.VideoFrame, # with transparency or margins
    plan:Development, # how it is treated
    scalers:list[av.video.reformatter.VideoReformatter], # two: for the frame, and for the picture without margins
    tone_map:str, # operator for HDR
    background # red, green and blue behind transparent parts
) -> np.ndarray: # uint8 [H, W, 3]
    """
    A frame on one colour and without margins. It is composed and cut at its full size and scaled after that, so that
    hidden colours do not mix with visible ones.
    """
    whole = (frame.width, frame.height)
    if plan.alpha:
        rgba = plan.scaled(frame, scalers[0], 'rgba', whole)
        if not plan.colour.plain:
            deep = to_sdr(plan.deep(frame, scalers[1], whole), plan.colour, tone_map, plan.peak)
            rgba = np.concatenate([deep, rgba[..., 3:]], -1)
        image = compose(rgba, background)
    else: image = opaque(frame, plan, scalers[0], tone_map, whole)
    image = np.ascontiguousarray(plan.margins.cut(image))
    if image.shape[1::-1] == plan.size: return image
    flat = av.VideoFrame.from_ndarray(image, 'rgb24')
    return scalers[1].reformat(flat, *plan.size, 'rgb24', interpolation='AREA').to_ndarray()


# %%
#| exporti
class Screen:
    "Turns decoded frames into upright RGB pictures of one size"
    def __init__(self,
                 source:Source, # the file
                 info:VideoInfo, # its facts by its first frame
                 size:tuple[int, int], # (width, height) of the pictures
                 background=WHITE, # colour behind transparent frames
                 tone_map:str='bt2390'): # operator for HDR
        self.source, self.first, self.size = source, (info.width, info.height), size
        self.background, self.tone_map = background, tone_map
        self.kind = self.development = None
        self.framed = False # whether any frame had to be framed by bars

    def develop(self,
                frame:av.VideoFrame # a frame of a kind not seen just before
    ):
        """
        Decides how frames of this kind are treated. Scalers are kept from frame to frame, since setting one up costs
        as much as a frame.
        """
        orientation, cut = frame_orientation(frame), self.source.margins
        if not cut.fits(frame.width, frame.height): cut = Margins()
        width, height = frame.width - cut.left - cut.right, frame.height - cut.top - cut.bottom
        shown = display_size(width, height, self.source.pixel_aspect, orientation)
        size = self.size if shown == self.first else fit_within(*shown, self.size)
        self.framed |= size != self.size
        stored = size[::-1] if orientation.transpose else size
        self.development = Development(
            orientation, stored, frame_colour(frame), has_alpha(frame.format), cut, size != self.size,
            stated_peak(frame),
        )
        self.scalers = [av.video.reformatter.VideoReformatter() for _ in range(2)]

    def __call__(self,
                 frame:av.VideoFrame # a decoded frame
    ) -> np.ndarray: # uint8 [H, W, 3]
        "The picture of a frame; `MediaError` for a kind of pixels that cannot be converted"
        # side data are not part of it: reading them delays when the frame is freed (by the collector of cycles)
        kind = (
            frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, frame.color_trc,
            frame.color_primaries, frame.rotation, self.source.pixel_aspect,
        )
        if kind != self.kind:
            self.develop(frame)
            self.kind = kind
        plan = self.development
        special = plan.alpha or plan.margins
        try:
            if special: image = flattened(frame, plan, self.scalers, self.tone_map, self.background)
            else: image = opaque(frame, plan, self.scalers[0], self.tone_map, plan.size)
        except (av.error.FFmpegError, ValueError) as error:
            reason = f'has pictures that cannot be converted ({frame.format.name}: {describe_error(error)})'
            raise MediaError(self.source.path, reason) from None
        image = plan.orientation(image)
        return add_bars(image, self.size) if plan.framed else image


# %%
test_eq(output_size(info, 90), (160, 90))
test_fail(lambda: output_size(info, 0), contains='from 1 to 16384 pixels')

# %% [markdown]
# The loss is measured in seconds that a viewer would miss. There are two kinds: seconds without a picture, if packets
# failed, and seconds that the header promised but the file does not hold. `Clock` adds up the gaps between the end of
# a frame, by its duration, and the beginning of the next.

# %%
#| exporti
MIN_LOSS = .5 # seconds: below this a header may be rounding, or count a last frame differently

@dataclass
class Clock:
    "Counts the seconds with and without a picture"
    waits:float = 0. # seconds without a picture
    length:float = 0. # seconds from the first frame to the end of the last
    end:float = 0. # seconds: when the last frame ends

    def watch(self,
              frames:Iterator[tuple] # (time, due, frame)
    ) -> Iterator[tuple]: # the same
        "Passes frames on and keeps count"
        first = None
        for time, due, frame in frames:
            if first is None: first = self.end = time
            self.waits, self.length, self.end = self.waits + max(0., time - self.end), due - first, due
            yield time, due, frame


# %%
#| exporti
def warn_of_loss(
    info:VideoInfo, # what the header promised
    damage:Damage, # what failed
    clock:Clock # what came out
):
    "One `MediaWarning` with the seconds that could not be decoded, if packets failed or over `MIN_LOSS` are missing"
    lost = max(0., info.duration - clock.end) + (clock.waits if damage.packets else 0.)
    if lost > MIN_LOSS or damage.packets:
        total = max(info.duration, clock.length)
        warnings.warn(
            MediaWarning(f'{info.path}: damaged or cut short, {lost:.1f} of {total:.1f} s could not be decoded'),
            stacklevel=2,
        )


# %%
#| exporti
MAX_FPS = 1000. # pictures a second that may be asked for

def check_span(
    fps:float|None, # pictures a second, or None
    start:float, # seconds
    end:float|None # seconds, or None
):
    "Raises `ValueError` for an impossible rate or part"
    if fps is not None and not 0 < fps <= MAX_FPS:
        raise ValueError(f'fps must be positive and at most {MAX_FPS:g}, not {fps}')
    if not math.isfinite(start): raise ValueError(f'start must be a number of seconds, not {start}')
    if end is not None and not end > start: raise ValueError(f'end must be after start, not {start} to {end} s')


# %%
#| exporti
def open_frames(
    path, # a video file
    size, # function: VideoInfo -> (width, height) as displayed
    fps:float|None=None, # samples a second; None gives every frame as stored
    start:float=0., # seconds
    end:float|None=None, # seconds
    stream:int|None=None, # number of the video stream in the file; None takes what a player would show
    background=WHITE, # red, green and blue behind transparent parts
    tone_map:str='bt2390' # operator for HDR: 'bt2390', 'hable' or 'clip'
) -> tuple[VideoInfo, Iterator[tuple[float, np.ndarray]]]: # facts; (presentation time, uint8 RGB [H, W, 3]) one by one
    "The facts of a file and its frames as from `iter_frames`; `size` computes the size of the pictures from the facts"
    check_span(fps, start, end)
    background, tone_map = check_background(background), check_tone_map(tone_map)
    source = Source(path, stream)
    frames = timed_frames(source, start)
    info = next(frames)
    return info, scaled_frames(frames, info, Screen(source, info, size(info), background, tone_map), fps, start, end)


# %%
#| exporti
def scaled_frames(
    frames:Iterator[tuple], # (time, due, frame) of the file
    info:VideoInfo, # its facts
    screen:Screen, # makes the pictures
    fps:float|None, # samples a second
    start:float, # seconds
    end:float|None # seconds
) -> Iterator[tuple[float, np.ndarray]]: # (presentation time, uint8 RGB [H, W, 3])
    "Sampled, scaled, upright pictures; `MediaWarning` if the shape changes, and at the end if pictures were lost"
    clock, last, image, framed = Clock(), None, None, False
    for time, frame in sample_on_screen(clock.watch(frames), fps, start, math.inf if end is None else end):
        if frame is not last: last, image = frame, screen(frame)
        if screen.framed and not framed:
            framed = True
            words = f'changes the shape of its pictures at {time:.1f} s, so that they are shown with bars'
            warnings.warn(MediaWarning(f'{info.path}: {words}'), stacklevel=2)
        yield time, image
    if start <= 0 and end is None: warn_of_loss(info, screen.source.damage, clock)


# %%
#| export
def iter_frames(
    path, # a video file
    fps:float|None=None, # samples a second; None gives every frame as stored
    short_side:int|None=None, # scale so that the shorter side has this many pixels; None keeps the size
    start:float=0., # seconds, on the clock of the presentation times
    end:float|None=None, # seconds; None goes to the end of the file
    stream:int|None=None, # number of the video stream in the file; None takes what a player would show
    background=WHITE, # red, green and blue behind transparent parts, 0 to 255
    tone_map:str='bt2390' # how HDR becomes SDR: 'bt2390', 'hable' or 'clip'
) -> Iterator[tuple[float, np.ndarray]]: # (presentation time in seconds, uint8 RGB [H, W, 3])
    """
    Upright sRGB frames with their times, one by one, in constant memory

    `MediaError` if there are none, `MediaWarning` if some are lost, `ValueError` for numbers out of range.
    """
    def size(info): return output_size(info, short_side)
    return open_frames(path, size, fps, start, end, stream, background, tone_map)[1]


# %%
first_times = [t for t, _ in iter_frames(clip, fps=2, short_side=48)][:5]
test_close(first_times, [0, .5, 1, 1.5, 2])
for rate in (0, -1, math.nan, math.inf, 1e9):
    test_fail(lambda: iter_frames(clip, fps=rate), contains='fps must be positive')
test_fail(lambda: iter_frames(clip, start=math.nan), contains='start must be a number')
test_fail(lambda: iter_frames(clip, background=(0, 0, 300)), contains='from 0 to 255')
test_fail(lambda: iter_frames(clip, tone_map='glow'), contains='one of bt2390')
test_fail(lambda: iter_frames(clip, stream=7), contains='has no video stream 7 (its video streams: 0)')
test_fail(lambda: iter_frames(clip, start=3, end=2), contains='end must be after start')


# %% [markdown]
# ## `read_frames`: all at once

# %%
#| export
@dataclass(frozen=True)
class Frames:
    "A stack of frames with their times"
    images:np.ndarray # uint8 RGB [T, H, W, 3]
    times:np.ndarray # float64 [T], presentation times in seconds
    info:VideoInfo # facts of the file

    def __len__(self): return len(self.times)


# %%
#| export
def read_frames(
    path, # a video file
    fps:float|None=None, # samples a second; None gives every frame as stored
    short_side:int|None=None, # scale so that the shorter side has this many pixels; None keeps the size
    start:float=0., # seconds, on the clock of the presentation times
    end:float|None=None, # seconds; None goes to the end of the file
    stream:int|None=None, # number of the video stream in the file; None takes what a player would show
    background=WHITE, # red, green and blue behind transparent parts, 0 to 255
    tone_map:str='bt2390' # how HDR becomes SDR: 'bt2390', 'hable' or 'clip'
) -> Frames: # pictures, times and facts
    "All frames of a file or of a part of it; `MediaError` if there are none, `ValueError` for numbers out of range"
    def size(info): return output_size(info, short_side)
    info, pairs = open_frames(path, size, fps, start, end, stream, background, tone_map)
    pairs = list(pairs)
    if not pairs:
        raise MediaError(path, f'shows no frame between {start:g} s and {"the end" if end is None else f"{end:g} s"}')
    times, images = zip(*pairs)
    return Frames(np.stack(images), np.array(times, dtype=np.float64), info)


# %%
frames = read_frames(clip, fps=1, short_side=90)
filmstrip(frames.images, frames.times);

# %% [markdown]
# ## Checked against PyAV and against itself
#
# On a clip of variable frame rate, times and pixels are those that PyAV itself gives. A part that is read alone equals
# the same part of the whole:

# %%
times = np.array([0, 1, 2, 5, 6, 20, 21, 22, 40, 41, 43, 47, 48, 60, 61]) / 24
variable = write_video(folder / 'variable.mp4', read_frames(clip, short_side=90).images[:15], times=times)
with av.open(str(variable)) as container:
    expected, pixels = zip(*[(frame.time, frame.to_ndarray(format='rgb24')) for frame in container.decode(video=0)])
whole, part = read_frames(variable), read_frames(variable, start=.8, end=2)
test_eq(whole.times, expected)
test_eq(whole.images, pixels)
test_close(whole.times, times, eps=1e-3)
test_eq(part.times, [t for t in expected if .8 <= t < 2])
test_eq(part.images, whole.images[(whole.times >= .8) & (whole.times < 2)])


# %% [markdown]
# An MP4 keeps the display matrix in the track header `tkhd`, 40 bytes after that name. Here another matrix is written
# into a copy of a file. The frames of the copy are the stored frames, turned or mirrored:

# %%
def write_matrix(path, source, a, b, c, d):
    data = bytearray(source.read_bytes())
    place = data.index(b'tkhd') + 4 + 40
    data[place:place + 36] = np.array([a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30], '>i4').tobytes()
    path.write_bytes(data)
    return path

stored = write_video(folder / 'stored.mp4', frames.images[:4])
pixels = read_frames(stored).images
turned = read_frames(write_matrix(folder / 'turned.mp4', stored, 0, -1, 1, 0))
mirrored = read_frames(write_matrix(folder / 'mirrored.mp4', stored, -1, 0, 0, 1))
test_eq((turned.info.rotation, turned.info.width, turned.info.height), (90, pixels.shape[1], pixels.shape[2]))
test_eq(turned.images, np.rot90(pixels, 1, axes=(1, 2)))
test_eq(mirrored.images, pixels[:, :, ::-1])

# %% [markdown]
# A file that was cut off gives the frames that it holds, and a warning says how many seconds are missing:

# %%
cut = folder / 'cut.mp4'
cut.write_bytes(clip.read_bytes()[:int(clip.stat().st_size * .6)])
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    kept = read_frames(cut, short_side=48)
print(str(caught[-1].message).replace(str(folder), '...'))
test_eq([warning.category for warning in caught], [MediaWarning])
assert 0 < len(kept) < info.duration * info.fps

# %% [markdown]
# ## Differences from the papers
#
# The papers say only which rate and size they use (GEVADEN: 16 fps, short side 160; classification: 50 fps). They do
# not say whether frames are sampled by index or by time. Here they are sampled by time, since real uploads have
# variable rates. Where the wanted rate is higher than the rate of the clip, frames repeat. So 16 frames at 16 fps
# always span one second.
