"""One page for all tests here: two small random networks, the photographs at 32 pixels."""

import pytest
from browser_support import browser
from page_support import Made, opened, tiny

from nbhelpers.page import export_page
from nbhelpers.page.tensorflow import library

CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Made:
    try:
        library()
    except ValueError as error:
        pytest.skip(str(error))
    models = {"robust": tiny(0), "standard": tiny(1)}
    path = tmp_path_factory.mktemp("page") / "page.html"
    return Made(export_page(path, models=models, dataset="photographs", poster_steps=2), models)


@pytest.fixture(scope="module")  # a session's would still run when other files start their own
def chrome():
    with browser(*CAMERA) as chrome:
        yield chrome


@pytest.fixture
def whole(chrome, made):
    """A new page."""
    with opened(chrome, made.path) as page:
        yield page


@pytest.fixture(scope="module")
def page(chrome, made):
    """One page with short searches, for tests that begin by going to their demo."""
    with opened(chrome, made.quick) as page:
        yield page
