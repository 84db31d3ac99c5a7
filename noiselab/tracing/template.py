"""The HTML template of the page that replays a trace."""

PAGE = r"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>
:root {
  --ink: #1f2733; --soft: #5b6676; --line: #dde2e8; --paper: #ffffff; --wash: #f5f7f9; --mask: #d3d8df;
  --accent: #2563a8; --least: 10%; --most: 70%;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e6eaf0; --soft: #9aa6b5; --line: #333b46; --paper: #1b2027; --wash: #12161b; --mask: #3b444f;
    --accent: #6fa8e6; --least: 18%; --most: 52%;
  }
}
* { box-sizing: border-box; }
[hidden] { display: none !important; }
body {
  margin: 0; background: var(--wash); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", "DejaVu Sans", sans-serif;
}
main { max-width: 1080px; margin: 0 auto; padding: 1.6rem 1.2rem 3rem; }
h1 { font-size: 1.5rem; line-height: 1.2; margin: 0 0 .2rem; letter-spacing: -.01em; overflow-wrap: anywhere; }
.soft { color: var(--soft); }
header p { margin: 0; }
section {
  background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: .9rem 1.1rem;
  margin-top: 1rem;
}
#player { position: sticky; top: 0; z-index: 1; }
#bar { display: flex; flex-wrap: wrap; align-items: center; gap: .45rem .6rem; }
button, select {
  font: inherit; color: inherit; background: var(--wash); border: 1px solid var(--line); border-radius: 7px;
  height: 2.1rem;
}
button { width: 2.5rem; padding: 0; display: grid; place-items: center; cursor: pointer; }
button:hover, select:hover { border-color: var(--accent); }
button svg { width: 1rem; height: 1rem; fill: currentColor; }
#play { width: 3.4rem; background: var(--accent); color: var(--paper); border-color: transparent; }
#play.on .go, #play:not(.on) .halt { display: none; }
label { display: flex; align-items: center; gap: .35rem; color: var(--soft); }
#status { margin-top: .6rem; font-variant-numeric: tabular-nums; }
#graph { display: block; width: calc(100% - 16px); height: 46px; margin: .3rem 8px 0; cursor: pointer; }
#slider { display: block; width: 100%; margin: 0; accent-color: var(--accent); }
#legend { display: flex; flex-wrap: wrap; gap: .2rem 1.3rem; margin-top: .5rem; font-size: .88rem; color: var(--soft); }
#legend b { color: var(--ink); font-weight: 600; font-variant-numeric: tabular-nums; }
i {
  display: inline-block; width: 1.1rem; height: .8rem; border-radius: 3px; margin-right: .4rem; vertical-align: -1px;
}
#text, code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
#text { font-size: .95rem; line-height: 1.75; white-space: pre-wrap; overflow-wrap: anywhere; min-height: 6rem; }
.cell {
  --w: 0; display: inline; border-radius: 3px; padding: .13em 0; cursor: default;
  background: color-mix(in srgb, var(--k, transparent) calc(var(--least) + var(--w) * (var(--most) - var(--least))),
    transparent);
}
.spaced .cell { display: inline-block; margin-right: .3em; padding: 0 .25em; text-align: center; }
.off { background: color-mix(in srgb, var(--k, var(--mask)) calc(var(--w) * 45%), var(--mask)); color: var(--soft); }
.blank { display: inline-block; height: 1.2em; line-height: 1.2em; vertical-align: text-bottom; padding: 0;
  margin-right: 1px; }
.spaced .blank { height: 1.75em; padding: 0 .25em; vertical-align: top; box-sizing: content-box; }
.new { box-shadow: inset 0 -2px var(--k); font-weight: 600; }
.cell:hover { outline: 2px solid var(--accent); outline-offset: 0; }
#tip {
  position: fixed; z-index: 2; max-width: min(27rem, 92vw); padding: .6rem .8rem; border-radius: 8px; font-size: .86rem;
  background: var(--paper); border: 1px solid var(--line); box-shadow: 0 6px 24px rgb(0 0 0 / .22);
  pointer-events: none; font-variant-numeric: tabular-nums;
}
#tip ul { list-style: none; margin: .35rem 0 0; padding: 0; }
#tip li { padding: .18rem 0; }
#tip li + li { border-top: 1px solid var(--line); }
code { background: var(--wash); padding: .05em .3em; border-radius: 4px; white-space: pre-wrap; overflow-wrap: anywhere; }
kbd { font: inherit; font-size: .82rem; border: 1px solid var(--line); border-radius: 4px; padding: 0 .35em; }
footer { margin-top: .8rem; font-size: .85rem; }
</style>
</head>
<body>
<main>
<header><h1>{{ title }}</h1><p class="soft" id="about"></p></header>
<noscript><p>This page replays a recorded sampling run and requires JavaScript.</p></noscript>
<section id="player">
<div id="bar">
<button id="first" title="to the start (Home)" aria-label="to the start"><svg viewBox="0 0 16 16"><path
 d="M2 2h2v12H2zM14 2v12L5 8z"/></svg></button>
