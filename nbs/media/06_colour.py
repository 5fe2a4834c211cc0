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
# # Colour
#
# > Show every video in the colours of an ordinary screen: HDR is tone-mapped, wide gamuts are converted, and missing colour data is filled in as players do.
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/microvid-nb/microvid_nb/blob/main/nbs/media/06_colour.ipynb)

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
#| default_exp media.colour

# %%
#| export
from dataclasses import dataclass
from functools import cache

import numpy as np

# %%
import matplotlib.pyplot as plt
from fastcore.test import test_close, test_eq, test_fail

# %% [markdown]
# A number in a video file is not yet a colour. Four notes in the file say what it means. They are code points of
# ITU-T H.273:
#
# | note | question | usual answer | other answers |
# |---|---|---|---|
# | matrix | how are red, green and blue packed into brightness and two differences? | BT.601, BT.709 | BT.2020 |
# | range | which number is black and which is white? | 16 and 235 | 0 and 255 |
# | transfer | how much light is half of the largest number? | BT.709, sRGB | PQ, HLG, linear, a power |
# | primaries | which red, green and blue? | BT.709 | BT.2020, Display P3 |
#
# Phones write HDR video, with the transfer PQ (SMPTE ST 2084) or HLG (ARIB STD-B67) and the primaries of BT.2020. If a
# reader uses only the matrix, white becomes grey and red becomes brown. This page converts all such pictures to sRGB,
# the colours of JPEG, GIF and web pages. `Colour` holds the notes under the names that FFmpeg uses.

# %%
#| exporti
PRIMARIES = {
    1: 'bt709', 4: 'bt470m', 5: 'bt470bg', 6: 'smpte170m', 7: 'smpte240m', 8: 'film', 9: 'bt2020', 10: 'smpte428',
    11: 'smpte431', 12: 'smpte432', 22: 'ebu3213',
}
TRANSFERS = {
    1: 'bt709', 4: 'gamma22', 5: 'gamma28', 6: 'smpte170m', 7: 'smpte240m', 8: 'linear', 9: 'log100', 10: 'log316',
    11: 'iec61966-2-4', 12: 'bt1361e', 13: 'iec61966-2-1', 14: 'bt2020-10', 15: 'bt2020-12', 16: 'smpte2084',
    17: 'smpte428', 18: 'arib-std-b67',
}
MATRICES = {
    0: 'gbr', 1: 'bt709', 4: 'fcc', 5: 'bt470bg', 6: 'smpte170m', 7: 'smpte240m', 8: 'ycgco', 9: 'bt2020nc',
    10: 'bt2020c', 14: 'ictcp',
}
HDR_TRANSFERS, DERIVED_MATRICES = ('smpte2084', 'arib-std-b67'), (12, 13) # the latter follow from the primaries

@dataclass(frozen=True)
class Colour:
    "What the numbers of a picture mean, by FFmpeg's names"
    primaries:str = 'bt709' # which red, green and blue
    transfer:str = 'bt709' # how numbers become light
    matrix:str = 'bt709' # how RGB was packed
    full_range:bool = False # whether 0 is black and the largest number white

    @property
    def hdr(self) -> bool: # whether it is PQ or HLG
        "Whether whites can be brighter than paper white"
        return self.transfer in HDR_TRANSFERS

    @property
    def plain(self) -> bool: # whether FFmpeg's scaler alone gives the right picture
        "Whether no more than a matrix and a range separate it from sRGB"
        return self.transfer in SDR_CURVES and self.primaries not in GAMUTS and self.matrix not in UNPACK


# %% [markdown]
# ## Missing notes are filled in as players do
#
# A missing matrix is taken to be BT.709 if the picture has at least 577 lines or 1280 columns, and BT.601 if it
# is smaller. For PQ, HLG and the primaries of BT.2020 it is that of BT.2020. If the primaries are missing, those
# of BT.2020 are taken for PQ, for HLG and for the matrix of BT.2020. The range is that of the tag. Without a tag,
# the range of RGB and of the formats that FFmpeg calls `yuvj` is full, and that of all other formats is limited.

