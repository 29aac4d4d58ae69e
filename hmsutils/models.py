"""The networks: four ImageNet backbones, a WaveNet, and their concatenations.

Every model takes {name of an input: (N, *shape)}, see `representations`, and ends in a float32
softmax over the six classes. Backbones are built without a rescaling layer: images in [0, 1] are
what KerasCV's presets saw behind theirs.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import ClassVar

import numpy as np

from hmsutils.competition import CLASSES, check_values, home_dir, kaggle_input
from hmsutils.representations import Image, Representation, WaveNetInput

# The modules of KerasCV's backbones, by the class in them, and of the layers that they take from
# `keras_cv.src.layers`. 0.9 is its last release: the names will not change.
_FAMILIES = {
    "DenseNetBackbone": "densenet",
    "EfficientNetV2Backbone": "efficientnet_v2",
    "MobileNetV3Backbone": "mobilenet_v3",
    "ResNetV2Backbone": "resnet_v2",
}
_LAYERS = {
    "FusedMBConvBlock": "fusedmbconv",
    "MBConvBlock": "mbconv",
    "DropPath": "regularization.drop_path",
    "SqueezeAndExcite2D": "regularization.squeeze_excite",
}


_ONE_AT_A_TIME = Lock()


class _ImportedOnUse:
    """Keras, and TensorFlow with it, which take seconds and which configs do without."""

    def __getattr__(self, name: str):
        return getattr(import_module("keras"), name)


keras = _ImportedOnUse()


def _kerascv() -> dict[str, ModuleType]:
    with _ONE_AT_A_TIME:
        return _load_kerascv()


@cache
def _load_kerascv() -> dict[str, ModuleType]:
    """KerasCV's modules of `_FAMILIES`, on any backend of Keras. Its packages import TensorFlow and
    these modules do not, so empty modules stand in place of the packages meanwhile. Whoever imports
    keras_cv elsewhere, before or after, has the whole of it."""
    found = find_spec("keras_cv")
    if found is None:
        raise ModuleNotFoundError("models: KerasCV is missing; pip install keras-cv==0.9.0")
    root, package = Path(found.origin).parent, "keras_cv.src.models.backbones"
    before = {name: sys.modules.pop(name) for name in _loaded("keras_cv")}
    names = ["keras_cv.src." + name for name in ("backend", "utils", "layers.regularization")]
    try:
        for name in [*names, *(f"{package}.{family}" for family in _FAMILIES.values())]:
            parts = name.split(".")
            for i in range(1, len(parts) + 1):
                name = ".".join(parts[:i])
                shell = sys.modules.setdefault(name, ModuleType(name))
                shell.__path__ = [str(root.joinpath(*parts[1:i]))]
        name = "keras_cv.src.backend.config"
        config = sys.modules[name] = ModuleType(name)
        config.keras_3 = lambda: True  # the real one asks TensorFlow
        vars(sys.modules["keras_cv.src.backend"]).update(
            keras=import_module("keras"), ops=keras.ops
        )
        for name, file in _LAYERS.items():
            layer = getattr(import_module(f"keras_cv.src.layers.{file}"), name)
            setattr(sys.modules["keras_cv.src.layers"], name, layer)
        modules = {k: import_module(f"{package}.{v}.{v}_backbone") for k, v in _FAMILIES.items()}
    finally:
        for name in _loaded("keras_cv"):
            del sys.modules[name]
        sys.modules.update(before)
    return modules


def _loaded(package: str) -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] == package]


def kerascv_backbone(spec: "BackboneSpec", shape: tuple, weights: str | Path | None):
    """(N, H, W, 3) in [0, 1] → (N, h, w, features). Only this, `_kerascv` and the next touch
    KerasCV."""
    family = getattr(_kerascv()[spec.builder], spec.builder)
    options = {"include_rescaling": False, "input_shape": shape}
    if weights is None:
        return family(**spec.arguments, **options)
    folder = preset_folder(spec) if weights == "imagenet" else Path(weights)
    # Where the whole of KerasCV was imported too, its class would have the name of this one.
    with keras.saving.custom_object_scope({keras.saving.get_registered_name(family): family}):
        return family.from_preset(str(folder), load_weights=True, **options)


def kerascv_objects() -> dict[str, type]:
    """What `keras.models.load_model` needs to read a whole model with a KerasCV backbone."""

    class HardSigmoidActivation(_kerascv()["MobileNetV3Backbone"].HardSigmoidActivation):
        @classmethod
        def from_config(cls, config):  # KerasCV 0.9 writes a name that it does not take back
            return cls()

    return {"HardSigmoidActivation": HardSigmoidActivation}


def preset_folder(spec: "BackboneSpec") -> Path:
    """The folder of a backbone's ImageNet preset, the first of: `$HMS_PRESET_DIR/<preset>`,
    `models/presets/<preset>`, Kaggle's mounts (new `models/keras/…`, old `…`), and kagglehub's
    download, which needs the network or its cache. FileNotFoundError says how to attach it."""
    places = [home_dir() / "models" / "presets" / spec.preset]
    if os.environ.get("HMS_PRESET_DIR"):
        places.insert(0, Path(os.environ["HMS_PRESET_DIR"]) / spec.preset)
    for mount in (kaggle_input() / "models" / "keras", kaggle_input()):
        places += sorted(mount.glob(f"{spec.family}/[kK]eras/{spec.preset}/*"), reverse=True)
    for place in places:
        if (place / "config.json").exists():
            return place
    handle = f"keras/{spec.family}/keras/{spec.preset}/2"
    try:
        import kagglehub

        return Path(kagglehub.model_download(handle))
    except Exception as error:  # whatever stops the download, the remedy is the same
        tried = "\n  ".join(map(str, places))
        raise FileNotFoundError(
            f"The weights {spec.preset} are missing: none of\n  {tried}\nhas them, and kagglehub "
            f"could not download {handle} ({type(error).__name__}: {str(error)[:200]}).\n"
            f"On Kaggle, attach the model {handle} to the notebook; elsewhere, download it once "
            f"from https://www.kaggle.com/models/keras/{spec.family} and name the folder of "
            f"{spec.preset}/ in HMS_PRESET_DIR; or ask for random weights with weights=None"
        ) from error


@dataclass(frozen=True)
class BackboneSpec:
    """One row of the table: how a backbone is built and what it must look like."""

    params: int
    features: int
    source: str = ""
    build: Callable = kerascv_backbone  # (spec, (H, W, 3), weights) → model, to (N, h, w, features)
    input: str = Image.input  # the representation it looks at
    published_accuracy: float = float("nan")  # in the notebook this project re-creates, on one fold
    preset: str = ""  # KerasCV preset with ImageNet weights
    family: str = ""  # its model on Kaggle
    builder: str = ""  # class in keras_cv.models
    arguments: dict = field(default_factory=dict, repr=False)  # of the builder
    standard: dict = field(default_factory=dict)  # instead of these, with `standard_strides`


# fmt: off
BACKBONES = {
    "efficientnetv2_b2": BackboneSpec(
        params=8_769_374, features=1408, published_accuracy=0.70, source="arXiv:2104.00298",
        preset="efficientnetv2_b2_imagenet", family="efficientnetv2",
        builder="EfficientNetV2Backbone", arguments=dict(
            stackwise_kernel_sizes=[3] * 6, stackwise_num_repeats=[1, 2, 2, 3, 5, 8],
            stackwise_input_filters=[32, 16, 32, 48, 96, 112], stackwise_strides=[1, 2, 2, 2, 1, 2],
            stackwise_output_filters=[16, 32, 48, 96, 112, 192], width_coefficient=1.1,
            stackwise_expansion_ratios=[1, 4, 4, 4, 6, 6], depth_coefficient=1.2,
            stackwise_squeeze_and_excite_ratios=[0, 0, 0, 0.25, 0.25, 0.25],
            stackwise_conv_types=["fused"] * 3 + ["unfused"] * 3)),
    "resnet50_v2": BackboneSpec(
        params=23_564_800, features=2048, published_accuracy=0.63, source="arXiv:1603.05027",
        preset="resnet50_v2_imagenet", family="resnetv2",
        builder="ResNetV2Backbone", arguments=dict(
            stackwise_filters=[64, 128, 256, 512], stackwise_blocks=[3, 4, 6, 3],
            stackwise_strides=[1, 2, 2, 2]), standard=dict(stackwise_strides=[2, 2, 2, 1])),
    "mobilenet_v3_large": BackboneSpec(
        params=2_996_352, features=960, published_accuracy=0.63, source="arXiv:1905.02244",
        preset="mobilenet_v3_large_imagenet", family="mobilenetv3",
        builder="MobileNetV3Backbone", arguments=dict(
            stackwise_expansion=[1, 4, 3, 3, 3, 3, 6, 2.5, 2.3, 2.3, 6, 6, 6, 6, 6],
            stackwise_filters=[16, 24, 24, 40, 40, 40, 80, 80, 80, 80, 112, 112, 160, 160, 160],
            stackwise_kernel_size=[3, 3, 3, 5, 5, 5, 3, 3, 3, 3, 3, 3, 5, 5, 5],
            stackwise_stride=[1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1],
            stackwise_se_ratio=[None] * 3 + [0.25] * 3 + [None] * 4 + [0.25] * 5,
            stackwise_activation=["relu"] * 6 + ["hard_swish"] * 9)),
    "densenet201": BackboneSpec(
        params=18_321_984, features=1920, published_accuracy=0.67, source="arXiv:1608.06993",
        preset="densenet201_imagenet", family="densenet", builder="DenseNetBackbone",
        arguments=dict(stackwise_num_repeats=[6, 12, 48, 32])),
}
# fmt: on
WAVENET = "wavenet"


@dataclass(frozen=True)
class WaveNetConfig:
    """A WaveNet over (T', P): `stacks` times the `dilations`, gated, residual and skip paths."""

    filters: int = 32
    kernel_size: int = 3
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128)
    stacks: int = 1
    features: int = 128

    RANGES: ClassVar = {"filters": (1, 4096), "features": (1, 4096), "kernel_size": (1, 999)}
    RANGES |= {"dilations": (1, 9999), "stacks": (1, 99)}
    __post_init__ = check_values

    @property
    def receptive_field(self) -> int:  # input samples that one output sample depends on
        return 1 + self.stacks * (self.kernel_size - 1) * sum(self.dilations)


