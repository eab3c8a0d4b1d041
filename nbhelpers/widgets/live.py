"""Pictures that form while you look: one background run at a time, and the newest pick wins."""

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
    """A moment of a run. Drawing is put off: only some frames are shown."""

    step: int
    total: int
    # (rows, columns, 3, h, w) in [0, 1] and its captions
    draw: Callable[[], tuple[Tensor, Captions]]


class Live(anywidget.AnyWidget):
    """A table of pictures, computed in the background.

    Args:
        job: what to run on a pick; yields frames, the last with `step == total`.
        rows: a name for each row of pictures.
        columns: a name for each column.
        slider: what the columns vary; where given, a slider moves over them.
        about: what one sees, in a sentence or two.
        note: how the pictures were computed.

    Where `switch` names ways to compute, the job is given the chosen one's index too, after the
    pick.
    """

    _esm, _css = ImagePicker._esm, ImagePicker._css
    kind = Unicode("live").tag(sync=True)
    rows = List(Unicode()).tag(sync=True)
    columns = List(Unicode()).tag(sync=True)
    slider = Unicode().tag(sync=True)
    about = Unicode().tag(sync=True)
    note = Unicode().tag(sync=True)
    buttons = Bool(False).tag(sync=True)  # one for each column, in place of the slider
    # so many first rows are the same in all columns: with a slider, shown once
    fixed = Int(0).tag(sync=True)
    switch = List(Unicode()).tag(sync=True)  # ways to compute, to choose from
    mode = Int(0).tag(sync=True)  # the chosen one's index
    at = Int(0).tag(sync=True)  # the slider's column
    result = Dict().tag(sync=True)  # sheet (picture file), captions, text, run
    status = Dict().tag(sync=True)  # state: running, done, stopped or error; text; run

    small = False  # pictures for which one thread is faster than several, see `threads`
    FRAMES_PER_SECOND = 15  # the page has no way to say that it lags behind
    REMEMBERED = 256  # finished results

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
        """How many runs went to their end."""
        return self._finished

    def request(self, pick: tuple[int, ...]) -> threading.Thread | None:
        """Run the job on a pick in the background, in place of what runs now; a remembered result
        is shown at once.

        Returns:
            The thread, to be joined; None where nothing has to run.
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
        """Run the job on a pick here and now, and show its result.

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
        """Drop all remembered results: what the picks stand for has changed."""
        with self._state:
            self._newest += 1  # a run under way is for a pick of before
            self._memory.clear()

    def _full(self, pick: tuple[int, ...]) -> tuple[int, ...]:
        return (*pick, self.mode) if self.switch else pick

    def stop(self) -> None:
        """End the running job and keep what it has."""
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
                        # A slow machine should spend its time on the descent, not on showing it.
                        due = now + max(1 / self.FRAMES_PER_SECOND, 4 * (time.monotonic() - now))
                assert frame is not None  # the start, at least
                picture = picture_of(frame, time.monotonic() - began)
                if frame.step == frame.total:
                    self._keep(pick, picture)
                self._show(number, picture, "done" if frame.step == frame.total else "stopped")
            except Exception as error:  # nobody sees an exception of a thread
                with self._state:
                    if number == self._newest:
                        text = f"{type(error).__name__}: {error}"
                        self.status = {"state": "error", "text": text, "run": number}

    def _stream(self, number: int, picture: dict) -> None:
        with self._state:  # else a frame could follow the result of a newer pick
            if number == self._newest:
                sheet = picture.pop("sheet")
                self.send({"type": "frame", **picture}, buffers=[sheet])

    def _show(self, number: int, picture: dict, state: str) -> None:
        with self._state:
            if number == self._newest:
                # The run's number makes the trait change, or else nothing would be sent.
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
    """So many threads for what this thread computes.

    A second team of OpenMP's beside the main thread's has more threads than there are cores; they
    sleep at every wait, and a small network waits all the time: two threads took 5.0 s where one
    takes 2.0 s.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Demo(ipywidgets.VBox):
    """Pickers over a live table. Shows a first result at once, also where no kernel runs.

    Args:
        title: names the demo.
        pickers: each with something selected; the job gets their indices.
        live: what to show.
    """

    def __init__(self, title: str, pickers: Sequence[Picker], live: Live):
        row = ipywidgets.Box(list(pickers)).add_class("nb-pickers")
        # A box of its own inside: a style sheet asks only an outer box how wide it is.
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
        """The result as a still picture."""
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
    """Show a widget, and beside it a still picture, which is seen only where the widget cannot
    live.

    A notebook shows the widget of an output, or an error in its place, but never the same output's
    picture. So the picture is an output of its own; the third one says how to make it live, and its
    style sheet hides what does not apply.

    Args:
        widget: to show.
        still: what it shows at first.
        text: in place of the picture.
    """
    with PIL.Image.open(io.BytesIO(still._repr_png_())) as picture:
        small = io.BytesIO()
        # a third of the bytes
        picture.convert("RGB").quantize(256).save(small, "PNG", optimize=True)
    for bundle, about in (
        (widget._repr_mimebundle_() | {"text/plain": repr(widget)}, {}),
        (
            {"image/png": small.getvalue(), "text/plain": text},
            {"image/png": {"alt": text}, "alt": text},
        ),
        ({"text/html": STILL_NOTE, "text/plain": "Run all cells to make this live."}, {}),
    ):
        display(bundle, raw=True, metadata=about)
