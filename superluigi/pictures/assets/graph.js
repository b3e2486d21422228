"use strict";
/* The page of a graph. `DATA` is what superluigi/pictures/graphs.py tells; whatever stands in it is shown as text.

   There may be ten thousand tasks, of which no more than MAX_BOXES boxes are drawn: those of one group that are not
   opened are one box. `choice` is all that the reader has chosen; `redraw` makes the picture of it, `show` the panel. */

const MAX_BOXES = 200; // that are laid out and drawn; those farthest from the roots are left out
const MAX_WORK = 1200; // wires, and ranks that they pass: where all lead to all fewer boxes are drawn
const SMALL = 60; // tasks that are each drawn from the beginning
const PORTION = 25; // tasks of a group that are opened at once
const LISTED = 100; // tasks of a list that are shown at once

const LOOKS = DATA.looks.map(([state, sign, tone, meaning]) => ({ state, sign, tone, meaning }));
const TASKS = DATA.nodes.map(([key, label, look, family, group, upstream, sections], index) => ({
  index,
  key,
  label,
  look: LOOKS[look],
  family: DATA.names[family],
  group: DATA.names[group],
  requires: pairs(upstream).map(([task, role]) => ({ task, role: DATA.names[role] })),
  requiredBy: [],
  sections,
  sought: `${label}\n${key}`.toLowerCase(),
}));
for (const task of TASKS) for (const { task: upstream, role } of task.requires) TASKS[upstream].requiredBy.push({ task: task.index, role });
const RANK = ["bad", "note", "plain", "faint", "good"]; // of the tones, by what is to be noticed first
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const at = (id) => document.getElementById(id);

const choice = {
  hiddenStates: new Set(),
  hiddenFamilies: new Set(),
  opened: new Map(), // groups, and how many of their tasks are drawn by themselves
  picked: new Set(), // tasks that are drawn by themselves because they were looked for
  around: null, // the neighbourhood that alone is shown: {task, levels}
  selected: null, // the id of a box
};
let boxes = new Map(); // what is drawn, by id
let boxOf = new Map(); // by the index of a task that is in the picture
let isFitted = true; // all is seen, as nobody has moved or zoomed since
let cy = null;

function pairs(flat) {
  const found = [];
  for (let i = 0; i < flat.length; i += 2) found.push([flat[i], flat[i + 1]]);
  return found;
}

// Which boxes there are

function reached(start, levels) {
  const found = new Set([start]);
  for (const direction of ["requires", "requiredBy"]) {
    let level = [start];
    const seen = new Set(level);
    for (let depth = 0; depth < levels && level.length; depth++) {
      const next = [];
      for (const from of level) {
        for (const { task } of TASKS[from][direction]) {
          if (!seen.has(task)) {
            seen.add(task);
            next.push(task);
          }
        }
      }
      level = next;
    }
    for (const task of seen) found.add(task);
  }
  return found;
}

function shownTasks() {
  const near = choice.around && reached(choice.around.task, choice.around.levels);
  return TASKS.filter(
    (task) =>
      (!near || near.has(task.index)) &&
      !choice.hiddenStates.has(task.look.state) &&
      !choice.hiddenFamilies.has(task.family),
  );
}

function byNotice(tasks) {
  return [...tasks].sort((one, other) => RANK.indexOf(one.look.tone) - RANK.indexOf(other.look.tone) || one.index - other.index);
}

function makeBoxes(tasks) {
  const found = new Map();
  const alone = (task) => found.set(`t${task.index}`, { id: `t${task.index}`, tasks: [task], group: task.group });
  const groups = new Map();
  for (const task of tasks) {
    if (!task.group) alone(task);
    else if (groups.has(task.group)) groups.get(task.group).push(task);
    else groups.set(task.group, [task]);
  }
  for (const [group, members] of groups) {
    const open = choice.opened.get(group) ?? (tasks.length <= SMALL ? Infinity : 0);
    const singled = members.filter((task) => choice.picked.has(task.index));
    const others = byNotice(members.filter((task) => !choice.picked.has(task.index)));
    [...singled, ...others.slice(0, open)].forEach(alone);
    const rest = others.slice(open);
    if (rest.length === 1) alone(rest[0]);
    else if (rest.length) found.set(`g${group}`, { id: `g${group}`, tasks: rest, group, isMany: true });
  }
  return found;
}

