"""`hmsutils COMMAND`, or `python -m hmsutils COMMAND`: command lines over the package's functions.

A user's mistake is answered with one sentence and exit status 2. Arguments are checked before
TensorFlow is imported, which takes some seconds, so every command imports what it needs itself.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, count
from pathlib import Path

from hmsutils.competition import Competition, home_dir, write_csv
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

    competition, split = _data(args)
    windows = records.load_windows(competition, split, on_problem="exclude")
    inputs = {"image": Image(args.mels, args.frames), "eeg": WaveNetInput()}
    options = {"split": split, "out_dir": args.out, "n_jobs": args.jobs}
    for name, array in store.build(competition, windows, inputs, **options).items():
        print(f"{name}: {array.shape} {array.dtype} in {Path(array.filename).parent}")


def _data(args: argparse.Namespace) -> tuple[Competition, str]:
    """The competition and its split: test, where there is one."""
    competition = args.data or find_competition()
    has_test = table_path(competition, "test").exists()
    return competition, args.split or ("test" if has_test else "train")


def predict(args: argparse.Namespace) -> None:
    if args.recordings and args.data:
        raise ValueError(f"predict takes a recording or --data, not both: {args.recordings[0]}")
    if args.recordings and args.split:
        raise ValueError(
            f"predict: --split {args.split} is that of a competition, not of a recording"
        )
    if args.recordings:
        return _predict_recordings(args)
    for option in ("unit", "step", "events", "report", "edf"):
        if (value := getattr(args, option)) is not None:
            raise ValueError(f"predict: --{option} {value} is that of a recording; name one")
    out = _file("submission.csv" if args.out is None else args.out)
    competition, split = _data(args)
    inside = out.resolve().is_relative_to(competition.root.resolve())
    if inside and (out.suffix != ".csv" or out.stem in INPUT_TABLES):
        raise ValueError(f"predict: --out {out} is one of the inputs; name another file")
    read_ids(table_path(competition, split))
    from hmsutils import inference

    models = _load(args.run or inference.default_runs(competition))
    table = inference.make_submission(models, competition, split, raters=args.raters)
    write_csv(out, table)
    print(f"{out}: {len(table)} valid rows")


def _predict_recordings(args: argparse.Namespace) -> None:
    """One after the other. Finished pieces lie beside the output until all recordings are done, so
    that the same command goes on where it was killed."""
    outputs, models, unread, unfinished, pieces = _outputs(args), None, [], [], []
    keep = next(iter(outputs.values()))["out"].with_name(".hmsutils-pieces")
    from hmsutils.recordings import read_recording  # and numba

    for k, (path, paths) in enumerate(outputs.items(), 1):
        with _the_others_go_on(unread, len(outputs)):
            recording = None
            recording = read_recording(path, args.unit)
        if recording is None:
            continue
        from hmsutils import inference

        if not models:
            models = _load(args.run or inference.default_runs())
            models = inference.for_raters(models, args.raters)
        options = {"step_s": args.step or 10, "keep": keep}
        title = f"File {k} of {len(outputs)}" if len(outputs) > 1 else "Predicting"
        with _the_others_go_on(unfinished, len(outputs)):
            table = inference.predict_recording(models, recording, title=title, **options)
            unfinished += _write(paths, recording, table, models)[:1]
            pieces += inference.kept_pieces(models, recording, **options)
    if not unfinished:
        for piece in pieces:
            piece.unlink(missing_ok=True)
        with suppress(OSError):  # another command has pieces there, or there was none
            keep.rmdir()
    if failed := len(unread + unfinished):
        print(f"hmsutils: {failed} of {len(outputs)} recordings failed", file=sys.stderr)
        raise SystemExit(2)


def _load(chosen: Sequence[Run] | dict[Run, float]) -> Sequence:
    """The models, and TensorFlow where they need it, once the data are known to be good."""
    from hmsutils import inference

    with warnings.catch_warnings(record=True) as said, _quietly():
        models = inference.load_models(chosen)
    for warning in said:
        warnings.warn(warning.message, stacklevel=3)
    return models


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what TensorFlow's C++ says while it is imported, whatever its level is set to."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def _the_others_go_on(failed: list[Exception], n: int) -> Iterator[None]:
    """An error of one of `n` things is one sentence and a row of `failed`."""
    try:
        yield
    except Exception as error:
        if n == 1 or os.environ.get("HMS_TRACEBACK"):
            raise
        print("hmsutils:", _sentence(error), file=sys.stderr)
        failed.append(error)


def _write(paths: dict[str, Path], recording, table, models) -> list[Exception]:
    """Write what is wanted of a recording, and print what it is; why some could not be written."""
    from hmsutils import events

    problems = table["problem"].value_counts().drop("", errors="ignore")
    for problem, n in problems.items():
        print(f"{n} of {len(table)} rows have no prediction: {problem}")
    rows = f"{len(table)} rows, {len(table) - problems.sum()} with a prediction"
    found, failed = events.find_events(table), []
    found["channels"] = events.find_channels(recording, found) if len(paths) > 1 else ""
    minutes = found.groupby("event")["duration_s"].agg(["size", "sum"]).itertuples()
    said = ", ".join(f"{name} {n} ({total / 60:.1f} min)" for name, n, total in minutes)

    def report(path: Path) -> None:
        with _quietly():
            from hmsutils.report import write_report  # and TensorFlow

        write_report(path, recording, table, found, models)

    facts = recording.duration_s, recording.start
    writers = {"out": lambda path: write_csv(path, table, float_format="%.6f"), "report": report}
    writers |= {"events": lambda path: events.write_events(path, found, *facts)}
    writers |= {"edf": lambda path: events.write_annotated(path, recording, found)}
    for option, path in paths.items():
        if option in ("events", "edf") and len(table) == problems.sum():
            older = "; the one that lies there is from before" * path.exists()
            print(f"{path}: not written, as nothing could be predicted{older}")
            continue
        with _the_others_go_on(failed, len(paths)):
            path.parent.mkdir(parents=True, exist_ok=True)
            writers[option](path)
            print(f"{path}: {rows if option == 'out' else said or 'no events'}")
    return failed


# How outputs end, so that none is a part of a recording (.eeg, .fdt); of several recordings, they
# seldom have the name of another file.
_ENDS = {"out": "_probabilities.csv", "events": "_events.tsv", "report": "_report.html"}
_ENDS |= {"edf": "_annotated.edf"}
_FORMATS = (".edf", ".bdf", ".vhdr", ".set")  # of BIDS; first
_FORMATS_ELSEWHERE = (*_FORMATS, ".rec", ".fif", ".gdf", ".cnt")
_NOT_COPIED = {*_FORMATS_ELSEWHERE, ".parquet"} - {".edf", ".bdf", ".rec"}


def _several(args: argparse.Namespace) -> bool:
    return len(args.recordings) > 1 or args.recordings[0].is_dir()


def _outputs(args: argparse.Namespace) -> dict[Path, dict[str, Path]]:
    """{recording: {option: the file to write}}. ValueError: an input would be overwritten, or what
    else does not fit together."""
    found, inputs = [path for named in args.recordings for path in _recordings_in(named)], {}
    for path in sorted(found, key=Path.is_symlink):  # a file before links to it
        inputs.setdefault(_inode(path), path)
    if twice := len(found) - len(inputs):
        said = f"hmsutils: {twice} of {len(found)} names are of files that have another one there"
        print(said, file=sys.stderr)
    default = "probabilities" if _several(args) else "probabilities.csv"
    named = {"out": default if args.out is None else args.out}
    named |= {x: y for x in ("events", "report", "edf") if (y := getattr(args, x)) is not None}
    if (args.step or 10) > 10 and (option := next((x for x in named if x != "out"), None)):
        wanted = "wanted 10 or less, as a row is about 10 s"
        raise ValueError(f"predict: --{option} with --step {args.step}; {wanted}")
    named = {x: (_folder if _several(args) else _file)(y) for x, y in named.items()}
    outputs, stems = {}, _stems(inputs.values())
    for path, stem in zip(inputs.values(), stems, strict=True):
        is_bdf = path.suffix.lower() == ".bdf"
        ends = _ENDS | ({"edf": "_annotated.bdf"} if is_bdf else {})
        outputs[path] = {x: Path(y, stem + ends[x]) for x, y in named.items()}
        if not _several(args):
            outputs[path] = dict(named)
        for option, file in outputs[path].items():
            if file.exists() and _inode(file) in inputs:
                raise ValueError(f"predict: {file} is the recording itself; name another file")
            if file.suffix.lower() != (end := Path(ends[option]).suffix):
                raise ValueError(f"predict: --{option} {file}; wanted a file{end}")
            if option == "edf" and path.suffix.lower() in _NOT_COPIED:
                raise ValueError(f"predict: --edf copies EDF and BDF, which {path} is not")
    return outputs


def _recordings_in(place: Path) -> list[Path]:
    """A file; the recordings in a folder, in BIDS: all below it that are no derivatives. What else
    may be EEG is counted in one line. ValueError: there is no recording."""
    if place.is_file():
        return [place]
    bids = (place / "dataset_description.json").exists() or any(place.glob("sub-*/"))
    found, omitted = {}, ("derivatives",) if bids else ()
    for path in place.rglob("*") if bids else place.iterdir():
        names = path.relative_to(place).parts
        kind = _kind(path, bids)
        if kind is not None and not any(name in omitted or name[0] == "." for name in names):
            found.setdefault(kind, []).append(path)
    recordings = sorted(found.pop("", []))
    left = ", ".join(f"{len(x)} {kind} (first: {min(x).name})" for kind, x in found.items())
    left = f"; not read: {left}" if left else ""
    if not recordings:
        wanted = f"wanted files of {', '.join(_FORMATS if bids else _FORMATS_ELSEWHERE)}"
        raise ValueError(f"{place}: no recording in this folder; {wanted}{left}")
    if left:
        print(f"hmsutils: {place}: {len(recordings)} recordings{left}", file=sys.stderr)
    return recordings


def _kind(path: Path, bids: bool) -> str | None:
    """Why something in a folder is not read; "" for a recording, None for what is no EEG."""
    if path.is_dir():
        return None if bids else "folders"
    if path.suffix.lower() not in _FORMATS_ELSEWHERE:
        return None
    if not path.is_file():
        return "links to nothing" if path.is_symlink() else None
    if path.stem.endswith("_annotated"):
        return "annotated copies"
    is_named = path.stem.endswith("_eeg") and path.suffix.lower() in _FORMATS
    return "files not named *_eeg" if bids and not is_named else ""


def _inode(path: Path) -> tuple[int, int]:
    """Of a file, the same for every link to it and every way to write its name."""
    return path.stat().st_dev, path.stat().st_ino


def _stems(paths: Iterable[Path]) -> list[str]:
    """How the outputs of recordings are called; what would be called the same begins with the name
    of the recording's folder, or else ends with a number."""
    stems, taken = [], set()
    for path in paths:
        stem, folder = path.stem, path.resolve().parent.name
        numbered = (f"{folder}_{stem}_{k}" for k in count(2))
        free = (x for x in chain((stem, f"{folder}_{stem}"), numbered) if x.lower() not in taken)
        stems.append(next(free))
        taken.add(stems[-1].lower())
    return stems


