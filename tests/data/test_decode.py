"""One decoder: a file gives the same pixels, or the same error, by path or as bytes."""

import io
import warnings
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

import nbhelpers as nb
from nbhelpers.data.decoding import decode


def saved(picture: PIL.Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


RAMP = np.linspace(0, 1, 64)[None] * np.ones((64, 1))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("deep.png", saved(PIL.Image.fromarray((RAMP * 65535).astype(np.uint16)), "PNG")),
        ("float.tiff", saved(PIL.Image.fromarray(RAMP.astype(np.float32)), "TIFF")),
        ("int.tiff", saved(PIL.Image.fromarray((RAMP * 1e6).astype(np.int32)), "TIFF")),
        ("deep.ppm", b"P5 2 2 65535\n" + bytes(8)),
    ],
)
def test_more_than_eight_bits_are_refused_by_path_and_as_bytes(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    for what in ((name, content), (tmp_path / name,)):
        with pytest.raises(
            ValueError, match=f"{name} has more than 8 bits per channel; save it with 8"
        ):
            decode(*what)


@pytest.mark.parametrize("ending", ["gif", "tif", "TIFF", "webp", "png"])
def test_of_several_pictures_in_a_file_the_first_is_used_and_it_says_so(
    tmp_path: Path, capsys, ending: str
) -> None:
    frames = [PIL.Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    for name in "ab":
        frames[0].save(tmp_path / f"{name}.{ending}", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "c.png")
    red = torch.tensor([1.0, 0, 0])[:, None, None]
    assert (nb.load_images(tmp_path)[0] - red).abs().max() < 0.05
    told = capsys.readouterr().err.splitlines()
    assert told == [
        f"{tmp_path / 'a'}.{ending} contains 3 pictures; the first of each file is used"
    ]
    assert (nb.load_images(tmp_path / "c.png")[0] == red).all() and not capsys.readouterr().err


def test_a_photograph_with_its_preview_is_one_picture(tmp_path: Path, capsys) -> None:
    frames = [PIL.Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=frames[1:])
    assert nb.load_images(tmp_path)[0][0, 0].mean() > 0.9 and not capsys.readouterr().err


def test_too_many_pixels_are_one_line_with_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, side in (("cat/a.png", 9), ("cat/b.png", 60), ("cat/c.png", 45)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        PIL.Image.new("1", (side, side)).save(tmp_path / name)
    # PIL warns above it, and raises above twice it
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 1500)
    for name in ("b.png", "c.png"):
        with pytest.raises(
            ValueError, match=f"{name} has more than 0 million pixels; make it smaller"
        ):
            nb.load_images(tmp_path / "cat" / name)
    with pytest.raises(ValueError, match=r"b\.png"):
        nb.load_images(tmp_path / "cat", size=8)


GOOD = saved(
    PIL.Image.fromarray((np.random.default_rng(0).random((40, 40, 3)) * 255).astype(np.uint8)),
    "PNG",
)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.ppm", b"P6 4 4 0\n" + bytes(48)),
        ("b.ppm", b"P6 4 x 255\n" + bytes(48)),
        ("c.ppm", b"P6 4 4 255\n" + bytes(5)),
        ("d.ppm", b"P3 2 2 255\n1 2 300 4"),
        ("e.png", GOOD[:200]),
        ("f.png", GOOD[:40] + bytes(20) + GOOD[60:]),
        ("g.png", b""),
        ("h.jpg", b"\xff\xd8\xff\xe0" + bytes(30)),
        ("i.gif", b"GIF89a\x04\x00\x04\x00" + bytes(6)),
        ("j.tiff", b"II*\x00\x08\x00\x00\x00" + b"\xff" * 40),
        ("k.bmp", b"BM" + bytes(60)),
        ("l.webp", b"RIFF\x10\x00\x00\x00WEBPVP8 " + bytes(10)),
    ],
)
def test_a_damaged_file_is_a_value_error_with_its_name(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"cannot read .*{name} as an image: "):
        nb.load_images(tmp_path / name)
    with pytest.raises(ValueError, match=f"cannot read {name} as an image: "):
        decode(name, content)


def test_a_png_damaged_anywhere_gives_pixels_or_a_value_error() -> None:
    random = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(GOOD)
        for place in random.integers(0, len(GOOD), 3):
            damaged[place] = int(random.integers(0, 256))
        try:
            assert decode("x.png", bytes(damaged)).shape[0] == 3
        except ValueError as error:
            assert "x.png" in str(error)


def test_modes_and_rotation_give_upright_rgb() -> None:
    colours = PIL.Image.fromarray(np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 10)
    plain = decode("a.png", saved(colours, "PNG"))
    for mode in ("RGBA", "L", "LA", "1", "CMYK"):
        kind = "TIFF" if mode == "CMYK" else "PNG"
        assert decode("a", saved(colours.convert(mode), kind)).shape == (3, 2, 3)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    turned = decode("a.png", saved(colours, "PNG", exif=exif.tobytes()))
    assert torch.equal(turned, plain.rot90(-1, (1, 2)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        palette = colours.convert("P")
        assert decode(
            "a.png", saved(palette, "PNG", transparency=bytes(range(0, 250, 10)))
        ).shape == (3, 2, 3)
        assert torch.equal(
            decode("a.png", saved(colours, "PNG", exif=b"Exif\x00\x00broken")), plain
        )