function wires(drawn, memberOf) {
  const found = new Map();
  for (const box of drawn.values()) {
    for (const task of box.tasks) {
      for (const { task: upstream, role: full } of task.requires) {
        const role = full.split(".").filter((part) => !/^\d+$/.test(part)).join("."); // without positions in lists
        const source = memberOf.get(upstream);
        if (!source) continue;
        const id = `${source.id}>${box.id}`;
        const wire = found.get(id);
        if (wire) {
          wire.count += 1;
          if (wire.role !== role) wire.role = "";
        } else found.set(id, { id, source, target: box, role, count: 1 });
      }
    }
  }
  return [...found.values()];
}

/* The boxes nearest to the roots, or to what was looked for: so many as can be laid out in a moment. */
function nearest(found, memberOf, links) {
  const starts = choice.around ? [choice.around.task] : [...choice.picked, ...DATA.roots];
  const beside = new Map([...found.values()].map((box) => [box, []]));
  for (const { source, target } of links) {
    beside.get(target).push(source);
    beside.get(source).push(target);
  }
  const order = new Set(starts.map((task) => memberOf.get(task)).filter(Boolean));
  for (const box of order) {
    if (order.size > MAX_BOXES) break;
    beside.get(box).forEach((next) => order.add(next));
  }
  for (const box of found.values()) order.add(box);
  let near = new Set([...order].slice(0, MAX_BOXES));
  while (near.size > 1 && work(near, links) > MAX_WORK) near = new Set([...near].slice(0, 0.8 * near.size));
  return new Map([...near].map((box) => [box.id, box]));
}

/* How much there is to lay out: each wire, and each rank that it passes on its way. */
function work(drawn, links) {
  const among = links.filter(({ source, target }) => source !== target && drawn.has(source) && drawn.has(target));
  const waiting = new Map([...drawn].map((box) => [box, 0]));
  const after = new Map([...drawn].map((box) => [box, []]));
  for (const { source, target } of among) {
    waiting.set(target, waiting.get(target) + 1);
    after.get(source).push(target);
  }
  const rank = new Map([...drawn].map((box) => [box, 0]));
  const done = new Set();
  const ready = [...drawn].filter((box) => !waiting.get(box));
  for (const start of [null, ...drawn]) { // where groups form circles these are entered somewhere
    if (start && !done.has(start)) ready.push(start);
    while (ready.length) {
      const box = ready.pop();
      done.add(box);
      for (const next of after.get(box).filter((next) => !done.has(next))) {
        rank.set(next, Math.max(rank.get(next), rank.get(box) + 1));
        waiting.set(next, waiting.get(next) - 1);
        if (!waiting.get(next)) ready.push(next);
      }
    }
  }
  return among.reduce((sum, { source, target }) => sum + Math.max(1, Math.abs(rank.get(target) - rank.get(source))), 0);
}

// How they look

function short(text, length) {
  return text.length > length ? `${text.slice(0, length - 1)}…` : text;
}

function countsOf(tasks) {
  const counts = new Map();
  for (const task of byNotice(tasks)) counts.set(task.look, (counts.get(task.look) ?? 0) + 1);
  return [...counts];
}

function wordsOf(box) {
  if (box.isMany) {
    const counts = countsOf(box.tasks).map(([look, count]) => `${look.sign} ${count.toLocaleString("en")}`);
    return [`${short(box.group, 34)} × ${box.tasks.length.toLocaleString("en")}`, counts.join("   ")];
  }
  const [task] = box.tasks;
  const isCall = task.family && task.label.startsWith(`${task.family}(`) && task.label.endsWith(")");
  const name = `${task.look.sign} ${short(isCall ? task.family : task.label, 36)}`;
  const params = isCall ? short(task.label.slice(task.family.length + 1, -1), 36) : "";
  return params ? [name, params] : [name];
}

const FONT = '13px system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif';
const ruler = document.createElement("canvas").getContext("2d");
ruler.font = FONT;

