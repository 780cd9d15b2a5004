// The page of a rollout. What comes from the log becomes text nodes and elements made here; it is never read as HTML.
"use strict";

const $ = (id) => document.getElementById(id);
const HEIGHT = 144, LEFT = 60, BOTTOM = 18;
const HERE = location.pathname.replace(/\/$/, ""); // the same page stands in `trivium ui`, at another path
let stage = null; // the one that is shown: an action is about it

function element(name, parent, text, space) {
  const made = space ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  if (text !== undefined && text !== null) made.append(document.createTextNode(String(text)));
  if (parent) parent.append(made);
  return made;
}

function drawn(name, parent, attributes, text) {
  const made = element(name, parent, text, true);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

async function call(path, body) {
  const headers = { "content-type": "application/json" };
  if ($("key").value) headers.authorization = `Bearer ${$("key").value}`;
  const options = body ? { method: "POST", body: JSON.stringify(body), headers } : { headers };
  const answer = await fetch(path, options);
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.error ? value.error.message : `status ${answer.status}`);
  return value;
}

const short = (value) => (value === null ? "–" : String(+Number(value).toPrecision(3)));
const percent = (value) => `${+(100 * value).toFixed(2)}%`;

function rows(table, headings, lines, marked) {
  table.replaceChildren();
  const head = element("tr", element("thead", table));
  for (const heading of headings) element("th", head, heading);
  const body = element("tbody", table);
  lines.forEach((line, index) => {
    const row = element("tr", body);
    if (index === marked) row.className = "here";
    for (const cell of line) element("td", row, cell);
  });
}

// Curves over time in one box: {points: [[t, y]], name, look}, a band {low, high} and level lines {y, name}. Values of null leave a gap.
function chart(parent, label, curves, band, levels) {
  const values = [...curves.flatMap((curve) => curve.points), ...(band || []).flatMap(([t, low, high]) => [[t, low], [t, high]])];
  const known = values.filter(([, y]) => y !== null);
  const WIDTH = Math.max(280, parent.clientWidth); // its own pixels, so that letters are not stretched
  const figure = drawn("svg", parent, { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label });
  if (!known.length) {
    drawn("text", figure, { x: LEFT, y: HEIGHT / 2 }, "no numbers yet");
    return;
  }
  const times = values.map(([t]) => t), heights = [...known.map(([, y]) => y), ...levels.map((level) => level.y)];
  const from = Math.min(...times), to = Math.max(...times, from + 1);
  const bottom = Math.min(...heights), top = Math.max(...heights, bottom + 1e-9);
  const x = (t) => LEFT + ((t - from) / (to - from)) * (WIDTH - LEFT - 8);
  const y = (value) => 8 + ((top - value) / (top - bottom)) * (HEIGHT - BOTTOM - 8);
  for (const value of [bottom, top]) drawn("text", figure, { x: 2, y: y(value) + 4 }, short(value));
  drawn("text", figure, { x: LEFT, y: HEIGHT - 4 }, `${Math.round(from)} s`);
  drawn("text", figure, { x: WIDTH - 8, y: HEIGHT - 4, "text-anchor": "end" }, `${Math.round(to)} s`);
  for (const level of levels) drawn("line", figure, { x1: LEFT, x2: WIDTH - 8, y1: y(level.y), y2: y(level.y), class: level.name });
  const whole = (band || []).filter(([, low, high]) => low !== null && high !== null);
  if (whole.length > 1) {
    const edge = [...whole.map(([t, , high]) => `${x(t)},${y(high)}`), ...whole.reverse().map(([t, low]) => `${x(t)},${y(low)}`)];
    drawn("polygon", figure, { points: edge.join(" "), class: `band ${curves[0].look}` });
  }
  for (const curve of curves) {
    const points = curve.points.filter(([, value]) => value !== null).map(([t, value]) => `${x(t)},${y(value)}`);
    drawn("polyline", figure, { points: points.join(" "), class: `curve ${curve.look}` });
  }
  let at = LEFT + 8;
  for (const curve of curves.length > 1 ? curves : []) {
    drawn("text", figure, { x: at, y: 20, class: `name ${curve.look}` }, curve.name);
    at += 22 + 7 * curve.name.length;
  }
}

const look = (told, arm) => (arm === "stable" ? "stable" : `arm${Object.keys(told.candidates).indexOf(arm) % 4}`);

// Of several candidates an action may be about one. What was chosen stays chosen while the page is refreshed.
function choices(names) {
  $("arm").hidden = names.length < 2;
  const there = [...$("arm").options].map((option) => option.value);
  if (["", ...names].join("/") === there.join("/")) return;
  $("arm").replaceChildren();
  for (const name of ["", ...names]) element("option", $("arm"), name || "all candidates").value = name;
}