# %%
#| exporti
def complete_colour(
    codes:tuple[int, int, int, int], # H.273 primaries, transfer, matrix; FFmpeg's range (0 unknown, 1 limited, 2 full)
    width:int, # stored columns
    height:int, # stored rows
    pixel_format:str, # FFmpeg's name
    is_rgb:bool # whether the format holds red, green and blue
) -> Colour: # without gaps
    "The colour notes of a picture, with what is missing filled in"
    primaries, transfer, matrix = (table.get(code) for table, code in zip((PRIMARIES, TRANSFERS, MATRICES), codes))
    wide = transfer in HDR_TRANSFERS
    if is_rgb: matrix = 'gbr'
    elif codes[2] in DERIVED_MATRICES: matrix = {'bt709': 'bt709', 'bt2020': 'bt2020nc'}.get(primaries, 'smpte170m')
    elif matrix in (None, 'gbr'):
        large = height > 576 or width >= 1280
        matrix = 'bt2020nc' if wide or primaries == 'bt2020' else 'bt709' if large else 'smpte170m'
    if primaries is None: primaries = 'bt2020' if wide or matrix in ('bt2020nc', 'bt2020c', 'ictcp') else 'bt709'
    full = codes[3] == 2 or (codes[3] != 1 and (is_rgb or pixel_format.startswith('yuvj')))
    return Colour(primaries, transfer or 'bt709', matrix, full)


# %%
#| exporti
def frame_colour(
    frame # an `av.VideoFrame`
) -> Colour: # without gaps
    "The colour notes of a decoded frame"
    names = 'color_primaries', 'color_trc', 'colorspace', 'color_range'
    codes = tuple(int(getattr(frame, name, 2)) for name in names)
    kind = frame.format
    return complete_colour(codes, frame.width, frame.height, kind.name, kind.is_rgb or kind.has_palette)


# %% [markdown]
# FFmpeg's scaler does not know YCgCo, which some encoders of screen recordings use. Its three numbers are unpacked here:
# $T = Y - C_g$, and $R = T + C_o$, $G = Y + C_g$, $B = T - C_o$ (H.273).

# %%
#| exporti
def unit_planes(
    planes:np.ndarray, # uint16 [H, W, 3], full or limited range of 16 bits
    full_range:bool # whether 0 is black and the largest number white
) -> tuple[np.ndarray, ...]: # float32 [H, W] each: brightness in [0, 1], two differences in [-.5, .5]
    "Brightness and two differences as plain numbers"
    low, high, spread = (0, 65535, 65535) if full_range else (16 * 256, 219 * 256, 224 * 256)
    first, second, third = np.moveaxis(planes.astype(np.float32), -1, 0)
    return (first - low) / high, (second - 32768) / spread, (third - 32768) / spread

def ycgco_to_rgb(
    planes:np.ndarray, # uint16 [H, W, 3]: brightness, green and orange differences
    colour:Colour # whose range matters
) -> np.ndarray: # uint16 [H, W, 3]
    "Red, green and blue of YCgCo"
    y, green, orange = unit_planes(planes, colour.full_range)
    rgb = np.stack([y - green + orange, y + green, y - green - orange], -1)
    return (rgb.clip(0, 1) * 65535 + .5).astype(np.uint16)


# %%
colour = np.array([.8, .25, .1])
y, green, orange = colour @ [.25, .5, .25], colour @ [-.25, .5, -.25], colour @ [.5, 0, -.5]
planes = np.array([[[4096 + y * 219 * 256, 32768 + green * 224 * 256, 32768 + orange * 224 * 256]]])
test_close(ycgco_to_rgb(planes.round().astype(np.uint16), Colour())[0, 0] / 65535, colour, eps=1e-4)

