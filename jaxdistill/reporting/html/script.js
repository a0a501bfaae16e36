"use strict";

// Every value on the page is in the table of numbers: a row per epoch, its epoch in the first cell.
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

/** Shows the values of an epoch, given as a row's index, in every chart and its legend. */
function mark(index) {
  const slider = curves.elements.epoch;
  slider.value = index;
  tell(slider, epochs[index]);
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

/** The index of the epoch that lies nearest to a place on the screen. */
function nearest(svg, x) {
  const box = svg.querySelector(".plot").getBoundingClientRect();
  const wanted = epochs[0] + ((x - box.left) / box.width) * (epochs.at(-1) - epochs[0]);
  const distances = epochs.map((epoch) => Math.abs(epoch - wanted));
  return distances.indexOf(Math.min(...distances));
}

/** Writes an epoch beside its slider, and for those who hear it. */
function tell(slider, epoch) {
  slider.parentElement.querySelector("output").textContent = epoch;
  slider.setAttribute("aria-valuetext", `epoch ${epoch}`);
}

const sheet = document.querySelector(".sheet");
if (sheet && sheet.children.length > 1) {
  const sheets = [...sheet.children];
  const controls = document.querySelector("#samples fieldset");
  const { shown, compare, other } = controls.elements;
  const beside = sheet.cloneNode();
  beside.append(sheets[0].cloneNode());
  sheet.after(beside);
  for (const slider of [shown, other]) slider.max = sheets.length - 1;
  shown.value = shown.max;
  other.value = 0;
  controls.hidden = false;
  controls.addEventListener("input", show);
  compare.addEventListener("change", toChanging);
  show();
  toChanging();

  function show() {
    sheets.forEach((one, index) => { one.hidden = index !== shown.valueAsNumber; });
    const second = sheets[other.valueAsNumber];
    const picture = beside.firstChild;
    if (picture.src !== second.src) picture.src = second.src;
    picture.alt = second.alt;
    picture.hidden = false;
    beside.hidden = other.parentElement.hidden = !compare.checked;
    sheet.parentElement.classList.toggle("two", compare.checked);
    tell(shown, sheets[shown.valueAsNumber].dataset.epoch);
    tell(other, second.dataset.epoch);
  }

  /** On a narrow screen, scrolls to the columns on the right: those change with the epoch. */
  function toChanging() {
    for (const one of [sheet, beside]) one.scrollLeft = one.scrollWidth;
  }
}