@dataclass(frozen=True)
class ModelConfig:
    """A network: which towers, on which representations."""

    towers: tuple[str, ...] = ()  # keys of BACKBONES, WAVENET, or several, concatenated
    inputs: Mapping[str, Representation] = field(
        default_factory=lambda: {rep.input: rep for rep in (Image(), WaveNetInput())}, hash=False
    )
    wavenet: WaveNetConfig = WaveNetConfig()
    # ResNet50 V2 as published: KerasCV's reduces each stage's image at its end, which takes 3.3
    # times the operations with the same weights, and its ImageNet preset was trained so.
    standard_strides: bool = False
    dropout: float = 0.3  # before the head

    RANGES: ClassVar = {"dropout": (0, 0.99)}
    __post_init__ = check_values

    @property
    def name(self) -> str:
        return "+".join(self.towers)

    @property
    def params(self) -> int:  # of the backbones
        return sum(BACKBONES[tower].params for tower in self.towers if tower in BACKBONES)

    @property
    def input_names(self) -> tuple[str, ...]:  # those of `inputs` that the towers look at
        return tuple(dict.fromkeys(input_of(tower) for tower in self.towers))


def input_of(tower: str) -> str:
    """The name of the representation that a tower looks at; ValueError for an unknown tower."""
    if tower == WAVENET:
        return WaveNetInput.input
    if tower not in BACKBONES:
        raise ValueError(f"unknown backbone {tower!r}; choose from {', '.join(BACKBONES)}")
    return BACKBONES[tower].input


