// A vote is kept here until the server says that it is stored: a reload, a lost connection or a server that was killed costs
// nothing, and since every vote has a key of its own, one that is sent twice counts once. Texts of models are never markup.
"use strict";
const at = (id) => document.getElementById(id);
const link = location.hash.slice(1);
const waiting = `arena waiting ${link}`;
const agreed = `arena consent ${link}`;
const CHOICES = {
  2: [["left", "Left", "1"], ["right", "Right", "2"], ["tie", "Tie", "3"], ["bad", "Both bad", "4"]],
  1: [["good", "Good", "1"], ["poor", "Not good", "2"]],
};
let task = null;
let began = 0;
let busy = true;

function note(text, unsaved = false) {
  at("note").textContent = text;
  at("note").className = unsaved ? "unsaved" : "";
}

function element(name, text, inside) {
  const made = document.createElement(name);
  made.textContent = text;
  inside.append(made);
  return made;
}

async function ask(path, body) {
  const answer = await fetch(path, {
    method: body ? "POST" : "GET",
    headers: { Authorization: `Bearer ${link}`, "Content-Type": "application/json" },
    body: body ? JSON.stringify(body) : undefined,
  });
  const found = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(found.error), { final: answer.status < 500 });
  return found;
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function sent() {
  for (let tries = 0; ; tries++) {
    const kept = localStorage.getItem(waiting);
    if (!kept) return;
    const { path, body } = JSON.parse(kept);
    try {
      await ask(path, body);
      localStorage.removeItem(waiting);
      note(path === "undo" ? "undone" : "saved");
    } catch (error) {
      if (error.final) {
        localStorage.removeItem(waiting);
        note(error.message, true);
        return;
      }
      note("not saved yet, trying again …", true);
      await pause(Math.min(5000, 300 * 2 ** tries));
    }
  }
}

async function submit(path, body) {
  if (busy) return;
  busy = true;
  const key = Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
  localStorage.setItem(waiting, JSON.stringify({ path, body: { key, ...body } }));
  await next();
}

async function next() {
  busy = true;
  await sent();
  for (;;) {
    try {
      show(await ask("next"));
      busy = false;
      return;
    } catch (error) {
      note(error.final ? error.message : "the server does not answer, trying again …", true);
      if (error.final) return;
      await pause(1000);
    }
  }
}

function show(found) {
  task = found.task;
  began = performance.now();
  at("rater").textContent = found.rater;
  at("progress").textContent = `${found.done} of ${found.all}`;
  at("bar").max = found.all || 1;
  at("bar").value = found.done;
  for (const id of ["prompt", "replies", "choices"]) at(id).replaceChildren();
  at("reason").value = "";
  if (!task) {
    element("p", "That was all. Thank you.", at("prompt"));
    return;
  }
  for (const turn of task.prompt) {
    const shown = element("div", "", at("prompt"));
    shown.className = "turn";
    element("b", turn.role, shown);
    shown.append(turn.content);
  }
  const pair = task.replies.length === 2;
  at("asked").textContent = pair ? "Which reply is better?" : "Is this reply good?";
  task.replies.forEach((reply, nth) => {
    const shown = element("article", "", at("replies"));
    element("b", pair ? ["left", "right"][nth] : "reply", shown);
    shown.append(reply);
  });
  for (const [choice, label, key] of CHOICES[task.replies.length]) {
    const button = element("button", label, at("choices"));
    element("kbd", key, button);
    button.type = "button";
    button.id = choice;
    button.onclick = () => vote(choice);
  }
  if (task.same) note("the two replies are the same text: a tie?");
  scrollTo(0, 0);
}

function vote(choice) {
  if (!task || busy) return;
  at("replies").children[["left", "right"].indexOf(choice)]?.classList.add("chosen");
  const seconds = (performance.now() - began) / 1000;
  submit("vote", { task: task.id, choice, reason: at("reason").value, consent: at("consent").checked, seconds });
}

at("undo").onclick = () => submit("undo", {});
at("consent").checked = localStorage.getItem(agreed) === "yes";
at("consent").onchange = () => localStorage.setItem(agreed, at("consent").checked ? "yes" : "no");
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target === at("reason")) {
    if (event.key === "Enter" || event.key === "Escape") at("reason").blur();
    return;
  }
  const found = task && CHOICES[task.replies.length].find(([, , key]) => key === event.key);
  if (found) vote(found[0]);
  else if (event.key === "ArrowLeft" && task?.replies.length === 2) vote("left");
  else if (event.key === "ArrowRight" && task?.replies.length === 2) vote("right");
  else if (event.key.toLowerCase() === "u") at("undo").click();
  else if (event.key.toLowerCase() === "r") at("reason").focus();
  else return;
  event.preventDefault();
});
next();
