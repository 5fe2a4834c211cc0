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
# # One pass over a file
#
# > Decode a clip once for its thumbnail and its GIF, with memory that does not grow with its length.
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/microvid-nb/microvid_nb/blob/main/nbs/media/05_survey.ipynb)

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
#| default_exp media.survey

# %%
#| export
import math
from collections import deque
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from microvid_nb.media.candidates import (
    FEATURE_SIDE, Candidates, CutFinder, QualityThresholds, candidate_frames, limit_side)
from microvid_nb.media.video import ROUNDING, Frames, MediaError, VideoInfo, iter_frames, open_frames

# %%
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
from fastcore.test import test_close, test_eq, test_fail

from microvid_nb.media.render import filmstrip, write_video
from microvid_nb.media.sample_clip import render_sample_clip
from microvid_nb.media.video import read_frames

# %% [markdown]
# Decoding is expensive: all later work on a thumbnail and a GIF takes about as much time again. So a file is
# decoded only once. It is sampled eight times a second, at the width of a GIF, and both the thumbnail and the GIF
# are chosen from these samples. Only the thumbnail itself is read again at full size, by a seek.
#
# A micro-video of three quarters of a minute fits in memory at that size. A longer video does not. When the kept
# frames exceed `SURVEY_BYTES`, every second one is dropped, and from then on every second sample is skipped. So a
# two-hour film is surveyed with the memory of a short clip, only at a lower rate.
#
# | symbol | in code | meaning |
# |---|---|---|
# | $n$ | `len(survey.shot_times)` | shots of one second, as in GEVADEN |
# | $x_i$ | `shot_frames(survey, survey.shot_times[i])` | the frames of shot $i$ |

# %%
#| exporti
SAMPLES_PER_SECOND = 8.  # of a survey, and frames a second of a GIF
WIDTH = 320  # pixels: width of a GIF
SURVEY_BYTES = 80 * 2**20  # most memory for kept frames
# frames from which candidates are chosen, unless the clip is so long that they would be over half a second apart
ANALYSED = 64
MOST_ANALYSED = 1000 # of them in any case; the work and the memory of grouping grow with the square

# %%
#| exporti
SHOT = 1.  # seconds of a shot (GEVADEN, section 3)

def survey_size(
    info:VideoInfo, # size as displayed
    width:int=WIDTH # pixels
) -> tuple[int, int]: # (width, height)
    "The size at which a clip is surveyed: `width` pixels wide, or its own width if that is less"
    width = min(width, info.width)
    return width, max(1, round(info.height * width / info.width))


# %% [markdown]
# The memory is reserved once, by the size of the first frame. The operating system provides it page by page, so a
# short clip uses little of it. Frames are dropped in place.

