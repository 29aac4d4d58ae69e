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
from timing import compare, machine, markdown

from hmsutils import records, signals, simulate, spectrograms, store
from hmsutils.files import ELECTRODES, SFREQ_HZ
from hmsutils.signals import CHAIN_PAIRS, WaveNetInputConfig
from hmsutils.spectrograms import MEL_REGIONS, OFFICIAL_REGIONS, ImageConfig, RegionalConfig


def derivations(eeg_uv: np.ndarray, region: str) -> list[np.ndarray]:
    """The four differences of a chain, one by one."""
    column = {name: eeg_uv[:, i] for i, name in enumerate(ELECTRODES)}
    return [column[plus] - column[minus] for plus, minus in CHAIN_PAIRS[region]]


def librosa_loop(eeg_uv: np.ndarray, n_mels: int = 128, frames: int = 256, window: int = 128):
    """(T, 20) → (n_mels, frames, 4): the public notebooks' loop."""
    chains = []
    for region in MEL_REGIONS:
        images = []
        for x in derivations(eeg_uv, region):
            mel = librosa.feature.melspectrogram(
                y=x, sr=SFREQ_HZ, hop_length=len(x) // frames, n_fft=1024, n_mels=n_mels,
                fmin=0, fmax=20, win_length=window,
            )  # fmt: skip
            images.append((librosa.power_to_db(mel, ref=np.max)[:, :frames] + 40) / 40)
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


def naive_inputs(path: Path, image: ImageConfig, eeg: WaveNetInputConfig):
    """One file → (H, W, 3) image and (T', P) signals, as a notebook would make them."""
    x = pd.read_parquet(path, columns=list(ELECTRODES)).to_numpy(np.float64)[:10_000]
    x = np.nan_to_num(x - np.nanmedian(x, axis=0))
    filtered = signal.sosfiltfilt(signals.butterworth(3, *image.bandpass_hz)[0], x, axis=0)
    zooms = []
    for span_s, window in zip(image.spans_s, image.windows, strict=True):
        start = (len(x) - round(span_s * SFREQ_HZ)) // 2
        zoom = filtered[start : len(x) - start]
        chains = librosa_loop(zoom, image.n_mels, image.frames, window)
        zooms.append(np.concatenate(np.moveaxis(chains[::-1], -1, 0)))
    slow = signal.sosfiltfilt(signals.butterworth(3, *eeg.bandpass_hz)[0], x, axis=0)
    column = {name: slow[:: eeg.decimate, i] for i, name in enumerate(ELECTRODES)}
    montage = np.stack([column[plus] - column[minus] for plus, minus in eeg.pairs], axis=-1)
    return np.stack(zooms, axis=-1).astype(np.float32), (montage / eeg.scale_uv).astype(np.float32)


def naive_eeg(path: Path, image: ImageConfig, eeg: WaveNetInputConfig, out: Path) -> None:
    """One file → both representations → .npy files."""
    for name, array in zip(("image", "eeg"), naive_inputs(path, image, eeg), strict=True):
        np.save(out / f"{path.stem}.{name}.npy", array.astype(np.float16))


def where_log_mel_spends(eeg_uv: np.ndarray) -> pd.DataFrame:
    """Steps of `log_mel`, and what its matrix products would take at the speed of a large one."""
    config = spectrograms.MelConfig()
    chains = [np.ascontiguousarray(c) for c in spectrograms._chains(eeg_uv, MEL_REGIONS)]
    powers = [spectrograms._mel_power(chain, config) for chain in chains]
    project, cosines, _, _ = spectrograms.mel_matrices(config)
    frames = config.frames * sum(len(chain) for chain in chains)
    flops = 2 * frames * (project.size + 2 * cosines.size)
    large = np.ones((1024, 1024), np.float32)
    table = compare(
        {
            "all of it": lambda: spectrograms.log_mel(eeg_uv),
            "frames → mel power": lambda: [spectrograms._mel_power(c, config) for c in chains],
            "decibels and their mean": lambda: [
                spectrograms._mean_db(p.copy(), config) for p in powers
            ],
            "a product of 1024 × 1024": lambda: large @ large,
        }
    )
    table["share"] = table["ms"] / table["ms"].iloc[0]
    bound = table.loc["a product of 1024 × 1024"] * flops / (2 * 1024**3)
    table.loc["bound: its products at that speed"] = bound[["ms", "share"]]
    return table.drop(columns="times faster").drop("a product of 1024 × 1024")