function asElement(box) {
  const words = wordsOf(box);
  const counts = countsOf(box.tasks);
  const [most] = counts.reduce((one, other) => (other[1] > one[1] ? other : one));
  const width = Math.max(90, ...words.map((line) => ruler.measureText(line).width)) + 28;
  const shares = sharesOf(counts, box.tasks.length);
  const data = { id: box.id, words: words.join("\n"), width, height: words.length > 1 ? 48 : 32, shares };
  return { data, classes: [most.tone, ...(box.isMany ? ["many"] : [])] };
}

function sharesOf(counts, total) {
  const least = 0.06; // what is one of ten thousand is seen, too
  const wide = counts.map(([look, count]) => ({ tone: look.tone, share: Math.max(least, count / total) }));
  const sum = wide.reduce((before, { share }) => before + share, 0);
  let from = 0;
  return wide.map(({ tone, share }) => ({ tone, from, to: (from = Math.min(100, from + (100 * share) / sum)) }));
}

function styles() {
  const variables = getComputedStyle(document.documentElement);
  const colour = (name) => variables.getPropertyValue(`--${name}`).trim();
  return [
    {
      selector: "node",
      style: {
        shape: "round-rectangle",
        "corner-radius": 7,
        width: "data(width)",
        height: "data(height)",
        "border-width": 1.5,
        label: "data(words)",
        "text-wrap": "wrap",
        "text-max-width": 1000,
        "text-valign": "center",
        "line-height": 1.35,
        "font-size": 13,
        "font-family": FONT.slice(5),
        "min-zoomed-font-size": 5,
      },
    },
    ...RANK.map((tone) => ({
      selector: `node.${tone}`,
      style: {
        "background-color": colour(`${tone}-fill`),
        "border-color": colour(`${tone}-line`),
        color: colour(`${tone}-ink`),
      },
    })),
    {
      selector: "node.many",
      style: {
        "border-style": "double",
        "border-width": 5,
        color: colour("ink"),
        "background-fill": "linear-gradient",
        "background-gradient-direction": "to-right",
        "background-gradient-stop-colors": (node) =>
          node.data("shares").flatMap(({ tone }) => [colour(`${tone}-fill`), colour(`${tone}-fill`)]).join(" "),
        "background-gradient-stop-positions": (node) => node.data("shares").flatMap(({ from, to }) => [from, to]).join(" "),
      },
    },
    {
      selector: "edge",
      style: {
        width: 1.4,
        "line-color": colour("wire"),
        "target-arrow-color": colour("wire"),
        "target-arrow-shape": "triangle",
        "arrow-scale": 0.9,
        "curve-style": "bezier",
        label: "data(role)",
        "font-size": 11,
        "font-family": FONT.slice(5),
        color: colour("faint"),
        "text-background-color": colour("ground"),
        "text-background-opacity": 0.85,
        "text-background-padding": 2,
        "min-zoomed-font-size": 7,
      },
    },
    {
      selector: "edge.ahead",
      style: {
        "curve-style": "unbundled-bezier",
        "control-point-weights": (edge) => edge.data("bend").weights,
        "control-point-distances": (edge) => edge.data("bend").distances,
        "edge-distances": "node-position",
      },
    },
    { selector: "edge.rightward", style: { "source-endpoint": "50% 0%", "target-endpoint": "-50% 0%" } },
    { selector: "edge.downward", style: { "source-endpoint": "0% 50%", "target-endpoint": "0% -50%" } },
    { selector: "edge.loop", style: { "loop-direction": "0deg", "loop-sweep": "-50deg", "control-point-step-size": 50 } },
    { selector: ".dimmed", style: { opacity: 0.25 } },
    { selector: "node.found", style: { "border-color": colour("chosen"), "border-width": 4, "border-style": "solid" } },
    { selector: "node.selected", style: { "border-color": colour("chosen"), "border-width": 4, "border-style": "solid" } },
    {
      selector: "edge.near",
      style: { width: 2.5, "line-color": colour("chosen"), "target-arrow-color": colour("chosen"), "z-index": 9 },
    },
  ];
}

// The picture

