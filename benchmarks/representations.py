"""From EEG to pictures and signals: every path against the recipe that everybody copies.

    python benchmarks/representations.py     # a few minutes, one core

The reference of each table is its first line. Times are of one core and one thread; all variants of
a table take turns. The largest difference to the reference is printed with each.
"""

import tempfile
import time
from pathlib import Path

import librosa
import numpy as np
import pandas as pd
from scipy import signal
from scipy.signal import detrend
from scipy.signal.windows import dpss
from threadpoolctl import threadpool_limits
from timing import COLUMNS, compare, machine, markdown

from hmsutils import kernels, records, signals, simulate, spectrograms, store
from hmsutils.competition import ELECTRODES, SFREQ_HZ
from hmsutils.representations import Image, WaveNetInput
from hmsutils.signals import CHAIN_PAIRS
from hmsutils.spectrograms import MEL_REGIONS, OFFICIAL_REGIONS, RegionalConfig


def derivations(eeg_uv: np.ndarray, region: str) -> list[np.ndarray]:
    """The four differences of a chain, one by one."""
    column = {name: eeg_uv[:, i] for i, name in enumerate(ELECTRODES)}
    return [column[plus] - column[minus] for plus, minus in CHAIN_PAIRS[region]]


def librosa_loop(eeg_uv: np.ndarray, n_mels: int = 128, n_frames: int = 256, win_length: int = 128):
    """(T, 20) → (n_mels, n_frames, 4): the public notebooks' loop."""
    chains = []
    for region in MEL_REGIONS:
        images = []
        for x in derivations(eeg_uv, region):
            mel = librosa.feature.melspectrogram(
                y=x, sr=SFREQ_HZ, hop_length=len(x) // n_frames, n_fft=1024, n_mels=n_mels,
                fmin=0, fmax=20, win_length=win_length,
            )  # fmt: skip
            images.append((librosa.power_to_db(mel, ref=np.max)[:, :n_frames] + 40) / 40)
        chains.append(np.mean(images, axis=0))
    return np.stack(chains, axis=-1)


def multitaper_loop(eeg_uv: np.ndarray) -> np.ndarray:
    """(T, 20) → (W, 4, 100): the definition, one window of one derivation at a time."""
    tapers = dpss(800, 2.0, 3) * np.sqrt(SFREQ_HZ)
    regions = []
    for region in OFFICIAL_REGIONS:
        power = [
            [
                (np.abs(np.fft.rfft(tapers * detrend(x[t : t + 800]), 1024) / SFREQ_HZ) ** 2).mean(
                    axis=0
                )[3:103]
                for t in range(0, len(x) - 799, 400)
            ]
            for x in derivations(eeg_uv, region)
        ]
        regions.append(np.mean(power, axis=0))
    return np.stack(regions, axis=1)


def bandpass_sos(low_hz: float, high_hz: float) -> np.ndarray:
    return signal.butter(3, (low_hz, high_hz), "bandpass", fs=SFREQ_HZ, output="sos")


def naive_inputs(path: Path, image: Image, eeg: WaveNetInput):
    """One file → (H, W, 3) image and (T', P) signals, as a notebook would make them."""
    x = pd.read_parquet(path, columns=list(ELECTRODES)).to_numpy(np.float64)[:10_000]
    x = np.nan_to_num(x - np.nanmedian(x, axis=0))
    filtered = signal.sosfiltfilt(bandpass_sos(*image.bandpass_hz), x, axis=0)
    crops = []
    for duration_s, win_length in zip(image.durations_s, image.win_lengths, strict=True):
        start = (len(x) - round(duration_s * SFREQ_HZ)) // 2
        crop = filtered[start : len(x) - start]
        chains = librosa_loop(crop, image.n_mels, image.n_frames, win_length)
        crops.append(np.concatenate(np.moveaxis(chains[::-1], -1, 0)))
    slow = signal.sosfiltfilt(bandpass_sos(*eeg.bandpass_hz), x, axis=0)
    column = {name: slow[:: eeg.decimate, i] for i, name in enumerate(ELECTRODES)}
    montage = np.stack([column[plus] - column[minus] for plus, minus in eeg.pairs], axis=-1)
    return np.stack(crops, axis=-1).astype(np.float32), (montage / eeg.scale_uv).astype(np.float32)


