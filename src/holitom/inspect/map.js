"use strict";
// Draws one inspection. `root`: the document, or the shadow root of an element of another page; `D`: its data.
function drawMap(root, D) {
const home = root === document ? document.documentElement : root.host;
const $ = id => root.getElementById(id);
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
const ints = text => new Int32Array(bytes(text).buffer);
const T = D.frames, [R, C] = D.grid, N = R * C;
const via = ints(D.via), into = ints(D.into), fate = bytes(D.fate);
const importance = D.importance && bytes(D.importance), similarity = D.similarity && bytes(D.similarity);
const computed = D.computed && bytes(D.computed.places);
const survivors = Object.fromEntries(Object.entries(D.survivors).map(([k, v]) => [k, bytes(v)]));
const [DROPPED, KEPT, CENTER, JOINED, STATIC] = [0, 1, 2, 3, 4];
const color = {}, named = {};
for (const [key, name, , tint] of D.fates) { color[key] = tint; named[key] = name; }
const many = (n, one, more = one + "s") => `${n.toLocaleString("en")} ${n === 1 ? one : more}`;
const grouped = n => n.toLocaleString("en");
const percent = x => (100 * x).toFixed(1) + "%";
// Frames are counted from 1; the model may take several as one row of tokens.
const F = D.per_step;
const span = (a, b) => F * (a + 1) === F * (b + 1) && F === 1 ? `frame ${a + 1}` : `frames ${F * a + 1}–${F * (b + 1)}`;
const clock = t => D.seconds ? `${D.seconds[t].toFixed(2)} s` : "";
const upper = text => text[0].toUpperCase() + text.slice(1);
const brief = (n, units) => {
  const power = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(1, n)) / 3 + 1e-9));
  const value = n / 1000 ** power;
  return `${value >= 100 ? Math.round(value) : +value.toPrecision(3)} ${units[power]}`.trim();
};
const make = (tag, props = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children);
  return node;
};
const drawn = (tag, attributes = {}, text) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [k, v] of Object.entries(attributes)) node.setAttribute(k, v);
  if (text !== undefined) node.textContent = text;
  return node;
};

// Members of each merged token, gathered once: those of place p are order[start[p] .. start[p + 1]).
const start = new Int32Array(T * N + 1), order = new Int32Array(T * N);
for (const p of into) if (p >= 0) start[p + 1]++;
for (let p = 0; p < T * N; p++) start[p + 1] += start[p];
{
  const next = start.slice();
  for (let i = 0; i < T * N; i++) if (into[i] >= 0) order[next[into[i]]++] = i;
}
const sizeOf = p => start[p + 1] - start[p];
const members = p => order.subarray(start[p], start[p + 1]);
const segmentOf = new Int32Array(T);
D.segments.forEach(([a, b], s) => segmentOf.fill(s, a, b + 1));

// ---- texts ---------------------------------------------------------------------------------------

let sent = 0;
for (let p = 0; p < T * N; p++) sent += into[p] === p;
$("headline").textContent = D.headline;
$("about").textContent = [D.method, D.title, F === 1 ? `${many(T, "frame")} of ${R} × ${C} tokens`
  : `${many(F * T, "frame")} in ${many(T, "step")} of ${R} × ${C} tokens`, D.model].filter(Boolean).join(" · ");
if (D.hint) $("about").append(make("br"), D.hint);
if (D.brightened) $("about").append(make("br"), "The video is dark, so its pictures are brightened here.");
$("banner").textContent = D.banner || "";
if (D.question) {
  $("asked").className = "asked";
  $("asked").append(make("div", { className: "faint", textContent: D.question }), make("b", { textContent: D.answer || "(no answer)" }));
}