# %%
#| exporti
class Thinning:
    "Keeps frames in a fixed amount of memory: when it is full, every second frame is dropped, and the step doubles"
    def __init__(self,
                 shape:tuple, # of one frame, [H, W, 3]
                 budget:int=SURVEY_BYTES): # bytes
        self.memory = np.empty((max(3, budget // math.prod(shape)), *shape), np.uint8)
        self.times, self.step = [], 1  # seconds of the kept frames; samples from one to the next

    def add(self,
            number:int, # of this sample
            time:float, # seconds
            image:np.ndarray # uint8 [H, W, 3]
    ):
        "Keeps the frame if the step reaches it and it is a new one"
        if number % self.step or (self.times and time == self.times[-1]): return
        if len(self.times) == len(self.memory):
            self.times, self.step = self.times[::2], 2 * self.step
            for i in range(len(self.times)): self.memory[i] = self.memory[2 * i]
            if number % self.step: return
        self.memory[len(self.times)] = image
        self.times.append(time)

    @property
    def images(self) -> np.ndarray: # uint8 [T, H, W, 3]
        "The kept frames; after frames were dropped, a copy, so that the memory of the others is given back"
        kept = self.memory[:len(self.times)]
        return kept if self.step == 1 else kept.copy()


# %%
thinning = Thinning((2, 2, 3), budget=10 * 12)
for number in range(100): thinning.add(number, number / 8, np.full((2, 2, 3), number, np.uint8))
test_eq((thinning.step, thinning.times), (16, [0, 2, 4, 6, 8, 10, 12]))
test_eq(thinning.images[:, 0, 0, 0], 8 * np.array(thinning.times))
thinning.add(112, 12, None)   # a frame that is still on screen is kept once
test_eq(len(thinning.times), 7)


# %%
#| export
@dataclass(frozen=True)
class Survey:
    "The samples, the cuts and the changes that one pass over a clip found"
    frames:Frames # samples that were kept, at most `WIDTH` pixels wide
    complete:bool # whether every sample was kept, so that shots can be cut from `frames`
    end:float # seconds: when the last frame ends
    sample_times:np.ndarray = field(repr=False) # float64 [L], seconds of all samples: each takes the frame on screen
    change:np.ndarray = field(repr=False) # float32 [L], mean change of grey levels in [0, 1] since the last sample
    transitions:np.ndarray = field(repr=False) # float64 [m, 2], seconds: last frame of a shot, first of the next
    part:tuple = (0., None, None) # the surveyed part: start and end in seconds, and number of the stream

    def __repr__(self): return f'Survey({Path(self.path).name!r}, {self.end:.1f} s, {len(self.frames)} frames)'

    @property
    def path(self) -> str: # of the clip
        "The file that was surveyed."
        return self.frames.info.path

    @property
    def cuts(self) -> np.ndarray: # float64 [m], seconds
        "Where one shot ends and the next begins: the middles of cuts, dissolves and fades"
        return self.transitions.mean(1)

    @cached_property
    def analysed(self) -> Frames:
        "The frames among which candidates are sought: about `ANALYSED`, and two a second at least"
        step = min(int(SAMPLES_PER_SECOND / 2), -(-len(self.frames) // ANALYSED)) if self.complete else 1
        step = max(step, -(-len(self.frames) // MOST_ANALYSED))
        return Frames(self.frames.images[::step], self.frames.times[::step], self.frames.info)

    @cached_property
    def blank(self) -> np.ndarray: # bool [T]
        "Which kept frames are black or have one colour"
        return np.array([is_blank(image) for image in self.frames.images])

    @cached_property
    def candidates(self) -> Candidates:
        "The candidate frames for a thumbnail"
        return candidate_frames(self.analysed, transitions=self.transitions)

    @cached_property
    def shot_times(self) -> np.ndarray: # float64 [n], seconds
        "When the shots of one second begin; a clip of under three seconds is cut into three shorter ones"
        start = self.frames.times[0]
        count = max(3, math.floor((self.end - start) / SHOT + 1e-3))
        return start + np.arange(count) * self.shot_length

    @property
    def shot_length(self) -> float: # seconds
        "One second, or a third of a shorter clip"
        return min(SHOT, (self.end - self.frames.times[0]) / 3)


# %%
#| export
def survey_video(
    path, # a video file
    start:float=0., # seconds: where the part to survey begins
    end:float|None=None, # seconds: where it ends; None for the end of the clip
    stream:int|None=None, # number of the video stream in the file; None takes what a player would show
) -> Survey: # its samples, cuts and changes
    "Decodes a clip once, in bounded memory; `MediaError` if there is no picture in it"
    info, samples = open_frames(path, survey_size, SAMPLES_PER_SECOND, start, end, stream=stream)
    kept = image = grey = None
    change, finder = [], CutFinder()
    for number, (time, sample) in enumerate(samples):
        kept = kept or Thinning(sample.shape)
        kept.add(number, time, sample)
        before = grey
        if sample is not image:
            image, small = sample, limit_side(sample, FEATURE_SIDE)
            grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
            finder.see(time, small)
        change.append(0. if before is None or before is grey else cv2.norm(grey, before, cv2.NORM_L1) / grey.size / 255)
    if not kept: raise MediaError(path, 'shows no frame at all')
    frames, complete = Frames(kept.images, np.array(kept.times), info), kept.step == 1
    del kept
    sample_times = frames.times[0] + np.arange(len(change)) / SAMPLES_PER_SECOND
    return Survey(
        frames,
        complete,
        sample_times[-1] + 1 / SAMPLES_PER_SECOND,
        sample_times,
        np.array(change, np.float32),
        finder.finish(),
        (start, end, stream),
    )


# %%
#| exporti
def as_survey(
    clip # a video file, or a survey of one
) -> Survey: # of it
    "Surveys a file unless that was done already, so that several tasks share one pass"
    return clip if isinstance(clip, Survey) else survey_video(clip)


# %%
folder = Path(tempfile.mkdtemp())
clip = render_sample_clip(folder / 'sample.mp4')
survey = survey_video(clip)
fig, ax = plt.subplots(figsize=(8, 1.8))
ax.plot(survey.sample_times, survey.change)
ax.set(xlabel='seconds', ylabel='change')
for start, end in survey.transitions: ax.axvspan(start, end, color='C1', alpha=.4)

# %%
test_eq((len(survey.frames), survey.complete, survey.end), (96, True, 12))
test_eq(survey.shot_times, np.arange(12))
reference = read_frames(clip, fps=8, short_side=180)
test_eq(survey.frames.images, reference.images)
small = [
    cv2.cvtColor(cv2.resize(image, (160, 90), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY).astype(float)
    for image in reference.images
]
slow = [0] + [np.abs(after - before).mean() / 255 for before, after in zip(small, small[1:])]
test_close(survey.change, slow, eps=1e-6)


# %% [markdown]
# ## The frames of a shot
#
# If all samples were kept, the frames of a shot come from memory. Otherwise, and for another rate or a larger width,
# they are read again, by a seek to the shot. So a GIF of 30 frames a second shows 30 different frames a second.

# %%
#| export
def shot_frames(
    survey:Survey, # of a clip
    time:float, # seconds: when the shot begins
    seconds:float|None=None, # its length; that of the survey's shots if not given
    fps:float=SAMPLES_PER_SECOND, # frames a second, sampled from the file
    width:int=WIDTH # pixels, sampled from the file; never wider than it
) -> np.ndarray: # uint8 RGB [T, H, W, 3], T = seconds * fps; fewer where the clip ends
    "The frames of the shot that begins at `time`"
    count = max(1, round((seconds or survey.shot_length) * fps))
    if survey.complete and (fps, width) == (SAMPLES_PER_SECOND, WIDTH):
        first = min(round((time - survey.sample_times[0]) * SAMPLES_PER_SECOND), len(survey.sample_times) - 1)
        times = survey.sample_times[first:first + count] + ROUNDING
        return survey.frames.images[np.searchsorted(survey.frames.times, times, side='right') - 1]
    def size(info): return survey_size(info, width)
    _, samples = open_frames(survey.path, size, fps, time, time + count / fps, stream=survey.part[2])
    images = [image for _, image in samples]
    if images: return np.stack(images[:count])
    nearest = np.abs(survey.frames.times - time).argmin()  # a damaged file may decode in one pass, and not after a seek
    return survey.frames.images[nearest:nearest + 1]


# %%
shots = [shot_frames(survey, time) for time in survey.shot_times]
test_eq({len(shot) for shot in shots}, {8})
filmstrip([shot[4] for shot in shots], survey.shot_times, columns=6);

# %% [markdown]
# A survey that dropped frames gives the same shots, by seeks:

# %%
thinned = replace(
    survey, frames=Frames(survey.frames.images[::4], survey.frames.times[::4], survey.frames.info), complete=False
)
test_eq(shot_frames(thinned, 6.), shots[6])

# %% [markdown]
# At another rate and width the frames come from the file:

# %%
fine = shot_frames(survey, 7., seconds=.5, fps=24, width=480)
test_eq(fine.shape, (12, 270, 480, 3))
reference_fine = read_frames(clip, start=7., end=7.5)
test_close(len(reference_fine), 12, eps=3)
assert len({image.tobytes() for image in fine}) > 6   # at 8 frames a second there would be four

# %% [markdown]
# A clip shorter than three seconds, one of a single frame, and one with a low frame rate:

# %%
short = survey_video(write_video(folder / 'short.mp4', reference.images[8:20], fps=8))
test_close(short.shot_times, [0, .5, 1]); test_eq(len(shot_frames(short, .5)), 4)
single = survey_video(write_video(folder / 'single.mp4', reference.images[8:9]))
test_eq((len(single.frames), len(single.shot_times), len(shot_frames(single, single.shot_times[2]))), (1, 3, 1))
test_fail(lambda: survey_video(folder / 'nowhere.mp4'), contains='no such file')
# fewer frames than samples: frames repeat
slow = survey_video(write_video(folder / 'slow.mp4', reference.images[8:20], fps=3))
test_eq((len(slow.frames), len(slow.sample_times), len(shot_frames(slow, 3.))), (12, 32, 8))
test_eq(shot_frames(slow, 1.), slow.frames.images[[3, 3, 3, 4, 4, 4, 5, 5]])


# %% [markdown]
# ## Where a shot may begin
#
# A shot may begin at each sample. It should show whole pictures only, so each beginning is checked. The first reason
# that holds is noted:
#
# | level | `rejected` | why |
# |---|---|---|
# | 4 | `the clip ends` | the clip ends before the shot does |
# | 3 | `holds a cut` | a part of a cut, a dissolve or a fade is inside |
# | 2 | `black or blank` | at least one frame is nearly black, or of one colour |
# | 1 | `poor frames` | half of its frames or more are dark, blurred or plain |
# | 0 | | usable |
#
# A cut is between two samples, so a shot ends at the last sample before it or begins at the first one after it.

# %%
#| exporti
def is_blank(
    image:np.ndarray # uint8 RGB [H, W, 3]
) -> bool: # whether it is nearly black or of one colour
    "Darkness and contrast, by the thresholds of `QualityThresholds`"
    limits, (mean, deviation) = QualityThresholds(), cv2.meanStdDev(image)
    contrast = np.sqrt(np.mean((deviation / 255)**2))
    dark = mean.ravel() @ (.2126, .7152, .0722) / 255 < limits.luminance and contrast < limits.contrast
    return bool(dark or contrast < limits.uniform_contrast)


# %%
#| exporti
def share_between(
    flags:np.ndarray, # bool [T], about frames
    times:np.ndarray, # [T], seconds at which the frames begin to be on screen
    start:np.ndarray, # [n] seconds
    end:np.ndarray # [n] seconds
) -> np.ndarray: # float64 [n], 0 to 1
    "The share of the frames on screen from `start` to `end` that have a flag"
    first = np.maximum(np.searchsorted(times, start + ROUNDING, side='right') - 1, 0)
    last = np.maximum(np.searchsorted(times, end - ROUNDING), first + 1)
    sums = np.r_[0, np.cumsum(flags)]
    return (sums[last] - sums[first]) / (last - first)


# %%
start, end = np.array([[0, 1], [.5, 2], [1, 3], [3, 9]]).T
test_close(share_between(np.array([1, 0, 0, 1]), np.arange(4.), start, end), [1, .5, 0, 1])

# %%
#| exporti
MOSTLY_USABLE = .5  # share of usable frames above which a shot is preferred
REASONS = np.array(['', 'poor frames', 'black or blank', 'holds a cut', 'the clip ends'], object)

def shot_starts(
    survey:Survey, # of a clip
    seconds:float|None=None # length of a shot; that of the survey's shots if not given
) -> pd.DataFrame: # a row for each beginning, in order of time: time (s), level (0 is usable), rejected (why, or '')
    "Where shots may begin, and why not"
    seconds = seconds or survey.shot_length
    start = np.unique(np.r_[survey.sample_times, survey.shot_times].round(6))
    end, (before, after) = start + seconds, survey.transitions.T
    following = np.searchsorted(after, start + ROUNDING)  # the first transition that is not over
    cut = end > np.r_[before, np.inf][following] + ROUNDING
    good = survey.candidates.rejected == ''
    level = np.select([
        end > survey.end + 1e-3, cut, share_between(survey.blank, survey.frames.times, start, end) > 0,
        share_between(good, survey.analysed.times, start, end) <= MOSTLY_USABLE], [4, 3, 2, 1], 0)
    return pd.DataFrame({'time': start, 'level': level, 'rejected': REASONS[level]})


# %%
starts = shot_starts(survey)
colours = np.array(['C2', 'C1', 'k', 'C3', '0.7'])
plt.figure(figsize=(8, 1.2))
plt.scatter(starts.time, starts.level, c=colours[starts.level], s=12)
plt.yticks(range(5), ['usable', *REASONS[1:]]); plt.xlabel('seconds at which a shot would begin');

# %%
for time, level in zip(starts.time, starts.level):   # by a slow loop
    holds = any(time < after - 1e-5 and time + 1 > before + 1e-5 for before, after in survey.transitions)
    test_eq(level == 3, holds and time <= 11)
test_eq((starts.level[0], starts.level[starts.time == 7.].item(), starts.level.iloc[-1]), (3, 0, 4))


# %% [markdown]
# ## Full size again
#
# The chosen frame is read in the size that it has in the file. If a clip is no wider than `WIDTH`, the survey
# holds its frames in full size already.

# %%
#| export
def full_frame(
    survey:Survey, # of a clip
    time:float # seconds; the frame on screen at that time
) -> tuple[float, np.ndarray]: # its presentation time; uint8 RGB [H, W, 3] at the size displayed
    "One frame of a surveyed clip at full size; a time outside the clip gives its first or last frame"
    time = float(np.clip(time, survey.frames.times[0], max(survey.sample_times[-1], survey.end - 1e-3)))
    kept, info = np.flatnonzero(survey.frames.times == time), survey.frames.info
    if len(kept) and survey_size(info) == (info.width, info.height): return time, survey.frames.images[kept[0]].copy()
    later = iter_frames(survey.path, fps=1 / SHOT, start=time, stream=survey.part[2])
    return next(later, None) or deque(iter_frames(survey.path, fps=1 / SHOT, stream=survey.part[2]), maxlen=1)[0]


# %%
time, image = full_frame(survey, 6.3)
everything = read_frames(clip)
test_eq(time, everything.times[everything.times <= 6.3][-1])
test_eq(image, everything.images[everything.times <= 6.3][-1])
test_eq(full_frame(survey, -3)[0], 0)
test_eq(full_frame(survey, 99)[0], everything.times[-1])
