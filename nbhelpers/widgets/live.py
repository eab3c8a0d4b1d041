"""Live pictures: one background run at a time; a new pick replaces it."""

import contextlib
import io
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import anywidget
import ipywidgets
import numpy
import PIL.Image
import torch
from IPython.display import display
from torch import Tensor
from traitlets import Bool, Dict, Int, List, Unicode

from nbhelpers.figures.plots import Figure, image_grid
from nbhelpers.widgets.image_picker import HERE, ImagePicker, Picker, encode
from nbhelpers.widgets.settings import LARGE

Captions = list[list[str]]  # a text under each picture, row by row
STILL_NOTE = (HERE / "still.html").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Frame:
    """A step of a run; `draw` is lazy, since only some frames are shown."""

    step: int
    total: int
    # (rows, columns, 3, h, w) in [0, 1] and its captions
    draw: Callable[[], tuple[Tensor, Captions]]


class Live(anywidget.AnyWidget):
    """A table of pictures, computed in the background.

    Args:
        job: generator of frames for a pick, the last with `step == total`; with a `switch`, its
            index is a further argument.
        rows, columns: headings.
        slider: label of a slider over the columns; empty for none.
        about: what to do and to look at.
        note: how the pictures were computed.
    """

    _esm, _css = ImagePicker._esm, ImagePicker._css
    kind = Unicode("live").tag(sync=True)
    rows = List(Unicode()).tag(sync=True)
    columns = List(Unicode()).tag(sync=True)
    slider = Unicode().tag(sync=True)
    about = Unicode().tag(sync=True)
    note = Unicode().tag(sync=True)
    buttons = Bool(False).tag(sync=True)  # one per column instead of the slider
    fixed = Int(0).tag(sync=True)  # leading rows equal in all columns: a slider shows them once
    switch = List(Unicode()).tag(sync=True)  # modes of computation
    mode = Int(0).tag(sync=True)  # index in `switch`
    at = Int(0).tag(sync=True)  # the slider's column
    result = Dict().tag(sync=True)  # sheet (picture file), captions, text, run
    status = Dict().tag(sync=True)  # state: running, done, stopped or error; text; run

    small = False  # pictures for which one thread is faster, see `threads`
    FRAMES_PER_SECOND = 15  # the page cannot signal that it is behind
    REMEMBERED = 256  # cached results

    def __init__(
        self,
        job: Callable[..., Iterable[Frame]],
        *,
        rows: Sequence[str],
        columns: Sequence[str],
        slider: str = "",
        about: str = "",
        note: str = "",
    ):
        super().__init__(
            rows=list(rows), columns=list(columns), slider=slider, about=about, note=note
        )
        self._job = job
        self._newest, self._stopped, self._finished = 0, 0, 0  # numbers of runs
        self._turn, self._state = threading.Lock(), threading.RLock()
        self._memory: OrderedDict[tuple[int, ...], dict] = OrderedDict()
        self.on_msg(
            lambda _, content, buffers: self.stop() if content.get("type") == "stop" else None
        )

    @property
    def finished(self) -> int:
        """Number of completed runs."""
        return self._finished

    def request(self, pick: tuple[int, ...]) -> threading.Thread | None:
        """Run the job on a pick in the background and abandon the current run.

        Returns:
            The thread to join; None if the result was cached.
        """
        with self._state:
            self._newest += 1
            pick = self._full(pick)
            if pick in self._memory:
                self._show(self._newest, self._memory[pick], "done")
                return None
            self.status = {"state": "running", "text": "", "run": self._newest}
            thread = threading.Thread(
                target=self._work, args=(self._newest, pick), daemon=True, name="nb-live"
            )
        thread.start()
        return thread

    def compute(self, pick: tuple[int, ...]) -> dict:
        """Run the job on a pick in this thread, and show its result.

        Returns:
            `sheet`, a PNG file; `captions` per row and column; `text`, steps and time.
        """
        with self._state:
            self._newest += 1
            number = self._newest
        pick = self._full(pick)
        if pick not in self._memory:
            began = time.monotonic()
            *_, frame = self._job(*pick)
            self._keep(pick, picture_of(frame, time.monotonic() - began))
        self._show(number, self._memory[pick], "done")
        return self._memory[pick]

    def forget(self) -> None:
        """Drop all cached results, after a change of the pickers' indices."""
        with self._state:
            self._newest += 1  # abandons the current run
            self._memory.clear()

    def _full(self, pick: tuple[int, ...]) -> tuple[int, ...]:
        return (*pick, self.mode) if self.switch else pick

    def stop(self) -> None:
        """End the current run and keep its last frame."""
        with self._state:
            self._stopped = self._newest

    def _work(self, number: int, pick: tuple[int, ...]) -> None:
        with self._turn, threads(1 if self.small else torch.get_num_threads()):
            began, due = time.monotonic(), 0.0
            frame: Frame | None = None
            try:
                if number != self._newest:
                    return
                for frame in self._job(*pick):
                    now = time.monotonic()
                    if number != self._newest:
                        return
                    if frame.step == frame.total or self._stopped == number:
                        break
                    if now >= due:
                        self._stream(
                            number,
                            picture_of(frame, now - began)
                            | {"step": frame.step, "total": frame.total},
                        )
                        # at most a fifth of the time goes to drawing
                        due = now + max(1 / self.FRAMES_PER_SECOND, 4 * (time.monotonic() - now))
                assert frame is not None  # a run has at least its start
                picture = picture_of(frame, time.monotonic() - began)
                if frame.step == frame.total:
                    self._keep(pick, picture)
                self._show(number, picture, "done" if frame.step == frame.total else "stopped")
            except Exception as error:  # a thread's exception is lost
                with self._state:
                    if number == self._newest:
                        text = f"{type(error).__name__}: {error}"
                        self.status = {"state": "error", "text": text, "run": number}

    def _stream(self, number: int, picture: dict) -> None:
        with self._state:  # no frame after the result of a newer pick
            if number == self._newest:
                sheet = picture.pop("sheet")
                self.send({"type": "frame", **picture}, buffers=[sheet])

    def _show(self, number: int, picture: dict, state: str) -> None:
        with self._state:
            if number == self._newest:
                # An unchanged trait sends no event: the run's number changes it.
                self.result = picture | {"run": number}
                text = picture["text"] + (" (stopped)" if state == "stopped" else "")
                self.status = {"state": state, "text": text, "run": number}

    def _keep(self, pick: tuple[int, ...], picture: dict) -> None:
        with self._state:
            self._finished += 1
            self._memory[pick] = picture
            if len(self._memory) > self.REMEMBERED:
                self._memory.popitem(last=False)

    def __repr__(self) -> str:
        return f"Live({len(self.rows)} × {len(self.columns)} pictures)"


