// The budgets: bytes alive over the step as layers, what is kept, what is computed again and why.

import { clear, el, svg } from "./dom.js";
import { t } from "./words.js";

const COLUMNS = 900, HEIGHT = 260, LAYERS = 120;

export function memoryPanel(panel, data) {
  const memory = data.memory;
  const plans = memory.plans;
  let chosen = plans.findIndex((p) => p.asked);
  const about = el("div", { class: "about", "aria-live": "polite" }), picture = el("div", { class: "bytes" }), lists = el("div");
  const said = el("p", { class: "facts" });
  const show = (k) => {
    chosen = k;
    const plan = plans[k];
    const facts = [[t("budget"), plan.unplanned ? t("unplanned") : human(plan.budget)], [t("peak"), human(plan.peak)], [t("extra"), `${ms(plan.extra)} (${percent(plan.extra / memory.total)})`]];
    clear(said, facts.map(([name, value]) => el("span", {}, `${name} `, el("b", {}, value))), plan.bound > 0 ? el("span", { class: "hint" }, t("bound", ms(plan.bound))) : null);
    slider.setAttribute("aria-valuetext", facts[0][1]);
    const lives = livesOf(memory, plan);
    const top = Math.max(...plans.map((p) => p.peak));
    clear(picture, drawn(memory, plan, lives, top, (life) => clear(about, tensor(memory, plan, lives, life))));
    clear(about, el("p", { class: "hint" }, t("memoryHint")));
    clear(lists, kept(memory, plan, lives, (life) => clear(about, tensor(memory, plan, lives, life))), again(memory, plan, lives));
  };
  const slider = el("input", { type: "range", min: 0, max: plans.length - 1, value: chosen, "aria-label": t("budgets"), oninput: () => show(Number(slider.value)) });
  clear(panel, el("label", { class: "grow" }, t("budgets"), slider), said, el("h3", {}, t("bytesOver")), picture, legend(), about, lists);
  show(chosen);
}

// Every copy of a value: from the position at which it is computed to the last at which it is read.
export function livesOf(memory, plan) {
  const newest = new Map(), lives = [], runs = new Map();
  plan.schedule.forEach((operator, at) => {
    const run = runs.get(operator) ?? 0;
    runs.set(operator, run + 1);
    for (const value of memory.reads[operator]) {
      const life = newest.get(value);
      life.end = at;
      life.readers.push(at);
    }
    for (const value of memory.outputs[operator]) {
      const life = { value, operator, start: at, end: at, readers: [], run };
      newest.set(value, life);
      lives.push(life);
    }
  });
  for (const value of memory.keep) newest.get(value).end = plan.schedule.length - 1;
  return lives;
}

function phase(memory, plan, life) {
  return life.run ? "again" : memory.operators[life.operator].phase;
}

