// The panel about one node: where it comes from, its rule as a formula and with numbers, its value, its adjoint and the
// contributions that it is the sum of, and for one number of it the products along all paths to the loss.

import { clear, el, math, mathMatrix, mathPart } from "./dom.js";
import { brief, num, rowsOf, tensorView } from "./tensors.js";
import { t } from "./words.js";

const FEW = 9, PATHS = 24;

export function nodePanel(panel, data, n, known, step, go, element = -1) {
  const node = data.nodes[n];
  const valued = known.value[n] <= step, answered = known.answered[n] <= step;
  const choose = (i) => nodePanel(panel, data, n, known, step, go, i === element ? -1 : i);
  const parts = [el("h2", {}, el("span", { class: "kind" }, node.kind === "operator" ? t("operator") : t("input")), ` ${node.label}`)];
  parts.push(el("p", { class: "where" }, node.module ? t("inside", node.module) : node.kind === "operator" ? t("outside") : node.kind));
  const results = data.nodes.flatMap((other, i) => (other.reads.includes(n) && other.label.startsWith(`${node.label}[`) ? [i] : []));
  if (valued && !node.value) parts.push(section(t("value"), el("p", { class: "hint" }, t(results.length ? "results" : "unwritten")), links(data, results, go)));
  else parts.push(section(t("value"), valued ? tensorView(node.value, "value", data.local && node.contributions ? choose : null, element) : later()));
  if (data.local && node.contributions && valued) parts.push(element < 0 ? el("p", { class: "hint" }, t("pathsHint")) : paths(data, n, element));
  parts.push(section(t("adjoint"), adjoint(data, n, answered)));
  if (answered && node.contributions) parts.push(contributions(data, n, go));
  if (node.rule !== undefined) parts.push(rule(data, n, known, step));
  const update = data.update.of.find((u) => u.node === n);
  if (update) parts.push(section(t("formula"), el("p", {}, `p ← p − ${num(data.update.rate)} · p̄`), known.updated[n] <= step ? tensorView(update.value, "update") : later()));
  if (node.source) parts.push(source(data, node));
  if (node.code) parts.push(section(t("call"), el("pre", { class: "code", tabindex: 0 }, `${node.name} = ${node.code}`)));
  if (node.reads.length) parts.push(section(t("reads"), links(data, node.reads, go)));
  const consumers = data.nodes.flatMap((other, i) => (other.reads.includes(n) ? [i] : []));
  if (consumers.length) parts.push(section(t("consumers"), links(data, consumers, go)));
  clear(panel, parts);
}

function section(title, ...content) {
  return el("section", {}, el("h3", {}, title), content);
}

function later() {
  return el("p", { class: "none" }, t("notYet"));
}

function links(data, nodes, go) {
  return el("p", { class: "links" }, [...new Set(nodes)].map((k) => el("button", { type: "button", onclick: () => go(k) }, data.nodes[k].label)));
}

function adjoint(data, n, answered) {
  const node = data.nodes[n];
  if (!node.contributions) return el("p", { class: "none" }, t("nothingFlows"));
  if (!answered) return later();
  if (node.adjoints) return [el("p", { class: "hint" }, t("severalResults")), node.adjoints.filter(Boolean).map((a) => tensorView(a, "adjoint"))];
  return tensorView(node.adjoint, "adjoint");
}

function contributions(data, n, go) {
  const node = data.nodes[n];
  if (n === data.loss) return el("p", { class: "hint" }, t("seed"));
  const rows = node.contributions.map((c, k) =>
    el("li", {}, k ? "+ " : "", el("button", { type: "button", onclick: () => go(c.from) }, data.nodes[c.from].label),
      c.value ? tensorView(c.value, "adjoint small") : null));
  return section(t("contributions"), el("ul", { class: "contributions" }, rows),
    node.contributions.length > 1 && node.adjoint ? el("p", { class: "sum" }, `${t("sum")}: `, el("b", {}, brief(node.adjoint, 40))) : null);
}

