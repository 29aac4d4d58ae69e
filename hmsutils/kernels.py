"""Loops that NumPy has no words for, compiled by numba, which comes with librosa.

Everything here has a reference in SciPy or NumPy that the tests compare it with, and that is used
where numba is missing.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic


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


@njit(cache=True, fastmath=True)
def sosfiltfilt(sos, zi, edge, x):
    """Zero-phase filter of (N, T, C) float32, as `scipy.signal.sosfiltfilt` along T.

    Args:
        sos: (sections, 6) float64.
        zi: (sections, 2) of `scipy.signal.sosfilt_zi`.
        edge: samples of the odd extension at both ends.

    Returns:
        (N, T, C) float32; computed in float64.
    """
    n, length, channels = x.shape
    out = np.empty(x.shape, np.float32)
    long = np.empty((length + 2 * edge, channels))
    state = np.empty((sos.shape[0], 2, channels))
    for i in range(n):
        for c in range(channels):
            first, last = x[i, 0, c], x[i, length - 1, c]
            for t in range(edge):
                long[t, c] = 2 * first - x[i, edge - t, c]
                long[length + edge + t, c] = 2 * last - x[i, length - 2 - t, c]
        long[edge : edge + length] = x[i]
        for backwards in (False, True):
            for s in range(sos.shape[0]):
                for k in range(2):
                    state[s, k] = zi[s, k] * long[-1 if backwards else 0]
            _sosfilt(sos, state, long, backwards)
        out[i] = long[edge : edge + length]
    return out


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
