"""How a model's predictions depend on the amplifier's gain: KL, and false alarms among the healthy,
where the same EEG is multiplied by .35 to 2. No class of EEG depends on it.

    python benchmarks/gains.py [RUN ...]        # default: the released default
"""

import sys

import pandas as pd
from windows import simulate

from hmsutils import evaluation, inference, runs
from hmsutils.simulate import HEALTHY, QUIET, SHIFTED

GAINS = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0)
DOMAINS = {"shifted": SHIFTED, "quiet": QUIET, "healthy": HEALTHY}
N_WINDOWS = 300
SEED = 2**31 + 9


def main(folders: list[str]) -> None:
    table = {}
    found = evaluation.label_runs(folders or runs.released_runs(runs.DEFAULT))
    models = {label: inference.load_models([run]) for label, run in found.items()}
    for name, domain in DOMAINS.items():
        eeg_uv, target = simulate(domain, N_WINDOWS, SEED, balanced=True)
        for label in models:
            for gain in GAINS:
                p, quality = inference.predict(models[label], gain * eeg_uv, return_quality=True)
                seen = (quality["problem"] == "").to_numpy()  # the same windows but at extremes
                wrong = (p[seen].argmax(axis=1) != 5).mean()
                kl = evaluation.kl_divergence(target[seen], p[seen])
                table[label, name, gain] = wrong if name == "healthy" else kl
    print(f"{N_WINDOWS} windows of each domain; KL, of healthy people the share not called Other.")
    print("Lower is better. A model that is independent of loudness has equal numbers in a row.")
    print(pd.Series(table).unstack().rename_axis(columns="gain").round(3).to_string())


if __name__ == "__main__":
    main(sys.argv[1:])
