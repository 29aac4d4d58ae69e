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

_LOST = np.int32(2**31 - 1)  # instead of NaN, beyond all numbers
_AMIN, _TOP = np.float32(1e-10), np.float32(1e-8)
_CACHED = 16_384  # numbers of a block of frames
# Unsigned, so that an index cannot be negative: numba's check would keep LLVM from vectors.
_0, _1, _2, _3 = np.arange(4, dtype=np.uint64)
_LANES, _ROW, _BLOCK = np.uint64(20), np.uint64(80), np.uint64(32)  # of `_sosfilt`
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


@partial(compiled, fastmath={"contract"})
def _sosfilt(sos, zi, x, last, backwards):
    """Three second-order sections over x (T, _LANES) in place, as if its first sample had always
    been there. `last` holds what goes into each section and what comes out, for a block of samples
    and the two before: one flat array, so that LLVM sees what overlaps, and makes vectors."""
    n = np.uint64(len(x))
    for c in range(_LANES):
        level = first = x[n - _1 if backwards else _0, c]
        last[c] = last[_ROW + c] = level
        for s in range(_3):
            level = sos[s, 0] * level + zi[s, 0] * first
            last[(s + _1) * _LANES + c] = last[_ROW + (s + _1) * _LANES + c] = level
    for start in range(_0, n, _BLOCK):
        count = min(_BLOCK, n - start)
        for i in range(count):
            t, row = n - _1 - start - i if backwards else start + i, (i + _2) * _ROW
            for c in range(_LANES):
                last[row + c] = x[t, c]
        for s in range(_3):
            b0, b1, b2, a1, a2 = sos[s, 0], sos[s, 1], sos[s, 2], sos[s, 4], sos[s, 5]
            for i in range(count):
                row = (i + _2) * _ROW + s * _LANES
                for k in range(row, row + _LANES):
                    y = b0 * last[k] + b1 * last[k - _ROW] + b2 * last[k - _2 * _ROW]
                    y -= a2 * last[k + _LANES - _2 * _ROW]
                    last[k + _LANES] = y - a1 * last[k + _LANES - _ROW]
        for i in range(count):
            t, row = n - _1 - start - i if backwards else start + i, (i + _3) * _ROW - _LANES
            for c in range(_LANES):
                x[t, c] = last[row + c]
        for k in range(_2 * _ROW):
            last[k] = last[count * _ROW + k]


@partial(compiled, fastmath=True)
def sosfiltfilt(sos, zi, edge, x):
    """`scipy.signal.sosfiltfilt` along T: (N, C, T) float32, computed in float64; three sections
    `sos`, `zi` of `sosfilt_zi`, `edge` samples of odd extension at both ends."""
    rows, out, n = x.reshape(-1, x.shape[2]), np.empty(x.shape, np.float32), int(_LANES)
    long, last = np.zeros((x.shape[2] + 2 * edge, n)), np.empty((_BLOCK + _2) * _ROW)
    for first in range(0, len(rows), n):
        some = rows[first : first + n]
        lanes = long[:, : len(some)]
        lanes[edge:-edge] = some.T
        lanes[:edge] = 2 * lanes[edge] - lanes[2 * edge : edge : -1]
        lanes[-edge:] = 2 * lanes[-edge - 1] - lanes[-edge - 2 : -2 * edge - 2 : -1]
        for backwards in (False, True):
            _sosfilt(sos, zi, long, last, backwards)
        out.reshape(rows.shape)[first : first + n].T[:] = lanes[edge:-edge]
    return out


@compiled
def _count(keys, below):
    n = 0
    for i in range(len(keys)):  # `for key in keys` would make no vectors
        n += keys[i] < below
    return n


