"""The derivative table against PyTorch's own (``derivatives.yaml``, which the wheel ships): what has a rule, what does
not need one, and what is missing, and why.

Nothing here is judged by hand except the reasons in ``MISSING``, and a test holds that list to what is found.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from memograd._torch import is_composite, schema_of
from memograd.errors import CaptureError, MemogradError
from memograd.rules.registry import lookup
from memograd.tracing.mutation import functional_twin

SPARSE = "of sparse tensors graphs hold COO ones, made of indices and values or given: use x.to_dense() here"
NESTED = "graphs hold dense (strided) tensors: nested ones are refused at capture, pad them"
MKLDNN = "works on oneDNN's opaque memory layout, which capture refuses"
BELOW = "a kernel that PyTorch picks below the operator in the graph, which has a rule (convolution, index_put, ...)"
DIRECT = "no public function calls it on a CPU or CUDA device; what they call instead has a rule"
DEVICE = "runs on devices that these rules were never tried on (ROCm, MPS, cuDNN's CTC loss)"
PINNED = "tensors without data cannot be pinned; pin them outside of the program"
FRESH = "never in a graph: tensors that a program makes of numbers are recorded as copies, new at each run"
UNEXPLAINED = "nobody has said why"
INTERNAL = "for PyTorch's own tests"

# Operators with a derivative in PyTorch and none here.
MISSING: dict[str, str] = {
    SPARSE: """
        _to_sparse.sparse_dim _to_sparse _to_sparse_csr _to_sparse_csc _to_sparse_bsr _to_sparse_bsc sparse_mask
        sparse_compressed_tensor.comp_plain_value_size _sparse_sum.dim values _sparse_log_softmax _sparse_softmax
        _sparse_sparse_matmul sparse_sampled_addmm _sparse_mm_reduce_impl""",
    NESTED: """
        _nested_tensor_from_tensor_list _nested_tensor_from_mask _nested_from_padded to_padded_tensor
        _nested_from_padded_tensor _nested_view_from_buffer _nested_view_from_jagged _nested_get_values""",
    MKLDNN: """
        to_mkldnn mkldnn_linear mkldnn_max_pool2d mkldnn_max_pool3d mkldnn_adaptive_avg_pool2d _mkldnn_reshape""",
    BELOW: """
        _mps_convolution mps_convolution_backward convolution_overrideable convolution_backward_overrideable
        slow_conv_transpose2d slow_conv_transpose3d _slow_conv2d_forward _slow_conv2d_backward.output_mask
        _conv_depthwise2d conv_depthwise3d slow_conv3d_forward slow_conv_dilated2d slow_conv_dilated3d
        cudnn_convolution_transpose _mps_convolution_transpose cudnn_convolution _nnpack_spatial_convolution
        miopen_convolution_transpose miopen_convolution miopen_depthwise_convolution mkldnn_convolution
        _grid_sampler_2d_cpu_fallback _grid_sampler_2d_cpu_fallback_backward _index_put_impl_""",
    DIRECT: """
        _convolution _batch_norm_with_update cudnn_affine_grid_generator
        _flash_attention_forward _efficient_attention_forward _cudnn_attention_forward""",
    DEVICE: """
        _cudnn_ctc_loss _cudnn_ctc_loss.Tensor _lstm_mps linear_backward max_pool2d_backward miopen_batch_norm
        miopen_batch_norm_backward miopen_rnn miopen_ctc_loss miopen_ctc_loss.Tensor
        _scaled_dot_product_fused_attention_overrideable""",
    FRESH: "lift_fresh",
    PINNED: "_pin_memory",
    INTERNAL: """
        _test_warn_in_autograd _test_autograd_multiple_dispatch.fullcoverage _test_autograd_multiple_dispatch_view""",
}


@dataclass(frozen=True)
class Finding:
    """One line of ``derivatives.yaml`` and what becomes of it here.

    Attributes:
        target: the operator.
        status: ``covered`` (the table has an entry), ``rewritten`` (it arrives as other operators), ``no derivative``
            (autograd has none either) or ``missing``.
        why: how it is covered, or what it is rewritten to, or why it is missing.
    """

    target: Any
    status: str
    why: str

    @property
    def core(self) -> bool:
        """In PyTorch's core operator set, to which every program can be reduced."""
        return torch.Tag.core in self.target.tags


def audit() -> list[Finding]:
    """Every operator of ``derivatives.yaml``, in its order."""
    reasons = {operator(name): why for why, names in MISSING.items() for name in names.split()}
    return [_find(target, line, reasons) for target, line in table()]


def summary(findings: list[Finding]) -> dict[str, int]:
    """How many findings of each status."""
    return dict(Counter(f.status for f in findings))


def table() -> list[tuple[Any, dict[str, Any]]]:
    """``derivatives.yaml`` as (operator, its line)."""
    try:
        import yaml
    except ImportError as error:
        raise MemogradError("reading PyTorch's derivatives.yaml needs PyYAML: pip install pyyaml") from error
    spec = find_spec("torchgen")
    folders = spec.submodule_search_locations if spec is not None else None
    path = Path(*(folders or ())[:1]) / "packaged" / "autograd" / "derivatives.yaml"
    if not path.exists():
        raise MemogradError(f"this PyTorch does not ship derivatives.yaml (looked in {path})")
    lines = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return [(operator(line["name"]), line) for line in lines]


def formulas(line: dict[str, Any]) -> list[str]:
    """The derivatives a line states, one for each input (or group of inputs) that has one."""
    dispatch = line.get("dispatch", {"Default": line})
    texts = []
    for entry in dispatch.values():
        for name, formula in entry.items():
            forward_mode = name.startswith("result") or name == "output_differentiability"
            if name not in ("name", "dispatch") and not forward_mode and "not_implemented" not in str(formula):
                texts.append(str(formula))
    return [f for f in texts if f != "non_differentiable"]


def differentiable(target: Any, line: dict[str, Any]) -> list[bool]:
    """Which results of an operator carry a gradient: what its line says, or all; but where a formula speaks of ``grad``
    and not of ``grads[i]`` there is one gradient, that of the first. So PyTorch's own generator of code reads it."""
    stated = line.get("output_differentiability")
    if stated is not None:
        return [bool(s) for s in stated]  # a condition (of ``_to_copy``, on the dtype) is true where it matters
    count = len(schema_of(target).returns)
    single = any(re.search(r"(?<!\w)grad(?!\w)", formula) for formula in formulas(line))
    return [k == 0 or not single for k in range(count)]


def _find(target: Any, line: dict[str, Any], reasons: dict[Any, str]) -> Finding:
    entry = lookup(target)
    if entry is not None:
        return Finding(target, "covered", entry.kind)
    if not formulas(line):
        return Finding(target, "no derivative", "autograd has none either")
    if target in reasons:
        return Finding(target, "missing", reasons[target])
    if is_composite(target):
        return Finding(target, "rewritten", "to the operators it is composed of")
    twin = _twin(target)
    if twin is not None and lookup(twin) is not None:
        return Finding(target, "rewritten", f"to {twin}, and a new value of what it writes to")
    return Finding(target, "missing", UNEXPLAINED)


def _twin(target: Any) -> Any:
    try:
        return functional_twin(target)
    except CaptureError:
        return None


def operator(declaration: str) -> Any:
    """The operator declared as ``namespace::name.overload(...)``."""
    name, _, overload = declaration.split("(")[0].partition(".")
    return getattr(getattr(torch.ops.aten, name.removeprefix("aten::")), overload or "default")
