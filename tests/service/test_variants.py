import numpy as np
import pytest

from service.artifact import Variant
from service.errors import ArtifactError
from service.openvino_session import OpenVinoSession
from service.session import OnnxSession
from service.variants import choose_variant, open_session


@pytest.fixture
def metadata(tiny, tmp_path):
    return tiny.write_artifact(tmp_path)


def of_runtime(runtime, precision, metadata):
    return metadata.variants[0].model_copy(update={"runtime": runtime, "precision": precision})


def test_the_first_that_can_run_is_chosen(metadata):
    strange = of_runtime("abacus", "fp32", metadata)
    ours = of_runtime("openvino", "bf16", metadata)
    both = metadata.model_copy(update={"variants": (strange, ours, *metadata.variants)})
    assert choose_variant(both) == ours
    assert choose_variant(both, "onnxruntime-fp32") == metadata.variants[0]
    with pytest.raises(ArtifactError, match="abacus-fp32: runtime 'abacus' is not known"):
        choose_variant(both, "abacus-fp32")
    with pytest.raises(ArtifactError, match="no variant 'x'; legal: abacus-fp32, openvino-bf16, onnxruntime-fp32"):
        choose_variant(both, "x")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_openvino_answers_as_onnxruntime(metadata, tmp_path, precision):
    folder = tmp_path / "tiny" / "1"
    rng = np.random.default_rng(0)
    inputs = {
        "image": rng.integers(0, 13, (2, 32, 64, 3), dtype=np.uint8),
        "valid_size": np.array([(32, 64), (20, 30)], np.int32),
        "score_threshold": np.full(2, 0.5, np.float32),
        "overlap_threshold": np.full(2, 0.5, np.float32),
        "pixel_mean": np.zeros(2, np.float32),  # which the graph does not have
    }
    expected = open_session(folder, metadata.variants[0], threads=1)
    ours = open_session(folder, of_runtime("openvino", precision, metadata), threads=1)
    assert isinstance(expected, OnnxSession)
    assert isinstance(ours, OpenVinoSession)
    outputs = ours.run(inputs)
    assert list(outputs) == list(expected.run(inputs))
    for name, value in expected.run(inputs).items():
        # bf16 rounds the scores, which are constants of this graph.
        np.testing.assert_allclose(outputs[name], value, atol=2e-3, err_msg=name)


def test_outputs_outlive_the_next_run(metadata, tmp_path):
    session = open_session(tmp_path / "tiny" / "1", of_runtime("openvino", "fp32", metadata), threads=1)

    def run(red):
        return session.run(
            {
                "image": np.full((1, 32, 32, 3), red, np.uint8),
                "valid_size": np.array([(32, 32)], np.int32),
                "score_threshold": np.zeros(1, np.float32),
                "overlap_threshold": np.zeros(1, np.float32),
            }
        )["id_map"]

    first = run(7)
    before = first.copy()
    run(9)
    assert np.array_equal(first, before)


def test_what_openvino_cannot_load_is_told(metadata, tmp_path):
    folder = tmp_path / "tiny" / "1"
    (folder / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(ArtifactError, match="OpenVINO cannot load"):
        open_session(folder, of_runtime("openvino", "fp32", metadata))
    with pytest.raises(ArtifactError, match="no precision 'fp16' here; legal: fp32, bf16, int8"):
        open_session(folder, of_runtime("openvino", "fp16", metadata))
    with pytest.raises(ArtifactError, match="runtime 'abacus' is not known; legal: onnxruntime, openvino"):
        open_session(folder, Variant(runtime="abacus", precision="fp32", file="model.onnx", sha256="0" * 64))
