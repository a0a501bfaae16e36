// The page: takes photos and frames of the camera, sends them to the worker, and shows what it drew.

import { Camera } from "./camera.js";

const MOST_PIXELS = 16_777_216; // of a canvas on an iPhone
const PICTURE = { overlay: "the people tinted", blur: "a blurred background",
  background: "another background", cutout: "a transparent background", mask: "the mask of people" };

const $ = (id) => document.getElementById(id);
const canvas = $("result"), context = canvas.getContext("bitmaprenderer");
const worker = new Worker("worker.js", { type: "module" });
const camera = new Camera($("video"), (bitmap) => send("image", { bitmap, live: true }, [bitmap]));
let name = "photo"; // of the image, for the file to download
let note = ""; // on its size
let broken = false; // without the network, nothing can be done

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

  ready({ facts }) {
    $("loading").hidden = true;
    for (const [term, value] of Object.entries(facts)) {
      for (const [tag, text] of [["dt", term], ["dd", value]]) {
        $("facts").appendChild(document.createElement(tag)).textContent = text;
      }
    }
    document.body.dataset.ready = "";
  },

  drawn({ bitmap, took, share, live, view }) {
    if (live && !camera.open) return bitmap.close(); // a last frame of a camera that was closed
    canvas.width = bitmap.width;
    canvas.height = bitmap.height;
    canvas.style.setProperty("--aspect", bitmap.width / bitmap.height);
    context.transferFromImageBitmap(bitmap);
    canvas.hidden = false;
    canvas.classList.toggle("transparent", view === "cutout");
    canvas.classList.toggle("mirrored", camera.open && camera.faces);
    const label = `${camera.open ? "The camera" : "The image"} with ${PICTURE[view]}`;
    if (canvas.getAttribute("aria-label") !== label) canvas.setAttribute("aria-label", label);
    $("empty").hidden = true;
    $("save").disabled = false;
    if (live) camera.next();
    else if (!camera.open) status(`${canvas.width} × ${canvas.height} pixels${note}, ` +
      (share ? `people on ${(100 * share).toFixed(share < 0.1 ? 1 : 0)} % of them.` : "no people found."));
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

function stop(message) {
  $("loading").hidden = true;
  closeCamera();
  complain(message);
  broken = true;
  for (const id of ["photo", "camera", "save"]) $(id).disabled = true;
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

/** Milliseconds of the last image, or averages over frames; frames per second. */
const speed = {
  times: [], average: {}, shown: 0,
  add(took, live) {
    const now = performance.now();
    if (!live) this.times = [];
    else this.times = [...this.times.filter((time) => now - time < 2000), now];
    for (const [part, value] of Object.entries(took)) {
      const old = this.times.length > 1 ? this.average[part] : value;
      this.average[part] = old + 0.1 * (value - old);
    }
    if (live && this.times.length > 1 && now - this.shown < 400) return; // to be read
    this.shown = now;
    const digits = (value) => value.toFixed(value < 10 ? 1 : 0);
    for (const cell of document.querySelectorAll("[data-part]")) {
      cell.textContent = `${digits(this.average[cell.dataset.part])} ms`;
    }
    $("total").textContent = digits(Object.values(this.average).reduce((sum, value) => sum + value));
    const span = now - this.times[0];
    $("rate").textContent = span ? digits((1000 * (this.times.length - 1)) / span) : "–";
  },
};

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
  const { bitmap, note: own } = await decoded(file);
  if (!bitmap) return;
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
  canvas.classList.remove("mirrored"); // as it would be saved
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
$("colour").addEventListener("input", () => chooseColour(null));
chooseView();
chooseColour();
