"""Figures of every stage, drawn on the axes they are given or on their own, and returned."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from hmsutils.competition import CLASSES, SFREQ_HZ
from hmsutils.representations import Image
from hmsutils.signals import CHAIN_PAIRS, DOUBLE_BANANA, bandpass, montage, repair, to_time_last
from hmsutils.spectrograms import MEL_REGIONS, OFFICIAL_REGIONS

# Left over right, lateral before parasagittal, midline last: as a clinician reads the montage.
_READING_ORDER = [pair for chain in ("LL", "RL", "LP", "RP") for pair in CHAIN_PAIRS[chain]]
_READING_ORDER += [("Fz", "Cz"), ("Cz", "Pz")]


def plot_eeg(
    eeg_uv: np.ndarray, title: str = "", *, start_s: float = 20.0, seconds: float = 10.0, ax=None,
    saliency: np.ndarray | None = None, truth: np.ndarray | None = None,
):  # fmt: skip
    """A page of EEG (T, 20) in raw microvolts, NaN allowed, as a clinician sees it: longitudinal
    bipolar montage, 0.5–40 Hz, negative up. The default is the labelled centre of 50 s.

    (18, T in seconds) in the order of `DOUBLE_BANANA`, `saliency` is shaded behind the traces, the
    darker the larger, and a green line lies under the traces where `truth` is True."""
    ax = ax or plt.subplots(figsize=(8, 6))[1]
    clean = bandpass(repair(to_time_last(eeg_uv, "plot_eeg")), 0.5, 40.0)
    page = slice(round(start_s * SFREQ_HZ), round((start_s + seconds) * SFREQ_HZ))
    traces, ekg = montage(clean, _READING_ORDER)[0, :, page], clean[0, -1, page]
    step = max(60.0, 4 * float(np.median(traces.std(axis=1))))
    t = start_s + np.arange(len(ekg)) / SFREQ_HZ
    gaps = [1.6 if i and i % 4 == 0 else 1.0 for i in range(len(traces))]
    *levels, y = (-step * np.cumsum([*gaps, 1.8])).tolist()
    for i, (level, trace) in enumerate(zip(levels, traces, strict=True)):
        colour = "#1f3b73" if 4 <= i < 8 or 12 <= i < 16 else "#222222"
        ax.plot(t, level - np.clip(trace, -3 * step, 3 * step), lw=0.5, color=colour)
        row, low, high = DOUBLE_BANANA.index(_READING_ORDER[i]), level - step / 2, level + step / 2
        if saliency is not None:
            style = {"cmap": "Oranges", "vmin": 0, "vmax": np.max(saliency), "aspect": "auto"}
            ax.imshow(saliency[[row]], extent=(0, saliency.shape[1], low, high), zorder=-1, **style)
        if truth is not None:
            edges = np.flatnonzero(np.diff(truth[row], prepend=False, append=False))
            ax.hlines([low] * (len(edges) // 2), edges[::2], edges[1::2], color="#2a8a3a", lw=2)
    ax.plot(t, y + ekg / max(np.abs(ekg).max(), 1e-6) * step * 0.8, lw=0.5, color="#b03030")
    ax.set_yticks([*levels, y], [*map("–".join, _READING_ORDER), "EKG"], fontsize=6)
    ax.tick_params(axis="y", length=0)
    ax.set(xlim=(t[0], t[-1]), ylim=(y - 1.5 * step, 0), xlabel="time (s)")
    for second in range(int(np.ceil(t[0])), int(t[-1]) + 1):
        ax.axvline(second, color="#d8d8d8", lw=0.4, zorder=0)
    ax.plot([t[-1] * 1.002] * 2, [y, y + 100], color="k", lw=2, clip_on=False)
    ax.annotate("100 µV", (t[-1] * 1.004, y + 20), fontsize=6, rotation=90, annotation_clip=False)
    ax.set_title(title, fontsize=9)
    ax.spines[["top", "right", "left"]].set_visible(False)
    return ax.figure


def plot_official(power: np.ndarray, title: str = "", axes=None):
    """The official 10-minute spectrogram (300, 4, 100) in µV²/Hz, NaN allowed, one panel per
    region; the labelled 50 s lie between the lines."""
    if axes is None:
        _, axes = plt.subplots(4, 1, figsize=(8, 5), sharex=True, layout="constrained")
    db = 10 * np.log10(np.maximum(power, 1e-2))
    low, high = np.nanpercentile(db, [2, 99.5])
    for ax, region, values in zip(axes, OFFICIAL_REGIONS, np.moveaxis(db, 1, 0), strict=True):
        mesh = ax.imshow(values.T, origin="lower", aspect="auto", extent=(0, 600, 0.6, 20))
        mesh.set_clim(low, high)
        for edge_s in (275, 325):
            ax.axvline(edge_s, color="w", lw=0.8, ls="--")
        ax.set_ylabel(f"{region}\nHz", fontsize=8)
    axes[-1].set_xlabel("time (s)")
    axes[0].set_title(title, fontsize=9)
    axes[0].figure.colorbar(mesh, ax=list(axes), label="dB re 1 µV²/Hz", fraction=0.03)
    return axes[0].figure


def plot_image(
    image: np.ndarray, title: str = "", config: Image = Image(), axes=None, *,
    cam: np.ndarray | None = None,
):  # fmt: skip
    """The crops of one model image (H, W, crops), values in [0, 1] or as stored; each fades
    towards white where `cam` (H, W), if given, is small."""
    if axes is None:
        _, axes = plt.subplots(1, image.shape[-1], figsize=(10, 3), layout="constrained")
    height = len(image) // len(MEL_REGIONS)
    crops = np.moveaxis(config.decode(image) if image.dtype == config.stored_as else image, -1, 0)
    for ax, crop, duration_s in zip(axes, crops, config.durations_s, strict=True):
        extent = (25 - duration_s / 2, 25 + duration_s / 2, len(image), 0)
        ax.imshow(crop, aspect="auto", extent=extent, vmin=0, vmax=1, interpolation="nearest")
        if cam is not None:
            veil = 0.85 * (1 - cam / max(cam.max(), 1e-30))
            ax.imshow(np.zeros_like(cam), "gray_r", alpha=veil, aspect="auto", extent=extent)
        ax.set_yticks([height * (i + 0.5) for i in range(4)], MEL_REGIONS, fontsize=7)
        for i in range(1, len(MEL_REGIONS)):
            ax.axhline(height * i, color="w", lw=0.8)
        ax.set_xlabel(f"{duration_s:g} s", fontsize=7)
        ax.tick_params(axis="x", labelsize=6)
    axes[0].set_title(title, fontsize=9, loc="left")
    return axes[0].figure


def plot_history(histories: dict[str, pd.DataFrame]):
    """Training loss and held-out KL of every epoch, one colour per model (`runs.Run.history`)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
    for i, (name, history) in enumerate(histories.items()):
        curve = history.groupby("epoch")[["loss", "val_kl"]].mean()
        left.plot(curve.index + 1, curve["loss"], ".-", color=f"C{i}", label=name)
        right.plot(curve.index + 1, curve["val_kl"], ".-", color=f"C{i}")
    left.set(xlabel="epoch", ylabel="KL on augmented batches", title="training")
    right.set(xlabel="epoch", ylabel="KL on held-out patients", title="held out")
    for ax in (left, right):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.legend(loc="outside right center", fontsize=7, frameon=False)
    return figure


