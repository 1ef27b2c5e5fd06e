"""CamVid in each of the folders that it is handed on in: the same classes, void left out, its own split."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from knet.cli import app
from training.data.known_categories import CAMVID
from training.data.open import find_data, open_data

NAMES = {
    "train": ("0001TP_006690", "0001TP_006720", "0006R0_f00930"),
    "val": ("0016E5_07959",),
    "test": ("Seq05VD_f00000", "Seq05VD_f00030"),
}
COLOURS = {"Bicyclist": (0, 128, 192), "Road": (128, 64, 128), "Void": (0, 0, 0), "Wall": (64, 192, 0)}
CLASS_DICT = "name,r,g,b\r\n" + "".join(f"{name},{r}, {g}, {b}\r\n" for name, (r, g, b) in COLOURS.items())
NAMED = ["Bicyclist", "Road", "Wall"]


def write(files, root, images, labels, pixels, ending="_L.png", palette=None):
    """Images and labels of the three splits; folders are patterns."""
    for split, names in NAMES.items():
        for number, name in enumerate(names):
            files.save(root / images.format(split) / f"{name}.png", files.noise(number))
            files.save(root / labels.format(split) / f"{name}{ending}", pixels, palette)


def names_of(index):
    return tuple(record.image_path.stem for record in index.records)


def class_map(index):
    """Class index of each pixel (H, W) of the first record, -1 where void."""
    record = index.records[0]
    annotation = record.source.read(record.height, record.width)
    return np.concatenate([[-1], annotation.class_index])[annotation.layers[0]]


@pytest.mark.parametrize("void", [11, 255])
@pytest.mark.parametrize(
    ("images", "labels", "ending"),
    [("{}", "{}annot", ".png"), ("{}", "{}_labels", "_L.png"), ("images/{}", "labels/{}", ".png")],
)
def test_eleven_classes_and_its_own_split(tmp_path, files, images, labels, ending, void):
    write(files, tmp_path, images, labels, files.labels(*range(11), void, width=12 * 4), ending)
    for split, names in NAMES.items():
        for number, name in enumerate(names):
            files.save(tmp_path / images.format(split) / f"{name}.png", files.noise(number, width=48))
    found = find_data(tmp_path)
    assert found.splits == ("train", "val", "test")
    for split in found.splits:
        index = found.read(split)
        assert names_of(index) == NAMES[split]
        assert [known.name for known in index.categories] == [known.name for known in CAMVID]
        assert class_map(index)[0, ::4].tolist() == [*range(11), -1]


@pytest.mark.parametrize("kind", ["colours", "palette in another order", "rows of the list"])
def test_class_dict_whatever_the_labels_hold(tmp_path, files, kind):
    (tmp_path / "class_dict.csv").write_bytes(CLASS_DICT.encode("utf-8-sig"))
    stripes, palette = files.labels(0, 1, 2, 3), None
    if kind == "colours":
        pixels = files.coloured(*COLOURS.values())
    elif kind == "rows of the list":
        pixels = stripes
    else:
        pixels, palette = 3 - stripes, [value for colour in reversed(COLOURS.values()) for value in colour]
    write(files, tmp_path, "{}", "{}_labels", pixels, palette=palette)
    index = open_data(tmp_path, "train")
    assert [known.name for known in index.categories] == NAMED
    assert (class_map(index) == files.labels(0, 1, -1, 2, dtype=np.int64)).all()
    assert index.notes == ("classes are those of class_dict.csv; void, by its name: Void",)


def test_a_palette_of_other_colours_holds_numbers(tmp_path, files):
    (tmp_path / "class_dict.csv").write_text(CLASS_DICT)
    write(files, tmp_path, "{}", "{}_labels", files.labels(0, 1, 2, 3), palette=[9, 9, 1, 8, 8, 1, 7, 7, 1, 6, 6, 1])
    assert (class_map(open_data(tmp_path, "val")) == files.labels(0, 1, -1, 2, dtype=np.int64)).all()


def test_the_original_folders(tmp_path, files):
    lines = "".join(f"{r} {g} {b}\t\t{name}\r\n" for name, (r, g, b) in COLOURS.items())
    (tmp_path / "label_colors.txt").write_bytes(lines.encode())
    write(files, tmp_path, "701_StillsRaw_full", "LabeledApproved_full", files.coloured(*COLOURS.values()))
    train = open_data(tmp_path, "train")
    assert [known.name for known in train.categories] == NAMED
    assert (class_map(train) == files.labels(0, 1, -1, 2, dtype=np.int64)).all()
    (tmp_path / "val.txt").write_text("".join(f"701_StillsRaw_full/{name}.png\n" for name in NAMES["val"]))
    assert names_of(open_data(tmp_path, "val")) == NAMES["val"]


@pytest.mark.parametrize("columns", ["{}.png", "701/{0}.png labels/{0}_P.png"])
def test_one_list_is_enough(tmp_path, files, columns):
    write(files, tmp_path, "images", "labels", files.labels(0, 1, 2), ending="_P.png")
    (tmp_path / "codes.txt").write_bytes("\r\n".join(COLOURS).encode("utf-8-sig"))
    lines = "\r\n".join(columns.format(name) for name in NAMES["val"])
    (tmp_path / "valid.txt").write_bytes(lines.encode("utf-8-sig"))
    found = find_data(tmp_path)
    assert names_of(found.read("val")) == NAMES["val"]
    assert names_of(found.read("train")) == NAMES["train"] + NAMES["test"]
    assert [known.name for known in found.read("train").categories] == NAMED
    (tmp_path / "test.txt").write_text("\n".join(NAMES["test"]))
    assert names_of(open_data(tmp_path, "test")) == NAMES["test"]
    assert names_of(open_data(tmp_path, "train")) == NAMES["train"]


def test_without_labels_for_validation_the_note_says_so(tmp_path, files):
    write(files, tmp_path, "{}", "{}annot", files.labels(0, 11), ".png")
    (tmp_path / "valannot").rename(tmp_path / "kept")
    train, val = open_data(tmp_path, "train"), open_data(tmp_path, "val")
    assert sorted(names_of(train) + names_of(val)) == sorted(NAMES["train"])
    assert "train has no validation images beside it: 1 of 3 images are for validation, by their names" in val.notes


def test_void_in_data_json_is_no_class_and_keeps_its_place(tmp_path, files):
    write(files, tmp_path, "{}", "{}_masks", files.labels(0, 1, 2))
    description = {
        "format": "semantic",
        **{split: {"images": split, "labels": f"{split}_masks"} for split in NAMES},
        "categories": [{"name": "Unlabelled"}, {"name": "road"}, {"name": "sky"}],
    }
    (tmp_path / "data.json").write_text(json.dumps(description))
    index = open_data(tmp_path, "test")
    assert names_of(index) == NAMES["test"]
    assert [(known.id, known.name) for known in index.categories] == [(1, "road"), (2, "sky")]
    assert (class_map(index) == files.labels(-1, 0, 1, dtype=np.int64)).all()
    assert index.notes == ("void, by its name: Unlabelled",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("class_dict.csv", b"name,r,g,b\nRoad,1,2\n", r"class_dict.csv, line 2: need name, r, g, b"),
        ("class_dict.csv", b"name;r;g;b\nRoad;1;2;3\n", r"class_dict.csv, line 2: need name, r, g, b"),
        ("class_dict.csv", b"name,r,g,b\nRoad,1,2,3\nSky,1,2,3\n", r"class_dict.csv: categories with the same colour"),
        ("class_dict.csv", b"name,r,g,b\nStra\xdfe,1,2,3\n", r"class_dict.csv is no text in UTF-8"),
        ("class_dict.csv", b"name,r,g,b\n", r"class_dict.csv names no class"),
        ("label_colors.txt", b"1 2 Road\n", r"label_colors.txt, line 1: need r g b name"),
        ("codes.txt", b"Road\nRoad\n", r"codes.txt: categories with the same name: Road"),
    ],
)
def test_a_list_of_classes_that_cannot_be_used_is_named(tmp_path, files, name, content, message):
    (tmp_path / name).write_bytes(content)
    write(files, tmp_path, "{}", "{}_labels", files.labels(0, 1))
    with pytest.raises(ValueError, match=message):
        open_data(tmp_path, "train")


def test_a_split_that_is_not_there_is_refused(tmp_path, files):
    for word in ("train", "val"):
        files.save(tmp_path / word / "a.png", files.noise())
        files.save(tmp_path / f"{word}annot" / "a.png", files.labels(0, 1))
    with pytest.raises(ValueError, match=r"has no split 'test'; legal: train, val"):
        open_data(tmp_path, "test")


def test_check_looks_at_the_test_images_too(tmp_path, files):
    write(files, tmp_path / "data", "{}", "{}annot", files.labels(*range(12), width=12), ".png")
    for number, path in enumerate(path for split in NAMES for path in sorted((tmp_path / "data" / split).iterdir())):
        files.save(path, files.noise(number, width=12))
    copied = (tmp_path / "data/train/0001TP_006690.png").read_bytes()
    (tmp_path / "data/test/Seq05VD_f00000.png").write_bytes(copied)
    result = CliRunner().invoke(app, ["check", str(tmp_path / "data"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "check.json").read_text())
    assert {split: some["num_images"] for split, some in report["statistics"].items()} == {
        split: len(names) for split, names in NAMES.items()
    }
    (warning,) = report["warnings"]["train and test"]
    assert "are the same image" in warning


def test_the_grouping_of_the_page_gives_the_eleven_classes(tmp_path, files):
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    block = next(block for block in page.split("```json\n") if '"bicyclist"' in block).split("```")[0]
    (tmp_path / "data.json").write_text(block)
    colours = [colour for category in json.loads(block)["categories"] for colour in _colours(category)]
    assert len(colours) == 31
    for split, names in NAMES.items():
        for name in names:
            files.save(tmp_path / split / f"{name}.png", files.noise(width=32))
            files.save(tmp_path / f"{split}_labels" / f"{name}_L.png", files.coloured(*colours, (0, 0, 0), width=32))
    index = open_data(tmp_path, "train")
    assert [known.name for known in index.categories] == [known.name for known in CAMVID]
    assert (class_map(index)[:, -1] == -1).all()
    assert Image.open(index.records[0].source.path).size == (32, 8)


def _colours(category):
    colour = category["colour"]
    return colour if isinstance(colour[0], list) else [colour]


def test_lists_that_leave_no_image_to_validate_with_have_the_training_images_divided(tmp_path, files):
    write(files, tmp_path, "images", "labels", files.labels(0, 1, 2), ending="_P.png")
    (tmp_path / "train.txt").write_text("\n".join((*NAMES["train"], *NAMES["val"])))
    (tmp_path / "test.txt").write_text("\n".join(NAMES["test"]))
    train, val, test = (open_data(tmp_path, split) for split in ("train", "val", "test"))
    assert sorted(names_of(train) + names_of(val)) == sorted(NAMES["train"] + NAMES["val"])
    assert len(val.records) == 1
    assert names_of(test) == NAMES["test"]
    assert "1 of 4 images are for validation" in val.notes[0]


def test_numbers_joined_to_classes_keep_ids_that_differ(tmp_path, files):
    write(files, tmp_path, "{}", "{}_labels", files.labels(9, 1, 2, 3))
    joined = [{"name": "car", "value": [2, 3]}, {"name": "pedestrian", "value": 1}, {"name": "fence", "value": 9}]
    joined.append({"name": "tree", "value": [8, 7]})
    (tmp_path / "data.json").write_text(json.dumps({"categories": joined}))
    assert [known.id for known in open_data(tmp_path, "train").categories] == [2, 1, 9, 7]
    joined[3]["id"] = 9
    (tmp_path / "data.json").write_text(json.dumps({"categories": joined}))
    with pytest.raises(ValueError, match=r"with the same id: .*9 \(fence\), 9 \(tree\); give each its own 'id'"):
        open_data(tmp_path, "train")


@pytest.mark.parametrize("known_by", ["data.json", "codes.txt"])
def test_many_listed_classes_are_no_objects_whatever_the_depth_of_the_labels(tmp_path, files, known_by):
    write(files, tmp_path, "images/{}", "labels/{}", files.labels(0, 1, 2, dtype=np.uint16))
    content = json.dumps({"categories": [{"name": name} for name in NAMED]}) if known_by == "data.json" else None
    (tmp_path / known_by).write_text(content or "\n".join(NAMED))
    index = open_data(tmp_path, "train")
    assert index.kind == "semantic"
    assert [known.name for known in index.categories] == NAMED


def test_labels_of_nothing_but_void_are_refused(tmp_path, files):
    write(files, tmp_path, "{}", "{}_labels", files.labels(255))
    with pytest.raises(ValueError, match="nothing but void"):
        open_data(tmp_path, "train")
