"""The API reference out of the docstrings, into build/api: python -m tools api

Only what the package and its parts name in `__all__`. A warning of pdoc's, such as a name that does
not resolve, ends it.
"""

import inspect
import shutil
import warnings
from pathlib import Path

import pdoc

import nbhelpers

FOLDER = Path("build/api")


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    public = [getattr(nbhelpers, name) for name in nbhelpers.__all__]
    modules = [nbhelpers, *filter(inspect.ismodule, public)]
    for module in modules:
        for name in module.__all__:  # pdoc sees only what has been loaded
            module.__dict__.setdefault(name, getattr(module, name))
    pdoc.render.configure(docformat="google", show_source=False, math=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pdoc.pdoc("nbhelpers", output_directory=FOLDER)
    print(f"wrote {FOLDER}/nbhelpers.html: {len(modules)} modules")


if __name__ == "__main__":
    main()
