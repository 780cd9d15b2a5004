// A chat with the model behind this page. What a model writes becomes text nodes and elements made here; it is never read as HTML.
"use strict";

const $ = (id) => document.getElementById(id);
let messages = []; // what was said: {role, content}
let model = "";
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

function turn(role, content) {
  const made = element("article", $("talk"));
  made.className = role;
  element("b", made, role === "user" ? "you" : model);
  const body = element("div", made);
  if (role === "user") element("p", body, content);
  else markdown(body, content);
  made.scrollIntoView({ block: "end" });
  return body;
}

function show() {
  $("talk").replaceChildren();
  for (const message of messages) turn(message.role, message.content);
  buttons();
}

function buttons() {
  $("send").disabled = under !== null;
  $("stop").disabled = under === null;
  $("retry").disabled = under !== null || !messages.some((message) => message.role === "user");
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

async function reply() {
  const body = turn("assistant", "");
  const asked = { model, messages, stream: true, stream_options: { include_usage: true } };
  if ($("temperature").value !== "") asked.temperature = Number($("temperature").value);
  let text = "";
  let note = "";
  under = new AbortController();
  buttons();
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
      if (choice.delta.content) {
        text += choice.delta.content;
        markdown(body, text);
        body.scrollIntoView({ block: "end" });
      }
    }
  } catch (error) {
    note = error.name === "AbortError" ? "stopped" : error.message;
    if (error.name !== "AbortError") element("p", body, error.message).className = "error";
  }
  under = null;
  if (text) messages.push({ role: "assistant", content: text });
  $("note").textContent = note;
  buttons();
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value;
  if (!text.trim() || under) return;
  $("text").value = "";
  while (messages.length && messages.at(-1).role === "user") messages.pop(); // a question without a reply is asked anew
  messages.push({ role: "user", content: text });
  show();
  reply();
});
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
});
$("stop").addEventListener("click", () => under && under.abort());
$("retry").addEventListener("click", () => {
  while (messages.length && messages.at(-1).role === "assistant") messages.pop();
  show();
  reply();
});
$("new").addEventListener("click", () => {
  if (under) under.abort();
  messages = [];
  $("note").textContent = "";
  show();
});

async function greet() {
  try {
    const response = await fetch("v1/models", { headers: headers() });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error.message);
    model = answer.data[0].id;
    $("model").textContent = model;
  } catch (error) {
    $("note").textContent = error.message;
  }
}
$("key").addEventListener("change", greet);
greet();
