// Segments images in the browser with the model in this folder: `await knetSegment(blob)`.
//
// The steps are the server's, on one canvas: lay out, run the graph, take its cells back to the image's pixels. Sizes
// are [height, width]; a cell of the graph's output is `stride` scaled pixels wide and high.

let loading;

/** The artifact and its session, loaded once: { artifact, session, ort, where }. */
export function loadModel() {
  loading ??= load();
  return loading;
}

async function load() {
  const artifact = await (await get("artifact.json")).json();
  const adapter = await navigator.gpu?.requestAdapter();
  // The build with WebGPU is twice as large: it is loaded where it is of use.
  const build = adapter ? "ort.webgpu.bundle.min.mjs" : "ort.wasm.bundle.min.mjs";
  const ort = await import(new URL(`ort/${build}`, import.meta.url)).catch(() => {
    throw new Error(`ort/${build} is missing; README.md says where to get it`);
  });
  ort.env.wasm.numThreads = self.crossOriginIsolated ? navigator.hardwareConcurrency : 1;
  const graph = new Uint8Array(await (await get(artifact.variants[0].file)).arrayBuffer());
  const executionProviders = adapter ? ["webgpu", "wasm"] : ["wasm"];
  const session = await ort.InferenceSession.create(graph, { executionProviders });
  const threads = ort.env.wasm.numThreads;
  const where = adapter ? "WebGPU" : `WebAssembly, ${threads} thread${threads === 1 ? "" : "s"}`;
  return { artifact, session, ort, where };
}

async function get(name) {
  const response = await fetch(new URL(name, import.meta.url));
  if (!response.ok) throw new Error(`${name}: ${response.status} ${response.statusText}`);
  return response;
}

/**
 * The segments of an image file: { width, height, segments, id_map, scaled_size, seconds, where }.
 * `id_map` (Int32Array, height x width) has the segments' ids, 0 for void; segments are as the server answers them.
 */
export async function segment(blob) {
  const { artifact, session, ort, where } = await loadModel();
  const begin = performance.now();
  const image = await createImageBitmap(blob, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  const plan = layOut([image.height, image.width], artifact.geometry, artifact.output_stride);
  const feeds = makeInputs(drawScaled(image, plan.scaled), plan, artifact, ort);
  image.close();
  const outputs = await session.run(feeds);
  const read = artifact.kind === "panoptic" ? readSlots : readClasses;
  const { id_map, segments } = number(read(outputs, plan, artifact), plan, artifact);
  const [height, width] = plan.image;
  return { width, height, segments, id_map, scaled_size: plan.scaled, seconds: (performance.now() - begin) / 1000, where };
}

/** Sizes of the image, scaled and canvas, and the cells of the content and of a row of the canvas. */
function layOut(image, geometry, stride) {
  let scaled, canvas;
  if (geometry.mode === "tile") {
    const limit = geometry.sizes.at(-1);
    const ratio = Math.min(geometry.scale, limit / Math.max(...image));
    scaled = image.map((side) => Math.min(limit, Math.max(1, round(side * ratio))));
    canvas = scaled.map((side) => geometry.sizes.find((size) => side <= size));
  } else if (geometry.mode === "fit") {
    const ratio = Math.min(geometry.size[0] / image[0], geometry.size[1] / image[1]);
    scaled = image.map((side, axis) => Math.min(geometry.size[axis], Math.max(1, round(side * ratio))));
    canvas = geometry.size;
  } else {
    const ratio = Math.min(geometry.shortest / Math.min(...image), geometry.longest / Math.max(...image));
    scaled = image.map((side) => Math.max(1, Math.floor(side * ratio + 0.5)));
    canvas = scaled.map((side) => Math.ceil(side / geometry.multiple) * geometry.multiple);
  }
  return { image, scaled, canvas, stride, rowCells: canvas[1] / stride };
}

/** Halves go to the even number, as in Python. */
function round(value) {
  return value % 1 === 0.5 ? 2 * Math.round(value / 2) : Math.round(value);
}

/** RGBA (height x width x 4) of an image at another size, transparent pixels over black. */
function drawScaled(image, [height, width]) {
  const context = new OffscreenCanvas(width, height).getContext("2d", { alpha: false, willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, width, height);
  return context.getImageData(0, 0, width, height).data;
}

/** The graph's inputs, for a batch of one. */
function makeInputs(rgba, { scaled: [height, width], canvas }, artifact, ort) {
  const pixels = new Uint8Array(canvas[0] * canvas[1] * 3);
  let sum = 0, squares = 0;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let channel = 0; channel < 3; channel++) {
        const value = rgba[(y * width + x) * 4 + channel];
        pixels[(y * canvas[1] + x) * 3 + channel] = value;
        sum += value;
        squares += value * value;
      }
    }
  }
  const feeds = {
    image: new ort.Tensor("uint8", pixels, [1, ...canvas, 3]),
    valid_size: new ort.Tensor("int32", Int32Array.of(height, width), [1, 2]),
  };
  const scalars = {};
  if (artifact.kind === "panoptic") {
    scalars.score_threshold = artifact.thresholds.score;
    scalars.overlap_threshold = artifact.thresholds.overlap;
  }
  if (artifact.uses_image_statistics) {
    const mean = sum / (height * width * 3);
    scalars.pixel_mean = mean;
    scalars.pixel_std = Math.sqrt(Math.max(0, squares / (height * width * 3) - mean * mean));
  }
  for (const [name, value] of Object.entries(scalars)) {
    feeds[name] = new ort.Tensor("float32", Float32Array.of(value), [1]);
  }
  return feeds;
}