def app(args: argparse.Namespace) -> None:
    offered = _offered(args.recordings)
    with _quietly():
        from hmsutils.app import serve  # and Gradio, TensorFlow

    serve(offered, args.labels, port=args.port, browser=args.browser)


def _offered(places: Sequence[Path]) -> dict[str, Path | Competition]:
    """What the page can open without an upload, by the names that it shows: recordings, those in
    folders, and competitions; where nothing is named, the competition and the samples at hand."""
    data, offered = home_dir() / "data", {}
    at_hand = [x for x in (data / "raw", data / "demo", data / "iiic_real") if x.is_dir()]
    for place in places or at_hand:
        with suppress(FileNotFoundError):
            if place.is_dir() and (there := find_competition(place, verbose=False)):
                offered[str(place)] = there
                continue
        for path in _recordings_in(place) if places else ():
            name = path.name if len(places) == 1 else str(path)
            offered[name if name not in offered else str(path)] = path
    return offered


def export(args: argparse.Namespace) -> None:
    from hmsutils import inference

    with _quietly():
        from hmsutils.export import one_model, save

    models = _load(args.run or inference.default_runs())
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
    _add_predict(command)
    _add_app(add(app, "open a local page to look at EEG and label it"))
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


_RECORDINGS = "EDF, BDF, or what MNE reads; several, or a folder of them, BIDS for example"


