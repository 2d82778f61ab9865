// Where everything lies. Each open folder is laid out as a graph of its own (by dagre), and is one large box in the
// graph around it. An edge that crosses a folder's border passes a port there, so that the pieces meet. Where many do,
// the folder shows by name what it reads (a stub beside each reader), and what is given to many is drawn to the first.

const PORTS = 8, READERS = 6, STUBS = 3; // up to which lines are drawn
const GAP = 14, RANK = 22, PAD = 12, HEAD = 22;

// The folder tree of a view {nodes: [{reads}], folders: [{parent}], places}: items and edges of each folder.
// Items are "n<node>", "f<folder>", ports "i<node>" and "o<node>"; the folder around everything is -1.
export function hierarchy(view) {
  const parent = (f) => view.folders[f].parent ?? -1;
  const inside = new Map([[-1, []]]);
  const edges = new Map([[-1, new Map()]]);
  view.folders.forEach((_, f) => (inside.set(f, []), edges.set(f, new Map())));
  view.nodes.forEach((_, n) => inside.get(view.places[n] ?? -1).push(`n${n}`));
  view.folders.forEach((_, f) => inside.get(parent(f)).push(`f${f}`));
  const way = (n) => {
    const chain = [];
    for (let f = view.places[n] ?? -1; f >= 0; f = parent(f)) chain.push(f);
    return chain.reverse();
  };
  const ways = view.nodes.map((_, n) => way(n));
  const connect = (folder, from, to, source) => {
    const key = `${from}>${to}`;
    const known = edges.get(folder).get(key);
    if (known) known.sources.add(source);
    else edges.get(folder).set(key, { from, to, sources: new Set([source]) });
  };
  view.nodes.forEach((node, b) => {
    for (const a of node.reads) {
      const wa = ways[a], wb = ways[b];
      let k = 0;
      while (k < wa.length && k < wb.length && wa[k] === wb[k]) k++;
      const item = (chain, level, n) => (level < chain.length ? `f${chain[level]}` : `n${n}`);
      connect(k ? wa[k - 1] : -1, item(wa, k, a), item(wb, k, b), a);
      for (let j = k; j < wa.length; j++) connect(wa[j], item(wa, j + 1, a), `o${a}`, a);
      for (let j = k; j < wb.length; j++) connect(wb[j], `i${a}`, item(wb, j + 1, b), a);
    }
  });
  const given = new Set(view.nodes.flatMap((node, n) => (node.reads.length ? [] : [n])));
  return { inside, edges, parent, ways, given };
}

// Lays out what is open. `size(item)` is the box of a node or of a closed folder; results are kept per folder until
// something inside is opened or closed.
export class Layout {
  constructor(tree, size, sideways) {
    this.tree = tree;
    this.size = size;
    this.sideways = sideways;
    this.open = new Set();
    this.known = new Map();
    this.names = new Map();
  }

  toggle(folder, open) {
    if (open) this.open.add(folder);
    else this.open.delete(folder);
    for (let f = folder; f >= 0; f = this.tree.parent(f)) this.known.delete(f);
    this.known.delete(-1);
  }

  turn(sideways) {
    this.sideways = sideways;
    this.known.clear();
  }

  // {w, h, boxes: Map(item -> {x, y, w, h}), edges: [{from, to, sources, points}], ports: Map(item -> {x, y})}; the
  // origin is the upper left corner, x and y of boxes are theirs.
  of(folder) {
    if (!this.known.has(folder)) this.known.set(folder, this.arrange(folder));
    return this.known.get(folder);
  }

  box(item, stubs = false) {
    if (item[0] === "f" && this.open.has(Number(item.slice(1)))) return this.of(Number(item.slice(1)));
    if (item[0] === "o" || (item[0] === "i" && !stubs)) return { w: 2, h: 2 };
    return this.size(item);
  }

  arrange(folder) {
    const graph = new dagre.graphlib.Graph();
    graph.setGraph({ rankdir: "TB", nodesep: GAP, ranksep: RANK, edgesep: 8 });
    const items = this.tree.inside.get(folder);
    const stubs = this.named(folder);
    const inside = (e) => e.from[0] === "i" && e.to[0] === "f" && this.named(Number(e.to.slice(1)));
    const edges = this.drawn(folder).filter((e) => !stubs || !inside(e));
    const add = (item) => {
      const { w, h } = this.box(item, stubs);
      graph.setNode(item, this.sideways ? { width: h, height: w } : { width: w, height: h });
    };
    items.forEach(add);
    graph.setNode("top", { width: 1, height: 1 });
    graph.setNode("bottom", { width: 1, height: 1 });
    const ports = new Set();
    for (const { from, to, sources } of edges) {
      for (const item of [from, to]) {
        if ((item[0] === "i" || item[0] === "o") && !graph.hasNode(item)) {
          if (!stubs || item[0] === "o") ports.add(item);
          add(item);
          if (item[0] === "i" && stubs) continue;
          if (item[0] === "i") graph.setEdge("top", item, { weight: 20, minlen: 1 });
          else graph.setEdge(item, "bottom", { weight: 20, minlen: 1 });
        }
      }
      graph.setEdge(from, to, { weight: from[0] === "n" && to[0] === "n" ? 2 : 1, minlen: 1, width: 1, height: 1, sources });
    }
    if (!ports.size) ["top", "bottom"].forEach((n) => graph.removeNode(n));
    dagre.layout(graph);
    return this.read(graph, folder, ports, edges, stubs);
  }

