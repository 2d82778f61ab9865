// The panel of the recursion: the stack of open questions, and the table of answers.

import { clear, el } from "./dom.js";
import { openQuestions } from "./steps.js";
import { brief } from "./tensors.js";
import { t } from "./words.js";

const ROWS = 40, STACK = 16;

export function recursionPanel(panel, data, steps, known, at, order, go) {
  const step = steps[at];
  const open = openQuestions(step);
  const stack = el("ol", { class: "stack" });
  const shown = open.slice(0, STACK);
  for (const [depth, v] of shown.entries()) {
    stack.append(el("li", { class: depth === 0 ? "top" : null }, link(data, v, go, step.kind === "answer" && depth === 0 ? " =" : " ?")));
  }
  if (open.length > STACK) stack.append(el("li", { class: "hint" }, t("more", open.length - STACK)));
  const answers = answeredBy(order, at);
  const rows = order.slice(Math.max(0, answers - ROWS), answers).reverse();
  const head = el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "v"), el("th", { scope: "col" }, "adjoint(v)")));
  const table = el("table", { class: "answers" }, head, el("tbody", {}, rows.map(({ node }) => {
    const looked = (step.kind === "hit" || step.kind === "pulled") && step.node === node;
    const fresh = step.kind === "answer" && step.node === node;
    const adjoint = data.nodes[node].adjoint;
    return el("tr", { class: looked ? "looked" : fresh ? "fresh" : null, "data-node": node },
      el("th", { scope: "row" }, el("button", { type: "button", onclick: () => go(node) }, data.nodes[node].label)),
      el("td", { title: adjoint?.numbers?.join(" ") }, adjoint ? brief(adjoint, 30) : data.nodes[node].adjoints ? `(${data.nodes[node].adjoints.length})` : "0"));
  })));
  clear(panel,
    el("div", { class: "tally" }, el("span", {}, t("products", step.formed)), el("span", { class: "hits" }, t("hits", step.hits))),
    el("div", { class: "columns" },
      el("section", {}, el("h3", {}, t("questions")), open.length ? stack : el("p", { class: "none" }, t("noQuestions"))),
      el("section", {}, el("h3", {}, t("table")), answers ? table : el("p", { class: "none" }, t("noTable")),
        answers > ROWS ? el("p", { class: "hint" }, t("more", answers - ROWS)) : null)));
}

function link(data, v, go, mark) {
  return el("button", { type: "button", onclick: () => go(v) }, `adjoint(${data.nodes[v].label})${mark}`);
}

// How many answers there are at a step; `order` lists them by step.
function answeredBy(order, at) {
  let low = 0, high = order.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (order[middle].step <= at) low = middle + 1;
    else high = middle;
  }
  return low;
}
