// Runs the networks and draws, so that the page stays smooth. One message is handled at a time.
//
// Messages in:  image {bitmap, live}   view {view, colour, backdrop, compare, redraw}   save {}
// Messages out: progress {share}   ready {networks, examples, problem}
//               drawn {results, took, live, view, problem}   saved {blob, view}
//               failed {message, fatal}
// A problem is one of the other network: the student goes on without it.

import { VIEWS } from "./effects.js";
import { fullMask, resizedRgb } from "./pixels.js";

const RUNTIME = "onnxruntime/ort.wasm.bundle.min.js";
const WASM = "onnxruntime/ort-wasm-simd-threaded.wasm";
const canvas = new OffscreenCanvas(1, 1);
const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });

let networks; // the student, and perhaps another one: {name, facts, session, ort, input, output, size}
let image; // the last one
let found; // in the last image, by each network that was run: {mask, share, took}
let settings = { view: "overlay", colour: [0, 0, 0], backdrop: null, compare: true };
let scaled = null; // the backdrop at the size of the image

const handlers = {
  async image({ bitmap, live }) {
    const took = {};
    const next = clock(took)("read", () => pixels(bitmap, bitmap.width, bitmap.height));
    bitmap.close();
    const own = await segment(networks[0], next);
    [image, found] = [next, [own]]; // both, or none where the memory is too small
    await show({ ...took, ...own.took }, live);
  },

  async view({ redraw, ...chosen }) {
    if (chosen.backdrop === undefined) delete chosen.backdrop; // null: a colour takes its place
    else {
      settings.backdrop?.close();
      scaled = null;
    }
    settings = { ...settings, ...chosen };
    if (image && redraw) await show({}, false);
  },

  async save() {
    const drawn = draw(found[0].mask);
    const own = new OffscreenCanvas(drawn.width, drawn.height); // the other has no transparency
    own.getContext("2d").putImageData(drawn, 0, 0);
    postMessage({ type: "saved", blob: await own.convertToBlob(), view: settings.view });
  },
};

let queue = load().catch((error) => {
  postMessage({ type: "failed", message: plain(error), fatal: true });
  return new Promise(() => {}); // nothing can be done without the network
});

onmessage = ({ data: { type, ...message } }) => {
  queue = queue.then(() => handlers[type](message)).catch((error) => {
    postMessage({ type: "failed", message: plain(error), fatal: false });
  });
};

async function load() {
  if (typeof WebAssembly !== "object") {
    throw new Error("This browser has no WebAssembly, or it is switched off.");
  }
  const [wasm, content] = await Promise.all([fetched(WASM, true), fetched("page.json").then(json)]);
  const ort = await import(`./${RUNTIME}`).catch(() => {
    throw new Error(`${RUNTIME} is missing. Copy the whole folder of the page to the server.`);
  });
  // Threads need headers that a plain server does not send.
  const threads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
  Object.assign(ort.env.wasm, { wasmBinary: wasm, numThreads: threads });
  networks = [await opened(ort, content.networks[0])];
  Object.assign(networks[0].facts, { Runtime: `onnxruntime-web ${ort.env.versions.web}`, Threads: threads });
  let problem;
  for (const other of content.networks.slice(1)) {
    await opened(ort, other).then((network) => networks.push(network), (error) => {
      problem = `${other.name} is not shown: ${plain(error)}`;
    });
  }
  const described = networks.map(({ name, facts }) => ({ name, facts }));
  postMessage({ type: "ready", networks: described, examples: content.examples, problem });
}

/** Returns a network that has computed once, so that its memory is allocated. */
async function opened(ort, { name, file }) {
  const [model, card] = await Promise.all([fetched(file), fetched(file.replace(".onnx", ".json"))]);
  const { input, output, file: { precision }, student: { encoder, decoder } } = json(card);
  const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] })
    .catch((error) => {
      throw new Error(`The network does not start (${error.message}). Update the browser: it needs ` +
        "WebAssembly with SIMD.");
    });
  const [, ...size] = input.shape.slice(0, 3);
  const facts = {
    Encoder: encoder, Decoder: decoder, Input: `${size[1]} × ${size[0]}`,
    File: `${(model.byteLength / 1e6).toFixed(2)} MB, ${precision}`,
  };
  const network = { name, facts, session, ort, input: input.name, output: output.name, size };
  await infer(network, new Uint8Array(size[0] * size[1] * 3));
  return network;
}

