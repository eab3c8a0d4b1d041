"""A forced-choice recognition test for people, without feedback until the end."""

import hashlib
import threading
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import anywidget
from traitlets import Bytes, Dict, Unicode

from nbhelpers import files
from nbhelpers.data.sets import ImageSet
from nbhelpers.figures.answers import INVERSION, ORIGINAL, Answer, Recognised, write_answers
from nbhelpers.figures.plots import image_grid
from nbhelpers.networks.model import Model
from nbhelpers.types import Images
from nbhelpers.widgets.depths import Cuts, cuts_of, deepest
from nbhelpers.widgets.image_picker import encode, front_end
from nbhelpers.widgets.live import show_with_still, threads
from nbhelpers.widgets.parts import (
    Names,
    Pictures,
    fitted,
    matched,
    named,
    noise_like,
    robust_first,
)
from nbhelpers.widgets.settings import LAYERS
from nbhelpers.widgets.trials import Condition, Trial, mean_colours, plan_trials

DEEPEST = 4  # default number of layers
AHEAD = 6  # pictures computed in advance


class Recognition(anywidget.AnyWidget):
    """A session; pictures are computed in the background, a few in advance.

    Args:
        plan: the trials in order.
        images: (n, c, h, w), indexed by the trials.
        cuts: networks by label, each cut at its layers.
        steps: gradient steps of an inversion.
        seed: of the session.
        dataset: description of images and settings.
    """

    _esm = front_end("elements.js", "recognition.js")
    _css = front_end("frame.css", "widgets.css")
    about = Unicode().tag(sync=True)
    # state: ready, waits, shown or ends; number, total and choices of the trial
    trial = Dict().tag(sync=True)
    picture = Bytes().tag(sync=True)  # of the trial, once it is there
    result = Dict().tag(sync=True)  # rows, note, and the file to save: name, text

    def __init__(
        self,
        plan: Sequence[Trial],
        images: Images,
        cuts: Mapping[str, Mapping[str, Model]],
        *,
        steps: int,
        seed: int,
        dataset: str,
    ):
        self._plan, self._images, self._cuts = list(plan), images, cuts
        self._steps, self._seed, self._dataset = steps, seed, dataset
        self._names = [one.choices[one.right] for one in plan]  # correct answers
        self._made: dict[int, bytes] = {}  # picture files by trial
        self._at, self._begun, self._closed, self._error = 0, False, False, ""
        self._state = threading.Condition()
        self._worker: threading.Thread | None = None
        self._answers: list[Answer] = []
        about = (
            f"{len(plan)} pictures, about four minutes. Some were made from what one layer of a "
            "network keeps of a photograph, some are untouched. What does each show? Guess if you "
            "are not sure. The result comes at the end. Nothing leaves this computer."
        )
        super().__init__(about=about, trial=self._trial("ready"))
        self.on_msg(self._on_message)

    @property
    def answers(self) -> tuple[Answer, ...]:
        """The answers so far."""
        return tuple(self._answers)

    @property
    def recognised(self) -> Recognised:
        """Table and figure of the answers so far."""
        return Recognised(self.answers)

    def save(self, path: str | Path) -> None:
        """Write the answers so far as a CSV file, for `recognised`."""
        files.write_text(Path(path), write_answers(self.answers))

    def prepare(self) -> None:
        """Start the background computation, once."""
        with self._state:
            if self._worker is None and not self._closed:
                self._worker = threading.Thread(target=self._work, daemon=True, name="nb-trials")
                self._worker.start()

    def begin(self) -> None:
        """Show the first picture."""
        self.prepare()
        with self._state:
            self._begun = True
            self._show()

    def answer(self, number: int, choice: int, seconds: float) -> None:
        """Record an answer to the current trial, and show the next one.

        Args:
            number: of the trial, from 0; an answer to any other trial is ignored.
            choice: index among its names.
            seconds: response time.
        """
        with self._state:
            if number != self._at or self.trial["state"] != "shown":
                return
            one = self._plan[number]
            inverted = one.condition != Condition()
            network = next(iter(self._cuts[one.condition.network].values())) if inverted else None
            self._answers.append(
                Answer(
                    condition=INVERSION if inverted else ORIGINAL,
                    network=network.name if network else "",
                    layer=f"{one.condition.depth} ({one.condition.layer})" if inverted else "",
                    image=self._names[number],
                    answer=one.choices[choice],
                    right=choice == one.right,
                    time=round(float(seconds), 2),  # as it is saved
                    choices=len(one.choices),
                    seed=self._seed,
                    set=self._dataset,
                    version=version("nbhelpers"),
                )
            )
            self._made.pop(number, None)
            self._at += 1
            self._show()
            self._state.notify_all()

    def close(self) -> None:
        """End the background work, and the widget."""
        with self._state:
            self._closed = True
            self._state.notify_all()
        super().close()

    def _trial(self, state: str) -> dict:
        trial = {"state": state, "number": self._at, "total": len(self._plan)}
        if state == "shown":
            trial["choices"] = list(self._plan[self._at].choices)
        return trial | ({"text": self._error} if self._error else {})

    def _show(self) -> None:
        if not self._begun:
            return
        if self._at == len(self._plan):
            found = self.recognised
            note = f"Chance: {found.chance:.2g}. Seed {self._seed}. Interval: Wilson, 95 %."
            file = {"name": f"answers-{self._seed}.csv", "text": write_answers(self.answers)}
            self.result = {"rows": [list(row) for row in found.table], "note": note, "file": file}
            self.trial = self._trial("ends")
        elif self._at in self._made:
            with self.hold_sync():
                self.picture = self._made[self._at]
                self.trial = self._trial("shown")
        else:
            self.trial = self._trial("waits")

    def _work(self) -> None:
        try:
            with threads(1):
                for number, one in enumerate(self._plan):
                    with self._state:
                        while not (self._closed or number < self._at + AHEAD):
                            self._state.wait()
                    made = self._make(number, one)
                    with self._state:
                        if made is None:
                            return
                        self._made[number] = made
                        if number == self._at:
                            self._show()
        except Exception as error:  # a thread's exception is lost
            with self._state:
                self._error = f"{type(error).__name__}: {error}"
                self.trial = self._trial("error")

    def _make(self, number: int, one: Trial) -> bytes | None:
        """A trial's picture file; None if the widget was closed meanwhile."""
        image = self._images[one.image : one.image + 1]
        if one.condition == Condition():
            return encode(image[None])
        model = self._cuts[one.condition.network][one.condition.layer]
        start = noise_like(image, 1, self._seed * 1000 + number).to(model.device)
        run = matched(
            model.representation, image.to(model.device), start, settings=LAYERS, steps=self._steps
        )
        made = start
        for step in run:
            if self._closed:
                return None
            made = step.images
        return encode(made.cpu()[None])

    def _on_message(self, _, content: dict, buffers: list) -> None:
        kind = content.get("type")
        try:  # exceptions in message handlers never reach the page
            if kind == "open":
                self.prepare()
            elif kind == "begin":
                self.begin()
            elif kind == "answer":
                self.answer(
                    int(content["number"]), int(content["choice"]), float(content["seconds"])
                )
        except Exception as error:
            with self._state:
                self._error = f"{type(error).__name__}: {error}"
                self.trial = self._trial("error")

    def _ipython_display_(self) -> None:
        first = self._images[self._plan[0].image : self._plan[0].image + 1]
        still = image_grid({"": first}, title="Which is it?", cell=192)
        show_with_still(self, still, "Recognition: the first picture of a test for people")

    def __repr__(self) -> str:  # nbval compares it: nothing may vary between runs
        return f"Recognition({len(self._plan)} trials)"


