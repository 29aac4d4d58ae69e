"""Loops that NumPy has no function for, compiled by numba. Tests hold each equal to a reference."""

import atexit
import math
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import numpy as np
from numba import config, njit
from numpy.polynomial import Chebyshev, Polynomial

_AMIN, _TOP = np.float32(1e-10), np.float32(1e-8)
_CACHED = 16_384  # numbers of a block of frames
# log2(1.5 + t) for |t| <= 0.5 within 1e-6, constant first
_LOG2 = Chebyshev.interpolate(lambda t: np.log2(1.5 + t), 8, (-0.5, 0.5)).convert(kind=Polynomial)
_C0, _C1, _C2, _C3, _C4, _C5, _C6, _C7, _C8 = _LOG2.coef.astype(np.float32)


def compiled(function: Callable, **options) -> Callable:
    """numba's `njit`, which keeps machine code beside this file or in the user's cache folder;
    where it can write neither, a temporary one serves the functions after this, librosa's too."""
    try:
        return njit(cache=True, nogil=True, **options)(function)
    except RuntimeError:
        with suppress(OSError):
            config.CACHE_DIR = tempfile.mkdtemp(prefix="hmsutils-numba-")
            atexit.register(shutil.rmtree, config.CACHE_DIR, ignore_errors=True)
        return njit(nogil=True, **options)(function)


@partial(compiled, fastmath=True)
def _sosfilt(sos, state, x, backwards):
    """Second-order sections over (T, C) in place; `state` (sections, 2, C). Channels are lanes."""
    for i in range(x.shape[0]):
        row = x[x.shape[0] - 1 - i if backwards else i]
        for s in range(sos.shape[0]):
            b0, b1, b2, a1, a2 = sos[s, 0], sos[s, 1], sos[s, 2], sos[s, 4], sos[s, 5]
            one, two = state[s, 0], state[s, 1]
            for c in range(row.shape[0]):
                value = row[c]
                y = b0 * value + one[c]
                one[c] = b1 * value - a1 * y + two[c]
                two[c] = b2 * value - a2 * y
                row[c] = y


@partial(compiled, fastmath=True)
def sosfiltfilt(sos, zi, edge, x):
    """`scipy.signal.sosfiltfilt` along T: (N, C, T) float32, computed in float64; `sos` (sections,
    6), `zi` (sections, 2) of `sosfilt_zi`, `edge` samples of odd extension at both ends."""
    out = np.empty(x.shape, np.float32)
    long = np.empty((x.shape[2] + 2 * edge, x.shape[1]))
    state = np.empty((sos.shape[0], 2, x.shape[1]))
    for i in range(x.shape[0]):
        long[edge:-edge] = x[i].T
        long[:edge] = 2 * long[edge] - long[2 * edge : edge : -1]
        long[-edge:] = 2 * long[-edge - 1] - long[-edge - 2 : -2 * edge - 2 : -1]
        for backwards in (False, True):
            state[:] = zi[:, :, None] * long[-1 if backwards else 0]
            _sosfilt(sos, state, long, backwards)
        out[i].T[:] = long[edge:-edge]
    return out


@partial(compiled, fastmath={"contract", "reassoc"})  # NaN stays NaN
def interpolate(x, at, width, taps, zeros):
    """(C, T) float32 of x (C, N) at the times `at` (T,), in samples, low-passed: `taps` are half a
    symmetric filter of `zeros` zero crossings, `width` samples apart. The ends of x go on."""
    out, last = np.empty((x.shape[0], len(at)), np.float32), x.shape[1] - 1
    fine, reach = (len(taps) - 1) / zeros / width, zeros * width
    weights = np.empty(int(2 * reach) + 2, np.float32)
    for i in range(len(at)):
        begin, stop, total = math.ceil(at[i] - reach), math.floor(at[i] + reach) + 1, 0.0
        first, weights[:] = min(max(begin, 0), last), 0
        for j in range(begin, stop):
            place = abs(j - at[i]) * fine
            k = min(int(place), len(taps) - 2)
            weight = taps[k] + (place - k) * (taps[k + 1] - taps[k])
            weights[min(max(j, 0), last) - first] += weight
            total += weight
        n = min(max(stop - 1, 0), last) - first + 1
        for c in range(x.shape[0]):
            row, value = x[c, first : first + n], np.float32(0)
            for j in range(n):
                value += weights[j] * row[j]
            out[c, i] = value / total
    return out


@partial(compiled, fastmath=True)
def _fold(x, x_backwards, centre, hop, even, odd):
    """Sums and differences of the samples to both sides of `centre`, `centre + hop` …"""
    half = even.shape[1]
    for i in range(even.shape[0]):
        after, before = x[centre : centre + half], x_backwards[-1 - centre :][:half]
        for j in range(half):
            even[i, j] = after[j] + before[j]
            odd[i, j] = after[j] - before[j]
        even[i, 0] = x[centre]
        centre += hop


@partial(compiled, fastmath=True)
def _mel(cosine, sine, bands, bins, weights, tops, first, power):
    """Power of the bands, `first` and the following frames; `tops` keeps the largest of each."""
    for band in range(power.shape[0]):
        row = power[band, first : first + cosine.shape[1]]
        row[:] = 0
        for k in range(bands[band], bands[band + 1]):
            c, s, weight = cosine[bins[k]], sine[bins[k]], weights[k]
            for i in range(row.shape[0]):
                row[i] += weight * (c[i] * c[i] + s[i] * s[i])
        for i in range(row.shape[0]):
            tops[i] = max(tops[i], row[i])


