"""Curves of runs: they have a title, and no legend covers a line."""

import pytest

from train import plots, png, single_run

ROW = {
    **{"epoch": 1, "step": 5, "loss": 0.5, "score": 0.2, "train_score": 0.3},
    **{"margin_p10": 0.1, "margin_p50": 0.2, "margin_p90": 0.3, "test_margin_p50": 0.1},
}


@pytest.mark.parametrize("layers", [1, 12])
def test_curves_have_a_title_and_legends_beside_them(layers, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(png, "save", lambda _, figure: figures.append(figure))
    norms = {f"norm/layer_{i:02}_with_a_name": 1.0 + i for i in range(layers)}
    rows = [ROW | norms | {"epoch": e, "step": 5 * e} for e in (1, 2)]
    options = {"optimizer": "adam-lawn", "dataset": "ml-100k", "batch_size": 100_000}
    title = single_run.title(options | {"epochs": 2, "seed": 3})
    words = {"score": "score", "title": "Score", "tested": "a", "trained": "b"}
    plots.run_curves(tmp_path / "curves.png", rows, 5, title, **words)
    (figure,) = figures
    assert figure.get_suptitle() == (
        "adam-lawn on ml-100k, batch 100,000, 2 epochs, seed 3"
    )
    figure.draw_without_rendering()
    width, height = figure.bbox.size
    for axes in figure.axes:
        legend = axes.get_legend().get_window_extent()
        assert not any(legend.overlaps(other.bbox) for other in figure.axes)
        assert 0 <= legend.x0 and legend.x1 <= width
        assert 0 <= legend.y0 and legend.y1 <= height
