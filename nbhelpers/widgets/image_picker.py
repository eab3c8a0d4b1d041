"""A grid of thumbnails to pick from, by mouse or keyboard."""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import anywidget
import numpy
import PIL.Image
import torch
from torch import Tensor
from traitlets import Bool, Bytes, Int, List, TraitError, Unicode, validate

from nbhelpers.data.decoding import decode
from nbhelpers.data.images import load_images
from nbhelpers.types import Images, check_images

HERE = Path(__file__).parent
YOUR_OWN = "your own"


def front_end(*names: str, folder: Path = HERE) -> str:
    """Concatenated files: a widget is one module and one style sheet."""
    return "".join((folder / name).read_text(encoding="utf-8") for name in names)


def encode(sheet: Tensor) -> bytes:
    """A PNG file of a sheet of images, (rows, columns, 3, h, w) in [0, 1]."""
    rows, columns, _, h, w = sheet.shape
    pixels = (
        (sheet.detach().cpu() * 255).round().clamp(0, 255).byte().expand(rows, columns, 3, h, w)
    )
    pixels = pixels.permute(0, 3, 1, 4, 2).reshape(rows * h, columns * w, 3)
    buffer = io.BytesIO()
    # fast: frames are transient
    PIL.Image.fromarray(pixels.numpy()).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def compress(file: bytes) -> bytes:
    """A picture file as lossless WebP."""
    buffer = io.BytesIO()
    with PIL.Image.open(io.BytesIO(file)) as picture:
        # more effort: 1 % smaller, seconds each
        picture.save(buffer, "WEBP", lossless=True, quality=75, method=4)
    return buffer.getvalue()


class Picker(anywidget.AnyWidget):
    """A demo's input: `selected` is an index, −1 for none."""

    label = Unicode().tag(sync=True)
    selected = Int(-1).tag(sync=True)
    removed = Int(0)  # count of removals; each shifts indices

    @property
    def side(self) -> int:
        """The longer side of the computed pictures, pixels."""
        raise NotImplementedError


