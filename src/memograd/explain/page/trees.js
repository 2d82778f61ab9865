// Naive against memoized: the exact numbers of products, and for small graphs the two call trees as they grow.

import { clear, el, svg } from "./dom.js";
import { callTree } from "./steps.js";
import { t } from "./words.js";

const PLACES = 640; // leaves of a tree that can still be seen

export function countsPanel(panel, data) {
  const { naive, memoized } = data.summary;
  const factor = BigInt(naive) / BigInt(Math.max(1, memoized));
  const big = (kind, number, hint) =>
    el("div", { class: `count ${kind}` }, el("h3", {}, t(kind)), el("p", { class: "number" }, number.length > 30 ? power(number) : grouped(number)), el("p", { class: "hint" }, t("productsUnit", ""), " · ", hint));
  const parts = [
    el("div", { class: "counts" }, big("naive", naive, t("naiveHint")), big("memoized", String(memoized), t("memoizedHint"))),
    el("p", { class: "saved" }, t("saved", factor > 999n ? power(factor) : (Number(naive) / Math.max(1, memoized)).toFixed(1))),
  ];
  if (data.naive && data.order === "asked") parts.push(trees(data));
  else parts.push(el("p", { class: "hint" }, t("treeTooLarge")));
  clear(panel, parts);
}

export function trees(data) {
  const naive = callTree(data, data.naive, false), memo = callTree(data, data.events, true);
  const pictures = [["naive", naive], ["memoized", memo]].map(([kind, tree]) => ({ kind, tree, ...drawn(data, tree.root, kind) }));
  const most = Math.max(naive.formed, memo.formed);
  const output = el("output", {}, "");
  const grow = (k) => {
    output.textContent = t("products", `${Math.min(k, naive.formed)} / ${Math.min(k, memo.formed)}`);
    for (const { dots } of pictures) for (const { at, element } of dots) element.setAttribute("class", at <= k ? "there" : "");
  };
  const slider = el("input", { type: "range", min: 0, max: most, value: most, "aria-label": t("growing"), oninput: () => grow(Number(slider.value)) });
  grow(most);
  return [
    el("label", { class: "grow" }, t("growing"), slider, output),
    pictures.map(({ kind, picture }) => el("figure", { class: `tree ${kind}` }, el("figcaption", {}, t(kind)), picture)),
    el("p", { class: "hint" }, t("treeHint")),
  ];
}

// Leaves in a row, each question above the middle of those it asks.
function drawn(data, root, kind) {
  let leaf = 0, deep = 0;
  const places = [], lines = [];
  const place = (call, depth, parent) => {
    const own = { call, depth, parent, x: 0 };
    if (depth >= 0) (places.push(own), (deep = Math.max(deep, depth)));
    const below = call.children.map((child) => place(child, depth + 1, depth >= 0 ? own : null));
    own.x = below.length ? below.reduce((sum, b) => sum + b.x, 0) / below.length : leaf++;
    return own;
  };
  place(root, -1, null);
  if (leaf > PLACES) return { picture: el("p", { class: "hint" }, t("treeTooLarge")), dots: [] };
  const step = Math.min(34, Math.max(7, 440 / leaf)), down = 22, r = Math.min(5, step / 2.4);
  const x = (p) => 10 + p.x * step, y = (p) => 10 + p.depth * down;
  const dots = [];
  const body = svg("g");
  for (const p of places) {
    const piece = svg("g");
    if (p.parent) piece.append(svg("path", { d: `M${x(p.parent)},${y(p.parent) + r}L${x(p)},${y(p) - r}`, class: "line" }));
    piece.append(svg("circle", { cx: x(p), cy: y(p), r, class: p.call.hit ? "hit" : "asked" }, svg("title", {}, `adjoint(${data.nodes[p.call.node].label})`)));
    dots.push({ at: p.call.at, element: piece });
    lines.push(piece);
  }
  body.append(...lines);
  const width = 20 + Math.max(0, leaf - 1) * step, height = 20 + deep * down;
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": t(kind) }, body);
  return { picture: el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": t(kind) }, picture), dots };
}

// 6.9 · 10¹⁷, of a number that may be too large for the machine's own.
export function power(number) {
  const digits = String(number).split(".")[0];
  const exponent = String(digits.length - 1);
  return `${digits[0]}.${digits[1]} · 10${[...exponent].map((d) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[d]).join("")}`;
}

export function grouped(number) {
  return number.replace(/\B(?=(\d{3})+(?!\d))/g, "\u2009");
}
