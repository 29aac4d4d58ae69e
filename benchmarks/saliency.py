"""Do maps of where a model looked lie on the pattern? `python benchmarks/saliency.py [RUN ...]`
(1 minute on two cores; default: the run that notebook 4 would take).

Forty simulated windows a class of the domain SHIFTED, which no model was trained on; those count of
which the model names the class. "EEG" is `saliency.eeg_saliency`, by derivation and second;
"amplitude" is the mean amplitude of what the WaveNet sees, a map without a model. "Grad-CAM" is
`saliency.grad_cam` by seconds of the 50 s crop, those with pattern in any derivation: the crops of
25 and 10 s share the map, so that a centre of theirs counts here as an edge does. "random" is what
a map that knows nothing expects; "ratio" is the mean of the windows' ratios to it. Intervals: 95 %.
"""

import sys
from pathlib import Path

import numpy as np

from hmsutils import evaluation, inference, saliency
from hmsutils.competition import CLASSES
from hmsutils.models import BACKBONES, WAVENET
from hmsutils.representations import WaveNetInput
from hmsutils.simulate import SHIFTED, simulate_window

N_PER_CLASS = 40
COLUMNS = """\
"share on the pattern" is the share of a map that lies where the simulated pattern is; "random" is
the share of a map that knows nothing of the pattern; "ratio" is the one divided by the other.
Higher is better. A ratio of 1 says nothing about the pattern. "amplitude" is a map without a
model: a useful map is above it. In brackets: 95 % intervals over windows; if that of a ratio
includes 1, nothing is shown."""


def simulate() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, 10000, 20) EEG, (N, 18, 50) cells with pattern, (N,) classes, all but Other."""
    made, i, counts = [], 0, np.zeros(len(CLASSES), int)
    while counts[:-1].min() < N_PER_CLASS:
        pattern_uv = np.zeros((10_000, 19), np.float32)
        rng, i = np.random.default_rng([6, i]), i + 1
        eeg_uv, _, soft_label = simulate_window(rng, SHIFTED, balanced=True, pattern_uv=pattern_uv)
        k = soft_label.argmax()
        if k < len(CLASSES) - 1 and counts[k] < N_PER_CLASS:
            counts[k] += 1
            made.append((eeg_uv, saliency.pattern_cells(pattern_uv[None])[0], k))
    return tuple(np.stack(values) for values in zip(*made, strict=True))


def with_interval(values: np.ndarray) -> str:
    values = values[np.isfinite(values)]
    low, high = evaluation.bootstrap_ci(values, np.arange(len(values)))
    return f"{values.mean():.2f} ({low:.2f}–{high:.2f})"


def main(runs: list[Path]) -> None:
    models = inference.load_models(runs or inference.default_runs())
    eeg_uv, cells, classes = simulate()
    right = inference.predict(models, eeg_uv, return_quality=True)[0].argmax(axis=1) == classes
    eeg_uv, cells, classes = eeg_uv[right], cells[right], classes[right]
    amplitude = saliency.per_second(np.abs(WaveNetInput().from_raw(eeg_uv)).swapaxes(1, 2))
    towers = {tower for trained in models for tower in trained.config.towers}
    maps = {}
    if WAVENET in towers:
        maps["EEG"] = saliency.eeg_saliency(models, eeg_uv, classes), cells
    maps["amplitude"] = amplitude, cells
    if towers & set(BACKBONES):
        cam = saliency.grad_cam(models, eeg_uv, classes)
        maps["Grad-CAM"] = saliency.per_second(cam.sum(axis=1)), cells.any(axis=1)
    print(f"`python benchmarks/saliency.py`\n\n{COLUMNS}\n")
    columns = ("class", "windows", "map", "share on the pattern", "random", "ratio")
    print("|", " | ".join(columns), "|\n" + "|---" * len(columns) + "|")
    for k in range(len(CLASSES)):
        of = classes == k if k < len(CLASSES) - 1 else classes >= 0  # last: all
        for name, (found, truth) in maps.items() if of.any() else ():
            share = saliency.mass_on(found[of], truth[of])
            random = truth[of].reshape(of.sum(), -1).mean(axis=1)
            row = [[*CLASSES[:-1], "all"][k], of.sum(), name, with_interval(share)]
            row += [f"{random.mean():.2f}", with_interval(share / random)]
            print("|", " | ".join(map(str, row)), "|")


if __name__ == "__main__":
    main([Path(run) for run in sys.argv[1:]])