{
  const costs = D.stages[0][2] !== null, [, full, work, cache] = D.stages[0];
  const head = make("tr");
  for (const text of ["Stage", "Tokens", "", ...(costs ? ["Prefill", "KV cache"] : [])]) head.append(make("th", { scope: "col", textContent: text, className: text ? "" : "bar" }));
  const body = make("tbody");
  for (const [name, tokens, operations, kv] of D.stages) {
    const bar = make("i");
    bar.style.width = percent(tokens / full);
    const row = make("tr", {}, make("th", { scope: "row", textContent: upper(name) }), make("td", { textContent: grouped(tokens) }),
      make("td", { className: "bar" }, bar));
    if (costs) row.append(make("td", { textContent: `${brief(operations, ["", "k", "M", "G", "T", "P"])} · ${percent(operations / work)}` }),
      make("td", { textContent: `${brief(kv, ["B", "kB", "MB", "GB", "TB"])} · ${percent(kv / cache)}` }));
    body.append(row);
  }
  $("stages").append(make("thead", {}, head), body);
  $("formula").textContent = costs ? "If merging ended at that stage. Prefill: operations of all layers on visual tokens, by the "
    + "paper’s formula (holitom flops counts the model’s own); KV cache: of visual tokens, in all layers." : "";
}

// ---- segments over time --------------------------------------------------------------------------

const image = t => new Promise((done, failed) => {
  const picture = new Image();
  picture.onload = () => done(picture);
  picture.onerror = failed;
  picture.src = "data:image/jpeg;base64," + D.pictures[t];
});

const level = s => s / 127.5 - 1;
const cutting = D.segments.length < T;
const svg_width = () => $("time").parentElement.clientWidth;
function timeline() {
  const saved = D.segments.reduce((sum, s) => sum + s[3], 0);
  $("cut").textContent = T === 1 ? "One frame: nothing to cut."
    : !cutting ? "This method does not cut the video: every frame is a segment of its own."
    : `The video is cut into ${many(D.segments.length, "segment")}. In each, positions that hardly change are merged over its frames: `
      + `${many(saved, "token")} fewer. Click a segment to see it.`;
  if (T === 1) { $("time").style.display = "none"; return; }
  const svg = $("time"), W = Math.max(320, Math.round(svg_width())), strip = D.pictures.length ? 64 : 0, top = strip + 8, chart = similarity ? 74 : 0;
  const H = top + 26 + chart + 22, x = t => t / T * W;
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
  svg.setAttribute("aria-label", $("cut").textContent + " " + D.segments.slice(0, 30).map(([a, b, still, gone], s) =>
    `Segment ${s + 1}: ${span(a, b)}, ${still} of ${N} positions static, ${grouped(gone)} tokens saved.`).join(" "));
  if (strip) {
    const wide = Math.max(W / T, Math.min(strip * D.aspect, W / 3));
    const shown = Math.max(1, Math.floor(W / wide));
    for (let i = 0; i < shown; i++) {
      const t = Math.min(T - 1, Math.floor((i + .5) * T / shown));
      svg.append(drawn("image", { x: i * W / shown, y: 0, width: W / shown - 1.5, height: strip, preserveAspectRatio: "xMidYMid slice",
        href: "data:image/jpeg;base64," + D.pictures[t] }));
    }
  }
  D.segments.forEach(([a, b, still, gone], s) => {
    const group = drawn("g", { style: "cursor:pointer" });
    const wide = Math.max(.5, x(b + 1) - x(a) - (T > 200 ? .6 : 2));
    group.append(drawn("title", {}, `Segment ${s + 1}: ${span(a, b)}; ${still} of ${N} positions static, ${grouped(gone)} tokens saved`));
    group.append(drawn("rect", { x: x(a), y: top, width: wide, height: 22, rx: wide > 8 ? 3 : 0, fill: s % 2 ? "var(--bar)" : "var(--accent)", opacity: s % 2 ? .65 : .9 }));
    const texts = cutting ? [`${s + 1}: ${still} of ${N} static, ${grouped(gone)} saved`, `${s + 1}: ${grouped(gone)} saved`, `${s + 1}`] : [];
    const text = texts.find(one => one.length * 6.9 + 10 < wide);
    if (text) group.append(drawn("text", { x: x(a) + 6, y: top + 15.5, style: "fill:var(--paper);font-size:12px" }, text));
    group.addEventListener("click", () => visit(s));
    svg.append(group);
  });
  if (similarity) {
    const base = top + 30 + chart, tall = chart - 8, limit = D.threshold;
    let line = "";
    for (let t = 0; t < T - 1; t++) {
      let sum = 0, above = 0;
      for (let n = 0; n < N; n++) {
        const value = level(similarity[t * N + n]);
        sum += value;
        above += limit !== null && value > limit;
      }
      if (limit !== null) {
        const high = above / N * tall;
        svg.append(drawn("rect", { x: x(t + .62), y: base - high, width: Math.max(.6, x(.76)), height: high, fill: "var(--still)", opacity: .75 }));
      }
      line += `${t ? "L" : "M"}${x(t + 1).toFixed(1)} ${(base - Math.max(0, sum / N) * tall).toFixed(1)}`;
    }
    svg.append(drawn("path", { d: line, fill: "none", stroke: "var(--ink)", "stroke-width": 1.6 }),
      drawn("path", { d: `M0 ${base}H${W}M0 ${base - tall}H${W}`, stroke: "var(--line)", fill: "none" }),
      drawn("text", { x: 4, y: base + 14 }, W > 560
      ? "Line: similarity to the next frame, 0 to 1." + (limit === null ? "" : ` Bars: share of positions that are more similar than ${+limit.toFixed(3)}.`)
      : "Line: similarity to the next." + (limit === null ? "" : ` Bars: above ${+limit.toFixed(3)}.`)));
  }
  for (const [, last] of D.segments) if (cutting && last < T - 1 && similarity)
    svg.append(drawn("path", { d: `M${x(last + 1)} ${top + 24}V${H - 20}`, stroke: "var(--mark)", "stroke-dasharray": "4 3", opacity: .8 }));
}