// Layers from below: what is there all the time, then tensors in the order in which they were born.
function drawn(memory, plan, lives, top, choose) {
  const length = plan.schedule.length, width = Math.min(COLUMNS, Math.max(360, length * 8));
  const x = (at) => (at / length) * width, y = (bytes) => HEIGHT - (bytes / (top * 1.05)) * HEIGHT;
  const picture = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT + 4}`, role: "img", "aria-label": t("bytesOver"), preserveAspectRatio: "none" });
  const size = (life) => memory.values[life.value].bytes;
  const shown = new Set([...lives].sort((a, b) => size(b) * (b.end - b.start + 1) - size(a) * (a.end - a.start + 1)).slice(0, LAYERS).filter((l) => size(l) > 0));
  const floor = new Float64Array(length).fill(memory.resident);
  for (const life of lives) if (!shown.has(life)) for (let at = life.start; at <= life.end; at++) floor[at] += size(life);
  picture.append(svg("rect", { class: "resident", x: 0, y: y(memory.resident), width, height: HEIGHT - y(memory.resident) }, svg("title", {}, `${t("resident")}: ${human(memory.resident)}`)));
  picture.append(svg("path", { class: "small", d: area(0, length - 1, () => memory.resident, (at) => floor[at], x, y) }, svg("title", {}, t("smallOnes"))));
  for (const life of [...shown].sort((a, b) => a.start - b.start)) {
    const below = floor.slice(life.start, life.end + 1);
    for (let at = life.start; at <= life.end; at++) floor[at] += size(life);
    const path = svg("path", {
      class: `layer ${phase(memory, plan, life)}`, d: area(life.start, life.end, (at) => below[at - life.start], (at) => below[at - life.start] + size(life), x, y),
    }, svg("title", {}, `${memory.operators[life.operator].label}: ${human(size(life))}`));
    path.addEventListener("click", () => {
      picture.querySelector(".chosen")?.classList.remove("chosen");
      path.classList.add("chosen");
      choose(life);
    });
    picture.append(path);
  }
  picture.append(svg("path", { class: "profile", d: `M${plan.profile.map((b, at) => `${x(at).toFixed(1)},${y(b).toFixed(1)}H${x(at + 1).toFixed(1)}`).join("L")}` }));
  if (!plan.unplanned) picture.append(svg("path", { class: "limit", d: `M0,${y(plan.budget)}H${width}` }));
  return picture;
}

function area(start, end, low, high, x, y) {
  let over = `M${x(start).toFixed(1)},${y(high(start)).toFixed(1)}`, under = "";
  for (let at = start; at <= end; at++) {
    over += `L${x(at).toFixed(1)},${y(high(at)).toFixed(1)}H${x(at + 1).toFixed(1)}`;
    under = `L${x(at + 1).toFixed(1)},${y(low(at)).toFixed(1)}H${x(at).toFixed(1)}${under}`;
  }
  return `${over}${under}z`;
}

function legend() {
  const phases = { resident: t("resident"), forward: t("phases.forward"), backward: t("phases.backward"), again: t("again"), limit: t("budget") };
  return el("p", { class: "legend" }, Object.entries(phases).map(([kind, name]) => el("span", { class: kind }, name)));
}

function tensor(memory, plan, lives, life) {
  const operator = memory.operators[life.operator], value = memory.values[life.value];
  const name = (at) => memory.operators[plan.schedule[at]].label;
  const readers = [...new Set(life.readers.map(name))];
  return el("section", {}, el("h3", {}, `${operator.label} · ${human(value.bytes)}`),
    el("p", {}, `${value.what} · ${t(`phases.${operator.phase}`)}${life.run ? ` · ${t("again")}` : ""}${operator.module ? ` · ${t("inside", operator.module)}` : ""}`),
    el("p", {}, `${t("why")}: ${why(memory, plan, lives, life, name)}`),
    readers.length ? el("p", {}, `${t("byWhom")}: ${readers.slice(0, 12).join(", ")}${readers.length > 12 ? " …" : ""}`) : null,
    operator.rule ? el("p", { class: "file" }, `${t("rule")}: ${operator.rule}`) : null,
    operator.source ? el("p", { class: "file" }, `${operator.source}  ${operator.line}`) : null);
}

function why(memory, plan, lives, life, name) {
  const copies = lives.filter((other) => other.value === life.value);
  if (copies.length > 1) {
    const later = copies.filter((c) => c.run).flatMap((c) => c.readers.map(name));
    return t("againWhy", [...new Set(later)].slice(0, 4).join(", "), copies.length - 1);
  }
  const behind = life.readers.filter((at) => memory.operators[plan.schedule[at]].phase === "backward");
  return behind.length && memory.operators[life.operator].phase === "forward" ? t("keptWhy", name(behind[behind.length - 1])) : t("freedWhy");
}

function kept(memory, plan, lives, choose) {
  const phases = (life) => life.readers.some((at) => memory.operators[plan.schedule[at]].phase === "backward");
  const rows = lives.filter((l) => memory.operators[l.operator].phase === "forward" && !l.run && phases(l) && memory.values[l.value].bytes);
  rows.sort((a, b) => memory.values[b.value].bytes - memory.values[a.value].bytes);
  return list(t("kept"), rows, (l) => [memory.operators[l.operator], human(memory.values[l.value].bytes)], choose);
}

function again(memory, plan, lives) {
  const runs = new Map();
  for (const operator of plan.schedule) runs.set(operator, (runs.get(operator) ?? 0) + 1);
  const rows = [...runs].filter(([, n]) => n > 1).sort((a, b) => memory.operators[b[0]].seconds * b[1] - memory.operators[a[0]].seconds * a[1]);
  return list(t("recomputed"), rows, ([k, n]) => [memory.operators[k], `${t("times", n - 1)} · ${ms(memory.operators[k].seconds * (n - 1))}`], null);
}

function list(title, rows, cells, choose) {
  if (!rows.length) return null;
  const body = rows.slice(0, 30).map((row) => {
    const [operator, value] = cells(row);
    const name = choose ? el("button", { type: "button", onclick: () => choose(row) }, operator.label) : operator.label;
    return el("tr", {}, el("th", { scope: "row" }, name), el("td", { class: "place" }, operator.module), el("td", {}, value));
  });
  return el("section", {}, el("h3", {}, `${title} (${rows.length})`), el("table", { class: "answers" }, el("tbody", {}, body)),
    rows.length > 30 ? el("p", { class: "hint" }, t("more", rows.length - 30)) : null);
}

export function human(size) {
  for (const [unit, scale] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) if (size >= scale) return `${(size / scale).toFixed(2)} ${unit}`;
  return `${size} B`;
}

function ms(seconds) {
  return `${(seconds * 1e3).toFixed(3)} ms`;
}

function percent(share) {
  return `${(share * 100).toFixed(1)} %`;
}
