// Section 6, first half: a ladder of diamonds; exact numbers of products with a table and without, and both trees.

import { clear, el, svg } from "./dom.js";
import { responsive, slider } from "./figures.js";
import { num } from "./tensors.js";
import { grouped, power, trees } from "./trees.js";
import { t } from "./words.js";

const SECOND = 1_000_000_000n; // products

export function rungs(data, state) {
  state.rungs ??= 4;
  const counts = el("div", { class: "counts" }), drawn = el("div", { class: "trees" });
  const ladder = responsive((width) => picture(width, state.rungs), "ladder");
  const bars = responsive((width) => lengths(width, data, state.rungs));
  const show = (n) => {
    state.rungs = n;
    const naive = data.naive[n - 1], memoized = data.memoized[n - 1];
    const count = (kind, number, more) => el("div", { class: `count ${kind}` }, el("h3", {}, t(`rungs.${kind}`)), el("p", { class: "number", "data-count": kind }, grouped(String(number))), el("p", { class: "hint" }, t("rungs.unit"), more));
    clear(counts, count("naive", naive, ` · ${t("rungs.time", duration(BigInt(naive)))}`), count("memoized", memoized, ""));
    ladder.again(), bars.again();
    const tree = data.trees[n - 1];
    clear(drawn, tree ? trees({ ...tree, summary: { naive, memoized } }) : el("p", { class: "hint" }, t("treeTooLarge")));
  };
  const handle = slider({ name: t("rungs.rungs"), min: 1, max: data.naive.length, value: state.rungs, text: String, oninput: show, id: "rungs" });
  show(state.rungs);
  return el("div", { class: "stage" }, handle.root, ladder.root, counts, bars.root, el("h3", {}, t("rungs.drawn")), drawn);
}

function duration(products) {
  const seconds = products / SECOND;
  if (seconds < 1n) return t("rungs.soon");
  if (seconds < 7200n) return t("rungs.seconds", grouped(String(seconds)));
  const hours = seconds / 3600n;
  if (hours < 20_000n) return t("rungs.hours", grouped(String(hours)));
  const years = hours / 8766n;
  return t("rungs.years", years > 999_999n ? power(years) : grouped(String(years)));
}

// The ladder itself: two ways around each diamond.
function picture(width, n) {
  const shown = Math.min(n, Math.max(3, Math.floor(width / 74))), step = 74, height = 92, middle = 46;
  const wide = 20 + shown * step + (shown < n ? 30 : 0);
  const root = svg("svg", { width: wide, height, viewBox: `0 0 ${wide} ${height}`, "aria-hidden": "true" });
  const circle = (x, y, text, kind) => root.append(svg("circle", { cx: x, cy: y, r: kind === "end" ? 6 : 13, class: `rung ${kind}` }), kind === "end" ? "" : svg("text", { x, y: y + 4, class: "rung-text" }, text));
  for (let k = 0; k < shown; k++) {
    const x = 10 + k * step;
    for (const y of [18, 74]) root.append(svg("path", { d: `M${x},${middle}L${x + step / 2},${y}L${x + step},${middle}`, class: "rung-line" }));
    circle(x + step / 2, 18, "sin", "op"), circle(x + step / 2, 74, "cos", "op");
  }
  for (let k = 0; k <= shown; k++) circle(10 + k * step, middle, "", "end");
  if (shown < n) root.append(svg("text", { x: wide - 12, y: middle + 5, class: "tick" }, "…"));
  return root;
}

// Both numbers as lengths, on an axis of powers of ten.
function lengths(width, data, n) {
  const most = data.naive[data.naive.length - 1].length, height = 96, left = 4;
  const x = (number) => left + (Math.log10(Number(number)) / most) * (width - left - 8);
  const root = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": t("rungs.scale") });
  for (let k = 0; k <= most; k++) root.append(svg("line", { x1: x(10 ** k), x2: x(10 ** k), y1: 4, y2: 66, class: "grid" }));
  [["naive", data.naive[n - 1]], ["memoized", data.memoized[n - 1]]].forEach(([kind, number], k) => {
    root.append(svg("rect", { x: left, y: 8 + k * 30, width: Math.max(2, x(number) - left), height: 22, rx: 4, class: `bar ${kind}` }));
  });
  root.append(svg("text", { x: left, y: 84, class: "tick start" }, t("rungs.scale")));
  return root;
}