// ---- looks of tokens -----------------------------------------------------------------------------

const ramp = [[12, 16, 40], [60, 40, 110], [170, 60, 90], [245, 140, 50], [255, 245, 200]];
const heat = (unit, alpha) => {
  const at = unit * 4, i = Math.min(3, Math.floor(at)), f = at - i;
  return `rgba(${ramp[i].map((low, c) => Math.round(low + f * (ramp[i + 1][c] - low))).join()},${alpha})`;
};
const families = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"];
const dark = alpha => `rgba(0,0,0,${alpha})`;

function look(g, kind, x, y, w, h) {
  const side = Math.min(w, h), line = Math.max(1, side / 12);
  g.lineWidth = line;
  if (kind === DROPPED) { g.fillStyle = dark(.84); g.fillRect(x, y, w, h); }
  if (kind === KEPT) { g.strokeStyle = color[KEPT]; g.strokeRect(x + line / 2, y + line / 2, w - line, h - line); }
  if (kind === CENTER) {
    g.lineWidth = 2 * line; g.strokeStyle = color[CENTER]; g.strokeRect(x + line, y + line, w - 2 * line, h - 2 * line);
    g.lineWidth = Math.max(1.2, .12 * side); g.strokeStyle = "#fff"; g.beginPath(); g.arc(x + w / 2, y + h / 2, .2 * side, 0, 7); g.stroke();
  }
  if (kind === STATIC) {
    g.fillStyle = dark(.36); g.fillRect(x, y, w, h);
    g.save(); g.beginPath(); g.rect(x, y, w, h); g.clip();
    g.strokeStyle = color[STATIC]; g.globalAlpha = .75; g.lineWidth = Math.max(1, side / 18); g.beginPath();
    const step = Math.max(5, side / 3);
    for (let d = step / 2; d < w + h; d += step) { g.moveTo(x + d, y); g.lineTo(x + d - h, y + h); }
    g.stroke(); g.restore();
  }
  if (kind === JOINED) {
    g.fillStyle = dark(.6); g.fillRect(x, y, w, h);
    g.fillStyle = color[JOINED]; g.beginPath(); g.arc(x + w / 2, y + h / 2, Math.max(1.2, .17 * side), 0, 7); g.fill();
  }
}

