"""A page is made anew where something that it shows has changed."""

import torch
from samples import small

from nbhelpers.networks.model import Model
from nbhelpers.page import export_page
from nbhelpers.widgets import Live, inversion


def test_a_page_is_made_anew_where_classes_or_captions_have_other_names(tmp_path, monkeypatch):
    images, made = torch.rand(2, 3, 16, 16), []

    def export(classes: str, labels: list[int]) -> int:
        """How many results were computed."""
        models = {"m": Model(small(), classes=list(classes), image_size=16)}
        demo = inversion(models, images, torch.tensor(labels), steps=1)
        made.clear()
        export_page(
            tmp_path / "p.html",
            models=models,
            demos={"Inversion": demo},
            work=tmp_path / "work",
            live=False,
        )
        return len(made)

    compute = Live.compute
    monkeypatch.setattr(Live, "compute", lambda *given: made.append(1) or compute(*given))
    assert [export("abcd", [0, 1]), export("abcd", [0, 1])] == [2, 0]
    assert [export("wxyz", [0, 1]), export("wxyz", [1, 1])] == [2, 2]
