"""Results that are constants to autograd, of operators that have others with a gradient.

Indices and masks; what a kernel saves for its backward kernel; and statistics that do depend on the arguments, but
through which autograd passes nothing: the mean that ``native_layer_norm`` returns, the norms of ``_weight_norm``. As
PyTorch has it: ``verify/audit.py`` reads that from its ``derivatives.yaml``, and a test compares.

Backward kernels take some of these as arguments. What autograd differentiates there is the kernel together with the
statistics: its derivative by x holds how they depend on x, however they came (``_OWN``).
"""

import torch

from memograd.rules.registry import constant_results, own_results

aten = torch.ops.aten

# Positions of constants -> the operators.
_CONSTANTS = {
    (0,): [aten.linalg_lu.default, aten.lu_unpack.default],
    (1,): [
        aten._ctc_loss.Tensor,
        aten._ctc_loss.default,
        aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams.default,
        aten._fused_dropout.default,
        aten._pack_padded_sequence.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        aten._thnn_fused_gru_cell.default,
        aten._weight_norm_interface.default,
        aten.adaptive_max_pool2d.default,
        aten.adaptive_max_pool3d.default,
        aten.cummax.default,
        aten.cummin.default,
        aten.fake_quantize_per_channel_affine_cachemask.default,
        aten.fake_quantize_per_tensor_affine_cachemask.default,
        aten.fractional_max_pool2d.default,
        aten.fractional_max_pool3d.default,
        aten.frexp.Tensor,
        aten.kthvalue.default,
        aten.linalg_cholesky_ex.default,
        aten.linalg_inv_ex.default,
        aten.log_sigmoid_forward.default,
        aten.max.dim,
        aten.max_pool2d_with_indices.default,
        aten.max_pool3d_with_indices.default,
        aten.median.dim,
        aten.min.dim,
        aten.mode.default,
        aten.multilabel_margin_loss_forward.default,
        aten.nanmedian.dim,
        aten.native_dropout.default,
        aten.nll_loss2d_forward.default,
        aten.nll_loss_forward.default,
        aten.rrelu_with_noise_functional.default,
        aten.sort.default,
        aten.sort.stable,
        aten.topk.default,
    ],
    (1, 2): [
        aten._linalg_det.default,
        aten._native_batch_norm_legit.default,
        aten._native_batch_norm_legit.no_stats,
        aten._native_batch_norm_legit_no_training.default,
        aten.linalg_lu_factor_ex.default,
        aten.native_batch_norm.default,
        aten.native_layer_norm.default,
    ],
    (1, 2, 3): [
        aten._batch_norm_no_update.default,
        aten._embedding_bag.default,
        aten._embedding_bag_forward_only.default,
        aten._linalg_solve_ex.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten.cudnn_batch_norm.default,
    ],
    (1, 2, 3, 4): [
        aten._native_batch_norm_legit_functional.default,
    ],
    (1, 2, 3, 4, 5): [
        aten._batch_norm_with_update_functional.default,
        aten._fused_moving_avg_obs_fq_helper_functional.default,
    ],
    (1, 2, 3, 4, 5, 6, 7, 8): [
        aten._scaled_dot_product_cudnn_attention.default,
        aten._scaled_dot_product_flash_attention.default,
    ],
    (2,): [
        aten._thnn_fused_lstm_cell.default,
    ],
    (2, 3): [
        aten._linalg_slogdet.default,
        aten.linalg_lstsq.default,
    ],
    (3,): [
        aten.mkldnn_rnn_layer.default,
    ],
    (3, 4): [
        aten._cudnn_rnn.default,
    ],
}

# Positions of mean and 1/σ among the arguments -> the backward kernels.
_OWN = {
    (3, 4): [aten.native_layer_norm_backward.default],
    (5, 6): [
        aten.batch_norm_backward.default,
        aten.cudnn_batch_norm_backward.default,
        aten.native_batch_norm_backward.default,
    ],
}

for _positions, _operators in _CONSTANTS.items():
    for _operator in _operators:
        constant_results(_operator, *_positions)
for _positions, _operators in _OWN.items():
    for _operator in _operators:
        own_results(_operator, *_positions)
