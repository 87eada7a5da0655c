// Charts are complete SVG before this runs. It redraws them to the window's width and to the curves
// shown, by the same rules as report/axes.py, and shows values under the pointer. All texts come
// from attributes and go into text nodes.
(() => {
"use strict";
const LEFT = 58, RIGHT = 18, TOP = 44, BOTTOM = 48;
const MANY = 60;
const OVER = "M0-5L4.2 2.4H-4.2z", UNDER = "M0 5L4.2-2.4H-4.2z";
const tip = document.getElementById("tip");
const all = (root, query) => Array.from(root.querySelectorAll(query));
const read = value => value === undefined || value === "" ? NaN : Number(value);
const px = value => value.toFixed(1).replace(/\.0$/, "");

function number(value, digits) {
  const rounded = Number.isInteger(value) ? value : Number(value.toPrecision(digits));
  if (Number.isInteger(rounded) && Math.abs(rounded) < 1e7) return String(rounded);
  const short = Number(rounded.toPrecision(digits));
  const text = Math.abs(short) >= 1e7 || Math.abs(short) < 1e-4 ? short.toExponential() : String(short);
  return text.replace(/e([+-])(\d)$/, "e$10$2");
}

function labels(values) {
  const sorted = [...new Set(values)].sort((a, b) => a - b);
  const near = sorted.slice(1).reduce((least, v, n) => Math.min(least, v - sorted[n]), Infinity) / 100;
  let found = [];
  for (let digits = 4; digits < 17; digits++) {
    found = values.map(v => number(v, digits));
    if (found.every((text, n) => Math.abs(Number(text) - values[n]) <= Math.max(near, 1e-9 * Math.abs(values[n])))) break;
  }
  return found;
}

function readable(spans, first) {
  const rank = n => first.has(n) ? 0 : n === 0 || n === spans.length - 1 ? 1 : 2;
  const shown = new Set();
  for (const n of [...spans.keys()].sort((a, b) => rank(a) - rank(b) || a - b)) {
    const [start, end] = spans[n];
    if ([...shown].every(m => end <= spans[m][0] || start >= spans[m][1])) shown.add(n);
  }
  return shown;
}

function yRange(values, log, whole) {
  let ts = values.filter(v => Number.isFinite(v) && (v > 0 || !log)).map(v => log ? Math.log10(v) : v);
  ts.sort((a, b) => a - b);
  if (!ts.length) ts = [0, 1];
  const low = ts[0], most = ts[Math.floor(0.95 * (ts.length - 1))];
  let high = ts[ts.length - 1];
  if (!whole && ts.length >= 10 && most > low && high - low > 5 * (most - low)) high = most + 0.25 * (most - low);
  const apart = high - low > 1e-9 * Math.max(1, Math.abs(high));
  const room = apart ? 0.04 * (high - low) : (log ? 0.05 : Math.max(0.5, Math.abs(low) / 20));
  return [low - room, high + room];
}

function yTicks(low, high, log) {
  if (!log) return steps(low, high);
  const span = high - low, every = Math.max(1, Math.ceil(span / 8));
  for (const subs of [[1], ...(span > 3.5 ? [[1, 3]] : []), [1, 2, 5], [1, 2, 3, 5, 7]]) {
    const found = [];
    for (let n = Math.floor(low); n <= Math.min(Math.ceil(high), 307); n++)
      if (n % every === 0) for (const s of subs) {
        const t = Math.log10(s) + n;
        if (t >= low - 1e-12 && t <= high + 1e-12) found.push(s * 10 ** n);
      }
    if (found.length >= 5 || every > 1) return found;
  }
  return steps(10 ** low, 10 ** high);
}

function steps(low, high) {
  const size = 10 ** Math.floor(Math.log10(high - low));
  let first = 0, last = 0, step = 0;
  for (const s of [5, 2, 1, 0.5, 0.2]) {
    step = size * s;
    first = Math.ceil(low / step - 1e-9);
    last = Math.floor(high / step + 1e-9);
    if (last - first >= 3) break;
  }
  return Array.from({ length: last - first + 1 }, (_, n) => (first + n) * step);
}

function setUp(figure) {
  const svg = figure.querySelector(".plot > svg");
  const logX = figure.dataset.logX === "1", logY = figure.dataset.logY === "1";
  const keys = all(figure, ".key");
  const label = (kind, n) => {
    const key = figure.querySelector(`.key[data-${kind}="${n}"] span`);
    return key ? key.textContent : "";
  };
  const curves = all(svg, ".curve").map(g => {
    const curve = { g, name: label("n", g.dataset.n), group: label("g", g.dataset.g), note: g.dataset.note };
    curve.points = all(g, ".pt").map(el => {
      const title = el.querySelector("title");
      if (title) title.remove(); // the tooltip says it; both would be one too many
      const d = el.dataset;
      return { el, curve, x: read(d.x), y: read(d.y), low: read(d.low), high: read(d.high), part: d.part };
    });
    return curve;
  });
  const places = curves.flatMap(c => c.points.map(p => p.x)).concat(all(svg, ".mark").map(m => read(m.dataset.x)));
  const scaled = (places.length ? places : [1]).map(v => logX ? Math.log2(v) : v);
  const lowX = scaled.reduce((a, b) => Math.min(a, b)), highX = scaled.reduce((a, b) => Math.max(a, b));
  const room = 0.03 * (highX - lowX) || 0.5;
  const whole = figure.querySelector(".whole input"), filter = figure.querySelector(".filter");
  let shown = curves, at = null;

  const press = (key, on) => key.setAttribute("aria-pressed", String(on));
  const pressed = key => key.getAttribute("aria-pressed") === "true";
  function choose() {
    const off = { n: new Set(), g: new Set() };
    for (const key of keys) if (!pressed(key)) off[key.dataset.n === undefined ? "g" : "n"].add(key.dataset.n ?? key.dataset.g);
    const words = filter ? filter.value.toLowerCase().split(/\s+/).filter(Boolean) : [];
    const found = curve => words.every(word => `${curve.name} ${curve.group}`.toLowerCase().includes(word));
    shown = curves.filter(c => !off.n.has(c.g.dataset.n) && !off.g.has(c.g.dataset.g) && found(c));
    for (const curve of curves) curve.g.classList.toggle("hide", !shown.includes(curve));
    if (filter) {
      const names = new Set(curves.filter(found).map(c => c.g.dataset.n));
      for (const key of keys) if (key.dataset.n !== undefined) key.classList.toggle("hide", !names.has(key.dataset.n));
    }
    const count = figure.querySelector(".count");
    if (count) figure.querySelector(".all").hidden = shown.length === curves.length;
    if (count) count.textContent = shown.length === curves.length ? `${curves.length} curves` : `${shown.length} of ${curves.length} curves`;
    point(null);
    layOut();
  }

  function layOut() {
    const width = Math.max(280, Math.round(svg.parentNode.clientWidth)), height = width < 620 ? 340 : 420;
    const right = width - RIGHT, floor = height - BOTTOM;
    const values = shown.flatMap(c => c.points.flatMap(p => [p.y, p.low, p.high]));
    const [low, high] = yRange(values, logY, whole && whole.checked);
    const xOf = v => LEFT + ((logX ? Math.log2(v) : v) - lowX + room) / (highX - lowX + 2 * room) * (right - LEFT);
    const t = v => logY ? (v > 0 ? Math.log10(v) : -Infinity) : v;
    const yOf = v => t(v) === -Infinity ? 2 * floor : floor + (t(v) - low) / (high - low) * (TOP - floor);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("width", width);
    svg.setAttribute("height", height);
    const set = (query, values) => { for (const el of all(svg, query)) for (const k in values) el.setAttribute(k, values[k]); };
    set(".clip", { width: right - LEFT, height: floor - TOP });
    set(".axis", { d: `M${LEFT} ${floor}H${right}` });
    set(".label.x", { x: (LEFT + right) / 2, y: height - 8 });
    set(".none", { x: width / 2, y: height / 2 });
    set(".mark line", { y2: floor });
    for (const mark of all(svg, ".mark")) {
      const text = mark.querySelector("text"), place = xOf(read(mark.dataset.x));
      const left = place + 4 + 7 * text.textContent.length > width;
      mark.setAttribute("transform", `translate(${px(place)} 0)`);
      text.setAttribute("x", left ? -4 : 4);
      text.setAttribute("text-anchor", left ? "end" : "start");
    }
    const ticks = all(svg, ".ticks.x .tick"), marked = new Set(all(svg, ".mark").map(m => read(m.dataset.x)));
    const spans = ticks.map(tick => {
      const place = xOf(read(tick.dataset.x)), half = 3.5 * tick.querySelector("text").textContent.length + 5;
      return [place - half, place + half];
    });
    const legible = readable(spans, new Set([...ticks.keys()].filter(n => marked.has(read(ticks[n].dataset.x)))));
    ticks.forEach((tick, n) => {
      tick.querySelector("text").classList.toggle("hide", !legible.has(n));
      tick.setAttribute("transform", `translate(${px(xOf(read(tick.dataset.x)))} ${floor})`);
    });
    drawYTicks(svg.querySelector(".ticks.y"), yTicks(low, high, logY), yOf, right);
    let beyond = 0;
    for (const curve of shown) beyond += drawCurve(curve, xOf, yOf, v => !Number.isFinite(v) || t(v) > high + 1e-12 ? 1 : t(v) < low - 1e-12 ? -1 : 0, floor);
    const edge = figure.querySelector(".edge");
    edge.hidden = !beyond;
    edge.textContent = beyond === 1 ? "1 point lies outside the axis and is drawn as a triangle at its edge." : `${beyond} points lie outside the axis and are drawn as triangles at its edge.`;
  }

  // What is under the pointer.
  function point(found, more = []) {
    if (at) { at.el.classList.remove("at"); at.curve.g.classList.remove("hot"); }
    at = found;
    svg.classList.toggle("focus", Boolean(found));
    tip.hidden = !found;
    if (!found) return;
    found.el.classList.add("at");
    found.curve.g.classList.add("hot");
    found.curve.g.parentNode.append(found.curve.g); // above the others
    tip.replaceChildren(...lines(found), ...also(more));
    const box = svg.getBoundingClientRect(), scale = box.width / svg.viewBox.baseVal.width;
    const x = box.left + found.px * scale, y = box.top + found.py * scale;
    const left = x + 14 + tip.offsetWidth > window.innerWidth - 8 ? x - 14 - tip.offsetWidth : x + 14;
    tip.style.left = `${Math.max(8, Math.min(left, window.innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${Math.max(8, Math.min(y - tip.offsetHeight / 2, window.innerHeight - tip.offsetHeight - 8))}px`;
  }
  const make = (tag, text, name) => Object.assign(document.createElement(tag), { textContent: text, className: name || "" });
  const brief = text => text === undefined ? "" : Number.isFinite(Number(text)) ? String(Number(Number(text).toPrecision(7))) : text;
  const title = curve => curve.group ? `${curve.name} \u00b7 ${curve.group}` : curve.name;
  function lines(found) {
    const d = found.el.dataset;
    const value = make("div", "", "value");
    value.append(make("b", brief(d.y)), d.low && d.high ? `  (${brief(d.low)} to ${brief(d.high)})` : "");
    return [make("b", title(found.curve)), value, make("div", figure.dataset.y), make("div", `${figure.dataset.x}: ${d.x}`),
      ...[d.note, found.curve.note].filter(Boolean).map(text => make("div", text))];
  }
  function also(more) {
    if (!more.length) return [];
    const rows = more.slice(0, 6).map(p => make("div", `${title(p.curve)}: ${brief(p.el.dataset.y)}`));
    if (more.length > 6) rows.push(make("div", `and ${more.length - 6} more here`));
    rows[0].classList.add("also");
    return rows;
  }
  const points = () => shown.flatMap(c => c.points);
  const together = p => points().filter(q => q !== p && Math.hypot(q.px - p.px, q.py - p.py) < 4);
  const pointed = event => {
    const box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
    let best = null, distance = 30;
    for (const p of points()) {
      const far = Math.hypot(p.px - x, p.py - y);
      if (far < distance) [best, distance] = [p, far];
    }
    if (best !== at) point(best, best ? together(best) : []);
  };
  svg.addEventListener("pointermove", pointed);
  svg.addEventListener("pointerdown", pointed); // a finger does not move before it is there
  svg.addEventListener("pointerleave", () => point(null));
  svg.addEventListener("blur", () => point(null));
  svg.addEventListener("keydown", event => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "Escape") return point(null);
    if (!step || !shown.length) return;
    event.preventDefault();
    let next = points()[0];
    if (at && step[0]) next = at.curve.points[at.curve.points.indexOf(at) + step[0]];
    else if (at) {
      const column = points().filter(p => p.x === at.x).sort((a, b) => a.py - b.py);
      next = column[column.indexOf(at) + step[1]];
    }
    if (next) point(next, together(next));
  });

  // The legend.
  for (const key of keys) {
    const kind = key.dataset.n === undefined ? "g" : "n";
    const same = keys.filter(other => (other.dataset.n === undefined ? "g" : "n") === kind);
    key.title = `${key.textContent} (click: hide or show; double-click: only this, or all)`;
    key.addEventListener("click", () => { press(key, !pressed(key)); choose(); });
    key.addEventListener("dblclick", () => {
      const alone = same.every(other => pressed(other) === (other === key));
      for (const other of same) press(other, alone || other === key);
      choose();
    });
    const hot = on => {
      svg.classList.toggle("focus", on);
      for (const curve of curves) curve.g.classList.toggle("hot", on && curve.g.dataset[kind] === key.dataset[kind]);
    };
    key.addEventListener("pointerenter", () => hot(true));
    key.addEventListener("pointerleave", () => hot(false));
  }
  if (filter) filter.addEventListener("input", choose);
  const showAll = figure.querySelector(".all");
  if (showAll) showAll.addEventListener("click", () => {
    for (const key of keys) press(key, true);
    if (filter) filter.value = "";
    choose();
  });
  if (whole) whole.addEventListener("change", layOut);
  // So many curves that none could be followed: begin with the first line style's.
  const styles = keys.filter(key => key.dataset.g !== undefined);
  if (curves.length > MANY) styles.forEach((key, n) => press(key, n === 0));
  choose();
  return { layOut, leave: () => { if (at) point(null); } };
}

