"""A page in short, for a terminal: the four acts with their numbers."""

from __future__ import annotations

from typing import Any

_ROWS = 40  # of each table
_WORDS = {
    "en": {
        "forward": "Forward and loss",
        "backward": "Backward: adjoint(v) = Σ over the consumers u of v of vjp(u)",
        "update": "Update: p ← p − {rate:g} · adjoint(p)",
        "counts": "{operators} operators; {memoized} products with the table, {naive} without",
        "more": "... and {n} more",
    },
    "zh": {
        "forward": "前向传播与损失",
        "backward": "反向传播：adjoint(v) = 对用到 v 的每个 u，把 vjp(u) 相加",
        "update": "更新参数：p ← p − {rate:g} · adjoint(p)",
        "counts": "{operators} 个算子；用备忘表做 {memoized} 个乘积，不用要做 {naive} 个",
        "more": "……还有 {n} 个",
    },
}


def outline(data: dict[str, Any]) -> str:
    """The text of ``page.text``."""
    words, nodes = _WORDS[data.get("lang", "en")], data["nodes"]
    answered = [i for kind, i in data["events"] if kind == 2]
    sections = [
        (words["forward"], [(n["label"], n.get("module", ""), _brief(n["value"])) for n in nodes]),
        (words["backward"], [(nodes[i]["label"], "", _brief(nodes[i].get("adjoint"))) for i in answered]),
        (
            words["update"].format(**data["update"]),
            [(nodes[u["node"]]["label"], "", _brief(u["value"])) for u in data["update"]["of"]],
        ),
    ]
    lines = [data["title"], words["counts"].format(**data["summary"])]
    for title, rows in sections:
        lines += ["", f"── {title} ", ""]
        shown = rows[:_ROWS]
        widths = [max((len(row[k]) for row in shown), default=0) for k in (0, 1)]
        lines += [f"{a:{widths[0]}}  {b:{widths[1]}}  {c}".rstrip() for a, b, c in shown]
        lines += [words["more"].format(n=len(rows) - _ROWS)] if len(rows) > _ROWS else []
    return "\n".join(lines)


def _brief(tensor: dict[str, Any] | None) -> str:
    if tensor is None:
        return "( ... )"
    numbers = tensor.get("numbers", [])
    if 0 < len(numbers) <= 8:
        return " ".join(x if isinstance(x, str) else f"{x:.6g}" for x in numbers)
    shape = "x".join(map(str, tensor["shape"]))
    return f"{shape}  {tensor['min']:.4g} ... {tensor['max']:.4g}" if "min" in tensor else shape