# %% [markdown]
# ## From numbers to light
#
# The transfers of BT.709, of its relatives and of sRGB differ little, and players show them all alike. Such pictures
# keep their numbers. A power of 2.2 or 2.8, a logarithm, linear light and the HDR curves differ more, so such pictures
# are converted. In the formulas $V$ is the number in $[0, 1]$ and $L$ is the light. A light of 1 is paper white, which
# is 203 cd/m² in HDR (BT.2408).
#
# PQ: $\; L = \dfrac{10000}{203}\left(\dfrac{\max(V^{1/m_2} - c_1,\, 0)}{c_2 - c_3 V^{1/m_2}}\right)^{1/m_1}$
#
# HLG (before its system gamma): $\; E = V^2/3$ if $V \le 1/2$, else $\left(e^{(V - c)/a} + b\right)/12$

# %%
#| exporti
PAPER_WHITE = 203. # cd/m2 (ITU-R BT.2408)
PQ_M1, PQ_M2, PQ_C1, PQ_C2, PQ_C3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
HLG_A, HLG_B, HLG_C = .17883277, .28466892, .55991073

def pq_to_light(
    signal:np.ndarray # numbers in [0, 1]
) -> np.ndarray: # light, 1 is paper white
    "Light of a PQ signal (SMPTE ST 2084)"
    root = np.clip(signal, 0, 1) ** (1 / PQ_M2)
    return (np.maximum(root - PQ_C1, 0) / (PQ_C2 - PQ_C3 * root)) ** (1 / PQ_M1) * (10000 / PAPER_WHITE)

def light_to_pq(
    light:np.ndarray # light, 1 is paper white
) -> np.ndarray: # numbers in [0, 1]
    "The PQ signal of a light, the inverse of `pq_to_light`"
    power = np.clip(np.asarray(light) * (PAPER_WHITE / 10000), 0, 1) ** PQ_M1
    return ((PQ_C1 + PQ_C2 * power) / (1 + PQ_C3 * power)) ** PQ_M2


# %%
#| exporti
def hlg_to_scene(
    signal:np.ndarray # numbers in [0, 1]
) -> np.ndarray: # light of the scene in [0, 1]
    "Light in front of the camera that wrote an HLG signal (ITU-R BT.2100)"
    return np.where(signal <= .5, signal ** 2 / 3, (np.exp((signal - HLG_C) / HLG_A) + HLG_B) / 12)

def srgb_to_light(
    signal:np.ndarray # numbers in [0, 1]
) -> np.ndarray: # light
    "Light of an sRGB number (IEC 61966-2-1)"
    return np.where(signal <= .04045, signal / 12.92, ((signal + .055) / 1.055) ** 2.4)

def light_to_srgb(
    light:np.ndarray # light in [0, 1]
) -> np.ndarray: # numbers in [0, 1]
    "The sRGB number of a light"
    return np.where(light <= .0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - .055)


# %%
#| exporti
def bt709_to_light(
    signal:np.ndarray # numbers in [0, 1]
) -> np.ndarray: # light
    "Light of a BT.709 number, by the curve of the camera"
    return np.where(signal < .081, signal / 4.5, ((signal + .099) / 1.099) ** (1 / .45))

def light_to_bt709(
    light:np.ndarray # light in [0, 1]
) -> np.ndarray: # numbers in [0, 1]
    "The BT.709 number of a light"
    return np.where(light < .018, 4.5 * light, 1.099 * np.maximum(light, 1e-9) ** .45 - .099)

SDR_CURVES = ('bt709', 'smpte170m', 'smpte240m', 'iec61966-2-4', 'bt1361e', 'iec61966-2-1', 'bt2020-10', 'bt2020-12')
CURVES = {
    'smpte2084': pq_to_light, 'arib-std-b67': hlg_to_scene, 'iec61966-2-1': srgb_to_light,
    'linear': lambda signal: signal, 'gamma22': lambda signal: signal ** 2.2, 'gamma28': lambda signal: signal ** 2.8,
    'log100': lambda signal: np.where(signal > 0, 10 ** (2 * (signal - 1)), 0),
    'log316': lambda signal: np.where(signal > 0, 10 ** (2.5 * (signal - 1)), 0),
    'smpte428': lambda signal: signal ** 2.6 * (52.37 / 48),
}