function json(bytes) {
  return JSON.parse(new TextDecoder().decode(bytes));
}

/** Returns a file of the page's folder; the progress of the largest one is told. */
async function fetched(name, told = false) {
  const response = await fetch(name).catch(() => null);
  if (!response?.ok) {
    const reason = response ? `HTTP ${response.status}` : "the server does not answer";
    throw new Error(`${name} is missing (${reason}). Copy the whole folder of the page to the server.`);
  }
  const total = Number(response.headers.get("Content-Length"));
  if (!told || !total || !response.body) return response.arrayBuffer();
  const chunks = [];
  let loaded = 0;
  for (const reader = response.body.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) return new Blob(chunks).arrayBuffer();
    chunks.push(value);
    loaded += value.length;
    postMessage({ type: "progress", share: Math.min(1, loaded / total) });
  }
}

async function infer({ session, ort, input, output, size }, rgb) {
  const outputs = await session.run({ [input]: new ort.Tensor("uint8", rgb, [1, ...size, 3]) });
  return outputs[output].data;
}

/** Returns the mask of people in an image, their share of it, and milliseconds by part. */
async function segment(network, image) {
  const took = {};
  const part = clock(took);
  const rgb = part("resize", () => resizedRgb(image, ...network.size));
  const began = performance.now();
  const logits = await infer(network, rgb);
  took.network = performance.now() - began;
  const mask = part("mask", () => fullMask(logits, network.size, image.width, image.height));
  let people = 0;
  for (let at = 0; at < mask.length; at += 7) people += mask[at] > 127; // enough for a share
  return { mask, share: people / Math.ceil(mask.length / 7), took };
}

/** Draws the last image, and sends it to the page. `took` is the time of the student alone. */
async function show(took, live) {
  const began = performance.now();
  const results = [await drawn(0)];
  took.draw = performance.now() - began;
  let problem;
  for (let index = 1; settings.compare && index < networks.length; index++) {
    await drawn(index).then((result) => results.push(result), (error) => {
      problem = `${networks[index].name} is not shown: ${plain(error)}`;
    });
  }
  postMessage({ type: "drawn", results, took, live, view: settings.view, problem },
    results.map(({ bitmap }) => bitmap));
}

/** Returns what a network found in the last image, drawn. */
async function drawn(index) {
  found[index] ??= await segment(networks[index], image);
  const { mask, share, took: { network: milliseconds } } = found[index];
  return { bitmap: await createImageBitmap(draw(mask)), share, milliseconds };
}

function draw(mask) {
  const { width, height } = image, { backdrop } = settings;
  if (backdrop && settings.view === "background" &&
      (scaled?.width !== width || scaled?.height !== height)) {
    scaled = pixels(backdrop, width, height);
  }
  return VIEWS[settings.view](image, mask, { colour: settings.colour, backdrop: backdrop && scaled });
}

/** Returns the pixels of a bitmap; its middle is scaled to cover the size. */
function pixels(bitmap, width, height) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const scale = Math.max(width / bitmap.width, height / bitmap.height);
  const [w, h] = [bitmap.width * scale, bitmap.height * scale];
  context.fillStyle = "#000"; // behind what is transparent, where the last image would show through
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, (width - w) / 2, (height - h) / 2, w, h);
  return context.getImageData(0, 0, width, height);
}

/** Returns a function that calls another one, and adds to `took` how many milliseconds it needed. */
function clock(took) {
  return (name, work) => {
    const began = performance.now(), result = work();
    took[name] = performance.now() - began;
    return result;
  };
}

function plain(error) {
  return error instanceof RangeError ? "The image is too large for this browser's memory." : error.message;
}
