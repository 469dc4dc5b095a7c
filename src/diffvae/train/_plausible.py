"""Whether what a checkpoint says can be a training's: asked in full before anything of it is taken over."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffvae.train._state import State

MOMENTS = {"step", "exp_avg", "exp_avg_sq"}
"""What Adam knows of a parameter."""


def require_fit(state: State, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """Raise ValueError if a state can't have told these tensors and numbers; torch itself would take some and crash."""
    _require_numbers(numbers)
    batch, step, n_epochs = numbers["batch"], numbers["step"], len(numbers["records"])
    for name, value in tensors.items():
        _require(not value.is_floating_point() or bool(torch.isfinite(value).all()), f"{name} is not finite")

    weights = state.module.state_dict()
    _require_like(_under(tensors, "module."), weights, "module")
    best = _under(tensors, "best.")
    _require(bool(best) == (state.best.patience is not None and n_epochs > 0), "best has weights or lacks them")
    _require(bool(best) == math.isfinite(numbers["best"]["loss"]), "best has a loss without weights, or none")
    if best:
        _require_like(best, weights, "best")
    _require_moments(state, _under(tensors, "optimizer."), step)

    names = numbers["sums"]["names"]
    _require(("sums" in tensors) == (batch > 0), "sums are of no batch, or missing")
    _require(batch == 0 or tensors["sums"].shape == (len(names),), "sums has another shape")
    _require(("begun" in tensors) == (step > 0), "begun is of no batch, or missing")
    _require(step == 0 or tensors["begun"].shape == (), "begun has another shape")
    if state.noise is not None:
        torch.Generator(state.noise.device).set_state(tensors["noise"].clone())  # raises itself
    if state.order is not None:
        copy.deepcopy(state.order).bit_generator.state = numbers["order"]  # and so does this


def _require(fits: bool, what: str) -> None:
    if not fits:
        raise ValueError(what)


def _require_numbers(numbers: Mapping[str, Any]) -> None:
    """Raise unless the numbers are such, and agree with each other."""
    sums, best, records = numbers["sums"], numbers["best"], numbers["records"]
    wanted: dict[str, tuple[Any, Callable[[Any], bool]]] = {
        "epoch": (numbers["epoch"], lambda v: _is_count(v, 1)),
        "batch": (numbers["batch"], _is_count),
        "step": (numbers["step"], lambda v: _is_count(v, numbers["batch"] + numbers["epoch"] - 1)),
        "finished": (numbers["finished"], lambda v: isinstance(v, bool)),
        "records": (records, lambda v: isinstance(v, list) and len(v) == numbers["epoch"] - 1),
        "sums.names": (sums["names"], lambda v: isinstance(v, list) and all(isinstance(name, str) for name in v)),
        "sums.n_cells": (sums["n_cells"], lambda v: _is_count(v, 1 if numbers["batch"] else 0)),
        "best.loss": (best["loss"], lambda v: _is_number(v) and (math.isfinite(v) or v == math.inf)),
        "best.waited": (best["waited"], lambda v: _is_count(v) and v < numbers["epoch"]),
    }
    for name, (value, fits) in wanted.items():
        _require(fits(value), f"{name} is {str(value)[:40]}")
    _require(numbers["epoch"] > 1 or numbers["step"] == numbers["batch"], f"step is {numbers['step']}")
    for record in records:
        # epochs may tell different things: links are not watched in each
        is_record = isinstance(record, dict) and "train_loss" in record
        sound = is_record and all(_is_number(v) and math.isfinite(v) for v in record.values())
        _require(sound, f"records has {str(record)[:40]}")


def _is_count(value: Any, least: int = 0) -> bool:
    return type(value) is int and value >= least


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _require_like(found: Mapping[str, Tensor], own: Mapping[str, Tensor], what: str) -> None:
    _require(found.keys() == own.keys(), f"{what} has other names")
    for name, value in found.items():
        same = value.shape == own[name].shape and value.dtype == own[name].dtype
        _require(same, f"{what}.{name} has another shape or type")


def _require_moments(state: State, found: Mapping[str, Tensor], step: int) -> None:
    """Raise unless each parameter has all that Adam knows of it, or nothing because it never had a gradient."""
    parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
    numbers = {name.partition(".")[0] for name in found}
    unknown = numbers - set(map(str, range(len(parameters))))
    _require(not unknown, f"optimizer has {sorted(unknown)} of {len(parameters)} parameters")
    _require(bool(numbers) == (step > 0), "optimizer is of no step, or missing")
    for i in numbers:
        moments = _under(found, f"{i}.")
        _require(moments.keys() == MOMENTS, f"optimizer.{i} has other names")
        own = parameters[int(i)]
        _require_like(moments, {"exp_avg": own, "exp_avg_sq": own, "step": torch.zeros(())}, f"optimizer.{i}")