@compiled
def medians(x):
    """(C,) `np.nanmedian` along the last axis of (C, T) float32; 0 where all is NaN. A float's bits
    are a whole number in the same order: that of the median is found bit by bit, by counting."""
    out, keys = np.zeros(len(x), np.float32), np.empty(x.shape[1], np.int32)
    for c in range(len(x)):
        for t in range(len(keys)):
            bits = np.float32(x[c, t]).view(np.int32)
            keys[t] = _LOST if np.isnan(x[c, t]) else bits ^ ((bits >> 31) & _LOST)
        n, low = _count(keys, _LOST), -(2**31)
        for bit in range(31, -1, -1):
            if _count(keys, np.int32(low + (1 << bit))) <= (n - 1) // 2:
                low += 1 << bit
        high = low
        if _count(keys, np.int32(low + 1)) <= n // 2:
            high = keys[keys > low].min()
        if n:
            pair = [np.int32(k ^ ((k >> 31) & _LOST)).view(np.float32) for k in (low, high)]
            out[c] = (pair[0] + pair[1]) / np.float32(2)
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
def _fold(x, centre, hop, even, odd):
    """Sums and differences of the samples to both sides of `centre`, `centre + hop` …; sample t of
    a signal is x[t % len(x), t // len(x)], and only those with the centre's remainder are taken."""
    for i in range(even.shape[0]):
        some, at = x[centre % len(x)], np.uint64(centre // len(x))
        for j in range(np.uint64(even.shape[1])):
            even[i, j] = some[at + j] + some[at - j]
            odd[i, j] = some[at + j] - some[at - j]
        even[i, 0] = some[at]
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
def _split(power, floor, top, exponents, fractions):
    """max(power, floor) / top as a float32 has it: add the exponents, multiply by the fractions."""
    per_top = np.float32(1) / top
    for m in range(power.shape[0]):
        for i in range(power.shape[1]):
            bits = np.float32(max(power[m, i], floor) * per_top).view(np.int32)
            fractions[m, i] *= np.int32((bits & 0x7FFFFF) | 0x3F800000).view(np.float32)
            exponents[m, i] += np.float32((bits >> 23) - 127)


@partial(compiled, fastmath=True)
def _add_log2(x, out):
    """Add log2(x): a polynomial of the fraction, as LLVM has no vector logarithm."""
    for m in range(x.shape[0]):
        for i in range(x.shape[1]):
            bits = np.float32(x[m, i]).view(np.int32)
            t = np.int32((bits & 0x7FFFFF) | 0x3F800000).view(np.float32) - np.float32(1.5)
            y = _C8
            for c in (_C7, _C6, _C5, _C4, _C3, _C2, _C1, _C0):
                y = y * t + c
            out[m, i] += y + np.float32((bits >> 23) - 127)


@partial(compiled, fastmath=True)
def _halve(x, taps, out):
    """x (T,) less its upper half of frequencies → out (2, T / 2): even samples, then odd ones."""
    low, n = (np.float32(1) - np.float32(2) * taps.sum()) * x, len(x) - 4 * len(taps)
    for k in range(len(taps)):
        tap, k = taps[k], 2 * (len(taps) - k)
        before, after, inner = x[k - 1 :], x[4 * len(taps) - k + 1 :], low[2 * len(taps) :]
        for i in range(n):
            inner[i] += tap * (before[i] + after[i])
    for i in range(np.uint64(out.shape[1])):
        out[_0, i] = low[_2 * i]
        out[_1, i] = low[_2 * i + _1]


@partial(compiled, fastmath=True)
def mel_db(x, hop, taps, project, cosines, sines, bands, bins, weights, reference, out):
    """Log-mel spectrograms in dB, averaged over groups of signals, as `spectrograms.log_mel`.

    Hann windows are symmetric: the cosines need only the sum of the samples to both sides of the
    middle, the sines the difference. A block of frames stays in the cache from samples to power.
    x (S, T) is free of NaN. Matrices and bands (`indptr, indices, data`) are those of
    `spectrograms.mel_matrices` for an even window. `taps` of a half-band filter (centre and zeros
    left out, one side): every other sample is enough; none: all are taken. `reference` is the power
    of 0 dB; 0: each signal's maximum, and nothing 80 dB under it. out (groups, n_mels, n_frames) is
    overwritten.
    """
    n_frames, edge, rank = out.shape[2], project.shape[1] // 2, cosines.shape[1]
    size, step = len(x) // len(out), 2 if len(taps) else 1
    half = edge // step
    block = min(_CACHED // half, n_frames)
    padded = np.zeros((1, x.shape[1] + 2 * edge), np.float32)
    some = np.empty((2, padded.shape[1] // 2), np.float32) if len(taps) else padded
    even, odd = np.empty((block, half), np.float32), np.empty((block, half), np.float32)
    low = np.empty((block, rank), np.float32)
    cosine = np.empty((len(cosines), block), np.float32)
    sine, tops = np.empty_like(cosine), np.empty(block, np.float32)
    power, fractions = np.empty(out.shape[1:], np.float32), np.empty(out.shape[1:], np.float32)
    chosen = np.float32(step) * project[:, edge::step]
    to_even, to_odd = chosen[:rank].T.copy(), chosen[rank:].T.copy()
    out[:] = 0
    for s in range(len(x)):
        padded[0, edge : edge + x.shape[1]] = x[s]
        if len(taps):
            _halve(padded[0], taps, some)
        tops[:] = _AMIN
        for start in range(0, n_frames, block):
            first = min(start, n_frames - block)
            _fold(some, edge + first * hop, hop, even, odd)
            np.dot(cosines, np.dot(even, to_even, low).T, cosine)
            np.dot(sines, np.dot(odd, to_odd, low).T, sine)
            _mel(cosine, sine, bands, bins, weights, tops, first, power)
        top = np.float32(reference) if reference else tops.max()
        floor = _AMIN if reference else max(top * _TOP, _AMIN)
        if s % size == 0:
            fractions[:] = 1
        _split(power, floor, top, out[s // size], fractions)
        if s % size == size - 1:
            _add_log2(fractions, out[s // size])
    out *= np.float32(10 * np.log10(2) / size)


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
