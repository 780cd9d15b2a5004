"use strict";
const at = (id) => document.getElementById(id);
const HEIGHT = 28;
const CHOSEN = ["suite", "model", "judge", "outcome"];
let texts = [];
let columns = {};
let shown = [];
let category = "";
let current = -1;

function element(name, text, inside) {
  const made = document.createElement(name);
  made.textContent = text;
  inside.append(made);
  return made;
}

async function read() {
  const binary = atob(at("data").textContent);
  const packed = new Uint8Array(binary.length);
  for (let n = 0; n < binary.length; n++) packed[n] = binary.charCodeAt(n);  // Uint8Array.from calls a function a byte
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const data = JSON.parse(await new Response(stream).text());
  ({ texts, columns } = data);
  for (const name of CHOSEN) {
    element("option", `every ${name}`, at(name)).value = "";
    for (const place of new Set(columns[name])) element("option", texts[place], at(name)).value = String(place);
    at(name).onchange = filter;
  }
  filter();
  document.body.dataset.ready = "yes";
}

function filter() {
  const wanted = at("search").value.trim().toLowerCase();
  const found = wanted ? texts.map((text) => text.toLowerCase().includes(wanted)) : null;
  const inside = category ? texts.map((text) => text === category || text.startsWith(`${category}/`)) : null;
  const chosen = CHOSEN.filter((name) => at(name).value).map((name) => [columns[name], Number(at(name).value)]);
  const searched = ["prompt", "reply", "category", "item", "reason"].map((name) => columns[name]);
  shown = [];
  const count = columns.suite.length;
  for (let n = 0; n < count; n++) {
    if (chosen.some(([column, value]) => column[n] !== value)) continue;
    if (inside && !inside[columns.category[n]]) continue;
    if (found && !searched.some((column) => found[column[n]])) continue;
    shown.push(n);
  }
  at("count").textContent = `${shown.length} of ${count} rows${category ? ` of ${category}` : ""}`;
  at("space").style.height = `${shown.length * HEIGHT}px`;
  at("list").scrollTop = 0;
  select(-1);
}

const text = (name, n) => texts[columns[name][n]];

function said(n) {
  try {
    return JSON.parse(text("prompt", n)).map((turn) => `${turn.role}: ${turn.content}`).join("\n");
  } catch {
    return text("prompt", n);
  }
}

function draw() {
  const first = Math.max(0, Math.floor(at("list").scrollTop / HEIGHT) - 5);
  at("window").style.top = `${first * HEIGHT}px`;
  at("window").replaceChildren();
  const last = Math.min(shown.length, first + Math.ceil(at("list").clientHeight / HEIGHT) + 10);
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

function select(place) {
  current = place;
  at("row").replaceChildren();
  const n = shown[place];
  if (n !== undefined) {
    const score = columns.score[n];
    const outcome = `${text("outcome", n)}${score === null ? "" : ` (${score})`}${text("reason", n) ? `: ${text("reason", n)}` : ""}`;
    const fields = [
      ["suite, category, item", `${text("suite", n)} · ${text("category", n)} · ${text("item", n)}, attempt ${columns.attempt[n]}`],
      ["model, judge", `${text("model", n)} · ${text("judge", n)} · ${columns.seconds[n]} s`],
      ["outcome", outcome],
      ["prompt", said(n)],
      ["reply", text("reply", n)],
    ];
    for (const [name, value] of fields) {
      element("b", name, at("row"));
      at("row").append(value);
    }
  }
  draw();
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
