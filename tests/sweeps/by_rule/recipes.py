"""How to build and feed a small model of a type of ``transformers``, found by trying: ``recipe(model_type)``.

The sizes, the classes that the library lists for the type, and the inputs are tried in turn; the first that plain
PyTorch trains is the recipe. ``case(recipe)`` makes the same model and inputs as often as they are needed.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from sweeps.by_rule.inputs import BATCH, attempts
from sweeps.by_rule.sizes import WAYS, small
from sweeps.foreign import seed
from sweeps.models import _said
from sweeps.packages.case import Case, mean_square
from torch.utils import _pytree as pytree

PARAMETERS = 30_000_000  # of the largest model that is still small
MOST_IMAGES = 600
TOLERANCE = {torch.float64: 1e-8, torch.float32: 5e-4}
# what a model is trained for, the most usual first; the bare model comes last
TASKS = "SPEECH_SEQ_2_SEQ SEQ_TO_SEQ_CAUSAL_LM IMAGE_TEXT_TO_TEXT MASKED_LM CAUSAL_LM CTC IMAGE_CLASSIFICATION"
TASKS += " VIDEO_CLASSIFICATION AUDIO_CLASSIFICATION OBJECT_DETECTION UNIVERSAL_SEGMENTATION SEMANTIC_SEGMENTATION"
TASKS += " SEQUENCE_CLASSIFICATION TIME_SERIES_PREDICTION PRETRAINING"


class UntrainedError(Exception):
    """Nothing that was tried trains in plain PyTorch."""


@dataclass(frozen=True)
class Recipe:
    """Where among the things to try the first that trains stands.

    Attributes:
        images: how many tokens of each text stand for a picture or a sound.
    """

    model_type: str
    model_class: str
    task: str
    sizes: str
    attempt: int
    images: int = 0
    dtype: torch.dtype = torch.float64


def classes(model_type: str) -> Iterator[tuple[str, str]]:
    """``(task, name of a class)`` that the library lists for the type."""
    from transformers.models.auto import modeling_auto

    tables = {name: table for name, table in vars(modeling_auto).items() if re.match("MODEL_.*MAPPING_NAMES", name)}
    usual = [f"MODEL_FOR_{task}_MAPPING_NAMES" for task in TASKS.split()]
    rest = sorted(tables.keys() - set(usual) - {"MODEL_MAPPING_NAMES"})
    given = set()
    for task in [*usual, "MODEL_MAPPING_NAMES", *rest]:
        names = tables.get(task, {}).get(model_type)
        name = names[0] if isinstance(names, (list, tuple)) else names
        if name and name not in given:
            given.add(name)
            yield task, name


def recipe(model_type: str) -> Recipe:
    """The first that trains.

    Raises:
        UntrainedError: none does, and the last reason why.
    """
    reasons = []
    for sizes, (task, name) in itertools.product(WAYS, classes(model_type)):
        try:
            return _first(Recipe(model_type, name, task, sizes, 0))
        except Exception as error:
            reasons.append(f"{name}, {sizes}: {_said(error)}")
    raise UntrainedError("; ".join(reasons) or "the library lists no class of it that is trained")


def _first(at: Recipe) -> Recipe:
    """The first attempt of the model of ``at`` that trains."""
    with _default(at.dtype):
        model = _model(at)
        first: Exception | None = None
        for k, inputs in enumerate(attempts(model, at.task, at.images)):
            try:
                _train_once(model, _typed(inputs, at.dtype))
                return replace(at, attempt=k)
            except Exception as error:
                first = first or error
                counts = [] if at.images else _images(error, model)
                if counts:
                    return _any(replace(at, images=count) for count in counts)
    first = first or UntrainedError("no inputs")
    if at.dtype == torch.float64 and re.search(r"dtype|Double|Float|float", str(first)):
        return _first(replace(at, dtype=torch.float32))
    raise first


def case(at: Recipe) -> Case:
    """The model of ``at`` in train mode, its inputs and its loss."""
    with _default(at.dtype):
        seed(0)
        model = _model(at)
        inputs = next(itertools.islice(attempts(model, at.task, at.images), at.attempt, None))
    return Case(model, kwargs=_typed(inputs, at.dtype), loss=loss_of, tolerance=TOLERANCE[at.dtype], default=at.dtype)


def loss_of(output: Any) -> torch.Tensor:
    """The model's own loss, or one of all its results."""
    loss = getattr(output, "loss", None)
    return mean_square(output) if loss is None else loss.mean()


def _model(at: Recipe) -> torch.nn.Module:
    """
    Raises:
        UntrainedError: it is a large one.
    """
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = small(CONFIG_MAPPING[at.model_type], at.sizes)
    config._experts_implementation = "eager"  # grouped_mm has no float64 kernel
    model_class = getattr(transformers, at.model_class)
    with torch.device("meta"):
        count = sum(p.numel() for p in model_class(config).parameters())
    if count > PARAMETERS:
        raise UntrainedError(f"{count:,} parameters")
    return model_class(config).to(at.dtype).train()


def _train_once(model: torch.nn.Module, inputs: dict[str, Any]) -> None:
    """
    Raises:
        UntrainedError: no gradient arrives, or what arrives is not finite.
    """
    seed(0)
    model.zero_grad()
    loss = loss_of(model(**inputs))
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if not gradients or not any(g.any() for g in gradients):
        raise UntrainedError("no gradient arrives at a parameter")
    if not all(g.isfinite().all() for g in gradients if not g.is_sparse):
        raise UntrainedError("gradients are not finite")


def _typed(inputs: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return pytree.tree_map_only(torch.Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, inputs)


def _images(error: Exception, model: Any) -> list[int]:
    """How many tokens of each text may have to stand for a picture, where a model says that their number is wrong."""
    said = re.search(r"features\D{0,30}?(\d+)", str(error))
    if said is None or "token" not in str(error):
        return []
    width = getattr(model.config.get_text_config(), "hidden_size", 1)
    rows = int(said[1]) // BATCH  # or numbers, of which each row has as many as the model is wide
    return [count for count in (rows, rows // width) if 0 < count <= MOST_IMAGES]


def _any(choices: Iterator[Recipe]) -> Recipe:
    reasons: list[Exception] = []
    for at in choices:
        try:
            return _first(at)
        except Exception as error:
            reasons.append(error)
    raise reasons[0]


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
