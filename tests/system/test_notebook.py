"""The notebook of the documentation, from a clean kernel, in a folder as Jupyter starts it there."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient

from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import read_progress

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "notebook.ipynb"


def test_the_notebook(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code), "committed with output"
    for cell in code:
        cell.source = cell.source.replace("STEPS = 2_000", "STEPS = 600")
    (tmp_path / "docs").mkdir()
    place = {"metadata": {"path": tmp_path / "docs"}}
    NotebookClient(notebook, timeout=240, kernel_name="python3", resources=place).execute()
    train, _, plots, params = code[1:]
    assert train.outputs[-1].data["text/plain"] == "'target_total_steps reached'"
    assert any("image/png" in output.get("data", {}) for output in plots.outputs)
    assert int(params.outputs[-1].data["text/plain"]) > 100_000
    progress = read_progress(RunDir(tmp_path / "cluster_runs", "notebook").progress)
    assert progress is not None
    assert progress.env_steps >= 600
    assert progress.updates > 0