class ImagePicker(Picker):
    """Thumbnails to pick one from: click, or arrow keys with Enter.

    `selected` is the picked index, −1 for none; `picker.observe(f, "selected")` reports picks.

    Args:
        images: (n, 3, h, w) in [0, 1], or several such batches of one size by title.
        captions: a text per image.
        label: heading, also for screen readers.
        selected: initial index.
        columns: thumbnails per row, at most.
        thumb: width of a thumbnail, screen pixels.
        upload: let users add (button, drop, paste) and remove their own pictures.

    Raises:
        TypeError, ValueError: images of the wrong kind or size, or captions of another number.
        TraitError: `selected` is outside −1 … n − 1, at any time.
    """

    _esm = front_end("elements.js", "image_picker.js")
    _css = front_end("frame.css", "widgets.css")
    kind = Unicode("picker").tag(sync=True)
    thumbnails = List(Bytes()).tag(sync=True)
    captions = List(Unicode()).tag(sync=True)
    groups: List = List().tag(sync=True)  # [title, number of images]
    columns = Int(8).tag(sync=True)
    thumb = Int(60).tag(sync=True)
    upload = Bool(False).tag(sync=True)
    message = Unicode().tag(sync=True)

    def __init__(
        self,
        images: Images | Mapping[str, Images],
        *,
        captions: Sequence[str] = (),
        label: str = "Choose an image",
        selected: int = -1,
        columns: int = 8,
        thumb: int = 60,
        upload: bool = False,
    ):
        batches = images if isinstance(images, Mapping) else {"": images}
        for title, batch in batches.items():
            check_images(batch, title or "images")
        if len({batch.shape[1:] for batch in batches.values()}) != 1:
            shapes = {title: tuple(batch.shape) for title, batch in batches.items()}
            raise ValueError(f"images: got {shapes}, wanted one size; see load_images(…, size=)")
        self.pixels: Images = torch.cat([batch.detach().cpu() for batch in batches.values()])
        if captions and len(captions) != len(self.pixels):
            raise ValueError(
                f"captions: got {len(captions)} for {len(self.pixels)} images, wanted one each"
            )
        super().__init__(
            label=label,
            thumbnails=[encode(image[None, None]) for image in self.pixels],
            captions=list(captions) or [""] * len(self.pixels),
            groups=[[title, len(batch)] for title, batch in batches.items()],
            columns=columns,
            thumb=thumb,
            upload=upload,
            selected=selected,
        )
        self.on_msg(self._on_message)

    @property
    def side(self) -> int:
        """The longer side of an image, pixels."""
        return max(self.pixels.shape[-2:])

    @property
    def image(self) -> Images:
        """The picked image, (1, 3, h, w).

        Raises:
            ValueError: nothing is picked.
        """
        if self.selected < 0:
            raise ValueError("nothing is picked yet; click an image or set `selected`")
        return self.pixels[self.selected : self.selected + 1]

    def add(
        self, source: str | os.PathLike[str] | numpy.ndarray | Tensor, *, caption: str = ""
    ) -> None:
        """Append the user's own images, resized and cropped, and pick the first of them.

        Args:
            source: a path or an array, as in `load_images`.
            caption: for all of them; by default the file's name.

        Raises:
            ValueError, TypeError: as in `load_images`.
        """
        if not caption and isinstance(source, str | os.PathLike):
            caption = Path(source).stem
        height, width = self.pixels.shape[2:]
        new = load_images(source, size=height if height == width else (height, width))[0]
        if self.pixels.shape[1] == 1:
            # ITU-R BT.601
            new = (new * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
        first = len(self.pixels)
        self.pixels = torch.cat([self.pixels, new])
        groups = [list(group) for group in self.groups]
        if groups[-1][0] != YOUR_OWN:
            groups.append([YOUR_OWN, 0])
        groups[-1][1] += len(new)
        with self.hold_sync():
            self.groups = groups
            self.captions = [*self.captions, *[caption] * len(new)]
            self.thumbnails = [*self.thumbnails, *(encode(image[None, None]) for image in new)]
        self.selected = first

    def remove(self) -> None:
        """Remove the picked image, one of the user's own, and pick the previous one.

        Raises:
            ValueError: the picked image is not the user's own.
        """
        *others, last = [list(group) for group in self.groups]
        k = self.selected
        if last[0] != YOUR_OWN or k < len(self.pixels) - last[1]:
            raise ValueError(f"remove: image {k} is not one of your own; pick one of those")
        last[1] -= 1
        self.removed += 1
        self.selected = k - 1
        with self.hold_sync():
            self.pixels = torch.cat([self.pixels[:k], self.pixels[k + 1 :]])
            self.groups = [*others, last] if last[1] else others
            self.captions = self.captions[:k] + self.captions[k + 1 :]
            self.thumbnails = self.thumbnails[:k] + self.thumbnails[k + 1 :]

    @validate("selected")
    def _check_selected(self, proposal) -> int:
        if not -1 <= proposal["value"] < len(self.pixels):
            raise TraitError(
                f"selected: got {proposal['value']}, wanted 0 to {len(self.pixels) - 1}, or -1 for "
                "none"
            )
        return proposal["value"]

    def _on_message(self, _, content: dict, buffers: list) -> None:
        try:  # exceptions in message handlers never reach the page
            if content.get("type") == "upload":
                self.message = self._upload(str(content.get("name", "")), bytes(buffers[0]))
            elif content.get("type") == "remove":
                self.remove()
                self.message = ""
        except Exception as error:
            self.message = str(error)

    def _upload(self, name: str, content: bytes) -> str:
        """Add a file's picture; returns a description of its changes."""
        picture, words = decode(name, content), []
        if _is_transparent(content):
            words.append("what was transparent is white now")
        self.add(picture[None], caption=Path(name).stem[:40])
        (height, width), (h, w) = picture.shape[1:], self.pixels.shape[2:]
        if abs(height * w - width * h) > max(h, w):  # more than rounding
            words.append("the centre was cut out")
        return f"{name}: {'; '.join(words)}" if words else ""

    def __repr__(self) -> str:  # nbval compares it: no address
        return f"ImagePicker({len(self.pixels)} images, selected={self.selected})"


def _is_transparent(content: bytes) -> bool:
    with PIL.Image.open(io.BytesIO(content)) as picture:
        return picture.has_transparency_data and picture.convert("RGBA").getextrema()[3][0] < 255  # type: ignore[index,operator,misc]
