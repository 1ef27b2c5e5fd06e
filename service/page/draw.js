// Draws the segments of an answer. A map says which segment a pixel (x, y) belongs to: map[y * width + x] is the
// segment's place in the answer's list, from 1; 0 where there is none. Colours are [red, green, blue].

import { eachRun } from "./rle.js";

const GOLDEN_RATIO = 0.618034; // hues of consecutive segments lie far apart
const THING = 0.6;
const STUFF = 0.35; // opacities; things stand out from the stuff beside them
const STUFF_ALONE = 0.6;
const LARGEST_LAYER = 4e6; // pixels of what is drawn on the screen
const LARGEST_HIGHLIGHT = 1e6;
const BLOCK = 64; // pixels a side that stay in the cache while they are transposed

/** The map of an answer. The list begins with the best score, which is on top where masks overlap. */
export function makeMap({ image: { width, height }, segments }) {
  const Numbers = segments.length < 0xffff ? Uint16Array : Uint32Array;
  const columns = new Numbers(width * height);
  for (let number = segments.length; number > 0; number--) {
    eachRun(segments[number - 1].segmentation.counts, (start, end) => columns.fill(number, start, end));
  }
  const map = new Numbers(width * height);
  for (let left = 0; left < width; left += BLOCK) {
    for (let top = 0; top < height; top += BLOCK) {
      const [right, bottom] = [Math.min(left + BLOCK, width), Math.min(top + BLOCK, height)];
      for (let y = top; y < bottom; y++) {
        for (let x = left; x < right; x++) map[y * width + x] = columns[x * height + y];
      }
    }
  }
  return map;
}

/** A bright colour far from those of the numbers before and after; the same as in the server's overlay. */
export function distinctColour(number) {
  const hue = 6 * ((number * GOLDEN_RATIO) % 1);
  return [5, 3, 1].map((shift) => {
    const k = (shift + hue) % 6;
    return Math.round(255 * (1 - 0.85 * Math.max(0, Math.min(k, 4 - k, 1))));
  });
}

/** Colour of each segment: things have one each, stuff (and everything in the semantic task) its category's. */
export function coloursOf({ segments, task }, categoryColours) {
  return segments.map((segment) =>
    segment.is_thing && task !== "semantic"
      ? distinctColour(segment.id)
      : categoryColours.get(segment.category_id) || [128, 128, 128],
  );
}

/** Tints the canvas's pixels and outlines things; `step` map pixels become one of the canvas. */
export function paintMasks(canvas, map, { image: { width, height }, segments }, colours, step = layerStep(map)) {
  const isThing = [false, ...segments.map((segment) => segment.is_thing)];
  const stuff = isThing.includes(true) ? STUFF : STUFF_ALONE;
  const tints = new Uint32Array([0, ...segments.map((one, n) => pack(colours[n], one.is_thing ? THING : stuff))]);
  const outlines = new Uint32Array([0, ...segments.map((one, n) => (one.is_thing ? pack(colours[n], 1) : 0))]);
  canvas.width = Math.ceil(width / step);
  canvas.height = Math.ceil(height / step);
  const pixels = new ImageData(canvas.width, canvas.height);
  const out = new Uint32Array(pixels.data.buffer);
  let to = 0;
  for (let y = 0; y < height; y += step) {
    const above = y >= step ? -step * width : 0; // 0 compares a pixel at the border with itself
    const below = y + step < height ? step * width : 0;
    for (let x = 0; x < width; x += step) {
      const at = y * width + x;
      const number = map[at];
      const inner =
        number === map[at + above] &&
        number === map[at + below] &&
        (x < step || number === map[at - step]) &&
        (x + step >= width || number === map[at + step]);
      out[to++] = inner ? tints[number] : outlines[number] || tints[number];
    }
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

/** Lays the canvas over a segment's box and fills its mask, whole even where others lie on top. */
export function paintHighlight(canvas, segment, { width, height }, colour) {
  const [left, top, boxWidth, boxHeight] = segment.bbox;
  const step = Math.ceil(Math.sqrt((boxWidth * boxHeight) / LARGEST_HIGHLIGHT)) || 1;
  canvas.width = Math.ceil(boxWidth / step);
  canvas.height = Math.ceil(boxHeight / step);
  const pixels = new ImageData(canvas.width, canvas.height);
  const out = new Uint32Array(pixels.data.buffer);
  const fill = pack(colour, 0.75);
  eachRun(segment.segmentation.counts, (start, end) => {
    for (let x = Math.floor(start / height); x * height < end; x++) {
      if ((x - left) % step) continue;
      const first = Math.max(start - x * height, 0) - top;
      const beyond = Math.min(end - x * height, height) - top;
      for (let y = Math.ceil(first / step); y * step < beyond; y++) out[y * canvas.width + (x - left) / step] = fill;
    }
  });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  const percent = (part, whole) => `${(100 * part) / whole}%`;
  canvas.style.left = percent(left, width);
  canvas.style.top = percent(top, height);
  canvas.style.width = percent(boxWidth, width);
  canvas.style.height = percent(boxHeight, height);
}

/** PNG of the photo with its masks, at full resolution. */
export async function composePicture(photo, map, answer, colours, opacity) {
  const { width, height } = answer.image;
  const masks = document.createElement("canvas");
  paintMasks(masks, map, answer, colours, 1);
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d");
  context.fillRect(0, 0, width, height); // transparent pixels are black, as they are to the server
  context.drawImage(photo, 0, 0, width, height);
  context.globalAlpha = opacity;
  context.drawImage(masks, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  if (!blob) throw new Error(`this browser cannot make a picture of ${width} x ${height} pixels`);
  return blob;
}

function layerStep(map) {
  return Math.ceil(Math.sqrt(map.length / LARGEST_LAYER));
}

/** A pixel of ImageData, on machines that store the least significant byte first, as all that run browsers do. */
function pack([red, green, blue], opacity) {
  return ((Math.round(255 * opacity) << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}
