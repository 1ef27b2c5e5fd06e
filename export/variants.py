"""The variants of an artifact: made one after the other, each judged against PyTorch before it may stay."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from export.errors import ExportError
from export.fp16 import to_fp16
from export.options import LIMITS, REFERENCE, RUNTIMES, ExportOptions, Format, Precision
from export.quantise import LADDER, SAFE_RUNG, Inputs, Rung, calibration_inputs, quantise
from export.tensorrt_engine import build_engine
from export.to_onnx import store_as_fp16
from export.verify import MAX_PIXEL_DIFFERENCE, MAX_SCORE_DIFFERENCE, SCORE_TOLERANCE, Comparison, compare
from service.artifact import ArtifactMetadata, Variant, file_sha256
from service.instances import Result
from service.segmenter import Segmenter
from service.variants import open_session
from training.data.index import DataIndex
from training.evaluate import evaluate
from training.predictor import predictor_of

GRAPH = "model.onnx"
_GRAPHS = {"fp32": GRAPH, "bf16": GRAPH, "fp16": "model.fp16.onnx", "int8": "model.int8.onnx"}
_DONE = "within its limits"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What variants are judged by."""

    reference: Segmenter  # PyTorch
    images: Sequence[NDArray[np.uint8]]  # real ones, (H, W, 3)
    answers: Sequence[Result]  # of the reference to them
    calibration: Sequence[Path]  # image files
    validation: DataIndex | None  # None: nothing says how much a lower precision loses
    score: float  # of the reference on the validation images, 0..1

    @property
    def measures(self) -> bool:
        """Whether the validation images tell how much a variant loses: nothing can be lost by a model that scores 0."""
        return self.validation is not None and self.score > 0


def gather_evidence(
    reference: Segmenter,
    images: Sequence[NDArray[np.uint8]],
    calibration: Sequence[Path],
    validation: DataIndex | None,
) -> Evidence:
    """Run the reference over everything, once."""
    score = 0.0 if validation is None else _score(reference, validation)[1]
    return Evidence(
        reference=reference,
        images=images,
        answers=[reference.segment(image) for image in images],
        calibration=calibration,
        validation=validation,
        score=score,
    )


