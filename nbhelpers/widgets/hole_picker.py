"""A brush for a hole in a picture."""

import numpy
import torch
from torch import Tensor
from traitlets import Bytes, Int, List, Unicode

from nbhelpers.widgets.image_picker import ImagePicker, Picker, front_end


class HolePicker(Picker):
    """The picked image of an `ImagePicker` with a hole; `selected` indexes all holes so far.

    Args:
        picker: of the images.
        label: heading, also for screen readers.
    """

    _esm = front_end("elements.js", "brush.js", "hole_picker.js")
    _css = front_end("frame.css", "widgets.css")
    picture = Bytes().tag(sync=True)
    mask = Bytes().tag(sync=True)  # a byte per pixel, 255 in the hole
    size: List = List().tag(sync=True)  # height and width, pixels
    done = Int(0).tag(sync=True)  # strokes that can be undone
    message = Unicode().tag(sync=True)

    def __init__(self, picker: ImagePicker, *, label: str = "Brush a hole"):
        height, width = picker.pixels.shape[-2:]
        first = torch.zeros(height, width, dtype=torch.bool)
        first[height // 4 : -(height // 4), width // 4 : -(width // 4)] = True
        self.holes: list[Tensor] = [first]
        self._path = [0]  # holes from the first to the current one
        self._picker = picker
        super().__init__(
            label=label,
            size=[height, width],
            picture=picker.thumbnails[max(picker.selected, 0)],
            mask=_bytes(first),
            selected=0,
        )
        picker.observe(self._on_pick, "selected")
        self.on_msg(self._on_message)

    @property
    def side(self) -> int:
        """The longer side of the picture, pixels."""
        return max(self.size)

    @property
    def hole(self) -> Tensor:
        """The current hole, (h, w), true inside."""
        return self.holes[self.selected]

    def stroke(self, mask: Tensor) -> None:
        """Add pixels to the hole.

        Args:
            mask: (h, w) in [0, 1]; values above 0.5 are added.

        Raises:
            ValueError: a mask of another size, or a hole over the whole picture.
        """
        if list(mask.shape) != self.size:
            raise ValueError(f"mask: got shape {tuple(mask.shape)}, wanted {tuple(self.size)}")
        hole = self.hole | (mask > 0.5)
        if hole.all():
            raise ValueError("the hole would cover the whole picture; leave a part of it")
        self.holes.append(hole)
        self._show([*self._path, len(self.holes) - 1])

    def undo(self) -> None:
        """Undo the last stroke."""
        self._show(self._path[:-1] or self._path)

    def reset(self) -> None:
        """Back to the first hole."""
        self._show([0])

    def _show(self, path: list[int]) -> None:
        self._path = path
        with self.hold_sync():
            self.message, self.mask = "", _bytes(self.holes[path[-1]])
            self.done, self.selected = len(path) - 1, path[-1]

    def _on_pick(self, change: dict) -> None:
        if change["new"] >= 0:
            self.picture = self._picker.thumbnails[change["new"]]

    def _on_message(self, _, content: dict, buffers: list) -> None:
        kind = content.get("type")
        try:  # exceptions in message handlers never reach the page
            if kind == "stroke":
                mask = numpy.frombuffer(bytes(buffers[0]), numpy.uint8).reshape(self.size)
                self.stroke(torch.from_numpy(mask / numpy.float32(255)))
            elif kind == "undo":
                self.undo()
            elif kind == "reset":
                self.reset()
        except Exception as error:
            self.message = ""  # an unchanged trait sends no event
            self.message = str(error)

    def __repr__(self) -> str:  # nbval compares it: no address
        return f"HolePicker({len(self._path) - 1} strokes)"


def _bytes(hole: Tensor) -> bytes:
    return (hole.byte() * 255).numpy().tobytes()
