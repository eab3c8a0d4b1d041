"""How many images go through a network at once, and what happens when memory runs out."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from nbhelpers.types import Features, Images, Labels, Objective, PerImage, check_images, whole

T = TypeVar("T")
# a data set too large for memory, batch by batch
Batches = Iterable[Images | tuple[Images, Labels]]


def _untracked(items: Iterable[T], **about: Any) -> Iterable[T]:
    return items


_display: Callable[..., Any] = _untracked


def show_progress(display: Callable[..., Any]) -> None:
    """Show the loops' progress by `display(items, total=, initial=, unit=)`, which yields `items`.

    The core itself shows nothing; `nbhelpers.bars` sets a bar.
    """
    global _display
    _display = display


def tracked(items: Iterable[T], **about: Any) -> Iterable[T]:
    """The same items, their progress shown where a display is set."""
    return _display(items, **about)


class Passes:
    """Cuts work on many images into passes of at most `size`, and halves `size` for good when
    memory runs out.
    """

    def __init__(self, size: int):
        self.size = size

    def over(self, count: int, work: Callable[[slice], T], *, even: bool = False) -> Iterator[T]:
        """`work` on consecutive slices of `count` images: full ones and a rest, or, if `even`, of
        about equal length.

        Raises:
            torch.OutOfMemoryError: a single image does not fit.
        """
        done = 0
        while done < count:
            left = count - done
            part = slice(
                done, done + min(left, -(-left // -(-left // self.size)) if even else self.size)
            )
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
    *,
    passes: Passes,
    backward: bool = True,
) -> tuple[PerImage, Images]:
    """An objective's values, (m,), and its gradients, (m, c, h, w), for `rows` (m,) of `images` (n,
    c, h, w).

    Without `backward` the gradients are zero.

    Raises:
        ValueError: the objective does not give one loss per image.
    """

    def work(part: slice) -> tuple[PerImage, Images]:
        chosen = rows[part]
        every = len(chosen) == len(images)
        x = (images if every else images[chosen]).detach().requires_grad_()
        with torch.set_grad_enabled(backward):
            values = f(x)
            if not every:
                # Objectives treat each row on its own, so the other rows may hold anything.
                values = values.new_ones(len(images), *values.shape[1:]).index_copy(
                    0, chosen, values
                )
            loss = objective(values)
            if loss.shape != (len(images),):
                raise ValueError(
                    f"objective: got shape {tuple(loss.shape)}, wanted one loss per image "
                    f"({len(images)},)"
                )
            loss = loss if every else loss[chosen]
            gradient = torch.autograd.grad(loss.sum(), x)[0] if backward else torch.zeros_like(x)
        return loss.detach(), gradient

    losses, gradients = zip(*passes.over(len(rows), work, even=True), strict=True)
    return (
        (losses[0], gradients[0]) if len(losses) == 1 else (torch.cat(losses), torch.cat(gradients))
    )


def fitting(f: Callable[[Images], Features], images: Images) -> int:
    """How many images suit one gradient pass, by the bytes that one more holds between forward
    and backward.
    """
    if images.numel() <= 2**17:  # 42 images of CIFAR's size, too few to look
        return len(images)

    def held(n: int) -> int:
        sizes: dict[int, int] = {}

        def hold(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with (
            torch.enable_grad(),
            torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor),
        ):
            values = f(images[:n].detach().requires_grad_())
        del values  # not before: the graph keeps the addresses apart
        return sum(sizes.values())

    each = max(1, held(2) - held(1))  # the difference is free of the weights
    # On a CPU a pass beyond 64 MB is no faster, and fresh pages for its tensors make it up to half
    # as fast.
    room = torch.cuda.mem_get_info(images.device)[0] // 2 if images.is_cuda else 2**26
    return max(8, room // each)


def stream(
    f: Callable[[Images], Features],
    device: torch.device,
    images: Images | Batches,
    batch_size: int | None = None,
) -> Iterator[Features]:
    """`f` of every image in order, a few at a time, without gradients.

    Args:
        f: images → (n, d).
        device: where `f` wants them.
        images: (n, c, h, w) in [0, 1], or an iterable of such batches (or of images and labels).
        batch_size: at most so many images per pass; None for what suits the device.

    Raises:
        ValueError: `batch_size` is not positive.
    """
    size = None if batch_size is None else whole(batch_size, "batch_size", least=1)
    if isinstance(images, Tensor):
        check_images(images)
        images = [images]
    return iter(tracked(_streamed(f, device, images, size), unit="batch"))


def _streamed(
    f: Callable[[Images], Features], device: torch.device, batches: Batches, size: int | None
) -> Iterator[Features]:
    passes: Passes | None = None
    for batch in batches:
        full = batch if isinstance(batch, Tensor) else batch[0]
        # On a CPU larger passes gain nothing, and the fresh pages of their maps cost up to half as
        # much again.
        suits = max(1, 2048 // max(full.shape[-2:])) if device.type == "cpu" else 256
        passes = passes or Passes(size or suits)

        def work(part: slice, full: Tensor = full) -> Features:
            with torch.no_grad():  # in each pass: around a yield it would leak into the caller
                return f(full[part].to(device))

        yield from passes.over(len(full), work)
