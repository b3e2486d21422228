// Draws the page of a timeline from DATA. Text becomes part of the page as text alone: nothing here makes markup of it.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const [ROW, BEGIN, END, STATE, ITEM, LABEL, NOTE] = [0, 1, 2, 3, 4, 5, 6];
  const [NAME, FAMILY, I_STATE, TRIES, I_BEGIN, TOOK, WHY, WHERE, MARKED, MORE] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
  const SHOWN = 200; // lines of the table at a time
  const ROW_HEIGHT = 24, MOST_ROWS = 30;

  function element(kind, text, classes) {
    const made = document.createElement(kind);
    if (text !== undefined && text !== null) made.textContent = text;
    if (classes) made.className = classes;
    return made;
  }

  function add(parent, ...children) {
    for (const child of children) parent.append(child);
    return parent;
  }

  // Numbers

  function seconds(value) {
    if (value === null || value === undefined) return "";
    if (value < 0.0005) return "0 s";
    if (value < 1) return `${Math.round(value * 1000)} ms`;
    if (value < 60) return `${value.toFixed(value < 10 ? 2 : 1)} s`;
    const whole = Math.round(value);
    const [days, hours, minutes, rest] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60, whole % 60];
    const two = (number) => String(number).padStart(2, "0");
    if (days) return `${days} d ${hours} h ${two(minutes)} min`;
    if (hours) return `${hours} h ${two(minutes)} min ${two(rest)} s`;
    return `${minutes} min ${two(rest)} s`;
  }

  function bytes(value) {
    let units = ["B", "kB", "MB", "GB", "TB"];
    while (value >= 1000 && units.length > 1) { value /= 1000; units = units.slice(1); }
    return `${units[0] === "B" ? value.toFixed(0) : value.toFixed(1)} ${units[0]}`;
  }

  const told = { "": String, s: seconds, B: bytes, "B/s": (value) => `${bytes(value)}/s` };
  const clock = (at) => new Date((DATA.began + at) * 1000).toISOString().slice(0, 23).replace("T", " ");
  const look = (state) => DATA.looks[state];
  const sign = (state) => element("span", `${look(state)[1]} ${look(state)[0]}`, look(state)[2]);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

  // The head

  const ended = DATA.looks.findIndex((one) => one[0] === DATA.state);
  add(byId("state"), sign(ended));
  byId("title").textContent = DATA.title;
  for (const [name, said] of DATA.facts) add(byId("facts"), add(element("div"), element("dt", name), element("dd", said)));
  byId("notes").textContent = DATA.notes.join(" ");

  // The timeline

  const chosen = { item: -1 };
  const storiesOf = new Map();
  DATA.stories.forEach((story, number) => { if (story[4] >= 0) storiesOf.set(story[4], number); });
  const barsOf = new Map();
  DATA.bars.forEach((bar, number) => {
    if (bar[ITEM] < 0) return;
    if (!barsOf.has(bar[ITEM])) barsOf.set(bar[ITEM], []);
    barsOf.get(bar[ITEM]).push(number);
  });
  const labelOf = (bar) => bar[LABEL] || (bar[ITEM] >= 0 ? DATA.items[bar[ITEM]][FAMILY] : "");
  const isMarked = (bar) => bar[ITEM] >= 0 && DATA.items[bar[ITEM]][MARKED];

  const shownRows = Math.min(DATA.rows.length, MOST_ROWS);
  const hasMoreRows = DATA.rows.length > MOST_ROWS;
  const longest = Math.max(8, ...DATA.rows.map(([name, note]) => name.length + (note ? note.length + 3 : 0)));
  const left = Math.min(300, 22 + 6.6 * longest);
  const chartElement = byId("chart");
  chartElement.style.height = `${shownRows * ROW_HEIGHT + 92}px`;
  byId("timeline").hidden = !DATA.bars.length;
  const end = Math.max(DATA.duration, 0.001);
  let chart = null;
  let palette = {};

  function readPalette() {
    palette = { looks: DATA.looks.map((one) => ["fill", "line", "ink"].map((part) => colour(`${one[2]}-${part}`))) };
    for (const name of ["ground", "ink", "line", "panel", "faint"]) palette[name] = colour(name);
  }

  function drawnBar(parameters, api) {
    const bar = DATA.bars[parameters.dataIndex];
    const [begin, y] = api.coord([bar[BEGIN] * 1000, bar[ROW]]);
    const right = api.coord([bar[END] * 1000, bar[ROW]])[0];
    const space = parameters.coordSys;
    const x = Math.max(begin, space.x), till = Math.min(Math.max(right, begin + (look(bar[STATE])[2] === "bad" ? 3 : 1.5)), space.x + space.width);
    if (till <= x || right < space.x || begin > space.x + space.width) return null;
    const height = Math.max(3, Math.min(18, api.size([0, 1])[1] * 0.76));
    if (y + height / 2 < space.y || y - height / 2 > space.y + space.height) return null;
    const [fill, line, ink] = palette.looks[bar[STATE]];
    const marked = byId("mark").checked && isMarked(bar);
    const dimmed = byId("mark").checked && !isMarked(bar);
    const width = till - x;
    const isBad = look(bar[STATE])[2] === "bad";
    const isChosen = chosen.item >= 0 && bar[ITEM] === chosen.item;
    const shape = { x, y: y - height / 2, width, height, r: width > 6 ? 3 : 0 };
    const style = { fill, stroke: line, lineWidth: width > 4 ? 1 : 0, opacity: dimmed ? 0.28 : 1 };
    if (width <= 4) { // without its border: paler, so that many side by side do not outshine the wide ones
      style.fill = line;
      if (!isBad) style.opacity *= 0.5;
    }
    if (marked || isChosen) Object.assign(style, { stroke: palette.ink, lineWidth: 2.5 });
    const made = { type: "rect", shape, style, z2: isBad || marked || isChosen ? 20 : 0 };
    if (width > 34) {
      made.textContent = { type: "text", style: { text: `${look(bar[STATE])[1]} ${labelOf(bar)}`, fill: ink, opacity: style.opacity, fontSize: 11, overflow: "truncate", ellipsis: "…", width: width - 8 } };
      made.textConfig = { position: "insideLeft", distance: 5 };
    } else if (isBad) {
      made.textContent = { type: "text", style: { text: look(bar[STATE])[1], fill: palette.looks[bar[STATE]][1], fontSize: 12, fontWeight: "bold", opacity: style.opacity } };
      made.textConfig = { position: "right", distance: 2 };
    }
    return made;
  }

  function tip(parameters) {
    const bar = DATA.bars[parameters.dataIndex];
    const item = bar[ITEM] >= 0 ? DATA.items[bar[ITEM]] : null;
    const made = element("div", null, "tip");
    add(made, element("strong", bar[LABEL] || (item && item[NAME]) || ""), element("br"), sign(bar[STATE]));
    add(made, ` ${seconds(bar[END] - bar[BEGIN])}, from ${seconds(bar[BEGIN])} on`);
    if (bar[NOTE]) add(made, element("br"), element("span", bar[NOTE], "faint"));
    return made;
  }

  function options() {
    const text = { color: palette.faint, fontSize: 11 };
    const zooms = [
      { type: "inside", xAxisIndex: 0, filterMode: "none", zoomOnMouseWheel: "ctrl", moveOnMouseMove: true, moveOnMouseWheel: false, minValueSpan: 1 },
      { type: "slider", xAxisIndex: 0, filterMode: "none", height: 20, bottom: 10, showDataShadow: false, brushSelect: false, labelFormatter: (value) => seconds(value / 1000), textStyle: text, borderColor: palette.line, fillerColor: palette.line + "66", handleStyle: { color: palette.panel, borderColor: palette.faint }, moveHandleStyle: { color: palette.faint }, minValueSpan: 1 },
    ];
    if (hasMoreRows) {
      const span = { startValue: 0, endValue: MOST_ROWS - 1, minValueSpan: 5 };
      zooms.push({ type: "slider", yAxisIndex: 0, filterMode: "none", width: 14, right: 6, showDetail: false, showDataShadow: false, brushSelect: false, borderColor: palette.line, fillerColor: palette.line + "99", handleStyle: { color: palette.panel, borderColor: palette.faint }, ...span });
    }
    return {
      animation: false,
      backgroundColor: "transparent",
      textStyle: { fontFamily: "system-ui, -apple-system, Segoe UI, sans-serif" },
      grid: { left, right: hasMoreRows ? 36 : 18, top: 10, bottom: 62 },
      xAxis: { type: "time", min: 0, max: end * 1000, axisLabel: { ...text, hideOverlap: true, formatter: (value) => seconds(value / 1000).replace(/(\.\d*?)0+ s$/, "$1 s").replace(". s", " s") }, axisLine: { lineStyle: { color: palette.line } }, axisTick: { lineStyle: { color: palette.line } }, splitLine: { show: true, lineStyle: { color: palette.line, opacity: 0.6 } } },
      yAxis: { type: "category", inverse: true, data: DATA.rows.map((_, number) => number), axisLabel: { ...text, interval: 0, formatter: (number) => { const [name, note] = DATA.rows[number]; return note ? `{name|${plain(name)}}  {note|${plain(note)}}` : `{name|${plain(name)}}`; }, rich: { name: { color: palette.ink, fontSize: 11 }, note: { color: palette.faint, fontSize: 11 } }, width: left - 16, overflow: "truncate" }, axisLine: { show: false }, axisTick: { show: false }, splitLine: { show: true, lineStyle: { color: palette.line, opacity: 0.6 } } },
      tooltip: { trigger: "item", confine: true, formatter: tip, backgroundColor: palette.panel, borderColor: palette.line, textStyle: { color: palette.ink, fontSize: 12 }, transitionDuration: 0 },
      dataZoom: zooms,
      series: [{ type: "custom", clip: true, progressive: 0, renderItem: drawnBar, encode: { x: [1, 2], y: 0 }, data: DATA.bars.map((bar) => [bar[ROW], bar[BEGIN] * 1000, bar[END] * 1000]) }],
    };
  }

  // In labels of ECharts braces begin and end a style.
  const plain = (name) => name.replace(/[{}|]/g, (found) => ({ "{": "❴", "}": "❵", "|": "❘" })[found]);

  function draw() {
    if (!DATA.bars.length) return;
    readPalette();
    if (!chart) {
      chart = echarts.init(chartElement, null, { renderer: "canvas" });
      chart.on("click", (parameters) => { if (parameters.componentType === "series") showBar(parameters.dataIndex); });
      chart.on("finished", () => { document.body.dataset.drawn = "yes"; });
      new ResizeObserver(() => chart.resize()).observe(chartElement);
      chart.setOption(options());
    } else {
      const zooms = chart.getOption().dataZoom.map(({ start, end }) => ({ start, end }));
      chart.setOption(options(), true);
      chart.setOption({ dataZoom: zooms });
    }
  }

  function again() { // the bars alone: what is chosen or marked has changed
    if (chart) chart.setOption({ series: [{ renderItem: drawnBar }] });
  }

  function zoom(from, till) {
    if (chart) chart.dispatchAction({ type: "dataZoom", dataZoomIndex: 0, startValue: Math.max(0, from) * 1000, endValue: Math.min(end, till) * 1000 });
  }

  function zoomBy(factor) {
    const now = chart.getOption().dataZoom[0];
    const middle = (now.startValue + now.endValue) / 2000, half = (now.endValue - now.startValue) / 2000 * factor;
    zoom(middle - half, middle + half);
  }

  byId("nearer").addEventListener("click", () => zoomBy(0.5));
  byId("farther").addEventListener("click", () => zoomBy(2));
  byId("whole").addEventListener("click", () => zoom(0, end));
  for (const state of new Set(DATA.bars.map((bar) => bar[STATE]).sort((one, other) => one - other))) {
    const box = element("i");
    box.style.background = `var(--${look(state)[2]}-fill)`;
    box.style.borderColor = `var(--${look(state)[2]}-line)`;
    add(byId("legend"), add(element("span", null, "key"), box, `${look(state)[1]} ${look(state)[0]}`));
  }
  byId("mark-label").hidden = !DATA.marked;
  byId("mark-text").textContent = DATA.marked;
  byId("mark").addEventListener("change", again);

  // What is known of one

  function pair(list, name, ...said) {
    add(list, add(element("div"), element("dt", name), add(element("dd"), ...said)));
  }

  function lines(all) {
    const made = element("div", null, "told");
    for (const line of all) add(made, element("div", line));
    return made;
  }

  function open(title) {
    byId("detail").replaceChildren(element("h3", title));
    byId("details").hidden = false;
    return byId("detail");
  }

  function close() {
    byId("details").hidden = true;
    chosen.item = -1;
    mark();
    again();
  }

  function showBar(number) {
    const bar = DATA.bars[number];
    if (bar[ITEM] >= 0 && !bar[LABEL]) { show(bar[ITEM]); return; }
    const list = element("dl");
    add(open(labelOf(bar)), list);
    pair(list, "state", sign(bar[STATE]));
    pair(list, "began", `${seconds(bar[BEGIN])} (${clock(bar[BEGIN])} UTC)`);
    pair(list, "took", seconds(bar[END] - bar[BEGIN]));
    if (bar[NOTE]) pair(list, "", bar[NOTE]);
    if (bar[ITEM] >= 0) {
      const button = element("button", DATA.items[bar[ITEM]][NAME]);
      button.type = "button";
      button.addEventListener("click", () => show(bar[ITEM]));
      pair(list, "of", button);
    }
  }

  function show(number, isZoomed) {
    const item = DATA.items[number];
    const list = element("dl");
    const panel = open(item[NAME]);
    add(panel, list);
    pair(list, "state", sign(item[I_STATE]));
    if (item[I_BEGIN] !== null) {
      pair(list, "began", `${seconds(item[I_BEGIN])} (${clock(item[I_BEGIN])} UTC)`);
      pair(list, "took", seconds(item[TOOK]));
      pair(list, "tries", item[TRIES]);
    }
    if (item[WHY]) pair(list, "reason to run", item[WHY]);
    if (item[MARKED] && DATA.marked) pair(list, "", DATA.marked);
    const bars = (barsOf.get(number) || []).map((one) => DATA.bars[one]).filter((bar) => !bar[LABEL]);
    if (bars.length) {
      pair(list, bars.length > 1 ? "times" : "where", lines(bars.slice(0, 50).map((bar) => {
        const times = bars.length > 1 ? `${look(bar[STATE])[1]} ${look(bar[STATE])[0]}, ${seconds(bar[BEGIN])} to ${seconds(bar[END])}: ` : "";
        return `${times}${DATA.rows[bar[ROW]][0]}${bar[NOTE] ? `, ${bar[NOTE]}` : ""}`;
      })));
    }
    for (const [name, all] of item[MORE]) pair(list, name, lines(all));
    if (storiesOf.has(number)) add(panel, story(DATA.stories[storiesOf.get(number)], true));
    chosen.item = number;
    mark();
    again();
    if (isZoomed && bars.length) {
      const room = Math.max((bars[bars.length - 1][END] - bars[0][BEGIN]) * 2, end / 200);
      const middle = (bars[bars.length - 1][END] + bars[0][BEGIN]) / 2;
      if (room < end / 4) zoom(middle - room, middle + room);
    }
  }

  byId("close").addEventListener("click", close);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !byId("details").hidden) close(); });

  // What went wrong

  function story([title, why, all, text, item], isWithin) {
    const made = element("div", null, "story");
    if (!isWithin) {
      const heading = element("h3");
      if (item >= 0) {
        const button = element("button", title);
        button.type = "button";
        button.addEventListener("click", () => show(item, true));
        add(heading, button);
      } else {
        heading.textContent = title;
      }
      add(made, heading);
    }
    add(made, element("pre", why, "bad"));
    for (const [name, some] of all) {
      const block = element("div", null, "told");
      some.forEach((line, number) => add(block, add(element("div"), element("b", number ? "" : name), line)));
      add(made, block);
    }
    if (text) add(made, add(element("details"), element("summary", "traceback"), element("pre", text)));
    return made;
  }

  if (DATA.stories.length) {
    byId("stories").hidden = false;
    byId("stories").firstElementChild.textContent = `What failed (${DATA.stories.length})`;
    for (const one of DATA.stories) add(byId("stories").lastElementChild, story(one, false));
  }

  // The table of all

  const columns = [
    ["task", NAME, "name"], ["state", I_STATE, "state"], ["tries", TRIES, "number"], ["began", I_BEGIN, "number"],
    ["took", TOOK, "number"], ["reason to run", WHY, "why"], ["where", WHERE, "where"],
  ];
  const table = { by: I_BEGIN, isDown: false, shown: SHOWN, states: new Set(), words: "" };
  const texts = DATA.items.map((item) => `${item[NAME]} ${item[WHY]} ${item[WHERE]} ${look(item[I_STATE])[0]}`.toLowerCase());
  const order = new Intl.Collator(undefined, { numeric: true }).compare;

  function compared(one, other) {
    const [first, second] = [DATA.items[one][table.by], DATA.items[other][table.by]];
    if (first === null || second === null) return (first === null) - (second === null) || one - other;
    const found = typeof first === "string" ? order(first, second) : first - second;
    return (table.isDown ? -found : found) || one - other;
  }

  function cell(item, column, kind) {
    const value = item[column];
    const made = element("td", null, kind);
    if (column === I_STATE) add(made, sign(value));
    else if (column === I_BEGIN) made.textContent = seconds(value);
    else if (column === TOOK) made.textContent = item[I_BEGIN] === null ? "" : seconds(value);
    else if (column === TRIES) made.textContent = value || "";
    else made.textContent = value;
    if (column === NAME && item[MARKED] && DATA.marked) {
      const sign = element("span", " ◆", "note");
      sign.title = DATA.marked;
      add(made, sign);
    }
    return made;
  }

  function list() {
    const words = table.words.toLowerCase().split(/\s+/).filter(Boolean);
    const found = [];
    DATA.items.forEach((item, number) => {
      if (table.states.size && !table.states.has(item[I_STATE])) return;
      if (words.every((word) => texts[number].includes(word))) found.push(number);
    });
    found.sort(compared);
    const body = document.createDocumentFragment();
    for (const number of found.slice(0, table.shown)) {
      const item = DATA.items[number];
      const line = element("tr");
      line.tabIndex = 0;
      line.dataset.item = number;
      for (const [, column, kind] of columns) add(line, cell(item, column, kind));
      add(body, line);
    }
    byId("lines").replaceChildren(body);
    byId("found").textContent = found.length === DATA.items.length ? `${found.length}` : `${found.length} of ${DATA.items.length}`;
    byId("further").hidden = found.length <= table.shown;
    byId("further").textContent = `show ${Math.min(SHOWN * 5, found.length - table.shown)} more of ${found.length - table.shown}`;
    for (const head of byId("head").children) head.ariaSort = Number(head.dataset.column) === table.by ? (table.isDown ? "descending" : "ascending") : "none";
    for (const head of byId("head").children) head.firstElementChild.lastElementChild.textContent = head.ariaSort === "none" ? "" : head.ariaSort === "ascending" ? " ▲" : " ▼";
    mark();
  }

  function mark() {
    for (const line of byId("lines").children) line.classList.toggle("chosen", Number(line.dataset.item) === chosen.item);
  }

  for (const [title, column, kind] of columns) {
    const head = element("th", null, kind === "number" ? kind : "");
    head.dataset.column = column;
    const button = add(element("button"), title, element("span"));
    button.type = "button";
    button.addEventListener("click", () => {
      table.isDown = table.by === column ? !table.isDown : column === TOOK || column === TRIES;
      table.by = column;
      list();
    });
    add(byId("head"), add(head, button));
  }
  const counts = new Map();
  for (const item of DATA.items) counts.set(item[I_STATE], (counts.get(item[I_STATE]) || 0) + 1);
  for (const [state, count] of [...counts].sort(([one], [other]) => one - other)) {
    const button = add(element("button"), sign(state), ` ${count}`);
    button.type = "button";
    button.ariaPressed = "false";
    button.addEventListener("click", () => {
      if (!table.states.delete(state)) table.states.add(state);
      button.ariaPressed = String(table.states.has(state));
      list();
    });
    add(byId("states"), button, " ");
  }
  byId("search").addEventListener("input", (event) => { table.words = event.target.value; table.shown = SHOWN; list(); });
  byId("further").addEventListener("click", () => { table.shown += SHOWN * 5; list(); });
  const chooseLine = (event) => { const line = event.target.closest("tr"); if (line) show(Number(line.dataset.item), true); };
  byId("lines").addEventListener("click", chooseLine);
  byId("lines").addEventListener("keydown", (event) => { if (event.key === "Enter") chooseLine(event); });
  byId("items").hidden = !DATA.items.length;

  // Other tables

  function small(one) {
    const section = element("section");
    const body = element("tbody"), head = element("tr");
    let by = -1, isDown = false;
    const fill = () => {
      const rows = [...one.rows];
      if (by >= 0) rows.sort((a, b) => (isDown ? -1 : 1) * (typeof a[by] === "string" ? order(a[by], b[by]) : a[by] - b[by]));
      body.replaceChildren(...rows.slice(0, 1000).map((row) => {
        const line = element("tr");
        row.forEach((value, number) => add(line, typeof value === "number" ? element("td", told[one.units[number]](value), "number") : element("td", value, "name")));
        return line;
      }));
    };
    one.head.forEach((title, number) => {
      const button = element("button", title);
      button.type = "button";
      button.addEventListener("click", () => { isDown = by === number ? !isDown : typeof (one.rows[0] || [])[number] === "number"; by = number; fill(); });
      add(head, add(element("th", null, typeof (one.rows[0] || [])[number] === "number" ? "number" : ""), button));
    });
    fill();
    return add(section, element("h2", one.title), add(element("div", null, "wide"), add(element("table"), add(element("thead"), head), body)));
  }

  for (const one of DATA.tables) add(byId("tables"), small(one));

  list();
  draw();
  if (!DATA.bars.length) document.body.dataset.drawn = "yes";
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