// -- the rule -------------------------------------------------------------------------------------------------------

function rule(data, n, known, step) {
  const node = data.nodes[n], entry = data.rules[node.rule];
  const parts = equations(entry.tree).map((equation) => el("p", { class: "formula" }, worded(equation)));
  if (known.answered[n] <= step && node.adjoint && node.mean !== 0) {
    const swap = swapped(data, n);
    const lines = equations(entry.tree).map((equation) => el("p", { class: "formula scroll", tabindex: 0 }, math(equation, swap)));
    const hints = [node.mean > 1 ? t("meanOf", node.mean) : null, node.stretched ? t("stretched") : null, entry.formula.includes("·") ? t("byElement") : null];
    if (swap.count) parts.push(el("h4", {}, t("numbers")), lines, el("p", { class: "hint" }, hints.filter(Boolean).join(" ")));
  }
  parts.push(el("p", { class: "file" }, t("inTable", entry.file)));
  return section(t("rule"), parts);
}

// An equation whose words are text, so that a long one is broken into lines.
function worded([tag, parts]) {
  const pieces = [];
  for (const part of parts) {
    const last = pieces[pieces.length - 1];
    if (part[0] === "mtext" && part[1].trim().length > 8) pieces.push(` ${part[1].trim()} `);
    else if (Array.isArray(last)) last.push(part);
    else pieces.push([part]);
  }
  return pieces.map((piece) => (Array.isArray(piece) ? math([tag, piece]) : piece));
}

// A formula for several adjoints in lines, one for each.
function equations([tag, parts]) {
  const lines = [[]];
  for (const part of parts) {
    if (part[0] === "mo" && (part[1] === "," || part[1] === ";")) lines.push([]);
    else lines[lines.length - 1].push(part);
  }
  const starts = (line) => line.some((part) => part[0] === "mo" && part[1] === "=");
  const whole = [];
  for (const line of lines) {
    if (whole.length && !starts(line)) whole[whole.length - 1].push(["mo", ","], ...line);
    else whole.push(line);
  }
  return whole.filter((line) => line.length).map((line) => [tag, line]);
}

// Puts small tensors in the place of the letters that stand for them: y and its adjoint, operands, their contributions.
function swapped(data, n) {
  const node = data.nodes[n];
  const given = node.adjoint;
  const each = node.mean > 1 && given.numbers ? { ...given, numbers: given.numbers.map((x) => (typeof x === "number" ? x / node.mean : x)) } : given;
  const tensors = new Map([["y", node.value], ["ȳ", each]]);
  for (const [letter, what] of Object.entries(node.symbols ?? {})) {
    if (what.node === undefined) tensors.set(letter, { shape: [], numbers: [what.number] });
    else {
      tensors.set(letter, data.nodes[what.node].value);
      const shares = (data.nodes[what.node].contributions ?? []).filter((c) => c.from === n);
      if (shares.length === 1) tensors.set(`${letter}\u0304`, shares[0].value ?? data.nodes[what.node].adjoint);
    }
  }
  const swap = (tree) => {
    const barred = tree[0] === "mover" && tree[1][1][1] === "¯";
    if (tree[0] !== "mi" && !barred) return null;
    const letter = barred ? tree[1][0][1] : tree[1];
    const find = (name) => tensors.get((barred ? `${name}\u0304` : name).normalize("NFC")) ?? tensors.get(barred ? `${name}\u0304` : name);
    const tensor = find(letter) ?? find(letter.toLowerCase());
    if (!tensor?.numbers || tensor.complex || tensor.numbers.length > FEW || tensor.shape.length > 2) {
      return barred ? mathPart(tree, () => null) : null;
    }
    swap.count += 1;
    return mathMatrix(rowsOf(tensor).map((row) => row.map(num)), barred ? "adjoint" : "value");
  };
  swap.count = 0;
  return swap;
}