<button id="back" title="one stage back (left arrow)" aria-label="one stage back"><svg viewBox="0 0 16 16"><path
 d="M12 2v12L3 8z"/></svg></button>
<button id="play" title="play or pause (space)" aria-label="play or pause"><svg viewBox="0 0 16 16"><path class="go"
 d="M4 2v12l10-6z"/><path class="halt" d="M3 2h4v12H3zM9 2h4v12H9z"/></svg></button>
<button id="next" title="one stage forward (right arrow)" aria-label="one stage forward"><svg viewBox="0 0 16 16"><path
 d="M4 2v12l9-6z"/></svg></button>
<button id="last" title="to the end (End)" aria-label="to the end"><svg viewBox="0 0 16 16"><path
 d="M12 2h2v12h-2zM2 2v12l9-6z"/></svg></button>
<label>speed <select id="speed"><option value="0.25">1/4</option><option value="0.5">1/2</option>
<option value="1" selected>1</option><option value="2">2</option><option value="4">4</option></select></label>
<label id="which">sequence <select id="sequence"></select></label>
<label title="play and step over stages that change no token"><input type="checkbox" id="skip" checked> only
 changes</label>
</div>
<div id="status"></div>
<svg id="graph" preserveAspectRatio="none" aria-hidden="true"></svg>
<input id="slider" type="range" min="0" value="0" step="1" aria-label="stage">
<div id="legend"></div>
</section>
<section><div id="text"></div></section>
<footer class="soft"><kbd>space</kbd> plays, <kbd>←</kbd> <kbd>→</kbd> step, <kbd>Home</kbd> <kbd>End</kbd> jump. Hover over a
 token for its history. Underlined tokens changed in the current stage; colours fade with age.</footer>
<div id="tip" hidden></div>
</main>
<script type="application/json" id="data">{{ data }}</script>
<script>
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const off = new Set(data.off), blank = data.off.length === 1;
const end = data.stages.kind.length - 1;
let walk, stage = 0, timer = null;

function make(tag, text, into, kind) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (kind !== undefined) node.className = kind;
  if (into) into.append(node);
  return node;
}
const unseen = /[\u0000-\u0008\u000b-\u001f\u007f\u2028\u2029]/g;
const seen = text => text.replace(/\r?\n/g, "⏎").replace(/\t/g, "⇥").replace(unseen, "�") || "∅";
const flow = text => text.replace(/\r?\n/g, "⏎\n").replace(unseen, "�") || "∅";
const number = (x, digits) => x === 0 ? "0" : x < 0.001 ? x.toExponential(0) : String(Number(x.toPrecision(digits || 3)));
const kindOf = k => data.kinds[data.stages.kind[k]];
const colourOf = k => data.colours[data.stages.kind[k]];

// The history of every token: its changes, each with the token it replaced.
function unfold(sequence) {
  const stories = sequence.start.map(() => []), perStage = Array.from({length: end + 1}, () => 0);
  for (const [at, position, now, pOld, pNew] of sequence.changes) {
    const story = stories[position];
    const old = story.length ? story[story.length - 1].now : sequence.start[position];
    story.push({at, old, now, pOld, pNew});
    perStage[at] += 1;
  }
  const final = stories.map((story, i) => story.length ? story[story.length - 1].now : sequence.start[i]);
  const active = new Set(sequence.changes.map(change => data.stages.kind[change[0]]));
  return {...sequence, stories, perStage, final, active, times: sequence.times || data.times};
}
function timeAt(k, position) {
  const runs = walk.times[k];
  if (!Array.isArray(runs)) return runs;
  for (const [time, count] of runs) {
    if (position < count) return time;
    position -= count;
  }
  return null;
}
function timeText(k) {
  const runs = walk.times[k];
  if (runs === null) return "";
  if (!Array.isArray(runs)) return "t = " + number(runs);
  const all = runs.map(run => run[0]).filter(time => time !== null);
  return "t from " + number(Math.min(...all)) + " to " + number(Math.max(...all));
}
// The number of changes of a token up to stage k.
function known(story, k) {
  let count = 0;
  while (count < story.length && story[count].at <= k) count += 1;
  return count;
}