const views = {
  fate: ["Fate", (g, i, ...box) => look(g, fate[i], ...box)],
  sent: ["Sent", (g, i, x, y, w, h) => { if (into[i] !== i) { g.fillStyle = dark(.92); g.fillRect(x, y, w, h); } }],
  ...Object.fromEntries(Object.entries(survivors).map(([k, left]) => ["layer" + k, [`Layer ${k} on`, (g, i, x, y, w, h) => {
    if (left[i]) return;
    g.fillStyle = dark(into[i] === i ? .72 : .92); g.fillRect(x, y, w, h);
    if (into[i] === i) { g.strokeStyle = "#aab2c0"; g.lineWidth = 1; g.beginPath(); g.moveTo(x + w * .3, y + h * .3); g.lineTo(x + w * .7, y + h * .7);
      g.moveTo(x + w * .7, y + h * .3); g.lineTo(x + w * .3, y + h * .7); g.stroke(); }
  }]])),
  groups: ["Groups", (g, i, x, y, w, h) => {
    if (into[i] < 0) { look(g, DROPPED, x, y, w, h); return; }
    if (sizeOf(into[i]) === 1) { look(g, KEPT, x, y, w, h); return; }
    g.globalAlpha = .6; g.fillStyle = families[(into[i] * 2654435761 >>> 8) % families.length]; g.fillRect(x, y, w, h); g.globalAlpha = 1;
    g.strokeStyle = "#111"; g.lineWidth = 1; g.beginPath();
    const n = i % N;
    if (n % C < C - 1 && into[i + 1] !== into[i]) { g.moveTo(x + w, y); g.lineTo(x + w, y + h); }
    if (n + C < N && into[i + C] !== into[i]) { g.moveTo(x, y + h); g.lineTo(x + w, y + h); }
    g.stroke();
  }],
  ...(importance && { importance: ["Importance", (g, i, x, y, w, h) => { g.fillStyle = heat(importance[i] / 255, .82); g.fillRect(x, y, w, h); }] }),
  ...(similarity && T > 1 && { similarity: ["Similarity", (g, i, x, y, w, h) => {
    if (i >= (T - 1) * N) return;
    g.fillStyle = heat(Math.max(0, level(similarity[i])), .82); g.fillRect(x, y, w, h); }] }),
  ...(computed && { computed: ["Computed", () => {}] }),
  picture: ["Picture", () => {}],
};
const legends = {
  sent: "Only what is sent to the language model shows; a merged token shows its own place.",
  groups: "Tokens of one colour and border were merged into one; outlined tokens were kept as they were, dark ones dropped.",
  importance: "Light: the vision tower’s last layer attends to it.",
  similarity: "Light: hardly changes until the next frame.",
  computed: D.computed && `Light: what the vision tower computed (${percent(D.computed.share)} of the frames); dark: taken from a `
    + "reference frame, which is computed whole.",
  picture: "",
};
for (const k in survivors) legends["layer" + k] = `What the question keeps from layer ${k} of the language model on; a cross marks what was sent and is gone there.`;
let view = "fate";

function describe() {
  $("legend").replaceChildren();
  if (view !== "fate") { $("legend").append(make("li", { textContent: legends[view] })); return; }
  const counts = new Map(D.fates.map(([key]) => [key, 0]));
  for (const f of fate) counts.set(f, counts.get(f) + 1);
  for (const [key, name, meaning] of D.fates) {
    const swatch = make("canvas", { width: 44, height: 44 });
    swatch.setAttribute("aria-hidden", "true");
    const g = swatch.getContext("2d");
    g.fillStyle = "#8d939e"; g.fillRect(0, 0, 44, 44);
    look(g, key, 0, 0, 44, 44);
    $("legend").append(make("li", {}, swatch, make("span", {}, make("strong", { textContent: `${grouped(counts.get(key))} ${name}` }), `: ${meaning}`)));
  }
}

// ---- frames -------------------------------------------------------------------------------------

let pointed = -1, cursor = -1; // places t * N + n
let pinned = false, steering = false;
const cards = [];

