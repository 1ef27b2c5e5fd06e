"""From a slide to its files: rows of tiles through the model, then joined, then written; the order of the steps.

Held at once are a few rows of tiles and some numbers of each object, however high the slide is. What the model has
given for each row of tiles lies in a folder, so that another process goes on there.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from batch.slide_file import SlideFile
from batch.slide_objects import find_objects, pixel_bands
from batch.slide_output import write_slide
from batch.slide_rows import ReadTiles, segment_rows, slide_statistics, stored_rows
from service import answers
from service.answers import Wish
from service.artifact import ArtifactMetadata
from service.errors import ImageTooLargeError
from service.geometry import Plan, make_plan
from service.join import RowJoin, TileResult
from service.segmenter import crowded_warnings, find_thresholds, is_crowded, min_areas
from service.ticket import Ticket

LABELS, TABLE = "labels.tif", "objects.parquet"  # in the folder of a slide's work


@dataclass(frozen=True, kw_only=True)
class SlideWork:
    """One slide on its way.

    Args:
        slide: open.
        metadata: of the model.
        wish: what is asked.
        work: folder of what is done so far, and of the files at the end.
        ticket: when cancelled, the work ends with its error.
        told: is told how many rows of tiles are done, and how many there are.
    """

    slide: SlideFile
    metadata: ArtifactMetadata
    wish: Wish
    work: Path
    ticket: Ticket
    told: Callable[[int, int], None]

    def run(self, read_tiles: ReadTiles, stop: Callable[[], None]) -> dict[str, Any]:
        """Write the files; gives what the journal keeps.

        Args:
            read_tiles: asks the model; for any thread.
            stop: cancels the ticket.

        Raises:
            ServiceError: the slide is damaged, the model cannot do slides, or the engine fails.
            OSError: a file cannot be read or written.
        """
        metadata, wish = self.metadata, self.wish
        plan = plan_slide(self.slide.size, metadata)
        values = find_thresholds(
            metadata, score_threshold=wish.score_threshold, overlap_threshold=wish.overlap_threshold
        )
        if metadata.uses_image_statistics:
            values |= slide_statistics(self.slide, self.work, self.ticket.check)
        done, lock = 0, threading.Lock()

        def told(rows: int) -> None:
            nonlocal done
            with lock:
                done += rows
                self.told(done, plan.num_rows)

        segment_rows(self.slide, plan, values, read_tiles, self.work, told=told, stop=stop)
        self.ticket.check()
        return self._write(plan)

    def _write(self, plan: Plan) -> dict[str, Any]:
        metadata, wish = self.metadata, self.wish
        by_class = wish.task == "semantic"
        num_crowded = 0

        def rows() -> Iterator[list[TileResult]]:
            nonlocal num_crowded
            for results in stored_rows(plan, self.work):
                num_crowded += sum(is_crowded(metadata, result) for result in results)
                yield results

        objects = find_objects(
            rows(),
            plan,
            min_areas=partial(min_areas, metadata),
            wanted=answers.wanted_classes(wish, metadata),
            by_class=by_class,
        )
        self.ticket.check()
        write_slide(
            self.work / LABELS,
            self.work / TABLE,
            pixel_bands(RowJoin(plan), stored_rows(plan, self.work), plan),
            objects,
            plan.image_size,
            metadata,
            resolution=self.slide.resolution,
            has_scores=metadata.confidence or not by_class,
        )
        height, width = plan.image_size
        warnings = crowded_warnings(metadata, num_crowded, len(plan.tiles))
        return {"height": height, "width": width, "warnings": warnings, "slide": {"objects": len(objects.score)}}


def plan_slide(size: tuple[int, int], metadata: ArtifactMetadata) -> Plan:
    """Tiles of a slide of (height, width); raises ImageTooLargeError where the model cannot be given such."""
    geometry = metadata.geometry
    if geometry.mode != "tile" or geometry.scale != 1:
        how = f"geometry {geometry.mode}" + (f" at scale {geometry.scale}" if geometry.scale != 1 else "")
        raise ImageTooLargeError(
            f"slides need a model that takes tiles of the image as it is (geometry tile, scale 1); {metadata.name} has "
            f"{how}"
        )
    return make_plan(size, geometry, metadata.output_stride)