# %%
levels = np.linspace(0, 1, 1001)
test_close(light_to_pq(pq_to_light(levels)), levels, eps=1e-6)
test_close(light_to_srgb(srgb_to_light(levels)), levels, eps=1e-6)
test_close(light_to_bt709(bt709_to_light(levels)), levels, eps=1e-3)
test_close(pq_to_light(np.array([.5081, .5807, 1])) * PAPER_WHITE, [100, 203, 10000], eps=1)  # values of ITU-R BT.2408
test_close(1000 * hlg_to_scene(np.array([.75, 1.])) ** 1.2, [203, 1000], eps=1)

# %% [markdown]
# ICtCp packs HDR pictures in another way (BT.2100). The light of red, green and blue is mixed to that of the three
# receptors of an eye, $L$, $M$ and $S$. PQ or HLG makes numbers of them, and these are mixed to a brightness $I$ and two
# differences $C_T$ and $C_P$. FFmpeg's scaler does not know it, either.

# %%
#| exporti
LMS_2020 = np.array([[1688, 2146, 262], [683, 2951, 462], [99, 309, 3688]]) / 4096
ICTCP = {
    'smpte2084': np.array([[2048, 2048, 0], [6610, -13613, 7003], [17933, -17390, -543]]) / 4096,
    'arib-std-b67': np.array([[2048, 2048, 0], [3625, -7465, 3840], [9500, -9212, -288]]) / 4096,
}

def scene_to_hlg(
    light:np.ndarray # light of the scene in [0, 1]
) -> np.ndarray: # numbers in [0, 1]
    "The HLG signal of a light, the inverse of `hlg_to_scene`"
    return np.where(light <= 1 / 12, np.sqrt(3 * light), HLG_A * np.log(np.maximum(12 * light - HLG_B, 1e-6)) + HLG_C)

def ictcp_to_rgb(
    planes:np.ndarray, # uint16 [H, W, 3]: I, CT and CP
    colour:Colour # whose transfer and range matter
) -> np.ndarray: # uint16 [H, W, 3], in the same transfer
    "Red, green and blue of BT.2020 of ICtCp (ITU-R BT.2100)"
    hlg = colour.transfer == 'arib-std-b67'
    decode, encode = (hlg_to_scene, scene_to_hlg) if hlg else (pq_to_light, light_to_pq)
    unmix = np.linalg.inv(ICTCP['arib-std-b67' if hlg else 'smpte2084']).T.astype(np.float32)
    numbers = np.stack(unit_planes(planes, colour.full_range), -1) @ unmix
    light = decode(numbers.clip(0, 1)) @ np.linalg.inv(LMS_2020).T.astype(np.float32)
    return (encode(np.maximum(light, 0)).clip(0, 1) * 65535 + .5).astype(np.uint16)

UNPACK = {'ycgco': ycgco_to_rgb, 'ictcp': ictcp_to_rgb}

# %%
test_close(hlg_to_scene(scene_to_hlg(levels)), levels, eps=1e-6)
for transfer, decode, encode in (
    ('smpte2084', pq_to_light, light_to_pq), ('arib-std-b67', hlg_to_scene, scene_to_hlg)
):
    signal = np.array([.5, .4, .3])
    packed = ICTCP[transfer] @ encode(LMS_2020 @ decode(signal))
    planes = (packed * np.array([219, 224, 224]) + [16, 128, 128]) * 256
    found = ictcp_to_rgb(planes.round().astype(np.uint16)[None, None], Colour('bt2020', transfer, 'ictcp'))
    test_close(found[0, 0] / 65535, signal, eps=1e-3)

# %% [markdown]
# ## From one red, green and blue to another
#
# Primaries are points $(x, y)$ of the chromaticity diagram. The primaries and the white point together determine
# a matrix from RGB to XYZ. Its columns are the XYZ of the primaries, scaled so that $(1, 1, 1)$ gives white. A
# conversion from one set of primaries to another multiplies three matrices: the first set's matrix to XYZ,
# Bradford's adaptation from one white to the other, and the inverse of the second set's matrix.

