"""A search field to pick a name by mouse or keyboard."""

from collections.abc import Sequence

from traitlets import List, TraitError, Unicode, validate

from nbhelpers.widgets.image_picker import Picker, front_end


class ClassPicker(Picker):
    """A search field over a list of names.

    Args:
        names: to pick from.
        side: of the computed pictures, pixels.
        label: heading, also for screen readers.
        selected: initial index.

    Raises:
        TraitError: `selected` is outside −1 … n − 1, at any time.
    """

    _esm = front_end("elements.js", "class_picker.js")
    _css = front_end("frame.css", "widgets.css")
    names = List(Unicode()).tag(sync=True)

    def __init__(
        self, names: Sequence[str], *, side: int, label: str = "Search a class", selected: int = 0
    ):
        self._side = side
        super().__init__(names=list(names), label=label, selected=selected)

    @property
    def side(self) -> int:
        """The longer side of the computed pictures, pixels."""
        return self._side

    @validate("selected")
    def _check_selected(self, proposal) -> int:
        if not -1 <= proposal["value"] < len(self.names):
            raise TraitError(
                f"selected: got {proposal['value']}, wanted 0 to {len(self.names) - 1}, or -1 for "
                "none"
            )
        return proposal["value"]

    def __repr__(self) -> str:  # nbval compares it: no address
        return f"ClassPicker({len(self.names)} names, selected={self.selected})"
