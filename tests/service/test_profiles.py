import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.artifact import Geometry
from service.geometry import make_plan
from service.profiles import input_shapes, make_profiles, profile_shapes
from service.segmenter import MAX_BATCH, MAX_BATCH_PIXELS

GEOMETRIES = [
    Geometry(mode="tile", sizes=(256, 320, 384, 448, 512), overlap=96),
    Geometry(mode="tile", sizes=(64,), overlap=0, scale=0.5),
    Geometry(mode="tile", sizes=(512, 1024), overlap=64),
    Geometry(mode="fit", size=(480, 640)),
    Geometry(mode="shortest_edge", shortest=800, longest=1333, multiple=32),
    Geometry(mode="shortest_edge", shortest=512, longest=512, multiple=64),
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@given(image_size=st.tuples(st.integers(1, 3000), st.integers(1, 3000)))
def test_every_batch_of_an_image_has_a_profile(geometry, image_size):
    plan = make_plan(image_size, geometry, 2)
    height, width = plan.canvas_size
    most = max(1, min(MAX_BATCH, MAX_BATCH_PIXELS // (height * width)))
    batches = {most, len(plan.tiles) % most or most} if len(plan.tiles) >= most else {len(plan.tiles)}
    profiles = make_profiles(geometry)
    for batch in batches:
        assert any(profile.holds(batch, plan.canvas_size) for profile in profiles), (batch, plan.canvas_size)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_what_is_common_lies_within(geometry):
    for profile in make_profiles(geometry):
        assert profile.holds(profile.batch, profile.common)


def test_inputs_are_those_of_the_kind(tiny, tmp_path):
    metadata = tiny.write_artifact(tmp_path)
    shapes = input_shapes(metadata.model_copy(update={"uses_image_statistics": True}), 2, (32, 64))
    assert shapes == {
        "image": (2, 32, 64, 3),
        "valid_size": (2, 2),
        "score_threshold": (2,),
        "overlap_threshold": (2,),
        "pixel_mean": (2,),
        "pixel_std": (2,),
    }
    semantic = metadata.model_copy(update={"kind": "semantic", "uses_image_statistics": False})
    assert set(input_shapes(semantic, 1, (32, 32))) == {"image", "valid_size"}
    assert [len(profile) for profile in profile_shapes(metadata)] == [3] * len(make_profiles(metadata.geometry))