function draw(card) {
  if (!card.near) return;
  const { canvas, t } = card, ratio = Math.min(devicePixelRatio || 1, 2);
  const W = Math.max(1, Math.round(canvas.clientWidth * ratio)), H = Math.max(1, Math.round(canvas.clientHeight * ratio));
  if (canvas.width !== W || canvas.height !== H) { canvas.width = W; canvas.height = H; }
  const g = canvas.getContext("2d"), w = W / C, h = H / R;
  g.fillStyle = "#3a3e48"; g.fillRect(0, 0, W, H);
  if (card.picture) g.drawImage(card.picture, 0, 0, W, H);
  const paint = views[view][1];
  for (let n = 0; n < N; n++) paint(g, t * N + n, (n % C) * w, Math.floor(n / C) * h, w, h);
  if (view === "computed") {
    const [rows, columns] = D.computed.grid, places = rows * columns;
    g.fillStyle = dark(.84);
    for (let n = 0; n < places; n++) if (!computed[t * places + n])
      g.fillRect((n % columns) * W / columns, Math.floor(n / columns) * H / rows, W / columns + .5, H / rows + .5);
  }
  const group = pointed < 0 ? -1 : into[pointed];
  if (pointed >= 0) {
    g.fillStyle = "rgba(16,18,24,.62)";
    const line = Math.max(2, Math.min(w, h) / 9);
    for (let n = 0; n < N; n++) {
      const i = t * N + n, x = (n % C) * w, y = Math.floor(n / C) * h;
      if (i !== pointed && (group < 0 || into[i] !== group)) { g.fillRect(x, y, w, h); continue; }
      if (card.picture) g.drawImage(card.picture, x / W * card.picture.width, y / H * card.picture.height,
        w / W * card.picture.width, h / H * card.picture.height, x, y, w, h);
      g.lineWidth = i === group ? 2 * line : line; g.strokeStyle = i === group ? "#ffffff" : "#ff4fa3";
      g.strokeRect(x + g.lineWidth / 2, y + g.lineWidth / 2, w - g.lineWidth, h - g.lineWidth);
      if (i === group) { g.lineWidth = line; g.strokeStyle = "#d6006e"; g.strokeRect(x + line / 2, y + line / 2, w - line, h - line); }
    }
  }
  if (cursor >= 0 && Math.floor(cursor / N) === t) {
    const n = cursor % N;
    g.lineWidth = Math.max(2, Math.min(w, h) / 8); g.strokeStyle = "#fff"; g.setLineDash([w / 5, w / 8]);
    g.strokeRect((n % C) * w + 1, Math.floor(n / C) * h + 1, w - 2, h - 2); g.setLineDash([]);
  }
}

let waiting = false;
function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; cards.forEach(draw); arrow(); });
}

function arrow() {
  const to = pointed < 0 ? -1 : into[pointed];
  if (to < 0 || to === pointed) { $("line").setAttribute("d", ""); return; }
  const origin = $("frames").getBoundingClientRect();
  const middle = i => {
    const box = cards[Math.floor(i / N)].canvas.getBoundingClientRect(), n = i % N;
    return [box.left - origin.left + (n % C + .5) * box.width / C, box.top - origin.top + (Math.floor(n / C) + .5) * box.height / R];
  };
  const [ax, ay] = middle(pointed), [bx, by] = middle(to), bend = Math.min(60, Math.hypot(bx - ax, by - ay) / 4);
  $("line").setAttribute("d", `M${ax} ${ay}Q${(ax + bx) / 2} ${Math.min(ay, by) - bend} ${bx} ${by}`);
}

const where = i => `${span(Math.floor(i / N), Math.floor(i / N))}, row ${Math.floor(i % N / C) + 1}, column ${i % N % C + 1}`;

function tell() {
  if (pointed < 0) {
    $("what").textContent = `${grouped(sent)} of ${many(T * N, "visual token")} are sent. Point at one to see what it stands for.`;
    $("more").textContent = "";
    return;
  }
  const i = pointed, to = into[i];
  const stands = p => {
    const all = members(p), first = Math.floor(all[0] / N), last = Math.floor(all[all.length - 1] / N);
    return `${many(all.length, "token")} of ${span(first, last)}`;
  };
  const merged = () => {
    let last = i;
    for (let j = via[i]; j < T * N && segmentOf[Math.floor(j / N)] === segmentOf[Math.floor(via[i] / N)]; j += N) if (via[j] === via[i]) last = j;
    return `merged over ${span(Math.floor(via[i] / N), Math.floor(Math.max(last, i) / N))}`;
  };
  const text = {
    [KEPT]: () => "sent as it was.",
    [CENTER]: () => `sent; it stands for ${stands(to)}.`,
    [STATIC]: () => `${merged()}; ${to === via[i] ? "the result is sent at" : "the result then joined"} ${where(to)}, which stands for ${stands(to)}.`,
    [JOINED]: () => `merged into ${where(to)}, which stands for ${stands(to)}.`,
    [DROPPED]: () => via[i] === i ? "left out: nothing of it is sent." : `${merged()}, and the result was left out.`,
  }[fate[i]]();
  $("what").replaceChildren(make("b", { textContent: upper(where(i)) }), ` — ${named[fate[i]]}: ${text}`);
  const notes = [];
  for (const [k, left] of Object.entries(survivors)) if (to >= 0) notes.push(left[to] ? `the question keeps it from layer ${k} on` : `gone from layer ${k} on`);
  if (D.computed && D.computed.reference[Math.floor(i / N)] !== Math.floor(i / N)) {
    const t = D.computed.reference[Math.floor(i / N)];
    notes.push(`what has not changed here is taken from ${span(t, t)} in the vision tower`);
  }
  if (importance) notes.push(`importance ${(importance[i] / 255).toFixed(2)} (square root, of the video’s highest)`);
  if (similarity && i < (T - 1) * N) notes.push(`similarity to the next frame ${level(similarity[i]).toFixed(2)}`);
  $("more").textContent = upper(notes.join("; ") || " ");
}

