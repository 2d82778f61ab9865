// The page: acts and controls below, the picture, the panels beside it; keys, search, languages.

import { clear, el } from "./dom.js";
import { movable } from "./gestures.js";
import { Picture } from "./graph.js";
import { icon } from "./icons.js";
import { memoryPanel } from "./memory.js";
import { nodePanel, wholePanel } from "./node.js";
import { Painter } from "./paint.js";
import { paper } from "./paper.js";
import { recursionPanel } from "./recursion.js";
import { openSearch } from "./search.js";
import { knownFrom, stepsOf } from "./steps.js";
import { brief, num } from "./tensors.js";
import { countsPanel } from "./trees.js";
import { speak, spoken, t } from "./words.js";

const BOXES = 40; // to be seen at first
const SPEEDS = [0.5, 1, 2, 4, 8, 16, 32];
const at = (id) => document.getElementById(id);

class Page {
  constructor(data) {
    this.data = data;
    this.steps = stepsOf(data);
    this.known = knownFrom(data, this.steps);
    this.answers = this.steps.map((s, step) => ({ ...s, step })).filter((s) => s.kind === "answer");
    this.step = 0;
    this.speed = 1;
    this.tab = "recursion";
    this.chosen = data.loss;
    this.timer = null;
    this.whole = false;
    speak(data.lang);
    if (data.theme) document.documentElement.dataset.theme = data.theme;
    this.texts();
    const choose = (n) => this.choose(n);
    this.painter = new Painter(data, this.steps, this.known);
    this.pictures = [new Picture(at("graph"), { nodes: data.nodes, folders: data.folders, places: data.places }, choose)];
    this.pictures[0].openSome(BOXES);
    movable(at("graph"), () => this.picture);
    this.picture.changed = () => this.paint(false);
    this.picture.draw();
    this.picture.fit();
    this.go(0);
    document.addEventListener("keydown", (event) => this.key(event));
    addEventListener("resize", () => this.picture.fit());
    addEventListener("beforeprint", () => {
      this.picture.whole(true);
      paper(at("paper"), this.data);
    });
    addEventListener("afterprint", () => this.picture.whole(false));
  }

  get picture() {
    return this.pictures[this.whole ? 1 : 0];
  }

  // -- what is on the page ------------------------------------------------------------------------------------------

  texts() {
    const { data } = this, { summary } = data;
    document.title = `${t("title", data.title)} · memograd`;
    clear(at("title"), t("title", data.title));
    clear(at("counted"), t("counted", summary.operators, summary.numbers.toLocaleString("en")));
    const button = (id, sign, name, onclick) => el("button", { type: "button", id, title: name, "aria-label": name, onclick }, sign);
    clear(at("tools"),
      button("find", icon("find"), `${t("search")} (/)`, () => this.search()),
      button("turn", icon("turn"), t("direction"), () => this.picture.turn()),
      button("fit", icon("fit"), t("fit"), () => this.picture.fit()),
      data.folders.length ? button("all", icon("all"), `${t("openAll")} (O)`, () => this.openAll()) : null,
      button("theme", icon("theme"), t("theme"), () => this.shade()),
      button("print", icon("print"), t("print"), () => print()),
      button("language", t("language"), t("language"), () => this.speak(spoken() === "en" ? "zh" : "en")));
    clear(at("controls"),
      button("first", icon("first"), `${t("first")} (Home)`, () => this.go(0)),
      button("back", icon("back"), `${t("back")} (←)`, () => this.go(this.step - 1)),
      button("play", icon("play"), `${t("play")} (space)`, () => this.play()),
      button("forward", icon("forward"), `${t("forward")} (→)`, () => this.go(this.step + 1)),
      button("last", icon("last"), `${t("last")} (End)`, () => this.go(Infinity)),
      el("input", { type: "range", id: "position", min: 0, max: this.steps.length - 1, value: this.step, "aria-label": t("position"), oninput: (e) => this.go(Number(e.target.value)) }),
      el("output", { id: "count" }),
      el("label", { class: "speed" }, `${t("speed")} `, el("select", { id: "speed", onchange: (e) => this.pace(Number(e.target.value)) },
        SPEEDS.map((s) => el("option", { value: s, selected: s === this.speed }, `${s}×`)))));
    clear(at("acts"), t("acts").map((name, act) => el("button", { type: "button", "data-act": act, onclick: () => this.go(this.steps.findIndex((s) => s.act === act)) }, name)));
    clear(at("views"), data.whole ? ["forwardGraph", "jointGraph"].map((name, k) =>
      el("button", { type: "button", "aria-pressed": String(this.whole === Boolean(k)), onclick: () => this.view(Boolean(k)) }, t(name))) : null);
    const tabs = ["recursion", "node", "counts", ...(data.memory ? ["memory"] : [])];
    clear(at("tabs"), tabs.map((name) => el("button", {
      type: "button", role: "tab", id: `tab-${name}`, "aria-controls": "panel", "aria-selected": String(name === this.tab), onclick: () => this.show(name),
    }, t(name))));
    at("panel").setAttribute("aria-labelledby", `tab-${this.tab}`);
    at("graph").setAttribute("aria-label", t("whole"));
    at("graph").setAttribute("role", "group");
    at("tools").setAttribute("aria-label", t("help"));
    at("acts").setAttribute("aria-label", t("position"));
    at("controls").setAttribute("aria-label", t("keys"));
    at("views").setAttribute("aria-label", t("whole"));
  }