function redraw({ keepView = false } = {}) {
  const tasks = shownTasks();
  const all = makeBoxes(tasks);
  const memberOf = new Map();
  for (const box of all.values()) for (const task of box.tasks) memberOf.set(task.index, box);
  const links = wires(all, memberOf);
  boxes = all.size > MAX_BOXES || work(new Set(all.values()), links) > MAX_WORK ? nearest(all, memberOf, links) : all;
  boxOf = new Map([...memberOf].filter(([, box]) => boxes.has(box.id)));
  if (!boxes.has(choice.selected)) choice.selected = null;
  const drawn = links.filter(({ source, target }) => boxes.has(source.id) && boxes.has(target.id));
  cy.elements().remove();
  cy.add([
    ...[...boxes.values()].map(asElement),
    ...drawn.map(({ id, source, target, role }) => ({
      data: { id: `e${id}`, source: source.id, target: target.id, role: short(role, 24) },
      classes: source === target ? ["loop"] : [],
    })),
  ]);
  layOut("LR");
  if (zoomToFit() < 0.6 && drawn.length < 100) {
    const zoomed = zoomToFit();
    layOut("TB");
    if (zoomToFit() < 1.1 * zoomed) layOut("LR");
  }
  if (!keepView) begin();
  highlight();
  tell(tasks, all.size);
}

function layOut(rankDir) {
  cy.edges().removeClass("ahead rightward downward");
  const isLarge = cy.edges().length > 400;
  const ranker = isLarge ? "tight-tree" : "network-simplex";
  const hasRoles = cy.edges().some((edge) => edge.data("role"));
  const sizes = rankDir === "LR" ? { nodeSep: 18, rankSep: hasRoles ? 90 : 45 } : { nodeSep: 30, rankSep: hasRoles ? 45 : 28 };
  const options = { name: "dagre", rankDir, ranker, edgeSep: 12, ...sizes, useDagreEdgeControlPoints: true, fit: false };
  cy.elements().not(".loop").layout(options).run();
  const axis = rankDir === "LR" ? "x" : "y";
  cy.batch(() =>
    cy.edges().not(".loop").forEach((edge) => {
      if (edge.target().position(axis) <= edge.source().position(axis)) return; // it closes a circle of groups
      const weights = edge.scratch("controlPointWeights") ?? [];
      const distances = edge.scratch("controlPointDistances") ?? [];
      edge.data("bend", weights.length > 1 ? { weights, distances } : swing(edge, axis));
      edge.addClass(`ahead ${axis === "x" ? "rightward" : "downward"}`);
    }),
  );
}

/* From one rank to the next: leaves and arrives along the axis. */
function swing(edge, axis) {
  const [from, to] = [edge.source().position(), edge.target().position()];
  const [dx, dy] = [to.x - from.x, to.y - from.y];
  const side = axis === "x" ? "width" : "height";
  const [start, end] = [edge.source().data(side) / 2, edge.target().data(side) / 2];
  const [along, across] = axis === "x" ? [dx, dy] : [dy, -dx];
  const middle = start + (along - start - end) / 2;
  const square = dx * dx + dy * dy;
  const point = (a, b) => ({ weight: (a * along + b * across) / square, distance: (b * along - a * across) / Math.sqrt(square) });
  const bends = [point(middle, 0), point(middle, across)];
  return { weights: bends.map(({ weight }) => weight), distances: bends.map(({ distance }) => distance) };
}

function zoomToFit() {
  const { w, h } = cy.elements().boundingBox();
  return Math.min(cy.width() / (w + 80), cy.height() / (h + 80), 1.2);
}

/* All of it, if that can be read; else what was asked for. */
function begin() {
  fit();
  if (cy.zoom() > 0.3) return;
  zoom(0.6 / cy.zoom());
  const [asked] = [choice.around?.task, ...DATA.roots].map((task) => boxOf.get(task)).filter(Boolean);
  cy.center(asked ? cy.getElementById(asked.id) : undefined);
}

function fit() {
  isFitted = true;
  cy.fit(undefined, 40);
  if (cy.zoom() > 1.2) cy.zoom({ level: 1.2, renderedPosition: { x: cy.width() / 2, y: cy.height() / 2 } });
}

