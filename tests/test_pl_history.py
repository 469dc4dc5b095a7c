import numpy as np
import pandas as pd
import pytest
from _pl_data import assert_legible
from matplotlib.colors import to_hex

import diffvae as dv


def frame(n=30):
    epoch = np.arange(1, n + 1)
    loss = 600 + 50 * np.exp(-epoch / 5)
    columns = {"train_loss": loss, "validation_loss": loss + 0.4 * np.abs(epoch - 12)}
    columns |= {"train_kl": epoch / 3, "validation_kl": epoch / 3 + 0.2, "train_mmd": np.exp(-epoch) - 1e-4}
    return pd.DataFrame(columns, index=pd.RangeIndex(1, n + 1, name="epoch"))


def test_train_is_solid_validation_dashed_in_one_colour():
    ax = dv.pl.history(frame(), terms="loss")
    train, validation, _ = ax.lines
    np.testing.assert_array_equal(train.get_ydata(), frame()["train_loss"])
    np.testing.assert_array_equal(validation.get_xdata(), frame().index)
    assert (train.get_linestyle(), validation.get_linestyle()) == ("-", "--")
    assert to_hex(train.get_color()) == to_hex(validation.get_color())
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "nats per cell")
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["train", "validation", "lowest validation loss"]


def test_title_and_line_tell_the_best_epoch():
    best = frame()["validation_loss"].idxmin()
    ax = dv.pl.history(frame(), terms=["loss"])
    assert ax.get_title(loc="left").startswith(f"Validation loss is lowest at epoch {best}: ")
    assert list(ax.lines[-1].get_xdata()) == [best, best]


def test_each_term_has_a_panel():
    ax = dv.pl.history(frame())
    assert [p.get_title() or p.get_title(loc="left") for p in ax.child_axes] == ["loss", "KL divergence", "MMD"]
    assert [p.get_ylabel() for p in ax.child_axes] == ["nats per cell", "nats per cell", "squared distance"]
    assert not ax.axison
    assert_legible(ax)


def test_a_tenfold_fall_is_logarithmic_unless_it_passes_zero():
    data = pd.DataFrame({"train_nll": [1000.0, 100, 10], "train_mmd": [1000.0, 10, -1e-3]})
    nll, mmd = dv.pl.history(data).child_axes
    assert (nll.get_yscale(), mmd.get_yscale()) == ("log", "linear")


def test_without_validation():
    ax = dv.pl.history(frame()[["train_loss"]])
    assert ax.get_title(loc="left") == "Training over 30 epochs: loss"
    assert len(ax.lines) == 1


def test_gaps_and_one_epoch():
    data = frame(3)
    data.loc[2, "validation_loss"] = np.nan
    assert "epoch 3" in dv.pl.history(data, terms="loss").get_title(loc="left")
    ax = dv.pl.history(pd.DataFrame({"train_mse": [2.0], "validation_mse": [3.0]}))
    assert ax.get_title(loc="left") == "Training over 1 epoch: squared error"
    assert ax.lines[0].get_marker() == "o"


def test_model_with_a_history():
    class Model:
        history = frame()

    assert len(dv.pl.history(Model()).child_axes) == 3


@pytest.mark.parametrize(
    ("model", "terms", "sentence"),
    [
        (3, None, "model is a int without a history"),
        (pd.DataFrame(), None, "the history has no epochs"),
        (frame(), "mmmd", "terms is mmmd; the history has loss, kl, mmd"),
        (pd.DataFrame({"loss": [1.0]}), None, "terms is empty; the history has none"),
    ],
)
def test_errors_are_sentences(model, terms, sentence):
    with pytest.raises(ValueError, match=sentence):
        dv.pl.history(model, terms=terms)


def of_links(n=30):
    """Return a history of the graph model: the hidden links are looked at in every tenth epoch only."""
    epoch = np.arange(1, n + 1)
    data = pd.DataFrame({f"train_{t}": 1 + 1 / epoch for t in ("loss", "links", "kl")}, index=epoch)
    for i, term in enumerate(("loss", "auc", "average_precision")):
        data[f"validation_{term}"] = np.where(epoch % 10 == 0, 0.01 + i * epoch / 100, np.nan)
    return data


def test_epochs_without_a_value_are_drawn_through():
    ax = dv.pl.history(of_links(), terms="loss")
    train, validation, _ = ax.lines
    assert list(validation.get_xdata()) == [10, 20, 30]
    assert np.isfinite(validation.get_ydata()).all()
    assert (train.get_marker(), validation.get_marker()) == ("None", "o")
    assert ax.get_ylabel() == "nats per pair"
    assert ax.get_title(loc="left").endswith("nats per pair")


def test_scores_of_links_are_no_losses():
    ax = dv.pl.history(of_links()[["validation_auc", "validation_average_precision", "train_loss", "train_links"]])
    panels = ax.child_axes
    assert [p.get_title(loc="left") for p in panels] == [
        "loss", "links (nll)", "AUC of hidden links", "average precision of hidden links",
    ]  # fmt: skip
    assert [p.get_ylabel() for p in panels] == ["nats per pair", "nats per pair", "1 is perfect", "1 is perfect"]
    assert [p.get_yscale() for p in panels[2:]] == ["linear", "linear"]
    assert_legible(ax)


def test_logarithmic_axes_of_any_span_are_legible():
    for top in (12.0, 1e6):
        data = pd.DataFrame({"train_nll": np.geomspace(top, 1, 20), "train_kl": np.geomspace(0.3 * top, 0.3, 20)})
        ax = dv.pl.history(data)
        assert ax.child_axes[0].get_yscale() == "log"
        assert_legible(ax)
