// The page: takes photos and frames of the camera, sends them to the worker, and shows what it drew.

import { Camera } from "./camera.js";
import { speed } from "./speed.js";

const MOST_PIXELS = 16_777_216; // of a canvas on an iPhone
const PICTURE = { overlay: "the people tinted", blur: "a blurred background",
  background: "another background", cutout: "a transparent background", mask: "the mask of people" };

const $ = (id) => document.getElementById(id);
const canvas = $("result"); // the student's
const figures = [...document.querySelectorAll("figure")]; // the student's, and the other network's
const worker = new Worker("worker.js", { type: "module" });
const camera = new Camera($("video"), (bitmap) => send("image", { bitmap, live: true }, [bitmap]));
let name = "photo"; // of the image, for the file to download
let note = ""; // on its size
let choice = 0; // number of times that an image or the camera was chosen; the last one counts
let captioned = 0; // when captions were last written
let broken = false; // without the network, nothing can be done
let networks = []; // {name, facts}

$("not-started").remove();
document.querySelector("main").hidden = false;

function send(type, values = {}, transferred = []) {
  worker.postMessage({ type, ...values }, transferred);
}

// --- what the worker tells -----------------------------------------------------------------------

const told = {
  progress({ share }) {
    $("progress").value = share;
  },

  ready({ networks: all, examples, problem }) {
    networks = all;
    $("loading").hidden = true;
    describe($("student"), "Student", 0);
    if (networks.length > 1) {
      describe($("other"), "Compared with", 1);
      $("compared").hidden = false;
    }
    if (problem) complain(problem);
    showExamples(examples);
    document.body.dataset.ready = "";
  },

  drawn({ results, took, live, view, problem }) {
    if (live && !camera.open) { // a last frame of a camera that was closed
      return results.forEach(({ bitmap }) => bitmap.close());
    }
    const two = results.length > 1, now = performance.now();
    $("frame").classList.toggle("two", two);
    $("both").hidden = !two;
    for (const [index, figure] of figures.entries()) {
      figure.hidden = !results[index];
      if (results[index]) paint(figure, results[index], view, two && networks[index].name);
      figure.lastElementChild.hidden = !two;
      if (two && (!live || now - captioned > 400)) { // to be read
        const { share, milliseconds } = results[index];
        figure.lastElementChild.textContent =
          `${networks[index].name}: ${people(share)}, network ${milliseconds.toFixed(0)} ms`;
      }
    }
    if (!live || now - captioned > 400) captioned = now;
    $("empty").hidden = true;
    $("save").disabled = false;
    if (live) camera.next();
    else if (!camera.open) {
      const shares = results.map(({ share }, index) =>
        (two ? `${networks[index].name}: ` : "") + people(share));
      status(`${canvas.width} × ${canvas.height} pixels${note}, ${shares.join("; ")}.`);
    }
    if (problem) complain(problem);
    if ("network" in took) speed.add(took, live);
    canvas.dataset.drawn = Number(canvas.dataset.drawn ?? 0) + 1;
  },

  saved({ blob, view }) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${name}-${view}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  },

  failed({ message, fatal }) {
    if (fatal) stop(message);
    else complain(message);
    if (!camera.open) $("status").textContent = "";
    camera.next();
  },
};
worker.onmessage = ({ data: { type, ...values } }) => told[type](values);
worker.onerror = (event) => {
  stop(event.message ? `The page failed: ${event.message}` :
    "worker.js is missing or too new for this browser. Copy the whole folder of the page to the server.");
};

/** Writes what is known of a network into its card. */
function describe(heading, title, index) {
  if (networks.length > 1) heading.textContent = `${title}: ${networks[index].name}`;
  for (const [term, value] of Object.entries(networks[index].facts)) {
    for (const [tag, text] of [["dt", term], ["dd", value]]) {
      heading.nextElementSibling.appendChild(document.createElement(tag)).textContent = text;
    }
  }
}

/** Shows a result in a figure; `network` is the network's name, where there are two. */
function paint(figure, { bitmap }, view, network) {
  const canvas = figure.firstElementChild;
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  figure.style.setProperty("--aspect", bitmap.width / bitmap.height);
  canvas.getContext("bitmaprenderer").transferFromImageBitmap(bitmap);
  canvas.classList.toggle("transparent", view === "cutout");
  canvas.classList.toggle("mirrored", camera.open && camera.faces);
  const label = `${camera.open ? "The camera" : "The image"} with ${PICTURE[view]}` +
    (network ? `, by ${network}` : "");
  if (canvas.getAttribute("aria-label") !== label) canvas.setAttribute("aria-label", label);
}

function people(share) {
  return share ? `people on ${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %` : "no people found";
}

function stop(message) {
  $("loading").hidden = true;
  closeCamera();
  complain(message);
  broken = true;
  for (const id of ["photo", "camera", "save", "compare"]) $(id).disabled = true;
  for (const button of $("examples").children) button.disabled = true;
}

function complain(message) {
  if (broken) return; // what came first is the reason
  $("message").textContent = message;
  $("message").hidden = false;
}

function status(text) {
  $("message").hidden = true;
  $("status").textContent = text;
}

// --- photos --------------------------------------------------------------------------------------