def builds(n_patients: int) -> pd.DataFrame:
    """EEGs per second from Parquet files to both stored representations."""
    image, eeg, rates = ImageConfig(), WaveNetInputConfig(), {}
    with tempfile.TemporaryDirectory() as folder:
        competition = simulate.simulate_competition(Path(folder) / "data", n_patients, seed=1)
        windows = records.load_windows(competition).drop_duplicates("eeg_id")
        windows = windows.assign(eeg_offset_s=0.0).reset_index(drop=True)
        some = windows["eeg_id"].tolist()[:30]
        naive_eeg(competition.eeg(some[0]), image, eeg, Path(folder))
        began = time.perf_counter()
        for eeg_id in some:
            naive_eeg(competition.eeg(eeg_id), image, eeg, Path(folder))
        rates["pandas, SciPy, librosa, np.save"] = len(some) / (time.perf_counter() - began)
        for n_jobs in (1, 2):
            configs = {"image": image, "eeg": eeg}
            few = windows[:16]  # starts processes, compiles
            store.build(competition, few, configs, out_dir=f"{folder}/warm{n_jobs}", n_jobs=n_jobs)
            began = time.perf_counter()
            store.build(competition, windows, configs, out_dir=f"{folder}/{n_jobs}", n_jobs=n_jobs)
            rates[f"store.build, {n_jobs} process" + "es" * (n_jobs > 1)] = len(windows) / (
                time.perf_counter() - began
            )
    table = pd.DataFrame({"EEGs/s": rates})
    table["times faster"] = table["EEGs/s"] / table["EEGs/s"].iloc[0]
    table["minutes for 17,089"] = 17_089 / table["EEGs/s"] / 60
    return table


def main() -> None:
    rng = np.random.default_rng(0)
    eeg_uv = signals.repair(simulate.simulate_window(rng)[0])
    eight = np.stack([eeg_uv * (1 + 0.1 * i) for i in range(8)])
    long = rng.normal(0, 30, (120_000, 20)).astype(np.float32)
    official = RegionalConfig(bandpass_hz=None)
    sections = []
    with threadpool_limits(1):
        error = 40 * np.abs(spectrograms.log_mel(eeg_uv)[0] - librosa_loop(eeg_uv)).max()
        table = compare(
            {
                "librosa loop": lambda: librosa_loop(eeg_uv),
                "`log_mel`, one EEG": lambda: spectrograms.log_mel(eeg_uv),
                "`log_mel`, eight EEGs": lambda: spectrograms.log_mel(eight),
            }
        )
        table.loc["`log_mel`, eight EEGs"] *= [1 / 8, 1 / 8, 1 / 8, 8]
        sections.append((f"50 s → 128 × 256 × 4, largest difference {error:.1g} dB", table))
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
        sos = signals.butterworth(3, 0.5, 40.0)[0]
        table = compare(
            {
                "`scipy.signal.sosfiltfilt`": lambda: signal.sosfiltfilt(
                    sos, eeg_uv.astype(np.float64), axis=0
                ),
                "`bandpass`": lambda: signals.bandpass(eeg_uv, 0.5, 40.0),
            }
        )
        error = np.abs(signals.bandpass(eeg_uv, 0.5, 40) - signal.sosfiltfilt(sos, eeg_uv, axis=0))
        title = f"0.5–40 Hz, 50 s of 20 electrodes, largest difference {error.max():.1g} µV"
        sections.append((title, table))
        table = compare({"np.median": lambda: np.median(eeg_uv, axis=0),
                         "`repair`, whole": lambda: signals.repair(eeg_uv)})  # fmt: skip
        sections.append(
            ("Offsets, NaN and bad electrodes of 50 s; the median alone beside it", table)
        )
    sections.append(("Parquet → repaired, filtered → both inputs of the full profile", builds(20)))
    text = f"`python benchmarks/representations.py` on {machine()}\n"
    for title, table in sections:
        text += f"\n### {title}\n\n{markdown(table)}\n"
    print(text)


if __name__ == "__main__":
    main()
