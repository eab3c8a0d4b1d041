"""Training images: in memory if they fit, else prefetched."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from torch.nn import functional

from nbhelpers.data.images import count_images, load_images, open_images
from nbhelpers.types import Images, Labels

HELD_BYTES = 4 * 2**30  # larger data sets are read from disk


class Examples:
    """A labelled data set, as uint8 on the device if it fits, else prefetched from disk."""

    def __init__(
        self, source: str, size: int | tuple[int, int], device: torch.device, workers: int
    ):
        self.device, self.workers = device, workers
        self.images = open_images(source, size=size or None)
        first, _ = load_images(self.images, indices=[0])
        self.count, self.shape = count_images(self.images), tuple(first.shape[1:])
        self.held: tuple[Tensor, Tensor] | None = None
        if self.count * first[0].numel() <= HELD_BYTES:
            pixels, labels = load_images(self.images)
            self.held = pixels.mul_(255).round_().byte().to(device), labels.to(device)

    def take(self, rows: Tensor) -> tuple[Images, Labels]:
        """Pixels in [0, 1] and labels of some rows."""
        if self.held is not None:
            rows = rows.to(self.device)
            return self.held[0][rows].float() / 255, self.held[1][rows]
        images, labels = load_images(self.images, indices=rows.tolist())
        return images.to(self.device), labels.to(self.device)

    def batches(self, rows: Tensor, size: int) -> Iterator[tuple[Images, Labels]]:
        """Full batches of `size` rows; the rest is dropped."""
        parts = [part for part in rows.split(size) if len(part) == size]
        if self.held is not None:
            yield from map(self.take, parts)
            return
        with ThreadPoolExecutor(self.workers) as pool:
            ahead = [pool.submit(self.take, part) for part in parts[: self.workers + 1]]
            for place in range(len(parts)):
                batch = ahead.pop(0).result()
                if place + self.workers + 1 < len(parts):
                    ahead.append(pool.submit(self.take, parts[place + self.workers + 1]))
                yield batch


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random shifts by up to 1/8 of the side, with black padding, and random flips.

    Args:
        images: (n, c, h, w) of any dtype.
        generator: on the images' device.
    """
    n, _, height, width = images.shape
    high, wide = height // 8, width // 8
    padded = functional.pad(images, (wide, wide, high, high)).movedim(1, 3)

    def draw(most: int) -> Tensor:
        return torch.randint(most, (n, 1), generator=generator, device=images.device)

    rows = draw(2 * high + 1) + torch.arange(height, device=images.device)
    across = torch.arange(width, device=images.device)
    columns = draw(2 * wide + 1) + torch.where(draw(2) == 1, across.flip(0), across)
    which = torch.arange(n, device=images.device)[:, None, None]
    return padded[which, rows[:, :, None], columns[:, None, :]].movedim(3, 1)
