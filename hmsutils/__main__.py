"""`hmsutils COMMAND`, or `python -m hmsutils COMMAND`: command lines over the package's functions.

A user's mistake is answered with one sentence and exit status 2. Arguments are checked before
TensorFlow is imported, which takes some seconds, so every command imports what it needs itself.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from hmsutils.competition import write_csv
from hmsutils.files import find_competition
from hmsutils.records import read_ids, table_path
from hmsutils.runs import Run, comparable, find_runs, released_blend


def simulate(args: argparse.Namespace) -> None:
    from hmsutils.simulate import simulate_competition

    competition = simulate_competition(args.out, args.patients, args.seed, n_jobs=args.jobs)
    print(f"{competition.root}: {competition.why}")


def download(args: argparse.Namespace) -> None:
    from hmsutils.download import download_competition, download_samples

    get = download_competition if args.what == "competition" else download_samples
    competition = get(args.out)
    print(f"{competition.root}: {competition.why}")


def spectrograms(args: argparse.Namespace) -> None:
    from hmsutils import records, store
    from hmsutils.representations import Image, WaveNetInput

    competition, split = args.data or find_competition(), args.split or "test"
    windows = records.load_windows(competition, split, on_problem="exclude")
    inputs = {"image": Image(args.mels, args.frames), "eeg": WaveNetInput()}
    options = {"split": split, "out_dir": args.out, "n_jobs": args.jobs}
    for name, array in store.build(competition, windows, inputs, **options).items():
        print(f"{name}: {array.shape} {array.dtype} in {Path(array.filename).parent}")


def predict(args: argparse.Namespace) -> None:
    if args.recording and args.data:
        raise ValueError(f"predict takes a recording or --data, not both: {args.recording}")
    if args.recording and args.split:
        raise ValueError(
            f"predict: --split {args.split} is that of a competition, not of a recording"
        )
    for option in ("unit", "step", "events") if not args.recording else ():
        if (value := getattr(args, option)) is not None:
            raise ValueError(f"predict: --{option} {value} is that of a recording; name one")
    args.out = args.out or _file("probabilities.csv" if args.recording else "submission.csv")
    if args.events and (args.step or 10) > 10:
        wanted = "wanted 10 or less, as a row is about 10 s"
        raise ValueError(f"predict: --events with --step {args.step}; {wanted}")
    for path in filter(None, (args.out, args.events) if args.recording else ()):
        if path.resolve() == args.recording.resolve():
            raise ValueError(f"predict: {path} is the recording itself; name another file")
    if args.events and args.events.resolve() == args.out.resolve():
        raise ValueError(f"predict: --events and --out are both {args.out}; name another file")
    if args.recording:
        from hmsutils.recordings import read_recording  # and numba

        recording = read_recording(args.recording, args.unit)
    competition = None if args.recording else args.data or find_competition()
    split = args.split or "test"
    if competition:
        inside = args.out.resolve().is_relative_to(competition.root.resolve())
        if inside and (args.out.suffix != ".csv" or args.out.stem in INPUT_TABLES):
            raise ValueError(f"predict: --out {args.out} is one of the inputs; name another file")
        read_ids(table_path(competition, split))
    from hmsutils import events, inference  # and TensorFlow, once the data are known to be good

    models = inference.load_models(args.run or inference.default_runs(competition))
    if args.recording:
        options = {"step_s": args.step or 10, "raters": args.raters}
        table = inference.predict_recording(models, recording, **options)
        problems = table["problem"].value_counts().drop("", errors="ignore")
        for problem, n in problems.items():
            print(f"{n} of {len(table)} rows have no prediction: {problem}")
        said = f"{len(table)} rows, {len(table) - problems.sum()} with a prediction"
    else:
        table = inference.make_submission(models, competition, split, raters=args.raters)
        said = f"{len(table)} valid rows"
    write_csv(args.out, table, float_format="%.6f" if args.recording else None)
    print(f"{args.out}: {said}")
    if args.events and len(table) == problems.sum():
        print(f"{args.events}: not written, as nothing could be predicted")
    elif args.events:
        found = events.find_events(table)
        events.write_events(args.events, found, recording.duration_s, recording.start)
        minutes = found.groupby("event")["duration_s"].agg(["size", "sum"]).itertuples()
        said = [f"{name} {n} ({total / 60:.1f} min)" for name, n, total in minutes]
        print(f"{args.events}: {', '.join(said) or 'no events'}")


def export(args: argparse.Namespace) -> None:
    from hmsutils import inference
    from hmsutils.export import one_model, save

    models = inference.load_models(args.run or inference.default_runs())
    save(one_model(inference.for_raters(models, args.raters)), args.out)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB, raw EEG in, probabilities out")


def results(args: argparse.Namespace) -> None:
    from hmsutils import evaluation

    found = args.run or find_runs()
    if not found:
        raise FileNotFoundError("no finished run in models/runs; first run make notebooks")
    print(evaluation.results(args.run or comparable(found)).round(3).to_string())


def rerun(args: argparse.Namespace) -> None:
    competition = args.data or find_competition()
    from hmsutils import training

    kl, difference = training.rerun(args.repeated, competition)
    print(f"{args.repeated.name}: KL {args.repeated.kl:.6f}, repeated {kl:.6f}")
    print(f"largest difference of a prediction: {difference:.1e}")
    raise SystemExit(int(difference != 0))


def kaggle(args: argparse.Namespace) -> None:
    from hmsutils import kaggle

    if args.action == "build":
        print(f"{args.out}: valid, to push as {kaggle.build(args.out, args.owner, args.run)}")
    else:
        kaggle.push(args.out, args.only)


INPUT_TABLES = ("train", "test", "sample_submission")  # never overwritten


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # argparse would print the usage first
        self.exit(2, f"{self.prog}: {message} (--help lists what there is)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="hmsutils", description="EEG pattern classification with Keras.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(run: Callable, text: str, *flags: str) -> argparse.ArgumentParser:
        command = commands.add_parser(run.__name__, help=text, description=f"{text}.")
        command.set_defaults(run_command=run)
        for flag in flags:
            command.add_argument(flag, **_SHARED[flag])
        return command

    command = add(simulate, "write a simulated competition", "--jobs")
    command.add_argument("--out", type=_folder, required=True, help="folder to write")
    command.add_argument("--patients", type=_number(1, 65_536), default=120, help="in train.csv")
    command.add_argument("--seed", type=_number(0, 2**32 - 1), default=0)
    command = add(download, "fetch the competition, or real sample EEGs")
    command.add_argument("what", choices=("competition", "samples"))
    command.add_argument("--out", type=_folder, help="folder; default data/raw or data/iiic_real")
    command = add(spectrograms, "compute the inputs of a split", "--data", "--split", "--jobs")
    command.add_argument("--out", type=_folder, help="folder; default data/processed")
    command.add_argument("--mels", type=_number(1, 512), default=32, help="bands per chain")
    command.add_argument("--frames", type=_number(1, 10_000), default=256, help="image columns")
    which = ("--run", "--raters")
    command = add(predict, "predict a split or a recording", "--data", "--split", *which)
    command.add_argument(
        "recording", type=_recording, nargs="?", help="EDF, BDF, or what MNE reads"
    )
    command.add_argument("--unit", help="of the recording, where its header does not say: uV, mV …")
    command.add_argument("--step", type=_number(1, 3600), help="seconds; default: 10")
    command.add_argument("--events", type=_file, help="file.tsv of seizures and patterns to write")
    names = "default: submission.csv; of a recording: probabilities.csv"
    command.add_argument("--out", type=_file, help=f"file to write; {names}")
    command = add(export, "write models as one file, raw EEG in", *which)
    command.add_argument("--out", type=_model_file, required=True, help="file.onnx or file.keras")
    add(results, "print the table of runs, by default all on the newest data", "--run")
    command = add(rerun, "repeat a run and compare; exit status 1 if it differs", "--data")
    command.add_argument("repeated", metavar="RUN", type=_run, help="the folder of a run")
    command = add(kaggle, "build or push what Kaggle needs")
    command.add_argument("--run", type=_run, nargs="+", help="folders of runs; default: chosen")
    command.add_argument("action", choices=("build", "push"))
    command.add_argument("only", nargs="*", help="push: folders; default: all that can start")
    command.add_argument("--out", type=_folder, default="build/kaggle", help="folder")
    command.add_argument("--owner", help="your user name; default: $KAGGLE_USERNAME")
    return parser


def _require(met: bool, text: str, problem: str) -> None:
    if not met:
        raise argparse.ArgumentTypeError(f"{text}: {problem}")


def _number(lowest: int, highest: int) -> Callable[[str], int]:
    def whole_number(text: str) -> int:
        is_one = text.isdecimal() and len(text) < 20 and lowest <= int(text) <= highest
        _require(is_one, text[:20], f"wanted a number from {lowest} up to {highest:,}")
        return int(text)

    return whole_number


def _run(text: str) -> Run:
    try:
        return Run(text)
    except ValueError as error:  # argparse would hide what is wrong
        raise argparse.ArgumentTypeError(str(error)) from error


def _recording(text: str) -> Path:
    _require(Path(text).is_file(), text, "no file there; wanted a recording, EDF for example")
    return Path(text)


def _file(text: str) -> Path:
    path = Path(text)
    _require("\0" not in text, repr(text), "wanted the name of a file")
    _require(not path.is_dir(), text or "''", "a folder; wanted the name of a file")
    _require(path.is_file() or not path.exists(), text, "no regular file; name another one")
    _require(path.parent.is_dir(), text, f"there is no folder {path.parent}; make it first")
    _require(os.access(path.parent, os.W_OK), text, f"{path.parent} is not writable")
    return path


def _model_file(text: str) -> Path:
    _require(Path(text).suffix in (".onnx", ".keras"), text, "wanted a .onnx or .keras file")
    return _file(text)


def _folder(text: str) -> Path:
    _require(bool(text.strip()), repr(text), "wanted the name of a folder")
    path = Path(text).absolute()
    there = next(place for place in (path, *path.parents) if place.exists())
    _require(there.is_dir() and os.access(there, os.W_OK), text, f"{there} is no writable folder")
    return Path(text)


class _Runs(argparse.Action):
    def __call__(self, parser, args, values, flag=None):
        args.run = released_blend() if values == ["all"] else [Run(value) for value in values]


_CHOICE = "folders of runs, or `all`: the blend of the released ones; default: chosen and printed"
_RATERS = "votes per window to calibrate for; hidden test: seemingly 10 or more; default: any"
_SHARED = {  # arguments of several commands
    "--data": {"type": find_competition, "help": "competition folder; default: found or simulated"},
    "--split": {"choices": ("train", "test"), "help": "default: test"},
    "--run": {"action": _Runs, "nargs": "+", "help": _CHOICE},
    "--raters": {"type": _number(1, 1000), "help": _RATERS},
    "--jobs": {"type": _number(1, 1024), "help": "processes; default: all cores"},
}


def main(argv: list[str] | None = None) -> None:
    warnings.formatwarning = lambda message, *_, **__: f"hmsutils: {message}\n"
    for stream in (sys.stdout, sys.stderr):  # a pipe on Windows has not every character
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        args = _parser().parse_args(argv)
        args.run_command(args)
    except Exception as error:  # of any library: a user wants one sentence
        if os.environ.get("HMS_TRACEBACK"):
            raise
        known = isinstance(error, ValueError | OSError | RuntimeError | ImportError)
        kind = "" if known else f"{type(error).__name__} (HMS_TRACEBACK=1 shows where): "
        print("hmsutils:", kind + " ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
