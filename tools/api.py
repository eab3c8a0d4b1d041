"""Write the API reference of all names in `__all__`, build/api: python -m tools api

Warnings of pdoc, such as an unresolved name, are errors.
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
        for name in module.__all__:  # pdoc sees only loaded names
            module.__dict__.setdefault(name, getattr(module, name))
    pdoc.render.configure(docformat="google", show_source=False, math=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pdoc.pdoc("nbhelpers", output_directory=FOLDER)
    print(f"wrote {FOLDER}/nbhelpers.html: {len(modules)} modules")


if __name__ == "__main__":
    main()
