"""All demos as one HTML file that needs neither a kernel nor a network."""

from nbhelpers.page.exporting import export_page

__all__ = ["export_page"]
