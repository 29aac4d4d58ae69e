"""Does a search find better settings of the WaveNet than the defaults? The search of notebook 5 at
a serious length, and then both, trained longer, on patients that no trial was judged by.

    python benchmarks/search.py                     # 60 trials; writes search.md
    python benchmarks/search.py --trials 6 --windows 500 --epochs 1 --final-epochs 2

Trials learn from windows of the domain WIDE and are judged by 1,500 patients of SHIFTED; a trial
that is worse than the median after an epoch ends there. What is reported was measured on 1,500
other patients of SHIFTED: the paired difference of KL, best settings minus defaults, with its 95 %
interval over patients; below 0 the best settings are better. Study and runs are kept in
models/runs/search-benchmark: a second call only prints.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd

from hmsutils import evaluation, search, store, training
from hmsutils.config import PROFILES, single_config
from hmsutils.models import WAVENET
from hmsutils.runs import Run, default_dir
from hmsutils.simulate import SHIFTED, WIDE, Split, simulate_pool

SEED = 2**30 + 1  # no patient of a simulated competition, of a pool or of the ablations
DEMO = replace(PROFILES["demo"], init_from=(), freeze_batch_norm=False, learning_rate=1e-3)
BASE = replace(single_config(DEMO, WAVENET), batch_size=64, n_folds=2)


def pool(*splits: Split, n_jobs: int) -> tuple[pd.DataFrame, dict]:
    inputs = {"eeg": BASE.inputs["eeg"]}
    return simulate_pool(splits, inputs, store.default_dir(), n_jobs=n_jobs)


def pools(n_windows: int, n_jobs: int) -> list[tuple[pd.DataFrame, dict]]:
    """(windows, arrays) of the trials, and of the patients who judge what comes after them."""
    first, second = (Split(1500, SHIFTED, (SEED, i), fold=0) for i in (1, 2))
    learned = Split(n_windows, WIDE, (SEED, 0), fold=1, soft_labels=True)
    return [pool(first, learned, n_jobs=n_jobs), pool(second, n_jobs=n_jobs)]


def judged(run: Run, windows: pd.DataFrame, arrays: dict) -> pd.DataFrame:
    eeg = BASE.inputs["eeg"].decode(arrays["eeg"])
    prediction = training.load_model(run, 0)[0].predict({"eeg": eeg}, batch_size=50, verbose=0)
    return evaluation.with_prediction(windows, prediction)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--windows", type=int, default=12_000)
    parser.add_argument("--epochs", type=int, default=4, help="of a trial")
    parser.add_argument("--final-epochs", type=int, default=12)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    of_trials, others = pools(args.windows, args.jobs)
    folder, base = default_dir() / "search-benchmark", replace(BASE, epochs=args.epochs)
    study = search.search(base, *of_trials, folder, n_trials=args.trials, n_jobs=args.jobs)
    longer = replace(base, epochs=args.final_epochs)
    configs = [longer, search.best_config(study, longer)]
    runs = training.train(configs, *of_trials, runs_dir=folder, n_jobs=min(2, args.jobs))
    default, best = (judged(run, *others) for run in runs)
    table = evaluation.compare({"defaults": default, "best of the search": best})
    difference = evaluation.paired_difference(best, default).loc["KL"]
    trials = study.trials_dataframe(attrs=("number", "state", "value", "params"))
    trials = trials[trials["state"].isin(["COMPLETE", "PRUNED"])].sort_values("value")
    trials.columns = [name.removeprefix("params_") for name in trials]
    options = f"--trials {args.trials} --windows {args.windows} --epochs {args.epochs}"
    text = (
        f"`python benchmarks/search.py {options} --final-epochs {args.final_epochs}`\n\n"
        f"KL of the best settings minus KL of the defaults: {difference['difference']:+.3f} "
        f"[{difference['low']:+.3f}, {difference['high']:+.3f}]. Below 0 the best settings are "
        "better; an interval that includes 0 shows no difference.\n\n"
        f"```\n{table.round(3).to_string()}\n\n"
        f"{trials.head(10).round(4).to_string(index=False)}\n```\n\n{len(trials)} trials ended, "
        f"{(trials['state'] == 'PRUNED').sum()} of them before their last epoch.\n"
    )
    print(text)
    (Path(__file__).parent / "search.md").write_text(text)


if __name__ == "__main__":
    main()
