"""How much EEG a prediction needs: `python benchmarks/quality.py` (3 minutes on two cores).

Windows of simulated patients of the domain `SHIFTED`, which no model was trained on, lose
electrodes, a part of the central 10 s that the experts judged, or what lies around these. The
default model predicts them whatever is left. Where its KL is no better than that of the prior, a
prediction is worth nothing: `signals.MIN_ELECTRODES` and `signals.MIN_SHARE` lie before that.
"""

import numpy as np
from windows import simulate

from hmsutils import evaluation, inference
from hmsutils.competition import SFREQ_HZ
from hmsutils.signals import N_SCALP
from hmsutils.simulate import SHIFTED

N_WINDOWS = 300


def scores(models, eeg_uv: np.ndarray, target: np.ndarray) -> str:
    """KL and accuracy of predictions that are made whatever the quality."""
    parts = []
    for some in np.split(np.swapaxes(eeg_uv, 1, 2), 3):
        represented, _ = inference._represent(models, np.ascontiguousarray(some))
        parts.append(inference._classify(models, represented))
    prediction = np.concatenate(parts)
    kl = evaluation.kl_divergence(target, prediction)
    return f"{kl:.3f} | {evaluation.accuracy(target, prediction):.3f} |"


def main() -> None:
    models, rng = inference.load_models(inference.default_runs()), np.random.default_rng(5)
    eeg_uv, target = simulate(SHIFTED, N_WINDOWS, seed=5)
    prior = np.tile(target.mean(axis=0), (N_WINDOWS, 1))
    print("| lost | KL | accuracy |\n|---|---|---|")
    print(f"| everything: the prior | {evaluation.kl_divergence(target, prior):.3f} | |")
    for n in (0, 3, 6, 9, 12, 16):
        broken = eeg_uv.copy()
        for window in broken:
            window[:, rng.permutation(N_SCALP)[:n]] = np.nan
        print(f"| {n} of {N_SCALP} electrodes |", scores(models, broken, target))
    for seconds in (3, 5, 7, 10):
        broken, first = eeg_uv.copy(), 20 + rng.uniform(0, 10 - seconds)
        broken[:, round(first * SFREQ_HZ) :][:, : seconds * SFREQ_HZ] = np.nan
        print(f"| {seconds} of the central 10 s |", scores(models, broken, target))
    for seconds in (30, 20, 10):
        broken, first = np.full_like(eeg_uv, np.nan), SFREQ_HZ * (50 - seconds) // 2
        kept = slice(first, first + SFREQ_HZ * seconds)
        broken[:, kept] = eeg_uv[:, kept]
        print(f"| all but the central {seconds} s |", scores(models, broken, target))


if __name__ == "__main__":
    main()