  speak(language) {
    speak(language);
    this.texts();
    this.pictures.forEach((p) => p.widths.clear());
    this.picture.layout.known.clear();
    this.picture.draw();
    this.go(this.step);
  }

  shade() {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  }

  view(whole) {
    this.whole = whole;
    if (whole && !this.pictures[1]) {
      this.pictures[1] = new Picture(at("graph"), this.data.whole, (n) => this.choose(n), { two: false });
      this.pictures[1].openSome(2 * BOXES);
      this.pictures[1].changed = () => this.paint(false);
    }
    at("graph").replaceChildren(...[at("graph").querySelector("defs"), this.picture.world].filter(Boolean));
    this.texts();
    this.picture.draw();
    this.picture.fit();
    this.go(this.step);
  }

  openAll() {
    const all = this.picture.view.folders.every((_, f) => this.picture.layout.open.has(f));
    this.picture.toggleAll(!all);
  }

  show(tab) {
    this.tab = tab;
    for (const button of at("tabs").children) button.setAttribute("aria-selected", String(button.id === `tab-${tab}`));
    at("panel").setAttribute("aria-labelledby", `tab-${tab}`);
    this.fresh = null;
    this.panel();
    at("panel").scrollTop = 0;
  }

  panel() {
    const { data, known, step } = this, panel = at("panel");
    const jump = (n) => this.jump(n);
    if (this.tab === "recursion") recursionPanel(panel, data, this.steps, known, step, this.answers, jump);
    else if (this.tab === "node" && this.whole && this.other >= 0) wholePanel(panel, data.whole, this.other, (n) => this.choose(n));
    else if (this.tab === "node") nodePanel(panel, data, this.chosen, known, step, jump);
    else if (this.fresh !== this.tab) (this.tab === "counts" ? countsPanel : memoryPanel)(panel, data, jump);
    this.fresh = this.tab;
  }

  // A node was chosen in the picture: it is shown until the next step.
  choose(n) {
    if (this.whole) {
      this.other = n;
      this.picture.reveal(n);
      this.paint(false);
    } else this.chosen = n;
    this.show("node");
    this.paint(false);
  }

  jump(n) {
    if (this.whole) this.view(false);
    this.chosen = n;
    this.picture.reveal(n);
    this.show("node");
    this.paint(false);
  }

  search() {
    openSearch(at("search"), this.picture.view, (n) => (this.whole ? this.choose(n) : this.jump(n)), (f) => {
      for (let g = f; g >= 0; g = this.picture.tree.parent(g)) this.picture.layout.toggle(g, true);
      this.picture.draw();
      this.picture.show(`f${f}`);
      this.paint(false);
    });
  }

  // -- stepping -----------------------------------------------------------------------------------------------------

