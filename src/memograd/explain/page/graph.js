// The picture of a graph: boxes, folders, edges; the camera; what is known is written onto the boxes.

import { clear, svg } from "./dom.js";
import { Layout, curve, hierarchy } from "./layout.js";
import { t } from "./words.js";

const NODE_H = 58, PILL_H = 40, FOLDER_H = 46;

export class Picture {
  // `view`: {nodes, folders, places}; `chosen(n)` is called when a node is chosen; `two`: boxes have room for two numbers.
  constructor(root, view, chosen, { two = true, sideways = false } = {}) {
    this.root = root;
    this.view = view;
    this.chosen = chosen;
    this.two = two;
    this.tree = hierarchy(view);
    this.widths = new Map();
    this.layout = new Layout(this.tree, (item) => this.size(item), sideways);
    this.camera = { x: 0, y: 0, k: 1 };
    this.world = svg("g", { class: "world" });
    this.sizes = view.folders.map(() => 0);
    this.ends = view.folders.map(() => null); // labels of the first and the last operator inside
    view.nodes.forEach((node, n) => {
      if (!isOperator(node)) return;
      for (const f of this.tree.ways[n]) (this.sizes[f] += 1), (this.ends[f] ??= [node.label])[1] = node.label;
    });
    clear(root, arrows(), this.world);
  }

  size(item) {
    if (!this.widths.has(item)) {
      const i = Number(item.slice(1));
      if (item[0] === "i") this.widths.set(item, { w: 14 + 6.7 * this.view.nodes[i].label.length, h: 20 });
      else if (item[0] === "f") this.widths.set(item, { w: Math.max(104, 46 + 7.6 * this.folderName(i).length), h: FOLDER_H });
      else {
        const node = this.view.nodes[i];
        const given = !isOperator(node);
        const h = !this.two ? (given ? 28 : 40) : given && !node.contributions ? PILL_H : NODE_H;
        this.widths.set(item, { w: Math.max(this.two ? 146 : 92, 26 + 7.8 * node.label.length), h });
      }
    }
    return this.widths.get(item);
  }

  folderName(f) {
    const folder = this.view.folders[f];
    if (folder.kind === "run") {
      return this.ends[f] ? t("run", ...this.ends[f]) : "…";
    }
    if (folder.kind === "group") return `${folder.label}${folder.blocks ? ` ×${folder.blocks}` : ""}`;
    const name = /^\d+$/.test(folder.label) && folder.type ? `${folder.label} ${folder.type}` : folder.label; // of a list
    return folder.call >= 0 ? `${name} · ${t("callNumber", folder.call + 1)}` : name;
  }

  draw() {
    this.boxes = new Map();
    this.folders = new Map();
    this.places = new Map();
    this.lines = new Map();
    clear(this.world);
    this.behind = svg("g"), this.edges = svg("g", { class: "edges" }), this.front = svg("g");
    this.world.append(this.behind, this.edges, this.front);
    const whole = this.layout.of(-1);
    this.extent = whole;
    this.drawFolder(-1, 0, 0);
    this.look();
  }

  drawFolder(folder, x, y) {
    const laid = this.layout.of(folder);
    for (const [item, box] of laid.boxes) {
      const place = { x: x + box.x, y: y + box.y, w: box.w, h: box.h };
      this.places.set(item, place);
      const i = Number(item.slice(1));
      if (item[0] === "n") this.drawNode(i, place);
      else if (item[0] === "i") this.drawStub(i, place);
      else this.drawBox(i, place, this.layout.open.has(i));
      if (item[0] === "f" && this.layout.open.has(i)) this.drawFolder(i, place.x, place.y);
    }
    const port = (item, kind, source) => {
      const f = Number(item.slice(1));
      if (item[0] !== "f" || !this.layout.open.has(f)) return null;
      const p = this.layout.of(f).ports.get(`${kind}${source}`), place = this.places.get(item);
      return p ? { x: place.x + p.x, y: place.y + p.y } : null;
    };
    for (const { from, to, sources, points } of laid.edges) {
      const shifted = points.map((p) => ({ x: p.x + x, y: p.y + y }));
      const ports = [...sources].map((s) => [s, port(from, "o", s), port(to, "i", s)]);
      const apart = ports.some(([, a, b]) => a || b);
      for (const [source, a, b] of apart ? ports : [[null, null, null]]) {
        const own = apart && shifted.length <= 3 ? [shifted[0], shifted[shifted.length - 1]] : [...shifted];
        if (a) own[0] = a;
        if (b) own[own.length - 1] = b;
        const end = to[0] !== "o" && !(to[0] === "f" && b);
        const line = svg("path", { d: curve(own, this.layout.sideways), class: "edge", "marker-end": end ? "url(#arrow)" : null });
        this.edges.append(line);
        for (const s of source === null ? sources : [source]) {
          if (!this.lines.has(s)) this.lines.set(s, []);
          this.lines.get(s).push({ line, to, folder });
        }
      }
    }
  }

