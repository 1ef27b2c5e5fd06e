"""An artifact for a device: one archive with the graph, a runner that needs few packages, and how to run it.

The runner's steps are the server's: their files are copied from `service` as they are, but for two (`_REPLACED`) that
need OpenCV and pydantic, which a device may lack.
"""

import gzip
import hashlib
import io
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from string import Template
from typing import Literal, get_args

from rich.console import Console

from export.errors import ExportError
from service.artifact import FILE_NAME, ArtifactMetadata, Variant, file_sha256, load, verify_files

Target = Literal["jetson", "arm64", "intel", "browser"]
ONNXRUNTIME_WEB = "onnxruntime-web@1.30.0"  # the version that is tested

# Variants that fit a target, the best first.
_FITTING: dict[Target, tuple[str, ...]] = {
    "jetson": ("onnxruntime-fp16", "onnxruntime-fp32"),
    "arm64": ("onnxruntime-int8", "onnxruntime-fp32"),
    "intel": ("openvino-int8", "openvino-bf16", "openvino-fp32", "onnxruntime-int8", "onnxruntime-fp32"),
    # In WebAssembly fp16 is computed in fp32 with conversions, and WebGPU has it on some adapters only.
    "browser": ("onnxruntime-fp32", "onnxruntime-fp16"),
}
_SERVICE = (
    "__init__",
    "answers",
    "errors",
    "geometry",
    "image",
    "instances",
    "join",
    "onnxruntime_providers",
    "openvino_session",
    "overlay",
    "polygons",
    "profiles",
    "rle",
    "segmenter",
    "segments",
    "session",
)
_REPLACED = ("artifact", "pixels")
_PAGE = ("index.html", "knet.js", "serve.py")
# A script and its WebAssembly for browsers with a GPU, and for those without.
_WEB_FILES = ("ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm",
              "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")  # fmt: skip
_CHECKSUMS = "SHA256SUMS"
_TIME = (1980, 1, 1, 0, 0, 0)  # of all files: the same content makes the same archive
_TAR_TIME = 315532800  # the same in seconds


def make_bundle(
    artifact_folder: Path,
    target: Target,
    out: Path | None = None,
    *,
    variant: str | None = None,
    onnxruntime_web: Path | None = None,
    console: Console,
) -> Path:
    """Write the bundle of an artifact for a target, whole or not at all; its path.

    Args:
        artifact_folder: REPOSITORY/NAME/VERSION.
        target: the kind of device.
        out: the archive, `.zip` for browsers and `.tar.gz` for the others; must not exist. None: NAME-VERSION-TARGET
            in the working folder.
        variant: name of the one to take, such as `onnxruntime-int8`; None: the best for the target that is within the
            limits of its precision.
        onnxruntime_web: folder of the unpacked npm package, of which browser bundles take files; None: leave them out.
        console: where the archive's size and digest are printed.

    Raises:
        ArtifactError: the artifact is damaged.
        ExportError: it has no such variant, or is of a kind that the target does not run.
        ValueError: `out` exists or has another ending, or a folder is not what it should be.
    """
    if target not in get_args(Target):
        raise ValueError(f"unknown target {target!r}; legal: {', '.join(get_args(Target))}")
    metadata = load(artifact_folder)
    root = f"{metadata.name}-{metadata.version}-{target}"
    ending = ".zip" if target == "browser" else ".tar.gz"
    out = Path(root + ending) if out is None else out
    if not out.name.endswith(ending):
        raise ValueError(f"{out} must end with {ending}, which a bundle for {target} is")
    if out.exists():
        raise ValueError(f"{out} exists; name another file or remove it")
    if onnxruntime_web is not None and target != "browser":
        raise ValueError(f"onnxruntime-web is for the target browser, not for {target}")
    if target == "browser" and metadata.kind == "instance":
        raise ExportError(f"{metadata.name} is of kind instance; the target browser takes panoptic and semantic ones")
    chosen = _choose_variant(metadata, target, variant)
    reduced = metadata.model_copy(update={"variants": (chosen,)})
    verify_files(artifact_folder, reduced)

    files = {FILE_NAME: _json(reduced), chosen.file: (artifact_folder / chosen.file).read_bytes()}
    if chosen.file.endswith(".xml"):  # OpenVINO's own form, in two files
        weights = chosen.file.removesuffix(".xml") + ".bin"
        files[weights] = (artifact_folder / weights).read_bytes()
    card = artifact_folder / "README.md"
    if card.is_file():
        files["MODEL_CARD.md"] = card.read_bytes()
    files |= _page_files(onnxruntime_web) if target == "browser" else _runner_files()
    files["README.md"] = _readme(reduced, target, chosen).encode()
    files[_CHECKSUMS] = _checksums(files)
    _write(out, {f"{root}/{name}": content for name, content in sorted(files.items())})
    console.print(f"{chosen.name}, {len(files)} files, {out.stat().st_size / 1e6:.1f} MB", highlight=False)
    console.print(f"{file_sha256(out)}  {out}", soft_wrap=True, highlight=False)
    return out


