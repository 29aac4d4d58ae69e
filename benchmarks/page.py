"""The page of `hmsutils app` in a headless Chromium: its start, its answers, its memory.

    python benchmarks/page.py > benchmarks/page.md                # needs Chromium; 8 minutes
    python benchmarks/page.py --picture docs/page.webp data/recordings/simulated.edf  # notebook 6

Times are against the import of TensorFlow alone in the same run. The memory is that of the server,
after so many uploads of a window of 50 s in one session.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from recordings import write_edf
from timing import machine, markdown

from hmsutils import records, simulate

COLUMNS = """\
Lower is better everywhere. The last column divides the seconds by the time that importing
TensorFlow takes in the same run, so that it can be compared between machines."""
UPLOADS = (1, 10, 50, 200)


def megabytes(process: subprocess.Popen) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def visit(browser: Browser, address: str) -> Page:
    page = browser.new_page()
    page.set_default_timeout(120_000)
    page.goto(address)
    page.wait_for_selector("input[type=file]", state="attached")
    return page


def picture(browser: Browser, address: str, recording: str, path: str) -> None:
    """A page of a recording's first event."""
    page = visit(browser, address)
    page.set_viewport_size({"width": 1440, "height": 860})
    page.set_input_files("input[type=file]", recording)
    page.wait_for_selector("text=/^Events: /")
    page.locator("[data-name=list] button").first.click()
    page.wait_for_timeout(5000)
    Image.open(BytesIO(page.screenshot())).save(path, quality=85)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", nargs=2, metavar=("FILE", "RECORDING"), help="draw only that")
    args = parser.parse_args()
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import tensorflow"], capture_output=True, check=True)
    reference_s, times_s, memory = time.perf_counter() - began, {}, {}
    folder = tempfile.TemporaryDirectory()
    window, hour = Path(folder.name) / "labels", Path(folder.name) / "hour.edf"
    eeg_uv, _, _ = simulate.simulate_window(np.random.default_rng(0))
    records.save_label(window, eeg_uv, "Other", source="x", offset_s=0)
    (window,) = (window / "train_eegs").iterdir()
    write_edf(hour, 1)
    command = [sys.executable, "-m", "hmsutils", "app", "--no-browser", "--labels", folder.name]
    began = time.perf_counter()
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    with sync_playwright() as play, ExitStack() as stack:
        stack.callback(server.terminate)
        binary = shutil.which("chromium") or shutil.which("google-chrome")
        options = ["--no-sandbox", "--disable-gpu"]
        browser = play.chromium.launch(executable_path=binary, args=options)
        lines = (re.findall(r"http://\S+", line) for line in server.stdout)
        address = next(filter(None, lines))[0]
        if args.picture:
            picture(browser, address, *reversed(args.picture))
            return
        page = visit(browser, address)
        times_s["start, to an empty page"] = time.perf_counter() - began
        for name, path in (
            ("50 s, the first file after the start: to the probabilities", window),
            ("50 s, another time", window),
            ("an hour of 256 Hz: to the first probabilities", hour),
        ):
            page = visit(browser, address)
            began = time.perf_counter()
            page.set_input_files("input[type=file]", path)
            page.wait_for_selector(".answer td")
            times_s[name] = time.perf_counter() - began
        page.wait_for_selector("text=/^Events: /")
        times_s["an hour: to all events"] = time.perf_counter() - began
        for n in range(1, max(UPLOADS) + 1):
            page.locator("[data-name=n_events]").evaluate("(x) => { x.textContent = '' }")
            page.set_input_files("input[type=file]", window)
            page.wait_for_selector("text=/^Events: /")
            if n in UPLOADS:
                memory[f"after {n} uploads"] = megabytes(server)
        browser.close()
    rows = {
        name: {"s": s, "× import of TensorFlow": s / reference_s} for name, s in times_s.items()
    }
    print(f"`python benchmarks/page.py` on {machine()}\n\n{COLUMNS}\n")
    print(f"{markdown(pd.DataFrame(rows).T, 1)}\n\nMemory should not grow with the uploads.\n")
    print(markdown(pd.DataFrame({"server, MB": memory}), 0))


if __name__ == "__main__":
    main()
