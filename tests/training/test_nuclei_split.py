import csv
import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from training.data.open import open_data
from training.nuclei import choose_validation, find_clusters, is_dsb2018, read_index, validation_ids

NUCLEI = Path(__file__).parents[3] / "shared" / "data" / "dsb2018_nuclei"


def field_of_view(seed, height=120, width=160):
    """Many smooth spots, gray uint8 (height, width)."""
    noise = np.random.default_rng(seed).random((height, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    return cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def write_source(folder, images, kinds=None, labels=None):
    """The dsb2018_nuclei layout with two nuclei (300 of 8 bit and more: 16 bit) in each image."""
    for name in ("images", "instance_maps"):
        (folder / name).mkdir(parents=True)
    rows = []
    for name, image in images.items():
        cv2.imwrite(str(folder / "images" / f"{name}.png"), image)
        label = (labels or {}).get(name)
        if label is None:
            label = np.zeros(image.shape[:2], np.uint16)
            label[5:15, 10:30] = 1
            label[40:44, 50:51] = 2
        cv2.imwrite(str(folder / "instance_maps" / f"{name}.png"), label)
        rows.append([name, image.shape[1], image.shape[0], int(label.max()), (kinds or {}).get(name, "gray")])
    with (folder / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "width", "height", "nuclei", "kind"], *rows])
    return folder


def thumbnails(*images):
    small = np.stack([cv2.resize(image.astype(np.float32), (128, 128)) for image in images])
    return (small - small.mean(axis=(1, 2), keepdims=True)) / small.std(axis=(1, 2), keepdims=True)


def test_overlapping_cuts_of_one_slide_are_one_field_and_others_are_not():
    slide = field_of_view(0, 256, 256)
    cuts = thumbnails(slide[:192, :192], field_of_view(1, 192, 192), slide[40:232, 30:222], field_of_view(2, 192, 192))
    assert find_clusters(cuts) == [[0, 2], [1], [3]]


def test_fields_are_joined_through_a_third():
    slide = field_of_view(0, 192, 400)
    first, second, third = slide[:, :192], slide[:, 90:282], slide[:, 180:372]
    assert find_clusters(thumbnails(first, third)) == [[0], [1]]
    assert find_clusters(thumbnails(first, second, third)) == [[0, 1, 2]]


def test_sparse_fields_with_the_same_flat_background_are_different():
    fields = []
    for seed in range(6):
        image = np.full((128, 128), 20, np.uint8)
        for x, y in np.random.default_rng(seed).integers(10, 118, (4, 2)).tolist():
            cv2.circle(image, (x, y), 5, 200, -1)
        fields.append(image)
    assert len(find_clusters(thumbnails(*fields))) == 6


@pytest.mark.parametrize(("count", "expected"), [(1, 0), (2, 0), (3, 1), (10, 2), (20, 3), (286, 43)])
def test_share_of_validation(count, expected):
    assert len(choose_validation([[f"image{i}"] for i in range(count)])) == expected


def test_clusters_stay_whole_and_order_does_not_matter():
    rng = np.random.default_rng(0)
    clusters = [[f"{i}-{j}" for j in range(rng.integers(1, 5))] for i in range(40)]
    chosen = choose_validation(clusters)
    quota = round(0.15 * sum(map(len, clusters)))
    assert quota - 3 <= len(chosen) <= quota
    assert all(chosen >= set(cluster) or not chosen & set(cluster) for cluster in clusters)
    shuffled = [cluster[::-1] for cluster in clusters[::-1]]
    assert choose_validation(shuffled) == chosen


def test_first_by_hash_is_taken():
    names = ["a", "b", "c", "d"]
    assert choose_validation([[name] for name in names]) == {
        min(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    }


def test_nuclei_are_read_with_their_split_and_groups(tmp_path):
    many = np.arange(120 * 160, dtype=np.uint16).reshape(120, 160) // 48  # 0..399: more than 8 bits
    source = write_source(tmp_path, {f"f{i}": field_of_view(i) for i in range(8)}, labels={"f0": many})
    validation = validation_ids(tuple(read_index(source)))
    seen = {}
    for name in ("train", "val"):
        index = open_data(source, name)
        assert (index.format, index.kind) == ("instance label maps", "panoptic")
        assert [(c.id, c.name, c.is_thing) for c in index.categories] == [
            (1, "nucleus", True),
            (2, "background", False),
        ]
        assert all((record.image_path.stem in validation) == (name == "val") for record in index.records)
        seen |= {record.image_path.stem: record for record in index.records}
    assert sorted(seen) == [f"f{i}" for i in range(8)]
    assert {record.group for record in seen.values()} == {"160x120 gray"}
    annotation = seen["f0"].source.read(120, 160)
    assert (annotation.layers[0] == np.where(many == 0, 400, many)).all()
    assert annotation.class_index.tolist() == [0] * 399 + [1]


def test_missing_and_wrong_entries_name_file_and_line(tmp_path):
    source = write_source(tmp_path / "source", {"a": field_of_view(1), "b": field_of_view(2)})
    assert is_dsb2018(source)
    assert not is_dsb2018(tmp_path)
    index = source / "index.csv"
    text = index.read_text()
    index.write_text(text, encoding="utf-8-sig")
    assert [field.id for field in read_index(source)] == ["a", "b"]
    index.write_text(text.replace("b,160", "b,wide"))
    with pytest.raises(ValueError, match=r"index\.csv, line 3"):
        read_index(source)
    index.write_text(text.replace("b,160", "a,160"))
    with pytest.raises(ValueError, match=r"lists a twice"):
        read_index(source)
    index.write_text(text.replace("b,160", "b,161"))
    with pytest.raises(ValueError, match=r"b\.png is 160x120, index\.csv says 161x120"):
        open_data(source, "train")
    index.write_text(text)
    (source / "images" / "b.png").unlink()
    with pytest.raises(ValueError, match=r"b\.png is missing.*line 3"):
        read_index(source)


@pytest.mark.skipif(not NUCLEI.is_dir(), reason="needs the nuclei images in ../shared/data")
def test_known_pairs_of_the_nuclei_set_stay_together():
    by_group = {"1024x1024 gray": ("5e263abf", "8f94a80b"), "1272x603 gray": ("20b20ab0", "cb4df20a")}
    fields = [field for field in read_index(NUCLEI) if field.group in by_group]
    validation = validation_ids(tuple(fields))
    assert len(validation) == 2 + 1
    for pair in by_group.values():
        ids = [field.id for field in fields if field.id.startswith(pair)]
        assert len(ids) == 2
        assert len(validation & set(ids)) in (0, 2)


@pytest.mark.skipif(not NUCLEI.is_dir(), reason="needs the nuclei images in ../shared/data")
def test_split_of_the_nuclei_set_is_the_published_one():
    index = open_data(NUCLEI, "val")
    names = "".join(sorted(record.image_path.stem for record in index.records))
    assert len(index.records) == 87
    assert hashlib.sha256(names.encode()).hexdigest()[:16] == "c745df71b8250da6"
