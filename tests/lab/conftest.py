"""One JupyterLab, page and kernel for the files here that a worker runs one after another."""

import pytest
from browser_support import Notebook, browser, jupyterlab


@pytest.fixture(scope="package")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    with browser() as chrome, jupyterlab(folder) as address:
        desk = Notebook(chrome, address)
        desk.folder = folder
        yield desk
        desk.close()


@pytest.fixture(scope="module")
def desk(shared):
    """The page as it was at first; `folder` is for notebooks and screenshots."""
    shared.reset()
    yield shared
    assert not shared.faults
