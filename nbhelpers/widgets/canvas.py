"""A canvas to paint a network's components with a brush."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy
import torch
from torch import Tensor
from traitlets import Dict, Int, List, Unicode

from nbhelpers import files
from nbhelpers.networks.model import Model
from nbhelpers.networks.regions import region_shares
from nbhelpers.optimize import Step, within
from nbhelpers.representation import predict, represent
from nbhelpers.types import Images, Indices
from nbhelpers.widgets.atlas import chosen_components, raised
from nbhelpers.widgets.image_picker import ImagePicker, encode, front_end
from nbhelpers.widgets.live import Demo, Frame, Live, picture_of
from nbhelpers.widgets.parts import (
    Models,
    Names,
    Pictures,
    captions_of,
    fitted,
    noise_like,
    opened,
    picker_of,
    robust_first,
)
from nbhelpers.widgets.settings import PAINTING, PERCENTILES
from nbhelpers.widgets.strokes import (
    ERASE,
    Stroke,
    as_text,
    follow,
    read_note,
    signed,
    strokes_of,
    write_note,
)


class Paint(Live):
    """The canvas: applies strokes in order and shows each as it forms.

    Args:
        models: networks by name.
        picker: of the images to paint on.
        palette: dictionaries of `label` (the network's), `component`, `key` (of its name), `about`,
            `thumbnail`, and `maps`: (n, height, width), its activations over a set, by position.
        steps: gradient steps of a stroke.
        radius: L2 bound on a stroke's change, pixel units; infinite for none.
        note: how the pictures are computed.
        seed: of the palette.

    Source: feature addition, Engstrom et al., arXiv:1906.00945, §4.2, under a mask.
    """

    _esm = front_end("elements.js", "brush.js", "paint.js")
    _css = front_end("frame.css", "widgets.css")
    kind = Unicode("paint").tag(sync=True)
    # label, component, about, thumbnail (base64 of a picture file)
    palette: List = List().tag(sync=True)
    names: Dict = Dict().tag(sync=True)  # "checkpoint:component" → the user's name for it
    chosen = Int(0).tag(sync=True)  # index in the palette
    amounts = List(Unicode()).tag(sync=True)
    size: List = List().tag(sync=True)  # height and width, pixels
    done = Int(0).tag(sync=True)  # strokes that can be undone

    def __init__(
        self,
        models: Models,
        picker: ImagePicker,
        palette: Sequence[dict],
        *,
        steps: int,
        radius: float,
        note: str,
        seed: int,
    ):
        super().__init__(
            self._paint, rows=[""], columns=["source", "painted"], about=PAINTING.about, note=note
        )
        self._models, self._picker, self._steps, self._radius, self._seed = (
            models,
            picker,
            steps,
            radius,
            seed,
        )
        self._pending: list[Stroke] = []
        self._opened: tuple[Images, list[Stroke]] | None = None  # from a note, painted next
        self._busy, self._discard, self._count, self._source = False, False, 0, 0
        self._strokes: list[Stroke] = []
        self._pictures: list[Images] = [_in_255ths(picker.pixels[:1])]
        self._now = self._pictures[0]
        self._maps = [entry["maps"] for entry in palette]
        self.palette = [
            {key: value for key, value in entry.items() if key != "maps"} for entry in palette
        ]
        self.amounts = [*(f"{p:g} %" for p in PERCENTILES), "no end"]
        self.at, self.size = len(PERCENTILES), list(picker.pixels.shape[-2:])
        self.names = {
            key: name for key, name in _kept().items() if key in {entry["key"] for entry in palette}
        }
        self.observe(self._keep_names, "names")
        self.on_msg(self._on_message)

    def _keep_names(self, change: dict) -> None:
        try:
            _keep(change["new"])
        except (OSError, ValueError) as error:  # an observer's exception is lost
            text = f"Names are not kept for the next session: {error}"
            self.status = {"state": "error", "text": text, "run": self._newest}

    @property
    def image(self) -> Images:
        """The painted image, (1, c, h, w)."""
        return self._pictures[-1]

    def request(self, pick: tuple[int, ...]):
        """As `Live.request`, without memory: a result depends on the strokes before it."""
        with self._state:
            self._memory.clear()
            return super().request(pick)

    def stroke(self, mask: Tensor, component: int | None = None, *, amount: int | None = None):
        """Paint under a mask, after the pending strokes.

        Args:
            mask: (h, w) in [0, 1]; pixels outside stay fixed, see `within`.
            component: index in the palette; `ERASE` restores the source; None: the chosen one.
            amount: index of an amount; None: the slider's.

        Returns:
            The thread to join; None if the current run applies the stroke.

        Raises:
            ValueError: an empty mask, or one of another size.
            IndexError: `component` is outside the palette.
        """
        mask = torch.as_tensor(mask).float().cpu()
        within(mask, self.image)  # raises if it does not fit
        mask = (mask * 255).round() / 255  # as the note keeps it
        which = self.chosen if component is None else component
        if not ERASE <= which < len(self.palette):
            raise IndexError(
                f"component: got {which}, wanted 0 to {len(self.palette) - 1} of the palette"
            )
        entry = self.palette[max(which, 0)]
        made = Stroke(
            mask,
            ERASE if which == ERASE else entry["component"],
            entry["label"],
            self._ceiling(max(which, 0), mask, self.at if amount is None else amount),
            self._steps,
            PAINTING.step(self._steps, self.image),
            self._radius,
            "" if which == ERASE else self.names.get(entry["key"], ""),
        )
        with self._state:
            self._pending.append(made)
            if self._busy:
                return None
            self._busy, self._count = True, self._count + 1
            return self.request((self._source, self._count))

    def _ceiling(self, which: int, mask: Tensor, amount: int) -> float:
        """The amount as an activation: a percentile, over the set, of the component in the mask."""
        if amount >= len(PERCENTILES):
            return float("inf")
        shares = region_shares(self._models[self.palette[which]["label"]], mask)
        values = (
            self._maps[which].sum((1, 2))
            if shares is None
            else (self._maps[which] * shares[0].cpu()).sum((1, 2))
        )
        return values.quantile(PERCENTILES[amount] / 100).item()

    def undo(self) -> None:
        """Undo the current stroke and the pending ones; without any, the last stroke."""
        with self._state:
            if self._busy:
                self._discard = True
                self.stop()
                return
            if self._strokes:
                self._strokes.pop()
                self._pictures.pop()
            self._now, self.done = self.image, len(self._strokes)
            self._newest += 1
            frame = Frame(0, 0, self._draw)
            self._show(self._newest, picture_of(frame, 0) | {"text": ""}, "done")

    def export(self) -> bytes:
        """The picture as a PNG file, with its note in the metadata; see `replay`."""
        with self._state:
            note = write_note(self._models, self._pictures[0], self._strokes, seed=self._seed)
            return signed(encode(self.image[None]), note)

    def reopen(self, file: bytes, name: str):
        """Replace the canvas by a saved picture, painted again from its note.

        Args:
            file: a PNG from `export`.
            name: the file's, for errors.

        Returns:
            The thread to join.

        Raises:
            ValueError: no note in the file, another network, or another size than the canvas's.
            IndexError: a component outside the network's.
        """
        source, strokes = strokes_of(read_note(file, name), self._models)
        if source.shape != self.image.shape:
            sizes = [" × ".join(map(str, shape[1:])) for shape in (source.shape, self.image.shape)]
            raise ValueError(f"note: {name} is of {sizes[0]} numbers, this canvas of {sizes[1]}")
        with self._state:
            self._opened, self._busy, self._count = (source, strokes), True, self._count + 1
            self._picker.selected = -1  # its source may not be in the picker
            return self.request((self._source, self._count))

    def _draw(self) -> tuple[Tensor, list[list[str]]]:
        return torch.stack([self._pictures[0].cpu(), self._now.cpu()], 1), [["", ""]]

    def _paint(self, source: int, count: int = 0) -> Iterator[Frame]:
        """All pending strokes, until the run is abandoned; without `count`, a new source."""
        with self._state:
            opened, self._opened = self._opened, None
            if not count:
                self._source = source
                self._begin(_in_255ths(self._picker.pixels[source : source + 1]), [])
            elif opened:
                self._begin(*opened)
            more = self._busy = bool(self._pending)
        if not more:
            yield Frame(0, 0, self._draw)
            return
        before, under_way = 0, None
        try:
            while more:
                with self._state:
                    stroke = self._pending.pop(0)
                model = self._models[stroke.network]
                image = self.image.to(model.device)
                for step in follow(model, stroke, image, self._pictures[0]):
                    under_way, self._now = (stroke, step), step.images.cpu()
                    with self._state:
                        if last := step.index == stroke.end:
                            self._commit(stroke, step)
                            under_way, more = None, bool(self._pending)
                            self._busy = more or self._opened is not None
                        waiting = sum(max(1, one.end) for one in self._pending)
                    yield Frame(before + step.index, before + stroke.end + waiting, self._draw)
                    if last:
                        before += max(1, stroke.end)
        finally:  # also if the run was abandoned: Stop, or another source
            with self._state:
                if under_way and not self._discard:
                    self._commit(*under_way)
                if under_way or more:
                    self._pending, self._busy = [], self._opened is not None
                self._discard, self._now = False, self.image

    def _begin(self, source: Images, strokes: Sequence[Stroke]) -> None:
        self._pictures, self._strokes, self._pending = [source], [], list(strokes)
        self._now, self.done = source, 0

    def _commit(self, stroke: Stroke, step: Step) -> None:
        self._strokes.append(
            replace(stroke, until=None if step.index == step.total else step.index)
        )
        self._pictures.append(step.images.cpu())
        self.done = len(self._strokes)

    def _on_message(self, _, content: dict, buffers: list) -> None:
        kind = content.get("type")
        try:  # exceptions in message handlers never reach the page
            if kind == "stroke":
                mask = numpy.frombuffer(bytes(buffers[0]), numpy.uint8).reshape(self.size)
                self.stroke(
                    torch.from_numpy(mask / numpy.float32(255)),
                    ERASE if content.get("erase") else None,
                )
            elif kind == "undo":
                self.undo()
            elif kind == "export":
                self.send({"type": "file", "name": "painted.png"}, buffers=[self.export()])
            elif kind == "open":
                self.reopen(bytes(buffers[0]), str(content.get("name", "")))
        except Exception as error:
            self.status = {"state": "error", "text": str(error), "run": self._newest}

    def __repr__(self) -> str:
        return f"Paint({len(self.palette)} components)"


def paint(
    models: Models,
    images: Pictures,
    labels: Names = None,
    *,
    components: Indices = 4,
    sources: int = 12,
    radius: float | None = None,
    steps: int | None = None,
    seed: int = 0,
) -> Demo:
    """Paint components of a network's representation into an image; the demo of notebook 7.

    The palette has, for each network, one component for each known class (up to ten) and random
    ones.

    Args:
        models: networks by name.
        images: (n, c, h, w), the set for the amounts' percentiles.
        labels: (n,) classes, −1 if unknown, or texts; None for each network's predictions.
        components: further indices, or a number of random ones.
        sources: number of images to pick from.
        radius: L2 bound on a stroke's change, pixel units; None: 5.7 at 32 pixels, scaled with the
            side.
        steps: gradient steps of a stroke; None: the notebook's, 25 above 64 pixels.
        seed: of components and noise.
    """
    models = robust_first(models)
    images, labels = opened(models, images, labels)
    images = fitted(models, images)
    names, steps = captions_of(models, labels, len(images)), PAINTING.steps_for(images, steps)
    picker = picker_of(
        models, images[:sources], names[:sources], label="Choose an image to paint on", columns=6
    )
    palette = [
        entry
        for label in models
        for entry in _entries(label, models[label], images, names, components, steps, seed)
    ]
    bound = PAINTING.ball(images, radius) or math.inf
    ball = (
        f", inside it all pixels together by {bound:.3g} at most (L2)"
        if math.isfinite(bound)
        else ""
    )
    note = (
        f"{steps} steps of normalised gradient descent for each stroke; outside the brush "
        f"nothing changes{ball}."
    )
    live = Paint(models, picker, palette, steps=steps, radius=bound, note=note, seed=seed)
    demo = Demo("Paint", [picker], live)
    mask, (height, width) = torch.zeros(live.size), live.size
    mask[height // 8 : 3 * height // 4, width // 16 : 11 * width // 16] = 1
    thread = live.stroke(mask)  # a first result, also without a kernel
    if thread:
        thread.join()
    return demo


def _entries(
    label: str,
    model: Model,
    images: Images,
    names: Sequence[str],
    components: Indices,
    steps: int,
    seed: int,
) -> list[dict]:
    """A network's entries of the palette."""
    features = represent(model, images)
    known = [model.classes.index(name) if name in model.classes else -1 for name in names]
    kinds = torch.tensor(known)
    if (kinds < 0).all():
        kinds = predict(model, images)
    spread, found = features.std(0).clamp_min(1e-6), []
    for kind in kinds[kinds >= 0].unique()[:10]:
        apart = features[kinds == kind].mean(0) - features[kinds != kind].mean(0)
        found.append(int((apart / spread).nan_to_num(-1).argmax()))
    found += chosen_components(components, model.components, seed)
    found = list(dict.fromkeys(found))
    start = noise_like(images, 1, seed).expand(len(found), -1, -1, -1)
    *_, last = raised(model, torch.tensor(found), start, settings=PAINTING, steps=steps)
    maps = features[:, :, None, None]
    if model.averaged:
        maps = represent(model, images, positions=True).unflatten(1, model.positions)
    entries = []
    for component, drawn in zip(found, last.images.cpu(), strict=True):
        best = features[:, component].topk(min(10, len(images))).indices
        top = [model.classes[k] for k in kinds[best] if k >= 0]
        often = sorted(set(top), key=lambda name: -top.count(name))[:2]
        entries.append(
            {
                "label": label,
                "component": component,
                "key": f"{model.name}:{component}",
                "about": f"in the {len(best)} images with most of it: "
                + ", ".join(f"{name} {top.count(name)}" for name in often),
                "thumbnail": as_text(encode(drawn[None, None])),
                "maps": maps[:, component].clone(),
            }
        )
    return entries


def _file() -> Path:
    return files.cache_folder() / "component-names.json"


def _kept() -> dict[str, str]:
    try:
        return {
            str(key): str(name)
            for key, name in json.loads(_file().read_text(encoding="utf-8")).items()
        }
    except (OSError, ValueError, AttributeError):  # none yet, or not ours
        return {}


def _keep(names: Mapping[str, str]) -> None:
    _file().parent.mkdir(parents=True, exist_ok=True)
    files.write_text(_file(), json.dumps({**_kept(), **names}, ensure_ascii=False, indent=1))


def _in_255ths(image: Images) -> Images:
    """Rounded as in a file, so that a replay starts from identical pixels."""
    return (image * 255).round() / 255
