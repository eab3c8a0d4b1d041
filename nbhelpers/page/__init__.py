"""All demos as one HTML file that needs neither a kernel nor a network."""

from typing import TYPE_CHECKING

from nbhelpers.names import first_use

if TYPE_CHECKING:
    from nbhelpers.page.exporting import export_page

# Loaded at its first use, so that `nbhelpers gallery --help` does without torch.
__getattr__ = first_use(__name__, {"export_page": "nbhelpers.page.exporting"})

__all__ = ["export_page"]
