// The card of the student's speed.

/** Milliseconds of the last image, or averages over frames; frames per second. */
export const speed = {
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
    const total = Object.values(this.average).reduce((sum, value) => sum + value);
    document.getElementById("total").textContent = digits(total);
    const span = now - this.times[0];
    const rate = span ? digits((1000 * (this.times.length - 1)) / span) : "–";
    document.getElementById("rate").textContent = rate;
  },
};
