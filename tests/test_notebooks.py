"""The notebooks run with other parameters, in real papermill with a real kernel."""

import json
from pathlib import Path

import papermill
import pytest

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


@pytest.mark.filterwarnings("default")  # papermill and jupyter_client warn about things of their own
def test_inversion_with_changed_parameters(tmp_path: Path) -> None:
    changed = {"n_images": 4, "n_shown": 3, "steps": 5, "seed": 7, "out": str(tmp_path / "out")}
    source = NOTEBOOKS / "2_inversion.ipynb"
    papermill.execute_notebook(source, tmp_path / "run.ipynb", changed, cwd=NOTEBOOKS, progress_bar=False)
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["seed"] == 7 and len(result["images"]) == 4 and result["parameters"]["steps"] == 5
    forms = {f"{name}, {form}" for name in ("robust", "standard") for form in ("averaged", "with positions")}
    assert set(result["numbers"]["normalised distance"]) == forms
    assert (tmp_path / "out" / "inversion.png").stat().st_size > 10_000