/** A panoptic canvas: its cells' ids, and of each id that was kept class and score. */
function readSlots(outputs) {
  const { segment_id, class_index, score, id_map } = outputs;
  const found = new Map();
  segment_id.data.forEach((id, slot) => {
    if (id > 0) found.set(id, { classIndex: class_index.data[slot], score: score.data[slot] });
  });
  return { cells: id_map.data, found };
}

/** A semantic canvas: class indices + 1 as ids; classes have no score. */
function readClasses(outputs, plan, artifact) {
  const found = new Map(artifact.categories.map((_, index) => [index + 1, { classIndex: index, score: null }]));
  return { cells: outputs.class_map.data.map((index) => index + 1), found };
}

/** Cells to the image's pixels, and the segments by descending score, numbered in that order. */
function number({ cells, found }, plan, artifact) {
  const [height, width] = plan.image;
  const [rows, columns] = [0, 1].map((axis) => nearestCells(plan.image[axis], plan.scaled[axis], plan.stride));
  const id_map = new Int32Array(height * width);
  const measured = new Map();
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const id = cells[rows[y] * plan.rowCells + columns[x]];
      id_map[y * width + x] = id;
      let box = measured.get(id);
      if (!box) measured.set(id, (box = { area: 0, left: x, right: x, top: y, bottom: y }));
      box.area += 1;
      box.left = Math.min(box.left, x);
      box.right = Math.max(box.right, x);
      box.bottom = y;
    }
  }
  const kept = [...found].filter(([id, { classIndex }]) => {
    const least = artifact.categories[classIndex].is_thing ? artifact.thresholds.min_area : 1;
    return measured.has(id) && measured.get(id).area >= least;
  });
  kept.sort(([, a], [, b]) => b.score - a.score);
  const newIds = new Map(kept.map(([id], index) => [id, index + 1]));
  const segments = kept.map(([id, { classIndex, score }]) => {
    const category = artifact.categories[classIndex];
    const { area, left, right, top, bottom } = measured.get(id);
    return {
      id: newIds.get(id),
      category_id: category.id,
      category: category.name,
      is_thing: category.is_thing,
      colour: category.colour,
      score,
      area,
      bbox: [left, top, right - left + 1, bottom - top + 1],
    };
  });
  return { id_map: id_map.map((id) => newIds.get(id) ?? 0), segments };
}

/** For each pixel along a side, the cell that its centre lies in. */
function nearestCells(side, scaled, stride) {
  return Int32Array.from({ length: side }, (_, i) =>
    Math.floor(Math.floor(Math.min((i + 0.5) * (scaled / side), scaled - 1)) / stride));
}

/** Draw an image on a canvas, things tinted in colours of their own, stuff in its category's. */
export async function paint(canvas, blob, { width, height, segments, id_map }) {
  const image = await createImageBitmap(blob, { imageOrientation: "from-image" });
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { alpha: false });
  context.drawImage(image, 0, 0);
  image.close();
  const pixels = context.getImageData(0, 0, width, height);
  const hasThings = segments.some(({ is_thing }) => is_thing);
  const tints = segments.map(({ id, is_thing, colour }) => ({
    colour: is_thing ? distinctColour(id) : colour,
    weight: is_thing ? 0.4 : hasThings ? 0.2 : 0.45,
  }));
  id_map.forEach((id, at) => {
    if (!id) return;
    const { colour, weight } = tints[id - 1];
    for (let channel = 0; channel < 3; channel++) {
      pixels.data[at * 4 + channel] += weight * (colour[channel] - pixels.data[at * 4 + channel]);
    }
  });
  context.putImageData(pixels, 0, 0);
}

/** A bright colour far from those of the ids before and after. */
function distinctColour(id) {
  const hue = (id * 0.618034 % 1) * 6;
  return [5, 3, 1].map((offset) => {
    const k = (offset + hue) % 6;
    return 255 * (1 - 0.85 * Math.max(0, Math.min(k, 4 - k, 1)));
  });
}

window.knetSegment = segment;
