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
# Of derivations on the left, on the right and in the middle, and of the EKG; as on the page
# (page/viewer.js). Grey tones differ too.
SIDES = {"L": "#971d16", "R": "#2474cf", "M": "#222222", "E": "#1c6b35"}
# Of models: told apart by the colour-blind, and by the mark in print.
_MODELS = ("#222222", "#d55e00", "#0072b2", "#009e73", "#cc79a7")
EXPERTS, MODEL, PALE = "#222222", "#2f6fb3", "#a9c6e3"
_REGIONS = {"LL": "left\ntemporal", "RL": "right\ntemporal"}
_REGIONS |= {"LP": "left\nparasagittal", "RP": "right\nparasagittal"}
_STEPS_S = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14_400, 43_200, 86_400)

# Left over right, lateral before parasagittal, midline last: as a clinician reads the montage.
READING_ORDER = [pair for chain in ("LL", "RL", "LP", "RP") for pair in CHAIN_PAIRS[chain]]
READING_ORDER += [("Fz", "Cz"), ("Cz", "Pz")]


def side(plus: str, minus: str) -> str:
    """L, R or M: where two electrodes lie; M where they are not on one side."""
    sides = {"M" if x[-1] == "z" else "RL"[int(x[-1]) % 2] for x in (plus, minus)}
    return sides.pop() if len(sides) == 1 else "M"


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
        colour = SIDES[side(*READING_ORDER[i])]
        ax.plot(t, level - np.clip(trace, -3 * step, 3 * step), lw=0.6, color=colour)
        row, low, high = DOUBLE_BANANA.index(READING_ORDER[i]), level - step / 2, level + step / 2
        if saliency is not None:
            style = {"cmap": "Oranges", "vmin": 0, "vmax": 1.6 * np.max(saliency), "aspect": "auto"}
            ax.imshow(saliency[[row]], extent=(0, saliency.shape[1], low, high), zorder=-1, **style)
        if truth is not None:
            edges = np.flatnonzero(np.diff(truth[row], prepend=False, append=False))
            ax.hlines([low] * (len(edges) // 2), edges[::2], edges[1::2], color="#2a8a3a", lw=2)
    ax.plot(t, y + ekg / max(np.abs(ekg).max(), 1e-6) * step * 0.8, lw=0.6, color=SIDES["E"])
    ax.set_yticks([*levels, y], [*map("–".join, READING_ORDER), "EKG"], fontsize=8)
    ax.tick_params(axis="y", length=0)
    ax.set(xlim=(t[0], t[-1]), ylim=(y - 1.5 * step, 0), xlabel="time (s)")
    for second in range(int(np.ceil(t[0])), int(t[-1]) + 1):
        ax.axvline(second, color="#d8d8d8", lw=0.4, zorder=0)
    ax.plot([t[-1] * 1.002] * 2, [y, y + 100], color="k", lw=2, clip_on=False)
    ax.annotate("100 µV", (t[-1] * 1.004, y + 20), fontsize=8, rotation=90, annotation_clip=False)
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
        ax.tick_params(labelsize=8)
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
    bar.figure.colorbar(mesh, bar).set_label("power (dB re 1 µV²/Hz)", fontsize=8)
    bar.tick_params(labelsize=8)


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
    top.set_xticks(at_s, labels, fontsize=8)


def plot_page(
    eeg_uv: np.ndarray, times: list[str] | None, *images: tuple[np.ndarray, Image],
    saliency: np.ndarray | None = None, cam: np.ndarray | None = None,
    truth: np.ndarray | None = None,
):  # fmt: skip
    """The central 10 s of (10000, 20) raw microvolts as `plot_eeg` draws them, `times` on the axis
    at 0, 2 … 10 s, or for None all 50 s, beside the images that models see, with their configs."""
    figure = Figure(figsize=(10, 5.8), dpi=130, layout="constrained")
    ratios = [4] + [1] * len(images)
    grid = figure.add_gridspec(3, len(ratios), width_ratios=ratios)
    page = figure.add_subplot(grid[:, 0])
    span = {} if times else {"start_s": 0, "seconds": 50}
    plot_eeg(eeg_uv, ax=page, saliency=saliency, truth=truth, **span)
    if times:
        page.set_xticks(20 + 2 * np.arange(len(times)), times)
        page.set_xlabel("")
    page.tick_params(labelsize=8)
    if saliency is not None:
        _bar(page.images[0], [page], "gradient saliency (share of its sum)", shrink=0.5)
    for k, (image, config) in enumerate(images, 1):
        axes = [figure.add_subplot(grid[i, k]) for i in range(image.shape[-1])]
        plot_image(image, "", config, axes, cam=cam)
        _bar(axes[0].images[0], axes, "dB of white noise of 1 µV")
    return figure


def _bar(mesh, axes, label: str, **options) -> None:
    """What the colours of `mesh` mean, below `axes`."""
    bar = mesh.figure.colorbar(mesh, ax=axes, location="bottom", aspect=30, pad=0.02, **options)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=8)


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
        ax.set_ylabel(f"{region} (Hz)", fontsize=8)
    axes[-1].set_xlabel("time (s)")
    axes[0].set_title(title, fontsize=9)
    axes[0].figure.colorbar(mesh, ax=list(axes), label="dB re 1 µV²/Hz", fraction=0.03)
    return axes[0].figure


def plot_image(
    image: np.ndarray, title: str = "", config: Image = Image(), axes=None, *,
    cam: np.ndarray | None = None,
):  # fmt: skip
    """The crops of one model image (H, W, crops), values in [0, 1] or as stored, in dB; each fades
    towards white where `cam` (H, W), if given, is small."""
    if axes is None:
        _, axes = plt.subplots(1, image.shape[-1], figsize=(10, 3), layout="constrained")
    height = len(image) // len(MEL_REGIONS)
    crops = np.moveaxis(config.decode(image) if image.dtype == config.stored_as else image, -1, 0)
    low, high = config.decibels
    style = {"vmin": low, "vmax": high, "aspect": "auto", "interpolation": "nearest"}
    for ax, crop, duration_s in zip(axes, crops, config.durations_s, strict=True):
        extent = (25 - duration_s / 2, 25 + duration_s / 2, len(image), 0)
        ax.imshow(low + (high - low) * crop, extent=extent, **style)
        if cam is not None:
            veil = 0.85 * (1 - cam / max(cam.max(), 1e-30))
            ax.imshow(np.zeros_like(cam), "gray_r", alpha=veil, aspect="auto", extent=extent)
        ax.set_yticks([height * (i + 0.5) for i in range(4)], MEL_REGIONS, fontsize=8)
        for i in range(1, len(MEL_REGIONS)):
            ax.axhline(height * i, color="w", lw=0.8)
        ax.set_xlabel(f"time (s), crop of {duration_s:g} s", fontsize=8)
        ax.tick_params(axis="x", labelsize=8)
    axes[0].set_title(title, fontsize=9, loc="left")
    return axes[0].figure


def plot_network(network, ax=None):
    """A Keras network from left to right: each of its towers (models within it), what goes in and
    the number of features that comes out, and the head, with the number of weights of each."""
    towers = [layer for layer in network.layers if hasattr(layer, "layers")]
    ax = ax or plt.subplots(figsize=(9, 0.7 + len(towers)), layout="constrained")[1]
    rows, size = np.arange(len(towers))[::-1], sum(tower.output.shape[-1] for tower in towers)
    arrow, middle = {"arrowstyle": "-|>", "color": "#555555"}, rows.mean()
    box = {"boxstyle": "round,pad=0.5", "facecolor": "#e8eff8", "edgecolor": MODEL}
    text = {"ha": "center", "va": "center", "fontsize": 9}
    for tower, row in zip(towers, rows, strict=True):
        key = next(k for k, x in network.input.items() if x.shape == tower.inputs[0].shape)
        sizes, found = " × ".join(map(str, tower.inputs[0].shape[1:])), tower.output.shape[-1]
        ax.annotate("", (0.2, row), (0.135, row), arrowprops=arrow)
        ax.annotate("", (0.64, middle), (0.45, row), arrowprops=arrow)
        ax.text(0.06, row, f"{key}\n{sizes}", **text)
        ax.text(0.33, row, f"{tower.name}\n{tower.count_params():,} weights", bbox=box, **text)
        at = {"va": "bottom" if row >= middle else "top", "fontsize": 9}
        ax.text(0.475, row + 0.1 * np.sign(row - middle + 0.1), f"{found:,} features", **at)
    joined = f"{size:,} features,\nconcatenated\n" if len(towers) > 1 else ""
    weights = network.get_layer("head").count_params()
    ax.text(0.75, middle, f"{joined}head: softmax\n{weights:,} weights", bbox=box, **text)
    ax.annotate("", (0.93, middle), (0.86, middle), arrowprops=arrow)
    for i, (name, colour) in enumerate(zip(CLASSES, COLOURS, strict=True)):
        ax.text(0.94, middle + 0.16 * (2.5 - i), name, va="center", fontsize=9, color=colour)
    ax.set(xlim=(0, 1.04), ylim=(middle - 0.6 - middle / 2, middle + 0.6 + middle / 2))
    ax.set_axis_off()
    return ax.figure


def plot_history(histories: dict[str, pd.DataFrame]):
    """Training loss and held-out KL of every epoch, one colour and mark per model
    (`runs.Run.history`); joined where there are more than two."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
    for i, (name, history) in enumerate(histories.items()):
        curve = history.groupby("epoch")[["loss", "val_kl"]].mean()
        style = {"color": _MODELS[i % 5], "marker": "osD^v"[i % 5], "label": name}
        style["ls"] = "-" if len(curve) > 2 else ""
        for ax, column in zip(axes, curve, strict=True):
            ax.plot(curve.index + 1, curve[column], **style)
    for ax, shown in zip(axes, ("augmented training batches", "held-out patients"), strict=True):
        ax.set(xlabel="epoch", ylabel="KL (nats), ↓ better", title=shown)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.margins(x=0.2)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


def plot_comparison(table: pd.DataFrame):
    """KL and accuracy with 95 % intervals, a bar for each row of `evaluation.compare`, in its
    order; those of concatenations and blends are dark."""
    size = (9, 0.3 * len(table) + 0.9)
    figure, axes = plt.subplots(1, 2, figsize=size, sharey=True, layout="constrained")
    colours = [MODEL if "+" in name or "blend" in name else PALE for name in table.index]
    for ax, metric, label in zip(
        axes, ("KL", "accuracy"), ("← better      KL (nats)", "accuracy      better →"), strict=True
    ):
        plot_bars(ax, table[metric], table[f"{metric} low"], table[f"{metric} high"], colours)
        ax.set_xlabel(label)
    return figure


def plot_bars(ax, values: pd.Series, low: pd.Series, high: pd.Series, colours) -> None:
    """A bar with its 95 % interval for each value, from top to bottom, the number beside it."""
    y = np.arange(len(values))[::-1]
    ax.barh(y, values, color=colours, height=0.7)
    ax.hlines(y, low, high, color=EXPERTS, lw=1.5)
    beside = {"textcoords": "offset points", "va": "center", "fontsize": 8}
    for at, value, end in zip(y, values, np.maximum(high, 0), strict=True):
        ax.annotate(f"{value:.3f}", (end, at), (4, 0), **beside)
    ax.set_yticks(y, values.index, fontsize=9)
    ax.margins(x=0.15)
    ax.axvline(0, color=EXPERTS, lw=0.8)
    ax.spines[["top", "right"]].set_visible(False)


def plot_confusion(matrix: np.ndarray, title: str = "", ax=None):
    """Confusion matrix (6, 6) of counts; colours are shares of the experts' class."""
    ax = ax or plt.subplots(figsize=(3.8, 3.6), layout="constrained")[1]
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (i, j), count in np.ndenumerate(matrix):
        colour = "k" if share[i, j] < 0.6 else "w"
        ax.text(j, i, count, ha="center", va="center", fontsize=8, color=colour)
    ax.set_xticks(range(len(CLASSES)), CLASSES, rotation=45, fontsize=8)
    ax.set_yticks(range(len(CLASSES)), CLASSES, fontsize=8)
    ax.set(xlabel="the model's most probable class", ylabel="the experts' most voted class")
    ax.set_title(title, fontsize=9)
    return ax.figure


def plot_reliability(bins: dict[str, pd.DataFrame], ax=None):
    """Mean vote share against mean predicted probability, from `evaluation.reliability`; the more
    predictions a point stands for, the larger it is."""
    ax = ax or plt.subplots(figsize=(3.8, 3.6), layout="constrained")[1]
    ax.plot([0, 1], [0, 1], color="#bbbbbb", lw=1, zorder=0)
    for (name, table), colour, mark in zip(bins.items(), (MODEL, "#d55e00"), "oD", strict=False):
        ax.plot(table["prediction"], table["votes"], lw=1, color=colour)
        size, style = 90 * np.sqrt(table["count"] / table["count"].max()), {"marker": mark}
        ax.scatter(table["prediction"], table["votes"], size, color=colour, label=name, **style)
    ax.set(xlabel="predicted probability", ylabel="share of votes", xlim=(0, 1), ylim=(0, 1))
    ax.legend(fontsize=8, frameon=False)
    return ax.figure


def plot_votes(target: np.ndarray, predictions: dict[str, np.ndarray], title: str = "", ax=None):
    """Votes (6,) beside the probabilities (6,) of one or more models."""
    ax = ax or plt.subplots(figsize=(4, 2.2), layout="constrained")[1]
    series = {"experts": target, **predictions}
    width = 0.8 / len(series)
    for i, (name, values) in enumerate(series.items()):
        x = np.arange(len(CLASSES)) + (i - (len(series) - 1) / 2) * width
        ax.bar(x, values, width, color=(EXPERTS, MODEL, PALE)[min(i, 2)], label=name)
    ax.set_xticks(range(len(CLASSES)), CLASSES, fontsize=8, rotation=30)
    ax.set(ylim=(0, 1), ylabel="share, probability" if predictions else "share of votes")
    ax.set_title(title, fontsize=9)
    ax.legend(fontsize=8, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return ax.figure
