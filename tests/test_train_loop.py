"""The loop, on modules so small that each epoch is known beforehand."""

import _thread
import time

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from diffvae.train import RowSource, TrainingError, fit


class Walker(nn.Module):
    """One weight that Adam moves by lr in each step, since its gradient is constant."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))


def walk(module, x, rows, generator):
    """Training walks up; the validation loss is least at w = 0.3."""
    return {"loss": -module.w if module.training else (module.w - 0.3) ** 2}


def run(objective=walk, *, n=20, module=None, **kwargs):
    module = Walker() if module is None else module
    kwargs = {"lr": 0.1, "progress": False, "batch_size": n} | kwargs
    rows = {"train_rows": np.arange(n), "validation_rows": np.arange(3)} | {
        k: kwargs.pop(k) for k in ("train_rows", "validation_rows") if k in kwargs
    }
    source = RowSource(np.arange(n, dtype=np.float32)[:, None])
    return module, fit(module, source, objective, **rows, **kwargs)


def test_history_has_a_row_per_epoch_and_a_column_per_term_and_split():
    module, history = run(max_epochs=4)
    assert history.index.equals(pd.RangeIndex(1, 5, name="epoch"))
    assert list(history.columns) == ["train_loss", "validation_loss"]
    np.testing.assert_allclose(history["train_loss"], [0, -0.1, -0.2, -0.3], atol=1e-6)
    np.testing.assert_allclose(history["validation_loss"], [0.04, 0.01, 0, 0.01], atol=1e-6)
    assert module.w.item() == pytest.approx(0.4)
    assert not module.training


@pytest.mark.parametrize(("max_epochs", "patience"), [(50, 2), (5, 40)])
def test_early_stopping_restores_the_best_weights(max_epochs, patience):
    module, history = run(max_epochs=max_epochs, patience=patience)
    assert len(history) == 5  # best at 3, then two without improvement
    assert module.w.item() == pytest.approx(0.3)


def test_no_early_stop_before_a_number_of_steps():
    module, history = run(max_epochs=50, patience=2, least_steps=9)
    assert len(history) == 9  # one step per epoch
    assert module.w.item() == pytest.approx(0.3)  # the best weights all the same


def test_a_stop_that_is_refused_forgets_the_best_weights():
    asked = []

    def may_stop():
        asked.append(module.w.item())
        return len(asked) == 2

    module = Walker()
    _, history = run(module=module, max_epochs=50, patience=2, may_stop=may_stop)
    # best at 3, asked after 5; then the best is 6, the first one after that, asked after 8
    assert len(history) == 8
    assert asked == pytest.approx([0.3, 0.6])
    assert module.w.item() == pytest.approx(0.6)


def test_early_stopping_watches_the_training_loss_where_nothing_is_held_out():
    module, history = run(max_epochs=6, patience=2, validation_rows=np.array([], int))
    assert list(history.columns) == ["train_loss"]
    assert len(history) == 6  # it falls in every epoch
    assert module.w.item() == pytest.approx(0.6)


def test_terms_are_means_over_cells_whatever_the_batches():
    def mean_of_x(module, x, rows, generator):
        assert x[:, 0].tolist() == rows.tolist()
        return {"loss": module.w * 0 + x.mean(), "size": torch.tensor(float(len(x)))}

    _, history = run(mean_of_x, n=21, batch_size=10, max_epochs=2, train_rows=np.arange(1, 21), validation_rows=[0, 7])
    np.testing.assert_allclose(history["train_loss"], 10.5)
    np.testing.assert_allclose(history["validation_loss"], 3.5)
    assert history["train_size"].tolist() == [10, 10]


def test_a_term_that_is_not_finite_is_named():
    with pytest.raises(TrainingError, match="At epoch 1 validation kl is nan"):
        run(
            lambda module, x, rows, generator: {
                "loss": -module.w,
                "kl": torch.tensor(0.0 if module.training else np.nan),
            }
        )


def test_every_training_cell_is_seen_once_an_epoch_in_a_new_order():
    seen = []

    def note(module, x, rows, generator):
        if module.training:
            seen.extend(rows)
        return {"loss": module.w}

    run(note, n=11, batch_size=4, max_epochs=2, train_rows=np.arange(2, 11), validation_rows=[0, 1])
    first, second = seen[:9], seen[9:]
    assert sorted(first) == sorted(second) == list(range(2, 11))
    assert first != second


def test_validation_uses_the_same_noise_in_each_epoch_and_training_does_not():
    def noise(module, x, rows, generator):
        return {"loss": 0 * module.w + torch.randn((), generator=generator)}

    _, history = run(noise, max_epochs=3)
    assert history["validation_loss"].nunique() == 1
    assert history["train_loss"].nunique() == 3
    _, same = run(noise, max_epochs=3)
    pd.testing.assert_frame_equal(history, same)
    _, other = run(noise, max_epochs=3, rng=1)
    assert (history != other).all(axis=None)


def test_diverging_loss_stops_with_a_sentence():
    def explode(module, x, rows, generator):
        return {"loss": module.w / 0 if module.w > 0.15 else -module.w}

    sentence = (
        r"At epoch 3 train loss is inf: the training diverged\. Lower the learning rate \(it is 0\.1\): the likely "
        r"cause, since no value beyond 19 reaches the network\."
    )
    with pytest.raises(TrainingError, match=sentence):
        run(explode, validation_rows=[])
    unscaled = (
        r"At epoch 3 .* diverged\. Scale the layer to \[0, 1\], as .* values up to 29 reach the network, the likely"
    )
    with pytest.raises(TrainingError, match=unscaled):
        run(explode, validation_rows=[], n=30)


@pytest.mark.parametrize(
    ("loss", "kl", "told"),
    [
        (1e9, 3e9, r"train loss is 1e\+09.*Of its terms kl is the largest \(3e\+09\)\.$"),
        (np.nan, 3.0, r"train loss is nan.* reaches the network\.$"),  # of a number that is none, none is the largest
        (1e9, np.inf, r"train kl is inf.* reaches the network\.$"),
    ],
)
def test_the_largest_term_is_named_where_it_made_the_loss_grow(loss, kl, told):
    def explode(module, x, rows, generator):
        lost = module.w > 0.15
        terms = {"kl": torch.tensor(kl if lost else 0.0), "mmd": torch.tensor(5.0)}
        return {"loss": loss * module.w / module.w.detach() if lost else -module.w, **terms}

    with pytest.raises(TrainingError, match=told):
        run(explode, validation_rows=[])


@pytest.mark.parametrize(("patience", "kept", "weight"), [(None, 1, 0.1), (5, 3, 0.3)])
def test_the_weights_from_before_come_back(patience, kept, weight):
    """Without early stopping those of the last copy, which is made at most every hundred steps; with it the best."""

    def explode(module, x, rows, generator):
        return {"loss": module.w * torch.nan} if module.w > 0.45 else walk(module, x, rows, generator)

    module = Walker()
    with pytest.raises(TrainingError, match=r"At epoch \d (train|validation) loss is nan") as caught:
        run(explode, module=module, max_epochs=50, patience=patience)
    assert module.w.item() == pytest.approx(weight)
    assert not module.training
    assert list(caught.value.history.index) == list(range(1, kept + 1))


def test_weights_are_kept_again_after_a_hundred_steps():
    def explode(module, x, rows, generator):
        return {"loss": module.w * torch.nan if module.w > 2.55 else -module.w}

    module = Walker()
    with pytest.raises(TrainingError) as caught:
        run(explode, module=module, max_epochs=50, n=100, batch_size=10, lr=0.01, validation_rows=[])
    assert len(caught.value.history) == 21  # of epochs 1, 11 and 21, of ten steps each
    assert module.w.item() == pytest.approx(2.1, abs=1e-4)


@pytest.mark.parametrize("error", [ZeroDivisionError("in the objective"), KeyboardInterrupt()])
def test_exceptions_of_the_objective_reach_the_caller(error):
    def fail(module, x, rows, generator):
        raise error

    with pytest.raises(type(error)) as caught:
        run(fail)
    assert caught.value is error


def test_an_interrupt_ends_the_training_within_a_batch():
    batches = []

    def interrupt_in_the_third(module, x, rows, generator):
        batches.append(len(rows))
        if len(batches) == 3:
            _thread.interrupt_main()  # what Ctrl-C does
            time.sleep(0.5)
        return {"loss": -module.w}

    with pytest.raises(KeyboardInterrupt):
        run(interrupt_in_the_third, max_epochs=500, validation_rows=[])
    time.sleep(0.02)
    assert 3 <= len(batches) < 6


def test_gradients_do_not_pile_up_from_batch_to_batch():
    """SGD-like check through Adam: with opposite gradients in turn, piled ones would be zero every other batch."""
    gradients = []

    class Recorder(Walker):
        def __init__(self):
            super().__init__()
            self.w.register_hook(lambda g: gradients.append(g.item()))

    signs = iter([1.0, -1.0, 1.0, -1.0])

    def alternate(module, x, rows, generator):
        return {"loss": next(signs) * module.w}

    module, _ = run(alternate, module=Recorder(), n=20, batch_size=5, max_epochs=1, validation_rows=[])
    assert gradients == [1, -1, 1, -1]
    # Adam by hand, lr 0.1: m / (1 - 0.9^t) is 1, -0.0526, 0.2989, -0.1397 (piled gradients would end elsewhere)
    steps, m = [], 0.0
    for t, g in enumerate([1, -1, 1, -1], start=1):
        m = 0.9 * m + 0.1 * g
        steps.append(-0.1 * m / (1 - 0.9**t))
    assert module.w.item() == pytest.approx(sum(steps), abs=1e-6)


def test_precision_is_that_of_the_products_only():
    types = {}

    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(1, 4)

    def objective(module, x, rows, generator):
        out = module.linear(x)
        types["product"], types["weight"] = out.dtype, module.linear.weight.dtype
        return {"loss": out.float().square().mean()}

    run(objective, module=Product(), max_epochs=1, precision=torch.bfloat16)
    assert types == {"product": torch.bfloat16, "weight": torch.float32}
    run(objective, module=Product(), max_epochs=1)
    assert types["product"] == torch.float32


def test_each_epoch_is_told_with_its_losses_and_the_network():
    told = []
    module, history = run(max_epochs=3, on_epoch=told.append)
    assert [epoch.number for epoch in told] == [1, 2, 3]
    assert pd.DataFrame([epoch.record for epoch in told]).to_numpy().tolist() == history.to_numpy().tolist()
    assert all(epoch.module is module for epoch in told)
    assert told[0].optimizer.state[module.w]["step"] == 3  # the last of three epochs of one batch


def test_what_a_watcher_raises_ends_the_training():
    class EnoughError(Exception):
        pass

    def watch(epoch):
        assert not epoch.module.training
        if epoch.number == 2:
            raise EnoughError

    module = Walker()
    with pytest.raises(EnoughError):
        run(module=module, max_epochs=50, on_epoch=watch)
    assert module.w.item() == pytest.approx(0.2)
