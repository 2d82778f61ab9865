// The four acts as a list of steps, and what is known at each of them.

export const ASK = 0, HIT = 1, ANSWER = 2, PULL = 3, PULLED = 4, PASS = 5;

// Steps: {act, kind, node, by, open, formed, hits}. `open` is the stack of questions as a linked list, newest first:
// {node, via, below}; `formed` and `hits` count the products formed and the table hits up to then.
export function stepsOf(data) {
  const steps = [{ act: 0, kind: "start", node: -1, open: null, formed: 0, hits: 0 }];
  const push = (step) => steps.push(step);
  for (const act of [0, 1]) {
    data.nodes.forEach((node, i) => {
      if (node.kind === "operator" && (node.act === "loss") === (act === 1)) {
        push({ act, kind: i === data.loss ? "loss" : "value", node: i, open: null, formed: 0, hits: 0 });
      }
    });
  }
  backward(data, push);
  const { formed, hits } = steps[steps.length - 1];
  for (const update of data.update.of) push({ act: 3, kind: "update", node: update.node, open: null, formed, hits });
  push({ act: 3, kind: "end", node: -1, open: null, formed, hits });
  return steps;
}

// Asking for the products of u and asking for adjoint(u) are one step: a question that comes from adjoint(v).
function backward(data, push) {
  const edges = edgesOf(data);
  let open = null, formed = 0, hits = 0, from = -1;
  for (const [kind, node] of data.events) {
    const by = open ? open.node : -1;
    if (kind === PULL) {
      from = by;
      continue;
    }
    if (kind === ASK) {
      open = { node, below: open };
      push({ act: 2, kind: "ask", node, by: from, open, formed, hits });
    } else if (kind === ANSWER) {
      push({ act: 2, kind: "answer", node, by, open, formed, hits });
      open = open.below;
    } else if (kind === PASS) {
      formed += edges[node];
      push({ act: 2, kind: "pass", node, by, open, formed, hits });
    } else {
      hits += 1;
      push({ act: 2, kind: kind === HIT ? "hit" : "pulled", node, by: kind === HIT && from < 0 ? -1 : by, open, formed, hits });
    }
    from = -1;
  }
}

// How many products each operator forms: one for each summand it passes back.
export function edgesOf(data) {
  const edges = new Array(data.nodes.length).fill(0);
  for (const node of data.nodes) for (const c of node.contributions ?? []) edges[c.from] += 1;
  return edges;
}

// For each node the step from which on its value, its adjoint and its update are known, and when it was asked for.
export function knownFrom(data, steps) {
  const never = Infinity;
  const value = data.nodes.map((n) => (n.kind === "operator" ? never : 0));
  const asked = data.nodes.map(() => never), answered = data.nodes.map(() => never), updated = data.nodes.map(() => never);
  const passed = data.nodes.map(() => never);
  steps.forEach(({ kind, node }, i) => {
    if (kind === "value" || kind === "loss") value[node] = i;
    else if (kind === "ask") asked[node] = i;
    else if (kind === "answer") answered[node] = i;
    else if (kind === "pass") passed[node] = i;
    else if (kind === "update") updated[node] = i;
  });
  return { value, asked, answered, passed, updated };
}

export function openQuestions(step) {
  const list = [];
  for (let q = step.open; q; q = q.below) list.push(q.node);
  return list;
}

// The call tree of a protocol: {node, hit, children, at}, `at` being the number of products formed when it was answered.
// Without a table only the product that was asked for counts, with it the products for all operands are formed at once.
export function callTree(data, events, memoized) {
  const edges = edgesOf(data);
  const asked = (v, u) => data.nodes[v].contributions.filter((c) => c.from === u).length;
  const root = { node: -1, hit: false, children: [], at: 0 };
  const stack = [root];
  let formed = 0;
  for (const [kind, node] of events) {
    const top = stack[stack.length - 1];
    if (kind === ASK) {
      const call = { node, hit: false, children: [], at: formed };
      top.children.push(call);
      stack.push(call);
    } else if (kind === ANSWER) stack.pop().at = formed;
    else if (kind === PASS) formed += memoized ? edges[node] : asked(top.node, node);
    else if (kind === HIT || kind === PULLED) top.children.push({ node, hit: true, children: [], at: formed });
  }
  return { root, formed };
}