@dataclass(kw_only=True)
class VariantMaker:
    """One export's variants, made into the artifact's folder; graphs are made when a variant first needs them."""

    graph: onnx.ModelProto
    metadata: ArtifactMetadata
    folder: Path
    options: ExportOptions
    evidence: Evidence
    console: Console

    def __post_init__(self) -> None:
        self._kept: set[str] = set()  # files
        self._table = _empty_table(self.evidence)

    def make_all(self) -> tuple[Variant, ...]:
        """Write the graphs of all variants, judge each, and print what came of it; those that stay, best first.

        Raises:
            ExportError: the reference graph does not answer as PyTorch does; or an engine cannot be built.
        """
        graph = store_as_fp16(self.graph) if self.options.half_storage else self.graph
        onnx.save(graph, self.folder / GRAPH)
        # The reference first: what does not agree there need not be tried.
        order = sorted(self.options.variants, key=lambda pair: pair != REFERENCE)
        made = {pair: variant for pair in order if (variant := self._make(*pair)) is not None}
        self._drop_unused()
        self.console.print(self._table)
        return tuple(made[pair] for pair in self.options.variants if pair in made)

    def _make(self, format_: Format, precision: Precision) -> Variant | None:
        """A variant within its limits, or forced; None: it is not to be written."""
        with self.console.status(f"making {RUNTIMES[format_]}-{precision} and comparing it with PyTorch"):
            variant, verdict = self._best(format_, precision)
        accepted = verdict == _DONE
        self._table.add_row(*_row(variant, self.folder, verdict, self.evidence))
        if (format_, precision) == REFERENCE and not accepted and not self.options.force:
            raise ExportError(f"ONNX Runtime does not answer as PyTorch does: {verdict}")
        if not accepted and not self.options.force:
            return None
        self._kept.add(variant.file)
        return variant.model_copy(update={"outside_limits": not accepted})

    def _drop_unused(self) -> None:
        """Remove graphs of which no variant stayed."""
        for path in self.folder.iterdir():
            if path.name not in self._kept:
                path.unlink()

    def _best(self, format_: Format, precision: Precision) -> tuple[Variant, str]:
        """The variant and what is against it; of int8 the first rung of the ladder that is within the limits."""
        if precision != "int8" or (self.folder / _GRAPHS["int8"]).exists():
            return self._judge(self._write(format_, precision), precision)
        rungs = LADDER if self.evidence.measures else (SAFE_RUNG,)
        for rung in rungs:
            self._quantise(rung)
            variant, verdict = self._judge(self._write(format_, precision), precision)
            if verdict == _DONE:
                break
        return variant, verdict

    def _write(self, format_: Format, precision: Precision) -> Variant:
        if format_ == "tensorrt":
            engine = replace(self.options.engine, precision=precision)  # type: ignore[arg-type]  # as the options' table
            return build_engine(self.folder, self.metadata, engine, console=self.console)
        path = self.folder / _GRAPHS[precision]
        if precision == "fp16" and not path.exists():
            onnx.save(to_fp16(self.graph), path)
        return Variant(runtime=RUNTIMES[format_], precision=precision, file=path.name, sha256=file_sha256(path))

    def _quantise(self, rung: Rung) -> None:
        quantised = quantise(self.graph, self._calibration, rung, signed=self.options.signed_int8)
        onnx.save(quantised, self.folder / _GRAPHS["int8"])

    @cached_property
    def _calibration(self) -> list[Inputs]:
        return calibration_inputs(self.metadata, self.folder / GRAPH, self.evidence.calibration)

    def _judge(self, variant: Variant, precision: Precision) -> tuple[Variant, str]:
        """The variant with its accuracy, and `_DONE` or what is against it."""
        evidence, limit = self.evidence, LIMITS[precision]
        candidate = Segmenter(self.metadata, open_session(self.folder, variant))
        comparison = compare(evidence.answers, candidate, evidence.images)
        accuracy = {name: float(value) for name, value in asdict(comparison).items()}
        accuracy |= {
            "pixel_difference": comparison.pixel_difference,
            "score_difference": comparison.score_difference,
        }
        verdict = _DONE
        if limit.must_agree and not comparison.accepted:
            verdict = _disagreement(comparison)
        if evidence.validation is not None:
            metric, score = _score(candidate, evidence.validation)
            accuracy |= {metric: score, f"{metric}_reference": evidence.score}
            loss = evidence.score - score
            if limit.max_loss is not None and loss > limit.max_loss:
                verdict = f"loses {100 * loss:.2f} {metric} (at most {100 * limit.max_loss:.1f})"
        return variant.model_copy(update={"accuracy": accuracy}), verdict


def _score(segmenter: Segmenter, validation: DataIndex) -> tuple[str, float]:
    """Name and value of the score that decides for this kind of model and data."""
    name, value = evaluate(predictor_of(segmenter), validation).main
    return name, value


def _disagreement(comparison: Comparison) -> str:
    return (
        f"{comparison.pixel_difference:.3%} of the pixels differ (at most {MAX_PIXEL_DIFFERENCE:.1%}), "
        f"{comparison.score_difference:.3%} of the segments differ in score by more than {SCORE_TOLERANCE} "
        f"(at most {MAX_SCORE_DIFFERENCE:.1%}), over {comparison.images} images"
    )


def _empty_table(evidence: Evidence) -> Table:
    count = len(evidence.images)
    on = "" if evidence.validation is None else f"; scores on {len(evidence.validation.records)} validation images"
    table = Table(title=f"Against PyTorch, on {count} images{on}")
    for name in ("variant", "pixels that differ", "scores that differ", "score", "loss", "MB", ""):
        table.add_column(name, justify="left" if name in ("variant", "") else "right")
    return table


def _row(variant: Variant, folder: Path, verdict: str, evidence: Evidence) -> Iterator[str]:
    accuracy = variant.accuracy
    yield variant.name
    yield f"{accuracy['pixel_difference']:.3%}"
    yield f"{accuracy['score_difference']:.3%}"
    if evidence.validation is None:
        yield from ("-", "-")
    else:
        score = next(accuracy[name.removesuffix("_reference")] for name in accuracy if name.endswith("_reference"))
        yield f"{100 * score:.2f}"
        yield f"{100 * (evidence.score - score):+.2f}"
    yield f"{(folder / variant.file).stat().st_size / 1e6:.1f}"
    if verdict != _DONE or evidence.measures or LIMITS[variant.precision].must_agree:  # type: ignore[index]
        yield verdict
    else:
        missing = "no validation data (--data)" if evidence.validation is None else "PyTorch scores 0 on the data"
        yield f"not judged: {missing}"