function open(index) {
  walk = unfold(data.sequences[index]);
  const text = $("text");
  text.className = data.spaced ? "spaced" : "";
  text.replaceChildren(...walk.start.map((_, position) => {
    const cell = make("span", "", null, "cell");
    cell.dataset.position = position;
    return cell;
  }));
  drawGraph();
  show(Math.min(stage, end));
}

function show(k) {
  stage = k;
  const tau = Math.max(1.5, end / 25);
  const counts = data.kinds.map(() => 0);
  for (const [at] of walk.changes) if (at <= k) counts[data.stages.kind[at]] += 1;
  const cells = $("text").children;
  walk.stories.forEach((story, position) => {
    const cell = cells[position], count = known(story, k), made = count ? story[count - 1] : null;
    const token = made ? made.now : walk.start[position], hidden = blank && off.has(token);
    const text = hidden ? "" : flow(data.texts[token]);
    if (cell.textContent !== text) cell.textContent = text;
    const name = "cell" + (off.has(token) ? " off" : "") + (hidden ? " blank" : "") + (made && made.at === k ? " new" : "");
    if (cell.className !== name) cell.className = name;
    // A mask is as wide as the final token at its position, so that the text does not move.
    cell.style.width = hidden ? Math.max(1, seen(data.texts[walk.final[position]]).length) + "ch" : "";
    if (made) {
      cell.style.setProperty("--k", colourOf(made.at));
      cell.style.setProperty("--w", Math.exp((made.at - k) / tau).toFixed(3));
    } else {
      cell.style.removeProperty("--k");
      cell.style.removeProperty("--w");
    }
  });
  $("slider").value = k;
  $("slider").setAttribute("aria-valuetext", "stage " + k + " of " + end);
  const step = data.stages.step[k];
  const parts = [kindOf(k) + (k ? " in step " + step : ""), timeText(k), k ? walk.perStage[k] + " changed" : ""];
  $("status").replaceChildren();
  make("b", "stage " + k + " of " + end, $("status"));
  $("status").append(": " + parts.filter(part => part).join(", "));
  drawLegend(counts);
  const pointer = $("pointer");
  if (pointer) pointer.setAttribute("x", k / Math.max(end, 1) * 1000 - 1);
  hideTip();
}

function drawLegend(counts) {
  const legend = $("legend");
  legend.replaceChildren();
  let all = 0;
  data.kinds.forEach((kind, k) => {
    if (!walk.active.has(k)) return;
    const item = make("span", undefined, legend);
    make("i", undefined, item).style.background = data.colours[k];
    item.append(kind + " ");
    make("b", counts[k], item);
    all += counts[k];
  });
  if (off.size) {
    const item = make("span", undefined, legend);
    make("i", undefined, item).style.background = "var(--mask)";
    item.append(blank ? (data.spaced ? "token " : "") + seen(data.texts[data.off[0]]) : "not in data");
  }
  const sum = make("span", undefined, legend);
  make("b", all, sum);
  sum.append(" of " + walk.changes.length + " changes so far");
}

// Changes over time, in at most 200 bins.
function drawGraph() {
  const bins = Math.min(end + 1, 200), svg = $("graph"), wide = 1000 / Math.max(end, 1) * (end + 1) / bins;
  const sums = Array.from({length: bins}, () => data.kinds.map(() => 0));
  for (const [at] of walk.changes) sums[Math.min(bins - 1, Math.floor(at * bins / (end + 1)))][data.stages.kind[at]] += 1;
  const most = Math.max(1, ...sums.map(sum => sum.reduce((a, b) => a + b, 0)));
  svg.setAttribute("viewBox", "0 0 1000 100");
  svg.replaceChildren();
  const rect = (x, y, width, height, fill) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [name, value] of Object.entries({x, y, width, height, fill})) node.setAttribute(name, value);
    svg.append(node);
    return node;
  };
  sums.forEach((sum, bin) => {
    let top = 100;
    const middle = (bin + 0.5) * (end + 1) / bins - 0.5;
    sum.forEach((count, k) => {
      const height = 100 * count / most;
      top -= height;
      const left = middle / Math.max(end, 1) * 1000 - wide * 0.42;
      if (count) rect(Math.max(0, Math.min(left, 1000 - wide * 0.84)), top, wide * 0.84, height, data.colours[k]);
    });
  });
  rect(0, 99, 1000, 1, "var(--line)");
  rect(0, 0, 2, 100, "var(--ink)").id = "pointer";
}

