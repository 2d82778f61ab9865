"""A model that is trained as if it were used: ``model.eval()`` was said, and ``model.train()`` was not."""

from __future__ import annotations

from torch import nn

from memograd.doctor.report import Finding
from memograd.findings import listed


def mode(f: object) -> list[Finding]:
    """One finding where the whole model is in eval mode and some layer of it does another thing then.

    Where only parts are (frozen normalisations of a model that is being fine-tuned), somebody has chosen that.
    """
    if not isinstance(f, nn.Module) or f.training:
        return []
    layers = {name: m for name, m in f.named_modules() if _differs(m)}
    if not layers or any(m.training for m in layers.values()):
        return []
    what = f"the model is in eval mode, in which {listed(tuple(layers))} {'does' if len(layers) == 1 else 'do'} "
    what += "something else than in training: no dropout, statistics that are no longer updated"
    evidence = tuple(dict.fromkeys(f"{type(m).__name__}: {_said(m)}" for m in layers.values()))
    fix = "model.train() before each epoch of training, behind every model.eval()"
    return [Finding("warning", "eval mode", what, evidence=evidence, fix=fix, names=tuple(layers))]


def _differs(m: nn.Module) -> bool:
    if isinstance(m, nn.modules.dropout._DropoutNd):
        return m.p > 0
    return isinstance(m, nn.modules.batchnorm._NormBase) and m.track_running_stats


def _said(m: nn.Module) -> str:
    if isinstance(m, nn.modules.dropout._DropoutNd):
        return "nothing is dropped"
    return "running statistics stand for those of the batch"
