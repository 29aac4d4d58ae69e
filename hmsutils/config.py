"""What is trained and how: one flat config, written as JSON into every run, and its profiles."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import ClassVar

from hmsutils import competition as ground
from hmsutils import representations
from hmsutils.augment import AugmentConfig
from hmsutils.competition import Competition
from hmsutils.models import WAVENET, ModelConfig, WaveNetConfig
from hmsutils.representations import Image, Representation, WaveNetInput
from hmsutils.runs import Run, released_runs

RELEASED = ("released",)


@dataclass(frozen=True)
class TrainConfig(ModelConfig):
    """One run: a network, what it starts from, what it learns from, and how."""

    weights: str | None = "imagenet"  # of the backbones where `init_from` is empty; None: random
    # Runs to start from, by folder, relative to that of the runs: one of the same towers, or one of
    # each tower (models.warm_start). RELEASED: the released one of these towers, else one of each.
    init_from: tuple[str, ...] = ()
    freeze_towers: bool = False  # train the head alone
    freeze_batch_norm: bool = False  # keep the batch statistics that it starts with
    augmentation: AugmentConfig = AugmentConfig()
    max_rows_per_label_group: int = 1  # rows of equal votes; every epoch shows a random one of them
    n_folds: int = 5  # groups of patients
    folds: tuple[int, ...] = (0, 1, 2, 3, 4)  # those held out, one after the other
    epochs: int = 20  # all of them: the weights kept are those after the last one
    batch_size: int = 32
    learning_rate: float = 1e-3
    warmup_fraction: float = 0.1  # of all steps
    weight_decay: float = 0.01
    min_votes: int = 1  # train on windows with so many votes or more
    refine_votes: int = 0  # then a second stage, on windows with so many votes or more; 0: none
    ema_momentum: float = 0.0  # of averaged weights, which are evaluated and kept; 0: the last ones
    precision: str = "float32"  # or "mixed_bfloat16", "mixed_float16"; "auto": as the GPU has it
    seed: int = 0

    RANGES: ClassVar = ModelConfig.RANGES | {
        "max_rows_per_label_group": (1, 9999), "n_folds": (2, 999), "folds": (0, 998),
        "epochs": (1, 99_999), "batch_size": (1, 99_999),
        "learning_rate": (0, 9), "warmup_fraction": (0, 1), "weight_decay": (0, 9),
        "min_votes": (0, 999), "refine_votes": (0, 999), "ema_momentum": (0, 0.99999),
        "precision": ("float32", "mixed_bfloat16", "mixed_float16", "auto"), "seed": (0, 2**32 - 1),
    }  # fmt: skip

    def __post_init__(self):
        super().__post_init__()
        folds = sorted(set(self.folds))
        if not folds or len(folds) < len(self.folds) or folds[-1] >= self.n_folds:
            wanted = f"different numbers below n_folds, {self.n_folds}"
            raise ValueError(f"TrainConfig: folds is {self.folds}, wanted {wanted}")


# What the notebooks run. "full" is for the competition's files and a GPU; "demo" fits two CPU
# cores, where only a start from released weights has learned something after two epochs, on windows
# changed as little as those that they learned from; "smoke" only proves that everything runs.
# The numbers in "full" are changes of KL, in benchmarks/ablation_competition.md and, second, in
# ablation_recipe.md: of a WaveNet after 4 and after 2 epochs on 8,000 and on 4,000 windows. They
# are still to be measured at the length of a serious run.
PROFILES = {
    "full": TrainConfig(
        # The competition's 10 minutes instead of 25 s: −.038, interval −.080 … +.002, on, as in
        # public results on the real files; where a file is absent +.046. See ablation_context.md,
        # of a MobileNetV3-Large after 20 epochs of 1,650 windows.
        inputs={"image": Image(durations_s=(50.0, 600.0, 10.0)), "eeg": WaveNetInput()},
        epochs=15,
        precision="auto",
        max_rows_per_label_group=5,  # −.009: on
        refine_votes=10,  # +.070, +.053 after so few epochs: on, as the hidden test has ≥ 10 votes
        ema_momentum=0.0,  # +.035, +.026: off
        augmentation=AugmentConfig(
            shift_s=1.0,  # +.004, −.001, both intervals include 0: on
            gain_db=0.0,  # +.010, +.006: off
            drop_channel=0.0,  # +.011, +.004: off
            time_mask=0.1,  # −.005, +.001, both intervals include 0: on
            frequency_mask=0.1,  # not measured, a WaveNet has no frequency axis: on
            drop_context=0.2,  # so that 50 s alone can be predicted: on
            mixup=0.0,  # +.015, +.013: off
        ),
    ),
    "demo": TrainConfig(
        weights=None, init_from=RELEASED, freeze_batch_norm=True, n_folds=3, folds=(0,), epochs=2,
        inputs={"image": Image(16, 64), "eeg": WaveNetInput()}, batch_size=16, learning_rate=1e-4,
        wavenet=WaveNetConfig(32, features=96), dropout=0.1, standard_strides=True,
        augmentation=AugmentConfig(drop_channel=0.02, time_mask=0.0, frequency_mask=0.0),
    ),
    "smoke": TrainConfig(
        weights=None, inputs={"image": Image(8, 32), "eeg": WaveNetInput()}, n_folds=3, folds=(0,),
        wavenet=WaveNetConfig(8, features=16), epochs=1, batch_size=16,
    ),
}  # fmt: skip


def profile(
    competition: Competition, name: str | None = None, settings: Mapping = MappingProxyType({})
) -> TrainConfig:
    """A profile (None: "demo" for a simulated competition, else "full") with some settings of its
    `TrainConfig` replaced, parts of nested ones too: {"inputs": {"image": {"n_frames": 128}}}.
    ValueError: no such profile, or no such setting."""
    why = "it was asked for" if name else f"the competition is {competition.kind}"
    name = name or ("demo" if competition.kind == "simulated" else "full")
    if name not in PROFILES:
        raise ValueError(f"profile: {name!r} is unknown; choose from {', '.join(PROFILES)}")
    print(f"Profile: {name} ({why})", *(f"{k}={v}" for k, v in settings.items()))
    return from_dict(_merged(to_dict(PROFILES[name]), settings))


def _merged(values: Mapping, changes: Mapping) -> dict:
    """`values` with `changes`; mappings are merged, but for a representation of another type."""
    merged = dict(values)
    for key, change in changes.items():
        partial = isinstance(change, Mapping) and key in values and "type" not in change
        merged[key] = _merged(values[key], change) if partial else change
    return merged


def single_config(config: TrainConfig, tower: str) -> TrainConfig:
    """One tower alone; an untrained WaveNet learns at five times the backbones' rate."""
    factor = 5 if tower == WAVENET and not config.init_from else 1  # benchmarks/ablation_recipe.md
    return replace(config, towers=(tower,), learning_rate=factor * config.learning_rate)