def plot_comparison(table: pd.DataFrame):
    """KL and accuracy with 95 % intervals, one line per row of `evaluation.compare`."""
    size = (9, 0.32 * len(table) + 1)
    figure, axes = plt.subplots(1, 2, figsize=size, sharey=True, layout="constrained")
    y = np.arange(len(table))[::-1]
    for ax, metric, better in zip(axes, ("KL", "accuracy"), ("←", "→"), strict=True):
        ax.hlines(y, table[f"{metric} low"], table[f"{metric} high"], color="#9aa5b1", lw=3)
        ax.plot(table[metric], y, "o", color="#1f3b73", ms=5)
        ax.set_xlabel(f"{metric} ({better} better), 95 % interval over patients", fontsize=8)
        ax.set_yticks(y, table.index, fontsize=8)
        ax.grid(axis="x", color="#e5e5e5")
    return figure


def plot_confusion(matrix: np.ndarray, title: str = "", ax=None):
    """Confusion matrix (6, 6) of counts; colours are shares of the experts' class."""
    ax = ax or plt.subplots(figsize=(3.8, 3.6), layout="constrained")[1]
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (i, j), count in np.ndenumerate(matrix):
        colour = "k" if share[i, j] < 0.6 else "w"
        ax.text(j, i, count, ha="center", va="center", fontsize=7, color=colour)
    ax.set_xticks(range(len(CLASSES)), CLASSES, rotation=45, fontsize=7)
    ax.set_yticks(range(len(CLASSES)), CLASSES, fontsize=7)
    ax.set(xlabel="model", ylabel="experts")
    ax.set_title(title, fontsize=9)
    return ax.figure


def plot_reliability(bins: dict[str, pd.DataFrame], ax=None):
    """Mean vote share against mean predicted probability, from `evaluation.reliability`."""
    ax = ax or plt.subplots(figsize=(3.8, 3.6), layout="constrained")[1]
    ax.plot([0, 1], [0, 1], color="#bbbbbb", lw=1)
    for name, table in bins.items():
        ax.plot(table["prediction"], table["votes"], "o-", ms=4, lw=1, label=name)
    ax.set(xlabel="predicted probability", ylabel="share of votes", xlim=(0, 1), ylim=(0, 1))
    ax.legend(fontsize=7, frameon=False)
    return ax.figure


def plot_votes(target: np.ndarray, predictions: dict[str, np.ndarray], title: str = "", ax=None):
    """Votes (6,) beside the probabilities (6,) of one or more models."""
    ax = ax or plt.subplots(figsize=(4, 2.2), layout="constrained")[1]
    series = {"experts": target, **predictions}
    width = 0.8 / len(series)
    for i, (name, values) in enumerate(series.items()):
        colour = "#222222" if name == "experts" else f"C{i - 1}"
        x = np.arange(len(CLASSES)) + (i - (len(series) - 1) / 2) * width
        ax.bar(x, values, width, color=colour)
        ax.plot([], [], "s", color=colour, label=name)
    ax.set_xticks(range(len(CLASSES)), CLASSES, fontsize=7, rotation=30)
    ax.set_ylim(0, 1)
    ax.set_title(title, fontsize=8)
    ax.legend(fontsize=6, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return ax.figure
