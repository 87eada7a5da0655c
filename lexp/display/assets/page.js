// Charts are complete SVG before this runs. It scales what was drawn to the window's width and to the
// curves shown, and shows values under the pointer; display/svg.py chooses places, ticks and labels.
// All texts come from attributes and go into text nodes.
(() => {
"use strict";
const MANY = 60, LEAST_WIDTH = 280;
// Narrower charts have no labels at the ends of lines, and this margin instead.
const LABEL_WIDTH = 620, NARROW_MARGIN = 18, END_GAP = 12, END_LEFT = 12;
const tip = document.getElementById("tip");
const all = (root, query) => Array.from(root.querySelectorAll(query));
const numbers = text => text.split(" ").map(Number);

// Ascending places moved as little as possible until they are a gap apart (line_ends.py).
function spreadOut(places, gap, low, high) {
  const blocks = [], mean = b => b.sum / b.n, most = high - (places.length - 1) * gap;
  places.forEach((place, i) => {
    let block = { sum: place - i * gap, n: 1 };
    while (blocks.length && mean(blocks[blocks.length - 1]) > mean(block)) {
      const before = blocks.pop();
      block = { sum: block.sum + before.sum, n: block.n + before.n };
    }
    blocks.push(block);
  });
  const firsts = blocks.flatMap(b => Array(b.n).fill(Math.min(Math.max(mean(b), low), most)));
  return firsts.map((first, i) => first + i * gap);
}

function setUp(figure) {
  const svg = figure.querySelector(".plot > svg"), clip = svg.querySelector(".clip");
  const [left, top, plotWidth, plotHeight] = ["x", "y", "width", "height"].map(k => Number(clip.getAttribute(k)));
  const floor = top + plotHeight, right = svg.viewBox.baseVal.width - left - plotWidth, height = svg.viewBox.baseVal.height;
  const placed = el => {
    const matrix = el.transform.baseVal[0].matrix;
    return { el, x: matrix.e, y: matrix.f };
  };
  const moved = all(svg, ".move, .mark, .ticks.x .tick").map(placed);
  const yTicks = svg.querySelector(".ticks.y"), tick = yTicks.firstElementChild, levels = yTicks.dataset.levels.split(";");
  const keys = all(figure, ".key");
  const label = (kind, n) => {
    const key = figure.querySelector(`.key[data-${kind}="${n}"] span`);
    return key ? key.textContent : "";
  };
  const curves = all(svg, ".curve").map(g => {
    const curve = { g, name: label("n", g.dataset.n), group: label("g", g.dataset.g), note: g.dataset.note };
    curve.points = all(g, ".pt").map(el => {
      const title = el.querySelector("title");
      if (title) title.remove(); // the tooltip has the same text
      const point = { ...placed(el), curve, value: el.dataset.x, failed: el.classList.contains("failed") };
      if (el.dataset.at) point.y = Number(el.dataset.at);
      return point;
    });
    return curve;
  });
  for (const g of all(svg, ".end")) curves[Number(g.dataset.curve)].end = { g, lead: g.querySelector(".lead"), to: g.querySelector(".to") };
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
    scale();
  }

  // The drawn places at the top and bottom of the plot, and which ticks belong to them.
  function view() {
    if (whole && whole.checked) return [...numbers(svg.dataset.whole), levels[levels.length - 1]];
    const extents = shown.filter(c => c.g.dataset.extent).map(c => numbers(c.g.dataset.extent));
    if (shown.length === curves.length || !extents.length) return [top, floor, levels[0]];
    const high = extents.reduce((a, e) => Math.min(a, e[0]), floor), low = extents.reduce((a, e) => Math.max(a, e[1]), top);
    const half = Math.max(0.54 * (low - high), plotHeight / 32), middle = (low + high) / 2;
    const first = Math.max(top, middle - half), last = Math.min(floor, middle + half);
    // Each level of ticks is for views that are smaller than the one before it by the root of 2.
    return [first, last, levels[Math.ceil(2 * Math.log2(plotHeight / (last - first)) - 1e-6)]];
  }

  function scale() {
    const width = Math.max(LEAST_WIDTH, Math.round(svg.parentNode.clientWidth));
    const wide = width - left - (width < LABEL_WIDTH ? NARROW_MARGIN : right);
    const [first, last, ticks] = view();
    const sx = wide / plotWidth, sy = plotHeight / (last - first);
    const xOf = x => left + (x - left) * sx, yOf = y => top + (y - first) * sy;
    const move = (el, x, y) => el.setAttribute("transform", `translate(${x.toFixed(1)} ${y.toFixed(1)})`);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("width", width);
    clip.setAttribute("width", wide);
    svg.querySelector(".axis").setAttribute("transform", `matrix(${sx} 0 0 1 ${xOf(0)} 0)`);
    for (const path of all(svg, "[clip-path] path")) path.setAttribute("transform", `matrix(${sx} 0 0 ${sy} ${xOf(0)} ${yOf(0)})`);
    for (const { el, x, y } of moved) move(el, xOf(x), y);
    for (const text of all(svg, ".ticks.x text")) text.classList.toggle("hide", !(wide >= Number(text.dataset.width)));
    const inside = y => y > top - 0.01 && y < floor + 0.01;
    const places = ticks.split(" ").map(pair => pair.split(",")).map(([text, place]) => [text, yOf(Number(place))]);
    yTicks.replaceChildren(...places.filter(([, y]) => inside(y)).map(([text, y]) => {
      const copy = tick.cloneNode(true);
      move(copy, 0, y);
      copy.querySelector("line").setAttribute("x2", left + wide);
      copy.querySelector("text").textContent = text;
      return copy;
    }));
    let outside = 0;
    for (const p of points()) {
      const y = yOf(p.y), side = inside(y) ? 0 : y < top ? 1 : -1;
      [p.px, p.py] = [xOf(p.x), side > 0 ? top : side < 0 ? floor : y];
      move(p.el, p.px, p.py);
      if (p.failed) continue;
      p.el.setAttribute("d", side > 0 ? svg.dataset.over : side < 0 ? svg.dataset.under : p.curve.g.dataset.shape);
      p.el.classList.toggle("over", side > 0);
      p.el.classList.toggle("under", side < 0);
      outside += side !== 0;
    }
    const edge = figure.querySelector(".edge");
    edge.hidden = !outside;
    edge.querySelector("span").textContent = outside;
    labelEnds(width, left + wide);
  }

  // All curves shown if their labels fit, else the lowest of each name, else none.
  function labelEnds(width, edge) {
    const last = curve => curve.points.filter(p => !p.failed).pop();
    const ended = shown.filter(c => c.end && last(c)), best = new Map();
    const most = width < LABEL_WIDTH ? 0 : Math.floor(plotHeight / END_GAP) + 1;
    for (const c of ended) {
      const other = best.get(c.name);
      if (!other || last(c).py > last(other).py) best.set(c.name, c);
    }
    const chosen = ended.length <= most ? ended : best.size <= most ? [...best.values()] : [];
    for (const c of curves) if (c.end) c.end.g.classList.toggle("hide", !chosen.includes(c));
    const sorted = chosen.slice().sort((a, b) => last(a).py - last(b).py);
    spreadOut(sorted.map(c => last(c).py), END_GAP, top, floor).forEach((y, i) => {
      const { lead, to } = sorted[i].end, p = last(sorted[i]);
      if (lead) lead.setAttribute("d", `M${p.px.toFixed(1)} ${p.py.toFixed(1)}L${edge + 8} ${y.toFixed(1)}`);
      to.setAttribute("transform", `translate(${edge + END_LEFT} ${(y - 6).toFixed(1)})`);
    });
  }

  function hot(curve, on) {
    curve.g.classList.toggle("hot", on);
    if (curve.end) curve.end.g.classList.toggle("hot", on);
  }

  // What is under the pointer.
  function point(found, more = []) {
    if (at) { at.el.classList.remove("at"); hot(at.curve, false); }
    at = found;
    svg.classList.toggle("focus", Boolean(found));
    tip.hidden = !found;
    if (!found) return;
    found.el.classList.add("at");
    hot(found.curve, true);
    found.curve.g.parentNode.append(found.curve.g); // above the others
    tip.replaceChildren(...lines(found), ...also(more));
    const box = svg.getBoundingClientRect(), scale = box.width / svg.viewBox.baseVal.width;
    const x = box.left + found.px * scale, y = box.top + found.py * scale;
    const left = x + 14 + tip.offsetWidth > window.innerWidth - 8 ? x - 14 - tip.offsetWidth : x + 14;
    tip.style.left = `${Math.max(8, Math.min(left, window.innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${Math.max(8, Math.min(y - tip.offsetHeight / 2, window.innerHeight - tip.offsetHeight - 8))}px`;
  }
  const make = (tag, text, name) => Object.assign(document.createElement(tag), { textContent: text, className: name || "" });
  // As tables have them: no decimals from 1000 on.
  const rounded = n => Math.abs(n) < 1000 ? n.toFixed(Number(figure.dataset.decimals)) : n.toFixed(0);
  const brief = text => text === undefined ? "" : !Number.isFinite(Number(text)) ? text
    : figure.dataset.decimals ? rounded(Number(text)) : String(Number(Number(text).toPrecision(7)));
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
      const column = points().filter(p => p.value === at.value).sort((a, b) => a.py - b.py);
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
    const light = on => {
      svg.classList.toggle("focus", on);
      for (const curve of curves) hot(curve, on && curve.g.dataset[kind] === key.dataset[kind]);
    };
    key.addEventListener("pointerenter", () => light(true));
    key.addEventListener("pointerleave", () => light(false));
  }
  if (filter) filter.addEventListener("input", choose);
  const showAll = figure.querySelector(".all");
  if (showAll) showAll.addEventListener("click", () => {
    for (const key of keys) press(key, true);
    if (filter) filter.value = "";
    choose();
  });
  if (whole) whole.addEventListener("change", scale);
  // So many curves that none could be followed: begin with the first line style's.
  const styles = keys.filter(key => key.dataset.g !== undefined);
  if (curves.length > MANY) styles.forEach((key, n) => press(key, n === 0));
  choose();
  return { scale, leave: () => { if (at) point(null); } };
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

function more(box) {
  box.classList.toggle("more", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
}

// The columns that name the rows stay while a table scrolls: the second too, where both leave room.
function stay(box) {
  const table = box.querySelector("table"), second = table.querySelector("tbody .second");
  const first = table.querySelector("tbody th"), scrolls = box.scrollWidth > box.clientWidth + 1;
  box.classList.toggle("scrolls", scrolls);
  more(box);
  if (!first || !second) return;
  const wide = first.offsetWidth + second.offsetWidth;
  table.style.setProperty("--first", `${first.offsetWidth}px`);
  box.classList.toggle("stay", scrolls && wide < 0.62 * box.clientWidth);
}

document.documentElement.classList.add("js");
for (const button of all(document, ".copy")) button.addEventListener("click", () => copy(button));
const charts = all(document, ".chart").map(setUp);
const boxes = all(document, ".scroll");
let waiting = 0;
function fit() {
  for (const chart of charts) chart.scale();
  for (const box of boxes) stay(box);
}
for (const box of boxes) {
  stay(box);
  box.addEventListener("scroll", () => more(box), { passive: true });
}
for (const input of all(document, ".choice input")) input.addEventListener("change", fit); // what was hidden has a size now
window.addEventListener("resize", () => {
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(fit);
});
window.addEventListener("scroll", () => { for (const chart of charts) chart.leave(); }, { passive: true });
})();