function tell(tasks, ready) {
  const counted = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
  const words = [tasks.length === TASKS.length ? counted(tasks.length, "task") : `${tasks.length.toLocaleString("en")} of ${counted(TASKS.length, "task")}`];
  if (boxes.size !== tasks.length) words.push(`${counted(boxes.size, "box")}`.replace("boxs", "boxes"));
  if (ready > boxes.size) words.push(`${(ready - boxes.size).toLocaleString("en")} farther away are not drawn: pick a task, or filter`);
  at("told").textContent = words.join(" · ");
  at("whole").hidden = !choice.around;
  at("picture").setAttribute("aria-label", `The graph: ${words.join(", ")}. Arrow keys go from box to box, Enter opens one.`);
}

function highlight() {
  const query = at("search").value.trim().toLowerCase();
  cy.batch(() => {
    cy.elements().removeClass("dimmed found near selected");
    const selected = choice.selected && cy.getElementById(choice.selected);
    if (selected) {
      selected.addClass("selected");
      selected.connectedEdges().addClass("near");
    }
    if (!query) return;
    cy.elements().addClass("dimmed");
    for (const box of boxes.values()) {
      if (box.tasks.some((task) => task.sought.includes(query))) cy.getElementById(box.id).removeClass("dimmed").addClass("found");
    }
  });
}

function select(id, { centre = false } = {}) {
  choice.selected = boxes.has(id) ? id : null;
  highlight();
  show();
  if (!choice.selected || !centre || isFitted) return;
  cy.center(cy.getElementById(id));
}

function pick(index) {
  const task = TASKS[index];
  choice.hiddenStates.delete(task.look.state);
  choice.hiddenFamilies.delete(task.family);
  if (choice.around && !reached(choice.around.task, choice.around.levels).has(index)) choice.around = null;
  choice.picked.add(index);
  const wasFitted = isFitted;
  redraw({ keepView: true });
  filters();
  select(`t${index}`, { centre: true });
  if (wasFitted) fit();
}

// The panel, and the lists at the left

