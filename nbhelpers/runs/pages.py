"""An executed notebook as a page to read."""

import warnings
from pathlib import Path

from nbhelpers.files import write_text


def notebook_page(notebook: Path) -> Path | None:
    """The notebook as HTML beside it, made where it is not there or older; None where it cannot be.

    Raises:
        OSError: the folder cannot be written.
    """
    page = notebook.with_suffix(".html")
    if page.exists() and page.stat().st_mtime_ns >= notebook.stat().st_mtime_ns:
        return page
    import nbformat  # here and below, as they take a second
    from nbconvert import HTMLExporter

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pictures without a description
            text, _ = HTMLExporter().from_notebook_node(nbformat.read(notebook, as_version=4))
    except Exception:  # whatever JSON, nbformat or the template find wrong with it
        return None
    write_text(page, text)
    return page
