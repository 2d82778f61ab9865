// Section 2: two functions, one behind the other, and the three slopes at the x that is dragged.

import { clear, el } from "./dom.js";
import { around, choice, dot, dragged, line, plot, responsive, slider, steps, tangent } from "./figures.js";
import { num } from "./tensors.js";
import { t } from "./words.js";

const SHAPES = { square: "□²", sin: "sin □", tanh: "tanh □", exp: "e^(□/2)", relu: "max(0, □)", sigmoid: "σ(□)" };
const shape = (name, letter) => SHAPES[name].replace("□", letter);

export function chain(data, state) {
  state.inner ??= "square";
  state.outer ??= "sin";
  state.at ??= 96;
  const xs = steps(-data.reach, data.reach, data.points);
  const product = el("div", { class: "product" }), said = el("p", { class: "hint", role: "status" });
  const now = () => {
    const inner = data.inner[state.inner], pair = data.pairs[`${state.inner}-${state.outer}`];
    return { inner, pair, x: xs[state.at], y: inner.y[state.at], z: pair.z[state.at] };
  };
  const height = (width) => Math.max(190, Math.min(260, width * 0.7));
  let first = null, last = null;
  const options = (xName, yName) => ({ label: `${yName} = ${xName}`, xName, yName, left: 34 });

  const one = responsive((width) => {
    const { inner, x, y } = now();
    first = plot(width, height(width), [-data.reach, data.reach], around(inner.y), options("x", "y"));
    first.root.append(line(first, xs, inner.y, "value"), tangent(first, x, y, inner.slope[state.at], 120, "first"), dot(first, x, y, "first", 7));
    return first.root;
  });
  const two = responsive((width) => {
    const { inner, pair, y, z } = now();
    const [low, high] = [Math.min(...inner.y), Math.max(...inner.y)];
    const frame = plot(width, height(width), around(inner.y), around(pair.curve), options("y", "z"));
    frame.root.append(line(frame, steps(low, high, pair.curve.length), pair.curve, "value"), tangent(frame, y, z, pair.outer[state.at], 120, "second"), dot(frame, y, z, "second", 7));
    return frame.root;
  });
  const three = responsive((width) => {
    const { pair, x, z } = now();
    last = plot(width, height(width), [-data.reach, data.reach], around(pair.z), options("x", "z"));
    last.root.append(line(last, xs, pair.z, "value"), tangent(last, x, z, pair.whole[state.at], 120, "adjoint"), dot(last, x, z, "adjoint", 7));
    return last.root;
  });
  const show = () => {
    for (const figure of [one, two, three]) figure.again();
    const { inner, pair } = now();
    const [a, b, c] = [inner.slope[state.at], pair.outer[state.at], pair.whole[state.at]].map(num);
    const factor = (name, value, kind) => el("span", { class: `factor ${kind}` }, el("span", { class: "of" }, name), el("b", {}, value));
    clear(product, factor("dz/dx", c, "adjoint"), el("span", {}, "="), factor("dz/dy", b, "second"), el("span", {}, "·"), factor("dy/dx", a, "first"));
    said.textContent = t("chain.said", { inner: a, outer: b, whole: c });
  };
  const move = (at) => {
    state.at = Math.max(0, Math.min(data.points - 1, at));
    handle.set(state.at);
    show();
  };
  const place = (frame, px) => (frame ? move(Math.round(((frame.value(px) + data.reach) / (2 * data.reach)) * (data.points - 1))) : null);
  dragged(one.root, (px) => place(first, px));
  dragged(three.root, (px) => place(last, px));
  const handle = slider({ name: "x", max: data.points - 1, value: state.at, text: (at) => num(xs[at]), oninput: move, id: "chain-x" });
  const inner = choice({ name: t("chain.inner"), options: Object.keys(data.inner).map((k) => [k, shape(k, "x")]), value: state.inner, kind: "code", onchange: (k) => ((state.inner = k), show()) });
  const outer = choice({ name: t("chain.outer"), options: data.outer.map((k) => [k, shape(k, "y")]), value: state.outer, kind: "code", onchange: (k) => ((state.outer = k), show()) });
  const titled = (title, figure) => el("figure", { class: "small" }, el("figcaption", {}, title), figure.root);
  show();
  return el("div", { class: "stage" }, el("div", { class: "choices" }, inner.root, outer.root), handle.root, product,
    el("div", { class: "three" }, titled("y = g(x)", one), titled("z = f(y)", two), titled(`z = f(g(x)) · ${t("chain.whole")}`, three)), said);
}