def recognition(
    models: Mapping[str, Cuts],
    images: Pictures,
    labels: Names = None,
    *,
    layers: Sequence[str] | None = None,
    trials: int = 40,
    steps: int | None = None,
    seed: int = 0,
) -> Recognition:
    """A forced-choice test for people: what does this inversion show?

    Conditions are each network's layers, equally often; at least a tenth of the trials are catch
    trials, untouched originals. Each has ten names; the wrong ones have images of similar mean
    colour. *Save answers* gives a CSV file for `nb.recognised`; nothing leaves the computer.

    Args:
        models: as in `layers`.
        images, labels: as in `inversion`; at least as many named images as trials.
        layers: module names; None: the last four of `nb.layers`.
        trials: in a session; no picture is repeated.
        steps: gradient steps; None: 100, 25 above 64 pixels.
        seed: of pictures, conditions, order and noise; use another for each person.

    Raises:
        ValueError: fewer named images than trials, or as in `layers`.

    Source: the metamer test of Feather et al., Nature Neuroscience 26, 2023.
    """
    cuts = {
        label: cuts_of(label, network, layers or deepest(network, DEEPEST))
        for label, network in robust_first(models).items()
    }
    whole = {label: next(iter(found.values())) for label, found in cuts.items()}
    pixels, names = named(whole, images, labels)
    pixels = fitted(whole, pixels).cpu()
    steps = LAYERS.steps_for(pixels, steps)
    conditions = [
        Condition(label, name, depth + 1)
        for label, found in cuts.items()
        for depth, name in enumerate(found)
    ]
    plan = plan_trials(names, mean_colours(pixels), conditions, trials=trials, seed=seed)
    content = hashlib.sha256((pixels * 255).round().byte().numpy().tobytes()).hexdigest()[:8]
    title = images.name if isinstance(images, ImageSet) else "images"
    dataset = f"{title} {content}, {max(pixels.shape[-2:])} pixels, {steps} steps"
    return Recognition(plan, pixels, cuts, steps=steps, seed=seed, dataset=dataset)