# %%
#| exporti
D65, DCI_WHITE, WHITE_C = (.3127, .329), (.314, .351), (.31, .316)
SRGB_GAMUT = ((.64, .33), (.3, .6), (.15, .06)), D65
GAMUTS = {
    'bt2020': (((.708, .292), (.17, .797), (.131, .046)), D65),
    'smpte432': (((.68, .32), (.265, .69), (.15, .06)), D65),
    'smpte431': (((.68, .32), (.265, .69), (.15, .06)), DCI_WHITE),
    'bt470m': (((.67, .33), (.21, .71), (.14, .08)), WHITE_C),
    'film': (((.681, .319), (.243, .692), (.145, .049)), WHITE_C),
    'smpte428': (((1., 0.), (0., 1.), (0., 0.)), (1 / 3, 1 / 3)),
}
BRADFORD = np.array([[.8951, .2664, -.1614], [-.7502, 1.7135, .0367], [.0389, -.0685, 1.0296]])

def rgb_to_xyz(
    primaries, # three points (x, y)
    white # the point (x, y) of white
) -> np.ndarray: # matrix [3, 3]
    "XYZ of linear RGB"
    columns = np.array([[x, y, 1 - x - y] for x, y in primaries]).T
    return columns * np.linalg.solve(columns, xyz_of(white))


# %%
#| exporti
def xyz_of(
    point # (x, y)
) -> np.ndarray: # XYZ with Y = 1
    "A chromaticity at unit brightness"
    x, y = point
    return np.array([x / y, 1, (1 - x - y) / y])


# %%
#| exporti
@cache
def to_bt709_matrix(
    name:str # of the primaries
) -> np.ndarray: # float32 [3, 3]
    "Linear RGB of these primaries to linear RGB of BT.709; white stays white"
    primaries, white = GAMUTS.get(name, SRGB_GAMUT)
    ratio = BRADFORD @ xyz_of(D65) / (BRADFORD @ xyz_of(white))
    adapt = np.linalg.inv(BRADFORD) @ np.diag(ratio) @ BRADFORD
    return (np.linalg.inv(rgb_to_xyz(*SRGB_GAMUT)) @ adapt @ rgb_to_xyz(primaries, white)).astype(np.float32)


# %%
# ITU-R BT.2087, and CSS Color 4 for Display P3
from_2020 = [[1.6605, -.5876, -.0728], [-.1246, 1.1329, -.0083], [-.0182, -.1006, 1.1187]]
from_p3 = [[1.2249, -.2247, 0], [-.0420, 1.0419, 0], [-.0197, -.0786, 1.0979]]
test_close(to_bt709_matrix('bt2020'), from_2020, eps=2e-4)
test_close(to_bt709_matrix('smpte432'), from_p3, eps=2e-3)
for name in GAMUTS: test_close(to_bt709_matrix(name) @ np.ones(3), np.ones(3), eps=1e-3)


# %% [markdown]
# ## Tone mapping
#
# An HDR picture may be five or fifty times brighter than paper white. A JPEG cannot be brighter than paper white. A
# tone-mapping operator reduces the light of the brightest colour component. The other two components are reduced by the
# same factor, so that the hue stays. There are three operators:
#
# - `bt2390` (ITU-R BT.2390, section 5.4.1): in PQ, values below a knee stay as they are. A Hermite spline maps
#   the rest. With $m = \mathrm{PQ}(1) / \mathrm{PQ}(L_{max})$, $k = 1.5 m - 0.5$ and $t = (e - k)/(1 - k)$ for
#   $e > k$: $\; e' = (2t^3 - 3t^2 + 1)\,k + (t^3 - 2t^2 + t)(1 - k) + (-2t^3 + 3t^2)\, m$
# - `hable`: the film curve of John Hable, $h(L) / h(L_{max})$. It lightens the dark parts and flattens the bright
#   ones.
# - `clip`: a brightest component above paper white is set to paper white.
#
# $L_{max}$ is the light that 99.9% of the pixels of the picture do not exceed. It is limited by the peak that the file
# states for its brightest pixel or for its screen. So a picture without highlights keeps its light. Each picture is
# mapped by itself: a picture looks the same whether a part of the file is read or the whole.

