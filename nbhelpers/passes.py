"""Batching by memory: network passes without out-of-memory errors."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from nbhelpers.types import Features, Images, Labels, Objective, PerImage, check_images, whole

T = TypeVar("T")
Batches = Iterable[Images | tuple[Images, Labels]]  # a data set too large for memory

_display: Callable[..., Any] | None = None


def show_progress(display: Callable[..., Any]) -> None:
    """Set the progress display, `display(items, total=, initial=, unit=)`; see `bars`."""
    global _display
    _display = display


def tracked(items: Iterable[T], **about: Any) -> Iterable[T]:
    """The same items, with a progress display if one is set."""
    return _display(items, **about) if _display else items


class Passes:
    """Splits work into passes of at most `size` images; halves `size` when out of memory."""

    def __init__(self, size: int):
        self.size = size

    def over(self, count: int, work: Callable[[slice], T], *, even: bool = False) -> Iterator[T]:
        """`work` on consecutive slices of `count` images, of about equal length if `even`.

        Raises:
            torch.OutOfMemoryError: a single image does not fit.
        """
        done = 0
        while done < count:
            left = count - done
            length = math.ceil(left / math.ceil(left / self.size)) if even else self.size
            part = slice(done, done + min(left, length))
            try:
                result = work(part)
            except torch.OutOfMemoryError:
                if part.stop - done == 1:
                    raise
                self.size = (part.stop - done) // 2
                continue
            yield result
            done = part.stop


def losses_and_gradients(
    f: Callable[[Images], Features],
    objective: Objective,
    images: Images,
    rows: Tensor,
    passes: Passes,
    backward: bool = True,
) -> tuple[PerImage, Images]:
    """Losses, (m,), and gradients, (m, c, h, w), of `rows` (m,); zero gradients if not `backward`.

    Raises:
        ValueError: the objective does not give one loss per image.
    """

    def work(part: slice) -> tuple[PerImage, Images]:
        chosen = rows[part]
        every = len(chosen) == len(images)
        x = (images if every else images[chosen]).detach().requires_grad_()
        with torch.set_grad_enabled(backward):
            values = f(x)
            if not every:  # objectives treat rows independently: fill the others with ones
                filled = values.new_ones(len(images), *values.shape[1:])
                values = filled.index_copy(0, chosen, values)
            loss = objective(values)
            if loss.shape != (len(images),):
                raise ValueError(f"objective: got {tuple(loss.shape)}, wanted one loss per image")
            loss = loss if every else loss[chosen]
            gradient = torch.autograd.grad(loss.sum(), x)[0] if backward else torch.zeros_like(x)
        return loss.detach(), gradient

    losses, gradients = zip(*passes.over(len(rows), work, even=True), strict=True)
    return torch.cat(losses), torch.cat(gradients)


def fitting(f: Callable[[Images], Features], images: Images) -> int:
    """Images per gradient pass, by the memory that each saves for the backward pass."""
    if images.numel() <= 2**17:  # 42 CIFAR-10 images: no need to measure
        return len(images)

    def saved(n: int) -> int:
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        with torch.enable_grad(), hooks:
            values = f(images[:n].detach().requires_grad_())
        del values  # not before: a freed address could be counted twice
        return sum(sizes.values())

    each = max(1, saved(2) - saved(1))  # the difference excludes the weights
    # On a CPU a pass above 64 MB is not faster; page faults make it up to twice as slow.
    room = torch.cuda.mem_get_info(images.device)[0] // 2 if images.is_cuda else 2**26
    return max(8, room // each)


def stream(
    f: Callable[[Images], Features],
    device: torch.device,
    images: Images | Batches,
    batch_size: int | None = None,
) -> Iterator[Features]:
    """`f` of every image in order, in batches, without gradients.

    Args:
        f: images → (n, d).
        device: of `f`'s input.
        images: (n, c, h, w) in [0, 1], or an iterable of batches, with or without labels.
        batch_size: images per pass; None chooses by device.

    Raises:
        ValueError: `batch_size` is not positive.
    """
    size = None if batch_size is None else whole(batch_size, "batch_size", least=1)
    if isinstance(images, Tensor):
        check_images(images)
        images = [images]

    def streamed() -> Iterator[Features]:
        passes: Passes | None = None
        for batch in images:
            full = batch if isinstance(batch, Tensor) else batch[0]
            # On a CPU larger passes are not faster; page faults cost up to half as much again.
            suits = max(1, 2048 // max(full.shape[-2:])) if device.type == "cpu" else 256
            passes = passes or Passes(size or suits)

            def work(part: slice, full: Tensor = full) -> Features:
                with torch.no_grad():  # per pass: in a generator it would leak out
                    return f(full[part].to(device))

            yield from passes.over(len(full), work)

    return iter(tracked(streamed(), unit="batch"))
