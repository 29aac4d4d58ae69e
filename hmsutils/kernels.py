"""Loops that NumPy has no words for, compiled by numba, which comes with librosa.

Everything here has a reference in SciPy or NumPy that the tests compare it with, and that is used
where numba is missing.
"""

import numpy as np
from numba import njit


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