def concat_config(
    config: TrainConfig, towers: Sequence[str], singles: Sequence[str]
) -> TrainConfig:
    """A concatenation that starts from single runs, whose folders lie where its own will: trained
    for half of the epochs at a tenth of the learning rate. Where `config` starts from what is
    released: the released concatenation, if there is one, else only the head is trained."""
    config = replace(config, towers=tuple(towers))
    from_singles = replace(config, weights=None, init_from=tuple(singles))
    if config.init_from != RELEASED:
        epochs = max(1, config.epochs // 2)
        return replace(from_singles, learning_rate=0.1 * config.learning_rate, epochs=epochs)
    if released_runs(config.name):
        return config
    return replace(from_singles, freeze_towers=True, learning_rate=1e-3)


def to_dict(config: TrainConfig) -> dict:
    """What JSON can hold; a representation also names its class."""
    inputs = {name: representations.to_dict(rep) for name, rep in config.inputs.items()}
    return asdict(config) | {"inputs": inputs}


def of_run(run: Run) -> TrainConfig:
    """The config of a run; ValueError, which names its folder, for what cannot be one."""
    try:
        return from_dict(run.config)
    except Exception as error:  # whatever a file may hold
        raise ValueError(f"{run.folder}: its config cannot be used: {error}") from error


def from_dict(values: Mapping) -> TrainConfig:
    """A config from `to_dict`, also after JSON; ValueError for settings that do not exist, or
    values that they cannot have."""
    given = dict(values.get("inputs", {}))
    for name, r in given.items():
        given[name] = r if isinstance(r, Representation) else representations.from_dict(r)
    return ground.from_dict(TrainConfig, {**values, **({"inputs": given} if given else {})})
