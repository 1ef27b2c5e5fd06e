// The form's options: what the server's models can do, and what is chosen.

import { describeVersions, listModels } from "./api.js";

const $ = (id) => document.getElementById(id);

/** Options that follow each other: model, version, then what that version has. `key()` gives the API key. */
export class Options {
  constructor(key) {
    this.key = key;
    this.versions = [];
    this.opening = null; // promise of the model's versions
    $("model").addEventListener("change", () => this.onChange(this.openModel()));
    $("version").addEventListener("change", () => this.showVersion());
    $("all-categories").addEventListener("click", () => this.checkCategories(true));
    $("no-categories").addEventListener("click", () => this.checkCategories(false));
    $("category-boxes").addEventListener("change", () => this.countCategories());
  }

  /** Told of the promise of a model's options, so that its failure is shown. */
  onChange = () => {};

  /** Fill in the models. Throws Problem, with status 401 where a key is needed. */
  async load() {
    const models = await listModels(this.key());
    const before = $("model").value;
    const text = (model) => (model.ready ? model.name : `${model.name} (not ready)`);
    $("model").replaceChildren(...models.map((model) => new Option(text(model), model.name)));
    if (models.some((model) => model.name === before)) $("model").value = before;
    await this.openModel();
  }

  /** Choose a model if the server has it. */
  async choose(name) {
    if (name === $("model").value || ![...$("model").options].some((option) => option.value === name)) return;
    $("model").value = name;
    await this.openModel();
  }

  /** Wait for the options of the model chosen; load all anew where that has failed. */
  async settle() {
    await this.opening?.catch(() => {});
    if (!this.versions.length) await this.load();
  }

  openModel() {
    this.versions = [];
    this.opening = this.fillModel();
    return this.opening;
  }

  async fillModel() {
    const name = $("model").value;
    const versions = await describeVersions(name, this.key());
    if (name !== $("model").value) return; // another was chosen meanwhile
    this.versions = versions;
    const newestFirst = versions.map((one) => one.version).reverse();
    const choices = newestFirst.map((version) => new Option(version));
    $("version").replaceChildren(new Option(`Newest (${newestFirst[0]})`, ""), ...choices);
    $("task").replaceChildren(); // that of another model says nothing about what is wanted of this one
    this.showVersion();
  }

  /** The description of the version chosen. */
  get chosen() {
    const version = $("version").value;
    return this.versions.find((one) => one.version === version) || this.versions.at(-1);
  }

  showVersion() {
    const { kind, tasks, thresholds, categories } = this.chosen;
    const task = $("task").value;
    const names = tasks.map((name) => new Option(name[0].toUpperCase() + name.slice(1), name));
    $("task").replaceChildren(...names);
    $("task").value = tasks.includes(task) ? task : kind;
    $("thresholds").hidden = kind === "semantic";
    $("overlap-field").hidden = kind !== "panoptic";
    $("score").placeholder = thresholds.score;
    $("overlap").placeholder = thresholds.overlap;
    $("categories").hidden = categories.length < 2;
    $("category-boxes").replaceChildren(...categories.map(categoryBox));
    this.countCategories();
  }

  checkCategories(checked) {
    for (const box of this.boxes) box.checked = checked;
    this.countCategories();
  }

  countCategories() {
    const [all, checked] = [this.boxes.length, this.boxes.filter((box) => box.checked).length];
    $("categories-summary").textContent = `Categories: ${checked === all ? "all" : `${checked} of ${all}`}`;
  }

  get boxes() {
    return [...$("category-boxes").querySelectorAll("input")];
  }

  /** The request that is chosen. Throws an Error that says what is wrong. */
  read() {
    const query = new URLSearchParams({ task: $("task").value });
    for (const name of ["score", "overlap"]) {
      const input = $(name);
      if (!input.checkVisibility()) continue; // the model has no such threshold
      if (!input.checkValidity()) {
        input.focus();
        throw new Error(`The ${name} threshold is a number from 0 to 1.`);
      }
      if (input.value) query.set(`${name}_threshold`, input.value);
    }
    const checked = this.boxes.filter((box) => box.checked);
    if (!checked.length) {
      $("categories-summary").focus();
      throw new Error("Choose one category at least.");
    }
    if (checked.length < this.boxes.length) query.set("categories", checked.map((box) => box.value).join(","));
    return { model: $("model").value, version: $("version").value, query };
  }
}

function categoryBox({ id, name }) {
  const box = Object.assign(document.createElement("input"), { type: "checkbox", value: id, checked: true });
  const label = Object.assign(document.createElement("label"), { className: "check" });
  label.append(box, ` ${name}`);
  return label;
}