# %%
#| exporti
def map_bt2390(
    light:np.ndarray, # brightest component, 1 is paper white
    peak:float # the largest
) -> np.ndarray: # in [0, 1]
    "The curve of ITU-R BT.2390 from `peak` to paper white"
    top = light_to_pq(peak)
    level, limit = light_to_pq(light) / top, light_to_pq(1.) / top
    knee = max(1.5 * limit - .5, 0.)
    t = np.clip((level - knee) / max(1 - knee, 1e-6), 0, 1)
    bent = (2*t**3 - 3*t**2 + 1) * knee + (t**3 - 2*t**2 + t) * (1 - knee) + (-2*t**3 + 3*t**2) * limit
    return pq_to_light(np.where(level < knee, level, bent) * top)


# %%
#| exporti
def map_hable(
    light:np.ndarray, # brightest component, 1 is paper white
    peak:float # the largest
) -> np.ndarray: # in [0, 1]
    "John Hable's film curve from `peak` to paper white"
    def curve(x): return (x * (.15 * x + .05) + .004) / (x * (.15 * x + .5) + .06) - .02 / .3
    return curve(light) / curve(peak)


# %%
#| exporti
TONE_MAPS = {'bt2390': map_bt2390, 'hable': map_hable, 'clip': lambda light, peak: np.minimum(light, 1)}
CURVE_POINTS = 2048 # of an operator; it is interpolated linearly between them

def check_tone_map(
    name:str # of an operator
) -> str: # the same
    "The name of an operator; `ValueError` for any other name"
    if name not in TONE_MAPS: raise ValueError(f'tone_map must be one of {", ".join(TONE_MAPS)}, not {name!r}')
    return name


# %%
test_close(map_bt2390(np.array([0, .1, 5.]), 5.), [0, .1, 1], eps=1e-4)
test_close(map_hable(np.array([0, 5.]), 5.), [0, 1], eps=1e-4)
light = np.linspace(0, 5, 500)
fig, ax = plt.subplots(figsize=(5, 2.6))
for name, curve in TONE_MAPS.items():
    ax.plot(light, 255 * light_to_srgb(np.clip(curve(light, 5.), 0, 1)), label=name)
    assert (np.diff(curve(light, 5.)) > -1e-6).all()
ax.set(xlabel='light (1 is paper white)', ylabel='level in the JPEG', title='Up to five times paper white')
ax.legend();

# %% [markdown]
# HLG stores the light of the scene. A screen with a peak of 1000 cd/m² applies a system gamma of 1.2. There are two
# readings of it. BT.2100 and libplacebo apply it to the brightness $Y = 0.2627 R + 0.6780 G + 0.0593 B$, which keeps
# the hue: $L = \frac{1000}{203}\, Y^{0.2} E$. The scaler zimg, by which FFmpeg maps tones, and many encoders apply it to
# each colour component: $L = \frac{1000}{203}\, E^{1.2}$. For greys both are equal, and for skin they differ by a few
# levels. For strong colours they differ much: a pure red of the second kind is (232, 47, 26) by the first. A file does
# not say which reading its encoder had in mind. So the mean of both is taken. Colours of which one component is below a
# fifth of another lie near the edge of BT.709. They are read by the second rule, by which pure colours of both kinds are
# pure. Of random light, 77% and 91% come out within 12 levels of what the encoder meant, by the two kinds; with a wrong
# guess it would be half.

# %%
#| exporti
HLG_PEAK, HLG_GAMMA, LUMINANCE_2020 = 1000., 1.2, np.array([.2627, .678, .0593], np.float32)
EDGE = .15, .2 # smallest component over the largest: pure colours, and ordinary ones

