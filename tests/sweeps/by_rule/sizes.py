"""Small configurations of ``transformers`` by the names of their fields: ``small(config_class, how)``.

Names say what a number is: a width, a count of layers or heads, the size of a vocabulary. Two models that were not
thought of here name theirs alike, so there is no table of models. Where a small width does not fit (a model that
divides it in its own way), ``wider`` has eight times as much, and ``shallow`` makes only fewer of what is repeated.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

WAYS = ("small", "wider", "shallow", "as it is")
VOCABULARY, SPECIAL = 96, 32  # tokens below SPECIAL are for the special ones: padding, images, the beginning
WIDTH, HEADS, HEAD, POSITIONS, PATCH, SIDE = 32, 2, 16, 64, 16, 64

# the first pattern that a field's name matches says its largest value; None leaves it
REPEATED: list[tuple[str, int | None]] = [
    (r"vocab(_size)?$|vocab_size|^num_embeds$", VOCABULARY),
    (r"entity_vocab", VOCABULARY),
    (r"kv_shared_layers|cross_layer|feature_layer|insert_layer", None),
    (r"(^|_)(n_|num_)?(\w*_)?(layers|n_layer|blocks|depth|depths)$|layers_per|(^|_)num_blocks", 2),
    (r"shared_experts?$|n_shared", 1),
    (r"experts_per_tok|moe_top_?k|^top_?k$|moe_k$", 2),
    (r"(^|_)(num|n)_(\w+_)?experts$", 4),
    (r"^n_group$|topk_group|n_groups?$", 1),
    (r"first_k_dense|num_dense_layers", 1),
    (r"num_queries|num_query|latent_query|num_latents|num_denoising|proposals", 8),
    (r"codebook_size|num_codevectors|num_negatives|num_hash_buckets", 16),
    (r"train_num_points", 64),
    (r"num_res_types|num_parallel", None),
]
SIDES: list[tuple[str, int | None]] = [
    (r"window_size$", 2),
    (r"attention_window", 4),
    (r"(image|input|canvas)_size$|^resolution$|crop_size", SIDE),
    (r"patch_size$", PATCH),
    (r"key_value_heads|kv_heads|(?<!scale)heads|n_head$", HEADS),
    (r"position|n_ctx|max_seq|context_length|max_len|max_ep_len|max_text", POSITIONS),
    (r"lora_rank|time_step_rank|dt_rank|state_size|d_state|_rank$", 8),
]


def _widths(times: int) -> list[tuple[str, int | None]]:
    return [
        (r"num_pos_feats", WIDTH // 2 * times),
        (r"rope_head_dim|nope_head_dim|rotary_dim|d_rel$", HEAD // 2 * times),
        (r"(^|_)(head_dim|d_head|dim_head|d_kv|head_size|kv_channels|attention_head_dim)$", HEAD * times),
        (
            r"ffn|intermediate|mlp_dim|mlp_hidden|d_ff$|dff$|dim_ff|feedforward|linear_units|d_inner|ff_dim",
            2 * WIDTH * times,
        ),
        (r"kernel|stride|(in|input|num|audio)_channels|expan|factor|ratio|state_dim|act_dim|dim_bbox", None),
        (
            r"hidden|embed|d_model|width|channels|(^|_)dim$|_dims?$|_dim_|projection|n_embd|_filters|units$",
            WIDTH * times,
        ),
        (r"num_mel_bins|feature_size|n_mel", WIDTH * times),
    ]


# what a class leaves to its user
NEEDED = {"pad_token_id": 0, "decoder_start_token_id": 1, "prediction_length": 4, "context_length": 12}
NEEDED |= {"head_dim": HEAD, "num_key_value_heads": HEADS}
RULES = {"small": REPEATED + SIDES + _widths(1), "wider": REPEATED + SIDES + _widths(8)}
RULES |= {"shallow": REPEATED, "as it is": []}


def small(config_class: type, how: str) -> Any:
    """A configuration with small sizes where its fields have them; sub-configurations, too.

    Args:
        how: one of ``WAYS``.
    """
    return _shrunk(config_class, config_class(), how)


def _shrunk(config_class: type, default: Any, how: str) -> Any:
    stored = vars(default)
    special, given = iter(range(3, SPECIAL)), {}
    for field in dataclasses.fields(config_class):
        value = stored.get(field.name)
        if hasattr(value, "model_type"):
            given[field.name] = _shrunk(type(value), value, how)
        elif _declared(field) is not None or field.name.endswith(("_id", "_index", "rope_parameters")):
            fewer = _fewer(field.name, value, how, special)
            if fewer != value:
                given[field.name] = fewer
        elif value is None and field.name in NEEDED:
            given[field.name] = NEEDED[field.name]
    if getattr(default, "is_encoder_decoder", False) and not hasattr(default, "decoder_start_token_id"):
        given["decoder_start_token_id"] = NEEDED["decoder_start_token_id"]
    return config_class(**_consistent(given, stored))


def _declared(field: dataclasses.Field[Any]) -> Any:
    """The default that the class states; what it works out itself is left to it."""
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else None


def _fewer(name: str, value: Any, how: str, special: Any) -> Any:
    if isinstance(value, bool) or how == "as it is":
        return value
    if isinstance(value, dict) and "mrope_section" in value and how == "small":
        return value | {"mrope_section": [n * HEAD // 2 // sum(value["mrope_section"]) for n in value["mrope_section"]]}
    if isinstance(value, int) and re.search(r"_(token_)?(id|index)s?$", name):
        return next(special) if value >= SPECIAL else value
    limit = next((most for pattern, most in RULES[how] if re.search(pattern, name)), None)
    if limit is None:
        return value
    if isinstance(value, int):
        return min(value, limit)
    numbers = isinstance(value, (list, tuple)) and all(type(n) is int for n in value)
    return type(value)(_scaled(value, limit)) if numbers and value else value


def _scaled(values: Any, limit: int) -> list[int]:
    """All divided alike, so that the widths of stages keep growing; counts are cut."""
    least = min(values)
    if limit < WIDTH // 2:
        return [min(n, limit) for n in values]
    return [max(1, n * (limit // 2) // least) if least > limit // 2 else n for n in values]


def _consistent(given: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
    """Lists that have an entry for each layer are as long as there are layers."""
    layers = given.get("num_hidden_layers", given.get("num_layers"))
    before = stored.get("num_hidden_layers", stored.get("num_layers"))
    for name, value in stored.items():
        per_layer = isinstance(value, list) and name != "layers" and before is not None and len(value) == before
        if per_layer and layers is not None and ("layer" in name or "per" in name or "attention" in name):
            kept = given.get(name, value)
            given[name] = [*kept[: layers - 1], kept[-1]]
    return given
