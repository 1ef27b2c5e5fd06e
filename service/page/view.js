// The picture: photo, masks over it, and the segment that is pointed at.

import { makeMap, paintHighlight, paintMasks } from "./draw.js";
import { describe } from "./segments.js";

const $ = (id) => document.getElementById(id);

/** Shows one photo and one answer at a time. `onPick(place)`: a segment was clicked, -1 for none. */
export class View {
  constructor(onPick) {
    this.photo = null; // url, width, height
    this.answer = null;
    this.selected = -1; // in the list
    this.shown = -1; // highlighted now
    const picture = $("picture");
    picture.addEventListener("pointermove", (event) => this.highlight(this.placeAt(event), event));
    picture.addEventListener("pointerleave", () => this.highlight(this.selected));
    picture.addEventListener("click", (event) => onPick(this.placeAt(event)));
    $("opacity").addEventListener("input", () => this.showOpacity());
    $("actual-size").addEventListener("change", () => this.resize());
    this.showOpacity();
  }

  get opacity() {
    return $("opacity").valueAsNumber / 100;
  }

  showOpacity() {
    $("masks").style.opacity = this.opacity;
  }

  /** Show a photo without masks; null where the browser cannot. */
  open(photo) {
    if (this.photo) URL.revokeObjectURL(this.photo.url);
    this.photo = photo;
    this.clear();
    $("stage").hidden = !photo;
    $("empty").hidden = Boolean(photo);
    if (!photo) return;
    $("photo").src = photo.url;
    $("photo").alt = "The photo";
    this.resize();
  }

  resize() {
    const { width, height } = this.photo;
    const picture = $("picture");
    const actual = $("actual-size").checked;
    picture.classList.toggle("actual", actual);
    picture.style.setProperty("--width", `${width}px`);
    picture.style.setProperty("--ratio", width / height);
    // What scrolls can be reached with the keyboard.
    if (actual) $("stage").tabIndex = 0;
    else $("stage").removeAttribute("tabindex");
  }

  /** Remove the masks. */
  clear() {
    this.answer = null;
    this.map = null;
    this.selected = this.shown = -1;
    for (const part of ["masks", "highlight", "tip", "tools"]) $(part).hidden = true;
  }

  /** Show the masks; `isDrawn`: they are in the photo already, as the server drew it. */
  show(answer, colours, isDrawn) {
    this.clear();
    Object.assign(this, { answer, colours, map: makeMap(answer) });
    $("tools").hidden = false;
    $("opacity-field").hidden = isDrawn;
    $("photo").alt = `The photo with ${answer.segments.length} segments`;
    if (isDrawn) return;
    paintMasks($("masks"), this.map, answer, colours);
    $("masks").hidden = false;
  }

  /** Place in the list of the segment under the pointer, -1 for none. */
  placeAt(event) {
    if (!this.map) return -1;
    const { left, top, width, height } = $("photo").getBoundingClientRect();
    const { image } = this.answer;
    const x = Math.floor(((event.clientX - left) / width) * image.width);
    const y = Math.floor(((event.clientY - top) / height) * image.height);
    const inside = x >= 0 && y >= 0 && x < image.width && y < image.height;
    return inside ? this.map[y * image.width + x] - 1 : -1;
  }

  /** Keep a segment highlighted, -1 for none. */
  select(place) {
    this.selected = place;
    this.highlight(place);
  }

  /** Highlight a segment and say what it is, beside the pointer or the segment. */
  highlight(place, pointer) {
    if (!this.answer) return;
    const target = place < 0 ? this.selected : place;
    const segment = this.answer.segments[target];
    $("highlight").hidden = $("tip").hidden = !segment;
    if (!segment) {
      this.shown = -1;
      return;
    }
    if (target !== this.shown) {
      this.shown = target;
      paintHighlight($("highlight"), segment, this.answer.image, this.colours[target]);
      $("tip").textContent = describe(segment);
    }
    this.moveTip(segment, place < 0 ? null : pointer);
  }

  moveTip({ bbox: [left, top, width] }, pointer) {
    const box = $("picture").getBoundingClientRect();
    const scale = box.width / this.answer.image.width;
    const x = pointer ? pointer.clientX - box.left : (left + width / 2) * scale;
    const y = pointer ? pointer.clientY - box.top : top * scale;
    const tip = $("tip");
    const limit = (value, most) => Math.max(0, Math.min(value, most));
    tip.style.left = `${limit(x - tip.offsetWidth / 2, box.width - tip.offsetWidth)}px`;
    tip.style.top = `${y > tip.offsetHeight + 12 ? y - tip.offsetHeight - 12 : y + 20}px`;
  }
}
