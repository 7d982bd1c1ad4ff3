// Elements, numbers in words, and the pictures: plain SVG, drawn from the snapshot alone.

const NS = "http://www.w3.org/2000/svg";
const SVG = new Set(["svg", "g", "rect", "path", "text", "circle", "title", "desc"]);

export function h(tag, attributes, ...children) {
  const made = SVG.has(tag) ? document.createElementNS(NS, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === false || value === null || value === undefined) continue;
    if (typeof value === "function") made.addEventListener(name, value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

export function num(n) {
  if (n === null || n === undefined) return "–";
  if (Math.abs(n) >= 1e6) return `${(n / 1e6).toFixed(n < 1e7 ? 2 : 1)} M`;
  if (Math.abs(n) >= 1e4) return `${(n / 1e3).toFixed(1)} k`;
  return Number.isInteger(n) ? n.toLocaleString("en") : n.toFixed(n < 10 ? 1 : 0);
}

export function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (n >= 1024 && at < units.length - 1) { n /= 1024; at += 1; }
  return `${at ? n.toFixed(1) : Math.round(n)} ${units[at]}`;
}

export function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 90) return `${s} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 172800) return `${(s / 3600).toFixed(1)} h`;
  return `${Math.round(s / 86400)} days`;
}

export function ms(n) {
  if (n === null || n === undefined) return "–";
  if (n < 1) return `${n.toFixed(2)} ms`;
  if (n < 1000) return `${n.toFixed(n < 10 ? 1 : 0)} ms`;
  return `${(n / 1000).toFixed(1)} s`;
}

export function clock(time) {
  const at = new Date(time * 1000), words = at.toTimeString().slice(0, 8);
  return Date.now() / 1000 - time > 72000 ? `${at.toISOString().slice(0, 10)} ${words}` : words;
}

export function plural(n, one) {
  return `${num(n)} ${one}${n === 1 ? "" : "s"}`;
}

function cut(text, width) {
  const most = Math.max(4, Math.floor(width / 7.4));
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

const STATE_WORDS = { ok: "ok", warn: "attention", bad: "trouble", "": "idle" };

function node(x, y, width, { title, lines, state, word }) {
  const height = 30 + 16 * lines.length;
  const said = `${title}: ${word || STATE_WORDS[state]}. ${lines.join(". ")}`;
  return h("g", { class: `node ${state}`, transform: `translate(${x},${y})` },
    h("title", {}, said),
    h("rect", { width, height, rx: 9 }),
    h("circle", { cx: 15, cy: 17, r: 5 }),
    h("text", { x: 28, y: 21.5 }, cut(title, width - 34)),
    ...lines.map((line, index) => h("text", { x: 12, y: 39 + 16 * index, class: index || !word ? "small" : "state" }, cut(line, width - 16))));
}

function edge(from, to, isOn, isCut) {
  const dx = to.x - from.x, dy = to.y - from.y;
  const bend = dx > 4 ? `C${from.x + dx / 2},${from.y} ${to.x - dx / 2},${to.y} ${to.x},${to.y}`
    : `C${from.x},${from.y + dy / 2} ${to.x},${to.y - dy / 2} ${to.x},${to.y}`;
  return h("path", { class: `edge${isCut ? " cut" : isOn ? " on" : ""}`, d: `M${from.x},${from.y}${bend}` });
}

// `stages`: columns of {key, title, lines, state, word}; `edges`: {from, to, on, cut} by key.
export function picture(stages, edges, width, words) {
  const isNarrow = width < 720;
  const at = new Map(), parts = [];
  const gap = isNarrow ? 30 : Math.max(36, width * 0.045);
  const boxWidth = isNarrow ? width - 2 : (width - 2 - gap * (stages.length - 1)) / stages.length;
  const heightOf = (box) => 30 + 16 * box.lines.length;
  const columnHeight = (stage) => 22 + stage.boxes.reduce((sum, box) => sum + heightOf(box) + 10, -10);
  const total = isNarrow ? 0 : Math.max(...stages.map(columnHeight));
  let y = 0;
  stages.forEach((stage, index) => {
    const x = isNarrow ? 1 : 1 + index * (boxWidth + gap);
    if (!isNarrow) y = (total - columnHeight(stage)) / 2;
    parts.push(h("text", { x: x + 2, y: y + 13, class: "head" }, stage.head));
    y += 22;
    for (const box of stage.boxes) {
      const tall = heightOf(box);
      parts.push(node(x, y, boxWidth, box));
      at.set(box.key, isNarrow
        ? { in: { x: x + boxWidth / 2, y }, out: { x: x + boxWidth / 2, y: y + tall }, index }
        : { in: { x, y: y + tall / 2 }, out: { x: x + boxWidth, y: y + tall / 2 }, index });
      y += tall + 10;
    }
    y += isNarrow ? 8 : 0;
  });
  const height = (isNarrow ? y : total) + 4;
  const lines = isNarrow ? [] : edges.filter((one) => at.has(one.from) && at.has(one.to))
    .map((one) => edge(at.get(one.from).out, at.get(one.to).in, one.on, one.cut));
  return h("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": words, width, height }, ...lines, ...parts);
}

// Counts by label over time, as stacked bars. `labels`: {label: [counts]}.
export function labelChart(labels, n, words) {
  const width = 320, height = 64, names = Object.keys(labels);
  const sums = Array.from({ length: n }, (_, i) => names.reduce((sum, name) => sum + (labels[name][i] || 0), 0));
  const most = Math.max(1, ...sums), step = width / Math.max(n, 20);
  const bars = [];
  for (let i = 0; i < n; i += 1) {
    let y = height;
    names.forEach((name, series) => {
      const tall = ((labels[name][i] || 0) / most) * (height - 2);
      if (!tall) return;
      y -= tall;
      bars.push(h("rect", { class: `s${series % 9}`, x: (width - (n - i) * step).toFixed(1), y: y.toFixed(1), width: Math.max(1, step - 1).toFixed(1), height: tall.toFixed(1) }));
    });
  }
  return h("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": words, preserveAspectRatio: "none" },
    h("rect", { class: "fill", x: 0, y: height - 1, width, height: 1 }), ...bars);
}

export function line(values, words) {
  const width = 320, height = 56, most = Math.max(1, ...values), n = Math.max(values.length, 20);
  const points = values.map((value, i) => `${((n - values.length + i) / (n - 1) * width).toFixed(1)},${(height - 2 - value / most * (height - 6)).toFixed(1)}`);
  const first = points.length ? points[0].split(",")[0] : 0;
  return h("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": words, preserveAspectRatio: "none" },
    points.length > 1 ? h("path", { class: "area", d: `M${first},${height}L${points.join("L")}L${width},${height}Z` }) : null,
    points.length > 1 ? h("path", { class: "line", d: `M${points.join("L")}` }) : h("rect", { class: "fill", x: 0, y: height - 1, width, height: 1 }));
}