def _add_predict(command: argparse.ArgumentParser) -> None:
    places = {"metavar": "RECORDING", "type": _recording, "nargs": "*"}
    command.add_argument("recordings", help=_RECORDINGS, **places)
    group = command.add_argument_group("for recordings")
    group.add_argument("--unit", help="of the recording, where its header does not say: uV, mV …")
    group.add_argument("--step", type=_number(1, 3600), help="seconds; default: 10")
    names = "default: submission.csv; of a recording: probabilities.csv"
    command.add_argument("--out", help=f"file to write, of several recordings a folder; {names}")
    group.add_argument("--events", help="file.tsv of seizures and patterns to write, or a folder")
    group.add_argument("--report", help="file.html to write for clinicians, or a folder")
    group.add_argument("--edf", help="annotated copy of an EDF or BDF to write, or a folder")


def _add_app(command: argparse.ArgumentParser) -> None:
    places = {"metavar": "FILE", "type": _recording, "nargs": "*"}
    command.add_argument("recordings", help=f"{_RECORDINGS}; or a competition", **places)
    labels = {"type": _folder, "default": home_dir() / "data" / "labels"}
    command.add_argument("--labels", help="folder for own labels; default: data/labels", **labels)
    command.add_argument("--port", type=_number(1, 65_535), help="default: a free one from 7860 up")
    only = {"dest": "browser", "action": "store_false", "help": "only print the address"}
    command.add_argument("--no-browser", **only)


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
    there = Path(text).is_file() or Path(text).is_dir()
    _require(there, text, "no file there; wanted a recording, EDF for example, or a folder")
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
    "--split": {"choices": ("train", "test"), "help": "default: test, if there is one"},
    "--run": {"action": _Runs, "nargs": "+", "help": _CHOICE},
    "--raters": {"type": _number(1, 1000), "help": _RATERS},
    "--jobs": {"type": _number(1, 1024), "help": "processes; default: all cores"},
}


def _sentence(error: Exception) -> str:
    known = ValueError | OSError | RuntimeError | ImportError | argparse.ArgumentTypeError
    kind = f"{type(error).__name__} (HMS_TRACEBACK=1 shows where): "
    return ("" if isinstance(error, known) else kind) + " ".join(str(error).split())


def main(argv: list[str] | None = None) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # else TensorFlow's own lines hide these
    warnings.formatwarning = lambda message, *_, **__: f"hmsutils: {message}\n"
    for stream in (sys.stdout, sys.stderr):  # a pipe on Windows has not every character
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        args = _parser().parse_args(argv)
        args.run_command(args)
    except KeyboardInterrupt:
        print("\nhmsutils: stopped", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:  # of any library: a user wants one sentence
        if os.environ.get("HMS_TRACEBACK"):
            raise
        print("hmsutils:", _sentence(error), file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
