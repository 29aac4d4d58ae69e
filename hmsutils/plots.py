"""Figures of every stage, drawn on the axes they are given or on their own, and returned."""

import base64
import io
from datetime import datetime, timedelta

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from threadpoolctl import threadpool_limits

from hmsutils.competition import CLASSES, SFREQ_HZ
from hmsutils.events import PATTERNS, EventConfig, per_second
from hmsutils.recordings import Recording
from hmsutils.representations import Image
from hmsutils.signals import (
    CHAIN_PAIRS,
    DOUBLE_BANANA,
    N_SCALP,
    bandpass,
    montage,
    repair,
    to_time_last,
)
from hmsutils.spectrograms import MEL_REGIONS, OFFICIAL_REGIONS, regional_multitaper

MAX_COLUMNS = 1500  # of a picture of a whole recording
COLOURS = ("#c0271d", "#d97706", "#7b3fa0", "#1f6fb4", "#1a8a72", "#8a8f98")  # of CLASSES
_REGIONS = {"LL": "left\ntemporal", "RL": "right\ntemporal"}
_REGIONS |= {"LP": "left\nparasagittal", "RP": "right\nparasagittal"}
_STEPS_S = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14_400, 43_200, 86_400)

# Left over right, lateral before parasagittal, midline last: as a clinician reads the montage.
READING_ORDER = [pair for chain in ("LL", "RL", "LP", "RP") for pair in CHAIN_PAIRS[chain]]
READING_ORDER += [("Fz", "Cz"), ("Cz", "Pz")]


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
    traces, ekg = montage(clean, READING_ORDER)[0, :, page], clean[0, -1, page]
    step = max(60.0, 4 * float(np.median(traces.std(axis=1))))
    t = start_s + np.arange(len(ekg)) / SFREQ_HZ
    gaps = [1.6 if i and i % 4 == 0 else 1.0 for i in range(len(traces))]
    *levels, y = (-step * np.cumsum([*gaps, 1.8])).tolist()
    for i, (level, trace) in enumerate(zip(levels, traces, strict=True)):
        colour = "#1f3b73" if 4 <= i < 8 or 12 <= i < 16 else "#222222"
        ax.plot(t, level - np.clip(trace, -3 * step, 3 * step), lw=0.5, color=colour)
        row, low, high = DOUBLE_BANANA.index(READING_ORDER[i]), level - step / 2, level + step / 2
        if saliency is not None:
            style = {"cmap": "Oranges", "vmin": 0, "vmax": 1.6 * np.max(saliency), "aspect": "auto"}
            ax.imshow(saliency[[row]], extent=(0, saliency.shape[1], low, high), zorder=-1, **style)
        if truth is not None:
            edges = np.flatnonzero(np.diff(truth[row], prepend=False, append=False))
            ax.hlines([low] * (len(edges) // 2), edges[::2], edges[1::2], color="#2a8a3a", lw=2)
    ax.plot(t, y + ekg / max(np.abs(ekg).max(), 1e-6) * step * 0.8, lw=0.5, color="#b03030")
    ax.set_yticks([*levels, y], [*map("–".join, READING_ORDER), "EKG"], fontsize=6)
    ax.tick_params(axis="y", length=0)
    ax.set(xlim=(t[0], t[-1]), ylim=(y - 1.5 * step, 0), xlabel="time (s)")
    for second in range(int(np.ceil(t[0])), int(t[-1]) + 1):
        ax.axvline(second, color="#d8d8d8", lw=0.4, zorder=0)
    ax.plot([t[-1] * 1.002] * 2, [y, y + 100], color="k", lw=2, clip_on=False)
    ax.annotate("100 µV", (t[-1] * 1.004, y + 20), fontsize=6, rotation=90, annotation_clip=False)
    ax.set_title(title, fontsize=9)
    ax.spines[["top", "right", "left"]].set_visible(False)
    return ax.figure


@threadpool_limits.wrap(limits=1)  # many small products: 50 times faster
def recording_db(recording: Recording) -> np.ndarray:
    """(columns, 4, 100) dB of 1 µV²/Hz: `regional_multitaper` of a whole recording, read and
    repaired minute by minute, in at most `MAX_COLUMNS` of 2 s or more each; NaN without EEG."""
    n = int(np.clip(recording.duration_s / 2, 1, MAX_COLUMNS))
    total, count = np.zeros((n, 4, 100)), np.zeros((n, 4, 1))
    for start_s, piece in recording.pieces(62, overlap_s=2):
        if len(piece) < 4 * SFREQ_HZ:
            continue
        power = regional_multitaper(repair(piece.T[None])[0].T)[0]
        seen = power.mean(axis=2, keepdims=True) > 1e-4  # less is no EEG
        db = np.where(seen, 10 * np.log10(np.maximum(power, 1e-10)), 0)
        for half_s in (1, 3):  # a window of 4 s is in two columns of 2 s
            at_s = start_s + 2 * np.arange(len(db)) + half_s
            column = (at_s * n / recording.duration_s).astype(int).clip(0, n - 1)
            np.add.at(total, column, db)
            np.add.at(count, column, seen)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def plot_timeline(
    recording: Recording, table: pd.DataFrame, events: pd.DataFrame,
    config: EventConfig = EventConfig(),
):  # fmt: skip
    """A whole recording: of each class the largest probability in every column, dotted the two
    thresholds of an event, with the events as bars above, numbered as in `events` from 1;
    `recording_db`; the good electrodes and the share of time that is lost. Grey: no prediction, or
    no EEG.

    `table`, `events`: of `inference.predict_recording` and, with this `config`,
    `events.find_events`."""
    heights = [1.0] * len(CLASSES) + [1.5] * len(OFFICIAL_REGIONS) + [0.8] * 2
    figure = Figure(figsize=(10, 0.5 * sum(heights) + 0.9), dpi=130, layout="constrained")
    grid = figure.add_gridspec(len(heights), 2, height_ratios=heights, width_ratios=(1, 0.012))
    axes = [figure.add_subplot(grid[i, 0]) for i in range(len(heights))]
    names = [*CLASSES, *(f"{_REGIONS[x]}\n(Hz)" for x in OFFICIAL_REGIONS)]
    for ax, name in zip(axes, [*names, "good\nelectrodes", "time lost"], strict=True):
        ax.set_xlim(0, recording.duration_s)
        ax.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        ax.tick_params(labelsize=7)
        ax.spines[["top", "right"]].set_visible(False)
    seconds = max(1, int(np.ceil(recording.duration_s)))
    p = np.full((seconds, len(CLASSES)), np.nan)
    found = per_second(table)[:seconds]
    p[: len(found)] = found
    for name, ax, values, colour in zip(CLASSES, axes, p.T, COLOURS, strict=False):
        _fill(ax, values, np.fmax, colour)
        _mark(ax, events[events["event"] == name], recording.duration_s, colour)
        for threshold in (config.on, config.off) if name in PATTERNS else ():
            ax.axhline(threshold, color="#555555", lw=0.5, ls=":")
    regions = axes[len(CLASSES) : -2]
    bar = figure.add_subplot(grid[len(CLASSES) : -2, 1])
    _plot_regions(regions, recording_db(recording), recording.duration_s, bar)
    at = np.arange(seconds)
    row = table["start_s"].searchsorted(at, "right") - 1
    inside = (row >= 0) & (at < table["end_s"].to_numpy()[row])
    for ax, name, worst in (axes[-2], "n_electrodes", np.fmin), (axes[-1], "lost", np.fmax):
        _fill(ax, np.where(inside, table[name].to_numpy()[row], np.nan), worst, "#5b6b7b")
    axes[-2].set(ylim=(0, N_SCALP), yticks=(0, N_SCALP))
    axes[-1].set(ylim=(0, 1), yticks=(0, 1), yticklabels=("0 %", "100 %"))
    figure.align_ylabels(axes)
    _time_axes(axes, recording.duration_s, recording.start)
    return figure


def _fill(ax, values: np.ndarray, worst: np.ufunc, colour: str) -> None:
    """(S,) values of every second as an area of at most `MAX_COLUMNS`; grey where they are NaN."""
    n = min(len(values), MAX_COLUMNS)
    edges = np.arange(n + 1) * len(values) // n
    columns = worst.reduceat(values, edges[:-1])
    ax.stairs(np.where(np.isnan(columns), 100, np.nan), edges, fill=True, color="#d8d8d8")
    ax.stairs(columns, edges, fill=True, color=colour)


def _mark(ax, events: pd.DataFrame, duration_s: float, colour: str) -> None:
    """Bars and numbers over probabilities; even short events are seen."""
    bars = np.column_stack([events["onset_s"], events["duration_s"].clip(duration_s / 400)])
    ax.broken_barh(bars, (1.1, 0.25), color=colour)
    free_s = 0.0
    for row, (onset_s, _) in zip(events.index, bars, strict=True):
        if onset_s >= free_s:  # else the numbers would overlap
            ax.text(onset_s, 1.45, row + 1, fontsize=8, color=colour)
            free_s = onset_s + duration_s / 40
    ax.set(ylim=(0, 2.1), yticks=(0, 1))
    ax.axhline(1, color="#d8d8d8", lw=0.5)


def _plot_regions(axes, power_db: np.ndarray, duration_s: float, bar) -> None:
    limits = np.nanpercentile(power_db, [2, 99.5]) if np.isfinite(power_db).any() else (0, 1)
    for ax, values in zip(axes, power_db.swapaxes(0, 1), strict=True):
        ax.set(yticks=(5, 10, 15), facecolor="#d8d8d8")
        mesh = ax.imshow(values.T, origin="lower", aspect="auto", extent=(0, duration_s, 0.6, 20))
        mesh.set_clim(*limits)
    bar.figure.colorbar(mesh, bar).set_label("dB re 1 µV²/Hz", fontsize=8)
    bar.tick_params(labelsize=7)


def _time_axes(axes, duration_s: float, start: datetime | None) -> None:
    """Times after the start under the last of `axes`, the clock over the first one."""
    step_s = next((s for s in _STEPS_S if duration_s <= 12 * s), duration_s / 10)
    at_s = np.arange(0, duration_s + 1e-6, step_s)
    big, small = (3600, 60) if step_s >= 60 and duration_s >= 3600 else (60, 1)
    labels = [f"{t // big:.0f}:{t % big // small:02.0f}" for t in at_s]
    for ax in axes:
        ax.set_xticks(at_s, labels if ax is axes[-1] else [])
    axes[-1].set_xlabel(f"time after the start ({'h:min' if small == 60 else 'min:s'})", fontsize=8)
    if start is None:
        return
    midnight = start.replace(hour=0, minute=0, second=0, microsecond=0)
    at_s = np.arange(0, duration_s + 86_400, step_s) - (start - midnight).total_seconds() % step_s
    at_s = at_s[(at_s >= 0) & (at_s <= duration_s)]
    clock = [start + timedelta(seconds=float(t)) for t in at_s]
    days = [i == 0 or t.date() != clock[i - 1].date() for i, t in enumerate(clock)]
    form = "%H:%M" if step_s >= 60 else "%H:%M:%S"
    top = axes[0].secondary_xaxis("top")
    labels = [f"{t:%d %b}\n" * day + f"{t:{form}}" for t, day in zip(clock, days, strict=True)]
    top.set_xticks(at_s, labels, fontsize=7)


def plot_page(
    eeg_uv: np.ndarray, times: list[str], *images: tuple[np.ndarray, Image],
    saliency: np.ndarray | None = None, cam: np.ndarray | None = None,
):  # fmt: skip
    """The central 10 s of (10000, 20) raw microvolts as `plot_eeg` draws them, `times` on the axis
    at 0, 2 … 10 s, beside the images that models see, with their configs."""
    figure = Figure(figsize=(10, 5.8), dpi=130, layout="constrained")
    ratios = [4] + [1] * len(images)
    grid = figure.add_gridspec(3, len(ratios), width_ratios=ratios)
    page = figure.add_subplot(grid[:, 0])
    plot_eeg(eeg_uv, ax=page, saliency=saliency)
    page.set_xticks(20 + 2 * np.arange(len(times)), times)
    page.tick_params(labelsize=8)
    page.set_xlabel("")
    for k, (image, config) in enumerate(images, 1):
        axes = [figure.add_subplot(grid[i, k]) for i in range(image.shape[-1])]
        plot_image(image, "", config, axes, cam=cam)
    return figure


def plot_crops(image: np.ndarray, config: Image, cam: np.ndarray | None = None):
    """The crops of one model image (H, W, crops) below each other, on a paper of any colour."""
    grey, n = "#858b94", image.shape[-1]
    with plt.rc_context(dict.fromkeys(("xtick.color", "ytick.color", "axes.labelcolor"), grey)):
        figure = Figure(figsize=(2.6, 1.9 * n), dpi=130, layout="constrained", facecolor="none")
        plot_image(image, "", config, figure.subplots(n, 1, squeeze=False)[:, 0], cam=cam)
    return figure


def data_uri(figure: Figure) -> str:
    """A picture of a figure, which is cleared, as the source of an HTML image."""
    file = io.BytesIO()
    figure.savefig(file, format="webp", pil_kwargs={"lossless": True})
    figure.clear()  # its arrays, before the next one is drawn
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def clock(start: datetime | None, seconds: float) -> str:
    """The time of the day so many seconds after `start`; hours, minutes and seconds if None."""
    if start is not None:
        return f"{start + timedelta(seconds=round(seconds)):%H:%M:%S}"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


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
