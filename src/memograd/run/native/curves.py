"""exp, the logistic function and tanh in single precision as C without a branch or a call: loops over them get vectors.

exp x = 2^n exp r with n = round(x / ln 2), r = x - n ln 2 and the series of exp r up to r^7, whose rest is below 2^-27.
tanh x = u / (u + 2) with u = exp(2x) - 1, whose leading 1 is taken away before it is lost in the sum.
"""

from __future__ import annotations

import math

_SERIES = [1 / math.factorial(k) for k in range(2, 8)]


def _horner() -> str:
    """C: exp(r) - 1 - r, over r squared."""
    text = f"{_SERIES[-1]!r}f"
    for coefficient in reversed(_SERIES[:-1]):
        text = f"({text} * r + {coefficient!r}f)"
    return text


_INLINE = "static inline __attribute__((always_inline)) float"
# ln 2 in two parts: n times the first, of 9 digits, is exact. 1.5 * 2^23: what is added to it is rounded
_REDUCED = """
    const float n = (x * 1.44269504088896341f + 12582912.0f) - 12582912.0f;
    const float r = (x - n * 0.693359375f) - n * -2.12194440054690583e-4f;
    union { int bits; float value; } s;
    s.bits = ((int)n + 127) << 23;
"""

CURVES = f"""
{_INLINE} memograd_expf(float x) {{
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    {_REDUCED}
    return s.value * ((r * r) * {_horner()} + r + 1.0f);
}}

{_INLINE} memograd_logisticf(float x) {{ return 1.0f / (1.0f + memograd_expf(-x)); }}

{_INLINE} memograd_tanhf(float y) {{
    float x = 2.0f * __builtin_fabsf(y);
    x = x > 20.0f ? 20.0f : x;
    {_REDUCED}
    const float u = s.value * ((r * r) * {_horner()} + r) + (s.value - 1.0f);
    return __builtin_copysignf(u / (u + 2.0f), y);
}}
"""