def near_edge(
    light:np.ndarray # float32 [..., 3], of the scene
) -> np.ndarray: # float32 [..., 1], 0 for ordinary colours, 1 for pure ones
    "How close to the edge of BT.709 a colour of BT.2020 is"
    ratio = light.min(-1, keepdims=True) / np.maximum(light.max(-1, keepdims=True), 1e-9)
    return np.clip((EDGE[1] - ratio) / (EDGE[1] - EDGE[0]), 0, 1)


# %%
#| exporti
def hlg_to_screen(
    scene:np.ndarray, # float32 [..., 3], in [0, 1]
    matrix:np.ndarray # float32 [3, 3], linear RGB of the file to that of BT.709
) -> np.ndarray: # float32 [..., 3] of BT.709, 1 is paper white
    "The light of a screen of 1000 cd/m2"
    matrix = matrix.T * np.float32(HLG_PEAK / PAPER_WHITE)
    by_brightness = ((scene @ LUMINANCE_2020)[..., None] ** np.float32(HLG_GAMMA - 1) * scene) @ matrix
    by_component = scene ** np.float32(HLG_GAMMA) @ matrix
    highest = np.maximum(by_brightness.max(-1, keepdims=True), 1)  # the second reading makes no highlight of its own
    by_component *= np.minimum(1, highest / np.maximum(by_component.max(-1, keepdims=True), 1e-6))
    return by_brightness + (.5 + .5 * near_edge(scene)) * (by_component - by_brightness)


# %%
# 75% of the signal is paper white, 203 cd/m2
test_close(hlg_to_screen(np.float32([[.265] * 3]), np.eye(3, dtype=np.float32)), 1, eps=.01)
pure = np.linalg.inv(to_bt709_matrix('bt2020').astype(float)) * PAPER_WHITE / HLG_PEAK  # in columns
meant = {'brightness': pure * (LUMINANCE_2020 @ pure) ** (1 / HLG_GAMMA - 1), 'component': pure ** (1 / HLG_GAMMA)}
for name, scene in meant.items():
    found = hlg_to_screen(scene.T.astype(np.float32), to_bt709_matrix('bt2020'))
    print(f'{name:10s}', np.round(255 * light_to_srgb(found.clip(0, 1))).astype(int).tolist())
    test_close(found.clip(0, 1), np.eye(3), eps=.01)

# %%
#| exporti
SHARE_BELOW_PEAK, MAX_PEAK = .999, 10000 / PAPER_WHITE

@cache
def light_table(
    transfer:str # name of the curve
) -> np.ndarray: # float32 [65536]
    "Light of each 16-bit number"
    return CURVES.get(transfer, bt709_to_light)(np.linspace(0, 1, 65536)).astype(np.float32)

@cache
def level_table(
    transfer:str # name of the curve
) -> np.ndarray: # uint8 [65536]
    "The 8-bit level of each 16-bit step of light"
    encode = light_to_bt709 if transfer in SDR_CURVES and transfer != 'iec61966-2-1' else light_to_srgb
    return np.clip(encode(np.linspace(0, 1, 65536)) * 255 + .5, 0, 255).astype(np.uint8)


# %%
#| exporti
def compress(
    light:np.ndarray, # float32 [H, W, 3], 1 is paper white
    limit:float, # the brightest that the file says it has
    tone_map:str # name of the operator
) -> np.ndarray: # the same, in [0, 1] but for single bright pixels
    "HDR light on a screen that ends at paper white"
    brightest = light.max(-1)
    step = max(1, int(np.sqrt(brightest.size / 20_000)))
    sample = brightest[::step, ::step].ravel()
    rank = min(len(sample) - 1, int(len(sample) * SHARE_BELOW_PEAK))
    peak = float(np.clip(np.partition(sample, rank)[rank], 1, max(1, limit)))
    grid = pq_to_light(np.linspace(0, light_to_pq(peak), CURVE_POINTS))
    grid[0] = 1e-6
    gain = (TONE_MAPS[tone_map](grid, peak) / grid).astype(np.float32)
    return light * np.interp(brightest, grid, gain).astype(np.float32)[..., None]


