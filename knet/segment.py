"""What `knet segment` does: post images, write answers and pictures, show a table of each."""

import base64
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Unpack

from rich.console import Console
from rich.table import Table
from rich.text import Text

from knet.client import KNetClient
from knet.conversation import KNetError, Wishes

_TABLE_ROWS = 10
_PICTURES = ("overlay", "png")


def segment_images(
    images: Sequence[Path], *, url: str, api_key: str | None, start_timeout: float, **wishes: Unpack[Wishes]
) -> Iterator[tuple[Path, Any]]:
    """Each image with its answer, from the server at `url` once it is ready.

    Raises:
        ValueError: the server refuses one of several images; names the image.
    """
    console = Console(stderr=True)
    with KNetClient(url, api_key=api_key) as client:
        with console.status("Waiting for the server to load the model ..."):
            client.wait_ready(start_timeout)
        for image in images:
            try:
                with console.status(Text(f"Segmenting {image.name} ...")):
                    answer = client.segment(image, **wishes)
            except KNetError as error:
                if len(images) == 1:
                    raise
                raise ValueError(f"{image}: {error}") from error
            yield image, answer


def check_names(images: Sequence[Path], out: Path, format: str) -> None:
    """Raises ValueError when files of two images would have the same name, or one would take an image's place."""
    twice = [name for name, count in Counter(image.stem for image in images).items() if count > 1]
    if twice:
        raise ValueError(f"several images are named {twice[0]}, and their files would be, too: segment them apart")
    own = {image.resolve() for image in images} if format in _PICTURES else set()
    for image in images:
        if (picture := (out / f"{image.stem}.png").resolve()) in own:
            raise ValueError(f"the picture of {image} would be written over {picture}: name another folder with --out")


def write_files(image: Path, answer: Any, out: Path) -> list[Path]:
    """Write `out`/STEM.json and, of a picture in the answer, `out`/STEM.png."""
    out.mkdir(parents=True, exist_ok=True)
    files = [out / f"{image.stem}.json"]
    for name in _PICTURES:
        if name in answer:
            files.append(out / f"{image.stem}.png")
            files[-1].write_bytes(base64.b64decode(answer[name]))
            answer = {key: value for key, value in answer.items() if key != name}
    files[0].write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")
    return files


def show(answer: Any, files: Sequence[Path]) -> None:
    """Print the best segments, what there is in all, and where the files are."""
    console = Console(markup=False)  # names of files and categories may have brackets
    if isinstance(answer, dict):  # the list of format huggingface has little to show
        _show_segments(answer, console)
    for name, file in zip(("Answer: ", "Picture:"), files, strict=False):
        console.print(f"{name} {file}", soft_wrap=True, highlight=False)


def _show_segments(answer: dict[str, Any], console: Console) -> None:
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