/** Returns a bitmap of an image file, and a note on its size; nothing, with a message, where it is none. */
async function decoded(file) {
  try {
    const bitmap = await createImageBitmap(file);
    const { width, height } = bitmap, scale = Math.sqrt(MOST_PIXELS / (width * height));
    if (scale >= 1) return { bitmap, note: "" };
    bitmap.close();
    return {
      bitmap: await createImageBitmap(file, { resizeQuality: "high",
        resizeWidth: Math.floor(width * scale), resizeHeight: Math.floor(height * scale) }),
      note: ` (scaled down from ${width} × ${height}, because browsers take no more)`,
    };
  } catch {
    complain(`“${file.name}” is not an image that this browser can read. Choose a JPEG, PNG or WebP file.`);
    return {};
  }
}

async function openPhoto(file) {
  if (broken) return;
  const chosen = ++choice;
  const { bitmap, note: own } = await decoded(file);
  if (!bitmap) return;
  if (chosen !== choice) return bitmap.close(); // something else was chosen since
  closeCamera();
  note = own;
  name = file.name.replace(/\.[^.]*$/, "") || "photo";
  status("Working …");
  send("image", { bitmap, live: false }, [bitmap]);
}

async function openBackdrop(file) {
  const { bitmap: backdrop } = await decoded(file);
  if (!backdrop) return;
  $("backdrop-name").textContent = file.name;
  changeView({ backdrop });
}

/** Offers example images, and opens the first one. */
function showExamples(urls) {
  for (const [index, url] of urls.entries()) {
    const button = $("examples").appendChild(document.createElement("button"));
    button.type = "button";
    const image = button.appendChild(document.createElement("img"));
    Object.assign(image, { src: url, alt: `Example ${index + 1}`, loading: "lazy" });
    button.addEventListener("click", () => openExample(url));
  }
  $("examples").hidden = !urls.length;
  if (urls.length && !choice) openExample(urls[0]);
}

async function openExample(url) {
  const chosen = ++choice;
  try {
    const response = await fetch(url);
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    const content = await response.blob();
    if (chosen === choice) openPhoto(new File([content], url.split("/").pop()));
  } catch (error) {
    complain(`${url} cannot be loaded (${error.message}).`);
  }
}

/** Lets a file be chosen, or dropped on an element. */
function accept(input, target, open) {
  input.addEventListener("change", () => {
    if (input.files[0]) open(input.files[0]);
    input.value = ""; // the same file can be chosen again
  });
  let inside = 0; // elements within the target send events of their own
  const mark = (change) => {
    inside = Math.max(0, inside + change);
    target.classList.toggle("over", inside > 0);
  };
  target.addEventListener("dragenter", () => mark(1));
  target.addEventListener("dragleave", () => mark(-1));
  target.addEventListener("drop", ({ dataTransfer }) => {
    mark(-inside);
    if (dataTransfer.files[0]) open(dataTransfer.files[0]);
    else complain("What was dropped is not a file. Save the image first, and drop its file.");
  });
}

accept($("photo"), $("frame"), openPhoto);
accept($("image"), $("backdrop"), openBackdrop);
for (const type of ["dragover", "drop"]) { // elsewhere, the browser would open the file
  addEventListener(type, (event) => event.preventDefault());
}
addEventListener("paste", ({ clipboardData }) => {
  const [file] = clipboardData.files;
  if (file) openPhoto(file);
});

// --- camera --------------------------------------------------------------------------------------

async function openCamera() {
  choice += 1;
  try {
    if (!await camera.start()) return;
    name = "camera";
    note = "";
    status("The camera is open. Its picture stays on this device.");
    $("camera").textContent = "Close the camera";
    $("switch").hidden = !camera.others;
  } catch (error) {
    closeCamera();
    complain(error.message);
  }
}

function closeCamera() {
  const was = camera.open;
  camera.stop();
  $("camera").textContent = "Open the camera";
  $("switch").hidden = true;
  for (const figure of figures) figure.firstElementChild.classList.remove("mirrored"); // as saved
  if (was) status("The camera is closed.");
}

$("camera").addEventListener("click", () => (camera.open ? closeCamera() : openCamera()));
$("switch").addEventListener("click", () => {
  camera.turn();
  openCamera();
});
$("video").addEventListener("ended", () => {
  closeCamera();
  complain("The camera was disconnected.");
});
$("save").addEventListener("click", () => send("save"));

// --- view ----------------------------------------------------------------------------------------

/** Frames of a camera are drawn anyway. */
function changeView(values) {
  send("view", { ...values, redraw: !camera.open }, values.backdrop ? [values.backdrop] : []);
}

function chooseView() {
  const view = document.querySelector("[name=view]:checked").value;
  $("behind").hidden = view !== "background";
  changeView({ view });
}

function chooseColour(backdrop) {
  const colour = [1, 3, 5].map((at) => parseInt($("colour").value.slice(at, at + 2), 16));
  if (backdrop === null) $("backdrop-name").textContent = "Choose or drop an image";
  changeView({ colour, backdrop }); // a colour takes the place of an image
}

$("views").addEventListener("change", chooseView);
$("compare").addEventListener("change", () => changeView({ compare: $("compare").checked }));
$("colour").addEventListener("input", () => chooseColour(null));
chooseView();
chooseColour();
