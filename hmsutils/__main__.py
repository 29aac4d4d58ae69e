"""`python -m hmsutils COMMAND`: thin over the functions."""

import argparse
from collections.abc import Callable
from pathlib import Path

from hmsutils.files import find_competition, project_dir


def simulate(args: argparse.Namespace) -> None:
    from hmsutils.simulate import simulate_competition

    competition = simulate_competition(args.out, args.patients, args.seed, n_jobs=args.jobs)
    print(f"{competition.root}: {competition.why}")


def download(args: argparse.Namespace) -> None:
    from hmsutils.download import download_competition, download_samples

    get = {"competition": download_competition, "samples": download_samples}[args.what]
    try:
        folder = get(args.out)
    except (ConnectionError, ValueError) as error:
        raise SystemExit(str(error)) from error
    print(f"{folder.root}: {folder.why}")


def spectrograms(args: argparse.Namespace) -> None:
    from hmsutils import records, store
    from hmsutils.signals import WaveNetInputConfig
    from hmsutils.spectrograms import ImageConfig

    competition = find_competition(args.data)
    windows = records.load_windows(competition, args.split, on_problem="exclude")
    configs = {"image": ImageConfig(args.mels, args.frames), "eeg": WaveNetInputConfig()}
    options = {"split": args.split, "out_dir": args.out, "n_jobs": args.jobs}
    for name, array in store.build(competition, windows, configs, **options).items():
        print(f"{name}: {array.shape} {array.dtype} in {Path(array.filename).parent}")


def _models(args: argparse.Namespace) -> list:
    from hmsutils import inference

    runs = args.run or inference.default_runs()
    print("Models:", ", ".join(Path(run).name for run in runs))
    return inference.load_models(runs)


def predict(args: argparse.Namespace) -> None:
    from hmsutils import inference, records

    models = _models(args)
    if args.recording:
        table = inference.predict_recording(models, records.read_edf(args.recording))
    else:
        table = inference.make_submission(models, find_competition(args.data), args.split)
    table.to_csv(args.out, index=False, float_format="%.6f" if args.recording else None)
    print(f"{args.out}: {len(table)} valid rows")


def export(args: argparse.Namespace) -> None:
    from hmsutils.export import one_model, save

    save(one_model(_models(args)), args.out)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB, raw EEG in, probabilities out")


def results(args: argparse.Namespace) -> None:
    from hmsutils import evaluation

    runs = args.run or sorted(path.parent for path in project_dir().glob("models/runs/*/run.json"))
    if not runs:
        raise SystemExit("No finished run in models/runs; run the notebooks first (make notebooks)")
    newest = max(runs, key=lambda run: (run / "run.json").stat().st_mtime)
    data = [evaluation.read_run(run)[0]["data"] for run in runs]
    same = [run for run, d in zip(runs, data, strict=True) if d == data[runs.index(newest)]]
    print(evaluation.results(same).round(3).to_string())


def kaggle(args: argparse.Namespace) -> None:
    from hmsutils import kaggle

    if args.action == "build":
        owner = kaggle.build(args.out, args.owner, args.run)
        print(f"{args.out}: valid, to push as {owner}")
    elif args.action == "check":
        kaggle.check(args.run)
    else:
        kaggle.push(args.out, args.only)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hmsutils", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(run: Callable, text: str, *flags: Callable) -> argparse.ArgumentParser:
        command = commands.add_parser(run.__name__, help=text)
        command.set_defaults(run_command=run)
        for flag in flags:
            flag(command)
        return command

    command = add(simulate, "write a simulated competition", _jobs)
    command.add_argument("--out", type=Path, required=True, help="folder to write")
    command.add_argument("--patients", type=int, default=120, help="patients in train.csv")
    command.add_argument("--seed", type=int, default=0)

    command = add(download, "fetch the competition, or real sample EEGs")
    command.add_argument("what", choices=("competition", "samples"))
    command.add_argument("--out", type=Path, help="folder; default data/raw or data/iiic_real")

    command = add(spectrograms, "compute images and EEG inputs of a split", _split, _jobs)
    command.add_argument("--out", type=Path, help="folder; default data/processed")
    command.add_argument("--mels", type=int, default=32, help="frequency bands per chain")
    command.add_argument("--frames", type=int, default=256, help="columns of the image")

    command = add(predict, "write a submission, or judge a recording", _split, _run)
    command.add_argument("recording", type=Path, nargs="?", help="EDF or BDF instead of a split")
    command.add_argument("--out", type=Path, default=Path("submission.csv"))

    command = add(export, "write models as one file, raw EEG in", _run)
    command.add_argument("--out", type=Path, required=True, help="file.onnx or file.keras")

    command = add(results, "print the table of finished runs")
    command.add_argument("--run", type=Path, nargs="+", help="folders; default: all of models/runs")

    command = add(kaggle, "build, check or push what Kaggle needs", _run)
    command.add_argument("action", choices=("build", "check", "push"))
    command.add_argument("only", nargs="*", help="push: folders; default: all that can start")
    command.add_argument("--out", type=Path, default=Path("build/kaggle"), help="folder")
    command.add_argument("--owner", help="your user name; default: $KAGGLE_USERNAME")
    return parser


def _run(command: argparse.ArgumentParser) -> None:
    command.add_argument("--run", type=Path, nargs="+", help="folders; default: released models")


def _split(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", help="competition folder; default: found or simulated")
    command.add_argument("--split", choices=("train", "test"), default="test")


def _jobs(command: argparse.ArgumentParser) -> None:
    command.add_argument("--jobs", type=int, help="processes; default: all cores")


def main(argv: list[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    args.run_command(args)


if __name__ == "__main__":
    main()
