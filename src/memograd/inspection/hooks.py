"""Hooks: which there are, and what becomes of them. (Those that nothing can be made of end the capture.)"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from memograd._torch import has_hooks, hooks_by_kind
from memograd.findings import listed
from memograd.inspection.parameters import modules_of
from memograd.inspection.report import Finding
from memograd.tracing.backward import source_of

_BECOME = {
    "forward_pre_hooks": "it runs, and is part of the graph",
    "forward_hooks": "it runs, and is part of the graph",
    "backward_pre_hooks": "it is part of the graph where it changes gradients, and called where it only looks",
    "backward_hooks": "it is part of the graph where it changes gradients, and called where it only looks",
}


def hooks(f: Callable[..., Any]) -> list[Finding]:
    """A note about each hook of the modules and parameters of ``f``."""
    findings: list[Finding] = []
    waiting: list[str] = []
    for top, root in modules_of(f).items():
        for path, module in root.named_modules(prefix=top):
            for kind, hook in hooks_by_kind(module):
                findings.append(_about(kind, hook, path))
        waiting += [n for n, p in root.named_parameters(prefix=top) if has_hooks(p)]
    findings += [_about(kind, hook, None) for kind, hook in hooks_by_kind(None)]
    if waiting:
        what = f"gradients of {listed(waiting)} have hooks, which loss.backward() of a wrapped model calls as ever"
        findings.append(Finding("note", "hook", what, names=tuple(waiting)))
    return findings


def _about(kind: str, hook: Any, path: str | None) -> Finding:
    name = getattr(hook, "__qualname__", type(hook).__name__)
    of = "of every module there is" if path is None else "of this module"
    own = f"{kind.replace('_', ' ').removesuffix('s')} {name} {of}"
    return Finding("note", "hook", f"{own}: {_BECOME[kind]}", module=path or "", source=source_of(hook), line=name)
