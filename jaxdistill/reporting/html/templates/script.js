"use strict";

// The table of numbers holds every value: one row per epoch, with the epoch in its first cell.
const rows = [...document.querySelector("#numbers tbody").rows];
const epochs = rows.map((row) => Number(row.cells[0].textContent));

const curves = document.querySelector("#curves fieldset");
if (rows.length) {
  const slider = curves.elements.epoch;
  slider.max = rows.length - 1;
  slider.value = slider.max;
  slider.parentElement.hidden = rows.length < 2;
  slider.addEventListener("input", () => mark(slider.valueAsNumber));
  for (const svg of document.querySelectorAll("#curves svg")) {
    svg.addEventListener("pointermove", (event) => mark(nearest(svg, event.clientX)));
    svg.addEventListener("pointerdown", (event) => mark(nearest(svg, event.clientX)));
  }
  mark(rows.length - 1);
}

/** Shows the values of an epoch in every chart and its legend; `index` is its row in the table. */
function mark(index) {
  const slider = curves.elements.epoch;
  slider.value = index;
  announce(slider, epochs[index]);
  for (const value of document.querySelectorAll("[data-column]")) {
    value.textContent = rows[index].cells[value.dataset.column].textContent;
  }
  const share = (epochs[index] - epochs[0]) / (epochs.at(-1) - epochs[0] || 1);
  for (const svg of document.querySelectorAll("#curves svg")) {
    const plot = svg.querySelector(".plot");
    const line = svg.querySelector(".at");
    const x = rows.length > 1 ? Number(plot.getAttribute("x")) + share * plot.getAttribute("width")
      : Number(line.getAttribute("x1"));
    line.setAttribute("x1", x);
    line.setAttribute("x2", x);
  }
}

/** Returns the index of the epoch that is nearest to a horizontal position on the screen. */
function nearest(svg, x) {
  const box = svg.querySelector(".plot").getBoundingClientRect();
  const wanted = epochs[0] + ((x - box.left) / box.width) * (epochs.at(-1) - epochs[0]);
  const distances = epochs.map((epoch) => Math.abs(epoch - wanted));
  return distances.indexOf(Math.min(...distances));
}

/** Writes an epoch beside its slider, and for screen readers. */
function announce(slider, epoch) {
  slider.parentElement.querySelector("output").textContent = epoch;
  slider.setAttribute("aria-valuetext", `epoch ${epoch}`);
}

const sample = document.querySelector(".sample");
if (sample && sample.children.length > 1) {
  const grids = [...sample.children];
  const controls = document.querySelector("#samples fieldset");
  const { shown, compare, other } = controls.elements;
  const beside = sample.cloneNode();
  beside.append(grids[0].cloneNode());
  sample.after(beside);
  for (const slider of [shown, other]) slider.max = grids.length - 1;
  shown.value = shown.max;
  other.value = 0;
  controls.hidden = false;
  controls.addEventListener("input", show);
  compare.addEventListener("change", scrollToEnd);
  show();
  scrollToEnd();

  function show() {
    grids.forEach((one, index) => { one.hidden = index !== shown.valueAsNumber; });
    const second = grids[other.valueAsNumber];
    const image = beside.firstChild;
    if (image.src !== second.src) image.src = second.src;
    image.alt = second.alt;
    image.hidden = false;
    beside.hidden = other.parentElement.hidden = !compare.checked;
    sample.parentElement.classList.toggle("two", compare.checked);
    announce(shown, grids[shown.valueAsNumber].dataset.epoch);
    announce(other, second.dataset.epoch);
  }

  /** On a narrow screen, scrolls to the columns on the right, which change with the epoch. */
  function scrollToEnd() {
    for (const one of [sample, beside]) one.scrollLeft = one.scrollWidth;
  }
}
