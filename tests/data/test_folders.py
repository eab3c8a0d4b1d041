"""User folders: leftovers of systems are ignored, ambiguous layouts refused."""

from pathlib import Path

import PIL.Image
import pytest
from samples import put

import nbhelpers as nb
from nbhelpers.data import load_images


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (9, 9)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("cat/0", "cat/1", "dog/0", "dog/1"):
        picture(tmp_path / "set" / f"{name}.png")
    return tmp_path / "set"


def found(folder: Path) -> tuple[list[int], tuple[str, ...]]:
    return nb.load_images(folder)[1].tolist(), nb.class_names(folder)


@pytest.mark.parametrize(
    "leftover",
    [
        *(
            "@eaDir/0.png",
            "__MACOSX/0.png",
            ".hidden/0.png",
            "Thumbs/0.png",
            "cat/@eaDir/1.png/SYNO_THUMB.png",
        ),
        *(
            ".0.png",
            "cat/._0.png",
            "__MACOSX/cat/0.png",
            "dog/.thumbnails/0.png",
            "lost+found/x.png",
        ),
        "#recycle/cat/0.png",
    ],
)
def test_what_systems_leave_behind_is_ignored(folder: Path, leftover: str) -> None:
    picture(folder / leftover)
    assert found(folder) == ([0, 0, 1, 1], ("cat", "dog"))


def test_other_files_and_folders_of_other_files_are_no_classes(folder: Path) -> None:
    (folder / "README.md").write_text("cats and dogs")
    (folder / "annotations").mkdir()
    (folder / "annotations" / "0.xml").write_text("<a/>")
    (folder / "bird").mkdir()  # empty classes count
    (folder / "cat" / "2.png").mkdir()
    assert found(folder) == ([1, 1, 2, 2], ("bird", "cat", "dog"))


def test_a_stray_picture_beside_class_folders_is_refused(folder: Path) -> None:
    picture(folder / "preview.png")
    with pytest.raises(
        ValueError,
        match=r"contains images \(preview.png\) and folders of images \(cat, dog\); move",
    ):
        nb.load_images(folder)


@pytest.mark.parametrize(
    "splits", [("Train", "Validation"), ("train", "valid"), ("TEST",), ("train2017", "val2017")]
)
def test_splits_are_refused_however_they_are_spelled(
    folder: Path, tmp_path: Path, splits: tuple[str, ...]
) -> None:
    for split in splits:
        picture(tmp_path / "all" / split / "cat" / "0.png")
        picture(tmp_path / "all" / split / "dog" / "0.png")
    with pytest.raises(ValueError, match=f"contains {', '.join(splits)}; give one of them"):
        nb.load_images(tmp_path / "all")
    picture(tmp_path / "all" / "extra" / "0.png")
    with pytest.raises(ValueError, match="give one of them"):
        nb.load_images(tmp_path / "all")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("bus", "car", "train"):
        picture(tmp_path / name / "0.png")
    assert found(tmp_path) == ([0, 1, 2], ("bus", "car", "train"))


def test_one_level_too_high_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "up").mkdir()
    folder.rename(tmp_path / "up" / "photos")
    with pytest.raises(
        ValueError, match=r"one folder, photos, with subfolders \(cat, dog\).* give .*up/photos$"
    ):
        nb.load_images(tmp_path / "up")
    with pytest.raises(ValueError, match=r"give .*up/photos$"):
        nb.load_images(tmp_path)
    picture(tmp_path / "up" / "more" / "cat" / "0.png")
    picture(tmp_path / "up" / "more" / "dog" / "0.png")
    with pytest.raises(
        ValueError, match=r"each of its folders \(more, photos\) contains the same folders"
    ):
        nb.load_images(tmp_path / "up")


def test_folders_within_classes_are_fine(tmp_path: Path) -> None:
    for name in ("cat/images/0", "dog/images/0", "dog/images/1"):
        picture(tmp_path / "tiny" / f"{name}.png")
    assert found(tmp_path / "tiny") == ([0, 1, 1], ("cat", "dog"))
    for name in ("cat/indoor/0", "cat/outdoor/0", "dog/0"):
        picture(tmp_path / "mixed" / f"{name}.png")
    assert found(tmp_path / "mixed") == ([0, 0, 1], ("cat", "dog"))