def build_model(
    config: ModelConfig, weights: str | Path | None = None, *, planar: bool = False
) -> "keras.Model":
    """The model of a config before training: {name of an input: (N, *shape)} → (N, 6).

    `weights` are those of the backbones: "imagenet" (see `preset_folder`, and its
    FileNotFoundError), a preset folder, or None: random. ValueError: unknown backbone, or a
    representation is missing, or Keras is set to channels first. `planar` has the same weights, but
    the WaveNet's convolutions are those of images one row high, which onnxruntime runs faster."""
    if (order := keras.config.image_data_format()) != "channels_last":
        remedy = "wanted channels_last; correct it in ~/.keras/keras.json or where it is set"
        raise ValueError(f"build_model: Keras' image_data_format is {order}, {remedy}")
    inputs, features = {}, []
    for name in config.towers:
        key = input_of(name)
        if key not in config.inputs:
            has = ", ".join(config.inputs)
            raise ValueError(f"{name} looks at {key!r}, but `inputs` has {has}; add {key!r} to it")
        shape = config.inputs[key].shape
        inputs.setdefault(key, keras.Input(shape, name=key))
        if name == WAVENET:
            tower = _wavenet_tower(shape, config.wavenet, planar)
        else:
            tower = _backbone_tower(name, shape, weights, config.standard_strides)
        features.append(tower(inputs[key]))
    x = keras.layers.Concatenate(name="features")(features) if len(features) > 1 else features[0]
    x = keras.layers.Dropout(config.dropout, name="dropout")(x)
    outputs = keras.layers.Dense(len(CLASSES), activation="softmax", dtype="float32", name="head")(
        x
    )
    return keras.Model(inputs, outputs, name="_".join(config.towers))


def build_backbone(
    name: str, config: ModelConfig = ModelConfig(), weights="imagenet"
) -> "keras.Model":
    """One backbone with a softmax head: {"image": (N, H, W, 3)} → (N, 6); see `build_model`."""
    return build_model(replace(config, towers=(name,)), weights)


def build_wavenet(config: ModelConfig = ModelConfig()) -> "keras.Model":
    """A WaveNet (arXiv:1609.03499, but not causal: the label describes the centre) with a softmax
    head: {"eeg": (N, T', P)} → (N, 6)."""
    return build_model(replace(config, towers=(WAVENET,)))