function point(i, pin = false) {
  if (i === pointed && pin === pinned) return;
  pointed = i; pinned = pin && i >= 0;
  tell(); redraw();
}

function at(card, event) {
  const box = card.canvas.getBoundingClientRect();
  const c = Math.floor((event.clientX - box.left) / box.width * C), r = Math.floor((event.clientY - box.top) / box.height * R);
  return card.t * N + Math.max(0, Math.min(R - 1, r)) * C + Math.max(0, Math.min(C - 1, c));
}

function steer(i) {
  const card = cards[Math.floor(i / N)];
  for (const other of cards) if (other.canvas.tabIndex === 0 && other !== card) other.canvas.tabIndex = -1;
  card.canvas.tabIndex = 0;
  steering = true; // the frame that loses the focus must keep the choice
  if (root.activeElement !== card.canvas) card.canvas.focus();
  steering = false;
  cursor = i;
  point(i);
  redraw();
}

const visit = s => {
  const [first] = D.segments[s];
  $("jump").value = s;
  steer(first * N);
  $("segment" + s).scrollIntoView({ block: "start" });
};

const nearby = new IntersectionObserver(entries => {
  for (const { target, isIntersecting } of entries) {
    const card = cards[target.dataset.frame];
    card.near = isIntersecting;
    if (!isIntersecting) { card.picture = null; card.canvas.width = card.canvas.height = 1; continue; }
    if (D.pictures.length) image(card.t).then(picture => { if (card.near) { card.picture = picture; draw(card); } });
    draw(card);
  }
}, { rootMargin: "300px" });