@partial(compiled, fastmath=True)
def _add_log2(power, floor, top, out):
    """Add log2(max(power, floor) / top): a float32's exponent and a polynomial of its fraction, as
    LLVM has no vector logarithm."""
    per_top = np.float32(1) / top
    for m in range(power.shape[0]):
        for i in range(power.shape[1]):
            bits = np.float32(max(power[m, i], floor) * per_top).view(np.int32)
            t = np.int32((bits & 0x7FFFFF) | 0x3F800000).view(np.float32) - np.float32(1.5)
            y = _C8
            for c in (_C7, _C6, _C5, _C4, _C3, _C2, _C1, _C0):
                y = y * t + c
            out[m, i] += y + np.float32((bits >> 23) - 127)


@partial(compiled, fastmath=True)
def mel_db(x, hop, project, cosines, sines, bands, bins, weights, reference, out):
    """Log-mel spectrograms in dB, averaged over groups of signals, as `spectrograms.log_mel`.

    Hann windows are symmetric: the cosines need only the sum of the samples to both sides of the
    middle, the sines the difference. A block of frames stays in the cache from samples to power.
    x (S, T) is free of NaN. Matrices and bands (`indptr, indices, data`) are those of
    `spectrograms.mel_matrices` for an even window. `reference` is the power of 0 dB; 0: each
    signal's maximum, and nothing 80 dB under it. out (groups, n_mels, n_frames) is overwritten.
    """
    n_frames, half, rank = out.shape[2], project.shape[1] // 2, cosines.shape[1]
    block = min(_CACHED // half, n_frames)
    padded = np.zeros(x.shape[1] + 2 * half, np.float32)
    even, odd = np.empty((block, half), np.float32), np.empty((block, half), np.float32)
    low = np.empty((block, rank), np.float32)
    cosine = np.empty((len(cosines), block), np.float32)
    sine, tops = np.empty_like(cosine), np.empty(block, np.float32)
    power = np.empty(out.shape[1:], np.float32)
    to_even = np.ascontiguousarray(project[:rank, half:].T)
    to_odd = np.ascontiguousarray(project[rank:, half:].T)
    out[:] = 0
    for s in range(len(x)):
        padded[half : half + x.shape[1]] = x[s]
        backwards = padded[::-1].copy()
        tops[:] = _AMIN
        for start in range(0, n_frames, block):
            first = min(start, n_frames - block)
            _fold(padded, backwards, half + first * hop, hop, even, odd)
            np.dot(cosines, np.dot(even, to_even, low).T, cosine)
            np.dot(sines, np.dot(odd, to_odd, low).T, sine)
            _mel(cosine, sine, bands, bins, weights, tops, first, power)
        top = np.float32(reference) if reference else tops.max()
        floor = _AMIN if reference else max(top * _TOP, _AMIN)
        _add_log2(power, floor, top, out[s * len(out) // len(x)])
    out *= np.float32(10 * np.log10(2) * len(out) / len(x))


@compiled
def _tables(channels, shift, mask, gain, weight, j, s, factor, index):
    """A row of item j is decoded times `factor[s]`, then read at `index[s]`. A decoded row is
    (W · C) and one more, which is zero: masked columns are read there."""
    count, width = channels.shape[1], index.shape[1] // channels.shape[1]
    k = np.uint32(0)
    for w in range(width):
        for c in range(count):
            factor[s, k] = weight * gain[j, c]
            index[s, k] = min(max(w - shift[j, c], 0), width - 1) * count + channels[j, c]
            k += np.uint32(1)
    index[s, mask[j, 0] * count : mask[j, 1] * count] = width * count


@compiled
def _decode(x, step, item, row, offset, limits, factor, s, decoded):
    low, high = limits[0], limits[1]
    for k in range(x.shape[2]):
        value = np.float32(x[item, row, k]) * step + offset
        decoded[s, k] = factor[s, k] * min(max(value, low), high)


@compiled
def _put(decoded, index, n_sources, out, i, row):
    if n_sources == 1:
        for k in range(out.shape[2]):
            out[i, row, k] = decoded[0, index[0, k]]
    else:
        for k in range(out.shape[2]):
            out[i, row, k] = decoded[0, index[0, k]] + decoded[1, index[1, k]]


@compiled
def render(x, step, item, rows, channels, shift, mask, offset, limits, gain, partner, weight, out):
    """`augment.BatchPlan` in one pass: x (M, H, W · C) as stored → out (N, H, W · C) float32.
    Arrays are indexed as a whole, because numba counts the references to a slice."""
    length = x.shape[2]
    decoded, factor = np.zeros((2, length + 1), np.float32), np.empty((2, length), np.float32)
    index = np.empty((2, length), np.uint32)
    for i in range(len(item)):
        sources, weights = (i, partner[i]), (weight[i], np.float32(1) - weight[i])
        n_sources = 2 if weights[1] else 1
        for s in range(n_sources):
            _tables(channels, shift, mask, gain, weights[s], sources[s], s, factor, index)
        for row in range(out.shape[1]):
            for s in range(n_sources):
                j = sources[s]
                if rows[j, row] < 0:
                    decoded[s] = 0
                else:
                    _decode(x, step, item[j], rows[j, row], offset[j], limits, factor, s, decoded)
            _put(decoded, index, n_sources, out, i, row)
