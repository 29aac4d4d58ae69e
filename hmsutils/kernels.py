"""Loops that NumPy has no words for, compiled by numba, which comes with librosa.

Everything here has a reference in SciPy or NumPy that the tests compare it with, and that is used
where numba is missing.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.polynomial import Chebyshev, Polynomial

_AMIN, _TOP = np.float32(1e-10), np.float32(1e-8)
_CACHED = 16_384  # numbers of a block of frames
# log2(1.5 + t) for |t| <= 0.5 within 1e-6, constant first
_LOG2 = Chebyshev.interpolate(lambda t: np.log2(1.5 + t), 8, (-0.5, 0.5)).convert(kind=Polynomial)
_C0, _C1, _C2, _C3, _C4, _C5, _C6, _C7, _C8 = _LOG2.coef.astype(np.float32)


@njit(cache=True, fastmath=True)
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


@njit(cache=True, fastmath=True, nogil=True)
def sosfiltfilt(sos, zi, edge, x):
    """Zero-phase filter of (N, C, T) float32, as `scipy.signal.sosfiltfilt` along T.

    Args:
        sos: (sections, 6) float64.
        zi: (sections, 2) of `scipy.signal.sosfilt_zi`.
        edge: samples of the odd extension at both ends.

    Returns:
        (N, C, T) float32; computed in float64.
    """
    n, channels, length = x.shape
    out = np.empty(x.shape, np.float32)
    long = np.empty((length + 2 * edge, channels))
    state = np.empty((sos.shape[0], 2, channels))
    for i in range(n):
        long[edge : edge + length] = x[i].T
        for t in range(edge):
            long[t] = 2 * long[edge] - long[2 * edge - t]
            long[length + edge + t] = 2 * long[length + edge - 1] - long[length + edge - 2 - t]
        for backwards in (False, True):
            for s in range(sos.shape[0]):
                for k in range(2):
                    state[s, k] = zi[s, k] * long[-1 if backwards else 0]
            _sosfilt(sos, state, long, backwards)
        out[i].T[:] = long[edge : edge + length]
    return out


@njit(cache=True, fastmath=True)
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


@njit(cache=True, fastmath=True)
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


@njit(cache=True, fastmath=True)
def _add_log2(power, floor, top, out):
    """Add log2(max(power, floor) / top): the exponent of a float32, a polynomial of the rest.

    LLVM has no vector logarithm of its own; this loop is one.
    """
    per_top = np.float32(1) / top
    for m in range(power.shape[0]):
        for i in range(power.shape[1]):
            bits = np.float32(max(power[m, i], floor) * per_top).view(np.int32)
            t = np.int32((bits & 0x7FFFFF) | 0x3F800000).view(np.float32) - np.float32(1.5)
            y = _C8
            for c in (_C7, _C6, _C5, _C4, _C3, _C2, _C1, _C0):
                y = y * t + c
            out[m, i] += y + np.float32((bits >> 23) - 127)


@njit(cache=True, fastmath=True, nogil=True)
def mel_db(x, hop, project, cosines, sines, bands, bins, weights, reference, out):
    """Log-mel spectrograms in dB, averaged over groups of signals, as `spectrograms.log_mel`.

    Hann windows are symmetric: the cosines need only the sum of the samples to both sides of the
    middle, the sines the difference. A block of frames stays in the cache from samples to power.

    Args:
        x: (S, T) float32 without NaN.
        project, cosines, sines: of `spectrograms.mel_matrices`, for an even window.
        bands, bins, weights: its mel bands, `indptr, indices, data` of a CSR matrix.
        reference: power that is 0 dB; 0: the maximum of each signal, and nothing 80 dB under it.
        out: (groups, n_mels, frames) float32, overwritten; S a multiple of its groups.
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
        top, floor = np.float32(reference), _AMIN
        if reference == 0:
            top = tops.max()
            floor = max(top * _TOP, _AMIN)
        _add_log2(power, floor, top, out[s * len(out) // len(x)])
    out *= np.float32(10 * np.log10(2) * len(out) / len(x))


@intrinsic
def _single(_, value):
    """The bits of a half, or a float32 as it is, → float32."""

    def codegen(context, builder, signature, args):
        if value == types.float32:
            return args[0]
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(value), codegen


@njit(cache=True, nogil=True)
def _load(x, item, row, channels, gain, j, offset, low, high, share, line, s, pad):
    """A row of `x` → the middle of line[s] (C, pad + W + pad). A constant C makes it vectors."""
    count = line.shape[1]
    width = x.shape[2] // count
    if count == 3 and channels[j, 0] == 0 and channels[j, 1] == 1:
        a, b, c = share * gain[j, 0], share * gain[j, 1], share * gain[j, 2]
        for w in range(width):
            line[s, 0, pad + w] = a * min(max(_single(x[item, row, 3 * w]) + offset, low), high)
            line[s, 1, pad + w] = b * min(max(_single(x[item, row, 3 * w + 1]) + offset, low), high)
            line[s, 2, pad + w] = c * min(max(_single(x[item, row, 3 * w + 2]) + offset, low), high)
    else:
        for c in range(count):
            channel, a = channels[j, c], share * gain[j, c]
            for w in range(width):
                value = _single(x[item, row, count * w + channel]) + offset
                line[s, c, pad + w] = a * min(max(value, low), high)


@njit(cache=True, nogil=True)
def _fill(line, s, c, start, stop, value):
    for w in range(start, stop):
        line[s, c, w] = value


@njit(cache=True, nogil=True)
def _add(line, start, i, j, out, row):
    """Both lines, each channel from its own start on → a row of out[i]."""
    count = line.shape[1]
    width = out.shape[2] // count
    if count == 3:
        a, b, c = start[i, 0], start[i, 1], start[i, 2]
        d, e, f = start[j, 0], start[j, 1], start[j, 2]
        for w in range(width):
            out[i, row, 3 * w] = line[0, 0, a + w] + line[1, 0, d + w]
            out[i, row, 3 * w + 1] = line[0, 1, b + w] + line[1, 1, e + w]
            out[i, row, 3 * w + 2] = line[0, 2, c + w] + line[1, 2, f + w]
    else:
        for c in range(count):
            a, d = start[i, c], start[j, c]
            for w in range(width):
                out[i, row, count * w + c] = line[0, c, a + w] + line[1, c, d + w]


@njit(cache=True, nogil=True)
def show(x, item, rows, channels, shift, silent, offset, limits, gain, partner, share, out):
    """`augment.View` in one pass: x (M, H, W · C) halves' bits or float32 → out (N, H, W · C).

    Arrays are indexed in whole and starts are unsigned: slices would be counted and signs tested.
    """
    n, count = shift.shape
    width = x.shape[2] // count
    pad = np.uint32(np.abs(shift).max() if n else 0)
    start = (pad - shift).astype(np.uint32)
    line = np.zeros((2, count, width + 2 * pad), np.float32)
    for i in range(n):
        shares = share[i], np.float32(1) - share[i]
        line[1] = 0
        for row in range(out.shape[1]):
            for s in range(2 if shares[1] else 1):
                j = partner[i] if s else i
                if rows[j, row] < 0:
                    line[s] = 0
                    continue
                _load(
                    x, item[j], rows[j, row], channels, gain, j, offset[j], limits[0], limits[1],
                    shares[s], line, s, pad,
                )  # fmt: skip
                for c in range(count):
                    a = start[j, c]
                    _fill(line, s, c, a, pad, line[s, c, pad])
                    _fill(line, s, c, pad + width, a + width, line[s, c, pad + width - 1])
                    _fill(line, s, c, a + silent[j, 0], a + silent[j, 1], 0)
            _add(line, start, i, partner[i], out, row)
