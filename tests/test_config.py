"""Configs: JSON and back, profiles, and what single models and concatenations start from."""

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import ClassVar

import pytest

from hmsutils import config as configs
from hmsutils import representations
from hmsutils.augment import AugmentConfig
from hmsutils.competition import Competition
from hmsutils.config import PROFILES, RELEASED, TrainConfig
from hmsutils.representations import Image, Representation, WaveNetInput
from hmsutils.signals import DOUBLE_BANANA

SIMULATED = Competition(Path("nowhere"), "simulated")
NAMES = ("mobilenet_v3_large", "wavenet")


@dataclass(frozen=True)
class Peaks(Representation):
    """A representation that the package does not know."""

    pairs: tuple[tuple[str, str], ...] = DOUBLE_BANANA
    input: ClassVar[str] = "peaks"


ODD = TrainConfig(
    towers=NAMES, init_from=("a", "b"), augmentation=AugmentConfig(mixup=0.4, extra={"toy": 0.5}),
    inputs={"image": Image(n_frames=32), "eeg": WaveNetInput(bandpass_hz=None), "peaks": Peaks()},
)  # fmt: skip


@pytest.mark.parametrize("config", [*PROFILES.values(), ODD], ids=[*PROFILES, "odd"])
def test_configs_survive_json_exactly(config):
    values = json.loads(json.dumps(configs.to_dict(config)))
    assert configs.from_dict(values) == config
    assert configs.from_dict(configs.to_dict(config)) == config
    assert json.loads(json.dumps(configs.to_dict(configs.from_dict(values)))) == values


def test_the_json_is_flat_and_names_every_setting_and_representation():
    values = configs.to_dict(ODD)
    assert list(values) == [f.name for f in fields(TrainConfig)]
    types = {name: values["inputs"][name]["type"] for name in ODD.inputs}
    assert types == {"image": "Image", "eeg": "WaveNetInput", "peaks": "Peaks"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": 1, "epoch": 2}, "TrainConfig: unknown settings epoch, lr"),
        ({"wavenet": {"kernel": 3}}, "WaveNetConfig: unknown settings kernel"),
        ({"augmentation": {"swap": 0.5}}, "AugmentConfig: unknown settings swap"),
        ({"inputs": {"image": {"type": "Image", "frames": 3}}}, "Image.*frames"),
        ({"inputs": {"image": {"type": "Picture"}}}, "'Picture' is unknown"),
    ],
)
def test_unknown_settings_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        configs.from_dict(values)


VALUES = [
    ({"epochs": 2.5}, "TrainConfig: epochs is 2.5, wanted int"),
    ({"epochs": 0}, "TrainConfig: epochs is 0, wanted from 1 to"),
    ({"epochs": True}, "TrainConfig: epochs is True, wanted int"),
    ({"seed": -1}, "TrainConfig: seed is -1"),
    ({"batch_size": "32"}, "TrainConfig: batch_size is '32', wanted int"),
    ({"learning_rate": float("nan")}, "TrainConfig: learning_rate is nan, wanted float"),
    ({"learning_rate": -1e-3}, "TrainConfig: learning_rate is -0.001"),
    ({"dropout": 1.0}, "TrainConfig: dropout is 1.0"),
    ({"precision": "float8"}, "precision is 'float8', wanted one of float32, mixed"),
    ({"towers": "wavenet"}, "TrainConfig: towers is 'wavenet'"),
    ({"towers": [1]}, r"TrainConfig: towers is \(1,\)"),
    ({"freeze_towers": 1}, "TrainConfig: freeze_towers is 1, wanted bool"),
    ({"folds": []}, r"TrainConfig: folds is \(\)"),
    ({"folds": [0, 0]}, "TrainConfig: folds is .*, wanted different numbers below n_folds"),
    ({"folds": [5]}, "TrainConfig: folds is .*, wanted different numbers below n_folds, 5"),
    ({"wavenet": 5}, "TrainConfig: wavenet is 5, wanted WaveNetConfig"),
    ({"wavenet": {"dilations": []}}, r"WaveNetConfig: dilations is \(\)"),
    ({"wavenet": {"dilations": [1, 0]}}, "WaveNetConfig: dilations is"),
    ({"augmentation": {"mixup": -1}}, "AugmentConfig: mixup is -1"),
    ({"augmentation": {"extra": {"toy": "x"}}}, "AugmentConfig: extra is"),
    ({"inputs": {"eeg": {"type": "WaveNetInput", "scale_uv": 0}}}, "WaveNetInput: scale_uv is 0"),
    ({"inputs": {"eeg": {"type": "WaveNetInput", "decimate": 0}}}, "WaveNetInput: decimate is 0"),
    ({"inputs": {"image": {"type": "Image", "n_mels": 0}}}, "Image: n_mels is 0, wanted from 1"),
    ({"inputs": {"image": {"type": "Image", "n_mels": 100_000}}}, "Image: n_mels is 100000"),
    ({"inputs": {"image": {"type": "Image", "floor_db": 60}}}, "wanted a floor below the ceiling"),
    (
        {"inputs": {"image": {"type": "Image", "bandpass_hz": [20, 0.5]}}},
        "wanted the lower end first",
    ),
    ({"inputs": {"eeg": {"type": "WaveNetInput", "bandpass_hz": [5, 5]}}}, "wanted the lower end"),
    ({"inputs": {"eeg": {"type": "WaveNetInput", "pairs": []}}}, r"pairs is \(\), wanted two diff"),
    ({"inputs": {"eeg": {"type": "WaveNetInput", "pairs": [["Fz", "Fz"]]}}}, "two different ones"),
    ({"inputs": {"image": {"type": "Image", "durations_s": [50, 25]}}}, "Image: durations_s is"),
]


