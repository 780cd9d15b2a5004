// A chat with the model behind this page. What a model writes becomes text nodes and elements made here; it is never read as HTML.
"use strict";

const $ = (id) => document.getElementById(id);
// What was said is a tree: an edited question and a reply that is asked for again are branches beside the first ones.
const root = { branches: [], at: 0 };
let model = "";
let models = []; // this one, and the one beside it where the server has two
let feedback = false; // whether the server keeps what is thought of its replies
let traced = []; // the models whose replies can be traced
let under = null; // the request under way

function element(name, parent, text) {
  const made = document.createElement(name);
  if (text !== undefined) made.append(document.createTextNode(text));
  if (parent) parent.append(made);
  return made;
}

// **bold**, `code` and [links](https://...); any other address stays text.
function inline(parent, text) {
  const pattern = /`([^`\n]+)`|\*\*([^*\n]+)\*\*|\[([^\]\n]+)\]\((https?:\/\/[^\s)]+)\)/g;
  let end = 0;
  for (const match of text.matchAll(pattern)) {
    parent.append(document.createTextNode(text.slice(end, match.index)));
    if (match[1] !== undefined) element("code", parent, match[1]);
    else if (match[2] !== undefined) element("strong", parent, match[2]);
    else {
      const link = element("a", parent, match[3]);
      link.href = match[4];
      link.rel = "noopener noreferrer nofollow";
      link.target = "_blank";
    }
    end = match.index + match[0].length;
  }
  parent.append(document.createTextNode(text.slice(end)));
}

function lines(parent, text) {
  let list = null;
  for (const block of text.split("\n")) {
    const heading = block.match(/^#{1,6}\s+(.*)/);
    const item = block.match(/^\s*(?:[-*]|\d+\.)\s+(.*)/);
    if (item) {
      list = list || element(/^\s*\d/.test(block) ? "ol" : "ul", parent);
      inline(element("li", list), item[1]);
      continue;
    }
    list = null;
    if (heading) inline(element("h4", parent), heading[1]);
    else if (block.trim()) inline(element("p", parent), block);
  }
}

function markdown(parent, text) {
  parent.replaceChildren();
  text.split("```").forEach((part, number) => {
    if (number % 2) element("code", element("pre", parent), part.replace(/^[\w+-]*\n/, ""));
    else lines(parent, part);
  });
}

// The branch that is looked at, from the first question on.
function path() {
  const found = [];
  for (let node = root.branches[root.at]; node; node = node.branches[node.at]) found.push(node);
  return found;
}

// What a model is told: its own replies where two answer side by side.
const plain = (nodes, second) =>
  nodes.map((node) => ({ role: node.role, content: (second && node.other?.content) || node.content }));

function grow(parent, role, content) {
  const node = { role, content, parent, branches: [], at: 0, tokens: [], thumb: null, model, other: null };
  parent.at = parent.branches.push(node) - 1;
  return node;
}

function button(parent, name, label, pressed) {
  const made = element("button", parent, name);
  made.type = "button";
  made.title = label;
  made.setAttribute("aria-label", label);
  made.addEventListener("click", pressed);
  return made;
}

// Every token with its probability, and what else was likely, for who points at it.
function probabilities(parent, tokens) {
  parent.replaceChildren();
  const percent = (logprob) => `${(100 * Math.exp(logprob)).toFixed(1)}%`;
  const paragraph = element("p", parent);
  for (const token of tokens) {
    const made = element("span", paragraph, token.token);
    const others = token.top_logprobs.map((other) => `${percent(other.logprob)} ${JSON.stringify(other.token)}`);
    made.title = [`${percent(token.logprob)} ${JSON.stringify(token.token)}`, "", ...others].join("\n");
    made.className = "token";
    made.style.setProperty("--doubt", (1 - Math.exp(token.logprob)).toFixed(2));
  }
}

function fill(body, node) {
  if (node.role === "user") body.replaceChildren(Object.assign(document.createElement("p"), { textContent: node.content }));
  else if ($("chances").checked && node.tokens.length) probabilities(body, node.tokens);
  else markdown(body, node.content);
}

