// The page: a photo goes to the server, its segments come back.

import { Problem, segment } from "./api.js";
import { coloursOf, composePicture } from "./draw.js";
import { Options } from "./options.js";
import { openPhoto, overlayPhoto } from "./photo.js";
import { SegmentList, fillCounts } from "./segments.js";
import { View } from "./view.js";

const $ = (id) => document.getElementById(id);
const key = () => $("key").value.trim();

let file = null;
let result = null; // {file, wish, text, answer, colours, isDrawn}
let running = null; // AbortController of the request that runs

const view = new View((place) => list.select(place));
const list = new SegmentList($("segments"), (place) => view.select(place), (place) => view.highlight(place));
const options = new Options(key);

function say(text) {
  $("status").textContent = text;
}

function showError(error) {
  const title = error instanceof Problem ? error.title : "";
  const parts = [title && `${title}.`, error.message, error.requestId && `Request id: ${error.requestId}`];
  $("error").replaceChildren(
    ...parts.filter(Boolean).map((text, place) =>
      Object.assign(document.createElement(title && !place ? "strong" : "span"), { textContent: `${text} ` }),
    ),
  );
  say("");
}

/** Do what may fail; what went wrong is shown and announced. */
async function attempt(work) {
  $("error").replaceChildren();
  try {
    return await work();
  } catch (error) {
    if (error.name === "AbortError") return undefined;
    if (error.status === 401) askForKey(error);
    else showError(error);
    return undefined;
  }
}

function askForKey(error) {
  const isFirst = $("key-field").hidden;
  $("key-field").hidden = false;
  if (isFirst) say("This server wants an API key.");
  else showError(error);
}

async function choose(chosen) {
  if (!chosen) return;
  running?.abort();
  file = chosen;
  forget();
  $("file-name").hidden = false;
  $("file-name").textContent = chosen.name;
  const photo = await openPhoto(chosen);
  if (file !== chosen) return; // another was chosen meanwhile
  view.open(photo);
  $("empty").textContent = "This browser does not show such a file; the server's drawing of it will be here.";
  say(`${chosen.name} is ready.`);
}

function forget() {
  result = null;
  view.clear();
  $("result").hidden = true;
  $("error").replaceChildren();
}

async function run() {
  running?.abort();
  const controller = new AbortController();
  running = controller;
  forget();
  setBusy(true);
  try {
    await options.settle();
    if (!file) {
      $("file").focus();
      throw new Error("Choose a photo first.");
    }
    say(`Segmenting ${file.name}`);
    const wish = options.read();
    const categories = options.chosen.categories;
    await showAnswer(await ask(file, wish, controller.signal), categories, controller);
  } finally {
    if (running === controller) {
      running = null;
      setBusy(false);
    }
  }
}

/** The answer, and the photo to lay it over: the server's drawing where the browser's own is missing or differs. */
async function ask(asked, wish, signal) {
  const fetchAnswer = async (isDrawn) => {
    const query = new URLSearchParams([...wish.query, ...(isDrawn ? [["format", "overlay"]] : [])]);
    const text = await (await segment(asked, { ...wish, query }, { key: key(), signal })).text();
    return { file: asked, wish, text, answer: JSON.parse(text), isDrawn };
  };
  const fits = ({ image }) => view.photo?.width === image.width && view.photo?.height === image.height;
  const found = await fetchAnswer(!view.photo || Boolean(view.photo.drawing));
  return found.isDrawn || fits(found.answer) ? found : fetchAnswer(true);
}

async function showAnswer(found, categories, controller) {
  if (running !== controller) return;
  const { answer } = found;
  const categoryColours = new Map(categories.map(({ id, colour }) => [id, colour]));
  result = { ...found, colours: coloursOf(answer, categoryColours) };
  if (found.isDrawn) view.open(overlayPhoto(answer));
  view.show(answer, result.colours, found.isDrawn);
  list.fill(answer.segments, result.colours);
  fillCounts($("counts-body"), answer, categoryColours);
  const number = answer.segments.length;
  const title = `${number.toLocaleString("en")} ${number === 1 ? "segment" : "segments"}`;
  $("result-title").textContent = title;
  $("result-facts").textContent = facts(answer);
  $("warnings").replaceChildren(
    ...answer.warnings.map((text) => Object.assign(document.createElement("li"), { textContent: text })),
  );
  $("warnings").hidden = !answer.warnings.length;
  for (const part of ["counts", "segments", "list-hint"]) $(part).hidden = !number;
  // The masks of an instance model may overlap, and have no id-map.
  $("save-ids").hidden = options.versions.find((one) => one.version === answer.version)?.kind === "instance";
  $("result").hidden = false;
  if ($("view").getBoundingClientRect().top > 0.7 * innerHeight) $("view").scrollIntoView({ block: "start" });
  say(number ? `${title} found. The list of them follows.` : "Nothing found; a lower score threshold may find more.");
}

function facts({ model, version, task, image, timing_ms: timing }) {
  const size = `${image.width} × ${image.height} px`;
  const seconds = (milliseconds) => `${(milliseconds / 1000).toFixed(2)} s`;
  return `${model} ${version}, ${task}, ${size}, ${seconds(timing.total)} (engine ${seconds(timing.engine)})`;
}

function setBusy(isBusy) {
  $("form").setAttribute("aria-busy", isBusy);
  $("progress").hidden = $("cancel").hidden = !isBusy;
}

function save(blob, suffix) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${result.file.name.replace(/\.[^.]*$/, "")}${suffix}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

async function savePicture() {
  const { answer, colours, isDrawn } = result;
  const blob = isDrawn
    ? view.photo.drawing
    : await composePicture($("photo"), view.map, answer, colours, view.opacity);
  save(blob, ".overlay.png");
}

async function saveIds() {
  const { file: asked, wish, answer } = result;
  const query = new URLSearchParams([...wish.query, ["format", "png"]]);
  const same = { ...wish, version: answer.version, query };
  save(await (await segment(asked, same, { key: key(), accept: "image/png" })).blob(), ".ids.png");
}

async function takeExample() {
  const blob = await (await fetch("page/example.png")).blob();
  await options.choose("nuclei");
  await choose(new File([blob], "nuclei.png", { type: "image/png" }));
}

options.onChange = (work) => attempt(() => work);
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(run);
});
$("cancel").addEventListener("click", () => {
  running?.abort();
  say("Cancelled.");
  $("submit").focus();
});
$("file").addEventListener("change", () => attempt(() => choose($("file").files[0])));
$("example").addEventListener("click", () => attempt(takeExample));
$("key").addEventListener("change", () => attempt(() => options.load()));
$("save-json").addEventListener("click", () => save(new Blob([result.text], { type: "application/json" }), ".json"));
$("save-picture").addEventListener("click", () => attempt(savePicture));
$("save-ids").addEventListener("click", () => attempt(saveIds));

document.addEventListener("paste", (event) => {
  const pasted = event.clipboardData.files[0];
  if (pasted) attempt(() => choose(pasted));
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  $("drop").classList.add("dragging");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("drop").classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("dragging");
  attempt(() => choose(event.dataTransfer.files[0]));
});

attempt(() => options.load());
