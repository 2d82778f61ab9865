"""What the models of diffusers share."""

from __future__ import annotations

from typing import Any

import torch

from .case import Case

TIME = torch.tensor([3, 700])


def diffusion(kind: str, config: dict[str, Any], *args: Any, **kwargs: Any) -> Case:
    """A model of diffusers by the name of its class."""
    import diffusers

    model = getattr(diffusers, kind)(**config)
    return Case(model.double().train(), args, kwargs)
