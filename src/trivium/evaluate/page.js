"use strict";
const at = (id) => document.getElementById(id);
const HEIGHT = 28;
const CHOSEN = ["suite", "model", "judge", "outcome"];
const FEW = [...CHOSEN, "category"];
const LONG = ["reply", "reason", "prompt", "item"];
const ARRAYS = { Float64: Float64Array, Uint32: Uint32Array };
const EACH = Number(at("names").dataset.each);
const packed = document.querySelectorAll("script.texts");
const blocks = [];  // those that were unpacked
let few = [];
let columns = {};
let count = 0;
let shown = [];
let category = "";
let current = -1;
let filters = 0;
let draws = 0;

function element(name, text, inside) {
  const made = document.createElement(name);
  made.textContent = text;
  inside.append(made);
  return made;
}

function unpacked(script) {
  const binary = atob(script.textContent);
  const bytes = new Uint8Array(binary.length);
  for (let n = 0; n < binary.length; n++) bytes[n] = binary.charCodeAt(n);  // Uint8Array.from calls a function a byte
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")));
}

async function unpack(n) {
  blocks[n] ??= JSON.parse(await unpacked(packed[n]).text());
}

/* Unpacks what rows are drawn with. */
async function need(rows, names) {
  const wanted = new Set(rows.flatMap((n) => names.map((name) => Math.floor(columns[name][n] / EACH))));
  await Promise.all([...wanted].filter((n) => !blocks[n]).map(unpack));
}

async function read() {
  const [told, bytes] = await Promise.all([unpacked(at("names")).json(), unpacked(at("columns")).arrayBuffer()]);
  ({ few, rows: count } = told);
  let place = 0;
  for (const [name, kind] of told.layout) {
    columns[name] = new ARRAYS[kind](bytes, place, count);
    place += columns[name].byteLength;
  }
  for (const name of CHOSEN) {
    element("option", `every ${name}`, at(name)).value = "";
    for (const place of new Set(columns[name])) element("option", few[place], at(name)).value = String(place);
    at(name).onchange = filter;
  }
  await filter();
  document.body.dataset.ready = "yes";
}

/* Of every text, whether it holds what is searched for; null if another search has begun meanwhile. */
async function searched(wanted, mine) {
  const found = new Uint8Array(packed.length * EACH);
  for (let n = 0; n < packed.length; n++) {
    if (!blocks[n]) {
      at("count").textContent = `searching … ${Math.floor((100 * n) / packed.length)}%`;
      await unpack(n);
      if (mine !== filters) return null;
    }
    for (let k = 0; k < blocks[n].length; k++) found[n * EACH + k] = blocks[n][k].toLowerCase().includes(wanted);
  }
  return found;
}

async function filter() {
  const mine = ++filters;
  const wanted = at("search").value.trim().toLowerCase();
  const found = wanted ? await searched(wanted, mine) : null;
  if (mine !== filters) return;
  const named = few.map((text) => text.toLowerCase().includes(wanted));
  const inside = category ? few.map((text) => text === category || text.startsWith(`${category}/`)) : null;
  const chosen = CHOSEN.filter((name) => at(name).value).map((name) => [columns[name], Number(at(name).value)]);
  shown = [];
  for (let n = 0; n < count; n++) {
    if (chosen.some(([column, value]) => column[n] !== value)) continue;
    if (inside && !inside[columns.category[n]]) continue;
    if (found && !named[columns.category[n]] && !LONG.some((name) => found[columns[name][n]])) continue;
    shown.push(n);
  }
  at("count").textContent = `${shown.length} of ${count} rows${category ? ` of ${category}` : ""}`;
  at("space").style.height = `${shown.length * HEIGHT}px`;
  at("list").scrollTop = 0;
  await select(-1);
}

function text(name, n) {
  const place = columns[name][n];
  return FEW.includes(name) ? few[place] : blocks[Math.floor(place / EACH)][place % EACH];
}

function said(n) {
  try {
    return JSON.parse(text("prompt", n)).map((turn) => `${turn.role}: ${turn.content}`).join("\n");
  } catch {
    return text("prompt", n);
  }
}

async function draw() {
  const mine = ++draws;
  const first = Math.max(0, Math.floor(at("list").scrollTop / HEIGHT) - 5);
  const last = Math.min(shown.length, first + Math.ceil(at("list").clientHeight / HEIGHT) + 10);
  await need(shown.slice(first, last), ["reply", "reason", "prompt"]);
  if (mine !== draws) return;
  at("window").style.top = `${first * HEIGHT}px`;
  at("window").replaceChildren();
  for (let place = first; place < last; place++) {
    const n = shown[place];
    const row = element("div", "", at("window"));
    row.className = place === current ? "row on" : "row";
    const outcome = text("outcome", n);
    element("span", outcome, row).className = outcome;
    for (const cell of [text("judge", n), text("model", n), text("category", n)]) element("span", cell, row);
    element("span", text("reply", n) || text("reason", n) || said(n), row);
    row.onclick = () => select(place);
  }
}

async function select(place) {
  current = place;
  const n = shown[place];
  if (n !== undefined) await need([n], LONG);
  if (current !== place) return;
  at("row").replaceChildren();
  if (n !== undefined) {
    const score = columns.score[n];
    const outcome = `${text("outcome", n)}${Number.isNaN(score) ? "" : ` (${score})`}${text("reason", n) ? `: ${text("reason", n)}` : ""}`;
    const fields = [
      ["suite, category, item", `${text("suite", n)} · ${text("category", n)} · ${text("item", n)}, attempt ${columns.attempt[n]}`],
      ["model, judge", `${text("model", n)} · ${text("judge", n)} · ${columns.milliseconds[n] / 1000} s`],
      ["outcome", outcome],
      ["prompt", said(n)],
      ["reply", text("reply", n)],
    ];
    for (const [name, value] of fields) {
      element("b", name, at("row"));
      at("row").append(value);
    }
  }
  await draw();
}

at("list").onscroll = draw;
at("list").onkeydown = (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  select(Math.min(shown.length - 1, Math.max(0, current + step)));
  const top = current * HEIGHT;
  const list = at("list");
  if (top < list.scrollTop) list.scrollTop = top;
  if (top + HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = top + HEIGHT - list.clientHeight;
};
let waiting = 0;
at("search").oninput = () => {
  clearTimeout(waiting);
  waiting = setTimeout(filter, 120);
};
at("all").onclick = () => {
  category = "";
  at("search").value = "";
  for (const name of CHOSEN) at(name).value = "";
  filter();
};
for (const button of document.querySelectorAll(".heat button")) {
  button.onclick = () => {
    category = button.dataset.category;
    for (const name of ["suite", "model", "judge"]) {
      for (const option of at(name).options) if (option.textContent === button.dataset[name]) at(name).value = option.value;
    }
    at("outcome").value = "";
    filter();
    at("list").scrollIntoView({ block: "center" });
  };
}
read();