function drawYTicks(group, values, yOf, right) {
  const texts = labels(values);
  group.replaceChildren(...values.map((value, n) => {
    const make = (tag, values) => {
      const el = document.createElementNS(group.namespaceURI, tag);
      for (const k in values) el.setAttribute(k, values[k]);
      return el;
    };
    const tick = make("g", { class: "tick", transform: `translate(0 ${px(yOf(value))})` });
    const text = make("text", { x: LEFT - 8, dy: ".32em" });
    text.textContent = texts[n];
    tick.append(make("line", { x1: LEFT, x2: right }), text);
    return tick;
  }));
}

// Sets a curve's paths and points; returns how many points with a number lie outside the axis.
function drawCurve(curve, xOf, yOf, sideOf, floor) {
  const runs = new Map();
  let beyond = 0;
  for (const p of curve.points) {
    const side = sideOf(p.y), failed = !Number.isFinite(p.y);
    p.px = xOf(p.x);
    p.py = side > 0 ? TOP : side < 0 ? floor : yOf(p.y);
    p.el.setAttribute("transform", `translate(${px(p.px)} ${px(p.py)})`);
    if (!failed) {
      p.el.setAttribute("d", side > 0 ? OVER : side < 0 ? UNDER : curve.g.dataset.shape);
      p.el.setAttribute("class", `pt${side > 0 ? " over" : side < 0 ? " under" : ""}`);
      beyond += side !== 0;
    }
    if (p.part !== undefined) runs.set(p.part, [...(runs.get(p.part) || []), p]);
  }
  let line = "", band = "";
  const outline = run => {
    if (!run.length) return "";
    const sides = run.flatMap(p => (run.length === 1 ? [-3, 3] : [0]).map(d => [p.px + d, p]));
    const path = [...sides.map(([x, p]) => [x, p.high]), ...sides.reverse().map(([x, p]) => [x, p.low])];
    return "M" + path.map(([x, v]) => `${px(x)} ${px(yOf(v))}`).join("L") + "Z";
  };
  for (const run of runs.values()) {
    line += run.map((p, n) => `${n ? "L" : "M"}${px(p.px)} ${px(yOf(p.y))}`).join("");
    let held = [];
    for (const p of run) {
      if (Number.isFinite(p.low) && Number.isFinite(p.high)) held.push(p);
      else { band += outline(held); held = []; }
    }
    band += outline(held);
  }
  curve.g.querySelector(".line").setAttribute("d", line);
  curve.g.querySelector(".band").setAttribute("d", band);
  return beyond;
}

async function copy(button) {
  const text = button.dataset.csv, said = button.textContent;
  try { await navigator.clipboard.writeText(text); }
  catch { // a page opened as a file may not be given the clipboard
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = said; }, 1200);
}

document.documentElement.classList.add("js");
for (const button of all(document, ".copy")) button.addEventListener("click", () => copy(button));
const charts = all(document, ".chart").map(setUp);
let waiting = 0;
window.addEventListener("resize", () => {
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(() => { for (const chart of charts) chart.layOut(); });
});
window.addEventListener("scroll", () => { for (const chart of charts) chart.leave(); }, { passive: true });
window.addEventListener("beforeprint", () => { for (const d of all(document, "details")) d.open = true; });
})();
