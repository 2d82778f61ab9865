// Writes onto the boxes what is known at a step, and lights up where something happens.

import { isOperator } from "./graph.js";
import { openQuestions } from "./steps.js";
import { brief } from "./tensors.js";

export class Painter {
  constructor(data, steps, known) {
    this.data = data;
    this.steps = steps;
    this.known = known;
    this.lit = [];
    this.updates = new Map(data.update.of.map((u) => [u.node, u.value]));
  }

  // `chosen` is the node that the panel shows; `follow`: the camera goes where something happens.
  paint(picture, step, chosen, follow) {
    const now = this.steps[step], open = new Set(openQuestions(now));
    for (const [n, box] of picture.boxes) this.box(n, box, open, now, step, chosen);
    for (const [f, box] of picture.folders) this.folder(picture, f, box, open, now, step);
    this.edges(picture, now);
    if (follow && now.node >= 0) picture.show(picture.itemOf(now.node));
  }

  box(n, box, open, now, step, chosen) {
    const node = this.data.nodes[n], { known } = this;
    const valued = known.value[n] <= step, answered = known.answered[n] <= step, updated = known.updated[n] <= step;
    const state = [
      "node", isOperator(node) ? "operator" : "given", node.kind, valued ? "valued" : "", node.contributions ? "" : "apart",
      open.has(n) ? "asked" : "", answered ? "answered" : "", updated ? "updated" : "",
      now.node === n ? `now ${now.kind}` : "", n === chosen ? "chosen" : "",
    ].filter(Boolean).join(" ");
    const shown = updated ? this.updates.get(n) : node.value;
    const value = valued ? (shown ? brief(shown, 17) : "( … )") : "";
    const answer = node.adjoint ? `∂ ${brief(node.adjoint, 16)}` : node.adjoints ? "∂ ( … )" : "∂ 0";
    const adjoint = answered ? answer : open.has(n) ? "∂ ?" : "";
    if (box.state !== state) box.g.setAttribute("class", (box.state = state));
    if (box.shown !== value) box.value.textContent = box.shown = value;
    if (box.adjoint && box.answer !== adjoint) box.adjoint.textContent = box.answer = adjoint;
  }

  // A closed folder: whether something happens in it, and how many of its adjoints are known.
  folder(picture, f, box, open, now, step) {
    if (!this.members) {
      this.members = this.data.folders.map(() => []);
      this.data.nodes.forEach((node, n) => node.contributions && picture.tree.ways[n].forEach((k) => this.members[k].push(n)));
    }
    const members = this.members[f];
    const inside = now.node >= 0 && picture.tree.ways[now.node].includes(f);
    let asked = false;
    for (const n of open) if (picture.tree.ways[n].includes(f)) asked = true;
    const done = members.length ? members.filter((n) => this.known.answered[n] <= step).length / members.length : 0;
    const state = ["folder", "closed", this.data.folders[f].kind, inside ? "now" : "", asked ? "asked" : ""].filter(Boolean).join(" ");
    if (box.state !== state) box.g.setAttribute("class", (box.state = state));
    box.bar.setAttribute("width", (done * box.width).toFixed(1));
  }

  // The way that a question takes down, and an answer up.
  edges(picture, now) {
    for (const element of this.lit) element.classList.remove("up", "down");
    this.lit = [];
    const light = (source, kind, until) => {
      for (const { line, to } of picture.lines.get(source) ?? []) {
        if (to !== picture.itemOf(until) && !to.startsWith("f")) continue;
        line.classList.add(kind);
        this.lit.push(line);
      }
    };
    const { nodes } = this.data;
    if (now.kind === "ask" && now.by >= 0) light(now.by, "down", now.node);
    if ((now.kind === "pulled" || now.kind === "hit") && now.by >= 0) light(now.by, "up", now.node);
    if (now.kind === "pass") for (const v of nodes[now.node].reads) if (nodes[v].contributions) light(v, "up", now.node);
    if (now.kind === "value" || now.kind === "loss") for (const v of nodes[now.node].reads) light(v, "down", now.node);
  }
}
