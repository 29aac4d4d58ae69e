"""Execute the notebooks' sources into the .ipynb beside them, with outputs small enough to commit.

python commit.py [NAME ...]        # in notebooks/; `make commit-notebooks` runs all
"""

import base64
import io
import re
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

# What TensorFlow says in C++ on every import, joblib of workers that grew, tqdm of a widget.
NOISE = re.compile(
    r"^[IWE]\d{4} |absl::InitializeLog|^To enable the following|retracing"
    r"|UserWarning: A worker|^ *warnings.warn\($|TqdmWarning|^ *from .autonotebook"
)


def shrink(png: str, limit: int = 160_000) -> str:
    """A base64 PNG with a palette: 64 colours, or 24 where that leaves it large."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    for colours in (64, 24):
        out = io.BytesIO()
        small = image.quantize(colours, Image.Quantize.FASTOCTREE)  # keeps rare colours apart
        small.save(out, "PNG", optimize=True)
        if out.tell() <= limit:
            break
    return base64.b64encode(out.getvalue()).decode()


def main(names: list[str]) -> None:
    for source in [Path(f"{name}.py") for name in names] or sorted(Path().glob("0*.py")):
        print(f"== {source.stem}", flush=True)
        notebook = jupytext.read(source)
        NotebookClient(notebook, timeout=None, coalesce_streams=True).execute()
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # times of day
            for output in cell.get("outputs", []):
                if output.output_type == "stream":
                    lines = output.text.splitlines(keepends=True)
                    output.text = "".join(line for line in lines if not NOISE.search(line))
                if "image/png" in output.get("data", {}):
                    output.data["image/png"] = png = shrink(output.data["image/png"])
                    for name in {"readme", "results"} & {*cell.metadata.get("tags", [])}:
                        Path(f"{name}.png").write_bytes(base64.b64decode(png))
            if cell.cell_type == "code":
                cell.outputs = [o for o in cell.outputs if o.get("text", "-").strip()]
        nbformat.write(notebook, source.with_suffix(".ipynb"))
        print(f"{source.with_suffix('.ipynb').stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
