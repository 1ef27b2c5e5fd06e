import dataclasses

import pytest
import torch

from model.knet import KNet, KNetOutput
from model.panoptic import PanopticModel, classify


def make_model(config):
    """A network with masks and seeds at random and confident classes, so that there are segments."""
    torch.manual_seed(4)
    network = KNet(config).eval()
    for name, parameter in network.named_parameters():
        if name.endswith("conv_seg.bias") or "things.heat.bias" in name:
            parameter.data.zero_()
        if name.endswith("class_branch.output.bias"):
            parameter.data.fill_(2.0)
    return PanopticModel(network)


@pytest.fixture
def make_inputs(make_inputs):
    """With thresholds that keep everything, and the statistics of the image."""

    def make(batch=2, **size):
        statistics = {"pixel_mean": torch.full((batch,), 127.0), "pixel_std": torch.full((batch,), 70.0)}
        thresholds = {"score_threshold": torch.zeros(batch), "overlap_threshold": torch.zeros(batch)}
        return make_inputs(batch, **size) | thresholds | statistics

    return make


def test_outputs_have_the_types_of_the_contract(config, make_inputs):
    output = make_model(config)(**make_inputs())
    num_kernels, s = config.num_kernels + config.num_stuff, config.output_stride
    assert output.id_map.shape == (2, 64 // s, 96 // s)
    assert all(x.shape == (2, num_kernels) for x in output[1:])
    assert output.score.dtype == torch.float32
    assert all(x.dtype == torch.int32 for x in (output.id_map, output.segment_id, output.class_index, output.area))


def test_segments_and_id_map_agree(config, make_inputs):
    output = make_model(config)(**make_inputs())
    for id_map, segment_id, score, area in zip(
        output.id_map, output.segment_id, output.score, output.area, strict=True
    ):
        ids = segment_id[segment_id > 0].tolist()
        assert len(ids) > 1
        assert sorted(ids) == list(range(1, len(ids) + 1))
        assert {*id_map.unique().tolist()} - {0} == {*ids}
        assert [int((id_map == i).sum()) for i in segment_id.tolist() if i] == area[segment_id > 0].tolist()
        by_id = score[segment_id > 0][torch.tensor(ids).argsort()]
        assert (by_id.diff() <= 0).all()


def test_things_get_thing_classes_and_each_stuff_kernel_its_own(config, make_inputs):
    output = make_model(config)(**make_inputs())
    assert (output.class_index[:, : config.num_kernels] < config.num_things).all()
    assert output.class_index[:, config.num_kernels :].tolist() == [[2, 3]] * 2


@pytest.mark.parametrize("output_stride", [1, 2, 4])
def test_output_stride_is_the_scale_of_the_id_map(learned_config, output_stride, make_inputs):
    output = make_model(dataclasses.replace(learned_config, output_stride=output_stride))(**make_inputs())
    assert output.id_map.shape == (2, 64 // output_stride, 96 // output_stride)


@pytest.mark.parametrize("output_stride", [1, 2])
def test_pixels_outside_the_valid_size_are_void(config, output_stride, make_inputs):
    output = make_model(dataclasses.replace(config, output_stride=output_stride))(
        **make_inputs(valid_size=[[64, 96], [40, 51]])
    )
    rows, columns = -(-40 // output_stride), -(-51 // output_stride)
    assert (output.id_map[1, rows:] == 0).all()
    assert (output.id_map[1, :, columns:] == 0).all()
    assert output.id_map[1, :rows, :columns].max() > 0
    assert output.area[1].sum() <= rows * columns


def test_what_lies_in_the_padding_does_not_matter(config, make_inputs):
    model, inputs = make_model(config), make_inputs(1, valid_size=[[40, 50]])
    changed = inputs["image"].clone()
    changed[:, 40:] = 255
    changed[:, :, 50:] = 7
    for ours, expected in zip(model(**inputs | {"image": changed}), model(**inputs), strict=True):
        assert torch.equal(ours, expected)


def test_an_image_gets_the_same_answer_in_a_batch_and_alone(config, make_inputs):
    model = make_model(config)
    inputs = make_inputs(valid_size=[[64, 96], [40, 50]])
    inputs["score_threshold"] = torch.tensor([0.0, 0.88])
    together = model(**inputs)
    for i in range(2):
        alone = model(**{name: value[i : i + 1] for name, value in inputs.items()})
        assert torch.equal(alone.id_map[0], together.id_map[i])
        # fp32 sums in another order.
        torch.testing.assert_close(alone.score[0], together.score[i], rtol=1e-4, atol=1e-6)


def test_stuff_score_is_fixed_or_predicted(learned_config, make_inputs):
    fixed = dataclasses.replace(learned_config, fixed_stuff_score=0.75)
    scores = [make_model(config)(**make_inputs()).score for config in (learned_config, fixed)]
    assert (scores[1][:, -2:] == 0.75).all()
    assert (scores[0][:, -2:] != 0.75).all()
    assert torch.equal(scores[0][:, :-2], scores[1][:, :-2])


def test_a_thing_is_scored_in_the_thing_columns_and_stuff_in_its_own(learned_config):
    network = KNet(learned_config)
    class_logits = torch.full((1, 8, 4), -5.0)
    class_logits[0, 0] = torch.tensor([-1.0, 0.5, 9.0, 9.0])  # stuff columns say nothing about a thing
    class_logits[0, 6] = torch.tensor([9.0, 9.0, 0.25, 9.0])
    class_logits[0, 7] = torch.tensor([9.0, 9.0, 9.0, -0.25])
    masks = torch.zeros(1, 8, 2, 2)
    output = KNetOutput((masks,), masks, (class_logits,), torch.zeros(1, 4, 2, 2))
    class_index, score, is_stuff = classify(network.config, output)
    assert class_index[0, [0, 6, 7]].tolist() == [1, 2, 3]
    torch.testing.assert_close(score[0, [0, 6, 7]], torch.tensor([0.5, 0.25, -0.25]).sigmoid())
    assert is_stuff.tolist() == [False] * 6 + [True] * 2


def test_slots_out_of_use_have_score_0(seeded_config, make_inputs):
    model, inputs = make_model(seeded_config), make_inputs(1)
    model.network.kernel_head.things.heat.bias.data.fill_(-20.0)  # no seed anywhere
    output = model(**inputs)
    assert (output.score[:, : seeded_config.num_kernels] == 0).all()
    inputs["score_threshold"] = torch.full((1,), 0.1)
    assert (model(**inputs).segment_id[:, : seeded_config.num_kernels] == 0).all()


def test_own_statistics_are_needed_where_the_network_normalises_by_them(seeded_config, make_inputs):
    inputs = make_inputs(1)
    del inputs["pixel_mean"]
    with pytest.raises(ValueError, match="needs its mean and std"):
        make_model(seeded_config)(**inputs)