def test_a_class_of_pictures_that_cannot_be_read_is_no_empty_class(folder: Path) -> None:
    (folder / "bird").mkdir()
    (folder / "bird" / "0.HEIC").write_bytes(b"photo")
    with pytest.raises(
        ValueError, match=r"bird: no image that can be read \(1 .heic \(0.HEIC\)\); convert"
    ):
        nb.load_images(folder)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("seg_train/0.png", "seg_test/0.png"), "contains seg_test, seg_train; give one"),
        (("x_train/a/0.png", "x_val/a/0.png", "logos/0.png"), "contains x_train, x_val; give one"),
        (
            ("trainA/0.png", "testA/0.png", "trainB/0.png", "testB/0.png"),
            "contains testA, trainA, testB, …; give one",
        ),
        (("fold1/0.png", "fold2/0.png"), "contains fold1, fold2; give one"),
        (("train/cat/0.png", "holdout/cat/0.png"), "contains holdout, train; give one"),
        (
            ("images/0.png", "images/1.png"),
            "one folder of images, images, which is not a class; give .*images$",
        ),
        (("images/0.png", "masks/0.png"), r"images \(images\) and annotations \(masks\)"),
        (
            (
                "2019/cat/0.png",
                "2019/dog/0.png",
                "2020/cat/0.png",
                "2020/dog/0.png",
                "2020/owl/0.png",
            ),
            "same folders",
        ),
    ],
)
def test_other_layouts_are_refused_with_the_reason(tmp_path, names, message):
    with pytest.raises(ValueError, match=message):
        load_images(put(tmp_path, *names))


def test_kinds_of_trains_are_classes(tmp_path):
    folder = put(
        tmp_path, "bullet_train/0.png", "freight_train/0.png", "edges/0.png", "masks/0.png"
    )
    assert load_images(folder)[1].tolist() == [0, 1, 2, 3]


def test_a_link_that_leads_back_shows_no_image_twice(tmp_path):
    folder = put(tmp_path / "set", "cat/0.png", "dog/0.png")
    (folder / "cat" / "again").symlink_to(folder / "cat")
    (folder / "owl").symlink_to(put(tmp_path / "owls", "0.png"))  # elsewhere
    assert load_images(folder)[1].tolist() == [0, 1, 2]


FORMATS = {".jfif": "JPEG", ".avif": "AVIF", ".tga": "TGA", ".jpe": "JPEG", ".jp2": "JPEG2000"}
FORMATS |= {".pgm": "PPM", ".dib": "BMP", ".JPG": "JPEG", ".apng": "PNG", ".pcx": "PCX"}
FORMATS |= {".qoi": "QOI", ".ico": "ICO", ".sgi": "SGI", ".tif": "TIFF", ".dds": "DDS"}


def test_every_kind_that_pillow_writes_is_read(folder: Path, capsys) -> None:
    PIL.Image.init()
    kinds = {end: kind for end, kind in FORMATS.items() if kind in PIL.Image.SAVE}
    for name, kind in kinds.items():
        (folder / "emu").mkdir(exist_ok=True)
        PIL.Image.new("RGB", (16, 16)).save(folder / "emu" / f"1{name}", format=kind)
    labels = nb.load_images(folder, size=8)[1].tolist()
    assert labels == [0, 0, 1, 1, *[2] * len(kinds)] and len(kinds) > 12
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("name", ["b.heic", "c.SVG", "d", "e.npy", "f.pdf", "g.zip", "h.eps"])
def test_what_is_left_out_is_counted_and_named(folder: Path, capsys, name: str, flat: bool) -> None:
    place = folder / "cat" if flat else folder
    for other in ("README", "labels.csv", "annotation.xml", "Thumbs.db", ".DS_Store"):
        (place / other).write_bytes(b"")
    few = nb.load_images(place)[1].tolist()
    assert capsys.readouterr().err == ""
    for one in (name, f"x{name}"):
        (place / one).write_bytes(b"picture")
    assert nb.load_images(place)[1].tolist() == few
    said = capsys.readouterr().err
    ending = Path(name).suffix.lower() or "without ending"
    assert said == f"{place}: 2 {ending} ({name}, …) left out: Pillow cannot read them\n"


def test_a_broken_link_is_no_picture_less(folder: Path) -> None:
    for place in (folder / "cat", folder):
        (folder / "cat" / "9.png").unlink(missing_ok=True)
        (folder / "cat" / "9.png").symlink_to(folder / "gone.png")
        with pytest.raises(ValueError, match=r"cannot read .*9.png"):
            nb.load_images(place)