def naive_eeg(path: Path, image: Image, eeg: WaveNetInput, out: Path) -> None:
    """One file → both representations → .npy files."""
    for name, array in zip(("image", "eeg"), naive_inputs(path, image, eeg), strict=True):
        np.save(out / f"{path.stem}.{name}.npy", array.astype(np.float16))


def where_log_mel_spends(eeg_uv: np.ndarray) -> pd.DataFrame:
    """Steps of `log_mel`, called as often as its kernel calls them, and what its matrix products
    would take at the speed of a large one."""
    config = spectrograms.MelConfig()
    project, cosines, _, mel = spectrograms.mel_matrices(config)
    pairs = [pair for region in MEL_REGIONS for pair in CHAIN_PAIRS[region]]
    time_last = np.ascontiguousarray(eeg_uv.T)[None]
    x = signals.montage(time_last, pairs)[0]
    hop, half, rank = x.shape[1] // config.n_frames, config.win_length // 2, cosines.shape[1]
    power = np.ones((config.n_mels, config.n_frames), np.float32)
    even = np.empty((config.n_frames, half), np.float32)
    cosine = np.ones((len(cosines), config.n_frames), np.float32)
    bands = mel.indptr, mel.indices, mel.data
    tops, one = np.empty(config.n_frames, np.float32), np.float32(1)
    large = np.ones((1024, 1024), np.float32)

    def every(step):
        return lambda: [step(signal) for signal in x]

    table = compare(
        {
            "all of it": lambda: spectrograms.log_mel(eeg_uv),
            "of it, derivations": lambda: signals.montage(time_last, pairs),
            "of it, sums and differences": every(
                lambda signal: kernels._fold(signal[None], half, hop - 1, even, even)
            ),
            "of it, mel bands": every(
                lambda _: kernels._mel(cosine, cosine, *bands, tops, 0, power)
            ),
            "of it, logarithms": lambda: [
                *(kernels._split(power, one, one, power.copy(), power.copy()) for _ in x),
                *(kernels._add_log2(power, power.copy()) for _ in MEL_REGIONS),
            ],
            "a product of 1024 × 1024": lambda: large @ large,
        }
    )
    speed = table.loc["a product of 1024 × 1024", "ms"] / (2 * 1024**3)
    flops = 2 * len(x) * config.n_frames * (2 * rank * half + 2 * cosines.size)
    table.loc["lower bound: its matrix products alone, at the speed of a large one", "ms"] = (
        flops * speed
    )
    return table.drop(columns="times faster").drop("a product of 1024 × 1024")


def builds(n_patients: int, rounds: int = 3) -> pd.DataFrame:
    """EEGs per second from Parquet files to both stored representations."""
    image, eeg = Image(), WaveNetInput()
    with tempfile.TemporaryDirectory() as folder:
        competition = simulate.simulate_competition(Path(folder) / "data", n_patients, seed=1)
        windows = records.load_windows(competition).drop_duplicates("eeg_id")
        windows = windows.assign(eeg_offset_s=0.0).reset_index(drop=True)

        @threadpool_limits.wrap(limits=1)  # as the processes of store.build
        def naive(some: pd.DataFrame, _) -> None:
            for eeg_id in some["eeg_id"]:
                naive_eeg(competition.eeg(eeg_id), image, eeg, Path(folder))

        def stored(n_jobs: int):
            def build(some: pd.DataFrame, out: str) -> None:
                inputs, out_dir = {"image": image, "eeg": eeg}, f"{folder}/{n_jobs}{out}"
                store.build(competition, some, inputs, out_dir=out_dir, n_jobs=n_jobs)

            return build

        variants = {
            "pandas, SciPy, librosa, np.save": (naive, windows[:16]),
            "store.build, 1 process": (stored(1), windows),
            "store.build, 2 processes": (stored(2), windows),
        }
        seconds = {name: [] for name in variants}
        for turn in range(rounds + 1):  # the first one starts processes and compiles
            for name, (variant, rows) in variants.items():
                rows = rows if turn else rows[:16]
                began = time.perf_counter()
                variant(rows, f"turn{turn}")
                seconds[name].append((time.perf_counter() - began) / len(rows))
    rates = 1 / pd.DataFrame(seconds)[1:]
    table = pd.DataFrame({"EEGs/s": rates.median()})
    table["times faster"] = rates.div(rates.iloc[:, 0], axis=0).median()
    table["minutes for 17,089"] = 17_089 / table["EEGs/s"] / 60
    return table