  drawNode(n, place) {
    const node = this.view.nodes[n];
    const given = !isOperator(node);
    const g = svg("g", {
      class: `node ${given ? "given" : "operator"} ${node.kind}${this.two ? "" : " valued"}`, transform: `translate(${place.x},${place.y})`,
      role: "button", tabindex: -1, "data-node": n,
    });
    g.append(svg("rect", { width: place.w, height: place.h, rx: given ? 20 : 9 }));
    const line = (text, y, kind) => {
      const element = svg("text", { x: place.w / 2, y, class: kind }, text);
      g.append(element);
      return element;
    };
    const box = { g };
    if (this.two) {
      line(node.label, 17, "name");
      box.value = line("", 33, "value");
      if (place.h === NODE_H) box.adjoint = line("", 49, "adjoint");
    } else {
      line(node.label, given ? 18 : 17, "name");
      if (!given) line(node.shape ?? "", 32, "value");
    }
    g.addEventListener("click", () => this.moved || this.chosen(n));
    this.front.append(g);
    this.boxes.set(n, box);
  }

  // What a folder with many inputs reads from outside: its name, which leads there.
  drawStub(n, place) {
    const g = svg("g", { class: "stub", transform: `translate(${place.x},${place.y})`, role: "button", tabindex: -1 },
      svg("rect", { width: place.w, height: place.h, rx: 10 }), svg("text", { x: place.w / 2, y: 14 }, this.view.nodes[n].label));
    g.addEventListener("click", () => this.moved || (this.reveal(n), this.chosen(n)));
    this.front.append(g);
  }

  drawBox(f, place, open) {
    const folder = this.view.folders[f], name = this.folderName(f);
    const g = svg("g", {
      class: `folder ${open ? "open" : "closed"} ${folder.kind}`, transform: `translate(${place.x},${place.y})`,
      role: "button", tabindex: 0, "aria-expanded": String(open), "data-folder": f,
    });
    if (!open && folder.blocks > 1) {
      for (const d of [8, 4]) g.append(svg("rect", { class: "shadow", x: d, y: d, width: place.w, height: place.h, rx: 10 }));
    }
    g.append(svg("rect", { width: place.w, height: place.h, rx: 10 }));
    if (open) g.append(svg("text", { x: 12, y: 18, class: "name" }, `▾ ${name}`));
    else {
      g.append(svg("text", { x: place.w / 2, y: 19, class: "name" }, `▸ ${name}`));
      g.append(svg("text", { x: place.w / 2, y: 34, class: "size" }, t("folder", this.sizes[f])));
      const bar = svg("rect", { class: "done", x: 8, y: place.h - 6, width: 0, height: 3, rx: 1.5 });
      g.append(bar);
      this.folders.set(f, { g, bar, width: place.w - 16 });
    }
    g.addEventListener("click", () => this.moved || this.toggle(f));
    (open ? this.behind : this.front).append(g);
  }

  // The box that stands for a node: its own, or the closed folder it lies in.
  itemOf(n) {
    for (const f of this.tree.ways[n]) if (!this.layout.open.has(f)) return `f${f}`;
    return `n${n}`;
  }

  toggle(f, open = !this.layout.open.has(f)) {
    const before = this.places.get(`f${f}`), focused = document.activeElement?.getAttribute("data-folder") === String(f);
    this.layout.toggle(f, open);
    this.draw();
    const after = this.places.get(`f${f}`);
    if (before && after) {
      this.camera.x += (before.x - after.x) * this.camera.k;
      this.camera.y += (before.y - after.y) * this.camera.k;
      this.look();
    }
    if (focused) this.world.querySelector(`[data-folder="${f}"]`)?.focus();
    this.changed?.();
  }

