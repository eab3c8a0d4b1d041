"""Make the CIFAR-10 sample and the out-of-distribution images. Usage: python data/make.py"""

import json
from pathlib import Path

import numpy as np
import skimage
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

from nbhelpers.data.cifar10 import CIFAR10_CLASSES
from nbhelpers.data.images import load_images

HERE = Path(__file__).resolve().parent
SIDE = 256  # pixels, the largest size at which these images are sharp


def photograph(name: str) -> Image.Image:
    """The largest centred square of a scikit-image picture, resized to SIDE pixels."""
    picture = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return picture.resize(
        (SIDE, SIDE), Image.Resampling.LANCZOS, (left, top, left + side, top + side)
    )


def drawings() -> dict[str, Image.Image]:
    """Generated images with details of at least 8 pixels, to survive a resize to 32."""
    random = np.random.default_rng(0)
    ramp = np.linspace(0, 255, SIDE).astype(np.uint8)
    across, down = np.meshgrid(ramp, ramp)
    cells = Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    rows, columns = np.indices((SIDE, SIDE)) // 32
    board = np.where(((rows + columns) % 2 == 0)[..., None], (240, 240, 235), (25, 25, 60)).astype(
        np.uint8
    )

    shapes = Image.new("RGB", (SIDE, SIDE), "white")
    pen = ImageDraw.Draw(shapes)
    pen.ellipse((20, 20, 132, 132), fill="crimson")
    pen.rectangle((140, 36, 236, 132), fill="royalblue")
    pen.polygon(((128, 140), (60, 240), (196, 240)), fill="gold")

    text = Image.new("RGB", (SIDE, SIDE), "ivory")
    font = ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans-Bold.ttf", 84)
    for line, word in enumerate(("ABC", "xyz", "123")):
        ImageDraw.Draw(text).text(
            (SIDE // 2, 44 + 84 * line), word, fill="black", font=font, anchor="mm"
        )

    return {
        "checkerboard": Image.fromarray(board),
        "clouds": coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC),
        "gradient": Image.fromarray(np.stack([across, down, 255 - across], axis=-1)),
        "noise": cells.resize((SIDE, SIDE), Image.Resampling.NEAREST),
        "shapes": shapes,
        "text": text,
    }


def cifar10_sample(n: int = 2000, columns: int = 50) -> None:
    """The first n test images as one sheet, `columns` per row, and their labels."""
    images, labels = load_images("cifar10-test", indices=range(n))
    tiles = (
        (images * 255).round().byte().permute(0, 2, 3, 1).reshape(n // columns, columns, 32, 32, 3)
    )
    sheet = tiles.transpose(1, 2).reshape(n // columns * 32, columns * 32, 3)
    Image.fromarray(sheet.numpy()).save(HERE / "cifar10-sample.png", optimize=True)
    described = {"classes": CIFAR10_CLASSES, "labels": labels.tolist()}
    (HERE / "cifar10-sample.json").write_text(json.dumps(described) + "\n")


if __name__ == "__main__":
    names = {"astronaut": "astronaut", "brick-wall": "brick", "coffee": "coffee", "coins": "coins"}
    names |= {"retina": "retina", "rocket": "rocket"}
    folder = HERE / "out-of-distribution"
    folder.mkdir(exist_ok=True)
    for caption, picture in (
        {caption: photograph(name) for caption, name in names.items()} | drawings()
    ).items():
        picture.save(folder / f"{caption}.png", optimize=True)
    cifar10_sample()