function source(data, node) {
  const [file, line, text] = node.source;
  const lines = data.sources[file] ?? {};
  const near = [];
  for (let k = line - 4; k <= line + 4; k++) if (lines[k] !== undefined) near.push([k, lines[k]]);
  if (!near.length) near.push([line, text]);
  const indent = Math.min(...near.filter(([, s]) => s.trim()).map(([, s]) => s.length - s.trimStart().length));
  const code = el("pre", { class: "code source", tabindex: 0 });
  for (const [k, s] of near) {
    code.append(el("span", { class: k === line ? "line here" : "line" }, el("span", { class: "number" }, `${k} `.padStart(5)), s.slice(indent) || " "), "\n");
  }
  return section(t("source"), el("p", { class: "file" }, `${file}:${line}`), code);
}

// -- paths ----------------------------------------------------------------------------------------------------------

// All paths from element `i` of node `n` to the loss: lists of factors {of, j, by, i, value}.
export function pathsOf(data, n, i, most = PATHS) {
  if (!data.after) {
    data.after = new Map();
    for (const { of, by, entries } of data.local) {
      for (const [j, k, value] of entries) {
        const key = `${by}:${k}`;
        if (!data.after.has(key)) data.after.set(key, []);
        data.after.get(key).push({ of, j, by, i: k, value });
      }
    }
  }
  const found = [];
  let count = 0;
  const walk = (node, k, factors) => {
    if (node === data.loss) {
      count += 1;
      if (found.length < most) found.push(factors);
      return;
    }
    for (const factor of data.after.get(`${node}:${k}`) ?? []) if (count < 4 * most) walk(factor.of, factor.j, [factor, ...factors]);
  };
  walk(n, i, []);
  return { found, more: count - found.length };
}

function paths(data, n, i) {
  const name = (node, k) => {
    const { shape } = data.nodes[node].value;
    const label = data.nodes[node].label;
    if (shape.reduce((a, b) => a * b, 1) === 1) return label;
    const index = [];
    for (const size of [...shape].reverse()) (index.unshift(k % size), (k = Math.floor(k / size)));
    return `${label}[${index}]`;
  };
  const { found, more } = pathsOf(data, n, i);
  const factor = (x) => (typeof x === "number" && x < 0 ? `(${num(x)})` : num(x));
  const rows = found.map((factors) => {
    const product = factors.reduce((p, f) => p * f.value, 1);
    const words = factors.map((f) => `∂${name(f.of, f.j)}/∂${name(f.by, f.i)}`).join(" · ");
    return el("li", {}, el("p", { class: "words" }, words), el("p", {}, `${factors.map((f) => factor(f.value)).join(" · ") || "1"} = `, el("b", {}, num(product))));
  });
  const total = found.reduce((sum, factors) => sum + factors.reduce((p, f) => p * f.value, 1), 0);
  return el("section", { class: "paths" }, el("h3", {}, t("paths", name(n, i))), el("ol", {}, rows),
    more > 0 ? el("p", {}, t("morePaths", more)) : el("p", { class: "sum" }, `${t("sum")}: `, el("b", {}, num(total))));
}

// The panel about a node of the graph of forward and backward together.
export function wholePanel(panel, view, n, go) {
  const node = view.nodes[n];
  clear(panel,
    el("h2", {}, el("span", { class: "kind" }, t(`phases.${node.kind}`) ?? t("input")), ` ${node.label}`),
    el("p", { class: "where" }, `${node.shape}${node.gradient ? ` · ${t("gradientOf", node.gradient)}` : ""}`),
    node.of ? el("p", {}, t("adjointOf", node.of)) : null,
    node.code ? section(t("call"), el("pre", { class: "code", tabindex: 0 }, `${node.name} = ${node.code}`)) : null,
    node.reads.length ? section(t("reads"), links(view, node.reads, go)) : null);
}

