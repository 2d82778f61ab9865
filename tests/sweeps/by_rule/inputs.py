"""Inputs for a model by the names of its ``forward``'s arguments, and a loss: ``attempts(model, task)``.

Each name is made in the shapes that models take it in (sound as samples or as a spectrogram, a picture or a film), and
the attempts are tried one after another, the most complete one first, until plain PyTorch trains with one.
"""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from sweeps.by_rule.sizes import PATCH, SIDE, SPECIAL, VOCABULARY, WIDTH

Tensor = torch.Tensor
BATCH, LENGTH, FRAMES, SAMPLES = 2, 12, 32, 1600
LIMIT = 16  # attempts a model
OPTIONAL = (
    "attention_mask",
    "mm_token_type_ids",
    "labels",
    "pixel_values",
    "input_features",
    "input_values",
    "input_ids",
    "bbox",
)


def attempts(model: Any, task: str, images: int = 0) -> Iterator[dict[str, Any]]:
    """Keyword arguments for ``model``, those that train more of it first.

    Args:
        task: the name of the mapping that the model's class is in, which says what its labels are.
        images: how many tokens of each text stand for a picture or a sound.
    """
    parameters = inspect.signature(type(model).forward).parameters
    named = {p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"}
    required = {name for name in named if parameters[name].default is inspect.Parameter.empty}
    main = {model.main_input_name} & named
    tensors = Inputs(model.config, task, images)
    extra = [name for name in OPTIONAL if name in named and name not in required | main]
    if "decoder_input_ids" in named and "labels" not in named:
        required.add("decoder_input_ids")
    chosen = [required | main | set(extra), required | main | ({"labels"} & named), required | main]
    if "pixel_values" in named and "input_ids" in named:
        chosen.insert(1, required | main | (set(extra) - {"pixel_values", "input_features", "input_values"}))
    given: list[set[str]] = []
    for names in chosen:
        if names in given:
            continue
        given.append(names)
        ways = [tensors.ways(name, named) for name in sorted(names)]
        for way in itertools.islice(itertools.product(*ways), LIMIT):
            yield {name: value for part in way for name, value in part.items()}


class Inputs:
    """Tensors by name, for a configuration.

    Attributes:
        images: how many tokens of a text stand for a picture or a sound.
    """

    def __init__(self, config: Any, task: str, images: int = 0) -> None:
        self.config, self.task, self.images = config, task, images
        self.generator = torch.Generator().manual_seed(1)

    def number(self, *names: str, default: int) -> int:
        """The first of ``names`` that the configuration has, or one of its parts."""
        for config in _parts(self.config):
            for name in names:
                value = vars(config).get(name)
                value = value[0] if isinstance(value, (list, tuple)) and value else value
                if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                    return value
        return default

    def ways(self, name: str, named: set[str]) -> list[dict[str, Any]]:
        """The argument ``name`` in the shapes that models take it in, with what it needs beside it."""
        make = getattr(self, f"_{name}", None)
        if make is not None:
            return make(named)
        if name == "labels":
            return [{"labels": value} for value in self.labels()]
        if name.endswith("input_ids"):
            return [{name: self.tokens()}]
        if name.endswith("_mask"):
            return [{name: torch.ones(BATCH, LENGTH, dtype=torch.long)}]
        return [{}]

    def tokens(self, length: int = LENGTH) -> Tensor:
        vocabulary = self.number("vocab_size", "text_vocab_size", default=VOCABULARY)
        return torch.randint(min(SPECIAL, vocabulary // 2), vocabulary, (BATCH, length), generator=self.generator)

    def floats(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def labels(self) -> list[Any]:
        classes = torch.tensor([0, 1])
        side = self.number("image_size", default=SIDE)
        if re.search("OBJECT_DETECTION|INSTANCE|UNIVERSAL", self.task):
            boxes = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.3, 0.3, 0.2, 0.2]], dtype=torch.float64)
            return [[{"class_labels": classes, "boxes": boxes} for _ in range(BATCH)]]
        if "SEMANTIC" in self.task:
            return [torch.randint(0, 2, (BATCH, side, side), generator=self.generator)]
        if re.search("SEQUENCE_CLASS|IMAGE_CLASS|VIDEO_CLASS|AUDIO_CLASS|XVECTOR", self.task):
            return [classes]
        if "DEPTH" in self.task:
            return []
        return [self.tokens(5)] if re.search("CTC|SPEECH|RNNT|TDT", self.task) else [self.tokens(LENGTH + self.images)]

    def _input_ids(self, named: set[str]) -> list[dict[str, Any]]:
        ids = self.tokens()
        marks = [vars(c).get(name) for c in _parts(self.config) for name in vars(c) if _MARK.search(name)]
        mark = next((m for m in marks if isinstance(m, int)), None)
        if self.images and mark is not None:
            ids = torch.cat([ids[:, :2], torch.full((BATCH, self.images), mark), ids[:, 2:]], 1)
        return [{"input_ids": ids}]

    def _mm_token_type_ids(self, named: set[str]) -> list[dict[str, Any]]:
        kinds = torch.zeros(BATCH, LENGTH + self.images, dtype=torch.long)
        kinds[:, 2 : 2 + self.images] = 1  # the pictures
        return [{"mm_token_type_ids": kinds}]

    def _attention_mask(self, named: set[str]) -> list[dict[str, Any]]:
        if "input_ids" not in named:
            return [{}]
        mask = torch.ones(BATCH, LENGTH + self.images, dtype=torch.long)
        mask[1, -2:] = 0
        return [{"attention_mask": mask}, {}]

    def _pixel_values(self, named: set[str]) -> list[dict[str, Any]]:
        side, channels = self.number("image_size", default=SIDE), self.number("num_channels", "in_channels", default=3)
        frames = self.number("num_frames", "frames_per_clip", default=2)
        picture = {"pixel_values": self.floats(BATCH, channels, side, side)}
        film = {"pixel_values": self.floats(BATCH, frames, channels, side, side)}
        grid = next((name for name in ("image_grid_thw", "grid_thw") if name in named), None)
        if grid is not None:
            return [self._patches("pixel_values", grid, channels), picture, film]
        return [picture, film, {"pixel_values": self.floats(BATCH, channels, 2 * SIDE, 2 * SIDE)}]

    def _hidden_states(self, named: set[str]) -> list[dict[str, Any]]:
        channels = self.number("in_channels", "num_channels", default=3)
        return [self._patches("hidden_states", "grid_thw", channels)]

    def _grid_thw(self, named: set[str]) -> list[dict[str, Any]]:
        return [{}]  # comes with the patches

    def _patches(self, name: str, grid: str, channels: int) -> dict[str, Any]:
        """Pictures of four by four patches, each a row, and how they lie."""
        size = self.number("patch_size", default=PATCH)
        values = channels * self.number("temporal_patch_size", default=1) * size * size
        return {name: self.floats(BATCH * 16, values), grid: torch.tensor([[1, 4, 4]] * BATCH)}

    def _pixel_values_videos(self, named: set[str]) -> list[dict[str, Any]]:
        side, frames = self.number("image_size", default=SIDE), self.number("num_frames", "frames_per_clip", default=2)
        return [{"pixel_values_videos": self.floats(BATCH, frames, 3, side, side)}]

    def _input_values(self, named: set[str]) -> list[dict[str, Any]]:
        bins, length = (
            self.number("num_mel_bins", "feature_size", default=WIDTH),
            self.number("max_length", default=FRAMES),
        )
        shapes = [(BATCH, SAMPLES), (BATCH, 1, SAMPLES), (BATCH, length, bins), (BATCH, 8 * SAMPLES)]
        return [{"input_values": self.floats(*shape)} for shape in shapes]

    def _input_features(self, named: set[str]) -> list[dict[str, Any]]:
        names = ("num_mel_bins", "feature_size", "n_mels", "input_dim", "input_feat_size", "input_feat_per_channel")
        bins = self.number(*names, default=WIDTH)
        length = 2 * self.number("max_source_positions", default=FRAMES)
        bare = [{"input_features": self.floats(BATCH, *shape)} for shape in ((bins, length), (length, bins))]
        mask = next((n for n in ("input_features_mask", "feature_attention_mask") if n in named), None)
        if mask is None:
            return bare
        return [way | {mask: torch.ones(BATCH, length, dtype=torch.long)} for way in bare] + bare

    def _bbox(self, named: set[str]) -> list[dict[str, Any]]:
        corners = torch.tensor([1, 2, 5, 7])
        return [{"bbox": corners.expand(BATCH, LENGTH, 4).contiguous()}]

    def _past_values(self, named: set[str]) -> list[dict[str, Any]]:
        length = self.number("context_length", default=LENGTH)
        channels = self.number("num_input_channels", default=1)
        if "past_time_features" not in named:
            future = self.floats(BATCH, self.number("prediction_length", default=4), channels)
            more = {"future_values": future} if "future_values" in named else {}
            return [{"past_values": self.floats(BATCH, length, channels)} | more]
        lags = max(getattr(self.config, "lags_sequence", [0]))
        past, ahead = length + lags, self.number("prediction_length", default=4)
        features = self.number("num_time_features", default=0)
        return [
            {
                "past_values": self.floats(BATCH, past),
                "past_time_features": self.floats(BATCH, past, features),
                "past_observed_mask": torch.ones(BATCH, past, dtype=torch.float64),
                "future_values": self.floats(BATCH, ahead),
                "future_time_features": self.floats(BATCH, ahead, features),
            }
        ]

    def _past_time_features(self, named: set[str]) -> list[dict[str, Any]]:
        return [{}]  # comes with the past values

    _past_observed_mask = _past_time_features


_MARK = re.compile(r"^(image|audio|speech|im_patch|image_patch)_token_(id|index)$")


def _parts(config: Any) -> Iterator[Any]:
    """The configuration, that of its text, and the others."""
    yield config
    parts = [value for value in vars(config).values() if hasattr(value, "model_type")]
    for part in sorted(parts, key=lambda part: part is not _text(config)):
        yield from _parts(part)


def _text(config: Any) -> Any:
    get: Callable[[], Any] | None = getattr(config, "get_text_config", None)
    return get() if get is not None else None