function turn(node) {
  const made = element("article", $("talk"));
  made.className = node.role;
  const bodies = [node, node.other].filter(Boolean).map((half, second) => {
    const place = node.other ? element("section", made) : made;
    element("b", place, node.role === "user" ? "you" : half.model);
    const body = element("div", place);
    fill(body, half);
    if (node.other && feedback && half.content) thumbs(element("div", place), node, half, second);
    if (node.role === "assistant" && half.content && traced.includes(half.model)) tracing(place, half);
    return body;
  });
  const tools = element("div", made);
  tools.className = "tools";
  if (node.parent.branches.length > 1) {
    const move = (by) => () => {
      const count = node.parent.branches.length;
      node.parent.at = (node.parent.at + by + count) % count;
      show();
    };
    button(tools, "‹", "the branch before", move(-1));
    element("span", tools, `${node.parent.branches.indexOf(node) + 1}/${node.parent.branches.length}`);
    button(tools, "›", "the next branch", move(1));
  }
  if (node.role === "user") button(tools, "Edit", "ask something else instead", () => edit(node, bodies[0]));
  else if (feedback && !node.other) thumbs(tools, node, node, 0);
  made.scrollIntoView({ block: "end" });
  return bodies;
}

// Where a reply stands in what its model was trained on. What a document says is text, as what a model says is.
function tracing(parent, half) {
  const tools = element("div", parent);
  tools.className = "tools";
  const place = element("div", parent);
  button(tools, "Trace", "where it stands in the training data", async () => {
    place.replaceChildren();
    element("p", place, "looking in the training data; the first time an index is made").className = "note";
    try {
      const body = JSON.stringify({ model: half.model, reply: half.content });
      const response = await fetch("trace", { method: "POST", headers: headers(), body });
      const report = await response.json();
      if (!response.ok) throw new Error(report.error.message);
      half.trace = report;
      documents(place, report);
    } catch (error) {
      place.replaceChildren();
      element("p", place, error.message).className = "error";
    }
  });
  if (half.trace) documents(place, half.trace);
}

function documents(place, report) {
  place.replaceChildren();
  const reply = element("p", place);
  for (const [text, number] of report.pieces) {
    const piece = element("span", reply, text);
    if (number === null) continue;
    piece.className = `span colour${number % 6}`;
    piece.title = `span ${number + 1}`;
  }
  const share = `${Math.round(100 * report.verbatim)}% of it stands verbatim in training data`;
  const notes = [`${share}, in spans of ${report.least} tokens or more`, ...report.unknown.map((what) => `not known: ${what}`)];
  for (const note of notes) element("p", place, note).className = "note";
  const told = (parent, document, how, passage) => {
    element("strong", element("p", parent), document.name);
    element("p", parent, document.terms + how).className = "note";
    element("p", parent, passage);
  };
  report.spans.forEach((span, number) => {
    const box = element("details", place);
    const often = span.count === 1 ? "once" : `${span.count} times`;
    element("summary", box, `${number + 1}. ${span.tokens} tokens, ${often}`).className = `colour${number % 6}`;
    for (const one of span.documents) told(box, one, "", `…${one.before}${span.text}${one.after}…`);
  });
  const near = report.near.flatMap((one) => one.documents);
  if (!near.length) return;
  const box = element("details", place);
  element("summary", box, "nearly the same");
  for (const one of near) told(box, one, `, ${Math.round(100 * one.similarity)}% alike`, one.passage);
}

function edit(node, body) {
  if (under) return;
  body.replaceChildren();
  const text = element("textarea", body);
  text.value = node.content;
  button(body, "Ask", "ask this instead; the other question stays", () => {
    if (!text.value.trim()) return;
    reply(grow(node.parent, "user", text.value));
  });
  button(body, "Leave it", "do not edit", show);
  text.focus();
}

function thumbs(parent, node, half, second) {
  parent.className = "tools";
  const note = document.createElement("span");
  for (const [name, label, liked] of [["Good", "a good reply", true], ["Bad", "a bad reply", false]]) {
    const made = button(parent, name, label, () => {
      const reason = element("input", note);
      note.replaceChildren(reason);
      reason.placeholder = "why? Enter keeps it";
      reason.className = "reason";
      reason.maxLength = 2000;
      reason.addEventListener("keydown", (event) => event.key === "Enter" && judge(node, half, second, liked, reason.value, note));
      reason.focus();
    });
    made.setAttribute("aria-pressed", String(half.thumb === liked));
  }
  parent.append(note);
}