def main() -> None:
    rng = np.random.default_rng(0)
    raw = np.ascontiguousarray(simulate.simulate_window(rng)[0].T)[None]
    x = signals.repair(raw)  # (1, 20, T)
    eeg_uv = np.ascontiguousarray(x[0].T)
    eight = np.stack([eeg_uv * (1 + 0.1 * i) for i in range(8)])
    long = rng.normal(0, 30, (120_000, 20)).astype(np.float32)
    official = RegionalConfig(bandpass_hz=None)
    sections = []
    with threadpool_limits(1):
        error = 40 * np.abs(spectrograms.log_mel(eeg_uv)[0] - librosa_loop(eeg_uv)).max()
        table = compare(
            {
                "librosa loop": lambda: librosa_loop(eeg_uv),
                f"`log_mel`, off by {error:.1g} dB": lambda: spectrograms.log_mel(eeg_uv),
                "`log_mel`, eight EEGs": lambda: spectrograms.log_mel(eight),
            }
        )
        table.loc["`log_mel`, eight EEGs"] *= [1 / 8, 1 / 8, 1 / 8, 8]
        sections.append(("50 s → 128 × 256 × 4", table))
        sections.append(("Where `log_mel` spends it", where_log_mel_spends(eeg_uv)))
        ours, loop = spectrograms.regional_multitaper(long, official)[0], multitaper_loop(long)
        error = np.abs(10 * np.log10(ours / loop)).max()
        table = compare(
            {
                "loop over windows": lambda: multitaper_loop(long),
                "`regional_multitaper`": lambda: spectrograms.regional_multitaper(long, official),
            },
            rounds=5,
        )
        sections.append((f"10 minutes → 299 × 4 × 100, largest difference {error:.1g} dB", table))
        sos = bandpass_sos(0.5, 40.0)
        table = compare(
            {
                "`scipy.signal.sosfiltfilt`": lambda: signal.sosfiltfilt(
                    sos, eeg_uv.astype(np.float64), axis=0
                ),
                "`bandpass`": lambda: signals.bandpass(x, 0.5, 40.0),
            }
        )
        error = np.abs(signals.bandpass(x, 0.5, 40)[0].T - signal.sosfiltfilt(sos, eeg_uv, axis=0))
        title = f"0.5–40 Hz, 50 s of 20 electrodes, largest difference {error.max():.1g} µV"
        sections.append((title, table))
        table = compare({"np.median": lambda: np.median(eeg_uv, axis=0),
                         "`repair`, whole": lambda: signals.repair(x)})  # fmt: skip
        sections.append(
            ("Offsets, NaN and bad electrodes of 50 s; the median alone beside it", table)
        )
    sections.append(("Parquet → repaired, filtered → both inputs of the full profile", builds(20)))
    text = f"`python benchmarks/representations.py` on {machine()}\n\n{COLUMNS}\n"
    for title, table in sections:
        text += f"\n### {title}\n\n{markdown(table)}\n"
    print(text)


if __name__ == "__main__":
    main()