  // Opens folders from the outside in, while no more than so many boxes are to be seen.
  openSome(most) {
    const boxes = (f) => this.tree.inside.get(f).length;
    let seen = boxes(-1);
    for (const waiting = [-1]; waiting.length; ) {
      for (const item of this.tree.inside.get(waiting.shift())) {
        const f = item[0] === "f" ? Number(item.slice(1)) : -1;
        if (f < 0 || seen + boxes(f) - 1 > most) continue;
        seen += boxes(f) - 1;
        this.layout.toggle(f, true);
        waiting.push(f);
      }
    }
  }

  toggleAll(open) {
    this.view.folders.forEach((_, f) => this.layout.toggle(f, open));
    this.draw();
    this.fit();
    this.changed?.();
  }

  reveal(n) {
    const closed = this.tree.ways[n].filter((f) => !this.layout.open.has(f));
    if (closed.length) {
      closed.forEach((f) => this.layout.toggle(f, true));
      this.draw();
      this.changed?.();
    }
    const { width, height } = this.room ?? this.measure();
    if (this.camera.k < 0.8) this.zoom(0.9 / this.camera.k, width / 2, height / 2);
    this.show(`n${n}`);
  }

  turn() {
    this.layout.turn(!this.layout.sideways);
    this.draw();
    this.fit();
    this.changed?.();
  }

  // -- the camera ---------------------------------------------------------------------------------------------------

  look() {
    const { x, y, k } = this.camera;
    this.world.setAttribute("transform", `translate(${x.toFixed(2)},${y.toFixed(2)}) scale(${k.toFixed(4)})`);
  }

  // The room there is; asking for it at each step would lay out the page each time.
  measure() {
    const { width, height } = this.root.getBoundingClientRect();
    return (this.room = { width, height });
  }

  fit() {
    const { width, height } = this.measure();
    const whole = Math.min((width - 16) / this.extent.w, (height - 16) / this.extent.h);
    const k = whole < 0.5 ? 0.62 : Math.min(1.3, Math.max(whole, Math.min(whole < 0.6 ? 0.72 : 0.6, (width - 16) / this.extent.w)));
    const [w, h] = [this.extent.w * k, this.extent.h * k];
    this.camera = { k, x: (width - w) / 2, y: Math.max(8, (height - h) / 2) };
    if (this.layout.sideways) this.camera = { k, x: Math.max(8, (width - w) / 2), y: (height - h) / 2 };
    this.look();
  }

  // For paper: all of it, whatever the camera shows.
  whole(printing) {
    if (printing) {
      this.root.setAttribute("viewBox", `0 0 ${Math.ceil(this.extent.w)} ${Math.ceil(this.extent.h)}`);
      this.world.removeAttribute("transform");
    } else {
      this.root.removeAttribute("viewBox");
      this.look();
    }
  }

  // Moves only as far as it must, so that the box of an item is seen.
  show(item, margin = 70) {
    const place = this.places.get(item);
    if (!place) return;
    const { width, height } = this.room ?? this.measure();
    if (!width) return;
    const c = this.camera;
    const near = (low, high, room) => {
      const m = Math.min(margin, room / 4);
      if (high - low > room - 2 * m) return m - low;
      return low < m ? m - low : high > room - m ? room - m - high : 0;
    };
    c.x += near(place.x * c.k + c.x, (place.x + place.w) * c.k + c.x, width);
    c.y += near(place.y * c.k + c.y, (place.y + place.h) * c.k + c.y, height);
    this.look();
  }

  zoom(factor, x, y) {
    const c = this.camera, k = Math.min(4, Math.max(0.02, c.k * factor));
    c.x = x - ((x - c.x) * k) / c.k;
    c.y = y - ((y - c.y) * k) / c.k;
    c.k = k;
    this.look();
  }
}

export function isOperator(node) {
  return node.kind === "operator" || node.kind === "forward" || node.kind === "backward" || node.kind === "update";
}

function arrows() {
  const head = (id) =>
    svg("marker", { id, viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 9, markerHeight: 9, markerUnits: "userSpaceOnUse", orient: "auto-start-reverse" },
      svg("path", { d: "M0,0.8 L8,4 L0,7.2 z" }));
  return svg("defs", {}, head("arrow"));
}