async function judge(node, half, second, liked, reason, note) {
  const before = path();
  const prompt = plain(before.slice(0, before.indexOf(node)), second);
  const body = JSON.stringify({ model: half.model, prompt, completion: half.content, label: liked, reason });
  try {
    const response = await fetch("feedback", { method: "POST", headers: headers(), body });
    if (!response.ok) throw new Error((await response.json()).error.message);
    half.thumb = liked;
    show();
  } catch (error) {
    note.replaceChildren(document.createTextNode(`not kept: ${error.message}`));
  }
}

function show() {
  $("talk").replaceChildren();
  for (const node of path()) turn(node);
  buttons();
}

function buttons() {
  $("send").disabled = under !== null;
  $("stop").disabled = under === null;
  $("retry").disabled = under !== null || !root.branches.length;
}

function headers() {
  const key = $("key").value;
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

// The events of a stream, each as what its JSON says.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (held + value).split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

// One model's reply, as it comes into `body`; gives what is to be said of it.
async function say(half, messages, body) {
  const asked = { model: half.model, messages, stream: true, stream_options: { include_usage: true } };
  if ($("chances").checked) Object.assign(asked, { logprobs: true, top_logprobs: 5 });
  if ($("temperature").value !== "") asked.temperature = Number($("temperature").value);
  let note = "";
  try {
    const response = await fetch("v1/chat/completions", {
      method: "POST", headers: headers(), body: JSON.stringify(asked), signal: under.signal,
    });
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      if (event.usage) note = `${event.usage.completion_tokens} tokens`;
      const choice = event.choices[0];
      if (!choice) continue;
      if (choice.finish_reason === "length") note = "cut: the longest reply, or the end of the context";
      if (choice.logprobs) half.tokens.push(...choice.logprobs.content);
      if (choice.delta.content) {
        half.content += choice.delta.content;
        fill(body, half);
        body.scrollIntoView({ block: "end" });
      }
    }
  } catch (error) {
    if (error.name === "AbortError") return "stopped";
    element("p", body, error.message).className = "error";
    return error.message;
  }
  return note;
}

async function reply(question) {
  const before = path();
  const asked = before.slice(0, before.indexOf(question) + 1);
  const node = grow(question, "assistant", "");
  const two = $("beside").checked;
  if (two) node.other = { role: "assistant", model: models[1], content: "", tokens: [], thumb: null };
  $("talk").replaceChildren();
  const bodies = path().map(turn).at(-1);
  under = new AbortController();
  buttons();
  const halves = [node, node.other].filter(Boolean);
  const notes = await Promise.all(halves.map((half, second) => say(half, plain(asked, second), bodies[second])));
  under = null;
  if (!halves.some((half) => half.content)) {
    question.branches.splice(question.branches.indexOf(node), 1); // a question without a reply is asked anew
    question.at = Math.max(0, question.branches.length - 1);
    buttons();
  } else if (path().includes(node)) show();
  $("note").textContent = two ? notes.map((note, number) => `${models[number]}: ${note}`).join("; ") : notes[0];
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value;
  if (!text.trim() || under) return;
  $("text").value = "";
  const last = path().at(-1) ?? root;
  if (last.role === "user") {
    last.content = text;
    reply(last);
  } else reply(grow(last, "user", text));
});
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
});
$("stop").addEventListener("click", () => under && under.abort());
$("retry").addEventListener("click", () => {
  const last = path().at(-1);
  reply(last.role === "user" ? last : last.parent);
});
$("new").addEventListener("click", () => {
  if (under) under.abort();
  root.branches = [];
  $("note").textContent = "";
  show();
});

async function greet() {
  try {
    const response = await fetch("v1/models", { headers: headers() });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error.message);
    models = answer.data.map((one) => one.id);
    [model] = models;
    $("model").textContent = model;
    $("second").textContent = models[1] ? `${models[1]} beside it` : "";
    $("beside").parentElement.hidden = models.length < 2;
    feedback = Boolean(answer.data[0].feedback);
    traced = answer.data.filter((one) => one.trace).map((one) => one.id);
  } catch (error) {
    $("note").textContent = error.message;
  }
}
$("key").addEventListener("change", greet);
$("chances").addEventListener("change", show);
greet();