  go(step) {
    this.step = Math.max(0, Math.min(this.steps.length - 1, step));
    const now = this.steps[this.step];
    at("position").value = this.step;
    at("position").setAttribute("aria-valuetext", t("step", this.step + 1, this.steps.length));
    at("count").textContent = t("step", this.step + 1, this.steps.length);
    for (const button of at("acts").children) {
      const act = Number(button.dataset.act);
      button.className = act < now.act ? "past" : act === now.act ? "here" : "";
      if (act === now.act) button.setAttribute("aria-current", "step");
      else button.removeAttribute("aria-current");
    }
    if (now.node >= 0) this.chosen = now.node;
    at("now").textContent = this.sentence(now);
    at("now").className = now.kind;
    this.paint(true);
    if (this.step === this.steps.length - 1) this.stop();
  }

  name(n) {
    return this.data.nodes[n].label;
  }

  sentence({ kind, node, by }) {
    const { nodes, update, loss } = this.data;
    const name = node >= 0 ? this.name(node) : "";
    if (kind === "start" || kind === "end") return t(`now.${kind}`);
    if (kind === "value" || kind === "loss") return t(`now.${kind}`, name, brief(nodes[node].value, 48));
    if (kind === "ask") return by < 0 ? t("now.askFirst", name) : t("now.ask", name, this.name(by));
    if (kind === "answer" && node === loss) return t("now.seed", name);
    if (kind === "answer") {
      const shares = nodes[node].contributions.length, value = nodes[node].adjoint ? brief(nodes[node].adjoint, 48) : "( … )";
      return shares > 1 ? t("now.answerSum", name, shares, value) : t("now.answer", name, value);
    }
    if (kind === "pass") return t("now.pass", name, [...new Set(nodes[node].reads.filter((v) => nodes[v].contributions?.some((c) => c.from === node)))].map((v) => this.name(v)).join(", "));
    if (kind === "update") return t("now.update", name, num(update.rate));
    return t(`now.${kind}`, name, by >= 0 ? this.name(by) : "");
  }

  paint(follow) {
    if (this.whole) for (const [n, box] of this.picture.boxes) box.g.classList.toggle("chosen", n === this.other);
    else this.painter.paint(this.picture, this.step, this.chosen, follow);
    this.panel();
  }

  play() {
    if (this.timer) this.stop();
    else {
      if (this.step === this.steps.length - 1) this.go(0);
      this.pace(this.speed);
      this.timer = setInterval(() => this.go(this.step + 1), 1000 / this.speed);
      clear(at("play"), icon("pause"));
      at("play").setAttribute("aria-label", `${t("pause")} (space)`);
    }
  }

  pace(speed) {
    this.speed = speed;
    if (this.timer) {
      clearInterval(this.timer);
      this.timer = setInterval(() => this.go(this.step + 1), 1000 / speed);
    }
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    clear(at("play"), icon("play"));
    at("play").setAttribute("aria-label", `${t("play")} (space)`);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || at("search").open) return;
    const typing = event.target.matches("select, input:not([type=range]), textarea");
    if (typing) return;
    const pressed = event.target.closest("button, [role=button]");
    const keys = {
      ArrowRight: () => this.go(this.step + 1), ArrowLeft: () => this.go(this.step - 1), Home: () => this.go(0), End: () => this.go(Infinity),
      "/": () => this.search(), o: () => this.openAll(), O: () => this.openAll(), "+": () => this.zoom(1.25), "-": () => this.zoom(0.8),
    };
    if (event.key === " " && !pressed) keys[" "] = () => this.play();
    if (event.key === "Enter" && event.target.matches("g[role=button]")) keys.Enter = () => event.target.dispatchEvent(new MouseEvent("click"));
    if (event.target.matches('[role="tab"]') && event.key.startsWith("Arrow")) {
      const all = [...at("tabs").children], k = all.indexOf(event.target) + (event.key === "ArrowRight" ? 1 : -1);
      keys[event.key] = () => all[(k + all.length) % all.length].focus();
    }
    if (!(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  }

  zoom(factor) {
    const { width, height } = at("graph").getBoundingClientRect();
    this.picture.zoom(factor, width / 2, height / 2);
  }
}

document.addEventListener("DOMContentLoaded", () => {
  window.page = new Page(JSON.parse(at("data").textContent));
});
