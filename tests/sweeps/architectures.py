"""Small models of ``transformers``, built from config classes: a name and sizes each, nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 37}
SIZES |= {"max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = SIZES | {"num_key_value_heads": 1, "head_dim": 8}
EXPERTS = GROUPED | {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
GPT = {
    "n_embd": 16,
    "n_layer": 1,
    "n_head": 2,
    "n_positions": 32,
    "vocab_size": 37,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
PAIR = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "vocab_size": 37}
PAIR |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 32}
PAIR |= {
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
}
T5 = {
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 1,
    "num_heads": 2,
    "vocab_size": 37,
    "decoder_start_token_id": 0,
}
IMAGE = {k: v for k, v in SIZES.items() if k.startswith(("hidden", "num", "inter"))} | {
    "image_size": 16,
    "patch_size": 8,
}

WIDE = SIZES | {"embedding_size": 16}
SQUEEZED = dict.fromkeys(("q_groups", "k_groups", "v_groups", "intermediate_groups", "output_groups"), 2)
STAGES = {"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}
RECURRENT = {"hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 37}


def named(names: str, sizes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return dict.fromkeys(names.split(), sizes)


DECODERS = (
    named("Llama Mistral Qwen2 Qwen3 Gemma Gemma2 Phi3 Starcoder2 Olmo Olmo2 Cohere Granite Glm Helium", GROUPED)
    | named("Nemotron SmolLM3 StableLm", GROUPED)
    | named("Mixtral Qwen2Moe Olmoe Phimoe", EXPERTS)
    | named("Phi Persimmon BioGpt Falcon", SIZES)
    | named("GPT2 OpenAIGPT", GPT)
    | named("GPTJ", GPT | {"rotary_dim": 4})
    | named("CodeGen", GPT | {"n_head": 4, "rotary_dim": 4})
    | named("GPTNeoX", SIZES | {"rotary_pct": 0.5})
    | named("Bloom", SIZES | {"n_head": 2, "n_layer": 1})
    | named("OPT", SIZES | {"ffn_dim": 32, "word_embed_proj_dim": 16})
    | named("XGLM", {"d_model": 16, "num_layers": 1, "attention_heads": 2, "ffn_dim": 32, "vocab_size": 37})
    | named("Mpt", {"d_model": 16, "n_heads": 2, "n_layers": 1, "vocab_size": 37})
    | named("Mamba", RECURRENT | {"state_size": 4, "time_step_rank": 2})
    | named("Rwkv", RECURRENT | {"num_hidden_layers": 2, "attention_hidden_size": 16, "context_length": 16})
    | named("RecurrentGemma", GROUPED | {"num_hidden_layers": 3, "lru_width": 16, "attention_window_size": 8})
)
MASKED = (
    named("Bert Roberta Deberta DebertaV2 MPNet FNet MegatronBert Camembert XLMRoberta ModernBert Ernie", SIZES)
    | named("Nystromformer", SIZES)
    | named("Electra ConvBert RoFormer", WIDE)
    | named("Albert", SIZES | {"embedding_size": 8})
    | named("SqueezeBert", WIDE | SQUEEZED)
    | named("DistilBert", {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32, "vocab_size": 37})
)
PAIRS = named("Bart MBart Pegasus Blenderbot", PAIR) | named("T5 MT5 UMT5", T5)
IMAGES = (
    named("ViT DeiT Dinov2 Beit ViTMSN", IMAGE)
    | named("ConvNext", STAGES | {"patch_size": 2, "image_size": 32})
    | named("PoolFormer", STAGES)
    | named("ResNet", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]})
    | named("RegNet", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 4})
    | named("MobileNetV2", {"image_size": 32, "depth_multiplier": 0.25})
)
KINDS = [
    (DECODERS, "ForCausalLM", "text"),
    (MASKED, "ForMaskedLM", "text"),
    (PAIRS, "ForConditionalGeneration", "text"),
    (IMAGES, "ForImageClassification", "image"),
]
ATTENTIONS = ("sdpa", "eager")
OTHERWISE = {"GPT2": "GPT2LMHeadModel", "OpenAIGPT": "OpenAIGPTLMHeadModel", "XLMRoberta": "XLMRobertaForMaskedLM"}


def catalog() -> dict[str, tuple[str, str, dict[str, Any], str]]:
    """Every architecture by name: config class, model class, sizes, kind of batch."""
    return {
        name: (f"{name}Config", OTHERWISE.get(name, name + suffix), sizes, batch)
        for table, suffix, batch in KINDS
        for name, sizes in table.items()
    }


def build(name: str, dropout: bool, attention: str = "sdpa") -> tuple[torch.nn.Module, dict[str, Any]]:
    """The model in float64 and train mode, and a batch with labels; models without sdpa are eager either way.

    Raises:
        AttributeError: this version of transformers has no such model.
    """
    import transformers

    config_class, model_class, sizes, batch = catalog()[name]
    config = getattr(transformers, config_class)(**sizes)
    model_type = getattr(transformers, model_class)
    config._attn_implementation = attention if getattr(model_type, "_supports_sdpa", False) else "eager"
    config._experts_implementation = "eager"  # grouped_mm has no float64 kernel
    for key, value in list(vars(config).items()):
        if not dropout and "drop" in key and isinstance(value, float):
            setattr(config, key, 0.0)
    torch.manual_seed(0)
    model = model_type(config).double().train()
    generator = torch.Generator().manual_seed(1)
    if batch == "image":
        pixels = torch.randn(2, 3, *[getattr(config, "image_size", 32)] * 2, generator=generator, dtype=torch.float64)
        return model, {"pixel_values": pixels, "labels": torch.tensor([0, 1])}
    ids = torch.randint(3, 37, (2, 8), generator=generator)
    return model, {"input_ids": ids, "labels": ids.clone()}
