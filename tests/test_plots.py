"""Figures show what they are given, in its order, in colours that differ in print."""

import re
from itertools import combinations

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from matplotlib.colors import to_hex, to_rgb

from hmsutils import evaluation, plots
from hmsutils.competition import CLASSES


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def tower(name, shape, features):
    given = keras.Input(shape)
    pooled = keras.layers.Dense(features)(keras.layers.Flatten()(given))
    return keras.Model(given, pooled, name=name)


def network(*towers):
    inputs = {
        f"of {t.name}": keras.Input(t.inputs[0].shape[1:], name=f"of {t.name}") for t in towers
    }
    x = [t(given) for t, given in zip(towers, inputs.values(), strict=True)]
    x = keras.layers.Concatenate()(x) if len(x) > 1 else x[0]
    return keras.Model(inputs, keras.layers.Dense(6, activation="softmax", name="head")(x))


@pytest.mark.parametrize("shapes", [[(4, 4, 3)], [(4, 4, 3), (20, 2)]])
def test_a_network_is_drawn_with_all_its_numbers(shapes):
    towers = [tower(f"tower {i}", shape, 7 + i) for i, shape in enumerate(shapes)]
    drawn = network(*towers)
    said = [text.get_text() for text in plots.plot_network(drawn).axes[0].texts]
    for t, shape in zip(towers, shapes, strict=True):
        assert f"of {t.name}\n{' × '.join(map(str, shape))}" in said
        assert f"{t.name}\n{t.count_params():,} weights" in said
        assert f"{t.output.shape[-1]} features" in said
    (head,) = [text for text in said if "head" in text]
    assert f"{drawn.get_layer('head').count_params()} weights" in head
    assert ("concatenated" in head) == (len(towers) == 2)
    assert set(CLASSES) <= set(said)


def test_bars_stand_in_the_order_of_the_table_and_say_their_values():
    columns = ["KL", "KL low", "KL high", "accuracy", "accuracy low", "accuracy high"]
    values = [[0.6, 0.5, 0.7, 0.8, 0.7, 0.9], [0.4, 0.3, 0.5, 0.9, 0.8, 1.0]]
    table = pd.DataFrame(values, ["a", "a+b"], columns)
    figure = plots.plot_comparison(table)
    for ax, metric in zip(figure.axes, ("KL", "accuracy"), strict=True):
        assert "better" in ax.get_xlabel()
        bars = sorted(ax.patches, key=lambda bar: -bar.get_y())
        assert [bar.get_width() for bar in bars] == list(table[metric])
        assert len({to_hex(bar.get_facecolor()) for bar in bars}) == 2
        assert {text.get_text() for text in ax.texts} == {f"{v:.3f}" for v in table[metric]}
    labels = {text.get_position()[1]: text.get_text() for text in figure.axes[0].get_yticklabels()}
    assert [labels[y] for y in sorted(labels, reverse=True)] == ["a", "a+b"]


def test_two_epochs_are_points_and_three_a_curve():
    history = pd.DataFrame({"epoch": [0, 1, 2], "loss": [3, 2, 1], "val_kl": [3, 2, 2]})
    for n, style in ((2, "None"), (3, "-")):
        figure = plots.plot_history({"a": history[:n]})
        assert {line.get_linestyle() for ax in figure.axes for line in ax.lines} == {style}


def test_sides_have_the_colours_of_the_page_and_differ_in_print(rng):
    (ax,) = plots.plot_eeg(rng.normal(0, 20, (10_000, 20))).axes
    names = [text.get_text() for text in ax.get_yticklabels()]
    colours = dict(zip(names, (line.get_color() for line in ax.lines), strict=False))
    wanted = {"Fp1–F7": "L", "C3–P3": "L", "F8–T4": "R", "P4–O2": "R", "Fz–Cz": "M", "EKG": "E"}
    assert {name: colours[name] for name in wanted} == {
        k: plots.SIDES[s] for k, s in wanted.items()
    }
    assert plots.side("Fp1", "Fp2") == "M"
    script = (REPOSITORY / "hmsutils" / "page" / "viewer.js").read_text()
    for name in "LRE":
        assert re.search(rf'\b{name}: dark \? "#\w+" : "(#\w+)"', script)[1] == plots.SIDES[name]
    grey = {k: np.dot(to_rgb(c), (0.299, 0.587, 0.114)) for k, c in plots.SIDES.items()}
    assert all(abs(grey[a] - grey[b]) > 0.09 for a, b in combinations("LRM", 2))


def test_points_of_a_reliability_curve_grow_with_what_they_stand_for(rng):
    target = np.eye(6)[rng.integers(0, 6, 200)]
    frame = pd.DataFrame(np.c_[target, 0.9 * target + 0.1 / 6])
    frame.columns = [*evaluation.TARGET_COLUMNS, *evaluation.PREDICTION_COLUMNS]
    table = evaluation.reliability(frame)
    (ax,) = plots.plot_reliability({"a": table}).axes
    sizes = ax.collections[0].get_sizes()
    np.testing.assert_array_equal(np.argsort(sizes), np.argsort(table["count"]))