def picture_of(frame: Frame, seconds: float) -> dict:
    sheet, captions = frame.draw()
    text = (
        f"step {frame.step} of {frame.total}, {seconds:.1f} s"
        if frame.total
        else f"{seconds:.1f} s"
    )
    return {"sheet": encode(sheet), "captions": captions, "text": text}


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Limit this thread's torch operations to `count` threads.

    A second OpenMP team beside the main thread's oversubscribes the cores, and a small network
    waits at every operation: 5.0 s with two threads, 2.0 s with one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Demo(ipywidgets.VBox):
    """Pickers with a live table, and a first result that also shows without a kernel.

    Args:
        title: of the demo.
        pickers: each with a selection; the job's arguments are their indices.
        live: the table.
    """

    def __init__(self, title: str, pickers: Sequence[Picker], live: Live):
        row = ipywidgets.Box(list(pickers)).add_class("nb-pickers")
        # An inner box: a container query measures ancestors only.
        super().__init__([ipywidgets.Box([row, live]).add_class("nb-parts")])
        self.add_class("nb-demo")
        self.title, self.pickers, self.live = title, tuple(pickers), live
        live.small = all(picker.side <= LARGE for picker in pickers)
        live.compute(self.pick)
        for picker in pickers:
            picker.observe(self._go, "selected")
            picker.observe(lambda _: live.forget(), "removed")
            picker.on_msg(self._on_message)
        live.observe(self._go, "mode")

    @property
    def pick(self) -> tuple[int, ...]:
        """The selected index of each picker."""
        return tuple(picker.selected for picker in self.pickers)

    def figure(self) -> Figure:
        """The result as a still figure."""
        live = self.live
        with PIL.Image.open(io.BytesIO(live.result["sheet"])) as picture:
            pixels = torch.from_numpy(numpy.array(picture)).permute(2, 0, 1) / 255
        rows = pixels.chunk(len(live.rows), dim=1)
        sheets = {
            name: torch.stack(row.chunk(len(live.columns), dim=2))
            for name, row in zip(live.rows, rows, strict=True)
        }
        captions = dict(zip(live.rows, live.result["captions"], strict=True))
        named = live.slider and not live.buttons
        heads = [f"{live.slider} {column}".strip() if named else column for column in live.columns]
        title = f"{self.title}, {live.switch[live.mode]}" if live.switch else self.title
        return image_grid(sheets, columns=heads, captions=captions, cell=96, title=title)

    def _go(self, _=None) -> None:
        if min(self.pick) >= 0:
            self.live.request(self.pick)

    def _on_message(self, _, content: dict, buffers: list) -> None:
        if content.get("type") == "stop":
            self.live.stop()
        elif content.get("type") == "again":
            self._go()

    def _ipython_display_(self) -> None:
        count = len(self.live.rows) * len(self.live.columns)
        show_with_still(self, self.figure(), f"{self.title}: {count} pictures of the first result")

    def __repr__(self) -> str:  # nbval compares it: nothing may vary between runs
        return f"Demo({self.title})"


def show_with_still(widget: ipywidgets.DOMWidget, still: Figure, text: str) -> None:
    """Show a widget, and a still picture for viewers without a kernel.

    A notebook never falls back from a widget to the picture of the same output. So the picture is
    a second output, and a third one has a note and the style sheet that hides what does not apply.

    Args:
        widget: to show.
        still: its first result.
        text: alternative text of the picture.
    """
    with PIL.Image.open(io.BytesIO(still._repr_png_())) as picture:
        small = io.BytesIO()
        # a third of the bytes
        picture.convert("RGB").quantize(256).save(small, "PNG")
    for bundle, about in (
        (widget._repr_mimebundle_() | {"text/plain": repr(widget)}, {}),
        (
            {"image/png": small.getvalue(), "text/plain": text},
            {"image/png": {"alt": text}, "alt": text},
        ),
        ({"text/html": STILL_NOTE, "text/plain": "Run all cells to make this live."}, {}),
    ):
        display(bundle, raw=True, metadata=about)