def build_concat(
    names: Sequence[str], config: ModelConfig = ModelConfig(), weights="imagenet"
) -> "keras.Model":
    """Backbones and the WaveNet, their features concatenated before one softmax head."""
    return build_model(replace(config, towers=(*names, WAVENET)), weights)


def _backbone_tower(name: str, shape: tuple, weights, standard: bool) -> "keras.Model":
    """(N, H, W, 3) → (N, features)."""
    spec = BACKBONES[name]
    if standard and spec.standard:
        if weights is not None:
            remedy = "pass standard_strides=False or weights=None"
            raise ValueError(f"{name}: preset {weights} was trained with other strides; {remedy}")
        spec = replace(spec, arguments=spec.arguments | spec.standard)
    backbone = spec.build(spec, tuple(shape), weights)
    for layer in _batch_norms(backbone):  # so that running statistics follow a fine-tuning of
        layer.momentum = min(layer.momentum, 0.9)  # hundreds of steps; MobileNetV3 has 0.999
    pooled = keras.layers.GlobalAveragePooling2D(name=f"{name}_pool")(backbone.output)
    return keras.Model(backbone.inputs, pooled, name=name)


def _batch_norms(model: "keras.Model") -> "list[keras.layers.Layer]":
    return [x for x in model._flatten_layers() if isinstance(x, keras.layers.BatchNormalization)]


def _wavenet_tower(shape: tuple[int, int], config: WaveNetConfig, planar: bool) -> "keras.Model":
    """(N, T', P) → (N, 4 · features): mean and maximum of the summed skip paths, over all of the
    time and over its central fifth, which is what the experts labelled."""

    def conv(filters: int, width: int, dilation: int = 1, **options):
        size = {"kernel_size": width, "dilation_rate": dilation}
        size = {name: (1, n) for name, n in size.items()} if planar else size
        kind = keras.layers.Conv2D if planar else keras.layers.Conv1D
        return kind(filters, padding="same", **size, **options)

    inputs = keras.Input(shape)
    x = keras.layers.Reshape((1, *shape))(inputs) if planar else inputs
    x, skips = conv(config.filters, 1, name="stem")(x), []
    for stack in range(config.stacks):
        for dilation in config.dilations:
            block = f"s{stack}_d{dilation}"
            gates = conv(2 * config.filters, config.kernel_size, dilation, name=f"{block}_conv")(x)
            signal, gate = keras.ops.split(gates, 2, axis=-1)
            z = keras.ops.tanh(signal) * keras.ops.sigmoid(gate)
            x = x + conv(config.filters, 1, name=f"{block}_residual")(z)
            skips.append(conv(config.features, 1, name=f"{block}_skip")(z))
    y = keras.ops.relu(keras.layers.Add(name="skips")(skips) if len(skips) > 1 else skips[0])
    y = conv(config.features, 1, activation="relu", name="post")(y)
    y = keras.layers.Reshape((shape[0], config.features))(y) if planar else y
    centre = keras.layers.Cropping1D(2 * (shape[0] // 5), name="centre")(y)
    pools = (keras.layers.GlobalAveragePooling1D, keras.layers.GlobalMaxPooling1D)
    pooled = [pool()(part) for part in (y, centre) for pool in pools]
    return keras.Model(inputs, keras.layers.Concatenate(name="pool")(pooled), name=WAVENET)


def warm_start(
    model: "keras.Model", singles: "Sequence[keras.Model]", weights: Sequence[float] | None = None
) -> None:
    """Start a concatenated model from trained single models, in place; ValueError: one is missing.

    Towers are copied; the head becomes the mean of the singles' logits with these weights (None:
    equal ones), so that the model predicts the normalised geometric mean of the singles."""
    by_name = {single.name: single for single in singles}
    weights = dict(zip(by_name, weights or [1] * len(by_name), strict=True))
    names = [layer.name for layer in model.layers if isinstance(layer, keras.Model)]
    if missing := [name for name in names if name not in by_name]:
        raise ValueError(f"warm_start: no trained {', '.join(missing)} among {', '.join(by_name)}")
    heads, total = [], sum(weights[name] for name in names)
    for name in names:
        model.get_layer(name).set_weights(by_name[name].get_layer(name).get_weights())
        head = by_name[name].get_layer("head").get_weights()
        heads.append([weights[name] / total * values for values in head])
    kernels, biases = zip(*heads, strict=True)
    model.get_layer("head").set_weights([np.concatenate(kernels), np.sum(biases, axis=0)])


def freeze_towers(model: "keras.Model") -> None:
    """Train the head alone: everything else is frozen, batch statistics included."""
    for layer in model.layers:
        layer.trainable = not isinstance(layer, keras.Model)


def freeze_batch_norm(model: "keras.Model") -> None:
    """Keep the batch statistics of trained towers: a few hundred windows only make them noisy."""
    for layer in _batch_norms(model):
        layer.trainable = False
