"use strict";
// Every text goes in as textContent: names and reasons come from files that anybody may have made.
const $ = (id) => document.getElementById(id);
const TOKEN = "ecgmoe-token";
let picture = null;

function call(path, options = {}) {
  const token = sessionStorage.getItem(TOKEN);
  return fetch(path, { ...options, headers: token ? { Authorization: `Bearer ${token}` } : {} });
}

async function reasonOf(response) {
  try {
    return (await response.json()).error;
  } catch {
    return `the server answered with status ${response.status}`;
  }
}

function say(text) {
  $("status").textContent = text;
}

function fail(text) {
  $("error").textContent = text;
  $("error").hidden = false;
}

function clear() {
  for (const id of ["error", "drawing", "results"]) $(id).hidden = true;
  say("");
}

async function showModel() {
  const response = await call("/model");
  $("login").hidden = response.status !== 401;
  if (response.status === 401) {
    if (sessionStorage.getItem(TOKEN)) fail(await reasonOf(response));
    sessionStorage.removeItem(TOKEN);
    return;
  }
  if (!response.ok) return fail(await reasonOf(response));
  const model = await response.json();
  const random = model.random_backbones.length
    ? ` Random-initialised backbones: ${model.random_backbones.join(", ")}.`
    : "";
  const never = model.not_predicted.length
    ? ` Not predicted, because training had no label of it: ${model.not_predicted.join(", ")}.`
    : "";
  $("model").textContent = `Model ${model.name}, version ${model.model_version}.${random}${never}`;
}

function row(body, cells) {
  const line = document.createElement("tr");
  cells.forEach((text, index) => {
    const cell = document.createElement(index ? "td" : "th");
    if (!index) cell.scope = "row";
    cell.textContent = text;
    line.append(cell);
  });
  body.append(line);
}

const share = (p) => (p > 0.995 ? "> 0.99" : p < 0.005 ? "< 0.01" : p.toFixed(2));

function inWords(task) {
  if (task.value !== null) return `${task.value.toFixed(0)} ${task.unit}`;
  const best = Object.entries(task.probabilities).sort((a, b) => b[1] - a[1]).slice(0, 3);
  return best.map(([name, p]) => `${name} ${share(p)}`).join(", ");
}

function uncertainty(task) {
  if (task.interval) return `${task.interval[0].toFixed(0)} to ${task.interval[1].toFixed(0)} ${task.unit}`;
  return task.class_set ? task.class_set.join(", ") || "no class" : "none";
}

function show(prediction) {
  const level = prediction.level;
  $("level").textContent = level === null ? "Interval or set (not calibrated)" : `Interval or set (${level * 100} % of patients)`;
  $("rows").replaceChildren();
  for (const [name, task] of Object.entries(prediction.tasks)) row($("rows"), [name, inWords(task), uncertainty(task)]);
  $("quality").replaceChildren();
  const rr = prediction.rr_detected_ms;
  row($("quality"), ["R peaks", `${prediction.beats_detected}${rr === null ? "" : `, median RR ${rr.toFixed(0)} ms`}`]);
  row($("quality"), ["Noise", `${prediction.quality.noise_uv.toFixed(0)} µV`]);
  row($("quality"), ["Largest amplitude", `${prediction.quality.amplitude_mv.toFixed(2)} mV`]);
  for (const kind of ["flat", "clipped", "lead_off", "noisy", "masked"]) {
    const leads = prediction.quality[`${kind}_leads`];
    if (leads.length) row($("quality"), [`Leads: ${kind.replace("_", " ")}`, leads.join(", ")]);
  }
  $("results").hidden = false;
}

async function draw(response) {
  if (!response.ok) return;
  if (picture) URL.revokeObjectURL(picture);
  picture = URL.createObjectURL(await response.blob());
  $("ecg").src = picture;
  $("drawing").hidden = false;
}

function form(files) {
  const data = new FormData();
  for (const file of files) data.append("files", file, file.name);
  return data;
}

async function predict(event) {
  event.preventDefault();
  clear();
  const files = [...$("files").files];
  if (!files.length) return fail("choose the .hea file and its .dat or .mat file");
  $("predict").disabled = true;
  say("reading and predicting ...");
  try {
    const post = (path) => call(path, { method: "POST", body: form(files) });
    const [predicted, drawn] = await Promise.all([post("/predict"), post("/draw")]);
    if (predicted.status === 401) return await showModel();
    await draw(drawn);
    if (!predicted.ok) return fail(await reasonOf(predicted));
    show(await predicted.json());
  } catch {
    fail("the server cannot be reached");
  } finally {
    say("");
    $("predict").disabled = false;
  }
}

function dropped(event) {
  event.preventDefault();
  $("drop").classList.remove("over");
  if (event.dataTransfer.files.length) $("files").files = event.dataTransfer.files;
}

$("upload").addEventListener("submit", predict);
$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  clear();
  sessionStorage.setItem(TOKEN, $("token").value.trim());
  $("token").value = "";
  showModel();
});
$("drop").addEventListener("drop", dropped);
$("drop").addEventListener("dragover", (event) => {
  event.preventDefault();
  $("drop").classList.add("over");
});
$("drop").addEventListener("dragleave", () => $("drop").classList.remove("over"));
showModel().catch(() => fail("the server cannot be reached"));
