// The segments in words: a table of categories, and a list to walk through.

const PAGE = 10; // options that Page Up and Page Down pass over

/**
 * A list box: one tab stop, arrow keys within. `onSelect(place)` and, for what the pointer is over, `onPoint(place)` are
 * called with a place in the list, or -1 for none.
 */
export class SegmentList {
  constructor(box, onSelect, onPoint) {
    this.box = box;
    this.onSelect = onSelect;
    this.place = -1;
    box.addEventListener("keydown", (event) => this.walk(event));
    box.addEventListener("focus", () => this.select(Math.max(this.place, 0)));
    box.addEventListener("click", (event) => this.select(this.placeOf(event)));
    box.addEventListener("pointermove", (event) => onPoint(this.placeOf(event)));
    box.addEventListener("pointerleave", () => onPoint(-1));
  }

  placeOf(event) {
    return [...this.box.children].indexOf(event.target.closest("[role=option]"));
  }

  fill(segments, colours) {
    this.place = -1;
    this.box.replaceChildren(...segments.map((segment, place) => makeOption(segment, colours[place])));
    this.box.removeAttribute("aria-activedescendant");
    this.box.scrollTop = 0;
  }

  /** Make the option at `place` the current one. */
  select(place) {
    const option = this.box.children[place];
    this.box.children[this.place]?.setAttribute("aria-selected", "false");
    this.place = option ? place : -1;
    if (option) {
      option.setAttribute("aria-selected", "true");
      this.box.setAttribute("aria-activedescendant", option.id);
      this.reveal(option);
    } else {
      this.box.removeAttribute("aria-activedescendant");
    }
    this.onSelect(this.place);
  }

  /** Scrolls the list alone; `scrollIntoView` would move the page, too. */
  reveal(option) {
    const top = option.offsetTop - this.box.offsetTop;
    const [first, beyond] = [this.box.scrollTop, this.box.scrollTop + this.box.clientHeight];
    if (top < first) this.box.scrollTop = top;
    else if (top + option.offsetHeight > beyond) this.box.scrollTop = top + option.offsetHeight - this.box.clientHeight;
  }

  walk(event) {
    const last = this.box.children.length - 1;
    const place = {
      ArrowDown: this.place + 1,
      ArrowUp: this.place - 1,
      PageDown: this.place + PAGE,
      PageUp: this.place - PAGE,
      Home: 0,
      End: last,
    }[event.key];
    if (event.key === "Escape") this.select(-1);
    if (place === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.select(Math.min(Math.max(place, 0), last));
  }
}

/** Class, score and area of a segment. */
export function describe(segment) {
  const { category, score } = segment;
  return [category, ...(score === null ? [] : [`score ${score.toFixed(2)}`]), areaOf(segment)].join(" · ");
}

function areaOf({ area }) {
  return `${area.toLocaleString("en")} px`;
}

function makeOption(segment, colour) {
  const option = Object.assign(document.createElement("li"), { id: `segment-${segment.id}`, role: "option" });
  option.setAttribute("aria-selected", "false");
  const score = segment.score === null ? [] : [span("score", "unseen"), span(segment.score.toFixed(2))];
  const words = [span(segment.id, "number"), span(segment.category, "name"), ...score, span(areaOf(segment), "area")];
  option.append(swatch(colour), ...words);
  return option;
}

/** Fill in the table: a row a category, those of most segments first. */
export function fillCounts(body, answer, categoryColours) {
  const rows = new Map();
  for (const segment of answer.segments) {
    const row = rows.get(segment.category_id) || { segment, count: 0, area: 0 };
    rows.set(segment.category_id, { segment, count: row.count + 1, area: row.area + segment.area });
  }
  const sorted = [...rows.values()].sort((a, b) => b.count - a.count || b.area - a.area);
  body.replaceChildren(...sorted.map((row) => countRow(row, answer.image, categoryColours)));
}

function countRow({ segment, count, area }, { width, height }, categoryColours) {
  const header = Object.assign(document.createElement("th"), { scope: "row" });
  const colour = categoryColours.get(segment.category_id);
  header.append(...(colour ? [swatch(colour)] : []), segment.category);
  const row = document.createElement("tr");
  row.append(header, cell(count.toLocaleString("en")), cell(`${((100 * area) / (width * height)).toFixed(1)} %`));
  return row;
}

function cell(text) {
  return Object.assign(document.createElement("td"), { textContent: text });
}

function span(text, className = "") {
  return Object.assign(document.createElement("span"), { textContent: `${text} `, className });
}

function swatch([red, green, blue]) {
  const result = span("", "swatch");
  result.style.backgroundColor = `rgb(${red} ${green} ${blue})`;
  return result;
}