  // The edges of a folder; of what is given (parameters, ports) to many, the first one.
  drawn(folder) {
    const all = this.leaving(folder, [...this.tree.edges.get(folder).values()]);
    const readers = new Map();
    for (const { from } of all) readers.set(from, (readers.get(from) ?? 0) + 1);
    const seen = new Set();
    return all.filter(({ from }) => {
      const given = from[0] === "i" || (from[0] === "n" && this.tree.given.has(Number(from.slice(1))));
      if (!given || readers.get(from) <= READERS) return true;
      if (seen.has(from)) return false;
      return seen.add(from);
    });
  }

  // Whether what a folder reads from outside is shown as names beside the readers: where it is much, and already where
  // the folder around does so.
  named(folder) {
    if (folder < 0) return false;
    if (!this.names.has(folder)) {
      const many = new Set(this.drawn(folder).map((e) => e.from).filter((item) => item[0] === "i")).size;
      this.names.set(folder, many > PORTS || (many > STUBS && this.named(this.tree.parent(folder))));
    }
    return this.names.get(folder);
  }

  // Where much of a folder is read outside (what the backward pass reads of the forward pass), the lines to its border
  // are those to its neighbours, if these are few; the others begin at the border.
  leaving(folder, edges) {
    const out = (item) => item[0] === "o";
    if (folder < 0 || new Set(edges.map((e) => e.to).filter(out)).size <= PORTS) return edges;
    const around = this.tree.edges.get(this.tree.parent(folder)).values();
    const near = new Set([...around].flatMap((e) => (e.from === `f${folder}` && !out(e.to) ? [...e.sources] : [])).map((n) => `o${n}`));
    return edges.filter((e) => !out(e.to) || (near.size <= PORTS && near.has(e.to)));
  }

  read(graph, folder, ports, edges, stubs) {
    const turn = ({ x, y }) => (this.sideways ? { x: y, y: x } : { x, y });
    const boxes = new Map(), at = new Map();
    let left = Infinity, top = Infinity, right = -Infinity, bottom = -Infinity;
    const reach = (x, y) => {
      left = Math.min(left, x), right = Math.max(right, x), top = Math.min(top, y), bottom = Math.max(bottom, y);
    };
    for (const item of graph.nodes()) {
      if (item === "top" || item === "bottom") continue;
      const centre = turn(graph.node(item));
      if (ports.has(item)) {
        at.set(item, centre);
        continue; // it is moved to the border: only how far along matters

      }
      const { w, h } = this.box(item, stubs);
      boxes.set(item, { x: centre.x - w / 2, y: centre.y - h / 2, w, h });
      reach(centre.x - w / 2, centre.y - h / 2);
      reach(centre.x + w / 2, centre.y + h / 2);
    }
    const drawn = edges.map(({ from, to, sources }) => {
      const points = graph.edge(from, to).points.map(turn);
      const inner = points.slice(from[0] === "i" ? 2 : 1, to[0] === "o" ? -2 : -1);
      inner.forEach((p) => reach(p.x, p.y));
      return { from, to, sources, points };
    });
    for (const { x, y } of at.values()) {
      if (this.sideways) (top = Math.min(top, y)), (bottom = Math.max(bottom, y));
      else (left = Math.min(left, x)), (right = Math.max(right, x));
    }
    if (left === Infinity) left = top = right = bottom = 0;
    const pad = folder >= 0 ? PAD : 8, head = folder >= 0 ? HEAD : 0;
    const dx = pad - left, dy = pad + head - top;
    const w = Math.max(right - left + 2 * pad, folder >= 0 ? this.size(`f${folder}`).w : 0), h = bottom - top + 2 * pad + head;
    for (const box of boxes.values()) (box.x += dx), (box.y += dy);
    const moved = new Set();
    for (const p of [...at.values(), ...drawn.flatMap((e) => e.points)]) {
      if (!moved.has(p)) (p.x += dx), (p.y += dy), moved.add(p);
    }
    for (const [item, p] of at) {
      if (this.sideways) p.x = item[0] === "i" ? 0 : w;
      else p.y = item[0] === "i" ? 0 : h;
    }
    for (const e of drawn) {
      const within = (p) => p.x > 0 && p.x < w && p.y > 0 && p.y < h;
      const middle = e.points.slice(1, -1).filter(within);
      const first = at.get(e.from) ?? e.points[0], last = at.get(e.to) ?? e.points[e.points.length - 1];
      e.points = [first, ...middle, last];
    }
    return { w, h, boxes, edges: drawn, ports: at };
  }
}

// A curve through points that leaves and arrives along the direction of the layout.
export function curve(points, sideways) {
  let path = `M${points[0].x.toFixed(1)},${points[0].y.toFixed(1)}`;
  for (let i = 1; i < points.length; i++) {
    const a = points[i - 1], b = points[i];
    const mx = (a.x + b.x) / 2, my = (a.y + b.y) / 2;
    const [p, q] = sideways ? [[mx, a.y], [mx, b.y]] : [[a.x, my], [b.x, my]];
    path += `C${p[0].toFixed(1)},${p[1].toFixed(1)} ${q[0].toFixed(1)},${q[1].toFixed(1)} ${b.x.toFixed(1)},${b.y.toFixed(1)}`;
  }
  return path;
}