# %% [markdown]
# `to_sdr` combines all steps. An SDR picture of a wide gamut is converted to light, multiplied by the matrix, and
# converted back by the same curve, so that greys keep their numbers.

# %%
#| export
def to_sdr(
    rgb:np.ndarray, # uint16 [H, W, 3], full range, in the transfer and primaries of the file
    colour, # a `Colour`; only primaries and transfer matter here
    tone_map:str='bt2390', # operator for HDR: 'bt2390', 'hable' or 'clip'
    limit:float=MAX_PEAK # the brightest light of the file, 1 is paper white (203 cd/m2)
) -> np.ndarray: # uint8 [H, W, 3], sRGB
    "A picture of any transfer and primaries as an ordinary screen shows it; `ValueError` for an unknown operator"
    check_tone_map(tone_map)
    light = light_table(colour.transfer)[rgb]
    if colour.transfer == 'arib-std-b67':
        light = np.maximum(hlg_to_screen(light, to_bt709_matrix(colour.primaries)), 0)
        limit = min(limit, HLG_PEAK / PAPER_WHITE)
    elif colour.primaries in GAMUTS: light = np.maximum(light @ to_bt709_matrix(colour.primaries).T, 0)
    if colour.hdr: light = compress(light, limit, tone_map)
    return level_table(colour.transfer)[(np.clip(light, 0, 1) * np.float32(65535) + np.float32(.5)).astype(np.uint16)]


# %%
white, red, grey, lamp = np.ones(3), np.array([1, 0, 0]), np.full(3, .18), np.full(3, 4.)
to_2020 = np.linalg.inv(to_bt709_matrix('bt2020').astype(float))
patches = np.repeat([to_2020 @ patch for patch in (white, red, grey, lamp)], 40, 0)[None].clip(0)
hdr = Colour('bt2020', 'smpte2084', 'bt2020nc')
stored = (light_to_pq(patches) * 65535).round().astype(np.uint16)
for name in TONE_MAPS: print(f'{name:7s}', to_sdr(stored, hdr, name)[0, ::40].tolist())
calm = to_sdr(stored[:, :120], hdr)[0, ::40].astype(int)  # without the lamp nothing is brighter than paper
test_close(calm, [[255, 255, 255], [255, 0, 0], [118, 118, 118]], eps=3)
test_fail(lambda: to_sdr(stored, hdr, 'glow'), contains='one of bt2390, hable, clip')
grey_levels = np.repeat(np.arange(0, 65536, 257, dtype=np.uint16)[None, :, None], 3, 2)
for transfer in SDR_CURVES:
    test_close(to_sdr(grey_levels, Colour('bt2020', transfer))[0, :, 0].astype(int), np.arange(256), eps=1.1)
test_close(to_sdr(np.full((1, 1, 3), round(.18 * 65535), np.uint16), Colour(transfer='linear'))[0, 0], [118] * 3, eps=1)


# %% [markdown]
# ## Limits that the file states
#
# HDR files may state the light of their brightest pixel (MaxCLL), or the peak of the screen on which they were edited.

# %%
#| exporti
def stated_peak(
    frame # an `av.VideoFrame`
) -> float: # light, 1 is paper white
    "The brightest light that a frame's notes allow, or that of PQ"
    content, screen = (frame.side_data.get(name) for name in ('CONTENT_LIGHT_LEVEL', 'MASTERING_DISPLAY_METADATA'))
    candela = 0.
    if content is not None: candela = float(np.frombuffer(bytes(content)[:4], np.uint32)[0])
    if not candela and screen is not None:
        numbers = np.frombuffer(bytes(screen)[:88], np.int32)
        if numbers[21] and numbers[19]: candela = numbers[18] / numbers[19]
    return candela / PAPER_WHITE if PAPER_WHITE <= candela <= 10000 else MAX_PEAK
