// Section 4: the recursion on one sample of XOR. The graph, the open questions and the table are those of mg.explain.

import { clear, el, svg } from "./dom.js";
import { Picture } from "./graph.js";
import { icon } from "./icons.js";
import { Painter } from "./paint.js";
import { recursionPanel } from "./recursion.js";
import { knownFrom, stepsOf } from "./steps.js";
import { brief } from "./tensors.js";
import { t } from "./words.js";

export function asking(data, state) {
  const all = stepsOf(data), known = knownFrom(data, all);
  const from = all.findIndex((s) => s.act === 2) - 1, until = all.findLastIndex((s) => s.act === 2);
  const answers = all.flatMap((s, step) => (s.kind === "answer" ? [{ node: s.node, step }] : []));
  state.step ??= from;
  const now = el("p", { class: "now", role: "status" }), panel = el("div", { class: "panel" }), count = el("span", { class: "count" });
  const graph = svg("svg", { class: "graph", role: "group", "aria-label": t("asking.graph") });
  const go = (step) => {
    state.step = Math.max(from, Math.min(until, step));
    const current = all[state.step];
    now.textContent = sentence(data, current, state.step === from ? "start" : current.kind);
    now.className = `now ${state.step === from ? "start" : current.kind}`;
    position.value = state.step;
    count.textContent = t("asking.count", state.step - from, until - from);
    position.setAttribute("aria-valuetext", count.textContent);
    painter.paint(picture, state.step, -1, false);
    recursionPanel(panel, data, all, known, state.step, answers, jump);
  };
  const jump = (node) => go(answers.find((a) => a.node === node)?.step ?? state.step);
  const picture = new Picture(graph, { nodes: data.nodes, folders: [], places: data.nodes.map(() => -1) }, jump);
  const painter = new Painter(data, all, known);
  let timer = null;
  const stop = () => {
    clearInterval(timer);
    timer = null;
    clear(play, icon("play"));
    play.setAttribute("aria-label", t("asking.play"));
  };
  const toggle = () => {
    if (timer) return stop();
    if (state.step === until) go(from);
    clear(play, icon("pause"));
    play.setAttribute("aria-label", t("asking.pause"));
    timer = setInterval(() => (play.isConnected && state.step < until ? go(state.step + 1) : stop()), 1100);
  };
  const tool = (name, to) => el("button", { type: "button", class: "do", "aria-label": t(`asking.${name}`), title: t(`asking.${name}`), "data-do": name, onclick: () => (stop(), go(to())) }, icon(name));
  const play = el("button", { type: "button", class: "do", "aria-label": t("asking.play"), onclick: toggle }, icon("play"));
  const position = el("input", { type: "range", min: from, max: until, value: state.step, id: "asking-position", "aria-label": t("asking.position"), oninput: () => (stop(), go(Number(position.value))) });
  let wide = 0;
  new ResizeObserver(([entry]) => {
    if (Math.floor(entry.contentRect.width) === wide) return;
    wide = Math.floor(entry.contentRect.width);
    picture.draw();
    const { w, h } = picture.extent, k = Math.min(1.3, (wide - 12) / w);
    graph.style.setProperty("height", `${Math.ceil(h * k) + 12}px`);
    picture.camera = { k, x: (wide - w * k) / 2, y: 6 };
    picture.look();
    go(state.step);
  }).observe(graph);
  const controls = el("div", { class: "controls" }, tool("first", () => from), tool("back", () => state.step - 1), play, tool("forward", () => state.step + 1), tool("last", () => until), position, count);
  return el("div", { class: "stage asking" }, now, controls, el("div", { class: "graph-and-table" }, graph, panel));
}

function sentence(data, { node, by }, kind) {
  const name = node >= 0 ? data.nodes[node].label : "", other = by >= 0 ? data.nodes[by].label : "";
  const { adjoint } = node >= 0 ? data.nodes[node] : {};
  if (kind === "start") return t("asking.now.start");
  if (kind === "ask") return by < 0 ? t("asking.now.askFirst", name) : t("asking.now.ask", other, name);
  if (kind === "answer" && node === data.loss) return t("asking.now.seed", name);
  if (kind === "answer") return t("asking.now.answer", name, brief(adjoint, 40));
  if (kind === "pass") {
    const receivers = data.nodes[node].reads.filter((v) => data.nodes[v].contributions?.some((c) => c.from === node));
    return t("asking.now.pass", name, [...new Set(receivers)].map((v) => data.nodes[v].label).join(", "));
  }
  return t(`asking.now.${kind}`, name, other);
}
