"""Representations: what a network sees of an EEG. Adding one is adding a class.

A subclass of `Representation` is a frozen dataclass of its settings, and all that the rest of the
package asks of it: values, shape, the hemispheres exchanged, how it is stored, the same as a Keras
layer, and what augmentation needs to know.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import ClassVar

import numpy as np

from hmsutils import competition, signals
from hmsutils.competition import CONTEXT_S, ELECTRODES, SFREQ_HZ, WINDOW_S, WINDOW_SAMPLES
from hmsutils.signals import CHAINS, WaveNetInputConfig, bandpass, bandpass_in_graph, repair
from hmsutils.spectrograms import MEL_REGIONS, MelConfig, chains_db, chains_db_in_graph, context_db

_LEFT = ("LL", "LP", *CHAINS["LL"], *CHAINS["LP"])
_RIGHT = ("RL", "RP", *CHAINS["RL"], *CHAINS["RP"])
_OTHER_SIDE = dict(zip(_LEFT + _RIGHT, _RIGHT + _LEFT, strict=True))  # of chains and electrodes


@dataclass(frozen=True)
class Representation:
    """What a model input is made of: items (H, W, C), rows × time × channels, or (T', C), time ×
    channels, float32 without NaN. `shape` and `__call__` have no default."""

    input: ClassVar[str]  # the name of the model input
    version: ClassVar[int] = 1  # raise it when `__call__` gives other values
    stored_as: ClassVar[type] = np.float32  # on disk; if a whole number, so many times `step`
    step: ClassVar[float] = 1.0
    n_chains: ClassVar[int] = 1  # rows are so many equal blocks, each of one chain of electrodes
    # Values are decibels, of which these two are 0 and 1; None: proportional to the amplitude.
    decibels: ClassVar[tuple[float, float] | None] = None
    # Order of the rows, and of the channels, with the hemispheres exchanged; None: unchanged.
    flipped_rows: ClassVar[np.ndarray | None] = None
    flipped_channels: ClassVar[np.ndarray | None] = None
    # Made of the context, the official spectrogram of the 10 minutes around; all 0: it is absent.
    context_channels: ClassVar[list[int]] = []

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the representation of 50 s."""
        raise NotImplementedError

    @property
    def key(self) -> str:
        """A name that no representation with other values, or stored otherwise, has."""
        stored = np.dtype(self.stored_as).str, float(self.step), self.shape
        return f"{self.input}_{competition.fingerprint(to_dict(self), self.version, stored)}"

    @property
    def columns_per_s(self) -> np.ndarray:
        """(C,) positions along the time axis that are one second."""
        return np.full(self.shape[-1], self.shape[-2] * SFREQ_HZ / WINDOW_SAMPLES)

    def __call__(self, eeg_uv: np.ndarray) -> np.ndarray:
        """(N, 20, T) repaired microvolts (`signals.repair`) → (N, *shape) float32."""
        raise NotImplementedError

    def with_context(self, eeg_uv: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        """`__call__`, which gets the (N, 300, 4, 100) µV²/Hz of `records.read_contexts` as a second
        argument where it looks at them: NaN or None where there are none."""
        return self(eeg_uv, context) if self.context_channels else self(eeg_uv)

    def from_raw(self, eeg_uv: np.ndarray) -> np.ndarray:
        """(N, T, 20) or (T, 20) raw microvolts at 200 Hz, NaN allowed → (N, *shape) float32."""
        return self(repair(signals.to_time_last(eeg_uv, type(self).__name__)))

    def in_graph(self, eeg_uv):
        """`__call__` in Keras operations; only exported models need it."""
        raise NotImplementedError(f"{type(self).__name__} has no Keras version (in_graph)")

    def layer(self):
        """`__call__` as a Keras layer."""
        return graph_layers()["RepresentationLayer"](self, name=self.input, dtype="float32")

    def flip_hemispheres(self, x):
        """(N, *shape), an array or a Keras tensor, with left and right exchanged."""
        take = np.take
        if not isinstance(x, np.ndarray):
            from keras.ops import take
        for axis, order in ((1, self.flipped_rows), (len(self.shape), self.flipped_channels)):
            x = x if order is None else take(x, order, axis=axis)
        return x

    @property
    def unit(self) -> np.float32:
        """The value of a stored 1: `step` where whole numbers are stored."""
        return np.float32(self.step if np.issubdtype(self.stored_as, np.integer) else 1)

    def encode(self, x: np.ndarray) -> np.ndarray:
        """Values as they are stored; those beyond the type's limits become its limits."""
        whole = np.issubdtype(self.stored_as, np.integer)
        limits = np.iinfo(self.stored_as) if whole else np.finfo(self.stored_as)
        x = np.rint(x / self.step) if whole else x
        return np.clip(x, limits.min, limits.max).astype(self.stored_as)

    def decode(self, stored: np.ndarray) -> np.ndarray:
        """Stored values as float32."""
        return np.asarray(stored, np.float32) * self.unit


@dataclass(frozen=True)
class Image(Representation):
    """What the backbones see: (4 · n_mels, n_frames, 3) in [0, 1].

    Each channel is a spectrogram of one crop around the centre of the recording, with the chains
    LL, LP, RP, RL on top of each other, low frequencies at the bottom. Power is in dB of a fixed
    reference, so that amplitude survives; `floor_db … ceiling_db` become 0 … 1. A crop of 600 s is
    the competition's own spectrogram, the context, 0 where it is absent or NaN."""

    n_mels: int = 32
    n_frames: int = 256
    durations_s: tuple[float, float, float] = (50.0, 25.0, 10.0)
    win_lengths: tuple[int, int, int] = (512, 256, 64)
    bandpass_hz: tuple[float, float] = (0.5, 40.0)
    floor_db: float = 0.0
    ceiling_db: float = 60.0

    input: ClassVar[str] = "image"
    stored_as: ClassVar[type] = np.uint8
    step: ClassVar[float] = 1 / 255
    n_chains: ClassVar[int] = len(MEL_REGIONS)
    RANGES: ClassVar = {"n_mels": (1, 512), "n_frames": (1, WINDOW_SAMPLES)}
    RANGES |= {"durations_s": (1, CONTEXT_S), "win_lengths": (2, 1024), "bandpass_hz": (0.01, 99)}

    def __post_init__(self):
        competition.check_values(self)
        signals.check_band(self)
        longer = {duration_s for duration_s in self.durations_s if duration_s > WINDOW_S}
        if longer - {CONTEXT_S} or longer == set(self.durations_s):
            wanted = f"up to {WINDOW_S}, and for the context {CONTEXT_S}, but not alone"
            raise ValueError(f"Image: durations_s is {self.durations_s}, wanted {wanted}")
        if self.floor_db >= self.ceiling_db:
            limits = f"floor_db {self.floor_db} and ceiling_db {self.ceiling_db}"
            raise ValueError(f"Image: {limits}, wanted a floor below the ceiling")

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.n_chains * self.n_mels, self.n_frames, len(self.durations_s))

    @property
    def columns_per_s(self) -> np.ndarray:
        return self.n_frames / np.array(self.durations_s)

    @property
    def context_channels(self) -> list[int]:
        return [i for i, duration_s in enumerate(self.durations_s) if duration_s == CONTEXT_S]

    @property
    def decibels(self) -> tuple[float, float]:
        return self.floor_db, self.ceiling_db

    @property
    def flipped_rows(self) -> np.ndarray:
        chains = [MEL_REGIONS.index(_OTHER_SIDE[region]) for region in MEL_REGIONS]
        return np.arange(self.shape[0]).reshape(self.n_chains, -1)[chains].ravel()

    @property
    def crops(self) -> list[MelConfig]:
        """The spectrograms that are the channels; 0 dB is white noise of 1 µV, Σ Hann² µV²."""
        pairs, size = zip(self.durations_s, self.win_lengths, strict=True), self.n_frames
        return [MelConfig(self.n_mels, 20.0, size, n, 1024, s, 0.375 * n) for s, n in pairs]

    def __call__(self, eeg_uv: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        x = bandpass(eeg_uv, *self.bandpass_hz)
        db = np.full((len(x), *self.shape), -np.inf, np.float32)
        for channel, crop in enumerate(self.crops):
            if channel not in self.context_channels:
                made = chains_db(x, crop)
            elif context is not None:
                made = context_db(context, self.n_mels, self.n_frames)
            else:
                continue
            db[..., channel] = made[:, :, ::-1].reshape(len(x), *self.shape[:2])
        db -= np.float32(self.floor_db)
        db /= np.float32(self.ceiling_db - self.floor_db)
        return np.clip(db, 0, 1, out=db)

    def in_graph(self, eeg_uv):
        from keras import ops

        x = bandpass_in_graph(eeg_uv, *self.bandpass_hz)
        own = {i: c for i, c in enumerate(self.crops) if i not in self.context_channels}
        bands = {i: ops.flip(chains_db_in_graph(x, crop), axis=2) for i, crop in own.items()}
        absent = ops.full_like(next(iter(bands.values())), self.floor_db)  # the context
        bands = [bands.get(i, absent) for i in range(self.shape[2])]
        db = ops.stack([ops.reshape(band, (-1, *self.shape[:2])) for band in bands], axis=-1)
        return ops.clip((db - self.floor_db) / (self.ceiling_db - self.floor_db), 0.0, 1.0)


@dataclass(frozen=True)
class WaveNetInput(WaveNetInputConfig, Representation):
    """What a WaveNet sees: bipolar signals of 50 s at 40 Hz, see `signals.wavenet_input`."""

    input: ClassVar[str] = "eeg"
    stored_as: ClassVar[type] = np.int16

    @property
    def shape(self) -> tuple[int, int]:
        return (-(-WINDOW_SAMPLES // self.decimate), len(self.pairs))

    @property
    def step(self) -> float:
        return self.clip_uv / self.scale_uv / np.iinfo(np.int16).max

    @property
    def flipped_channels(self) -> np.ndarray:
        pairs = [(_OTHER_SIDE.get(a, a), _OTHER_SIDE.get(b, b)) for a, b in self.pairs]
        if set(pairs) != set(self.pairs):
            raise ValueError(f"WaveNetInput: the montage {self.pairs} is not symmetric")
        return np.array([self.pairs.index(pair) for pair in pairs])

    def __call__(self, eeg_uv: np.ndarray) -> np.ndarray:
        return signals.wavenet_signals(eeg_uv, self)

    def in_graph(self, eeg_uv):
        return signals.wavenet_signals_in_graph(eeg_uv, self)


def represent(
    inputs: Mapping[str, Representation], eeg_uv: np.ndarray, context: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """(N, 20, T) raw microvolts, NaN allowed → the representations by name; repaired once."""
    repaired = repair(eeg_uv)
    return {name: r.with_context(repaired, context) for name, r in inputs.items()}


def raw_to_inputs(inputs: Mapping[str, Representation]):
    """A Keras model, (N, 10000, 20) raw microvolts, NaN allowed → {name: representation}, equal to
    `represent` without context within 1e-4 of an image's range and of a signal's unit, and
    {"enough_eeg": (N, 1)}, 1.0 where the rule of `signals.Quality` is met."""
    import keras

    repair, layer = graph_layers().values()
    raw = keras.Input((WINDOW_SAMPLES, len(ELECTRODES)), name="eeg_uv")
    exact = {"dtype": "float32"}  # whatever precision networks have: half of it spoils decibels
    repaired, enough = repair(name="repair", **exact)(raw)
    made = {name: layer(r, name=name, **exact)(repaired) for name, r in inputs.items()}
    return keras.Model(raw, made | {"enough_eeg": enough}, name="raw_to_inputs")


@cache
def graph_layers() -> dict[str, type]:
    """The Keras layers, made on first use: processes that only compute arrays need no Keras."""
    import keras

    @keras.saving.register_keras_serializable("hmsutils")
    class Repair(keras.layers.Layer):
        """(N, T, 20) raw microvolts, NaN allowed → (N, 20, T), as `signals.repair`, and (N, 1)
        whether that is enough EEG."""

        def call(self, eeg_uv):
            eeg_uv = keras.ops.cast(eeg_uv, "float32")
            return signals.repair_in_graph(keras.ops.transpose(eeg_uv, (0, 2, 1)))

    @keras.saving.register_keras_serializable("hmsutils")
    class RepresentationLayer(keras.layers.Layer):
        """(N, 20, T) repaired microvolts → (N, *shape)."""

        def __init__(self, representation: Representation | dict, **kwargs):
            super().__init__(**kwargs)
            known = isinstance(representation, Representation)
            self.representation = representation if known else from_dict(representation)

        def call(self, eeg_uv):
            return self.representation.in_graph(eeg_uv)

        def get_config(self):
            return super().get_config() | {"representation": to_dict(self.representation)}

    return {"Repair": Repair, "RepresentationLayer": RepresentationLayer}


def to_dict(representation: Representation) -> dict:
    """What JSON can hold: the class's name as `type`, and its settings."""
    return {"type": type(representation).__name__, **asdict(representation)}


def from_dict(values: Mapping) -> Representation:
    """A representation from `to_dict`, also after JSON; ValueError for an unknown class or
    setting. Every subclass that has been defined is known."""
    known = {cls.__name__: cls for cls in _subclasses(Representation)}
    if values.get("type") not in known:
        problem = f"{values.get('type')!r} is unknown, known are {', '.join(sorted(known))}"
        raise ValueError(f"representation {problem}; import the module that defines it first")
    settings = {name: value for name, value in values.items() if name != "type"}
    return competition.from_dict(known[values["type"]], settings)


def _subclasses(cls: type) -> list[type]:
    return [s for sub in cls.__subclasses__() for s in (sub, *_subclasses(sub))]
