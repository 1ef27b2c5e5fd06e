"""What `knet segment` does: post an image, write the answer and the picture, show a table."""

import base64
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from knet.client import KNetClient

_TABLE_ROWS = 10


@dataclass(frozen=True)
class WrittenFiles:
    """Where the answer and the picture are."""

    answer: Path
    picture: Path


def segment_image(
    image: Path, out: Path, *, url: str, api_key: str | None, start_timeout: float, **wishes: Any
) -> tuple[dict[str, Any], WrittenFiles]:
    """Post `image` to the server at `url` once it is ready; write `out`/STEM.json and `out`/STEM.png."""
    console = Console(stderr=True)
    with KNetClient(url, api_key=api_key) as client:
        with console.status("Waiting for the server to load the model ..."):
            client.wait_ready(start_timeout)
        with console.status(f"Segmenting {image.name} ..."):
            answer = client.segment(image, format="overlay", **wishes)
    picture = base64.b64decode(answer.pop("overlay"))
    files = WrittenFiles(out / f"{image.stem}.json", out / f"{image.stem}.png")
    out.mkdir(parents=True, exist_ok=True)
    files.answer.write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")
    files.picture.write_bytes(picture)
    return answer, files


def show(answer: dict[str, Any], files: WrittenFiles) -> None:
    """Print the best segments, what there is in all, and where the files are."""
    console = Console()
    segments = answer["segments"]
    table = Table("id", "category", "score", "area", "bbox (x, y, width, height)")
    for segment in segments[:_TABLE_ROWS]:
        score = "" if segment["score"] is None else f"{segment['score']:.3f}"
        bbox = ", ".join(map(str, segment["bbox"]))
        table.add_row(str(segment["id"]), segment["category"], score, str(segment["area"]), bbox)
    console.print(table)
    counts = Counter(segment["category"] for segment in segments)
    parts = ", ".join(f"{count} {category}" for category, count in counts.most_common())
    shown = f" (the first {_TABLE_ROWS} shown)" if len(segments) > _TABLE_ROWS else ""
    size = f"{answer['image']['width']} x {answer['image']['height']}"
    milliseconds = answer["timing_ms"]["total"]
    console.print(f"{len(segments)} segments{shown}: {parts or 'none'}; {size} pixels in {milliseconds:.0f} ms")
    for warning in answer["warnings"]:
        console.print(f"Warning: {warning}", style="yellow")
    console.print(f"Answer:  {files.answer}\nPicture: {files.picture}", soft_wrap=True, highlight=False)
