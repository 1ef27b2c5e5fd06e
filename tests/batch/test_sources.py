import io
import json
import os
import sys
import tarfile

import fsspec
import pyarrow as pa
import pyarrow.parquet
import pytest

from batch.items import read
from batch.sources import list_items

CONTENTS = {"a.png": b"first", "deep/b.JPG": b"second", "deep/c.tif": b"third"}


def as_contents(items) -> dict[str, bytes]:
    return {item.name: read(item) for item in items}


@pytest.fixture
def folder(tmp_path):
    for name, content in {**CONTENTS, "deep/notes.md": b"no image"}.items():
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "images"


def write_tar(path, contents) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_folder(folder):
    assert as_contents(list_items(str(folder))) == CONTENTS
    assert [item.id for item in list_items(str(folder))] == [1, 2, 3]


def test_glob_names_start_where_it_does(folder):
    assert as_contents(list_items(f"{folder}/deep/*.tif")) == {"c.tif": b"third"}
    assert as_contents(list_items(f"{folder}/**/*.JPG")) == {"deep/b.JPG": b"second"}


def test_one_file(folder):
    assert as_contents(list_items(str(folder / "a.png"))) == {"a.png": b"first"}


def test_list_of_relative_and_absolute_paths(folder):
    path = folder / "some.txt"
    path.write_text(f"deep/c.tif\n\n{folder}/a.png\n", encoding="utf-8-sig")  # as Windows' editor writes it
    found = as_contents(list_items(str(path)))
    assert list(found.values()) == [b"third", b"first"]
    assert list(found) == ["deep/c.tif", f"{folder}/a.png".lstrip("/")]


def test_coco_file_gives_its_ids_in_its_order(folder):
    images = [{"id": 1, "file_name": "deep/b.JPG"}, {"id": 0, "file_name": "a.png"}]
    path = folder.parent / "coco.json"
    path.write_text(json.dumps({"images": images, "annotations": []}))
    items = list(list_items(str(path), str(folder)))
    assert [(item.id, item.name, read(item)) for item in items] == [
        (1, "deep/b.JPG", b"second"),
        (0, "a.png", b"first"),
    ]
    with pytest.raises(ValueError, match="--image-folder"):
        list(list_items(str(path)))
    path.write_text(json.dumps({"images": [images[0], images[1] | {"id": 1}]}))
    with pytest.raises(ValueError, match=r"images\[1\] has the id 1, as another image has"):
        list(list_items(str(path), str(folder)))


def test_tar_shards_are_read_in_place(tmp_path):
    for number in range(2):
        write_tar(tmp_path / f"s-{number}.tar", {f"{n:03}.jpg": bytes([number, n]) for n in range(40)})
    found = as_contents(list_items(f"{tmp_path}/s-*.tar"))
    assert found == {f"s-{number}/{n:03}.jpg": bytes([number, n]) for number in range(2) for n in range(40)}
    one = as_contents(list_items(f"{tmp_path}/s-1.tar"))
    assert one == {f"{n:03}.jpg": bytes([1, n]) for n in range(40)}


def test_tar_members_stay_inside_the_output(tmp_path):
    write_tar(tmp_path / "evil.tar", {"../../up.png": b"1", "/root.png": b"2", "key.json": b"no image"})
    assert as_contents(list_items(str(tmp_path / "evil.tar"))) == {"up.png": b"1", "root.png": b"2"}


def test_damaged_shards_are_refused(tmp_path):
    (tmp_path / "bad.tar").write_bytes(b"x" * 2000)
    (tmp_path / "bad.parquet").write_bytes(b"x" * 2000)
    for name in ("bad.tar", "bad.parquet"):
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            list(list_items(str(tmp_path / name)))


@pytest.mark.parametrize("nested", [False, True])
def test_parquet_by_bytes_or_as_hugging_face_writes(tmp_path, nested):
    contents = [bytes([n]) for n in range(25)]
    cells = [{"bytes": content, "path": None} for content in contents] if nested else contents
    table = pa.table({"label": list(range(25)), "image": cells})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet", row_group_size=10)
    found = as_contents(list_items(str(tmp_path / "t.parquet")))
    assert found == {f"t/{n:06}": content for n, content in enumerate(contents)}


def test_parquet_without_images_names_its_columns(tmp_path):
    pyarrow.parquet.write_table(pa.table({"label": [1]}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="label"):
        list(list_items(str(tmp_path / "t.parquet")))


def test_another_file_system(tmp_path):
    remote = fsspec.filesystem("memory")
    try:
        for name, content in CONTENTS.items():
            remote.pipe(f"/bucket/{name}", content)
        write_tar(tmp_path / "s.tar", {"x.png": b"in a shard"})
        remote.pipe("/bucket/s.tar", (tmp_path / "s.tar").read_bytes())
        found = as_contents(list_items("memory://bucket"))
        assert found == {**CONTENTS, "x.png": b"in a shard"}
        assert as_contents(list_items("memory://bucket/deep/*.tif")) == {"c.tif": b"third"}
    finally:
        remote.rm("/bucket", recursive=True)


def test_what_is_not_there_or_empty(tmp_path):
    with pytest.raises(ValueError, match="does not exist; legal: a folder"):
        list(list_items(str(tmp_path / "missing")))
    with pytest.raises(ValueError, match="no image in"):
        list(list_items(str(tmp_path)))


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [
        ("s3://b/x", "s3fs", "s3"),
        ("gs://b/x", "gcsfs", "gs"),
        ("az://b/x", "adlfs", "az"),
        ("abfs://b/x", "adlfs", "az"),
    ],
)
def test_a_cloud_whose_package_is_missing_is_told(url, module, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed, if it is
    known = sys.modules["fsspec.registry"]._registry
    monkeypatch.delitem(known, url.split("://")[0], raising=False)
    with pytest.raises(ValueError, match=rf"{url}: this needs: pip install '\.\[{extra}\]'"):
        list(list_items(url))


def test_names_that_would_meet(folder):
    (folder / "a.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="two images would have outputs named a:"):
        list(list_items(str(folder)))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".parquet"])
def test_an_output_that_would_meet_a_folder_of_others(folder, suffix):
    (folder / f"a{suffix}s").mkdir()
    (folder / f"a{suffix}s" / "b.png").write_bytes(b"")
    assert len(list(list_items(str(folder)))) == 4
    (folder / f"deep/b{suffix}").mkdir()
    (folder / f"deep/b{suffix}" / "c.png").write_bytes(b"")
    with pytest.raises(ValueError, match="two images would have outputs named deep/b:"):
        list(list_items(str(folder)))
    path = folder / "other order.txt"
    path.write_text(f"deep/b{suffix}/c.png\ndeep/b.JPG\n")
    with pytest.raises(ValueError, match="two images would have outputs named deep/b:"):
        list(list_items(str(path)))


@pytest.mark.parametrize(
    ("name", "words"), [(b"caf\xe9.png", "not UTF-8"), (b"a" * 237 + b".png", "at most 240 bytes")]
)
def test_names_of_which_no_output_can_be_made(folder, name, words):
    os.close(os.open(os.fsencode(folder) + b"/" + name, os.O_CREAT))
    with pytest.raises(ValueError, match=words):
        list(list_items(str(folder)))


def test_a_list_with_zeros_in_a_name(folder):
    (folder / "some.txt").write_bytes(b"a\0b.png\n")
    with pytest.raises(ValueError, match="no name for a file"):
        list(list_items(str(folder / "some.txt")))
