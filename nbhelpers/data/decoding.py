"""One decoder for image files, and for files that arrive as bytes."""

import io
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import PIL.ExifTags
import PIL.Image
import torch
from torch import Tensor

_OPENING = threading.Lock()  # warning filters are global: one thread at a time
_NOTED: set[Path] = set()  # folders whose files with several pictures were reported
# Formats with a preview or layers beside the picture, which comes first.
_ONE_PICTURE = {"MPO", "PSD"}
_T = PIL.Image.Transpose
# EXIF orientations; 1 is upright.
_TURNS = {2: _T.FLIP_LEFT_RIGHT, 3: _T.ROTATE_180, 4: _T.FLIP_TOP_BOTTOM, 5: _T.TRANSPOSE}
_TURNS |= {6: _T.ROTATE_270, 7: _T.TRANSVERSE, 8: _T.ROTATE_90}


def decode(path: str | Path, content: bytes | None = None, *, transparency: bool = False) -> Tensor:
    """Decode an image file, uint8 (3, h, w).

    Grey becomes RGB, transparency becomes white, EXIF rotation is applied. Of several pictures in a
    file the first is used, with one line on standard error per folder.

    Args:
        path: the file; with `content` any name, for messages.
        content: the file's bytes, of an upload or an archive.
        transparency: return (4, h, w) with opacity last, if the file has transparency.

    Raises:
        ValueError: the file cannot be read as an image, has more than 8 bits per channel or too
            many pixels. The message names it.
    """
    try:
        with _opened(path, content) as image:
            if image.mode[0] in "IF":  # PIL would clip these to white
                raise _Refused(f"{path} has more than 8 bits per channel; save it with 8")
            image.load()
            if content is None and getattr(image, "is_animated", False):
                _note_first(image, Path(path))
            colours = _coloured(image, transparency)
            turn = _turn(image)
            pixels = np.array(colours if turn is None else colours.transpose(turn))
    except _Refused:
        raise
    except Exception as error:
        # damaged files make PIL raise exceptions of any kind
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"cannot read {path} as an image: {reason}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


class _Refused(ValueError):
    """An error whose message is complete."""


def _note_first(image: PIL.Image.Image, path: Path) -> None:
    if image.format in _ONE_PICTURE or path.parent in _NOTED:
        return
    _NOTED.add(path.parent)
    count = getattr(image, "n_frames", "several")
    image.seek(0)  # counting moves to the end in some formats
    print(f"{path} contains {count} pictures; the first of each file is used", file=sys.stderr)


def _coloured(image: PIL.Image.Image, transparency: bool) -> PIL.Image.Image:
    """RGB on white, or RGBA."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    colours = image.convert("RGBA")
    if transparency:
        return colours
    # The colour of transparent pixels is arbitrary, mostly black.
    white = PIL.Image.new("RGBA", image.size, "white")
    white.alpha_composite(colours)
    return white.convert("RGB")


def _opened(path: str | Path, content: bytes | None) -> PIL.Image.Image:
    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd metadata do not matter here
        try:
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            return PIL.Image.open(path if content is None else io.BytesIO(content))
        except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
            most = PIL.Image.MAX_IMAGE_PIXELS or 0
            raise _Refused(
                f"{path} has more than {most // 10**6} million pixels; make it smaller"
            ) from error
        except PIL.UnidentifiedImageError as error:
            # its own text repeats the path
            raise _Refused(
                f"cannot read {path} as an image: it is in no format that Pillow knows"
            ) from error


def _turn(image: PIL.Image.Image) -> PIL.Image.Transpose | None:
    """The turn given by EXIF; None if it is upright or EXIF is damaged."""
    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _TURNS.get(image.getexif().get(PIL.ExifTags.Base.Orientation, 1))
        except Exception:
            return None