@pytest.mark.parametrize(("values", "message"), VALUES)
def test_values_that_cannot_be_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        configs.from_dict(values)


def test_a_profile_takes_settings_parts_of_nested_ones_too(capsys):
    settings = {
        "epochs": 7, "inputs": {"image": {"n_frames": 32}}, "wavenet": {"filters": 4},
        "augmentation": {"mixup": 0.2},
    }  # fmt: skip
    config, demo = configs.profile(SIMULATED, None, settings), PROFILES["demo"]
    assert config == replace(
        demo, epochs=7, wavenet=replace(demo.wavenet, filters=4),
        inputs=demo.inputs | {"image": replace(demo.inputs["image"], n_frames=32)},
        augmentation=replace(demo.augmentation, mixup=0.2),
    )  # fmt: skip
    assert "Profile: demo (the competition is simulated) epochs=7" in capsys.readouterr().out
    assert configs.profile(SIMULATED) == demo
    assert configs.profile(replace(SIMULATED, kind="local")) == PROFILES["full"]
    for wrong, message in (
        ({"epoch": 7}, "TrainConfig: unknown settings epoch"),
        ({"inputs": {"image": {"frames": 3}}}, "Image.*frames"),
    ):
        with pytest.raises(ValueError, match=message):
            configs.profile(SIMULATED, None, wrong)
    with pytest.raises(ValueError, match="'huge' is unknown; choose from full, demo, smoke"):
        configs.profile(SIMULATED, "huge")


@pytest.mark.parametrize("peaks", [Peaks(), representations.to_dict(Peaks())])
def test_a_profile_takes_another_representation(peaks):
    settings = {"inputs": {"image": peaks, "peaks": peaks}}
    config, demo = configs.profile(SIMULATED, "demo", settings), PROFILES["demo"]
    assert config.inputs == {"image": Peaks(), "eeg": demo.inputs["eeg"], "peaks": Peaks()}


def test_the_full_profile_follows_the_ablations():
    full = PROFILES["full"]
    assert full.max_rows_per_label_group == 5 and full.ema_momentum == 0
    assert full.inputs["image"].context_channels == [1] and full.augmentation.drop_context == 0.2
    assert full.precision == "auto" and PROFILES["demo"].precision == "float32"
    off = ("gain_db", "drop_channel", "mixup")
    assert not any(getattr(full.augmentation, name) for name in off)
    assert PROFILES["demo"].max_rows_per_label_group == 1


def test_a_wavenet_without_trained_weights_learns_faster_than_backbones():
    for weights in ("imagenet", None):
        config = TrainConfig(weights=weights)
        both = {t: configs.single_config(config, t) for t in ("densenet201", "wavenet")}
        assert both["densenet201"] == replace(config, towers=("densenet201",))
        assert both["wavenet"].learning_rate == pytest.approx(5 * config.learning_rate)
    released = replace(config, init_from=RELEASED)
    assert configs.single_config(released, "wavenet").learning_rate == config.learning_rate


def test_a_concat_starts_from_its_single_runs_at_a_tenth_of_the_rate():
    config = TrainConfig(epochs=9)
    assert configs.concat_config(config, NAMES, ["a", "b"]) == replace(
        config, towers=NAMES, weights=None, init_from=("a", "b"), epochs=4,
        learning_rate=0.1 * config.learning_rate,
    )  # fmt: skip


def test_a_concat_goes_on_from_what_is_released_else_trains_its_head(monkeypatch):
    config = replace(PROFILES["demo"], learning_rate=2e-4)
    assert configs.concat_config(config, NAMES, ["a", "b"]) == replace(config, towers=NAMES)
    monkeypatch.setattr(configs, "released_runs", lambda pattern: [])
    head = replace(config, towers=NAMES, init_from=("a", "b"), freeze_towers=True)
    assert configs.concat_config(config, NAMES, ["a", "b"]) == replace(head, learning_rate=1e-3)
    assert head.freeze_batch_norm