function target(by) {
  let k = stage + by;
  while ($("skip").checked && k > 0 && k < end && !walk.perStage[k]) k += by;
  return Math.max(0, Math.min(end, k));
}
function pause() {
  clearTimeout(timer);
  timer = null;
  $("play").classList.remove("on");
}
function tick() {
  if (stage >= end) return pause();
  show(target(1));
  const frames = $("skip").checked ? walk.perStage.filter(count => count).length : end;
  const wait = Math.min(700, Math.max(50, 15000 / Math.max(frames, 1))) / Number($("speed").value);
  timer = setTimeout(tick, wait);
}
function play() {
  if (timer !== null) return pause();
  if (stage >= end) show(0);
  $("play").classList.add("on");
  timer = setTimeout(tick, 150);
}
function go(k) {
  pause();
  show(k);
}

function hideTip() {
  $("tip").hidden = true;
}
function showTip(cell) {
  const position = Number(cell.dataset.position), story = walk.stories[position], count = known(story, stage);
  const tip = $("tip"), token = count ? story[count - 1].now : walk.start[position];
  tip.replaceChildren();
  make("b", "position " + position + ": ", tip);
  make("code", seen(data.texts[token]), tip);
  if (!data.spaced) tip.append(" (token " + token + ")");
  const list = make("ul", undefined, tip);
  for (let i = count - 1; i >= Math.max(0, count - 6); i -= 1) {
    const change = story[i], item = make("li", undefined, list), time = timeAt(change.at, position);
    make("i", undefined, item).style.background = colourOf(change.at);
    const when = "step " + data.stages.step[change.at] + (time === null ? "" : ", t = " + number(time));
    item.append(kindOf(change.at) + ", " + when + ": ");
    make("code", seen(data.texts[change.old]), item);
    item.append(" → ");
    make("code", seen(data.texts[change.now]), item);
    if (change.pOld !== null) {
      make("br", undefined, item);
      const old = off.has(change.old) ? "" : number(change.pOld, 2) + " to the old, ";
      const said = "the model gave " + old + number(change.pNew, 2) + " to the new";
      make("span", said, item, "soft");
    }
  }
  if (count > 6) make("li", "and " + (count - 6) + " before", list, "soft");
  if (!count) make("li", "unchanged since the start", list, "soft");
  const left = story.length - count;
  if (left) make("li", left === 1 ? "changes once more" : "changes " + left + " more times", list, "soft");
  tip.hidden = false;
  const box = cell.getClientRects()[0], own = tip.getBoundingClientRect();
  const below = box.bottom + 8 + own.height < innerHeight;
  tip.style.left = Math.max(8, Math.min(box.left, innerWidth - own.width - 8)) + "px";
  tip.style.top = (below ? box.bottom + 8 : Math.max(8, box.top - own.height - 8)) + "px";
}

$("text").addEventListener("pointerover", event => {
  if (event.target.dataset.position !== undefined) showTip(event.target);
});
$("text").addEventListener("pointerleave", hideTip);
addEventListener("scroll", hideTip, {passive: true});
$("play").addEventListener("click", play);
$("first").addEventListener("click", () => go(0));
$("last").addEventListener("click", () => go(end));
$("back").addEventListener("click", () => go(target(-1)));
$("next").addEventListener("click", () => go(target(1)));
$("slider").addEventListener("input", () => go(Number($("slider").value)));
$("graph").addEventListener("click", event => {
  const box = $("graph").getBoundingClientRect();
  go(Math.round((event.clientX - box.left) / box.width * end));
});
$("sequence").addEventListener("change", () => {
  pause();
  open(Number($("sequence").value));
});
addEventListener("keydown", event => {
  if (event.target.tagName === "SELECT" || event.altKey || event.ctrlKey || event.metaKey) return;
  // A focused button or box handles the space bar itself.
  if (event.key === " " && (event.target.tagName === "BUTTON" || event.target.type === "checkbox")) return;
  const act = {
    ArrowLeft: () => go(target(-1)), ArrowRight: () => go(target(1)), Home: () => go(0), End: () => go(end), " ": play,
  }[event.key];
  if (act) {
    event.preventDefault();
    act();
  }
});

$("slider").max = end;
data.sequences.forEach((sequence, i) => { make("option", sequence.index, $("sequence")).value = i; });
$("which").hidden = data.sequences.length < 2;
const many = data.sequences.length, wide = data.sequences[0].start.length;
$("about").textContent = (many > 1 ? many + " sequences of " : "") + wide + " tokens, " + (end + 1) + " stages";
const asked = new URLSearchParams(location.hash.slice(1));
stage = Math.max(0, Math.min(end, Number(asked.get("stage")) || 0));
const first = Math.max(0, data.sequences.findIndex(sequence => String(sequence.index) === asked.get("sequence")));
$("sequence").value = first;
open(first);
</script>
</body>
</html>
"""
