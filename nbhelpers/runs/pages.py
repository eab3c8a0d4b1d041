"""Executed notebooks as HTML."""

import warnings
from pathlib import Path

from nbhelpers.files import write_text

# Gives images an alt text, which nbconvert's template lacks.
_TEMPLATE = """
{%- extends "index.html.j2" -%}
{%- block data_png -%}
<div class="jp-RenderedImage jp-OutputArea-output {{ extra_class }}">
{%- set about = (output | get_metadata("alt", "image/png"))
  or output.data.get("text/plain", "picture") %}
<img src="data:image/png;base64,{{ output.data["image/png"] | escape_html }}"
  alt="{{ about | escape_html }}">
</div>
{%- endblock -%}
"""


def notebook_page(notebook: Path) -> Path | None:
    """The notebook's up-to-date HTML beside it; None if conversion fails.

    Raises:
        OSError: the folder cannot be written.
    """
    page = notebook.with_suffix(".html")
    if page.exists() and page.stat().st_mtime_ns >= notebook.stat().st_mtime_ns:
        return page
    try:
        import nbformat  # late: the imports take a second
        from nbconvert import HTMLExporter

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # irrelevant to the page
            text, _ = HTMLExporter(raw_template=_TEMPLATE).from_notebook_node(
                nbformat.read(notebook, as_version=4)
            )
    except Exception:  # of JSON, nbformat or the template, or an old nbconvert's ImportError
        return None
    write_text(page, text)
    return page
