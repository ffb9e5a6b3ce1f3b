// Without this script the page shows everything: every test grid, every step of a denoising.
"use strict";
const NAMES = ["black", "blue", "red", "green", "yellow", "grey", "pink", "orange", "light blue", "dark red"];
const COLOURS = {{ colours|tojson }};

// Colour of a cell: the image has one pixel a cell.
const canvas = document.createElement("canvas");
const context = canvas.getContext("2d", { willReadFrequently: true });
function colour(image, row, column) {
  if (row >= image.naturalHeight || column >= image.naturalWidth) return null;
  canvas.width = canvas.height = 1;
  context.drawImage(image, -column, -row);
  const [r, g, b] = context.getImageData(0, 0, 1, 1).data;
  return COLOURS.indexOf("#" + [r, g, b].map((part) => part.toString(16).padStart(2, "0")).join(""));
}
const text = (index) => `<i style="background:${COLOURS[index]}"></i>${index} ${NAMES[index]}`;

const tip = document.getElementById("tip");
function point(event) {
  const image = event.target.closest?.(".cells img");
  tip.hidden = !image;
  if (!image) return;
  const box = image.getBoundingClientRect();
  const column = Math.min(image.naturalWidth - 1, Math.floor(((event.clientX - box.left) / box.width) * image.naturalWidth));
  const row = Math.min(image.naturalHeight - 1, Math.floor(((event.clientY - box.top) / box.height) * image.naturalHeight));
  tip.innerHTML = `row ${row + 1}, column ${column + 1}: ${text(colour(image, row, column))}`;
  const role = image.closest("figure")?.dataset.role;
  const answer = role && role !== "answer" && image.closest("article").querySelector("[data-role=answer] img");
  const right = answer ? colour(answer, row, column) : null;
  if (right !== null) tip.innerHTML += `, answer ${text(right)}`;
  tip.style.left = Math.max(4, Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 4)) + "px";
  tip.style.top = (event.clientY > 60 ? event.clientY - 38 : event.clientY + 20) + "px";
}
for (const kind of ["pointermove", "pointerdown"]) addEventListener(kind, point);
addEventListener("scroll", () => (tip.hidden = true), { passive: true });

// Test grids: solved or missed, and by the beginning of their id.
const filter = document.querySelector(".filter");
function choose() {
  const show = filter.elements.show.value, task = filter.elements.task.value.trim().toLowerCase();
  let count = 0;
  for (const section of document.querySelectorAll(".cards")) {
    const wanted = show === "all" || show === section.id;
    let here = 0;
    for (const card of section.querySelectorAll("article")) {
      card.hidden = !(wanted && card.dataset.task.startsWith(task));
      here += !card.hidden;
    }
    section.hidden = !wanted || (task !== "" && here === 0);
    count += here;
  }
  filter.querySelector("output").textContent = `${count} shown`;
}
filter.hidden = false;
filter.addEventListener("input", choose);
filter.addEventListener("submit", (event) => event.preventDefault());
choose();

// A denoising, one step at a time.
for (const slider of document.querySelectorAll(".slider")) {
  const frames = slider.parentElement.querySelectorAll("[data-role=frame]");
  const input = slider.querySelector("input");
  const step = () => {
    frames.forEach((frame, index) => (frame.hidden = index !== Number(input.value)));
    slider.querySelector("output").textContent = frames[input.value].querySelector("figcaption").textContent;
  };
  slider.hidden = false;
  input.addEventListener("input", step);
  step();
}