function show(told, points) {
  stage = told.stage;
  const names = Object.keys(told.candidates);
  choices(names);
  $("name").textContent = told.name;
  $("status").textContent = `${told.status}, stage ${told.stage + 1} of ${told.stages.length}, ${percent(told.share)} of the ${told.unit}s`;
  const troubles = [told.stuck && `the log cannot be written: ${told.stuck}`, told.lost && `${told.lost} events were lost`];
  for (const [name, arm] of Object.entries(told.arms)) troubles.push(arm.resting && `the ${name} arm rests after failures`);
  $("waiting").textContent = [told.waiting, ...troubles].filter(Boolean).join("; ");
  $("waiting").className = troubles.some(Boolean) ? "error" : "";
  const parts = (share) => (typeof share === "number" ? percent(share) : Object.entries(share).map(([name, part]) => `${name} ${percent(part)}`).join(", "));
  const stages = told.stages.map((each, index) => [index + 1, each.shadow ? "shadow" : parts(each.share), each.min_units, `${each.min_time} s`, each.max_time === null ? "–" : `${each.max_time} s`]);
  rows($("stages"), ["stage", "share", "units at least", "time at least", "at most"], stages, told.stage);

  $("traffic").replaceChildren();
  const arms = [...names, "stable"];
  const by = (arm) => ({ name: arm, look: look(told, arm), points: points.map((point) => [point.t, point.requests[arm]]) });
  chart($("traffic"), "Requests by arm", arms.map(by), null, []);
  const last = points.length ? points[points.length - 1].requests : {};
  const count = (of) => arms.map((arm) => `${arm} ${of[arm] || 0}`).join(", ");
  element("p", $("traffic"), `${count(last)} requests so far; units of this stage: ${count(told.units)}`).className = "note";
  $("candidates").replaceChildren();
  if (names.length > 1) rows($("candidates"), ["candidate", "status", "share"], names.map((name) => [name, told.candidates[name].status, percent(told.candidates[name].share)]), -1);

  $("guardrails").replaceChildren();
  const boxes = Object.entries(told.guardrails).map((entry) => [element("section", $("guardrails")), ...entry]);
  for (const [box, name, guardrail] of boxes) { // all are there before one is drawn: then their widths are known
    element("h3", box, `${name} (${guardrail.metric})`);
    const here = points.map((point) => [point.t, point.guardrails[name], point.stage]).filter(([, , at]) => at === told.stage);
    const band = here.map(([t, each]) => [t, each.low, each.high]);
    const levels = [{ y: 0, name: "zero" }];
    if (guardrail.margin !== null) levels.push({ y: guardrail.more_is_better ? -guardrail.margin : guardrail.margin, name: "margin" });
    chart(box, `${name} over time`, [{ name: guardrail.candidate, look: look(told, guardrail.candidate), points: here.map(([t, each]) => [t, each.difference]) }], band, levels);
    const [low, high] = guardrail.interval;
    const proof = guardrail.proof ? `; proof ${short(guardrail.proof.log_e)} of ${short(guardrail.proof.limit)}` : "";
    element("p", box, `difference ${short(guardrail.difference)} (${short(low)} to ${short(high)}); harm ${short(guardrail.harm.log_e)} of ${short(guardrail.harm.limit)}${proof} (log e)`).className = "note";
  }
  for (const [box, , guardrail] of boxes) {
    if (!Object.keys(guardrail.quantiles).length) continue;
    const seconds = ([at, low, high]) => (at === null ? "–" : `${short(at)} s (${short(low)} to ${short(high)})`);
    const lines = Object.entries(guardrail.quantiles).map(([arm, of]) => [arm, ...Object.values(of).map(seconds)]);
    rows(element("table", box), ["", ...Object.keys(guardrail.quantiles.stable)], lines, -1);
  }
  const verdicts = [...told.verdicts].reverse().map((row) => [row.at || `${row.t} s`, row.stage + 1, row.arm && names.length > 1 ? `${row.action} ${row.arm}` : row.action, row.by, row.reason]);
  rows($("verdicts"), ["when", "stage", "what", "by", "why"], verdicts, -1);
}

async function refresh() {
  try {
    const [told, history] = await Promise.all([call(`${HERE}/status`), call(`${HERE}/history`)]);
    show(told, history.points);
    if ($("said").className.includes("error") && $("said").dataset.of === "refresh") $("said").textContent = "";
  } catch (error) {
    say(error.message, "refresh");
  }
}

function say(text, of) {
  $("said").textContent = text;
  $("said").dataset.of = of;
  $("said").className = of === "done" ? "note" : "note error";
}

$("act").addEventListener("submit", async (event) => {
  event.preventDefault();
  const action = event.submitter ? event.submitter.dataset.action : "promote";
  const body = { reason: $("reason").value, stage };
  if (!body.reason) return say("say why: it stands in the log", "act");
  if ($("who").value) body.who = $("who").value;
  if ($("arm").value && ["promote", "rollback"].includes(action)) body.arm = $("arm").value;
  try {
    const done = await call(`${HERE}/${action}`, body);
    say(`${done.status}, stage ${done.stage + 1}, ${percent(done.share)}${done.again ? " (as it was before)" : ""}`, "done");
    $("reason").value = "";
  } catch (error) {
    say(error.message, "act");
  }
  await refresh();
});

refresh();
setInterval(refresh, 2000);