D.segments.forEach(([first, last, still, gone], s) => {
  const held = make("div", { className: "cards" });
  const about = [span(first, last) + (D.seconds ? `, ${clock(first)}${last > first ? " to " + clock(last) : ""}` : "")];
  if (last > first) about.push(`${still} of ${N} positions static, ${many(gone, "token")} saved`);
  const head = make("h3", {}, `Segment ${s + 1}`, make("small", { textContent: about.join(" · ") }));
  const part = make("section", { className: "segment", id: "segment" + s }, head, held);
  part.setAttribute("aria-label", `Segment ${s + 1}`);
  $("jump").append(make("option", { value: s, textContent: `${s + 1} (${span(first, last)})` }));
  for (let t = first; t <= last; t++) {
    const canvas = make("canvas", { tabIndex: t ? -1 : 0, width: 1, height: 1 });
    const counts = {};
    for (let n = 0; n < N; n++) counts[fate[t * N + n]] = (counts[fate[t * N + n]] || 0) + 1;
    const goes = (counts[KEPT] || 0) + (counts[CENTER] || 0);
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-roledescription", "token map");
    canvas.setAttribute("aria-label", `${upper(span(t, t))}${D.seconds ? " at " + clock(t) : ""}: `
      + D.fates.filter(([key]) => counts[key]).map(([key, name]) => `${counts[key]} ${name}`).join(", ") + ". Arrow keys move between tokens.");
    canvas.dataset.frame = t;
    const label = [span(t, t).split(" ")[1], clock(t), goes ? `${goes} sent` : "none sent"].filter(Boolean).join(" · ");
    held.append(make("figure", {}, canvas, make("figcaption", { className: "tabular", textContent: label })));
    const card = { t, canvas, near: false, picture: null };
    cards.push(card);
    canvas.addEventListener("pointermove", event => { if (!pinned && event.pointerType !== "touch") point(at(card, event)); });
    canvas.addEventListener("pointerleave", () => { if (!pinned && cursor < 0) point(-1); else if (!pinned) point(cursor); });
    canvas.addEventListener("click", event => { const i = at(card, event), same = pinned && i === pointed; cursor = -1; point(same ? -1 : i, !same); });
    canvas.addEventListener("focus", () => { if (!steering && canvas.matches(":focus-visible") && (cursor < 0 || Math.floor(cursor / N) !== t)) steer(t * N + (cursor < 0 ? 0 : cursor % N)); });
    canvas.addEventListener("blur", () => { if (steering) return; cursor = -1; if (!pinned) point(-1); });
    canvas.addEventListener("keydown", event => {
      const i = cursor < 0 ? t * N : cursor, n = i % N, c = n % C, r = Math.floor(n / C), f = Math.floor(i / N);
      const to = {
        ArrowLeft: () => c > 0 ? i - 1 : f > 0 ? i - N + C - 1 : i, ArrowRight: () => c < C - 1 ? i + 1 : f < T - 1 ? i + N - C + 1 : i,
        ArrowUp: () => r > 0 ? i - C : i, ArrowDown: () => r < R - 1 ? i + C : i,
        PageUp: () => f > 0 ? i - N : i, PageDown: () => f < T - 1 ? i + N : i,
        Home: () => i - c, End: () => i - c + C - 1, Enter: () => into[i] >= 0 ? into[i] : i,
      }[event.key];
      if (event.key === "Escape") { cursor = -1; point(-1); redraw(); }
      if (!to) return;
      event.preventDefault();
      pinned = false;
      steer(to());
    });
    nearby.observe(canvas);
  }
  $("frames").append(part);
});
home.style.setProperty("--aspect", D.aspect);

for (const [key, [name]] of Object.entries(views)) {
  const input = make("input", { type: "radio", name: "view", value: key, checked: key === view });
  input.addEventListener("change", () => { view = key; describe(); redraw(); });
  $("views").append(make("label", { className: "view" }, input, make("span", { textContent: name })));
}
// A line holds as many frames as fit with cells of 14 pixels on their shorter side (but no frame wider than 320 pixels),
// on a phone at least two. The frames fill the line until the slider is moved.
let sized = false;
const fit = () => {
  const wide = $("frames").clientWidth, wanted = Math.max(168, Math.min(320, 14 * C * Math.max(1, D.aspect * R / C)));
  if (sized || !wide) return;
  const count = Math.max(matchMedia("(max-width: 34rem)").matches ? 2 : 1, Math.floor((wide + 8) / (wanted + 8)));
  $("size").value = Math.floor((wide - 8 * (count - 1)) / count);
};
const resize = () => { home.style.setProperty("--size", $("size").value + "px"); redraw(); };
$("size").addEventListener("input", () => { sized = true; resize(); });
$("jump").addEventListener("change", event => visit(+event.target.value));
if (D.segments.length === 1) $("jump").disabled = true;
$("made").textContent = `Made by holitom ${D.version}. Frames are drawn whole under their grid of tokens, as the model’s processor resizes them.`;
// Scrolling to a frame must leave it visible between the bars at the top and the bottom.
const bars = () => {
  const tools = root.querySelector(".tools"), sticks = getComputedStyle(tools).position === "sticky";
  home.style.setProperty("--above", (sticks ? tools.offsetHeight : 0) + "px");
  home.style.setProperty("--below", $("told").offsetHeight + "px");
};
new ResizeObserver(bars).observe($("told"));
new ResizeObserver(bars).observe(root.querySelector(".tools"));
timeline(); fit(); resize(); describe(); tell(); bars();
// The content is observed, not the window: in an iframe its width may be set late, without an event of the window.
let width = svg_width();
new ResizeObserver(() => requestAnimationFrame(() => {
  if (svg_width() === width) return;
  width = svg_width();
  timeline(); fit(); resize();
})).observe($("time").parentElement);
}