function element(name, { text, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

function signOf(look) {
  return element("span", { className: `sign ${look.tone}`, text: `${look.sign} ${look.state}`, title: look.meaning });
}

function button(text, onclick, properties = {}) {
  return element("button", { type: "button", text, onclick, ...properties });
}

function taskList(rows, limit = LISTED) {
  const list = element("ul", { className: "tasks" });
  for (const { task: index, role } of rows.slice(0, limit)) {
    const task = TASKS[index];
    const named = button(`${task.look.sign} ${task.label}`, () => pick(index), { className: "link", title: task.look.state });
    if (role) named.prepend(element("span", { className: "faint", text: `${role}: ` }));
    list.append(element("li", {}, named));
  }
  if (rows.length > limit) {
    const more = button(`${(rows.length - limit).toLocaleString("en")} more …`, () => list.replaceWith(taskList(rows, limit + LISTED)));
    list.append(element("li", {}, more));
  }
  return list;
}

function sectionOf([title, isFolded, rows]) {
  const list = element("dl");
  for (const [name, fact] of rows) {
    if (DATA.names[name]) list.append(element("dt", { text: DATA.names[name] }), element("dd", { text: fact }));
    else list.append(element("dd", { className: "alone", text: fact }));
  }
  if (!isFolded) return [element("h2", { text: DATA.names[title] }), list];
  return [element("details", {}, element("summary", { text: DATA.names[title] }), list)];
}

function ofTask(task) {
  const levels = element("select", { ariaLabel: "Levels up and down" });
  for (const [value, text] of [[1, "1 level"], [2, "2 levels"], [5, "5 levels"], [Infinity, "all levels"]]) levels.append(new Option(text, value));
  if (choice.around) levels.value = choice.around.levels;
  const limit = () => {
    choice.around = { task: task.index, levels: Number(levels.value) };
    choice.picked.add(task.index);
    at("search").value = ""; // or the neighbours are dimmed, as they are not what was looked for
    redraw();
    select(`t${task.index}`);
  };
  const parts = [
    element("h2", { text: task.label }),
    element("p", {}, signOf(task.look), element("span", { className: "faint", text: ` ${task.look.meaning}` })),
    element("div", { className: "actions" }, button("Show only what is around", limit), levels),
    ...task.sections.flatMap(sectionOf),
  ];
  const related = [["Requires", task.requires], ["Required by", task.requiredBy]];
  for (const [title, rows] of related) {
    if (rows.length) parts.push(element("h2", { text: `${title} ${rows.length.toLocaleString("en")}` }), taskList(rows));
  }
  parts.push(element("h2", { text: "Task id" }), element("div", { className: "faint", text: task.key, style: "overflow-wrap:anywhere" }));
  return parts;
}

function ofGroup(group, members) {
  const opened = choice.opened.get(group) ?? 0;
  const drawn = members.filter((task) => boxOf.get(task.index) && !boxOf.get(task.index).isMany).length;
  const open = (count) => {
    choice.opened.set(group, count);
    if (!count) for (const task of members) choice.picked.delete(task.index);
    redraw();
    showGroup(group);
  };
  const actions = element("div", { className: "actions" });
  if (drawn < members.length) actions.append(button(`Draw ${Math.min(PORTION, members.length - drawn)} more`, () => open(opened + PORTION), { id: "open" }));
  if (drawn) actions.append(button("Draw as one", () => open(0), { id: "close" }));
  const search = element("input", { type: "search", placeholder: "Search in these", ariaLabel: "Search in these" });
  const ordered = byNotice(members);
  let list = taskList(ordered.map((task) => ({ task: task.index })));
  search.oninput = () => {
    const query = search.value.trim().toLowerCase();
    const matching = ordered.filter((task) => task.sought.includes(query)).map((task) => ({ task: task.index }));
    const next = taskList(matching);
    list.replaceWith(next);
    list = next;
  };
  const counts = countsOf(members).map(([look, count]) => element("div", {}, signOf(look), ` ${count.toLocaleString("en")}`));
  return [element("h2", { text: `${group} × ${members.length.toLocaleString("en")}` }), ...counts, actions, search, list];
}

function fill(parts) {
  const panel = at("panel");
  const was = panel.hidden;
  panel.hidden = !parts;
  const close = button("✕", dismiss, { className: "close", title: "Close (Escape)", ariaLabel: "Close" });
  panel.replaceChildren(...(parts ? [close, ...parts] : []));
  panel.scrollTop = 0;
  if (was !== panel.hidden) resized();
}

function resized() {
  cy.resize();
  if (isFitted) return fit();
  const selected = choice.selected && cy.getElementById(choice.selected);
  if (selected && selected.renderedPosition("x") > cy.width() - 60) cy.center(selected);
}

function show() {
  const box = boxes.get(choice.selected);
  if (!box) fill(null);
  else fill(box.isMany ? ofGroup(box.group, shownTasks().filter((task) => task.group === box.group)) : ofTask(box.tasks[0]));
}

function showGroup(group) {
  if (boxes.has(`g${group}`)) select(`g${group}`);
  else fill(ofGroup(group, shownTasks().filter((task) => task.group === group)));
}

function showFound() {
  const query = at("search").value.trim().toLowerCase();
  highlight();
  if (!query) return show();
  const found = shownTasks().filter((task) => task.sought.includes(query));
  fill([element("h2", { text: `${found.length.toLocaleString("en")} found` }), taskList(found.map((task) => ({ task: task.index })))]);
}

function dismiss() {
  at("search").value = "";
  select(null);
}

function toggle(hidden, name) {
  if (!hidden.delete(name)) hidden.add(name);
  redraw();
  filters();
  show();
}

function filters() {
  const row = (hidden, name, shown, count, ...more) => {
    const box = element("input", { type: "checkbox", checked: !hidden.has(name), onchange: () => toggle(hidden, name) });
    return element("li", {}, element("label", { title: name }, box, shown, element("span", { className: "count", text: count.toLocaleString("en") })), ...more);
  };
  const states = new Map(countsOf(TASKS).map(([look, count]) => [look.state, { look, count }]));
  at("states").replaceChildren(
    ...[...states].map(([state, { look, count }]) => {
      const sign = signOf(look);
      sign.classList.add("name");
      return row(choice.hiddenStates, state, sign, count);
    }),
  );
  const families = new Map();
  for (const task of TASKS) {
    const known = families.get(task.family) ?? { groups: new Set(), count: 0 };
    known.groups.add(task.group);
    known.count += 1;
    families.set(task.family, known);
  }
  const ordered = [...families].sort(([one, a], [other, b]) => b.count - a.count || (one < other ? -1 : 1));
  at("families").replaceChildren(
    ...ordered.slice(0, LISTED).map(([family, { groups, count }]) => {
      const name = element("span", { className: "name", text: family || "(without)" });
      const more = [...groups].filter(Boolean).map((group) => button("›", () => showGroup(group), { title: `List ${group}`, ariaLabel: `List ${group}` }));
      return row(choice.hiddenFamilies, family, name, count, ...(count > 1 ? more.slice(0, 1) : []));
    }),
  );
  if (ordered.length > LISTED) at("families").append(element("li", { className: "faint", text: `… and ${ordered.length - LISTED} more` }));
}

// Keys

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function step([dx, dy]) {
  const from = choice.selected && cy.getElementById(choice.selected).position();
  if (!from) return select(boxOf.get(DATA.roots[0])?.id ?? [...boxes.keys()][0], { centre: true });
  const cost = (node) => {
    const across = (node.position("x") - from.x) * dx + (node.position("y") - from.y) * dy;
    const aside = Math.abs((node.position("x") - from.x) * dy) + Math.abs((node.position("y") - from.y) * dx);
    return across > 1 ? across + 2 * aside : Infinity;
  };
  let nearestBox = null;
  cy.nodes().forEach((node) => {
    if (cost(node) < (nearestBox ? cost(nearestBox) : Infinity)) nearestBox = node;
  });
  if (nearestBox) select(nearestBox.id(), { centre: true });
}

function zoom(factor) {
  isFitted = false;
  cy.zoom({ level: cy.zoom() * factor, renderedPosition: { x: cy.width() / 2, y: cy.height() / 2 } });
}

const KEYS = { "+": () => zoom(1.3), "=": () => zoom(1.3), "-": () => zoom(1 / 1.3), 0: fit };

document.addEventListener("keydown", (event) => {
  const isTyping = ["INPUT", "SELECT"].includes(event.target.tagName) && event.target.type !== "checkbox";
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") {
    at("picture").focus(); // from where the arrow keys go on
    if (at("panel").hidden && choice.around) leave();
    else dismiss();
  } else if (isTyping) {
    return;
  } else if (event.key === "/") {
    at("search").focus();
  } else if (event.target === at("picture") && ARROWS[event.key]) {
    step(ARROWS[event.key]);
  } else if (event.target === at("picture") && event.key === "Enter") {
    at("panel").querySelector("button")?.focus();
  } else if (KEYS[event.key]) {
    KEYS[event.key]();
  } else return;
  event.preventDefault();
});

function leave() {
  choice.around = null;
  redraw();
  show();
}

at("search").oninput = showFound;
at("search").onkeydown = (event) => {
  if (event.key !== "Enter") return;
  const query = at("search").value.trim().toLowerCase();
  const found = query && shownTasks().find((task) => task.sought.includes(query));
  if (found) pick(found.index);
};
at("closer").onclick = () => zoom(1.3);
at("farther").onclick = () => zoom(1 / 1.3);
at("fit").onclick = fit;
at("whole").onclick = leave;
at("title").textContent = DATA.title;

cytoscape.use(cytoscapeDagre);
cy = cytoscape({ container: at("picture"), style: styles(), minZoom: 0.02, maxZoom: 4, autoungrabify: true, boxSelectionEnabled: false });
cy.on("tap", "node", (event) => select(event.target.id()));
cy.on("tap", (event) => event.target === cy && !at("search").value && select(null));
cy.on("mouseover", "node", () => (at("picture").style.cursor = "pointer"));
cy.on("mouseout", "node", () => (at("picture").style.cursor = ""));
cy.on("dragpan scrollzoom pinchzoom", () => (isFitted = false));
new ResizeObserver(resized).observe(at("picture")); // also where the words above it take another line
dark.addEventListener("change", () => cy.style(styles()));
filters();
cy.resize(); // the filters take some of its room
redraw();
