// Resizing as jaxdistill does it: bilinear, by the centres of pixels, without antialiasing.
// An image is an ImageData; a mask is an array of bytes, 255 is a person.

/** Returns, along one axis, the two old pixels of each new one, and the share of the second. */
function axis(from, to) {
  const low = new Int32Array(to), high = new Int32Array(to), share = new Float32Array(to);
  for (let i = 0; i < to; i++) {
    const at = Math.min(Math.max(((i + 0.5) * from) / to - 0.5, 0), from - 1);
    low[i] = Math.floor(at);
    high[i] = Math.min(low[i] + 1, from - 1);
    share[i] = at - low[i];
  }
  return { low, high, share };
}

/** Returns the RGB bytes of an image at another size: the network's input. */
export function resizedRgb({ data, width, height }, rows, columns) {
  const x = axis(width, columns), y = axis(height, rows);
  const rgb = new Uint8Array(rows * columns * 3);
  let at = 0;
  for (let i = 0; i < rows; i++) {
    const top = y.low[i] * width, bottom = y.high[i] * width, down = y.share[i];
    for (let j = 0; j < columns; j++) {
      const left = x.low[j], right = x.high[j], across = x.share[j];
      for (let c = 0; c < 3; c++) {
        const a = data[4 * (top + left) + c], b = data[4 * (top + right) + c];
        const d = data[4 * (bottom + left) + c], e = data[4 * (bottom + right) + c];
        const above = a + (b - a) * across, below = d + (e - d) * across;
        rgb[at++] = above + (below - above) * down + 0.5;
      }
    }
  }
  return rgb;
}

// The sigmoid, as bytes, of logits between -LIMIT and LIMIT. The border of two entries is at zero,
// so that a byte is above 127 exactly where the logit is positive.
const LIMIT = 12, ENTRIES = 4096;
const SIGMOID = Uint8Array.from({ length: ENTRIES }, (_, i) =>
  Math.round(255 / (1 + Math.exp(LIMIT - (2 * LIMIT * (i + 0.5)) / ENTRIES))));

/** Returns the probabilities, as bytes, at the size of the image. Logits are resized, not
 * probabilities: their zero is the outline, which stays smooth. */
export function fullMask(logits, [rows, columns], width, height) {
  const { low, high, share } = axis(columns, width), y = axis(rows, height);
  const mask = new Uint8Array(width * height), line = new Float32Array(columns);
  const scale = ENTRIES / (2 * LIMIT);
  for (let i = 0, at = 0; i < height; i++) {
    const top = y.low[i] * columns, bottom = y.high[i] * columns, down = y.share[i];
    for (let j = 0; j < columns; j++) {
      const a = logits[top + j];
      line[j] = (a + (logits[bottom + j] - a) * down + LIMIT) * scale;
    }
    for (let j = 0; j < width; j++) {
      const a = line[low[j]], entry = a + (line[high[j]] - a) * share[j];
      mask[at++] = SIGMOID[entry < 0 ? 0 : entry < ENTRIES ? entry | 0 : ENTRIES - 1];
    }
  }
  return mask;
}