def _choose_variant(metadata: ArtifactMetadata, target: Target, name: str | None = None) -> Variant:
    """The variant of that name, or the best one for the target.

    Raises:
        ExportError: there is none, or the target cannot run it.
    """
    there = {variant.name: variant for variant in metadata.variants}
    label = f"{metadata.name}/{metadata.version}"
    if name is None:
        for fitting in _FITTING[target]:
            if fitting in there and not there[fitting].outside_limits:
                return there[fitting]
        raise ExportError(
            f"{label} has no variant for {target}, which takes {', '.join(_FITTING[target])}; it has {', '.join(there)}"
        )
    if name not in there:
        raise ExportError(f"{label} has no variant {name!r}; legal: {', '.join(there)}")
    runtimes = {fitting.split("-")[0] for fitting in _FITTING[target]}
    if there[name].runtime not in runtimes:
        raise ExportError(f"a bundle for {target} runs in {' or '.join(sorted(runtimes))}, which {name} does not")
    return there[name]


def _json(metadata: ArtifactMetadata) -> bytes:
    return (metadata.model_dump_json(indent=2) + "\n").encode()


def _runner_files() -> dict[str, bytes]:
    """The runner, and the server's files that it is made of."""
    own, service = resources.files("export.bundle_files"), resources.files("service")
    files = {f"service/{name}.py": (service / f"{name}.py").read_bytes() for name in _SERVICE}
    files |= {f"service/{name}.py": (own / f"{name}.py").read_bytes() for name in _REPLACED}
    return files | {"run.py": (own / "run.py").read_bytes()}


def _page_files(onnxruntime_web: Path | None) -> dict[str, bytes]:
    """The page, and ONNX Runtime for it if its folder is known."""
    own = resources.files("export.bundle_files")
    files = {name: (own / name).read_bytes() for name in _PAGE}
    if onnxruntime_web is None:
        return files
    missing = [name for name in _WEB_FILES if not (onnxruntime_web / "dist" / name).is_file()]
    if missing:
        raise ValueError(
            f"{onnxruntime_web / 'dist'} has no {', '.join(missing)}; get and unpack the package: "
            f"npm pack {ONNXRUNTIME_WEB}, and name its folder `package`"
        )
    return files | {f"ort/{name}": (onnxruntime_web / "dist" / name).read_bytes() for name in _WEB_FILES}


def _readme(metadata: ArtifactMetadata, target: Target, variant: Variant) -> str:
    """README.md: the target's own part, and for Python what is the same for all."""
    own = resources.files("export.bundle_files")
    names = [f"{target}.md"] if target == "browser" else [f"{target}.md", "runner.md"]
    template = Template("\n".join((own / name).read_text(encoding="utf-8") for name in names))
    return template.substitute(
        name=metadata.name,
        version=metadata.version,
        kind=metadata.kind,
        variant=variant.name,
        runtime=variant.runtime,
        archive=f"{metadata.name}-{metadata.version}-{target}",
        licence=metadata.provenance.get("licence", "not stated"),
        web_package=ONNXRUNTIME_WEB,
        web_files=" ".join(f"package/dist/{name}" for name in _WEB_FILES),
    )


def _checksums(files: Mapping[str, bytes]) -> bytes:
    """What `sha256sum --check` reads."""
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(files.items())]
    return "".join(lines).encode()


def _write(out: Path, files: Mapping[str, bytes]) -> None:
    """The archive under another name first, so that `out` is whole once it is there."""
    out.parent.mkdir(parents=True, exist_ok=True)
    content = _zip(files) if out.suffix == ".zip" else _tar_gz(files)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        work = Path(folder) / out.name
        work.write_bytes(content)
        work.rename(out)


def _tar_gz(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with (
        gzip.GzipFile(filename="", fileobj=packed, mode="wb", compresslevel=6, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.mode = len(content), _TAR_TIME, 0o644
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _zip(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _TIME)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, content)
    return packed.getvalue()
