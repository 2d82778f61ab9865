"""Methods of peft on a small Llama: adapters, prompts, and weights that are made from few numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .case import Case

TARGETS = {"target_modules": ["q_proj", "v_proj"]}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "LoRA": ("LoraConfig", {"r": 4, "lora_dropout": 0.1, **TARGETS}),
    "LoRA, rank-stabilised": ("LoraConfig", {"r": 4, "use_rslora": True, **TARGETS}),
    "DoRA": ("LoraConfig", {"r": 4, "use_dora": True, "lora_dropout": 0.1, **TARGETS}),
    "PiSSA": ("LoraConfig", {"r": 4, "init_lora_weights": "pissa", **TARGETS}),
    "OLoRA": ("LoraConfig", {"r": 4, "init_lora_weights": "olora", **TARGETS}),
    "LoRA with embeddings and biases": (
        "LoraConfig",
        {"r": 4, "target_modules": ["q_proj", "embed_tokens"], "bias": "all"},
    ),
    "LoRA, some tokens": ("LoraConfig", {"r": 4, "trainable_token_indices": [3, 5], **TARGETS}),
    "AdaLoRA": ("AdaLoraConfig", {"init_r": 4, "target_r": 2, "total_step": 10, **TARGETS}),
    "LoHa": ("LoHaConfig", {"r": 4, "module_dropout": 0.1, "rank_dropout": 0.1, **TARGETS}),
    "LoKr": ("LoKrConfig", {"r": 4, "module_dropout": 0.1, "rank_dropout": 0.1, **TARGETS}),
    "OFT": ("OFTConfig", {"oft_block_size": 8, "r": 0, "module_dropout": 0.1, **TARGETS}),
    "OFT, exact Cayley": ("OFTConfig", {"oft_block_size": 8, "r": 0, "use_cayley_neumann": False, **TARGETS}),
    "BOFT": ("BOFTConfig", {"boft_block_size": 8, "boft_n_butterfly_factor": 1, "boft_dropout": 0.1, **TARGETS}),
    "HRA": ("HRAConfig", {"r": 4, **TARGETS}),
    "IA3": ("IA3Config", {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}),
    "VeRA": ("VeraConfig", {"r": 4, "vera_dropout": 0.1, **TARGETS}),
    "VB-LoRA": ("VBLoRAConfig", {"r": 4, "num_vectors": 8, "vector_length": 8, "topk": 2, **TARGETS}),
    "FourierFT": ("FourierFTConfig", {"n_frequency": 20, **TARGETS}),
    "WaveFT": ("WaveFTConfig", {"n_frequency": 20, **TARGETS}),
    "RandLoRA": ("RandLoraConfig", {"r": 4, **TARGETS}),
    "C3A": ("C3AConfig", {"block_size": 8, **TARGETS}),
    "SHiRA": ("ShiraConfig", {"r": 4, **TARGETS}),
    "MiSS": ("MissConfig", {"r": 4, **TARGETS}),
    "RoAd": ("RoadConfig", {"group_size": 8, **TARGETS}),
    "GraLoRA": ("GraloraConfig", {"r": 4, "gralora_k": 2, **TARGETS}),
    "DeLoRA": ("DeloraConfig", {"r": 4, **TARGETS}),
    "Layer norm tuning": ("LNTuningConfig", {"target_modules": ["input_layernorm", "norm"]}),
    "Trainable tokens": ("TrainableTokensConfig", {"token_indices": [3, 5], "target_modules": ["embed_tokens"]}),
    "Poly": ("PolyConfig", {"r": 4, "n_tasks": 2, "n_skills": 2, "n_splits": 2, **TARGETS}),
    "HiRA": ("HiraConfig", {"r": 4, **TARGETS}),
    "TinyLoRA": ("TinyLoraConfig", {"r": 2, **TARGETS}),
    "UniLoRA": ("UniLoraConfig", {"r": 4, **TARGETS}),
    "PSOFT": ("PsoftConfig", {"r": 4, **TARGETS}),
    "PVeRA": ("PveraConfig", {"r": 4, **TARGETS}),
    "Lily": ("LilyConfig", {"r": 4, **TARGETS}),
    "GLoRA": ("GloraConfig", {"r": 4, **TARGETS}),
    "OSF": ("OSFConfig", {"effective_rank": 4, **TARGETS}),
    "Prompt tuning": ("PromptTuningConfig", {"num_virtual_tokens": 4}),
    "Prefix tuning": ("PrefixTuningConfig", {"num_virtual_tokens": 4}),
    "Prefix tuning, projected": (
        "PrefixTuningConfig",
        {"num_virtual_tokens": 4, "prefix_projection": True, "encoder_hidden_size": 8},
    ),
    "P-tuning": ("PromptEncoderConfig", {"num_virtual_tokens": 4, "encoder_hidden_size": 8}),
    "Adaption prompt": ("AdaptionPromptConfig", {"adapter_len": 4, "adapter_layers": 1}),
    "CPT": ("CPTConfig", {"cpt_token_ids": [3, 4, 5], "cpt_mask": [1, 1, 1], "cpt_tokens_type_mask": [1, 2, 3]}),
    "Multitask prompt tuning": (
        "MultitaskPromptTuningConfig",
        {"num_virtual_tokens": 4, "num_tasks": 2, "num_ranks": 1},
    ),
}


def _model(name: str) -> Case:
    import peft
    import transformers

    kind, options = METHODS[name]
    config = transformers.LlamaConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=37,
        max_position_embeddings=32,
        attention_dropout=0.1,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    base = transformers.LlamaForCausalLM(config)
    ids = torch.randint(3, 37, (2, 8))
    batch = {"input_ids": ids, "labels": ids.clone()}
    if kind in ("PolyConfig", "MultitaskPromptTuningConfig"):
        batch["task_ids"] = torch.tensor([0, 1])
    task = {"task_type": "CAUSAL_LM"}
    model = peft.get_peft_model(base, getattr(peft, kind)(**task, **options))
    return Case(model.double().train(), kwargs=batch, loss=lambda out: out.loss)


MODELS: dict[str, Callable[[], Case]] = {name: lambda name=name: _model(name) for name in METHODS}
